//! Whether what manifests and settings name is there: providers, of the agent and of budgets, and skills. A name that
//! nothing has would bind nothing, so that it must not pass as one that does.
//!
//! Looks at the home; decides nothing else about a launch.

use std::path::Path;

use super::skills;
use crate::api::Limit;
use crate::error::{Error, Kind, nearest};
use crate::home::Home;
use crate::manifest::{Agent, Bottle, Effective, Place, Said, Shelf};
use crate::name::Name;
use crate::provider;
use crate::settings::Settings;

/// Lists every name in manifests that nothing has, with its file and line.
pub fn unknown_names(merged: &Effective, home: &Home, user_home: Option<&Path>) -> Vec<Error> {
    let mut providers = provider::names(home);
    let mut faults = Vec::new();
    if let Some(template) = merged.template.as_ref().filter(|said| !providers.iter().any(|p| *p == said.value.as_str()))
    {
        faults.push(no_provider(template.value.as_str(), &template.place, &providers));
    }
    // What is charged may have a name of its own.
    let provider = merged.template.as_ref().and_then(|said| provider::load(said.value.as_str(), home).ok());
    providers.extend(provider.map(|provider| provider.budget_key().to_owned()));
    let budgets = merged.path.iter().filter_map(|node| node.budget.as_ref());
    faults.extend(budgets.flat_map(|budget| match merged.template {
        Some(_) => unknown_limits(budget, &providers),
        // The manifests that build on these say which provider.
        None => unknown_in_budget(Some(budget), home),
    }));
    let missing = merged.skills.iter().filter_map(|skill| skills::find(skill, home, user_home).err());
    faults.extend(missing);
    faults
}

/// Lists every name in one bottle's manifest that nothing has: parents, the provider, providers of its budget. What it comes to
/// with others is not looked at.
pub fn unknown_in_bottle(bottle: &Bottle, shelf: &Shelf, home: &Home) -> Vec<Error> {
    let mut faults = no_bottles(&bottle.extends, shelf);
    let providers = provider::names(home);
    let unknown = bottle.template.iter().filter(|said| !providers.iter().any(|p| *p == said.value.as_str()));
    faults.extend(unknown.map(|said| no_provider(said.value.as_str(), &said.place, &providers)));
    faults.extend(unknown_in_budget(bottle.budget.as_ref(), home));
    faults
}

/// As [`unknown_in_bottle`], of one agent's: its bottle, providers of its budget, skills.
pub fn unknown_in_agent(agent: &Agent, shelf: &Shelf, home: &Home, user_home: Option<&Path>) -> Vec<Error> {
    let mut faults = no_bottles(agent.bottle.as_slice(), shelf);
    faults.extend(unknown_in_budget(agent.budget.as_ref(), home));
    faults.extend(agent.skills.iter().filter_map(|skill| skills::find(skill, home, user_home).err()));
    faults
}

/// Lists every name in the budget of `settings.yml` that nothing has, with its line.
pub fn unknown_in_settings(settings: &Settings, home: &Home) -> Vec<Error> {
    let (unknown, known) = not_charged(&settings.budget, home);
    let place = |name: &str| match settings.budget_lines.get(name) {
        Some(line) => format!("settings.yml:{line}"),
        None => "settings.yml".to_owned(),
    };
    unknown.iter().map(|name| unknown_provider(name, place(name), &known)).collect()
}

/// Gets the names in limits that no provider has or is charged as, and those that they have and are.
fn not_charged(limits: &[Limit], home: &Home) -> (Vec<String>, Vec<String>) {
    let mut known = provider::names(home);
    let unknown = |known: &[String]| -> Vec<String> {
        let names = limits.iter().map(|limit| limit.provider.clone());
        names.filter(|name| name != "*" && !known.contains(name)).collect()
    };
    if !unknown(&known).is_empty() {
        // What a provider is charged as may be a name of its own; its file, which is run for that, tells.
        let keys = known.iter().filter_map(|name| provider::load(name, home).ok()).map(|p| p.budget_key().to_owned());
        let keys: Vec<String> = keys.collect();
        known.extend(keys);
        known.sort();
        known.dedup();
    }
    (unknown(&known), known)
}

fn unknown_in_budget(budget: Option<&Said<Vec<Limit>>>, home: &Home) -> Vec<Error> {
    let Some(budget) = budget else { return Vec::new() };
    let (unknown, known) = not_charged(&budget.value, home);
    unknown.iter().map(|name| no_provider(name, &budget.place, &known)).collect()
}

fn no_bottles(names: &[Said<Name>], shelf: &Shelf) -> Vec<Error> {
    let missing = |said: &Said<Name>| Some(shelf.has_bottle(said.value.as_str()).err()?.at(said.place.to_string()));
    names.iter().filter_map(missing).collect()
}

fn unknown_limits(budget: &Said<Vec<Limit>>, providers: &[String]) -> Vec<Error> {
    let unknown = |limit: &&Limit| limit.provider != "*" && !providers.contains(&limit.provider);
    budget.value.iter().filter(unknown).map(|limit| no_provider(&limit.provider, &budget.place, providers)).collect()
}

fn no_provider(name: &str, place: &Place, providers: &[String]) -> Error {
    unknown_provider(name, place.to_string(), providers)
}

fn unknown_provider(name: &str, place: String, providers: &[String]) -> Error {
    let hint = match nearest(name, providers.iter().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("providers are: {}", providers.join(", ")),
    };
    Error::new(Kind::UnknownKey, format!("`{name}` is no provider")).at(place).hint(hint)
}

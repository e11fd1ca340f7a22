//! From what somebody chose (an agent, bottles, a prompt) to a launch: manifests are merged, references are resolved, and
//! everything that would hold is laid out before anything happens.
//!
//! * [`Choice`]: what was chosen. [`Draft`]: what comes of it: the launch, and what a preflight shows of it.
//! * [`preflight`]: the rows of a preflight. [`skills`]: what an agent has been taught. [`routes`]: its allow-list.
//!   [`machine`]: backend, image, limits and workspace. [`env`](mod@env): its environment.
//!
//! Runs in the front end, whose environment has the credentials. Must not start, write or ask anything: questions are
//! handed to whoever can ask.

mod budget;
mod env;
mod known;
mod machine;
mod preflight;
mod routes;
mod skills;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use budget::{governed, limits_of_flags};
pub use known::{unknown_in_agent, unknown_in_bottle, unknown_in_settings, unknown_names};
pub use preflight::Row;

use serde::{Deserialize, Serialize};

use crate::api::{self, BudgetNode, BudgetScope, Limit, Mount, Session, Upstream, WorkspaceMode};
use crate::bottle::AGENT_HOME;
use crate::bottle::backend::Choice as Backend;
use crate::bottle::places::{Forbidden, check_target};
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::image::Wanted;
use crate::manifest::{Effective, Origin, Shelf, effective};
use crate::name::Name;
use crate::provider::{self, OutputForm, Search, Wish};
use crate::settings::{Settings, Sources};
use crate::types::{Book, CutScope, CutoffPolicy};
use crate::yaml::read::joined;

/// The names of the sixteen ANSI colours (ECMA-48 SGR 30 to 37 and 90 to 97).
pub const COLORS: [&str; 16] = [
    "black",
    "red",
    "green",
    "yellow",
    "blue",
    "magenta",
    "cyan",
    "white",
    "bright-black",
    "bright-red",
    "bright-green",
    "bright-yellow",
    "bright-blue",
    "bright-magenta",
    "bright-cyan",
    "bright-white",
];

/// What somebody chose. As JSON it is what a kept session remembers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Choice {
    /// The agent's manifest.
    pub agent: Option<String>,
    /// Bottle manifests in merge order; the agent's own when empty.
    pub bottles: Vec<String>,
    /// Wanted name; the agent's when absent.
    pub label: Option<String>,
    /// One of [`COLORS`].
    pub color: Option<String>,
    /// The task, word for word.
    pub prompt: Option<String>,
    /// More arguments for the agent's CLI.
    pub args: Vec<String>,
    /// What it prints.
    pub output: OutputForm,
    /// Its own interface at a terminal, in place of one task.
    pub interactive: bool,
    /// Limits of this bottle.
    pub budget: Vec<Limit>,
    /// It is killed after this many milliseconds.
    pub timeout_ms: Option<u64>,
    /// Works on a copy of the directory.
    pub copy: bool,
    /// How the directory comes in, over what manifests say.
    pub workspace_mode: Option<WorkspaceMode>,
    /// The directory; the one that somebody stands in when absent.
    pub directory: Option<PathBuf>,
    /// What makes the sandbox, over what manifests and settings say.
    pub backend: Option<String>,
    /// Answers to the questions of `env`, by variable.
    pub answers: BTreeMap<String, String>,
    /// The kept bottle that is taken up.
    pub resume: Option<String>,
    /// It plays in a rehearsal. Only remembered.
    pub rehearsal: bool,
}

/// What a draft is made with: whose files, whose environment.
pub struct Desk<'a> {
    /// The home.
    pub home: &'a Home,
    /// Where manifests lie.
    pub shelf: &'a Shelf,
    /// `$HOME`.
    pub user_home: Option<&'a Path>,
    /// The directory that the agent is to work in.
    pub cwd: &'a Path,
    /// The environment.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
    /// The names that a rehearsal stands in for; `None` = this is none.
    pub stage: Option<BTreeMap<String, Upstream>>,
}

/// A question that a manifest wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Question {
    /// The variable that gets the answer.
    pub name: String,
    /// What is asked.
    pub text: String,
    /// The file and line that wants it.
    pub place: String,
}

/// A launch that could be made, and what it was made of.
#[derive(Debug)]
pub struct Draft {
    /// What would be sent, less its id, its run and its lease. Its credentials are secrets.
    pub launch: api::Launch,
    /// What the manifests come to.
    pub merged: Effective,
    /// What is to be asked before it can be launched.
    pub questions: Vec<Question>,
    /// What is said and does nothing yet, or counts for nothing: a sentence each.
    pub warnings: Vec<String>,
    /// The limits of the host.
    pub global: Vec<Limit>,
    /// What happens when a budget is spent, where no manifest says.
    pub host_shutdown: CutoffPolicy,
    /// What a cut takes away, where no manifest says.
    pub host_scope: CutScope,
    /// What is run, found on this machine.
    pub exe: Option<PathBuf>,
    /// Names of credentials and where they come from.
    pub credentials: Vec<String>,
    /// Credentials that a command gives once the launch is made, and the names that `sources` has them under.
    pub later: BTreeMap<String, String>,
    /// Where the host's settings say that credentials lie.
    pub sources: Sources,
    /// What the bottle is made of, where a container engine makes it.
    pub image: Option<Wanted>,
}

/// Drafts the launch of a choice.
///
/// # Errors
/// Everything that is wrong with a manifest, joined into one error; `usage`, `agent_missing`, `credential_missing`; what
/// cannot be enforced yet is refused.
pub fn draft(choice: &Choice, desk: &Desk<'_>) -> Result<Draft> {
    let bottles = choice.bottles.iter().map(|name| named(name, "--bottle")).collect::<Result<Vec<_>>>()?;
    let merged = effective(desk.shelf, choice.agent.as_deref(), &bottles).map_err(joined)?;
    let settings = Settings::load(desk.home).map_err(joined)?;
    refuse_what_nothing_enforces(&merged)?;
    let mut unknown = unknown_names(&merged, desk.home, desk.user_home);
    unknown.extend(unknown_in_settings(&settings, desk.home));
    if !unknown.is_empty() {
        return Err(joined(unknown));
    }
    if let Some(color) = choice.color.as_deref().filter(|c| !COLORS.contains(c)) {
        let near = crate::error::nearest(color, COLORS).map_or_else(
            || format!("colours are: {}", COLORS.join(", ")),
            |near| format!("did you mean `{near}`? colours are: {}", COLORS.join(", ")),
        );
        return Err(Error::new(Kind::Usage, format!("`{color}` is no colour's name")).at("--color").hint(near));
    }
    let template = merged.template.as_ref().ok_or_else(|| {
        Error::new(Kind::Usage, "no manifest says which provider runs the agent")
            .at(merged.folded.last().map_or_else(String::new, |name| format!("bottle {name}")))
            .hint("write `agent_provider: {template: claude}` in the bottle's manifest")
    })?;
    let provider = provider::load(template.value.as_str(), desk.home).map_err(|e| match e.place {
        None => e.at(template.place.to_string()),
        Some(_) => e,
    })?;
    let backend = machine::backend_of(choice, &merged, &settings, desk)?;
    let image = machine::image_of(backend, &merged, &settings, template.value.as_str(), desk)?;
    let exe = provider.found().filter(|_| backend == Backend::Linux);
    let skills = skills::collect(&merged.skills, desk.home, desk.user_home)?;
    let wish = Wish {
        prompt: choice.prompt.clone(),
        args: choice.args.clone(),
        output: choice.output,
        rehearsal: desk.stage.is_some(),
        interactive: choice.interactive,
        instructions: instructions(&merged.prompt),
        resume: choice.resume.is_some(),
        in_image: backend == Backend::Docker,
        auth_token: merged.auth_token.as_ref().map(|said| said.value.clone()),
        sources: settings.credentials.clone().for_user(desk.user_home),
        ..Wish::default()
    };
    let plan = provider.plan(&wish, desk.lookup)?;
    let mut allow = routes::allow_list(&merged, &provider, &plan, &wish.sources, desk)?;
    let search = Search { lookup: desk.lookup, sources: &wish.sources, rehearsal: desk.stage.is_some() };
    allow.names.extend(search.put_upstream_proxy(settings.upstream_proxy.as_ref(), &mut allow.credentials)?);
    let (mut env, questions) = env::variables(&merged, choice, desk)?;
    env::refuse_secrets(&merged, &env, &provider.credential_variables(), &allow.credentials.values)?;
    let mut all_env = plan.env.clone();
    all_env.append(&mut env);
    env::identity(&merged, &mut all_env);
    let mut files = plan.files.clone();
    files.extend(skills.into_iter().map(|skill| skill.at(plan.skills.as_deref())));
    let mut warnings = desk.shelf.warnings();
    warnings.extend(not_served(&merged));
    // What a repository's agent may do, its own file has said; whoever starts it unseen is to know.
    if let (Some((name, Origin::Repository)), true) = (&merged.agent, choice.bottles.is_empty()) {
        let bottles = merged.bottles.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        warnings
            .push(format!("agent {name} of this repository chose the bottle {bottles} itself; --bottle says another"));
    }
    let own = |host: &str| plan.routes.iter().any(|route| route.host == host);
    warnings.extend(merged.routes.iter().filter(|said| own(&said.value.allow.host)).map(|said| {
        format!("{}: the provider's own route to {} holds, not this one", said.place, said.value.allow.host)
    }));
    let mode = machine::mode_of(choice, &merged, backend, desk, &mut warnings);
    // An image has its own.
    if backend == Backend::Linux {
        machine::missing_tools(&merged, desk)?;
    }
    let places = Forbidden::of(desk.home, desk.user_home.map(Path::to_owned))
        .and(wish.sources.files())
        .and(allow.credentials.login_files())
        .and_run(wish.sources.programs());
    check_target(&places.check_writable(desk.cwd)?)?;
    for mount in &merged.mounts {
        let source = at_home(&mount.value.source, desk.user_home);
        let path = Path::new(&source);
        let shown = if mount.value.rw { places.check_writable(path) } else { places.check(path) };
        let target = mount.value.target.as_ref().map(|target| at_home(target, Some(Path::new(AGENT_HOME))));
        shown
            .and_then(|_| check_target(Path::new(target.as_ref().unwrap_or(&source))))
            .map_err(|e| e.at(format!("{}: {source}", mount.place)))?;
    }
    let mounts = merged.mounts.iter().map(|mount| Mount {
        source: at_home(&mount.value.source, desk.user_home),
        // In the bottle, `~` is the agent's.
        target: mount.value.target.as_ref().map(|target| at_home(target, Some(Path::new(AGENT_HOME)))),
        rw: mount.value.rw,
    });
    let nodes = merged.path.iter().map(|node| {
        let limits = node.budget.as_ref().map(|said| said.value.clone()).unwrap_or_default();
        let scope = if node.scope == "agent" { BudgetScope::Agent } else { BudgetScope::Manifest };
        BudgetNode { scope, name: node.name.to_string(), limits }
    });
    let agent = merged.agent.as_ref().map(|(name, _)| name.to_string());
    let launch = api::Launch {
        label: choice.label.clone().or_else(|| agent.clone()).unwrap_or_else(|| plan.provider.clone()),
        book: if desk.stage.is_some() { Book::Rehearsal } else { Book::Real },
        provider: plan.budget_key.clone(),
        count_tokens: plan.counted_by,
        agent,
        argv: plan.argv.clone(),
        env: all_env,
        files,
        workspace: Some(desk.cwd.display().to_string()),
        workspace_mode: Some(mode),
        backend: Some(backend.as_str().to_owned()),
        image: image.as_ref().map(|image| image.name().to_owned()),
        engine: (desk.lookup)("DOCKER_HOST").filter(|_| backend == Backend::Docker),
        limits: machine::limits_of(&merged),
        resume: choice.resume.clone(),
        mounts: mounts.collect(),
        routes: allow.routes,
        proxy: merged.proxy.as_ref().is_some_and(|said| said.value),
        origins: allow.origins,
        credentials: allow.credentials.values.clone(),
        logins: allow.credentials.logins.clone(),
        budget: choice.budget.clone(),
        nodes: nodes.collect(),
        color: choice.color.clone(),
        shutdown: merged.shutdown.as_ref().map(|said| said.value),
        cutoff_scope: merged.cutoff_scope.as_ref().map(|said| said.value),
        timeout_ms: choice.timeout_ms,
        upstreams: desk.stage.clone().unwrap_or_default(),
        host_path: (desk.lookup)("PATH"),
        ..api::Launch::default()
    };
    let mut draft = Draft {
        launch,
        merged,
        questions,
        warnings,
        global: Vec::new(),
        host_shutdown: settings.shutdown,
        host_scope: settings.cutoff_scope,
        exe,
        credentials: allow.names,
        later: allow.credentials.later,
        sources: wish.sources,
        image,
    };
    if !plan.transcript.is_empty() {
        let remembered = Choice {
            directory: Some(desk.cwd.to_owned()),
            // By name, so that an agent's file which has changed since cannot choose others.
            bottles: draft.merged.bottles.iter().map(ToString::to_string).collect(),
            // What was typed at a terminal may be a secret; it is asked again.
            answers: BTreeMap::new(),
            rehearsal: desk.stage.is_some(),
            workspace_mode: draft.launch.workspace_mode,
            resume: None,
            ..choice.clone()
        };
        let choice = serde_json::to_value(remembered).map_err(|e| Error::internal(e.to_string()))?;
        draft.launch.session = Some(Session { keep: plan.transcript.clone(), choice, held: Vec::new() });
        let held = draft.held();
        draft.launch.session.iter_mut().for_each(|session| session.held.clone_from(&held));
    }
    draft.global = if desk.stage.is_some() { Vec::new() } else { settings.budget };
    Ok(draft)
}

impl Draft {
    /// Gets the launch with the credentials that commands gave.
    ///
    /// # Errors
    /// `usage` where a manifest would put one of them into the bottle.
    pub fn with(&self, given: &api::Credentials) -> Result<api::Launch> {
        env::refuse_secrets(&self.merged, &self.launch.env, &[], given)?;
        let mut launch = self.launch.clone();
        launch.credentials.extend(given.iter().map(|(name, value)| (name.clone(), value.clone())));
        Ok(launch)
    }

    /// Checks that the bottle may start as it is: nothing is left to ask, and that no budget governs it was said aloud.
    /// `told` = somebody at a terminal sees the preflight.
    ///
    /// # Errors
    /// `usage`, with what to write.
    pub fn ready(&self, told: bool) -> Result<()> {
        if let Some(question) = self.questions.first() {
            let message = format!("`{}` is to be asked at a terminal: {}", question.name, question.text);
            return Err(Error::new(Kind::Usage, message).at(question.place.clone()).hint(format!(
                "start it at a terminal, or write `{}: \"${{{}}}\"` and set that",
                question.name, question.name
            )));
        }
        let rehearsal = self.launch.book == Book::Rehearsal;
        if told || rehearsal || governed(&self.launch, &self.global) {
            return Ok(());
        }
        Err(Error::new(Kind::Usage, "no budget governs this bottle, and nobody is there to be told")
            .hint("give it --budget 200k, or say --budget unlimited aloud"))
    }
}

fn named(name: &str, place: &str) -> Result<Name> {
    Name::parse(name).map_err(|e| Error::new(Kind::Usage, e.to_string()).at(place).hint(crate::name::HINT))
}

/// Gets what the agent is told before its task, if anything.
fn instructions(body: &str) -> Option<String> {
    Some(body.trim().to_owned()).filter(|text| !text.is_empty())
}

/// What would have to be enforced and is not is refused: a bottle that is less safe than its manifest says must not start.
fn refuse_what_nothing_enforces(merged: &Effective) -> Result<()> {
    let refused = |place: String, what: &str, hint: &str| {
        Err(Error::new(Kind::Usage, format!("{what} cannot be enforced yet")).at(place).hint(hint))
    };
    if let Some(policy) = merged.policies.first() {
        return refused(policy.place.to_string(), "`policies`", "take it out; budgets and `shutdown` hold without it");
    }
    if let Some(route) = merged.routes.iter().find(|route| route.value.dlp.is_some()) {
        return refused(route.place.to_string(), "`dlp`", "take it out, or allow less of the host with `matches`");
    }
    Ok(())
}

/// What is said and does nothing yet, without making anything less safe.
fn not_served(merged: &Effective) -> Vec<String> {
    let mut warnings = Vec::new();
    if merged.supervise.as_ref().is_some_and(|said| said.value) {
        warnings.push("`supervise: true` does nothing yet: the agent cannot make proposals".to_owned());
    }
    if !merged.git_gate.repos.is_empty() {
        warnings.push("`git-gate.repos` does nothing yet: the agent cannot push".to_owned());
    }
    warnings
}

/// Writes a path of a manifest as the host has it.
fn at_home(path: &str, user_home: Option<&Path>) -> String {
    match (path.strip_prefix("~/"), user_home) {
        (Some(rest), Some(home)) => home.join(rest).display().to_string(),
        _ => path.to_owned(),
    }
}

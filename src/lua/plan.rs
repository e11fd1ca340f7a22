//! `bb.plan`: a launch by manifests that was drafted and can be looked at before it is made. One primitive a step: no
//! function here chains two of them.

use std::collections::BTreeMap;
use std::rc::Rc;

use mlua::{Lua, Value};
use serde::{Deserialize, Serialize};

use super::attach;
use super::credentials::fetch;
use super::grants::Grant;
use super::host::Host;
use super::images;
use super::launch::{Launched, launched};
use super::manifest::{cwd, user_home};
use super::rehearse::stage;
use super::values::{Budget, Span, options};
use super::vm::Plain;
use crate::api::{self, Account, Counted, WorkspaceMode};
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::launch::{self, Choice, Desk, Draft, Question, Row};
use crate::manifest::Shelf;
use crate::provider::OutputForm;
use crate::terminal;
use crate::types::Book;

const CALL: &str = "bb.plan";

/// Most plans of a recipe.
const MOST: usize = 10_000;

/// The options of `bb.plan`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    agent: Option<String>,
    bottles: Vec<String>,
    label: Option<String>,
    color: Option<String>,
    prompt: Option<String>,
    args: Vec<String>,
    output: Option<OutputForm>,
    interactive: bool,
    budget: Option<Budget>,
    timeout: Option<Span>,
    copy: bool,
    backend: Option<String>,
    workspace_mode: Option<WorkspaceMode>,
    answers: BTreeMap<String, String>,
    resume: Option<String>,
    uncut: bool,
}

/// What is different from when a kept bottle was started.
#[derive(Serialize)]
struct Difference {
    key: String,
    before: Option<String>,
    now: Option<String>,
}

/// What the prelude makes a plan of.
#[derive(Serialize)]
pub(super) struct Planned {
    id: usize,
    label: String,
    provider: String,
    bottles: Vec<String>,
    questions: Vec<Question>,
    warnings: Vec<String>,
    /// What is different from when the bottle that is taken up was started.
    changes: Vec<Difference>,
    interactive: bool,
}

/// `bb.plan{...}`: drafts a launch. Nothing is started.
pub(super) async fn plan(lua: Lua, host: Rc<Host>, value: Value) -> Result<Plain<Planned>> {
    host.grants.need(&Grant::Start, CALL)?;
    let options: Options = options(&lua, CALL, value)?;
    if let Some(budget) = &options.budget {
        budget.check_providers(CALL, &crate::provider::names(&host.home))?;
    }
    let kept = match &options.resume {
        Some(slug) => Some(kept(&host, slug).await?),
        None => None,
    };
    let said_budget = options.budget.is_some();
    let mut choice = Choice {
        agent: options.agent,
        bottles: options.bottles,
        label: options.label,
        color: options.color,
        prompt: options.prompt,
        args: options.args,
        output: options.output.unwrap_or_default(),
        interactive: options.interactive,
        budget: options.budget.map(|budget| budget.0).unwrap_or_default(),
        timeout_ms: options.timeout.map(|Span(span)| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        copy: options.copy,
        backend: options.backend,
        workspace_mode: options.workspace_mode,
        directory: None,
        answers: options.answers,
        resume: None,
        rehearsal: false,
    };
    if let Some(kept) = &kept {
        choice = again(kept.choice.clone(), choice);
    }
    let user_home = user_home();
    let cwd = match &choice.directory {
        Some(directory) => directory.clone(),
        None => cwd()?,
    };
    let shelf = Shelf::open(&host.home, user_home.as_deref(), &cwd);
    let desk = Desk {
        home: &host.home,
        shelf: &shelf,
        user_home: user_home.as_deref(),
        cwd: &cwd,
        lookup: &|name| std::env::var(name).ok(),
        stage: stage(&host)?.map(super::rehearse::Stage::upstreams),
    };
    let mut draft = launch::draft(&choice, &desk).map_err(|e| match &options.resume {
        // What it was started with is gone.
        Some(slug) if e.kind == Kind::Usage && e.message.starts_with("there is no ") => {
            e.hint(format!("put it back; until then `{slug}` stays kept"))
        }
        _ => e,
    })?;
    let mut changes = Vec::new();
    if let Some(kept) = kept {
        changes = differences(&kept.held, &draft.held());
        draft.launch.budget_anew = said_budget;
        draft.launch.uncut = options.uncut;
        draft.launch.counted = kept.counted;
    }
    let mut plans = host.plans.borrow_mut();
    if plans.len() >= MOST {
        return Err(Error::new(Kind::Usage, format!("{CALL}: more than {MOST} plans in one run")));
    }
    let planned = Planned {
        id: plans.len(),
        label: draft.launch.label.clone(),
        provider: draft.launch.provider.clone(),
        bottles: draft.merged.bottles.iter().map(ToString::to_string).collect(),
        questions: draft.questions.clone(),
        warnings: draft.warnings.clone(),
        changes,
        interactive: choice.interactive,
    };
    plans.push(Rc::new(draft));
    Ok(Plain(planned))
}

/// What a headless session is told that is taken up without a new task.
const GO_ON: &str = "Continue where you left off.";

/// A bottle that is taken up again.
struct Before {
    choice: Choice,
    held: Vec<(String, String)>,
    counted: Option<Counted>,
}

/// Reads what was chosen for a kept bottle, and what held for it.
async fn kept(host: &Host, slug: &str) -> Result<Before> {
    let api::Kept { slug, session, counted } = host.client().await?.session(slug).await?;
    let choice: Choice = serde_json::from_value(session.choice).map_err(|e| {
        Error::new(Kind::Usage, format!("what was chosen for `{slug}` cannot be read: {e}"))
            .hint(format!("start it anew; `bb rm {slug}` removes what is kept"))
    })?;
    if let Some(directory) = choice.directory.as_ref().filter(|directory| !directory.is_dir()) {
        return Err(Error::new(Kind::WorkspaceUnsafe, format!("the workspace of `{slug}` is gone"))
            .at(directory.display().to_string())
            .hint(format!("put the directory back; what is kept stays until `bb rm {slug}`")));
    }
    if choice.rehearsal != (host.book.get() == Book::Rehearsal) {
        let (was, hint) = match choice.rehearsal {
            true => ("a rehearsal", format!("bb resume {slug} --rehearse")),
            false => ("no rehearsal", format!("bb resume {slug} without --rehearse")),
        };
        return Err(Error::new(Kind::Usage, format!("`{slug}` was {was}")).hint(hint));
    }
    let label = choice.label.clone().or(Some(slug.clone()));
    Ok(Before { choice: Choice { resume: Some(slug), label, ..choice }, held: session.held, counted })
}

/// Takes up a choice: what is said now goes before what was said then. What it may do is read anew from the manifests.
fn again(before: Choice, now: Choice) -> Choice {
    let prompt = match now.prompt {
        None if !now.interactive => Some(GO_ON.to_owned()),
        prompt => prompt,
    };
    let budget = if now.budget.is_empty() { before.budget } else { now.budget };
    Choice {
        prompt,
        interactive: now.interactive,
        budget,
        timeout_ms: now.timeout_ms.or(before.timeout_ms),
        answers: before.answers.into_iter().chain(now.answers).collect(),
        ..before
    }
}

/// Gets what is different, row by row; of a key with several rows those that are only on one side.
fn differences(before: &[(String, String)], now: &[(String, String)]) -> Vec<Difference> {
    let only = |these: &[(String, String)], those: &[(String, String)]| -> Vec<(String, String)> {
        these.iter().filter(|row| !those.contains(row)).cloned().collect()
    };
    let (gone, come) = (only(before, now), only(now, before));
    let gone = gone.into_iter().map(|(key, value)| Difference { key, before: Some(value), now: None });
    let come = come.into_iter().map(|(key, value)| Difference { key, before: None, now: Some(value) });
    let mut all: Vec<Difference> = gone.chain(come).collect();
    all.sort_by(|a, b| a.key.cmp(&b.key));
    all
}

fn planned(host: &Host, id: usize) -> Result<Rc<Draft>> {
    host.plans.borrow().get(id).cloned().ok_or_else(|| Error::internal("there is no such plan"))
}

/// `plan:preflight()`: everything that would hold, as rows.
pub(super) async fn preflight(_: Lua, host: Rc<Host>, id: usize) -> Result<Plain<Vec<Row>>> {
    let draft = planned(&host, id)?;
    let accounts = accounts(&host, &draft).await;
    let mut rows = draft.rows(accounts.as_deref());
    if let Some(wanted) = draft.image.clone() {
        let need = images::need(wanted, draft.launch.engine.clone()).await;
        for row in rows.iter_mut().filter(|row| row.key == "image") {
            row.value.push_str(need.words());
        }
    }
    Ok(Plain(rows))
}

/// Gets how the budgets on a draft's path stand, without making anything: where there is no ledger yet, nothing was used,
/// and where no controller runs, none is started.
async fn accounts(host: &Host, draft: &Draft) -> Option<Vec<Account>> {
    let ledger = match draft.launch.book {
        Book::Real => host.home.ledger(),
        Book::Rehearsal => host.home.rehearsal_ledger(),
    };
    if !ledger.exists() {
        return Some(Vec::new());
    }
    let nodes = draft.launch.nodes_of_its_own().into_iter().chain([crate::ledger::GLOBAL.to_owned()]);
    let client = Client::connect(&host.home).await.ok()?;
    let mut all = Vec::new();
    for node in nodes {
        all.extend(match &client {
            Some(client) => client.budgets(draft.launch.book, Some(&node)).await.ok()?,
            None => crate::ledger::sqlite::accounts_in(&ledger, &node).await.ok()?,
        });
    }
    Some(all)
}

/// `plan:ready{told = true}`: whether it may be launched as it is.
pub(super) fn ready(_: &Lua, host: &Rc<Host>, (id, told): (usize, bool)) -> Result<()> {
    planned(host, id)?.ready(told && host.terminal)
}

/// The options of `plan:launch`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LaunchOptions {
    detach: bool,
    told: bool,
    /// Standard input is the agent's, by `bottle:attach`.
    input: bool,
}

/// `plan:launch{...}`: launches it; returns when its agent runs.
pub(super) async fn launch_plan(lua: Lua, host: Rc<Host>, (id, value): (usize, Value)) -> Result<Plain<Launched>> {
    let options: LaunchOptions = options(&lua, "plan:launch", value)?;
    let draft = planned(&host, id)?;
    draft.ready(options.told && host.terminal)?;
    let mut launch = draft.with(&fetch(&draft.later, &draft.sources).await?)?;
    if let Some(wanted) = draft.image.clone() {
        images::ready(&host, wanted, draft.launch.engine.clone(), false).await?;
    }
    let link = host.link().await?;
    launch.id = uuid::Uuid::now_v7().to_string();
    launch.run = Some(host.run_id.clone());
    launch.lease = (!options.detach).then(|| host.run_id.clone());
    launch.input = options.input && !options.detach && !attach::has_terminal(&host) && attach::has_input();
    if attach::has_terminal(&host) {
        launch.terminal = Some(terminal::size().unwrap_or_default().usable());
        for (name, value) in terminal::environment() {
            launch.env.entry(name).or_insert(value);
        }
    }
    let label = launch.label.clone();
    let since = host.pump.position();
    let bottle = link.client.launch(&launch).await.map_err(|error| match (error.kind, &launch.resume) {
        // The controller does not know what was written where.
        (Kind::Budget, None) => {
            error.hint("give it more: --budget 200k, bb budget raise, or `budget:` in its manifest or in settings.yml")
        }
        _ => error,
    })?;
    let launched = launched(&host, &bottle, label, since);
    if let Some(kept) = host.bottles.borrow_mut().get_mut(&bottle.slug) {
        (kept.session, kept.input) = (launch.session.is_some(), launch.input);
    }
    Ok(Plain(launched))
}

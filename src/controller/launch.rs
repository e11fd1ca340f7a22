//! Launching: from a request on the socket to an agent that runs.
//!
//! Nothing of a bottle runs before its way out, its budget and its row stand. A launch that fails leaves nothing.

mod go_on;
mod slug;
mod up;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

pub use up::Sealed;
pub(super) use up::{Terms, agent_code};

use super::compose::{self, Composed};
use super::note::Note;
use super::{Controller, keep, ledger_error, logins};
use crate::api::{Bottle, Egress, Ended, Launch, Limit, State};
use crate::bottle::cgroup;
use crate::bottle::output::now_ms;
use crate::egress::{self, ca::Ca};
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::ledger::{BottleRow, GLOBAL, Ledger, Node};
use crate::types::CutScope;

/// Id of the agent's own exec.
pub const AGENT: &str = "agent";

/// Tells a launch that whoever asked for it is gone: by being dropped.
#[derive(Default)]
struct HangUp(Arc<AtomicBool>);

impl Drop for HangUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn internal(e: impl std::fmt::Display) -> Error {
    Error::internal(e.to_string())
}

impl Controller {
    /// Launches a bottle, or answers with the one that this id has launched before. That is done to its end: a front end that
    /// hangs up must not leave a bottle half made. Only a copy of the workspace that is being made then is given up.
    ///
    /// # Errors
    /// `budget` where it would start with nothing left, and everything that composing and building can say.
    pub async fn launch(self: &Arc<Self>, launch: Launch) -> Result<Bottle> {
        let hang_up = HangUp::default();
        let (controller, given_up) = (Arc::clone(self), Arc::clone(&hang_up.0));
        tokio::spawn(async move { controller.launch_in_turn(launch, &given_up).await }).await.map_err(internal)?
    }

    async fn launch_in_turn(self: &Arc<Self>, launch: Launch, given_up: &AtomicBool) -> Result<Bottle> {
        if launch.id.is_empty() || launch.id.len() > 64 {
            return Err(Error::new(Kind::Usage, "a launch needs an id of at most 64 characters"));
        }
        refuse_times(&launch.budget, "budget")?;
        self.ready().await;
        let turn = {
            let mut launching = self.launching.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(launching.entry(launch.id.clone()).or_default())
        };
        let _turn = turn.lock().await;
        if let Some(known) = self.all().into_iter().find(|b| b.launch.id == launch.id) {
            return Ok(known.view());
        }
        let id = launch.id.clone();
        let result = self.launch_once(launch, given_up).await;
        self.launching.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        result
    }

    async fn launch_once(self: &Arc<Self>, mut launch: Launch, given_up: &AtomicBool) -> Result<Bottle> {
        let settings = self.settings()?;
        tokio::task::block_in_place(|| logins::settle(&mut launch))?;
        let found = || Some(crate::bottle::backend::found(&self.host.home).as_str().to_owned());
        launch.backend = launch.backend.or_else(|| settings.backend.clone()).or_else(found);
        launch.image = launch.image.or_else(|| settings.image.clone());
        let ledger = self.ledger(launch.book).await?;
        let place = self.host.home.ledger();
        let fail = |e| ledger_error(&e, &place);
        if launch.book == crate::types::Book::Real {
            self.set_host_budget(&settings).await?;
        }
        if let Some(row) = ledger.bottle(&launch.id).await.map_err(fail)? {
            let known: Bottle = serde_json::from_str(&row.body).map_err(internal)?;
            // Launched by an earlier controller, and ended since. One that never started may be tried again.
            if known.state != State::Ended {
                return Err(Error::new(Kind::Timeout, format!("the keeper of `{}` does not answer", known.slug))
                    .hint("it is asked again every 2 s; `bb controller logs` tells more"));
            }
            if known.ended != Some(Ended::StartFailed) {
                return Ok(known);
            }
        }
        let cut = self.go_on(&mut launch, &ledger).await?;
        let path = budget_path(&launch);
        if !launch.budget.is_empty() {
            ledger.set_limits(&path[0], launch.budget.clone()).await.map_err(fail)?;
        }
        let counted = launch.counted();
        for (node, limits) in launch.nodes.iter().flat_map(|node| node.limits_by_node(&counted.nodes)) {
            // What nobody knows yet has no limit that could be taken away.
            if !limits.is_empty() || !node.ends_with(&format!("@{}", launch.id)) {
                ledger.set_limits(&node, limits).await.map_err(fail)?;
            }
        }
        if let Some(spent) = ledger.spent(path.clone(), &launch.provider).await.map_err(fail)? {
            let hint = match launch.resume {
                Some(_) => go_on::GIVE_MORE,
                None => {
                    "give it more: `bb budget raise`, `budget =` in the launch, bb.budget.set in the recipe, `budget:` in settings.yml"
                }
            };
            let mut message = egress::spent::sentence(&spent);
            if spent.resets.is_some() {
                message = format!("{message}. {}", egress::spent::resets(&spent).trim_end_matches('.'));
            }
            return Err(Error::new(Kind::Budget, message).at(spent.node).hint(hint));
        }
        let cut = go_on::lifted(cut, &ledger, &path, &launch.provider).await.map_err(fail)??;
        let slug = match &launch.resume {
            Some(kept) => self.take_up(kept)?,
            None => self.choose_slug(&launch.label)?,
        };
        let _making = self.making.of(&slug);
        let resumes = launch.resume.is_some();
        let mut view = Bottle {
            slug: slug.clone(),
            id: launch.id.clone(),
            provider: launch.provider.clone(),
            agent: launch.agent.clone().unwrap_or_else(|| launch.provider.clone()),
            run: launch.run.clone(),
            book: launch.book,
            state: State::Planned,
            ended: None,
            egress: Egress::Closed,
            exit_code: None,
            reason: cut.as_ref().map(|cut| cut.reason.clone()),
            cut: cut.clone(),
            workspace: String::new(),
            started: now_ms(),
            stopped: None,
            attached: launch.lease.is_some(),
            color: launch.color.clone(),
            terminal: launch.terminal.is_some(),
            workspace_mode: launch.workspace_mode.filter(|mode| *mode != crate::api::WorkspaceMode::Mount),
            kept: false,
            resumable: false,
            warnings: Vec::new(),
            account: launch.counted.as_ref().map(|counted| counted.bottle.clone()).filter(|from| *from != launch.id),
        };
        let row = |view: &Bottle| BottleRow {
            id: view.id.clone(),
            slug: view.slug.clone(),
            body: serde_json::to_string(view).unwrap_or_default(),
            ended: view.state == State::Ended,
            cut: view.cut.as_ref().map(|cut| if cut.scope == CutScope::All { "all" } else { "metered" }.to_owned()),
        };
        let ca = Ca::generate(&slug).map_err(internal)?;
        if cut.is_some() {
            // Its session will name this launch from now on: whatever becomes of it, the cut must be found under that name.
            ledger.put_bottle(row(&view)).await.map_err(|e| ledger_error(&e, &place))?;
        }
        // Looking at files, and copying a workspace, may take a while.
        let composed = tokio::task::block_in_place(|| {
            let composed = compose::compose_unless(given_up, &self.host, &launch, &slug, ca.cert_pem());
            composed.and_then(|composed| self.with_groups(composed, &launch, &slug))
        });
        let composed = match composed {
            Ok(composed) => composed,
            Err(error) => {
                clean(&self.host.home, &slug, &[], resumes);
                if cut.is_some() {
                    failed(&mut view, &error);
                    let _ = ledger.put_bottle(row(&view)).await;
                }
                return Err(error);
            }
        };
        view.workspace = composed.workspace.display().to_string();
        view.warnings.clone_from(&composed.warnings);
        let placeholders = composed.placeholders.clone();
        ledger.put_bottle(row(&view)).await.map_err(|e| {
            clean(&self.host.home, &slug, &placeholders, resumes);
            ledger_error(&e, &place)
        })?;
        let mut terms = Terms::of(&launch, &settings, ledger.clone());
        terms.note = Note { cut, ..Note::default() };
        match self.bring_up(launch, view.clone(), &ca, composed, terms, &settings).await {
            Ok(live) => Ok(live.view()),
            Err(error) => {
                clean(&self.host.home, &slug, &placeholders, resumes);
                failed(&mut view, &error);
                let _ = ledger.put_bottle(row(&view)).await;
                Err(error)
            }
        }
    }

    /// Makes the control groups of a bottle that has limits.
    fn with_groups(&self, mut composed: Composed, launch: &Launch, slug: &str) -> Result<Composed> {
        // An engine has control groups of its own.
        let Some(limits) = launch.limits.as_ref().filter(|_| composed.plan.image.is_none()) else {
            return Ok(composed);
        };
        let name = cgroup::name(&self.host.home.root, slug);
        let note = |dirs: &[std::path::PathBuf]| keep::note_groups(&self.host.home.state(slug), dirs);
        match cgroup::make(&name, limits, note) {
            Ok(groups) => {
                composed.plan.cgroups = groups.dirs;
                composed.warnings.extend(groups.lacking);
                Ok(composed)
            }
            Err(error) => {
                crate::bottle::guard::remove_placeholders(&composed.placeholders);
                Err(error)
            }
        }
    }
}

/// Gets the nodes of a launch's budget, nearest first.
pub fn budget_path(launch: &Launch) -> Vec<Node> {
    let mut path = launch.nodes_of_its_own();
    path.extend(launch.run.as_ref().map(|run| format!("run:{run}")));
    path.push(GLOBAL.to_owned());
    path
}

/// Refuses limits with a time where nothing has a name that outlives it: a bottle, a run.
///
/// # Errors
/// `usage`.
pub(super) fn refuse_times(limits: &[Limit], place: &str) -> Result<()> {
    match limits.iter().find_map(|limit| limit.per) {
        None => Ok(()),
        Some(per) => {
            let message = format!("a limit `{}` counts by name over launches, and this has no name", per.words());
            Err(Error::new(Kind::Usage, message).at(place).hint("say it in a manifest or in settings.yml"))
        }
    }
}

/// Says in a bottle's view that it did not come up.
fn failed(view: &mut Bottle, error: &Error) {
    view.state = State::Ended;
    view.ended = Some(Ended::StartFailed);
    view.reason = Some(error.to_string());
    view.stopped = Some(now_ms());
}

/// Removes what a failed launch has made. What was there before, of a bottle that was to be taken up again, stays.
fn clean(home: &Home, slug: &str, placeholders: &[std::path::PathBuf], resumes: bool) {
    crate::bottle::guard::remove_placeholders(placeholders);
    let state = home.state(slug);
    keep::remove_groups(&state);
    if resumes {
        crate::workspace::session::settle(&state, true, true);
        crate::workspace::kept::settle(&state);
    } else {
        crate::workspace::kept::remove(&state);
    }
}

//! Launching: from a request on the socket to an agent that runs.
//!
//! Nothing of a bottle runs before its way out, its budget and its row stand. A launch that fails leaves nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::compose::{self, Composed};
use super::link::{Held, Link};
use super::live::{Live, Made};
use super::note::{Cut, Note};
use super::{Controller, input, keep, ledger_error};
use crate::api::{Bottle, Egress, Ended, Event, Launch, State};
use crate::bottle::cgroup;
use crate::bottle::output::now_ms;
use crate::bottle::wire::{self, Command, Listener, Reply, Request};
use crate::egress::{self, Sockets, Spec, ca::Ca};
use crate::enforce::By;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::{BottleRow, EventQuery, GLOBAL, Ledger, Node};
use crate::settings::Settings;
use crate::types::{CutScope, CutoffPolicy};

/// Id of the agent's own exec.
pub const AGENT: &str = "agent";

/// Longest slug; a socket's path has to hold it.
const SLUG_MAX: usize = 40;

/// What a keeper holds for the controllers to come. Secret: it lies in a sealed memory file and nowhere else.
#[derive(Serialize, Deserialize)]
pub struct Sealed {
    /// What was asked for, credentials included.
    pub launch: Launch,
    /// How the bottle stood when it came up.
    pub view: Bottle,
    /// Certificate of the bottle's authority.
    pub ca_cert: String,
    /// Its key.
    pub ca_key: String,
    /// Environment of the bottle's processes.
    pub env: BTreeMap<String, String>,
    /// What was made in the workspace.
    pub placeholders: Vec<std::path::PathBuf>,
}

/// What binds a bottle; derived anew on every way in.
pub(super) struct Terms {
    /// Nodes of its budget, nearest first.
    path: Vec<Node>,
    /// What happens when a budget is spent.
    policy: CutoffPolicy,
    /// What a cut takes away.
    cut_scope: CutScope,
    /// The book it is entered in.
    ledger: SqliteLedger,
    /// What was decided about it before.
    pub(super) note: Note,
}

impl Terms {
    /// Derives them from what was asked for and today's settings.
    pub(super) fn of(launch: &Launch, settings: &Settings, ledger: SqliteLedger) -> Terms {
        Terms {
            path: budget_path(launch),
            policy: launch.shutdown.unwrap_or(settings.shutdown),
            cut_scope: launch.cutoff_scope.unwrap_or(settings.cutoff_scope),
            ledger,
            note: Note::default(),
        }
    }
}

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
        let found = || Some(crate::bottle::backend::found(&self.host.home).as_str().to_owned());
        launch.backend = launch.backend.or_else(|| settings.backend.clone()).or_else(found);
        launch.image = launch.image.or_else(|| settings.image.clone());
        let ledger = self.ledger(launch.book).await?;
        let place = self.host.home.ledger();
        let fail = |e| ledger_error(&e, &place);
        if launch.book == crate::types::Book::Real {
            ledger.set_limits(GLOBAL, settings.budget.clone()).await.map_err(fail)?;
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
        for node in &launch.nodes {
            ledger.set_limits(&node.node(&launch.counted().nodes), node.limits.clone()).await.map_err(fail)?;
        }
        if let Some(spent) = ledger.spent(path.clone(), &launch.provider).await.map_err(fail)? {
            let hint = match launch.resume {
                Some(_) => {
                    "what it has spent counts on: give it more with --budget, or raise the limit in its manifest"
                }
                None => {
                    "give it more: `budget =` in the launch, bb.budget.set in the recipe, `budget:` in settings.yml"
                }
            };
            return Err(Error::new(Kind::Budget, egress::spent::sentence(&spent)).at(spent.node).hint(hint));
        }
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
        let ca = Ca::generate(&slug).map_err(internal)?;
        // Looking at files, and copying a workspace, may take a while.
        let composed = tokio::task::block_in_place(|| {
            let composed = compose::compose_unless(given_up, &self.host, &launch, &slug, ca.cert_pem());
            composed.and_then(|composed| self.with_groups(composed, &launch, &slug))
        });
        let composed = match composed {
            Ok(composed) => composed,
            Err(error) => {
                clean(&self.host.home, &slug, &[], resumes);
                return Err(error);
            }
        };
        view.workspace = composed.workspace.display().to_string();
        view.warnings.clone_from(&composed.warnings);
        let row = |view: &Bottle| BottleRow {
            id: view.id.clone(),
            slug: view.slug.clone(),
            body: serde_json::to_string(view).unwrap_or_default(),
            ended: view.state == State::Ended,
            cut: None,
        };
        let placeholders = composed.placeholders.clone();
        ledger.put_bottle(row(&view)).await.map_err(|e| {
            clean(&self.host.home, &slug, &placeholders, resumes);
            ledger_error(&e, &place)
        })?;
        let note = Note { cut, ..Note::default() };
        let terms = Terms { note, ..Terms::of(&launch, &settings, ledger.clone()) };
        match self.bring_up(launch, view.clone(), &ca, composed, terms, &settings).await {
            Ok(live) => Ok(live.view()),
            Err(error) => {
                clean(&self.host.home, &slug, &placeholders, resumes);
                view.state = State::Ended;
                view.ended = Some(Ended::StartFailed);
                view.reason = Some(error.to_string());
                view.stopped = Some(now_ms());
                let _ = ledger.put_bottle(row(&view)).await;
                Err(error)
            }
        }
    }

    /// Has a bottle that is taken up again go on where it was: its budgets count on, and a cut that somebody made stands.
    /// What a budget cut is decided by what is left of the budget now.
    async fn go_on(&self, launch: &mut Launch, ledger: &SqliteLedger) -> Result<Option<Cut>> {
        launch.counted = None;
        let Some(name) = &launch.resume else { return Ok(None) };
        let slug = self.resumable(name)?;
        let Some((before, mut counted)) = crate::workspace::session::counted(&self.host.home.state(&slug)) else {
            return Ok(None);
        };
        if launch.budget_anew {
            counted.bottle.clone_from(&launch.id);
        }
        launch.counted = Some(counted);
        let fail = |e| ledger_error(&e, &self.host.home.ledger());
        let row = ledger.bottle(&before).await.map_err(fail)?;
        let Some(scope) = row.and_then(|row| row.cut).filter(|_| !launch.uncut) else { return Ok(None) };
        let (mut since, mut cutoff) = (0, None);
        loop {
            let query = EventQuery { since, bottle: Some(slug.clone()), run: None, max: 0 };
            let events = ledger.events(query).await.map_err(fail)?;
            let Some(last) = events.last() else { break };
            since = last.seq;
            let is_cutoff = |e: &Event| e.kind == "enforced" && e.data["action"] == "cutoff";
            cutoff = events.into_iter().rev().find(is_cutoff).or(cutoff);
        }
        let word = |key: &str| cutoff.as_ref().and_then(|event| event.data[key].as_str());
        // Where nothing says who it was, it stands.
        let by = word("by").unwrap_or(By::Operator.as_str());
        let reason = word("reason").unwrap_or("it was cut");
        let scope = if scope == "metered" { CutScope::Metered } else { CutScope::All };
        let cut = Cut { scope, reason: reason.to_owned(), by: by.to_owned(), node: None };
        Ok((by != By::Budget.as_str()).then_some(cut))
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

    /// Builds the bottle, opens its way out, and only then starts the agent.
    async fn bring_up(
        self: &Arc<Self>,
        launch: Launch,
        view: Bottle,
        ca: &Ca,
        composed: Composed,
        terms: Terms,
        settings: &Settings,
    ) -> Result<Arc<Live>> {
        let sealed = Sealed {
            launch,
            view,
            ca_cert: ca.cert_pem().to_owned(),
            ca_key: ca.key_pem().expose_secret().to_owned(),
            env: composed.env.clone(),
            placeholders: composed.placeholders.clone(),
        };
        let bytes = zeroize::Zeroizing::new(serde_json::to_vec(&sealed).map_err(internal)?);
        let memory = wire::sealed("bb-sealed", &bytes).map_err(internal)?;
        let held = Link::launch(&self.keepers, &composed.plan, &memory).await?;
        let live = self.assemble(sealed, held.link.clone(), terms, held.paused.is_some());
        live.change(|b| b.warnings.extend(held.lacking));
        self.insert(Arc::clone(&live));
        let started = async {
            self.open_way_out(&live, ca, held.listeners, settings)?;
            self.start_agent(&live).await
        }
        .await;
        if let Err(error) = started {
            live.close_egress().await;
            live.link.exit().await;
            // The connection must not be dropped before the word is through it.
            if tokio::time::timeout(Duration::from_secs(5), live.link.gone()).await.is_err() {
                live.link.kill_keeper();
            }
            self.bottles.lock().unwrap_or_else(PoisonError::into_inner).remove(&live.slug);
            return Err(error);
        }
        live.change(|b| b.state = State::Running);
        live.save().await;
        let view = live.view();
        let data = json!({
            "provider": view.provider, "agent": view.agent, "workspace": view.workspace,
            "argv0": live.launch.argv.first(),
        });
        live.tell("bottle.running", data, false).await;
        live.start_clock();
        if let Some(lease) = &live.launch.lease {
            self.leases.expect(lease);
        }
        tokio::spawn(Arc::clone(&live).listen(held.said));
        Ok(live)
    }

    /// Puts a bottle together from what its keeper holds.
    pub(super) fn assemble(&self, sealed: Sealed, link: Link, terms: Terms, able: bool) -> Arc<Live> {
        let state_dir = self.host.home.state(&sealed.view.slug);
        let made = Made {
            slug: sealed.view.slug.clone(),
            launch: sealed.launch,
            path: terms.path,
            policy: terms.policy,
            cut_scope: terms.cut_scope,
            ledger: terms.ledger,
            env: sealed.env,
            log: state_dir.join("output.log"),
            cgroups: keep::groups(&state_dir),
            state_dir,
            placeholders: sealed.placeholders,
            link,
            able,
            socket: self.host.home.keeper_socket(&sealed.view.slug),
        };
        Live::new(made, sealed.view, terms.note)
    }

    /// Starts the egress plane of a bottle on the listeners that its keeper handed over.
    pub(super) fn open_way_out(
        self: &Arc<Self>,
        live: &Arc<Live>,
        ca: &Ca,
        listeners: Vec<(Listener, std::os::fd::OwnedFd)>,
        settings: &Settings,
    ) -> Result<()> {
        let mut sockets = Sockets::default();
        for (kind, fd) in listeners {
            match kind {
                Listener::Tcp { .. } => sockets.tcp.push(fd.into()),
                Listener::DnsUdp => sockets.udp.push(fd.into()),
                Listener::DnsTcp => sockets.dns_tcp.push(fd.into()),
                Listener::Sentinel => sockets.sentinel = Some(fd),
            }
        }
        let mut upstreams = settings.upstreams.clone();
        upstreams.extend(live.launch.upstreams.clone());
        let spec = Spec {
            slug: live.slug.clone(),
            id: live.launch.id.clone(),
            provider: live.launch.provider.clone(),
            agent: live.view().agent,
            run: live.launch.run.clone(),
            path: live.path.clone(),
            routes: live.launch.routes.clone(),
            credentials: live
                .launch
                .credentials
                .iter()
                .map(|(name, value)| (name.clone(), SecretString::from(value.clone())))
                .collect(),
            upstreams,
            ca: Ca::from_pem(ca.cert_pem(), &ca.key_pem()).map_err(internal)?,
            cut: live.cut_now(),
            parks: live.policy == CutoffPolicy::Pause,
        };
        let handle = egress::start(spec, sockets, live.ledger.clone(), self.enforcement(), Arc::clone(&self.roots))
            .map_err(|e| {
                let advice = live.launch.routes.iter().find_map(crate::api::Route::advice);
                let advice = advice.unwrap_or_else(|| "look at the routes of this launch".to_owned());
                Error::new(Kind::Usage, e.to_string()).hint(advice)
            })?;
        live.open_egress(handle);
        Ok(())
    }

    /// Has the keeper run the agent's command line as exec 0.
    pub(super) async fn start_agent(&self, live: &Arc<Live>) -> Result<()> {
        let mut env = live.env.clone();
        if live.launch.terminal.is_some() {
            input::name_terminal(&mut env);
        }
        let command = Command {
            id: AGENT.to_owned(),
            argv: live.launch.argv.clone(),
            env: env.iter().map(|(k, v)| format!("{k}={v}")).collect(),
            cwd: live.view().workspace,
            terminal: live.launch.terminal,
            input: live.launch.input,
            ..Command::default()
        };
        input::check(live, &command)?;
        match live.link.ask(Request::Exec(command)).await? {
            (Reply::Started { exec, .. }, _) => {
                live.note_exec(AGENT, exec);
                Ok(())
            }
            (Reply::Failed { error }, _) => Err(error),
            (other, _) => Err(internal(format!("unexpected answer {other:?}"))),
        }
    }

    /// Takes the name and the state of a bottle whose session is kept.
    fn take_up(&self, name: &str) -> Result<String> {
        let slug = self.resumable(name)?;
        let mut bottles = self.bottles.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.host.home.state(&slug);
        let free = bottles.get(&slug).is_none_or(|live| live.has_ended());
        // It is looked at again under the claim: somebody else may have been first.
        if !free || !self.making.claim(&slug, || crate::workspace::session::is_kept(&state)) {
            return Err(Error::new(Kind::Usage, format!("`{slug}` runs")).hint(format!("`bb attach {slug}`")));
        }
        bottles.remove(&slug);
        Ok(slug)
    }

    /// Makes a slug from a label: lower-case letters, digits and dashes, unique among what runs or is kept.
    fn choose_slug(&self, label: &str) -> Result<String> {
        let mut base = String::new();
        for c in label.chars().take(SLUG_MAX - 5) {
            match c.to_ascii_lowercase() {
                c @ ('a'..='z' | '0'..='9') => base.push(c),
                _ if !base.ends_with('-') && !base.is_empty() => base.push('-'),
                _ => {}
            }
        }
        let base = base.trim_end_matches('-');
        let base = match base.chars().next() {
            Some(c) if c.is_ascii_lowercase() => base.to_owned(),
            _ => format!("bottle-{base}").trim_end_matches('-').to_owned(),
        };
        let state = |slug: &str| self.host.home.state(slug);
        let taken = self.bottles.lock().unwrap_or_else(PoisonError::into_inner);
        (1..10_000)
            .map(|n| if n == 1 { base.clone() } else { format!("{base}-{n}") })
            // Making the directory claims the name: two launches at once cannot both have it.
            .find(|slug| {
                !taken.contains_key(slug)
                    && state(slug).parent().is_some_and(|p| p.exists() || std::fs::create_dir_all(p).is_ok())
                    && self.making.claim(slug, || std::fs::create_dir(state(slug)).is_ok())
            })
            .ok_or_else(|| Error::internal("no free name for the bottle").hint("choose another label"))
    }
}

/// Gets the nodes of a launch's budget, nearest first.
pub fn budget_path(launch: &Launch) -> Vec<Node> {
    let mut path = launch.nodes_of_its_own();
    path.extend(launch.run.as_ref().map(|run| format!("run:{run}")));
    path.push(GLOBAL.to_owned());
    path
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

/// Gets the view of held things for a bottle that came up by adoption.
pub(super) fn agent_code(held: &Held) -> Option<Option<i32>> {
    held.execs.iter().find(|e| e.id == AGENT).map(|e| e.code)
}

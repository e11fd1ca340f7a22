//! Adoption: a new controller takes up the bottles that outlived the last one.
//!
//! Keepers hand over listeners and the sealed part; the policy is derived anew from today's settings; then connections
//! that have waited are accepted. Bottles whose keeper is gone are closed in the ledger as lost.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;

use super::launch::{Sealed, Terms, agent_code};
use super::link::{Held, Link, Said};
use super::note::Note;
use super::{Controller, keep, lease, ledger_error};
use crate::api::{Bottle, Cut, Egress, Ended, State};
use crate::bottle::output::now_ms;
use crate::bottle::wire;
use crate::egress::ca::Ca;
use crate::enforce::By;
use crate::error::{Error, Kind, Result};
use crate::ledger::{BottleRow, Ledger, NewEvent};
use crate::settings::Settings;
use crate::types::{Book, CutScope};
use crate::workspace::kept;

/// How soon a keeper that did not answer is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// How often, and after how long, one that hung up is tried again at once.
const MOST_TRIES: u32 = 4;
const SOON: Duration = Duration::from_millis(50);

/// What came of meeting a keeper.
enum Met {
    /// Its bottle, by launch id, is this controller's.
    Taken(String),
    /// It is dead.
    Gone,
    /// It lives; to be tried again.
    Later,
}

impl Controller {
    /// Takes up every bottle whose keeper listens, and settles the rows of those that are gone.
    pub async fn adopt_all(self: Arc<Self>) {
        let mut taken = HashSet::new();
        // Bottles that live and could not be taken up: nothing of theirs may be called lost or be removed.
        let mut living = HashSet::new();
        let mut meeting = tokio::task::JoinSet::new();
        // What each bottle lies on is counted before the first of them is met: one that has ended takes its placeholders
        // away, and others that are not taken up yet may lie on the same.
        let mut counted = HashMap::new();
        for entry in std::fs::read_dir(self.host.home.keepers()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "sock") {
                let slug = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let made = placeholders(&self.host.home.state(&slug));
                crate::bottle::guard::adopt_placeholders(&made);
                counted.insert(path.clone(), made);
                let controller = Arc::clone(&self);
                meeting.spawn(async move { (controller.meet(&path).await, path) });
            }
        }
        while let Some(met) = meeting.join_next().await {
            match met {
                Ok((Met::Taken(id), _)) => {
                    taken.insert(id);
                }
                Ok((Met::Gone, _)) | Err(_) => {}
                Ok((Met::Later, path)) => {
                    living.extend(path.file_stem().map(|slug| slug.to_string_lossy().into_owned()));
                    let made = counted.remove(&path).unwrap_or_default();
                    tokio::spawn(Arc::clone(&self).meet_later(path, made));
                }
            }
        }
        for made in counted.into_values() {
            crate::bottle::guard::remove_placeholders(&made);
        }
        for book in [Book::Real, Book::Rehearsal] {
            if book == Book::Rehearsal && self.rehearsal.get().is_none() {
                continue;
            }
            let lost = |row: &BottleRow| !taken.contains(&row.id) && !living.contains(&row.slug);
            if let Err(error) = self.close_lost(book, lost).await {
                tracing::error!("settling lost bottles: {error}");
            }
        }
        self.sweep_state(&living).await;
        self.adopted.send_replace(true);
    }

    /// Tries to take up the bottle whose keeper has the socket `path`.
    async fn meet(self: &Arc<Self>, path: &Path) -> Met {
        let mut met = Link::adopt(path).await;
        for _ in 0..MOST_TRIES {
            // One that hung up may be about to die: then nobody listens in a moment.
            if !met.as_ref().is_err_and(|e| e.kind == Kind::BackendUnavailable) {
                break;
            }
            tokio::time::sleep(SOON).await;
            met = Link::adopt(path).await;
        }
        let (slug, held) = match met {
            Ok(met) => met,
            // Nobody listens: the keeper was killed, and the kernel has killed the bottle with it.
            Err(error) if error.kind == Kind::NoSuchBottle => {
                let _ = std::fs::remove_file(path);
                return Met::Gone;
            }
            Err(error) => {
                tracing::error!(keeper = %path.display(), "a keeper lives and does not answer: {error}");
                return Met::Later;
            }
        };
        match self.adopt(&slug, held).await {
            Ok(id) => Met::Taken(id),
            Err(error) => {
                tracing::error!(%slug, "taking up a bottle: {error}");
                Met::Later
            }
        }
    }

    /// Tries again until the bottle has been taken up or its keeper is gone. Its way out stays closed meanwhile.
    async fn meet_later(self: Arc<Self>, path: PathBuf, made: Vec<PathBuf>) {
        let gone = loop {
            tokio::time::sleep(AGAIN).await;
            match self.meet(&path).await {
                Met::Later => {}
                Met::Taken(_) => break false,
                Met::Gone => break true,
            }
        };
        crate::bottle::guard::remove_placeholders(&made);
        if !gone {
            return;
        }
        let slug = path.file_stem().unwrap_or_default();
        let state = self.host.home.state(&slug.to_string_lossy());
        keep::remove_groups(&state);
        kept::sweep(&state);
        for book in [Book::Real, Book::Rehearsal] {
            if (book == Book::Real || self.rehearsal.get().is_some())
                && let Err(error) = self.close_lost(book, |row| slug == row.slug.as_str()).await
            {
                tracing::error!("settling a lost bottle: {error}");
            }
        }
    }

    async fn adopt(self: &Arc<Self>, slug: &str, held: Held) -> Result<String> {
        let sealed = held.sealed.as_ref().ok_or_else(|| Error::internal("the keeper holds no sealed part"))?;
        let bytes = zeroize::Zeroizing::new(wire::read_sealed(sealed).map_err(|e| Error::internal(e.to_string()))?);
        let sealed: Sealed = serde_json::from_slice(&bytes).map_err(|e| Error::internal(e.to_string()))?;
        crate::bottle::guard::adopt_placeholders(&sealed.placeholders);
        let ledger = self.ledger(sealed.launch.book).await?;
        let place = self.host.home.ledger();
        let row = ledger.bottle(&sealed.launch.id).await.map_err(|e| ledger_error(&e, &place))?;
        if row.as_ref().is_some_and(|r| r.ended) || row.is_none() && held.pid.is_none() {
            // Its end was written, or its launch was given up; only the keeper had not been told.
            held.link.exit().await;
            return Ok(sealed.launch.id.clone());
        }
        let mut note = Note::read(held.note.as_deref());
        let written = row.as_ref().and_then(|r| r.cut.as_deref());
        let known = row.as_ref().and_then(|r| serde_json::from_str::<Bottle>(&r.body).ok());
        // The stricter of the two holds: the row may not have been written, or the keeper not have heard.
        let written = written.map(|c| {
            let scope = if c == "all" { CutScope::All } else { CutScope::Metered };
            let unsaid = || {
                let (reason, by) = ("cut before this controller's time".to_owned(), By::Operator.as_str().to_owned());
                Cut { scope, reason, by, node: None, provider: None, left: None }
            };
            let said = known.as_ref().and_then(|known| known.cut.clone()).or_else(|| note.cut.clone());
            said.map_or_else(unsaid, |cut| Cut { scope, ..cut })
        });
        let cut_written = note.cut.as_ref().is_none_or(|noted| {
            let mut row = Note { cut: written.clone(), ..Note::default() };
            !row.enter(noted)
        });
        if let Some(cut) = &written {
            note.enter(cut);
        }
        let settings = self.settings();
        let ca = Ca::from_pem(&sealed.ca_cert, &SecretString::from(sealed.ca_key.clone()))
            .map_err(|e| Error::internal(e.to_string()))?;
        let mut terms = match &settings {
            Ok(settings) => Terms::of(&sealed.launch, settings, ledger),
            Err(_) => Terms::of(&sealed.launch, &Settings::default(), ledger),
        };
        terms.note = note;
        let id = sealed.launch.id.clone();
        let live = self.assemble(sealed, held.link.clone(), terms, held.paused.is_some());
        if let Some(known) = known {
            let cut = live.cut();
            live.change(|b| *b = Bottle { state: State::Starting, egress: Egress::Closed, cut, ..known });
        }
        for exec in &held.execs {
            live.note_exec(&exec.id, exec.exec);
        }
        let codes: Vec<(u32, i32)> = held.execs.iter().filter_map(|e| Some((e.exec, e.code?))).collect();
        live.exits.send_modify(|exits| exits.extend(codes.iter().copied()));
        self.insert(Arc::clone(&live));
        live.record_inherited(cut_written).await;
        if let Some(path) = &held.guard_lost {
            live.lose_guard(path);
        }
        if held.pid.is_none() {
            // It ended while no controller was up: its record is all that is left to take.
            let (tell, said) = tokio::sync::mpsc::unbounded_channel();
            if let Some(Some(code)) = agent_code(&held) {
                let _ = tell.send(Said::Exited { exec: 0, code });
            }
            let _ = tell.send(Said::Ended(held.end));
            // Else its end would be waited for after it has been told, and nobody be served.
            drop(tell);
            Arc::clone(&live).listen(said).await;
            // What it leaves is kept for a front end that still waits, and no longer.
            if let Some(lease) = &live.launch.lease {
                self.leases.expect(lease);
            }
            return Ok(id);
        }
        let agent = agent_code(&held);
        let doomed = live.is_doomed();
        // Its agent may still have what is not saved: a freeze is gone on with, by the same steps.
        let freezing = live.is_freezing() && agent == Some(None);
        if doomed {
            if !freezing {
                live.link.kill().await;
            }
        } else if let Err(error) =
            settings.and_then(|settings| self.open_way_out(&live, &ca, held.listeners, &settings))
        {
            // It lives on without a way out, and can be seen and killed.
            tracing::error!(%slug, "a bottle was taken up without its way out: {error}");
            live.change(|b| b.reason = Some(format!("its way out stays closed: {}", error.message)));
        }
        // Without an agent the last controller died between building the bottle and starting it.
        if agent.is_none()
            && !doomed
            && let Err(error) = self.start_agent(&live).await
        {
            live.end(Ended::StartFailed, &error.to_string(), By::Operator, None);
        }
        // An agent that ended in the last controller's time is not told of again, only that its bottle goes with it.
        let code = agent.flatten();
        let ending = live.is_doomed() || code.is_some();
        live.change(|b| {
            b.exit_code = code.or(b.exit_code);
            b.state = match ending {
                true => State::Stopping,
                false if held.paused == Some(true) => State::Paused,
                false => State::Running,
            };
        });
        live.save().await;
        live.tell("bottle.adopted", json!({"controller": std::process::id()}), false).await;
        live.start_clock();
        if freezing {
            live.go_on_freezing(held.paused == Some(true));
        }
        if let Some(lease) = &live.launch.lease {
            self.leases.expect(lease);
        }
        tracing::info!(%slug, "bottle taken up");
        tokio::spawn(live.listen(held.said));
        Ok(id)
    }

    /// Ends the rows of bottles that nobody holds any more.
    async fn close_lost(&self, book: Book, lost: impl Fn(&BottleRow) -> bool) -> Result<()> {
        let ledger = self.ledger(book).await?;
        let place = self.host.home.ledger();
        for row in ledger.bottles(false).await.map_err(|e| ledger_error(&e, &place))? {
            if !lost(&row) {
                continue;
            }
            let Ok(mut view) = serde_json::from_str::<Bottle>(&row.body) else { continue };
            let (ended, reason) = match view.state {
                _ if view.started < boot_time() => (Ended::HostRestart, "the host was restarted"),
                State::Planned => (Ended::StartFailed, "the controller died before its agent was started"),
                _ => (Ended::Lost, "its keeper was gone when the controller came back"),
            };
            view.state = State::Ended;
            if view.egress == Egress::Open {
                view.egress = Egress::Closed;
            }
            view.ended = Some(ended);
            view.reason = Some(reason.to_owned());
            view.stopped = Some(now_ms());
            let event = NewEvent {
                kind: "bottle.ended".to_owned(),
                bottle: Some(view.slug.clone()),
                run: view.run.clone(),
                data: json!({"ended": view.ended, "reason": view.reason, "tail": ""}),
                audit: false,
            };
            ledger.append(event).await.map_err(|e| ledger_error(&e, &place))?;
            let body = serde_json::to_string(&view).unwrap_or_default();
            let row = BottleRow { body, ended: true, ..row };
            ledger.put_bottle(row).await.map_err(|e| ledger_error(&e, &place))?;
        }
        Ok(())
    }

    /// Removes state directories of bottles that are none of this controller's; what else lies there is not ours to remove. A front end may still want to read what a
    /// bottle wrote that ended a moment ago: its directory stays while the lease is held.
    async fn sweep_state(self: &Arc<Self>, living: &HashSet<String>) {
        let known: HashSet<String> = self.all().iter().map(|b| b.slug.clone()).collect();
        let dirs = std::fs::read_dir(self.host.home.root.join("state")).into_iter().flatten().flatten();
        let ours = dirs.filter(|entry| kept::is_of_bottle(&entry.path()));
        let names = ours.filter_map(|entry| entry.file_name().into_string().ok());
        // Bottles that live and are not ours yet still lie on theirs.
        let kept: HashSet<PathBuf> = living.iter().flat_map(|slug| placeholders(&self.host.home.state(slug))).collect();
        let mut unknown: HashSet<String> = names.filter(|n| !known.contains(n) && !living.contains(n)).collect();
        if unknown.is_empty() {
            return;
        }
        let ended = self.list(true).await.unwrap_or_default();
        for bottle in ended.into_iter().rev().filter(|b| b.attached && b.state == State::Ended) {
            if let (Some(run), true) = (bottle.run, unknown.remove(&bottle.slug)) {
                remove_placeholders(&self.host.home.state(&bottle.slug), &kept);
                keep::remove_groups(&self.host.home.state(&bottle.slug));
                let controller = Arc::clone(self);
                tokio::spawn(async move {
                    sweep_engine(controller.host.home.state(&bottle.slug)).await;
                    loop {
                        tokio::time::sleep(lease::GRACE).await;
                        if !controller.leases.is_held(&run) {
                            break;
                        }
                    }
                    // Its name may have been taken up or given again meanwhile.
                    let work = |state: &Path| {
                        kept::sweep(state);
                    };
                    let _ = controller.while_unused(&bottle.slug, work).await;
                });
            }
        }
        for name in unknown {
            let dir = self.host.home.state(&name);
            remove_placeholders(&dir, &kept);
            keep::remove_groups(&dir);
            sweep_engine(dir.clone()).await;
            kept::sweep(&dir);
        }
    }
}

/// Removes containers that a bottle which is gone has left with an engine.
pub(super) async fn sweep_engine(state: PathBuf) {
    let _ = tokio::task::spawn_blocking(move || crate::bottle::docker::sweep(&state)).await;
}

/// What a bottle has made in its workspace on the host.
fn placeholders(state: &Path) -> Vec<PathBuf> {
    let list = std::fs::read(state.join(kept::PLACEHOLDERS)).unwrap_or_default();
    serde_json::from_slice(&list).unwrap_or_default()
}

/// Removes what a bottle that is gone has made, less what others lie on.
fn remove_placeholders(state: &Path, kept: &HashSet<PathBuf>) {
    let made: Vec<PathBuf> = placeholders(state).into_iter().filter(|path| !kept.contains(path)).collect();
    // It is counted first: else its end would be taken for that of a bottle which lives.
    crate::bottle::guard::adopt_placeholders(&made);
    crate::bottle::guard::remove_placeholders(&made);
}

/// When this host was booted, milliseconds since the epoch.
fn boot_time() -> i64 {
    now_ms().saturating_sub(i64::try_from(crate::os::uptime().as_millis()).unwrap_or(i64::MAX))
}

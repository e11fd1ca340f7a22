//! A bottle while it lives: what is known of it, its way out, and the one place where it ends.
//!
//! State changes go through the functions here; each is told to readers, and written to the ledger in the order that
//! the design demands: tightening takes effect first and is recorded second.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::binds::Binds;
use super::link::{Link, Said};
use super::logins::Holders;
use super::note::{Note, Rules};
use crate::api::{Bottle, Cut, Egress, Ended, Launch, State};
use crate::bottle::output;
use crate::bottle::wire::End;
use crate::egress;
use crate::enforce::By;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::{BottleRow, Ledger, NewEvent, Node};
use crate::types::{CutScope, CutoffPolicy};
use crate::workspace::{kept, session};

mod commit;
mod decide;
pub mod spent;

/// How much of an agent's last output goes into its `bottle.ended` event.
const TAIL: usize = 2048;

/// What a bottle is made of, when it comes up or is taken up. Does not change while it lives.
pub struct Made {
    /// Its name.
    pub slug: String,
    /// What was asked for. Its credentials are the only secrets here; they go to the egress plane and nowhere else.
    pub launch: Launch,
    /// The host's logins that it works with.
    pub logins: Holders,
    /// Nodes of its budget, nearest first.
    pub path: Vec<Node>,
    /// The book it is entered in.
    pub ledger: SqliteLedger,
    /// Environment of its processes.
    pub env: BTreeMap<String, String>,
    /// Where its output is.
    pub log: PathBuf,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// Its control groups.
    pub cgroups: Vec<PathBuf>,
    /// What was made in the workspace and goes away with the bottle.
    pub placeholders: Vec<PathBuf>,
    /// Its keeper.
    pub link: Link,
    /// Its keeper can pause it and open its file system; one of an older bb cannot.
    pub able: bool,
    /// The keeper's socket.
    pub socket: PathBuf,
}

/// A bottle of this controller.
pub struct Live {
    made: Made,
    view: watch::Sender<Bottle>,
    /// Number of the newest frame of its output.
    pub output: watch::Sender<u64>,
    /// Exit codes of execs, as they become known.
    pub exits: watch::Sender<HashMap<u32, i32>>,
    /// Numbers of execs by the ids that they were asked with.
    execs: Mutex<HashMap<String, u32>>,
    egress: Mutex<Option<egress::Handle>>,
    /// TCP ports that its gate listens on.
    ports: Mutex<HashSet<u16>>,
    /// One changes its allow-list at a time.
    ruling: tokio::sync::Mutex<()>,
    /// Whether it is cut, and why it will end, when somebody decided that. Set before anything is done about it; survives
    /// restarts with the keeper and in the bottle's row.
    note: Mutex<Note>,
    /// What binds it since somebody last came in.
    binds: Mutex<Binds>,
    /// One pauses it, or lets it go on, at a time.
    pausing: tokio::sync::Mutex<()>,
    /// One carries a freeze out at a time.
    freezing: tokio::sync::Mutex<()>,
    /// Accounts (node and provider) whose crossing has been recorded, with their limit and what was used of it then.
    crossed: Mutex<HashMap<(Node, String), (u64, u64)>>,
}

impl std::ops::Deref for Live {
    type Target = Made;

    fn deref(&self) -> &Made {
        &self.made
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// Puts a bottle together; with what was decided about it before this controller's time.
    pub fn new(made: Made, view: Bottle, note: Note, binds: Binds) -> Arc<Live> {
        Arc::new(Live {
            made,
            view: watch::Sender::new(view),
            output: watch::Sender::new(0),
            exits: watch::Sender::new(HashMap::new()),
            execs: Mutex::default(),
            egress: Mutex::new(None),
            ports: Mutex::default(),
            ruling: tokio::sync::Mutex::default(),
            note: Mutex::new(note),
            binds: Mutex::new(binds),
            pausing: tokio::sync::Mutex::default(),
            freezing: tokio::sync::Mutex::default(),
            crossed: Mutex::default(),
        })
    }

    /// Gets what binds it.
    pub fn binds(&self) -> Binds {
        *lock(&self.binds)
    }

    /// Has something else bind it from now on.
    pub fn bind(&self, binds: Binds) {
        *lock(&self.binds) = binds;
        if let Some(handle) = &*lock(&self.egress) {
            handle.set_parks(binds.policy == CutoffPolicy::Pause);
        }
    }

    /// Gets how it stands.
    pub fn view(&self) -> Bottle {
        self.view.borrow().clone()
    }

    /// Tells whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.view.borrow().state == State::Ended
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        let mut view = self.view.subscribe();
        let _ = view.wait_for(|b| b.state == State::Ended).await;
    }

    /// Notes an exec. Returns whether it is new.
    pub fn note_exec(&self, id: &str, exec: u32) -> bool {
        lock(&self.execs).insert(id.to_owned(), exec).is_none()
    }

    /// Gets the number of an exec.
    pub fn exec(&self, id: &str) -> Option<u32> {
        lock(&self.execs).get(id).copied()
    }

    /// Changes how it stands.
    pub fn change(&self, f: impl FnOnce(&mut Bottle)) {
        self.view.send_modify(f);
    }

    /// Gives it its way out; with what was decided about it while that was made.
    pub fn open_egress(&self, handle: egress::Handle) {
        // Who decides enters it first and then looks for the way out: under this lock nothing slips through.
        let mut egress = lock(&self.egress);
        handle.set_parks(self.binds().policy == CutoffPolicy::Pause);
        let (cut, end) = {
            let note = lock(&self.note);
            (note.cut.clone(), note.end.clone())
        };
        if let Some(cut) = &cut {
            handle.cut(cut.scope, &cut.reason, false);
        }
        if let Some(end) = &end {
            handle.cut(CutScope::All, &end.reason, false);
        }
        self.change(|b| b.egress = if cut.is_some() { Egress::Cut } else { Egress::Open });
        *egress = Some(handle);
    }

    /// Does something with its way out, if it has one.
    pub fn with_egress<T>(&self, f: impl FnOnce(&egress::Handle) -> T) -> Option<T> {
        lock(&self.egress).as_ref().map(f)
    }

    /// Waits for its turn to change the allow-list.
    pub async fn changing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.ruling.lock().await
    }

    /// Gets the allow-list that has taken the place of the launch's.
    pub fn changed_rules(&self) -> Option<Rules> {
        lock(&self.note).routes.clone()
    }

    /// Says that its gate listens on a port.
    pub fn has_listener(&self, port: u16) {
        lock(&self.ports).insert(port);
    }

    /// Says that it no longer listens on these.
    pub fn has_no_listeners(&self, ports: &[u16]) {
        lock(&self.ports).retain(|port| !ports.contains(port));
    }

    /// Gets the ports that its gate listens on.
    pub fn listeners(&self) -> HashSet<u16> {
        lock(&self.ports).clone()
    }

    /// Gets its note as it would be with another allow-list.
    pub fn note_with(&self, rules: &Rules) -> String {
        Note { routes: Some(rules.clone()), ..lock(&self.note).clone() }.text()
    }

    /// Tells whether its gate listens on a port.
    pub fn listens_on(&self, port: u16) -> bool {
        lock(&self.ports).contains(&port)
    }

    /// Takes its way out and waits until what was under way is settled.
    pub async fn close_egress(&self) {
        let handle = lock(&self.egress).take();
        if let Some(handle) = handle {
            handle.close();
            let _ = tokio::time::timeout(Duration::from_secs(5), handle.drained()).await;
        }
    }

    /// Writes its row.
    pub async fn save(&self) {
        self.save_as(self.view()).await;
    }

    async fn save_as(&self, view: Bottle) {
        if let Err(e) = self.ledger.put_bottle(self.row(&view)).await {
            tracing::error!(bottle = %self.slug, "writing its row: {e}");
        }
    }

    fn row(&self, view: &Bottle) -> BottleRow {
        let cut = self.cut_now().map(|s| if s == CutScope::All { "all" } else { "metered" }.to_owned());
        BottleRow {
            id: view.id.clone(),
            slug: view.slug.clone(),
            body: serde_json::to_string(view).unwrap_or_default(),
            ended: view.state == State::Ended,
            cut,
        }
    }

    /// Tells whether somebody has decided its end.
    pub fn is_doomed(&self) -> bool {
        lock(&self.note).end.is_some()
    }

    /// Tells whether it is to end frozen.
    pub fn is_freezing(&self) -> bool {
        lock(&self.note).end.as_ref().is_some_and(|end| end.ended == Ended::Frozen)
    }

    /// Gets the cut that stands.
    pub fn cut(&self) -> Option<Cut> {
        lock(&self.note).cut.clone()
    }

    /// Gets its scope.
    pub fn cut_now(&self) -> Option<CutScope> {
        self.cut().map(|cut| cut.scope)
    }

    fn event(&self, kind: &str, data: Value, audit: bool) -> NewEvent {
        NewEvent { kind: kind.to_owned(), bottle: Some(self.slug.clone()), run: self.launch.run.clone(), data, audit }
    }

    /// Writes an event about it.
    pub async fn tell(&self, kind: &str, data: Value, audit: bool) {
        if let Err(e) = self.ledger.append(self.event(kind, data, audit)).await {
            tracing::error!(bottle = %self.slug, event = kind, "writing an event: {e}");
        }
    }

    /// Kills it when its time is up.
    pub fn start_clock(self: &Arc<Self>) {
        let Some(limit) = self.launch.timeout_ms else { return };
        let spent = (output::now_ms() - self.view().started).max(0).cast_unsigned();
        let left = Duration::from_millis(limit.saturating_sub(spent));
        let live = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = live.ended() => {}
                () = tokio::time::sleep(left) => {
                    let reason = format!("its time of {} s is up", limit as f64 / 1000.0);
                    live.end(Ended::Timeout, &reason, By::Timeout, None);
                }
            }
        });
    }

    /// Hears what the keeper says until it is gone.
    pub async fn listen(self: Arc<Self>, mut said: mpsc::UnboundedReceiver<Said>) {
        while let Some(word) = said.recv().await {
            match word {
                Said::Output(n) => {
                    self.output.send_replace(n);
                }
                Said::Exited { exec, code } => {
                    self.exits.send_modify(|exits| {
                        exits.insert(exec, code);
                    });
                    if exec == 0 {
                        self.change(|b| {
                            b.exit_code = Some(code);
                            b.state = State::Stopping;
                        });
                    }
                }
                Said::GuardLost(path) => self.lose_guard(&path),
                Said::Ended(End { lost: Some(why), .. }) => self.finish(Ended::Lost, Some(why)).await,
                Said::Ended(end) if self.is_out_of_memory(&end) => self.finish(Ended::Oom, None).await,
                Said::Ended(_) => self.finish(Ended::Exited, None).await,
                Said::Gone => break,
            }
        }
        self.finish(Ended::Lost, None).await;
    }

    /// The one place where a bottle ends.
    async fn finish(self: &Arc<Self>, how: Ended, why: Option<String>) {
        if self.has_ended() {
            return;
        }
        self.close_egress().await;
        let end = lock(&self.note).end.clone();
        // A decision counts even where the agent came to its own end in the moment that it was made.
        let (ended, reason) = match end {
            Some(end) => (end.ended, Some(end.reason)),
            None if how == Ended::Oom => {
                let bound = self.launch.limits.as_ref().and_then(|limits| limits.memory).unwrap_or(0) >> 20;
                (how, Some(format!("its processes needed more than the {bound} MiB of memory that they may use")))
            }
            None if how == Ended::Lost => {
                (how, why.or_else(|| Some("its keeper died, and the bottle with it".to_owned())))
            }
            None => (how, None),
        };
        let (log, reading) = (self.log.clone(), ended);
        let tail = tokio::task::spawn_blocking(move || output::tail(&log, TAIL)).await.unwrap_or_default();
        crate::bottle::guard::remove_placeholders(&self.placeholders);
        let state = self.state_dir.clone();
        // Looked at before anything is given up. An agent that meets a full disk is told so; whoever reads what it wrote is not.
        let reason = reason.or_else(|| {
            let full = crate::os::file_system::is_full(&state);
            full.then(|| {
                format!("the disk of {} is full: the last that it wrote or printed may be lost", state.display())
            })
        });
        let mut last = self.view();
        let outlives = session::outlives(reading, last.exit_code);
        let left = tokio::task::spawn_blocking(move || {
            let session = session::settle(&state, outlives, reading == Ended::Frozen);
            (kept::settle(&state) || session, session)
        });
        (last.kept, last.resumable) = left.await.unwrap_or((true, false));
        last.state = State::Ended;
        last.ended = Some(reading);
        last.stopped = Some(output::now_ms());
        if last.egress == Egress::Open {
            last.egress = Egress::Closed;
        }
        if reason.is_some() {
            last.reason = reason;
        }
        let data = json!({"ended": reading, "exit_code": last.exit_code, "reason": last.reason, "tail": tail});
        self.tell("bottle.ended", data, false).await;
        // The event is in the ledger before a reader sees the end. The keeper's record is let go when the row stands: a
        // controller that dies before that leaves it to the next one.
        self.save_as(last.clone()).await;
        self.link.exit().await;
        // Whoever hears of the end finds nothing of the bottle any more.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.link.gone()).await;
        if how == Ended::Lost {
            let _ = std::fs::remove_file(&self.socket);
            super::adopt::sweep_engine(self.state_dir.clone()).await;
        }
        let state = self.state_dir.clone();
        let _ = tokio::task::spawn_blocking(move || super::keep::remove_groups(&state)).await;
        self.change(|b| *b = last);
        if self.launch.lease.is_none() {
            tracing::info!(bottle = %self.slug, ?reading, "detached bottle ended");
        }
    }

    /// Tells whether the agent died because the kernel killed for want of memory.
    fn is_out_of_memory(&self, end: &End) -> bool {
        // A keeper of an older bb says nothing of it.
        let has_run_out = || end.out_of_memory || crate::bottle::cgroup::ran_out_of_memory(&self.cgroups);
        self.view().exit_code == Some(128 + libc::SIGKILL) && has_run_out()
    }

    /// Removes what is left of an ended bottle for its front end, unless what the agent changed is kept.
    pub fn forget(&self) {
        kept::forget(&self.state_dir);
    }
}

//! What a running recipe has: its run, its lease, its bottles. The host owns them, not the garbage collector: when the
//! recipe ends, however it ends, its bottles end.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::args::Args;
use super::errors::{Report, Sources};
use super::grants::Grants;
use super::log::Output;
use super::on::Pump;
use super::recipe::Stop;
use super::rehearse::Stage;
use super::tasks::Tasks;
use crate::api::{Act, Bottle, Limit, Run};
use crate::client::{Client, EventFilter, Lease};
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::types::Book;

/// How long the end of a recipe waits for its bottles to be gone.
const ENDING: Duration = Duration::from_secs(8);

/// What is remembered of a bottle that the recipe launched.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// A budget cut or killed it: why, as the audit row says it.
    pub cut: Option<String>,
    /// That was a pause, which ends where the bottle goes on.
    pub paused: bool,
    /// The recipe was told of the cut, by a raise or because it asked for results unchecked.
    pub told: bool,
    /// Where its first event may be: the run's last known position before it was launched.
    pub since: u64,
    /// It has a session that can be taken up again.
    pub session: bool,
    /// Its agent takes what comes in on standard input.
    pub input: bool,
}

/// Made on the first call that needs it: the connection, the run, the lease.
pub(super) struct Link {
    pub client: Client,
    _lease: Lease,
}

/// The state of one run of one recipe.
pub(super) struct Host {
    pub home: Home,
    pub run_id: String,
    /// The recipe's name for reports.
    pub recipe: String,
    /// The directory that `require` stays in.
    pub folder: std::path::PathBuf,
    pub grants: Grants,
    pub args: Args,
    pub out: Output,
    /// Somebody sits at a terminal.
    pub terminal: bool,
    /// What runs is a flow that ships in the binary.
    pub shipped_flow: bool,
    /// What is to be said at the end of bottles that ended with their recipe.
    pub left: RefCell<Vec<String>>,
    pub sources: RefCell<Sources>,
    pub stop: Arc<Stop>,
    pub book: Cell<Book>,
    pub stage: OnceCell<Stage>,
    pub bottles: RefCell<BTreeMap<String, Kept>>,
    pub tasks: Tasks,
    pub pump: Pump,
    pub streams: super::handle::Streams,
    /// Held by whoever builds or pulls an image: one at a time, so that nobody builds what another builds already.
    pub images: tokio::sync::Mutex<()>,
    /// The launches that `bb.plan` has drafted. Each has secrets; they go with the run.
    pub plans: RefCell<Vec<Rc<crate::launch::Draft>>>,
    run_budget: RefCell<Vec<Limit>>,
    /// The runtime of the main thread: leases live there, so that a recipe that computes cannot lose one.
    outer: tokio::runtime::Handle,
    client: tokio::sync::OnceCell<Client>,
    link: tokio::sync::OnceCell<Link>,
    closing: Cell<bool>,
    exit: Cell<Option<u8>>,
    failure: RefCell<Option<Report>>,
    ended: Notify,
}

/// What a [`Host`] is made from.
pub(super) struct HostParts {
    pub home: Home,
    pub recipe: String,
    pub folder: std::path::PathBuf,
    pub grants: Grants,
    pub args: Args,
    pub out: Output,
    pub terminal: bool,
    pub shipped_flow: bool,
    pub rehearse: bool,
    pub stop: Arc<Stop>,
    pub outer: tokio::runtime::Handle,
}

impl Host {
    pub fn new(parts: HostParts) -> Rc<Host> {
        Rc::new(Host {
            run_id: uuid::Uuid::now_v7().to_string(),
            home: parts.home,
            recipe: parts.recipe,
            folder: parts.folder,
            grants: parts.grants,
            args: parts.args,
            out: parts.out,
            terminal: parts.terminal,
            shipped_flow: parts.shipped_flow,
            left: RefCell::default(),
            sources: RefCell::default(),
            stop: parts.stop,
            book: Cell::new(if parts.rehearse { Book::Rehearsal } else { Book::Real }),
            stage: OnceCell::new(),
            bottles: RefCell::default(),
            tasks: Tasks::default(),
            pump: Pump::default(),
            streams: Default::default(),
            images: tokio::sync::Mutex::default(),
            plans: RefCell::default(),
            run_budget: RefCell::default(),
            outer: parts.outer,
            client: tokio::sync::OnceCell::new(),
            link: tokio::sync::OnceCell::new(),
            closing: Cell::new(false),
            exit: Cell::new(None),
            failure: RefCell::new(None),
            ended: Notify::new(),
        })
    }

    /// Gets a client; starts a controller if none runs.
    pub async fn client(&self) -> Result<&Client> {
        self.refuse_when_closing()?;
        self.client.get_or_try_init(|| Client::connect_or_start(&self.home)).await
    }

    /// Gets the run: named at the controller, with its lease held and its events being read.
    pub async fn link(self: &Rc<Self>) -> Result<&Link> {
        self.refuse_when_closing()?;
        self.link
            .get_or_try_init(|| async {
                let client = self.client().await?.clone();
                let (holder, id) = (client.clone(), self.run_id.clone());
                let lease = self.outer.spawn(async move { holder.hold_lease(&id).await });
                let lease = lease.await.map_err(|e| Error::internal(format!("the lease's task failed: {e}")))??;
                client.run(&self.run_body()).await?;
                let filter = EventFilter {
                    book: self.book.get(),
                    run: Some(self.run_id.clone()),
                    follow: true,
                    ..EventFilter::default()
                };
                let events = client.events(filter).await?;
                super::on::start(self, events);
                Ok(Link { client, _lease: lease })
            })
            .await
    }

    /// Tells whether the run is known to a controller, after which its book is fixed.
    pub fn is_linked(&self) -> bool {
        self.link.initialized()
    }

    /// Gets the limits of the run.
    pub fn run_budget(&self) -> Vec<Limit> {
        self.run_budget.borrow().clone()
    }

    /// Sets the limits of the run.
    pub async fn set_run_budget(self: &Rc<Self>, limits: Vec<Limit>) -> Result<()> {
        let before = self.run_budget.replace(limits);
        let set = async {
            let link = self.link().await?;
            link.client.run(&self.run_body()).await
        };
        match set.await {
            Ok(_) => Ok(()),
            Err(error) => {
                self.run_budget.replace(before);
                Err(error)
            }
        }
    }

    fn run_body(&self) -> Run {
        Run {
            id: self.run_id.clone(),
            recipe: self.recipe.clone(),
            book: self.book.get(),
            budget: self.run_budget.borrow().clone(),
        }
    }

    fn refuse_when_closing(&self) -> Result<()> {
        if self.closing.get() {
            return Err(Error::new(Kind::Interrupted, "the recipe is ending"));
        }
        Ok(())
    }

    /// Ends the recipe with a code.
    pub fn exit(&self, code: u8) {
        self.exit.set(Some(code));
        self.ended.notify_waiters();
    }

    /// Gets the code of `bb.exit`, if it was called.
    pub fn exit_code(&self) -> Option<u8> {
        self.exit.get()
    }

    /// Ends the recipe with a fault that happened outside its main function.
    pub fn fail(&self, report: Report) {
        self.failure.borrow_mut().get_or_insert(report);
        self.ended.notify_waiters();
    }

    /// Gets the fault of [`Host::fail`].
    pub fn failure(&self) -> Option<Report> {
        self.failure.borrow().clone()
    }

    /// Waits for [`Host::exit`] or [`Host::fail`].
    pub async fn has_ended(&self) {
        loop {
            let told = self.ended.notified();
            if self.exit.get().is_some() || self.failure.borrow().is_some() {
                return;
            }
            told.await;
        }
    }

    /// Gets the bottles that a budget cut without the recipe being told.
    pub fn untold_cuts(&self) -> Vec<(String, String)> {
        let bottles = self.bottles.borrow();
        let untold = bottles.iter().filter(|(_, k)| !k.told && !self.pump.handles_cuts());
        untold.filter_map(|(slug, k)| Some((slug.clone(), k.cut.clone()?))).collect()
    }

    /// Ends what the recipe leaves behind: its tasks, then every bottle that is not detached. Bounded; what does not
    /// answer in time ends with the lease.
    pub async fn close(&self) {
        self.closing.set(true);
        self.tasks.abort_all();
        self.pump.stop();
        let Some(link) = self.link.get() else { return };
        let deadline = Instant::now() + ENDING;
        let _ = tokio::time::timeout_at(deadline, async {
            // The controller knows the ones whose launch was still under way.
            let Ok(running) = link.client.bottles(false).await else { return };
            let ours = running.into_iter().filter(|b| b.run.as_deref() == Some(&self.run_id) && b.attached);
            futures_util::future::join_all(ours.map(|bottle| self.end(&link.client, bottle, deadline))).await;
        })
        .await;
    }

    /// Ends a bottle. One whose session can be taken up again is not lost with whoever interrupted its front end.
    async fn end(&self, client: &Client, bottle: Bottle, deadline: Instant) {
        let act = Act { id: uuid::Uuid::now_v7().to_string(), reason: Some("its recipe ended".into()), scope: None };
        let known = self.bottles.borrow().get(&bottle.slug).map(|kept| kept.session);
        // One that was being taken up while this was interrupted has its session from before, though its launch was not answered.
        let session = known.unwrap_or(bottle.account.is_some());
        let asked = match session {
            true => client.freeze(&bottle.slug, &act).await,
            false => client.kill(&bottle.slug, &act).await,
        };
        let waited = match asked {
            Ok(_) => client.wait(&bottle.slug, Some(deadline)).await,
            Err(error) => Err(error),
        };
        match waited {
            Ok(Some(ended)) => self.left.borrow_mut().extend(what_is_kept(&ended)),
            Ok(None) => {}
            Err(error) => tracing::warn!(bottle = bottle.slug, %error, "a bottle could not be ended with its recipe"),
        }
    }
}

/// Names what is kept of a bottle, a line each, as the flow of `bb start` does at a good end.
fn what_is_kept(Bottle { slug, kept, resumable, .. }: &Bottle) -> Vec<String> {
    let mut lines = Vec::new();
    if *resumable {
        lines.push(format!("to take it up again: bb resume {slug}"));
    }
    match (*kept, *resumable) {
        (true, true) => lines.push(format!("what it changed: bb diff {slug}; to forget it: bb rm {slug}")),
        (true, false) => lines.push(format!("its changes are kept: bb diff {slug}, bb apply {slug}, bb rm {slug}")),
        _ => {}
    }
    lines
}

/// A value that others wait for; shared on the recipe's thread.
pub(super) fn gauge<T>(value: T) -> watch::Sender<T> {
    watch::Sender::new(value)
}

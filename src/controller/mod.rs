//! The controller: the one process that owns ledgers, bottles and their way out.
//!
//! * [`daemon`]: its life as a process. [`http`], [`peer`]: its socket and who may use it.
//! * [`launch`], [`compose`], [`trust`], [`adopt`]: the ways in to a running bottle. [`binds`]: what holds on each of them. [`budgets`]: what is changed of them. [`live`]: a
//!   bottle while it lives.
//! * [`input`]: what is typed and fed. [`keep`]: what is left of bottles that have ended, and what their agents changed.
//! * [`lease`]: front ends that bottles depend on. [`logins`]: the host's, which they work with. [`link`]: keepers. [`note`]: what they
//!   remember for the next controller. [`stream`]: events and output for readers.
//!
//! Front ends reach all of it through the socket only (docs/controller-api.md).

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OnceCell, mpsc, watch};

use crate::api::{self, Bottle, Run, UsageQuery, UsageReport, Version};
use crate::enforce::{Bottles, Enforcement};
use crate::error::{Error, Kind, Result};
use crate::ledger::sqlite::{Options, SqliteLedger};
use crate::ledger::{GLOBAL, Ledger, LedgerError, Standing};
use crate::name::{begins, is_numbered};
use crate::settings::Settings;
use crate::types::Book;

pub mod adopt;
pub mod binds;
pub mod budgets;
pub mod compose;
pub mod daemon;
pub mod http;
pub mod input;
pub mod keep;
pub mod keepers;
pub mod launch;
pub mod lease;
pub mod link;
pub mod live;
pub mod logins;
pub mod note;
pub mod peer;
mod routes;
pub mod stream;
pub mod trust;

use compose::Host;
use keepers::Keepers;
use lease::Leases;
use live::Live;

/// The state of a controller.
pub struct Controller {
    /// Where this process lives.
    pub host: Host,
    /// Where the processes of new keepers come from.
    keepers: Keepers,
    /// When it started, milliseconds since the epoch.
    started: i64,
    /// The ledger of real usage; always open.
    real: SqliteLedger,
    /// The ledger of rehearsals, opened when first needed.
    rehearsal: OnceCell<SqliteLedger>,
    /// The host's budgets, as this controller has last set them.
    budget: tokio::sync::Mutex<Option<Vec<api::Limit>>>,
    /// Bottles of this life of the controller, ended ones included, by slug.
    bottles: Mutex<HashMap<String, Arc<Live>>>,
    /// One launch at a time for each client id: a retry waits for the first and gets its answer.
    launching: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Names whose state directory is there and whose bottle is not yet.
    making: keep::Making,
    /// Leases held by front ends.
    pub leases: Arc<Leases>,
    /// Connections that are served now.
    pub connections: Arc<AtomicUsize>,
    /// Becomes true when all bottles that outlived the last controller have been taken up.
    adopted: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    enforcement: std::sync::OnceLock<Arc<Enforcement>>,
    /// Logins of the host that bottles work with.
    pub logins: logins::Logins,
    /// Authorities of the host, for upstream certificates.
    pub roots: Arc<rustls::RootCertStore>,
}

/// Turns a ledger's error into the one that people see.
pub fn ledger_error(e: &LedgerError, place: &std::path::Path) -> Error {
    let (kind, hint) = match e {
        LedgerError::Newer { .. } => {
            (Kind::LedgerNewer, "use the bb that wrote it, or a newer one; nothing was changed")
        }
        LedgerError::Corrupt(_) => {
            (Kind::LedgerCorrupt, "restore the file from a backup, or move it away to start a new one")
        }
        LedgerError::Full(_) => (Kind::LedgerFull, "free some space; metered requests are refused until then"),
        LedgerError::NetworkFs(_) => (Kind::FsUnsupported, "set BB_HOME to a directory on a local disk"),
        LedgerError::Unavailable(_) => (Kind::LedgerFull, "look at the controller's log: `bb controller logs`"),
        LedgerError::Misuse(_) => (Kind::Internal, "this is a fault of bb"),
    };
    Error::new(kind, e.to_string()).at(place.display().to_string()).hint(hint)
}

impl Controller {
    /// Opens the ledgers and settings of a home.
    ///
    /// # Errors
    /// The ledger's kinds.
    pub async fn open(host: Host) -> Result<Arc<Controller>> {
        let settings = Settings::load(&host.home).unwrap_or_default();
        let real = open_ledger(&host, Book::Real, &settings).await?;
        let (leases, lost) = Leases::new();
        let controller = Arc::new(Controller {
            started: crate::bottle::output::now_ms(),
            real,
            rehearsal: OnceCell::new(),
            budget: tokio::sync::Mutex::default(),
            bottles: Mutex::default(),
            launching: Mutex::default(),
            making: keep::Making::default(),
            leases,
            connections: Arc::new(AtomicUsize::new(0)),
            adopted: watch::Sender::new(false),
            stop: watch::Sender::new(false),
            enforcement: std::sync::OnceLock::new(),
            logins: logins::Logins::default(),
            roots: crate::egress::upstream::host_roots(),
            keepers: Keepers::new(host.exe.clone()),
            host,
        });
        if controller.host.home.rehearsal_ledger().exists() {
            controller.ledger(Book::Rehearsal).await?;
        }
        tokio::spawn(Arc::clone(&controller).end_lost_leases(lost));
        tokio::spawn(budgets::look_for_more(Arc::downgrade(&controller)));
        Ok(controller)
    }

    /// Gets the ledger of a book.
    ///
    /// # Errors
    /// The ledger's kinds.
    pub async fn ledger(&self, book: Book) -> Result<SqliteLedger> {
        if book == Book::Real {
            return Ok(self.real.clone());
        }
        let settings = self.settings().unwrap_or_default();
        self.rehearsal.get_or_try_init(|| open_ledger(&self.host, Book::Rehearsal, &settings)).await.cloned()
    }

    /// Reads settings.yml as it is now.
    ///
    /// # Errors
    /// Every problem of the file, joined into one error.
    pub fn settings(&self) -> Result<Settings> {
        Settings::load(&self.host.home).map_err(crate::yaml::read::joined)
    }

    /// Answers `GET /v1/version`.
    pub async fn version(&self) -> Version {
        Version {
            faults: self.faults().await,
            api: api::API_MAJOR,
            revision: api::API_REVISION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            home: self.host.home.root.display().to_string(),
            started: self.started,
            running: self.running().len() as u32,
        }
    }

    /// Names what keeps metered requests from passing, each with one thing to do.
    async fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (ledger, place) in std::iter::once((&self.real, self.host.home.ledger()))
            .chain(self.rehearsal.get().map(|ledger| (ledger, self.host.home.rehearsal_ledger())))
        {
            if let Some(trouble) = ledger.trouble().await {
                let error = ledger_error(&trouble, &place);
                let hint = error.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                faults.push(format!("{}: {}{hint}", place.display(), error.message));
            }
        }
        faults
    }

    fn all(&self) -> Vec<Arc<Live>> {
        self.bottles.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn insert(&self, live: Arc<Live>) {
        self.bottles.lock().unwrap_or_else(PoisonError::into_inner).insert(live.slug.clone(), live);
    }

    /// Finds a bottle by slug, or by a prefix that fits only one.
    ///
    /// # Errors
    /// `no_such_bottle`, `ambiguous_slug`.
    pub fn find(&self, name: &str) -> Result<Arc<Live>> {
        let all = self.all();
        if let Some(exact) = all.iter().find(|b| b.slug == name) {
            return Ok(Arc::clone(exact));
        }
        let mut fits: Vec<_> = all.iter().filter(|b| begins(&b.slug, name)).collect();
        if fits.iter().any(|b| !b.has_ended()) {
            fits.retain(|b| !b.has_ended());
        }
        match fits.as_slice() {
            [one] => Ok(Arc::clone(one)),
            [] => Err(nobody(name, &all.iter().map(|b| b.slug.clone()).chain(self.kept_names()).collect())),
            several => {
                let mut names: Vec<_> = several.iter().map(|b| b.slug.as_str()).collect();
                names.sort_unstable();
                Err(ambiguous(name, &names))
            }
        }
    }

    /// Answers `GET /v1/bottles`: those that live, and with `all` those that have ended.
    ///
    /// # Errors
    /// The ledger's kinds.
    pub async fn list(&self, all: bool) -> Result<Vec<Bottle>> {
        let ours: Vec<Bottle> = self.all().iter().map(|b| b.view()).collect();
        let known: std::collections::HashSet<String> = ours.iter().map(|b| b.id.clone()).collect();
        let mut bottles: Vec<Bottle> = ours.into_iter().filter(|b| all || b.state != api::State::Ended).collect();
        for ledger in std::iter::once(&self.real).chain(self.rehearsal.get()) {
            let rows = match ledger.bottles(all).await {
                Ok(rows) => rows,
                // What lives is known all the same, and has to be seen just then.
                Err(e) if !all => {
                    tracing::error!("bottles of others are not known: {e}");
                    continue;
                }
                Err(e) => return Err(ledger_error(&e, &self.host.home.ledger())),
            };
            bottles.extend(
                rows.into_iter()
                    .filter(|r| !known.contains(&r.id))
                    .filter_map(|r| serde_json::from_str::<Bottle>(&r.body).ok())
                    .map(as_not_ours),
            );
        }
        for bottle in bottles.iter_mut().filter(|b| b.state == api::State::Ended) {
            let state = self.host.home.state(&bottle.slug);
            bottle.kept = crate::workspace::kept::is_kept_of(&state, &bottle.id);
            bottle.resumable = crate::workspace::session::is_kept_of(&state, &bottle.id);
        }
        bottles.sort_by(|a, b| (a.started, &a.slug).cmp(&(b.started, &b.slug)));
        // What is kept may be of a launch that took it up and died before it had a row: then it is the last one's before it.
        let told = bottles.iter().filter(|b| b.kept || b.state != api::State::Ended).map(|b| b.slug.clone());
        let mut told: std::collections::HashSet<String> = told.collect();
        for bottle in bottles.iter_mut().rev().filter(|b| b.state == api::State::Ended) {
            if told.insert(bottle.slug.clone()) {
                let state = self.host.home.state(&bottle.slug);
                bottle.kept = crate::workspace::kept::is_kept(&state);
                bottle.resumable = crate::workspace::session::is_kept(&state);
            }
        }
        Ok(bottles)
    }

    /// Says that a bottle has ended, and where to find what it wrote.
    fn over(&self, slug: &str) -> Error {
        let (message, hint) = match self.host.home.state(slug).exists() {
            true => ("has ended", format!("`bb logs {slug}` shows what it wrote")),
            false => ("has ended, and nothing of it is left", "`bb ps --all` lists the bottles".to_owned()),
        };
        Error::new(Kind::NoSuchBottle, format!("the bottle `{slug}` {message}")).hint(hint)
    }

    /// Finds a bottle that has ended before this controller's life, by its slug, or by a beginning that fits only one.
    ///
    /// # Errors
    /// `no_such_bottle`, and the ledger's kinds.
    pub async fn find_ended(&self, name: &str) -> Result<Bottle> {
        let bottles = self.list(true).await?;
        let living = bottles.iter().any(|b| b.slug == name && b.state != api::State::Ended);
        let ended: Vec<Bottle> = bottles.into_iter().filter(|b| b.state == api::State::Ended).collect();
        match ended.iter().rev().find(|b| b.slug == name) {
            Some(bottle) => Ok(bottle.clone()),
            None if living => Err(Error::new(Kind::Timeout, format!("the keeper of `{name}` does not answer"))
                .hint("it is asked again every 2 s; `bb controller logs` tells more")),
            None => match self.find(name) {
                Ok(_) => Err(Error::internal("it has not ended")),
                // A beginning that fits none of the living may fit one that has ended.
                Err(error) if error.kind == Kind::NoSuchBottle => {
                    let fitting: BTreeSet<&str> =
                        ended.iter().map(|b| b.slug.as_str()).filter(|slug| begins(slug, name)).collect();
                    match fitting.into_iter().collect::<Vec<_>>().as_slice() {
                        [] => Err(error),
                        [one] => ended.iter().rev().find(|b| b.slug == *one).cloned().ok_or(error),
                        several => Err(ambiguous(name, several)),
                    }
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Answers `POST /v1/runs`.
    ///
    /// # Errors
    /// The ledger's kinds.
    pub async fn run(&self, run: Run) -> Result<Vec<api::Account>> {
        launch::refuse_times(&run.budget, "budget")?;
        let ledger = self.ledger(run.book).await?;
        let node = format!("run:{}", run.id);
        let place = self.host.home.ledger();
        if !run.recipe.is_empty() {
            ledger.put_run(&run.id, &run.recipe).await.map_err(|e| ledger_error(&e, &place))?;
        }
        ledger.set_limits(&node, run.budget).await.map_err(|e| ledger_error(&e, &place))?;
        ledger.accounts(Some(&node)).await.map_err(|e| ledger_error(&e, &place))
    }

    /// Answers `POST /v1/usage/query`.
    ///
    /// # Errors
    /// The ledger's kinds.
    pub async fn usage(&self, query: UsageQuery) -> Result<UsageReport> {
        if let Some(zone) = query.zone.as_deref().filter(|zone| jiff::tz::TimeZone::get(zone).is_err()) {
            let shown: String = zone.chars().take(60).collect();
            return Err(Error::new(Kind::Usage, format!("`{shown}` is not a time zone"))
                .hint("write a name such as Europe/Berlin"));
        }
        let ledger = self.ledger(query.book).await?;
        ledger.usage(query).await.map_err(|e| ledger_error(&e, &self.host.home.ledger()))
    }

    /// Gets who acts when a budget is spent.
    pub fn enforcement(self: &Arc<Self>) -> Arc<Enforcement> {
        Arc::clone(self.enforcement.get_or_init(|| Enforcement::start(Arc::downgrade(self))))
    }

    /// Waits until the bottles of the last controller have been taken up.
    pub async fn ready(&self) {
        let mut adopted = self.adopted.subscribe();
        let _ = adopted.wait_for(|done| *done).await;
    }

    /// Asks this controller to leave; keepers will not start another.
    pub fn ask_to_stop(&self) {
        let _ = std::fs::write(self.host.home.stopped(), "stopped by the operator\n");
        self.stop.send_replace(true);
    }

    /// Returns when it has been asked to stop.
    pub async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        let _ = stop.wait_for(|stop| *stop).await;
    }

    /// Tells whether a bottle lives or somebody talks to us.
    pub fn is_needed(&self) -> bool {
        self.connections.load(Ordering::Relaxed) > 0 || self.leases.count() > 0 || !self.running().is_empty()
    }

    /// Closes every way out and the ledgers. Bottles live on with their keepers.
    pub async fn close(&self) {
        for bottle in self.running() {
            bottle.close_egress().await;
        }
        self.logins.end().await;
        for ledger in std::iter::once(&self.real).chain(self.rehearsal.get()) {
            if let Err(e) = ledger.close().await {
                tracing::error!("closing the ledger: {e}");
            }
        }
    }

    /// Ends the bottles of leases that are lost, and forgets what was kept for their front end.
    async fn end_lost_leases(self: Arc<Self>, mut lost: mpsc::UnboundedReceiver<String>) {
        while let Some(lease) = lost.recv().await {
            for bottle in self.all().into_iter().filter(|b| b.launch.lease.as_deref() == Some(&lease)) {
                if bottle.has_ended() {
                    bottle.forget();
                    self.bottles.lock().unwrap_or_else(PoisonError::into_inner).remove(&bottle.slug);
                } else {
                    bottle.lose_lease(&lease);
                    let controller = Arc::clone(&self);
                    tokio::spawn(async move {
                        bottle.ended().await;
                        bottle.forget();
                        controller.bottles.lock().unwrap_or_else(PoisonError::into_inner).remove(&bottle.slug);
                    });
                }
            }
        }
    }
}

impl Bottles for Controller {
    type Bottle = Live;

    fn running(&self) -> Vec<Arc<Live>> {
        self.all().into_iter().filter(|b| !b.has_ended()).collect()
    }

    async fn spent(&self, bottles: &[Arc<Live>]) -> Vec<Option<Vec<Standing>>> {
        let mut answers = vec![None; bottles.len()];
        for book in [Book::Real, Book::Rehearsal] {
            let (at, paths): (Vec<usize>, Vec<_>) = bottles
                .iter()
                .enumerate()
                .filter(|(_, live)| live.launch.book == book)
                .map(|(at, live)| (at, (live.path.clone(), live.launch.provider.clone())))
                .unzip();
            let Some(ledger) = at.first().map(|at| bottles[*at].ledger.clone()) else { continue };
            match ledger.spent_on(paths).await {
                Ok(spent) => at.iter().zip(spent).for_each(|(at, spent)| answers[*at] = Some(spent)),
                Err(e) => tracing::error!("what else is spent is not known: {e}"),
            }
        }
        answers
    }
}

/// Says that there is no such bottle, and what there is that may have been meant.
fn nobody(name: &str, slugs: &BTreeSet<String>) -> Error {
    let numbered: Vec<&str> = slugs.iter().map(String::as_str).filter(|slug| is_numbered(slug, name)).take(5).collect();
    let (message, near) = match numbered.as_slice() {
        [] => (String::new(), crate::error::nearest(name, slugs.iter().map(String::as_str))),
        [one] => (format!("; there is {one}"), None),
        several => (format!("; there are {}", several.join(", ")), None),
    };
    let hint = match (numbered.is_empty(), near) {
        (true, Some(near)) => format!("did you mean `{near}`? `bb ps --all` lists the bottles"),
        (true, None) => "`bb ps --all` lists the bottles".to_owned(),
        (false, _) => "write the whole name; `bb ps --all` lists the bottles".to_owned(),
    };
    Error::new(Kind::NoSuchBottle, format!("there is no bottle `{name}`{message}")).hint(hint)
}

fn ambiguous(name: &str, names: &[&str]) -> Error {
    Error::new(Kind::AmbiguousSlug, format!("`{name}` fits {}", names.join(", "))).hint("write more of the name")
}

/// What the row of a bottle says that this controller has not taken up: while it lives, it has no way out.
fn as_not_ours(mut bottle: Bottle) -> Bottle {
    if bottle.state != api::State::Ended && bottle.egress == api::Egress::Open {
        bottle.egress = api::Egress::Closed;
        bottle.reason = Some("its keeper does not answer".to_owned());
    }
    bottle
}

/// Opens the ledger of a book: settles what the last controller left open, and sets the host's budgets.
async fn open_ledger(host: &Host, book: Book, settings: &Settings) -> Result<SqliteLedger> {
    let path = match book {
        Book::Real => host.home.ledger(),
        Book::Rehearsal => host.home.rehearsal_ledger(),
    };
    let zone = jiff::tz::TimeZone::system();
    let options = Options { durability: settings.durability, weights: settings.weights, zone, ..Options::default() };
    let opened = tokio::task::spawn_blocking({
        let path = path.clone();
        move || SqliteLedger::open(&path, options)
    })
    .await
    .map_err(|e| Error::internal(e.to_string()))?;
    let fail = |e: LedgerError| ledger_error(&e, &path);
    let ledger = opened.map_err(fail)?;
    let swept = ledger.sweep().await.map_err(fail)?;
    if swept > 0 {
        tracing::warn!(swept, ?book, "requests of an earlier controller were charged at their estimate");
    }
    if book == Book::Real {
        ledger.set_limits(GLOBAL, settings.budget.clone()).await.map_err(fail)?;
    }
    Ok(ledger)
}

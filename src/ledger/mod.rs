//! The ledger: usage, holds, budgets, enforcement, audit and events of one book, on disk.
//!
//! [`Ledger`] says what can be asked of it, in the words of the domain; no caller sees SQL. Behind it stands
//! [`sqlite`]. A backend must pass [`conformance`]. Only the controller opens a ledger.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{Account, BudgetChange, Event, Headroom, Limit, Pruned, UsageQuery, UsageReport, Verified};
pub use crate::budget::{Learned, Raised, Settlement, Standing, Weights};
use crate::error::{Error, Kind};
use crate::types::{Api, Source, Tokens};

#[cfg(test)]
pub mod conformance;
pub mod period;
pub mod sqlite;

/// What can go wrong with a ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// No commit within the time allowed, or the writer is gone. Metered egress closes.
    #[error("the ledger does not answer: {0}")]
    Unavailable(String),
    /// No space to write.
    #[error("the ledger's file system is full: {0}")]
    Full(String),
    /// The schema is newer than this bb.
    #[error("the ledger has schema {found}, this bb knows {known}")]
    Newer {
        /// Version in the file.
        found: u32,
        /// Newest version known.
        known: u32,
    },
    /// The file is not a usable database.
    #[error("the ledger cannot be read: {0}")]
    Corrupt(String),
    /// A file system on which SQLite's locks cannot be trusted.
    #[error("the ledger lies on a network file system ({0})")]
    NetworkFs(String),
    /// A call that makes no sense (settling a hold that does not exist, say).
    #[error("{0}")]
    Misuse(String),
}

/// A node of a bottle's path, nearest first: `bottle:ID`, `agent:NAME@ID`, `agent:NAME`, `manifest:NAME@ID`, `manifest:NAME`,
/// `run:ID`, `global`.
pub type Node = String;

impl From<LedgerError> for Error {
    fn from(e: LedgerError) -> Error {
        let message = e.to_string();
        match e {
            LedgerError::Unavailable(_) => Error::new(Kind::Internal, message)
                .hint("metered requests are refused until it answers; `bb controller logs` says more"),
            LedgerError::Full(_) => {
                Error::new(Kind::LedgerFull, message).hint("free some space there; the ledger goes on by itself")
            }
            LedgerError::Newer { .. } => {
                Error::new(Kind::LedgerNewer, message).hint("use the bb that wrote it, or a newer one")
            }
            LedgerError::Corrupt(_) => {
                Error::new(Kind::LedgerCorrupt, message).hint("move the file away, or put a backup in its place")
            }
            LedgerError::NetworkFs(_) => {
                Error::new(Kind::FsUnsupported, message).hint("set BB_HOME to a directory on a local disk")
            }
            LedgerError::Misuse(_) => Error::internal(message),
        }
    }
}

/// The node of the whole host.
pub const GLOBAL: &str = "global";

/// Asks for a hold: one request about to leave the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRequest {
    /// Unique id of the request, chosen by the egress plane (UUID v7).
    pub id: String,
    /// Nodes of the bottle's path, nearest first.
    pub path: Vec<Node>,
    /// Budget key.
    pub provider: String,
    /// Bottle's slug, for the usage row.
    pub bottle: String,
    /// Agent, for the usage row.
    pub agent: String,
    /// Run, for the usage row.
    pub run: Option<String>,
    /// API that is called.
    pub api: Api,
    /// Host called.
    pub host: String,
    /// Model asked for.
    pub model: String,
    /// Estimate of the input, counted tokens; never clamped.
    pub input: u64,
    /// The least that the input can be, counted tokens: what cannot fit is refused by this, but for hard limits. What is estimated where `None`.
    pub least: Option<u64>,
    /// Estimate of the output, counted tokens, unclamped; the hold takes at most what is left.
    pub output: u64,
    /// The provider was asked how many tokens the input has, whatever it said.
    pub counted: bool,
    /// How accounts stood when the bottle's agent was told to hand over what it has.
    pub told: Vec<Standing>,
}

/// Answer to a [`HoldRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldOutcome {
    /// Granted: `held` tokens are reserved on every node of the path.
    Granted {
        /// Tokens reserved: input estimate + output estimate clamped to what is left.
        held: u64,
        /// Of what the agent is to be told, if it was not: accounts, and the highest threshold of each that was passed. Unit: percent.
        near: Vec<(Standing, u8)>,
    },
    /// It does not fit now, but other requests are in flight and may give back: ask again when one has settled.
    Wait(Standing),
    /// It does not fit.
    Refused(Standing),
    /// It fits only into what the limit keeps back: the agent is to hand over what it has. Told of this, it fits.
    WrapUp(Standing),
    /// The provider is to be asked how many tokens the input has.
    Count,
}

/// What was learned of a model, as one agent uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// Budget key.
    pub provider: String,
    /// Model asked for.
    pub model: String,
    /// Agent.
    pub agent: String,
    /// The figures.
    pub learned: Learned,
}

/// Raises an open hold, never lowers it. Unit: counted tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raise {
    /// What it has to be at least.
    pub to: u64,
    /// How much more, where there is room for it.
    pub ahead: u64,
    /// Its bottle is paused when a budget is spent.
    pub pauses: bool,
    /// Usage seen so far: kept with the hold, so that a sweep knows it.
    pub seen: Option<Tokens>,
}

impl Raise {
    /// Raises it to `tokens`.
    pub fn to(tokens: u64) -> Raise {
        Raise { to: tokens, ..Raise::default() }
    }
}

/// Settles a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The hold.
    pub id: String,
    /// How it ended.
    pub how: Settlement,
    /// Model that answered, if it said so.
    pub model: Option<String>,
    /// The API's id of the response.
    pub response_id: Option<String>,
    /// The API's usage object, as JSON text.
    pub raw_usage: Option<String>,
    /// Facts for the `usage` event beside the figures: method, path, status.
    pub facts: Arc<Value>,
}

/// Answer to a [`Settle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What was charged, by weights.
    pub counted: u64,
    /// The classes that were entered.
    pub tokens: Tokens,
    /// How well they are known.
    pub source: Source,
    /// The account that governs, after the charge.
    pub governs: Option<Standing>,
    /// Accounts that govern or bind and are spent (used >= limit) after this charge.
    pub crossed: Vec<Standing>,
    /// The event's sequence number (0 where nothing was charged and no event was written).
    pub seq: u64,
}

/// An event to be written; `seq` and `ts` are given by the ledger.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewEvent {
    /// Its type (docs/controller-api.md).
    pub kind: String,
    /// Bottle's slug.
    pub bottle: Option<String>,
    /// Run.
    pub run: Option<String>,
    /// More, by type.
    pub data: Value,
    /// Also entered in the enforcement table, and fsynced before it is acknowledged.
    pub audit: bool,
}

/// A bottle's row. Kept small: what adoption and reports need after a crash; never a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BottleRow {
    /// The launch's client id: primary key.
    pub id: String,
    /// Slug, unique in the book among bottles that have not ended.
    pub slug: String,
    /// [`crate::api::Bottle`] as JSON.
    pub body: String,
    /// Whether it has ended.
    pub ended: bool,
    /// Cut, and how much: `all` or `metered`; survives restarts.
    pub cut: Option<String>,
}

/// Which events a reader wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Only `seq > since`.
    pub since: u64,
    /// One bottle.
    pub bottle: Option<String>,
    /// One run.
    pub run: Option<String>,
    /// Only `ts >= after`. Unit: milliseconds since the epoch.
    pub after: i64,
    /// At most so many; 0 = as many as one answer holds (10,000).
    pub max: u32,
}

/// A future that a ledger answers with.
pub type Answer<T> = std::result::Result<T, LedgerError>;

/// What the controller asks of a ledger. Every call that writes returns after its commit.
pub trait Ledger: Clone + Send + Sync + 'static {
    /// Reserves tokens on every node of a path, or says why not: one transaction.
    fn hold(&self, request: HoldRequest) -> impl Future<Output = Answer<HoldOutcome>> + Send;
    /// Raises an open hold; says which limits are passed by it.
    fn raise(&self, id: &str, raise: Raise) -> impl Future<Output = Answer<Raised>> + Send;
    /// Gets how tokens are counted.
    fn weights(&self) -> Weights;
    /// Ends a hold, charges its nodes, writes the usage row and its `usage` event: one transaction. A second settle of
    /// the same hold with more usage raises the charge; with less it changes nothing.
    fn settle(&self, settle: Settle) -> impl Future<Output = Answer<Settled>> + Send;
    /// Settles every open hold of an earlier writer as `swept`. Returns how many.
    fn sweep(&self) -> impl Future<Output = Answer<u64>> + Send;
    /// Sets the limits of a node as a file or a recipe says them, replacing earlier ones; usage is kept. What the operator has
    /// said over them by [`Ledger::budget_change`] stands for as long as they say the same.
    fn set_limits(&self, node: &str, limits: Vec<Limit>) -> impl Future<Output = Answer<()>> + Send;
    /// Changes one account for the operator; written as an event `budget`, and on the disk before it is acknowledged. The same
    /// change again is made once. Gets the account as it stands then.
    fn budget_change(&self, change: BudgetChange, by: &str) -> impl Future<Output = Answer<Account>> + Send;
    /// Gets accounts, of one node or of all.
    fn accounts(&self, node: Option<&str>) -> impl Future<Output = Answer<Vec<Account>>> + Send;
    /// Tells how the account that a launch on `path` would hit first stands, if it is spent.
    fn spent(&self, path: Vec<Node>, provider: &str) -> impl Future<Output = Answer<Option<Standing>>> + Send;
    /// Gets the accounts of a provider, and of all together, on a path, the nearest node first.
    fn path(&self, path: Vec<Node>, provider: &str) -> impl Future<Output = Answer<Vec<Account>>> + Send;
    /// Tells which accounts on each of many paths (nearest node first, and a provider) govern or bind and are spent: all as
    /// they stand at one moment, and at the price of one reading.
    fn spent_on(&self, paths: Vec<(Vec<Node>, String)>) -> impl Future<Output = Answer<Vec<Vec<Standing>>>> + Send;
    /// Appends an event; returns it with its sequence number.
    fn append(&self, event: NewEvent) -> impl Future<Output = Answer<Event>> + Send;
    /// Appends events of a bottle, each its type and its data as JSON, in their order: one transaction, all or none. None is
    /// audited.
    fn append_all(
        &self,
        bottle: &str,
        run: Option<&str>,
        events: Vec<(&'static str, String)>,
    ) -> impl Future<Output = Answer<()>> + Send;
    /// Writes what enforcement has done: its event, and the bottle's row as it is now, in one transaction and on the disk
    /// before it is acknowledged. What fails for want of space is written when there is some.
    fn enforced(&self, event: NewEvent, row: BottleRow) -> impl Future<Output = Answer<Event>> + Send;
    /// Reads events in order of `seq`.
    fn events(&self, query: EventQuery) -> impl Future<Output = Answer<Vec<Event>>> + Send;
    /// Subscribes to events as they are committed.
    fn subscribe(&self) -> tokio::sync::broadcast::Receiver<Event>;
    /// Changes whenever a hold has ended or limits were set: who was told to wait asks again then.
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;
    /// Sums usage.
    fn usage(&self, query: UsageQuery) -> impl Future<Output = Answer<UsageReport>> + Send;
    /// Writes a bottle's row: inserts, or replaces the one with its id.
    fn put_bottle(&self, row: BottleRow) -> impl Future<Output = Answer<()>> + Send;
    /// Reads one bottle by its launch id.
    fn bottle(&self, id: &str) -> impl Future<Output = Answer<Option<BottleRow>>> + Send;
    /// Reads bottles, all or only those that have not ended.
    fn bottles(&self, all: bool) -> impl Future<Output = Answer<Vec<BottleRow>>> + Send;
    /// Gets the newest hold that has ended with the answer `response_id` of `api` at `host`.
    fn hold_of(&self, api: Api, host: &str, response_id: &str) -> impl Future<Output = Answer<Option<String>>> + Send;
    /// Number of open holds, of one bottle or of all.
    fn open_holds(&self, bottle: Option<&str>) -> impl Future<Output = Answer<u64>> + Send;
    /// Gets what was learned of a provider's models.
    fn lessons(&self, provider: &str) -> impl Future<Output = Answer<Vec<Lesson>>> + Send;
    /// Keeps what was learned, in place of what is kept of the same.
    fn keep_lesson(&self, lesson: Lesson) -> impl Future<Output = Answer<()>> + Send;
    /// Writes which recipe a run is of, for reports.
    fn put_run(&self, id: &str, recipe: &str) -> impl Future<Output = Answer<()>> + Send;
    /// Remembers what a provider said of its own limits.
    fn saw_headroom(&self, headroom: Headroom) -> impl Future<Output = Answer<()>> + Send;
    /// Gets what providers have last said of their own limits.
    fn headroom(&self) -> impl Future<Output = Answer<Vec<Headroom>>> + Send;
    /// Looks whether everything is as it was written; `expected` is the number and the hash of an event as an earlier look told them.
    fn verify(&self, expected: Option<(u64, String)>) -> impl Future<Output = Answer<Verified>> + Send;
    /// Hands over every row as a line of JSON; returns when all are, or when the receiver is gone.
    fn export(&self, to: tokio::sync::mpsc::Sender<String>) -> impl Future<Output = Answer<()>> + Send;
    /// Copies the book as it is now into a new file; writing goes on meanwhile. Gets the file's length.
    fn backup(&self, to: &Path) -> impl Future<Output = Answer<u64>> + Send;
    /// Removes events and usage rows older than `before` (milliseconds since the epoch), less the last 30 days. Sums and accounts stay.
    fn prune(&self, before: i64) -> impl Future<Output = Answer<Pruned>> + Send;
    /// Commits what is queued, fsyncs and stops the writer.
    fn close(&self) -> impl Future<Output = Answer<()>> + Send;
}

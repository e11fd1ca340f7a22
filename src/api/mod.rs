//! What is said on the controller's socket: API v1, as types (docs/controller-api.md is the contract).
//!
//! Shared by [`crate::client`] and [`crate::controller`]. Plain data with serde; no I/O and no decisions.
//!
//! * [`launch`]: what a launch asks for. [`limit`]: what its budgets say. [`budget`]: what is changed of them, and how a bottle's stand. [`login`]: whose subscription it works with. [`route`], [`origin`]: its allow-list, and who said so. [`bottle`]: how a bottle stands, and what can be done to it.
//! * [`workspace`]: what an agent has changed. [`exec`]: commands in a bottle, and output. [`books`]: events, usage, accounts, runs.

use serde::{Deserialize, Serialize};

pub mod books;
pub mod bottle;
pub mod budget;
pub mod exec;
pub mod launch;
pub mod limit;
pub mod login;
pub mod origin;
pub mod route;
pub mod workspace;

pub use books::{
    Account, BackedUp, Backup, By, Event, Fault, Headroom, PruneLedger, Pruned, Run, Slice, Span, UsageQuery,
    UsageReport, UsageRow, UsageTotal, Verified, Window,
};
pub use bottle::{Act, Bottle, Commit, Cut, Egress, Ended, Leftover, Prune, Removed, State, Stop};
pub use budget::{BudgetAct, BudgetChange, BudgetChanged, BudgetDone, BudgetPath, PathAccount};
pub use exec::{Exec, ExecFrame, Input, Resize, Signal, SignalName, Taken};
pub use launch::{
    BudgetNode, BudgetScope, Counted, Credentials, Direct, File, Kept, Launch, Mount, Session, Upstream, UpstreamProxy,
};
pub use limit::{Gate, Limit, OnCross, Period, Terms};
pub use login::{Login, LoginForm};
pub use origin::{Origin, OriginKind};
pub use route::{
    Auth, AuthScheme, HeaderKind, HeaderRule, Match, PathKind, PathRule, Route, Routes, RoutesChange, Tls, Unsent,
    Verdict,
};
pub use workspace::{
    Applied, Apply, Change, Copied, Copy, Diff, DiffQuery, Done, FileKind, Limits, Outcome, Wanted, What, WorkspaceMode,
};

/// The major version of this API. Same number = front end and controller talk.
pub const API_MAJOR: u32 = 1;

/// Raised with each key that a body or a query gets: a controller refuses keys that it does not know, so a front end leaves out what an older
/// one can do without ([`Launch::for_revision`]), and else asks for its restart.
pub const API_REVISION: u32 = 3;
/// The first revision of which `GET /v1/bottles/S/why` looks at headers: an older one leaves out what it does not know of a query.
pub const HEADERS_ASKED: u32 = 2;

/// Answer of `GET /v1/version`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Version {
    /// [`API_MAJOR`] of the controller.
    pub api: u32,
    /// [`API_REVISION`] of the controller.
    #[serde(default)]
    pub revision: u32,
    /// The crate's version.
    pub version: String,
    /// Process id of the controller.
    pub pid: u32,
    /// The `BB_HOME` it serves.
    pub home: String,
    /// Milliseconds since the epoch.
    pub started: i64,
    /// Bottles whose process lives.
    pub running: u32,
    /// What keeps metered requests from passing: a sentence for each fault of a ledger.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

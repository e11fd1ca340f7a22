//! How a bottle stands, and what can be done to it.

use serde::{Deserialize, Serialize};

use super::workspace::WorkspaceMode;
use crate::types::{Book, CutScope};

/// A bottle as the controller shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bottle {
    /// Its name.
    pub slug: String,
    /// The launch's client id.
    pub id: String,
    /// Provider and budget key.
    pub provider: String,
    /// Agent name for reports.
    pub agent: String,
    /// Run it belongs to.
    pub run: Option<String>,
    /// The book it is entered in.
    pub book: Book,
    /// `planned | starting | running | paused | stopping | ended`.
    pub state: State,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// `closed | open | cut`.
    pub egress: Egress,
    /// Exit code of the agent, `128 + signal` when killed by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The cut that stands, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<Cut>,
    /// One sentence about the end or the cut, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The workspace's path, on the host and in the bottle.
    pub workspace: String,
    /// Milliseconds since the epoch.
    pub started: i64,
    /// Milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<i64>,
    /// Whether a front end must stay for it to live.
    pub attached: bool,
    /// Its agent has a terminal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminal: bool,
    /// The ANSI colour in which it is listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
    /// How its workspace came in, where it is no mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_mode: Option<WorkspaceMode>,
    /// It has ended, and its session can be taken up again: `bb resume`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumable: bool,
    /// It has ended, and what is left of it is kept: `bb diff`, `bb apply`, `bb resume`, `bb rm`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// What was asked for and is not enforced here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The launch that its own budget is counted from (`bottle:ACCOUNT`), where it took up an earlier one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}

/// Where a bottle's process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Row written.
    Planned,
    /// Keeper up.
    Starting,
    /// The agent runs.
    Running,
    /// Its processes are stopped.
    Paused,
    /// Being taken down.
    Stopping,
    /// Over; see [`Bottle::ended`].
    Ended,
}

impl State {
    /// All but the last.
    pub const LIVING: &[State] = &[State::Planned, State::Starting, State::Running, State::Paused, State::Stopping];
}

/// Why a bottle ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The agent came to its own end.
    Exited,
    /// An operator or recipe killed it.
    Killed,
    /// A budget's `kill`.
    Budget,
    /// A policy's `kill`.
    Policy,
    /// Its time was up.
    Timeout,
    /// Its front end went away.
    LeaseLost,
    /// It never came up.
    StartFailed,
    /// Out of memory.
    Oom,
    /// Keeper gone without a word.
    Lost,
    /// The host was restarted.
    HostRestart,
    /// Its state was saved; `bb resume` takes it up again.
    Frozen,
}

/// What a bottle's way out is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// Nothing passes: not started, ended, or no controller.
    Closed,
    /// The allow-list holds.
    Open,
    /// Cut by a budget, a policy or the operator.
    Cut,
}

/// A cut, and why. Of several that were made the widest scope stands, and the word of whoever weighs most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// What it takes away.
    pub scope: CutScope,
    /// For people.
    pub reason: String,
    /// Who cut: `budget`, `policy`, or `operator` for a person or a recipe.
    pub by: String,
    /// The node whose budget is spent, where it was a budget.
    pub node: Option<String>,
    /// Which budget of that node: its provider, or `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// What that budget had left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
}

/// Body of `POST /v1/bottles/S/cut`, `/pause`, `/thaw`, `/freeze` and `/kill`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// Chosen by the client.
    pub id: String,
    /// Said in the audit row and to the agent.
    #[serde(default)]
    pub reason: Option<String>,
    /// For a cut: what it takes away.
    #[serde(default)]
    pub scope: Option<CutScope>,
}

/// Body of `POST /v1/bottles/S/commit`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Chosen by the client.
    pub id: String,
    /// Of a container: name of an image that is made of it as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// Body of `POST /v1/bottles/S/stop`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Chosen by the client.
    pub id: String,
    /// How long the agent has for its end; then it is killed. Unit: milliseconds.
    pub timeout_ms: u64,
    /// Said where it had to be killed.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Body of `POST /v1/prune`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Chosen by the client.
    pub id: String,
    /// Only list what would be removed.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer of `POST /v1/bottles/S/rm`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Removed {
    /// What is known of it.
    #[serde(flatten)]
    pub bottle: Bottle,
    /// There was something to remove; `false` where it was gone before.
    #[serde(default = "yes")]
    pub removed: bool,
}

fn yes() -> bool {
    true
}

/// Something that is left of a bottle which does not run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leftover {
    /// `kept` (changes that nobody has applied), `state` (output and the like), `cgroup`.
    pub kind: String,
    /// Slug, or path.
    pub name: String,
}

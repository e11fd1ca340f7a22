//! What the ledgers tell: events, usage, accounts; and the run that a common budget belongs to.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Limit, Period, Terms};
use crate::types::{Book, Tokens};

/// Body of `POST /v1/runs`: one `bb run` and its common budget.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Chosen by the client.
    pub id: String,
    /// The recipe's name, for reports.
    pub recipe: String,
    /// The book.
    #[serde(default)]
    pub book: Book,
    /// Limits of the run scope. Sent again, they replace the earlier ones.
    #[serde(default)]
    pub budget: Vec<Limit>,
}

/// One event. `seq` grows without holes within a book.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Version of this form: 1.
    pub v: u32,
    /// Position in the book.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub ts: i64,
    /// What happened (docs/controller-api.md lists the types and their data).
    #[serde(rename = "type")]
    pub kind: String,
    /// The bottle it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bottle: Option<String>,
    /// The run it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// More, by type.
    #[serde(default)]
    pub data: Value,
}

/// Body of `POST /v1/usage/query`. Every field narrows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    /// The book.
    #[serde(default)]
    pub book: Book,
    /// One bottle's slug.
    #[serde(default)]
    pub bottle: Option<String>,
    /// One run.
    #[serde(default)]
    pub run: Option<String>,
    /// One provider.
    #[serde(default)]
    pub provider: Option<String>,
    /// Not before, milliseconds since the epoch.
    #[serde(default)]
    pub since: Option<i64>,
    /// Before, milliseconds since the epoch.
    #[serde(default)]
    pub until: Option<i64>,
    /// What each row is of; bottle, agent, provider and model where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Vec<By>>,
    /// One row for each of these stretches of time as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<Slice>,
    /// Whose days: a zone's name (IANA); the host's where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// What the rows of a report are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// A bottle's slug.
    Bottle,
    /// An agent.
    Agent,
    /// A provider: the budget key.
    Provider,
    /// The model that answered.
    Model,
    /// The recipe whose run it was.
    Recipe,
    /// The run.
    Run,
}

/// Stretches of time that a report is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slice {
    /// A day of the zone.
    Day,
    /// A week of the zone; it begins on Monday.
    Week,
    /// A month of the zone.
    Month,
    /// Not cut: one row for each bottle, the last used last.
    Session,
    /// Five hours from the full hour (UTC) of the first use that no earlier block has.
    Block,
}

/// Answer of `POST /v1/usage/query`; also what `bb usage --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageReport {
    /// One row for each bottle, agent, provider and model.
    pub rows: Vec<UsageRow>,
    /// The sum of the rows.
    pub total: UsageTotal,
}

/// One row of a usage report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Slug.
    pub bottle: String,
    /// Agent.
    pub agent: String,
    /// Provider: the budget key.
    pub provider: String,
    /// The model that answered.
    pub model: String,
    /// The recipe; only where the report is by recipe. Empty: none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<String>,
    /// The run; only where the report is by run. Empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// Its stretch of time, where the report is cut into some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// The figures.
    #[serde(flatten)]
    pub total: UsageTotal,
}

/// When a row of a report was. Unit: milliseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Where its stretch begins; of a session the first use.
    pub start: i64,
    /// Where it ends, that moment not included; of a session the last use.
    pub end: i64,
    /// The first use in it.
    pub first: i64,
    /// The last use in it.
    pub last: i64,
}

/// The figures of a report. Unit: tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageTotal {
    /// Settled requests that counted something.
    pub requests: u64,
    /// Uncached input.
    pub input: u64,
    /// Input read from a cache.
    pub cache_read: u64,
    /// Input written to a cache, all lifetimes.
    pub cache_write: u64,
    /// Output, reasoning included.
    pub output: u64,
    /// The reasoning part of output.
    pub reasoning: u64,
    /// What the budgets were charged, by weights.
    pub counted: u64,
    /// Rows among `requests` that are not exact.
    pub estimated: u64,
}

impl UsageTotal {
    /// Adds one settled row.
    pub fn add_row(&mut self, tokens: &Tokens, counted: u64, exact: bool) {
        self.requests += 1;
        self.input += tokens.input;
        self.cache_read += tokens.cache_read;
        self.cache_write += tokens.cache_write + tokens.cache_write_long;
        self.output += tokens.output;
        self.reasoning += tokens.reasoning;
        self.counted += counted;
        self.estimated += u64::from(!exact);
    }

    /// Adds another total.
    pub fn add(&mut self, other: &UsageTotal) {
        self.requests += other.requests;
        self.input += other.input;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
        self.output += other.output;
        self.reasoning += other.reasoning;
        self.counted += other.counted;
        self.estimated += other.estimated;
    }
}

/// One account of a node, in the answer of `GET /v1/budgets`. Unit: counted tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// `global`, `run:ID`, `manifest:NAME@ID`, `agent:NAME@ID` or `bottle:ID`, ID being a launch's for all but runs; and
    /// `manifest:NAME` and `agent:NAME`, which count by name over launches.
    pub node: String,
    /// Provider, or `*`.
    pub provider: String,
    /// The limit, with what it was raised by; absent = none set or unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Whether a limit (or `unlimited`) was said for this account.
    pub set: bool,
    /// Binds however near another limit is.
    pub hard: bool,
    /// Settled.
    pub used: u64,
    /// Reserved by open holds.
    pub held: u64,
    /// What holds near the limit.
    #[serde(default, skip_serializing_if = "Terms::is_default")]
    pub terms: Terms,
    /// The highest threshold that was told of. Unit: percent; 0 = none.
    #[serde(default, skip_serializing_if = "is_none_told")]
    pub warned: u8,
    /// How long it counts before it begins anew, where the limit says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Period>,
    /// When it begins anew by itself. Unit: milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets: Option<i64>,
    /// What of the limit was added by the operator.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub raised: u64,
    /// The operator set the limit; no file said it so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_operator: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_nothing(tokens: &u64) -> bool {
    *tokens == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_none_told(percent: &u8) -> bool {
    *percent == 0
}

/// What a provider said of its own limits, in the answer of `GET /v1/headroom`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headroom {
    /// The budget key that asked.
    pub provider: String,
    /// The host that answered.
    pub host: String,
    /// When. Milliseconds since the epoch.
    pub seen: i64,
    /// The limits.
    pub windows: Vec<Window>,
}

/// One limit of a provider's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Its length (`5h`, `7d`), or what it limits (`tokens`, `requests`).
    pub name: String,
    /// The share that is used. Unit: thousandths; may be above 1000.
    pub used: u32,
    /// When it begins anew. Milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets: Option<i64>,
}

/// Answer of `GET /v1/ledger/verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Events that were read.
    pub events: u64,
    /// Those among them that have a hash.
    pub chained: u64,
    /// Usage rows that were read.
    pub usage: u64,
    /// Accounts whose `used` was compared with the rows.
    pub accounts: u64,
    /// The last event before the chain's first.
    pub anchor: u64,
    /// Number and hash of the last event, as `SEQ:HEX`: kept elsewhere, it shows later whether the end was cut off.
    pub head: String,
    /// The first thing that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// What is wrong with a ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// `events`, `usage`, `accounts` or `sums`.
    pub table: String,
    /// Which row: a number, or a name.
    pub row: String,
    /// What is wrong with it.
    pub what: String,
}

/// Body of `POST /v1/ledger/prune`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneLedger {
    /// The book.
    #[serde(default)]
    pub book: Book,
    /// Only what is older. Milliseconds since the epoch.
    pub before: i64,
}

/// Answer of `POST /v1/ledger/prune`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Events that were removed.
    pub events: u64,
    /// Usage rows that were removed.
    pub usage: u64,
    /// The last event that is gone; 0 where none ever went.
    pub anchor: u64,
    /// What was really taken for `before`: later rows stay for their response ids.
    pub before: i64,
}

/// Body of `POST /v1/ledger/backup`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// The book.
    #[serde(default)]
    pub book: Book,
    /// Where to: an absolute path of a file that is not there.
    pub path: String,
}

/// Answer of `POST /v1/ledger/backup`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUp {
    /// Where it is.
    pub path: String,
    /// Bytes of the file.
    pub bytes: u64,
}

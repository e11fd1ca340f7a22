//! What the ledgers tell: events, usage, accounts; and the run that a common budget belongs to.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Limit, Terms};
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
    /// The figures.
    #[serde(flatten)]
    pub total: UsageTotal,
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
    /// `global`, `run:ID`, `manifest:NAME@ID`, `agent:NAME@ID` or `bottle:ID`, ID being a launch's for all but runs.
    pub node: String,
    /// Provider, or `*`.
    pub provider: String,
    /// The limit; absent = none set or unlimited.
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
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_none_told(percent: &u8) -> bool {
    *percent == 0
}

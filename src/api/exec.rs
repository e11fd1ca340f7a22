//! Commands in a bottle, and what its processes wrote.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::TerminalSize;

/// Body of `POST /v1/bottles/S/exec`. The answer is NDJSON of [`ExecFrame`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// Chosen by the client; the same id runs once.
    pub id: String,
    /// The command line.
    pub argv: Vec<String>,
    /// More variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; the workspace when absent.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Text for its standard input; empty when absent.
    #[serde(default)]
    pub stdin: Option<String>,
    /// Its standard input stays open, and is fed by [`Input`]; `stdin` then counts for nothing.
    #[serde(default)]
    pub input: bool,
    /// It gets a terminal of this size; its input is open.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
}

/// Body of `POST /v1/bottles/S/input`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Id of the exec; `agent` is the agent's.
    pub exec: String,
    /// Who feeds, chosen by the client: each feeder has a stream of its own.
    pub from: String,
    /// Where in that stream `data` begins, bytes. What was taken before is not taken again.
    pub seq: u64,
    /// Base64.
    #[serde(default)]
    pub data: String,
    /// Nothing comes after it: a pipe is closed. A terminal has no end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end: bool,
    /// Counts only where this feeder has fed nothing yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub once: bool,
}

/// Answer of `POST /v1/bottles/S/input`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Where in the feeder's stream it goes on.
    pub taken: u64,
    /// Whether more may be fed.
    pub open: bool,
}

/// Body of `POST /v1/bottles/S/resize`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// Id of the exec; `agent` is the agent's.
    pub exec: String,
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// Body of `POST /v1/bottles/S/signal`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// Id of the exec; its whole process group gets the signal.
    pub exec: String,
    /// Which signal.
    pub signal: SignalName,
}

/// The signals that can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalName {
    /// SIGHUP: nobody reads any more.
    Hup,
    /// SIGINT: Ctrl-C.
    Int,
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// One line of an exec's answer, and of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecFrame {
    /// Output. Untrusted: escape it before a terminal.
    Output {
        /// Position in the bottle's log; `?since=` takes it.
        n: u64,
        /// Milliseconds since the epoch.
        ts: i64,
        /// 0 = the agent itself, then every exec.
        exec: u32,
        /// `stdout` or `stderr`.
        stream: String,
        /// The bytes as UTF-8, invalid ones replaced.
        text: String,
        /// The bytes themselves in base64, with `?raw=1`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        raw: Option<String>,
    },
    /// The end of an exec.
    Exit {
        /// Which exec.
        exec: u32,
        /// Exit code, `128 + signal` when killed by one.
        code: i32,
    },
}

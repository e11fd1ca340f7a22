//! What a rehearsal plays: a small table, the same in Lua and JSON.
//!
//! ```lua
//! {
//!   turns = {
//!     { text = "I'll write it.", edit = { path = "hello.txt", content = "hi\n" },
//!       usage = { input = 1200, cache_write = 300, output = 80, reasoning = 20 } },
//!     { error = 529 },                       -- once; the agent's retry gets the rest of this turn
//!     { fetch = { url = "https://example.com/" }, chunk_ms = 20 },
//!     { text = "Done." },
//!     { replay = { base64 = "ZGF0YTog...", content_type = "text/event-stream" } },   -- a recorded answer, byte by byte
//!   },
//!   loop = false,                            -- true: after the last turn comes the first
//!   cases = { { contains = "second task", turns = { ... } } },   -- other turns for other prompts (`told`: instructions)
//!   pages = { ["docs.test"] = "a page" },    -- more hosts, each answering every GET with its text
//!   hosts = { "llm.example" },               -- more hosts that speak the APIs
//!   key = "sk-...",                          -- any other credential is answered 401
//!   seed = 1,                                -- ids the same in every run; fresh ones without
//!   gzip = false,                            -- true: answers are gzip-coded
//! }
//! ```
//!
//! Which turn a request gets is read off the request: the number of the model's turns that its conversation already
//! holds. So parallel conversations do not disturb each other, and a restart changes nothing. A request behind the last
//! turn is answered `Done.`. Times are milliseconds, amounts tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use serde::Deserialize;
use serde_json::Value;

use super::RehearseError;
use crate::types::Tokens;

/// Longest pause that may be scripted. Unit: milliseconds.
const MAX_PAUSE_MS: u64 = 600_000;

/// Counts the tokens of a request's body; of a message on a WebSocket, with all that it goes on from.
pub type Counter = Arc<dyn Fn(&Value) -> u64 + Send + Sync>;

/// A whole play.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// What the model does, turn by turn.
    pub turns: Vec<Turn>,
    /// Begin again after the last turn: an agent that never ends by itself.
    #[serde(rename = "loop")]
    pub repeat: bool,
    /// Turns for conversations whose user text contains a given text; the first case that fits is played.
    pub cases: Vec<Case>,
    /// More hosts, each answering every GET with its text.
    pub pages: BTreeMap<String, String>,
    /// More hosts that speak the APIs, each by its path.
    pub hosts: Vec<String>,
    /// The one credential that is accepted; any but none when absent.
    pub key: Option<String>,
    /// Makes ids the same in every run.
    pub seed: Option<u64>,
    /// Counts the input of a request, as a provider would; only for Rust. Where absent, it is made from the request's length.
    #[serde(skip)]
    pub counter: Option<Counter>,
    /// Answers are gzip-coded, asked for or not: shows that they are metered all the same. (Claude Code reads them, Codex
    /// asks for none and does not.)
    pub gzip: bool,
}

/// The turns of some conversations.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Case {
    /// Text that the user's part of the conversation contains.
    pub contains: String,
    /// Text that the agent tells the model beside or in the user's part: its standing instructions.
    pub told: String,
    /// As [`Scenario::turns`].
    pub turns: Vec<Turn>,
    /// As [`Scenario::repeat`].
    #[serde(rename = "loop")]
    pub repeat: bool,
}

/// What the model does in one turn: says something, and at most one call of a tool.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turn {
    /// What it says.
    pub text: Option<String>,
    /// A tool by its own name, for one known agent.
    pub tool: Option<Tool>,
    /// Writes a file, with whatever tool the agent offers.
    pub edit: Option<Edit>,
    /// Runs a command, with whatever tool the agent offers.
    pub run: Option<Run>,
    /// Fetches a URL, with whatever tool the agent offers.
    pub fetch: Option<Fetch>,
    /// Opens a raw connection, with whatever tool the agent offers.
    pub connect: Option<Connect>,
    /// A recorded answer, which is given as it was in place of one that is made.
    pub replay: Option<Replay>,
    /// What the API says was used. Made from the request's length when absent: a quarter of its bytes is input, of
    /// which three quarters are read from the cache from the second turn on; a quarter of the answer's bytes is output.
    pub usage: Option<Usage>,
    /// Pause before the answer begins.
    pub delay_ms: u64,
    /// Pause between the events of the answer.
    pub chunk_ms: u64,
    /// A fault in place of the answer: a status (429, 529, ...) or `"broken"`, a stream that ends in the middle.
    pub error: Option<Fault>,
    /// How often a conversation gets the fault before it gets the answer; once when absent.
    pub times: Option<u32>,
}

/// A recorded answer.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replay {
    /// Its body, where that is text.
    pub text: Option<String>,
    /// Its body in base64 (RFC 4648, section 4), where that may be anything.
    pub base64: Option<String>,
    /// Its `Content-Type`; none when absent, as some APIs have it.
    pub content_type: Option<String>,
    /// Its `Content-Encoding`, by which the body is coded already.
    pub content_encoding: Option<String>,
    /// Bytes that are sent at once; the whole when absent.
    pub piece: Option<usize>,
}

impl Replay {
    /// Gets the body.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn body(&self) -> Result<Vec<u8>, &'static str> {
        match (&self.text, &self.base64) {
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(coded)) => STANDARD.decode(coded).map_err(|_| "base64 of replay is none"),
            _ => Err("replay has one of text and base64"),
        }
    }
}

/// A call of a tool by name.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// The tool's name.
    pub name: String,
    /// Its arguments.
    #[serde(default)]
    pub input: Value,
}

/// A file to be written.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Its path, in the agent's directory where relative.
    pub path: String,
    /// Its whole text.
    pub content: String,
}

/// A command to be run.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Program and arguments.
    pub argv: Vec<String>,
}

/// A URL to be fetched.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// The URL.
    pub url: String,
}

/// A connection to be opened.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Usage as it is scripted; what is not named is 0.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Usage {
    /// Uncached input.
    pub input: u64,
    /// Input read from the cache.
    pub cache_read: u64,
    /// Input written to the cache for five minutes (OpenAI: 30).
    pub cache_write: u64,
    /// Input written to the cache for longer.
    pub cache_write_long: u64,
    /// Output, reasoning included.
    pub output: u64,
    /// Reasoning.
    pub reasoning: u64,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Tokens {
        let Usage { input, cache_read, cache_write, cache_write_long, output, reasoning } = usage;
        Tokens { input, cache_read, cache_write, cache_write_long, output, reasoning: reasoning.min(output) }
    }
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Fault {
    /// An error answer of this status.
    Status(u16),
    /// By its name.
    Named(NamedFault),
}

/// A fault that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedFault {
    /// The connection is closed in the middle of the answer.
    Broken,
}

/// The one thing that a turn does with a tool.
#[derive(Clone, Copy)]
pub(super) enum Action<'a> {
    Tool(&'a Tool),
    Edit(&'a Edit),
    Run(&'a Run),
    Fetch(&'a Fetch),
    Connect(&'a Connect),
}

impl Turn {
    /// Gets what it does with a tool.
    pub(super) fn action(&self) -> Option<Action<'_>> {
        self.actions().into_iter().flatten().next()
    }

    fn actions(&self) -> [Option<Action<'_>>; 5] {
        [
            self.tool.as_ref().map(Action::Tool),
            self.edit.as_ref().map(Action::Edit),
            self.run.as_ref().map(Action::Run),
            self.fetch.as_ref().map(Action::Fetch),
            self.connect.as_ref().map(Action::Connect),
        ]
    }

    fn check(&self, at: &str) -> Result<(), RehearseError> {
        let wrong = |what: &str| Err(RehearseError::Scenario(format!("{at}: {what}")));
        if self.actions().into_iter().flatten().count() > 1 {
            return wrong("a turn has at most one of tool, edit, run, fetch, connect");
        }
        if self.run.as_ref().is_some_and(|run| run.argv.is_empty()) {
            return wrong("run needs an argv");
        }
        if matches!(self.error, Some(Fault::Status(status)) if !(400..=599).contains(&status)) {
            return wrong("error is a status from 400 to 599, or \"broken\"");
        }
        if let Some(replay) = &self.replay {
            if self.text.is_some() || self.actions().iter().any(Option::is_some) {
                return wrong("a turn that replays an answer says and does nothing else");
            }
            if let Err(what) = replay.body() {
                return wrong(what);
            }
            let headers = [&replay.content_type, &replay.content_encoding];
            if headers.into_iter().flatten().any(|value| HeaderValue::from_str(value).is_err())
                || replay.piece == Some(0)
            {
                return wrong("content_type and content_encoding of replay are headers, and piece is 1 or more");
            }
        }
        if self.delay_ms.max(self.chunk_ms) > MAX_PAUSE_MS {
            return wrong("a pause is at most ten minutes");
        }
        Ok(())
    }
}

impl Scenario {
    /// Reads a scenario from its table.
    ///
    /// # Errors
    /// [`RehearseError::Scenario`] where a key is unknown or a value is wrong.
    pub fn from_value(table: Value) -> Result<Scenario, RehearseError> {
        let scenario: Scenario =
            serde_json::from_value(table).map_err(|error| RehearseError::Scenario(error.to_string()))?;
        scenario.check().map(|()| scenario)
    }

    /// Checks what its types do not say.
    ///
    /// # Errors
    /// [`RehearseError::Scenario`].
    pub fn check(&self) -> Result<(), RehearseError> {
        let numbered = |turns: &[Turn], of: &str| -> Result<(), RehearseError> {
            turns.iter().zip(1..).try_for_each(|(turn, n)| turn.check(&format!("{of}turn {n}")))
        };
        numbered(&self.turns, "")?;
        self.cases.iter().zip(1..).try_for_each(|(case, n)| numbered(&case.turns, &format!("case {n}, ")))
    }

    /// Gets the turn that comes after `done` turns in a conversation whose user wrote `user_text` and whose agent told the
    /// model `system_text`; `None` behind the end.
    pub(super) fn turn(&self, user_text: &str, system_text: &str, done: usize) -> Option<&Turn> {
        let told = |text: &str| user_text.contains(text) || system_text.contains(text);
        let case = self.cases.iter().find(|case| user_text.contains(&case.contains) && told(&case.told));
        let (turns, repeat) = case.map_or((&self.turns, self.repeat), |case| (&case.turns, case.repeat));
        let at = if repeat { done.checked_rem(turns.len())? } else { done };
        turns.get(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error(table: Value) -> String {
        Scenario::from_value(table).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_slip_in_the_table_is_an_error_that_names_it() {
        assert!(error(json!({"turns": [{"tetx": "x"}]})).contains("tetx"));
        let two = json!({"turns": [{}, {"run": {"argv": ["a"]}, "fetch": {"url": "https://x"}}]});
        assert!(error(two).contains("turn 2: a turn has at most one"));
        assert!(error(json!({"turns": [{"error": 200}]})).contains("400 to 599"));
        assert_ne!(error(json!({"turns": [{"error": "bent"}]})), "");
        assert!(error(json!({"turns": [{"replay": {}}]})).contains("one of text and base64"));
        assert!(error(json!({"turns": [{"replay": {"text": "x"}, "text": "y"}]})).contains("nothing else"));
        assert!(error(json!({"turns": [{"replay": {"text": "x", "content_type": "a\nb"}}]})).contains("headers"));
        assert_eq!(error(json!({"turns": [{"error": "broken"}, {"error": 529, "times": 2}], "loop": true})), "");
    }

    #[test]
    fn turns_follow_the_conversation_and_loop_where_asked() {
        let table = json!({"turns": [{"text": "a"}, {"text": "b"}],
            "cases": [{"contains": "other", "loop": true, "turns": [{"text": "x"}, {"text": "y"}]}]});
        let scenario = Scenario::from_value(table).unwrap();
        let said = |text: &str, done| scenario.turn(text, "be brief", done).and_then(|t| t.text.as_deref());
        assert_eq!((said("do it", 0), said("do it", 1), said("do it", 2)), (Some("a"), Some("b"), None));
        assert_eq!((said("the other one", 2), said("the other one", 5)), (Some("x"), Some("y")));
        assert!(Scenario { repeat: true, ..Scenario::default() }.turn("", "", 3).is_none());
        let told = json!({"cases": [{"told": "be brief", "turns": [{"text": "a"}]}]});
        let told = Scenario::from_value(told).unwrap();
        assert!(told.turn("x", "Always be brief.", 0).is_some() && told.turn("be brief", "", 0).is_some());
        assert!(told.turn("x", "", 0).is_none());
    }
}

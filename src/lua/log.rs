//! `print`, `bb.log` and what `--json` writes. stdout is for results, stderr for people.
//!
//! Text of an agent may pass through a recipe to a terminal or a CI log: control characters are escaped, and a line that
//! a CI runner would take for a command of its own is marked.

use std::io::Write;

use serde_json::{Value, json};

use crate::api::Event;
use crate::printable::{json as json_text, printable};

/// Where a recipe's output goes and in what form.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// NDJSON on stdout instead of text.
    pub json: bool,
    /// Colours on stdout.
    pub colour: bool,
    /// Colours on stderr.
    pub colour_err: bool,
    /// stdout is the log of a CI runner that reads commands from it.
    pub fenced: bool,
    /// Kept here instead of being written; for tests.
    pub kept: Option<std::sync::Arc<std::sync::Mutex<String>>>,
}

impl Output {
    /// Finds out what the standard streams are: colours only on a terminal, and never with `NO_COLOR`.
    pub fn of_process(json: bool, no_colour: bool) -> Output {
        use std::io::IsTerminal;
        let off = no_colour
            || std::env::var_os("NO_COLOR").is_some()
            || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Output {
            json,
            colour: !off && std::io::stdout().is_terminal(),
            colour_err: !off && std::io::stderr().is_terminal(),
            fenced: std::env::var_os("GITHUB_ACTIONS").is_some(),
            kept: None,
        }
    }

    /// `print`.
    pub fn print(&self, text: &str) {
        if self.json {
            self.object(&json!({"v": 1, "type": "print", "text": printable(text, false)}));
            return;
        }
        let mut text = printable(text, self.colour);
        if self.fenced {
            text = text.lines().map(fence).collect::<Vec<_>>().join("\n");
        }
        self.line(&text);
    }

    /// `bb.log`.
    pub fn log(&self, level: &str, text: &str) {
        if self.json {
            self.object(&json!({"v": 1, "type": "log", "level": level, "text": printable(text, false)}));
            return;
        }
        let code = match level {
            "warn" => "33",
            "error" => "31",
            _ => "2",
        };
        let text = printable(text, self.colour_err);
        if self.colour_err {
            self.note(&format!("\x1b[{code}m{level:>5}\x1b[0m {text}"));
        } else {
            self.note(&format!("{level:>5} {text}"));
        }
    }

    /// An event of the run, with `--json`.
    pub fn event(&self, event: &Event) {
        if self.json {
            self.object(event);
        }
    }

    /// A record of `bb run` itself, with `--json`.
    pub fn record(&self, record: Value) {
        if self.json {
            self.object(&record);
        }
    }

    /// A line for people, on stderr.
    pub fn note(&self, text: &str) {
        match &self.kept {
            Some(kept) => keep(kept, text.trim_end_matches('\n')),
            None => {
                let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end_matches('\n'));
            }
        }
    }

    /// A JSON value on a line of its own, which no terminal obeys.
    fn object(&self, value: &impl serde::Serialize) {
        if let Ok(text) = serde_json::to_string(value) {
            self.line(&json_text(&text));
        }
    }

    /// A line on stdout, flushed. A reader that went away is no error.
    fn line(&self, text: &str) {
        match &self.kept {
            Some(kept) => keep(kept, text),
            None => {
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "{text}").and_then(|()| out.flush());
            }
        }
    }
}

fn keep(kept: &std::sync::Mutex<String>, text: &str) {
    let mut kept = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    kept.push_str(text);
    kept.push('\n');
}

/// Marks a line that a CI runner would take for a command.
fn fence(line: &str) -> String {
    let start = line.trim_start();
    if start.starts_with("::") || start.starts_with("##[") { format!("| {line}") } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ci_runner_gets_no_commands_from_an_agent() {
        assert_eq!(fence("  ::set-output name=x::y"), "|   ::set-output name=x::y");
        assert_eq!(fence("a :: b"), "a :: b");
    }
}

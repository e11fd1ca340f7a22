//! How a recipe's faults are kept and shown: kind, the recipe's own line, how it got there, one thing to do.

use std::collections::HashMap;

use mlua::{Table, Value};

use crate::error::{Error, Kind};

/// One line of the recipe's own code on the way to the fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The file as the VM names it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The function's name; `None` for the file's own code.
    pub name: Option<String>,
}

/// An error and where in the recipe it was raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What happened.
    pub error: Error,
    /// Innermost first; only frames of the recipe's own files.
    pub trace: Vec<Frame>,
}

impl From<Error> for Report {
    fn from(error: Error) -> Self {
        Report { error, trace: Vec::new() }
    }
}

/// What to do about a recipe that is not Lua.
const SYNTAX: &str = "correct this line or the one above it; a recipe is Lua, as in the recipes that come with bb";

/// The texts of a recipe's files, by the name the VM knows them by; for showing the line of a fault.
pub type Sources = HashMap<String, String>;

/// Gets the word's kind; a word of the recipe's own counts as `recipe`.
fn kind_of(word: &str) -> Kind {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).unwrap_or(Kind::Recipe)
}

impl Report {
    /// Reads the error that the prelude made of whatever was raised.
    pub fn from_value(value: &Value) -> Report {
        let Value::Table(table) = value else {
            let message = value.to_string().unwrap_or_else(|_| "an error without a message".into());
            return Error::new(Kind::Recipe, message).into();
        };
        let text =
            |key: &str| table.raw_get::<Option<mlua::LuaString>>(key).ok().flatten().map(|s| s.to_string_lossy());
        let mut error = Error::new(
            text("kind").map_or(Kind::Recipe, |word| kind_of(&word)),
            text("message").unwrap_or_else(|| "an error without a message".into()),
        );
        error.place = text("place");
        error.hint = text("hint");
        let trace = table.raw_get::<Option<Table>>("trace").ok().flatten();
        let frames = trace.map(|t| t.sequence_values::<Table>().flatten().filter_map(|f| frame(&f)).collect());
        Report { error, trace: frames.unwrap_or_default() }
    }

    /// Makes a report of an error of the VM that never passed through the prelude.
    pub fn from_vm(error: &mlua::Error) -> Report {
        match error {
            mlua::Error::SyntaxError { message, .. } => {
                let (place, text) = split_place(message);
                let mut report = Report::from(Error::new(Kind::Usage, format!("syntax: {text}")).hint(SYNTAX));
                if let Some((file, line)) = place {
                    report.trace.push(Frame { file, line, name: None });
                }
                report
            }
            mlua::Error::MemoryError(_) => Error::new(Kind::Recipe, "the recipe uses too much memory").into(),
            other => {
                let text = other.to_string();
                let text = text.split("\nstack traceback:").next().unwrap_or_default();
                Error::new(Kind::Recipe, text.trim_start_matches("runtime error: ")).into()
            }
        }
    }

    /// Gets the same without its lines of Lua.
    pub fn without_trace(&self) -> Report {
        self.error.clone().into()
    }

    /// Writes it as people see it.
    pub fn render(&self, sources: &Sources, colour: bool) -> String {
        let (red, bold, blue, off) =
            if colour { ("\x1b[31m", "\x1b[1m", "\x1b[34m", "\x1b[0m") } else { ("", "", "", "") };
        let e = &self.error;
        let mut out = format!("{red}error[{}]{off}{bold}: {}{off}\n", e.kind.as_str(), e.message);
        let top = self.trace.first();
        let number = top.map_or(0, |f| f.line).to_string();
        let gap = " ".repeat(number.len());
        if let Some(frame) = top {
            out.push_str(&format!("{gap}{blue}-->{off} {}:{}\n", frame.file, frame.line));
            let line = sources.get(&frame.file).and_then(|text| text.lines().nth(frame.line as usize - 1));
            if let Some(line) = line {
                out.push_str(&format!("{gap} {blue}|{off}\n{blue}{number} |{off} {line}\n{gap} {blue}|{off}\n"));
            }
        }
        for frame in self.trace.iter().skip(1).take(8) {
            let name = frame.name.as_deref().unwrap_or("main");
            out.push_str(&format!("{gap} {blue}={off} called from {}:{} ({name})\n", frame.file, frame.line));
        }
        if let Some(place) = &e.place {
            out.push_str(&format!("{gap} {blue}={off} at: {place}\n"));
        }
        if let Some(hint) = &e.hint {
            out.push_str(&format!("{gap} {blue}={off} hint: {hint}\n"));
        }
        out
    }
}

fn frame(table: &Table) -> Option<Frame> {
    Some(Frame {
        file: table.raw_get::<String>("file").ok()?,
        line: table.raw_get::<u32>("line").ok().filter(|l| *l > 0)?,
        name: table.raw_get::<Option<String>>("name").ok()?,
    })
}

/// Splits `file:12: text`.
fn split_place(message: &str) -> (Option<(String, u32)>, &str) {
    for (at, _) in message.match_indices(':') {
        let rest = &message[at + 1..];
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits > 0
            && let Some(text) = rest[digits..].strip_prefix(": ")
            && let Ok(line @ 1..) = rest[..digits].parse::<u32>()
        {
            return (Some((message[..at].to_owned(), line)), text);
        }
    }
    (None, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_shown_with_the_recipes_own_line() {
        let report = Report {
            error: Error::new(Kind::Budget, "bottle fix-42 used 212,400 of 200,000 tokens").hint("raise its budget"),
            trace: vec![
                Frame { file: "recipes/nightly.lua".into(), line: 2, name: None },
                Frame { file: "recipes/nightly.lua".into(), line: 3, name: Some("fix".into()) },
            ],
        };
        let sources = Sources::from([("recipes/nightly.lua".into(), "local b\n  local exit = b:wait()\n".into())]);
        assert_eq!(
            report.render(&sources, false),
            "error[budget]: bottle fix-42 used 212,400 of 200,000 tokens\n \
             --> recipes/nightly.lua:2\n  |\n2 |   local exit = b:wait()\n  |\n  \
             = called from recipes/nightly.lua:3 (fix)\n  = hint: raise its budget\n"
        );
    }

    #[test]
    fn a_place_is_found_before_the_text_even_in_odd_paths() {
        assert_eq!(split_place("a:b/c.lua:12: boom: 3: x"), (Some(("a:b/c.lua".into(), 12)), "boom: 3: x"));
        assert_eq!(split_place("no place"), (None, "no place"));
    }
}

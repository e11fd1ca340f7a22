//! `bb.ui`: questions to whoever sits at the terminal, and words to them. Without a terminal nothing asks.

use std::rc::Rc;

use mlua::{Lua, Value};
use serde::Deserialize;

use super::host::Host;
use super::values::{options, read};
use crate::ask::{self, Item};
use crate::error::{Error, Kind, Result};
use crate::printable::printable;

/// The options of `bb.ui.pick`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PickOptions {
    title: String,
    items: Vec<Item>,
    /// The name on which the cursor stands first.
    #[serde(default)]
    start: Option<String>,
}

/// The options of `bb.ui.choose`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChooseOptions {
    title: String,
    items: Vec<Item>,
    /// The names that are chosen first.
    #[serde(default)]
    chosen: Vec<String>,
    /// What is said where none is.
    #[serde(default)]
    none: Option<String>,
}

/// Runs a question on a thread that may wait for a person.
async fn asked<T: Send + 'static>(question: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(question)
        .await
        .map_err(|e| Error::internal(format!("the question's thread failed: {e}")))?
}

fn nothing_to_choose(title: &str) -> Error {
    Error::new(Kind::Usage, format!("there is nothing to choose from: {}", printable(title, false)))
}

/// `bb.ui.terminal()`: tells whether somebody can be asked.
pub(super) fn terminal(_: &Lua, host: &Rc<Host>, (): ()) -> Result<bool> {
    Ok(host.terminal && ask::somebody_is_there())
}

/// `bb.ui.pick{...}`: gets the name of the one that was picked.
pub(super) async fn pick(lua: Lua, _: Rc<Host>, value: Value) -> Result<String> {
    let PickOptions { title, items, start } = options(&lua, "bb.ui.pick", value)?;
    if items.is_empty() {
        return Err(nothing_to_choose(&title));
    }
    let at = start.and_then(|start| items.iter().position(|item| item.name == start)).unwrap_or(0);
    asked(move || ask::pick(&title, &items, at).map(|position| items[position].name.clone())).await
}

/// `bb.ui.choose{...}`: gets the names that were chosen, in their order.
pub(super) async fn choose(lua: Lua, _: Rc<Host>, value: Value) -> Result<Vec<String>> {
    let ChooseOptions { title, items, chosen, none } = options(&lua, "bb.ui.choose", value)?;
    if items.is_empty() {
        return Err(nothing_to_choose(&title));
    }
    let first = chosen.iter().filter_map(|name| items.iter().position(|item| item.name == *name)).collect();
    asked(move || {
        let positions = ask::choose(&title, &items, first, none.as_deref().unwrap_or("none"))?;
        Ok(positions.into_iter().map(|position| items[position].name.clone()).collect())
    })
    .await
}

/// `bb.ui.ask(question, default)`: gets a line.
pub(super) async fn line(_: Lua, _: Rc<Host>, (question, default): (String, Option<String>)) -> Result<String> {
    asked(move || ask::line(&question, default.as_deref().unwrap_or_default())).await
}

/// `bb.ui.confirm(question)`: yes or no.
pub(super) async fn confirm(_: Lua, _: Rc<Host>, question: String) -> Result<bool> {
    asked(move || ask::confirm(&question)).await
}

/// A line of `bb.ui.rows`.
#[derive(Deserialize)]
struct Row {
    key: String,
    value: String,
}

/// `bb.ui.rows(rows)`: shows keys and values to people, on standard error, as wide as their terminal is.
pub(super) fn rows(_: &Lua, host: &Rc<Host>, value: Value) -> Result<()> {
    let rows: Vec<Row> = read("bb.ui.rows", value)?;
    let columns = ask::somebody_is_there().then(|| ask::size().0);
    for line in laid_out(&rows, columns) {
        say(host, &line);
    }
    Ok(())
}

/// Narrower than this, a key has a line of its own.
const NARROW: usize = 40;

/// Lays rows out: the values stand below each other, and what is longer than a line goes on there.
fn laid_out(rows: &[Row], columns: Option<usize>) -> Vec<String> {
    let keys = rows.iter().map(|row| row.key.chars().count()).max().unwrap_or(0) + 1;
    let columns = columns.unwrap_or(usize::MAX);
    let mut lines = Vec::new();
    for row in rows {
        if columns < NARROW {
            lines.push(row.key.clone());
            lines.extend(wrapped(&row.value, columns.saturating_sub(3)).into_iter().map(|part| format!("  {part}")));
            continue;
        }
        for (at, part) in wrapped(&row.value, columns.saturating_sub(keys + 1)).into_iter().enumerate() {
            let key = if at == 0 { row.key.as_str() } else { "" };
            lines.push(format!("{key:keys$}{part}").trim_end().to_owned());
        }
    }
    lines
}

/// Breaks a text between words, and a word that is longer than a line wherever it has to.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split(' ') {
        let mut word: Vec<char> = word.chars().collect();
        if length > 0 && length + 1 + word.len() > width {
            lines.push(String::new());
            length = 0;
        }
        if length > 0 {
            word.insert(0, ' ');
        }
        for part in word.chunks(width) {
            if length + part.len() > width {
                lines.push(String::new());
                length = 0;
            }
            length += part.len();
            if let Some(line) = lines.last_mut() {
                line.extend(part);
            }
        }
    }
    lines
}

/// `bb.ui.note(text)`: says something to people, on standard error.
pub(super) fn note(_: &Lua, host: &Rc<Host>, text: String) -> Result<()> {
    say(host, &text);
    Ok(())
}

fn say(host: &Host, text: &str) {
    if host.out.json {
        host.out.log("info", text);
    } else {
        host.out.note(&printable(text, host.out.colour_err));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_wide_as_the_window() {
        let row = |key: &str, value: &str| Row { key: key.into(), value: value.into() };
        let rows =
            [row("workspace", "/home/somebody/a/long/way, the directory itself, writable"), row("backend", "linux")];
        let plain = ["workspace /home/somebody/a/long/way, the directory itself, writable", "backend   linux"];
        assert_eq!(laid_out(&rows, None), plain);
        assert_eq!(laid_out(&rows, Some(80)), plain);
        let half =
            ["workspace /home/somebody/a/long/way, the", "          directory itself, writable", "backend   linux"];
        assert_eq!(laid_out(&rows, Some(42)), half);
        let narrow = laid_out(&rows, Some(20));
        assert_eq!(narrow[..3], ["workspace", "  /home/somebody/a/", "  long/way, the"]);
        assert!(narrow.iter().all(|line| line.chars().count() < 20), "{narrow:?}");
        let joined: String = narrow.concat().split_whitespace().collect();
        let whole: String = rows.iter().flat_map(|row| [row.key.as_str(), &row.value]).collect();
        assert_eq!(joined, whole.split_whitespace().collect::<String>(), "nothing is lost");
    }
}

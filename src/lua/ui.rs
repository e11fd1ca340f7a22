//! `bb.ui`: questions to whoever sits at the terminal, and words to them. Without a terminal nothing asks.

use std::rc::Rc;

use mlua::{Lua, Value};
use serde::Deserialize;

use super::host::Host;
use super::log::printable;
use super::values::options;
use crate::ask::{self, Item};
use crate::error::{Error, Kind, Result};

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
    let ChooseOptions { title, items, chosen } = options(&lua, "bb.ui.choose", value)?;
    if items.is_empty() {
        return Err(nothing_to_choose(&title));
    }
    let first = chosen.iter().filter_map(|name| items.iter().position(|item| item.name == *name)).collect();
    asked(move || {
        let positions = ask::choose(&title, &items, first)?;
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

/// `bb.ui.note(text)`: says something to people, on standard error.
pub(super) fn note(_: &Lua, host: &Rc<Host>, text: String) -> Result<()> {
    if host.out.json {
        host.out.log("info", &text);
    } else {
        host.out.note(&printable(&text, host.out.colour_err));
    }
    Ok(())
}

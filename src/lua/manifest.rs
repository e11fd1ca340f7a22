//! `bb.manifest`: the agents and bottles that there are.

use std::path::PathBuf;
use std::rc::Rc;

use mlua::Lua;
use serde::Serialize;

use super::grants::Grant;
use super::host::Host;
use super::vm::Plain;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Found, Origin, Shelf};
use crate::yaml::read::joined;

/// Longest description of a manifest, characters.
const ABOUT: usize = 120;

/// One manifest.
#[derive(Serialize)]
pub(super) struct Listed {
    name: String,
    /// `home` or `repository`.
    origin: &'static str,
    path: String,
    /// The first line of its text.
    about: String,
    /// The bottle that an agent names.
    bottle: Option<String>,
    /// What is wrong with the file, if anything.
    fault: Option<Error>,
}

/// Opens the shelf of whoever runs the recipe.
pub(super) fn shelf(host: &Host) -> Result<Shelf> {
    Ok(Shelf::open(&host.home, user_home().as_deref(), &cwd()?))
}

/// `$HOME`.
pub(super) fn user_home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// The working directory.
pub(super) fn cwd() -> Result<PathBuf> {
    std::env::current_dir().map_err(|e| {
        Error::new(Kind::Usage, format!("the working directory cannot be used: {e}"))
            .hint("cd to a directory that exists")
    })
}

fn about(text: &str) -> String {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().chars().take(ABOUT).collect()
}

/// `bb.manifest.agents()`.
pub(super) fn agents(_: &Lua, host: &Rc<Host>, (): ()) -> Result<Plain<Vec<Listed>>> {
    host.grants.need(&Grant::Start, "bb.manifest.agents")?;
    let shelf = shelf(host)?;
    Ok(Plain(shelf.agents().into_iter().map(|(name, found)| listed(&shelf, name.as_str(), &found)).collect()))
}

/// `bb.manifest.agent(name)`: one of them, without a fault.
pub(super) fn agent(_: &Lua, host: &Rc<Host>, name: String) -> Result<Plain<Listed>> {
    host.grants.need(&Grant::Start, "bb.manifest.agent")?;
    let shelf = shelf(host)?;
    shelf.agent(&name).map_err(joined)?;
    let found = shelf.agents().into_iter().find(|(known, _)| known.as_str() == name);
    let (_, found) = found.ok_or_else(|| Error::internal("the agent is gone"))?;
    Ok(Plain(listed(&shelf, &name, &found)))
}

fn listed(shelf: &Shelf, name: &str, found: &Found) -> Listed {
    let (about, bottle, fault) = match shelf.read_agent(found) {
        Ok(agent) => (about(&agent.prompt), agent.bottle.map(|said| said.value.to_string()), None),
        Err(faults) => (String::new(), None, Some(joined(faults))),
    };
    let origin = match found.origin {
        Origin::Home => "home",
        Origin::Repository => "repository",
    };
    Listed { name: name.to_owned(), origin, path: shelf.shown(&found.path), about, bottle, fault }
}

/// `bb.manifest.bottles()`.
pub(super) fn bottles(_: &Lua, host: &Rc<Host>, (): ()) -> Result<Plain<Vec<Listed>>> {
    host.grants.need(&Grant::Start, "bb.manifest.bottles")?;
    let shelf = shelf(host)?;
    let listed = shelf.bottles().into_iter().map(|(name, found)| {
        let (about, fault) = match shelf.read_bottle(&found.path) {
            Ok(bottle) => (about(&bottle.body), None),
            Err(faults) => (String::new(), Some(joined(faults))),
        };
        let path = shelf.shown(&found.path);
        Listed { name: name.to_string(), origin: "home", path, about, bottle: None, fault }
    });
    Ok(Plain(listed.collect()))
}

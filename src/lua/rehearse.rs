//! `bb.rehearse`: stand-in model APIs for the launches of this run: no key, no network, no cost, a book of its own.

use std::collections::BTreeMap;
use std::rc::Rc;

use mlua::{Lua, Value};

use super::host::Host;
use super::values::options;
use super::vm::Plain;
use crate::api::Upstream;
use crate::error::{Error, Kind, Result};
use crate::rehearse::{Rehearsal, Scenario};
use crate::types::Book;

/// The stand-ins of one run. They end with it.
pub(super) struct Stage {
    rehearsal: Rehearsal,
}

impl Stage {
    /// Gets where the names it stands in for are dialled.
    pub fn upstreams(&self) -> BTreeMap<String, Upstream> {
        self.rehearsal.upstreams()
    }
}

/// Gets the stage of a run that rehearses, setting up the default one where the recipe wrote no scenario.
pub(super) fn stage(host: &Host) -> Result<Option<&Stage>> {
    if host.book.get() != Book::Rehearsal {
        return Ok(None);
    }
    if let Some(stage) = host.stage.get() {
        return Ok(Some(stage));
    }
    let stage = Stage { rehearsal: Rehearsal::start(Scenario::default())? };
    Ok(Some(host.stage.get_or_init(|| stage)))
}

/// `bb.rehearse{...}`: sets the scenario, and makes this run a rehearsal. Returns the hosts that are stood in for.
pub(super) fn rehearse(lua: &Lua, host: &Rc<Host>, value: Value) -> Result<Plain<Vec<String>>> {
    const CALL: &str = "bb.rehearse";
    let scenario: Scenario = options(lua, CALL, value)?;
    if host.is_linked() || host.stage.get().is_some() {
        return Err(Error::new(
            Kind::Usage,
            "bb.rehearse comes once, before the first launch and before bb.budget.set",
        ));
    }
    let stage = Stage { rehearsal: Rehearsal::start(scenario)? };
    host.book.set(Book::Rehearsal);
    let hosts = stage.rehearsal.hosts().to_vec();
    let _ = host.stage.set(stage);
    Ok(Plain(hosts))
}

/// `bb.rehearsing()`: tells whether this run is a rehearsal, by `--rehearse` or by `bb.rehearse`.
pub(super) fn rehearsing(_: &Lua, host: &Rc<Host>, (): ()) -> Result<bool> {
    Ok(host.book.get() == Book::Rehearsal)
}

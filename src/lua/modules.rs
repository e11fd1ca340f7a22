//! `require`: modules of the recipe's own folder, and of nowhere else.
//!
//! mlua's own `require` reads any file below a chunk's path; it is taken away with every other global that is not listed.

use std::rc::Rc;

use mlua::{Function, Lua};

use super::host::Host;
use crate::error::{Error, Kind, Result};

/// Longest module.
const LONGEST: u64 = 1 << 20;

/// Finds and compiles a module; returns its key and its function. The prelude calls and keeps it.
pub(super) fn load(lua: &Lua, host: &Rc<Host>, name: String) -> Result<(String, Function)> {
    let wrong = |message: String| {
        Error::new(Kind::Usage, message).hint("a recipe can require files of its own folder: require(\"lib/text\")")
    };
    let relative = name.strip_prefix("./").unwrap_or(&name);
    let relative = relative.strip_suffix(".lua").unwrap_or(relative);
    let odd = relative.is_empty()
        || relative.split('/').any(|part| part.is_empty() || part == "." || part == "..")
        || relative.contains(['\\', '\0']);
    if odd {
        return Err(wrong(format!("'{name}' is no module's name")));
    }
    let folder = host.folder.canonicalize().map_err(|e| wrong(format!("the recipe's folder cannot be read: {e}")))?;
    let path = folder.join(format!("{relative}.lua"));
    let path = path.canonicalize().map_err(|e| wrong(format!("there is no module '{name}': {e}")))?;
    // Links are resolved by now: one that leads out of the folder is out.
    if !path.starts_with(&folder) {
        return Err(wrong(format!("the module '{name}' lies outside the recipe's folder")));
    }
    let meta = path.metadata().map_err(|e| wrong(format!("the module '{name}' cannot be read: {e}")))?;
    if !meta.is_file() || meta.len() > LONGEST {
        return Err(wrong(format!("the module '{name}' is no file of at most 1 MiB")));
    }
    let text = std::fs::read_to_string(&path).map_err(|e| wrong(format!("the module '{name}' cannot be read: {e}")))?;
    let shown = host.folder.join(format!("{relative}.lua")).display().to_string();
    let function = lua.load(text.as_str()).set_name(format!("@{shown}")).into_function();
    let function = function.map_err(|e| {
        let report = super::errors::Report::from_vm(&e);
        let line = report.trace.first().map_or(0, |f| f.line);
        Error::new(Kind::Usage, report.error.message).at(format!("{shown}:{line}"))
    })?;
    host.sources.borrow_mut().insert(shown, text);
    Ok((path.display().to_string(), function))
}

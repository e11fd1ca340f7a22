//! How one agent CLI is run, authenticated and metered: a Lua file that yields a table, which is checked here.
//!
//! A file is shipped, or the user's own in `$BB_HOME/providers`, which wins over a shipped one of its name. It runs in a
//! VM of its own without any input or output; all it can do is return a table. Credentials are resolved in the front end
//! that launches, from its environment and what the settings name; what enters the bottle is the file's placeholder.

mod credential;
mod plan;
mod spec;

pub mod demo_agent;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result, nearest};
use crate::home::Home;
use crate::name::{HINT, Name};

pub use credential::{Origin, Purse, Search};
pub use plan::{OutputForm, Plan, Wish};
pub use spec::{Mcp, Provider};

/// The files that ship in the binary.
const SHIPPED: [(&str, &str); 6] = [
    ("claude", include_str!("../../lua/providers/claude.lua")),
    ("codex", include_str!("../../lua/providers/codex.lua")),
    ("command", include_str!("../../lua/providers/command.lua")),
    ("demo", include_str!("../../lua/providers/demo.lua")),
    ("gemini", include_str!("../../lua/providers/gemini.lua")),
    ("pi", include_str!("../../lua/providers/pi.lua")),
];

/// Longest provider file.
const LONGEST: u64 = 256 << 10;

/// Gets the names of every provider: shipped ones and the user's own, sorted.
pub fn names(home: &Home) -> Vec<String> {
    let mut names: Vec<String> = SHIPPED.iter().map(|(name, _)| (*name).to_owned()).collect();
    for entry in std::fs::read_dir(home.root.join("providers")).into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str().and_then(|n| n.strip_suffix(".lua"))
            && Name::parse(name).is_ok()
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    names.dedup();
    names
}

/// Loads a provider by its name.
///
/// # Errors
/// `usage` where there is none of that name or its file is wrong, `unknown_key` for a key that nobody knows.
pub fn load(name: &str, home: &Home) -> Result<Provider> {
    Name::parse(name).map_err(|e| Error::new(Kind::Usage, e.to_string()).hint(HINT))?;
    let own: PathBuf = home.root.join("providers").join(format!("{name}.lua"));
    match std::fs::metadata(&own) {
        Ok(meta) if meta.len() > LONGEST => {
            Err(Error::new(Kind::Usage, "the provider file is longer than 256 KiB").at(own.display().to_string()))
        }
        Ok(_) => {
            let text = std::fs::read_to_string(&own)
                .map_err(|e| Error::new(Kind::Usage, e.to_string()).at(own.display().to_string()))?;
            spec::read(name, &text, &own.display().to_string())
        }
        // Not "not found": what the user's own file says is unknown then, and the shipped one may allow more.
        Err(e) if e.kind() != std::io::ErrorKind::NotFound || own.symlink_metadata().is_ok() => {
            Err(Error::new(Kind::Usage, format!("the provider file cannot be read: {e}")).at(own.display().to_string()))
        }
        Err(_) => match SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            Some((_, text)) => spec::read(name, text, &format!("providers/{name}.lua")),
            None => {
                let names = names(home);
                let hint = match nearest(name, names.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("known are: {}", names.join(", ")),
                };
                Err(Error::new(Kind::Usage, format!("there is no provider '{name}'")).hint(hint))
            }
        },
    }
}

#[cfg(test)]
mod tests;

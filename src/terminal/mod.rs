//! A person's terminal and an agent's, joined: the front end's side, without any command line.
//!
//! * [`attach`]: the session. [`streams`]: standard input and output that never hold it up. [`feed`]: what is typed, on its way.
//! * [`mode`]: the person's terminal, raw and put right again. [`keys`]: the keys that detach.
//! * [`filter`], [`modes`]: what an agent writes, less what nobody should obey. [`answers`]: what it is told of its terminal.
//! * [`screen`]: the present screen, for who comes late.
//!
//! What is shown is untrusted (docs/terminals.md). Nothing here prints messages or knows of commands.

pub mod answers;
pub mod attach;
pub mod feed;
pub mod filter;
pub mod keys;
pub mod mode;
pub mod modes;
pub mod screen;
pub mod streams;

pub use attach::{Attached, Manner, attach, exec};
pub use mode::{is_terminal, size};

use crate::error::{Error, Kind, Result};

/// Names of terminals are words; anything else is none.
const LONGEST_NAME: usize = 64;

/// Gets what a program is told of the terminal by its environment: `TERM` and `COLORTERM`, as this process has them.
pub fn environment() -> Vec<(String, String)> {
    let fits = |value: &String| {
        let word = |b: u8| b.is_ascii_alphanumeric() || b"+-._".contains(&b);
        !value.is_empty() && value.len() <= LONGEST_NAME && value.bytes().all(word)
    };
    let get = |name: &str| std::env::var(name).ok().filter(fits).map(|value| (name.to_owned(), value));
    ["TERM", "COLORTERM"].into_iter().filter_map(get).collect()
}

/// Refuses what only makes sense at a terminal.
///
/// # Errors
/// `usage` where standard input or output is none; `instead` is the one thing to do.
pub fn need_terminal(what: &str, instead: &str) -> Result<()> {
    if is_terminal() {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("{what} needs a terminal")).at("standard input and output").hint(instead))
}

//! What an agent is and what its bottle allows, read from files: Markdown with YAML front matter (docs/manifests.md).
//!
//! Files of the host (`$BB_HOME/bottles`, `$BB_HOME/agents`) say what is allowed; a repository (`.bot-bottle/agents`) may
//! ship agents and nothing that allows. A file with a fault counts for nothing but its faults, which are listed all at
//! once. Nothing here launches, asks or looks into the environment; a front end makes a launch of the result.

mod agent;
mod bottle;
mod egress;
mod env;
mod front;
mod git_gate;
mod limits;
mod merge;
mod mounts;
mod shelf;
mod show;

#[cfg(test)]
mod tests;

use std::fmt;

pub use crate::api::WorkspaceMode as Workspace;
pub use agent::Agent;
pub use bottle::{Backend, Bottle};
pub use egress::{Detectors, Dlp, OnMatch, Route};
pub use env::EnvValue;
pub use git_gate::{GitGate, Identity, Repo, User};
pub use limits::Limits;
pub(crate) use limits::{LEAST_BYTES, size};
pub use merge::{Effective, Node, effective};
pub use mounts::Mount;
pub use shelf::{Found, Origin, Shelf};
pub use show::{Row, rows};

/// Where something was said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, as it is called in messages.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A value, and where it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// Gives values of one file their places.
#[derive(Clone, Copy, Debug)]
struct Reader<'a> {
    file: &'a str,
}

impl Reader<'_> {
    fn said<T>(self, line: usize, value: T) -> Said<T> {
        Said { value, place: Place { file: self.file.to_owned(), line } }
    }
}

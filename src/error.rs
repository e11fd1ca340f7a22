//! The one error that crosses the boundaries of the program: socket, Lua, command line.
//!
//! Each module has an error enum of its own and turns it into an [`Error`] where it leaves the module.
//! This file must not print and must not decide exit codes beyond the table in [`Kind::exit_code`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// What went wrong, as one word. The words are a contract: the same in Lua, JSON and docs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The call or command line was wrong.
    Usage,
    /// A table or file has a key that nobody knows.
    UnknownKey,
    /// A recipe did something that its header does not ask for, or that nobody granted.
    NotGranted,
    /// No bottle has that slug.
    NoSuchBottle,
    /// The prefix of a slug fits several bottles.
    AmbiguousSlug,
    /// This machine forbids unprivileged user namespaces.
    UsernsForbidden,
    /// The workspace or a mount would hand the agent what it must not have.
    WorkspaceUnsafe,
    /// A file system cannot do what is needed (a ledger on NFS, say).
    FsUnsupported,
    /// A credential reference could not be resolved.
    CredentialMissing,
    /// A controller holds the lock but does not answer.
    ControllerSilent,
    /// The controller speaks another major version of the API.
    ControllerVersion,
    /// The ledger was written by a newer bb.
    LedgerNewer,
    /// The ledger cannot be read.
    LedgerCorrupt,
    /// The ledger cannot be written: no space.
    LedgerFull,
    /// The agent's executable is not on this machine.
    AgentMissing,
    /// The backend cannot run here.
    BackendUnavailable,
    /// A budget is spent.
    Budget,
    /// A policy said no.
    Policy,
    /// An approval is needed and nobody gave it.
    Approval,
    /// A deadline passed.
    Timeout,
    /// The recipe itself raised an error.
    Recipe,
    /// Ctrl-C.
    Interrupted,
    /// A fault of bb itself, or of the machine, that has no kind of its own.
    Internal,
}

impl Kind {
    /// Gets the word that stands for this kind everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::UnknownKey => "unknown_key",
            Kind::NotGranted => "not_granted",
            Kind::NoSuchBottle => "no_such_bottle",
            Kind::AmbiguousSlug => "ambiguous_slug",
            Kind::UsernsForbidden => "userns_forbidden",
            Kind::WorkspaceUnsafe => "workspace_unsafe",
            Kind::FsUnsupported => "fs_unsupported",
            Kind::CredentialMissing => "credential_missing",
            Kind::ControllerSilent => "controller_silent",
            Kind::ControllerVersion => "controller_version",
            Kind::LedgerNewer => "ledger_newer",
            Kind::LedgerCorrupt => "ledger_corrupt",
            Kind::LedgerFull => "ledger_full",
            Kind::AgentMissing => "agent_missing",
            Kind::BackendUnavailable => "backend_unavailable",
            Kind::Budget => "budget",
            Kind::Policy => "policy",
            Kind::Approval => "approval",
            Kind::Timeout => "timeout",
            Kind::Recipe => "recipe",
            Kind::Interrupted => "interrupted",
            Kind::Internal => "internal",
        }
    }

    /// Gets the exit code of a command that ends with this kind (docs/exit-codes.md).
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage | Kind::UnknownKey | Kind::NoSuchBottle | Kind::AmbiguousSlug => 2,
            Kind::Budget | Kind::Policy => 3,
            Kind::NotGranted | Kind::Approval => 4,
            Kind::UsernsForbidden
            | Kind::WorkspaceUnsafe
            | Kind::FsUnsupported
            | Kind::CredentialMissing
            | Kind::ControllerSilent
            | Kind::ControllerVersion
            | Kind::LedgerNewer
            | Kind::LedgerCorrupt
            | Kind::LedgerFull
            | Kind::AgentMissing
            | Kind::BackendUnavailable => 5,
            Kind::Timeout => 124,
            Kind::Interrupted => 130,
            Kind::Recipe | Kind::Internal => 1,
        }
    }
}

/// An error as people and programs see it: kind, what, where, and one thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// The kind; also decides the exit code.
    pub kind: Kind,
    /// What happened, one sentence, lower case, no full stop.
    pub message: String,
    /// Where: a file with a line, a path, an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// One thing to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Error {
    /// Makes an error of `kind`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), place: None, hint: None }
    }

    /// Makes an error of kind `internal`.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// Says where it happened.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Says what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.message)?;
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Shorthand for results with the crate's error.
pub type Result<T> = std::result::Result<T, Error>;

/// Gets the known name nearest to `given`, if one is near enough to be what was meant.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(given, k), k))
        .filter(|(d, k)| *d <= 1 + k.len().max(given.len()) / 4)
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_finds_a_slip_of_the_finger_and_nothing_far_away() {
        let known = ["prompt", "provider", "budget"];
        assert_eq!(nearest("prmopt", known), Some("prompt"));
        assert_eq!(nearest("bugdet", known), Some("budget"));
        assert_eq!(nearest("zebra", known), None);
    }

    #[test]
    fn kinds_read_the_same_in_json_and_in_text() {
        for kind in [Kind::Usage, Kind::UsernsForbidden, Kind::LedgerNewer, Kind::NoSuchBottle] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}

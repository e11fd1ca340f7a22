//! What a keeper asks of whatever makes its bottle: one trait, and the choice between those that have it.
//!
//! A backend builds what a plan says, runs commands in it and takes it down. It decides nothing: which backend a launch
//! gets is said in the plan, and what may leave the bottle is not its business. Every call is made by the keeper, which has
//! one thread and must not be kept for longer than a process takes to start.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::sys::signal::Signal;

use super::plan::Plan;
use super::wire::{Command, Listener, TerminalSize};
use super::{docker, linux};
use crate::error::{Error, Kind, Result, nearest};
use crate::home::Home;

/// A command that runs in a bottle, as the keeper sees it: a child of the keeper's own, whose end is the command's.
pub use linux::enter::Running;

/// What sets the size of a command's terminal.
#[derive(Debug)]
pub enum Terminal {
    /// Its master is held here.
    Master(OwnedFd),
    /// It is held by whoever relays it.
    Relayed(docker::Control),
}

impl Terminal {
    /// Sets its size; what runs in it hears of a new one by SIGWINCH.
    ///
    /// # Errors
    /// Those of the system call.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        match self {
            Terminal::Master(master) => linux::terminal::resize(master, size),
            Terminal::Relayed(control) => control.resize(size),
        }
    }
}

/// What has become of a bottle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing: it lives.
    Lives,
    /// The host has taken away the guard that lay here; the bottle is to go.
    GuardLost(String),
    /// What holds its way out is gone, for this reason; the bottle is to go.
    GateLost(String),
    /// Every process of it has ended.
    Ended,
}

/// A bottle that is up. Dropped or not: when the keeper dies, it dies.
pub trait Backend {
    /// Gets the process id of its pid 1 on this host; 0 where the engine does not say.
    fn pid(&self) -> i32;

    /// Takes what listens in its gate, in the order in which it was made. Empty the second time.
    fn listeners(&mut self) -> Vec<(Listener, OwnedFd)>;

    /// Gets what becomes ready for `POLLPRI` when its table of mounts changes, where that can be watched from here.
    fn mounts(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Gets the limits of its plan that are not enforced, each with the reason.
    fn lacking(&self) -> Vec<String> {
        Vec::new()
    }

    /// Gets what becomes readable when its fate may have changed.
    fn events(&self) -> Vec<BorrowedFd<'_>>;

    /// Finds out what has become of it.
    fn fate(&mut self) -> Fate;

    /// Starts a command in it.
    ///
    /// # Errors
    /// `agent_missing` where the program is not in the bottle, `backend_unavailable` for everything else.
    fn exec(&mut self, command: &Command) -> Result<Running>;

    /// Sends a signal to the process group of the command whose [`Running::pid`] is `pid`.
    fn signal(&mut self, pid: i32, signal: Signal);

    /// Opens one more TCP listener in the gate.
    ///
    /// # Errors
    /// `backend_unavailable` with what the kernel said.
    fn listen(&mut self, port: u16) -> Result<OwnedFd>;

    /// Stops every process of it but its pid 1, or lets them go on.
    ///
    /// # Errors
    /// `backend_unavailable` where that cannot be done.
    fn pause(&mut self, on: bool) -> Result<()>;

    /// Tells whether the kernel has killed a process of it for want of the memory that its plan allows. Asked while there is
    /// something of it: afterwards nobody knows.
    fn ran_out_of_memory(&self) -> bool;

    /// Opens its root: whoever has it looks up paths as its processes do.
    ///
    /// # Errors
    /// `backend_unavailable` where that cannot be done.
    fn root(&mut self) -> Result<OwnedFd>;

    /// Kills every process of it. The end shows in [`Backend::fate`].
    fn kill(&mut self);

    /// Clears away what is left after its end.
    fn clear(&mut self);
}

/// Builds the bottle of `plan`. The calling process must be single-threaded.
///
/// # Errors
/// The backend's own.
pub fn up(plan: &Plan) -> Result<Box<dyn Backend>> {
    match &plan.image {
        None => Ok(Box::new(linux::backend::Embedded::up(plan)?)),
        Some(image) => Ok(Box::new(docker::Container::up(plan, image)?)),
    }
}

/// Which backend makes a bottle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The embedded one.
    #[default]
    Linux,
    /// A Docker or Podman engine.
    Docker,
}

impl Choice {
    /// The names that can be chosen.
    pub const NAMES: [&str; 2] = ["linux", "docker"];

    /// Names that are known elsewhere, each with the reason why it cannot be had here.
    const ELSEWHERE: [(&str, &str); 2] = [
        ("smolmachines", "bb has no backend for virtual machines"),
        ("macos-container", "Apple's containers run on macOS only, and bb has no backend for them"),
    ];

    /// Gets its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Choice::Linux => "linux",
            Choice::Docker => "docker",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// `backend_unavailable` for a backend that is known and cannot be had, `usage` for what is none.
    pub fn parse(name: &str) -> Result<Choice> {
        match name {
            "linux" => Ok(Choice::Linux),
            "docker" | "podman" => Ok(Choice::Docker),
            _ => {
                let at = format!("backend {name}");
                if let Some((_, reason)) = Choice::ELSEWHERE.iter().find(|(known, _)| *known == name) {
                    return Err(Error::new(Kind::BackendUnavailable, (*reason).to_owned())
                        .at(at)
                        .hint("use `linux`, which needs nothing, or `docker`"));
                }
                let meant = nearest(name, Choice::NAMES).map(|n| format!("did you mean `{n}`? "));
                Err(Error::new(Kind::Usage, "there is no such backend")
                    .at(at)
                    .hint(format!("{}the backends are `linux` and `docker`", meant.unwrap_or_default())))
            }
        }
    }
}

/// Gets the best that `bb doctor` found to work on this machine; the embedded one where it was never asked.
pub fn found(home: &Home) -> Choice {
    let name = std::fs::read_to_string(home.best_backend()).unwrap_or_default();
    Choice::parse(name.trim()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_chosen_by_name_and_what_cannot_be_had_is_named() {
        assert_eq!(Choice::parse("linux").unwrap(), Choice::Linux);
        assert_eq!(Choice::parse("docker").unwrap(), Choice::Docker);
        assert_eq!(Choice::parse("podman").unwrap(), Choice::Docker);
        for name in ["smolmachines", "macos-container"] {
            let error = Choice::parse(name).unwrap_err();
            assert_eq!(error.kind, Kind::BackendUnavailable);
            assert!(error.place.unwrap().contains(name) && error.hint.is_some());
        }
        let error = Choice::parse("dokcer").unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        assert!(error.hint.unwrap().contains("did you mean `docker`?"));
    }

    #[test]
    fn where_nothing_else_says_a_backend_it_is_the_one_that_was_found() {
        let dir = std::env::temp_dir().join(format!("bb-found-{}", std::process::id()));
        let home = Home::open(&dir, None).unwrap();
        assert_eq!(found(&home), Choice::Linux, "nobody ever looked");
        for (text, choice) in [("docker\n", Choice::Docker), ("linux\n", Choice::Linux), ("vmm\n", Choice::Linux)] {
            std::fs::write(home.best_backend(), text).unwrap();
            assert_eq!(found(&home), choice, "{text}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}

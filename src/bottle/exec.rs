//! One command that a keeper has started: its process, its streams, and what is fed to it.
//!
//! Knows nothing of how it was started, and of controllers only what they ask of it.

use std::os::fd::{BorrowedFd, OwnedFd};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::backend::{Running, Terminal};
use super::input::{Input, Piece};
use super::wire::{Reply, TerminalSize};
use crate::error::{Error, Kind};

/// An exec that still runs or still has output.
#[derive(Debug)]
pub struct Exec {
    /// The id it was asked with.
    pub id: String,
    /// Its process.
    pub pid: i32,
    /// Gone once the process has been reaped.
    pub pidfd: Option<OwnedFd>,
    /// Its exit code.
    pub code: Option<i32>,
    /// Where its output comes from; of one in a terminal, the master.
    pub stdout: Option<OwnedFd>,
    /// The same for standard error; one in a terminal has none.
    pub stderr: Option<OwnedFd>,
    /// What it is fed by, where that was asked for.
    input: Option<Input>,
    /// What sets the size of its terminal.
    terminal: Option<Terminal>,
}

impl Exec {
    /// Takes over a command that runs.
    pub fn new(id: String, running: Running) -> Exec {
        let input = running.stdin.and_then(|fd| Input::new(fd, running.terminal.is_some()).ok());
        Exec {
            id,
            pid: running.pid,
            pidfd: Some(running.pidfd),
            code: None,
            stdout: Some(running.stdout),
            stderr: running.stderr,
            input,
            terminal: running.terminal,
        }
    }

    /// Feeds it. Returns the answer.
    pub fn feed(&mut self, from: &str, seq: u64, data: &str, end: bool, once: bool) -> Reply {
        let Ok(bytes) = BASE64.decode(data) else {
            return Reply::Failed { error: Error::new(Kind::Usage, "the input is no base64") };
        };
        let Some(input) = &mut self.input else {
            return Reply::Failed { error: Error::new(Kind::Usage, "the command was started without open input") };
        };
        let bytes = input.take(&Piece { from, seq, bytes: &bytes, end, once });
        Reply::Taken { bytes, open: input.is_open() }
    }

    /// Sets the size of its terminal. Returns the answer.
    pub fn resize(&self, size: TerminalSize) -> Reply {
        let error = match &self.terminal {
            Some(terminal) => match terminal.resize(size) {
                Ok(()) => return Reply::Done,
                Err(e) => Error::new(Kind::Internal, format!("the terminal's size: {e}")),
            },
            None if self.code.is_some() => return Reply::Done,
            None => Error::new(Kind::Usage, "the command has no terminal"),
        };
        Reply::Failed { error }
    }

    /// Gets what is to become writable before more of its input can be handed on.
    pub fn wants_room(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().and_then(Input::wants_room)
    }

    /// Hands on what it has room for.
    pub fn flush(&mut self) {
        if let Some(input) = &mut self.input {
            input.flush();
        }
    }

    /// Closes what only a running command has. A terminal is hung up: who still sits there is told.
    pub fn ended(&mut self, code: i32) {
        self.code = Some(code);
        if let Some(input) = &mut self.input {
            input.close();
        }
        if self.terminal.take().is_some() {
            self.stdout = None;
        }
    }
}

/// Reaps a child and gives its exit code, `128 + signal` when a signal ended it.
pub fn reap(pid: i32) -> i32 {
    loop {
        return match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => code,
            Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
            Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => 255,
        };
    }
}

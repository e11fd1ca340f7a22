//! The way into the agent's container: `bb __inside enter`, the parent of one command.
//!
//! It makes the command's pipes or its terminal (the container's own), starts it with everything taken away that a process
//! of a bottle must not have, carries bytes between it and the keeper's side ([`super::relay`]), and says its exit code as
//! the last word: an end without that word is known to be one that was cut off.
//!
//! It has the agent's user, and is of no use to the agent: it cannot be looked into, heeds no signal that can be blocked,
//! and if it is killed its command goes with it. It decides nothing and reaps only its own child.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::frames::{Decoder, Heard, PIECE, Told, WINDOW};
use super::inside::{Word, failed, hear, say};
use crate::bottle::exec::reap;
use crate::bottle::linux::{confine, enter, sys, terminal};
use crate::bottle::wire::{self, Command};
use crate::error::{Error, Result};
use crate::os::process::{Fork, fork_with};
use crate::os::ready::Waiting;

/// Most that waits for the keeper's side before no more is read from the command. Unit: bytes.
const MOST_WAITING: usize = 64 * 1024;

/// Most pieces that are still read of a stream after the command's end: somebody may hold it open and write for ever. It is
/// more than a pipe holds.
const MOST_LEFT_OVER: usize = 64;

/// What the way in is told first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The command.
    pub command: Command,
    /// Places that it may write below ([`crate::bottle::linux::landlock`]).
    pub writable: Vec<PathBuf>,
}

/// Runs the command that is read, to its end. Returns only where it cannot be started.
pub fn enter() -> Error {
    match begin() {
        Ok(way) => {
            way.run();
            sys::exit_now(0)
        }
        Err(error) => error,
    }
}

/// A command under way.
struct Way {
    child: i32,
    children: SignalFd,
    told: File,
    decoder: Decoder,
    says: File,
    /// What waits for the keeper's side.
    waiting: VecDeque<u8>,
    /// Where it is fed; of one in a terminal, the master.
    input: Option<File>,
    feed: VecDeque<u8>,
    /// Its input is to be closed after what waits for it.
    ending: bool,
    /// What it writes: standard output or the terminal's master, and standard error.
    outputs: [Option<File>; 2],
    in_terminal: bool,
    /// Its exit code, once it has ended.
    code: Option<i32>,
}

fn begin() -> Result<Way> {
    sys::set_dumpable(false).map_err(|e| failed("dumpable", e))?;
    let Entry { mut command, writable } = hear()?;
    // What the image says of PATH counts where nobody says otherwise.
    if !command.env.iter().any(|v| v.starts_with("PATH=")) {
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
        command.env.push(format!("PATH={path}"));
    }
    let filter = confine::program().map_err(|e| failed("seccomp", e))?;
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("pipe", e));
    let (stdio, input, outputs) = match command.terminal {
        Some(size) => {
            let (master, slave) = terminal::make(size).map_err(|e| failed("terminal", e))?;
            let again = |fd: &OwnedFd| fd.try_clone().map_err(|e| failed("terminal", e));
            let stdio = [again(&slave)?, again(&slave)?, slave];
            (stdio, Some(again(&master)?), [Some(master), None])
        }
        None => {
            let (stdin, input) = match &command.stdin {
                _ if command.input => pipe().map(|(theirs, ours)| (theirs, Some(ours)))?,
                Some(text) => (memory(text).map_err(|e| failed("standard input", e))?, None),
                None => (File::open("/dev/null").map_err(|e| failed("standard input", e))?.into(), None),
            };
            let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
            ([stdin, stdout, stderr], input, [Some(out), Some(err)])
        }
    };
    // None of them ends it, and the end of its child waits to be read. The child unblocks them for itself.
    SigSet::all().thread_block().map_err(|e| failed("signals", e))?;
    let children = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|e| failed("signals", e))?;
    let (report, theirs) = wire::pair().map_err(|e| failed("socket pair", e))?;
    let parent = nix::unistd::getpid();
    // SAFETY: this process has one thread.
    let child = match unsafe { fork_with(0) }.map_err(|e| failed("fork", e))? {
        Fork::Child => {
            let _ = sys::die_with_parent();
            if nix::unistd::getppid() != parent {
                sys::exit_now(127);
            }
            let [stdin, stdout, stderr] = &stdio;
            let error = enter::execute(&command, &filter, &writable, [stdin, stdout, stderr], &theirs);
            let _ = wire::send(&theirs, &error, &[]);
            sys::exit_now(127)
        }
        Fork::Parent(pid) => pid,
    };
    drop((stdio, theirs));
    confine::apply(&filter).map_err(|e| failed("confinement", e))?;
    // The program is executed, which closes the socket; or it is said why not.
    if let Some((error, _)) = wire::receive::<Error>(&report).map_err(|e| failed("start", e))? {
        return Err(error);
    }
    drop(report);
    let own = |fd: io::Result<OwnedFd>| -> Result<File> {
        let fd = fd.map_err(|e| failed("streams", e))?;
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| failed("streams", e))?;
        Ok(fd.into())
    };
    say(&Word::Ready(child)).map_err(|e| failed("answer", e))?;
    let [out, err] = outputs;
    Ok(Way {
        child,
        children,
        told: own(io::stdin().as_fd().try_clone_to_owned())?,
        decoder: Decoder::default(),
        says: own(io::stdout().as_fd().try_clone_to_owned())?,
        waiting: VecDeque::new(),
        input: input.map(|fd| own(Ok(fd))).transpose()?,
        feed: VecDeque::new(),
        ending: false,
        outputs: [out.map(|fd| own(Ok(fd))).transpose()?, err.map(|fd| own(Ok(fd))).transpose()?],
        in_terminal: command.terminal.is_some(),
        code: None,
    })
}

/// Text as a file that can be read only.
fn memory(text: &str) -> io::Result<OwnedFd> {
    let memory = wire::sealed("stdin", text.as_bytes())?;
    Ok(File::open(format!("/proc/self/fd/{}", memory.as_raw_fd()))?.into())
}

/// What became ready.
enum Ready {
    Told,
    Room,
    Output(usize),
    Input,
    Child,
}

impl Way {
    /// Carries bytes until the other side has heard the last word and nobody writes any more, or is gone.
    fn run(mut self) {
        loop {
            for ready in self.wait() {
                let goes_on = match ready {
                    Ready::Told => self.hear(),
                    Ready::Room => self.speak(),
                    Ready::Output(n) => {
                        self.copy(n);
                        true
                    }
                    Ready::Input => {
                        self.hand_on();
                        true
                    }
                    Ready::Child => {
                        self.child_ended();
                        true
                    }
                };
                if !goes_on {
                    return self.leave();
                }
            }
        }
    }

    fn wait(&self) -> Vec<Ready> {
        let mut waiting = Waiting::default();
        waiting.add(Ready::Told, self.told.as_fd(), PollFlags::POLLIN);
        if !self.waiting.is_empty() {
            waiting.add(Ready::Room, self.says.as_fd(), PollFlags::POLLOUT);
        }
        for (n, output) in self.outputs.iter().enumerate() {
            if let Some(output) = output.as_ref().filter(|_| self.waiting.len() < MOST_WAITING) {
                waiting.add(Ready::Output(n), output.as_fd(), PollFlags::POLLIN);
            }
        }
        if let Some(input) = self.input.as_ref().filter(|_| !self.feed.is_empty()) {
            waiting.add(Ready::Input, input.as_fd(), PollFlags::POLLOUT);
        }
        if self.code.is_none() {
            waiting.add(Ready::Child, self.children.as_fd(), PollFlags::POLLIN);
        }
        waiting.wait(PollTimeout::NONE)
    }

    fn says(&mut self, heard: &Heard) {
        self.waiting.extend(heard.frame());
    }

    /// Reads what the keeper's side says. Tells whether there is more to do.
    fn hear(&mut self) -> bool {
        let mut buffer = [0u8; PIECE];
        match self.told.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => self.decoder.push(&buffer[..n]),
            Err(e) => return is_nothing(&e),
        }
        loop {
            let told = match self.decoder.next() {
                Ok(Some((kind, bytes))) => Told::read(kind, bytes),
                Ok(None) => return true,
                Err(e) => Err(e),
            };
            match told {
                Ok(Told::Input(bytes)) if self.input.is_some() && self.feed.len() + bytes.len() <= WINDOW => {
                    self.feed.extend(bytes);
                }
                // Nobody reads it any more.
                Ok(Told::Input(_)) => {}
                Ok(Told::End) => self.ending = !self.in_terminal,
                Ok(Told::Size(size)) => {
                    if let Some(master) = self.input.as_ref().filter(|_| self.in_terminal) {
                        let _ = terminal::resize(master, size);
                    }
                }
                Ok(Told::Signal(number)) => {
                    if let Ok(signal) = Signal::try_from(number) {
                        self.signal(signal);
                    }
                }
                Ok(Told::Bye) if self.code.is_some() && self.is_silent() => return false,
                Ok(Told::Bye) => {}
                Err(_) => return false,
            }
            self.hand_on();
        }
    }

    /// Says what waits. Tells whether somebody listens.
    fn speak(&mut self) -> bool {
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            match self.says.write(front) {
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(e) => return is_nothing(&e),
            }
        }
        true
    }

    /// Hands input on, as far as the command has room for it.
    fn hand_on(&mut self) {
        let mut taken = 0;
        while let Some(input) = &mut self.input {
            let (front, _) = self.feed.as_slices();
            if front.is_empty() {
                if self.ending {
                    self.input = None;
                }
                break;
            }
            match input.write(front) {
                Ok(n) => {
                    self.feed.drain(..n);
                    taken += n;
                }
                Err(e) if is_nothing(&e) => break,
                Err(_) => {
                    self.input = None;
                    self.feed.clear();
                    self.says(&Heard::Closed);
                }
            }
        }
        if taken > 0 {
            self.says(&Heard::Taken(taken));
        }
    }

    /// Reads one piece of output. Tells whether there may be more.
    fn copy(&mut self, n: usize) -> bool {
        let mut buffer = [0u8; PIECE];
        let Some(output) = &mut self.outputs[n] else { return false };
        match output.read(&mut buffer) {
            Ok(read) if read > 0 => {
                let bytes = buffer[..read].to_vec();
                self.says(&if n == 0 { Heard::Out(bytes) } else { Heard::Err(bytes) });
                true
            }
            Err(e) if is_nothing(&e) => false,
            // Nobody can write there any more; a master says so by EIO.
            _ => {
                self.outputs[n] = None;
                if let Some(code) = self.code.filter(|_| self.is_silent()) {
                    self.says(&Heard::Last { code, open: false });
                }
                false
            }
        }
    }

    fn child_ended(&mut self) {
        // Read to make it silent: it is one child's, whose end is asked for.
        let _ = self.children.read_signal();
        if self.code.is_some() || !has_ended(self.child) {
            return;
        }
        let code = reap(self.child);
        for n in 0..self.outputs.len() {
            for _ in 0..MOST_LEFT_OVER {
                if !self.copy(n) {
                    break;
                }
            }
        }
        self.input = None;
        self.feed.clear();
        if self.in_terminal {
            // It is hung up: who still sits there is told.
            self.outputs = [None, None];
        }
        self.code = Some(code);
        let open = !self.is_silent();
        self.says(&Heard::Last { code, open });
    }

    /// Tells whether nobody can write any more.
    fn is_silent(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }

    fn signal(&self, signal: Signal) {
        // Not reaped, so the number is still its own.
        if self.code.is_none() {
            let _ = kill(Pid::from_raw(-self.child), signal);
        }
    }

    /// The other side is gone, or has heard all.
    fn leave(self) {
        self.signal(Signal::SIGKILL);
    }
}

/// Tells whether a child has ended, without reaping it.
fn has_ended(pid: i32) -> bool {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(waitid(Id::Pid(Pid::from_raw(pid)), flags), Ok(WaitStatus::StillAlive))
}

fn is_nothing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

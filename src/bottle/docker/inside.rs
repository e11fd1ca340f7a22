//! What runs in the agent's container beside the agent: `bb __inside`, a static build that the engine shows there.
//!
//! * `init` is pid 1. It makes the bottle's files as its only user, watches that the guards stay, reaps, and ends with the
//!   keeper, whose end it reads from its standard input.
//! * `enter` is the one way in, for the agent and every later command ([`super::supervise`]).
//! * `save` writes the agent's home as an archive; `stand-still` stops everything, `go-on` lets run what was stopped.
//! * `clear` removes what the kernel has left of a layer, in a container of its own.
//!
//! Each is told what to do in one line of JSON, and answers with one. None of them holds anything of the host.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{commit, still, supervise};
use crate::bottle::linux::watch::Watch;
use crate::bottle::linux::{confine, sys};
use crate::bottle::plan::PlannedFile;
use crate::error::{Error, Kind, Result};
use crate::os::beneath;

/// Longest line that is read, bytes.
const MAX_LINE: usize = 64 << 20;

/// Longest that a word of failure waits to be heard. Unit: milliseconds.
const HEARD: u16 = 10_000;

/// What pid 1 is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Orders {
    /// Directories to make.
    pub directories: Vec<PathBuf>,
    /// Files to make.
    pub files: Vec<PlannedFile>,
    /// The agent's home: what was saved of it is laid out there.
    #[serde(default)]
    pub home: Option<PathBuf>,
    /// Mounts that have to stay.
    pub guards: Vec<PathBuf>,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Pid 1 is ready; or a command is about to begin, whose process id in the container this is.
    Ready(i32),
    /// The guard here is gone.
    GuardLost(String),
    /// It failed.
    Failed(Error),
}

/// Runs `bb __inside WHAT`.
pub fn main() -> u8 {
    let words: Vec<String> = std::env::args().skip(2).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let error = match words.as_slice() {
        ["init"] => match init() {
            Ok(()) => return 0,
            Err(error) => error,
        },
        ["enter"] => supervise::enter(),
        ["save", home, skip @ ..] => {
            if let Err(e) = commit::write_home(home, skip) {
                eprintln!("{e}");
                return 1;
            }
            return 0;
        }
        ["stand-still"] => return still::inside(Signal::SIGSTOP),
        ["go-on"] => return still::inside(Signal::SIGCONT),
        ["clear", path] => return u8::from(beneath::remove_all(Path::new(path)).is_err()),
        _ => Error::new(Kind::Usage, "bb __inside is for bb itself"),
    };
    let _ = say(&Word::Failed(error));
    until_heard();
    127
}

/// Waits until whoever was told has gone, for a while: engines may lose what a process says right before its end.
pub(super) fn until_heard() {
    let input = io::stdin();
    let _ = poll(&mut [PollFd::new(input.as_fd(), PollFlags::POLLIN)], HEARD);
}

pub(super) fn failed(step: &str, e: impl std::fmt::Display) -> Error {
    Error::new(Kind::BackendUnavailable, format!("inside the container: {step}: {e}"))
}

/// Reads one line, byte by byte: what is behind it is not ours.
pub(super) fn hear<T: DeserializeOwned>() -> Result<T> {
    let mut line = Vec::new();
    let mut input = io::stdin().lock();
    let mut byte = [0u8; 1];
    loop {
        match input.read(&mut byte) {
            Ok(1) if byte[0] == b'\n' => break,
            Ok(1) if line.len() < MAX_LINE => line.push(byte[0]),
            Ok(_) => return Err(failed("orders", "they end too early")),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed("orders", e)),
        }
    }
    serde_json::from_slice(&line).map_err(|e| failed("orders", e))
}

pub(super) fn say(word: &Word) -> io::Result<()> {
    let mut line = serde_json::to_vec(word).map_err(io::Error::from)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// Pid 1. Returns when the keeper is gone.
fn init() -> Result<()> {
    sys::set_dumpable(false).map_err(|e| failed("dumpable", e))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let orders: Orders = hear()?;
    for path in &orders.directories {
        directory(path)?;
    }
    if let Some(home) = &orders.home {
        commit::lay_out(home).map_err(|e| failed("the home that was saved", e))?;
    }
    for file in &orders.files {
        write_file(file)?;
    }
    let mut watch = Watch::new(nix::unistd::getpid().as_raw(), orders.guards).map_err(|e| failed("mounts", e))?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block().map_err(|e| failed("signals", e))?;
    let children = SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|e| failed("signals", e))?;
    confine::apply(&confine::program().map_err(|e| failed("seccomp", e))?).map_err(|e| failed("confinement", e))?;
    say(&Word::Ready(nix::unistd::getpid().as_raw())).map_err(|e| failed("answer", e))?;
    let keeper = io::stdin();
    loop {
        let mut fds = vec![
            PollFd::new(watch.as_fd(), PollFlags::POLLPRI),
            PollFd::new(keeper.as_fd(), PollFlags::POLLIN),
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(watch.renames().map(|renames| PollFd::new(renames, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(failed("waiting", e)),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        let [mounts, input, ended] = [ready[0], ready[1], ready[2]];
        let renamed = ready.get(3).is_some_and(|&ready| ready);
        if (mounts || renamed)
            && let Some(path) = watch.fallen().map_err(|e| failed("mounts", e))?
        {
            let _ = say(&Word::GuardLost(path.display().to_string()));
            return Ok(());
        }
        // Nothing is ever said after the orders: this is the end of the keeper.
        if input && !matches!(keeper.lock().read(&mut [0u8; 256]), Ok(n) if n > 0) {
            return Ok(());
        }
        if ended {
            let _ = children.read_signal();
            while matches!(waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)), Ok(s) if s != WaitStatus::StillAlive)
            {
            }
        }
    }
}

fn directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|e| failed(&path.display().to_string(), e))
}

fn write_file(file: &PlannedFile) -> Result<()> {
    let step = file.path.display().to_string();
    if let Some(parent) = file.path.parent() {
        directory(parent)?;
    }
    let mode = file.mode & 0o777;
    // In a place that outlived an earlier bottle anything may lie there, a pipe that nobody reads say.
    if fs::symlink_metadata(&file.path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
        fs::remove_file(&file.path).map_err(|e| failed(&step, e))?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    let mut made = options.open(&file.path).map_err(|e| failed(&step, e))?;
    let bytes = file.bytes().map_err(|e| failed(&step, e))?;
    made.write_all(&bytes).map_err(|e| failed(&step, e))?;
    made.set_permissions(fs::Permissions::from_mode(mode)).map_err(|e| failed(&step, e))
}

//! Stops every process of a bottle but its pid 1, and lets them go on, where no control group of its own can be frozen
//! (`bottle/freezer.rs`).
//!
//! One signal to all of them, sent from inside their pid namespace: the kernel sees to it that a process which is being made
//! meanwhile does not escape. SIGSTOP cannot be blocked, and with everything stopped nobody is left who could undo it.

use std::fs;
use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::launch::{NAMESPACES, Up};
use super::sys;
use crate::error::{Error, Kind, Result};
use crate::os::process::{Fork, Process, fork_with};

/// Longest that one attempt may take. The agent may stop or kill the process that is about to stop it. Unit: milliseconds.
const PATIENCE: u16 = 2000;

/// How often it is attempted.
const TRIES: u32 = 20;

/// How often, and how long apart, it is looked whether all have stopped. Unit of the latter: milliseconds.
const LOOKS: u32 = 100;
const APART: u64 = 2;

/// Sends `signal` to every process of the bottle but its pid 1. The calling process must be single-threaded.
///
/// # Errors
/// `backend_unavailable` where that cannot be done.
pub fn all(up: &Up, signal: Signal) -> Result<()> {
    let failed = |e: String| Error::new(Kind::BackendUnavailable, format!("signalling the bottle's processes: {e}"));
    for _ in 0..TRIES {
        // SAFETY: the keeper is single-threaded.
        let helper = match unsafe { fork_with(0) }.map_err(|e| failed(e.to_string()))? {
            Fork::Child => sys::exit_now(i32::from(enter(up, signal).is_none())),
            Fork::Parent(pid) => pid,
        };
        let in_time = Process::open(helper).and_then(|process| process.ends_within(PATIENCE)).unwrap_or(false);
        if !in_time {
            let _ = kill(Pid::from_raw(helper), Signal::SIGKILL);
        }
        if matches!(waitpid(Pid::from_raw(helper), None), Ok(WaitStatus::Exited(_, 0))) && in_time {
            return Ok(());
        }
    }
    Err(failed("the process that does it is killed or stopped each time".to_owned()))
}

/// The helper: joins the namespaces, and has a child of its own, which is in the pid namespace, send the signal.
fn enter(up: &Up, signal: Signal) -> Option<()> {
    let wanted = ["user", "mnt", "pid"];
    let namespaces: Vec<_> =
        NAMESPACES.iter().zip(&up.namespaces).filter(|(name, _)| wanted.contains(name)).map(|(_, fd)| fd).collect();
    sys::close_all_but(&namespaces.iter().map(|fd| fd.as_raw_fd()).collect::<Vec<_>>());
    sys::set_dumpable(false).ok()?;
    for namespace in namespaces {
        setns(namespace, CloneFlags::empty()).ok()?;
    }
    // Whatever the change of users did: nobody in the bottle may look into this copy of the keeper.
    sys::set_dumpable(false).ok()?;
    // SAFETY: single-threaded, as the keeper is.
    match unsafe { fork_with(0) }.ok()? {
        Fork::Child => {
            let _ = sys::die_with_parent();
            send(signal);
            sys::exit_now(0);
        }
        Fork::Parent(pid) => matches!(waitpid(Pid::from_raw(pid), None), Ok(WaitStatus::Exited(_, 0))).then_some(()),
    }
}

/// Sends a signal to every process of the pid namespace but pid 1 and itself.
pub fn send(signal: Signal) {
    for _ in 0..LOOKS {
        let _ = kill(Pid::from_raw(-1), signal);
        if signal != Signal::SIGSTOP || !any_runs() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(APART));
    }
    // What sleeps in the kernel stops before it sees its program again.
}

/// Tells whether a process beside pid 1 and this one has not stopped yet.
fn any_runs() -> bool {
    let own = std::process::id();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others =
        pids.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()).filter(|pid| *pid != 1 && *pid != own);
    let runs = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name before the state may have any character but is in brackets.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        matches!(state, Some('R' | 'S'))
    };
    others.into_iter().any(runs)
}

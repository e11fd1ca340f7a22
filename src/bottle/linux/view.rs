//! A bottle's file system as a descriptor: whoever has it looks up paths with the bottle's root as the root.
//!
//! Made by a helper that joins the mount namespace, and that the agent cannot see: it stays in the keeper's pid namespace.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::launch::{NAMESPACES, Up};
use super::sys;
use crate::bottle::wire;
use crate::error::{Error, Kind, Result};
use crate::os::process::{Fork, fork_with};

/// Longest that the helper may take, seconds.
const PATIENCE: i64 = 5;

/// Opens the root of a bottle. The calling process must be single-threaded.
///
/// # Errors
/// `backend_unavailable` where that cannot be done.
pub fn root(up: &Up) -> Result<OwnedFd> {
    let failed =
        |e: &dyn std::fmt::Display| Error::new(Kind::BackendUnavailable, format!("the bottle's file system: {e}"));
    let (ours, theirs) = wire::pair().map_err(|e| failed(&e))?;
    setsockopt(&ours, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(PATIENCE, 0)).map_err(|e| failed(&e))?;
    // SAFETY: the keeper is single-threaded.
    let helper = match unsafe { fork_with(0) }.map_err(|e| failed(&e))? {
        Fork::Child => {
            drop(ours);
            let opened = enter(up, &theirs);
            let sent = opened.and_then(|fd| wire::send(&theirs, &(), &[fd.as_raw_fd()]));
            sys::exit_now(i32::from(sent.is_err()));
        }
        Fork::Parent(pid) => pid,
    };
    drop(theirs);
    let answer = wire::receive::<()>(&ours);
    let _ = nix::sys::signal::kill(Pid::from_raw(helper), nix::sys::signal::Signal::SIGKILL);
    let _ = waitpid(Pid::from_raw(helper), None);
    match answer {
        Ok(Some(((), mut fds))) if fds.len() == 1 => Ok(fds.remove(0)),
        Ok(_) => Err(failed(&"it cannot be entered")),
        Err(e) => Err(failed(&e)),
    }
}

fn enter(up: &Up, keep: &OwnedFd) -> std::io::Result<OwnedFd> {
    let wanted = ["user", "mnt"];
    let namespaces: Vec<_> =
        NAMESPACES.iter().zip(&up.namespaces).filter(|(name, _)| wanted.contains(name)).map(|(_, fd)| fd).collect();
    let kept: Vec<_> = namespaces.iter().map(|fd| fd.as_raw_fd()).chain([keep.as_raw_fd()]).collect();
    sys::close_all_but(&kept);
    for namespace in namespaces {
        setns(namespace, CloneFlags::empty())?;
    }
    Ok(open("/", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

//! Pid 1 of a bottle: it reaps, and that is all.
//!
//! It holds no descriptor of the host, cannot be looked into by the agent, and dies with the keeper; with it dies every
//! process of the bottle.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Reaps for ever. SIGCHLD must be blocked before the first child can die; this function blocks it.
pub fn run() -> ! {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    if children.thread_block().is_err() {
        super::sys::exit_now(71);
    }
    loop {
        while matches!(waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
        if children.wait().is_err() {
            super::sys::exit_now(71);
        }
    }
}

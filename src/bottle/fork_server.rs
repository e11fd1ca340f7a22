//! What keepers are forked from: a process of the controller with one thread that has done once what each keeper would have to do
//! first (load and link the executable), and then copies itself for each.
//!
//! It holds no secret and no bottle, decides nothing, and ends with its controller; the keepers that it has made live on. Each keeper
//! is handed its own socket to the controller, reads what is secret from there, and shares nothing with the next.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde::{Deserialize, Serialize};

use super::{keeper, wire};
use crate::os::process::{Fork, Process, fork_with};

/// The argument that makes bb one.
pub const ARGUMENT: &str = "__keepers";

/// What it answers to a socket: the keeper that has it, with a descriptor of that process (pidfd_open(2)).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The process that is the keeper.
    Made {
        /// Its process id.
        pid: i32,
    },
    /// There is none, because of this.
    Failed {
        /// What the kernel said.
        why: String,
    },
}

/// Runs the server; descriptor 0 is the controller's packet socket, and each packet brings the socket of one keeper.
pub fn main() -> u8 {
    let (Ok(controller), Ok(ended)) = (keeper::own_socket(), ended_children()) else { return 1 };
    let _ = nix::sys::prctl::set_name(c"bb-keepers");
    loop {
        let mut fds =
            [PollFd::new(controller.as_fd(), PollFlags::POLLIN), PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return 1,
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let [asked, has_ended] = [ready(&fds[0]), ready(&fds[1])];
        if has_ended {
            let _ = ended.read_signal();
            while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status != WaitStatus::StillAlive) {}
        }
        if !asked {
            continue;
        }
        let Ok(Some(((), fds))) = wire::receive::<()>(&controller) else { return 0 };
        let Ok([socket]) = <[OwnedFd; 1]>::try_from(fds) else { return 1 };
        // SAFETY: this process has one thread.
        match unsafe { fork_with(0) } {
            Ok(Fork::Child) => {
                drop((controller, ended));
                let _ = SigSet::from(Signal::SIGCHLD).thread_unblock();
                return keeper::keep(socket);
            }
            Ok(Fork::Parent(pid)) => {
                drop(socket);
                // It cannot have been reaped: only the loop above does that.
                match Process::open(pid) {
                    Ok(process) => {
                        let _ = wire::send(&controller, &Answer::Made { pid }, &[process.as_fd().as_raw_fd()]);
                    }
                    Err(e) => failed(&controller, &e),
                }
            }
            Err(e) => failed(&controller, &e),
        }
    }
}

fn failed(controller: &OwnedFd, e: &io::Error) {
    let _ = wire::send(controller, &Answer::Failed { why: e.to_string() }, &[]);
}

/// Makes what becomes readable when a keeper has ended.
fn ended_children() -> nix::Result<SignalFd> {
    let signals = SigSet::from(Signal::SIGCHLD);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

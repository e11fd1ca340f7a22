//! Who may talk to the controller: the same user, in the same user and pid namespace.
//!
//! The uid alone is not enough: an agent's processes have the uid of the user who runs bb.

use tokio::net::UnixStream;

use crate::os::process::Process;

/// Tells whether the process at the other end may be served. Whatever cannot be found out counts as no.
pub fn may_talk(stream: &UnixStream) -> bool {
    let Ok(credentials) = stream.peer_cred() else { return false };
    let Some(pid) = credentials.pid() else { return false };
    credentials.uid() == nix::unistd::geteuid().as_raw() && Process::open(pid).is_ok_and(|p| p.is_no_stranger())
}

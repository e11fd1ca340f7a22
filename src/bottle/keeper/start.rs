//! The beginning of a keeper: takes its socket, builds the bottle of the plan that it is handed there, and says so.
//!
//! What it does after that is the keeper's own. One thread, as there.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;

use nix::sys::socket as sock;

use super::{Keeper, failed, verbs};
use crate::bottle::backend;
use crate::bottle::caller::Caller;
use crate::bottle::linux::sys;
use crate::bottle::output::Writer;
use crate::bottle::plan::Plan;
use crate::bottle::wire::{self, End, Reply, Request};
use crate::error::Result;

/// Gets the packet socket to the controller that a process of bb was started with as descriptor 0.
///
/// # Errors
/// Those of moving it away from there. Called once, at the start of such a process.
pub fn own_socket() -> io::Result<OwnedFd> {
    // SAFETY: by the contract of such a start, descriptor 0 is the socket, and nothing else uses it.
    move_up(unsafe { OwnedFd::from_raw_fd(0) })
}

/// Runs the keeper whose socket to the controller this is; the first packet on it is a `start`. Gives the exit code.
pub fn keep(controller: OwnedFd) -> u8 {
    let _ = nix::sys::prctl::set_name(c"bb-keeper");
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::chdir("/");
    match start(&controller) {
        Ok(mut keeper) => {
            keeper.controller = Caller::new(controller).ok();
            keeper.run();
            0
        }
        Err(error) => {
            let _ = wire::send(&controller, &Reply::Failed { error }, &[]);
            1
        }
    }
}

/// Frees descriptors 0 to 2 for what children expect there.
fn move_up(fd: OwnedFd) -> io::Result<OwnedFd> {
    let raw = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(10))?;
    drop(fd);
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    if null.as_raw_fd() != 0 {
        nix::unistd::dup2_stdin(&null)?;
    } else {
        std::mem::forget(null);
    }
    // SAFETY: fcntl has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Reads the start packet, builds the bottle and says so.
fn start(controller: &OwnedFd) -> Result<Keeper> {
    let Some((Request::Start, fds)) = wire::receive(controller).map_err(|e| failed("start", e))? else {
        return Err(failed("start", "the first packet was no start"));
    };
    let [plan, sealed]: [OwnedFd; 2] =
        fds.try_into().map_err(|_| failed("start", "the start packet lacks its descriptors"))?;
    let plan: Plan = serde_json::from_slice(&wire::read_sealed(&plan).map_err(|e| failed("plan", e))?)
        .map_err(|e| failed("plan", e))?;
    sys::set_dumpable(false).map_err(|e| failed("dumpable", e))?;
    let mut up = backend::up(&plan)?;
    let log = Writer::create(&plan.log).map_err(|e| failed("log", e))?;
    let door = open_door(&plan.socket).map_err(|e| failed("socket", e))?;
    let listeners = up.listeners();
    let fds: Vec<RawFd> = listeners.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    let kinds = listeners.iter().map(|(kind, _)| *kind).collect();
    let up_now = Reply::Up { pid: up.pid(), listeners: kinds, verbs: verbs(), lacking: up.lacking() };
    wire::send(controller, &up_now, &fds).map_err(|e| failed("report", e))?;
    Ok(Keeper {
        plan,
        sealed,
        log,
        door,
        controller: None,
        up: Some(up),
        guard_lost: None,
        note: None,
        paused: false,
        listeners,
        execs: BTreeMap::new(),
        start_at: None,
        leaving: false,
        end: End::default(),
    })
}

fn open_door(path: &std::path::Path) -> io::Result<OwnedFd> {
    let _ = std::fs::remove_file(path);
    let flags = sock::SockFlag::SOCK_CLOEXEC | sock::SockFlag::SOCK_NONBLOCK;
    let door = sock::socket(sock::AddressFamily::Unix, sock::SockType::SeqPacket, flags, None)?;
    sock::bind(door.as_raw_fd(), &sock::UnixAddr::new(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    sock::listen(&door, sock::Backlog::new(8)?)?;
    Ok(door)
}

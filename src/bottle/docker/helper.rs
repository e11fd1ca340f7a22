//! The resident helper: `bb __helper`, in a container of its own that shares the network of the agent's and nothing else.
//!
//! It makes every address local, makes the listeners, hands them to the keeper, gives up what it needed for that, and
//! stays to open further ones. It ends with the keeper. It never accepts, reads or answers a connection.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::sys::socket as sock;
use nix::unistd::{Gid, Uid};

use crate::bottle::linux::{confine, gate, listeners, sys};
use crate::bottle::wire::{self, Listener, Reply, Request};
use crate::error::{Error, Kind, Result};

/// The user that it becomes: nobody.
const NOBODY: u32 = 65_534;

/// Where the keeper's socket is shown.
pub const SOCKET: &str = "/keeper/s";

/// Runs `bb __helper PORT...`.
pub fn main() -> u8 {
    let ports: Vec<u16> = std::env::args().skip(2).filter_map(|port| port.parse().ok()).collect();
    let Ok(keeper) = connect() else { return 1 };
    let Err(error) = serve(&keeper, &ports);
    let _ = wire::send(&keeper, &Reply::Failed { error }, &[]);
    1
}

fn connect() -> std::io::Result<OwnedFd> {
    let keeper =
        sock::socket(sock::AddressFamily::Unix, sock::SockType::SeqPacket, sock::SockFlag::SOCK_CLOEXEC, None)?;
    sock::connect(keeper.as_raw_fd(), &sock::UnixAddr::new(Path::new(SOCKET))?)?;
    Ok(keeper)
}

fn failed(step: &str, e: impl std::fmt::Display) -> Error {
    Error::new(Kind::BackendUnavailable, format!("the bottle's gate: {step}: {e}"))
}

fn serve(keeper: &OwnedFd, ports: &[u16]) -> Result<Infallible> {
    gate::build_shared().map_err(|e| failed("network", e))?;
    let mut all = listeners::all(ports).map_err(|e| failed("listeners", e))?;
    let sentinel = listeners::sentinel_of_loopback(ports).map_err(|e| failed("packet socket", e))?;
    all.push((Listener::Sentinel, sentinel));
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    confine::drop_bounding();
    nix::unistd::setgroups(&[]).map_err(|e| failed("groups", e))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(|e| failed("group", e))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(|e| failed("user", e))?;
    sys::set_dumpable(false).map_err(|e| failed("dumpable", e))?;
    confine::apply(&confine::program().map_err(|e| failed("seccomp", e))?).map_err(|e| failed("confinement", e))?;
    let (kinds, fds): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    wire::send(keeper, &Reply::Listeners { listeners: kinds }, &raw).map_err(|e| failed("report", e))?;
    drop(fds);
    loop {
        match wire::receive::<Request>(keeper) {
            Ok(Some((Request::Listen { port }, _))) => {
                let sent = match listeners::tcp(port) {
                    Ok(fd) => {
                        let listeners = vec![Listener::Tcp { port }];
                        wire::send(keeper, &Reply::Listeners { listeners }, &[fd.as_raw_fd()])
                    }
                    Err(e) => {
                        let error = failed(&format!("listening on {port}"), e);
                        wire::send(keeper, &Reply::Failed { error }, &[])
                    }
                };
                sent.map_err(|e| failed("report", e))?;
            }
            Ok(Some(_)) => {}
            Ok(None) => return Err(failed("keeper", "it is gone")),
            Err(e) => return Err(failed("keeper", e)),
        }
    }
}

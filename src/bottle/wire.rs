//! What keeper and controller say to each other: one JSON object a packet, with descriptors beside it.
//!
//! The socket is `SOCK_SEQPACKET`, so a packet is a message. The verbs are frozen: a keeper of an older bb must be
//! understood by every later controller of the same major version. Add optional keys, never change a meaning.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;
pub use crate::os::sealed::{read_sealed, sealed};

/// Largest packet. What may be larger (the spec, the sealed part) travels in a sealed memory file.
pub const MAX_PACKET: usize = 64 * 1024;

/// Most descriptors in one packet.
const MAX_FDS: usize = 64;

/// What a controller asks of a keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// First packet of a new bottle. Descriptors: [`crate::bottle::plan::Plan`] and the sealed part, both memory files.
    Start,
    /// First packet of a controller that comes back. Answer: [`Reply::Hello`].
    Hello,
    /// Asks for the listeners again. Answer: [`Reply::Listeners`].
    Listeners,
    /// Opens one more TCP listener in the gate. Answer: [`Reply::Listeners`] with that one.
    Listen {
        /// Port.
        port: u16,
    },
    /// Runs a command in the bottle. Answer: [`Reply::Started`] or [`Reply::Failed`].
    Exec(Command),
    /// Sends a signal to one exec's process group.
    Signal {
        /// Which exec.
        exec: u32,
        /// Signal number.
        signal: i32,
    },
    /// Sets the size of an exec's terminal. Keepers of this version hold none and answer [`Reply::Done`].
    Resize {
        /// Which exec.
        exec: u32,
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// Keeps a note for controllers to come, in place of the one before. No answer.
    Note {
        /// Means nothing to a keeper.
        note: String,
    },
    /// Stops every process of the bottle. Answer: [`Reply::Done`]. Nothing is started in it until it is let go on.
    Pause,
    /// Lets them go on. Answer: [`Reply::Done`].
    Thaw,
    /// Opens the bottle's root directory. Answer: [`Reply::Root`].
    Root,
    /// Takes the bottle down; the keeper stays. Answer: [`Reply::Ended`], when everything is reaped.
    Kill,
    /// Takes the bottle down, if it still runs, and ends the keeper once everything is reaped.
    Exit,
}

/// A command to run in the bottle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Chosen by whoever asks; the same id runs once.
    pub id: String,
    /// Command line.
    pub argv: Vec<String>,
    /// The whole environment, `NAME=VALUE`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Text for standard input.
    #[serde(default)]
    pub stdin: Option<String>,
}

/// One exec, as a keeper remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRecord {
    /// Number; 0 is the agent itself.
    pub exec: u32,
    /// Id it was asked with.
    pub id: String,
    /// Exit code, `128 + signal`; absent while it runs.
    #[serde(default)]
    pub code: Option<i32>,
}

/// What a listener is for. Sent in the order of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Listener {
    /// TLS or HTTP.
    Tcp {
        /// Port.
        port: u16,
    },
    /// DNS over UDP.
    DnsUdp,
    /// DNS over TCP.
    DnsTcp,
    /// The packet socket that sees attempts on ports nobody listens on.
    Sentinel,
}

/// What a keeper says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// The bottle is up. Descriptors: the listeners.
    Up {
        /// Process id of its pid 1, on the host.
        pid: i32,
        /// What the descriptors are.
        listeners: Vec<Listener>,
    },
    /// Answer to [`Request::Hello`]. Descriptors: the sealed part, a memory file with every exec so far (a list of
    /// [`ExecRecord`]), then the listeners.
    Hello {
        /// Slug.
        slug: String,
        /// Process id of the keeper.
        keeper: i32,
        /// Process id of pid 1; absent once the bottle has ended.
        pid: Option<i32>,
        /// What the descriptors after the first two are.
        listeners: Vec<Listener>,
        /// See [`Request::Note`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
        /// See [`Reply::GuardLost`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        guard_lost: Option<String>,
        /// Whether it is paused ([`Request::Pause`]). Absent from keepers that know neither that nor [`Request::Root`].
        #[serde(default)]
        paused: Option<bool>,
    },
    /// Answer to [`Request::Listeners`] and [`Request::Listen`].
    Listeners {
        /// What the descriptors are.
        listeners: Vec<Listener>,
    },
    /// An exec runs.
    Started {
        /// Its number.
        exec: u32,
        /// The id it was asked with.
        id: String,
    },
    /// An exec ended. Also sent unasked.
    Exited {
        /// Which.
        exec: u32,
        /// Exit code, `128 + signal`.
        code: i32,
    },
    /// New output was written to the log.
    Output {
        /// Number of the newest frame.
        n: u64,
    },
    /// The host has replaced a guarded file, and its guard is gone; the keeper has taken the bottle down. Unasked.
    GuardLost {
        /// Which.
        path: String,
    },
    /// Answer to [`Request::Root`]. Descriptor: the directory.
    Root,
    /// The whole bottle has ended.
    Ended,
    /// Done.
    Done,
    /// A request failed.
    Failed {
        /// Why.
        error: Error,
    },
}

/// Sends one message with descriptors.
///
/// # Errors
/// The socket's; `InvalidData` where the message is too large.
pub fn send<T: Serialize>(socket: &impl AsRawFd, message: &T, fds: &[RawFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    if bytes.len() > MAX_PACKET || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message too large for a packet"));
    }
    let control = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage] = if fds.is_empty() { &[] } else { &control };
    let iov = [io::IoSlice::new(&bytes)];
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one message with its descriptors; `None` when the other side has closed.
///
/// # Errors
/// The socket's (`WouldBlock` on a non-blocking one); `InvalidData` for what is no message.
pub fn receive<T: DeserializeOwned>(socket: &impl AsRawFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0u8; MAX_PACKET + 1];
    let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
    let (length, fds) = {
        let mut iov = [io::IoSliceMut::new(&mut buffer)];
        let message = loop {
            match recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
                Ok(message) => break message,
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        };
        let mut fds = Vec::new();
        for control in message.cmsgs().map_err(io::Error::from)? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        (message.bytes, fds)
    };
    if length == 0 {
        return Ok(None);
    }
    if length > MAX_PACKET {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "packet too large"));
    }
    let message =
        serde_json::from_slice(&buffer[..length]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Some((message, fds)))
}

/// Makes a connected pair of packet sockets, both close-on-exec.
///
/// # Errors
/// Those of the system call.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_and_its_descriptors_arrive_together() {
        let (a, b) = pair().unwrap();
        let memory = sealed("test", b"spec").unwrap();
        send(&a, &Request::Start, &[memory.as_raw_fd()]).unwrap();
        let (request, fds) = receive::<Request>(&b).unwrap().unwrap();
        assert!(matches!(request, Request::Start));
        assert_eq!(read_sealed(&fds[0]).unwrap(), b"spec");
        drop(a);
        assert!(receive::<Request>(&b).unwrap().is_none());
    }
}

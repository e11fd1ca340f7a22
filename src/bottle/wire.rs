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
pub use crate::types::TerminalSize;

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
    /// Closes the TCP listeners of these ports. Answer: [`Reply::Done`]. Only to keepers whose `verbs` have `unlisten`.
    Unlisten {
        /// Ports.
        ports: Vec<u16>,
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
    /// Feeds the standard input of an exec that was started with [`Command::input`] or [`Command::terminal`]. Answer:
    /// [`Reply::Taken`] or [`Reply::Failed`]. Only to keepers whose `verbs` have `input`.
    Input {
        /// Which exec.
        exec: u32,
        /// Who feeds; each feeder has a stream of its own.
        from: String,
        /// Where in that stream this begins. What was taken before is not taken again.
        seq: u64,
        /// Base64.
        data: String,
        /// Nothing comes after it. A terminal has no end.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        end: bool,
        /// Taken only where this feeder has fed nothing yet, and only whole.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        once: bool,
    },
    /// Sets the size of an exec's terminal. Answer: [`Reply::Done`]; keepers whose `verbs` have `input` say
    /// [`Reply::Failed`] where there is no terminal, older ones hold none and do nothing.
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
    /// Standard input is a pipe that stays open, for [`Request::Input`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub input: bool,
    /// It gets a terminal of this size: all three streams, and input is taken. Only to keepers whose `verbs` have `input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// What keepers of this version understand beyond the frozen verbs: [`Request::Input`], with terminals; [`Request::Unlisten`].
pub const VERBS: [&str; 2] = ["input", "unlisten"];

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

/// What a keeper knows of a bottle's end, beside the exit code of its agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why, where it was not by its own end or on request: what it cannot be without was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// The kernel had killed in it for want of memory when the agent ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_memory: bool,
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
        /// See [`VERBS`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        verbs: Vec<String>,
        /// Limits that are not enforced, each with the reason.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lacking: Vec<String>,
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
        /// See [`VERBS`].
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        verbs: Vec<String>,
        /// Whether it is paused ([`Request::Pause`]). Absent from keepers that know neither that nor [`Request::Root`].
        #[serde(default)]
        paused: Option<bool>,
        /// What is known of its end, where it has ended. Older keepers say nothing of it.
        #[serde(default)]
        end: End,
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
    /// Answer to [`Request::Input`].
    Taken {
        /// Where in the feeder's stream it goes on.
        bytes: u64,
        /// Whether more may be fed.
        open: bool,
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
    Root {
        /// User and group of its agent on the host. Absent from older keepers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<(u32, u32)>,
    },
    /// The whole bottle has ended.
    Ended(End),
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
    fn what_keepers_and_controllers_of_another_version_say_is_understood() {
        let up: Reply = serde_json::from_str(r#"{"reply":"up","pid":1,"listeners":[]}"#).unwrap();
        assert!(matches!(up, Reply::Up { verbs, .. } if verbs.is_empty()), "an older keeper has no verbs of its own");
        assert!(matches!(serde_json::from_str(r#"{"reply":"root"}"#).unwrap(), Reply::Root { agent: None }));
        let ended: Reply = serde_json::from_str(r#"{"reply":"ended","lost":"x"}"#).unwrap();
        assert!(matches!(&ended, Reply::Ended(End { lost: Some(_), out_of_memory: false })));
        assert_eq!(serde_json::to_string(&ended).unwrap(), r#"{"reply":"ended","lost":"x"}"#);
        assert!(
            matches!(serde_json::from_str(r#"{"reply":"ended"}"#).unwrap(), Reply::Ended(end) if end == End::default())
        );
        let old = r#"{"verb":"exec","id":"a","argv":["true"],"env":[],"cwd":"/"}"#;
        let Request::Exec(command) = serde_json::from_str(old).unwrap() else { panic!("no exec") };
        assert!(!command.input && command.terminal.is_none());
        // What an older keeper does not know is not said to it where it is not asked for.
        let text = serde_json::to_string(&Request::Exec(command)).unwrap();
        assert!(!text.contains("input") && !text.contains("terminal"), "{text}");
        // A verb of a later controller is a packet that is no message, and the next one is read as ever.
        let (a, b) = pair().unwrap();
        send(&a, &serde_json::json!({"verb": "dance"}), &[]).unwrap();
        send(&a, &Request::Kill, &[]).unwrap();
        assert_eq!(receive::<Request>(&b).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(matches!(receive::<Request>(&b).unwrap(), Some((Request::Kill, _))));
    }

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

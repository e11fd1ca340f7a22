//! The process that owns a world's namespaces.
//!
//! It makes the namespaces, sockets inside them (handed back by SCM_RIGHTS: a socket keeps the namespace that it was made
//! in), and starts every command of the world as its own child. It is a subreaper, so whatever those commands leave
//! behind stays below it: the whole world is one process tree, and a process that was forgotten can be named. When the
//! test process goes away, however it goes, the warden kills what is left and ends, and the namespaces with it.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::sys::socket::{self as sock, ControlMessage, ControlMessageOwned, MsgFlags};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};
use serde::{Deserialize, Serialize};

mod count;
mod serve;
mod set_up;

/// Longest message either way.
const MESSAGE: usize = 128 * 1024;

/// How a world is to be.
pub struct Plan {
    /// Become this user first; the test must run as root.
    pub user: Option<(u32, u32)>,
    /// Files shown elsewhere, mounted before the change of user: (from, to).
    pub shown: Vec<(PathBuf, PathBuf)>,
    /// Files shown elsewhere in the world's own mount namespace.
    pub etc: Vec<(PathBuf, PathBuf)>,
}

#[derive(Serialize, Deserialize)]
enum Ask {
    Bind { udp: bool, address: SocketAddr },
    Spawn { argv: Vec<String>, env: BTreeMap<String, String>, cwd: PathBuf },
    Status { pid: i32 },
    Small { at: PathBuf, options: String },
    Own { address: IpAddr },
    Living,
    Room { kind: String, living: u32 },
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Made,
    Spawned {
        pid: i32,
    },
    /// Exit code, or 128 + signal.
    Status {
        code: Option<i32>,
    },
    Living {
        counts: BTreeMap<String, u32>,
    },
    Failed {
        what: String,
    },
}

/// The test's end of a warden.
pub struct Warden {
    /// Its process.
    pub pid: i32,
    socket: Mutex<OwnedFd>,
}

impl Warden {
    /// Starts a warden.
    pub fn start(plan: &Plan) -> Result<Warden, String> {
        let flags = sock::SockFlag::SOCK_CLOEXEC;
        let (ours, its) = sock::socketpair(sock::AddressFamily::Unix, sock::SockType::SeqPacket, None, flags)
            .map_err(|e| format!("socketpair: {e}"))?;
        // SAFETY: the child uses only the allocator, which glibc makes usable after a fork, and its own memory; no lock of
        // another thread is ever taken. It never returns.
        let pid = match unsafe { nix::unistd::fork() }.map_err(|e| format!("fork: {e}"))? {
            ForkResult::Child => {
                bb::bottle::linux::sys::close_all_but(&[its.as_raw_fd()]);
                serve::run(plan, &its);
                // SAFETY: ends this copy without running what belongs to the original.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => child.as_raw(),
        };
        drop(its);
        let warden = Warden { pid, socket: Mutex::new(ours) };
        match warden.receive(&warden.socket.lock().unwrap()) {
            Ok((Answer::Made, _)) => {}
            Ok((Answer::Failed { what }, _)) => return Err(what),
            _ => return Err("the warden died".into()),
        }
        Ok(warden)
    }

    /// Makes a socket in the world. TCP ones listen.
    pub fn bind(&self, udp: bool, address: SocketAddr) -> Result<OwnedFd, String> {
        match self.ask(&Ask::Bind { udp, address }, &[])? {
            (Answer::Made, Some(fd)) => Ok(fd),
            _ => Err("no socket came".into()),
        }
    }

    /// Starts a command in the world with these as standard input, output and error; gets its pid and pidfd.
    pub fn spawn(
        &self,
        argv: &[String],
        env: &BTreeMap<String, String>,
        cwd: &Path,
        streams: [RawFd; 3],
    ) -> Result<(i32, OwnedFd), String> {
        let ask = Ask::Spawn { argv: argv.to_vec(), env: env.clone(), cwd: cwd.to_owned() };
        match self.ask(&ask, &streams)? {
            (Answer::Spawned { pid }, Some(fd)) => Ok((pid, fd)),
            _ => Err("no process came".into()),
        }
    }

    /// Gets how a command that has ended did so: its exit code, or 128 + signal.
    pub fn status(&self, pid: i32) -> Option<i32> {
        match self.ask(&Ask::Status { pid }, &[]) {
            Ok((Answer::Status { code }, _)) => code,
            _ => None,
        }
    }

    /// Mounts a file system in memory, with these options.
    pub fn mount_small(&self, at: &Path, options: &str) -> Result<(), String> {
        self.ask(&Ask::Small { at: at.to_owned(), options: options.into() }, &[]).map(|_| ())
    }

    /// Gives the world's one interface an address: what a machine's own addresses are.
    pub fn own(&self, address: IpAddr) -> Result<(), String> {
        self.ask(&Ask::Own { address }, &[]).map(|_| ())
    }

    /// Counts the namespaces that live in the world, by kind, whatever keeps them: the kernel's own figure, found by trying
    /// with which limit one more can be made. `None` where the world has no user namespace of its own to be counted in.
    /// While it counts nobody else in the world can make one, so this is for when all is quiet.
    pub fn living(&self) -> Option<BTreeMap<String, u32>> {
        match self.ask(&Ask::Living, &[]) {
            Ok((Answer::Living { counts }, _)) => Some(counts),
            _ => None,
        }
    }

    /// Tells whether no more than `living` namespaces of a kind live in the world. What it makes to find out, where that is
    /// so, is taken down by the kernel in its own time; where it is not so, nothing is made.
    pub fn has_room(&self, kind: &str, living: u32) -> bool {
        self.ask(&Ask::Room { kind: kind.into(), living }, &[]).is_ok()
    }

    fn ask(&self, ask: &Ask, fds: &[RawFd]) -> Result<(Answer, Option<OwnedFd>), String> {
        let socket = self.socket.lock().unwrap();
        send(&socket, ask, fds).map_err(|e| format!("the warden does not listen: {e}"))?;
        match self.receive(&socket)? {
            (Answer::Failed { what }, _) => Err(what),
            answer => Ok(answer),
        }
    }

    fn receive(&self, socket: &OwnedFd) -> Result<(Answer, Option<OwnedFd>), String> {
        let (bytes, fds) = receive(socket).map_err(|e| format!("the warden does not answer: {e}"))?;
        let answer = serde_json::from_slice(&bytes).map_err(|e| format!("the warden is gone: {e}"))?;
        Ok((answer, fds.into_iter().next()))
    }
}

impl Warden {
    /// Ends the world: its processes, and the warden with them.
    pub fn stop(&self) {
        let _ = sock::shutdown(self.socket.lock().unwrap().as_raw_fd(), sock::Shutdown::Both);
        let _ = waitpid(Pid::from_raw(self.pid), None);
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One process of a world.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's id.
    pub parent: i32,
    /// Its command line.
    pub command: String,
    /// Its own name, as `ps -o comm` shows it.
    pub name: String,
}

/// Gets every living process below `root`, without itself.
pub fn descendants(root: i32) -> Vec<Process> {
    let mut parents = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name may hold anything, also parentheses; the rest begins behind the last one.
        let mut rest = stat.rsplit(')').next().unwrap_or("").split_whitespace();
        let (state, parent) = (rest.next().unwrap_or("Z"), rest.next().and_then(|p| p.parse::<i32>().ok()));
        parents.insert(pid, (parent.unwrap_or(0), state == "Z" || state == "X"));
    }
    let below = |mut pid: i32| {
        while let Some(&(parent, _)) = parents.get(&pid) {
            if parent == root {
                return true;
            }
            pid = parent;
        }
        false
    };
    let living =
        parents.iter().filter(|&(&pid, &(_, dead))| !dead && below(pid)).map(|(&pid, &(parent, _))| (pid, parent));
    living
        .map(|(pid, parent)| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            Process {
                pid,
                parent,
                name: name.trim_end().to_owned(),
                command: String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " "),
            }
        })
        .collect()
}

/// Gets the words of a line of a process's status as the host sees it; `None` where the process is gone.
pub fn status(pid: i32, key: &str) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.split_whitespace().map(str::to_owned).collect())
}

fn send(socket: &OwnedFd, message: &impl Serialize, fds: &[RawFd]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    sock::sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MESSAGE];
    let mut space = nix::cmsg_space!([RawFd; 3]);
    let (length, fds) = {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let got = sock::recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let mut fds = Vec::new();
        for message in got.cmsgs()? {
            if let ControlMessageOwned::ScmRights(list) = message {
                // SAFETY: the kernel has just made these for us.
                fds.extend(list.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        (got.bytes, fds)
    };
    bytes.truncate(length);
    Ok((bytes, fds))
}

/// Any address of this family.
pub fn any(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

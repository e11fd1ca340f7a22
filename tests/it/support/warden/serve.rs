//! The warden's own process: it answers the test, and takes everything down when the test goes away.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket as sock;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use super::count::{COUNTED, count, living};
use super::set_up::{own, set_up};
use super::{Answer, Ask, Plan, descendants, receive, send};

pub(super) fn run(plan: &Plan, socket: &OwnedFd) {
    match set_up(plan) {
        Ok(()) if send(socket, &Answer::Made, &[]).is_ok() => serve(socket),
        Ok(()) => {}
        Err(what) => {
            let _ = send(socket, &Answer::Failed { what }, &[]);
        }
    }
}

/// Answers until the test's end closes, then takes the whole tree down.
fn serve(socket: &OwnedFd) {
    let mut ended = HashMap::new();
    loop {
        reap(&mut ended);
        let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::from(50u8)) {
            Ok(0) | Err(nix::Error::EINTR) => continue,
            Ok(_) => {}
            Err(_) => break,
        }
        let Ok((bytes, fds)) = receive(socket) else { break };
        let Ok(ask) = serde_json::from_slice::<Ask>(&bytes) else { break };
        let (answer, fd) = match ask {
            Ask::Bind { udp, address } => match bind(udp, address) {
                Ok(fd) => (Answer::Made, Some(fd)),
                Err(e) => (Answer::Failed { what: format!("bind of {address}: {e}") }, None),
            },
            Ask::Spawn { argv, env, cwd } => match spawn(&argv, &env, &cwd, &fds) {
                Ok((pid, fd)) => {
                    ended.remove(&pid);
                    (Answer::Spawned { pid }, Some(fd))
                }
                Err(e) => (Answer::Failed { what: format!("{argv:?}: {e}") }, None),
            },
            Ask::Small { at, options } => {
                match mount(
                    None::<&str>,
                    &at,
                    Some("tmpfs"),
                    MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
                    Some(options.as_str()),
                ) {
                    Ok(()) => (Answer::Made, None),
                    Err(e) => (Answer::Failed { what: format!("tmpfs at {}: {e}", at.display()) }, None),
                }
            }
            Ask::Own { address } => match own(address) {
                Ok(()) => (Answer::Made, None),
                Err(e) => (Answer::Failed { what: format!("{address} as an address of its own: {e}") }, None),
            },
            Ask::Living => match living() {
                Ok(counts) => (Answer::Living { counts }, None),
                Err(what) => (Answer::Failed { what }, None),
            },
            Ask::Room { kind, living } => match COUNTED.iter().find(|(name, _)| *name == kind) {
                Some((name, flag)) => match count(name, *flag, living..=living) {
                    Ok(_) => (Answer::Made, None),
                    Err(what) => (Answer::Failed { what }, None),
                },
                None => (Answer::Failed { what: format!("there are no namespaces of kind {kind}") }, None),
            },
            Ask::Status { pid } => {
                reap(&mut ended);
                (Answer::Status { code: ended.get(&pid).copied() }, None)
            }
        };
        drop(fds);
        let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        if send(socket, &answer, &fds).is_err() {
            break;
        }
    }
    // Killing makes orphans, which come to us and are killed in the next round.
    for _ in 0..1000 {
        let left = descendants(std::process::id().cast_signed());
        for process in &left {
            let _ = nix::sys::signal::kill(Pid::from_raw(process.pid), nix::sys::signal::SIGKILL);
        }
        reap(&mut ended);
        if left.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Collects who has ended.
fn reap(ended: &mut HashMap<i32, i32>) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => ended.insert(pid.as_raw(), code),
            Ok(WaitStatus::Signaled(pid, signal, _)) => ended.insert(pid.as_raw(), 128 + signal as i32),
            _ => return,
        };
    }
}

fn bind(udp: bool, address: SocketAddr) -> io::Result<OwnedFd> {
    let flags = sock::SockFlag::SOCK_CLOEXEC | sock::SockFlag::SOCK_NONBLOCK;
    let family = if address.is_ipv4() { sock::AddressFamily::Inet } else { sock::AddressFamily::Inet6 };
    let kind = if udp { sock::SockType::Datagram } else { sock::SockType::Stream };
    let fd = sock::socket(family, kind, flags, None)?;
    // A canary on every address of a port, and a server on one address of it, live beside each other.
    sock::setsockopt(&fd, sock::sockopt::ReusePort, &true)?;
    sock::setsockopt(&fd, sock::sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        sock::setsockopt(&fd, sock::sockopt::Ipv6V6Only, &true)?;
        // That all are local is enough for IPv4 only.
        sock::setsockopt(&fd, sock::sockopt::IpFreebind, &true)?;
    }
    sock::bind(fd.as_raw_fd(), &sock::SockaddrStorage::from(address))?;
    if !udp {
        sock::listen(&fd, sock::Backlog::new(256)?)?;
    }
    Ok(fd)
}

fn spawn(argv: &[String], env: &BTreeMap<String, String>, cwd: &Path, fds: &[OwnedFd]) -> io::Result<(i32, OwnedFd)> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let c = |s: &str| CString::new(s).map_err(invalid);
    let args = argv.iter().map(|a| c(a)).collect::<io::Result<Vec<_>>>()?;
    let vars = env.iter().map(|(k, v)| c(&format!("{k}={v}"))).collect::<io::Result<Vec<_>>>()?;
    let dir = CString::new(cwd.as_os_str().as_bytes()).map_err(invalid)?;
    let [input, output, error] = fds else { return Err(io::ErrorKind::InvalidInput.into()) };
    // SAFETY: the warden has a single thread.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok((child.as_raw(), bb::os::process::Process::open(child.as_raw())?.into())),
        ForkResult::Child => {
            let begin = || -> nix::Result<std::convert::Infallible> {
                // As a login shell would have it, whatever the test runner ignores.
                for number in nix::sys::signal::Signal::iterator() {
                    // SAFETY: the default disposition runs no code of ours.
                    let _ = unsafe { nix::sys::signal::signal(number, nix::sys::signal::SigHandler::SigDfl) };
                }
                nix::sys::signal::SigSet::empty().thread_set_mask()?;
                nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                nix::unistd::chdir(dir.as_c_str())?;
                nix::unistd::dup2_stdin(input)?;
                nix::unistd::dup2_stdout(output)?;
                nix::unistd::dup2_stderr(error)?;
                bb::bottle::linux::sys::close_all_but(&[]);
                nix::unistd::execve(&args[0], &args, &vars)
            };
            let _ = begin();
            // SAFETY: as in `start`.
            unsafe { libc::_exit(127) }
        }
    }
}

//! Other processes: held so that a number cannot come to mean another one, signalled, looked at; and forking.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A process that is held: whoever gets its number later is not meant.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// Takes hold of a process (pidfd_open(2)).
    ///
    /// # Errors
    /// Those of the system call: `ESRCH` where there is none.
    pub fn open(pid: i32) -> io::Result<Process> {
        // SAFETY: the descriptor returned is new and ours.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::syscall(libc::SYS_pidfd_open, pid, 0))? as RawFd) };
        Ok(Process { pid, fd })
    }

    /// Gets the process `pid` by a descriptor of it (pidfd_open(2)) that somebody else has made.
    pub fn held(pid: i32, fd: OwnedFd) -> Process {
        Process { pid, fd }
    }

    /// Sends it a signal (pidfd_send_signal(2)).
    ///
    /// # Errors
    /// Those of the system call: `ESRCH` where it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open, and no information goes with the signal.
        check(unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), signal as libc::c_int, none, 0)
        })?;
        Ok(())
    }

    /// Waits for its end, at most for `millis`; tells whether it came.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn ends_within(&self, millis: u16) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::from(millis)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Gets the words of its command line; none where it may not be looked at.
    pub fn words(&self) -> Vec<Vec<u8>> {
        let text = fs::read(self.dir().join("cmdline")).unwrap_or_default();
        text.split(|b| *b == 0).map(<[u8]>::to_vec).collect()
    }

    /// Tells whether it has a file open.
    ///
    /// # Errors
    /// `PermissionDenied` where it may not be looked into.
    pub fn has_open(&self, file: &fs::Metadata) -> io::Result<bool> {
        let open = fs::read_dir(self.dir().join("fd"))?;
        let mut files = open.flatten().filter_map(|fd| fs::metadata(fd.path()).ok());
        Ok(files.any(|m| (m.dev(), m.ino()) == (file.dev(), file.ino())))
    }

    /// Tells whether it sees the same users and the same processes as this one. What cannot be found out counts as no.
    pub fn is_no_stranger(&self) -> bool {
        ["user", "pid"].iter().all(|kind| {
            let of = |who: &str| fs::read_link(PathBuf::from(format!("/proc/{who}/ns/{kind}"))).ok();
            matches!((of("self"), of(&self.pid.to_string())), (Some(ours), Some(its)) if ours == its)
        })
    }

    fn dir(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid))
    }
}

impl AsFd for Process {
    /// Gets what becomes readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Process> for OwnedFd {
    fn from(process: Process) -> OwnedFd {
        process.fd
    }
}

/// Which side of a fork one is on.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the child's process id.
    Parent(i32),
}

/// Forks with clone(2) flags.
///
/// # Safety
/// The calling process must have a single thread: the child gets a copy of the memory as it is.
///
/// # Errors
/// Those of the system call.
pub unsafe fn fork_with(flags: libc::c_int) -> io::Result<Fork> {
    // SAFETY: no stack is given, so the child goes on with a copy of this one, as with fork(2).
    let pid = check(unsafe {
        libc::syscall(libc::SYS_clone, (flags | libc::SIGCHLD) as libc::c_ulong, 0usize, 0usize, 0usize, 0usize)
    })?;
    Ok(if pid == 0 { Fork::Child } else { Fork::Parent(pid as i32) })
}

/// Has every descriptor from 3 on closed at the next exec. Makes one system call and nothing else, so it may stand between fork
/// and exec. Kernels before 5.11 lack the call.
pub fn close_at_exec() {
    // SAFETY: descriptors stay open until the exec; plain integers.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_looked_at_signalled_and_seen_to_end() {
        let file = std::env::current_exe().unwrap();
        let open = fs::File::open(&file).unwrap();
        let mut child =
            Command::new("sleep").arg("600").stdin(open.try_clone().unwrap()).stdout(Stdio::null()).spawn().unwrap();
        let process = Process::open(child.id().cast_signed()).unwrap();
        assert!(process.is_no_stranger());
        assert!(process.has_open(&open.metadata().unwrap()).unwrap());
        assert!(!process.has_open(&fs::metadata("/etc/passwd").unwrap()).unwrap());
        assert!(!process.ends_within(0).unwrap());
        process.signal(Signal::SIGKILL).unwrap();
        assert!(process.ends_within(10_000).unwrap());
        child.wait().unwrap();
        assert_eq!(process.signal(Signal::SIGKILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert!(Process::open(i32::MAX).is_err());
    }
}

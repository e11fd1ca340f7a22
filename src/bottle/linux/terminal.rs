//! Pseudo-terminals of the bottle's own: made inside, by the bottle's own devpts, so that `tty` finds its name there.
//!
//! The slave end becomes a process's standard streams and controlling terminal; the master end goes to the keeper and is
//! never seen by a process of the bottle. Nothing of a terminal of the host's comes in here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::termios::{InputFlags, SetArg, tcgetattr, tcsetattr};

use crate::bottle::wire::TerminalSize;

/// The multiplexer of the bottle's devpts (see [`super::root`]).
const MULTIPLEXER: &str = "/dev/pts/ptmx";

/// Makes a terminal of `size`; returns its master and its slave. The calling process must have joined the bottle's mount
/// namespace and be its user.
///
/// # Errors
/// Those of the system calls.
pub fn make(size: TerminalSize) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = open(MULTIPLEXER, flags, Mode::empty())?;
    let locked: libc::c_int = 0;
    // SAFETY: the call reads one integer.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) })?;
    // The peer is had through the master, not by a path, so that it cannot be another one.
    // SAFETY: the call takes flags and returns a new descriptor.
    let slave = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    // As on every terminal of today: erasing takes away a character, not a byte.
    let mut modes = tcgetattr(&slave)?;
    modes.input_flags |= InputFlags::IUTF8;
    tcsetattr(&slave, SetArg::TCSANOW, &modes)?;
    resize(&master, size)?;
    Ok((master, slave))
}

/// Makes the terminal on standard input the controlling one of the calling process, which leads its session.
///
/// # Errors
/// Those of the system call.
pub fn control() -> io::Result<()> {
    // SAFETY: the call takes an integer.
    check(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
    Ok(())
}

/// Sets a terminal's size; what runs in it hears of a new one by SIGWINCH.
///
/// # Errors
/// Those of the system call.
pub fn resize(master: &impl AsFd, size: TerminalSize) -> io::Result<()> {
    let TerminalSize { rows, cols } = size.usable();
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call reads one structure.
    check(unsafe { libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

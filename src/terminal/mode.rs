//! The person's terminal while it is somebody else's: raw, and put right again however that ends.
//!
//! Restores the line discipline and, with what [`super::modes`] knows, everything that was switched on. Nothing of what the
//! terminal still had to tell is left for the shell to read.

use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{FlushArg, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcflush, tcgetattr, tcsetattr};

use super::modes::Modes;
use crate::types::TerminalSize;

/// How long the terminal may take to come to the end of what it tells (a report of the mouse that is under way).
const TELLING: Duration = Duration::from_millis(300);

/// What asks a terminal for its attributes: its answer comes after everything that it told before.
const FENCE: &[u8] = b"\x1b[c";

/// Tells whether standard input and standard output are a terminal.
pub fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Gets the size of the terminal on standard output, or of the one on standard input; `None` where neither says one.
pub fn size() -> Option<TerminalSize> {
    size_of(io::stdout().as_fd()).or_else(|| size_of(io::stdin().as_fd()))
}

fn size_of(fd: BorrowedFd<'_>) -> Option<TerminalSize> {
    use std::os::fd::AsRawFd;
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call fills one structure.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) } == 0;
    (done && (size.ws_row > 0 || size.ws_col > 0)).then_some(TerminalSize { rows: size.ws_row, cols: size.ws_col })
}

/// A terminal that is raw until this is dropped.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
    /// What is on, as of the last that was written.
    modes: Modes,
    /// What is written at the end, so that what follows stands on a line of its own.
    last: String,
}

impl Raw {
    /// Makes the terminal on standard input raw.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn enter() -> io::Result<Raw> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Raw { before, modes: Modes::default(), last: String::new() })
    }

    /// Notes what is on now; should this end without being left, that is switched off.
    pub fn note(&mut self, modes: &Modes) {
        if self.modes != *modes {
            self.modes.clone_from(modes);
        }
    }

    /// Leaves it. The cursor is at `cursor`; below a program that goes on, the next line is that after the last.
    pub fn leave(mut self, modes: &Modes, cursor: (u16, u16), goes_on: bool) {
        self.modes.clone_from(modes);
        self.last = match cursor {
            _ if modes.is_alternate() => String::new(),
            _ if goes_on => "\x1b[9999;1H\r\n".to_owned(),
            (_, 0) => String::new(),
            _ => "\r\n".to_owned(),
        };
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let mut out = io::stdout().lock();
        let telling = self.modes.is_telling();
        let _ = out.write_all((self.modes.off() + &self.last).as_bytes());
        if telling {
            // Whoever else may read: nothing here waits for ever.
            let mut patient = self.before.clone();
            cfmakeraw(&mut patient);
            patient.control_chars[SpecialCharacterIndices::VMIN as usize] = 0;
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &patient);
            let _ = out.write_all(FENCE);
        }
        let _ = out.flush();
        if telling {
            swallow_answer();
            let _ = tcflush(io::stdin(), FlushArg::TCIFLUSH);
        }
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Reads up to the answer of the fence, or until it is late.
fn swallow_answer() {
    let deadline = Instant::now() + TELLING;
    let mut told = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let stdin = io::stdin();
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        if left == 0 || !poll(&mut fds, PollTimeout::from(left as u16)).is_ok_and(|n| n > 0) {
            return;
        }
        let mut buffer = [0; 512];
        match nix::unistd::read(&stdin, &mut buffer) {
            Ok(n) => told.extend_from_slice(&buffer[..n]),
            Err(_) => return,
        }
        // CSI ? ... c
        let answered = told.windows(3).enumerate().any(|(at, w)| {
            w == b"\x1b[?" && told[at + 3..].iter().find(|b| !matches!(b, b'0'..=b'9' | b';')) == Some(&b'c')
        });
        if answered || told.len() > 64 * 1024 {
            return;
        }
    }
}

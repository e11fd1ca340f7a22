//! Waits for whichever of several descriptors is ready first, each known by a word of the caller's.
//!
//! Reads nothing and keeps nothing: who waits says anew each time what for.

use std::os::fd::BorrowedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What is waited for, in the order in which it is to be told.
pub struct Waiting<'fd, W> {
    words: Vec<W>,
    fds: Vec<PollFd<'fd>>,
}

impl<W> Default for Waiting<'_, W> {
    /// Waits for nothing yet.
    fn default() -> Self {
        Waiting { words: Vec::new(), fds: Vec::new() }
    }
}

impl<'fd, W> Waiting<'fd, W> {
    /// Waits for `flags` of `fd`, too; what ends it counts always.
    pub fn add(&mut self, word: W, fd: BorrowedFd<'fd>, flags: PollFlags) {
        self.words.push(word);
        self.fds.push(PollFd::new(fd, flags));
    }

    /// Waits until something is ready, at most so long, and gets the words of what is. None also where a signal came first.
    pub fn wait(mut self, timeout: PollTimeout) -> Vec<W> {
        match poll(&mut self.fds, timeout) {
            Ok(n) if n > 0 => {
                let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
                self.words.into_iter().zip(self.fds).filter(|(_, fd)| is_ready(fd)).map(|(word, _)| word).collect()
            }
            _ => vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_ready_is_told_in_the_order_it_was_said_and_what_is_not_is_left_out() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let (c, _d) = UnixStream::pair().unwrap();
        let ready = |timeout| {
            let mut waiting = Waiting::default();
            waiting.add("b", b.as_fd(), PollFlags::POLLIN);
            waiting.add("c", c.as_fd(), PollFlags::POLLIN);
            waiting.add("room", b.as_fd(), PollFlags::POLLOUT);
            waiting.wait(timeout)
        };
        assert_eq!(ready(PollTimeout::NONE), ["room"]);
        a.write_all(b"x").unwrap();
        assert_eq!(ready(PollTimeout::ZERO), ["b", "room"]);
        let mut none = Waiting::default();
        none.add("c", c.as_fd(), PollFlags::POLLIN);
        assert!(none.wait(PollTimeout::ZERO).is_empty());
        drop(a);
        let mut end = Waiting::default();
        end.add("end", b.as_fd(), PollFlags::empty());
        assert_eq!(end.wait(PollTimeout::NONE), ["end"]);
    }
}

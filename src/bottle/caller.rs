//! The keeper's side of its connection to a controller. Never blocks: a controller that is stopped must not stop the
//! keeper, which has a bottle to look after.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::wire::{self, Reply, Request};

/// Most replies that wait for a controller to read; one that reads nothing for so long is given up.
const MOST_WAITING: usize = 8192;

/// A connected controller.
#[derive(Debug)]
pub struct Caller {
    socket: OwnedFd,
    /// What did not fit into the socket, in order. News of output is there once at most, the newest.
    waiting: VecDeque<Reply>,
}

impl Caller {
    /// Takes over a connection.
    ///
    /// # Errors
    /// That of the system call.
    pub fn new(socket: OwnedFd) -> io::Result<Caller> {
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Caller { socket, waiting: VecDeque::new() })
    }

    /// Receives a request; `None` where there is none yet.
    ///
    /// # Errors
    /// Those of the socket; `UnexpectedEof` when the controller has gone.
    pub fn request(&self) -> io::Result<Option<Request>> {
        match wire::receive(&self.socket) {
            Ok(Some((request, _))) => Ok(Some(request)),
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Says something, now or when the controller reads again.
    ///
    /// # Errors
    /// Those of the socket; where there is no room, `WouldBlock` for descriptors and beyond the bound of what may wait.
    pub fn say(&mut self, reply: Reply, fds: &[RawFd]) -> io::Result<()> {
        if self.waiting.is_empty() {
            match wire::send(&self.socket, &reply, fds) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        if !fds.is_empty() || self.waiting.len() >= MOST_WAITING {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if matches!(reply, Reply::Output { .. }) {
            self.waiting.retain(|r| !matches!(r, Reply::Output { .. }));
        }
        self.waiting.push_back(reply);
        Ok(())
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(reply) = self.waiting.front() {
            match wire::send(&self.socket, reply, &[]) {
                Ok(()) => self.waiting.pop_front(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            };
        }
        Ok(())
    }

    /// Tells whether something waits for room.
    pub fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl AsFd for Caller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_that_does_not_read_blocks_nothing_and_misses_nothing_but_old_news_of_output() {
        let (ours, theirs) = wire::pair().unwrap();
        let mut caller = Caller::new(ours).unwrap();
        let mut n = 0;
        while !caller.is_behind() {
            n += 1;
            caller.say(Reply::Output { n }, &[]).unwrap();
        }
        caller.say(Reply::Exited { exec: 7, code: 3 }, &[]).unwrap();
        caller.say(Reply::Output { n: n + 1 }, &[]).unwrap();
        caller.say(Reply::Output { n: n + 2 }, &[]).unwrap();
        let mut heard = vec![];
        while heard.last().is_none_or(|r| !matches!(r, Reply::Output { n: m } if *m == n + 2)) {
            caller.flush().unwrap();
            heard.push(wire::receive::<Reply>(&theirs).unwrap().unwrap().0);
        }
        assert!(!caller.is_behind());
        assert!(matches!(heard[heard.len() - 2], Reply::Exited { exec: 7, code: 3 }));
        assert_eq!(heard.len() as u64, n + 1, "what fitted, the end of the exec, and the newest frame");
    }
}

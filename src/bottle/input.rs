//! What is fed to a command's standard input: a pipe that stays open, or a terminal.
//!
//! The keeper's side, so it never blocks: it takes what its bounded buffer holds and says how much. Those who feed have
//! names, and the place of each in its own stream is kept, so that what is sent again after a controller's death is not
//! fed twice.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// Most that waits for the command to read it. Unit: bytes.
const ROOM: usize = 64 * 1024;

/// Most feeders whose places are kept; the one that fed longest ago is forgotten first.
const MOST_FEEDERS: usize = 64;

/// One piece of input.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Who feeds.
    pub from: &'a str,
    /// Where in its stream this begins. Unit: bytes.
    pub seq: u64,
    /// The bytes.
    pub bytes: &'a [u8],
    /// Nothing comes after it: a pipe is closed.
    pub end: bool,
    /// Counts only if its feeder has fed nothing before, and only whole.
    pub once: bool,
}

/// An open standard input.
#[derive(Debug)]
pub struct Input {
    /// `None` once it was closed.
    to: Option<File>,
    waiting: VecDeque<u8>,
    ending: bool,
    /// A terminal has no end; what it is fed is typed.
    terminal: bool,
    /// Feeders with their places, the latest last.
    feeders: VecDeque<(String, u64)>,
}

impl Input {
    /// Takes over the writing end, of a pipe or the master of a terminal.
    ///
    /// # Errors
    /// That of the system call.
    pub fn new(to: OwnedFd, terminal: bool) -> io::Result<Input> {
        fcntl(&to, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Input { to: Some(to.into()), waiting: VecDeque::new(), ending: false, terminal, feeders: VecDeque::new() })
    }

    /// Takes what there is room for. Returns the feeder's place after it: what comes before that need not be sent again.
    pub fn take(&mut self, piece: &Piece<'_>) -> u64 {
        let known = self.feeders.iter().position(|(name, _)| name == piece.from);
        let known = known.and_then(|at| self.feeders.remove(at)).map(|(_, place)| place);
        let end = piece.seq + piece.bytes.len() as u64;
        let mut place = known.unwrap_or(piece.seq);
        if self.to.is_none() {
            // Nobody reads it any more: it goes where it would have gone, nowhere.
            place = place.max(end);
        } else if !(piece.once && known.is_some()) && place >= piece.seq && place <= end && !self.ending {
            let fresh = &piece.bytes[(place - piece.seq) as usize..];
            let fits = fresh.len().min(ROOM.saturating_sub(self.waiting.len()));
            if fits == fresh.len() || !piece.once {
                self.waiting.extend(&fresh[..fits]);
                place += fits as u64;
            }
            self.ending |= piece.end && place == end && !self.terminal;
        }
        if self.feeders.len() >= MOST_FEEDERS {
            self.feeders.pop_front();
        }
        self.feeders.push_back((piece.from.to_owned(), place));
        self.flush();
        place
    }

    /// Hands on what waits, as far as the other side has room.
    pub fn flush(&mut self) {
        while let Some(to) = &mut self.to {
            let (front, _) = self.waiting.as_slices();
            if front.is_empty() {
                if self.ending {
                    self.close();
                }
                return;
            }
            match to.write(front) {
                Ok(0) => return,
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(),
            }
        }
    }

    /// Closes it; what waits is lost.
    pub fn close(&mut self) {
        self.to = None;
        self.waiting.clear();
    }

    /// Tells whether somebody may still read it.
    pub fn is_open(&self) -> bool {
        self.to.is_some() && !self.ending
    }

    /// Gets what is to become writable before more can be handed on.
    pub fn wants_room(&self) -> Option<BorrowedFd<'_>> {
        let waits = !self.waiting.is_empty();
        self.to.as_ref().filter(|_| waits).map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn piece<'a>(from: &'a str, seq: u64, bytes: &'a [u8]) -> Piece<'a> {
        Piece { from, seq, bytes, end: false, once: false }
    }

    fn pipe() -> (File, Input) {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        (reader.into(), Input::new(writer, false).unwrap())
    }

    #[test]
    fn what_is_sent_again_is_not_fed_twice_and_feeders_do_not_mix() {
        let (mut reader, mut input) = pipe();
        assert_eq!(input.take(&piece("a", 0, b"hel")), 3);
        assert_eq!(input.take(&piece("a", 0, b"hel")), 3);
        assert_eq!(input.take(&piece("b", 0, b"-")), 1);
        assert_eq!(input.take(&piece("a", 1, b"ello")), 5, "the part that is new counts");
        assert_eq!(input.take(&piece("a", 9, b"hole")), 5, "what would leave a hole does not");
        assert_eq!(input.take(&Piece { end: true, ..piece("a", 5, b"!") }), 6);
        assert!(!input.is_open());
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hel-lo!");
        assert_eq!(input.take(&piece("a", 6, b"more")), 10, "a closed input swallows");
    }

    #[test]
    fn what_counts_once_counts_whole_or_not_at_all() {
        let (mut reader, mut input) = pipe();
        let once = |bytes| Piece { once: true, ..piece("answer", 0, bytes) };
        assert_eq!(input.take(&once(b"yes")), 3);
        assert_eq!(input.take(&once(b"yes, longer")), 3);
        input.close();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "yes");
    }

    #[test]
    fn a_reader_that_does_not_read_blocks_nothing_and_loses_nothing() {
        let (mut reader, mut input) = pipe();
        let all: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
        let mut place = 0;
        let mut got = Vec::new();
        while place < all.len() {
            let end = all.len().min(place + 40_000);
            let taken = input.take(&piece("a", place as u64, &all[place..end])) as usize;
            if taken == place {
                let mut buffer = [0; 4096];
                let n = reader.read(&mut buffer).unwrap();
                got.extend_from_slice(&buffer[..n]);
                input.flush();
            }
            place = taken;
        }
        assert_eq!(input.take(&Piece { end: true, ..piece("a", place as u64, b"") }), place as u64);
        while input.wants_room().is_some() {
            let mut buffer = [0; 4096];
            let n = reader.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..n]);
            input.flush();
        }
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, all);
    }

    #[test]
    fn the_places_of_feeders_are_bounded() {
        let (_reader, mut input) = pipe();
        for n in 0..1000 {
            input.take(&piece(&n.to_string(), 0, b"x"));
        }
        assert_eq!(input.feeders.len(), MOST_FEEDERS);
    }
}

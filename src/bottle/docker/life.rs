//! The streams of the agent's container: while they stand, the bottle lives, and the keeper's end is the end of both.
//!
//! Pid 1 is ours, but it runs in the container: what comes from there is bounded, and read for two words only.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;

use super::inside::Word;

/// Most that is kept of what is not understood.
const MOST: usize = 256 * 1024;

/// The connection.
#[derive(Debug)]
pub struct Life {
    stream: BufReader<UnixStream>,
    /// Frames that have not come whole yet.
    raw: Vec<u8>,
    /// Standard output of pid 1, less the lines that have been read.
    said: Vec<u8>,
    /// Its standard error: what it said before it could say anything else.
    pub noise: Vec<u8>,
}

/// What was found.
#[derive(Debug)]
pub enum Found {
    /// A line.
    Word(Word),
    /// Nothing yet.
    Nothing,
    /// The container has ended.
    End,
}

impl Life {
    /// Takes over a stream.
    pub fn new(stream: BufReader<UnixStream>) -> Life {
        Life { stream, raw: Vec::new(), said: Vec::new(), noise: Vec::new() }
    }

    /// Says the one line that pid 1 waits for.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn order(&mut self, orders: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(orders).map_err(io::Error::from)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)
    }

    /// Waits for a word, at most for `patience`.
    ///
    /// # Errors
    /// Those of the socket; `WouldBlock` where none came.
    pub fn word(&mut self, patience: Duration) -> io::Result<Option<Word>> {
        let deadline = std::time::Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.stream.get_ref().set_read_timeout(Some(left))?;
            match self.read()? {
                Found::Word(word) => return Ok(Some(word)),
                Found::Nothing => {}
                Found::End => return Ok(None),
            }
        }
    }

    /// From here on nothing is waited for.
    ///
    /// # Errors
    /// That of the system call.
    pub fn never_wait(&self) -> io::Result<()> {
        self.stream.get_ref().set_nonblocking(true)
    }

    /// Tells pid 1 that nobody is there any more.
    pub fn hang_up(&self) {
        let _ = self.stream.get_ref().shutdown(std::net::Shutdown::Write);
    }

    /// Looks whether there is something new.
    pub fn look(&mut self) -> Found {
        match self.read() {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Found::Nothing,
            Err(_) => Found::End,
        }
    }

    fn read(&mut self) -> io::Result<Found> {
        if let Some(word) = self.line() {
            return Ok(Found::Word(word));
        }
        let mut buffer = [0u8; 8192];
        let n = match self.stream.read(&mut buffer) {
            Ok(0) => return Ok(Found::End),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(Found::Nothing),
            Err(e) => return Err(e),
        };
        self.raw.extend_from_slice(&buffer[..n]);
        self.frames();
        if self.raw.len().max(self.said.len()) > MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "pid 1 says too much"));
        }
        Ok(self.line().map_or(Found::Nothing, Found::Word))
    }

    fn frames(&mut self) {
        while let Some(&[kind, _, _, _, a, b, c, d]) = self.raw.first_chunk::<8>() {
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let Some(bytes) = self.raw.get(8..8 + length) else { return };
            match kind {
                1 => self.said.extend_from_slice(bytes),
                _ => self.noise.extend(bytes.iter().take(MOST.saturating_sub(self.noise.len()))),
            }
            self.raw.drain(..8 + length);
        }
    }

    /// Takes the first whole line that is a word.
    fn line(&mut self) -> Option<Word> {
        while let Some(end) = self.said.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.said.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(word) => return Some(word),
                Err(_) => self.noise.extend(line.into_iter().take(MOST.saturating_sub(self.noise.len()))),
            }
        }
        None
    }
}

impl AsFd for Life {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_out_of_frames_however_they_are_cut() {
        let (mut engine, ours) = UnixStream::pair().unwrap();
        let mut life = Life::new(BufReader::new(ours));
        life.never_wait().unwrap();
        let line = b"{\"ready\":1}\n";
        let mut bytes = vec![2, 0, 0, 0, 0, 0, 0, 3];
        bytes.extend(b"hm\n");
        for part in [&line[..4], &line[4..]] {
            bytes.extend([1, 0, 0, 0, 0, 0, 0, part.len() as u8]);
            bytes.extend(part);
        }
        for byte in &bytes[..bytes.len() - 1] {
            engine.write_all(&[*byte]).unwrap();
            assert!(matches!(life.look(), Found::Nothing));
        }
        engine.write_all(&bytes[bytes.len() - 1..]).unwrap();
        assert!(matches!(life.look(), Found::Word(Word::Ready(1))));
        assert_eq!(life.noise, b"hm\n");
        drop(engine);
        assert!(matches!(life.look(), Found::End));
    }
}

//! The keeper's side of a command in a container: a child of the keeper that carries bytes between the keeper's pipes and
//! the stream of the engine's exec, whose other end is [`super::supervise`]. Its exit code is the command's.
//!
//! It speaks with the engine and copies; it decides nothing. The keeper is never held up by it: what it is told beside the
//! pipes comes by packets ([`Control`]), and it reads them whatever the command does.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::frames::{Decoder, Heard, PIECE, Told, WINDOW};
use crate::bottle::linux::sys;
use crate::bottle::wire;
use crate::os::process::{Fork, fork_with};
use crate::types::TerminalSize;

/// Exit code where nobody knows: the stream was cut off before the last word, as when the container goes.
pub const KILLED: i32 = 128 + libc::SIGKILL;

/// What the keeper says of a command that runs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Word {
    Size(TerminalSize),
    Signal(i32),
}

/// By which the keeper speaks to a relay.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// Takes over its end of a pair of packet sockets; from here on it never waits.
    ///
    /// # Errors
    /// That of the system call.
    pub fn new(socket: OwnedFd) -> io::Result<Control> {
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(Control(socket))
    }

    /// Gets a second handle of it.
    ///
    /// # Errors
    /// That of the system call.
    pub fn again(&self) -> io::Result<Control> {
        Ok(Control(self.0.try_clone()?))
    }

    /// Sets the size of the command's terminal.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        wire::send(&self.0, &Word::Size(size), &[])
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        wire::send(&self.0, &Word::Signal(signal as i32), &[])
    }

    /// Tells whether somebody is there to hear it.
    pub fn is_heard(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
    }
}

/// A command's streams, as the relay holds them.
#[derive(Debug)]
pub struct Relay {
    stream: UnixStream,
    /// Frames of the engine.
    engine: Decoder,
    /// Frames of the command's supervisor, in those.
    command: Decoder,
    /// Where standard output and standard error go.
    outputs: [Option<File>; 2],
    /// Where input comes from.
    input: Option<File>,
    control: Option<OwnedFd>,
    /// How much input may be sent.
    credit: usize,
    /// Nothing can be said to the command any more.
    mute: bool,
}

/// How a relay ends.
enum End {
    Last { code: i32, open: bool },
    Cut,
}

impl Relay {
    /// Takes over a stream. `ahead` is what was read of it already: of the engine's frames, and of what was in them.
    pub fn new(
        stream: UnixStream,
        ahead: [&[u8]; 2],
        outputs: [Option<OwnedFd>; 2],
        input: Option<OwnedFd>,
        control: OwnedFd,
    ) -> Relay {
        let (mut engine, mut command) = (Decoder::default(), Decoder::default());
        engine.push(ahead[0]);
        command.push(ahead[1]);
        Relay {
            stream,
            engine,
            command,
            outputs: outputs.map(|fd| fd.map(File::from)),
            input: input.map(File::from),
            control: Some(control),
            credit: WINDOW,
            mute: false,
        }
    }

    /// Carries bytes until the command's end and gives its exit code. Where others go on writing into its streams, a process
    /// of its own goes on carrying that.
    pub fn run(mut self) -> i32 {
        match self.until_last() {
            End::Last { code, open } => {
                if open {
                    self.linger();
                } else {
                    self.tell(&Told::Bye);
                }
                code
            }
            End::Cut => KILLED,
        }
    }

    fn until_last(&mut self) -> End {
        let mut buffer = vec![0u8; 64 * 1024];
        loop {
            match self.decoded() {
                Ok(Some(end)) => return end,
                Ok(None) => {}
                Err(_) => return End::Cut,
            }
            let [stream, input, control] = self.wait();
            if control {
                self.heed();
            }
            if input {
                self.feed();
            }
            if stream {
                match self.stream.read(&mut buffer) {
                    Ok(0) => return End::Cut,
                    Ok(n) => self.engine.push(&buffer[..n]),
                    Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                    Err(_) => return End::Cut,
                }
            }
        }
    }

    /// Waits for the stream, for input that may be sent, and for the keeper.
    fn wait(&self) -> [bool; 3] {
        let input = self.input.as_ref().filter(|_| self.credit > 0);
        let mut fds = vec![PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        fds.extend(input.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.control.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            return [false; 3];
        }
        let mut ready = fds.iter().map(|fd| fd.revents().is_some_and(|r| !r.is_empty()));
        let stream = ready.next().unwrap_or_default();
        let input = input.is_some() && ready.next().unwrap_or_default();
        let control = self.control.is_some() && ready.next().unwrap_or_default();
        [stream, input, control]
    }

    /// Acts on the frames that have come whole.
    fn decoded(&mut self) -> io::Result<Option<End>> {
        loop {
            while let Some((kind, bytes)) = self.command.next()? {
                match Heard::read(kind, bytes)? {
                    Heard::Out(bytes) => self.write(0, &bytes),
                    Heard::Err(bytes) => self.write(1, &bytes),
                    Heard::Taken(bytes) => self.credit = self.credit.saturating_add(bytes).min(WINDOW),
                    Heard::Closed => self.input = None,
                    Heard::Last { code, open } => return Ok(Some(End::Last { code: code & 0xff, open })),
                }
            }
            match self.engine.next()? {
                Some((1, bytes)) => self.command.push(&bytes),
                // Its standard error is not the command's.
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn write(&mut self, n: usize, bytes: &[u8]) {
        // The keeper reads always; where it does not, it is gone, and so is this process.
        if let Some(output) = &mut self.outputs[n]
            && output.write_all(bytes).is_err()
        {
            self.outputs[n] = None;
        }
    }

    /// Sends input on, as much as the command has room for.
    fn feed(&mut self) {
        let mut buffer = vec![0u8; PIECE.min(self.credit)];
        let Some(input) = &mut self.input else { return };
        match input.read(&mut buffer) {
            Ok(n) if n > 0 => {
                buffer.truncate(n);
                self.credit -= n;
                self.tell(&Told::Input(buffer));
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            _ => {
                self.input = None;
                self.tell(&Told::End);
            }
        }
    }

    /// Passes on what the keeper says.
    fn heed(&mut self) {
        let Some(control) = &self.control else { return };
        match wire::receive::<Word>(control) {
            Ok(Some((Word::Size(size), _))) => self.tell(&Told::Size(size)),
            Ok(Some((Word::Signal(number), _))) => self.tell(&Told::Signal(number)),
            _ => self.control = None,
        }
    }

    fn tell(&mut self, told: &Told) {
        self.mute = self.mute || self.stream.write_all(&told.frame()).is_err();
    }

    /// Leaves a process behind that carries what is still written. It ends with the container, at the latest.
    fn linger(mut self) {
        // SAFETY: this process has one thread.
        if let Ok(Fork::Child) = unsafe { fork_with(0) } {
            (self.input, self.control) = (None, None);
            let streams = self.outputs.iter().flatten().map(AsRawFd::as_raw_fd);
            let kept: Vec<_> = streams.chain([self.stream.as_raw_fd()]).collect();
            sys::close_all_but(&kept);
            while let End::Last { open, .. } = self.until_last() {
                if !open {
                    self.tell(&Told::Bye);
                    break;
                }
            }
            sys::exit_now(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> (std::thread::JoinHandle<i32>, UnixStream, File, Control) {
        let (stream, engine) = UnixStream::pair().unwrap();
        let (reader, out) = nix::unistd::pipe().unwrap();
        let (ours, theirs) = wire::pair().unwrap();
        let relay = Relay::new(stream, [b"", b""], [Some(out), None], None, theirs);
        (std::thread::spawn(move || relay.run()), engine, reader.into(), Control::new(ours).unwrap())
    }

    fn mux(heard: &Heard) -> Vec<u8> {
        let bytes = heard.frame();
        [&[1, 0, 0, 0], &(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
    }

    #[test]
    fn the_last_word_is_the_exit_code_and_a_stream_without_it_was_cut() {
        let (relay, mut engine, mut reader, control) = relay();
        control.resize(TerminalSize { rows: 5, cols: 6 }).unwrap();
        control.signal(Signal::SIGTERM).unwrap();
        let wanted =
            [Told::Size(TerminalSize { rows: 5, cols: 6 }), Told::Signal(15)].map(|told| told.frame()).concat();
        let mut got = vec![0; wanted.len()];
        engine.read_exact(&mut got).unwrap();
        assert_eq!(got, wanted);
        engine.write_all(&mux(&Heard::Out(b"hello".to_vec()))).unwrap();
        engine.write_all(&mux(&Heard::Last { code: 7, open: false })).unwrap();
        assert_eq!(relay.join().unwrap(), 7);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(!control.is_heard());

        let (relay, mut cut, _reader, control) = self::relay();
        assert!(control.is_heard());
        cut.write_all(&mux(&Heard::Last { code: 0, open: false })[..12]).unwrap();
        drop(cut);
        assert_eq!(relay.join().unwrap(), KILLED);
    }
}

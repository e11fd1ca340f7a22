//! The frames in which the two ends of a command's way in speak to each other, inside the streams of an engine's exec.
//!
//! They have the form of the engine's own (kind, three zeros, length, bytes), so that one decoder reads both. What comes
//! from a container is bounded; what has another form is an error, never a guess.

use std::io;

use crate::types::TerminalSize;

/// Longest frame. An engine's are as long as what it read at once; ours are at most [`PIECE`]. Unit: bytes.
const MOST: usize = 8 << 20;

/// Most bytes of a stream in one frame of ours.
pub const PIECE: usize = 16 * 1024;

/// Most input that is under way to a command and not yet taken by it. So an input that is not read holds up nothing that
/// comes after it, such as another size of the terminal. Unit: bytes.
pub const WINDOW: usize = 64 * 1024;

/// What the keeper's side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Bytes for standard input, or typed into the terminal.
    Input(Vec<u8>),
    /// Nothing comes after them.
    End,
    /// The terminal has another size.
    Size(TerminalSize),
    /// A signal for the command's process group.
    Signal(i32),
    /// The last word has been heard.
    Bye,
}

/// What the container's side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// From standard output, or from the terminal.
    Out(Vec<u8>),
    /// From standard error.
    Err(Vec<u8>),
    /// So many bytes of input have been taken.
    Taken(usize),
    /// Nobody will read input any more.
    Closed,
    /// The command has ended, and everything that it had written until then has been said. Where `open`, others still hold
    /// its streams and may write more.
    Last {
        /// Its exit code, `128 + signal`.
        code: i32,
        /// See above.
        open: bool,
    },
}

fn encode(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[kind, 0, 0, 0], &length[..], bytes].concat()
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no frame of a command's way in")
}

fn number(bytes: &[u8]) -> io::Result<u32> {
    Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| invalid())?))
}

impl Told {
    /// Gets its frame.
    pub fn frame(&self) -> Vec<u8> {
        match self {
            Told::Input(bytes) => encode(1, bytes),
            Told::End => encode(2, &[]),
            Told::Size(TerminalSize { rows, cols }) => encode(3, &[rows.to_be_bytes(), cols.to_be_bytes()].concat()),
            Told::Signal(number) => encode(4, &number.to_be_bytes()),
            Told::Bye => encode(5, &[]),
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// `InvalidData` for what is none.
    pub fn read(kind: u8, bytes: Vec<u8>) -> io::Result<Told> {
        match (kind, &bytes[..]) {
            (1, _) => Ok(Told::Input(bytes)),
            (2, []) => Ok(Told::End),
            (3, &[a, b, c, d]) => {
                Ok(Told::Size(TerminalSize { rows: u16::from_be_bytes([a, b]), cols: u16::from_be_bytes([c, d]) }))
            }
            (4, bytes) => Ok(Told::Signal(number(bytes)?.cast_signed())),
            (5, []) => Ok(Told::Bye),
            _ => Err(invalid()),
        }
    }
}

impl Heard {
    /// Gets its frame.
    pub fn frame(&self) -> Vec<u8> {
        match self {
            Heard::Out(bytes) => encode(1, bytes),
            Heard::Err(bytes) => encode(2, bytes),
            Heard::Taken(bytes) => encode(3, &u32::try_from(*bytes).unwrap_or(u32::MAX).to_be_bytes()),
            Heard::Closed => encode(4, &[]),
            Heard::Last { code, open } => encode(5, &[&code.to_be_bytes()[..], &[u8::from(*open)]].concat()),
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// `InvalidData` for what is none.
    pub fn read(kind: u8, bytes: Vec<u8>) -> io::Result<Heard> {
        match (kind, &bytes[..]) {
            (1, _) => Ok(Heard::Out(bytes)),
            (2, _) => Ok(Heard::Err(bytes)),
            (3, bytes) => Ok(Heard::Taken(number(bytes)? as usize)),
            (4, []) => Ok(Heard::Closed),
            (5, [code @ .., open]) => Ok(Heard::Last { code: number(code)?.cast_signed(), open: *open != 0 }),
            _ => Err(invalid()),
        }
    }
}

/// Puts frames together, however their bytes come.
#[derive(Debug, Default)]
pub struct Decoder {
    raw: Vec<u8>,
    at: usize,
}

impl Decoder {
    /// Takes bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.raw.drain(..self.at);
        self.at = 0;
        self.raw.extend_from_slice(bytes);
    }

    /// Gets the next whole frame: kind and bytes.
    ///
    /// # Errors
    /// `InvalidData` for what is no frame, or too long a one.
    pub fn next(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let Some((&head, rest)) = self.raw[self.at..].split_first_chunk::<8>() else { return Ok(None) };
        let [kind, 0, 0, 0, a, b, c, d] = head else { return Err(invalid()) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MOST {
            return Err(invalid());
        }
        let Some(bytes) = rest.get(..length) else { return Ok(None) };
        let frame = (kind, bytes.to_vec());
        self.at += 8 + length;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_however_it_is_cut() {
        let size = TerminalSize { rows: 24, cols: 300 };
        let told = [Told::Input(b"abc".to_vec()), Told::Size(size), Told::Signal(15), Told::End, Told::Bye];
        let heard = [
            Heard::Out(vec![0; 300]),
            Heard::Err(vec![]),
            Heard::Taken(70_000),
            Heard::Closed,
            Heard::Last { code: 137, open: true },
        ];
        let bytes: Vec<u8> = told.iter().flat_map(Told::frame).chain(heard.iter().flat_map(Heard::frame)).collect();
        for size in [1, 3, 8, bytes.len()] {
            let (mut decoder, mut frames) = (Decoder::default(), vec![]);
            for part in bytes.chunks(size) {
                decoder.push(part);
                while let Some(frame) = decoder.next().unwrap() {
                    frames.push(frame);
                }
            }
            let of_told: Vec<_> = frames.drain(..told.len()).map(|(kind, b)| Told::read(kind, b).unwrap()).collect();
            let of_heard: Vec<_> = frames.into_iter().map(|(kind, b)| Heard::read(kind, b).unwrap()).collect();
            assert_eq!((&of_told[..], &of_heard[..]), (&told[..], &heard[..]));
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        for bytes in [&b"hello, world"[..], b"\x01\0\0\0\xff\0\0\0"] {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            assert!(decoder.next().is_err(), "{bytes:?}");
        }
        for (kind, bytes) in [(0, &b""[..]), (6, b""), (3, b"abc"), (4, b"a"), (5, b"")] {
            assert!(Heard::read(kind, bytes.to_vec()).is_err(), "{kind}");
        }
        for (kind, bytes) in [(0, &b""[..]), (6, b""), (2, b"x"), (3, b"abc"), (4, b"a")] {
            assert!(Told::read(kind, bytes.to_vec()).is_err(), "{kind}");
        }
    }
}

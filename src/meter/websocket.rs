//! WebSocket frames (RFC 6455), read as their bytes pass.
//!
//! Pure and bounded. [`Frames`] follows the frames of one direction and keeps a head at most; [`Messages`] collects whole
//! messages on top of it, for who has to understand one before it may go on. What the protocol does not allow, and what
//! an extension would have to explain (compressed frames, reserved opcodes), is a [`Fault`] and never guessed at. After a
//! fault nothing more is read.

mod messages;

pub use messages::{Item, Message, Messages, Wire};

/// Longest payload of a control frame (RFC 6455, 5.5). Unit: bytes.
const MAX_CONTROL: u64 = 125;
/// Longest head: two bytes, a length of eight and a mask.
const MAX_HEAD: usize = 14;

/// Whose frames are read: a client masks its own, a server must not (RFC 6455, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Frames of the client.
    Client,
    /// Frames of the server.
    Server,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// Goes on with the message that was begun.
    Continuation,
    /// Begins a text.
    Text,
    /// Begins binary data.
    Binary,
    /// Ends the connection.
    Close,
    /// Asks for a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Opcode {
    fn read(bits: u8) -> Result<Opcode, Fault> {
        Ok(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            other => return Err(Fault::Opcode(other)),
        })
    }

    /// Gets its four bits.
    pub fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0,
            Opcode::Text => 1,
            Opcode::Binary => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        }
    }

    /// Tells whether it may stand between the frames of a message.
    pub fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// Why bytes are no frames that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A reserved bit is set, which only an extension explains: RSV1 says that the message is compressed.
    #[error("a frame has reserved bits set, so it is compressed or of an extension that was not agreed on")]
    Reserved,
    /// An opcode that means nothing.
    #[error("a frame has the reserved opcode {0}")]
    Opcode(u8),
    /// A client's frame without a mask, or a server's with one.
    #[error("a frame is masked where it must not be, or not masked where it must")]
    Mask,
    /// A length that is written longer than needed, or beyond 2^63.
    #[error("a frame's length is not written as it has to be")]
    Length,
    /// A control frame in pieces, or longer than 125 bytes.
    #[error("a control frame is fragmented or longer than 125 bytes")]
    Control,
    /// A Close with one byte, a code that must not be sent, or a reason that is no text.
    #[error("a Close frame says no valid code or reason")]
    Close,
    /// A continuation of nothing, or a new message within one.
    #[error("a frame continues no message, or begins one within another")]
    Order,
    /// Frames after a Close.
    #[error("a frame follows a Close frame")]
    AfterClose,
    /// More than may be held.
    #[error("a message is longer than {0} bytes")]
    TooLong(usize),
    /// A message in more frames than may be held.
    #[error("a message comes in more than {0} frames")]
    TooManyFrames(usize),
}

/// The head of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whether it is the last of its message.
    pub fin: bool,
    /// What it is.
    pub opcode: Opcode,
    /// What its payload is masked with.
    pub mask: Option<[u8; 4]>,
    /// Length of its payload. Unit: bytes.
    pub length: u64,
    /// Length of the head itself. Unit: bytes.
    pub size: usize,
}

impl Head {
    /// Reads a head off the beginning of `bytes`; `None` where more are needed.
    fn read(bytes: &[u8], sender: Sender) -> Result<Option<Head>, Fault> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Fault::Reserved);
        }
        let (fin, opcode) = (first & 0x80 != 0, Opcode::read(first & 0x0f)?);
        if opcode.is_control() && !fin {
            return Err(Fault::Control);
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let masked = second & 0x80 != 0;
        if masked != (sender == Sender::Client) {
            return Err(Fault::Mask);
        }
        let big = |from: &[u8]| from.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let (length, wide) = match second & 0x7f {
            126 => match bytes.get(2..4) {
                Some(two) => (big(two), 2),
                None => return Ok(None),
            },
            127 => match bytes.get(2..10) {
                Some(eight) => (big(eight), 8),
                None => return Ok(None),
            },
            short => (u64::from(short), 0),
        };
        let least = match wide {
            2 => 126,
            8 => 1 << 16,
            _ => 0,
        };
        if length < least || length >> 63 != 0 {
            return Err(Fault::Length);
        }
        if opcode.is_control() && length > MAX_CONTROL {
            return Err(Fault::Control);
        }
        let mut size = 2 + wide;
        let mask = if masked {
            let Some(four) = bytes.get(size..size + 4) else { return Ok(None) };
            size += 4;
            four.try_into().ok()
        } else {
            None
        };
        Ok(Some(Head { fin, opcode, mask, length, size }))
    }
}

/// One step through the bytes of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// These bytes are the beginning of a head; what follows them is needed.
    More,
    /// A head ends here.
    Head(Head),
    /// These bytes are payload.
    Payload,
}

/// Follows the frames of one direction.
#[derive(Debug)]
pub struct Frames {
    sender: Sender,
    head: Vec<u8>,
    /// Payload of the current frame that is still to come.
    left: u64,
    /// A message was begun and not ended.
    within: bool,
    /// The current frame ends its message.
    last: bool,
    closing: bool,
    fault: Option<Fault>,
}

impl Frames {
    /// Begins with the first frame of `sender`.
    pub fn new(sender: Sender) -> Frames {
        let head = Vec::with_capacity(MAX_HEAD);
        Frames { sender, head, left: 0, within: false, last: false, closing: false, fault: None }
    }

    /// Takes one step into `bytes`, which go on where the last step ended. Gets how many of them it took, which are none
    /// only where `bytes` is empty.
    ///
    /// # Errors
    /// The first [`Fault`], and that one again ever after.
    pub fn step(&mut self, bytes: &[u8]) -> Result<(usize, Step), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.try_step(bytes).inspect_err(|fault| self.fault = Some(*fault))
    }

    fn try_step(&mut self, bytes: &[u8]) -> Result<(usize, Step), Fault> {
        if self.left > 0 {
            let taken = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= taken as u64;
            return Ok((taken, Step::Payload));
        }
        if bytes.is_empty() {
            return Ok((0, Step::More));
        }
        let before = self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(MAX_HEAD - before)]);
        let Some(head) = Head::read(&self.head, self.sender)? else {
            return Ok((self.head.len() - before, Step::More));
        };
        self.head.clear();
        if self.closing {
            return Err(Fault::AfterClose);
        }
        match head.opcode {
            Opcode::Close => self.closing = true,
            Opcode::Ping | Opcode::Pong => {}
            _ if (head.opcode == Opcode::Continuation) != self.within => return Err(Fault::Order),
            _ => self.within = !head.fin,
        }
        self.last = head.fin;
        self.left = head.length;
        Ok((head.size - before, Step::Head(head)))
    }

    /// Follows all of `bytes`.
    ///
    /// # Errors
    /// As [`Frames::step`].
    pub fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let (taken, _) = self.step(bytes)?;
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Tells whether a frame has begun and not ended.
    pub fn in_frame(&self) -> bool {
        self.left > 0 || !self.head.is_empty()
    }

    /// Tells whether the next byte begins a new message, or a frame that stands between messages.
    pub fn at_rest(&self) -> bool {
        !self.in_frame() && !self.within
    }
}

/// Masks `payload`, or takes the mask off it; both are the same (RFC 6455, 5.3).
fn mask(payload: &mut [u8], key: [u8; 4]) {
    for (at, byte) in payload.iter_mut().enumerate() {
        *byte ^= key[at & 3];
    }
}

/// Makes one whole frame; a client's is masked with `key`.
pub fn frame(opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let length = payload.len();
    let bit = if key.is_some() { 0x80 } else { 0 };
    let mut out = Vec::with_capacity(MAX_HEAD + length);
    out.push(0x80 | opcode.bits());
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => out.push(bit | short),
        (_, Ok(two)) => {
            out.push(bit | 126);
            out.extend_from_slice(&two.to_be_bytes());
        }
        _ => {
            out.push(bit | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key.unwrap_or_default()[..if key.is_some() { 4 } else { 0 }]);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(key) = key {
        mask(&mut out[start..], key);
    }
    out
}

/// Makes a Close frame of a server. `reason` is cut to what a control frame holds.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(MAX_CONTROL as usize - 2)];
    frame(Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat(), None)
}

#[cfg(test)]
mod tests;

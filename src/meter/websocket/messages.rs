//! Whole messages, collected out of frames: each can be read as one text, and then goes on byte for byte as it came.
//!
//! What is held is bounded by what the maker says, and by a number of frames; it is held once, however many frames it came in.
//! Control frames that stand within a message are handed out at once.

use bytes::{Buf, Bytes, BytesMut};

use super::{Fault, Frames, Head, Opcode, Sender, Step, mask};

/// Most frames of one message.
const MAX_FRAMES: usize = 1 << 15;
/// What goes on in one piece together with what stands before it. Unit: bytes.
const SMALL: usize = 16 << 10;

/// One frame of a message.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where its head ends among the heads.
    head: usize,
    /// Length of its payload.
    length: usize,
    key: Option<[u8; 4]>,
}

/// One whole message.
#[derive(Debug)]
pub struct Message {
    opcode: Opcode,
    /// The heads of its frames as they came, one after the other.
    heads: Vec<u8>,
    /// The payloads of its frames, unmasked, one after the other.
    content: BytesMut,
    parts: Vec<Part>,
    /// Length of its content, of which the last frame's may be still to come. Unit: bytes.
    length: usize,
}

impl Message {
    fn new(opcode: Opcode) -> Message {
        Message { opcode, heads: Vec::new(), content: BytesMut::new(), parts: Vec::new(), length: 0 }
    }

    /// Tells whether it is a text.
    pub fn is_text(&self) -> bool {
        self.opcode == Opcode::Text
    }

    /// Gets its content, whatever frames it came in.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// Puts `content`, which has the same length, in the place of what it says.
    pub fn replace(&mut self, content: &[u8]) {
        if content.len() == self.content.len() {
            self.content.copy_from_slice(content);
        }
    }

    /// Gets the bytes as they came, in pieces.
    pub fn into_wire(self) -> Wire {
        Wire { message: self, part: 0, large: None }
    }

    /// Gets what it takes in memory. Unit: bytes.
    fn held(&self) -> usize {
        self.content.len() + self.heads.len() + self.parts.len() * size_of::<Part>()
    }

    /// Takes the mask off the last frame, which has come whole.
    fn unmask(&mut self) {
        if let Some(Part { length, key: Some(key), .. }) = self.parts.last().copied() {
            let from = self.content.len().saturating_sub(length);
            mask(self.content.get_mut(from..).unwrap_or_default(), key);
        }
    }
}

/// The bytes of a message as they came, a piece at a time: small frames together, large ones without a copy.
#[derive(Debug)]
pub struct Wire {
    message: Message,
    part: usize,
    /// A large payload whose head went out.
    large: Option<Bytes>,
}

impl Iterator for Wire {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some(large) = self.large.take() {
            return Some(large);
        }
        let mut out = BytesMut::new();
        while let Some(part) = self.message.parts.get(self.part).copied() {
            let from = self.part.checked_sub(1).and_then(|at| self.message.parts.get(at)).map_or(0, |part| part.head);
            self.part += 1;
            out.extend_from_slice(self.message.heads.get(from..part.head).unwrap_or_default());
            let mut payload = self.message.content.split_to(part.length.min(self.message.content.len()));
            if let Some(key) = part.key {
                mask(&mut payload, key);
            }
            if payload.len() > SMALL {
                self.large = Some(payload.freeze());
                break;
            }
            out.extend_from_slice(&payload);
            if out.len() > SMALL {
                break;
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }
}

/// What is handed out.
#[derive(Debug)]
pub enum Item {
    /// A Close, Ping or Pong.
    Control {
        /// Which.
        opcode: Opcode,
        /// Its bytes as they came.
        wire: Bytes,
        /// What it says.
        payload: Bytes,
    },
    /// A whole message.
    Message(Message),
}

/// Collects the messages of one direction.
#[derive(Debug)]
pub struct Messages {
    frames: Frames,
    most: usize,
    /// Bytes of the head that has not ended yet.
    head: BytesMut,
    message: Option<Message>,
    control: Option<(Opcode, Message)>,
    fault: Option<Fault>,
}

impl Messages {
    /// Begins with the first frame of `sender`, whose messages may have `most` bytes.
    pub fn new(sender: Sender, most: usize) -> Messages {
        let (head, message, control) = (BytesMut::new(), None, None);
        Messages { frames: Frames::new(sender), most, head, message, control, fault: None }
    }

    /// Takes bytes off `from` until something is whole, which it returns, or nothing is left.
    ///
    /// # Errors
    /// The first [`Fault`], and that one again ever after.
    pub fn take(&mut self, from: &mut BytesMut) -> Result<Option<Item>, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.try_take(from).inspect_err(|fault| self.fault = Some(*fault))
    }

    fn try_take(&mut self, from: &mut BytesMut) -> Result<Option<Item>, Fault> {
        while !from.is_empty() {
            let (taken, step) = self.frames.step(from)?;
            match step {
                Step::More => self.head.extend_from_slice(from.get(..taken).unwrap_or_default()),
                Step::Head(head) => {
                    self.head.extend_from_slice(from.get(..taken).unwrap_or_default());
                    self.begin(head)?;
                }
                Step::Payload => {
                    let into = match &mut self.control {
                        Some((_, control)) => Some(control),
                        None => self.message.as_mut(),
                    };
                    if let Some(into) = into {
                        into.content.extend_from_slice(from.get(..taken).unwrap_or_default());
                    }
                }
            }
            from.advance(taken);
            if !self.frames.in_frame()
                && let Some(item) = self.ended()?
            {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    fn begin(&mut self, head: Head) -> Result<(), Fault> {
        let raw = std::mem::take(&mut self.head);
        let into = if head.opcode.is_control() {
            &mut self.control.insert((head.opcode, Message::new(head.opcode))).1
        } else {
            self.message.get_or_insert_with(|| Message::new(head.opcode))
        };
        let length = usize::try_from(head.length).unwrap_or(usize::MAX);
        if length > self.most.saturating_sub(into.length) && !head.opcode.is_control() {
            return Err(Fault::TooLong(self.most));
        }
        into.length += length;
        if into.parts.len() >= MAX_FRAMES {
            return Err(Fault::TooManyFrames(MAX_FRAMES));
        }
        into.heads.extend_from_slice(&raw);
        into.parts.push(Part { head: into.heads.len(), length, key: head.mask });
        Ok(())
    }

    /// Takes the mask off a frame that has come whole; gets what is whole by it.
    fn ended(&mut self) -> Result<Option<Item>, Fault> {
        if let Some((opcode, mut control)) = self.control.take() {
            control.unmask();
            let payload = Bytes::copy_from_slice(control.content());
            if opcode == Opcode::Close {
                check_close(&payload)?;
            }
            let wire: Vec<u8> = control.into_wire().flatten().collect();
            return Ok(Some(Item::Control { opcode, wire: wire.into(), payload }));
        }
        if let Some(message) = &mut self.message {
            message.unmask();
        }
        Ok(self.message.take_if(|_| self.frames.at_rest()).map(Item::Message))
    }

    /// Gets how many bytes are held of a message that is not whole. Unit: bytes.
    pub fn held(&self) -> usize {
        self.message.as_ref().map_or(0, Message::held)
    }

    /// Tells whether a frame or a message has begun and not ended.
    pub fn is_within(&self) -> bool {
        !self.frames.at_rest()
    }
}

/// Looks at what a Close says (RFC 6455, 5.5.1 and 7.4).
fn check_close(payload: &[u8]) -> Result<(), Fault> {
    let Some((code, reason)) = payload.split_at_checked(2) else {
        return if payload.is_empty() { Ok(()) } else { Err(Fault::Close) };
    };
    let code = code.iter().fold(0u16, |sum, byte| sum << 8 | u16::from(*byte));
    let sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if sent && std::str::from_utf8(reason).is_ok() { Ok(()) } else { Err(Fault::Close) }
}

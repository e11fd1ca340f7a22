//! Whole messages, collected out of frames: each can be read as one text, and then goes on byte for byte as it came.
//!
//! What is held is bounded by what the maker says, and by a number of frames. Control frames that stand within a message are
//! handed out at once.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};

use super::{Fault, Frames, Head, Opcode, Sender, Step, mask};

/// Most frames of one message.
const MAX_FRAMES: usize = 1 << 15;

/// One frame of a message, in its wire bytes.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where its payload begins.
    start: usize,
    length: usize,
    key: Option<[u8; 4]>,
}

/// One whole message.
#[derive(Debug)]
pub struct Message {
    opcode: Opcode,
    /// Heads and payloads as they came, but that payloads are unmasked.
    wire: BytesMut,
    parts: Vec<Part>,
    /// Length of its content so far, and of what its last head has announced. Unit: bytes.
    length: usize,
}

impl Message {
    fn new(opcode: Opcode) -> Message {
        Message { opcode, wire: BytesMut::new(), parts: Vec::new(), length: 0 }
    }

    /// Tells whether it is a text.
    pub fn is_text(&self) -> bool {
        self.opcode == Opcode::Text
    }

    /// Gets its content, whatever frames it came in.
    pub fn content(&self) -> Cow<'_, [u8]> {
        match self.parts.as_slice() {
            [one] => Cow::Borrowed(self.payload(*one)),
            many => Cow::Owned(many.iter().map(|part| self.payload(*part)).collect::<Vec<_>>().concat()),
        }
    }

    fn payload(&self, part: Part) -> &[u8] {
        self.wire.get(part.start..part.start + part.length).unwrap_or_default()
    }

    /// Puts `content`, which has the same length, in the place of what it says.
    pub fn replace(&mut self, mut content: &[u8]) {
        for part in &self.parts {
            let place = self.wire.get_mut(part.start..part.start + part.length).unwrap_or_default();
            let Some((now, rest)) = content.split_at_checked(place.len()) else { return };
            place.copy_from_slice(now);
            content = rest;
        }
    }

    /// Gets the bytes as they came.
    pub fn into_wire(mut self) -> Bytes {
        for part in &self.parts {
            if let (Some(key), Some(payload)) = (part.key, self.wire.get_mut(part.start..part.start + part.length)) {
                mask(payload, key);
            }
        }
        self.wire.freeze()
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
                        into.wire.extend_from_slice(from.get(..taken).unwrap_or_default());
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
        into.wire.extend_from_slice(&raw);
        into.parts.push(Part { start: into.wire.len(), length, key: head.mask });
        Ok(())
    }

    /// Takes the mask off a frame that has come whole; gets what is whole by it.
    fn ended(&mut self) -> Result<Option<Item>, Fault> {
        let unmask = |message: &mut Message| {
            if let Some(part) = message.parts.last()
                && let Some(key) = part.key
                && let Some(payload) = message.wire.get_mut(part.start..part.start + part.length)
            {
                mask(payload, key);
            }
        };
        if let Some((opcode, mut control)) = self.control.take() {
            unmask(&mut control);
            if opcode == Opcode::Close {
                check_close(&control.content())?;
            }
            return Ok(Some(Item::Control { opcode, wire: control.into_wire() }));
        }
        self.message.as_mut().map(unmask);
        Ok(self.message.take_if(|_| self.frames.at_rest()).map(Item::Message))
    }

    /// Gets how many bytes are held of a message that is not whole. Unit: bytes.
    pub fn held(&self) -> usize {
        self.message.as_ref().map_or(0, |message| message.wire.len())
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

//! Amazon's event streams, incrementally: bytes in, kind and payload of each message out.
//!
//! As the AWS documentation has it ("Event stream encoding", `application/vnd.amazon.eventstream`): a prelude of the length of the
//! message, the length of its headers and a CRC-32 of both; headers; payload; a CRC-32 of all that came before. A message whose
//! sums do not fit is not read, nor anything after it.

use super::bound::Bound;
use super::usage::Unreadable;

/// Length of the prelude, and of the sum at the end. Unit: bytes.
pub(super) const PRELUDE: usize = 12;
const SUM: usize = 4;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    /// An event of this type (`:event-type`).
    Event(&'a str),
    /// The stream has failed (`:message-type` is `exception` or `error`).
    Exception,
}

/// Takes one message.
pub(super) type OnMessage<'a> = dyn FnMut(Kind<'_>, &[u8]) -> Result<(), Unreadable> + 'a;

/// Where one stream stands.
#[derive(Default)]
pub(super) struct EventStream {
    /// The message that has not come whole.
    message: Vec<u8>,
}

impl EventStream {
    /// Takes bytes, calls `on_message` with every message that they complete.
    ///
    /// # Errors
    /// [`Unreadable`] where a message is damaged or larger than may be kept, or as `on_message` says.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        bound: &mut Bound,
        on_message: &mut OnMessage<'_>,
    ) -> Result<(), Unreadable> {
        while !bytes.is_empty() {
            let whole = match number(&self.message, 0) {
                Some(_) if self.message.len() < PRELUDE => PRELUDE,
                Some(length) => length,
                None => PRELUDE,
            };
            let take = whole.saturating_sub(self.message.len()).min(bytes.len());
            bound.keeps(self.message.len() + take)?;
            let (now, later) = bytes.split_at(take);
            self.message.extend_from_slice(now);
            bytes = later;
            if self.message.len() == PRELUDE && whole == PRELUDE {
                prelude(&self.message)?;
            } else if self.message.len() == whole {
                let (kind, payload) = read(&self.message)?;
                let done = on_message(kind, payload);
                let length = self.message.len();
                self.message.clear();
                self.message.shrink_to(super::bound::KEPT);
                bound.taken(length, done)?;
            }
        }
        Ok(())
    }
}

/// Reads the number of four bytes at `at`.
fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(four)).ok()
}

/// Checks the lengths that a prelude says, and its sum.
fn prelude(bytes: &[u8]) -> Result<(), Unreadable> {
    let (Some(whole), Some(headers), Some(sum)) = (number(bytes, 0), number(bytes, 4), number(bytes, 8)) else {
        return Err(Unreadable::Form);
    };
    let sound = bytes.get(..8).map(crc32fast::hash).and_then(|sum| usize::try_from(sum).ok()) == Some(sum);
    let fits = whole.checked_sub(PRELUDE + SUM).is_some_and(|room| headers <= room);
    if sound && fits && whole <= super::bound::MAX_EVENT { Ok(()) } else { Err(Unreadable::Form) }
}

/// Tells whether `bytes`, of which there are enough for a prelude, begin with one.
pub(super) fn begins(bytes: &[u8]) -> bool {
    prelude(bytes).is_ok()
}

/// Reads a whole message.
fn read(message: &[u8]) -> Result<(Kind<'_>, &[u8]), Unreadable> {
    let end = message.len().checked_sub(SUM).ok_or(Unreadable::Form)?;
    let sum = message.get(..end).map(crc32fast::hash).and_then(|sum| usize::try_from(sum).ok());
    let headers = number(message, 4).ok_or(Unreadable::Form)?;
    if sum.is_none() || sum != number(message, end) {
        return Err(Unreadable::Form);
    }
    let payload = message.get(PRELUDE + headers..end).ok_or(Unreadable::Form)?;
    let headers = message.get(PRELUDE..PRELUDE + headers).ok_or(Unreadable::Form)?;
    Ok((kind(headers)?, payload))
}

/// Reads what the headers say of a message.
fn kind(mut headers: &[u8]) -> Result<Kind<'_>, Unreadable> {
    let (mut event, mut failed) = ("", false);
    while !headers.is_empty() {
        let length = usize::from(take(&mut headers, 1)?[0]);
        let name = take(&mut headers, length)?;
        let value = value(&mut headers)?;
        match name {
            b":event-type" => event = std::str::from_utf8(value).map_err(|_| Unreadable::Form)?,
            b":message-type" => failed = value != b"event",
            _ => {}
        }
    }
    Ok(if failed { Kind::Exception } else { Kind::Event(event) })
}

/// Takes the value of a header: its type, for texts and bytes its length, and itself.
fn value<'a>(headers: &mut &'a [u8]) -> Result<&'a [u8], Unreadable> {
    let length = match take(headers, 1)?[0] {
        // True, false.
        0 | 1 => 0,
        // Numbers of one, two, four and eight bytes; a time; a UUID.
        2 => 1,
        3 => 2,
        4 => 4,
        5 | 8 => 8,
        9 => 16,
        // Bytes, text.
        6 | 7 => take(headers, 2)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
        _ => return Err(Unreadable::Form),
    };
    take(headers, length)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Unreadable> {
    let (now, later) = bytes.split_at_checked(length).ok_or(Unreadable::Form)?;
    *bytes = later;
    Ok(now)
}

/// Writes a message with text headers. Lengths are those of what bb says itself: far below what they may be.
pub(crate) fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        head.extend_from_slice(name.as_bytes());
        // Text.
        head.push(7);
        head.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        head.extend_from_slice(value.as_bytes());
    }
    let mut out = length(PRELUDE + head.len() + payload.len() + SUM).to_be_bytes().to_vec();
    out.extend_from_slice(&length(head.len()).to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out
}

/// Writes an event of JSON.
pub(crate) fn event(kind: &str, payload: &[u8]) -> Vec<u8> {
    message(&[(":event-type", kind), (":content-type", "application/json"), (":message-type", "event")], payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(pieces: &[&[u8]]) -> Result<Vec<(String, Vec<u8>)>, Unreadable> {
        let (mut stream, mut got) = (EventStream::default(), Vec::new());
        let mut take = |kind: Kind<'_>, payload: &[u8]| {
            got.push((format!("{kind:?}"), payload.to_vec()));
            Ok(())
        };
        for piece in pieces {
            stream.feed(piece, &mut Bound::default(), &mut take)?;
        }
        Ok(got)
    }

    #[test]
    fn messages_are_read_wherever_the_bytes_are_cut() {
        let mut bytes = event("a", b"{\"x\":1}");
        bytes.extend(message(&[(":message-type", "exception"), (":exception-type", "throttlingException")], b"{}"));
        bytes.extend(event("b", b""));
        let want = [("Event(\"a\")", &b"{\"x\":1}"[..]), ("Exception", b"{}"), ("Event(\"b\")", b"")];
        let want: Vec<_> = want.iter().map(|(kind, payload)| (kind.to_string(), payload.to_vec())).collect();
        for cut in 0..=bytes.len() {
            assert_eq!(messages(&[&bytes[..cut], &bytes[cut..]]).unwrap(), want, "{cut}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(messages(&single).unwrap(), want);
    }

    #[test]
    fn a_damaged_message_is_not_read() {
        let whole = event("a", b"{\"usage\":1}");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let got = messages(&[&bytes]);
            assert!(got.is_err() || got == Ok(Vec::new()), "{at}: {got:?}");
        }
        let long = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        let mut bytes = long.to_vec();
        bytes.extend_from_slice(&crc32fast::hash(&long).to_be_bytes());
        assert_eq!(messages(&[&bytes]), Err(Unreadable::Form));
    }

    #[test]
    fn headers_of_every_type_are_passed_over() {
        let mut head = Vec::new();
        for (kind, value) in [
            (0u8, &b""[..]),
            (1, b""),
            (2, b"1"),
            (3, b"12"),
            (4, b"1234"),
            (5, b"12345678"),
            (8, b"12345678"),
            (9, &[7; 16]),
        ] {
            head.extend_from_slice(&[1, b'n', kind]);
            head.extend_from_slice(value);
        }
        head.extend_from_slice(b"\x01n\x06\x00\x02ab\x0b:event-type\x07\x00\x01z");
        assert_eq!(kind(&head), Ok(Kind::Event("z")));
        assert_eq!(kind(b"\x01n\x0a"), Err(Unreadable::Form));
        assert_eq!(kind(b"\x09n"), Err(Unreadable::Form));
    }
}

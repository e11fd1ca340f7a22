//! What is typed, looked at for the keys that detach: ctrl-p, then ctrl-q. Everything else passes as it came.
//!
//! A chunk may end anywhere, and the keys may come in any of the forms that a terminal has for them: a control byte, the
//! kitty keyboard protocol's, or xterm's modifyOtherKeys. Decides nothing but whether they were pressed.

use std::time::Duration;

/// How long after the first key the second may come; then the first goes to the agent.
const BETWEEN_KEYS: Duration = Duration::from_millis(1500);

/// How long the rest of a sequence may take that was cut by the end of a chunk. The escape key alone waits as long.
const REST_OF_SEQUENCE: Duration = Duration::from_millis(40);

/// Longest sequence that may stand for one of the keys.
const LONGEST: usize = 32;

/// Most that is held between the keys: where keys let go are told too, there are some.
const MOST_HELD: usize = 256;

const FIRST: u32 = b'p' as u32;
const SECOND: u32 = b'q' as u32;

/// What ends a bracketed paste.
const END_OF_PASTE: &[u8] = b"\x1b[201~";

/// Modifiers of a key event: control; and the locks, which change nothing.
const CONTROL: u32 = 4;
const LOCKS: u32 = 64 | 128;

/// What one thing that was typed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// Control and this letter.
    Control(u32),
    /// A key was let go, or a modifier alone pressed: says nothing.
    Nothing,
    /// From here on, up to [`END_OF_PASTE`], nothing was pressed: it was pasted.
    Paste,
    /// Anything else.
    Other,
}

/// Looks for the keys.
#[derive(Debug, Default)]
pub struct Keys {
    /// The first of the keys, as it came, once it was pressed.
    held: Vec<u8>,
    /// The beginning of a sequence that the last chunk ended in.
    begun: Vec<u8>,
    /// Within a bracketed paste: how much of its end has been seen.
    pasted: Option<usize>,
}

/// What came of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// What goes to the agent.
    pub bytes: Vec<u8>,
    /// The keys were pressed. What came after them is lost.
    pub detach: bool,
}

impl Keys {
    /// Takes a chunk.
    pub fn feed(&mut self, chunk: &[u8]) -> Typed {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(chunk);
        let mut typed = Typed::default();
        let mut rest = all.as_slice();
        while let Some(&byte) = rest.first() {
            if let Some(seen) = self.pasted {
                typed.bytes.push(byte);
                rest = &rest[1..];
                // Only its first byte is an escape, so a beginning that leads nowhere is begun anew by one.
                let seen = if byte == END_OF_PASTE[seen] { seen + 1 } else { usize::from(byte == b'\x1b') };
                self.pasted = (seen < END_OF_PASTE.len()).then_some(seen);
                continue;
            }
            let Some((key, length)) = key(rest) else {
                self.begun = rest.to_vec();
                break;
            };
            let (this, after) = rest.split_at(length);
            rest = after;
            match key {
                Key::Control(SECOND) if !self.held.is_empty() => {
                    self.held.clear();
                    typed.detach = true;
                    return typed;
                }
                // Pressed twice, the first goes on and the second is held.
                Key::Control(FIRST) => {
                    typed.bytes.append(&mut self.held);
                    self.held.extend_from_slice(this);
                }
                Key::Nothing if !self.held.is_empty() => self.held.extend_from_slice(this),
                Key::Control(_) | Key::Nothing | Key::Other | Key::Paste => {
                    typed.bytes.append(&mut self.held);
                    typed.bytes.extend_from_slice(this);
                    self.pasted = (key == Key::Paste).then_some(0);
                }
            }
            if self.held.len() > MOST_HELD {
                typed.bytes.append(&mut self.held);
            }
        }
        typed
    }

    /// Gets how long to wait for more before [`Keys::flush`], where something is held.
    pub fn patience(&self) -> Option<Duration> {
        if !self.begun.is_empty() {
            Some(REST_OF_SEQUENCE)
        } else if !self.held.is_empty() {
            Some(BETWEEN_KEYS)
        } else {
            None
        }
    }

    /// Gets what was held: nothing more came.
    pub fn flush(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.held);
        all.append(&mut self.begun);
        all
    }
}

/// Gets the key that `bytes` begins with and its length; `None` where only its beginning is there.
fn key(bytes: &[u8]) -> Option<(Key, usize)> {
    if bytes == b"\x1b" {
        return None;
    }
    let Some(body) = bytes.strip_prefix(b"\x1b[") else {
        let key = match bytes[0] {
            byte @ 1..=26 => Key::Control(u32::from(byte | 0x60)),
            _ => Key::Other,
        };
        return Some((key, 1));
    };
    let Some(end) = body.iter().position(|b| !matches!(b, b'0'..=b'9' | b';' | b':')) else {
        return (bytes.len() > LONGEST).then_some((Key::Other, bytes.len()));
    };
    Some((sequence(&body[..end], body[end]), 2 + end + 1))
}

/// Gets the key of a sequence `CSI parameters final`.
fn sequence(parameters: &[u8], last: u8) -> Key {
    let parameters: Vec<Vec<u32>> =
        parameters.split(|b| *b == b';').map(|field| field.split(|b| *b == b':').map(number).collect()).collect();
    let field = |at: usize, sub: usize| parameters.get(at).and_then(|f| f.get(sub)).copied().filter(|n| *n > 0);
    let (code, modifiers, event) = match last {
        // CSI code[:shifted[:base]] ; modifiers[:event] u
        b'u' => (field(0, 0), field(1, 0), field(1, 1)),
        // CSI 27 ; modifiers ; code ~
        b'~' if field(0, 0) == Some(27) && parameters.len() == 3 => (field(2, 0), field(1, 0), None),
        b'~' if field(0, 0) == Some(200) && parameters.len() == 1 => return Key::Paste,
        _ => return Key::Other,
    };
    let code = code.unwrap_or(0);
    // A key let go, or a modifier key by itself (their own block of codes).
    if event == Some(3) || (57_441..=57_454).contains(&code) {
        return Key::Nothing;
    }
    // On another layout the key's place counts, which is the third number.
    let code = if code.wrapping_sub(u32::from(b'a')) < 26 { code } else { field(0, 2).unwrap_or(code) };
    match modifiers.unwrap_or(1).wrapping_sub(1) & !LOCKS {
        CONTROL => Key::Control(code),
        _ => Key::Other,
    }
}

fn number(digits: &[u8]) -> u32 {
    digits.iter().fold(0u32, |n, d| n.saturating_mul(10).saturating_add(u32::from(d - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [(&[u8], &[u8]); 5] = [
        (b"\x10", b"\x11"),
        (b"\x1b[112;5u", b"\x1b[113;5u"),
        (b"\x1b[112;69:1u", b"\x1b[113;69u"),
        (b"\x1b[1079::112;5u", b"\x1b[1081::113;5u"),
        (b"\x1b[27;5;112~", b"\x1b[27;5;113~"),
    ];

    fn fed(keys: &mut Keys, chunks: &[&[u8]]) -> Typed {
        let mut all = Typed::default();
        for chunk in chunks {
            let typed = keys.feed(chunk);
            all.bytes.extend(typed.bytes);
            all.detach |= typed.detach;
            if all.detach {
                break;
            }
        }
        all
    }

    #[test]
    fn the_keys_detach_in_every_form_and_however_they_are_cut() {
        for (first, second) in FORMS {
            let text = [b"ab".as_slice(), first, second, b"lost"].concat();
            for at in 0..=text.len() - 4 {
                let typed = fed(&mut Keys::default(), &[&text[..at], &text[at..]]);
                assert_eq!(typed, Typed { bytes: b"ab".to_vec(), detach: true }, "{text:?} cut at {at}");
            }
        }
        // A key let go in between, and the control key pressed.
        let kitty = b"\x1b[57442;5u\x1b[112;5u\x1b[112;5:3u\x1b[57442;1:3u\x1b[57442;5u\x1b[113;5u";
        assert!(Keys::default().feed(kitty).detach);
        // After a paste they do as before.
        let paste = b"\x1b[200~\x10\x11\x1b[201~\x10\x11";
        let typed = Keys::default().feed(paste);
        assert!(typed.detach && typed.bytes == b"\x1b[200~\x10\x11\x1b[201~", "{typed:?}");
    }

    #[test]
    fn everything_else_passes_byte_for_byte_and_in_order() {
        let texts: [&[u8]; 11] = [
            b"\x10x",
            b"\x10\x10y",
            b"\x11\x10z",
            b"\x1b[A\x1b[1;5C\x1b[<0;10;20M",
            b"\x1b[112;5:3u\x1b[113;5uq",
            b"\x1b[112;6u\x1b[113;5u",
            "grün €".as_bytes(),
            b"\x1b[200~paste \x10 more\x1b[201~",
            // What is pasted was not pressed.
            b"\x10\x1b[200~\x11 \x10\x11 \x1b[112;5u\x1b[113;5u \x1b[20\x1b[201~\x11",
            b"\x1b[200~\x10\x1b[201~\x11",
            b"\x1b[99999999999999999999999999999999999999u",
        ];
        for text in texts {
            for at in 0..=text.len() {
                let mut keys = Keys::default();
                let mut typed = fed(&mut keys, &[&text[..at], &text[at..]]);
                typed.bytes.extend(keys.flush());
                assert_eq!(typed, Typed { bytes: text.to_vec(), detach: false }, "cut at {at}");
            }
        }
    }

    #[test]
    fn what_is_held_is_held_for_a_while_only() {
        let mut keys = Keys::default();
        assert!(keys.feed(b"\x1b").bytes.is_empty());
        assert_eq!(keys.patience(), Some(REST_OF_SEQUENCE));
        assert_eq!(keys.flush(), b"\x1b");
        assert!(keys.feed(b"\x10").bytes.is_empty());
        assert_eq!(keys.patience(), Some(BETWEEN_KEYS));
        assert_eq!(keys.flush(), b"\x10");
        assert_eq!(keys.patience(), None);
        assert!(!keys.feed(b"\x11").detach);
        let mut rest = Keys::default();
        rest.feed(b"\x1b[1");
        assert_eq!(rest.patience(), Some(REST_OF_SEQUENCE));
        rest.feed(&[b'1'; 1000]);
        assert!(rest.begun.len() <= LONGEST + 2, "bounded");
    }
}

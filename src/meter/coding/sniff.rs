//! Tells the coding of a body by its first bytes.
//!
//! gzip, Zstandard and zlib begin with marks. Brotli and raw deflate have none: what is no text is tried, a little of it.

use std::io::{self, Write};

use brotli_decompressor::DecompressorWriter;
use flate2::write::DeflateDecoder;

use crate::meter::event_stream::{self, PRELUDE};

/// A coding that a body may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Identity,
    Gzip,
    /// Deflate within zlib's format (RFC 1950): what `deflate` means (RFC 9110, 8.4.1.2).
    Zlib,
    /// Deflate alone (RFC 1951): what some send under that name.
    Deflate,
    Brotli,
    Zstd,
}

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Too little has come.
    More,
    Is(Found),
    /// Nothing that is known.
    None,
}

/// First bytes of a gzip member (RFC 1952) and of a frame of Zstandard (RFC 8878).
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const BOM: &[u8] = &[0xef, 0xbb, 0xbf];

/// How the answers of model APIs begin that are streams of events; the others are JSON.
const FIELDS: [&[u8]; 4] = [b"data:", b"event:", b"id:", b"retry:"];

/// Bytes that are looked at to tell text from what is none.
const LOOKED_AT: usize = 16;

/// Least that a trial has to give before it is believed: a few bytes of nonsense may look like text. Unit: bytes.
const BELIEVED: usize = 8;

/// What is tried, at most. Unit: bytes.
const TRIED: usize = 4096;

/// Blanks before anything else that are waited through: some hosts send blank lines while they think. Unit: bytes.
const MOST_BLANK: usize = 4096;

/// Tells the coding of a body that begins with `head`. `said` is what the header says where it has no mark; `over` where nothing
/// more will come.
pub(super) fn coding(head: &[u8], said: Option<Found>, over: bool) -> Verdict {
    if head.is_empty() {
        return if over { Verdict::Is(Found::Identity) } else { Verdict::More };
    }
    for (mark, found) in [(GZIP, Found::Gzip), (ZSTD, Found::Zstd)] {
        if head.starts_with(mark) {
            return Verdict::Is(found);
        }
        if mark.starts_with(head) {
            return if over { Verdict::Is(found) } else { Verdict::More };
        }
    }
    match text(head) {
        Some(true) => return Verdict::Is(Found::Identity),
        None if !over => return Verdict::More,
        None => return Verdict::Is(Found::Identity),
        Some(false) => {}
    }
    // The length of one of Amazon's event streams: below 16 MiB.
    if head[0] == 0 {
        return Verdict::Is(Found::Identity);
    }
    match head {
        [first] if first & 0x0f == 8 => return if over { Verdict::Is(Found::Zlib) } else { Verdict::More },
        // RFC 1950, 2.2: the method, the size of the window, and both bytes as a number are a multiple of 31.
        [first, second, ..]
            if first & 0x0f == 8 && first >> 4 <= 7 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0 =>
        {
            return Verdict::Is(Found::Zlib);
        }
        _ => {}
    }
    if let Some(found) = said {
        return Verdict::Is(found);
    }
    let tried = &head[..head.len().min(TRIED)];
    let mut open = None;
    for found in [Found::Brotli, Found::Deflate] {
        let mut trial: Box<dyn Trial> = match found {
            Found::Brotli => Box::new(DecompressorWriter::new(Start::default(), TRIED)),
            _ => Box::new(DeflateDecoder::new(Start::default())),
        };
        let sound = trial.write_all(tried).and_then(|()| trial.flush()).is_ok();
        let out = trial.out();
        match answers(&out.bytes) {
            Some(true) if sound || out.full => return Verdict::Is(found),
            None if sound => open = open.or(Some(found)),
            _ => {}
        }
    }
    match open {
        // It ended before it could be told.
        Some(found) if over => Verdict::Is(found),
        Some(_) if head.len() < TRIED => Verdict::More,
        _ => Verdict::None,
    }
}

/// Tells whether `head` begins like text; `None` where it is too short to say.
fn text(head: &[u8]) -> Option<bool> {
    if head.len() < BOM.len() && BOM.starts_with(head) {
        return None;
    }
    let whole = head.strip_prefix(BOM).unwrap_or(head);
    let head = whole.trim_ascii_start();
    if begins(head) || whole.len() - head.len() > MOST_BLANK {
        return Some(true);
    }
    let seen = &head[..head.len().min(LOOKED_AT)];
    if seen.iter().any(|byte| !matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e)) {
        return Some(false);
    }
    (seen.len() == LOOKED_AT).then_some(true)
}

/// Tells whether what a trial gives begins as answers of model APIs do, and not only like text: nonsense may decode to anything, such as
/// one letter a hundred times. `None` where it is too little to say.
fn answers(out: &[u8]) -> Option<bool> {
    if out.starts_with(&[0]) {
        return (out.len() >= PRELUDE).then(|| event_stream::begins(out));
    }
    let out = out.strip_prefix(BOM).unwrap_or(out).trim_ascii_start();
    (out.len() >= BELIEVED).then(|| begins(out))
}

/// Tells whether `text`, which begins with no blank, begins as an event stream, a list of objects or an object does.
fn begins(text: &[u8]) -> bool {
    let next = |text: &[u8]| text.trim_ascii_start().first().copied();
    match text.split_first() {
        Some((b'{', rest)) => matches!(next(rest), Some(b'"' | b'}')),
        Some((b'[', rest)) => matches!(next(rest), Some(b'{' | b']')),
        _ => FIELDS.iter().any(|field| text.starts_with(field)),
    }
}

/// A decoder that is tried.
trait Trial: Write {
    fn out(&self) -> &Start;
}

impl Trial for DecompressorWriter<Start> {
    fn out(&self) -> &Start {
        self.get_ref()
    }
}

impl Trial for DeflateDecoder<Start> {
    fn out(&self) -> &Start {
        self.get_ref()
    }
}

/// The beginning of what a trial gives.
#[derive(Default)]
struct Start {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Start {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = LOOKED_AT - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.full = bytes.len() > room;
        // Enough was seen: an error ends the trial.
        if self.full { Err(io::Error::other("enough")) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_known_as_soon_as_it_can_be() {
        for start in ["data: x", "event: a", "{\"id\"", "[{", "\u{feff}{\"a\"", "\n\n{\"a\":", "<html><body>upstream"] {
            assert_eq!(coding(start.as_bytes(), None, false), Verdict::Is(Found::Identity), "{start}");
        }
        assert_eq!(coding(&[b'\n'; MOST_BLANK], None, false), Verdict::More);
        assert_eq!(coding(&[b'\n'; MOST_BLANK + 1], None, false), Verdict::Is(Found::Identity));
        for short in ["{", "[", "dat", "x", "  ", ": ping"] {
            assert_eq!(coding(short.as_bytes(), None, false), Verdict::More, "{short}");
            assert_eq!(coding(short.as_bytes(), None, true), Verdict::Is(Found::Identity), "{short}");
        }
    }

    #[test]
    fn marks_are_known_and_half_a_mark_is_waited_for() {
        for (head, found) in [
            (&[0x1f, 0x8b][..], Found::Gzip),
            (&[0x28, 0xb5, 0x2f, 0xfd, 0], Found::Zstd),
            (&[0x78, 0x9c, 1], Found::Zlib),
            (&[0x78, 0x01], Found::Zlib),
            (&[0, 0, 1, 7], Found::Identity),
        ] {
            assert_eq!(coding(head, None, false), Verdict::Is(found), "{head:?}");
        }
        for half in [&[0x1f][..], &[0x28, 0xb5], &[0x78]] {
            assert_eq!(coding(half, None, false), Verdict::More, "{half:?}");
        }
        for (short, found) in [(&[0x1f][..], Found::Gzip), (&[0x28, 0xb5], Found::Zstd)] {
            assert_eq!(coding(short, None, true), Verdict::Is(found), "it ended early: {short:?}");
        }
        assert_eq!(coding(&[0xff, 0xfe, 0xfd], None, true), Verdict::None);
        // Raw deflate would make of it one letter very often; it is Brotli.
        let brotli = [0x1b, 0xc8, 0x05, 0x00, 0xc4];
        assert_eq!(coding(&brotli, None, false), Verdict::More);
        assert_eq!(coding(&[0x4b, 0xcc, 0x4d], Some(Found::Deflate), false), Verdict::Is(Found::Deflate));
    }
}

//! Takes the one chunk out of a stream of Chat Completions that its client has not asked for: the one with the usage, which the
//! plane has asked for in its place.
//!
//! Everything else passes as it came. An event is held until it is whole, and not longer: one beyond 64 KiB, which is no such
//! chunk, passes as it comes. Only one in which a choice finishes waits for the next: who reads no further than that is charged by
//! the usage all the same, which comes then.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Longest event that is held. Unit: bytes.
const MOST: usize = 64 << 10;

/// Where one stream stands.
#[derive(Debug, Default)]
pub(super) struct UsageChunk {
    /// The event that has not come whole.
    pending: BytesMut,
    /// How much of it has no end in it.
    seen: usize,
    /// Its beginning has passed already.
    passing: bool,
    /// A whole event, in which a choice finishes.
    waiting: BytesMut,
}

/// The chunk with the usage has no choices (OpenAI API reference, `stream_options.include_usage`).
#[derive(Deserialize)]
struct Chunk {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    finish_reason: Option<IgnoredAny>,
}

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The chunk.
    Usage,
    /// A choice finishes in it.
    Finish,
    Other,
}

impl UsageChunk {
    /// Takes bytes; gets what may pass of them and of what was held.
    pub(super) fn pass(&mut self, bytes: &Bytes) -> Bytes {
        self.pending.extend_from_slice(bytes);
        let mut out = BytesMut::new();
        while let Some(end) = self.end() {
            let event = self.pending.split_to(end);
            self.seen = 0;
            let kind = if std::mem::take(&mut self.passing) { Kind::Other } else { kind(&event) };
            out.extend_from_slice(&std::mem::take(&mut self.waiting));
            match kind {
                Kind::Usage => {}
                Kind::Finish => self.waiting = event,
                Kind::Other => out.extend_from_slice(&event),
            }
        }
        if self.passing || self.pending.len() > MOST {
            self.passing = true;
            out.extend_from_slice(&std::mem::take(&mut self.waiting));
            // Ends of lines stay: with what comes next they may be the end of the event.
            let line_ends = self.pending.iter().rev().take(3).take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            out.extend_from_slice(&self.pending.split_to(self.pending.len() - line_ends));
            self.seen = 0;
        }
        out.freeze()
    }

    /// Takes the last bytes; gets all that is held but the chunk.
    pub(super) fn finish(&mut self, bytes: &Bytes) -> Bytes {
        let mut out = BytesMut::from(self.pass(bytes));
        out.extend_from_slice(&std::mem::take(&mut self.waiting));
        let rest = std::mem::take(&mut self.pending);
        if self.passing || kind(&rest) != Kind::Usage {
            out.extend_from_slice(&rest);
        }
        out.freeze()
    }

    /// Gets where the event that is pending ends: behind a blank line.
    fn end(&mut self) -> Option<usize> {
        let from = self.seen;
        for at in memchr::memchr_iter(b'\n', &self.pending[from..]) {
            let next = &self.pending[from + at + 1..];
            if next.starts_with(b"\n") {
                return Some(from + at + 2);
            }
            if next.starts_with(b"\r\n") {
                return Some(from + at + 3);
            }
        }
        // The end may have begun.
        self.seen = self.pending.len().saturating_sub(2);
        None
    }
}

/// Tells what an event is.
fn kind(event: &[u8]) -> Kind {
    let mut data = Vec::new();
    for line in event.split(|byte| *byte == b'\n') {
        if let Some(value) = line.strip_prefix(b"data:") {
            data.extend_from_slice(value.trim_ascii());
        }
    }
    match serde_json::from_slice::<Chunk>(&data) {
        Ok(chunk) if chunk.choices.is_empty() && chunk.usage.is_some() => Kind::Usage,
        Ok(chunk) if chunk.choices.iter().any(|choice| choice.finish_reason.is_some()) => Kind::Finish,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "data: {\"choices\":[{\"delta\":{\"content\":\"{\\\"choices\\\":[],\\\"usage\\\":{}}\"}}],\"usage\":null}\n\n";
    const FILTER: &str = "data: {\"choices\":[],\"prompt_filter_results\":[{}]}\n\n";
    const USAGE: &str = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":7}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    fn passed(pieces: &[&[u8]]) -> String {
        let mut chunk = UsageChunk::default();
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| chunk.pass(&Bytes::copy_from_slice(piece))).collect();
        out.extend(chunk.finish(&Bytes::new()));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn only_the_chunk_is_taken_out_wherever_the_stream_is_cut() {
        let comment = ": keep-alive\n\n";
        for crlf in [false, true] {
            let ends = |text: String| if crlf { text.replace('\n', "\r\n") } else { text };
            let came = ends([TEXT, FILTER, comment, USAGE, DONE].concat());
            let want = ends([TEXT, FILTER, comment, DONE].concat());
            for cut in 0..=came.len() {
                assert_eq!(passed(&[&came.as_bytes()[..cut], &came.as_bytes()[cut..]]), want, "{cut}");
            }
            let single: Vec<&[u8]> = came.as_bytes().chunks(1).collect();
            assert_eq!(passed(&single), want);
        }
    }

    #[test]
    fn a_chunk_that_lacks_its_blank_line_at_the_end_is_taken_out_too() {
        assert_eq!(passed(&[TEXT.as_bytes(), USAGE.trim_end().as_bytes()]), TEXT);
        assert_eq!(passed(&[TEXT.as_bytes(), b"data: {\"cho"]), TEXT.to_owned() + "data: {\"cho");
    }

    #[test]
    fn the_event_in_which_a_choice_finishes_waits_for_the_next() {
        let finish = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
        for (next, passes) in
            [(USAGE, finish.to_owned()), (DONE, finish.to_owned() + DONE), (TEXT, finish.to_owned() + TEXT)]
        {
            let mut chunk = UsageChunk::default();
            assert_eq!(chunk.pass(&Bytes::from_static(TEXT.as_bytes())), TEXT.as_bytes());
            assert_eq!(chunk.pass(&Bytes::from(finish)), &b""[..]);
            assert_eq!(chunk.pass(&Bytes::from(next)), passes.as_bytes());
        }
        assert_eq!(passed(&[finish.as_bytes()]), finish, "where nothing comes after it");
    }

    #[test]
    fn a_whole_event_passes_at_once_and_a_long_one_as_it_comes() {
        let mut chunk = UsageChunk::default();
        assert_eq!(chunk.pass(&Bytes::from_static(TEXT.as_bytes())), TEXT.as_bytes());
        let long = Bytes::from(vec![b'x'; MOST + 1]);
        assert_eq!(chunk.pass(&long), long);
        assert_eq!(chunk.pass(&Bytes::from_static(b"y\n")), &b"y"[..]);
        // The long one ends here; what follows is looked at again.
        assert_eq!(chunk.pass(&Bytes::from_static(b"\n")), &b"\n\n"[..]);
        assert_eq!(chunk.pass(&Bytes::from_static(USAGE.as_bytes())), &b""[..]);
        assert_eq!(chunk.finish(&Bytes::from_static(DONE.as_bytes())), DONE.as_bytes());
    }
}

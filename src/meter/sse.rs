//! Server-sent events, incrementally: bytes in, the data of each event out.
//!
//! As in the WHATWG HTML standard ("9.2.6 Interpreting an event stream"): lines end with LF, CR or CRLF, one leading
//! BOM, comments, several data lines joined by LF. Event names are not looked at: the APIs repeat them in the JSON.

use super::bound::{Bound, KEPT};
use super::usage::Unreadable;

/// Where one stream stands.
#[derive(Default)]
pub(crate) struct Sse {
    /// The line that has no end yet.
    line: Vec<u8>,
    /// Data of the event that has no blank line yet.
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a CR: an LF now belongs to it.
    after_cr: bool,
    /// A first line was seen, so a BOM has no meaning any more.
    started: bool,
}

/// Takes one event's data.
pub(crate) type OnEvent<'a> = dyn FnMut(&[u8]) -> Result<(), Unreadable> + 'a;

impl Sse {
    /// Takes bytes, calls `on_event` with the data of every event that they complete.
    ///
    /// # Errors
    /// [`Unreadable`] where an event is too large, or as `on_event` says.
    pub(crate) fn feed(&mut self, bytes: &[u8], on_event: &mut OnEvent<'_>) -> Result<(), Unreadable> {
        self.feed_within(bytes, &mut Bound::default(), on_event)
    }

    /// As [`Sse::feed`], keeping what `bound` lets it.
    pub(super) fn feed_within(
        &mut self,
        mut bytes: &[u8],
        bound: &mut Bound,
        on_event: &mut OnEvent<'_>,
    ) -> Result<(), Unreadable> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) else {
                self.keeps(bytes.len(), bound)?;
                self.line.extend_from_slice(bytes);
                return Ok(());
            };
            self.after_cr = bytes[end] == b'\r';
            if self.line.is_empty() {
                self.take_line(&bytes[..end], bound, on_event)?;
            } else {
                self.keeps(end, bound)?;
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.line = self.take_whole(line, bound, on_event)?;
            }
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// Takes note of the end; hands out the data that lacks its blank line, whole or not.
    ///
    /// # Errors
    /// As `on_event` says.
    pub(crate) fn finish(&mut self, on_event: &mut OnEvent<'_>) -> Result<(), Unreadable> {
        let line = std::mem::take(&mut self.line);
        let mut bound = Bound::default();
        if !line.is_empty() {
            self.take_whole(line, &mut bound, on_event)?;
        }
        self.dispatch(&mut bound, on_event)
    }

    /// Takes a line that came in pieces; gets what is kept allocated for the next one. A large one becomes the data, without a copy.
    fn take_whole(
        &mut self,
        mut line: Vec<u8>,
        bound: &mut Bound,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Vec<u8>, Unreadable> {
        if line.len() > KEPT && self.started && !self.has_data && line.starts_with(b"data:") {
            line.drain(..if line.get(5) == Some(&b' ') { 6 } else { 5 });
            self.has_data = true;
            self.data = line;
            return Ok(Vec::new());
        }
        self.take_line(&line, bound, on_event)?;
        line.clear();
        line.shrink_to(KEPT);
        Ok(line)
    }

    fn take_line(&mut self, line: &[u8], bound: &mut Bound, on_event: &mut OnEvent<'_>) -> Result<(), Unreadable> {
        let bom = if self.started { &[][..] } else { &[0xef, 0xbb, 0xbf] };
        self.started = true;
        let line = line.strip_prefix(bom).unwrap_or(line);
        if line.is_empty() {
            return self.dispatch(bound, on_event);
        }
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        if &line[..colon] != b"data" {
            return Ok(());
        }
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        self.keeps(value.len() + 1, bound)?;
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        Ok(())
    }

    fn dispatch(&mut self, bound: &mut Bound, on_event: &mut OnEvent<'_>) -> Result<(), Unreadable> {
        if !std::mem::take(&mut self.has_data) {
            return Ok(());
        }
        let done = on_event(&self.data);
        let length = self.data.len();
        self.data.clear();
        self.data.shrink_to(KEPT);
        bound.taken(length, done)
    }

    /// Says that so many bytes more are kept.
    fn keeps(&self, more: usize, bound: &mut Bound) -> Result<(), Unreadable> {
        bound.keeps(self.line.len() + self.data.len() + more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(chunks: &[&[u8]]) -> Vec<String> {
        let mut out = Vec::new();
        let mut sse = Sse::default();
        let mut take = |data: &[u8]| {
            out.push(String::from_utf8_lossy(data).into_owned());
            Ok(())
        };
        for chunk in chunks {
            sse.feed(chunk, &mut take).unwrap();
        }
        sse.finish(&mut take).unwrap();
        out
    }

    #[test]
    fn every_kind_of_line_end_ends_a_line() {
        for end in ["\n", "\r", "\r\n"] {
            let text = format!("event: a{end}data: one{end}{end}data: two{end}{end}");
            assert_eq!(events(&[text.as_bytes()]), ["one", "two"], "{end:?}");
        }
    }

    #[test]
    fn a_crlf_split_between_chunks_is_one_line_end() {
        assert_eq!(events(&[b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n", b"data: c\n\n"]), ["a\nb", "c"]);
    }

    #[test]
    fn bom_comments_and_other_fields_are_no_data() {
        let text = "\u{feff}data:x\n: comment\nid: 7\nretry: 1\ndata\ndata: y\n\n\n\ndatum: z\n\n";
        assert_eq!(events(&[text.as_bytes()]), ["x\n\ny"]);
        assert_eq!(events(&[b"\xef", b"\xbb\xbfdata: x\n\n"]), ["x"]);
    }

    #[test]
    fn an_event_over_the_bound_is_refused_and_one_below_is_not_kept_allocated() {
        let mut sse = Sse::default();
        let mut seen = 0;
        let mut take = |data: &[u8]| {
            seen = data.len();
            Ok(())
        };
        sse.feed(b"data: ", &mut take).unwrap();
        for _ in 0..5 {
            sse.feed(&vec![b'x'; 1 << 20], &mut take).unwrap();
        }
        sse.feed(b"\n\n", &mut take).unwrap();
        assert!(sse.line.capacity() <= KEPT && sse.data.capacity() <= KEPT);
        sse.feed(b"data: ", &mut take).unwrap();
        let mut fed = 0;
        while sse.feed(&vec![b'x'; 1 << 20], &mut take).is_ok() {
            fed += 1;
            assert!(fed <= 16, "never refused");
        }
        assert_eq!((seen, fed), (5 << 20, 15));
    }
}

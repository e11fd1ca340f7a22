//! A body that is one JSON text: collected, bounded, handed on when its outermost bracket closes.
//!
//! The end is found by counting brackets outside strings, so the usage is known with the last byte of the object and
//! not only when the connection says so. Whether it is JSON is for the parser to say.

use super::bound::Bound;
use super::sse::OnEvent;
use super::usage::Unreadable;

/// Where one body stands.
#[derive(Default)]
pub(super) struct Json {
    body: Vec<u8>,
    depth: u32,
    in_string: bool,
    escaped: bool,
    closed: bool,
}

impl Json {
    /// Takes bytes, calls `on_body` once with the whole text.
    ///
    /// # Errors
    /// [`Unreadable`] where the body is over 16 MiB or goes on after its end, or as `on_body` says.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        bound: &mut Bound,
        on_body: &mut OnEvent<'_>,
    ) -> Result<(), Unreadable> {
        let end = if self.closed { 0 } else { self.scan(bytes) };
        if bytes[end..].iter().any(|b| !b.is_ascii_whitespace()) {
            return Err(Unreadable::Form);
        }
        bound.keeps(self.body.len() + end)?;
        self.body.extend_from_slice(&bytes[..end]);
        if self.closed && !self.body.is_empty() {
            let done = on_body(&std::mem::take(&mut self.body));
            bound.keeps(0)?;
            return done;
        }
        Ok(())
    }

    /// Follows brackets and strings; returns how many of `bytes` belong to the text.
    fn scan(&mut self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        self.closed = true;
                        return at + 1;
                    }
                }
                _ => {}
            }
        }
        bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_handed_on_with_its_last_bracket_whatever_its_strings_hold() {
        let text = br#"{"a":"}\"]{","b":[{"c":"\\"}]}"#;
        for cut in 0..text.len() {
            let mut got = Vec::new();
            let (mut json, bound) = (Json::default(), &mut Bound::default());
            let mut take = |body: &[u8]| {
                got.push(body.to_vec());
                Ok(())
            };
            json.feed(&text[..cut], bound, &mut take).unwrap();
            json.feed(&text[cut..], bound, &mut take).unwrap();
            json.feed(b" \n", bound, &mut take).unwrap();
            assert!(json.feed(b"{", bound, &mut take).is_err(), "a second text is not part of a body");
            assert_eq!(got, [text.to_vec()]);
        }
    }

    #[test]
    fn a_body_over_the_bound_is_refused() {
        let (mut json, bound) = (Json::default(), &mut Bound::default());
        let mut take = |_: &[u8]| Ok(());
        json.feed(b"{\"", bound, &mut take).unwrap();
        for _ in 0..15 {
            json.feed(&vec![b'x'; 1 << 20], bound, &mut take).unwrap();
        }
        assert!(json.feed(&vec![b'x'; 1 << 20], bound, &mut take).is_err());
    }
}

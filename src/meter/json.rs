//! A body that is one JSON text: collected, bounded, handed on when its outermost bracket closes.
//!
//! The end is found by counting brackets outside strings, so the usage is known with the last byte of the object and
//! not only when the connection says so. A body that is a list is a stream of its elements (Gemini without `alt=sse`): each is
//! handed on when its own bracket closes. Whether it is JSON is for the parser to say.

use super::bound::Bound;
use super::usage::Unreadable;

/// What is handed on.
#[derive(Debug)]
pub(super) enum Text<'a> {
    /// The whole text, which is no list.
    Body(&'a [u8]),
    /// An element of the list that the text is.
    Element(&'a [u8]),
}

/// Takes what is handed on.
pub(super) type OnText<'a> = dyn FnMut(Text<'_>) -> Result<(), Unreadable> + 'a;

/// Where one body stands.
#[derive(Default)]
pub(super) struct Json {
    /// What has come of the text that has not come whole.
    kept: Vec<u8>,
    /// A text has begun and not ended.
    inside: bool,
    depth: u32,
    in_string: bool,
    escaped: bool,
    is_list: bool,
    closed: bool,
}

impl Json {
    /// Takes bytes, calls `on_text` once with the whole text, or with each element of a list that has brackets.
    ///
    /// # Errors
    /// [`Unreadable`] where a text is over 16 MiB or the body goes on after its end, or as `on_text` says.
    pub(super) fn feed(&mut self, bytes: &[u8], bound: &mut Bound, on_text: &mut OnText<'_>) -> Result<(), Unreadable> {
        let mut start = 0;
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
                byte if byte.is_ascii_whitespace() => {}
                _ if self.closed => return Err(Unreadable::Form),
                b'"' => self.in_string = true,
                b'[' if self.depth == 0 => (self.is_list, self.depth) = (true, 1),
                b'{' | b'[' => {
                    if !self.inside {
                        (self.inside, start) = (true, at);
                    }
                    self.depth = self.depth.saturating_add(1);
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.closed = self.depth == 0;
                    if self.inside && self.depth == u32::from(self.is_list) {
                        self.inside = false;
                        self.keep(&bytes[start..=at], bound)?;
                        let text = std::mem::take(&mut self.kept);
                        let done = on_text(if self.is_list { Text::Element(&text) } else { Text::Body(&text) });
                        bound.taken(text.len(), done)?;
                    }
                }
                _ => {}
            }
        }
        if self.inside { self.keep(&bytes[start..], bound) } else { Ok(()) }
    }

    fn keep(&mut self, piece: &[u8], bound: &mut Bound) -> Result<(), Unreadable> {
        bound.keeps(self.kept.len() + piece.len())?;
        self.kept.extend_from_slice(piece);
        Ok(())
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
            let mut take = |text: Text<'_>| {
                let Text::Body(body) = text else { panic!("{text:?}") };
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
    fn each_element_of_a_list_is_handed_on_with_its_own_last_bracket() {
        let text = br#" [ {"a":"],["} , {"b":[1,{"c":2}]},"x",3, {} ] "#;
        for cut in 0..text.len() {
            let (mut json, bound, mut got) = (Json::default(), &mut Bound::default(), Vec::new());
            let mut take = |text: Text<'_>| {
                let Text::Element(element) = text else { panic!("{text:?}") };
                got.push(String::from_utf8(element.to_vec()).unwrap());
                Ok(())
            };
            json.feed(&text[..cut], bound, &mut take).unwrap();
            json.feed(&text[cut..], bound, &mut take).unwrap();
            assert!(json.feed(b"x", bound, &mut take).is_err(), "nothing belongs behind the list");
            assert_eq!(got, [r#"{"a":"],["}"#, r#"{"b":[1,{"c":2}]}"#, "{}"], "{cut}");
        }
    }

    #[test]
    fn a_body_over_the_bound_is_refused() {
        let (mut json, bound) = (Json::default(), &mut Bound::default());
        let mut take = |_: Text<'_>| Ok(());
        json.feed(b"{\"", bound, &mut take).unwrap();
        for _ in 0..15 {
            json.feed(&vec![b'x'; 1 << 20], bound, &mut take).unwrap();
        }
        assert!(json.feed(&vec![b'x'; 1 << 20], bound, &mut take).is_err());
    }
}

//! The steps through a JSON text, in the order in which they stand there: brackets, keys, strings, everything else.
//!
//! Pure, and copies nothing. Whether the text is JSON is for a parser to say, before; of what is none, the steps mean nothing, but they end.

use std::ops::Range;

use memchr::memchr2;

/// One step. What it spans are bytes of the text; of a string without its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// An object or a list begins.
    Open {
        /// Where its bracket stands.
        at: usize,
        /// Whether it is a list.
        list: bool,
    },
    /// One ends; behind its bracket.
    Close(usize),
    /// A key of an object.
    Key(Range<usize>),
    /// A string that is a value.
    Text(Range<usize>),
    /// A number or a word.
    Other(Range<usize>),
}

/// Deepest brackets that are followed; the parsers stop there, too.
pub(super) const DEEPEST: usize = 128;

/// Where somebody stands in a text.
pub(super) struct Walk<'a> {
    json: &'a [u8],
    at: usize,
    /// The brackets around, outermost first: whether each is a list.
    around: Vec<bool>,
    /// The next string is a key.
    key_next: bool,
}

impl<'a> Walk<'a> {
    /// Stands before `json`.
    pub(super) fn new(json: &'a [u8]) -> Walk<'a> {
        Walk { json, at: 0, around: Vec::with_capacity(16), key_next: false }
    }

    /// Gets the string that begins at `from`, behind its quote.
    fn string(&mut self, from: usize) -> Range<usize> {
        let mut at = from;
        while let Some(found) = self.json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
            at += found;
            if self.json[at] == b'"' {
                self.at = at + 1;
                return from..at;
            }
            at += 2;
        }
        self.at = self.json.len();
        from..self.at
    }
}

impl Iterator for Walk<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            let at = self.at;
            let byte = *self.json.get(at)?;
            self.at += 1;
            match byte {
                b'"' => {
                    let key = self.key_next;
                    let range = self.string(at + 1);
                    return Some(if key { Step::Key(range) } else { Step::Text(range) });
                }
                b'{' | b'[' => {
                    if self.around.len() == DEEPEST {
                        self.at = self.json.len();
                        return None;
                    }
                    let list = byte == b'[';
                    self.around.push(list);
                    self.key_next = !list;
                    return Some(Step::Open { at, list });
                }
                b'}' | b']' => {
                    self.around.pop();
                    self.key_next = false;
                    return Some(Step::Close(at + 1));
                }
                b',' => self.key_next = self.around.last() == Some(&false),
                b':' => self.key_next = false,
                byte if byte.is_ascii_whitespace() => {}
                _ => {
                    let ends = |byte: &u8| {
                        matches!(byte, b',' | b'}' | b']' | b'"' | b'{' | b'[' | b':') || byte.is_ascii_whitespace()
                    };
                    let rest = &self.json[at..];
                    self.at = at + rest.iter().position(ends).unwrap_or(rest.len());
                    return Some(Step::Other(at..self.at));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_and_strings_are_told_apart() {
        let json = br#"{"a": "x\"y", "b": ["k", {"c":-1.5}, true], "": {}}"#;
        let said: Vec<String> = Walk::new(json)
            .map(|step| match step {
                Step::Open { list, .. } => (if list { "[" } else { "{" }).to_owned(),
                Step::Close(_) => "/".to_owned(),
                Step::Key(range) => format!("key {}", String::from_utf8_lossy(&json[range])),
                Step::Text(range) => format!("text {}", String::from_utf8_lossy(&json[range])),
                Step::Other(range) => String::from_utf8_lossy(&json[range]).into_owned(),
            })
            .collect();
        let wanted = [
            "{",
            "key a",
            r#"text x\"y"#,
            "key b",
            "[",
            "text k",
            "{",
            "key c",
            "-1.5",
            "/",
            "true",
            "/",
            "key ",
            "{",
            "/",
            "/",
        ];
        assert_eq!(said, wanted);
    }

    proptest! {
        /// Whatever it is, it ends, and no step leaves the text.
        #[test]
        fn steps_end_and_stay_inside(json in "[\\[\\]{}\",:\\\\ a1]{0,200}") {
            let mut last = 0;
            for step in Walk::new(json.as_bytes()) {
                let (Step::Key(range) | Step::Text(range) | Step::Other(range)) = step else { continue };
                prop_assert!(range.start >= last && range.end <= json.len());
                last = range.end;
            }
        }
    }
}

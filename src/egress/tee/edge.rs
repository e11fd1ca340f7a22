//! Where the events of a stream end: a word of the plane's own can stand there, and nowhere else.
//!
//! It follows what was released and keeps a few bytes. It changes nothing.

use bytes::Bytes;

use crate::types::Api;

/// Where in its stream what was released ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::egress) enum Edge {
    /// No stream, or one whose events are not known.
    Unknown,
    /// Server-sent events: the last bytes.
    Lines([u8; 3]),
    /// Amazon's event stream.
    Messages {
        /// The length of a message, as it comes.
        head: [u8; 4],
        have: usize,
        /// What of the message is still to come.
        left: u64,
    },
    /// A JSON list: Gemini's stream without `alt=sse`.
    List {
        depth: u32,
        text: bool,
        escaped: bool,
        /// The last byte that was no blank.
        last: u8,
    },
}

impl Edge {
    /// Makes it for an answer of `api` that streams.
    pub(in crate::egress) fn of(api: Api, content_type: Option<&str>) -> Edge {
        let kind = content_type.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        let is = |name: &str| kind.eq_ignore_ascii_case(name);
        match api {
            Api::BedrockConverse | Api::BedrockInvoke => Edge::Messages { head: [0; 4], have: 0, left: 0 },
            Api::Gemini if is("application/json") => Edge::List { depth: 0, text: false, escaped: false, last: 0 },
            _ => Edge::Lines(*b"\n\n\n"),
        }
    }

    /// Follows what is released.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) {
        match self {
            Edge::Unknown => {}
            Edge::Lines(tail) => {
                for byte in bytes.iter().skip(bytes.len().saturating_sub(tail.len())) {
                    tail.rotate_left(1);
                    tail[2] = *byte;
                }
            }
            Edge::Messages { head, have, left } => {
                while let Some(first) = bytes.first() {
                    if *left > 0 {
                        let now = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                        *left -= now as u64;
                        bytes = bytes.get(now..).unwrap_or_default();
                        continue;
                    }
                    head[*have] = *first;
                    *have += 1;
                    bytes = bytes.get(1..).unwrap_or_default();
                    if *have == head.len() {
                        *have = 0;
                        *left = u64::from(u32::from_be_bytes(*head)).saturating_sub(4);
                    }
                }
            }
            Edge::List { depth, text, escaped, last } => {
                for byte in bytes {
                    match byte {
                        _ if *text && *escaped => *escaped = false,
                        b'\\' if *text => *escaped = true,
                        b'"' => *text = !*text,
                        _ if *text => {}
                        b'[' | b'{' => *depth += 1,
                        b']' | b'}' => *depth = depth.saturating_sub(1),
                        b' ' | b'\t' | b'\r' | b'\n' => continue,
                        _ => {}
                    }
                    *last = *byte;
                }
            }
        }
    }

    /// Tells whether what was released ends between two events.
    pub(super) fn is_between(&self) -> bool {
        match self {
            Edge::Unknown => false,
            Edge::Lines(tail) => tail.ends_with(b"\n\n") || tail == b"\n\r\n" || tail.ends_with(b"\r\r"),
            Edge::Messages { have, left, .. } => (*have, *left) == (0, 0),
            Edge::List { depth: 0, last, .. } => *last == 0,
            Edge::List { depth, text, last, .. } => *depth == 1 && !text && matches!(last, b'[' | b',' | b'}'),
        }
    }

    /// Gets where in `bytes`, which come next, an event ends first.
    pub(super) fn first_end(&self, bytes: &[u8]) -> Option<usize> {
        let mut at = self.clone();
        let end = bytes.iter().position(|byte| {
            at.follow(std::slice::from_ref(byte));
            at.is_between()
        })?;
        Some(end + 1)
    }

    /// Makes the end of the stream of its last event, which is `lines` where it is one of server-sent events and `object` of a list.
    pub(super) fn last(&self, Last { lines, object }: Last) -> Bytes {
        match self {
            Edge::List { last: 0, .. } => format!("[{object}]").into(),
            Edge::List { last: b'}', .. } => format!(",{object}]").into(),
            Edge::List { .. } => format!("{object}]").into(),
            Edge::Unknown | Edge::Lines(_) | Edge::Messages { .. } => lines.into(),
        }
    }
}

/// A last word: as it ends a stream of events, and as an object of a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::egress) struct Last {
    pub(in crate::egress) lines: Vec<u8>,
    pub(in crate::egress) object: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(edge: &Edge, bytes: &[u8]) -> Vec<usize> {
        let mut at = edge.clone();
        let mut ends = Vec::new();
        for (n, byte) in bytes.iter().enumerate() {
            at.follow(std::slice::from_ref(byte));
            if at.is_between() {
                ends.push(n + 1);
            }
        }
        // The same in pieces of any size.
        for size in [2, 3, 7] {
            let (mut at, mut have) = (edge.clone(), 0);
            for piece in bytes.chunks(size) {
                at.follow(piece);
                have += piece.len();
                assert_eq!(at.is_between(), ends.contains(&have), "{size} {have}");
            }
        }
        ends
    }

    #[test]
    fn events_of_lines_end_behind_a_blank_one() {
        let edge = Edge::of(Api::Anthropic, Some("text/event-stream; charset=utf-8"));
        assert!(edge.is_between(), "nothing has gone out");
        assert_eq!(ends(&edge, b"data: a\n\nevent: b\r\ndata: c\r\n\r\n"), [9, 30]);
        assert_eq!(edge.first_end(b"data: a\n\nda"), Some(9));
        assert_eq!(edge.first_end(b"data: a\n"), None);
        assert_eq!(Edge::of(Api::OpenaiResponses, None), edge);
    }

    #[test]
    fn messages_end_where_their_length_says_so() {
        use crate::meter::event_stream::message;
        let (one, two) = (message(&[(":event-type", "a")], b"{}"), message(&[], b"\n\n[]"));
        let edge = Edge::of(Api::BedrockConverse, Some("application/vnd.amazon.eventstream"));
        assert_eq!(ends(&edge, &[one.clone(), two.clone()].concat()), [one.len(), one.len() + two.len()]);
    }

    #[test]
    fn elements_of_a_list_end_with_their_braces() {
        let edge = Edge::of(Api::Gemini, Some("application/json"));
        let list = br#"[{"a":["}",{"b":"\"}"}]}, {}]"#;
        assert_eq!(ends(&edge, list), [1, 24, 25, 26, 28]);
        let word = || Last { lines: b"x".to_vec(), object: "{}".to_owned() };
        for (gone, whole) in [("", "[{}]"), ("[", "[{}]"), ("[{}", "[{},{}]"), ("[{},", "[{},{}]")] {
            let mut at = edge.clone();
            at.follow(gone.as_bytes());
            assert!(at.is_between());
            assert_eq!([gone.as_bytes(), &at.last(word())].concat(), whole.as_bytes());
        }
        assert_eq!(Edge::of(Api::Gemini, Some("text/event-stream")).last(word()), "x");
    }
}

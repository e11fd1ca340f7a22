//! From decoded bytes to events: finds out the framing, takes it off, hands each JSON text to the normaliser.
//!
//! Keeps the one rule on failure: after one, nothing more is read, and figures that were final before it stand.

use super::bound::Bound;
use super::event_stream::{EventStream, Kind};
use super::json::{Json, Text};
use super::sse::Sse;
use super::usage::{Facts, Normaliser, Unreadable};

const BOM: &[u8] = &[0xef, 0xbb, 0xbf];

/// Blank bytes before the first other byte; more than this and it is no JSON body.
const MAX_BLANK: usize = 4096;

/// Framing and normaliser of one answer.
#[derive(Default)]
pub(super) struct Pipe {
    framing: Framing,
    bound: Bound,
    /// `None` only in a pipe that was [taken](Pipe::take).
    normaliser: Option<Box<dyn Normaliser>>,
    none: Facts,
    dead: bool,
    broken: bool,
    /// It was, since more came than may be kept.
    bounded: bool,
    /// What came and says nothing: an event that could not be read, a whole body without figures. Unit: bytes.
    lost: u64,
}

#[derive(Default)]
enum Framing {
    #[default]
    Closed,
    Sniff(Vec<u8>),
    Sse(Sse),
    Json(Json),
    EventStream(EventStream),
    /// Each piece is one event, taken out of its message by others.
    Messages,
}

impl Pipe {
    /// Makes a pipe; `sse` where the framing is known to be that.
    pub(super) fn new(normaliser: Box<dyn Normaliser>, sse: bool) -> Pipe {
        let framing = if sse { Framing::Sse(Sse::default()) } else { Framing::Sniff(Vec::new()) };
        Pipe { framing, normaliser: Some(normaliser), ..Pipe::default() }
    }

    /// Makes a pipe whose every piece is one event.
    pub(super) fn of_messages(normaliser: Box<dyn Normaliser>) -> Pipe {
        Pipe { framing: Framing::Messages, normaliser: Some(normaliser), ..Pipe::default() }
    }

    /// Gets what may be kept.
    pub(super) fn bound(&mut self) -> &mut Bound {
        &mut self.bound
    }

    /// Moves the pipe out of its place.
    pub(super) fn take(&mut self) -> Pipe {
        std::mem::take(self)
    }

    /// Gets what the normaliser knows.
    pub(super) fn facts(&self) -> &Facts {
        self.normaliser.as_ref().map_or(&self.none, |n| n.facts())
    }

    /// Tells whether reading failed before the final word.
    pub(super) fn broken(&self) -> bool {
        self.broken
    }

    /// Gets how much came and says nothing: an event that could not be read, a whole body without figures. Unit: bytes.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Tells whether it was because more came than may be kept.
    pub(super) fn bounded(&self) -> bool {
        self.broken && self.bounded
    }

    /// Stops reading, since more came than may be kept.
    pub(super) fn pass_bound(&mut self) {
        self.bounded = true;
        self.fail();
    }

    /// Stops reading. What was final before stays final.
    pub(super) fn fail(&mut self) {
        if !self.dead {
            self.lost = self.lost.saturating_add(self.bound.unread());
        }
        self.broken |= !self.facts().terminal;
        self.dead = true;
        self.framing = Framing::Closed;
        // Nothing can be kept of nothing.
        let _ = self.bound.keeps(0);
    }

    /// Takes decoded bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let Some(normaliser) = self.normaliser.as_mut().filter(|_| !self.dead) else { return };
        let (bound, lost) = (&mut self.bound, &mut self.lost);
        let done = match &mut self.framing {
            Framing::Closed => Ok(()),
            Framing::Sse(sse) => sse.feed_within(bytes, bound, &mut |data| event(normaliser.as_mut(), data)),
            Framing::Json(json) => json.feed(bytes, bound, &mut |text| match text {
                Text::Body(body) => {
                    normaliser.body(body)?;
                    // It is charged an estimate, which must not be less than what there is to see.
                    if normaliser.facts().tokens.is_none() {
                        *lost = u64::try_from(body.len()).unwrap_or(u64::MAX);
                    }
                    Ok(())
                }
                Text::Element(element) => normaliser.event(element),
            }),
            Framing::EventStream(stream) => stream.feed(bytes, bound, &mut |kind, payload| match kind {
                Kind::Event(_) => event(normaliser.as_mut(), payload),
                // Nothing of it is usage, and nothing comes after it.
                Kind::Exception => Ok(()),
            }),
            Framing::Messages => event(normaliser.as_mut(), bytes),
            Framing::Sniff(head) => {
                head.extend_from_slice(bytes);
                let Some(framing) = sniff(head) else { return };
                let head = std::mem::take(head);
                self.framing = framing;
                return self.feed(head.strip_prefix(BOM).unwrap_or(&head));
            }
        };
        match done {
            Ok(()) => {}
            Err(Unreadable::Bound) => self.pass_bound(),
            Err(Unreadable::Form | Unreadable::Figures) => self.fail(),
        }
    }

    /// Takes note of the end.
    pub(super) fn finish(&mut self) {
        let Some(normaliser) = self.normaliser.as_mut().filter(|_| !self.dead) else { return };
        let done = match &mut self.framing {
            Framing::Sse(sse) => sse.finish(&mut |data| last_event(normaliser.as_mut(), data)),
            Framing::Closed | Framing::Json(_) | Framing::EventStream(_) | Framing::Messages | Framing::Sniff(_) => {
                Ok(())
            }
        };
        if done.is_err() {
            self.fail();
        }
        self.dead = true;
    }
}

/// Decides the framing by the first byte that is not blank; `None` while there is none.
fn sniff(head: &[u8]) -> Option<Framing> {
    if head.len() < BOM.len() && BOM.starts_with(head) {
        return None;
    }
    let text = head.strip_prefix(BOM).unwrap_or(head);
    match text.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{' | b'[') => Some(Framing::Json(Json::default())),
        // The length of a message of less than 16 MiB.
        Some(0) => Some(Framing::EventStream(EventStream::default())),
        Some(_) => Some(Framing::Sse(Sse::default())),
        None if text.len() > MAX_BLANK => Some(Framing::Sse(Sse::default())),
        None => None,
    }
}

/// Hands one event to the normaliser. `[DONE]` and empty data are no JSON and mean nothing.
fn event(normaliser: &mut dyn Normaliser, data: &[u8]) -> Result<(), Unreadable> {
    let data = data.trim_ascii();
    if data.is_empty() || data == b"[DONE]" { Ok(()) } else { normaliser.event(data) }
}

/// Hands on an event that the end of the body has cut short of its blank line: read if whole, else dropped.
fn last_event(normaliser: &mut dyn Normaliser, data: &[u8]) -> Result<(), Unreadable> {
    if serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok() { event(normaliser, data) } else { Ok(()) }
}

//! Events of a WebSocket of the Responses API, on which many responses are under way: which of them an event is about.
//!
//! Pure. The rules, from OpenAI's API reference: events are those of the stream; responses of one lane (`stream_id`, absent in
//! the one that has no name) are answered in the order in which they were asked for; a successor that steering makes begins when its
//! target has ended. What cannot be brought home to a response that was asked for is [`Misplaced`]: it spends tokens that nobody
//! has reserved, or ends nobody knows which.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Deserialize;

use super::glance::Whole;

/// Responses that may still be gone on from.
const KNOWN: usize = 1024;
/// Longest id and name of a lane: they are kept, and compared. Unit: bytes.
const MAX_NAME: usize = 256;

/// What an event does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Begins a response, or says that it has begun.
    Begins,
    /// Ends one.
    Ends,
    /// Brings output.
    Brings,
    /// Refuses or breaks off a response, with this status.
    Fails(u16),
    /// Says that what steering wanted has no response of its own.
    SteersNot,
    /// Nothing that spends tokens.
    Tells,
}

/// One event, as far as it matters for its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it does.
    pub does: Does,
    /// Its lane.
    pub lane: Option<String>,
    /// The response that it names.
    pub id: Option<String>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    stream_id: Option<String>,
    #[serde(default)]
    response_id: Option<String>,
    #[serde(default)]
    response: Option<Named>,
    #[serde(default)]
    steer: Option<Steered>,
    #[serde(default)]
    status: Whole,
}

#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    id: Option<String>,
}

#[derive(Deserialize)]
struct Steered {
    #[serde(default)]
    previous_response_id: Option<String>,
}

impl Event {
    /// Reads an event; `None` where it is none.
    pub fn read(text: &[u8]) -> Option<Event> {
        let wire: Wire<'_> = serde_json::from_slice(text).ok()?;
        let does = match wire.kind.as_ref() {
            "response.created" | "response.in_progress" | "response.queued" => Does::Begins,
            "response.completed" | "response.incomplete" | "response.failed" | "response.done" => Does::Ends,
            "response.cancelled" => Does::Ends,
            "response.steer.failed" | "response.steer.pending" => Does::SteersNot,
            "error" => {
                let status = wire.status.0.and_then(|status| u16::try_from(status).ok());
                Does::Fails(status.filter(|status| (400..600).contains(status)).unwrap_or(400))
            }
            kind if kind.starts_with("response.") && kind.ends_with(".delta") => Does::Brings,
            _ => Does::Tells,
        };
        let steered = wire.steer.and_then(|steer| steer.previous_response_id).filter(|_| does == Does::SteersNot);
        let id = steered.or(wire.response.and_then(|response| response.id)).or(wire.response_id);
        let fits = |name: &Option<String>| name.as_ref().is_none_or(|name| name.len() <= MAX_NAME);
        (fits(&id) && fits(&wire.stream_id)).then_some(Event { does, lane: wire.stream_id, id })
    }
}

/// A response that was asked for.
#[derive(Debug)]
pub struct Open<T> {
    lane: Option<String>,
    /// Its id, once the server has said it.
    id: Option<String>,
    /// The response that it is to be the steered successor of.
    target: Option<String>,
    /// The server said that it broke off: it may say so once more.
    broken: bool,
    /// What is kept of it.
    pub kept: T,
}

/// What an event is about.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// The response at this place.
    At(usize),
    /// None: it spends nothing.
    None,
}

/// An event that cannot be brought home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// It is of a response that nobody has asked for.
    #[error("the server speaks of a response that was not asked for")]
    Unasked,
    /// It ends a response, and does not say which of several.
    #[error("the server does not say which response its error is about")]
    Ambiguous,
}

/// A response that may be gone on from.
#[derive(Debug)]
struct Known {
    id: String,
    /// What whoever goes on from it takes along. Unit: tokens.
    tokens: u64,
    lane: Option<String>,
}

/// The responses of one socket.
#[derive(Debug)]
pub struct Lanes<T> {
    open: Vec<Open<T>>,
    /// Responses of this socket.
    known: VecDeque<Known>,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Lanes { open: Vec::new(), known: VecDeque::new() }
    }
}

impl<T> Lanes<T> {
    /// Adds a response that is about to be asked for.
    pub fn ask(&mut self, lane: Option<String>, kept: T) {
        self.open.push(Open { lane, id: None, target: None, broken: false, kept });
    }

    /// Adds the successor that steering `target` makes.
    pub fn steer(&mut self, target: &str, kept: T) {
        let lane = self.lane_of(target);
        self.open.push(Open { lane, id: None, target: Some(target.to_owned()), broken: false, kept });
    }

    /// Gets the lane of the response that is called `id`.
    fn lane_of(&self, id: &str) -> Option<String> {
        match self.open.iter().find(|open| open.id.as_deref() == Some(id)) {
            Some(open) => open.lane.clone(),
            None => self.known.iter().rev().find(|known| known.id == id).and_then(|known| known.lane.clone()),
        }
    }

    /// Gets the responses that have not ended.
    pub fn open(&self) -> usize {
        self.open.iter().filter(|open| !open.broken).count()
    }

    /// Gets the responses that are kept: those that have not ended, and those that broke off and that the server may speak of
    /// once more.
    pub fn kept(&self) -> usize {
        self.open.len()
    }

    /// Gets what is kept of the response at `at`.
    pub fn at(&mut self, at: usize) -> Option<&mut T> {
        self.open.get_mut(at).map(|open| &mut open.kept)
    }

    /// Gets what is kept of the response that is called `id`, while it is under way.
    pub fn called(&self, id: &str) -> Option<&T> {
        self.open.iter().find(|open| open.id.as_deref() == Some(id)).map(|open| &open.kept)
    }

    /// Gets what going on from a response of this socket takes along, where it is one. Unit: tokens.
    pub fn context(&self, id: &str) -> Option<u64> {
        self.known.iter().rev().find(|known| known.id == id).map(|known| known.tokens)
    }

    /// Says what going on from `id` takes along.
    pub fn remember(&mut self, id: &str, tokens: u64) {
        if let Some(known) = self.known.iter_mut().rev().find(|known| known.id == id) {
            known.tokens = tokens;
            return;
        }
        if self.known.len() >= KNOWN {
            self.known.pop_front();
        }
        self.known.push_back(Known { id: id.to_owned(), tokens, lane: self.lane_of(id) });
    }

    /// Takes out the response at `at`, which has ended.
    pub fn end(&mut self, at: usize) -> Option<Open<T>> {
        (at < self.open.len()).then(|| self.open.remove(at))
    }

    /// Notes that the response at `at` broke off; it stays where it is until its lane goes on.
    pub fn breaks(&mut self, at: usize) {
        if let Some(open) = self.open.get_mut(at) {
            open.broken = true;
        }
    }

    /// Tells whether the server has begun with the response at `at`.
    pub fn has_begun(&self, at: usize) -> bool {
        self.open.get(at).is_some_and(|open| open.id.is_some())
    }

    /// Gets what an event is about, and takes note of the id that it says.
    ///
    /// # Errors
    /// [`Misplaced`].
    pub fn place(&mut self, event: &Event) -> Result<Place, Misplaced> {
        let find = |wanted: &dyn Fn(&Open<T>) -> bool| self.open.iter().position(wanted);
        let here = |open: &Open<T>| open.lane == event.lane;
        let called = event.id.as_deref().and_then(|id| find(&|open| open.id.as_deref() == Some(id)));
        let waiting = || {
            let under_way = |target: &str| self.open.iter().any(|open| open.id.as_deref() == Some(target));
            let next = |open: &Open<T>| open.id.is_none() && here(open);
            let successor = find(&|open| next(open) && open.target.as_deref().is_some_and(|target| !under_way(target)));
            successor.or_else(|| find(&|open| next(open) && open.target.is_none()))
        };
        let only = || (self.open.len() == 1).then_some(0);
        let current = || find(&|open| open.id.is_some() && !open.broken && here(open));
        let found = match event.does {
            Does::SteersNot => {
                return Ok(event
                    .id
                    .as_deref()
                    .and_then(|id| find(&|open| open.id.is_none() && open.target.as_deref() == Some(id)))
                    .map_or(Place::None, Place::At));
            }
            Does::Begins | Does::Ends => {
                let known = event.id.as_deref().is_some_and(|id| self.context(id).is_some());
                match called {
                    // Said once more of one that has ended.
                    None if known => return Ok(Place::None),
                    // What has not begun does not end before what has.
                    None if event.does == Does::Ends && current().is_some() => match event.id {
                        None => current(),
                        Some(_) => return Err(Misplaced::Unasked),
                    },
                    None => waiting().or_else(|| only().filter(|_| !self.has_begun(0))),
                    found => found,
                }
            }
            Does::Fails(_) if called.is_none() && event.id.as_deref().is_some_and(|id| self.context(id).is_some()) => {
                return Ok(Place::None);
            }
            Does::Fails(_) if called.is_none() => {
                // An error need not name its lane: then it may be about any.
                let mut meant = (0..self.open.len()).filter(|at| event.lane.is_none() || here(&self.open[*at]));
                match (meant.next(), meant.next()) {
                    (found, None) => found,
                    _ => return Err(Misplaced::Ambiguous),
                }
            }
            Does::Brings | Does::Fails(_) | Does::Tells => called.or_else(current).or_else(waiting).or_else(only),
        };
        let Some(at) = found else {
            return match event.does {
                Does::Begins | Does::Ends | Does::Brings => Err(Misplaced::Unasked),
                _ => Ok(Place::None),
            };
        };
        if let (Does::Begins | Does::Ends, Some(id), Some(open)) = (event.does, &event.id, self.open.get_mut(at)) {
            open.id.get_or_insert_with(|| id.clone());
        }
        Ok(Place::At(at))
    }

    /// Takes out what the response at `at` has left behind: what broke off in its lane before it, and other steering of its
    /// target, whose input is in it. Gets its place from now on, and what was taken out.
    pub fn gone_by(&mut self, at: usize) -> (usize, Vec<T>) {
        let Some(now) = self.open.get(at).filter(|open| !open.broken) else { return (at, Vec::new()) };
        let (lane, target) = (now.lane.clone(), now.target.clone());
        let (mut kept, mut gone, mut place) = (Vec::new(), Vec::new(), at);
        for (index, open) in std::mem::take(&mut self.open).into_iter().enumerate() {
            let left = open.broken && open.lane == lane;
            let taken_in = target.is_some() && open.id.is_none() && open.target == target;
            if index != at && (left || taken_in) {
                place -= usize::from(index < at);
                gone.push(open.kept);
            } else {
                kept.push(open);
            }
        }
        self.open = kept;
        (place, gone)
    }
}

#[cfg(test)]
mod tests;

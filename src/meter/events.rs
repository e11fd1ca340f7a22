//! Events of a WebSocket of the Responses API, on which many responses are under way: which of them an event is about.
//!
//! Pure. The rules, from OpenAI's API reference: events are those of the stream; responses of one lane (`stream_id`, absent in
//! the one that has no name) are answered in the order in which they were asked for; a successor that steering makes begins when its
//! target has ended. What cannot be brought home to a response that was asked for is [`Unasked`], and spends tokens that nobody
//! has reserved.

use std::borrow::Cow;
use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::Value;

/// Responses that may still be gone on from.
const KNOWN: usize = 1024;

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
    status: Value,
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
                let status = wire.status.as_u64().and_then(|status| u16::try_from(status).ok());
                Does::Fails(status.filter(|status| (400..600).contains(status)).unwrap_or(400))
            }
            kind if kind.starts_with("response.") && kind.ends_with(".delta") => Does::Brings,
            _ => Does::Tells,
        };
        let steered = wire.steer.and_then(|steer| steer.previous_response_id).filter(|_| does == Does::SteersNot);
        let id = steered.or(wire.response.and_then(|response| response.id)).or(wire.response_id);
        Some(Event { does, lane: wire.stream_id, id })
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

/// An event of a response that nobody has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server speaks of a response that was not asked for")]
pub struct Unasked;

/// The responses of one socket.
#[derive(Debug)]
pub struct Lanes<T> {
    open: Vec<Open<T>>,
    /// Ids of responses of this socket, each with the tokens that whoever goes on from it takes along.
    known: VecDeque<(String, u64)>,
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
        let lane = self.open.iter().find(|open| open.id.as_deref() == Some(target)).and_then(|open| open.lane.clone());
        self.open.push(Open { lane, id: None, target: Some(target.to_owned()), broken: false, kept });
    }

    /// Gets the responses that have not ended.
    pub fn open(&self) -> usize {
        self.open.iter().filter(|open| !open.broken).count()
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
        self.known.iter().rev().find(|(known, _)| known == id).map(|(_, tokens)| *tokens)
    }

    /// Says what going on from `id` takes along.
    pub fn remember(&mut self, id: &str, tokens: u64) {
        if let Some(known) = self.known.iter_mut().rev().find(|(known, _)| known == id) {
            known.1 = tokens;
            return;
        }
        if self.known.len() >= KNOWN {
            self.known.pop_front();
        }
        self.known.push_back((id.to_owned(), tokens));
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
    /// [`Unasked`].
    pub fn place(&mut self, event: &Event) -> Result<Place, Unasked> {
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
                    None => waiting().or_else(|| only().filter(|_| !self.has_begun(0))),
                    found => found,
                }
            }
            Does::Brings | Does::Fails(_) | Does::Tells => {
                let current = || find(&|open| open.id.is_some() && !open.broken && here(open));
                called.or_else(current).or_else(waiting).or_else(only)
            }
        };
        let Some(at) = found else {
            return match event.does {
                Does::Begins | Does::Ends | Does::Brings => Err(Unasked),
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
mod tests {
    use serde_json::json;

    use super::*;

    fn event(value: &Value) -> Event {
        Event::read(value.to_string().as_bytes()).unwrap()
    }

    fn begins(lane: Option<&str>, id: &str) -> Event {
        event(&json!({"type": "response.created", "stream_id": lane, "response": {"id": id, "usage": null}}))
    }

    fn ends(lane: Option<&str>, id: &str) -> Event {
        event(&json!({"type": "response.completed", "stream_id": lane, "response": {"id": id}}))
    }

    fn brings(lane: Option<&str>) -> Event {
        event(&json!({"type": "response.output_text.delta", "stream_id": lane, "delta": "x"}))
    }

    fn name<T: Copy>(lanes: &mut Lanes<T>, event: &Event) -> Option<T> {
        match lanes.place(event) {
            Ok(Place::At(at)) => lanes.at(at).copied(),
            _ => None,
        }
    }

    #[test]
    fn an_event_says_what_it_does() {
        let does = |value: Value| event(&value).does;
        assert_eq!(does(json!({"type": "error", "status": 429, "error": {}})), Does::Fails(429));
        assert_eq!(does(json!({"type": "error"})), Does::Fails(400));
        assert_eq!(does(json!({"type": "codex.rate_limits"})), Does::Tells);
        assert_eq!(does(json!({"type": "response.steer.accepted", "steer": {}})), Does::Tells);
        assert_eq!(brings(None).does, Does::Brings);
        let failed = event(&json!({"type": "response.steer.failed", "steer": {"previous_response_id": "r"}}));
        assert_eq!((failed.does, failed.id.as_deref()), (Does::SteersNot, Some("r")));
        for none in [&b"{}"[..], b"[]", b"x", b"{\"type\":1}"] {
            assert_eq!(Event::read(none), None);
        }
    }

    #[test]
    fn a_lane_is_answered_in_order_and_lanes_do_not_meet() {
        let mut lanes = Lanes::default();
        lanes.ask(None, 1);
        lanes.ask(Some("b".into()), 2);
        lanes.ask(None, 3);
        assert_eq!(name(&mut lanes, &begins(Some("b"), "rb")), Some(2));
        assert_eq!(name(&mut lanes, &begins(None, "r1")), Some(1));
        assert_eq!(name(&mut lanes, &brings(Some("b"))), Some(2));
        assert_eq!(name(&mut lanes, &brings(None)), Some(1));
        assert_eq!(name(&mut lanes, &ends(None, "r1")), Some(1));
        lanes.end(0);
        lanes.remember("r1", 10);
        assert_eq!(lanes.place(&ends(None, "r1")), Ok(Place::None), "said once more");
        assert_eq!(name(&mut lanes, &begins(None, "r3")), Some(3));
        assert_eq!(lanes.place(&begins(Some("c"), "rc")), Err(Unasked));
        assert_eq!((lanes.open(), lanes.context("r1"), lanes.context("r3")), (2, Some(10), None));
    }

    #[test]
    fn a_server_that_names_no_lane_is_understood_where_there_is_one_response() {
        let mut lanes = Lanes::default();
        lanes.ask(Some("a".into()), 1);
        assert_eq!(name(&mut lanes, &begins(None, "r")), Some(1));
        assert_eq!(name(&mut lanes, &brings(None)), Some(1));
        lanes.ask(Some("b".into()), 2);
        assert_eq!(lanes.place(&brings(None)), Err(Unasked), "whose it is cannot be told");
    }

    #[test]
    fn what_nobody_asked_for_is_told_from_what_spends_nothing() {
        let mut lanes = Lanes::<u8>::default();
        assert_eq!(lanes.place(&begins(None, "r")), Err(Unasked));
        assert_eq!(lanes.place(&brings(None)), Err(Unasked));
        assert_eq!(lanes.place(&event(&json!({"type": "codex.rate_limits"}))), Ok(Place::None));
        assert_eq!(lanes.place(&event(&json!({"type": "error"}))), Ok(Place::None));
    }

    #[test]
    fn a_successor_begins_when_its_target_has_ended_and_takes_all_steering_in() {
        let mut lanes = Lanes::default();
        lanes.ask(None, 1);
        assert_eq!(name(&mut lanes, &begins(None, "r1")), Some(1));
        lanes.ask(None, 2);
        lanes.steer("r1", 3);
        lanes.steer("r1", 4);
        assert_eq!(name(&mut lanes, &ends(None, "r1")), Some(1));
        lanes.end(0);
        lanes.remember("r1", 5);
        let Ok(Place::At(at)) = lanes.place(&begins(None, "r2")) else { panic!() };
        assert_eq!((lanes.at(at).copied(), lanes.gone_by(at)), (Some(3), (at, vec![4])));
        assert_eq!(lanes.open(), 2);
        lanes.steer("r2", 6);
        let failed = event(&json!({"type": "response.steer.failed", "steer": {"previous_response_id": "r2"}}));
        assert_eq!(name(&mut lanes, &failed), Some(6));
    }

    #[test]
    fn what_broke_off_stays_until_its_lane_goes_on() {
        let mut lanes = Lanes::default();
        lanes.ask(None, 1);
        assert_eq!(name(&mut lanes, &begins(None, "r1")), Some(1));
        let error = event(&json!({"type": "error", "status": 500}));
        let Ok(Place::At(at)) = lanes.place(&error) else { panic!() };
        lanes.breaks(at);
        assert_eq!(lanes.open(), 0);
        let failed = event(&json!({"type": "response.failed", "response": {"id": "r1"}}));
        assert_eq!(name(&mut lanes, &failed), Some(1));
        lanes.ask(None, 2);
        let Ok(Place::At(at)) = lanes.place(&begins(None, "r2")) else { panic!() };
        assert_eq!((at, lanes.gone_by(at)), (1, (0, vec![1])));
        assert_eq!(lanes.open(), 1);
    }

    #[test]
    fn only_so_many_ids_are_kept() {
        let mut lanes = Lanes::<u8>::default();
        for n in 0..=KNOWN {
            lanes.remember(&format!("r{n}"), 1);
        }
        assert_eq!((lanes.context("r0"), lanes.context("r1")), (None, Some(1)));
    }
}

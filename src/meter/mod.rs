//! The meter: reads how many tokens a model API says it used, from the bytes of its answer.
//!
//! Pure and sans-IO: bytes go in by [`Meter::feed`], a [`Reading`] comes out. It runs beside the forwarded stream and
//! must never change, hold back or fail it: what it cannot follow it reports as `broken`, and the caller charges the
//! estimate. Everything it keeps is bounded. It imports nothing of ours but [`crate::types`].
//!
//! The way of a byte: [`coding`] (gzip and its like) -> framing ([`sse`], [`json`] or [`event_stream`]) -> one normaliser per API
//! ([`anthropic`], [`openai_responses`], [`openai_chat`], [`gemini`], [`bedrock`]), all with the face of [`usage::Normaliser`]. [`request`] looks at the other
//! direction: what a request asks for, before it leaves. On a WebSocket [`websocket`] takes the place of coding and framing, and
//! [`events`] says which of the responses under way an event is about.

mod anthropic;
mod bedrock;
pub(crate) mod bound;
pub(crate) mod coding;
pub mod estimate;
pub(crate) mod event_stream;
pub mod events;
mod gemini;
mod glance;
pub mod hosts;
mod json;
mod openai_chat;
mod openai_responses;
mod pipe;
pub mod request;
mod shape;
pub(crate) mod sse;
pub(crate) mod usage;
mod walk;
pub mod websocket;

#[cfg(test)]
mod tests;

pub use bound::Room;

use crate::types::{Api, Tokens};
use coding::Coding;
use pipe::Pipe;

/// What one answer of a model API has said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The usage seen, `None` while there was none and where its figures were refused. Before `terminal` it is what the
    /// stream has said so far, with an output figure that is far too low.
    pub tokens: Option<Tokens>,
    /// The API's final word on this response was seen. `tokens` may still be `None`: a failed response without usage.
    /// Goes back to false if another generation begins in the same stream.
    pub terminal: bool,
    /// The model that answered.
    pub model: Option<String>,
    /// The API's id of the response; of the last one where a stream carries several.
    pub response_id: Option<String>,
    /// Output tokens estimated from the text, thinking and tool arguments delivered in deltas: bytes / 3, rounded up.
    /// 0 for a body that is not streamed and has figures. Of what could not be followed any more, and of a body without figures: all
    /// its bytes / 4, rounded up, so that who takes the meter its sight pays more, not less.
    pub streamed: u64,
    /// The last usage object as JSON text.
    pub raw_usage: Option<String>,
    /// The answer could not be followed before its final word: unknown or damaged coding, an event that is not JSON,
    /// figures that are no token counts, a bound that was passed.
    pub broken: bool,
    /// It was a bound that was passed: what is kept of an event, what a coded body swells to, the room that meters share.
    pub bounded: bool,
}

/// Reads the usage out of one answer, as its bytes pass.
pub struct Meter {
    coding: Coding,
    /// What came and could not be followed. Unit: bytes.
    unread: u64,
}

impl Meter {
    /// Makes a meter for one answer of `api`, given the answer's `Content-Type` and `Content-Encoding` headers.
    ///
    /// Neither is trusted further than needed: codings are known by the first bytes, and framing is sniffed unless the type
    /// is `text/event-stream` (ChatGPT's Codex backend sends no type at all).
    pub fn new(api: Api, content_type: Option<&str>, content_encoding: Option<&str>) -> Meter {
        let event_stream = content_type
            .and_then(|t| t.split(';').next())
            .is_some_and(|t| t.trim().eq_ignore_ascii_case("text/event-stream"));
        Meter { coding: Coding::new(content_encoding, Pipe::new(normaliser(api), event_stream)), unread: 0 }
    }

    /// Has what it keeps of an event or a body that has not come whole, beyond 64 KiB, share `room` with others.
    pub fn within(mut self, room: Box<dyn Room>) -> Meter {
        self.coding.pipe_mut().bound().within(room);
        self
    }

    /// Makes a meter for one response whose events come as messages: what is fed at once is one event.
    pub fn of_messages(api: Api) -> Meter {
        Meter { coding: Coding::plain(Pipe::of_messages(normaliser(api))), unread: 0 }
    }

    /// Takes the next bytes of the body, as they came over the wire.
    pub fn feed(&mut self, chunk: &[u8]) {
        self.coding.feed(chunk);
        if self.coding.pipe().broken() {
            self.unread = self.unread.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        }
    }

    /// Takes note that the body has ended. A last event without its blank line is read all the same.
    pub fn finish(&mut self) {
        self.coding.finish();
    }

    /// Gets what was read so far. Copies a few short strings; [`Meter::terminal`] and [`Meter::streamed`] copy nothing.
    pub fn reading(&self) -> Reading {
        let pipe = self.coding.pipe();
        let facts = pipe.facts();
        Reading {
            tokens: facts.tokens,
            terminal: facts.terminal,
            model: facts.model.clone(),
            response_id: facts.response_id.clone(),
            streamed: self.streamed(),
            raw_usage: facts.raw_usage.clone(),
            broken: pipe.broken(),
            bounded: pipe.bounded(),
        }
    }

    /// Gets the usage seen so far ([`Reading::tokens`]).
    pub fn tokens(&self) -> Option<Tokens> {
        self.coding.pipe().facts().tokens
    }

    /// Tells whether the final word was seen ([`Reading::terminal`]).
    pub fn terminal(&self) -> bool {
        self.coding.pipe().facts().terminal
    }

    /// Gets the output estimated from what was delivered ([`Reading::streamed`]). Unit: tokens.
    pub fn streamed(&self) -> u64 {
        let pipe = self.coding.pipe();
        let unseen = self.unread.saturating_add(pipe.lost());
        pipe.facts().streamed().saturating_add(unseen.div_ceil(4))
    }
}

fn normaliser(api: Api) -> Box<dyn usage::Normaliser> {
    match api {
        Api::Anthropic => Box::<anthropic::Anthropic>::default(),
        Api::OpenaiResponses => Box::<openai_responses::OpenaiResponses>::default(),
        Api::OpenaiChat => Box::<openai_chat::OpenaiChat>::default(),
        Api::Gemini => Box::<gemini::Gemini>::default(),
        Api::BedrockConverse => Box::<bedrock::Converse>::default(),
        Api::BedrockInvoke => Box::<bedrock::Invoke>::default(),
    }
}

/// Reads a whole body at once, in whatever framing and coding.
pub fn parse(api: Api, body: &[u8]) -> Reading {
    let mut meter = Meter::new(api, None, None);
    meter.feed(body);
    meter.finish();
    meter.reading()
}

//! Usage of the Anthropic Messages API, from its stream events and its JSON bodies.
//!
//! The rules, from the API's documentation and from recorded streams:
//! * each figure is cumulative: the last one that is not null wins, figures are never added within a generation;
//! * `message_delta` may lower a figure, but a 0 over a figure that was not 0 only means something together with
//!   `iterations` (compaction); else it is a field that somebody filled in;
//! * `iterations`, where not empty, is the whole truth: compaction and advisor calls are only there, and no figure beside them takes
//!   anything away;
//! * the split of cache writes by lifetime comes with `message_start` only;
//! * a second `message_start` with an id of its own is another generation, spliced in by a retry upstream.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::glance::{Len, small};
use super::usage::{Facts, Normaliser, Unreadable, count, estimate};
use crate::types::Tokens;

/// Where one answer stands.
#[derive(Default)]
pub(super) struct Anthropic {
    facts: Facts,
    /// Sum of the generations before the current one.
    before: Tokens,
    current: Generation,
    /// Whether any usage was seen.
    seen: bool,
}

/// One generation: from its `message_start` on.
#[derive(Default)]
struct Generation {
    id: Option<String>,
    started: bool,
    figures: Figures,
    /// A `message_delta` said the output.
    settled: bool,
    /// Bytes delivered before this generation began.
    delivered_before: u64,
}

/// The fields of a usage object; `None` = never said.
#[derive(Clone, Default)]
struct Figures {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    write_5m: Option<u64>,
    write_1h: Option<u64>,
    output: Option<u64>,
    thinking: Option<u64>,
    iterations: Option<Tokens>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(default, deserialize_with = "small")]
    usage: Value,
    #[serde(default)]
    delta: Option<Delta>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "small")]
    usage: Value,
}

/// The strings by which a delta delivers output: text, thinking, tool arguments, a compaction's summary.
#[derive(Deserialize, Default)]
struct Delta {
    #[serde(default)]
    text: Len,
    #[serde(default)]
    thinking: Len,
    #[serde(default)]
    partial_json: Len,
    #[serde(default)]
    content: Len,
}

impl Figures {
    /// Reads a usage object, or an entry of `iterations`.
    fn read(usage: &Value) -> Result<Figures, Unreadable> {
        Ok(Figures {
            input: count(usage, &["input_tokens"])?,
            cache_read: count(usage, &["cache_read_input_tokens"])?,
            cache_write: count(usage, &["cache_creation_input_tokens"])?,
            write_5m: count(usage, &["cache_creation", "ephemeral_5m_input_tokens"])?,
            write_1h: count(usage, &["cache_creation", "ephemeral_1h_input_tokens"])?,
            output: count(usage, &["output_tokens"])?,
            thinking: count(usage, &["output_tokens_details", "thinking_tokens"])?,
            iterations: match usage.get("iterations") {
                None | Some(Value::Null) => None,
                Some(Value::Array(entries)) if entries.is_empty() => None,
                Some(Value::Array(entries)) => Some(sum(entries)?),
                Some(_) => return Err(Unreadable::Figures),
            },
        })
    }

    /// Takes over what `newer` says.
    fn update(&mut self, newer: Figures) {
        self.iterations = newer.iterations.or(self.iterations);
        let zero_counts = self.iterations.is_some();
        let take = |old: &mut Option<u64>, new: Option<u64>| match (*old, new) {
            (_, None) => {}
            (Some(was), Some(0)) if was > 0 && !zero_counts => {}
            (_, Some(new)) => *old = Some(new),
        };
        take(&mut self.input, newer.input);
        take(&mut self.cache_read, newer.cache_read);
        take(&mut self.cache_write, newer.cache_write);
        take(&mut self.write_5m, newer.write_5m);
        take(&mut self.write_1h, newer.write_1h);
        take(&mut self.output, newer.output);
        take(&mut self.thinking, newer.thinking);
    }

    /// Gets the classes.
    fn tokens(&self) -> Tokens {
        let long = self.write_1h.unwrap_or(0);
        let split = self.write_5m.unwrap_or(0).saturating_add(long);
        let written = self.cache_write.unwrap_or(0).max(split);
        let plain = Tokens {
            input: self.input.unwrap_or(0),
            cache_read: self.cache_read.unwrap_or(0),
            cache_write: written - long,
            cache_write_long: long,
            output: self.output.unwrap_or(0),
            reasoning: 0,
        };
        let mut tokens = match self.iterations {
            // Iterations have all of it. What was said later, and without them, may be more.
            Some(all) => {
                let less = all.cache_write.saturating_add(all.cache_write_long) < written;
                let writes = if less { plain } else { all };
                Tokens {
                    input: all.input.max(plain.input),
                    cache_read: all.cache_read.max(plain.cache_read),
                    cache_write: writes.cache_write,
                    cache_write_long: writes.cache_write_long,
                    output: all.output.max(plain.output),
                    reasoning: all.reasoning,
                }
            }
            None => plain,
        };
        tokens.reasoning = tokens.reasoning.max(self.thinking.unwrap_or(0)).min(tokens.output);
        tokens
    }
}

/// Adds up the entries of `iterations`, whatever their type.
fn sum(entries: &[Value]) -> Result<Tokens, Unreadable> {
    let mut total = Tokens::default();
    for entry in entries {
        if !entry.is_object() || entry.get("iterations").is_some_and(|nested| !nested.is_null()) {
            return Err(Unreadable::Figures);
        }
        total.add(&Figures::read(entry)?.tokens());
    }
    Ok(total)
}

impl Anthropic {
    /// Takes a usage object into the current generation.
    fn take_usage(&mut self, usage: &Value) -> Result<Figures, Unreadable> {
        let figures = self.facts.refuse_on(match usage {
            Value::Object(_) => Figures::read(usage),
            _ => Err(Unreadable::Figures),
        })?;
        self.current.figures.update(figures.clone());
        self.seen = true;
        self.facts.keep_raw(usage);
        self.sum_up();
        Ok(figures)
    }

    fn sum_up(&mut self) {
        if self.seen {
            let mut tokens = self.before;
            tokens.add(&self.current.figures.tokens());
            self.facts.tokens = Some(tokens);
        }
    }

    fn message_start(&mut self, message: Message<'_>) -> Result<(), Unreadable> {
        let id = message.id.as_deref();
        if self.current.started {
            if id.is_some() && id == self.current.id.as_deref() {
                return Ok(());
            }
            // No API figure will come for the output of a generation that was left half-way: what it delivered counts.
            let mut left = self.current.figures.tokens();
            if !self.current.settled {
                left.output = left.output.max(estimate(self.facts.delivered - self.current.delivered_before));
            }
            self.before.add(&left);
            self.facts.terminal = false;
        }
        self.current = Generation {
            id: id.map(str::to_owned),
            started: true,
            delivered_before: self.facts.delivered,
            ..Generation::default()
        };
        self.facts.name(message.model, id);
        self.sum_up();
        if message.usage.is_null() { Ok(()) } else { self.take_usage(&message.usage).map(drop) }
    }
}

impl Normaliser for Anthropic {
    fn event(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        let event: Event<'_> = serde_json::from_slice(json).map_err(|_| Unreadable::Form)?;
        match event.kind.as_ref() {
            "message_start" => self.message_start(event.message.ok_or(Unreadable::Form)?),
            "message_delta" if !event.usage.is_null() => {
                let said = self.take_usage(&event.usage)?;
                self.current.settled |= said.output.is_some();
                Ok(())
            }
            "message_stop" => {
                self.facts.terminal = self.current.settled;
                Ok(())
            }
            "content_block_delta" => {
                let delta = event.delta.unwrap_or_default();
                let bytes = [delta.text, delta.thinking, delta.partial_json, delta.content].map(|len| len.0);
                self.facts.delivered = self.facts.delivered.saturating_add(bytes.iter().sum());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn body(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        let message: Message<'_> = serde_json::from_slice(json).map_err(|_| Unreadable::Form)?;
        if message.kind.as_deref() != Some("message") || message.usage.is_null() {
            return Ok(());
        }
        self.facts.name(message.model, message.id.as_deref());
        let said = self.take_usage(&message.usage)?;
        self.facts.terminal = said.output.is_some();
        Ok(())
    }

    fn facts(&self) -> &Facts {
        &self.facts
    }
}

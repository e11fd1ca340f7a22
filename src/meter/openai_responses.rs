//! Usage of the OpenAI Responses API (and of the ChatGPT backend that speaks it), from stream events and JSON bodies.
//!
//! The rules, from the API's documentation and from recorded streams:
//! * usage stands only in the response object of the event that ends a response;
//! * cached and cache-written input is part of `input_tokens`, reasoning is part of `output_tokens`;
//! * a failed response has no usage, and that is its final word;
//! * other objects carry fields of the same names (`tool_usage`), so only exact paths are read;
//! * `obfuscation` beside a delta is padding, not output.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::glance::{Len, small};
use super::usage::{Facts, Normaliser, Unreadable, count};
use crate::types::Tokens;

/// Where one answer stands.
#[derive(Default)]
pub(super) struct OpenaiResponses {
    facts: Facts,
    /// Sum of the responses before the current one.
    before: Tokens,
    /// The response that the last usage was of.
    current: Option<(Option<String>, Tokens)>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    response: Option<Response<'a>>,
    #[serde(default)]
    delta: Len,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    object: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "small")]
    usage: Value,
}

/// Reads a usage object.
fn read(usage: &Value) -> Result<Tokens, Unreadable> {
    let needed = |n: Option<u64>| n.ok_or(Unreadable::Figures);
    let all_input = needed(count(usage, &["input_tokens"])?)?;
    let output = needed(count(usage, &["output_tokens"])?)?;
    let cached = count(usage, &["input_tokens_details", "cached_tokens"])?.unwrap_or(0);
    let written = count(usage, &["input_tokens_details", "cache_write_tokens"])?.unwrap_or(0);
    let long = ["input_tokens_details", "cache_write_tokens_details", "ttl_12h_tokens"];
    let long = count(usage, &long)?.unwrap_or(0).min(written);
    let reasoning = count(usage, &["output_tokens_details", "reasoning_tokens"])?.unwrap_or(0);
    Ok(Tokens {
        input: all_input.saturating_sub(cached).saturating_sub(written),
        cache_read: cached,
        cache_write: written - long,
        cache_write_long: long,
        output,
        reasoning: reasoning.min(output),
    })
}

impl OpenaiResponses {
    /// Takes the response object that ends a response.
    fn end(&mut self, response: Response<'_>) -> Result<(), Unreadable> {
        self.facts.name(response.model, response.id.as_deref());
        if !response.usage.is_null() {
            let tokens = self.facts.refuse_on(read(&response.usage))?;
            self.facts.keep_raw(&response.usage);
            let id = response.id.map(Cow::into_owned);
            if let Some((earlier, counted)) = self.current.take()
                && (earlier.is_none() || earlier != id)
            {
                self.before.add(&counted);
            }
            let mut total = self.before;
            total.add(&tokens);
            self.facts.tokens = Some(total);
            self.current = Some((id, tokens));
        }
        self.facts.terminal = true;
        Ok(())
    }
}

impl Normaliser for OpenaiResponses {
    fn event(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        let event: Event<'_> = serde_json::from_slice(json).map_err(|_| Unreadable::Form)?;
        match event.kind.as_ref() {
            "response.completed" | "response.incomplete" | "response.failed" | "response.done" => {
                self.end(event.response.ok_or(Unreadable::Form)?)
            }
            "response.created" | "response.in_progress" => {
                let Some(response) = event.response else { return Ok(()) };
                if self.facts.terminal && self.facts.response_id.as_deref() != response.id.as_deref() {
                    self.facts.terminal = false;
                }
                self.facts.name(response.model, response.id.as_deref());
                Ok(())
            }
            // Audio is base64 of samples: no measure of tokens.
            "response.audio.delta" | "response.output_audio.delta" => Ok(()),
            kind if kind.ends_with(".delta") => {
                self.facts.delivered = self.facts.delivered.saturating_add(event.delta.0);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn body(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        let response: Response<'_> = serde_json::from_slice(json).map_err(|_| Unreadable::Form)?;
        let over = match (response.object.as_deref(), response.status.as_deref()) {
            (Some("response.compaction"), _) => true,
            (Some("response"), status) => !matches!(status, Some("queued" | "in_progress")),
            _ => false,
        };
        if over {
            return self.end(response);
        }
        if response.object.as_deref() == Some("response") {
            // It is made in the background: its id is what it is asked for by.
            self.facts.name(response.model, response.id.as_deref());
        }
        Ok(())
    }

    fn facts(&self) -> &Facts {
        &self.facts
    }
}

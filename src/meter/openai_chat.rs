//! Usage of the Chat Completions API, from the chunks of a stream and from JSON bodies.
//!
//! The rules, from the API's reference and from recorded streams:
//! * figures come in one chunk that has no choices, and only where the request asked for it (`stream_options.include_usage`);
//!   hosts that speak the same form put them into the last chunk, or cumulatively into each: the last one wins, none is added;
//! * `prompt_tokens` includes what came from a cache and what was written to one;
//! * `completion_tokens` includes reasoning; hosts that leave it out have it in `total_tokens`, so what the total has and no part
//!   names is output;
//! * a response is over when each of its choices has said why it finished, and figures may still come after that.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::glance::{Len, Sum, Whole, few, small};
use super::usage::{Facts, Normaliser, Unreadable, count};
use crate::types::Tokens;

/// Most choices that are told apart. The API allows 128.
const MOST_CHOICES: usize = 256;

/// Where one answer stands.
#[derive(Default)]
pub(super) struct OpenaiChat {
    facts: Facts,
    /// Each choice, and whether it has said why it finished.
    choices: BTreeMap<u64, bool>,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "few")]
    choices: Option<Vec<Choice>>,
    #[serde(default, deserialize_with = "small")]
    usage: Value,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: Whole,
    #[serde(default)]
    delta: Option<Delta>,
    /// What hosts of an older form have in the place of a delta.
    #[serde(default)]
    text: Len,
    #[serde(default)]
    finish_reason: Option<serde::de::IgnoredAny>,
}

/// What a chunk delivers, as a text or in parts. The reasoning has three names, of three families of hosts; some say it under two at once.
#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    content: Sum,
    #[serde(default)]
    refusal: Sum,
    #[serde(default)]
    reasoning_content: Sum,
    #[serde(default)]
    reasoning: Sum,
    #[serde(default)]
    reasoning_details: Sum,
    #[serde(default)]
    audio: Option<Audio>,
    #[serde(default, deserialize_with = "few")]
    tool_calls: Option<Vec<Call>>,
    #[serde(default)]
    function_call: Option<Function>,
}

#[derive(Deserialize)]
struct Audio {
    #[serde(default)]
    transcript: Len,
}

#[derive(Deserialize)]
struct Call {
    #[serde(default)]
    function: Option<Function>,
    #[serde(default)]
    custom: Option<Custom>,
}

#[derive(Deserialize)]
struct Function {
    #[serde(default)]
    name: Len,
    #[serde(default)]
    arguments: Len,
}

#[derive(Deserialize)]
struct Custom {
    #[serde(default)]
    input: Len,
}

impl Delta {
    /// Gets the length of what it delivers. Unit: bytes.
    fn delivered(&self) -> u64 {
        let function = |f: &Function| f.name.0.saturating_add(f.arguments.0);
        let call = |call: &Call| {
            let custom = call.custom.as_ref().map_or(0, |custom| custom.input.0);
            call.function.as_ref().map_or(0, function).saturating_add(custom)
        };
        let reasoning = self.reasoning_content.0.max(self.reasoning.0).max(self.reasoning_details.0);
        let spoken = self.audio.as_ref().map_or(0, |audio| audio.transcript.0);
        let text = [self.content.0, self.refusal.0, reasoning, spoken];
        let calls = self.tool_calls.iter().flatten().map(call);
        let old = self.function_call.as_ref().map(function);
        text.into_iter().chain(calls).chain(old).fold(0, u64::saturating_add)
    }
}

/// Reads a usage object.
fn read(usage: &Value) -> Result<Tokens, Unreadable> {
    let needed = |n: Option<u64>| n.ok_or(Unreadable::Figures);
    let all_input = needed(count(usage, &["prompt_tokens"])?)?;
    let named = needed(count(usage, &["completion_tokens"])?)?;
    let total = count(usage, &["total_tokens"])?.unwrap_or(0);
    let cached = match count(usage, &["prompt_tokens_details", "cached_tokens"])? {
        Some(cached) => cached,
        // DeepSeek's name for the same.
        None => count(usage, &["prompt_cache_hit_tokens"])?.unwrap_or(0),
    };
    let cached = cached.min(all_input);
    let written = count(usage, &["prompt_tokens_details", "cache_write_tokens"])?.unwrap_or(0).min(all_input - cached);
    let output = named.max(total.saturating_sub(all_input));
    let reasoning = count(usage, &["completion_tokens_details", "reasoning_tokens"])?.unwrap_or(0);
    Ok(Tokens {
        input: all_input - cached - written,
        cache_read: cached,
        cache_write: written,
        output,
        reasoning: reasoning.min(output),
        ..Tokens::default()
    })
}

impl OpenaiChat {
    /// Takes figures, where there are any.
    fn usage(&mut self, usage: &Value) -> Result<(), Unreadable> {
        // Hosts that have nothing to say yet may say it in a table.
        let says = ["prompt_tokens", "completion_tokens", "total_tokens"].iter().any(|key| !usage[*key].is_null());
        if usage.is_null() || usage.is_object() && !says {
            return Ok(());
        }
        self.facts.tokens = Some(self.facts.refuse_on(read(usage))?);
        self.facts.keep_raw(usage);
        Ok(())
    }
}

impl Normaliser for OpenaiChat {
    fn event(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        let chunk: Chunk<'_> = serde_json::from_slice(json).map_err(|_| Unreadable::Form)?;
        self.facts.name(chunk.model, chunk.id.as_deref());
        for choice in chunk.choices.iter().flatten() {
            let delivered = choice.delta.as_ref().map_or(0, Delta::delivered).saturating_add(choice.text.0);
            self.facts.delivered = self.facts.delivered.saturating_add(delivered);
            let index = choice.index.0.unwrap_or(0);
            if self.choices.len() >= MOST_CHOICES && !self.choices.contains_key(&index) {
                return Err(Unreadable::Form);
            }
            let finished = self.choices.entry(index).or_default();
            *finished = choice.finish_reason.is_some() || (*finished && delivered == 0);
        }
        self.usage(&chunk.usage)?;
        let over = !self.choices.is_empty() && self.choices.values().all(|finished| *finished);
        self.facts.terminal = over && self.facts.tokens.is_some();
        Ok(())
    }

    fn body(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        let body: Chunk<'_> = serde_json::from_slice(json).map_err(|_| Unreadable::Form)?;
        self.facts.name(body.model, body.id.as_deref());
        self.usage(&body.usage)?;
        // An error has neither.
        self.facts.terminal = body.choices.is_some() || self.facts.tokens.is_some();
        Ok(())
    }

    fn facts(&self) -> &Facts {
        &self.facts
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chunk(choices: Value, usage: Value) -> Value {
        json!({"id": "c_1", "object": "chat.completion.chunk", "model": "gpt-x", "choices": choices, "usage": usage})
    }

    fn seen(chunks: &[Value]) -> Facts {
        let mut chat = OpenaiChat::default();
        for chunk in chunks {
            chat.event(chunk.to_string().as_bytes()).unwrap();
        }
        chat.facts
    }

    #[test]
    fn each_class_is_read_once() {
        let all = json!({"prompt_tokens": 500, "completion_tokens": 80, "total_tokens": 580,
            "prompt_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 120, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 30}});
        let want =
            Tokens { input: 80, cache_read: 300, cache_write: 120, output: 80, reasoning: 30, ..Tokens::default() };
        assert_eq!(read(&all), Ok(want));
        let deepseek = json!({"prompt_tokens": 50, "completion_tokens": 8, "prompt_cache_hit_tokens": 40,
            "prompt_cache_miss_tokens": 10});
        assert_eq!(read(&deepseek), Ok(Tokens { input: 10, cache_read: 40, output: 8, ..Tokens::default() }));
        let apart = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45,
            "completion_tokens_details": {"reasoning_tokens": 30}});
        assert_eq!(read(&apart).map(|t| (t.output, t.reasoning)), Ok((35, 30)), "reasoning that only the total counts");
        for odd in [json!({"prompt_tokens": 1}), json!({"prompt_tokens": -1, "completion_tokens": 1}), json!(7)] {
            assert_eq!(read(&odd), Err(Unreadable::Figures), "{odd}");
        }
    }

    #[test]
    fn a_stream_is_over_when_each_choice_has_finished_and_the_figures_are_there() {
        let says = |index: u64, text: &str, finish: Value| json!([{"index": index, "delta": {"content": text}, "finish_reason": finish}]);
        let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15});
        let chunks = [
            chunk(says(0, "abc", Value::Null), Value::Null),
            chunk(says(1, "{\"usage\":{\"prompt_tokens\":9}}", Value::Null), Value::Null),
            chunk(says(0, "", json!("stop")), Value::Null),
            chunk(says(1, "d", Value::Null), Value::Null),
            chunk(says(1, "", json!("length")), Value::Null),
            chunk(json!([]), usage.clone()),
        ];
        for cut in 0..chunks.len() {
            let facts = seen(&chunks[..cut]);
            assert_eq!((facts.terminal, facts.tokens), (false, None), "{cut}");
        }
        let facts = seen(&chunks);
        assert_eq!((facts.terminal, facts.tokens.map(|t| (t.input, t.output))), (true, Some((10, 5))));
        assert_eq!((facts.model.as_deref(), facts.response_id.as_deref()), (Some("gpt-x"), Some("c_1")));
        assert_eq!(facts.delivered, 3 + 29 + 1);
        // Hosts that say what was used as they go, in each chunk.
        let so_far = |n: u64| json!({"prompt_tokens": 10, "completion_tokens": n, "total_tokens": 10 + n});
        let live = [chunk(says(0, "a", Value::Null), so_far(1)), chunk(says(0, "b", json!("stop")), so_far(2))];
        assert_eq!(seen(&live[..1]).tokens.map(|t| t.output), Some(1));
        assert!(!seen(&live[..1]).terminal && seen(&live).terminal);
        assert_eq!(seen(&live).tokens.map(|t| t.output), Some(2));
    }

    #[test]
    fn output_in_parts_is_output_and_reasoning_under_two_names_is_so_once() {
        let delivered = |delta: Value| seen(&[chunk(json!([{"index": 0, "delta": delta}]), Value::Null)]).delivered;
        let thinking = json!([{"type": "thinking", "thinking": [{"type": "text", "text": "so so"}]}]);
        assert_eq!(delivered(json!({"content": thinking})), 5);
        assert_eq!(
            delivered(json!({"reasoning": "abc", "reasoning_details": [{"type": "reasoning.text", "text": "abc"}]})),
            3
        );
        assert_eq!(delivered(json!({"audio": {"transcript": "ab", "data": "AAAA"}})), 2);
        assert_eq!(seen(&[chunk(json!([{"index": 0, "text": "abcd"}]), Value::Null)]).delivered, 4);
    }

    #[test]
    fn a_usage_that_says_nothing_yet_is_none() {
        let says = |usage: Value| chunk(json!([{"index": 0, "delta": {"content": "a"}}]), usage);
        let facts = seen(&[says(json!({})), says(json!({"prompt_tokens": null}))]);
        assert_eq!((facts.tokens, facts.terminal), (None, false));
        let mut chat = OpenaiChat::default();
        assert_eq!(chat.event(says(json!({"prompt_tokens": 5})).to_string().as_bytes()), Err(Unreadable::Figures));
    }

    #[test]
    fn what_tools_are_told_is_output_too() {
        let delta = json!([{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{\"a\""}},
            {"index": 1, "custom": {"input": "xyz"}}], "reasoning_content": "so"}}]);
        assert_eq!(seen(&[chunk(delta, Value::Null)]).delivered, 1 + 4 + 3 + 2);
    }

    #[test]
    fn an_error_in_the_place_of_an_answer_ends_nothing() {
        let mut chat = OpenaiChat::default();
        chat.body(br#"{"error":{"message":"no","type":"server_error"}}"#).unwrap();
        assert_eq!((chat.facts.terminal, chat.facts.tokens), (false, None));
        let mut chat = OpenaiChat::default();
        chat.event(br#"{"error":{"message":"no"}}"#).unwrap();
        assert!(!chat.facts.terminal);
    }
}

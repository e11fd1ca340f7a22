//! Usage of Amazon Bedrock: Converse, ConverseStream, InvokeModel and InvokeModelWithResponseStream.
//!
//! The rules, from the API's reference and from recorded streams:
//! * Converse says its figures at the end, in the event `metadata`; input excludes what came from a cache or went into one;
//! * Invoke wraps the events of whatever model answers, as base64; the last of them has `amazon-bedrock-invocationMetrics`, whose
//!   figures are Bedrock's own. What Claude says of itself is read as Anthropic's, which has more classes; what has choices as that of
//!   Chat Completions;
//! * of what went into a cache, `cacheDetails` says for how long;
//! * an exception in the stream ends it without figures.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::anthropic::Anthropic;
use super::glance::{Len, Whole, few, small};
use super::openai_chat::OpenaiChat;
use super::usage::{Facts, Normaliser, Unreadable, count};
use crate::types::Tokens;

/// Where one answer of Converse stands.
#[derive(Default)]
pub(super) struct Converse {
    facts: Facts,
}

/// Any event of a stream, and the body of an answer that is not streamed: their keys do not overlap.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    stop_reason: Option<serde::de::IgnoredAny>,
    #[serde(default, deserialize_with = "small")]
    usage: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delta {
    #[serde(default)]
    text: Len,
    #[serde(default)]
    tool_use: Option<Input>,
    #[serde(default)]
    reasoning_content: Option<Text>,
}

#[derive(Deserialize)]
struct Input {
    #[serde(default)]
    input: Len,
}

#[derive(Deserialize)]
struct Text {
    #[serde(default)]
    text: Len,
}

impl Delta {
    /// Gets the length of what it delivers. Unit: bytes.
    fn delivered(&self) -> u64 {
        let tool = self.tool_use.as_ref().map_or(0, |tool| tool.input.0);
        let thought = self.reasoning_content.as_ref().map_or(0, |thought| thought.text.0);
        self.text.0.saturating_add(tool).saturating_add(thought)
    }
}

/// Reads a usage object of Converse.
fn read(usage: &Value) -> Result<Tokens, Unreadable> {
    let needed = |n: Option<u64>| n.ok_or(Unreadable::Figures);
    let figure = |key: &str| count(usage, &[key]);
    // The same under two names: that of the API, and that of models which Invoke calls.
    let either = |one: &str, other: &str| Ok::<_, Unreadable>(figure(one)?.or(figure(other)?).unwrap_or(0));
    let (cache_read, written) = (
        either("cacheReadInputTokens", "cacheReadInputTokenCount")?,
        either("cacheWriteInputTokens", "cacheWriteInputTokenCount")?,
    );
    let long = long_writes(usage)?.min(written);
    Ok(Tokens {
        input: needed(figure("inputTokens")?)?,
        cache_read,
        cache_write: written - long,
        cache_write_long: long,
        output: needed(figure("outputTokens")?)?,
        ..Tokens::default()
    })
}

/// Gets how much of what went into a cache stays there for an hour.
fn long_writes(usage: &Value) -> Result<u64, Unreadable> {
    let mut long = 0u64;
    for detail in usage.get("cacheDetails").and_then(Value::as_array).into_iter().flatten() {
        if detail["ttl"] == "1h" {
            long = long.saturating_add(count(detail, &["inputTokens"])?.unwrap_or(0));
        }
    }
    Ok(long)
}

impl Converse {
    fn usage(&mut self, usage: &Value) -> Result<(), Unreadable> {
        self.facts.tokens = Some(self.facts.refuse_on(read(usage))?);
        self.facts.keep_raw(usage);
        self.facts.terminal = true;
        Ok(())
    }
}

impl Normaliser for Converse {
    fn event(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        let event: Event = serde_json::from_slice(json).map_err(|_| Unreadable::Form)?;
        let delivered = event.delta.as_ref().map_or(0, Delta::delivered);
        self.facts.delivered = self.facts.delivered.saturating_add(delivered);
        if event.usage.is_null() { Ok(()) } else { self.usage(&event.usage) }
    }

    fn body(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        let body: Event = serde_json::from_slice(json).map_err(|_| Unreadable::Form)?;
        self.facts.terminal = body.stop_reason.is_some();
        if body.usage.is_null() { Ok(()) } else { self.usage(&body.usage) }
    }

    fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// Where one answer of Invoke stands.
#[derive(Default)]
pub(super) struct Invoke {
    facts: Facts,
    /// What Claude says, where it is Claude.
    claude: Anthropic,
    /// What a model says that has choices.
    chat: OpenaiChat,
}

/// A message of the stream.
#[derive(Deserialize)]
struct Wrapped<'a> {
    #[serde(borrow, default)]
    bytes: Cow<'a, str>,
}

/// What is wrapped, of any model.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Inner<'a> {
    /// An event of Claude.
    #[serde(rename = "type", borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(rename = "amazon-bedrock-invocationMetrics", default, deserialize_with = "small")]
    metrics: Value,
    /// An event or a body in the form of Chat Completions.
    #[serde(default)]
    choices: Option<IgnoredAny>,
    /// Text of Nova; its other events say nothing of use.
    #[serde(default)]
    content_block_delta: Option<Block>,
    #[serde(default)]
    message_start: Option<IgnoredAny>,
    #[serde(default)]
    content_block_start: Option<IgnoredAny>,
    #[serde(default)]
    content_block_stop: Option<IgnoredAny>,
    #[serde(default)]
    message_stop: Option<IgnoredAny>,
    #[serde(default)]
    metadata: Option<IgnoredAny>,
    /// Text of Llama, of Titan, and of Cohere.
    #[serde(default)]
    generation: Option<Len>,
    #[serde(default)]
    output_text: Option<Len>,
    #[serde(default)]
    text: Option<Len>,
    /// Text of Mistral.
    #[serde(default, deserialize_with = "few")]
    outputs: Option<Vec<Text>>,
    /// Figures of a body of Llama.
    #[serde(rename = "prompt_token_count", default)]
    prompt_tokens: Whole,
    #[serde(rename = "generation_token_count", default)]
    generation_tokens: Whole,
    /// Figures of a body of Titan.
    #[serde(rename = "inputTextTokenCount", default)]
    input_tokens: Whole,
    #[serde(default, deserialize_with = "few")]
    results: Option<Vec<TitanResult>>,
    /// Usage in a body that is not streamed: of Claude, and of Nova.
    #[serde(default, deserialize_with = "small")]
    usage: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TitanResult {
    #[serde(default)]
    token_count: Whole,
}

#[derive(Deserialize)]
struct Block {
    #[serde(default)]
    delta: Option<Delta>,
}

impl Inner<'_> {
    /// Gets the length of what it delivers; of an event that nobody knows, all of it. Unit: bytes.
    fn delivered(&self, all: usize) -> u64 {
        let silent = [
            &self.choices,
            &self.message_start,
            &self.content_block_start,
            &self.content_block_stop,
            &self.message_stop,
            &self.metadata,
        ];
        let texts = [self.generation, self.output_text, self.text];
        let known = self.kind.is_some()
            || silent.iter().any(|key| key.is_some())
            || texts.iter().any(Option::is_some)
            || self.content_block_delta.is_some()
            || self.outputs.is_some()
            || !self.metrics.is_null();
        if !known {
            return u64::try_from(all).unwrap_or(u64::MAX);
        }
        let block = self.content_block_delta.as_ref().and_then(|block| block.delta.as_ref());
        let outputs = self.outputs.iter().flatten().map(|output| output.text.0);
        let texts = texts.into_iter().flatten().map(|text| text.0);
        texts.chain(outputs).fold(block.map_or(0, Delta::delivered), u64::saturating_add)
    }

    /// Gets the figures of a body of Llama or of Titan.
    fn own_figures(&self) -> Option<Tokens> {
        let titan = || {
            let results = self.results.as_deref().filter(|results| !results.is_empty())?;
            let output = results
                .iter()
                .map(|result| result.token_count.0)
                .try_fold(0u64, |sum, n| Some(sum.saturating_add(n?)))?;
            Some((self.input_tokens.0?, output))
        };
        let (input, output) = self.prompt_tokens.0.zip(self.generation_tokens.0).or_else(titan)?;
        Some(Tokens { input, output, ..Tokens::default() })
    }
}

/// Reads Bedrock's own figures of an invocation.
fn metrics(metrics: &Value) -> Result<Tokens, Unreadable> {
    let needed = |n: Option<u64>| n.ok_or(Unreadable::Figures);
    let figure = |key: &str| count(metrics, &[key]);
    Ok(Tokens {
        input: needed(figure("inputTokenCount")?)?,
        cache_read: figure("cacheReadInputTokenCount")?.unwrap_or(0),
        cache_write: figure("cacheWriteInputTokenCount")?.unwrap_or(0),
        output: needed(figure("outputTokenCount")?)?,
        ..Tokens::default()
    })
}

impl Invoke {
    /// Takes over what is known of Claude's answer, and adds what Bedrock says of it where Claude says nothing.
    fn take(&mut self, inner: &Inner<'_>, delivered: u64) -> Result<(), Unreadable> {
        let own = self.facts.delivered.saturating_add(delivered);
        if inner.kind.is_some() {
            self.facts = self.claude.facts().clone();
        } else if inner.choices.is_some() {
            self.facts = self.chat.facts().clone();
        }
        self.facts.delivered = self.facts.delivered.max(own);
        if !inner.metrics.is_null() && !self.facts.terminal {
            self.facts.tokens = Some(self.facts.refuse_on(metrics(&inner.metrics))?);
            self.facts.keep_raw(&inner.metrics);
            self.facts.terminal = true;
        }
        Ok(())
    }
}

impl Normaliser for Invoke {
    fn event(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        let wrapped: Wrapped<'_> = serde_json::from_slice(json).map_err(|_| Unreadable::Form)?;
        let bytes = STANDARD.decode(wrapped.bytes.as_bytes()).map_err(|_| Unreadable::Form)?;
        let inner: Inner<'_> = serde_json::from_slice(&bytes).map_err(|_| Unreadable::Form)?;
        if inner.kind.is_some() {
            let done = self.claude.event(&bytes);
            self.facts.refuse_on(done)?;
        }
        if inner.choices.is_some() {
            let done = self.chat.event(&bytes);
            self.facts.refuse_on(done)?;
        }
        self.take(&inner, inner.delivered(bytes.len()))
    }

    fn body(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        let inner: Inner<'_> = serde_json::from_slice(json).map_err(|_| Unreadable::Form)?;
        if inner.kind.is_some() {
            let done = self.claude.body(json);
            self.facts.refuse_on(done)?;
            return self.take(&inner, 0);
        }
        if inner.choices.is_some() {
            let done = self.chat.body(json);
            self.facts.refuse_on(done)?;
            return self.take(&inner, 0);
        }
        if let Some(tokens) = inner.own_figures() {
            (self.facts.tokens, self.facts.terminal) = (Some(tokens), true);
        }
        if !inner.usage.is_null() {
            self.facts.tokens = Some(self.facts.refuse_on(read(&inner.usage))?);
            self.facts.keep_raw(&inner.usage);
            self.facts.terminal = true;
        }
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

    fn wrapped(inner: &Value) -> Vec<u8> {
        json!({"bytes": STANDARD.encode(inner.to_string()), "p": "abcdef"}).to_string().into_bytes()
    }

    fn invoked(events: &[Value]) -> Facts {
        let mut invoke = Invoke::default();
        events.iter().for_each(|event| invoke.event(&wrapped(event)).unwrap());
        invoke.facts
    }

    const METRICS: &str = "amazon-bedrock-invocationMetrics";

    #[test]
    fn converse_says_its_figures_in_the_last_event() {
        let mut converse = Converse::default();
        let events = [
            json!({"role": "assistant", "p": "abc"}),
            json!({"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}, "p": "abcdefgh"}),
            json!({"contentBlockIndex": 1, "delta": {"text": "{\"usage\":{\"inputTokens\":9}}"}}),
            json!({"contentBlockIndex": 2, "delta": {"toolUse": {"input": "{\"a\":1}"}}}),
            json!({"stopReason": "end_turn"}),
        ];
        for event in &events {
            converse.event(event.to_string().as_bytes()).unwrap();
            assert!(!converse.facts.terminal && converse.facts.tokens.is_none(), "{event}");
        }
        assert_eq!(converse.facts.delivered, 2 + 27 + 7);
        let last = json!({"usage": {"inputTokens": 36, "outputTokens": 73, "totalTokens": 139, "cacheReadInputTokens": 20,
            "cacheWriteInputTokens": 10}, "metrics": {"latencyMs": 5}});
        converse.event(last.to_string().as_bytes()).unwrap();
        let want = Tokens { input: 36, cache_read: 20, cache_write: 10, output: 73, ..Tokens::default() };
        assert_eq!((converse.facts.terminal, converse.facts.tokens), (true, Some(want)));
        let mut whole = Converse::default();
        let body = json!({"output": {"message": {"content": [{"text": "x"}]}}, "stopReason": "end_turn", "usage": last["usage"]});
        whole.body(body.to_string().as_bytes()).unwrap();
        assert_eq!((whole.facts.terminal, whole.facts.tokens), (true, Some(want)));
    }

    #[test]
    fn an_invocation_of_claude_is_read_as_claudes_own() {
        let events = [
            json!({"type": "message_start", "message": {"type": "message", "id": "m", "model": "claude-x", "content": [],
                "usage": {"input_tokens": 40, "output_tokens": 1, "cache_creation_input_tokens": 30,
                    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}}}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 12}}),
            json!({"type": "message_stop", METRICS: {"inputTokenCount": 40, "outputTokenCount": 12}}),
        ];
        let facts = invoked(&events[..3]);
        assert_eq!((facts.terminal, facts.delivered), (false, 5));
        let facts = invoked(&events);
        let want = Tokens { input: 40, cache_write: 10, cache_write_long: 20, output: 12, ..Tokens::default() };
        assert_eq!((facts.terminal, facts.tokens, facts.model.as_deref()), (true, Some(want), Some("claude-x")));
    }

    #[test]
    fn an_invocation_in_the_form_of_chat_completions_is_read_as_one() {
        let says = json!({"id": "c", "choices": [{"index": 0, "delta": {"content": "hello"}}]});
        let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
            METRICS: {"inputTokenCount": 70, "outputTokenCount": 9}});
        let facts = invoked(std::slice::from_ref(&says));
        assert_eq!((facts.terminal, facts.delivered), (false, 5));
        let facts = invoked(&[says, end]);
        assert_eq!((facts.terminal, facts.tokens.map(|t| (t.input, t.output))), (true, Some((70, 9))));
        let body = |body: Value| {
            let mut invoke = Invoke::default();
            invoke.body(body.to_string().as_bytes()).unwrap();
            (invoke.facts.terminal, invoke.facts.tokens.map(|t| (t.input, t.output)))
        };
        let usage = json!({"prompt_tokens": 70, "completion_tokens": 60_000, "total_tokens": 60_070});
        assert_eq!(
            body(json!({"choices": [{"message": {"content": "x"}}], "usage": usage})),
            (true, Some((70, 60_000)))
        );
        let llama =
            json!({"generation": "x", "prompt_token_count": 7, "generation_token_count": 2, "stop_reason": "stop"});
        assert_eq!(body(llama), (true, Some((7, 2))));
        let titan = json!({"inputTextTokenCount": 5, "results": [{"tokenCount": 3, "outputText": "x"}]});
        assert_eq!(body(titan), (true, Some((5, 3))));
        assert_eq!(body(json!({"outputs": [{"text": "x"}]})), (false, None));
        assert_eq!(body(json!({"inputTextTokenCount": 5, "results": [{"tokenCount": -3}]})), (false, None));
    }

    #[test]
    fn an_event_that_nobody_knows_counts_with_all_it_has() {
        let odd = json!({"tokens": "hello"});
        assert_eq!(invoked(std::slice::from_ref(&odd)).delivered, odd.to_string().len() as u64);
        assert_eq!(invoked(&[json!({"messageStart": {"role": "assistant"}})]).delivered, 0);
    }

    #[test]
    fn cache_writes_are_told_apart_by_their_time() {
        let details = json!([{"ttl": "1h", "inputTokens": 20}, {"ttl": "5m", "inputTokens": 10}]);
        let usage = json!({"inputTokens": 1, "outputTokens": 2, "cacheWriteInputTokens": 30, "cacheDetails": details});
        let want = Tokens { input: 1, output: 2, cache_write: 10, cache_write_long: 20, ..Tokens::default() };
        assert_eq!(read(&usage), Ok(want));
    }

    #[test]
    fn of_any_other_model_bedrocks_own_figures_count() {
        let nova = json!({"contentBlockDelta": {"delta": {"text": "hello"}, "contentBlockIndex": 0}});
        let llama = json!({"generation": "hello", "prompt_token_count": 9, METRICS: null});
        let end = json!({"metadata": {"usage": {"inputTokens": 1, "outputTokens": 1}}, METRICS: {"inputTokenCount": 47,
            "outputTokenCount": 12, "cacheReadInputTokenCount": 3, "cacheWriteInputTokenCount": 0}});
        for text in [nova, llama] {
            assert_eq!(
                (invoked(std::slice::from_ref(&text)).terminal, invoked(std::slice::from_ref(&text)).delivered),
                (false, 5)
            );
            let facts = invoked(&[text, end.clone()]);
            let want = Tokens { input: 47, cache_read: 3, output: 12, ..Tokens::default() };
            assert_eq!((facts.terminal, facts.tokens), (true, Some(want)));
        }
        let mut invoke = Invoke::default();
        let odd = json!({METRICS: {"inputTokenCount": -1, "outputTokenCount": 2}});
        assert_eq!(invoke.event(&wrapped(&odd)), Err(Unreadable::Figures));
        assert_eq!((invoke.facts.tokens, invoke.facts.terminal), (None, false));
        assert_eq!(Invoke::default().event(br#"{"bytes":"%%"}"#), Err(Unreadable::Form));
    }
}

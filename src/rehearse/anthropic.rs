//! Answers of the Anthropic Messages API: streams of events, or one JSON message.

use bytes::Bytes;
use serde_json::{Value, json};

use super::body::Piece;
use super::tools::Call;
use crate::types::Tokens;

/// Characters of one delta.
const CHUNK: usize = 20;

/// What an answer is made of.
pub(super) struct Answer<'a> {
    /// Hex digits that make its ids its own.
    pub(super) id: &'a str,
    /// The model that was asked for.
    pub(super) model: &'a str,
    /// What the model says; nothing when empty.
    pub(super) text: &'a str,
    /// What it calls.
    pub(super) call: Option<&'a Call>,
    /// What was used.
    pub(super) tokens: Tokens,
}

impl Answer<'_> {
    pub(super) fn stop_reason(&self) -> &'static str {
        if self.call.is_some() { "tool_use" } else { "end_turn" }
    }

    /// Name and arguments of the call, as the API gives them.
    pub(super) fn tool(&self) -> Option<(String, Value)> {
        self.call.map(|call| match call {
            Call::Function(name, input) => (name.clone(), input.clone()),
            Call::Custom(name, text) => (name.clone(), json!({"input": text})),
            Call::LocalShell(argv) => ("bash".to_owned(), json!({"command": argv.join(" ")})),
        })
    }

    fn usage(&self, output: u64) -> Value {
        let t = &self.tokens;
        json!({
            "input_tokens": t.input,
            "cache_creation_input_tokens": t.cache_write + t.cache_write_long,
            "cache_read_input_tokens": t.cache_read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": t.cache_write,
                "ephemeral_1h_input_tokens": t.cache_write_long,
            },
            "output_tokens": output,
            "service_tier": "standard",
        })
    }

    fn message(&self, content: &Value, stop_reason: Value, usage: Value) -> Value {
        json!({
            "id": format!("msg_{}", self.id), "type": "message", "role": "assistant", "model": self.model,
            "content": content, "stop_reason": stop_reason, "stop_sequence": null, "usage": usage,
        })
    }

    /// Gets the events of a stream.
    pub(super) fn stream(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut say = |event: Value| pieces.push(Piece::event(event["type"].as_str().unwrap_or_default(), &event));
        say(json!({"type": "message_start", "message": self.message(&json!([]), Value::Null, self.usage(1))}));
        say(json!({"type": "ping"}));
        let mut index = 0;
        if !self.text.is_empty() {
            say(json!({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}));
            for text in chunks(self.text) {
                let delta = json!({"type": "text_delta", "text": text});
                say(json!({"type": "content_block_delta", "index": index, "delta": delta}));
            }
            say(json!({"type": "content_block_stop", "index": index}));
            index += 1;
        }
        if let Some((name, input)) = self.tool() {
            let block = json!({"type": "tool_use", "id": format!("toolu_{}", self.id), "name": name, "input": {}});
            say(json!({"type": "content_block_start", "index": index, "content_block": block}));
            let input = input.to_string();
            for part in std::iter::once("").chain(chunks(&input)) {
                let delta = json!({"type": "input_json_delta", "partial_json": part});
                say(json!({"type": "content_block_delta", "index": index, "delta": delta}));
            }
            say(json!({"type": "content_block_stop", "index": index}));
        }
        let mut usage = self.usage(self.tokens.output);
        if let Some(usage) = usage.as_object_mut() {
            // The split by lifetime and the tier come with the start of a stream only.
            usage.retain(|key, _| key != "cache_creation" && key != "service_tier");
            usage.insert("output_tokens_details".into(), json!({"thinking_tokens": self.tokens.reasoning}));
        }
        let delta = json!({"stop_reason": self.stop_reason(), "stop_sequence": null});
        say(json!({"type": "message_delta", "delta": delta, "usage": usage}));
        say(json!({"type": "message_stop"}));
        if let Some(last) = pieces.last_mut() {
            last.terminal = true;
        }
        pieces
    }

    /// Gets the answer as one message.
    pub(super) fn whole(&self) -> Piece {
        let mut content = Vec::new();
        if !self.text.is_empty() {
            content.push(json!({"type": "text", "text": self.text}));
        }
        if let Some((name, input)) = self.tool() {
            content.push(json!({"type": "tool_use", "id": format!("toolu_{}", self.id), "name": name, "input": input}));
        }
        let mut usage = self.usage(self.tokens.output);
        usage["output_tokens_details"] = json!({"thinking_tokens": self.tokens.reasoning});
        let message = self.message(&Value::Array(content), json!(self.stop_reason()), usage);
        Piece { bytes: Bytes::from(message.to_string()), terminal: true }
    }
}

/// Gets the body of an error.
pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}})
}

/// Gets the list of models.
pub(super) fn models() -> Value {
    let model = |id: &str| json!({"type": "model", "id": id, "display_name": id, "created_at": "2026-01-01T00:00:00Z"});
    json!({"data": [model("claude-rehearsal")], "has_more": false, "first_id": "claude-rehearsal", "last_id": "claude-rehearsal"})
}

/// Cuts `text` into deltas.
pub(super) fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.char_indices().nth(CHUNK).map_or(rest.len(), |(at, _)| at);
        let (chunk, left) = rest.split_at(end);
        rest = left;
        (!chunk.is_empty()).then_some(chunk)
    })
}

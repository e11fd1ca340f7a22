//! Answers of Amazon Bedrock: Converse and Invoke, as event streams or one JSON body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::anthropic::{Answer, chunks};
use super::body::Piece;
use crate::meter::event_stream;

/// Key under which Bedrock says what an invocation used.
const METRICS: &str = "amazon-bedrock-invocationMetrics";

/// Makes answers of Converse.
pub(super) struct Converse<'a>(pub(super) Answer<'a>);

/// Makes answers of Invoke, of Claude.
pub(super) struct Invoke<'a>(pub(super) Answer<'a>);

fn event(kind: &str, payload: &Value) -> Piece {
    Piece { bytes: Bytes::from(event_stream::event(kind, payload.to_string().as_bytes())), terminal: false }
}

impl Converse<'_> {
    fn usage(&self) -> Value {
        let t = &self.0.tokens;
        let written = t.cache_write + t.cache_write_long;
        json!({"inputTokens": t.input, "outputTokens": t.output, "cacheReadInputTokens": t.cache_read,
            "cacheWriteInputTokens": written, "totalTokens": t.input + t.cache_read + written + t.output})
    }

    /// Gets the events of a stream. Bedrock fills each up (`p`), so that lengths tell nothing.
    pub(super) fn stream(&self) -> Vec<Piece> {
        let mut pieces = vec![event("messageStart", &json!({"role": "assistant", "p": "abcdefgh"}))];
        let mut index = 0;
        let delta = |pieces: &mut Vec<Piece>, index: usize, delta: Value| {
            let payload = json!({"contentBlockIndex": index, "delta": delta, "p": "abcdefgh"});
            pieces.push(event("contentBlockDelta", &payload));
        };
        let stop = |pieces: &mut Vec<Piece>, index: usize| {
            pieces.push(event("contentBlockStop", &json!({"contentBlockIndex": index, "p": "abcd"})));
        };
        if !self.0.text.is_empty() {
            for text in chunks(self.0.text) {
                delta(&mut pieces, index, json!({"text": text}));
            }
            stop(&mut pieces, index);
            index += 1;
        }
        if let Some((name, input)) = self.0.tool() {
            let start = json!({"toolUse": {"toolUseId": format!("tooluse_{}", self.0.id), "name": name}});
            pieces.push(event("contentBlockStart", &json!({"contentBlockIndex": index, "start": start, "p": "ab"})));
            let input = input.to_string();
            for part in chunks(&input) {
                delta(&mut pieces, index, json!({"toolUse": {"input": part}}));
            }
            stop(&mut pieces, index);
        }
        pieces.push(event("messageStop", &json!({"stopReason": self.0.stop_reason(), "p": "abc"})));
        let last = json!({"usage": self.usage(), "metrics": {"latencyMs": 1}, "p": "abcdef"});
        pieces.push(Piece { terminal: true, ..event("metadata", &last) });
        pieces
    }

    /// Gets the answer as one body.
    pub(super) fn whole(&self) -> Piece {
        let mut content = Vec::new();
        if !self.0.text.is_empty() {
            content.push(json!({"text": self.0.text}));
        }
        if let Some((name, input)) = self.0.tool() {
            let id = format!("tooluse_{}", self.0.id);
            content.push(json!({"toolUse": {"toolUseId": id, "name": name, "input": input}}));
        }
        let body = json!({"output": {"message": {"role": "assistant", "content": content}},
            "stopReason": self.0.stop_reason(), "usage": self.usage(), "metrics": {"latencyMs": 1}});
        Piece { bytes: Bytes::from(body.to_string()), terminal: true }
    }
}

impl Invoke<'_> {
    /// Gets the events of a stream: those of Claude, each wrapped; the last with what Bedrock counts.
    pub(super) fn stream(&self) -> Vec<Piece> {
        let t = &self.0.tokens;
        let counted = json!({"inputTokenCount": t.input, "outputTokenCount": t.output, "invocationLatency": 1,
            "firstByteLatency": 1, "cacheReadInputTokenCount": t.cache_read,
            "cacheWriteInputTokenCount": t.cache_write + t.cache_write_long});
        let wrap = |piece: &Piece| {
            let mut inner: Value = piece.data().and_then(|data| serde_json::from_slice(data).ok()).unwrap_or_default();
            if piece.terminal {
                inner[METRICS] = counted.clone();
            }
            let payload = json!({"bytes": STANDARD.encode(inner.to_string()), "p": "abcdefgh"});
            Piece { terminal: piece.terminal, ..event("chunk", &payload) }
        };
        self.0.stream().iter().filter(|piece| piece.data().is_some()).map(wrap).collect()
    }
}

/// Gets the body of an error.
pub(super) fn error(message: &str) -> Value {
    json!({ "message": message })
}

/// Gets the type of an error, which stands in a header.
pub(super) fn kind(status: u16) -> &'static str {
    match status {
        400 | 402 | 405..=428 => "ValidationException",
        401 | 403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        429 => "ThrottlingException",
        503 | 529 => "ServiceUnavailableException",
        _ => "InternalServerException",
    }
}

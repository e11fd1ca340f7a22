//! Answers of the OpenAI Chat Completions API: streams of chunks, or one JSON completion.

use bytes::Bytes;
use serde_json::{Value, json};

use super::anthropic::{Answer, chunks};
use super::body::Piece;
use super::tools::Call;

/// Makes answers; `created` is a Unix time in seconds.
pub(super) struct Completion<'a> {
    /// What is said.
    pub(super) answer: Answer<'a>,
    /// When.
    pub(super) created: u64,
    /// The request asked for the usage of a stream.
    pub(super) include_usage: bool,
}

impl Completion<'_> {
    fn usage(&self) -> Value {
        let t = &self.answer.tokens;
        let written = t.cache_write + t.cache_write_long;
        let prompt = t.input + t.cache_read + written;
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": t.output,
            "total_tokens": prompt + t.output,
            "prompt_tokens_details": {"cached_tokens": t.cache_read, "cache_write_tokens": written, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": t.reasoning, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
        })
    }

    fn finish_reason(&self) -> &'static str {
        if self.answer.call.is_some() { "tool_calls" } else { "stop" }
    }

    fn tool_call(&self) -> Option<Value> {
        let function = |name: &str, arguments: String| {
            json!({"id": format!("call_{}", self.answer.id), "type": "function",
                "function": {"name": name, "arguments": arguments}})
        };
        self.answer.call.map(|call| match call {
            Call::Function(name, input) => function(name, input.to_string()),
            Call::Custom(name, input) => function(name, json!({"input": input}).to_string()),
            Call::LocalShell(argv) => function("bash", json!({"command": argv.join(" ")}).to_string()),
        })
    }

    fn chunk(&self, choices: Value, usage: Value) -> Piece {
        let mut chunk = json!({"id": format!("chatcmpl-{}", self.answer.id), "object": "chat.completion.chunk",
            "created": self.created, "model": self.answer.model, "service_tier": "default", "system_fingerprint": null,
            "choices": choices, "obfuscation": "xxxxxxxx"});
        if self.include_usage {
            chunk["usage"] = usage;
        }
        Piece { bytes: Bytes::from(format!("data: {chunk}\n\n")), terminal: false }
    }

    fn delta(&self, delta: Value, finish: Value) -> Piece {
        self.chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]), Value::Null)
    }

    /// Gets the chunks of a stream.
    pub(super) fn stream(&self) -> Vec<Piece> {
        let mut pieces = vec![self.delta(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null)];
        pieces.extend(chunks(self.answer.text).map(|text| self.delta(json!({"content": text}), Value::Null)));
        if let Some(mut call) = self.tool_call() {
            let arguments = call["function"]["arguments"].as_str().unwrap_or_default().to_owned();
            call["index"] = json!(0);
            call["function"]["arguments"] = json!("");
            pieces.push(self.delta(json!({"tool_calls": [call]}), Value::Null));
            pieces.extend(chunks(&arguments).map(|part| {
                let call = json!({"index": 0, "function": {"arguments": part}});
                self.delta(json!({"tool_calls": [call]}), Value::Null)
            }));
        }
        pieces.push(self.delta(json!({}), json!(self.finish_reason())));
        if self.include_usage {
            pieces.push(self.chunk(json!([]), self.usage()));
        }
        if let Some(last) = pieces.last_mut() {
            last.terminal = true;
        }
        pieces.push(Piece { bytes: Bytes::from_static(b"data: [DONE]\n\n"), terminal: false });
        pieces
    }

    /// Gets the answer as one completion.
    pub(super) fn whole(&self) -> Piece {
        let mut message = json!({"role": "assistant", "content": self.answer.text, "refusal": null, "annotations": []});
        if let Some(call) = self.tool_call() {
            message["tool_calls"] = json!([call]);
        }
        let body = json!({"id": format!("chatcmpl-{}", self.answer.id), "object": "chat.completion",
            "created": self.created, "model": self.answer.model, "service_tier": "default",
            "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": self.finish_reason()}],
            "usage": self.usage()});
        Piece { bytes: Bytes::from(body.to_string()), terminal: true }
    }
}

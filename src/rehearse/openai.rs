//! Answers of the OpenAI Responses API: streams of events, or one JSON response.

use bytes::Bytes;
use serde_json::{Value, json};

use super::anthropic::{Answer, chunks};
use super::body::Piece;
use super::tools::Call;

/// Makes answers; `created` is a Unix time in seconds.
pub(super) struct Responses<'a> {
    /// What is said.
    pub(super) answer: Answer<'a>,
    /// When.
    pub(super) created: u64,
}

/// The events of one stream.
#[derive(Default)]
struct Events(Vec<Piece>);

impl Events {
    fn say(&mut self, mut event: Value) {
        event["sequence_number"] = json!(self.0.len());
        self.0.push(Piece::event(event["type"].as_str().unwrap_or_default(), &event));
    }
}

impl Responses<'_> {
    fn usage(&self) -> Value {
        let t = &self.answer.tokens;
        let written = t.cache_write + t.cache_write_long;
        let input = t.input + t.cache_read + written;
        json!({
            "input_tokens": input,
            "input_tokens_details": {
                "cached_tokens": t.cache_read,
                "cache_write_tokens": written,
                "cache_write_tokens_details": {"ttl_30m_tokens": t.cache_write, "ttl_12h_tokens": t.cache_write_long},
            },
            "output_tokens": t.output,
            "output_tokens_details": {"reasoning_tokens": t.reasoning},
            "total_tokens": input + t.output,
        })
    }

    fn response(&self, status: &str, output: &Value, usage: Value) -> Value {
        json!({
            "id": format!("resp_{}", self.answer.id), "object": "response", "created_at": self.created,
            "status": status, "background": false, "error": null, "incomplete_details": null, "instructions": null,
            "max_output_tokens": null, "model": self.answer.model, "output": output, "parallel_tool_calls": false,
            "previous_response_id": null, "reasoning": {"effort": null, "summary": null}, "service_tier": "default",
            "store": false, "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto",
            "tool_usage": {"image_gen": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}},
            "tools": [], "top_p": 1.0, "truncation": "disabled", "usage": usage, "user": null, "metadata": {},
        })
    }

    fn text_part(&self) -> Value {
        json!({"type": "output_text", "annotations": [], "logprobs": [], "text": self.answer.text})
    }

    /// Gets the items of the output, whole.
    fn items(&self) -> Vec<Value> {
        let id = self.answer.id;
        let mut items = Vec::new();
        if !self.answer.text.is_empty() {
            let content = json!([self.text_part()]);
            items.push(json!({"id": format!("msg_{id}"), "type": "message", "status": "completed",
                "role": "assistant", "content": content}));
        }
        let call_id = format!("call_{id}");
        items.extend(self.answer.call.map(|call| match call {
            Call::Function(name, input) => json!({"id": format!("fc_{id}"), "type": "function_call",
                "status": "completed", "name": name, "call_id": call_id, "arguments": input.to_string()}),
            Call::Custom(name, input) => json!({"id": format!("ctc_{id}"), "type": "custom_tool_call",
                "status": "completed", "name": name, "call_id": call_id, "input": input}),
            Call::LocalShell(argv) => json!({"id": format!("lsh_{id}"), "type": "local_shell_call",
                "status": "completed", "call_id": call_id, "action": {"type": "exec", "command": argv, "env": {}}}),
        }));
        items
    }

    /// Gets the events of a stream.
    pub(super) fn stream(&self) -> Vec<Piece> {
        let mut events = Events::default();
        let begun = self.response("in_progress", &json!([]), Value::Null);
        events.say(json!({"type": "response.created", "response": begun}));
        events.say(json!({"type": "response.in_progress", "response": begun}));
        let items = self.items();
        for (index, item) in items.iter().enumerate() {
            let mut added = item.clone();
            added["status"] = json!("in_progress");
            let open = |key: &str| item.get(key).map(|_| json!(""));
            for key in ["arguments", "input"] {
                if let Some(empty) = open(key) {
                    added[key] = empty;
                }
            }
            if item.get("content").is_some() {
                added["content"] = json!([]);
            }
            events.say(json!({"type": "response.output_item.added", "output_index": index, "item": added}));
            self.contents(&mut events, item, index);
            events.say(json!({"type": "response.output_item.done", "output_index": index, "item": item}));
        }
        let done = self.response("completed", &Value::Array(items), self.usage());
        events.say(json!({"type": "response.completed", "response": done}));
        if let Some(last) = events.0.last_mut() {
            last.terminal = true;
        }
        events.0
    }

    /// Says what is in an item, piece by piece.
    fn contents(&self, events: &mut Events, item: &Value, index: usize) {
        let at = |kind: &str, more: Value| {
            let mut event = json!({"type": kind, "item_id": item["id"], "output_index": index});
            if let (Some(event), Some(more)) = (event.as_object_mut(), more.as_object()) {
                event.extend(more.clone());
            }
            event
        };
        let string = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
        match item["type"].as_str() {
            Some("message") => {
                let empty = json!({"type": "output_text", "annotations": [], "logprobs": [], "text": ""});
                events.say(at("response.content_part.added", json!({"content_index": 0, "part": empty})));
                for delta in chunks(self.answer.text) {
                    let more = json!({"content_index": 0, "delta": delta, "logprobs": [], "obfuscation": "xxxxxxxx"});
                    events.say(at("response.output_text.delta", more));
                }
                let done = json!({"content_index": 0, "text": self.answer.text, "logprobs": []});
                events.say(at("response.output_text.done", done));
                events.say(at("response.content_part.done", json!({"content_index": 0, "part": self.text_part()})));
            }
            Some("function_call") => {
                let arguments = string("arguments");
                for delta in chunks(&arguments) {
                    events.say(at("response.function_call_arguments.delta", json!({"delta": delta})));
                }
                events.say(at("response.function_call_arguments.done", json!({"arguments": arguments})));
            }
            Some("custom_tool_call") => {
                let input = string("input");
                for delta in chunks(&input) {
                    events.say(at("response.custom_tool_call_input.delta", json!({"delta": delta})));
                }
                events.say(at("response.custom_tool_call_input.done", json!({"input": input})));
            }
            _ => {}
        }
    }

    /// Gets the answer as one response.
    pub(super) fn whole(&self) -> Piece {
        let response = self.response("completed", &Value::Array(self.items()), self.usage());
        Piece { bytes: Bytes::from(response.to_string()), terminal: true }
    }

    /// Gets the answer to a request for compaction.
    pub(super) fn compacted(&self) -> Piece {
        let item =
            json!({"id": format!("cmp_{}", self.answer.id), "type": "compaction", "encrypted_content": "cmVoZWFyc2Fs"});
        let body = json!({"id": format!("resp_{}", self.answer.id), "object": "response.compaction",
            "created_at": self.created, "output": [item], "usage": self.usage()});
        Piece { bytes: Bytes::from(body.to_string()), terminal: true }
    }
}

/// Gets the body of an error.
pub(super) fn error(status: u16, message: &str) -> Value {
    let (kind, code) = match status {
        401 => ("invalid_request_error", json!("invalid_api_key")),
        429 => ("requests", json!("rate_limit_exceeded")),
        400..=499 => ("invalid_request_error", Value::Null),
        _ => ("server_error", Value::Null),
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// Gets the list of models.
pub(super) fn models() -> Value {
    json!({"object": "list", "data": [{"id": "gpt-rehearsal", "object": "model", "created": 0, "owned_by": "bb"}]})
}

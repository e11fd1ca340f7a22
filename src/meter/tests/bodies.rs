//! One answer of each API in each of its framings, with everything in it that its figures could be taken from by mistake.

use serde_json::{Value, json};

use super::{anthropic_body, gemini_body, gemini_chunks, openai_body};
use crate::meter::event_stream;
use crate::types::Api;

/// A stream of Chat Completions with reasoning, text, a tool call, and its usage at the end.
pub(super) fn chat_body() -> Vec<u8> {
    let chunk = |choices: Value, usage: Value| {
        json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-x", "choices": choices,
            "usage": usage, "obfuscation": "xxxxxxxx"})
    };
    let says = |delta: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]), Value::Null);
    let usage = json!({"prompt_tokens": 500, "completion_tokens": 80, "total_tokens": 580,
        "prompt_tokens_details": {"cached_tokens": 300, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 30}});
    let chunks = [
        says(json!({"role": "assistant", "content": "", "refusal": null})),
        says(json!({"reasoning_content": "so, h\u{e9}"})),
        says(json!({"content": "{\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":9}}"})),
        says(json!({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{\"a\":"}}]})),
        chunk(json!([{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]), Value::Null),
        chunk(json!([]), usage),
    ];
    let mut body: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    body += "data: [DONE]\n\n";
    body.into_bytes()
}

/// A stream of Bedrock's Converse.
pub(super) fn converse_body() -> Vec<u8> {
    let delta = |delta: Value| ("contentBlockDelta", json!({"contentBlockIndex": 0, "delta": delta, "p": "abcdef"}));
    let usage = json!({"inputTokens": 36, "outputTokens": 73, "totalTokens": 139, "cacheReadInputTokens": 20,
        "cacheWriteInputTokens": 10});
    let events = [
        ("messageStart", json!({"role": "assistant", "p": "ab"})),
        delta(json!({"reasoningContent": {"text": "so, h\u{e9}"}})),
        delta(json!({"text": "{\"usage\":{\"inputTokens\":9,\"outputTokens\":9}}"})),
        delta(json!({"toolUse": {"input": "{\"a\":1}"}})),
        ("messageStop", json!({"stopReason": "end_turn", "p": "abc"})),
        ("metadata", json!({"usage": usage, "metrics": {"latencyMs": 5}, "p": "a"})),
    ];
    events.iter().flat_map(|(kind, payload)| event_stream::event(kind, payload.to_string().as_bytes())).collect()
}

/// A stream of Bedrock's Invoke, of Claude.
pub(super) fn invoke_body() -> Vec<u8> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let text = String::from_utf8(anthropic_body()).unwrap();
    let data: Vec<Value> =
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|l| serde_json::from_str(l).unwrap()).collect();
    let last = data.len() - 1;
    let wrap = |(at, mut event): (usize, Value)| {
        if at == last {
            event["amazon-bedrock-invocationMetrics"] = json!({"inputTokenCount": 2, "outputTokenCount": 1});
        }
        let payload = json!({"bytes": STANDARD.encode(event.to_string()), "p": "abcdefgh"});
        event_stream::event("chunk", payload.to_string().as_bytes())
    };
    data.into_iter().enumerate().flat_map(wrap).collect()
}

/// Every one of them.
pub(super) fn all() -> Vec<(&'static str, Api, Vec<u8>)> {
    let crlf = |body: Vec<u8>| String::from_utf8(body).unwrap().replace('\n', "\r\n").into_bytes();
    let message = json!({"type": "message", "id": "m", "model": "c", "content": [{"type": "text", "text": "\\\" }{ \u{e9}"}],
        "usage": {"input_tokens": 136, "cache_read_input_tokens": 3, "output_tokens": 16}});
    let completion = json!({"id": "c", "object": "chat.completion", "model": "m", "choices": [{"index": 0,
        "message": {"role": "assistant", "content": "{\"usage\":{}}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}});
    let converse = json!({"output": {"message": {"role": "assistant", "content": [{"text": "\"usage\":{}"}]}},
        "stopReason": "end_turn", "usage": {"inputTokens": 7, "outputTokens": 5, "totalTokens": 12}});
    let wrapped: String = gemini_chunks()
        .iter()
        .map(|chunk| format!("data: {}\r\n\r\n", json!({"response": chunk, "traceId": "t"})))
        .collect();
    vec![
        ("anthropic, events", Api::Anthropic, anthropic_body()),
        ("anthropic, events with CRLF", Api::Anthropic, crlf(anthropic_body())),
        ("anthropic, events behind a BOM", Api::Anthropic, [b"\xef\xbb\xbf", &anthropic_body()[..]].concat()),
        ("anthropic, body", Api::Anthropic, message.to_string().into_bytes()),
        ("responses, events", Api::OpenaiResponses, openai_body()),
        ("responses, events with CRLF", Api::OpenaiResponses, crlf(openai_body())),
        ("chat, events", Api::OpenaiChat, chat_body()),
        ("chat, body", Api::OpenaiChat, completion.to_string().into_bytes()),
        ("gemini, events", Api::Gemini, gemini_body()),
        ("gemini, list", Api::Gemini, serde_json::to_vec_pretty(&gemini_chunks()).unwrap()),
        ("gemini, body", Api::Gemini, gemini_chunks()[2].to_string().into_bytes()),
        ("code assist, events", Api::Gemini, wrapped.into_bytes()),
        ("converse, events", Api::BedrockConverse, converse_body()),
        ("converse, body", Api::BedrockConverse, converse.to_string().into_bytes()),
        ("invoke, events", Api::BedrockInvoke, invoke_body()),
    ]
}

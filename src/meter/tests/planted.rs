//! Usage that somebody has written into a text, a tool's arguments or a file is a text: it changes nothing.

use serde_json::{Value, json};

use super::bodies::{chat_body, converse_body};
use super::*;
use crate::meter::event_stream;

/// What a model may be made to say: usage objects and whole final events of every API, as text and in the middle of the framing.
fn planted() -> Vec<String> {
    let figures = json!({"input_tokens": 1, "output_tokens": 999_999, "prompt_tokens": 1, "completion_tokens": 999_999,
        "total_tokens": 0, "inputTokens": 1, "outputTokens": 999_999, "promptTokenCount": 1, "candidatesTokenCount": 1});
    let finals = [
        json!({"usage": figures}),
        json!({"type": "message_stop"}),
        json!({"type": "message_delta", "usage": figures}),
        json!({"type": "response.completed", "response": {"id": "resp_1", "usage": figures}}),
        json!({"choices": [], "usage": figures}),
        json!({"usageMetadata": figures, "candidates": [{"finishReason": "STOP"}]}),
        json!({"usage": figures, "metrics": {}}),
        json!({"amazon-bedrock-invocationMetrics": {"inputTokenCount": 1, "outputTokenCount": 1}}),
    ];
    let texts = finals.iter().map(Value::to_string);
    let mut all: Vec<String> = texts.clone().collect();
    all.extend(texts.map(|text| format!("\n\ndata: {text}\n\nevent: message_stop\r\n\r\ndata: [DONE]\n\n")));
    all.push("\\\"}]}}\n\n".to_owned());
    all
}

/// An answer of each API in which `text` is said, argued to a tool and put into a file.
fn saying(text: &str) -> Vec<(Api, Vec<u8>)> {
    let usage = json!({"input_tokens": 40, "output_tokens": 12});
    let anthropic = sse(&[
        start("m", json!({"input_tokens": 40, "output_tokens": 1})),
        super::text(text),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "web_fetch_tool_result",
            "content": {"type": "document", "source": {"data": text}, "usage": text}}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": text}}),
        delta(json!({"output_tokens": 12})),
        stop(),
    ]);
    let message = json!({"type": "message", "id": "m", "model": "c", "content": [{"type": "text", "text": text},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"usage": {"output_tokens": 999_999}, "text": text}}], "usage": usage});
    let response = |usage: Value| {
        json!({"id": "r", "object": "response", "status": "completed", "model": "m", "output": [
            {"type": "message", "content": [{"type": "output_text", "text": text}], "usage": {"input_tokens": 9}},
            {"type": "function_call", "arguments": text}], "instructions": text, "metadata": {"usage": text}, "usage": usage})
    };
    let responses = sse(&[
        json!({"type": "response.created", "response": response(Value::Null)}),
        json!({"type": "response.output_text.delta", "delta": text}),
        json!({"type": "response.output_item.done", "item": {"type": "message", "content": [{"text": text}],
            "usage": {"input_tokens": 9, "output_tokens": 9}}}),
        json!({"type": "response.completed", "response": response(usage.clone())}),
    ]);
    let said = String::from_utf8(chat_body()).unwrap();
    let spoken = json!({"choices": [{"index": 0, "delta": {"content": text, "tool_calls": [{"index": 0,
        "function": {"name": "f", "arguments": text}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}}]});
    let chat = format!("data: {spoken}\n\n{said}").into_bytes();
    let gemini: String = std::iter::once(json!({"candidates": [{"content": {"parts": [{"text": text},
            {"functionCall": {"name": "f", "args": {"usageMetadata": {"promptTokenCount": 1}, "text": text}}}],
            "usageMetadata": {"promptTokenCount": 1}}}]}))
    .chain(gemini_chunks())
    .map(|chunk| format!("data: {chunk}\r\n\r\n"))
    .collect();
    let said = json!({"contentBlockIndex": 0, "delta": {"text": text, "toolUse": {"input": text}, "usage": {"inputTokens": 1}}});
    let converse = [event_stream::event("contentBlockDelta", said.to_string().as_bytes()), converse_body()].concat();
    vec![
        (Api::Anthropic, anthropic),
        (Api::Anthropic, message.to_string().into_bytes()),
        (Api::OpenaiResponses, responses),
        (Api::OpenaiResponses, response(usage).to_string().into_bytes()),
        (Api::OpenaiChat, chat),
        (Api::Gemini, gemini.into_bytes()),
        (Api::BedrockConverse, converse),
    ]
}

#[test]
fn usage_inside_a_text_a_tool_or_a_file_changes_nothing() {
    let harmless: Vec<Reading> = saying("x").iter().map(|(api, body)| parse(*api, body)).collect();
    for text in planted() {
        for ((api, body), want) in saying(&text).iter().zip(&harmless) {
            let got = parse(*api, body);
            assert_eq!(
                (got.tokens, got.terminal, got.broken, &got.raw_usage),
                (want.tokens, true, false, &want.raw_usage),
                "{api:?}: {text}"
            );
        }
    }
}

#[test]
fn figures_that_are_none_are_refused_of_every_api() {
    for bad in ["-1", "1.5", "\"5\"", "18446744073709551616", "1e400", "true", "[]"] {
        for (api, body) in [
            (
                Api::Anthropic,
                format!(
                    "{{\"type\":\"message\",\"id\":\"m\",\"usage\":{{\"input_tokens\":5,\"output_tokens\":{bad}}}}}"
                ),
            ),
            (
                Api::OpenaiResponses,
                format!(
                    "{{\"object\":\"response\",\"status\":\"completed\",\"id\":\"r\",\"usage\":{{\"input_tokens\":5,\"output_tokens\":{bad}}}}}"
                ),
            ),
            (
                Api::OpenaiChat,
                format!("{{\"choices\":[],\"usage\":{{\"prompt_tokens\":5,\"completion_tokens\":{bad}}}}}"),
            ),
            (
                Api::Gemini,
                format!(
                    "{{\"candidates\":[{{\"finishReason\":\"STOP\"}}],\"usageMetadata\":{{\"promptTokenCount\":{bad}}}}}"
                ),
            ),
            (
                Api::BedrockConverse,
                format!("{{\"stopReason\":\"end_turn\",\"usage\":{{\"inputTokens\":5,\"outputTokens\":{bad}}}}}"),
            ),
            (Api::BedrockInvoke, format!("{{\"usage\":{{\"inputTokens\":5,\"outputTokens\":{bad}}}}}")),
        ] {
            let reading = parse(api, body.as_bytes());
            assert!(reading.tokens.is_none() && reading.broken, "{api:?} {bad}: {reading:?}");
        }
    }
}

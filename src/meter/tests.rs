//! The promises of the meter as a whole: recorded and hand-written answers, whatever way they are cut into pieces.

use std::io::Write;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod bodies;
mod codings;
mod planted;
mod recorded;

fn sse(events: &[Value]) -> Vec<u8> {
    let mut out = String::new();
    for event in events {
        let kind = event["type"].as_str().unwrap_or_default();
        out += &format!("event: {kind}\ndata: {event}\n\n");
    }
    out.into_bytes()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn start(id: &str, usage: Value) -> Value {
    json!({"type": "message_start", "message": {"type": "message", "id": id, "model": "claude-x", "role": "assistant",
        "content": [], "usage": usage}})
}

fn text(text: &str) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
}

fn delta(usage: Value) -> Value {
    json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})
}

fn stop() -> Value {
    json!({"type": "message_stop"})
}

fn anthropic(events: &[Value]) -> Reading {
    parse(Api::Anthropic, &sse(events))
}

fn openai(events: &[Value]) -> Reading {
    parse(Api::OpenaiResponses, &sse(events))
}

/// A stream with everything: cache split, thinking, tool arguments, ping, usage inside text, iterations at the end.
fn anthropic_body() -> Vec<u8> {
    sse(&[
        start(
            "msg_1",
            json!({"input_tokens": 1200, "cache_read_input_tokens": 300, "cache_creation_input_tokens": 90,
                "cache_creation": {"ephemeral_5m_input_tokens": 50, "ephemeral_1h_input_tokens": 40}, "output_tokens": 2}),
        ),
        json!({"type": "ping"}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "so, h\u{e9}"}}),
        text(r#"{"usage":{"input_tokens":999999,"output_tokens":999999}}"#),
        json!({"type": "content_block_delta", "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": "{\"a\":\"message_stop\"}"}}),
        delta(json!({"input_tokens": 2400, "cache_read_input_tokens": 300, "output_tokens": 145,
            "output_tokens_details": {"thinking_tokens": 47}, "iterations": [
                {"type": "message", "input_tokens": 1200, "cache_read_input_tokens": 300, "output_tokens": 135,
                 "cache_creation_input_tokens": 90,
                 "cache_creation": {"ephemeral_5m_input_tokens": 50, "ephemeral_1h_input_tokens": 40}},
                {"type": "advisor_message", "model": "claude-y", "input_tokens": 2543, "output_tokens": 18},
                {"type": "message", "input_tokens": 1200, "output_tokens": 10}]})),
        stop(),
    ])
}

fn openai_body() -> Vec<u8> {
    let response = |status: &str, usage: Value| {
        json!({"id": "resp_1", "object": "response", "status": status, "model": "gpt-x", "output": [],
            "tool_usage": {"image_gen": {"input_tokens": 7, "output_tokens": 7}}, "usage": usage})
    };
    sse(&[
        json!({"type": "response.created", "response": response("in_progress", Value::Null)}),
        json!({"type": "response.output_text.delta", "delta": "{\"usage\":{\"input_tokens\":5}}", "obfuscation": "xxxxxxxxxxxx"}),
        json!({"type": "response.function_call_arguments.delta", "delta": "{\"cmd\":"}),
        json!({"type": "response.completed", "response": response("completed", json!({"input_tokens": 500,
            "input_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 120,
                "cache_write_tokens_details": {"ttl_30m_tokens": 100, "ttl_12h_tokens": 20}},
            "output_tokens": 80, "output_tokens_details": {"reasoning_tokens": 30}, "total_tokens": 580}))}),
    ])
}

/// Chunks as Gemini sends them: cumulative figures, some without any, the last ones after the reason to finish.
fn gemini_chunks() -> Vec<Value> {
    let chunk = |parts: Value, finish: Value, usage: Value| {
        json!({"candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, "finishReason": finish}],
            "usageMetadata": usage, "modelVersion": "gemini-x", "responseId": "r_1"})
    };
    let usage = |candidates: u64| {
        json!({"promptTokenCount": 500, "cachedContentTokenCount": 300, "candidatesTokenCount": candidates,
            "thoughtsTokenCount": 35, "toolUsePromptTokenCount": 7, "totalTokenCount": 542 + candidates})
    };
    vec![
        chunk(json!([{"text": "so, h\u{e9}", "thought": true}]), Value::Null, usage(3)),
        chunk(
            json!([{"text": "{\"usageMetadata\":{\"promptTokenCount\":5}}"}]),
            Value::Null,
            json!({"trafficType": "X"}),
        ),
        chunk(json!([{"functionCall": {"name": "f", "args": {"a": "b"}}}]), json!("STOP"), usage(40)),
        json!({"usageMetadata": usage(41), "modelVersion": "gemini-x", "responseId": "r_1"}),
    ]
}

fn gemini_body() -> Vec<u8> {
    gemini_chunks().iter().map(|chunk| format!("data: {chunk}\r\n\r\n")).collect::<String>().into_bytes()
}

#[test]
fn of_cumulative_chunks_the_last_counts_and_thinking_is_output() {
    let tokens = Tokens { input: 207, cache_read: 300, output: 76, reasoning: 35, ..Tokens::default() };
    let reading = parse(Api::Gemini, &gemini_body());
    assert_eq!((reading.tokens, reading.terminal, reading.broken), (Some(tokens), true, false));
    assert_eq!((reading.model.as_deref(), reading.response_id.as_deref()), (Some("gemini-x"), Some("r_1")));
    // 7 + 40 bytes of text, a name of 1 and arguments of 9.
    assert_eq!(reading.streamed, 57_u64.div_ceil(3));
    // A stream that is one array, and an answer that is not streamed.
    let array = parse(Api::Gemini, Value::Array(gemini_chunks()).to_string().as_bytes());
    assert_eq!((array.tokens, array.terminal, array.streamed), (Some(tokens), true, 57_u64.div_ceil(3)));
    let last = gemini_chunks()[2].to_string();
    let one = parse(Api::Gemini, last.as_bytes());
    assert_eq!((one.tokens.map(|t| t.output), one.terminal), (Some(75), true));
}

#[test]
fn a_stream_of_gemini_says_live_what_it_has_used() {
    let seen = |chunks: &[Value]| {
        let body: String = chunks.iter().map(|chunk| format!("data: {chunk}\r\n\r\n")).collect();
        let reading = parse(Api::Gemini, body.as_bytes());
        (reading.tokens.map(|t| t.output), reading.terminal, reading.broken)
    };
    let chunks = gemini_chunks();
    assert_eq!(seen(&chunks[..1]), (Some(38), false, false));
    assert_eq!(seen(&chunks[..2]), (Some(38), false, false), "a chunk without figures takes none away");
    assert_eq!(seen(&chunks[..3]), (Some(75), true, false));
    // Blocked before it began, and an error in the midst of a stream.
    let blocked = json!({"promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9}});
    assert_eq!(seen(&[blocked]), (Some(0), true, false));
    let error = json!({"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}});
    assert_eq!(seen(&[chunks[0].clone(), error]), (Some(38), false, false));
    assert_eq!(seen(&[json!({"candidates": [{"finishReason": "STOP"}]})]), (None, false, false));
    let odd = json!({"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": -4}});
    assert_eq!(seen(&[chunks[0].clone(), odd]), (None, false, true));
}

#[test]
fn all_iterations_are_summed_and_the_cache_split_is_kept() {
    let reading = parse(Api::Anthropic, &anthropic_body());
    let tokens =
        Tokens { input: 4943, cache_read: 300, cache_write: 50, cache_write_long: 40, output: 163, reasoning: 47 };
    assert_eq!(reading.tokens, Some(tokens));
    assert!(reading.terminal && !reading.broken);
    assert_eq!((reading.model.as_deref(), reading.response_id.as_deref()), (Some("claude-x"), Some("msg_1")));
    // 7 + 56 + 20 bytes of thinking, text and arguments; the last event's name is not among them.
    assert_eq!(reading.streamed, 83_u64.div_ceil(3));
    assert!(reading.raw_usage.unwrap().contains("advisor_message"));
}

#[test]
fn the_last_figure_wins_and_is_never_added() {
    let split = json!({"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 30});
    let first =
        json!({"input_tokens": 43, "cache_creation_input_tokens": 40, "cache_creation": split, "output_tokens": 1});
    let reading = anthropic(&[
        start("m", first),
        delta(json!({"input_tokens": 61, "cache_creation_input_tokens": null, "output_tokens": 5})),
        delta(json!({"output_tokens": 9})),
        stop(),
    ]);
    let tokens = Tokens { input: 61, cache_write: 10, cache_write_long: 30, output: 9, ..Tokens::default() };
    assert_eq!(reading.tokens, Some(tokens));
}

#[test]
fn a_zero_over_a_figure_counts_only_with_iterations() {
    let first = || start("m", json!({"input_tokens": 5, "cache_read_input_tokens": 55096, "output_tokens": 1}));
    let zero =
        anthropic(&[first(), delta(json!({"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 9}))]);
    assert_eq!(zero.tokens, Some(Tokens { input: 5, cache_read: 55096, output: 9, ..Tokens::default() }));
    let entries = json!([{"type": "compaction", "input_tokens": 5, "cache_read_input_tokens": 55096, "output_tokens": 200},
        {"type": "message", "input_tokens": 700, "output_tokens": 9}]);
    let usage = json!({"input_tokens": 700, "cache_read_input_tokens": 0, "output_tokens": 9, "iterations": entries});
    let compacted = anthropic(&[first(), delta(usage)]);
    assert_eq!(compacted.tokens, Some(Tokens { input: 705, cache_read: 55096, output: 209, ..Tokens::default() }));
}

#[test]
fn a_spliced_generation_is_added_and_a_repeated_start_is_not() {
    let usage = || json!({"input_tokens": 17, "output_tokens": 1});
    let spliced = anthropic(&[
        start("a", usage()),
        text("123456789012"),
        start("b", usage()),
        delta(json!({"output_tokens": 65})),
        stop(),
    ]);
    // Of the first one's output only what was delivered is known: 12 bytes.
    assert_eq!(spliced.tokens, Some(Tokens { input: 34, output: 69, ..Tokens::default() }));
    assert_eq!(spliced.response_id.as_deref(), Some("b"));
    let repeated = anthropic(&[start("a", usage()), start("a", usage()), delta(json!({"output_tokens": 65})), stop()]);
    assert_eq!(repeated.tokens, Some(Tokens { input: 17, output: 65, ..Tokens::default() }));
    let again = anthropic(&[start("a", usage()), delta(json!({"output_tokens": 6})), stop(), start("b", usage())]);
    assert!(!again.terminal, "another generation has begun");
    assert_eq!(again.tokens, Some(Tokens { input: 34, output: 7, ..Tokens::default() }));
}

#[test]
fn neither_an_error_nor_a_stop_without_an_output_figure_is_final() {
    let first = start("m", json!({"input_tokens": 17, "output_tokens": 1}));
    let error =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "x"}, "usage": {"output_tokens": 5}});
    for last in [error, stop()] {
        let reading = anthropic(&[first.clone(), last]);
        assert!(!reading.terminal && !reading.broken);
        assert_eq!(reading.tokens, Some(Tokens { input: 17, output: 1, ..Tokens::default() }));
    }
}

#[test]
fn cached_and_written_input_is_taken_out_of_the_input() {
    let reading = parse(Api::OpenaiResponses, &openai_body());
    let tokens =
        Tokens { input: 80, cache_read: 300, cache_write: 100, cache_write_long: 20, output: 80, reasoning: 30 };
    assert_eq!(reading.tokens, Some(tokens));
    assert!(reading.terminal && !reading.broken);
    assert_eq!(reading.streamed, (28_u64 + 7).div_ceil(3), "padding is no output");
    assert_eq!((reading.model.as_deref(), reading.response_id.as_deref()), (Some("gpt-x"), Some("resp_1")));
}

#[test]
fn a_failed_response_without_usage_is_final_and_without_tokens() {
    let failed = json!({"id": "r", "object": "response", "status": "failed", "usage": null});
    let reading = openai(&[
        json!({"type": "error", "code": "insufficient_quota", "usage": {"input_tokens": 1, "output_tokens": 1}}),
        json!({"type": "response.failed", "response": failed}),
    ]);
    assert_eq!((reading.tokens, reading.terminal, reading.broken), (None, true, false));
}

#[test]
fn each_response_of_a_stream_counts_once() {
    let usage = |n: u64| json!({"input_tokens": n, "output_tokens": n});
    let event = |kind: &str, id: &str, usage: Value| json!({"type": kind, "response": {"id": id, "usage": usage}});
    let reading = openai(&[
        event("response.incomplete", "a", usage(5)),
        event("response.created", "b", Value::Null),
        event("response.completed", "b", usage(7)),
        event("response.done", "b", usage(7)),
    ]);
    assert_eq!(reading.tokens, Some(Tokens { input: 12, output: 12, ..Tokens::default() }));
    let begun = openai(&[event("response.incomplete", "a", usage(5)), event("response.created", "b", Value::Null)]);
    assert!(!begun.terminal);
}

#[test]
fn whole_bodies_are_read_with_their_last_bracket() {
    let message = json!({"type": "message", "id": "m", "model": "claude-x", "content": [{"type": "text", "text": "}"}],
        "usage": {"input_tokens": 136, "output_tokens": 16}});
    let mut meter = Meter::new(Api::Anthropic, Some("application/json"), None);
    meter.feed(message.to_string().as_bytes());
    assert!(meter.terminal(), "before the end of the connection is known");
    assert_eq!(meter.reading().tokens, Some(Tokens { input: 136, output: 16, ..Tokens::default() }));
    let compaction =
        json!({"object": "response.compaction", "output": [], "usage": {"input_tokens": 160, "output_tokens": 297}});
    let reading = parse(Api::OpenaiResponses, compaction.to_string().as_bytes());
    assert_eq!(reading.tokens, Some(Tokens { input: 160, output: 297, ..Tokens::default() }));
    let queued = json!({"object": "response", "status": "queued", "usage": null});
    assert!(!parse(Api::OpenaiResponses, queued.to_string().as_bytes()).terminal);
    let error = json!({"type": "error", "error": {"type": "rate_limit_error"}});
    let streamed = (error.to_string().len() as u64).div_ceil(4);
    let want = Reading { streamed, ..Reading::default() };
    assert_eq!(
        parse(Api::Anthropic, error.to_string().as_bytes()),
        want,
        "it has no figures: what there is to see counts"
    );
}

#[test]
fn an_event_that_cannot_be_read_counts_with_all_its_bytes() {
    for length in [1 << 10, 1 << 20] {
        let usage = json!({"prompt_tokens": 5, "completion_tokens": -1});
        let choice = json!({"index": 0, "delta": {"content": "x".repeat(length)}});
        let body = json!({"choices": [choice], "usage": usage}).to_string();
        for bytes in [format!("data: {body}\n\n"), body.clone()] {
            let mut meter = Meter::new(Api::OpenaiChat, None, None);
            bytes.as_bytes().chunks(16 << 10).for_each(|piece| meter.feed(piece));
            let reading = meter.reading();
            assert!(reading.broken && reading.streamed >= length as u64 / 4, "{length}: {}", reading.streamed);
        }
    }
}

#[test]
fn figures_that_are_no_counts_are_refused() {
    for bad in [json!(-1), json!(1.5), json!("5"), json!(1_u64 << 54), json!([1]), json!(true)] {
        let reading = anthropic(&[
            start("m", json!({"input_tokens": 5, "output_tokens": 1})),
            delta(json!({"output_tokens": bad})),
            stop(),
        ]);
        assert_eq!((reading.tokens, reading.terminal, reading.broken), (None, false, true), "{bad}");
        let response = json!({"id": "r", "usage": {"input_tokens": 5, "output_tokens": bad}});
        let reading = openai(&[json!({"type": "response.completed", "response": response})]);
        assert_eq!((reading.tokens, reading.terminal, reading.broken), (None, false, true), "{bad}");
    }
    let empty = openai(&[json!({"type": "response.completed", "response": {"id": "r", "usage": {}}})]);
    assert!(empty.tokens.is_none() && empty.broken);
}

#[test]
fn what_cannot_be_decoded_is_broken_and_what_was_final_stays() {
    let broken = |encoding: Option<&str>, body: &[u8]| {
        let mut meter = Meter::new(Api::Anthropic, Some("text/event-stream"), encoding);
        meter.feed(body);
        meter.finish();
        meter.reading()
    };
    let body = anthropic_body();
    assert!(broken(Some("br"), &body).broken && broken(Some("compress"), &body).broken);
    assert!(broken(Some("gzip, br"), &body).broken, "one coding in another is not followed");
    // What says that it is coded, and is not, is read as what it is.
    for not_so in ["gzip", "zstd", "deflate"] {
        assert!(broken(Some(not_so), &body).terminal, "{not_so}");
    }
    let garbled = broken(None, b"event: message_delta\ndata: {\"type\":\"message_delta\",\n\n");
    assert!(garbled.broken);
    let mut damaged = gzip(&body);
    // The first block's type, behind the ten bytes of header: 3 is reserved (RFC 1951, 3.2.3).
    damaged[10] |= 0b110;
    let damaged = broken(Some("gzip"), &damaged);
    assert!(damaged.broken && !damaged.terminal);
    let mut trailing = gzip(&body);
    trailing.extend_from_slice(b"this is no gzip member at all");
    let trailing = broken(Some("gzip"), &trailing);
    assert!(!trailing.broken && trailing.terminal);
}

#[test]
fn a_bomb_is_broken_and_does_not_lie_in_memory() {
    // 300 MiB of comment lines in about 300 KiB; the pipe keeps no line of them.
    let mut line = vec![b'x'; 1 << 20];
    line[0] = b':';
    line[(1 << 20) - 1] = b'\n';
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..300 {
        encoder.write_all(&line).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 4 << 20);
    let mut meter = Meter::new(Api::Anthropic, Some("text/event-stream"), Some("gzip"));
    meter.feed(&bomb);
    assert!(meter.reading().broken);
}

/// Bodies, for the properties below.
fn any_body() -> impl Strategy<Value = (Api, Vec<u8>)> {
    let all = bodies::all().into_iter().map(|(_, api, body)| (api, body));
    prop::sample::select(all.flat_map(|(api, body)| [(api, gzip(&body)), (api, body)]).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_reading((api, body) in any_body(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let whole = parse(api, &body);
        prop_assert!(whole.terminal && !whole.broken);
        let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(body.len() + 1)).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let mut meter = Meter::new(api, None, None);
        for pair in cuts.windows(2) {
            meter.feed(&body[pair[0]..pair[1]]);
        }
        prop_assert!(meter.terminal(), "final with the last byte, before the end is known");
        meter.finish();
        prop_assert_eq!(meter.reading(), whole);
    }

    #[test]
    fn no_bytes_make_the_meter_fail(body in prop::collection::vec(any::<u8>(), 0..600), header in prop::option::of("[a-z/-]{0,20}")) {
        for api in Api::ALL {
            let mut meter = Meter::new(api, header.as_deref(), None);
            meter.feed(&body);
            meter.finish();
            prop_assert!(meter.reading().tokens.is_none());
        }
    }
}

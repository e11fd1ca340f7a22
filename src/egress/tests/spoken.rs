//! Every further form of a request and its answer through the plane into a row: exact, under its own API's name, with the answer as it came.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::forms::speaks;
use super::*;
use crate::meter::event_stream;
use crate::types::ApiFamily;

/// One form: what is asked, what comes, and what the row says.
struct Form {
    family: ApiFamily,
    path: &'static str,
    body: Value,
    /// None where the server says no type.
    kind: Option<&'static str>,
    answer: Vec<u8>,
    api: &'static str,
    /// The last usage in it.
    usage: Value,
}

/// An answer of Claude's, event by event: 7 tokens in, 5 out.
fn claude() -> [Value; 4] {
    [
        json!({"type": "message_start", "message": {"type": "message", "id": "m", "model": "claude-x", "content": [],
            "usage": {"input_tokens": 7, "output_tokens": 1}}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
        json!({"type": "message_stop"}),
    ]
}

/// A chunk of Gemini's that is its last.
fn gemini() -> Value {
    json!({"candidates": [{"index": 0, "content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}})
}

fn lines(events: &[Value]) -> Vec<u8> {
    events.iter().flat_map(|event| format!("data: {event}\n\n").into_bytes()).collect()
}

fn forms() -> Vec<Form> {
    let usage = json!({"input_tokens": 7, "output_tokens": 5});
    let response = json!({"id": "resp_1", "object": "response", "status": "completed", "model": "gpt-x", "output": [], "usage": usage});
    let wrapped = |event: &Value| {
        event_stream::event("chunk", json!({"bytes": STANDARD.encode(event.to_string())}).to_string().as_bytes())
    };
    let asks = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
    let (json_type, stream_type) = (Some("application/json"), Some("text/event-stream"));
    let form = |family, path, body, kind, answer, api, usage| Form { family, path, body, kind, answer, api, usage };
    vec![
        form(
            ApiFamily::OpenaiResponses,
            "/v1/responses/compact",
            json!({"model": "gpt-x", "input": "hi"}),
            json_type,
            json!({"id": "resp_1", "object": "response.compaction", "output": [], "usage": usage})
                .to_string()
                .into_bytes(),
            "openai_responses",
            usage.clone(),
        ),
        // ChatGPT's backend says no type.
        form(
            ApiFamily::OpenaiResponses,
            "/backend-api/codex/responses",
            json!({"model": "gpt-x", "input": [], "stream": true}),
            None,
            lines(&[
                json!({"type": "response.output_text.delta", "delta": "hello"}),
                json!({"type": "response.completed", "response": response}),
            ]),
            "openai_responses",
            usage,
        ),
        form(
            ApiFamily::CodeAssist,
            "/v1internal:streamGenerateContent?alt=sse",
            json!({"model": "gemini-x", "project": "p", "request": asks}),
            stream_type,
            lines(&[json!({"response": gemini(), "traceId": "t"})]),
            "gemini",
            gemini()["usageMetadata"].clone(),
        ),
        form(
            ApiFamily::Gemini,
            "/v1beta/models/gemini-x:streamGenerateContent",
            asks.clone(),
            json_type,
            format!("[{},\n{}]", json!({"candidates": [{"content": {"parts": [{"text": "a"}]}}]}), gemini())
                .into_bytes(),
            "gemini",
            gemini()["usageMetadata"].clone(),
        ),
        form(
            ApiFamily::Vertex,
            "/v1/projects/p/locations/l/publishers/google/models/gemini-x:generateContent",
            asks,
            json_type,
            gemini().to_string().into_bytes(),
            "gemini",
            gemini()["usageMetadata"].clone(),
        ),
        form(
            ApiFamily::Vertex,
            "/v1/projects/p/locations/l/publishers/anthropic/models/claude-x:streamRawPredict",
            json!({"anthropic_version": "vertex-2023-10-16", "max_tokens": 50, "stream": true, "messages": []}),
            stream_type,
            lines(&claude()),
            "anthropic",
            claude()[2]["usage"].clone(),
        ),
        form(
            ApiFamily::Bedrock,
            "/model/anthropic.claude-x/invoke-with-response-stream",
            json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 50, "messages": []}),
            Some("application/vnd.amazon.eventstream"),
            claude().iter().flat_map(wrapped).collect(),
            "bedrock_invoke",
            claude()[2]["usage"].clone(),
        ),
    ]
}

#[tokio::test]
async fn every_form_ends_as_an_exact_row_and_passes_untouched() {
    for form in forms() {
        let (kind, answer) = (form.kind, form.answer.clone());
        let script: Script = Arc::new(move |_| {
            let (feed, body) = fed();
            // In pieces that end nowhere in particular.
            answer.chunks(41).for_each(|piece| feed.send(Ok(Bytes::copy_from_slice(piece))).unwrap());
            let mut answer = Response::builder();
            if let Some(kind) = kind {
                answer = answer.header("content-type", kind);
            }
            answer.body(body).unwrap()
        });
        let bench = speaks(form.family, None, script).await;
        let (status, _, body) = bench.ask(MODEL, "POST", form.path, form.body.to_string()).await;
        assert_eq!((status.as_u16(), body.as_ref()), (200, form.answer.as_slice()), "{}", form.path);
        assert_eq!(bench.seen()[0].body, form.body.to_string(), "{}", form.path);
        let usage = &bench.events("usage").await[0];
        assert_eq!((&usage["source"], &usage["api"]), (&json!("exact"), &json!(form.api)), "{}: {usage}", form.path);
        let tokens = &usage["tokens"];
        assert_eq!((&tokens["input"], &tokens["output"]), (&json!(7), &json!(5)), "{}: {usage}", form.path);
        assert_eq!(bench.counted().await, 12, "{}", form.path);
        let row = super::rows::row(&bench).await;
        assert_eq!((row.api.as_str(), &row.raw), (form.api, &form.usage), "{}: as the API said it", form.path);
    }
}

/// Makes a frame of Zstandard of one block as it is (RFC 8878).
fn zstd(text: &[u8]) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    let head = u32::from(length) << 3 | 1;
    [&[0x28, 0xb5, 0x2f, 0xfd, 0x20, length], &head.to_le_bytes()[..3], text].concat()
}

#[tokio::test]
async fn a_body_in_zstandard_is_read_and_goes_on_as_it_was_read() {
    let form = forms().swap_remove(1);
    let answer = form.answer.clone();
    let script: Script = Arc::new(move |_| Response::builder().body(full(answer.clone())).unwrap());
    let bench = speaks(form.family, None, script).await;
    let body = form.body.to_string();
    let mut client = bench.client(MODEL, false).await;
    let mut request = bench.request(MODEL, "POST", form.path, zstd(body.as_bytes()), false);
    request.headers_mut().insert("content-encoding", "zstd".parse().unwrap());
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), form.answer);
    let seen = &bench.seen()[0];
    assert_eq!((&seen.body[..], seen.headers.get("content-encoding")), (body.as_bytes(), None));
    assert_eq!((bench.counted().await, &bench.events("usage").await[0]["source"]), (12, &json!("exact")));
}

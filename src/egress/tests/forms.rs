//! Model APIs by the form of their requests and answers: what one route lets through, how it is metered, what a refusal looks like.

use super::*;
use crate::meter::event_stream;
use crate::types::ApiFamily;

const CHAT: &str = "/v1/chat/completions";

/// Has the model's host speak `family`.
pub(super) async fn speaks(family: ApiFamily, limit: Option<u64>, script: Script) -> Bench {
    let bench = bench(limit, script).await;
    let mut routes = bench.routes.clone();
    routes[0].api = Some(family);
    let credentials = [("claude".to_owned(), SecretString::from(SECRET))].into();
    bench.handle.set_routes(&Rules { routes, credentials, ..Rules::default() }).unwrap();
    bench
}

fn chunks(with_usage: bool) -> String {
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({"id": "c_1", "object": "chat.completion.chunk", "model": "gpt-x", "choices": choices});
        if with_usage {
            chunk["usage"] = usage;
        }
        format!("data: {chunk}\n\n")
    };
    let says = |delta: Value, finish: Value| {
        chunk(json!([{"index": 0, "delta": delta, "finish_reason": finish}]), Value::Null)
    };
    let mut out = says(json!({"content": "hello"}), Value::Null) + &says(json!({}), json!("stop"));
    if with_usage {
        out += &chunk(json!([]), json!({"prompt_tokens": 70, "completion_tokens": 30, "total_tokens": 100}));
    }
    out + "data: [DONE]\n\n"
}

/// Streams chunks as the API does: with usage where it is asked for.
fn chat() -> Script {
    Arc::new(|seen| {
        let asked: Value = serde_json::from_slice(&seen.body).unwrap();
        let text = chunks(asked["stream_options"]["include_usage"] == true);
        // In pieces that end nowhere in particular.
        let pieces: Vec<Bytes> = text.as_bytes().chunks(37).map(Bytes::copy_from_slice).collect();
        let (feed, body) = fed();
        pieces.into_iter().for_each(|piece| feed.send(Ok(piece)).unwrap());
        sse(body)
    })
}

fn question(options: Option<Value>) -> String {
    let mut body = json!({"model": "gpt-x", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    if let Some(options) = options {
        body["stream_options"] = options;
    }
    body.to_string()
}

#[tokio::test]
async fn a_stream_of_chat_is_exact_whatever_its_client_asked_for_and_says_no_more_than_that() {
    for (options, asked) in
        [(None, false), (Some(json!({"include_usage": false})), false), (Some(json!({"include_usage": true})), true)]
    {
        let bench = speaks(ApiFamily::Openai, None, chat()).await;
        let (status, _, body) = bench.ask(MODEL, "POST", CHAT, question(options.clone())).await;
        assert_eq!(status, 200);
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(body.contains("prompt_tokens"), asked, "{options:?}: {body}");
        assert!(body.contains("hello") && body.ends_with("data: [DONE]\n\n"), "{body}");
        if asked {
            assert_eq!(body, chunks(true), "untouched");
        }
        let usage = &bench.events("usage").await[0];
        assert_eq!((&usage["source"], &usage["api"]), (&json!("exact"), &json!("openai_chat")));
        assert_eq!((&usage["tokens"]["input"], &usage["tokens"]["output"]), (&json!(70), &json!(30)));
        let seen: Value = serde_json::from_slice(&bench.seen()[0].body).unwrap();
        assert_eq!(seen["stream_options"]["include_usage"], true);
        if asked {
            assert_eq!(bench.seen()[0].body, question(options), "untouched");
        }
    }
}

#[tokio::test]
async fn a_chat_that_is_not_streamed_is_left_as_it_is() {
    let whole = json!({"id": "c", "object": "chat.completion", "model": "gpt-x", "choices": [{"index": 0,
        "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}});
    let bench = speaks(ApiFamily::OpenaiChat, None, answers(whole.to_string())).await;
    let body = json!({"model": "gpt-x", "messages": []}).to_string();
    let (status, _, answer) = bench.ask(MODEL, "POST", CHAT, body.clone()).await;
    assert_eq!((status.as_u16(), answer), (200, whole.to_string().into()));
    assert_eq!(bench.seen()[0].body, body);
    assert_eq!(bench.counted().await, 12);
}

#[tokio::test]
async fn one_host_speaks_several_forms_and_each_is_metered_as_what_it_is() {
    let response = json!({"id": "r", "object": "response", "status": "completed", "model": "gpt-x", "output": [],
        "usage": {"input_tokens": 7, "output_tokens": 5}});
    let bench = speaks(ApiFamily::Openai, None, answers(response.to_string())).await;
    let body = json!({"model": "gpt-x", "input": "hi"}).to_string();
    assert_eq!(bench.ask(MODEL, "POST", "/v1/responses", body).await.0, 200);
    assert_eq!(bench.events("usage").await[0]["api"], "openai_responses");
    // What spends unseen is refused, and never leaves.
    for path in ["/v1/batches", "/v1/files", "/v1/realtime/sessions", "/v1/embeddings"] {
        let (status, headers, _) = bench.ask(MODEL, "POST", path, "{}").await;
        assert_eq!(
            (status.as_u16(), &headers[deny::HEADER]),
            (404, &"metered_path_unknown".parse().unwrap()),
            "{path}"
        );
    }
    assert_eq!(bench.seen().len(), 1);
}

#[tokio::test]
async fn an_event_stream_of_bedrock_passes_untouched_and_is_exact() {
    let mut stream = event_stream::event("contentBlockDelta", br#"{"contentBlockIndex":0,"delta":{"text":"hello"}}"#);
    stream.extend(event_stream::event("messageStop", br#"{"stopReason":"end_turn"}"#));
    stream.extend(event_stream::event(
        "metadata",
        br#"{"usage":{"inputTokens":36,"outputTokens":73,"totalTokens":109}}"#,
    ));
    let sent = stream.clone();
    let script: Script = Arc::new(move |_| {
        let (feed, body) = fed();
        sent.chunks(50).for_each(|piece| feed.send(Ok(Bytes::copy_from_slice(piece))).unwrap());
        Response::builder().header("content-type", "application/vnd.amazon.eventstream").body(body).unwrap()
    });
    let bench = speaks(ApiFamily::Bedrock, None, script).await;
    let body =
        json!({"messages": [{"role": "user", "content": [{"text": "hi"}]}], "inferenceConfig": {"maxTokens": 100}});
    let path = "/model/us.anthropic.claude-v1%3A0/converse-stream";
    let (status, _, answer) = bench.ask(MODEL, "POST", path, body.to_string()).await;
    assert_eq!((status.as_u16(), answer.as_ref()), (200, &stream[..]));
    let usage = &bench.events("usage").await[0];
    assert_eq!((&usage["source"], &usage["api"]), (&json!("exact"), &json!("bedrock_converse")));
    assert_eq!(bench.counted().await, 36 + 73);
}

#[tokio::test]
async fn a_budget_that_is_spent_is_told_in_the_words_of_what_was_asked() {
    for (family, path, body, status, key, want) in [
        (ApiFamily::Openai, CHAT, question(None), 429, "/error/code", "insufficient_quota"),
        (
            ApiFamily::Openai,
            "/v1/responses",
            json!({"model": "m", "input": "x"}).to_string(),
            429,
            "/error/type",
            "usage_limit_reached",
        ),
        (ApiFamily::Bedrock, "/model/m/converse", json!({"messages": []}).to_string(), 400, "/message", ""),
        (
            ApiFamily::Vertex,
            "/v1/projects/p/locations/l/publishers/anthropic/models/c:rawPredict",
            json!({"messages": []}).to_string(),
            429,
            "/error/type",
            "rate_limit_error",
        ),
    ] {
        let bench = speaks(family, Some(0), answers(String::new())).await;
        let (got, headers, answer) = bench.ask(MODEL, "POST", path, body).await;
        assert_eq!((got.as_u16(), &headers[deny::HEADER]), (status, &"budget_exhausted".parse().unwrap()), "{path}");
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let said = answer.pointer(key).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}: {answer}"));
        if status == 400 {
            assert!(said.contains("budget"), "{said}");
            assert_eq!(headers["x-amzn-errortype"], "ServiceQuotaExceededException");
        } else {
            assert_eq!((said, &headers["x-should-retry"]), (want, &"false".parse().unwrap()), "{path}");
        }
        assert!(bench.seen().is_empty(), "{path}");
    }
}

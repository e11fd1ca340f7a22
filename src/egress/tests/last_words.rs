//! Streams of every form that their budget cuts: each ends behind a whole event with the word of its own API, and in a form that
//! its clients read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::forms::speaks;
use super::*;
use crate::api::{OnCross, Terms};
use crate::meter::event_stream;

/// A stream of one form: what is asked, and how what comes is written down.
struct Form {
    family: ApiFamily,
    path: &'static str,
    ask: Value,
    kind: &'static str,
    /// An event that says so much.
    says: fn(&str) -> Vec<u8>,
    /// What stands before the first event, and before each of the others.
    between: [&'static str; 2],
    /// Reads its last word.
    last: fn(&[u8]) -> Value,
    /// Where in that the sentence is, and where the word by which clients know it, and that word.
    sentence: &'static str,
    word: [&'static str; 2],
}

const SSE: &str = "text/event-stream";
const AMAZON: &str = "application/vnd.amazon.eventstream";

/// How a response begins: from then on it has a name, and fails by it.
const BEGUN: &str = "data: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_7\",\"status\":\"in_progress\",\"usage\":null}}\n\n";

/// An event of one line of data.
fn data(event: &Value) -> Vec<u8> {
    format!("data: {event}\n\n").into_bytes()
}

/// Reads the data of the one event that there is, or of the one before `[DONE]`.
fn of_lines(bytes: &[u8]) -> Value {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.ends_with("\n\n"), "{text}");
    let mut said = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let (first, second) = (said.next().unwrap(), said.next());
    assert_eq!(second, None, "{text}");
    serde_json::from_str(first).unwrap()
}

/// Reads the one message that there is: its prelude, its headers and the sums over them (RFC 1952's CRC-32).
fn of_messages(bytes: &[u8]) -> Value {
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let sum = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    };
    let (length, headers) = (usize::try_from(number(0)).unwrap(), usize::try_from(number(4)).unwrap());
    assert_eq!(length, bytes.len(), "one message, and nothing behind it");
    assert_eq!((number(8), number(length - 4)), (sum(&bytes[..8]), sum(&bytes[..length - 4])));
    let (mut at, mut said) = (12, json!({}));
    while at < 12 + headers {
        let name_end = at + 1 + usize::from(bytes[at]);
        let value =
            name_end + 3..name_end + 3 + usize::from(u16::from_be_bytes([bytes[name_end + 1], bytes[name_end + 2]]));
        assert_eq!(bytes[name_end], 7, "a string");
        said[String::from_utf8_lossy(&bytes[at + 1..name_end]).as_ref()] =
            json!(String::from_utf8_lossy(&bytes[value.clone()]));
        at = value.end;
    }
    said["payload"] = serde_json::from_slice(&bytes[12 + headers..length - 4]).unwrap();
    said
}

/// Reads what ends a list: a comma, one more element, and the bracket.
fn of_list(bytes: &[u8]) -> Value {
    let text = std::str::from_utf8(bytes).unwrap();
    serde_json::from_str(text.strip_prefix(',').unwrap().strip_suffix(']').unwrap()).unwrap()
}

fn gemini(text: &str) -> Value {
    json!({"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}]})
}

fn claude(text: &str) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
}

fn forms() -> Vec<Form> {
    let sse = |family, path, ask, says, sentence, word| Form {
        family,
        path,
        ask,
        kind: SSE,
        says,
        between: ["", ""],
        last: of_lines,
        sentence,
        word,
    };
    let amazon = |path, ask, says: fn(&str) -> Vec<u8>| Form {
        family: ApiFamily::Bedrock,
        path,
        ask,
        kind: AMAZON,
        says,
        between: ["", ""],
        last: of_messages,
        sentence: "/payload/message",
        word: ["/:exception-type", "throttlingException"],
    };
    let contents = || json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
    let limited = ["/error/type", "rate_limit_error"];
    let exhausted = ["/error/status", "RESOURCE_EXHAUSTED"];
    let usage = |asked: bool| {
        let mut ask = json!({"model": "gpt-x", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
        if asked {
            ask["stream_options"] = json!({"include_usage": true});
        }
        ask
    };
    let chat = |asked| {
        let says = |text: &str| {
            data(&json!({"id": "c", "object": "chat.completion.chunk", "model": "gpt-x",
                "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}))
        };
        let word = ["/error/code", "insufficient_quota"];
        sse(ApiFamily::OpenaiChat, "/v1/chat/completions", usage(asked), says, "/error/message", word)
    };
    vec![
        sse(
            ApiFamily::Anthropic,
            "/v1/messages",
            serde_json::from_str(&prompt(900)).unwrap(),
            |text| data(&claude(text)),
            "/error/message",
            limited,
        ),
        // The usage chunk is its client's own, or the plane's, which takes it out.
        chat(true),
        chat(false),
        Form {
            between: [BEGUN, ""],
            ..sse(
                ApiFamily::OpenaiResponses,
                "/v1/responses",
                json!({"model": "gpt-x", "stream": true, "input": "hi"}),
                |text| data(&json!({"type": "response.output_text.delta", "delta": text})),
                "/response/error/message",
                ["/response/error/code", "insufficient_quota"],
            )
        },
        sse(
            ApiFamily::Gemini,
            "/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
            contents(),
            |text| data(&gemini(text)),
            "/error/message",
            exhausted,
        ),
        Form {
            kind: "application/json; charset=UTF-8",
            between: ["[", ",\r\n"],
            last: of_list,
            ..sse(
                ApiFamily::Gemini,
                "/v1beta/models/gemini-x:streamGenerateContent",
                contents(),
                |text| gemini(text).to_string().into_bytes(),
                "/error/message",
                exhausted,
            )
        },
        sse(
            ApiFamily::CodeAssist,
            "/v1internal:streamGenerateContent?alt=sse",
            json!({"model": "gemini-x", "project": "p", "request": contents()}),
            |text| data(&json!({"response": gemini(text), "traceId": "t"})),
            "/error/message",
            exhausted,
        ),
        sse(
            ApiFamily::Vertex,
            "/v1/projects/p/locations/l/publishers/anthropic/models/claude-x:streamRawPredict",
            json!({"anthropic_version": "vertex-2023-10-16", "max_tokens": 900, "stream": true, "messages": []}),
            |text| data(&claude(text)),
            "/error/message",
            limited,
        ),
        amazon(
            "/model/claude-x/converse-stream",
            json!({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}),
            |text| {
                let said = json!({"contentBlockIndex": 0, "delta": {"text": text}});
                event_stream::event("contentBlockDelta", said.to_string().as_bytes())
            },
        ),
        amazon(
            "/model/anthropic.claude-x/invoke-with-response-stream",
            json!({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 900, "messages": []}),
            |text| {
                let said = json!({"bytes": STANDARD.encode(claude(text).to_string())});
                event_stream::event("chunk", said.to_string().as_bytes())
            },
        ),
    ]
}

/// Asks for a stream of that form under a limit that is hard, and gets what feeds it, and its body.
async fn asked(
    form: &Form,
    h2: bool,
    limit: Limit,
) -> (Bench, mpsc::UnboundedSender<Result<Bytes, std::io::Error>>, Incoming) {
    let (feed, body) = fed();
    let (body, kind) = (Mutex::new(Some(body)), form.kind);
    let script: Script = Arc::new(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        Response::builder().header("content-type", kind).body(body).unwrap()
    });
    let bench = speaks(form.family, None, script).await;
    bench.ledger.set_limits("bottle:id-1", vec![limit]).await.unwrap();
    let mut client = bench.client(MODEL, h2).await;
    let answer = client.send(bench.request(MODEL, "POST", form.path, form.ask.to_string(), h2)).await.unwrap();
    assert_eq!(answer.status(), 200, "{}", form.path);
    (bench, feed, answer.into_body())
}

/// Reads until there are `least` bytes.
async fn comes(body: &mut Incoming, got: &mut Vec<u8>, least: usize) {
    while got.len() < least {
        got.extend_from_slice(&next(body).await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn a_stream_that_crosses_ends_in_the_words_of_its_api_whatever_its_form() {
    let both = forms().into_iter().map(|form| (form, false)).chain(forms().into_iter().map(|form| (form, true)));
    for (form, h2) in both {
        let path = form.path;
        let (bench, feed, mut body) = asked(&form, h2, Limit::hard("claude", Some(500))).await;
        let [first, rest] = form.between;
        let event = |before: &str, text: &str| [before.as_bytes(), &(form.says)(text)].concat();
        let (begun, long, after) = (event(first, "a"), event(rest, &"x".repeat(3000)), event(rest, "unseen"));
        let mut got = Vec::new();
        feed.send(Ok(begun.clone().into())).unwrap();
        comes(&mut body, &mut got, begun.len()).await;
        // Half of an event has gone out when it crosses, but where each is held until it is whole.
        feed.send(Ok(Bytes::copy_from_slice(&long[..90]))).unwrap();
        let held = form.family == ApiFamily::OpenaiChat && form.ask.get("stream_options").is_none();
        if !held {
            comes(&mut body, &mut got, begun.len() + 90).await;
        }
        feed.send(Ok([&long[90..], &after[..]].concat().into())).unwrap();
        while let Some(frame) = next(&mut body).await {
            got.extend_from_slice(&frame.unwrap());
        }
        let passed = if held { begun } else { [begun, long].concat() };
        assert!(got.starts_with(&passed), "{path}: {}", String::from_utf8_lossy(&got));
        let last = (form.last)(&got[passed.len()..]);
        let said = last.pointer(form.sentence).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}: {last}"));
        assert!(said.contains("this bottle's budget") && said.contains("of 500 tokens"), "{path}: {said}");
        let [at, word] = form.word;
        assert_eq!(last.pointer(at), Some(&json!(word)), "{path}: {last}");
        let named = (form.between[0] == BEGUN).then(|| json!("resp_7"));
        assert_eq!(last.pointer("/response/id"), named.as_ref(), "{path}: {last}");
        // Settled before its last word went out; upstream is gone; and whoever enforces knows.
        assert_eq!(bench.ledger.open_holds(None).await.unwrap(), 0, "{path}");
        assert_eq!(bench.events("usage").await[0]["source"], "partial", "{path}");
        assert!(bench.counted().await >= 500, "{path}: what had come, also what did not go on");
        assert!(!bench.told.0.lock().unwrap().is_empty(), "{path}");
        feed.closed().await;
    }
}

#[tokio::test]
async fn the_same_stream_under_a_limit_with_room_or_one_that_lets_finish_passes_as_it_came() {
    let finishes = Terms { on_cross: Some(OnCross::Finish), ..Terms::default() };
    for (tokens, terms) in [(50_000, Terms::default()), (500, finishes)] {
        for form in forms() {
            let limit = Limit { terms: terms.clone(), ..Limit::hard("claude", Some(tokens)) };
            let (bench, feed, mut body) = asked(&form, false, limit).await;
            let [first, rest] = form.between;
            let end: &[u8] = if first == "[" { b"]" } else { b"" };
            let all =
                [first.as_bytes(), &(form.says)("a"), rest.as_bytes(), &(form.says)(&"x".repeat(3000)), end].concat();
            feed.send(Ok(all.clone().into())).unwrap();
            drop(feed);
            let mut got = Vec::new();
            while let Some(frame) = next(&mut body).await {
                got.extend_from_slice(&frame.unwrap());
            }
            assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&all), "{}", form.path);
            // Whoever enforces hears of the one that is spent by it.
            assert_eq!(bench.told.0.lock().unwrap().is_empty(), tokens == 50_000, "{}", form.path);
        }
    }
}

//! Streams that outgrow what is left: where they end, in whose words, and what is charged of those that go on behind their final word
//! or that nobody reads to the end.

use super::forms::speaks;
use super::*;
use crate::api::{OnCross, Terms};
use crate::meter::event_stream;

async fn hard(bench: &Bench, tokens: u64, on_cross: Option<OnCross>) {
    let terms = Terms { on_cross, ..Terms::default() };
    let limit = Limit { terms, ..Limit::hard("claude", Some(tokens)) };
    bench.ledger.set_limits("bottle:id-1", vec![limit]).await.unwrap();
}

/// Reads what is left of a body, up to its end.
async fn rest(body: &mut Incoming) -> String {
    let mut text = Vec::new();
    while let Some(frame) = next(body).await {
        text.extend_from_slice(&frame.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_stream_that_crosses_a_hard_limit_ends_between_two_events_with_its_apis_own_error() {
    let (feed, script) = streams();
    let bench = bench(None, script).await;
    hard(&bench, 500, None).await;
    let mut client = bench.client(MODEL, false).await;
    let mut body = bench.streamed(&mut client, prompt(100)).await;
    for bytes in [begin(300), delta("a")] {
        feed.send(Ok(bytes.clone())).unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), bytes);
    }
    // Half of an event has gone out when it crosses: that one comes to its end, and nothing of the next goes out.
    let (long, after) = (delta(&"x".repeat(900)), delta("unseen"));
    feed.send(Ok(long.slice(..40))).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), long.slice(..40));
    feed.send(Ok([&long[40..], &after[..]].concat().into())).unwrap();
    let text = rest(&mut body).await;
    let (passed, last) = text.split_at(long.len() - 40);
    assert_eq!(passed.as_bytes(), &long[40..]);
    assert!(last.starts_with("event: error\ndata: {") && last.ends_with("\n\n"), "{last}");
    assert!(last.contains("this bottle's budget") && last.contains("of 500 tokens"), "{last}");
    assert!(!text.contains("unseen"));
    // Settled before its last word went out, and upstream is gone.
    assert_eq!(bench.ledger.open_holds(None).await.unwrap(), 0);
    let usage = &bench.events("usage").await[0];
    assert_eq!(usage["source"], "partial");
    assert!(bench.counted().await >= 600, "input as it was said, and what had come");
    assert!(!bench.told.0.lock().unwrap().is_empty());
    feed.closed().await;
}

#[tokio::test]
async fn a_limit_that_lets_finish_lets_the_same_stream_finish() {
    for (is_hard, said) in [(true, Some(OnCross::Finish)), (false, None)] {
        let (feed, script) = streams();
        let bench = bench(Some(500), script).await;
        if is_hard {
            hard(&bench, 500, said).await;
        }
        let mut client = bench.client(MODEL, false).await;
        let mut body = bench.streamed(&mut client, prompt(100)).await;
        let [last, stop] = done(700);
        for bytes in [begin(300), delta(&"x".repeat(900)), delta("seen"), last, stop] {
            feed.send(Ok(bytes.clone())).unwrap();
            assert_eq!(next(&mut body).await.unwrap().unwrap(), bytes);
        }
        assert_eq!((bench.counted().await, bench.events("usage").await[0]["source"].as_str()), (1000, Some("exact")));
        assert_eq!(bench.told.0.lock().unwrap().len(), 1, "by its charge");
    }
}

#[tokio::test]
async fn what_an_api_says_as_it_goes_is_believed_and_not_what_streamed() {
    let says = |text: &str, output: u64| -> Bytes {
        let chunk = json!({"candidates": [{"content": {"parts": [{"text": text}]}}],
            "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": output, "totalTokenCount": 100 + output}});
        format!("data: {chunk}\r\n\r\n").into()
    };
    let (feed, script) = streams();
    let bench = speaks(ApiFamily::Gemini, None, script).await;
    hard(&bench, 500, None).await;
    let mut client = bench.client(MODEL, false).await;
    let ask =
        json!({"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 50}}).to_string();
    let path = "/v1beta/models/gemini-x:streamGenerateContent?alt=sse";
    let mut body = client.send(bench.request(MODEL, "POST", path, ask, false)).await.unwrap().into_body();
    // By its bytes it would be far beyond the limit.
    for bytes in [says(&"x".repeat(3000), 200), says("y", 399)] {
        feed.send(Ok(bytes.clone())).unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), bytes);
    }
    feed.send(Ok(says("z", 401))).unwrap();
    let text = rest(&mut body).await;
    assert!(text.contains("RESOURCE_EXHAUSTED") && !text.contains("\"z\""), "{text}");
    assert_eq!(bench.counted().await, 501);
}

/// Reads until so many of a letter have come, in however many frames.
async fn all_of(letter: u8, mut left: usize, body: &mut Incoming) {
    while left > 0 {
        let frame = next(body).await.unwrap().unwrap();
        left -= frame.iter().filter(|byte| **byte == letter).count().min(left);
    }
}

#[tokio::test]
async fn what_comes_behind_the_final_word_is_charged_though_its_client_hangs_up() {
    let (feed, script) = streams();
    let bench = bench(None, script).await;
    let mut client = bench.client(MODEL, false).await;
    let mut body = bench.streamed(&mut client, prompt(100)).await;
    let [last, stop] = done(50);
    for bytes in [begin(20), last, stop] {
        feed.send(Ok(bytes)).unwrap();
        next(&mut body).await.unwrap().unwrap();
    }
    assert_eq!(bench.counted().await, 70);
    // Another generation, spliced in.
    let again = String::from_utf8(begin(400).to_vec()).unwrap().replace("msg_1", "msg_2");
    for bytes in [again.into(), delta(&"x".repeat(300))] {
        feed.send(Ok(bytes)).unwrap();
        next(&mut body).await.unwrap().unwrap();
    }
    assert_eq!(bench.counted().await, 70, "little is charged at its end");
    feed.send(Ok(delta(&"Q".repeat(9000)))).unwrap();
    all_of(b'Q', 9000, &mut body).await;
    let much = bench.counted().await;
    assert!(much >= 3500, "and much as it comes: {much}");
    feed.send(Ok(delta(&"Z".repeat(600)))).unwrap();
    all_of(b'Z', 600, &mut body).await;
    drop((body, client));
    for _ in 0..500 {
        if bench.counted().await >= much + 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the rest was free: {}", bench.counted().await);
}

#[tokio::test]
async fn usage_that_comes_when_the_client_has_gone_is_read() {
    let (feed, body) = fed();
    let body = Mutex::new(Some(body));
    let script: Script = Arc::new(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        Response::builder().header("content-type", "application/vnd.amazon.eventstream").body(body).unwrap()
    });
    let bench = speaks(ApiFamily::Bedrock, None, script).await;
    let mut client = bench.client(MODEL, false).await;
    let ask = json!({"messages": [{"role": "user", "content": [{"text": "hi"}]}]}).to_string();
    let request = bench.request(MODEL, "POST", "/model/m/converse-stream", ask, false);
    let mut body = client.send(request).await.unwrap().into_body();
    let said = event_stream::event("contentBlockDelta", br#"{"contentBlockIndex":0,"delta":{"text":"hello"}}"#);
    let stop = event_stream::event("messageStop", br#"{"stopReason":"end_turn"}"#);
    for bytes in [said, stop] {
        feed.send(Ok(bytes.into())).unwrap();
        next(&mut body).await.unwrap().unwrap();
    }
    drop((body, client));
    while bench.handle.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let usage = br#"{"usage":{"inputTokens":36,"outputTokens":7300,"totalTokens":7336}}"#;
    feed.send(Ok(event_stream::event("metadata", usage).into())).unwrap();
    bench.settled().await;
    assert_eq!((bench.counted().await, bench.events("usage").await[0]["source"].as_str()), (7336, Some("exact")));
    // Where none comes, it is not waited for long, and at the bottle's end not at all: `settled` would tell.
}

#[tokio::test]
async fn a_chat_whose_client_leaves_with_the_last_choice_is_charged_what_it_used() {
    let (feed, body) = fed();
    let body = Mutex::new(Some(body));
    // Typed as what it is not, as some hosts do.
    let script: Script = Arc::new(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        Response::builder().header("content-type", "application/json").body(body).unwrap()
    });
    let bench = speaks(ApiFamily::OpenaiChat, None, script).await;
    let mut client = bench.client(MODEL, false).await;
    let ask = json!({"model": "gpt-x", "stream": true, "messages": []}).to_string();
    let request = bench.request(MODEL, "POST", "/v1/chat/completions", ask, false);
    let mut body = client.send(request).await.unwrap().into_body();
    let says = |choices: Value| -> Bytes { format!("data: {}\n\n", json!({"id": "c", "choices": choices})).into() };
    let text = says(json!([{"index": 0, "delta": {"content": "hello"}, "finish_reason": null}]));
    feed.send(Ok(text.clone())).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), text, "at once");
    let finish = says(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]));
    feed.send(Ok(finish.clone())).unwrap();
    let usage = json!({"id": "c", "choices": [], "usage": {"prompt_tokens": 70, "completion_tokens": 3000}});
    feed.send(Ok(format!("data: {usage}\n\n").into())).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), finish);
    assert_eq!(bench.counted().await, 3070, "settled before the event went out with which its client leaves");
}

#[tokio::test]
async fn a_response_on_a_websocket_that_crosses_ends_its_socket_with_the_reason() {
    let (bench, mut bottle, mut server) = sockets::talk(None).await;
    hard(&bench, 500, None).await;
    bottle.says(sockets::create(None)).await;
    server.hears().await;
    server.says(sockets::begun("resp_1")).await;
    bottle.hears().await;
    server.says(json!({"type": "response.output_text.delta", "delta": "x".repeat(3000)})).await;
    bottle.is_refused(429, "usage_limit_reached", 1008).await;
    server.hears_nothing().await;
    bench.settled().await;
    assert_eq!(bench.events("usage").await[0]["source"], "partial");
    assert!(bench.counted().await >= 1000);
    assert!(!bench.told.0.lock().unwrap().is_empty());
}

//! What may refuse a request before it leaves: an estimate, nothing, or what the provider has counted; and what is kept for the end.

use super::paused::pass;
use super::*;
use crate::api::{Gate, Terms};
use crate::types::{Api, ApiFamily};

async fn terms(bench: &Bench, tokens: u64, terms: Terms) {
    let limit = Limit { terms, ..Limit::of("claude", Some(tokens)) };
    bench.ledger.set_limits("bottle:id-1", vec![limit]).await.unwrap();
}

fn gate(gate: Gate) -> Terms {
    Terms { gate: Some(gate), ..Terms::default() }
}

/// Counts requests as `tokens`, with this status, and answers the others.
fn counting(status: u16, tokens: u64) -> Script {
    Arc::new(move |seen| {
        if seen.uri.contains("count_tokens") {
            let body = json!({"input_tokens": tokens}).to_string();
            return Response::builder().status(status).body(full(body)).unwrap();
        }
        Response::builder().header("content-type", "application/json").body(full(message_json(7, 5))).unwrap()
    })
}

#[tokio::test]
async fn with_the_gate_off_an_estimate_refuses_nothing_and_a_spent_limit_does() {
    let long =
        json!({"model": "claude-x", "max_tokens": 10, "messages": [{"content": "word ".repeat(2000)}]}).to_string();
    for (said, first) in [(Gate::Off, 200), (Gate::Estimate, 429)] {
        let bench = bench(None, answers(message_json(90, 20))).await;
        terms(&bench, 100, gate(said)).await;
        let ask = async || bench.ask(MODEL, "POST", "/v1/messages", long.clone()).await.0.as_u16();
        assert_eq!(ask().await, first, "{said:?}");
        assert_eq!(ask().await, 429, "110 of 100 are used, or it still does not fit");
    }
}

#[tokio::test]
async fn an_exact_gate_asks_the_provider_by_the_same_route_and_lowers_what_the_answer_may_be() {
    let bench = bench(None, counting(200, 40)).await;
    terms(&bench, 100, gate(Gate::Exact)).await;
    let (status, _, _) = bench.message().await;
    assert_eq!(status, 200);
    let seen = bench.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].uri.ends_with("/v1/messages/count_tokens"), "{}", seen[0].uri);
    assert_eq!(seen[0].headers["x-api-key"], SECRET);
    let asked: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!((asked.get("max_tokens"), asked["model"].as_str()), (None, Some("claude-x")));
    // 40 of 100 go in, so 60 may come out.
    assert_eq!(seen[1].body, prompt(60));
    let usage = &bench.events("usage").await[0];
    assert_eq!((&usage["input_counted"], &usage["counted"]), (&json!(40), &json!(12)), "counting costs nothing");
    // What fits by its count, though not by its bytes, passes; what does not fit by its count is refused.
    terms(&bench, 20, gate(Gate::Exact)).await;
    assert_eq!(bench.message().await.0, 429);
    assert_eq!(bench.seen().len(), 3, "it was counted, and did not leave");
}

#[tokio::test]
async fn what_cannot_be_counted_is_estimated_and_says_so() {
    for (status, word) in [(400, "400"), (429, "429"), (200, "unreadable")] {
        let script = counting(status, 40);
        let script: Script = Arc::new(move |seen| match seen.uri.contains("count_tokens") && status == 200 {
            true => Response::builder().body(full("{}")).unwrap(),
            false => script(seen),
        });
        let bench = bench(None, script).await;
        terms(&bench, 100_000, gate(Gate::Exact)).await;
        assert_eq!(bench.message().await.0, 200);
        assert_eq!(bench.events("usage").await[0]["not_counted"], word);
        assert_eq!(bench.seen()[1].body, prompt(100), "there is room for all of it");
    }
}

#[tokio::test]
async fn who_does_not_count_within_two_seconds_is_not_waited_for() {
    let (feed, body) = fed();
    let silent = Mutex::new((feed, Some(body)));
    let script = counting(200, 40);
    let script: Script = Arc::new(move |seen| match seen.uri.contains("count_tokens") {
        // Its answer begins, and says nothing.
        true => Response::new(silent.lock().unwrap().1.take().unwrap()),
        false => script(seen),
    });
    let bench = Arc::new(bench(None, script).await);
    terms(&bench, 100_000, gate(Gate::Exact)).await;
    let asks = tokio::spawn({
        let bench = Arc::clone(&bench);
        async move { bench.message().await.0 }
    });
    while bench.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pass(Duration::from_millis(1500)).await;
    assert_eq!(bench.seen().len(), 1, "it is waited for");
    pass(Duration::from_millis(600)).await;
    assert_eq!(asks.await.unwrap(), 200);
    assert_eq!(bench.events("usage").await[0]["not_counted"], "no answer");
}

#[tokio::test]
async fn openai_and_gemini_are_asked_by_their_own_endpoints() {
    let (response, gemini) = (
        json!({"id": "r", "object": "response", "status": "completed", "model": "m", "output": [],
            "usage": {"input_tokens": 7, "output_tokens": 5}}),
        json!({"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}}),
    );
    let cases = [
        (
            (Api::OpenaiResponses, ApiFamily::OpenaiResponses, "/v1/responses"),
            json!({"model": "m", "input": "hi", "max_output_tokens": 500}),
            ("/v1/responses/input_tokens", json!({"input_tokens": 40}), json!({"model": "m", "input": "hi"})),
            (response, "/max_output_tokens"),
        ),
        (
            (Api::Gemini, ApiFamily::Gemini, "/v1beta/models/m:generateContent"),
            json!({"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 500}}),
            (
                "/v1beta/models/m:countTokens",
                json!({"totalTokens": 40}),
                json!({"generateContentRequest": {"model": "models/m", "contents": [{"parts": [{"text": "hi"}]}],
                    "generationConfig": {"maxOutputTokens": 500}}}),
            ),
            (gemini, "/generationConfig/maxOutputTokens"),
        ),
    ];
    for ((api, family, path), asks, (endpoint, counted, question), (answer, most)) in cases {
        let script: Script = Arc::new(move |seen| {
            let body = if seen.uri.ends_with(endpoint) { &counted } else { &answer };
            Response::builder().header("content-type", "application/json").body(full(body.to_string())).unwrap()
        });
        let bench = bench_counted(upstream(false, script).await, None, api).await;
        let mut routes = bench.routes.clone();
        routes[0].api = Some(family);
        let credentials = [("claude".to_owned(), SecretString::from(SECRET))].into();
        bench.handle.set_routes(&Rules { routes, credentials, ..Rules::default() }).unwrap();
        terms(&bench, 100, gate(Gate::Exact)).await;
        assert_eq!(bench.ask(MODEL, "POST", path, asks.to_string()).await.0, 200, "{path}");
        let seen = bench.seen();
        assert!(seen[0].uri.ends_with(endpoint), "{}", seen[0].uri);
        assert_eq!(serde_json::from_slice::<Value>(&seen[0].body).unwrap(), question);
        let sent: Value = serde_json::from_slice(&seen[1].body).unwrap();
        assert_eq!(sent.pointer(most), Some(&json!(60)), "40 of 100 go in");
        let usage = &bench.events("usage").await[0];
        assert_eq!((&usage["input_counted"], &usage["counted"]), (&json!(40), &json!(12)), "{path}");
    }
}

#[tokio::test]
async fn what_is_kept_for_the_end_is_told_of_once_and_then_there() {
    let bench = bench(None, answers(message_json(30, 20))).await;
    terms(&bench, 200, Terms { wrap_up: Some(130), ..Terms::default() }).await;
    assert_eq!(bench.message().await.0, 200);
    assert_eq!(bench.message().await.0, 200, "it passes, and says so in the conversation");
    let body: Value = serde_json::from_slice(&bench.seen().last().unwrap().body).unwrap();
    let text = body["messages"][0]["content"].as_str().unwrap();
    assert!(
        text.starts_with("hi\n\n[bb: ") && text.contains("hand over what you have") && text.contains("50 of 200"),
        "{text}"
    );
    assert!(bench.told.0.lock().unwrap().is_empty(), "nothing is cut");
    for _ in 0..2 {
        assert_eq!(bench.message().await.0, 200);
        assert_eq!(bench.seen().last().unwrap().body, prompt(100), "once");
    }
    assert_eq!(bench.message().await.0, 429);
    assert_eq!(bench.counted().await, 200);
    assert_eq!(bench.told.0.lock().unwrap().len(), 2, "crossed, and then refused");
}

#[tokio::test]
async fn where_there_is_no_place_for_a_sentence_a_refusal_says_that_only_the_rest_is_left() {
    let bench = bench(None, answers(message_json(30, 20))).await;
    terms(&bench, 200, Terms { wrap_up: Some(130), ..Terms::default() }).await;
    assert_eq!(bench.message().await.0, 200);
    let prefilled =
        json!({"model": "claude-x", "max_tokens": 9, "messages": [{"role": "assistant", "content": "a ".repeat(90)}]});
    let ask = async || bench.ask(MODEL, "POST", "/v1/messages", prefilled.to_string()).await;
    let (status, headers, body) = ask().await;
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!((status.as_u16(), headers[deny::HEADER].to_str().unwrap()), (429, "budget_exhausted"));
    assert!(text.contains("hand over what you have") && text.contains("50 of 200"), "{text}");
    assert_eq!(ask().await.0, 200, "the next ones pass");
}

#[tokio::test]
async fn who_has_not_heard_is_told_again() {
    let faults = std::sync::atomic::AtomicU32::new(0);
    let script: Script = Arc::new(move |_| {
        let refused = faults.fetch_add(1, Ordering::SeqCst) == 1;
        let (status, body) = if refused { (529, "{}".to_owned()) } else { (200, message_json(30, 20)) };
        Response::builder().status(status).header("content-type", "application/json").body(full(body)).unwrap()
    });
    let bench = bench(None, script).await;
    terms(&bench, 200, Terms { wrap_up: Some(130), ..Terms::default() }).await;
    for (status, hears) in [(200, false), (529, true), (200, true), (200, false)] {
        assert_eq!(bench.message().await.0, status);
        let body = String::from_utf8(bench.seen().last().unwrap().body.to_vec()).unwrap();
        assert_eq!(body.contains("hand over what you have"), hears, "{body}");
    }
}

#[tokio::test]
async fn a_threshold_is_told_in_the_agents_next_request_once_and_only_where_that_was_wanted() {
    for tell in [true, false] {
        let faults = std::sync::atomic::AtomicU32::new(0);
        let script: Script = Arc::new(move |_| {
            // The second is refused: what it was to say is said again.
            let refused = faults.fetch_add(1, Ordering::SeqCst) == 1;
            let (status, body) = if refused { (529, "{}".to_owned()) } else { (200, message_json(30, 25)) };
            Response::builder().status(status).header("content-type", "application/json").body(full(body)).unwrap()
        });
        let bench = bench(None, script).await;
        terms(&bench, 200, Terms { tell, warn: Some(vec![20, 90]), ..Terms::default() }).await;
        let said = async || {
            assert_eq!(bench.message().await.0, 200);
            let body: Value = serde_json::from_slice(&bench.seen().last().unwrap().body).unwrap();
            body["messages"][0]["content"].as_str().unwrap().to_owned()
        };
        let first = said().await;
        assert_eq!(bench.message().await.0, 529);
        let second = said().await;
        assert_eq!(first, said().await, "once");
        if !tell {
            assert_eq!(first, second);
            continue;
        }
        let sentence = "[bb, which runs this agent: 20 % of this bottle's budget for claude is used: 55 of 200 tokens, 145 are left. \
                        Do what matters most first.]";
        assert_eq!(second, format!("{first}\n\n{sentence}"));
        // The next one, too; and of another limit anew.
        bench
            .ledger
            .set_limits(
                "bottle:id-1",
                vec![Limit {
                    terms: Terms { tell, warn: Some(vec![20, 80]), ..Terms::default() },
                    ..Limit::of("claude", Some(205))
                }],
            )
            .await
            .unwrap();
        assert!(said().await.contains("165 of 205"));
    }
}

#[tokio::test]
async fn what_a_turn_came_to_is_what_the_next_is_held_for() {
    let bench = bench(None, answers(message_json(3000, 20))).await;
    for _ in 0..2 {
        assert_eq!(bench.message().await.0, 200);
    }
    let rows = rusqlite::Connection::open(bench._home.0.join("ledger.db")).unwrap();
    let mut read = rows.prepare("SELECT input_estimate FROM usage ORDER BY opened").unwrap();
    let held: Vec<i64> = read.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(held[0] < 60 && held[1] == 3000, "{held:?}");
    // And it is kept for who comes later.
    for _ in 0..500 {
        if let Some(lesson) = bench.ledger.lessons("claude").await.unwrap().first() {
            assert_eq!((lesson.model.as_str(), lesson.agent.as_str()), ("claude-x", "tester"));
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nothing was kept");
}

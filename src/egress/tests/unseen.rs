//! What the answer to a request does not say: spending that the route estimates, and answers that were paid before.

use super::*;
use crate::types::ApiFamily;

/// Has the model's host speak OpenAI's APIs, with what `change` makes of its route.
async fn openai(limit: Option<u64>, script: Script, change: impl FnOnce(&mut Route)) -> Bench {
    let bench = bench(limit, script).await;
    let mut routes = bench.routes.clone();
    routes[0].api = Some(ApiFamily::Openai);
    change(&mut routes[0]);
    let credentials = [("claude".to_owned(), SecretString::from(SECRET))].into();
    bench.handle.set_routes(&Rules { routes, credentials, ..Rules::default() }).unwrap();
    bench
}

fn whole(status: u16, text: &str) -> Response<Reply> {
    let head = Response::builder().status(status).header("content-type", "application/json");
    head.body(full(text.to_owned())).unwrap()
}

#[tokio::test]
async fn a_path_that_the_meter_does_not_know_is_charged_what_its_route_says_and_fails_for_nothing() {
    let script: Script = Arc::new(|seen| {
        let status = if seen.uri.contains("none") { 404 } else { 200 };
        whole(status, "{\"id\":\"batch_1\"}")
    });
    let bench = openai(Some(1000), script, |route| route.estimate = Some(400)).await;
    let body = r#"{"input_file_id":"f","endpoint":"/v1/responses"}"#;
    let (status, _, answer) = bench.ask(MODEL, "POST", "/v1/batches", body).await;
    assert_eq!((status.as_u16(), answer.as_ref()), (200, &b"{\"id\":\"batch_1\"}"[..]));
    assert_eq!(bench.seen()[0].body, body);
    assert_eq!(bench.counted().await, 400);
    let usage = &bench.events("usage").await[0];
    assert_eq!(
        (&usage["source"], &usage["why"], &usage["path"]),
        (&json!("estimated"), &json!("unseen"), &json!("/v1/batches"))
    );
    // To look is free, and so is what fails.
    assert_eq!(bench.ask(MODEL, "GET", "/v1/batches/batch_1", "").await.0, 200);
    assert_eq!(bench.ask(MODEL, "POST", "/v1/none", "").await.0, 404);
    assert_eq!(bench.counted().await, 400);
    // The budget holds: a second fits, a third does not, and never leaves.
    assert_eq!(bench.ask(MODEL, "POST", "/v1/batches", body).await.0, 200);
    let (status, headers, _) = bench.ask(MODEL, "POST", "/v1/batches", body).await;
    assert_eq!((status.as_u16(), &headers[deny::HEADER]), (429, &"budget_exhausted".parse().unwrap()));
    assert_eq!((bench.counted().await, bench.seen().len()), (800, 4));
}

#[tokio::test]
async fn an_answer_made_in_the_background_is_charged_when_it_is_asked_for_and_raised_when_it_says_more() {
    let script: Script = Arc::new(|seen| {
        let (status, usage) = match seen.method.as_str() {
            "POST" => ("queued", Value::Null),
            _ => ("completed", json!({"input_tokens": 200_000, "output_tokens": 50_000})),
        };
        let response = json!({"id": "resp_1", "object": "response", "status": status, "model": "gpt-x", "output": [], "usage": usage});
        whole(200, &response.to_string())
    });
    let bench = openai(None, script, |route| route.server_tools = vec!["background".into()]).await;
    let body = json!({"model": "gpt-x", "input": "hi", "background": true}).to_string();
    assert_eq!(bench.ask(MODEL, "POST", "/v1/responses", body.clone()).await.0, 200);
    let first = bench.counted().await;
    assert!(first >= 128_000, "nobody may ever fetch it: {first}");
    // The answer itself, twice: what it used is charged once.
    for _ in 0..2 {
        let (status, _, answer) = bench.ask(MODEL, "GET", "/v1/responses/resp_1?stream=false", "").await;
        assert_eq!(status, 200);
        assert!(String::from_utf8_lossy(&answer).contains("completed"));
        assert_eq!(bench.counted().await, 250_000);
    }
    // One that this book knows nothing of costs nothing; and without the word nothing of it passes.
    assert_eq!(bench.ask(MODEL, "GET", "/v1/responses/resp_other", "").await.0, 200);
    assert_eq!(bench.counted().await, 250_000);
    let strict = openai(None, answers("{}".into()), |_| {}).await;
    let (status, headers, _) = strict.ask(MODEL, "GET", "/v1/responses/resp_1", "").await;
    assert_eq!((status.as_u16(), &headers[deny::HEADER]), (403, &"server_tool".parse().unwrap()));
    assert!(strict.seen().is_empty());
}

#[tokio::test]
async fn what_is_beyond_the_bound_passes_untouched_and_is_charged_its_ceiling_which_the_row_says() {
    const PIECE: usize = 1 << 20;
    let script: Script = Arc::new(|_| {
        let (feed, body) = fed();
        feed.send(Ok(Bytes::from_static(b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\""))).unwrap();
        for _ in 0..18 {
            feed.send(Ok(Bytes::from(vec![b'x'; PIECE]))).unwrap();
        }
        feed.send(Ok(Bytes::from_static(b"\"}}]}\n\n"))).unwrap();
        sse(body)
    });
    let bench = openai(None, script, |_| {}).await;
    let body = json!({"model": "gpt-x", "stream": true, "max_tokens": 10, "messages": []}).to_string();
    let (status, _, answer) = bench.ask(MODEL, "POST", "/v1/chat/completions", body.clone()).await;
    assert_eq!(status, 200);
    assert!(answer.len() > 18 * PIECE && answer.ends_with(b"\"}}]}\n\n"));
    let usage = &bench.events("usage").await[0];
    assert_eq!((&usage["source"], &usage["why"]), (&json!("estimated"), &json!("bounded")));
    assert!(bench.counted().await >= 18 * PIECE as u64 / 4, "{usage}");
    // One that cannot be read for another reason says that.
    let garbled = openai(None, Arc::new(|_| sse(full("data: {\"choices\":[}\n\n"))), |_| {}).await;
    assert_eq!(garbled.ask(MODEL, "POST", "/v1/chat/completions", body).await.0, 200);
    assert_eq!(garbled.events("usage").await[0]["why"], "unreadable");
}

//! What is read on of an answer whose client has gone, and what ends that.

use super::forms::speaks;
use super::*;
use crate::meter::event_stream;

/// Has a client leave before its answer says what was used; then the bottle is cut, and the usage comes. Gets what the row says.
async fn left_and_cut(finish_open: bool) -> (u64, Value) {
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
    feed.send(Ok(event_stream::event("messageStop", br#"{"stopReason":"end_turn"}"#).into())).unwrap();
    next(&mut body).await.unwrap().unwrap();
    drop((body, client));
    while bench.handle.connections() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.ledger.open_holds(None).await.unwrap(), 1, "its usage is waited for");
    bench.handle.cut(CutScope::All, "enough", finish_open);
    let usage = br#"{"usage":{"inputTokens":36,"outputTokens":7300,"totalTokens":7336}}"#;
    let _ = feed.send(Ok(event_stream::event("metadata", usage).into()));
    bench.settled().await;
    (bench.counted().await, bench.events("usage").await[0]["source"].clone())
}

#[tokio::test]
async fn a_cut_ends_what_is_read_on_and_one_that_lets_streams_finish_does_not() {
    assert_eq!(left_and_cut(true).await, (7336, json!("exact")));
    let (counted, source) = left_and_cut(false).await;
    assert_eq!(source, "partial");
    assert!(counted < 7336, "{counted}");
}

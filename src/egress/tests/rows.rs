//! The row that a metered answer leaves in the ledger, however it ends: how, why, and what it is charged.

use super::forms::speaks;
use super::paused::pass;
use super::*;

/// A row, as far as tests look at it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) api: String,
    pub(super) how: String,
    pub(super) source: String,
    pub(super) why: Option<String>,
    /// Unit: tokens.
    pub(super) input: u32,
    pub(super) output: u32,
    /// What it is charged, and what was estimated of it, in and out. Unit: counted tokens.
    pub(super) counted: u32,
    pub(super) estimate: u32,
    /// The usage as the API said it.
    pub(super) raw: Value,
}

/// Gets the row of the only metered request, once it has one.
pub(super) async fn row(bench: &Bench) -> Row {
    bench.settled().await;
    let ledger = rusqlite::Connection::open(bench._home.0.join("ledger.db")).unwrap();
    let mut read = ledger
        .prepare(
            "SELECT api, how, source, why, input, output, counted, input_estimate + output_estimate, raw_usage FROM usage",
        )
        .unwrap();
    let rows = read.query_map([], |row| {
        let raw: Option<String> = row.get(8)?;
        Ok(Row {
            api: row.get(0)?,
            how: row.get(1)?,
            source: row.get(2)?,
            why: row.get(3)?,
            input: row.get(4)?,
            output: row.get(5)?,
            counted: row.get(6)?,
            estimate: row.get(7)?,
            raw: raw.map_or(Value::Null, |raw| serde_json::from_str(&raw).unwrap()),
        })
    });
    let mut rows: Vec<Row> = rows.unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

/// How a row ended: how, source, why.
fn ended(row: &Row) -> (&str, &str, Option<&str>) {
    (&row.how, &row.source, row.why.as_deref())
}

const EXACT: (&str, &str, Option<&str>) = ("exact", "exact", None);
const PARTIAL: (&str, &str, Option<&str>) = ("partial", "partial", None);
const AT_ESTIMATE: (&str, &str, Option<&str>) = ("at_estimate", "estimated", None);

/// Waits for the one request's end, and gets how that was.
async fn end(bench: &Bench) -> Value {
    for _ in 0..3000 {
        if let Some(end) = bench.events("request.ended").await.first() {
            return end["end"].clone();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no end was told");
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_charged_what_it_had_said() {
    let (feed, script) = streams();
    let bench = bench(None, script).await;
    let mut client = bench.client(MODEL, false).await;
    let mut body = bench.streamed(&mut client, prompt(100)).await;
    feed.send(Ok(begin(500))).unwrap();
    next(&mut body).await.unwrap().unwrap();
    pass(tee::SILENCE - Duration::from_secs(60)).await;
    feed.send(Ok(delta(&"x".repeat(300)))).unwrap();
    next(&mut body).await.unwrap().unwrap();
    pass(tee::SILENCE - Duration::from_secs(60)).await;
    assert_eq!(bench.ledger.open_holds(None).await.unwrap(), 1, "it has spoken meanwhile");
    pass(Duration::from_secs(120)).await;
    assert!(next(&mut body).await.unwrap().is_err(), "never a complete answer");
    assert_eq!(bench.denied(1).await, ["limit_idle"]);
    let row = row(&bench).await;
    // The input as it was said; the output as it was said first, and a token for three bytes since.
    assert_eq!((ended(&row), row.input, row.output, row.counted), (PARTIAL, 500, 101, 601), "{row:?}");
    assert_eq!(end(&bench).await, "idle");
}

#[tokio::test]
async fn what_an_upstream_does_behind_its_final_word_changes_no_row() {
    for h2 in [false, true] {
        // The twin is reset before it.
        for last in [true, false] {
            let (feed, script) = streams();
            let bench = bench_over(h2, None, script).await;
            let mut client = bench.client(MODEL, false).await;
            let mut body = bench.streamed(&mut client, prompt(100)).await;
            let [used, stop] = done(23);
            for bytes in [begin(11), delta("hello"), used].into_iter().chain(last.then_some(stop)) {
                feed.send(Ok(bytes.clone())).unwrap();
                assert_eq!(next(&mut body).await.unwrap().unwrap(), bytes, "{h2} {last}");
            }
            feed.send(Err(std::io::Error::other("reset"))).unwrap();
            assert!(next(&mut body).await.unwrap().is_err(), "{h2} {last}: no end was said");
            let row = row(&bench).await;
            let how = if last { EXACT } else { PARTIAL };
            assert_eq!((ended(&row), row.input, row.output), (how, 11, 23), "{h2} {last}: {row:?}");
            assert_eq!(row.raw, json!({"output_tokens": 23}), "{h2} {last}");
            assert!(if last { row.counted == 34 } else { row.counted >= 34 }, "{h2} {last}: {row:?}");
            assert_eq!(end(&bench).await, "broken", "{h2} {last}");
        }
    }
}

/// Streams `events` whole, to who asks `path` with `body`; gets the row.
async fn row_of(family: ApiFamily, path: &str, body: Value, events: Vec<Bytes>) -> Row {
    let told = events.concat();
    let sent = told.clone();
    let script: Script = Arc::new(move |_| sse(full(sent.clone())));
    let bench = speaks(family, None, script).await;
    let (status, _, answer) = bench.ask(MODEL, "POST", path, body.to_string()).await;
    assert_eq!((status.as_u16(), answer.as_ref()), (200, told.as_slice()), "{path}: it passes untouched");
    assert_eq!(end(&bench).await, "whole", "{path}");
    row(&bench).await
}

#[tokio::test]
async fn an_error_in_the_midst_of_a_stream_is_no_final_word() {
    let asks = json!({"model": "claude-x", "max_tokens": 100, "stream": true, "messages": []});
    let failed = event(json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}));
    let row = async |events| row_of(ApiFamily::Anthropic, "/v1/messages", asks.clone(), events).await;
    let begun = row(vec![begin(500), delta(&"x".repeat(300)), failed.clone()]).await;
    assert_eq!((ended(&begun), begun.input, begun.output, begun.counted), (PARTIAL, 500, 101, 601), "{begun:?}");
    // It said nothing before: who may have worked for it is paid by the estimate.
    let nothing = row(vec![failed.clone()]).await;
    assert_eq!((ended(&nothing), nothing.counted), (AT_ESTIMATE, nothing.estimate), "{nothing:?}");
    assert!(nothing.estimate >= 100);
    let [used, stop] = done(23);
    let behind = row(vec![begin(500), used, stop, failed]).await;
    assert_eq!((ended(&behind), behind.counted), (EXACT, 523), "behind the final word: {behind:?}");
}

#[tokio::test]
async fn a_response_that_failed_is_exact_where_it_says_what_it_used() {
    let asks = json!({"model": "gpt-x", "input": "hi", "max_output_tokens": 100, "stream": true});
    let response = |status: &str, usage: Value| json!({"id": "resp_1", "object": "response", "status": status, "model": "gpt-x", "output": [], "usage": usage});
    let row = async |usage: Value| {
        let events = vec![
            event(json!({"type": "response.created", "response": response("in_progress", Value::Null)})),
            event(json!({"type": "response.output_text.delta", "delta": "x".repeat(900)})),
            event(json!({"type": "response.failed", "response": response("failed", usage)})),
        ];
        row_of(ApiFamily::OpenaiResponses, "/v1/responses", asks.clone(), events).await
    };
    let used = json!({"input_tokens": 7, "output_tokens": 5});
    let said = row(used.clone()).await;
    assert_eq!((ended(&said), said.counted, &said.raw), (EXACT, 12, &used), "{said:?}");
    // Without: the estimate, or what had come of it where that is more.
    let unsaid = row(Value::Null).await;
    assert_eq!((ended(&unsaid), unsaid.output, &unsaid.raw), (AT_ESTIMATE, 300, &Value::Null), "{unsaid:?}");
    assert!(unsaid.counted > unsaid.estimate, "{unsaid:?}");
}

/// Answers that say 7 tokens of input, and of output what stands for `@`.
fn figures() -> Vec<(ApiFamily, &'static str, Value, &'static str)> {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let claude = json!({"model": "claude-x", "max_tokens": 50, "messages": messages});
    vec![
        (
            ApiFamily::Anthropic,
            "/v1/messages",
            claude.clone(),
            r#"{"id":"m","type":"message","model":"claude-x","content":[],"usage":{"input_tokens":7,"output_tokens":@}}"#,
        ),
        (
            ApiFamily::Vertex,
            "/v1/projects/p/locations/l/publishers/anthropic/models/claude-x:streamRawPredict",
            json!({"anthropic_version": "vertex-2023-10-16", "max_tokens": 50, "stream": true, "messages": messages}),
            "data: {\"type\":\"message_start\",\"message\":{\"type\":\"message\",\"id\":\"m\",\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n\
             data: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":@}}\n\ndata: {\"type\":\"message_stop\"}\n\n",
        ),
        (
            ApiFamily::OpenaiChat,
            "/v1/chat/completions",
            json!({"model": "gpt-x", "max_tokens": 50, "messages": messages}),
            r#"{"id":"c","object":"chat.completion","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":@}}"#,
        ),
        (
            ApiFamily::OpenaiResponses,
            "/v1/responses",
            json!({"model": "gpt-x", "max_output_tokens": 50, "input": "hi"}),
            r#"{"id":"r","object":"response","status":"completed","output":[],"usage":{"input_tokens":7,"output_tokens":@}}"#,
        ),
        (
            ApiFamily::Gemini,
            "/v1beta/models/gemini-x:generateContent",
            json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 50}}),
            r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":@}}"#,
        ),
        (
            ApiFamily::Bedrock,
            "/model/m/converse",
            json!({"messages": [{"role": "user", "content": [{"text": "hi"}]}], "inferenceConfig": {"maxTokens": 50}}),
            r#"{"output":{},"stopReason":"end_turn","usage":{"inputTokens":7,"outputTokens":@}}"#,
        ),
    ]
}

#[tokio::test]
async fn figures_that_are_none_are_charged_the_estimate_and_the_row_says_why() {
    for (family, path, body, answer) in figures() {
        for (figure, good) in
            [("5", true), ("-1", false), ("1.5", false), ("1e99", false), ("9007199254740993", false), ("\"5\"", false)]
        {
            let answer = answer.replace('@', figure);
            let kind = if answer.starts_with('{') { "application/json" } else { "text/event-stream" };
            let told = answer.clone();
            let script: Script =
                Arc::new(move |_| Response::builder().header("content-type", kind).body(full(told.clone())).unwrap());
            let bench = speaks(family, None, script).await;
            let (status, _, came) = bench.ask(MODEL, "POST", path, body.to_string()).await;
            assert_eq!((status.as_u16(), came.as_ref()), (200, answer.as_bytes()), "{path}");
            let row = row(&bench).await;
            if good {
                assert_eq!((ended(&row), row.counted), (EXACT, 12), "{path}, {figure}: {row:?}");
                continue;
            }
            assert_eq!(ended(&row), ("at_estimate", "estimated", Some("unreadable")), "{path}, {figure}: {row:?}");
            assert!(row.counted >= row.estimate && row.estimate >= 50, "{path}, {figure}: {row:?}");
            assert_eq!(bench.events("usage").await[0]["why"], "unreadable", "{path}, {figure}");
        }
    }
}

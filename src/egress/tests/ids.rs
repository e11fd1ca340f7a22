//! Ids of responses that come again: a host that says the same one on every answer is charged for each, and it is written down that
//! its id had been seen. Only what no request had reserved for is taken for a replay.

use super::forms::speaks;
use super::*;

/// How an API is asked, and an answer of it that always has the same id: 7 tokens in, 5 out.
fn apis() -> Vec<(ApiFamily, &'static str, Value, Option<&'static str>, String)> {
    let usage = json!({"input_tokens": 7, "output_tokens": 5});
    let hi = json!([{"role": "user", "content": "hi"}]);
    let of_chat = json!({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12});
    let response = json!({"id": "resp_0", "object": "response", "status": "completed", "model": "gpt-x", "output": [], "usage": usage});
    let gemini = json!({"responseId": "r_0", "modelVersion": "gemini-x",
        "candidates": [{"index": 0, "content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12}});
    let stream = [begin(7)].into_iter().chain(done(5)).flat_map(|event| event.to_vec()).collect();
    let (plain, events) = (Some("application/json"), Some("text/event-stream"));
    let contents = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
    vec![
        (ApiFamily::Anthropic, "/v1/messages", serde_json::from_str(&prompt(50)).unwrap(), plain, message_json(7, 5)),
        (
            ApiFamily::Anthropic,
            "/v1/messages",
            serde_json::from_str(&prompt(50)).unwrap(),
            events,
            String::from_utf8(stream).unwrap(),
        ),
        (
            ApiFamily::OpenaiResponses,
            "/v1/responses",
            json!({"model": "gpt-x", "input": "hi"}),
            plain,
            response.to_string(),
        ),
        (
            ApiFamily::OpenaiChat,
            "/v1/chat/completions",
            json!({"model": "gpt-x", "messages": hi}),
            plain,
            json!({"id": "c_0", "object": "chat.completion", "model": "gpt-x", "usage": of_chat, "choices": [{"index": 0,
                "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}]})
            .to_string(),
        ),
        (ApiFamily::Gemini, "/v1beta/models/gemini-x:generateContent", contents, plain, gemini.to_string()),
    ]
}

#[tokio::test]
async fn a_host_that_says_the_same_id_on_every_answer_is_charged_for_each() {
    for (family, path, body, kind, answer) in apis() {
        let told = answer.clone();
        let script: Script = Arc::new(move |_| {
            let answer = Response::builder().header("content-type", kind.unwrap_or_default());
            answer.body(full(told.clone())).unwrap()
        });
        let bench = speaks(family, None, script).await;
        for round in 1..=3_u64 {
            let (status, _, said) = bench.ask(MODEL, "POST", path, body.to_string()).await;
            assert_eq!((status.as_u16(), said.as_ref()), (200, answer.as_bytes()), "{path}");
            assert_eq!(bench.counted().await, 12 * round, "{path}, round {round}");
        }
        // Three rows, each exact; each but the first says that its id had been there.
        let ledger = rusqlite::Connection::open(bench._home.0.join("ledger.db")).unwrap();
        let used: u32 = ledger.query_row("SELECT min(used) FROM accounts", [], |row| row.get(0)).unwrap();
        assert_eq!(used, 36, "{path}: to each account");
        let mut read = ledger.prepare("SELECT response_id, how, counted, duplicate FROM usage ORDER BY id").unwrap();
        let rows: Vec<(String, String, u32, bool)> = read
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(rows.iter().all(|row| row.0 == rows[0].0 && row.1 == "exact" && row.2 == 12), "{path}: {rows:?}");
        assert_eq!(rows.iter().map(|row| row.3).collect::<Vec<_>>(), [false, true, true], "{path}");
        let flagged = bench.events("usage").await;
        let flagged: Vec<bool> = flagged.iter().map(|usage| usage["duplicate"] == true).collect();
        assert_eq!(flagged, [false, true, true], "{path}");
    }
}

#[tokio::test]
async fn a_limit_is_spent_by_answers_that_all_have_the_same_id() {
    let bench = bench(Some(100), answers(message_json(30, 20))).await;
    let mut passed = 0;
    while bench.message().await.0 == 200 {
        passed += 1;
        assert!(passed < 10, "they are free");
    }
    assert_eq!((passed, bench.counted().await), (2, 100));
}

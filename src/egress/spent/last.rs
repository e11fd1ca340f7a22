//! The last word of a stream that its budget has cut: the event by which each API's own clients hear that an answer has failed.
//!
//! One function per API. Where it may stand is [`Edge`](crate::egress::tee)'s business.

use serde_json::{Value, json};

use super::{anthropic, chat, gemini};
use crate::egress::deny::Deny;
use crate::egress::tee::Last;
use crate::meter::event_stream;
use crate::types::Api;

/// Gets the last word of a stream of `api`, in which the answer is called `id`, if that is known. `now` is in seconds since the epoch.
pub(in crate::egress) fn last(api: Api, id: Option<&str>, deny: &Deny, now: i64) -> Last {
    let (lines, object) = match api {
        Api::Anthropic => event("error", &anthropic(deny)),
        Api::OpenaiChat => of_chat(deny),
        Api::OpenaiResponses => event("response.failed", &of_responses(id, deny, now)),
        Api::Gemini => of_gemini(deny, now),
        Api::BedrockConverse | Api::BedrockInvoke => of_bedrock(deny),
    };
    Last { lines, object: object.to_string() }
}

/// Makes a named event.
fn event(name: &str, data: &Value) -> (Vec<u8>, Value) {
    (format!("event: {name}\ndata: {data}\n\n").into_bytes(), data.clone())
}

/// The SDKs throw at a chunk with an error; others read on to the end, which is told as well.
fn of_chat(deny: &Deny) -> (Vec<u8>, Value) {
    let data = chat(deny);
    (format!("data: {data}\n\ndata: [DONE]\n\n").into_bytes(), data)
}

/// Codex takes this code for final; at any other it asks again, five times. OpenAI's SDK for Python throws an error without the
/// sentence where the response that fails is not the one that was begun.
fn of_responses(id: Option<&str>, deny: &Deny, now: i64) -> Value {
    let error = json!({"code": "insufficient_quota", "message": deny.message});
    json!({
        "type": "response.failed",
        "sequence_number": 0,
        "response": {"id": id.unwrap_or("resp_bb"), "object": "response", "created_at": now, "status": "failed", "error": error, "output": []},
    })
}

fn of_gemini(deny: &Deny, now: i64) -> (Vec<u8>, Value) {
    let data = gemini(deny, now);
    (format!("data: {data}\n\n").into_bytes(), data)
}

/// An exception that the SDKs know of their streams; within one they try nothing again.
fn of_bedrock(deny: &Deny) -> (Vec<u8>, Value) {
    let data = json!({"message": deny.message});
    let headers = [
        (":exception-type", "throttlingException"),
        (":content-type", "application/json"),
        (":message-type", "exception"),
    ];
    (event_stream::message(&headers, data.to_string().as_bytes()), data)
}

#[cfg(test)]
mod tests {
    use super::super::{Standing, crossed};
    use super::*;
    use crate::meter::{Meter, parse};

    fn deny() -> Deny {
        let standing = Standing {
            node: "bottle:b".into(),
            provider: "claude".into(),
            used: 90,
            held: 30,
            limit: 100,
            ..Standing::default()
        };
        crossed(&standing)
    }

    #[test]
    fn each_api_says_it_in_its_own_words_and_with_the_figures() {
        for (api, words) in [
            (Api::Anthropic, "event: error\ndata: {"),
            (Api::OpenaiChat, "\n\ndata: [DONE]\n\n"),
            (Api::OpenaiResponses, "\"code\":\"insufficient_quota\""),
            (Api::Gemini, "RESOURCE_EXHAUSTED"),
            (Api::BedrockConverse, "throttlingException"),
        ] {
            let last = last(api, Some("resp_1"), &deny(), 1_000);
            let text = String::from_utf8_lossy(&last.lines).into_owned();
            assert!(text.contains(words), "{api:?}: {text}");
            assert_eq!(text.contains("\"id\":\"resp_1\""), api == Api::OpenaiResponses, "{text}");
            assert!(
                text.contains("90 of 100 tokens are used, and 30 reserved") && last.object.contains("90 of 100 tokens"),
                "{api:?}: {text}"
            );
            let mut meter = Meter::new(api, None, None);
            meter.feed(&last.lines);
            assert_eq!((meter.tokens(), meter.reading().broken), (None, false), "{api:?}");
            assert_eq!(parse(api, &last.lines).tokens, None);
        }
    }
}

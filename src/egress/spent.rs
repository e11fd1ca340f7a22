//! The answer on a model route whose budget is spent or whose bottle was cut: in the words of each API, such that the
//! agent's own CLI prints the sentence and does not retry for minutes (observed with the real CLIs).
//!
//! Anthropic's SDK obeys `x-should-retry: false`; a 403 would make Claude Code drop its login. Codex stops at once on
//! `usage_limit_reached`. Gemini CLI stops where it is told to wait for more than five minutes; of a daily quota, which it
//! takes for final too, it prints a text of its own.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::body::Outgoing;
use super::deny::{self, Denial, Deny};
use crate::ledger::Standing;
use crate::types::Api;

/// Seconds after which a client may ask again. Long, since only an operator can change the outcome.
const RETRY_AFTER: i64 = 3600;

/// Gets how an account stands, in one sentence: scope, used, limit. For people and agents alike.
pub fn sentence(standing: &Standing) -> String {
    let name = |node: &str| node.split('@').next().unwrap_or_default().to_owned();
    let whose = match standing.node.split_once(':') {
        _ if standing.node == crate::ledger::GLOBAL => "this host's global budget".to_owned(),
        Some(("bottle", _)) => "this bottle's budget".to_owned(),
        Some(("run", _)) => "the budget of this run".to_owned(),
        Some(("agent", node)) => format!("the budget of the agent {}", name(node)),
        Some(("manifest", node)) => format!("the budget of the bottle manifest {}", name(node)),
        _ => "the budget".to_owned(),
    };
    let Standing { used, limit, wanted, .. } = standing;
    let scope = match standing.provider.as_str() {
        "*" => String::new(),
        one => format!(" for {one}"),
    };
    if *wanted > 0 {
        let left = limit.saturating_sub(*used);
        return format!(
            "{whose}{scope} is too small for the next request: it needs about {wanted} tokens, \
             {left} of {limit} are left"
        );
    }
    format!("{whose}{scope} is spent: {used} of {limit} tokens used")
}

/// Gets the refusal for a spent account: how it stands, when it resets, what the operator can do.
pub fn budget(standing: &Standing) -> Deny {
    Deny::new(
        Denial::BudgetExhausted,
        format!(
            "bb: {}. It does not reset by itself. Only the operator can raise it; stop here and report what is done \
             and what is left.",
            sentence(standing)
        ),
    )
    .step("finish without model calls; further ones get this same answer")
    .step("the operator can launch again with a larger budget (`budget` in the recipe, `budget` in settings.yml)")
}

/// Gets the refusal of a bottle that was cut for `reason`.
pub fn cut(reason: &str) -> Deny {
    let message = if reason.starts_with("bb: ") {
        reason.to_owned()
    } else {
        format!("bb: this bottle's way out was cut: {reason}. Only the operator can open it again.")
    };
    Deny::new(Denial::Cut, message).step("stop here; further requests get this same answer")
}

/// Gets the HTTP answer to a request of `api` that is refused by `deny`. `now` is in seconds since the epoch.
pub fn answer(api: Api, deny: &Deny, now: i64) -> Response<Outgoing> {
    let body = match api {
        Api::BedrockConverse | Api::BedrockInvoke => return quota(deny),
        Api::Anthropic => json!({
            "type": "error",
            "error": {"type": "rate_limit_error", "message": deny.message},
            "request_id": null,
        }),
        Api::OpenaiResponses => json!({"error": usage_limit(deny, now)}),
        Api::OpenaiChat => json!({
            "error": {"message": deny.message, "type": "insufficient_quota", "param": null, "code": "insufficient_quota"},
        }),
        Api::Gemini => json!({
            "error": {
                "code": StatusCode::TOO_MANY_REQUESTS.as_u16(),
                "message": deny.message,
                "status": "RESOURCE_EXHAUSTED",
                "details": [
                    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{RETRY_AFTER}s")},
                ],
            },
        }),
    };
    let mut answer = deny::respond(deny.kind, StatusCode::TOO_MANY_REQUESTS, &body);
    let headers = answer.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
    headers.insert("x-should-retry", HeaderValue::from_static("false"));
    if api == Api::OpenaiResponses
        && let Ok(sentence) = HeaderValue::from_str(&deny.message)
    {
        // Codex prints a text of its own for this error, and this header in it.
        headers.insert("x-codex-promo-message", sentence);
    }
    answer
}

/// Gets the error that Amazon's SDKs take for final: they try a `ThrottlingException` again, whatever its headers say.
fn quota(deny: &Deny) -> Response<Outgoing> {
    let mut answer = deny::respond(deny.kind, StatusCode::BAD_REQUEST, &json!({ "message": deny.message }));
    let kind = HeaderValue::from_static("ServiceQuotaExceededException");
    answer.headers_mut().insert("x-amzn-errortype", kind);
    answer
}

/// Gets the error that Codex takes for final.
fn usage_limit(deny: &Deny, now: i64) -> Value {
    json!({
        "type": "usage_limit_reached",
        "code": "usage_limit_reached",
        "message": deny.message,
        "resets_at": now + RETRY_AFTER,
        "resets_in_seconds": RETRY_AFTER,
    })
}

/// Gets the event by which a client of a WebSocket of the Responses API hears a refusal, for the `lane` that it is about.
/// Codex ends its turn with the sentence at a status of 429 or 400; any other has it connect anew, five times.
pub fn event(deny: &Deny, lane: Option<&str>, now: i64) -> Value {
    let mut event = match deny.kind {
        Denial::BudgetExhausted | Denial::Cut => json!({
            "type": "error",
            "status": StatusCode::TOO_MANY_REQUESTS.as_u16(),
            "error": usage_limit(deny, now),
            "headers": {"x-codex-promo-message": deny.message},
        }),
        kind => {
            let status = match kind.status() {
                again if again.is_server_error() || again == StatusCode::TOO_MANY_REQUESTS => again,
                _ => StatusCode::BAD_REQUEST,
            };
            let mut error = deny.body()["error"].take();
            error["code"] = json!(kind.as_str());
            error["param"] = Value::Null;
            json!({"type": "error", "status": status.as_u16(), "error": error})
        }
    };
    if let Some(lane) = lane {
        event["stream_id"] = json!(lane);
    }
    event
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn standing() -> Standing {
        Standing { node: "run:nightly".into(), provider: "claude".into(), used: 1234, held: 0, limit: 1000, wanted: 0 }
    }

    async fn json_of(answer: Response<Outgoing>) -> Value {
        let bytes = answer.into_body().collect().await.map_err(|e| e.to_string()).unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn the_sentence_names_scope_used_limit_reset_and_remedy() {
        let message = budget(&standing()).message;
        for part in ["this run", "1234 of 1000", "claude", "does not reset", "operator"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[tokio::test]
    async fn claude_gets_a_429_that_its_sdk_does_not_retry() {
        let answer = answer(Api::Anthropic, &budget(&standing()), 1_000);
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers()["retry-after"], "3600");
        assert_eq!(answer.headers()["x-should-retry"], "false");
        assert_eq!(answer.headers()[deny::HEADER], "budget_exhausted");
        let body = json_of(answer).await;
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["type"], "rate_limit_error");
    }

    #[tokio::test]
    async fn gemini_gets_a_delay_that_it_does_not_wait_for() {
        let answer = answer(Api::Gemini, &budget(&standing()), 1_000);
        assert_eq!(answer.status(), 429);
        let error = &json_of(answer).await["error"];
        assert_eq!((&error["code"], &error["status"]), (&json!(429), &json!("RESOURCE_EXHAUSTED")));
        assert!(error["message"].as_str().unwrap().contains("this run"));
        assert_eq!(error["details"][0]["retryDelay"], "3600s");
    }

    #[tokio::test]
    async fn codex_gets_usage_limit_reached_with_a_time() {
        let answer = answer(Api::OpenaiResponses, &budget(&standing()), 1_000);
        assert_eq!(answer.status(), 429);
        let body = json_of(answer).await;
        assert_eq!(body["error"]["type"], "usage_limit_reached");
        assert_eq!(body["error"]["resets_at"], 4600);
    }

    #[test]
    fn on_a_websocket_a_refusal_is_an_event_that_ends_the_turn() {
        let spent = event(&budget(&standing()), Some("a"), 1_000);
        assert_eq!(
            (&spent["type"], &spent["status"], &spent["stream_id"]),
            (&json!("error"), &json!(429), &json!("a"))
        );
        assert_eq!(
            (&spent["error"]["type"], &spent["error"]["resets_at"]),
            (&json!("usage_limit_reached"), &json!(4600))
        );
        assert!(spent["headers"]["x-codex-promo-message"].as_str().unwrap().contains("1234 of 1000"));
        let refused = event(&Deny::new(Denial::ServerTool, "bb: no"), None, 1_000);
        assert_eq!((&refused["status"], &refused["error"]["code"]), (&json!(400), &json!("server_tool")));
        assert_eq!((&refused["error"]["message"], refused.get("stream_id")), (&json!("bb: no"), None));
        assert_eq!(event(&Deny::new(Denial::LedgerUnavailable, "x"), None, 0)["status"], 503);
    }

    #[test]
    fn a_cut_says_its_reason() {
        let deny = cut("operator said stop");
        assert_eq!(deny.kind, Denial::Cut);
        assert!(deny.message.contains("operator said stop"));
        assert_eq!(cut("bb: this bottle's budget is spent").message, "bb: this bottle's budget is spent");
    }
}

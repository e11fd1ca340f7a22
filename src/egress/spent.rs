//! The answer on a model route whose budget is spent or whose bottle was cut: in the words of each API, such that the
//! agent's own CLI prints the sentence and does not retry for minutes (observed with the real CLIs).
//!
//! Anthropic's SDK obeys `x-should-retry: false`; a 403 would make Claude Code drop its login. Codex stops at once on
//! `usage_limit_reached`. Gemini CLI stops where it is told to wait for more than five minutes; of a daily quota, which it
//! takes for final too, it prints a text of its own.

use http::{HeaderValue, Response, StatusCode, header};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

mod last;

pub(super) use last::last;

use super::body::Outgoing;
use super::deny::{self, Denial, Deny};
use crate::ledger::Standing;
use crate::types::Api;

/// Seconds after which a client may ask again where only an operator can change the outcome.
const RETRY_AFTER: i64 = 3600;

/// The least and the most that a client is told to wait, where the budget begins anew by itself. Unit: seconds. Less than five
/// minutes some clients wait inside their turn, and the bottle may be cut all the same.
const WAIT: (i64, i64) = (360, 31 * 86_400);

/// Gets how an account stands, in one sentence: scope, used, limit. For people and agents alike.
pub fn sentence(standing: &Standing) -> String {
    let whose = whose(standing);
    let Standing { used, limit, wanted, .. } = standing;
    if *wanted > 0 {
        let left = limit.saturating_sub(*used);
        return format!(
            "{whose} is too small for the next request: it needs about {wanted} tokens, {left} of {limit} are left"
        );
    }
    format!("{whose} is spent: {used} of {limit} tokens used")
}

/// Gets whose budget an account is, and for which provider.
fn whose(standing: &Standing) -> String {
    let name = |node: &str| node.split('@').next().unwrap_or_default().to_owned();
    let whose = match standing.node.split_once(':') {
        _ if standing.node == crate::ledger::GLOBAL => "this host's global budget".to_owned(),
        Some(("bottle", _)) => "this bottle's budget".to_owned(),
        Some(("run", _)) => "the budget of this run".to_owned(),
        Some(("agent", node)) => format!("the budget of the agent {}{}", name(node), over_launches(node)),
        Some(("manifest", node)) => format!("the budget of the bottle manifest {}{}", name(node), over_launches(node)),
        _ => "the budget".to_owned(),
    };
    match standing.provider.as_str() {
        "*" => whose,
        one => format!("{whose} for {one}"),
    }
}

/// Says of a manifest's node that it counts by name, where it does.
fn over_launches(node: &str) -> &'static str {
    if node.contains('@') { "" } else { ", over its launches," }
}

/// Says when an account begins anew by itself, in one sentence, by the host's clock.
pub fn resets(standing: &Standing) -> String {
    let at = standing.resets.and_then(|at| Timestamp::from_millisecond(at).ok());
    match at {
        None => "It does not reset by itself.".to_owned(),
        Some(at) => {
            let at = at.to_zoned(TimeZone::system());
            format!("It resets by itself at {}.", at.strftime("%Y-%m-%d %H:%M %:z"))
        }
    }
}

/// Gets the refusal for a spent account: how it stands, when it resets, what the operator can do.
pub fn budget(standing: &Standing) -> Deny {
    let before = if standing.resets.is_some() { "Before that only" } else { "Only" };
    let message = format!(
        "bb: {}. {} {before} the operator can raise it; stop here and report what is done and what is left.",
        sentence(standing),
        resets(standing),
    );
    Deny { resets: standing.resets, ..Deny::new(Denial::BudgetExhausted, message) }
        .step("finish without model calls; further ones get this same answer")
        .step("the operator can launch again with a larger budget (`budget` in the recipe, `budget` in settings.yml)")
}

/// Gets the refusal by which an agent hears, once, that only what is kept for the end is left.
pub fn wrap_up(standing: &Standing) -> Deny {
    let Standing { used, limit, .. } = standing;
    let whose = whose(standing);
    let deny = Deny::new(
        Denial::BudgetExhausted,
        format!(
            "bb: {whose} is nearly spent: {used} of {limit} tokens used. What is left is kept for you to hand over what you have: do \
             that now, in as few requests as you can, and say what is done and what is left. Your next requests pass until all is spent."
        ),
    )
    .step("hand over what you have with your next requests")
    .step("the operator can raise the budget");
    Deny { wraps_up: Some(Box::new(standing.clone())), ..deny }
}

/// Gets what is put into an agent's request for it to read.
pub fn aside(sentence: &str) -> String {
    format!("[{sentence}]")
}

/// Gets what an agent is told, in its own conversation, of thresholds that its budgets have passed.
pub fn near(passed: &[(Standing, u8)]) -> String {
    let one = |(standing, percent): &(Standing, u8)| {
        let Standing { used, limit, .. } = standing;
        let left = limit.saturating_sub(*used);
        format!("{percent} % of {} is used: {used} of {limit} tokens, {left} are left.", whose(standing))
    };
    let all: Vec<String> = passed.iter().map(one).collect();
    aside(&format!("bb, which runs this agent: {} Do what matters most first.", all.join(" ")))
}

/// Gets what is told where an answer ends because its tokens, with what others have reserved, pass a limit.
pub fn crossed(standing: &Standing) -> Deny {
    let Standing { used, held, limit, .. } = standing;
    let message = format!(
        "bb: this answer ends here: {} has no room left: {used} of {limit} tokens are used, and {held} reserved for requests under way. {} Only the operator can raise it; stop here and report what is done and what is left.",
        whose(standing),
        resets(standing),
    );
    Deny { resets: standing.resets, ..Deny::new(Denial::BudgetExhausted, message) }
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
        Api::Anthropic => anthropic(deny),
        Api::OpenaiResponses => json!({"error": usage_limit(deny, now)}),
        Api::OpenaiChat => chat(deny),
        Api::Gemini => gemini(deny, now),
    };
    let mut answer = deny::respond(deny.kind, StatusCode::TOO_MANY_REQUESTS, &body);
    let headers = answer.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after(deny, now)));
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

/// Gets the seconds after which a client is told to ask again. `now` is in seconds since the epoch.
fn retry_after(deny: &Deny, now: i64) -> i64 {
    deny.resets.map_or(RETRY_AFTER, |at| at.div_euclid(1000).saturating_sub(now).clamp(WAIT.0, WAIT.1))
}

/// Gets an error of Anthropic's.
fn anthropic(deny: &Deny) -> Value {
    json!({
        "type": "error",
        "error": {"type": "rate_limit_error", "message": deny.message},
        "request_id": null,
    })
}

/// Gets an error of the Chat Completions API.
fn chat(deny: &Deny) -> Value {
    json!({
        "error": {"message": deny.message, "type": "insufficient_quota", "param": null, "code": "insufficient_quota"},
    })
}

/// Gets an error of Google's.
fn gemini(deny: &Deny, now: i64) -> Value {
    json!({
        "error": {
            "code": StatusCode::TOO_MANY_REQUESTS.as_u16(),
            "message": deny.message,
            "status": "RESOURCE_EXHAUSTED",
            "details": [
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{}s", retry_after(deny, now))},
            ],
        },
    })
}

/// Gets the error that Codex takes for final.
fn usage_limit(deny: &Deny, now: i64) -> Value {
    // It says when it resets, and does not wait for it.
    let wait = deny.resets.map_or(RETRY_AFTER, |at| at.saturating_add(999).div_euclid(1000).saturating_sub(now).max(1));
    json!({
        "type": "usage_limit_reached",
        "code": "usage_limit_reached",
        "message": deny.message,
        "resets_at": now + wait,
        "resets_in_seconds": wait,
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
        Standing {
            node: "run:nightly".into(),
            provider: "claude".into(),
            used: 1234,
            limit: 1000,
            ..Standing::default()
        }
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

    #[test]
    fn it_says_that_it_does_not_reset_only_where_that_is_true() {
        assert!(budget(&standing()).message.contains("It does not reset by itself. Only the operator"));
        // 2025-06-11T00:00:00Z.
        let daily = Standing { resets: Some(1_749_600_000_000), ..standing() };
        let deny = budget(&daily);
        assert!(!deny.message.contains("does not reset"), "{}", deny.message);
        let there = Timestamp::from_second(1_749_600_000).unwrap().to_zoned(TimeZone::system());
        let said = format!("It resets by itself at {}", there.strftime("%Y-%m-%d %H:%M %:z"));
        assert!(deny.message.contains(&said) && deny.message.contains("operator"), "{}", deny.message);
        // The figures of each API: hours ahead, and near the end never so near that a client waits for it in its turn.
        let figures = |now: i64| {
            let after = answer(Api::Anthropic, &deny, now).headers()["retry-after"].to_str().unwrap().to_owned();
            (
                after,
                usage_limit(&deny, now)["resets_at"].as_i64(),
                usage_limit(&deny, now)["resets_in_seconds"].as_i64(),
            )
        };
        assert_eq!(figures(1_749_600_000 - 7200), ("7200".into(), Some(1_749_600_000), Some(7200)));
        assert_eq!(figures(1_749_600_000 - 10), ("360".into(), Some(1_749_600_000), Some(10)));
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

//! Every refusal of the egress plane: one list, and the HTTP answer that a program and a model can both act on.
//!
//! The words are a contract (`X-BB-Deny`, events, docs). This file must not decide anything; it only says it.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;
use serde_json::{Value, json};

use super::body::Outgoing;
use super::dial::DialError;
use crate::ledger::Standing;

/// Header that carries the kind of a refusal.
pub const HEADER: &str = "x-bb-deny";

macro_rules! denials {
    ($($variant:ident, $word:literal, $status:literal, $what:literal;)*) => {
        /// What was refused, as one word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Denial {
            $(#[doc = $what] $variant,)*
        }

        impl Denial {
            /// Every denial, in the order of the documentation.
            pub const ALL: &'static [Denial] = &[$(Denial::$variant,)*];

            /// Gets the word that stands for it everywhere.
            pub fn as_str(self) -> &'static str {
                match self { $(Denial::$variant => $word,)* }
            }

            /// Gets the HTTP status of its answer.
            pub fn status(self) -> StatusCode {
                let code: u16 = match self { $(Denial::$variant => $status,)* };
                StatusCode::from_u16(code).unwrap_or(StatusCode::FORBIDDEN)
            }

            /// Gets one sentence that says what it means.
            pub fn meaning(self) -> &'static str {
                match self { $(Denial::$variant => $what,)* }
            }
        }
    };
}

denials! {
    RouteMissing, "route_missing", 403, "The host is not on the allow-list.";
    Method, "method", 403, "The route does not allow this method.";
    Path, "path", 403, "The route does not allow this path, or the path is not in normal form.";
    NameMismatch, "name_mismatch", 421, "SNI, `Host` and `:authority` do not name one and the same host.";
    IpLiteral, "ip_literal", 403, "The destination is an IP address, or not the address of the name.";
    Port, "port", 403, "The port is not one of the route's, or nobody listens on it.";
    PrivateAddress, "private_address", 403, "The name resolves to a private, local or own address.";
    ResolveFailed, "resolve_failed", 502, "The name could not be resolved.";
    UpstreamUnreachable, "upstream_unreachable", 502, "The upstream server did not answer.";
    UpstreamTls, "upstream_tls", 502, "The upstream server's certificate or TLS was not acceptable.";
    ProtocolUnknown, "protocol_unknown", 400, "Not TLS or HTTP, or not the form that the API has.";
    Upgrade, "upgrade", 426, "The route passes no WebSocket, or it is another upgrade.";
    MeteredPathUnknown, "metered_path_unknown", 404, "A path of a model API that the meter does not know.";
    ServerTool, "server_tool", 403, "A feature by which the provider would reach out for the agent.";
    BodyTooLarge, "body_too_large", 413, "The request body is larger than the route allows, or than what is held whole (32 MiB).";
    ResponseTooLarge, "response_too_large", 502, "The answer is larger than the route allows.";
    ResponseCoded, "response_coded", 502, "The answer is coded, and repeats the route's credential, or cannot be read to look for it.";
    LimitHeaders, "limit_headers", 431, "The request's headers are too large or too many.";
    LimitConnections, "limit_connections", 429, "Too many connections at once.";
    LimitStreams, "limit_streams", 429, "Too many requests at once.";
    LimitBodies, "limit_bodies", 429, "Too many bytes of request bodies are held at once.";
    LimitHandshakes, "limit_handshakes", 429, "Too many TLS handshakes at once.";
    LimitIdle, "limit_idle", 408, "Nothing moved for too long.";
    LimitVerdict, "limit_verdict", 503, "What had to be known before a verdict took too long.";
    CredentialMissing, "credential_missing", 502, "The route's credential is not there.";
    LoginExpired, "login_expired", 400, "The host's login is not there, or not good any more.";
    LoginForeign, "login_foreign", 400, "A token endpoint was asked for another login than the host's.";
    BudgetExhausted, "budget_exhausted", 429, "The token budget is spent.";
    Cut, "cut", 403, "The bottle's way out was cut.";
    Policy, "policy", 403, "A policy said no.";
    LedgerUnavailable, "ledger_unavailable", 503, "The ledger does not answer, so nothing metered may pass.";
}

/// One refusal, with all that its answer and its event say.
#[derive(Clone, Debug, PartialEq)]
pub struct Deny {
    /// The kind.
    pub kind: Denial,
    /// One or two sentences for people and models.
    pub message: String,
    /// What the operator is told in its place, in events and never in an answer: it may name what no agent is to know.
    pub operator: Option<String>,
    /// The allow-list entry that would have let it pass, if one would.
    pub rule_missing: Option<Box<Value>>,
    /// What can be done, each a sentence.
    pub next_steps: Vec<String>,
    /// Expected and not worth showing (telemetry paths of a route's `quiet`).
    pub quiet: bool,
    /// When the budget that refuses begins anew by itself. Unit: milliseconds since the epoch.
    pub resets: Option<i64>,
    /// The account of which the agent hears, by this, that only what is kept for its end is left: asked again, its requests pass.
    pub wraps_up: Option<Box<Standing>>,
}

impl Deny {
    /// Makes a refusal of `kind` with its `message`.
    pub fn new(kind: Denial, message: impl Into<String>) -> Self {
        let message = message.into();
        Deny {
            kind,
            message,
            operator: None,
            rule_missing: None,
            next_steps: Vec::new(),
            quiet: false,
            resets: None,
            wraps_up: None,
        }
    }

    /// Names the allow-list entry that is missing.
    pub fn rule(mut self, rule: Value) -> Self {
        self.rule_missing = Some(Box::new(rule));
        self
    }

    /// Adds one thing that can be done.
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.next_steps.push(step.into());
        self
    }

    /// Gets the sentence for the operator.
    pub fn reason(&self) -> &str {
        self.operator.as_deref().unwrap_or(&self.message)
    }

    /// Marks it as expected noise.
    pub fn quietly(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Gets the answer's JSON.
    pub fn body(&self) -> Value {
        json!({"error": {
            "type": "bb_denied",
            "kind": self.kind.as_str(),
            "message": self.message,
            "rule_missing": self.rule_missing,
            "next_steps": self.next_steps,
        }})
    }

    /// Gets the HTTP answer.
    pub fn answer(&self) -> Response<Outgoing> {
        let status = if self.quiet { StatusCode::NOT_FOUND } else { self.kind.status() };
        respond(self.kind, status, &self.body())
    }
}

impl From<DialError> for Deny {
    fn from(error: DialError) -> Deny {
        Deny { operator: error.operator, ..Deny::new(error.kind, error.message) }
    }
}

/// Makes a JSON answer that carries the kind of a refusal.
pub fn respond(kind: Denial, status: StatusCode, body: &Value) -> Response<Outgoing> {
    let text = Bytes::from(body.to_string());
    let mut answer = Response::new(Outgoing::full(text));
    *answer.status_mut() = status;
    // Many clients (pip, urllib, requests) show this phrase of HTTP/1 and never the body.
    let phrase = format!("{} (bb: {})", status.canonical_reason().unwrap_or("Refused"), kind.as_str());
    if let Ok(phrase) = ReasonPhrase::try_from(phrase.into_bytes()) {
        answer.extensions_mut().insert(phrase);
    }
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HEADER, HeaderValue::from_static(kind.as_str()));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_documented_by_its_order() {
        let list = "route_missing method path name_mismatch ip_literal port private_address resolve_failed \
             upstream_unreachable upstream_tls protocol_unknown upgrade metered_path_unknown server_tool body_too_large \
             response_too_large response_coded limit_headers limit_connections limit_streams limit_bodies limit_handshakes limit_idle \
             limit_verdict credential_missing login_expired login_foreign budget_exhausted cut policy \
             ledger_unavailable";
        let ours: Vec<_> = Denial::ALL.iter().map(|d| d.as_str()).collect();
        assert_eq!(ours, list.split_whitespace().collect::<Vec<_>>());
    }

    #[test]
    fn an_answer_says_kind_reason_rule_and_remedy() {
        let deny = Deny::new(Denial::RouteMissing, "no route to example.com")
            .rule(json!({"host": "example.com"}))
            .step("ask the operator");
        let answer = deny.answer();
        assert_eq!(answer.status(), 403);
        let phrase = answer.extensions().get::<ReasonPhrase>().unwrap().as_bytes();
        assert_eq!(phrase, b"Forbidden (bb: route_missing)");
        assert_eq!(answer.headers()[HEADER], "route_missing");
        let body = deny.body();
        assert_eq!(body["error"]["type"], "bb_denied");
        assert_eq!(body["error"]["rule_missing"]["host"], "example.com");
        assert_eq!(body["error"]["next_steps"][0], "ask the operator");
    }

    #[test]
    fn what_the_operator_alone_is_told_is_in_no_answer() {
        let error = DialError::new(Denial::UpstreamUnreachable, "by a proxy").operator("by 10.0.0.1:3128");
        let deny = Deny::from(error);
        assert_eq!((deny.reason(), deny.message.as_str()), ("by 10.0.0.1:3128", "by a proxy"));
        assert!(!deny.body().to_string().contains("10.0.0.1"));
        assert_eq!(Deny::new(Denial::Path, "as it is").reason(), "as it is");
    }

    #[test]
    fn quiet_refusals_look_like_a_missing_page() {
        let answer = Deny::new(Denial::Path, "telemetry").quietly().answer();
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.headers()[HEADER], "path");
    }

    #[test]
    fn statuses_keep_agents_from_the_wrong_reaction() {
        assert_eq!(Denial::NameMismatch.status(), 421);
        assert_eq!(Denial::MeteredPathUnknown.status(), 404);
        assert_eq!(Denial::Upgrade.status(), 426);
        assert_eq!(Denial::BudgetExhausted.status(), 429);
        assert_eq!(Denial::LedgerUnavailable.status(), 503);
    }
}

//! Header and query hygiene, both ways. Pure.
//!
//! Upstream: hop-by-hop headers, proxy traces and the agent's own credentials are dropped on every route; on model
//! routes headers and query keys are an allow-list. Downstream: hop-by-hop headers and what would lead past the plane.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// How a route's request headers are cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaning {
    /// A route without credential.
    Plain,
    /// A route with a credential: the answer must be readable, so that an echoed credential is found in it.
    Credential,
    /// A model route.
    Model,
}

/// Gets the headers to send upstream.
pub fn request(headers: &HeaderMap, cleaning: Cleaning) -> HeaderMap {
    let named = connection_names(headers);
    let mut out = HeaderMap::with_capacity(headers.len() + 2);
    for (name, value) in headers {
        let text = name.as_str();
        if hop_by_hop(text) || forbidden_upstream(text) || named.iter().any(|n| n == text) {
            continue;
        }
        if cleaning == Cleaning::Model && !model_header(text) {
            continue;
        }
        if text == "te" {
            // The one value that passes a proxy, and gRPC needs it (RFC 9110, 10.1.4).
            if value.as_bytes().eq_ignore_ascii_case(b"trailers") {
                out.append(name, value.clone());
            }
            continue;
        }
        if text == "accept-encoding" && cleaning != Cleaning::Plain {
            continue;
        }
        // Of an answer in parts each may have a part of the echoed credential. A server that is asked for none sends all of it, as
        // any may (RFC 9110, 14.2).
        if matches!(text, "range" | "if-range") && cleaning != Cleaning::Plain {
            continue;
        }
        out.append(name, value.clone());
    }
    if cleaning != Cleaning::Plain {
        out.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    out
}

/// Headers of an answer that speak of the account whose credential was put in, and so stay out.
const ACCOUNT: [HeaderName; 4] = [
    header::SET_COOKIE,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("authentication-info"),
    HeaderName::from_static("set-cookie2"),
];

/// Cleans the headers, or the trailers, of an answer in place. `credential`: the route has one, so what is about its account
/// stays out, but for the names in `keep`.
pub fn answer(headers: &mut HeaderMap, credential: bool, keep: &[String]) {
    for name in connection_names(headers) {
        if let Ok(name) = HeaderName::try_from(name) {
            headers.remove(name);
        }
    }
    for name in [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::ALT_SVC,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("proxy-authentication-info"),
        HeaderName::from_static("proxy-status"),
    ] {
        headers.remove(name);
    }
    if credential {
        for name in ACCOUNT {
            if !keep.iter().any(|kept| kept.eq_ignore_ascii_case(name.as_str())) {
                headers.remove(name);
            }
        }
    }
}

/// Gets the query to send upstream, without the agent's own credentials.
pub fn query(query: &str, cleaning: Cleaning) -> Cow<'_, str> {
    let kept = |part: &str| {
        let key = part.split('=').next().unwrap_or(part);
        match cleaning {
            Cleaning::Plain => !credential_key(&decoded(key)),
            // A coded key could be any key.
            Cleaning::Credential => !key.contains(['%', '+']) && !credential_key(key),
            Cleaning::Model => model_key(key) || READABLE.contains(&part),
        }
    };
    if query.split('&').all(kept) {
        return Cow::Borrowed(query);
    }
    Cow::Owned(query.split('&').filter(|part| kept(part)).collect::<Vec<_>>().join("&"))
}

/// Gets a query's key with its codes read.
fn decoded(key: &str) -> Cow<'_, str> {
    if !key.contains('%') {
        return Cow::Borrowed(key);
    }
    let mut out = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match code.filter(|_| byte == b'%').and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(read) => {
                out.push(read);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn connection_names(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        // A client must not be able to have framing or content headers dropped by naming them.
        .filter(|name| !matches!(name.as_str(), "" | "close" | "keep-alive" | "te" | "content-length" | "content-type"))
        .collect()
}

fn hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "expect"
            | "host"
    )
}

/// Tells what an agent must not send upstream by itself: proxy traces, its own credentials, method overrides.
fn forbidden_upstream(name: &str) -> bool {
    match name {
        "forwarded" | "via" | "x-real-ip" | "x-original-url" | "x-rewrite-url" => true,
        "authorization"
        | "cookie"
        | "x-api-key"
        | "api-key"
        | "x-goog-api-key"
        | "x-auth-token"
        | "private-token"
        | "job-token"
        | "deploy-token"
        | "openai-organization"
        | "openai-project" => true,
        "x-http-method-override" | "x-http-method" | "x-method-override" => true,
        _ => name.starts_with("proxy-") || name.starts_with("x-forwarded-") || name.starts_with("x-bb-"),
    }
}

/// Tells the headers that model APIs are sent: what the agents' CLIs and the vendors' SDKs send, less identity.
fn model_header(name: &str) -> bool {
    matches!(
        name,
        "content-type"
            | "content-length"
            | "accept"
            | "accept-language"
            | "user-agent"
            | "te"
            | "openai-beta"
            | "x-app"
            | "x-goog-api-client"
            | "x-client-request-id"
            | "idempotency-key"
            | "session_id"
            | "session-id"
            | "conversation_id"
            | "conversation-id"
            | "thread_id"
            | "thread-id"
            | "originator"
            | "version"
            | "sec-fetch-mode"
            | "traceparent"
    ) || ["anthropic-", "x-stainless-", "x-codex-", "x-claude-", "x-openai-", "x-amzn-bedrock-"]
        .iter()
        .any(|p| name.starts_with(p))
}

/// Subprotocols of a WebSocket in which browsers' clients, who can send no header, say who they are.
const CREDENTIAL_PROTOCOLS: [&str; 4] =
    ["openai-insecure-api-key.", "openai-organization.", "openai-project.", "base64url.bearer.authorization.k8s.io."];

/// Gets the subprotocols that are offered, less those that are the agent's own credentials.
pub fn subprotocols(value: &HeaderValue) -> Option<HeaderValue> {
    let own = |one: &&str| {
        let one = one.to_ascii_lowercase();
        CREDENTIAL_PROTOCOLS.iter().any(|start| one.starts_with(start))
    };
    let all = value.to_str().ok()?;
    let kept: Vec<_> = all.split(',').map(str::trim).filter(|one| !one.is_empty() && !own(one)).collect();
    if kept.is_empty() {
        return None;
    }
    HeaderValue::try_from(kept.join(", ")).ok()
}

fn credential_key(key: &str) -> bool {
    ["key", "api_key", "api-key", "apikey", "access_token", "auth_token", "private_token", "oauth_token"]
        .iter()
        .any(|k| key.eq_ignore_ascii_case(k))
}

/// The forms of an answer that the meter can read.
const READABLE: [&str; 2] = ["alt=sse", "alt=json"];

fn model_key(key: &str) -> bool {
    matches!(
        key,
        "beta"
            | "api-version"
            | "client_version"
            | "stream"
            | "starting_after"
            | "limit"
            | "order"
            | "after"
            | "before"
            | "after_id"
            | "before_id"
            | "pageSize"
            | "pageToken"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_and_what_connection_names_is_dropped() {
        let sent = headers(&[
            ("connection", "keep-alive, X-Secret, Content-Length"),
            ("x-secret", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "3"),
            ("host", "a.example"),
            ("x-other", "2"),
        ]);
        assert_eq!(names(&request(&sent, Cleaning::Plain)), ["content-length", "te", "x-other"]);
    }

    #[test]
    fn the_agents_own_credentials_and_proxy_traces_never_pass() {
        let sent = headers(&[
            ("authorization", "Bearer mine"),
            ("cookie", "a=b"),
            ("x-api-key", "mine"),
            ("proxy-authorization", "x"),
            ("x-forwarded-for", "1.1.1.1"),
            ("forwarded", "for=1"),
            ("x-http-method-override", "DELETE"),
            ("openai-organization", "org"),
            ("accept", "*/*"),
        ]);
        for cleaning in [Cleaning::Plain, Cleaning::Credential, Cleaning::Model] {
            let out = request(&sent, cleaning);
            assert!(out.keys().all(|n| matches!(n.as_str(), "accept" | "accept-encoding")), "{cleaning:?}: {out:?}");
        }
    }

    #[test]
    fn model_routes_pass_a_list_and_ask_for_plain_answers() {
        let sent = headers(&[
            ("anthropic-version", "2023-06-01"),
            ("x-stainless-lang", "js"),
            ("accept-encoding", "gzip, br"),
            ("x-evil", "1"),
            ("x-goog-fieldmask", "candidates"),
            ("x-goog-user-project", "somebody"),
            ("content-type", "application/json"),
        ]);
        let out = request(&sent, Cleaning::Model);
        assert_eq!(names(&out), ["accept-encoding", "anthropic-version", "content-type", "x-stainless-lang"]);
        assert_eq!(out["accept-encoding"], "identity");
        assert_eq!(request(&sent, Cleaning::Plain)["accept-encoding"], "gzip, br");
    }

    #[test]
    fn an_answer_is_asked_for_whole_where_a_credential_is_looked_for_in_it() {
        let sent = headers(&[("range", "bytes=5-9"), ("if-range", "\"x\""), ("accept", "*/*")]);
        assert_eq!(names(&request(&sent, Cleaning::Plain)), ["accept", "if-range", "range"]);
        for cleaning in [Cleaning::Credential, Cleaning::Model] {
            assert_eq!(names(&request(&sent, cleaning)), ["accept", "accept-encoding"]);
        }
    }

    #[test]
    fn answers_lose_what_leads_past_the_plane() {
        let mut got = headers(&[
            ("alt-svc", "h3=\":443\""),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("set-cookie", "a=b"),
            ("www-authenticate", "Bearer realm=x"),
            ("content-type", "text/plain"),
        ]);
        let (mut plain, mut kept) = (got.clone(), got.clone());
        answer(&mut got, true, &[]);
        assert_eq!(names(&got), ["content-type"]);
        answer(&mut plain, false, &[]);
        assert_eq!(names(&plain), ["content-type", "set-cookie", "www-authenticate"]);
        answer(&mut kept, true, &["Set-Cookie".to_owned()]);
        assert_eq!(names(&kept), ["content-type", "set-cookie"], "what the route keeps");
    }

    #[test]
    fn a_subprotocol_that_says_who_asks_is_not_offered_on() {
        let offered = |text: &'static str| subprotocols(&HeaderValue::from_static(text));
        assert_eq!(offered("realtime, OpenAI-insecure-API-key.sk-mine,openai-project.p").unwrap(), "realtime");
        assert_eq!(
            offered("v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.eyJ").unwrap(),
            "v5.channel.k8s.io"
        );
        assert_eq!(offered("graphql-ws").unwrap(), "graphql-ws");
        assert_eq!(offered("openai-organization.o"), None);
    }

    #[test]
    fn query_keys_with_credentials_are_dropped_where_one_is_put_in() {
        assert_eq!(query("a=1&key=mine&b=2", Cleaning::Credential), "a=1&b=2");
        assert_eq!(query("Access_Token=mine&%6bey=mine", Cleaning::Credential), "");
        assert_eq!(query("a=1&key=mine&PRIVATE_TOKEN=x&keys=2", Cleaning::Plain), "a=1&keys=2");
        assert_eq!(query("a=1&q=key%3Dmine", Cleaning::Plain), "a=1&q=key%3Dmine");
        assert_eq!(query("%6bey=mine&%4bEY=mine&%6=1&b=2", Cleaning::Plain), "%6=1&b=2");
        assert_eq!(query("beta=true&x=1", Cleaning::Model), "beta=true");
        assert_eq!(query("beta=true", Cleaning::Model), "beta=true");
        assert_eq!(query("alt=sse", Cleaning::Model), "alt=sse");
        // What the meter cannot read, or what takes the usage out of the answer.
        let hiding = "alt=proto&alt=media&fields=candidates&$fields=x&%61lt=proto&key=mine&access_token=x&alt=sse";
        assert_eq!(query(hiding, Cleaning::Model), "alt=sse");
    }
}

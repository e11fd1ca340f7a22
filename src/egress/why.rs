//! What would become of a request that nobody has sent: asked of the engine that decides on real ones.
//!
//! Looks nothing up and sends nothing: what only an answer could tell (a host that is down, a budget that is spent, a
//! feature in a body) is not known here.

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Uri};

use super::address::{Gate, of_name};
use super::coding;
use super::deny::{Denial, Deny};
use super::headers::{self, Cleaning};
use super::link::{self, Link, name_once};
use super::model;
use super::name::Host;
use super::policy::Policy;
use super::request::{fits, head_size, method, no_socket, not_cut};
use super::route::Asked;
use super::streams::Streams;
use super::websocket;
use crate::api::{Tls, Unsent, Verdict};

/// What is asked about.
struct Question {
    tls: bool,
    /// It asks for a WebSocket by its scheme.
    websocket: bool,
    host: Host,
    port: u16,
    /// As it would come, with the headers that every client sends.
    head: Request<()>,
}

/// Says what would become of a request. A URL without scheme means HTTPS.
pub(super) fn why(policy: &Policy, streams: &Streams, unsent: &Unsent) -> Verdict {
    let mut verdict = Verdict { method: unsent.method.clone(), ..Verdict::default() };
    let decided = question(unsent, &mut verdict).and_then(|question| decide(policy, streams, &question, &mut verdict));
    match decided {
        Ok(message) => {
            verdict.allowed = true;
            verdict.message = message;
        }
        Err(deny) => {
            verdict.kind = Some(deny.kind.as_str().to_owned());
            verdict.message = deny.message.trim_start_matches("bb: ").to_owned();
            verdict.rule_missing = deny.rule_missing.map(|rule| *rule);
            verdict.next_steps = deny.next_steps;
        }
    }
    verdict
}

fn question(unsent: &Unsent, verdict: &mut Verdict) -> Result<Question, Deny> {
    let wrong = |what: &str| Deny::new(Denial::NameMismatch, format!("bb: {what}."));
    let no_http = |what: &str| Deny::new(Denial::ProtocolUnknown, format!("bb: this is no {what} of HTTP."));
    let url = unsent.url.as_str();
    let whole = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let (scheme, rest) = whole.split_once("://").unwrap_or(("https", url));
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "https" | "wss" => true,
        "http" | "ws" => false,
        _ => return Err(Deny::new(Denial::ProtocolUnknown, "bb: only HTTPS and HTTP leave a bottle.")),
    };
    let websocket = scheme.to_ascii_lowercase().starts_with("ws");
    verdict.scheme = if tls { "https" } else { "http" }.to_owned();
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    verdict.host = authority.to_owned();
    let (host, port) = Host::parse_authority(authority).map_err(|error| wrong(&error.to_string()))?;
    verdict.host = host.to_string();
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    verdict.port = port;
    // A request's own parser has to take it.
    let target = path.split('#').next().unwrap_or_default();
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    let uri: Uri = target.parse().map_err(|_| no_http("path"))?;
    verdict.path = uri.path().to_owned();
    let mut head = Request::new(());
    *head.method_mut() = Method::from_bytes(unsent.method.as_bytes()).map_err(|_| no_http("method"))?;
    *head.uri_mut() = uri;
    let sent = head.headers_mut();
    for line in &unsent.headers {
        let (name, value) = line.split_once(':').ok_or_else(|| no_http("header"))?;
        let name = HeaderName::try_from(name).map_err(|_| no_http("header"))?;
        sent.append(name, HeaderValue::from_str(value.trim()).map_err(|_| no_http("header"))?);
    }
    let by_itself = |text: &str| HeaderValue::from_str(text).map_err(|_| no_http("header"));
    if !sent.contains_key(header::HOST) {
        sent.insert(header::HOST, by_itself(&host.authority(port, tls))?);
    }
    if websocket {
        let handshake = [
            (header::UPGRADE, "websocket"),
            (header::CONNECTION, "Upgrade"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, "AAAAAAAAAAAAAAAAAAAAAA=="),
        ];
        for (name, value) in handshake {
            if !sent.contains_key(&name) {
                sent.insert(name, by_itself(value)?);
            }
        }
    }
    Ok(Question { tls, websocket, host, port, head })
}

/// Asks what a connection and a request are asked, in that order.
fn decide(policy: &Policy, streams: &Streams, asked: &Question, verdict: &mut Verdict) -> Result<String, Deny> {
    let head = &asked.head;
    if let Some(route) = policy.passes_through(&asked.host, asked.port).filter(|_| asked.tls) {
        not_cut(streams, false)?;
        verdict.route = Some((*route).clone());
        let how = "its TLS is passed through: nothing but the server name is looked at";
        return Ok(how.to_owned() + &addresses(policy, asked));
    }
    method(head.method())?;
    head_size(head)?;
    one_name(asked)?;
    if asked.websocket && *head.method() != Method::GET {
        return Err(Deny::new(Denial::Upgrade, "bb: the handshake of a WebSocket is a GET."));
    }
    let websocket = websocket::asked(head)?;
    let sent = headers::request(head.headers(), Cleaning::Plain);
    let allowed = policy.check(Asked {
        host: &asked.host,
        port: asked.port,
        tls: asked.tls,
        method: head.method().as_str(),
        path: head.uri().path(),
        headers: &sent,
        websocket,
    })?;
    let route = &allowed.route;
    verdict.path = allowed.path.into_owned();
    not_cut(streams, route.api.is_some())?;
    policy.credentials.of(route)?;
    let announced = head.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if let Some(api) = route.api.filter(|_| websocket) {
        no_socket(api, &verdict.path)?;
    } else if let Some(api) = route.api {
        coding::of(head.headers())?;
        model::class(api, head.method().as_str(), &asked.host.to_string(), &verdict.path, route)?;
        model::may_be_held(announced.unwrap_or(0), route.max_request)?;
    } else if route.oauth.is_none() && !websocket {
        fits(route, &asked.host.to_string(), announced.unwrap_or(0))?;
    }
    verdict.route = Some((**route).clone());
    debug_assert!(route.tls == Tls::Intercept, "what is passed through was told before");
    let how = match (&route.auth, route.api) {
        _ if route.oauth.is_some() => "bb answers it itself, for the host's login".to_owned(),
        (_, Some(api)) => format!("it is passed on, metered as {}, where its budget allows", api.as_str()),
        (Some(auth), None) => format!("it is passed on with the credential {}", auth.credential),
        (None, None) => "it is passed on".to_owned(),
    };
    Ok(how + &addresses(policy, asked))
}

/// Checks that the request names one host, as a connection that goes where this name leads.
fn one_name(asked: &Question) -> Result<(), Deny> {
    let (address, sni) = match &asked.host {
        Host::Name(name) => (of_name(name).into(), asked.tls.then(|| Ok(asked.host.clone()))),
        Host::Ip(ip) => (*ip, None),
    };
    let link = Link::new((address, asked.port).into(), asked.tls, sni);
    let named = name_once(&link, &asked.head)?;
    link::destination(Gate::Computed, &link, &named)
}

/// Says which addresses its name may have, since nothing is looked up here.
fn addresses(policy: &Policy, asked: &Question) -> String {
    let ranges: Vec<String> = policy.router.private(&asked.host, asked.port).iter().map(ToString::to_string).collect();
    match ranges.as_slice() {
        [] => ", unless its name leads to a private address (`private_address`)".to_owned(),
        ranges => format!(", also where its name leads into {} (`allow_private`)", ranges.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use rustls::RootCertStore;

    use super::super::Rules;
    use super::super::lookup::Lookups;
    use super::super::policy::Towards;
    use super::super::spent;
    use super::super::streams::Cut;
    use super::*;
    use crate::api::{HeaderKind, HeaderRule, Match, PathKind, PathRule, Route};
    use crate::types::{ApiFamily, CutScope};

    fn below(value: &str) -> PathRule {
        PathRule { kind: PathKind::Prefix, value: value.to_owned() }
    }

    fn team(value: &str) -> HeaderRule {
        HeaderRule { name: "x-team".into(), kind: HeaderKind::Exact, value: value.into() }
    }

    fn policy() -> Policy {
        let routes = [
            Route {
                host: "docs.rs".into(),
                matches: vec![Match { methods: vec!["GET".into()], ..Match::default() }],
                ..Route::default()
            },
            Route { host: "api.anthropic.com".into(), api: Some(ApiFamily::Anthropic), ..Route::default() },
            Route { host: "api.openai.com".into(), api: Some(ApiFamily::OpenaiResponses), ..Route::default() },
            Route { host: "socket.example".into(), websocket: true, ..Route::default() },
            Route { host: "*.pin.example".into(), tls: Tls::Passthrough, ..Route::default() },
            Route {
                host: "team.example".into(),
                matches: vec![Match { headers: vec![team("blue")], ..Match::default() }],
                deny: vec![Match { headers: vec![team("red")], ..Match::default() }],
                max_request: Some(10),
                ..Route::default()
            },
            Route {
                host: "ruled.example".into(),
                matches: vec![Match { paths: vec![below("/a")], ..Match::default() }],
                deny: vec![Match { paths: vec![below("/a/no")], ..Match::default() }],
                allow_private: vec!["10.1.0.0/16".parse().unwrap()],
                ..Route::default()
            },
        ];
        let towards = Towards {
            roots: Arc::new(RootCertStore::empty()),
            upstreams: BTreeMap::new(),
            lookups: Lookups::default(),
            proxy: None,
        };
        Policy::new(&Rules { routes: routes.to_vec(), ..Rules::default() }, &towards).unwrap()
    }

    fn ask(url: &str, method: &str) -> Verdict {
        ask_with(url, method, &[])
    }

    fn ask_with(url: &str, method: &str, headers: &[&str]) -> Verdict {
        why(&policy(), &Streams::default(), &unsent(url, method, headers))
    }

    fn unsent(url: &str, method: &str, headers: &[&str]) -> Unsent {
        let headers = headers.iter().map(|line| (*line).to_owned()).collect();
        Unsent { url: url.to_owned(), method: method.to_owned(), headers }
    }

    #[test]
    fn the_rule_or_what_is_missing_is_named() {
        let yes = ask("DOCS.rs/%61", "GET");
        assert!(yes.allowed, "{yes:?}");
        assert_eq!((yes.host.as_str(), yes.port, yes.path.as_str()), ("docs.rs", 443, "/a"));
        assert_eq!(yes.route.unwrap().host, "docs.rs");
        for (url, method, kind) in [
            ("https://docs.rs/x", "POST", "method"),
            ("https://docs.rs:8443/", "GET", "port"),
            ("https://crates.io/", "GET", "route_missing"),
            ("https://127.1/", "GET", "ip_literal"),
            ("https://user@docs.rs/", "GET", "name_mismatch"),
            ("ftp://docs.rs/", "GET", "protocol_unknown"),
            ("https://docs.rs/../x", "GET", "path"),
            ("https://docs.rs/", "CONNECT", "method"),
            ("http://api.anthropic.com/v1/messages", "POST", "port"),
            ("https://api.anthropic.com/v1/odd", "POST", "metered_path_unknown"),
            ("wss://docs.rs/live", "GET", "upgrade"),
            ("wss://socket.example/live", "POST", "upgrade"),
            ("wss://api.anthropic.com/v1/messages", "GET", "upgrade"),
            ("wss://api.openai.com/v1/odd", "GET", "upgrade"),
        ] {
            let no = ask(url, method);
            assert_eq!((no.allowed, no.kind.as_deref()), (false, Some(kind)), "{url}: {no:?}");
            assert!(!no.message.is_empty() && !no.message.starts_with("bb:"));
        }
        for url in ["wss://socket.example/live", "wss://api.openai.com/v1/responses"] {
            let yes = ask(url, "GET");
            assert!(yes.allowed, "{url}: {yes:?}");
        }
        assert_eq!(ask("https://crates.io/", "GET").rule_missing.unwrap()["host"], "crates.io");
        assert!(
            ask("https://api.anthropic.com/v1/messages?beta=true", "POST").message.contains("metered as anthropic")
        );
        assert!(ask("https://x.pin.example/anything", "DELETE").message.contains("passed through"));
    }

    #[test]
    fn each_reason_is_said_in_words_with_what_is_missing_or_can_be_done() {
        // The request; what is said; what is missing, as the entry of the allow-list; what can be done.
        for (url, method, said, missing, step) in [
            (
                "crates.io/x",
                "GET",
                "crates.io is not on this bottle's allow-list",
                r#""host":"crates.io""#,
                "ask the operator",
            ),
            ("ruled.example/b", "GET", "does not allow this path", r#""paths":["/b"]"#, "ask the operator"),
            (
                "docs.rs/x",
                "POST",
                "the route to docs.rs does not allow POST here",
                r#""methods":["POST"]"#,
                "ask the operator",
            ),
            (
                "ruled.example/a/no",
                "GET",
                "a rule of ruled.example refuses this request, whatever else allows it",
                "",
                "take the rule back",
            ),
            (
                "docs.rs:8443/",
                "GET",
                "the route to docs.rs does not include port 8443",
                r#""ports":[8443]"#,
                "[443, 80]",
            ),
            ("http://x.pin.example/", "GET", "is passed through, over TLS only", "", "use https://x.pin.example/"),
            ("http://api.anthropic.com/", "GET", "served over HTTPS only", "", "use https://api.anthropic.com/"),
            (
                "10.0.0.1/",
                "GET",
                "10.0.0.1 is an IP address; a bottle reaches hosts by name only",
                "",
                "use the host's name",
            ),
        ] {
            let no = ask(url, method);
            assert!(!no.allowed && no.message.contains(said), "{url}: {no:?}");
            let rule = no.rule_missing.map(|rule| rule.to_string()).unwrap_or_default();
            assert!(rule.contains(missing) && rule.is_empty() == missing.is_empty(), "{url}: {rule}");
            assert!(no.next_steps.iter().any(|one| one.contains(step)), "{url}: {:?}", no.next_steps);
        }
        // Which address a name has is not known before it is dialled.
        let private = ask("ruled.example/a/yes", "GET").message;
        assert!(private.contains("also where its name leads into 10.1.0.0/16"), "{private}");
        for url in ["docs.rs/x", "x.pin.example/"] {
            let public = ask(url, "GET").message;
            assert!(public.contains("unless its name leads to a private address"), "{public}");
        }
    }

    #[test]
    fn headers_are_asked_for_as_the_plane_asks_for_them() {
        let team = "https://team.example/";
        let kinds = [
            (team, "GET", &["X-Team: blue"][..], None),
            (team, "GET", &["x-team:blue", "Accept: */*"], None),
            (team, "GET", &[], Some("path")),
            (team, "GET", &["x-team: green"], Some("path")),
            (team, "GET", &["x-team: blue", "x-team: blue"], Some("path")),
            (team, "GET", &["x-team: red"], Some("path")),
            (team, "GET", &["x-team: blue", "x-team: red"], Some("path")),
            // What a connection drops on its way is not there.
            (team, "GET", &["x-team: blue", "Connection: x-team"], Some("path")),
            (team, "GET", &["x-team blue"], Some("protocol_unknown")),
            (team, "GET", &["x team: blue"], Some("protocol_unknown")),
            (team, "GET", &["x-team: bl\u{1}ue"], Some("protocol_unknown")),
            (team, "GET", &["x-team: blue", "Host: team.example"], None),
            (team, "GET", &["x-team: blue", "Host: docs.rs"], Some("name_mismatch")),
            (team, "GET", &["x-team: blue", "Host: team.example", "Host: team.example"], Some("name_mismatch")),
            (team, "PUT", &["x-team: blue", "Content-Length: 10"], None),
            (team, "PUT", &["x-team: blue", "Content-Length: 11"], Some("body_too_large")),
            ("https://docs.rs/", "GET", &["Upgrade: h3"], Some("upgrade")),
            ("https://docs.rs/", "GET", &["Upgrade: websocket"], Some("upgrade")),
            ("https://x.pin.example/", "CONNECT", &["Host: elsewhere.example"], None),
            ("https://api.anthropic.com/v1/messages", "POST", &["Content-Encoding: br"], Some("protocol_unknown")),
            ("https://api.anthropic.com/v1/messages", "POST", &["Content-Length: 99999999"], Some("body_too_large")),
            ("https://docs.rs/a b", "GET", &[], Some("protocol_unknown")),
            ("https://docs.rs/", "G T", &[], Some("protocol_unknown")),
        ];
        for (url, method, headers, kind) in kinds {
            let verdict = ask_with(url, method, headers);
            assert_eq!(
                (verdict.allowed, verdict.kind.as_deref()),
                (kind.is_none(), kind),
                "{url} {headers:?}: {verdict:?}"
            );
        }
        let long = format!("x-long: {}", "x".repeat(super::super::request::MAX_HEAD));
        assert_eq!(ask_with("docs.rs", "GET", &[&long]).kind.as_deref(), Some("limit_headers"));
    }

    #[test]
    fn a_cut_counts() {
        let streams = Streams::default();
        streams.set(Some(Cut { scope: CutScope::All, deny: spent::cut("by the operator") }));
        assert_eq!(why(&policy(), &streams, &unsent("docs.rs", "GET", &[])).kind.as_deref(), Some("cut"));
    }
}

//! What would become of a request that nobody has sent: asked of the engine that decides on real ones.
//!
//! Looks nothing up and sends nothing: what only an answer could tell (a host that is down, a budget that is spent, a
//! feature in a body) is not known here.

use http::{HeaderMap, Method, Uri};

use super::deny::{Denial, Deny};
use super::link::literal;
use super::model;
use super::name::Host;
use super::policy::Policy;
use super::request::{method, not_cut};
use super::route::Asked;
use super::streams::Streams;
use crate::api::{Tls, Verdict};

/// What is asked about.
struct Question {
    method: Method,
    tls: bool,
    host: Host,
    port: u16,
    path: String,
}

/// Says what would become of `method` on `url`. A `url` without scheme means HTTPS.
pub(super) fn why(policy: &Policy, streams: &Streams, url: &str, method: &str) -> Verdict {
    let mut verdict = Verdict { method: method.to_owned(), ..Verdict::default() };
    let decided =
        question(url, method, &mut verdict).and_then(|question| decide(policy, streams, &question, &mut verdict));
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

fn question(url: &str, method: &str, verdict: &mut Verdict) -> Result<Question, Deny> {
    let wrong = |what: &str| Deny::new(Denial::NameMismatch, format!("bb: {what}."));
    let whole = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let (scheme, rest) = whole.split_once("://").unwrap_or(("https", url));
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "https" | "wss" => true,
        "http" | "ws" => false,
        _ => return Err(Deny::new(Denial::ProtocolUnknown, "bb: only HTTPS and HTTP leave a bottle.")),
    };
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
    let uri: Uri =
        target.parse().map_err(|_| Deny::new(Denial::Path, "bb: this is no path that a request can have."))?;
    verdict.path = uri.path().to_owned();
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| Deny::new(Denial::Method, "bb: this is no method that a request can have."))?;
    Ok(Question { method, tls, host, port, path: uri.path().to_owned() })
}

fn decide(policy: &Policy, streams: &Streams, asked: &Question, verdict: &mut Verdict) -> Result<String, Deny> {
    method(&asked.method)?;
    if asked.host.is_ip() {
        return Err(literal(&asked.host.to_string()));
    }
    if let Some(route) = policy.passes_through(&asked.host, asked.port).filter(|_| asked.tls) {
        not_cut(streams, false)?;
        verdict.route = Some((*route).clone());
        let how = "its TLS is passed through: nothing but the server name is looked at";
        return Ok(how.to_owned() + &addresses(policy, asked));
    }
    let headers = HeaderMap::new();
    let allowed = policy.check(Asked {
        host: &asked.host,
        port: asked.port,
        tls: asked.tls,
        method: asked.method.as_str(),
        path: &asked.path,
        headers: &headers,
        websocket: false,
    })?;
    let route = &allowed.route;
    verdict.path = allowed.path.into_owned();
    not_cut(streams, route.api.is_some())?;
    policy.credentials.of(route)?;
    if let Some(api) = route.api {
        model::class(api, asked.method.as_str(), &asked.host.to_string(), &verdict.path)?;
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
    use crate::api::{Match, PathKind, PathRule, Route};
    use crate::types::{Api, CutScope};

    fn below(value: &str) -> PathRule {
        PathRule { kind: PathKind::Prefix, value: value.to_owned() }
    }

    fn policy() -> Policy {
        let routes = [
            Route {
                host: "docs.rs".into(),
                matches: vec![Match { methods: vec!["GET".into()], ..Match::default() }],
                ..Route::default()
            },
            Route { host: "api.anthropic.com".into(), api: Some(Api::Anthropic), ..Route::default() },
            Route { host: "*.pin.example".into(), tls: Tls::Passthrough, ..Route::default() },
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
        why(&policy(), &Streams::default(), url, method)
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
        ] {
            let no = ask(url, method);
            assert_eq!((no.allowed, no.kind.as_deref()), (false, Some(kind)), "{url}: {no:?}");
            assert!(!no.message.is_empty() && !no.message.starts_with("bb:"));
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
    fn a_cut_counts() {
        let streams = Streams::default();
        streams.set(Some(Cut { scope: CutScope::All, deny: spent::cut("by the operator") }));
        assert_eq!(why(&policy(), &streams, "docs.rs", "GET").kind.as_deref(), Some("cut"));
    }
}

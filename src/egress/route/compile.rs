//! From an entry of the allow-list to rules that can be asked: names parsed, expressions compiled, and everything refused
//! that cannot be meant. Pure; nothing here looks at a request.

use http::HeaderName;
use regex::bytes::{Regex, RegexBuilder};

use super::super::name::{Host, NameError};
use super::path::{below, normal_path};
use crate::api;
use crate::meter::hosts;

/// Most memory that one compiled expression may take. Unit: bytes.
const MAX_REGEX: usize = 256 << 10;

/// Why an allow-list cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// A route's host is not a host name.
    #[error("route {route:?}: {why}")]
    Host {
        /// The host as written.
        route: String,
        /// Why it is none.
        why: NameError,
    },
    /// A route's host is an address.
    #[error("route {route:?}: routes are for names; an address belongs into `upstreams`")]
    Ip {
        /// The host as written.
        route: String,
    },
    /// The suffix of a wildcard is a single label.
    #[error("route {route:?}: a wildcard needs a suffix of two labels or more, such as `*.example.com`")]
    Wide {
        /// The host as written.
        route: String,
    },
    /// A port is 0.
    #[error("route {route:?}: there is no port 0")]
    Port {
        /// The host as written.
        route: String,
    },
    /// A rule's or quiet path is not in normal form.
    #[error("route {route:?}: path {path:?} is not in normal form (leading slash, no `..`, `//` or coded characters)")]
    Path {
        /// The host as written.
        route: String,
        /// The path.
        path: String,
    },
    /// A method is not upper case.
    #[error("route {route:?}: method {method:?} is not an upper-case word")]
    Method {
        /// The host as written.
        route: String,
        /// The method.
        method: String,
    },
    /// An expression cannot be compiled.
    #[error("route {route:?}: {pattern:?} is not a regular expression: {why}")]
    Regex {
        /// The host as written.
        route: String,
        /// The expression.
        pattern: String,
        /// What its reader says, in one line.
        why: String,
    },
    /// A header's name is none.
    #[error("route {route:?}: {name:?} is not the name of a header")]
    HeaderName {
        /// The host as written.
        route: String,
        /// The name.
        name: String,
    },
    /// A route with scheme `header` and no usable header name.
    #[error("route {route:?}: credential scheme `header` needs a `header` that is a header name")]
    Header {
        /// The host as written.
        route: String,
    },
    /// A route that is passed through and says something that only a request's contents could tell.
    #[error("route {route:?}: `tls: passthrough` sees nothing of a request, so `{key}` cannot hold there")]
    Blind {
        /// The host as written.
        route: String,
        /// The key that cannot hold.
        key: &'static str,
    },
    /// A route that is passed through and names a model API.
    #[error("route {route:?}: a model API is metered, so it cannot be passed through")]
    Unmetered {
        /// The host as written.
        route: String,
    },
    /// A token endpoint that is more than one, or something else as well.
    #[error("route {route:?}: a token endpoint (`oauth`) is POST on exact paths of one host and nothing else: {what}")]
    TokenEndpoint {
        /// The host as written.
        route: String,
        /// What it is beside.
        what: &'static str,
    },
    /// Two routes, or two rules of one, of which one can never hold.
    #[error("route {route:?} contradicts another one of the same host: {what}")]
    Contradiction {
        /// The host as written.
        route: String,
        /// In what.
        what: &'static str,
    },
}

/// Which hosts a route is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// One.
    Exact(Host),
    /// Every name that ends in this, which begins with a dot.
    Below(String),
}

/// A route that can be asked.
#[derive(Debug)]
pub(super) struct Compiled {
    pub route: std::sync::Arc<api::Route>,
    pub allow: Vec<Rule>,
    pub deny: Vec<Rule>,
}

/// A match that can be asked. Empty lists hold for everything.
#[derive(Debug)]
pub(super) struct Rule {
    methods: Vec<String>,
    paths: Vec<PathIs>,
    headers: Vec<(HeaderName, Value)>,
}

#[derive(Debug)]
enum PathIs {
    Exact(String),
    Below(String),
    Matching(Regex),
}

#[derive(Debug)]
enum Value {
    Exact(String),
    Matching(Regex),
}

impl Rule {
    /// Tells whether the path, which is in normal form, is one of the rule's.
    pub fn path_fits(&self, path: &str) -> bool {
        self.paths.is_empty()
            || self.paths.iter().any(|is| match is {
                PathIs::Exact(exact) => path == exact,
                PathIs::Below(prefix) => below(path, prefix),
                PathIs::Matching(expression) => expression.is_match(path.as_bytes()),
            })
    }

    /// Tells whether the method is one of the rule's.
    pub fn method_fits(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|m| m == method)
    }

    /// Tells whether the rule names methods.
    pub fn names_methods(&self) -> bool {
        !self.methods.is_empty()
    }

    /// Tells whether the request has each header that the rule names, with that value among its values: as a rule that refuses
    /// is read, which a second value must not get around.
    pub fn headers_among(&self, headers: &http::HeaderMap) -> bool {
        self.headers.iter().all(|(name, value)| {
            headers.get_all(name).iter().any(|one| match value {
                Value::Exact(exact) => one.as_bytes() == exact.as_bytes(),
                Value::Matching(expression) => expression.is_match(one.as_bytes()),
            })
        })
    }

    /// Gets the first header that the rule asks for and the request does not have, once and with that value.
    pub fn header_missing(&self, headers: &http::HeaderMap) -> Option<&HeaderName> {
        let fits = |name: &HeaderName, value: &Value| {
            let mut all = headers.get_all(name).iter();
            match (all.next(), all.next(), value) {
                (Some(one), None, Value::Exact(exact)) => one.as_bytes() == exact.as_bytes(),
                (Some(one), None, Value::Matching(expression)) => expression.is_match(one.as_bytes()),
                _ => false,
            }
        };
        self.headers.iter().find(|(name, value)| !fits(name, value)).map(|(name, _)| name)
    }
}

/// Tells whether two routes share a port.
pub(super) fn share_ports(one: &api::Route, other: &api::Route) -> bool {
    let usual = [443, 80];
    let ports = |route: &api::Route| if route.ports.is_empty() { usual.to_vec() } else { route.ports.clone() };
    ports(one).iter().any(|port| ports(other).contains(port))
}

/// Compiles one route.
pub(super) fn compile(route: &api::Route) -> Result<(Pattern, Compiled), RouteError> {
    let pattern = pattern(&route.host)?;
    let said = || route.host.clone();
    if route.ports.contains(&0) {
        return Err(RouteError::Port { route: said() });
    }
    for path in &route.quiet {
        plain_path(route, path)?;
    }
    if let Some(auth) = &route.auth
        && auth.scheme == api::AuthScheme::Header
        && auth.header.as_deref().is_none_or(|h| HeaderName::try_from(h).is_err())
    {
        return Err(RouteError::Header { route: said() });
    }
    for name in &route.keep_headers {
        header_name(route, name)?;
    }
    if route.tls == api::Tls::Passthrough {
        can_be_passed_through(route, &pattern)?;
    }
    if route.oauth.is_some() {
        super::token::is_one_only(route, &pattern)?;
    }
    if route.deny.iter().any(|deny| route.matches.contains(deny)) {
        return Err(RouteError::Contradiction { route: said(), what: "a rule stands in `matches` and in `deny`" });
    }
    let rules = |matches: &[api::Match]| matches.iter().map(|m| rule(route, m)).collect::<Result<Vec<_>, _>>();
    let (allow, deny) = (rules(&route.matches)?, rules(&route.deny)?);
    Ok((pattern, Compiled { route: std::sync::Arc::new(route.clone()), allow, deny }))
}

/// Refuses a route that contradicts an earlier one of the same hosts.
pub(super) fn contradiction(earlier: &api::Route, later: &api::Route) -> Result<(), RouteError> {
    let of = |what| Err(RouteError::Contradiction { route: later.host.clone(), what });
    if !share_ports(earlier, later) {
        return Ok(());
    }
    if earlier.tls != later.tls {
        return of("one is passed through and the other is looked into");
    }
    if earlier.api != later.api {
        return of("they do not name the same `api`");
    }
    if earlier.oauth != later.oauth && (earlier.matches.is_empty() || earlier.matches == later.matches) {
        return of("the same requests are a token endpoint's and are not");
    }
    // The first that fits is taken: after one for everything, or for the same, another credential would never be put in.
    if earlier.auth != later.auth && (earlier.matches.is_empty() || earlier.matches == later.matches) {
        return of("for the same requests they name different `auth`");
    }
    Ok(())
}

/// Gets the one spelling of a route's host, so that two routes for one host can be seen to be.
pub fn canonical(host: &str) -> Result<String, RouteError> {
    Ok(match pattern(host)? {
        Pattern::Exact(host) => host.to_string(),
        Pattern::Below(suffix) => format!("*{suffix}"),
    })
}

fn pattern(text: &str) -> Result<Pattern, RouteError> {
    let said = || text.to_owned();
    let parse = |name: &str| Host::parse(name).map_err(|why| RouteError::Host { route: said(), why });
    let suffix = text.strip_prefix("*.");
    match (parse(suffix.unwrap_or(text))?, suffix) {
        (Host::Ip(_), _) => Err(RouteError::Ip { route: said() }),
        (Host::Name(name), Some(_)) if !name.contains('.') => Err(RouteError::Wide { route: said() }),
        (Host::Name(name), Some(_)) => Ok(Pattern::Below(format!(".{name}"))),
        (host, None) => Ok(Pattern::Exact(host)),
    }
}

fn can_be_passed_through(route: &api::Route, pattern: &Pattern) -> Result<(), RouteError> {
    let keys = [
        ("auth", route.auth.is_some()),
        ("api", route.api.is_some()),
        ("matches", !route.matches.is_empty()),
        ("deny", !route.deny.is_empty()),
        ("server_tools", !route.server_tools.is_empty()),
        ("estimate", route.estimate.is_some()),
        ("quiet", !route.quiet.is_empty()),
        ("max_request", route.max_request.is_some()),
        ("max_response", route.max_response.is_some()),
        ("keep_headers", !route.keep_headers.is_empty()),
        ("websocket", route.websocket),
    ];
    if let Some((key, _)) = keys.into_iter().find(|(_, said)| *said) {
        return Err(RouteError::Blind { route: route.host.clone(), key });
    }
    let metered = match pattern {
        Pattern::Exact(Host::Name(name)) => hosts::is_model_host(name),
        Pattern::Exact(Host::Ip(_)) => false,
        Pattern::Below(suffix) => hosts::any_below(suffix),
    };
    if metered {
        return Err(RouteError::Unmetered { route: route.host.clone() });
    }
    Ok(())
}

fn rule(route: &api::Route, said: &api::Match) -> Result<Rule, RouteError> {
    for method in &said.methods {
        if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            return Err(RouteError::Method { route: route.host.clone(), method: method.clone() });
        }
    }
    let path = |rule: &api::PathRule| {
        Ok(match rule.kind {
            api::PathKind::Exact => PathIs::Exact(plain_path(route, &rule.value)?),
            api::PathKind::Prefix => PathIs::Below(plain_path(route, &rule.value)?),
            api::PathKind::Regex => PathIs::Matching(expression(route, &rule.value)?),
        })
    };
    let header = |rule: &api::HeaderRule| {
        let value = match rule.kind {
            api::HeaderKind::Exact => Value::Exact(rule.value.clone()),
            api::HeaderKind::Regex => Value::Matching(expression(route, &rule.value)?),
        };
        Ok((header_name(route, &rule.name)?, value))
    };
    Ok(Rule {
        methods: said.methods.clone(),
        paths: said.paths.iter().map(path).collect::<Result<_, _>>()?,
        headers: said.headers.iter().map(header).collect::<Result<_, _>>()?,
    })
}

fn header_name(route: &api::Route, name: &str) -> Result<HeaderName, RouteError> {
    HeaderName::try_from(name).map_err(|_| RouteError::HeaderName { route: route.host.clone(), name: name.to_owned() })
}

fn plain_path(route: &api::Route, path: &str) -> Result<String, RouteError> {
    match normal_path(path) {
        Ok(normal) if normal == path => Ok(path.to_owned()),
        _ => Err(RouteError::Path { route: route.host.clone(), path: path.to_owned() }),
    }
}

/// Compiles an expression that has to match the whole text, and whose classes are those of ASCII: paths in normal form have
/// no other characters.
fn expression(route: &api::Route, pattern: &str) -> Result<Regex, RouteError> {
    let build =
        |text: &str| RegexBuilder::new(text).unicode(false).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build();
    // By itself first: `a)|(b` is no expression, but would be one between brackets of ours.
    build(pattern).and_then(|_| build(&format!("^(?:{pattern})$"))).map_err(|error| {
        let why = match error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        };
        RouteError::Regex { route: route.host.clone(), pattern: pattern.to_owned(), why }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Auth, AuthScheme, HeaderKind, HeaderRule, Match, PathKind, PathRule, Route, Tls};

    fn route(host: &str) -> Route {
        Route { host: host.into(), ..Route::default() }
    }

    fn path(kind: PathKind, value: &str) -> Match {
        Match { paths: vec![PathRule { kind, value: value.into() }], ..Match::default() }
    }

    fn auth(name: &str) -> Option<Auth> {
        Some(Auth { scheme: AuthScheme::Bearer, header: None, credential: name.into() })
    }

    fn error(route: &Route) -> RouteError {
        compile(route).map(|_| ()).unwrap_err()
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_its_own_name() {
        assert!(matches!(error(&route("a b")), RouteError::Host { .. }));
        assert!(matches!(error(&route("*.*.example.com")), RouteError::Host { .. }));
        assert!(matches!(error(&route("a.*.com")), RouteError::Host { .. }));
        assert!(matches!(error(&route("*")), RouteError::Host { .. }));
        assert!(matches!(error(&route("127.1")), RouteError::Ip { .. }));
        assert!(matches!(error(&route("*.127.0.0.1")), RouteError::Ip { .. }));
        assert!(matches!(error(&route("*.com")), RouteError::Wide { .. }));
        assert!(matches!(error(&Route { ports: vec![443, 0], ..route("a.example") }), RouteError::Port { .. }));
        let quiet = vec!["/a/../b".into()];
        assert!(matches!(error(&Route { quiet, ..route("a.example") }), RouteError::Path { .. }));
        let matches = vec![Match { methods: vec!["get".into()], ..Match::default() }];
        assert!(matches!(error(&Route { matches, ..route("a.example") }), RouteError::Method { .. }));
        let header = auth("k").map(|auth| Auth { scheme: AuthScheme::Header, ..auth });
        assert!(matches!(error(&Route { auth: header, ..route("a.example") }), RouteError::Header { .. }));
        let rule = HeaderRule { name: "a b".into(), kind: HeaderKind::Exact, value: String::new() };
        let matches = vec![Match { headers: vec![rule], ..Match::default() }];
        assert!(matches!(error(&Route { matches, ..route("a.example") }), RouteError::HeaderName { .. }));
        let keep_headers = vec!["set cookie".into()];
        assert!(matches!(error(&Route { keep_headers, ..route("a.example") }), RouteError::HeaderName { .. }));
    }

    #[test]
    fn a_host_has_one_spelling() {
        for (said, one) in [
            ("API.Example.com.", "api.example.com"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            ("*.Example.COM", "*.example.com"),
        ] {
            assert_eq!(canonical(said).as_deref(), Ok(one));
        }
    }

    #[test]
    fn expressions_are_whole_bounded_and_explained() {
        for bad in ["(", "a)|(b", "[z-a]", "(a{1000}){1000}"] {
            let matches = vec![path(PathKind::Regex, bad)];
            let error = error(&Route { matches, ..route("a.example") });
            assert!(matches!(&error, RouteError::Regex { why, .. } if !why.is_empty()), "{bad}: {error}");
        }
        let (_, good) =
            compile(&Route { matches: vec![path(PathKind::Regex, "/a|/b/[0-9]+")], ..route("a.example") }).unwrap();
        assert!(good.allow[0].path_fits("/a") && good.allow[0].path_fits("/b/12"));
        assert!(
            !good.allow[0].path_fits("/a/x")
                && !good.allow[0].path_fits("/x/b/12")
                && !good.allow[0].path_fits("/b/12x")
        );
    }

    #[test]
    fn a_header_rule_wants_the_header_once() {
        let rule = |kind, value: &str| HeaderRule { name: "X-Team".into(), kind, value: value.into() };
        let headers = vec![rule(HeaderKind::Exact, "blue")];
        let (_, exact) =
            compile(&Route { matches: vec![Match { headers, ..Match::default() }], ..route("a.example") }).unwrap();
        let headers = vec![rule(HeaderKind::Regex, "bl.*")];
        let (_, expression) =
            compile(&Route { matches: vec![Match { headers, ..Match::default() }], ..route("a.example") }).unwrap();
        let mut sent = http::HeaderMap::new();
        assert!(exact.allow[0].header_missing(&sent).is_some());
        sent.insert("x-team", http::HeaderValue::from_static("blue"));
        assert!(exact.allow[0].header_missing(&sent).is_none() && expression.allow[0].header_missing(&sent).is_none());
        sent.append("x-team", http::HeaderValue::from_static("blue"));
        assert!(exact.allow[0].header_missing(&sent).is_some() && expression.allow[0].header_missing(&sent).is_some());
        // A rule that refuses holds all the same.
        assert!(exact.allow[0].headers_among(&sent) && expression.allow[0].headers_among(&sent));
        sent.insert("x-team", http::HeaderValue::from_static("red"));
        assert!(!exact.allow[0].headers_among(&sent) && !expression.allow[0].headers_among(&sent));
    }

    #[test]
    fn what_is_passed_through_cannot_promise_what_it_does_not_see() {
        let through = |host: &str| Route { tls: Tls::Passthrough, ..route(host) };
        assert!(compile(&through("pinned.example")).is_ok());
        assert!(compile(&through("*.pinned.example")).is_ok());
        for (blind, key) in [
            (Route { auth: auth("k"), ..through("a.example") }, "auth"),
            (Route { matches: vec![path(PathKind::Exact, "/x")], ..through("a.example") }, "matches"),
            (Route { deny: vec![path(PathKind::Exact, "/x")], ..through("a.example") }, "deny"),
            (Route { api: Some(crate::types::ApiFamily::Gemini), ..through("a.example") }, "api"),
            (Route { max_request: Some(1), ..through("a.example") }, "max_request"),
        ] {
            assert_eq!(error(&blind), RouteError::Blind { route: "a.example".into(), key });
        }
        for model in ["api.anthropic.com", "*.openai.com", "*.anthropic.com", "*.googleapis.com"] {
            assert_eq!(error(&through(model)), RouteError::Unmetered { route: model.into() });
        }
    }

    #[test]
    fn two_routes_of_which_one_could_never_hold_contradict() {
        let rules = vec![path(PathKind::Prefix, "/x")];
        let base = route("a.example");
        let with = |auth| Route { auth, ..base.clone() };
        let limited = |auth| Route { matches: rules.clone(), auth, ..base.clone() };
        let contradicts = |a: &Route, b: &Route| contradiction(a, b).is_err();
        assert!(contradicts(&base, &Route { tls: Tls::Passthrough, ..base.clone() }));
        assert!(contradicts(&base, &Route { api: Some(crate::types::ApiFamily::Gemini), ..base.clone() }));
        assert!(contradicts(&with(auth("a")), &with(auth("b"))));
        assert!(contradicts(&base, &limited(auth("b"))), "the first one takes everything");
        assert!(contradicts(&limited(auth("a")), &limited(auth("b"))));
        assert!(!contradicts(&limited(auth("a")), &with(auth("b"))), "the second one is for the rest");
        assert!(!contradicts(&base, &base));
        let elsewhere = Route { ports: vec![8443], tls: Tls::Passthrough, ..base.clone() };
        assert!(!contradicts(&base, &elsewhere), "another port is another service");
        let own = Route { matches: rules.clone(), deny: rules.clone(), ..base };
        assert!(matches!(error(&own), RouteError::Contradiction { .. }));
    }
}

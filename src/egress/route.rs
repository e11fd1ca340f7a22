//! The allow-list of one bottle, compiled: host, port, method, path. Nothing matches = refused.
//!
//! Pure; asked per request, before any look-up, dial or upstream byte. Paths are compared in one normal form, which
//! is also the form that is sent on: the path that was checked is the path that the server sees.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;

use super::deny::{Denial, Deny};
use super::name::{Host, NameError};
use crate::api;

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
    /// A route with scheme `header` and no usable header name.
    #[error("route {route:?}: credential scheme `header` needs a `header` that is a header name")]
    Header {
        /// The host as written.
        route: String,
    },
}

/// The compiled allow-list.
#[derive(Debug, Default)]
pub struct Router {
    hosts: HashMap<Host, Vec<Arc<api::Route>>>,
}

/// A request as the router sees it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The one name of the request.
    pub host: &'a Host,
    /// The port that the connection meant.
    pub port: u16,
    /// Whether it came over TLS.
    pub tls: bool,
    /// The method.
    pub method: &'a str,
    /// The path as it came, without query.
    pub path: &'a str,
}

/// What the router allows.
#[derive(Clone, Debug)]
pub struct Allowed<'a> {
    /// The route that matched first.
    pub route: Arc<api::Route>,
    /// The path to send on.
    pub path: Cow<'a, str>,
}

impl Router {
    /// Compiles `routes`.
    pub fn new(routes: &[api::Route]) -> Result<Router, RouteError> {
        let mut hosts: HashMap<Host, Vec<Arc<api::Route>>> = HashMap::new();
        for route in routes {
            let name = || route.host.clone();
            let host = Host::parse(&route.host).map_err(|why| RouteError::Host { route: name(), why })?;
            if host.is_ip() {
                return Err(RouteError::Ip { route: name() });
            }
            for path in route.matches.iter().flat_map(|m| &m.paths).map(|p| &p.value).chain(&route.quiet) {
                if normal_path(path).ok().as_deref() != Some(path.as_str()) {
                    return Err(RouteError::Path { route: name(), path: path.clone() });
                }
            }
            for method in route.matches.iter().flat_map(|m| &m.methods) {
                if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
                    return Err(RouteError::Method { route: name(), method: method.clone() });
                }
            }
            if let Some(auth) = &route.auth
                && auth.scheme == api::AuthScheme::Header
                && auth.header.as_deref().is_none_or(|h| http::HeaderName::try_from(h).is_err())
            {
                return Err(RouteError::Header { route: name() });
            }
            hosts.entry(host).or_default().push(Arc::new(route.clone()));
        }
        Ok(Router { hosts })
    }

    /// Tells whether any route is for `host`.
    pub fn knows(&self, host: &Host) -> bool {
        self.hosts.contains_key(host)
    }

    /// Gets the first route that allows the request, or the most telling reason why none does.
    pub fn check<'a>(&self, asked: Asked<'a>) -> Result<Allowed<'a>, Deny> {
        let Some(routes) = self.hosts.get(asked.host) else {
            return Err(route_missing(asked.host));
        };
        let mut on_port = routes.iter().filter(|r| port_allowed(r, asked.port)).peekable();
        if on_port.peek().is_none() {
            return Err(wrong_port(routes, asked));
        }
        let mut reason = None;
        for route in on_port {
            match allow(route, asked) {
                Ok(path) => return Ok(Allowed { route: Arc::clone(route), path }),
                // A path that fits with the wrong method says more than a path that does not fit at all.
                Err(deny) if reason.as_ref().is_none_or(|r: &Deny| r.kind == Denial::Path) => reason = Some(deny),
                Err(_) => {}
            }
        }
        Err(reason.unwrap_or_else(|| route_missing(asked.host)))
    }
}

fn port_allowed(route: &api::Route, port: u16) -> bool {
    if route.ports.is_empty() { port == 443 || port == 80 } else { route.ports.contains(&port) }
}

fn allow<'a>(route: &api::Route, asked: Asked<'a>) -> Result<Cow<'a, str>, Deny> {
    if !asked.tls && (route.auth.is_some() || route.api.is_some()) {
        return Err(Deny::new(
            Denial::Port,
            format!("bb: {} has a credential or is metered, so it is served over HTTPS only.", asked.host),
        )
        .step(format!("use https://{}/", asked.host)));
    }
    if route.matches.is_empty() && route.api.is_none() && route.quiet.is_empty() {
        return Ok(Cow::Borrowed(asked.path));
    }
    let path = normal_path(asked.path)?;
    if let Some(prefix) = route.quiet.iter().find(|q| below(&path, q)) {
        return Err(Deny::new(Denial::Path, format!("bb: {}{prefix} is not passed.", asked.host)).quietly());
    }
    if route.matches.is_empty() {
        return Ok(path);
    }
    let mut path_fits = false;
    for rule in &route.matches {
        if !rule.paths.is_empty() && !rule.paths.iter().any(|p| path_matches(p, &path)) {
            continue;
        }
        path_fits = true;
        if rule.methods.is_empty() || rule.methods.iter().any(|m| m == asked.method) {
            return Ok(path);
        }
    }
    let rule = json!({"host": asked.host.to_string(), "methods": [asked.method], "paths": [path]});
    Err(if path_fits {
        Deny::new(Denial::Method, format!("bb: the route to {} does not allow {} here.", asked.host, asked.method))
    } else {
        Deny::new(Denial::Path, format!("bb: the route to {} does not allow this path.", asked.host))
    }
    .rule(rule)
    .step("ask the operator to allow it, or do without"))
}

fn route_missing(host: &Host) -> Deny {
    Deny::new(Denial::RouteMissing, format!("bb: {host} is not on this bottle's allow-list."))
        .rule(json!({"host": host.to_string()}))
        .step("do without it, or ask the operator to add the host to the routes")
        .step("trying other addresses, ports or tools for the same host ends the same way")
}

fn wrong_port(routes: &[Arc<api::Route>], asked: Asked<'_>) -> Deny {
    let allowed: Vec<u16> =
        routes.iter().flat_map(|r| if r.ports.is_empty() { vec![443, 80] } else { r.ports.clone() }).collect();
    Deny::new(Denial::Port, format!("bb: the route to {} does not include port {}.", asked.host, asked.port))
        .rule(json!({"host": asked.host.to_string(), "ports": [asked.port]}))
        .step(format!("the route has the ports {allowed:?}"))
}

fn path_matches(rule: &api::PathRule, path: &str) -> bool {
    match rule.kind {
        api::PathKind::Exact => path == rule.value,
        api::PathKind::Prefix => below(path, &rule.value),
    }
}

/// Tells whether `path` is `prefix` or lies below it; `/v1` is not a prefix of `/v10`.
fn below(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
        None => false,
    }
}

/// Gets the normal form of a path: coded unreserved characters decoded, other codes upper case (RFC 3986, 6.2.2).
/// What servers read in different ways is refused: coded slashes, backslashes and NULs, dot segments, empty segments.
pub fn normal_path(raw: &str) -> Result<Cow<'_, str>, Deny> {
    let refuse = |what: &str| {
        Deny::new(Denial::Path, format!("bb: the path has {what} in it, which servers read in different ways."))
            .step("send the path in its plain form")
    };
    if !raw.starts_with('/') {
        return Err(refuse("no leading slash"));
    }
    let path = if raw.contains('%') { Cow::Owned(decode_unreserved(raw).map_err(refuse)?) } else { Cow::Borrowed(raw) };
    if path.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'\\') {
        return Err(refuse("a backslash or control character"));
    }
    let segments = path.get(1..).unwrap_or("");
    let last = segments.split('/').count() - 1;
    for (i, segment) in segments.split('/').enumerate() {
        // `;` begins parameters that some servers drop before they look at dots.
        match segment.split(';').next().unwrap_or(segment) {
            "." | ".." => return Err(refuse("a dot segment")),
            "" if i < last => return Err(refuse("an empty segment")),
            _ => {}
        }
    }
    Ok(path)
}

fn decode_unreserved(raw: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 3).filter(|c| c.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(byte) = code.and_then(|c| u8::from_str_radix(c, 16).ok()) else {
            return Err("a percent sign without a code");
        };
        match byte {
            b'/' | b'\\' => return Err("a coded slash"),
            0..=0x1f | 0x7f => return Err("a coded control character"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Auth, AuthScheme, Match, PathKind, PathRule, Route};

    fn asked<'a>(host: &'a Host, port: u16, method: &'a str, path: &'a str) -> Asked<'a> {
        Asked { host, port, tls: port != 80, method, path }
    }

    fn kind(router: &Router, host: &str, port: u16, method: &str, path: &str) -> Result<String, Denial> {
        let host = Host::parse(host).unwrap();
        router.check(asked(&host, port, method, path)).map(|a| a.path.into_owned()).map_err(|d| d.kind)
    }

    fn github() -> Router {
        Router::new(&[Route {
            host: "API.github.com".into(),
            matches: vec![
                Match {
                    methods: vec!["GET".into()],
                    paths: vec![PathRule { kind: PathKind::Prefix, value: "/repos/me".into() }],
                },
                Match {
                    methods: vec!["POST".into()],
                    paths: vec![PathRule { kind: PathKind::Exact, value: "/graphql".into() }],
                },
            ],
            quiet: vec!["/_telemetry".into()],
            ..Route::default()
        }])
        .unwrap()
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        let router = Router::new(&[]).unwrap();
        assert_eq!(kind(&router, "example.com", 443, "GET", "/"), Err(Denial::RouteMissing));
    }

    #[test]
    fn hosts_are_exact_names_not_suffixes() {
        let router = github();
        assert!(kind(&router, "api.github.com", 443, "GET", "/repos/me/x").is_ok());
        for host in ["evilapi.github.com", "api.github.com.evil.net", "github.com", "x.api.github.com"] {
            assert_eq!(kind(&router, host, 443, "GET", "/repos/me"), Err(Denial::RouteMissing), "{host}");
        }
    }

    #[test]
    fn each_part_of_a_rule_refuses_by_its_own_kind() {
        let router = github();
        assert_eq!(kind(&router, "api.github.com", 22, "GET", "/repos/me"), Err(Denial::Port));
        assert_eq!(kind(&router, "api.github.com", 443, "DELETE", "/repos/me"), Err(Denial::Method));
        assert_eq!(kind(&router, "api.github.com", 443, "GET", "/repos/you"), Err(Denial::Path));
        assert_eq!(kind(&router, "api.github.com", 443, "GET", "/repos/mean"), Err(Denial::Path));
        assert_eq!(kind(&router, "api.github.com", 443, "POST", "/graphql/x"), Err(Denial::Path));
        assert!(kind(&router, "api.github.com", 443, "POST", "/graphql").is_ok());
    }

    #[test]
    fn quiet_prefixes_are_marked() {
        let router = github();
        let host = Host::parse("api.github.com").unwrap();
        let deny = router.check(asked(&host, 443, "POST", "/_telemetry/v2")).unwrap_err();
        assert!(deny.quiet);
        assert!(!router.check(asked(&host, 443, "POST", "/_telemetryx")).unwrap_err().quiet);
    }

    #[test]
    fn a_path_that_servers_read_in_two_ways_does_not_pass_a_path_rule() {
        let router = github();
        for path in [
            "/repos/me/../you",
            "/repos/me/%2e%2e/you",
            "/repos/me/.%2E/you",
            "/repos/me%2Fx",
            "/repos/me%5cx",
            "/repos//me",
            "//repos/me",
            "/repos/me/..;/you",
            "/repos/me/x%00",
            "/repos/me/%zz",
            "/repos/me/%4",
            "/repos\\me",
            "*",
        ] {
            assert_eq!(kind(&router, "api.github.com", 443, "GET", path), Err(Denial::Path), "{path}");
        }
        assert_eq!(kind(&router, "api.github.com", 443, "GET", "/%72epos/me/").as_deref(), Ok("/repos/me/"));
        assert_eq!(
            kind(&router, "api.github.com", 443, "GET", "/repos/me/%c3%a4%20").as_deref(),
            Ok("/repos/me/%C3%A4%20")
        );
        // Double coding stays what it is: one decoding of a code is not a slash.
        assert_eq!(kind(&router, "api.github.com", 443, "GET", "/repos/me/%252F").as_deref(), Ok("/repos/me/%252F"));
    }

    #[test]
    fn a_route_without_rules_passes_paths_as_they_came() {
        let router = Router::new(&[Route { host: "registry.npmjs.org".into(), ..Route::default() }]).unwrap();
        assert_eq!(kind(&router, "registry.npmjs.org", 443, "GET", "/@babel%2fcore").as_deref(), Ok("/@babel%2fcore"));
        assert!(kind(&router, "registry.npmjs.org", 80, "GET", "/x").is_ok());
        assert_eq!(kind(&router, "registry.npmjs.org", 8443, "GET", "/x"), Err(Denial::Port));
    }

    #[test]
    fn a_credential_never_travels_over_plain_http() {
        let auth = Auth { scheme: AuthScheme::Bearer, header: None, credential: "k".into() };
        let router = Router::new(&[Route { host: "a.example".into(), auth: Some(auth), ..Route::default() }]).unwrap();
        assert_eq!(kind(&router, "a.example", 80, "GET", "/"), Err(Denial::Port));
        assert!(kind(&router, "a.example", 443, "GET", "/").is_ok());
    }

    #[test]
    fn a_list_that_cannot_be_meant_is_refused_as_a_whole() {
        let route = |host: &str| Route { host: host.into(), ..Route::default() };
        assert!(matches!(Router::new(&[route("*.example.com")]), Err(RouteError::Host { .. })));
        assert!(matches!(Router::new(&[route("127.1")]), Err(RouteError::Ip { .. })));
        let mut bad = route("a.example");
        bad.quiet = vec!["/a/../b".into()];
        assert!(matches!(Router::new(&[bad]), Err(RouteError::Path { .. })));
        let mut bad = route("a.example");
        bad.auth = Some(Auth { scheme: AuthScheme::Header, header: None, credential: "k".into() });
        assert!(matches!(Router::new(&[bad]), Err(RouteError::Header { .. })));
    }
}

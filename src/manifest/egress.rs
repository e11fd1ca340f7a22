//! The way out of a manifest: `egress: {routes: [...], proxy: true}`.
//!
//! Reads the form only; [`crate::egress::route`] says what a route means, and is asked whether it could be compiled.

use super::limits::size;
use super::{Reader, Said};
use crate::api::{self, Auth, AuthScheme, HeaderKind, HeaderRule, Match, PathKind, PathRule, Tls};
use crate::egress::route::{RouteError, Router, canonical};
use crate::types::ApiFamily;
use crate::yaml::budget::tokens;
use crate::yaml::read::{boolean, is_variable, list, table, tables, text, word};
use crate::yaml::{Entry, Node, Problems};

pub(super) const KEYS: [&str; 16] = [
    "host",
    "ports",
    "matches",
    "deny",
    "auth",
    "api",
    "server_tools",
    "estimate",
    "quiet",
    "dlp",
    "tls",
    "allow_private",
    "max_request",
    "max_response",
    "keep_headers",
    "websocket",
];
const MATCH_KEYS: [&str; 3] = ["paths", "methods", "headers"];
const HEADER_KEYS: [&str; 3] = ["name", "type", "value"];
const PATH_KEYS: [&str; 2] = ["type", "value"];
const AUTH_KEYS: [&str; 3] = ["scheme", "token_ref", "header"];
const DLP_KEYS: [&str; 3] = ["outbound_detectors", "inbound_detectors", "outbound_on_match"];
const OUTBOUND: [&str; 3] = ["token_patterns", "known_secrets", "entropy"];
const INBOUND: [&str; 1] = ["prompt_injection"];

/// One entry of the allow-list; a credential is the name of a variable of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What is allowed.
    pub allow: api::Route,
    /// What is looked for in bodies.
    pub dlp: Option<Dlp>,
}

/// What is looked for in bodies on a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dlp {
    /// In what leaves.
    pub outbound: Detectors,
    /// In what comes back.
    pub inbound: Detectors,
    /// What happens to a body that matches.
    pub on_match: OnMatch,
}

/// Which detectors look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detectors {
    /// `false`.
    None,
    /// The ones named.
    Named(Vec<String>),
}

/// What happens to a body in which something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMatch {
    /// It waits for the operator where the bottle is supervised; else it is refused.
    Supervise,
    /// What was found is taken out.
    Redact,
    /// It is refused.
    Block,
}

/// Reads the table: the allow-list, and whether there is an explicit proxy.
pub(super) fn read(node: &Node, reader: Reader<'_>, problems: &mut Problems) -> (Vec<Said<Route>>, Option<Said<bool>>) {
    let mut routes: Vec<Said<Route>> = Vec::new();
    let mut proxy = None;
    for entry in table(node, "`egress`", problems) {
        match entry.key.as_str() {
            "routes" => {}
            "proxy" => {
                proxy = boolean(entry, problems).map(|proxy| reader.said(entry.line, proxy));
                continue;
            }
            _ => {
                problems.unknown_key(entry, &["routes", "proxy"]);
                continue;
            }
        }
        for item in tables(&entry.value, "`routes`", problems) {
            let Some(route) = route(item, problems) else { continue };
            // With each earlier one by itself, so that the fault is this one's and in its line.
            let together = routes.iter().find_map(|earlier| {
                let error = Router::new(&[earlier.value.allow.clone(), route.allow.clone()]).err()?;
                Some((earlier.place.to_string(), error))
            });
            match together {
                Some((place, error)) => {
                    problems.add(item.line, error.to_string()).hint =
                        Some(format!("make one of it and the one at {place}, or remove one"));
                }
                None => routes.push(reader.said(item.line, route)),
            }
        }
    }
    (routes, proxy)
}

fn route(node: &Node, problems: &mut Problems) -> Option<Route> {
    // A host alone is a route to all of it.
    let alone = node.text().map(|host| api::Route { host: host.to_owned(), ..api::Route::default() });
    let mut route = Route { allow: alone.clone().unwrap_or_default(), dlp: None };
    let before = problems.len();
    if alone.is_none() {
        let entries = table(node, "a route", problems);
        for entry in entries {
            key(entry, &mut route, problems);
        }
        if !entries.is_empty() && !entries.iter().any(|e| e.key == "host") {
            problems.add(node.line, "a route does not say `host`").hint =
                Some("add it, such as `host: docs.rs`".to_owned());
        }
    }
    if problems.len() > before || route.allow.host.is_empty() {
        return None;
    }
    let advice = route.allow.advice_in_yaml();
    let fault = Router::new(std::slice::from_ref(&route.allow)).err();
    if advice.is_some() || fault.is_some() {
        let message = match &fault {
            Some(e) if advice.is_none() => e.to_string(),
            _ => format!("`{}` is not a host name", route.allow.host),
        };
        let hint = advice.unwrap_or_else(|| remedy(fault.as_ref()).to_owned());
        problems.add(node.line, message).hint = Some(hint);
        return None;
    }
    if let Ok(host) = canonical(&route.allow.host) {
        route.allow.host = host;
    }
    Some(route)
}

/// Says what to do about a route that cannot be meant.
fn remedy(fault: Option<&RouteError>) -> &'static str {
    match fault {
        Some(RouteError::Regex { .. }) => "correct it: it has to match the whole text, and `type: prefix` needs none",
        Some(RouteError::Blind { .. }) => "remove the key, or `tls: passthrough`",
        Some(RouteError::Unmetered { .. }) => "remove `tls: passthrough`",
        Some(RouteError::Contradiction { .. }) => "remove one of them",
        Some(RouteError::Method { .. }) => "write methods in upper case, such as GET",
        Some(RouteError::HeaderName { .. } | RouteError::Header { .. }) => "write a header's name, such as x-api-key",
        Some(RouteError::Ip { .. }) => "name the host, and its address under `upstreams` in settings.yml",
        _ => "write a host's exact name, and paths in their normal form",
    }
}

fn key(entry: &Entry, route: &mut Route, problems: &mut Problems) {
    let allow = &mut route.allow;
    match entry.key.as_str() {
        "host" => allow.host = text(entry, problems).unwrap_or_default().to_owned(),
        "ports" => allow.ports = ports(entry, problems),
        "matches" => allow.matches = rules(entry, problems),
        "deny" => allow.deny = rules(entry, problems),
        "tls" => {
            let words = [("intercept", Tls::Intercept), ("passthrough", Tls::Passthrough)];
            allow.tls = word(entry, &words, &[], problems).unwrap_or_default();
        }
        "allow_private" => allow.allow_private = ranges(entry, problems),
        "max_request" => allow.max_request = bytes(entry, problems),
        "max_response" => allow.max_response = bytes(entry, problems),
        "keep_headers" => allow.keep_headers = texts(entry, problems),
        "websocket" => allow.websocket = boolean(entry, problems).unwrap_or_default(),
        "auth" => allow.auth = auth(&entry.value, problems),
        "api" => {
            let words = ApiFamily::ALL.map(|api| (api.as_str(), api));
            allow.api = word(entry, &words, &[], problems);
        }
        "server_tools" => allow.server_tools = texts(entry, problems),
        "estimate" => {
            allow.estimate = tokens(&entry.value, problems);
            if entry.value.text() == Some("unlimited") {
                problems.add(entry.line, "`estimate` is a number of tokens").hint =
                    Some("write one such as 200k".into());
            }
        }
        "quiet" => allow.quiet = texts(entry, problems),
        "dlp" => route.dlp = dlp(&entry.value, problems),
        "role" => {
            problems.add(entry.line, "`role` is reserved").hint =
                Some("remove it: no value of it means anything".into());
        }
        _ => problems.unknown_key(entry, &KEYS),
    }
}

fn rules(entry: &Entry, problems: &mut Problems) -> Vec<Match> {
    let what = format!("`{}`", entry.key);
    tables(&entry.value, &what, problems).iter().map(|item| rule(item, problems)).collect()
}

fn ranges(entry: &Entry, problems: &mut Problems) -> Vec<ipnet::IpNet> {
    let mut ranges = Vec::new();
    for item in list(&entry.value, "`allow_private`", problems) {
        match item.text().and_then(|text| text.parse().ok()) {
            Some(range) => ranges.push(range),
            None => {
                problems.add(item.line, "not a range of addresses").hint =
                    Some("write it as `allow_private: [10.1.0.0/16]`, one address as 10.1.2.3/32".to_owned());
            }
        }
    }
    ranges
}

fn bytes(entry: &Entry, problems: &mut Problems) -> Option<u64> {
    let size = entry.value.text().and_then(size);
    if size.is_none() {
        problems.add(entry.line, format!("`{}` must be a size", entry.key)).hint =
            Some("write a number of bytes, or one with K, M or G, such as 10M".to_owned());
    }
    size
}

fn ports(entry: &Entry, problems: &mut Problems) -> Vec<u16> {
    let mut ports = Vec::new();
    for item in list(&entry.value, "`ports`", problems) {
        match item.text().and_then(|text| text.parse::<u16>().ok()) {
            Some(port) if port > 0 => ports.push(port),
            _ => {
                problems.add(item.line, "a port must be a number from 1 to 65535").hint =
                    Some("write it as `ports: [443]`".to_owned());
            }
        }
    }
    ports
}

/// Reads a list of texts.
fn texts(entry: &Entry, problems: &mut Problems) -> Vec<String> {
    let mut texts = Vec::new();
    for item in list(&entry.value, &format!("`{}`", entry.key), problems) {
        match item.text() {
            Some(text) => texts.push(text.to_owned()),
            None => {
                problems.add(item.line, format!("an item of `{}` must be a text", entry.key)).hint =
                    Some("write a word, or remove the item".to_owned());
            }
        }
    }
    texts
}

fn rule(node: &Node, problems: &mut Problems) -> Match {
    let mut rule = Match::default();
    for entry in table(node, "a match", problems) {
        match entry.key.as_str() {
            "methods" => rule.methods = texts(entry, problems),
            "paths" => {
                for item in list(&entry.value, "`paths`", problems) {
                    rule.paths.extend(path(item, problems));
                }
            }
            "headers" => {
                for item in tables(&entry.value, "`headers`", problems) {
                    rule.headers.extend(header(item, problems));
                }
            }
            _ => problems.unknown_key(entry, &MATCH_KEYS),
        }
    }
    // Empty lists would allow everything, which nobody writes a match for.
    if rule == Match::default() {
        problems.add(node.line, "a match says neither `paths` nor `methods` nor `headers`").hint =
            Some("remove the match to allow the whole host".to_owned());
    }
    rule
}

fn path(node: &Node, problems: &mut Problems) -> Option<PathRule> {
    let mut kind = None;
    let mut value = None;
    for entry in table(node, "a path", problems) {
        match entry.key.as_str() {
            "type" => {
                let words = [("exact", PathKind::Exact), ("prefix", PathKind::Prefix), ("regex", PathKind::Regex)];
                kind = word(entry, &words, &[], problems);
                // What is wrong is said; what is missing would be said twice.
                kind = kind.or(Some(PathKind::Exact));
            }
            "value" => value = text(entry, problems),
            _ => problems.unknown_key(entry, &PATH_KEYS),
        }
    }
    if node.entries().is_some() && (kind.is_none() || value.is_none()) {
        problems.add(node.line, "a path needs `type` and `value`").hint =
            Some("write `{type: prefix, value: /api/}` or `{type: exact, value: /health}`".to_owned());
    }
    Some(PathRule { kind: kind?, value: value? })
}

fn header(node: &Node, problems: &mut Problems) -> Option<HeaderRule> {
    let (mut name, mut value, mut kind) = (None, None, HeaderKind::Exact);
    let before = problems.len();
    for entry in table(node, "a header", problems) {
        match entry.key.as_str() {
            "name" => name = text(entry, problems),
            "value" => value = text(entry, problems),
            "type" => {
                let words = [("exact", HeaderKind::Exact), ("regex", HeaderKind::Regex)];
                kind = word(entry, &words, &[], problems).unwrap_or_default();
            }
            _ => problems.unknown_key(entry, &HEADER_KEYS),
        }
    }
    if problems.len() == before && (name.is_none() || value.is_none()) {
        problems.add(node.line, "a header needs `name` and `value`").hint =
            Some("write `{name: x-team, value: blue}`".to_owned());
    }
    Some(HeaderRule { name: name?, kind, value: value? })
}

fn auth(node: &Node, problems: &mut Problems) -> Option<Auth> {
    let (mut scheme, mut token_ref, mut header) = (None, None, None);
    let before = problems.len();
    for entry in table(node, "`auth`", problems) {
        match entry.key.as_str() {
            "scheme" => {
                let words = [
                    ("Bearer", AuthScheme::Bearer),
                    ("bearer", AuthScheme::Bearer),
                    ("token", AuthScheme::Token),
                    ("header", AuthScheme::Header),
                ];
                scheme = word(entry, &words, &[], problems);
            }
            "token_ref" => token_ref = variable(entry, problems),
            "header" => header = text(entry, problems),
            _ => problems.unknown_key(entry, &AUTH_KEYS),
        }
    }
    if problems.len() == before && (scheme.is_none() || token_ref.is_none()) {
        problems.add(node.line, "`auth` needs `scheme` and `token_ref`").hint =
            Some("write `{scheme: Bearer, token_ref: NAME_OF_A_HOST_VARIABLE}`".to_owned());
    }
    Some(Auth { scheme: scheme?, header, credential: token_ref? })
}

/// Gets the name of a variable of the host.
pub(super) fn variable(entry: &Entry, problems: &mut Problems) -> Option<String> {
    let name = text(entry, problems)?;
    if is_variable(&name) {
        return Some(name);
    }
    // Never the text: who takes the key for the secret itself must not find it in a log.
    problems.add(entry.value.line, format!("`{}` is not the name of a variable", entry.key)).hint =
        Some("write the name of a variable of your shell, never the secret itself".to_owned());
    None
}

fn dlp(node: &Node, problems: &mut Problems) -> Option<Dlp> {
    let outbound = Detectors::Named(OUTBOUND[..2].iter().map(|&name| name.to_owned()).collect());
    let mut dlp = Dlp { outbound, inbound: Detectors::None, on_match: OnMatch::Supervise };
    for entry in table(node, "`dlp`", problems) {
        match entry.key.as_str() {
            "outbound_detectors" => dlp.outbound = detectors(entry, &OUTBOUND, problems),
            "inbound_detectors" => dlp.inbound = detectors(entry, &INBOUND, problems),
            "outbound_on_match" => {
                let words = [("supervise", OnMatch::Supervise), ("redact", OnMatch::Redact), ("block", OnMatch::Block)];
                dlp.on_match = word(entry, &words, &[], problems)?;
            }
            _ => problems.unknown_key(entry, &DLP_KEYS),
        }
    }
    Some(dlp)
}

fn detectors(entry: &Entry, known: &[&str], problems: &mut Problems) -> Detectors {
    if entry.value.boolean() == Some(false) {
        return Detectors::None;
    }
    let mut named = Vec::new();
    for item in list(&entry.value, &format!("`{}`", entry.key), problems) {
        match item.text() {
            Some(text) if known.contains(&text) => named.push(text.to_owned()),
            other => {
                let shown: String = other.unwrap_or("").chars().take(60).collect();
                problems.add(item.line, format!("`{shown}` is not a detector")).hint =
                    Some(format!("write false, or a list of {}", known.join(", ")));
            }
        }
    }
    Detectors::Named(named)
}

//! One entry of the allow-list, as a launch asks for it: what of a host may be reached, and with what.
//!
//! The form only. What it means, and whether it can be meant, says [`crate::egress::route`].

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::origin::Origin;
use crate::types::ApiFamily;

/// One entry of the allow-list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A host name without port: exact, or `*.suffix` for every name below the suffix, never the suffix itself.
    pub host: String,
    /// Ports; 443 and 80 when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// What of the host is allowed; everything when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Match>,
    /// What of the host is refused, whatever any route allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Match>,
    /// The credential put in, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// The model API that this host speaks; makes the route a metered one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiFamily>,
    /// Features by which the provider may reach out for the agent, allowed by name (decision 9).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_tools: Vec<String>,
    /// What a request is charged whose spending no answer tells: one to a path that the meter does not know, but for GET and HEAD.
    /// Such paths are refused when absent. Unit: counted tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<u64>,
    /// Paths (prefixes) refused without noise: telemetry and side endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quiet: Vec<String>,
    /// Whether its TLS is looked into.
    #[serde(default, skip_serializing_if = "Tls::is_usual")]
    pub tls: Tls,
    /// Private ranges in which the host's address may lie; none when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_private: Vec<IpNet>,
    /// Largest request body, bytes; no limit of the route's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_request: Option<u64>,
    /// Largest answer, bytes; no limit of the route's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_response: Option<u64>,
    /// Headers of answers that the bottle gets although the route puts a credential in: `set-cookie`, `www-authenticate`
    /// and their like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_headers: Vec<String>,
    /// WebSockets pass although `matches` names methods. Without rules that name methods they pass anyway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub websocket: bool,
    /// The login, by its name in [`super::Launch::logins`], whose token endpoint this is. The plane answers it: nothing is sent
    /// there for the bottle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<String>,
}

/// Whether the TLS of a route is looked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// The plane ends it and speaks its own to the server: every request is checked.
    #[default]
    Intercept,
    /// It passes as it is, for clients that pin certificates. Only the server name of its greeting is checked; nothing is
    /// metered, nothing put in.
    Passthrough,
}

impl Tls {
    fn is_usual(&self) -> bool {
        *self == Tls::default()
    }
}

impl Route {
    /// Takes over from another entry for the same host what can only make this one narrower: refusals and bounds.
    pub fn narrow_by(&mut self, other: &Route) {
        let least = |one: Option<u64>, two: Option<u64>| one.into_iter().chain(two).min();
        for rule in &other.deny {
            if !self.deny.contains(rule) {
                self.deny.push(rule.clone());
            }
        }
        self.max_request = least(self.max_request, other.max_request);
        self.max_response = least(self.max_response, other.max_response);
    }

    /// Says in words which entry this is: its host, and what of it is allowed.
    pub fn in_words(&self) -> String {
        std::iter::once(self.host.clone()).chain(self.words()).collect::<Vec<_>>().join(", ")
    }

    /// Says in words what of the host is allowed, and with what: one part each, none for a route to all of it.
    pub fn words(&self) -> Vec<String> {
        let mut parts: Vec<String> = self.matches.iter().map(Match::words).collect();
        parts.extend(self.deny.iter().map(|rule| format!("never {}", rule.words())));
        if !self.ports.is_empty() {
            parts.push(format!("ports {}", joined(&self.ports)));
        }
        parts.extend(self.auth.as_ref().map(|auth| format!("credential {}", auth.credential)));
        parts.extend(self.api.map(|api| format!("metered as {}", api.as_str())));
        if !self.server_tools.is_empty() {
            parts.push(format!("server tools {}", self.server_tools.join(" ")));
        }
        parts.extend(self.estimate.map(|tokens| format!("{tokens} tokens for what the meter cannot see")));
        if self.tls == Tls::Passthrough {
            parts.push("passed through unseen".to_owned());
        }
        if !self.allow_private.is_empty() {
            parts.push(format!("also at {}", joined(&self.allow_private)));
        }
        parts.extend(self.max_request.map(|most| format!("requests up to {most} bytes")));
        parts.extend(self.max_response.map(|most| format!("answers up to {most} bytes")));
        if !self.keep_headers.is_empty() {
            parts.push(format!("keeps {}", self.keep_headers.join(" ")));
        }
        if self.websocket {
            parts.push("WebSockets".to_owned());
        }
        parts.extend(self.oauth.as_ref().map(|login| format!("answered by bb for the login {login}")));
        parts
    }

    /// Gets what to write instead, where the host is one of the things that people write for a host name and that are none: an
    /// address of a page, a name with a port, a pattern. As Lua has it.
    pub fn advice(&self) -> Option<String> {
        self.advised(|name, port, path| {
            let mut parts = vec![format!("host = \"{name}\"")];
            parts.extend(port.map(|port| format!("ports = {{ {port} }}")));
            parts.extend(path.map(|path| {
                format!("matches = {{ {{ paths = {{ {{ type = \"prefix\", value = \"/{path}\" }} }} }} }}")
            }));
            format!("{{ {} }}", parts.join(", "))
        })
    }

    /// The same as YAML has it.
    pub fn advice_in_yaml(&self) -> Option<String> {
        self.advised(|name, port, path| {
            let mut parts = vec![format!("host: {name}")];
            parts.extend(port.map(|port| format!("ports: [{port}]")));
            parts.extend(path.map(|path| format!("matches: [{{paths: [{{type: prefix, value: \"/{path}\"}}]}}]")));
            format!("{{{}}}", parts.join(", "))
        })
    }

    /// Gets the advice; `entry` writes a route of a name, a port and a path.
    fn advised(&self, entry: impl Fn(&str, Option<&str>, Option<&str>) -> String) -> Option<String> {
        let host = self.host.as_str();
        let bare = host.split_once("://").map_or(host, |(_, rest)| rest);
        let (name, path) = bare.split_once('/').map_or((bare, ""), |(name, path)| (name, path));
        let (name, port) = match name.rsplit_once(':') {
            Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (name, Some(port)),
            _ => (name, None),
        };
        if host.strip_prefix("*.").unwrap_or(host).contains('*') {
            return Some("write the exact name, or `*.example.com` for every name below example.com".to_owned());
        }
        if name == host || name.is_empty() || name.contains(':') {
            return None;
        }
        let path = Some(path).filter(|path| !path.is_empty());
        Some(match (port, path) {
            (None, None) => format!("write the host alone: \"{name}\""),
            (port, path) => format!("write {}", entry(name, port, path)),
        })
    }
}

/// Methods, paths and headers of a route. All lists empty = everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Upper-case methods; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathRule>,
    /// Headers that the request must have, all of them; none when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderRule>,
}

impl Match {
    /// Says in words what it is for.
    fn words(&self) -> String {
        let mut words = vec![if self.methods.is_empty() { "any method".to_owned() } else { self.methods.join(" ") }];
        words.extend(self.paths.iter().map(|path| match path.kind {
            PathKind::Exact => path.value.clone(),
            PathKind::Prefix => format!("{}…", path.value),
            PathKind::Regex => format!("~{}", path.value),
        }));
        words.extend(self.headers.iter().map(|header| match header.kind {
            HeaderKind::Exact => format!("{}={}", header.name, header.value),
            HeaderKind::Regex => format!("{}~{}", header.name, header.value),
        }));
        words.join(" ")
    }
}

fn joined(list: &[impl ToString]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// One header that a match asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderRule {
    /// Its name, in any case.
    pub name: String,
    /// How `value` is compared.
    #[serde(rename = "type", default)]
    pub kind: HeaderKind,
    /// The value, or the expression that it matches. The request has the header once.
    pub value: String,
}

/// How the value of a header is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderKind {
    /// The whole value.
    #[default]
    Exact,
    /// A regular expression that matches the whole value.
    Regex,
}

/// One path of a match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathRule {
    /// How `value` is compared.
    #[serde(rename = "type")]
    pub kind: PathKind,
    /// The path, starting with `/`, in normal form; or the expression.
    pub value: String,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// The whole path.
    Exact,
    /// The path or anything below it.
    Prefix,
    /// A regular expression that matches the whole path.
    Regex,
}

/// Which credential a route puts in, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// `Bearer` and `token` write `Authorization: SCHEME VALUE`; `header` writes `header: VALUE`.
    pub scheme: AuthScheme,
    /// The header of scheme `header`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The name of the credential in [`super::Launch::credentials`], or of the login in [`super::Launch::logins`].
    pub credential: String,
}

/// How a credential is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthScheme {
    /// `Authorization: Bearer VALUE`.
    #[serde(rename = "Bearer", alias = "bearer")]
    Bearer,
    /// `Authorization: token VALUE`.
    #[serde(rename = "token")]
    Token,
    /// A header of its own, such as `x-api-key`.
    #[serde(rename = "header")]
    Header,
}

/// Body of `POST /v1/bottles/S/routes`: the whole allow-list that shall be in force.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutesChange {
    /// Chosen by the client.
    pub id: String,
    /// Every route.
    pub routes: Vec<Route>,
    /// The list that it was made from; another one in force refuses the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Vec<Route>>,
    /// Values of credentials that routes name and that the launch did not have.
    #[serde(default)]
    pub credentials: super::Credentials,
    /// Said in the audit row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer of `GET` and `POST /v1/bottles/S/routes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Routes {
    /// The bottle.
    pub slug: String,
    /// The allow-list in force, in the order in which it is asked.
    pub routes: Vec<Route>,
    /// It is not the one that the bottle was launched with.
    #[serde(default)]
    pub changed: bool,
    /// Where each of the routes comes from, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Origin>,
}

/// Query of `GET /v1/bottles/S/why`: a request that nobody has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// Its address; without scheme it means HTTPS.
    pub url: String,
    /// Its method.
    pub method: String,
    /// Its headers, each `Name: value`.
    pub headers: Vec<String>,
}

/// Answer of `GET /v1/bottles/S/why`: what would become of a request, and by which rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// It would be passed on.
    pub allowed: bool,
    /// The method.
    pub method: String,
    /// `https` or `http`.
    pub scheme: String,
    /// The host in its one form; as it was written where it has none.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path as it would be sent on.
    pub path: String,
    /// The kind of the refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// One or two sentences.
    pub message: String,
    /// The route that allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// The entry that would allow it, if one would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_missing: Option<serde_json::Value>,
    /// What can be done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_steps: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_entry_only_narrows() {
        let deny = |path: &str| Match {
            paths: vec![PathRule { kind: PathKind::Prefix, value: path.into() }],
            ..Match::default()
        };
        let mut own = Route { deny: vec![deny("/a")], max_request: Some(10), ..Route::default() };
        let other = Route {
            deny: vec![deny("/a"), deny("/b")],
            matches: vec![deny("/c")],
            max_request: Some(20),
            max_response: Some(5),
            ..Route::default()
        };
        own.narrow_by(&other);
        assert_eq!((own.deny, own.matches), (vec![deny("/a"), deny("/b")], vec![]));
        assert_eq!((own.max_request, own.max_response), (Some(10), Some(5)));
    }

    #[test]
    fn what_people_write_for_a_host_name_is_answered_with_what_to_write() {
        let advice = |host: &str| Route { host: host.to_owned(), ..Route::default() }.advice();
        for (host, want) in [
            ("https://docs.rs", "write the host alone: \"docs.rs\""),
            ("docs.rs/", "write the host alone: \"docs.rs\""),
            ("db.example:5432", "write { host = \"db.example\", ports = { 5432 } }"),
            (
                "https://x.example:8443/api",
                "write { host = \"x.example\", ports = { 8443 }, matches = { { paths = { { type = \"prefix\", value = \"/api\" } } } } }",
            ),
            ("a*.example", "write the exact name, or `*.example.com` for every name below example.com"),
        ] {
            assert_eq!(advice(host).as_deref(), Some(want), "{host}");
        }
        let route = Route { host: "https://x.example:8443/api".to_owned(), ..Route::default() };
        let yaml = "write {host: x.example, ports: [8443], matches: [{paths: [{type: prefix, value: \"/api\"}]}]}";
        assert_eq!(route.advice_in_yaml().as_deref(), Some(yaml));
        for host in ["docs.rs", "::1", "[::1]", "", "a_b", "user@host", "*.example.com"] {
            assert_eq!(advice(host), None, "{host}");
        }
    }
}

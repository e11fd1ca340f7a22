//! What a launch asks for: routes, limits, upstreams, files, mounts, credentials.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::workspace::{Limits, WorkspaceMode};
use crate::types::{Api, Book, CutScope, CutoffPolicy, TerminalSize};

/// One entry of the allow-list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A host name, exact, without port.
    pub host: String,
    /// Ports; 443 and 80 when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// What of the host is allowed; everything when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Match>,
    /// The credential put in, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// The model API that this host speaks; makes the route a metered one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Api>,
    /// Features by which the provider may reach out for the agent, allowed by name (decision 9).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server_tools: Vec<String>,
    /// Paths (prefixes) refused without noise: telemetry and side endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quiet: Vec<String>,
}

impl Route {
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
        if host.contains('*') {
            return Some("a route is for one host, by its exact name: list each one".to_owned());
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

/// Methods and paths of a route. Both lists empty = everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Upper-case methods; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathRule>,
}

/// One path of a match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathRule {
    /// How `value` is compared.
    #[serde(rename = "type")]
    pub kind: PathKind,
    /// The path, starting with `/`, in normal form.
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
    /// The name of the credential in [`Launch::credentials`].
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

/// One limit of a budget. Unit: counted tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// The provider it is for; `*` = all together.
    pub provider: String,
    /// The amount; `None` = `unlimited`, said aloud.
    pub tokens: Option<u64>,
    /// Binds even where a nearer node has a limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hard: bool,
}

/// A manifest that a launch was made from, with what it may spend: a node of the bottle's budget path, counted per launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetNode {
    /// Whose it is.
    pub scope: BudgetScope,
    /// The manifest's name.
    pub name: String,
    /// Its limits.
    pub limits: Vec<Limit>,
}

/// What a [`BudgetNode`] belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetScope {
    /// An agent.
    Agent,
    /// A bottle manifest.
    Manifest,
}

impl BudgetNode {
    /// Gets the node's name in the ledger, for the launch `id`.
    pub fn node(&self, id: &str) -> String {
        let scope = match self.scope {
            BudgetScope::Agent => "agent",
            BudgetScope::Manifest => "manifest",
        };
        format!("{scope}:{}@{id}", self.name)
    }
}

/// Where to dial a name instead of resolving it (settings.yml `upstreams`, and rehearsals).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// `IP:PORT`.
    pub address: String,
    /// PEM of the authority that signed its certificate; the host's roots when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
}

/// A file put into the bottle before the agent starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Absolute, or beginning with `~/` for the bottle's home.
    pub path: String,
    /// Its text. Never a secret: everything in a bottle can be read by the agent.
    pub text: String,
    /// `text` is base64 of its bytes (RFC 4648, section 4).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub base64: bool,
    /// Permission bits; 0600 when absent. Setuid and setgid bits are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// `{workspace}` in path and text stands for the path of the workspace; in a `.json` or `.toml` file it is written as
    /// strings are there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fill: bool,
}

impl File {
    /// Gets path and text for a bottle whose workspace is at `workspace`.
    pub fn filled(&self, workspace: &str) -> (String, String) {
        const WORD: &str = "{workspace}";
        if !self.fill {
            return (self.path.clone(), self.text.clone());
        }
        let quoted = serde_json::Value::from(workspace).to_string();
        let inner = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"')).unwrap_or(workspace);
        let strings = [".json", ".toml"].iter().any(|end| self.path.ends_with(end));
        (self.path.replace(WORD, workspace), self.text.replace(WORD, if strings { inner } else { workspace }))
    }
}

/// A directory or file of the host shown in the bottle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Path on the host.
    pub source: String,
    /// Path in the bottle; the same when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Writable; read-only when absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rw: bool,
}

/// Real credentials by name: written to the socket and into a keeper's sealed memory, never to a log. Overwritten when
/// dropped.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Credentials(BTreeMap<String, String>);

impl std::ops::Deref for Credentials {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl std::ops::DerefMut for Credentials {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<const N: usize> From<[(String, String); N]> for Credentials {
    fn from(list: [(String, String); N]) -> Credentials {
        Credentials(list.into())
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        for value in self.0.values_mut() {
            zeroize::Zeroize::zeroize(value);
        }
    }
}

/// What a front end needs to take a bottle up again. Written into the bottle's state directory; never a secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Directories of the agent's home (`~/...`) that its CLI keeps a session in.
    #[serde(default)]
    pub keep: Vec<String>,
    /// What was chosen, in the front end's own form.
    #[serde(default)]
    pub choice: serde_json::Value,
    /// What held, as rows of key and value: what has changed since can be told.
    #[serde(default)]
    pub held: Vec<(String, String)>,
}

/// Answer to `GET /v1/bottles/S/session`: a bottle that can be taken up again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Its whole name.
    pub slug: String,
    /// What its front end said at its launch.
    pub session: Session,
    /// The launches that its budgets are counted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
}

/// The launches that the budget nodes of a bottle are named after: its own, or an earlier one whose session it took up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counted {
    /// Of the bottle's own node.
    pub bottle: String,
    /// Of those of its manifests.
    pub nodes: String,
}

impl Counted {
    /// Those of a launch that takes nothing up.
    pub fn of(id: &str) -> Counted {
        Counted { bottle: id.to_owned(), nodes: id.to_owned() }
    }
}

/// Body of `POST /v1/bottles`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// Chosen by the client; the same id launches once, however often it is sent.
    pub id: String,
    /// Wanted name; the slug is made from it and made unique.
    pub label: String,
    /// The run that this bottle belongs to, if any ([`Run::id`]).
    #[serde(default)]
    pub run: Option<String>,
    /// The lease it lives by; `None` = detached.
    #[serde(default)]
    pub lease: Option<String>,
    /// Which book it is entered in.
    #[serde(default)]
    pub book: Book,
    /// The provider: budget key, and `provider` in reports.
    pub provider: String,
    /// The agent's name in reports; the provider's when absent.
    #[serde(default)]
    pub agent: Option<String>,
    /// The command line; `argv[0]` is looked up in the bottle's PATH.
    pub argv: Vec<String>,
    /// Variables set in the bottle beside the ones bb sets. Never a secret.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files put in before the agent starts.
    #[serde(default)]
    pub files: Vec<File>,
    /// Directory of the host mounted read-write at its own path; a scratch directory when absent.
    #[serde(default)]
    pub workspace: Option<String>,
    /// How the workspace comes into the bottle; mounted when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_mode: Option<WorkspaceMode>,
    /// What the bottle may use of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// More mounts.
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// The allow-list. Empty = nothing.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Resolved credentials by name. They go to controller and keeper and no further.
    #[serde(default)]
    pub credentials: Credentials,
    /// What of the agent's session may outlive the bottle, and what is needed to take it up again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// The bottle whose kept session and workspace are taken up; it has its name again, and its budgets count on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<String>,
    /// What was spent of `budget` before a resume does not count any more; that of the manifests does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub budget_anew: bool,
    /// A cut that was made by a person or a recipe does not outlive this resume.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uncut: bool,
    /// The launches that its budgets are counted from. Set by the controller, whatever a front end sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
    /// Limits on the bottle itself.
    #[serde(default)]
    pub budget: Vec<Limit>,
    /// The manifests that have limits of their own, nearest first: they lie between the bottle and the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<BudgetNode>,
    /// One of the sixteen ANSI colours, by name: how the bottle is shown in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
    /// What to do when the budget is spent; the host's setting when absent.
    #[serde(default)]
    pub shutdown: Option<CutoffPolicy>,
    /// What a cut takes away; the host's setting when absent.
    #[serde(default)]
    pub cutoff_scope: Option<CutScope>,
    /// The bottle is killed after this many milliseconds.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Names dialled elsewhere (rehearsals); wins over settings.yml.
    #[serde(default)]
    pub upstreams: BTreeMap<String, Upstream>,
    /// The PATH that `argv[0]` and the agent's tools are looked up in, from the front end's environment.
    #[serde(default)]
    pub host_path: Option<String>,
    /// The agent gets a terminal of this size. Its `TERM` and `COLORTERM` are in `env`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// The agent's standard input is open and takes what a front end feeds; empty when absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub input: bool,
    /// What makes the bottle: `linux` or `docker`; the host's setting when absent.
    #[serde(default)]
    pub backend: Option<String>,
    /// The image of backend `docker`; the host's setting when absent.
    #[serde(default)]
    pub image: Option<String>,
    /// The container engine's address, as `DOCKER_HOST` has it in the front end's environment; looked for when absent.
    #[serde(default)]
    pub engine: Option<String>,
}

impl Launch {
    /// Gets the launches that its budgets are counted from.
    pub fn counted(&self) -> Counted {
        self.counted.clone().unwrap_or_else(|| Counted::of(&self.id))
    }

    /// Gets the nodes of its budget that no other launch has, nearest first: its own, then those of its manifests.
    pub fn nodes_of_its_own(&self) -> Vec<String> {
        let counted = self.counted();
        let manifests = self.nodes.iter().map(|node| node.node(&counted.nodes));
        std::iter::once(format!("bottle:{}", counted.bottle)).chain(manifests).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("*.example", "a route is for one host, by its exact name: list each one"),
        ] {
            assert_eq!(advice(host).as_deref(), Some(want), "{host}");
        }
        let route = Route { host: "https://x.example:8443/api".to_owned(), ..Route::default() };
        let yaml = "write {host: x.example, ports: [8443], matches: [{paths: [{type: prefix, value: \"/api\"}]}]}";
        assert_eq!(route.advice_in_yaml().as_deref(), Some(yaml));
        for host in ["docs.rs", "::1", "[::1]", "", "a_b", "user@host"] {
            assert_eq!(advice(host), None, "{host}");
        }
    }
}

//! What a launch asks for: routes, limits, upstreams, files, mounts, credentials.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limit::Limit;
use super::login::Login;
use super::origin::Origin;
use super::route::Route;
use super::workspace::{Limits, WorkspaceMode};
use crate::types::{Api, Book, CutScope, CutoffPolicy, TerminalSize};

/// A manifest that a launch was made from, with what it may spend: two nodes of the bottle's budget path. One is of the launch,
/// the other counts by name over launches; both are charged, whether the manifest says a limit or not, so that one that it says
/// later finds what was used.
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
    /// Gets the name in the ledger of its node for the launch `id`.
    pub fn node(&self, id: &str) -> String {
        format!("{}@{id}", self.by_name())
    }

    /// Gets the name of the one that counts over launches.
    pub fn by_name(&self) -> String {
        let scope = match self.scope {
            BudgetScope::Agent => "agent",
            BudgetScope::Manifest => "manifest",
        };
        format!("{scope}:{}", self.name)
    }

    /// Gets the limits of each of its nodes, for the launch `id`.
    pub fn limits_by_node(&self, id: &str) -> [(String, Vec<Limit>); 2] {
        let (named, launch): (Vec<Limit>, Vec<Limit>) = self.limits.iter().cloned().partition(|l| l.per.is_some());
        [(self.node(id), launch), (self.by_name(), named)]
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

/// The proxy that is the host's own way out (settings.yml `upstream_proxy`, `no_proxy`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamProxy {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Name of the credential that it wants, whose value is `USER:PASSWORD`.
    pub credential: Option<String>,
    /// What is reached beside it.
    pub direct: Vec<Direct>,
}

impl UpstreamProxy {
    /// Gets what the value of its credential is called among those of a launch. It says whose it is: another proxy, which the settings
    /// may name later, does not get it. No route can name it: it is no variable's name.
    pub fn credential_key(&self) -> String {
        format!("upstream proxy {}:{}", self.host, self.port)
    }
}

/// What is reached without the host's proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Direct {
    /// A host and all below it.
    Below(String),
    /// Hosts whose addresses all lie in it.
    Range(ipnet::IpNet),
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
    /// The API whose endpoint may count the tokens of a request before it leaves; it is estimated when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count_tokens: Option<Api>,
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
    /// An explicit proxy listens at the gate, and the variables by which clients find it are set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy: bool,
    /// Where each of the routes comes from, in their order; the launch itself when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Origin>,
    /// Resolved credentials by name. They go to controller and keeper and no further.
    #[serde(default)]
    pub credentials: Credentials,
    /// Subscription logins of the host by name, as a route's `auth` and `oauth` name them. No name is a credential's as well.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logins: BTreeMap<String, Login>,
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
    /// Limits on the bottle itself; none of them says `per`.
    #[serde(default)]
    pub budget: Vec<Limit>,
    /// The manifests that it was made from, nearest first: they lie between the bottle and the run.
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
    /// Gets it as a controller of that revision of the API takes it: without what an older one does not know and can do without. What
    /// binds a bottle is never left out: it is refused there.
    pub fn for_revision(&self, revision: u32) -> Cow<'_, Launch> {
        if revision >= 1 || self.origins.is_empty() {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Launch { origins: Vec::new(), ..self.clone() })
    }

    /// Gets the launches that its budgets are counted from.
    pub fn counted(&self) -> Counted {
        self.counted.clone().unwrap_or_else(|| Counted::of(&self.id))
    }

    /// Gets the nodes of its budget below its run, nearest first: its own, then those of its manifests.
    pub fn nodes_of_its_own(&self) -> Vec<String> {
        let counted = self.counted();
        let manifests = self.nodes.iter().flat_map(|node| [node.node(&counted.nodes), node.by_name()]);
        std::iter::once(format!("bottle:{}", counted.bottle)).chain(manifests).collect()
    }
}

//! A bottle's manifest: what it allows. Counts only from `$BB_HOME/bottles`.

use std::collections::BTreeMap;

use super::egress::variable;
use super::{EnvValue, GitGate, Limits, Mount, Reader, Route, Said, egress, env, front, git_gate, limits, mounts};
use crate::api::{Limit, WorkspaceMode as Workspace};
use crate::image::args;
use crate::name::Name;
use crate::types::{CutScope, CutoffPolicy};
use crate::yaml::budget::{budget, limit, tokens};
use crate::yaml::read::{boolean, is_image, list, named, table, text, twice, word};
use crate::yaml::{Node, Problems};

/// The keys of the front matter, in the order of the documentation.
pub const KEYS: [&str; 18] = [
    "extends",
    "env",
    "agent_provider",
    "git-gate",
    "egress",
    "supervise",
    "budget",
    "shutdown",
    "cutoff_scope",
    "backend",
    "image",
    "dockerfile",
    "build_args",
    "workspace",
    "limits",
    "mounts",
    "tools",
    "policies",
];
const PROVIDER_KEYS: [&str; 2] = ["template", "auth_token"];

/// What makes the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Embedded: namespaces of this kernel.
    Linux,
    /// A container engine.
    Docker,
}

impl Backend {
    /// Gets the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::Linux => "linux",
            Backend::Docker => "docker",
        }
    }
}

/// One file, as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bottle {
    /// The manifests that it builds on, folded left to right below it.
    pub extends: Vec<Said<Name>>,
    /// Variables of the agent.
    pub env: BTreeMap<String, Said<EnvValue>>,
    /// The provider.
    pub template: Option<Said<Name>>,
    /// The host's variable that has the provider's credential, in place of the provider's own choice.
    pub auth_token: Option<Said<String>>,
    /// Repositories and who commits.
    pub git_gate: GitGate,
    /// The allow-list.
    pub routes: Vec<Said<Route>>,
    /// Whether it has an explicit proxy.
    pub proxy: Option<Said<bool>>,
    /// Whether the agent may make proposals.
    pub supervise: Option<Said<bool>>,
    /// What may be spent, per launch or by name.
    pub budget: Option<Said<Vec<Limit>>>,
    /// What happens when it is spent.
    pub shutdown: Option<Said<CutoffPolicy>>,
    /// What a cut takes away.
    pub cutoff_scope: Option<Said<CutScope>>,
    /// What makes the sandbox.
    pub backend: Option<Said<Backend>>,
    /// The image of backend `docker`.
    pub image: Option<Said<String>>,
    /// The Dockerfile that it is made of instead.
    pub dockerfile: Option<Said<String>>,
    /// What the `ARG` lines of a Dockerfile are given.
    pub build_args: BTreeMap<String, Said<String>>,
    /// How the working directory comes in.
    pub workspace: Option<Said<Workspace>>,
    /// What it may use of the machine.
    pub limits: Limits,
    /// What of the host is shown.
    pub mounts: Vec<Said<Mount>>,
    /// Programs of the host that have to be there.
    pub tools: Vec<Said<String>>,
    /// Policies that watch it.
    pub policies: Vec<Said<Name>>,
    /// Documentation for people.
    pub body: String,
}

/// Reads the words of `shutdown`.
pub(super) fn shutdown(entry: &crate::yaml::Entry, problems: &mut Problems) -> Option<CutoffPolicy> {
    word(entry, &CutoffPolicy::WORDS, &[], problems)
}

/// Reads a budget: an amount for all providers together, alone or with what it says beside (`{tokens: 1M, per: day}`), or a
/// table of providers. No provider is called `tokens`.
pub(super) fn limits_of(node: &Node, problems: &mut Problems) -> Vec<Limit> {
    if let Some(entries) = node.entries() {
        return match entries.iter().any(|entry| entry.key == "tokens") {
            true => vec![limit("*", node, node.line, problems)],
            false => budget(node, problems),
        };
    }
    let before = problems.len();
    let tokens = tokens(node, problems);
    if problems.len() > before {
        return Vec::new();
    }
    vec![Limit::of("*", tokens)]
}

impl Bottle {
    /// Reads the parts of a file.
    pub(super) fn read(front: front::Front, reader: Reader<'_>, problems: &mut Problems) -> Bottle {
        let mut bottle = Bottle { body: front.body, ..Bottle::default() };
        for entry in &front.entries {
            let said = |problems: &mut Problems, node: &Node| named(node, problems).map(|n| reader.said(node.line, n));
            match entry.key.as_str() {
                "extends" => {
                    let items = list(&entry.value, "`extends`", problems);
                    bottle.extends = items.iter().filter_map(|item| said(problems, item)).collect();
                }
                "env" => bottle.env = env::read(&entry.value, reader, problems),
                "agent_provider" => {
                    for field in table(&entry.value, "`agent_provider`", problems) {
                        match field.key.as_str() {
                            "template" => bottle.template = said(problems, &field.value),
                            "auth_token" => {
                                bottle.auth_token = variable(field, problems).map(|n| reader.said(field.line, n));
                            }
                            _ => problems.unknown_key(field, &PROVIDER_KEYS),
                        }
                    }
                }
                "git-gate" => bottle.git_gate = git_gate::read(&entry.value, reader, problems),
                "egress" => (bottle.routes, bottle.proxy) = egress::read(&entry.value, reader, problems),
                "supervise" => bottle.supervise = boolean(entry, problems).map(|b| reader.said(entry.line, b)),
                "budget" => bottle.budget = Some(reader.said(entry.line, limits_of(&entry.value, problems))),
                "shutdown" => bottle.shutdown = shutdown(entry, problems).map(|p| reader.said(entry.line, p)),
                "cutoff_scope" => {
                    let words = [("all", CutScope::All), ("metered", CutScope::Metered)];
                    bottle.cutoff_scope = word(entry, &words, &[], problems).map(|s| reader.said(entry.line, s));
                }
                "backend" => {
                    let later = ["smolmachines", "macos-container"];
                    let words = [("linux", Backend::Linux), ("docker", Backend::Docker), ("podman", Backend::Docker)];
                    let backend = word(entry, &words, &later, problems);
                    bottle.backend = backend.map(|b| reader.said(entry.line, b));
                }
                "image" => bottle.image = text(entry, problems).map(|name| reader.said(entry.line, name)),
                "dockerfile" => bottle.dockerfile = text(entry, problems).map(|path| reader.said(entry.line, path)),
                "build_args" => {
                    for field in table(&entry.value, "`build_args`", problems) {
                        match field.value.text().filter(|text| args::is_name(&field.key) && args::is_value(text)) {
                            Some(value) => {
                                bottle.build_args.insert(field.key.clone(), reader.said(field.line, value.to_owned()));
                            }
                            None => {
                                problems.add(field.line, "this is no build argument").hint = Some(
                                    "write the name of an ARG line and a text, such as `VERSION: \"22\"`".to_owned(),
                                );
                            }
                        }
                    }
                }
                "workspace" => {
                    let modes = [Workspace::Mount, Workspace::Overlay, Workspace::Copy];
                    let workspace = word(entry, &modes.map(|mode| (mode.as_str(), mode)), &[], problems);
                    bottle.workspace = workspace.map(|w| reader.said(entry.line, w));
                }
                "limits" => bottle.limits = limits::read(&entry.value, reader, problems),
                "mounts" => bottle.mounts = mounts::read(&entry.value, reader, problems),
                "tools" => {
                    for item in list(&entry.value, "`tools`", problems) {
                        match item.text().filter(|text| is_program(text)) {
                            Some(text) => bottle.tools.push(reader.said(item.line, text.to_owned())),
                            None => {
                                problems.add(item.line, "an item of `tools` must be the name of a program").hint =
                                    Some("write names as you type them, such as `tools: [cargo, node]`".to_owned());
                            }
                        }
                    }
                }
                "policies" => {
                    let items = list(&entry.value, "`policies`", problems);
                    bottle.policies = items.iter().filter_map(|item| said(problems, item)).collect();
                }
                _ => problems.unknown_key(entry, &KEYS),
            }
            if bottle.image.is_some() && bottle.dockerfile.is_some() && is_image(entry) {
                twice(entry, problems);
            }
        }
        bottle
    }
}

/// Tells whether a text is looked up in PATH when it is typed.
fn is_program(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}

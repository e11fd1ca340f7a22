//! `git-gate`: the repositories a bottle may push to, through a gate on the host, and who its commits are by.
//!
//! Reads and checks the form. Serving it is the gate's business.

use std::collections::BTreeMap;

use super::egress::variable;
use super::{Reader, Said};
use crate::yaml::read::{named, table, text, word};
use crate::yaml::{Entry, Node, Problems};

const KEYS: [&str; 2] = ["user", "repos"];
const USER_KEYS: [&str; 2] = ["name", "email"];
const REPO_KEYS: [&str; 4] = ["url", "identity", "key", "host_key"];
const KEY_KEYS: [&str; 2] = ["provider", "token_ref"];

/// What stands below `git-gate`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitGate {
    /// Who commits.
    pub user: User,
    /// Repositories by the name that the bottle knows them by.
    pub repos: BTreeMap<String, Said<Repo>>,
}

/// Who commits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// `user.name`.
    pub name: Option<Said<String>>,
    /// `user.email`.
    pub email: Option<Said<String>>,
}

/// A repository behind the gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    /// Where it lies.
    pub url: String,
    /// What opens it; nothing for a URL that needs nothing.
    pub identity: Option<Identity>,
    /// The server's public key, as in `known_hosts`.
    pub host_key: Option<String>,
}

/// What opens a repository. On the host, never in a bottle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A private key's file.
    File(String),
    /// A key made for this launch at a forge.
    Forge {
        /// The kind of forge.
        provider: Forge,
        /// The host's variable with the token that may make keys.
        token_ref: String,
    },
}

/// A kind of forge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forge {
    /// Gitea or Forgejo.
    Gitea,
}

/// Reads the table.
pub(super) fn read(node: &Node, reader: Reader<'_>, problems: &mut Problems) -> GitGate {
    let mut gate = GitGate::default();
    for entry in table(node, "`git-gate`", problems) {
        match entry.key.as_str() {
            "user" => gate.user = user(&entry.value, reader, problems),
            "repos" => {
                for entry in table(&entry.value, "`repos`", problems) {
                    let key = Node {
                        line: entry.line,
                        value: crate::yaml::Value::Scalar { text: entry.key.clone(), plain: true },
                    };
                    if let (Some(name), Some(repo)) = (named(&key, problems), repo(entry, problems)) {
                        gate.repos.insert(name.to_string(), reader.said(entry.line, repo));
                    }
                }
            }
            _ => problems.unknown_key(entry, &KEYS),
        }
    }
    gate
}

fn user(node: &Node, reader: Reader<'_>, problems: &mut Problems) -> User {
    let mut user = User::default();
    for entry in table(node, "`user`", problems) {
        let field = match entry.key.as_str() {
            "name" => &mut user.name,
            "email" => &mut user.email,
            _ => {
                problems.unknown_key(entry, &USER_KEYS);
                continue;
            }
        };
        let Some(value) = text(entry, problems) else { continue };
        // git ends a name at these, and a line break would begin another key of its configuration.
        if value.contains(['\n', '\r', '\0', '<', '>']) {
            problems.add(entry.value.line, format!("`{}` has a character that git does not take", entry.key)).hint =
                Some("write it without <, > and line breaks".to_owned());
            continue;
        }
        *field = Some(reader.said(entry.line, value));
    }
    user
}

fn repo(entry: &Entry, problems: &mut Problems) -> Option<Repo> {
    let (mut url, mut file, mut forge, mut host_key) = (None, None, None, None);
    let mut keys = Vec::new();
    for field in table(&entry.value, "a repository", problems) {
        match field.key.as_str() {
            "url" => url = text(field, problems).filter(|url| is_url(field, url, problems)),
            "identity" => {
                file = text(field, problems);
                keys.push(field.line);
            }
            "key" => {
                forge = key(&field.value, problems);
                keys.push(field.line);
            }
            "host_key" => host_key = text(field, problems),
            _ => problems.unknown_key(field, &REPO_KEYS),
        }
    }
    if let [_, second] = keys[..] {
        problems.add(second, "a repository has both `identity` and `key`").hint =
            Some("keep one of them: a key's file, or one made at the forge".to_owned());
    }
    let has_url = entry.value.entries().is_some_and(|fields| fields.iter().any(|f| f.key == "url"));
    if entry.value.entries().is_some() && !has_url {
        problems.add(entry.line, format!("the repository `{}` does not say `url`", entry.key)).hint =
            Some("add it, such as `url: \"ssh://git@host/owner/name.git\"`".to_owned());
    }
    let url = url?;
    if url.starts_with("ssh://") && keys.is_empty() {
        problems.add(entry.line, format!("the repository `{}` says neither `identity` nor `key`", entry.key)).hint =
            Some("add `identity: ~/.ssh/NAME`, or `key: {provider: gitea, token_ref: NAME}`".to_owned());
    }
    Some(Repo { url, identity: file.map(Identity::File).or(forge), host_key })
}

/// Checks a URL: one of the transports that the gate speaks, and nothing that git would take for an option or a helper.
fn is_url(entry: &Entry, url: &str, problems: &mut Problems) -> bool {
    let rest = ["ssh://", "https://"].into_iter().find_map(|scheme| url.strip_prefix(scheme));
    let host = rest.and_then(|rest| rest.split_once('/'));
    let plain = url.bytes().all(|b| b.is_ascii_graphic()) && !url.contains(['\\', '"', '\'']);
    let good = plain && host.is_some_and(|(host, path)| !host.is_empty() && !host.starts_with('-') && !path.is_empty());
    if !good {
        problems.add(entry.value.line, "`url` is not a repository's address").hint =
            Some("write it as ssh://git@host/owner/name.git or https://host/owner/name.git".to_owned());
    }
    good
}

fn key(node: &Node, problems: &mut Problems) -> Option<Identity> {
    let (mut provider, mut token_ref) = (None, None);
    let before = problems.len();
    for entry in table(node, "`key`", problems) {
        match entry.key.as_str() {
            "provider" => provider = word(entry, &[("gitea", Forge::Gitea)], &[], problems),
            "token_ref" => token_ref = variable(entry, problems),
            _ => problems.unknown_key(entry, &KEY_KEYS),
        }
    }
    if problems.len() == before && (provider.is_none() || token_ref.is_none()) {
        problems.add(node.line, "`key` needs `provider` and `token_ref`").hint =
            Some("write `{provider: gitea, token_ref: NAME_OF_A_HOST_VARIABLE}`".to_owned());
    }
    Some(Identity::Forge { provider: provider?, token_ref: token_ref? })
}

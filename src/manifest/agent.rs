//! An agent's manifest: a prompt, skills, the bottle it runs in. From `$BB_HOME/agents`, or from a repository, where the
//! keys that could loosen anything are errors.

use super::{Origin, Reader, Said, User, bottle, front, git_gate};
use crate::api::Limit;
use crate::name::Name;
use crate::types::CutoffPolicy;
use crate::yaml::Problems;
use crate::yaml::read::{list, named};

/// The keys of the front matter, in the order of the documentation.
pub const KEYS: [&str; 5] = ["bottle", "skills", "git-gate", "budget", "shutdown"];

/// Keys of Claude Code's own agent files: no error, and without meaning here.
pub const IGNORED: [&str; 5] = ["name", "description", "model", "color", "memory"];

/// One file, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Who says so.
    pub origin: Origin,
    /// The bottle's manifest.
    pub bottle: Option<Said<Name>>,
    /// What it has been taught.
    pub skills: Vec<Said<Name>>,
    /// Who commits.
    pub user: User,
    /// What it may spend, per launch or by name.
    pub budget: Option<Said<Vec<Limit>>>,
    /// What happens when it is spent.
    pub shutdown: Option<Said<CutoffPolicy>>,
    /// What it is told before its task.
    pub prompt: String,
}

impl Agent {
    /// Reads the parts of a file.
    pub(super) fn read(front: front::Front, origin: Origin, reader: Reader<'_>, problems: &mut Problems) -> Agent {
        let mut agent = Agent {
            origin,
            bottle: None,
            skills: Vec::new(),
            user: User::default(),
            budget: None,
            shutdown: None,
            prompt: front.body,
        };
        for entry in &front.entries {
            match entry.key.as_str() {
                "bottle" => {
                    agent.bottle = named(&entry.value, problems).map(|name| reader.said(entry.line, name));
                }
                "skills" => {
                    for item in list(&entry.value, "`skills`", problems) {
                        agent.skills.extend(named(item, problems).map(|name| reader.said(item.line, name)));
                    }
                }
                "git-gate" => {
                    let gate = git_gate::read(&entry.value, reader, problems);
                    if let Some((name, repo)) = gate.repos.first_key_value() {
                        problems.add(repo.place.line, format!("the repository `{name}` cannot be an agent's")).hint =
                            Some("move `repos` to the bottle's manifest; an agent has `user` only".to_owned());
                    }
                    agent.user = gate.user;
                }
                key @ ("budget" | "shutdown") if origin == Origin::Repository => {
                    problems.add(entry.line, format!("`{key}` counts for nothing in a repository's agent")).hint =
                        Some(format!("remove it; `{key}` of agents is read from $BB_HOME/agents only"));
                }
                "budget" => {
                    agent.budget = Some(reader.said(entry.line, bottle::limits_of(&entry.value, problems)));
                }
                "shutdown" => {
                    agent.shutdown = bottle::shutdown(entry, problems).map(|policy| reader.said(entry.line, policy));
                }
                key if IGNORED.contains(&key) => {}
                key if bottle::KEYS.contains(&key) => {
                    problems.add(entry.line, format!("`{key}` cannot be an agent's")).hint =
                        Some("move it to a bottle's manifest in $BB_HOME/bottles".to_owned());
                }
                _ => problems.unknown_key(entry, &KEYS),
            }
        }
        agent
    }
}

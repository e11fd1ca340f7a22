//! From an agent and bottles to what holds: parents are folded below their children, composed bottles left to right.
//!
//! | key | of two manifests |
//! | --- | --- |
//! | `env`, `git-gate.repos` | by name, the later one wins |
//! | `agent_provider`, `git-gate.user`, `limits` | each field by itself, the later one wins |
//! | `egress.routes` | by host: all entries of a later manifest for a host take the place of an earlier one's |
//! | `egress.proxy`, `supervise`, `shutdown`, `cutoff_scope`, `backend`, `image` or `dockerfile`, `workspace` | the later one wins |
//! | `mounts` | by path in the bottle, the later one wins |
//! | `tools`, `policies`, `skills` | all, each once |
//! | `budget` | all: each stays where it was said, a node of the bottle's path |

use std::collections::{BTreeMap, BTreeSet};

use super::{Agent, Backend, Bottle, EnvValue, GitGate, Limits, Mount, Origin, Route, Said, Shelf, User, Workspace};
use crate::api::Limit;
use crate::error::{Error, Kind};
use crate::name::Name;
use crate::types::{CutScope, CutoffPolicy};

/// Most manifests that one launch may be made of.
const MOST: usize = 64;

/// A node of the path that a launch's usage is charged to (decision 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `agent` or `bottle`.
    pub scope: &'static str,
    /// The manifest's name.
    pub name: Name,
    /// What it says, if anything.
    pub budget: Option<Said<Vec<Limit>>>,
}

/// What holds for a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective {
    /// The agent, if one was named.
    pub agent: Option<(Name, Origin)>,
    /// What the agent is told before its task.
    pub prompt: String,
    /// The bottles that were chosen, in merge order.
    pub bottles: Vec<Name>,
    /// Every manifest that was folded, the first one first.
    pub folded: Vec<Name>,
    /// What the agent has been taught.
    pub skills: Vec<Said<Name>>,
    /// Variables of the agent.
    pub env: BTreeMap<String, Said<EnvValue>>,
    /// The provider.
    pub template: Option<Said<Name>>,
    /// The host's variable with its credential.
    pub auth_token: Option<Said<String>>,
    /// Repositories and who commits.
    pub git_gate: GitGate,
    /// The allow-list.
    pub routes: Vec<Said<Route>>,
    /// Whether it has an explicit proxy.
    pub proxy: Option<Said<bool>>,
    /// Whether the agent may make proposals.
    pub supervise: Option<Said<bool>>,
    /// Agent, bottles and their parents: the nearest first.
    pub path: Vec<Node>,
    /// What happens when a budget is spent.
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
}

/// Merges `agent` and `bottles`; where no bottle is named, the agent's own.
///
/// # Errors
/// Everything that is wrong with any of the files, and `usage` where something that is named does not exist.
pub fn effective(shelf: &Shelf, agent: Option<&str>, bottles: &[Name]) -> Result<Effective, Vec<Error>> {
    let mut faults = Vec::new();
    let agent = match agent.map(|name| (name, shelf.agent(name))) {
        None => None,
        Some((name, Ok(agent))) => Name::parse(name).ok().map(|name| (name, agent)),
        Some((_, Err(list))) => {
            faults.extend(list);
            None
        }
    };
    let own = agent.as_ref().and_then(|(_, agent)| agent.bottle.as_ref());
    let chosen: Vec<(Name, Option<String>)> = match bottles {
        [] => own.iter().map(|said| (said.value.clone(), Some(said.place.to_string()))).collect(),
        named => named.iter().map(|name| (name.clone(), None)).collect(),
    };
    if chosen.is_empty() && faults.is_empty() {
        let whose = agent
            .as_ref()
            .map_or("no bottle is named".to_owned(), |(name, _)| format!("the agent `{name}` names no bottle"));
        faults
            .push(Error::new(Kind::Usage, whose).hint("say which with --bottle NAME, or write `bottle:` in the agent"));
    }
    let mut family =
        Family { shelf, read: BTreeMap::new(), fold: Vec::new(), path: Vec::new(), faults, above: Vec::new() };
    for (name, place) in &chosen {
        family.add(name, place.as_deref());
    }
    let Family { read, fold, path, faults, .. } = family;
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut merged = Effective {
        bottles: chosen.into_iter().map(|(name, _)| name).collect(),
        folded: fold.clone(),
        ..Effective::default()
    };
    for bottle in fold.iter().filter_map(|name| read.get(name)) {
        merged.put(bottle);
    }
    if let Some((name, agent)) = agent {
        merged.put_agent(name, agent);
    }
    let nodes = path.iter().filter_map(|name| Some((name, read.get(name)?)));
    merged.path.extend(nodes.map(|(name, bottle)| Node {
        scope: "bottle",
        name: name.clone(),
        budget: bottle.budget.clone(),
    }));
    Ok(merged)
}

/// Manifests and what they build on.
struct Family<'a> {
    shelf: &'a Shelf,
    read: BTreeMap<Name, Bottle>,
    /// Parents before children, each once.
    fold: Vec<Name>,
    /// Children before parents, each once.
    path: Vec<Name>,
    faults: Vec<Error>,
    /// From the chosen one down to the one that is read now.
    above: Vec<Name>,
}

impl Family<'_> {
    fn add(&mut self, name: &Name, place: Option<&str>) {
        let at = |error: Error| match place {
            Some(place) if error.place.is_none() => error.at(place),
            _ => error,
        };
        if self.above.contains(name) {
            let chain: Vec<&str> = self.above.iter().chain([name]).map(Name::as_str).collect();
            let message = format!("bottle manifests extend each other in a circle: {}", chain.join(" -> "));
            self.faults.push(at(Error::new(Kind::Usage, message).hint("take one `extends` of them out")));
            return;
        }
        if self.read.contains_key(name) || self.path.contains(name) {
            return;
        }
        if self.path.len() >= MOST {
            let message = format!("more than {MOST} bottle manifests for one launch");
            self.faults.push(at(Error::new(Kind::Usage, message).hint("build on fewer of them")));
            return;
        }
        self.path.push(name.clone());
        let bottle = match self.shelf.bottle(name.as_str()) {
            Ok(bottle) => bottle,
            Err(list) => return self.faults.extend(list.into_iter().map(at)),
        };
        self.above.push(name.clone());
        for parent in &bottle.extends {
            self.add(&parent.value, Some(&parent.place.to_string()));
        }
        self.above.pop();
        self.fold.push(name.clone());
        self.read.insert(name.clone(), bottle);
    }
}

/// Lets a later value win.
fn over<T: Clone>(slot: &mut Option<Said<T>>, later: &Option<Said<T>>) {
    if later.is_some() {
        slot.clone_from(later);
    }
}

/// Adds what is not there yet.
fn union<T: Clone + PartialEq>(list: &mut Vec<Said<T>>, later: &[Said<T>]) {
    for said in later {
        if !list.iter().any(|have| have.value == said.value) {
            list.push(said.clone());
        }
    }
}

impl Effective {
    fn put(&mut self, bottle: &Bottle) {
        self.env.extend(bottle.env.clone());
        over(&mut self.template, &bottle.template);
        over(&mut self.auth_token, &bottle.auth_token);
        self.git_gate.repos.extend(bottle.git_gate.repos.clone());
        self.put_user(&bottle.git_gate.user);
        let hosts: BTreeSet<&str> = bottle.routes.iter().map(|route| route.value.allow.host.as_str()).collect();
        self.routes.retain(|route| !hosts.contains(route.value.allow.host.as_str()));
        self.routes.extend(bottle.routes.clone());
        over(&mut self.proxy, &bottle.proxy);
        over(&mut self.supervise, &bottle.supervise);
        over(&mut self.shutdown, &bottle.shutdown);
        over(&mut self.cutoff_scope, &bottle.cutoff_scope);
        over(&mut self.backend, &bottle.backend);
        if bottle.image.is_some() || bottle.dockerfile.is_some() {
            // One answer to one question, in two forms.
            self.image.clone_from(&bottle.image);
            self.dockerfile.clone_from(&bottle.dockerfile);
        }
        self.build_args.extend(bottle.build_args.clone());
        over(&mut self.workspace, &bottle.workspace);
        over(&mut self.limits.memory, &bottle.limits.memory);
        over(&mut self.limits.cpus, &bottle.limits.cpus);
        over(&mut self.limits.pids, &bottle.limits.pids);
        over(&mut self.limits.disk, &bottle.limits.disk);
        over(&mut self.limits.best_effort, &bottle.limits.best_effort);
        for mount in &bottle.mounts {
            let target = |mount: &Mount| mount.target.clone().unwrap_or_else(|| mount.source.clone());
            self.mounts.retain(|have| target(&have.value) != target(&mount.value));
            self.mounts.push(mount.clone());
        }
        union(&mut self.tools, &bottle.tools);
        union(&mut self.policies, &bottle.policies);
    }

    fn put_user(&mut self, user: &User) {
        over(&mut self.git_gate.user.name, &user.name);
        over(&mut self.git_gate.user.email, &user.email);
    }

    fn put_agent(&mut self, name: Name, agent: Agent) {
        self.put_user(&agent.user);
        over(&mut self.shutdown, &agent.shutdown);
        union(&mut self.skills, &agent.skills);
        self.prompt = agent.prompt;
        self.path.insert(0, Node { scope: "agent", name: name.clone(), budget: agent.budget });
        self.agent = Some((name, agent.origin));
    }
}

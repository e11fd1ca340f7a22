//! What an agent has changed, and what is left of bottles that have ended: shown, applied, removed.
//!
//! All of it works by the state directory, whether the bottle runs or not. Looking at files takes place on threads that may
//! wait. Decides nothing about bottles that run.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::live::Live;
use super::{Controller, compose};
use crate::api::{self, Applied, Apply, Bottle, Diff, DiffQuery, Kept, Leftover, Removed, State};
use crate::bottle::cgroup;
use crate::bottle::wire::{Reply, Request};
use crate::error::{Error, Kind, Result};
use crate::os::beneath::{Dir, Resolve};
use crate::workspace::kept::{self, Metadata};
use crate::workspace::transfer::{self, Side};
use crate::workspace::{apply, changes, session};

/// The list of a bottle's control groups, in its state directory.
const GROUPS: &str = "cgroups.json";

/// Remembers the control groups of a bottle.
pub(super) fn note_groups(state: &Path, dirs: &[PathBuf]) -> std::io::Result<()> {
    std::fs::write(state.join(GROUPS), serde_json::to_vec(dirs)?)
}

/// Gets the control groups of a bottle.
pub(super) fn groups(state: &Path) -> Vec<PathBuf> {
    serde_json::from_slice(&std::fs::read(state.join(GROUPS)).unwrap_or_default()).unwrap_or_default()
}

/// Removes the control groups of a bottle that is gone. May wait for the kernel.
pub(super) fn remove_groups(state: &Path) {
    cgroup::remove(&groups(state));
    let _ = std::fs::remove_file(state.join(GROUPS));
}

/// Names of bottles that are being made: their state directories are no leftovers.
#[derive(Debug, Default)]
pub(super) struct Making(Arc<Mutex<HashSet<String>>>);

/// A name that is being made a bottle of, for as long as the value lives.
pub(super) struct Name(Arc<Mutex<HashSet<String>>>, String);

impl Making {
    /// Claims a name that nobody has claimed, by `make`, which makes its directory or finds it as it has to be.
    pub fn claim(&self, slug: &str, make: impl FnOnce() -> bool) -> bool {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = !names.contains(slug) && make();
        if made {
            names.insert(slug.to_owned());
        }
        made
    }

    /// Holds a claimed name.
    pub fn of(&self, slug: &str) -> Name {
        Name(Arc::clone(&self.0), slug.to_owned())
    }

    fn has(&self, slug: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(slug)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// A bottle by whatever is there of it.
struct Known {
    slug: String,
    state: PathBuf,
    live: Option<Arc<Live>>,
}

/// Runs what may wait for disks.
async fn waiting<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(e.to_string()))
}

impl Controller {
    /// Finds a bottle that runs, has ended in this controller's time, or is kept: a whole name before a beginning.
    fn known(&self, name: &str) -> Result<Known> {
        let of = |slug: &str, live| Known { slug: slug.to_owned(), state: self.host.home.state(slug), live };
        let all = self.all();
        let named = |slug: &str| all.iter().find(|live| live.slug == slug).cloned();
        let whole = named(name);
        if whole.is_some() || self.is_kept(name) {
            return Ok(of(name, whole));
        }
        // What has ended and left nothing counts only where nothing else begins so.
        let begins = |slug: &String| crate::name::begins(slug, name);
        let living = all.iter().filter(|live| !live.has_ended()).map(|live| live.slug.clone());
        let fits: BTreeSet<String> = living.chain(self.kept_names()).filter(begins).collect();
        match fits.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [] => self.find(name).map(|live| of(&live.slug.clone(), Some(live))),
            [one] => Ok(of(one, named(one))),
            several => Err(super::ambiguous(name, several)),
        }
    }

    pub(super) fn is_kept(&self, slug: &str) -> bool {
        crate::name::Name::parse(slug).is_ok() && kept::is_kept(&self.host.home.state(slug))
    }

    /// Finds a bottle whose session can be taken up again: a whole name before a beginning.
    ///
    /// # Errors
    /// `no_such_bottle`, `ambiguous_slug`, `usage` where nothing of its session is kept.
    pub fn resumable(&self, name: &str) -> Result<String> {
        let runs = |slug: &str| Error::new(Kind::Usage, format!("`{slug}` runs")).hint(format!("`bb attach {slug}`"));
        if self.making.has(name) {
            return Err(runs(name));
        }
        let known = self.known(name)?;
        if known.live.as_ref().is_some_and(|live| !live.has_ended()) {
            return Err(runs(&known.slug));
        }
        if !session::is_kept(&known.state) {
            return Err(Error::new(Kind::Usage, format!("no session of `{}` is kept", known.slug))
                .hint("a session is kept by `bb freeze`, or where it failed; `bb ps --all` says of which bottles something is kept"));
        }
        Ok(known.slug)
    }

    /// Answers `GET /v1/bottles/S/session`.
    ///
    /// # Errors
    /// As [`Controller::resumable`].
    pub fn session(&self, name: &str) -> Result<Kept> {
        let slug = self.resumable(name)?;
        let state = self.host.home.state(&slug);
        let (Some(session), Some((_, counted))) = (session::of(&state), session::counted(&state)) else {
            return Err(Error::internal("the session cannot be read"));
        };
        Ok(Kept { slug, session, counted: Some(counted) })
    }

    pub(super) fn kept_names(&self) -> Vec<String> {
        self.states().into_iter().filter(|slug| self.is_kept(slug)).collect()
    }

    /// Names of all state directories, sorted.
    fn states(&self) -> Vec<String> {
        let dirs = std::fs::read_dir(self.host.home.root.join("state")).into_iter().flatten().flatten();
        let ours = dirs.filter(|entry| kept::is_of_bottle(&entry.path()));
        let mut names: Vec<String> = ours.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Finds a bottle whose workspace is a layer or a copy.
    fn known_workspace(&self, name: &str) -> Result<(Known, Metadata)> {
        let known = self.known(name)?;
        if let Some(metadata) = Metadata::read(&known.state) {
            return Ok((known, metadata));
        }
        let Known { slug, live, .. } = known;
        let over = live.as_ref().is_some_and(|l| l.has_ended());
        let mounted = live.is_none_or(|l| l.launch.workspace_mode.unwrap_or_default() == Default::default());
        Err(if over && !mounted {
            Error::new(Kind::NoSuchBottle, format!("nothing is kept of `{slug}`: no change was left to apply"))
                .hint("`bb ps --all` says of which bottles something is kept")
        } else {
            Error::new(Kind::Usage, format!("`{slug}` has no layer: its agent writes into the directory itself"))
                .hint("launch with workspace_mode = \"overlay\" or \"copy\"")
        })
    }

    /// Answers `POST /v1/bottles/S/diff`.
    ///
    /// # Errors
    /// `no_such_bottle`, `usage` where the workspace is mounted, `workspace_unsafe` where it is gone.
    pub async fn diff(&self, name: &str, query: DiffQuery) -> Result<Diff> {
        let (known, metadata) = self.known_workspace(name)?;
        let (workspace, mode) = (metadata.workspace.display().to_string(), metadata.mode);
        let findings = waiting(move || changes::list(&metadata, &known.state, &query)).await??;
        let changes = findings.found.into_iter().map(|found| found.change).collect();
        Ok(Diff { slug: known.slug, workspace, mode, changes, truncated: findings.truncated })
    }

    /// Answers `POST /v1/bottles/S/apply`.
    ///
    /// # Errors
    /// As [`Controller::diff`].
    pub async fn apply(&self, name: &str, wanted: Apply) -> Result<Applied> {
        let (known, metadata) = self.known_workspace(name)?;
        // In a task of its own, so that a front end that goes away leaves nothing half done.
        let state = known.state.clone();
        let done = waiting(move || apply::apply(&metadata, &state, &wanted)).await??;
        Ok(Applied { slug: known.slug, done })
    }

    /// Answers `POST /v1/bottles/S/copy`.
    ///
    /// # Errors
    /// `no_such_bottle` where it does not run, `usage` for a path that is not there.
    pub async fn copy(&self, name: &str, copy: api::Copy) -> Result<api::Copied> {
        let live = self.find(name)?;
        live.able_keeper()?;
        let (root, said) = match live.link.ask(Request::Root).await? {
            (Reply::Root { agent }, mut fds) if fds.len() == 1 => (fds.remove(0), agent),
            (Reply::Failed { error }, _) => return Err(error),
            (other, _) => return Err(Error::internal(format!("unexpected answer {other:?}"))),
        };
        let host = PathBuf::from(&copy.host);
        if !host.is_absolute() {
            return Err(Error::new(Kind::Usage, "the path of the host is not absolute").at(copy.host));
        }
        let bottle = Path::new(&live.view().workspace).join(&copy.bottle);
        let copied = waiting(move || {
            let fail = |e: std::io::Error| Error::new(Kind::Usage, e.to_string()).at(host.display().to_string());
            let root = Dir::of(root, Resolve::InRoot);
            // Where an older keeper does not say: whose the agent's home is, that is the agent.
            let agent = match said {
                Some(agent) => agent,
                None => {
                    let home = root.sub(Path::new(compose::AGENT_HOME)).and_then(|home| home.own());
                    home.map(|home| (home.uid, home.gid)).map_err(|e| Error::internal(e.to_string()))?
                }
            };
            let agent = nix::unistd::geteuid().is_root().then_some(agent);
            let inside = Side { root, agent };
            // A directory that is there is opened itself, links on the way to it being the operator's; of all else the parent.
            let place = host.parent().unwrap_or(Path::new("/"));
            let (outside, path) = match std::fs::symlink_metadata(&host) {
                Ok(meta) if meta.is_dir() && !copy.out => (Dir::open(place).map_err(fail)?, host.file_name()),
                Ok(meta) if meta.is_dir() => (Dir::open(&host).map_err(fail)?, None),
                _ => (Dir::open(place).map_err(fail)?, host.file_name()),
            };
            let outside = Side { root: outside, agent: None };
            let path = Path::new(path.unwrap_or_default());
            match copy.out {
                true => transfer::copy(&inside, &bottle, &outside, path),
                false => transfer::copy(&outside, path, &inside, &bottle),
            }
        });
        let copied = copied.await??;
        Ok(api::Copied { files: copied.files, bytes: copied.bytes, left_out: copied.left_out })
    }

    /// Removes what is left of a bottle that has ended.
    ///
    /// # Errors
    /// `usage` where it runs, `no_such_bottle`.
    pub async fn remove(&self, name: &str) -> Result<Removed> {
        let known = match self.known(name) {
            Ok(known) => known,
            // It may have been removed before, by the same call too.
            Err(error) => {
                let bottle = self.find_ended(name).await.map_err(|_| error)?;
                return Ok(Removed { bottle, removed: false });
            }
        };
        if let Some(live) = &known.live
            && !live.has_ended()
        {
            return Err(Error::new(Kind::Usage, format!("`{}` runs", known.slug))
                .hint(format!("`bb stop {0}` or `bb kill {0}` first", known.slug)));
        }
        let removed = known.state.exists();
        if !self.while_unused(&known.slug, kept::remove).await? {
            return Err(Error::new(Kind::Usage, format!("`{}` is being taken up", known.slug))
                .hint(format!("`bb kill {}` first", known.slug)));
        }
        let bottle = match self.forget_ended(&known.slug) {
            Some(live) => Bottle { kept: false, ..live.view() },
            None => self.find_ended(&known.slug).await?,
        };
        Ok(Removed { bottle, removed })
    }

    /// Runs `work` on the state of a name while no bottle has it or can get it; tells whether it was run.
    ///
    /// # Errors
    /// `internal` where the work is not done.
    pub(super) async fn while_unused(&self, slug: &str, work: impl FnOnce(&Path) + Send + 'static) -> Result<bool> {
        let unused = || {
            let bottles = self.bottles.lock().unwrap_or_else(PoisonError::into_inner);
            bottles.get(slug).is_none_or(|live| live.has_ended())
        };
        if !self.making.claim(slug, unused) {
            return Ok(false);
        }
        let _claimed = self.making.of(slug);
        let state = self.host.home.state(slug);
        waiting(move || work(&state)).await?;
        Ok(true)
    }

    /// Forgets a bottle that has ended.
    fn forget_ended(&self, slug: &str) -> Option<Arc<Live>> {
        let mut bottles = self.bottles.lock().unwrap_or_else(PoisonError::into_inner);
        if bottles.get(slug).is_some_and(|live| live.has_ended()) { bottles.remove(slug) } else { None }
    }

    /// Removes everything that is left of bottles which do not run; with `dry_run` only lists it.
    ///
    /// # Errors
    /// `internal` where the work is not done.
    pub async fn prune(&self, dry_run: bool) -> Result<Vec<Leftover>> {
        let mut left = Vec::new();
        for slug in self.states() {
            let live = self.find(&slug).ok().filter(|live| live.slug == slug);
            let in_use = live.as_ref().is_some_and(|live| {
                let read = live.launch.lease.as_ref().is_some_and(|lease| self.leases.is_held(lease));
                !live.has_ended() || read && !self.is_kept(&slug)
            });
            let keeper = self.host.home.keeper_socket(&slug).exists();
            if in_use || keeper || self.making.has(&slug) {
                continue;
            }
            let kind = if self.is_kept(&slug) { "kept" } else { "state" };
            left.push(Leftover { kind: kind.to_owned(), name: slug });
        }
        if dry_run {
            return Ok(left);
        }
        let mut removed = Vec::new();
        for leftover in left {
            let work = |state: &Path| {
                remove_groups(state);
                kept::remove(state);
            };
            if self.while_unused(&leftover.name, work).await? {
                self.forget_ended(&leftover.name);
                removed.push(leftover);
            }
        }
        Ok(removed)
    }

    /// Says everything that is known of a bottle, less its secrets.
    ///
    /// # Errors
    /// `no_such_bottle`.
    pub async fn inspect(&self, name: &str) -> Result<Value> {
        let known = self.known(name);
        let bottle = match &known {
            Ok(Known { live: Some(live), .. }) => live.view(),
            Ok(Known { slug, .. }) => self.find_ended(slug).await?,
            Err(error) => self.find_ended(name).await.map_err(|_| error.clone())?,
        };
        let state = self.host.home.state(&bottle.slug);
        let kept = kept::is_kept_of(&state, &bottle.id);
        let ended = bottle.state == State::Ended;
        let mut value = json!({ "bottle": Bottle { kept: kept && ended, ..bottle }, "state": state });
        if let Some(metadata) = Metadata::read(&state) {
            value["workspace"] = json!({ "path": metadata.workspace, "mode": metadata.mode, "kept": metadata.kept });
        }
        if let Ok(Known { live: Some(live), .. }) = &known {
            let launch = &live.launch;
            value["launch"] = json!({
                "label": launch.label, "argv": launch.argv, "env": launch.env,
                "files": launch.files.iter().map(|f| &f.path).collect::<Vec<_>>(),
                "workspace": launch.workspace, "workspace_mode": launch.workspace_mode.unwrap_or_default(),
                "mounts": launch.mounts, "routes": launch.routes,
                "credentials": launch.credentials.keys().collect::<Vec<_>>(), "logins": launch.logins,
                "budget": launch.budget, "limits": launch.limits, "timeout_ms": launch.timeout_ms,
                "lease": launch.lease,
            });
            value["cgroups"] = json!(live.cgroups);
            value["budget_path"] = json!(live.path);
            value["shutdown"] = json!(live.binds().policy);
            value["cutoff_scope"] = json!(live.binds().cut_scope);
        }
        Ok(value)
    }
}

//! What an agent has changed: the two sides of a workspace walked together.
//!
//! A layer has only what the agent touched, with marks for what it removed; of a copy, what the agent did not touch is still the
//! same file at the same path ([`super::copied`]). The host's side may have changed as well: what both have changed is
//! a conflict. Both sides may change under the walk; whoever acts on a finding looks again.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::applied::Applied;
use super::copied::Copied;
use super::kept::Metadata;
use super::refuse::Rules;
use super::{MOST_FILE, content};
use crate::api::{Change, DiffQuery, FileKind, What, WorkspaceMode};
use crate::error::Result;
use crate::os::attribute;
use crate::os::beneath::{Dir, Kind, Stat};

/// Most changes that are listed.
const MOST_CHANGES: usize = 50_000;

/// Most entries that one walk looks at.
const MOST_SEEN: usize = 4_000_000;

/// Most bytes of content that one walk reads.
const MOST_READ: u64 = 16 << 30;

/// Deepest directory that is looked into.
const DEEPEST: usize = 200;

/// The attribute by which an overlay says that a directory hides the one below: bb's own mounts, and those of whoever
/// mounts one with privilege.
const OPAQUE: [&str; 2] = ["user.overlay.opaque", "trusted.overlay.opaque"];
/// The attribute by which it says that something was copied up.
const ORIGIN: [&str; 2] = ["user.overlay.origin", "trusted.overlay.origin"];
/// The attribute by which it says that a directory shows another one of those below: bb mounts none that makes it.
const REDIRECT: [&str; 2] = ["user.overlay.redirect", "trusted.overlay.redirect"];

/// One change, and both sides of it as they were seen.
#[derive(Debug)]
pub struct Found {
    /// Below the workspace.
    pub path: PathBuf,
    /// The agent's side.
    pub agent: Option<Stat>,
    /// The host's side.
    pub host: Option<Stat>,
    /// For people and programs.
    pub change: Change,
}

/// What a walk came to.
#[derive(Debug, Default)]
pub struct Findings {
    /// By path, a directory before what lies in it.
    pub found: Vec<Found>,
    /// There is more.
    pub truncated: bool,
}

struct Walk<'a> {
    metadata: &'a Metadata,
    rules: Rules<'a>,
    wanted: Vec<PathBuf>,
    copied: Copied,
    applied: Applied,
    /// Stop at the first change; its content does not matter.
    any: bool,
    seen: usize,
    read: u64,
    findings: Findings,
}

/// Lists what the agent has changed.
///
/// # Errors
/// `workspace_unsafe` where the workspace is gone, `internal` where the agent's side cannot be opened.
pub fn list(metadata: &Metadata, state: &Path, query: &DiffQuery) -> Result<Findings> {
    let (host, agent) = (metadata.host_side()?, metadata.agent_side(state)?);
    let mut findings = walk(metadata, state, &host, &agent, query, false);
    if query.text {
        content::add_text(&mut findings, &host, &agent);
    }
    Ok(findings)
}

/// Tells whether the agent has changed anything.
///
/// # Errors
/// As [`list`].
pub fn any(metadata: &Metadata, state: &Path) -> Result<bool> {
    let (host, agent) = (metadata.host_side()?, metadata.agent_side(state)?);
    let findings = walk(metadata, state, &host, &agent, &DiffQuery::default(), true);
    Ok(!findings.found.is_empty() || findings.truncated)
}

pub(super) fn walk(
    metadata: &Metadata,
    state: &Path,
    host: &Dir,
    agent: &Dir,
    query: &DiffQuery,
    any: bool,
) -> Findings {
    let mut walk = Walk {
        metadata,
        rules: Rules::of(&metadata.workspace, host, agent),
        wanted: query.below(&metadata.workspace),
        copied: if metadata.mode == WorkspaceMode::Copy { Copied::read(state, agent) } else { Copied::default() },
        applied: Applied::read(state),
        any,
        seen: 0,
        read: 0,
        findings: Findings::default(),
    };
    walk.directory(Path::new(""), Some(host), agent, 0);
    walk.findings
}

/// What the walk makes of one place, before it is judged.
struct Place<'a> {
    path: &'a Path,
    name: &'a OsStr,
    host_dir: Option<&'a Dir>,
    agent_dir: &'a Dir,
    host: Option<Stat>,
    agent: Option<Stat>,
    depth: usize,
}

impl Walk<'_> {
    fn is_over(&mut self) -> bool {
        if self.findings.found.len() >= MOST_CHANGES || self.seen >= MOST_SEEN {
            self.findings.truncated = true;
        }
        self.findings.truncated || self.any && !self.findings.found.is_empty()
    }

    fn is_wanted(&self, path: &Path) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|w| path.starts_with(w) || w.starts_with(path))
    }

    /// Walks one directory of the agent's side beside that of the host, if there is one.
    fn directory(&mut self, dir: &Path, host: Option<&Dir>, agent: &Dir, depth: usize) {
        // Somebody has mounted the layer otherwise: what lies here is not what the agent saw.
        if self.metadata.mode == WorkspaceMode::Overlay && has(agent, REDIRECT, None) {
            return self.unreadable(dir, &std::io::Error::other("it shows another directory of the workspace"));
        }
        let names = match agent.names() {
            Ok(names) => names,
            Err(e) => return self.unreadable(dir, &e),
        };
        for name in &names {
            let path = dir.join(name);
            self.seen += 1;
            if self.is_over() {
                return;
            }
            if !self.is_wanted(&path) {
                continue;
            }
            let stats = agent.stat(name).and_then(|a| Ok((a, host.map(|h| h.stat(name)).transpose()?.flatten())));
            match stats {
                Ok((agent_stat @ Some(_), host_stat)) => self.place(&Place {
                    path: &path,
                    name,
                    host_dir: host,
                    agent_dir: agent,
                    host: host_stat,
                    agent: agent_stat,
                    depth,
                }),
                // It is gone meanwhile.
                Ok((None, _)) => {}
                Err(e) => self.unreadable(&path, &e),
            }
        }
        // What is missing on the agent's side: of a copy it counts, of a layer only where that hides what lies below.
        let Some(host) = host else { return };
        let hides = self.metadata.mode == WorkspaceMode::Copy || has(agent, OPAQUE, Some(b"y"));
        if !hides {
            return;
        }
        for name in host.names().unwrap_or_default() {
            let path = dir.join(&name);
            self.seen += 1;
            if self.is_over() {
                return;
            }
            let missing = names.binary_search(&name).is_err() && self.is_wanted(&path);
            // What was brought over since, the agent had as well.
            let was_there = self.metadata.mode == WorkspaceMode::Overlay
                || self.copied.had(&path)
                || self.applied.has_brought(&path);
            if missing
                && was_there
                && let Ok(Some(stat)) = host.stat(&name)
            {
                self.place(&Place {
                    path: &path,
                    name: &name,
                    host_dir: Some(host),
                    agent_dir: agent,
                    host: Some(stat),
                    agent: None,
                    depth,
                });
            }
        }
    }

    fn place(&mut self, place: &Place<'_>) {
        let overlay = self.metadata.mode == WorkspaceMode::Overlay;
        let agent = match place.agent {
            Some(stat) if overlay && stat.kind == Kind::Whiteout => None,
            other => other,
        };
        let (host, path) = (place.host, place.path);
        let Some(now) = agent else {
            if let Some(was) = host {
                self.gone(place, was);
            }
            return;
        };
        // What an agent has not touched is none of its changes, whatever the host did; but what we made of the host's side was
        // the agent's, and it may have gone back on it.
        let untouched = self.copied.is_untouched(path, &now) && !self.applied.has_touched(path);
        if now.kind == Kind::Directory {
            let below = host.filter(|h| h.kind == Kind::Directory);
            match (below, host) {
                (Some(was), _) if was.mode != now.mode && !untouched => {
                    self.push(place, What::Mode, Some(was), now, None)
                }
                (Some(_), _) => {}
                // The host has removed or replaced a directory that the agent has not changed itself; what lies in it may be.
                (None, _) if untouched => {}
                (None, was) => {
                    let what = if was.is_some() { What::Changed } else { What::Added };
                    self.push(place, what, was, now, None);
                }
            }
            self.enter(place, below.is_some());
            return;
        }
        if untouched {
            return;
        }
        let was = host;
        let what = match was.map(|w| w.kind) {
            None => What::Added,
            Some(kind) if kind != now.kind => What::Changed,
            Some(Kind::File) => match self.same_content(place, now) {
                Some(true) if was.is_some_and(|w| w.mode == now.mode) => return,
                Some(true) => What::Mode,
                _ => What::Changed,
            },
            Some(Kind::Link) => {
                let targets = (place.agent_dir.target(place.name), place.host_dir.map(|d| d.target(place.name)));
                match targets {
                    (Ok(a), Some(Ok(h))) if a == h => return,
                    _ => What::Changed,
                }
            }
            Some(_) => return,
        };
        let conflict = if was.is_none() { self.removed_meanwhile(path, place) } else { None };
        self.push(place, what, was, now, conflict);
    }

    /// Goes into a directory of the agent's side.
    fn enter(&mut self, place: &Place<'_>, with_host: bool) {
        if place.depth >= DEEPEST {
            let e = std::io::Error::other(format!("more than {DEEPEST} directories deep"));
            return self.unreadable(place.path, &e);
        }
        let name = Path::new(place.name);
        let host = place.host_dir.filter(|_| with_host).map(|dir| dir.sub(name)).transpose();
        match (place.agent_dir.sub(name), host) {
            (Ok(agent), Ok(host)) => self.directory(place.path, host.as_ref(), &agent, place.depth + 1),
            (Err(e), _) | (_, Err(e)) => self.unreadable(place.path, &e),
        }
    }

    /// Compares the content of two files; `None` where that cannot be done.
    fn same_content(&mut self, place: &Place<'_>, now: Stat) -> Option<bool> {
        if place.host.is_some_and(|was| was.size != now.size) {
            return Some(false);
        }
        let name = Path::new(place.name);
        let (host, _) = place.host_dir?.read(name).ok()?;
        let (agent, _) = place.agent_dir.read(name).ok()?;
        self.read = self.read.saturating_add(now.size.saturating_mul(2));
        if now.size > MOST_FILE || self.read > MOST_READ {
            return None;
        }
        content::same(host, agent).ok()
    }

    /// Says whether the host has removed what the agent has changed.
    fn removed_meanwhile(&self, path: &Path, place: &Place<'_>) -> Option<String> {
        let said = || Some("the host has removed it meanwhile".to_owned());
        if self.metadata.mode == WorkspaceMode::Copy {
            let was_there = self.applied.has_brought(path) || self.copied.had(path);
            return if was_there && !self.applied.has_removed(path) { said() } else { None };
        }
        // Copied up from below, or from another name below: the host's directory tells which.
        let (file, _) = place.agent_dir.read(Path::new(place.name)).ok()?;
        ORIGIN.iter().find_map(|name| attribute::get(&file, name))?;
        let changed = match place.host_dir {
            Some(dir) => dir.own().is_ok_and(|own| self.is_newer(path.parent().unwrap_or(Path::new("")), &own)),
            None => has(place.agent_dir, ORIGIN, None),
        };
        if changed { said() } else { None }
    }

    /// Tells whether something of the host has changed since the bottle's start, and not by an apply.
    fn is_newer(&self, path: &Path, stat: &Stat) -> bool {
        stat.ctime > self.metadata.base && !self.applied.is_ours(path, stat.ctime)
    }

    /// Something of the host is gone on the agent's side.
    fn gone(&mut self, place: &Place<'_>, was: Stat) {
        let (mut refused, mut conflict) = (self.rules.why(place.path), None);
        if let Some(dir) = place.host_dir {
            self.judge_tree(dir, place.name, place.path, place.depth, &mut refused, &mut conflict);
        }
        self.findings.found.push(Found {
            path: place.path.to_owned(),
            agent: None,
            host: Some(was),
            change: Change {
                old_mode: Some(was.mode),
                refused,
                conflict,
                fingerprint: format!("deleted:{}:{}", was.id.1, was.ctime),
                ..change(place.path, What::Deleted, kind(was.kind))
            },
        });
    }

    /// Looks at everything of the host that goes with a name.
    fn judge_tree(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
        depth: usize,
        refused: &mut Option<String>,
        conflict: &mut Option<String>,
    ) {
        self.seen += 1;
        let Ok(Some(stat)) = dir.stat(name) else { return };
        let known = self.copied.had(path) || self.applied.is_ours(path, stat.ctime);
        let unlisted = self.metadata.mode == WorkspaceMode::Copy && !known;
        if conflict.is_none() && (unlisted || stat.kind != Kind::Directory && self.is_newer(path, &stat)) {
            *conflict = Some(format!("the host has changed {} meanwhile", shown(path)));
        }
        if stat.kind != Kind::Directory || refused.is_some() {
            return;
        }
        match dir.sub(Path::new(name)).and_then(|sub| Ok((sub.names()?, sub))) {
            Ok((names, sub)) if depth < DEEPEST && self.seen < MOST_SEEN => {
                for child in names {
                    let path = path.join(&child);
                    *refused = refused.take().or_else(|| {
                        self.rules.why(&path).map(|why| format!("with it would go {}: {why}", shown(&path)))
                    });
                    self.judge_tree(&sub, &child, &path, depth + 1, refused, conflict);
                }
            }
            _ => *refused = Some("not everything in it can be looked at".to_owned()),
        }
    }

    /// Notes a change of something that is there on the agent's side.
    fn push(&mut self, place: &Place<'_>, what: What, was: Option<Stat>, now: Stat, conflict: Option<String>) {
        let name = Path::new(place.name);
        let mut refused = self.rules.why(place.path);
        let mut conflict = conflict.or_else(|| {
            let both = was.is_some_and(|w| w.kind == Kind::Directory && now.kind == Kind::Directory);
            was.filter(|w| !both && self.is_newer(place.path, w))
                .map(|_| "the host has changed it meanwhile".to_owned())
        });
        // What takes a directory's place removes all that is in it.
        if was.is_some_and(|w| w.kind == Kind::Directory)
            && now.kind != Kind::Directory
            && let Some(dir) = place.host_dir
        {
            self.judge_tree(dir, place.name, place.path, place.depth, &mut refused, &mut conflict);
        }
        let mut target = None;
        let content = match now.kind {
            Kind::File if now.size > MOST_FILE => {
                refused.get_or_insert_with(|| format!("it has more than {} MiB", MOST_FILE >> 20));
                "large".to_owned()
            }
            Kind::File if self.any || what == What::Mode => String::new(),
            Kind::File => {
                self.read = self.read.saturating_add(now.size);
                let digest = if self.read > MOST_READ { None } else { content::digest(place.agent_dir, name) };
                digest.unwrap_or_else(|| {
                    refused.get_or_insert_with(|| "it cannot be read".to_owned());
                    "unread".to_owned()
                })
            }
            Kind::Link => {
                refused.get_or_insert_with(|| "links are not brought over".to_owned());
                target = place.agent_dir.target(place.name).ok().map(|t| t.to_string_lossy().into_owned());
                target.clone().unwrap_or_default()
            }
            Kind::Directory => String::new(),
            Kind::Whiteout | Kind::Special => {
                refused.get_or_insert_with(|| "it is neither a file nor a directory".to_owned());
                String::new()
            }
        };
        if now.mode & 0o6000 != 0 && now.kind != Kind::Link {
            refused.get_or_insert_with(|| "it has a setuid or setgid bit".to_owned());
        }
        self.findings.found.push(Found {
            path: place.path.to_owned(),
            agent: Some(now),
            host: was,
            change: Change {
                old_mode: was.map(|w| w.mode),
                mode: Some(now.mode),
                size: (now.kind == Kind::File).then_some(now.size),
                target,
                refused,
                conflict,
                fingerprint: format!("{}:{:o}:{content}", what.as_str(), now.mode),
                ..change(place.path, what, kind(now.kind))
            },
        });
    }

    /// Notes that something cannot be looked at. It may hide changes.
    fn unreadable(&mut self, path: &Path, e: &std::io::Error) {
        self.findings.found.push(Found {
            path: path.to_owned(),
            agent: None,
            host: None,
            change: Change {
                refused: Some(format!("it cannot be looked at: {e}")),
                fingerprint: "unreadable".to_owned(),
                ..change(path, What::Changed, FileKind::Special)
            },
        });
    }
}

/// Tells whether a directory of a layer has a mark, with this value or any.
fn has(dir: &Dir, mark: [&str; 2], value: Option<&[u8]>) -> bool {
    mark.iter().filter_map(|name| dir.attribute(name)).any(|said| value.is_none_or(|value| said == value))
}

/// A change of which nothing more is known yet.
fn change(path: &Path, what: What, kind: FileKind) -> Change {
    Change {
        path: shown(path),
        what,
        kind,
        old_mode: None,
        mode: None,
        size: None,
        target: None,
        added_lines: None,
        removed_lines: None,
        diff: None,
        refused: None,
        conflict: None,
        fingerprint: String::new(),
    }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn kind(kind: Kind) -> FileKind {
    match kind {
        Kind::File => FileKind::File,
        Kind::Directory => FileKind::Directory,
        Kind::Link => FileKind::Link,
        Kind::Whiteout | Kind::Special => FileKind::Special,
    }
}

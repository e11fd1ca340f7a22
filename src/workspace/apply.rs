//! Brings changes of an agent over into the workspace: exactly those that were shown, and of them what may be.
//!
//! Both sides are looked at again; what has changed since it was shown is left out. A file is written beside its place and
//! takes it in one step. No link is followed and nothing is executed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use super::MOST_FILE;
use super::applied::Applied;
use super::changes::{self, Found};
use super::content::hex;
use super::kept::{self, Metadata};
use crate::api::{Apply, DiffQuery, Done, Outcome, What, WorkspaceMode};
use crate::error::{Error, Result};
use crate::os::beneath::{self, Dir, Kind, Stat};

/// Applies what is wanted, and removes the state of an ended bottle that has nothing left to apply.
///
/// # Errors
/// As [`changes::list`]. What is wrong with single changes is said of each.
pub fn apply(metadata: &Metadata, state: &Path, wanted: &Apply) -> Result<Vec<Done>> {
    let _turn = kept::turn();
    let (host, agent) = (metadata.host_side()?, metadata.agent_side(state)?);
    // Of many paths each would be compared with each.
    let few = wanted.changes.len() <= 64;
    let paths = wanted.changes.iter().filter(|_| few).map(|w| w.path.clone()).collect();
    let query = DiffQuery { paths, text: false };
    let findings = changes::walk(metadata, state, &host, &agent, &query, false);
    let now: BTreeMap<&str, &Found> = findings.found.iter().map(|f| (f.change.path.as_str(), f)).collect();
    let order: BTreeMap<&str, usize> =
        findings.found.iter().enumerate().map(|(n, f)| (f.change.path.as_str(), n)).collect();
    let mut list: Vec<_> = wanted.changes.iter().collect();
    list.sort_by_key(|w| order.get(w.path.as_str()).copied());
    let mut applied = Applied::read(state);
    for found in list.iter().filter_map(|wish| now.get(wish.path.as_str())) {
        if found.change.refused.is_none() && found.change.conflict.is_none() {
            applied.tries(&found.change.path, takes_whole(found));
        }
    }
    if let Err(e) = applied.write(state) {
        remembers(metadata, state, e)?;
    }
    let mut done = Vec::new();
    for wish in list {
        let (outcome, reason) = match now.get(wish.path.as_str()) {
            None => (Outcome::Stale, Some("it is no change any more".to_owned())),
            Some(found) => one(found, &wish.fingerprint, &host, &agent),
        };
        if outcome == Outcome::Applied {
            let whole = now.get(wish.path.as_str()).is_some_and(|found| takes_whole(found));
            note(&host, Path::new(&wish.path), whole, &mut applied);
        }
        done.push(Done { path: wish.path.clone(), outcome, reason });
    }
    if let Err(e) = applied.write(state) {
        tracing::error!(state = %state.display(), "remembering what was applied: {e}");
    }
    // As it is now: the bottle may have been taken up again since.
    if kept::Metadata::read(state).is_some_and(|now| now.kept) {
        kept::settle_in_turn(state);
    }
    Ok(done)
}

/// Of a copy nothing is applied that cannot be remembered: what the agent takes back later would not be seen.
fn remembers(metadata: &Metadata, state: &Path, e: io::Error) -> Result<()> {
    if metadata.mode == WorkspaceMode::Copy {
        return Err(Error::internal(format!("what is applied cannot be remembered, so nothing was: {e}"))
            .at(state.display().to_string())
            .hint("make room on its file system, then apply again"));
    }
    tracing::error!(state = %state.display(), "remembering what is applied: {e}");
    Ok(())
}

/// Tells whether with a change everything goes that lies in a directory of the host.
fn takes_whole(found: &Found) -> bool {
    let is_dir = |stat: Option<Stat>| stat.is_some_and(|s| s.kind == Kind::Directory);
    is_dir(found.host) && !is_dir(found.agent)
}

/// Remembers when a path and its directory were changed by us.
fn note(host: &Dir, path: &Path, whole: bool, applied: &mut Applied) {
    for at in path.ancestors() {
        let Some(text) = beneath::text(at) else { continue };
        match host.look(at) {
            Ok(Some(stat)) => applied.did(text, Some(stat.ctime), whole && at == path),
            Ok(None) if at == path => applied.did(text, None, whole),
            _ => {}
        }
    }
}

fn one(found: &Found, fingerprint: &str, host: &Dir, agent: &Dir) -> (Outcome, Option<String>) {
    let change = &found.change;
    if let Some(why) = &change.refused {
        return (Outcome::Refused, Some(why.clone()));
    }
    if change.fingerprint != fingerprint {
        return (Outcome::Stale, Some("the agent has changed it since it was shown".to_owned()));
    }
    if let Some(why) = &change.conflict {
        return (Outcome::Conflict, Some(why.clone()));
    }
    match bring(found, host, agent) {
        Ok(true) => (Outcome::Applied, None),
        Ok(false) => (Outcome::Stale, Some("it has changed since it was shown".to_owned())),
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            (Outcome::Refused, Some("a link of the workspace lies on the way to it".to_owned()))
        }
        Err(e) => (Outcome::Failed, Some(e.to_string())),
    }
}

/// Brings one change over. Returns whether it was still the same.
fn bring(found: &Found, host: &Dir, agent: &Dir) -> io::Result<bool> {
    let parent_path = found.path.parent().unwrap_or(Path::new(""));
    let name = found.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    if found.change.what != What::Deleted {
        make_parents(host, parent_path)?;
    }
    let parent = host.sub(parent_path)?;
    let unchanged = |parent: &Dir| -> io::Result<bool> {
        let now = parent.stat(name)?;
        let known = |stat: Option<Stat>| {
            // A directory's time changes with what is in it.
            stat.map(|s| (s.id, s.kind, if s.kind == Kind::Directory { 0 } else { s.ctime }))
        };
        Ok(known(now) == known(found.host))
    };
    let mode = found.change.mode.unwrap_or(0o644) & 0o777;
    match (found.change.what, found.agent.map(|a| a.kind)) {
        (What::Deleted, _) => {
            if !unchanged(&parent)? {
                return Ok(false);
            }
            parent.remove_tree(name)?;
        }
        (What::Mode, _) => {
            if !unchanged(&parent)? {
                return Ok(false);
            }
            parent.set_mode(name, mode)?;
        }
        (_, Some(Kind::Directory)) => {
            if !unchanged(&parent)? {
                return Ok(false);
            }
            if found.host.is_some() {
                parent.remove(name)?;
            }
            let made = parent.make_dir(name, mode)?;
            own(&made, &parent.own()?)?;
            parent.set_mode(name, mode)?;
        }
        (_, Some(Kind::File)) => {
            let temporary = beneath::temporary();
            let written = write(found, &parent, &temporary, agent, mode);
            let fits = written.and_then(|same| Ok(same && unchanged(&parent)?));
            let placed = fits.and_then(|fits| {
                if fits && found.host.is_some_and(|h| h.kind == Kind::Directory) {
                    parent.remove_tree(name)?;
                }
                if fits {
                    parent.rename(&temporary, name)?;
                }
                Ok(fits)
            });
            if !matches!(placed, Ok(true)) {
                let _ = parent.remove(&temporary);
            }
            return placed;
        }
        _ => return Err(io::ErrorKind::Unsupported.into()),
    }
    Ok(true)
}

/// Writes the agent's content beside its place. Returns whether it is what was shown.
fn write(found: &Found, parent: &Dir, temporary: &OsStr, agent: &Dir, mode: u32) -> io::Result<bool> {
    let (from, _) = agent.read(&found.path)?;
    let mut to = parent.create(temporary, 0o600)?;
    let digest = copy(from, &mut to)?;
    let owner = match found.host.filter(|h| h.kind == Kind::File) {
        Some(host) => host,
        None => parent.own()?,
    };
    own(&to, &owner)?;
    nix::sys::stat::fchmod(&to, nix::sys::stat::Mode::from_bits_truncate(mode))?;
    Ok(found.change.fingerprint.ends_with(&digest))
}

/// Copies a file and gets the digest of what was copied.
fn copy(from: File, to: &mut File) -> io::Result<String> {
    let mut from = from.take(MOST_FILE + 1);
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hex(context.finish().as_ref())),
            n => {
                context.update(&buffer[..n]);
                to.write_all(&buffer[..n])?;
            }
        }
    }
}

/// Run by root, gives a new file to whom its directory, or the file before it, belongs.
fn own(file: impl AsFd, like: &Stat) -> io::Result<()> {
    if nix::unistd::geteuid().is_root() {
        nix::unistd::fchown(file, Some(like.uid.into()), Some(like.gid.into()))?;
    }
    Ok(())
}

/// Makes the directories that a path of the workspace lies in.
fn make_parents(host: &Dir, path: &Path) -> io::Result<()> {
    let mut dir = host.again()?;
    for part in path.iter() {
        let next = match dir.stat(part)? {
            Some(_) => dir.sub(Path::new(part))?,
            None => {
                let made = dir.make_dir(part, 0o755)?;
                own(&made, &dir.own()?)?;
                made
            }
        };
        dir = next;
    }
    Ok(())
}

//! What of a workspace the host's own git would execute, or be led by to something that it executes.
//!
//! Reads files that an agent may have written, bounded; never runs git. Where in doubt it names more, not less.

use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// Kept read-only in a git directory: (name, is a directory, text of a placeholder). `commondir` would lead git to the
/// configuration and hooks of another directory; `.` leads to where it is.
pub const GUARDED: &[(&str, bool, &str)] =
    &[("hooks", true, ""), ("config", false, ""), ("config.worktree", false, ""), ("commondir", false, ".\n")];

/// Kept read-only in the directory of a linked worktree (which has a `commondir` always).
pub const GUARDED_IN_WORKTREE: &[(&str, bool, &str)] =
    &[("config.worktree", false, ""), ("commondir", false, "../..\n")];

/// Most of a file that is read. Unit: bytes.
const MOST: u64 = 1 << 20;

/// What was found, as paths below the workspace.
#[derive(Debug, Default)]
pub struct Found {
    /// Git directories that the workspace's git uses.
    pub git_dirs: Vec<PathBuf>,
    /// Directories of linked worktrees.
    pub worktrees: Vec<PathBuf>,
    /// What their configuration has git execute or include: (path, is a directory).
    pub executed: Vec<(PathBuf, bool)>,
}

/// Looks at `workspace`, a canonical path. `absent`: its `.git` is a placeholder.
pub fn find(workspace: &Path, absent: bool) -> Found {
    let mut found = Found::default();
    let dot = workspace.join(".git");
    let mut pending = vec![];
    // Also where it is no whole repository: the agent could make it one.
    if !absent && dot.is_dir() {
        pending.push(PathBuf::from(".git"));
    } else if let Some(target) = text(&dot).as_deref().and_then(|t| t.trim_end().strip_prefix("gitdir: ")) {
        pending.extend(below(workspace, Path::new(""), target));
    } else if is_git_dir(workspace) {
        pending.push(PathBuf::new());
    }
    while let Some(dir) = pending.pop() {
        if found.git_dirs.contains(&dir) {
            continue;
        }
        if let Some(common) = text(&workspace.join(&dir).join("commondir")) {
            pending.extend(below(workspace, &dir, common.trim_end()).filter(|c| *c != dir));
        }
        for entry in fs::read_dir(workspace.join(&dir).join("worktrees")).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                found.worktrees.push(dir.join("worktrees").join(entry.file_name()));
            }
        }
        for name in ["config", "config.worktree"] {
            let config = text(&workspace.join(&dir).join(name)).unwrap_or_default();
            executed(workspace, &dir, &config, &mut found.executed);
        }
        found.git_dirs.push(dir);
    }
    found
}

/// Tells whether git would take a directory for a repository.
fn is_git_dir(path: &Path) -> bool {
    path.join("HEAD").is_file() && path.join("objects").is_dir() && path.join("refs").is_dir()
}

/// Gets the beginning of a regular file.
fn text(path: &Path) -> Option<String> {
    let meta = fs::symlink_metadata(path).ok()?;
    let mut bytes = Vec::new();
    fs::File::open(path).ok().filter(|_| meta.is_file())?.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Gets `path`, as written in a file of `base`, relative to the workspace; `None` where it leads out of it.
fn below(workspace: &Path, base: &Path, path: &str) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in workspace.join(base).join(path).components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out.strip_prefix(workspace).ok().map(Path::to_owned)
}

/// Adds what a configuration names: `core.hooksPath` and included files also where they are absent, and every file of
/// the workspace that a value mentions (filters, helpers, aliases, pagers: all of them are commands).
fn executed(workspace: &Path, dir: &Path, config: &str, found: &mut Vec<(PathBuf, bool)>) {
    let mut add = |path: Option<PathBuf>, is_dir: bool| {
        if let Some(path) = path.filter(|p| !p.as_os_str().is_empty() && !found.iter().any(|(known, _)| known == p)) {
            found.push((path, is_dir));
        }
    };
    let mut including = false;
    for line in config.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            including = section.get(..7).is_some_and(|s| s.eq_ignore_ascii_case("include"));
        }
        let line = line.rsplit_once(']').map_or(line, |(_, after)| after.trim());
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.split(['#', ';']).next().unwrap_or_default().trim().trim_matches('"');
        if value.is_empty() {
            continue;
        }
        match key.trim().to_ascii_lowercase().as_str() {
            "hookspath" => {
                let path = below(workspace, Path::new(""), value);
                // Husky's hooks lie beside the directory that git is told of.
                let path = path.map(|p| if p.ends_with("_") { p.parent().unwrap_or(&p).to_owned() } else { p });
                add(path, true);
            }
            "path" if including => add(below(workspace, dir, value), false),
            _ => {
                for word in value.split([' ', '\t', '\'', '"', '!']).filter(|w| !w.is_empty()) {
                    let path = below(workspace, Path::new(""), word);
                    add(path.filter(|p| fs::symlink_metadata(workspace.join(p)).is_ok_and(|m| m.is_file())), false);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_inside_the_workspace_are_named() {
        let workspace = Path::new("/w/s");
        assert_eq!(below(workspace, Path::new(".git"), "../x/./y"), Some("x/y".into()));
        assert_eq!(below(workspace, Path::new(""), "/w/s/a"), Some("a".into()));
        assert_eq!(below(workspace, Path::new(""), "../other"), None);
        let mut found = vec![];
        let config =
            "[include]\npath = ../inc\n[core] hooksPath=\"h\" # mine\n[includeIf \"x\"]\n\tPath = /etc/passwd\n";
        executed(workspace, Path::new(".git"), config, &mut found);
        assert_eq!(found, [("inc".into(), false), ("h".into(), true)]);
    }
}

//! What of an agent's changes is never brought over: what tools of the host would execute, trust, or be led by.
//!
//! Judges where a path would lie in the end, not how it came to be there: a hook in a directory that was renamed to `.git`
//! is a hook. Where a repository could come to be out of parts of both sides, it counts as one. Reads names only.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::bottle::{guard, repository};
use crate::os::beneath::{Dir, Kind, text};

/// Directories of a repository whose files name nothing that is executed.
const HARMLESS: [&str; 4] = ["objects", "refs", "logs", "lfs"];

/// What steers git in a repository, wherever in it: configuration, hooks, ways to other repositories, and lists of commands
/// that a stopped rebase goes on with.
const STEERING: [&str; 8] =
    ["config", "config.worktree", "hooks", "commondir", "gitdir", "rebase-merge", "rebase-apply", "sequencer"];

/// Old forms in which a repository names others; only at its top, since references have such names.
const ADDRESSES: [&str; 2] = ["remotes", "branches"];

/// What else tools of the host run or are led by, beside [`guard::TRUSTED_BY_TOOLS`]: repositories of other kinds, whose hooks lie
/// in their configuration; commands of development containers, of agents in editors and of cargo; where git fetches
/// submodules from.
const OTHERS: [&str; 9] =
    [".hg", ".jj", ".devcontainer", ".kiro", ".roo", ".windsurf", ".cargo/config", ".cargo/config.toml", ".gitmodules"];

/// What a directory is to git.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repository {
    /// Nothing.
    No,
    /// A repository that the host had before.
    Known,
    /// One that would come to be.
    New,
}

/// Decides about paths of one workspace.
#[derive(Debug)]
pub struct Rules<'a> {
    host: &'a Dir,
    agent: &'a Dir,
    /// What the host's own git configuration has executed.
    executed: Vec<PathBuf>,
    known: HashMap<PathBuf, Repository>,
}

/// Writes a name as the least particular file system sees it: without case, and without what it does not see.
fn folded(name: &OsStr) -> String {
    let unseen = |c: &char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let name: String = name.to_string_lossy().chars().filter(|c| !unseen(c)).flat_map(char::to_lowercase).collect();
    let name = name.trim_end_matches(['.', ' ']);
    if name == "git~1" { ".git".to_owned() } else { name.to_owned() }
}

/// Which parts of a repository lie in a directory.
#[derive(Clone, Copy, Default)]
struct Parts {
    head: bool,
    store: bool,
}

fn parts(root: &Dir, dir: &Path) -> Parts {
    let Ok(dir) = root.sub(dir) else { return Parts::default() };
    let mut parts = Parts::default();
    for name in dir.names().unwrap_or_default() {
        let part = folded(&name);
        let of_interest = matches!(part.as_str(), "head" | "objects" | "commondir");
        if of_interest && dir.stat(&name).ok().flatten().is_some_and(|s| s.kind != Kind::Whiteout) {
            parts.head |= part == "head";
            parts.store |= part != "head";
        }
    }
    parts
}

impl<'a> Rules<'a> {
    /// Makes the rules of a workspace that lies at `place`.
    pub fn of(place: &Path, host: &'a Dir, agent: &'a Dir) -> Rules<'a> {
        let executed = repository::find(place, false).executed.into_iter().map(|(path, _)| path).collect();
        Rules { host, agent, executed, known: HashMap::new() }
    }

    /// Says why a change at `path` is never brought over; `None` where it may be.
    pub fn why(&mut self, path: &Path) -> Option<String> {
        if text(path).is_none() {
            return Some("its name is no UTF-8".to_owned());
        }
        if let Some(trusted) = trusted(path) {
            return Some(format!("tools of the host execute or trust `{trusted}`"));
        }
        if self.executed.iter().any(|executed| path.starts_with(executed) || executed.starts_with(path)) {
            return Some("the configuration of git names it".to_owned());
        }
        let mut at = PathBuf::new();
        let parts: Vec<&OsStr> = path.iter().collect();
        for n in 0..=parts.len() {
            if n > 0 {
                at.push(parts[n - 1]);
            }
            let rest: PathBuf = parts[n..].iter().collect();
            if n > 0 && folded(parts[n - 1]) == ".git" {
                let ours = parts[n - 1] == ".git"
                    && self.host.look(&at).ok().flatten().is_some_and(|s| s.kind == Kind::Directory);
                if !ours {
                    return Some(format!("{} would be a git repository of the agent's own", at.display()));
                }
                if rest.as_os_str().is_empty() {
                    return Some("it is the repository itself".to_owned());
                }
                if let Some(why) = steering(&rest) {
                    return Some(why);
                }
                continue;
            }
            match self.repository(&at) {
                Repository::No => {}
                Repository::New => {
                    return Some(if at.as_os_str().is_empty() {
                        "it would make the workspace a git repository of the agent's own".to_owned()
                    } else {
                        format!("{} would be a git repository of the agent's own", at.display())
                    });
                }
                Repository::Known => {
                    if let Some(why) = steering(&rest) {
                        return Some(why);
                    }
                }
            }
        }
        None
    }

    fn repository(&mut self, dir: &Path) -> Repository {
        if let Some(known) = self.known.get(dir) {
            return *known;
        }
        let (host, agent) = (parts(self.host, dir), parts(self.agent, dir));
        let kind = if host.head && host.store {
            Repository::Known
        } else if (host.head || agent.head) && (host.store || agent.store) {
            Repository::New
        } else {
            Repository::No
        };
        self.known.insert(dir.to_owned(), kind);
        kind
    }
}

/// Says why a path of a repository that the host has is never changed.
fn steering(rest: &Path) -> Option<String> {
    let first = rest.iter().next()?;
    if HARMLESS.iter().any(|name| first == OsStr::new(name)) {
        return None;
    }
    if ADDRESSES.contains(&folded(first).as_str()) {
        return Some(format!("git is steered by `{}`", folded(first)));
    }
    let part = rest.iter().map(folded).find(|part| STEERING.contains(&part.as_str()))?;
    Some(format!("git is steered by `{part}`"))
}

/// Gets the first part of a path that tools of the host execute or trust by its name, at any depth.
fn trusted(path: &Path) -> Option<String> {
    let parts: Vec<String> = path.iter().map(folded).collect();
    let names = guard::TRUSTED_BY_TOOLS.iter().map(|(name, ..)| *name);
    // A repository is judged by its parts; `.claude` holds what an agent may well write beside what is named apart.
    let names = names.filter(|name| !matches!(*name, ".git" | ".claude")).chain(OTHERS);
    let lists: Vec<Vec<&str>> = names.map(|name| name.split('/').collect()).collect();
    let found = lists.iter().find(|list| parts.windows(list.len()).any(|w| w == list.as_slice()))?;
    Some(found.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bb-refuse-{name}-{}", std::process::id()));
        let _ = crate::os::beneath::remove_all(&dir);
        for sub in ["host", "agent"] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
        }
        dir
    }

    fn make(dir: &Path, files: &[&str]) {
        for file in files {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
    }

    #[test]
    fn what_tools_execute_is_refused_wherever_it_lies_and_its_neighbours_are_not() {
        let at = scratch("names");
        make(&at.join("host"), &[".git/HEAD", ".git/objects/x", ".git/modules/m/HEAD", ".git/modules/m/objects/x"]);
        make(&at.join("agent"), &["sub/.git/hooks/post-commit", "bare/HEAD", "bare/objects/x", "half/HEAD"]);
        make(&at.join("host"), &["half/objects/x", "fixture/HEAD", "fixture/objects/x"]);
        let (host, agent) = (Dir::open(&at.join("host")).unwrap(), Dir::open(&at.join("agent")).unwrap());
        let mut rules = Rules::of(&at.join("host"), &host, &agent);
        for bad in [
            ".git/config",
            ".git/hooks/post-commit",
            ".git/HOOKS/x",
            ".git/modules/m/config",
            ".git/modules/new/config",
            ".git/rebase-merge/git-rebase-todo",
            ".git",
            ".GIT/x",
            ".g\u{200c}it/config",
            "git~1/config",
            "sub/.git/hooks/post-commit",
            "sub/.git/HEAD",
            "deep/er/.git",
            "bare",
            "bare/config",
            "bare/hooks/update",
            "half/config",
            "fixture/config",
            "fixture/hooks/update",
            ".envrc",
            "deep/.envrc",
            ".mcp.json",
            "x/.MCP.json",
            ".vscode/tasks.json",
            ".claude/settings.json",
            "deep/.claude/hooks/x",
            ".codex/config.toml",
            ".git/remotes/origin",
            ".hg/hgrc",
            "deep/.devcontainer/devcontainer.json",
            ".kiro/hooks/x",
            ".Roo/mcp.json",
            ".windsurf",
            ".cargo/config.toml",
            "deep/.cargo/CONFIG",
            ".gitmodules",
        ] {
            assert!(rules.why(Path::new(bad)).is_some(), "{bad}");
        }
        for good in [
            "src/main.rs",
            ".git/objects/ab/cd",
            ".git/refs/heads/hooks",
            ".git/refs/remotes/origin/main",
            ".git/logs/refs/heads/config",
            ".git/index",
            ".git/HEAD",
            "config",
            "hooks/x",
            "fixture/objects/new",
            ".gitignore",
            ".claude/commands/x.md",
            ".github/workflows/ci.yml",
            ".cargo/audit.toml",
            "cargo/config.toml",
            "devcontainer/devcontainer.json",
        ] {
            assert_eq!(rules.why(Path::new(good)), None, "{good}");
        }
        crate::os::beneath::remove_all(&at).unwrap();
    }

    #[test]
    fn what_the_configuration_of_git_names_is_refused() {
        let at = scratch("executed");
        make(&at.join("host"), &[".git/HEAD", ".git/objects/x", ".husky/pre-commit"]);
        std::fs::write(at.join("host/.git/config"), "[core]\n\thooksPath = .husky\n").unwrap();
        let (host, agent) = (Dir::open(&at.join("host")).unwrap(), Dir::open(&at.join("agent")).unwrap());
        let mut rules = Rules::of(&at.join("host"), &host, &agent);
        assert!(rules.why(Path::new(".husky/pre-commit")).is_some());
        assert!(rules.why(Path::new(".husky")).is_some());
        assert_eq!(rules.why(Path::new("husky/pre-commit")), None);
        crate::os::beneath::remove_all(&at).unwrap();
    }
}

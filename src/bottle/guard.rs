//! What of its workspace an agent may not change, because the host's own tools would execute or trust it (decision 11).
//!
//! Everything here runs before anything of a bottle exists. It writes placeholders into the workspace, so that absent
//! things can be guarded too, and takes them away again.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

use super::plan::Guard;
use super::repository;
use crate::error::{Error, Kind, Result};

/// What a host tool would execute or trust if an agent had written it: (path, is a directory, text of a placeholder).
pub const TRUSTED_BY_TOOLS: &[(&str, bool, &str)] = &[
    (".git", true, ""),
    (".mcp.json", false, "{\"mcpServers\":{}}\n"),
    (".claude", true, ""),
    (".claude/settings.json", false, "{}\n"),
    (".claude/settings.local.json", false, "{}\n"),
    (".claude/hooks", true, ""),
    (".codex", true, ""),
    (".gemini", true, ""),
    (".pi", true, ""),
    (".cursor", true, ""),
    (".vscode", true, ""),
    (".bot-bottle", true, ""),
    (".envrc", false, ""),
];

/// Guards of a workspace, and what had to be made on the host so that absent things can be guarded too.
#[derive(Debug, Default)]
pub struct Guarded {
    /// For the plan.
    pub guards: Vec<Guard>,
    /// Paths made by this call, outermost first. [`remove_placeholders`] takes them away after the bottle's end.
    pub made: Vec<PathBuf>,
}

/// Placeholders that are on the host, and how many bottles of this controller lie on each. Taking one away while another
/// bottle has it mounted would take that bottle's guard away with it: the kernel detaches a mount whose place is removed.
static IN_USE: LazyLock<Mutex<HashMap<PathBuf, usize>>> = LazyLock::new(Mutex::default);

fn in_use() -> MutexGuard<'static, HashMap<PathBuf, usize>> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes the placeholders of a bottle that an earlier controller has prepared.
pub fn adopt_placeholders(made: &[PathBuf]) {
    let mut users = in_use();
    for path in made {
        *users.entry(path.clone()).or_default() += 1;
    }
}

/// Prepares the guards of `workspace`. A mount needs something to lie on, so absent files get a placeholder on the host
/// for the bottle's life, owned by `owner`.
///
/// # Errors
/// `workspace_unsafe` where one of the paths is a link, which could be turned elsewhere; `internal` where a placeholder
/// cannot be made.
pub fn prepare(workspace: &Path, owner: (u32, u32)) -> Result<Guarded> {
    let root = openat(nix::fcntl::AT_FDCWD, workspace, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| unguarded(workspace, &e.into()))?;
    let mut work = Preparing { workspace, root, owner, users: in_use(), guarded: Guarded::default() };
    let result = work.all();
    let Preparing { users, guarded, .. } = work;
    drop(users);
    match result {
        Ok(()) => Ok(guarded),
        Err(error) => {
            remove_placeholders(&guarded.made);
            Err(error)
        }
    }
}

fn unguarded(path: &Path, e: &io::Error) -> Error {
    let place = path.display().to_string();
    if e.raw_os_error() == Some(libc::ELOOP) {
        return Error::new(Kind::WorkspaceUnsafe, "it is a symbolic link, which an agent could turn elsewhere")
            .at(place)
            .hint("replace the link by what it points to");
    }
    Error::internal(format!("cannot guard it: {e}")).at(place)
}

/// Guards under way.
struct Preparing<'a> {
    workspace: &'a Path,
    root: OwnedFd,
    owner: (u32, u32),
    users: MutexGuard<'static, HashMap<PathBuf, usize>>,
    guarded: Guarded,
}

impl Preparing<'_> {
    fn all(&mut self) -> Result<()> {
        let mut no_git = false;
        for &(name, is_dir, text) in TRUSTED_BY_TOOLS {
            let name = Path::new(name);
            // `.git` of a repository can be written, but not moved away; what its tools execute is guarded below.
            // `.claude` holds the agent's own files beside its settings.
            let made = self.add(name, is_dir, text, false)?;
            let kept = match name.to_str() {
                Some(".git") => {
                    no_git = made;
                    !made && self.workspace.join(name).is_dir()
                }
                other => other == Some(".claude"),
            };
            if let Some(guard) = self.guarded.guards.last_mut() {
                guard.read_only = !kept;
            }
        }
        let found = repository::find(self.workspace, no_git);
        for directory in &found.git_dirs {
            self.pin(directory)?;
            for &(name, is_dir, text) in repository::GUARDED {
                self.add(&directory.join(name), is_dir, text, true)?;
            }
        }
        for directory in &found.worktrees {
            self.pin(directory)?;
            for &(name, is_dir, text) in repository::GUARDED_IN_WORKTREE {
                self.add(&directory.join(name), is_dir, text, true)?;
            }
        }
        if found.git_dirs.is_empty() && no_git {
            // Else the agent could make the workspace itself a bare repository, with a configuration of its own.
            self.add(Path::new("HEAD"), true, "", true)?;
        }
        for (path, is_dir) in &found.executed {
            if let Some(parent) = path.parent() {
                self.pin(parent)?;
            }
            self.add(path, *is_dir, "", true)?;
        }
        Ok(())
    }

    /// Keeps each directory of a path in its place: what holds a mount could be moved away with it.
    fn pin(&mut self, directory: &Path) -> Result<()> {
        let mut at = PathBuf::new();
        for part in directory.components() {
            at.push(part);
            self.add(&at.clone(), true, "", false)?;
        }
        Ok(())
    }

    /// Adds a guard, unless there is one; makes what is absent. Returns whether it is a placeholder.
    fn add(&mut self, name: &Path, is_dir: bool, text: &str, read_only: bool) -> Result<bool> {
        if name.as_os_str().is_empty()
            || self.guarded.guards.iter().any(|g| g.path == name || g.read_only && name.starts_with(&g.path))
        {
            return Ok(false);
        }
        let path = self.workspace.join(name);
        let made = make_or_check(&self.root, name, is_dir, text, self.owner).map_err(|e| unguarded(&path, &e))?;
        let placeholder = matches!(made, Made::Placeholder) || self.users.contains_key(&path);
        if placeholder {
            *self.users.entry(path.clone()).or_default() += 1;
            self.guarded.made.push(path);
        }
        self.guarded.guards.push(Guard { path: name.to_owned(), read_only });
        Ok(placeholder)
    }
}

enum Made {
    Placeholder,
    Nothing,
}

/// Looks at `name` below `root` without following links, and makes it where it is absent.
fn make_or_check(root: &OwnedFd, name: &Path, is_dir: bool, text: &str, owner: (u32, u32)) -> io::Result<Made> {
    let parent = match name.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => openat(root, parent, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| {
                if e == nix::errno::Errno::ENOTDIR { io::Error::from_raw_os_error(libc::ELOOP) } else { e.into() }
            })?,
        None => root.try_clone()?,
    };
    let name = Path::new(name.file_name().unwrap_or_default());
    let own = |fd: &OwnedFd| -> io::Result<()> {
        if nix::unistd::geteuid().is_root() {
            nix::unistd::fchown(fd, Some(owner.0.into()), Some(owner.1.into()))?;
        }
        Ok(())
    };
    match nix::sys::stat::fstatat(parent.as_fd(), name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFLNK => Err(io::Error::from_raw_os_error(libc::ELOOP)),
        Ok(_) => Ok(Made::Nothing),
        Err(nix::errno::Errno::ENOENT) if is_dir => {
            mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
            own(&openat(&parent, name, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)?;
            Ok(Made::Placeholder)
        }
        Err(nix::errno::Errno::ENOENT) => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let fd = openat(&parent, name, flags, Mode::from_bits_truncate(0o644))?;
            own(&fd)?;
            nix::unistd::write(&fd, text.as_bytes())?;
            Ok(Made::Placeholder)
        }
        Err(e) => Err(e.into()),
    }
}

/// Takes placeholders away again, innermost first: files that still have the placeholder's text, empty directories.
/// Those on which another bottle lies stay until that one has ended.
pub fn remove_placeholders(made: &[PathBuf]) {
    let mut users = in_use();
    for path in made.iter().rev() {
        match users.get_mut(path) {
            Some(count) if *count > 1 => {
                *count -= 1;
                continue;
            }
            _ => users.remove(path),
        };
        let Ok(meta) = fs::symlink_metadata(path) else { continue };
        if meta.is_dir() {
            let _ = fs::remove_dir(path);
        } else if meta.is_file() && fs::read_to_string(path).is_ok_and(|t| placeholder_texts().any(|text| t == text)) {
            let _ = fs::remove_file(path);
        }
    }
}

fn placeholder_texts() -> impl Iterator<Item = &'static str> {
    let lists = [TRUSTED_BY_TOOLS, repository::GUARDED, repository::GUARDED_IN_WORKTREE];
    lists.into_iter().flatten().filter(|(_, dir, _)| !dir).map(|&(_, _, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bb-guard-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn absent_settings_are_guarded_by_placeholders_that_go_away_again() {
        let workspace = scratch("absent");
        fs::create_dir(workspace.join(".claude")).unwrap();
        let guarded = prepare(&workspace, (0, 0)).unwrap();
        assert!(guarded.guards.iter().any(|g| g.path == Path::new(".mcp.json") && g.read_only));
        assert!(workspace.join(".mcp.json").exists());
        remove_placeholders(&guarded.made);
        let left: Vec<_> = fs::read_dir(&workspace).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, [".claude"], "what was there before stays, what was made goes");
        fs::remove_dir_all(workspace).unwrap();
    }

    #[test]
    fn a_placeholder_stays_until_the_last_bottle_on_it_has_ended() {
        let workspace = scratch("shared");
        let (first, second) = (prepare(&workspace, (0, 0)).unwrap(), prepare(&workspace, (0, 0)).unwrap());
        remove_placeholders(&first.made);
        assert!(workspace.join(".mcp.json").exists() && workspace.join(".vscode").exists(), "the second lies on them");
        remove_placeholders(&second.made);
        assert_eq!(fs::read_dir(&workspace).unwrap().count(), 0);
        fs::remove_dir_all(workspace).unwrap();
    }

    #[test]
    fn what_leads_git_to_another_configuration_is_guarded_with_the_configuration() {
        let workspace = scratch("git");
        for dir in [".git/objects", ".git/refs", ".git/worktrees/w", ".husky/_"] {
            fs::create_dir_all(workspace.join(dir)).unwrap();
        }
        fs::write(workspace.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(workspace.join(".git/config"), "[core]\n\thooksPath = .husky/_\n[include]\n\tpath = ../my.inc\n")
            .unwrap();
        let guarded = prepare(&workspace, (0, 0)).unwrap();
        let read_only = |path: &str| guarded.guards.iter().any(|g| g.path == Path::new(path) && g.read_only);
        for path in [
            ".git/config",
            ".git/hooks",
            ".git/commondir",
            ".git/config.worktree",
            ".git/worktrees/w/commondir",
            ".husky",
            "my.inc",
        ] {
            assert!(read_only(path), "{path}: {:?}", guarded.guards);
        }
        assert!(!read_only(".git") && !workspace.join("HEAD").exists());
        remove_placeholders(&guarded.made);
        assert!(!workspace.join(".git/commondir").exists() && !workspace.join("my.inc").exists());
        fs::remove_dir_all(workspace).unwrap();
    }

    #[test]
    fn a_repository_that_a_git_file_points_to_inside_the_workspace_is_guarded() {
        let workspace = scratch("gitfile");
        for dir in [".bare/objects", ".bare/refs"] {
            fs::create_dir_all(workspace.join(dir)).unwrap();
        }
        fs::write(workspace.join(".bare/HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(workspace.join(".git"), "gitdir: ./.bare\n").unwrap();
        let guarded = prepare(&workspace, (0, 0)).unwrap();
        let guard = |path: &str| guarded.guards.iter().find(|g| g.path == Path::new(path)).map(|g| g.read_only);
        assert_eq!(guard(".git"), Some(true));
        assert_eq!(guard(".bare"), Some(false), "it can be written but not moved away");
        assert_eq!(guard(".bare/config"), Some(true));
        fs::remove_dir_all(workspace).unwrap();
    }

    #[test]
    fn a_link_in_place_of_a_guarded_file_is_refused() {
        let workspace = scratch("link");
        std::os::unix::fs::symlink("/etc/hostname", workspace.join(".envrc")).unwrap();
        assert_eq!(prepare(&workspace, (0, 0)).unwrap_err().kind, Kind::WorkspaceUnsafe);
        assert!(!workspace.join(".mcp.json").exists(), "nothing is left behind");
        fs::remove_dir_all(workspace).unwrap();
    }
}

//! What may be shown to an agent: neither `/`, `$HOME`, what bb keeps, nor where credentials lie (decision 10).
//!
//! Paths are compared by device and inode, so links, bind mounts and spelling change nothing.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::home::Home;

/// Files and directories below `$HOME` that hold credentials. Nothing shown may be, contain or lie in one.
pub const CREDENTIALS: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".git-credentials",
    ".vault-token",
    ".config/gcloud",
    ".config/gh",
    ".config/git/credentials",
    ".config/hub",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".claude",
    ".claude.json",
    ".codex",
    ".gemini",
    ".pi",
    ".password-store",
    ".local/share/keyrings",
    ".mozilla",
    ".config/google-chrome",
    ".config/chromium",
    ".bash_history",
    ".zsh_history",
];

/// Directories of the system: what can be written there becomes part of the host. Shown at most read-only, and nothing in them either.
const SYSTEM: &[&str] = &[
    "/etc",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/local/lib",
    "/var/lib",
    "/var/spool",
];

/// Places that a bottle fills itself. What is mounted on one, or above it, would hide what is there, or be written over with it.
const FILLED: &[&str] = &[
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/tmp",
    "/var/tmp",
    "/run",
    "/dev",
    "/proc",
    "/sys",
    super::AGENT_HOME,
];

/// Of those, where nothing may be mounted further down either.
const OF_THE_KERNEL: &[&str] = &["/dev", "/proc", "/sys", "/run/bb"];

/// Checks where in a bottle something is to be shown.
///
/// # Errors
/// `workspace_unsafe` where the bottle's own files would be hidden, or written into what is shown there.
pub fn check_target(target: &Path) -> Result<()> {
    let refuse = |why: String| {
        Err(Error::new(Kind::WorkspaceUnsafe, why)
            .at(target.display().to_string())
            .hint("show it at a place of its own, such as /data, or below ~/"))
    };
    if target.components().any(|part| part == std::path::Component::ParentDir) {
        return refuse("a place in a bottle is named without `..`".to_owned());
    }
    match FILLED.iter().find(|place| Path::new(place).starts_with(target)) {
        Some(place) if Path::new(place) == target => return refuse(format!("{place} is the bottle's own")),
        Some(place) => return refuse(format!("it would cover {place}, which is the bottle's own")),
        None => {}
    }
    match OF_THE_KERNEL.iter().find(|place| target.starts_with(place)) {
        Some(place) => refuse(format!("it lies in {place}, which is the bottle's own")),
        None => Ok(()),
    }
}

/// Identity of a file: device and inode.
type Id = (u64, u64);

fn id(path: &Path) -> Option<Id> {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

/// A place that exists on this host.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    id: Id,
    /// Without links.
    real: PathBuf,
    /// The directories above it.
    above: Vec<Id>,
}

impl Place {
    fn of(path: PathBuf) -> Option<Place> {
        let real = path.canonicalize().ok()?;
        let above = real.ancestors().skip(1).filter_map(id).collect();
        Some(Place { id: id(&real)?, path, real, above })
    }
}

/// The places that no workspace or mount may touch.
#[derive(Debug)]
pub struct Forbidden {
    /// `/` and `$HOME`: may not be shown, nor anything that contains them.
    whole: Vec<Place>,
    /// `$BB_HOME`, the runtime directory, credentials: nor anything inside them.
    sealed: Vec<Place>,
    /// The system's own, and what the host runs by itself: may not be written, nor anything inside them.
    system: Vec<Place>,
}

impl Forbidden {
    /// Collects them for this host and the people whose homes `homes` are.
    pub fn of(home: &Home, homes: impl IntoIterator<Item = PathBuf>) -> Forbidden {
        let mut whole = vec![PathBuf::from("/")];
        let mut sealed = vec![home.root.clone(), home.runtime.clone()];
        for user_home in homes {
            whole.push(user_home.clone());
            sealed.extend(CREDENTIALS.iter().map(|c| user_home.join(c)));
        }
        for system in ["/proc", "/sys", "/dev", "/run", "/boot", "/var/run/docker.sock"] {
            sealed.push(PathBuf::from(system));
        }
        let known = |paths: Vec<PathBuf>| paths.into_iter().filter_map(Place::of).collect();
        let system = SYSTEM.iter().map(PathBuf::from).collect();
        Forbidden { whole: known(whole), sealed: known(sealed), system: known(system) }
    }

    /// Adds places that hold credentials.
    pub fn and(mut self, credentials: Vec<PathBuf>) -> Forbidden {
        self.sealed.extend(credentials.into_iter().filter_map(Place::of));
        self
    }

    /// Adds what the host runs by itself, which no agent may write (decision 19).
    pub fn and_run(mut self, programs: Vec<PathBuf>) -> Forbidden {
        self.system.extend(programs.into_iter().filter_map(Place::of));
        self
    }

    /// Checks a directory or file that is to be shown, and gives its real path.
    ///
    /// # Errors
    /// `workspace_unsafe` with the place that it would touch; `usage` where it does not exist.
    pub fn check(&self, path: &Path) -> Result<PathBuf> {
        self.checked(path, false)
    }

    /// The same for one that the agent may write.
    ///
    /// # Errors
    /// As [`Forbidden::check`], for the system's directories as well.
    pub fn check_writable(&self, path: &Path) -> Result<PathBuf> {
        self.checked(path, true)
    }

    fn checked(&self, path: &Path, writable: bool) -> Result<PathBuf> {
        let real = path.canonicalize().map_err(|e| {
            Error::new(Kind::Usage, format!("cannot be opened: {e}"))
                .at(path.display().to_string())
                .hint("name a directory that exists")
        })?;
        let refuse = |how: &str, what: &Place| {
            let what = what.path.display();
            let text = if how == "is" {
                format!("{what} is kept from agents")
            } else {
                format!("{} {how} {what}, which is kept from agents", real.display())
            };
            Err(Error::new(Kind::WorkspaceUnsafe, text)
                .at(path.display().to_string())
                .hint("use a directory of its own for the work, such as one project below your home"))
        };
        let lineage: Vec<Id> = real.ancestors().filter_map(id).collect();
        let Some(mine) = lineage.first() else {
            return Err(Error::internal("it cannot be looked at").at(path.display().to_string()));
        };
        let system = if writable { self.system.as_slice() } else { &[] };
        for place in self.whole.iter().chain(&self.sealed).chain(system) {
            if *mine == place.id {
                return refuse("is", place);
            }
            if place.above.contains(mine) {
                return refuse("contains", place);
            }
        }
        for place in self.sealed.iter().chain(system) {
            if lineage.contains(&place.id) {
                return refuse("lies in", place);
            }
        }
        Ok(real)
    }

    /// Gets the credential places that lie below a directory that is shown read-only, so that they can be hidden.
    pub fn inside(&self, shown: &Path) -> Vec<PathBuf> {
        let Some(shown) = id(shown) else { return vec![] };
        let found: HashSet<&Path> =
            self.sealed.iter().filter(|p| p.above.contains(&shown)).map(|p| p.real.as_path()).collect();
        found.into_iter().map(Path::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bb-places-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn home_its_parents_and_what_bb_keeps_are_refused_and_a_project_is_not() {
        let base = scratch("places");
        let user = base.join("alice");
        fs::create_dir_all(user.join("project")).unwrap();
        fs::create_dir_all(user.join(".ssh/deep")).unwrap();
        let home = Home::open(&user.join(".bot-bottle"), None).unwrap();
        let forbidden = Forbidden::of(&home, [user.clone()]);
        assert!(forbidden.check(&user.join("project")).is_ok(), "the allowed twin");
        std::os::unix::fs::symlink(user.join(".ssh"), user.join("innocent")).unwrap();
        for bad in [
            PathBuf::from("/"),
            base.clone(),
            user.clone(),
            home.root.clone(),
            home.root.join("state"),
            user.join(".ssh"),
            user.join(".ssh/deep"),
            user.join("innocent"),
            user.join("project/../.ssh"),
        ] {
            let error = forbidden.check(&bad).expect_err(&bad.display().to_string());
            assert_eq!(error.kind, Kind::WorkspaceUnsafe, "{bad:?}: {error}");
        }
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn the_systems_directories_may_be_read_and_not_written() {
        let base = scratch("system");
        let home = Home::open(&base.join("bb"), None).unwrap();
        let forbidden = Forbidden::of(&home, []);
        for system in ["/etc", "/etc/ssl", "/usr", "/usr/bin", "/usr/lib", "/var", "/var/lib"] {
            let path = Path::new(system);
            assert!(forbidden.check(path).is_ok(), "{system}");
            assert_eq!(forbidden.check_writable(path).unwrap_err().kind, Kind::WorkspaceUnsafe, "{system}");
        }
        fs::create_dir(base.join("project")).unwrap();
        assert!(forbidden.check_writable(&base.join("project")).is_ok());
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn nothing_is_shown_where_a_bottle_has_its_own() {
        for bad in [
            "/",
            "/etc",
            "/usr",
            "/lib",
            "/home",
            "/home/agent",
            "/tmp",
            "/var",
            "/run",
            "/run/bb/bin",
            "/dev/shm",
            "/proc/1",
            "/data/../etc",
        ] {
            assert_eq!(check_target(Path::new(bad)).unwrap_err().kind, Kind::WorkspaceUnsafe, "{bad}");
        }
        for good in [
            "/data",
            "/etc/app.conf",
            "/usr/local/src/app",
            "/home/agent/data",
            "/home/alice/project",
            "/tmp/project",
            "/run/app",
        ] {
            assert!(check_target(Path::new(good)).is_ok(), "{good}");
        }
    }
}

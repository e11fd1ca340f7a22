//! Where bb keeps things: `BB_HOME`, the runtime directory, and the paths in them.
//!
//! One place that knows the names of files; nothing here opens a ledger or starts a process.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// Longest path that fits into a socket address (`sun_path` is 108 bytes with its NUL).
const SOCKET_PATH_MAX: usize = 107;

/// Longest name below the runtime directory: `/k/SLUG.sock` with a slug of 40 characters.
const LONGEST_SOCKET_NAME: usize = 3 + 40 + 5;

/// The directories of one `BB_HOME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// `$BB_HOME`, absolute, 0700.
    pub root: PathBuf,
    /// Sockets and lock: `$XDG_RUNTIME_DIR/bb/HASH`, else `$BB_HOME/run`. 0700.
    pub runtime: PathBuf,
}

impl Home {
    /// Finds the home from the environment and makes its directories.
    ///
    /// # Errors
    /// `usage` where no home can be named or its path is too long for a socket, `internal` where it cannot be made.
    pub fn from_env() -> Result<Home> {
        let root = match std::env::var_os("BB_HOME").filter(|v| !v.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => match std::env::var_os("HOME").filter(|v| !v.is_empty()) {
                Some(home) => PathBuf::from(home).join(".bot-bottle"),
                None => {
                    return Err(Error::new(Kind::Usage, "neither BB_HOME nor HOME is set")
                        .hint("set BB_HOME to a directory of your own"));
                }
            },
        };
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|v| !v.is_empty()).map(PathBuf::from);
        Home::open(&root, runtime.as_deref())
    }

    /// Opens `root` as a home, with sockets below `xdg_runtime` if that is a directory of our own.
    ///
    /// # Errors
    /// As [`Home::from_env`].
    pub fn open(root: &Path, xdg_runtime: Option<&Path>) -> Result<Home> {
        let root =
            std::path::absolute(root).map_err(|e| Error::new(Kind::Usage, format!("BB_HOME is not a path: {e}")))?;
        // With a slash or a dot at its end, a link could not be told from what it leads to.
        let root: PathBuf = root.components().collect();
        make_private_dir(&root)?;
        let root = root.canonicalize().map_err(|e| Error::internal(e.to_string()).at(root.display().to_string()))?;
        let runtime = match xdg_runtime {
            Some(dir) if is_own_dir(dir) => {
                make_private_dir(&dir.join("bb"))?;
                dir.join("bb").join(short_hash(root.as_os_str().as_encoded_bytes()))
            }
            _ => root.join("run"),
        };
        // A session, a timer and a login by ssh may each have another one, or none: a home has its controller and its bottles in one.
        let runtime = in_use(&root).unwrap_or(runtime);
        if runtime.as_os_str().len() + LONGEST_SOCKET_NAME > SOCKET_PATH_MAX {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "the runtime directory's path has {} bytes, too long for a socket address",
                    runtime.as_os_str().len()
                ),
            )
            .at(runtime.display().to_string())
            .hint(format!(
                "set XDG_RUNTIME_DIR to a private directory with a short path, or BB_HOME to one of at most {} bytes",
                SOCKET_PATH_MAX - LONGEST_SOCKET_NAME - "/run".len()
            )));
        }
        make_private_dir(&runtime)?;
        make_private_dir(&runtime.join("k"))?;
        let home = Home { root, runtime };
        for dir in ["state", "recipes", "providers", "run"] {
            make_private_dir(&home.root.join(dir))?;
        }
        Ok(home)
    }

    /// The controller's socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("controller.sock")
    }

    /// The lock that a controller holds for its whole life.
    pub fn lock(&self) -> PathBuf {
        self.runtime.join("controller.lock")
    }

    /// The lock that a controller holds on the home itself, for its whole life: its process, and where its sockets are.
    pub fn home_lock(&self) -> PathBuf {
        home_lock(&self.root)
    }

    /// While this file exists the operator wants no controller: keepers do not start one.
    pub fn stopped(&self) -> PathBuf {
        self.runtime.join("stopped")
    }

    /// The controller's log.
    pub fn log(&self) -> PathBuf {
        self.root.join("run").join("controller.log")
    }

    /// What `bb doctor` found to be the best backend.
    pub fn best_backend(&self) -> PathBuf {
        self.root.join("run").join("backend")
    }

    /// The directory of the keepers' sockets.
    pub fn keepers(&self) -> PathBuf {
        self.runtime.join("k")
    }

    /// The socket of one bottle's keeper.
    pub fn keeper_socket(&self, slug: &str) -> PathBuf {
        self.keepers().join(format!("{slug}.sock"))
    }

    /// What is kept of one bottle: output, scratch workspace.
    pub fn state(&self, slug: &str) -> PathBuf {
        self.root.join("state").join(slug)
    }

    /// The ledger of real usage.
    pub fn ledger(&self) -> PathBuf {
        self.root.join("bot-bottle.db")
    }

    /// The ledger of rehearsals.
    pub fn rehearsal_ledger(&self) -> PathBuf {
        self.root.join("rehearsal.db")
    }

    /// The host's settings.
    pub fn settings(&self) -> PathBuf {
        self.root.join("settings.yml")
    }
}

/// Makes a directory (and its parents) that only its owner may enter, and checks that it is ours.
fn make_private_dir(dir: &Path) -> Result<()> {
    let fail = |e: std::io::Error| {
        Error::new(Kind::Usage, format!("cannot make the directory: {e}"))
            .at(dir.display().to_string())
            .hint("set BB_HOME to a directory of your own that can be written")
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(fail)?;
    // What a link leads to, and the link itself: whose it is can turn it elsewhere.
    let (own, meta) = (fs::symlink_metadata(dir).map_err(fail)?, fs::metadata(dir).map_err(fail)?);
    let uid = nix::unistd::geteuid().as_raw();
    if !meta.is_dir() || meta.uid() != uid || own.uid() != uid {
        let what = if own.is_symlink() && own.uid() != uid { "link" } else { "directory" };
        return Err(Error::new(Kind::Usage, format!("the {what} belongs to somebody else"))
            .at(dir.display().to_string())
            .hint("set BB_HOME to a directory of your own"));
    }
    // What a link leads to may be shared on purpose; its mode is its owner's affair.
    if own.is_dir() && meta.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(fail)?;
    }
    Ok(())
}

/// Tells whether `dir` is a directory of this user that others cannot write.
fn home_lock(root: &Path) -> PathBuf {
    root.join("run").join("controller.home")
}

/// Gets the runtime directory that a controller of this home is in, or bottles are whose controller has gone.
fn in_use(root: &Path) -> Option<PathBuf> {
    let mut file = fs::File::open(home_lock(root)).ok()?;
    let held = matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock));
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    let line = text.splitn(2, |byte| *byte == b'\n').nth(1)?;
    let dir = PathBuf::from(std::ffi::OsStr::from_bytes(line));
    let has_bottles = || fs::read_dir(dir.join("k")).is_ok_and(|mut sockets| sockets.next().is_some());
    (is_own_dir(&dir) && (held || has_bottles())).then_some(dir)
}

fn is_own_dir(dir: &Path) -> bool {
    fs::metadata(dir)
        .is_ok_and(|m| m.is_dir() && m.uid() == nix::unistd::geteuid().as_raw() && m.permissions().mode() & 0o022 == 0)
}

/// Gets twelve hex digits that stand for `bytes` in a path.
fn short_hash(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref()[..6].iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, lchown, symlink};

    use super::*;

    #[test]
    fn a_home_is_ours_and_so_is_a_link_to_it() {
        let dir = std::env::temp_dir().join(format!("bb-home-{}", std::process::id()));
        let (ours, link) = (dir.join("ours"), dir.join("link"));
        fs::create_dir_all(&ours).unwrap();
        symlink(&ours, &link).unwrap();
        let real = ours.canonicalize().unwrap();
        for way in [link.clone(), link.join(""), link.join(".")] {
            assert_eq!(Home::open(&way, None).unwrap().root, real);
        }
        let refused = |way: &Path, what: &str| {
            let error = Home::open(way, None).unwrap_err();
            assert!(error.kind == Kind::Usage && error.message.contains(what), "{error}");
        };
        if nix::unistd::geteuid().is_root() {
            lchown(&link, Some(65534), None).unwrap();
            for way in [link.clone(), link.join(""), link.join(".")] {
                refused(&way, "the link belongs to somebody else");
            }
            lchown(&link, Some(0), None).unwrap();
            fs::remove_dir_all(&ours).unwrap();
            fs::create_dir(&ours).unwrap();
            chown(&ours, Some(65534), None).unwrap();
        } else {
            fs::remove_file(&link).unwrap();
            symlink("/usr", &link).unwrap();
        }
        refused(&link, "the directory belongs to somebody else");
        assert!(!link.join("state").exists(), "nothing is made there");
        fs::remove_dir_all(&dir).unwrap();
    }
}

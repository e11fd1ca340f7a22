//! Copies files between the host and a bottle (`bb cp`).
//!
//! Each side is an open directory below which paths are looked up, so no link of the agent's leads to a file of the host. What
//! is done on the bottle's side is done as its agent. Links and special files are left out and named; setuid bits stay behind.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::os::beneath::{self, Dir, Kind, stat_of};

/// Most that one copy takes, bytes and entries.
const MOST_BYTES: u64 = 64 << 30;
const MOST_ENTRIES: u64 = 1_000_000;

/// Deepest directory that is copied.
const DEEPEST: usize = 200;

/// Most names of what is left out.
const MOST_NAMED: usize = 100;

/// One side of a copy.
#[derive(Debug)]
pub struct Side {
    /// Where paths begin.
    pub root: Dir,
    /// As whom it is looked at and written, where that is not who runs this: user and group.
    pub agent: Option<(u32, u32)>,
}

/// What was copied.
#[derive(Debug, Default)]
pub struct Copied {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// Makes this thread act as somebody else towards file systems until dropped.
struct Acting(bool);

impl Acting {
    fn of(agent: Option<(u32, u32)>) -> Acting {
        if let Some((uid, gid)) = agent {
            // SAFETY: changes two numbers of this thread alone.
            unsafe {
                libc::setfsgid(gid);
                libc::setfsuid(uid);
            }
        }
        Acting(agent.is_some())
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        if self.0 {
            // SAFETY: as above.
            unsafe {
                libc::setfsuid(nix::unistd::geteuid().as_raw());
                libc::setfsgid(nix::unistd::getegid().as_raw());
            }
        }
    }
}

impl Side {
    fn with<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _acting = Acting::of(self.agent);
        work()
    }
}

/// A copy under way.
struct Work<'a> {
    from: &'a Side,
    to: &'a Side,
    entries: u64,
    copied: Copied,
}

/// Copies `source` of one side to `target` of the other: into it where it is a directory, else under that name.
///
/// # Errors
/// `usage` where a path is not there or is no such thing, or it is too much; `internal` for what the system says else.
pub fn copy(from: &Side, source: &Path, to: &Side, target: &Path) -> Result<Copied> {
    let fail = |path: &Path| {
        let place = path.display().to_string();
        move |e: io::Error| {
            let known = matches!(
                e.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::ReadOnlyFilesystem
            );
            let kind =
                if known || e.raw_os_error() == Some(libc::ELOOP) { ErrorKind::Usage } else { ErrorKind::Internal };
            Error::new(kind, format!("it cannot be copied: {e}"))
                .at(place)
                .hint("look at both paths: links on the host's side are not followed")
        }
    };
    let own_name = source.file_name().map_or_else(|| OsStr::new("root").to_owned(), OsStr::to_owned);
    let (dir, name) = match to.with(|| to.root.sub(target)) {
        Ok(dir) => (dir, own_name),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {
            let (dir, name) = to.with(|| to.root.parent(target)).map_err(fail(target))?;
            (dir, name.to_owned())
        }
        Err(e) => return Err(fail(target)(e)),
    };
    let mut work = Work { from, to, entries: 0, copied: Copied::default() };
    match from.with(|| from.root.sub(source)) {
        Ok(tree) => {
            let made = to.with(|| dir.make_dir(&name, 0o755)).map_err(fail(target))?;
            work.tree(&tree, &made, Path::new(&name), 0).map_err(fail(source))?;
        }
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTDIR)) => {
            let (file, _) = from.with(|| from.root.read(source)).map_err(fail(source))?;
            work.file(file, &dir, &name).map_err(fail(target))?;
        }
        Err(e) => return Err(fail(source)(e)),
    }
    Ok(work.copied)
}

impl Work<'_> {
    fn leave_out(&mut self, path: &Path, why: impl std::fmt::Display) {
        if self.copied.left_out.len() < MOST_NAMED {
            self.copied.left_out.push(format!("{}: {why}", path.display()));
        } else if self.copied.left_out.len() == MOST_NAMED {
            self.copied.left_out.push("and more".to_owned());
        }
    }

    fn tree(&mut self, from: &Dir, to: &Dir, path: &Path, depth: usize) -> io::Result<()> {
        let (source, target) = (self.from, self.to);
        for name in source.with(|| from.names())? {
            let path: PathBuf = path.join(&name);
            self.entries += 1;
            if self.entries > MOST_ENTRIES || depth > DEEPEST {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is too large"));
            }
            match source.with(|| from.stat(&name))?.map(|s| s.kind) {
                Some(Kind::Directory) => {
                    let pair = source.with(|| from.sub(Path::new(&name)));
                    let pair = pair.and_then(|sub| Ok((sub, target.with(|| to.make_dir(&name, 0o755))?)));
                    match pair {
                        Ok((sub, made)) => self.tree(&sub, &made, &path, depth + 1)?,
                        Err(e) => self.leave_out(&path, e),
                    }
                }
                Some(Kind::File) => match source.with(|| from.read(Path::new(&name))) {
                    Ok((file, _)) => self.file(file, to, &name)?,
                    Err(e) => self.leave_out(&path, e),
                },
                Some(Kind::Link) => self.leave_out(&path, "a link"),
                Some(_) => self.leave_out(&path, "neither a file nor a directory"),
                None => {}
            }
        }
        Ok(())
    }

    /// Copies one file: it is written beside its place and takes it in one step, whatever lies there but a directory.
    fn file(&mut self, mut from: File, dir: &Dir, name: &OsStr) -> io::Result<()> {
        let stat = stat_of(&from)?;
        if self.copied.bytes.saturating_add(stat.size) > MOST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is too large"));
        }
        let temporary = beneath::temporary();
        let target = self.to;
        let mut to = target.with(|| dir.create(&temporary, 0o600))?;
        let written = (|| {
            // No more than was there: a file that an agent makes longer all the time would never end.
            let bytes = io::copy(&mut io::Read::take(&mut from, stat.size), &mut to)?;
            target.with(|| {
                let mode = nix::sys::stat::Mode::from_bits_truncate(stat.mode & 0o777);
                nix::sys::stat::fchmod(&to, mode)?;
                dir.rename(&temporary, name)
            })?;
            Ok(bytes)
        })();
        match written {
            Ok(bytes) => {
                self.copied.files += 1;
                self.copied.bytes += bytes;
                Ok(())
            }
            Err(e) => {
                let _ = target.with(|| dir.remove(&temporary));
                Err(e)
            }
        }
    }
}

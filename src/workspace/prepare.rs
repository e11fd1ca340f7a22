//! Makes the layer or the copy of a workspace before its bottle starts.
//!
//! Nothing of the bottle exists yet, but the workspace may be one that another agent writes: it is read without following
//! links. Says in words what this file system cannot do. Starts nothing and mounts nothing.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::copied::List;
use super::kept::{COPY, LAYER, Metadata, UPPER, WORK};
use crate::api::WorkspaceMode;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::os::attribute;
use crate::os::beneath::{self, Dir, Kind, Stat};
use crate::os::file_system;

/// Most that is copied, bytes and entries.
const MOST_COPIED: u64 = 16 << 30;
const MOST_ENTRIES: usize = 1_000_000;

/// Deepest directory that is copied.
const DEEPEST: usize = 200;

/// How much of a file is copied before it is looked whether somebody still waits for it. Unit: bytes.
const PART: u64 = 16 << 20;

/// ioctl(2) that has two files share their blocks (`linux/fs.h`).
const FICLONE: libc::c_ulong = 0x4004_9409;

/// What this kernel says is an overlay (`linux/magic.h`).
const OVERLAY: i64 = 0x794c_7630;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// The bottle.
    pub slug: &'a str,
    /// Its launch.
    pub id: &'a str,
    /// Its state directory.
    pub state: &'a Path,
    /// The workspace, without links.
    pub workspace: &'a Path,
    /// A layer or a copy.
    pub mode: WorkspaceMode,
    /// The agent on the host, where that is somebody else than who makes this.
    pub owner: Option<(u32, u32)>,
    /// What is kept of a bottle of before is taken up.
    pub resumes: bool,
    /// Becomes true when nobody waits for it any more: a copy is then given up.
    pub given_up: &'a AtomicBool,
}

/// Makes it, and what is remembered of it.
///
/// # Errors
/// `fs_unsupported` where the file system of the state directory cannot hold it, `usage` where the workspace is too large to
/// copy, `internal` for what the system says else.
pub fn prepare(order: &Order<'_>) -> Result<()> {
    let fail = |e: io::Error| Error::internal(e.to_string()).at(order.state.display().to_string());
    let identity = beneath::identity(order.workspace).map_err(fail)?;
    if order.resumes
        && let Some(before) = Metadata::read(order.state)
    {
        if before.mode != order.mode || before.workspace != order.workspace || before.identity != identity {
            return Err(Error::new(ErrorKind::WorkspaceUnsafe, "the workspace is not the one that the bottle had")
                .at(before.workspace.display().to_string())
                .hint(format!("put the directory back, or `bb diff {0}` and `bb rm {0}`", order.slug)));
        }
        // Whoever mounted it before may have been somebody else: the kernel makes its own directory anew.
        let _ = beneath::remove_all(&order.state.join(LAYER).join(WORK).join(WORK));
        return (Metadata { id: order.id.to_owned(), kept: false, ..before }).write(order.state).map_err(fail);
    }
    if order.resumes {
        // What an attempt of before left half made.
        for name in [LAYER, COPY] {
            beneath::remove_all(&order.state.join(name)).map_err(fail)?;
        }
    }
    match order.mode {
        WorkspaceMode::Mount => return Ok(()),
        WorkspaceMode::Overlay => layer(order)?,
        WorkspaceMode::Copy => copy(order)?,
    }
    let metadata = Metadata {
        v: 1,
        slug: order.slug.to_owned(),
        id: order.id.to_owned(),
        mode: order.mode,
        workspace: order.workspace.to_owned(),
        identity,
        base: now_by_the_file_system(order.state, order.mode == WorkspaceMode::Copy).map_err(fail)?,
        kept: false,
    };
    metadata.write(order.state).map_err(fail)
}

/// Gets the time that a file gets which is changed now; with `passed`, waits until the next one would get a later one, so that
/// what is changed from here on can be told from what was there.
fn now_by_the_file_system(state: &Path, passed: bool) -> io::Result<i64> {
    let mark = state.join("mark");
    let touch = || -> io::Result<i64> {
        fs::write(&mark, b"")?;
        Ok(beneath::stat_of(File::open(&mark)?)?.ctime)
    };
    let first = touch()?;
    while passed && touch()? <= first {
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::remove_file(&mark)?;
    Ok(first)
}

fn unsupported(order: &Order<'_>, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::FsUnsupported, what)
        .at(order.state.display().to_string())
        .hint("use workspace mode `copy` or `mount`, or set BB_HOME to a directory on ext4, xfs, btrfs or tmpfs")
}

/// Makes the directories of a layer.
fn layer(order: &Order<'_>) -> Result<()> {
    let fail = |e: io::Error| Error::internal(e.to_string()).at(order.state.display().to_string());
    let magic = nix::sys::statfs::statfs(order.state).map_err(|e| fail(e.into()))?.filesystem_type().0;
    if magic == OVERLAY {
        return Err(unsupported(order, "a layer cannot lie on an overlay (bb runs in a container, it seems)"));
    }
    if let Some(name) = file_system::remote(order.state).map_err(fail)? {
        return Err(unsupported(order, format!("a layer cannot lie on {name}")));
    }
    let mode = fs::metadata(order.workspace).map_err(fail)?.mode() & 0o777;
    let layer = order.state.join(LAYER);
    for (path, mode) in [(layer.clone(), 0o700), (layer.join(UPPER), mode), (layer.join(WORK), 0o700)] {
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(fail)?;
        let dir = File::open(&path).map_err(fail)?;
        if path == layer
            && let Err(e) = attribute::set(&dir, "user.overlay.bb", b"y")
        {
            return Err(unsupported(order, format!("a layer needs a file system with attributes of users: {e}")));
        }
        give(&dir, order.owner).map_err(fail)?;
        nix::sys::stat::fchmod(&dir, Mode::from_bits_truncate(mode)).map_err(|e| fail(e.into()))?;
    }
    Ok(())
}

fn give(file: impl AsFd, owner: Option<(u32, u32)>) -> io::Result<()> {
    match owner {
        Some((uid, gid)) => Ok(nix::unistd::fchown(file, Some(uid.into()), Some(gid.into()))?),
        None => Ok(()),
    }
}

/// A copy under way.
struct Copying<'a> {
    order: &'a Order<'a>,
    bytes: u64,
    entries: usize,
    list: List,
}

fn copy(order: &Order<'_>) -> Result<()> {
    let path = order.state.join(COPY);
    let fail = |e: io::Error| Error::internal(e.to_string()).at(path.display().to_string());
    fs::DirBuilder::new().mode(0o700).create(&path).map_err(fail)?;
    let (from, to) = (Dir::open(order.workspace).map_err(fail)?, Dir::open(&path).map_err(fail)?);
    let mut copying = Copying { order, bytes: 0, entries: 0, list: List::default() };
    copying.directory(&from, &to, Path::new(""), 0)?;
    let own = from.own().map_err(fail)?;
    finish(&to, &own, order.owner).map_err(fail)?;
    copying.list.write(order.state).map_err(fail)
}

impl Copying<'_> {
    fn directory(&mut self, from: &Dir, to: &Dir, path: &Path, depth: usize) -> Result<()> {
        let at = |path: &Path| {
            let place = self.order.workspace.join(path).display().to_string();
            move |e: io::Error| Error::internal(format!("copying the workspace: {e}")).at(place)
        };
        for name in from.names().map_err(at(path))? {
            let path = path.join(&name);
            let fail = at(&path);
            let Some(stat) = from.stat(&name).map_err(at(&path))? else { continue };
            if self.order.given_up.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Timeout, "whoever asked for a copy of the workspace is gone")
                    .at(self.order.workspace.display().to_string()));
            }
            self.entries += 1;
            self.bytes = self.bytes.saturating_add(if stat.kind == Kind::File { stat.size } else { 0 });
            if self.entries > MOST_ENTRIES || self.bytes > MOST_COPIED || depth > DEEPEST {
                return Err(Error::new(ErrorKind::Usage, "the workspace is too large to copy")
                    .at(self.order.workspace.display().to_string())
                    .hint("use workspace mode `overlay`, which copies nothing"));
            }
            let place = Path::new(&name);
            let copied = match stat.kind {
                Kind::Directory => {
                    let (sub, made) =
                        from.sub(place).and_then(|sub| Ok((sub, to.make_dir(&name, 0o700)?))).map_err(fail)?;
                    self.directory(&sub, &made, &path, depth + 1)?;
                    let made = finish(&made, &stat, self.order.owner).and_then(|()| made.own()).map_err(at(&path))?;
                    self.list.note(&path, &made);
                    continue;
                }
                Kind::File => from.read(place).and_then(|(file, stat)| {
                    let new = to.create(&name, 0o600)?;
                    fill(&file, &new, self.order.given_up)?;
                    finish(&new, &stat, self.order.owner)
                }),
                Kind::Link => from.target(&name).and_then(|target| {
                    to.make_link(&target, &name)?;
                    match self.order.owner {
                        Some((uid, gid)) => Ok(nix::unistd::fchownat(
                            to,
                            name.as_os_str(),
                            Some(uid.into()),
                            Some(gid.into()),
                            nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW,
                        )?),
                        None => Ok(()),
                    }
                }),
                // A socket or a FIFO means nothing in a copy.
                Kind::Whiteout | Kind::Special => continue,
            };
            let made = copied.and_then(|()| to.stat(&name)).map_err(fail)?;
            // It lies where no agent is yet.
            if let Some(made) = made {
                self.list.note(&path, &made);
            }
        }
        Ok(())
    }
}

/// Fills a new file with the content of another, by sharing its blocks where the file system can. `Interrupted` where it is
/// given up.
fn fill(from: &File, to: &File, given_up: &AtomicBool) -> io::Result<()> {
    // SAFETY: both descriptors are open; the call changes only the file `to`.
    if unsafe { libc::ioctl(to.as_raw_fd(), FICLONE, from.as_raw_fd()) } == 0 {
        return Ok(());
    }
    let (mut from, mut to) = (from, to);
    while io::copy(&mut io::Read::take(&mut from, PART), &mut to)? > 0 {
        if given_up.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
    Ok(())
}

/// Gives a copy the owner, the permission bits and the time of what it is a copy of. Setuid and setgid bits stay behind.
fn finish(copy: &impl AsFd, like: &Stat, owner: Option<(u32, u32)>) -> io::Result<()> {
    give(copy, owner)?;
    nix::sys::stat::fchmod(copy, Mode::from_bits_truncate(like.mode & 0o777))?;
    let (seconds, nanos) = like.mtime;
    let time = TimeSpec::new(seconds, nanos);
    let through = PathBuf::from(format!("/proc/self/fd/{}", copy.as_fd().as_raw_fd()));
    Ok(utimensat(nix::fcntl::AT_FDCWD, &through, &time, &time, UtimensatFlags::FollowSymlink)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_several_parts_is_copied_whole_unless_it_is_given_up() {
        let dir = std::env::temp_dir().join(format!("bb-prepare-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let length = usize::try_from(PART).unwrap() * 2 + 5;
        let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        fs::write(dir.join("from"), &bytes).unwrap();
        let from = File::open(dir.join("from")).unwrap();
        fill(&from, &File::create(dir.join("to")).unwrap(), &AtomicBool::new(false)).unwrap();
        assert!(fs::read(dir.join("to")).unwrap() == bytes);
        let from = File::open(dir.join("from")).unwrap();
        let given_up = fill(&from, &File::create(dir.join("part")).unwrap(), &AtomicBool::new(true));
        // A file system that shares blocks is done at once.
        let length = fs::metadata(dir.join("part")).unwrap().len();
        assert!(given_up.is_ok() || given_up.unwrap_err().kind() == io::ErrorKind::Interrupted && length == PART);
        fs::remove_dir_all(dir).unwrap();
    }
}

//! Files below a directory that somebody else may write at the same time: nothing here follows a link or leaves the directory.
//!
//! Every look-up is one openat2(2) below an open directory, so a link that is put in between two of them is met with an error
//! and never followed. Only regular files are opened for reading: a FIFO would wait, a device would act. Decides nothing.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::dir::Dir as Listing;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How often a look-up is tried again that a rename has come across.
const TRIES: u32 = 32;

/// Most names of one directory that are listed at once.
const MOST_NAMES: usize = 1_000_000;

/// How deep removing goes before it moves what lies deeper.
const DEEP: usize = 64;

/// How a look-up treats what leads elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// A link anywhere on the way is an error (`ELOOP`), and so is a way out (`EXDEV`).
    Strict,
    /// Links are followed with the directory as the root, as for a process that lives in it.
    InRoot,
}

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    resolve: Resolve,
}

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// The mark by which an overlay says that the layer below counts for nothing here: a device with the number 0.
    Whiteout,
    /// A FIFO, a socket, a device.
    Special,
}

/// What is known of one place without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device and inode.
    pub id: (u64, u64),
    /// Time of its last change, of any kind, nanoseconds since the epoch. No program can set it.
    pub ctime: i64,
    /// Time of its content's last change as it says: (seconds, nanoseconds).
    pub mtime: (i64, i64),
}

impl From<FileStat> for Stat {
    fn from(s: FileStat) -> Stat {
        let kind = match s.st_mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File,
            libc::S_IFDIR => Kind::Directory,
            libc::S_IFLNK => Kind::Link,
            libc::S_IFCHR if s.st_rdev == 0 => Kind::Whiteout,
            _ => Kind::Special,
        };
        Stat {
            kind,
            mode: s.st_mode & 0o7777,
            size: s.st_size.max(0).cast_unsigned(),
            uid: s.st_uid,
            gid: s.st_gid,
            id: (s.st_dev, s.st_ino),
            ctime: s.st_ctime.saturating_mul(1_000_000_000).saturating_add(s.st_ctime_nsec),
            mtime: (s.st_mtime, s.st_mtime_nsec),
        }
    }
}

/// Gets what an open file is.
///
/// # Errors
/// Those of fstat(2).
pub fn stat_of(fd: impl AsFd) -> io::Result<Stat> {
    Ok(fstat(fd)?.into())
}

impl Dir {
    /// Opens a directory by a path that is trusted: links in it are followed.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Dir> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Dir { fd: nix::fcntl::open(path, flags, Mode::empty())?, resolve: Resolve::Strict })
    }

    /// Takes an open directory.
    pub fn of(fd: OwnedFd, resolve: Resolve) -> Dir {
        Dir { fd, resolve }
    }

    /// Gets a second handle of it.
    ///
    /// # Errors
    /// That of dup(2).
    pub fn again(&self) -> io::Result<Dir> {
        Ok(Dir { fd: self.fd.try_clone()?, resolve: self.resolve })
    }

    fn at(&self, path: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = match self.resolve {
            Resolve::Strict => ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS,
            Resolve::InRoot => ResolveFlag::RESOLVE_IN_ROOT,
        };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(mode)
            .resolve(resolve | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        for _ in 0..TRIES {
            match openat2(&self.fd, path, how) {
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Opens a directory below it.
    ///
    /// # Errors
    /// Those of openat2(2).
    pub fn sub(&self, path: &Path) -> io::Result<Dir> {
        let fd = self.at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK, Mode::empty())?;
        Ok(Dir { fd, resolve: self.resolve })
    }

    /// Gets the directory that a path lies in, and its name there.
    ///
    /// # Errors
    /// `InvalidInput` for a path without a name, else as [`Dir::sub`].
    pub fn parent<'p>(&self, path: &'p Path) -> io::Result<(Dir, &'p OsStr)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.sub(path.parent().unwrap_or(Path::new("")))?, name))
    }

    /// Gets what a name of this very directory is; a link is not followed. `None` where nothing is.
    ///
    /// # Errors
    /// Those of fstatat(2).
    pub fn stat(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        match nix::sys::stat::fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.into())),
            Err(nix::errno::Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Gets what lies at a path below it; `None` where nothing does, or a part of the way is no directory.
    ///
    /// # Errors
    /// As [`Dir::sub`].
    pub fn look(&self, path: &Path) -> io::Result<Option<Stat>> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        match self.at(path, flags, Mode::empty()) {
            Ok(fd) => stat_of(fd).map(Some),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
                // The last part itself may be the link: that one is looked at.
                let (parent, name) = self.parent(path)?;
                parent.stat(name)
            }
            Err(e) => Err(e),
        }
    }

    /// Opens a regular file below it for reading.
    ///
    /// # Errors
    /// `InvalidInput` where it is none, else those of openat2(2).
    pub fn read(&self, path: &Path) -> io::Result<(File, Stat)> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        // Looked at first: opening a device acts on it.
        if self.resolve == Resolve::InRoot {
            let place = self.at(path, OFlag::O_PATH, Mode::empty())?;
            if stat_of(&place)?.kind != Kind::File {
                return Err(not_regular());
            }
        } else if self.look(path)?.is_some_and(|s| s.kind != Kind::File && s.kind != Kind::Link) {
            return Err(not_regular());
        }
        let file = File::from(self.at(path, flags, Mode::empty())?);
        let stat = stat_of(&file)?;
        if stat.kind != Kind::File {
            return Err(not_regular());
        }
        Ok((file, stat))
    }

    /// Makes a new file of this very directory for writing; an error where the name is taken.
    ///
    /// # Errors
    /// Those of openat2(2).
    pub fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
        Ok(self.at(Path::new(name), flags, Mode::from_bits_truncate(mode & 0o777))?.into())
    }

    /// Makes a directory of this very directory; one that is there already is fine.
    ///
    /// # Errors
    /// Those of mkdirat(2), and where something else is there.
    pub fn make_dir(&self, name: &OsStr, mode: u32) -> io::Result<Dir> {
        match mkdirat(&self.fd, name, Mode::from_bits_truncate(mode & 0o777)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => self.sub(Path::new(name)),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes a link of this very directory.
    ///
    /// # Errors
    /// Those of symlinkat(2).
    pub fn make_link(&self, target: &OsStr, name: &OsStr) -> io::Result<()> {
        Ok(nix::unistd::symlinkat(target, &self.fd, name)?)
    }

    /// Gets where a link of this very directory leads.
    ///
    /// # Errors
    /// Those of readlinkat(2).
    pub fn target(&self, name: &OsStr) -> io::Result<OsString> {
        Ok(readlinkat(&self.fd, name)?)
    }

    /// Renames within this very directory, over what is there.
    ///
    /// # Errors
    /// Those of renameat(2).
    pub fn rename(&self, old: &OsStr, new: &OsStr) -> io::Result<()> {
        Ok(renameat(&self.fd, old, &self.fd, new)?)
    }

    /// Removes a name of this very directory that is no directory.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes an empty directory of this very directory.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir)?)
    }

    /// Removes a name of this very directory with everything below it, also directories that nobody may enter, however deep.
    ///
    /// # Errors
    /// Those of the system calls; the first that stands in the way.
    pub fn remove_tree(&self, name: &OsStr) -> io::Result<()> {
        let mut pending = vec![name.to_owned()];
        while let Some(name) = pending.pop() {
            self.remove_down(&name, self, 0, &mut pending)?;
        }
        Ok(())
    }

    /// Removes a name down to a depth; what lies deeper is moved to `top` and noted.
    fn remove_down(&self, name: &OsStr, top: &Dir, depth: usize, pending: &mut Vec<OsString>) -> io::Result<()> {
        match self.stat(name)? {
            None => return Ok(()),
            Some(stat) if stat.kind != Kind::Directory => return self.remove(name),
            // Whatever bits it was given: removing what is in it, or moving it, changes it.
            Some(stat) if stat.mode & 0o700 != 0o700 => self.set_mode(name, 0o700)?,
            Some(_) => {}
        }
        if depth >= DEEP {
            let moved = temporary();
            renameat(&self.fd, name, &top.fd, moved.as_os_str())?;
            pending.push(moved);
            return Ok(());
        }
        let dir = self.sub(Path::new(name))?;
        loop {
            let (names, more) = dir.list(MOST_NAMES)?;
            for child in names {
                dir.remove_down(&child, top, depth + 1, pending)?;
            }
            if !more {
                return self.remove_dir(name);
            }
        }
    }

    /// Sets the permission bits of a name of this very directory.
    ///
    /// # Errors
    /// `ELOOP` for a link, else those of the system calls.
    pub fn set_mode(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        let place = self.at(Path::new(name), OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
        if stat_of(&place)?.kind == Kind::Link {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let through = format!("/proc/self/fd/{}", place.as_raw_fd());
        Ok(nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            through.as_str(),
            Mode::from_bits_truncate(mode & 0o777),
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )?)
    }

    /// Lists its names, sorted.
    ///
    /// # Errors
    /// Those of getdents(2), and where there are more than a million.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        match self.list(MOST_NAMES)? {
            (names, false) => Ok(names),
            (_, true) => Err(io::Error::other(format!("it has more than {MOST_NAMES} entries"))),
        }
    }

    /// Lists at most `most` of its names, sorted; with whether there are more.
    fn list(&self, most: usize) -> io::Result<(Vec<OsString>, bool)> {
        let fd = self.at(Path::new("."), OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
        let mut listing = Listing::from_fd(fd)?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            if name == "." || name == ".." {
                continue;
            }
            if names.len() == most {
                return Ok((names, true));
            }
            names.push(name);
        }
        names.sort_unstable();
        Ok((names, false))
    }

    /// Gets what it is itself.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn own(&self) -> io::Result<Stat> {
        stat_of(&self.fd)
    }

    /// Gets an extended attribute of it; `None` where it has none of that name.
    pub fn attribute(&self, name: &str) -> Option<Vec<u8>> {
        super::attribute::get(&self.fd, name)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")
}

/// Removes a directory of our own with everything below it, also what an agent has made hard to remove.
///
/// # Errors
/// As [`Dir::remove_tree`]; a missing one is fine.
pub fn remove_all(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match Dir::open(parent) {
        Ok(parent) => parent.remove_tree(name),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Gets a path as text if it is text.
pub fn text(path: &Path) -> Option<&str> {
    std::str::from_utf8(path.as_os_str().as_bytes()).ok()
}

/// Checks that a path only leads down: neither absolute, nor with `..` or empty parts.
pub fn is_plain(path: &Path) -> bool {
    path.components().all(|c| matches!(c, std::path::Component::Normal(_)))
}

/// Gets the identity of a directory, by a path that is trusted.
///
/// # Errors
/// Those of stat(2).
pub fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|m| (m.dev(), m.ino()))
}

/// A name for a file that is about to take another's place.
pub fn temporary() -> OsString {
    format!(".bb-{}", uuid::Uuid::now_v7().simple()).into()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bb-beneath-{name}-{}", std::process::id()));
        let _ = remove_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn neither_links_nor_ways_out_are_followed_and_plain_files_are_read() {
        let at = scratch("links");
        std::fs::create_dir_all(at.join("top/sub")).unwrap();
        std::fs::write(at.join("secret"), "s").unwrap();
        std::fs::write(at.join("top/sub/plain"), "p").unwrap();
        std::os::unix::fs::symlink("../secret", at.join("top/link")).unwrap();
        std::os::unix::fs::symlink("sub", at.join("top/turn")).unwrap();
        nix::unistd::mkfifo(&at.join("top/fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        let top = Dir::open(&at.join("top")).unwrap();
        assert!(top.read(Path::new("sub/plain")).is_ok(), "the allowed twin");
        for bad in ["link", "turn/plain", "../secret", "fifo", "/etc/passwd", "sub"] {
            assert!(top.read(Path::new(bad)).is_err(), "{bad}");
        }
        assert_eq!(top.look(Path::new("link")).unwrap().unwrap().kind, Kind::Link);
        assert_eq!(top.look(Path::new("missing/x")).unwrap(), None);
        // With the directory as the root, what leads up stays in it.
        let inside = Dir::of(top.again().unwrap().fd, Resolve::InRoot);
        assert!(inside.read(Path::new("turn/plain")).is_ok());
        assert!(inside.read(Path::new("link")).is_err(), "there is no `secret` in the root");
        remove_all(&at).unwrap();
        assert!(!at.exists());
    }

    #[test]
    fn a_directory_that_nobody_may_enter_is_removed_all_the_same() {
        use std::os::unix::fs::PermissionsExt;
        let at = scratch("closed");
        std::fs::create_dir_all(at.join("a/b")).unwrap();
        std::fs::write(at.join("a/b/file"), "").unwrap();
        for dir in ["a/b", "a"] {
            std::fs::set_permissions(at.join(dir), std::fs::Permissions::from_mode(0o0)).unwrap();
        }
        remove_all(&at).unwrap();
        assert!(!at.exists());
    }

    #[test]
    fn a_tree_that_is_deeper_than_any_stack_is_removed() {
        let at = scratch("deep");
        let mut dir = Dir::open(&at).unwrap();
        for _ in 0..5000 {
            dir = dir.make_dir(OsStr::new("d"), 0o755).unwrap();
        }
        drop(dir.create(OsStr::new("file"), 0o600).unwrap());
        remove_all(&at).unwrap();
        assert!(!at.exists());
    }
}

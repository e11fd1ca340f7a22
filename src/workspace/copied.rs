//! What a copy was made of, path by path, and how it is known which of it the agent has not touched.
//!
//! The time of its last change alone does not tell: a directory that is moved takes along everything in it, and of that
//! nothing changes but where it lies. So the inode of each path is remembered too: untouched is what is still the same file at the
//! same path, unchanged since it was copied. Everything else has to be compared. Reads and writes one file of bb's own.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::kept::replace;
use crate::os::beneath::{Dir, Stat};

/// In the bottle's state directory. Each entry is `/INODE:CTIME/PATH` and a NUL; of an older bb it is only `PATH`.
pub(super) const LISTED: &str = "workspace.list";

/// A file as it was when it had been copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    inode: u64,
    ctime: i64,
}

/// The list while a copy is made.
#[derive(Debug, Default)]
pub(super) struct List(Vec<u8>);

impl List {
    /// Notes a path whose copy is finished: of a directory, with everything in it.
    pub(super) fn note(&mut self, path: &Path, copy: &Stat) {
        self.0.extend_from_slice(format!("/{}:{}/", copy.id.1, copy.ctime).as_bytes());
        self.0.extend_from_slice(path.as_os_str().as_bytes());
        self.0.push(0);
    }

    /// Writes it into the state directory.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(super) fn write(&self, state: &Path) -> io::Result<()> {
        replace(&state.join(LISTED), &self.0)
    }
}

/// What a copy was made of.
#[derive(Debug, Default)]
pub(super) struct Copied {
    paths: HashMap<PathBuf, Option<Mark>>,
    /// The file system of the copy: inodes count in it alone.
    device: Option<u64>,
}

impl Copied {
    /// Reads the list of the copy `agent`. Where it cannot be read nothing counts as copied: everything is compared.
    pub(super) fn read(state: &Path, agent: &Dir) -> Copied {
        let bytes = fs::read(state.join(LISTED)).unwrap_or_default();
        let paths = bytes.split(|b| *b == 0).filter(|entry| !entry.is_empty()).map(entry).collect();
        Copied { paths, device: agent.own().ok().map(|own| own.id.0) }
    }

    /// Tells whether something at this path was copied.
    pub(super) fn had(&self, path: &Path) -> bool {
        self.paths.contains_key(path)
    }

    /// Tells whether what lies at a path now is what was copied there, and unchanged.
    pub(super) fn is_untouched(&self, path: &Path, now: &Stat) -> bool {
        let mark = Mark { inode: now.id.1, ctime: now.ctime };
        self.device == Some(now.id.0) && self.paths.get(path) == Some(&Some(mark))
    }
}

fn entry(bytes: &[u8]) -> (PathBuf, Option<Mark>) {
    let marked = || {
        let rest = bytes.strip_prefix(b"/")?;
        let end = rest.iter().position(|b| *b == b'/')?;
        let (inode, ctime) = std::str::from_utf8(&rest[..end]).ok()?.split_once(':')?;
        let mark = Mark { inode: inode.parse().ok()?, ctime: ctime.parse().ok()? };
        Some((PathBuf::from(OsStr::from_bytes(&rest[end + 1..])), Some(mark)))
    };
    marked().unwrap_or_else(|| (PathBuf::from(OsStr::from_bytes(bytes)), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untouched_is_the_same_file_at_the_same_path_and_an_older_list_vouches_for_nothing() {
        let at = std::env::temp_dir().join(format!("bb-copied-{}", std::process::id()));
        let _ = fs::remove_dir_all(&at);
        fs::create_dir_all(at.join("copy/a")).unwrap();
        fs::create_dir_all(at.join("copy/b")).unwrap();
        fs::write(at.join("copy/a/x"), "a").unwrap();
        fs::write(at.join("copy/b/x"), "b").unwrap();
        let agent = Dir::open(&at.join("copy")).unwrap();
        let stat = |path: &str| agent.look(Path::new(path)).unwrap().unwrap();
        let mut list = List::default();
        for path in ["a/x", "b/x", "a", "b"] {
            list.note(Path::new(path), &stat(path));
        }
        list.write(&at).unwrap();
        let copied = Copied::read(&at, &agent);
        let untouched = |path: &str| copied.is_untouched(Path::new(path), &stat(path));
        assert!(untouched("a/x") && untouched("b/x") && untouched("a"));
        // Of the files in a directory that is moved nothing changes.
        fs::rename(at.join("copy/a"), at.join("copy/c")).unwrap();
        fs::rename(at.join("copy/b"), at.join("copy/a")).unwrap();
        assert!(!untouched("a/x") && !untouched("c/x") && !untouched("a") && !untouched("c"));
        assert!(copied.had(Path::new("b/x")) && !copied.had(Path::new("c/x")));
        fs::rename(at.join("copy/a"), at.join("copy/b")).unwrap();
        assert!(untouched("b/x"), "it is where it was");
        fs::write(at.join(LISTED), b"b\0b/x\0").unwrap();
        let older = Copied::read(&at, &agent);
        assert!(older.had(Path::new("b/x")) && !older.is_untouched(Path::new("b/x"), &stat("b/x")));
        fs::remove_dir_all(&at).unwrap();
    }
}

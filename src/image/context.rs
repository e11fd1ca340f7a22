//! The context of a named Dockerfile: the directory that it lies in, as an archive.
//!
//! No link is followed, out or in; `.git` stays out, and what a `.dockerignore` names; what is no file, directory or link stays
//! out. Bounded in size and number: a directory that was not meant is refused before an engine gets it.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::ignore::Ignore;
use crate::bottle::docker::image::Tar;
use crate::error::{Error, Kind, Result};
use crate::os::beneath::{Dir, Kind as What};

/// The file of patterns, and how the name of one ends that is for one Dockerfile.
const IGNORE: &str = ".dockerignore";

/// Largest context, bytes.
const MOST_BYTES: u64 = 64 << 20;

/// Most entries of one.
const MOST_ENTRIES: usize = 20_000;

/// Most entries that are looked at, with those that are left out.
const MOST_LOOKED_AT: usize = 500_000;

/// Deepest directory.
const DEEPEST: usize = 64;

/// Largest file of patterns.
const MOST_PATTERNS: u64 = 64 << 10;

/// Packs a directory; `dockerfile` is the name of the Dockerfile in it, which a build has to have.
///
/// # Errors
/// `usage` where it is too large or cannot be read, or where what is to stay out cannot be told.
pub(super) fn of(directory: &Path, dockerfile: &str) -> Result<Tar> {
    let top = Dir::open(directory).map_err(|e| unreadable(directory, &e))?;
    let ignore = patterns(&top, directory, dockerfile)?;
    let mut packer = Packer {
        ignore,
        dockerfile: Path::new(dockerfile),
        unsent: names_of_patterns(dockerfile),
        bytes: MOST_BYTES,
        entries: MOST_ENTRIES,
        looked_at: MOST_LOOKED_AT,
        above: Vec::new(),
        tar: Tar::default(),
    };
    packer.pack(&top, Path::new(""), 0)?;
    Ok(packer.tar)
}

/// Names of the files of patterns, the one that goes before first. None of them is in the context: an engine that read it
/// would take away once more.
fn names_of_patterns(dockerfile: &str) -> [String; 2] {
    [format!("{dockerfile}{IGNORE}"), IGNORE.to_owned()]
}

/// Reads what stays out: the Dockerfile's own file of patterns goes before the one that counts for all.
fn patterns(top: &Dir, directory: &Path, dockerfile: &str) -> Result<Ignore> {
    for name in names_of_patterns(dockerfile) {
        let path = Path::new(&name);
        let place = directory.join(path);
        let wrong = |e: &dyn std::fmt::Display| {
            Error::new(Kind::Usage, format!("what stays out of the context cannot be read: {e}"))
                .at(place.display().to_string())
                .hint(format!("make it a text file of at most {} KiB, no link, or remove it", MOST_PATTERNS >> 10))
        };
        if top.look(path).map_err(|e| wrong(&e))?.is_none() {
            continue;
        }
        let (file, _) = top.read(path).map_err(|e| wrong(&e))?;
        let mut text = String::new();
        file.take(MOST_PATTERNS + 1).read_to_string(&mut text).map_err(|e| wrong(&e))?;
        if text.len() as u64 > MOST_PATTERNS {
            return Err(wrong(&"it is too large"));
        }
        return Ignore::parse(&text).map_err(|e| e.at(place.display().to_string()));
    }
    Ok(Ignore::default())
}

fn unreadable(path: &Path, e: &std::io::Error) -> Error {
    Error::new(Kind::Usage, format!("the context of the Dockerfile cannot be read: {}: {e}", path.display()))
        .hint("make what lies beside the Dockerfile readable, or move the Dockerfile into a directory of its own")
}

fn too_large() -> Error {
    let message = format!(
        "the directory of the Dockerfile, all of which is its context, has more than {} MiB or {MOST_ENTRIES} entries",
        MOST_BYTES >> 20
    );
    Error::new(Kind::Usage, message).hint("move the Dockerfile into a directory of its own, with what it copies")
}

/// A context that is being packed.
struct Packer<'a> {
    ignore: Ignore,
    dockerfile: &'a Path,
    unsent: [String; 2],
    /// What is left of the bounds.
    bytes: u64,
    entries: usize,
    looked_at: usize,
    /// Directories that are left out by themselves, on the way to what is looked at: the first thing in them that is not
    /// brings them in.
    above: Vec<(PathBuf, u32)>,
    tar: Tar,
}

impl Packer<'_> {
    fn pack(&mut self, dir: &Dir, at: &Path, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(too_large());
        }
        for name in dir.names().map_err(|e| unreadable(at, &e))? {
            let path = at.join(&name);
            let wrong = |e: std::io::Error| unreadable(&path, &e);
            if name == ".git" || depth == 0 && self.unsent.iter().any(|unsent| name == unsent.as_str()) {
                continue;
            }
            self.looked_at = self.looked_at.checked_sub(1).ok_or_else(too_large)?;
            let Some(stat) = dir.stat(&name).map_err(wrong)? else { continue };
            let text = path.to_string_lossy();
            let stays_out = path != self.dockerfile && self.ignore.has(&text);
            let mode = stat.mode & 0o777;
            match stat.kind {
                What::Directory if stays_out && !self.ignore.may_take_back_below(&text) => {}
                What::Directory => {
                    let above = self.above.len();
                    self.above.push((path.clone(), mode));
                    if !stays_out {
                        self.bring_in()?;
                    }
                    let sub = dir.sub(Path::new(&name)).map_err(wrong)?;
                    self.pack(&sub, &path, depth + 1)?;
                    self.above.truncate(above);
                }
                _ if stays_out => {}
                What::Link => {
                    self.bring_in()?;
                    self.count()?;
                    self.tar.link(path.as_os_str().as_bytes(), dir.target(&name).map_err(wrong)?.as_bytes());
                }
                What::File => {
                    self.bring_in()?;
                    self.count()?;
                    let (file, _) = dir.read(Path::new(&name)).map_err(wrong)?;
                    let mut content = Vec::new();
                    file.take(self.bytes + 1).read_to_end(&mut content).map_err(wrong)?;
                    self.bytes = self.bytes.checked_sub(content.len() as u64).ok_or_else(too_large)?;
                    self.tar.file(path.as_os_str().as_bytes(), mode, &content);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the directories on the way that are not in the context yet.
    fn bring_in(&mut self) -> Result<()> {
        for (path, mode) in std::mem::take(&mut self.above) {
            self.count()?;
            self.tar.directory(path.as_os_str().as_bytes(), mode);
        }
        Ok(())
    }

    fn count(&mut self) -> Result<()> {
        self.entries = self.entries.checked_sub(1).ok_or_else(too_large)?;
        Ok(())
    }
}

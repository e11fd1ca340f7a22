//! The context of a named Dockerfile: the directory that it lies in, as an archive.
//!
//! No link is followed, out or in; `.git` stays out; what is no file, directory or link stays out. Bounded in size and
//! number: a directory that was not meant is refused before an engine gets it.

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::bottle::docker::image::Tar;
use crate::error::{Error, Kind, Result};
use crate::os::beneath::{Dir, Kind as What};

/// Largest context, bytes.
const MOST_BYTES: u64 = 64 << 20;

/// Most entries of one.
const MOST_ENTRIES: usize = 20_000;

/// Deepest directory.
const DEEPEST: usize = 64;

/// What is left of the bounds.
struct Left {
    bytes: u64,
    entries: usize,
}

/// Packs a directory.
///
/// # Errors
/// `usage` where it is too large or cannot be read.
pub(super) fn of(directory: &Path) -> Result<Tar> {
    let top = Dir::open(directory).map_err(|e| unreadable(directory, &e))?;
    let mut tar = Tar::default();
    pack(&top, Path::new(""), 0, &mut Left { bytes: MOST_BYTES, entries: MOST_ENTRIES }, &mut tar)?;
    Ok(tar)
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

fn pack(dir: &Dir, at: &Path, depth: usize, left: &mut Left, tar: &mut Tar) -> Result<()> {
    if depth > DEEPEST {
        return Err(too_large());
    }
    for name in dir.names().map_err(|e| unreadable(at, &e))? {
        let path = at.join(&name);
        let wrong = |e: std::io::Error| unreadable(&path, &e);
        if name == ".git" {
            continue;
        }
        left.entries = left.entries.checked_sub(1).ok_or_else(too_large)?;
        let Some(stat) = dir.stat(&name).map_err(wrong)? else { continue };
        let entry = path.as_os_str().as_bytes();
        match stat.kind {
            What::Directory => {
                tar.directory(entry, stat.mode & 0o777);
                let sub = dir.sub(Path::new(&name)).map_err(wrong)?;
                pack(&sub, &path, depth + 1, left, tar)?;
            }
            What::Link => tar.link(entry, dir.target(&name).map_err(wrong)?.as_bytes()),
            What::File => {
                let (file, stat) = dir.read(Path::new(&name)).map_err(wrong)?;
                let mut content = Vec::new();
                file.take(left.bytes + 1).read_to_end(&mut content).map_err(wrong)?;
                left.bytes = left.bytes.checked_sub(content.len() as u64).ok_or_else(too_large)?;
                tar.file(entry, stat.mode & 0o777, &content);
            }
            _ => {}
        }
    }
    Ok(())
}

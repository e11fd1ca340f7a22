//! What is remembered of a workspace that is a layer or a copy, in the bottle's state directory, and when it is removed.
//!
//! The state of a bottle that ended with changes which nobody has applied is kept until somebody removes it. Must not look at
//! what the bottle was for.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::copied::LISTED;
use super::{applied, changes, session};
use crate::api::WorkspaceMode;
use crate::error::{Error, Kind, Result};
use crate::os::beneath::{self, Dir};

const METADATA: &str = "metadata.json";

/// What a bottle has made in its workspace on the host, as JSON: a list of paths. In the state of every bottle, and so what says that a
/// directory is one.
pub const PLACEHOLDERS: &str = "placeholders.json";
/// The log of what a bottle wrote, which is in older states as well.
const LOG: &str = "output.log";

/// A layer: a directory of the agent's with `upper` and `work` in it. Whoever mounts it has to be able to enter it.
pub const LAYER: &str = "layer";
/// What the agent wrote, in the layer.
pub const UPPER: &str = "upper";
/// What the kernel needs beside it.
pub const WORK: &str = "work";
/// The copy.
pub const COPY: &str = "copy";

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Version of this form.
    pub v: u32,
    /// The bottle.
    pub slug: String,
    /// Its launch: a name may be used again.
    pub id: String,
    /// How the workspace came in; never `mount`.
    pub mode: WorkspaceMode,
    /// The directory on the host.
    pub workspace: PathBuf,
    /// Its device and inode: another directory at that path is another workspace.
    pub identity: (u64, u64),
    /// When the layer or the copy was ready, by the clock of the file system, nanoseconds since the epoch.
    pub base: i64,
    /// The bottle has ended with changes that are not applied.
    #[serde(default)]
    pub kept: bool,
}

/// One holds it who changes or removes what is kept: two at once would take it from under each other.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for one's turn to change what is kept.
pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metadata {
    /// Reads what is remembered in a state directory; `None` where its workspace was mounted.
    pub fn read(state: &Path) -> Option<Metadata> {
        let text = fs::read(state.join(METADATA)).ok()?;
        serde_json::from_slice(&text).ok().filter(|m: &Metadata| m.v == 1 && m.mode != WorkspaceMode::Mount)
    }

    /// Writes it, in one step.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn write(&self, state: &Path) -> io::Result<()> {
        replace(&state.join(METADATA), &serde_json::to_vec(self)?)
    }

    /// Opens the layer or the copy.
    ///
    /// # Errors
    /// `internal` where it is not there.
    pub fn agent_side(&self, state: &Path) -> Result<Dir> {
        let dir = if self.mode == WorkspaceMode::Overlay { state.join(LAYER).join(UPPER) } else { state.join(COPY) };
        Dir::open(&dir).map_err(|e| Error::internal(e.to_string()).at(dir.display().to_string()))
    }

    /// Opens the workspace, if it is still the same directory.
    ///
    /// # Errors
    /// `workspace_unsafe` where it is gone, or another one.
    pub fn host_side(&self) -> Result<Dir> {
        let fail = |what: String| {
            Error::new(Kind::WorkspaceUnsafe, what)
                .at(self.workspace.display().to_string())
                .hint(format!("put the directory back; what the agent changed stays until `bb rm {}`", self.slug))
        };
        let dir = Dir::open(&self.workspace).map_err(|e| fail(format!("the workspace is gone: {e}")))?;
        let own = dir.own().map_err(|e| fail(format!("the workspace cannot be looked at: {e}")))?;
        if own.id != self.identity {
            return Err(fail("another directory lies where the workspace was".to_owned()));
        }
        Ok(dir)
    }
}

/// Writes a file in one step: a reader sees the old text or the new.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new, path)
}

/// Tells whether the state of an ended bottle is kept.
pub fn is_kept(state: &Path) -> bool {
    Metadata::read(state).is_some_and(|m| m.kept) || session::is_kept(state) || is_unreadable(state)
}

/// Tells whether something is remembered that this bb cannot read: it may have been written by a newer one, or the disk be
/// at fault. Nothing of it is removed but by whoever says so.
fn is_unreadable(state: &Path) -> bool {
    let there = |name: &str| state.join(name).symlink_metadata().is_ok();
    there(METADATA) && Metadata::read(state).is_none() || session::is_unreadable(state)
}

/// Tells whether the state that is kept is that of the launch `id`.
pub fn is_kept_of(state: &Path, id: &str) -> bool {
    Metadata::read(state).is_some_and(|m| m.kept && m.id == id) || session::is_kept_of(state, id)
}

/// Decides whether the state of a bottle that has ended is kept: it is where the agent has changed something that is not in
/// the workspace. What cannot be looked at is kept. Where nothing is, the layer is removed.
pub fn settle(state: &Path) -> bool {
    let _turn = turn();
    settle_in_turn(state)
}

/// [`settle`], for whoever has the turn.
pub(super) fn settle_in_turn(state: &Path) -> bool {
    let Some(metadata) = Metadata::read(state) else { return false };
    if changes::any(&metadata, state).unwrap_or(true) {
        if !metadata.kept
            && let Err(e) = (Metadata { kept: true, ..metadata }).write(state)
        {
            tracing::error!(state = %state.display(), "keeping what the agent changed: {e}");
        }
        return true;
    }
    for name in [LAYER, COPY] {
        let _ = beneath::remove_all(&state.join(name));
    }
    for name in [METADATA, applied::FILE, LISTED] {
        let _ = fs::remove_file(state.join(name));
    }
    false
}

/// Removes the state of a bottle that has ended, unless it is kept. Returns whether it is.
pub fn forget(state: &Path) -> bool {
    let _turn = turn();
    // What should have been kept and could not be written down as such is there still, and is kept all the same.
    if is_kept(state) || session::is_there(state) || settle_in_turn(state) {
        return true;
    }
    remove_in_turn(state);
    false
}

/// Marks a directory as the state of a bottle.
///
/// # Errors
/// Those of writing there.
pub fn mark(state: &Path) -> io::Result<()> {
    let marker = state.join(PLACEHOLDERS);
    if marker.symlink_metadata().is_ok() { Ok(()) } else { fs::write(marker, "[]") }
}

/// Tells whether `dir` is the state of a bottle: a directory, not a link, that is marked as one, or has just been made. Anything else
/// that lies among them is somebody's.
pub fn is_of_bottle(dir: &Path) -> bool {
    let named =
        dir.file_name().and_then(|name| name.to_str()).is_some_and(|name| crate::name::Name::parse(name).is_ok());
    let there = |name: &str| dir.join(name).symlink_metadata().is_ok_and(|meta| meta.is_file());
    named
        && dir.symlink_metadata().is_ok_and(|meta| meta.is_dir())
        && (there(PLACEHOLDERS) || there(LOG) || fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none()))
}

/// Removes the state of a bottle whose end nobody has seen, unless the agent has changed something: then it is kept.
pub fn sweep(state: &Path) -> bool {
    let _turn = turn();
    // What is kept is not looked through again at each start of a controller.
    if is_kept(state) {
        return true;
    }
    // Nobody saw its end, so it was none of its own.
    let session = session::settle_in_turn(state, true, false);
    if settle_in_turn(state) || session {
        return true;
    }
    remove_in_turn(state);
    false
}

/// Removes the state of a bottle, kept or not.
pub fn remove(state: &Path) {
    let _turn = turn();
    remove_in_turn(state);
}

fn remove_in_turn(state: &Path) {
    if let Err(e) = beneath::remove_all(state) {
        tracing::error!(state = %state.display(), "removing the state of a bottle: {e}");
    }
}

//! A copy of a book while it is written: SQLite's own backup, of one snapshot, into a file that appears when it is whole.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::files::beside;

/// Writes the copy; gets its length. The file is the owner's alone.
///
/// # Errors
/// Where `to` exists already, and what the operating system or SQLite say.
pub(super) fn backup(from: &Connection, to: &Path) -> io::Result<u64> {
    let sql = |e: rusqlite::Error| io::Error::other(e.to_string());
    // A name that nobody has: two copies at once are two files.
    let partial = beside(to, &format!(".{}.partial", uuid::Uuid::now_v7()));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    let copied = (|| {
        let mut copy = Connection::open(&partial).map_err(sql)?;
        {
            let backup = Backup::new(from, &mut copy).map_err(sql)?;
            // All pages in one step are one snapshot; whoever writes meanwhile does not wait.
            match backup.step(-1).map_err(sql)? {
                StepResult::Done => {}
                _ => return Err(io::Error::other("the ledger is locked")),
            }
        }
        // One file and no log beside it.
        copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(sql)?;
        drop(copy);
        let file = OpenOptions::new().read(true).open(&partial)?;
        file.sync_all()?;
        // Unlike a rename, a link replaces nothing. Where the file system has none, an empty file holds the place.
        if let Err(error) = fs::hard_link(&partial, to) {
            if error.kind() == io::ErrorKind::AlreadyExists {
                return Err(error);
            }
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
            fs::rename(&partial, to)?;
        }
        let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        OpenOptions::new().read(true).open(dir)?.sync_all()?;
        Ok(file.metadata()?.len())
    })();
    let _ = fs::remove_file(&partial);
    copied
}

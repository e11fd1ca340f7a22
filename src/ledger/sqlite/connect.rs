//! The writer's connection: how it is opened and set up.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::errors;
use super::schema::{self, Trouble};
use crate::ledger::LedgerError;
use crate::types::Durability;

/// How long SQLite waits for a lock that another process holds; less than any caller's patience.
pub(super) const BUSY: Duration = Duration::from_secs(4);

/// Flags of a connection that writes; the file exists.
pub(super) fn open_flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// Opens the writer's connection. A database of a newer bb is recognised before anything is changed.
pub(super) fn connect(path: &Path, durability: Durability) -> Result<Connection, Trouble> {
    let conn = Connection::open_with_flags(path, open_flags())?;
    conn.busy_timeout(BUSY)?;
    conn.set_prepared_statement_cache_capacity(64);
    schema::check(&conn)?;
    // Two processes that switch to WAL at once: SQLite tells one of them "locked" without waiting.
    let give_up = Instant::now() + BUSY;
    loop {
        match conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0)) {
            Ok(mode) if mode == "wal" => break,
            Ok(mode) => {
                let text = format!("no write-ahead log is possible here (journal mode {mode})");
                return Err(Trouble::Ledger(LedgerError::Unavailable(text)));
            }
            Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e.into()),
        }
    }
    let level = match durability {
        Durability::Normal => "NORMAL",
        Durability::Power => "FULL",
    };
    conn.pragma_update(None, "synchronous", level)?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "mmap_size", 0)?;
    conn.pragma_update(None, "cache_size", -8192)?;
    conn.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    // The sync thread does the checkpoints; this one is for when it cannot keep up.
    conn.pragma_update(None, "wal_autocheckpoint", 16_384)?;
    Ok(conn)
}

/// Turns what went wrong with a schema into an answer.
pub(super) fn trouble(e: Trouble, path: &Path) -> LedgerError {
    match e {
        Trouble::Ledger(e) => e,
        Trouble::Sqlite(e) => errors::map(&e, path),
    }
}

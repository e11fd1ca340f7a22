//! From SQLite's errors to the ledger's.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::ledger::LedgerError;

/// Less free space than this, and an input/output error is taken for a full disk.
const NO_SPACE: u64 = 64 * 1024;

/// Turns an error of SQLite into one of the ledger's. `path` is the database: an input/output error on a file system
/// without space is a full disk (SQLite says so for some of its files only).
pub(super) fn map(e: &rusqlite::Error, path: &Path) -> LedgerError {
    let text = e.to_string();
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => LedgerError::Full(text),
        Some(ErrorCode::SystemIoFailure) if is_full(path) => LedgerError::Full(text),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => LedgerError::Corrupt(text),
        Some(ErrorCode::ConstraintViolation) => LedgerError::Misuse(text),
        _ => LedgerError::Unavailable(text),
    }
}

/// Tells whether the file system of `path` has no space left.
fn is_full(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path.parent().unwrap_or(path))
        .is_ok_and(|s| s.blocks_available().saturating_mul(s.fragment_size()) < NO_SPACE)
}

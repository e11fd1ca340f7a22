//! From SQLite's errors to the ledger's.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::ledger::LedgerError;
use crate::os::file_system::is_full;

/// Turns an error of SQLite into one of the ledger's. `path` is the database: an input/output error on a file system
/// without space is a full disk (SQLite says so for some of its files only).
pub(super) fn map(e: &rusqlite::Error, path: &Path) -> LedgerError {
    let text = e.to_string();
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => LedgerError::Full(text),
        Some(ErrorCode::SystemIoFailure) if is_full(path.parent().unwrap_or(path)) => LedgerError::Full(text),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => LedgerError::Corrupt(text),
        Some(ErrorCode::ConstraintViolation) => LedgerError::Misuse(text),
        _ => LedgerError::Unavailable(text),
    }
}

//! The ledger's files: on which file system they may lie, and who may read them.
//!
//! SQLite's locks and shared memory cannot be trusted over a network, so file systems that are not known to be on this
//! machine are refused ([`crate::os::file_system`]).

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::ledger::LedgerError;
use crate::os::file_system;

/// Refuses a directory on a network file system.
///
/// # Errors
/// [`LedgerError::NetworkFs`], or [`LedgerError::Unavailable`] where the directory cannot be looked at.
pub(super) fn check_file_system(dir: &Path) -> Result<(), LedgerError> {
    let unavailable = |e: &dyn std::fmt::Display| LedgerError::Unavailable(format!("{}: {e}", dir.display()));
    match file_system::remote(dir).map_err(|e| unavailable(&e))? {
        Some(name) => Err(LedgerError::NetworkFs(format!("{name}: {}", dir.display()))),
        None => Ok(()),
    }
}

/// Gets the path of the file beside the database that ends in `suffix` (`-wal`, `-shm`).
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes the database file if there is none, and gives it and what stands beside it to the owner alone (0600). SQLite
/// gives `-wal` and `-shm` the mode of the database, whatever the umask is.
///
/// # Errors
/// As the operating system says.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    for file in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")] {
        match fs::metadata(&file) {
            Ok(meta) if meta.permissions().mode() & 0o777 != 0o600 => {
                fs::set_permissions(&file, Permissions::from_mode(0o600))?;
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_the_tests_passes() {
        assert_eq!(check_file_system(&std::env::temp_dir()), Ok(()));
        assert!(matches!(check_file_system(Path::new("/does/not/exist")), Err(LedgerError::Unavailable(_))));
    }
}

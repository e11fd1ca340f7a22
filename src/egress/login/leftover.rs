//! What a write into a login's file leaves beside it where bb was killed in the middle: a file with real tokens in it.
//!
//! Removes nothing that it does not know for bb's own.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// One that is younger may be another bb's that is at work.
const OLD: Duration = Duration::from_secs(60);
/// How many names are looked at.
const MOST: usize = 10_000;

fn prefix(path: &Path) -> Option<String> {
    Some(format!(".{}.bb-", path.file_name()?.to_string_lossy()))
}

/// Names a file beside `path` for its next text.
pub fn beside(path: &Path) -> Option<PathBuf> {
    Some(path.with_file_name(format!("{}{}", prefix(path)?, uuid::Uuid::now_v7())))
}

/// Removes those that lie beside `path`, which is `owner`'s.
pub fn remove(path: &Path, owner: u32) {
    let (Some(prefix), Some(parent)) = (prefix(path), path.parent()) else { return };
    let Ok(entries) = parent.read_dir() else { return };
    let now = SystemTime::now();
    for entry in entries.take(MOST).flatten() {
        let name = entry.file_name();
        let named = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        // A name that is a link says what the link is.
        let meta = named.filter(|id| uuid::Uuid::try_parse(id).is_ok()).and_then(|_| entry.metadata().ok());
        let Some(meta) = meta.filter(std::fs::Metadata::is_file) else { continue };
        let own = meta.uid() == owner || meta.uid() == nix::unistd::geteuid().as_raw();
        let old = meta.modified().is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > OLD));
        if own && old && std::fs::remove_file(entry.path()).is_ok() {
            tracing::info!(file = %path.display(), "what a write that broke off had left beside it was removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_files_of_bb_itself_are_removed() {
        let dir = std::env::temp_dir().join(format!("bb-leftover-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&dir).unwrap();
        let (path, other) = (dir.join("login.json"), dir.join("other.json"));
        let make = |path: &Path, age| {
            let file = std::fs::File::create(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        };
        let stale = [beside(&path).unwrap(), beside(&path).unwrap()];
        stale.iter().for_each(|stale| make(stale, 90));
        let kept = [beside(&other).unwrap(), dir.join(".login.json.bb-notes"), dir.join("login.json"), dir.join(".x")];
        kept.iter().for_each(|kept| make(kept, 9000));
        let (young, link, folder) = (beside(&path).unwrap(), beside(&path).unwrap(), beside(&path).unwrap());
        make(&young, 0);
        std::os::unix::fs::symlink(&kept[0], &link).unwrap();
        std::fs::create_dir(&folder).unwrap();
        remove(&path, nix::unistd::geteuid().as_raw());
        assert!(stale.iter().all(|stale| !stale.exists()));
        for kept in kept.iter().chain([&young, &link, &folder]) {
            assert!(kept.symlink_metadata().is_ok(), "{}", kept.display());
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

//! What has been brought over into a workspace so far: when each path of the host's got changed by us, and which are gone by us.
//!
//! By it a change of the host's own is told from one of ours, and what an agent has back as it was from what it never touched.
//! Written down before anything is done as well: whoever is killed in between must not leave the host changed and nothing said.
//! Reads and writes one file of bb's own.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::kept::replace;
use crate::os::beneath;

/// In the bottle's state directory: times by path. A path with a `/` at its end stands for all that lay in the directory there.
pub(super) const FILE: &str = "applied.json";

/// In place of a time: it was removed.
const REMOVED: i64 = i64::MIN;
/// In place of a time: it may have been brought over.
const TRIED: i64 = i64::MIN + 1;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Applied(BTreeMap<String, i64>);

impl Applied {
    /// Reads it; nothing where there is none.
    pub(super) fn read(state: &Path) -> Applied {
        Applied(serde_json::from_slice(&fs::read(state.join(FILE)).unwrap_or_default()).unwrap_or_default())
    }

    /// Writes it, in one step.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(super) fn write(&self, state: &Path) -> io::Result<()> {
        replace(&state.join(FILE), &serde_json::to_vec(&self.0)?)
    }

    /// Notes that a path is about to be brought over, and with it all that lies in the host's directory there would go.
    pub(super) fn tries(&mut self, path: &str, whole: bool) {
        self.0.entry(path.to_owned()).or_insert(TRIED);
        if whole {
            self.0.insert(format!("{path}/"), REMOVED);
        }
    }

    /// Notes what became of the host's side: its time, or none where it is gone; `whole` as in [`Applied::tries`].
    pub(super) fn did(&mut self, path: &str, ctime: Option<i64>, whole: bool) {
        if whole {
            let below = format!("{path}/");
            let gone: Vec<String> = self
                .0
                .range(below.clone()..)
                .map(|(key, _)| key)
                .take_while(|k| k.starts_with(&below))
                .cloned()
                .collect();
            for key in gone {
                self.0.remove(&key);
            }
            self.0.insert(below, REMOVED);
        }
        self.0.insert(path.to_owned(), ctime.unwrap_or(REMOVED));
    }

    fn at(&self, path: &Path) -> Option<i64> {
        beneath::text(path).and_then(|path| self.0.get(path)).copied()
    }

    /// Tells whether this is the time that a path of the host's got from us.
    pub(super) fn is_ours(&self, path: &Path, ctime: i64) -> bool {
        self.at(path) == Some(ctime)
    }

    /// Tells whether a path was brought over and not removed since by us.
    pub(super) fn has_brought(&self, path: &Path) -> bool {
        self.at(path).is_some_and(|at| at != REMOVED && at != TRIED)
    }

    /// Tells whether a path is gone by us, itself or with a directory that it lay in.
    pub(super) fn has_removed(&self, path: &Path) -> bool {
        self.at(path) == Some(REMOVED) || !self.has_brought(path) && self.is_below_removed(path)
    }

    /// Tells whether the host's side of a path may be what we made of it.
    pub(super) fn has_touched(&self, path: &Path) -> bool {
        self.at(path).is_some() || self.is_below_removed(path)
    }

    fn is_below_removed(&self, path: &Path) -> bool {
        let marked = |p: &Path| beneath::text(p).is_some_and(|p| self.0.contains_key(&format!("{p}/")));
        !self.0.is_empty() && path.ancestors().skip(1).any(marked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_a_directory_that_is_gone_is_gone_by_us_until_it_is_brought_again() {
        let p = Path::new;
        let mut applied = Applied::default();
        applied.did("a/new", Some(7), false);
        applied.did("a.txt", Some(8), false);
        assert!(applied.has_brought(p("a/new")) && applied.is_ours(p("a/new"), 7) && !applied.has_touched(p("a/old")));
        applied.tries("a", true);
        assert!(applied.has_touched(p("a/old")) && !applied.has_brought(p("a")));
        applied.did("a", None, true);
        for gone in ["a", "a/new", "a/old", "a/deep/er"] {
            assert!(applied.has_removed(p(gone)) && !applied.has_brought(p(gone)), "{gone}");
        }
        assert!(!applied.has_touched(p("ab")) && applied.has_brought(p("a.txt")));
        // Some of it comes back: the rest is still what we removed.
        applied.did("a/old", Some(9), false);
        applied.did("a", Some(9), false);
        assert!(
            !applied.has_removed(p("a")) && !applied.has_removed(p("a/old")) && applied.has_removed(p("a/deep/er"))
        );
    }
}

//! Which paths a rule names: those that were asked for, less what looks like an id, and a directory in place of many of its
//! entries. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::{PathKind, PathRule};

/// Entries of one directory that are named one by one.
const MOST: usize = 4;
/// The same of the root, which stands for everything.
const MOST_AT_ROOT: usize = 16;

/// Gets the rules for `paths`, which are in normal form; none for every path.
pub(super) fn merged(paths: &BTreeSet<&str>) -> Vec<PathRule> {
    let mut exact: BTreeSet<String> = BTreeSet::new();
    let mut prefixes: BTreeSet<String> = BTreeSet::new();
    for path in paths {
        match before_an_id(path) {
            // What begins with an id has nothing before it that would be less than everything.
            Some("") | None => exact.insert((*path).to_owned()),
            Some(before) => prefixes.insert(before.to_owned()),
        };
    }
    loop {
        let above: Vec<String> = prefixes.iter().cloned().collect();
        let covered = |path: &str| above.iter().any(|prefix| prefix != path && is_below(path, prefix));
        exact.retain(|path| !covered(path) && !above.contains(path));
        prefixes.retain(|path| !covered(path));
        let mut entries: BTreeMap<&str, usize> = BTreeMap::new();
        for path in exact.iter().chain(&prefixes) {
            *entries.entry(parent(path)).or_default() += 1;
        }
        let full = |(dir, count): &(&&str, &usize)| **count > if dir.is_empty() { MOST_AT_ROOT } else { MOST };
        // The deepest first: what is merged there may be enough.
        match entries
            .iter()
            .filter(full)
            .max_by_key(|(dir, _)| dir.matches('/').count())
            .map(|(dir, _)| (*dir).to_owned())
        {
            Some(dir) if dir.is_empty() => return vec![],
            Some(dir) => {
                prefixes.insert(dir);
            }
            None => break,
        }
    }
    let rule = |kind| move |value| PathRule { kind, value };
    let exact = exact.into_iter().map(rule(PathKind::Exact));
    let mut rules: Vec<PathRule> = exact.chain(prefixes.into_iter().map(rule(PathKind::Prefix))).collect();
    rules.sort_by(|one, other| one.value.cmp(&other.value));
    rules
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Gets what stands before the first segment that looks like an id or a secret, which would be another one the next time, and
/// should not stand in a file.
fn before_an_id(path: &str) -> Option<&str> {
    let mut at = 0;
    for segment in path.split('/').skip(1) {
        if is_id(segment) {
            return path.get(..at);
        }
        at += 1 + segment.len();
    }
    None
}

fn is_id(segment: &str) -> bool {
    let count = |what: fn(&char) -> bool| segment.chars().filter(what).count();
    let (digits, letters) = (count(char::is_ascii_digit), count(char::is_ascii_alphabetic));
    let hexadecimal = segment.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let upper_and_lower =
        segment.chars().any(|c| c.is_ascii_uppercase()) && segment.chars().any(|c| c.is_ascii_lowercase());
    (segment.len() >= 5 && digits == segment.len())
        || (segment.len() >= 12 && hexadecimal && digits > 0)
        || (segment.len() >= 20 && digits >= 3 && letters >= 3 && (upper_and_lower || digits >= 6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(paths: &[&str]) -> Vec<String> {
        let word = |rule: PathRule| match rule.kind {
            PathKind::Prefix => format!("{}…", rule.value),
            _ => rule.value,
        };
        merged(&paths.iter().copied().collect()).into_iter().map(word).collect()
    }

    #[test]
    fn few_are_named_and_many_become_their_directory() {
        assert_eq!(rules(&["/b", "/a/x", "/a/y"]), ["/a/x", "/a/y", "/b"]);
        assert_eq!(rules(&["/a/1", "/a/2", "/a/3", "/a/4", "/a/5", "/b"]), ["/a…", "/b"]);
        assert_eq!(rules(&["/a/b/1", "/a/b/2", "/a/b/3", "/a/b/4", "/a/b/5", "/a/b", "/a/c"]), ["/a/b…", "/a/c"]);
        let many: Vec<String> = (0..17).map(|n| format!("/p{n}")).collect();
        assert!(rules(&many.iter().map(String::as_str).collect::<Vec<_>>()).is_empty(), "everything");
        assert_eq!(rules(&["/"]), ["/"]);
    }

    #[test]
    fn ids_and_secrets_do_not_stand_in_a_rule() {
        for id in ["12345", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "ghp_AbCd0123456789EfGhIjKlMnOpQr", "deadbeef0123"]
        {
            assert_eq!(rules(&[&format!("/api/items/{id}/parts")]), ["/api/items…"], "{id}");
        }
        assert_eq!(rules(&["/serde_json/1.0.140/serde_json"]), ["/serde_json/1.0.140/serde_json"]);
        assert_eq!(rules(&["/v1beta/models-of-the-house"]), ["/v1beta/models-of-the-house"]);
    }
}

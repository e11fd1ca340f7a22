//! Which paths a rule names: those that were asked for, less what looks like an id or a secret ([`super::ids`]), and a directory in
//! place of many of its entries. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::ids;
use crate::api::{PathKind, PathRule};

/// Entries of one directory that are named one by one.
const MOST: usize = 4;
/// The same of the root, which stands for everything.
const MOST_AT_ROOT: usize = 16;

/// Gets the rules for `paths`, which are in normal form; none for every path.
pub(super) fn merged(paths: &BTreeSet<&str>) -> Vec<PathRule> {
    let mut exact: BTreeSet<String> = BTreeSet::new();
    let mut prefixes: BTreeSet<String> = BTreeSet::new();
    let mut forms: BTreeSet<String> = BTreeSet::new();
    for path in paths {
        match ids::before_the_first(path) {
            // What begins with an id has nothing before it that would be less than everything.
            Some("") => forms.insert(ids::form(path)),
            None => exact.insert((*path).to_owned()),
            Some(before) => prefixes.insert(before.to_owned()),
        };
    }
    if forms.len() > MOST_AT_ROOT {
        return vec![];
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
    let forms = forms.into_iter().map(rule(PathKind::Regex));
    let mut rules: Vec<PathRule> = exact.chain(prefixes.into_iter().map(rule(PathKind::Prefix))).chain(forms).collect();
    rules.sort_by(|one, other| one.value.cmp(&other.value));
    rules
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(paths: &[&str]) -> Vec<String> {
        let word = |rule: PathRule| match rule.kind {
            PathKind::Prefix => format!("{}…", rule.value),
            PathKind::Regex => format!("~{}", rule.value),
            PathKind::Exact => rule.value,
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
        let token = "ghp_AbCd0123456789EfGhIjKlMnOpQr";
        assert_eq!(rules(&["/api/items/12345/parts", &format!("/api/items/{token}")]), ["/api/items…"]);
        // In the first segment there is no directory that would be less than everything.
        assert_eq!(rules(&[&format!("/{token}/a.b"), "/12345/a.b", "/c"]), [r"~/[^/]+/a\.b", "/c"]);
        assert_eq!(rules(&[&format!("/{token}/x/{token}")]), ["~/[^/]+/x/[^/]+"]);
        let many: Vec<String> = (0..17).map(|n| format!("/{token}/{n}")).collect();
        assert!(rules(&many.iter().map(String::as_str).collect::<Vec<_>>()).is_empty(), "everything");
        assert_eq!(rules(&["/serde_json/1.0.140/serde_json"]), ["/serde_json/1.0.140/serde_json"]);
    }
}

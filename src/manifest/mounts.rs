//! `mounts`: files and directories of the host that a bottle is shown, read-only unless said.
//!
//! Reads the form. What may be shown at all is decided where a bottle is composed ([`crate::bottle::places`]).

use super::{Reader, Said};
use crate::yaml::read::{boolean, tables, text};
use crate::yaml::{Entry, Node, Problems};

const KEYS: [&str; 3] = ["source", "target", "rw"];

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// On the host: absolute, or below the home (`~/`).
    pub source: String,
    /// In the bottle: absolute, or below its home; the same as on the host when absent.
    pub target: Option<String>,
    /// Writable.
    pub rw: bool,
}

/// Reads the list.
pub(super) fn read(node: &Node, reader: Reader<'_>, problems: &mut Problems) -> Vec<Said<Mount>> {
    let items = tables(node, "`mounts`", problems);
    items.iter().filter_map(|item| Some(reader.said(item.line, mount(item, problems)?))).collect()
}

fn mount(node: &Node, problems: &mut Problems) -> Option<Mount> {
    let whole = |line: usize, path: &str, problems: &mut Problems| {
        let good = is_whole(path);
        if !good {
            problems.add(line, "a mount's path begins neither with / nor with ~/, or has `..` in it").hint =
                Some("write the whole path, such as ~/data or /srv/models".to_owned());
        }
        good
    };
    if let Some(source) = node.text() {
        let good = whole(node.line, source, problems);
        return good.then(|| Mount { source: source.to_owned(), target: None, rw: false });
    }
    let mut mount = Mount { source: String::new(), target: None, rw: false };
    let path = |entry: &Entry, problems: &mut Problems| {
        text(entry, problems).filter(|path| whole(entry.value.line, path, problems))
    };
    let before = problems.len();
    for entry in crate::yaml::read::table(node, "a mount", problems) {
        match entry.key.as_str() {
            "source" => mount.source = path(entry, problems).unwrap_or_default(),
            "target" => mount.target = path(entry, problems),
            "rw" => mount.rw = boolean(entry, problems).unwrap_or_default(),
            _ => problems.unknown_key(entry, &KEYS),
        }
    }
    if problems.len() == before && mount.source.is_empty() {
        problems.add(node.line, "a mount does not say `source`").hint =
            Some("add it, such as `source: ~/data`".to_owned());
    }
    (!mount.source.is_empty()).then_some(mount)
}

/// Tells whether a path needs nothing else to be understood, and climbs nowhere.
fn is_whole(path: &str) -> bool {
    (path.starts_with('/') || path.starts_with("~/"))
        && !path.contains('\0')
        && path.split('/').all(|part| part != "..")
}

//! The content of changed files: compared, digested, shown as text. Everything is bounded.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::changes::Findings;
use super::{MOST_FILE, text};
use crate::api::{FileKind, What};
use crate::os::beneath::{Dir, Kind, Stat};

/// Most bytes of unified diffs in one answer.
const MOST_TEXT: usize = 8 << 20;

/// Compares two files.
pub(super) fn same(mut one: File, mut other: File) -> std::io::Result<bool> {
    let (mut a, mut b) = (vec![0u8; 64 << 10], vec![0u8; 64 << 10]);
    loop {
        let (n, m) = (fill(&mut one, &mut a)?, fill(&mut other, &mut b)?);
        if a[..n] != b[..m] {
            return Ok(false);
        }
        if n < a.len() {
            return Ok(true);
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buffer.len() {
        match file.read(&mut buffer[n..])? {
            0 => break,
            more => n += more,
        }
    }
    Ok(n)
}

/// Gets what stands for the content of a file, in hex.
pub(super) fn digest(dir: &Dir, name: &Path) -> Option<String> {
    let (file, _) = dir.read(name).ok()?;
    let mut file = file.take(MOST_FILE + 1);
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hex(context.finish().as_ref())),
            n => context.update(&buffer[..n]),
        }
    }
}

/// Writes bytes in hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Adds unified diffs, as many as there is room for.
pub(super) fn add_text(findings: &mut Findings, host: &Dir, agent: &Dir) {
    let mut room = MOST_TEXT;
    for found in &mut findings.found {
        let is_text = |stat: Option<Stat>| stat.is_none_or(|s| s.kind == Kind::File && s.size <= text::MOST);
        if found.change.kind != FileKind::File
            || found.change.what == What::Mode
            || !is_text(found.agent)
            || !is_text(found.host)
        {
            continue;
        }
        let content = |dir: &Dir, side: Option<Stat>| -> Option<Option<Vec<u8>>> {
            let Some(_) = side else { return Some(None) };
            let (file, _) = dir.read(&found.path).ok()?;
            let mut bytes = Vec::new();
            file.take(text::MOST + 1).read_to_end(&mut bytes).ok()?;
            Some(Some(bytes))
        };
        let (Some(old), Some(new)) = (content(host, found.host), content(agent, found.agent)) else { continue };
        // The digest that was taken says what is shown; what was changed since is not.
        if let Some(new) = &new
            && !found.change.fingerprint.ends_with(&hex(ring::digest::digest(&ring::digest::SHA256, new).as_ref()))
        {
            continue;
        }
        let Some(text) = text::compare(&found.change.path, old.as_deref(), new.as_deref()) else { continue };
        found.change.added_lines = Some(text.added);
        found.change.removed_lines = Some(text.removed);
        if text.diff.len() <= room {
            room -= text.diff.len();
            found.change.diff = Some(text.diff);
        }
    }
}

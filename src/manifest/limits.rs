//! `limits`: what a bottle may use of the machine.
//!
//! Reads the form. Whether a limit can be enforced here is asked where a bottle is built.

use super::{Reader, Said};
use crate::yaml::read::{boolean, table};
use crate::yaml::{Entry, Node, Problems};

const KEYS: [&str; 5] = ["memory", "cpus", "pids", "disk", "best_effort"];

/// Least memory that an agent could start in, and least disk, bytes.
pub(crate) const LEAST_BYTES: u64 = 16 << 20;

/// What a bottle may use; nothing said = no limit of bb's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, bytes.
    pub memory: Option<Said<u64>>,
    /// Processors, thousandths of one.
    pub cpus: Option<Said<u32>>,
    /// Processes and threads.
    pub pids: Option<Said<u32>>,
    /// What it writes, bytes.
    pub disk: Option<Said<u64>>,
    /// Start also where a limit cannot be enforced; it is said.
    pub best_effort: Option<Said<bool>>,
}

impl From<&Limits> for crate::api::Limits {
    fn from(limits: &Limits) -> crate::api::Limits {
        fn value<T: Copy>(said: &Option<Said<T>>) -> Option<T> {
            said.as_ref().map(|s| s.value)
        }
        crate::api::Limits {
            memory: value(&limits.memory),
            cpus: value(&limits.cpus),
            pids: value(&limits.pids),
            disk: value(&limits.disk),
            best_effort: value(&limits.best_effort).unwrap_or_default(),
        }
    }
}

/// Reads the table.
pub(super) fn read(node: &Node, reader: Reader<'_>, problems: &mut Problems) -> Limits {
    let mut limits = Limits::default();
    for entry in table(node, "`limits`", problems) {
        match entry.key.as_str() {
            "memory" => limits.memory = bytes(entry, problems).map(|n| reader.said(entry.line, n)),
            "disk" => limits.disk = bytes(entry, problems).map(|n| reader.said(entry.line, n)),
            "cpus" => limits.cpus = cpus(entry, problems).map(|n| reader.said(entry.line, n)),
            "pids" => limits.pids = pids(entry, problems).map(|n| reader.said(entry.line, n)),
            "best_effort" => limits.best_effort = boolean(entry, problems).map(|b| reader.said(entry.line, b)),
            _ => problems.unknown_key(entry, &KEYS),
        }
    }
    limits
}

/// Reads a size: an integer of bytes, or one with K, M, G or T (powers of 1024; `Gi`, `GiB` and `GB` are the same).
pub(crate) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "ki" | "kb" | "kib" => 10,
        "m" | "mi" | "mb" | "mib" => 20,
        "g" | "gi" | "gb" | "gib" => 30,
        "t" | "ti" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|n| *n <= 1 << 50)
}

fn bytes(entry: &Entry, problems: &mut Problems) -> Option<u64> {
    let size = entry.value.text().and_then(size);
    let what = match size {
        Some(size) if size >= LEAST_BYTES => return Some(size),
        Some(_) => "is less than 16M, too little for any agent",
        None => "is not a size",
    };
    problems.add(entry.value.line, format!("`{}` {what}", entry.key)).hint =
        Some("write a whole number with a unit, such as 4G or 512M".to_owned());
    None
}

fn cpus(entry: &Entry, problems: &mut Problems) -> Option<u32> {
    let read = |text: &str| -> Option<u32> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 4 || part.len() > 3 || !digits(whole) || !digits(part) {
            return None;
        }
        let thousandths = whole.parse::<u32>().ok()? * 1000 + format!("{part:0<3}").parse::<u32>().ok()?;
        (thousandths >= 10).then_some(thousandths)
    };
    let cpus = entry.value.text().and_then(read);
    if cpus.is_none() {
        problems.add(entry.value.line, "`cpus` is not a number of processors").hint =
            Some("write a number such as 2 or 0.5, at least 0.01".to_owned());
    }
    cpus
}

fn pids(entry: &Entry, problems: &mut Problems) -> Option<u32> {
    let pids = entry.value.text().and_then(|text| text.parse().ok()).filter(|n| (16..=4_194_304).contains(n));
    if pids.is_none() {
        problems.add(entry.value.line, "`pids` is not a number of processes").hint =
            Some("write a whole number such as 512, at least 16: threads count too".to_owned());
    }
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, want) in [
            ("4G", Some(4 << 30)),
            ("512M", Some(512 << 20)),
            ("512 MiB", Some(512 << 20)),
            ("1048576", Some(1 << 20)),
            ("2t", Some(2 << 40)),
            ("", None),
            ("G", None),
            ("-1", None),
            ("1.5G", None),
            ("1e9", None),
            ("99999999999T", None),
            ("4 bananas", None),
        ] {
            assert_eq!(size(text), want, "{text:?}");
        }
    }
}

//! What processes of bottles take of memory, as the kernel accounts for it (proc(5), `smaps_rollup`).
#![allow(dead_code)]

use std::collections::BTreeSet;

/// Memory of a process. Unit: KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// That it shares with nobody.
    pub private: u64,
    /// That it shares with others: the same program's code, mostly.
    pub shared: u64,
    /// Its private memory, and its part of what is shared.
    pub proportional: u64,
}

/// Kinds of processes that a bottle has beside the agent's, and the word by which each is known.
pub const KINDS: [(&str, &str); 4] = [
    ("keeper and what it forks", "__keeper"),
    ("`bb __inside`", "__inside"),
    ("helper", "__helper"),
    ("engine's shim", "-namespace\0moby"),
];

impl Memory {
    /// Gets that of a process.
    pub fn of(pid: u32) -> Memory {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let sum = |start: &str| -> u64 {
            let field = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
            rollup.lines().filter(|l| l.starts_with(start)).map(field).sum()
        };
        Memory { private: sum("Private_"), shared: sum("Shared_"), proportional: sum("Pss:") }
    }
}

/// Gets the processes that there are.
pub fn processes() -> BTreeSet<u32> {
    std::fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok()).collect()
}

/// Gets how many processes have `word` in their command line, and the mean of their memory; those of `known` are others'.
pub fn of_all(word: &str, known: &BTreeSet<u32>) -> Option<(usize, Memory)> {
    let has = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(word.len()).any(|part| part == word.as_bytes())
    };
    let all: Vec<Memory> = processes().difference(known).copied().filter(has).map(Memory::of).collect();
    let n = all.len() as u64;
    let mean = |of: fn(&Memory) -> u64| all.iter().map(of).sum::<u64>() / n.max(1);
    let memory =
        Memory { private: mean(|m| m.private), shared: mean(|m| m.shared), proportional: mean(|m| m.proportional) };
    (n > 0).then_some((all.len(), memory))
}

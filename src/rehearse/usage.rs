//! The usage that a stand-in makes up, where none is scripted: from lengths, and nothing else.

use super::tools;
use crate::types::Tokens;

/// Makes up usage from lengths ([`super::scenario::Turn::usage`]).
pub(super) fn made_up(total: u64, done: usize, answer_len: usize) -> Tokens {
    let cache_read = if done > 0 { total * 3 / 4 } else { 0 };
    Tokens { input: total - cache_read, cache_read, output: quarter(answer_len).max(1), ..Tokens::default() }
}

pub(super) fn call_len(call: &tools::Call) -> usize {
    match call {
        tools::Call::Function(_, input) => input.to_string().len(),
        tools::Call::Custom(_, input) => input.len(),
        tools::Call::LocalShell(argv) => argv.iter().map(String::len).sum(),
    }
}

pub(super) fn quarter(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(4)
}

//! Fuzzing on stable Rust: what reads bytes of a bottle is given inputs that are changed again and again, beginning with real ones
//! (tests/fuzz) and with known tricks.
//!
//! A target says of each input which way it took (a mark); inputs that found a new way are kept and changed further. Without
//! a word it is a few thousand inputs and the same ones each time; `BB_FUZZ_SECONDS=15` is for so long and from a new
//! beginning each time, which is printed with what it found and is taken up again by `BB_FUZZ_SEED`.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

mod dns;
mod front;
mod hello;
mod names;
mod websocket;

/// Inputs of a run without a time.
const INPUTS: usize = 3000;
/// Inputs kept for further changes.
const KEPT: usize = 4096;
/// Tries to make what failed smaller.
const SMALLER: usize = 2000;

/// Which way an input took.
type Mark = u64;

/// Makes a mark of what is worth telling apart.
fn mark(of: impl Hash) -> Mark {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// Numbers that are the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Gets a number below `end`; 0 where there is none.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// Gets a range of `bytes`, mostly a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = if self.below(4) == 0 { length } else { 8 };
        start..(start + self.below(most + 1)).min(length)
    }
}

/// One reader of bytes.
struct Target<'a> {
    /// What it begins with. Each must pass.
    seeds: Vec<Vec<u8>>,
    /// What means something to it.
    words: &'a [&'a [u8]],
    /// Longest input.
    longest: usize,
}

impl Target<'_> {
    /// Asks `check` for the way of each input; what it says against one, and a panic, is a failure of the test.
    fn run(&self, check: impl Fn(&[u8]) -> Result<Mark, String>) {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
        let seconds = number("BB_FUZZ_SECONDS");
        let begin = number("BB_FUZZ_SEED").unwrap_or_else(|| match seconds {
            Some(_) => std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos().into(),
            None => 1,
        });
        let mut dice = Dice(begin);
        let mut corpus = self.seeds.clone();
        let mut marks = HashSet::new();
        for seed in &self.seeds {
            match verdict(&check, seed) {
                Ok(mark) => marks.insert(mark),
                Err(why) => panic!("a seed fails: {why}\n{}", seed.escape_ascii()),
            };
        }
        let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
        let mut inputs = 0;
        while if seconds.is_some() { Instant::now() < until } else { inputs < INPUTS } {
            inputs += 1;
            let mut input = dice.of(&corpus).clone();
            for _ in 0..=dice.below(6) {
                self.change(&mut input, &corpus, &mut dice);
            }
            input.truncate(self.longest);
            match verdict(&check, &input) {
                Ok(mark) if corpus.len() < KEPT && marks.insert(mark) => corpus.push(input),
                Ok(_) => {}
                Err(_) => {
                    let input = smaller(&check, input);
                    let why = verdict(&check, &input).expect_err("it failed before");
                    panic!("BB_FUZZ_SEED={begin}: {why}\n\"{}\"", input.escape_ascii());
                }
            }
        }
        println!("{inputs} inputs, {} ways", marks.len());
    }

    /// Changes an input in one place.
    fn change(&self, input: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
        let at = dice.below(input.len() + 1);
        match dice.below(13) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = dice.byte(),
            2 if at < input.len() => input[at] = input[at].wrapping_add(if dice.below(2) == 0 { 1 } else { 255 }),
            3 if at < input.len() => input[at] ^= 0x20,
            4 => input.insert(at, dice.byte()),
            5 => drop(input.drain(dice.range(input.len()))),
            6 => {
                let copied = input[dice.range(input.len())].to_vec();
                input.splice(at..at, copied);
            }
            7 | 8 if !self.words.is_empty() => {
                let word = dice.of(self.words);
                input.splice(at..at, word.iter().copied());
            }
            9 if !self.words.is_empty() => {
                let word = dice.of(self.words);
                let end = (at + word.len()).min(input.len());
                input.splice(at..end, word.iter().copied());
            }
            10 => {
                let other = dice.of(corpus);
                let from = dice.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            11 => input.truncate(at),
            // A length of two bytes, a little wrong.
            12 if at + 2 <= input.len() => {
                let by = u16::try_from(dice.below(9)).unwrap().wrapping_sub(4);
                let value = u16::from_be_bytes([input[at], input[at + 1]]).wrapping_add(by);
                input[at..at + 2].copy_from_slice(&value.to_be_bytes());
            }
            _ => input.push(dice.byte()),
        }
    }
}

fn verdict(check: &impl Fn(&[u8]) -> Result<Mark, String>, input: &[u8]) -> Result<Mark, String> {
    catch_unwind(AssertUnwindSafe(|| check(input))).unwrap_or_else(|_| Err("it panics".to_owned()))
}

/// Leaves out of what fails all that it fails without.
fn smaller(check: &impl Fn(&[u8]) -> Result<Mark, String>, mut input: Vec<u8>) -> Vec<u8> {
    let mut tries = 0;
    let mut piece = input.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < input.len() && tries < SMALLER {
            tries += 1;
            let mut less = input.clone();
            less.drain(at..(at + piece).min(input.len()));
            if verdict(check, &less).is_err() {
                input = less;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    input
}

/// Says what is against an input unless `good`.
fn hold(good: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if good { Ok(()) } else { Err(why()) }
}

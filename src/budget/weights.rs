//! Weights: how much a token of each class counts towards a budget (design decision 3).
//!
//! In integer thousandths, summed exactly and rounded up once per response, so that no order of adding and no number of
//! small responses changes a total by rounding down.

use serde::{Deserialize, Serialize};

use super::amount::MAX_TOKENS;
use crate::types::Tokens;

/// Thousandths of a counted token for one token of each class. Reasoning is a part of output and not counted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// Uncached input.
    pub input: u32,
    /// Input read from a cache.
    pub cache_read: u32,
    /// Input written to a cache, short lifetime.
    pub cache_write: u32,
    /// Input written to a cache, long lifetime.
    pub cache_write_long: u32,
    /// Output, reasoning included.
    pub output: u32,
}

/// Why a weight is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// No class of that name.
    #[error("`{0}` is not a class of tokens")]
    UnknownClass(String),
    /// Not a decimal number with at most three decimals, or more than 1000.
    #[error("`{0}` is not a weight: a number from 0 to 1000 with at most three decimals")]
    NotAWeight(String),
    /// Input or output would count nothing, so that no budget could ever be spent.
    #[error("the weight of `{0}` cannot be 0")]
    Nothing(String),
}

impl Weights {
    /// Every class at 1: plain tokens.
    pub const RAW: Weights =
        Weights { input: 1000, cache_read: 1000, cache_write: 1000, cache_write_long: 1000, output: 1000 };

    /// The names of the classes, in the order of reports.
    pub const CLASSES: [&str; 5] = ["input", "cache_read", "cache_write", "cache_write_long", "output"];

    /// Sets the weight of one class from a decimal number such as `0.1`.
    ///
    /// # Errors
    /// [`WeightsError`].
    pub fn set(&mut self, class: &str, value: &str) -> Result<(), WeightsError> {
        let slot = match class {
            "input" => &mut self.input,
            "cache_read" => &mut self.cache_read,
            "cache_write" => &mut self.cache_write,
            "cache_write_long" => &mut self.cache_write_long,
            "output" => &mut self.output,
            _ => return Err(WeightsError::UnknownClass(class.chars().take(40).collect())),
        };
        let weight = thousandths(value).ok_or_else(|| WeightsError::NotAWeight(value.chars().take(40).collect()))?;
        if weight == 0 && matches!(class, "input" | "output") {
            return Err(WeightsError::Nothing(class.to_owned()));
        }
        *slot = weight;
        Ok(())
    }

    /// Gets the words that name these weights in reports: `raw`, or the classes that do not count 1.
    pub fn describe(&self) -> String {
        let classes = [self.input, self.cache_read, self.cache_write, self.cache_write_long, self.output];
        let odd: Vec<String> = Weights::CLASSES
            .iter()
            .zip(classes)
            .filter(|(_, w)| *w != 1000)
            .map(|(class, w)| format!("{class} {}", decimal(w)))
            .collect();
        if odd.is_empty() { "raw".to_owned() } else { odd.join(", ") }
    }
}

impl Default for Weights {
    /// 1 for every class but cache reads, which count a tenth.
    fn default() -> Self {
        Weights { cache_read: 100, ..Weights::RAW }
    }
}

/// Counts one response by weights: the weighted sum of its classes, rounded up once. At most [`MAX_TOKENS`].
pub fn counted(tokens: &Tokens, weights: &Weights) -> u64 {
    let sum: u128 = [
        (tokens.input, weights.input),
        (tokens.cache_read, weights.cache_read),
        (tokens.cache_write, weights.cache_write),
        (tokens.cache_write_long, weights.cache_write_long),
        (tokens.output, weights.output),
    ]
    .into_iter()
    .map(|(tokens, weight)| u128::from(tokens) * u128::from(weight))
    .sum();
    u64::try_from(sum.div_ceil(1000)).map_or(MAX_TOKENS, |counted| counted.min(MAX_TOKENS))
}

/// Reads a decimal number as thousandths.
fn thousandths(text: &str) -> Option<u32> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 4 || fraction.len() > 3 {
        return None;
    }
    let value = whole.parse::<u32>().ok()? * 1000 + format!("{fraction:0<3}").parse::<u32>().ok()?;
    (value <= 1_000_000).then_some(value)
}

/// Writes thousandths as a decimal number.
fn decimal(thousandths: u32) -> String {
    let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(input: u64, cache_read: u64, output: u64, reasoning: u64) -> Tokens {
        Tokens { input, cache_read, output, reasoning, ..Tokens::default() }
    }

    #[test]
    fn a_response_is_rounded_up_once() {
        let w = Weights::default();
        assert_eq!(counted(&tokens(0, 1, 0, 0), &w), 1, "a tenth is rounded up");
        assert_eq!(counted(&tokens(0, 10, 0, 0), &w), 1);
        assert_eq!(counted(&tokens(0, 11, 0, 0), &w), 2);
        assert_eq!(counted(&tokens(100, 5, 20, 0), &w), 121, "not once for each class");
        assert_eq!(counted(&Tokens::default(), &w), 0);
    }

    #[test]
    fn reasoning_is_a_part_of_output_and_not_counted_again() {
        assert_eq!(counted(&tokens(10, 0, 50, 40), &Weights::default()), 60);
    }

    #[test]
    fn raw_counts_every_class_at_one() {
        let all =
            Tokens { input: 1, cache_read: 20, cache_write: 300, cache_write_long: 4000, output: 50_000, reasoning: 9 };
        assert_eq!(counted(&all, &Weights::RAW), 54_321);
    }

    #[test]
    fn absurd_figures_do_not_overflow() {
        assert_eq!(counted(&tokens(u64::MAX, u64::MAX, u64::MAX, 0), &Weights::RAW), MAX_TOKENS);
    }

    #[test]
    fn weights_are_read_exactly_or_refused() {
        let mut w = Weights::default();
        assert_eq!(w.set("cache_read", "0.25"), Ok(()));
        assert_eq!(w.set("cache_write_long", "2"), Ok(()));
        assert_eq!((w.cache_read, w.cache_write_long), (250, 2000));
        assert_eq!(w.describe(), "cache_read 0.25, cache_write_long 2");
        assert_eq!(w.set("cache_read", "0"), Ok(()), "a cache may be free");
        for bad in ["", "0.0001", "-1", "1e3", "1000.001", ".1", "1.", "one", "99999999999"] {
            assert!(matches!(w.set("output", bad), Err(WeightsError::NotAWeight(_))), "{bad}");
        }
        assert!(matches!(w.set("output", "0.000"), Err(WeightsError::Nothing(_))));
        assert!(matches!(w.set("thinking", "1"), Err(WeightsError::UnknownClass(_))));
        assert_eq!(Weights::RAW.describe(), "raw");
    }
}

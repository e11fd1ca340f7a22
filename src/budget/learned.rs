//! What was learned of a model's requests and answers: how many tokens a byte is, how long an answer becomes; and the estimates that
//! follow from it.
//!
//! Pure arithmetic on plain values. An estimate is rather too high than too low: what was learned is taken with its usual
//! deviation on top, and an answer for as long as nine of ten were.

use serde::{Deserialize, Serialize};

/// Tokens of a million bytes where nothing was learned: four bytes are one.
const USUAL: u64 = 250_000;
/// Between these a model's tokens of a million bytes are believed: a byte is at most one, and ten are at least one.
const BELIEVED: std::ops::RangeInclusive<u64> = 100_000..=1_000_000;
/// Bytes of which something can be learned.
const LEAST_BYTES: u64 = 1024;
/// Answers by which their length is known.
const LEAST_ANSWERS: u64 = 10;
/// Answers after which the older ones count half.
const MOST_ANSWERS: u64 = 512;
/// Lengths that are told apart: 16, 32, 64 ... tokens; each is split in four.
const LENGTHS: usize = 80;

/// A figure that moves, and how far it usually is off. Unit: tokens of a million bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Where it is; 0 where nothing was learned.
    pub mean: u64,
    /// How far off it usually is.
    pub off: u64,
}

impl Moving {
    /// Learns that `bytes` were `tokens`.
    fn learn(&mut self, tokens: u64, bytes: u64) {
        if bytes < LEAST_BYTES {
            return;
        }
        let now = (tokens.saturating_mul(1_000_000) / bytes).clamp(*BELIEVED.start(), *BELIEVED.end());
        if self.mean == 0 {
            *self = Moving { mean: now, off: now / 8 };
            return;
        }
        let off = now.abs_diff(self.mean);
        // An eighth of what is new.
        self.mean = (self.mean * 7 + now) / 8;
        self.off = (self.off * 7 + off) / 8;
    }

    /// Estimates the tokens of `bytes`.
    fn tokens(self, bytes: u64) -> u64 {
        let each = if self.mean == 0 { USUAL } else { (self.mean + self.off).min(*BELIEVED.end()) };
        bytes.saturating_mul(each).div_ceil(1_000_000)
    }

    /// Gets what `bytes` are at least.
    fn at_least(self, bytes: u64) -> u64 {
        let each = self.mean.saturating_sub(self.off.saturating_mul(3)).max(*BELIEVED.start());
        bytes.saturating_mul(each) / 1_000_000
    }
}

/// What was learned of one model, as one agent uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// Of whole requests: what is around the text is part of it.
    pub whole: Moving,
    /// Of what a request has more than the one before it.
    pub grown: Moving,
    /// Answers by their length.
    pub answers: Vec<u32>,
}

impl Learned {
    /// Learns that a whole request's text of `bytes` was `tokens`.
    pub fn learn_whole(&mut self, tokens: u64, bytes: u64) {
        self.whole.learn(tokens, bytes);
    }

    /// Learns that text of `bytes`, with which a request has grown, was `tokens`.
    pub fn learn_grown(&mut self, tokens: u64, bytes: u64) {
        self.grown.learn(tokens, bytes);
    }

    /// Learns that an answer was `tokens` long.
    pub fn learn_answer(&mut self, tokens: u64) {
        self.answers.resize(LENGTHS, 0);
        if let Some(count) = self.answers.get_mut(length(tokens)) {
            *count = count.saturating_add(1);
        }
        if self.answers.iter().map(|count| u64::from(*count)).sum::<u64>() > MOST_ANSWERS {
            self.answers.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// Estimates the text of a whole request.
    pub fn whole(&self, bytes: u64) -> u64 {
        self.whole.tokens(bytes)
    }

    /// Estimates the text with which a request has grown.
    pub fn grown(&self, bytes: u64) -> u64 {
        if self.grown.mean == 0 { self.whole(bytes) } else { self.grown.tokens(bytes) }
    }

    /// Gets what the text of a whole request is at least.
    pub fn whole_at_least(&self, bytes: u64) -> u64 {
        self.whole.at_least(bytes)
    }

    /// Gets what the text with which a request has grown is at least.
    pub fn grown_at_least(&self, bytes: u64) -> u64 {
        if self.grown.mean == 0 { self.whole_at_least(bytes) } else { self.grown.at_least(bytes) }
    }

    /// Gets the length that nine of ten answers do not pass; `None` where too few were seen. Unit: tokens.
    pub fn answer(&self) -> Option<u64> {
        let all: u64 = self.answers.iter().map(|count| u64::from(*count)).sum();
        if all < LEAST_ANSWERS {
            return None;
        }
        let (mut seen, wanted) = (0, (all * 9).div_ceil(10));
        let at = self.answers.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        at.map(longest)
    }
}

/// Gets the place of a length.
fn length(tokens: u64) -> usize {
    (0..LENGTHS).find(|at| tokens <= longest(*at)).unwrap_or(LENGTHS - 1)
}

/// Gets the longest length of a place.
fn longest(at: usize) -> u64 {
    let octave = 16u64 << (at / 4).min(40);
    octave + octave * (at as u64 % 4) / 4
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn where_nothing_was_learned_four_bytes_are_a_token() {
        let none = Learned::default();
        assert_eq!((none.whole(1001), none.grown(400), none.answer()), (251, 100, None));
    }

    #[test]
    fn what_is_learned_is_followed_with_its_deviation_on_top() {
        let mut learned = Learned::default();
        learned.learn_whole(10, 20);
        assert_eq!(learned.whole(4000), 1000, "too little to learn of");
        for _ in 0..60 {
            learned.learn_whole(4000, 10_000);
        }
        assert!((4000..4020).contains(&learned.whole(10_000)), "{}", learned.whole(10_000));
        for n in 0..60 {
            learned.learn_whole(if n % 2 == 0 { 3000 } else { 5000 }, 10_000);
        }
        assert!((4500..5600).contains(&learned.whole(10_000)), "{}", learned.whole(10_000));
        assert_eq!(learned.grown(10_000), learned.whole(10_000), "until it has grown");
        learned.learn_grown(2000, 10_000);
        assert_eq!(learned.grown(10_000), 2250);
        learned.learn_grown(u64::MAX, 2000);
        assert!(learned.grown(1000) <= 1000, "a byte is no more than a token");
    }

    #[test]
    fn an_answer_is_as_long_as_nine_of_ten_were() {
        let mut learned = Learned::default();
        for n in 1..=9 {
            learned.learn_answer(n * 100);
        }
        assert_eq!(learned.answer(), None);
        learned.learn_answer(30_000);
        assert_eq!(learned.answer(), Some(1024));
        for _ in 0..2000 {
            learned.learn_answer(10);
        }
        assert_eq!(learned.answer(), Some(16), "older ones fade");
    }

    proptest! {
        #[test]
        fn a_length_is_in_its_place(tokens in 0u64..1 << 30) {
            let at = length(tokens);
            prop_assert!(tokens <= longest(at) || at == LENGTHS - 1);
            prop_assert!(at == 0 || tokens > longest(at - 1));
        }
    }
}

//! What a hold is charged when it ends: the hold machine of the design, as a function.
//!
//! Holds and their estimates are in counted tokens; what was seen or streamed is in tokens as they are, and weighed here. Where an
//! estimate stands in for usage, it is entered as plain input and output.

use super::weights::{Weights, counted};
use crate::types::{Source, Tokens};

/// The most that is entered for one class of one response. No response is that long; it keeps sums far from overflow,
/// whatever an upstream says.
const MAX_CLASS: u64 = crate::types::MOST_OF_A_CLASS;

/// How a hold ends. The design's hold machine, in its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Nothing was written upstream, or an error without usage: charged 0.
    Released,
    /// Terminal usage seen.
    Exact(Tokens),
    /// Ended early: charged max(usage seen, streamed estimate, input estimate).
    Partial {
        /// Usage seen so far.
        seen: Option<Tokens>,
        /// Output estimated from what was streamed, not weighed.
        streamed: u64,
    },
    /// A success without usable usage: charged max(whole unclamped estimate, streamed estimate).
    AtEstimate {
        /// Output estimated from what was streamed, not weighed.
        streamed: u64,
    },
}

/// What is known of a hold besides how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Input estimate, counted tokens.
    pub input: u64,
    /// Output estimate, counted tokens, unclamped.
    pub output: u64,
    /// Reserved at last, raises included.
    pub held: u64,
    /// Usage that was seen while it was open.
    pub seen: Option<Tokens>,
}

/// What a hold is charged, and what is entered for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Counted tokens.
    pub counted: u64,
    /// The classes entered.
    pub tokens: Tokens,
    /// How well they are known.
    pub source: Source,
}

/// Gets the charge of a hold that ended as `how` says.
///
/// The *streamed estimate* is what the request comes to by what was streamed: its input (as seen, else as estimated) and
/// the output that went by. Usage that was seen is never given back, however the hold ends.
pub fn charge(hold: &Estimate, how: &Settlement, weights: &Weights) -> Charge {
    let floor = hold.seen.map_or(0, |seen| counted(&bounded(&seen), weights));
    let charge = match how {
        Settlement::Exact(tokens) => {
            let tokens = bounded(tokens);
            return Charge { counted: counted(&tokens, weights), tokens, source: Source::Exact };
        }
        Settlement::Released => match hold.seen {
            None => return Charge { counted: 0, tokens: Tokens::default(), source: Source::Exact },
            Some(seen) => Charge { counted: floor, tokens: bounded(&seen), source: Source::Partial },
        },
        Settlement::Partial { seen, streamed } => {
            let input = hold.input.min(MAX_CLASS);
            let (tokens, least) = match seen.or(hold.seen) {
                Some(seen) => {
                    let tokens = bounded(&Tokens { output: seen.output.max(*streamed), ..seen });
                    (tokens, counted(&tokens, weights).max(input))
                }
                None => (estimated(hold.input, *streamed), input + weighed(*streamed, weights)),
            };
            Charge { counted: least, tokens, source: Source::Partial }
        }
        Settlement::AtEstimate { streamed } => at_estimate(hold, weighed(*streamed, weights)),
    };
    Charge { counted: charge.counted.max(floor), ..charge }
}

/// Gets the charge of a hold whose controller died: the whole unclamped estimate, or what was reserved or seen where
/// that is more.
pub fn charge_swept(hold: &Estimate, weights: &Weights) -> Charge {
    let whole = at_estimate(hold, hold.held.saturating_sub(hold.input));
    let seen = hold.seen.map_or(0, |seen| counted(&bounded(&seen), weights));
    match hold.seen {
        Some(tokens) if seen >= whole.counted => {
            Charge { counted: seen, tokens: bounded(&tokens), source: Source::Partial }
        }
        _ => whole,
    }
}

/// Weighs output that was estimated from what was streamed.
fn weighed(streamed: u64, weights: &Weights) -> u64 {
    counted(&Tokens { output: streamed.min(MAX_CLASS), ..Tokens::default() }, weights)
}

/// Gets the charge at the estimate: input, and output as estimated or `least`, whichever is more.
fn at_estimate(hold: &Estimate, least: u64) -> Charge {
    let tokens = estimated(hold.input, hold.output.max(least));
    Charge { counted: tokens.input + tokens.output, tokens, source: Source::Estimated }
}

/// Enters estimates as classes.
fn estimated(input: u64, output: u64) -> Tokens {
    Tokens { input: input.min(MAX_CLASS), output: output.min(MAX_CLASS), ..Tokens::default() }
}

/// Bounds every class: figures come from outside.
fn bounded(tokens: &Tokens) -> Tokens {
    Tokens {
        input: tokens.input.min(MAX_CLASS),
        cache_read: tokens.cache_read.min(MAX_CLASS),
        cache_write: tokens.cache_write.min(MAX_CLASS),
        cache_write_long: tokens.cache_write_long.min(MAX_CLASS),
        output: tokens.output.min(MAX_CLASS),
        reasoning: tokens.reasoning.min(MAX_CLASS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: Weights =
        Weights { input: 1000, cache_read: 100, cache_write: 1000, cache_write_long: 1000, output: 1000 };

    fn hold(input: u64, output: u64, held: u64) -> Estimate {
        Estimate { input, output, held, seen: None }
    }

    fn tokens(input: u64, output: u64) -> Tokens {
        Tokens { input, output, ..Tokens::default() }
    }

    fn counted_of(hold: &Estimate, how: Settlement) -> u64 {
        charge(hold, &how, &W).counted
    }

    #[test]
    fn released_charges_nothing() {
        assert_eq!(counted_of(&hold(10, 90, 100), Settlement::Released), 0);
    }

    #[test]
    fn usage_that_was_seen_is_not_given_back() {
        let hold = Estimate { seen: Some(tokens(12, 3)), ..hold(10, 90, 100) };
        assert_eq!(counted_of(&hold, Settlement::Released), 15);
        assert_eq!(counted_of(&hold, Settlement::Partial { seen: None, streamed: 1 }), 15);
    }

    #[test]
    fn exact_charges_what_the_api_says_whatever_was_estimated() {
        let usage = Tokens { cache_read: 1001, ..tokens(5, 20) };
        let charge = charge(&hold(1000, 1000, 50), &Settlement::Exact(usage), &W);
        assert_eq!((charge.counted, charge.tokens, charge.source), (126, usage, Source::Exact));
    }

    #[test]
    fn partial_charges_the_highest_of_seen_streamed_and_input() {
        let table = [
            (None, 0, 100),                    // the input estimate
            (None, 40, 140),                   // input and what was streamed
            (Some(tokens(70, 50)), 0, 120),    // seen
            (Some(tokens(70, 1)), 60, 130),    // input as seen, output as streamed
            (Some(tokens(20, 1)), 5, 100),     // never below the input estimate
            (Some(tokens(500, 300)), 20, 800), // more than anybody thought
        ];
        for (seen, streamed, want) in table {
            assert_eq!(counted_of(&hold(100, 50, 150), Settlement::Partial { seen, streamed }), want, "{seen:?}");
        }
    }

    #[test]
    fn what_was_streamed_is_weighed_and_what_was_estimated_is_already() {
        let dear = Weights { input: 2000, output: 3000, ..W };
        let hold = hold(100, 50, 150);
        let counted = |how| charge(&hold, &how, &dear).counted;
        assert_eq!(counted(Settlement::Partial { seen: None, streamed: 40 }), 220);
        assert_eq!(counted(Settlement::Partial { seen: Some(tokens(70, 1)), streamed: 40 }), 260);
        assert_eq!(counted(Settlement::AtEstimate { streamed: 40 }), 220);
        assert_eq!(counted(Settlement::AtEstimate { streamed: 1 }), 150);
        assert_eq!(charge_swept(&hold, &dear).counted, 150);
    }

    #[test]
    fn at_estimate_charges_the_whole_unclamped_estimate_or_more() {
        assert_eq!(counted_of(&hold(100, 4000, 120), Settlement::AtEstimate { streamed: 0 }), 4100);
        assert_eq!(counted_of(&hold(100, 50, 150), Settlement::AtEstimate { streamed: 900 }), 1000);
    }

    #[test]
    fn swept_charges_the_highest_of_estimate_held_and_seen() {
        assert_eq!(charge_swept(&hold(100, 4000, 120), &W).counted, 4100, "unclamped, though little was held");
        assert_eq!(charge_swept(&hold(100, 50, 700), &W).counted, 700, "raised while it streamed");
        let seen = Estimate { seen: Some(tokens(600, 300)), ..hold(100, 50, 700) };
        assert_eq!(charge_swept(&seen, &W).counted, 900);
        assert_eq!(charge_swept(&seen, &W).source, Source::Partial);
    }

    #[test]
    fn absurd_figures_are_bounded() {
        let max = tokens(u64::MAX, u64::MAX);
        assert_eq!(counted_of(&hold(1, 1, 2), Settlement::Exact(max)), 2 * MAX_CLASS);
        assert_eq!(
            counted_of(&hold(u64::MAX, u64::MAX, 2), Settlement::AtEstimate { streamed: u64::MAX }),
            2 * MAX_CLASS
        );
        assert_eq!(charge_swept(&hold(u64::MAX, u64::MAX, u64::MAX), &W).counted, 2 * MAX_CLASS);
    }
}

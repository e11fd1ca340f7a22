//! The pieces of a body, and which of them are new since an earlier one. Pure.
//!
//! A piece is known by a hash whose key is the process's own: whoever writes a body must not know which pieces would be taken for
//! the same. One that stands there twice is two.

use std::cmp::Ordering;

use super::Bulk;

/// How much longer or shorter a piece may be and still be the same: what has it cached comes and goes. Unit: bytes.
const MARKS: u64 = 128;
/// Bytes of text for one token, where parts of a body are weighed against each other.
const USUAL: u64 = 4;

/// Which part of a body a piece is of, in the order in which the APIs read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Tools,
    System,
    Talk,
    /// Whatever the request says beside its conversation.
    Other,
}

/// A message, a tool, or another value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) part: Part,
    pub(super) hash: u64,
    pub(super) bulk: Bulk,
}

impl Piece {
    /// Gets about how many tokens it is.
    fn weight(&self) -> u64 {
        self.bulk.text / USUAL + self.bulk.fixed() + 1
    }

    fn order(&self, other: &Piece) -> Ordering {
        (self.hash, self.bulk.text).cmp(&(other.hash, other.bulk.text))
    }

    /// Tells whether it is what `other` was.
    fn is(&self, other: &Piece) -> bool {
        let same = (self.hash, self.bulk.dense, self.bulk.media) == (other.hash, other.bulk.dense, other.bulk.media);
        same && self.bulk.text.abs_diff(other.bulk.text) <= MARKS
    }
}

/// What has become of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// What was not there.
    pub fresh: Bulk,
    /// What is there no more.
    pub gone: Bulk,
    /// How much of the earlier one stands as it stood, from its beginning on: what a provider may have cached. Unit: thousandths.
    pub stands: u64,
    /// How much of the earlier one is there no more. Unit: thousandths.
    pub lost: u64,
}

/// Compares the pieces of two bodies.
pub(super) fn change(now: &[Piece], earlier: &[Piece]) -> Change {
    let sorted = |pieces: &[Piece]| {
        let mut sorted = pieces.to_vec();
        sorted.sort_unstable_by(Piece::order);
        sorted
    };
    let mut change = Change::default();
    let (now_sorted, earlier_sorted) = (sorted(now), sorted(earlier));
    let (mut new, mut old) = (now_sorted.iter().peekable(), earlier_sorted.iter().peekable());
    let (mut all, mut lost) = (0, 0);
    loop {
        match (new.peek(), old.peek()) {
            (Some(a), Some(b)) if a.is(b) => {
                all += b.weight();
                new.next();
                old.next();
            }
            (Some(a), b) if b.is_none_or(|b| a.order(b) == Ordering::Less) => {
                change.fresh.add(&a.bulk);
                new.next();
            }
            (_, Some(b)) => {
                all += b.weight();
                lost += b.weight();
                change.gone.add(&b.bulk);
                old.next();
            }
            (None | Some(_), None) => break,
        }
    }
    change.lost = thousandths(lost, all);
    change.stands = stands(now, earlier);
    change
}

/// Gets how much of `earlier` is the beginning of `now`, in the order in which an API reads both.
fn stands(now: &[Piece], earlier: &[Piece]) -> u64 {
    let (mut all, mut same) = (0, 0);
    let mut stands = true;
    for part in [Part::Tools, Part::System, Part::Talk] {
        let mut new = now.iter().filter(|piece| piece.part == part);
        for piece in earlier.iter().filter(|piece| piece.part == part) {
            all += piece.weight();
            stands = stands && new.next().is_some_and(|new| new.is(piece));
            same += if stands { piece.weight() } else { 0 };
        }
        // More tools stand before what comes behind them.
        stands = stands && (part == Part::Talk || new.next().is_none());
    }
    thousandths(same, all)
}

/// Gets a share; all of nothing.
fn thousandths(some: u64, all: u64) -> u64 {
    some.saturating_mul(1000).checked_div(all).unwrap_or(1000)
}

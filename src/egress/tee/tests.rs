//! How each way of ending is settled.

use http::StatusCode;

use super::*;
use crate::ledger::Settlement;
use crate::meter::Reading;
use crate::types::Tokens;

fn reading(tokens: Option<u64>, terminal: bool, streamed: u64) -> Reading {
    let tokens = tokens.map(|output| Tokens { output, ..Tokens::default() });
    Reading { tokens, terminal, streamed, ..Reading::default() }
}

#[test]
fn the_hold_machine_ends_each_way_by_what_was_seen() {
    let ok = StatusCode::OK;
    let ten = Tokens { output: 10, ..Tokens::default() };
    let cases = [
        (ok, reading(Some(10), true, 3), End::Whole, Settlement::Exact(ten)),
        (ok, reading(Some(10), true, 3), End::Early, Settlement::Exact(ten)),
        (ok, reading(Some(10), false, 3), End::Early, Settlement::Partial { seen: Some(ten), streamed: 3 }),
        (ok, reading(Some(10), false, 3), End::Whole, Settlement::Partial { seen: Some(ten), streamed: 3 }),
        (ok, reading(None, false, 3), End::Early, Settlement::Partial { seen: None, streamed: 3 }),
        (ok, reading(None, false, 3), End::Whole, Settlement::AtEstimate { streamed: 3 }),
        (ok, reading(None, true, 3), End::Whole, Settlement::AtEstimate { streamed: 3 }),
        (StatusCode::BAD_REQUEST, reading(None, true, 0), End::Whole, Settlement::Released),
        (StatusCode::TOO_MANY_REQUESTS, reading(None, false, 0), End::Early, Settlement::Released),
        (StatusCode::BAD_REQUEST, reading(Some(10), true, 0), End::Whole, Settlement::Exact(ten)),
    ];
    for (status, reading, end, expected) in cases {
        assert_eq!(settlement(status, &reading, end), expected, "{status} {reading:?} {end:?}");
    }
}

#[test]
fn damaged_figures_are_not_trusted() {
    let broken = Reading { broken: true, ..reading(Some(1), false, 3) };
    assert_eq!(settlement(StatusCode::OK, &broken, End::Whole), Settlement::AtEstimate { streamed: 3 });
}

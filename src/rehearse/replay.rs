//! A recorded answer, given as it was: no byte of it is made here.

use std::time::Duration;

use bytes::Bytes;

use super::body::Piece;
use super::scenario::{Fault, NamedFault, Replay, Turn};
use super::serve::Play;
use super::stats::Entry;
use crate::meter;
use crate::types::Api;

/// Plays a recorded answer: its bytes, at the pace of the turn. What it says was used is what the meter reads.
pub(super) fn play(api: Api, replay: &Replay, turn: &Turn, fault: Option<Fault>, entry: &mut Entry) -> Play {
    // It was checked when the scenario was read.
    let body = replay.body().unwrap_or_default();
    entry.begin(turn.usage.map_or_else(|| meter::parse(api, &body).tokens.unwrap_or_default(), Into::into));
    let piece = replay.piece.unwrap_or(body.len()).max(1);
    let mut pieces: Vec<Piece> =
        body.chunks(piece).map(|bytes| Piece { bytes: Bytes::copy_from_slice(bytes), terminal: false }).collect();
    if let Some(last) = pieces.last_mut() {
        last.terminal = true;
    }
    Play::Said {
        pieces,
        gap: Duration::from_millis(turn.chunk_ms),
        kind: replay.content_type.clone(),
        // Whatever it is coded by, it is coded already.
        coding: Some(replay.content_encoding.clone().unwrap_or_default()),
        broken: fault == Some(Fault::Named(NamedFault::Broken)),
    }
}

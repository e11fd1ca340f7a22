//! The body of an answer: scripted pieces at a scripted pace, with notes on how far it got.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::{Body, Frame};
use tokio::time::Sleep;

use super::stats::Entry;

/// Pause before a connection is broken off: its reset would overtake and take back what was sent just before.
const BEFORE_BREAK: Duration = Duration::from_millis(50);

/// One piece of an answer.
pub(super) struct Piece {
    /// Its bytes.
    pub(super) bytes: Bytes,
    /// It carries the final usage.
    pub(super) terminal: bool,
}

impl Piece {
    /// Makes an SSE event of a JSON text.
    pub(super) fn event(name: &str, json: &serde_json::Value) -> Piece {
        Piece { bytes: Bytes::from(format!("event: {name}\ndata: {json}\n\n")), terminal: false }
    }

    /// Gets the JSON text of an SSE event.
    pub(super) fn data(&self) -> Option<&[u8]> {
        let at = memchr::memmem::find(&self.bytes, b"\ndata: ")?;
        self.bytes.get(at + b"\ndata: ".len()..).map(<[u8]>::trim_ascii_end)
    }
}

/// A body that is sent piece by piece.
pub(super) struct Paced {
    pieces: VecDeque<Piece>,
    gap: Duration,
    pause: Option<Pin<Box<Sleep>>>,
    /// Pieces after which the connection is broken off.
    break_after: Option<usize>,
    /// The piece handed over last was the final one; that it was taken shows when the next is asked for.
    terminal_next: bool,
    entry: Entry,
}

impl Paced {
    /// Makes a body of `pieces`, `gap` apart.
    pub(super) fn new(pieces: Vec<Piece>, gap: Duration, entry: Entry) -> Paced {
        Paced { pieces: pieces.into(), gap, pause: None, break_after: None, terminal_next: false, entry }
    }

    /// Notes the status of the answer.
    pub(super) fn note_status(&self, status: u16) {
        self.entry.note(|request| request.status = status);
    }

    /// Makes it break off in its middle.
    pub(super) fn broken(mut self) -> Paced {
        self.break_after = Some(self.pieces.len().div_ceil(2).min(self.pieces.len().saturating_sub(2)));
        self
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        // With a known length a connection takes the last piece and never asks again.
        if self.pieces.is_empty() && self.break_after.is_none() {
            if self.terminal_next {
                self.entry.terminal();
            }
            self.entry.ended();
        }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if std::mem::take(&mut self.terminal_next) {
            self.entry.terminal();
        }
        if let Some(pause) = self.pause.as_mut() {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        if self.break_after == Some(0) {
            self.entry.ended();
            return Poll::Ready(Some(Err(io::Error::other("broken off, as the scenario says"))));
        }
        let Some(piece) = self.pieces.pop_front() else {
            self.entry.ended();
            return Poll::Ready(None);
        };
        self.break_after = self.break_after.map(|n| n - 1);
        self.terminal_next = piece.terminal;
        let gap = if self.break_after == Some(0) { self.gap.max(BEFORE_BREAK) } else { self.gap };
        if !gap.is_zero() && !self.pieces.is_empty() {
            self.pause = Some(Box::pin(tokio::time::sleep(gap)));
        }
        self.entry.sent(piece.bytes.len());
        Poll::Ready(Some(Ok(Frame::data(piece.bytes))))
    }
}

/// Codes pieces with gzip, each flushed so that it can be decoded when it arrives.
pub(super) fn gzip(pieces: Vec<Piece>) -> io::Result<Vec<Piece>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let mut coded = Vec::with_capacity(pieces.len());
    for piece in pieces {
        encoder.write_all(&piece.bytes)?;
        encoder.flush()?;
        coded.push(Piece { bytes: Bytes::from(std::mem::take(encoder.get_mut())), terminal: piece.terminal });
    }
    coded.push(Piece { bytes: Bytes::from(encoder.finish()?), terminal: false });
    Ok(coded)
}

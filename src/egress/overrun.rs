//! HTTP/2 streams that are refused because as many as are served are open on their connection already, seen where they are.
//!
//! The protocol has a refusal of its own for them (`REFUSED_STREAM`; RFC 9113, 5.1.2 and 8.7), which clients may answer by trying
//! again, and which has no place for a word; no request comes of such a stream. So the frames that leave are followed, by their
//! heads alone. It must not change, add or hold up a byte, and decides nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Length of a frame's head (RFC 9113, 4.1). Unit: bytes.
const HEAD: usize = 9;
/// Length of what a reset says (RFC 9113, 6.4). Unit: bytes.
const CODE: usize = 4;
/// A stream's reset.
const RST_STREAM: u8 = 3;
/// Why, where nothing of it was looked at.
const REFUSED_STREAM: u32 = 7;

/// Frames as they leave.
#[derive(Debug, Default)]
struct Frames {
    /// The head of one, and of a reset what follows.
    begun: [u8; HEAD + CODE],
    /// How much of that there is.
    have: usize,
    /// How much of a frame is still to come and not looked at.
    skip: usize,
}

impl Frames {
    /// Follows what leaves. Returns how many streams were refused by it.
    fn follow(&mut self, mut bytes: &[u8]) -> usize {
        let mut refused = 0;
        while !bytes.is_empty() {
            if self.skip > 0 {
                let now = self.skip.min(bytes.len());
                self.skip -= now;
                bytes = bytes.get(now..).unwrap_or_default();
                continue;
            }
            let wanted = if self.have < HEAD { HEAD } else { HEAD + CODE };
            let (now, rest) = bytes.split_at((wanted - self.have).min(bytes.len()));
            self.begun.iter_mut().skip(self.have).zip(now).for_each(|(to, from)| *to = *from);
            self.have += now.len();
            bytes = rest;
            let [a, b, c, kind, _, _, _, _, _, code @ ..] = self.begun;
            let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
            let is_reset = kind == RST_STREAM && length == CODE;
            if self.have == HEAD && !is_reset {
                (self.have, self.skip) = (0, length);
            } else if self.have == HEAD + CODE {
                self.have = 0;
                refused += usize::from(u32::from_be_bytes(code) == REFUSED_STREAM);
            }
        }
        refused
    }
}

/// A connection on which HTTP/2 is served.
pub struct Overrun<IO, F> {
    io: IO,
    frames: Frames,
    tell: F,
}

impl<IO, F: Fn()> Overrun<IO, F> {
    /// Makes it of a connection on which nothing was said; `tell` is called for each stream that is refused.
    pub fn new(io: IO, tell: F) -> Self {
        Overrun { io, frames: Frames::default(), tell }
    }

    fn left(&mut self, bytes: &[u8]) {
        for _ in 0..self.frames.follow(bytes) {
            (self.tell)();
        }
    }
}

impl<IO: AsyncRead + Unpin, F: Unpin> AsyncRead for Overrun<IO, F> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

// What was taken is followed, not what was offered: that may be offered again.
impl<IO: AsyncWrite + Unpin, F: Fn() + Unpin> AsyncWrite for Overrun<IO, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.left(buf.get(..taken).unwrap_or(buf));
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let mut left = taken;
        for buf in bufs {
            let now = left.min(buf.len());
            self.left(buf.get(..now).unwrap_or(buf));
            left -= now;
        }
        Poll::Ready(Ok(taken))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn refusals_are_counted_however_the_bytes_are_cut_and_nothing_that_looks_like_one() {
        let refusal = frame(RST_STREAM, &REFUSED_STREAM.to_be_bytes());
        let all = [
            frame(4, &[0; 12]),
            refusal.clone(),
            // What an answer says is no frame.
            frame(0, &refusal),
            frame(0, &[]),
            frame(RST_STREAM, &8u32.to_be_bytes()),
            refusal.clone(),
            frame(0, &vec![3; 70_000]),
            refusal,
        ]
        .concat();
        for size in [1, 2, 5, 9, 13, 4096, all.len()] {
            let mut frames = Frames::default();
            assert_eq!(all.chunks(size).map(|piece| frames.follow(piece)).sum::<usize>(), 3, "{size}");
        }
    }
}

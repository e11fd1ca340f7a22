//! What was read of servers and not yet by the bottle. Each answer has its buffers on the way, and very many answers that nobody
//! reads would fill very many of them: beyond a bound for all of a bottle, each has one piece on its way and no more.
//!
//! Nothing waits for others: who reads gets the next piece.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

/// What may be on its way of all answers of a bottle before each has only one piece. Unit: bytes.
pub const UNREAD: usize = 1 << 20;

/// What is on its way to one bottle.
#[derive(Clone, Debug, Default)]
pub struct Unread(Arc<AtomicUsize>);

impl Unread {
    /// Begins an answer.
    pub fn answer(&self) -> Answer {
        Answer { all: self.clone(), own: Arc::default() }
    }
}

/// What is on its way of one answer.
#[derive(Debug)]
pub struct Answer {
    all: Unread,
    own: Arc<Own>,
}

#[derive(Debug, Default)]
struct Own {
    bytes: AtomicUsize,
    waker: AtomicWaker,
}

impl Answer {
    /// Tells whether the next piece may be read; wakes the task when what is on its way has become less.
    pub fn poll_next(&self, cx: &Context<'_>) -> bool {
        let may = || self.own.bytes.load(Ordering::Acquire) == 0 || self.all.0.load(Ordering::Relaxed) <= UNREAD;
        if may() {
            return true;
        }
        self.own.waker.register(cx.waker());
        may()
    }

    /// Counts a piece until its last copy is gone.
    pub fn count(&self, mut bytes: Bytes) -> Bytes {
        if self.all.0.load(Ordering::Relaxed) > UNREAD / 2 {
            // It may be a small part of a large buffer, which would be kept for it.
            bytes = Bytes::copy_from_slice(&bytes);
        }
        self.own.bytes.fetch_add(bytes.len(), Ordering::AcqRel);
        self.all.0.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Piece { bytes, all: self.all.clone(), own: Arc::clone(&self.own) })
    }
}

struct Piece {
    bytes: Bytes,
    all: Unread,
    own: Arc<Own>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        self.own.bytes.fetch_sub(self.bytes.len(), Ordering::AcqRel);
        self.own.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    fn piece(length: usize) -> Bytes {
        Bytes::from(vec![7; length])
    }

    #[tokio::test]
    async fn beyond_the_bound_each_answer_has_one_piece_on_its_way() {
        let all = Unread::default();
        let (one, two) = (all.answer(), all.answer());
        let may = |answer: &Answer| answer.poll_next(&Context::from_waker(std::task::Waker::noop()));
        let mut held: Vec<_> = (0..=UNREAD >> 20).map(|_| one.count(piece(1 << 20))).collect();
        assert!(!may(&one) && may(&two), "it has none yet");
        let first = two.count(piece(10));
        assert!(!may(&two) && first == piece(10));
        let slice = first.slice(2..3);
        drop(first);
        assert!(!may(&two), "a part of it is there");
        let waiting = tokio::spawn(async move {
            poll_fn(|cx| if two.poll_next(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        });
        tokio::task::yield_now().await;
        drop(slice);
        waiting.await.unwrap();
        held.pop();
        assert!(may(&one), "within the bound");
        drop(held);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }
}

//! The bodies that the plane hands to hyper: answers to the bottle, requests to upstream.
//!
//! No channel and no copy: frames are passed on as they came. What a frame means is [`super::tee`]'s business.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::headers::{self, Cleaning};
use super::streams::Stream;

/// Why a body ended before its end. The other side sees a broken stream, never a complete one.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other side's stream broke.
    #[error("the stream broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The bottle was cut.
    #[error("the bottle's way out was cut")]
    Cut,
    /// Nothing moved for too long.
    #[error("nothing moved for too long")]
    Idle,
    /// The ledger does not answer, so nothing metered may pass.
    #[error("the ledger does not answer")]
    Ledger,
    /// More than the route lets pass.
    #[error("the body is larger than the route allows")]
    TooLarge,
    /// It is coded, and repeats the credential that was put in, or cannot be read.
    #[error("the body is coded, and cannot be passed on")]
    Coded,
}

/// A body that comes from elsewhere.
pub type BoxedBody = Pin<Box<dyn Body<Data = Bytes, Error = BodyError> + Send>>;

/// The body of an answer to the bottle.
pub enum Outgoing {
    /// A text of our own.
    Full(Option<Bytes>),
    /// What upstream answers.
    Passing(BoxedBody),
}

impl Outgoing {
    /// Makes a body of one text.
    pub fn full(text: Bytes) -> Self {
        Outgoing::Full((!text.is_empty()).then_some(text))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Outgoing::Full(text) => Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            Outgoing::Passing(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Outgoing::Full(text) => text.is_none(),
            Outgoing::Passing(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Full(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            Outgoing::Passing(body) => body.size_hint(),
        }
    }
}

/// The body of a request to upstream.
pub enum Upload {
    /// None.
    Empty,
    /// Held whole.
    Held {
        /// The bytes, in as many pieces as they are kept in, until they are taken.
        pieces: VecDeque<Bytes>,
        /// Set when they are taken: from then on upstream may have seen the request.
        taken: Arc<AtomicBool>,
        /// What counts them.
        moved: Arc<Moved>,
    },
    /// As it comes from the bottle.
    Streaming {
        /// The bottle's side.
        inner: Incoming,
        /// When it last moved.
        moved: Arc<Moved>,
        /// The request, which may be cut.
        stream: Arc<Stream>,
        /// How its trailers are cleaned.
        cleaning: Cleaning,
        /// Bytes that may still come; no limit where absent.
        left: Option<u64>,
    },
}

impl Upload {
    /// Makes a held body of pieces; empty ones are left out.
    pub(super) fn held(pieces: impl IntoIterator<Item = Bytes>, taken: Arc<AtomicBool>, moved: &Arc<Moved>) -> Upload {
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Upload::Held { pieces, taken, moved: Arc::clone(moved) }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Upload::Empty => Poll::Ready(None),
            Upload::Held { pieces, taken, moved } => {
                taken.store(true, Ordering::Release);
                let piece = pieces.pop_front();
                moved.count(Way::Up, piece.as_ref().map_or(0, Bytes::len));
                Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
            }
            Upload::Streaming { inner, moved, stream, cleaning, left } => {
                // The answer's side waits for the cut; this only must not go on after it.
                if stream.cancelled() {
                    return Poll::Ready(Some(Err(BodyError::Cut)));
                }
                let frame = Pin::new(inner).poll_frame(cx);
                if frame.is_ready() {
                    moved.mark();
                }
                let clean = |frame: Frame<Bytes>| match frame.into_trailers() {
                    Ok(trailers) => Ok(Frame::trailers(headers::request(&trailers, *cleaning))),
                    Err(frame) => {
                        let length = frame.data_ref().map_or(0, Bytes::len);
                        if let Some(left) = left {
                            let length = u64::try_from(length).unwrap_or(u64::MAX);
                            *left = left.checked_sub(length).ok_or_else(|| {
                                moved.sent_too_much.store(true, Ordering::Release);
                                BodyError::TooLarge
                            })?;
                        }
                        moved.count(Way::Up, length);
                        Ok(frame)
                    }
                };
                frame.map(|f| f.map(|r| r.map_err(BodyError::Broken).and_then(clean)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Empty => true,
            // An empty body is not polled, and then nothing would mark it as taken.
            Upload::Held { .. } => false,
            Upload::Streaming { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Empty => SizeHint::with_exact(0),
            Upload::Held { pieces, .. } => SizeHint::with_exact(pieces.iter().map(|piece| piece.len() as u64).sum()),
            Upload::Streaming { inner, .. } => inner.size_hint(),
        }
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Out of the bottle.
    Up,
    /// Into it.
    Down,
}

/// When something last moved, and how much did. Cheap to mark from one task and read from another.
#[derive(Debug)]
pub struct Moved {
    start: Instant,
    millis: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    /// More was sent than the route allows; what the client of the upstream server makes of that is a broken connection.
    sent_too_much: AtomicBool,
}

impl Moved {
    /// Starts now.
    pub fn new() -> Arc<Moved> {
        let none = || AtomicU64::new(0);
        Arc::new(Moved {
            start: Instant::now(),
            millis: none(),
            up: none(),
            down: none(),
            sent_too_much: AtomicBool::new(false),
        })
    }

    /// Counts bytes that are passed on.
    pub fn count(&self, way: Way, bytes: usize) {
        let counter = match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        };
        counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Tells whether more was sent than the route allows.
    pub fn sent_too_much(&self) -> bool {
        self.sent_too_much.load(Ordering::Acquire)
    }

    /// Gets the bytes that went out of the bottle.
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    /// Gets the bytes that came into it.
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    /// Marks that something moved.
    pub fn mark(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// Gets the time since.
    pub fn since(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.millis.load(Ordering::Relaxed)))
    }
}

/// A time-out that is pushed on with every movement, without touching the timer each time.
pub struct Idle {
    moved: Arc<Moved>,
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    /// Makes a time-out of `limit` without movement.
    pub fn new(moved: Arc<Moved>, limit: Duration) -> Idle {
        Idle { moved, limit, sleep: None }
    }

    /// Marks a movement.
    pub fn mark(&self) {
        self.moved.mark();
    }

    /// Tells whether nothing has moved for too long; wakes the task when that happens.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) -> bool {
        let limit = self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        while std::future::Future::poll(sleep.as_mut(), cx).is_ready() {
            let since = self.moved.since();
            if since >= limit {
                return true;
            }
            sleep.as_mut().reset(Instant::now() + (limit - since));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_movement_pushes_the_time_out_on() {
        let moved = Moved::new();
        let mut idle = Idle::new(Arc::clone(&moved), Duration::from_millis(80));
        let began = Instant::now();
        let marker = tokio::spawn(async move {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_millis(40)).await;
                moved.mark();
            }
        });
        poll_fn(|cx| if idle.poll_idle(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        assert_eq!(began.elapsed().as_millis(), 4 * 40 + 80);
        marker.await.unwrap();
    }
}

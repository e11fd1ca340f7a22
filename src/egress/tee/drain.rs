//! What of an answer is read on when its client has gone: its usage, where its API says that last, and no more.
//!
//! Bounded in time and size, and over at once where the bottle is to end or a cut closes it. The bottle has its place back before it
//! begins.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::Metering;
use crate::egress::echo::Echo;
use crate::egress::streams::LeftBehind;
use crate::ledger::Ledger;

/// How long the usage is waited for.
const TIME: Duration = Duration::from_secs(2);
/// How much is read for it. Unit: bytes.
const MOST: usize = 256 << 10;

/// What upstream sends; nothing, once it was closed.
pub(super) struct Source(Option<Incoming>);

impl Source {
    pub(super) fn new(inner: Incoming) -> Source {
        Source(Some(inner))
    }

    /// Drops the connection to it.
    pub(super) fn close(&mut self) {
        self.0 = None;
    }

    /// Moves it out of its place.
    pub(super) fn take(&mut self) -> Source {
        Source(self.0.take())
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(inner) => Pin::new(inner).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

/// Reads on until the usage was seen. What is known then settles the hold.
pub(super) fn drain<L: Ledger>(
    mut source: Source,
    mut echo: Option<Echo>,
    mut metering: Metering<L>,
    behind: LeftBehind,
) {
    let Some(keeping) = metering.hold.as_mut().map(|hold| {
        hold.left_alone();
        hold.keeping()
    }) else {
        return;
    };
    // What is beyond is settled by what is known: these are in no limit of requests any more.
    let Ok(place) = keeping.drains.clone().try_acquire_owned() else { return };
    keeping.runtime.clone().spawn(async move {
        let _place = place;
        let mut left = MOST;
        let read = async {
            while let Some(Ok(frame)) = source.frame().await {
                let Ok(bytes) = frame.into_data() else { continue };
                // What the meter keeps goes into the ledger: no credential does.
                let Ok(bytes) = echo.as_mut().map_or(Ok(bytes.clone()), |echo| echo.pass(bytes)) else { return };
                metering.meter.feed(&bytes);
                left = left.saturating_sub(bytes.len());
                if left == 0 || metering.meter.terminal() {
                    return;
                }
            }
        };
        tokio::select! {
            // What comes after it is not read.
            biased;
            () = behind.wait_cancelled() => {}
            () = keeping.tally.hurry() => {}
            () = read => {}
            () = tokio::time::sleep(TIME) => {}
        }
    });
}

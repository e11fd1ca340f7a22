//! What of an answer's body is there as soon as its head is: both go to the bottle together then, in one record and with one
//! wake-up. Never waits for what is not there.

use std::future::poll_fn;
use std::task::Poll;

use hyper::body::Body;

use super::Tee;
use crate::ledger::Ledger;

impl<L: Ledger> Tee<L> {
    /// Takes the first frame, if it is there.
    pub async fn what_is_there(mut self) -> Self {
        if self.inner.is_end_stream() {
            return self;
        }
        // The first look asks the connection to upstream for the body; that has its turn, and then it is there or not.
        for look in 0..2 {
            if look > 0 {
                tokio::task::yield_now().await;
            }
            let frame = poll_fn(|cx| match self.poll_next(cx) {
                Poll::Ready(frame) => Poll::Ready(Some(frame)),
                Poll::Pending => Poll::Ready(None),
            });
            self.ready = frame.await;
            if self.ready.is_some() {
                break;
            }
        }
        self
    }
}

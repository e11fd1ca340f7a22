//! How much is under way in a bottle, so that its end can be waited for. It only counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts what is under way, so that an end can be waited for.
#[derive(Debug, Default)]
pub struct Tally {
    open: AtomicUsize,
    idle: Notify,
    waiting: AtomicUsize,
    hurry: Notify,
}

impl Tally {
    /// Counts one more, until the ticket is dropped.
    pub fn enter(self: &Arc<Self>) -> Ticket {
        self.open.fetch_add(1, Ordering::Relaxed);
        Ticket(Arc::clone(self))
    }

    /// Gets how many are under way.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until nothing is under way; whoever takes time that need not be is told to hurry.
    pub async fn idle(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        self.hurry.notify_waiters();
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Waits until somebody waits for the end.
    pub async fn hurry(&self) {
        let hurry = self.hurry.notified();
        tokio::pin!(hurry);
        hurry.as_mut().enable();
        if self.waiting.load(Ordering::SeqCst) == 0 {
            hurry.await;
        }
    }
}

/// One who waits for the end.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One thing under way.
#[derive(Debug)]
pub struct Ticket(Arc<Tally>);

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_waits_for_every_ticket() {
        let tally = Arc::new(Tally::default());
        let ticket = tally.enter();
        let waiting = tokio::spawn({
            let tally = Arc::clone(&tally);
            async move { tally.idle().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(ticket);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn who_waits_for_the_end_hurries_the_others() {
        let tally = Arc::new(Tally::default());
        let ticket = tally.enter();
        let theirs = Arc::clone(&tally);
        let slow = tokio::spawn(async move {
            theirs.hurry().await;
            drop(ticket);
        });
        tokio::task::yield_now().await;
        assert!(!slow.is_finished());
        tally.idle().await;
        slow.await.unwrap();
        assert!(futures_util::FutureExt::now_or_never(tally.hurry()).is_none(), "nobody waits any more");
    }
}

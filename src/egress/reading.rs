//! Where what a bottle says is read: a little at once; much on a thread that may be busy, so that nobody else's requests wait for it.
//! What is read, and what becomes of it, is the caller's.

use tokio::sync::OwnedMutexGuard;

/// Most that is read without asking another thread. Unit: bytes.
const AT_ONCE: usize = 64 << 10;

/// Does `work`, which reads so many bytes: many megabytes keep a processor busy, and the runtime's own threads carry every bottle.
/// `one` is the bottle's turn, which is its until all is read, whoever still waits for that. `None` where the work failed.
pub(super) async fn aside<T: Send + 'static>(
    bytes: usize,
    one: OwnedMutexGuard<()>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= AT_ONCE {
        return Some(work());
    }
    let work = move || {
        let _one = one;
        work()
    };
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;

    use tokio::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn little_is_read_at_once_and_much_on_another_thread() {
        let here = thread::current().id();
        let turn = Arc::new(Mutex::new(()));
        for (bytes, at_once) in [(0, true), (AT_ONCE, true), (AT_ONCE + 1, false)] {
            let one = Arc::clone(&turn).lock_owned().await;
            let there = aside(bytes, one, || thread::current().id()).await;
            assert_eq!(there == Some(here), at_once, "{bytes}");
            assert!(turn.try_lock().is_ok());
        }
    }

    #[tokio::test]
    async fn the_turn_is_over_when_all_is_read_though_nobody_waits_for_it() {
        let turn = Arc::new(Mutex::new(()));
        let (begins, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let one = Arc::clone(&turn).lock_owned().await;
        let work = move || {
            begins.send(()).unwrap();
            may_go.recv()
        };
        let waits = tokio::spawn(aside(AT_ONCE + 1, one, work));
        tokio::task::yield_now().await;
        has_begun.recv().unwrap();
        waits.abort();
        assert!(waits.await.is_err());
        assert!(turn.try_lock().is_err());
        go.send(()).unwrap();
        drop(turn.lock().await);
    }
}

//! Brings what was committed to the disk: an fsync of the write-ahead log at least every 250 ms while there is
//! something new in it, and checkpoints, both on a thread of their own so that no commit waits for them.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;

/// How long a commit may stay in memory; the fsync itself takes the rest of the 250 ms.
const PERIOD: Duration = Duration::from_millis(200);

/// After so many commits the log is moved into the database.
const CHECKPOINT_AFTER: u32 = 256;

/// The thread, and what is shared with it.
pub(super) struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    wal: File,
    state: Mutex<State>,
    wake: Condvar,
    failed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Commits since the last fsync.
    dirty: bool,
    /// Commits since the last checkpoint.
    commits: u32,
    stop: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync(&self) -> std::io::Result<()> {
        // After a failed fsync the kernel may have dropped the pages: what is on the disk is unknown from then on.
        self.wal.sync_data().inspect_err(|_| self.failed.store(true, Ordering::SeqCst))
    }
}

impl Syncer {
    /// Starts the thread. `conn` is used for checkpoints only; the log exists.
    ///
    /// # Errors
    /// Where the log cannot be opened or the thread not be started.
    pub(super) fn start(wal: &Path, conn: Connection) -> std::io::Result<Syncer> {
        let shared = Arc::new(Shared {
            wal: File::options().read(true).write(true).open(wal)?,
            state: Mutex::default(),
            wake: Condvar::new(),
            failed: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("ledger-sync".to_owned()).spawn(move || run(&theirs, &conn))?;
        Ok(Syncer { shared, thread: Some(thread) })
    }

    /// Says that a commit was made.
    pub(super) fn dirty(&self) {
        let mut state = self.shared.state();
        state.commits = state.commits.saturating_add(1);
        if !state.dirty {
            state.dirty = true;
            self.shared.wake.notify_one();
        }
    }

    /// Brings everything committed to the disk before it returns.
    ///
    /// # Errors
    /// As the operating system says; the ledger is not to be trusted afterwards ([`Syncer::failed`]).
    pub(super) fn now(&self) -> std::io::Result<()> {
        self.shared.sync()
    }

    /// Tells whether an fsync has ever failed.
    pub(super) fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::SeqCst)
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, conn: &Connection) {
    loop {
        let state = shared.wake.wait_while(shared.state(), |s| !s.dirty && !s.stop);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let waited = shared.wake.wait_timeout_while(state, PERIOD, |s| !s.stop);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (stop, dirty) = (state.stop, std::mem::take(&mut state.dirty));
        let checkpoint = state.commits >= CHECKPOINT_AFTER;
        if checkpoint {
            state.commits = 0;
        }
        drop(state);
        if dirty && let Err(e) = shared.sync() {
            tracing::error!("the ledger's log cannot be brought to the disk: {e}");
        }
        if stop {
            return;
        }
        // Passive: takes no lock that the writer or a reader waits for. What it leaves, the next one does.
        if checkpoint && let Err(e) = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            tracing::warn!("checkpoint: {e}");
        }
    }
}

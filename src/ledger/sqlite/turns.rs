//! Whose turn it is to write. One writes at a time: a caller in its own thread where nobody else writes or waits, else the
//! writer's thread, which takes all that is queued as one group.
//!
//! The caller's own thread saves two wake-ups, which take longer than the commit. It does nothing that may take long: no
//! waiting for a lock, no fsync of every commit; who would have to wait queues up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::writer::{Job, Writer};
use crate::ledger::LedgerError;

/// Commands that may queue up before callers wait to queue theirs.
const QUEUE: usize = 1024;

/// Most commands of one transaction; more only make everybody wait longer.
const BATCH: usize = 256;

/// For each command of a group, so many later ones queue up without trying to go first: callers that come together are done
/// sooner as a group.
const CROWD: usize = 8;

/// Most settles that are kept for later while the disk is full. What is lost beyond is swept at its estimate.
const KEPT: usize = 4096;

/// How often kept settles are tried again.
const RETRY: Duration = Duration::from_millis(100);

/// What is sent to the writer's thread.
enum Message {
    /// A command.
    Job(Box<dyn Job>),
    /// Look at the list of holds that nobody took.
    Wake,
    /// Commit what is queued and stop.
    Close(oneshot::Sender<()>),
}

/// How long a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// No longer than a write into memory: any thread may do it.
    Quick,
    /// As long as the disk: for the writer's thread.
    Fsync,
}

/// The way to the writer. When the last clone goes, the thread commits what is queued and stops.
#[derive(Clone)]
pub(super) struct Turns {
    queue: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

/// What callers and the thread share.
struct Shared {
    /// Who has it writes. None once it is closed; poisoned where a command panicked, and then nobody writes any more.
    writer: Mutex<Option<Writer>>,
    /// Commands that were queued and not yet done. Nobody goes before them.
    queued: AtomicUsize,
    /// Commands that have to queue up because many came together lately.
    crowd: AtomicUsize,
    /// The pace of a commit as such.
    pace: Pace,
}

impl Turns {
    /// Starts the thread. `pace` is that of a commit as such.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub(super) fn start(writer: Writer, pace: Pace) -> std::io::Result<Turns> {
        let (queue, messages) = mpsc::channel(QUEUE);
        let (writer, queued, crowd) = (Mutex::new(Some(writer)), AtomicUsize::new(0), AtomicUsize::new(0));
        let shared = Arc::new(Shared { writer, queued, crowd, pace });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("ledger-writer".to_owned()).spawn(move || serve(&theirs, messages))?;
        Ok(Turns { queue, shared })
    }

    /// Has a command done, here or in the writer's thread. It gives its answer itself.
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`] where it is closed.
    pub(super) async fn write(&self, pace: Pace, job: Box<dyn Job>) -> Result<(), LedgerError> {
        let Some(job) = self.at_once(pace, job) else { return Ok(()) };
        let place = match self.queue.try_reserve() {
            Ok(place) => place,
            // Only a full queue is waited for: a caller that gives up at a needless wait would take its command along.
            Err(_) => {
                let closed = |_| LedgerError::Unavailable("it is closed".to_owned());
                self.queue.reserve().await.map_err(closed)?
            }
        };
        self.shared.queued.fetch_add(1, Ordering::SeqCst);
        place.send(Message::Job(job));
        Ok(())
    }

    /// Does a command in this thread; gives it back where it is not its turn.
    fn at_once(&self, pace: Pace, job: Box<dyn Job>) -> Option<Box<dyn Job>> {
        if [pace, self.shared.pace].contains(&Pace::Fsync) || self.shared.queued.load(Ordering::SeqCst) > 0 {
            return Some(job);
        }
        if self.shared.crowd.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Some(job);
        }
        match self.shared.writer.try_lock() {
            Ok(mut writer) => match writer.as_mut() {
                Some(writer) => {
                    let job = writer.one(job);
                    if writer.has_to_fold() {
                        self.wake();
                    }
                    job
                }
                None => Some(job),
            },
            Err(_) => Some(job),
        }
    }

    /// Has the thread look at what callers left behind.
    pub(super) fn wake(&self) {
        // A full queue means that it is about to look anyway.
        let _ = self.queue.try_send(Message::Wake);
    }

    /// Waits until all that is queued is committed and the files are closed.
    pub(super) async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.queue.send(Message::Close(reply)).await.is_ok() {
            let _ = done.await;
        }
    }
}

impl Shared {
    /// Waits for the turn of the thread. None once a command has panicked: what the writer holds is unknown.
    fn turn(&self) -> Option<MutexGuard<'_, Option<Writer>>> {
        self.writer.lock().ok()
    }
}

/// Serves the queue until it is closed.
fn serve(shared: &Shared, mut queue: mpsc::Receiver<Message>) {
    let mut kept: Vec<Box<dyn Job>> = Vec::new();
    let mut closing: Vec<oneshot::Sender<()>> = Vec::new();
    let mut folding = shared.turn().is_some_and(|turn| turn.as_ref().is_some_and(Writer::has_to_fold));
    loop {
        let first = match queue.try_recv() {
            Ok(message) => Some(message),
            // Nobody waits: some of what is left to do can be done.
            Err(mpsc::error::TryRecvError::Empty) if folding => Some(Message::Wake),
            Err(_) if kept.is_empty() => queue.blocking_recv(),
            Err(_) => poll(&mut queue),
        };
        let Some(first) = first else { break };
        let mut batch = std::mem::take(&mut kept);
        let mut taken = 0;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Job(job) => {
                    batch.push(job);
                    taken += 1;
                }
                Message::Wake => {}
                Message::Close(reply) => {
                    queue.close();
                    closing.push(reply);
                }
            }
            next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
        }
        let Some(mut turn) = shared.turn() else { return };
        let Some(writer) = turn.as_mut() else { return };
        kept = writer.batch(batch);
        kept.truncate(KEPT);
        folding = writer.fold();
        drop(turn);
        if taken > 1 {
            shared.crowd.store(CROWD * taken, Ordering::SeqCst);
        }
        shared.queued.fetch_sub(taken, Ordering::SeqCst);
    }
    let writer = shared.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(mut writer) = writer {
        let lost = if kept.is_empty() { 0 } else { writer.batch(kept).len() };
        if lost > 0 {
            tracing::error!("{lost} settles could not be written; the next start charges their estimates");
        }
        writer.close();
    }
    for reply in closing {
        let _ = reply.send(());
    }
}

/// Waits a little for a message while settles are kept for another try; `Wake` when it is time for that.
fn poll(queue: &mut mpsc::Receiver<Message>) -> Option<Message> {
    match queue.try_recv() {
        Ok(message) => Some(message),
        Err(mpsc::error::TryRecvError::Disconnected) => None,
        Err(mpsc::error::TryRecvError::Empty) => {
            std::thread::sleep(RETRY);
            Some(Message::Wake)
        }
    }
}

//! Commands and their transactions: takes what is there, commits it as one, then answers. Who does it, the caller's
//! thread or the writer's own, is [`super::turns`]'s business; it is one at a time.
//!
//! Group commit never waits for company. A command that fails leaves the others alone: where it had written anything,
//! the transaction is rolled back and each of its commands gets one of its own. (A savepoint for each command would do
//! the same, but SQLite then copies every page that is touched.) A commit that fails fails them all. Events go out and answers are given only after the commit (and,
//! for audit rows, after an fsync).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{broadcast, oneshot, watch};

use super::book::Book;
use super::connect::{BUSY, trouble};
use super::errors::map;
use super::record::Written;
use super::sync::Syncer;
use super::{schema, settle, sums};
use crate::api::Event;
use crate::budget::Weights;
use crate::ledger::{Answer, LedgerError};

/// What a command works with: one transaction, and what is to happen after its commit.
pub(super) struct Tx<'a> {
    /// The connection, inside the transaction.
    pub conn: &'a Connection,
    /// What is known of its tables.
    pub book: &'a mut Book,
    /// Milliseconds since the epoch, the same for the whole transaction.
    pub now: i64,
    /// This writer's epoch.
    pub epoch: i64,
    /// Weights in force.
    pub weights: &'a Weights,
    /// Where the database lies.
    pub path: &'a std::path::Path,
    /// Events written, in order of `seq`.
    pub events: Vec<Written>,
    /// To be on the disk before it is acknowledged.
    pub durable: bool,
    /// A hold has ended or a limit was set.
    pub freed: bool,
}

impl Tx<'_> {
    /// Turns an error of SQLite into the ledger's.
    pub(super) fn error(&self, e: &rusqlite::Error) -> LedgerError {
        map(e, self.path)
    }
}

/// One command in the queue.
pub(super) trait Job: Send {
    /// Does the work inside the transaction and keeps the answer.
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), LedgerError>;
    /// Gives the answer, or `failed` where the transaction came to nothing.
    fn finish(&mut self, failed: Option<&LedgerError>);
    /// Whether it is to be tried again after such a failure.
    fn keep(&self) -> bool;
    /// Whether it is pointless by now.
    fn pointless(&self) -> bool;
}

/// How much a command matters once its caller has gone away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// It is done all the same.
    Done,
    /// It is not done: nobody is there to use it.
    Awaited,
    /// It is done, and tried again when the disk was full.
    Kept,
}

/// A command made of a function; it may run more than once.
pub(super) struct Call<T, F> {
    pub work: F,
    pub care: Care,
    pub answer: Option<Answer<T>>,
    pub reply: Option<oneshot::Sender<Answer<T>>>,
}

impl<T: Send, F: Fn(&mut Tx<'_>) -> Answer<T> + Send> Job for Call<T, F> {
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), LedgerError> {
        let answer = (self.work)(tx);
        let result = answer.as_ref().map(|_| ()).map_err(Clone::clone);
        self.answer = Some(answer);
        result
    }

    fn finish(&mut self, failed: Option<&LedgerError>) {
        let answer = match failed {
            Some(e) => Err(e.clone()),
            None => self.answer.take().unwrap_or_else(|| Err(LedgerError::Unavailable("no answer".to_owned()))),
        };
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(answer);
        }
    }

    fn keep(&self) -> bool {
        self.care == Care::Kept
    }

    fn pointless(&self) -> bool {
        self.care == Care::Awaited && self.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// Ids of holds whose callers went away before they had the answer: nothing was sent upstream for them.
pub(super) type Unclaimed = Arc<Mutex<Vec<String>>>;

/// Why a transaction came to nothing.
enum Failure {
    /// Another process writes; nothing was tried.
    Busy(LedgerError),
    /// For a reason that is everybody's.
    All(LedgerError),
    /// One command failed after it had written.
    Command,
}

/// The writer's state.
pub(super) struct Writer {
    pub conn: Connection,
    pub book: Book,
    pub path: PathBuf,
    pub epoch: i64,
    pub weights: Weights,
    pub sync: Syncer,
    pub events: broadcast::Sender<Event>,
    pub freed: watch::Sender<u64>,
    pub unclaimed: Unclaimed,
    /// How long SQLite waits at present for a lock that another process holds.
    pub waits: Duration,
    /// What went wrong last, so that it is logged once and not at every try.
    pub trouble: Option<LedgerError>,
    /// The same, for those who ask.
    pub told: watch::Sender<Option<LedgerError>>,
}

impl Writer {
    /// Sets how long SQLite waits for a lock that another process holds.
    fn wait_for_others(&mut self, patience: Duration) {
        if self.waits != patience && self.conn.busy_timeout(patience).is_ok() {
            self.waits = patience;
        }
    }

    /// Runs one command and answers it. Gives it back, with nothing done, where it would have to wait for another process or
    /// others have to go before it; and, answered, where it is to be tried again.
    pub(super) fn one(&mut self, job: Box<dyn Job>) -> Option<Box<dyn Job>> {
        if self.trouble.is_some() || !self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return Some(job);
        }
        self.wait_for_others(Duration::ZERO);
        let mut jobs = [job];
        let failure = self.transaction(&mut jobs).err();
        if matches!(failure, Some(Failure::Busy(_))) {
            let [job] = jobs;
            return Some(job);
        }
        let mut again = Vec::new();
        self.finish(jobs, failure, &mut again);
        again.pop()
    }

    /// Moves the log into the database as far as that goes, and brings it to the disk.
    pub(super) fn close(mut self) {
        self.wait_for_others(BUSY);
        if let Err(e) = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!("last checkpoint: {e}");
        }
        let _ = self.sync.now();
    }

    /// Tells whether enough rows wait to be brought into the sums.
    pub(super) fn has_to_fold(&self) -> bool {
        self.book.unfolded >= sums::ENOUGH
    }

    /// Brings some rows into the sums, if enough wait; tells whether more do. What goes wrong is tried again when more have come:
    /// a report has them all the same.
    pub(super) fn fold(&mut self) -> bool {
        if !self.has_to_fold() || self.trouble.is_some() || self.sync.failed() {
            return false;
        }
        self.wait_for_others(Duration::ZERO);
        let sql = |text: &str| self.conn.prepare_cached(text)?.execute([]).map(|_| ());
        let folded = (|| {
            sql("BEGIN IMMEDIATE")?;
            let rows = sums::fold(&self.conn)?;
            sql("COMMIT")?;
            Ok::<u32, rusqlite::Error>(rows)
        })();
        match folded {
            Ok(rows) => {
                self.sync.dirty();
                // As many as were asked for: there may be more.
                self.book.unfolded = if rows == sums::MOST { sums::ENOUGH } else { 0 };
            }
            Err(e) => {
                tracing::debug!("sums: {e}");
                if !self.conn.is_autocommit() {
                    let _ = sql("ROLLBACK");
                }
                // Where another process has the book for a moment, the next request finds it free; else not before more have come.
                if e.sqlite_error_code() != Some(rusqlite::ErrorCode::DatabaseBusy) {
                    self.book.unfolded = 0;
                }
                return false;
            }
        }
        self.has_to_fold()
    }

    /// Runs commands as one transaction and answers them. Returns those that are to be tried again.
    pub(super) fn batch(&mut self, mut jobs: Vec<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
        self.wait_for_others(BUSY);
        jobs.retain(|job| !job.pointless());
        let unclaimed = std::mem::take(&mut *self.unclaimed.lock().unwrap_or_else(PoisonError::into_inner));
        for id in unclaimed {
            let work = move |tx: &mut Tx<'_>| settle::release_unclaimed(tx, &id);
            jobs.push(Box::new(Call { work, care: Care::Kept, answer: None, reply: None }));
        }
        if jobs.is_empty() {
            return Vec::new();
        }
        let mut again = Vec::new();
        match self.transaction(&mut jobs) {
            Err(Failure::Command) if jobs.len() > 1 => {
                for job in jobs {
                    let mut one = [job];
                    let failure = self.transaction(&mut one).err();
                    self.finish(one, failure, &mut again);
                }
            }
            done => self.finish(jobs, done.err(), &mut again),
        }
        again
    }

    /// Answers commands; those that are to be tried again go to `again`.
    fn finish(
        &mut self,
        jobs: impl IntoIterator<Item = Box<dyn Job>>,
        failure: Option<Failure>,
        again: &mut Vec<Box<dyn Job>>,
    ) {
        // A single command that failed knows why itself.
        let failed = failure.and_then(|failure| match failure {
            Failure::Busy(e) | Failure::All(e) => Some(e),
            Failure::Command => None,
        });
        match &failed {
            Some(e) if self.trouble.as_ref() != Some(e) => tracing::error!("{e}"),
            None if self.trouble.is_some() => tracing::info!("the ledger is written again"),
            _ => {}
        }
        self.told.send_if_modified(|told| {
            let is_news = *told != failed;
            told.clone_from(&failed);
            is_news
        });
        self.trouble.clone_from(&failed);
        for mut job in jobs {
            job.finish(failed.as_ref());
            if failed.is_some() && job.keep() {
                again.push(job);
            }
        }
    }

    /// Tells what a `BEGIN` that failed means.
    fn begin_failed(&self, e: &rusqlite::Error) -> Failure {
        let said = map(e, &self.path);
        if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) {
            Failure::Busy(said)
        } else {
            Failure::All(said)
        }
    }

    /// Runs commands as one transaction, without answering them.
    fn transaction(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), Failure> {
        if self.sync.failed() {
            let text = "the disk refused an fsync; restart the controller".to_owned();
            return Err(Failure::All(LedgerError::Unavailable(text)));
        }
        let sql = |conn: &Connection, text: &str| conn.prepare_cached(text)?.execute([]).map(|_| ());
        sql(&self.conn, "BEGIN IMMEDIATE").map_err(|e| self.begin_failed(&e))?;
        let mut tx = Tx {
            conn: &self.conn,
            book: &mut self.book,
            now: now_ms(),
            epoch: self.epoch,
            weights: &self.weights,
            path: &self.path,
            events: Vec::new(),
            durable: false,
            freed: false,
        };
        let worked = (|| {
            let anew = tx.book.begin(tx.conn, tx.now).map_err(|e| Failure::All(tx.error(&e)))?;
            // Whoever has written meanwhile may be a newer bb, which knows what this one does not.
            if anew && let Err(wrong) = schema::check(tx.conn) {
                return Err(Failure::All(trouble(wrong, tx.path)));
            }
            for job in jobs.iter_mut() {
                let (events, written, changed) = (tx.events.len(), tx.conn.total_changes(), tx.book.changes());
                match job.run(&mut tx) {
                    Ok(()) => {}
                    // Some errors (a full disk) end the whole transaction.
                    Err(e) if tx.conn.is_autocommit() => return Err(Failure::All(e)),
                    Err(e @ (LedgerError::Full(_) | LedgerError::Corrupt(_))) => return Err(Failure::All(e)),
                    Err(_)
                        if tx.conn.total_changes() == written
                            && tx.events.len() == events
                            && tx.book.changes() == changed => {}
                    Err(_) => return Err(Failure::Command),
                }
            }
            tx.book.flush(tx.conn).map_err(|e| Failure::All(tx.error(&e)))?;
            sql(tx.conn, "COMMIT").map_err(|e| Failure::All(tx.error(&e)))
        })();
        let Tx { events, durable, freed, .. } = tx;
        if let Err(e) = worked {
            self.book.forget();
            if !self.conn.is_autocommit() {
                let _ = sql(&self.conn, "ROLLBACK");
            }
            if let Failure::All(LedgerError::Corrupt(_)) = &e {
                // What was read is not to be remembered: the file may be put right.
                let _ = self.conn.release_memory();
            }
            return Err(e);
        }
        self.sync.dirty();
        if durable {
            self.sync.now().map_err(|e| Failure::All(LedgerError::Unavailable(format!("fsync: {e}"))))?;
        }
        // Whoever begins to listen after the commit finds them in the tables.
        if self.events.receiver_count() > 0 {
            for event in events {
                let _ = self.events.send(event.event());
            }
        }
        if freed {
            self.freed.send_modify(|n| *n = n.wrapping_add(1));
        }
        Ok(())
    }
}

/// Gets the time, milliseconds since the epoch.
pub(super) fn now_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

//! The ledger on SQLite: one file for a book, one writer, a few connections that read.
//!
//! Durability, holds and fail-closed behaviour are those of design decisions 4, 5 and 8. Budget decisions come from
//! [`crate::budget`]; here is only what is stored and when it counts as stored. The parts:
//!
//! * `schema`: tables and migrations; `files`: where they may lie and who may read them; `connect`: the writer's connection;
//! * `turns`: who writes when; `writer`: group commit; `book`: what it knows by heart; `sync`: fsync and checkpoints;
//! * `accounts`, `limits`, `hold`, `settle`, `thresholds`, `record`, `learned`: the commands; `queries`: reading;
//! * `chain`, `verify`: what makes a changed row known; `sums`, `report`: what was used; `export`, `backup`, `prune`: its care.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::tz::TimeZone;
use rusqlite::Connection;
use tokio::sync::{broadcast, oneshot, watch};

use self::accounts::Moment;
use self::book::Book;
use self::connect::{BUSY, connect, open_flags, trouble};
use self::queries::Readers;
pub use self::queries::accounts_in;
use self::sync::Syncer;
use self::turns::{Pace, Turns};
use self::writer::{Call, Care, Tx, Unclaimed, Writer};
use super::{
    Answer, BottleRow, EventQuery, HoldOutcome, HoldRequest, Ledger, LedgerError, Lesson, NewEvent, Node, Raise,
    Raised, Settle, Settled, Standing,
};
use crate::api::{Account, BudgetChange, Event, Headroom, Limit, Pruned, UsageQuery, UsageReport, Verified};
use crate::budget::Weights;
use crate::types::{Api, Durability};

mod accounts;
mod backup;
mod book;
mod chain;
mod connect;
mod errors;
mod export;
mod files;
mod headroom;
mod hold;
mod learned;
mod limits;
mod prune;
mod queries;
mod record;
mod report;
mod schema;
mod settle;
mod sums;
mod sync;
#[cfg(test)]
mod tests;
mod thresholds;
mod turns;
mod verify;
mod writer;

/// Oldest SQLite without the bug that could corrupt a write-ahead log on its reset.
const MIN_SQLITE: i32 = 3_051_003;

/// How long is tried whether a trouble is over.
const TRIED: Duration = Duration::from_secs(1);

/// Events that a slow subscriber may fall behind.
const EVENTS: usize = 4096;

/// How a ledger is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a commit counts as done.
    pub durability: Durability,
    /// How tokens are counted.
    pub weights: Weights,
    /// How long a call waits for its commit.
    pub patience: Duration,
    /// The host's time zone: by it days, weeks and months of budgets end.
    pub zone: TimeZone,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            durability: Durability::Normal,
            weights: Weights::default(),
            patience: Duration::from_secs(5),
            zone: TimeZone::UTC,
        }
    }
}

/// A ledger in a SQLite file. Clones share it; when the last one goes, the writer commits what is queued and stops.
#[derive(Clone)]
pub struct SqliteLedger {
    turns: Turns,
    readers: Readers,
    /// Of what reads everything, and hands it to others at their pace: no question waits for that.
    slow: Readers,
    events: broadcast::Sender<Event>,
    freed: watch::Receiver<u64>,
    trouble: watch::Receiver<Option<LedgerError>>,
    unclaimed: Unclaimed,
    weights: Weights,
    seen: headroom::Seen,
    patience: Duration,
}

impl SqliteLedger {
    /// Opens the ledger in `path`, making or migrating it as needed. Blocks; call it where that is allowed.
    ///
    /// # Errors
    /// [`LedgerError::NetworkFs`], [`LedgerError::Newer`] (nothing was changed), [`LedgerError::Corrupt`],
    /// [`LedgerError::Full`], or [`LedgerError::Unavailable`] for what else keeps it from being opened.
    pub fn open(path: &Path, options: Options) -> Result<SqliteLedger, LedgerError> {
        if rusqlite::version_number() < MIN_SQLITE {
            return Err(LedgerError::Unavailable(format!("SQLite {} is too old", rusqlite::version())));
        }
        let io = |e: std::io::Error| match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => LedgerError::Full(e.to_string()),
            _ => LedgerError::Unavailable(format!("{}: {e}", path.display())),
        };
        let path = &std::path::absolute(path).map_err(io)?;
        let dir = path.parent().unwrap_or(path);
        files::check_file_system(dir)?;
        files::make_private(path).map_err(io)?;
        let sql = |e: rusqlite::Error| errors::map(&e, path);
        let mut conn = connect(path, options.durability).map_err(|e| trouble(e, path))?;
        let epoch = schema::migrate(&mut conn).map_err(|e| trouble(e, path))?;
        // The names of new files are on the disk only when their directory is.
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        let checkpoints = Connection::open_with_flags(path, open_flags()).map_err(sql)?;
        checkpoints.pragma_update(None, "synchronous", "NORMAL").map_err(sql)?;
        let sync = Syncer::start(&files::beside(path, "-wal"), checkpoints).map_err(io)?;
        sync.now().map_err(io)?;

        let mut book = Book::new(options.zone.clone());
        book.unfolded = sums::waiting(&conn).map_err(sql)?;
        let (events, _) = broadcast::channel(EVENTS);
        let (freed_tx, freed) = watch::channel(0);
        let (told, trouble) = watch::channel(None);
        let unclaimed = Unclaimed::default();
        let writer = Writer {
            conn,
            book,
            path: path.clone(),
            epoch,
            weights: options.weights,
            sync,
            events: events.clone(),
            freed: freed_tx,
            unclaimed: Arc::clone(&unclaimed),
            waits: BUSY,
            trouble: None,
            told,
        };
        let pace = match options.durability {
            Durability::Normal => Pace::Quick,
            Durability::Power => Pace::Fsync,
        };
        let turns = Turns::start(writer, pace).map_err(io)?;
        let (readers, slow) = (Readers::new(path, options.zone.clone()), Readers::new(path, options.zone));
        let seen = headroom::Seen::default();
        let Options { weights, patience, .. } = options;
        Ok(SqliteLedger { turns, readers, slow, events, freed, trouble, unclaimed, weights, seen, patience })
    }

    /// Tells what keeps it from being written. What may be over is tried first.
    pub async fn trouble(&self) -> Option<LedgerError> {
        let known = self.trouble.borrow().clone()?;
        // A page that is sound says nothing of the others.
        if matches!(known, LedgerError::Corrupt(_)) {
            return Some(known);
        }
        let work = |tx: &mut Tx<'_>| {
            let written = tx.conn.execute("UPDATE meta SET value = value", []);
            written.map(|_| ()).map_err(|e| tx.error(&e))
        };
        match tokio::time::timeout(TRIED, self.write(Care::Awaited, work)).await {
            Ok(Ok(())) => None,
            Ok(Err(now)) => Some(now),
            Err(_) => Some(known),
        }
    }

    /// Has `work` done in its turn and waits for its commit.
    async fn write<T, F>(&self, care: Care, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: Fn(&mut Tx<'_>) -> Answer<T> + Send + 'static,
    {
        self.write_at(Pace::Quick, care, work).await
    }

    /// As [`SqliteLedger::write`], for work that may have to be on the disk before it is answered.
    async fn write_at<T, F>(&self, pace: Pace, care: Care, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: Fn(&mut Tx<'_>) -> Answer<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call { work, care, answer: None, reply: Some(reply) };
        let wait = async {
            self.turns.write(pace, Box::new(call)).await?;
            answer.await.unwrap_or_else(|_| Err(LedgerError::Unavailable("its writer is gone".to_owned())))
        };
        self.patiently(wait).await
    }

    /// Removes what is older than `before`, a piece at a time.
    async fn prune_to(&self, before: i64) -> Answer<Pruned> {
        let tell =
            |data: serde_json::Value| NewEvent { kind: "ledger".to_owned(), data, audit: true, ..NewEvent::default() };
        // Before anything goes: whoever asked may be gone before the end.
        self.append(tell(serde_json::json!({ "action": "prune", "before": before }))).await?;
        while self.write(Care::Done, prune::fold).await? {}
        let mut all = Pruned { before, ..Pruned::default() };
        while let Some(piece) = self.write(Care::Done, move |tx| prune::piece(tx, before)).await? {
            all.events += piece.events;
            all.usage += piece.usage;
            all.anchor = all.anchor.max(piece.anchor);
        }
        let data =
            serde_json::json!({ "action": "pruned", "before": before, "events": all.events, "usage": all.usage });
        self.append(tell(data)).await?;
        Ok(all)
    }

    /// Reads with one of the read-only connections.
    async fn read<T, F>(&self, query: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.patiently(self.readers.read(query)).await
    }

    async fn patiently<T>(&self, answer: impl Future<Output = Answer<T>>) -> Answer<T> {
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(LedgerError::Unavailable(format!("no answer within {} ms", self.patience.as_millis()))),
        }
    }
}

/// Gives back a hold that was granted to nobody: dropped while armed, it tells the writer.
struct Unanswered<'a> {
    ledger: &'a SqliteLedger,
    id: &'a str,
    armed: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.ledger.unclaimed.lock().unwrap_or_else(PoisonError::into_inner).push(self.id.to_owned());
            self.ledger.turns.wake();
        }
    }
}

impl Ledger for SqliteLedger {
    async fn hold(&self, request: HoldRequest) -> Answer<HoldOutcome> {
        let id = request.id.clone();
        let mut guard = Unanswered { ledger: self, id: &id, armed: true };
        let outcome = self.write(Care::Awaited, move |tx| hold::hold(tx, &request)).await;
        guard.armed = matches!(outcome, Err(LedgerError::Unavailable(_)));
        outcome
    }

    async fn raise(&self, id: &str, raise: Raise) -> Answer<Raised> {
        let id = id.to_owned();
        self.write(Care::Done, move |tx| hold::raise(tx, &id, &raise)).await
    }

    fn weights(&self) -> Weights {
        self.weights
    }

    async fn settle(&self, settle: Settle) -> Answer<Settled> {
        self.write(Care::Kept, move |tx| settle::settle(tx, &settle)).await
    }

    async fn sweep(&self) -> Answer<u64> {
        self.write(Care::Done, settle::sweep).await
    }

    async fn set_limits(&self, node: &str, limits: Vec<Limit>) -> Answer<()> {
        let node = node.to_owned();
        self.write(Care::Done, move |tx| limits::set_limits(tx, &node, &limits)).await
    }

    async fn budget_change(&self, change: BudgetChange, by: &str) -> Answer<Account> {
        let by = by.to_owned();
        self.write_at(Pace::Fsync, Care::Done, move |tx| limits::change(tx, &change, &by)).await
    }

    async fn accounts(&self, node: Option<&str>) -> Answer<Vec<Account>> {
        let node = node.map(str::to_owned);
        let as_of = Moment::now(self.readers.zone());
        self.read(move |conn| queries::list_accounts(conn, node.as_deref(), &as_of)).await
    }

    async fn spent(&self, path: Vec<Node>, provider: &str) -> Answer<Option<Standing>> {
        let (provider, as_of) = (provider.to_owned(), Moment::now(self.readers.zone()));
        self.read(move |conn| queries::spent(conn, &path, &provider, &as_of)).await
    }

    async fn path(&self, path: Vec<Node>, provider: &str) -> Answer<Vec<Account>> {
        let (provider, as_of) = (provider.to_owned(), Moment::now(self.readers.zone()));
        self.read(move |conn| queries::path(conn, &path, &provider, &as_of)).await
    }

    async fn spent_on(&self, paths: Vec<(Vec<Node>, String)>) -> Answer<Vec<Vec<Standing>>> {
        let as_of = Moment::now(self.readers.zone());
        self.read(move |conn| queries::spent_on(conn, &paths, &as_of)).await
    }

    async fn append(&self, event: NewEvent) -> Answer<Event> {
        let care = if event.audit { Care::Kept } else { Care::Done };
        let pace = if event.audit { Pace::Fsync } else { Pace::Quick };
        self.write_at(pace, care, move |tx| record::append(tx, &event)).await
    }

    async fn append_all(&self, bottle: &str, run: Option<&str>, events: Vec<(&'static str, String)>) -> Answer<()> {
        let (bottle, run) = (bottle.to_owned(), run.map(str::to_owned));
        let work = move |tx: &mut Tx<'_>| {
            events.iter().try_for_each(|(kind, data)| {
                let about = record::Kind { kind, bottle: Some(&bottle), run: run.as_deref() };
                record::append_text(tx, about, data.clone(), None).map(|_| ())
            })
        };
        self.write(Care::Done, work).await
    }

    async fn enforced(&self, event: NewEvent, row: BottleRow) -> Answer<Event> {
        let event = NewEvent { audit: true, ..event };
        let work = move |tx: &mut Tx<'_>| {
            record::put_bottle(tx, &row)?;
            record::append(tx, &event)
        };
        self.write_at(Pace::Fsync, Care::Kept, work).await
    }

    async fn events(&self, query: EventQuery) -> Answer<Vec<Event>> {
        self.read(move |conn| queries::events(conn, &query)).await
    }

    fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        let mut changes = self.freed.clone();
        changes.mark_unchanged();
        changes
    }

    async fn usage(&self, query: UsageQuery) -> Answer<UsageReport> {
        self.read(move |conn| report::usage(conn, &query)).await
    }

    async fn put_run(&self, id: &str, recipe: &str) -> Answer<()> {
        let (id, recipe) = (id.to_owned(), recipe.to_owned());
        self.write(Care::Done, move |tx| record::put_run(tx, &id, &recipe)).await
    }

    async fn saw_headroom(&self, headroom: Headroom) -> Answer<()> {
        match self.seen.note(&headroom) {
            true => self.write(Care::Done, move |tx| headroom::put(tx, &headroom)).await,
            false => Ok(()),
        }
    }

    async fn headroom(&self) -> Answer<Vec<Headroom>> {
        Ok(self.seen.over(self.read(headroom::list).await?))
    }

    // The whole book takes as long as it takes.
    async fn verify(&self, expected: Option<(u64, String)>) -> Answer<Verified> {
        self.slow.read(move |conn| verify::verify(conn, expected.as_ref())).await
    }

    async fn export(&self, to: tokio::sync::mpsc::Sender<String>) -> Answer<()> {
        self.slow.read(move |conn| export::export(conn, |line| to.blocking_send(line).is_ok())).await
    }

    async fn backup(&self, to: &Path) -> Answer<u64> {
        let to = to.to_owned();
        let copied = self.slow.read(move |conn| Ok(backup::backup(conn, &to))).await?;
        copied.map_err(|e| match e.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => LedgerError::Full(e.to_string()),
            _ => LedgerError::Misuse(format!("no copy was made: {e}")),
        })
    }

    async fn prune(&self, before: i64) -> Answer<Pruned> {
        let before = prune::limit(before, writer::now_ms());
        self.prune_to(before).await
    }

    async fn put_bottle(&self, row: BottleRow) -> Answer<()> {
        let care = if row.ended { Care::Kept } else { Care::Done };
        self.write(care, move |tx| record::put_bottle(tx, &row)).await
    }

    async fn bottle(&self, id: &str) -> Answer<Option<BottleRow>> {
        let id = id.to_owned();
        self.read(move |conn| queries::bottle(conn, &id)).await
    }

    async fn bottles(&self, all: bool) -> Answer<Vec<BottleRow>> {
        self.read(move |conn| queries::bottles(conn, all)).await
    }

    async fn hold_of(&self, api: Api, host: &str, response_id: &str) -> Answer<Option<String>> {
        let (host, id) = (host.to_owned(), response_id.to_owned());
        self.read(move |conn| queries::hold_of(conn, api, &host, &id)).await
    }

    async fn open_holds(&self, bottle: Option<&str>) -> Answer<u64> {
        let bottle = bottle.map(str::to_owned);
        self.read(move |conn| queries::open_holds(conn, bottle.as_deref())).await
    }

    async fn lessons(&self, provider: &str) -> Answer<Vec<Lesson>> {
        let provider = provider.to_owned();
        self.read(move |conn| learned::lessons(conn, &provider)).await
    }

    async fn keep_lesson(&self, lesson: Lesson) -> Answer<()> {
        self.write(Care::Done, move |tx| learned::keep(tx, &lesson)).await
    }

    async fn close(&self) -> Answer<()> {
        self.patiently(async {
            self.turns.close().await;
            Ok(())
        })
        .await
    }
}

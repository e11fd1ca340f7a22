//! Reading: a few read-only connections, used off the async threads. None of them can change anything.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::tz::TimeZone;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use tokio::sync::Semaphore;

use super::accounts::{self, Moment};
use super::errors::map;
use crate::api::{Account, Event};
use crate::budget::{Standing, crossed};
use crate::ledger::{Answer, BottleRow, EventQuery, LedgerError};
use crate::types::Api;

/// Connections for reading. More would only compete for the two or three cores that are left.
const READERS: usize = 2;

/// Most events of one answer.
const MAX_EVENTS: u32 = 10_000;

/// The readers of one ledger.
#[derive(Clone)]
pub(super) struct Readers {
    path: Arc<PathBuf>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    zone: TimeZone,
}

impl Readers {
    /// Makes the pool; connections are opened when they are first needed.
    pub(super) fn new(path: &Path, zone: TimeZone) -> Readers {
        let permits = Arc::new(Semaphore::new(READERS));
        Readers { path: Arc::new(path.to_owned()), idle: Arc::default(), permits, zone }
    }

    /// Gets the host's zone.
    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Reads with one of the connections, on a thread that may block.
    pub(super) async fn read<T, F>(&self, query: F) -> Answer<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let gone = |e: &dyn std::fmt::Display| LedgerError::Unavailable(e.to_string());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|e| gone(&e))?;
        let this = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let idle = || this.idle.lock().unwrap_or_else(PoisonError::into_inner);
            let pooled = idle().pop();
            let answer = (|| {
                let conn = match pooled {
                    Some(conn) => conn,
                    None => open(&this.path)?,
                };
                let answer = query(&conn)?;
                idle().push(conn);
                Ok(answer)
            })();
            drop(permit);
            answer.map_err(|e: rusqlite::Error| map(&e, &this.path))
        });
        task.await.map_err(|e| gone(&e))?
    }
}

/// Reads the accounts of a node out of a ledger that nobody here has open; nothing is made or changed.
///
/// # Errors
/// `ledger_unavailable` where it cannot be read.
pub async fn accounts_in(path: &Path, node: &str) -> Answer<Vec<Account>> {
    let (node, zone) = (node.to_owned(), TimeZone::system());
    let as_of = Moment::now(&zone);
    Readers::new(path, zone).read(move |conn| list_accounts(conn, Some(&node), &as_of)).await
}

/// Opens a connection that can only read.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(super::BUSY)?;
    conn.pragma_update(None, "query_only", true)?;
    Ok(conn)
}

/// Reads accounts, of one node or of all. The account of all providers is shown where it has a limit.
pub(super) fn list_accounts(conn: &Connection, node: Option<&str>, as_of: &Moment) -> rusqlite::Result<Vec<Account>> {
    let columns = format!("SELECT {} FROM accounts", super::accounts::COLUMNS);
    let all: rusqlite::Result<Vec<Account>> = match node {
        Some(node) => conn
            .prepare_cached(&format!("{columns} WHERE node = ?1 ORDER BY provider"))?
            .query_map([node], accounts::from_row)?
            .collect(),
        None => conn
            .prepare_cached(&format!("{columns} ORDER BY node, provider"))?
            .query_map([], accounts::from_row)?
            .collect(),
    };
    Ok(all?.into_iter().map(|account| as_of.see(account)).collect())
}

/// Reads the accounts of a path, the nearest first.
pub(super) fn path(
    conn: &Connection,
    path: &[String],
    provider: &str,
    as_of: &Moment,
) -> rusqlite::Result<Vec<Account>> {
    Ok(accounts::PathAccounts::load(conn, path, provider, as_of)?.accounts)
}

/// Tells which account on a path is spent, the nearest first.
pub(super) fn spent(
    conn: &Connection,
    nodes: &[String],
    provider: &str,
    as_of: &Moment,
) -> rusqlite::Result<Option<Standing>> {
    Ok(crossed(&path(conn, nodes, provider, as_of)?).into_iter().next())
}

/// Tells which accounts on each of many paths are spent, as they stand at one moment. A node that is on several is read once.
pub(super) fn spent_on(
    conn: &Connection,
    paths: &[(Vec<String>, String)],
    as_of: &Moment,
) -> rusqlite::Result<Vec<Vec<Standing>>> {
    let moment = conn.unchecked_transaction()?;
    let mut nodes: HashMap<&str, Vec<Account>> = HashMap::new();
    let mut spent = Vec::with_capacity(paths.len());
    for (path, provider) in paths {
        for node in path.iter().filter(|node| !nodes.contains_key(node.as_str())).collect::<Vec<_>>() {
            let accounts = accounts::load_node(&moment, node)?;
            nodes.insert(node, accounts.into_iter().map(|account| as_of.see(account)).collect());
        }
        let ours = |account: &&Account| account.provider == *provider || account.provider == accounts::ALL;
        let on_path = path.iter().filter_map(|node| nodes.get(node.as_str())).flatten().filter(ours);
        spent.push(crossed(&on_path.cloned().collect::<Vec<_>>()));
    }
    Ok(spent)
}

/// Reads events in order.
pub(super) fn events(conn: &Connection, query: &EventQuery) -> rusqlite::Result<Vec<Event>> {
    let mut sql = String::from("SELECT seq, ts, kind, bottle, run, data FROM events WHERE seq > ?1 AND ts >= ?5");
    if query.bottle.is_some() {
        sql.push_str(" AND bottle = ?2");
    }
    if query.run.is_some() {
        sql.push_str(" AND run = ?3");
    }
    // Unused parameters must stand somewhere.
    sql.push_str(" AND ?2 IS ?2 AND ?3 IS ?3 ORDER BY seq LIMIT ?4");
    let since = i64::try_from(query.since).unwrap_or(i64::MAX);
    let max = if query.max == 0 { MAX_EVENTS } else { query.max.min(MAX_EVENTS) };
    conn.prepare_cached(&sql)?
        .query_map(params![since, query.bottle, query.run, max, query.after], |row| {
            Ok(Event {
                v: 1,
                seq: accounts::amount(row.get(0)?),
                ts: row.get(1)?,
                kind: row.get(2)?,
                bottle: row.get(3)?,
                run: row.get(4)?,
                data: serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or_default(),
            })
        })?
        .collect()
}

/// Reads one bottle.
pub(super) fn bottle(conn: &Connection, id: &str) -> rusqlite::Result<Option<BottleRow>> {
    conn.prepare_cached("SELECT id, slug, body, ended, cut FROM bottles WHERE id = ?1")?
        .query_row([id], bottle_row)
        .optional()
}

/// Reads bottles in the order they were made.
pub(super) fn bottles(conn: &Connection, all: bool) -> rusqlite::Result<Vec<BottleRow>> {
    conn.prepare_cached("SELECT id, slug, body, ended, cut FROM bottles WHERE ended = 0 OR ?1 ORDER BY rowid")?
        .query_map([all], bottle_row)?
        .collect()
}

fn bottle_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<BottleRow> {
    Ok(BottleRow { id: row.get(0)?, slug: row.get(1)?, body: row.get(2)?, ended: row.get(3)?, cut: row.get(4)? })
}

/// Gets the newest hold that has ended with an answer.
pub(super) fn hold_of(conn: &Connection, api: Api, host: &str, response_id: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached(
        "SELECT hold FROM usage WHERE response_id = ?1 AND api = ?2 AND host = ?3 ORDER BY id DESC LIMIT 1",
    )?
    .query_row((response_id, api.as_str(), host), |row| row.get(0))
    .optional()
}

/// Counts open holds.
pub(super) fn open_holds(conn: &Connection, bottle: Option<&str>) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT count(*) FROM holds WHERE ?1 IS NULL OR bottle = ?1")?
        .query_row([bottle], |row| row.get(0))
        .map(accounts::amount)
}

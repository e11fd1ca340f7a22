//! Removes what is old, a bounded piece at a time so that nobody waits long: events, their enforcement rows, usage rows.
//!
//! The sums, the accounts and what they were charged stay, and so does the chain: an anchor holds the hash of the last event that
//! is gone. What is young enough for its response ids to come again stays whatever is asked for.

use std::collections::HashMap;

use rusqlite::Connection;

use super::accounts::{amount, stored};
use super::chain::{Hash, Tail};
use super::hold::path_of;
use super::sums::{self, QUARTER};
use super::writer::Tx;
use crate::api::Pruned;
use crate::ledger::Answer;

/// How long a response id may come again. Unit: milliseconds.
pub(super) const REPLAYED: i64 = 30 * 24 * 60 * 60 * 1000;

/// Most events of one piece.
const PIECE: i64 = 1000;

/// Gets what is really taken for `before`: a quarter hour's beginning, [`REPLAYED`] ago at the latest.
pub(super) fn limit(before: i64, now: i64) -> i64 {
    before.min(now.saturating_sub(REPLAYED)).div_euclid(QUARTER) * QUARTER
}

/// Brings a piece of what is not in the sums into them; tells whether there may be more.
pub(super) fn fold(tx: &mut Tx<'_>) -> Answer<bool> {
    sums::fold(tx.conn).map(|rows| rows == sums::MOST).map_err(|e| tx.error(&e))
}

/// Removes one piece of what is older than `before`, which [`limit`] gave; `None` where nothing is left of it.
pub(super) fn piece(tx: &mut Tx<'_>, before: i64) -> Answer<Option<Pruned>> {
    remove(tx, before).map_err(|e| tx.error(&e))
}

/// Removes a piece of what is no usage and has no event. Its numbers go down from -1: the oldest is looked at first, and none
/// after the first that is young.
fn remove_released(conn: &Connection, before: i64) -> rusqlite::Result<u64> {
    let sql = format!("SELECT id, ts FROM usage WHERE id < 0 ORDER BY id DESC LIMIT {PIECE}");
    let mut select = conn.prepare_cached(&sql)?;
    let mut rows = select.query([])?;
    let mut last: Option<i64> = None;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= before {
            break;
        }
        last = Some(row.get(0)?);
    }
    let Some(last) = last else { return Ok(0) };
    Ok(conn.prepare_cached("DELETE FROM usage WHERE id < 0 AND id >= ?1")?.execute([last])? as u64)
}

fn remove(tx: &Tx<'_>, before: i64) -> rusqlite::Result<Option<Pruned>> {
    let conn = tx.conn;
    let released = remove_released(conn, before)?;
    // As far as every event is old enough, and every usage row in the sums.
    let sql = format!(
        "SELECT seq, ts, hash FROM events
         WHERE seq < coalesce((SELECT min(id) FROM usage WHERE id > {}), {}) ORDER BY seq LIMIT {PIECE}",
        sums::MARK,
        i64::MAX
    );
    let mut select = conn.prepare_cached(&sql)?;
    let mut rows = select.query([])?;
    let mut last: Option<Tail> = None;
    let mut events = 0;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= before {
            break;
        }
        last = Some(Tail { seq: row.get(0)?, hash: row.get::<_, Option<Hash>>(2)?.unwrap_or_default() });
        events += 1;
    }
    let Some(last) = last else {
        return Ok((released > 0).then_some(Pruned { usage: released, before, ..Pruned::default() }));
    };
    let mut charged: HashMap<(String, String), u64> = HashMap::new();
    let mut select =
        conn.prepare_cached("SELECT path, provider, counted FROM usage WHERE id > 0 AND id <= ?1 AND seq <= ?1")?;
    let mut rows = select.query([last.seq])?;
    while let Some(row) = rows.next()? {
        let counted = amount(row.get(2)?);
        for node in path_of(&row.get::<_, String>(0)?) {
            *charged.entry((node, row.get(1)?)).or_default() += counted;
        }
    }
    for ((node, provider), counted) in charged {
        conn.prepare_cached(
            "INSERT INTO pruned (node, provider, counted) VALUES (?1, ?2, ?3)
             ON CONFLICT (node, provider) DO UPDATE SET counted = counted + excluded.counted",
        )?
        .execute((node, provider, stored(counted)))?;
    }
    // A row that a later event has changed stays with that event.
    let usage =
        conn.prepare_cached("DELETE FROM usage WHERE id > 0 AND id <= ?1 AND seq <= ?1")?.execute([last.seq])? as u64;
    conn.prepare_cached("DELETE FROM enforcement WHERE seq <= ?1")?.execute([last.seq])?;
    conn.prepare_cached("DELETE FROM events WHERE seq <= ?1")?.execute([last.seq])?;
    conn.prepare_cached("DELETE FROM anchors WHERE seq <= ?1 OR why = 'pruned'")?.execute([last.seq])?;
    conn.prepare_cached("INSERT INTO anchors (seq, ts, hash, why) VALUES (?1, ?2, ?3, 'pruned')")?
        .execute((last.seq, tx.now, last.hash))?;
    Ok(Some(Pruned { events, usage: usage + released, anchor: amount(last.seq), before }))
}

//! Events, enforcement rows and bottles' rows: writing them.

use rusqlite::params;
use serde_json::{Value, json};

use super::writer::Tx;
use crate::api::Event;
use crate::ledger::{Answer, BottleRow, LedgerError, NewEvent};

/// Data of an event longer than this is replaced by its length: what a bottle says must not fill the ledger.
const MAX_DATA: usize = 64 * 1024;

/// Longest row of a bottle.
const MAX_BODY: usize = 1024 * 1024;

/// Appends an event with the next number.
pub(super) fn append(tx: &mut Tx<'_>, event: &NewEvent) -> Answer<Event> {
    append_made(tx, event.clone()).cloned()
}

/// As [`append`], for an event that was made for it: it is moved to those that go out after the commit.
pub(super) fn append_made<'t>(tx: &'t mut Tx<'_>, event: NewEvent) -> Answer<&'t Event> {
    if event.kind.is_empty() || event.kind.len() > 64 {
        return Err(LedgerError::Misuse("an event's type has 1 to 64 bytes".to_owned()));
    }
    let action = event.data.get("action").and_then(Value::as_str).map(str::to_owned);
    let mut data = if event.data.is_null() { json!({}) } else { event.data };
    let mut text = data.to_string();
    if text.len() > MAX_DATA {
        data = json!({ "too_large": text.len() });
        text = data.to_string();
    }
    let insert = || -> rusqlite::Result<i64> {
        tx.conn
            .prepare_cached("INSERT INTO events (ts, kind, bottle, run, data) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![tx.now, event.kind, event.bottle, event.run, text])?;
        let seq = tx.conn.last_insert_rowid();
        if event.audit {
            tx.conn
                .prepare_cached(
                    "INSERT INTO enforcement (seq, ts, kind, bottle, run, action, data)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![seq, tx.now, event.kind, event.bottle, event.run, action, text])?;
        }
        Ok(seq)
    };
    let seq = insert().map_err(|e| tx.error(&e))?;
    tx.durable |= event.audit;
    let seq = u64::try_from(seq).unwrap_or(0);
    let NewEvent { kind, bottle, run, .. } = event;
    Ok(tx.events.push_mut(Event { v: 1, seq, ts: tx.now, kind, bottle, run, data }))
}

/// Writes a bottle's row: inserts, or replaces the one with its id.
pub(super) fn put_bottle(tx: &mut Tx<'_>, row: &BottleRow) -> Answer<()> {
    if row.id.is_empty() || row.body.len() > MAX_BODY {
        return Err(LedgerError::Misuse("a bottle's row has an id and at most 1 MiB".to_owned()));
    }
    tx.conn
        .prepare_cached(
            "INSERT INTO bottles (id, slug, body, ended, cut) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET
                slug = excluded.slug, body = excluded.body, ended = excluded.ended, cut = excluded.cut",
        )
        .and_then(|mut put| put.execute(params![row.id, row.slug, row.body, row.ended, row.cut]))
        .map_err(|e| match tx.error(&e) {
            LedgerError::Misuse(_) => LedgerError::Misuse(format!("a bottle `{}` is there already", row.slug)),
            other => other,
        })?;
    Ok(())
}

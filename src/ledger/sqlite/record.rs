//! Events, enforcement rows and bottles' rows: writing them.

use rusqlite::{OptionalExtension, params};
use serde_json::{Value, json};

use super::chain::{Hash, Link, Tail};
use super::sums;
use super::writer::Tx;
use crate::api::Event;
use crate::ledger::{Answer, BottleRow, LedgerError, NewEvent};

/// Data of an event longer than this is replaced by its length: what a bottle says must not fill the ledger.
const MAX_DATA: usize = 64 * 1024;

/// Longest row of a bottle.
const MAX_BODY: usize = 1024 * 1024;

/// A row of `events` as it was written.
pub(super) struct Written {
    seq: u64,
    ts: i64,
    kind: String,
    bottle: Option<String>,
    run: Option<String>,
    text: String,
}

impl Written {
    /// Gets what is told of it.
    pub(super) fn event(self) -> Event {
        let data = serde_json::from_str(&self.text).unwrap_or(Value::Null);
        Event { v: 1, seq: self.seq, ts: self.ts, kind: self.kind, bottle: self.bottle, run: self.run, data }
    }
}

/// What an event is about.
#[derive(Clone, Copy)]
pub(super) struct Kind<'a> {
    pub kind: &'a str,
    pub bottle: Option<&'a str>,
    pub run: Option<&'a str>,
}

/// Appends an event with the next number.
pub(super) fn append(tx: &mut Tx<'_>, event: &NewEvent) -> Answer<Event> {
    let NewEvent { kind, bottle, run, data, audit } = event;
    let data = if data.is_null() { &json!({}) } else { data };
    let text = data.to_string();
    let data = if text.len() > MAX_DATA { too_large(text.len()) } else { data.clone() };
    let about = Kind { kind, bottle: bottle.as_deref(), run: run.as_deref() };
    let seq = append_text(tx, about, text, audit.then(|| data.get("action").and_then(Value::as_str)))?;
    let (kind, bottle, run) = (kind.clone(), bottle.clone(), run.clone());
    Ok(Event { v: 1, seq, ts: tx.now, kind, bottle, run, data })
}

/// What stands for the data of an event that has too much of it.
fn too_large(length: usize) -> Value {
    json!({ "too_large": length })
}

/// The same for data that is JSON text; gets the number. `audit`: it is entered in the enforcement table too, with this action.
pub(super) fn append_text(tx: &mut Tx<'_>, about: Kind<'_>, text: String, audit: Option<Option<&str>>) -> Answer<u64> {
    append_bound(tx, about, text, audit, None)
}

/// The same; `digest` is that of the usage row which it tells of.
pub(super) fn append_bound(
    tx: &mut Tx<'_>,
    about: Kind<'_>,
    mut text: String,
    audit: Option<Option<&str>>,
    digest: Option<Hash>,
) -> Answer<u64> {
    let Kind { kind, bottle, run } = about;
    if kind.is_empty() || kind.len() > 64 {
        return Err(LedgerError::Misuse("an event's type has 1 to 64 bytes".to_owned()));
    }
    if text.len() > MAX_DATA {
        text = too_large(text.len()).to_string();
    }
    let before = tx.book.tail;
    let seq = before.seq + 1;
    let link = Link { seq, ts: tx.now, kind, bottle, run, data: &text, digest: digest.as_ref().map(Hash::as_slice) };
    let hash = link.hash(&before.hash);
    let insert = || -> rusqlite::Result<()> {
        tx.conn
            .prepare_cached(
                "INSERT INTO events (seq, ts, kind, bottle, run, data, hash, digest)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![seq, tx.now, kind, bottle, run, text, hash, digest])?;
        if let Some(action) = audit {
            tx.conn
                .prepare_cached(
                    "INSERT INTO enforcement (seq, ts, kind, bottle, run, action, data)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![seq, tx.now, kind, bottle, run, action, text])?;
        }
        Ok(())
    };
    insert().map_err(|e| tx.error(&e))?;
    tx.book.tail = Tail { seq, hash };
    tx.durable |= audit.is_some();
    let seq = u64::try_from(seq).unwrap_or(0);
    let (bottle, run) = (bottle.map(str::to_owned), run.map(str::to_owned));
    tx.events.push(Written { seq, ts: tx.now, kind: kind.to_owned(), bottle, run, text });
    Ok(seq)
}

/// Writes which recipe a run is of.
pub(super) fn put_run(tx: &mut Tx<'_>, id: &str, recipe: &str) -> Answer<()> {
    let put = || {
        let conn = tx.conn;
        let mut select = conn.prepare_cached("SELECT recipe FROM runs WHERE id = ?1")?;
        let before: Option<String> = select.query_row([id], |row| row.get(0)).optional()?;
        conn.prepare_cached(
            "INSERT INTO runs (id, recipe, ts) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET recipe = excluded.recipe",
        )?
        .execute((id, recipe, tx.now))?;
        match before.unwrap_or_default() == recipe {
            true => Ok(()),
            false => sums::renamed(conn, id),
        }
    };
    put().map_err(|e: rusqlite::Error| tx.error(&e))
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

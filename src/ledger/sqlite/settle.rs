//! Ending holds: the charge, the usage row and its event, in one transaction; late usage; the sweep.

use std::sync::{Arc, LazyLock};

use rusqlite::{OptionalExtension, params};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::accounts::{PathAccounts, amount, stored};
use super::chain::{self, FIGURES, Hash};
use super::hold::{Open, clip, path_of, path_text};
use super::record::{self, Kind};
use super::sums;
use super::thresholds;
use super::writer::Tx;
use crate::budget::{Charge, Estimate, Settlement, charge, charge_swept, crossed, governs};
use crate::ledger::{Answer, LedgerError, Settle, Settled};
use crate::types::{Source, Tokens};

/// A usage object of an API longer than this is not kept.
const MAX_RAW: usize = 32 * 1024;

/// Writes the row of a hold that ends; gets what its digest covers.
static INSERT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "INSERT INTO usage (id, hold, seq, opened, ts, path, provider, bottle, agent, run, api, host, model_asked,
            model, response_id, duplicate, input_estimate, output_estimate, held, input, cache_read, cache_write,
            cache_write_long, output, reasoning, weights, counted, how, source, raw_usage, granted, why)
         VALUES (
            iif(?2 > 0, ?2, min(coalesce((SELECT id FROM usage ORDER BY id LIMIT 1), 0), 0) - 1),
            ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
            ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31)
         RETURNING {FIGURES}"
    )
});

/// Puts late usage into the row of a hold that has ended; gets what its digest covers.
static UPDATE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "UPDATE usage SET id = iif(id > 0, id, ?2), seq = ?2, input = ?3, cache_read = ?4, cache_write = ?5, cache_write_long = ?6,
            output = ?7, reasoning = ?8, counted = ?9, how = ?10, source = ?11, model = coalesce(?12, model),
            response_id = coalesce(?13, response_id), raw_usage = coalesce(?14, raw_usage)
         WHERE hold = ?1 RETURNING {FIGURES}"
    )
});

/// Ends a hold as the egress plane says, or raises what an ended one was charged.
pub(super) fn settle(tx: &mut Tx<'_>, settle: &Settle) -> Answer<Settled> {
    if let Some(hold) = tx.book.take_hold(&settle.id) {
        let charge = charge(&hold.estimate, &settle.how, tx.weights);
        return end(tx, &hold, charge, word(&settle.how), settle);
    }
    late(tx, settle)
}

/// Charges every open hold of an earlier writer.
pub(super) fn sweep(tx: &mut Tx<'_>) -> Answer<u64> {
    let ids: Vec<String> = tx
        .conn
        .prepare_cached("SELECT id FROM holds WHERE epoch < ?1 ORDER BY id")
        .and_then(|mut select| select.query_map([tx.epoch], |row| row.get(0))?.collect())
        .map_err(|e| tx.error(&e))?;
    for id in &ids {
        if let Some(hold) = tx.book.take_hold(id) {
            let charge = charge_swept(&hold.estimate, tx.weights);
            end(tx, &hold, charge, "swept", &bare(id, Settlement::AtEstimate { streamed: 0 }))?;
        }
    }
    Ok(ids.len() as u64)
}

/// Gives back a hold whose caller went away before it had the answer; nothing was sent upstream for it.
pub(super) fn release_unclaimed(tx: &mut Tx<'_>, id: &str) -> Answer<()> {
    match tx.book.hold(id) {
        Some(_) => settle(tx, &bare(id, Settlement::Released)).map(|_| ()),
        None => Ok(()),
    }
}

/// A settle that says nothing but how.
fn bare(id: &str, how: Settlement) -> Settle {
    Settle { id: id.to_owned(), how, model: None, response_id: None, raw_usage: None, facts: Arc::default() }
}

/// The hold machine's word for an end.
fn word(how: &Settlement) -> &'static str {
    match how {
        Settlement::Released => "released",
        Settlement::Exact(_) => "exact",
        Settlement::Partial { .. } => "partial",
        Settlement::AtEstimate { .. } => "at_estimate",
    }
}

/// Ends an open hold, which was taken out of the book.
fn end(tx: &mut Tx<'_>, hold: &Open, charge: Charge, how: &str, settle: &Settle) -> Answer<Settled> {
    tx.conn
        .prepare_cached("DELETE FROM holds WHERE id = ?1")
        .and_then(|mut delete| delete.execute([&hold.id]))
        .map_err(|e| tx.error(&e))?;
    let mut path = tx.book.path(tx.conn, &hold.path, &hold.provider).map_err(|e| tx.error(&e))?;
    tx.book.charge(&mut path, charge.counted, hold.estimate.held, 0);
    tx.freed = true;
    let response_id = settle.response_id.as_deref().map(clip);
    let duplicate = match response_id {
        Some(id) => tx
            .conn
            .prepare_cached("SELECT 1 FROM usage WHERE response_id = ?1 AND api = ?2 AND host = ?3")
            .and_then(|mut seen| seen.exists((id, &hold.api, &hold.host)))
            .map_err(|e| tx.error(&e))?,
        None => false,
    };
    let mut settled = standing(&path, &charge);
    // A hold that is given back untouched is no usage: it has a row, so that late usage finds it, and no event.
    let told = if how != "released" || charge.counted > 0 {
        settled.seq = tx.book.tail.next();
        let model = settle.model.as_deref().unwrap_or(&hold.model);
        let more = More::End { duplicate, swept: how == "swept" };
        let about = About { id: &hold.id, api: &hold.api, host: &hold.host, model };
        let data = Data { about, facts: &settle.facts, charge: &charge, settled: &settled, more };
        Some(text(&data)?)
    } else {
        None
    };
    let raw_usage = settle.raw_usage.as_deref().filter(|raw| raw.len() <= MAX_RAW);
    let w = tx.weights;
    let t = charge.tokens;
    let digest = tx
        .conn
        .prepare_cached(&INSERT)
        .and_then(|mut insert| {
            let values = params![
                hold.id,
                stored(settled.seq),
                hold.opened,
                tx.now,
                path_text(&hold.path),
                hold.provider,
                hold.bottle,
                hold.agent,
                hold.run,
                hold.api,
                hold.host,
                hold.model,
                settle.model.as_deref().map(clip),
                response_id,
                duplicate,
                stored(hold.estimate.input),
                stored(hold.estimate.output),
                stored(hold.estimate.held),
                stored(t.input),
                stored(t.cache_read),
                stored(t.cache_write),
                stored(t.cache_write_long),
                stored(t.output),
                stored(t.reasoning),
                format!("{},{},{},{},{}", w.input, w.cache_read, w.cache_write, w.cache_write_long, w.output),
                stored(charge.counted),
                how,
                charge.source.as_str(),
                raw_usage,
                stored(hold.granted),
                settle.facts["why"].as_str().map(clip),
            ];
            insert.query_row(values, chain::digest)
        })
        .map_err(|e| tx.error(&e))?;
    if let Some(told) = told {
        append(tx, &hold.bottle, hold.run.as_deref(), told, digest)?;
    }
    thresholds::tell(tx, &path, &hold.bottle, hold.run.as_deref())?;
    Ok(settled)
}

/// What the row of an ended hold says.
struct Ended {
    seq: u64,
    path: Vec<String>,
    provider: String,
    bottle: String,
    run: Option<String>,
    api: String,
    host: String,
    model: String,
    estimate: Estimate,
    charge: Charge,
}

/// Late usage of a hold that has ended: it may only raise the charge.
fn late(tx: &mut Tx<'_>, settle: &Settle) -> Answer<Settled> {
    let Some(row) = ended(tx, &settle.id)? else {
        return Err(LedgerError::Misuse(format!("no hold {}", settle.id)));
    };
    let new = charge(&row.estimate, &settle.how, tx.weights);
    let mut path = tx.book.path(tx.conn, &row.path, &row.provider).map_err(|e| tx.error(&e))?;
    if new.counted <= row.charge.counted {
        return Ok(Settled { seq: row.seq, ..standing(&path, &row.charge) });
    }
    tx.book.charge(&mut path, new.counted - row.charge.counted, 0, 0);
    let mut settled = standing(&path, &new);
    let more = More::Late { before: row.charge.counted };
    let model = settle.model.as_deref().unwrap_or(&row.model);
    let about = About { id: &settle.id, api: &row.api, host: &row.host, model };
    let data = Data { about, facts: &settle.facts, charge: &new, settled: &settled, more };
    let told = text(&data)?;
    settled.seq = tx.book.tail.next();
    sums::take_out(tx.conn, &settle.id).map_err(|e| tx.error(&e))?;
    let t = new.tokens;
    let digest = tx
        .conn
        .prepare_cached(&UPDATE)
        .and_then(|mut update| {
            let values = params![
                settle.id,
                stored(settled.seq),
                stored(t.input),
                stored(t.cache_read),
                stored(t.cache_write),
                stored(t.cache_write_long),
                stored(t.output),
                stored(t.reasoning),
                stored(new.counted),
                word(&settle.how),
                new.source.as_str(),
                settle.model.as_deref().map(clip),
                settle.response_id.as_deref().map(clip),
                settle.raw_usage.as_deref().filter(|raw| raw.len() <= MAX_RAW),
            ];
            update.query_row(values, chain::digest)
        })
        .map_err(|e| tx.error(&e))?;
    sums::put_back(tx.conn, &settle.id).map_err(|e| tx.error(&e))?;
    append(tx, &row.bottle, row.run.as_deref(), told, digest)?;
    thresholds::tell(tx, &path, &row.bottle, row.run.as_deref())?;
    Ok(settled)
}

/// Reads the row of an ended hold.
fn ended(tx: &Tx<'_>, id: &str) -> Answer<Option<Ended>> {
    let from_row = |row: &rusqlite::Row<'_>| {
        let tokens = Tokens {
            input: amount(row.get(10)?),
            cache_read: amount(row.get(11)?),
            cache_write: amount(row.get(12)?),
            cache_write_long: amount(row.get(13)?),
            output: amount(row.get(14)?),
            reasoning: amount(row.get(15)?),
        };
        let source = match row.get::<_, String>(17)?.as_str() {
            "exact" => Source::Exact,
            "partial" => Source::Partial,
            _ => Source::Estimated,
        };
        Ok(Ended {
            seq: amount(row.get(0)?),
            path: path_of(&row.get::<_, String>(1)?),
            provider: row.get(2)?,
            bottle: row.get(3)?,
            run: row.get(4)?,
            api: row.get(5)?,
            host: row.get(6)?,
            model: row.get(7)?,
            estimate: Estimate {
                input: amount(row.get(8)?),
                output: amount(row.get(9)?),
                held: amount(row.get(18)?),
                seen: None,
            },
            charge: Charge { counted: amount(row.get(16)?), tokens, source },
        })
    };
    tx.conn
        .prepare_cached(
            "SELECT seq, path, provider, bottle, run, api, host, coalesce(model, model_asked), input_estimate,
                output_estimate, input, cache_read, cache_write, cache_write_long, output, reasoning, counted, source, held
             FROM usage WHERE hold = ?1",
        )
        .and_then(|mut select| select.query_row([id], from_row).optional())
        .map_err(|e| tx.error(&e))
}

/// Tells how the path stands after a charge. `seq` is 0.
fn standing(path: &PathAccounts, charge: &Charge) -> Settled {
    Settled {
        counted: charge.counted,
        tokens: charge.tokens,
        source: charge.source,
        governs: governs(&path.accounts),
        crossed: crossed(&path.accounts),
        seq: 0,
    }
}

/// What a usage event is about.
struct About<'a> {
    id: &'a str,
    api: &'a str,
    host: &'a str,
    model: &'a str,
}

/// What is said of a charge in certain cases.
enum More {
    End {
        /// The response's id was seen before.
        duplicate: bool,
        /// The controller that held it died.
        swept: bool,
    },
    /// The hold had ended, with this charge.
    Late { before: u64 },
}

/// The data of a `usage` event (docs/controller-api.md): the caller's facts and the ledger's figures, which win.
struct Data<'a> {
    about: About<'a>,
    facts: &'a Value,
    charge: &'a Charge,
    settled: &'a Settled,
    more: More,
}

/// Keys of [`Data`] that no fact of the caller's takes.
const OURS: [&str; 12] =
    ["request", "api", "host", "model", "tokens", "counted", "source", "budget", "duplicate", "late", "before", "how"];

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Data { about, facts, charge, settled, more } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("request", about.id)?;
        map.serialize_entry("api", about.api)?;
        for (key, value) in facts.as_object().into_iter().flatten().filter(|(key, _)| !OURS.contains(&key.as_str())) {
            map.serialize_entry(key, value)?;
        }
        map.serialize_entry("host", about.host)?;
        map.serialize_entry("model", clip(about.model))?;
        map.serialize_entry("tokens", &charge.tokens)?;
        map.serialize_entry("counted", &charge.counted)?;
        map.serialize_entry("source", &charge.source)?;
        if let Some(governs) = &settled.governs {
            map.serialize_entry("budget", governs)?;
        }
        match more {
            More::End { duplicate, swept } => {
                if *duplicate {
                    map.serialize_entry("duplicate", &true)?;
                }
                if *swept {
                    map.serialize_entry("how", "swept")?;
                }
            }
            More::Late { before } => {
                map.serialize_entry("late", &true)?;
                map.serialize_entry("before", before)?;
            }
        }
        map.end()
    }
}

/// Writes the data of a `usage` event.
fn text(data: &Data<'_>) -> Answer<String> {
    serde_json::to_string(data).map_err(|e| LedgerError::Misuse(format!("a usage event: {e}")))
}

/// Appends a `usage` event, bound to its row.
fn append(tx: &mut Tx<'_>, bottle: &str, run: Option<&str>, told: String, digest: Hash) -> Answer<u64> {
    tx.book.unfolded = tx.book.unfolded.saturating_add(1);
    record::append_bound(tx, Kind { kind: "usage", bottle: Some(bottle), run }, told, None, Some(digest))
}

//! Ending holds: the charge, the usage row and its event, in one transaction; late usage; the sweep.

use rusqlite::{OptionalExtension, params};
use serde_json::{Map, Value, json};

use super::accounts::{PathAccounts, amount, stored};
use super::hold::{Open, clip, open, path_of, path_text};
use super::record;
use super::writer::Tx;
use crate::budget::{Charge, Estimate, Settlement, charge, charge_swept, crossed, governs};
use crate::ledger::{Answer, LedgerError, NewEvent, Settle, Settled};
use crate::types::{Source, Tokens};

/// A usage object of an API longer than this is not kept.
const MAX_RAW: usize = 32 * 1024;

/// Ends a hold as the egress plane says, or raises what an ended one was charged.
pub(super) fn settle(tx: &mut Tx<'_>, settle: &Settle) -> Answer<Settled> {
    if let Some(hold) = open(tx, &settle.id)? {
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
        if let Some(hold) = open(tx, id)? {
            let charge = charge_swept(&hold.estimate, tx.weights);
            end(tx, &hold, charge, "swept", &bare(id, Settlement::AtEstimate { streamed: 0 }))?;
        }
    }
    Ok(ids.len() as u64)
}

/// Gives back a hold whose caller went away before it had the answer; nothing was sent upstream for it.
pub(super) fn release_unclaimed(tx: &mut Tx<'_>, id: &str) -> Answer<()> {
    match open(tx, id)? {
        Some(_) => settle(tx, &bare(id, Settlement::Released)).map(|_| ()),
        None => Ok(()),
    }
}

/// A settle that says nothing but how.
fn bare(id: &str, how: Settlement) -> Settle {
    Settle { id: id.to_owned(), how, model: None, response_id: None, raw_usage: None, facts: Value::Null }
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

/// Ends an open hold.
fn end(tx: &mut Tx<'_>, hold: &Open, charge: Charge, how: &str, settle: &Settle) -> Answer<Settled> {
    tx.conn
        .prepare_cached("DELETE FROM holds WHERE id = ?1")
        .and_then(|mut delete| delete.execute([&hold.id]))
        .map_err(|e| tx.error(&e))?;
    let mut path = PathAccounts::load(tx.conn, &hold.path, &hold.provider).map_err(|e| tx.error(&e))?;
    path.charge(tx, charge.counted, hold.estimate.held, 0)?;
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
    if how != "released" || charge.counted > 0 {
        let mut more = Map::new();
        if duplicate {
            more.insert("duplicate".to_owned(), json!(true));
        }
        if how == "swept" {
            more.insert("how".to_owned(), json!(how));
        }
        let model = settle.model.as_deref().unwrap_or(&hold.model);
        let about = About { id: &hold.id, api: &hold.api, host: &hold.host, model };
        let data = event_data(&about, &settle.facts, &charge, &settled, more);
        settled.seq = record::append_made(tx, event(&hold.bottle, hold.run.as_deref(), data))?.seq;
    }
    let raw_usage = settle.raw_usage.as_deref().filter(|raw| raw.len() <= MAX_RAW);
    let w = tx.weights;
    let t = charge.tokens;
    tx.conn
        .prepare_cached(
            "INSERT INTO usage (id, hold, seq, opened, ts, path, provider, bottle, agent, run, api, host, model_asked,
                model, response_id, duplicate, input_estimate, output_estimate, held, input, cache_read, cache_write,
                cache_write_long, output, reasoning, weights, counted, how, source, raw_usage)
             VALUES (
                iif(?2 > 0, ?2, min(coalesce((SELECT id FROM usage ORDER BY id LIMIT 1), 0), 0) - 1),
                ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
                ?23, ?24, ?25, ?26, ?27, ?28, ?29)",
        )
        .and_then(|mut insert| {
            insert.execute(params![
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
            ])
        })
        .map_err(|e| tx.error(&e))?;
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
    let mut path = PathAccounts::load(tx.conn, &row.path, &row.provider).map_err(|e| tx.error(&e))?;
    if new.counted <= row.charge.counted {
        return Ok(Settled { seq: row.seq, ..standing(&path, &row.charge) });
    }
    path.charge(tx, new.counted - row.charge.counted, 0, 0)?;
    let mut settled = standing(&path, &new);
    let mut more = Map::new();
    more.insert("late".to_owned(), json!(true));
    more.insert("before".to_owned(), json!(row.charge.counted));
    let model = settle.model.as_deref().unwrap_or(&row.model);
    let about = About { id: &settle.id, api: &row.api, host: &row.host, model };
    let data = event_data(&about, &settle.facts, &new, &settled, more);
    settled.seq = record::append_made(tx, event(&row.bottle, row.run.as_deref(), data))?.seq;
    let t = new.tokens;
    tx.conn
        .prepare_cached(
            "UPDATE usage SET id = iif(id > 0, id, ?2), seq = ?2, input = ?3, cache_read = ?4, cache_write = ?5, cache_write_long = ?6,
                output = ?7, reasoning = ?8, counted = ?9, how = ?10, source = ?11, model = coalesce(?12, model),
                response_id = coalesce(?13, response_id), raw_usage = coalesce(?14, raw_usage)
             WHERE hold = ?1",
        )
        .and_then(|mut update| {
            update.execute(params![
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
            ])
        })
        .map_err(|e| tx.error(&e))?;
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

/// Makes the data of a `usage` event (docs/controller-api.md): the caller's facts and the ledger's figures, which win.
fn event_data(about: &About<'_>, facts: &Value, charge: &Charge, settled: &Settled, more: Map<String, Value>) -> Value {
    let mut data = Map::new();
    data.insert("request".to_owned(), json!(about.id));
    data.insert("api".to_owned(), json!(about.api));
    if let Value::Object(facts) = facts {
        data.extend(facts.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    data.insert("request".to_owned(), json!(about.id));
    data.insert("api".to_owned(), json!(about.api));
    data.insert("host".to_owned(), json!(about.host));
    data.insert("model".to_owned(), json!(clip(about.model)));
    data.insert("tokens".to_owned(), json!(charge.tokens));
    data.insert("counted".to_owned(), json!(charge.counted));
    data.insert("source".to_owned(), json!(charge.source));
    if let Some(governs) = &settled.governs {
        data.insert("budget".to_owned(), json!(governs));
    }
    data.extend(more);
    Value::Object(data)
}

/// A `usage` event.
fn event(bottle: &str, run: Option<&str>, data: Value) -> NewEvent {
    NewEvent {
        kind: "usage".to_owned(),
        bottle: Some(bottle.to_owned()),
        run: run.map(str::to_owned),
        data,
        audit: false,
    }
}

//! Opening a hold and raising it.

use rusqlite::params;

use super::accounts::{self, amount, stored};
use super::writer::Tx;
use crate::budget::{self, Ask, Decision, Estimate, admit, near};
use crate::ledger::{Answer, HoldOutcome, HoldRequest, LedgerError, Raise, Raised};

/// The most that a request may estimate or be raised to. No request is that long; it keeps sums far from overflow.
const MAX_ESTIMATE: u64 = 1 << 40;

/// A hold that is open, as its row says.
#[derive(Debug)]
pub(super) struct Open {
    pub id: String,
    pub opened: i64,
    pub path: Vec<String>,
    pub provider: String,
    pub bottle: String,
    pub agent: String,
    pub run: Option<String>,
    pub api: String,
    pub host: String,
    pub model: String,
    pub estimate: Estimate,
    /// Reserved when it was opened.
    pub granted: u64,
}

/// Reserves tokens on every node of a path, or says why not. The same request again gets the same answer.
pub(super) fn hold(tx: &mut Tx<'_>, request: &HoldRequest) -> Answer<HoldOutcome> {
    accounts::check_names(&request.path, &request.provider)?;
    if request.id.is_empty() || request.id.len() > 128 {
        return Err(LedgerError::Misuse("a hold's id has 1 to 128 bytes".to_owned()));
    }
    if request.input > MAX_ESTIMATE || request.output > MAX_ESTIMATE {
        return Err(LedgerError::Misuse("an estimate is above 2^40".to_owned()));
    }
    if let Some(open) = tx.book.hold(&request.id) {
        return Ok(HoldOutcome::Granted { held: open.estimate.held, near: Vec::new() });
    }
    let mut ended = tx.conn.prepare_cached("SELECT 1 FROM usage WHERE hold = ?1").map_err(|e| tx.error(&e))?;
    if ended.exists([&request.id]).map_err(|e| tx.error(&e))? {
        return Err(LedgerError::Misuse(format!("hold {} has ended", request.id)));
    }
    let path = tx.book.path(tx.conn, &request.path, &request.provider);
    let mut path = path.map_err(|e| tx.error(&e))?;
    let HoldRequest { input, least, output, counted, ref told, .. } = *request;
    let held = match admit(&path.accounts, &Ask { input, least, output, counted, told }) {
        Decision::Granted { held } => held,
        Decision::Wait(standing) => return Ok(HoldOutcome::Wait(standing)),
        Decision::Refused(standing) => return Ok(HoldOutcome::Refused(standing)),
        Decision::WrapUp(standing) => return Ok(HoldOutcome::WrapUp(standing)),
        Decision::Count => return Ok(HoldOutcome::Count),
    };
    let near = near(&path.accounts);
    tx.book.charge(&mut path, 0, 0, held);
    let model = clip(&request.model);
    tx.conn
        .prepare_cached(
            "INSERT INTO holds
                (id, epoch, opened, path, provider, bottle, agent, run, api, host, model, input, output, held, granted)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14)",
        )
        .and_then(|mut insert| {
            insert.execute(params![
                request.id,
                tx.epoch,
                tx.now,
                path_text(&request.path),
                request.provider,
                request.bottle,
                request.agent,
                request.run,
                request.api.as_str(),
                request.host,
                model,
                stored(request.input),
                stored(request.output),
                stored(held),
            ])
        })
        .map_err(|e| tx.error(&e))?;
    tx.book.put_hold(Open {
        id: request.id.clone(),
        opened: tx.now,
        path: request.path.clone(),
        provider: request.provider.clone(),
        bottle: request.bottle.clone(),
        agent: request.agent.clone(),
        run: request.run.clone(),
        api: request.api.as_str().to_owned(),
        host: request.host.clone(),
        model: model.to_owned(),
        estimate: Estimate { input: request.input, output: request.output, held, seen: None },
        granted: held,
    });
    Ok(HoldOutcome::Granted { held, near })
}

/// Raises an open hold, and keeps the usage seen so far with it.
pub(super) fn raise(tx: &mut Tx<'_>, id: &str, raise: &Raise) -> Answer<Raised> {
    if raise.to > MAX_ESTIMATE {
        return Err(LedgerError::Misuse("a hold cannot be raised above 2^40".to_owned()));
    }
    let Some(mut open) = tx.book.take_hold(id) else {
        return Err(LedgerError::Misuse(format!("hold {id} is not open")));
    };
    let had = open.estimate.held;
    let mut path = tx.book.path(tx.conn, &open.path, &open.provider).map_err(|e| tx.error(&e))?;
    let raised = budget::raise(&path.accounts, had, raise.to, raise.ahead, raise.pauses);
    if raised.held > had {
        tx.book.charge(&mut path, 0, had, raised.held);
    }
    open.estimate.held = raised.held;
    open.estimate.seen = raise.seen.or(open.estimate.seen);
    let seen = open.estimate.seen.and_then(|seen| serde_json::to_string(&seen).ok());
    tx.conn
        .prepare_cached("UPDATE holds SET held = ?2, seen = ?3 WHERE id = ?1")
        .and_then(|mut update| update.execute((id, stored(raised.held), seen)))
        .map_err(|e| tx.error(&e))?;
    tx.book.put_hold(open);
    Ok(raised)
}

/// Makes a hold of a row `id, opened, path, provider, bottle, agent, run, api, host, model, input, output, held, seen, granted`.
pub(super) fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Open> {
    Ok(Open {
        id: row.get(0)?,
        opened: row.get(1)?,
        path: path_of(&row.get::<_, String>(2)?),
        provider: row.get(3)?,
        bottle: row.get(4)?,
        agent: row.get(5)?,
        run: row.get(6)?,
        api: row.get(7)?,
        host: row.get(8)?,
        model: row.get(9)?,
        estimate: Estimate {
            input: amount(row.get(10)?),
            output: amount(row.get(11)?),
            held: amount(row.get(12)?),
            seen: row.get::<_, Option<String>>(13)?.and_then(|text| serde_json::from_str(&text).ok()),
        },
        granted: amount(row.get(14)?),
    })
}

/// Writes a path as text.
pub(super) fn path_text(path: &[String]) -> String {
    serde_json::Value::from(path).to_string()
}

/// Reads a path that [`path_text`] wrote.
pub(super) fn path_of(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_default()
}

/// Bounds a name that came from outside: at most 256 characters.
pub(super) fn clip(text: &str) -> &str {
    text.char_indices().nth(256).map_or(text, |(at, _)| &text[..at])
}

//! What limits accounts have: as files and recipes say them, and as the operator changes them.
//!
//! Of the two the last word counts. What the operator says stands until the file says something else than it said then; what he
//! adds to a limit with a window ends with the window. So the same settings, read again at the next way in, undo nothing.

use rusqlite::OptionalExtension;
use serde_json::{Value, json};

use super::accounts::{ALL, COLUMNS, MAX_NAME, Moment, amount, from_row, stored};
use super::record;
use super::sums;
use super::writer::Tx;
use crate::api::{Account, BudgetAct, BudgetChange, Limit, Period, Terms};
use crate::budget::{MAX_TOKENS, has_name, still_warned, turn, window};
use crate::ledger::{Answer, GLOBAL, LedgerError, NewEvent};

/// An account as its row has it.
#[derive(Default)]
struct Row {
    account: Account,
    /// It is there.
    stored: bool,
    /// What was used in earlier windows.
    earlier: u64,
    /// What a file has said of it last.
    file: Option<String>,
    /// The operator had it begin anew once: what it has used is not all that was charged to it.
    was_reset: bool,
}

/// Replaces the limits of a node; what was used stays.
pub(super) fn set_limits(tx: &mut Tx<'_>, node: &str, limits: &[Limit]) -> Answer<()> {
    for (i, limit) in limits.iter().enumerate() {
        if limit.provider.is_empty() || limit.provider.len() > MAX_NAME {
            return Err(LedgerError::Misuse("a provider's name has 1 to 256 bytes".to_owned()));
        }
        if limits[..i].iter().any(|other| other.provider == limit.provider) {
            return Err(LedgerError::Misuse(format!("two limits for `{}`", limit.provider)));
        }
        if limit.tokens.is_some_and(|tokens| tokens > MAX_TOKENS) {
            return Err(LedgerError::Misuse(format!("the limit for `{}` is above 2^53", limit.provider)));
        }
        may_have(node, limit.per)?;
    }
    if node.is_empty() || node.len() > MAX_NAME {
        return Err(LedgerError::Misuse("a node's name has 1 to 256 bytes".to_owned()));
    }
    tx.freed = true;
    tx.book.give_up(tx.conn, node).map_err(|e| tx.error(&e))?;
    let mut rows = rows_of(tx, node).map_err(|e| tx.error(&e))?;
    for limit in limits.iter().filter(|limit| limit.provider != ALL) {
        if !rows.iter().any(|row| row.account.provider == limit.provider) {
            rows.push(nothing(node, &limit.provider));
        }
    }
    // All together last: where it is new, it begins with the sum of the others.
    let all = rows.iter().position(|row| row.account.provider == ALL).map(|at| rows.remove(at));
    rows.extend(all.or_else(|| limits.iter().any(|limit| limit.provider == ALL).then(|| nothing(node, ALL))));
    let mut set = || -> rusqlite::Result<()> {
        for mut row in rows.drain(..) {
            let said = limits.iter().find(|limit| limit.provider == row.account.provider);
            let file = said.map(|limit| serde_json::to_string(limit).unwrap_or_default());
            let overruled = row.account.by_operator || row.account.raised > 0;
            if overruled && row.file == file {
                continue;
            }
            row.file = file;
            match said {
                Some(limit) => {
                    apply(tx, &mut row, limit)?;
                    put(tx, &row)?;
                }
                // The account of all providers is kept only while it has a limit: else it is the sum of the others.
                None if row.account.provider == ALL => {
                    tx.conn.execute("DELETE FROM accounts WHERE node = ?1 AND provider = ?2", (node, ALL))?;
                }
                None => {
                    apply(tx, &mut row, &Limit::default())?;
                    row.account.set = false;
                    put(tx, &row)?;
                }
            }
        }
        Ok(())
    };
    set().map_err(|e| tx.error(&e))
}

/// Makes one change for the operator, and its audit row.
pub(super) fn change(tx: &mut Tx<'_>, asked: &BudgetChange, by: &str) -> Answer<Account> {
    let BudgetChange { id, node, provider, change, reason, .. } = asked;
    let misuse = |text: &str| Err(LedgerError::Misuse(text.to_owned()));
    if node.is_empty() || node.len() > MAX_NAME || provider.is_empty() || provider.len() > MAX_NAME {
        return misuse("the names of a node and of a provider have 1 to 256 bytes");
    }
    if let BudgetAct::Set { per, .. } = change {
        may_have(node, *per)?;
    }
    tx.book.give_up(tx.conn, node).map_err(|e| tx.error(&e))?;
    let rows = rows_of(tx, node).map_err(|e| tx.error(&e))?;
    let row = rows.into_iter().find(|row| row.account.provider == *provider);
    let mut row = row.unwrap_or_else(|| nothing(node, provider));
    match made_before(tx, id).map_err(|e| tx.error(&e))? {
        None => {}
        Some(made) if made == (node.clone(), provider.clone(), change.as_str().to_owned()) => return Ok(row.account),
        Some(_) => return misuse("another change has this id"),
    }
    let now = Moment { now: tx.now, zone: tx.book.zone().clone() };
    if let Some(over) = turn(&mut row.account, now.now, &now.zone) {
        row.earlier = row.earlier.saturating_add(over);
    }
    let before = figures(&row.account);
    match change {
        BudgetAct::Set { tokens, per, hard } => {
            let account = &row.account;
            // By name without a time is by name for ever.
            let by_name = has_name(node) && node != GLOBAL;
            let limit = Limit {
                provider: provider.clone(),
                tokens: *tokens,
                hard: hard.unwrap_or(account.hard),
                per: per.or(account.per).or_else(|| by_name.then_some(Period::Lifetime)),
                terms: account.terms.clone(),
            };
            if tokens.is_some_and(|tokens| tokens > MAX_TOKENS) {
                return misuse("a limit is at most 2^53");
            }
            apply(tx, &mut row, &limit).map_err(|e| tx.error(&e))?;
            row.account.by_operator = true;
        }
        BudgetAct::Raise { tokens } => {
            let Some(limit) = row.account.limit.filter(|_| row.account.set) else {
                return misuse("there is no limit that could be raised");
            };
            if limit.saturating_add(*tokens) > MAX_TOKENS {
                return misuse("a limit is at most 2^53");
            }
            row.account.limit = Some(limit + tokens);
            row.account.raised += tokens;
        }
        BudgetAct::Reset => {
            (row.account.used, row.account.warned, row.earlier) = (0, 0, 0);
            row.was_reset = true;
            let next = row.account.per.and_then(|per| window(now.now, &now.zone, per));
            row.account.resets = next.map(|window| window.end);
        }
    }
    tx.freed = true;
    put(tx, &row).map_err(|e| tx.error(&e))?;
    let data = json!({
        "node": node, "provider": provider, "change": change.as_str(), "before": before, "after": figures(&row.account),
        "by": by, "reason": reason, "id": id,
    });
    let run = node.strip_prefix("run:").map(str::to_owned);
    record::append(tx, &NewEvent { kind: "budget".to_owned(), bottle: None, run, data, audit: true })?;
    Ok(row.account)
}

/// What an audit row says of an account.
fn figures(account: &Account) -> Value {
    let mut figures = json!({"limit": account.limit, "used": account.used, "hard": account.hard});
    if let Some(per) = account.per {
        figures["per"] = json!(per);
    }
    if let Some(resets) = account.resets {
        figures["resets"] = json!(resets);
    }
    figures
}

/// Gets the change with this id that was made already: its node, its provider, and its word.
fn made_before(tx: &Tx<'_>, id: &str) -> rusqlite::Result<Option<(String, String, String)>> {
    let mut made = tx.conn.prepare_cached(
        "SELECT json_extract(data, '$.node'), json_extract(data, '$.provider'), json_extract(data, '$.change')
         FROM enforcement WHERE kind = 'budget' AND json_extract(data, '$.id') = ?1 LIMIT 1",
    )?;
    made.query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()
}

/// Gives an account a limit; what was used in its time counts.
fn apply(tx: &Tx<'_>, row: &mut Row, limit: &Limit) -> rusqlite::Result<()> {
    let (now, zone) = (tx.now, tx.book.zone());
    let account = &mut row.account;
    if let Some(over) = turn(account, now, zone) {
        row.earlier = row.earlier.saturating_add(over);
    }
    let new = !row.stored && account.provider == ALL;
    if new {
        row.was_reset = tx
            .conn
            .prepare_cached("SELECT 1 FROM accounts WHERE node = ?1 AND was_reset = 1")?
            .exists([&account.node])?;
    }
    let next = limit.per.and_then(|per| window(now, zone, per));
    match next {
        Some(next) if new => {
            let (ever, held) = sum_of_others(tx, &account.node)?;
            account.used = if ever == 0 { 0 } else { used_since(tx, account, next.start)?.min(ever) };
            (row.earlier, account.held, account.resets) = (ever - account.used, held, Some(next.end));
        }
        None if new => (account.used, account.held) = sum_of_others(tx, &account.node)?,
        // The window that has begun goes on, whatever its limit is now.
        Some(_) if account.per == limit.per && account.resets.is_some() => {}
        Some(next) => {
            let ever = account.used.saturating_add(row.earlier);
            account.used = if ever == 0 { 0 } else { used_since(tx, account, next.start)?.min(ever) };
            (row.earlier, account.resets, account.warned) = (ever - account.used, Some(next.end), 0);
        }
        None => {
            account.used = account.used.saturating_add(std::mem::take(&mut row.earlier));
            account.resets = None;
        }
    }
    (account.set, account.limit, account.hard) = (true, limit.tokens, limit.hard);
    account.terms = limit.terms.clone();
    account.per = limit.per;
    (account.raised, account.by_operator) = (0, false);
    Ok(())
}

/// An account that has no row yet.
fn nothing(node: &str, provider: &str) -> Row {
    let (node, provider) = (node.to_owned(), provider.to_owned());
    Row { account: Account { node, provider, ..Account::default() }, ..Row::default() }
}

/// Reads the accounts of a node.
fn rows_of(tx: &Tx<'_>, node: &str) -> rusqlite::Result<Vec<Row>> {
    let mut select =
        tx.conn.prepare_cached(&format!("SELECT {COLUMNS}, earlier, file, was_reset FROM accounts WHERE node = ?1"))?;
    let row = |row: &rusqlite::Row<'_>| {
        let (earlier, file, was_reset) = (amount(row.get("earlier")?), row.get("file")?, row.get("was_reset")?);
        Ok(Row { account: from_row(row)?, stored: true, earlier, file, was_reset })
    };
    select.query_map([node], row)?.collect()
}

/// Writes one.
fn put(tx: &Tx<'_>, row: &Row) -> rusqlite::Result<()> {
    let account = &row.account;
    let terms = (account.terms != Terms::default()).then(|| serde_json::to_string(&account.terms).unwrap_or_default());
    let base = account.limit.map(|limit| stored(limit.saturating_sub(account.raised)));
    tx.conn
        .prepare_cached(
            "INSERT INTO accounts (node, provider, said, amount, hard, used, held, terms, warned, per, resets, earlier,
                raised, by_operator, file, was_reset)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
             ON CONFLICT (node, provider) DO UPDATE SET
                said = excluded.said, amount = excluded.amount, hard = excluded.hard, used = excluded.used,
                terms = excluded.terms, warned = excluded.warned, per = excluded.per, resets = excluded.resets,
                earlier = excluded.earlier, raised = excluded.raised, by_operator = excluded.by_operator,
                file = excluded.file, was_reset = excluded.was_reset",
        )?
        .execute(rusqlite::params![
            account.node,
            account.provider,
            account.set,
            base,
            account.hard,
            stored(account.used),
            stored(account.held),
            terms,
            // Of what was told under the limit before, that which still holds.
            still_warned(account),
            account.per.map(Period::as_str),
            account.resets,
            stored(row.earlier),
            stored(account.raised),
            account.by_operator,
            row.file,
            row.was_reset,
        ])
        .map(|_| ())
}

/// Gets what all providers of a node have used, in earlier windows too, and what of it is held.
fn sum_of_others(tx: &Tx<'_>, node: &str) -> rusqlite::Result<(u64, u64)> {
    tx.conn
        .prepare_cached(
            "SELECT coalesce(sum(used + earlier), 0), coalesce(sum(held), 0) FROM accounts
             WHERE node = ?1 AND provider <> '*'",
        )?
        .query_row([node], |row| Ok((amount(row.get(0)?), amount(row.get(1)?))))
}

/// Sums what was charged to an account since a moment. Only where a window begins in the middle, because a limit has just got it.
fn used_since(tx: &Tx<'_>, account: &Account, start: i64) -> rusqlite::Result<u64> {
    let provider = Some(account.provider.as_str()).filter(|provider| *provider != ALL);
    sums::charged_since(tx.conn, &account.node, provider, start).map(amount)
}

/// Refuses a limit that begins anew where nothing has a name: for such nodes nobody knows what was charged when.
fn may_have(node: &str, per: Option<Period>) -> Answer<()> {
    match per.filter(|per| *per != Period::Lifetime && !has_name(node)) {
        None => Ok(()),
        Some(per) => Err(LedgerError::Misuse(format!("a limit `{}` needs a node with a name", per.words()))),
    }
}

#[cfg(test)]
mod tests;

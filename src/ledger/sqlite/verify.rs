//! Looks whether a ledger is as bb wrote it: the numbers and the chain of the events, the audit's rows and the usage rows against their
//! events, accounts and sums against the rows. Says the first thing that is wrong; changes nothing.
//!
//! What it cannot find by itself: rows that were cut off at the very end, with all that they had charged. For that the head of
//! an earlier look is compared.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row};

use super::accounts::{ALL, amount};
use super::chain::{self, FIGURES, Hash, Link, Tail};
use super::hold::path_of;
use super::sums::{MARK, QUARTER, RECIPE};
use crate::api::{Fault, Verified};
use crate::budget::has_name;

/// Sums that were made of the rows themselves.
#[derive(Default)]
struct Rows {
    /// By node and provider: what the rows charged.
    charged: HashMap<(String, String), u64>,
    /// The same of nodes that count by name, as far as the rows are in the sums.
    by_name: HashMap<(String, String), u64>,
    /// By quarter hour: requests and counted of the rows that are in the sums.
    quarters: HashMap<i64, (u64, u64)>,
}

/// Looks at all of a book. `expected` is an earlier head: the event of that number must still have that hash.
pub(super) fn verify(conn: &Connection, expected: Option<&(u64, String)>) -> rusqlite::Result<Verified> {
    // One snapshot, whatever is written meanwhile.
    let tx = conn.unchecked_transaction()?;
    let mut verified = Verified::default();
    let anchor = chain::anchor(&tx)?.unwrap_or_default();
    verified.anchor = amount(anchor.seq);
    let mut fault = events(&tx, anchor, &mut verified)?;
    if let (None, Some(expected)) = (&fault, expected) {
        fault = earlier_head(&tx, expected)?;
    }
    if fault.is_none() {
        fault = audit(&tx)?;
    }
    let mut rows = Rows::default();
    if fault.is_none() {
        fault = usage(&tx, anchor, &mut verified, &mut rows)?;
    }
    if fault.is_none() {
        fault = accounts(&tx, &mut verified, &rows)?;
    }
    if fault.is_none() {
        fault = sums(&tx, anchor, &rows)?;
    }
    if fault.is_none() {
        fault = totals(&tx)?;
    }
    if fault.is_none() {
        fault = lifetimes(&tx)?;
    }
    if fault.is_none() {
        fault = charged(&tx, rows.by_name)?;
    }
    verified.fault = fault;
    Ok(verified)
}

fn wrong(table: &str, row: impl ToString, what: impl Into<String>) -> Option<Fault> {
    Some(Fault { table: table.to_owned(), row: row.to_string(), what: what.into() })
}

/// Walks the events: no number is missing after the last that was pruned, and after the anchor each hash follows from the last.
fn events(conn: &Connection, anchor: Tail, verified: &mut Verified) -> rusqlite::Result<Option<Fault>> {
    let pruned: Option<i64> =
        conn.query_row("SELECT max(seq) FROM anchors WHERE why = 'pruned'", [], |row| row.get(0))?;
    let mut tail = Tail { seq: pruned.unwrap_or(0), hash: Hash::default() };
    let mut select = conn.prepare("SELECT seq, ts, kind, bottle, run, data, digest, hash FROM events ORDER BY seq")?;
    let mut with_row = conn.prepare("SELECT 1 FROM usage WHERE id = ?1 OR hold = ?2")?;
    let mut all = select.query([])?;
    while let Some(row) = all.next()? {
        let seq: i64 = row.get(0)?;
        if seq != tail.seq + 1 {
            let what = format!("it follows on {}: events between are missing", tail.seq);
            return Ok(wrong("events", seq, what));
        }
        verified.events += 1;
        tail.seq = seq;
        if seq <= anchor.seq {
            continue;
        }
        if seq == anchor.seq + 1 {
            tail.hash = anchor.hash;
        }
        let (kind, data): (String, String) = (row.get(2)?, row.get(5)?);
        let (bottle, run): (Option<String>, Option<String>) = (row.get(3)?, row.get(4)?);
        let digest: Option<Vec<u8>> = row.get(6)?;
        let link = Link {
            seq,
            ts: row.get(1)?,
            kind: &kind,
            bottle: bottle.as_deref(),
            run: run.as_deref(),
            data: &data,
            digest: digest.as_deref(),
        };
        tail.hash = link.hash(&tail.hash);
        let Some(said) = row.get::<_, Option<Vec<u8>>>(7)? else {
            return Ok(wrong("events", seq, "it has no hash"));
        };
        if said != tail.hash {
            return Ok(wrong(
                "events",
                seq,
                "its hash does not follow from it and the one before: one of them was changed",
            ));
        }
        verified.chained += 1;
        if digest.is_some() {
            let about = serde_json::from_str::<serde_json::Value>(&data).unwrap_or_default();
            if !with_row.exists((seq, about["request"].as_str()))? {
                return Ok(wrong("usage", seq, "the row that this event tells of is missing"));
            }
        }
    }
    if tail.seq <= anchor.seq {
        tail = anchor;
    }
    verified.head = format!("{}:{}", tail.seq, chain::hex(&tail.hash));
    Ok(None)
}

/// Compares the audit's rows with their events, and looks for events whose row is missing.
fn audit(conn: &Connection) -> rusqlite::Result<Option<Fault>> {
    let number = |row: &Row<'_>| row.get::<_, i64>(0);
    let changed = "SELECT audit.seq FROM enforcement AS audit LEFT JOIN events AS event ON event.seq = audit.seq
        WHERE event.seq IS NULL OR (audit.ts, audit.kind, audit.bottle, audit.run, audit.data) IS NOT
            (event.ts, event.kind, event.bottle, event.run, event.data) OR audit.action IS NOT json_extract(event.data, '$.action')
        ORDER BY audit.seq LIMIT 1";
    if let Some(seq) = conn.query_row(changed, [], number).optional()? {
        return Ok(wrong("enforcement", seq, "it is not the row that its event tells of"));
    }
    // What is always entered there, whoever says it.
    let missing = "SELECT event.seq FROM events AS event WHERE event.kind IN ('budget', 'crossed', 'enforced')
        AND NOT EXISTS (SELECT 1 FROM enforcement AS audit WHERE audit.seq = event.seq) ORDER BY event.seq LIMIT 1";
    let missing = conn.query_row(missing, [], number).optional()?;
    Ok(missing.and_then(|seq| wrong("enforcement", seq, "the row that this event tells of is missing")))
}

/// Looks for the head of an earlier look.
fn earlier_head(conn: &Connection, (seq, hash): &(u64, String)) -> rusqlite::Result<Option<Fault>> {
    let row = |row: &Row<'_>| row.get::<_, Option<Vec<u8>>>(0);
    let number = i64::try_from(*seq).unwrap_or(i64::MAX);
    let sql = "SELECT hash FROM events WHERE seq = ?1 UNION ALL SELECT hash FROM anchors WHERE seq = ?1";
    Ok(match conn.query_row(sql, [number], row).optional()?.flatten() {
        Some(found) if chain::hex(&found) == hash.to_ascii_lowercase() => None,
        Some(_) => wrong("events", seq, "its hash is another than the one that was expected"),
        None => wrong("events", seq, "it was expected and is missing"),
    })
}

/// Compares the usage rows with their events, and adds them up.
fn usage(conn: &Connection, anchor: Tail, verified: &mut Verified, rows: &mut Rows) -> rusqlite::Result<Option<Fault>> {
    let mark: i64 = conn.query_row(&format!("SELECT {MARK}"), [], |row| row.get(0))?;
    let sql = format!("SELECT {FIGURES}, id, seq, path, provider, counted, ts FROM usage ORDER BY id");
    let mut select = conn.prepare(&sql)?;
    let mut of_event = conn.prepare("SELECT digest FROM events WHERE seq = ?1 AND kind = 'usage'")?;
    let mut all = select.query([])?;
    while let Some(row) = all.next()? {
        verified.usage += 1;
        let (id, seq): (i64, i64) = (row.get(1)?, row.get(2)?);
        let (path, provider): (String, String) = (row.get(3)?, row.get(4)?);
        let counted = amount(row.get(5)?);
        if seq == 0 && counted > 0 {
            return Ok(wrong("usage", id, "it charges, and no event tells of it"));
        }
        if seq > anchor.seq {
            let said: Option<Option<Vec<u8>>> = of_event.query_row([seq], |row| row.get(0)).optional()?;
            match said.flatten() {
                None => return Ok(wrong("usage", id, format!("its event {seq} is missing"))),
                Some(said) if said != chain::digest(row)? => {
                    return Ok(wrong("usage", id, format!("it is not the row that its event {seq} tells of")));
                }
                Some(_) => {}
            }
        }
        let is_summed = id > 0 && id <= mark;
        if is_summed {
            let sum = rows.quarters.entry(row.get::<_, i64>(6)?.div_euclid(QUARTER)).or_default();
            (sum.0, sum.1) = (sum.0 + 1, sum.1 + counted);
        }
        if counted > 0 {
            for node in path_of(&path) {
                if is_summed && has_name(&node) {
                    *rows.by_name.entry((node.clone(), provider.clone())).or_default() += counted;
                }
                *rows.charged.entry((node, provider.clone())).or_default() += counted;
            }
        }
    }
    Ok(None)
}

/// Tells, as SQL over `accounts`, whether what an account has used, in earlier windows too, is the sum of all that was charged to it.
/// It is not where the operator had it begin anew.
const IS_A_SUM: &str = "NOT was_reset";

/// Compares what accounts have used with the rows, those that were pruned included.
fn accounts(conn: &Connection, verified: &mut Verified, rows: &Rows) -> rusqlite::Result<Option<Fault>> {
    let mut expected = rows.charged.clone();
    let mut select = conn.prepare("SELECT node, provider, counted FROM pruned")?;
    let mut all = select.query([])?;
    while let Some(row) = all.next()? {
        *expected.entry((row.get(0)?, row.get(1)?)).or_default() += amount(row.get(2)?);
    }
    let mut together: HashMap<&str, u64> = HashMap::new();
    for ((node, _), counted) in &expected {
        *together.entry(node).or_default() += counted;
    }
    let sql = format!("SELECT node, provider, used + earlier, {IS_A_SUM} FROM accounts ORDER BY node, provider");
    let mut select = conn.prepare(&sql)?;
    let mut all = select.query([])?;
    let mut seen = 0;
    while let Some(row) = all.next()? {
        let (node, provider): (String, String) = (row.get(0)?, row.get(1)?);
        let used = amount(row.get(2)?);
        let is_a_sum: bool = row.get(3)?;
        let sum = match provider == ALL {
            true => together.get(node.as_str()).copied().unwrap_or(0),
            false => expected.get(&(node.clone(), provider.clone())).copied().unwrap_or(0),
        };
        seen += u64::from(provider != ALL && expected.contains_key(&(node.clone(), provider.clone())));
        if !is_a_sum {
            continue;
        }
        verified.accounts += 1;
        if used != sum {
            let what = format!("it has used {used}, and the rows charge it {sum}");
            return Ok(wrong("accounts", format!("{node} {provider}"), what));
        }
    }
    if seen < expected.len() as u64 {
        return Ok(wrong("accounts", "-", "rows charge an account that is missing"));
    }
    Ok(None)
}

/// Compares the sums of what was not pruned with the rows.
fn sums(conn: &Connection, anchor: Tail, rows: &Rows) -> rusqlite::Result<Option<Fault>> {
    let mut select = conn.prepare(
        "SELECT quarter, sum(requests), sum(counted), min(first_id) FROM sums GROUP BY quarter ORDER BY quarter",
    )?;
    let pruned: bool =
        conn.query_row("SELECT EXISTS (SELECT 1 FROM anchors WHERE why = 'pruned')", [], |row| row.get(0))?;
    let mut all = select.query([])?;
    while let Some(row) = all.next()? {
        let quarter: i64 = row.get(0)?;
        let first: i64 = row.get(3)?;
        if pruned && first <= anchor.seq {
            continue;
        }
        let said = (amount(row.get(1)?), amount(row.get(2)?));
        if said != rows.quarters.get(&quarter).copied().unwrap_or_default() {
            let at = quarter * QUARTER;
            return Ok(wrong("sums", at, "the sums of the quarter hour that begins then are not those of its rows"));
        }
    }
    Ok(None)
}

/// Compares the sums over all bottles and runs with those by bottle and run, also of what was pruned.
fn totals(conn: &Connection) -> rusqlite::Result<Option<Fault>> {
    let grouped = |recipe: &str, table: &str| {
        format!(
            "SELECT quarter, agent, provider, model, {recipe}, exact, sum(requests), sum(input), sum(cache_read),
                sum(cache_write), sum(output), sum(reasoning), sum(counted)
             FROM {table} GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(requests) <> 0 OR sum(counted) <> 0"
        )
    };
    let sql = first_difference(&grouped(RECIPE, "sums"), &grouped("recipe", "totals"));
    let first: Option<i64> = conn.query_row(&sql, [], |row| row.get(0)).optional()?;
    let what = "the totals of the quarter hour that begins then are not its sums by bottle and run";
    Ok(first.and_then(|quarter| wrong("totals", quarter * QUARTER, what)))
}

/// Compares the sums over all time with those by quarter hours.
fn lifetimes(conn: &Connection) -> rusqlite::Result<Option<Fault>> {
    let grouped = |table: &str| {
        format!(
            "SELECT bottle, agent, provider, model, run, exact, sum(requests), sum(input), sum(cache_read), sum(cache_write),
                sum(output), sum(reasoning), sum(counted)
             FROM {table} GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(requests) <> 0 OR sum(counted) <> 0"
        )
    };
    let bottle: Option<String> =
        conn.query_row(&first_difference(&grouped("sums"), &grouped("lifetimes")), [], |row| row.get(0)).optional()?;
    Ok(bottle
        .and_then(|bottle| wrong("lifetimes", bottle, "its sums over all time are not those of its quarter hours")))
}

/// Gets the first row that only one of two questions has, as SQL.
fn first_difference(one: &str, other: &str) -> String {
    format!(
        "WITH one AS ({one}), other AS ({other})
         SELECT * FROM (SELECT * FROM one EXCEPT SELECT * FROM other)
         UNION ALL SELECT * FROM (SELECT * FROM other EXCEPT SELECT * FROM one) ORDER BY 1 LIMIT 1"
    )
}

/// Compares what was charged to nodes that count by name with the rows, those that were pruned included.
fn charged(conn: &Connection, mut expected: HashMap<(String, String), u64>) -> rusqlite::Result<Option<Fault>> {
    let sql = "SELECT node, provider, counted FROM pruned";
    let mut select = conn.prepare(sql)?;
    let mut all = select.query([])?;
    while let Some(row) = all.next()? {
        let node: String = row.get(0)?;
        if has_name(&node) {
            *expected.entry((node, row.get(1)?)).or_default() += amount(row.get(2)?);
        }
    }
    let mut select = conn.prepare("SELECT node, provider, sum(counted) FROM charged GROUP BY 1, 2 ORDER BY 1, 2")?;
    let mut all = select.query([])?;
    while let Some(row) = all.next()? {
        let (node, provider): (String, String) = (row.get(0)?, row.get(1)?);
        let (said, sum) = (amount(row.get(2)?), expected.remove(&(node.clone(), provider.clone())).unwrap_or(0));
        if said != sum {
            let what = format!("{said} are said to be charged to it by quarter hours, and by the rows it is {sum}");
            return Ok(wrong("charged", format!("{node} {provider}"), what));
        }
    }
    let missing = expected.into_iter().find(|(_, counted)| *counted > 0);
    Ok(missing.and_then(|((node, provider), _)| {
        wrong("charged", format!("{node} {provider}"), "what the rows charge to it is missing")
    }))
}

#[cfg(test)]
mod tests;

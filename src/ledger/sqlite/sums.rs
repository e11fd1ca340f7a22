//! Sums of the usage by quarter hours (UTC; every zone's days begin at one), so that neither a report nor a limit that gets a
//! window need read every row. Four tables, of the same rows:
//!
//! * `sums`: by bottle, run and all else that a report may be of;
//! * `totals`: over all bottles and runs. Where usage is scattered over many of them, `sums` has as many rows as there was usage;
//! * `lifetimes`: by bottle and run, over all time;
//! * `charged`: what was charged to each node that counts by name.
//!
//! No settle waits for them: the writer's thread brings a bounded number of rows in at a time, in transactions of its own, when
//! enough have come together. How far it came is `folded_to` in `meta`; a report adds the rows after it ([`super::report`]). Rows
//! that late usage changes are taken out of their sums before, and put back after.

use std::collections::HashMap;

use rusqlite::{Connection, Params};

use super::hold::path_of;
use crate::budget::has_name;

/// Length of what is summed together. Unit: milliseconds.
pub(super) const QUARTER: i64 = 15 * 60 * 1000;

/// So many rows wait before they are brought in.
pub(super) const ENOUGH: u32 = 1000;

/// Most rows that are brought in at a time: others wait for it, a few milliseconds.
pub(super) const MOST: u32 = 1000;

/// The last row that is in the sums, as SQL.
pub(super) const MARK: &str = "coalesce((SELECT value FROM meta WHERE key = 'folded_to'), 0)";

/// The recipe of a `run`, as SQL; empty where none is known.
pub(super) const RECIPE: &str = "coalesce((SELECT recipe FROM runs WHERE runs.id = run), '')";

/// What tells the rows of a table of sums apart.
struct Table {
    name: &'static str,
    /// Its columns for that.
    keys: &'static str,
    /// The same of a row of usage.
    of_usage: String,
}

fn by_bottle() -> Table {
    Table {
        name: "sums",
        keys: "quarter, bottle, agent, provider, model, run, exact",
        of_usage: format!(
            "ts / {QUARTER}, bottle, agent, provider, coalesce(model, model_asked), coalesce(run, ''), source = 'exact'"
        ),
    }
}

fn over_all() -> Table {
    Table {
        name: "totals",
        keys: "quarter, model, provider, agent, recipe, exact",
        of_usage: format!("ts / {QUARTER}, coalesce(model, model_asked), provider, agent, {RECIPE}, source = 'exact'"),
    }
}

fn over_time() -> Table {
    Table {
        name: "lifetimes",
        keys: "bottle, agent, provider, model, run, exact",
        of_usage: "bottle, agent, provider, coalesce(model, model_asked), coalesce(run, ''), source = 'exact'"
            .to_owned(),
    }
}

/// The figures of a sum.
const FIGURES: &str =
    "requests, input, cache_read, cache_write, output, reasoning, counted, first_id, last_id, first_ts, last_ts";

/// Adds rows to a table of sums: those of usage that `which` says, grouped. `sign` is empty, or - to take them out.
fn add(table: &Table, sign: &str, which: &str) -> String {
    let Table { name, keys, of_usage } = table;
    let groups: Vec<String> = (1..=keys.split(',').count()).map(|at| at.to_string()).collect();
    format!(
        "INSERT INTO {name} ({keys}, {FIGURES})
         SELECT {of_usage}, sum({sign} 1), sum({sign} input), sum({sign} cache_read), sum({sign} (cache_write + cache_write_long)),
            sum({sign} output), sum({sign} reasoning), sum({sign} counted), min(id), max(id), min(ts), max(ts)
         FROM usage WHERE {which} GROUP BY {}
         ON CONFLICT ({keys}) DO UPDATE SET
            requests = requests + excluded.requests, input = input + excluded.input,
            cache_read = cache_read + excluded.cache_read, cache_write = cache_write + excluded.cache_write,
            output = output + excluded.output, reasoning = reasoning + excluded.reasoning,
            counted = counted + excluded.counted, first_id = min(first_id, excluded.first_id),
            last_id = max(last_id, excluded.last_id), first_ts = min(first_ts, excluded.first_ts),
            last_ts = max(last_ts, excluded.last_ts)",
        groups.join(", ")
    )
}

/// Adds rows of usage to all tables.
fn enter<P: Params + Copy>(conn: &Connection, sign: &str, which: &str, of: P) -> rusqlite::Result<()> {
    for table in [by_bottle(), over_all(), over_time()] {
        conn.prepare_cached(&add(&table, sign, which))?.execute(of)?;
    }
    let sql = format!("SELECT ts / {QUARTER}, path, provider, {sign} counted FROM usage WHERE {which} AND counted > 0");
    let mut select = conn.prepare_cached(&sql)?;
    let mut rows = select.query(of)?;
    let mut charged: HashMap<(String, i64, String), i64> = HashMap::new();
    while let Some(row) = rows.next()? {
        for node in path_of(row.get_ref(1)?.as_str()?).into_iter().filter(|node| has_name(node)) {
            *charged.entry((node, row.get(0)?, row.get(2)?)).or_default() += row.get::<_, i64>(3)?;
        }
    }
    let mut put = conn.prepare_cached(
        "INSERT INTO charged (node, quarter, provider, counted) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (node, quarter, provider) DO UPDATE SET counted = counted + excluded.counted",
    )?;
    for ((node, quarter, provider), counted) in charged {
        put.execute((node, quarter, provider, counted))?;
    }
    Ok(())
}

/// Counts the rows that are in no sum yet, as far as [`ENOUGH`].
pub(super) fn waiting(conn: &Connection) -> rusqlite::Result<u32> {
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM usage WHERE id > {MARK} LIMIT {ENOUGH})");
    conn.prepare_cached(&sql)?.query_row([], |row| row.get(0))
}

/// Brings rows in, at most [`MOST`]; tells how many. The transaction is the caller's.
pub(super) fn fold(conn: &Connection) -> rusqlite::Result<u32> {
    let next =
        format!("SELECT count(*), max(id) FROM (SELECT id FROM usage WHERE id > {MARK} ORDER BY id LIMIT {MOST})");
    let (rows, last): (u32, Option<i64>) =
        conn.prepare_cached(&next)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let Some(last) = last else { return Ok(0) };
    enter(conn, "", &format!("id > {MARK} AND id <= ?1"), [last])?;
    conn.prepare_cached(
        "INSERT INTO meta (key, value) VALUES ('folded_to', ?1) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )?
    .execute([last])?;
    Ok(rows)
}

/// Takes the row of a hold out of its sums, if it is in any: it is about to change.
pub(super) fn take_out(conn: &Connection, hold: &str) -> rusqlite::Result<()> {
    enter(conn, "-", &format!("hold = ?1 AND id > 0 AND id <= {MARK}"), [hold])
}

/// Puts the row of a hold back into its sums, if it was in any.
pub(super) fn put_back(conn: &Connection, hold: &str) -> rusqlite::Result<()> {
    enter(conn, "", &format!("hold = ?1 AND id > 0 AND id <= {MARK}"), [hold])
}

/// Makes the totals anew of the quarter hours in which a run was at work: its recipe has another name now.
pub(super) fn renamed(conn: &Connection, run: &str) -> rusqlite::Result<()> {
    let quarters = "SELECT quarter FROM sums WHERE run = ?1";
    conn.execute(&format!("DELETE FROM totals WHERE quarter IN ({quarters})"), [run])?;
    let Table { name, keys, .. } = over_all();
    conn.execute(
        &format!(
            "INSERT INTO {name} ({keys}, {FIGURES})
             SELECT quarter, model, provider, agent, {RECIPE}, exact, sum(requests), sum(input), sum(cache_read),
                sum(cache_write), sum(output), sum(reasoning), sum(counted), min(first_id), max(last_id), min(first_ts),
                max(last_ts)
             FROM sums WHERE quarter IN ({quarters}) GROUP BY 1, 2, 3, 4, 5, 6"
        ),
        [run],
    )?;
    Ok(())
}

/// Sums what was charged to a node that counts by name since a moment, to one provider or to all. A quarter hour that had begun
/// by then counts whole; no window begins within one.
pub(super) fn charged_since(
    conn: &Connection,
    node: &str,
    provider: Option<&str>,
    start: i64,
) -> rusqlite::Result<i64> {
    let sql = "SELECT coalesce(sum(counted), 0) FROM charged WHERE node = ?1 AND quarter >= ?2 AND provider = coalesce(?3, provider)";
    let mut sum: i64 =
        conn.prepare_cached(sql)?.query_row((node, start.div_euclid(QUARTER), provider), |row| row.get(0))?;
    let sql =
        format!("SELECT path, counted FROM usage WHERE id > {MARK} AND ts >= ?1 AND provider = coalesce(?2, provider)");
    let mut select = conn.prepare_cached(&sql)?;
    let mut rows = select.query((start, provider))?;
    while let Some(row) = rows.next()? {
        if path_of(row.get_ref(0)?.as_str()?).iter().any(|of| of == node) {
            sum = sum.saturating_add(row.get(1)?);
        }
    }
    Ok(sum)
}

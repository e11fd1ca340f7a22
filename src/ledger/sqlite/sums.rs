//! Sums of the usage by quarter hours (UTC; every zone's days begin at one), so that a report need not read every row.
//!
//! No settle waits for them: the writer's thread brings a bounded number of rows in at a time, in transactions of its own, when
//! enough have come together. How far it came is `folded_to` in `meta`; a report adds the rows after it ([`super::report`]). Rows
//! that late usage changes are taken out of their sum before, and put back after.

use rusqlite::{Connection, params};

/// Length of what is summed together. Unit: milliseconds.
pub(super) const QUARTER: i64 = 15 * 60 * 1000;

/// So many rows wait before they are brought in.
pub(super) const ENOUGH: u32 = 1000;

/// Most rows that are brought in at a time: others wait for it, a millisecond or two.
pub(super) const MOST: u32 = 1000;

/// The last row that is in the sums, as SQL.
pub(super) const MARK: &str = "coalesce((SELECT value FROM meta WHERE key = 'folded_to'), 0)";

/// Rows of usage as sums, each by itself. `sign` is 1, or -1 to take them out.
fn as_sums(sign: &str) -> String {
    format!(
        "ts / {QUARTER}, bottle, agent, provider, coalesce(model, model_asked), coalesce(run, ''), source = 'exact',
            sum({sign} 1), sum({sign} input), sum({sign} cache_read), sum({sign} (cache_write + cache_write_long)),
            sum({sign} output), sum({sign} reasoning), sum({sign} counted), min(id), max(id), min(ts), max(ts)"
    )
}

/// Adds rows of usage to the sums: those that `which` says, grouped.
fn add(sign: &str, which: &str) -> String {
    format!(
        "INSERT INTO sums (quarter, bottle, agent, provider, model, run, exact, requests, input, cache_read, cache_write, output,
            reasoning, counted, first_id, last_id, first_ts, last_ts)
         SELECT {} FROM usage WHERE {which} GROUP BY 1, 2, 3, 4, 5, 6, 7
         ON CONFLICT (quarter, bottle, agent, provider, model, run, exact) DO UPDATE SET
            requests = requests + excluded.requests, input = input + excluded.input,
            cache_read = cache_read + excluded.cache_read, cache_write = cache_write + excluded.cache_write,
            output = output + excluded.output, reasoning = reasoning + excluded.reasoning,
            counted = counted + excluded.counted, first_id = min(first_id, excluded.first_id),
            last_id = max(last_id, excluded.last_id), first_ts = min(first_ts, excluded.first_ts),
            last_ts = max(last_ts, excluded.last_ts)",
        as_sums(sign)
    )
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
    conn.prepare_cached(&add("", &format!("id > {MARK} AND id <= ?1")))?.execute([last])?;
    conn.prepare_cached(
        "INSERT INTO meta (key, value) VALUES ('folded_to', ?1) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )?
    .execute([last])?;
    Ok(rows)
}

/// Takes the row of a hold out of its sum, if it is in one: it is about to change.
pub(super) fn take_out(conn: &Connection, hold: &str) -> rusqlite::Result<()> {
    change(conn, "-", hold)
}

/// Puts the row of a hold back into a sum, if it was in one.
pub(super) fn put_back(conn: &Connection, hold: &str) -> rusqlite::Result<()> {
    change(conn, "", hold)
}

fn change(conn: &Connection, sign: &str, hold: &str) -> rusqlite::Result<()> {
    let which = format!("hold = ?1 AND id > 0 AND id <= {MARK}");
    conn.prepare_cached(&add(sign, &which))?.execute(params![hold])?;
    Ok(())
}

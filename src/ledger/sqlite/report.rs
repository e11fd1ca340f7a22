//! Reports of usage: the sums of whole quarter hours, and rows where a sum would say too much or nothing yet. One statement, so
//! that what the writer folds meanwhile is in the answer once. The sums over all bottles serve wherever neither a bottle nor a run
//! is asked for; those over all time where no time is.

use std::collections::{BTreeSet, HashMap};

use jiff::tz::TimeZone;
use rusqlite::{Connection, params};

use super::accounts::amount;
use super::sums::{MARK, QUARTER, RECIPE};
use crate::api::{By, Slice, Span, UsageQuery, UsageReport, UsageRow, UsageTotal};
use crate::ledger::period::Stretches;

/// What a report is by where nothing was said.
const USUAL: [By; 4] = [By::Bottle, By::Agent, By::Provider, By::Model];

/// The figures that every branch of the statement has, of rows.
const OF_ROWS: &str =
    "1, input, cache_read, cache_write + cache_write_long, output, reasoning, counted, source <> 'exact',
    ts, ts, id";

/// The same of sums.
const OF_SUMS: &str = "requests, input, cache_read, cache_write, output, reasoning, counted, iif(exact, 0, requests),
    first_ts, last_ts, first_id";

/// The table of sums that a report is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    /// Those by bottle and run.
    Sums,
    /// Those over all of them.
    Totals,
    /// Those by bottle and run, over all time.
    Lifetimes,
}

/// Sums usage. Holds that were given back untouched are no usage.
pub(super) fn usage(conn: &Connection, query: &UsageQuery) -> rusqlite::Result<UsageReport> {
    let by = rows_of(query);
    usage_from(conn, query, &by, fitting(query, &by))
}

/// What the rows of a report are of.
fn rows_of(query: &UsageQuery) -> BTreeSet<By> {
    let mut by: BTreeSet<By> = query.by.as_deref().unwrap_or(&USUAL).iter().copied().collect();
    if query.period == Some(Slice::Session) {
        by.insert(By::Bottle);
    }
    by
}

/// Gets the smallest table that says enough.
fn fitting(query: &UsageQuery, by: &BTreeSet<By>) -> Table {
    let asked = [query.bottle.is_some(), query.run.is_some(), by.contains(&By::Bottle), by.contains(&By::Run)];
    match asked.contains(&true) {
        false => Table::Totals,
        true if is_cut(query) || query.since.is_some() || query.until.is_some() => Table::Sums,
        true => Table::Lifetimes,
    }
}

/// Tells whether a report has rows for each of several stretches of time.
fn is_cut(query: &UsageQuery) -> bool {
    !matches!(query.period, None | Some(Slice::Session))
}

fn usage_from(conn: &Connection, query: &UsageQuery, by: &BTreeSet<By>, from: Table) -> rusqlite::Result<UsageReport> {
    let mut select = conn.prepare_cached(&statement(query, by, from))?;
    let (since, until) = (query.since.unwrap_or(i64::MIN), query.until.unwrap_or(i64::MAX));
    let values = params![
        query.bottle,
        query.run,
        query.provider,
        since,
        until,
        // Rounded up, and down: the whole quarter hours between.
        query.since.map_or(i64::MIN, |since| since.div_euclid(QUARTER) + i64::from(since.rem_euclid(QUARTER) > 0)),
        query.until.map_or(i64::MAX, |until| until.div_euclid(QUARTER)),
    ];
    let read = |row: &rusqlite::Row<'_>| {
        let figure = |at: usize| row.get::<_, i64>(at).map(amount);
        let total = UsageTotal {
            requests: figure(7)?,
            input: figure(8)?,
            cache_read: figure(9)?,
            cache_write: figure(10)?,
            output: figure(11)?,
            reasoning: figure(12)?,
            counted: figure(13)?,
            estimated: figure(14)?,
        };
        let kept = |wanted: By, text: String| by.contains(&wanted).then_some(text);
        let (first, last) = (row.get(15)?, row.get(16)?);
        let made = UsageRow {
            bottle: row.get(1)?,
            agent: row.get(2)?,
            provider: row.get(3)?,
            model: row.get(4)?,
            run: kept(By::Run, row.get(5)?),
            recipe: kept(By::Recipe, row.get(6)?),
            span: query.period.map(|_| Span { start: first, end: last, first, last }),
            total,
        };
        Ok((row.get::<_, i64>(0)?.saturating_mul(QUARTER), made))
    };
    let rows: Vec<(i64, UsageRow)> = select.query_map(values, read)?.collect::<rusqlite::Result<_>>()?;
    let mut report = UsageReport::default();
    for (_, row) in &rows {
        report.total.add(&row.total);
    }
    report.rows = match query.period {
        None => rows.into_iter().map(|(_, row)| row).collect(),
        Some(Slice::Session) => {
            let mut rows: Vec<UsageRow> = rows.into_iter().map(|(_, row)| row).collect();
            rows.sort_by_key(|row| row.span.map(|span| span.last));
            rows
        }
        Some(period) => cut(period, rows, &zone(query)),
    };
    Ok(report)
}

/// Gets the zone whose days count.
fn zone(query: &UsageQuery) -> TimeZone {
    let named = query.zone.as_deref().and_then(|name| TimeZone::get(name).ok());
    named.unwrap_or_else(TimeZone::system)
}

/// Brings rows of quarter hours together by stretches of time, in the order of time.
fn cut(period: Slice, rows: Vec<(i64, UsageRow)>, zone: &TimeZone) -> Vec<UsageRow> {
    let stretches = Stretches::cut(period, rows.iter().map(|(at, _)| *at), zone);
    // Of each row that comes of it: its place, its times, its figures.
    let mut found: HashMap<_, (usize, Span, UsageTotal)> = HashMap::new();
    for (at, row) in rows {
        let (start, end) = stretches.of(at);
        let UsageRow { bottle, agent, provider, model, recipe, run, span, total } = row;
        let Span { first, last, .. } = span.unwrap_or_default();
        let place = found.len();
        let names = (start, bottle, agent, provider, model, recipe, run);
        let (_, span, sum) =
            found.entry(names).or_insert((place, Span { start, end, first, last }, UsageTotal::default()));
        sum.add(&total);
        (span.first, span.last) = (span.first.min(first), span.last.max(last));
    }
    let made = |((_, bottle, agent, provider, model, recipe, run), (place, span, total))| {
        (place, UsageRow { bottle, agent, provider, model, recipe, run, span: Some(span), total })
    };
    let mut all: Vec<(usize, UsageRow)> = found.into_iter().map(made).collect();
    all.sort_by_key(|(place, row)| (row.span.map(|span| span.start), *place));
    all.into_iter().map(|(_, row)| row).collect()
}

/// Writes the statement. Its parameters: bottle, run, provider, since, until, and the first and the last whole quarter hour, that one
/// not included.
fn statement(query: &UsageQuery, by: &BTreeSet<By>, from: Table) -> String {
    let mut narrowed = String::new();
    for (given, clause) in [
        (query.bottle.is_some(), " AND bottle = ?1"),
        (query.run.is_some(), " AND coalesce(run, '') = ?2"),
        (query.provider.is_some(), " AND provider = ?3"),
    ] {
        narrowed.push_str(if given { clause } else { "" });
    }
    // So that its index serves.
    let of_sums = narrowed.replace("coalesce(run, '')", "run");
    let recipe = if by.contains(&By::Recipe) { RECIPE } else { "''" };
    let of_rows = format!(
        "SELECT ts / {QUARTER}, bottle, agent, provider, coalesce(model, model_asked), coalesce(run, ''), {recipe}, {OF_ROWS}
         FROM usage"
    );
    let cut = is_cut(query);
    let whole = format!("requests <> 0 AND quarter >= ?6 AND quarter < ?7{of_sums}");
    let sums = match from {
        Table::Sums => {
            format!("SELECT quarter, bottle, agent, provider, model, run, {recipe}, {OF_SUMS} FROM sums WHERE {whole}")
        }
        Table::Lifetimes => {
            format!(
                "SELECT 0, bottle, agent, provider, model, run, {recipe}, {OF_SUMS} FROM lifetimes WHERE requests <> 0{of_sums}"
            )
        }
        // They lie in the order of these: brought together here, there is less to be sorted.
        Table::Totals if cut => {
            let keys = [(By::Model, "model"), (By::Provider, "provider"), (By::Agent, "agent"), (By::Recipe, "recipe")];
            let wanted: String =
                keys.iter().filter(|(wanted, _)| by.contains(wanted)).map(|(_, name)| format!(", {name}")).collect();
            format!(
                "SELECT quarter, '', agent, provider, model, '', recipe, sum(requests), sum(input), sum(cache_read),
                    sum(cache_write), sum(output), sum(reasoning), sum(counted), sum(iif(exact, 0, requests)),
                    min(first_ts), max(last_ts), min(first_id)
                 FROM totals WHERE {whole} GROUP BY quarter{wanted}"
            )
        }
        Table::Totals => {
            format!("SELECT quarter, '', agent, provider, model, '', recipe, {OF_SUMS} FROM totals WHERE {whole}")
        }
    };
    let mut branches = vec![sums, format!("{of_rows} WHERE id > {MARK} AND ts >= ?4 AND ts < ?5{narrowed}")];
    // Of a quarter hour that is cut the rows count; its sums say where they are.
    let edges = [query.since, query.until].into_iter().flatten().filter(|at| at.rem_euclid(QUARTER) > 0);
    for edge in edges.map(|at| at.div_euclid(QUARTER)).collect::<BTreeSet<i64>>() {
        branches.push(format!(
            "{of_rows} WHERE id >= (SELECT min(first_id) FROM totals WHERE quarter = {edge})
                AND id <= (SELECT max(last_id) FROM totals WHERE quarter = {edge}) AND id > 0 AND id <= {MARK}
                AND ts / {QUARTER} = {edge} AND ts >= ?4 AND ts < ?5{narrowed}"
        ));
    }
    let column = |wanted: By, name: &'static str| if by.contains(&wanted) { name } else { "''" };
    let keys = [
        if cut { "quarter" } else { "0" },
        column(By::Bottle, "bottle"),
        column(By::Agent, "agent"),
        column(By::Provider, "provider"),
        column(By::Model, "model"),
        column(By::Run, "run"),
        column(By::Recipe, "recipe"),
    ];
    format!(
        "WITH told (quarter, bottle, agent, provider, model, run, recipe, requests, input, cache_read, cache_write, output,
            reasoning, counted, estimated, first_ts, last_ts, first_id) AS ({})
         SELECT {}, sum(requests), sum(input), sum(cache_read), sum(cache_write), sum(output), sum(reasoning), sum(counted),
            sum(estimated), min(first_ts), max(last_ts)
         FROM told WHERE ?1 IS ?1 AND ?2 IS ?2 AND ?3 IS ?3 AND ?4 IS ?4 AND ?5 IS ?5 AND ?6 IS ?6 AND ?7 IS ?7
         GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY min(first_id)",
        branches.join(" UNION ALL "),
        keys.join(", "),
    )
}

#[cfg(test)]
mod tests;

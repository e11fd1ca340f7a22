//! Cost of one request's admission and settlement, in a ledger with 10 rows and in one with a million.
//!
//! `cargo bench --bench ledger [-- [power] ROWS...]`. Prints microseconds at the median and the 99th percentile for one caller,
//! and commands per second for 32; how long a report by day takes over all rows, and the size of the file for a million. The goals:
//! the same at any size of the ledger, and a report over 10 million rows below 1 s. With `power` every commit is on the disk.
//!
//! `cargo bench --bench ledger -- scattered [ROWS...]` prints what reports take over rows that are scattered over 10,000 bottles, each with a run of
//! its own, so that the sums by bottle are as many as the rows; and what one row takes to be brought into the sums.

use std::path::Path;
use std::time::Instant;

use bb::api::{By, Limit, Slice, UsageQuery};
use bb::ledger::sqlite::{Options, SqliteLedger};
use bb::ledger::{GLOBAL, HoldOutcome, HoldRequest, Ledger, LedgerError, Settle, Settlement};
use bb::types::{Api, Durability, Tokens};

/// Requests measured one after another.
const REQUESTS: usize = 20_000;

/// Callers at once, and requests of each.
const CALLERS: usize = 32;
const EACH: usize = 1_000;

/// Bottles that rows are scattered over.
const BOTTLES: u64 = 10_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sizes: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![10, 1_000_000] } else { sizes };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let dir = std::env::temp_dir().join(format!("bb-bench-ledger-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    if std::env::args().any(|arg| arg == "scattered") {
        let result = sizes.iter().try_for_each(|rows| runtime.block_on(scattered(&dir.join("scattered.db"), *rows)));
        std::fs::remove_dir_all(&dir)?;
        return result;
    }
    let power = std::env::args().any(|arg| arg == "power");
    let durability = if power { Durability::Power } else { Durability::Normal };
    println!(
        "{:>9}  {:>21}  {:>21}  {:>12}  {:>12}  {:>10}",
        "rows", "hold p50 / p99 us", "settle p50 / p99 us", "32 callers/s", "by day ms", "MB/million"
    );
    for rows in sizes {
        let result = runtime.block_on(measure(&dir.join(format!("{rows}.db")), rows, durability));
        if let Err(e) = result {
            std::fs::remove_dir_all(&dir)?;
            return Err(e);
        }
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

async fn measure(path: &Path, rows: u64, durability: Durability) -> Result<(), Box<dyn std::error::Error>> {
    SqliteLedger::open(path, Options::default())?.close().await?;
    fill(path, rows, false)?;
    let ledger = SqliteLedger::open(path, Options { durability, ..Options::default() })?;
    // What was filled in is brought into the sums before anything is measured, as it is in a book that has grown.
    while !is_folded(path)? {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let size = std::fs::metadata(path)?.len() as f64 / rows.max(1) as f64;
    let by_day = report(&ledger, rows, Some(Slice::Day), &[By::Model]).await?;
    let hard = Limit::hard("claude", Some(1 << 50));
    ledger.set_limits(GLOBAL, vec![hard]).await?;
    for i in 0..500 {
        once(&ledger, &format!("warm-{i}"), "bottle:bench").await?;
    }

    let (mut holds, mut settles) = (Vec::with_capacity(REQUESTS), Vec::with_capacity(REQUESTS));
    for i in 0..REQUESTS {
        let (hold, settle) = once(&ledger, &id(i), "bottle:bench").await?;
        holds.push(hold);
        settles.push(settle);
    }

    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let ledger = ledger.clone();
        tasks.spawn(async move {
            for i in 0..EACH {
                once(&ledger, &format!("many-{caller}-{i}"), &format!("bottle:{caller}")).await?;
            }
            Ok::<(), LedgerError>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let rate = (CALLERS * EACH) as f64 / begun.elapsed().as_secs_f64();
    let percentiles = |list: &mut Vec<f64>| {
        list.sort_by(f64::total_cmp);
        format!("{:8.1} / {:8.1}", list[list.len() / 2], list[list.len() * 99 / 100])
    };
    let (holds, settles) = (percentiles(&mut holds), percentiles(&mut settles));
    println!("{rows:>9}  {holds:>21}  {settles:>21}  {rate:>12.0}  {by_day:>12.1}  {size:>10.0}");
    ledger.close().await?;
    Ok(())
}

/// Asks for a report over all rows five times: the median, in milliseconds.
async fn report(ledger: &SqliteLedger, rows: u64, period: Option<Slice>, by: &[By]) -> Result<f64, LedgerError> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let report = ledger.usage(UsageQuery { by: Some(by.to_vec()), period, ..UsageQuery::default() }).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(report.total.requests, rows);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

async fn scattered(path: &Path, rows: u64) -> Result<(), Box<dyn std::error::Error>> {
    let options = || Options { patience: std::time::Duration::from_secs(600), ..Options::default() };
    SqliteLedger::open(path, options())?.close().await?;
    fill(path, rows, true)?;
    let begun = Instant::now();
    let ledger = SqliteLedger::open(path, options())?;
    while !is_folded(path)? {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let each = begun.elapsed().as_secs_f64() * 1e6 / rows as f64;
    println!("{rows} rows over {BOTTLES} bottles: {each:.1} us to bring one into the sums; reports, in ms:");
    let asked: [(&str, Option<Slice>, &[By]); 7] = [
        ("day, by model", Some(Slice::Day), &[By::Model]),
        (
            "day, by provider, model, agent and recipe",
            Some(Slice::Day),
            &[By::Provider, By::Model, By::Agent, By::Recipe],
        ),
        ("week", Some(Slice::Week), &[]),
        ("month", Some(Slice::Month), &[]),
        ("block", Some(Slice::Block), &[By::Model]),
        ("all, by recipe", None, &[By::Recipe]),
        ("all, by bottle", None, &[By::Bottle]),
    ];
    for (name, period, by) in asked {
        println!("  {name:<45} {:>8.1}", report(&ledger, rows, period, by).await?);
    }
    ledger.close().await?;
    std::fs::remove_file(path)?;
    Ok(())
}

/// Makes an id that sorts like a UUID v7 does: by time.
fn id(i: usize) -> String {
    format!("ffffffff-0000-7000-8000-{i:012}")
}

/// One request: microseconds until it is admitted, and until it is settled.
async fn once(ledger: &SqliteLedger, id: &str, bottle: &str) -> Result<(f64, f64), LedgerError> {
    let request = HoldRequest {
        id: id.to_owned(),
        path: vec![bottle.to_owned(), "run:bench".to_owned(), GLOBAL.to_owned()],
        provider: "claude".to_owned(),
        bottle: bottle.to_owned(),
        agent: "bench".to_owned(),
        run: Some("bench".to_owned()),
        api: Api::Anthropic,
        host: "api.anthropic.com".to_owned(),
        model: "model".to_owned(),
        input: 1000,
        least: None,
        output: 4000,
        counted: false,
        told: Vec::new(),
    };
    let begun = Instant::now();
    let outcome = ledger.hold(request).await?;
    let held = begun.elapsed();
    if !matches!(outcome, HoldOutcome::Granted { .. }) {
        return Err(LedgerError::Misuse(format!("not granted: {outcome:?}")));
    }
    let settle = Settle {
        id: id.to_owned(),
        how: Settlement::Exact(Tokens { input: 900, cache_read: 5000, output: 300, ..Tokens::default() }),
        model: Some("model-served".to_owned()),
        response_id: Some(format!("msg_{id}")),
        raw_usage: Some(r#"{"input_tokens":900,"cache_read_input_tokens":5000,"output_tokens":300}"#.to_owned()),
        facts: std::sync::Arc::new(serde_json::json!({"method": "POST", "path": "/v1/messages", "status": 200})),
    };
    let begun = Instant::now();
    ledger.settle(settle).await?;
    Ok((held.as_secs_f64() * 1e6, begun.elapsed().as_secs_f64() * 1e6))
}

/// Tells whether fewer rows wait to be summed than the writer waits for.
fn is_folded(path: &Path) -> Result<bool, rusqlite::Error> {
    let sql =
        "SELECT coalesce(max(id), 0) - coalesce((SELECT value FROM meta WHERE key = 'folded_to'), 0) < 1000 FROM usage";
    rusqlite::Connection::open(path)?.query_row(sql, [], |row| row.get(0))
}

/// Fills the tables with settled requests of bottles that make a thousand each, eight of them at a time; or, `scattered`, of
/// [`BOTTLES`] in turn, of three agents and four models.
fn fill(path: &Path, rows: u64, scattered: bool) -> Result<(), rusqlite::Error> {
    let conn = rusqlite::Connection::open(path)?;
    let of_all = format!("(i * 7919 % {BOTTLES})");
    let (bottle, run, agent, model) = match scattered {
        true => (of_all.clone(), of_all, "'a' || (seq % 3)".to_owned(), "'m' || (seq / 3 % 4)".to_owned()),
        false => (
            "(i / 8000 * 8 + i % 8)".to_owned(),
            "(i / 8000)".to_owned(),
            "'bench'".to_owned(),
            "'model-served'".to_owned(),
        ),
    };
    conn.execute_batch(&format!(
        "PRAGMA synchronous = OFF;
         PRAGMA journal_mode = OFF;
         PRAGMA cache_size = -2000000;
         BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO events (ts, kind, bottle, run, data)
            SELECT 1700000000000 + i * 3000, 'usage', 'b' || {bottle}, 'r' || {run}, '{{\"counted\":1700}}' FROM n;
         INSERT INTO usage (id, hold, seq, opened, ts, path, provider, bottle, agent, run, api, host, model_asked, model,
                response_id, duplicate, input_estimate, output_estimate, held, input, cache_read, cache_write,
                cache_write_long, output, reasoning, weights, counted, how, source, raw_usage)
            SELECT seq, printf('01890000-0000-7000-8000-%012d', seq), seq, ts, ts, '[\"global\"]', 'claude', bottle, {agent},
                run, 'anthropic', 'api.anthropic.com', 'model', {model}, 'msg_' || hex(randomblob(12)), 0, 1000,
                4000, 5000, 900, 5000, 0, 0, 300, 0, '1000,100,1000,1000,1000', 1700, 'exact', 'exact',
                '{{\"input_tokens\":900,\"cache_read_input_tokens\":5000,\"output_tokens\":300}}'
            FROM events;
         INSERT INTO accounts (node, provider, used) SELECT DISTINCT 'bottle:' || bottle, 'claude', 1700 FROM events;
         INSERT INTO runs (id, recipe, ts) SELECT DISTINCT run, 'recipe-' || (length(run) % 3), 0 FROM events;
         UPDATE anchors SET seq = {rows};
         COMMIT;
         PRAGMA journal_mode = WAL;"
    ))
}

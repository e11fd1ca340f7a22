//! Cost of one request's admission and settlement, in a ledger with 10 rows and in one with a million.
//!
//! `cargo bench --bench ledger [-- [power] ROWS...]`. Prints microseconds at the median and the 99th percentile for one caller,
//! and commands per second for 32; how long a report by day takes over all rows, and the size of the file for a million. The goals:
//! the same at any size of the ledger, and a report over 10 million rows below 1 s. With `power` every commit is on the disk.

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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sizes: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![10, 1_000_000] } else { sizes };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let dir = std::env::temp_dir().join(format!("bb-bench-ledger-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
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
    fill(path, rows)?;
    let ledger = SqliteLedger::open(path, Options { durability, ..Options::default() })?;
    // What was filled in is brought into the sums before anything is measured, as it is in a book that has grown.
    while !is_folded(path)? {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let size = std::fs::metadata(path)?.len() as f64 / rows.max(1) as f64;
    let mut reports = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        let query = UsageQuery { by: Some(vec![By::Model]), period: Some(Slice::Day), ..UsageQuery::default() };
        let report = ledger.usage(query).await?;
        reports.push(begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(report.total.requests, rows);
    }
    reports.sort_by(f64::total_cmp);
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
    println!("{rows:>9}  {holds:>21}  {settles:>21}  {rate:>12.0}  {:>12.1}  {size:>10.0}", reports[reports.len() / 2]);
    ledger.close().await?;
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

/// Fills the tables with settled requests of bottles that make a thousand each, eight of them at a time.
fn fill(path: &Path, rows: u64) -> Result<(), rusqlite::Error> {
    let conn = rusqlite::Connection::open(path)?;
    conn.execute_batch(&format!(
        "PRAGMA synchronous = OFF;
         PRAGMA journal_mode = OFF;
         PRAGMA cache_size = -2000000;
         BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO events (ts, kind, bottle, run, data)
            SELECT 1700000000000 + i * 3000, 'usage', 'b' || (i / 8000 * 8 + i % 8), 'r' || (i / 8000), '{{\"counted\":1700}}' FROM n;
         INSERT INTO usage (id, hold, seq, opened, ts, path, provider, bottle, agent, run, api, host, model_asked, model,
                response_id, duplicate, input_estimate, output_estimate, held, input, cache_read, cache_write,
                cache_write_long, output, reasoning, weights, counted, how, source, raw_usage)
            SELECT seq, printf('01890000-0000-7000-8000-%012d', seq), seq, ts, ts, '[\"global\"]', 'claude', bottle, 'bench',
                run, 'anthropic', 'api.anthropic.com', 'model', 'model-served', 'msg_' || hex(randomblob(12)), 0, 1000,
                4000, 5000, 900, 5000, 0, 0, 300, 0, '1000,100,1000,1000,1000', 1700, 'exact', 'exact',
                '{{\"input_tokens\":900,\"cache_read_input_tokens\":5000,\"output_tokens\":300}}'
            FROM events;
         INSERT INTO accounts (node, provider, used) SELECT DISTINCT 'bottle:' || bottle, 'claude', 1700 FROM events;
         UPDATE anchors SET seq = {rows};
         COMMIT;
         PRAGMA journal_mode = WAL;"
    ))
}

//! The books beside the server's own list, request by request: what has to hold of each of them. Where one of them is not like the
//! other it is for a reason that is named here, and no sum hides it.

use std::collections::{HashMap, HashSet};

use bb::rehearse::Rehearsal;
use bb::rehearse::stats::Request;
use bb::types::Tokens;
use rusqlite::{Connection, OpenFlags};

use crate::looper::weighed;
use crate::support::World;

/// A request as the ledger has it.
#[derive(Debug)]
struct Row {
    response: Option<String>,
    how: String,
    duplicate: bool,
    tokens: Tokens,
    counted: u64,
    /// What was estimated of it, in and out, and what was held for it at its end.
    estimate: u64,
    held: u64,
    /// How its exchange ended, where that was written down.
    end: Option<String>,
}

fn rows(world: &World) -> Vec<Row> {
    let path = world.bb_home().join("bot-bottle.db");
    let ledger = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut read = ledger
        .prepare(
            "SELECT response_id, how, duplicate, input, cache_read, cache_write, cache_write_long, output, reasoning, counted, \
             input_estimate + output_estimate, held, seq FROM usage",
        )
        .unwrap();
    let ends = ends(&ledger);
    let rows = read.query_map([], |r| {
        let n = |at| r.get::<_, i64>(at).map(i64::unsigned_abs);
        let (input, cache_read, cache_write, cache_write_long) = (n(3)?, n(4)?, n(5)?, n(6)?);
        let tokens = Tokens { input, cache_read, cache_write, cache_write_long, output: n(7)?, reasoning: n(8)? };
        let (response, how, duplicate) = (r.get(0)?, r.get(1)?, r.get(2)?);
        let end = ends.get(&r.get(12)?).cloned();
        Ok(Row { response, how, duplicate, tokens, counted: n(9)?, estimate: n(10)?, held: n(11)?, end })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Gets how exchanges ended, by the event of their usage.
fn ends(ledger: &Connection) -> HashMap<i64, String> {
    let mut read = ledger
        .prepare(
            "SELECT kind = 'usage', seq, json_extract(data, '$.exchange'), json_extract(data, '$.end') FROM events
             WHERE kind IN ('usage', 'request.ended') AND json_extract(data, '$.exchange') IS NOT NULL ORDER BY seq",
        )
        .unwrap();
    let (mut of, mut ends) = (HashMap::new(), HashMap::new());
    let mut rows = read.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let exchange: String = row.get(2).unwrap();
        if row.get(0).unwrap() {
            of.insert(exchange, row.get::<_, i64>(1).unwrap());
        } else if let Some(seq) = of.get(&exchange) {
            ends.insert(*seq, row.get(3).unwrap());
        }
    }
    ends
}

/// Asserts that each response that the server completed has one row, with no less than the server said, and that no row has tokens
/// for what the server never served. `lost`: most requests that controllers can have had under way when they were killed; what a dead
/// one had its successor has charged unseen, whatever became of it.
#[track_caller]
pub fn assert_one_by_one(world: &World, rehearsal: &Rehearsal, lost: usize) {
    let killed = lost > 0;
    let (rows, stats) = (rows(world), rehearsal.stats());
    assert_eq!(stats.requests.len() as u64, stats.total, "the server's list is whole");
    let served = |request: &&Request| request.answer_id.is_some() && request.status < 400;
    let ids: HashSet<&str> = stats.requests.iter().filter(served).filter_map(|r| r.answer_id.as_deref()).collect();
    let of = |row: &Row| row.response.as_deref().map(|id| id.strip_prefix("msg_").unwrap_or(id).to_owned());
    let mut by_id: HashMap<String, Vec<&Row>> = HashMap::new();
    for row in &rows {
        assert!(!row.duplicate, "no response comes twice: {row:?}");
        if let Some(id) = of(row) {
            assert!(ids.contains(id.as_str()), "no server has ever said this: {row:?}");
            by_id.entry(id).or_default().push(row);
        }
    }
    let (mut exact, mut early, mut unseen, mut completed) = (0, 0, 0, 0);
    for request in stats.requests.iter().filter(served) {
        let all = by_id.get(request.answer_id.as_deref().unwrap()).map_or(&[][..], |all| all);
        assert!(all.len() <= 1, "it is charged once: {all:?}");
        let said = &request.scripted;
        completed += usize::from(request.terminal);
        match all.first() {
            Some(row) if row.how == "exact" => {
                assert_eq!(&row.tokens, said, "{request:?}");
                assert_eq!(row.counted, weighed(said));
                exact += 1;
            }
            // Its client hung up, its stream broke or was cut: it is charged what went in, and what had come.
            Some(row) => {
                assert_eq!(row.how, "partial", "{row:?}");
                assert!(row.tokens.input >= said.input, "{row:?} {request:?}");
                let why = row.end.as_deref().unwrap_or(if killed { "killed" } else { "?" });
                let ended = ["gone", "cut", "broken"].contains(&why) || killed && why == "killed";
                assert!(ended, "it was read to its end and is not exact: {row:?}");
                early += usize::from(request.terminal);
            }
            None => unseen += usize::from(request.terminal),
        }
    }
    // What the server believes to have handed over whole, and whose end nobody read: its client was gone by then. A whole answer of
    // which not even the beginning was read is one that a killed controller had under way.
    let swept: Vec<&Row> = rows.iter().filter(|row| row.how == "swept").collect();
    assert!(swept.len() <= lost, "{} were swept, of {lost} that can have been under way", swept.len());
    assert!(unseen <= swept.len(), "{unseen} were answered and are in no row, {} were swept", swept.len());
    assert!(swept.iter().all(|row| row.counted >= row.estimate.max(row.held)), "charged whole: {swept:?}");
    // Rows with tokens and without a response: each has a request that arrived, and that the server did not refuse; and none of those
    // is missing.
    let blind = |row: &&Row| row.response.is_none() && row.counted > 0 && row.how != "swept";
    let blind = rows.iter().filter(blind).count();
    let had = |r: &&Request| r.status < 400 && r.answer_id.as_ref().is_none_or(|id| !by_id.contains_key(id));
    let without = stats.requests.iter().filter(had).count();
    assert!(blind <= without, "{blind} rows are of what was never served; {without} requests have no row by their id");
    assert!(
        without <= blind + swept.len(),
        "{without} requests have no row; {blind} and {} could be theirs",
        swept.len()
    );
    let free =
        rows.iter().filter(|row| row.how == "released").all(|row| row.counted == 0 && row.tokens == Tokens::default());
    assert!(free, "what was refused costs nothing");
    let refused = stats.requests.iter().filter(|request| request.status >= 400).count();
    let released = rows.iter().filter(|row| row.how == "released").count();
    assert!(refused <= released + swept.len(), "{refused} were refused, {released} rows are free");
    assert!(stats.requests.len() <= rows.len(), "{} requests, {} rows", stats.requests.len(), rows.len());
    eprintln!(
        "one by one: {} rows, {} requests; {completed} completed, {exact} of them exact, {early} whose end nobody read, {unseen} in \
         the {} rows of dead controllers; {blind} rows without a response for {without} requests without a row; {refused} refused, \
         {released} free",
        rows.len(),
        stats.requests.len(),
        swept.len(),
    );
    assert!(exact > 0 && exact + early + unseen >= completed);
}

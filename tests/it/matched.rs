//! The books beside the server's own list, request by request: what has to hold of each of them. Where one of them is not like the
//! other it is for a reason that is named here, and no sum hides it.

use std::collections::{HashMap, HashSet};

use bb::rehearse::{Rehearsal, Request};
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
}

fn rows(world: &World) -> Vec<Row> {
    let path = world.bb_home().join("bot-bottle.db");
    let ledger = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut read = ledger
        .prepare(
            "SELECT response_id, how, duplicate, input, cache_read, cache_write, cache_write_long, output, reasoning, counted, \
             input_estimate + output_estimate, held FROM usage",
        )
        .unwrap();
    let rows = read.query_map([], |r| {
        let n = |at| r.get::<_, i64>(at).map(i64::unsigned_abs);
        let (input, cache_read, cache_write, cache_write_long) = (n(3)?, n(4)?, n(5)?, n(6)?);
        let tokens = Tokens { input, cache_read, cache_write, cache_write_long, output: n(7)?, reasoning: n(8)? };
        let (response, how, duplicate) = (r.get(0)?, r.get(1)?, r.get(2)?);
        Ok(Row { response, how, duplicate, tokens, counted: n(9)?, estimate: n(10)?, held: n(11)? })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Asserts that each response that the server completed has one row, with no less than the server said, and that no row has tokens
/// for what the server never served. `killed`: controllers were, and what a dead one had under way its successor charged unseen.
#[track_caller]
pub fn assert_one_by_one(world: &World, rehearsal: &Rehearsal, killed: bool) {
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
            // Its client hung up, its stream broke or was cut: it is charged what went in, and at most what it was going to say.
            Some(row) => {
                assert_eq!(row.how, "partial", "{row:?}");
                assert!(row.tokens.input >= said.input, "{row:?} {request:?}");
                early += usize::from(request.terminal);
            }
            None => unseen += usize::from(request.terminal),
        }
    }
    // What the server believes to have handed over whole, and whose end nobody read: its client was gone by then. A whole answer of
    // which not even the beginning was read is one that a killed controller had under way.
    let swept: Vec<&Row> = rows.iter().filter(|row| row.how == "swept").collect();
    assert!(killed || swept.is_empty() && unseen == 0, "{unseen} were answered and are in no row: {swept:?}");
    assert!(unseen <= swept.len(), "{unseen} were answered and are in no row, {} were swept", swept.len());
    assert!(swept.iter().all(|row| row.counted >= row.estimate.max(row.held)), "charged whole: {swept:?}");
    // Rows with tokens and without a response: each has a request that arrived, and that the server did not refuse.
    let blind = rows.iter().filter(|row| row.response.is_none() && row.counted > 0).count();
    let had = |r: &&Request| r.status < 400 && r.answer_id.as_ref().is_none_or(|id| !by_id.contains_key(id));
    let without = stats.requests.iter().filter(had).count();
    assert!(blind <= without, "{blind} rows are of what was never served; {without} requests have no row by their id");
    let free =
        rows.iter().filter(|row| row.how == "released").all(|row| row.counted == 0 && row.tokens == Tokens::default());
    assert!(free, "what was refused costs nothing");
    let refused = stats.requests.iter().filter(|request| request.status >= 400).count();
    let released = rows.iter().filter(|row| row.how == "released").count();
    assert!(killed || refused <= released, "{refused} were refused, {released} rows are free");
    assert!(killed || stats.requests.len() <= rows.len(), "{} requests, {} rows", stats.requests.len(), rows.len());
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

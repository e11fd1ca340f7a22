//! Many bottles, several front ends, one hard budget: the bound of design decision 4 holds whatever they do at once, the
//! rest of the host goes on, and what was never served is not charged.

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::hammer;
use crate::looper::{self, CODE, KEY};
use crate::matched;
use crate::support::{World, reduced};

const LONG: Duration = Duration::from_secs(240);

/// A request as the ledger has it.
#[derive(Debug)]
struct Row {
    opened: i64,
    ts: i64,
    input: u32,
    granted: u32,
    counted: u32,
    how: String,
}

fn rows(world: &World, provider: &str) -> Vec<Row> {
    let path = world.bb_home().join("bot-bottle.db");
    let ledger = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut read = ledger
        .prepare(
            "SELECT opened, ts, input_estimate, granted, counted, how FROM usage WHERE provider = ?1 ORDER BY opened",
        )
        .unwrap();
    let rows = read.query_map([provider], |r| {
        Ok(Row {
            opened: r.get(0)?,
            ts: r.get(1)?,
            input: r.get(2)?,
            granted: r.get(3)?,
            counted: r.get(4)?,
            how: r.get(5)?,
        })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[test]
fn forty_bottles_of_two_recipes_share_a_hard_budget_and_keep_its_bound() {
    let each = reduced(20, 6);
    let limit = 30_000 * each as u64 / 6;
    for world in World::each() {
        // The server says more than anybody could estimate: only so can a budget be overrun at all.
        let usage = json!({"input": 1100, "output": 700});
        let scenario =
            json!({"loop": true, "key": KEY, "turns": [{"text": "word ".repeat(40), "chunk_ms": 10, "usage": usage}]});
        // Its streams come to their end, so that the server's own count is the truth of all that were begun.
        let looper = format!("{{tokens: {limit}, hard: true, on_cross: finish}}");
        let settings = format!("budget:\n  looper: {looper}\n  other: 100000000\n");
        let (rehearsal, recipe) = looper::set_up(&world, scenario, &["looper", "other"], &settings);
        let run = |args: &[&str]| {
            let args: Vec<&str> = ["run", recipe.as_str(), "--"].iter().chain(args).copied().collect();
            world.command(&args).env("ANTHROPIC_API_KEY", KEY).patience(LONG).spawn()
        };
        let n = each.to_string();
        let twin = run(&["1", "60", "--provider", "other"]);
        twin.says("all launched");
        let fronts = [run(&[&n, "60", "--gated"]), run(&[&n, "60", "--gated"])];
        fronts.iter().for_each(|front| front.says("all launched"));
        let slugs: Vec<String> = fronts.iter().flat_map(|front| looper::launched(&front.stdout())).collect();
        assert_eq!(slugs.len(), 2 * each);
        looper::mark(&world, &slugs, "go");
        let cut = || world.bb(&["ps", "--json"]).expect(0).json();
        let all_cut = world.until(LONG, || {
            let mine: Vec<_> = cut().into_iter().filter(|b| b["provider"] == "looper").collect();
            mine.len() == slugs.len() && mine.iter().all(|b| b["egress"] == "cut")
        });
        assert!(all_cut, "{:?}\n{}{}", cut(), fronts[0].stderr(), fronts[1].stderr());

        // Nothing is admitted after the crossing, however hard they try.
        let settled = rows(&world, "looper").len();
        for slug in &slugs {
            looper::says_more(&world, slug, "line", 2, LONG);
        }
        assert_eq!(rows(&world, "looper").len(), settled);
        looper::says_more(&world, &looper::launched(&twin.stdout())[0], "served", 2, LONG);

        looper::stop(&world, &slugs);
        looper::stop(&world, &looper::launched(&twin.stdout()));
        for front in fronts {
            let output = front.wait();
            assert_eq!(output.code, 0, "{output}");
            for slug in looper::launched(&output.stdout) {
                assert!(output.stdout.contains(&format!("ended {slug} exited {CODE} true")), "{output}");
            }
        }
        let twin = twin.wait().expect(0);
        assert!(twin.stdout.contains(&format!("exited {CODE} false")), "{twin}");

        let rows = rows(&world, "looper");
        let counted: u64 = rows.iter().map(|r| u64::from(r.counted)).sum();
        assert!(counted + 1100 >= limit, "the budget was never spent");
        // Whoever was admitted last found room for what all that were open then had reserved; only those could still
        // overrun it. What each had reserved is what it was granted, or more where it was raised since.
        let last = rows.iter().map(|r| r.opened).max().unwrap();
        let open: Vec<&Row> = rows.iter().filter(|r| r.ts >= last).collect();
        let over: i128 = open.iter().map(|r| i128::from(r.counted.saturating_sub(r.granted))).sum();
        // At each admission there was room for the input of all that were open, whatever they cost in the end.
        for row in &rows {
            let used: u64 = rows.iter().filter(|r| r.ts < row.opened).map(|r| u64::from(r.counted)).sum();
            let open = rows.iter().filter(|r| r.opened < row.opened && r.ts > row.opened);
            let input: u64 = open.map(|r| u64::from(r.input)).sum();
            assert!(used + input + u64::from(row.input) <= limit, "{row:?} was admitted beyond the limit");
        }
        eprintln!(
            "limit {limit}, counted {counted} in {} requests, bound {}, how {:?}",
            rows.len(),
            i128::from(limit) + over,
            rows.iter().map(|r| r.how.as_str()).collect::<HashSet<_>>()
        );
        assert!(i128::from(counted) <= i128::from(limit) + over, "counted {counted}, limit {limit}, over {over}");
        looper::assert_books(&world, &rehearsal, false);
        matched::assert_one_by_one(&world, &rehearsal, 0);
        world.assert_silent(&[]);
    }
}

#[test]
fn what_was_never_served_costs_nothing() {
    for world in World::each() {
        // Every request is refused.
        let refused = json!({"loop": true, "key": KEY, "turns": [{"text": "ok", "error": 529, "times": 1_000_000}]});
        let settings = "budget:\n  looper: {tokens: 1000000, hard: true}\n";
        let (rehearsal, recipe) = looper::set_up(&world, refused, &["looper"], settings);
        let front = world.command(&["run", &recipe, "--", "2", "20"]).env("ANTHROPIC_API_KEY", KEY).spawn();
        front.says("all launched");
        let slugs = looper::launched(&front.stdout());
        for slug in &slugs {
            looper::says_more(&world, slug, "failed", 3, LONG);
        }
        // And where nobody listens upstream at all.
        drop(rehearsal);
        for slug in &slugs {
            looper::says_more(&world, slug, "failed", 3, LONG);
        }
        looper::stop(&world, &slugs);
        front.wait().expect(0);
        // What was on its way when the server vanished may have been served: at most one request of each bottle.
        let rows = rows(&world, "looper");
        let (lost, refused): (Vec<_>, Vec<_>) = rows.iter().partition(|r| r.how == "partial");
        assert!(refused.len() >= 12 && refused.iter().all(|r| r.counted == 0 && r.how == "released"), "{rows:?}");
        assert!(lost.len() <= slugs.len(), "{lost:?}");
        let total = world.bb(&["usage", "--json"]).expect(0).json()[0]["total"].clone();
        let counted: u64 = lost.iter().map(|r| u64::from(r.counted)).sum();
        assert_eq!(total["counted"].as_u64().unwrap_or(0), counted, "{total}");
    }
}

/// A request of the clients that hammer, as the ledger has it.
struct Hit {
    opened: i64,
    ts: i64,
    granted: i128,
    counted: i128,
    how: String,
}

fn hits(world: &World) -> Vec<Hit> {
    let path = world.bb_home().join("bot-bottle.db");
    let ledger = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut read = ledger
        .prepare("SELECT opened, ts, granted, counted, how FROM usage WHERE provider = ?1 ORDER BY ts, abs(id)")
        .unwrap();
    let rows = read.query_map([hammer::PROVIDER], |r| {
        let number = |at| r.get::<_, i64>(at).map(i128::from);
        let (granted, counted) = (number(2)?, number(3)?);
        Ok(Hit { opened: r.get(0)?, ts: r.get(1)?, granted, counted, how: r.get(4)? })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[test]
fn sixty_four_clients_of_thirty_two_bottles_hammer_a_hard_budget_and_keep_its_bound() {
    const LIMIT: i128 = 120_000;
    let (bottles, seeds) = (32, reduced(20, 2));
    for seed in 0..seeds {
        // Each run is one world's; they take turns.
        let Some(world) = World::each().nth(seed % 2).or_else(|| World::each().next()) else { return };
        let settings = format!("budget:\n  hammer: {{tokens: {LIMIT}, hard: true}}\n");
        let (rehearsal, recipe) = hammer::set_up(&world, &settings);
        let args = ["run", recipe.as_str(), "--", &bottles.to_string(), &seed.to_string()];
        let front = world.command(&args).env("ANTHROPIC_API_KEY", KEY).patience(LONG).spawn();
        front.says("all launched");
        let slugs = looper::launched(&front.stdout());
        assert_eq!(slugs.len(), bottles);
        looper::mark(&world, &slugs, "go");
        // Each client ends when it is told that the budget is spent.
        let output = front.wait().expect(0);
        assert_eq!(output.stdout.matches("ended ").count(), bottles, "{output}");
        looper::assert_books(&world, &rehearsal, true);
        let hits = hits(&world);
        let total: i128 = hits.iter().map(|hit| hit.counted).sum();
        // Whoever was admitted last found room for what all that were open then had reserved; only those could overrun it.
        let end = hits.iter().map(|hit| hit.opened).max().unwrap();
        let open: Vec<&Hit> = hits.iter().filter(|hit| hit.opened <= end && hit.ts >= end).collect();
        // What each had reserved then is what it was granted, or more where it was raised since.
        let over: i128 = open.iter().map(|hit| (hit.counted - hit.granted).max(0)).sum();
        let at_once = open.len();
        eprintln!(
            "seed {seed}: {} requests, counted {total} of {LIMIT}, {at_once} open at the end, bound {}",
            hits.len(),
            LIMIT + over
        );
        assert!(total <= LIMIT + over, "counted {total}, over {over}");
        assert!(total > LIMIT / 2, "it was hardly used");
        // What was never served costs nothing, and what was is in the book once.
        matched::assert_one_by_one(&world, &rehearsal, 0);
        assert!(hits.iter().any(|hit| hit.how == "released") && hits.iter().any(|hit| hit.how == "partial"));
        world.assert_silent(&[]);
    }
}

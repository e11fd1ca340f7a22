//! Many bottles, several front ends, one hard budget: the bound of design decision 4 holds whatever they do at once, the
//! rest of the host goes on, and what was never served is not charged.

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::looper::{self, CODE, KEY};
use crate::support::{World, reduced};

const LONG: Duration = Duration::from_secs(240);

/// A request as the ledger has it.
#[derive(Debug)]
struct Row {
    opened: i64,
    ts: i64,
    input: u32,
    output: u32,
    counted: u32,
    how: String,
}

fn rows(world: &World, provider: &str) -> Vec<Row> {
    let path = world.bb_home().join("bot-bottle.db");
    let ledger = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut read =
        ledger.prepare("SELECT opened, ts, input_estimate, output_estimate, counted, how FROM usage WHERE provider = ?1 ORDER BY opened").unwrap();
    let rows = read.query_map([provider], |r| {
        Ok(Row {
            opened: r.get(0)?,
            ts: r.get(1)?,
            input: r.get(2)?,
            output: r.get(3)?,
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
        let settings = format!("budget:\n  looper: {{tokens: {limit}, hard: true}}\n  other: 100000000\n");
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
        // overrun it. A hold is the estimate, but for one at most, whose output was clamped to what was left.
        let last = rows.iter().map(|r| r.opened).max().unwrap();
        let open: Vec<&Row> = rows.iter().filter(|r| r.ts >= last).collect();
        let over: i128 = open.iter().map(|r| i128::from(r.counted) - i128::from(r.input + r.output)).sum();
        let clamped = open.iter().map(|r| i128::from(r.output)).max().unwrap_or(0);
        let over = over.max(0) + clamped;
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

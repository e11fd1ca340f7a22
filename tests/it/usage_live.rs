//! `bb usage -f` beside bottles that spend, and what a report says of the present: how fast, how long it lasts, what the block comes to.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::looper::{self, KEY};
use crate::support::{World, have_tools};

const LONG: Duration = Duration::from_secs(60);

/// What each request counts.
const EACH: u64 = 1800;

/// A bottle `looper` whose requests count so much each, some twenty a second at most.
fn spends(world: &World, settings: &str, gated: bool) -> bb::rehearse::Rehearsal {
    let usage = json!({"input": 1100, "output": 700});
    let scenario = json!({"loop": true, "key": KEY, "turns": [{"text": "word", "delay_ms": 40, "usage": usage}]});
    let (rehearsal, recipe) = looper::set_up(world, scenario, &["looper"], settings);
    let args = ["run", &recipe, "--", "1", "60", "--provider", "looper", "--detach"];
    let args = if gated { [&args[..], &["--gated"]].concat() } else { args.to_vec() };
    world.command(&args).env("ANTHROPIC_API_KEY", KEY).run().expect(0);
    rehearsal
}

/// What the host's limit for `looper` is said to be like.
fn global(report: &Value) -> &Value {
    &report["budgets"].as_array().unwrap_or_else(|| panic!("{report}"))[0]
}

#[test]
fn usage_that_is_followed_tells_of_each_use_of_thresholds_and_of_the_end_until_it_is_interrupted() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let _rehearsal = spends(&world, "budget: {looper: 1000M}\n", false);
        let (text, events) = (world.spawn(&["usage", "-f"]), world.spawn(&["usage", "-f", "--json"]));
        let line = "  looper  claude-sonnet-4-5  in 1,100  cache 0  written 0  out 700  counted 1,800  left ";
        text.says(line);
        events.says("\"usage\"");
        // Now that both listen, there is a limit that is passed by half, by more, and then all.
        let used = |world: &World| {
            let report = world.bb(&["usage", "--json"]).expect(0).json().remove(0);
            global(&report)["used"].as_u64().unwrap()
        };
        let limit = 2 * used(&world) + 40 * EACH;
        world.bb(&["budget", "set", "global", &limit.to_string(), "--provider", "looper"]).expect(0);
        for percent in [50, 80, 95] {
            text.says(&format!("  looper  {percent}% of the budget of global for looper: "));
        }
        text.says("  looper  BUDGET of global for looper is spent: ");
        text.says("  looper  cutoff: ");
        events.says("\"enforced\"");
        events.says("\"crossed\"");
        assert!(!text.has_ended() && !events.has_ended(), "they stay");
        for follower in [&text, &events] {
            follower.signal(Signal::SIGINT);
        }
        let (text, events) = (text.wait().expect(130), events.wait().expect(130));
        assert!(text.stderr.is_empty() && !text.stdout.contains("request"), "{text}");
        let events = events.json();
        let kinds = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
        assert!(kinds("usage") > 20 && kinds("threshold") == 3 && kinds("crossed") == 1, "{events:?}");
        let told = text.stdout.matches("counted 1,800").count();
        assert!(told.abs_diff(kinds("usage")) < 20, "{told} of {}: {text}", kinds("usage"));
        assert!(events.iter().all(|event| event["v"] == 1 && event["seq"].is_u64() && event["bottle"] == "looper"));
        world.bb(&["kill", "looper"]).expect(0);
    }
}

#[test]
fn what_a_report_says_of_the_present_is_what_its_rows_come_to() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let _rehearsal = spends(&world, "budget: {looper: 100k}\n", true);
        let report = |args: &[&str]| world.bb(&[&["usage", "--json"], args].concat()).expect(0).json().remove(0);
        let before = report(&["block"]);
        assert_eq!((global(&before)["per_hour"].as_u64(), global(&before).get("lasts")), (Some(0), None), "{before}");
        assert!(before.get("block").is_none(), "nothing was used: {before}");
        looper::mark(&world, &["looper".to_owned()], "go");
        looper::says_more(&world, "looper", "served", 6, LONG);
        looper::stop(&world, &["looper".to_owned()]);
        assert!(world.until(LONG, || world.keepers().is_empty()));
        // Time has gone by: the first was two hours ago, the next ones half an hour and ten minutes.
        let conn = rusqlite::Connection::open(world.bb_home().join("bot-bottle.db")).unwrap();
        conn.busy_timeout(LONG).unwrap();
        let all: Vec<i64> = {
            let mut read = conn.prepare("SELECT id FROM usage WHERE counted > 0 ORDER BY id").unwrap();
            read.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
        };
        let now = jiff::Timestamp::now().as_millisecond();
        let minute = 60_000;
        for (at, id) in all.iter().enumerate() {
            let ago = [120, 30].get(at).copied().unwrap_or(10) * minute;
            conn.execute("UPDATE usage SET ts = ?1 WHERE id = ?2", (now - ago, id)).unwrap();
        }
        let count = all.len() as u64;
        let shown = report(&["block"]);
        let host = global(&shown);
        let lately = (count - 1) * EACH;
        let left = 100_000 - count * EACH;
        assert_eq!((&host["used"], &host["left"]), (&json!(count * EACH), &json!(left)), "{shown}");
        assert_eq!(host["per_hour"], lately, "of the last hour, and no earlier: {shown}");
        assert_eq!(host["lasts"], left * 3_600_000 / lately, "{shown}");
        // Blocks begin at full hours: what is in the one that runs came within 110 minutes, if the first is in it as well.
        let block = &shown["block"];
        let n = |key: &str| block[key].as_u64().unwrap_or_else(|| panic!("{key}: {shown}"));
        let lasted = 110 * minute.unsigned_abs();
        assert_eq!((n("counted"), n("end") - n("start")), (count * EACH, 5 * 3_600_000), "{shown}");
        assert_eq!(n("start") % 3_600_000, 0, "{shown}");
        assert_eq!(n("per_minute"), count * EACH * 60_000 / lasted, "{shown}");
        // From the moment at which it was asked to the end of the block, at that rate.
        let until = |at: i64| count * EACH + count * EACH * (n("end") - at.unsigned_abs()) / lasted;
        let range = until(jiff::Timestamp::now().as_millisecond())..=until(now);
        assert!(range.contains(&n("projected")), "{range:?}: {shown}");
        let text = world.bb(&["usage", "block"]).expect(0).stdout;
        let per_minute = format!("{} a minute", n("per_minute"));
        assert!(text.contains(&per_minute), "{per_minute}: {text}");
    }
}

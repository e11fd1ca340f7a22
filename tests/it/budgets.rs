//! Budgets while they count: what the operator changes, what begins anew by itself, who goes on then and who stays cut.

use std::time::Duration;

use serde_json::{Value, json};

use crate::looper::{self, KEY};
use crate::start::{set_up, start};
use crate::support::{World, have_tools};

const LONG: Duration = Duration::from_secs(60);

fn stands(world: &World, slug: &str) -> Value {
    let all = world.bb(&["ps", "--all", "--json"]).expect(0).json();
    all.into_iter().rfind(|bottle| bottle["slug"] == slug).unwrap_or_default()
}

/// Waits until a bottle has that word under that key.
#[track_caller]
fn becomes(world: &World, slug: &str, key: &str, word: &str) {
    assert!(world.until(LONG, || stands(world, slug)[key] == word), "{key} {word}: {}", stands(world, slug));
}

/// An agent in a bottle `looper`, whose every request counts 1800, under these settings; the front end has this time zone.
fn loops(world: &World, settings: &str, zone: &str) -> bb::rehearse::Rehearsal {
    let usage = json!({"input": 1100, "output": 700});
    let scenario = json!({"loop": true, "key": KEY, "turns": [{"text": "word", "usage": usage}]});
    let (rehearsal, recipe) = looper::set_up(world, scenario, &["looper"], settings);
    let args = ["run", &recipe, "--", "1", "60", "--provider", "looper", "--detach"];
    world.command(&args).env("ANTHROPIC_API_KEY", KEY).env("TZ", zone).run().expect(0);
    rehearsal
}

fn served(world: &World) -> usize {
    looper::said(world, "looper").iter().filter(|line| line.ends_with("served")).count()
}

/// How many of its requests were charged: what it says of the last one it may say only when it goes on.
fn asked(world: &World) -> u64 {
    stands(world, "looper")["counted"].as_u64().unwrap_or(0) / 1800
}

/// Changes rows of the ledger behind everybody's back: time has gone by.
fn ledger(world: &World, sql: &str) {
    let conn = rusqlite::Connection::open(world.bb_home().join("bot-bottle.db")).unwrap();
    conn.busy_timeout(LONG).unwrap();
    assert!(conn.execute(sql, []).unwrap() > 0, "{sql}");
}

/// The account of the host for `looper`.
fn host(world: &World) -> Value {
    let shown = world.bb(&["budget", "show", "--json"]).expect(0).json().remove(0);
    let of = |a: &&Value| a["node"] == "global" && a["provider"] == "looper";
    shown["accounts"].as_array().unwrap().iter().find(of).cloned().unwrap_or_default()
}

#[test]
fn a_paused_bottle_goes_on_without_a_retry_when_its_budget_is_raised_reset_or_its_day_is_over() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let settings = "budget: {looper: {tokens: 4000, hard: true, per: day}}\nshutdown: pause\n";
        let _rehearsal = loops(&world, settings, "Asia/Kolkata");
        becomes(&world, "looper", "state", "paused");
        assert_eq!(asked(&world), 2);
        let at_midnight_in_india = || {
            let resets = host(&world)["resets"].as_i64().unwrap();
            assert_eq!(resets.rem_euclid(86_400_000), (18 * 60 + 30) * 60_000, "{resets}");
        };
        at_midnight_in_india();

        let raised = world.bb(&["budget", "raise", "global", "6500", "--reason", "a long one"]).expect(0);
        assert!(raised.stdout.contains("10,500") && raised.stdout.contains("raised by 6,500"), "{raised}");
        assert!(world.until(LONG, || asked(&world) == 6), "{:?}", looper::said(&world, "looper"));
        becomes(&world, "looper", "state", "paused");

        // A controller that the keeper starts has the front end's zone as well, and knows for what the bottle is paused.
        let old = world.kill_controller();
        assert!(world.until(LONG, || world.controller_pid().is_some_and(|pid| Some(pid) != old)));
        becomes(&world, "looper", "state", "paused");
        world.bb(&["budget", "reset", "global"]).expect(0);
        assert!(world.until(LONG, || asked(&world) == 12), "{:?}", looper::said(&world, "looper"));
        becomes(&world, "looper", "state", "paused");
        at_midnight_in_india();

        let before = asked(&world);
        ledger(&world, "UPDATE accounts SET resets = 1 WHERE resets IS NOT NULL");
        assert!(world.until(LONG, || asked(&world) > before), "{:?}", looper::said(&world, "looper"));
        becomes(&world, "looper", "state", "paused");
        at_midnight_in_india();
        assert_eq!(host(&world)["limit"], 4000, "what was added was for that day");
        let told = looper::said(&world, "looper");
        let failed = told.iter().filter(|line| !line.ends_with("served")).count();
        assert!(failed <= 1, "nothing was refused; one request died with its controller: {told:?}");
        assert!(!told.iter().any(|line| line.ends_with("spent")), "{told:?}");

        // Whom somebody pauses as well, no budget lets go on.
        world.bb(&["pause", "looper"]).expect(0);
        world.bb(&["budget", "raise", "global", "1M"]).expect(0);
        assert_eq!(stands(&world, "looper")["state"], "paused");
        world.bb(&["thaw", "looper"]).expect(0);
        let before = asked(&world);
        assert!(world.until(LONG, || asked(&world) > before));
        world.bb(&["kill", "looper"]).expect(0);
    }
}

#[test]
fn a_cut_stays_whatever_becomes_of_its_budget_until_the_operator_opens_it() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let _rehearsal = loops(&world, "budget: {looper: {tokens: 1500, hard: true, per: week}}\n", "UTC");
        becomes(&world, "looper", "egress", "cut");
        // Opened with nothing left, it is cut again by its next request, and that is said.
        let opened = world.bb(&["uncut", "looper", "--reason", "to see"]).expect(0);
        assert!(
            opened.stdout.contains("its budget is spent") && opened.stdout.contains("budget raise global"),
            "{opened}"
        );
        becomes(&world, "looper", "egress", "cut");
        ledger(&world, "UPDATE accounts SET resets = 1 WHERE resets IS NOT NULL");
        world.bb(&["budget", "raise", "global", "1M"]).expect(0);
        assert_eq!(stands(&world, "looper")["egress"], "cut", "neither a new week nor a raise opens it");
        let opened = world.bb(&["uncut", "looper"]).expect(0);
        assert!(!opened.stdout.contains("spent"), "{opened}");
        let before = served(&world);
        assert!(world.until(LONG, || served(&world) > before), "{:?}", looper::said(&world, "looper"));

        let shown = world.bb(&["budget", "show", "looper"]).expect(0);
        for part in
            ["weights: cache_read 0.1", "└ global", "governs, hard, raised by 1,000,000", "1,001,500", "a week, until"]
        {
            assert!(shown.stdout.contains(part), "{part}: {shown}");
        }
        let path = world.bb(&["budget", "show", "looper", "--json"]).expect(0).json().remove(0);
        let global = path["accounts"].as_array().unwrap().last().unwrap();
        assert_eq!(
            (&global["node"], &global["governs"], &global["binds"]),
            (&json!("global"), &json!(true), &json!(true))
        );

        // A limit below what is used acts now.
        world.bb(&["budget", "set", "global", "10", "--reason", "enough"]).expect(0);
        becomes(&world, "looper", "egress", "cut");
        let conn = rusqlite::Connection::open(world.bb_home().join("bot-bottle.db")).unwrap();
        let mut audited = conn
            .prepare("SELECT json_extract(data, '$.change'), json_extract(data, '$.reason') FROM enforcement WHERE kind = 'budget' ORDER BY seq")
            .unwrap();
        let rows: Vec<(String, Option<String>)> =
            audited.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows, [("raise".to_owned(), None), ("set".to_owned(), Some("enough".to_owned()))]);
        // What the file says again at the next way in does not undo it; what it says anew does.
        world.bb(&["exec", "looper", "true"]).expect(0);
        assert_eq!(host(&world)["limit"], 10);
        let settings = world.bb_home().join("settings.yml");
        let text = std::fs::read_to_string(&settings).unwrap();
        world.settings(&text.replace("1500", "2M"));
        world.bb(&["exec", "looper", "true"]).expect(0);
        assert_eq!(host(&world)["limit"], 2_000_000);
        world.bb(&["kill", "looper"]).expect(0);
    }
}

#[test]
fn a_limit_by_name_refuses_the_next_launch_of_that_name_and_says_when_it_resets() {
    for world in World::each() {
        set_up(&world, "budget: {tokens: 40k, per: month}\n");
        world.write(world.bb_home().join("agents/other.md"), "---\nbottle: dev\nbudget: 1k\n---\n");
        let works = |agent: &str| start(&world, &[agent, "--headless", "--prompt", "echo worked"]);
        assert_eq!(works("tester").expect(0).stdout, "worked\n");
        ledger(&world, "UPDATE accounts SET used = 40000 WHERE node = 'manifest:dev'");
        let refused = works("tester").expect(3);
        for part in ["the bottle manifest dev, over its launches,", "It resets by itself at", "bb budget raise"] {
            assert!(refused.stderr.contains(part), "{part}: {refused}");
        }
        // A nearer limit governs, and this one is not hard.
        works("other").expect(0);
        let shown = world.bb(&["budget", "show"]).expect(0);
        assert!(shown.stdout.contains("manifest:dev") && shown.stdout.contains("a month, until"), "{shown}");
        world.bb(&["budget", "reset", "manifest:dev"]).expect(0);
        works("tester").expect(0);
    }
}

#[test]
fn what_cannot_be_meant_of_a_budget_is_refused_and_its_twin_is_not() {
    for world in World::each() {
        world.settings("budget: {claude: 5M, codex: 1M}\n");
        let budget = |args: &[&str]| world.bb(&[&["budget"], args].concat());
        budget(&["raise", "global", "1k"]).fails(2, "usage", "claude, codex", "--provider");
        budget(&["raise", "global", "1k", "--provider", "cluade"]).fails(2, "unknown_key", "--provider", "`claude`");
        budget(&["raise", "global", "unlimited", "--provider", "claude"]).fails(2, "usage", "amount", "budget set");
        budget(&["set", "global", "1,000", "--provider", "claude"]).fails(2, "usage", "1,000", "200k");
        budget(&["reset", "agent:nobody"]).fails(2, "usage", "agent:nobody", "budget set");
        budget(&["set", "agent:nobody", "5k"]).fails(2, "usage", "no budget `agent:nobody`", "bb budget show");
        budget(&["set", "run:x", "5k", "--per", "day"]).fails(2, "usage", "has no name", "global");
        let set = budget(&["set", "global", "2M", "--provider", "claude", "--per", "day"]).expect(0);
        assert!(set.stdout.contains("2,000,000") && set.stdout.contains("a day, until"), "{set}");
        world.bb(&["uncut", "nobody"]).fails(2, "no_such_bottle", "nobody", "bb ps");
        let recipe = "--- @bb needs launch, budget\nbb.budget.set{tokens = '1M', per = 'day'}\n";
        let recipe = world.recipe("day.lua", recipe);
        let refused = world.bb(&["run", "--grant", "all", &recipe]);
        assert!(refused.code != 0 && refused.stderr.contains("in a manifest or in settings.yml"), "{refused}");
    }
}

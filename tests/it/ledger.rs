//! The ledger as its owner sees it: reports by time, a line for status lines, a look that finds what was changed, copies, pruning.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Reply, Seen, World, have_tools};

/// A recipe that uses tokens in a rehearsal.
const SPENDS: &str = "--- @bb needs launch\n\
    bb.rehearse{seed = 1, turns = {{edit = {path = 'a.txt', content = 'hello'}, usage = {input = 500, output = 40, \
    cache_read = 100}}, {text = 'All done.', usage = {input = 620, output = 9, cache_write = 30}}}}\n\
    local o = bb.launch{provider = 'demo', prompt = 'write a file', label = 'worker', budget = '200k'}:wait()\n\
    print(o.ended, o.exit_code)\n";

/// Runs it.
fn spend(world: &World) {
    let recipe = world.recipe("spends.lua", SPENDS);
    let output = world.bb(&["run", "--rehearse", "--grant", "all", &recipe]).expect(0);
    assert!(output.stdout.starts_with("exited\t0"), "{output}");
}

#[test]
fn usage_is_reported_by_time_recipe_and_model_for_people_programs_and_spreadsheets() {
    let Some(world) = World::new() else { return };
    spend(&world);
    let json =
        |args: &[&str]| world.bb(&[&["usage", "--rehearsal", "--json"], args].concat()).expect(0).json().remove(0);
    let all = json(&[]);
    let counted = all["total"]["counted"].as_u64().unwrap();
    assert!(counted > 1000, "{all}");
    for period in ["day", "week", "month", "session", "block"] {
        let report = json(&[period]);
        let rows = report["rows"].as_array().unwrap();
        assert_eq!((rows.len(), &rows[0]["counted"]), (1, &Value::from(counted)), "{report}");
        assert!(rows[0]["label"].is_string() && rows[0]["span"]["last"].is_u64(), "{report}");
        assert_eq!(rows[0]["models"].as_array().unwrap().len(), 1, "{report}");
        let people = world.bb(&["usage", "--rehearsal", period]).expect(0);
        assert!(people.stdout.contains("EST%") && people.stdout.contains("total"), "{people}");
    }
    assert_eq!(json(&["block"])["block"]["counted"], counted);
    let recipe = json(&["--by", "recipe,bottle"]);
    assert!(recipe["rows"][0]["recipe"].as_str().unwrap().contains("spends"), "{recipe}");
    assert_eq!(recipe["rows"][0]["bottle"], "worker", "{recipe}");
    assert_eq!(json(&["day", "--until", "2020-01-01"])["rows"], Value::Array(vec![]));
    let csv = world.bb(&["usage", "--rehearsal", "--csv", "day"]).expect(0);
    assert!(csv.stdout.starts_with("book,period,requests,") && csv.stdout.lines().count() == 2, "{csv}");
    let prices = world.write(world.home().join("prices.yml"), "models: {\"*\": {input: 1000000, output: 1000000}}\n");
    let prices = prices.display().to_string();
    let money = json(&["day", "--prices", &prices]);
    let total = &money["total"];
    assert_eq!(money["cost"], total["input"].as_u64().unwrap() + total["output"].as_u64().unwrap(), "{money}");
    world.write(world.home().join("wrong.yml"), "models: {m: {inputs: 1}}\n");
    let wrong = world.home().join("wrong.yml").display().to_string();
    world.bb(&["usage", "--prices", &wrong]).fails(2, "unknown_key", "wrong.yml:1", "did you mean `input`");
}

#[test]
fn the_status_line_is_one_line_and_fast() {
    let Some(world) = World::new() else { return };
    assert_eq!(world.bb(&["statusline"]).expect(0).stdout, "bb: no controller runs\n");
    spend(&world);
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        world.bb(&["ps"]).expect(0);
        let begun = Instant::now();
        let line = world.bb(&["statusline", "--rehearsal"]).expect(0);
        fastest = fastest.min(begun.elapsed());
        assert!(line.stdout.starts_with("today ") && line.stdout.contains("| block "), "{line}");
        assert_eq!(line.stdout.lines().count(), 1, "{line}");
    }
    eprintln!("statusline: {fastest:?} with the process that starts it");
}

#[test]
fn a_ledger_is_verified_exported_copied_and_pruned_and_a_changed_row_is_named() {
    let Some(world) = World::new() else { return };
    spend(&world);
    let ledger = |args: &[&str]| world.bb(&[&["ledger"], args, &["--rehearsal"]].concat());
    let whole = ledger(&["verify"]).expect(0);
    assert!(whole.stdout.starts_with("whole: "), "{whole}");
    let head = whole.stdout.lines().nth(1).unwrap().strip_prefix("head ").unwrap().to_owned();
    ledger(&["verify", "--expect", &head]).expect(0);
    ledger(&["verify", "--expect", "nonsense"]).fails(2, "usage", "an expected head", "bb ledger verify");
    let export = ledger(&["export"]).expect(0);
    let rows = export.json();
    let of = |table: &str| rows.iter().filter(|row| row["table"] == table).count();
    assert!(
        of("events") > 3 && of("usage") >= 2 && of("accounts") > 0 && of("runs") == 1 && of("end") == 0,
        "{export}"
    );
    let file = |name: &str| world.home().join(name).display().to_string();
    ledger(&["export", &file("out.ndjson")]).expect(0);
    assert_eq!(std::fs::read_to_string(file("out.ndjson")).unwrap(), export.stdout);
    ledger(&["backup", &file("copy.db")]).expect(0);
    ledger(&["backup", &file("copy.db")]).fails(2, "usage", "copy.db", "new file");
    ledger(&["prune", "--before", "2020-01-01"]).fails(4, "approval", "nobody is there", "--yes");
    let none = ledger(&["prune", "--before", "1h", "--yes"]).expect(0);
    assert!(none.stdout.starts_with("0 events"), "the last thirty days stay: {none}");
    assert_eq!(ledger(&["verify", "--json"]).expect(0).json()[0]["fault"], Value::Null);
    let conn = rusqlite::Connection::open(world.bb_home().join("rehearsal.db")).unwrap();
    conn.execute("UPDATE usage SET counted = 1 WHERE id = (SELECT max(id) FROM usage)", []).unwrap();
    let broken = ledger(&["verify"]).expect(1);
    assert!(broken.stdout.starts_with("BROKEN: usage "), "{broken}");
}

/// Answers as a model API that says how much of a subscription is used.
fn subscribed(_: &Seen) -> Reply {
    let head = |name, value: &str| (name, value.to_owned());
    let headers = vec![
        head("content-type", "application/json"),
        head("anthropic-ratelimit-unified-5h-utilization", "0.42"),
        head("anthropic-ratelimit-unified-5h-reset", "4000000000"),
    ];
    let body = r#"{"id":"x","model":"m","usage":{"input_tokens":1,"output_tokens":1}}"#;
    Reply { status: 200, headers, body: body.into() }
}

#[test]
fn what_a_provider_says_of_its_own_limits_is_told() {
    if !have_tools(&["curl"]) {
        return;
    }
    let Some(world) = World::new() else { return };
    let _site = world.site("api.anthropic.com", subscribed);
    let recipe = world.recipe(
        "asks.lua",
        r#"--- @bb needs launch, egress:*
local ask = [[curl -sS -m 20 -H 'content-type: application/json' -d '{"model":"m","max_tokens":9,"messages":[]}' \
  https://api.anthropic.com/v1/messages]]
local b = bb.launch { command = { 'sh', '-c', ask }, budget = '100k',
  routes = { { host = 'api.anthropic.com', api = 'anthropic' } } }
b:wait { check = false }
for f in b:logs() do if f.type == 'output' then print(f.text) end end
"#,
    );
    world.bb(&["run", "--grant", "all", &recipe]).expect(0);
    let report = world.bb(&["usage", "--json"]).expect(0).json().remove(0);
    assert_eq!(report["headroom"][0]["windows"][0]["used"], 420, "{report}");
    let line = world.bb(&["statusline"]).expect(0);
    assert!(line.stdout.contains("api.anthropic.com: 5h 42%"), "{line}");
}

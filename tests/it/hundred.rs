//! A hundred bottles under one budget: how long it takes from the settle that spends it until the last of them was acted on.

use std::time::Duration;

use serde_json::{Value, json};

use crate::looper::{self, KEY};
use crate::support::{World, have_tools, within};

const LONG: Duration = Duration::from_secs(120);

/// How many there are beside the one that spends.
const BOTTLES: usize = 99;

/// Launches them, each with a policy in turn, and one that asks the model when it is told.
const RECIPE: &str = r#"--- @bb needs launch, write:WORKSPACE
local policies = { "cutoff", "pause", "kill" }
for i = 1, BOTTLES do
  bb.launch{ command = { "sleep", "600" }, label = "still", detach = true, shutdown = policies[i % 3 + 1] }
end
bb.launch{ provider = "looper", workspace = "WORKSPACE", label = "spends", prompt = "60", args = { "gated" }, detach = true }
print("all launched")
"#;

/// What has been written, by kind.
fn events(world: &World, kind: &str) -> Vec<Value> {
    let socket = world.bb_home().join("run/controller.sock").display().to_string();
    let mut found = Vec::new();
    let mut since = 0;
    loop {
        let url = format!("http://bb/v1/events?since={since}");
        let page = world.program("/usr/bin/curl", &["-sS", "--unix-socket", &socket, &url]).run().expect(0).json();
        let Some(last) = page.last().and_then(|event| event["seq"].as_u64()) else { return found };
        since = last;
        found.extend(page.into_iter().filter(|event| event["type"] == kind));
    }
}

#[test]
fn a_crossing_acts_on_a_hundred_bottles_at_once() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let usage = json!({"input": 1100, "output": 700});
        let scenario = json!({"loop": true, "key": KEY, "turns": [{"text": "word", "usage": usage}]});
        let settings = "budget:\n  \"*\": {tokens: 1500, hard: true}\n";
        let (_rehearsal, _) = looper::set_up(&world, scenario, &["looper"], settings);
        let work = looper::work(&world).display().to_string();
        let recipe = RECIPE.replace("WORKSPACE", &work).replace("BOTTLES", &BOTTLES.to_string());
        let recipe = world.write(world.bb_home().join("recipes/hundred.lua"), recipe).display().to_string();
        let front = world.command(&["run", &recipe]).env("ANTHROPIC_API_KEY", KEY).patience(LONG).run().expect(0);
        assert!(front.stdout.contains("all launched"), "{front}");
        looper::mark(&world, &["spends".to_owned()], "go");
        let acted = || events(&world, "enforced");
        assert!(world.until(LONG, || acted().len() > BOTTLES), "{} of {BOTTLES}", acted().len());
        let ts = |event: &Value| event["ts"].as_i64().unwrap();
        // The row of an action is written after it has taken effect, and is on the disk then.
        let (settled, enforced) = (ts(&events(&world, "usage")[0]), acted());
        let times: Vec<i64> = enforced.iter().map(|event| ts(event) - settled).collect();
        let last = *times.iter().max().unwrap();
        eprintln!(
            "{:?}: {} bottles, from the settle to the first action {} ms, to the last {last} ms",
            world.who,
            enforced.len(),
            times.iter().min().unwrap()
        );
        for action in ["cutoff", "pause", "kill"] {
            let count = enforced.iter().filter(|event| event["data"]["action"] == action).count();
            assert!(count >= BOTTLES / 3, "{count} {action}");
        }
        assert!(enforced.iter().all(|event| event["data"]["by"] == "budget"));
        // With its record, which waits for the keeper of each and for the disk; the actions alone are timed beside the code.
        assert!(u128::try_from(last).unwrap() < within(Duration::from_millis(250)).as_millis(), "{last} ms");
        // Each of them has been told that it was crossed, once.
        assert!(world.until(LONG, || events(&world, "crossed").len() > BOTTLES));
        assert_eq!(events(&world, "crossed").len(), BOTTLES + 1);
        let killed = world.command(&["kill", "--all"]).patience(LONG).run().expect(0);
        assert_eq!(killed.stdout.lines().filter(|line| line.ends_with("killed")).count(), enforced.len() - BOTTLES / 3);
        assert!(world.until(LONG, || world.keepers().is_empty()), "{:?}", world.keepers());
    }
}

//! What binds a bottle is derived anew on every way in (design decision 8): what the host's settings say today holds for whoever
//! comes in today, and settings that cannot be read let nobody in.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::looper::{self, KEY};
use crate::support::person::{DETACH, SHELL, does, launch};
use crate::support::{World, have_tools};

const LONG: Duration = Duration::from_secs(60);

fn stands(world: &World, slug: &str) -> Value {
    let all = world.bb(&["ps", "--all", "--json"]).expect(0).json();
    all.into_iter().rfind(|bottle| bottle["slug"] == slug).unwrap_or_default()
}

#[test]
fn settings_are_read_anew_by_exec_thaw_and_attach_and_faulty_ones_let_nobody_in() {
    if !have_tools(&["curl", "python3"]) {
        return;
    }
    for world in World::each() {
        let usage = json!({"input": 1100, "output": 700});
        let scenario = json!({"loop": true, "key": KEY, "turns": [{"text": "word", "usage": usage}]});
        let (_rehearsal, recipe) = looper::set_up(&world, scenario, &["looper"], "budget: {looper: 1500}\n");
        let settings = world.bb_home().join("settings.yml");
        let good = fs::read_to_string(&settings).unwrap();
        let args = ["run", &recipe, "--", "1", "60", "--provider", "looper", "--gated", "--detach"];
        world.command(&args).env("ANTHROPIC_API_KEY", KEY).run().expect(0);
        launch(&world, "seen", SHELL);
        let bound = || {
            let shown = world.bb(&["inspect", "looper", "--json"]).expect(0).json().remove(0);
            [shown["shutdown"].clone(), shown["cutoff_scope"].clone()]
        };
        assert_eq!(bound(), ["cutoff", "all"]);

        world.settings(&format!("{good}shutdwon: kill\n"));
        let came = world.dir().join("loop/came");
        let refused = |args: &[&str]| world.bb(args).fails(2, "unknown_key", "settings.yml", "`shutdown`");
        refused(&["exec", "looper", "--", "touch", "came"]);
        assert!(!came.exists(), "nothing ran");
        let refused_at_a_terminal = [json!(["expect", "error[unknown_key]"]), json!(["end", 2])];
        let told = does(&world, &["attach", "seen"], &refused_at_a_terminal);
        assert!(told.contains("settings.yml") && !told.contains("ready>"), "{told}");
        // What tightens asks nobody.
        world.bb(&["pause", "looper"]).expect(0);
        refused(&["thaw", "looper"]);
        assert_eq!(stands(&world, "looper")["state"], "paused");
        assert_eq!(bound(), ["cutoff", "all"]);

        world.settings(&format!("{good}shutdown: pause\ncutoff_scope: metered\n"));
        world.bb(&["thaw", "looper"]).expect(0);
        assert_eq!(bound(), ["pause", "metered"]);
        world.settings(&format!("{good}shutdown: kill\n"));
        let attached = [json!(["expect", "ready> "]), json!(["type", DETACH]), json!(["end", 0])];
        does(&world, &["attach", "seen"], &attached);
        assert_eq!(bound(), ["pause", "metered"], "nobody has come into this one");
        world.bb(&["exec", "looper", "--", "touch", "came"]).expect(0);
        assert_eq!(bound(), ["kill", "all"]);
        assert!(came.exists());
        // And so it is done when its budget is spent.
        looper::mark(&world, &["looper".to_owned()], "go");
        let killed = world.until(LONG, || stands(&world, "looper")["ended"] == "budget");
        assert!(killed, "{}\n{:?}", stands(&world, "looper"), looper::said(&world, "looper"));
        world.bb(&["kill", "seen"]).expect(0);
    }
}

#[test]
fn a_budget_of_the_host_that_was_raised_is_there_for_who_is_let_go_on() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let usage = json!({"input": 1100, "output": 700});
        let scenario = json!({"loop": true, "key": KEY, "turns": [{"text": "word", "usage": usage}]});
        let settings = "budget: {looper: {tokens: 1500, hard: true}}\nshutdown: pause\n";
        let (_rehearsal, recipe) = looper::set_up(&world, scenario, &["looper"], settings);
        let text = fs::read_to_string(world.bb_home().join("settings.yml")).unwrap();
        let args = ["run", &recipe, "--", "1", "60", "--provider", "looper", "--detach"];
        world.command(&args).env("ANTHROPIC_API_KEY", KEY).run().expect(0);
        let paused = || world.until(LONG, || stands(&world, "looper")["state"] == "paused");
        assert!(paused(), "{}", stands(&world, "looper"));
        world.settings(&text.replace("1500", "1M"));
        world.bb(&["thaw", "looper"]).expect(0);
        looper::says_more(&world, "looper", "served", 2, LONG);
        world.bb(&["kill", "looper"]).expect(0);
    }
}

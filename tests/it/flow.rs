//! The flow of `bb start` and `bb resume` as a file that a home can replace, and what the shipped one asks: also of whoever takes
//! every bottle back, and of whoever only looks.

use std::fs;

use serde_json::json;

use crate::session;
use crate::start::{manifest, set_up, start};
use crate::support::person::{person_in, written};
use crate::support::{World, have_tools};

const SHIPPED: &str = include_str!("../../lua/flows/start.lua");

/// The one that docs/start.md shows.
fn of_the_page() -> &'static str {
    let page = include_str!("../../docs/start.md");
    page.split("```lua\n").nth(1).unwrap().split("```").next().unwrap()
}

fn flow(world: &World, name: &str, text: &str) {
    world.write(world.bb_home().join("flows").join(name), text);
}

#[test]
fn a_flow_of_the_users_own_takes_the_shipped_ones_place_and_may_have_defaults_of_its_own() {
    for world in World::each() {
        set_up(&world, "");
        let mine = "--- @bb needs start\n\
            local plan = bb.plan({ agent = \"tester\", prompt = \"echo by my flow\" })\n\
            local bottle = plan:launch()\n\
            print(\"left \" .. tostring(bottle:attach().exit_code))\n";
        flow(&world, "start.lua", mine);
        let output = start(&world, &["--headless", "ignored", "--prompt", "ignored"]).expect(0);
        assert_eq!(output.stdout, "by my flow\nleft 0\n", "{output}");
        // What the shipped flow needs on the command line is the shipped flow's to say.
        for args in [&[][..], &["--headless"], &["--json"]] {
            let output = start(&world, args).expect(0);
            assert!(output.stdout.contains("by my flow"), "{args:?}: {output}");
        }
        // What it does not ask for in its header it does not get.
        flow(&world, "start.lua", &mine.replace("--- @bb needs start", "-- nothing"));
        let refused = start(&world, &["--headless", "ignored", "--prompt", "ignored"]);
        refused.fails(4, "not_granted", "start", "@bb needs start");
        // One that cannot be read does not give way to the shipped one, nor does a link that leads nowhere.
        let own = world.bb_home().join("flows/start.lua");
        fs::remove_file(&own).unwrap();
        std::os::unix::fs::symlink("/nonexistent/start.lua", &own).unwrap();
        let unread = start(&world, &["tester", "--headless", "--prompt", "echo by the shipped one"]);
        assert!(unread.code == 2 && unread.stdout.is_empty(), "{unread}");
        assert!(unread.stderr.contains("cannot be read") && unread.stderr.contains("flows/start.lua"), "{unread}");
        fs::remove_file(&own).unwrap();
        start(&world, &["tester", "--headless", "--prompt", "true"]).expect(0);
        // The page's own example: an agent by default, and a prompt from the command line.
        assert!(of_the_page().contains("bb.args.agent or \"claude\""));
        flow(&world, "start.lua", &of_the_page().replace("\"claude\"", "\"tester\""));
        let output = start(&world, &["--prompt", "echo by the page; exit 3"]).expect(1);
        assert_eq!(output.stdout, "by the page\n", "{output}");
    }
}

#[test]
fn a_flow_that_drops_the_picker_shows_none_at_a_terminal_and_starts_its_agent() {
    if !have_tools(&["python3"]) {
        return;
    }
    let pick = "bb.ui.pick({ title = \"Agent\", items = items(agents) })";
    assert_eq!(SHIPPED.matches(pick).count(), 1);
    for world in World::each() {
        set_up(&world, "env: {PS1: \"inside> \"}\n");
        let home = world.bb_home().display().to_string();
        manifest(&world, &format!("{home}/agents/reviewer.md"), "bottle: dev\n", "You review.");
        flow(&world, "start.lua", &SHIPPED.replace(pick, "\"tester\""));
        let steps = [
            json!(["expect", "[1] dev"]),
            json!(["type", "\r"]),
            json!(["expect", "Name [tester]:"]),
            json!(["type", "mine\r"]),
            json!(["expect", "Colour"]),
            json!(["type", "\r"]),
            json!(["expect", "Start it? [y/N]"]),
            json!(["type", "y\r"]),
            json!(["expect", "bottle mine"]),
            json!(["expect", "inside> "]),
            json!(["type", "exit 0\r"]),
            json!(["expect", "session ended (exit 0)"]),
            json!(["end", 0]),
            json!(["never", "Agent (type to narrow"]),
            json!(["never", "reviewer"]),
        ];
        written(&person_in(&world, "picks-none", "24x80", "project", &["start"], &steps).wait().expect(0));
    }
}

#[test]
fn a_resume_has_a_flow_of_the_users_own_as_well() {
    for world in World::each() {
        session::set_up(&world, "");
        let mine = "--- @bb needs start\n\
            local plan = bb.plan({ resume = bb.args.resume, prompt = bb.args.prompt or \"cat notes; rm notes\" })\n\
            local bottle = plan:launch()\n\
            print(\"took up \" .. bottle.slug .. \", \" .. tostring(bottle:attach().exit_code))\n";
        flow(&world, "resume.lua", mine);
        let prompt = "echo began > ~/.keeper/session; echo draft > notes; exit 9";
        let first = start(&world, &["worker", "--headless", "--prompt", prompt]).expect(1);
        assert!(first.stderr.contains("bb resume worker"), "a start runs the shipped one: {first}");
        let resume = world.command(&["resume", "work"]).cwd(world.home().join("project"));
        let output = resume.run().expect(0);
        assert_eq!(output.stdout, "remembers began\ndraft\ntook up worker, 0\n", "{output}");
    }
}

#[test]
fn whoever_takes_every_bottle_back_is_told_that_it_is_the_agents_own_and_where_there_is_none_chooses_one() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        set_up(&world, "env: {A: dev, PS1: \"inside> \"}\n");
        let home = world.bb_home().display().to_string();
        manifest(&world, &format!("{home}/bottles/over.md"), "env: {A: over}\n", "Over it.");
        manifest(&world, &format!("{home}/agents/homeless.md"), "", "");
        let rest = [
            json!(["expect", "Name"]),
            json!(["type", "\r"]),
            json!(["expect", "Colour"]),
            json!(["type", "\r"]),
            json!(["expect", "Start it? [y/N]"]),
        ];
        let own = [
            json!(["expect", "[1] dev"]),
            json!(["type", " "]),
            json!(["expect", "[ ] dev"]),
            json!(["type", "\r"]),
            json!(["expect", "Bottles: none chosen: the agent's own, dev"]),
        ];
        let works = [
            json!(["type", "y\r"]),
            json!(["expect", "inside> "]),
            json!(["type", "echo A is $A\r"]),
            json!(["expect", "A is dev"]),
            json!(["type", "exit 0\r"]),
            json!(["end", 0]),
        ];
        let steps = [&own[..], &rest, &works].concat();
        written(&person_in(&world, "own", "24x80", "project", &["start", "tester"], &steps).wait().expect(0));
        let chooses = [
            json!(["expect", "[ ] dev"]),
            json!(["type", "\r"]),
            json!(["expect", "Bottles: none chosen, and the agent has none of its own: choose one"]),
            json!(["expect", "Bottles (type to narrow"]),
            json!(["type", " "]),
            json!(["expect", "[1] dev"]),
            json!(["type", "\r"]),
            json!(["expect", "Bottles: dev"]),
        ];
        let steps = [&chooses[..], &rest, &[json!(["type", "n\r"]), json!(["end", 4])]].concat();
        written(&person_in(&world, "none", "24x80", "project", &["start", "homeless"], &steps).wait().expect(0));
    }
}

#[test]
fn a_dry_run_at_a_terminal_asks_all_that_a_start_asks_and_stops_before_the_yes() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        set_up(&world, "env: {BRANCH: \"?Which branch\"}\n");
        let asks = [
            json!(["expect", "Agent (type to narrow"]),
            json!(["type", "\r"]),
            json!(["expect", "Agent: tester"]),
            json!(["expect", "[1] dev"]),
            json!(["type", "\r"]),
            json!(["expect", "Name [tester]:"]),
            json!(["type", "\r"]),
            json!(["expect", "Colour"]),
            json!(["type", "\r"]),
            json!(["expect", "Which branch: "]),
            json!(["type", "main\r"]),
            json!(["expect", "BRANCH, as it was answered"]),
            json!(["expect", "backend"]),
            json!(["end", 0]),
            json!(["never", "[y/N]"]),
        ];
        written(&person_in(&world, "looks", "24x80", "project", &["start", "--dry-run"], &asks).wait().expect(0));
        // An agent that is not there is said before anything is asked.
        let slip = [json!(["expect", "did you mean `tester`"]), json!(["end", 2]), json!(["never", "Bottles"])];
        let args = ["start", "tsetre", "--dry-run"];
        written(&person_in(&world, "slips", "24x80", "project", &args, &slip).wait().expect(0));
        // Without a terminal nothing asks, and what would be asked is shown.
        let shown = start(&world, &["tester", "--dry-run"]).expect(0);
        assert!(shown.stderr.contains("BRANCH, to be asked at a terminal: Which branch"), "{shown}");
        start(&world, &["--dry-run"]).fails(2, "usage", "no agent is named", "agents: tester");
        assert!(world.controller_pid().is_none(), "nothing was started");
        assert!(fs::read_dir(world.bb_home().join("state")).unwrap().next().is_none());
    }
}

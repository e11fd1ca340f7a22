//! What somebody decided about a bottle stands, whatever dies, fills up or does not answer afterwards.

use std::time::Duration;

use crate::support::{World, need, tool};

const LONG: Duration = Duration::from_secs(40);

/// A detached bottle named `still`, with a way out to `good.example`.
const RECIPE: &str = "--- @bb needs launch, egress:good.example\n\
    local b = bb.launch{ command = {'sleep', '600'}, label = 'still', detach = true, routes = {{host = 'good.example'}} }\n\
    print(b.slug)\n";

fn launch(world: &World) {
    let recipe = world.recipe("still.lua", RECIPE);
    world.bb(&["run", "--grant", "all", &recipe]).expect(0);
}

/// How the bottle stands, as `bb ps` says.
fn still(world: &World) -> serde_json::Value {
    let rows = world.bb(&["ps", "--all", "--json"]).expect(0).json();
    rows.into_iter().find(|b| b["slug"] == "still").expect("the bottle is listed")
}

/// What came of a request out of the bottle.
fn asked(world: &World) -> String {
    world.bb(&["exec", "still", "--", "curl", "-sS", "-m", "10", "-i", "https://good.example/"]).stdout
}

/// The events of the bottle.
fn events(world: &World) -> Vec<serde_json::Value> {
    let socket = world.bb_home().join("run/controller.sock").display().to_string();
    let args = ["-sS", "--unix-socket", &socket, "http://bb/v1/events?since=0&bottle=still"];
    world.program("/usr/bin/curl", &args).run().expect(0).json()
}

/// How often an action on the bottle stands in the books.
fn enforced(world: &World, action: &str) -> usize {
    events(world).iter().filter(|e| e["type"] == "enforced" && e["data"]["action"] == action).count()
}

#[test]
fn a_cut_that_was_acknowledged_outlives_the_controller() {
    if tool("curl").is_none() {
        return need("curl");
    }
    for world in World::each() {
        let _site = world.site("good.example", |_| crate::support::Reply::text("good"));
        launch(&world);
        assert!(asked(&world).contains("200"), "the allowed twin");
        world.bb(&["cut", "still"]).expect(0);
        world.kill_controller();
        assert_eq!(still(&world)["egress"], "cut");
        assert!(asked(&world).contains("x-bb-deny: cut"), "{}", asked(&world));
        assert_eq!(enforced(&world, "cutoff"), 1);
        world.bb(&["kill", "still"]).expect(0);
    }
}

#[test]
fn a_cut_that_could_not_be_written_says_so_and_outlives_the_controller_all_the_same() {
    if tool("curl").is_none() {
        return need("curl");
    }
    for world in World::each() {
        world.small_bb_home(6 * 1024);
        let _site = world.site("good.example", |_| crate::support::Reply::text("good"));
        let home = world.bb_home().display().to_string();
        launch(&world);
        assert!(asked(&world).contains("200"), "the allowed twin");
        // Every page that the ledger might still have is used up, too: each refused request wants to write one.
        let fill = format!("dd if=/dev/zero of={home}/fill bs=1k 2>/dev/null; true");
        let full = world.until(LONG, || {
            world.program("/bin/sh", &["-c", &fill]).run();
            let before = events(&world).len();
            world.bb(&["exec", "still", "--", "curl", "-sS", "-m", "10", "https://bad.example/"]);
            events(&world).len() == before
        });
        assert!(full, "the disk never was full");
        let cut = world.bb(&["cut", "still"]);
        cut.fails(5, "ledger_full", "the ledger", "free some space");
        assert!(cut.stderr.contains("it is cut"), "{cut}");
        assert!(asked(&world).contains("x-bb-deny: cut"), "it has taken effect");
        world.kill_controller();
        world.program("/bin/rm", &[&format!("{home}/fill")]).run().expect(0);
        assert_eq!(still(&world)["egress"], "cut", "{}", world.controller_log());
        assert!(asked(&world).contains("x-bb-deny: cut"), "{}", asked(&world));
        assert_eq!(enforced(&world, "cutoff"), 1, "the next controller has written it");
        world.bb(&["kill", "still"]).expect(0);
        assert_eq!(enforced(&world, "kill"), 1);
    }
}

#[test]
fn a_launch_that_is_refused_when_everything_is_up_leaves_no_keeper() {
    for world in World::each() {
        let recipe = "--- @bb needs launch, egress:*\nfor i = 1, 20 do\n\
                      local ok, fault = bb.try(bb.launch, {command = {'true'}, routes = {{host = 'a.example/path'}}})\n\
                      assert(ok == nil, 'refused')\nend\n";
        world.bb(&["run", "--grant", "all", &world.recipe("routes.lua", recipe)]).expect(0);
        assert!(world.until(LONG, || world.keepers().is_empty()), "{:?}", world.keepers());
    }
}

#[test]
fn a_bottle_with_a_thousand_commands_behind_it_is_taken_up_like_any_other() {
    for world in World::each() {
        launch(&world);
        let recipe = "--- @bb needs launch\nlocal b = bb.launch{command = {'sleep', '600'}, label = 'busy', detach = true}\n\
                      for i = 1, 1000 do b:exec{'true'} end\n";
        let recipe = world.recipe("busy.lua", recipe);
        world.command(&["run", "--grant", "all", &recipe]).patience(LONG * 4).run().expect(0);
        world.kill_controller();
        let rows = world.bb(&["ps", "--json"]).expect(0).json();
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert!(rows.iter().all(|b| b["state"] == "running"), "{rows:?}");
        assert_eq!(world.bb(&["exec", "busy", "--", "echo", "works"]).expect(0).stdout, "works\n");
        world.bb(&["kill", "busy"]).expect(0);
        world.bb(&["kill", "still"]).expect(0);
    }
}

#[test]
fn a_keeper_that_does_not_answer_is_not_called_dead_and_is_met_again() {
    for world in World::each() {
        launch(&world);
        let keeper = world.keepers()[0];
        crate::support::signal(keeper, nix::sys::signal::Signal::SIGSTOP);
        world.kill_controller();
        // Nothing of it is said to be lost, and nobody else has to wait for long.
        assert_ne!(still(&world)["state"], "ended");
        crate::support::signal(keeper, nix::sys::signal::Signal::SIGCONT);
        assert!(world.until(LONG, || still(&world)["state"] == "running" && still(&world)["egress"] == "open"));
        assert_eq!(world.bb(&["exec", "still", "--", "echo", "works"]).expect(0).stdout, "works\n");
        world.bb(&["kill", "still"]).expect(0);
    }
}

#[test]
fn a_keeper_that_does_not_do_what_it_is_asked_is_killed_with_its_bottle() {
    for world in World::each() {
        launch(&world);
        crate::support::signal(world.keepers()[0], nix::sys::signal::Signal::SIGSTOP);
        world.command(&["kill", "still"]).patience(LONG).run().expect(0);
        assert!(world.until(LONG, || still(&world)["state"] == "ended"), "{}", still(&world));
        assert_eq!(still(&world)["ended"], "killed");
        assert!(world.until(LONG, || world.keepers().is_empty()));
    }
}

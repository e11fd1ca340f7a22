//! A host that has slept: a real controller in a time namespace, in which the clocks since boot stand elsewhere while the wall clock goes
//! on. Nothing is freed, charged or ended by that: holds have no time of their own, and windows are the calendar's.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::looper::{self, KEY};
use crate::support::{Who, World, need, tool};

const LONG: Duration = Duration::from_secs(60);

/// The account of the host for `looper`.
fn account(world: &World) -> Value {
    let shown = world.bb(&["budget", "show", "--json"]).expect(0).json().remove(0);
    let of = |a: &&Value| a["node"] == "global" && a["provider"] == "looper";
    shown["accounts"].as_array().unwrap().iter().find(of).cloned().unwrap_or_default()
}

/// How long the machine is up. Unit: seconds.
fn uptime() -> i64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    text.split('.').next().unwrap().parse().unwrap()
}

#[test]
fn a_controller_that_finds_the_clocks_since_boot_elsewhere_frees_nothing_and_ends_nothing() {
    let Some(unshare) = tool("unshare") else { return need("unshare") };
    // A time namespace is root's to make.
    let Some(world) = World::of(Who::Root) else { return };
    if tool("curl").is_none() {
        return need("curl");
    }
    let settings = "budget: {looper: {tokens: 100M, hard: true, per: day}}\n";
    let (rehearsal, recipe) = looper::set_up(&world, looper::slow(300), &["looper"], settings);
    let args = ["run", &recipe, "--", "1", "20", "--provider", "looper", "--timeout", "2h", "--detach"];
    world.command(&args).env("ANTHROPIC_API_KEY", KEY).run().expect(0);
    looper::says_more(&world, "looper", "served", 2, LONG);
    let resets = account(&world)["resets"].clone();
    assert!(resets.is_i64(), "{resets}");
    let mut swept = 0;
    // Five days ahead, and back to half of what the host is up.
    for by in [432_000, -uptime() / 2] {
        assert!(world.until(LONG, || account(&world)["held"] != 0), "a request is under way");
        // With this mark no keeper starts a controller.
        world.write(world.bb_home().join("run/stopped"), "");
        world.kill_controller();
        let by = by.to_string();
        let exe = world.exe().display().to_string();
        let argv = ["--time", "--boottime", &by, "--monotonic", &by, "--fork", &exe, "ps", "--json"];
        let ps = world.program(&unshare.display().to_string(), &argv).run().expect(0).json();
        let pid = world.controller_pid().expect("it has started one");
        let place = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/time")).unwrap();
        assert_ne!(place(&pid.to_string()), place("self"), "its clocks are its own");
        assert_eq!(
            (&ps[0]["slug"], &ps[0]["state"], &ps[0]["egress"]),
            (&json!("looper"), &json!("running"), &json!("open"))
        );
        // What was under way is charged whole, once; whoever asks goes on, under the same day.
        looper::says_more(&world, "looper", "served", 2, LONG);
        let conn = rusqlite::Connection::open(world.bb_home().join("bot-bottle.db")).unwrap();
        let open_at_death =
            "SELECT count(*), min(counted - input_estimate - output_estimate) FROM usage WHERE how = 'swept'";
        let (rows, over): (i64, i64) = conn.query_row(open_at_death, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        swept += 1;
        assert!(rows == swept && over >= 0, "{rows} swept, of {swept}; {over}");
        assert_eq!(account(&world)["resets"], resets, "a window is the calendar's");
    }
    looper::stop(&world, &["looper".to_owned()]);
    assert!(world.until(LONG, || world.keepers().is_empty()));
    let ended = world.bb(&["ps", "--all", "--json"]).expect(0).json();
    assert_eq!(ended[0]["ended"], "exited", "by itself, and not for its time: {ended:?}");
    looper::assert_books(&world, &rehearsal, true);
}

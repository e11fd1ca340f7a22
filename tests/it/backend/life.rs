//! A bottle's life: listeners made while it runs, pauses, limits, its ends, and the ends of what it cannot be without.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::desk::{Desk, LONG};
use crate::support::engine::Engine;
use crate::support::{need, signal, status, tool};

/// A stand-in of a controller asks the keeper itself: no front end opens a port while a bottle runs.
pub fn listeners_are_made_while_it_runs(desk: &Desk<'_>, slug: &str) {
    let script = desk.own("controller.py", Some(include_str!("../support/controller.py"))).display().to_string();
    let stopped = desk.bb_home.join("run/stopped");
    fs::write(&stopped, "").unwrap();
    let pid = || fs::read_to_string(desk.bb_home.join("run/controller.lock")).unwrap_or_default().trim().parse().ok();
    let controller: i32 = pid().unwrap();
    signal(controller, Signal::SIGKILL);
    assert!(desk.world.until(LONG, || !desk.world.processes().iter().any(|p| p.pid == controller)));
    let socket = desk.bb_home.join(format!("run/k/{slug}.sock")).display().to_string();
    desk.program(&["/usr/bin/python3", &script, &socket, "4321"]).run().expect(0);
    fs::remove_file(&stopped).unwrap();
    // The real one takes the bottle up as it is.
    let is_up = || {
        let row = desk.row(slug);
        row["state"] == "running" && row["egress"] == "open"
    };
    assert!(desk.world.until(LONG, is_up), "{}", desk.row(slug));
    desk.bb(&["exec", slug, "--", "true"]).expect(0);
}

/// Three times nearly as many ports as there may be at once: they come with their routes, and go when there is no room for them.
pub fn ports_of_routes_come_and_go(desk: &Desk<'_>, slug: &str) {
    if desk.engine.is_none() && tool("wget").is_none() {
        return need("wget");
    }
    let asks = |host: &str, port: u16| {
        let script = format!("wget -O - http://{host}:{port}/ 2>&1 || true");
        desk.bb(&["exec", slug, "--", "sh", "-c", &script]).expect(0).stdout.to_lowercase()
    };
    let told = |port: u16| {
        let rows = desk.bb(&["egress", "log", slug, "--denied", "--json"]).expect(0).json();
        rows.iter().any(|row| row["kind"] == "port" && row["port"] == port)
    };
    let mut before: Option<(&str, u16)> = None;
    for (host, first) in [("a.example", 20_000u16), ("b.example", 21_000), ("c.example", 22_000)] {
        assert!(asks(host, first).contains("refused"), "nobody listens yet");
        // The plane itself says no to this method, so that nobody is asked for where the host is.
        let ports: Vec<u16> = (first..first + 45).collect();
        let route = json!({"host": host, "ports": ports, "matches": [{"methods": ["PUT"]}]}).to_string();
        let mut change = vec!["routes", slug, "--allow", &route];
        change.extend(before.iter().flat_map(|(host, _)| ["--remove", host]));
        desk.bb(&change).expect(0);
        for port in [first, first + 44] {
            let said = asks(host, port);
            assert!(said.contains("403"), "{port}: {said}");
        }
        if let Some((host, port)) = before {
            assert!(!told(port + 1));
            let said = asks(host, port + 1);
            assert!(said.contains("refused"), "{port}: {said}");
            assert!(desk.world.until(LONG, || told(port + 1)), "who connects to a port that was closed is told of");
        }
        before = Some((host, first));
    }
    // A controller that comes finds what there is.
    let pid = fs::read_to_string(desk.bb_home.join("run/controller.lock")).unwrap().trim().parse().unwrap();
    signal(pid, Signal::SIGKILL);
    assert!(desk.world.until(LONG, || !desk.world.processes().iter().any(|p| p.pid == pid)));
    assert!(asks("c.example", 22_001).contains("403") && asks("b.example", 21_001).contains("refused"));
    // While there is room, who connects is told why.
    desk.bb(&["routes", slug, "--remove", "c.example"]).expect(0);
    assert!(asks("c.example", 22_001).contains("403"));
}

fn end(bottle: &Value) -> (&str, i64) {
    (bottle["ended"].as_str().unwrap_or_default(), bottle["exit_code"].as_i64().unwrap_or(-1))
}

/// The agent's end is the bottle's: with its code, with the signal that it died of, by being asked, by being killed.
pub fn ends_are_told(desk: &Desk<'_>) {
    desk.launch("code", "{'sh', '-c', 'sleep 600 & exit 3'}", "");
    desk.launch("signal", "{'sh', '-c', 'kill -TERM $$'}", "");
    assert_eq!(end(&desk.becomes("code", "ended")), ("exited", 3));
    assert_eq!(end(&desk.becomes("signal", "ended")), ("exited", 128 + 15));
    let hint = if desk.engine.is_some() { "image" } else { "install" };
    desk.try_launch("missing", "{'no-such-agent'}", "").fails(5, "agent_missing", "no-such-agent", hint);
    desk.launch("polite", "{'sh', '-c', \"trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done\"}", "");
    let up = || desk.bb(&["logs", "polite"]).stdout.contains("up");
    assert!(desk.world.until(LONG, up));
    assert_eq!(desk.bb(&["stop", "polite"]).expect(0).stdout.trim(), "polite  ended");
    assert_eq!(end(&desk.becomes("polite", "ended")), ("exited", 5));
    desk.assert_empty();
}

/// Tells whether control groups of this machine bound memory.
fn has_memory_controller() -> bool {
    let second = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
        || second.split_whitespace().any(|c| c == "memory")
}

/// Of an agent that needs more than it may have the end says so; a limit that nobody would enforce refuses the launch.
pub fn memory_is_bound_or_refused(desk: &Desk<'_>) {
    let options = "limits = {memory = '64M'}";
    // Where nobody bounds it, it comes to its end all the same, before the machine does.
    let grows = "s=x; i=0; while [ $i -lt 28 ]; do s=$s$s; i=$((i+1)); done";
    let greedy = format!("{{'sh', '-c', '{grows}; exit 7'}}");
    let output = desk.try_launch("greedy", &greedy, options);
    if output.code != 0 {
        // Root's engines bound it wherever the kernel can.
        if desk.uid == 0 && has_memory_controller() {
            assert!(desk.engine.is_none(), "a limit is refused that can be enforced: {output}");
            need("control groups that root may make");
        }
        output.fails(5, "backend_unavailable", "memory: ", "best_effort");
        desk.assert_empty();
        let output = desk.try_launch("best", "{'true'}", "limits = {memory = '64M', best_effort = true}").expect(0);
        assert!(output.stderr.contains("a limit is not enforced: memory: "), "{output}");
        assert_eq!(end(&desk.becomes("best", "ended")), ("exited", 0));
        return;
    }
    let bottle = desk.becomes("greedy", "ended");
    assert_eq!(end(&bottle), ("oom", 137), "{bottle}");
    assert!(bottle["reason"].as_str().unwrap().contains("64 MiB"), "{bottle}");
    // The same without want of memory is no such end; nor is one where a child needed too much, and the agent went on.
    desk.launch("killed", "{'sh', '-c', 'kill -9 $$'}", options);
    assert_eq!(end(&desk.becomes("killed", "ended")), ("exited", 137));
    desk.launch("parent", &format!("{{'sh', '-c', [[sh -c '{grows}'; exit 6]]}}"), options);
    assert_eq!(end(&desk.becomes("parent", "ended")), ("exited", 6));
    desk.assert_empty();
}

/// A paused bottle stands still, whatever becomes of the controller; it goes on, or is killed, or dies with its keeper.
pub fn pauses(desk: &Desk<'_>) {
    let work = desk.workspace("still");
    let lines = || fs::read_to_string(work.join("lines")).unwrap_or_default().lines().count();
    let script = "{'sh', '-c', 'while :; do echo x >>lines; sleep 0.02; done'}";
    desk.launch("still", script, &format!("workspace = '{}'", work.display()));
    assert!(desk.world.until(LONG, || lines() > 3));
    assert_eq!(desk.bb(&["pause", "still"]).expect(0).stdout.trim(), "still  paused");
    // What was on its way in the kernel when it stopped may still be written.
    let stands_still = || {
        let before = lines();
        desk.bb(&["exec", "still", "true"]).fails(2, "usage", "paused", "bb thaw");
        lines() == before
    };
    assert!(desk.world.until(LONG, || (0..3).all(|_| stands_still())));
    let before = lines();
    assert_eq!(desk.bb(&["thaw", "still"]).expect(0).stdout.trim(), "still  runs");
    assert!(desk.world.until(LONG, || lines() > before + 3));
    desk.bb(&["exec", "still", "true"]).expect(0);
    desk.bb(&["pause", "still"]).expect(0);
    desk.bb(&["kill", "still"]).expect(0);
    assert_eq!(desk.becomes("still", "ended")["ended"], "killed");
    desk.assert_empty();
}

/// Its keeper's end is its own, also where it is paused: nobody holds its way out any more.
pub fn nothing_outlives_its_keeper(desk: &Desk<'_>) {
    for (slug, paused) in [("kept", false), ("stopped", true)] {
        desk.launch(slug, "{'sleep', '600'}", "");
        if paused {
            desk.bb(&["pause", slug]).expect(0);
        }
        let [keeper] = desk.world.keepers()[..] else { panic!("one keeper: {:?}", desk.world.processes()) };
        signal(keeper, Signal::SIGKILL);
        let bottle = desk.becomes(slug, "ended");
        assert_eq!((&bottle["ended"], &bottle["egress"]), (&"lost".into(), &"closed".into()), "{bottle}");
        desk.assert_empty();
    }
}

/// The helper of a container holds its way out.
pub fn without_its_way_out_it_is_no_more(desk: &Desk<'_>, engine: &Engine<'_>) {
    desk.launch("held", "{'sleep', '600'}", "");
    the_helper_has_nothing_left(desk);
    let [helper] = &engine.containers(Some("helper"))[..] else { panic!("one helper") };
    engine.client().kill(helper);
    let bottle = desk.becomes("held", "ended");
    assert_eq!((&bottle["ended"], &bottle["egress"]), (&"lost".into(), &"closed".into()), "{bottle}");
    assert!(bottle["reason"].as_str().unwrap().contains("way out"), "{bottle}");
    desk.assert_empty();
}

/// When its listeners are made the helper is nobody, and nothing of what it needed for them is left to it.
fn the_helper_has_nothing_left(desk: &Desk<'_>) {
    let all = desk.world.processes();
    let helpers: Vec<i32> =
        all.iter().filter(|p| p.command.split(' ').nth(1) == Some("__helper")).map(|p| p.pid).collect();
    let [helper] = helpers[..] else { panic!("one helper: {all:?}") };
    let said = |key: &str| status(helper, key).unwrap_or_default();
    for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(said(key), ["0000000000000000"], "{key}");
    }
    for key in ["Uid", "Gid"] {
        let ids = said(key);
        assert!(ids.len() == 4 && ids.iter().all(|id| id != "0" && *id == ids[0]), "{key}: {ids:?}");
    }
    assert_eq!((said("NoNewPrivs"), said("Seccomp")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    assert_eq!(said("CapBnd"), ["0000000000000000"]);
}

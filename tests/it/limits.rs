//! What a bottle may use of the machine: limits that hold or are refused, and bottles that are paused.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::start::{set_up, start};
use crate::support::{Output, Who, World, need, need_root, signal, tool};

const LONG: Duration = Duration::from_secs(40);

/// Launches `script` with `options`, detached; its slug is the output.
fn try_launch(world: &World, label: &str, options: &str, script: &str) -> Output {
    let work = world.make_dir("work").display().to_string();
    let recipe = world.recipe(
        &format!("{label}.lua"),
        &format!(
            "--- @bb needs launch, write:{work}\n\
             local b = bb.launch{{ command = {{'sh', '-c', [==[{script}]==]}}, label = '{label}', detach = true, {options} }}\n\
             print(b.slug)\n"
        ),
    );
    world.bb(&["run", "--grant", "all", &recipe])
}

fn launch(world: &World, label: &str, options: &str, script: &str) -> String {
    try_launch(world, label, options, script).expect(0).stdout.trim().to_owned()
}

fn view(world: &World, slug: &str) -> Value {
    let bottles = world.bb(&["ps", "--all", "--json"]).expect(0).json();
    bottles.into_iter().rev().find(|b| b["slug"] == slug).unwrap_or_default()
}

/// Waits until a bottle is in a state, and gets it.
fn becomes(world: &World, slug: &str, state: &str) -> Value {
    let mut last = Value::Null;
    let is_so = world.until(LONG, || {
        last = view(world, slug);
        last["state"] == state
    });
    assert!(is_so, "{slug} never was {state}: {last}");
    last
}

/// Tells whether `world` may make control groups; an ordinary user may on some machines only.
fn may_limit(world: &World) -> bool {
    let output = try_launch(world, "probe", "limits = {memory = '64M', pids = 64, cpus = 1}", "true");
    if output.code == 0 {
        becomes(world, output.stdout.trim(), "ended");
        return true;
    }
    output.fails(5, "backend_unavailable", "memory: ", "best_effort");
    assert!(output.stderr.contains("cpus: ") && output.stderr.contains("pids: "), "each is named: {output}");
    assert_eq!(world.leftovers(), Vec::<String>::new(), "nothing is left of a launch that is refused");
    if world.who == Who::Root {
        need("control groups that root may make");
    }
    false
}

#[test]
fn a_limit_that_cannot_be_enforced_refuses_the_launch_unless_best_effort_is_said() {
    for world in World::each() {
        if may_limit(&world) {
            continue;
        }
        let output =
            try_launch(&world, "best", "limits = {memory = '64M', pids = 64, best_effort = true}", "true").expect(0);
        assert!(output.stderr.contains("a limit is not enforced: memory: "), "{output}");
        assert!(output.stderr.contains("a limit is not enforced: pids: "), "{output}");
        becomes(&world, output.stdout.trim(), "ended");
    }
}

#[test]
fn a_manifests_limits_are_shown_at_a_start_and_hold_or_are_named() {
    for world in World::each() {
        let limits = |more: &str| set_up(&world, &format!("limits: {{memory: 128M, disk: 32M{more}}}\n"));
        let runs = |prompt: &str| start(&world, &["tester", "--headless", "--prompt", prompt]);
        limits(", best_effort: true");
        let shown = start(&world, &["tester", "--dry-run"]).expect(0);
        assert!(shown.stderr.contains("memory 128 MiB, disk 32 MiB, where they can be had"), "{shown}");
        let output = runs("head -c 64M /dev/zero > ~/big; ls -l ~/big").expect(0);
        let warned = |what: &str| output.stderr.contains(&format!("a limit is not enforced: {what}: "));
        assert!(warned("disk"), "{output}");
        // Beside the workspace the disk is bound.
        assert!(output.stderr.contains("No space left on device") && !output.stdout.contains(" 67108864 "), "{output}");
        // What is not named as lacking holds.
        if !warned("memory") {
            let ended = runs("exec tail /dev/zero").expect(1);
            assert!(ended.stderr.contains("oom") && ended.stderr.contains("128 MiB"), "{ended}");
        }
        // Said plainly, it is refused, and the hint says the word that a manifest has.
        limits("");
        let refused = runs("true");
        refused.fails(
            5,
            "backend_unavailable",
            "disk: what the agent writes into its workspace",
            "limits.best_effort: true",
        );
    }
}

#[test]
fn an_agent_that_needs_more_memory_than_it_may_have_ends_as_out_of_memory() {
    for world in World::each() {
        if !may_limit(&world) {
            continue;
        }
        // `tail` keeps the last line, and there is no end to it.
        let slug = launch(&world, "greedy", "limits = {memory = '64M'}", "exec tail /dev/zero");
        let bottle = becomes(&world, &slug, "ended");
        assert_eq!((bottle["ended"].as_str(), bottle["exit_code"].as_i64()), (Some("oom"), Some(137)), "{bottle}");
        assert!(bottle["reason"].as_str().unwrap().contains("64 MiB"), "{bottle}");
        // The same without want of memory is no such end.
        let slug = launch(&world, "killed", "limits = {memory = '64M'}", "kill -9 $$");
        let bottle = becomes(&world, &slug, "ended");
        assert_eq!((bottle["ended"].as_str(), bottle["exit_code"].as_i64()), (Some("exited"), Some(137)), "{bottle}");
        assert_eq!(world.leftovers(), Vec::<String>::new(), "the groups are gone");
    }
}

#[test]
fn processes_and_processor_time_are_bound() {
    let script = "i=0; while [ $i -lt 100 ]; do sleep 600 & i=$((i+1)); done; exit 0";
    for world in World::each() {
        if !may_limit(&world) {
            continue;
        }
        let slug = launch(&world, "many", "limits = {pids = 32}", script);
        let bottle = becomes(&world, &slug, "ended");
        assert_ne!(bottle["exit_code"], 0, "{bottle}");
        let slug = launch(&world, "room", "limits = {pids = 200}", script);
        assert_eq!(becomes(&world, &slug, "ended")["exit_code"], 0, "the allowed twin");

        let slug = launch(&world, "half", "limits = {cpus = 0.5}", "sleep 600");
        let inspected = &world.bb(&["inspect", &slug, "--json"]).expect(0).json()[0];
        assert_eq!(inspected["launch"]["limits"]["cpus"], 500, "{inspected}");
        let group = PathBuf::from(inspected["cgroups"][0].as_str().unwrap());
        let said = fs::read_to_string(group.join("cpu.cfs_quota_us"))
            .or_else(|_| fs::read_to_string(group.join("cpu.max")))
            .unwrap();
        assert_eq!(said.split_whitespace().next(), Some("50000"), "{said}");
        assert!(!fs::read_to_string(group.join("cgroup.procs")).unwrap().is_empty(), "the agent is in it");
        // Later commands count as well.
        world.bb(&["exec", &slug, "sh", "-c", "sleep 600 & exit 0"]).expect(0);
        assert!(fs::read_to_string(group.join("cgroup.procs")).unwrap().lines().count() >= 2);
        world.bb(&["kill", &slug]).expect(0);
        assert!(!group.exists());
    }
}

#[test]
fn groups_of_a_bottle_that_died_with_its_controller_are_removed_by_the_next() {
    for world in World::each() {
        if !may_limit(&world) {
            continue;
        }
        let slug = launch(&world, "dies", "limits = {pids = 64}", "sleep 600");
        let inspected = &world.bb(&["inspect", &slug, "--json"]).expect(0).json()[0];
        let group = PathBuf::from(inspected["cgroups"][0].as_str().unwrap());
        // The controller first: it would tidy up.
        world.write(world.bb_home().join("run/stopped"), "");
        world.kill_controller();
        for keeper in world.keepers() {
            signal(keeper, nix::sys::signal::SIGKILL);
        }
        assert!(world.until(LONG, || world.keepers().is_empty()) && group.exists());
        assert_eq!(becomes(&world, &slug, "ended")["ended"], "lost");
        assert!(!group.exists());
        assert_eq!(world.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn what_a_bottle_writes_beside_a_workspace_has_one_bound() {
    let script = "head -c 20M /dev/zero > ~/a && head -c 20M /dev/zero > /tmp/b && head -c 20M /dev/zero > /dev/shm/c && exit 0; exit 7";
    for world in World::each() {
        let slug = launch(&world, "small", "limits = {disk = '48M'}", script);
        assert_eq!(becomes(&world, &slug, "ended")["exit_code"], 7);
        let slug = launch(&world, "large", "limits = {disk = '96M'}", script);
        assert_eq!(becomes(&world, &slug, "ended")["exit_code"], 0, "the allowed twin");
        // The disk of the host is another matter.
        let work = world.home().join("work").display().to_string();
        let options = format!("limits = {{disk = '48M'}}, workspace = '{work}'");
        try_launch(&world, "host", &options, "true").fails(5, "backend_unavailable", "disk: ", "best_effort");
        let options = format!("limits = {{disk = '48M', best_effort = true}}, workspace = '{work}'");
        let output = try_launch(&world, "host", &options, "true").expect(0);
        assert!(output.stderr.contains("a limit is not enforced: disk: "), "{output}");
    }
}

/// Counts the lines that the agent has written.
fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// Gets the states of the bottle's processes but pid 1, as the kernel names them.
fn states(world: &World) -> Vec<char> {
    let keepers = world.keepers();
    let all = world.processes();
    let inits: Vec<i32> =
        all.iter().filter(|p| keepers.contains(&p.parent) && p.command.contains("__keeper")).map(|p| p.pid).collect();
    let of_bottle = all.iter().filter(|p| {
        let mut at = Some(*p);
        while let Some(process) = at {
            if keepers.contains(&process.parent) || inits.contains(&process.parent) {
                return !inits.contains(&p.pid) && !keepers.contains(&p.pid);
            }
            at = all.iter().find(|q| q.pid == process.parent);
        }
        false
    });
    let state = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    };
    of_bottle.filter_map(|p| state(p.pid)).collect()
}

#[test]
fn a_paused_bottle_stands_still_until_it_is_thawed_whatever_happens_to_the_controller() {
    let script = "(while :; do echo x >> lines; sleep 0.02; done) & (while :; do (true); done) & wait";
    for world in World::each() {
        let work = world.make_dir("work");
        let options = format!("workspace = '{}'", work.display());
        let slug = launch(&world, "still", &options, script);
        assert!(world.until(LONG, || lines(&work.join("lines")) > 3));
        let said = world.bb(&["pause", &slug, "--reason", "lunch"]).expect(0).stdout;
        assert_eq!(said.trim(), format!("{slug}  paused"));
        // What has died meanwhile is reaped by its parent when that goes on; and who waits in vfork(2) for a child that was
        // stopped before its exec is in `D`, and stands as still.
        let stand_still = || {
            let states = states(&world);
            states.contains(&'T') && states.iter().all(|s| matches!(s, 'T' | 'D' | 'Z' | 'X'))
        };
        assert!(world.until(LONG, stand_still), "{:?}", states(&world));
        let before = lines(&work.join("lines"));
        let bottle = view(&world, &slug);
        assert_eq!((bottle["state"].as_str(), bottle["reason"].as_str()), (Some("paused"), Some("lunch")));
        world.bb(&["exec", &slug, "true"]).fails(2, "usage", "paused", "bb thaw");
        // The next controller finds it as it was.
        world.kill_controller();
        assert_eq!(becomes(&world, &slug, "paused")["egress"], "open");
        assert!(stand_still(), "{:?}", states(&world));
        assert_eq!(lines(&work.join("lines")), before);
        assert_eq!(world.bb(&["thaw", &slug]).expect(0).stdout.trim(), format!("{slug}  runs"));
        assert!(world.until(LONG, || lines(&work.join("lines")) > before + 3));
        world.bb(&["exec", &slug, "true"]).expect(0);
        // Paused again, it can be stopped, and killed.
        world.bb(&["pause", &slug]).expect(0);
        let said = world.bb(&["stop", &slug]).expect(0).stdout;
        assert_eq!(said.trim(), format!("{slug}  ended"));
        let other = launch(&world, "dead", &options, script);
        world.bb(&["pause", &other]).expect(0);
        world.bb(&["kill", &other]).expect(0);
        assert_eq!(becomes(&world, &other, "ended")["ended"], "killed");
        world.bb(&["pause", &other]).fails(2, "usage", &other, "bb ps");
    }
}

#[test]
fn a_bottle_with_limits_is_frozen_by_its_group_where_version_2_is_mounted() {
    let Some(world) = World::new() else { return };
    if world.who != Who::Root {
        return need_root();
    }
    // The controller sees the mount, since whoever starts it does; nobody else does.
    let place = world.make_dir("groups");
    let script = "mount -t cgroup2 none \"$1\" || exit 77; exec \"$0\" ps --json";
    let unshare = tool("unshare").unwrap().display().to_string();
    let bb = world.exe().display().to_string();
    let started = world.program(&unshare, &["--mount", "sh", "-c", script, &bb, &place.display().to_string()]).run();
    if started.code == 77 {
        return need("control groups of version 2");
    }
    started.expect(0);
    if !may_limit(&world) {
        return;
    }
    let work = world.make_dir("work");
    // One process stands still by itself: that is the agent's own doing, and stays so.
    let script = "sleep 600 & kill -STOP $!; while :; do echo x >> lines; sleep 0.02; done";
    let options = format!("workspace = '{}', limits = {{pids = 64}}", work.display());
    let slug = launch(&world, "frozen", &options, script);
    let inspected = &world.bb(&["inspect", &slug, "--json"]).expect(0).json()[0];
    // As the controller sees them; some machines have one mounted anyway.
    let root = PathBuf::from(format!("/proc/{}/root", world.controller_pid().unwrap()));
    let seen = |dir: &Value| root.join(dir.as_str().unwrap().trim_start_matches('/'));
    let groups: Vec<PathBuf> = inspected["cgroups"].as_array().unwrap().iter().map(seen).collect();
    let group = groups.iter().find(|dir| dir.join("cgroup.freeze").exists());
    let group = group.unwrap_or_else(|| panic!("{groups:?}"));
    let is_frozen = || fs::read_to_string(group.join("cgroup.events")).unwrap().contains("frozen 1");
    let stopped = || states(&world).iter().filter(|state| **state == 'T').count();
    assert!(world.until(LONG, || lines(&work.join("lines")) > 3 && stopped() == 1), "{:?}", states(&world));
    assert!(!is_frozen());
    world.bb(&["pause", &slug]).expect(0);
    assert!(is_frozen(), "{:?}", states(&world));
    let before = lines(&work.join("lines"));
    world.bb(&["exec", &slug, "true"]).fails(2, "usage", "paused", "bb thaw");
    assert_eq!(lines(&work.join("lines")), before);
    world.bb(&["thaw", &slug]).expect(0);
    assert!(!is_frozen());
    assert!(world.until(LONG, || lines(&work.join("lines")) > before + 3));
    assert_eq!(stopped(), 1, "what the agent has stopped is left alone: {:?}", states(&world));
    // Frozen, it can be killed; and its keeper's death is its own.
    world.bb(&["pause", &slug]).expect(0);
    world.bb(&["kill", &slug]).expect(0);
    assert_eq!(becomes(&world, &slug, "ended")["ended"], "killed");
    assert!(!group.exists());
    let other = launch(&world, "lost", &options, script);
    world.bb(&["pause", &other]).expect(0);
    for keeper in world.keepers() {
        signal(keeper, nix::sys::signal::SIGKILL);
    }
    assert_eq!(becomes(&world, &other, "ended")["ended"], "lost");
    assert!(world.until(LONG, || states(&world).is_empty()), "{:?}", states(&world));
}

#[test]
fn a_budget_that_is_spent_pauses_the_bottle_which_goes_on_by_itself_when_there_is_more_unless_a_person_paused_it_too() {
    for (who, person) in Who::all().into_iter().flat_map(|who| [(who, false), (who, true)]) {
        let Some(world) = World::of(who) else { continue };
        let by = if person { "operator" } else { "budget" };
        let recipe = world.recipe(
            "spend.lua",
            "--- @bb needs launch, budget\n\
             bb.rehearse{ cases = {{ contains = 'spend', turns = {\n\
               { text = 'One.', run = { argv = { 'ls' } }, usage = { input = 4000, output = 300 } },\n\
               { text = 'Two.', run = { argv = { 'ls' } }, usage = { input = 4000, output = 300 } },\n\
               { text = 'Done.', usage = { input = 10, output = 10 } } } }} }\n\
             bb.budget.set{ tokens = '5k', hard = true }\n\
             bb.on('enforced', function(event)\n\
               if event.data.action == 'pause' and event.data.by == 'BY' then bb.budget.set{ tokens = '50k', hard = true } print('raised') end\n\
             end)\n\
             local b = bb.launch{ provider = 'demo', prompt = 'spend', label = 'spends', shutdown = 'pause' }\n\
             local o = b:wait{check = false}\n\
             print(o.ended, o.exit_code, o.cut, b:usage().requests)\n"
                .replace("BY", by)
                .as_str(),
        );
        let front = world.command(&["run", "--grant", "all", &recipe]).spawn();
        if person {
            let bottle = becomes(&world, "spends", "paused");
            assert!(bottle["reason"].as_str().unwrap().contains("budget"), "{bottle}");
            world.bb(&["pause", "spends", "--reason", "mine"]).expect(0);
            front.says("raised");
            assert_eq!(becomes(&world, "spends", "paused")["reason"], "mine");
            assert!(!front.has_ended());
            world.bb(&["thaw", "spends"]).expect(0);
        }
        // Nothing was refused to it: it comes to its end as if nothing had been.
        let output = front.wait().expect(0);
        assert!(output.stdout.contains("raised") && output.stdout.contains("exited\t0\tnil\t3"), "{output}");
        let socket = world.bb_home().join("run/controller.sock").display().to_string();
        let url = "http://bb/v1/events?since=0&book=rehearsal";
        let events = world.program("/usr/bin/curl", &["-sS", "--unix-socket", &socket, url]).run().expect(0).json();
        let thawed: Vec<_> = events.iter().filter(|event| event["data"]["action"] == "thaw").collect();
        assert_eq!(thawed.len(), 1, "{thawed:?}");
        assert_eq!(thawed[0]["data"]["by"], by);
    }
}

#[test]
fn an_agent_is_asked_to_end_and_killed_where_it_does_not() {
    for world in World::each() {
        // Only who listens can be asked.
        let launched = |label: &str, script: &str| {
            let slug = launch(&world, label, "", script);
            assert!(world.until(LONG, || world.bb(&["logs", &slug]).stdout.contains("up")), "{slug}");
            slug
        };
        let slug = launched("polite", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done");
        assert_eq!(world.bb(&["stop", &slug]).expect(0).stdout.trim(), "polite  ended");
        let bottle = view(&world, &slug);
        assert_eq!((bottle["ended"].as_str(), bottle["exit_code"].as_i64()), (Some("exited"), Some(5)), "{bottle}");
        let slug = launched("deaf", "trap '' TERM; echo up; while :; do sleep 0.05; done");
        assert_eq!(world.bb(&["stop", &slug, "--timeout", "200ms"]).expect(0).stdout.trim(), "deaf  killed");
        assert_eq!(view(&world, &slug)["ended"], "killed");
        assert_eq!(world.bb(&["stop", "nobody"]).code, 2);
    }
}

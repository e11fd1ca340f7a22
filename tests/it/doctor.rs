//! A machine that can run bottles, and one that forbids the user namespaces which they are made of: `bb doctor` tells them
//! apart by trying, and `bb run` says what forbids it and the exact remedy.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Output, Who, World, have_tools, within};

/// How long a doctor may take: it starts every agent CLI that there is.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes a user namespace of the same user, writes how many more there may be, and gives the privilege for that away.
const LIMITED: &str = "echo $0 > /proc/sys/user/max_user_namespaces && \
    exec setpriv --inh-caps=-all --ambient-caps=-all --bounding-set=-all \"$@\"";

/// What is looked at on every machine, in this order. As root, the workspaces of root come before the agents' CLIs.
const CHECKS: [&str; 21] = [
    "system",
    "clock",
    "authorities",
    "landlock",
    "home",
    "settings",
    "ledger",
    "controller",
    "user namespaces",
    "network",
    "fresh /proc",
    "seccomp",
    "bottle",
    "overlay",
    "limits",
    "claude",
    "codex",
    "gemini",
    "pi",
    "engine",
    "backend",
];

/// Runs a script where at most `most` user namespaces can be made. The controller that it starts lives there too, so it
/// goes with it.
fn limited(world: &World, most: u32, script: &str) -> Output {
    let script = format!("{script}\ncode=$?; {} controller stop 2>/dev/null; exit $code", world.exe().display());
    let most = most.to_string();
    let args =
        ["--user", "--map-current-user", "--keep-caps", "/bin/sh", "-c", LIMITED, &most, "/bin/sh", "-c", &script];
    world.program("/usr/bin/unshare", &args).patience(PATIENCE).run()
}

/// Gets what `bb doctor --json` wrote: the checks, and the result. Every line of it has to keep the contract.
#[track_caller]
fn sheet(output: &Output) -> (Vec<Value>, Value) {
    let lines: Vec<Value> = output
        .stdout
        .lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("no JSON ({e}): {l}\n{output}")))
        .collect();
    let (result, checks) = lines.split_last().unwrap();
    for check in checks {
        assert_eq!((&check["v"], &check["type"]), (&json!(1), &json!("check")), "{check}");
        assert!(check["name"].is_string() && check["message"].is_string(), "{check}");
        let level = check["level"].as_str().unwrap();
        assert!(["ok", "warn", "error"].contains(&level), "{check}");
        assert!(level == "ok" || check["hint"].as_str().is_some_and(|h| !h.is_empty()), "one thing to do: {check}");
    }
    let count = |level: &str| checks.iter().filter(|c| c["level"] == level).count();
    let (errors, warnings) = (count("error"), count("warn"));
    let expected = json!({"v": 1, "type": "result", "ok": errors == 0, "errors": errors, "warnings": warnings});
    assert_eq!(*result, expected, "{output}");
    (checks.to_vec(), result.clone())
}

#[test]
fn the_doctor_finds_this_machine_well_and_leaves_nothing_behind() {
    for world in World::each() {
        let output = world.command(&["doctor", "--json"]).patience(PATIENCE).run().expect(0);
        let (checks, result) = sheet(&output);
        assert_eq!(result["ok"], true, "{output}");
        let level = |name: &str| {
            let check = checks.iter().find(|c| c["name"] == name);
            check.unwrap_or_else(|| panic!("no check of {name}: {output}"))["level"].as_str().unwrap().to_owned()
        };
        for needed in
            ["system", "home", "settings", "ledger", "controller", "user namespaces", "network", "seccomp", "bottle"]
        {
            assert_eq!(level(needed), "ok", "{needed}: {output}");
        }
        assert_eq!(level("fresh /proc"), "ok", "{output}");
        // Nothing is left out, whatever this machine has: of engines there is one line at least.
        let mut names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
        names.dedup_by(|next, name| next == name && *name == "engine");
        let of_root: &[&str] = if world.who == Who::Root { &["workspace of root"] } else { &[] };
        assert_eq!(names, [&CHECKS[..15], of_root, &CHECKS[15..]].concat(), "{output}");
        assert_eq!(fs::read_to_string(world.bb_home().join("run/backend")).unwrap_or_default(), "linux\n");
        // For people it is the same, a line each.
        let people = world.command(&["doctor"]).patience(PATIENCE).run().expect(0);
        let levels: Vec<_> = people.stdout.lines().filter(|l| !l.starts_with(' ')).collect();
        assert_eq!(levels.len(), checks.len(), "{people}");
        assert!(levels.iter().all(|l| l.starts_with("ok ") || l.starts_with("warn ")), "{people}");
        assert!(people.stderr.contains("this machine can run bottles"), "{people}");
        let clean = world.until(Duration::from_secs(5), || world.leftovers().is_empty());
        assert!(clean, "{:?}", world.leftovers());
        assert!(world.bb(&["ps", "--all", "--json"]).expect(0).stdout.is_empty());
        world.assert_silent(&[]);
    }
}

#[test]
fn a_machine_that_forbids_user_namespaces_is_told_what_forbids_them_and_the_remedy() {
    if !have_tools(&["unshare", "setpriv"]) {
        return;
    }
    let Some(world) = World::as_user() else { return };
    let recipe = world.recipe(
        "launch.lua",
        "--- @bb needs launch\n\nlocal b = bb.launch { command = { 'sh', '-c', 'echo it runs' } }\nb:wait()\n\
         for frame in b:logs() do print(frame.text) end\n",
    );
    let run = format!("{} run --grant all {recipe}", world.exe().display());
    let (place, remedy) = ("user.max_user_namespaces = 0", "sudo sysctl -w user.max_user_namespaces=15000");

    let output = limited(&world, 0, &run);
    output.fails(5, "userns_forbidden", place, remedy);
    assert!(output.stderr.contains("launch.lua:3"), "the recipe's own line: {output}");
    assert!(output.elapsed < within(Duration::from_secs(10)), "{output}");
    let left = || world.leftovers();
    assert!(world.until(Duration::from_secs(5), || left().is_empty()), "{:?}", left());

    let doctor = format!("{} doctor", world.exe().display());
    let output = limited(&world, 0, &format!("{doctor} --json")).expect(5);
    let (checks, result) = sheet(&output);
    assert_eq!((&result["ok"], &result["errors"]), (&json!(false), &json!(1)), "{output}");
    let failed = checks.iter().find(|c| c["level"] == "error").unwrap();
    assert_eq!(failed["name"], "user namespaces");
    assert!(failed["message"].as_str().unwrap().contains(place), "{failed}");
    assert!(failed["hint"].as_str().unwrap().contains(remedy), "{failed}");
    let output = limited(&world, 0, &doctor).expect(5);
    assert!(output.stdout.contains(&format!("hint: run: {remedy}")), "{output}");
    assert!(output.stderr.contains("this machine cannot run bottles yet"), "{output}");
    // The remedy alone, as it is to be typed; what else this machine may lack has commands of these two.
    let output = limited(&world, 0, &format!("{doctor} --fix")).expect(5);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines.contains(&remedy), "{output}");
    assert!(lines.iter().all(|line| line.starts_with("npm ") || line.starts_with("sudo ")), "{output}");

    // The same place with some namespaces to be had is a good one.
    let output = limited(&world, 100, &run).expect(0);
    assert!(output.stdout.contains("it runs"), "{output}");
    let (_, result) = sheet(&limited(&world, 100, &format!("{doctor} --json")).expect(0));
    assert_eq!(result["ok"], true);
    assert!(world.until(Duration::from_secs(5), || left().is_empty()), "{:?}", left());
}

#[test]
fn fix_prints_commands_and_nothing_else() {
    for world in World::each() {
        let path = "/usr/local/bin:/usr/bin:/bin";
        let output = world.command(&["doctor", "--fix"]).env("PATH", path).patience(PATIENCE).run().expect(0);
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert!(lines.contains(&"npm install -g @anthropic-ai/claude-code"), "{output}");
        assert!(lines.iter().all(|line| line.starts_with("npm ") || line.starts_with("sudo ")), "{output}");
    }
}

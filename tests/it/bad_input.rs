//! Bad input, a bad disk, a bad moment: each says its kind, the place and one thing to do, with the right exit code, and
//! nothing is lost.

use std::time::{Duration, Instant};

use bb::rehearse::Scenario;

use crate::support::{World, need, need_root, tool, within};

/// A recipe that does nothing but launch.
const LAUNCH: &str = "--- @bb needs launch\nlocal b = bb.launch { command = { 'true' } }\nb:wait()\n";

#[test]
fn a_recipe_that_cannot_be_read_is_the_users_fault() {
    for world in World::each() {
        let missing = world.home().join("nowhere.lua").display().to_string();
        world.bb(&["run", &missing]).fails(2, "usage", "nowhere.lua", "name a recipe");
        world.bb(&["run", &world.home().display().to_string()]).fails(2, "usage", "/home", "name a recipe");
        let syntax = world.recipe("syntax.lua", "-- one\nlocal x = = 1\n");
        let output = world.bb(&["run", &syntax]);
        output.fails(2, "usage", "syntax.lua:2", "correct this line");
        assert!(output.stderr.contains("local x = = 1"), "it shows the line: {output}");
        let binary = world.write("binary.lua", b"\xff\xfe\0\0 not text").display().to_string();
        world.bb(&["run", &binary]).fails(2, "usage", "binary.lua", "name a recipe");
        let bytecode = world.write("bytecode.lua", b"\x1bLuaQ\0\x01\x04").display().to_string();
        world.bb(&["run", &bytecode]).fails(2, "usage", "bytecode.lua", "correct this line");
        let header = world.recipe("header.lua", "--- @bb needs lanch\n");
        world.bb(&["run", &header]).fails(2, "usage", "header.lua:1", "launch");
        // None of these needed a controller.
        assert!(world.controller_pid().is_none());
    }
}

#[test]
fn an_unknown_option_names_the_nearest_known_one() {
    for world in World::each() {
        let cases = [
            ("bb.launch { comand = { 'true' } }", "comand", "command"),
            ("bb.launch { command = { 'true' }, bugdet = 5 }", "bugdet", "budget"),
            ("bb.launch { command = { 'true' }, routes = { { hots = 'a.example' } } }", "hots", "host"),
            ("bb.launch { command = { 'true' } }:wait { timeuot = 5 }", "timeuot", "timeout"),
        ];
        let names = [
            ("bb.lanch { command = { 'true' } }", "lanch", "launch"),
            ("bb.launch { command = { 'true' } }:wiat()", "wiat", "wait"),
        ];
        for (code, wrong, right) in cases.into_iter().chain(names) {
            let recipe = world.recipe("option.lua", &format!("--- @bb needs launch\n\n{code}\n"));
            let output = world.bb(&["run", "--grant", "all", &recipe]);
            let kind = if names.iter().any(|n| n.0 == code) { "usage" } else { "unknown_key" };
            output.fails(2, kind, "option.lua:3", right);
            assert!(output.stderr.contains(wrong), "{output}");
        }
        let recipe =
            world.recipe("provider.lua", "--- @bb needs launch\nbb.launch { provider = 'cluade', prompt = 'x' }\n");
        world.bb(&["run", "--grant", "all", &recipe]).fails(2, "usage", "provider.lua:2", "claude");
        // The command line does the same.
        let output = world.bb(&["pss"]);
        assert!(output.code == 2 && output.stderr.contains("ps"), "{output}");
        let output = world.bb(&["ps", "--jsn"]);
        assert!(output.code == 2 && output.stderr.contains("--json"), "{output}");
    }
}

#[test]
fn a_recipe_without_a_grant_says_the_exact_flag() {
    for world in World::each() {
        let recipe = world.recipe("grant.lua", LAUNCH);
        world.bb(&["run", &recipe]).fails(4, "not_granted", "grant.lua", "--grant launch");
        world.bb(&["run", "--grant", "launch", &recipe]).expect(0);
        world.command(&["run", &recipe]).env("BB_GRANT", "launch").run().expect(0);
        let untrue = world.recipe("untrue.lua", &LAUNCH.replace("needs launch", "needs budget"));
        world.bb(&["run", "--grant", "all", &untrue]).fails(4, "not_granted", "untrue.lua:2", "launch");
    }
}

#[test]
fn a_bottle_that_does_not_exist_is_said_by_every_command() {
    for world in World::each() {
        for args in [
            &["logs", "nobody"][..],
            &["exec", "nobody", "--", "true"],
            &["kill", "nobody"],
            &["cut", "nobody"],
            &["usage", "--bottle", "nobody"],
        ] {
            let output = world.bb(args);
            output.fails(2, "no_such_bottle", "there is no bottle `nobody`", "`bb ps --all` lists the bottles");
        }
        // A slip of the finger is told from a wrong guess.
        let recipe = world.recipe("named.lua", &LAUNCH.replace("command =", "label = 'somebody', command ="));
        world.bb(&["run", "--grant", "all", &recipe]).expect(0);
        for args in [&["logs", "somebdoy"][..], &["exec", "somebdoy", "--", "true"], &["kill", "somebdoy"]] {
            let hint = "did you mean `somebody`? `bb ps --all` lists the bottles";
            world.bb(args).fails(2, "no_such_bottle", "there is no bottle `somebdoy`", hint);
        }
        world.bb(&["logs", "some"]).expect(0);
    }
}

#[test]
fn an_agent_that_is_not_there_says_how_to_get_it() {
    for world in World::each() {
        let none = "/usr/bin:/bin";
        let recipe = world.recipe(
            "agent.lua",
            "--- @bb needs launch\nbb.launch { provider = 'claude', prompt = 'x', budget = '1k' }\n",
        );
        let run = |w: &World| w.command(&["run", "--rehearse", "--grant", "all", &recipe]).env("PATH", none).run();
        run(&world).fails(5, "agent_missing", "agent.lua:2", "npm install");
        let recipe = world.recipe("command.lua", &LAUNCH.replace("'true'", "'no-such-program'"));
        world.bb(&["run", "--grant", "all", &recipe]).fails(
            5,
            "agent_missing",
            "command.lua:2",
            "install `no-such-program`",
        );
        assert!(world.until(Duration::from_secs(5), || world.leftovers().is_empty()), "{:?}", world.leftovers());
    }
}

#[test]
fn settings_with_a_fault_launch_nothing_and_list_every_fault_with_its_line() {
    for world in World::each() {
        let recipe = world.recipe("launch.lua", LAUNCH);
        let launch = |w: &World| w.bb(&["run", "--grant", "all", &recipe]);
        let cases = [
            ("bugdet: {claude: 5}\n", "unknown_key", "settings.yml:1", "did you mean `budget`?"),
            ("# a comment\nshutdown: &a kill\ncutoff_scope: all\n", "usage", "settings.yml:2", "write values out"),
            ("shutdown: kill\ncutoff_scope: *a\n", "usage", "settings.yml:2", "in quotes"),
            ("durability: !!str power\n", "usage", "settings.yml:1", "remove it"),
            ("budget: {claude: 5}\nbudget: {claude: 6}\n", "usage", "settings.yml:2", "remove one of the two"),
            ("budget:\n\tclaude: 5\n", "usage", "settings.yml:2", "indent with spaces"),
            ("budget: {claude: 5\n", "usage", "settings.yml:2", "brackets"),
            ("budget: {claude: lots}\n", "usage", "settings.yml:1", "5000000"),
            ("budget: {claude: {hard: true}}\n", "usage", "settings.yml:1", "tokens: 5000000"),
            ("shutdown: halt\n", "usage", "settings.yml:1", "cutoff or pause or freeze or kill"),
            ("upstreams:\n  api.anthropic.com: {address: nowhere}\n", "usage", "settings.yml:2", "127.0.0.1:8443"),
            (
                "upstreams:\n  api.anthropic.com: {address: \"127.0.0.1:1\", ca: missing.pem}\n",
                "usage",
                "settings.yml:2",
                "certificate",
            ),
        ];
        for (text, kind, place, hint) in cases {
            world.settings(text);
            let output = launch(&world);
            output.fails(2, kind, place, hint);
            assert!(output.elapsed < within(Duration::from_secs(3)), "{text}: {output}");
        }
        world.settings("bugdet: {claude: 5}\nshutdown: maybe\n");
        let output = launch(&world);
        assert!(output.stderr.contains("settings.yml:1") && output.stderr.contains(":2"), "both: {output}");
        output.fails(2, "unknown_key", "settings.yml:2", "correct each");
        // The doctor says the same, each line once.
        let doctor = world.bb(&["doctor", "--json"]).expect(5);
        let check = doctor.json().into_iter().find(|l| l["name"] == "settings").unwrap();
        let message = check["message"].as_str().unwrap();
        let lines: Vec<_> = message.lines().map(str::trim).collect();
        let first = "settings.yml:1: unknown key `bugdet` (did you mean `budget`? ";
        let second = "settings.yml:2: `maybe` is not a value of `shutdown` (write cutoff or pause or freeze or kill)";
        assert!(lines.len() == 3 && lines[1].starts_with(first) && lines[2] == second, "{doctor}");
        assert!(check["level"] == "error" && check["hint"].as_str().unwrap().contains("settings.yml"), "{doctor}");
        // Those that show what is there work all the same, and warn in the same words.
        for args in [&["ps"][..], &["ps", "--all", "--json"], &["usage"], &["usage", "--json"]] {
            let shown = world.bb(args).expect(0);
            let warned = shown.stderr.contains("warning: 2 faults in settings.yml:");
            assert!(warned && shown.stderr.contains(first) && shown.stderr.contains(second), "{args:?}: {shown}");
            assert!(!shown.stdout.contains("settings.yml"), "{args:?}: {shown}");
        }
        assert!(world.until(Duration::from_secs(5), || world.leftovers().is_empty()), "{:?}", world.leftovers());
        world.settings("budget: {claude: 5M}\n");
        assert!(!world.bb(&["ps"]).expect(0).stderr.contains("warning"));
        launch(&world).expect(0);
    }
}

#[test]
fn a_home_with_a_path_too_long_for_a_socket_is_refused_with_the_way_out() {
    for world in World::each() {
        let long = world.make_dir("x".repeat(90)).display().to_string();
        world.command(&["ps"]).env("BB_HOME", &long).run().fails(2, "usage", &long, "XDG_RUNTIME_DIR");
        let short = world.make_dir("r").display().to_string();
        world.command(&["ps"]).env("BB_HOME", &long).env("XDG_RUNTIME_DIR", &short).run().expect(0);
        world.command(&["controller", "stop"]).env("BB_HOME", &long).env("XDG_RUNTIME_DIR", &short).run().expect(0);
        world.command(&["ps"]).without("BB_HOME").without("HOME").run().fails(2, "usage", "HOME", "BB_HOME");
        let file = world.write("a-file", "").display().to_string();
        world.command(&["ps"]).env("BB_HOME", file).run().fails(2, "usage", "a-file", "BB_HOME");
        if world.uid() != 0 {
            world.command(&["ps"]).env("BB_HOME", "/usr/nowhere").run().fails(2, "usage", "/usr/nowhere", "BB_HOME");
        }
    }
}

#[test]
fn a_ledger_on_a_network_file_system_is_refused() {
    let Some(bindfs) = tool("bindfs") else { return need("bindfs") };
    if !std::path::Path::new("/dev/fuse").exists() {
        return need("/dev/fuse");
    }
    let Some(world) = World::new() else { return };
    if world.uid() != 0 {
        return need_root();
    }
    // What stands behind FUSE is not known to be on this machine, so it counts as far away.
    let far = world.make_dir("far").display().to_string();
    world.program(&bindfs.display().to_string(), &[&far, &world.bb_home().display().to_string()]).run().expect(0);
    let output = world.bb(&["ps"]);
    output.fails(5, "fs_unsupported", "bot-bottle.db", "BB_HOME");
    assert!(world.controller_pid().is_none());
}

#[test]
fn a_ledger_that_is_newer_or_broken_is_left_alone() {
    for world in World::each() {
        world.bb(&["ps"]).expect(0);
        world.bb(&["controller", "stop"]).expect(0);
        let ledger = world.bb_home().join("bot-bottle.db");
        let good = std::fs::read(&ledger).unwrap();
        let db = rusqlite::Connection::open(&ledger).unwrap();
        db.execute("UPDATE schema_version SET version = 9999", []).unwrap();
        db.close().unwrap();
        world.bb(&["ps"]).fails(5, "ledger_newer", "bot-bottle.db", "the bb that wrote it, or a newer one");
        let broken: Vec<u8> = good.iter().enumerate().map(|(i, b)| if i > 20 { b ^ 0x5a } else { *b }).collect();
        world.write(&ledger, &broken);
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(world.bb_home().join(format!("bot-bottle.db{suffix}")));
        }
        world.bb(&["ps"]).fails(
            5,
            "ledger_corrupt",
            "bot-bottle.db",
            "restore the file from a backup, or move it away",
        );
        assert_eq!(std::fs::read(&ledger).unwrap(), broken, "nothing was written to it");
        world.write(&ledger, &good);
        world.bb(&["ps"]).expect(0);
    }
}

#[test]
fn a_full_disk_closes_metered_egress_and_loses_nothing() {
    if tool("curl").is_none() {
        return need("curl");
    }
    for world in World::each() {
        world.small_bb_home(6 * 1024);
        let rehearsal = world.rehearsal(Scenario::default());
        let recipe = world.recipe(
            "disk.lua",
            "--- @bb needs launch, egress:*, credential:KEY\n\
             local b = bb.launch { command = { 'sleep', '600' }, label = 'disk', detach = true, budget = 'unlimited',\n\
               routes = { { host = 'api.anthropic.com', api = 'anthropic',\n\
                 auth = { scheme = 'header', header = 'x-api-key', credential = 'KEY' } } } }\n\
             print(b.slug)\n",
        );
        let ca = rehearsal.ca_pem().to_owned();
        let bb_home = world.bb_home().display().to_string();
        let put = |name: &str, text: &str| {
            world.program("/bin/sh", &["-c", &format!("cat > {bb_home}/{name}")]).stdin(text).run().expect(0)
        };
        put("ca.pem", &ca);
        put(
            "settings.yml",
            &format!("upstreams: {{api.anthropic.com: {{address: \"{}\", ca: ca.pem}}}}\n", rehearsal.address()),
        );
        let run = |w: &World| w.command(&["run", "--grant", "all", &recipe]).env("KEY", "sk-x").run();
        run(&world).expect(0);
        let ask = |w: &World| {
            w.bb(&[
                "exec",
                "disk",
                "--",
                "curl",
                "-sS",
                "-m",
                "20",
                "-i",
                "https://api.anthropic.com/v1/messages",
                "-H",
                "content-type: application/json",
                "-d",
                r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#,
            ])
        };
        let counted = |w: &World| w.bb(&["usage", "--json"]).expect(0).json()[0]["total"]["requests"].as_u64().unwrap();
        assert!(ask(&world).stdout.contains("200"), "it works while there is room");
        world
            .program(
                "/bin/sh",
                &["-c", &format!("dd if=/dev/zero of={bb_home}/fill bs=1k 2>/dev/null; df {bb_home} >&2")],
            )
            .run();
        // What still fits into pages that the ledger has may pass; it must not pass unrecorded.
        let began = Instant::now();
        let refused = (0..60).find_map(|_| {
            let output = ask(&world);
            (!output.stdout.contains("HTTP/2 200")).then_some(output)
        });
        let refused = refused.expect("a full disk refuses at last");
        assert!(refused.stdout.contains("ledger_unavailable"), "{refused}");
        assert!(began.elapsed() < within(Duration::from_secs(55)), "{refused}");
        let answered = rehearsal.stats();
        let full = run(&world);
        full.fails(5, "ledger_full", "disk.lua:2", "free some space");
        world.program("/bin/rm", &[&format!("{bb_home}/fill")]).run().expect(0);
        let works = world.until(Duration::from_secs(10), || ask(&world).stdout.contains("HTTP/2 200"));
        assert!(works, "it works again once there is room:\n{}", ask(&world));
        assert!(counted(&world) > answered.total, "every answer is in the ledger");
        assert_eq!(counted(&world), rehearsal.stats().total);
        world.bb(&["kill", "disk"]).expect(0);
    }
}

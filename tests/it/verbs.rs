//! The commands about bottles, one beside the other: each says which bottle it does not know, which ones a beginning fits, and,
//! where it asks, that nobody is there to be asked. And what is missing when an agent is started or taken up.

use std::fs;

use serde_json::json;

use crate::start::{manifest, set_up, start};
use crate::support::person::does;
use crate::support::{World, have_tools};

/// The commands that are about one bottle, less its name. `attach` looks for a terminal first (module `tmux`).
const VERBS: [&[&str]; 17] = [
    &["logs", "?"],
    &["logs", "-f", "?"],
    &["exec", "?", "--", "true"],
    &["cp", "?:a", "b"],
    &["cp", "b", "?:a"],
    &["diff", "?"],
    &["apply", "?", "--yes"],
    &["stop", "?"],
    &["kill", "?"],
    &["freeze", "?"],
    &["commit", "?"],
    &["resume", "?", "--headless"],
    &["rm", "?"],
    &["inspect", "?"],
    &["pause", "?"],
    &["thaw", "?"],
    &["cut", "?"],
];

fn named<'a>(verb: &[&'a str], slug: &str) -> Vec<String> {
    verb.iter().map(|word: &&'a str| word.replace('?', slug)).collect()
}

/// Runs a command where it could do something.
fn bb(world: &World, args: &[String]) -> crate::support::Output {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    world.command(&args).cwd(world.home().join("project")).run()
}

/// Launches bottles that go on.
fn launch(world: &World, labels: &[&str]) {
    set_up(world, "");
    world.write("project/b", "b\n");
    for label in labels {
        let recipe = format!(
            "--- @bb needs launch\nbb.launch{{command = {{'sleep', '600'}}, label = '{label}', detach = true}}\n"
        );
        world.bb(&["run", "--grant", "all", &world.recipe("launch.lua", &recipe)]).expect(0);
    }
}

#[test]
fn every_verb_says_which_bottle_it_does_not_know() {
    for world in World::each() {
        launch(&world, &["somebody"]);
        for verb in VERBS {
            let said = bb(&world, &named(verb, "nobody"));
            said.fails(2, "no_such_bottle", "there is no bottle `nobody`", "`bb ps --all` lists the bottles");
            let slip = bb(&world, &named(verb, "somebdoy"));
            slip.fails(2, "no_such_bottle", "there is no bottle `somebdoy`", "did you mean `somebody`?");
            // A name that is none is no path either.
            let odd = bb(&world, &named(verb, "../etc"));
            assert_eq!(odd.code, 2, "{verb:?}: {odd}");
        }
        let usage = world.bb(&["usage", "--bottle", "somebdoy"]);
        usage.fails(2, "no_such_bottle", "there is no bottle `somebdoy`", "did you mean `somebody`?");
        // None of them did anything.
        let running = world.bb(&["ps", "--json"]).expect(0).json();
        assert_eq!((running.len(), &running[0]["state"]), (1, &"running".into()), "{running:?}");
        world.bb(&["kill", "somebody"]).expect(0);
    }
}

#[test]
fn every_verb_says_which_bottles_a_beginning_fits_and_does_nothing() {
    for world in World::each() {
        launch(&world, &["shelf", "shell"]);
        for verb in VERBS {
            let said = bb(&world, &named(verb, "she"));
            said.fails(2, "ambiguous_slug", "shelf, shell", "write more of the name");
        }
        world.bb(&["usage", "--bottle", "she"]).fails(2, "ambiguous_slug", "shelf, shell", "write more of the name");
        // At a terminal, which is looked for first.
        if have_tools(&["python3"]) {
            for (slug, kind, said) in [
                ("she", "ambiguous_slug", "write more of the name"),
                ("nobody", "no_such_bottle", "`bb ps --all` lists the bottles"),
            ] {
                let steps = [json!(["expect", said]), json!(["end", 2])];
                let shown = does(&world, &["attach", slug], &steps);
                assert!(shown.contains(&format!("error[{kind}]")), "{shown}");
                assert!(slug != "she" || shown.contains("shelf, shell"), "{shown}");
            }
        }
        let running = world.bb(&["ps", "--json"]).expect(0).json();
        assert!(running.len() == 2 && running.iter().all(|b| b["state"] == "running"), "{running:?}");
        // A beginning that fits one is enough.
        world.bb(&["pause", "shelf"]).expect(0);
        world.bb(&["thaw", "shelf"]).expect(0);
        world.bb(&["exec", "shel", "true"]).fails(2, "ambiguous_slug", "shelf, shell", "write more of the name");
        world.bb(&["kill", "shelf"]).expect(0);
        world.bb(&["exec", "she", "true"]).expect(0);
        world.bb(&["kill", "she"]).expect(0);
    }
}

#[test]
fn every_command_that_asks_says_so_where_nobody_is_at_a_terminal() {
    for world in World::each() {
        set_up(&world, "");
        // Something to take up, to bring over and to remove.
        start(&world, &["tester", "--headless", "--prompt", "echo its > notes; exit 1"]).expect(1);
        let ask = |args: &[&str]| world.command(args).cwd(world.home().join("project")).stdin("y\n").run();
        ask(&["start"]).fails(2, "usage", "nobody is at a terminal", "--headless");
        ask(&["start", "tester"]).fails(2, "usage", "nobody is at a terminal", "--headless");
        ask(&["resume", "tester"]).fails(2, "usage", "no session of `tester` is kept", "bb freeze");
        ask(&["apply", "tester"]).fails(4, "approval", "nobody is there to be asked", "add --yes to `bb apply`");
        ask(&["prune"]).fails(4, "approval", "nobody is there to be asked", "add --yes to `bb prune`");
        ask(&["attach", "tester"]).fails(2, "usage", "standard input and output", "bb logs --follow tester");
        ask(&["exec", "-t", "tester", "--", "true"]).fails(2, "usage", "standard input and output", "bb exec -i");
        let recipe = world.recipe("asks.lua", "--- @bb needs launch\n");
        ask(&["run", &recipe]).fails(4, "not_granted", "asks.lua", "--grant launch");
        for question in ["pick({ title = 'Which', items = { { name = 'a' } } })", "ask('Which')", "confirm('Which')"] {
            let recipe = world.recipe("ui.lua", &format!("bb.ui.{question}\n"));
            ask(&["run", &recipe]).fails(4, "approval", "nobody is there to be asked: Which", "on the command line");
        }
        assert!(!world.home().join("project/notes").exists(), "nothing was brought over");
        // With the word that stands for a yes, they do it.
        ask(&["apply", "tester", "--yes"]).expect(0);
        ask(&["prune", "--yes"]).expect(0);
        assert_eq!(fs::read_to_string(world.home().join("project/notes")).unwrap(), "its\n");
    }
}

#[test]
fn what_is_missing_when_an_agent_is_started_is_said_before_anything_is_begun() {
    for world in World::each() {
        set_up(&world, "");
        let home = world.bb_home().display().to_string();
        let tries = |front: &str, body: &str| {
            manifest(&world, &format!("{home}/bottles/dev.md"), front, "");
            manifest(&world, &format!("{home}/agents/tester.md"), body, "");
            let args = ["start", "tester", "--headless", "--prompt", "x", "--budget", "unlimited"];
            let command = world.command(&args).cwd(world.home().join("project")).env("PATH", "/usr/bin:/bin");
            command.env("ANTHROPIC_API_KEY", "sk-x").run()
        };
        for (provider, install) in
            [("claude", "claude-code"), ("codex", "codex"), ("gemini", "gemini-cli"), ("pi", "pi-coding-agent")]
        {
            let output = tries(&format!("agent_provider: {{template: {provider}}}\n"), "bottle: dev\n");
            output.fails(5, "agent_missing", provider, install);
        }
        tries("agent_provider: {template: shell}\n", "bottle: gone\n").fails(2, "usage", "tester.md:2", "dev");
        tries("extends: gone\n", "bottle: dev\n").fails(2, "usage", "dev.md:2", "dev");
        tries("agent_provider: {template: shel}\n", "bottle: dev\n").fails(2, "unknown_key", "dev.md:2", "`shell`");
        tries("agent_provider: {template: shell}\n", "bottle: dev\nskills: [gone]\n").fails(
            2,
            "usage",
            "tester.md:3",
            "skills/gone",
        );
        manifest(&world, &format!("{home}/bottles/dev.md"), "agent_provider: {template: shell}\n", "");
        manifest(&world, &format!("{home}/agents/tester.md"), "bottle: dev\n", "");
        for twice in [&["1,000"][..], &["200k,unlimited"], &["shell=5,shell=6"], &["1k", "unlimited"]] {
            let options = twice.iter().flat_map(|amount| ["--budget", amount]);
            let wrong: Vec<&str> = ["tester", "--headless", "--prompt", "x"].into_iter().chain(options).collect();
            start(&world, &wrong).fails(2, "usage", "more than one amount", "1k or 1000");
        }
        // A limit of the host that is for nobody would bind nobody.
        world.write(world.bb_home().join("settings.yml"), "shutdown: kill\nbudget: {claud: 5}\n");
        let misspelt = start(&world, &["tester", "--headless", "--prompt", "x"]);
        misspelt.fails(2, "unknown_key", "settings.yml:2", "did you mean `claude`");
        assert!(!misspelt.stderr.contains("start.lua"), "{misspelt}");
        let recipe = world.recipe("launch.lua", "--- @bb needs launch\nbb.launch { command = { 'true' } }\n");
        world.bb(&["run", "--grant", "all", &recipe]).fails(
            2,
            "unknown_key",
            "settings.yml:2",
            "did you mean `claude`",
        );
        fs::remove_file(world.bb_home().join("settings.yml")).unwrap();
        // The directory that one stands in may be gone as well.
        let exe = world.exe().display().to_string();
        let gone = format!(
            "mkdir gone && cd gone && rmdir ../gone && exec {exe} start tester --headless --prompt true --budget unlimited"
        );
        let output = world.program("/bin/sh", &["-c", &gone]).run();
        output.fails(2, "usage", "the working directory cannot be used", "cd to a directory that exists");
        let gone = format!("mkdir gone && cd gone && rmdir ../gone && exec {exe} manifest check");
        let output = world.program("/bin/sh", &["-c", &gone]).run();
        output.fails(2, "usage", "the working directory cannot be used", "cd to a directory that exists");
        assert!(
            world.controller_pid().is_none() && fs::read_dir(world.bb_home().join("state")).unwrap().next().is_none()
        );
        tries("agent_provider: {template: shell}\nmounts: [/nonexistent]\n", "bottle: dev\n").fails(
            2,
            "usage",
            "/nonexistent",
            "directory",
        );
        manifest(&world, &format!("{home}/bottles/dev.md"), "agent_provider: {template: shell}\n", "");
        start(&world, &["tester", "--headless", "--prompt", "true"]).expect(0);
    }
}

#[test]
fn what_is_missing_when_a_bottle_is_taken_up_is_said_and_it_stays_kept() {
    for world in World::each() {
        set_up(&world, "");
        let keeper = "return { name = \"shell\", resumes = true, transcript = { \"~/.keeper\" },\n  \
            argv = function(ctx) return { \"sh\", \"-c\", ctx.prompt } end }";
        let provider = world.write(world.bb_home().join("providers/shell.lua"), keeper);
        let failed = ["tester", "--headless", "--prompt", "echo x > ~/.keeper/s; exit 1"];
        start(&world, &failed).expect(1);
        let hint = "bb resume tester --headless";
        world.bb(&["resume", "tester"]).fails(2, "usage", "nobody is at a terminal", hint);
        let resume = || world.bb(&["resume", "tester", "--headless", "--prompt", "cat ~/.keeper/s"]);
        for (path, said, hint) in [
            ("bottles/dev.md", "no bottle manifest `dev`", "put it back"),
            ("agents/tester.md", "no agent `tester`", "put it back"),
            ("providers/shell.lua", "`shell` is no provider", "providers are"),
        ] {
            let path = world.bb_home().join(path);
            let text = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            let kind = if path.ends_with("shell.lua") { "unknown_key" } else { "usage" };
            resume().fails(2, kind, said, hint);
            world.write(&path, text);
            let kept = world.bb(&["ps", "--all", "--json"]).expect(0).json();
            assert!(kept.iter().any(|b| b["slug"] == "tester" && b["kept"] == true), "{kept:?}");
        }
        assert!(provider.exists());
        assert_eq!(resume().expect(0).stdout, "x\n");
    }
}

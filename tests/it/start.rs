//! `bb start`: agents by their manifests, headless and by a flow of the user's own. Each line of docs/start.md about the
//! command line has its test here; what a person does at a terminal is in `terminal`.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::support::person::{person_in, written};
use crate::support::{World, have_tools};

pub(crate) fn manifest(world: &World, path: &str, front: &str, body: &str) {
    let path = world.home().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    world.write(path, format!("---\n{front}---\n{body}\n"));
}

/// Writes a bottle and an agent into the home.
fn shelf(world: &World, bottle: &str, agent: &str) {
    let home = world.bb_home().display().to_string();
    manifest(world, &format!("{home}/bottles/dev.md"), bottle, "For people.");
    manifest(world, &format!("{home}/agents/tester.md"), agent, "You test.");
}

/// A provider of the user's own whose agent is a shell, with the prompt as its script.
const SHELL: &str = r#"return {
  name = "shell",
  argv = function(ctx) return { "sh", "-c", ctx.prompt or "exec sh" } end,
}"#;

/// A world with an agent `tester` that runs its prompt in a shell.
pub(crate) fn set_up(world: &World, more: &str) {
    world.write(world.bb_home().join("providers/shell.lua"), SHELL);
    shelf(world, &format!("agent_provider: {{template: shell}}\n{more}"), "bottle: dev\n");
    world.make_dir("project");
}

pub(crate) fn start(world: &World, args: &[&str]) -> crate::support::Output {
    world.command(&[&["start"], args].concat()).cwd(world.home().join("project")).run()
}

#[test]
fn a_headless_start_runs_the_prompt_and_ends_as_the_agent_did() {
    for world in World::each() {
        set_up(&world, "env: {TZ: UTC}\n");
        let output =
            start(&world, &["tester", "--headless", "--prompt", "echo \"tz $TZ\"; echo oops >&2; pwd"]).expect(0);
        let project = world.home().join("project").canonicalize().unwrap();
        assert_eq!(output.stdout, format!("tz UTC\n{}\n", project.display()), "{output}");
        assert!(output.stderr.contains("bottle tester\n"), "the slug is said: {output}");
        assert!(output.stderr.contains("oops\n"), "{output}");
        assert!(output.stderr.contains("session ended (exit 0)"), "{output}");
        let failed = start(&world, &["tester", "--headless", "--prompt", "exit 7"]).expect(1);
        assert!(failed.stderr.contains("session ended (exit 7)"), "{failed}");
        assert!(world.until(Duration::from_secs(5), || world.bb(&["ps", "--json"]).json().is_empty()));
    }
}

#[test]
fn the_prompt_arrives_word_for_word_also_from_a_file_and_from_standard_input() {
    for world in World::each() {
        world.write(
            world.bb_home().join("providers/say.lua"),
            "return { name = \"say\", argv = { \"printf\", \"%s\", \"{prompt}\" } }",
        );
        let home = world.bb_home().display().to_string();
        manifest(&world, &format!("{home}/bottles/dev.md"), "agent_provider: {template: say}\n", "");
        manifest(&world, &format!("{home}/agents/tester.md"), "bottle: dev\n", "");
        let project = world.make_dir("project");
        for prompt in ["-rf /", "@file", "--", "two\nlines", "\"$HOME\" `id` 'x'", "{prompt}", "ünïcode"] {
            let output = start(&world, &["tester", "--headless", "--prompt", prompt]).expect(0);
            assert_eq!(output.stdout, prompt, "{output}");
        }
        world.write(project.join("task.md"), "from a file\n");
        let output = start(&world, &["tester", "--headless", "--prompt-file", "task.md"]).expect(0);
        assert_eq!(output.stdout, "from a file");
        let args = ["start", "tester", "--headless", "--prompt-file", "-"];
        let output = world.command(&args).cwd(&project).stdin("from a pipe\n").run().expect(0);
        assert_eq!(output.stdout, "from a pipe");
        start(&world, &["tester", "--headless", "--prompt-file", "none.md"]).fails(2, "usage", "none.md", "text file");
    }
}

#[test]
fn headless_says_all_that_is_missing_before_anything_has_an_effect() {
    for world in World::each() {
        set_up(&world, "");
        let hint = "bb start AGENT --headless";
        start(&world, &["--headless"]).fails(2, "usage", "an agent's name and --prompt", hint);
        start(&world, &["tester", "--headless"]).fails(2, "usage", "--prompt", hint);
        start(&world, &["--headless", "--prompt", "x"]).fails(2, "usage", "an agent's name", hint);
        let near = "did you mean `tester`";
        start(&world, &["tsetre", "--headless", "--prompt", "x"]).fails(2, "usage", "tsetre", near);
        let wrong = ["tester", "--headless", "--prompt", "x", "--bottle", "../escape"];
        start(&world, &wrong).fails(2, "usage", "--bottle", "begins with a letter");
        let wrong = ["tester", "--headless", "--prompt", "x", "--color", "gren"];
        start(&world, &wrong).fails(2, "usage", "--color", "`green`");
        for amount in ["0.5", "-1", "9007199254740993"] {
            let wrong = ["tester", "--headless", "--prompt", "x", &format!("--budget={amount}")];
            start(&world, &wrong).fails(2, "usage", "--budget", "--budget 200k");
        }
        // Without a terminal nothing ever prompts.
        start(&world, &["tester"]).fails(2, "usage", "nobody is at a terminal", "--headless");
        start(&world, &[]).fails(2, "usage", "nobody is at a terminal", "agents: tester");
        start(&world, &["tsetre"]).fails(2, "usage", "there is no agent `tsetre`", near);
        assert!(world.controller_pid().is_none(), "nothing was started");
        assert!(fs::read_dir(world.bb_home().join("state")).unwrap().next().is_none());
    }
}

#[test]
fn bottles_are_merged_in_the_order_given_and_without_one_the_agents_own_is_taken() {
    for world in World::each() {
        set_up(&world, "env: {A: dev, B: dev}\n");
        let home = world.bb_home().display().to_string();
        manifest(&world, &format!("{home}/bottles/over.md"), "env: {A: over}\n", "");
        manifest(&world, &format!("{home}/agents/homeless.md"), "", "");
        let says = |args: &[&str]| {
            let prompt = ["--headless", "--prompt", "echo $A $B"];
            start(&world, &[args, &prompt].concat()).expect(0).stdout
        };
        assert_eq!(says(&["tester"]), "dev dev\n");
        assert_eq!(says(&["tester", "--bottle", "dev", "--bottle", "over"]), "over dev\n");
        assert_eq!(says(&["tester", "--bottle", "over", "--bottle", "dev"]), "dev dev\n");
        let none = start(&world, &["homeless", "--headless", "--prompt", "x"]);
        none.fails(2, "usage", "names no bottle", "--bottle");
    }
}

#[test]
fn a_dry_run_shows_what_would_hold_and_starts_nothing() {
    for world in World::each() {
        set_up(
            &world,
            "egress: {routes: [{host: docs.example, auth: {scheme: Bearer, token_ref: DOCS}}]}\nbudget: 40k\n",
        );
        let show = |command: crate::support::Command<'_>| {
            let output = command.env("DOCS", "docs-secret").cwd(world.home().join("project")).run().expect(0);
            for part in ["agent", "tester", "docs.example", "${DOCS}", "40,000 tokens", "backend", "workspace"] {
                assert!(output.stderr.contains(part), "{part}: {output}");
            }
            assert!(!output.stderr.contains("docs-secret") && !output.stdout.contains("docs-secret"), "{output}");
        };
        show(world.command(&["start", "tester", "--dry-run"]));
        show(world.command(&["start", "tester"]).env("BOT_BOTTLE_DRY_RUN", "1"));
        show(world.command(&["start", "tester", "--headless", "--prompt", "x", "--dry-run"]));
        assert!(world.controller_pid().is_none(), "nothing was started");
        let missing = start(&world, &["tester", "--dry-run"]);
        missing.fails(5, "credential_missing", "bottles/dev.md", "set DOCS");
    }
}

#[test]
fn labels_become_slugs_that_nobody_else_has_and_colours_are_kept() {
    for world in World::each() {
        set_up(&world, "");
        let project = world.home().join("project");
        let long = [
            "start",
            "tester",
            "--headless",
            "--prompt",
            "echo up; sleep 600",
            "--label",
            "Fix Bug",
            "--color",
            "green",
        ];
        let first = world.command(&long).cwd(&project).spawn();
        first.says("up");
        let second = start(&world, &["tester", "--headless", "--prompt", "true", "--label", "Fix Bug"]).expect(0);
        assert!(second.stderr.contains("bottle fix-bug-2\n"), "{second}");
        let listed = world.bb(&["ps", "--json"]).expect(0).json();
        assert_eq!((&listed[0]["slug"], &listed[0]["color"]), (&"fix-bug".into(), &"green".into()), "{listed:?}");
        assert_eq!(listed[0]["agent"], "tester");
        world.bb(&["kill", "fix-bug"]).expect(0);
        let ended = first.wait();
        assert_eq!(ended.code, 1, "{ended}");
        assert!(ended.stderr.contains("session ended") && ended.stderr.contains("killed"), "{ended}");
    }
}

#[test]
fn time_that_is_up_ends_with_124_and_a_front_end_that_goes_takes_its_bottle_along() {
    for world in World::each() {
        set_up(&world, "");
        let output = start(&world, &["tester", "--headless", "--prompt", "sleep 600", "--timeout", "2s"]).expect(124);
        assert!(output.stderr.contains("timeout"), "{output}");
        let project = world.home().join("project");
        let args = ["start", "tester", "--headless", "--prompt", "touch changed; echo up; sleep 600"];
        let running = world.command(&args).cwd(&project).spawn();
        running.says("up");
        running.signal(nix::sys::signal::SIGINT);
        let ended = running.wait().expect(130);
        assert!(ended.stderr.contains("error[interrupted]: stopped\n"), "{ended}");
        assert!(ended.stderr.contains("its changes are kept: bb diff tester"), "{ended}");
        assert!(world.until(Duration::from_secs(10), || world.bb(&["ps", "--json"]).json().is_empty()));
    }
}

#[test]
fn an_agents_budget_cuts_its_bottle_and_the_exit_code_says_so() {
    for world in World::each() {
        shelf(&world, "agent_provider: {template: demo}\nbudget: 1M\n", "bottle: dev\nbudget: 5\n");
        world.make_dir("project");
        let args = ["tester", "--headless", "--prompt", "Work", "--rehearse"];
        let output = start(&world, &args).expect(3);
        assert!(output.stderr.contains("the budget of the agent tester"), "{output}");
        // The launch's own lies nearer and governs.
        let output = start(&world, &[&args[..], &["--budget", "unlimited"]].concat());
        assert_eq!(output.code, 0, "{output}");
        let json = start(&world, &[&args[..], &["--json", "--budget", "unlimited"]].concat()).expect(0).json();
        let kinds: Vec<&str> = json.iter().filter_map(|line| line["type"].as_str()).collect();
        assert!(kinds.first() == Some(&"run.start") && kinds.last() == Some(&"run.result"), "{kinds:?}");
        assert!(kinds.contains(&"output") && kinds.contains(&"bottle.ended"), "{kinds:?}");
        assert_eq!(json.last().unwrap()["exit"], 0);
        let said: String = json.iter().filter(|l| l["type"] == "output").filter_map(|l| l["text"].as_str()).collect();
        assert!(said.contains("Done."), "{json:?}");
    }
}

#[test]
fn at_a_terminal_somebody_picks_looks_says_yes_works_leaves_and_comes_back() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        set_up(&world, "env: {A: dev, PS1: \"inside> \"}\nbudget: 40k\n");
        let home = world.bb_home().display().to_string();
        manifest(&world, &format!("{home}/bottles/over.md"), "env: {A: over}\n", "Over it.");
        manifest(&world, &format!("{home}/agents/reviewer.md"), "bottle: dev\n", "You review.");
        let steps = [
            json!(["expect", "Agent (type to narrow"]),
            json!(["expect", "You review."]),
            // The letters that are typed narrow the list to one.
            json!(["type", "tst"]),
            json!(["quiet"]),
            json!(["type", "\r"]),
            json!(["expect", "Agent: tester"]),
            json!(["expect", "Bottles (type to narrow, Space chooses"]),
            json!(["expect", "[1] dev"]),
            json!(["type", "over "]),
            json!(["expect", "[2] over"]),
            json!(["type", "\r"]),
            json!(["expect", "Bottles: dev < over"]),
            json!(["expect", "Name [tester]:"]),
            json!(["type", "my work\r"]),
            json!(["expect", "Colour"]),
            json!(["type", "cyan"]),
            json!(["quiet"]),
            json!(["type", "\r"]),
            // What would hold.
            json!(["expect", "dev < over"]),
            json!(["expect", "40,000 tokens, 40,000 left"]),
            json!(["expect", "Start it? [y/N]"]),
            json!(["run", "test -z \"$(ls -A $BB_HOME/state)\"", 0]),
            json!(["type", "y\r"]),
            json!(["expect", "bottle my-work"]),
            json!(["expect", "inside> "]),
            json!(["type", "echo A is $A; tty\r"]),
            json!(["expect", "A is over"]),
            json!(["expect", "/dev/pts/"]),
            json!(["resize", 30, 90]),
            json!(["insist", "stty size\r", "30 90"]),
            json!(["type", "\u{10}\u{11}"]),
            json!(["expect", "detached; bb attach my-work"]),
            json!(["end", 0]),
        ];
        written(&person_in(&world, "picks", "24x80", "project", &["start"], &steps).wait().expect(0));
        let listed = world.bb(&["ps", "--json"]).expect(0).json();
        assert_eq!((&listed[0]["slug"], &listed[0]["color"]), (&"my-work".into(), &"cyan".into()), "{listed:?}");
        let steps = [
            json!(["expect", "30 90"]),
            json!(["insist", "stty size\r", "24 80"]),
            json!(["type", "exit 5\r"]),
            json!(["expect", "session ended (exit 5)"]),
            json!(["end", 5]),
        ];
        written(&person_in(&world, "back", "24x80", "project", &["attach", "my"], &steps).wait().expect(0));
        assert!(world.until(Duration::from_secs(10), || world.bb(&["ps", "--json"]).json().is_empty()));
    }
}

#[test]
fn a_no_at_the_preflight_and_a_ctrl_c_at_a_question_start_nothing() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        set_up(&world, "env: {BRANCH: \"?Which branch\"}\n");
        let steps = [
            json!(["expect", "Bottles"]),
            json!(["type", "\r"]),
            json!(["expect", "Name"]),
            json!(["type", "\r"]),
            json!(["expect", "Colour"]),
            json!(["type", "\r"]),
            json!(["expect", "Which branch: "]),
            json!(["type", "main\r"]),
            json!(["expect", "none: it is metered, and nothing will cut it off"]),
            json!(["expect", "Start it? [y/N]"]),
            json!(["type", "n\r"]),
            json!(["expect", "nothing was started"]),
            json!(["end", 4]),
        ];
        written(&person_in(&world, "no", "24x80", "project", &["start", "tester"], &steps).wait().expect(0));
        let away = json!(["never", "start.lua"]);
        let steps = [json!(["expect", "Agent"]), json!(["type", "\u{3}"]), json!(["end", 130]), away];
        written(&person_in(&world, "away", "24x80", "project", &["start"], &steps).wait().expect(0));
        // A window of twenty columns is narrow, and no reason to fail.
        let steps = [
            json!(["resize", 6, 20]),
            json!(["expect", "Agent"]),
            json!(["type", "\r"]),
            json!(["expect", "Bottles"]),
            json!(["type", "\u{1b}"]),
            json!(["end", 130]),
        ];
        written(&person_in(&world, "narrow", "24x80", "project", &["start"], &steps).wait().expect(0));
        assert!(world.controller_pid().is_none(), "nothing was started");
        // Without a terminal the question is not asked.
        let headless = start(&world, &["tester", "--headless", "--prompt", "x", "--budget", "unlimited"]);
        headless.fails(2, "usage", "dev.md:3", "start it at a terminal");
    }
}

#[test]
fn a_headless_start_is_driven_by_a_parent_that_allocated_the_terminal() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        set_up(&world, "");
        let prompt = "stty size; tty; read line; echo \"got $line\"; exit 3";
        let steps = [
            json!(["expect", "24 80"]),
            json!(["expect", "/dev/pts/"]),
            json!(["type", "what the orchestrator says\r"]),
            json!(["expect", "got what the orchestrator says"]),
            json!(["expect", "session ended (exit 3)"]),
            json!(["end", 1]),
            // Nothing was picked, asked or shown to be agreed to.
            json!(["never", "Bottles"]),
            json!(["never", "[y/N]"]),
            json!(["never", "credentials"]),
        ];
        let args = ["start", "tester", "--headless", "--prompt", prompt];
        written(&person_in(&world, "driven", "24x80", "project", &args, &steps).wait().expect(0));
    }
}

#[test]
fn a_headless_agent_writes_into_a_layer_and_with_cwd_into_a_copy() {
    for world in World::each() {
        set_up(&world, "");
        let project = world.make_dir("project");
        world.write(project.join("notes.md"), "mine\n");
        for (label, more) in [("layer", None), ("copy", Some("--cwd"))] {
            let mut args =
                vec!["tester", "--headless", "--label", label, "--prompt", "pwd; cat notes.md; echo its > notes.md"];
            args.extend(more);
            let output = start(&world, &args).expect(0);
            let at = project.canonicalize().unwrap();
            assert_eq!(output.stdout, format!("{}\nmine\n", at.display()), "{output}");
            assert!(output.stderr.contains(&format!("bb apply {label}")), "{output}");
            assert_eq!(fs::read_to_string(project.join("notes.md")).unwrap(), "mine\n", "{label}");
            let diff = world.bb(&["diff", label]).expect(0);
            assert!(diff.stdout.contains("+its"), "{diff}");
            // Each has what it is said to have, and not what the other has.
            let (mode, has, lacks) =
                if more.is_some() { ("copy", "copy", "layer") } else { ("overlay", "layer", "copy") };
            let listed = world.bb(&["ps", "--all", "--json"]).expect(0).json();
            let bottle = listed.iter().find(|bottle| bottle["slug"] == label).unwrap();
            assert_eq!(bottle["workspace_mode"], mode, "{bottle}");
            let state = world.bb_home().join("state").join(label);
            assert!(state.join(has).is_dir() && !state.join(lacks).exists(), "{label}");
        }
        world.bb(&["apply", "layer", "--yes"]).expect(0);
        assert_eq!(fs::read_to_string(project.join("notes.md")).unwrap(), "its\n");
        // A manifest may say that it works in the directory itself.
        let home = world.bb_home().display().to_string();
        let front = "agent_provider: {template: shell}\nworkspace: mount\n";
        manifest(&world, &format!("{home}/bottles/dev.md"), front, "");
        start(&world, &["tester", "--headless", "--prompt", "echo there > notes.md"]).expect(0);
        assert_eq!(fs::read_to_string(project.join("notes.md")).unwrap(), "there\n");
        // What the host writes meanwhile is not in the copy.
        world.write(project.join("notes.md"), "mine\n");
        let prompt = "echo up; while [ ! -e /tmp/go ]; do sleep 0.05; done; cat notes.md; ls";
        let args = ["start", "tester", "--headless", "--cwd", "--label", "still", "--prompt", prompt];
        let running = world.command(&args).cwd(&project).spawn();
        running.says("up");
        world.write(project.join("notes.md"), "the host's\n");
        world.write(project.join("later"), "the host's\n");
        world.bb(&["exec", "still", "--", "touch", "/tmp/go"]).expect(0);
        assert_eq!(running.wait().expect(0).stdout, "up\nmine\nnotes.md\n");
    }
}

#[test]
fn the_backend_is_the_flags_before_the_environments_before_the_manifests_before_the_settings() {
    for world in World::each() {
        set_up(&world, "backend: docker\n");
        let project = world.home().join("project");
        let run = |args: &[&str], variable: Option<&str>| {
            let prompt = ["start", "tester", "--headless", "--prompt", "echo here", "--label", "b"];
            let command = world.command(&[&prompt[..], args].concat()).cwd(&project);
            let command = variable.into_iter().fold(command, |c, name| c.env("BOT_BOTTLE_BACKEND", name));
            command.run()
        };
        // What the manifest says needs an image, and none is named.
        run(&[], None).fails(2, "usage", "image", "image");
        run(&[], Some("smolmachines")).fails(5, "backend_unavailable", "smolmachines", "linux");
        run(&["--backend", "macos-container"], Some("linux")).fails(
            5,
            "backend_unavailable",
            "macos-container",
            "linux",
        );
        assert_eq!(run(&["--backend", "linux"], Some("smolmachines")).expect(0).stdout, "here\n");
        assert_eq!(run(&[], Some("linux")).expect(0).stdout, "here\n");
        world.settings("backend: docker\n");
        let home = world.bb_home().display().to_string();
        manifest(&world, &format!("{home}/bottles/dev.md"), "agent_provider: {template: shell}\nbackend: linux\n", "");
        assert_eq!(run(&[], None).expect(0).stdout, "here\n");
        manifest(&world, &format!("{home}/bottles/dev.md"), "agent_provider: {template: shell}\n", "");
        run(&[], None).fails(2, "usage", "image", "image");
        run(&["--backend", "dokcer"], None).fails(2, "usage", "dokcer", "`docker`");
    }
}

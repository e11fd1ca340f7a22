//! Headless starts as scripts and orchestrators make them: their standard streams, and what manifests may not do unseen.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;

use crate::support::person::{person_in, written};
use crate::support::{Output, World, have_tools};

/// A provider of the user's own whose agent is a shell, with the prompt as its script.
const SHELL: &str = r#"return {
  name = "shell",
  argv = function(ctx) return { "sh", "-c", ctx.prompt or "exec sh" } end,
}"#;

fn set_up(world: &World, bottle: &str) {
    let home = world.bb_home();
    world.write(home.join("providers/shell.lua"), SHELL);
    world.write(home.join("bottles/dev.md"), format!("---\nagent_provider: {{template: shell}}\n{bottle}---\n"));
    world.write(home.join("agents/tester.md"), "---\nbottle: dev\n---\n");
    world.make_dir("project");
}

/// Every file below a directory, with its size and when it was written last.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u64, Option<SystemTime>)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            all.extend(tree(&entry.path()));
        } else if !entry.path().ends_with("bot-bottle.db-shm") {
            // SQLite's index of its log is every reader's.
            all.insert(entry.path(), (meta.len(), meta.modified().ok()));
        }
    }
    all
}

fn start(world: &World, prompt: &str) -> Output {
    let args = ["start", "tester", "--headless", "--prompt", prompt];
    world.command(&args).cwd(world.home().join("project")).run()
}

#[test]
fn what_comes_in_on_standard_input_is_the_agents_to_its_end() {
    for world in World::each() {
        set_up(&world, "");
        let args = ["start", "tester", "--headless", "--prompt", "wc -c; echo done"];
        let long = "0123456789abcdef".repeat(40_000);
        let output = world.command(&args).cwd(world.home().join("project")).stdin(long).run().expect(0);
        assert_eq!(output.stdout, "640000\ndone\n", "{output}");
        // An agent that does not read it is not held up.
        let args = ["start", "tester", "--headless", "--prompt", "echo early"];
        let output = world.command(&args).cwd(world.home().join("project")).stdin("unread\n").run().expect(0);
        assert_eq!(output.stdout, "early\n", "{output}");
        assert_eq!(start(&world, "cat; echo empty").expect(0).stdout, "empty\n");
    }
}

#[test]
fn the_keys_that_leave_an_interface_are_the_agents_own_in_a_headless_start() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        set_up(&world, "");
        let prompt = "stty raw -echo; echo ready; dd bs=1 count=2 2>/dev/null | od -An -tx1; stty sane; exit 3";
        let steps = [
            json!(["expect", "ready"]),
            json!(["type", "\u{10}\u{11}"]),
            json!(["expect", "10 11"]),
            json!(["expect", "session ended (exit 3)"]),
            json!(["end", 1]),
        ];
        let args = ["start", "tester", "--headless", "--prompt", prompt];
        written(&person_in(&world, "keys", "24x80", "project", &args, &steps).wait().expect(0));
    }
}

#[test]
fn a_name_in_a_manifest_that_nothing_has_is_a_fault_and_not_a_limit_that_never_binds() {
    for world in World::each() {
        set_up(&world, "budget: {shll: 200k}\n");
        start(&world, "true").fails(2, "unknown_key", "`shll` is no provider", "did you mean `shell`?");
        let check = world.bb(&["manifest", "check"]).expect(2);
        assert!(check.stdout.contains("bottles/dev.md:3: `shll` is no provider"), "{check}");
        set_up(&world, "budget: {shell: 200k}\n");
        start(&world, "true").expect(0);
        world.write(world.bb_home().join("agents/tester.md"), "---\nbottle: dev\nskills: [absent]\n---\n");
        let check = world.bb(&["manifest", "check"]).expect(2);
        assert!(check.stdout.contains("there is no skill `absent`"), "{check}");
    }
}

#[test]
fn a_manifest_cannot_put_a_credential_into_the_bottle() {
    for world in World::each() {
        let route = "egress: {routes: [{host: docs.example, auth: {scheme: Bearer, token_ref: DOCS}}]}\n";
        set_up(&world, &format!("{route}env: {{SAME: \"${{ALSO}}\"}}\n"));
        let run = |also: &str| {
            let args = ["start", "tester", "--headless", "--prompt", "echo $SAME", "--budget", "unlimited"];
            let command = world.command(&args).cwd(world.home().join("project"));
            command.env("DOCS", "a-real-credential").env("ALSO", also).run()
        };
        let refused = run("a-real-credential");
        refused.fails(2, "usage", "`SAME` would put the credential ALSO into the bottle", "take it out");
        assert!(!refused.stderr.contains("a-real-credential"), "{refused}");
        assert_eq!(run("something else").expect(0).stdout, "something else\n");
        // The provider's own, whatever its value is.
        let front = "agent_provider: {template: claude}\nenv: {ANTHROPIC_API_KEY: \"${ANTHROPIC_API_KEY}\"}\n";
        world.write(world.bb_home().join("bottles/dev.md"), format!("---\n{front}---\n"));
        let claude = world.command(&["start", "tester", "--dry-run"]).env("ANTHROPIC_API_KEY", "sk-ant-api03-x");
        claude.cwd(world.home().join("project")).run().fails(2, "usage", "ANTHROPIC_API_KEY", "placeholder");
    }
}

#[test]
fn a_mount_below_the_agents_home_is_there_and_what_may_not_be_shown_is_refused_before_anything_starts() {
    for world in World::each() {
        let data = world.make_dir("data");
        world.write(data.join("f"), "shown\n");
        set_up(&world, &format!("mounts: [{{source: {}, target: ~/data}}]\n", data.display()));
        assert_eq!(start(&world, "cat ~/data/f").expect(0).stdout, "shown\n");
        set_up(&world, &format!("mounts: [{}]\n", world.bb_home().display()));
        let args = ["start", "tester", "--dry-run"];
        let dry = world.command(&args).cwd(world.home().join("project")).run();
        dry.fails(5, "workspace_unsafe", "dev.md:3", "directory of its own");
    }
}

#[test]
fn a_dry_run_starts_no_controller_also_where_there_was_one() {
    for world in World::each() {
        set_up(&world, "");
        world.settings("budget: {shell: 40k}\n");
        start(&world, "true").expect(0);
        world.bb(&["controller", "stop"]).expect(0);
        let before = tree(&world.bb_home());
        let dry = world.command(&["start", "tester", "--dry-run"]).cwd(world.home().join("project")).run().expect(0);
        assert!(dry.stderr.contains("global for shell: 40,000 tokens, 40,000 left"), "{dry}");
        assert!(world.controller_pid().is_none(), "{dry}");
        assert_eq!(tree(&world.bb_home()), before);
    }
}

#[test]
fn a_command_of_ones_own_stands_behind_the_dashes() {
    for world in World::each() {
        set_up(&world, "");
        world.write(world.bb_home().join("bottles/dev.md"), "---\nagent_provider: {template: command}\n---\n");
        let run = |args: &[&str]| {
            let start = ["start", "tester", "--headless", "--prompt", "the task", "--"];
            world.command(&[&start[..], args].concat()).cwd(world.home().join("project")).run()
        };
        assert_eq!(run(&["printf", "%s.", "{prompt}", "more"]).expect(0).stdout, "the task.more.");
        let none = run(&[]);
        assert!(none.code == 2 && none.stderr.contains("needs a command"), "{none}");
    }
}

#[test]
fn an_agent_of_a_repository_that_chooses_its_bottle_is_named() {
    for world in World::each() {
        set_up(&world, "");
        world.write(world.home().join("project/.bot-bottle/agents/helper.md"), "---\nbottle: dev\n---\n");
        let run = |more: &[&str]| {
            let args = ["start", "helper", "--headless", "--prompt", "true"];
            world.command(&[&args[..], more].concat()).cwd(world.home().join("project")).run().expect(0)
        };
        assert!(run(&[]).stderr.contains("agent helper of this repository chose the bottle dev itself"));
        assert!(!run(&["--bottle", "dev"]).stderr.contains("itself"));
    }
}

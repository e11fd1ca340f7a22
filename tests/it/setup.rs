//! `bb setup`: what it writes for the agent CLIs that are on PATH, that it can be read by people and by bb, and that it never
//! writes over anything. A CLI on PATH is enough to be found; none is run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::World;

/// Makes a directory of programs of these names, and gets a PATH with it.
fn path_with(world: &World, dir: &str, names: &[&str]) -> String {
    let bin = world.make_dir(dir);
    for name in names {
        let program = world.write(bin.join(name), format!("#!/bin/sh\necho \"{name} $*\"\n"));
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    }
    format!("{}:/usr/bin:/bin", bin.display())
}

/// Gets the names of the files in a directory, sorted.
fn files(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every key that holds has a comment above it that explains it.
#[track_caller]
fn explains_its_keys(file: &Path, keys: &[&str]) {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut seen = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((key, _)) =
            line.split_once(':').filter(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        else {
            continue;
        };
        assert!(at > 0 && lines[at - 1].starts_with("# "), "{key} in {}:\n{text}", file.display());
        seen.push(key);
    }
    assert_eq!(seen, keys, "{}:\n{text}", file.display());
}

#[test]
fn setup_writes_for_each_cli_on_path_and_for_no_other() {
    for world in World::each() {
        let known = [
            ("claude", "Claude Code", "ANTHROPIC_API_KEY"),
            ("codex", "Codex", "OPENAI_API_KEY"),
            ("gemini", "Gemini CLI", "GEMINI_API_KEY"),
            ("pi", "Pi", "ANTHROPIC_API_KEY"),
        ];
        let project = world.make_dir("project");
        for (number, found) in
            [&["codex"][..], &["gemini"], &["pi"], &["pi", "codex"], &["gemini", "pi", "claude", "codex"]]
                .iter()
                .enumerate()
        {
            let path = path_with(&world, &format!("tools-{number}"), found);
            let home = world.home().join(format!("home-{number}"));
            let bb = |args: &[&str]| {
                let command = world.command(args).cwd(&project).env("BB_HOME", home.display().to_string());
                command.env("PATH", path.clone())
            };
            let output = bb(&["setup"]).run().expect(0);
            let expected: Vec<_> = known.iter().filter(|(name, ..)| found.contains(name)).collect();
            let written: Vec<String> = expected.iter().map(|(name, ..)| format!("{name}.md")).collect();
            assert_eq!(
                (files(&home.join("bottles")), files(&home.join("agents"))),
                (written.clone(), written),
                "{output}"
            );
            assert_eq!(output.stdout.lines().count(), 1 + 2 * found.len(), "a line a file: {output}");
            for (name, title, _) in &expected {
                let at = format!("found {title}: {}", world.home().join(format!("tools-{number}/{name}")).display());
                assert!(output.stderr.contains(&at), "{at}: {output}");
            }
            assert!(output.stderr.contains(&format!("next: bb start {}, or ", expected[0].0)), "{output}");
            // A hard budget for each of them, and nobody else's.
            let settings = fs::read_to_string(home.join("settings.yml")).unwrap();
            let budgets: Vec<&str> = settings.lines().filter(|line| line.contains("tokens: ")).collect();
            let wanted: Vec<String> =
                expected.iter().map(|(name, ..)| format!("  {name}: {{tokens: 5M, hard: true}}")).collect();
            assert_eq!(budgets, wanted, "{settings}");
            explains_its_keys(&home.join("settings.yml"), &["budget", "shutdown"]);
            bb(&["manifest", "check"]).run().expect(0);
            for (name, _, variable) in &expected {
                let (bottle, agent) = (format!("bottles/{name}.md"), format!("agents/{name}.md"));
                explains_its_keys(&home.join(&bottle), &["agent_provider", "budget"]);
                explains_its_keys(&home.join(&agent), &["bottle"]);
                for file in [&bottle, &agent] {
                    bb(&["manifest", "check", &home.join(file).display().to_string()]).run().expect(0);
                }
                let shown = bb(&["start", name, "--dry-run"]).env(variable, "sk-x").run().expect(0);
                let left = format!("global for {name}: 5,000,000 tokens, 5,000,000 left, hard");
                assert!(shown.stderr.contains(&left), "{shown}");
                // What stands there as an example holds as soon as it is no comment.
                let path = home.join(&bottle);
                let text = fs::read_to_string(&path).unwrap();
                let (before, example) = text.split_once("# egress:\n").unwrap();
                let (example, after) = example.split_once("\n\n").unwrap();
                let example = example.replace("# ", "");
                world.write(&path, format!("{before}egress:\n{example}\n\n{after}"));
                bb(&["manifest", "check", &path.display().to_string()]).run().expect(0);
                let rows = bb(&["manifest", "show", name, "--effective"]).run().expect(0);
                assert!(rows.stdout.contains("docs.rs") && rows.stdout.contains("api.github.com"), "{rows}");
            }
        }
        // Without any there is nothing to write.
        let home = world.home().join("home-none").display().to_string();
        let none = world.command(&["setup"]).env("PATH", "/nowhere").env("BB_HOME", &home).run();
        none.fails(5, "agent_missing", "in PATH", "npm install");
        assert!(none.stdout.is_empty() && !Path::new(&home).join("settings.yml").exists(), "{none}");
        assert!(world.controller_pid().is_none(), "nothing was started");
    }
}

#[test]
fn setup_writes_what_a_first_start_needs_and_never_over_what_is_there() {
    for world in World::each() {
        let path = path_with(&world, "tools", &["claude"]);
        let setup = |args: &[&str]| world.command(&[&["setup"], args].concat()).env("PATH", path.clone()).run();
        let dry = setup(&["--dry-run"]).expect(0);
        assert!(dry.stdout.contains("would write"), "{dry}");
        assert!(!world.bb_home().join("settings.yml").exists());
        setup(&[]).expect(0);
        let settings = fs::read_to_string(world.bb_home().join("settings.yml")).unwrap();
        assert!(settings.contains("claude: {tokens: 5M, hard: true}"), "{settings}");
        let bottle = fs::read_to_string(world.bb_home().join("bottles/claude.md")).unwrap();
        assert!(
            bottle.contains("ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN or the login of Claude Code,\n"),
            "{bottle}"
        );
        world.bb(&["manifest", "check"]).expect(0);
        let show = world.command(&["start", "claude", "--dry-run"]).env("PATH", path.clone());
        let project = world.make_dir("project");
        let show = show.env("ANTHROPIC_API_KEY", "sk-x").cwd(&project).run().expect(0);
        assert!(show.stderr.contains("global for claude: 5,000,000 tokens, 5,000,000 left, hard"), "{show}");
        // Again: nothing is written over.
        world.write(world.bb_home().join("settings.yml"), "budget: {claude: 1}\n");
        let again = setup(&[]).expect(0);
        assert!(again.stderr.contains("everything is there already"), "{again}");
        assert_eq!(fs::read_to_string(world.bb_home().join("settings.yml")).unwrap(), "budget: {claude: 1}\n");
        // One that launches nothing is kept as well, and said.
        world.write(world.bb_home().join("settings.yml"), "budget: {claud: 1}\n");
        setup(&[]).fails(2, "unknown_key", "settings.yml:1", "did you mean `claude`");
        world.write(world.bb_home().join("settings.yml"), "budget: [\n");
        setup(&[]).fails(2, "usage", "settings.yml:", "bb setup again");
        let none = world.command(&["setup"]).env("PATH", "/nowhere").run();
        none.fails(5, "agent_missing", "in PATH", "npm install");
    }
}

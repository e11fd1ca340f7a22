//! `bb manifest`: every fault at once, and what the files come to. No controller is needed for either.

use std::fs;

use crate::support::World;

fn manifest(world: &World, path: &str, front: &str) {
    let path = world.home().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    world.write(path, format!("---\n{front}---\nText.\n"));
}

#[test]
fn every_fault_of_every_file_is_a_line_that_an_editor_understands() {
    for world in World::each() {
        let home = world.bb_home().display().to_string();
        manifest(&world, &format!("{home}/bottles/dev.md"), "extends: base\nbudget: 0.5\negres: {}\n");
        manifest(&world, &format!("{home}/bottles/base.md"), "env: {TZ: UTC}\n");
        manifest(&world, &format!("{home}/agents/tester.md"), "bottle: dve\n");
        let output = world.bb(&["manifest", "check"]).expect(2);
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert_eq!(lines.len(), 3, "{output}");
        let at = |file: &str| format!("{home}/{file}");
        assert!(lines[0].starts_with(&at("bottles/dev.md:3: `0.5` is not a whole number of tokens (")), "{output}");
        assert!(lines[1].starts_with(&at("bottles/dev.md:4: unknown key `egres` (did you mean `egress`?")), "{output}");
        assert!(
            lines[2].starts_with(&at("agents/tester.md:2: there is no bottle manifest `dve` (did you mean `dev`?"))
        );
        assert!(output.stderr.contains("3 manifests, 3 faults"), "{output}");
        let json = world.bb(&["manifest", "check", "--json"]).expect(2).json();
        assert_eq!(
            (json.len(), &json[1]["kind"], &json[3]["faults"]),
            (4, &"unknown_key".into(), &3.into()),
            "{json:?}"
        );
        // One file alone.
        let file = world.bb_home().join("bottles/base.md").display().to_string();
        world.bb(&["manifest", "check", &file]).expect(0);
        world.bb(&["manifest", "check", "/etc/passwd"]).fails(2, "usage", "/etc/passwd", "name a file in");
        // A launch of it would say the same.
        world.bb(&["manifest", "show", "tester"]).fails(2, "usage", "tester.md:2", "did you mean `dev`");
        assert!(world.controller_pid().is_none(), "nothing was started");
    }
}

#[test]
fn what_a_file_names_and_nothing_has_is_among_its_faults_whether_it_is_named_or_not() {
    for world in World::each() {
        let home = world.bb_home().display().to_string();
        let at = |file: &str| format!("{home}/{file}");
        manifest(
            &world,
            &at("bottles/dev.md"),
            "extends: gone\nagent_provider: {template: cluade}\nbudget: {claud: 5}\n",
        );
        // What cannot be read of a file keeps nothing else of it from being looked at.
        manifest(&world, &at("bottles/odd.md"), "egres: {}\nbudget: {claud: 5, gemini: 1}\nextends: [odd, Base]\n");
        manifest(&world, &at("bottles/base.md"), "env: {TZ: UTC}\nbudget: {codex: 1M}\n");
        manifest(&world, &at("agents/tester.md"), "bottle: dve\nskills: [absent]\nbudget: {codx: 1}\n");
        // Its bottle is chosen when it is started; the rest of it is known now.
        manifest(
            &world,
            &at("agents/free.md"),
            "skills: [house-style, none]\nbudget: {pii: 2, pi: 1}\nmodel: sonnet\n",
        );
        manifest(&world, &at("agents/sound.md"), "bottle: base\nskills: [house-style]\nbudget: {codex: 1, \"*\": 3}\n");
        manifest(&world, &at("agents/names.md"), "bottle: \"foo bar\"\nskills: [../escape]\n");
        world.make_dir(world.bb_home().join("skills/house-style"));
        let expected: [(&str, &[&str]); 7] = [
            ("bottles/base.md", &[]),
            (
                "bottles/dev.md",
                &[
                    ":2: there is no bottle manifest `gone` (there are: base, dev, odd)",
                    ":3: `cluade` is no provider (did you mean `claude`?)",
                    ":4: `claud` is no provider (did you mean `claude`?)",
                ],
            ),
            (
                "bottles/odd.md",
                &[
                    ":2: unknown key `egres` (did you mean `egress`? ",
                    ":3: `claud` is no provider (did you mean `claude`?)",
                    ":4: `Base` is not a name (a name begins with a letter ",
                ],
            ),
            (
                "agents/free.md",
                &[":2: there is no skill `none` (make the directory ", ":3: `pii` is no provider (did you mean `pi`?)"],
            ),
            (
                "agents/names.md",
                &[":2: `foo bar` is not a name (a name begins", ":3: `../escape` is not a name (a name begins"],
            ),
            ("agents/sound.md", &[]),
            (
                "agents/tester.md",
                &[
                    ":2: there is no bottle manifest `dve` (did you mean `dev`? ",
                    ":3: there is no skill `absent` (make the directory ",
                    ":4: `codx` is no provider (did you mean `codex`?)",
                ],
            ),
        ];
        let all: Vec<String> =
            expected.iter().flat_map(|(file, faults)| faults.iter().map(|fault| at(file) + fault)).collect();
        let same = |output: &crate::support::Output, expected: &[String]| {
            let lines: Vec<&str> = output.stdout.lines().collect();
            assert_eq!(lines.len(), expected.len(), "{output}");
            for (line, expected) in lines.iter().zip(expected) {
                assert!(line.starts_with(expected.as_str()), "{expected}: {output}");
            }
        };
        let whole = world.bb(&["manifest", "check"]).expect(2);
        same(&whole, &all);
        assert!(whole.stderr.contains("7 manifests, 13 faults"), "{whole}");
        for (file, faults) in expected {
            let output = world.bb(&["manifest", "check", &at(file)]);
            let faults: Vec<String> = faults.iter().map(|fault| at(file) + fault).collect();
            assert_eq!(output.code, if faults.is_empty() { 0 } else { 2 }, "{output}");
            same(&output, &faults);
        }
        // A start says the same as the check, and begins nothing.
        let start = |agent: &str| world.bb(&["start", agent, "--headless", "--prompt", "x", "--budget", "unlimited"]);
        start("tester").fails(2, "usage", "tester.md:2", "did you mean `dev`");
        let named = start("names").expect(2);
        assert!(named.stderr.contains("`foo bar` is not a name") && named.stderr.contains("`../escape`"), "{named}");
        start("../escape").fails(2, "usage", "there is no agent `../escape`", "there are: ");
        // Of a file that belongs to no home, names are looked up in this one.
        manifest(&world, "elsewhere/agents/far.md", "bottle: base\nskills: [absent]\n");
        let far = world.home().join("elsewhere/agents/far.md").display().to_string();
        let output = world.bb(&["manifest", "check", &far]).expect(2);
        assert!(output.stdout.contains("far.md:3: there is no skill `absent`"), "{output}");
        assert!(output.stdout.lines().count() == 1 && output.stderr.contains("1 manifest, 1 fault"), "{output}");
        // What a file is made of is part of it.
        manifest(&world, &at("bottles/first.md"), "extends: second\n");
        manifest(&world, &at("bottles/second.md"), "extends: first\n");
        let output = world.bb(&["manifest", "check", &at("bottles/first.md")]).expect(2);
        assert!(output.stdout.contains("second.md:2: bottle manifests extend each other in a circle: "), "{output}");
        assert!(world.controller_pid().is_none(), "nothing was started");
    }
}

#[test]
fn what_holds_is_shown_with_the_file_that_says_so_and_a_repository_adds_agents_only() {
    for world in World::each() {
        let home = world.bb_home().display().to_string();
        manifest(&world, &format!("{home}/bottles/base.md"), "env: {TZ: UTC, A: base}\negress: {routes: [docs.rs]}\n");
        manifest(&world, &format!("{home}/bottles/dev.md"), "extends: base\nenv: {A: dev}\nbudget: 200k\n");
        manifest(&world, "project/.bot-bottle/agents/helper.md", "bottle: dev\n");
        manifest(&world, "project/.bot-bottle/agents/greedy.md", "bottle: dev\nbudget: unlimited\n");
        manifest(&world, "project/.bot-bottle/bottles/dev.md", "egress: {routes: [evil.example]}\n");
        let show = |args: &[&str]| world.command(args).cwd(world.home().join("project")).run();
        let output = show(&["manifest", "show", "helper", "--effective", "--json"]).expect(0);
        let rows = output.json();
        let row = |key: &str| {
            let row = rows.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("no {key}: {output}"));
            (row["value"].as_str().unwrap().to_owned(), row["from"].as_str().unwrap().to_owned())
        };
        assert_eq!(row("env.A"), ("dev".into(), format!("{home}/bottles/dev.md:3")));
        assert_eq!(row("env.TZ"), ("UTC".into(), format!("{home}/bottles/base.md:2")));
        assert_eq!(row("budget.bottle.dev"), ("200000".into(), format!("{home}/bottles/dev.md:4")));
        assert!(row("egress.routes.docs.rs").0.starts_with("everything"), "{output}");
        assert!(!output.stdout.contains("evil.example"), "{output}");
        assert!(output.stderr.contains(".bot-bottle/bottles counts for nothing"), "{output}");
        let files = show(&["manifest", "show", "helper"]).expect(0).stdout;
        let names: Vec<_> = files.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(names, ["base", "dev", "helper"], "{files}");
        show(&["manifest", "show", "greedy"]).fails(2, "usage", "greedy.md:3", "$BB_HOME/agents");
        show(&["manifest", "show", "helpr"]).fails(2, "usage", "helpr", "did you mean `helper`");
    }
}

//! Sessions that outlive their bottle: frozen or failed, and taken up again under today's manifests.

use std::fs;
use std::time::Duration;

use crate::support::{Output, Running, World, have_tools};

/// A provider whose agent keeps its session in its home, and a log in the workspace. Resumed, it says what it remembers.
const KEEPER: &str = r#"return {
  name = "keeper",
  argv = function(ctx)
    local script = "mkdir -p ~/.keeper; "
    if ctx.resume then
      script = script .. "echo remembers $(cat ~/.keeper/session); "
    end
    return { "sh", "-c", script .. (ctx.prompt or "exec sh") }
  end,
  transcript = { "~/.keeper" },
  resumes = true,
}"#;

pub(crate) fn set_up(world: &World, bottle: &str) {
    world.write(world.bb_home().join("providers/keeper.lua"), KEEPER);
    let home = world.bb_home();
    world.write(home.join("bottles/dev.md"), format!("---\nagent_provider: {{template: keeper}}\n{bottle}---\n"));
    world.write(home.join("agents/worker.md"), "---\nbottle: dev\n---\n");
    world.make_dir("project");
}

fn bb(world: &World, args: &[&str]) -> Output {
    world.command(args).cwd(world.home().join("project")).run()
}

/// Starts a worker that has begun its session and goes on until it is ended.
fn at_work(world: &World) -> Running<'_> {
    let prompt = "echo began > ~/.keeper/session; echo draft > notes; echo up; sleep 600 & wait";
    let args = ["start", "worker", "--headless", "--prompt", prompt];
    let running = world.command(&args).cwd(world.home().join("project")).spawn();
    running.says("up");
    running
}

fn kept(world: &World) -> Vec<String> {
    let all = world.bb(&["ps", "--all", "--json"]).expect(0).json();
    let kept = all.iter().filter(|bottle| bottle["kept"] == true);
    kept.map(|bottle| bottle["slug"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_frozen_bottle_is_taken_up_with_its_session_and_its_files_under_todays_manifests() {
    for world in World::each() {
        set_up(&world, "env: {TZ: UTC}\n");
        let first = at_work(&world);
        let frozen = world.bb(&["freeze", "work"]).expect(0);
        assert!(frozen.stdout.contains("worker  frozen; bb resume worker"), "{frozen}");
        let ended = first.wait();
        assert_eq!(ended.code, 0, "{ended}");
        assert!(ended.stderr.contains("frozen") && ended.stderr.contains("bb resume worker"), "{ended}");
        assert!(ended.stderr.contains("session frozen\nsession ended (exit 0)\n"), "{ended}");
        assert_eq!(kept(&world), ["worker"]);
        // Its name is taken while it is kept.
        let other = bb(&world, &["start", "worker", "--headless", "--prompt", "true"]).expect(0);
        assert!(other.stderr.contains("bottle worker-2\n"), "{other}");

        // What is different is said, and holds.
        let home = world.bb_home();
        world.write(
            home.join("bottles/dev.md"),
            "---\nagent_provider: {template: keeper}\nenv: {TZ: UTC}\negress: {routes: [docs.example]}\n---\n",
        );
        let dry = bb(&world, &["resume", "worker", "--dry-run"]).expect(0);
        assert!(dry.stderr.contains("since it was started, route: now docs.example"), "{dry}");
        assert_eq!(kept(&world), ["worker"], "a dry run takes nothing");
        let resume = ["resume", "worker", "--headless", "--prompt", "cat notes; echo more >> notes; exit 4"];
        let output = bb(&world, &resume).expect(1);
        assert_eq!(output.stdout, "remembers began\ndraft\n", "{output}");
        assert!(output.stderr.contains("bottle worker\n"), "it has its name again: {output}");
        // It failed, so it is kept once more; ended well, it is not.
        let done = bb(&world, &["resume", "worker", "--headless", "--prompt", "cat notes; rm notes"]).expect(0);
        assert_eq!(done.stdout, "remembers began\ndraft\nmore\n", "{done}");
        assert!(kept(&world).is_empty(), "{done}");
        let over = bb(&world, &["resume", "worker", "--headless"]);
        assert_eq!(over.code, 2, "{over}");
    }
}

#[test]
fn a_session_is_kept_where_it_failed_and_not_where_it_ended_well_or_was_killed() {
    for world in World::each() {
        set_up(&world, "");
        let begins = "echo began > ~/.keeper/session; ";
        let run = |label: &str, script: &str, more: &[&str]| {
            let prompt = format!("{begins}{script}");
            let args = ["start", "worker", "--headless", "--label", label, "--prompt", &prompt];
            bb(&world, &[&args[..], more].concat())
        };
        run("well", "true", &[]).expect(0);
        let failed = run("failed", "exit 9", &[]).expect(1);
        assert!(failed.stderr.contains("to take it up again: bb resume failed"), "{failed}");
        run("late", "sleep 600", &["--timeout", "2s"]).expect(124);
        let first = at_work(&world);
        world.bb(&["kill", "worker"]).expect(0);
        first.wait();
        assert_eq!(kept(&world), ["failed", "late", "worker"], "of the one that was killed the file it wrote is left");
        bb(&world, &["resume", "worker", "--headless"]).fails(2, "usage", "no session of `worker`", "bb freeze");
        world.bb(&["rm", "failed"]).expect(0);
        bb(&world, &["resume", "failed", "--headless"]).fails(2, "no_such_bottle", "failed", "bb ps --all");
        bb(&world, &["resume", "failed"]).fails(2, "no_such_bottle", "failed", "bb ps --all");
        world.bb(&["exec", "failed", "--", "true"]).fails(2, "no_such_bottle", "nothing of it is left", "bb ps --all");
        // Committed, it is kept whatever end it comes to.
        world.bb(&["rm", "worker"]).expect(0);
        let first = at_work(&world);
        world.bb(&["commit", "worker", "--image", "x"]).fails(2, "usage", "no container", "--image");
        let said = world.bb(&["commit", "worker"]).expect(0);
        assert!(said.stdout.contains("worker  is kept when it ends"), "{said}");
        world.bb(&["kill", "worker"]).expect(0);
        assert!(first.wait().stderr.contains("to take it up again: bb resume worker"));
        let again = bb(&world, &["resume", "worker", "--headless", "--prompt", "cat notes; rm notes"]).expect(0);
        assert_eq!(again.stdout, "remembers began\ndraft\n", "{again}");
        assert_eq!(kept(&world), ["late"], "that was a good end");
        // A bottle of a recipe has none.
        let recipe = "--- @bb needs launch\nlocal b = bb.launch{command = {\"sleep\", \"600\"}, label = \"plain\", budget = \"unlimited\"}\n\
            print(bb.try(b.freeze, b))\nprint(select(2, bb.try(b.freeze, b)).kind)\nbb.exit(0)\n";
        let output = world.bb(&["run", "--grant", "all", &world.recipe("plain.lua", recipe)]).expect(0);
        assert!(output.stdout.ends_with("usage\n"), "{output}");
    }
}

#[test]
fn what_is_missing_at_a_resume_is_said_and_what_is_kept_stays() {
    for world in World::each() {
        set_up(&world, "");
        let first = at_work(&world);
        bb(&world, &["resume", "worker", "--headless"]).fails(2, "usage", "`worker` runs", "bb attach worker");
        world.bb(&["freeze", "worker"]).expect(0);
        first.wait();
        let resume = || world.command(&["resume", "worker", "--headless", "--prompt", "true"]).run();
        let agent = world.bb_home().join("agents/worker.md");
        let (text, away) = (fs::read(&agent).unwrap(), world.home().join("away"));
        fs::remove_file(&agent).unwrap();
        resume().fails(2, "usage", "no agent `worker`", "put it back");
        world.write(&agent, &text);
        fs::rename(world.home().join("project"), &away).unwrap();
        resume().fails(5, "workspace_unsafe", "project", "put the directory back");
        fs::create_dir(world.home().join("project")).unwrap();
        std::os::unix::fs::chown(world.home().join("project"), Some(world.uid()), None).unwrap();
        resume().fails(5, "workspace_unsafe", "project", "put the directory back");
        assert_eq!(kept(&world), ["worker"]);
        fs::remove_dir(world.home().join("project")).unwrap();
        fs::rename(&away, world.home().join("project")).unwrap();
        let output = resume().expect(0);
        assert_eq!(output.stdout, "remembers began\n", "{output}");
    }
}

#[test]
fn a_bottle_that_died_with_its_keeper_or_under_a_freeze_can_be_taken_up() {
    for world in World::each() {
        set_up(&world, "");
        let first = at_work(&world);
        for pid in world.keepers() {
            crate::support::signal(pid, nix::sys::signal::SIGKILL);
        }
        let ended = first.wait();
        assert!(ended.code == 1 && ended.stderr.contains("bb resume worker"), "{ended}");
        let again = bb(&world, &["resume", "worker", "--headless", "--prompt", "true"]).expect(0);
        assert_eq!(again.stdout, "remembers began\n");
        world.bb(&["rm", "worker"]).expect(0);
        // The controller dies with the keeper; the next one finds what is left.
        let first = at_work(&world);
        world.kill_controller();
        for pid in world.keepers() {
            crate::support::signal(pid, nix::sys::signal::SIGKILL);
        }
        first.wait();
        // What the launch's lease is given to come back, which is ten seconds, and what it takes to look then.
        let found = world.until(Duration::from_secs(20), || kept(&world) == ["worker"]);
        assert!(found, "{:?}", kept(&world));
        let again = bb(&world, &["resume", "worker", "--headless", "--prompt", "cat notes"]).expect(0);
        assert_eq!(again.stdout, "remembers began\ndraft\n", "{again}");
        world.bb(&["prune", "--yes"]).expect(0);
        assert!(kept(&world).is_empty());
    }
}

#[test]
fn a_budget_that_is_spent_freezes_its_bottle_where_a_manifest_says_so() {
    for world in World::each() {
        // The demo agent keeps no session of its own; this one's provider says that it does.
        let demo = include_str!("../../lua/providers/demo.lua").replace("name = \"demo\"", "name = \"keeper\"");
        let demo = demo.replacen("  exe = ", "  transcript = { \"~/.keeper\" },\n  resumes = true,\n  exe = ", 1);
        set_up(&world, "budget: 5\nshutdown: freeze\n");
        world.write(world.bb_home().join("providers/keeper.lua"), demo);
        let args = ["start", "worker", "--headless", "--prompt", "Work", "--rehearse"];
        let output = bb(&world, &args).expect(3);
        assert!(output.stderr.contains("frozen") && output.stderr.contains("bb resume worker"), "{output}");
        assert!(output.stderr.contains("session ended (exit 3)\n"), "the code of the command: {output}");
        let again = bb(&world, &["resume", "worker", "--headless", "--rehearse", "--budget", "unlimited"]).expect(0);
        assert!(again.stdout.contains("Done."), "{again}");
    }
}

/// A provider whose agent asks its model once and fails.
fn spender() -> String {
    let demo = include_str!("../../lua/providers/demo.lua").replace("name = \"demo\"", "name = \"keeper\"");
    let (head, rest) = demo.split_once("  argv = ").unwrap();
    let (_, rest) = rest.split_once("\n  end,\n").unwrap();
    let body =
        r#"{\"model\":\"claude-sonnet-4-5\",\"max_tokens\":50,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}"#;
    let ask = "curl -sS -o /dev/null -H 'content-type: application/json' https://api.anthropic.com/v1/messages";
    let script = format!("mkdir -p ~/.keeper; echo x >> ~/.keeper/session; {ask} -d '{body}'; exit 1");
    format!(
        "{head}  transcript = {{ \"~/.keeper\" }},\n  resumes = true,\n  argv = function() return {{ \"sh\", \"-c\", \"{script}\" }} end,\n{rest}"
    )
}

#[test]
fn what_a_launch_gave_its_bottle_counts_on_when_it_is_taken_up_and_a_new_amount_begins_anew() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        set_up(&world, "budget: {keeper: 50k}\n");
        world.write(world.bb_home().join("providers/keeper.lua"), spender());
        let start = ["start", "worker", "--headless", "--prompt", "x", "--rehearse", "--budget", "40k"];
        bb(&world, &start).expect(1);
        let left = |whose: &str, args: &[&str]| {
            let shown = bb(&world, &[&["resume", "worker", "--rehearse", "--dry-run"], args].concat()).expect(0);
            let line = shown.stderr.lines().find(|line| line.contains(whose));
            let line = line.unwrap_or_else(|| panic!("{whose}: {shown}"));
            line.split(", ").nth(1).unwrap().split(' ').next().unwrap().replace(',', "").parse::<u64>().unwrap()
        };
        let first = left("this bottle: ", &[]);
        assert!(0 < first && first < 40_000, "{first}");
        let cost = 40_000 - first;
        bb(&world, &["resume", "worker", "--headless", "--rehearse"]).expect(1);
        assert_eq!(left("this bottle: ", &[]), 40_000 - 2 * cost, "it goes on with what is left");
        bb(&world, &["resume", "worker", "--headless", "--rehearse", "--budget", "40k"]).expect(1);
        assert_eq!(left("this bottle: ", &[]), 40_000 - cost, "a new amount begins anew");
        assert_eq!(left("bottle manifest dev", &[]), 50_000 - 3 * cost, "and what a manifest gives does not");
        // Where nothing is left it is not taken up.
        world.write(
            world.bb_home().join("bottles/dev.md"),
            format!(
                "---\nagent_provider: {{template: keeper}}\nbudget: {{keeper: {{tokens: {cost}, hard: true}}}}\n---\n"
            ),
        );
        let spent = bb(&world, &["resume", "worker", "--headless", "--rehearse"]);
        spent.fails(3, "budget", "bottle manifest dev", "what it has spent counts on");
        assert_eq!(kept(&world), ["worker"]);
    }
}

#[test]
fn a_cut_that_somebody_made_outlives_the_resume_until_it_is_lifted() {
    for world in World::each() {
        set_up(&world, "egress: {routes: [docs.example]}\n");
        let first = at_work(&world);
        world.bb(&["cut", "worker", "--reason", "it looked strange"]).expect(0);
        world.bb(&["freeze", "worker"]).expect(0);
        first.wait();
        let egress = |more: &[&str]| {
            let prompt =
                ["resume", "worker", "--headless", "--prompt", "echo up; until [ -e go ]; do sleep 0.1; done; exit 1"];
            let running = world.command(&[&prompt[..], more].concat()).cwd(world.home().join("project")).spawn();
            running.says("up");
            let bottle = world.bb(&["ps", "--json"]).expect(0).json().remove(0);
            world.bb(&["exec", "worker", "--", "touch", "go"]).expect(0);
            running.wait();
            world.bb(&["exec", "worker", "--", "true"]);
            (bottle["egress"].as_str().unwrap().to_owned(), bottle["reason"].as_str().map(str::to_owned))
        };
        assert_eq!(egress(&[]), ("cut".to_owned(), Some("it looked strange".to_owned())));
        // The file `go` lies in the layer that is taken up as well.
        let again = |more: &[&str]| {
            let args = ["resume", "worker", "--headless", "--prompt", "rm go; exit 1"];
            bb(&world, &[&args[..], more].concat()).expect(1)
        };
        again(&[]);
        assert_eq!(egress(&[]).0, "cut", "also the time after");
        again(&[]);
        assert_eq!(egress(&["--uncut"]), ("open".to_owned(), None));
    }
}

#[test]
fn a_spent_budget_stops_a_bottle_that_is_to_freeze_and_has_no_session() {
    for world in World::each() {
        set_up(&world, "budget: 5\nshutdown: freeze\n");
        let demo = include_str!("../../lua/providers/demo.lua").replace("name = \"demo\"", "name = \"keeper\"");
        world.write(world.bb_home().join("providers/keeper.lua"), demo);
        let dry = bb(&world, &["start", "worker", "--headless", "--prompt", "x", "--rehearse", "--dry-run"]).expect(0);
        assert!(dry.stderr.contains("freeze (it has no session to keep: it is stopped)"), "{dry}");
        let output = bb(&world, &["start", "worker", "--headless", "--prompt", "Work", "--rehearse"]).expect(3);
        assert!(output.stderr.contains("frozen") && !output.stderr.contains("bb resume"), "{output}");
        assert!(world.bb(&["ps", "--json"]).json().is_empty());
    }
}

#[test]
fn a_session_is_kept_when_its_front_end_is_interrupted() {
    for world in World::each() {
        set_up(&world, "");
        let first = at_work(&world);
        first.signal(nix::sys::signal::SIGINT);
        let ended = first.wait();
        assert_eq!(ended.code, 130, "{ended}");
        let kept =
            "error[interrupted]: stopped\nto take it up again: bb resume worker\nwhat it changed: bb diff worker";
        assert!(ended.stderr.contains(kept), "{ended}");
        let again = bb(&world, &["resume", "worker", "--headless", "--prompt", "true"]).expect(0);
        assert_eq!(again.stdout, "remembers began\n", "{again}");
    }
}

#[test]
fn a_beginning_that_fits_a_bottle_that_runs_and_one_that_is_kept_names_neither() {
    for world in World::each() {
        set_up(&world, "");
        let first = at_work(&world);
        world.bb(&["freeze", "worker"]).expect(0);
        let frozen = first.wait().expect(0);
        // The one code that is said is the command's own, not what the agent made of being asked to end.
        assert!(frozen.stderr.contains("session frozen\nsession ended (exit 0)\n"), "{frozen}");
        assert_eq!(frozen.stderr.matches("(exit").count(), 1, "{frozen}");
        let second = at_work(&world);
        for verb in [&["diff"][..], &["apply", "--yes"], &["rm"], &["inspect"], &["resume", "--headless"]] {
            let words: Vec<&str> = verb.iter().take(1).chain(&["work"]).chain(&verb[1..]).copied().collect();
            world.bb(&words).fails(2, "ambiguous_slug", "worker, worker-2", "write");
        }
        assert!(world.bb(&["diff", "worker", "--stat"]).expect(0).stdout.contains("notes"));
        world.bb(&["kill", "worker-2"]).expect(0);
        second.wait();
        for verb in ["pause", "thaw"] {
            world.bb(&[verb, "worker-2"]).fails(2, "usage", "`worker-2` does not run", "bb ps");
        }
        // Said twice, it removes nothing of the one that has its name with a number.
        assert_eq!(world.bb(&["rm", "worker"]).expect(0).stdout, "worker  removed\n");
        let again = world.bb(&["rm", "worker"]).expect(0);
        assert_eq!(again.stdout, "worker  was removed already: nothing is left of it\n");
        world.bb(&["diff", "worker"]).fails(2, "no_such_bottle", "there is worker-2", "whole name");
        assert!(world.bb(&["diff", "worker-2", "--stat"]).expect(0).stdout.contains("notes"));
        assert_eq!(world.bb(&["rm", "work"]).expect(0).stdout, "worker-2  removed\n");
    }
}

#[test]
fn of_two_resumes_at_once_one_gets_it_and_nothing_is_taken_from_under_it() {
    for world in World::each() {
        set_up(&world, "");
        let first = at_work(&world);
        world.bb(&["freeze", "worker"]).expect(0);
        first.wait();
        let project = world.home().join("project");
        let args =
            ["resume", "worker", "--headless", "--prompt", "echo up; until [ -e go ]; do sleep 0.1; done; cat notes"];
        let both = [world.command(&args).cwd(&project).spawn(), world.command(&args).cwd(&project).spawn()];
        // One runs, the other is told.
        let up = |running: &Running<'_>| running.stdout().contains("up");
        assert!(world.until(Duration::from_secs(20), || both.iter().any(up) && both.iter().any(Running::has_ended)));
        for command in [["rm", "worker"], ["prune", "--yes"]] {
            world.bb(&command);
        }
        world.bb(&["exec", "worker", "--", "touch", "go"]).expect(0);
        let mut ended: Vec<Output> = both.into_iter().map(Running::wait).collect();
        ended.sort_by_key(|output| output.code);
        assert_eq!((ended[0].code, ended[1].code), (0, 2), "{}\n{}", ended[0], ended[1]);
        assert_eq!(ended[0].stdout, "remembers began\nup\ndraft\n", "{}", ended[0]);
        assert!(ended[1].stderr.contains("`worker` runs"), "{}", ended[1]);
    }
}

#[test]
fn an_agent_that_does_not_heed_a_freeze_is_stopped_also_where_nobody_waits_for_it() {
    for world in World::each() {
        set_up(&world, "");
        let project = world.home().join("project");
        let prompt = "trap '' TERM; echo began > ~/.keeper/session; echo up; while :; do sleep 0.1; done";
        let first = world.command(&["start", "worker", "--headless", "--prompt", prompt]).cwd(&project).spawn();
        first.says("up");
        let freeze = world.spawn(&["freeze", "worker"]);
        // It has been asked for when the bottle says why it ends.
        let asked = || world.bb(&["ps", "--json"]).json().iter().any(|b| b["reason"] == "frozen by the operator");
        assert!(world.until(Duration::from_secs(10), asked));
        freeze.signal(nix::sys::signal::SIGKILL);
        let ended = first.wait();
        assert!(ended.stderr.contains("bb resume worker"), "{ended}");
        assert_eq!(kept(&world), ["worker"]);
    }
}

#[test]
fn what_an_agent_leaves_in_the_place_of_its_own_files_does_not_hold_up_its_next_start() {
    for world in World::each() {
        // A file of the provider's own lies in a place that is kept.
        let keeper = KEEPER
            .replace("  transcript", "  files = { { path = \"~/.keeper/settings\", text = \"own\" } },\n  transcript");
        set_up(&world, "");
        world.write(world.bb_home().join("providers/keeper.lua"), keeper);
        let plant = "rm ~/.keeper/settings; mkfifo ~/.keeper/settings; echo began > ~/.keeper/session; exit 1";
        bb(&world, &["start", "worker", "--headless", "--prompt", plant]).expect(1);
        let link = "cat ~/.keeper/settings; rm ~/.keeper/settings; ln -s ~/else ~/.keeper/settings; exit 1";
        let output = bb(&world, &["resume", "worker", "--headless", "--prompt", link]).expect(1);
        assert_eq!(output.stdout, "remembers began\nown", "{output}");
        let output = bb(&world, &["resume", "worker", "--headless", "--prompt", "cat ~/.keeper/settings; ls ~/else"]);
        assert!(output.stdout.ends_with("own") && output.stderr.contains("No such file"), "{output}");
    }
}

#[test]
fn a_controller_that_is_killed_under_a_freeze_or_a_resume_leaves_what_can_be_taken_up() {
    for world in World::each() {
        set_up(&world, "");
        let project = world.home().join("project");
        // It takes its time to end, so that there is a midst.
        let prompt =
            "trap 'sleep 1; exit 0' TERM; echo began > ~/.keeper/session; echo up; while :; do sleep 0.1; done";
        let first = world.command(&["start", "worker", "--headless", "--prompt", prompt]).cwd(&project).spawn();
        first.says("up");
        let freeze = world.spawn(&["freeze", "worker"]);
        let asked = || world.bb(&["ps", "--json"]).json().iter().any(|b| b["reason"] == "frozen by the operator");
        assert!(world.until(Duration::from_secs(10), asked));
        world.kill_controller();
        freeze.wait();
        first.wait();
        let found = world.until(Duration::from_secs(20), || kept(&world) == ["worker"]);
        assert!(found, "{:?}", world.bb(&["ps", "--all", "--json"]));
        // Again and again at another moment of a resume, which is what is being tried: it goes on, or it is what it was.
        let args = ["resume", "worker", "--headless", "--prompt", "echo up; exec sleep 600"];
        for millis in [5, 40, 120, 300] {
            let resume = world.command(&args).cwd(&project).spawn();
            std::thread::sleep(Duration::from_millis(millis));
            world.kill_controller();
            let runs = || world.bb(&["ps", "--json"]).json().iter().any(|b| b["state"] == "running");
            assert!(world.until(Duration::from_secs(20), || runs() || resume.has_ended()), "{}", resume.stderr());
            resume.signal(nix::sys::signal::SIGINT);
            resume.wait();
            let found = world.until(Duration::from_secs(20), || kept(&world) == ["worker"]);
            assert!(found, "after {millis} ms: {:?}", world.bb(&["ps", "--all", "--json"]));
        }
        let last = bb(&world, &["resume", "worker", "--headless", "--prompt", "true"]).expect(0);
        assert_eq!(last.stdout, "remembers began\n", "{last}");
        assert!(kept(&world).is_empty());
    }
}

#[test]
fn a_full_disk_below_a_session_is_said_at_its_end_and_what_is_kept_can_be_removed() {
    for world in crate::workspace::worlds() {
        set_up(&world, "");
        let state = world.make_dir(world.bb_home().join("state"));
        world.small(&state, 12 * 1024);
        let script = "echo draft > notes; head -c 64M /dev/zero > big && exit 0; exit 7";
        let ended = bb(&world, &["start", "worker", "--headless", "--label", "full", "--prompt", script]).expect(1);
        assert!(ended.stderr.contains("session ended (exit 7)"), "{ended}");
        assert!(ended.stderr.contains("/state/full is full: the last that it wrote"), "{ended}");
        assert_eq!(kept(&world), ["full"]);
        let changed = bb(&world, &["diff", "full", "--stat"]).expect(0).stdout;
        assert!(changed.contains("notes") && changed.contains("big"), "{changed}");
        bb(&world, &["rm", "full"]).expect(0);
        let free = ["start", "worker", "--headless", "--label", "free", "--prompt", "echo room > x && cat x"];
        let ended = bb(&world, &free).expect(0);
        assert!(ended.stdout == "room\n" && !ended.stderr.contains("is full"), "{ended}");
    }
}

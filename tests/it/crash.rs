//! The controller is killed, at any moment, as often as it may be: bottles live on without a way out, are taken up again,
//! and nothing is lost of their work or missing in the books.

use std::fs::{self, File, OpenOptions};
use std::time::Duration;

use crate::hammer;
use crate::looper::{self, CODE, KEY};
use crate::matched;
use crate::support::{World, reduced};

/// How long something may take that takes a second on an idle machine.
const LONG: Duration = Duration::from_secs(40);

#[test]
fn a_controller_killed_again_and_again_loses_nothing() {
    for world in World::each() {
        let (rehearsal, recipe) = looper::set_up(&world, looper::slow(300), &["looper"], "");
        let front = world.command(&["run", &recipe, "--", "2", "20"]).env("ANTHROPIC_API_KEY", KEY);
        let front = front.patience(Duration::from_secs(600)).spawn();
        front.says("all launched");
        let slugs = looper::launched(&front.stdout());
        let before = looper::inits(&world);
        assert_eq!(before.len(), 2, "{before:?}");
        looper::kill_again_and_again(&world, reduced(100, 12), |round| {
            assert!(!front.has_ended(), "after kill {round} the front end gave up: {}", front.stderr());
            assert_eq!(looper::inits(&world), before, "after kill {round}");
        });
        for slug in &slugs {
            looper::says_more(&world, slug, "served", 2, LONG);
        }
        assert_eq!(looper::inits(&world), before);
        looper::stop(&world, &slugs);
        let output = front.wait().expect(0);
        for slug in &slugs {
            let mine = format!("{slug}: ");
            let lines: Vec<_> =
                output.stdout.lines().filter_map(|l| l.strip_prefix(&mine)).map(str::to_owned).collect();
            assert!(looper::whole(&lines) > 2, "{output}");
            assert!(output.stdout.contains(&format!("ended {slug} exited {CODE} false")), "{output}");
        }
        looper::assert_books(&world, &rehearsal, false);
        world.assert_silent(&[]);
    }
}

/// Starts one detached bottle.
fn detached<'w>(world: &'w World, recipe: &str, patience: &str) -> String {
    let front = world.command(&["run", recipe, "--", "1", patience, "--detach"]).env("ANTHROPIC_API_KEY", KEY).run();
    let slug = looper::launched(&front.expect(0).stdout).remove(0);
    looper::says_more(world, &slug, "served", 1, LONG);
    slug
}

/// Kills the controller and takes its lock, so that no other one can come up.
fn shut_out(world: &World) -> File {
    let lock = OpenOptions::new().read(true).write(true).open(world.bb_home().join("run/controller.lock")).unwrap();
    assert!(world.until(LONG, || {
        world.kill_controller();
        lock.try_lock().is_ok()
    }));
    lock
}

#[test]
fn without_a_controller_a_bottle_has_no_way_out_and_its_keeper_starts_one() {
    for world in World::each() {
        let (rehearsal, recipe) = looper::set_up(&world, looper::slow(60), &["looper"], "");
        let slug = detached(&world, &recipe, "0.4");
        let before = looper::inits(&world);
        let lock = shut_out(&world);
        let (served, asked) = (looper::count(&world, &slug, "served"), rehearsal.stats().total);
        looper::says_more(&world, &slug, "failed", 4, LONG);
        assert_eq!(looper::count(&world, &slug, "served"), served, "{:?}", looper::said(&world, &slug));
        assert_eq!(rehearsal.stats().total, asked);
        assert_eq!(looper::inits(&world), before, "it lives");
        // Nobody but the keeper is there to start one.
        drop(lock);
        looper::says_more(&world, &slug, "served", 2, LONG);
        assert_eq!(looper::inits(&world), before);
        assert!(world.controller_pid().is_some());
        looper::stop(&world, std::slice::from_ref(&slug));
        let gone = world.until(LONG, || looper::inits(&world).is_empty());
        assert!(gone);
        let logs = world.bb(&["logs", &slug]).expect(0).stdout;
        assert!(looper::whole(&logs.lines().map(str::to_owned).collect::<Vec<_>>()) > 4, "{logs}");
        // Its processes are gone before its end is written.
        let ps = || world.bb(&["ps", "--all", "--json"]).expect(0).json();
        assert!(world.until(LONG, || ps()[0]["state"] == "ended"), "{:?}", ps());
        let ps = ps();
        assert_eq!(
            (ps[0]["ended"].as_str(), ps[0]["exit_code"].as_i64()),
            (Some("exited"), Some(i64::from(CODE))),
            "{ps:?}"
        );
        looper::assert_books(&world, &rehearsal, true);
        world.assert_silent(&[]);
    }
}

#[test]
fn a_bottle_is_taken_up_by_whoever_comes_first() {
    for world in World::each() {
        let (rehearsal, recipe) = looper::set_up(&world, looper::slow(60), &["looper"], "");
        let slug = detached(&world, &recipe, "20");
        let before = looper::inits(&world);
        // With this mark no keeper starts a controller; `bb ps` does.
        let stopped = world.bb_home().join("run/stopped");
        world.write(&stopped, "");
        world.kill_controller();
        let ps = world.bb(&["ps", "--json"]).expect(0).json();
        assert_eq!((ps[0]["slug"].as_str(), ps[0]["egress"].as_str()), (Some(slug.as_str()), Some("open")), "{ps:?}");
        looper::says_more(&world, &slug, "served", 2, LONG);

        // And so does a `bb run` that waits.
        let front = world.command(&["run", &recipe, "--", "1", "20"]).env("ANTHROPIC_API_KEY", KEY).spawn();
        front.says("all launched");
        let other = looper::launched(&front.stdout()).remove(0);
        world.write(&stopped, "");
        let killed = world.kill_controller();
        assert!(world.until(LONG, || world.controller_pid().is_some_and(|p| Some(p) != killed)));
        looper::says_more(&world, &other, "served", 2, LONG);
        looper::says_more(&world, &slug, "served", 2, LONG);
        let after = looper::inits(&world);
        assert!(before.iter().all(|pair| after.contains_key(pair.0)) && after.len() == 2, "{before:?} {after:?}");
        looper::stop(&world, &[slug, other.clone()]);
        let output = front.wait().expect(0);
        assert!(output.stdout.contains(&format!("ended {other} exited {CODE} false")), "{output}");
        // The detached one ends when it has seen the word, and what it has under way is in the books then.
        assert!(world.until(LONG, || world.keepers().is_empty()));
        looper::assert_books(&world, &rehearsal, false);
    }
}

#[test]
fn an_agent_that_ends_while_the_controller_dies_has_its_code_and_output_told() {
    for world in World::each() {
        let (rehearsal, recipe) = looper::set_up(&world, looper::slow(20), &["looper"], "");
        for round in 0..reduced(40, 6) {
            let front = world.command(&["run", &recipe, "--", "1", "20"]).env("ANTHROPIC_API_KEY", KEY).spawn();
            front.says("all launched");
            let slug = looper::launched(&front.stdout()).remove(0);
            looper::says_more(&world, &slug, "served", 1, LONG);
            let first = *looper::inits(&world).values().next().unwrap();
            looper::stop(&world, std::slice::from_ref(&slug));
            world.until(LONG, || !std::path::Path::new(&format!("/proc/{first}/ns/pid")).exists());
            // The moments after the end, one by one: they are what is being tried.
            std::thread::sleep(Duration::from_millis(round as u64 % 6 * 3));
            world.kill_controller();
            let output = front.wait();
            let lines: Vec<_> = output.stdout.lines().filter_map(|l| l.strip_prefix(&format!("{slug}: "))).collect();
            assert!(looper::whole(&lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>()) > 0, "{round}: {output}");
            assert!(output.stdout.contains(&format!("ended {slug} exited {CODE} false")), "round {round}: {output}");
        }
        looper::assert_books(&world, &rehearsal, false);
    }
}

#[test]
fn the_exit_code_of_an_agent_that_ends_as_the_controller_dies_is_not_lost() {
    const BOTTLES: usize = 8;
    for world in World::each() {
        let work = world.write("work/note", "").parent().unwrap().display().to_string();
        let recipe = world.recipe(
            "end.lua",
            &format!(
                "--- @bb needs launch, write:{work}\nlocal all = {{}}\nfor i = 1, {BOTTLES} do\n  all[i] = bb.launch {{ label = 'ends', \
                 workspace = '{work}', command = {{ '/bin/sh', '-c', 'until [ -e go ]; do sleep 0.01; done; exit 7' }} }}\nend\n\
                 print('all launched')\nfor _, b in ipairs(all) do\n  local o = b:wait()\n  print(o.ended, o.exit_code)\nend\n"
            ),
        );
        for round in 0..reduced(60, 6) {
            let front = world.command(&["run", "--grant", "all", &recipe]).spawn();
            front.says("all launched");
            // They end one after the other within some milliseconds, while the next controller comes up.
            world.kill_controller();
            // Each round at another moment: that is what is being tried.
            std::thread::sleep(Duration::from_millis(round as u64 * 7 % 20 * 3));
            world.write("work/go", "");
            let output = front.wait().expect(0);
            let ends: Vec<_> = output.stdout.lines().skip(1).collect();
            assert_eq!(ends, ["exited\t7"; BOTTLES], "round {round}: {output}");
            std::fs::remove_file(world.home().join("work/go")).unwrap();
        }
    }
}

#[test]
fn what_lies_among_the_states_of_bottles_and_is_none_is_left_alone() {
    for world in World::each() {
        world.bb(&["ps"]).expect(0);
        let state = world.bb_home().join("state");
        let elsewhere = world.make_dir("elsewhere");
        let mine = world.write("elsewhere/mine", "kept");
        for dir in [&state, &state.join("notes")] {
            world.write(dir.join("text"), "kept");
        }
        std::os::unix::fs::symlink(&elsewhere, state.join("linked")).unwrap();
        // Of a bottle, and of nobody any more: that is removed, so the others were looked at.
        world.write(state.join("left/placeholders.json"), "[]");
        world.kill_controller();
        world.bb(&["ps"]).expect(0);
        assert!(world.until(LONG, || !state.join("left").exists()));
        world.bb(&["prune", "--yes"]).expect(0);
        for kept in [state.join("text"), state.join("notes/text"), state.join("linked/mine"), mine] {
            assert_eq!(fs::read_to_string(&kept).unwrap(), "kept", "{}", kept.display());
        }
    }
}

#[test]
fn a_controller_killed_every_second_under_sixty_four_clients_counts_no_less_than_the_server() {
    for world in World::each() {
        let (rehearsal, recipe) = hammer::set_up(&world, "budget:\n  hammer: {tokens: 1000000000, hard: true}\n");
        let args = ["run", recipe.as_str(), "--", "32", "7"];
        let front = world.command(&args).env("ANTHROPIC_API_KEY", KEY).patience(Duration::from_secs(600)).spawn();
        front.says("all launched");
        let slugs = looper::launched(&front.stdout());
        looper::mark(&world, &slugs, "go");
        let mut last = None;
        // And more often, until enough was served meanwhile that there is something to compare.
        let served = || rehearsal.stats().requests.iter().filter(|request| request.terminal).count();
        let mut round = 0;
        while round < reduced(30, 5) || served() < 30 && round < 40 {
            let up = world.until(LONG, || world.controller_pid().is_some_and(|pid| Some(pid) != last));
            assert!(up, "no controller came back after kill {round}\n{}", world.controller_log());
            // The second is what is being tried.
            std::thread::sleep(Duration::from_secs(1));
            last = world.kill_controller().or(last);
            round += 1;
        }
        looper::stop(&world, &slugs);
        front.wait().expect(0);
        looper::assert_books(&world, &rehearsal, true);
        let total = world.bb(&["usage", "--json"]).expect(0).json()[0]["total"].clone();
        let completed = looper::weighed(&rehearsal.stats().completed);
        assert!(
            completed > 0 && total["counted"].as_u64().unwrap() >= completed,
            "{total}, and the server completed {completed}"
        );
        matched::assert_one_by_one(&world, &rehearsal, 64 * round);
        world.assert_silent(&[]);
    }
}

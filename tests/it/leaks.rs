//! Whatever dies, and when: once things have settled nothing is left but what lives on purpose.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::looper::{self, CODE, KEY};
use crate::support::{Running, World, reduced};

const LONG: Duration = Duration::from_secs(60);

/// A lease's ten seconds, and what ending takes.
const LEASE: Duration = Duration::from_secs(16);

fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
}

fn launch<'w>(world: &'w World, recipe: &str, n: usize) -> Running<'w> {
    let args = ["run", recipe, "--", &n.to_string(), "20"];
    world.command(&args).env("ANTHROPIC_API_KEY", KEY).patience(LONG * 4).spawn()
}

/// What is left besides the controller; what bottles leave in `state` too, when a controller has started since.
fn left(world: &World) -> Vec<String> {
    let mut left = world.leftovers();
    for dir in ["state", "run/k"] {
        let entries = std::fs::read_dir(world.bb_home().join(dir)).into_iter().flatten().flatten();
        left.extend(entries.map(|e| format!("file {}", e.path().display())));
    }
    left
}

#[track_caller]
fn assert_nothing_is_left(world: &World, limit: Duration) {
    let gone = world.until(limit, || left(world).is_empty());
    assert!(gone, "left behind: {:#?}", left(world));
}

#[test]
fn a_front_end_that_is_killed_takes_its_bottles_along() {
    for world in World::each() {
        let (rehearsal, recipe) = looper::set_up(&world, looper::slow(40), &["looper"], "");
        let front = launch(&world, &recipe, 3);
        front.says("all launched");
        front.signal(Signal::SIGKILL);
        let at = Instant::now();
        assert!(world.until(LEASE, || looper::inits(&world).is_empty()), "bottles outlive their lease");
        assert!(at.elapsed() > Duration::from_secs(8), "too early: {:?}", at.elapsed());
        let ended = || world.bb(&["ps", "--all", "--json"]).expect(0).json();
        assert!(world.until(LONG, || ended().iter().all(|b| b["ended"] == "lease_lost")), "{:?}", ended());
        assert_nothing_is_left(&world, LONG);
        looper::assert_books(&world, &rehearsal, true);
    }
}

#[test]
fn ctrl_c_ends_every_bottle_at_once() {
    for world in World::each() {
        let (rehearsal, recipe) = looper::set_up(&world, looper::slow(40), &["looper"], "");
        let front = launch(&world, &recipe, 3);
        front.says("all launched");
        front.signal(Signal::SIGINT);
        let output = front.wait();
        assert_eq!(output.code, 130, "{output}");
        // The kernel may still be taking the last of them down.
        let gone =
            world.until(Duration::from_secs(1), || world.keepers().is_empty() && looper::inits(&world).is_empty());
        assert!(gone, "{:?}", world.processes());
        assert_nothing_is_left(&world, LEASE);
        looper::assert_books(&world, &rehearsal, true);
    }
}

#[test]
fn however_a_recipe_ends_its_bottles_end_with_it_and_a_detached_one_does_not() {
    const SLEEP: &str = "command = { 'sleep', '600' }, budget = 'unlimited'";
    for world in World::each() {
        for (name, end, more, code) in [
            ("return", "return", &[][..], 0),
            ("error", "error('no more')", &[], 1),
            ("exit", "bb.exit(19)", &[], 19),
            ("timeout", "bb.sleep('1h')", &["--timeout", "2s"], 124),
        ] {
            let text = format!("--- @bb needs launch\nbb.launch {{ {SLEEP}, label = '{name}' }}\n{end}\n");
            let recipe = world.recipe(&format!("{name}.lua"), &text);
            world.bb(&[&["run", "--grant", "all"], more, &[recipe.as_str()]].concat()).expect(code);
            let gone = world.until(Duration::from_secs(5), || world.keepers().is_empty());
            assert!(gone, "{name}: {:?}", world.processes());
        }
        let text = format!(
            "--- @bb needs launch\nbb.launch {{ {SLEEP}, label = 'stays', detach = true }}\nerror('no more')\n"
        );
        world.bb(&["run", "--grant", "all", &world.recipe("detached.lua", &text)]).expect(1);
        let rows = world.bb(&["ps", "--json"]).expect(0).json();
        assert_eq!((rows.len(), &rows[0]["slug"]), (1, &json!("stays")), "{rows:?}");
        world.bb(&["kill", "stays"]).expect(0);
        // What it said can be read for as long as this controller is up.
        world.kill_controller();
        world.bb(&["ps"]).expect(0);
        assert_nothing_is_left(&world, LEASE);
    }
}

#[test]
fn a_keeper_that_is_killed_takes_its_bottle_along_and_its_recipe_hears_of_it() {
    for world in World::each() {
        let (_rehearsal, recipe) = looper::set_up(&world, looper::slow(40), &["looper"], "");
        let front = launch(&world, &recipe, 1);
        front.says("all launched");
        let (keeper, first) = looper::inits(&world).into_iter().next().unwrap();
        kill(keeper);
        let output = front.wait();
        assert!(output.stdout.contains("ended looper lost nil false"), "{output}");
        assert!(world.until(LONG, || !Path::new(&format!("/proc/{first}/ns/pid")).exists()));

        // Its first process alone: the bottle ends as any does whose agent was killed.
        let front = launch(&world, &recipe, 1);
        front.says("all launched");
        kill(looper::inits(&world).into_values().next().unwrap());
        let output = front.wait();
        let slug = looper::launched(&output.stdout).remove(0);
        assert!(output.stdout.contains(&format!("ended {slug} exited 137 false")), "{output}");
        assert_nothing_is_left(&world, LEASE);
    }
}

#[test]
fn a_detached_bottle_lives_on_without_front_end_and_controller() {
    for world in World::each() {
        let (rehearsal, recipe) = looper::set_up(&world, looper::slow(40), &["looper"], "");
        let args = ["run", recipe.as_str(), "--", "1", "20", "--detach"];
        world.command(&args).env("ANTHROPIC_API_KEY", KEY).run().expect(0);
        let before = looper::inits(&world);
        world.bb(&["controller", "stop"]).expect(0);
        assert!(world.until(LONG, || world.controller_pid().is_none()));
        let said = looper::count(&world, "looper", "served");
        // Longer than a lease, and nothing is to come of it: there is none.
        std::thread::sleep(Duration::from_secs(reduced(12, 2) as u64));
        assert!(looper::count(&world, "looper", "served") <= said + 1);
        assert_eq!(looper::inits(&world), before);
        assert!(world.controller_pid().is_none(), "nobody asked for one");
        world.bb(&["ps"]).expect(0);
        looper::says_more(&world, "looper", "served", 2, LONG);
        world.bb(&["kill", "looper"]).expect(0);
        assert!(world.until(LONG, || world.keepers().is_empty()), "{:?}", world.keepers());
        looper::assert_books(&world, &rehearsal, true);
    }
}

#[test]
fn a_bottle_that_ended_while_nobody_looked_leaves_nothing_either() {
    for world in World::each() {
        let (rehearsal, recipe) = looper::set_up(&world, looper::slow(40), &["looper"], "");
        let front = launch(&world, &recipe, 1);
        front.says("all launched");
        let pid = *looper::inits(&world).values().next().unwrap();
        front.signal(Signal::SIGKILL);
        world.kill_controller();
        kill(pid);
        assert_eq!(world.keepers().len(), 1, "its end waits to be told");
        world.bb(&["ps"]).expect(0);
        assert!(world.until(LONG, || world.keepers().is_empty()), "{:?}", world.keepers());
        assert_nothing_is_left(&world, LEASE);
        looper::assert_books(&world, &rehearsal, true);
    }
}

#[test]
fn the_same_launch_sent_again_launches_once() {
    for world in World::each() {
        let (_rehearsal, _) = looper::set_up(&world, looper::slow(40), &[], "");
        world.bb(&["ps"]).expect(0);
        let body = json!({"id": "the-same", "label": "once", "provider": "command", "argv": ["/bin/sleep", "600"]})
            .to_string();
        let socket = world.bb_home().join("run/controller.sock").display().to_string();
        let post = || {
            let args = ["-sS", "--unix-socket", socket.as_str(), "http://bb/v1/bottles", "-d", body.as_str()];
            world.program("/usr/bin/curl", &args)
        };
        // At once,
        let two = [post().spawn(), post().spawn()];
        let slugs: Vec<_> = two.into_iter().map(|p| p.wait().json()[0]["slug"].clone()).collect();
        assert_eq!(slugs, ["once", "once"]);
        let before = looper::inits(&world);
        // after a crash,
        world.kill_controller();
        world.bb(&["ps"]).expect(0);
        assert_eq!(post().run().json()[0]["state"], "running");
        assert_eq!((before.len(), looper::inits(&world)), (1, before.clone()));
        // and after its end.
        world.bb(&["kill", "once"]).expect(0);
        world.kill_controller();
        world.bb(&["ps"]).expect(0);
        assert_eq!(post().run().json()[0]["ended"], "killed");
        assert!(looper::inits(&world).is_empty());

        // Killed in its midst: sent again it is there once, whether it had come up or not.
        for round in 0..reduced(40, 8) {
            let id = format!("midst-{round}");
            let body = json!({"id": id, "label": id, "provider": "command", "argv": ["/bin/sleep", "600"]}).to_string();
            let args = ["-sS", "--unix-socket", socket.as_str(), "http://bb/v1/bottles", "-d", body.as_str()];
            let first = world.program("/usr/bin/curl", &args).spawn();
            // Each round at another moment of the launch: that is what is being tried.
            std::thread::sleep(Duration::from_millis(round as u64 % 8 * 5));
            world.kill_controller();
            let _ = first.wait();
            world.bb(&["ps"]).expect(0);
            let answer = world.program("/usr/bin/curl", &args).run();
            assert_eq!(answer.json()[0]["state"], "running", "round {round}: {answer}");
            assert_eq!(looper::inits(&world).len(), 1, "round {round}: {:?}", world.processes());
            world.bb(&["kill", answer.json()[0]["slug"].as_str().unwrap()]).expect(0);
            assert!(world.until(LONG, || world.keepers().is_empty()));
        }
    }
}

#[test]
fn nothing_is_left_whoever_is_killed_and_when() {
    for world in World::each() {
        let (rehearsal, recipe) = looper::set_up(&world, looper::slow(20), &["looper"], "");
        let mut seed = 0x2545_f491_4f6c_dd1du64 ^ u64::from(std::process::id());
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut told = Vec::new();
        for _ in 0..reduced(200, 20) {
            let front = launch(&world, &recipe, 1);
            // From before its launch until well into its work: the moment is what is being tried.
            std::thread::sleep(Duration::from_millis(random(250)));
            let what = random(4);
            let pid = match what {
                0 => Some(front.pid),
                1 => world.controller_pid(),
                2 => world.keepers().first().copied(),
                _ => looper::inits(&world).into_values().next(),
            };
            pid.into_iter().for_each(kill);
            if what == 0 {
                continue;
            }
            // The others come to their end by themselves once they are asked to.
            let ended = world.until(LONG, || {
                for entry in std::fs::read_dir(world.bb_home().join("state")).into_iter().flatten().flatten() {
                    looper::stop(&world, &[entry.file_name().to_string_lossy().into_owned()]);
                }
                front.has_ended()
            });
            assert!(ended, "a front end waits for ever (killed: {what})\n{}\n{}", front.stdout(), front.stderr());
            let output = front.wait();
            told.push((what, output.code));
            if what == 1 {
                assert!(
                    output.stdout.contains(&format!("exited {CODE} false")),
                    "{output}\n{}",
                    world.controller_log()
                );
            }
        }
        eprintln!("killed (1 controller, 2 keeper, 3 pid 1), exit code: {told:?}");
        // Bottles of killed front ends go with their lease; what died with a controller goes when one starts.
        assert!(world.until(LEASE, || looper::inits(&world).is_empty()), "{:?}", world.processes());
        world.kill_controller();
        world.bb(&["ps"]).expect(0);
        assert_nothing_is_left(&world, LEASE);
        let rows = world.bb(&["ps", "--json"]).expect(0).json();
        assert!(rows.is_empty(), "{rows:?}");
        looper::assert_books(&world, &rehearsal, true);
        world.assert_silent(&[]);
    }
}

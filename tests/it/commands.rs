//! The controller as front ends meet it: started on demand, found again, replaced, silent, too old.

use std::time::Duration;

use nix::sys::signal::{SIGCONT, SIGSTOP};

use crate::start::set_up;
use crate::support::{World, signal, within};

const LONG: Duration = Duration::from_secs(40);

#[test]
fn a_command_substitution_returns_at_once_when_it_had_to_start_the_controller() {
    for world in World::each() {
        assert!(world.controller_pid().is_none());
        let exe = world.exe().display().to_string();
        let script =
            format!("x=$({exe} ps --json 2>&1); echo \"code $? <$x>\"; y=$({exe} ps --json 2>&1 | cat); echo \"<$y>\"");
        let output = world.program("/bin/bash", &["-c", &script]).patience(Duration::from_secs(30)).run().expect(0);
        assert_eq!(output.stdout, "code 0 <>\n<>\n");
        let pid = world.controller_pid().expect("it lives on");
        // It holds nothing of the one that started it.
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let open: Vec<_> =
            links.filter_map(|l| std::fs::read_link(l.path()).ok()).map(|p| p.display().to_string()).collect();
        assert!(!open.iter().any(|p| p.starts_with("pipe:") || p.contains("/home/")), "{open:?}");
        world.bb(&["ps"]).expect(0);
        assert_eq!(world.controller_pid(), Some(pid));
    }
}

#[test]
fn however_many_start_one_there_is_one_controller() {
    for world in World::each() {
        let all: Vec<_> = (0..8).map(|_| world.spawn(&["ps"])).collect();
        for one in all {
            one.wait().expect(0);
        }
        let controllers = |w: &World| w.processes().iter().filter(|p| p.command.contains("__controller")).count();
        assert!(world.until(Duration::from_secs(3), || controllers(&world) == 1), "{:?}", world.processes());
        // A second one, by hand, sees the first and leaves.
        let first = world.controller_pid();
        let second = world.bb(&["__controller"]).expect(0);
        let pid = first.unwrap().to_string();
        assert!(second.stderr.contains("up already") && second.stderr.contains(&pid), "{second}");
        // Its word comes just before its end.
        assert!(world.until(Duration::from_secs(5), || controllers(&world) == 1), "{:?}", world.processes());
        assert_eq!(world.controller_pid(), first);
        let log = world.bb(&["controller", "logs"]).expect(0);
        assert!(log.stdout.contains("controller up") && log.stdout.contains(&pid), "{log}");
        world.bb(&["ps"]).expect(0);
    }
}

#[test]
fn a_stale_socket_and_a_stale_lock_are_taken_over() {
    for world in World::each() {
        world.bb(&["ps"]).expect(0);
        let first = world.kill_controller().unwrap();
        assert!(world.bb_home().join("run/controller.sock").exists(), "a crash leaves it behind");
        world.bb(&["ps"]).expect(0);
        assert_ne!(world.controller_pid(), Some(first));
        world.bb(&["controller", "stop"]).expect(0);
        assert!(world.controller_pid().is_none());
        world.write(world.bb_home().join("run/controller.sock"), "not even a socket");
        world.bb(&["ps"]).expect(0);
    }
}

/// Stops a process and waits until all of its threads stand still: one that runs on for a moment still answers.
fn stop(world: &World, pid: i32) {
    signal(pid, SIGSTOP);
    let stands = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'));
    let all = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut stats = threads.filter_map(|t| std::fs::read_to_string(t.path().join("stat")).ok());
        stats.all(stands)
    };
    assert!(world.until(Duration::from_secs(5), all), "{pid} does not stop");
}

#[test]
fn a_silent_controller_is_named_and_can_be_removed_without_its_bottles() {
    for world in World::each() {
        let recipe = world.recipe(
            "stay.lua",
            "--- @bb needs launch\nprint(bb.launch { command = { 'sleep', '600' }, label = 'stay', detach = true }.slug)\n",
        );
        world.bb(&["run", "--grant", "all", &recipe]).expect(0);
        let pid = world.controller_pid().unwrap();
        stop(&world, pid);
        let output = world.bb(&["ps"]);
        output.fails(5, "controller_silent", &format!("pid {pid}"), "bb controller stop --force");
        assert!(output.elapsed < within(Duration::from_secs(10)), "{output}");
        let output = world.bb(&["controller", "stop", "--force"]).expect(0);
        assert!(output.stderr.contains(&pid.to_string()), "{output}");
        assert_eq!(world.keepers().len(), 1, "the bottle lives");
        let output = world.bb(&["ps", "--json"]).expect(0);
        assert_eq!(output.json()[0]["slug"], "stay", "{output}");
        world.bb(&["exec", "stay", "--", "true"]).expect(0);
        // One that only was slow is not lost either.
        let pid = world.controller_pid().unwrap();
        stop(&world, pid);
        let waiting = world.spawn(&["ps"]);
        // So long nobody answers it: how slow a controller is, is what is being tried.
        std::thread::sleep(Duration::from_millis(500));
        signal(pid, SIGCONT);
        waiting.wait().expect(0);
        world.bb(&["kill", "stay"]).expect(0);
        assert!(world.until(Duration::from_secs(5), || world.leftovers().is_empty()), "{:?}", world.leftovers());
    }
}

/// A controller of long ago: it holds the lock and speaks another API.
const OLD: &str = r#"
import fcntl, os, socket, sys
home = os.environ["BB_HOME"]; os.makedirs(home + "/run/k", exist_ok=True)
lock = open(home + "/run/controller.lock", "w+"); fcntl.flock(lock, fcntl.LOCK_EX); lock.write(str(os.getpid())); lock.flush()
path = home + "/run/controller.sock"
if os.path.exists(path): os.unlink(path)
s = socket.socket(socket.AF_UNIX); s.bind(path); s.listen(); print("up", flush=True)
while True:
    c, _ = s.accept(); c.recv(4096)
    body = b'{"api":0,"version":"0.0.1","pid":%d,"home":"x","started":0,"running":0}' % os.getpid()
    c.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body); c.close()
"#;

#[test]
fn a_front_end_newer_than_its_controller_says_so_and_can_replace_it() {
    for world in World::each() {
        world.write("__controller", OLD);
        let old = world.program("/usr/bin/python3", &["__controller"]).spawn();
        old.says("up");
        let output = world.bb(&["ps"]);
        output.fails(5, "controller_version", &format!("pid {}", old.pid), "bb controller restart");
        assert!(!old.has_ended(), "it is not ended behind the operator's back");
        world.bb(&["controller", "restart"]).expect(0);
        assert!(old.ends_within(Duration::from_secs(5)));
        world.bb(&["ps"]).expect(0);
    }
}

#[test]
fn an_idle_controller_leaves_and_a_stopped_one_stays_away() {
    for world in World::each() {
        world.command(&["__controller"]).env("BB_CONTROLLER_IDLE_MS", "200").run().expect(0);
        assert!(world.controller_pid().is_some());
        assert!(world.until(Duration::from_secs(5), || world.controller_pid().is_none()), "it leaves");
        assert!(world.leftovers().is_empty(), "{:?}", world.leftovers());
        // Its socket went with it, and the next command starts another.
        assert!(!world.bb_home().join("run/controller.sock").exists());
        let output = world.bb(&["controller", "status"]).expect(0);
        assert!(output.stdout.contains("no controller runs"), "{output}");
        world.bb(&["ps"]).expect(0);
    }
}

#[test]
fn of_a_bottle_whose_recipe_is_long_over_the_end_of_the_output_is_still_told() {
    for world in World::each() {
        let recipe = "--- @bb needs launch\nbb.launch{command = {'echo', 'hello'}, label = 'short'}:wait()\n";
        world.bb(&["run", "--grant", "all", &world.recipe("short.lua", recipe)]).expect(0);
        assert!(world.until(LONG, || !world.bb_home().join("state/short").exists()), "its state goes with its lease");
        let logs = world.bb(&["logs", "short"]).expect(0);
        assert_eq!(logs.stdout, "hello\n");
        assert!(logs.stderr.contains("only the end is kept"), "{logs}");
    }
}

#[test]
fn what_is_pressed_in_bb_exec_reaches_the_command_and_a_reader_that_has_enough_ends_it() {
    for world in World::each() {
        let recipe = "--- @bb needs launch\nbb.launch{command = {'sleep', '600'}, label = 'long', detach = true}\n";
        world.bb(&["run", "--grant", "all", &world.recipe("long.lua", recipe)]).expect(0);
        let running = |what: &str| {
            let listed = world.bb(&["exec", "long", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]);
            listed.stdout.contains(what)
        };
        // Ctrl-C goes to the command, which may end as it likes.
        let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done";
        let exec = world.spawn(&["exec", "long", "--", "sh", "-c", script]);
        exec.says("ready");
        exec.signal(nix::sys::signal::Signal::SIGINT);
        exec.says("caught");
        exec.wait().expect(9);
        // One that does not heed it ends at the third.
        const STUBBORN: &str =
            "trap 'echo int' INT; trap 'echo term' TERM; echo ready; sleep 432 & while :; do sleep 0.05; done";
        let exec = world.spawn(&["exec", "long", "--", "sh", "-c", STUBBORN]);
        for heard in ["ready", "int", "term"] {
            exec.says(heard);
            exec.signal(nix::sys::signal::Signal::SIGINT);
        }
        exec.wait().expect(137);
        assert!(world.until(LONG, || !running("sleep 432")));
        // A reader that has enough.
        let head = format!("{} exec long -- sh -c 'yes $((200 + 34))' | head -n 1", world.exe().display());
        assert_eq!(world.program("/bin/sh", &["-c", &head]).run().expect(0).stdout, "234\n");
        assert!(world.until(LONG, || !running("yes 234")), "it goes on for nobody");
        // A character that two writes cut in half.
        let halves = ["exec", "long", "--", "sh", "-c", r"printf 'gr\303'; sleep 0.3; printf '\274n\n'"];
        assert_eq!(world.bb(&halves).expect(0).stdout, "grün\n");
        world.bb(&["kill", "long"]).expect(0);
    }
}

#[test]
fn logs_that_are_followed_come_while_the_bottle_runs_and_end_with_it() {
    for world in World::each() {
        set_up(&world, "");
        let prompt = "echo first; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo second; echo noise >&2; \
            while [ ! -e /tmp/end ]; do sleep 0.05; done; echo last; exit 3";
        let args = ["start", "tester", "--headless", "--prompt", prompt];
        let running = world.command(&args).cwd(world.home().join("project")).spawn();
        running.says("first");
        let logs = world.spawn(&["logs", "-f", "test"]);
        logs.says("first\n");
        assert!(!logs.stdout().contains("second") && !logs.has_ended());
        world.bb(&["exec", "tester", "--", "touch", "/tmp/go"]).expect(0);
        logs.says("second\n");
        assert!(!logs.has_ended(), "the bottle runs");
        // Without -f it ends at once, with what there is.
        let now = world.bb(&["logs", "tester"]).expect(0);
        assert_eq!(now.stdout, "first\nsecond\n", "{now}");
        world.bb(&["exec", "tester", "--", "touch", "/tmp/end"]).expect(0);
        // Its end is none of the bottle's: 0 whatever the agent ended with.
        let ended = logs.wait().expect(0);
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("first\nsecond\nlast\n", "noise\n"), "{ended}");
        running.wait().expect(1);
    }
}

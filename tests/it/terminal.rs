//! Terminals: an agent's and a person's joined, left and joined again.
//!
//! A script plays the person (support/person.py): it allocates a terminal, types, and waits for what is shown.

use std::time::Duration;

use serde_json::json;

use crate::support::person::{DETACH, SHELL, does, ends, interrupted, launch, person};
use crate::support::{World, have_tools};

/// How long something may take that takes a second on an idle machine.
const LONG: Duration = Duration::from_secs(120);

/// Launches an agent that is a Python program.
fn launch_program(world: &World, label: &str, program: &str) {
    launch(world, label, &format!("{{'python3', '-u', '-c', [==[\n{program}\n]==]}}"));
}

/// What a program needs to read keys one by one.
const RAW: &str =
    "import os, sys, termios, tty, signal, fcntl, struct, time\ntty.setraw(0)\nw = lambda t: os.write(1, t.encode())\n";

#[test]
fn a_command_runs_in_a_terminal_of_its_own_that_follows_the_persons() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        launch(&world, "shell", SHELL);
        let shell = ["exec", "-it", "shell", "--", "env", "PS1=inner> ", "bash", "--norc", "--noprofile", "-i"];
        let seen = does(
            &world,
            &shell,
            &[
                &[
                    json!(["expect", "inner> "]),
                    json!(["type", "tty; echo term=$TERM user=$(id -u)\r"]),
                    json!(["expect", "/dev/pts/"]),
                    json!(["expect", "term=xterm-256color user=1000"]),
                    json!(["type", "stty size\r"]),
                    json!(["expect", "24 80"]),
                    json!(["resize", 40, 100]),
                    json!(["insist", "stty size\r", "40 100"]),
                    json!(["type", "printf 'a\\033[3%dmred\\033[0m\\n' 1\r"]),
                    json!(["raw", "a\u{1b}[31mred\u{1b}[0m"]),
                    // What is pressed is the command's: an interrupt, and the keys that would leave an agent.
                ][..],
                &interrupted("inner> "),
                &[
                    json!(["type", "echo started-$((1 + 1)); cat -v\r"]),
                    json!(["expect", "started-2"]),
                    json!(["type", "\u{16}\u{10}\u{16}\u{11}\r"]),
                    json!(["expect", "^P^Q"]),
                    json!(["type", "\u{4}"]),
                    json!(["expect", "inner> "]),
                    json!(["type", "exit 7\r"]),
                    json!(["end", 7]),
                ],
            ]
            .concat(),
        );
        assert!(!seen.contains("detached"), "{seen}");
        // Whoever is in the bottle sees its own terminals and no other.
        let listed = world.bb(&["exec", "shell", "--", "sh", "-c", "ls /dev/pts; tty"]).expect(1);
        assert!(listed.stdout.contains("0\nptmx\n") && listed.stdout.contains("not a tty"), "{listed}");
        ends(&world, &["shell"]);
    }
}

#[test]
fn an_agent_is_left_and_joined_again_with_its_screen_as_it_is() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        launch(&world, "shell", SHELL);
        let seen = does(
            &world,
            &["attach", "she"],
            &[
                json!(["expect", "ready> "]),
                json!(["type", "for i in $(seq 9999); do echo line-$i; done; echo one-$((1 + 1))\r"]),
                json!(["expect", "one-2"]),
                json!(["expect", "ready> "]),
                json!(["type", DETACH]),
                json!(["expect", "bb attach shell"]),
                json!(["end", 0]),
            ],
        );
        assert!(seen.contains("line-5\r\n"), "{seen}");
        let seen = does(
            &world,
            &["attach", "shell"],
            &[
                // What is on the screen is there at once, in its order, and its history is not told again.
                json!(["expect", "line-9999"]),
                json!(["expect", "one-2"]),
                json!(["expect", "ready> "]),
                json!(["type", "echo again-$((2 + 3))\r"]),
                json!(["expect", "again-5"]),
                json!(["type", "exit 3\r"]),
                json!(["expect", "session ended (exit 3)"]),
                json!(["end", 3]),
            ],
        );
        assert!(!seen.contains("line-5\r\n"), "{seen}");
        assert!(world.until(LONG, || world.leftovers().is_empty()), "{:?}", world.leftovers());
        let logs = world.bb(&["logs", "shell"]).expect(0);
        assert!(logs.stdout.contains("line-5\r\n") && logs.stdout.contains("again-5"), "{logs}");
        world.bb(&["attach", "shell"]).fails(2, "usage", "standard input", "bb logs --follow shell");
        does(&world, &["attach", "shell"], &[json!(["expect", "error[no_such_bottle]"]), json!(["end", 2])]);
    }
}

/// Draws a whole screen with everything switched on, tells its size when it changes, and ends at `x`.
const DRAWS: &str = r#"
def draw(*_):
    rows, cols = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))[:2]
    w(f"\x1b[2J\x1b[Hsize {rows}x{cols}\x1b[5;3Hkeys: {keys}")
keys = ""
w("\x1b[?1049h\x1b[>1u\x1b[?25l\x1b[?2004h\x1b[?1h\x1b=\x1b[?1004h\x1b[>4;2m\x1b[5 q\x1b[2;20r\x1b[1;33m")
signal.signal(signal.SIGWINCH, draw)
draw()
while True:
    key = os.read(0, 1).decode("latin1")
    if key == "x": break
    keys += key
    draw()
os._exit(5)
"#;

#[test]
fn the_terminal_is_as_it_was_whether_the_agent_is_left_or_ends() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        launch_program(&world, "full", &format!("{RAW}{DRAWS}"));
        let clean = |seen: &str| {
            for off in [
                "\u{1b}[?1049l",
                "\u{1b}[<1u",
                "\u{1b}[?25h",
                "\u{1b}[?2004l",
                "\u{1b}[?1l",
                "\u{1b}>",
                "\u{1b}[?1004l",
            ]
            .iter()
            .chain(&["\u{1b}[>4m", "\u{1b}[0 q", "\u{1b}[r", "\u{1b}[0m"])
            {
                let last_on = seen.rfind("keys:").unwrap();
                assert!(seen[last_on..].contains(off), "{off:?} is not put right: {:?}", &seen[last_on..]);
            }
        };
        let seen = does(
            &world,
            &["attach", "full"],
            &[
                json!(["answer", "\u{1b}[c", "\u{1b}[?62;22c"]),
                json!(["expect", "keys: "]),
                json!(["type", "ab"]),
                json!(["expect", "keys: ab"]),
                json!(["type", DETACH]),
                json!(["expect", "detached"]),
                json!(["end", 0]),
            ],
        );
        clean(&seen);
        // Whoever comes back, in a terminal of another size, finds it drawn with all that was on.
        let seen = does(
            &world,
            &["attach", "full"],
            &[
                json!(["resize", 30, 90]),
                json!(["raw", "\u{1b}[?1049h"]),
                json!(["insist", "c", "size 30x90"]),
                json!(["expect", "keys: abc"]),
                // The word to end comes to whoever shows it, not to the agent.
                json!(["signal", "SIGTERM"]),
                json!(["expect", "error[interrupted]"]),
                json!(["end", 130]),
            ],
        );
        clean(&seen);
        assert!(seen.contains("\u{1b}[?2004h") && seen.contains("\u{1b}[?1004h"), "{seen:?}");
        let seen = does(
            &world,
            &["attach", "full"],
            &[json!(["expect", "keys: abc"]), json!(["type", "x"]), json!(["expect", "exit 5"]), json!(["end", 5])],
        );
        clean(&seen);
        assert!(world.until(LONG, || world.leftovers().is_empty()), "{:?}", world.leftovers());
    }
}

#[test]
fn what_would_act_on_the_person_is_taken_out_and_its_harmless_twin_is_not() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        launch(&world, "shell", SHELL);
        let seen = does(
            &world,
            &["attach", "shell"],
            &[
                json!(["expect", "ready> "]),
                json!(["type", "printf '\\033]%d;c;aGVsbG8=\\a\\033]%d;c;?\\a\\033_Gx\\033\\\\over\\n' 52 52\r"]),
                json!(["expect", "over\r\n"]),
                json!(["type", "printf '\\033]%d;its title\\a\\033[%dmbold\\033[0m\\n' 2 1\r"]),
                json!(["raw", "\u{1b}]2;its title\u{1b}\\\u{1b}[1mbold"]),
                json!(["type", DETACH]),
                json!(["expect", "detached"]),
                json!(["end", 0]),
                json!(["never", "\u{1b}]52"]),
                json!(["never", "\u{1b}_G"]),
            ],
        );
        // The person's own title is put by, and given back.
        assert!(seen.contains("\u{1b}[22;0t") && seen.contains("\u{1b}[23;0t"), "{seen:?}");
        // In the log it is text.
        let logs = does(
            &world,
            &["logs", "shell"],
            &[json!(["expect", "over"]), json!(["end", 0]), json!(["never", "\u{1b}]"])],
        );
        assert!(logs.contains("\\x1b]52;"), "{logs:?}");
        ends(&world, &["shell"]);
    }
}

/// Asks its terminal and says what it was told.
const ASKS: &str = r#"
def told(asked, last):
    w(asked)
    text = b""
    while not text.endswith(last): text += os.read(0, 1)
    return text
w("\x1b[2J\x1b[4;7H")
w("cursor %r\r\n" % told("\x1b[6n", b"R"))
w("attributes %r\r\n" % told("\x1b[c", b"c"))
w("background %r\r\n" % told("\x1b]11;?\x1b\\", b"\\"))
w("fenced %r\r\n" % told("\x1b[?u\x1b]52;c;?\x07\x1b[21t\x1b[5n", b"n"))
w("done\r\n")
while os.read(0, 1) != b"x": pass
"#;

#[test]
fn a_program_that_asks_its_terminal_is_answered_and_the_persons_is_not_asked() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        // It asks when somebody is there, and again when two are.
        launch_program(
            &world,
            "asks",
            &format!("{RAW}while True:\n  w('up\\r\\n')\n  os.read(0, 1)\n  exec({ASKS:?})\n"),
        );
        let steps = [
            json!(["answer", "\u{1b}[6n", "\u{1b}[1;1R"]),
            json!(["expect", "up"]),
            json!(["type", "g"]),
            json!(["expect", "cursor b'\\x1b[4;7R'"]),
            json!(["expect", "attributes b'\\x1b[?62;22c'"]),
            json!(["expect", "background b'\\x1b]11;rgb:"]),
            json!(["expect", "fenced b'\\x1b[0n'"]),
            json!(["expect", "done"]),
            json!(["never", "\u{1b}[6n"]),
            json!(["never", "\u{1b}]11;?"]),
            json!(["type", format!("x{DETACH}")]),
            json!(["end", 0]),
        ];
        does(&world, &["attach", "asks"], &steps);
        let watching = [
            json!(["expect", "fenced b'\\x1b[0n'"]),
            json!(["expect", "done"]),
            json!(["type", DETACH]),
            json!(["end", 0]),
        ];
        let other = person(&world, "other", "24x80", &["attach", "asks"], &watching);
        does(&world, &["attach", "asks"], &steps);
        other.wait().expect(0);
        ends(&world, &["asks"]);
    }
}

#[test]
fn a_session_goes_on_when_the_controller_is_killed_in_its_midst() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        launch(&world, "shell", SHELL);
        let kill = format!("kill -9 $(cat {}/run/controller.lock)", world.bb_home().display());
        let mut steps = vec![json!(["expect", "ready> "])];
        for round in 0..3 {
            steps.push(json!(["type", format!("echo before-$(({round} + 10))\r")]));
            steps.push(json!(["expect", format!("before-{}\r\n", round + 10)]));
            steps.push(json!(["run", kill, 0]));
            steps.push(json!(["type", format!("echo after-$(({round} + 20))\r")]));
            steps.push(json!(["expect", format!("after-{}\r\n", round + 20)]));
        }
        let mut agent = steps.clone();
        agent.extend([json!(["type", DETACH]), json!(["expect", "detached"]), json!(["end", 0])]);
        let seen = does(&world, &["attach", "shell"], &agent);
        let count = |seen: &str, what: &str| seen.matches(&format!("{what}\r\n")).count();
        for what in ["before-10", "after-20", "before-12", "after-22"] {
            assert_eq!(count(&seen, what), 1, "{what}: {seen}");
        }
        steps[0] = json!(["expect", "$ "]);
        steps.extend([json!(["type", "exit 6\r"]), json!(["end", 6])]);
        let inner = ["exec", "-t", "shell", "--", "env", "PS1=$ ", "bash", "--norc", "--noprofile", "-i"];
        let seen = does(&world, &inner, &steps);
        for what in ["before-10", "after-20", "before-12", "after-22"] {
            assert_eq!(count(&seen, what), 1, "{what}: {seen}");
        }
        ends(&world, &["shell"]);
    }
}

#[test]
fn an_agent_that_reads_nothing_holds_nobody_up() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        launch_program(&world, "deaf", &format!("{RAW}w('up\\r\\n')\nwhile True: time.sleep(60)\n"));
        for _ in 0..2 {
            let steps = [
                json!(["expect", "up"]),
                json!(["type", "x".repeat(400_000)]),
                json!(["type", DETACH]),
                json!(["expect", "detached"]),
                json!(["end", 0]),
            ];
            does(&world, &["attach", "deaf"], &steps);
        }
        let text = "x".repeat(400_000);
        let fed = world.command(&["exec", "-i", "deaf", "--", "sh", "-c", "sleep 1; exit 3"]).stdin(text).run();
        fed.expect(3);
        ends(&world, &["deaf"]);
    }
}

#[test]
fn a_terminal_that_is_taken_away_ends_the_command_that_ran_in_it_and_no_agent() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        launch(&world, "shell", SHELL);
        let sleeps = |world: &World| {
            let listed = world.bb(&["exec", "shell", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]);
            listed.stdout.contains("sleep 543")
        };
        let command = ["exec", "-it", "shell", "--", "sh", "-c", "echo here; sleep 543; echo over"];
        does(&world, &command, &[json!(["expect", "here"]), json!(["hang up"])]);
        assert!(world.until(LONG, || !sleeps(&world)), "it goes on for nobody");
        does(&world, &["attach", "shell"], &[json!(["expect", "ready> "]), json!(["hang up"])]);
        let steps =
            [json!(["insist", "echo still-$((1 + 3))\r", "still-4"]), json!(["type", DETACH]), json!(["end", 0])];
        does(&world, &["attach", "shell"], &steps);
        ends(&world, &["shell"]);
    }
}

#[test]
fn two_may_be_attached_and_a_terminal_may_be_narrow_or_without_a_size() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        launch(&world, "shell", SHELL);
        for (size, told) in [("0x0", "24 80"), ("0x132", "24 132"), ("1x1", "1 1")] {
            let steps = [json!(["expect", told]), json!(["end", 0])];
            person(&world, "size", size, &["exec", "-t", "shell", "stty", "size"], &steps).wait().expect(0);
        }
        let steps = [
            json!(["expect", "ready> "]),
            json!(["type", "echo first-$((1 + 0))\r"]),
            json!(["expect", "first-1"]),
            json!(["expect", "second-2"]),
            json!(["type", "echo seen-$((1 + 2))\r"]),
            json!(["expect", "session ended (exit 0)"]),
            json!(["end", 0]),
        ];
        let first = person(&world, "first", "24x80", &["attach", "shell"], &steps);
        assert!(world.until(LONG, || world.bb(&["logs", "shell"]).stdout.contains("first-1\r\n")));
        let steps = [
            json!(["expect", "first-1"]),
            // The last one who said a size is whom it is drawn for.
            json!(["insist", "stty size\r", "10 20"]),
            json!(["type", "echo second-$((1 + 1))\r"]),
            json!(["expect", "second-2"]),
            json!(["expect", "seen-3"]),
            json!(["resize", 0, 0]),
            json!(["insist", "stty size\r", "24 80"]),
            json!(["type", "exit 0\r"]),
            json!(["end", 0]),
        ];
        person(&world, "second", "10x20", &["attach", "shell"], &steps).wait().expect(0);
        first.wait().expect(0);
        assert!(world.until(LONG, || world.leftovers().is_empty()), "{:?}", world.leftovers());
    }
}

#[test]
fn where_there_is_no_terminal_that_is_said_with_one_thing_to_do() {
    for world in World::each() {
        launch(&world, "shell", SHELL);
        let recipe = "--- @bb needs launch\nbb.launch{command = {'sleep', '600'}, label = 'plain', detach = true}\n";
        world.bb(&["run", "--grant", "all", &world.recipe("plain.lua", recipe)]).expect(0);
        for args in
            [&["exec", "-t", "shell", "--", "true"][..], &["exec", "-it", "shell", "true"], &["attach", "shell"]]
        {
            let hint = if args[0] == "attach" { "bb logs --follow shell" } else { "bb exec -i SLUG" };
            world.bb(args).fails(2, "usage", "standard input and output", hint);
        }
        if have_tools(&["python3"]) {
            let steps =
                [json!(["expect", "error[usage]"]), json!(["expect", "bb logs plain --follow"]), json!(["end", 2])];
            does(&world, &["attach", "plain"], &steps);
            // A reader that is no terminal gets no terminal's bytes either way, and the agent's is drawn for nobody.
            let piped = format!("{} attach shell | cat; exit ${{PIPESTATUS[0]}}", world.exe().display());
            world.program("/bin/bash", &["-c", &piped]).run().fails(2, "usage", "standard", "bb logs");
        }
        // A beginning is enough where it fits one; else it is said what it fits.
        launch(&world, "shelf", SHELL);
        let output = world.bb(&["exec", "she", "true"]);
        output.fails(2, "ambiguous_slug", "shelf, shell", "write more of the name");
        world.bb(&["exec", "shelf", "true"]).expect(0);
        world.bb(&["kill", "shelf"]).expect(0);
        world.bb(&["exec", "she", "true"]).expect(0);
        // Also of one that ended under an earlier controller.
        world.bb(&["controller", "restart"]).expect(0);
        world.bb(&["logs", "shelf"]).expect(0);
        assert!(world.bb(&["kill", "shel"]).expect(0).stdout.contains("shell  killed"));
        world.bb(&["controller", "restart"]).expect(0);
        world.bb(&["logs", "shel"]).fails(2, "ambiguous_slug", "shelf, shell", "write more of the name");
        world.bb(&["logs", "shelf"]).expect(0);
        world.bb(&["logs", "pl"]).expect(0);
        ends(&world, &["plain"]);
    }
}

//! Commands in a bottle: their streams to the last byte, their codes, what is fed to them, what is sent to their group.

use bb::bottle::linux::landlock;

use crate::support::desk::{Desk, LONG};
use crate::support::engine::Which;
use crate::support::reduced;

pub fn have_streams_and_codes(desk: &Desk<'_>) {
    let exec = |args: &[&str]| desk.bb(&[&["exec", "box", "--"], args].concat());
    let said = exec(&["sh", "-c", "echo out; echo err >&2; id -u; pwd; exit 5"]).expect(5);
    assert!(said.stdout.starts_with("out\n") && said.stdout.ends_with("/home/agent/work\n"), "{said}");
    assert_eq!(said.stderr, "err\n");
    assert_ne!(said.stdout.lines().nth(1), Some("0"), "nobody in it is root: {said}");
    let killed = exec(&["sh", "-c", "kill -9 $$"]).expect(128 + 9);
    assert_eq!(killed.stdout, "");
    exec(&["no-such-program"]).fails(
        5,
        "agent_missing",
        "PATH=",
        if desk.engine.is_some() { "image" } else { "bottle" },
    );
    // A command that cannot be started leaves the bottle as it was.
    exec(&["true"]).expect(0);
}

/// The last that a command says before it ends is never lost, and who still holds its streams may go on.
pub fn say_everything_before_their_end(desk: &Desk<'_>) {
    for n in 0..reduced(200, 12) {
        let script = format!("echo out-{n}; echo err-{n} >&2; exit {}", n % 100);
        let said = desk.bb(&["exec", "box", "--", "sh", "-c", &script]).expect((n % 100) as i32);
        assert_eq!((said.stdout, said.stderr), (format!("out-{n}\n"), format!("err-{n}\n")));
    }
    let much = desk.sh("BB exec box -- sh -c 'yes | head -c 3000000; echo end >&2' | wc -c");
    assert_eq!((much.stdout.trim(), much.stderr.as_str()), ("3000000", "end\n"));
    let script = "(sleep 1; echo more; echo more >&2; echo still >/tmp/late) & echo early";
    assert_eq!(desk.bb(&["exec", "box", "--", "sh", "-c", script]).expect(0).stdout, "early\n");
    let waits = "timeout 100 sh -c 'until [ -s /tmp/late ]; do sleep 0.1; done'; cat /tmp/late";
    let said = desk.bb(&["exec", "box", "--", "sh", "-c", waits]);
    assert_eq!(said.expect(0).stdout, "still\n", "what is left in the background may write on");
}

pub fn are_fed(desk: &Desk<'_>) {
    desk.sh("head -c 3000000 /dev/urandom > data").expect(0);
    desk.sh("set -o pipefail; BB exec -i box -- cat < data | cmp - data").expect(0);
    // It comes as it is written, and not only at the end of it all.
    let script = "mkfifo talk; exec 3<>talk; BB exec -i box -- sh -c 'read a; echo got $a; read b; echo and $b' <talk >said & \
                  until [ -e said ]; do sleep 0.02; done; echo one >&3; until grep -q 'got one' said; do sleep 0.02; done; \
                  echo two >&3; wait $!; cat said";
    assert_eq!(desk.sh(script).expect(0).stdout, "got one\nand two\n");
    // One that does not read to the end, one that reads nothing, none at all, and one that is closed at once.
    assert_eq!(desk.sh("yes | BB exec -i box -- head -n 1").expect(0).stdout, "y\n");
    desk.sh("BB exec -i box -- sh -c 'exit 4' < data").expect(4);
    desk.sh("BB exec -i box -- sh -c 'exec <&-; exit 4' < data").expect(4);
    assert_eq!(desk.sh("BB exec -i box -- wc -c < /dev/null").expect(0).stdout.trim(), "0");
    assert_eq!(desk.sh("echo x | BB exec box -- cat").expect(0).stdout, "", "without -i nothing is read");
}

/// What is pressed reaches the whole group of a command, and one that does not heed it ends at the third, with its children.
pub fn are_signalled_with_their_children(desk: &Desk<'_>) {
    let runs = |what: &str| {
        let listed = desk.bb(&["exec", "box", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]);
        listed.stdout.contains(what)
    };
    let spawn = |script: &str| {
        let exec = desk.command(&["exec", "box", "--", "sh", "-c", script]).spawn();
        exec.says("ready");
        exec
    };
    let exec = spawn("trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done");
    exec.signal(nix::sys::signal::Signal::SIGINT);
    exec.says("caught");
    exec.wait().expect(9);
    let exec =
        spawn("trap 'echo int' INT; trap 'echo term' TERM; echo ready; sleep 432 & while :; do sleep 0.05; done");
    exec.signal(nix::sys::signal::Signal::SIGINT);
    for heard in ["int", "term"] {
        exec.says(heard);
        exec.signal(nix::sys::signal::Signal::SIGINT);
    }
    exec.wait().expect(128 + 9);
    assert!(desk.world.until(LONG, || !runs("sleep 432")));
}

/// What is so in containers only: a command has a parent there, which is bb's. It cannot be looked into, no more than pid 1,
/// and whoever ends it ends the command. Where Landlock holds, commands cannot look into each other's processes, though they
/// are of one user: the only trace of it beside the mounts, which refuse the same writes.
pub fn are_held_apart(desk: &Desk<'_>, which: Which) {
    let looks = "ls -l /proc/1/fd /proc/$PPID/fd 2>&1; cat /proc/$PPID/environ 2>&1";
    let said = desk.bb(&["exec", "box", "--", "sh", "-c", looks]);
    assert_eq!(said.stdout.matches("/fd': Permission denied").count(), 2, "{said}");
    assert!(said.stdout.contains("/environ': Permission denied"), "{said}");

    let script = "kill -TERM $PPID; echo lives; until [ -e /tmp/go ]; do sleep 0.1; done; kill -KILL $PPID; sleep 600";
    let lives = desk.command(&["exec", "box", "--", "sh", "-c", script]).spawn();
    lives.says("lives");
    desk.bb(&["exec", "box", "touch", "/tmp/go"]).expect(0);
    lives.wait().expect(128 + 9);

    desk.bb(&["exec", "box", "--", "sh", "-c", "sleep 600 & echo $! >/tmp/pid"]).expect(0);
    let looks = "sleep 600 & cat /proc/$!/environ >/dev/null && echo own; cat /proc/$(cat /tmp/pid)/environ >/dev/null && echo other; \
                 mkdir -p from to && echo x >from/f && mv from/f to/g && echo moved; kill $!";
    let said = desk.bb(&["exec", "box", "--", "sh", "-c", looks]).stdout;
    assert!(said.contains("own\n") && said.contains("moved\n"), "{said}");
    // Docker's profile knows it from 23.0 on.
    if landlock::version().is_some_and(|version| version >= 2) && which != Which::Docker {
        assert!(!said.contains("other"), "{said}");
    }
}

//! What goes into a container and comes out of it: terminals, input, output to the last byte, files.
//!
//! On Docker and on Podman as root, and on the ordinary user's own Podman, each with one container for each test.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::time::Duration;

use bb::bottle::linux::landlock;
use serde_json::{Value, json};

use crate::support::engine::{Engine, IMAGE, Which, helper};
use crate::support::person::{DETACH, interrupted, script_of, written};
use crate::support::{Command, Output, Who, World, have_tools, reduced, tool};

/// How long something may take that an engine does in a second or two.
const LONG: Duration = Duration::from_secs(120);

/// Who runs bottles on an engine: root, or the ordinary user with directories of their own.
struct Desk<'w> {
    world: &'w World,
    which: Which,
    /// What runs bb, with all that it has to know.
    words: Vec<String>,
    /// Their directory.
    dir: PathBuf,
    bb_home: PathBuf,
    uid: u32,
}

/// Runs a test on each engine.
fn each(test: impl Fn(&Desk<'_>)) {
    for which in [Which::Docker, Which::Podman, Which::Rootless] {
        let Some(world) = World::of(Who::Root) else { return };
        let Some(engine) = Engine::start(&world, which) else { continue };
        let desk = Desk::of(&world, &engine);
        test(&desk);
        desk.bb(&["controller", "stop"]).expect(0);
        engine.assert_empty();
    }
}

impl<'w> Desk<'w> {
    fn of(world: &'w World, engine: &'w Engine<'w>) -> Desk<'w> {
        let exe = world.exe().display().to_string();
        let host = format!("DOCKER_HOST={}", engine.address());
        if !engine.which.is_rootless() {
            let helper = format!("BB_HELPER={}", helper().unwrap().display());
            let words = [tool("env").unwrap().display().to_string(), host, helper, exe].into();
            let dir = world.make_dir("desk");
            // A workspace of root's own would be refused.
            chown(&dir, Some(4711), Some(4711)).unwrap();
            return Desk { world, which: engine.which, words, dir, bb_home: world.bb_home(), uid: 0 };
        }
        let (dir, uid) = (engine.dir(), fs::metadata(engine.dir().join("home")).unwrap().uid());
        for sub in ["bb", "desk"] {
            fs::create_dir(dir.join(sub)).unwrap();
            chown(dir.join(sub), Some(uid), Some(uid)).unwrap();
        }
        fs::copy(helper().unwrap(), dir.join("bb-helper")).unwrap();
        let set = |name: &str, sub: &str| format!("{name}={}", dir.join(sub).display());
        let runuser = tool("runuser").unwrap().display().to_string();
        let mut words: Vec<String> = vec![runuser, "-u".into(), "bbtest".into(), "--".into(), "env".into()];
        words.extend([set("HOME", "home"), set("BB_HOME", "bb"), set("BB_HELPER", "bb-helper"), host, exe]);
        Desk { world, which: engine.which, words, bb_home: dir.join("bb"), dir: dir.join("desk"), uid }
    }

    fn command(&self, args: &[&str]) -> Command<'w> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).chain(args.iter().copied()).collect();
        self.world.program(words[0], &words[1..]).cwd(&self.dir).patience(LONG)
    }

    fn bb(&self, args: &[&str]) -> Output {
        self.command(args).run()
    }

    /// Runs a script of bash, in which BB is bb.
    fn sh(&self, script: &str) -> Output {
        let script = script.replace("BB", &self.words.join(" "));
        self.world.program("/bin/bash", &["-c", &script]).cwd(&self.dir).patience(LONG).run()
    }

    /// Has a person at a terminal do these steps with bb; gets what was written there.
    #[track_caller]
    fn does(&self, args: &[&str], steps: &[Value]) -> String {
        let (script, steps) = script_of(self.world, "steps", steps);
        let mut words: Vec<&str> = vec![&script, &steps];
        words.extend(self.words.iter().map(String::as_str).chain(args.iter().copied()));
        let person = self.world.program("/usr/bin/python3", &words).env("TERM", "xterm-256color");
        written(&person.cwd(&self.dir).patience(LONG).run().expect(0))
    }

    /// A file or a directory that is whose the desk is.
    fn own(&self, name: &str, text: Option<&str>) -> PathBuf {
        let path = self.dir.join(name);
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::create_dir(&path).unwrap(),
        }
        chown(&path, Some(self.uid), Some(self.uid)).unwrap();
        path
    }

    /// Writes an agent `worker` that is a shell, and its bottle `box`.
    fn shelf(&self) {
        let provider = "return { name = 'shell', argv = function() return { 'env', 'PS1=ready> ', 'sh', '-i' } end }";
        let bottle = format!("---\nagent_provider: {{template: shell}}\nimage: {IMAGE}\nbudget: unlimited\n---\n");
        for (path, text) in [
            ("providers/shell.lua", provider),
            ("bottles/box.md", &bottle),
            ("agents/worker.md", "---\nbottle: box\n---\nYou are careful.\n"),
        ] {
            let path = self.bb_home.join(path);
            let dir = path.parent().unwrap();
            fs::create_dir_all(dir).unwrap();
            fs::write(&path, text).unwrap();
            for path in [dir, &path] {
                chown(path, Some(self.uid), Some(self.uid)).unwrap();
            }
        }
    }

    /// Launches an agent that is left to itself.
    fn launch(&self, label: &str, command: &str) {
        let recipe = format!(
            "--- @bb needs launch\nbb.launch{{command = {command}, label = '{label}', backend = 'docker', image = '{IMAGE}', \
             detach = true}}\n"
        );
        let recipe = self.own(&format!("{label}.lua"), Some(&recipe)).display().to_string();
        self.bb(&["run", "--grant", "all", &recipe]).expect(0);
    }
}

#[test]
fn an_agent_and_commands_have_terminals_of_the_containers_own() {
    if !have_tools(&["python3"]) {
        return;
    }
    each(|desk| {
        desk.shelf();
        let kill = format!("kill -9 $(cat {}/run/controller.lock)", desk.bb_home.display());
        desk.does(
            &["start", "worker", "--bottle", "box", "--label", "shell", "--color", "green", "--backend", "docker"],
            &[
                json!(["expect", "Bottles"]),
                json!(["type", "\r"]),
                json!(["expect", "Start it? [y/N]"]),
                json!(["type", "y\r"]),
                json!(["expect", "bottle shell"]),
                json!(["expect", "ready> "]),
                json!(["type", "tty; echo term=$TERM user=$(id -u)\r"]),
                json!(["expect", "/dev/pts/"]),
                json!(["expect", "term=xterm-256color user="]),
                json!(["resize", 40, 100]),
                json!(["insist", "stty size\r", "40 100"]),
                json!(["type", "echo sta\"\"rted; sleep 654\r"]),
                json!(["expect", "started"]),
                json!(["insist", "\u{3}", "ready> "]),
                json!(["type", "echo before-$((1 + 9))\r"]),
                json!(["expect", "before-10\r\n"]),
                json!(["run", kill, 0]),
                json!(["type", "echo after-$((1 + 10))\r"]),
                json!(["expect", "after-11\r\n"]),
                json!(["type", DETACH]),
                json!(["expect", "bb attach shell"]),
                json!(["end", 0]),
            ],
        );
        let shell = ["exec", "-it", "shell", "--", "env", "PS1=inner> ", "sh", "-i"];
        desk.does(
            &shell,
            &[
                &[
                    json!(["expect", "inner> "]),
                    json!(["type", "stty size; ps | grep -c '[s]leep 654'\r"]),
                    json!(["expect", "24 80"]),
                    json!(["expect", "0\r\n"]),
                ][..],
                &interrupted("inner> "),
                &[json!(["type", "exit 7\r"]), json!(["end", 7])],
            ]
            .concat(),
        );
        // One whose terminal is taken away ends.
        let steps = [json!(["expect", "here"]), json!(["hang up"])];
        desk.does(&["exec", "-it", "shell", "--", "sh", "-c", "echo here; sleep 543; echo over"], &steps);
        let gone = "timeout 100 sh -c 'while ps | grep -q \"[s]leep 543\"; do sleep 0.1; done' && echo gone";
        let said = desk.bb(&["exec", "shell", "--", "sh", "-c", gone]);
        assert_eq!(said.expect(0).stdout, "gone\n", "it goes on for nobody");
        // Whoever comes back finds the screen as it is, and its end is theirs.
        desk.does(
            &["attach", "shell"],
            &[
                json!(["expect", "after-11"]),
                json!(["expect", "ready> "]),
                json!(["type", "exit 3\r"]),
                json!(["expect", "session ended (exit 3)"]),
                json!(["end", 3]),
            ],
        );
    });
}

#[test]
fn what_is_said_comes_whole_what_is_fed_arrives_and_files_are_copied() {
    each(|desk| {
        desk.launch("box", "{'sleep', '600'}");
        output(desk);
        input(desk);
        files(desk);
        confined(desk);
        desk.bb(&["kill", "box"]).expect(0);
    });
}

/// Where Landlock holds, commands cannot look into each other's processes, though they are of one user: the only trace of it
/// beside the mounts, which refuse the same writes.
fn confined(desk: &Desk<'_>) {
    desk.bb(&["exec", "box", "--", "sh", "-c", "sleep 600 & echo $! >/tmp/pid"]).expect(0);
    let looks = "sleep 600 & cat /proc/$!/environ >/dev/null && echo own; cat /proc/$(cat /tmp/pid)/environ >/dev/null && echo other; \
                 mkdir -p from to && echo x >from/f && mv from/f to/g && echo moved; kill $!";
    let said = desk.bb(&["exec", "box", "--", "sh", "-c", looks]).stdout;
    assert!(said.contains("own\n") && said.contains("moved\n"), "{said}");
    // Docker's profile knows it from 23.0 on.
    if landlock::version().is_some_and(|version| version >= 2) && desk.which != Which::Docker {
        assert!(!said.contains("other"), "{said}");
    }
}

/// The last that a command says before it ends is never lost, and who still holds its streams may go on.
fn output(desk: &Desk<'_>) {
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
    // Whoever ends the parent of a command ends the command.
    let script = "kill -TERM $PPID; echo lives; until [ -e /tmp/go ]; do sleep 0.1; done; kill -KILL $PPID; sleep 600";
    let lives = desk.command(&["exec", "box", "--", "sh", "-c", script]).spawn();
    lives.says("lives");
    desk.bb(&["exec", "box", "touch", "/tmp/go"]).expect(0);
    lives.wait().expect(128 + 9);
}

fn input(desk: &Desk<'_>) {
    desk.sh("head -c 3000000 /dev/urandom > data").expect(0);
    desk.sh("set -o pipefail; BB exec -i box -- cat < data | cmp - data").expect(0);
    // It comes as it is written, and not only at the end of it all.
    let script = "mkfifo talk; exec 3<>talk; BB exec -i box -- sh -c 'read a; echo got $a; read b; echo and $b' <talk >said & \
                  until [ -e said ]; do sleep 0.02; done; echo one >&3; until grep -q 'got one' said; do sleep 0.02; done; \
                  echo two >&3; wait $!; cat said";
    assert_eq!(desk.sh(script).expect(0).stdout, "got one\nand two\n");
    assert_eq!(desk.sh("yes | BB exec -i box -- head -n 1").expect(0).stdout, "y\n");
    desk.sh("BB exec -i box -- sh -c 'exec <&-; exit 4' < data").expect(4);
    assert_eq!(desk.sh("BB exec -i box -- wc -c < /dev/null").expect(0).stdout, "0\n");
    assert_eq!(desk.sh("echo x | BB exec box -- cat").expect(0).stdout, "", "without -i nothing is read");
}

fn files(desk: &Desk<'_>) {
    let secret = desk.own("secret", Some("secret\n")).display().to_string();
    let script = format!(
        "mkdir -p d/sub && echo one > d/a && echo two > d/sub/b && ln -s /etc/hostname d/link && ln -s {secret} file && \
         ln -s d dir && echo ready >/tmp/ready"
    );
    desk.bb(&["exec", "box", "--", "sh", "-c", &script]).expect(0);
    let host = desk.own("host", None);
    let to = |path: &str| host.join(path).display().to_string();
    desk.bb(&["cp", "box:d/a", &to("name")]).expect(0);
    desk.bb(&["cp", "box:/tmp/ready", &to("")]).expect(0);
    desk.bb(&["cp", "box:dir/a", &to("through")]).expect(0);
    let output = desk.bb(&["cp", "box:d", &to("")]).expect(1);
    assert!(output.stderr.contains("left out: d/link: a link"), "{output}");
    for (name, text) in [("name", "one\n"), ("through", "one\n"), ("ready", "ready\n"), ("d/sub/b", "two\n")] {
        assert_eq!(fs::read_to_string(host.join(name)).unwrap(), text);
    }
    assert_eq!(fs::metadata(host.join("name")).unwrap().uid(), desk.uid);
    desk.bb(&["cp", "box:file", &to("stolen")]).fails(2, "usage", "file", "links");
    assert!(!host.join("stolen").exists());

    let source = desk.own("source", Some("from the host\n"));
    fs::set_permissions(&source, fs::Permissions::from_mode(0o4755)).unwrap();
    let source = source.display().to_string();
    desk.bb(&["cp", &source, "box:file"]).expect(0);
    desk.bb(&["cp", &to("d"), "box:/tmp"]).expect(0);
    let script = "cat file /tmp/d/sub/b && stat -c %a:%u file && id -u && echo x >>file";
    let said = desk.bb(&["exec", "box", "--", "sh", "-c", script]).expect(0).stdout;
    let uid = said.lines().last().unwrap_or_default();
    assert_eq!(said, format!("from the host\ntwo\n755:{uid}\n{uid}\n"));
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret\n");
    desk.bb(&["cp", &source, "box:/bin/planted"]).fails(2, "usage", "/bin/planted", "links");
    symlink(&secret, host.join("linked")).unwrap();
    desk.bb(&["cp", &to("linked"), "box:/tmp/taken"]).fails(2, "usage", "linked", "links");
}

#[test]
fn where_nobody_outside_may_look_into_a_container_copies_are_refused_and_tar_does_what_the_hint_says() {
    let Some(world) = World::of(Who::Root) else { return };
    let Some(engine) = Engine::start(&world, Which::Fuse) else { return };
    let desk = Desk::of(&world, &engine);
    desk.launch("box", "{'sleep', '600'}");
    let kind = desk.bb(&["exec", "box", "--", "grep", "-c", " / .*fuse", "/proc/mounts"]);
    assert_eq!(kind.expect(0).stdout, "1\n", "the images are served by fuse-overlayfs");
    desk.bb(&["exec", "box", "--", "sh", "-c", "mkdir d; echo one > d/a"]).expect(0);
    let host = desk.own("host", None).display().to_string();
    let file = desk.own("file", Some("two\n")).display().to_string();
    let refused =
        |args: &[&str]| desk.bb(args).fails(5, "backend_unavailable", "file system of the container", "bb exec -i");
    refused(&["cp", "box:d/a", &format!("{host}/a")]);
    refused(&["cp", &file, "box:d/b"]);
    assert!(fs::read_dir(&host).unwrap().next().is_none(), "nothing came");
    desk.sh(
        "set -o pipefail; tar c file | BB exec -i box -- tar x -C d && BB exec box -- tar c -C d . | tar x -C host",
    )
    .expect(0);
    for (name, text) in [("a", "one\n"), ("file", "two\n")] {
        assert_eq!(fs::read_to_string(desk.dir.join("host").join(name)).unwrap(), text);
    }
    desk.bb(&["kill", "box"]).expect(0);
    desk.bb(&["controller", "stop"]).expect(0);
    engine.assert_empty();
}

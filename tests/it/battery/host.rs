//! Ways from a bottle to the host it runs on: its controller, its sockets, the directories that it is given.

use super::{Bottle, Row, lua, play};
use crate::support::{World, have_tools, within};

#[test]
fn the_controller_cannot_be_spoken_to() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        the_controller_cannot_be_spoken_to_from(&world, &Bottle::default(), "/run/docker.sock");
    }
}

/// Plays the rows about what could be spoken to. `engine` is the socket of one.
#[track_caller]
pub fn the_controller_cannot_be_spoken_to_from(world: &World, bottle: &Bottle<'_>, engine: &str) {
    let socket = world.bb_home().join("run/controller.sock").display().to_string();
    let keepers = world.bb_home().join("run/k").display().to_string();
    let leak = |s: String| -> &'static str { Box::leak(s.into_boxed_str()) };
    let rows = [
            Row::new("its socket", leak(format!("try unix {socket}; ls {keepers}; ls {}", world.bb_home().display())), &["ENOENT"])
                .each(&[("No such file", 2)])
                .twin("ls ~ && python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.bind(\"own.sock\"); s.listen()'"),
            Row::new("sockets of the host", leak(format!("for s in {engine} /var/run/docker.sock /run/dbus/system_bus_socket /tmp/.X11-unix/X0; do try unix $s; done; try unix @/tmp/.X11-unix/X0; try unix @/org/freedesktop/systemd1/notify")), &[
                "ENOENT\nENOENT\nENOENT\nENOENT\nECONNREFUSED\nECONNREFUSED",
            ])
            .twin("python3 -c 'import socket; a, b = socket.socketpair(); a.send(b\"x\"); b.recv(1)'"),
            Row::new("bb itself", "bb ps; bb kill battery; true", &[]).each(&[("bb: command not found", 2)]).twin("command -v ps"),
        ];
    play(world, bottle, &rows);
}

#[test]
fn a_peer_from_a_bottle_is_turned_away_even_with_the_socket_in_hand() {
    // The socket is shown on purpose, by a link that the guard cannot know: a bind mount made by the host's operator.
    for world in World::each() {
        if world.uid() != 0 {
            continue;
        }
        world.bb(&["ps"]).expect(0);
        let socket = world.bb_home().join("run/controller.sock");
        // The same uid, but in a user namespace of its own: what a process of a bottle looks like at best.
        let ask = format!(
            "import socket; s=socket.socket(socket.AF_UNIX); s.connect({:?}); s.sendall(b'GET /v1/version HTTP/1.1\\r\\nHost: bb\\r\\n\\r\\n'); print(s.recv(4096))",
            socket.display().to_string()
        );
        let outside = world.program("/usr/bin/python3", &["-c", &ask]).run();
        assert!(outside.stdout.contains("200 OK"), "{outside}");
        for flags in [&["--user", "--map-root-user"][..], &["--pid", "--fork"][..]] {
            let args: Vec<&str> = flags.iter().copied().chain(["/usr/bin/python3", "-c", &ask]).collect();
            let inside = world.program("/usr/bin/unshare", &args).run();
            assert!(!inside.stdout.contains("200"), "{flags:?}: {inside}");
        }
    }
}

#[test]
fn a_workspace_that_would_give_the_host_away_is_refused_at_launch() {
    for world in World::each() {
        a_workspace_that_would_give_the_host_away_is_refused(&world, &Bottle::default());
        let clean = world.until(std::time::Duration::from_secs(5), || world.leftovers().is_empty());
        assert!(clean, "{:?}", world.leftovers());
    }
}

#[track_caller]
pub fn a_workspace_that_would_give_the_host_away_is_refused(world: &World, bottle: &Bottle<'_>) {
    let home = world.home();
    world.make_dir(".ssh/keys");
    world.make_dir("fine");
    world.make_dir("linked");
    std::os::unix::fs::symlink(&home, home.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", home.join("linked/.mcp.json")).unwrap();
    world.bb(&["ps"]).expect(0);
    let bad = [
        ("$HOME", home.clone()),
        ("a link to $HOME", home.join("link")),
        ("$HOME, written otherwise", home.join("fine/..")),
        ("a parent of $BB_HOME", world.dir().to_owned()),
        ("$BB_HOME", world.bb_home()),
        ("a directory in $BB_HOME", world.bb_home().join("state")),
        ("the runtime directory", world.bb_home().join("run")),
        ("keys", home.join(".ssh")),
        ("a directory of keys", home.join(".ssh/keys")),
        ("/", "/".into()),
        ("/proc", "/proc".into()),
        ("a directory whose guarded file is a link", home.join("linked")),
    ];
    bottle.give(&home.join("fine"));
    let recipe = world.recipe(
        "launch.lua",
        &format!(
            "--- @bb needs launch, write:args\n\
                 local b = bb.launch {{ command = {{ 'true' }}, workspace = bb.args[1], {} }}\nb:wait()\n",
            bottle.options
        ),
    );
    let run = |path: &str| {
        let command = world.command(&["run", "--grant", "all", &recipe, "--", path]);
        bottle.env.iter().fold(command, |command, (name, value)| command.env(name, *value)).run()
    };
    for (what, path) in bad {
        let path = path.display().to_string();
        let output = run(&path).expect(5);
        assert!(output.stderr.contains("workspace_unsafe"), "{what}: {output}");
        assert!(output.elapsed < within(super::QUICK), "{what}: {output}");
    }
    run(&home.join("fine").display().to_string()).expect(0);
}

#[test]
fn what_the_hosts_own_tools_would_run_stays_as_it_was() {
    for world in World::each() {
        what_the_hosts_own_tools_would_run_stays(&world, &Bottle::default());
    }
}

#[track_caller]
pub fn what_the_hosts_own_tools_would_run_stays(world: &World, bottle: &Bottle<'_>) {
    let repo = world.make_dir("repo");
    world.write("repo/.git/config", "[core]\n\tbare = false\n");
    world.write("repo/.git/HEAD", "ref: refs/heads/main\n");
    world.make_dir("repo/.git/hooks");
    world.make_dir("repo/.git/objects");
    let script = "for f in .git/hooks/pre-commit .git/config .mcp.json .claude/settings.json .claude/settings.local.json .vscode/tasks.json .envrc; do \
                 echo evil > $f && echo \"wrote $f\"; [ -e $f ] && rm -rf $f && [ ! -e $f ] && echo \"removed $f\"; done; \
             mv .git .git2 && echo moved .git; mv .vscode v && echo moved .vscode; ln -sf /tmp/x .envrc && echo linked; \
             rm -rf .claude .vscode; mv .git/hooks .git/h && echo moved hooks; true";
    let rows = [Row {
        says: &["Read-only file system"],
        ..Row::new("guarded files", Box::leak(script.to_owned().into_boxed_str()), &[])
    }
    .twin("echo x > .git/objects/x && echo y > README.md && mkdir -p src && echo z > src/main.rs")];
    bottle.give(&repo);
    let path = repo.display().to_string();
    let options = bottle.with(&format!("workspace = {}", lua(&path)));
    let needs = format!(", write:{path}");
    let played = play(world, &Bottle { options: &options, needs: &needs, ..*bottle }, &rows);
    for word in ["wrote ", "removed ", "moved ", "linked"] {
        played.never_said(word);
    }
    assert_eq!(std::fs::read_to_string(repo.join(".git/config")).unwrap(), "[core]\n\tbare = false\n");
    assert!(std::fs::read_dir(repo.join(".git/hooks")).unwrap().next().is_none());
    for absent in [".mcp.json", ".claude", ".vscode", ".envrc"] {
        assert!(!repo.join(absent).exists(), "{absent} is left behind");
    }
    assert!(repo.join("src/main.rs").exists() && repo.join(".git/objects/x").exists());
}

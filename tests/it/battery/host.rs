//! Ways from a bottle to the host it runs on: its controller, its sockets, the directories that it is given.

use super::{Bottle, Row, lua, play};
use crate::support::{World, have_tools, within};

/// Played with `<<SOCKET>>`, `<<KEEPERS>>`, `<<HOME>>` of the world's bb, and with `<<ENGINE>>`, the socket of a container engine.
pub const ROWS: &[Row] = &[
    Row::new("the controller's socket, the keepers', and where they keep what they know", "try unix <<SOCKET>>; ls <<KEEPERS>>; ls <<HOME>>; cat <<HOME>>/bot-bottle.db", &["ENOENT"])
        .each(&[("No such file", 3)])
        .twin("ls ~ && python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.bind(\"own.sock\"); s.listen()'")
        .covers(&[65]),
    Row::new("sockets of the host, by path and by abstract name", "for s in <<ENGINE>> /var/run/docker.sock /run/dbus/system_bus_socket /tmp/.X11-unix/X0; do try unix $s; done; try unix @/tmp/.X11-unix/X0; try unix @/org/freedesktop/systemd1/notify", &[
        "ENOENT\nENOENT\nENOENT\nENOENT\nECONNREFUSED\nECONNREFUSED",
    ])
    .twin("python3 -c 'import socket; a, b = socket.socketpair(); a.send(b\"x\"); b.recv(1)'")
    .covers(&[45]),
    Row::new("the agents of keys that the host's environment names", "echo \"<${SSH_AUTH_SOCK-}${GPG_AGENT_INFO-}${DBUS_SESSION_BUS_ADDRESS-}${DISPLAY-}${XAUTHORITY-}>\"; env | grep -c -i -E 'token|secret|password' || true", &["<>\n0"])
        .comes("nothing: none of them is set")
        .covers(&[45]),
    Row::new("bb itself", "bb ps; bb kill battery; bb routes battery --allow evil.example; true", &[])
        .each(&[("bb: command not found", 3)])
        .twin("command -v ps")
        .covers(&[65]),
    Row::new("an allow-list with nothing on it", "req https://good.example/s3cr3t; req http://good.example/s3cr3t; try tcp good.example 22 s3cr3t", &["ECONNREFUSED"])
        .each(&[("x-bb-deny: route_missing", 2)])
        .denied("route_missing", "good.example")
        .covers(&[68]),
];

#[test]
fn the_controller_cannot_be_spoken_to() {
    if !have_tools(&["curl", "python3"]) {
        return;
    }
    for world in World::each() {
        the_controller_cannot_be_spoken_to_from(&world, &Bottle::default(), "/run/docker.sock");
        world.assert_silent(&[]);
    }
}

/// Plays the rows about what could be spoken to. `engine` is the socket of one.
#[track_caller]
pub fn the_controller_cannot_be_spoken_to_from(world: &World, bottle: &Bottle<'_>, engine: &str) {
    let at = |path: &str| world.bb_home().join(path).display().to_string();
    let words = [
        ("SOCKET", at("run/controller.sock")),
        ("KEEPERS", at("run/k")),
        ("HOME", world.bb_home().display().to_string()),
        ("ENGINE", engine.to_owned()),
    ];
    let env = [bottle.env, &[("SSH_AUTH_SOCK", "/tmp/agent.1"), ("MY_TOKEN", "s3cr3t")]].concat();
    play(world, &Bottle { words: &words, env: &env, ..*bottle }, ROWS);
    assert!(world.bb_home().join("bot-bottle.db").exists() && world.bb_home().join("run/controller.sock").exists());
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
fn who_holds_credentials_leaves_no_core() {
    for world in World::each() {
        let recipe = "--- @bb needs launch\nbb.launch{command = {'sleep', '600'}, label = 'held', detach = true}\n";
        world.bb(&["run", "--grant", "all", &world.recipe("held.lua", recipe)]).expect(0);
        let core = |pid: i32| -> Vec<String> {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
            line.split_whitespace().take(2).map(str::to_owned).collect()
        };
        let (keepers, controller) = (world.keepers(), world.controller_pid().unwrap());
        assert_eq!(keepers.len(), 1);
        for pid in keepers.into_iter().chain([controller]) {
            assert_eq!(core(pid), ["0", "0"], "{pid} of {:?}", world.processes());
        }
        world.bb(&["kill", "held"]).expect(0);
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
    // The twins: also where a name only begins like one of them.
    for fine in [home.join("fine"), world.make_dir(".ssh-notes")] {
        bottle.give(&fine);
        run(&fine.display().to_string()).expect(0);
    }
}

pub const GUARDED: &[Row] = &[Row::new(
    "files in a workspace that host tools run by themselves",
    "for f in .git/hooks/pre-commit .git/config .mcp.json .claude/settings.json .claude/settings.local.json .vscode/tasks.json .envrc; do \
         echo evil > $f && echo \"wrote $f\"; [ -e $f ] && rm -rf $f && [ ! -e $f ] && echo \"removed $f\"; done; \
     mv .git .git2 && echo moved .git; mv .vscode v && echo moved .vscode; ln -sf /tmp/x .envrc && echo linked; \
     rm -rf .claude .vscode; mv .git/hooks .git/h && echo moved hooks; true",
    &["Read-only file system"],
)
.twin("echo x > .git/objects/x && echo y > README.md && mkdir -p src && echo z > src/main.rs")
.covers(&[56, 60, 64])];

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
    bottle.give(&repo);
    let path = repo.display().to_string();
    let options = bottle.with(&format!("workspace = {}", lua(&path)));
    let needs = format!(", write:{path}");
    let played = play(world, &Bottle { options: &options, needs: &needs, ..*bottle }, GUARDED);
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

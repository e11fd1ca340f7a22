//! What outlives a bottle that a container engine made: its session, its layer, its agent's home. Frozen, committed, killed at
//! any step, and taken up again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::SIGKILL;

use crate::support::engine::{Engine, IMAGE, Which, helper};
use crate::support::rehearsed::{is_in_one_file, silence};
use crate::support::{Command, Output, Running, Who, World, has_agent, need, signal};

/// How long something may take that an engine does in a second or two.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// Owner of the workspace, and so the agent.
pub(crate) const OWNER: u32 = 4711;

/// A provider whose agent keeps its session deep in its home. Resumed, it says what it remembers.
const KEEPER: &str = r#"return {
  name = "keeper",
  argv = function(ctx)
    local script = ctx.resume and "echo remembers $(cat ~/.keeper/sessions/1); " or "echo began > ~/.keeper/sessions/1; "
    return { "sh", "-c", script .. (ctx.prompt or "exec sh") }
  end,
  files = { { path = "~/.keeper/settings", text = "own" } },
  transcript = { "~/.keeper/sessions" },
  resumes = true,
}"#;

/// Runs a test on each engine of root.
fn each(test: impl Fn(&World, &Engine<'_>)) {
    each_in(|_| (), test);
}

/// As [`each`], with something done to the world before its engine starts.
pub(crate) fn each_in(prepare: impl Fn(&World), test: impl Fn(&World, &Engine<'_>)) {
    for which in Which::ALL {
        let Some(world) = World::of(Who::Root) else { return };
        prepare(&world);
        let Some(engine) = Engine::start(&world, which) else { continue };
        set_up(&world.bb_home(), &world.home().join("project"), OWNER);
        test(&world, &engine);
        engine.assert_empty();
        assert_eq!(volumes(&engine), 0);
    }
}

pub(crate) fn manifest(home: &Path, image: &str) {
    let front = format!("agent_provider: {{template: keeper}}\nbackend: docker\nimage: {image}\nbudget: unlimited\n");
    fs::write(home.join("bottles/dev.md"), format!("---\n{front}---\n")).unwrap();
}

/// Writes manifests, a provider and a workspace.
pub(crate) fn set_up(home: &Path, project: &Path, owner: u32) {
    for dir in ["providers", "bottles", "agents"] {
        fs::create_dir_all(home.join(dir)).unwrap();
    }
    fs::write(home.join("providers/keeper.lua"), KEEPER).unwrap();
    fs::write(home.join("agents/worker.md"), "---\nbottle: dev\n---\n").unwrap();
    manifest(home, IMAGE);
    fs::create_dir_all(project.join("sub")).unwrap();
    for (name, text) in [("notes", "host\n"), ("old", "o\n"), ("sub/a", "a\n")] {
        fs::write(project.join(name), text).unwrap();
    }
    for path in ["", "sub", "notes", "old", "sub/a"] {
        std::os::unix::fs::chown(project.join(path), Some(owner), Some(owner)).unwrap();
    }
}

pub(crate) fn volumes(engine: &Engine<'_>) -> usize {
    let list = engine.client().json("GET", "/volumes", None).unwrap();
    list["Volumes"].as_array().map_or(0, Vec::len)
}

pub(crate) fn command<'w>(world: &'w World, engine: &Engine<'_>, args: &[&str]) -> Command<'w> {
    let helper = helper().unwrap().display().to_string();
    let command = world.command(args).env("DOCKER_HOST", engine.address()).env("BB_HELPER", helper);
    command.cwd(world.home().join("project")).patience(LONG)
}

pub(crate) fn bb(world: &World, engine: &Engine<'_>, args: &[&str]) -> Output {
    command(world, engine, args).run()
}

/// Starts a worker that works until it is told to end, by a file of its home.
pub(crate) fn at_work<'w>(world: &'w World, engine: &Engine<'_>, label: &str, script: &str) -> Running<'w> {
    let prompt = format!("{script}; echo up; until [ -e ~/go ]; do sleep 0.1; done");
    let args = ["start", "worker", "--headless", "--label", label, "--prompt", &prompt];
    let running = command(world, engine, &args).spawn();
    running.says("up");
    running
}

/// What an agent does to its workspace and its home.
const WORK: &str = "rm old; rm -r sub; mkdir sub; echo mine >> notes; mkdir -p ~/.local/bin ~/.keeper/more; \
    echo 'echo a tool' > ~/.local/bin/tool; chmod 755 ~/.local/bin/tool; ln -s ../.local/bin/tool ~/.keeper/link; \
    mkfifo ~/.keeper/sessions/pipe";

pub(crate) fn kept(world: &World) -> Vec<String> {
    let all = world.bb(&["ps", "--all", "--json"]).expect(0).json();
    let kept = all.iter().filter(|bottle| bottle["kept"] == true);
    kept.map(|bottle| bottle["slug"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_container_is_frozen_and_taken_up_with_its_session_its_home_and_its_layer() {
    each(|world, engine| {
        let project = world.home().join("project");
        let first = at_work(world, engine, "worker", WORK);
        let frozen = bb(world, engine, &["freeze", "worker"]).expect(0);
        assert_eq!(frozen.stdout, "worker  frozen; bb resume worker takes it up again\n");
        let ended = first.wait().expect(0);
        assert!(ended.stderr.contains("bb resume worker"), "{ended}");
        engine.assert_empty();
        assert_eq!(volumes(engine), 0, "the layer's volume is gone");
        // The directory is as it was; what the agent did is told by its layer.
        assert_eq!(fs::read_to_string(project.join("notes")).unwrap(), "host\n");
        assert!(project.join("old").exists() && project.join("sub/a").exists());
        let stat = bb(world, engine, &["diff", "worker", "--json"]).expect(0).json();
        let what = |path: &str| {
            stat.iter().find(|c| c["path"] == path).map_or("none", |c| c["what"].as_str().unwrap()).to_owned()
        };
        assert_eq!([what("notes"), what("old"), what("sub/a")], ["changed", "deleted", "deleted"], "{stat:?}");

        // Image and backend are today's; what is different is said.
        engine.client().json("POST", &format!("/images/{IMAGE}/tag?repo=second&tag=latest"), None).unwrap();
        manifest(&world.bb_home(), "second");
        let dry = bb(world, engine, &["resume", "worker", "--dry-run"]).expect(0);
        assert!(dry.stderr.contains("since it was started, image: now second"), "{dry}");
        let look = "cat notes; ls sub old 2>&1; sh ~/.keeper/link; cat ~/.keeper/settings; ls -A ~/.keeper; exit 4";
        let again = bb(world, engine, &["resume", "worker", "--headless", "--prompt", look]).expect(1);
        let told = "remembers began\nhost\nmine\nls: old: No such file or directory\nsub:\na tool\nownlink\nmore\nsessions\nsettings\n";
        assert_eq!(again.stdout, told, "{again}");
        // It failed, so it is kept once more; ended well, only what it changed in the workspace is.
        let done = bb(world, engine, &["resume", "worker", "--headless", "--prompt", "id -u"]).expect(0);
        assert_eq!(done.stdout, format!("remembers began\n{OWNER}\n"), "{done}");
        assert!(!done.stderr.contains("bb resume"), "{done}");
        let state = world.bb_home().join("state/worker");
        assert!(!state.join("home.tar").exists() && !state.join("keep").exists() && state.join("layer").exists());
        bb(world, engine, &["apply", "worker", "--yes"]).expect(0);
        assert_eq!(fs::read_to_string(project.join("notes")).unwrap(), "host\nmine\n");
        assert!(!project.join("old").exists() && !project.join("sub/a").exists() && project.join("sub").exists());
        assert_eq!(fs::metadata(project.join("notes")).unwrap().uid(), OWNER);
        assert!(kept(world).is_empty());

        // Committed, it is kept whatever end it comes to, as it was then.
        let second = at_work(world, engine, "steady", "mkdir ~/.local; echo one > ~/.local/x");
        let image = "mine/worker:1";
        bb(world, engine, &["commit", "steady", "--image", "../x"]).fails(2, "usage", "image ../x", "docker tag");
        let said = bb(world, engine, &["commit", "steady", "--image", image]).expect(0);
        assert!(said.stdout.contains("steady  is kept when it ends"), "{said}");
        bb(world, engine, &["exec", "steady", "--", "sh", "-c", "echo two > ~/.local/x; touch ~/go"]).expect(0);
        let ended = second.wait().expect(0);
        assert!(
            ended.stderr.contains("session ended (exit 0)") && ended.stderr.contains("bb resume steady"),
            "{ended}"
        );
        let look = ["resume", "steady", "--headless", "--prompt", "cat ~/.local/x"];
        assert_eq!(bb(world, engine, &look).expect(0).stdout, "remembers began\none\n");
        assert!(kept(world).is_empty(), "that was a good end, and nothing was committed again");
        bb(world, engine, &["commit", "steady"]).fails(2, "usage", "steady", "bb ps");
        // A layer that cannot be written as a mount is refused where it is asked for.
        let odd = world.make_dir("od:d");
        std::os::unix::fs::chown(&odd, Some(OWNER), Some(OWNER)).unwrap();
        let text = format!(
            "--- @bb needs launch, write:{0}\nbb.launch{{command = {{'true'}}, workspace = '{0}', workspace_mode = 'overlay', \
             backend = 'docker', image = '{IMAGE}'}}\n",
            odd.display()
        );
        let recipe = world.recipe("odd.lua", &text);
        bb(world, engine, &["run", "--grant", "all", &recipe]).fails(5, "fs_unsupported", "comma", "copy");
        // The image is the user's, and its bottles begin with that home. Its containers are none of the bottle's.
        manifest(&world.bb_home(), image);
        let fresh = ["start", "worker", "--headless", "--label", "fresh", "--prompt", "cat ~/.local/x; id -u"];
        assert_eq!(bb(world, engine, &fresh).expect(0).stdout, format!("one\n{OWNER}\n"));
        let labels = engine.client().image(image).unwrap().unwrap()["Config"]["Labels"].clone();
        assert_eq!(labels["bb.slug"], "-", "{labels}");
    });
}

#[test]
fn killed_while_it_is_saved_a_container_goes_on_and_nothing_is_left_of_it_in_the_end() {
    each(|world, engine| {
        // What is saved takes a moment.
        let first = at_work(world, engine, "worker", "dd if=/dev/zero of=/home/agent/large bs=1M count=128 2>&1");
        let state = world.bb_home().join("state/worker");
        let part = state.join("home.part");
        for _ in 0..2 {
            let commit = command(world, engine, &["commit", "worker"]).spawn();
            let saving = world.until(LONG, || part.exists() || state.join("home.tar").exists());
            assert!(saving, "{}", commit.stderr());
            // First the front end, then the controller with it.
            commit.signal(SIGKILL);
            commit.wait();
        }
        world.kill_controller();
        // The next one goes on, and so does the agent.
        bb(world, engine, &["commit", "worker"]).expect(0);
        let runs =
            bb(world, engine, &["exec", "worker", "--", "sh", "-c", "grep -h State /proc/[0-9]*/status"]).expect(0);
        assert!(!runs.stdout.contains("stopped"), "{runs}");
        assert!(state.join("home.tar").exists() && !part.exists());
        // The keeper dies in a freeze.
        let freeze = command(world, engine, &["freeze", "worker"]).spawn();
        assert!(world.until(LONG, || part.exists() || freeze.has_ended()), "{}", freeze.stderr());
        for pid in world.keepers() {
            signal(pid, SIGKILL);
        }
        freeze.wait();
        first.wait();
        engine.assert_empty();
        assert!(world.until(LONG, || kept(world) == ["worker"]), "{:?}", kept(world));
        assert!(world.until(LONG, || !part.exists()));
        let again =
            bb(world, engine, &["resume", "worker", "--headless", "--prompt", "ls -s ~/large; exit 3"]).expect(1);
        assert!(again.stdout.starts_with("remembers began\n131072 "), "{again}");
        bb(world, engine, &["prune", "--yes"]).expect(0);
        assert!(!state.exists() && kept(world).is_empty());
    });
}

#[test]
fn an_ordinary_users_podman_has_layers_and_sessions_and_leaves_nothing_that_the_user_cannot_remove() {
    let Some(world) = World::of(Who::Root) else { return };
    let Some(engine) = Engine::start(&world, Which::Rootless) else { return };
    let dir = engine.dir();
    let uid = fs::metadata(dir.join("home")).unwrap().uid();
    let (home, project) = (dir.join("bb"), dir.join("project"));
    set_up(&home, &project, uid);
    let own = std::process::Command::new("chown").arg("-R").arg(format!("{uid}:{uid}")).arg(&home).status().unwrap();
    assert!(own.success());
    fs::copy(helper().unwrap(), dir.join("bb-helper")).unwrap();
    let as_user = |args: &[&str]| {
        let set = |name: &str, value: PathBuf| format!("{name}={}", value.display());
        let env = [
            set("HOME", dir.join("home")),
            set("BB_HOME", home.clone()),
            set("BB_HELPER", dir.join("bb-helper")),
            format!("DOCKER_HOST={}", engine.address()),
        ];
        let exe = world.exe().display().to_string();
        let all = [&["-u", "bbtest", "--", "env"], &env.each_ref().map(String::as_str)[..], &[&exe], args].concat();
        let runuser = crate::support::tool("runuser").unwrap().display().to_string();
        world.program(&runuser, &all).cwd(&project).patience(LONG).spawn()
    };
    let bb = |args: &[&str]| as_user(args).wait();
    let work = format!("{WORK}; echo up; sleep 600 & wait");
    let first = as_user(&["start", "worker", "--headless", "--prompt", &work]);
    first.says("up");
    let frozen = bb(&["freeze", "worker"]).expect(0);
    assert_eq!(frozen.stdout, "worker  frozen; bb resume worker takes it up again\n");
    assert!(first.wait().expect(0).stderr.contains("bb resume worker"));
    assert!(project.join("old").exists() && project.join("sub/a").exists());
    let again =
        bb(&["resume", "worker", "--headless", "--prompt", "cat notes; sh ~/.keeper/link; id -u; rm notes"]).expect(0);
    assert_eq!(again.stdout, format!("remembers began\nhost\nmine\na tool\n{uid}\n"), "{again}");
    bb(&["apply", "worker", "--yes", "notes", "old"]).expect(0);
    assert!(!project.join("notes").exists() && !project.join("old").exists() && project.join("sub/a").exists());
    bb(&["rm", "worker"]).expect(0);
    assert!(!home.join("state/worker").exists(), "also what the kernel had made of the layer is gone");
    bb(&["controller", "stop"]).expect(0);
    engine.assert_empty();
}

#[test]
fn the_real_claude_code_continues_its_own_session_in_another_container() {
    if !has_agent("claude") {
        return need("the CLI claude (npm ci in tests/agents)");
    }
    let Some(world) = World::of(Who::Root) else { return };
    let Some(engine) = Engine::start(&world, Which::Docker) else { return };
    let project = world.home().join("project");
    set_up(&world.bb_home(), &project, OWNER);
    let image = engine.image_with_tools(&[crate::support::node_modules().join(".bin/claude")]);
    let front = format!("agent_provider: {{template: claude}}\nbackend: docker\nimage: {image}\nbudget: unlimited\n");
    fs::write(world.bb_home().join("bottles/dev.md"), format!("---\n{front}---\n")).unwrap();
    silence(&world);
    let sessions = world.bb_home().join("state/worker/keep");
    let begins = |args: &[&str], texts: &[&str]| {
        let running = command(&world, &engine, args).spawn();
        running.says("bottle worker");
        let begun = world.until(LONG, || is_in_one_file(&sessions, texts));
        assert!(begun, "{texts:?} in no session\n{}\n{}", running.stdout(), running.stderr());
        bb(&world, &engine, &["freeze", "worker"]).expect(0);
        running.signal(nix::sys::signal::SIGINT);
        running.wait();
    };
    begins(&["start", "worker", "--headless", "--prompt", "the first word is plum"], &["the first word is plum"]);
    let both = ["the first word is plum", "and the second is pear"];
    begins(&["resume", "worker", "--headless", "--prompt", both[1]], &both);
    bb(&world, &engine, &["rm", "worker"]).expect(0);
    assert!(!sessions.exists());
    engine.assert_empty();
}

//! Bad endings of bottles out of containers: a controller killed while one is saved, a disk that is full, an image or a workspace that
//! is gone. Each is said, loses no session and leaves nothing.

use std::fs;

use crate::docker_state::{LONG, at_work, bb, command, each_in, kept, manifest, volumes};
use crate::support::engine::{Engine, IMAGE};
use crate::support::{Output, World};

/// The disk that state lies on, kilobytes.
const DISK: u32 = 160 << 10;

/// Gets the names of all images of an engine; one that has none is `<none>`.
fn images(engine: &Engine<'_>) -> Vec<String> {
    let list = engine.client().json("GET", "/images/json?all=true", None).unwrap();
    let named = |image: &serde_json::Value| match image["RepoTags"].as_array() {
        Some(names) if !names.is_empty() => names.iter().map(|name| name.as_str().unwrap().to_owned()).collect(),
        _ => vec!["<none>".to_owned()],
    };
    // Podman says which registry a name would be of.
    let short = |name: String| match name.split_once('/') {
        Some(("localhost", rest)) => rest.to_owned(),
        Some(("docker.io", rest)) => rest.trim_start_matches("library/").to_owned(),
        _ => name,
    };
    list.as_array().unwrap().iter().flat_map(named).map(short).collect()
}

/// Runs bb where no workspace is needed.
fn away(world: &World, engine: &Engine<'_>, args: &[&str]) -> Output {
    command(world, engine, args).cwd(world.home()).run()
}

#[test]
fn a_container_of_a_bad_end_loses_no_session_and_leaves_nothing() {
    let prepare = |world: &World| {
        let state = world.make_dir(world.bb_home().join("state"));
        world.small(&state, DISK);
    };
    each_in(prepare, |world, engine| {
        killed_while_it_is_saved(world, engine);
        without_what_it_needs(world, engine);
        full(world, engine);
    });
}

/// Ends with a bottle `worker` that is frozen.
fn killed_while_it_is_saved(world: &World, engine: &Engine<'_>) {
    let state = world.bb_home().join("state/worker");
    let is_there = |name: &str| world.inside(&state.join(name)).exists();
    let first = at_work(world, engine, "worker", "dd if=/dev/zero of=/home/agent/large bs=1M count=48 2>&1");
    let commit = command(world, engine, &["commit", "worker", "--image", "mine/worker:killed"]).spawn();
    // There is a moment at which a container of the image is there.
    let making = world.until(LONG, || !engine.containers(Some("image")).is_empty() || commit.has_ended());
    assert!(making, "{}", commit.stderr());
    world.kill_controller();
    commit.wait();
    // The bottle goes on, and can be told the same again.
    bb(world, engine, &["commit", "worker", "--image", "mine/worker:1"]).expect(0);
    let states = bb(world, engine, &["exec", "worker", "--", "sh", "-c", "grep -h State /proc/[0-9]*/status"]);
    assert!(!states.expect(0).stdout.contains("stopped"));

    // A freeze is gone on with: what its agent has done since is not lost.
    bb(world, engine, &["exec", "worker", "--", "sh", "-c", "echo since > ~/since"]).expect(0);
    let freeze = command(world, engine, &["freeze", "worker"]).spawn();
    assert!(world.until(LONG, || is_there("home.part") || freeze.has_ended()), "{}", freeze.stderr());
    world.kill_controller();
    freeze.wait();
    first.wait();
    assert!(world.until(LONG, || kept(world) == ["worker"]), "{:?}", world.bb(&["ps", "--all", "--json"]));
    engine.assert_empty();
    assert!(world.until(LONG, || volumes(engine) == 0 && !is_there("home.part")));
    // What was asked for by name may be there or not, and not named yet if its maker was killed in that moment; nothing else is.
    let asked_for = |name: &String| name == "mine/worker:killed" || name == "<none>";
    assert!(images(engine).iter().filter(|name| asked_for(name)).count() <= 1, "{:?}", images(engine));
    let left: Vec<String> = images(engine).into_iter().filter(|name| !asked_for(name)).collect();
    let mut expected = [format!("{IMAGE}:latest"), "bb-empty:latest".to_owned(), "mine/worker:1".to_owned()];
    expected.sort();
    let mut sorted = left.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
}

/// Begins with what was left above, and ends with nothing.
fn without_what_it_needs(world: &World, engine: &Engine<'_>) {
    let resume = ["resume", "worker", "--headless", "--prompt", "ls -s ~/large; cat ~/since; exit 3"];
    let project = world.home().join("project");
    let aside = world.home().join("aside");
    fs::rename(&project, &aside).unwrap();
    away(world, engine, &resume).fails(5, "workspace_unsafe", "project", "put the directory back");
    fs::rename(&aside, &project).unwrap();

    manifest(&world.bb_home(), "registry.example/none:9");
    let missing = |output: Output| output.fails(5, "backend_unavailable", "unix://", "pull registry.example/none:9");
    missing(bb(world, engine, &resume));
    missing(bb(world, engine, &["start", "worker", "--headless", "--label", "none", "--prompt", "true"]));
    assert_eq!(kept(world), ["worker"], "nothing was begun, and nothing is lost");
    manifest(&world.bb_home(), IMAGE);

    let again = bb(world, engine, &resume).expect(1);
    assert_eq!(
        again.stdout.split_whitespace().collect::<Vec<_>>(),
        ["remembers", "began", "49152", "/home/agent/large", "since"]
    );
    bb(world, engine, &["prune", "--yes"]).expect(0);
    assert!(kept(world).is_empty() && !world.inside(&world.bb_home().join("state/worker")).exists());
    engine.assert_empty();
}

/// The disk below the layer is full: that is the agent's error, and bb can say so, show what fitted and take it away.
fn full(world: &World, engine: &Engine<'_>) {
    let script = "echo mine >> notes; dd if=/dev/zero of=big bs=1M count=400 && exit 0; exit 7";
    let start = ["start", "worker", "--headless", "--label", "full", "--prompt", script];
    let ended = bb(world, engine, &start).expect(1);
    assert!(ended.stderr.contains("session ended (exit 7)"), "{ended}");
    // What the agent printed had no place either, so that is said.
    assert!(ended.stderr.contains("/state/full is full: the last that it wrote or printed may be lost"), "{ended}");
    let changed = bb(world, engine, &["diff", "full", "--stat"]).expect(0);
    assert!(changed.stdout.contains("notes") && changed.stdout.contains("big"), "{changed}");
    assert_eq!(kept(world), ["full"]);
    bb(world, engine, &["rm", "full"]).expect(0);
    assert!(!world.inside(&world.bb_home().join("state/full")).exists());
    let free = ["start", "worker", "--headless", "--label", "free", "--prompt", "echo room > x && cat x"];
    assert_eq!(bb(world, engine, &free).expect(0).stdout, "room\n");
    bb(world, engine, &["prune", "--yes"]).expect(0);
}

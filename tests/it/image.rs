//! Images of backend `docker`: built of Dockerfiles with this machine's settings as secrets, pulled, listed, removed. What the
//! real agents do in them is in [`agents`].
//!
//! Each test starts an engine or two of root's. Nothing leaves the machine: bases are imported, registries are the world's.

mod agents;

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::dockerd::archive;
use crate::support::engine::{Engine, IMAGE, Which, helper};
use crate::support::packages;
use crate::support::person::{person_with, written};
use crate::support::{Command, Output, Reply, Who, World, tool};

/// How long something may take that an engine does in some seconds.
const LONG: Duration = Duration::from_secs(120);

/// Runs a test on each engine.
fn each(test: impl Fn(&World, &Engine<'_>)) {
    for which in Which::ALL {
        with(which, &test);
    }
}

fn with(which: Which, test: impl Fn(&World, &Engine<'_>)) {
    let Some(world) = World::of(Who::Root) else { return };
    let Some(engine) = Engine::start(&world, which) else { return };
    test(&world, &engine);
    engine.assert_empty();
}

/// What `bb` needs to know of an engine. The engines of tests have no network for the steps of a build.
fn env(engine: &Engine<'_>) -> [(&'static str, String); 3] {
    let helper = helper().unwrap().display().to_string();
    [("DOCKER_HOST", engine.address()), ("BB_HELPER", helper), ("BB_BUILD_NETWORK", "none".to_owned())]
}

fn command<'w>(world: &'w World, engine: &Engine<'_>, args: &[&str]) -> Command<'w> {
    let command = world.command(args).patience(LONG);
    env(engine).into_iter().fold(command, |command, (name, value)| command.env(name, value))
}

fn bb(world: &World, engine: &Engine<'_>, args: &[&str]) -> Output {
    command(world, engine, args).run()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Gets the files below `dir` that contain `needle`.
fn files_with(dir: &Path, needle: &str) -> String {
    let found = std::process::Command::new("grep").args(["-rlaF", needle]).arg(dir).output().unwrap();
    String::from_utf8_lossy(&found.stdout).into_owned()
}

/// Gets what an engine says of an image's history, and the image itself as an archive.
fn layers(engine: &Engine<'_>, tag: &str) -> (String, Vec<u8>) {
    let history = engine.client().json("GET", &format!("/images/{tag}/history"), None).unwrap().to_string();
    let socket = engine.address().replace("unix://", "");
    let url = format!("http://engine/v1.40/images/{tag}/get");
    let saved = std::process::Command::new("curl").args(["-sf", "--unix-socket", &socket, &url]).output().unwrap();
    assert!(saved.status.success());
    (history, saved.stdout)
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|w| w == needle.as_bytes())
}

#[test]
fn an_image_is_built_once_for_its_content_and_what_the_host_told_it_is_in_no_layer() {
    each(|world, engine| {
        const TOKEN: &str = "npm-token-canary-5417";
        const PROXY: &str = "proxy-password-canary-9023";
        const PIP: &str = "pip-password-canary-7321";
        const APT: &str = "apt-password-canary-4410";
        let npmrc = format!("registry=https://npm.corp/\n//npm.corp/:_authToken={TOKEN}\n");
        world.write(".npmrc", format!("{npmrc}nodedir=/usr\n"));
        let mut arrives =
            "RUN --mount=type=secret,id=pip,target=/etc/pip.conf grep -q pip.corp /etc/pip.conf\n".to_owned();
        if tool("apt-get").is_some() {
            packages::apt_settings(world, &format!("Acquire::http::Proxy \"http://u:{APT}@apt.corp:3142\";\n"));
            let at = "/etc/apt/apt.conf.d/99host";
            arrives += &format!("RUN --mount=type=secret,id=apt,target={at} test -s {at} && grep -q apt.corp {at}\n");
        }
        let dockerfile = |more: &str| {
            // It fails where the secret or the proxy does not arrive, and leaves a mark that can be found.
            let text = format!(
                "ARG BASE={IMAGE}\nFROM ${{BASE}}\nARG VERSION=1\n\
                 RUN --mount=type=secret,id=npmrc,target=/root/.npmrc sha256sum </root/.npmrc | grep -q {} \\\n    \
                 && test -n \"$HTTP_PROXY\" && echo \"mark-of\"\"-the-build $VERSION\" >/mark \\\n    \
                 && cat /proc/sys/kernel/random/uuid >>/mark\n{arrives}{more}",
                sha256(npmrc.as_bytes())
            );
            world.write(world.bb_home().join("images/mine.Dockerfile"), text);
        };
        let build = |args: &[&str]| {
            let args = [&["image", "build", "mine"], args].concat();
            let command = command(world, engine, &args).env("HTTP_PROXY", format!("http://u:{PROXY}@10.0.0.1:3128"));
            command.env("PIP_INDEX_URL", format!("https://u:{PIP}@pip.corp/simple")).run()
        };
        dockerfile("");
        let built = build(&[]).expect(0);
        let tag = built.stdout.trim().to_owned();
        assert!(tag.starts_with("bb/mine:") && tag.len() == "bb/mine:".len() + 12, "{built}");
        for said in [&format!("building {tag}\n"), "RUN --mount=type=secret", &format!("built {tag} in ")] {
            assert!(built.stderr.contains(said), "{said}: {built}");
        }
        // Neither in what the image is made of, nor anywhere in what the engine keeps; the mark is what can be found there.
        let (history, saved) = layers(engine, &tag);
        assert!(history.contains("VERSION") && contains(&saved, "mark-of-the-build 1"), "{history}");
        assert!(!files_with(&engine.dir().join("data"), "mark-of-the-build 1").is_empty());
        for canary in [TOKEN, PROXY, PIP, APT] {
            assert!(!history.contains(canary) && !contains(&saved, canary), "{canary}: {history}");
            assert_eq!(files_with(&engine.dir().join("data"), canary), "", "{canary}");
            assert!(!built.stderr.contains(canary) && !built.stdout.contains(canary), "{built}");
        }

        // An argument is as good as another Dockerfile.
        let argued = build(&["--build-arg", "VERSION=7"]).expect(0).stdout.trim().to_owned();
        assert!(argued != tag && contains(&layers(engine, &argued).1, "mark-of-the-build 7"), "{argued}");
        assert_eq!(build(&["--build-arg", "VERSION=7"]).expect(0).stdout.trim(), argued);
        bb(world, engine, &["image", "rm", &argued]).expect(0);
        build(&["--build-arg", "a-b=7"]).fails(2, "usage", "--build-arg", "NAME=VALUE");

        let again = build(&[]).expect(0);
        assert!(again.stdout.trim() == tag && again.stderr.contains("there already"), "{again}");
        dockerfile("RUN true\n");
        let other = build(&["--json"]).expect(0).json();
        assert!(other.iter().all(|line| line["v"] == 1 && line["type"] == "image"), "{other:?}");
        assert!(other.iter().any(|line| line["state"] == "building" && line["step"].as_u64() > Some(0)), "{other:?}");
        let last = other.last().unwrap();
        assert!(last["state"] == "built" && last["image"] != tag.as_str(), "{other:?}");
        // What both have in common was not done again: the steps before the changed one have made the same layers.
        let made = |image: &str| -> Vec<serde_json::Value> {
            let about = engine.client().json("GET", &format!("/images/{image}/json"), None).unwrap();
            about["RootFS"]["Layers"].as_array().unwrap().clone()
        };
        let (before, after) = (made(&tag), made(last["image"].as_str().unwrap()));
        assert!(before.len() > 1 && after.starts_with(&before), "{before:?}, {after:?}");

        // A step that fails is named with what it said last.
        let long = "i=0; while [ $i -lt 40 ]; do echo \"line-$i\"; i=$((i+1)); done";
        world.write("bad/Dockerfile", format!("FROM {IMAGE}\nRUN {long}; printf '\\033[2Jend\\n'; exit 9\n"));
        let bad = world.home().join("bad/Dockerfile").display().to_string();
        let failed = bb(world, engine, &["image", "build", "--dockerfile", &bad]);
        failed.fails(5, "backend_unavailable", &bad, "correct the Dockerfile");
        assert!(failed.stderr.contains("| line-39\n") && !failed.stderr.contains("| line-1\n"), "{failed}");
        assert!(failed.stderr.contains("\\u{1b}[2Jend") && !failed.stderr.contains('\x1b'), "{failed}");
        bb(world, engine, &["image", "build", "cloude"]).fails(2, "usage", "cloude", "`claude`");

        let listed = bb(world, engine, &["image", "ls", "--json"]).expect(0).json();
        let names: Vec<&str> = listed.iter().filter_map(|image| image["image"].as_str()).collect();
        assert!(names.len() == 2 && names.contains(&tag.as_str()), "{listed:?}");
        let complete = |words: &[&str]| {
            command(world, engine, &[&["--", "bb", "image"], words].concat()).env("COMPLETE", "fish").run()
        };
        assert!(complete(&["rm", "bb/m"]).stdout.contains(&tag));
        assert!(complete(&["build", "cl"]).stdout.contains("claude"));
        bb(world, engine, &["image", "rm", IMAGE]).fails(2, "usage", IMAGE, "bb image ls");
        bb(world, engine, &["image", "rm", &tag]).expect(0);
        assert!(!bb(world, engine, &["image", "ls"]).expect(0).stdout.contains(&tag));
        let socket = "unix:///nonexistent/s";
        let none = command(world, engine, &["image", "ls"]).env("DOCKER_HOST", socket).run();
        none.fails(5, "backend_unavailable", "/nonexistent/s", "start it");
    });
}

#[test]
fn a_build_is_drawn_on_one_line_of_a_terminal_and_ends_with_ctrl_c() {
    with(Which::Docker, |world, engine| {
        world.write("slow/Dockerfile", format!("FROM {IMAGE}\nRUN echo one\nRUN echo two; sleep 600\n"));
        let slow = world.home().join("slow/Dockerfile").display().to_string();
        let steps = [
            json!(["expect", "building bb/command:"]),
            json!(["expect", "3/3 RUN echo two"]),
            json!(["type", "\u{3}"]),
            json!(["expect", "error[interrupted]"]),
            json!(["end", 130]),
        ];
        let env = env(engine);
        let args = ["image", "build", "--dockerfile", &slow];
        let shown = written(&person_with(world, "slow", &env, &args, &steps).wait().expect(0));
        let lines = shown.split("error[interrupted]").next().unwrap();
        assert!(!lines.contains('\n') && lines.matches("\r\x1b[K").count() > 2, "{shown:?}");
        assert!(lines.split("\r\x1b[K").all(|line| line.chars().count() < 80), "{shown:?}");
        // What was begun is ended, also the step that ran.
        let sleeps = || world.processes().iter().any(|p| p.command.contains("sleep 600"));
        assert!(world.until(LONG, || !sleeps()), "{:?}", world.processes());
        assert_eq!(bb(world, engine, &["image", "ls", "--json"]).expect(0).stdout, "");
        // Nor does a recipe that is stopped leave a build behind.
        let recipe = format!(
            "--- @bb needs launch, image\nbb.launch{{command = {{'true'}}, backend = 'docker', dockerfile = '{slow}'}}\n"
        );
        let recipe = world.recipe("slow.lua", &recipe);
        let running = command(world, engine, &["run", "--grant", "all", &recipe]).spawn();
        assert!(world.until(LONG, || running.stderr().contains("RUN echo two") && sleeps()), "{}", running.stderr());
        running.signal(Signal::SIGINT);
        running.wait().expect(130);
        assert!(world.until(LONG, || !sleeps()), "{:?}", world.processes());
        // Without a terminal the same ends it.
        let running = command(world, engine, &args).spawn();
        assert!(world.until(LONG, || running.stderr().contains("RUN echo two")), "{}", running.stderr());
        running.signal(Signal::SIGINT);
        let ended = running.wait().expect(130);
        assert!(ended.stderr.contains("error[interrupted]: the image bb/command:"), "{ended}");
    });
}

/// A bottle and an agent whose provider is a shell, on backend docker.
fn shelf(world: &World, bottle: &str) {
    let home = world.bb_home();
    let shell = "return { name = 'shell', argv = function(ctx) return { 'sh', '-c', ctx.prompt } end }";
    world.write(home.join("providers/shell.lua"), shell);
    let front = format!(
        "---\nagent_provider: {{template: shell}}\nbackend: docker\nworkspace: mount\n{bottle}---\nFor people.\n"
    );
    world.write(home.join("bottles/dev.md"), front);
    world.write(home.join("agents/tester.md"), "---\nbottle: dev\n---\nYou test.\n");
    let project = world.make_dir("project");
    std::os::unix::fs::chown(project, Some(4711), Some(4711)).unwrap();
}

fn start(world: &World, engine: &Engine<'_>, args: &[&str]) -> Output {
    let args = [&["start", "tester"], args].concat();
    command(world, engine, &args).cwd(world.home().join("project")).run()
}

/// Gets the row of a preflight.
fn row(output: &Output, key: &str) -> String {
    let line = output.stderr.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap_or_else(|| panic!("no row {key}: {output}")).trim().to_owned()
}

#[test]
fn a_launch_builds_its_providers_image_after_the_preflight_and_only_once() {
    // What differs on Podman has its tests above and below.
    with(Which::Docker, |world, engine| {
        shelf(world, "");
        let dockerfile = |mark: &str| {
            let text = format!("FROM {IMAGE}\nRUN echo {mark} >/etc/mark\n");
            world.write(world.bb_home().join("images/shell.Dockerfile"), text);
        };
        dockerfile("first");
        let run = ["--headless", "--prompt", "cat /etc/mark"];
        let images = || bb(world, engine, &["image", "ls", "--json"]).expect(0).json().len();
        let dry = start(world, engine, &["--dry-run"]).expect(0);
        let image = row(&dry, "image");
        assert!(image.starts_with("bb/shell:") && image.ends_with(" (to be built)"), "{dry}");
        assert_eq!(images(), 0, "a dry run builds nothing");
        let first = start(world, engine, &run).expect(0);
        assert_eq!(first.stdout, "first\n", "{first}");
        let (built, begun) = (first.stderr.find("built bb/shell:"), first.stderr.find("bottle tester"));
        assert!(built.is_some() && built < begun, "{first}");
        let second = start(world, engine, &run).expect(0);
        assert!(second.stdout == "first\n" && !second.stderr.contains("built"), "{second}");
        assert!(!row(&start(world, engine, &["--dry-run"]).expect(0), "image").contains("to be"));
        // A skill is the agent's own there too, with the modes that it has on the host.
        let skill = world.bb_home().join("skills/house-style");
        world.write(skill.join("SKILL.md"), "Two spaces.\n");
        let script = world.write(skill.join("scripts/check"), "#!/bin/sh\necho checked\n");
        std::fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let agent = world.bb_home().join("agents/tester.md");
        world.write(&agent, "---\nbottle: dev\nskills: [house-style]\n---\nYou test.\n");
        let look = "cd ~/skills/house-style; stat -c '%u %a' SKILL.md scripts/check; stat -c %u . scripts; scripts/check; \
            echo more >SKILL.md && id -u";
        let seen = start(world, engine, &["--headless", "--prompt", look]).expect(0).stdout;
        let uid = seen.lines().last().unwrap_or_default();
        assert_eq!(seen, format!("{uid} 644\n{uid} 755\n{uid}\n{uid}\nchecked\n{uid}\n"));
        assert_ne!(uid, "0");
        world.write(&agent, "---\nbottle: dev\n---\nYou test.\n");
        dockerfile("second");
        let third = start(world, engine, &run).expect(0);
        assert!(third.stdout == "second\n" && third.stderr.contains("built"), "{third}");
        assert_eq!(images(), 2);

        // One that a manifest names has the files beside it, and is refused where the agent writes.
        world.write("docker/Dockerfile", format!("FROM {IMAGE}\nCOPY data /etc/mark\n"));
        world.write("docker/data", "third\n");
        shelf(world, "dockerfile: ~/docker/Dockerfile\n");
        assert_eq!(start(world, engine, &run).expect(0).stdout, "third\n");
        // What must not be in an image is left out of the context, and a manifest gives arguments.
        let text = format!("FROM {IMAGE}\nARG MARK=none\nCOPY . /seen\nRUN (echo $MARK; ls -A /seen) >/etc/mark\n");
        world.write("docker/Dockerfile", text);
        world.write("docker/.env", "SECRET=1\n");
        world.write("docker/.dockerignore", ".env\nDockerfile\n");
        shelf(world, "dockerfile: ~/docker/Dockerfile\nbuild_args: {MARK: given}\n");
        let seen = start(world, engine, &run).expect(0).stdout;
        assert!(seen.starts_with("given\n") && seen.contains("data") && !seen.contains(".env"), "{seen}");
        world.write("project/Dockerfile", format!("FROM {IMAGE}\n"));
        shelf(world, "dockerfile: ~/project/Dockerfile\n");
        start(world, engine, &run).fails(5, "workspace_unsafe", "project/Dockerfile", "$BB_HOME/images");
        // A step that fails starts nothing.
        world.write("docker/Dockerfile", format!("FROM {IMAGE}\nRUN exit 3\n"));
        shelf(world, "dockerfile: ~/docker/Dockerfile\n");
        start(world, engine, &run).fails(5, "backend_unavailable", "docker/Dockerfile", "correct the Dockerfile");
        // A recipe's own needs a grant; two that want the same build it once.
        world.write("docker/Dockerfile", format!("FROM {IMAGE}\nCOPY data /etc/mark\nRUN echo fourth >/etc/mark\n"));
        let path = world.home().join("docker/Dockerfile").display().to_string();
        let recipe = |needs: &str| {
            let text = format!(
                "--- @bb needs {needs}\nlocal function one()\n  local b = bb.launch{{command = {{'cat', '/etc/mark'}}, \
                 backend = 'docker', dockerfile = '{path}'}}\n  b:wait()\n  for f in b:logs() do print(f.text) end\nend\n\
                 bb.all{{one, one}}\n"
            );
            world.recipe("own.lua", &text)
        };
        bb(world, engine, &["run", "--grant", "all", &recipe("launch")]).fails(4, "not_granted", "own.lua", "image");
        let both = bb(world, engine, &["run", "--grant", "all", &recipe("launch, image")]).expect(0);
        assert_eq!((both.stdout.matches("fourth").count(), both.stderr.matches("built ").count()), (2, 1), "{both}");
    });
}

/// An image as a registry serves it (OCI distribution, image-spec): by path, the type and the bytes.
fn registry(archive: &[u8]) -> Vec<(String, &'static str, Vec<u8>)> {
    let mut layer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut layer, archive).unwrap();
    let layer = layer.finish().unwrap();
    let digest = |bytes: &[u8]| format!("sha256:{}", sha256(bytes));
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(archive)]}});
    let config = config.to_string().into_bytes();
    let blob = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()});
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": blob("application/vnd.docker.container.image.v1+json", &config),
        "layers": [blob("application/vnd.docker.image.rootfs.diff.tar.gzip", &layer)]});
    let manifest = manifest.to_string().into_bytes();
    let kind = "application/vnd.docker.distribution.manifest.v2+json";
    vec![
        ("/v2/".to_owned(), "application/json", b"{}".to_vec()),
        (format!("/v2/app/manifests/{}", digest(&manifest)), kind, manifest.clone()),
        ("/v2/app/manifests/1".to_owned(), kind, manifest),
        (format!("/v2/app/blobs/{}", digest(&config)), "application/octet-stream", config),
        (format!("/v2/app/blobs/{}", digest(&layer)), "application/octet-stream", layer),
    ]
}

#[test]
fn an_image_that_is_missing_is_pulled_where_somebody_has_agreed() {
    each(|world, engine| {
        let served = registry(&archive(&world.make_dir("busybox"), &tool("busybox").unwrap()));
        let site = world.site("registry.example", move |seen| {
            let found = served.iter().find(|(path, ..)| *path == seen.path);
            let Some((_, kind, bytes)) = found else {
                return Reply { status: 404, headers: vec![], body: "{}".into() };
            };
            let length = ("content-length", bytes.len().to_string());
            let digest = ("docker-content-digest", format!("sha256:{}", sha256(bytes)));
            let body = if seen.method == "HEAD" { Vec::new() } else { bytes.clone() };
            Reply {
                status: 200,
                headers: vec![("content-type", (*kind).to_owned()), length, digest],
                body: body.into(),
            }
        });
        // A recipe that nobody granted it says what gets it, and asks nobody.
        let recipe = |needs: &str, image: &str| {
            let options = format!("command = {{'echo', 'from the registry'}}, backend = 'docker', image = '{image}'");
            let text = format!(
                "--- @bb needs {needs}\nlocal b = bb.launch{{{options}}}\nb:wait()\nfor f in b:logs() do print(f.text) end\n"
            );
            world.recipe("pull.lua", &text)
        };
        let run = |recipe: &str| bb(world, engine, &["run", "--grant", "all", recipe]);
        let image = "registry.example/app:1";
        run(&recipe("launch", image)).fails(5, "backend_unavailable", "unix://", "pull registry.example/app:1");
        assert!(site.seen().is_empty());
        let missing = run(&recipe("launch, image", "registry.example/other:2"));
        missing.fails(5, "backend_unavailable", "unix://", "pull registry.example/other:2");
        assert!(missing.stderr.contains("could not be pulled"), "{missing}");
        assert!(!site.seen().is_empty());

        shelf(world, &format!("image: {image}\n"));
        let dry = start(world, engine, &["--dry-run"]).expect(0);
        assert_eq!(row(&dry, "image"), format!("{image} (to be pulled)"), "{dry}");
        let pulled = start(world, engine, &["--headless", "--prompt", "echo from the registry"]).expect(0);
        assert_eq!(pulled.stdout, "from the registry\n", "{pulled}");
        assert!(pulled.stderr.contains(&format!("pulled {image} in ")), "{pulled}");
        let before = site.seen().len();
        let again = run(&recipe("launch", image)).expect(0);
        assert!(again.stdout.contains("from the registry") && site.seen().len() == before, "{again}");
        world.assert_silent(&["registry.example"]);
    });
}

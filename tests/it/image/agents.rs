//! The real agents in images that are built for them, of the Dockerfiles that bb ships and of a Debian.

use serde_json::json;

use super::{bb, command, each};
use crate::agents::{CLAUDE, CODEX, Cli, GEMINI, PI, stand_in};
use crate::support::engine::{Engine, Which};
use crate::support::packages::{self, Packages};
use crate::support::{World, debian, full, has_agent, have_tools, need, tool};

/// The agent whose image is built of the Dockerfile as it is shipped: it is one package, and the smallest of them. The long
/// check has Docker build those as well that bring native executables; Pi is more packages than a registry is worth.
const SHIPPED: &str = "gemini";

fn is_shipped(cli: &Cli, engine: &Engine<'_>) -> bool {
    cli.name == SHIPPED || has_natives(engine) && ["claude", "codex"].contains(&cli.name)
}

fn has_natives(engine: &Engine<'_>) -> bool {
    full() && engine.which == Which::Docker
}

/// What the registry has for them, as `npm ci` has put it into `node_modules`.
fn installed(engine: &Engine<'_>) -> &'static [&'static str] {
    const NATIVES: [&str; 2] = ["@anthropic-ai/claude-code-linux-x64", "@openai/codex-linux-x64"];
    let all = &["@google/gemini-cli", "@anthropic-ai/claude-code", "@openai/codex", NATIVES[0], NATIVES[1]];
    if has_natives(engine) { all } else { &all[..1] }
}

/// Changes the end of the shipped Dockerfile, and builds it: what comes before is there already, so nobody is asked for packages.
fn is_built_anew_from_its_end(world: &World, engine: &Engine<'_>, base: &str, packages: &Packages) {
    let shipped = include_str!("../../../lua/images/gemini.Dockerfile");
    world.write(world.bb_home().join("images/gemini.Dockerfile"), format!("{shipped}RUN echo more >/more\n"));
    let before = packages.asked();
    let args = ["image", "build", SHIPPED, "--build-arg", &format!("BASE={base}")];
    let built = command(world, engine, &args).env("BB_BUILD_NETWORK", "host").run().expect(0);
    assert!(built.stderr.contains("RUN echo more"), "{built}");
    assert_eq!(packages.asked(), before, "{built}");
    let tag = built.stdout.trim();
    let history = engine.client().json("GET", &format!("/images/{tag}/history"), None).unwrap().to_string();
    assert!(history.contains("npm install"), "{history}");
    for canary in [packages::NPM_TOKEN, packages::APT_PASSWORD] {
        assert!(!history.contains(canary) && !built.stderr.contains(canary), "{canary}: {history}: {built}");
    }
}

/// Has a real agent do a task with a tool, in a container of an image that is built for it and has all that it needs.
fn does_its_task(world: &World, engine: &Engine<'_>, base: &str, cli: &Cli) {
    let home = world.bb_home();
    let mut bottle = format!("agent_provider: {{template: {}}}\nbackend: docker\nworkspace: mount\n", cli.name);
    if is_shipped(cli, engine) {
        // The Dockerfile that bb brings, on this base: its steps get their packages where this machine would.
        bottle += &format!("build_args: {{BASE: {base}}}\n");
    } else {
        let text = format!("FROM {base}\nRUN ln -s {}/{1} /usr/bin/{1}\n", debian::PROGRAMS, cli.name);
        world.write(home.join(format!("images/{}.Dockerfile", cli.name)), text);
    }
    let bottle = format!("---\n{bottle}---\nFor people.\n");
    world.write(home.join(format!("bottles/{}.md", cli.name)), bottle);
    world.write(home.join(format!("agents/{}-agent.md", cli.name)), format!("---\nbottle: {}\n---\n", cli.name));
    let work = world.make_dir(format!("work-{}", cli.name));
    std::os::unix::fs::chown(&work, Some(4711), Some(4711)).unwrap();
    let before = usage(world, engine);
    let agent = format!("{}-agent", cli.name);
    let args = ["start", &agent, "--headless", "--prompt", "Write hello.txt.", "--budget", "200k", "--timeout", "100s"];
    let command = command(world, engine, &args).env(cli.keys[0].0, "sk-canary-of-the-image-test").cwd(&work);
    let network = if is_shipped(cli, engine) { "host" } else { "none" };
    let output = command.env("BB_BUILD_NETWORK", network).run().expect(0);
    let written = std::fs::read_to_string(work.join("hello.txt")).unwrap_or_default();
    assert_eq!(written.trim(), "hello", "{}: {output}", cli.name);
    assert!(output.stderr.contains(&format!("built bb/{}:", cli.name)), "{output}");
    let after = usage(world, engine);
    let asides = cli.asides as u64;
    // What was scripted, and what a stand-in says of the questions beside the task.
    // The first message of Codex's socket asks for nothing and is counted as a request.
    let greeting = u64::from(cli.name == "codex");
    let expected = [2 + asides + greeting, 900 + 1100 + 24 * asides, 100, 40 + 9 + 6 * asides];
    for (class, (now, (then, added))) in CLASSES.iter().zip(after.iter().zip(before.iter().zip(expected))) {
        assert_eq!(now - then, added, "{}: {class}: {output}", cli.name);
    }
}

const CLASSES: [&str; 4] = ["requests", "input", "cache_read", "output"];

fn usage(world: &World, engine: &Engine<'_>) -> [u64; 4] {
    // The controller is told where the static build lies by whoever starts it.
    let total = bb(world, engine, &["usage", "--json"]).expect(0).json().remove(0)["total"].clone();
    CLASSES.map(|class| total[class].as_u64().unwrap_or_default())
}

#[test]
fn the_real_agents_do_a_task_in_images_of_debian_that_were_built_for_them() {
    let table = [&CLAUDE, &CODEX, &GEMINI, &PI];
    let missing: Vec<&str> = table.iter().map(|cli| cli.name).filter(|name| !has_agent(name)).collect();
    if !missing.is_empty() || tool("node").is_none() {
        return need(&format!("Node and the CLIs {} (npm ci in tests/agents)", missing.join(", ")));
    }
    if !have_tools(&["curl", "tar", "ldd", "npm", "dpkg-deb", "apt-get"]) {
        return;
    }
    let Some(root) = debian::root() else { return };
    each(|world, engine| {
        let edit = json!({"edit": {"path": "hello.txt", "content": "hello"},
            "usage": {"input": 900, "output": 40, "cache_read": 100}});
        let done = json!({"text": "All done.", "usage": {"input": 1100, "output": 9}});
        let _server = stand_in(world, &json!({"turns": [edit, done]}));
        let packages = Packages::serve(world, installed(engine)); // on the world's own network
        let base = debian::import(engine, &root);
        for cli in table {
            does_its_task(world, engine, base, cli);
        }
        let (npm, apt) = packages.asked();
        assert!(
            npm >= 2 && apt >= 4,
            "the package and what is said of it; three packages and their list: {npm}, {apt}"
        );
        is_built_anew_from_its_end(world, engine, base, &packages);
        world.assert_silent(&["npm.example", "apt.example"]);
    });
}

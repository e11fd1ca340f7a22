//! A person at a terminal: a script allocates one, runs `bb` in it, types, and waits for what is shown (person.py).

use std::time::Duration;

use serde_json::{Value, json};

use super::{Command, Output, Running, World};

/// How long a person's whole list of steps may take.
const PATIENCE: Duration = Duration::from_secs(120);

const PERSON: &str = include_str!("person.py");

/// The keys that detach.
pub const DETACH: &str = "\u{10}\u{11}";

/// Starts a person at a terminal of `size` who runs `bb` with these arguments and does these steps.
pub fn person<'w>(world: &'w World, name: &str, size: &str, args: &[&str], steps: &[Value]) -> Running<'w> {
    person_in(world, name, size, "", args, steps)
}

/// As [`person`], in a directory of the home.
pub fn person_in<'w>(
    world: &'w World,
    name: &str,
    size: &str,
    directory: &str,
    args: &[&str],
    steps: &[Value],
) -> Running<'w> {
    prepared(world, name, size, args, steps).cwd(world.home().join(directory)).spawn()
}

fn prepared<'w>(world: &'w World, name: &str, size: &str, args: &[&str], steps: &[Value]) -> Command<'w> {
    let (script, steps) = script_of(world, name, steps);
    let bb = world.exe().display().to_string();
    let args: Vec<_> = [script.as_str(), &steps, &bb].into_iter().chain(args.iter().copied()).collect();
    world.program("/usr/bin/python3", &args).env("TERM", "xterm-256color").env("PTY_SIZE", size).patience(PATIENCE)
}

/// As [`person`], with more of an environment.
pub fn person_with<'w>(
    world: &'w World,
    name: &str,
    env: &[(&str, String)],
    args: &[&str],
    steps: &[Value],
) -> Running<'w> {
    let command = prepared(world, name, "24x80", args, steps);
    env.iter().fold(command, |command, (name, value)| command.env(name, value.clone())).spawn()
}

/// Writes the script of a person and the list of their steps; gets the paths of both.
pub fn script_of(world: &World, name: &str, steps: &[Value]) -> (String, String) {
    let script = world.write("person.py", PERSON).display().to_string();
    let steps = world.write(format!("{name}.json"), serde_json::to_string(steps).unwrap()).display().to_string();
    (script, steps)
}

/// Has a person do it all; gets what was written to their terminal.
#[track_caller]
pub fn does(world: &World, args: &[&str], steps: &[Value]) -> String {
    written(&person(world, "steps", "24x80", args, steps).wait().expect(0))
}

/// The steps of a person who has a shell run what heeds an interrupt, presses the keys for one, and finds the shell as it was.
pub fn interrupted(prompt: &str) -> [Value; 5] {
    let heeds = "sh -c 'trap \"echo cau\"\"ght; exit\" INT; echo sta\"\"rted; while :; do sleep 0.05; done'\r";
    [
        json!(["type", heeds]),
        json!(["expect", "started"]),
        json!(["type", "\u{3}"]),
        json!(["expect", "caught"]),
        json!(["expect", prompt]),
    ]
}

/// Gets what was written to a person's terminal.
pub fn written(output: &Output) -> String {
    serde_json::from_str(output.stdout.lines().last().unwrap_or("null")).unwrap_or_default()
}

/// Launches a detached bottle whose agent has a terminal.
pub fn launch(world: &World, label: &str, command: &str) {
    let recipe = format!(
        "--- @bb needs launch\nbb.launch{{command = {command}, label = '{label}', detach = true, terminal = true}}\n"
    );
    world.bb(&["run", "--grant", "all", &world.recipe(&format!("{label}.lua"), &recipe)]).expect(0);
}

/// A shell that reads nothing of anybody's and has a prompt that is easily seen.
pub const SHELL: &str = "{'env', 'PS1=ready> ', 'bash', '--norc', '--noprofile', '-i'}";

/// Kills bottles, and waits until nothing of them is left.
#[track_caller]
pub fn ends(world: &World, slugs: &[&str]) {
    for slug in slugs {
        world.bb(&["kill", slug]).expect(0);
    }
    assert!(world.until(PATIENCE, || world.leftovers().is_empty()), "{:?}", world.leftovers());
}

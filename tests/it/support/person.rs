//! A person at a terminal: support/person.py allocates one, runs `bb` in it, types, and waits for what is shown.

use std::time::Duration;

use serde_json::Value;

use super::{Output, Running, World};

/// How long a person's whole list of steps may take.
pub const LONG: Duration = Duration::from_secs(120);

const PERSON: &str = include_str!("person.py");

/// Starts a person who runs `bb` with these arguments, in the directory `cwd` of the home, and does these steps.
pub fn person<'w>(world: &'w World, name: &str, cwd: &str, args: &[&str], steps: &[Value]) -> Running<'w> {
    let script = world.write("person.py", PERSON).display().to_string();
    let steps = world.write(format!("{name}.json"), serde_json::to_string(steps).unwrap()).display().to_string();
    let bb = world.exe().display().to_string();
    let args: Vec<_> = [script.as_str(), &steps, &bb].into_iter().chain(args.iter().copied()).collect();
    let command = world.program("/usr/bin/python3", &args).env("TERM", "xterm-256color").patience(LONG);
    command.cwd(world.home().join(cwd)).spawn()
}

/// Gets what was written to the person's terminal.
pub fn written(output: &Output) -> String {
    serde_json::from_str(output.stdout.lines().last().unwrap_or("null")).unwrap_or_default()
}

//! The quickstart recipe with the demo agent, and with real CLIs in its place.

use serde_json::Value;

use super::{CLAUDE, CODEX, Cli, GEMINI, PATIENCE, PI};
use crate::support::{Output, World};

const QUICKSTART: &str = include_str!("../../../recipes/quickstart.lua");

/// Gets the book of rehearsals by the controller's API.
fn rehearsed(world: &World) -> Vec<Value> {
    let socket = world.bb_home().join("run/controller.sock").display().to_string();
    let url = "http://bb/v1/events?book=rehearsal&since=0";
    world.program("/usr/bin/curl", &["-sS", "--unix-socket", &socket, url]).run().expect(0).json()
}

/// The mark of each line, and the types of event that it may come from.
const MARKS: [(&str, &[&str]); 7] = [
    ("start", &["bottle.running"]),
    ("allowed", &["request", "usage"]),
    ("budget", &["usage"]),
    ("refused", &["denied"]),
    ("spent", &["crossed"]),
    ("cut", &["enforced"]),
    ("end", &["bottle.ended"]),
];

/// Asserts that each line of quickstart is about an event that is in the book, and returns the lines' marks and words.
fn lines_of_events(world: &World, output: &Output) -> Vec<(String, String)> {
    let book = rehearsed(world);
    let mut lines = Vec::new();
    for line in output.stdout.lines() {
        let Some((seq, rest)) = line.trim_start().strip_prefix('#').and_then(|l| l.split_once(' ')) else { continue };
        let Ok(seq) = seq.parse::<u64>() else { continue };
        let (mark, what) = rest.trim_start().split_once(' ').unwrap();
        let event = book.iter().find(|event| event["seq"] == seq);
        let kind = event.unwrap_or_else(|| panic!("no event {seq}: {output}"))["type"].as_str().unwrap();
        assert!(MARKS.iter().any(|(m, kinds)| *m == mark && kinds.contains(&kind)), "{kind}: {line}");
        lines.push((mark.to_owned(), what.trim().to_owned()));
    }
    let marks: Vec<_> = lines.iter().map(|(mark, _)| mark.as_str()).collect();
    assert!(MARKS.iter().all(|(mark, _)| marks.contains(mark)), "{marks:?}: {output}");
    lines
}

fn said(lines: &[(String, String)], mark: &str, words: &[&str]) -> bool {
    lines.iter().any(|(m, what)| m == mark && words.iter().all(|word| what.contains(word)))
}

#[test]
fn quickstart_prints_what_is_in_the_book_and_follows_the_allow_list() {
    for world in World::each() {
        let path = world.recipe("quickstart.lua", QUICKSTART);
        let output = world.bb(&["run", &path]).expect(0);
        let lines = lines_of_events(&world, &output);
        assert!(said(&lines, "allowed", &["GET docs.example/style", "200"]), "{output}");
        assert!(said(&lines, "refused", &["paste.example", "route_missing"]), "{output}");
        assert!(said(&lines, "refused", &["198.51.100.7:22"]), "{output}");

        let entry = "  \"docs.example\", -- a page that the task is about\n";
        assert!(QUICKSTART.contains(entry));
        let path = world.recipe("changed.lua", &QUICKSTART.replace(entry, ""));
        world.bb(&["run", &path]).expect(4);
        let output = world.bb(&["run", &path, "--grant", "all"]).expect(0);
        let lines = lines_of_events(&world, &output);
        assert!(said(&lines, "refused", &["docs.example", "route_missing"]), "{output}");
        assert!(!said(&lines, "allowed", &["docs.example"]), "{output}");
        world.assert_silent(&[]);
    }
}

fn quickstart(cli: &Cli) {
    for world in cli.worlds() {
        let path = world.recipe("quickstart.lua", QUICKSTART);
        let output = world.command(&["run", &path, "--", "--agent", cli.name]).patience(PATIENCE).run().expect(0);
        let lines = lines_of_events(&world, &output);
        // Codex asks over a WebSocket, which begins with a GET.
        let method = if cli.name == "codex" { "GET" } else { "POST" };
        assert!(said(&lines, "allowed", &[method, cli.host, "tokens in"]), "{output}");
        assert!(said(&lines, "allowed", &["GET docs.example/style", "200"]), "{output}");
        assert!(said(&lines, "refused", &["paste.example"]), "{output}");
        assert!(said(&lines, "refused", &["198.51.100.7:22"]), "{output}");
        assert!(output.stdout.contains("budget is spent") || output.stdout.contains("budget is too small"), "{output}");
        world.assert_silent(&[]);
    }
}

#[test]
fn quickstart_runs_with_claude() {
    quickstart(&CLAUDE);
}

#[test]
fn quickstart_runs_with_codex() {
    quickstart(&CODEX);
}

#[test]
fn quickstart_runs_with_gemini() {
    quickstart(&GEMINI);
}

#[test]
fn quickstart_runs_with_pi() {
    quickstart(&PI);
}

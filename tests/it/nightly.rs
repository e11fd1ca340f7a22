//! `bb run recipes/nightly.lua --rehearse`: the everyday recipe comes through every kind of night, says what the ledger
//! says, and leaves nothing behind.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::looper::{self, api};
use crate::support::{Output, World, within};

const RECIPE: &str = include_str!("../../recipes/nightly.lua");

/// One line of its table.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    state: String,
    tries: u64,
    requests: u64,
    counted: u64,
    note: String,
}

/// Gets the table, by task.
fn table(output: &Output) -> BTreeMap<String, Line> {
    let below = output.stdout.lines().skip_while(|l| !l.starts_with("task ")).skip(1);
    let rows = below.take_while(|l| !l.starts_with("Together "));
    let line = |row: &str| {
        let mut words = row.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let state = words.next().unwrap().to_owned();
        let mut figure = || words.next().unwrap().replace(',', "").parse().unwrap();
        let (tries, requests, counted) = (figure(), figure(), figure());
        (name, Line { state, tries, requests, counted, note: words.collect::<Vec<_>>().join(" ") })
    };
    rows.map(line).collect()
}

/// Runs a night and holds its report against the ledger and the accounts; what is true of any night is asserted here.
fn night(world: &World, name: &str, recipe: &str) -> (Output, BTreeMap<String, Line>, Value) {
    let path = world.recipe(name, recipe);
    // The recipe that ships is trusted by its text, a copy that was changed is not.
    let grant: &[&str] = if recipe == RECIPE { &[] } else { &["--grant", "all"] };
    let output = world.bb(&[&["run", &path, "--rehearse"], grant].concat());
    let report = table(&output);
    let names: Vec<_> = report.keys().map(String::as_str).collect();
    assert_eq!(names, ["changelog", "links", "typos"], "{output}");

    // What it says of each task is what the ledger has of the task's bottles, all tries together.
    let usage = world.bb(&["usage", "--json", "--rehearsal"]).expect(0).json().remove(0);
    let rows = usage["rows"].as_array().unwrap();
    for (task, line) in &report {
        let its = rows.iter().filter(|row| {
            let rest = row["bottle"].as_str().unwrap().strip_prefix(task);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        });
        let (requests, counted) = its.fold((0, 0), |(requests, counted), row| {
            (requests + row["requests"].as_u64().unwrap(), counted + row["counted"].as_u64().unwrap())
        });
        assert_eq!((line.requests, line.counted), (requests, counted), "{task}: {usage}\n{output}");
    }
    let sum: u64 = report.values().map(|line| line.counted).sum();
    assert_eq!(usage["total"]["counted"], sum, "a bottle is in no line: {usage}\n{output}");
    assert!(sum > 0, "{output}");

    // The run was charged what its bottles were, and so was the host; nothing is reserved any more.
    let accounts = api(world, "/v1/budgets?book=rehearsal");
    let accounts = accounts["accounts"].as_array().unwrap();
    let used = |scope: &str, provider: &str| -> u64 {
        let its = accounts.iter().filter(|a| a["node"].as_str().unwrap().starts_with(scope));
        its.filter(|a| a["provider"] == provider).map(|a| a["used"].as_u64().unwrap()).sum()
    };
    assert_eq!(
        (used("run:", "demo"), used("bottle:", "demo"), used("global", "demo")),
        (sum, sum, sum),
        "{accounts:?}"
    );
    assert!(accounts.iter().all(|a| a["held"] == 0), "{accounts:?}");
    let run = accounts.iter().find(|a| a["node"].as_str().unwrap().starts_with("run:") && a["provider"] == "*");
    let run = run.unwrap_or_else(|| panic!("the run has no common budget: {accounts:?}")).clone();
    assert_eq!((&run["used"], &run["hard"]), (&Value::from(sum), &Value::from(true)), "{run}");
    let together = output.stdout.lines().find(|l| l.starts_with("Together ")).unwrap().replace(',', "");
    assert_eq!(together, format!("Together {} of {} tokens.", run["used"], run["limit"]), "{output}");

    // The real book knows nothing of it, and nobody is left.
    let real = world.bb(&["usage", "--json"]).expect(0).json().remove(0);
    assert_eq!(real["rows"], serde_json::json!([]));
    assert!(world.bb(&["ps", "--json"]).expect(0).json().is_empty());
    assert!(world.until(Duration::from_secs(5), || world.leftovers().is_empty()), "{:?}", world.leftovers());
    world.assert_silent(&[]);
    (output, report, run)
}

/// Gets the recipe with some of its text replaced.
#[track_caller]
fn changed(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(RECIPE.to_owned(), |text, (from, to)| {
        assert_eq!(RECIPE.matches(from).count(), 1, "the recipe has no {from:?} any more");
        text.replace(from, to)
    })
}

#[test]
fn with_a_key_it_works_in_a_checkout_and_the_real_book_has_it() {
    const KEY: &str = "sk-ant-nightly";
    let turns = |file: &str| {
        json!([
            {"text": "Writing.", "edit": {"path": file, "content": "done\n"}, "usage": {"input": 900, "output": 40}},
            {"text": "Done.", "usage": {"input": 100, "cache_read": 800, "output": 10}},
        ])
    };
    let cases = [("CHANGELOG", "CHANGELOG.md"), ("typos", "typos.txt"), ("link", "links.md")];
    let cases = cases.map(|(word, file)| json!({"contains": word, "turns": turns(file)}));
    for world in World::each() {
        // What stands in for the API asks for the key, under the API's own name.
        let (server, _) = looper::set_up(&world, json!({"key": KEY, "cases": cases}), &[], "");
        let checkout = world.make_dir("checkout");
        let path = world.recipe("nightly.lua", RECIPE);
        let args = ["run", path.as_str(), "--grant", "write:./checkout", "--"];
        let args = [&args[..], &["--workspace", "checkout", "--agent", "demo"]].concat();
        let output = world.command(&args).env("ANTHROPIC_API_KEY", KEY).run().expect(0);
        let report = table(&output);
        assert!(report.values().all(|line| (line.state.as_str(), line.tries) == ("done", 1)), "{output}");
        for file in ["CHANGELOG.md", "typos.txt", "links.md"] {
            assert_eq!(std::fs::read_to_string(checkout.join(file)).unwrap(), "done\n", "{file}: {output}");
        }
        let usage = world.bb(&["usage", "--json"]).expect(0).json().remove(0);
        assert_eq!((&usage["total"]["requests"], &usage["total"]["input"]), (&json!(6), &json!(3000)), "{usage}");
        assert_eq!((server.stats().total, server.stats().completed.input), (6, 3000));
        assert_eq!(usage["rehearsal"]["rows"], json!([]));
    }
}

/// The lines of the scenario that make a task fail, or spend too much.
const FAILS: &str = "  typos[2].error, typos[2].times = 400, 1000000\n";
const SPENDS: &str = "        loop = true,\n";
const LITTLE: &str = "  TASKS[3].budget = 9000\n";

#[test]
fn one_task_is_done_one_fails_one_is_cut_and_the_figures_are_the_ledgers() {
    for world in World::each() {
        let (output, report, _) = night(&world, "nightly.lua", RECIPE);
        assert_eq!(output.code, 3, "{output}");
        assert!(output.elapsed < within(Duration::from_secs(15)), "{output}");
        let said = |task: &str| (report[task].state.as_str(), report[task].tries);
        // The first try of one met a broken API; what a budget has cut is not tried again.
        assert_eq!((said("changelog"), said("typos"), said("links")), (("done", 2), ("failed", 2), ("cut", 1)));
        assert_eq!((report["changelog"].note.as_str(), report["typos"].note.as_str()), ("", "exit code 1"));
        assert!(report["links"].note.contains("this bottle's budget is too small for the next request"), "{output}");
        assert!(output.stderr.contains("changelog: exit code 1, trying again"), "{output}");
    }
}

#[test]
fn a_night_in_which_all_is_done_ends_with_0_and_one_in_which_a_task_fails_with_10() {
    for world in World::each() {
        let recipe = changed(&[(FAILS, ""), (SPENDS, "")]);
        let (output, report, _) = night(&world, "fine.lua", &recipe);
        assert_eq!(output.code, 0, "{output}");
        assert!(report.values().all(|line| line.state == "done" && line.note.is_empty()), "{output}");
    }
    for world in World::each() {
        let recipe = changed(&[(SPENDS, "")]);
        let (output, report, _) = night(&world, "failed.lua", &recipe);
        assert_eq!(output.code, 10, "{output}");
        assert_eq!((report["typos"].state.as_str(), report["links"].state.as_str()), ("failed", "done"), "{output}");
    }
}

#[test]
fn the_common_budget_binds_whatever_the_tasks_own_ones_would_allow() {
    for world in World::each() {
        let recipe = changed(&[(LITTLE, ""), ("TOGETHER = \"300k\"", "TOGETHER = \"9k\""), (FAILS, "")]);
        let (output, report, run) = night(&world, "together.lua", &recipe);
        assert_eq!(output.code, 3, "{output}");
        // The one that never ends by itself at least, and nothing of its own stood in its way.
        assert!(report["links"].state == "cut" && report["links"].note.contains("this run"), "{output}");
        let used = run["used"].as_u64().unwrap();
        // Three were at work when it was crossed; the largest of their answers has 3,090 tokens.
        assert!(run["limit"] == 9000 && used < 9000 + 3 * 3090, "{run}");
    }
}

#[test]
fn a_task_that_hangs_ends_at_its_deadline_and_counts_as_failed() {
    for world in World::each() {
        let hangs = "  typos[2].delay_ms = 600000\n";
        let recipe = changed(&[(FAILS, hangs), (SPENDS, ""), ("DEADLINE = \"30m\"", "DEADLINE = \"2s\"")]);
        let (output, report, _) = night(&world, "hangs.lua", &recipe);
        assert_eq!(output.code, 10, "{output}");
        assert_eq!((report["typos"].state.as_str(), report["typos"].tries), ("failed", 2), "{output}");
        assert_eq!(report["typos"].note, "not done within 2s", "{output}");
        // Two tries, each as long as it may be.
        assert!(
            output.elapsed > Duration::from_secs(4) && output.elapsed < within(Duration::from_secs(20)),
            "{output}"
        );
    }
}

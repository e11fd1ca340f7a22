//! Real CLIs whose budget is spent: they end soon, say why, and do not ask again and again.

use std::time::{Duration, Instant};

use bb::types::Tokens;
use serde_json::{Value, json};

use super::{CLAUDE, CODEX, Cli, GEMINI, PATIENCE, PI, events, printed, recipe, stand_in, stand_in_with};
use crate::support::{Output, World, within};

/// Has an agent spend more than it may, and returns how `bb run` ended.
fn overspend(world: &World, cli: &Cli, shutdown: &str, budget: &str, recipe: &str) -> Output {
    let workspace = world.make_dir("ws");
    let args = ["run", recipe, "--json", "--grant", "all", "--", "--agent", cli.name, "--shutdown", shutdown];
    let args = [&args[..], &["--budget", budget, workspace.to_str().unwrap()]].concat();
    world.command(&args).env(cli.keys[0].0, "sk-real").patience(PATIENCE).run()
}

/// Gets the enforcement rows of the real book.
fn enforcement(world: &World) -> Vec<(i64, String, String)> {
    let book = world.bb_home().join("bot-bottle.db");
    let book = rusqlite::Connection::open_with_flags(book, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut rows = book.prepare("SELECT seq, bottle, action FROM enforcement WHERE action IS NOT NULL").unwrap();
    rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap().map(Result::unwrap).collect()
}

fn budget(cli: &Cli) {
    // The second answer crosses the first budget. The third request, which goes on from that, is too large for what is left of the
    // second one, also if all that it says again is read from a cache.
    let ends = [("50k", "this bottle's budget is spent: 53"), ("54k", "too small for the next request")];
    for (budget, sentence) in ends {
        for world in cli.worlds() {
            let turn = |input: u64, output: u64| {
                json!({"text": "On and on.", "edit": {"path": "a.txt", "content": "x\n"},
                "usage": {"input": input, "output": output}})
            };
            let scenario = json!({"loop": true, "turns": [turn(20_000, 90), turn(30_000, 3000)]});
            let server = stand_in(&world, &scenario);
            let recipe = recipe(&world, None);
            for (shutdown, times) in [("cutoff", 1), ("kill", 2)] {
                let begun = Instant::now();
                let output = overspend(&world, cli, shutdown, budget, &recipe).expect(3);
                let lines = output.json();
                let one = |kind: &str| {
                    let all = events(&lines, kind);
                    assert_eq!(all.len(), 1, "{kind}: {output}");
                    all.into_iter().next().unwrap()
                };
                let (crossed, enforced, ended) = (one("crossed"), one("enforced"), one("bottle.ended"));
                let ms = ended["ts"].as_i64().unwrap() - crossed["ts"].as_i64().unwrap();
                eprintln!(
                    "{} {:?} {shutdown} {budget}: ended {ms} ms after the crossing, {:?}",
                    cli.name,
                    world.who,
                    begun.elapsed()
                );
                assert!(
                    u128::try_from(ms).unwrap() < within(Duration::from_secs(5)).as_millis(),
                    "it ended {ms} ms after the crossing: {output}"
                );
                // The agent says why, where it lives to do so; bb says it in any case.
                // One that is killed may or may not have had the time.
                assert!(shutdown == "kill" || printed(&lines).contains(sentence), "{output}");
                let result = lines.iter().find(|line| line["type"] == "run.result").unwrap();
                let fault = &result["fault"]["error"];
                assert_eq!((&result["exit"], &fault["kind"]), (&json!(3), &json!("budget")), "{output}");
                assert!(fault["message"].as_str().is_some_and(|m| m.contains(sentence)), "{output}");
                assert!(ended["data"]["reason"].as_str().is_some_and(|r| r.contains(sentence)), "{ended}");
                let how = if shutdown == "kill" { "budget" } else { "exited" };
                assert_eq!(ended["data"]["ended"], how, "{output}");
                // Nothing went out after the two requests that fitted, and it did not ask again and again.
                // (What has its input made ready uses nothing.)
                let mut usage = events(&lines, "usage");
                usage.retain(|u| !cli.socket || u["data"]["tokens"]["output"] != 0);
                let fitted = 2 + cli.asides;
                assert_eq!(usage.len(), fitted, "{output}");
                let aloud = |denied: &&Value| denied["data"]["host"] == cli.host && denied["data"]["quiet"] == false;
                let refused = events(&lines, "denied").iter().filter(aloud).count();
                assert!(refused <= cli.refused && (shutdown == "kill" || refused > 0), "{refused}: {output}");
                assert!(usage.iter().all(|u| u["seq"].as_u64() < enforced["seq"].as_u64()), "{output}");
                let stats = server.stats();
                let asked = stats.requests.iter().filter(|r| !cli.socket || r.scripted != Tokens::default());
                assert_eq!(asked.count(), fitted * times, "{:?}", stats.requests);
                assert!(!cli.socket || stats.requests.iter().all(|request| request.method != "POST"), "{stats:?}");
                // And what was done about it is in the book.
                assert_eq!(
                    (&enforced["data"]["action"], &enforced["data"]["by"]),
                    (&json!(shutdown), &json!("budget"))
                );
                let row = (
                    enforced["seq"].as_i64().unwrap(),
                    enforced["bottle"].as_str().unwrap().to_owned(),
                    shutdown.to_owned(),
                );
                assert!(enforcement(&world).contains(&row), "{row:?} is not in {:?}", enforcement(&world));
            }
            world.assert_silent(&[]);
        }
    }
}

#[test]
fn claude_ends_with_its_budget_and_says_why() {
    budget(&CLAUDE);
}

#[test]
fn codex_ends_with_its_budget_and_says_why() {
    budget(&CODEX);
}

#[test]
fn gemini_ends_with_its_budget_and_says_why() {
    budget(&GEMINI);
}

#[test]
fn pi_ends_with_its_budget_and_says_why() {
    budget(&PI);
}

/// Has a hard budget cut an agent's answer while it streams.
fn cut_in_the_midst(cli: &Cli) {
    for world in cli.worlds() {
        // Where what goes in is said at the end only, it is crossed by what has streamed.
        let usage = json!({"input": 38_000, "output": 30_000});
        let scenario =
            json!({"loop": true, "turns": [{"text": "on and on ".repeat(9000), "chunk_ms": 1, "usage": usage}]});
        let hard = format!("budget:\n  {}: {{tokens: 41k, hard: true}}\n", cli.name);
        let server = stand_in_with(&world, &scenario, &hard);
        let recipe = recipe(&world, None);
        let begun = Instant::now();
        let output = overspend(&world, cli, "cutoff", "unlimited", &recipe).expect(3);
        let took = begun.elapsed();
        let lines = output.json();
        let usage = events(&lines, "usage");
        assert!(usage.iter().any(|usage| usage["data"]["source"] == "partial"), "{output}");
        assert!(events(&lines, "enforced").iter().any(|enforced| enforced["data"]["action"] == "cutoff"), "{output}");
        eprintln!(
            "{} {:?}: over after {took:?}, {} requests, says {:?}",
            cli.name,
            world.who,
            server.stats().total,
            printed(&lines)
        );
        // What it prints has the budget's words: Codex's are those of the answer that broke off. The others ask once more at once, and
        // their last words are those of that refusal.
        let node = format!("this host's global budget for {} ", cli.name);
        let words = match cli.name {
            "codex" => "this answer ends here: ",
            _ => "is spent: ",
        };
        let printed = printed(&lines);
        assert!([&node, words, "of 41000 tokens"].iter().all(|part| printed.contains(part)), "{output}");
        assert!(took < within(Duration::from_secs(30)), "it took {took:?}: {output}");
        // Its answer broke off, and it did not ask for another one again and again.
        let answered = server.stats().requests.iter().filter(|r| r.scripted.output == 30_000).count();
        assert!(answered <= 1 + cli.asides, "{:?}", server.stats().requests);
        world.assert_silent(&[]);
    }
}

#[test]
fn claude_hears_that_its_answer_was_cut_and_ends() {
    cut_in_the_midst(&CLAUDE);
}

#[test]
fn codex_hears_that_its_answer_was_cut_and_ends() {
    cut_in_the_midst(&CODEX);
}

#[test]
fn gemini_hears_that_its_answer_was_cut_and_ends() {
    cut_in_the_midst(&GEMINI);
}

#[test]
fn pi_hears_that_its_answer_was_cut_and_ends() {
    cut_in_the_midst(&PI);
}

fn hands_over_what_it_has(cli: &Cli) {
    for world in cli.worlds() {
        // The second request goes on from 25,000 tokens and does not fit into what is not kept back. Only who hears of it says so.
        let first = json!({"text": "At work.", "edit": {"path": "a.txt", "content": "x\n"}, "usage": {"input": 25_000, "output": 90}});
        let last = json!({"text": "This is what I have.", "usage": {"input": 25_200, "output": 50}});
        let on = json!({"text": "I go on.", "edit": {"path": "b.txt", "content": "x\n"}, "usage": {"input": 25_200, "output": 50}});
        let limit = format!("budget:\n  {}: {{tokens: 60k, hard: true, wrap_up: 30k}}\n", cli.name);
        let scenario = json!({"turns": [first, on, on], "cases": [{"contains": "hand over what you have", "turns": [first, last]}]});
        let server = stand_in_with(&world, &scenario, &limit);
        let recipe = recipe(&world, None);
        let output = overspend(&world, cli, "cutoff", "unlimited", &recipe).expect(0);
        let lines = output.json();
        assert!(printed(&lines).contains("This is what I have."), "{output}");
        let refused: Vec<_> = events(&lines, "denied").into_iter().filter(|d| d["data"]["host"] == cli.host).collect();
        assert!(refused.iter().all(|denied| denied["data"]["kind"] != "budget_exhausted"), "{output}");
        assert_eq!(
            (events(&lines, "crossed").len(), events(&lines, "enforced").len()),
            (0, 0),
            "nothing is cut: {output}"
        );
        assert_eq!(server.stats().total, 2 + cli.asides as u64, "{:?}", server.stats().requests);
        world.assert_silent(&[]);
    }
}

#[test]
fn claude_hands_over_what_it_has_when_only_what_is_kept_for_that_is_left() {
    hands_over_what_it_has(&CLAUDE);
}

#[test]
fn gemini_hands_over_what_it_has_when_only_what_is_kept_for_that_is_left() {
    hands_over_what_it_has(&GEMINI);
}

#[test]
fn pi_hands_over_what_it_has_when_only_what_is_kept_for_that_is_left() {
    hands_over_what_it_has(&PI);
}

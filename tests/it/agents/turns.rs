//! Turns that are not one question after the other: agents of an agent that ask at once, and one that is ended in the midst of an answer.

use std::time::Duration;

use bb::types::Tokens;
use serde_json::{Value, json};

use super::task::line;
use super::{CLAUDE, CODEX, Cli, GEMINI, PATIENCE, PI, events, printed, recipe, stand_in};

/// An answer of Claude's that calls two agents at once, as its API streams it.
fn two_agents() -> String {
    let usage = json!({"input_tokens": 1103, "output_tokens": 1, "cache_read_input_tokens": 204, "cache_creation_input_tokens": 35,
        "cache_creation": {"ephemeral_5m_input_tokens": 30, "ephemeral_1h_input_tokens": 5}});
    let mut events =
        vec![json!({"type": "message_start", "message": {"id": "msg_two", "type": "message", "role": "assistant",
        "model": "claude-stand-in", "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage}})];
    for (index, name) in ["SUB-A", "SUB-B"].iter().enumerate() {
        let input =
            json!({"description": name, "prompt": format!("{name}: say it."), "subagent_type": "general-purpose"});
        events.extend([
            json!({"type": "content_block_start", "index": index,
                "content_block": {"type": "tool_use", "id": format!("toolu_{index}"), "name": "Agent", "input": {}}}),
            json!({"type": "content_block_delta", "index": index,
                "delta": {"type": "input_json_delta", "partial_json": input.to_string()}}),
            json!({"type": "content_block_stop", "index": index}),
        ]);
    }
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null},
        "usage": {"output_tokens": 71}}));
    events.push(json!({"type": "message_stop"}));
    events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap())).collect()
}

/// Gets what Claude Code says that all its agents used: its own figures, by model.
fn claude_and_its_agents(printed: &str) -> Tokens {
    let report = line(printed, "result");
    let mut sum = Tokens::default();
    for (_, model) in report["modelUsage"].as_object().unwrap_or_else(|| panic!("{report}")) {
        let n = |key: &str| model[key].as_u64().unwrap_or_else(|| panic!("{key}: {report}"));
        sum.add(&Tokens {
            input: n("inputTokens"),
            cache_read: n("cacheReadInputTokens"),
            cache_write: n("cacheCreationInputTokens"),
            output: n("outputTokens"),
            ..Tokens::default()
        });
    }
    sum
}

#[test]
fn agents_of_claude_that_ask_at_once_are_metered_as_it_meters_them() {
    for world in CLAUDE.worlds() {
        let said = |text: &str, usage: Value| json!({"text": text, "usage": usage, "delay_ms": 300});
        let first = json!({"replay": {"text": two_agents(), "content_type": "text/event-stream"}});
        let scenario = json!({
            "turns": [first, said("All done.", json!({"input": 211, "cache_read": 1012, "cache_write": 13, "output": 17}))],
            "cases": [
                {"contains": "SUB-A", "turns": [said("A.", json!({"input": 307, "cache_write": 19, "output": 23}))]},
                {"contains": "SUB-B", "turns": [said("B.", json!({"input": 401, "cache_read": 29, "output": 31}))]},
            ],
        });
        let server = stand_in(&world, &scenario);
        let (recipe, workspace) = (recipe(&world, None), world.make_dir("ws"));
        let args = ["run", &recipe, "--json", "--grant", "all", "--", "--agent", "claude", "--output", "json"];
        let args = [&args[..], &["--label", "many", workspace.to_str().unwrap()]].concat();
        let run = world.command(&args).env("ANTHROPIC_API_KEY", "sk-canary").patience(PATIENCE).run().expect(0);
        let lines = run.json();
        let mut settled = Tokens::default();
        for event in events(&lines, "usage") {
            assert_eq!(event["data"]["source"], "exact", "{event}");
            settled.add(&serde_json::from_value(event["data"]["tokens"].clone()).unwrap());
        }
        // Each of the three conversations is in the book, and both agents came to their end.
        let used: Vec<u64> =
            events(&lines, "usage").iter().filter_map(|event| event["data"]["tokens"]["input"].as_u64()).collect();
        assert!([1103, 211, 307, 401].iter().all(|input| used.contains(input)), "{used:?}: {run}");
        let stats = &line(&printed(&lines), "result")["subagent_stats"];
        assert_eq!((&stats["spawned"], &stats["completed"]), (&json!(2), &json!(2)), "{run}");
        assert_eq!(server.stats().completed.output, settled.output);
        // At once: each had asked before the other was answered.
        let stats = server.stats();
        let of = |input: u64| {
            stats.requests.iter().find(|r| r.scripted.input == input).unwrap_or_else(|| panic!("{stats:?}"))
        };
        let [[a_asked, a_answered], [b_asked, b_answered]] = [of(307).times, of(401).times];
        assert!(a_asked < b_answered && b_asked < a_answered, "one after the other: {stats:?}");
        let all = settled.cache_write + settled.cache_write_long;
        let settled = Tokens { cache_write: all, cache_write_long: 0, ..settled };
        assert_eq!(settled, claude_and_its_agents(&printed(&lines)), "what it reports itself: {run}");
        world.assert_silent(&[]);
    }
}

/// Ends an agent while its model answers; what was said until then is in the book.
fn ended_in_the_midst(cli: &Cli) {
    for world in cli.worlds() {
        // Slow: 200 words, each an event of its own in most of the APIs.
        let text = "word ".repeat(200);
        let turn = json!({"text": text, "chunk_ms": 200, "usage": {"input": 1000, "output": 400}});
        let server = stand_in(&world, &json!({"turns": [turn]}));
        let (recipe, workspace) = (recipe(&world, None), world.make_dir("ws"));
        let args = ["run", &recipe, "--json", "--grant", "all", "--", "--agent", cli.name, "--output", "json"];
        let args = [&args[..], &["--label", "cut", workspace.to_str().unwrap()]].concat();
        let running = world.command(&args).env(cli.keys[0].0, "sk-canary").patience(PATIENCE).spawn();
        let answers = || server.stats().begun.output >= 400 || running.has_ended();
        assert!(world.until(Duration::from_secs(60), answers) && !running.has_ended(), "no answer: {}", running.wait());
        world.bb(&["kill", "cut"]).expect(0);
        let run = running.wait();
        let report = world.bb(&["usage", "--json"]).expect(0).json().remove(0);
        let total = &report["total"];
        let n = |class: &str| total[class].as_u64().unwrap();
        // The stand-in's own figure of the input where the API says it first; else what was reserved for it.
        assert!(n("input") >= 1000 || cli.name != "claude", "{report} {run}");
        assert!(n("counted") > 0 && n("estimated") >= 1, "{report} {run}");
        assert!(n("output") <= 400 + 6 * cli.asides as u64, "no more than it was going to say: {report}");
        world.assert_silent(&[]);
    }
}

#[test]
fn claude_ended_in_the_midst_of_an_answer_is_charged_what_was_said() {
    ended_in_the_midst(&CLAUDE);
}

#[test]
fn codex_ended_in_the_midst_of_an_answer_is_charged_what_was_said() {
    ended_in_the_midst(&CODEX);
}

#[test]
fn gemini_ended_in_the_midst_of_an_answer_is_charged_what_was_said() {
    ended_in_the_midst(&GEMINI);
}

#[test]
fn pi_ended_in_the_midst_of_an_answer_is_charged_what_was_said() {
    ended_in_the_midst(&PI);
}

/// Interrupts an agent, as Ctrl-C does, in the midst of its second answer: what the book has is not less than what it reports itself.
fn interrupted(cli: &Cli) {
    for world in cli.worlds() {
        let first = json!({"text": "I write it.", "edit": {"path": "a.txt", "content": "x\n"},
            "usage": {"input": 1201, "cache_read": 302, "cache_write": 93, "output": 85, "reasoning": 26}});
        let second = json!({"text": "word ".repeat(200), "chunk_ms": 200, "usage": {"input": 1000, "cache_read": 700, "output": 400}});
        let server = stand_in(&world, &json!({"turns": [first, second]}));
        let (recipe, workspace) = (recipe(&world, None), world.make_dir("ws"));
        let args = ["run", &recipe, "--json", "--grant", "all", "--", "--agent", cli.name, "--output", "json"];
        let args = [&args[..], &["--label", "sigint", workspace.to_str().unwrap()]].concat();
        let running = world.command(&args).env(cli.keys[0].0, "sk-canary").patience(PATIENCE).spawn();
        let answers = || server.stats().begun.output >= 485 || running.has_ended();
        assert!(world.until(Duration::from_secs(60), answers) && !running.has_ended(), "no answer: {}", running.wait());
        let all = "for p in /proc/[0-9]*; do [ $p != /proc/$$ ] && tr '\\0' ' ' <$p/cmdline | grep -q -e 'Write hello' -e '^pi *$' && kill -INT ${p#/proc/}; done; true";
        world.bb(&["exec", "sigint", "--", "sh", "-c", all]).expect(0);
        let run = running.wait();
        let (lines, said) = (run.json(), printed(&run.json()));
        eprintln!(
            "{} {:?} SIGINT: exit {}, {}",
            cli.name,
            world.who,
            run.code,
            &said[said.len().saturating_sub(1200)..]
        );
        // Its first answer is exact, its second what had come of it.
        let usage = events(&lines, "usage");
        let of = |source: &str, output: u64| {
            usage
                .iter()
                .any(|u| u["data"]["source"] == source && u["data"]["tokens"]["output"].as_u64() <= Some(output))
        };
        assert!(of("exact", 85) && of("partial", 399), "{usage:?} {run}");
        let report = world.bb(&["usage", "--json"]).expect(0).json().remove(0);
        let n = |class: &str| report["total"][class].as_u64().unwrap();
        let (asides, estimated) = (cli.asides as u64, n("estimated"));
        assert!(n("input") > 1201 + 24 * asides && estimated == 1, "{report}");
        let book = Tokens {
            input: n("input"),
            cache_read: n("cache_read"),
            cache_write: n("cache_write"),
            output: n("output"),
            ..Tokens::default()
        };
        match cli.name {
            // It reports the answer that was broken off as well, as far as it had come.
            "claude" => assert_eq!(book, claude_and_its_agents(&said), "{run}"),
            "pi" => {
                let own = cli.reported(&said);
                let more = [own.input, own.cache_read, own.cache_write, own.output];
                let has = [book.input, book.cache_read, book.cache_write, book.output];
                assert!(more.iter().zip(has).all(|(own, book)| *own <= book), "{own:?} {report}");
            }
            // These report nothing of a turn that was interrupted.
            _ => assert!(!said.contains("usage") && !said.contains("\"stats\""), "{run}"),
        }
        world.assert_silent(&[]);
    }
}

#[test]
fn claude_that_is_interrupted_reports_no_more_than_the_book_has() {
    interrupted(&CLAUDE);
}

#[test]
fn codex_that_is_interrupted_reports_no_more_than_the_book_has() {
    interrupted(&CODEX);
}

#[test]
fn gemini_that_is_interrupted_reports_no_more_than_the_book_has() {
    interrupted(&GEMINI);
}

#[test]
fn pi_that_is_interrupted_reports_no_more_than_the_book_has() {
    interrupted(&PI);
}

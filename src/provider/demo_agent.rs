//! The demo agent: a small coding agent inside `bb` itself, run in a bottle as `bb __demo-agent -p PROMPT`.
//!
//! It speaks the Anthropic Messages API with tools, as any agent does, so that a first look needs no CLI from elsewhere.
//! It knows nothing of bottles: no path, socket or variable of bb's reaches it beside those that every agent gets. What
//! the plane refuses comes back to it as an answer, and it hands that to the model. It must stay bounded: turns, times,
//! sizes.

mod api;
mod tools;

use std::io::Write;

use serde_json::{Value, json};

use api::{Client, Failure, Said, Usage};

/// Turns before it gives up.
const MAX_TURNS: usize = 200;

/// Longest line of the transcript. Unit: characters.
const MAX_LINE: usize = 300;

/// The model asked for where none is named.
const MODEL: &str = "claude-sonnet-4-5";

/// What the model is told in any case.
const SYSTEM: &str = "You are a small coding agent. Work in the current directory with the tools you have.";

const HELP: &str = "usage: bb __demo-agent -p PROMPT [--instructions TEXT] [--model MODEL] [--json]";

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    prompt: String,
    instructions: Option<String>,
    model: String,
    json: bool,
}

impl Options {
    fn read(args: Vec<String>) -> Result<Options, String> {
        let (mut prompt, mut instructions, mut model, mut json) = (None, None, MODEL.to_owned(), false);
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "-p" | "--prompt" => prompt = Some(value()?),
                "--instructions" => instructions = Some(value()?),
                "--model" => model = value()?,
                "--json" => json = true,
                _ => return Err(format!("unknown argument {arg}")),
            }
        }
        Ok(Options { prompt: prompt.ok_or("a prompt is needed")?, instructions, model, json })
    }
}

/// Runs the agent; `args` without the program's name. Returns its exit code: 0 done, 1 failed, 2 wrong arguments.
pub fn main(args: Vec<String>) -> i32 {
    let options = match Options::read(args) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\n{HELP}");
            return 2;
        }
    };
    let client = match Client::from_env() {
        Ok(client) => client,
        Err(failure) => {
            eprintln!("{failure}");
            return 1;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return 1;
        }
    };
    let code = runtime.block_on(run(&client, &options, &mut std::io::stdout()));
    // Tools may have left a name lookup behind that nobody waits for.
    runtime.shutdown_background();
    code
}

/// Works until the model calls no more tools; writes the transcript to `out`.
async fn run(client: &Client, options: &Options, out: &mut impl Write) -> i32 {
    let mut sum = Usage::default();
    let mut turns = 0;
    let end = converse(client, options, out, &mut sum, &mut turns).await;
    let (code, words) = match &end {
        Ok(words) => (0, words.clone()),
        Err(failure) => (1, failure.to_string()),
    };
    if end.is_err() {
        line(out, &words);
    }
    if options.json {
        let result = json!({
            "type": "result", "is_error": end.is_err(), "result": words, "num_turns": turns, "usage": sum.to_json(),
        });
        line(out, &result.to_string());
    }
    code
}

/// The conversation: ask, do what is asked for, ask again. Returns the model's last words.
async fn converse(
    client: &Client,
    options: &Options,
    out: &mut impl Write,
    sum: &mut Usage,
    turns: &mut usize,
) -> Result<String, Failure> {
    let mut system = SYSTEM.to_owned();
    if let Some(more) = &options.instructions {
        system.push_str("\n\n");
        system.push_str(more);
    }
    let mut messages = vec![json!({"role": "user", "content": options.prompt})];
    while *turns < MAX_TURNS {
        let body = json!({
            "model": options.model, "max_tokens": 4096, "stream": true, "messages": messages,
            "system": system,
            "tools": tools::definitions(),
        });
        let Said { text, calls, content, usage } = client.ask(&body).await?;
        *turns += 1;
        sum.add(&usage);
        if !text.is_empty() {
            line(out, &format!("> {}", one_line(&text)));
        }
        messages.push(json!({"role": "assistant", "content": content}));
        if calls.is_empty() {
            return Ok(text);
        }
        let mut results = Vec::new();
        for call in calls {
            let outcome = tools::run(client, &call.name, &call.input).await;
            let heading = format!("* {} {}", call.name, one_line(&summary(&call.input)));
            line(out, &format!("{}: {}", heading.trim_end(), one_line(&outcome.short)));
            results.push(json!({
                "type": "tool_result", "tool_use_id": call.id, "is_error": outcome.failed, "content": outcome.full,
            }));
        }
        messages.push(json!({"role": "user", "content": results}));
    }
    Err(Failure::Other(format!("no end after {MAX_TURNS} turns")))
}

/// Names what a call is about: its first argument.
fn summary(input: &Value) -> String {
    let first = input.as_object().and_then(|fields| fields.values().next());
    let host_and_port = input["host"].as_str().zip(input["port"].as_u64());
    match (host_and_port, first) {
        (Some((host, port)), _) => format!("{host}:{port}"),
        (None, Some(Value::String(text))) => text.clone(),
        (None, Some(Value::Array(words))) => words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

/// Makes one line of `text`, without control characters, not too long.
fn one_line(text: &str) -> String {
    let mut line: String = text.trim().chars().take(MAX_LINE).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().chars().nth(MAX_LINE).is_some() {
        line += " ...";
    }
    line
}

/// Writes a line at once: somebody watches.
fn line(out: &mut impl Write, text: &str) {
    // Nobody reads any more: the work goes on, there is nobody to tell.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rehearse::{Rehearsal, Scenario};

    /// Plays `scenario` to the agent in `dir`; returns exit code and transcript.
    fn play(scenario: Value, extra: &[&str]) -> (i32, Vec<String>, Rehearsal) {
        let rehearsal = Rehearsal::start(Scenario::from_value(scenario).unwrap()).unwrap();
        let base = format!("https://localhost:{}", rehearsal.address().port());
        let client = Client::new(&base, "sk-ant-test".into(), Some(rehearsal.ca_pem().as_bytes())).unwrap();
        let mut args = vec!["-p".to_owned(), "do it".to_owned()];
        args.extend(extra.iter().map(|a| (*a).to_owned()));
        let options = Options::read(args).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut out = Vec::new();
        let code = runtime.block_on(run(&client, &options, &mut out));
        let lines = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
        (code, lines, rehearsal)
    }

    #[test]
    fn it_works_through_a_task_and_its_sums_are_the_servers_own() {
        let dir = std::env::temp_dir().join(format!("bb-demo-agent-{}", std::process::id()));
        let path = dir.join("a/hello.txt").display().to_string();
        let usage = json!({"input": 100, "cache_read": 20, "cache_write": 8, "cache_write_long": 2, "output": 50, "reasoning": 5});
        let (code, lines, rehearsal) = play(
            json!({"turns": [
                {"text": "I write\nit.", "edit": {"path": path, "content": "hi\n"}, "usage": usage},
                {"tool": {"name": "read_file", "input": {"path": path}}, "usage": usage},
                {"run": {"argv": ["sh", "-c", "echo out; exit 3"]}},
                {"text": "Done."}]}),
            &["--json"],
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hi\n");
        std::fs::remove_dir_all(dir).unwrap();
        let result: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        assert_eq!(
            lines[..lines.len() - 1],
            [
                "> I write it.".to_owned(),
                format!("* write_file {path}: wrote 3 bytes"),
                format!("* read_file {path}: read 3 bytes"),
                "* run_command sh -c echo out; exit 3: exit code 3: out".to_owned(),
                "> Done.".to_owned(),
            ]
        );
        assert_eq!((code, result["is_error"].as_bool(), result["num_turns"].as_u64()), (0, Some(false), Some(4)));
        let counted = rehearsal.stats().completed;
        let sum = &result["usage"];
        assert_eq!(sum["input_tokens"], counted.input);
        assert_eq!(sum["cache_read_input_tokens"], counted.cache_read);
        assert_eq!(sum["cache_creation_input_tokens"], counted.cache_write + counted.cache_write_long);
        assert_eq!(sum["cache_creation"]["ephemeral_1h_input_tokens"], counted.cache_write_long);
        assert_eq!(sum["output_tokens"], counted.output);
        assert_eq!(sum["output_tokens_details"]["thinking_tokens"], counted.reasoning);
    }

    #[test]
    fn faults_are_tried_again_and_a_final_one_is_its_last_words() {
        let (code, lines, rehearsal) = play(json!({"turns": [{"text": "Done.", "error": 529}]}), &[]);
        assert_eq!((code, lines.as_slice(), rehearsal.stats().total), (0, &["> Done.".to_owned()][..], 2));
        let (code, lines, rehearsal) =
            play(json!({"turns": [{"text": "It is all done now.", "error": "broken"}]}), &[]);
        assert_eq!(
            (code, lines.as_slice(), rehearsal.stats().total),
            (0, &["> It is all done now.".to_owned()][..], 2)
        );
        let (code, lines, rehearsal) = play(json!({"key": "another"}), &[]);
        assert_eq!((code, rehearsal.stats().total), (1, 1));
        assert_eq!(lines, ["the rehearsal does not know this credential"]);
    }

    #[test]
    fn what_is_refused_on_the_way_out_comes_back_to_the_model() {
        // A port that nobody listens on: bound and let go.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let turns = json!({"turns": [
            {"connect": {"host": "127.0.0.1", "port": free.port()}},
            {"fetch": {"url": format!("http://{free}/x")}},
            {"tool": {"name": "no_such_tool"}},
            {"tool": {"name": "run_command", "input": {"argv": "ls"}}},
            {"text": "I could not."}]});
        let (code, lines, rehearsal) = play(turns, &[]);
        assert_eq!(code, 0);
        assert!(lines[0].starts_with(&format!("* tcp_connect {free}: failed: ")), "{lines:?}");
        assert!(lines[1].starts_with(&format!("* http_get http://{free}/x: failed: ")), "{lines:?}");
        assert_eq!(lines[2], "* no_such_tool: failed: there is no such tool");
        assert!(lines[3].starts_with("* run_command ls: failed: argv"), "{lines:?}");
        assert!(rehearsal.wait_for(Duration::from_secs(60), |stats| stats.total == 5));
    }

    #[test]
    fn the_command_line_is_checked() {
        let read = |args: &[&str]| Options::read(args.iter().map(|a| (*a).to_owned()).collect());
        assert_eq!(
            read(&["-p", "x"]),
            Ok(Options { prompt: "x".into(), instructions: None, model: MODEL.into(), json: false })
        );
        assert!(read(&[]).is_err() && read(&["-p"]).is_err() && read(&["-p", "x", "--jsno"]).is_err());
    }

    #[test]
    fn lines_of_the_transcript_are_lines() {
        assert_eq!(one_line(" a\nb\u{1b}[31m "), "a b [31m");
        assert_eq!(one_line(&"x".repeat(400)), format!("{} ...", "x".repeat(300)));
    }
}

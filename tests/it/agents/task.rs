//! Real CLIs do their task, are metered as they meter themselves, and never see a key.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bb::types::Tokens;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{CLAUDE, CODEX, Cli, GEMINI, PATIENCE, PI, PROMPT, events, printed, recipe, stand_in};
use crate::support::World;

/// How every placeholder of a key ends.
pub(super) const PLACEHOLDER: &str = "placeholder00AA";

impl Cli {
    /// Gets what its API can say of what was scripted: Gemini has no word for what is written to a cache.
    fn says(&self, scripted: Tokens) -> Tokens {
        if self.name != "gemini" {
            return scripted;
        }
        let input = scripted.input + scripted.cache_write + scripted.cache_write_long;
        Tokens { input, cache_write: 0, cache_write_long: 0, ..scripted }
    }

    /// Reads what it reports itself as used, from what it printed with `output = "json"`.
    pub(super) fn reported(&self, printed: &str) -> Tokens {
        match self.name {
            "claude" => claude(&line(printed, "result")),
            "codex" => codex(&line(printed, "turn.completed")),
            "gemini" => gemini(printed),
            "pi" => pi(printed),
            other => panic!("{other} reports nothing"),
        }
    }
}

/// Gets the last line of a type.
pub(super) fn line(printed: &str, kind: &str) -> Value {
    let mut lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.rfind(|line| line["type"] == kind).unwrap_or_else(|| panic!("no {kind}: {printed}"))
}

fn number(at: &Value, pointer: &str) -> u64 {
    at.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}: {at}"))
}

fn claude(report: &Value) -> Tokens {
    assert_eq!(report["is_error"], false, "{report}");
    let n = |pointer: &str| number(&report["usage"], pointer);
    Tokens {
        input: n("/input_tokens"),
        cache_read: n("/cache_read_input_tokens"),
        cache_write: n("/cache_creation/ephemeral_5m_input_tokens"),
        cache_write_long: n("/cache_creation/ephemeral_1h_input_tokens"),
        output: n("/output_tokens"),
        reasoning: n("/output_tokens_details/thinking_tokens"),
    }
}

fn codex(report: &Value) -> Tokens {
    let n = |pointer: &str| number(&report["usage"], pointer);
    // Its input is all of it, and it does not tell how long what it wrote is kept.
    let (read, written) = (n("/cached_input_tokens"), n("/cache_write_input_tokens"));
    Tokens {
        input: n("/input_tokens") - read - written,
        cache_read: read,
        cache_write: written,
        cache_write_long: 0,
        output: n("/output_tokens"),
        reasoning: n("/reasoning_output_tokens"),
    }
}

/// One object over many lines, with the figures of each model.
fn gemini(printed: &str) -> Tokens {
    let start = printed.find("{\n").unwrap_or_else(|| panic!("no object: {printed}"));
    let report: Value = serde_json::from_str(&printed[start..]).unwrap_or_else(|e| panic!("{e}: {printed}"));
    let mut sum = Tokens::default();
    for (_, model) in report["stats"]["models"].as_object().unwrap() {
        let n = |key: &str| number(&model["tokens"], &format!("/{key}"));
        sum.add(&Tokens {
            input: n("prompt") - n("cached") + n("tool"),
            cache_read: n("cached"),
            output: n("candidates") + n("thoughts"),
            reasoning: n("thoughts"),
            ..Tokens::default()
        });
    }
    sum
}

/// A line for each message.
fn pi(printed: &str) -> Tokens {
    let mut sum = Tokens::default();
    let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for line in lines.filter(|line| line["type"] == "message_end" && line["message"]["role"] == "assistant") {
        let n = |key: &str| number(&line["message"]["usage"], &format!("/{key}"));
        sum.add(&Tokens {
            input: n("input"),
            cache_read: n("cacheRead"),
            cache_write: n("cacheWrite"),
            output: n("output"),
            ..Tokens::default()
        });
    }
    sum
}

/// The classes that `bb usage` has.
fn classes(tokens: &Tokens) -> Value {
    json!({"input": tokens.input, "cache_read": tokens.cache_read, "output": tokens.output,
        "cache_write": tokens.cache_write + tokens.cache_write_long, "reasoning": tokens.reasoning})
}

/// Adds up what was scripted, and what a stand-in says of the questions that the CLI asks beside its task.
pub(super) fn usage_of(cli: &Cli, scripted: &[Value]) -> Tokens {
    let asides = cli.asides as u64;
    let mut sum = Tokens { input: 24 * asides, output: 6 * asides, ..Tokens::default() };
    for turn in scripted {
        let n = |class: &str| turn["usage"][class].as_u64().unwrap_or(0);
        sum.input += n("input");
        sum.cache_read += n("cache_read");
        sum.cache_write += n("cache_write");
        sum.cache_write_long += n("cache_write_long");
        sum.output += n("output");
        sum.reasoning += n("reasoning");
    }
    sum
}

/// What the agent sees of its own processes: a later exec is held apart from them.
pub(super) const LOOK: &str = "for f in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do echo \"== $f\"; tr '\\0' '\\n' <$f; done >seen.txt 2>/dev/null\n\
    env >>seen.txt\n";

/// A task of three turns. In the second the agent waits until `go` is in its workspace.
pub(super) fn task() -> Vec<Value> {
    let wait = "sh look.sh; echo > waiting; while [ ! -e go ]; do sleep 0.05; done";
    vec![
        json!({"text": "I write it.", "edit": {"path": "hello.txt", "content": "hello, world\n"},
            "usage": {"input": 1201, "cache_read": 302, "cache_write": 93, "cache_write_long": 14, "output": 85, "reasoning": 26}}),
        json!({"text": "I wait.", "run": {"argv": ["sh", "-c", wait]},
            "usage": {"input": 47, "cache_read": 1508, "cache_write": 9, "cache_write_long": 1, "output": 33, "reasoning": 5}}),
        json!({"text": "All done.", "usage": {"input": 11, "cache_read": 1612, "cache_write": 3, "output": 14}}),
    ]
}

/// Looks for `key` from inside of the bottle, in every place where an agent could look; asserts that only the placeholder
/// is there.
fn only_the_placeholder(world: &World, cli: &Cli, slug: &str, key: &str, workspace: &Path) {
    let dump = "for f in /proc/[0-9]*/cmdline /proc/[0-9]*/environ; do echo \"== $f\"; tr '\\0' '\\n' <$f; done; env";
    let dump = world.bb(&["exec", slug, "--", "sh", "-c", dump]);
    assert!(!dump.stdout.contains(key), "the key is in /proc or the environment: {dump}");
    let seen = std::fs::read_to_string(workspace.join("seen.txt")).unwrap_or_default();
    assert!(!seen.contains(key), "the key is where the agent can see it: {seen}");
    let sections: Vec<_> = seen.split("== /proc/").filter_map(|s| s.split_once('\n')).collect();
    let of = |file: &str| sections.iter().find(|(name, _)| *name == file).map_or("", |(_, text)| text);
    // The search can find something: the agent's own environment was read, and what is in it is the placeholder.
    let pid = |name: &str| name.strip_suffix("/cmdline").map(str::to_owned);
    // (Pi writes its name over its command line.)
    let is_agent = |text: &str| text.contains(PROMPT) || text.trim() == cli.name;
    let agents = sections.iter().filter(|(_, text)| is_agent(text)).filter_map(|(name, _)| pid(name));
    let environs: Vec<_> =
        agents.map(|pid| of(&format!("{pid}/environ"))).filter(|e| e.contains(PLACEHOLDER)).collect();
    assert!(!environs.is_empty(), "no process of the agent with a placeholder: {dump}");
    // An empty one names none, and keeps a repository from naming one.
    let proxied = |line: &str| {
        line.split_once('=')
            .is_some_and(|(name, value)| name.to_ascii_lowercase().ends_with("_proxy") && !value.is_empty())
    };
    assert!(!environs.iter().any(|e| e.lines().any(proxied)), "a proxy variable is set: {dump}");

    // The needle comes by standard input, so that the search does not find itself.
    let search = format!("grep -rlaF -f - \"$HOME\" /tmp /run /etc '{}' 2>/dev/null; true", workspace.display());
    let files = |needle: &str| {
        let found = world.command(&["exec", "-i", slug, "--", "sh", "-c", &search]).stdin(needle).run().expect(0);
        found.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(files(key), [""; 0], "files in the bottle with the key");
    let (own, text) = cli.own;
    let control = files(text);
    assert!(control.iter().any(|f| f.ends_with(own)), "{control:?}");
}

/// Gets the files below `dir` that contain `needle`.
pub(super) fn files_with(dir: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(files_with(&path, needle));
        } else if kind.is_file() && contains(&fs::read(&path).unwrap_or_default(), needle) {
            found.push(path);
        }
    }
    found
}

pub(super) fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|w| w == needle.as_bytes())
}

/// How often a CLI may try the same refused endpoint in a run; Codex asks for its models four times. One that tries again and
/// again loses its time there.
const TRIES: u64 = 12;

/// Asserts that whatever a healthy CLI asks beside its task is refused quietly, and costs it no loop of tries.
pub(super) fn refused_quietly(cli: &Cli, lines: &[Value]) {
    let denied = events(lines, "denied");
    let mut tries = std::collections::BTreeMap::<String, u64>::new();
    let mut noisy = vec![];
    for data in denied.iter().map(|event| &event["data"]) {
        let word = |key: &str| data[key].as_str().unwrap_or("-");
        let what = format!("{} {} {}{}", word("kind"), word("method"), word("host"), word("path"));
        *tries.entry(what.clone()).or_default() += 1 + data["dropped"].as_u64().unwrap_or(0);
        if data["quiet"] != true {
            noisy.push(what);
        }
    }
    eprintln!("{}: refused {tries:?}", cli.name);
    assert!(noisy.is_empty(), "{} has refusals that are not quiet: {noisy:#?}", cli.name);
    assert!(tries.values().all(|count| *count <= TRIES), "{} tries in a loop: {tries:#?}", cli.name);
}

/// Has the agent do its task, looks for the key meanwhile, and returns what `bb run --json` wrote.
fn do_the_task(world: &World, cli: &Cli, slug: &str, key: (&str, &str), recipe: &str) -> Vec<Value> {
    let workspace = world.make_dir("ws");
    world.write(workspace.join("look.sh"), LOOK);
    let args = ["run", recipe, "--json", "--grant", "all", "--", "--agent", cli.name, "--output", "json"];
    let args = [&args[..], &["--label", slug, workspace.to_str().unwrap()]].concat();
    let running = world.command(&args).env(key.0, key.1).patience(PATIENCE).spawn();
    let waits = world.until(Duration::from_secs(60), || workspace.join("waiting").exists() || running.has_ended());
    assert!(waits && !running.has_ended(), "it never came to its second turn: {}", running.wait());
    only_the_placeholder(world, cli, slug, key.1, &workspace);
    // Nor does any process show it but the front end that was given it.
    for process in world.processes().iter().filter(|p| p.pid != running.pid) {
        let file = |name: &str| fs::read(format!("/proc/{}/{name}", process.pid)).unwrap_or_default();
        assert!(!contains(&file("cmdline"), key.1) && !contains(&file("environ"), key.1), "{process:?} shows the key");
    }
    // Not on the host either, but in the memory of who has to have it.
    // (The recipe itself names it, in the scenario: the one key that the stand-in takes.)
    let searched = [world.bb_home(), world.home()];
    let found = searched.iter().flat_map(|dir| files_with(dir, key.1));
    let exposed: Vec<_> = found.filter(|path| path != Path::new(recipe)).collect();
    assert!(exposed.is_empty(), "the key is in {exposed:?}");
    world.write(workspace.join("go"), "");
    let output = running.wait().expect(0);
    assert_eq!(fs::read_to_string(workspace.join("hello.txt")).unwrap(), "hello, world\n", "{output}");
    assert!(!contains(output.stdout.as_bytes(), key.1) && !contains(output.stderr.as_bytes(), key.1), "{output}");
    // (The recipe itself names it, in the scenario: the one key that the stand-in takes.)
    let searched = [world.bb_home(), world.home()];
    let found = searched.iter().flat_map(|dir| files_with(dir, key.1));
    let exposed: Vec<_> = found.filter(|path| path != Path::new(recipe)).collect();
    assert!(exposed.is_empty(), "the key is in {exposed:?}");
    fs::remove_dir_all(&workspace).unwrap();
    let lines = output.json();
    refused_quietly(cli, &lines);
    lines
}

/// Asserts that the book says what the CLI says and what was scripted, class by class.
pub(super) fn same_everywhere(world: &World, cli: &Cli, slug: &str, book: &[&str], lines: &[Value]) {
    let scripted = cli.says(usage_of(cli, &task()));
    let requests = task().len() + cli.asides;
    let report = world.bb(&[&["usage", "--json"], book].concat()).expect(0).json().remove(0);
    // One for each model: a small one may be asked beside the task.
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1 + cli.asides, "{report}");
    let sum = |class: &str| rows.iter().map(|row| row[class].as_u64().unwrap()).sum::<u64>();
    let expected = classes(&scripted);
    for row in rows {
        assert_eq!((&row["bottle"], &row["provider"]), (&json!(slug), &json!(cli.name)));
    }
    // What has its input made ready asks once more, and uses nothing.
    let asked = requests as u64..=(requests + usize::from(cli.socket)) as u64;
    assert!(asked.contains(&sum("requests")) && sum("estimated") == 0, "{report}");
    for (class, amount) in expected.as_object().unwrap() {
        assert_eq!(sum(class), *amount, "{class} in the ledger: {report}");
        assert_eq!(&report["total"][class], amount, "{class} in the sum: {report}");
    }
    // The events say it as well, with the two kinds of cache writes apart.
    let mut settled = Tokens::default();
    for event in events(lines, "usage") {
        settled.add(&serde_json::from_value(event["data"]["tokens"].clone()).unwrap());
    }
    assert_eq!(settled, scripted);
    let mut reported = cli.reported(&printed(lines));
    match cli.name {
        "claude" => assert_eq!(reported, scripted),
        // It does not tell how much of its output was reasoning.
        "pi" => reported.reasoning = scripted.reasoning,
        _ => {}
    }
    assert_eq!(classes(&reported), expected, "what the CLI reports");
}

fn task_and_key(cli: &Cli) {
    for world in cli.worlds() {
        // The real book: a stand-in that the test owns is where the real API would be.
        let server = stand_in(&world, &json!({"turns": task()}));
        let (variable, header, scheme) = cli.keys[0];
        let key = "sk-real-canary-0123456789-of-the-real-book";
        let real = do_the_task(&world, cli, "real", (variable, key), &recipe(&world, None));
        same_everywhere(&world, cli, "real", &[], &real);
        let stats = server.stats();
        let (asked, used) = ((task().len() + cli.asides) as u64, usage_of(cli, &task()));
        let asks = |request: &&bb::rehearse::stats::Request| request.scripted != Tokens::default();
        let asking = stats.requests.iter().filter(asks).count() as u64;
        assert_eq!((asking, &stats.completed, &stats.begun), (asked, &used, &used));
        if cli.socket {
            // Its own transport from beginning to end, and no other.
            let methods: Vec<_> = stats.requests.iter().map(|request| request.method.as_str()).collect();
            assert!(methods.iter().all(|method| ["GET", "response.create"].contains(method)), "{methods:?}");
        } else {
            assert_eq!(stats.total, asked);
        }
        for request in &stats.requests {
            let auth: Vec<_> =
                request.auth.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
            assert_eq!(auth, [(header, format!("{scheme}{key}").as_str())], "{request:?}");
        }

        // A rehearsal, which accepts one key only, by the other way that the CLI has to log in.
        let key = "sk-real-canary-9876543210-of-the-rehearsal";
        let scenario = json!({"turns": task(), "key": key});
        let rehearsed = do_the_task(&world, cli, "rehearsed", (cli.keys[1].0, key), &recipe(&world, Some(&scenario)));
        same_everywhere(&world, cli, "rehearsed", &["--rehearsal"], &rehearsed);
        assert_eq!(server.stats().total, stats.total, "a rehearsal asked the real API");
        world.assert_silent(&[]);
    }
}

#[test]
fn claude_does_a_task_metered_as_it_meters_itself_without_ever_having_the_key() {
    task_and_key(&CLAUDE);
}

#[test]
fn codex_does_a_task_metered_as_it_meters_itself_without_ever_having_the_key() {
    task_and_key(&CODEX);
}

#[test]
fn gemini_does_a_task_metered_as_it_meters_itself_without_ever_having_the_key() {
    task_and_key(&GEMINI);
}

#[test]
fn pi_does_a_task_metered_as_it_meters_itself_without_ever_having_the_key() {
    task_and_key(&PI);
}

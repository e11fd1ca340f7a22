//! The real Claude Code and the real Codex in bottles: they do their task, are metered as they meter themselves, never see
//! a key, and end when their budget does.
//!
//! Each test takes all who can run bb on this machine, one world each.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bb::rehearse::{Rehearsal, Scenario};
use bb::types::Tokens;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::support::{Output, World, has_agent, need, within};

const PROMPT: &str = "Write hello.txt, then wait.";

/// How long a run may take. An everyday machine needs three seconds; a busy one must not fail for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// How every placeholder of a key ends.
const PLACEHOLDER: &str = "placeholder00AA";

/// A real agent CLI.
struct Cli {
    name: &'static str,
    /// The host of its API.
    host: &'static str,
    /// Variables of which either holds a key, and the header and the value's beginning by which that key travels.
    keys: [(&'static str, &'static str, &'static str); 2],
}

const CLAUDE: Cli = Cli {
    name: "claude",
    host: "api.anthropic.com",
    keys: [("ANTHROPIC_API_KEY", "x-api-key", ""), ("CLAUDE_CODE_OAUTH_TOKEN", "authorization", "Bearer ")],
};

const CODEX: Cli = Cli {
    name: "codex",
    host: "api.openai.com",
    keys: [("OPENAI_API_KEY", "authorization", "Bearer "), ("CODEX_API_KEY", "authorization", "Bearer ")],
};

impl Cli {
    /// Gets the worlds to test it in; none, and said, where it is not installed.
    fn worlds(&self) -> impl Iterator<Item = World> {
        let here = has_agent(self.name);
        if !here {
            need(&format!("the CLI {} (npm ci in tests/agents)", self.name));
        }
        here.then(World::each).into_iter().flatten()
    }

    /// Reads what it reports itself as used, from what it printed with `output = "json"`.
    fn reported(&self, printed: &str) -> Tokens {
        let mut lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let kind = if self.name == "claude" { "result" } else { "turn.completed" };
        let report = lines.rfind(|line| line["type"] == kind).unwrap_or_else(|| panic!("no {kind}: {printed}"));
        let usage = &report["usage"];
        let n = |pointer: &str| {
            usage.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}: {usage}"))
        };
        if self.name == "claude" {
            assert_eq!(report["is_error"], false, "{report}");
            Tokens {
                input: n("/input_tokens"),
                cache_read: n("/cache_read_input_tokens"),
                cache_write: n("/cache_creation/ephemeral_5m_input_tokens"),
                cache_write_long: n("/cache_creation/ephemeral_1h_input_tokens"),
                output: n("/output_tokens"),
                reasoning: n("/output_tokens_details/thinking_tokens"),
            }
        } else {
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
    }
}

/// The classes that `bb usage` has.
fn classes(tokens: &Tokens) -> Value {
    json!({"input": tokens.input, "cache_read": tokens.cache_read, "output": tokens.output,
        "cache_write": tokens.cache_write + tokens.cache_write_long, "reasoning": tokens.reasoning})
}

/// Writes JSON as a Lua table. Plain ASCII only: the escapes of other characters differ.
fn lua(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("{{{}}}", list.iter().map(lua).collect::<Vec<_>>().join(",")),
        Value::Object(map) => {
            let field = |(key, value): (&String, &Value)| format!("[{key:?}]={}", lua(value));
            format!("{{{}}}", map.iter().map(field).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// Writes the recipe that launches one agent and prints what it says; with a scenario, in rehearsal.
fn recipe(world: &World, scenario: Option<&Value>) -> String {
    let rehearse = scenario.map(|table| format!("bb.rehearse({})\n", lua(table))).unwrap_or_default();
    let text = format!(
        r#"--- @bb needs launch, write:args
{rehearse}
local bottle = bb.launch({{
  provider = bb.args.agent, label = bb.args.label, prompt = "{PROMPT}", output = bb.args.output, workspace = bb.args[1],
  budget = bb.args.budget or "unlimited", shutdown = bb.args.shutdown, timeout = "100s",
}})
local said = {{}}
for frame in bottle:logs({{ follow = true }}) do
  if frame.exec == 0 and frame.text and (frame.stream == "stdout" or bb.args.output ~= "json") then
    said[#said + 1] = frame.text
  end
end
print(table.concat(said))
bottle:wait()
"#
    );
    // Beside what is searched for the key: a scenario may name it.
    world.write(world.dir().join("task.lua"), text).display().to_string()
}

/// Puts a stand-in where the real book's requests to the model APIs go. Before the first command in the world.
fn stand_in(world: &World, scenario: &Value) -> Rehearsal {
    let server = world.rehearsal(Scenario::from_value(scenario.clone()).unwrap());
    let ca = world.write("stand-in.pem", server.ca_pem());
    let hosts = [CLAUDE.host, CODEX.host];
    let entry = |host| format!("  {host}:\n    address: \"{}\"\n    ca: {}\n", server.address(), ca.display());
    world.settings(&format!("upstreams:\n{}", hosts.map(entry).concat()));
    server
}

/// Gets the events of a type out of what `bb run --json` wrote.
fn events(lines: &[Value], kind: &str) -> Vec<Value> {
    lines.iter().filter(|line| line["type"] == kind && line["seq"].is_u64()).cloned().collect()
}

/// Gets what the recipe printed.
fn printed(lines: &[Value]) -> String {
    lines.iter().filter(|line| line["type"] == "print").filter_map(|line| line["text"].as_str()).collect()
}

fn usage_of(scripted: &[Value]) -> Tokens {
    let mut sum = Tokens::default();
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

/// A task of three turns. In the second the agent waits until `go` is in its workspace.
fn task() -> Vec<Value> {
    let wait = "echo > waiting; while [ ! -e go ]; do sleep 0.05; done";
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
    let sections: Vec<_> = dump.stdout.split("== /proc/").filter_map(|s| s.split_once('\n')).collect();
    let of = |file: &str| sections.iter().find(|(name, _)| *name == file).map_or("", |(_, text)| text);
    // The search can find something: the agent's own environment was read, and what is in it is the placeholder.
    let pid = |name: &str| name.strip_suffix("/cmdline").map(str::to_owned);
    let agents = sections.iter().filter(|(_, text)| text.contains(PROMPT)).filter_map(|(name, _)| pid(name));
    let environs: Vec<_> =
        agents.map(|pid| of(&format!("{pid}/environ"))).filter(|e| e.contains(PLACEHOLDER)).collect();
    assert!(!environs.is_empty(), "no process of the agent with a placeholder: {dump}");
    let proxied = |line: &str| line.split('=').next().is_some_and(|name| name.to_ascii_lowercase().ends_with("_proxy"));
    assert!(!environs.iter().any(|e| e.lines().any(proxied)), "a proxy variable is set: {dump}");

    // The needle comes by standard input, so that the search does not find itself.
    let search = format!("grep -rlaF -f - \"$HOME\" /tmp /run /etc '{}' 2>/dev/null; true", workspace.display());
    let files = |needle: &str| {
        let found = world.command(&["exec", "-i", slug, "--", "sh", "-c", &search]).stdin(needle).run().expect(0);
        found.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(files(key), [""; 0], "files in the bottle with the key");
    let control = files(PLACEHOLDER);
    let own = if cli.name == "claude" { ".claude.json" } else { ".codex/auth.json" };
    assert!(control.iter().any(|f| f.ends_with(own)), "{control:?}");
}

/// Gets the files below `dir` that contain `needle`.
fn files_with(dir: &Path, needle: &str) -> Vec<PathBuf> {
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

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|w| w == needle.as_bytes())
}

/// Has the agent do its task, looks for the key meanwhile, and returns what `bb run --json` wrote.
fn do_the_task(world: &World, cli: &Cli, slug: &str, key: (&str, &str), recipe: &str) -> Vec<Value> {
    let workspace = world.make_dir("ws");
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
    output.json()
}

/// Asserts that the book says what the CLI says and what was scripted, class by class.
fn same_everywhere(world: &World, cli: &Cli, slug: &str, book: &[&str], lines: &[Value]) {
    let scripted = usage_of(&task());
    let report = world.bb(&[&["usage", "--json"], book].concat()).expect(0).json().remove(0);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{report}");
    let (row, expected) = (&rows[0], classes(&scripted));
    assert_eq!((&row["bottle"], &row["provider"]), (&json!(slug), &json!(cli.name)));
    assert_eq!((&row["requests"], &row["estimated"]), (&json!(3), &json!(0)), "{row}");
    for (class, amount) in expected.as_object().unwrap() {
        assert_eq!(&row[class], amount, "{class} in the ledger: {row}");
        assert_eq!(&report["total"][class], amount, "{class} in the sum: {report}");
    }
    // The events say it as well, with the two kinds of cache writes apart.
    let mut settled = Tokens::default();
    for event in events(lines, "usage") {
        settled.add(&serde_json::from_value(event["data"]["tokens"].clone()).unwrap());
    }
    assert_eq!(settled, scripted);
    let reported = cli.reported(&printed(lines));
    if cli.name == "claude" {
        assert_eq!(reported, scripted);
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
        assert_eq!((stats.total, &stats.completed, &stats.begun), (3, &usage_of(&task()), &usage_of(&task())));
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
        assert_eq!(server.stats().total, 3, "a rehearsal asked the real API");
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
    // The second answer crosses the first budget. The third request is too large for what is left of the second one.
    for (budget, sentence) in [("60k", "this bottle's budget is spent: 60"), ("70k", "too small for the next request")]
    {
        for world in cli.worlds() {
            let scenario = json!({"loop": true, "turns": [
                {"text": "On and on.", "edit": {"path": "a.txt", "content": "x\n"}, "usage": {"input": 30_300, "output": 90}}]});
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
                // Nothing went out after the two requests that fitted.
                let usage = events(&lines, "usage");
                assert_eq!(usage.len(), 2, "{output}");
                assert!(usage.iter().all(|u| u["seq"].as_u64() < enforced["seq"].as_u64()), "{output}");
                assert_eq!(server.stats().total, 2 * times, "{:?}", server.stats().requests);
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

const QUICKSTART: &str = include_str!("../../recipes/quickstart.lua");

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
        assert!(said(&lines, "allowed", &["POST", cli.host, "tokens in"]), "{output}");
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

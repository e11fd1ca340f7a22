//! Where a budget may sit, by launches that spend: each row of the table is one launch, the scope that ends it, and all that it is
//! charged to. Everything on the path is charged once, whatever the shape of the manifests.

use std::collections::BTreeMap;

use bb::rehearse::Scenario;
use serde_json::json;

use crate::support::{World, have_tools};

/// What a request counts. Every limit here has room for the first one, and for no second.
const EACH: u64 = 1800;
const LIMIT: &str = "1500";

const SHELL: &str = "return { name = 'shell', argv = function(ctx) return { 'sh', '-c', ctx.prompt } end }";

/// Asks twice, and says what the second answer is.
const ASKS: &str = "ask() { curl -sS -H 'content-type: application/json' https://api.anthropic.com/v1/messages \
    -d '{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}'; }; ask >/dev/null; ask";

const ROUTES: &str =
    "egress: {routes: [{host: api.anthropic.com, api: anthropic, auth: {scheme: Bearer, token_ref: MODEL}}]}";

/// One launch.
struct Row {
    /// In front of what follows: settings.yml; the manifests `root`, `left` and `right` (both extend it), and `diamond` (extends
    /// both); the agent `worker`. Empty where nothing is said.
    settings: &'static str,
    manifests: [&'static str; 4],
    agent: &'static str,
    how: How,
    /// Whose budget ends it, as it is told.
    ends: &'static str,
    /// Names of what it is charged to: each by its launch and by its name, beside the bottle and the host.
    manifests_charged: &'static [&'static str],
}

enum How {
    /// `bb start worker` with these words.
    Start(&'static [&'static str]),
    /// A recipe, with this before `bb.launch`, and this in it.
    Recipe(&'static str, &'static str),
}

use How::{Recipe, Start};

const SILENT: [&str; 4] = [""; 4];
const DIAMOND: &[&str] = &["agent:worker", "manifest:diamond", "manifest:left", "manifest:right", "manifest:root"];

/// `bb start` of the agent, whose bottle is `diamond`.
const fn start(words: &'static [&'static str], ends: &'static str, charged: &'static [&'static str]) -> Row {
    Row { settings: "", manifests: SILENT, agent: "", how: Start(words), ends, manifests_charged: charged }
}

fn table() -> Vec<Row> {
    let recipe = |first, within, ends| Row { how: Recipe(first, within), ..start(&[], ends, &[]) };
    vec![
        Row { agent: "budget: 1500", ..start(&[], "the budget of the agent worker is spent", DIAMOND) },
        Row {
            agent: "budget: {shell: {tokens: 1500, lifetime: true}}",
            ..start(&[], "the budget of the agent worker, over its launches, for shell is spent", DIAMOND)
        },
        // Both ways of the diamond lead to its root, which says it alone.
        Row {
            manifests: ["budget: 1500", "", "", ""],
            ..start(&[], "the budget of the bottle manifest root is spent", DIAMOND)
        },
        // The first parent is nearer.
        Row {
            manifests: ["", "budget: 1500", "budget: 1", ""],
            ..start(&[], "the budget of the bottle manifest left is spent", DIAMOND)
        },
        // One that is hard binds, however near another one is.
        Row {
            manifests: ["", "budget: 1M", "budget: {tokens: 1500, per: week, hard: true}", "budget: unlimited"],
            ..start(&[], "the budget of the bottle manifest right, over its launches, is spent", DIAMOND)
        },
        Row {
            manifests: ["budget: 1", "budget: 1500", "", ""],
            ..start(
                &["--bottle", "left", "--bottle", "right"],
                "the budget of the bottle manifest left is spent",
                &["agent:worker", "manifest:left", "manifest:right", "manifest:root"],
            )
        },
        Row {
            manifests: ["", "budget: 1", "budget: 1500", ""],
            ..start(
                &["--bottle", "right", "--bottle", "left"],
                "the budget of the bottle manifest right is spent",
                &["agent:worker", "manifest:left", "manifest:right", "manifest:root"],
            )
        },
        // What a launch says sits on the bottle, nearest of all; and not even that lifts what is hard.
        Row { agent: "budget: 1", ..start(&["--budget", LIMIT], "this bottle's budget is spent", DIAMOND) },
        Row {
            settings: "budget: {\"*\": {tokens: 1500, hard: true}}\n",
            agent: "budget: 1M",
            ..start(&["--budget", "unlimited"], "this host's global budget is spent", DIAMOND)
        },
        Row {
            settings: "budget: {shell: 1500, \"*\": 1M}\n",
            ..start(&[], "this host's global budget for shell is spent", DIAMOND)
        },
        recipe("", "budget = 1500", "this bottle's budget is spent"),
        recipe(
            "",
            "budget = { shell = { tokens = '1500', on_cross = 'finish' } }",
            "this bottle's budget for shell is spent",
        ),
        recipe("bb.budget.set { tokens = '1500' }", "agent = 'me'", "the budget of this run is spent"),
        recipe("bb.budget.set { tokens = 1500, hard = true }", "budget = '1M'", "the budget of this run is spent"),
    ]
}

fn set_up(world: &World, row: &Row) -> bb::rehearse::Rehearsal {
    let usage = json!({"input": 1100, "output": 700});
    let rehearsal =
        world.rehearsal(Scenario::from_value(json!({"loop": true, "turns": [{"text": "w", "usage": usage}]})).unwrap());
    let home = world.bb_home();
    world.write(home.join("upstream.pem"), rehearsal.ca_pem());
    let upstream =
        format!("upstreams: {{api.anthropic.com: {{address: \"{}\", ca: upstream.pem}}}}\n", rehearsal.address());
    world.settings(&format!("{upstream}{}", row.settings));
    world.write(home.join("providers/shell.lua"), SHELL);
    let parents = [
        ("root", "agent_provider: {template: shell}"),
        ("left", "extends: root"),
        ("right", "extends: root"),
        ("diamond", "extends: [left, right]"),
    ];
    for ((name, front), budget) in parents.iter().zip(row.manifests) {
        let routes = if *name == "root" { ROUTES } else { "" };
        world.write(home.join(format!("bottles/{name}.md")), format!("---\n{front}\n{routes}\n{budget}\n---\n"));
    }
    world.write(home.join("agents/worker.md"), format!("---\nbottle: diamond\n{}\n---\n", row.agent));
    world.make_dir("project");
    rehearsal
}

/// Gets what is used on each node, by the name without its launch: how often it is there, and how much is used on each.
fn used(world: &World) -> BTreeMap<String, Vec<u64>> {
    let ledger = rusqlite::Connection::open(world.bb_home().join("bot-bottle.db")).unwrap();
    let mut read = ledger.prepare("SELECT node, provider, used FROM accounts ORDER BY node").unwrap();
    let mut nodes = BTreeMap::<String, Vec<u64>>::new();
    let rows = read.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(2)?))).unwrap();
    for (node, used) in rows.map(Result::unwrap) {
        let name = match node.split_once(':') {
            Some(("bottle" | "run", _)) => node.split(':').next().unwrap_or_default().to_owned(),
            _ => node.split('@').next().unwrap_or_default().to_owned(),
        };
        nodes.entry(name).or_default().push(used.unsigned_abs());
    }
    nodes
}

#[test]
fn wherever_a_budget_sits_it_ends_what_it_governs_and_everything_on_the_path_is_charged_once() {
    if !have_tools(&["curl"]) {
        return;
    }
    for (number, row) in table().into_iter().enumerate() {
        // Each row is one world's; they take turns.
        let Some(world) = World::each().nth(number % 2).or_else(|| World::each().next()) else { return };
        let rehearsal = set_up(&world, &row);
        let output = match row.how {
            Start(words) => {
                let args = [&["start", "worker", "--headless", "--prompt", ASKS], words].concat();
                world.command(&args).env("MODEL", "sk-x").cwd(world.home().join("project")).run().expect(3)
            }
            Recipe(first, within) => {
                let text = format!(
                    "--- @bb needs launch, budget, egress:*, credential:MODEL\n{first}\nlocal b = bb.launch {{ provider = 'shell', prompt = [==[{ASKS}]==], \
                     {within}, routes = {{ {{ host = 'api.anthropic.com', api = 'anthropic', auth = {{ scheme = 'Bearer', credential = 'MODEL' }} }} }} }}\n\
                     b:wait {{ check = false }}\nfor frame in b:logs() do print(frame.text) end\n"
                );
                world.command(&["run", "--grant", "all", &world.recipe("scope.lua", &text)]).env("MODEL", "sk-x").run()
            }
        };
        let told = format!("bb: {}: {EACH} of {LIMIT} tokens used", row.ends);
        assert!(output.stdout.contains(&told), "row {number}, {told}: {output}");
        assert_eq!(rehearsal.stats().total, 1, "row {number}: the second one did not leave");
        let nodes = used(&world);
        eprintln!("row {number}: {nodes:?}");
        let mut names: Vec<&str> = [&["bottle", "global", "run"], row.manifests_charged].concat();
        names.sort_unstable();
        assert_eq!(nodes.keys().map(String::as_str).collect::<Vec<_>>(), names, "row {number}: {nodes:?}");
        assert!(nodes.values().flatten().all(|used| *used == EACH), "row {number}, each once: {nodes:?}");
    }
}

#[test]
fn an_agent_of_a_repository_raises_nothing_and_the_same_agent_of_the_host_does() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let row = Row { manifests: ["budget: 1500", "", "", ""], ..start(&[], "", &[]) };
        let rehearsal = set_up(&world, &row);
        let text = "---\nbottle: diamond\nbudget: unlimited\n---\n";
        world.write("project/.bot-bottle/agents/mine.md", text);
        let starts = || {
            let args = ["start", "mine", "--headless", "--prompt", ASKS];
            world.command(&args).env("MODEL", "sk-x").cwd(world.home().join("project")).run()
        };
        let refused = starts().expect(2);
        assert!(refused.stderr.contains("counts for nothing in a repository's agent"), "{refused}");
        assert_eq!(rehearsal.stats().total, 0, "nothing was started");
        // Without it, it has what the host's manifests give.
        world.write("project/.bot-bottle/agents/mine.md", "---\nbottle: diamond\n---\n");
        let held = starts().expect(3);
        assert!(held.stdout.contains("the budget of the bottle manifest root is spent"), "{held}");
        world.write(world.bb_home().join("agents/mine.md"), text);
        std::fs::remove_file(world.home().join("project/.bot-bottle/agents/mine.md")).unwrap();
        let free = starts().expect(0);
        assert!(!free.stdout.contains("is spent"), "{free}");
    }
}

//! Cuts and spent budgets: on whom they act, who lifts them, and that nothing is started under one.

use std::time::Duration;

use serde_json::{Value, json};

use crate::looper::{self, KEY};
use crate::support::{Output, World, have_tools};

const LONG: Duration = Duration::from_secs(60);

/// A provider whose agent runs its prompt, and keeps its session.
const SHELL: &str = r#"return {
  name = "shell", resumes = true, transcript = { "~/.shell" },
  argv = function(ctx) return { "sh", "-c", ctx.prompt } end,
}"#;

/// Asks a model for what no budget here has room for, says `up`, and ends when it is told.
const ASKS: &str = "curl -sS -o /dev/null -H 'content-type: application/json' https://api.anthropic.com/v1/messages \
    -d '{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}'; \
    echo up; until [ -e go ]; do sleep 0.1; done; rm go; exit 1";

/// The same without asking.
const WAITS: &str = "echo up; until [ -e go ]; do sleep 0.1; done; rm go; exit 1";

fn in_project<'w>(world: &'w World, args: &[&str]) -> crate::support::Command<'w> {
    world.command(args).cwd(world.home().join("project"))
}

/// How a bottle stands.
fn stands(world: &World, slug: &str) -> Value {
    let all = world.bb(&["ps", "--all", "--json"]).expect(0).json();
    all.into_iter().rfind(|bottle| bottle["slug"] == slug).unwrap_or_default()
}

#[test]
fn a_cut_of_the_operators_outlives_a_budget_that_is_raised_and_a_budget_s_own_ends_where_there_is_more() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let bottle = |budget: &str| {
            let front = format!(
                "---\nagent_provider: {{template: shell}}\nbudget: {budget}\n\
                 egress: {{routes: [docs.example, {{host: api.anthropic.com, api: anthropic}}]}}\n---\n"
            );
            world.write(world.bb_home().join("bottles/dev.md"), front);
        };
        world.write(world.bb_home().join("providers/shell.lua"), SHELL);
        world.write(world.bb_home().join("agents/worker.md"), "---\nbottle: dev\n---\n");
        world.make_dir("project");
        bottle("5");
        let cut_by_its_budget = |slug: &str| {
            let args = ["start", "worker", "--headless", "--label", slug, "--prompt", ASKS];
            let running = in_project(&world, &args).spawn();
            running.says("up");
            assert!(world.until(LONG, || stands(&world, slug)["egress"] == "cut"), "{}", stands(&world, slug));
            running
        };
        let freeze = |slug: &str, running: crate::support::Running<'_>| {
            world.bb(&["freeze", slug]).expect(0);
            running.wait();
        };
        // Taken up, it says how it stands, and is frozen again.
        let resumed = |slug: &str, more: &[&str]| {
            let args = ["resume", slug, "--headless", "--prompt", WAITS];
            let running = in_project(&world, &[&args[..], more].concat()).spawn();
            running.says("up");
            let bottle = stands(&world, slug);
            freeze(slug, running);
            (bottle["egress"].as_str().unwrap().to_owned(), bottle["reason"].as_str().map(str::to_owned))
        };
        let strange = ("cut".to_owned(), Some("it looked strange".to_owned()));

        let running = cut_by_its_budget("both");
        assert_eq!(stands(&world, "both")["cut"]["by"], "budget");
        world.bb(&["cut", "both", "--reason", "it looked strange"]).expect(0);
        let now = stands(&world, "both");
        assert_eq!((&now["reason"], &now["cut"]["by"]), (&json!("it looked strange"), &json!("operator")), "{now}");
        // It is so for the next controller, too.
        world.kill_controller();
        let adopted = world.until(LONG, || stands(&world, "both")["state"] == "running");
        assert!(adopted && stands(&world, "both")["cut"] == now["cut"], "{}", stands(&world, "both"));
        freeze("both", running);
        assert_eq!(resumed("both", &["--budget", "1M"]), strange);
        assert_eq!(resumed("both", &[]), strange, "also the time after");
        assert_eq!(resumed("both", &["--uncut"]), ("open".to_owned(), None));
        world.bb(&["rm", "both"]).expect(0);

        // Nothing of it is spent, and what did not fit would not fit now.
        let running = cut_by_its_budget("small");
        freeze("small", running);
        let again = in_project(&world, &["resume", "small", "--headless", "--prompt", WAITS]).run();
        again.fails(3, "budget", "too small for the next request", "--budget");
        assert_eq!(stands(&world, "small")["resumable"], true, "it is kept");
        // What was asked for was never charged, so that any more is more.
        bottle("6");
        assert_eq!(resumed("small", &[]), ("open".to_owned(), None));
    }
}

/// Launches a bottle that waits for its file `go` before it asks: `bb.args` = label, provider, shutdown, budget.
const RECIPE: &str = r#"--- @bb needs launch, write:WORKSPACE
bb.launch{
  provider = bb.args[2], workspace = "WORKSPACE", label = bb.args[1], prompt = "60", args = {"gated"}, detach = true,
  shutdown = bb.args[3], budget = bb.args[4],
}
"#;

#[test]
fn a_spent_budget_acts_on_all_that_it_binds_each_by_its_policy_and_nothing_is_started_under_it() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let usage = json!({"input": 1100, "output": 700});
        let scenario = json!({"loop": true, "key": KEY, "turns": [{"text": "word", "usage": usage}]});
        let settings = "budget:\n  looper: {tokens: 1500, hard: true}\n  other: 1500\n";
        let (rehearsal, _) = looper::set_up(&world, scenario, &["looper", "other"], settings);
        let work = world.dir().join("loop").display().to_string();
        let recipe = world.write(world.bb_home().join("recipes/one.lua"), RECIPE.replace("WORKSPACE", &work));
        let recipe = recipe.display().to_string();
        let launch = |args: &[&str]| -> Output {
            let args = [&["run", recipe.as_str(), "--"], args].concat();
            world.command(&args).env("ANTHROPIC_API_KEY", KEY).run()
        };
        for args in [
            &["spends", "looper", "cutoff"][..],
            &["killed", "looper", "kill"],
            &["paused", "looper", "pause"],
            &["first", "other", "cutoff"],
            &["beside", "other", "kill"],
            &["own", "other", "kill", "100M"],
        ] {
            launch(args).expect(0);
        }
        let go = |slug: &str| looper::mark(&world, &[slug.to_owned()], "go");
        let becomes = |slug: &str, key: &str, value: &str| {
            let became = world.until(LONG, || stands(&world, slug)[key] == value);
            assert!(became, "{slug}: {}\n{:?}", stands(&world, slug), looper::said(&world, slug));
        };
        // Only one of them has asked for anything.
        go("spends");
        becomes("spends", "egress", "cut");
        becomes("killed", "ended", "budget");
        becomes("paused", "state", "paused");
        for slug in ["spends", "killed", "paused"] {
            let reason = stands(&world, slug)["reason"].as_str().unwrap_or_default().to_owned();
            assert!(reason.contains("global budget for looper is spent: 1800 of 1500"), "{slug}: {reason}");
        }
        assert_eq!(rehearsal.stats().total, 1, "who had not asked had not to");
        for slug in ["first", "beside", "own"] {
            let bottle = stands(&world, slug);
            assert_eq!((&bottle["state"], &bottle["egress"]), (&json!("running"), &json!("open")), "{bottle}");
        }
        // One that is not hard binds nobody who has a budget of its own.
        go("first");
        becomes("first", "egress", "cut");
        becomes("beside", "ended", "budget");
        go("own");
        looper::says_more(&world, "own", "served", 2, LONG);
        let own = stands(&world, "own");
        assert_eq!((&own["state"], &own["egress"]), (&json!("running"), &json!("open")), "{own}");

        // What would begin with nothing left does not begin.
        launch(&["late", "looper"]).fails(3, "budget", "global budget for looper is spent", "settings.yml");
        // (A budget of its own does not help against a hard one.)
        launch(&["late", "looper", "kill", "1M"]).fails(
            3,
            "budget",
            "global budget for looper is spent",
            "settings.yml",
        );
        world.write(world.bb_home().join("bottles/dev.md"), "---\nagent_provider: {template: looper}\n---\n");
        world.write(world.bb_home().join("agents/late.md"), "---\nbottle: dev\n---\n");
        world.make_dir("project");
        let start = ["start", "late", "--headless", "--prompt", "60"];
        let start = in_project(&world, &start).env("ANTHROPIC_API_KEY", KEY).run();
        start.fails(3, "budget", "global budget for looper is spent", "settings.yml");
        assert!(!world.bb_home().join("state/late").exists(), "nothing is left of it");
        assert_eq!(stands(&world, "late"), Value::Null);
        world.bb(&["kill", "spends", "paused", "first", "own"]).expect(0);
    }
}

#[test]
fn one_word_acts_on_all_that_run_each_is_said_and_the_reason_stands_in_the_books() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        world.bb(&["cut", "--all"]).expect(0);
        assert_eq!((world.bb(&["cut"]).code, world.bb(&["cut", "x", "--all"]).code), (2, 2));
        world.write(world.bb_home().join("providers/shell.lua"), SHELL);
        let recipe = world.recipe(
            "three.lua",
            "--- @bb needs launch\nbb.rehearse{ turns = {{ text = 'x' }} }\nfor _, label in ipairs{'one', 'two'} do\n\
             bb.launch{ command = {'sleep', '600'}, label = label, detach = true } end\n",
        );
        world.bb(&["run", "--grant", "all", &recipe]).expect(0);
        world.write(world.bb_home().join("bottles/dev.md"), "---\nagent_provider: {template: shell}\n---\n");
        world.write(world.bb_home().join("agents/worker.md"), "---\nbottle: dev\n---\n");
        world.make_dir("project");
        let three = ["start", "worker", "--headless", "--label", "three", "--budget", "unlimited", "--prompt", WAITS];
        let three = in_project(&world, &three).spawn();
        three.says("up");
        let all = ["one", "two", "three"];
        let says = |args: &[&str], code: i32, word: &str, slugs: &[&str]| {
            let said = world.bb(args).expect(code);
            let mut lines: Vec<&str> = said.stdout.lines().collect();
            lines.sort_unstable();
            let mut expected: Vec<String> = slugs.iter().map(|slug| format!("{slug}  {word}")).collect();
            expected.sort_unstable();
            assert_eq!(lines, expected, "{said}");
            said
        };
        says(&["pause", "--all", "--reason", "lunch"], 0, "paused", &all);
        assert!(all.iter().all(|slug| stands(&world, slug)["reason"] == "lunch"));
        world.bb(&["thaw", "two"]).expect(0);
        // Only what is paused is thawed; what runs is left alone, and nothing is said of it.
        says(&["thaw", "--all", "--reason", "back"], 0, "runs", &["one", "three"]);
        says(&["cut", "--all", "--metered", "--reason", "too dear"], 0, "cut", &all);
        assert!(all.iter().all(|slug| stands(&world, slug)["reason"] == "too dear"));
        // A pause on top of it is forgotten with its end, and the cut is what is said again.
        world.bb(&["pause", "one", "--reason", "again"]).expect(0);
        world.bb(&["thaw", "one"]).expect(0);
        assert_eq!(stands(&world, "one")["reason"], "too dear");
        // Those that keep no session cannot be frozen; the one that does is, and the code is that of the worst.
        let frozen = world.bb(&["freeze", "--all", "--reason", "night"]).expect(2);
        assert!(frozen.stdout.contains("three  frozen") && frozen.stderr.contains("one:\n"), "{frozen}");
        assert_eq!(
            (&stands(&world, "three")["ended"], &stands(&world, "three")["reason"]),
            (&json!("frozen"), &json!("night"))
        );
        says(&["kill", "--all", "--reason", "done"], 0, "killed", &["one", "two"]);
        says(&["kill", "--all"], 0, "", &[]);

        let socket = world.bb_home().join("run/controller.sock").display().to_string();
        let written = |book: &str, slug: &str| -> Vec<String> {
            let url = format!("http://bb/v1/events?since=0&bottle={slug}&book={book}");
            let events =
                world.program("/usr/bin/curl", &["-sS", "--unix-socket", &socket, &url]).run().expect(0).json();
            let enforced = events.iter().filter(|event| event["type"] == "enforced");
            let word = |event: &Value, key: &str| event["data"][key].as_str().unwrap_or("-").to_owned();
            enforced
                .map(|event| format!("{} {} {}", word(event, "action"), word(event, "reason"), word(event, "by")))
                .collect()
        };
        let of_two = ["pause lunch", "thaw -", "cutoff too dear", "kill done"].map(|what| format!("{what} operator"));
        assert_eq!(written("rehearsal", "two"), of_two);
        let of_three = ["pause lunch", "thaw back", "cutoff too dear", "freeze night"];
        assert_eq!(written("real", "three"), of_three.map(|what| format!("{what} operator")));
    }
}

#[test]
fn a_recipe_is_told_of_each_threshold_of_its_budget_once() {
    for world in World::each() {
        let recipe = world.recipe(
            "warned.lua",
            "--- @bb needs launch, budget\n\
             bb.rehearse{ turns = {\n\
               { text = 'One.', run = { argv = { 'ls' } }, usage = { cache_write = 55000, output = 1 } },\n\
               { text = 'Two.', run = { argv = { 'ls' } }, usage = { input = 1000, output = 1 } },\n\
               { text = 'Three.', run = { argv = { 'ls' } }, usage = { input = 40000, output = 1 } },\n\
               { text = 'Done.', usage = { input = 1, output = 1 } } } }\n\
             bb.budget.set{ tokens = '100k', hard = true }\n\
             bb.on('threshold', function(event, bottle)\n\
               local d = event.data\n\
               print(bottle.label, d.node == 'run:' .. bb.run.id, d.provider, d.percent, d.used, d.limit, d.left)\n\
             end)\n\
             bb.launch{ provider = 'demo', prompt = 'x', label = 'spends', budget = 'unlimited' }:wait{check = false}\n",
        );
        let output = world.bb(&["run", "--grant", "all", &recipe]).expect(0);
        let line =
            |percent: u32, used: u32| format!("spends\ttrue\t*\t{percent}\t{used}\t100000\t{}\n", 100_000 - used);
        assert_eq!(output.stdout, [line(50, 55_001), line(80, 96_003), line(95, 96_003)].concat(), "{output}");
    }
}

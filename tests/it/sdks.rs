//! What the vendors' own SDKs ask of a model API from inside a bottle: each feature by which the provider would reach out is
//! refused with nothing sent upstream, its plain twin passes, and a route that names the feature lets it pass.
//!
//! There is a table of features for each language that the vendors have SDKs for: `tests/sdks/features.py`, and
//! `tests/sdks/features.cjs`, which asks for the same. And what the SDKs make of a budget that is spent: `spent.py`, `spent.cjs`,
//! in which AWS's for Bedrock has its part.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bb::rehearse::Scenario;
use serde_json::{Value, json};

use crate::support::toolchains::{self, Toolchain};
use crate::support::{Who, World, need, tool, within};

/// What the host has.
pub(crate) const KEY: &str = "sk-the-hosts-7f3a9b1c";

/// The APIs: host, as routes name it, and how the credential is put in.
pub(crate) const APIS: [(&str, &str, &str); 3] = [
    ("api.anthropic.com", "anthropic", "scheme = 'header', header = 'x-api-key'"),
    ("api.openai.com", "openai_responses", "scheme = 'Bearer'"),
    ("generativelanguage.googleapis.com", "gemini", "scheme = 'header', header = 'x-goog-api-key'"),
];

/// Bedrock, as routes name it: AWS has an SDK of its own, which is asked by one of its API keys.
pub(crate) const BEDROCK: (&str, &str, &str) =
    ("bedrock-runtime.us-east-1.amazonaws.com", "bedrock", "scheme = 'Bearer'");

/// What each of them raises when its budget is spent: a beginning of a case's name, and the class in either language.
const RAISED: [(&str, &str, &str); 5] = [
    ("anthropic", "anthropic.RateLimitError", "RateLimitError"),
    ("openai", "openai.RateLimitError", "RateLimitError"),
    ("google", "google.ClientError", "ApiError"),
    ("vertex", "google.ClientError", "ApiError"),
    ("bedrock", "", "ServiceQuotaExceededException"),
];

/// An endpoint that no list of features opens.
const PATH: &str = "metered_path_unknown";

/// A language that the SDKs are for.
pub(crate) struct Language {
    /// Its table, beside the others.
    pub(crate) table: &'static str,
    /// What runs it, on the host and in a bottle.
    pub(crate) runs: [&'static str; 2],
    /// What the file is called in which a mode leaves what came of it, after the mode.
    pub(crate) left: &'static str,
}

pub(crate) const PYTHON: Language =
    Language { table: "features.py", runs: ["/usr/bin/python3", "python"], left: ".json" };
pub(crate) const NODE: Language = Language { table: "features.cjs", runs: ["node", "node"], left: "-node.json" };

impl Language {
    pub(crate) fn script(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdks").join(self.table)
    }

    /// Gets the table: name and feature of each case.
    pub(crate) fn cases(&self) -> Vec<Value> {
        let listed = std::process::Command::new(self.runs[0]).arg(self.script()).arg("list").output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        serde_json::from_slice(&listed.stdout).unwrap()
    }
}

/// Two bottles beside each other, whose routes name no feature and all of them.
fn recipe(language: &Language, features: &[&str]) -> String {
    let routes = |tools: &[&str]| -> String {
        let tools: String = tools.iter().map(|tool| format!("'{tool}', ")).collect();
        let routes = APIS.iter().map(|(host, api, auth)| {
            format!(
                "{{ host = '{host}', api = '{api}', server_tools = {{ {tools} }}, \
                 auth = {{ {auth}, credential = 'REAL_KEY' }} }}, "
            )
        });
        routes.collect()
    };
    format!(
        "--- @bb needs launch, write:args, egress:*, credential:REAL_KEY\n\
         local function play(mode, routes)\n\
           return bb.launch {{ command = {{ '{}', '{}', mode }}, workspace = bb.args[1], label = mode, \
             budget = 'unlimited', routes = routes, timeout = '10m' }}\n\
         end\n\
         local both = {{ play('refused', {{ {} }}), play('allowed', {{ {} }}) }}\n\
         for _, bottle in ipairs(both) do\n\
           local code = bottle:wait {{ check = false }}.exit_code\n\
           if code ~= 0 then for f in bottle:logs() do if f.type == 'output' then print(f.text) end end end\n\
           print(bottle.label, code)\n\
         end\n",
        language.runs[1],
        language.table,
        routes(&[]),
        routes(features)
    )
}

/// Holds what came of a case against what has to; gets what is wrong.
fn judge(mode: &str, case: &Value) -> Option<String> {
    let (status, text) = (case["status"].as_u64().unwrap_or_default(), case["text"].as_str().unwrap_or_default());
    let fine = match (case["feature"].as_str(), mode) {
        (None, _) => status == 200,
        (Some(PATH), _) => status == 404 && text.contains(PATH),
        (Some(_), "allowed") => status == 200,
        (Some(feature), _) => status == 403 && text.contains("server_tool") && text.contains(feature),
    };
    (!fine).then(|| format!("{mode}: {case}"))
}

/// Plays a language's table with what is `shown`, which has at least so many cases of each kind: features, paths, plain ones.
fn play(language: &Language, shown: &[Toolchain], least: [usize; 3]) {
    let cases = language.cases();
    let mut features: Vec<_> = cases.iter().filter_map(|case| case["feature"].as_str()).collect();
    let of_kind =
        |path: bool| cases.iter().filter(|c| c["feature"].is_string() && (c["feature"] == PATH) == path).count();
    let (reaching, paths) = (of_kind(false), of_kind(true));
    let plain = cases.len() - reaching - paths;
    let enough = [reaching, paths, plain].iter().zip(least).all(|(count, least)| *count >= least);
    assert!(enough, "{reaching} {paths} {plain}");
    features.retain(|feature| *feature != PATH);
    features.sort_unstable();
    features.dedup();
    for who in Who::all() {
        let Some(world) = World::showing(who, shown) else { continue };
        let scenario = json!({"loop": true, "key": KEY, "turns": [{"text": "hello there"}]});
        let rehearsal = world.rehearsal(Scenario::from_value(scenario).unwrap());
        world.write(world.bb_home().join("upstream.pem"), rehearsal.ca_pem());
        let address = rehearsal.address();
        let upstreams: String =
            APIS.map(|(host, ..)| format!("  {host}: {{address: \"{address}\", ca: upstream.pem}}\n")).concat();
        world.settings(&format!("upstreams:\n{upstreams}"));
        let project = world.make_dir("project");
        world.write(project.join(language.table), fs::read(language.script()).unwrap());
        let recipe = world.recipe("sdks.lua", &recipe(language, &features));
        let args = ["run", "--grant", "all", &recipe, "--", &project.display().to_string()];
        let command = world.command(&args).env("REAL_KEY", KEY).patience(Duration::from_secs(240));
        let output = command.run().expect(0);
        assert_eq!(output.stdout, "refused\t0\nallowed\t0\n", "{output}");
        let mut wrong = vec![];
        for mode in ["refused", "allowed"] {
            let text = fs::read(project.join(format!("{mode}{}", language.left))).unwrap();
            let got: Vec<Value> = serde_json::from_slice(&text).unwrap();
            assert_eq!(got.len(), cases.len());
            wrong.extend(got.iter().filter_map(|case| judge(mode, case)));
        }
        assert!(wrong.is_empty(), "{who:?}:\n{}", wrong.join("\n"));
        // The plain ones of both bottles and what the second one was allowed: of what was refused nothing was sent.
        let stats = rehearsal.stats();
        let arrived: Vec<_> = stats.requests.iter().map(|r| format!("{} {} {}", r.status, r.method, r.path)).collect();
        assert_eq!(arrived.len(), 2 * plain + reaching, "{arrived:#?}");
        world.assert_silent(&[]);
    }
}

#[test]
fn what_the_vendors_sdks_ask_for_is_refused_by_feature_and_passes_where_a_route_names_it() {
    let shown = toolchains::all();
    if !shown.iter().any(|toolchain| toolchain.has("python")) {
        return need("the vendors' SDKs (.ci/run installs them)");
    }
    play(&PYTHON, &shown, [41, 11, 11]);
}

#[test]
fn what_the_vendors_sdks_for_node_ask_for_is_refused_by_feature_and_passes_where_a_route_names_it() {
    let Some(sdks) = toolchains::sdks().filter(|_| tool("node").is_some()) else {
        return need("the vendors' SDKs for Node (.ci/run installs them)");
    };
    play(&NODE, &[sdks], [48, 13, 16]);
}

/// Has the SDKs of a language ask under a budget that is spent, and holds what they raise against the table.
fn spent(language: &Language, shown: &[Toolchain]) {
    let raised = |name: &str| {
        let row = RAISED.iter().find(|(of, ..)| name.starts_with(of)).unwrap();
        if language.left == NODE.left { row.2 } else { row.1 }
    };
    for who in Who::all() {
        let Some(world) = World::showing(who, shown) else { continue };
        let usage = json!({"input": 20, "output": 4000});
        let scenario = json!({"loop": true, "key": KEY, "turns": [{"text": "hello there", "usage": usage}]});
        let rehearsal = world.rehearsal(Scenario::from_value(scenario).unwrap());
        world.write(world.bb_home().join("upstream.pem"), rehearsal.ca_pem());
        let address = rehearsal.address();
        world.settings(&format!("upstreams: {{api.anthropic.com: {{address: \"{address}\", ca: upstream.pem}}}}\n"));
        let project = world.make_dir("project");
        world.write(project.join(language.table), fs::read(language.script()).unwrap());
        let more = [
            ("chat.example", "openai_chat", "scheme = 'Bearer'"),
            ("aiplatform.googleapis.com", "vertex", "scheme = 'header', header = 'x-goog-api-key'"),
            BEDROCK,
        ];
        let route = |(host, api, auth): &(&str, &str, &str)| {
            format!("{{ host = '{host}', api = '{api}', auth = {{ {auth}, credential = 'REAL_KEY' }} }}, ")
        };
        let routes: String = APIS.iter().chain(&more).map(route).collect();
        let recipe = format!(
            "--- @bb needs launch, write:args, egress:*, credential:REAL_KEY\n\
             local b = bb.launch {{ command = {{ '{}', '{}' }}, workspace = bb.args[1], label = 'spent', budget = 3000, \
               routes = {{ {routes} }}, timeout = '5m' }}\n\
             local o = b:wait {{ check = false }}\n\
             if o.exit_code ~= 0 then for f in b:logs() do print(f.text) end end\n\
             print('ended', o.exit_code)\n",
            language.runs[1], language.table
        );
        let recipe = world.recipe("spent.lua", &recipe);
        let args = ["run", "--grant", "all", &recipe, "--", &project.display().to_string()];
        let output = world.command(&args).env("REAL_KEY", KEY).patience(Duration::from_secs(240)).run().expect(0);
        assert!(output.stdout.ends_with("ended\t0\n"), "{output}");
        let got: Vec<Value> = serde_json::from_slice(&fs::read(project.join("spent.json")).unwrap()).unwrap();
        assert_eq!(got.len(), language.cases().len());
        for case in &got {
            let (name, text) = (case["name"].as_str().unwrap(), case["text"].as_str().unwrap());
            eprintln!("{who:?} {name}: {} {} in {} ms", case["status"], case["kinds"][0], case["ms"]);
            if name.starts_with("bedrock") {
                // At 429 it would ask three times, and soon.
                assert_eq!((&case["status"], &case["attempts"]), (&json!(400), &json!(1)), "{case}");
            } else {
                assert_eq!(case["status"], 429, "{case}");
            }
            assert!(case["kinds"].as_array().unwrap().iter().any(|kind| kind == raised(name)), "{case}");
            assert!(text.contains("budget") && text.contains("of 3000 tokens used"), "it says why: {case}");
            let soon = within(Duration::from_secs(2)).as_millis();
            assert!(u128::from(case["ms"].as_u64().unwrap()) < soon, "it did not try again and again: {case}");
        }
        assert_eq!(rehearsal.stats().total, 1, "only what spent it was sent");
        world.assert_silent(&[]);
    }
}

#[test]
fn the_vendors_sdks_raise_their_own_error_for_a_spent_budget_and_do_not_try_again() {
    let shown = toolchains::all();
    if !shown.iter().any(|toolchain| toolchain.has("python")) {
        return need("the vendors' SDKs (.ci/run installs them)");
    }
    spent(&Language { table: "spent.py", ..PYTHON }, &shown);
}

#[test]
fn the_vendors_sdks_for_node_raise_their_own_error_for_a_spent_budget_and_do_not_try_again() {
    let Some(sdks) = toolchains::sdks().filter(|_| tool("node").is_some() && toolchains::has_bedrock()) else {
        return need("the vendors' SDKs for Node (.ci/run installs them)");
    };
    spent(&Language { table: "spent.cjs", ..NODE }, &[sdks]);
}

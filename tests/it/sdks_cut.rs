//! What the vendors' own SDKs make of an answer that a hard budget cuts while it streams: they raise an error of their own that has
//! the budget's words, and ask no second time. By `tests/sdks/cut.py` and `cut.cjs`, one bottle for each of their cases.

use std::fs;
use std::time::Duration;

use bb::rehearse::Scenario;
use serde_json::{Value, json};

use crate::sdks::{APIS, BEDROCK, KEY, Language, NODE, PYTHON};
use crate::support::toolchains::{self, Toolchain};
use crate::support::{Who, World, need, tool, within};

/// What each of them raises in the midst of a stream: a beginning of a case's name, and the class in either language. The Responses
/// API says of a response that it failed, by an event, and its SDKs hand that on as they hand on everything that it says.
const RAISED: [(&str, Option<[&str; 2]>); 6] = [
    ("anthropic", Some(["anthropic.APIStatusError", "APIError"])),
    ("openai responses", None),
    ("openai chat", Some(["openai.APIError", "APIError"])),
    ("google", Some(["google.ClientError", "ApiError"])),
    ("vertex", Some(["google.ClientError", "ApiError"])),
    ("bedrock", Some(["", "ThrottlingException"])),
];

/// The text that the server would say, of which the limit is not a half.
const WORDS: usize = 4000;
const LIMIT: u64 = 3000;

/// Gets what is wrong with what came of a case.
fn judge(language: &Language, case: &Value) -> Option<String> {
    let text = |key: &str| case[key].as_str().unwrap_or_default();
    let row = RAISED.iter().find(|(of, _)| text("name").starts_with(of)).unwrap();
    let (raised, words) = match row.1.map(|kinds| kinds[usize::from(language.left == NODE.left)]) {
        Some(class) => (case["kinds"].as_array().unwrap().iter().any(|kind| kind == class), text("text")),
        None => (case["kinds"] == json!([]) && text("last").contains("response.failed"), text("last")),
    };
    let said = words.contains("this bottle's budget") && words.contains(&format!("of {LIMIT} tokens are used"));
    let heard = case["heard"].as_u64().unwrap_or_default();
    let some = (1000..5 * WORDS as u64).contains(&heard);
    let soon = u128::from(case["ms"].as_u64().unwrap_or(u64::MAX)) < within(Duration::from_secs(5)).as_millis();
    (!(raised && said && some && soon)).then(|| case.to_string())
}

/// Has each case of a language's table ask for a stream that is longer than its bottle may have it.
fn cut(language: &Language, shown: &[Toolchain]) {
    let cases = language.cases();
    for who in Who::all() {
        let Some(world) = World::showing(who, shown) else { continue };
        let turn = json!({"text": "word ".repeat(WORDS), "usage": {"input": 20, "output": 9000}});
        let hosts = ["chat.example", "aiplatform.googleapis.com"];
        let scenario = json!({"loop": true, "key": KEY, "hosts": hosts, "turns": [turn]});
        let rehearsal = world.rehearsal(Scenario::from_value(scenario).unwrap());
        world.write(world.bb_home().join("upstream.pem"), rehearsal.ca_pem());
        let bearer = "scheme = 'Bearer'";
        let more = [(hosts[0], "openai_chat", bearer), (hosts[1], "vertex", bearer), BEDROCK];
        let address = rehearsal.address();
        let all = || APIS.iter().chain(&more);
        let upstream =
            |(host, ..): &(&str, &str, &str)| format!("  {host}: {{address: \"{address}\", ca: upstream.pem}}\n");
        world.settings(&format!("upstreams:\n{}", all().map(upstream).collect::<String>()));
        let project = world.make_dir("project");
        world.write(project.join(language.table), fs::read(language.script()).unwrap());
        let route = |(host, api, auth): &(&str, &str, &str)| {
            format!("{{ host = '{host}', api = '{api}', auth = {{ {auth}, credential = 'REAL_KEY' }} }}, ")
        };
        let recipe = format!(
            "--- @bb needs launch, write:args, egress:*, credential:REAL_KEY\n\
             local all = {{}}\n\
             for i = 1, {} do\n\
               all[i] = bb.launch {{ command = {{ '{}', '{}', tostring(i - 1) }}, workspace = bb.args[1], label = 'cut', \
                 budget = {{ tokens = {LIMIT}, hard = true }}, routes = {{ {} }}, timeout = '5m' }}\n\
             end\n\
             for i, b in ipairs(all) do\n\
               local o = b:wait {{ check = false }}\n\
               if o.exit_code ~= 0 then for f in b:logs() do print(f.text) end end\n\
               print(i, o.exit_code, o.cut ~= nil)\n\
             end\n",
            cases.len(),
            language.runs[1],
            language.table,
            all().map(route).collect::<String>(),
        );
        let recipe = world.recipe("cut.lua", &recipe);
        let args = ["run", "--grant", "all", &recipe, "--", &project.display().to_string()];
        let output = world.command(&args).env("REAL_KEY", KEY).patience(Duration::from_secs(240)).run().expect(0);
        let mut wrong = vec![];
        for (number, listed) in cases.iter().enumerate() {
            let got = fs::read(project.join(format!("cut-{number}.json"))).unwrap();
            let got: Value = serde_json::from_slice(&got).unwrap();
            assert_eq!(got["name"], listed["name"]);
            eprintln!("{who:?} {}: {} after {} letters, {} ms", got["name"], got["kinds"][0], got["heard"], got["ms"]);
            wrong.extend(judge(language, &got));
        }
        assert!(wrong.is_empty(), "{who:?}:\n{}", wrong.join("\n"));
        let ended: String = (1..=cases.len()).map(|i| format!("{i}\t0\ttrue\n")).collect();
        assert_eq!(output.stdout, ended, "{output}");
        let stats = rehearsal.stats();
        assert_eq!(stats.total, cases.len() as u64, "none asked again: {:?}", stats.requests);
        let usage = world.bb(&["usage", "--json"]).expect(0).json().remove(0);
        assert_eq!(usage["total"]["estimated"], cases.len(), "each row says that it is partial: {usage}");
        world.assert_silent(&[]);
    }
}

#[test]
fn the_vendors_sdks_raise_their_own_error_for_an_answer_that_is_cut() {
    let shown = toolchains::all();
    if !shown.iter().any(|toolchain| toolchain.has("python")) {
        return need("the vendors' SDKs (.ci/run installs them)");
    }
    cut(&Language { table: "cut.py", ..PYTHON }, &shown);
}

#[test]
fn the_vendors_sdks_for_node_raise_their_own_error_for_an_answer_that_is_cut() {
    let Some(sdks) = toolchains::sdks().filter(|_| tool("node").is_some() && toolchains::has_bedrock()) else {
        return need("the vendors' SDKs for Node (.ci/run installs them)");
    };
    cut(&Language { table: "cut.cjs", ..NODE }, &[sdks]);
}

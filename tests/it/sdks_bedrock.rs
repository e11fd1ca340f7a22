//! What AWS's own SDK reads of Bedrock's answers, by `tests/sdks/whole.cjs`, and what the ledger has of them: the same figures.

use std::fs;
use std::time::Duration;

use bb::rehearse::Scenario;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::sdks::{BEDROCK, KEY, Language, NODE};
use crate::support::{Who, World, need, tool, toolchains};

#[test]
fn what_awss_sdk_says_was_used_is_what_the_ledger_has_however_it_asks() {
    if tool("node").is_none() || !toolchains::has_bedrock() {
        return need("AWS's SDK for Node (.ci/run installs it with the agents)");
    }
    let language = Language { table: "whole.cjs", ..NODE };
    for who in Who::all() {
        let Some(world) = World::showing(who, &[]) else { continue };
        let usage = json!({"input": 20, "output": 4000, "cache_read": 300, "cache_write": 7});
        let scenario = json!({"loop": true, "key": KEY, "turns": [{"text": "hello there", "usage": usage}]});
        let rehearsal = world.rehearsal(Scenario::from_value(scenario).unwrap());
        world.write(world.bb_home().join("upstream.pem"), rehearsal.ca_pem());
        let (host, api, auth) = BEDROCK;
        let address = rehearsal.address();
        world.settings(&format!("upstreams: {{{host}: {{address: \"{address}\", ca: upstream.pem}}}}\n"));
        let project = world.make_dir("project");
        world.write(project.join(language.table), fs::read(language.script()).unwrap());
        let recipe = format!(
            "--- @bb needs launch, write:args, egress:*, credential:REAL_KEY\n\
             local b = bb.launch {{ command = {{ '{}', '{}' }}, workspace = bb.args[1], label = 'whole', budget = 'unlimited', \
               routes = {{ {{ host = '{host}', api = '{api}', auth = {{ {auth}, credential = 'REAL_KEY' }} }} }}, timeout = '5m' }}\n\
             local o = b:wait {{ check = false }}\n\
             if o.exit_code ~= 0 then for f in b:logs() do print(f.text) end end\n\
             print('ended', o.exit_code)\n",
            language.runs[1], language.table
        );
        let recipe = world.recipe("whole.lua", &recipe);
        let args = ["run", "--grant", "all", &recipe, "--", &project.display().to_string()];
        let output = world.command(&args).env("REAL_KEY", KEY).patience(Duration::from_secs(240)).run().expect(0);
        assert!(output.stdout.ends_with("ended\t0\n"), "{output}");
        let got: Vec<Value> = serde_json::from_slice(&fs::read(project.join("whole.json")).unwrap()).unwrap();
        assert_eq!(got.len(), language.cases().len());
        for case in &got {
            assert_eq!((&case["text"], &case["usage"]), (&json!("hello there"), &usage), "{who:?}: {case}");
        }
        let rows = rows(&world);
        let told: Vec<Value> = got.iter().map(|case| json!({"api": case["api"], "usage": case["usage"]})).collect();
        assert_eq!(rows, told, "{who:?}: one exact row for each, in their order");
        assert_eq!(rehearsal.stats().total, got.len() as u64, "none asked again");
        world.assert_silent(&[]);
    }
}

/// Gets what the exact rows of the ledger say: of which API, and what was used.
fn rows(world: &World) -> Vec<Value> {
    let path = world.bb_home().join("bot-bottle.db");
    let ledger = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut read = ledger
        .prepare("SELECT api, input, output, cache_read, cache_write FROM usage WHERE how = 'exact' ORDER BY opened")
        .unwrap();
    let rows = read.query_map([], |row| {
        let n = |at| row.get::<_, i64>(at);
        let usage = json!({"input": n(1)?, "output": n(2)?, "cache_read": n(3)?, "cache_write": n(4)?});
        Ok(json!({"api": row.get::<_, String>(0)?, "usage": usage}))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

//! An agent that never gives up, and what tests of crashes ask about its bottle.
//!
//! It asks the model again and again, whatever comes back, and says so in numbered lines, until a file named `stop.` and its
//! bottle's name lies in its directory; then it ends with 7. So a test can kill what it likes and see afterwards whether anything was lost.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bb::bottle::output;
use bb::rehearse::{Rehearsal, Scenario};
use bb::types::Tokens;
use serde_json::{Value, json};

use crate::support::World;

/// The key that the front end has.
pub const KEY: &str = "sk-ant-the-real-one";

/// How the agent ends.
pub const CODE: i32 = 7;

/// A provider of that name, so that a test can have several budgets.
fn provider(name: &str) -> String {
    format!(
        r##"
return {{
  name = "{name}",
  argv = function(ctx)
    return {{ "/bin/bash", "-c", [==[
      ask() {{
        curl -sS -N -m "$1" -H content-type:application/json -H "x-api-key: $ANTHROPIC_API_KEY" -d @"$body" \
          https://api.anthropic.com/v1/messages 2>&1
      }}
      body=body.$HOSTNAME.json
      printf '{{"model":"claude-sonnet-4-5","max_tokens":400,"stream":true,"messages":[{{"role":"user","content":"' >"$body"
      head -c 4000 /dev/zero | tr '\0' x >>"$body"
      printf '"}}]}}' >>"$body"
      until [ -e "go.$HOSTNAME" ] || [ -z "$2" ]; do sleep 0.02; done
      n=0
      until [ -e "stop.$HOSTNAME" ]; do
        n=$((n + 1))
        said=$(ask "$1")
        case "$said" in
          *message_stop*) what=served ;;
          *"budget"*) what=spent ;;
          *) what="failed $(printf %s "$said" | tail -n 1 | tr -c 'a-zA-Z0-9 ()_.:' ' ' | tail -c 150)"; sleep 0.02 ;;
        esac
        echo "line $n $what"
      done
      exit {CODE}
    ]==], "looper", ctx.prompt, ctx.args[1] or "" }}
  end,
  credentials = {{
    anthropic = {{
      {{ env = "ANTHROPIC_API_KEY", placeholder = "sk-ant-placeholder", scheme = "header", header = "x-api-key",
        set = {{ "ANTHROPIC_API_KEY" }} }},
    }},
  }},
  routes = {{ {{ host = "api.anthropic.com", api = "anthropic", credential = "anthropic" }} }},
}}
"##
    )
}

/// Launches `bb.args[1]` bottles and tells how each ended, with all that it said. `bb.args[2]` = how long a request may
/// take; `--provider`, `--timeout`, `--detach`, `--gated` (nothing is asked until there is its file `go`).
const RECIPE: &str = r#"--- @bb needs launch, write:WORKSPACE
local bottles = {}
for i = 1, tonumber(bb.args[1]) do
  bottles[i] = bb.launch{
    provider = bb.args.provider or "looper", workspace = "WORKSPACE", label = bb.args.provider or "looper", prompt = bb.args[2],
    args = bb.args.gated and {"gated"} or nil,
    budget = bb.args.provider == nil and "unlimited" or nil, detach = bb.args.detach and true or nil,
    timeout = bb.args.timeout,
  }
  print("launched " .. bottles[i].slug)
end
print("all launched")
if bb.args.detach then bb.exit(0) end
for _, b in ipairs(bottles) do
  local o = b:wait{check = false}
  local text = {}
  for frame in b:logs() do text[#text + 1] = frame.text end
  for line in table.concat(text):gmatch("[^\n]+") do print(b.slug .. ": " .. line) end
  print("ended " .. b.slug .. " " .. o.ended .. " " .. tostring(o.exit_code) .. " " .. tostring(o.cut ~= nil))
end
"#;

/// Sets a world up: `scenario` is played under the real name in the real book. Gets the server and the recipe's path.
pub fn set_up(world: &World, scenario: Value, providers: &[&str], settings: &str) -> (Rehearsal, String) {
    let rehearsal = world.rehearsal(Scenario::from_value(scenario).unwrap());
    world.write(world.bb_home().join("upstream.pem"), rehearsal.ca_pem());
    let address = rehearsal.address();
    world.settings(&format!(
        "upstreams:\n  api.anthropic.com: {{address: \"{address}\", ca: upstream.pem}}\n{settings}"
    ));
    for name in providers {
        world.write(world.bb_home().join(format!("providers/{name}.lua")), provider(name));
    }
    world.make_dir(work(world));
    let recipe = RECIPE.replace("WORKSPACE", &work(world).display().to_string());
    let recipe = world.write(world.bb_home().join("recipes/loop.lua"), recipe);
    (rehearsal, recipe.display().to_string())
}

/// An answer that takes about `ms` milliseconds to stream.
pub fn slow(ms: u64) -> Value {
    json!({"loop": true, "key": KEY, "turns": [{"text": "word ".repeat(80), "chunk_ms": ms / 26}]})
}

/// The slugs that a front end has said it launched.
pub fn launched(stdout: &str) -> Vec<String> {
    stdout.lines().filter_map(|l| l.strip_prefix("launched ")).map(str::to_owned).collect()
}

/// Where all of them work.
pub fn work(world: &World) -> PathBuf {
    world.dir().join("loop")
}

/// Asks the agents to end.
pub fn stop(world: &World, slugs: &[String]) {
    mark(world, slugs, "stop");
}

/// Puts an empty file for each of the agents where they work.
pub fn mark(world: &World, slugs: &[String], file: &str) {
    for slug in slugs {
        world.write(work(world).join(format!("{file}.{slug}")), "");
    }
}

/// What an agent has said so far, read without asking anybody.
pub fn said(world: &World, slug: &str) -> Vec<String> {
    let log = world.bb_home().join("state").join(slug).join("output.log");
    let frames = output::read(&log, 0, 64 << 20).unwrap_or_default();
    let bytes: Vec<u8> = frames.into_iter().flat_map(|f| f.bytes).collect();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

/// Number of lines that say `what`.
pub fn count(world: &World, slug: &str, what: &str) -> usize {
    said(world, slug).iter().filter(|l| l.contains(what)).count()
}

/// Waits until an agent has said `what` `more` times more.
#[track_caller]
pub fn says_more(world: &World, slug: &str, what: &str, more: usize, limit: Duration) {
    let before = count(world, slug, what);
    let became = world.until(limit, || count(world, slug, what) >= before + more);
    let said = said(world, slug);
    assert!(became, "{slug} did not say {what:?} again: {:?}", &said[said.len().saturating_sub(10)..]);
}

/// Asserts that lines are numbered without a hole and gets how many there are.
#[track_caller]
pub fn whole(lines: &[String]) -> usize {
    let numbers: Vec<usize> =
        lines.iter().filter_map(|l| l.strip_prefix("line ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "lines are missing or doubled");
    numbers.len()
}

/// Process ids of keepers and of the first process of the bottle of each.
pub fn inits(world: &World) -> BTreeMap<i32, i32> {
    let first = |keeper: i32| {
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().filter_map(|c| c.parse::<i32>().ok()).find(|pid| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or_default();
            ids.split_whitespace().count() > 1 && ids.split_whitespace().last() == Some("1")
        })
    };
    world.keepers().into_iter().filter_map(|k| Some((k, first(k)?))).collect()
}

/// Asks the controller's API as the world's user; null where nobody answers.
pub fn api(world: &World, path: &str) -> Value {
    let socket = world.bb_home().join("run/controller.sock").display().to_string();
    let url = format!("http://bb{path}");
    let asked = world.program("/usr/bin/curl", &["-sS", "-m", "10", "--unix-socket", &socket, &url]).run();
    serde_json::from_str(&asked.stdout).unwrap_or_default()
}

/// Counts tokens as the default weights do.
pub fn weighed(t: &Tokens) -> u64 {
    t.input + t.cache_write + t.cache_write_long + t.output + t.cache_read.div_ceil(10)
}

/// Asserts what must hold of the books when all is over: nothing is reserved, and nothing that the server has begun to
/// answer is missing. Where agents hang up or are killed (`impatient`), what such an answer would still have said counts
/// for nothing: each row that is not exact may lack as much as one answer's output.
#[track_caller]
pub fn assert_books(world: &World, rehearsal: &Rehearsal, impatient: bool) {
    world.bb(&["ps"]).expect(0);
    let mut accounts = Value::Null;
    world.until(Duration::from_secs(10), || {
        accounts = api(world, "/v1/budgets?book=real");
        let list = accounts["accounts"].as_array().cloned().unwrap_or_default();
        !list.is_empty() && list.iter().all(|a| a["held"] == 0)
    });
    let list = accounts["accounts"].as_array().cloned().unwrap_or_default();
    assert!(!list.is_empty() && list.iter().all(|a| a["held"] == 0), "something is still reserved: {accounts}");
    let usage = world.bb(&["usage", "--json"]).expect(0);
    let total = usage.json()[0]["total"].clone();
    let counted = total["counted"].as_u64().unwrap();
    let stats = rehearsal.stats();
    let (mut begun, completed) = (weighed(&stats.begun), weighed(&stats.completed));
    if impatient {
        let most = stats.requests.iter().map(|r| r.scripted.output).max().unwrap_or(0);
        begun -= begun.min(most * total["estimated"].as_u64().unwrap());
    }
    eprintln!(
        "counted {counted}; the server completed {completed} and began {begun} in {} requests; {total}",
        stats.total
    );
    assert!(counted >= begun, "counted {counted}, the server's own count is {begun}");
}

/// Kills the controller `times` times, each between 20 and 600 ms after it was seen, and calls `check` after each.
pub fn kill_again_and_again(world: &World, times: usize, mut check: impl FnMut(usize)) {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64 ^ u64::from(std::process::id());
    let mut last = None;
    for round in 0..times {
        let up = world.until(Duration::from_secs(30), || world.controller_pid().is_some_and(|p| Some(p) != last));
        assert!(up, "no controller came back after kill {round}\n{}", world.controller_log());
        // The time at which it dies is what is being tried here.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(20 + (seed >> 33) % 580));
        last = world.kill_controller().or(last);
        check(round);
    }
}

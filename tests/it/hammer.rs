//! Clients that hammer one budget: two in each bottle, with requests of random sizes, some of which the server refuses, some of whose
//! answers break, and some that hang up. What they ask is decided by a seed; when, the machine decides.

use bb::rehearse::{Rehearsal, Scenario};
use serde_json::{Value, json};

use crate::looper::{KEY, work};
use crate::support::World;

/// The provider whose budget it is.
pub const PROVIDER: &str = "hammer";

/// Each client asks until it is told that the budget is spent, or asked to stop.
const SCRIPT: &str = r#"
client() {
  RANDOM=$(( $1 * 64 + $2 ))
  body=body.$HOSTNAME.$2.json
  until [ -e "go.$HOSTNAME" ]; do sleep 0.02; done
  until [ -e "stop.$HOSTNAME" ]; do
    patience=30
    case $(( RANDOM % 10 )) in
      0) kind=kind-429 ;;
      1) kind=kind-529 ;;
      2) kind=kind-broken ;;
      3) kind=kind-large; patience=0.0$(( RANDOM % 9 + 1 )) ;;
      4|5) kind=kind-large ;;
      6|7) kind=kind-odd ;;
      *) kind=kind-small ;;
    esac
    {
      printf '{"model":"claude-sonnet-4-5","max_tokens":%d,"stream":true,"messages":[{"role":"user","content":"%s ' $(( RANDOM % 800 + 50 )) $kind
      head -c $(( RANDOM % 6000 )) /dev/zero | tr '\0' 'x'
      printf '"}]}'
    } >"$body"
    said=$(curl -sS -N -m $patience -H content-type:application/json -H "x-api-key: $ANTHROPIC_API_KEY" -d @"$body" https://api.anthropic.com/v1/messages 2>&1)
    case "$said" in
      *budget*spent*|*budget*"too small"*) echo "told $kind"; return ;;
      *message_stop*) echo "served $kind" ;;
      *) echo "failed $kind"; sleep 0.02 ;;
    esac
  done
}
client "$1" $(( $2 * 2 )) & client "$1" $(( $2 * 2 + 1 )) & wait
"#;

const RECIPE: &str = r#"--- @bb needs launch, write:WORKSPACE
local bottles = {}
for i = 1, tonumber(bb.args[1]) do
  bottles[i] = bb.launch{ provider = "hammer", workspace = "WORKSPACE", label = "hammer", prompt = bb.args[2], args = { tostring(i) } }
  print("launched " .. bottles[i].slug)
end
print("all launched")
for _, b in ipairs(bottles) do
  local o = b:wait{check = false}
  print("ended " .. b.slug .. " " .. o.ended)
end
"#;

/// What the server says: more and less than anybody could estimate.
fn scenario() -> Value {
    let turn = |input: u64, output: u64, words: usize| json!({"text": "word ".repeat(words), "chunk_ms": 4, "usage": {"input": input, "output": output}});
    let fault =
        |fault: Value| json!({"text": "word ".repeat(60), "chunk_ms": 4, "error": fault, "times": 1_000_000_000});
    let case = |contains: &str, turn: Value| json!({"contains": contains, "loop": true, "turns": [turn]});
    json!({"loop": true, "key": KEY, "turns": [turn(10, 10, 5)], "cases": [
        case("kind-429", fault(json!(429))),
        case("kind-529", fault(json!(529))),
        case("kind-broken", fault(json!("broken"))),
        case("kind-large", turn(2600, 900, 120)),
        case("kind-odd", turn(30, 700, 4)),
        case("kind-small", turn(400, 30, 8)),
    ]})
}

/// Sets a world up. Gets the server and the recipe's path.
pub fn set_up(world: &World, settings: &str) -> (Rehearsal, String) {
    let rehearsal = world.rehearsal(Scenario::from_value(scenario()).unwrap());
    world.write(world.bb_home().join("upstream.pem"), rehearsal.ca_pem());
    let address = rehearsal.address();
    world.settings(&format!(
        "upstreams:\n  api.anthropic.com: {{address: \"{address}\", ca: upstream.pem}}\n{settings}"
    ));
    let provider = format!(
        "return {{ name = '{PROVIDER}',\n  argv = function(ctx) return {{ '/bin/bash', '-c', [==[{SCRIPT}]==], 'hammer', ctx.prompt, ctx.args[1] }} end,\n\
         credentials = {{ anthropic = {{ {{ env = 'ANTHROPIC_API_KEY', placeholder = 'sk-ant-placeholder', scheme = 'header', \
         header = 'x-api-key', set = {{ 'ANTHROPIC_API_KEY' }} }} }} }},\n\
         routes = {{ {{ host = 'api.anthropic.com', api = 'anthropic', credential = 'anthropic' }} }} }}\n"
    );
    world.write(world.bb_home().join(format!("providers/{PROVIDER}.lua")), provider);
    world.make_dir(work(world));
    let recipe = RECIPE.replace("WORKSPACE", &work(world).display().to_string());
    let recipe = world.write(world.bb_home().join("recipes/hammer.lua"), recipe);
    (rehearsal, recipe.display().to_string())
}

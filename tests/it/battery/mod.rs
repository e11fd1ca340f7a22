//! The battery: everything that an agent gone wrong may try, tried from inside a real bottle, as root's bottle and as an
//! ordinary user's, and from inside the containers of engines ([`engines`]).
//!
//! Each row is refused with its kind and in under two seconds, so that a time-out cannot pass for a block; its allowed
//! twin works, so that a broken network cannot pass for one either; and the world's canaries saw not a byte.

mod addresses;
mod credentials;
mod elsewhere;
mod engines;
mod framing;
mod host;
mod kernel;
mod kinds;
mod model;
mod names;
mod network;
mod page;
mod processes;
mod table;
mod withdrawn;

use std::time::Duration;

use serde_json::Value;

use crate::support::{Output, World, within};

/// A refusal takes no longer.
const QUICK: Duration = Duration::from_secs(2);

/// One bad thing.
#[derive(Clone)]
struct Row {
    /// What it is.
    name: &'static str,
    /// The shell script that tries it, in the bottle.
    run: &'static str,
    /// What its output must say.
    says: &'static [&'static str],
    /// What its output must say exactly so often: once for each attempt, so that none of several can succeed unseen.
    each: &'static [(&'static str, usize)],
    /// The `denied` event that must tell of it: kind and host.
    denied: Option<(&'static str, &'static str)>,
    /// The allowed thing that is most like it; must end with 0. Its section's where it is empty ([`table::twin`]).
    twin: &'static str,
    /// The kinds of attack that it is one of ([`kinds`]); none where it is one of ours.
    covers: &'static [u8],
    /// What comes back, for people, where that cannot be told from what its output must say.
    comes: &'static str,
    /// Why it is not played in containers; empty where it is.
    embedded_only: &'static str,
}

impl Row {
    const fn new(name: &'static str, run: &'static str, says: &'static [&'static str]) -> Row {
        Row { name, run, says, each: &[], denied: None, twin: "", covers: &[], comes: "", embedded_only: "" }
    }

    const fn covers(mut self, kinds: &'static [u8]) -> Row {
        self.covers = kinds;
        self
    }

    const fn comes(mut self, back: &'static str) -> Row {
        self.comes = back;
        self
    }

    const fn embedded_only(mut self, why: &'static str) -> Row {
        self.embedded_only = why;
        self
    }

    const fn each(mut self, said: &'static [(&'static str, usize)]) -> Row {
        self.each = said;
        self
    }

    const fn denied(mut self, kind: &'static str, host: &'static str) -> Row {
        self.denied = Some((kind, host));
        self
    }

    const fn twin(mut self, run: &'static str) -> Row {
        self.twin = run;
        self
    }
}

/// The bottle that rows are played in.
#[derive(Default)]
struct Bottle<'a> {
    /// More of the recipe's header, such as `write:/path`.
    needs: &'a str,
    /// Lua before the launch.
    before: &'a str,
    /// Options of the launch, as Lua.
    options: &'a str,
    /// Variables of the front end.
    env: &'a [(&'a str, &'a str)],
    /// Who has to own a workspace.
    owner: Option<u32>,
    /// What stands in rows for what only the world knows: `<<WORD>>`.
    words: &'a [(&'a str, String)],
}

impl Bottle<'_> {
    /// Gives a workspace, and all that is in it, to who has to own it.
    fn give(&self, dir: &std::path::Path) {
        if let Some(owner) = self.owner {
            let given = std::process::Command::new("chown").args(["-R", &format!("{owner}:{owner}")]).arg(dir).status();
            assert!(given.unwrap().success());
        }
    }

    /// Gets its options with more of them.
    fn with(&self, options: &str) -> String {
        [self.options, options].iter().filter(|o| !o.is_empty()).copied().collect::<Vec<_>>().join(", ")
    }
}

/// What a row gave.
struct Got {
    text: String,
    code: i64,
    took: Duration,
}

/// Everything that came out of a play.
struct Played {
    output: Output,
    events: Vec<Value>,
    /// What the rows said, their twins too.
    texts: Vec<String>,
}

impl Played {
    /// Asserts that no row's output contains `word`.
    #[track_caller]
    fn never_said(&self, word: &str) {
        let said: Vec<_> = self.texts.iter().filter(|t| t.contains(word)).collect();
        assert!(said.is_empty(), "{word:?} was said: {said:?}");
    }

    /// Gets the denials of a kind; of any host where that is empty.
    fn denials(&self, kind: &str, host: &str) -> usize {
        let matches = |e: &&Value| e["data"]["kind"] == kind && (host.is_empty() || e["data"]["host"] == host);
        self.events.iter().filter(|e| e["type"] == "denied").filter(matches).count()
    }
}

/// Makes a Lua string of any text.
fn lua(text: &str) -> String {
    let escaped: String = text.bytes().map(|b| format!("\\{b:03}")).collect();
    format!("\"{escaped}\"")
}

const RECIPE: &str = r#"--- @bb needs launch, egress:* NEEDS
BEFORE
local function hex(s) return (string.gsub(s, ".", function(c) return string.format("%02x", string.byte(c)) end)) end
local b = bb.launch { command = { "sleep", "600" }, label = "battery", budget = "unlimited",
  files = { { path = "~/try.py", text = TRY, mode = 493 } }, OPTIONS }
for i, script in ipairs({ SCRIPTS }) do
  local r = b:exec { "bash", "-c", PRELUDE .. script .. POST, timeout = "20s" }
  print("ROW " .. i .. " " .. r.code .. " " .. hex(r.stdout .. "\n" .. r.stderr))
end
bb.sleep("300ms")
b:kill()
b:wait { check = false }
"#;

/// Shell functions of the rows.
const PRELUDE: &str = r#"
t0=${EPOCHREALTIME/./}
req() { curl -sS -m 8 -i "$@" 2>&1; }
try() { python3 ~/try.py "$@" 2>&1; }
fine() { out=$(cat); grep -q -- "$1" <<<"$out" || { echo "not fine: $out"; exit 1; }; }
trap 'echo; echo "TOOK $(( (${EPOCHREALTIME/./} - t0) / 1000 ))"' EXIT
"#;

/// Plays rows and their twins in one bottle of `world`, and holds each against what it promises.
#[track_caller]
fn play(world: &World, bottle: &Bottle<'_>, rows: &[Row]) -> Played {
    // Each command of a twin has to work, not only its last one.
    let known = |text: &str| {
        bottle.words.iter().fold(text.to_owned(), |text, (word, meant)| text.replace(&format!("<<{word}>>"), meant))
    };
    let scripts: Vec<_> =
        rows.iter().flat_map(|r| [lua(&known(r.run)), lua(&known(&format!("set -e\n{}", table::twin(r))))]).collect();
    let recipe = RECIPE
        .replace("NEEDS", bottle.needs)
        .replace("BEFORE", bottle.before)
        .replace("TRY", &lua(include_str!("try.py")))
        .replace("OPTIONS", bottle.options)
        .replace("SCRIPTS", &scripts.join(", "))
        .replace("PRELUDE", &lua(PRELUDE))
        .replace("POST", "''");
    let path = world.recipe("battery.lua", &recipe);
    let command = world.command(&["run", "--json", "--grant", "all", &path]).patience(Duration::from_secs(240));
    let output = bottle.env.iter().fold(command, |c, (name, value)| c.env(name, *value)).run();
    let lines = output.json();
    let got: Vec<Got> = lines.iter().filter_map(|l| read(l["text"].as_str()?)).collect();
    if output.code != 0 || got.len() != 2 * rows.len() {
        let last = got.last().map_or("none", |g| g.text.as_str());
        let result = lines.last().map(Value::to_string).unwrap_or_default();
        let row = rows.get(got.len() / 2).map_or("the end", |r| r.name);
        panic!(
            "the play ended at `{row}` with {}: {result}\n{}\nthe row before said: {last}",
            output.code, output.stderr
        );
    }
    let events = lines.into_iter().filter(|l| l["seq"].is_u64()).collect();
    let texts = got.iter().map(|g| g.text.clone()).collect();
    let played = Played { output, events, texts };

    let mut wrong = Vec::new();
    for (row, pair) in rows.iter().zip(got.chunks(2)) {
        let [bad, twin] = pair else { continue };
        for said in row.says.iter().filter(|s| !bad.text.contains(**s)) {
            wrong.push(format!("{}: did not say {said:?} but (exit {}) {}", row.name, bad.code, bad.text));
        }
        for (said, times) in row.each {
            let found = bad.text.matches(said).count();
            if found != *times {
                let text = &bad.text;
                wrong.push(format!("{}: said {said:?} {found} times, not {times}: {text}", row.name));
            }
        }
        if bad.took >= within(QUICK) {
            wrong.push(format!("{}: took {:?}", row.name, bad.took));
        }
        if let Some((kind, host)) = row.denied
            && played.denials(kind, host) == 0
        {
            wrong.push(format!("{}: no `denied` event of kind {kind} for {host}", row.name));
        }
        if twin.code != 0 {
            wrong.push(format!("{}: its twin failed (exit {}): {}", row.name, twin.code, twin.text));
        }
    }
    let brief = |e: &Value| format!("{} {} {}", e["data"]["kind"], e["data"]["proto"], e["data"]["host"]);
    let denied: Vec<_> = played.events.iter().filter(|e| e["type"] == "denied").map(brief).collect();
    assert!(wrong.is_empty(), "{:?}:\n{}\ndenied:\n{}", world.who, wrong.join("\n"), denied.join("\n"));
    played
}

/// Reads one line of the recipe's.
fn read(line: &str) -> Option<Got> {
    let mut words = line.strip_prefix("ROW ")?.split(' ');
    let code = words.nth(1)?.parse().ok()?;
    let hex = words.next()?.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Vec<u8> = hex.chunks(2).filter_map(byte).collect();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let took = text.lines().filter_map(|l| l.strip_prefix("TOOK ")?.parse().ok()).next_back();
    // No figure: the script was killed, which is slow enough.
    Some(Got { code, took: took.map_or(within(QUICK), Duration::from_millis), text })
}

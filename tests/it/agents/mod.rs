//! The real agent CLIs in bottles: Claude Code, Codex, Gemini CLI and Pi.
//!
//! Each test takes all who can run bb on this machine, one world each.

mod budget;
mod estimates;
mod login;
mod prompt;
mod quickstart;
mod session;
mod task;
mod turns;

use std::time::Duration;

use bb::rehearse::{Rehearsal, Scenario};
use serde_json::Value;

use crate::support::{World, has_agent, need};

const PROMPT: &str = "Write hello.txt, then wait.";

/// How long a run may take. An everyday machine needs three seconds; a busy one must not fail for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A real agent CLI.
pub(crate) struct Cli {
    pub(crate) name: &'static str,
    /// The host of its API.
    host: &'static str,
    /// Variables of which either holds a key, and the header and the value's beginning by which that key travels.
    pub(crate) keys: [(&'static str, &'static str, &'static str); 2],
    /// A file that its provider puts into its home, and what is in it.
    own: (&'static str, &'static str),
    /// Questions that it asks the model beside its task.
    pub(crate) asides: usize,
    /// Whether it speaks over a WebSocket, and has its input made ready there before it asks.
    pub(crate) socket: bool,
    /// How often it asks in vain when its budget is spent, at most.
    refused: usize,
}

pub(crate) const CLAUDE: Cli = Cli {
    name: "claude",
    host: "api.anthropic.com",
    keys: [("ANTHROPIC_API_KEY", "x-api-key", ""), ("CLAUDE_CODE_OAUTH_TOKEN", "authorization", "Bearer ")],
    own: (".claude.json", "placeholder00AA"),
    asides: 0,
    socket: false,
    refused: 1,
};

pub(crate) const CODEX: Cli = Cli {
    name: "codex",
    host: "api.openai.com",
    keys: [("OPENAI_API_KEY", "authorization", "Bearer "), ("CODEX_API_KEY", "authorization", "Bearer ")],
    own: (".codex/auth.json", "placeholder00AA"),
    asides: 0,
    socket: true,
    // Twice for a WebSocket, where its own was closed.
    refused: 2,
};

pub(crate) const GEMINI: Cli = Cli {
    name: "gemini",
    host: "generativelanguage.googleapis.com",
    keys: [("GEMINI_API_KEY", "x-goog-api-key", ""), ("GOOGLE_API_KEY", "x-goog-api-key", "")],
    own: (".gemini/settings.json", "gemini-api-key"),
    // Which model is to do it.
    asides: 1,
    socket: false,
    refused: 1,
};

pub(crate) const PI: Cli = Cli {
    name: "pi",
    host: "api.anthropic.com",
    keys: [("ANTHROPIC_API_KEY", "x-api-key", ""), ("ANTHROPIC_OAUTH_TOKEN", "authorization", "Bearer ")],
    own: (".pi/agent/settings.json", "enableInstallTelemetry"),
    asides: 0,
    socket: false,
    // It tries again, twice.
    refused: 3,
};

impl Cli {
    /// Gets the worlds to test it in; none, and said, where it is not installed.
    pub(crate) fn worlds(&self) -> impl Iterator<Item = World> {
        let here = has_agent(self.name);
        if !here {
            need(&format!("the CLI {} (npm ci in tests/agents)", self.name));
        }
        here.then(World::each).into_iter().flatten()
    }
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
pub(crate) fn stand_in(world: &World, scenario: &Value) -> Rehearsal {
    stand_in_with(world, scenario, "")
}

/// As [`stand_in`], with more settings.
fn stand_in_with(world: &World, scenario: &Value, more: &str) -> Rehearsal {
    stand_in_of(world, Scenario::from_value(scenario.clone()).unwrap(), more)
}

/// As [`stand_in_with`], of a whole scenario.
fn stand_in_of(world: &World, scenario: Scenario, more: &str) -> Rehearsal {
    let server = world.rehearsal(scenario);
    let ca = world.write("stand-in.pem", server.ca_pem());
    let hosts = [CLAUDE.host, CODEX.host, GEMINI.host, "chatgpt.com"];
    let entry = |host| format!("  {host}:\n    address: \"{}\"\n    ca: {}\n", server.address(), ca.display());
    world.settings(&format!("upstreams:\n{}{more}", hosts.map(entry).concat()));
    server
}

/// Gets the events of a type out of what `bb run --json` wrote.
pub(crate) fn events(lines: &[Value], kind: &str) -> Vec<Value> {
    lines.iter().filter(|line| line["type"] == kind && line["seq"].is_u64()).cloned().collect()
}

/// Gets what the recipe printed.
fn printed(lines: &[Value]) -> String {
    lines.iter().filter(|line| line["type"] == "print").filter_map(|line| line["text"].as_str()).collect()
}

//! `lua/bb.d.lua` says what recipes get and may give, down to the fields: each options table and each result is compared
//! with what the live API takes and returns in a rehearsal. What names there are is compared in src/lua/tests.rs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::support::World;

const DOCS: &str = include_str!("../../lua/bb.d.lua");
const API: &str = include_str!("../../docs/controller-api.md");

/// Gives every call an option that nobody knows (the refusal lists the known ones), and prints the fields of every value.
const RECIPE: &str = r#"--- @bb needs launch, start, budget, ledger:read, egress:*
local NOBODY = "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
local function with(t) t = t or {} t[NOBODY] = 1 return t end
local function known(what, f, ...)
  local _, e = bb.try(f, ...)
  print("KNOWN " .. what .. " " .. e.kind .. " " .. tostring(e.hint))
end
local function kind(v)
  if type(v) == "number" and v == math.floor(v) then return "integer" end
  return type(v)
end
local function value(what, t)
  local parts = { "VALUE", what }
  for k, v in pairs(t) do
    if type(k) == "string" then parts[#parts + 1] = k .. ":" .. kind(v) end
  end
  print(table.concat(parts, " "))
  return t
end

-- A scenario that is wrong is no rehearsal yet.
known("bb.Scenario", bb.rehearse, with())
known("bb.Case", bb.rehearse, { cases = { with() } })
known("bb.Turn", bb.rehearse, { turns = { with() } })
for _, part in ipairs({ "tool", "edit", "run", "fetch", "connect", "usage" }) do
  known("bb.Turn." .. part, bb.rehearse, { turns = { { [part] = with() } } })
end
bb.rehearse({ cases = {
  { contains = "work", turns = {
    { text = "I look.", run = { argv = { "ls" } }, usage = { input = 900, output = 50 } },
    { fetch = { url = "https://docs.example/" } }, { fetch = { url = "https://evil.example/" } },
    { connect = { host = "198.51.100.7", port = 22 } } } },
  { contains = "spend", loop = true, turns = { { text = "More.", run = { argv = { "ls" } }, usage = { input = 2500, output = 300 } } } },
}, pages = { ["docs.example"] = "a page" } })

value("bb.Run", bb.run)
known("bb.LaunchOptions", bb.launch, with())
known("bb.LaunchOptions.files", bb.launch, { command = { "true" }, files = { with() } })
known("bb.Route", bb.launch, { command = { "true" }, routes = { with({ host = "a.example" }) } })
known("bb.Route.auth", bb.launch, { command = { "true" }, routes = { { host = "a.example", auth = with() } } })
known("bb.Match", bb.launch, { command = { "true" }, routes = { { host = "a.example", matches = { with() } } } })
known("bb.Match", bb.launch, { command = { "true" }, routes = { { host = "a.example", deny = { with() } } } })
known("bb.PlanOptions", bb.plan, with())
known("bb.ui.pick(options)", bb.ui.pick, with())
known("bb.ui.choose(options)", bb.ui.choose, with())
known("bb.ledger.query(options)", bb.ledger.query, with())
known("bb.meter.parse(options)", bb.meter.parse, with({ body = "" }))
known("bb.budget.set(budget)", bb.budget.set, { claude = with() })
local _, e = bb.try(bb.launch, with())
value("bb.Error", e)
local _, e = bb.try(bb.launch, { command = { "true" }, workspace = "/no/such/dir" })
value("bb.Error", e)

bb.on("usage", function(event) value("bb.Event", event) end)
bb.budget.set({ tokens = "100k", hard = true, warn = { 1 } })
local worker = bb.launch({ provider = "demo", prompt = "Do the work.", label = "worker", routes = { "docs.example" } })
value("bb.Bottle", worker)
for event in worker:events() do
  value("bb.Event", event)
  value("event:" .. event.type, event.data)
end
value("bb.Outcome", worker:wait())
value("bb.Usage", worker:usage())
for frame in worker:logs() do value("bb.Frame", frame) end

local spender = bb.launch({ provider = "demo", prompt = "Go on and spend.", label = "spender", budget = 6000 })
value("bb.Outcome", spender:wait({ check = false }))
for event in spender:events() do
  value("bb.Event", event)
  value("event:" .. event.type, event.data)
end
local usage = value("bb.Usage", spender:usage())
value("bb.Usage.budget", usage.budget)
value("bb.Usage", bb.meter.of(spender))

local idle = bb.launch({ command = { "sleep", "600" }, label = "idle" })
for name, call in pairs({ wait = idle.wait, logs = idle.logs, cut = idle.cut, kill = idle.kill, pause = idle.pause, thaw = idle.thaw }) do
  known("Bottle:" .. name .. "(options)", call, idle, with())
end
known("Bottle:exec(command)", idle.exec, idle, with({ "true" }))
value("Bottle:exec()", idle:exec("echo hi; exit 3"))
value("Bottle:exec()", idle:exec({ "cat", stdin = "x", env = { A = "b" }, cwd = "/tmp", timeout = "20s" }))
for frame in idle:logs({ since = 0 }) do value("bb.Frame", frame) end
local late, why = idle:wait({ timeout = "10ms" })
print("LATE " .. tostring(late) .. " " .. why)
idle:pause({ reason = "lunch" })
idle:thaw({ reason = "back" })
idle:cut({ reason = "to see it", scope = "all" })
idle:kill({ reason = "enough" })
value("bb.Outcome", idle:wait({ timeout = "20s", check = true, allow = { "budget" } }))
for event in idle:events() do value("event:" .. event.type, event.data) end

local rows = bb.ledger.query({ run = bb.run.id, last = "1h", provider = "demo" })
for _, row in ipairs(rows) do value("bb.UsageRow", row) end
value("bb.UsageTotal", rows.total)
for _, row in ipairs(bb.ledger.query({ run = bb.run.id, by = { "recipe", "run" }, period = "day" })) do
  value("bb.UsageRow", row)
end
for _, account in ipairs(bb.budget.get()) do value("bb.budget.get()", account) end
for _, provider in ipairs(bb.providers()) do value("bb.providers()", provider) end
local answer = '{"type":"message","id":"msg_1","model":"m","stop_reason":"end_turn","usage":{"input_tokens":12,"output_tokens":5}}'
local parsed = value("bb.meter.parse()", bb.meter.parse({ api = "anthropic", body = answer }))
value("bb.meter.parse().tokens", parsed.tokens)
value("bb.meter.parse()", bb.meter.parse({ api = "anthropic", body = "" }))
"#;

/// A field as it is documented.
#[derive(Clone, Debug)]
struct Field {
    optional: bool,
    kind: String,
}

type Fields = BTreeMap<String, Field>;

/// Gets a type from the beginning of `text`: as far as the brackets reach, or to the next blank outside of them.
fn first_type(text: &str) -> &str {
    let mut depth = 0;
    let end = text.char_indices().find(|(at, c)| {
        depth += i32::from("{<(".contains(*c)) - i32::from("}>)".contains(*c));
        depth == 0 && *c == ' ' && !text[..*at].ends_with(',') && !text[..*at].ends_with(':')
    });
    &text[..end.map_or(text.len(), |(at, _)| at)]
}

/// Gets the fields of the first table type (`{a: x, b?: y}`) in `text`.
fn table(text: &str) -> Option<Fields> {
    let inside = &text[text.find('{')? + 1..];
    let (mut depth, mut start, mut parts) = (1, 0, Vec::new());
    for (at, c) in inside.char_indices() {
        depth += i32::from("{<(".contains(c)) - i32::from("}>)".contains(c));
        if depth == 0 || (depth == 1 && c == ',') {
            parts.push(inside[start..at].trim());
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    let field = |part: &str| {
        let (name, kind) = part.split_once(':')?;
        let field = Field { optional: name.ends_with('?'), kind: kind.trim().to_owned() };
        (!name.starts_with('[')).then(|| (name.trim_end_matches('?').to_owned(), field))
    };
    Some(parts.into_iter().filter_map(field).collect())
}

/// Gets what is documented by a name: `bb.Usage` is a class, `bb.Usage.budget` the table in one of its fields,
/// `Bottle:wait(options)` a parameter's table, `Bottle:exec()` the one that is returned.
#[track_caller]
fn documented(name: &str) -> Fields {
    find(name).unwrap_or_else(|| panic!("{name} is not documented"))
}

fn find(name: &str) -> Option<Fields> {
    let lines: Vec<&str> = DOCS.lines().collect();
    let head = |l: &&str| **l == format!("---@class {name}") || l.starts_with(&format!("---@class {name}:"));
    if let Some(at) = lines.iter().position(head) {
        let parent = lines[at].split_once(": ").map(|(_, parent)| documented(parent)).unwrap_or_default();
        let own = lines[at + 1..].iter().take_while(|l| l.starts_with("---"));
        let own = own.filter_map(|l| l.strip_prefix("---@field ")?.split_once(' ')).map(|(name, rest)| {
            let field = Field { optional: name.ends_with('?'), kind: first_type(rest).to_owned() };
            (name.trim_end_matches('?').to_owned(), field)
        });
        return Some(parent.into_iter().chain(own).collect());
    }
    if let Some((function, rest)) = name.split_once('(') {
        let at = lines.iter().position(|l| l.starts_with(&format!("function {function}(")))?;
        let mut above = lines[..at].iter().rev().take_while(|l| l.starts_with("---"));
        let (parameter, field) = rest.split_once(')')?;
        let tag = if parameter.is_empty() { "---@return ".to_owned() } else { format!("---@param {parameter}") };
        let line = above.find(|l| l.starts_with(&tag))?;
        let alias = || lines.iter().find(|l| l.starts_with("---@alias bb.Limit "));
        let fields = table(if line.ends_with("bb.Budget") { alias()? } else { line })?;
        return match field.strip_prefix('.') {
            Some(field) => table(&fields.get(field)?.kind),
            None => Some(fields),
        };
    }
    let (class, field) = name.rsplit_once('.')?;
    table(&find(class)?.get(field)?.kind)
}

/// Names every table that is documented: classes, and tables of parameters and results.
fn tables() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut pending = Vec::new();
    for line in DOCS.lines() {
        if let Some(class) = line.strip_prefix("---@class ") {
            names.insert(class.split(':').next().unwrap().to_owned());
        } else if let Some(rest) =
            line.strip_prefix("---@param ").filter(|l| l.contains(['{']) || l.contains("bb.Budget"))
        {
            pending.push(rest.split([' ', '?']).next().unwrap());
        } else if line.starts_with("---@return ") && line.contains('{') {
            pending.push("");
        } else if let Some(function) = line.strip_prefix("function ") {
            let function = function.split('(').next().unwrap();
            names.extend(pending.drain(..).map(|parameter| format!("{function}({parameter})")));
        }
    }
    names
}

/// Tables without fields of their own, or whose fields the recipe's user chooses; a list with a bb.UsageTotal; and what a
/// recipe gets by manifests, which the tests of `bb start` look at.
const NOT_COMPARED: [&str; 14] = [
    "bb",
    "bb.Args",
    "bb.Log",
    "bb.Task",
    "bb.ledger.query()",
    "Bottle:attach()",
    "Bottle:attach(options)",
    "Bottle:freeze(options)",
    "Bottle:commit()",
    "Plan:launch(options)",
    "Plan:preflight()",
    "bb.ui.rows(rows)",
    "bb.Manifest",
    "bb.Plan",
];

/// Gets the fields of each event's data out of docs/controller-api.md.
fn events() -> BTreeMap<String, Fields> {
    let rows = API.lines().skip_while(|l| !l.starts_with("| type | when | data |")).skip(2);
    let rows = rows.take_while(|l| l.starts_with('|'));
    let event = |row: &str| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let name = cells[0].trim_matches('`').to_owned();
        // `a, b?, c{d, e}`, then words about them.
        let list = cells[2].trim_start_matches('`').split('`').next().unwrap();
        let mut depth = 0;
        let split = list.split(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && c == ','
        });
        let fields = split.map(|part| {
            let part = part.trim();
            let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let optional = part[name.len()..].starts_with('?') || part.ends_with("}?");
            (name, Field { optional, kind: String::new() })
        });
        (name, fields.collect())
    };
    rows.map(event).collect()
}

/// Tells whether a value of Lua's type `live` is one of the documented type `kind`.
fn fits(kind: &str, live: &str) -> bool {
    let one = |kind: &str| match kind.trim() {
        "string" => live == "string",
        "integer" => live == "integer",
        "boolean" => live == "boolean",
        "any" => true,
        text if text.starts_with('"') => live == "string",
        "1" => live == "integer",
        _ => live == "table",
    };
    kind.is_empty() || if kind.starts_with('{') { live == "table" } else { kind.split('|').any(one) }
}

#[test]
fn every_option_and_every_field_of_a_result_is_documented_and_every_documented_one_is_there() {
    let Some(world) = World::new() else { return };
    let path = world.recipe("api.lua", RECIPE);
    let output = world.command(&["run", "--grant", "all", &path]).patience(Duration::from_secs(90)).run().expect(0);
    let mut wrong = Vec::new();

    let mut asked = BTreeSet::new();
    for line in output.stdout.lines().filter_map(|l| l.strip_prefix("KNOWN ")) {
        let mut words = line.splitn(3, ' ');
        let (name, kind, hint) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        asked.insert(name);
        let mut fields: BTreeSet<String> = documented(name).into_keys().collect();
        if name == "bb.meter.parse(options)" {
            // It is taken off before the rest is read: it need not be text.
            fields.remove("body");
        }
        let known: BTreeSet<String> =
            hint.strip_prefix("known are: ").unwrap_or_default().split(", ").map(str::to_owned).collect();
        if kind != "unknown_key" || known != fields {
            wrong.push(format!("{name} takes {known:?} ({kind}: {hint}), documented are {fields:?}"));
        }
    }

    let events = events();
    let mut values: BTreeMap<&str, Vec<BTreeMap<&str, &str>>> = BTreeMap::new();
    for line in output.stdout.lines().filter_map(|l| l.strip_prefix("VALUE ")) {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        values.entry(name).or_default().push(words.map(|w| w.split_once(':').unwrap()).collect());
    }
    for (name, seen) in &values {
        let fields = match name.strip_prefix("event:") {
            Some(event) => events.get(event).unwrap_or_else(|| panic!("the event {event} is not documented")).clone(),
            None => documented(name),
        };
        for value in seen {
            for (key, live) in value {
                match fields.get(*key) {
                    None => wrong.push(format!("{name} has a field {key} ({live}) that is not documented")),
                    Some(field) if !fits(&field.kind, live) => {
                        wrong.push(format!("{name}.{key} is a {live}, documented as {}", field.kind));
                    }
                    Some(_) => {}
                }
            }
            for (key, _) in fields.iter().filter(|(key, field)| !field.optional && !value.contains_key(key.as_str())) {
                wrong.push(format!("{name} lacks {key}: {value:?}"));
            }
        }
        if !name.starts_with("event:") {
            let never = fields.keys().filter(|key| !seen.iter().any(|value| value.contains_key(key.as_str())));
            wrong.extend(never.map(|key| format!("{name} never has the documented field {key}")));
        }
    }
    let compared = |name: &str| asked.contains(name) || values.contains_key(name) || NOT_COMPARED.contains(&name);
    wrong.extend(tables().iter().filter(|name| !compared(name)).map(|name| format!("{name} is compared with nothing")));
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for event in
        ["bottle.running", "bottle.ended", "request", "request.ended", "usage", "denied", "crossed", "enforced"]
    {
        assert!(values.contains_key(format!("event:{event}").as_str()), "{event} was not seen: {output}");
    }
    assert!(output.stdout.contains("LATE nil timeout\n"), "{output}");
}

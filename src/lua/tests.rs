//! Recipes run in a real VM, with no controller behind them: what they see, how their faults are shown, how they end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::grants::Grant;
use super::recipe::Reason;
use super::*;
use crate::home::Home;

/// A home and a folder for recipes, both gone with it.
struct Scratch {
    home: Home,
}

impl Scratch {
    fn new(name: &str) -> Self {
        let root = PathBuf::from(format!("/tmp/bb-lua-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let home = Home::open(&root, None).unwrap();
        std::fs::create_dir_all(root.join("folder/lib")).unwrap();
        Scratch { home }
    }

    fn folder(&self) -> PathBuf {
        self.home.root.join("folder")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home.root);
    }
}

/// What a run of a recipe came to.
struct Ran {
    code: u8,
    text: String,
}

fn run_in(scratch: &Scratch, source: &str, change: impl FnOnce(&mut Settings), stop: Arc<Stop>) -> Ran {
    let kept = Arc::new(Mutex::new(String::new()));
    let out = log::Output { kept: Some(kept.clone()), ..log::Output::default() };
    let mut settings = Settings {
        home: scratch.home.clone(),
        args: Vec::new(),
        given: None,
        rehearse: false,
        timeout: None,
        out,
        terminal: false,
    };
    change(&mut settings);
    let recipe = Recipe::from_text("r.lua", scratch.folder(), source.to_owned()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let code = runtime.block_on(run(recipe, settings, stop));
    let text = kept.lock().unwrap().clone();
    Ran { code, text }
}

fn ran(name: &str, source: &str) -> Ran {
    run_in(&Scratch::new(name), source, |_| (), Arc::default())
}

/// Runs a recipe that must end well, and gets what it printed.
fn prints(name: &str, source: &str) -> String {
    let ran = ran(name, source);
    assert_eq!(ran.code, 0, "{}", ran.text);
    ran.text
}

#[test]
fn a_recipe_sees_the_listed_globals_and_no_other() {
    let text = prints(
        "globals",
        "local t = {} for k in pairs(getmetatable(_G) and getmetatable(_G).__index or _G) do t[#t+1] = tostring(k) end
         table.sort(t) print(table.concat(t, ' '))",
    );
    let mut listed = GLOBALS.to_vec();
    listed.sort_unstable();
    assert_eq!(text.trim(), listed.join(" "));
    for name in [
        "os",
        "io",
        "loadstring",
        "load",
        "getfenv",
        "setfenv",
        "newproxy",
        "collectgarbage",
        "gcinfo",
        "coroutine",
        "debug",
        "dofile",
    ] {
        assert_eq!(prints("none", &format!("print({name})")).trim(), "nil", "{name}");
    }
}

#[test]
fn what_a_recipe_sees_cannot_be_changed() {
    for attempt in
        ["bb.launch = 1", "bb.log.info = 1", "string.upper = 1", "getmetatable('').__index.upper = 1", "bb.run.id = 1"]
    {
        let ran = ran("frozen", &format!("local ok, e = pcall(function() {attempt} end) assert(not ok) print(e)"));
        assert_eq!(ran.code, 0, "{attempt}: {}", ran.text);
    }
}

#[test]
fn a_fault_shows_the_recipes_own_line_and_exits_with_its_kind() {
    let ran = ran("fault", "local function deep()\n  bb.launch{prompt = 'x'}\nend\ndeep()\n");
    assert_eq!(ran.code, 4);
    let expected = "error[not_granted]: bb.launch needs 'launch', which the recipe's header does not ask for\n \
        --> r.lua:2\n  |\n2 |   bb.launch{prompt = 'x'}\n  |\n  = called from r.lua:4 (main)\n  \
        = hint: begin the recipe with: --- @bb needs launch\n";
    assert_eq!(ran.text, expected);
}

#[test]
fn errors_of_the_recipe_itself_are_shown_like_ours() {
    let ran1 = ran("own", "local function f()\n  error('boom')\nend\nf()");
    assert_eq!(ran1.code, 1);
    assert!(ran1.text.starts_with("error[recipe]: boom\n --> r.lua:2\n"), "{}", ran1.text);
    assert!(ran1.text.contains("= called from r.lua:4 (main)"), "{}", ran1.text);
    let ran2 = ran("nil", "local x\nprint(x.y)");
    assert!(ran2.text.starts_with("error[recipe]: attempt to index nil with 'y'\n --> r.lua:2\n"), "{}", ran2.text);
    let ran3 = ran("table", "error({kind = 'budget', message = 'enough', hint = 'stop'})");
    assert_eq!(ran3.code, 3);
    assert!(ran3.text.contains("hint: stop"), "{}", ran3.text);
}

#[test]
fn a_syntax_error_exits_2_with_its_line() {
    let ran = ran("syntax", "local x = 1\nlocal y = = 2\n");
    assert_eq!(ran.code, 2);
    assert!(ran.text.starts_with("error[usage]: syntax: "), "{}", ran.text);
    assert!(ran.text.contains("--> r.lua:2\n  |\n2 | local y = = 2\n"), "{}", ran.text);
}

#[test]
fn slips_of_the_finger_are_named() {
    for (source, code, said) in [
        ("bb.lunch()", 2, "did you mean 'launch'?"),
        ("bb.launch{prmopt = 'x'}", 2, "did you mean 'prompt'?"),
        ("bb.launch{provider = 'demo', routes = {{hots = 'x'}}}", 2, "did you mean 'host'?"),
        ("bb.launch{provider = 'dmeo', prompt = 'x'}", 2, "did you mean 'demo'?"),
        ("bb.launch('demo')", 2, "write bb.launch{ ... }"),
        ("bb.launch{provider = 'demo', prompt = 'x', timeout = 90}", 2, "a duration such as"),
        ("bb.launch{provider = 'demo', prompt = 'x', budget = 'lots'}", 2, "an amount of tokens such as"),
        ("bb.launch{provider = 'demo', command = {'x'}}", 2, "both a provider and a command"),
        ("bb.launch{}", 2, "needs a provider or a command"),
        ("bb.launch{provider = 'demo', prompt = 'x', workspace = '/no/such/dir'}", 2, "make the directory first"),
        ("bb.on('cross', function() end)", 2, "did you mean 'crossed'?"),
        ("bb.sleep(5)", 2, "a duration such as"),
        ("bb.exit(7)", 2, "10 to 99 are yours"),
        ("bb.text.style('rde', 'x')", 2, "did you mean 'red'?"),
        ("bb.budget.set{calude = 5}", 2, "did you mean 'claude'?"),
    ] {
        let ran = ran("slips", &format!("--- @bb needs launch, budget\n{source}"));
        assert_eq!(ran.code, code, "{source}: {}", ran.text);
        assert!(ran.text.contains(said), "{source}: {}", ran.text);
        assert!(ran.text.contains("--> r.lua:2\n"), "{source}: {}", ran.text);
    }
}

#[test]
fn grants_are_needed_for_what_goes_beyond_the_provider() {
    for (options, missing) in [
        ("provider = 'demo', prompt = 'x', routes = {'evil.example'}", "egress:evil.example"),
        ("provider = 'demo', prompt = 'x', workspace = '/tmp'", "write:/tmp"),
        (
            "command = {'x'}, routes = {{host = 'a.example', auth = {scheme = 'Bearer', credential = 'AWS_SECRET'}}}",
            "egress:a.example",
        ),
    ] {
        let ran = run_in(
            &Scratch::new("beyond"),
            &format!("--- @bb needs launch\nbb.launch{{{options}}}"),
            |s| s.rehearse = true,
            Arc::default(),
        );
        assert_eq!(ran.code, 4, "{options}: {}", ran.text);
        assert!(ran.text.contains(&format!("bb.launch needs '{missing}'")), "{options}: {}", ran.text);
    }
    let stolen = "--- @bb needs launch, egress:evil.example, credential:anthropic
        bb.launch{provider = 'demo', prompt = 'x',
          routes = {{host = 'evil.example', auth = {scheme = 'Bearer', credential = 'anthropic'}}}}";
    let ran = run_in(&Scratch::new("stolen"), stolen, |s| s.rehearse = true, Arc::default());
    assert!(ran.text.contains("belongs to the provider's own routes"), "{}", ran.text);
}

#[test]
fn try_gives_nil_and_the_error() {
    let text = prints(
        "try",
        "local a, b = bb.try(function(x) return x + 1, 'two' end, 4) print(a, b)
         local v, e = bb.try(bb.launch, {}) print(v, e.kind, tostring(e):match('^not_granted: ') ~= nil)
         local v, e = bb.try(function() error('boom') end) print(v, e.kind, e.message)
         local ok, e = pcall(bb.sleep, 5) print(ok, e.kind)",
    );
    assert_eq!(text, "5\ttwo\nnil\tnot_granted\ttrue\nnil\trecipe\tboom\nfalse\tusage\n");
}

#[test]
fn tasks_take_turns_and_give_their_results() {
    let text = prints(
        "tasks",
        "local order = {}
         local function job(name, ms) return function() bb.sleep(ms .. 'ms') order[#order+1] = name return name end end
         local all = bb.all{job('b', 40), job('a', 5), bb.spawn(job('c', 80))}
         print(table.concat(all, ' '), table.concat(order, ' '))
         print(bb.race{job('slow', 5000), job('fast', 5)})
         local t = bb.spawn(function(x, y) return x, y end, 1, 2) print(t:wait())
         print(#bb.all{})
         bb.spawn(function() bb.sleep('10ms') print('last') end)",
    );
    assert_eq!(text, "b a c\ta b c\n2\tfast\n1\t2\n0\nlast\n");
}

#[test]
fn a_failed_task_fails_whoever_waits_and_cancels_the_rest() {
    let text = prints(
        "failed",
        "local slow = bb.spawn(function() bb.sleep('1m') print('never') end)
         local v, e = bb.try(bb.all, {slow, function() bb.sleep('5ms') error('boom') end})
         print(v, e.message)
         print(select(2, bb.try(slow.wait, slow)).message)",
    );
    assert_eq!(text, "nil\tboom\nthe task was cancelled\n");
    let unheard = ran("unheard", "bb.spawn(function() error('boom') end)\nbb.sleep('10ms')\nprint('main is done')");
    assert_eq!(unheard.code, 1);
    assert!(unheard.text.starts_with("main is done\nerror[recipe]: boom\n --> r.lua:1\n"), "{}", unheard.text);
}

#[test]
fn waiting_survives_collections() {
    // 50 tasks that wait while garbage is made: threads must not be collected under their futures.
    let text = prints(
        "gc",
        "local jobs = {}
         for i = 1, 50 do
           jobs[i] = function()
             for _ = 1, 20 do bb.sleep('1ms') local t = {} for j = 1, 2000 do t[j] = {tostring(j)} end end
             return i
           end
         end
         local sum = 0 for _, v in ipairs(bb.all(jobs)) do sum = sum + v end print(sum)",
    );
    assert_eq!(text, "1275\n");
}

#[test]
fn exit_ends_the_recipe_at_once_and_cannot_be_caught() {
    for (source, code) in [
        ("bb.exit()", 0),
        ("pcall(bb.exit, 42) print('never')", 42),
        ("bb.all{function() bb.exit(10) end} print('never')", 10),
    ] {
        let ran = ran("exit", source);
        assert_eq!((ran.code, ran.text.as_str()), (code, ""), "{source}");
    }
}

#[test]
fn args_are_options_and_positions() {
    let ran = run_in(
        &Scratch::new("args"),
        "print(bb.args[1], bb.args.agent, bb.args.max_time, bb.args.fast, bb.args.none, #bb.args)",
        |s| s.args = ["one", "--agent", "claude", "--max-time=5m", "--fast"].map(String::from).to_vec(),
        Arc::default(),
    );
    assert_eq!(ran.text, "one\tclaude\t5m\ttrue\tnil\t1\n");
}

#[test]
fn modules_come_from_the_recipes_folder_and_nowhere_else() {
    let scratch = Scratch::new("modules");
    std::fs::write(
        scratch.folder().join("lib/m.lua"),
        "local M = {n = 0} function M.up() M.n = M.n + 1 return M.n end return M",
    )
    .unwrap();
    std::fs::write(scratch.folder().join("bad.lua"), "local x\nerror('in the module')").unwrap();
    std::fs::write(scratch.folder().join("wrong.lua"), "return = 1").unwrap();
    std::fs::write(scratch.folder().join("circle.lua"), "return require('circle')").unwrap();
    std::fs::write(scratch.home.root.join("secret.lua"), "return 'secret'").unwrap();
    std::os::unix::fs::symlink(scratch.home.root.join("secret.lua"), scratch.folder().join("link.lua")).unwrap();
    let run = |source: &str| run_in(&scratch, source, |_| (), Arc::default());
    assert_eq!(run("require('lib/m').up() print(require('./lib/m.lua').up())").text, "2\n");
    for name in ["../secret", "/etc/passwd", "link", "lib/../../secret", "@self/x", "none", "", "bb/x"] {
        let ran = run(&format!("print(require('{name}'))"));
        assert_eq!(ran.code, 2, "{name}: {}", ran.text);
        assert!(!ran.text.contains("secret'\n") && ran.text.contains("own folder"), "{name}: {}", ran.text);
    }
    let bad = run("require('bad')");
    assert!(bad.text.contains("in the module") && bad.text.contains("folder/bad.lua:2"), "{}", bad.text);
    assert!(bad.text.contains("called from r.lua:1"), "{}", bad.text);
    assert!(run("require('wrong')").text.contains("wrong.lua:1"));
    assert!(run("require('circle')").text.contains("circle"));
}

#[test]
fn a_recipe_that_computes_for_ever_can_be_stopped() {
    for (source, reason, code) in [
        ("while true do end", Reason::Timeout, 124),
        ("while true do pcall(function() while true do end end) end", Reason::Interrupted, 130),
        ("local f f = function() while true do pcall(f) end end f()", Reason::Interrupted, 130),
        ("bb.sleep('1h')", Reason::Interrupted, 130),
        ("bb.spawn(function() while true do bb.sleep('1ms') end end)", Reason::Timeout, 124),
    ] {
        let stop = Arc::new(Stop::default());
        let asker = stop.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            asker.stop(reason);
        });
        let ran = run_in(&Scratch::new("stop"), source, |_| (), stop);
        thread.join().unwrap();
        assert_eq!(ran.code, code, "{source}: {}", ran.text);
    }
    let ran = run_in(
        &Scratch::new("timeout"),
        "bb.sleep('1h')",
        |s| s.timeout = Some(Duration::from_millis(50)),
        Arc::default(),
    );
    assert_eq!(ran.code, 124);
}

#[test]
fn memory_is_bounded() {
    let ran = ran("memory", "local t = {} while true do t[#t+1] = string.rep('x', 1e7) .. #t end");
    assert_eq!(ran.code, 1);
    assert!(ran.text.contains("memory"), "{}", ran.text);
}

#[test]
fn usage_is_read_out_of_any_answer() {
    let text = prints(
        "parse",
        r#"local r = bb.meter.parse{api = "anthropic", body = '{"type":"message","id":"msg_1","model":"m","stop_reason":"end_turn","usage":{"input_tokens":12,"output_tokens":5,"cache_read_input_tokens":7}}'}
           print(r.tokens.input, r.tokens.cache_read, r.tokens.output, r.model)
           print(select(2, bb.try(bb.meter.parse, {api = "anthropc", body = ""})).message)
           print(select(2, bb.try(bb.meter.parse, {api = "anthropic"})).message)"#,
    );
    assert!(text.starts_with("12\t7\t5\tm\n"), "{text}");
    assert!(text.contains("unknown variant `anthropc`") && text.contains("needs 'body'"), "{text}");
}

#[test]
fn text_is_laid_out() {
    let text = prints(
        "text",
        "print(bb.text.number(1234567), bb.text.number(-1234), bb.text.number(12))
         print('[' .. bb.text.pad(bb.text.style('red', 'é'), 3) .. '|' .. bb.text.pad('7', 3, 'right') .. ']')
         print(bb.text.table({{'a', 1200}, {'bcd', 7}}, {'name', 'n'}))",
    );
    assert_eq!(text, "1,234,567\t-1,234\t12\n[é  |  7]\nname      n\na     1,200\nbcd       7\n");
}

#[test]
fn json_output_is_one_record_a_line_and_ends_with_the_result() {
    let ran = run_in(
        &Scratch::new("json"),
        "print('a', 1) bb.log.warn('careful') error('boom')",
        |s| s.out.json = true,
        Arc::default(),
    );
    let records: Vec<serde_json::Value> = ran.text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let types: Vec<_> = records.iter().map(|r| r["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["run.start", "print", "log", "run.result"]);
    assert_eq!(records[3]["exit"], 1);
    assert_eq!(records[3]["fault"]["error"]["message"], "boom");
    assert_eq!(records[3]["fault"]["trace"][0]["line"], 1);
}

#[test]
fn a_recipe_is_allowed_by_where_it_lies_by_its_text_by_a_flag_or_by_an_answer() {
    let scratch = Scratch::new("allow");
    let source = "--- @bb needs launch\n".to_owned();
    let at = |path: PathBuf| {
        std::fs::write(&path, &source).unwrap();
        Recipe::read(&path).unwrap()
    };
    let own = at(scratch.home.root.join("recipes/mine.lua"));
    own.allow(&scratch.home, &[], None).unwrap();
    let strange = at(scratch.folder().join("strange.lua"));
    assert_eq!(strange.allow(&scratch.home, &[], None).unwrap_err().kind.exit_code(), 4);
    assert!(strange.allow(&scratch.home, &[Grant::Budget], None).is_err());
    strange.allow(&scratch.home, &[Grant::Launch], None).unwrap();
    assert!(strange.allow(&scratch.home, &[], Some(&|_| false)).is_err());
    strange.allow(&scratch.home, &[], Some(&|_| true)).unwrap();
    strange.allow(&scratch.home, &[], None).unwrap_or_else(|e| panic!("asked once, remembered: {e}"));
    for shipped in ["quickstart.lua", "nightly.lua"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("recipes").join(shipped);
        Recipe::read(&path).unwrap().allow(&scratch.home, &[], None).unwrap();
        let copy = scratch.folder().join(shipped);
        std::fs::write(&copy, format!("{}\n-- changed", std::fs::read_to_string(&path).unwrap())).unwrap();
        assert!(Recipe::read(&copy).unwrap().allow(&scratch.home, &[], None).is_err(), "{shipped}");
    }
    assert_eq!(Recipe::read(&scratch.folder().join("none.lua")).unwrap_err().kind.exit_code(), 2);
}

/// Names that `lua/bb.d.lua` documents: `bb.*`, and the methods of a class.
fn documented(file: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in file.lines() {
        if let Some(rest) = line.strip_prefix("function ") {
            names.push(rest.split('(').next().unwrap().to_owned());
        } else if let Some(name) = line.strip_prefix("bb.").and_then(|l| l.strip_suffix(" = {}")) {
            names.push(format!("bb.{name}"));
        }
    }
    // The fields of the table itself, documented on its class.
    let class = file.lines().skip_while(|l| *l != "---@class bb").skip(1).take_while(|l| l.starts_with("---@field"));
    names.extend(class.map(|l| format!("bb.{}", l.split(' ').nth(1).unwrap())));
    names.sort();
    names
}

#[test]
fn the_documentation_and_the_live_api_name_the_same_things() {
    let scratch = Scratch::new("docs");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let host = host::Host::new(host::HostParts {
        home: scratch.home.clone(),
        recipe: "r.lua".into(),
        folder: scratch.folder(),
        grants: grants::Grants::default(),
        args: args::Args::default(),
        out: log::Output::default(),
        terminal: false,
        shipped_flow: false,
        rehearse: false,
        stop: Arc::default(),
        outer: runtime.handle().clone(),
    });
    let vm = vm::recipe_vm(&host).unwrap();
    let mut live = Vec::new();
    let bb: mlua::Table = vm.prelude.get("bb").unwrap();
    for pair in bb.pairs::<String, mlua::Value>() {
        let (name, value) = pair.unwrap();
        live.push(format!("bb.{name}"));
        if let mlua::Value::Table(table) = value
            && !["args", "run"].contains(&name.as_str())
        {
            live.extend(table.pairs::<String, mlua::Value>().map(|p| format!("bb.{name}.{}", p.unwrap().0)));
        }
    }
    for (class, methods) in [("Bottle", "bottle_methods"), ("Plan", "plan_methods"), ("Task", "task_methods")] {
        let table: mlua::Table = vm.prelude.get(methods).unwrap();
        live.extend(table.pairs::<String, mlua::Value>().map(|p| format!("{class}:{}", p.unwrap().0)));
    }
    live.sort();
    let file = include_str!("../../lua/bb.d.lua");
    assert_eq!(documented(file), live);
    for event in on::EVENTS {
        assert!(file.contains(&format!("---| \"{event}\"\n")), "{event}");
    }
    vm.lua.load(file).set_name("@bb.d.lua").into_function().unwrap();
}

#[test]
fn options_that_are_documented_are_the_ones_that_are_read() {
    // The refusal of an unknown option lists the known ones; the class in bb.d.lua must list the same.
    let ran = ran("options", "--- @bb needs launch\nbb.launch{zzzzzzzzzzzzzzzzzzzz = 1}");
    let known = ran.text.split("known are: ").nth(1).unwrap().lines().next().unwrap();
    let mut known: Vec<&str> = known.split(", ").collect();
    known.sort_unstable();
    let file = include_str!("../../lua/bb.d.lua");
    let class = file.lines().skip_while(|l| *l != "---@class bb.LaunchOptions").skip(1);
    let mut fields: Vec<&str> = class
        .take_while(|l| l.starts_with("---@field"))
        .map(|l| l.split(' ').nth(1).unwrap().trim_end_matches('?'))
        .collect();
    fields.sort_unstable();
    assert_eq!(fields, known);
}

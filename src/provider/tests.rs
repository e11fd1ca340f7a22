//! What provider files promise, the shipped ones and a user's own.

use super::*;
use crate::api::{AuthScheme, File};
use crate::types::{Api, ApiFamily};

mod logins;

struct Scratch(Home);

impl Scratch {
    fn new(name: &str) -> Self {
        let root = PathBuf::from(format!("/tmp/bb-provider-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        Scratch(Home::open(&root, None).unwrap())
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.root.join("providers").join(format!("{name}.lua")), text).unwrap();
    }

    /// A user's file that runs `true` in place of an agent, otherwise as the shipped one.
    fn stand_in(&self, name: &str, exe: &str) -> Provider {
        let (_, text) = SHIPPED.iter().find(|(n, _)| *n == name).unwrap();
        self.write(name, &text.replace(&format!("exe = \"{name}\""), &format!("exe = \"{exe}\"")));
        load(name, &self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0.root);
    }
}

fn wish(prompt: &str) -> Wish {
    Wish { prompt: Some(prompt.into()), ..Wish::default() }
}

fn host_has<'a>(name: &'a str, value: &'a str) -> impl Fn(&str) -> Option<String> + 'a {
    move |asked| (asked == name).then(|| value.to_owned())
}

#[test]
fn every_shipped_file_is_sound() {
    let scratch = Scratch::new("shipped");
    for name in names(&scratch.0) {
        load(&name, &scratch.0).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert_eq!(names(&scratch.0), ["claude", "codex", "command", "demo", "gemini", "pi"]);
}

#[test]
fn prompts_reach_the_agent_word_for_word() {
    let scratch = Scratch::new("prompts");
    for prompt in ["do it", "-p", "--help", "@file", "{exe}", "{prompt}", "a\nb\t'\"$x", ""] {
        for (name, exe) in [("claude", "true"), ("codex", "true")] {
            let plan = scratch.stand_in(name, exe).plan(&wish(prompt), &|_| Some("key".into())).unwrap();
            assert_eq!(plan.argv.last().unwrap(), prompt, "{name}");
            assert_eq!(plan.argv[plan.argv.len() - 2], "--", "{name}");
        }
        let gemini = scratch.stand_in("gemini", "true").plan(&wish(prompt), &|_| Some("key".into())).unwrap();
        assert_eq!(gemini.argv.last().unwrap().strip_prefix("--prompt="), Some(prompt));
        let pi = scratch.stand_in("pi", "true").plan(&wish(prompt), &|_| Some("key".into())).unwrap();
        let marked = prompt.starts_with(['-', '@']);
        let last = pi.argv.last().unwrap();
        assert_eq!(if marked { last.strip_prefix("bb:prompt ") } else { Some(last.as_str()) }, Some(prompt));
        let plan = load("demo", &scratch.0).unwrap().plan(&wish(prompt), &|_| Some("key".into())).unwrap();
        assert_eq!(plan.argv[1..], ["__demo-agent", "-p", prompt]);
    }
}

#[test]
fn the_bottle_gets_the_placeholder_and_the_controller_the_credential() {
    let scratch = Scratch::new("credentials");
    let claude = scratch.stand_in("claude", "true");
    let plan = claude.plan(&wish("x"), &host_has("ANTHROPIC_API_KEY", "sk-real")).unwrap();
    assert_eq!(plan.credentials.values["anthropic"], "sk-real");
    assert!(plan.env["ANTHROPIC_API_KEY"].starts_with("sk-ant-api03-"));
    assert!(!format!("{:?}{:?}{:?}", plan.env, plan.files, plan.argv).contains("sk-real"));
    let last = &plan.env["ANTHROPIC_API_KEY"][plan.env["ANTHROPIC_API_KEY"].len() - 20..];
    assert!(plan.files.iter().any(|f| f.path == "~/.claude.json" && f.text.contains(last)), "the key is approved");
    let route = &plan.routes[0];
    let auth = route.auth.as_ref().unwrap();
    assert_eq!(
        (route.api, auth.scheme, auth.header.as_deref()),
        (Some(ApiFamily::Anthropic), AuthScheme::Header, Some("x-api-key"))
    );
    for file in &plan.files {
        if file.path.ends_with(".json") {
            serde_json::from_str::<serde_json::Value>(&file.text).unwrap();
        }
    }
}

#[test]
fn the_second_alternative_is_used_where_the_first_is_missing() {
    let scratch = Scratch::new("alternatives");
    let claude = scratch.stand_in("claude", "true");
    let plan = claude.plan(&wish("x"), &host_has("CLAUDE_CODE_OAUTH_TOKEN", "tok")).unwrap();
    assert!(!plan.env.contains_key("ANTHROPIC_API_KEY"));
    assert!(plan.env["CLAUDE_CODE_OAUTH_TOKEN"].starts_with("sk-ant-oat01-"));
    assert_eq!(plan.routes[0].auth.as_ref().unwrap().scheme, AuthScheme::Bearer);
}

#[test]
fn a_missing_credential_is_named_except_in_a_rehearsal() {
    let scratch = Scratch::new("missing");
    let claude = scratch.stand_in("claude", "true");
    let error = claude.plan(&wish("x"), &|_| None).unwrap_err();
    assert_eq!(error.kind, Kind::CredentialMissing);
    assert!(error.message.contains("neither ANTHROPIC_API_KEY nor CLAUDE_CODE_OAUTH_TOKEN is set"), "{error}");
    let rehearsal = Wish { rehearsal: true, ..wish("x") };
    let plan = claude.plan(&rehearsal, &|_| None).unwrap();
    assert!(plan.credentials.values["anthropic"].starts_with("rehearsal-"));
    let plan = claude.plan(&rehearsal, &host_has("ANTHROPIC_API_KEY", "real")).unwrap();
    assert_eq!(plan.credentials.values["anthropic"], "real");
}

#[test]
fn a_missing_cli_is_named_with_the_way_to_get_it() {
    let scratch = Scratch::new("cli");
    let claude = scratch.stand_in("claude", "no-such-cli-here");
    let error = claude.plan(&wish("x"), &|_| Some("k".into())).unwrap_err();
    assert_eq!(error.kind, Kind::AgentMissing);
    assert!(error.hint.unwrap().contains("npm install"));
}

#[test]
fn an_interface_at_a_terminal_gets_the_prompt_as_its_first_message_and_needs_none() {
    let scratch = Scratch::new("interactive");
    for (name, once) in [("claude", "-p"), ("codex", "exec")] {
        let provider = scratch.stand_in(name, "true");
        let plan = |wish: Wish| provider.plan(&wish, &|_| Some("k".into()));
        let headless = plan(wish("-x")).unwrap().argv;
        assert!(headless.iter().any(|word| word == once), "{headless:?}");
        let with = plan(Wish { interactive: true, ..wish("-x") }).unwrap().argv;
        assert_eq!(with[with.len() - 2..], ["--", "-x"], "{name}");
        assert!(!with.iter().any(|word| word == once), "{with:?}");
        let without = plan(Wish { interactive: true, ..Wish::default() }).unwrap().argv;
        assert_eq!(without, with[..with.len() - 2], "{name}");
        assert!(plan(Wish::default()).unwrap_err().message.contains("needs a prompt"));
    }
    let command = load("command", &scratch.0).unwrap();
    let wish = Wish { interactive: true, command: vec!["sh".into(), "-i".into()], ..Wish::default() };
    assert_eq!(command.plan(&wish, &|_| None).unwrap().argv, ["sh", "-i"], "as it is");
}

#[test]
fn instructions_come_as_each_cli_knows_best() {
    let scratch = Scratch::new("instructions");
    let text = "--be brief\n\"and\" {workspace} polite";
    let told = |name: &str, exe: &str| {
        let wish = Wish { instructions: Some(text.into()), command: vec!["true".into()], ..wish("x") };
        let provider = if name == "command" { load(name, &scratch.0).unwrap() } else { scratch.stand_in(name, exe) };
        provider
            .plan(&Wish { prompt: wish.prompt.clone().filter(|_| name != "command"), ..wish }, &|_| Some("k".into()))
    };
    let claude = told("claude", "true").unwrap();
    let at = claude.argv.iter().position(|word| word == "--append-system-prompt").unwrap();
    assert_eq!(claude.argv[at + 1], text);
    let pi = told("pi", "true").unwrap().argv;
    assert_eq!(pi[1..], ["--append-system-prompt", text, "-p", "x"]);
    for (name, path) in
        [("codex", "~/.codex/AGENTS.md"), ("gemini", "~/.gemini/GEMINI.md"), ("command", "~/INSTRUCTIONS.md")]
    {
        let plan = told(name, "true").unwrap();
        let file = plan.files.iter().find(|f| f.path == path).unwrap();
        assert_eq!((file.text.as_str(), file.fill), (text, false), "{name}: word for word");
        assert!(!plan.argv.iter().any(|word| word == text));
    }
    let demo = load("demo", &scratch.0).unwrap();
    let plan = demo.plan(&Wish { instructions: Some(text.into()), ..wish("x") }, &|_| Some("k".into())).unwrap();
    assert_eq!(plan.argv[4..], ["--instructions", text]);
    scratch.write("mine", "return {name = 'mine', argv = {'true', '{prompt}'}}");
    let mine = load("mine", &scratch.0).unwrap();
    let error = mine.plan(&Wish { instructions: Some(text.into()), ..wish("x") }, &|_| None).unwrap_err();
    assert!(error.message.contains("takes no instructions"), "{error}");
}

#[test]
fn a_session_is_continued_where_the_cli_can() {
    let scratch = Scratch::new("resume");
    let again = Wish { resume: true, ..wish("go on") };
    for (name, words, kept) in [
        ("claude", &["--continue"][..], "~/.claude/projects"),
        ("codex", &["resume", "--last"], "~/.codex/sessions"),
        ("gemini", &["--resume=latest"], "~/.gemini"),
        ("pi", &["--continue"], "~/.pi/agent/sessions"),
    ] {
        for interactive in [false, true] {
            let wish = Wish { interactive, ..again.clone() };
            let plan = scratch.stand_in(name, "true").plan(&wish, &|_| Some("k".into())).unwrap();
            assert!(plan.argv.windows(words.len()).any(|w| w == words), "{:?}", plan.argv);
            assert!(plan.transcript.iter().any(|t| t == kept), "{:?}", plan.transcript);
            assert!(plan.skills.as_ref().is_some_and(|s| s.starts_with(&format!("~/.{name}/"))), "{:?}", plan.skills);
        }
    }
    let error = load("demo", &scratch.0).unwrap().plan(&again, &|_| Some("k".into())).unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (Kind::Usage, "provider demo cannot continue a session"));
}

#[test]
fn the_workspace_stands_in_files_as_their_format_writes_it() {
    let file = |path: &str| File {
        path: path.into(),
        text: r#"["{workspace}"]"#.into(),
        base64: false,
        mode: None,
        fill: true,
    };
    let odd = r#"/home/a/"x\y"#;
    for path in ["~/a.json", "~/a.toml"] {
        let (_, text) = file(path).filled(odd);
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [odd]);
    }
    assert_eq!(file("~/{workspace}.txt").filled("/w"), ("~//w.txt".into(), r#"["/w"]"#.into()));
    let asis = File { fill: false, ..file("~/a.json") };
    assert_eq!(asis.filled("/w"), (asis.path.clone(), asis.text.clone()));
    // The shipped files stay what they are, whatever the folder is called.
    let scratch = Scratch::new("workspace");
    let plan = scratch.stand_in("claude", "true").plan(&wish("x"), &|_| Some("k".into())).unwrap();
    let (_, text) = plan.files.iter().find(|f| f.path == "~/.claude.json").unwrap().filled(odd);
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(read["projects"][odd]["hasTrustDialogAccepted"], true);
}

#[test]
fn codex_gets_json_where_it_is_asked_for() {
    let scratch = Scratch::new("codex");
    let codex = scratch.stand_in("codex", "true");
    let json = Wish { output: OutputForm::Json, args: vec!["-m".into(), "x".into()], ..wish("do") };
    let plan = codex.plan(&json, &|_| Some("k".into())).unwrap();
    assert_eq!(plan.argv[4..], ["--json", "-m", "x", "--", "do"]);
    assert_eq!(plan.env["CODEX_API_KEY"], plan.env["OPENAI_API_KEY"]);
    assert_eq!(plan.routes[0].api, Some(ApiFamily::OpenaiResponses));
    // What Codex looks up by itself is refused without noise, and by any reading of the route.
    assert!(plan.quiet.iter().any(|r| r.host == "chatgpt.com"));
    assert!(plan.quiet.iter().all(|r| r.quiet == ["/"] && r.matches[0].methods == ["NONE"] && r.auth.is_none()));
}

#[test]
fn codex_is_not_given_the_one_prompt_that_it_takes_for_its_standard_input() {
    let scratch = Scratch::new("dash");
    let codex = scratch.stand_in("codex", "true");
    let plan = |wish: Wish| codex.plan(&wish, &|_| Some("k".into()));
    for wish in [wish("-"), Wish { resume: true, ..wish("-") }, Wish { output: OutputForm::Json, ..wish("-") }] {
        let error = plan(wish).unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        assert!(error.message.contains("takes the prompt \"-\" for its standard input"), "{error}");
    }
    // Its own interface takes it as it is, and so do the others; what only begins with it is a prompt like any other.
    assert_eq!(plan(Wish { interactive: true, ..wish("-") }).unwrap().argv.last().unwrap(), "-");
    for prompt in ["--", "- ", "-\n", "-x"] {
        assert_eq!(plan(wish(prompt)).unwrap().argv.last().unwrap(), prompt);
    }
    for name in ["claude", "gemini", "pi"] {
        let argv = scratch.stand_in(name, "true").plan(&wish("-"), &|_| Some("k".into())).unwrap().argv;
        assert!(argv.last().unwrap().ends_with('-'), "{argv:?}");
    }
}

#[test]
fn who_counts_the_tokens_of_a_request_is_the_providers_to_say() {
    let scratch = Scratch::new("counts");
    let counted_by = |name: &str| load(name, &scratch.0).unwrap().counted_by();
    assert_eq!(counted_by("claude"), Some(Api::Anthropic));
    assert_eq!(counted_by("codex"), Some(Api::OpenaiResponses));
    assert_eq!(counted_by("pi"), Some(Api::Anthropic));
    // An estimate has to do: said, or where nothing is said.
    for name in ["gemini", "command", "demo"] {
        assert_eq!(counted_by(name), None, "{name}");
    }
    scratch.write("mine", "return {name = 'mine', argv = {'x'}, routes = {{host = 'h', api = 'anthropic'}}}");
    assert_eq!(counted_by("mine"), None, "the API of its route does not decide it");
    scratch.write("mine", "return {name = 'mine', argv = {'x'}, count_tokens = 'gemini'}");
    assert_eq!(counted_by("mine"), Some(Api::Gemini));
}

#[test]
fn a_command_takes_a_prompt_only_where_it_says_so() {
    let scratch = Scratch::new("command");
    let command = load("command", &scratch.0).unwrap();
    let run = |words: &[&str], prompt: Option<&str>| {
        let wish = Wish {
            command: words.iter().map(|w| (*w).to_owned()).collect(),
            prompt: prompt.map(str::to_owned),
            ..Wish::default()
        };
        command.plan(&wish, &|_| None).map(|p| p.argv)
    };
    assert_eq!(run(&["echo", "{prompt}"], Some("-n x")).unwrap(), ["echo", "-n x"]);
    assert_eq!(run(&["echo", "{prompt}"], None).unwrap(), ["echo", "{prompt}"]);
    assert_eq!(run(&["echo"], Some("x")).unwrap_err().message, "the command has no word {prompt} for the prompt");
    assert!(run(&[], None).unwrap_err().message.contains("needs a command"));
}

#[test]
fn a_file_that_cannot_be_read_does_not_give_way_to_the_shipped_one() {
    let scratch = Scratch::new("unreadable");
    assert!(load("claude", &scratch.0).is_ok(), "the allowed twin");
    scratch.write("claude", "");
    let file = scratch.0.root.join("providers/claude.lua");
    std::fs::remove_file(&file).unwrap();
    // A link to itself: there is something, and nobody can read it.
    std::os::unix::fs::symlink(&file, &file).unwrap();
    let error = load("claude", &scratch.0).err().unwrap();
    assert!(error.kind == Kind::Usage && error.message.contains("cannot be read"), "{error}");
    // Nor does one that leads nowhere.
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/nonexistent/claude.lua", &file).unwrap();
    let error = load("claude", &scratch.0).err().unwrap();
    assert!(error.kind == Kind::Usage && error.message.contains("cannot be read"), "{error}");
}

#[test]
fn a_users_file_wins_and_its_slips_are_named() {
    let scratch = Scratch::new("own");
    let refusal = |text: &str| {
        scratch.write("mine", text);
        load("mine", &scratch.0).err().unwrap()
    };
    let error = refusal("return {name = 'mine', argv = {'x'}, rutes = {}}");
    assert_eq!((error.kind, error.hint.as_deref()), (Kind::UnknownKey, Some("did you mean 'routes'?")));
    assert!(error.place.unwrap().ends_with("providers/mine.lua"));
    assert!(refusal("return {name = 'other', argv = {'x'}}").message.contains("calls itself 'other'"));
    let places = "return {name = 'mine', argv = {'x'}, files = {{path = '~/i', text = ''}}, ";
    for (key, words) in [
        ("skills = '/etc'}", "'skills' names a place"),
        ("transcript = {'~/a/../../b'}}", "'transcript' names a place"),
        ("mcp = {file = 'x', key = 'y'}}", "'mcp' names a place"),
        ("instructions = '~/i'}", "both write ~/i"),
        ("count_tokens = 'anthropc'}", "not 'anthropc'"),
    ] {
        let error = refusal(&format!("{places}{key}"));
        assert!(error.kind == Kind::Usage && error.message.contains(words), "{error}");
    }
    assert!(refusal("return 5").message.contains("returns a table"));
    assert!(refusal("return {").message.starts_with("syntax"));
    assert!(refusal("while true do end").message.contains("too long"));
    assert!(
        refusal("return {name = 'mine', argv = {'x'}, routes = {{host = 'h', credential = 'c'}}}")
            .message
            .contains("'c'")
    );
    for name in [
        "os",
        "io",
        "require",
        "loadstring",
        "getfenv",
        "setfenv",
        "newproxy",
        "collectgarbage",
        "coroutine",
        "print",
        "debug",
    ] {
        scratch.write("mine", &format!("assert({name} == nil) return {{name = 'mine', argv = {{'x'}}}}"));
        load("mine", &scratch.0).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert_eq!(load("cluade", &scratch.0).err().unwrap().hint.as_deref(), Some("did you mean 'claude'?"));
    assert!(load("../claude", &scratch.0).is_err());
}

#[test]
fn the_documentation_has_every_key_and_its_example_works() {
    let docs = include_str!("../../docs/providers.md");
    let scratch = Scratch::new("documented");
    scratch.write("mine", "return {name = 'mine', argv = {'x'}, zzzzzzzzzzzzzzzzzzzz = 1}");
    let hint = load("mine", &scratch.0).err().unwrap().hint.unwrap();
    let mut known: Vec<&str> = hint.split("known are: ").nth(1).unwrap().split(", ").chain(["argv"]).collect();
    known.sort_unstable();
    let table = docs.split("## The table").nth(1).unwrap().split("Everything in").next().unwrap();
    let mut rows: Vec<&str> = table.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
    rows.sort_unstable();
    assert_eq!(rows, known);
    // Nothing that a file is told goes undocumented either.
    scratch.write(
        "mine",
        "return {name = 'mine', argv = function(ctx) local names = {'x'} for name in pairs(ctx) do \
         names[#names + 1] = name end return names end, instructions = '~/i', resumes = true}",
    );
    let all = Wish { instructions: Some("i".into()), ..wish("x") };
    let mut told = load("mine", &scratch.0).unwrap().plan(&all, &|_| None).unwrap().argv[1..].to_vec();
    told.sort_unstable();
    let table = docs.split("| field of `ctx`").nth(1).unwrap().split("```").next().unwrap();
    let mut fields: Vec<&str> = table.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
    fields.sort_unstable();
    assert_eq!(fields, told);
    assert!(docs.contains("`append(list, ...)`"));
    scratch
        .write("mine", "local t = {'x'} append(t, 'a', nil, {'b', 'c'}, '{prompt}') return {name = 'mine', argv = t}");
    assert_eq!(load("mine", &scratch.0).unwrap().plan(&wish("d"), &|_| None).unwrap().argv, ["x", "a", "b", "c", "d"]);
    let example = docs.split("```lua").nth(1).unwrap().split("```").next().unwrap();
    scratch.write("mine", &example.replace("exe = \"mine\"", "exe = \"true\""));
    let plan = load("mine", &scratch.0).unwrap().plan(&wish("-x"), &|_| Some("k".into())).unwrap();
    assert_eq!(plan.argv, ["mine", "--yes", "--once", "--", "-x"]);
}

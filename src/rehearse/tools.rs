//! From what a turn wants done to a call of a tool that the agent offers.
//!
//! The same scenario is played to several agents: a file is written with `Write` by Claude Code, with a shell command by
//! Codex, with `write_file` by the demo agent and, with other arguments, by Gemini CLI.

use serde_json::{Value, json};

use super::scenario::{Action, Edit};
use crate::printable::shell_word as quote;

/// A tool that a request offers.
pub(super) struct Offer {
    /// Its name; its type where it has none.
    pub(super) name: String,
    /// Its type: `function`, `custom`, `local_shell`, or none of ours.
    pub(super) kind: String,
    /// It takes JavaScript, which calls `exec_command` and others of its own (Codex).
    pub(super) scripts: bool,
    /// Its arguments call a file's path `file_path`, not `path`; `None` where they are not described.
    pub(super) file_path: Option<bool>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    /// With JSON arguments.
    Function(String, Value),
    /// With text.
    Custom(String, String),
    /// The Responses API's own shell tool.
    LocalShell(Vec<String>),
}

/// Finds the call that does `action`; `None` where no tool fits.
pub(super) fn call(action: Action<'_>, offers: &[Offer]) -> Option<Call> {
    let offered = |name: &str| offers.iter().any(|o| o.name == name);
    let function = |name: &str, input: Value| offered(name).then(|| Call::Function(name.to_owned(), input));
    match action {
        Action::Tool(tool) => match offers.iter().find(|o| o.name == tool.name) {
            Some(Offer { kind, .. }) if kind == "custom" && tool.input.is_string() => {
                Some(Call::Custom(tool.name.clone(), tool.input.as_str().unwrap_or_default().to_owned()))
            }
            // Offered or not: an agent must cope with a model that calls what it does not have.
            _ => {
                let input = if tool.input.is_null() { json!({}) } else { tool.input.clone() };
                Some(Call::Function(tool.name.clone(), input))
            }
        },
        Action::Edit(edit) => {
            let Edit { path, content } = edit;
            // The same name may be several agents', with another word for the path.
            let write = |name: &str, long: bool| {
                let offer = offers.iter().find(|o| o.name == name)?;
                let key = if offer.file_path.unwrap_or(long) { "file_path" } else { "path" };
                function(name, json!({key: path, "content": content}))
            };
            write("write_file", false)
                .or_else(|| write("Write", true))
                .or_else(|| write("write", false))
                .or_else(|| shell(offers, &write_command(edit)))
                .or_else(|| patch(offers, edit))
        }
        Action::Run(run) => function("run_command", json!({"argv": run.argv}))
            .or_else(|| shell(offers, &run.argv.iter().map(|a| quote(a)).collect::<Vec<_>>().join(" "))),
        Action::Fetch(fetch) => function("http_get", json!({"url": fetch.url}))
            .or_else(|| shell(offers, &format!("curl -sS -i --max-time 10 {}", quote(&fetch.url)))),
        Action::Connect(to) => function("tcp_connect", json!({"host": to.host, "port": to.port})).or_else(|| {
            let inner = format!("exec 3<>/dev/tcp/{}/{} && echo connected", to.host, to.port);
            shell(offers, &format!("timeout 10 bash -c {}", quote(&inner)))
        }),
    }
}

/// How long Codex is to wait for a command before it goes on with half of its output: the longest that it allows. Unit:
/// milliseconds.
const CODEX_WAIT_MS: u32 = 30_000;

/// Runs `command` with the shell tool that is offered.
fn shell(offers: &[Offer], command: &str) -> Option<Call> {
    let argv = |shell: &str, option: &str| json!([shell, option, command]);
    let codex = || json!({"cmd": command, "yield_time_ms": CODEX_WAIT_MS});
    offers.iter().find_map(|offer| {
        let input = match offer.name.as_str() {
            "exec_command" => codex(),
            "shell_command" | "bash" => json!({"command": command}),
            "run_shell_command" => json!({"command": command, "description": "Rehearsed command"}),
            "Bash" => json!({"command": command, "description": "Rehearsed command"}),
            "shell" if offer.kind == "function" => json!({"command": argv("bash", "-lc")}),
            "run_command" => json!({"argv": argv("sh", "-c")}),
            "local_shell" if offer.kind == "local_shell" => {
                return Some(Call::LocalShell(vec!["bash".into(), "-lc".into(), command.into()]));
            }
            _ if offer.scripts => {
                // A JSON text is a JavaScript one.
                let script = format!("text(await tools.exec_command({}));\n", codex());
                return Some(Call::Custom(offer.name.clone(), script));
            }
            _ => return None,
        };
        Some(Call::Function(offer.name.clone(), input))
    })
}

/// Writes a file with the patch tool that is offered.
fn patch(offers: &[Offer], edit: &Edit) -> Option<Call> {
    let offer = offers.iter().find(|o| o.name == "apply_patch")?;
    let lines: String = edit.content.lines().map(|line| format!("+{line}\n")).collect();
    let patch = format!("*** Begin Patch\n*** Add File: {}\n{lines}*** End Patch\n", edit.path);
    Some(match offer.kind.as_str() {
        "custom" => Call::Custom(offer.name.clone(), patch),
        _ => Call::Function(offer.name.clone(), json!({"input": patch})),
    })
}

/// Gets the shell command that writes a file.
fn write_command(edit: &Edit) -> String {
    let write = format!("printf %s {} > {}", quote(&edit.content), quote(&edit.path));
    match edit.path.rsplit_once('/') {
        Some((dir, _)) if !dir.is_empty() => format!("mkdir -p -- {} && {write}", quote(dir)),
        _ => write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearse::scenario::{Connect, Fetch, Run, Tool};

    fn offers(names: &[(&str, &str)]) -> Vec<Offer> {
        names
            .iter()
            .map(|(name, kind)| Offer {
                name: (*name).into(),
                kind: (*kind).into(),
                scripts: *name == "exec",
                file_path: None,
            })
            .collect()
    }

    #[test]
    fn each_agent_writes_a_file_with_the_tool_it_has() {
        let edit = Edit { path: "a b/c.txt".into(), content: "it's\n".into() };
        let with = |tools: &[(&str, &str)]| call(Action::Edit(&edit), &offers(tools));
        let function = |name: &str, input: Value| Some(Call::Function(name.into(), input));
        let shell = r"mkdir -p -- 'a b' && printf %s 'it'\''s
' > 'a b/c.txt'";
        let codex = json!({"cmd": shell, "yield_time_ms": 30_000});
        let claude = json!({"file_path": "a b/c.txt", "content": "it's\n"});
        assert_eq!(with(&[("Bash", "function"), ("Write", "function")]), function("Write", claude));
        assert_eq!(with(&[("exec_command", "function")]), function("exec_command", codex.clone()));
        let demo = json!({"path": "a b/c.txt", "content": "it's\n"});
        assert_eq!(with(&[("write_file", "function"), ("run_command", "function")]), function("write_file", demo));
        // Gemini CLI calls its tool as the demo agent does, and Pi may call it as Claude Code does.
        for (name, long, key) in [("write_file", true, "file_path"), ("Write", false, "path")] {
            let mut offered = offers(&[(name, "function")]);
            offered[0].file_path = Some(long);
            let want = json!({key: "a b/c.txt", "content": "it's\n"});
            assert_eq!(call(Action::Edit(&edit), &offered), function(name, want));
        }
        let patch = "*** Begin Patch\n*** Add File: a b/c.txt\n+it's\n*** End Patch\n";
        assert_eq!(with(&[("apply_patch", "custom")]), Some(Call::Custom("apply_patch".into(), patch.into())));
        let local = vec!["bash".to_owned(), "-lc".to_owned(), shell.to_owned()];
        assert_eq!(with(&[("local_shell", "local_shell")]), Some(Call::LocalShell(local)));
        let script = format!("text(await tools.exec_command({}));\n", codex);
        assert_eq!(with(&[("wait", "function"), ("exec", "custom")]), Some(Call::Custom("exec".into(), script)));
        assert_eq!(with(&[("get_weather", "function")]), None);
    }

    #[test]
    fn commands_fetches_and_connections_fall_back_to_a_shell() {
        let bash = offers(&[("Bash", "function")]);
        let command = |action| match call(action, &bash) {
            Some(Call::Function(_, input)) => input["command"].as_str().unwrap().to_owned(),
            other => panic!("{other:?}"),
        };
        let run = Run { argv: vec!["git".into(), "log".into(), "a;b".into(), String::new()] };
        assert_eq!(command(Action::Run(&run)), "git log 'a;b' ''");
        let fetch = Fetch { url: "https://x/?a=1&b".into() };
        assert_eq!(command(Action::Fetch(&fetch)), "curl -sS -i --max-time 10 'https://x/?a=1&b'");
        let connect = Connect { host: "198.51.100.1".into(), port: 22 };
        assert!(command(Action::Connect(&connect)).contains("/dev/tcp/198.51.100.1/22"));
        let own = offers(&[("http_get", "function"), ("tcp_connect", "function"), ("run_command", "function")]);
        let demo = call(Action::Connect(&connect), &own);
        assert_eq!(demo, Some(Call::Function("tcp_connect".into(), json!({"host": "198.51.100.1", "port": 22}))));
    }

    #[test]
    fn a_tool_called_by_name_is_called_even_if_it_is_not_offered() {
        let tool = Tool { name: "nope".into(), input: Value::Null };
        assert_eq!(call(Action::Tool(&tool), &[]), Some(Call::Function("nope".into(), json!({}))));
    }
}

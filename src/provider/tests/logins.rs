//! Which credential wins where the host has a login as well, and what comes of a login that is chosen.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::api::{LoginForm, Route};
use crate::settings::{Settings, Sources};

const CLAUDE: &str = r#"{"claudeAiOauth":{"accessToken":"real-access","refreshToken":"real-refresh"}}"#;
const CODEX: &str = r#"{"tokens":{"id_token":"real-id","access_token":"real-access","refresh_token":"real-refresh"}}"#;

/// A home of a user, with both logins.
fn with_logins(scratch: &Scratch, settings: &str) -> Sources {
    let user = scratch.0.root.join("user");
    for (file, text) in [(".claude/.credentials.json", CLAUDE), (".codex/auth.json", CODEX), ("work.json", CLAUDE)] {
        let path = user.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    Settings::parse(settings, &scratch.0.root).unwrap().credentials.for_user(Some(&user))
}

fn file<'a>(plan: &'a Plan, path: &str) -> Option<&'a File> {
    plan.files.iter().find(|file| file.path == path)
}

fn route<'a>(plan: &'a Plan, host: &str) -> Option<&'a Route> {
    plan.routes.iter().find(|route| route.host == host)
}

#[test]
fn a_login_of_the_host_is_used_where_there_is_no_key_and_the_bottle_gets_placeholders() {
    let scratch = Scratch::new("login");
    let wish = Wish { sources: with_logins(&scratch, ""), ..wish("x") };
    let plan = scratch.stand_in("claude", "true").plan(&wish, &|_| None).unwrap();
    let login = &plan.credentials.logins["anthropic"];
    assert_eq!((login.form, login.file.ends_with("user/.claude/.credentials.json")), (LoginForm::Claude, true));
    assert!(plan.credentials.values.is_empty() && plan.credentials.later.is_empty());
    assert_eq!(
        plan.credentials.origins["anthropic"].to_string(),
        " from the login of Claude Code in ~/.claude/.credentials.json"
    );
    assert!(!plan.env.keys().any(|name| name.ends_with("_KEY") || name.ends_with("_TOKEN")), "{:?}", plan.env);
    let text = &file(&plan, "~/.claude/.credentials.json").unwrap().text;
    let kept: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(kept["claudeAiOauth"]["accessToken"], crate::egress::oauth::placeholder::CLAUDE_ACCESS);
    assert_eq!(kept["claudeAiOauth"]["refreshToken"], crate::egress::oauth::placeholder::CLAUDE_REFRESH);
    assert_eq!(route(&plan, "api.anthropic.com").unwrap().auth.as_ref().unwrap().scheme, AuthScheme::Bearer);
    assert_eq!(route(&plan, "platform.claude.com").unwrap().oauth.as_deref(), Some("anthropic"));

    let plan = scratch.stand_in("codex", "true").plan(&wish, &|_| None).unwrap();
    assert_eq!(plan.credentials.logins["openai"].form, LoginForm::Codex);
    let config = &file(&plan, "~/.codex/config.toml").unwrap().text;
    assert!(config.contains(crate::egress::oauth::placeholder::CODEX_ACCESS), "{config}");
    assert!(file(&plan, "~/.codex/auth.json").is_none());
    let chatgpt = route(&plan, "chatgpt.com").unwrap();
    assert_eq!((chatgpt.api, chatgpt.auth.is_some()), (Some(crate::types::ApiFamily::OpenaiResponses), true));
    assert_eq!(route(&plan, "auth.openai.com").unwrap().oauth.as_deref(), Some("openai"));
    // Its token is not for the other API.
    assert!(route(&plan, "api.openai.com").is_none());
    let all = format!("{:?}{:?}{:?}", plan.env, plan.files, plan.argv);
    assert!(!all.contains("real-") && !all.contains("{access_token}"), "{all}");
    crate::egress::route::Router::new(&plan.routes).unwrap();
}

#[test]
fn a_key_comes_first_then_what_the_settings_name_then_the_login() {
    let scratch = Scratch::new("login-order");
    let claude = scratch.stand_in("claude", "true");
    let codex = scratch.stand_in("codex", "true");
    let sources = with_logins(&scratch, "credentials: {CLAUDE_CODE_OAUTH_TOKEN: {command: [printf, x]}}\n");
    let wish = Wish { sources, ..wish("x") };
    let plan = claude.plan(&wish, &host_has("ANTHROPIC_API_KEY", "sk-real")).unwrap();
    assert_eq!((plan.credentials.values["anthropic"].as_str(), plan.credentials.logins.len()), ("sk-real", 0));
    assert!(route(&plan, "platform.claude.com").is_none() && file(&plan, "~/.claude/.credentials.json").is_none());
    let plan = claude.plan(&wish, &|_| None).unwrap();
    assert_eq!(plan.credentials.later["anthropic"], "CLAUDE_CODE_OAUTH_TOKEN");
    let plan = codex.plan(&wish, &host_has("CODEX_API_KEY", "sk-real")).unwrap();
    assert!(route(&plan, "api.openai.com").is_some() && route(&plan, "chatgpt.com").is_none());
    assert!(plan.quiet.iter().any(|quiet| quiet.host == "chatgpt.com"));
    assert!(file(&plan, "~/.codex/auth.json").unwrap().text.contains("sk-proj-bottle"));

    // One that a manifest names: by its own name, and whatever lies in the usual place.
    let sources =
        with_logins(&scratch, "credentials: {WORK: {login: claude, file: ~/work.json}, KEY: {file: work.json}}\n");
    let named = |name: &str| Wish { sources: sources.clone(), auth_token: Some(name.to_owned()), ..super::wish("x") };
    let plan = claude.plan(&named("WORK"), &host_has("ANTHROPIC_API_KEY", "sk-real")).unwrap();
    assert!(plan.credentials.logins["anthropic"].file.ends_with("user/work.json"));
    assert_eq!(plan.credentials.origins["anthropic"].to_string(), " from the login of Claude Code in ~/work.json");
    // The environment wins over the settings, as for any other.
    let plan = claude.plan(&named("WORK"), &host_has("WORK", "sk-ant-oat-real")).unwrap();
    assert_eq!(plan.credentials.values["anthropic"], "sk-ant-oat-real");
    let error = codex.plan(&named("WORK"), &|_| None).unwrap_err();
    assert_eq!(error.kind, Kind::Usage);
    assert!(error.message.contains("WORK is the login of Claude Code, with which"), "{error}");
}

#[test]
fn no_route_of_somebody_else_gets_a_login() {
    let scratch = Scratch::new("login-routes");
    let sources = with_logins(&scratch, "credentials: {WORK: {login: claude}}\n");
    for rehearsal in [false, true] {
        let search = Search { lookup: &|_| None, sources: &sources, rehearsal };
        for error in [search.resolve("WORK").map(|_| ()).unwrap_err(), search.value("WORK").map(|_| ()).unwrap_err()] {
            assert_eq!((error.kind, error.place.as_deref()), (Kind::Usage, Some("settings.yml:1")), "{error}");
            assert!(error.message.contains("the hosts of its vendor only"), "{error}");
        }
    }
}

#[test]
fn a_rehearsal_takes_the_form_of_the_login_and_nothing_of_it() {
    let scratch = Scratch::new("login-rehearsal");
    let sources = with_logins(&scratch, "credentials: {WORK: {login: claude, file: ~/gone.json}}\n");
    // What is in it counts for nothing.
    std::fs::write(scratch.0.root.join("user/.claude/.credentials.json"), "{}").unwrap();
    let claude = scratch.stand_in("claude", "true");
    for auth_token in [None, Some("WORK".to_owned())] {
        let wish = Wish { sources: sources.clone(), rehearsal: true, auth_token, ..wish("x") };
        let plan = claude.plan(&wish, &|_| None).unwrap();
        assert_eq!(plan.credentials.values["anthropic"], "rehearsal-claude-login");
        assert!(plan.credentials.logins.is_empty() && file(&plan, "~/.claude/.credentials.json").is_some());
        assert!(plan.routes.iter().all(|route| route.oauth.is_none()));
        assert!(plan.quiet.iter().any(|quiet| quiet.host == "platform.claude.com"));
    }
}

#[test]
fn what_is_missing_names_the_login_too_and_wrong_files_are_refused() {
    let scratch = Scratch::new("login-missing");
    let claude = scratch.stand_in("claude", "true");
    let error = claude.plan(&wish("x"), &|_| None).unwrap_err();
    assert!(
        error.message.ends_with(
            "neither ANTHROPIC_API_KEY nor CLAUDE_CODE_OAUTH_TOKEN is set, and the login of Claude Code is not on this host (~/.claude/.credentials.json)"
        ),
        "{error}"
    );
    assert!(error.hint.as_deref().unwrap().contains("run `claude` on this host and log in"), "{error}");
    // A CLI that is logged in by a key has the file as well.
    for (provider, path, text, keys) in [
        ("claude", ".claude/.credentials.json", r#"{"mcpOAuth":{}}"#, "ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN"),
        ("codex", ".codex/auth.json", r#"{"OPENAI_API_KEY":"k","tokens":null}"#, "OPENAI_API_KEY or CODEX_API_KEY"),
    ] {
        let scratch = Scratch::new(&format!("login-by-key-{provider}"));
        let sources = with_logins(&scratch, "");
        std::fs::write(scratch.0.root.join("user").join(path), text).unwrap();
        let wish = Wish { sources, ..wish("x") };
        let error = scratch.stand_in(provider, "true").plan(&wish, &|_| None).unwrap_err();
        assert!(error.message.contains("nobody is logged in there"), "{error}");
        let hint = error.hint.as_deref().unwrap();
        assert!(hint.contains("on this host") && hint.ends_with(&format!("or set {keys} in this shell")), "{hint}");
    }
    let read = |alternative: &str, route: &str| {
        let text = format!(
            "return {{ name = \"mine\", argv = {{ \"x\" }}, credentials = {{ key = {{ {alternative} }} }}, routes = {{ {route} }} }}"
        );
        scratch.write("mine", &text);
        load("mine", &scratch.0).map(|_| ()).unwrap_err().message
    };
    for (alternative, route, what) in [
        ("{ login = \"claude\", env = \"X\" }", "", "an alternative with 'login' has only 'files' and 'routes'"),
        ("{ login = \"claude\", set = {} }", "", "an alternative with 'login' has only"),
        ("{ env = \"X\", scheme = \"Bearer\" }", "", "'env', 'placeholder' and 'scheme', or 'login'"),
        ("{}", "", "'env', 'placeholder' and 'scheme', or 'login'"),
        ("", "", "no alternatives"),
        ("{ login = \"gemini\" }", "", "gemini"),
        ("{ login = \"claude\" }", "{ host = \"a.example\", oauth = \"other\" }", "'other', which is not listed"),
        (
            "{ env = \"X\", placeholder = \"x\", scheme = \"token\" }",
            "{ host = \"a.example\", oauth = \"key\" }",
            "no alternative has a login",
        ),
        ("{ login = \"claude\", routes = { { host = \"a..b\" } } }", "", "a..b"),
    ] {
        let message = read(alternative, route);
        assert!(message.contains(what), "{what}: {message}");
    }
}

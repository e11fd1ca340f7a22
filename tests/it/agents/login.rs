//! Real CLIs on a subscription login of the host: the host's own token arrives upstream, the bottle has placeholders, and the host
//! alone renews.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bb::rehearse::Rehearsal;
use bb::rehearse::stats::Request;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::task::{PLACEHOLDER, contains, files_with, refused_quietly, same_everywhere, task, usage_of};
use super::{CLAUDE, CODEX, Cli, PATIENCE, recipe, stand_in};
use crate::support::{Reply, Site, World};

/// The account of the host's Codex login.
const ACCOUNT: &str = "acc-real-canary-0000-1111";

/// A login as the CLI keeps it, whose access token has `left` seconds to go.
struct Login {
    /// Where it lies, below `$HOME`.
    path: &'static str,
    text: String,
    access: String,
    refresh: String,
    /// Everything in it that no bottle may have.
    secrets: Vec<String>,
}

fn in_seconds(left: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + left
}

/// A token that says when it ends, signed by nobody.
fn jwt(name: &str, expires: i64) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let auth = json!({"chatgpt_account_id": ACCOUNT, "chatgpt_plan_type": "plus", "chatgpt_user_id": "user-real"});
    let claims = json!({"exp": expires, "iat": expires - 3600, "email": "me@real.example", "jti": name,
        "https://api.openai.com/auth": auth});
    format!("{}.{}.{}", part(json!({"alg": "RS256", "typ": "JWT"})), part(claims), URL_SAFE_NO_PAD.encode(name))
}

impl Login {
    fn of(cli: &Cli, left: i64) -> Login {
        let expires = in_seconds(left);
        if cli.name == "claude" {
            let (access, refresh) =
                ("sk-ant-oat01-real-canary-access-0123456789", "sk-ant-ort01-real-canary-refresh-0123456789");
            let text = json!({"claudeAiOauth": {"accessToken": access, "refreshToken": refresh, "expiresAt": expires * 1000,
                "scopes": ["user:inference", "user:profile"], "subscriptionType": "max"}, "mcpOAuth": {"kept": true}});
            return Login {
                path: ".claude/.credentials.json",
                text: text.to_string(),
                access: access.into(),
                refresh: refresh.into(),
                secrets: vec![access.into(), refresh.into()],
            };
        }
        let (access, id, refresh) = (jwt("access", expires), jwt("id", expires), "rt_real-canary-refresh-0123456789");
        let text = json!({"OPENAI_API_KEY": null, "tokens": {"id_token": id, "access_token": access,
            "refresh_token": refresh, "account_id": ACCOUNT}, "last_refresh": "2026-01-01T00:00:00Z", "kept": true});
        Login {
            path: ".codex/auth.json",
            text: text.to_string(),
            secrets: vec![access.clone(), id, refresh.into(), ACCOUNT.into()],
            access,
            refresh: refresh.into(),
        }
    }

    /// Puts it where the CLI keeps it.
    fn put(&self, world: &World) -> PathBuf {
        let path = world.write(self.path, &self.text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}

/// Looks from inside of the bottle, in every place where an agent could look; asserts that only placeholders are there.
fn only_placeholders(world: &World, slug: &str, login: &Login, workspace: &Path) {
    let seen = fs::read_to_string(workspace.join("seen.txt")).unwrap_or_default();
    assert!(seen.contains("== /proc/") && seen.contains("HOME="), "{seen}");
    for secret in &login.secrets {
        assert!(!seen.contains(secret.as_str()), "{secret} is in the environment or on a command line");
    }
    let places = format!("\"$HOME\" /tmp /var /run /etc '{}'", workspace.display());
    // The needles come by standard input, so that the search does not find itself. (The CLIs' own packages are large.)
    let search = format!("grep -rlaF --exclude-dir=node_modules -f - {places} 2>/dev/null; true");
    let files = |needles: &str| {
        let exec = world.command(&["exec", "-i", slug, "--", "sh", "-c", &search]);
        let found = exec.stdin(needles).patience(PATIENCE).run().expect(0);
        found.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(files(&login.secrets.join("\n")), [""; 0], "files in the bottle with a token of the host");
    let (own, placeholder) = match login.path {
        ".codex/auth.json" => (".codex/config.toml", bb::egress::oauth::placeholder::CODEX_ACCESS),
        path => (path, PLACEHOLDER),
    };
    let control = files(placeholder);
    assert!(control.iter().any(|f| f.ends_with(own)), "{control:?}");
}

/// Has the agent do its task on the login, looks for the tokens meanwhile, and returns what `bb run --json` wrote.
fn do_the_task(world: &World, cli: &Cli, slug: &str, login: &Login, recipe: &str) -> Vec<Value> {
    let workspace = world.make_dir("ws");
    world.write(workspace.join("look.sh"), super::task::LOOK);
    let args = ["run", recipe, "--json", "--grant", "all", "--", "--agent", cli.name, "--output", "json"];
    let args = [&args[..], &["--label", slug, workspace.to_str().unwrap()]].concat();
    let running = world.command(&args).patience(PATIENCE).spawn();
    let waits = world.until(Duration::from_secs(60), || workspace.join("waiting").exists() || running.has_ended());
    assert!(waits && !running.has_ended(), "it never came to its second turn: {}", running.wait());
    only_placeholders(world, slug, login, &workspace);
    world.write(workspace.join("go"), "");
    let output = running.wait().expect(0);
    assert_eq!(fs::read_to_string(workspace.join("hello.txt")).unwrap(), "hello, world\n", "{output}");
    let file = world.home().join(login.path);
    for secret in &login.secrets {
        assert!(!contains(output.stdout.as_bytes(), secret) && !contains(output.stderr.as_bytes(), secret), "{output}");
        // Nowhere on the host but where they belong.
        let found: Vec<_> = [world.bb_home(), world.home()].iter().flat_map(|dir| files_with(dir, secret)).collect();
        let other: Vec<_> = found.iter().filter(|path| **path != file).collect();
        assert!(other.is_empty(), "{secret} is in {other:?}");
    }
    fs::remove_dir_all(&workspace).unwrap();
    let lines = output.json();
    refused_quietly(cli, &lines);
    lines
}

fn rehearsed(cli: &Cli) {
    for world in cli.worlds() {
        let login = Login::of(cli, 3600);
        let file = login.put(&world);
        // Nobody's token plays in it, and the host's file is not touched: not even where it has ended.
        let scenario = json!({"turns": task(), "key": format!("rehearsal-{}-login", cli.name)});
        let lines = do_the_task(&world, cli, "played", &login, &recipe(&world, Some(&scenario)));
        same_everywhere(&world, cli, "played", &["--rehearsal"], &lines);
        assert_eq!(fs::read_to_string(&file).unwrap(), login.text);
        world.assert_silent(&[]);
    }
}

/// Puts up the token endpoint, which gives one more hour.
fn token_endpoint(world: &World, cli: &Cli) -> Site {
    let name = if cli.name == "claude" { "platform.claude.com" } else { "auth.openai.com" };
    let claude = cli.name == "claude";
    world.site(name, move |_| {
        let expires = in_seconds(3600);
        let (access, id) =
            if claude { (FRESH.to_owned(), None) } else { (jwt(FRESH, expires), Some(jwt("id-fresh", expires))) };
        let body = json!({"token_type": "Bearer", "access_token": access, "id_token": id, "expires_in": 3600,
            "refresh_token": "rt-real-canary-refresh-fresh-0123456789"});
        Reply { headers: vec![("content-type", "application/json".into())], ..Reply::text(body.to_string()) }
    })
}

/// What is new in a token that was renewed.
const FRESH: &str = "sk-ant-oat01-real-canary-fresh-9876543210";

/// Gets what each request to the model was sent with.
fn sent(server: &Rehearsal) -> Vec<BTreeMap<String, String>> {
    let auth = |request: &Request| {
        request.auth.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned())).collect()
    };
    server.stats().requests.iter().map(auth).collect()
}

/// The real book: a stand-in is where the model API would be.
fn on_the_login(cli: &Cli) {
    for world in cli.worlds() {
        let login = Login::of(cli, 3 * 3600);
        let file = login.put(&world);
        let server = stand_in(&world, &json!({"turns": task()}));
        let endpoint = token_endpoint(&world, cli);
        let lines = do_the_task(&world, cli, "real", &login, &recipe(&world, None));
        same_everywhere(&world, cli, "real", &[], &lines);
        let stats = server.stats();
        assert_eq!((&stats.completed, &stats.begun), (&usage_of(cli, &task()), &usage_of(cli, &task())));
        let mut wanted = BTreeMap::from([("authorization".to_owned(), format!("Bearer {}", login.access))]);
        if cli.name == "codex" {
            wanted.insert("chatgpt-account-id".to_owned(), ACCOUNT.to_owned());
            assert!(stats.requests.iter().all(|request| request.host == "chatgpt.com"), "{stats:?}");
        }
        for auth in sent(&server) {
            assert_eq!(auth, wanted);
        }
        assert!(endpoint.seen().is_empty(), "nothing had to be renewed");
        assert_eq!(fs::read_to_string(&file).unwrap(), login.text);
        world.assert_silent(&[&endpoint.name]);
    }
}

/// A login that has ended: the host renews it once, before the first request leaves.
fn renewed_by_the_host(cli: &Cli) {
    for world in cli.worlds() {
        let login = Login::of(cli, -60);
        let file = login.put(&world);
        let server = stand_in(&world, &json!({"turns": task()}));
        let endpoint = token_endpoint(&world, cli);
        let lines = do_the_task(&world, cli, "ended", &login, &recipe(&world, None));
        same_everywhere(&world, cli, "ended", &[], &lines);
        let asked = endpoint.seen();
        assert_eq!(asked.len(), 1, "once, for all requests");
        assert!(contains(&asked[0].body, &login.refresh), "with the host's own");
        let kept: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let (access, rest) = match cli.name {
            "claude" => (&kept["claudeAiOauth"]["accessToken"], &kept["mcpOAuth"]["kept"]),
            _ => (&kept["tokens"]["access_token"], &kept["kept"]),
        };
        assert_eq!(rest, true, "what is not ours stays");
        let wanted = format!("Bearer {}", access.as_str().unwrap());
        assert_ne!(wanted, format!("Bearer {}", login.access));
        for auth in sent(&server) {
            assert_eq!(auth["authorization"], wanted);
        }
        world.assert_silent(&[&endpoint.name]);
    }
}

#[test]
fn claude_rehearses_on_a_login_and_the_hosts_own_is_not_touched() {
    rehearsed(&CLAUDE);
}

#[test]
fn codex_rehearses_on_a_login_and_the_hosts_own_is_not_touched() {
    rehearsed(&CODEX);
}

#[test]
fn claude_works_on_the_hosts_login_and_has_placeholders() {
    on_the_login(&CLAUDE);
}

#[test]
fn codex_works_on_the_hosts_login_and_has_placeholders() {
    on_the_login(&CODEX);
}

#[test]
fn what_has_ended_is_renewed_by_the_host_before_claude_is_answered() {
    renewed_by_the_host(&CLAUDE);
}

#[test]
fn what_has_ended_is_renewed_by_the_host_before_codex_is_answered() {
    renewed_by_the_host(&CODEX);
}

/// The API refuses a token that looks good: Claude Code asks for fresh ones by itself, is answered with placeholders, and goes on with
/// what the host has renewed meanwhile.
#[test]
fn claude_asks_for_fresh_tokens_and_goes_on_with_placeholders() {
    for world in CLAUDE.worlds() {
        let login = Login::of(&CLAUDE, 3 * 3600);
        let file = login.put(&world);
        let mut turns = task();
        turns[0]["error"] = json!(401);
        let server = stand_in(&world, &json!({ "turns": turns }));
        let endpoint = token_endpoint(&world, &CLAUDE);
        let lines = do_the_task(&world, &CLAUDE, "again", &login, &recipe(&world, None));
        same_everywhere(&world, &CLAUDE, "again", &[], &lines);
        let asked = endpoint.seen();
        assert_eq!(asked.len(), 1, "{:?}", asked.iter().map(|seen| &seen.path).collect::<Vec<_>>());
        assert!(contains(&asked[0].body, &login.refresh), "the host's own was used, not the placeholder");
        assert!(fs::read_to_string(&file).unwrap().contains(FRESH));
        let sent = sent(&server);
        assert_eq!(sent.first().unwrap()["authorization"], format!("Bearer {}", login.access));
        assert_eq!(sent.last().unwrap()["authorization"], format!("Bearer {FRESH}"));
        world.assert_silent(&[&endpoint.name]);
    }
}

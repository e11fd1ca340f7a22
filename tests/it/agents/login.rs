//! Real CLIs on a subscription login of the host: the host's own token arrives upstream, the bottle has placeholders, and the host
//! alone renews.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::task::{PLACEHOLDER, contains, files_with, refused_quietly, same_everywhere, task};
use super::{CLAUDE, CODEX, Cli, PATIENCE, recipe, stand_in};
use crate::support::World;

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
fn only_placeholders(world: &World, slug: &str, login: &Login, secrets: &[String], workspace: &Path) {
    let seen = fs::read_to_string(workspace.join("seen.txt")).unwrap_or_default();
    let places = format!("\"$HOME\" /tmp /var /run /etc /opt /srv /dev/shm '{}'", workspace.display());
    // The needles come by standard input, so that the search does not find itself.
    let search = format!("grep -rlaF -f - {places} 2>/dev/null; true");
    let files = |needles: String| {
        let found = world.command(&["exec", "-i", slug, "--", "sh", "-c", &search]).stdin(needles).run().expect(0);
        found.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for secret in secrets {
        assert!(!seen.contains(secret.as_str()), "{secret} is in the environment or on a command line");
        assert_eq!(files(secret.clone()), [""; 0], "files in the bottle with {secret}");
    }
    let (own, placeholder) = match login.path {
        ".codex/auth.json" => (".codex/config.toml", bb::egress::oauth::placeholder::CODEX_ACCESS),
        path => (path, PLACEHOLDER),
    };
    let control = files(placeholder.to_owned());
    assert!(control.iter().any(|f| f.ends_with(own)), "{control:?}");
}

/// Has the agent do its task on the login, looks for the tokens meanwhile, and returns what `bb run --json` wrote.
fn do_the_task(world: &World, cli: &Cli, slug: &str, login: &Login, secrets: &[String], recipe: &str) -> Vec<Value> {
    let workspace = world.make_dir("ws");
    world.write(workspace.join("look.sh"), super::task::LOOK);
    let args = ["run", recipe, "--json", "--grant", "all", "--", "--agent", cli.name, "--output", "json"];
    let args = [&args[..], &["--label", slug, workspace.to_str().unwrap()]].concat();
    let running = world.command(&args).patience(PATIENCE).spawn();
    let waits = world.until(Duration::from_secs(60), || workspace.join("waiting").exists() || running.has_ended());
    assert!(waits && !running.has_ended(), "it never came to its second turn: {}", running.wait());
    only_placeholders(world, slug, login, secrets, &workspace);
    world.write(workspace.join("go"), "");
    let output = running.wait().expect(0);
    assert_eq!(fs::read_to_string(workspace.join("hello.txt")).unwrap(), "hello, world\n", "{output}");
    let file = world.home().join(login.path);
    for secret in secrets {
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
        let lines = do_the_task(&world, cli, "played", &login, &login.secrets, &recipe(&world, Some(&scenario)));
        same_everywhere(&world, cli, "played", &["--rehearsal"], &lines);
        assert_eq!(fs::read_to_string(&file).unwrap(), login.text);
        world.assert_silent(&[]);
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

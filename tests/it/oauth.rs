//! A subscription login of the host, from its file to the model API: refreshed once by the host, put in on the way out, kept from the
//! bottle and from everything that bb writes; and all that after its controller has died, too.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bb::egress::oauth::placeholder as is;
use serde_json::{Value, json};

use crate::support::{Output, Reply, Site, World, have_tools, tool};

/// Every real token has this in it.
const REAL: &str = "REALTOKEN";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn token(kind: &str, n: u32) -> String {
    format!("sk-ant-{kind}-{REAL}-{n}-0123456789")
}

/// The host's login, expired: whoever uses it has to refresh it.
fn expired(n: u32) -> String {
    json!({
        "claudeAiOauth": {
            "accessToken": token("oat01", n), "refreshToken": token("ort01", n), "expiresAt": (now() - 60) * 1000,
            "scopes": ["user:inference"], "subscriptionType": "max",
        },
        "kept": true,
    })
    .to_string()
}

fn put(world: &World, text: &str) -> PathBuf {
    let file = world.write(".claude/.credentials.json", text);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// The model API, which gives away what it was sent, and the token endpoint.
fn sites(world: &World) -> (Site, Site) {
    let api = world.site("api.anthropic.com", |seen| {
        let usage = json!({"input_tokens": 1, "output_tokens": 1});
        let echo = seen.header("authorization").unwrap_or_default();
        let body = json!({"id": "m", "type": "message", "model": "m", "content": [], "usage": usage, "echo": echo});
        Reply { headers: vec![("content-type", "application/json".into())], ..Reply::text(body.to_string()) }
    });
    let given = Arc::new(AtomicU32::new(1));
    let tokens = world.site("platform.claude.com", move |_| {
        let n = given.fetch_add(1, Ordering::Relaxed) + 1;
        let body = json!({
            "token_type": "Bearer", "access_token": token("oat01", n), "refresh_token": token("ort01", n),
            "expires_in": 28800,
        });
        Reply { headers: vec![("content-type", "application/json".into())], ..Reply::text(body.to_string()) }
    });
    (api, tokens)
}

fn post(world: &World, path: &str, body: &Value) -> Value {
    let socket = world.bb_home().join("run/controller.sock").display().to_string();
    let (url, body) = (format!("http://bb{path}"), body.to_string());
    world
        .program("/usr/bin/curl", &["-sS", "--unix-socket", &socket, &url, "-d", &body])
        .run()
        .expect(0)
        .json()
        .remove(0)
}

fn launch(world: &World, id: &str, file: &Path) -> Value {
    world.bb(&["ps"]).expect(0);
    let exact = json!([{"methods": ["POST"], "paths": [{"type": "exact", "value": "/v1/oauth/token"}]}]);
    let body = json!({
        "id": id, "label": id, "provider": "claude", "argv": ["/bin/sleep", "900"],
        "logins": {"sub": {"form": "claude", "file": file}},
        "routes": [
            {"host": "api.anthropic.com", "api": "anthropic", "auth": {"scheme": "Bearer", "credential": "sub"}},
            {"host": "platform.claude.com", "matches": exact, "oauth": "sub"},
        ],
    });
    post(world, "/v1/bottles", &body)
}

fn curl(world: &World, bottle: &str, url: &str, body: &Value) -> Output {
    let own = format!("authorization: Bearer {}", is::CLAUDE_ACCESS);
    let body = body.to_string();
    let args = [
        "exec",
        bottle,
        "--",
        "curl",
        "-sS",
        "-i",
        "-m",
        "60",
        url,
        "-H",
        &own,
        "-H",
        "content-type: application/json",
        "-d",
        &body,
    ];
    world.bb(&args)
}

fn ask(world: &World, bottle: &str) -> Output {
    let body = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    curl(world, bottle, "https://api.anthropic.com/v1/messages", &body)
}

/// Gets the files below a directory that have a text in them.
fn with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(with(&path, text)),
            Ok(kind) if kind.is_file() => {
                let bytes = fs::read(&path).unwrap_or_default();
                if bytes.windows(text.len()).any(|w| w == text.as_bytes()) {
                    found.push(path);
                }
            }
            _ => {}
        }
    }
    found
}

/// Gets the credentials that the model API was sent.
fn sent(api: &Site) -> Vec<String> {
    let of = |seen: crate::support::Seen| seen.header("authorization").unwrap_or_default().replace("Bearer ", "");
    api.seen().into_iter().map(of).collect()
}

#[test]
fn the_host_refreshes_its_login_once_and_the_bottle_never_has_it() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let (api, tokens) = sites(&world);
        let file = put(&world, &expired(1));
        assert_eq!(launch(&world, "sub", &file)["state"], "running");

        let answer = ask(&world, "sub");
        assert!(answer.stdout.contains("200") && answer.stdout.contains("\"usage\""), "{answer}");
        assert_eq!(sent(&api), [token("oat01", 2)]);
        assert_eq!(tokens.seen().len(), 1);
        let asked: Value = serde_json::from_slice(&tokens.seen()[0].body).unwrap();
        assert_eq!(
            (&asked["grant_type"], &asked["refresh_token"]),
            (&json!("refresh_token"), &json!(token("ort01", 1)))
        );
        let now: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(now["claudeAiOauth"]["refreshToken"], token("ort01", 2));
        assert_eq!((&now["kept"], &now["claudeAiOauth"]["subscriptionType"]), (&json!(true), &json!("max")));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);

        // The bottle's own request for a token: answered, and sent nowhere.
        let grant = |token: &str| json!({"grant_type": "refresh_token", "refresh_token": token, "client_id": "x"});
        let url = "https://platform.claude.com/v1/oauth/token";
        let granted = curl(&world, "sub", url, &grant(is::CLAUDE_REFRESH));
        assert!(granted.stdout.contains(is::CLAUDE_ACCESS) && granted.stdout.contains("200"), "{granted}");
        let login = json!({"grant_type": "authorization_code", "code": "c", "redirect_uri": "x"});
        for body in [login, grant("sk-ant-ort01-the-agents-own")] {
            let refused = curl(&world, "sub", url, &body);
            assert!(refused.stdout.contains("x-bb-deny: login_foreign"), "{refused}");
            assert!(refused.stdout.contains("invalid_grant") && refused.stdout.contains("Log in there"), "{refused}");
        }
        let plain = curl(&world, "sub", "http://platform.claude.com/v1/oauth/token", &grant(is::CLAUDE_REFRESH));
        assert!(plain.stdout.contains("x-bb-deny: port"), "{plain}");
        assert_eq!(tokens.seen().len(), 1, "nothing of it went there");

        // After a crash all of it is known again, by the path alone.
        world.kill_controller();
        put(&world, &expired(2));
        let answer = ask(&world, "sub");
        assert!(answer.stdout.contains("200") && answer.stdout.contains("\"usage\""), "{answer}");
        assert_eq!(sent(&api), [token("oat01", 2), token("oat01", 3)]);
        assert_eq!(tokens.seen().len(), 2);

        // In the bottle: what its processes have, and what lies in it. The control is found in the same way.
        let look = "echo CONTROL''TOKEN > /tmp/control; \
                    (env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n') > /tmp/said; \
                    grep -rlsaE --exclude-dir=node_modules '(REAL|CONTROL)''TOKEN' /tmp /home /etc /root /var/tmp /run; true";
        let found = world.bb(&["exec", "sub", "--", "sh", "-c", look]).expect(0).stdout;
        assert_eq!(found.trim(), "/tmp/control", "{found}");
        // On the host: ledger, log, state. The control is what the log of requests has.
        let said = with(&world.bb_home(), "api.anthropic.com");
        assert!(!said.is_empty());
        assert_eq!(with(&world.bb_home(), REAL), Vec::<PathBuf>::new());
        assert!(world.controller_log().contains("a login was refreshed"), "{}", world.controller_log());
        let told = world.bb(&["egress", "log", "sub", "--json"]).expect(0);
        let inspected = world.bb(&["inspect", "sub"]).expect(0);
        for output in [&granted, &answer, &told, &inspected] {
            assert!(!format!("{output}").contains(REAL), "{output}");
        }
        world.bb(&["kill", "sub"]).expect(0);
        world.assert_silent(&["api.anthropic.com", "platform.claude.com"]);
    }
}

#[test]
fn a_login_that_cannot_be_used_is_refused_at_launch_by_its_file() {
    if tool("curl").is_none() {
        return;
    }
    for world in World::each() {
        let file = put(&world, &expired(1));
        let refused = |name: &str, what: &str| {
            let answer = launch(&world, name, &file);
            let error = &answer["error"];
            assert_eq!(error["kind"], "credential_missing", "{answer}");
            assert!(answer.to_string().contains(".credentials.json"), "{answer}");
            assert!(error["message"].as_str().unwrap().contains(what), "{answer}");
            assert!(!answer.to_string().contains(REAL), "{answer}");
        };
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        refused("open", "others than its owner can write it");
        put(&world, "{}");
        refused("empty", "it holds no login");
        fs::remove_file(&file).unwrap();
        refused("absent", "cannot be read");

        // A link is one to what it leads to, resolved once.
        let elsewhere = world.write("elsewhere.json", expired(1));
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        assert_eq!(launch(&world, "linked", &file)["state"], "running");
        let inspected = world.bb(&["inspect", "linked"]).expect(0);
        assert!(format!("{inspected}").contains("elsewhere.json"), "{inspected}");

        // Where it may go is said by the launch: no change sends it elsewhere, or makes another token endpoint.
        let auth = json!({"scheme": "Bearer", "credential": "sub"});
        let exact = json!([{"methods": ["POST"], "paths": [{"type": "exact", "value": "/t"}]}]);
        for route in [
            json!({"host": "evil.example", "auth": auth}),
            json!({"host": "console.anthropic.com", "auth": auth}),
            json!({"host": "console.anthropic.com", "matches": exact, "oauth": "sub"}),
            json!({"host": "evil.example", "matches": exact, "oauth": "sub"}),
        ] {
            let answer = post(&world, "/v1/bottles/linked/routes", &json!({"id": "change", "routes": [route]}));
            assert_eq!(answer["error"]["kind"], "usage", "{answer}");
        }
        let own = json!({"host": "api.anthropic.com", "auth": auth});
        let open = json!({"id": "open", "routes": [{"host": "open.example"}, own]});
        assert_eq!(post(&world, "/v1/bottles/linked/routes", &open)["changed"], true, "the allowed twin");
        world.bb(&["kill", "linked"]).expect(0);
        let gone = world.until(Duration::from_secs(30), || world.keepers().is_empty());
        assert!(gone, "{:?}", world.processes());
    }
}

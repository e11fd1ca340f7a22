//! Logins of the host: what goes out has their token, what comes in has none, and whoever asks for tokens gets placeholders.
//!
//! Every real token has the same word in it, which is looked for in all that a bottle, a reader of events or a denial could see.

use std::collections::VecDeque;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;
use crate::api::{Login, LoginForm};
use crate::egress::login::Holder;
use crate::egress::oauth::placeholder as is;

mod refreshed;

const REAL: &str = "REALTOKEN";
const CLAUDE: &str = "platform.claude.com";
const CODEX: &str = "auth.openai.com";
const CHATGPT: &str = "chatgpt.com";

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn token(kind: &str, n: u32) -> String {
    format!("sk-ant-{kind}-{REAL}-{n}-0123456789")
}

fn jwt(n: u32, expires: i64) -> String {
    let claims =
        json!({"exp": expires, "n": n, "https://api.openai.com/auth": {"chatgpt_account_id": "of-the-id-token"}});
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("eyJhbGciOiJSUzI1NiJ9.{claims}.{REAL}{n}")
}

/// Claude Code's file, with keys of which nobody knows what they are for.
fn claude(n: u32, left: i64) -> String {
    json!({
        "mcpOAuth": {"x": [1, 2.5, null]},
        "claudeAiOauth": {
            "accessToken": token("oat01", n), "refreshToken": token("ort01", n), "expiresAt": (now() + left) * 1000 + 7,
            "scopes": ["user:inference", "user:profile"], "subscriptionType": "max", "rateLimitTier": "t",
        },
        "organizationUuid": "o",
    })
    .to_string()
}

fn codex(n: u32, left: i64) -> String {
    let text = json!({
        "auth_mode": "chatgpt", "OPENAI_API_KEY": null,
        "tokens": {"id_token": jwt(100 + n, now() + 999), "access_token": jwt(n, now() + left), "refresh_token": token("rt", n), "account_id": "acc-of-the-host"},
        "last_refresh": "2025-01-01T00:00:00Z",
    });
    serde_json::to_string_pretty(&text).unwrap() + "\n"
}

type Answers = Arc<Mutex<VecDeque<(u16, Value)>>>;

/// A bench whose routes work with logins of the host.
struct Desk {
    bench: Bench,
    holder: Arc<Holder>,
    file: PathBuf,
    /// What the token endpoint answers next, and the API; good answers where there are none.
    tokens: Answers,
    api: Answers,
    /// All that the bottle was ever answered.
    heard: Mutex<String>,
}

/// Puts a file in the place of another, as a CLI does that writes whole files.
fn put(file: &std::path::Path, text: &str) {
    let beside = file.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::rename(beside, file).unwrap();
}

async fn desk(form: LoginForm, text: &str) -> Desk {
    desk_at(form, text, "login.json").await
}

async fn desk_at(form: LoginForm, text: &str, name: &str) -> Desk {
    let (tokens, api) = (Answers::default(), Answers::default());
    let bench = bench(None, script(form, &tokens, &api)).await;
    Desk { tokens, api, ..desk_on(bench, form, text, name) }
}

/// What the token endpoint and the API answer, which have one address.
fn script(form: LoginForm, tokens: &Answers, api: &Answers) -> Script {
    Arc::new({
        let (tokens, api) = (Arc::clone(tokens), Arc::clone(api));
        let given = AtomicUsize::new(1);
        let first = token(if form == LoginForm::Claude { "ort01" } else { "rt" }, 1);
        move |seen: &Seen| {
            let json = |status: u16, value: Value| {
                let answer = Response::builder().status(status).header("content-type", "application/json");
                answer.body(full(value.to_string())).unwrap()
            };
            if seen.uri.ends_with("/oauth/token") {
                if let Some((status, value)) = tokens.lock().unwrap().pop_front() {
                    return json(status, value);
                }
                let n = given.fetch_add(1, Ordering::Relaxed) as u32 + 1;
                return json(
                    200,
                    match form {
                        LoginForm::Claude => json!({
                            "token_type": "Bearer", "access_token": token("oat01", n), "refresh_token": token("ort01", n),
                            "expires_in": 28800, "scope": "user:inference",
                        }),
                        LoginForm::Codex => json!({
                            "access_token": jwt(n, now() + 3600), "refresh_token": token("rt", n), "id_token": jwt(100 + n, 1),
                        }),
                    },
                );
            }
            if let Some((status, value)) = api.lock().unwrap().pop_front() {
                return json(status, value);
            }
            // It gives away what it was sent, and what it was not.
            let mut message: Value = serde_json::from_str(&message_json(3, 4)).unwrap();
            let sent = |name: &str| seen.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
            message["echo"] = json!([sent("authorization"), sent("chatgpt-account-id"), first]);
            json(200, message)
        }
    })
}

/// A desk with another server than the usual one.
fn desk_on(bench: Bench, form: LoginForm, text: &str, name: &str) -> Desk {
    let file = bench._home.0.join(name);
    put(&file, text);
    let (port, name) = (bench.address.port(), "sub".to_owned());
    let auth = Some(Auth { scheme: AuthScheme::Bearer, header: None, credential: name.clone() });
    let (model, host, path, speaks) = match form {
        LoginForm::Claude => (MODEL, CLAUDE, "/v1/oauth/token", ApiFamily::Anthropic),
        LoginForm::Codex => (CHATGPT, CODEX, "/oauth/token", ApiFamily::OpenaiResponses),
    };
    let paths = vec![PathRule { kind: PathKind::Exact, value: path.into() }];
    let matches = vec![Match { methods: vec!["POST".into()], paths, ..Match::default() }];
    let routes = vec![
        Route { host: model.into(), ports: vec![port], api: Some(speaks), auth, ..Route::default() },
        Route { host: host.into(), ports: vec![port], matches, oauth: Some(name.clone()), ..Route::default() },
    ];
    let holder = Arc::new(Holder::new(&Login { form, file: file.clone() }));
    let rules = Rules { routes, logins: [(name, Arc::clone(&holder))].into(), ..Rules::default() };
    bench.handle.set_routes(&rules).unwrap();
    let (tokens, api) = (Answers::default(), Answers::default());
    Desk { bench, holder, file, tokens, api, heard: Mutex::default() }
}

impl Desk {
    async fn send(&self, host: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> (u16, Value) {
        let mut client = self.bench.client(host, false).await;
        let mut request = self.bench.request(host, "POST", path, body, false);
        for (name, value) in headers {
            let name = http::HeaderName::try_from(*name).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let (parts, body) = client.send(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.heard.lock().unwrap().push_str(&format!("{:?} {}", parts.headers, String::from_utf8_lossy(&body)));
        (parts.status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Asks the model as an agent does that has placeholders.
    async fn ask(&self) -> (u16, Value) {
        let bearer = format!("Bearer {}", is::CLAUDE_ACCESS);
        let own = [("authorization", bearer.as_str()), ("chatgpt-account-id", is::CODEX_ACCOUNT), ("x-api-key", "own")];
        if self.is(CHATGPT) {
            let body = json!({"model": "gpt", "input": "hi"}).to_string();
            return self.send(CHATGPT, "/backend-api/codex/responses", &own, body).await;
        }
        self.send(MODEL, "/v1/messages", &own, prompt(9)).await
    }

    fn is(&self, host: &str) -> bool {
        self.bench.handle.why(&format!("https://{host}:{}/", self.bench.address.port()), "POST").kind.as_deref()
            != Some("route_missing")
    }

    /// Asks for a token.
    async fn refresh(&self, host: &str, kind: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let path = if host == CODEX { "/oauth/token" } else { "/v1/oauth/token" };
        self.send(host, path, &[("content-type", kind)], body).await
    }

    /// Gets what was asked of the real token endpoint.
    fn asked(&self) -> Vec<Value> {
        let seen = self.bench.seen().into_iter().filter(|seen| seen.uri.ends_with("/oauth/token"));
        seen.map(|seen| serde_json::from_slice(&seen.body).unwrap()).collect()
    }

    /// Gets the credentials that the API was sent.
    fn sent(&self) -> Vec<String> {
        let seen = self.bench.seen().into_iter().filter(|seen| !seen.uri.ends_with("/oauth/token"));
        seen.map(|seen| {
            assert!(!seen.headers.contains_key("x-api-key"), "{seen:?}");
            seen.headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned()
        })
        .collect()
    }

    /// Gets the events of a kind, of which there is one at least. They are queued before their request is answered, and entered after.
    async fn entered(&self, kind: &str) -> Vec<Value> {
        for _ in 0..1000 {
            let events = self.bench.events(kind).await;
            if !events.is_empty() {
                return events;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no event of kind {kind}");
    }

    /// Gets what the events say that became of the login.
    async fn told(&self) -> Vec<String> {
        self.entered("login").await.iter().map(|data| data["what"].as_str().unwrap().to_owned()).collect()
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap()
    }

    /// Asserts that nothing real was in anything that anybody could read.
    async fn is_clean(&self) {
        let heard = self.heard.lock().unwrap().clone();
        assert!(!heard.contains(REAL), "the bottle: {heard}");
        self.bench.settled().await;
        self.entered(if self.heard.lock().unwrap().contains("\"usage\"") { "usage" } else { "denied" }).await;
        let events = self.bench.ledger.events(EventQuery::default()).await.unwrap();
        assert!(!format!("{events:?}").contains(REAL), "{events:?}");
        let beside = self.file.parent().unwrap().read_dir().unwrap().flatten().map(|e| e.file_name());
        let left: Vec<_> = beside.filter(|name| name.to_string_lossy().contains(".bb-")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn a_good_token_is_put_in_and_nobody_asks_for_another() {
    let desk = desk(LoginForm::Claude, &claude(1, 3600)).await;
    let before = desk.text();
    for _ in 0..3 {
        assert_eq!(desk.ask().await.0, 200);
    }
    assert_eq!(desk.sent(), vec![token("oat01", 1); 3]);
    let body = json!({"grant_type": "refresh_token", "refresh_token": is::CLAUDE_REFRESH, "client_id": "x"});
    let (status, answer) = desk.refresh(CLAUDE, "application/json", body.to_string()).await;
    assert_eq!((status, &answer["access_token"]), (200, &json!(is::CLAUDE_ACCESS)));
    assert!((1..=3600).contains(&answer["expires_in"].as_i64().unwrap()), "{answer}");
    assert_eq!(desk.asked().len(), 0);
    assert_eq!(desk.text(), before);
    let passed = desk.entered("request").await;
    assert_eq!((&passed[0]["host"], &passed[0]["status"]), (&json!(CLAUDE), &json!(200)));
    desk.is_clean().await;
}

#[tokio::test]
async fn what_the_hosts_own_cli_has_refreshed_is_taken_and_nothing_is_asked() {
    let desk = desk(LoginForm::Claude, &claude(1, 3600)).await;
    assert_eq!(desk.ask().await.0, 200);
    put(&desk.file, &claude(7, 3600));
    assert_eq!(desk.ask().await.0, 200);
    assert_eq!(desk.sent(), [token("oat01", 1), token("oat01", 7)]);
    // A file that is being written shows a part of itself for a moment.
    let whole = claude(8, 3600);
    std::fs::write(&desk.file, &whole[..40]).unwrap();
    let writing = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        std::fs::write(&desk.file, &whole).unwrap();
    };
    let ((status, _), ()) = tokio::join!(desk.ask(), writing);
    assert_eq!((status, desk.sent().pop().unwrap()), (200, token("oat01", 8)));
    assert_eq!(desk.asked().len(), 0);
    desk.is_clean().await;
}

#[tokio::test]
async fn another_request_at_a_token_endpoint_is_refused_in_words_that_clis_know_and_goes_nowhere() {
    let claude = desk(LoginForm::Claude, &claude(1, 3600)).await;
    let codex = desk(LoginForm::Codex, &codex(1, 3600)).await;
    let ask = |token: &str| json!({"grant_type": "refresh_token", "refresh_token": token}).to_string();
    let code = json!({"grant_type": "authorization_code", "code": "c", "client_id": "x"}).to_string();
    let json = "application/json";
    let form = "application/x-www-form-urlencoded";
    for (desk, host, kind, body, want, word) in [
        (&claude, CLAUDE, json, ask("sk-ant-ort01-of-somebody-else"), (400, "login_foreign"), "invalid_grant"),
        (&claude, CLAUDE, json, code.clone(), (400, "login_foreign"), "invalid_grant"),
        (&claude, CLAUDE, json, "{\"grant".into(), (400, "protocol_unknown"), "invalid_request"),
        (
            &claude,
            CLAUDE,
            form,
            format!("grant_type=refresh_token&refresh_token={}", is::CLAUDE_REFRESH),
            (400, "protocol_unknown"),
            "invalid_request",
        ),
        (&claude, CLAUDE, json, "x".repeat(70_000), (413, "body_too_large"), "invalid_request"),
        (&codex, CODEX, form, "grant_type=refresh_token&refresh_token=other".into(), (401, "login_foreign"), ""),
        (&codex, CODEX, json, code, (401, "login_foreign"), ""),
        (&codex, CODEX, json, String::new(), (400, "protocol_unknown"), "invalid_request"),
    ] {
        let (status, answer) = desk.refresh(host, kind, body).await;
        let denied = desk.bench.events("denied").await;
        assert_eq!((status, denied.last().unwrap()["kind"].as_str().unwrap()), want, "{answer}");
        match word {
            "" => assert_eq!(answer["error"]["code"], "refresh_token_invalidated"),
            word => assert_eq!(answer["error"], word),
        }
    }
    let (status, _) = claude.send(CLAUDE, "/v1/oauth/other", &[], "{}").await;
    assert_eq!(status, 403, "no other path");
    let (status, answer) =
        codex.refresh(CODEX, form, format!("grant_type=refresh_token&refresh_token={}", is::CODEX_REFRESH)).await;
    assert_eq!((status, &answer["id_token"]), (200, &json!(is::CODEX_ID)));
    for desk in [&claude, &codex] {
        assert!(desk.bench.seen().is_empty(), "{:?}", desk.bench.seen());
        desk.is_clean().await;
    }
}

#[tokio::test]
async fn codex_has_its_account_said_by_the_host_and_its_sockets_the_token_as_it_is_now() {
    let desk = desk(LoginForm::Codex, &codex(1, 30)).await;
    assert_eq!(desk.ask().await.0, 200);
    let seen = desk.bench.seen();
    let model = seen.last().unwrap();
    assert_eq!(model.headers["chatgpt-account-id"], "acc-of-the-host");
    assert_eq!(desk.asked()[0]["client_id"], "app_EMoamEEZ73f0CkXaXp7hrann");
    let fresh = model.headers["authorization"].to_str().unwrap().to_owned();
    assert!(fresh.ends_with(&format!("{REAL}2")), "{fresh}");
    let text = desk.text();
    assert!(text.starts_with("{\n  \"auth_mode\"") && text.ends_with("}\n"), "laid out as before: {text}");
    let is: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&is["tokens"]["refresh_token"], &is["tokens"]["account_id"]),
        (&json!(token("rt", 2)), &json!("acc-of-the-host"))
    );
    assert!(is["last_refresh"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second() > now() - 600);
    assert!(is.as_object().unwrap().contains_key("OPENAI_API_KEY"));

    put(&desk.file, &codex(3, 3600));
    let mut client = desk.bench.client(CHATGPT, false).await;
    let mut request = desk.bench.request(CHATGPT, "GET", "/backend-api/codex/responses", "", false);
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("authorization", "Bearer own"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.status(), 200, "it does not upgrade, and is heard");
    let seen = desk.bench.seen();
    let handshake = seen.last().unwrap();
    assert_eq!(handshake.headers["upgrade"], "websocket");
    assert!(handshake.headers["authorization"].to_str().unwrap().ends_with(&format!("{REAL}3")));
    assert_eq!(handshake.headers["chatgpt-account-id"], "acc-of-the-host");
    desk.is_clean().await;
}

#[test]
fn a_file_that_others_could_have_written_or_that_holds_no_login_is_refused_without_being_quoted() {
    let home = Home::new();
    let file = home.0.join("l.json");
    let check = |form| crate::egress::login::check(&Login { form, file: file.clone() }).map_err(|e| e.to_string());
    put(&file, &claude(1, 3600));
    assert_eq!(check(LoginForm::Claude), Ok(()));
    for (mode, good) in [(0o600, true), (0o400, true), (0o644, true), (0o620, false), (0o602, false), (0o666, false)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(check(LoginForm::Claude).is_ok(), good, "{mode:o}");
    }
    if nix::unistd::geteuid().is_root() {
        put(&file, &claude(1, 3600));
        std::os::unix::fs::chown(&file, Some(12345), None).unwrap();
        assert!(check(LoginForm::Claude).unwrap_err().contains("another user (12345)"));
    }
    let bad = |change: &dyn Fn(&mut Value)| {
        let mut whole: Value = serde_json::from_str(&claude(1, 3600)).unwrap();
        change(&mut whole);
        whole.to_string()
    };
    for text in [
        String::new(),
        format!("{{\"{REAL}\""),
        "[]".into(),
        "{}".into(),
        bad(&|v| v["claudeAiOauth"] = json!(REAL)),
        bad(&|v| v["claudeAiOauth"]["accessToken"] = json!("")),
        bad(&|v| v["claudeAiOauth"]["accessToken"] = json!(format!("{REAL}\r\nx: y and more"))),
        bad(&|v| v["claudeAiOauth"]["refreshToken"] = json!(format!("{REAL} with a gap in it"))),
        format!("{} {}", claude(1, 1), " ".repeat(300_000)),
    ] {
        put(&file, &text);
        let error = check(LoginForm::Claude).unwrap_err();
        assert!(!error.contains(REAL), "{error}");
    }
    put(&file, &claude(1, 3600));
    assert!(check(LoginForm::Codex).unwrap_err().contains("log in with ChatGPT"));
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &file).unwrap();
    assert!(check(LoginForm::Claude).is_err(), "links are resolved once, at launch");
}

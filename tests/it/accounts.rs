//! Whose account a request is made with: the host's, whatever an agent sends. An account of its own would be a drop: what it
//! stores there it could fetch elsewhere. And what the host puts in is nowhere to be found afterwards.

use std::time::Duration;

use crate::support::{Reply, Seen, Site, World, need, tool};

/// What the host puts in, and what an agent brought along.
const HOSTS: &str = "sk-the-hosts-0a1b2c3d";
const OWN: &str = "mine-9f8e7d6c";

/// Routes of a credential each: three model APIs, a forge, one whose cookies are kept, and one of no credential.
const ROUTES: &str = "{
    { host = 'api.anthropic.com', api = 'anthropic', auth = { scheme = 'header', header = 'x-api-key', credential = 'REAL_KEY' } },
    { host = 'api.openai.com', api = 'openai_responses', auth = { scheme = 'Bearer', credential = 'REAL_KEY' } },
    { host = 'generativelanguage.googleapis.com', api = 'gemini', auth = { scheme = 'header', header = 'x-goog-api-key', credential = 'REAL_KEY' } },
    { host = 'forge.example', auth = { scheme = 'token', credential = 'REAL_KEY' } },
    { host = 'kept.example', auth = { scheme = 'Bearer', credential = 'REAL_KEY' }, keep_headers = { 'set-cookie' } },
    { host = 'open.example' },
  }";

/// Where an API takes who is asking, and what proxies would add; sent on nowhere.
const HEADERS: &[&str] = &[
    "authorization: Bearer OWN",
    "Authorization: Basic OWN",
    "x-api-key: OWN",
    "X-Api-Key: OWN",
    "api-key: OWN",
    "x-goog-api-key: OWN",
    "x-auth-token: OWN",
    "private-token: OWN",
    "job-token: OWN",
    "deploy-token: OWN",
    "cookie: sessionKey=OWN",
    "openai-organization: OWN",
    "openai-project: OWN",
    "proxy-authorization: Basic OWN",
    "proxy-connection: OWN",
    "keep-alive: OWN",
    "te: OWN",
    "forwarded: for=OWN",
    "x-forwarded-for: OWN",
    "x-forwarded-host: OWN",
    "x-real-ip: OWN",
    "via: 1.1 OWN",
];

/// What is for the next hop only, where a message can say so.
const HOP: &[&str] = &["connection: x-hop", "x-hop: OWN"];

/// What says whose account it is at one API or another; sent to no model API.
const AT_MODELS: &[&str] = &[
    "chatgpt-account-id: OWN",
    "x-goog-user-project: OWN",
    "x-goog-iam-authorization-token: OWN",
    "x-amz-security-token: OWN",
    "helicone-auth: OWN",
    "sec-websocket-protocol: openai-insecure-api-key.OWN",
];

/// Query keys by which a request says who it is from; one is spelled so that it looks otherwise.
const QUERY: &str = "key=OWN&api_key=OWN&access_token=OWN&private_token=OWN&%6bey=OWN";

/// What is asked: address, header in which the host's credential arrives, what it then says, body.
const ASKED: &[(&str, &str, &str, &str)] = &[
    (
        "https://api.anthropic.com/v1/messages?beta=true&QUERY",
        "x-api-key",
        HOSTS,
        r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#,
    ),
    ("https://api.anthropic.com/v1/models?QUERY", "x-api-key", HOSTS, ""),
    ("https://api.openai.com/v1/responses?QUERY", "authorization", "Bearer KEY", r#"{"model":"m","input":"hi"}"#),
    (
        "https://generativelanguage.googleapis.com/v1beta/models/m:generateContent?QUERY",
        "x-goog-api-key",
        HOSTS,
        r#"{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}"#,
    ),
    ("https://forge.example/api/v1/repos?page=1&QUERY", "authorization", "token KEY", ""),
    ("https://kept.example/x?QUERY", "authorization", "Bearer KEY", ""),
    ("https://open.example/x?page=1&QUERY", "", "", ""),
];

/// The script of the bottle: everything is asked over HTTP/1.1 and HTTP/2.
fn script() -> String {
    let quoted = |headers: &[&str]| -> String { headers.iter().map(|h| format!(" -H '{h}'")).collect() };
    let mut script = String::new();
    for (url, _, _, body) in ASKED {
        let model = url.contains("/v1");
        let mut headers = quoted(HEADERS);
        if model && !url.contains("forge.") {
            headers += &quoted(AT_MODELS);
            headers += " -H 'anthropic-version: 2023-06-01' -H 'anthropic-beta: oauth-2025-04-20'";
        }
        let data =
            if body.is_empty() { String::new() } else { format!(" -H 'content-type: application/json' -d '{body}'") };
        for (version, hop) in [("--http1.1", HOP), ("--http2", &[])] {
            let headers = format!("{headers}{}", quoted(hop));
            script += &format!(
                "curl -sS -i -m 60 {version}{headers}{data} '{}' 2>&1; echo; echo END\n",
                url.replace("QUERY", QUERY)
            );
        }
    }
    script.replace("OWN", OWN)
}

/// Answers as a server that gives away what it was sent, and speaks of the account.
fn telling(seen: &Seen) -> Reply {
    let usage =
        r#""usage":{"input_tokens":1,"output_tokens":1},"usageMetadata":{"promptTokenCount":1,"totalTokenCount":1}"#;
    let echo = format!("{:?}", seen.headers).replace(['"', '\\'], "'");
    let told = |name: &str| seen.header(name).unwrap_or_default().to_owned();
    let body = format!("{{\"id\":\"x\",\"model\":\"m\",{usage},\"echo\":\"{echo}\"}}");
    Reply {
        status: 200,
        headers: vec![
            ("content-type", "application/json".into()),
            ("x-echo", format!("{} {} {}", told("authorization"), told("x-api-key"), told("x-goog-api-key"))),
            ("alt-svc", "h3=\":443\"; ma=86400".into()),
            ("set-cookie", "account=the-hosts".into()),
            ("www-authenticate", "Bearer realm=the-hosts".into()),
            ("authentication-info", "nextnonce=the-hosts".into()),
            ("proxy-authenticate", "Basic realm=the-hosts".into()),
            ("keep-alive", "timeout=5".into()),
        ],
        body: body.into(),
    }
}

/// Asserts that what a site saw is the host's, and only its.
#[track_caller]
fn assert_is_the_hosts(site: &Site, (url, header, value, _): &(&str, &str, &str, &str)) {
    let path = url.split(".example").last().and_then(|u| u.split(".com").last()).unwrap().split('?').next().unwrap();
    let seen: Vec<_> = site.seen().into_iter().filter(|s| s.path.split('?').next() == Some(path)).collect();
    assert_eq!(seen.len(), 2, "{url}: {seen:?}");
    for seen in seen {
        assert!(!format!("{seen:?}").contains(OWN), "{url}: {seen:?}");
        let hosts: Vec<_> = seen.headers.iter().filter(|(_, v)| v.contains(HOSTS)).collect();
        if header.is_empty() {
            assert!(hosts.is_empty(), "{seen:?}");
            continue;
        }
        assert_eq!(hosts, [&((*header).to_owned(), value.replace("KEY", HOSTS))], "{url}");
        assert!(!seen.path.contains(HOSTS) && !seen.body.windows(HOSTS.len()).any(|w| w == HOSTS.as_bytes()));
    }
}

#[test]
fn whatever_an_agent_sends_upstream_sees_the_hosts_account_and_nothing_shows_its_key() {
    if tool("curl").is_none() {
        return need("curl");
    }
    for world in World::each() {
        let hosts: Vec<_> = ASKED.iter().map(|(url, ..)| url.split('/').nth(2).unwrap()).collect();
        let mut sites: Vec<(&str, Site)> = vec![];
        for host in hosts {
            if !sites.iter().any(|(known, _)| *known == host) {
                sites.push((host, world.site(host, telling)));
            }
        }
        let dir = world.make_dir("project");
        world.write(dir.join("ask.sh"), script());
        let recipe = world.recipe(
            "accounts.lua",
            &format!(
                "--- @bb needs launch, write:args, egress:*, credential:REAL_KEY\n\
                 local b = bb.launch {{ command = {{ 'bash', '-c', 'bash ask.sh >said' }}, workspace = bb.args[1], \
                 budget = 'unlimited', routes = {ROUTES} }}\n\
                 b:wait {{ check = false }}\n\
                 for f in b:logs() do if f.type == 'output' then print(f.text) end end\n"
            ),
        );
        let args = ["run", "--json", "--grant", "all", &recipe, "--", &dir.display().to_string()];
        let command = world.command(&args).env("REAL_KEY", HOSTS).env("BB_LOG", "debug");
        let output = command.patience(Duration::from_secs(120)).run().expect(0);

        for asked in ASKED {
            let (_, site) = sites.iter().find(|(host, _)| asked.0.contains(host)).unwrap();
            assert_is_the_hosts(site, asked);
        }
        // What it is answered says nothing of the host's account either.
        let said = std::fs::read_to_string(dir.join("said")).unwrap();
        let answers: Vec<_> = said.split("END\n").filter(|a| !a.trim().is_empty()).collect();
        assert_eq!(answers.len(), 2 * ASKED.len(), "{said}");
        for (at, answer) in answers.iter().enumerate() {
            let (url, header, ..) = ASKED[at / 2];
            let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
            assert!(head.starts_with("http/") && head.contains(" 200"), "{url}: {answer}");
            for gone in ["alt-svc", "proxy-authenticate", "keep-alive:"] {
                assert!(!head.contains(gone), "{url}: {gone} in {head}");
            }
            let credential = !header.is_empty();
            for (name, there) in [
                ("set-cookie", !credential || url.contains("kept.")),
                ("www-authenticate", !credential),
                ("authentication-info", !credential),
            ] {
                assert_eq!(head.contains(name), there, "{url}: {name} in {head}");
            }
            if credential {
                assert!(head.contains("x-echo: [redacted by bb]"), "{url}: {head}");
                assert!(answer.contains(&"*".repeat(HOSTS.len())), "{url}: {answer}");
            }
        }
        // Nor does anything that is kept or shown.
        world.bb(&["controller", "stop"]).expect(0);
        let (home, bb_home) = (world.home().display().to_string(), world.bb_home().display().to_string());
        let found = world.program("/bin/grep", &["-rlF", "-e", HOSTS, &home, &bb_home]).run();
        assert_eq!((found.code, found.stdout.as_str()), (1, ""), "{found}");
        assert!(!said.contains(HOSTS) && !output.to_string().contains(HOSTS), "{output}");
        assert!(world.controller_log().contains("controller up"), "there is a log to look into");
        let known: Vec<_> = sites.iter().map(|(host, _)| *host).collect();
        world.assert_silent(&known);
    }
}

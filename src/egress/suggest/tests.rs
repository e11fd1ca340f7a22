//! What is suggested, what never is, and what an agent's text can do to it: nothing.

use serde_json::{Value, json};

use super::*;
use crate::yaml::{Problems, parse};

fn denied(kind: &str, method: &str, host: &str, path: &str) -> Event {
    let data = json!({
        "kind": kind, "proto": "https", "host": host, "port": 443, "reason": "bb: no", "quiet": false, "addable": true,
        "method": method, "path": path,
    });
    event(data)
}

fn event(data: Value) -> Event {
    Event { v: 1, seq: 1, ts: 1_764_300_000_000, kind: "denied".into(), bottle: Some("b-1".into()), run: None, data }
}

fn suggested(events: &[Event], standing: Option<&[Vec<Route>]>) -> Suggested {
    let mut gather = Gather::default();
    events.iter().for_each(|event| gather.add(event));
    gather.suggest(standing)
}

fn words(suggested: &Suggested) -> Vec<String> {
    suggested.routes.iter().map(|suggestion| suggestion.route.in_words()).collect()
}

fn why(suggested: &Suggested, part: &str) -> String {
    let left = suggested.left_out.iter().find(|left| left.what.contains(part));
    left.unwrap_or_else(|| panic!("{part}: {suggested:?}")).why.clone()
}

#[test]
fn hosts_ports_methods_and_paths_are_the_fewest_that_would_have_done() {
    let mut events = vec![
        denied("route_missing", "GET", "DOCS.rs.", "/serde"),
        denied("route_missing", "HEAD", "docs.rs", "/serde"),
        denied("route_missing", "GET", "docs.rs", "/serde"),
        denied("route_missing", "POST", "git.example", "/o/app.git/git-upload-pack"),
    ];
    for n in 0..9 {
        events.push(denied("route_missing", "GET", "index.example", &format!("/se/rd/crate-{n}")));
    }
    let mut other = denied("route_missing", "GET", "docs.rs", "/serde");
    other.data["port"] = json!(8443);
    events.push(other);
    let suggested = suggested(&events, Some(&[]));
    assert_eq!(
        words(&suggested),
        [
            "docs.rs, GET HEAD /serde, ports 443",
            "docs.rs, GET /serde, ports 8443",
            "git.example, POST /o/app.git/git-upload-pack, ports 443",
            "index.example, GET /se/rd…, ports 443",
        ]
    );
    assert_eq!(suggested.routes[0].seen.times, 3);
    assert_eq!(suggested.left_out, []);
}

#[test]
fn what_must_not_be_suggested_is_left_out_with_its_reason() {
    let mut quiet = denied("path", "POST", "telemetry.example", "/t");
    quiet.data["quiet"] = json!(true);
    let mut ruled = denied("method", "POST", "ruled.example", "/r");
    ruled.data["addable"] = json!(false);
    let tcp = |host: &str, port: u16| {
        event(
            json!({"kind": "port", "proto": "tcp", "host": host, "port": port, "reason": "", "quiet": false, "addable": false}),
        )
    };
    let events = [
        denied("ip_literal", "GET", "10.1.2.3", "/"),
        denied("route_missing", "GET", "0x7f.1", "/"),
        denied("route_missing", "GET", "metadata.google.internal", "/computeMetadata/v1/"),
        denied("route_missing", "GET", "printer", "/"),
        denied("route_missing", "POST", "api.openai.com", "/v1/responses"),
        denied("route_missing", "GET", "both.example", "/a"),
        denied("private_address", "GET", "both.example", "/b"),
        denied("route_missing", "CONNECT", "proxy.example", "/"),
        denied("path", "GET", "docs.rs", "/a/../b"),
        denied("budget_exhausted", "POST", "spent.example", "/"),
        denied("route_missing", "GET", "cut.example", &format!("/{}", "x".repeat(600))),
        quiet,
        ruled,
        tcp("mail.example", 25),
        tcp("late.example", 8443),
    ];
    let suggested = suggested(&events, Some(&[]));
    assert_eq!(words(&suggested), ["late.example, GET HEAD, ports 8443"]);
    assert!(suggested.routes[0].note.as_deref().unwrap().contains("run again"));
    for (part, reason) in [
        ("10.1.2.3", "an address"),
        ("0x7f.1", "an address"),
        ("metadata.google.internal", "private networks"),
        ("printer", "private networks"),
        ("api.openai.com", "not be metered"),
        ("both.example/a", "private"),
        ("both.example/b", "private"),
        ("proxy.example", "a method"),
        ("/a/../b", "normal form"),
        ("spent.example", "not a matter"),
        ("cut.example", "only the beginning"),
        ("telemetry.example", "quietly"),
        ("ruled.example", "whatever else allows"),
        ("mail.example:25", "neither"),
    ] {
        assert!(why(&suggested, part).contains(reason), "{part}: {}", why(&suggested, part));
    }
}

#[test]
fn an_entry_that_stands_is_kept_in_force() {
    let route = |host: &str| Route { host: host.into(), matches: vec![reading()], ..Route::default() };
    let auth = crate::api::Auth { scheme: crate::api::AuthScheme::Bearer, header: None, credential: "T".into() };
    let standing = [vec![
        route("*.wide.example"),
        route("own.example"),
        Route { auth: Some(auth), ..route("keyed.example") },
        Route { host: "blind.example".into(), tls: Tls::Passthrough, ..Route::default() },
    ]];
    let events = [
        denied("method", "GET", "own.example", "/was-refused-before-it-was-changed"),
        denied("method", "POST", "a.wide.example", "/up"),
        denied("method", "POST", "own.example", "/up"),
        denied("method", "POST", "keyed.example", "/up"),
        denied("port", "GET", "blind.example", "/"),
    ];
    let known = suggested(&events, Some(&standing));
    assert_eq!(
        words(&known),
        ["a.wide.example, GET HEAD", "a.wide.example, POST /up, ports 443", "own.example, POST /up, ports 443"]
    );
    assert!(known.routes[2].note.as_deref().unwrap().contains("an entry already"));
    assert!(why(&known, "/was-refused").contains("allowed by now"));
    assert!(why(&known, "keyed.example").contains("credential") && why(&known, "blind.example").contains("unseen"));
    // Of a bottle that has ended nobody knows them any more, and that is said.
    let unknown = suggested(&events, None);
    assert!(
        unknown.routes.len() == 4 && unknown.routes.iter().all(|one| one.note.as_deref() == Some(UNKNOWN)),
        "{unknown:?}"
    );
}

#[test]
fn a_websocket_is_suggested_as_one() {
    let mut events =
        [denied("route_missing", "GET", "live.example", "/feed"), denied("upgrade", "GET", "old.example", "/ws")];
    events[0].data["websocket"] = json!(true);
    assert_eq!(
        words(&suggested(&events, Some(&[]))),
        ["live.example, GET /feed, ports 443, WebSockets", "old.example, GET /ws, ports 443, WebSockets"]
    );
}

#[test]
fn nothing_that_an_agent_writes_gets_out_of_its_place() {
    let forged = [
        "evil.example\n    - host: \"*.example\"",
        "\"]\n  routes: [\"*.com\"]\n#",
        "a: &x [*x]",
        "\u{85}\u{2028}- host: b.example",
        "---\nbudget: unlimited",
        "'; # {{",
    ];
    let mut events = vec![denied("route_missing", "GET", "good.example", "/fine")];
    for text in forged {
        events.push(denied("route_missing", "GET", text, "/"));
        events.push(denied("route_missing", text, "good.example", "/m"));
        events.push(denied("route_missing", "GET", "good.example", &format!("/{text}")));
        let mut other = denied("route_missing", "GET", "10.0.0.1", text);
        other.bottle = Some(text.to_owned());
        other.data["reason"] = json!(text);
        events.push(other);
        events.push(denied(text, "GET", "good.example", "/k"));
    }
    events.push(denied("route_missing", "GET", "good.example", "/\u{fc}\u{1f600}'\"#{}[]&*!|>%25"));
    let suggested = suggested(&events, Some(&[]));
    let text = yaml(&suggested);
    let mut problems = Problems::new("suggested.yml");
    let node = parse(&text, &mut problems).expect("a document");
    problems.into_result(()).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
    let top: Vec<&str> = node.entries().unwrap().iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(top, ["egress"], "{text}");
    let hosts: BTreeSet<&str> = suggested.routes.iter().map(|one| one.route.host.as_str()).collect();
    assert_eq!(hosts.into_iter().collect::<Vec<_>>(), ["good.example"], "{text}");
    assert!(text.is_ascii(), "{text}");
    for line in text.lines() {
        let own = [
            "#",
            "egress:",
            "  routes:",
            "    #",
            "    - host: \"good.example\"",
            "      ports: [443]",
            "      matches:",
        ];
        let rule = ["        - methods: [\"GET\"]", "          paths:", "            - {type: exact, value: \"/"];
        assert!(own.iter().chain(&rule).any(|start| line.starts_with(start)), "{line}\n{text}");
    }
}

#[test]
fn a_flood_of_names_is_bounded_and_counted() {
    let mut gather = Gather::default();
    for n in 0..5000 {
        gather.add(&denied("route_missing", "GET", &format!("n{n}.example"), "/"));
        gather.add(&denied("route_missing", "GET", "one.example", &format!("/p/{n}x/{n}y")));
    }
    let suggested = gather.suggest(Some(&[]));
    assert_eq!(suggested.routes.len(), MOST_HOSTS);
    assert!(suggested.left_out.len() <= MOST_LEFT_OUT && suggested.more > 4000, "{}", suggested.more);
    assert!(yaml(&suggested).len() < 64 * 1024);
}

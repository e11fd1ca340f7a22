//! A route that cannot be meant is refused where it is loaded, with its file, its line and what is nearest to it; a credential
//! that is not there is said at launch, by name. Neither starts anything.

use crate::start::{set_up, start};
use crate::support::{Reply, World};

/// One wrong route, in line 4 of its manifest; what is said of it, and what can be done.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "{host: a.example, matches: [{paths: [{type: regex, value: \"/(x\"}]}]}",
        "is not a regular expression",
        "correct it",
    ),
    (
        "{host: a.example, matches: [{headers: [{name: x-a, type: regex, value: \"[\"}]}]}",
        "is not a regular expression",
        "correct it",
    ),
    (
        "{host: a.example, tls: passthrough, auth: {scheme: Bearer, token_ref: T}}",
        "`auth` cannot hold there",
        "remove the key, or `tls: passthrough`",
    ),
    ("{host: a.example, tls: passthrough, max_request: 1M}", "`max_request` cannot hold there", "remove the key"),
    ("{host: api.openai.com, tls: passthrough}", "a model API is metered", "remove `tls: passthrough`"),
    ("{host: a.example, tls: passthru}", "`passthru` is not a value of `tls`", "passthrough"),
    ("{host: a.example, ports: [0]}", "a port must be a number from 1 to 65535", "ports: [443]"),
    ("{host: a.example, ports: [65536]}", "a port must be a number from 1 to 65535", "ports: [443]"),
    ("{host: a.example, mathces: []}", "unknown key `mathces`", "did you mean `matches`?"),
    ("{host: a.example, matches: [{methods: [GET], path: []}]}", "unknown key `path`", "did you mean `paths`?"),
    (
        "{host: a.example, matches: [{methods: [GET], paths: [{typ: exact, type: exact, value: /}]}]}",
        "unknown key `typ`",
        "did you mean `type`?",
    ),
    ("{host: a.example, auth: {shceme: Bearer, token_ref: T}}", "unknown key `shceme`", "did you mean `scheme`?"),
    ("{host: a.example, api: anthropi}", "`anthropi` is not a value of `api`", "anthropic"),
    ("{host: \"*.example\"}", "a wildcard needs a suffix of two labels or more", ""),
    ("{host: \"a.example:443\"}", "is not a host name", "ports"),
    ("{host: 127.0.0.1}", "routes are for names", "upstreams"),
    ("{host: a.example, matches: [{methods: [get]}]}", "is not an upper-case word", "upper case"),
    ("{host: a.example, matches: [{paths: [{type: prefix, value: /a/../b}]}]}", "is not in normal form", "normal form"),
    ("{host: a.example, allow_private: [10.0.0.0/99]}", "not a range of addresses", "10.1.0.0/16"),
    ("{host: a.example, matches: [{methods: [GET]}], deny: [{methods: [GET]}]}", "contradicts", "remove one of them"),
];

/// Two routes of one host of which one could never hold; the second is in line 5.
const TOGETHER: &[(&str, &str)] = &[
    ("{host: a.example}", "{host: a.example, auth: {scheme: Bearer, token_ref: T}}"),
    ("{host: a.example}", "{host: A.Example., tls: passthrough}"),
    ("{host: a.example, api: anthropic}", "{host: a.example, api: gemini}"),
    (
        "{host: a.example, auth: {scheme: token, token_ref: T}}",
        "{host: a.example, auth: {scheme: token, token_ref: U}}",
    ),
];

fn bottle(world: &World, routes: &[&str]) -> String {
    let routes: String = routes.iter().map(|route| format!("    - {route}\n")).collect();
    let path = world.bb_home().join("bottles/dev.md");
    world
        .write(path, format!("---\negress:\n  routes:\n{routes}agent_provider: {{template: shell}}\n---\n"))
        .display()
        .to_string()
}

#[test]
fn each_wrong_route_is_refused_where_it_is_loaded_with_its_line_and_what_is_nearest() {
    for world in World::each() {
        set_up(&world, "");
        let launch = || {
            let args = ["start", "tester", "--headless", "--prompt", "x", "--budget", "unlimited"];
            world.command(&args).env("T", "x").env("U", "y").cwd(world.home().join("project")).run()
        };
        for (route, said, hint) in WRONG {
            let file = bottle(&world, &[route]);
            let check = world.bb(&["manifest", "check", &file]);
            let line = check.stdout.lines().next().unwrap_or_default();
            assert!(check.code == 2 && line.starts_with(&format!("{file}:4: ")), "{route}: {check}");
            assert!(line.contains(said) && line.contains(hint), "{route}: {check}");
            assert_eq!(check.stdout.lines().count(), 1, "one fault: {check}");
        }
        for (first, second) in TOGETHER {
            let file = bottle(&world, &[first, second]);
            let check = world.bb(&["manifest", "check", &file]).expect(2);
            let line = check.stdout.lines().next().unwrap_or_default();
            assert!(line.starts_with(&format!("{file}:5: ")) && line.contains("contradicts another one"), "{check}");
            assert!(line.contains("dev.md:4"), "it names the other one: {check}");
        }
        // A start says the same of the last one, and begins nothing.
        let refused = launch();
        refused.fails(2, "usage", "dev.md:5", "make one of it and the one at");
        bottle(&world, &["{host: a.example, mathces: []}"]);
        launch().fails(2, "unknown_key", "dev.md:4", "did you mean `matches`?");
        assert!(world.controller_pid().is_none(), "nothing was started");
        // The allowed twin.
        let file = bottle(&world, &["{host: a.example, matches: [{paths: [{type: regex, value: \"/x.*\"}]}]}"]);
        world.bb(&["manifest", "check", &file]).expect(0);
    }
}

#[test]
fn a_credential_that_the_host_lacks_is_said_at_launch_by_its_name() {
    for world in World::each() {
        let site = world.site("a.example", |_| Reply::text("there"));
        let recipe = world.recipe(
            "launch.lua",
            "--- @bb needs launch, egress:a.example, credential:ABSENT_TOKEN\n\
             bb.launch { command = { 'sh', '-c', 'curl -sS -m 30 https://a.example/' }, \
             routes = { { host = 'a.example', auth = { scheme = 'Bearer', credential = 'ABSENT_TOKEN' } } } }:wait()\n",
        );
        let args = ["run", "--grant", "all", &recipe];
        world.bb(&args).fails(5, "credential_missing", "ABSENT_TOKEN", "ABSENT_TOKEN");
        set_up(&world, "");
        bottle(&world, &["{host: a.example, auth: {scheme: Bearer, token_ref: ABSENT_TOKEN}}"]);
        start(&world, &["tester", "--headless", "--prompt", "true"]).fails(
            5,
            "credential_missing",
            "dev.md:4",
            "set ABSENT_TOKEN",
        );
        assert!(
            world.bb(&["ps", "--all", "--json"]).json().is_empty() && site.seen().is_empty(),
            "nothing was started"
        );
        world.command(&args).env("ABSENT_TOKEN", "now-it-is-there").run().expect(0);
        assert_eq!(site.seen()[0].header("authorization"), Some("Bearer now-it-is-there"));
    }
}

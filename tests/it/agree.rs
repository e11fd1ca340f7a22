//! What `bb why` says and what the plane does are one: each request of a list is asked about and then really sent, from inside a
//! bottle, over routes of every kind.
//!
//! The list also says what has to come of each, so that the two are not wrong together.

use std::time::Duration;

use bb::rehearse::Scenario;
use serde_json::{Value, json};

use crate::support::{Reply, Seen, World, have_tools};

/// Routes of every kind.
const ROUTES: &str = "{
    'exact.example',
    '*.below.example',
    { host = 'narrow.below.example', matches = { { methods = { 'GET' } } } },
    { host = 'ports.example', ports = { 8443 } },
    { host = 'paths.example', matches = {
        { paths = { { type = 'exact', value = '/exact' } } },
        { paths = { { type = 'prefix', value = '/pre' } }, methods = { 'GET', 'POST' } },
        { paths = { { type = 'regex', value = '/re/[0-9]+' } } } },
      deny = { { paths = { { type = 'prefix', value = '/pre/no' } } } } },
    { host = 'headers.example',
      matches = { { headers = { { name = 'x-team', type = 'exact', value = 'blue' } } },
                  { headers = { { name = 'x-build', type = 'regex', value = '[0-9]+' } } } },
      deny = { { headers = { { name = 'x-team', type = 'exact', value = 'red' } } } } },
    { host = '*.strict.example', deny = { { methods = { 'DELETE' } } } },
    'one.strict.example',
    { host = 'pinned.example', tls = 'passthrough' },
    { host = 'private.example', allow_private = { '10.1.0.0/16' } },
    'inner.example',
    { host = 'small.example', max_request = 10 },
    { host = 'key.example', auth = { scheme = 'Bearer', credential = 'KEY' } },
    { host = 'api.anthropic.com', api = 'anthropic', quiet = { '/api/quiet' },
      auth = { scheme = 'header', header = 'x-api-key', credential = 'KEY' } },
    'api.openai.com',
}";

/// A request, and the kind of its refusal; none where it is allowed.
type Case = (&'static str, &'static str, &'static [&'static str], Option<&'static str>);

const CASES: &[Case] = &[
    // Names, however they are spelled.
    ("https://exact.example/a", "GET", &[], None),
    ("https://EXACT.Example/upper", "GET", &[], None),
    ("https://exact.example./dot", "GET", &[], None),
    ("https://exact.example:443/port", "GET", &[], None),
    ("http://exact.example:80/plain", "PURGE", &[], None),
    ("https://exact.example", "HEAD", &[], None),
    ("https://exact.example?query", "PUT", &[], None),
    ("https://other.example/", "GET", &[], Some("route_missing")),
    ("https://sub.exact.example/", "GET", &[], Some("route_missing")),
    ("http://exact.example.other.example/", "GET", &[], Some("route_missing")),
    ("https://xn--bcher-kva.example/", "GET", &[], Some("route_missing")),
    ("http://exact..example/", "GET", &[], Some("name_mismatch")),
    ("http://exact%2eexample/", "GET", &[], Some("name_mismatch")),
    ("http://user@exact.example/", "GET", &[], Some("name_mismatch")),
    ("https://exact.example@other.example/", "GET", &[], Some("name_mismatch")),
    ("http://exact.example:0/", "GET", &[], Some("name_mismatch")),
    ("http://exact.example:65616/", "GET", &[], Some("name_mismatch")),
    ("https://exact.example/", "GET", &["Host: other.example"], Some("name_mismatch")),
    ("https://exact.example/", "GET", &["Host: exact.example", "Host: exact.example"], Some("name_mismatch")),
    ("https://exact.example/same", "GET", &["Host: Exact.example.:443"], None),
    // Addresses.
    ("https://93.184.216.34/", "GET", &[], Some("ip_literal")),
    ("http://93.184.216.34/", "GET", &[], Some("ip_literal")),
    ("http://1572395042/", "GET", &[], Some("ip_literal")),
    ("http://0x5d.184.0330.34/", "GET", &[], Some("ip_literal")),
    ("https://[2606:2800:220::1]/", "GET", &[], Some("ip_literal")),
    // Suffixes: never their apex; the most specific host decides.
    ("https://a.below.example/a", "DELETE", &[], None),
    ("https://a.b.below.example/b", "GET", &[], None),
    ("https://below.example/", "GET", &[], Some("route_missing")),
    ("https://narrow.below.example/n", "GET", &[], None),
    ("https://narrow.below.example/n", "POST", &[], Some("method")),
    // Ports: of another route, of none, of plain HTTP.
    ("https://ports.example:8443/p", "GET", &[], None),
    ("https://ports.example/", "GET", &[], Some("port")),
    ("https://exact.example:8443/", "GET", &[], Some("port")),
    ("https://exact.example:9999/", "GET", &[], Some("port")),
    ("http://pinned.example/", "GET", &[], Some("port")),
    ("http://key.example/", "GET", &[], Some("port")),
    ("http://api.anthropic.com/v1/messages", "POST", &[], Some("port")),
    // Paths.
    ("https://paths.example/exact", "GET", &[], None),
    ("https://paths.example/exact?q=1#part", "PATCH", &[], None),
    ("https://paths.example/exact/", "GET", &[], Some("path")),
    ("https://paths.example/Exact", "GET", &[], Some("path")),
    ("https://paths.example/pre", "GET", &[], None),
    ("https://paths.example/pre/%61%2D/x", "GET", &[], None),
    ("https://paths.example/pre/x;v=1", "POST", &[], None),
    ("https://paths.example/pre/a%20b%c3%bc", "GET", &[], None),
    ("https://paths.example/prefix", "GET", &[], Some("path")),
    ("https://paths.example/pre/x", "PUT", &[], Some("method")),
    ("https://paths.example/re/12", "GET", &[], None),
    ("https://paths.example/re/12x", "GET", &[], Some("path")),
    ("https://paths.example/x/re/12", "GET", &[], Some("path")),
    ("https://paths.example/pre/../x", "GET", &[], Some("path")),
    ("https://paths.example/pre/%2e%2e/x", "GET", &[], Some("path")),
    ("https://paths.example/pre/..;/x", "GET", &[], Some("path")),
    ("https://paths.example/pre/%252e%252e/x", "GET", &[], Some("path")),
    ("https://paths.example/pre/a%2fb", "GET", &[], Some("path")),
    ("https://paths.example/pre//x", "GET", &[], Some("path")),
    ("https://paths.example/pre/%zz", "GET", &[], Some("path")),
    ("https://paths.example/pre/a b", "GET", &[], Some("protocol_unknown")),
    // Refusals beat what allows, in every spelling.
    ("https://paths.example/pre/no", "GET", &[], Some("path")),
    ("https://paths.example/pre/no/more", "POST", &[], Some("path")),
    ("https://paths.example/pre/%6eo", "GET", &[], Some("path")),
    ("https://paths.example/pre/no;x=1", "GET", &[], Some("path")),
    ("https://paths.example/pre/nothing", "GET", &[], None),
    ("https://one.strict.example/d", "GET", &[], None),
    ("https://one.strict.example/d", "DELETE", &[], Some("method")),
    ("https://two.strict.example/d", "PUT", &[], None),
    // Methods.
    ("https://exact.example/", "TRACE", &[], Some("method")),
    ("https://exact.example/", "NONE", &[], Some("method")),
    ("https://exact.example/lower", "get", &[], None),
    ("https://narrow.below.example/n", "get", &[], Some("method")),
    ("https://narrow.below.example/over", "GET", &["X-HTTP-Method-Override: DELETE"], None),
    ("https://exact.example/", "G/T", &[], Some("protocol_unknown")),
    // Headers.
    ("https://headers.example/blue", "GET", &["X-Team: blue"], None),
    ("https://headers.example/build", "GET", &["x-build: 17", "Accept: */*"], None),
    ("https://headers.example/", "GET", &[], Some("path")),
    ("https://headers.example/", "GET", &["X-Team: Blue"], Some("path")),
    ("https://headers.example/", "GET", &["X-Team: blue", "X-Team: blue"], Some("path")),
    ("https://headers.example/", "GET", &["x-build: 17x"], Some("path")),
    ("https://headers.example/", "GET", &["x-build: 17", "X-Team: red"], Some("path")),
    ("https://headers.example/", "GET", &["X-Team: blue", "Connection: X-Team"], Some("path")),
    ("https://exact.example/", "GET", &["Upgrade: h3"], Some("upgrade")),
    // Passed through: nothing but the name is looked at.
    ("https://pinned.example/any%2Fthing", "DELETE", &["Host: other.example"], None),
    ("https://other.pinned.example/", "GET", &[], Some("route_missing")),
    // Addresses that a route opens.
    ("https://private.example/in", "GET", &[], None),
    // Bounds of bodies.
    ("https://small.example/ten", "PUT", &["Content-Length: 10"], None),
    ("https://small.example/", "PUT", &["Content-Length: 11"], Some("body_too_large")),
    // Credentials.
    ("https://key.example/with", "GET", &["Authorization: Bearer mine"], None),
    // Model APIs.
    ("https://api.anthropic.com/v1/messages", "POST", &[], None),
    ("https://api.anthropic.com/v1/messages?beta=true", "POST", &["Content-Encoding: br"], Some("protocol_unknown")),
    ("https://api.anthropic.com/v1/messages/batches", "POST", &[], Some("metered_path_unknown")),
    ("https://api.anthropic.com/v1/files", "GET", &[], Some("metered_path_unknown")),
    ("https://api.anthropic.com/v1//messages", "POST", &[], Some("path")),
    ("https://api.anthropic.com/api/quiet/x", "POST", &[], Some("path")),
    ("https://api.openai.com/v1/responses", "POST", &[], Some("metered_path_unknown")),
    // WebSockets.
    ("wss://exact.example/socket", "GET", &[], None),
    ("wss://narrow.below.example/socket", "GET", &[], Some("upgrade")),
    ("wss://key.example/socket", "GET", &[], Some("upgrade")),
    ("wss://api.anthropic.com/v1/messages", "GET", &[], Some("upgrade")),
    ("wss://exact.example/socket", "POST", &[], Some("upgrade")),
];

/// Names that are looked up, each with a site.
const SITES: [&str; 13] = [
    "exact.example",
    "a.below.example",
    "a.b.below.example",
    "narrow.below.example",
    "paths.example",
    "headers.example",
    "one.strict.example",
    "two.strict.example",
    "pinned.example",
    "small.example",
    "key.example",
    // What nothing leads to.
    "other.example",
    "below.example",
];

/// Asks about a request.
fn why(world: &World, case: &Case) -> Value {
    let (url, method, headers, _) = case;
    let headers: Vec<&str> = headers.iter().flat_map(|line| ["--header", line]).collect();
    let args = [&["why", "open", url, "--method", method, "--json"], headers.as_slice()].concat();
    world.bb(&args).expect(0).json().remove(0)
}

/// Really sends requests, one after the other; gets what came of each.
fn send(world: &World, cases: &[Case]) -> Vec<Value> {
    let lines: String =
        cases.iter().map(|(url, method, headers, _)| format!("{}\n", json!([url, method, headers]))).collect();
    let args = ["exec", "-i", "open", "--", "/usr/bin/python3", "agree.py"];
    let output = world.command(&args).stdin(lines).patience(Duration::from_secs(240)).run().expect(0);
    output.json()
}

/// Says what the plane has said, in the terms of a verdict: allowed, and the kind of the refusal.
fn judged(got: &Value) -> (bool, Option<&str>) {
    match (got["status"].as_u64(), got["kind"].as_str(), got["error"].as_str()) {
        (Some(_), Some(kind), _) => (false, Some(kind)),
        // What is no HTTP is answered before there is a request to be answered.
        (Some(400), None, _) => (false, Some("protocol_unknown")),
        (Some(200), None, _) => (true, None),
        // Nobody listens there.
        (_, _, Some("refused")) => (false, Some("port")),
        other => panic!("{other:?}: {got}"),
    }
}

#[test]
fn what_is_said_of_a_request_is_what_becomes_of_it() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        let rehearsal = world.rehearsal(Scenario::default());
        world.write(world.bb_home().join("ca.pem"), rehearsal.ca_pem());
        let upstreams =
            format!("upstreams: {{api.anthropic.com: {{address: \"{}\", ca: ca.pem}}}}\n", rehearsal.address());
        world.settings(&upstreams);
        let welcome = |_: &Seen| Reply::text("welcome");
        let mut sites = SITES.map(|name| world.site(name, welcome)).to_vec();
        sites.push(world.site_at("ports.example", "93.184.216.80".parse().unwrap(), &[8443], welcome));
        sites.push(world.site_at("private.example", "10.1.2.3".parse().unwrap(), &[443], welcome));
        sites.push(world.site_at("inner.example", "10.1.2.4".parse().unwrap(), &[443], welcome));
        let project = world.make_dir("project");
        world.write(project.join("agree.py"), include_str!("agree.py"));
        let recipe = world.recipe(
            "launch.lua",
            &format!(
                "--- @bb needs launch, egress:*, egress:10.1.0.0/16, credential:KEY, write:args\n\
                 bb.launch {{ command = {{ 'sleep', '600' }}, label = 'open', detach = true, budget = 'unlimited', \
                 workspace = bb.args[1], routes = {ROUTES} }}\n"
            ),
        );
        let args = ["run", "--grant", "all", &recipe, "--", &project.display().to_string()];
        world.command(&args).env("KEY", "sk-x").run().expect(0);

        let verdicts: Vec<Value> = CASES.iter().map(|case| why(&world, case)).collect();
        assert!(sites.iter().all(|site| site.seen().is_empty()) && world.asked().is_empty(), "asking sends nothing");
        let got = send(&world, CASES);
        assert_eq!(got.len(), CASES.len(), "{got:?}");

        let mut wrong = vec![];
        for ((case, verdict), got) in CASES.iter().zip(&verdicts).zip(&got) {
            let said = (verdict["allowed"] == true, verdict["kind"].as_str());
            let done = judged(got);
            if said != done || done != (case.3.is_none(), case.3) {
                wrong.push(format!("{case:?}\n  said {said:?}: {}\n  done {done:?}: {got}", verdict["message"]));
            }
        }
        assert!(wrong.is_empty(), "{:?}:\n{}", world.who, wrong.join("\n"));

        // By the same rule, and on the path that was said; of what was refused nothing arrived.
        let log = || world.bb(&["egress", "log", "open", "--json"]).expect(0).json();
        let allowed: Vec<(&Case, &Value)> = CASES.iter().zip(&verdicts).filter(|(case, _)| case.3.is_none()).collect();
        let ended = |lines: &[Value]| lines.iter().filter(|line| line["verdict"] == "allowed").count() == allowed.len();
        assert!(world.until(Duration::from_secs(30), || ended(&log())), "{:?}", log());
        let lines = log();
        let mut arrived = 0;
        for (case, verdict) in allowed {
            let unseen = verdict["route"]["tls"] == "passthrough";
            let (method, path) = if unseen { ("TLS", "") } else { (case.1, verdict["path"].as_str().unwrap()) };
            let same = |line: &&Value| {
                line["verdict"] == "allowed"
                    && line["host"] == verdict["host"]
                    && line["method"] == method
                    && line["path"] == path
            };
            let line = lines.iter().find(same).unwrap_or_else(|| panic!("{case:?}: {lines:?}"));
            let route: bb::api::Route = serde_json::from_value(verdict["route"].clone()).unwrap();
            assert_eq!(line["rule"], route.in_words(), "{case:?}");
            if verdict["host"] == "api.anthropic.com" {
                continue;
            }
            let site = sites.iter().find(|site| verdict["host"] == site.name).unwrap();
            let sent = |seen: &Seen| seen.method == case.1 && seen.path.split('?').next() == verdict["path"].as_str();
            assert!(site.seen().iter().any(sent), "{case:?}: {:?}", site.seen());
            arrived += 1;
        }
        let seen: usize = sites.iter().map(|site| site.seen().len()).sum();
        assert_eq!((seen, rehearsal.stats().requests.len()), (arrived, 1));

        // What only a look-up can tell is said to be open.
        let inner: Case = ("https://inner.example/", "GET", &[], Some("private_address"));
        let verdict = why(&world, &inner);
        assert!(
            verdict["allowed"] == true && verdict["message"].as_str().unwrap().contains("private_address"),
            "{verdict}"
        );
        assert_eq!(judged(&send(&world, &[inner])[0]), (false, inner.3));
        assert_eq!(sites.iter().map(|site| site.seen().len()).sum::<usize>(), arrived);

        // And for people; a header that is none is refused before anybody is asked.
        let told = world.bb(&["why", "open", "headers.example", "-H", "X-Team: blue"]).expect(0).stdout;
        assert!(told.starts_with("allowed  GET headers.example:443/\n"), "{told}");
        let told = world.bb(&["why", "open", "headers.example"]).expect(0).stdout;
        assert!(told.starts_with("refused ") && told.contains("asks for the header x-"), "{told}");
        let wrong = world.bb(&["why", "open", "headers.example", "-H", "X-Team blue"]);
        assert!(wrong.code == 2 && wrong.stderr.contains("Name: value"), "{wrong}");
        world.bb(&["kill", "open"]).expect(0);
        assert!(world.hits().is_empty(), "{:?}", world.hits());
    }
}

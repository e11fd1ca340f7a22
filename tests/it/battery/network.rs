//! Ways out of a bottle by name, address, port and protocol: what the rows about them are played against.

use super::{Bottle, Row, addresses, credentials, framing, names, play};
use crate::support::{Reply, Seen, World, have_tools};

const ROUTES: &str = r#"env = { REQUEST = "" }, routes = { "good.example", "other.example", "gone.example", "rebind.example", "metadata.example", "local.example",
  "*.wild.example", "turning.example", "alias.example", "other-name.example", "liar.example", "stranger.example",
  { host = "paths.example", matches = { { methods = { "GET" }, paths = { { type = "prefix", value = "/ok" } } } } },
  { host = "unasked.example", matches = { { methods = { "GET" } } } },
  { host = "ports.example", ports = { 8443 } },
  { host = "pinned.example", tls = "passthrough" },
  { host = "keyed.example", auth = { scheme = "Bearer", credential = "REAL_KEY" } } }"#;

/// The credential of `keyed.example`.
const REAL: &str = "sk-real-7f3a9b1c";

/// Names that the world's name server may be asked for: those of routes, and no other.
pub const KNOWN: [&str; 16] = [
    "good.example",
    "other.example",
    "gone.example",
    "rebind.example",
    "metadata.example",
    "local.example",
    "paths.example",
    "ports.example",
    "a.wild.example",
    "turning.example",
    "alias.example",
    "other-name.example",
    "liar.example",
    "stranger.example",
    "pinned.example",
    "keyed.example",
];

#[test]
fn there_is_no_way_out_but_the_listed_one() {
    if !have_tools(&["curl", "python3", "ip", "getent"]) {
        return;
    }
    for world in World::each() {
        no_way_out(&world, &Bottle::default(), &rows());
    }
}

fn rows() -> Vec<Row> {
    [names::ROWS, addresses::ROWS, framing::ROWS, credentials::ROWS].concat()
}

/// Plays the rows in a container.
#[track_caller]
pub fn no_way_out_of_a_container(world: &World, bottle: &Bottle<'_>) {
    let rows: Vec<Row> = rows().into_iter().filter(|row| row.embedded_only.is_empty()).collect();
    no_way_out(world, bottle, &rows);
}

/// Answers a request of the rows.
fn welcome(seen: &Seen) -> Reply {
    let text = |status, headers: &[(&'static str, &str)]| Reply {
        status,
        headers: headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        ..Reply::text(format!("welcome {}", seen.path))
    };
    let given = seen.header("authorization").unwrap_or_default();
    match seen.path.as_str() {
        "/offers-quic" => text(200, &[("alt-svc", "h3=\":443\"; ma=86400")]),
        "/away" => text(302, &[("location", "https://evil.example/s3cr3t")]),
        "/away-with-body" => text(307, &[("location", "https://evil.example/s3cr3t")]),
        "/inside" => text(302, &[("location", "http://10.0.0.1/s3cr3t")]),
        "/to-other" => text(302, &[("location", "https://other.example/seen")]),
        "/logs-in" => text(200, &[("set-cookie", "session=s3cr3t-of-the-host")]),
        "/ok/headers" => Reply::text(format!("welcome {:?}", seen.headers)),
        "/echo" => Reply {
            headers: vec![("x-echo", given.to_owned()), ("content-type", "text/plain".into())],
            ..Reply::text(format!("it was {given} and {given}"))
        },
        "/echo-404" => Reply { status: 404, ..Reply::text(format!("nobody has {given}")) },
        _ => text(200, if seen.host.starts_with("turning") { &[("connection", "close")] } else { &[] }),
    }
}

#[track_caller]
fn no_way_out(world: &World, bottle: &Bottle<'_>, rows: &[Row]) {
    let sites = [
        world.site("good.example", welcome),
        world.site("other.example", welcome),
        world.site("paths.example", welcome),
        world.site_at("ports.example", "93.184.216.50".parse().unwrap(), &[8443, 443], welcome),
        world.site("unasked.example", welcome),
        world.site("a.wild.example", welcome),
        world.site("wild.example", welcome),
        world.site("pinned.example", welcome),
        world.site("keyed.example", welcome),
        world.site("turning.example", welcome),
        world.impostor("stranger.example", welcome),
    ];
    for (name, address) in
        [("rebind.example", "10.0.0.1"), ("metadata.example", "169.254.169.254"), ("local.example", "127.0.0.1")]
    {
        world.name(name, &[address.parse().unwrap()]);
    }
    world.turns("turning.example", "10.0.0.1".parse().unwrap());
    world.name("private.example", &["10.0.0.9".parse().unwrap()]);
    world.alias("alias.example", "middle.example");
    world.alias("middle.example", "private.example");
    world.alias("other-name.example", "good.example");
    world.name("liar.example", &[sites[0].address]);
    let (options, env) = (bottle.with(ROUTES), [bottle.env, &[("REAL_KEY", REAL)]].concat());
    play(world, &Bottle { needs: ", credential:REAL_KEY", options: &options, env: &env, ..*bottle }, rows);
    world.assert_silent(&KNOWN);
    for site in sites {
        for seen in site.seen() {
            let (said, keyed) = (format!("{seen:?}"), site.name == "keyed.example");
            assert!(!said.contains("s3cr3t"), "{} got {seen:?}", site.name);
            assert_eq!(said.contains(REAL), keyed, "{} got {seen:?}", site.name);
        }
    }
}

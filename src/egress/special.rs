//! Which addresses are the internet's, and which are for something else: the registries, written down once.
//!
//! Pure. Whether an address is one of the host's own is [`super::dial`]'s to know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::one_form;

/// IANA IPv4 Special-Purpose Address Registry (RFC 6890 and its updates), multicast (RFC 5771), and what clouds add of their own.
/// Those that the registry calls globally reachable are in it too: anycast of protocols, and sinks of reverse look-ups.
const V4: &[(Ipv4Addr, u8, &str)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network (RFC 791)"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private (RFC 1918)"),
    // 100.100.100.200 is Alibaba Cloud's metadata.
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared by carriers (RFC 6598)"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback (RFC 1122)"),
    // 169.254.169.254 is most clouds' metadata.
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local (RFC 3927)"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private (RFC 1918)"),
    // 192.0.0.192 is Oracle Cloud's metadata.
    (Ipv4Addr::new(192, 0, 0, 0), 24, "protocol assignments (RFC 6890)"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "documentation (RFC 5737)"),
    (Ipv4Addr::new(192, 31, 196, 0), 24, "AS112 (RFC 7535)"),
    (Ipv4Addr::new(192, 52, 193, 0), 24, "AMT relays (RFC 7450)"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "6to4 relays (RFC 7526)"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private (RFC 1918)"),
    (Ipv4Addr::new(192, 175, 48, 0), 24, "AS112 (RFC 7534)"),
    // What names have inside a bottle.
    (Ipv4Addr::new(198, 18, 0, 0), 15, "benchmarking (RFC 2544)"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "documentation (RFC 5737)"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "documentation (RFC 5737)"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast (RFC 5771)"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved, and limited broadcast (RFC 1112, RFC 8190)"),
    (Ipv4Addr::new(168, 63, 129, 16), 32, "Azure's host"),
];

/// IANA IPv6 Special-Purpose Address Registry, within global unicast (RFC 4291, 2.4). Everything beyond that is refused as a whole.
const V6: &[(Ipv6Addr, u8, &str)] = &[
    // Teredo, anycast of protocols, benchmarking, AMT, AS112, ORCHID, DRIP.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "protocol assignments (RFC 2928)"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "documentation (RFC 3849)"),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "6to4 (RFC 3056)"),
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48, "AS112 (RFC 7534)"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "documentation (RFC 9637)"),
];

/// Gets what an address is for, where it is not the internet's. IPv6 that is reached as IPv4 is looked at as that
/// ([`one_form`]), so that NAT64 leads nowhere that its IPv4 address does not.
pub fn purpose(ip: IpAddr) -> Option<&'static str> {
    match one_form(ip) {
        IpAddr::V4(ip) => {
            let within = |(net, length, _): &&(Ipv4Addr, u8, _)| {
                (u32::from(ip) ^ u32::from(*net)).checked_shr(32 - u32::from(*length)).unwrap_or(0) == 0
            };
            V4.iter().find(within).map(|(_, _, what)| *what)
        }
        IpAddr::V6(ip) => {
            if ip.segments()[0] & 0xe000 != 0x2000 {
                return Some("not global unicast (RFC 4291)");
            }
            let within = |(net, length, _): &&(Ipv6Addr, u8, _)| {
                (u128::from(ip) ^ u128::from(*net)).checked_shr(128 - u32::from(*length)).unwrap_or(0) == 0
            };
            V6.iter().find(within).map(|(_, _, what)| *what)
        }
    }
}

/// Tells whether an address is a public one.
pub fn is_public(ip: IpAddr) -> bool {
    purpose(ip).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every entry of both registries (as of 2025) and what they leave out: its first and its last address.
    const REFUSED: &[(&str, &str, &str)] = &[
        // IANA IPv4 Special-Purpose Address Registry
        ("this network", "0.0.0.0", "0.255.255.255"),
        ("private-use", "10.0.0.0", "10.255.255.255"),
        ("shared address space", "100.64.0.0", "100.127.255.255"),
        ("loopback", "127.0.0.0", "127.255.255.255"),
        ("link-local", "169.254.0.0", "169.254.255.255"),
        ("private-use", "172.16.0.0", "172.31.255.255"),
        ("IETF protocol assignments", "192.0.0.0", "192.0.0.255"),
        ("IPv4 service continuity", "192.0.0.0", "192.0.0.7"),
        ("IPv4 dummy", "192.0.0.8", "192.0.0.8"),
        ("PCP anycast", "192.0.0.9", "192.0.0.9"),
        ("TURN anycast", "192.0.0.10", "192.0.0.10"),
        ("NAT64/DNS64 discovery", "192.0.0.170", "192.0.0.171"),
        ("TEST-NET-1", "192.0.2.0", "192.0.2.255"),
        ("AS112-v4", "192.31.196.0", "192.31.196.255"),
        ("AMT", "192.52.193.0", "192.52.193.255"),
        ("6to4 relay anycast", "192.88.99.0", "192.88.99.255"),
        ("private-use", "192.168.0.0", "192.168.255.255"),
        ("direct delegation AS112", "192.175.48.0", "192.175.48.255"),
        ("benchmarking", "198.18.0.0", "198.19.255.255"),
        ("TEST-NET-2", "198.51.100.0", "198.51.100.255"),
        ("TEST-NET-3", "203.0.113.0", "203.0.113.255"),
        ("reserved", "240.0.0.0", "255.255.255.254"),
        ("limited broadcast", "255.255.255.255", "255.255.255.255"),
        // IANA IPv4 Multicast Address Space Registry
        ("multicast", "224.0.0.0", "239.255.255.255"),
        // IANA IPv6 Special-Purpose Address Registry
        ("loopback", "::1", "::1"),
        ("unspecified", "::", "::"),
        ("discard-only", "100::", "100::ffff:ffff:ffff:ffff"),
        ("dummy prefix", "100:0:0:1::", "100:0:0:1:ffff:ffff:ffff:ffff"),
        ("IPv4/IPv6 translation, local", "64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff"),
        ("IETF protocol assignments", "2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("Teredo", "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("PCP, TURN, DNS-SD anycast", "2001:1::1", "2001:1::3"),
        ("benchmarking", "2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff"),
        ("AMT", "2001:3::", "2001:3:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("AS112-v6", "2001:4:112::", "2001:4:112:ffff:ffff:ffff:ffff:ffff"),
        ("ORCHID", "2001:10::", "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("ORCHIDv2", "2001:20::", "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("DRIP", "2001:30::", "2001:3f:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("documentation", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("6to4", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("direct delegation AS112", "2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff"),
        ("documentation", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("SRv6 SIDs", "5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("unique-local", "fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("link-local unicast", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        // RFC 3879, RFC 4291
        ("site-local", "fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("multicast", "ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("IPv4-compatible", "::2", "::ffff:ffff"),
        ("unallocated", "4000::", "5eff::"),
        // IPv4 in IPv6, where that IPv4 is refused (with NAT64 and mapped ones that is what decides)
        ("mapped private", "::ffff:10.0.0.0", "::ffff:10.255.255.255"),
        ("mapped loopback", "::ffff:127.0.0.1", "::ffff:7fff:ffff"),
        ("mapped metadata", "::ffff:169.254.169.254", "::ffff:169.254.169.254"),
        ("NAT64 private", "64:ff9b::10.0.0.0", "64:ff9b::10.255.255.255"),
        ("NAT64 loopback", "64:ff9b::7f00:1", "64:ff9b::7fff:ffff"),
        ("NAT64 metadata", "64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe"),
        ("6to4 of private", "2002:a00:1::", "2002:aff:ffff::1"),
        ("Teredo of private", "2001:0:a00:1::", "2001:0:1:2:3:4:f5ff:fffe"),
        ("compatible of loopback", "::127.0.0.1", "::127.255.255.255"),
        // Clouds
        ("Alibaba", "100.100.100.200", "100.100.100.200"),
        ("AWS", "fd00:ec2::254", "fd00:ec2::254"),
        ("AWS tasks", "169.254.170.2", "169.254.170.23"),
        ("Azure", "168.63.129.16", "168.63.129.16"),
        ("Google", "fd20:ce::254", "fd20:ce::254"),
        ("Oracle", "192.0.0.192", "192.0.0.192"),
    ];

    #[test]
    fn what_has_another_purpose_is_never_public() {
        for (what, first, last) in REFUSED {
            for ip in [first, last] {
                assert!(purpose(ip.parse().unwrap()).is_some(), "{what}: {ip}");
            }
        }
    }

    #[test]
    fn the_neighbours_of_what_is_refused_are_the_internets() {
        for ip in [
            "1.0.0.0",
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "140.82.112.3",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::",
            "2001:db7:ffff::",
            "2001:db9::",
            "2003::",
            "2606:4700::1111",
            "2620:4f:7fff::",
            "2620:4f:8001::",
            "2a00:1450::1",
            "3ffe:ffff::",
            "3fff:1000::",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
        ] {
            assert_eq!(purpose(ip.parse().unwrap()), None, "{ip}");
        }
    }
}

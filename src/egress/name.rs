//! The one parser of host names: every name that reaches the plane becomes a [`Host`] here, or is refused.
//!
//! Router, credential picker, meter and dialler take only [`Host`], so no two of them can read one name in two ways.
//! This file must not resolve anything and must not know routes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A host in canonical form: a lower-case ASCII name without trailing dot, or an IP address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name: labels of `[a-z0-9_-]`, at most 253 bytes.
    Name(Arc<str>),
    /// An address, however it was spelled.
    Ip(IpAddr),
}

/// Why a text is not a host name. Never quotes the text: it came out of a bottle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the host name is empty")]
    Empty,
    /// More than 253 bytes, or a label of more than 63.
    #[error("the host name is too long")]
    TooLong,
    /// Two dots in a row, or one at the start.
    #[error("the host name has an empty label")]
    EmptyLabel,
    /// A label begins or ends with a hyphen: no certificate can be for it, and resolvers do not ask for it.
    #[error("a label of the host name begins or ends with a hyphen")]
    Hyphen,
    /// A NUL, another control byte, or white space.
    #[error("the host name has a control byte or white space in it")]
    Control,
    /// `user@host`.
    #[error("the host name has user information in it")]
    Userinfo,
    /// `%41`, or an IPv6 zone.
    #[error("the host name has a percent sign in it")]
    Percent,
    /// Any other byte that no host name has.
    #[error("the host name has a character in it that host names do not have")]
    Character,
    /// Not valid under UTS 46, or bad punycode.
    #[error("the host name is not a valid international name")]
    Idn,
    /// Looks like an address but is none: `256.1.1.1`, `[::g]`, `0x1.example.7`.
    #[error("the host name looks like an address but is none")]
    Address,
    /// Not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl Host {
    /// Gets the canonical host from `text`, which has no port.
    pub fn parse(text: &str) -> Result<Host, NameError> {
        refuse_bytes(text)?;
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(NameError::Address)?;
            return literal_v6(inner);
        }
        if text.contains(':') {
            return literal_v6(text);
        }
        let ascii = to_ascii(text)?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        check_labels(name)?;
        match spelled_address(name)? {
            Some(ip) => Ok(Host::Ip(IpAddr::V4(ip))),
            None => Ok(Host::Name(name.into())),
        }
    }

    /// Gets host and port from `text`: `host`, `host:port`, `[v6]`, `[v6]:port`.
    pub fn parse_authority(text: &str) -> Result<(Host, Option<u16>), NameError> {
        refuse_bytes(text)?;
        let (host, port) = if text.starts_with('[') {
            let end = text.find(']').ok_or(NameError::Address)?;
            match &text[end + 1..] {
                "" => (text, None),
                rest => (&text[..=end], Some(rest.strip_prefix(':').ok_or(NameError::Character)?)),
            }
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = port.map(parse_port).transpose()?;
        Ok((Host::parse(host)?, port))
    }

    /// Tells whether this is an address and not a name.
    pub fn is_ip(&self) -> bool {
        matches!(self, Host::Ip(_))
    }

    /// Gets the text of a URI's authority for this host: as [`fmt::Display`], IPv6 in brackets, the port unless it is
    /// the scheme's own.
    pub fn authority(&self, port: u16, tls: bool) -> String {
        let default = if tls { 443 } else { 80 };
        match (self, port == default) {
            (Host::Ip(IpAddr::V6(ip)), true) => format!("[{ip}]"),
            (Host::Ip(IpAddr::V6(ip)), false) => format!("[{ip}]:{port}"),
            (host, true) => host.to_string(),
            (host, false) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(ip) => ip.fmt(f),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Gets the one form of an address. IPv6 that is IPv4 in another coat becomes that: mapped (RFC 4291, 2.5.5.2), and with the
/// prefix by which every network with NAT64 reaches IPv4 (RFC 6052, 2.1).
pub fn one_form(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        _ => v6.to_canonical(),
    }
}

fn literal_v6(text: &str) -> Result<Host, NameError> {
    let address = text.parse::<Ipv6Addr>().map_err(|_| NameError::Address)?;
    Ok(Host::Ip(one_form(address.into())))
}

/// Refuses what no spelling of a host has, before anything else looks at the text.
fn refuse_bytes(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > 1024 {
        return Err(NameError::TooLong);
    }
    for b in text.bytes() {
        match b {
            0..=b' ' | 0x7f => return Err(NameError::Control),
            b'@' => return Err(NameError::Userinfo),
            b'%' => return Err(NameError::Percent),
            _ => {}
        }
    }
    Ok(())
}

/// Gets the ASCII form, lower case. International names and punycode go through UTS 46, so that an A-label and its
/// U-label are one name and broken ones are none.
fn to_ascii(text: &str) -> Result<String, NameError> {
    let international = !text.is_ascii() || text.as_bytes().windows(4).any(|w| w.eq_ignore_ascii_case(b"xn--"));
    if !international {
        return Ok(text.to_ascii_lowercase());
    }
    let ascii = idna::domain_to_ascii(text).map_err(|_| NameError::Idn)?;
    // A mapping may yield what was refused in the raw text (a full-width percent sign, say).
    refuse_bytes(&ascii)?;
    Ok(ascii)
}

fn check_labels(name: &str) -> Result<(), NameError> {
    if name.len() > 253 {
        return Err(NameError::TooLong);
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(NameError::EmptyLabel);
        }
        if label.len() > 63 {
            return Err(NameError::TooLong);
        }
        if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_') {
            return Err(NameError::Character);
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(NameError::Hyphen);
        }
    }
    Ok(())
}

/// Gets the IPv4 address that `name` spells in any form that `inet_aton` takes (`127.1`, `0x7f.1`, `2130706433`,
/// `0177.0.0.1`). A name whose last label is a number is an address or nothing (WHATWG URL, "ends in a number").
fn spelled_address(name: &str) -> Result<Option<Ipv4Addr>, NameError> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if !hexadecimal && !last.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    let parts = name.split('.').map(number).collect::<Option<Vec<u64>>>().ok_or(NameError::Address)?;
    let Some((&tail, heads)) = parts.split_last() else {
        return Err(NameError::Address);
    };
    if heads.len() > 3 || heads.iter().any(|&p| p > 255) || tail >= 1u64 << (8 * (4 - heads.len())) {
        return Err(NameError::Address);
    }
    let address = heads.iter().enumerate().fold(tail, |sum, (i, &p)| sum | p << (8 * (3 - i)));
    u32::try_from(address).map(|a| Some(Ipv4Addr::from(a))).map_err(|_| NameError::Address)
}

/// Gets the number a label spells: decimal, `0x` hexadecimal, or octal with a leading zero; however many zeros.
fn number(label: &str) -> Option<u64> {
    let (digits, radix) = match (label.strip_prefix("0x"), label.strip_prefix('0')) {
        (Some(hex), _) => (hex, 16),
        (None, Some(octal)) => (octal, 8),
        (None, None) => (label, 10),
    };
    if label.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    match digits.trim_start_matches('0') {
        "" => Some(0),
        digits => u64::from_str_radix(digits, radix).ok(),
    }
}

fn parse_port(text: &str) -> Result<u16, NameError> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NameError::Port);
    }
    text.parse::<u16>().ok().filter(|p| *p != 0).ok_or(NameError::Port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> String {
        match Host::parse(text) {
            Ok(Host::Name(name)) => name.to_string(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn case_trailing_dot_and_international_spelling_are_one_name() {
        for text in ["api.example.com", "API.Example.COM", "api.example.com.", "ＡＰＩ.example.com", "api。example.com"]
        {
            assert_eq!(name(text), "api.example.com");
        }
        assert_eq!(name("bücher.example"), "xn--bcher-kva.example");
        assert_eq!(name("XN--bcher-KVA.example"), "xn--bcher-kva.example");
        assert_eq!(name("_acme.a_b.example"), "_acme.a_b.example");
    }

    #[test]
    fn addresses_are_seen_in_every_spelling() {
        let loopback = Host::Ip("127.0.0.1".parse().unwrap());
        for text in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "0x7f.0.0.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "１２７.0.0.1",
            "127。0。0。1",
            "0X7F.1",
            "0x00000000000000000000000000007f000001",
            "00000000000000000000000000000000177.0.0.1",
            "0x7f.0.0.0x1",
            "::ffff:127.0.0.1",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:FFFF:127.0.0.1]",
            "64:ff9b::127.0.0.1",
            "[64:FF9B::7f00:1]",
        ] {
            assert_eq!(Host::parse(text), Ok(loopback.clone()), "{text}");
        }
        // Other IPv6 that has an IPv4 address in it is reached by nobody as that one (special.rs refuses it as what it is).
        for text in ["64:ff9b:1::127.0.0.1", "::127.0.0.1", "2002:7f00:1::", "2001:0:7f00:1::"] {
            assert_eq!(Host::parse(text), Ok(Host::Ip(text.parse().unwrap())), "{text}");
        }
        for text in ["::1", "[::1]", "[0:0:0:0:0:0:0:1]"] {
            assert_eq!(Host::parse(text), Ok(Host::Ip("::1".parse().unwrap())), "{text}");
        }
        for text in ["256.1.1.1", "1.2.3.4.5", "4294967296", "08.1.1.1", "example.1", "[::g]", "[::1", "1.2.3.0x"] {
            assert!(Host::parse(text).is_err() || Host::parse(text).unwrap().is_ip(), "{text}");
        }
        assert_eq!(Host::parse("example.1"), Err(NameError::Address));
        for text in [
            "256.1.1.1",
            "0x1ffffffffffffffffff",
            "a.0x",
            "1.2.3.0xg1.4",
            "09",
            "0x7f.0.0.1.1",
            "1..2",
            "[1.2.3.4]",
            "::1::",
        ] {
            assert!(matches!(Host::parse(text), Err(NameError::Address | NameError::EmptyLabel)), "{text}");
        }
        // What no address begins with is a name.
        assert_eq!(name("0x7f.0.0.1x"), "0x7f.0.0.1x");
        assert_eq!(name("1.2.3.4.0xg"), "1.2.3.4.0xg");
    }

    #[test]
    fn what_two_parsers_could_read_in_two_ways_is_refused_with_its_reason() {
        for (text, why) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("evil.com\0.example.com", NameError::Control),
            ("a b.example", NameError::Control),
            ("example.com\r\nX: y", NameError::Control),
            ("user@example.com", NameError::Userinfo),
            ("ex%61mple.com", NameError::Percent),
            ("[fe80::1%eth0]", NameError::Percent),
            ("example.com/x", NameError::Character),
            ("example.com\\x", NameError::Character),
            ("*.example.com", NameError::Character),
            ("*", NameError::Character),
            ("a?.example", NameError::Character),
            ("example.com#x", NameError::Character),
            ("{a,b}.example", NameError::Character),
            ("exa\u{7f}mple.com", NameError::Control),
            ("example.com\t", NameError::Control),
            ("example.com%00", NameError::Percent),
            ("%31%32%37.1", NameError::Percent),
            ("fe80::1%25eth0", NameError::Percent),
            ("example.com％2e", NameError::Percent),
            ("user:pass@example.com", NameError::Userinfo),
            ("user＠example.com", NameError::Userinfo),
            ("example.com\u{2100}", NameError::Character),
            ("-a.example", NameError::Hyphen),
            ("a-.example", NameError::Hyphen),
            ("a.-", NameError::Hyphen),
            ("a..example.com", NameError::EmptyLabel),
            (".example.com", NameError::EmptyLabel),
            ("example.com..", NameError::EmptyLabel),
            ("xn--\u{7f}", NameError::Control),
            ("xn--a-.example", NameError::Idn),
        ] {
            assert_eq!(Host::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(Host::parse(&"a".repeat(64)), Err(NameError::TooLong));
        assert!(Host::parse(&"a".repeat(63)).is_ok());
        let longest = [&*"a".repeat(63), &"b".repeat(63), &"c".repeat(63), &"d".repeat(61)].join(".");
        assert_eq!(longest.len(), 253);
        assert_eq!(name(&format!("{longest}.")), longest);
        assert_eq!(Host::parse(&format!("{longest}d")), Err(NameError::TooLong));
        assert_eq!(Host::parse(&"a.".repeat(600)), Err(NameError::TooLong));
        // 63 are counted in the form that goes over the wire.
        assert_eq!(Host::parse(&"ü".repeat(60)), Err(NameError::TooLong));
        assert_eq!(Host::parse(&["abcdefg"; 32].join(".")), Err(NameError::TooLong));
    }

    #[test]
    fn a_port_is_a_number_or_the_authority_is_refused() {
        let host = Host::parse("example.com").unwrap();
        assert_eq!(Host::parse_authority("example.com"), Ok((host.clone(), None)));
        assert_eq!(Host::parse_authority("Example.com:8443"), Ok((host, Some(8443))));
        assert_eq!(Host::parse_authority("[::1]:80"), Ok((Host::Ip("::1".parse().unwrap()), Some(80))));
        for text in [
            "example.com:",
            "example.com:0",
            "example.com:65536",
            "example.com:+1",
            "example.com:1:2",
            "example.com: 80",
            "example.com:８０",
            "example.com:000080",
            ":80",
            "[::1]x",
            "[::1]:",
            "[::1]]:80",
            "[::1:80",
            "::1:80",
            "user@example.com:80",
        ] {
            assert!(Host::parse_authority(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_a_fixed_point(text in "\\PC{0,40}") {
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(&host.to_string()), Ok(host.clone()));
                if let Host::Name(name) = &host {
                    prop_assert!(name.is_ascii() && !name.ends_with('.') && name.to_ascii_lowercase() == **name);
                }
            }
        }
    }
}

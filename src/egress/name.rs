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
            return inner.parse::<Ipv6Addr>().map(|ip| Host::Ip(IpAddr::V6(ip))).map_err(|_| NameError::Address);
        }
        if text.contains(':') {
            return text.parse::<Ipv6Addr>().map(|ip| Host::Ip(IpAddr::V6(ip))).map_err(|_| NameError::Address);
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
    }
    Ok(())
}

/// Gets the IPv4 address that `name` spells in any form that `inet_aton` takes (`127.1`, `0x7f.1`, `2130706433`,
/// `0177.0.0.1`). A name whose last label is a number is an address or nothing (WHATWG URL, "ends in a number").
fn spelled_address(name: &str) -> Result<Option<Ipv4Addr>, NameError> {
    let last = name.rsplit('.').next().unwrap_or(name);
    if !last.bytes().all(|b| b.is_ascii_digit()) && number(last).is_none() {
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

/// Gets the number a label spells: decimal, `0x` hexadecimal, or octal with a leading zero.
fn number(label: &str) -> Option<u64> {
    if label.is_empty() || label.len() > 20 {
        return None;
    }
    if let Some(hex) = label.strip_prefix("0x") {
        return if hex.is_empty() { Some(0) } else { u64::from_str_radix(hex, 16).ok() };
    }
    if !label.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let radix = if label.len() > 1 && label.starts_with('0') { 8 } else { 10 };
    u64::from_str_radix(label, radix).ok()
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
        ] {
            assert_eq!(Host::parse(text), Ok(loopback.clone()), "{text}");
        }
        for text in ["::1", "[::1]", "[0:0:0:0:0:0:0:1]"] {
            assert_eq!(Host::parse(text), Ok(Host::Ip("::1".parse().unwrap())), "{text}");
        }
        for text in ["256.1.1.1", "1.2.3.4.5", "4294967296", "08.1.1.1", "example.1", "[::g]", "[::1", "1.2.3.0x"] {
            assert!(Host::parse(text).is_err() || Host::parse(text).unwrap().is_ip(), "{text}");
        }
        assert_eq!(Host::parse("example.1"), Err(NameError::Address));
        assert_eq!(Host::parse("256.1.1.1"), Err(NameError::Address));
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
            ("a..example.com", NameError::EmptyLabel),
            (".example.com", NameError::EmptyLabel),
            ("example.com..", NameError::EmptyLabel),
            ("xn--\u{7f}", NameError::Control),
            ("xn--a-.example", NameError::Idn),
        ] {
            assert_eq!(Host::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(Host::parse(&"a".repeat(64)), Err(NameError::TooLong));
        assert_eq!(Host::parse(&["abcdefg"; 32].join(".")), Err(NameError::TooLong));
    }

    #[test]
    fn a_port_is_a_number_or_the_authority_is_refused() {
        let host = Host::parse("example.com").unwrap();
        assert_eq!(Host::parse_authority("example.com"), Ok((host.clone(), None)));
        assert_eq!(Host::parse_authority("Example.com:8443"), Ok((host, Some(8443))));
        assert_eq!(Host::parse_authority("[::1]:80"), Ok((Host::Ip("::1".parse().unwrap()), Some(80))));
        for text in
            ["example.com:", "example.com:0", "example.com:65536", "example.com:+1", "example.com:1:2", "[::1]x"]
        {
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

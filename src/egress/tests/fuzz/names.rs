//! Names as a bottle spells them. What holds: what is said in [`super::super::consumers`] of every text; and that case and a
//! trailing dot never matter.

use super::super::super::name::Host;
use super::super::consumers::Consumers;
use super::{Mark, Target, hold, mark};

const SEEDS: &[&str] = &[
    "api.anthropic.com",
    "API.Example.COM.",
    "api.example.com:443",
    "bücher.example",
    "xn--bcher-kva.example",
    "XN--BCHER-KVA.example",
    "ＡＰＩ.example.com",
    "api。example。com",
    "faß.example",
    "xn--a-.example",
    "xn--nxasmq6b",
    "a_b.example",
    "a--b.example",
    "127.1",
    "0x7f.1",
    "0X7f.0x0.01",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "127.0.0.1.",
    "1.2.3.4.5",
    "::1",
    "[::1]:80",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "fe80::1%eth0",
    "user:pass@example.com",
    "ex%61mple.com",
    "evil.com\0.example.com",
    "a..example.com",
    "*.example.com",
    "-a.example",
    "localhost",
    "app.localhost",
    "example.com#x",
    "example.com/x",
];

const WORDS: &[&[u8]] = &[
    b".",
    b"-",
    b"_",
    b":",
    b"[",
    b"]",
    b"@",
    b"%",
    b"%00",
    b"%2e",
    b"*",
    b"\0",
    b"0x",
    b"0",
    b"00000000000000000000",
    b"255",
    b"256",
    b"4294967295",
    b"4294967296",
    b"xn--",
    b"::",
    b"::ffff:",
    b"64:ff9b::",
    b":443",
    b":0",
    b":65536",
    b".localhost",
    "\u{3002}".as_bytes(),
    "\u{ff0e}".as_bytes(),
    "\u{ff05}".as_bytes(),
    "\u{ff20}".as_bytes(),
    "\u{ad}".as_bytes(),
    "\u{200d}".as_bytes(),
    "\u{202e}".as_bytes(),
    "\u{2100}".as_bytes(),
    "ß".as_bytes(),
    "İ".as_bytes(),
    "１".as_bytes(),
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

fn check(consumers: &Consumers, bytes: &[u8]) -> Result<Mark, String> {
    let text = String::from_utf8_lossy(bytes);
    consumers.agree(&text)?;
    let host = Host::parse(&text);
    if text.is_ascii() {
        let (upper, lower) = (text.to_ascii_uppercase(), text.to_ascii_lowercase());
        hold(Host::parse(&upper) == host && Host::parse(&lower) == host, || format!("{text:?}: case matters"))?;
    }
    if let Ok(named) = &host
        && text.is_ascii()
        && !text.ends_with('.')
        && !text.contains(':')
        && text.len() < 1024
    {
        hold(Host::parse(&format!("{text}.")).as_ref() == Ok(named), || format!("{text:?}: a trailing dot matters"))?;
    }
    let authority = Host::parse_authority(&text);
    if let Ok((named, port)) = &authority {
        let port = port.unwrap_or(443);
        let again = Host::parse_authority(&named.authority(port, true));
        let same = again.is_ok_and(|(host, said)| host == *named && said.unwrap_or(443) == port);
        hold(same, || format!("{text:?}: its authority is another"))?;
    }
    let labels = match &host {
        Ok(Host::Name(name)) => 1 + name.split('.').count().min(4),
        Ok(Host::Ip(ip)) => usize::from(ip.is_ipv6()) * 10,
        Err(_) => 0,
    };
    Ok(mark((
        host.err().map(|e| e.to_string()),
        authority.map(|(_, port)| port.is_some()).ok(),
        labels,
        text.is_ascii(),
    )))
}

#[test]
fn no_spelling_of_a_name_is_two_names() {
    let consumers = Consumers::new();
    let seeds = SEEDS.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    Target { seeds, words: WORDS, longest: 400 }.run(|bytes| check(&consumers, bytes));
}

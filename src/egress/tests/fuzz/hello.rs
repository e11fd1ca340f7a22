//! Greetings of TLS. What holds: what is believed to hide nothing has, for another reader too, no Encrypted Client Hello and
//! exactly the one server name that rustls takes; what follows a greeting changes nothing, and less than all of it is never
//! believed.

use std::io::Read;

use rustls::server::Acceptor;

use super::super::super::hello::hides_nothing;
use super::{Mark, Target, hold, mark};

macro_rules! hello {
    ($($name:literal),*) => {
        vec![$(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/hello/", $name, ".hello")).to_vec()),*]
    };
}

const WORDS: &[&[u8]] = &[
    b"\x16\x03\x01",
    b"\x16\x03\x03\x00\x01",
    b"\x01\x00\x00",
    b"\xfe\x0d\x00\x01\x00",
    b"\xfe\x0d",
    b"\x00\x00\x00\x0e\x00\x0c\x00\x00\x09a.example",
    b"\x00\x00\x09a.example",
    b"\x00\x00",
    b"\x00\x01\x00",
    b"\x14\x03\x03\x00\x01\x01",
    b"\x15\x03\x03\x00\x02\x01\x00",
];

/// Real greetings, whole and in records of a few bytes.
fn seeds() -> Vec<Vec<u8>> {
    let real = hello!["curl", "node", "python", "openssl12", "java", "go"];
    let cut = |hello: &Vec<u8>, size: usize| -> Vec<u8> {
        let pieces = hello[5..].chunks(size);
        pieces.flat_map(|p| [&[0x16, 3, 1][..], &u16::try_from(p.len()).unwrap().to_be_bytes(), p].concat()).collect()
    };
    let pieces: Vec<_> = real.iter().flat_map(|hello| [cut(hello, 100), cut(hello, 37)]).collect();
    [real, pieces].concat()
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum Seen {
    Greeting(Option<String>),
    Fault,
    Unfinished,
}

/// What rustls makes of it.
fn rustls_reads(mut bytes: &[u8]) -> Seen {
    let mut acceptor = Acceptor::default();
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => return Seen::Greeting(accepted.client_hello().server_name().map(str::to_owned)),
            Err(_) => return Seen::Fault,
            Ok(None) => {}
        }
        let before = bytes.len();
        match acceptor.read_tls(&mut bytes.by_ref()) {
            Ok(0) | Err(_) => return Seen::Unfinished,
            Ok(_) if bytes.len() == before => return Seen::Unfinished,
            Ok(_) => {}
        }
    }
}

/// Reads a greeting as plainly as there is: the types of its extensions and its server names.
fn plainly(bytes: &[u8]) -> Option<(Vec<u16>, Vec<Vec<u8>>)> {
    fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some(taken)
    }
    fn vector<'a>(bytes: &mut &'a [u8], prefix: usize) -> Option<&'a [u8]> {
        let length = take(bytes, prefix)?.iter().fold(0, |sum, b| sum << 8 | usize::from(*b));
        take(bytes, length)
    }
    let mut message = Vec::new();
    let mut records = bytes;
    while !records.is_empty() && records[0] == 0x16 {
        // What is no whole record follows the greeting, or cuts it short.
        if take(&mut records, 3).is_none() {
            break;
        }
        let Some(record) = vector(&mut records, 2) else { break };
        message.extend_from_slice(record);
    }
    let mut message = message.as_slice();
    take(&mut message, 1)?;
    let mut body = vector(&mut message, 3)?;
    take(&mut body, 34)?;
    vector(&mut body, 1)?;
    vector(&mut body, 2)?;
    vector(&mut body, 1)?;
    let (mut kinds, mut names) = (Vec::new(), Vec::new());
    if body.is_empty() {
        return Some((kinds, names));
    }
    let mut list = vector(&mut body, 2)?;
    while !list.is_empty() {
        let kind = take(&mut list, 2)?;
        let mut value = vector(&mut list, 2)?;
        kinds.push(u16::from_be_bytes([kind[0], kind[1]]));
        if kind == [0, 0] {
            let mut entries = vector(&mut value, 2)?;
            while !entries.is_empty() {
                take(&mut entries, 1)?;
                names.push(vector(&mut entries, 2)?.to_vec());
            }
        }
    }
    Some((kinds, names))
}

fn check(bytes: &[u8]) -> Result<Mark, String> {
    let believed = hides_nothing(bytes);
    let read = rustls_reads(bytes);
    if believed {
        hold(hides_nothing(&[bytes, b"\x17\x03\x03\x00\x01x"].concat()), || "what follows changes it".to_owned())?;
    }
    // Less than all of it is less or the same.
    for end in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        hold(believed || !hides_nothing(&bytes[..end]), || format!("{end} bytes are believed, all are not"))?;
    }
    if let (true, Seen::Greeting(Some(name))) = (believed, &read) {
        let (kinds, names) = plainly(bytes).ok_or("believed, and not to be read")?;
        hold(!kinds.contains(&0xfe0d), || "it hides a name".to_owned())?;
        let shown: Vec<_> = names.iter().map(|name| name.escape_ascii().to_string()).collect();
        // The root's dot at the end is no part of the name.
        let same = |shown: &str| shown.strip_suffix('.').unwrap_or(shown).eq_ignore_ascii_case(name);
        hold(shown.len() == 1 && same(&shown[0]), || format!("{name} is taken of {shown:?}"))?;
    }
    let kind = match &read {
        Seen::Greeting(name) => (0, name.is_some()),
        Seen::Fault => (1, false),
        Seen::Unfinished => (2, false),
    };
    Ok(mark((believed, kind, plainly(bytes).map(|(kinds, names)| (kinds.len(), names.len())))))
}

#[test]
fn no_greeting_breaks_the_peek() {
    for seed in seeds() {
        assert!(hides_nothing(&seed), "a real greeting is not believed");
        assert_eq!(rustls_reads(&seed), Seen::Greeting(Some("docs.example".to_owned())));
    }
    // Found: a second entry, of a kind that nobody knows, behind a name that is one byte short.
    let mut short = seeds().remove(0);
    let at = short.windows(12).position(|w| w == b"docs.example").unwrap();
    short[at - 1] -= 1;
    assert!(!hides_nothing(&short));
    // Found: a name that ends in the root's dot.
    let mut dotted = seeds().remove(0);
    dotted[at + 11] = b'.';
    assert_eq!(rustls_reads(&dotted), Seen::Greeting(Some("docs.exampl".to_owned())));
    Target { seeds: [seeds(), vec![short, dotted]].concat(), words: WORDS, longest: 4096 }.run(check);
}

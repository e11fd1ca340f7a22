//! Queries of a bottle. What holds: whatever is no answer and has a header is answered, with its own id, in 512 bytes, the same
//! each time; an address is given only for a name that the name parser takes, and is the one computed from it.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::RData;

use super::super::super::address::{NameBook, is_computed, of_name};
use super::super::super::dns::reply_to;
use super::super::super::name::Host;
use super::{Mark, Target, hold, mark};

const WORDS: &[&[u8]] = &[
    b"\xc0\x0c",
    b"\xc0\x00",
    b"\xc0\xff",
    b"\xff",
    b"\x3f",
    b"\x40",
    b"\x00\x01\x00\x01",
    b"\x00\x1c\x00\x01",
    b"\x00\x41\x00\x01",
    b"\x00\xff\x00\xff",
    b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00",
    b"\x00\x00\x29\x04\xd0\x00\x01\x80\x00\x00\x0c\x00\x0a\x00\x08abcdefgh",
    b"\x07example\x03com\x00",
    b"\x09localhost\x00",
    b"\x04xn--",
    b"\x00",
];

/// What resolvers really ask: glibc's pair, one with EDNS as Go asks it, dig's with a cookie, and odd ones.
fn seeds() -> Vec<Vec<u8>> {
    let query = |flags: [u8; 2], counts: [u8; 8], rest: &[u8]| [&[0x5a, 0xa5][..], &flags, &counts, rest].concat();
    let one = [0, 1, 0, 0, 0, 0, 0, 0];
    let with_edns = [0, 1, 0, 0, 0, 0, 0, 1];
    let name = b"\x03api\x09anthropic\x03com\x00";
    let of = |kind: u8| [&name[..], &[0, kind, 0, 1]].concat();
    vec![
        query([1, 0], one, &of(1)),
        query([1, 0], one, &of(28)),
        query([1, 0x20], with_edns, &[&of(1)[..], b"\0\0\x29\x04\xd0\0\0\0\0\0\0"].concat()),
        query(
            [1, 0x20],
            with_edns,
            &[&of(65)[..], b"\0\0\x29\x04\xd0\0\0\0\0\0\x0c\0\x0a\0\x08\x01\x02\x03\x04\x05\x06\x07\x08"].concat(),
        ),
        query([1, 0], one, &of(16)),
        query([1, 0], [0, 2, 0, 0, 0, 0, 0, 0], &[&of(1)[..], &of(28)].concat()),
        query([0x28, 0], one, &of(6)),
        query([1, 0], one, b"\x07version\x04bind\0\0\x10\0\x03"),
        query([1, 0], one, b"\x03app\x09localhost\0\0\x01\0\x01"),
        query([1, 0], one, b"\x03127\x011\0\0\x01\0\x01"),
        query([1, 0], one, b"\x0dxn--bcher-kva\x07example\0\0\x01\0\x01"),
        query([0x81, 0x80], one, &of(1)),
    ]
}

fn check(query: &[u8]) -> Result<Mark, String> {
    let Some(reply) = reply_to(query, &NameBook::new()) else {
        hold(query.len() < 12 || query[2] & 0x80 != 0, || "a query has no answer".to_owned())?;
        return Ok(mark("none"));
    };
    let again = reply_to(query, &NameBook::new()).map(|reply| reply.bytes);
    hold(again.as_ref() == Some(&reply.bytes), || "the same query has another answer".to_owned())?;
    hold(reply.bytes.len() <= 512, || format!("an answer of {} bytes", reply.bytes.len()))?;
    let message = Message::from_vec(&reply.bytes).map_err(|error| format!("the answer is none: {error}"))?;
    hold(reply.bytes[..2] == query[..2], || "another id".to_owned())?;
    hold(message.metadata.message_type == MessageType::Response, || "a query in return".to_owned())?;
    let code = message.metadata.response_code;
    hold(message.answers.len() <= 1 && message.authorities.is_empty(), || "more than one answer".to_owned())?;
    if let Some(answer) = message.answers.first() {
        let asked = Message::from_vec(query).map_err(|error| format!("answered and not read: {error}"))?;
        let name = asked.queries[0].name().to_ascii();
        let host = Host::parse(&name).map_err(|error| format!("an address of what is no name: {error}"))?;
        let Host::Name(host) = host else { return Err("an address of an address".to_owned()) };
        let local = *host == *"localhost" || host.ends_with(".localhost");
        let right = match &answer.data {
            RData::A(a) if local => a.0 == Ipv4Addr::LOCALHOST,
            RData::A(a) => a.0 == of_name(&host) && is_computed(a.0.into()),
            RData::AAAA(a) => local && a.0.is_loopback(),
            _ => false,
        };
        hold(right && code == ResponseCode::NoError, || format!("{host} is answered with {:?}", answer.data))?;
    }
    Ok(mark((
        u16::from(code),
        message.answers.len(),
        message.queries.len(),
        message.edns.is_some(),
        reply.refused.map(|r| r.1),
    )))
}

#[test]
fn no_query_breaks_the_name_server() {
    Target { seeds: seeds(), words: WORDS, longest: 600 }.run(check);
}

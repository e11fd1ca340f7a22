//! Which beginnings of HTTP/1 are read in one way only, and which are refused.

use proptest::prelude::*;

use super::*;

const GOOD: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nGET /x?y HTTP/1.0\r\nA: b c\r\nEmpty:\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nTrailer: x\r\n\r\n5\r\nhe\r\nl\r\n00a\r\n0123456789\r\n0\r\nx: 1\r\n\r\n",
    "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
];

const BAD: &[&str] = &[
    "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\nHost: a\n\n",
    "GET / HTTP/1.1\r\nHost: a\n\r\n",
    "GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\0\r\n\r\n",
    "GET / HTTP/1.1\r\nA: b\r\n folded: c\r\n\r\n",
    "GET / HTTP/1.1\r\n: b\r\n\r\n",
    "GET / HTTP/1.1\r\nno colon\r\n\r\n",
    "GET  / HTTP/1.1\r\n\r\n",
    "GET / HTTP/2.0\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET /\r\n\r\n",
    "\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
];

/// Broken only in a body, so that no head is refused.
const BROKEN: &[&str] = &[
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
];

fn all(text: &str, cut: usize) -> Result<At, Refused> {
    let mut watch = Watch::default();
    for piece in text.as_bytes().chunks(cut) {
        watch.look(piece)?;
    }
    Ok(watch.at)
}

#[test]
fn what_everybody_reads_in_one_way_passes_however_it_is_cut() {
    for text in GOOD {
        for cut in 1..=text.len() {
            let end = all(text, cut);
            assert!(matches!(end, Ok(At::Start(0) | At::Raw)), "{text:?} in pieces of {cut}: {end:?}");
        }
    }
    let pipelined: String = GOOD[..5].concat();
    assert_eq!(all(&pipelined, 7), Ok(At::Start(0)));
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_however_it_is_cut() {
    for (text, head) in BAD.iter().map(|t| (t, true)).chain(BROKEN.iter().map(|t| (t, false))) {
        for cut in 1..=text.len() {
            let refused = all(text, cut).expect_err(text);
            assert_eq!(refused.head, head, "{text:?} in pieces of {cut}: {refused:?}");
        }
    }
}

#[test]
fn http_ends_with_the_answer_that_grants_a_websocket_and_not_before() {
    let ws = GOOD[5];
    let after = |answer: &str, bytes: &[u8]| {
        let mut watch = Watch::default();
        watch.look(ws.as_bytes()).unwrap();
        watch.answered(answer.as_bytes());
        watch.look(bytes).map_err(|refused| refused.why)
    };
    let (granted, refused) = ("HTTP/1.1 101 Switching Protocols\r\n", "HTTP/1.1 426 Upgrade Required\r\n");
    assert_eq!(after(granted, b"\x82\x00\n\0\r"), Ok(()));
    assert_eq!(after(refused, GOOD[0].as_bytes()), Ok(()), "HTTP goes on");
    for bytes in BAD {
        assert!(after(refused, bytes.as_bytes()).is_err() && after("", bytes.as_bytes()).is_err(), "{bytes:?}");
    }
    // A body says so.
    let mut watch = Watch::default();
    watch.look(ws.as_bytes()).unwrap();
    watch.answered(b"HTTP/1.1 200 OK\r\n\r\n");
    watch.answered(granted.as_bytes());
    assert!(watch.look(b"\x82\x00\n").is_err());
    // Nobody asked for one.
    let mut watch = Watch::default();
    watch.look(GOOD[0].as_bytes()).unwrap();
    watch.answered(granted.as_bytes());
    assert!(watch.look(b"\x82\x00\n").is_err());
}

#[test]
fn what_came_before_the_refused_message_stays() {
    let text = format!("{}{}", GOOD[2], BAD[0]);
    let mut watch = Watch::default();
    assert_eq!(watch.look(text.as_bytes()).unwrap_err().from, GOOD[2].len());
    let mut watch = Watch::default();
    watch.look(&text.as_bytes()[..GOOD[2].len() + 10]).unwrap();
    assert_eq!(watch.look(&text.as_bytes()[GOOD[2].len() + 10..]).unwrap_err().from, 0);
}

#[test]
fn a_line_without_an_end_is_bounded() {
    let mut watch = Watch::default();
    let piece = [b'a'; 8192];
    let refused = (0..40).find_map(|_| watch.look(&piece).err());
    assert_eq!(refused.map(|r| r.why), Some("a line is too long"));
}

proptest! {
    #[test]
    fn how_bytes_are_cut_changes_nothing(
        bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), Just(b'0'), any::<u8>()], 0..200),
        start in 0usize..6,
        cut in 1usize..40,
    ) {
        let text: Vec<u8> = [GOOD[start].as_bytes(), &bytes].concat();
        let mut whole = Watch::default();
        let one = whole.look(&text).map_err(|refused| refused.why);
        let mut pieces = Watch::default();
        let mut other = Ok(());
        for piece in text.chunks(cut) {
            other = pieces.look(piece).map_err(|refused| refused.why);
            if other.is_err() {
                break;
            }
        }
        prop_assert_eq!(one, other);
        prop_assert_eq!(one.is_ok().then_some(whole.at), other.is_ok().then_some(pieces.at));
    }
}

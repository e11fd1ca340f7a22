//! WebSockets of a model API whose two sides do what the protocol lets them, and what no client of the API does.

use tokio::io::AsyncWrite;

use super::sockets::*;
use super::*;
use crate::meter::websocket::{Item, Opcode, frame};

/// Makes a frame that is not the last of its message.
fn part(opcode: Opcode, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let mut frame = frame(opcode, payload, key);
    frame[0] &= 0x7f;
    frame
}

/// Writes a message in pieces with a ping after each.
fn pieces(text: &[u8], size: usize, key: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, piece) in text.chunks(size).enumerate() {
        out.extend(part(if at == 0 { Opcode::Text } else { Opcode::Continuation }, piece, key));
        out.extend(frame(Opcode::Ping, &[at as u8], key));
    }
    out.extend(frame(Opcode::Continuation, b"", key));
    out
}

#[tokio::test]
async fn pings_pass_between_the_frames_of_a_message_either_way() {
    let (bench, mut bottle, mut server) = talk(None).await;
    let asked = create(None).to_string();
    bottle.send(&pieces(asked.as_bytes(), 20, Some(KEY))).await;
    for n in 0..asked.len().div_ceil(20) {
        let Some(Item::Control { opcode: Opcode::Ping, payload, .. }) = server.next().await else { panic!("{n}") };
        assert_eq!(payload, &[n as u8][..], "at once, and in order");
    }
    assert_eq!(server.hears().await, create(None));
    let event = begun("resp_1").to_string();
    server.send(&pieces(event.as_bytes(), 7, None)).await;
    for n in 0..event.len().div_ceil(7) {
        let Some(Item::Control { opcode: Opcode::Ping, .. }) = bottle.next().await else { panic!("{n}") };
    }
    assert_eq!(bottle.hears().await, begun("resp_1"));
    // Very many pings hold up nothing.
    for _ in 0..2000 {
        server.send(&frame(Opcode::Ping, b"?", None)).await;
    }
    server.says(ended("resp_1", 7, 5)).await;
    for _ in 0..2000 {
        assert!(matches!(bottle.next().await, Some(Item::Control { opcode: Opcode::Ping, .. })));
    }
    assert_eq!(bottle.hears().await, ended("resp_1", 7, 5));
    assert_eq!((holds(&bench).await, bench.counted().await), (0, 12));
}

#[tokio::test]
async fn text_that_is_no_utf8_and_names_that_are_too_long_are_not_understood() {
    let (_bench, mut bottle, mut server) = talk(None).await;
    bottle.send(&frame(Opcode::Text, b"{\"type\":\"response.create\",\"model\":\"\xff\"}", Some(KEY))).await;
    bottle.is_refused(400, "protocol_unknown", 1008).await;
    server.hears_nothing().await;
    let long = begun(&"r".repeat(10_000)).to_string().into_bytes();
    for bytes in [b"{\"type\":\"response.created\",\"response\":{\"id\":\"\xff\"}}".to_vec(), long] {
        let (bench, mut bottle, mut server) = talk(None).await;
        bottle.says(create(None)).await;
        server.hears().await;
        server.send(&frame(Opcode::Text, &bytes, None)).await;
        bottle.is_refused(400, "protocol_unknown", 1008).await;
        bench.settled().await;
        assert_eq!(bench.events("usage").await[0]["source"], "partial", "what was asked for is not free");
    }
}

#[tokio::test]
async fn a_side_that_goes_away_in_the_middle_of_a_frame_settles_what_was_under_way() {
    for bottle_leaves in [true, false] {
        let (bench, mut bottle, mut server) = talk(None).await;
        bottle.says(create(None)).await;
        server.hears().await;
        server.says(begun("resp_1")).await;
        bottle.hears().await;
        let half = frame(Opcode::Text, &[b'x'; 1000], bottle_leaves.then_some(KEY));
        if bottle_leaves {
            bottle.send(&half[..500]).await;
            drop(bottle);
            server.hears_nothing().await;
        } else {
            server.send(&half[..500]).await;
            drop(server);
            assert!(bottle.next().await.is_none(), "half an event is not passed");
        }
        bench.settled().await;
        assert_eq!(bench.events("usage").await[0]["source"], "partial");
    }
}

#[tokio::test]
async fn who_does_not_read_holds_the_server_up_and_a_cut_does_not_write_into_a_frame() {
    let (bench, mut bottle, mut server) = talk(None).await;
    bottle.says(create(None)).await;
    server.hears().await;
    server.says(begun("resp_1")).await;
    bottle.hears().await;
    let event = json!({"type": "response.output_text.delta", "delta": "x".repeat(15 << 20)}).to_string();
    let bytes = frame(Opcode::Text, event.as_bytes(), None);
    let size = bytes.len();
    server.send(&bytes).await;
    // More than sockets hold: the server is not read on while the bottle reads nothing.
    let more = tokio::spawn(async move {
        let mut written = 0;
        while server.stream.write_all(&bytes).await.is_ok() {
            written += 1;
        }
        written
    });
    let mut first = vec![0; 1 << 20];
    bottle.stream.read_exact(&mut first).await.unwrap();
    bench.handle.cut(CutScope::All, "operator said stop", false);
    let mut rest = Vec::new();
    let _ = bottle.stream.read_to_end(&mut rest).await;
    assert!(first.len() + rest.len() < size, "{} of {size}", rest.len());
    assert!(rest.iter().all(|byte| *byte == b'x'), "nothing was written into the frame");
    assert!(more.await.unwrap() <= 1, "it was held up");
    bench.settled().await;
    assert!(bench.counted().await >= (15 << 20) / 3, "what was read of the answer counts");
}

/// Takes all the room there is: a body that is announced, and does not come.
async fn takes_the_room(bench: &Bench) -> impl AsyncWrite {
    let mut stream = bench.tls(MODEL, false).await;
    let host = format!("{MODEL}:{}", bench.address.port());
    let length = room::ROOM;
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 12]).await.unwrap();
    stream
}

#[tokio::test]
async fn an_event_that_finds_no_room_ends_the_socket_and_what_was_under_way_counts() {
    let event = json!({"type": "response.output_text.delta", "delta": "x".repeat(500_000)});
    for full in [false, true] {
        let (bench, mut bottle, mut server) = talk(None).await;
        bottle.says(create(None)).await;
        server.hears().await;
        server.says(begun("resp_1")).await;
        bottle.hears().await;
        let taken = if full { Some(takes_the_room(&bench).await) } else { None };
        server.says(event.clone()).await;
        if full {
            bottle.is_refused(429, "limit_bodies", 1008).await;
            bench.settled().await;
            assert_eq!(bench.events("usage").await[0]["source"], "partial");
        } else {
            assert_eq!(bottle.hears().await, event);
        }
        drop(taken);
    }
}

#[tokio::test]
async fn a_message_that_finds_no_room_waits_and_then_ends_the_socket() {
    let (bench, mut bottle, mut server) = talk(None).await;
    let mut asked = create(None);
    asked["input"] = json!("x".repeat(500_000));
    let taken = takes_the_room(&bench).await;
    bottle.says(asked.clone()).await;
    drop(taken);
    assert_eq!(server.hears().await, asked, "there is room again");
    server.says(begun("resp_1")).await;
    server.says(ended("resp_1", 7, 5)).await;
    bottle.hears().await;
    bottle.hears().await;
    let _taken = takes_the_room(&bench).await;
    bottle.says(asked).await;
    bottle.is_refused(429, "limit_bodies", 1008).await;
    server.hears_nothing().await;
    assert_eq!((holds(&bench).await, bench.counted().await), (0, 12));
}

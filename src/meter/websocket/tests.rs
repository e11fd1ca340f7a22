//! Frames as servers and clients write them, and as neither may.

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

const KEY: [u8; 4] = [1, 2, 3, 4];

/// Makes a client's frame that need not be the last of its message.
fn part(opcode: Opcode, fin: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = frame(opcode, payload, Some(KEY));
    if !fin {
        out[0] &= 0x7f;
    }
    out
}

/// Reads all of `bytes`, which come in pieces of `cut`.
fn read(sender: Sender, most: usize, bytes: &[u8], cut: usize) -> Result<Vec<Item>, Fault> {
    let mut messages = Messages::new(sender, most);
    let mut items = Vec::new();
    for piece in bytes.chunks(cut.max(1)) {
        let mut piece = BytesMut::from(piece);
        while let Some(item) = messages.take(&mut piece)? {
            items.push(item);
        }
        assert!(piece.is_empty(), "what is no item yet is kept inside");
    }
    Ok(items)
}

/// Puts the pieces of a message's wire bytes together.
fn whole(message: Message) -> Vec<u8> {
    message.into_wire().flatten().collect()
}

fn fault(sender: Sender, bytes: &[u8]) -> Fault {
    let whole = read(sender, 1000, bytes, bytes.len()).unwrap_err();
    assert_eq!(read(sender, 1000, bytes, 1).unwrap_err(), whole, "however it is cut");
    whole
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    let hello = |bytes: &[u8], sender| match read(sender, 1000, bytes, 1).unwrap().as_slice() {
        [Item::Message(message)] if message.is_text() => String::from_utf8(message.content().to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(hello(&[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f], Sender::Server), "Hello");
    let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(hello(&masked, Sender::Client), "Hello");
    assert_eq!(hello(&[0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f], Sender::Server), "Hello");
    assert_eq!(frame(Opcode::Text, b"Hello", Some([0x37, 0xfa, 0x21, 0x3d])), masked);
}

#[test]
fn control_frames_within_a_message_are_handed_out_at_once() {
    let parts = [
        part(Opcode::Text, false, b"one "),
        part(Opcode::Ping, true, b"?"),
        part(Opcode::Continuation, false, b""),
        part(Opcode::Pong, true, b""),
        part(Opcode::Continuation, true, b"two"),
        part(Opcode::Close, true, &1000u16.to_be_bytes()),
    ];
    let items = read(Sender::Client, 1000, &parts.concat(), 3).unwrap();
    let [
        Item::Control { opcode: Opcode::Ping, wire, payload },
        Item::Control { opcode: Opcode::Pong, .. },
        Item::Message(message),
        Item::Control { opcode: Opcode::Close, .. },
    ] = items.as_slice()
    else {
        panic!("{items:?}")
    };
    assert_eq!((&wire[..], &payload[..]), (&parts[1][..], &b"?"[..]));
    assert_eq!(message.content(), b"one two");
}

#[test]
fn what_the_protocol_does_not_allow_is_a_fault() {
    let set = |bytes: Vec<u8>, at: usize, byte: u8| {
        let mut bytes = bytes;
        bytes[at] = byte;
        bytes
    };
    let text = frame(Opcode::Text, b"x", Some(KEY));
    assert_eq!(fault(Sender::Client, &set(text.clone(), 0, 0xc1)), Fault::Reserved, "RSV1: compressed");
    assert_eq!(fault(Sender::Client, &set(text.clone(), 0, 0xa1)), Fault::Reserved);
    assert_eq!(fault(Sender::Client, &set(text.clone(), 0, 0x91)), Fault::Reserved);
    for opcode in [3, 7, 11, 15] {
        assert_eq!(fault(Sender::Client, &set(text.clone(), 0, 0x80 | opcode)), Fault::Opcode(opcode));
    }
    assert_eq!(fault(Sender::Server, &text), Fault::Mask);
    assert_eq!(fault(Sender::Client, &frame(Opcode::Text, b"x", None)), Fault::Mask);
    assert_eq!(fault(Sender::Server, &[0x81, 126, 0, 125]), Fault::Length, "it fits one byte");
    assert_eq!(fault(Sender::Server, &[0x81, 127, 0, 0, 0, 0, 0, 0, 255, 255]), Fault::Length);
    assert_eq!(fault(Sender::Server, &[0x81, 127, 128, 0, 0, 0, 0, 0, 0, 0]), Fault::Length);
    assert_eq!(fault(Sender::Server, &[0x89, 126, 0, 126]), Fault::Control, "a long ping");
    assert_eq!(fault(Sender::Server, &[0x09, 0]), Fault::Control, "half a ping");
    assert_eq!(fault(Sender::Server, &[0x80, 0]), Fault::Order, "continues nothing");
    assert_eq!(fault(Sender::Server, &[0x01, 0, 0x81, 0]), Fault::Order, "a message within one");
    assert_eq!(fault(Sender::Server, &[0x88, 0, 0x81, 0]), Fault::AfterClose);
    for close in [&[0u8][..], &[3, 0xed], &[0, 0], &[3, 0xe8, 0xff]] {
        assert_eq!(fault(Sender::Server, &frame(Opcode::Close, close, None)), Fault::Close, "{close:?}");
    }
    // 1005 says that there was no code, and is never sent.
    assert!(read(Sender::Server, 10, &close(1008, "bb: no"), 1).is_ok());
}

#[test]
fn what_is_held_is_bounded_before_it_comes() {
    let announced = [0x81, 127, 0, 0, 0, 0, 0x40, 0, 0, 0];
    assert_eq!(fault(Sender::Server, &announced), Fault::TooLong(1000));
    let parts = [part(Opcode::Text, false, &[b'x'; 600]), part(Opcode::Continuation, true, &[b'x'; 401])];
    assert_eq!(fault(Sender::Client, &parts.concat()), Fault::TooLong(1000), "all frames together");
    let mut messages = Messages::new(Sender::Server, 1000);
    let mut taken = messages.take(&mut BytesMut::from(&[1u8, 0][..]));
    for _ in 0..1 << 15 {
        taken = messages.take(&mut BytesMut::from(&[0u8, 0][..]));
    }
    assert_eq!(taken.unwrap_err(), Fault::TooManyFrames(1 << 15), "empty ones");
    assert!(messages.take(&mut BytesMut::from(&[0x81u8, 0][..])).is_err(), "nothing is read after a fault");
}

#[test]
fn what_is_held_counts_all_that_was_collected() {
    let mut messages = Messages::new(Sender::Client, 1 << 20);
    let mut all = BytesMut::new();
    for at in 0..1000 {
        let opcode = if at == 0 { Opcode::Text } else { Opcode::Continuation };
        all.extend(part(opcode, false, b"x"));
    }
    assert!(messages.take(&mut all).unwrap().is_none());
    // A byte, its head of six, and what is remembered of the frame.
    assert!(messages.held() >= 1000 * (1 + 6 + 16), "{}", messages.held());
}

#[test]
fn large_frames_go_on_without_a_copy_and_small_ones_together() {
    let payloads = [vec![b'a'; 10], vec![b'b'; 100_000], vec![b'c'; 10], vec![b'd'; 10]];
    let bytes = written(Sender::Client, &payloads, false);
    let mut items = read(Sender::Client, 1 << 20, &bytes, 1 << 20).unwrap();
    let Some(Item::Message(message)) = items.pop() else { panic!() };
    let pieces: Vec<_> = message.into_wire().collect();
    assert_eq!(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [6 + 10 + 14, 100_000, 2 * (6 + 10)]);
    assert_eq!(pieces.concat(), bytes);
    // Very many small ones are not collected a second time.
    let payloads = vec![vec![b'x'; 3]; 20_000];
    let bytes = written(Sender::Server, &payloads, false);
    let Some(Item::Message(message)) = read(Sender::Server, 1 << 20, &bytes, 4096).unwrap().pop() else { panic!() };
    let pieces: Vec<_> = message.into_wire().collect();
    assert!(pieces.iter().all(|piece| piece.len() <= 17 << 10));
    assert!(pieces.concat() == bytes);
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let bytes = close(1008, &"\u{e9}".repeat(100));
    assert_eq!(bytes.len(), 2 + 2 + 122);
    assert!(read(Sender::Server, 10, &bytes, 7).is_ok());
}

#[test]
fn content_that_is_replaced_lies_in_the_same_frames() {
    let parts = [part(Opcode::Text, false, b"a secr"), part(Opcode::Continuation, true, b"et here")];
    let mut items = read(Sender::Client, 1000, &parts.concat(), 5).unwrap();
    let Some(Item::Message(mut message)) = items.pop() else { panic!() };
    message.replace(b"a ****** here");
    let wanted = [part(Opcode::Text, false, b"a ****"), part(Opcode::Continuation, true, b"** here")].concat();
    assert_eq!(whole(message), wanted);
}

/// A message in frames, with pings between them.
fn written(sender: Sender, payloads: &[Vec<u8>], pings: bool) -> Vec<u8> {
    let key = (sender == Sender::Client).then_some(KEY);
    let mut out = Vec::new();
    for (at, payload) in payloads.iter().enumerate() {
        let mut one = frame(if at == 0 { Opcode::Text } else { Opcode::Continuation }, payload, key);
        if at + 1 < payloads.len() {
            one[0] &= 0x7f;
        }
        out.extend(one);
        if pings && at + 1 < payloads.len() {
            out.extend(frame(Opcode::Ping, b"p", key));
        }
    }
    out
}

proptest! {
    #[test]
    fn any_message_is_read_however_it_is_cut_and_goes_on_as_it_came(
        client: bool,
        pings: bool,
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6),
        cut in 1usize..400,
    ) {
        let sender = if client { Sender::Client } else { Sender::Server };
        let bytes = written(sender, &payloads, pings);
        let items = read(sender, 1 << 20, &bytes, cut).unwrap();
        let content: Vec<u8> = payloads.concat();
        let mut wires = Vec::new();
        for item in items {
            match item {
                Item::Message(message) => {
                    prop_assert_eq!(message.content(), &content);
                    wires.push(whole(message));
                }
                Item::Control { wire, .. } => wires.insert(0, wire.to_vec()),
            }
        }
        prop_assert_eq!(wires.last().unwrap(), &written(sender, &payloads, false));
        prop_assert_eq!(wires.iter().map(|wire| wire.len()).sum::<usize>(), bytes.len());
        let mut frames = Frames::new(sender);
        for piece in bytes.chunks(cut) {
            frames.follow(piece).unwrap();
        }
        prop_assert!(frames.at_rest());
    }

    #[test]
    fn no_bytes_make_it_panic_or_hold_more_than_it_may(
        bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 1usize..50, client: bool,
    ) {
        let sender = if client { Sender::Client } else { Sender::Server };
        let mut messages = Messages::new(sender, 100);
        for piece in bytes.chunks(cut) {
            let mut piece = BytesMut::from(piece);
            while let Ok(Some(_)) = messages.take(&mut piece) {}
            prop_assert!(messages.held() <= 100 + (14 + 40) * 600);
        }
        let whole = read(sender, 100, &bytes, bytes.len()).map(|items| items.len());
        prop_assert_eq!(read(sender, 100, &bytes, cut).map(|items| items.len()), whole);
    }
}

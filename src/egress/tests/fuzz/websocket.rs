//! WebSocket frames of both sides. What holds: however bytes are cut, the same comes out of them and the same fault ends it; each
//! message is what a plain reading of the frames gives, goes on as the bytes that it came in, and is no longer than it may be.

use bytes::BytesMut;

use super::{Mark, Target, hold, mark};
use crate::meter::websocket::{Fault, Item, Messages, Opcode, Sender, frame};

/// Longest message here.
const MOST: usize = 300;

const WORDS: &[&[u8]] = &[
    b"\x81\x05Hello",
    b"\x01\x03Hel",
    b"\x80\x02lo",
    b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
    b"\x89\x00",
    b"\x8a\x80\x01\x02\x03\x04",
    b"\x88\x02\x03\xe8",
    b"\x88\x00",
    b"\xc1",
    b"\x7e\x00\x7e",
    b"\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
    b"\xfe\x00\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x80",
    b"\x00",
];

fn seeds() -> Vec<Vec<u8>> {
    let key = Some([0x37, 0xfa, 0x21, 0x3d]);
    let create = br#"{"type":"response.create","model":"m","input":[]}"#;
    let part = |opcode, payload: &[u8], key| {
        let mut begun = frame(opcode, payload, key);
        begun[0] &= 0x7f;
        begun
    };
    let of = |key| {
        [
            frame(Opcode::Text, create, key),
            [
                part(Opcode::Text, b"one ", key),
                frame(Opcode::Ping, b"?", key),
                frame(Opcode::Continuation, b"two", key),
            ]
            .concat(),
            [frame(Opcode::Binary, &[7; 200], key), frame(Opcode::Close, b"\x03\xe8bye", key)].concat(),
            [
                part(Opcode::Text, b"", key),
                part(Opcode::Continuation, &[0x61; 130], key),
                frame(Opcode::Continuation, b"", key),
            ]
            .concat(),
            frame(Opcode::Text, &[0x61; MOST + 1], key),
        ]
    };
    [of(key), of(None)].concat()
}

/// What came out, in order: what kind, content (of controls the bytes as they came) and the bytes as they came.
type Out = Vec<(u8, Vec<u8>, Vec<u8>)>;

fn read(sender: Sender, bytes: &[u8], cut: usize) -> Result<(Out, Result<bool, Fault>), String> {
    let mut messages = Messages::new(sender, MOST);
    let mut out = Vec::new();
    for piece in bytes.chunks(cut.max(1)) {
        let mut piece = BytesMut::from(piece);
        loop {
            match messages.take(&mut piece) {
                Ok(Some(Item::Control { opcode, wire, .. })) => out.push((opcode.bits(), wire.to_vec(), wire.to_vec())),
                Ok(Some(Item::Message(message))) => {
                    let content = message.content().to_vec();
                    out.push((u8::from(!message.is_text()) + 1, content, message.into_wire().flatten().collect()));
                }
                Ok(None) => break,
                Err(fault) => {
                    let again = messages.take(&mut BytesMut::from(&b"\x81\x00"[..]));
                    hold(again.err() == Some(fault), || "something is read after a fault".to_owned())?;
                    return Ok((out, Err(fault)));
                }
            }
        }
        hold(piece.is_empty(), || "bytes are left over".to_owned())?;
        // A frame has two bytes at least, and what is remembered of it is counted.
        hold(messages.held() <= 13 * bytes.len(), || "more is held than came".to_owned())?;
    }
    Ok((out, Ok(messages.is_within())))
}

/// Reads frames as plainly as there is, and stops at what is not whole.
fn plainly(bytes: &[u8]) -> Out {
    let (mut rest, mut out, mut open) = (bytes, Out::new(), None::<(u8, Vec<u8>, Vec<u8>)>);
    while let [first, second, ..] = *rest {
        let wide = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let key = if second & 0x80 == 0 { 0 } else { 4 };
        let start = 2 + wide + key;
        let Some(head) = rest.get(..start) else { break };
        let length = match wide {
            0 => usize::from(second & 0x7f),
            _ => head[2..2 + wide].iter().fold(0usize, |sum, b| (sum << 8) | usize::from(*b)),
        };
        let Some(payload) = start.checked_add(length).and_then(|end| rest.get(start..end)) else { break };
        let wire = &rest[..start + length];
        let key = &head[2 + wide..];
        let content: Vec<u8> =
            payload.iter().enumerate().map(|(i, b)| b ^ key.get(i % 4).copied().unwrap_or_default()).collect();
        rest = &rest[start + length..];
        if first & 8 != 0 {
            out.push((first & 0xf, wire.to_vec(), wire.to_vec()));
            continue;
        }
        let (_, whole, raw) = open.get_or_insert_with(|| (first & 0xf, Vec::new(), Vec::new()));
        whole.extend(content);
        raw.extend_from_slice(wire);
        if first & 0x80 != 0 {
            out.extend(open.take());
        }
    }
    out
}

fn check(bytes: &[u8]) -> Result<Mark, String> {
    let mut marks = Vec::new();
    for sender in [Sender::Client, Sender::Server] {
        let (out, end) = read(sender, bytes, bytes.len())?;
        for cut in [1, 1 + usize::try_from(mark(bytes) % 17).unwrap()] {
            let (pieces, end_of_pieces) = read(sender, bytes, cut)?;
            hold(pieces == out && end_of_pieces == end, || format!("{end:?}, in pieces of {cut} {end_of_pieces:?}"))?;
        }
        let plain = plainly(bytes);
        hold(plain.starts_with(&out), || format!("{out:?} and not {plain:?}"))?;
        hold(out.iter().all(|(_, content, _)| content.len() <= MOST), || "a message is too long".to_owned())?;
        // Whole bytes without a fault leave nothing out.
        hold(end != Ok(false) || plain.len() == out.len(), || format!("{out:?} leaves out of {plain:?}"))?;
        marks.push((out.len().min(6), end.map_err(|fault| fault.to_string())));
    }
    Ok(mark(marks))
}

#[test]
fn no_frame_breaks_the_reader() {
    Target { seeds: seeds(), words: WORDS, longest: 2000 }.run(check);
}

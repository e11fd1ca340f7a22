//! Request bodies for model APIs that come compressed: Zstandard (RFC 8878), as Codex sends them to ChatGPT's backend.
//!
//! What cannot be read cannot be checked, and what two decoders read in two ways was checked by neither: a body is decoded
//! here, within bounds, and goes on as it was read, uncompressed.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::deny::{Denial, Deny};
use super::model::{may_be_held, most_held, too_large};
use super::room::{self, Share};

/// How a body is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Identity,
    Zstd,
}

/// How a frame begins.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Furthest that a frame may point back, and so what its decoder holds beside the body (RFC 8878, 3.1.1.1.2). Unit: bytes.
const WINDOW: u64 = 8 << 20;
/// How much is taken from the decoder at once. Unit: bytes.
const PIECE: usize = 256 << 10;
/// Blocks that are decoded before other work has its turn; of up to 128 KiB each.
const TURN: usize = 4;
/// Blocks of a frame, and one more for so many bytes that it came as: a block that says next to nothing takes as long as any.
const BLOCKS: usize = 1024;
const BLOCK_BYTES: usize = 1024;

/// Gets how the body of a request to a model API is coded; refuses codings that are not read.
pub(super) fn of(headers: &HeaderMap) -> Result<Coding, Deny> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let value = values.next().map_or(&b""[..], http::HeaderValue::as_bytes).trim_ascii();
    let known = [(&b""[..], Coding::Identity), (b"identity", Coding::Identity), (b"zstd", Coding::Zstd)];
    match known.into_iter().find(|(name, _)| value.eq_ignore_ascii_case(name)) {
        Some((_, coding)) if values.next().is_none() => Ok(coding),
        _ => Err(Deny::new(Denial::ProtocolUnknown, "bb: request bodies of this coding are not passed to model APIs.")
            .step("send the body without Content-Encoding, or as one frame of zstd")),
    }
}

/// Gets the size that a frame says its content has (RFC 8878, 3.1.1.1), if it says one.
fn said(coded: &[u8]) -> Option<u64> {
    let (descriptor, rest) = coded.strip_prefix(&MAGIC)?.split_first()?;
    let single = descriptor & 0x20 != 0;
    let (length, more) = match descriptor >> 6 {
        0 if !single => return None,
        0 => (1, 0),
        1 => (2, 256),
        2 => (4, 0),
        _ => (8, 0),
    };
    let dictionary = match descriptor & 3 {
        3 => 4,
        length => usize::from(length),
    };
    // Behind the window, which a single segment has not.
    let before = usize::from(!single) + dictionary;
    let bytes = rest.get(before..before + length)?;
    Some(bytes.iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte)).saturating_add(more))
}

/// Asks for the room that a body needs by its own word, and waits for it as bodies do that come as they are: before its turn to be
/// decoded, so that nobody who has the turn waits. The word is not believed beyond that.
pub(super) async fn make_room(coded: &Bytes, most: Option<u64>, share: &mut Share) -> Result<(), Deny> {
    let Some(said) = said(coded) else { return Ok(()) };
    may_be_held(said, most)?;
    let said = usize::try_from(said).unwrap_or(usize::MAX);
    // It waits for others, and not for itself.
    if !room::hold_both(coded.len(), said) {
        return Err(too_large(room::ROOM));
    }
    share.grow(said).await
}

/// Decodes a body, which is one frame, to at most as much as a route that says `most` lets through. Takes of the bottle's room, beyond
/// what [`make_room`] got, as it swells, and does not wait for it: who waits here would wait for those who wait for their turn.
pub(super) async fn decode(coded: &Bytes, most: Option<u64>, mut share: Share) -> Result<Bytes, Deny> {
    let garbled = |what: &str| {
        Deny::new(Denial::ProtocolUnknown, format!("bb: the compressed body of the request {what}."))
            .step("send the body without Content-Encoding, or as one frame of zstd")
    };
    let most = most_held(most);
    let mut frame = FrameDecoder::new();
    frame.set_max_window_size(WINDOW);
    let mut left = coded.as_ref();
    let began = frame.init(&mut left);
    began.map_err(|_| garbled("is no frame of zstd, or one of which too much would have to be remembered"))?;
    let blocks = BLOCKS + coded.len() / BLOCK_BYTES;
    let mut body = BytesMut::new();
    loop {
        let whole = frame.is_finished();
        if !whole {
            frame
                .decode_blocks(&mut left, BlockDecodingStrategy::UptoBlocks(TURN))
                .map_err(|_| garbled("is damaged"))?;
        }
        if frame.blocks_decoded() > blocks {
            return Err(garbled("comes in too many blocks"));
        }
        while frame.can_collect() > 0 {
            let length = body.len();
            body.resize(length + frame.can_collect().min(PIECE), 0);
            let read = frame.read(body.get_mut(length..).unwrap_or_default()).map_err(|_| garbled("is damaged"))?;
            body.truncate(length + read);
            if body.len() > most {
                return Err(too_large(most));
            }
            if !share.try_grow(body.len()) {
                // Beside what it came as, which is held as well.
                return Err(if coded.len() + body.len() > room::ROOM { too_large(room::ROOM) } else { room::full() });
            }
        }
        if whole {
            break;
        }
        tokio::task::yield_now().await;
    }
    // A second frame would be read by some and left by others.
    if !left.is_empty() {
        return Err(garbled("has more behind its end"));
    }
    // Decoders differ in whether they look.
    if said(coded).is_some_and(|said| u64::try_from(body.len()) != Ok(said)) {
        return Err(garbled("has another size than it says"));
    }
    Ok(share.of(body.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a frame by hand, of raw blocks (RFC 8878, 3.1.1), whose window is `1 << (10 + exponent)` bytes.
    fn raw(text: &[u8], exponent: u8) -> Vec<u8> {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3];
        let chunks: Vec<&[u8]> = text.chunks(1024).collect();
        for (index, chunk) in chunks.iter().enumerate() {
            let head = (chunk.len() as u32) << 3 | u32::from(index + 1 == chunks.len());
            frame.extend_from_slice(&head.to_le_bytes()[..3]);
            frame.extend_from_slice(chunk);
        }
        frame
    }

    /// Makes a frame whose one block says `byte` so often.
    fn repeated(byte: u8, times: u32) -> Vec<u8> {
        let head = times << 3 | 1 << 1 | 1;
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
        frame.extend_from_slice(&head.to_le_bytes()[..3]);
        frame.push(byte);
        frame
    }

    /// Makes a frame of one raw block that says, in the shortest form or with `flag`, that it has `size` bytes.
    fn saying(text: &[u8], size: u64, flag: u8) -> Vec<u8> {
        let (length, less) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(flag)];
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, flag << 6 | 0x20];
        frame.extend_from_slice(&(size - less).to_le_bytes()[..length]);
        frame.extend_from_slice(&((text.len() as u32) << 3 | 1).to_le_bytes()[..3]);
        frame.extend_from_slice(text);
        frame
    }

    async fn read(frame: impl Into<Bytes>, most: Option<u64>) -> Result<Bytes, Deny> {
        decode(&frame.into(), most, room::Room::default().share()).await
    }

    #[tokio::test]
    async fn a_frame_is_read_whole_within_its_bounds() {
        let text = br#"{"model":"gpt"}"#.repeat(1000);
        assert_eq!(read(raw(&text, 10), None).await.unwrap(), text);
        assert_eq!(read(raw(b"x", 0), None).await.unwrap(), &b"x"[..]);
        let many = read(repeated(b'a', 100_000), Some(100_000)).await.unwrap();
        assert_eq!(many.len(), 100_000);
        let deny = read(repeated(b'a', 100_001), Some(100_000)).await.unwrap_err();
        assert_eq!(deny.kind, Denial::BodyTooLarge);
    }

    #[tokio::test]
    async fn what_swells_is_stopped_where_the_bound_is() {
        let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
        for last in [false; 4000].into_iter().chain([true]) {
            let head = (128u32 << 10) << 3 | 1 << 1 | u32::from(last);
            bomb.extend_from_slice(&head.to_le_bytes()[..3]);
            bomb.push(b' ');
        }
        assert!(bomb.len() < 20_000);
        assert_eq!(read(bomb.clone(), None).await.unwrap_err().kind, Denial::BodyTooLarge);
        // The bottle's room is asked for as it swells.
        let room = room::Room::default();
        let mut others = room.share();
        assert!(others.try_grow(room::ROOM - (1 << 20)));
        assert_eq!(decode(&bomb.into(), None, room.share()).await.unwrap_err().kind, Denial::LimitBodies);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_frame_says_of_its_size_is_asked_for_and_held_against_it() {
        let text = [b'x'; 300];
        for (size, flag, same) in [(300, 1, true), (300, 2, true), (300, 3, true), (301, 1, false), (299, 2, false)] {
            let frame = saying(&text, size, flag);
            assert_eq!(said(&frame), Some(size));
            match read(frame, None).await {
                Ok(body) => assert!(same && body == text[..], "{size}"),
                Err(deny) => assert!(!same && deny.kind == Denial::ProtocolUnknown, "{size}: {deny:?}"),
            }
        }
        assert_eq!(said(&saying(b"", 0, 0)), Some(0));
        assert_eq!(
            (said(&raw(b"x", 10)), said(b"{}"), said(&MAGIC), said(&saying(&text, 300, 3)[..8])),
            (None, None, None, None)
        );
        // Behind a window and the id of a dictionary.
        assert_eq!(said(&[0x28, 0xb5, 0x2f, 0xfd, 0x83, 80, 9, 9, 9, 9, 1, 2, 0, 0]), Some(0x201));

        let room = room::Room::default();
        let mut others = room.share();
        assert!(others.try_grow(room::ROOM));
        let large = Bytes::from(saying(&text, 1 << 20, 2));
        let mut share = room.share();
        assert_eq!(make_room(&large, None, &mut share).await.unwrap_err().kind, Denial::LimitBodies, "in vain");
        let waiting = tokio::spawn(async move { make_room(&large, None, &mut share).await.map(|()| share) });
        tokio::task::yield_now().await;
        drop(others);
        let share = waiting.await.unwrap().unwrap();
        assert!(!room.share().try_grow(room::ROOM), "it has it");
        drop(share);
        for (size, kind) in [(1 << 40, Denial::BodyTooLarge), (u64::MAX - 9, Denial::BodyTooLarge)] {
            let frame = Bytes::from(saying(&text, size, 3));
            assert_eq!(make_room(&frame, None, &mut room.share()).await.unwrap_err().kind, kind);
        }
        let frame = Bytes::from(saying(&[b'x'; 20_000], room::ROOM as u64, 2));
        assert_eq!(
            make_room(&frame, None, &mut room.share()).await.unwrap_err().kind,
            Denial::BodyTooLarge,
            "beside itself"
        );
        assert_eq!(make_room(&frame, Some(9), &mut room.share()).await.unwrap_err().kind, Denial::BodyTooLarge);
    }

    #[tokio::test]
    async fn what_is_no_single_whole_frame_is_refused() {
        let good = raw(br#"{"model":"gpt"}"#, 10);
        for bad in [
            Vec::new(),
            b"{\"model\":\"gpt\"}".to_vec(),
            good[..good.len() - 1].to_vec(),
            good[..7].to_vec(),
            [good.clone(), good.clone()].concat(),
            [good.clone(), b" ".to_vec()].concat(),
            // A frame that is to be skipped (3.1.2), alone and before another.
            [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, b'x'][..], &good].concat(),
            // Blocks that say nothing, and more of them than anybody needs.
            raw(b"", 10)[..6].iter().copied().chain([0, 0, 0].repeat(3000)).chain([1, 0, 0]).collect(),
            // It would have the decoder remember 16 MiB.
            raw(b"x", 14),
            raw(b"x", 31),
        ] {
            let shown = format!("{:x?}", &bad[..bad.len().min(20)]);
            assert_eq!(read(bad, None).await.unwrap_err().kind, Denial::ProtocolUnknown, "{shown}");
        }
    }

    #[test]
    fn one_coding_is_known_and_two_are_none() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_ENCODING, http::HeaderValue::from_static(value));
            }
            of(&headers).map_err(|deny| deny.kind)
        };
        assert_eq!(of(&[]), Ok(Coding::Identity));
        assert_eq!(of(&["identity"]), Ok(Coding::Identity));
        assert_eq!(of(&["Zstd"]), Ok(Coding::Zstd));
        for bad in [&["gzip"][..], &["zstd, gzip"], &["zstd", "zstd"], &["identity", "gzip"], &["br"]] {
            assert_eq!(of(bad), Err(Denial::ProtocolUnknown), "{bad:?}");
        }
    }
}

//! What a request body is made of, as far as its size in tokens goes: plain text, text that is dense, media; and whose conversation
//! it continues. Pure, and cheap: a body is sampled, not read.
//!
//! Four bytes of a JSON body are about one token, of base64 about one and a half; an image is no text at all. How many bytes a token
//! really has, the caller learns by model ([`crate::budget::learned`]).

use memchr::{memchr, memchr_iter, memmem, memrchr};

/// Bytes from one sample to the next, and of each.
const STEP: usize = 256;
const WINDOW: usize = 48;
/// Least bytes of what is taken for media.
const LEAST_MEDIA: usize = 512;
/// How far before the bytes of media their kind is said, and how far behind. Unit: bytes.
const BEFORE: usize = 200;
const BEHIND: usize = 80;
/// Dense bytes for 100 tokens: 1.46 bytes are one (measured of base64 with o200k).
const DENSE: u64 = 146;
/// What an image is at most, and at least; and what one is taken for whose size is not found. Unit: tokens.
const MOST_IMAGE: u64 = 4784;
const LEAST_IMAGE: u64 = 85;
const SOME_IMAGE: u64 = 1600;
/// Points of an image for one token.
const POINTS: u64 = 750;
/// Bytes of base64 for one token of a document, and of sound.
const DOCUMENT: u64 = 14;
const SOUND: u64 = 256;
/// The most bytes of an image's base64 that are taken for one token, whatever the image says of itself: what is none is far more tokens.
const AT_MOST: u64 = 256;
/// How much of the first message makes a conversation known. Unit: bytes.
const FIRST: usize = 4096;

/// What a body is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bulk {
    /// Plain text, with all that JSON puts around it. Unit: bytes.
    pub text: u64,
    /// Text without words, as base64 is. Unit: bytes.
    pub dense: u64,
    /// Images, documents and sound. Unit: tokens.
    pub media: u64,
}

impl Bulk {
    /// Looks at a body.
    pub fn of(body: &[u8]) -> Bulk {
        let mut bulk = Bulk::default();
        let (mut at, mut counted) = (0, 0);
        while let Some(window) = body.get(at..at + WINDOW) {
            if !is_dense(window) {
                at += STEP;
                continue;
            }
            let run = run(body, counted, at);
            match kind(body, &run) {
                Kind::Media(tokens) => bulk.media += tokens,
                Kind::Dense => bulk.dense += run.len() as u64,
                Kind::Opaque => bulk.text += run.len() as u64,
            }
            bulk.text += (run.start - counted) as u64;
            counted = run.end;
            at = run.end.max(at + 1);
        }
        bulk.text += (body.len() - counted) as u64;
        bulk
    }

    /// Gets what is not text that has a size to be learned. Unit: tokens.
    pub fn fixed(&self) -> u64 {
        (self.dense * 100).div_ceil(DENSE) + self.media
    }

    /// Gets what there is more in this body than in an `earlier` one of its conversation; `None` where it is not longer.
    pub fn beyond(&self, earlier: &Bulk) -> Option<Bulk> {
        Some(Bulk {
            text: self.text.checked_sub(earlier.text)?,
            dense: self.dense.saturating_sub(earlier.dense),
            media: self.media.saturating_sub(earlier.media),
        })
    }
}

/// Tells whether a sample has the letters of base64 and nothing else. Ends of lines stand escaped in JSON.
fn is_dense(window: &[u8]) -> bool {
    let (mut digit, mut letter) = (false, false);
    for byte in window {
        match byte {
            b'0'..=b'9' => digit = true,
            b'a'..=b'z' | b'A'..=b'Z' => letter = true,
            b'+' | b'/' | b'=' | b'-' | b'_' | b'\\' => {}
            _ => return false,
        }
    }
    digit && letter
}

/// Gets the bytes around `at` that are of one kind with it, none of them before `from`.
fn run(body: &[u8], from: usize, at: usize) -> std::ops::Range<usize> {
    let dense = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_' | b'\\');
    let before = body[from..at].iter().rev().take_while(|byte| dense(byte)).count();
    let rest = &body[at..];
    // No further than it goes: whoever writes the body decides how many there are.
    let after = rest.iter().position(|byte| !dense(byte)).unwrap_or(rest.len());
    at - before..at + after
}

/// Keys of the strings that media stand in.
const DATA: [&[u8]; 6] = [b"data", b"url", b"image_url", b"bytes", b"file_data", b"fileData"];

/// Tells whether a run that `before` leads to is a whole string of JSON under a key for data, or that of a `data:` URL. One inside a text is none:
/// quotes stand escaped there.
fn is_data(before: &[u8]) -> bool {
    let Some(quote) = memrchr(b'"', before) else { return false };
    let lead = &before[quote + 1..];
    let is_url = lead.starts_with(b"data:") && lead.ends_with(b";base64,");
    if !is_url && !lead.is_empty() {
        return false;
    }
    let key = before[..quote].trim_ascii_end().strip_suffix(b":").map(<[u8]>::trim_ascii_end);
    let Some(key) = key.and_then(|key| key.strip_suffix(b"\"")) else { return false };
    let Some(begin) = memrchr(b'"', key) else { return false };
    DATA.contains(&&key[begin + 1..]) && begin.checked_sub(1).and_then(|at| key.get(at)) != Some(&b'\\')
}

enum Kind {
    /// Of so many tokens.
    Media(u64),
    Dense,
    /// A signature, or reasoning that its provider alone can read: as long as the text that it stands for.
    Opaque,
}

fn kind(body: &[u8], run: &std::ops::Range<usize>) -> Kind {
    let before = &body[run.start.saturating_sub(BEFORE)..run.start];
    let behind = &body[run.end..body.len().min(run.end + BEHIND)];
    let says = |word: &[u8]| memmem::find(before, word).is_some() || memmem::find(behind, word).is_some();
    let ends = |word: &[u8]| memmem::rfind(before, word).is_some_and(|at| before.len() - at < 40);
    if ends(b"encrypted_content\"") || ends(b"ignature\"") {
        return Kind::Opaque;
    }
    let length = run.len() as u64;
    if run.len() < LEAST_MEDIA || memchr(b'\\', &body[run.clone()]).is_some() || !is_data(before) {
        return Kind::Dense;
    }
    match () {
        // What it says of its size is its own word.
        () if says(b"image") => Kind::Media(image(&body[run.clone()]).max(length.div_ceil(AT_MOST))),
        () if says(b"audio") => Kind::Media(length.div_ceil(SOUND)),
        () if says(b"pdf") || says(b"application/") || says(b"document") => Kind::Media(length.div_ceil(DOCUMENT)),
        () => Kind::Dense,
    }
}

/// Gets the tokens of an image. A PNG says how large it is among its first bytes.
fn image(base64: &[u8]) -> u64 {
    let size = size_of_png(base64).map(|(width, height)| (u64::from(width) * u64::from(height)).div_ceil(POINTS));
    size.unwrap_or(SOME_IMAGE).clamp(LEAST_IMAGE, MOST_IMAGE)
}

/// Reads width and height of a PNG (its specification, 11.2.1).
fn size_of_png(base64: &[u8]) -> Option<(u32, u32)> {
    let value = |byte: &u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    };
    let mut head = Vec::with_capacity(24);
    for four in base64.get(..32)?.chunks_exact(4) {
        let bits = four.iter().try_fold(0u32, |bits, byte| Some(bits << 6 | u32::from(value(byte)?)))?;
        head.extend_from_slice(&bits.to_be_bytes()[1..]);
    }
    let number = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?));
    head.starts_with(b"\x89PNG\r\n\x1a\n").then_some((number(16)?, number(20)?))
}

/// Where conversations begin, by the names that the APIs have for them.
const BEGINNINGS: [&[u8]; 3] = [b"\"messages\"", b"\"contents\"", b"\"input\""];
/// By which a client itself tells its conversations apart.
const NAMES: [&[u8]; 2] = [b"\"prompt_cache_key\"", b"\"session_id\""];

/// Gets what a conversation is known by: its first message, and the name that its client has for it. Sub-agents that share a bottle
/// have conversations of their own. Two that begin alike may be taken for one, which only makes an estimate worse.
pub fn conversation(body: &[u8]) -> u64 {
    let first = BEGINNINGS.iter().find_map(|name| Some(&body[key(body, name)?..])).unwrap_or_default();
    let mut hash = texts(0xcbf2_9ce4_8422_2325, first);
    for name in NAMES {
        if let Some(at) = key(body, name) {
            let value = &body[at..body.len().min(at + 80)];
            let end = memmem::find(value, b"\",").or_else(|| memmem::find(value, b"\"}")).unwrap_or(value.len());
            hash = self::hash(hash, &value[..end]);
        }
    }
    hash
}

/// Gets where the value of a key stands; one in a text has its quotes escaped.
fn key(body: &[u8], name: &[u8]) -> Option<usize> {
    let found = memmem::find_iter(body, name).find(|at| *at == 0 || body[at - 1] != b'\\')?;
    Some(found + name.len())
}

/// Words that stand in a message where it is to be cached: they move with the last one.
const MARKS: [&[u8]; 6] = [b"cache_control", b"type", b"ephemeral", b"ttl", b"5m", b"1h"];

/// Takes the texts of the first message of a list into a hash.
fn texts(mut hash: u64, list: &[u8]) -> u64 {
    let (mut depth, mut at) = (0u32, 0);
    let some = &list[..list.len().min(FIRST)];
    while let Some(byte) = some.get(at) {
        at += 1;
        match byte {
            b'[' | b'{' => depth += 1,
            // The list itself, or the first of its elements, is over.
            b']' | b'}' if depth <= 2 => break,
            b']' | b'}' => depth -= 1,
            b'"' => {
                let rest = &some[at..];
                let mut ends = memchr_iter(b'"', rest);
                let end = ends.find(|end| *end == 0 || rest[end - 1] != b'\\').unwrap_or(rest.len());
                if !MARKS.contains(&&rest[..end]) {
                    hash = self::hash(hash, &rest[..end]);
                }
                at += end + 1;
                if depth == 0 {
                    break;
                }
            }
            _ => {}
        }
    }
    hash
}

/// FNV-1a.
fn hash(from: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(from, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Bytes without any order, as base64.
    fn base64(length: usize) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut seed = 7u64;
        (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(LETTERS[(seed >> 58) as usize])
            })
            .collect()
    }

    #[test]
    fn plain_text_is_plain_and_what_is_dense_is_dense() {
        let text =
            "It was a bright cold day in April, and the clocks were striking 13. fn main() { a[0] = 1; }\n".repeat(80);
        let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string();
        assert_eq!(Bulk::of(body.as_bytes()), Bulk { text: body.len() as u64, ..Bulk::default() });
        let lines: Vec<String> =
            base64(7600).as_bytes().chunks(76).map(|l| String::from_utf8(l.to_vec()).unwrap()).collect();
        let body = json!({"messages": [{"content": format!("{text}{}{text}", lines.join("\n"))}]}).to_string();
        let bulk = Bulk::of(body.as_bytes());
        assert!((7300..8000).contains(&bulk.dense), "{bulk:?}");
        assert_eq!((bulk.media, bulk.text + bulk.dense), (0, body.len() as u64));
        assert_eq!(Bulk::of(b""), Bulk::default());
    }

    #[test]
    fn media_count_by_their_kind_and_not_by_their_bytes() {
        let data = base64(400_000);
        // The first bytes of a PNG of 1500 by 1000 points.
        let png = format!("iVBORw0KGgoAAAANSUhEUgAABdwAAAPo{data}");
        let image = |data: &str| json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}});
        let cases = [
            (image(&png), 2000),
            (image(&data), SOME_IMAGE),
            (json!({"type": "input_image", "image_url": format!("data:image/jpeg;base64,{data}")}), SOME_IMAGE),
            (json!({"inlineData": {"mimeType": "image/webp", "data": data}}), SOME_IMAGE),
            (json!({"type": "document", "source": {"media_type": "application/pdf", "data": data}}), 28572),
            (json!({"input_audio": {"data": data, "format": "wav"}}), 1563),
        ];
        for (part, tokens) in cases {
            let body = json!({"messages": [{"role": "user", "content": [part]}]}).to_string();
            let bulk = Bulk::of(body.as_bytes());
            assert_eq!((bulk.media, bulk.dense), (tokens, 0), "{}", &body[..120]);
            assert!(bulk.text < 200);
        }
        // A text is none, whatever it begins with and whatever stands beside it.
        for text in [png.clone(), format!("an image \"data\":\"{png}"), format!("data:image/png;base64,{png}")] {
            let body =
                json!({"messages": [{"role": "user", "content": [{"type": "text", "text": text}, {"type": "image"}]}]});
            let bulk = Bulk::of(body.to_string().as_bytes());
            assert!(bulk.media == 0 && bulk.dense > 390_000, "{bulk:?}");
        }
        // Nor is one small because it says so.
        let small = format!("iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB{data}");
        let body = json!({"messages": [{"content": [image(&small)]}]}).to_string();
        assert_eq!(Bulk::of(body.as_bytes()).media, (small.len() as u64).div_ceil(AT_MOST));
        // Reasoning that only its provider reads, and signatures: text.
        for name in ["encrypted_content", "thoughtSignature", "signature"] {
            let body = json!({"input": [{"type": "reasoning", name: data}]}).to_string();
            assert_eq!(Bulk::of(body.as_bytes()).text, body.len() as u64, "{name}");
        }
    }

    #[test]
    fn a_conversation_is_known_by_how_it_begins() {
        let turn = |first: &str, more: usize| {
            let mut messages = vec![json!({"role": "user", "content": first})];
            messages.extend((0..more).map(|n| json!({"role": "assistant", "content": n})));
            let text = json!({"model": "m", "max_tokens": 100 + more, "messages": messages}).to_string();
            conversation(text.as_bytes())
        };
        assert_eq!(turn("do it", 0), turn("do it", 5));
        assert_ne!(turn("do it", 0), turn("do that", 0), "a sub-agent");
        let marked = |marked: bool| {
            let mut part = json!({"type": "text", "text": "hi \"you\""});
            if marked {
                part["cache_control"] = json!({"type": "ephemeral", "ttl": "1h"});
            }
            let mut messages = vec![json!({"role": "user", "content": [part]})];
            messages.extend((!marked).then(|| json!({"role": "assistant", "content": "more"})));
            conversation(json!({ "messages": messages }).to_string().as_bytes())
        };
        assert_eq!(marked(true), marked(false), "what is to be cached moves");
        let said = |text: &str| conversation(json!({"input": text, "model": "m"}).to_string().as_bytes());
        assert_ne!(said("a"), said("b"));
        let session =
            |name: &str| conversation(json!({"input": [{"a": 1}], "prompt_cache_key": name}).to_string().as_bytes());
        assert_eq!(session("a"), session("a"));
        assert_ne!(session("a"), session("b"));
        assert_eq!(conversation(b""), conversation(b"{"));
    }
}

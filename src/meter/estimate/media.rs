//! How many tokens images, documents and sound are, and which strings of a body are some.
//!
//! A string is one only where the API has one: under a key for data, and below nothing but the keys by which the APIs lead there. What stands
//! in a call's arguments, or in the schema of a tool, is text to the model, whatever it looks like.

/// Least bytes of what is taken for media.
const LEAST: usize = 512;
/// What an image is at most, and at least; and what one is taken for whose size is not found. Unit: tokens.
const MOST_IMAGE: u64 = 4784;
const LEAST_IMAGE: u64 = 85;
pub(super) const SOME_IMAGE: u64 = 1600;
/// Points of an image for one token.
const POINTS: u64 = 750;
/// Bytes of base64 for one token of a document, and of sound.
const DOCUMENT: u64 = 14;
const SOUND: u64 = 256;
/// The most bytes of an image's base64 that are taken for one token, whatever the image says of itself: what is none is far more tokens.
pub(super) const AT_MOST: u64 = 256;
/// Longest beginning of a `data:` URL. Unit: bytes.
const LEAD: usize = 120;

/// What is no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    Image,
    Document,
    /// And moving pictures.
    Sound,
}

/// Keys by which the APIs lead to media, beside those of the lists themselves.
const ON_THE_WAY: [&[u8]; 26] = [
    b"audio",
    b"bytes",
    b"content",
    b"contents",
    b"data",
    b"document",
    b"file",
    b"fileData",
    b"file_data",
    b"functionResponse",
    b"function_response",
    b"image",
    b"image_url",
    b"inlineData",
    b"inline_data",
    b"input_audio",
    b"messages",
    b"output",
    b"parts",
    b"reasoningContent",
    b"reasoningText",
    b"reasoning_details",
    b"source",
    b"toolResult",
    b"url",
    b"video",
];

/// Keys of the strings that media stand in.
const DATA: [&[u8]; 6] = [b"data", b"url", b"image_url", b"bytes", b"file_data", b"fileData"];

/// Keys of what only its provider reads: signatures, and reasoning that is not shown.
const OPAQUE: [&[u8]; 4] = [b"encrypted_content", b"signature", b"thoughtSignature", b"thought_signature"];

/// Tells whether media can stand below `key`, where they can stand above it.
pub(super) fn leads_to_media(key: &[u8]) -> bool {
    ON_THE_WAY.contains(&key) || OPAQUE.contains(&key)
}

/// Tells whether strings under `key` are as long as the text that they stand for.
pub(super) fn is_opaque(key: &[u8]) -> bool {
    OPAQUE.contains(&key)
}

/// Gets the kind of media that a word names: a key, or a value of [`names_a_kind`].
pub(super) fn kind(word: &[u8]) -> Option<Medium> {
    let begins = |with: &[&[u8]]| with.iter().any(|with| word.starts_with(with));
    match () {
        () if begins(&[b"image", b"input_image"]) => Some(Medium::Image),
        () if begins(&[b"audio", b"input_audio", b"video"]) => Some(Medium::Sound),
        () if begins(&[b"application/", b"document", b"file", b"input_file", b"text/"]) => Some(Medium::Document),
        () => None,
    }
}

/// Tells whether the value of `key` says of what kind something is.
pub(super) fn names_a_kind(key: &[u8]) -> bool {
    matches!(key, b"type" | b"media_type" | b"mimeType" | b"mime_type")
}

/// Gets the base64 of a string under `key`, and the kind that it says itself, where it can be media.
pub(super) fn data<'a>(key: &[u8], text: &'a [u8]) -> Option<(&'a [u8], Option<Medium>)> {
    if text.len() < LEAST || !DATA.contains(&key) {
        return None;
    }
    let (said, base64) = match text.strip_prefix(b"data:") {
        None => (None, text),
        Some(rest) => {
            let lead = memchr::memmem::find(&rest[..rest.len().min(LEAD)], b";base64,")?;
            (kind(&rest[..lead]), &rest[lead + 8..])
        }
    };
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_');
    base64.iter().all(letter).then_some((base64, said))
}

/// Gets the tokens of media.
pub(super) fn tokens(medium: Medium, base64: &[u8]) -> u64 {
    let length = base64.len() as u64;
    match medium {
        // What it says of its size is its own word.
        Medium::Image => image(base64).max(length.div_ceil(AT_MOST)),
        Medium::Sound => length.div_ceil(SOUND),
        Medium::Document => length.div_ceil(DOCUMENT),
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

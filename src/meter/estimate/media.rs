//! How many tokens images, documents and sound are, and which strings of a body are some.
//!
//! A string is one only where the API has one: under a key for data, and below nothing but the keys by which the APIs lead there. What stands
//! in a call's arguments, or in the schema of a tool, is text to the model, whatever it looks like.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// Least letters of a document, or of sound.
const LEAST: usize = 512;
/// How much of an image's base64 is looked at for its size. Unit: bytes.
const HEAD: usize = 64 << 10;
/// What a document, or sound, is at least: its bytes do not say how many pages or seconds it has. Unit: tokens.
const SOME_MORE: u64 = 3000;
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
    /// None after all: text in base64, or as it is.
    Text,
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
    match word {
        b"text" | b"txt" | b"md" | b"csv" | b"html" => Some(Medium::Text),
        b"application/pdf" => Some(Medium::Document),
        _ if begins(&[b"text/", b"application/"]) => Some(Medium::Text),
        _ if begins(&[b"image", b"input_image"]) => Some(Medium::Image),
        _ if begins(&[b"audio", b"input_audio", b"video"]) => Some(Medium::Sound),
        _ if begins(&[b"document", b"file", b"input_file"]) => Some(Medium::Document),
        _ => None,
    }
}

/// Tells whether the value of `key` says of what kind something is.
pub(super) fn names_a_kind(key: &[u8]) -> bool {
    matches!(key, b"type" | b"media_type" | b"mimeType" | b"mime_type" | b"format")
}

/// Gets the base64 of a string under `key`, and the kind that it says itself, where it can be media.
pub(super) fn data<'a>(key: &[u8], text: &'a [u8]) -> Option<(&'a [u8], Option<Medium>)> {
    if !DATA.contains(&key) {
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

/// Gets the tokens of media; `None` of what is none.
pub(super) fn tokens(medium: Medium, base64: &[u8]) -> Option<u64> {
    let length = base64.len() as u64;
    match medium {
        // Bytes bound neither pages nor seconds.
        Medium::Document | Medium::Sound if base64.len() < LEAST => None,
        Medium::Text => None,
        Medium::Image => Some(image(base64).max(length.div_ceil(AT_MOST))),
        Medium::Sound => Some(length.div_ceil(SOUND).max(SOME_MORE)),
        Medium::Document => Some(length.div_ceil(DOCUMENT).max(SOME_MORE)),
    }
}

/// Gets the tokens of an image, by the size that its head says.
fn image(base64: &[u8]) -> u64 {
    let head = &base64[..base64.len().min(HEAD) / 4 * 4];
    let size = read(head).and_then(|head| imagesize::blob_size(&head).ok());
    let points = size.map(|size| (size.width as u64).saturating_mul(size.height as u64).div_ceil(POINTS));
    points.unwrap_or(SOME_IMAGE).clamp(LEAST_IMAGE, MOST_IMAGE)
}

/// Reads base64 of either alphabet (RFC 4648, sections 4 and 5).
fn read(base64: &[u8]) -> Option<Vec<u8>> {
    [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD].iter().find_map(|alphabet| {
        let end = base64.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
        alphabet.decode(&base64[..end]).ok()
    })
}

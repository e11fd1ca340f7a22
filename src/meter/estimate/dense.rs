//! Text without words, as base64 is: where it stands in a string. Pure; a string is sampled, not read.

/// Bytes from one sample to the next, and of each.
const STEP: usize = 256;
const WINDOW: usize = 48;
/// Dense bytes for 100 tokens: 1.46 bytes are one (measured of base64 with o200k).
const EACH: u64 = 146;

/// Gets the tokens of dense text. Unit of `bytes`: bytes.
pub(super) fn tokens(bytes: u64) -> u64 {
    (bytes * 100).div_ceil(EACH)
}

/// Gets how many bytes of a string are dense.
pub(super) fn bytes(text: &[u8]) -> u64 {
    let (mut at, mut behind, mut dense) = (0, 0, 0);
    while let Some(window) = text.get(at..at + WINDOW) {
        if !is_dense(window) {
            at += STEP;
            continue;
        }
        let before = text[behind..at].iter().rev().take_while(|byte| is_letter(byte)).count();
        let rest = &text[at..];
        let after = rest.iter().position(|byte| !is_letter(byte)).unwrap_or(rest.len());
        dense += (before + after) as u64;
        at += after;
        behind = at;
    }
    dense
}

/// Ends of lines stand escaped in JSON.
fn is_letter(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_' | b'\\')
}

/// Tells whether a sample has the letters of base64 and nothing else.
fn is_dense(window: &[u8]) -> bool {
    let has = |kind: fn(&u8) -> bool| window.iter().any(kind);
    window.iter().all(is_letter) && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic)
}

//! How large plain text is: its bytes; or, where bb is built with the feature `tokenizer`, what a tokenizer makes of it.
//!
//! No vendor of models publishes the tokenizer of its newest ones, so this one's tokens are no more than a better measure than bytes: how
//! many tokens of a model they are is learned all the same.

/// Gets the size of plain text. Unit: bytes; four for each token of the tokenizer.
#[cfg(not(feature = "tokenizer"))]
pub(super) fn size(text: &[u8]) -> u64 {
    text.len() as u64
}

/// Gets the size of plain text. Unit: bytes; four for each token of the tokenizer.
#[cfg(feature = "tokenizer")]
pub(super) fn size(text: &[u8]) -> u64 {
    /// Most of one text that is read: tokens are found at some 20 MB a second, and the rest is like its beginning.
    const READ: usize = 32 << 10;
    let read = &text[..text.len().min(READ)];
    let tokens = tiktoken_rs::o200k_base_singleton().encode_ordinary(&String::from_utf8_lossy(read)).len() as u64;
    (4 * tokens).saturating_mul(text.len() as u64).checked_div(read.len() as u64).unwrap_or(0)
}

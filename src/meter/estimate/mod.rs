//! What a request body is made of, as far as its size in tokens goes: plain text, text that is dense, media; which pieces of it are
//! new since an earlier one; and whose conversation it continues. Pure, and cheap: nothing is copied.
//!
//! Four bytes of a JSON body are about one token, of base64 about one and a half; an image is no text at all. How many bytes a token
//! really has, the caller learns by model ([`crate::budget::learned`]).

mod dense;
mod look;
mod media;
mod pieces;
mod plain;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use pieces::Change;
use pieces::Piece;

/// What something is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bulk {
    /// Plain text, with all that JSON puts around it. Unit: bytes, or what a tokenizer makes of them.
    pub text: u64,
    /// Text without words, as base64 is. Unit: bytes.
    pub dense: u64,
    /// Images, documents and sound. Unit: tokens.
    pub media: u64,
}

impl Bulk {
    /// Gets what is not text that has a size to be learned. Unit: tokens.
    pub fn fixed(&self) -> u64 {
        dense::tokens(self.dense) + self.media
    }

    /// Adds another.
    fn add(&mut self, other: &Bulk) {
        self.text += other.text;
        self.dense += other.dense;
        self.media += other.media;
    }
}

/// A body, looked at.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// All of it.
    pub bulk: Bulk,
    /// What its conversation is known by: its first message, and the name that its client has for it. Sub-agents that share a bottle
    /// have conversations of their own. Two that begin alike may be taken for one, which only makes an estimate worse.
    pub conversation: u64,
    /// What it is made of, in its order: messages, tools, and whatever else there is.
    pieces: Arc<[Piece]>,
}

impl Content {
    /// Looks at a body, which is JSON.
    pub fn of(json: &[u8]) -> Content {
        look::at(json)
    }

    /// Gets what has changed since an `earlier` body of its conversation.
    pub fn since(&self, earlier: &Content) -> Change {
        pieces::change(&self.pieces, &earlier.pieces)
    }
}

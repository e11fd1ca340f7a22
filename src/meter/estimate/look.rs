//! Looking at a body once, from its beginning to its end: what stands where, and what it is made of. Pure.

use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::OnceLock;

use super::media::{self, Medium};
use super::pieces::{Part, Piece};
use super::{Bulk, Content, dense, plain};
use crate::meter::walk::{Step, Walk};

/// How much of the first message makes a conversation known. Unit: bytes.
const FIRST: usize = 4096;
/// By which a client itself tells its conversations apart.
const NAMES: [&[u8]; 2] = [b"prompt_cache_key", b"session_id"];
/// Words that stand in a message where it is to be cached, and where it is written with its parts: they move with the last one.
const MARKS: [&[u8]; 7] = [b"cache_control", b"type", b"text", b"ephemeral", b"ttl", b"5m", b"1h"];
/// Pieces that are told apart; what comes behind them is one. The longest conversations have some thousand messages.
const MOST_PIECES: usize = 4096;

/// How much of a body its own keys and brackets are, at most, beside a comma for each piece. Unit: bytes.
const SYNTAX: u64 = 1024;

/// Begins a hash. Its key is this process's own.
fn hasher() -> DefaultHasher {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    KEY.get_or_init(RandomState::new).build_hasher()
}

/// Looks at a body.
pub(super) fn at(json: &[u8]) -> Content {
    let mut look = Look {
        json,
        around: Vec::with_capacity(16),
        key: 0..0,
        base: 1,
        part: Part::Other,
        piece: None,
        pieces: Vec::new(),
        covered: 0,
        found: Found::default(),
        known: hasher(),
        first: Some(0),
    };
    for step in Walk::new(json) {
        look.takes(step);
    }
    look.ends()
}

/// Brackets that are open.
struct Around {
    /// The key that it stands under; a list's elements stand under the list's.
    key: Range<usize>,
    list: bool,
    /// Media can stand here.
    media: bool,
    /// Of what kind they would be, as keys above it or words beside it say.
    kind: Option<Medium>,
    /// The word that says it is read by its provider alone.
    redacted: bool,
    /// A string that is media if somebody says of what kind: its base64, and its own word.
    pending: Option<(Range<usize>, Option<Medium>)>,
}

/// A piece that has begun.
struct Open {
    /// Where.
    at: usize,
    /// How many brackets stand around it.
    depth: usize,
    hash: DefaultHasher,
    /// What had been found before it.
    before: Found,
}

/// What was found that is no plain text.
#[derive(Clone, Copy, Default)]
struct Found {
    dense: u64,
    media: u64,
    /// How many bytes both are.
    bytes: u64,
}

/// A body while it is looked at.
struct Look<'a> {
    json: &'a [u8],
    around: Vec<Around>,
    /// The last key.
    key: Range<usize>,
    /// How many brackets stand around the parts of the body: one more where all is wrapped (Code Assist).
    base: usize,
    part: Part,
    /// The piece that is looked at.
    piece: Option<Open>,
    pieces: Vec<Piece>,
    /// Bytes of plain text that are in pieces.
    covered: u64,
    found: Found,
    /// What the conversation is known by.
    known: DefaultHasher,
    /// How much of the first message is in it; `None` once that is over.
    first: Option<usize>,
}

impl Look<'_> {
    fn takes(&mut self, step: Step) {
        match step {
            Step::Open { at, list } => {
                if !list && self.around.len() == 1 && self.base == 1 && &self.json[self.key.clone()] == b"request" {
                    self.base = 2;
                }
                self.begins(at, list);
                let key = match self.around.last() {
                    Some(above) if above.list => above.key.clone(),
                    _ => self.key.clone(),
                };
                let depth = self.around.len();
                let word = &self.json[key.clone()];
                let above = self.around.last();
                // The conversation is a list, or a text, at its own place; elsewhere the same word is a call's argument.
                let starts = depth == self.base && self.part == Part::Talk;
                let below = |above: &Around| above.media && (above.list || media::leads_to_media(word));
                let media = starts || above.is_some_and(below);
                let kind = media::kind(word).or(above.and_then(|above| above.kind));
                self.around.push(Around { key, list, media, kind, redacted: false, pending: None });
            }
            Step::Close(end) => {
                if let Some(around) = self.around.pop()
                    && let Some((range, said)) = around.pending
                {
                    self.is_data(range, said.or(around.kind), around.redacted);
                }
                if self.around.len() < self.base {
                    self.base = 1;
                }
                self.over(end);
            }
            Step::Key(range) => {
                if self.around.len() == self.base {
                    self.part_begins(&range);
                } else {
                    self.hashes(&range, true);
                }
                self.key = range;
            }
            Step::Text(range) => {
                let end = (range.end + 1).min(self.json.len());
                self.begins(range.start - 1, false);
                self.hashes(&range, true);
                self.text(range);
                self.over(end);
            }
            Step::Other(range) => {
                self.begins(range.start, false);
                self.hashes(&range, false);
                self.over(range.end);
            }
        }
    }

    /// A key of the request itself.
    fn part_begins(&mut self, key: &Range<usize>) {
        self.part = match &self.json[key.clone()] {
            b"tools" | b"toolConfig" | b"functions" => Part::Tools,
            b"system" | b"instructions" | b"systemInstruction" | b"system_instruction" => Part::System,
            b"messages" | b"contents" | b"input" => Part::Talk,
            _ => Part::Other,
        };
    }

    /// Tells whether what begins here is a piece: an element of the request's lists, and every other value of it.
    fn is_piece(&self, list: bool) -> bool {
        let depth = self.around.len();
        self.piece.is_none()
            && self.pieces.len() < MOST_PIECES
            && self.around.last().is_some_and(|above| {
                let value = depth == self.base && !above.list && !(list && self.part != Part::Other);
                value || (depth == self.base + 1 && above.list)
            })
    }

    /// A value begins.
    fn begins(&mut self, at: usize, list: bool) {
        if !self.is_piece(list) {
            return;
        }
        let mut hash = hasher();
        hash.write_u8(self.part as u8);
        if self.part == Part::Other {
            hash.write(&self.json[self.key.clone()]);
        }
        self.piece = Some(Open { at, depth: self.around.len(), hash, before: self.found });
    }

    /// A value is over.
    fn over(&mut self, end: usize) {
        let depth = self.around.len();
        let Some(Open { at, hash, before, .. }) = self.piece.take_if(|piece| piece.depth == depth) else { return };
        let Found { dense, media, bytes } = self.found;
        let plain = ((end - at) as u64).saturating_sub(bytes - before.bytes);
        self.covered += plain;
        let text = if bytes == before.bytes { plain::size(&self.json[at..end]) } else { plain };
        let bulk = Bulk { text, dense: dense - before.dense, media: media - before.media };
        self.pieces.push(Piece { part: self.part, hash: hash.finish(), bulk });
        if self.part == Part::Talk {
            self.first = None;
        }
    }

    /// Takes what makes a piece what it is.
    fn hashes(&mut self, range: &Range<usize>, marks: bool) {
        let bytes = &self.json[range.clone()];
        if marks && MARKS.contains(&bytes) {
            return;
        }
        if let Some(piece) = &mut self.piece {
            piece.hash.write_usize(bytes.len());
            piece.hash.write(bytes);
        }
        let in_talk = self.part == Part::Talk && self.piece.is_some();
        if let (true, Some(taken)) = (in_talk, self.first) {
            let some = &bytes[..bytes.len().min(FIRST - taken)];
            self.known.write(some);
            self.first = Some(taken + some.len());
        }
    }

    /// Looks at a string that is a value.
    fn text(&mut self, range: Range<usize>) {
        let Some(around) = self.around.last_mut() else { return };
        let key = if around.list { around.key.clone() } else { self.key.clone() };
        let (key, text) = (&self.json[key], &self.json[range.clone()]);
        if self.part == Part::Other && NAMES.contains(&key) {
            self.known.write(text);
        }
        if media::names_a_kind(key) {
            around.kind = media::kind(text).or(around.kind);
            around.redacted |= text.starts_with(b"redacted") || text.ends_with(b".encrypted");
        }
        if around.media && media::is_opaque(key) {
            return;
        }
        let found = if around.media { media::data(key, text) } else { None };
        match found {
            Some((base64, said)) if around.pending.is_none() => {
                around.pending = Some((range.end - base64.len()..range.end, said));
            }
            _ => self.dense(range),
        }
    }

    /// Takes a string that could be media, now that its kind is known, or is not.
    fn is_data(&mut self, range: Range<usize>, kind: Option<Medium>, redacted: bool) {
        match kind {
            Some(medium) => {
                self.found.media += media::tokens(medium, &self.json[range.clone()]);
                self.found.bytes += range.len() as u64;
            }
            None if redacted => {}
            None => self.dense(range),
        }
    }

    fn dense(&mut self, range: Range<usize>) {
        let dense = dense::bytes(&self.json[range]);
        self.found.dense += dense;
        self.found.bytes += dense;
    }

    /// Gets what was seen.
    fn ends(mut self) -> Content {
        let Found { dense, media, bytes } = self.found;
        // What is no piece of its own is one: what stands between them, and what there are too many of.
        let text = (self.json.len() as u64).saturating_sub(bytes + self.covered);
        let mut bulk = Bulk::default();
        self.pieces.iter().for_each(|piece| bulk.add(&piece.bulk));
        let rest = Bulk { text, dense: dense.saturating_sub(bulk.dense), media: media.saturating_sub(bulk.media) };
        bulk.add(&rest);
        let mut hash = hasher();
        if rest.text > SYNTAX + self.pieces.len() as u64 || rest.fixed() > 0 {
            hash.write(self.json);
        }
        self.pieces.push(Piece { part: Part::Other, hash: hash.finish(), bulk: rest });
        Content { bulk, conversation: self.known.finish(), pieces: self.pieces.into() }
    }
}

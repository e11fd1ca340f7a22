//! Looking at a body once, from its beginning to its end: what stands where, and what it is made of. Pure.

use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;

use super::identity::{Identity, hasher, mark_end};
use super::media::{self, Medium};
use super::pieces::{Part, Piece};
use super::{Bulk, Content, dense, plain};
use crate::meter::walk::{Step, Walk};

/// How much of the first message makes a conversation known. Unit: bytes.
const FIRST: usize = 4096;
/// By which a client itself tells its conversations apart.
const NAMES: [&[u8]; 2] = [b"prompt_cache_key", b"session_id"];
/// Pieces that are told apart; what comes behind them is one. The longest conversations have some thousand messages.
const MOST_PIECES: usize = 4096;
/// How much of a body its own keys and brackets are, at most, beside a comma for each piece. Unit: bytes.
const SYNTAX: u64 = 1024;
/// How a line of Claude Code's instructions begins that is other in each request, and is no part of what its model reads; and its longest. Unit:
/// bytes.
const ACCOUNTING: (&[u8], usize) = (b"x-anthropic-billing-header:", 400);
/// Keys of a request whose values do not change how much of its conversation goes in.
const CALM: [&[u8]; 28] = [
    b"cache_control",
    b"client_metadata",
    b"diagnostics",
    b"generate",
    b"include",
    b"max_completion_tokens",
    b"max_output_tokens",
    b"max_tokens",
    b"metadata",
    b"model",
    b"parallel_tool_calls",
    b"previous_response_id",
    b"project",
    b"prompt_cache_key",
    b"prompt_cache_retention",
    b"safety_identifier",
    b"seed",
    b"service_tier",
    b"session_id",
    b"stop_sequences",
    b"store",
    b"stream",
    b"stream_options",
    b"temperature",
    b"tool_choice",
    b"top_p",
    b"type",
    b"user_prompt_id",
];

/// Looks at a body.
pub(super) fn at(json: &[u8]) -> Content {
    let mut look = Look {
        json,
        around: Vec::with_capacity(16),
        key: 0..0,
        base: 1,
        part: Part::Other,
        named: 0..0,
        piece: None,
        pieces: Vec::new(),
        covered: 0,
        found: Found::default(),
        known: hasher(),
        first: Some(0),
        ignored: 0,
        automatic: false,
    };
    let mut walk = Walk::new(json);
    while let Some(step) = walk.next() {
        look.found.blanks = walk.blanks;
        look.takes(step);
    }
    look.found.blanks = walk.blanks;
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
    identity: Identity,
    /// It is to be cached up to here.
    marked: bool,
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
    /// Bytes between values that say nothing.
    blanks: u64,
}

impl Found {
    /// Gets how many bytes are no plain text.
    fn other(self) -> u64 {
        self.bytes + self.blanks
    }
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
    /// The request's key that the part stands under.
    named: Range<usize>,
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
    /// Up to where what has it cached is passed over.
    ignored: usize,
    /// The request as a whole is to be cached.
    automatic: bool,
}

impl Look<'_> {
    fn takes(&mut self, step: Step) {
        match step {
            Step::Open { at, list } => {
                if !list && self.around.len() == 1 && self.base == 1 && &self.json[self.key.clone()] == b"request" {
                    self.base = 2;
                }
                self.begins(at, list);
                self.bracket(at);
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
                self.bracket(end - 1);
                self.over(end);
            }
            Step::Key(range) => {
                if self.around.len() == self.base {
                    self.part_begins(&range);
                } else {
                    self.key(&range);
                }
                self.key = range;
            }
            Step::Text(range) => {
                let end = (range.end + 1).min(self.json.len());
                self.begins(range.start - 1, false);
                self.says(&range);
                self.text(range);
                self.over(end);
            }
            Step::Other(range) => {
                self.begins(range.start, false);
                if let Some(piece) = &mut self.piece {
                    piece.identity.says(b'o', &self.json[range.clone()]);
                }
                self.over(range.end);
            }
        }
    }

    /// A key of the request itself.
    fn part_begins(&mut self, key: &Range<usize>) {
        let word = &self.json[key.clone()];
        self.automatic |= word == b"cache_control";
        self.named = key.clone();
        self.part = match word {
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
        let identity = Identity::of(&self.json[self.named.clone()], self.base > 1);
        self.piece = Some(Open { at, depth: self.around.len(), identity, marked: false, before: self.found });
    }

    /// A value is over.
    fn over(&mut self, end: usize) {
        let depth = self.around.len();
        let Some(Open { at, identity, marked, before, .. }) = self.piece.take_if(|piece| piece.depth == depth) else {
            return;
        };
        let other = self.found.other() - before.other();
        let plain = ((end - at) as u64).saturating_sub(other);
        self.covered += plain;
        let text = if other == 0 { plain::size(&self.json[at..end]) } else { plain };
        let Found { dense, media, .. } = self.found;
        let bulk = Bulk { text, dense: dense - before.dense, media: media - before.media };
        let calm = self.part != Part::Other || CALM.contains(&&self.json[self.named.clone()]);
        self.pieces.push(Piece { part: self.part, hash: identity.finish(), bulk, marked, calm });
        if self.part == Part::Talk {
            self.first = None;
        }
    }

    /// A bracket of a piece.
    fn bracket(&mut self, at: usize) {
        let (Some(piece), Some(byte)) = (&mut self.piece, self.json.get(at)) else { return };
        if at >= self.ignored {
            piece.identity.bracket(*byte);
        }
    }

    /// A key of a piece.
    fn key(&mut self, range: &Range<usize>) {
        let Some(piece) = &mut self.piece else { return };
        let word = &self.json[range.clone()];
        if word == b"cache_control"
            && let Some(end) = mark_end(self.json, range.end)
        {
            piece.marked = true;
            self.ignored = end;
        }
        if range.start >= self.ignored {
            piece.identity.says(b'k', word);
        }
    }

    /// A text of a piece.
    fn says(&mut self, range: &Range<usize>) {
        let Some(piece) = &mut self.piece else { return };
        if range.start < self.ignored {
            return;
        }
        let bytes = &self.json[range.clone()];
        let in_talk = self.part == Part::Talk;
        let is_content = in_talk && self.around.len() == self.base + 2 && &self.json[self.key.clone()] == b"content";
        let is_accounting = self.part == Part::System && bytes.starts_with(ACCOUNTING.0) && bytes.len() <= ACCOUNTING.1;
        if is_accounting {
            piece.identity.says(b't', ACCOUNTING.0);
        } else if is_content {
            piece.identity.says_alone(bytes);
        } else {
            piece.identity.says(b't', bytes);
        }
        // A text may stand alone or in a list of parts.
        if let (true, false, Some(taken)) = (in_talk, bytes == b"text", self.first) {
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
        let base64 = &self.json[range.clone()];
        match kind.and_then(|medium| media::tokens(medium, base64)) {
            Some(tokens) => {
                self.found.media += tokens;
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
        let Found { dense, media, .. } = self.found;
        // What is no piece of its own is one: what stands between them, and what there are too many of.
        let text = (self.json.len() as u64).saturating_sub(self.found.other() + self.covered);
        let mut bulk = Bulk::default();
        self.pieces.iter().for_each(|piece| bulk.add(&piece.bulk));
        let rest = Bulk { text, dense: dense.saturating_sub(bulk.dense), media: media.saturating_sub(bulk.media) };
        bulk.add(&rest);
        let is_syntax = rest.text <= SYNTAX + self.pieces.len() as u64 && rest.fixed() == 0;
        let mut identity = Identity::of(b"", false);
        if !is_syntax {
            identity.says(b'o', self.json);
        }
        let hash = identity.finish();
        self.pieces.push(Piece { part: Part::Other, hash, bulk: rest, marked: false, calm: is_syntax });
        Content { bulk, conversation: self.known.finish(), automatic: self.automatic, pieces: self.pieces.into() }
    }
}

//! Content coding of an answer: identity and gzip, told apart by their first bytes.
//!
//! The decoded bytes go straight into the [`Pipe`], in pieces, so that a small body that swells never lies in memory
//! as a whole. Unknown codings break the reading; nothing here may guess.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

use super::pipe::Pipe;

/// First two bytes of a gzip member (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Most bytes that one gzip body may swell to. A whole answer of a model is far below; a bomb is not.
pub(crate) const MAX_DECODED: u64 = 256 << 20;

/// Decodes one body.
pub(super) struct Coding {
    stage: Stage,
}

enum Stage {
    /// Fewer than two bytes seen.
    Sniff(Vec<u8>, Pipe),
    Identity(Pipe),
    Gzip(Box<MultiGzDecoder<Capped>>),
    /// Nothing more is read.
    Closed(Pipe),
}

/// The pipe as a writer, with a limit on what may be written.
struct Capped {
    pipe: Pipe,
    left: u64,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            return Err(io::Error::other("decoded body too large"));
        };
        self.left = left;
        self.pipe.feed(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Coding {
    /// Makes a decoder by the answer's `Content-Encoding`. An unknown coding breaks the reading at once.
    pub(super) fn new(header: Option<&str>, mut pipe: Pipe) -> Coding {
        let known = header.unwrap_or_default().trim();
        let known = ["", "identity", "gzip", "x-gzip"].iter().any(|k| known.eq_ignore_ascii_case(k));
        if known {
            return Coding { stage: Stage::Sniff(Vec::new(), pipe) };
        }
        pipe.fail();
        Coding { stage: Stage::Closed(pipe) }
    }

    /// Makes one for bytes that are known not to be coded.
    pub(super) fn plain(pipe: Pipe) -> Coding {
        Coding { stage: Stage::Identity(pipe) }
    }

    /// Gets the pipe that the decoded bytes go into.
    pub(super) fn pipe(&self) -> &Pipe {
        match &self.stage {
            Stage::Sniff(_, pipe) | Stage::Identity(pipe) | Stage::Closed(pipe) => pipe,
            Stage::Gzip(decoder) => &decoder.get_ref().pipe,
        }
    }

    /// As [`Coding::pipe`], to be changed.
    pub(super) fn pipe_mut(&mut self) -> &mut Pipe {
        match &mut self.stage {
            Stage::Sniff(_, pipe) | Stage::Identity(pipe) | Stage::Closed(pipe) => pipe,
            Stage::Gzip(decoder) => &mut decoder.get_mut().pipe,
        }
    }

    /// Takes the next coded bytes.
    pub(super) fn feed(&mut self, chunk: &[u8]) {
        match &mut self.stage {
            Stage::Closed(_) => {}
            Stage::Identity(pipe) => pipe.feed(chunk),
            Stage::Gzip(decoder) => {
                // Flushed each time: the decoder would keep the end of a stream back, and the end is the usage.
                if decoder.write_all(chunk).and_then(|()| decoder.flush()).is_err() {
                    let pipe = &mut decoder.get_mut().pipe;
                    pipe.fail();
                    self.stage = Stage::Closed(pipe.take());
                }
            }
            Stage::Sniff(head, pipe) => {
                head.extend_from_slice(chunk);
                if head.len() < GZIP_MAGIC.len() {
                    return;
                }
                let (head, pipe) = (std::mem::take(head), pipe.take());
                self.stage = if head.starts_with(&GZIP_MAGIC) {
                    Stage::Gzip(Box::new(MultiGzDecoder::new(Capped { pipe, left: MAX_DECODED })))
                } else {
                    Stage::Identity(pipe)
                };
                self.feed(&head);
            }
        }
    }

    /// Takes note of the end. A gzip body that ends early is a stream that ended early, no more.
    pub(super) fn finish(&mut self) {
        match &mut self.stage {
            Stage::Closed(_) => {}
            Stage::Identity(pipe) => pipe.finish(),
            Stage::Gzip(decoder) => decoder.get_mut().pipe.finish(),
            Stage::Sniff(head, pipe) => {
                let head = std::mem::take(head);
                pipe.feed(&head);
                pipe.finish();
            }
        }
    }
}

//! Content coding of an answer: identity, gzip, deflate, Brotli and Zstandard, also where no header says which.
//!
//! The decoded bytes go straight into the [`Pipe`], in pieces, so that a small body that swells never lies in memory
//! as a whole. What is neither text nor any of these breaks the reading; so does a header that names something else.

mod sniff;
mod zstd;

use std::io::{self, Write};

use brotli_decompressor::DecompressorWriter;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

use super::bound::MAX_EVENT;
use super::pipe::Pipe;
use sniff::Found;
use zstd::Zstd;

/// Most bytes that one coded body may swell to. A whole answer of a model is far below; a bomb is not.
pub(crate) const MAX_DECODED: u64 = 256 << 20;

/// Most bytes that one piece of a coded body may swell to: nothing else is done meanwhile.
const MAX_BURST: u64 = MAX_EVENT as u64 + (1 << 20);

/// What Brotli's decoder puts out at once. Unit: bytes.
const PIECE: usize = 32 << 10;

/// Decodes one body.
pub(super) struct Coding {
    stage: Stage,
    /// What the header says; `None` where it says nothing that may be believed.
    said: Option<Found>,
}

enum Stage {
    /// Too little was seen to know the coding.
    Sniff(Vec<u8>, Pipe),
    Identity(Pipe),
    Coded(Box<dyn Decoder>),
    /// Nothing more is read.
    Closed(Pipe),
}

/// A decoder that writes into a pipe.
trait Decoder: Write + Send {
    fn sink(&self) -> &Capped;
    fn sink_mut(&mut self) -> &mut Capped;
}

macro_rules! decoders {
    ($($decoder:ty),*) => {$(
        impl Decoder for $decoder {
            fn sink(&self) -> &Capped {
                self.get_ref()
            }
            fn sink_mut(&mut self) -> &mut Capped {
                self.get_mut()
            }
        }
    )*};
}

decoders!(
    MultiGzDecoder<Capped>,
    ZlibDecoder<Capped>,
    DeflateDecoder<Capped>,
    DecompressorWriter<Capped>,
    Zstd<Capped>
);

/// The pipe as a writer, with limits on what may be written.
struct Capped {
    pipe: Pipe,
    left: u64,
    burst: u64,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let more = bytes.len() as u64;
        let (Some(left), Some(burst)) = (self.left.checked_sub(more), self.burst.checked_sub(more)) else {
            self.pipe.pass_bound();
            return Err(io::Error::other("decoded body too large"));
        };
        (self.left, self.burst) = (left, burst);
        self.pipe.feed(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the decoder of a coding, which is not identity.
fn decoder(found: Found, pipe: Pipe) -> Stage {
    let sink = Capped { pipe, left: MAX_DECODED, burst: MAX_BURST };
    Stage::Coded(match found {
        Found::Identity => return Stage::Identity(sink.pipe),
        Found::Gzip => Box::new(MultiGzDecoder::new(sink)),
        Found::Zlib => Box::new(ZlibDecoder::new(sink)),
        Found::Deflate => Box::new(DeflateDecoder::new(sink)),
        Found::Brotli => Box::new(DecompressorWriter::new(sink, PIECE)),
        Found::Zstd => Box::new(Zstd::new(sink)),
    })
}

impl Coding {
    /// Makes a decoder by the answer's `Content-Encoding`. An unknown coding breaks the reading at once.
    pub(super) fn new(header: Option<&str>, mut pipe: Pipe) -> Coding {
        let name = header.unwrap_or_default().trim().to_ascii_lowercase();
        let (said, stage) = match name.as_str() {
            // Brotli has no mark of its own, and may begin as text does.
            "br" => (Some(Found::Brotli), decoder(Found::Brotli, pipe)),
            "deflate" => (Some(Found::Deflate), Stage::Sniff(Vec::new(), pipe)),
            "" | "identity" | "gzip" | "x-gzip" | "zstd" => (None, Stage::Sniff(Vec::new(), pipe)),
            _ => {
                pipe.fail();
                (None, Stage::Closed(pipe))
            }
        };
        Coding { stage, said }
    }

    /// Makes one for bytes that are known not to be coded.
    pub(super) fn plain(pipe: Pipe) -> Coding {
        Coding { stage: Stage::Identity(pipe), said: None }
    }

    /// Gets the pipe that the decoded bytes go into.
    pub(super) fn pipe(&self) -> &Pipe {
        match &self.stage {
            Stage::Sniff(_, pipe) | Stage::Identity(pipe) | Stage::Closed(pipe) => pipe,
            Stage::Coded(decoder) => &decoder.sink().pipe,
        }
    }

    /// As [`Coding::pipe`], to be changed.
    pub(super) fn pipe_mut(&mut self) -> &mut Pipe {
        match &mut self.stage {
            Stage::Sniff(_, pipe) | Stage::Identity(pipe) | Stage::Closed(pipe) => pipe,
            Stage::Coded(decoder) => &mut decoder.sink_mut().pipe,
        }
    }

    /// Takes the next coded bytes.
    pub(super) fn feed(&mut self, chunk: &[u8]) {
        match &mut self.stage {
            Stage::Closed(_) => {}
            Stage::Identity(pipe) => pipe.feed(chunk),
            Stage::Coded(decoder) => {
                decoder.sink_mut().burst = MAX_BURST;
                // Flushed each time: the decoder would keep the end of a stream back, and the end is the usage.
                if decoder.write_all(chunk).and_then(|()| decoder.flush()).is_err() {
                    self.fail();
                }
            }
            Stage::Sniff(head, _) => {
                head.extend_from_slice(chunk);
                self.decide(false);
            }
        }
    }

    /// Decides the coding by what has come; `over` where nothing more will.
    fn decide(&mut self, over: bool) {
        let Stage::Sniff(head, pipe) = &mut self.stage else { return };
        let found = match sniff::coding(head, self.said, over) {
            sniff::Verdict::More => return,
            sniff::Verdict::Is(found) => Some(found),
            sniff::Verdict::None => None,
        };
        let (head, pipe) = (std::mem::take(head), pipe.take());
        match found {
            Some(found) => {
                self.stage = decoder(found, pipe);
                self.feed(&head);
            }
            None => {
                self.stage = Stage::Closed(pipe);
                self.fail();
            }
        }
    }

    /// Stops reading.
    fn fail(&mut self) {
        let mut pipe = self.pipe_mut().take();
        pipe.fail();
        self.stage = Stage::Closed(pipe);
    }

    /// Takes note of the end. A coded body that ends early is a stream that ended early, no more.
    pub(super) fn finish(&mut self) {
        self.decide(true);
        match &mut self.stage {
            Stage::Closed(_) | Stage::Sniff(..) => {}
            Stage::Identity(pipe) => pipe.finish(),
            Stage::Coded(decoder) => decoder.sink_mut().pipe.finish(),
        }
    }
}

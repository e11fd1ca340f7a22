//! Answers of servers that were sent a credential: what repeats it does not reach the bottle, coded or not.
//!
//! Plain bodies pass with asterisks in its place. A coded one (gzip, deflate) is read along and passes byte by byte as it came, so that
//! what its client makes of it, and the sums it is checked by, stay true; where the value is in it, where it cannot be read to its
//! end, or where it becomes too much, it breaks off before the value's last byte has passed. A coding that is not known here is refused
//! with its head. It changes nothing else and knows no policy.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::header::{self, HeaderMap};

use super::body::BodyError;
use super::credential::Redactor;
use super::deny::{Denial, Deny};

/// Most that one coded answer may become. Unit: bytes.
pub(super) const MAX_DECODED: u64 = 4 << 30;
/// What may be kept back of a coded answer whose text, as far as it is known, may end with the value's beginning. Unit: bytes.
const MAX_HELD: usize = 256 << 10;

/// Codings that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    Deflate,
}

/// Gets how an answer with these headers is coded; `None` where that is not read here.
fn coding(headers: &HeaderMap) -> Option<Coding> {
    let mut found = Coding::Identity;
    for value in headers.get_all(header::CONTENT_ENCODING) {
        for one in value.to_str().ok()?.split(',').map(str::trim) {
            let is = |name: &str| one.eq_ignore_ascii_case(name);
            let coding = match () {
                () if one.is_empty() || is("identity") => continue,
                () if is("gzip") || is("x-gzip") => Coding::Gzip,
                () if is("deflate") => Coding::Deflate,
                () => return None,
            };
            // Twice coded is nobody's ordinary answer.
            if found != Coding::Identity {
                return None;
            }
            found = coding;
        }
    }
    Some(found)
}

/// Refuses an answer to which nobody here could listen.
pub(super) fn readable(headers: &HeaderMap) -> Result<(), Deny> {
    match coding(headers) {
        Some(_) => Ok(()),
        None => Err(Deny::new(
            Denial::ResponseCoded,
            "bb: the server coded its answer, though it was asked not to, in a way in which the route's credential is not found.",
        )),
    }
}

/// What an answer's body goes through.
pub(super) struct Echo {
    redactor: Redactor,
    coded: Option<Coded>,
}

impl Echo {
    /// Makes it for an answer with these headers, which are [`readable`]. `redactor` is asked for one of its own each time.
    pub(super) fn new(headers: &HeaderMap, redactor: impl Fn() -> Option<Redactor>) -> Option<Echo> {
        let coded = match coding(headers).unwrap_or(Coding::Identity) {
            Coding::Identity => None,
            coding => Some(Coded::new(coding, redactor()?)),
        };
        Some(Echo { redactor: redactor()?, coded })
    }

    /// Gets what may be passed on now.
    ///
    /// # Errors
    /// [`BodyError::Coded`]; nothing more may pass then.
    pub(super) fn pass(&mut self, bytes: Bytes) -> Result<Bytes, BodyError> {
        let bytes = self.redactor.pass(bytes);
        match &mut self.coded {
            Some(coded) => coded.pass(bytes),
            None => Ok(bytes),
        }
    }

    /// Gets what is left at the end.
    ///
    /// # Errors
    /// As [`Echo::pass`].
    pub(super) fn finish(&mut self) -> Result<Bytes, BodyError> {
        let rest = self.redactor.finish();
        match &mut self.coded {
            Some(coded) => coded.finish(rest),
            None => Ok(rest),
        }
    }

    /// Takes the value out of an answer's trailers.
    pub(super) fn trailers(&self, trailers: &mut HeaderMap) {
        self.redactor.trailers(trailers);
    }
}

/// The text of a coded body, as it is read along.
struct Text {
    redactor: Redactor,
    left: u64,
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.left = left.ok_or_else(|| io::Error::other("it becomes too much"))?;
        if self.redactor.finds(bytes) {
            return Err(io::Error::other("the credential is in it"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A decoder; boxed, for few answers have one.
enum Decoder {
    /// What `deflate` means is told by the first two bytes: RFC 9110 says zlib, some servers leave its frame out.
    Unsure(Vec<u8>, Text),
    Gzip(Box<MultiGzDecoder<Text>>),
    Zlib(Box<ZlibDecoder<Text>>),
    Raw(Box<DeflateDecoder<Text>>),
    /// Nothing more is read, and nothing more passes.
    Closed,
}

impl Decoder {
    fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Flushed each time: nothing that a client could read already may be unread here.
        match self {
            Decoder::Gzip(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Zlib(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Raw(decoder) => decoder.write_all(bytes).and_then(|()| decoder.flush()),
            Decoder::Closed => Err(io::ErrorKind::BrokenPipe.into()),
            Decoder::Unsure(head, _) => {
                head.extend_from_slice(bytes);
                let &[first, second, ..] = head.as_slice() else { return Ok(()) };
                let zlib = first & 0x0f == 8 && u16::from_be_bytes([first, second]).is_multiple_of(31);
                let Decoder::Unsure(head, text) = std::mem::replace(self, Decoder::Closed) else { return Ok(()) };
                *self = match zlib {
                    true => Decoder::Zlib(Box::new(ZlibDecoder::new(text))),
                    false => Decoder::Raw(Box::new(DeflateDecoder::new(text))),
                };
                self.read(&head)
            }
        }
    }

    /// Tells whether what was read so far may end with the value's beginning.
    fn awaits(&self) -> bool {
        match self {
            // Of two bytes no text is known.
            Decoder::Unsure(head, _) => !head.is_empty(),
            Decoder::Gzip(decoder) => decoder.get_ref().redactor.awaits(),
            Decoder::Zlib(decoder) => decoder.get_ref().redactor.awaits(),
            Decoder::Raw(decoder) => decoder.get_ref().redactor.awaits(),
            Decoder::Closed => false,
        }
    }
}

/// A coded body.
struct Coded {
    decoder: Decoder,
    held: BytesMut,
}

impl Coded {
    fn new(coding: Coding, redactor: Redactor) -> Coded {
        let text = Text { redactor, left: MAX_DECODED };
        let decoder = match coding {
            Coding::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(text))),
            Coding::Identity | Coding::Deflate => Decoder::Unsure(Vec::new(), text),
        };
        Coded { decoder, held: BytesMut::new() }
    }

    fn pass(&mut self, bytes: Bytes) -> Result<Bytes, BodyError> {
        if let Err(error) = self.decoder.read(&bytes) {
            tracing::debug!(%error, "a coded answer was broken off");
            self.decoder = Decoder::Closed;
            return Err(BodyError::Coded);
        }
        if !self.decoder.awaits() {
            if self.held.is_empty() {
                return Ok(bytes);
            }
            self.held.extend_from_slice(&bytes);
            return Ok(std::mem::take(&mut self.held).freeze());
        }
        self.held.extend_from_slice(&bytes);
        // What decodes to nothing could go on for ever.
        if self.held.len() > MAX_HELD {
            return Err(BodyError::Coded);
        }
        Ok(Bytes::new())
    }

    fn finish(&mut self, rest: Bytes) -> Result<Bytes, BodyError> {
        let passed = if rest.is_empty() { rest } else { self.pass(rest)? };
        let held = std::mem::take(&mut self.held);
        Ok(if held.is_empty() { passed } else { held.freeze() })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "s3cret-s3cret-value";

    fn said(codings: &[&'static str]) -> HeaderMap {
        codings.iter().map(|one| (header::CONTENT_ENCODING, HeaderValue::from_static(one))).collect()
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &str) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn raw(text: &str) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    /// Passes a body in pieces; gets what came through, and whether it came to its end.
    fn through(coding: &'static str, body: &[u8], cuts: &[usize]) -> (Vec<u8>, bool) {
        let mut echo = Echo::new(&said(&[coding]), || Some(Redactor::of(SECRET))).unwrap();
        let (mut rest, mut out) = (body, Vec::new());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            rest = more;
            match echo.pass(Bytes::copy_from_slice(piece)) {
                Ok(bytes) => out.extend_from_slice(&bytes),
                Err(_) => return (out, false),
            }
        }
        match echo.finish() {
            Ok(bytes) => out.extend_from_slice(&bytes),
            Err(_) => return (out, false),
        }
        (out, true)
    }

    #[test]
    fn codings_that_are_not_read_are_refused_with_the_head() {
        for known in [&[][..], &["identity"], &["gzip"], &["X-GZip"], &["deflate"], &["identity, gzip"], &["", "gzip"]]
        {
            assert!(readable(&said(known)).is_ok(), "{known:?}");
        }
        for unknown in [&["br"][..], &["zstd"], &["compress"], &["gzip, gzip"], &["gzip", "br"], &["aws-chunked"]] {
            assert_eq!(readable(&said(unknown)).unwrap_err().kind, Denial::ResponseCoded, "{unknown:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_to_its_end_breaks_off() {
        for (coding, body) in [
            ("gzip", b"not gzip at all".to_vec()),
            ("gzip", [gzip("one"), b"and more, which is no member".to_vec()].concat()),
            ("deflate", [zlib("one"), b"and more, which is no member".to_vec()].concat()),
            // A part of an answer, which begins in the middle.
            ("gzip", gzip(&"text ".repeat(100))[20..].to_vec()),
        ] {
            assert!(!through(coding, &body, &[4096]).1, "{coding}");
        }
        let two = [gzip("one member, "), gzip("and another")].concat();
        assert_eq!(through("gzip", &two, &[7]), (two.clone(), true));
        let short = &two[..15];
        assert_eq!(
            through("gzip", short, &[3]),
            (short.to_vec(), true),
            "a stream that ended early is no more than that"
        );
    }

    #[test]
    fn what_becomes_more_than_it_may_breaks_off() {
        let body = Bytes::from(gzip(&"text ".repeat(100)));
        for (left, passes) in [(500, true), (499, false)] {
            let text = Text { redactor: Redactor::of(SECRET), left };
            let decoder = Decoder::Gzip(Box::new(MultiGzDecoder::new(text)));
            let passed = Coded { decoder, held: BytesMut::new() }.pass(body.clone());
            assert_eq!(passed.is_ok(), passes, "{left}");
        }
    }

    #[test]
    fn what_decodes_to_nothing_is_not_held_for_ever() {
        let mut echo = Echo::new(&said(&["deflate"]), || Some(Redactor::of(SECRET))).unwrap();
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::none());
        encoder.write_all(b"s3cret").unwrap();
        encoder.flush().unwrap();
        assert!(echo.pass(encoder.get_ref().clone().into()).unwrap().is_empty(), "it may go on as the value does");
        // Stored blocks of no bytes.
        let nothing = Bytes::from([0u8, 0, 0, 0xff, 0xff].repeat(10_000));
        let passed = (0..20).map(|_| echo.pass(nothing.clone())).take_while(Result::is_ok).count();
        assert!(passed < 10, "{passed}");
    }

    proptest! {
        #[test]
        fn a_coded_echo_breaks_off_before_it_is_whole_however_it_is_cut(
            before in "[a-s3cret-]{0,200}", after in "[a-z\n]{0,200}", cuts in proptest::collection::vec(1usize..9, 1..30),
            which in 0usize..3
        ) {
            let (coding, code): (_, fn(&str) -> Vec<u8>) = [("gzip", gzip as fn(&str) -> _), ("deflate", zlib), ("deflate", raw)][which];
            let clean = code(&format!("{before}{after}"));
            if !format!("{before}{after}").contains(SECRET) {
                prop_assert_eq!(through(coding, &clean, &cuts), (clean, true), "what has none passes as it came");
            }
            let echoing = code(&format!("{before}{SECRET}{after}"));
            let (out, whole) = through(coding, &echoing, &cuts);
            // What came through of it, read by a client that takes what it gets.
            let mut text = Vec::new();
            let _ = match which {
                0 => flate2::read::GzDecoder::new(out.as_slice()).read_to_end(&mut text),
                1 => flate2::read::ZlibDecoder::new(out.as_slice()).read_to_end(&mut text),
                _ => flate2::read::DeflateDecoder::new(out.as_slice()).read_to_end(&mut text),
            };
            let seen = String::from_utf8_lossy(&text).into_owned();
            let begun = format!("{before}s");
            if memchr::memmem::find(&echoing, SECRET.as_bytes()).is_some() {
                // What its coder left as it was is masked, as in a plain body.
                prop_assert!(!seen.contains(SECRET), "{:?}", seen);
                return Ok(());
            }
            prop_assert!(!whole);
            prop_assert!(seen.len() <= begun.len() && begun.starts_with(&seen), "{:?}", seen);
        }
    }
}

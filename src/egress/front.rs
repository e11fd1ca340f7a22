//! What stands before the HTTP/1 parser: bytes of a bottle in which two parsers could see different requests do not get to it.
//!
//! The plane frames every request anew, so nothing could be smuggled behind it; this says so to whoever tries (400, an event),
//! and keeps what upstream is sent from depending on how lenient a parser is. It follows the framing of RFC 9112 in its
//! strictest reading, holds nothing back, and copies only a line that came in pieces.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest line of a head. The parser's own bound for a whole head is far smaller, and has an answer of its own (431).
const LINE: usize = 256 * 1024;
/// Longest chunk size in hexadecimal digits: 16 TiB is more than anybody sends.
const CHUNK_DIGITS: usize = 11;
/// Empty lines passed over before a request (RFC 9112, 2.2).
const EMPTY_LINES: u8 = 2;
/// What no parser takes for a part of a head.
const POISON: &[u8] = b"\0\r\n\r\n";

/// Why bytes were refused: one clause.
pub type Reason = &'static str;

/// Where in a message the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Before a request line, with so many empty lines seen.
    Start(u8),
    /// In the lines of a head.
    Head,
    /// So many bytes of a body are still to come.
    Body(u64),
    /// Before the size of a chunk.
    Size,
    /// So many bytes of a chunk are still to come.
    Chunk(u64),
    /// At the end of a chunk.
    ChunkEnd,
    /// In the trailers.
    Trailers,
    /// What comes is no HTTP any more.
    Raw,
}

/// What the head that is being read has said.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    old: bool,
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    connect: bool,
}

/// Follows the bytes of one connection. Sans-IO.
#[derive(Debug)]
pub struct Watch {
    at: At,
    said: Said,
    /// Whether a CONNECT ends HTTP.
    proxy: bool,
    /// The beginning of a line that came in pieces.
    line: Vec<u8>,
}

/// A refusal: everything from `from` on must not be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Where the message began in the bytes that were looked at; 0 where it began before them.
    pub from: usize,
    /// Whether it was a head: a body that breaks off has no answer of its own.
    pub head: bool,
    /// Why.
    pub why: Reason,
}

impl Default for Watch {
    fn default() -> Self {
        Watch { at: At::Start(0), said: Said::default(), proxy: false, line: Vec::new() }
    }
}

impl Watch {
    /// Follows a connection to a proxy: what comes after a CONNECT is no HTTP, or not this one's.
    pub fn of_proxy() -> Watch {
        Watch { proxy: true, ..Watch::default() }
    }

    /// Looks at the next bytes.
    pub fn look(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let mut from = 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.at {
                At::Raw => return Ok(()),
                At::Body(left) | At::Chunk(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    rest = rest.get(taken..).unwrap_or_default();
                    let left = left - u64::try_from(taken).unwrap_or(left);
                    self.at = match (self.at, left) {
                        (At::Body(_), 0) => At::Start(0),
                        (At::Body(_), left) => At::Body(left),
                        (_, 0) => At::ChunkEnd,
                        (_, left) => At::Chunk(left),
                    };
                }
                At::Start(_) | At::Head | At::Size | At::ChunkEnd | At::Trailers => {
                    if self.line.is_empty() && matches!(self.at, At::Start(_)) {
                        from = bytes.len() - rest.len();
                    }
                    let head = matches!(self.at, At::Start(_) | At::Head);
                    let refused = |why| Refused { from, head, why };
                    let Some(end) = memchr::memchr(b'\n', rest) else {
                        if self.line.len() + rest.len() > LINE {
                            return Err(refused("a line is too long"));
                        }
                        self.line.extend_from_slice(rest);
                        return Ok(());
                    };
                    let (piece, after) = rest.split_at(end + 1);
                    rest = after;
                    let mut joined = std::mem::take(&mut self.line);
                    let line = if joined.is_empty() {
                        piece
                    } else {
                        joined.extend_from_slice(piece);
                        &joined
                    };
                    let line =
                        line.strip_suffix(b"\r\n").ok_or_else(|| refused("a line ends without a carriage return"))?;
                    if line.iter().any(|b| matches!(b, b'\r' | 0)) {
                        return Err(refused("a carriage return or NUL stands inside a line"));
                    }
                    self.at = self.line(line).map_err(refused)?;
                }
            }
        }
        Ok(())
    }

    /// Looks at what is answered. What was asked to become a WebSocket is no HTTP any more once that is granted, and not before:
    /// nobody may send on before (RFC 6455, 4.1), and who is refused goes on with HTTP. The first bytes decide: what stands in a
    /// body grants nothing.
    pub fn answered(&mut self, bytes: &[u8]) {
        let granted = bytes.starts_with(b"HTTP/1.1 101 ") && self.at == At::Start(0) && self.line.is_empty();
        if !bytes.is_empty() && std::mem::take(&mut self.said.upgrade) && granted {
            self.at = At::Raw;
        }
    }

    /// Reads a whole line; gets what comes after it.
    fn line(&mut self, line: &[u8]) -> Result<At, Reason> {
        match self.at {
            At::Start(seen) if line.is_empty() && seen < EMPTY_LINES => Ok(At::Start(seen + 1)),
            At::Start(_) => {
                let connect = self.proxy && line.starts_with(b"CONNECT ");
                self.said = Said { old: request_line(line)?, connect, ..Said::default() };
                Ok(At::Head)
            }
            At::Head if line.is_empty() => self.body(),
            At::Head => {
                self.header(line)?;
                Ok(At::Head)
            }
            At::Size => match chunk_size(line)? {
                0 => Ok(At::Trailers),
                size => Ok(At::Chunk(size)),
            },
            At::ChunkEnd if line.is_empty() => Ok(At::Size),
            At::ChunkEnd => Err("a chunk is longer than its size"),
            At::Trailers if line.is_empty() => Ok(At::Start(0)),
            At::Trailers => match field(line)? {
                (name, _)
                    if name.eq_ignore_ascii_case(b"content-length")
                        || name.eq_ignore_ascii_case(b"transfer-encoding") =>
                {
                    Err("a trailer speaks of the message's length")
                }
                _ => Ok(At::Trailers),
            },
            At::Body(_) | At::Chunk(_) | At::Raw => Err("a line where there is none"),
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Reason> {
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.said.length.is_some() {
                return Err("there is more than one Content-Length");
            }
            self.said.length = Some(decimal(value).ok_or("Content-Length is no plain number")?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.said.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("Transfer-Encoding is something else than one `chunked`");
            }
            self.said.chunked = true;
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.said.upgrade |= value.eq_ignore_ascii_case(b"websocket");
        }
        Ok(())
    }

    /// Gets what follows a head (RFC 9112, 6.3).
    fn body(&self) -> Result<At, Reason> {
        match self.said {
            Said { chunked: true, length: Some(_), .. } => Err("there are both Content-Length and Transfer-Encoding"),
            Said { chunked: true, old: true, .. } => Err("HTTP/1.0 has no Transfer-Encoding"),
            Said { connect: true, chunked: false, length: None, .. } => Ok(At::Raw),
            Said { connect: true, .. } => Err("a CONNECT has no body"),
            Said { chunked: true, .. } => Ok(At::Size),
            Said { length: None | Some(0), .. } => Ok(At::Start(0)),
            Said { length: Some(length), .. } => Ok(At::Body(length)),
        }
    }
}

/// Checks a request line; tells whether it is HTTP/1.0's.
fn request_line(line: &[u8]) -> Result<bool, Reason> {
    let mut parts = line.split(|b| *b == b' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(method), Some(target), Some(version), None) if !target.is_empty() && method.iter().all(|b| token(*b)) => {
            match version {
                b"HTTP/1.1" => Ok(false),
                b"HTTP/1.0" => Ok(true),
                _ => Err("only HTTP/1.1 and HTTP/1.0 are spoken without ALPN"),
            }
        }
        _ => Err("the request line is not three words"),
    }
}

/// Gets name and value of a header line.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Reason> {
    let end = memchr::memchr(b':', line).ok_or("a header has no colon")?;
    let (name, value) = (line.get(..end).unwrap_or_default(), line.get(end + 1..).unwrap_or_default());
    // A line that begins with white space would be a folded one, and a space before the colon part of a name for some.
    if name.is_empty() || !name.iter().all(|b| token(*b)) {
        return Err("a header's name is none");
    }
    Ok((name, value.trim_ascii()))
}

fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn decimal(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 19 && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| plain)?.parse().ok()
}

fn chunk_size(line: &[u8]) -> Result<u64, Reason> {
    let plain = !line.is_empty() && line.len() <= CHUNK_DIGITS && line.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(line).ok().filter(|_| plain);
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or("a chunk's size is no plain number")
}

/// A stream whose HTTP/1 is watched. What is refused is replaced by bytes that the parser answers with 400.
#[derive(Debug)]
pub struct Front<IO> {
    io: IO,
    watch: Watch,
    refused: Arc<OnceLock<Reason>>,
    poison: &'static [u8],
}

impl<IO> Front<IO> {
    /// Watches `io`; `refused` gets the reason if something is refused.
    pub fn new(io: IO, watch: Watch, refused: Arc<OnceLock<Reason>>) -> Self {
        Front { io, watch, refused, poison: &[] }
    }

    /// Gets what was watched.
    pub fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Front<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refused.get().is_some() {
            // The rest of the poison, then an end.
            let taken = this.poison.len().min(buf.remaining());
            let (now, later) = this.poison.split_at(taken);
            buf.put_slice(now);
            this.poison = later;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        let Err(refused) = this.watch.look(new) else { return Poll::Ready(Ok(())) };
        // Set once: a connection is refused once.
        let _ = this.refused.set(refused.why);
        if !refused.head {
            buf.set_filled(before);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refused.why)));
        }
        buf.set_filled(before + refused.from);
        this.poison = POISON;
        if refused.from > 0 {
            return Poll::Ready(Ok(()));
        }
        let taken = this.poison.len().min(buf.remaining());
        let (now, later) = this.poison.split_at(taken);
        buf.put_slice(now);
        this.poison = later;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Front<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.watch.answered(buf);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch.answered(bufs.iter().find(|buf| !buf.is_empty()).map_or(&[], |buf| buf));
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &[&str] = &[
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET /x?y HTTP/1.0\r\nA: b c\r\nEmpty:\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nTrailer: x\r\n\r\n5\r\nhe\r\nl\r\n00a\r\n0123456789\r\n0\r\nx: 1\r\n\r\n",
        "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
    ];

    const BAD: &[&str] = &[
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nContent-Length:\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\0\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\r\n folded: c\r\n\r\n",
        "GET / HTTP/1.1\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET /\r\n\r\n",
        "\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ];

    /// Broken only in a body, so that no head is refused.
    const BROKEN: &[&str] = &[
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ];

    fn all(text: &str, cut: usize) -> Result<At, Refused> {
        let mut watch = Watch::default();
        for piece in text.as_bytes().chunks(cut) {
            watch.look(piece)?;
        }
        Ok(watch.at)
    }

    #[test]
    fn what_everybody_reads_in_one_way_passes_however_it_is_cut() {
        for text in GOOD {
            for cut in 1..=text.len() {
                let end = all(text, cut);
                assert!(matches!(end, Ok(At::Start(0) | At::Raw)), "{text:?} in pieces of {cut}: {end:?}");
            }
        }
        let pipelined: String = GOOD[..5].concat();
        assert_eq!(all(&pipelined, 7), Ok(At::Start(0)));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused_however_it_is_cut() {
        for (text, head) in BAD.iter().map(|t| (t, true)).chain(BROKEN.iter().map(|t| (t, false))) {
            for cut in 1..=text.len() {
                let refused = all(text, cut).expect_err(text);
                assert_eq!(refused.head, head, "{text:?} in pieces of {cut}: {refused:?}");
            }
        }
    }

    #[test]
    fn http_ends_with_the_answer_that_grants_a_websocket_and_not_before() {
        let ws = GOOD[5];
        let after = |answer: &str, bytes: &[u8]| {
            let mut watch = Watch::default();
            watch.look(ws.as_bytes()).unwrap();
            watch.answered(answer.as_bytes());
            watch.look(bytes).map_err(|refused| refused.why)
        };
        let (granted, refused) = ("HTTP/1.1 101 Switching Protocols\r\n", "HTTP/1.1 426 Upgrade Required\r\n");
        assert_eq!(after(granted, b"\x82\x00\n\0\r"), Ok(()));
        assert_eq!(after(refused, GOOD[0].as_bytes()), Ok(()), "HTTP goes on");
        for bytes in BAD {
            assert!(after(refused, bytes.as_bytes()).is_err() && after("", bytes.as_bytes()).is_err(), "{bytes:?}");
        }
        // A body says so.
        let mut watch = Watch::default();
        watch.look(ws.as_bytes()).unwrap();
        watch.answered(b"HTTP/1.1 200 OK\r\n\r\n");
        watch.answered(granted.as_bytes());
        assert!(watch.look(b"\x82\x00\n").is_err());
        // Nobody asked for one.
        let mut watch = Watch::default();
        watch.look(GOOD[0].as_bytes()).unwrap();
        watch.answered(granted.as_bytes());
        assert!(watch.look(b"\x82\x00\n").is_err());
    }

    #[test]
    fn what_came_before_the_refused_message_stays() {
        let text = format!("{}{}", GOOD[2], BAD[0]);
        let mut watch = Watch::default();
        assert_eq!(watch.look(text.as_bytes()).unwrap_err().from, GOOD[2].len());
        let mut watch = Watch::default();
        watch.look(&text.as_bytes()[..GOOD[2].len() + 10]).unwrap();
        assert_eq!(watch.look(&text.as_bytes()[GOOD[2].len() + 10..]).unwrap_err().from, 0);
    }

    #[test]
    fn a_connect_ends_http_at_a_proxy_only_and_has_no_body() {
        let connect = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
        let follow = |text: &str| {
            let mut watch = Watch::of_proxy();
            watch.look(text.as_bytes()).map(|()| watch.at).map_err(|refused| refused.head)
        };
        assert_eq!(follow(&format!("{connect}\0\r any bytes")), Ok(At::Raw));
        assert_eq!(follow(GOOD[2]), Ok(At::Start(0)));
        assert_eq!(all(connect, 9), Ok(At::Start(0)), "elsewhere it is a request like any other");
        for body in ["Content-Length: 0", "Content-Length: 5", "Transfer-Encoding: chunked"] {
            assert_eq!(follow(&format!("CONNECT a.example:443 HTTP/1.1\r\n{body}\r\n\r\n")), Err(true), "{body}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_bounded() {
        let mut watch = Watch::default();
        let piece = [b'a'; 8192];
        let refused = (0..40).find_map(|_| watch.look(&piece).err());
        assert_eq!(refused.map(|r| r.why), Some("a line is too long"));
    }

    proptest! {
        #[test]
        fn how_bytes_are_cut_changes_nothing(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), Just(b'0'), any::<u8>()], 0..200),
            start in 0usize..6,
            cut in 1usize..40,
        ) {
            let text: Vec<u8> = [GOOD[start].as_bytes(), &bytes].concat();
            let mut whole = Watch::default();
            let one = whole.look(&text).map_err(|refused| refused.why);
            let mut pieces = Watch::default();
            let mut other = Ok(());
            for piece in text.chunks(cut) {
                other = pieces.look(piece).map_err(|refused| refused.why);
                if other.is_err() {
                    break;
                }
            }
            prop_assert_eq!(one, other);
            prop_assert_eq!(one.is_ok().then_some(whole.at), other.is_ok().then_some(pieces.at));
        }
    }
}

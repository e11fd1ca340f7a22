//! What stands before the HTTP/1 parser: bytes of a bottle in which two parsers could see different requests do not get to it.
//!
//! The plane frames every request anew, so nothing could be smuggled behind it; this says so to whoever tries (400, an event),
//! and keeps what upstream is sent from depending on how lenient a parser is. It follows the framing of RFC 9112 in its
//! strictest reading, holds nothing back, and copies only a line that came in pieces.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::through::writes_through;

/// Longest line of a head. The parser's own bound for a whole head is far smaller, and has an answer of its own (431).
pub(super) const LINE: usize = 256 * 1024;
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

    /// Tells whether a head has begun and not ended.
    fn in_head(&self) -> bool {
        self.at == At::Head || matches!(self.at, At::Start(_)) && !self.line.is_empty()
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
    noted: Arc<Noted>,
    poison: &'static [u8],
}

/// What a watch tells whoever serves the connection.
#[derive(Debug, Default)]
pub struct Noted {
    /// The reason, if something is refused.
    pub refused: OnceLock<Reason>,
    /// Whether a head has begun and not ended.
    pub in_head: AtomicBool,
}

impl<IO> Front<IO> {
    /// Watches `io`; `noted` gets what is to be told of it.
    pub fn new(io: IO, watch: Watch, noted: Arc<Noted>) -> Self {
        Front { io, watch, noted, poison: &[] }
    }

    /// Gets what was watched.
    pub fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Front<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.noted.refused.get().is_some() {
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
        let Err(refused) = this.watch.look(new) else {
            this.noted.in_head.store(this.watch.in_head(), Ordering::Relaxed);
            return Poll::Ready(Ok(()));
        };
        // Set once: a connection is refused once.
        let _ = this.noted.refused.set(refused.why);
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

writes_through!([<IO: AsyncWrite + Unpin>] Front<IO>, io, |front, bytes| front.watch.answered(bytes));

#[cfg(test)]
mod tests;

//! HTTP/1.1 over an engine's Unix socket, one request a connection, blocking.
//!
//! Knows nothing of containers. Every answer is bounded in size and every wait in time: a keeper has one thread, and an
//! engine that hangs must not take it along.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Most bytes of an answer's head.
const MAX_HEAD: u64 = 64 * 1024;

/// Most bytes of an answer's body.
const MAX_BODY: u64 = 8 << 20;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// What the head of an answer says.
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method.
    pub method: &'a str,
    /// Path and query, encoded.
    pub path: &'a str,
    /// Type of the body.
    pub content_type: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// Sends a request and gets its whole answer; `patience` bounds each wait for the engine.
///
/// # Errors
/// Those of the socket; `InvalidData` for what is no HTTP, or too much.
pub fn call(socket: &Path, request: Request<'_>, patience: Duration) -> io::Result<Answer> {
    let mut reader = send(socket, request, patience, "close")?;
    let head = head(&mut reader)?;
    Ok(Answer { status: head.status, body: body(&mut reader, &head)? })
}

/// Sends a request whose body is read as it goes, exactly `length` bytes of it, and gets its whole answer.
///
/// # Errors
/// As [`call`]; `UnexpectedEof` where there is less.
pub fn upload(
    socket: &Path,
    request: Request<'_>,
    body_of: &mut impl Read,
    length: u64,
    patience: Duration,
) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let Request { method, path, content_type, body: _ } = request;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nUser-Agent: bb\r\nConnection: close\r\n\
         Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    if io::copy(&mut body_of.take(length), &mut stream)? < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut reader = BufReader::new(stream);
    let head = self::head(&mut reader)?;
    Ok(Answer { status: head.status, body: body(&mut reader, &head)? })
}

/// Sends a request after which the connection is a stream of its own, and gets that: what has been read ahead comes first.
/// It waits without bound from then on.
///
/// # Errors
/// As [`call`]; `Other` with the engine's own words where it refuses.
pub fn hijack(socket: &Path, request: Request<'_>, patience: Duration) -> io::Result<BufReader<UnixStream>> {
    upgrade(socket, request, patience, "Upgrade\r\nUpgrade: tcp")
}

/// As [`hijack`]; `to` is the value of `Connection` and the headers that follow it.
///
/// # Errors
/// As [`hijack`].
pub fn upgrade(socket: &Path, request: Request<'_>, patience: Duration, to: &str) -> io::Result<BufReader<UnixStream>> {
    let mut reader = send(socket, request, patience, to)?;
    let head = head(&mut reader)?;
    if head.status != 101 && head.status != 200 {
        let body = body(&mut reader, &head)?;
        let said: String = String::from_utf8_lossy(&body).trim().chars().take(1000).collect();
        return Err(io::Error::other(format!("status {}: {said}", head.status)));
    }
    reader.get_ref().set_read_timeout(None)?;
    Ok(reader)
}

/// Sends a request; what is read next is the answer's head.
pub(super) fn send(
    socket: &Path,
    request: Request<'_>,
    patience: Duration,
    connection: &str,
) -> io::Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let Request { method, path, content_type, body } = request;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nUser-Agent: bb\r\nConnection: {connection}\r\n\
         Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    Ok(BufReader::new(stream))
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Reads one line, without its end.
pub(super) fn line(reader: &mut impl BufRead, left: &mut u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    let n = reader.by_ref().take(*left).read_until(b'\n', &mut bytes)?;
    *left -= n as u64;
    if bytes.pop() != Some(b'\n') {
        return Err(invalid(if *left == 0 { "the head is too long" } else { "the answer ends in its head" }));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| invalid("the head is no text"))
}

pub(super) fn head(reader: &mut impl BufRead) -> io::Result<Head> {
    let mut left = MAX_HEAD;
    let first = line(reader, &mut left)?;
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let mut head = Head { status: status.ok_or_else(|| invalid("no HTTP"))?, length: None, chunked: false };
    loop {
        let line = line(reader, &mut left)?;
        if line.is_empty() {
            return Ok(head);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid("a header without a colon"))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            head.length = Some(value.parse().map_err(|_| invalid("a length that is no number"))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            head.chunked = value.eq_ignore_ascii_case("chunked");
        }
    }
}

/// Reads the body that a head announces.
pub(super) fn body(reader: &mut impl BufRead, head: &Head) -> io::Result<Vec<u8>> {
    if head.status == 204 || head.status == 304 {
        return Ok(Vec::new());
    }
    match head.length {
        _ if head.chunked => chunks(reader),
        Some(length) if length > MAX_BODY => Err(invalid("the answer is too large")),
        Some(length) => {
            let mut body = vec![0; length as usize];
            reader.read_exact(&mut body)?;
            Ok(body)
        }
        None => bounded(reader, MAX_BODY),
    }
}

fn bounded(reader: &mut impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    reader.take(most + 1).read_to_end(&mut body)?;
    if body.len() as u64 > most {
        return Err(invalid("the answer is too large"));
    }
    Ok(body)
}

/// Reads a body in chunks (RFC 9112, section 7.1); what may follow the last one is left.
fn chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(reader, &mut 1024)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| invalid("a chunk without a length"))?;
        if size == 0 {
            return Ok(body);
        }
        if body.len() as u64 + size > MAX_BODY {
            return Err(invalid("the answer is too large"));
        }
        let from = body.len();
        body.resize(from + size as usize, 0);
        reader.read_exact(&mut body[from..])?;
        line(reader, &mut 16)?;
    }
}

/// Reads one frame of an engine's stream of output: the kind (1 = standard output, 2 = standard error) and the bytes.
/// `None` at its end.
///
/// # Errors
/// Those of the socket; `InvalidData` for a frame of another form.
pub fn frame(reader: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut header = [0u8; 8];
    let mut filled = 0;
    while filled < header.len() {
        match reader.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let [kind, 0, 0, 0, a, b, c, d] = header else { return Err(invalid("no frame of output")) };
    let length = u64::from(u32::from_be_bytes([a, b, c, d]));
    if length > MAX_BODY {
        return Err(invalid("a frame is too large"));
    }
    let mut bytes = vec![0; length as usize];
    reader.read_exact(&mut bytes)?;
    Ok(Some((kind, bytes)))
}

/// Encodes a word for a query.
pub fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
        let head = head(&mut bytes)?;
        body(&mut bytes, &head)
    }

    #[test]
    fn bodies_of_each_form_are_read_whole() {
        let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(read(plain).unwrap(), b"ok");
        let chunked =
            b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\na\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(read(chunked).unwrap(), b"ok0123456789");
        for bad in [
            &b"SSH-2.0\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nfoo\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 2x0 OK\r\n\r\n",
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        let endless = [&b"HTTP/1.1 200 OK\r\nx: "[..], &vec![b'x'; 100_000]].concat();
        assert!(read(&endless).is_err());
        assert!(read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n").is_err());
    }

    #[test]
    fn frames_are_told_apart_and_what_is_none_is_an_error() {
        let mut bytes = &b"\x01\0\0\0\0\0\0\x02hi\x02\0\0\0\0\0\0\x01!"[..];
        assert_eq!(frame(&mut bytes).unwrap(), Some((1, b"hi".to_vec())));
        assert_eq!(frame(&mut bytes).unwrap(), Some((2, b"!".to_vec())));
        assert_eq!(frame(&mut bytes).unwrap(), None);
        assert!(frame(&mut &b"hello, world"[..]).is_err());
        assert!(frame(&mut &b"\x01\0\0\0\0\0\0\x09hi"[..]).is_err());
    }

    #[test]
    fn words_are_encoded() {
        assert_eq!(encoded("a/b:c d"), "a%2Fb%3Ac%20d");
    }
}

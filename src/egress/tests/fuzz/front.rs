//! HTTP/1 of a bottle. What holds: however bytes are cut, the watch says and keeps the same; and of what it lets pass the parser
//! behind it sees the requests that a plain reading of the text sees, in that order, each with that method, path, headers and body,
//! or fewer of them, never others.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::super::front::Watch;
use super::{Dice, Mark, Target, hold, mark};

macro_rules! request {
    ($($name:literal),*) => {
        vec![$(include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/request/", $name, ".http")).to_vec()),*]
    };
}

/// Requests of which somebody has read two where somebody else has read one, and what they are made of.
const TRICKS: &[&str] = &[
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGET /x HTTP/1.1\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nabcdefghij",
    "POST / HTTP/1.1\r\nHost: a\r\n Content-Length: 3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\"\r\nb\"\r\nabc\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /two HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\nGET /three HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a.example/x HTTP/1.1\r\nHost: b.example\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    // Found: after a request that asked to become a WebSocket nobody looked on.
    "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\nGET /two HTTP/1.1\n\n",
    "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
];

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\x0b",
    b"\x0c",
    b"\xa0",
    b":",
    b";",
    b",",
    b"#",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length:\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"transfer-encoding:\tchunked \r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: b\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"00000000005\r\n",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST ",
    b"HEAD ",
    b"CONNECT a:443",
];

fn seeds() -> Vec<Vec<u8>> {
    let real = request![
        "curl",
        "curl-chunked",
        "curl-form",
        "node-fetch",
        "node-chunked",
        "python",
        "git",
        "wget",
        "websocket"
    ];
    let pipelined = [real[0].clone(), real[1].clone(), real[3].clone()].concat();
    let tricks = TRICKS.iter().map(|trick| trick.as_bytes().to_vec());
    real.into_iter().chain([pipelined]).chain(tricks).collect()
}

/// One request; `None` for a body of which the end is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
}

impl Asked {
    fn new(method: &str, target: &str, mut headers: Vec<(String, Vec<u8>)>) -> Asked {
        headers.sort();
        Asked { method: method.to_owned(), target: target.to_owned(), headers, body: None }
    }
}

/// Reads requests as plainly as there is, of text that has passed the watch.
fn plainly(bytes: &[u8]) -> Vec<Asked> {
    let mut rest = bytes;
    let mut all = Vec::new();
    loop {
        while let Some(after) = rest.strip_prefix(b"\r\n") {
            rest = after;
        }
        let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") else { return all };
        let head = &rest[..end];
        rest = &rest[end + 4..];
        let mut lines = head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let words: Vec<&str> = first.split(' ').collect();
        let [method, target, _] = words[..] else { return all };
        let headers: Vec<(String, Vec<u8>)> = lines
            .map(|line| {
                let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
                let value = line.get(colon + 1..).unwrap_or_default();
                let start = value.iter().position(|b| !b" \t".contains(b)).unwrap_or(value.len());
                let end = value.iter().rposition(|b| !b" \t".contains(b)).map_or(start, |at| at + 1);
                (String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase(), value[start..end].to_vec())
            })
            .collect();
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        let (length, chunked) = (header("content-length"), header("transfer-encoding").is_some());
        let mut asked = Asked::new(method, target, headers);
        let length = length.and_then(|value| std::str::from_utf8(&value).ok()?.trim().parse::<usize>().ok());
        let body = if chunked {
            chunks(rest)
        } else {
            rest.split_at_checked(length.unwrap_or(0)).map(|(b, r)| (b.to_vec(), r))
        };
        let after = body.map(|(body, after)| {
            asked.body = Some(body);
            after
        });
        all.push(asked);
        match after {
            Some(after) => rest = after,
            None => return all,
        }
    }
}

fn chunks(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut rest = bytes;
    let mut body = Vec::new();
    let line = |rest: &mut &[u8]| -> Option<Vec<u8>> {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        let line = rest[..end].to_vec();
        *rest = &rest[end + 2..];
        Some(line)
    };
    loop {
        let size = usize::from_str_radix(std::str::from_utf8(&line(&mut rest)?).ok()?, 16).ok()?;
        if size == 0 {
            while !line(&mut rest)?.is_empty() {}
            return Some((body, rest));
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// A connection on which bytes come in pieces, and then no more; what is written to it is forgotten.
struct Pieces<'a> {
    rest: &'a [u8],
    most: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (now, later) = self.rest.split_at(self.rest.len().min(self.most).min(buf.remaining()));
        buf.put_slice(now);
        self.rest = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Gets the requests that hyper sees.
fn hyper_reads(runtime: &tokio::runtime::Runtime, bytes: &[u8], most: usize) -> Vec<Asked> {
    let all = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let all = Rc::clone(&all);
        async move {
            let (head, body) = request.into_parts();
            let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
            let target = head.uri.path_and_query().map_or("", |p| p.as_str()).to_owned();
            let mut asked = Asked::new(head.method.as_str(), &target, headers.collect());
            asked.body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
            all.borrow_mut().push(asked);
            Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    // It answers what it cannot read with an error of its own, and ends.
    let connection = http1::Builder::new().serve_connection(TokioIo::new(Pieces { rest: bytes, most }), service);
    let _ = runtime.block_on(connection);
    all.borrow().clone()
}

fn check(runtime: &tokio::runtime::Runtime, bytes: &[u8]) -> Result<Mark, String> {
    let mut whole = Watch::default();
    let said = whole.look(bytes);
    let mut dice = Dice(mark(bytes));
    let most = 1 + dice.below(bytes.len() + 1);
    for cut in [1, most] {
        let mut pieces = Watch::default();
        let said_of_pieces = bytes.chunks(cut).try_for_each(|piece| pieces.look(piece));
        let same = said.map_err(|refused| (refused.why, refused.head)) == said_of_pieces.map_err(|r| (r.why, r.head));
        hold(same, || format!("whole {said:?}, in pieces of {cut} {said_of_pieces:?}"))?;
        hold(said.is_err() || format!("{whole:?}") == format!("{pieces:?}"), || "kept otherwise in pieces".to_owned())?;
    }
    let passed = match said {
        Ok(()) => bytes,
        Err(refused) => &bytes[..refused.from],
    };
    let ours = plainly(passed);
    let theirs = hyper_reads(runtime, passed, most);
    hold(theirs.len() <= ours.len(), || format!("hyper sees more: {theirs:?} and not {ours:?}"))?;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        // A fragment is no part of what hyper keeps; other forms than paths it takes apart.
        let target = ours.target.split('#').next().unwrap_or_default();
        let same = ours.method == theirs.method
            && ours.headers == theirs.headers
            && (!target.starts_with('/') || target == theirs.target)
            && theirs.body.as_ref().is_none_or(|body| Some(body) == ours.body.as_ref());
        hold(same, || format!("hyper sees {theirs:?} and not {ours:?}"))?;
    }
    Ok(mark((said.map_err(|refused| (refused.why, refused.head)), ours.len(), theirs.len())))
}

#[test]
fn no_request_is_read_in_two_ways() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    Target { seeds: seeds(), words: WORDS, longest: 2048 }.run(|bytes| check(&runtime, bytes));
}

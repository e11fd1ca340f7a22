//! One exchange on the controller's socket: HTTP/1.1 and JSON over a connection of its own.
//!
//! It knows nothing of what the calls mean and never repeats one; see [`super::Client`] for that.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use super::start;
use crate::error::{Error, Kind};
use crate::home::Home;
use crate::types::Book;

/// Longest answer that is held whole.
const ANSWER_MAX: usize = 64 << 20;

/// Longest line of a stream.
const LINE_MAX: usize = 8 << 20;

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// `GET` or `POST`.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// JSON, or nothing.
    pub body: Bytes,
    /// How long the answer's head (and body, where it is held whole) may take.
    pub within: Duration,
}

impl Request {
    /// Makes a GET.
    pub fn get(path: impl Into<String>) -> Self {
        Request { method: super::GET, path: path.into(), body: Bytes::new(), within: super::ANSWER }
    }

    /// Makes a POST with a JSON body.
    pub fn post(path: impl Into<String>, body: &impl Serialize) -> crate::error::Result<Self> {
        let body = super::to_json(body)?;
        Ok(Request { method: super::POST, path: path.into(), body, within: super::ANSWER })
    }

    /// Sets how long the answer may take.
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }
}

/// Why an exchange has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody listens on the socket.
    Unreachable(String),
    /// The connection ended before the answer did: the controller may have died.
    Broken(String),
    /// No answer in time.
    TimedOut,
    /// The controller answered with an error.
    Answer(Error),
}

impl Failure {
    /// Turns it into the error that people see.
    pub fn into_error(self, home: &Home) -> Error {
        match self {
            Failure::Unreachable(why) => Error::new(Kind::ControllerSilent, format!("no controller answers: {why}"))
                .at(home.socket().display().to_string())
                .hint("any bb command that needs one starts it: run `bb ps`"),
            Failure::Broken(why) => Error::new(Kind::ControllerSilent, format!("the controller went away: {why}"))
                .at(home.log().display().to_string())
                .hint("run `bb controller logs` to see why"),
            Failure::TimedOut => start::silent(home),
            Failure::Answer(error) => error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unreachable(why) | Failure::Broken(why) => f.write_str(why),
            Failure::TimedOut => f.write_str("no answer in time"),
            Failure::Answer(error) => error.fmt(f),
        }
    }
}

/// The body of an answer that is not 2xx.
#[derive(Deserialize)]
struct Refusal {
    error: Error,
}

/// Sends a request and returns the answer's head once it is a 2xx; the body is still to be read.
pub(super) async fn head(socket: PathBuf, request: &Request) -> Result<Response<Incoming>, Failure> {
    let response = timed(request.within, send(socket, request)).await?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = timed(request.within, whole(response.into_body())).await?;
    Err(Failure::Answer(match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => refusal.error,
        Err(_) => {
            Error::internal(format!("the controller answered {status} without a reason")).at(request.path.clone())
        }
    }))
}

/// Sends a request and returns the whole body of its 2xx answer.
pub(super) async fn answer(socket: PathBuf, request: &Request) -> Result<Bytes, Failure> {
    let response = head(socket, request).await?;
    timed(request.within, whole(response.into_body())).await
}

async fn timed<T>(within: Duration, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(within, work).await.unwrap_or(Err(Failure::TimedOut))
}

async fn send(socket: PathBuf, request: &Request) -> Result<Response<Incoming>, Failure> {
    let stream = UnixStream::connect(socket).await.map_err(|e| Failure::Unreachable(e.to_string()))?;
    let broken = |e: hyper::Error| Failure::Broken(e.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // The driver ends by itself: when the answer was read, or when its reader is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "a connection to the controller ended early");
        }
    });
    let message = http::Request::builder()
        .method(request.method.clone())
        .uri(&request.path)
        .header(header::HOST, "bb")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(request.body.clone()))
        .map_err(|e| Failure::Answer(Error::internal(format!("a call cannot be written: {e}"))))?;
    sender.send_request(message).await.map_err(broken)
}

async fn whole(body: Incoming) -> Result<Bytes, Failure> {
    let collected = Limited::new(body, ANSWER_MAX).collect().await;
    collected.map(|c| c.to_bytes()).map_err(|e| Failure::Broken(e.to_string()))
}

/// The lines of an NDJSON answer.
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// Reads the body of `response` by lines.
    pub fn new(response: Response<Incoming>) -> Self {
        Lines { body: response.into_body(), buffer: BytesMut::new() }
    }

    /// Gets the next line without its end; `None` at the end of the answer. May be dropped while it waits.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(1);
                return Ok(Some(line));
            }
            if self.buffer.len() > LINE_MAX {
                return Err(Failure::Answer(Error::internal("the controller sent a line without an end")));
            }
            match self.body.frame().await {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Failure::Broken("the stream ended within a line".into())),
                Some(Err(error)) => return Err(Failure::Broken(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// Writes a path segment or query value: what is neither unreserved nor a colon (RFC 3986, 3.3) is percent-encoded.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Gets the word for a book in queries.
pub(super) fn book(book: Book) -> &'static str {
    match book {
        Book::Real => "real",
        Book::Rehearsal => "rehearsal",
    }
}

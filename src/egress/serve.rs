//! HTTP on an accepted connection: hyper parses and frames, every request goes to [`Plane::answer`].
//!
//! HTTP/2 only where ALPN chose it, HTTP/1.1 everywhere else; no prior-knowledge HTTP/2, no upgrades but to
//! WebSocket ([`super::websocket`]). Limits are here.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::Outgoing;
use super::deny::{Denial, Deny};
use super::front::{Front, Noted, Watch};
use super::link::Link;
use super::overrun::Overrun;
use super::record::Denied;
use super::request::{MAX_HEAD, Plane};
use crate::ledger::Ledger;

/// Time for a head, which is also how long a kept connection may idle: longer than the clients' pools keep theirs, so
/// that they close first and no request meets a closing connection.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(120);
/// Time for a client to read what it is told when its request is cut.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often the time for them may begin anew.
const ROUNDS: usize = 6;
/// HTTP/2 streams at once on one connection. The client is told, so that one that keeps to the protocol waits; of any other the
/// next is refused by HTTP/2's own means, whose clients try again, and told of ([`Overrun`]).
pub(super) const MAX_STREAMS: u32 = 128;
/// Largest head of an HTTP/2 request that is read, as RFC 9113, 6.5.2 counts: larger than what passes ([`MAX_HEAD`]), so that it is
/// refused with a word. What is larger yet is answered with a 431 by HTTP/2's own layer. Unit: bytes.
pub(super) const H2_HEAD: u32 = 80 << 10;
/// What may come of bodies before they are read on, of one HTTP/2 stream and of all of a connection. Unit: bytes.
const STREAM_WINDOW: u32 = 512 << 10;
pub(super) const CONNECTION_WINDOW: u32 = 1 << 20;
/// HTTP/2 connections with these windows.
pub(super) const WIDE_AT_ONCE: usize = 8;
/// The windows of all others of a bottle: the protocol knows no smaller one of a connection. Unit: bytes.
pub(super) const NARROW_WINDOW: u32 = (64 << 10) - 1;
/// What of an answer may wait for an HTTP/2 client that does not read. Unit: bytes.
pub(super) const SEND_BUFFER: usize = 32 << 10;

/// Serves one connection to its end.
pub async fn connection<L: Ledger, IO>(plane: Arc<Plane<L>>, link: Link, io: IO, h2: bool)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let link = Arc::new(link);
    let service = service_fn({
        let (plane, link) = (Arc::clone(&plane), Arc::clone(&link));
        move |request| {
            let (plane, link) = (Arc::clone(&plane), Arc::clone(&link));
            async move { Ok::<_, Infallible>(answer(&plane, &link, request, h2).await) }
        }
    });
    let noted = Arc::new(Noted::default());
    let wide = if h2 { Arc::clone(&plane.wide).try_acquire_owned().ok() } else { None };
    let (stream_window, window) = match &wide {
        Some(_) => (STREAM_WINDOW, CONNECTION_WINDOW),
        None => (NARROW_WINDOW, NARROW_WINDOW),
    };
    // What ends by a cut is seen by whoever writes the answer, and nobody does while its client does not read.
    let unread = left_unread(&plane, || link.lags());
    let result = if h2 {
        let overrun = {
            let (plane, link) = (Arc::clone(&plane), Arc::clone(&link));
            move || tell_overrun(&plane, &link)
        };
        // No pings: a bottle that is paused answers none, and what it has under way waits. One that has ended is closed as a whole.
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(H2_HEAD)
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(window)
            .max_send_buf_size(SEND_BUFFER)
            .serve_connection(TokioIo::new(Overrun::new(io, overrun)), service);
        let mut served = std::pin::pin!(served);
        tokio::select! {
            result = &mut served => result,
            () = unread => Ok(()),
            () = left_idle(&link) => {
                served.as_mut().graceful_shutdown();
                tokio::time::timeout(LAST_WORDS, served).await.unwrap_or(Ok(()))
            }
        }
    } else {
        let front = Front::new(io, Watch::default(), Arc::clone(&noted));
        tokio::select! {
            result = http1().serve_connection(TokioIo::new(front), service).with_upgrades() => result,
            () = unread => Ok(()),
        }
    };
    drop(wide);
    tell_unread(&plane, &link, &noted, result.err().as_ref());
}

/// Returns when a request of a connection was cancelled and is still there a while later (`lags`): its connection has to go then.
pub(super) async fn left_unread<L: Ledger>(plane: &Plane<L>, lags: impl Fn() -> bool) {
    let mut cancels = plane.streams.cancels();
    // Its sender is the plane's own, so it does not go away.
    while cancels.changed().await.is_ok() {
        // Who is cut while the words of an earlier cut are read has the time for their own: so often, and no more.
        for _ in 0..ROUNDS {
            tokio::time::sleep(LAST_WORDS).await;
            match cancels.has_changed() {
                Ok(true) => cancels.mark_unchanged(),
                _ => break,
            }
        }
        if lags() {
            return;
        }
    }
}

/// Returns when nothing was under way on an HTTP/2 connection for [`HEAD_TIME`], give or take a quarter.
async fn left_idle(link: &Link) {
    let mut before = None;
    let mut quarters = 0;
    while quarters < 4 {
        tokio::time::sleep(HEAD_TIME / 4).await;
        let (asked, rests) = link.rests();
        let still = rests && before == Some(asked);
        quarters = if still { quarters + 1 } else { 0 };
        before = Some(asked);
    }
}

/// Gets what serves HTTP/1 for bottles.
pub(super) fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD);
    builder
}

/// Answers one request.
pub(super) async fn answer<L: Ledger>(
    plane: &Arc<Plane<L>>,
    link: &Link,
    request: Request<Incoming>,
    h2: bool,
) -> Response<Outgoing> {
    link.asked();
    // Who asked for an upgrade and did not get it begins anew: nobody has to guess what follows.
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let mut answer = plane.answer(link, request).await;
    if upgrades && answer.status() != StatusCode::SWITCHING_PROTOCOLS && !h2 {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Writes that what came on a connection was no request, where it was so.
pub(super) fn tell_unread<L: Ledger>(plane: &Plane<L>, link: &Link, noted: &Noted, error: Option<&hyper::Error>) {
    let seen = noted
        .refused
        .get()
        .map(|why| Deny::new(Denial::ProtocolUnknown, format!("bb: not a valid HTTP request: {why}.")));
    let in_head = noted.in_head.load(Ordering::Relaxed);
    if let Some(deny) = seen.or_else(|| error.and_then(|error| refused_by_hyper(error, in_head))) {
        tell(plane, link, &deny);
    }
}

/// Writes that a stream was refused beside as many as are served at once.
fn tell_overrun<L: Ledger>(plane: &Plane<L>, link: &Link) {
    let reason = format!("bb: {MAX_STREAMS} HTTP/2 streams are open on this connection already.");
    tell(plane, link, &Deny::new(Denial::LimitStreams, reason));
}

/// Writes what there was to refuse of a connection, and of no request that could be read.
fn tell<L: Ledger>(plane: &Plane<L>, link: &Link, deny: &Deny) {
    let host = match &link.sni {
        Some(Ok(host)) => host.to_string(),
        _ => link.meant(),
    };
    plane.recorder.deny_limited(Denied::new(link.scheme(), host, link.destination.port(), deny));
}

/// Gets the refusal where hyper itself answered a request (431 or 400), or waited too long for the rest of a head. Everything else
/// is a client that went away, or left a connection idle.
fn refused_by_hyper(error: &hyper::Error, in_head: bool) -> Option<Deny> {
    if error.is_timeout() && in_head {
        let reason = format!("bb: the head of a request took longer than {} seconds.", HEAD_TIME.as_secs());
        Some(Deny::new(Denial::LimitIdle, reason))
    } else if error.is_parse_too_large() {
        Some(Deny::new(Denial::LimitHeaders, "bb: the request's headers are too large."))
    } else if error.is_parse() {
        Some(Deny::new(Denial::ProtocolUnknown, "bb: not a valid HTTP request."))
    } else {
        None
    }
}

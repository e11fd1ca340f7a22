//! HTTP on an accepted connection: hyper parses and frames, every request goes to [`Plane::answer`].
//!
//! HTTP/2 only where ALPN chose it, HTTP/1.1 everywhere else; no prior-knowledge HTTP/2, no upgrades but to
//! WebSocket ([`super::websocket`]). Limits are here.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
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
use super::front::{Front, Reason, Watch};
use super::link::Link;
use super::record::Denied;
use super::request::{MAX_HEAD, Plane};
use crate::ledger::Ledger;

/// Time for a head, which is also how long a kept connection may idle: longer than the clients' pools keep theirs, so
/// that they close first and no request meets a closing connection.
const HEAD_TIME: Duration = Duration::from_secs(120);
/// HTTP/2 streams at once on one connection.
const MAX_STREAMS: u32 = 128;

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
    let refused = Arc::new(OnceLock::new());
    let result = if h2 {
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(64 << 10)
            .initial_stream_window_size(512 << 10)
            .initial_connection_window_size(1 << 20)
            .max_send_buf_size(256 * 1024)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(TokioIo::new(io), service)
            .await
    } else {
        let front = Front::new(io, Watch::default(), Arc::clone(&refused));
        http1().serve_connection(TokioIo::new(front), service).with_upgrades().await
    };
    tell_unread(&plane, &link, &refused, result.err().as_ref());
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
    // The watch in front has stopped reading HTTP on such a connection.
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let mut answer = plane.answer(link, request).await;
    if upgrades && answer.status() != StatusCode::SWITCHING_PROTOCOLS && !h2 {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Writes that what came on a connection was no request, where it was so.
pub(super) fn tell_unread<L: Ledger>(
    plane: &Plane<L>,
    link: &Link,
    refused: &OnceLock<Reason>,
    error: Option<&hyper::Error>,
) {
    let seen =
        refused.get().map(|why| Deny::new(Denial::ProtocolUnknown, format!("bb: not a valid HTTP request: {why}.")));
    if let Some(deny) = seen.or_else(|| error.and_then(refused_by_hyper)) {
        let host = match &link.sni {
            Some(Ok(host)) => host.to_string(),
            _ => link.meant(),
        };
        let proto = if link.tls { "https" } else { "http" };
        plane.recorder.deny_limited(Denied::new(proto, host, link.destination.port(), &deny));
    }
}

/// Gets the refusal where hyper itself answered a request (431 or 400). Everything else is a client that went away.
fn refused_by_hyper(error: &hyper::Error) -> Option<Deny> {
    if error.is_parse_too_large() {
        Some(Deny::new(Denial::LimitHeaders, "bb: the request's headers are too large."))
    } else if error.is_parse() {
        Some(Deny::new(Denial::ProtocolUnknown, "bb: not a valid HTTP request."))
    } else {
        None
    }
}

//! WebSockets (RFC 6455): the handshake is relayed, the bottle hears 101 only when the server has said it, and then frames go
//! both ways untouched, until one side ends it, nothing moves, the bottle is cut or its route is taken back.
//!
//! Only over HTTP/1.1, on a connection of its own that nothing else was or will be sent on. Extensions are not offered on, so
//! that frames are plain ones: [`relay`] follows them, [`metered`] has those of a model API understood before they go on.

mod metered;
pub(super) mod relay;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::body::Outgoing;
use super::credential::Injection;
use super::deny::{Denial, Deny};
use super::exchange::Over;
use super::headers::{self, Cleaning};
use super::request::{Leaving, Plane};
use crate::ledger::Ledger;

/// Time for the server's answer to the handshake.
pub(super) const ANSWER: Duration = Duration::from_secs(30);

const VERSION: HeaderName = header::SEC_WEBSOCKET_VERSION;

/// Tells whether a request asks to become a WebSocket. Any other upgrade but an offer of `h2c`, which may be ignored, is
/// refused.
pub(super) fn asked(request: &Request<()>) -> Result<bool, Deny> {
    let refuse = |what: &str| Err(Deny::new(Denial::Upgrade, format!("bb: {what}.")).step("use plain HTTP requests"));
    let mut values = request.headers().get_all(header::UPGRADE).iter();
    let Some(value) = values.next() else {
        return Ok(false);
    };
    if values.next().is_some() {
        return refuse("there is more than one upgrade");
    }
    if value.as_bytes().eq_ignore_ascii_case(b"h2c") {
        return Ok(false);
    }
    if !value.as_bytes().eq_ignore_ascii_case(b"websocket") {
        return refuse("only an upgrade to WebSocket is passed");
    }
    let named = |name: &str| {
        let values = request.headers().get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
        values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(name))
    };
    let one = |name: &HeaderName| {
        let mut all = request.headers().get_all(name).iter();
        all.next().filter(|_| all.next().is_none()).map(HeaderValue::as_bytes)
    };
    let sound = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && named("upgrade")
        && one(&VERSION) == Some(b"13")
        // 16 bytes in base64.
        && one(&header::SEC_WEBSOCKET_KEY).is_some_and(|key| key.len() == 24)
        && !request.headers().contains_key(header::TRANSFER_ENCODING)
        && one(&header::CONTENT_LENGTH).is_none_or(|length| length == b"0");
    if sound { Ok(true) } else { refuse("this is no handshake of a WebSocket (RFC 6455, 4.1)") }
}

/// Gets the headers of the handshake that is sent on, from those that were cleaned.
pub(super) fn offer(clean: &mut HeaderMap, from: &HeaderMap, cleaning: Cleaning) {
    for name in [header::SEC_WEBSOCKET_KEY, VERSION, header::SEC_WEBSOCKET_PROTOCOL] {
        clean.remove(&name);
        // Model APIs take keys in the names of protocols, and speak the same with none.
        if name == header::SEC_WEBSOCKET_PROTOCOL && cleaning == Cleaning::Model {
            continue;
        }
        for value in from.get_all(&name) {
            let own = name == header::SEC_WEBSOCKET_PROTOCOL;
            if let Some(value) = if own { headers::subprotocols(value) } else { Some(value.clone()) } {
                clean.append(&name, value);
            }
        }
    }
    clean.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    clean.remove(header::CONTENT_LENGTH);
    clean.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    clean.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

impl<L: Ledger> Plane<L> {
    /// Relays a handshake, and what comes after it. A server that does not upgrade is heard like any other.
    pub(super) async fn websocket(
        self: &Arc<Self>,
        leaving: Leaving<'_>,
        connector: &super::upstream::Connector,
        request: Request<()>,
        bottle: Option<OnUpgrade>,
    ) -> Result<Response<Outgoing>, Deny> {
        let Some(bottle) = bottle else {
            return Err(Deny::new(Denial::Upgrade, "bb: this connection cannot become a WebSocket."));
        };
        let method = request.method().clone();
        let answered = async {
            let stream = connector.tunnel(request.uri()).await.map_err(Deny::from)?;
            let broken =
                || Deny::new(Denial::UpstreamUnreachable, "bb: the server broke off the WebSocket's handshake.");
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|_| broken())?;
            tokio::spawn(connection.with_upgrades());
            let (mut parts, ()) = request.into_parts();
            // In the form that a server of its own is asked in.
            parts
                .headers
                .insert(header::HOST, HeaderValue::from_str(leaving.named.authority.as_str()).map_err(|_| broken())?);
            parts.uri = parts
                .uri
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default()
                .parse()
                .map_err(|_| broken())?;
            sender.send_request(Request::from_parts(parts, Empty::<Bytes>::new())).await.map_err(|_| broken())
        };
        let answer = tokio::select! {
            answer = tokio::time::timeout(ANSWER, answered) => answer.unwrap_or_else(|_| {
                Err(Deny::new(Denial::LimitIdle, "bb: the server did not answer the WebSocket's handshake in time."))
            })?,
            () = leaving.entered.wait_cancelled() => return Err(self.streams.reason(&leaving.entered)),
        };
        leaving.can_read(&answer)?;
        self.note(&leaving, &method, answer.status().as_u16()).await;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(leaving.wrap::<L>(answer, None).await);
        }
        self.switched(leaving, answer, bottle)
    }

    fn switched(
        self: &Arc<Self>,
        leaving: Leaving<'_>,
        mut answer: Response<Incoming>,
        bottle: OnUpgrade,
    ) -> Result<Response<Outgoing>, Deny> {
        let upgrades = |name: &HeaderName| {
            let value = answer.headers().get(name).map(HeaderValue::as_bytes);
            value.is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
        };
        let agreed = |name: &HeaderName| answer.headers().contains_key(name);
        let spoken = leaving.route.api.is_some() && agreed(&header::SEC_WEBSOCKET_PROTOCOL);
        // What was not offered cannot have been agreed on: frames would not be what they look like.
        if !upgrades(&header::UPGRADE) || agreed(&header::SEC_WEBSOCKET_EXTENSIONS) || spoken {
            return Err(Deny::new(
                Denial::ProtocolUnknown,
                "bb: the server switched to something that was not asked for.",
            ));
        }
        if let Some(injection) = leaving.injection {
            injection.answered(answer.status(), leaving.route.api.is_some());
        }
        let server = hyper::upgrade::on(&mut answer);
        let mut headers = std::mem::take(answer.headers_mut());
        super::forward::clean_head(&mut headers, leaving.injection, &leaving.route.keep_headers);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        // The listener's own count of it ends with the upgrade.
        let place = self.connections.enter();
        let most = (leaving.route.max_request, leaving.route.max_response);
        let redactor = leaving.injection.and_then(Injection::redactor);
        let host = leaving.named.text.clone();
        let socket = leaving.route.api.map(|family| metered::Of::new(family.usual(), &leaving));
        let (entered, exchange, plane) = (leaving.entered, leaving.exchange, Arc::clone(self));
        tokio::spawn(async move {
            let both = async { tokio::try_join!(bottle, server) };
            match (tokio::time::timeout(ANSWER, both).await, socket) {
                (Ok(Ok((bottle, server))), Some(of)) => {
                    metered::Socket::new(plane, of, redactor, (entered, exchange)).relay(bottle, server).await;
                }
                (Ok(Ok((bottle, server))), None) => {
                    let over = relay::relay(bottle, server, most, redactor, &entered.stream(), exchange.moved()).await;
                    exchange.over(over);
                }
                // One of them went away in between.
                _ => {
                    exchange.over(Over::Broken);
                    tracing::debug!(host, "a WebSocket did not come about");
                }
            }
            drop(place);
        });
        let mut out = Response::new(Outgoing::full(Bytes::new()));
        *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *out.headers_mut() = headers;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake() -> http::request::Builder {
        Request::builder()
            .uri("/ws")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    fn kind(request: http::request::Builder) -> Result<bool, Denial> {
        asked(&request.body(()).unwrap()).map_err(|deny| deny.kind)
    }

    #[test]
    fn only_a_whole_handshake_asks_for_a_websocket() {
        assert_eq!(kind(handshake()), Ok(true));
        assert_eq!(kind(Request::builder().uri("/")), Ok(false));
        assert_eq!(
            kind(Request::builder().uri("/").header("upgrade", "h2c")),
            Ok(false),
            "an offer that may be ignored"
        );
        for broken in [
            handshake().method("POST"),
            handshake().version(Version::HTTP_10),
            handshake().version(Version::HTTP_2),
            handshake().header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            handshake().header("transfer-encoding", "chunked"),
            handshake().header("content-length", "5"),
            Request::builder().uri("/").header("upgrade", "websocket"),
            Request::builder().uri("/").header("upgrade", "h2c, websocket"),
            Request::builder().uri("/").header("upgrade", "tls/1.0").header("connection", "upgrade"),
        ] {
            assert_eq!(kind(broken), Err(Denial::Upgrade));
        }
    }

    #[test]
    fn extensions_are_not_offered_on() {
        let from = handshake()
            .header("sec-websocket-extensions", "permessage-deflate")
            .header("sec-websocket-protocol", "chat")
            .body(())
            .unwrap();
        let mut clean = super::super::headers::request(from.headers(), super::super::headers::Cleaning::Plain);
        offer(&mut clean, from.headers(), Cleaning::Plain);
        assert!(!clean.contains_key("sec-websocket-extensions"));
        assert_eq!([&clean["sec-websocket-protocol"], &clean["upgrade"]], ["chat", "websocket"]);
        assert_eq!(clean.get_all("sec-websocket-key").iter().count(), 1);
        offer(&mut clean, from.headers(), Cleaning::Model);
        assert!(!clean.contains_key("sec-websocket-protocol"), "it may hold a key");
    }
}

//! A WebSocket of a model API: what a client says is understood, and its tokens are reserved, before it goes on; each response is
//! settled before its last event goes on.
//!
//! Many responses pass on one socket (`meter::events`). Bytes go on as they came, but that an echoed credential is taken out. What
//! cannot be understood, either way, ends the socket: the client hears why in an event of its API, then a Close. A refusal waits
//! until the responses that are under way have ended.

mod client;
mod intake;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use super::relay::idle;
use crate::api::Route;
use crate::egress::body::{Moved, Way};
use crate::egress::credential::Redactor;
use crate::egress::deny::{Denial, Deny};
use crate::egress::exchange::{Exchange, Over};
use crate::egress::record::Denied;
use crate::egress::request::{Leaving, Plane};
use crate::egress::spent;
use crate::egress::streams::Entered;
use crate::egress::tee::Metering;
use crate::ledger::Ledger;
use crate::meter::events::Lanes;
use crate::meter::websocket::{Message, Opcode, close, frame};
use crate::types::Api;

/// Time for the last words to the bottle, and for its answer to them.
const FAREWELL: Duration = Duration::from_secs(5);

/// Codes of a Close (RFC 6455, 7.4.1).
mod code {
    pub(super) const PROTOCOL: u16 = 1002;
    pub(super) const UNACCEPTABLE: u16 = 1003;
    pub(super) const POLICY: u16 = 1008;
    pub(super) const TOO_BIG: u16 = 1009;
}

/// What of its handshake a socket has to know.
pub(super) struct Of {
    api: Api,
    route: Route,
    host: String,
    path: String,
    scheme: &'static str,
    port: u16,
}

impl Of {
    pub(super) fn new(api: Api, leaving: &Leaving<'_>) -> Of {
        Of {
            api,
            route: leaving.route.clone(),
            host: leaving.named.text.clone(),
            path: leaving.path.to_owned(),
            scheme: leaving.link.scheme(),
            port: leaving.link.destination.port(),
        }
    }
}

/// Why a socket ends, as its client hears it.
#[derive(Debug)]
struct Refusal {
    deny: Deny,
    code: u16,
    /// The lane of the message that was refused.
    lane: Option<String>,
}

impl From<Deny> for Refusal {
    fn from(deny: Deny) -> Refusal {
        Refusal { deny, code: code::POLICY, lane: None }
    }
}

impl Refusal {
    /// Refuses what is not understood.
    fn unreadable(code: u16, what: impl std::fmt::Display) -> Refusal {
        let deny = Deny::new(Denial::ProtocolUnknown, format!("bb: {what}.")).step("use plain HTTP requests");
        Refusal { deny, code, lane: None }
    }
}

/// How a socket ends.
enum Ended {
    /// One side has left.
    Over,
    /// Nothing moved for too long.
    Idle,
    /// The client is told why.
    Refused(Box<Refusal>),
    /// As a cut, or a route that was taken back, has it.
    Cancelled,
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Ended {
        Ended::Refused(Box::new(refusal))
    }
}

/// One response under way.
struct Answer<L: Ledger> {
    metering: Metering<L>,
    model: String,
    /// Estimate of the message that asked for it. Unit: tokens.
    own: u64,
    /// Steering that was taken into it: it costs something where this response does not say what all of it has cost.
    taken_in: Vec<Metering<L>>,
    /// Bytes that may still come of it; no limit where absent.
    left: Option<u64>,
}

/// The responses under way, and what waits for their end.
struct UnderWay<L: Ledger> {
    lanes: Lanes<Answer<L>>,
    /// The model that was asked last.
    model: Option<String>,
    refused: Option<Refusal>,
}

/// One socket.
pub(super) struct Socket<L: Ledger> {
    plane: Arc<Plane<L>>,
    of: Of,
    redactor: Option<Redactor>,
    entered: Entered,
    exchange: Arc<Exchange>,
    under_way: Mutex<UnderWay<L>>,
    moved: Arc<Moved>,
    /// A frame to the bottle is under way.
    writing: AtomicBool,
    /// The server has said Close.
    closed: AtomicBool,
}

impl<L: Ledger> Socket<L> {
    pub(super) fn new(
        plane: Arc<Plane<L>>,
        of: Of,
        redactor: Option<Redactor>,
        (entered, exchange): (Entered, Arc<Exchange>),
    ) -> Socket<L> {
        exchange.moved().mark();
        let under_way = Mutex::new(UnderWay { lanes: Lanes::default(), model: None, refused: None });
        let (moved, writing, closed) = (Arc::clone(exchange.moved()), AtomicBool::new(false), AtomicBool::new(false));
        Socket { plane, of, redactor, entered, exchange, under_way, moved, writing, closed }
    }

    /// Passes messages both ways until the socket ends. What is not settled by then is, by what was seen.
    pub(super) async fn relay(self, bottle: Upgraded, server: Upgraded) {
        let (mut from_bottle, mut to_bottle) = tokio::io::split(TokioIo::new(bottle));
        let ended = {
            let (from_server, to_server) = tokio::io::split(TokioIo::new(server));
            tokio::select! {
                ended = self.client(&mut from_bottle, to_server) => ended,
                ended = self.server(from_server, &mut to_bottle) => ended,
                () = self.entered.wait_cancelled() => Ended::Cancelled,
                () = idle(&self.moved) => Ended::Idle,
            }
        };
        // Nothing is under way any more, whatever its client does now.
        self.under_way.lock().await.lanes = Lanes::default();
        self.exchange.over(match &ended {
            Ended::Over => Over::Whole,
            Ended::Idle => Over::Idle,
            Ended::Cancelled => Over::Cut,
            Ended::Refused(refusal) if refusal.deny.kind == Denial::Cut => Over::Cut,
            Ended::Refused(refusal) if refusal.deny.kind == Denial::LedgerUnavailable => Over::Ledger,
            Ended::Refused(_) => Over::Broken,
        });
        let refusal = match ended {
            Ended::Over | Ended::Idle => None,
            Ended::Cancelled => Some(Refusal::from(self.plane.streams.reason(&self.entered))),
            Ended::Refused(refusal) => {
                let denied = Denied::new(self.of.scheme, &self.of.host, self.of.port, &refusal.deny);
                self.plane.recorder.deny(denied.request("GET", &self.of.path)).await;
                Some(*refusal)
            }
        };
        let farewell = self.farewell(refusal, &mut from_bottle, &mut to_bottle);
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }

    /// Writes a message as it came.
    async fn write(&self, message: Message, to: &mut (impl AsyncWrite + Unpin), way: Way) -> std::io::Result<()> {
        for piece in message.into_wire() {
            to.write_all(&piece).await?;
            self.moved.count(way, piece.len());
            self.moved.mark();
        }
        to.flush().await
    }

    /// Says why, where something can be said, and lets the bottle read it: with unread bytes behind it the connection would be reset.
    async fn farewell(
        &self,
        refusal: Option<Refusal>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> std::io::Result<()> {
        let in_between = !self.writing.load(Ordering::Acquire) && !self.closed.load(Ordering::Acquire);
        if let Some(refusal) = refusal.filter(|_| in_between) {
            let event =
                spent::event(&refusal.deny, refusal.lane.as_deref(), jiff::Timestamp::now().as_second()).to_string();
            let mut last = frame(Opcode::Text, event.as_bytes(), None);
            last.extend(close(refusal.code, &format!("bb: {}", refusal.deny.kind.as_str())));
            to.write_all(&last).await?;
        }
        to.shutdown().await?;
        let mut rest = [0; 4096];
        while from.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

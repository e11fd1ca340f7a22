//! TLS that a route passes through unseen: its server name is checked, then its bytes go on as they are, until one side
//! ends it, nothing moves, the bottle is cut or the route is taken back.
//!
//! It sees no request, so it can neither meter nor put anything in; [`super::route`] refuses routes that say otherwise.

use std::sync::Arc;

use http::Uri;
use tokio::io::AsyncWriteExt;

use super::accept::Meant;
use super::body::Way;
use super::deny::{Denial, Deny};
use super::exchange::{self, Exchange, Over};
use super::hello;
use super::link::{Link, destination, of_host};
use super::name::Host;
use super::record::Passed;
use super::request::{Plane, not_cut};
use super::rewound::Rewound;
use super::streams::Subject;
use super::websocket::relay::{copy, how, idle};
use crate::api;
use crate::ledger::Ledger;

/// Passes one connection through. `greeting` is what was read of it. An error is why it was refused.
pub async fn pass<L: Ledger>(
    plane: &Plane<L>,
    (stream, mut greeting): (Rewound, Vec<u8>),
    host: &Host,
    meant: &Meant,
    route: Arc<api::Route>,
) -> Result<(), Deny> {
    let link = Link::new(meant.address, true, Some(Ok(host.clone()))).through(meant.target.clone());
    let named = of_host(&link, host)?;
    destination(plane.gate, &link, &named)?;
    if !hello::hides_nothing(&greeting) {
        return Err(Deny::new(
            Denial::NameMismatch,
            "bb: the TLS greeting has an Encrypted Client Hello, so the name that it means cannot be checked.",
        )
        .step("switch Encrypted Client Hello off in the client"));
    }
    let entered = plane.streams.enter()?;
    let policy = plane.policy.get();
    if policy.passes_through(host, meant.address.port()).is_none() {
        return Err(Deny::new(Denial::RouteMissing, format!("bb: {} is not passed through any more.", named.text)));
    }
    entered.is_about(Subject {
        named: Arc::clone(&named),
        port: meant.address.port(),
        tls: true,
        method: None,
        uri: Uri::default(),
        headers: None,
        websocket: false,
        route: Arc::clone(&route),
    });
    if !plane.policy.is(&policy) {
        plane.streams.withdraw(&plane.policy.get());
    }
    not_cut(&plane.streams, false)?;
    let exchange = Exchange::begin(
        &plane.recorder,
        exchange::Subject {
            method: "TLS".to_owned(),
            scheme: "tls",
            named: Arc::clone(&named),
            port: meant.address.port(),
            path: String::new(),
            route,
        },
    );
    let dialled = tokio::select! {
        dialled = policy.connector.reach(host, meant.address.port()) => dialled,
        () = entered.wait_cancelled() => {
            exchange.refused();
            return Err(plane.streams.reason(&entered));
        }
    };
    let mut upstream = dialled.map_err(|error| {
        exchange.refused();
        Deny::from(error)
    })?;
    let passed = Passed {
        exchange: exchange.id(),
        method: "TLS",
        scheme: "tls",
        host: &named.text,
        port: meant.address.port(),
        path: "",
        status: 0,
        took: exchange.took(),
    };
    exchange.noted(0, plane.recorder.passed(passed).await);
    let moved = exchange.moved();
    moved.mark();
    let (stream, ahead) = stream.into_parts();
    greeting.extend_from_slice(&ahead);
    let both = async {
        upstream.write_all(&greeting).await?;
        moved.count(Way::Up, greeting.len());
        let ((from_bottle, to_bottle), (from_server, to_server)) = (stream.into_split(), upstream.into_split());
        tokio::try_join!(
            copy(from_bottle, to_server, (moved, Way::Up), None, None),
            copy(from_server, to_bottle, (moved, Way::Down), None, None)
        )
    };
    let (over, result) = tokio::select! {
        // A side that breaks off is no refusal: the other one hears it by its end.
        ended = both => (how(&ended.map(|_| ())), Ok(())),
        () = entered.wait_cancelled() => (Over::Cut, Err(plane.streams.reason(&entered))),
        () = idle(moved) => {
            (Over::Idle, Err(Deny::new(Denial::LimitIdle, "bb: a connection that is passed through stood still.")))
        }
    };
    exchange.over(over);
    result
}

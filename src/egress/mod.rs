//! The egress plane: the only way out of a bottle.
//!
//! Sockets that were made inside a bottle's gate come in, and what they carry is caught, named once, checked against
//! the allow-list, given its credential, metered and forwarded, or refused with a reason that can be read. The parts,
//! in the order in which a byte meets them: [`sentinel`] and [`dns`] beside the way; [`accept`] ([`rewound`]; [`proxy`] where a bottle has one), [`hello`], [`ca`] or [`passthrough`], [`front`] or [`overrun`], [`serve`],
//! [`request`] (the life of one request: [`link`], [`name`], [`address`], [`route`], [`headers`], [`credential`], [`model`], [`coding`], [`estimate`], [`count`], [`hold`], [`headroom`]),
//! [`forward`], [`upstream`], [`dial`] ([`lookup`], [`special`]; or [`upstream_proxy`]), and back through [`tee`] ([`echo`]). Refusals are [`deny`] and [`spent`], events [`record`],
//! what became of an allowed request [`exchange`], the cut [`streams`], what may be held [`room`], and wait to be read [`unread`].
//!
//! It decides nothing about budgets: the ledger grants holds, the [`Enforcer`] acts on crossings.
//!
//! Logins of the host: [`login`], and [`oauth`], by which a bottle is answered that asks for one.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use rustls::RootCertStore;
use secrecy::SecretString;
use tokio::sync::Semaphore;

use crate::api::{Route, Unsent, Upstream, Verdict};
use crate::ledger::{Ledger, Node, Standing};
use crate::types::{Api, CutScope};

pub mod accept;
pub mod address;
pub mod body;
pub mod ca;
mod coding;
mod count;
pub mod credential;
pub mod deny;
pub mod dial;
pub mod dns;
mod echo;
pub mod estimate;
pub mod exchange;
pub mod forward;
pub mod front;
pub mod headers;
mod headroom;
pub mod hello;
pub mod hold;
pub mod link;
pub mod listening;
pub mod login;
pub mod lookup;
pub mod model;
pub mod name;
pub mod oauth;
mod overrun;
mod pace;
pub mod passthrough;
pub mod policy;
pub mod proxy;
pub mod record;
pub mod refused;
pub mod request;
pub mod rewound;
pub mod room;
pub mod route;
pub mod sentinel;
pub mod serve;
pub mod special;
pub mod spent;
pub mod streams;
pub mod suggest;
pub mod tally;
pub mod tee;
mod through;
pub mod unread;
mod unseen;
pub mod upstream;
pub mod upstream_proxy;
mod websocket;
mod why;

#[cfg(test)]
mod tests;

pub use ca::{Ca, CaError};
pub use deny::Denial;
pub use upstream::host_roots;

use accept::Door;
use address::Gate;
use estimate::Estimates;
use hold::Keeping;
use listening::{Closed, Listeners, Listening, Tasks};
use policy::{Current, Policy, Towards};
use record::{Recorder, Tally};
use request::Plane;
use room::Room;
use streams::{Cut, Streams};
use upstream_proxy::UpstreamProxy;

/// The listeners of one bottle, made inside its gate.
#[derive(Debug, Default)]
pub struct Sockets {
    /// HTTP and HTTPS: 443, 80 and the ports of the routes.
    pub tcp: Vec<TcpListener>,
    /// DNS over UDP: wildcard sockets on port 53.
    pub udp: Vec<UdpSocket>,
    /// DNS over TCP: port 53.
    pub dns_tcp: Vec<TcpListener>,
    /// A packet socket on the gate's veth, which sees what nobody listens for.
    pub sentinel: Option<OwnedFd>,
}

/// What a bottle may reach, and with what.
#[derive(Default)]
pub struct Rules {
    /// The allow-list; empty = nothing.
    pub routes: Vec<Route>,
    /// An allow-list that has to allow as well: the one that is to come, while it is not written yet.
    pub also: Option<Vec<Route>>,
    /// Resolved credentials by name.
    pub credentials: BTreeMap<String, SecretString>,
    /// Logins of the host by name.
    pub logins: BTreeMap<String, Arc<login::Holder>>,
}

/// What a bottle may do, and what its requests are charged to.
pub struct Spec {
    /// Its name.
    pub slug: String,
    /// The launch's id.
    pub id: String,
    /// Budget key.
    pub provider: String,
    /// The API whose endpoint may count the tokens of its requests.
    pub counted_by: Option<Api>,
    /// Agent, for usage rows.
    pub agent: String,
    /// Run it belongs to.
    pub run: Option<String>,
    /// Nodes that are charged, nearest first.
    pub path: Vec<Node>,
    /// What is allowed, and with what.
    pub rules: Rules,
    /// Names dialled elsewhere: `host` (port 443) or `host:port`.
    pub upstreams: BTreeMap<String, Upstream>,
    /// The proxy that is the host's own way out, with its credential.
    pub upstream_proxy: Option<(crate::api::UpstreamProxy, Option<SecretString>)>,
    /// Where in its gate its explicit proxy is, if it has one. What connects there comes by [`Sockets::tcp`].
    pub proxy: Option<SocketAddr>,
    /// Its certificate authority.
    pub ca: Ca,
    /// Cut already (a bottle that is adopted).
    pub cut: Option<CutScope>,
    /// A request that finds its budget spent waits until there is some again, in place of being refused.
    pub parks: bool,
}

/// Acts on crossings. Called from the request path: must not block.
pub trait Enforcer: Send + Sync + 'static {
    /// Says that an account that governs or binds the bottle is spent, or that a request did not fit into it.
    fn exhausted(&self, bottle_id: &str, standing: Standing);
}

/// Why a bottle's egress could not start. It stays closed then.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// A socket could not be used.
    #[error("a listener of the bottle cannot be used: {0}")]
    Socket(#[from] std::io::Error),
    /// The certificate authority cannot be used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The allow-list is not in order.
    #[error(transparent)]
    Route(#[from] route::RouteError),
    /// The upstreams or the TLS towards them are not in order.
    #[error(transparent)]
    Upstream(#[from] upstream::UpstreamError),
}

/// One bottle's open way out. Dropped = closed.
pub struct Handle {
    plane: Arc<dyn Changing>,
    listeners: Box<dyn Listening>,
    streams: Arc<Streams>,
    connections: Arc<Tally>,
    work: Arc<Tally>,
    parks: Arc<AtomicBool>,
    tasks: Tasks,
}

/// The part of a plane that an operator changes while it serves.
trait Changing: Send + Sync {
    /// Puts another allow-list in force.
    fn change(&self, rules: &Rules) -> Result<(), EgressError>;
    /// Says what would become of a request.
    fn why(&self, unsent: &Unsent) -> Verdict;
}

impl<L: Ledger> Changing for Plane<L> {
    fn change(&self, rules: &Rules) -> Result<(), EgressError> {
        self.policy.set(Policy::new(rules, &self.towards)?);
        self.streams.withdraw(&self.policy.get());
        Ok(())
    }

    fn why(&self, unsent: &Unsent) -> Verdict {
        why::why(&self.policy.get(), &self.streams, unsent)
    }
}

/// Starts to serve a bottle. Must be called inside a tokio runtime.
///
/// # Errors
/// [`EgressError`]; nothing is served then.
pub fn start<L: Ledger>(
    spec: Spec,
    sockets: Sockets,
    ledger: L,
    enforcer: Arc<dyn Enforcer>,
    roots: Arc<RootCertStore>,
) -> Result<Handle, EgressError> {
    start_with(spec, sockets, ledger, enforcer, roots, Gate::Computed)
}

fn start_with<L: Ledger>(
    spec: Spec,
    sockets: Sockets,
    ledger: L,
    enforcer: Arc<dyn Enforcer>,
    roots: Arc<RootCertStore>,
    gate: Gate,
) -> Result<Handle, EgressError> {
    let streams = Arc::new(Streams::default());
    if let Some(scope) = spec.cut {
        streams.set(Some(Cut { scope, deny: spent::cut("before the controller was restarted") }));
    }
    let work = Arc::new(Tally::default());
    let connections = Arc::new(Tally::default());
    let parks = Arc::new(AtomicBool::new(spec.parks));
    let recorder = Arc::new(Recorder::start(&spec.slug, spec.run.as_deref(), Arc::clone(&work), ledger.clone()));
    let proxy = spec.upstream_proxy.as_ref().map(|(said, credential)| {
        UpstreamProxy::new(said, credential.as_ref()).map(Arc::new).map_err(upstream::UpstreamError::from)
    });
    let (lookups, proxy) = (lookup::Lookups::default(), proxy.transpose()?);
    let towards = Towards { roots, upstreams: spec.upstreams, lookups, proxy };
    let policy = Current::new(Policy::new(&spec.rules, &towards)?);
    let estimates = Estimates::new(&spec.provider, &spec.agent);
    let plane = Arc::new(Plane {
        estimates,
        policy,
        towards,
        slug: spec.slug,
        provider: spec.provider,
        counted_by: spec.counted_by,
        agent: spec.agent,
        run: spec.run,
        path: spec.path,
        ledger,
        keeping: Keeping {
            bottle: spec.id.into(),
            parks: Arc::clone(&parks),
            told: Arc::default(),
            near: Arc::default(),
            enforcer,
            tally: Arc::clone(&work),
            drains: Arc::new(Semaphore::new(hold::DRAINS)),
            runtime: tokio::runtime::Handle::current(),
        },
        recorder: Arc::clone(&recorder),
        connections: Arc::clone(&connections),
        streams: Arc::clone(&streams),
        room: Room::default(),
        reading: Arc::default(),
        refusing: Semaphore::new(refused::AT_ONCE),
        wide: Arc::new(Semaphore::new(serve::WIDE_AT_ONCE)),
        gate,
    });
    let door = Arc::new(Door {
        plane: Arc::clone(&plane),
        acceptor: spec.ca.acceptor()?,
        handshakes: Semaphore::new(accept::HANDSHAKES),
        paces: accept::Paces::default(),
        connections: Arc::clone(&connections),
        proxy: spec.proxy,
    });
    let tasks = Tasks::default();
    let listeners = Box::new(Listeners::serve(sockets, door, &recorder, &tasks)?);
    Ok(Handle { plane, listeners, streams, connections, work, parks, tasks })
}

impl Handle {
    /// Puts another allow-list in force. Requests that it allows as they were allowed go on; all others are closed before
    /// this returns.
    ///
    /// # Errors
    /// [`EgressError`]; the list in force stays then.
    pub fn set_routes(&self, rules: &Rules) -> Result<(), EgressError> {
        self.plane.change(rules)
    }

    /// Serves one more listener: a port that the allow-list has got.
    ///
    /// # Errors
    /// [`EgressError::Socket`].
    pub fn add_listener(&self, listener: TcpListener) -> Result<(), EgressError> {
        self.listeners.add(listener)
    }

    /// Closes the listeners of ports that the allow-list has no more. Each is gone when what this gets for it ends.
    pub fn close_listeners(&self, ports: &[u16]) -> Vec<Closed> {
        self.listeners.close(ports)
    }

    /// Says what would become of a request, and by which rule. Sends nothing.
    pub fn verdict(&self, unsent: &Unsent) -> Verdict {
        self.plane.why(unsent)
    }

    /// Cuts the bottle off: from now on requests of `scope` are refused with `reason`, and open streams are closed.
    /// With `finish_open` (a cut by a budget) the streams whose hold stands may finish. Takes effect before it returns.
    pub fn cut(&self, scope: CutScope, reason: &str, finish_open: bool) {
        self.streams.cut(Cut { scope, deny: spent::cut(reason) }, finish_open);
    }

    /// Cuts the bottle off because `standing` is spent: as [`Handle::cut`], and requests are told figures and remedy.
    pub fn cut_by_budget(&self, scope: CutScope, standing: &Standing) {
        self.streams.cut(Cut { scope, deny: spent::budget(standing) }, true);
    }

    /// Says whether a request that finds its budget spent waits from now on (see [`Spec::parks`]).
    pub fn set_parks(&self, parks: bool) {
        self.parks.store(parks, Ordering::Relaxed);
    }

    /// Sets or lifts the cut without touching open streams.
    pub fn set_cut(&self, cut: Option<(CutScope, &str)>) {
        self.streams.set(cut.map(|(scope, reason)| Cut { scope, deny: spent::cut(reason) }));
    }

    /// Closes the way out: nothing new is accepted, everything open is dropped, and its holds are settled.
    pub fn close(&self) {
        self.streams.set(Some(Cut { scope: CutScope::All, deny: spent::cut("the bottle has ended") }));
        self.streams.cancel_all();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// Waits until no connection is open and every settlement and event is written. Endless unless closed before, or
    /// the bottle has ended.
    pub async fn drained(&self) {
        self.connections.idle().await;
        self.work.idle().await;
    }

    /// Gets the number of open connections.
    pub fn connections(&self) -> usize {
        self.connections.open()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

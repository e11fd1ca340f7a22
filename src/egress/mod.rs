//! The egress plane: the only way out of a bottle.
//!
//! Sockets that were made inside a bottle's gate come in, and what they carry is caught, named once, checked against
//! the allow-list, given its credential, metered and forwarded, or refused with a reason that can be read. The parts,
//! in the order in which a byte meets them: [`sentinel`] and [`dns`] beside the way; [`accept`], [`ca`], [`serve`],
//! [`request`] (the life of one request: [`link`], [`name`], [`address`], [`route`], [`headers`], [`credential`], [`model`], [`hold`]),
//! [`forward`], [`upstream`], [`dial`], and back through [`tee`]. Refusals are [`deny`] and [`spent`], events [`record`],
//! the cut [`streams`].
//!
//! It decides nothing about budgets: the ledger grants holds, the [`Enforcer`] acts on crossings.

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::RootCertStore;
use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::api::{Route, Upstream};
use crate::ledger::{Ledger, Node, Standing};
use crate::types::CutScope;

pub mod accept;
pub mod address;
pub mod body;
pub mod ca;
pub mod credential;
pub mod deny;
pub mod dial;
pub mod dns;
pub mod forward;
pub mod headers;
pub mod hold;
pub mod link;
pub mod model;
pub mod name;
pub mod record;
pub mod request;
pub mod route;
pub mod sentinel;
pub mod serve;
pub mod spent;
pub mod streams;
pub mod tee;
pub mod upstream;

#[cfg(test)]
mod tests;

pub use ca::{Ca, CaError};
pub use deny::Denial;
pub use upstream::host_roots;

use accept::Door;
use address::{Gate, NameBook};
use credential::Credentials;
use hold::Keeping;
use record::{Recorder, Tally};
use request::Plane;
use route::Router;
use streams::{Cut, Streams};

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

/// What a bottle may do, and what its requests are charged to.
pub struct Spec {
    /// Its name.
    pub slug: String,
    /// The launch's id.
    pub id: String,
    /// Budget key.
    pub provider: String,
    /// Agent, for usage rows.
    pub agent: String,
    /// Run it belongs to.
    pub run: Option<String>,
    /// Nodes that are charged, nearest first.
    pub path: Vec<Node>,
    /// The allow-list; empty = nothing.
    pub routes: Vec<Route>,
    /// Resolved credentials by name.
    pub credentials: BTreeMap<String, SecretString>,
    /// Names dialled elsewhere: `host` (port 443) or `host:port`.
    pub upstreams: BTreeMap<String, Upstream>,
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
    streams: Arc<Streams>,
    connections: Arc<Tally>,
    work: Arc<Tally>,
    parks: Arc<AtomicBool>,
    tasks: Tasks,
}

type Tasks = Arc<Mutex<JoinSet<()>>>;

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
    let parks = Arc::new(AtomicBool::new(spec.parks));
    let recorder = Arc::new(Recorder::start(&spec.slug, spec.run.as_deref(), Arc::clone(&work), ledger.clone()));
    let plane = Arc::new(Plane {
        router: Router::new(&spec.routes)?,
        credentials: Credentials::new(&spec.routes, &spec.credentials),
        client: upstream::client(&roots, &spec.upstreams)?,
        slug: spec.slug,
        provider: spec.provider,
        agent: spec.agent,
        run: spec.run,
        path: spec.path,
        ledger,
        keeping: Keeping {
            bottle: spec.id.into(),
            parks: Arc::clone(&parks),
            enforcer,
            tally: Arc::clone(&work),
            runtime: tokio::runtime::Handle::current(),
        },
        recorder: Arc::clone(&recorder),
        streams: Arc::clone(&streams),
        room: Arc::new(Semaphore::new(model::ROOM)),
        gate,
    });
    let connections = Arc::new(Tally::default());
    let door = Arc::new(Door {
        plane,
        acceptor: spec.ca.acceptor()?,
        handshakes: Semaphore::new(accept::HANDSHAKES),
        connections: Arc::clone(&connections),
    });
    let tasks = Tasks::default();
    serve_all(sockets, &door, &recorder, &tasks)?;
    Ok(Handle { streams, connections, work, parks, tasks })
}

fn serve_all<L: Ledger>(
    sockets: Sockets,
    door: &Arc<Door<L>>,
    recorder: &Arc<Recorder>,
    tasks: &Tasks,
) -> Result<(), EgressError> {
    let book = Arc::new(NameBook::new());
    let mut served = sentinel::Served::default();
    let mut set = tasks.lock().unwrap_or_else(PoisonError::into_inner);
    for listener in &sockets.udp {
        served.udp.insert(listener.local_addr()?.port());
    }
    for listener in sockets.tcp.iter().chain(&sockets.dns_tcp) {
        served.tcp.insert(listener.local_addr()?.port());
    }
    for listener in sockets.tcp {
        let listener = tokio_listener(listener)?;
        // Weak: the tasks are in the set that this would hold.
        let tasks = Arc::downgrade(tasks);
        set.spawn(accept::listen(listener, Arc::clone(door), move |connection| {
            if let Some(tasks) = tasks.upgrade() {
                let mut set = tasks.lock().unwrap_or_else(PoisonError::into_inner);
                while set.try_join_next().is_some() {}
                set.spawn(connection);
            }
        }));
    }
    for listener in sockets.dns_tcp {
        set.spawn(dns::serve_tcp(tokio_listener(listener)?, Arc::clone(&book), Arc::clone(recorder)));
    }
    for socket in sockets.udp {
        let served = dns::serve_udp(socket, Arc::clone(&book), Arc::clone(recorder));
        set.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "a bottle's DNS ended");
            }
        });
    }
    if let Some(socket) = sockets.sentinel {
        let watch = sentinel::watch(socket, served, book, Arc::clone(recorder));
        set.spawn(async move {
            if let Err(error) = watch.await {
                tracing::warn!(%error, "a bottle's sentinel ended");
            }
        });
    }
    Ok(())
}

fn tokio_listener(listener: TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

impl Handle {
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

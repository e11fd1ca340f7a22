//! What listens for one bottle: served from when a listener comes until it is closed, or the bottle's way out is.
//!
//! Sockets are made by the bottle's keeper and come here as they are. Decides nothing about what connects.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use super::accept::{self, Door};
use super::address::NameBook;
use super::record::Recorder;
use super::sentinel::{self, Served};
use super::{EgressError, Sockets, dns};
use crate::ledger::Ledger;

/// What runs for a bottle.
pub(super) type Tasks = Arc<Mutex<JoinSet<()>>>;

/// Ends when a listener is closed.
pub type Closed = oneshot::Receiver<()>;

/// The listeners of a bottle, whatever its ledger is.
pub(super) trait Listening: Send + Sync {
    /// Serves one more.
    fn add(&self, listener: TcpListener) -> Result<(), EgressError>;
    /// Closes those of `ports`. Connections that they took go on.
    fn close(&self, ports: &[u16]) -> Vec<Closed>;
}

/// See the module.
pub(super) struct Listeners<L: Ledger> {
    door: Arc<Door<L>>,
    served: Arc<Served>,
    /// Weak: the tasks hold the door, and would keep it open after the handle is gone.
    tasks: Weak<Mutex<JoinSet<()>>>,
    open: Mutex<HashMap<u16, (AbortHandle, Closed)>>,
}

impl<L: Ledger> Listeners<L> {
    /// Serves all sockets of a bottle.
    pub(super) fn serve(
        sockets: Sockets,
        door: Arc<Door<L>>,
        recorder: &Arc<Recorder>,
        tasks: &Tasks,
    ) -> Result<Listeners<L>, EgressError> {
        let book = Arc::new(NameBook::new());
        let served = Arc::new(Served::default());
        for listener in &sockets.udp {
            served.udp.write().unwrap_or_else(PoisonError::into_inner).insert(listener.local_addr()?.port());
        }
        for listener in &sockets.dns_tcp {
            served.listens(listener.local_addr()?.port());
        }
        let all = Listeners { door, served: Arc::clone(&served), tasks: Arc::downgrade(tasks), open: Mutex::default() };
        for listener in sockets.tcp {
            all.add(listener)?;
        }
        let mut set = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in sockets.dns_tcp {
            set.spawn(dns::serve_tcp(of_tokio(listener)?, Arc::clone(&book), Arc::clone(recorder)));
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
        drop(set);
        Ok(all)
    }
}

impl<L: Ledger> Listening for Listeners<L> {
    /// Serves a listener for HTTP and HTTPS.
    fn add(&self, listener: TcpListener) -> Result<(), EgressError> {
        let Some(tasks) = self.tasks.upgrade() else { return Ok(()) };
        let port = listener.local_addr()?.port();
        let listener = of_tokio(listener)?;
        let weak = Weak::clone(&self.tasks);
        let serving = accept::listen(listener, Arc::clone(&self.door), move |connection| {
            if let Some(tasks) = weak.upgrade() {
                let mut set = tasks.lock().unwrap_or_else(PoisonError::into_inner);
                while set.try_join_next().is_some() {}
                set.spawn(connection);
            }
        });
        let (open, closed) = oneshot::channel::<()>();
        self.served.listens(port);
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            // Goes after the listener has gone.
            let _open = open;
            serving.await;
        });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(port, (task, closed));
        Ok(())
    }

    fn close(&self, ports: &[u16]) -> Vec<Closed> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all = ports.iter().filter_map(|port| {
            let (task, closed) = open.remove(port)?;
            // From now on who connects there is told of as who connects anywhere else.
            self.served.no_longer_listens(*port);
            task.abort();
            Some(closed)
        });
        all.collect()
    }
}

fn of_tokio(listener: TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

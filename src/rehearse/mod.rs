//! Rehearsal: stand-ins of the Anthropic Messages, OpenAI Responses and Gemini APIs on this machine.
//!
//! A TLS server on 127.0.0.1 with an authority of its own, made fresh each time. Under the real host names (by
//! `upstreams`) it lets a recipe, a policy and a real agent CLI run with no key, no network and no cost; what it answers
//! is scripted by a [`Scenario`]. It keeps its own count of what it said ([`Stats`]), so that a ledger can be held
//! against it. It must never call out, and never look at anything but the request before it.

mod anthropic;
mod bedrock;
mod body;
mod chat;
mod conversation;
mod gemini;
mod openai;
mod replay;
pub mod scenario;
mod serve;
mod socket;
pub mod stats;
mod tls;
mod tools;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::api::Upstream;
use crate::error::{Error, Kind};
pub use scenario::Scenario;
use stats::Log;
pub use stats::Stats;

/// The hosts that a rehearsal stands in for.
const HOSTS: [&str; 8] = [
    "aiplatform.googleapis.com",
    "api.anthropic.com",
    "api.openai.com",
    "bedrock-runtime.us-east-1.amazonaws.com",
    "chatgpt.com",
    "cloudcode-pa.googleapis.com",
    "generativelanguage.googleapis.com",
    "us-central1-aiplatform.googleapis.com",
];

/// Why a rehearsal cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RehearseError {
    /// The scenario's table is wrong.
    #[error("the scenario is wrong: {0}")]
    Scenario(String),
    /// No socket, or no thread.
    #[error("the rehearsal cannot listen: {0}")]
    Io(#[from] std::io::Error),
    /// No certificate.
    #[error("the rehearsal has no certificate: {0}")]
    Tls(String),
}

impl From<RehearseError> for Error {
    fn from(error: RehearseError) -> Error {
        let kind = match error {
            RehearseError::Scenario(_) => Kind::Usage,
            RehearseError::Io(_) | RehearseError::Tls(_) => Kind::Internal,
        };
        Error::new(kind, error.to_string())
    }
}

/// A running stand-in. It ends, with its open streams, when it is dropped.
pub struct Rehearsal {
    address: SocketAddr,
    ca_pem: String,
    hosts: Vec<String>,
    log: Arc<Log>,
    /// `None` only while dropping.
    runtime: Option<Runtime>,
}

impl Rehearsal {
    /// Starts a stand-in on a free port of 127.0.0.1, on threads of its own.
    ///
    /// # Errors
    /// [`RehearseError`].
    pub fn start(scenario: Scenario) -> Result<Rehearsal, RehearseError> {
        Rehearsal::start_on(scenario, std::net::TcpListener::bind("127.0.0.1:0")?)
    }

    /// Starts a stand-in on a listener, which may have been made in another network namespace.
    ///
    /// # Errors
    /// [`RehearseError`].
    pub fn start_on(scenario: Scenario, listener: std::net::TcpListener) -> Result<Rehearsal, RehearseError> {
        scenario.check()?;
        let more = scenario.pages.keys().chain(&scenario.hosts).cloned();
        let hosts: Vec<String> = HOSTS.iter().map(|h| (*h).to_owned()).chain(more).collect();
        let tls = tls::make(&hosts)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("rehearsal")
            .enable_all()
            .build()?;
        let listener = {
            listener.set_nonblocking(true)?;
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let address = listener.local_addr()?;
        let log = Arc::new(Log::default());
        runtime.spawn(serve::run(listener, tls.server, Arc::new(serve::Stage::new(scenario, Arc::clone(&log)))));
        Ok(Rehearsal { address, ca_pem: tls.ca_pem, hosts, log, runtime: Some(runtime) })
    }

    /// Gets the address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gets the certificate of its authority, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Gets the names that it has a certificate for; `localhost` and `127.0.0.1` come on top.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Gets the `upstreams` of a launch that plays in this rehearsal.
    pub fn upstreams(&self) -> BTreeMap<String, Upstream> {
        let upstream = || Upstream { address: self.address.to_string(), ca_pem: Some(self.ca_pem.clone()) };
        self.hosts.iter().map(|host| (host.clone(), upstream())).collect()
    }

    /// Gets the server's own count of what was asked and answered so far.
    pub fn stats(&self) -> Stats {
        self.log.stats()
    }

    /// Waits until the count is as `wanted` says, at most for `limit`; tells whether it became so.
    pub fn wait_for(&self, limit: Duration, wanted: impl Fn(&Stats) -> bool) -> bool {
        self.log.wait_for(limit, wanted)
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

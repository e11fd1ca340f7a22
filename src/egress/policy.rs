//! What a bottle may do at this moment: its allow-list, the credentials of its routes, and the client that reaches only
//! where they lead. All three change together, and a request is decided by one state of them from its beginning to its end.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;

use super::credential::Credentials;
use super::deny::Deny;
use super::lookup::Lookups;
use super::name::Host;
use super::route::{Allowed, Asked, Router};
use super::upstream::{self, Connector, Upstreaming};
use super::upstream_proxy::UpstreamProxy;
use super::{EgressError, Rules};
use crate::api::{Route, Upstream};

/// What does not change with the allow-list: whom to trust and what is dialled elsewhere.
pub struct Towards {
    /// The authorities that the host trusts.
    pub roots: Arc<RootCertStore>,
    /// Names dialled elsewhere.
    pub upstreams: BTreeMap<String, Upstream>,
    /// The bottle's look-ups.
    pub lookups: Lookups,
    /// The proxy that is the host's own way out.
    pub proxy: Option<Arc<UpstreamProxy>>,
}

/// One state of what is allowed.
pub struct Policy {
    /// The allow-list.
    pub router: Arc<Router>,
    /// One that has to allow as well.
    also: Option<Router>,
    /// What its routes put in.
    pub credentials: Credentials,
    /// Reaches what is passed through.
    pub connector: Connector,
    /// The client towards the real servers. Its pool is this state's own: a connection that an earlier one allowed is not
    /// taken again.
    pub client: Upstreaming,
}

impl Policy {
    /// Makes it of a list and the values of its credentials.
    pub fn new(rules: &Rules, towards: &Towards) -> Result<Policy, EgressError> {
        let router = Arc::new(Router::new(&rules.routes)?);
        let also = rules.also.as_deref().map(Router::new).transpose()?;
        let connector = Connector::new(towards, Arc::clone(&router))?;
        let client = upstream::client(connector.clone());
        let credentials = Credentials::new(&rules.routes, &rules.credentials).with(rules.logins.clone());
        Ok(Policy { router, also, connector, client, credentials })
    }

    /// Gets the route that allows the request, or why none does.
    pub fn check<'a>(&self, asked: Asked<'a>) -> Result<Allowed<'a>, Deny> {
        let allowed = self.router.check(asked)?;
        match &self.also {
            Some(also) => also.check(asked).map(|_| allowed),
            None => Ok(allowed),
        }
    }

    /// Gets the route by which TLS to `host` and `port` is passed through unseen, if one is.
    pub fn passes_through(&self, host: &Host, port: u16) -> Option<Arc<Route>> {
        let route = self.router.passes_through(host, port)?;
        self.also.as_ref().is_none_or(|also| also.passes_through(host, port).is_some()).then_some(route)
    }

    /// Tells whether a route asks for headers of requests.
    pub fn asks_for_headers(&self) -> bool {
        self.router.asks_for_headers() || self.also.as_ref().is_some_and(Router::asks_for_headers)
    }
}

/// The state in force.
pub struct Current(RwLock<Arc<Policy>>);

impl Current {
    /// Begins with `policy`.
    pub fn new(policy: Policy) -> Current {
        Current(RwLock::new(Arc::new(policy)))
    }

    /// Gets the state in force.
    pub fn get(&self) -> Arc<Policy> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `policy` in force.
    pub fn set(&self, policy: Policy) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Tells whether `policy` is the state in force.
    pub fn is(&self, policy: &Policy) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.0.read().unwrap_or_else(PoisonError::into_inner)), policy)
    }
}

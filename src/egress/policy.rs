//! What a bottle may do at this moment: its allow-list, the credentials of its routes, and the client that reaches only
//! where they lead. All three change together, and a request is decided by one state of them from its beginning to its end.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;
use secrecy::SecretString;

use super::EgressError;
use super::credential::Credentials;
use super::route::Router;
use super::upstream::{self, Connector, Upstreaming};
use crate::api::{Route, Upstream};

/// What does not change with the allow-list: whom to trust and what is dialled elsewhere.
pub struct Towards {
    /// The authorities that the host trusts.
    pub roots: Arc<RootCertStore>,
    /// Names dialled elsewhere.
    pub upstreams: BTreeMap<String, Upstream>,
}

/// One state of what is allowed.
pub struct Policy {
    /// The allow-list.
    pub router: Arc<Router>,
    /// What its routes put in.
    pub credentials: Credentials,
    /// Reaches what is passed through.
    pub connector: Connector,
    /// The client towards the real servers. Its pool is this state's own: a connection that an earlier one allowed is not
    /// taken again.
    pub client: Upstreaming,
}

impl Policy {
    /// Makes it of `routes` and the values of their credentials.
    pub fn new(
        routes: &[Route],
        credentials: &BTreeMap<String, SecretString>,
        towards: &Towards,
    ) -> Result<Policy, EgressError> {
        let router = Arc::new(Router::new(routes)?);
        let connector = Connector::new(&towards.roots, &towards.upstreams, Arc::clone(&router))?;
        let client = upstream::client(connector.clone());
        Ok(Policy { router, connector, client, credentials: Credentials::new(routes, credentials) })
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

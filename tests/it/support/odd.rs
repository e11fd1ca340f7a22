//! Names and servers of a world that are not what they seem: a name that moves, one that is another's, a server whose
//! certificate nobody can check.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use super::site::{Authority, Reply, Seen, Site};
use super::world::World;

impl World {
    /// Has a name another address once its first one was given out.
    pub fn turns(&self, name: &str, then: IpAddr) {
        self.log.turns.lock().unwrap().insert(name.into(), then);
    }

    /// Makes a name another name for `meant`.
    pub fn alias(&self, name: &str, meant: &str) {
        self.log.aliases.lock().unwrap().insert(name.into(), meant.into());
    }

    /// As [`World::site`], with a certificate of an authority that nobody trusts.
    pub fn impostor(&self, name: &str, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Site {
        let number = self.sites.fetch_add(1, Ordering::Relaxed) as u8;
        let site = Site::new(name, Ipv4Addr::new(93, 184, 216, 10 + number).into(), Box::new(handler));
        let listener = self.warden.bind(false, SocketAddr::new(site.address, 443)).unwrap();
        site.serve(self.runtime.as_ref().unwrap(), listener, Some(Authority::new().server(name)));
        self.name(name, &[site.address]);
        site
    }
}

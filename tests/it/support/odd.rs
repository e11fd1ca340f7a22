//! Names, addresses and servers of a world that are not what they seem: a name that moves, one that is another's, a server whose
//! certificate nobody can check, an address at which nobody ever answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::socket as sock;

use super::command::Running;
use super::site::{Authority, Reply, Seen, Site};
use super::world::World;

/// An address at which a connection is neither taken nor refused: a listener whose queue is full.
pub struct Silent<'w> {
    _listener: OwnedFd,
    _queued: Running<'w>,
}

impl World {
    /// Makes an address one of the machine's own.
    pub fn own(&self, address: &str) {
        self.warden.own(address.parse().unwrap()).unwrap();
    }

    /// Has an address and port never answer, until what this gets is dropped.
    pub fn silent(&self, address: SocketAddr) -> Silent<'_> {
        let listener = self.warden.bind(false, address).unwrap();
        sock::listen(&listener, sock::Backlog::new(0).unwrap()).unwrap();
        let queued = format!("exec 3<>/dev/tcp/{}/{} && echo queued && exec sleep 600", address.ip(), address.port());
        let queued = self.program("/bin/bash", &["-c", &queued]).spawn();
        queued.says("queued");
        // A line of the kernel's table: number, own address, the other's, state (0A: listens), tx_queue:rx_queue.
        let table = if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
        let (port, full) = (format!(":{:04X}", address.port()), ":00000001");
        let is_full = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.len() > 4 && words[1].ends_with(&port) && words[3] == "0A" && words[4].ends_with(full)
        };
        let shown = || self.program("/bin/cat", &[table]).run().stdout;
        assert!(self.until(Duration::from_secs(20), || shown().lines().any(is_full)), "{}", shown());
        Silent { _listener: listener, _queued: queued }
    }

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

//! The addresses that names have inside a bottle: computed from the name, never looked up.
//!
//! `198.18.0.0/15 + hash(name)`, less the first 16, which are the gate's own. A connection tells by its destination
//! which name was resolved; one whose destination is not its name's address did not come from our DNS and is an IP
//! literal. Collisions are harmless: the name decides, the address only has to agree with it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, PoisonError};

use super::name::Host;

/// First address of the range: 198.18.0.0/15 (RFC 2544: benchmarking, so nobody's).
const BASE: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// Addresses in the range.
const SIZE: u64 = 1 << 17;
/// The gate's own addresses, at the start of the range.
const RESERVED: u64 = 16;
/// Names remembered for messages.
const REMEMBERED: usize = 4096;

/// Gets the address that `name` has in every bottle. Stable across processes and versions.
pub fn of_name(name: &str) -> Ipv4Addr {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    let word = digest.as_ref().iter().take(8).fold(0u64, |word, b| word << 8 | u64::from(*b));
    let offset = RESERVED + word % (SIZE - RESERVED);
    // The offset is below 2^17, so it fits and the sum stays in the range.
    Ipv4Addr::from(BASE | u32::try_from(offset).unwrap_or(0))
}

/// Tells whether an address can be one that was computed from a name.
pub fn is_computed(address: IpAddr) -> bool {
    let IpAddr::V4(address) = address.to_canonical() else { return false };
    let offset = u64::from(u32::from(address).wrapping_sub(BASE));
    (RESERVED..SIZE).contains(&offset)
}

/// Which destinations a connection may have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Only the address computed from the connection's name.
    Computed,
    /// Any: for tests that listen on loopback.
    #[cfg(test)]
    Any,
}

impl Gate {
    /// Tells whether a connection that meant `destination` may be about `host`.
    pub fn admits(self, host: &Host, destination: IpAddr) -> bool {
        match self {
            Gate::Computed => match host {
                Host::Name(name) => destination.to_canonical() == IpAddr::V4(of_name(name)),
                Host::Ip(_) => false,
            },
            #[cfg(test)]
            Gate::Any => true,
        }
    }
}

/// The names that a bottle asked for, by address: so that a refused raw connection can be told by name.
#[derive(Default)]
pub struct NameBook(Mutex<HashMap<Ipv4Addr, Host>>);

impl NameBook {
    /// Makes an empty book.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers that `host` was asked for. Returns its address.
    pub fn enter(&self, name: &str, host: &Host) -> Ipv4Addr {
        let address = of_name(name);
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= REMEMBERED && !names.contains_key(&address) {
            // A bottle that asks for thousands of names gets addresses in messages for a while; nothing else.
            names.clear();
        }
        names.insert(address, host.clone());
        address
    }

    /// Gets the name last asked for that has this address.
    pub fn name_of(&self, address: IpAddr) -> Option<Host> {
        let IpAddr::V4(v4) = address.to_canonical() else { return None };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&v4).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_no_name_can_have_is_known() {
        for name in ["a", "api.anthropic.com", "b.example"] {
            assert!(is_computed(IpAddr::V4(of_name(name))), "{name}");
        }
        for other in ["8.8.8.8", "198.17.255.255", "198.20.0.0", "198.18.0.3", "127.0.0.1", "::1", "fd00:bb::3"] {
            assert!(!is_computed(other.parse().unwrap()), "{other}");
        }
        assert!(is_computed("::ffff:198.19.0.1".parse().unwrap()));
    }

    #[test]
    fn addresses_are_stable_inside_the_range_and_never_the_gates_own() {
        assert_eq!(of_name("api.anthropic.com"), of_name("api.anthropic.com"));
        for i in 0..20_000 {
            let address = u32::from(of_name(&format!("host{i}.example")));
            assert!((BASE + 16..BASE + (1 << 17)).contains(&address));
        }
        // Another build must compute the same: bottles remember addresses over a controller's restart.
        assert_eq!(of_name("api.anthropic.com"), Ipv4Addr::new(198, 18, 158, 118));
    }

    #[test]
    fn only_the_computed_address_of_the_name_is_admitted() {
        let host = Host::parse("api.anthropic.com").unwrap();
        let right = of_name("api.anthropic.com");
        assert!(Gate::Computed.admits(&host, right.into()));
        assert!(Gate::Computed.admits(&host, right.to_ipv6_mapped().into()));
        assert!(!Gate::Computed.admits(&host, "140.82.112.3".parse().unwrap()));
        assert!(!Gate::Computed.admits(&host, of_name("example.com").into()));
        let literal = Host::Ip(right.into());
        assert!(!Gate::Computed.admits(&literal, right.into()));
    }

    #[test]
    fn the_book_tells_the_name_behind_an_address() {
        let book = NameBook::new();
        let host = Host::parse("github.com").unwrap();
        let address = book.enter("github.com", &host);
        assert_eq!(book.name_of(address.into()), Some(host));
        assert_eq!(book.name_of("8.8.8.8".parse().unwrap()), None);
    }
}

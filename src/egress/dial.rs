//! From a name to a connection: look-up, check of every address, dial of exactly what was checked.
//!
//! Called only after the route check, so no name that is off the list is ever looked up. Private, local, shared and
//! own addresses are refused, unless the name and port stand in `upstreams`.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ipnet::IpNet;
use tokio::net::TcpStream;

use super::deny::Denial;
use super::name::{Host, NameError};
use crate::api::Upstream;

/// Time for a look-up.
pub(super) const LOOKUP: Duration = Duration::from_secs(10);
/// Time for a whole dial.
pub(super) const DIAL: Duration = Duration::from_secs(15);
/// Head start of one address before the next is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses tried.
const ADDRESSES: usize = 6;
/// How long sent data may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why no connection came about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DialError {
    /// The refusal that it is.
    pub kind: Denial,
    /// One sentence.
    pub message: String,
}

impl DialError {
    /// Makes an error of `kind`.
    pub fn new(kind: Denial, message: impl Into<String>) -> Self {
        DialError { kind, message: message.into() }
    }
}

/// Why `upstreams` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamsError {
    /// A key is not `host` or `host:port`.
    #[error("upstream {key:?}: {why}")]
    Name {
        /// The key.
        key: String,
        /// Why it is none.
        why: NameError,
    },
    /// An address is not `IP:PORT`.
    #[error("upstream {key:?}: {address:?} is not IP:PORT")]
    Address {
        /// The key.
        key: String,
        /// The address.
        address: String,
    },
}

/// The names that are dialled elsewhere, by name and port. A key without port means 443.
#[derive(Clone, Debug, Default)]
pub struct Upstreams(BTreeMap<(Host, u16), SocketAddr>);

impl Upstreams {
    /// Reads `upstreams`.
    pub fn new(upstreams: &BTreeMap<String, Upstream>) -> Result<Upstreams, UpstreamsError> {
        let mut map = BTreeMap::new();
        for (key, upstream) in upstreams {
            let (host, port) = parse_key(key)?;
            let address = upstream
                .address
                .parse()
                .map_err(|_| UpstreamsError::Address { key: key.clone(), address: upstream.address.clone() })?;
            map.insert((host, port), address);
        }
        Ok(Upstreams(map))
    }

    /// Gets where name and port are dialled instead.
    pub fn get(&self, host: &Host, port: u16) -> Option<SocketAddr> {
        self.0.get(&(host.clone(), port)).copied()
    }
}

/// Gets name and port of a key of `upstreams`.
pub fn parse_key(key: &str) -> Result<(Host, u16), UpstreamsError> {
    let (host, port) = Host::parse_authority(key).map_err(|why| UpstreamsError::Name { key: key.to_owned(), why })?;
    Ok((host, port.unwrap_or(443)))
}

/// Connects to `host` and `port`. Its address may lie in one of the `private` ranges, beside public ones.
pub async fn dial(host: &Host, port: u16, upstreams: &Upstreams, private: &[IpNet]) -> Result<TcpStream, DialError> {
    let addresses = match upstreams.get(host, port) {
        Some(address) => vec![address],
        None => resolve(host, port, private).await?,
    };
    let unreachable = |why: String| DialError::new(Denial::UpstreamUnreachable, format!("bb: {host}: {why}"));
    let stream = tokio::time::timeout(DIAL, connect(&addresses))
        .await
        .map_err(|_| unreachable("no connection in time".into()))?
        .map_err(|error| unreachable(error.to_string()))?;
    tune(&stream).map_err(|error| unreachable(error.to_string()))?;
    Ok(stream)
}

async fn resolve(host: &Host, port: u16, private: &[IpNet]) -> Result<Vec<SocketAddr>, DialError> {
    let Host::Name(name) = host else {
        return Err(DialError::new(Denial::IpLiteral, "bb: addresses are not dialled"));
    };
    let failed =
        |why: String| DialError::new(Denial::ResolveFailed, format!("bb: {host} could not be resolved: {why}"));
    // The trailing dot keeps the host's search domains out.
    let found: Vec<SocketAddr> = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((format!("{name}."), port)))
        .await
        .map_err(|_| failed("no answer in time".into()))?
        .map_err(|error| failed(error.to_string()))?
        .collect();
    if found.is_empty() {
        return Err(failed("no address".into()));
    }
    let own = own_addresses();
    let may = |ip: IpAddr| {
        let ip = ip.to_canonical();
        private.iter().any(|net| net.contains(&ip)) || (is_public(ip) && !own.contains(&ip))
    };
    let allowed: Vec<_> = found.iter().copied().filter(|address| may(address.ip())).collect();
    if allowed.is_empty() {
        return Err(DialError::new(
            Denial::PrivateAddress,
            format!(
                "bb: {host} resolves to a private, local or own address; only the operator can allow it (`allow_private` of the route, or `upstreams`)."
            ),
        ));
    }
    Ok(in_turns(allowed))
}

/// Puts the families in turns, the first address's own first (RFC 8305, 4): one that is broken costs one head start.
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().copied() else { return addresses };
    let (mut same, mut other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == first.is_ipv6());
    let mut all = Vec::with_capacity(same.len() + other.len());
    let (mut same, mut other) = (same.drain(..), other.drain(..));
    loop {
        match (same.next(), other.next()) {
            (None, None) => break all,
            (a, b) => all.extend(a.into_iter().chain(b)),
        }
    }
}

/// Connects to the first address that answers; each later one starts a quarter of a second after the one before.
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut attempts: FuturesUnordered<_> = (0u32..)
        .zip(addresses.iter().take(ADDRESSES))
        .map(|(i, address)| async move {
            tokio::time::sleep(STAGGER * i).await;
            TcpStream::connect(address).await
        })
        .collect();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    while let Some(result) = attempts.next().await {
        match result {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    crate::os::notice_silence(stream, USER_TIMEOUT)
}

fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    interfaces
        .filter_map(|i| i.address)
        .filter_map(|a| {
            a.as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| a.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .map(|ip| ip.to_canonical())
        .collect()
}

/// Tells whether an address is a public one: none of the IANA special-purpose ranges (RFC 6890 and its registries), and
/// none that only a cloud's metadata service has.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_unspecified()
        || ip.is_loopback()
        || ip.is_private()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (b & 0xc0) == 64)        // shared address space (CGNAT), with 100.100.100.200
        || (a == 192 && b == 0 && c == 0)        // IETF protocol assignments
        || (a == 192 && b == 88 && c == 99)      // 6to4 relays
        || (a == 198 && (b & 0xfe) == 18)        // benchmarking: what bottles see
        || ip == Ipv4Addr::new(168, 63, 129, 16); // Azure's host
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    if let Some(v4) = ip.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    // Only global unicast (2000::/3) at all; from it, what carries or hides another address.
    let [first, second, ..] = ip.segments();
    let special = match first {
        0x2001 => second < 0x0200 || second == 0x0db8, // Teredo, ORCHID, benchmarking; documentation
        0x2002 => true,                                // 6to4
        0x3fff => second < 0x1000,                     // documentation
        _ => false,
    };
    first & 0xe000 == 0x2000 && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_special_address_is_public() {
        for ip in [
            "0.0.0.0",
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "203.0.113.1",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "100::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "140.82.112.3",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_local_is_refused_unless_the_operator_named_it() {
        let host = Host::parse("localhost").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = dial(&host, port, &Upstreams::default(), &[]).await.unwrap_err();
        // A resolver without an entry for it refuses as well; never a connection.
        assert!(matches!(error.kind, Denial::PrivateAddress | Denial::ResolveFailed), "{error:?}");

        let upstream = Upstream { address: listener.local_addr().unwrap().to_string(), ca_pem: None };
        let upstreams = Upstreams::new(&[(format!("localhost:{port}"), upstream)].into()).unwrap();
        dial(&host, port, &upstreams, &[]).await.expect("named by the operator");
        let other = dial(&host, port.wrapping_add(1).max(1), &upstreams, &[]).await.unwrap_err();
        assert_ne!(other.kind, Denial::UpstreamUnreachable, "the exemption is for that port only");
    }

    #[tokio::test]
    async fn a_route_may_open_a_private_range_and_nothing_beside_it() {
        let host = Host::parse("localhost").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let range = |text: &str| [text.parse::<IpNet>().unwrap()];
        let other = dial(&host, port, &Upstreams::default(), &range("10.0.0.0/8")).await.unwrap_err();
        assert!(matches!(other.kind, Denial::PrivateAddress | Denial::ResolveFailed), "{other:?}");
        match dial(&host, port, &Upstreams::default(), &range("127.0.0.0/8")).await {
            Ok(stream) => assert_eq!(stream.peer_addr().unwrap().ip(), Ipv4Addr::LOCALHOST),
            // A resolver without an entry for it.
            Err(error) => assert_eq!(error.kind, Denial::ResolveFailed),
        }
    }

    #[test]
    fn families_take_turns() {
        let all = |list: &[&str]| list.iter().map(|a| format!("{a}:1").parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert_eq!(
            in_turns(all(&["[::1]", "[::2]", "1.1.1.1", "1.1.1.2", "1.1.1.3"])),
            all(&["[::1]", "1.1.1.1", "[::2]", "1.1.1.2", "1.1.1.3"])
        );
        assert_eq!(in_turns(all(&["1.1.1.1"])), all(&["1.1.1.1"]));
        assert!(in_turns(Vec::new()).is_empty());
    }

    #[tokio::test]
    async fn a_refused_connection_is_unreachable_and_fast() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let host = Host::parse("a.example").unwrap();
        let upstream = Upstream { address: address.to_string(), ca_pem: None };
        let upstreams = Upstreams::new(&[("a.example".to_owned(), upstream)].into()).unwrap();
        assert_eq!(dial(&host, 443, &upstreams, &[]).await.unwrap_err().kind, Denial::UpstreamUnreachable);
    }

    #[test]
    fn broken_upstreams_are_refused() {
        let bad = |key: &str, address: &str| {
            Upstreams::new(&[(key.to_owned(), Upstream { address: address.into(), ca_pem: None })].into())
        };
        assert!(matches!(bad("a b", "127.0.0.1:1"), Err(UpstreamsError::Name { .. })));
        assert!(matches!(bad("a.example", "localhost:1"), Err(UpstreamsError::Address { .. })));
    }
}

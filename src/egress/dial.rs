//! From a name to a connection: look-up, check of every address, dial of exactly what was checked.
//!
//! Called only after the route check, so no name that is off the list is ever looked up. Private, local, shared and
//! own addresses are refused, unless the name and port stand in `upstreams`.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ipnet::IpNet;
use tokio::net::TcpStream;

use super::deny::Denial;
use super::lookup::{LookupError, Lookups};
use super::name::{Host, NameError, one_form};
use super::special::is_public;
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

/// Every address there is: for what the operator has named.
pub(super) const ANYWHERE: [IpNet; 2] = [
    IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0)),
];

/// Why no connection came about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DialError {
    /// The refusal that it is.
    pub kind: Denial,
    /// One sentence.
    pub message: String,
    /// The same for the operator alone, where it says what no agent is told.
    pub operator: Option<String>,
}

impl DialError {
    /// Makes an error of `kind`.
    pub fn new(kind: Denial, message: impl Into<String>) -> Self {
        DialError { kind, message: message.into(), operator: None }
    }

    /// Adds what the operator is told in place of the message.
    pub fn operator(mut self, message: impl Into<String>) -> Self {
        self.operator = Some(message.into());
        self
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
pub async fn dial(
    host: &Host,
    port: u16,
    upstreams: &Upstreams,
    private: &[IpNet],
    lookups: &Lookups,
) -> Result<TcpStream, DialError> {
    let addresses = match upstreams.get(host, port) {
        Some(address) => vec![address],
        None => resolve(host, port, private, lookups).await?,
    };
    connect_to(host, &addresses).await
}

/// Connects to the first of the `addresses` of `host` that answers.
pub(super) async fn connect_to(host: &Host, addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
    let unreachable = |why: String| DialError::new(Denial::UpstreamUnreachable, format!("bb: {host}: {why}"));
    let stream = tokio::time::timeout(DIAL, connect(addresses))
        .await
        .map_err(|_| unreachable("no connection in time".into()))?
        .map_err(|error| unreachable(error.to_string()))?;
    tune(&stream).map_err(|error| unreachable(error.to_string()))?;
    Ok(stream)
}

/// Looks `host` up, and refuses addresses that are not public, but for those in one of the `private` ranges.
pub(super) async fn resolve(
    host: &Host,
    port: u16,
    private: &[IpNet],
    lookups: &Lookups,
) -> Result<Vec<SocketAddr>, DialError> {
    let allowed = admitted(&found(host, port, lookups, LOOKUP).await?, private, &own_addresses());
    if allowed.is_empty() {
        return Err(kept_from(host));
    }
    Ok(in_turns(allowed))
}

/// The same within `limit`, where every address has to be one that may be dialled: somebody else will choose one.
pub(super) async fn resolve_all(
    host: &Host,
    port: u16,
    private: &[IpNet],
    lookups: &Lookups,
    limit: Duration,
) -> Result<Vec<SocketAddr>, DialError> {
    let found = found(host, port, lookups, limit).await?;
    let allowed = admitted(&found, private, &own_addresses());
    if allowed.len() < found.len() {
        return Err(kept_from(host));
    }
    Ok(in_turns(allowed))
}

fn kept_from(host: &Host) -> DialError {
    DialError::new(
        Denial::PrivateAddress,
        format!(
            "bb: {host} resolves to a private, local or own address; only the operator can allow it (`allow_private` of the route, or `upstreams`)."
        ),
    )
}

/// Looks a name up; never gives none.
async fn found(host: &Host, port: u16, lookups: &Lookups, limit: Duration) -> Result<Vec<SocketAddr>, DialError> {
    let Host::Name(name) = host else {
        return Err(DialError::new(Denial::IpLiteral, "bb: addresses are not dialled"));
    };
    let failed =
        |why: String| DialError::new(Denial::ResolveFailed, format!("bb: {host} could not be resolved: {why}"));
    let found = lookups.look_up(name, port, limit).await.map_err(|error| match error {
        LookupError::Full => DialError::new(
            Denial::LimitVerdict,
            format!("bb: {host} was not looked up: too many other names wait for their answers."),
        ),
        LookupError::Late | LookupError::Failed(_) => failed(error.to_string()),
    })?;
    if found.is_empty() {
        return Err(failed("no address".into()));
    }
    Ok(found)
}

/// Gets those of the addresses that may be dialled: public and not the host's `own`, or in one of the `private` ranges.
fn admitted(found: &[SocketAddr], private: &[IpNet], own: &[IpAddr]) -> Vec<SocketAddr> {
    let may = |ip: IpAddr| {
        let ip = one_form(ip);
        private.iter().any(|net| net.contains(&ip)) || (is_public(ip) && !own.contains(&ip))
    };
    found.iter().copied().filter(|address| may(address.ip())).collect()
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

/// Connects to the first address that answers. Each later one is tried as soon as one has failed, or when the one before has had
/// its head start.
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().take(ADDRESSES);
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match waiting.next() {
            Some(address) => attempts.push(TcpStream::connect(*address)),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        tokio::select! {
            Some(result) = attempts.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            },
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
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
        .map(one_form)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn a_name_that_is_local_is_refused_unless_the_operator_named_it() {
        let host = Host::parse("localhost").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = dial(&host, port, &Upstreams::default(), &[], &Lookups::default()).await.unwrap_err();
        // A resolver without an entry for it refuses as well; never a connection.
        assert!(matches!(error.kind, Denial::PrivateAddress | Denial::ResolveFailed), "{error:?}");

        let upstream = Upstream { address: listener.local_addr().unwrap().to_string(), ca_pem: None };
        let upstreams = Upstreams::new(&[(format!("localhost:{port}"), upstream)].into()).unwrap();
        dial(&host, port, &upstreams, &[], &Lookups::default()).await.expect("named by the operator");
        let other = dial(&host, port.wrapping_add(1).max(1), &upstreams, &[], &Lookups::default()).await.unwrap_err();
        assert_ne!(other.kind, Denial::UpstreamUnreachable, "the exemption is for that port only");
    }

    #[tokio::test]
    async fn a_route_may_open_a_private_range_and_nothing_beside_it() {
        let host = Host::parse("localhost").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let range = |text: &str| [text.parse::<IpNet>().unwrap()];
        let other =
            dial(&host, port, &Upstreams::default(), &range("10.0.0.0/8"), &Lookups::default()).await.unwrap_err();
        assert!(matches!(other.kind, Denial::PrivateAddress | Denial::ResolveFailed), "{other:?}");
        match dial(&host, port, &Upstreams::default(), &range("127.0.0.0/8"), &Lookups::default()).await {
            Ok(stream) => assert_eq!(stream.peer_addr().unwrap().ip(), Ipv4Addr::LOCALHOST),
            // A resolver without an entry for it.
            Err(error) => assert_eq!(error.kind, Denial::ResolveFailed),
        }
    }

    #[test]
    fn what_is_dialled_is_what_was_checked_and_nothing_beside_it() {
        let all = |list: &[&str]| list.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 443)).collect::<Vec<_>>();
        let own: Vec<IpAddr> = vec!["93.184.216.1".parse().unwrap(), "2606:4700::1".parse().unwrap()];
        let range: Vec<IpNet> = vec!["10.1.0.0/16".parse().unwrap()];
        // Answers, and those of them that are left: (without ranges, with one).
        for (found, plain, ranged) in [
            (&["10.1.0.1", "93.184.216.10"][..], &["93.184.216.10"][..], &["10.1.0.1", "93.184.216.10"][..]),
            (&["10.2.0.1", "fd00::1", "169.254.169.254"], &[], &[]),
            (&["fd00::1", "93.184.216.10"], &["93.184.216.10"], &["93.184.216.10"]),
            (&["2606:4700::2", "127.0.0.1"], &["2606:4700::2"], &["2606:4700::2"]),
            // The host's own, and other spellings of what is refused or allowed.
            (&["93.184.216.1", "2606:4700::1", "::ffff:93.184.216.1", "64:ff9b::5db8:d801"], &[], &[]),
            (&["64:ff9b::10.1.0.1", "::ffff:10.1.0.1"], &[], &["64:ff9b::10.1.0.1", "::ffff:10.1.0.1"]),
            (&["64:ff9b::93.184.216.10"], &["64:ff9b::93.184.216.10"], &["64:ff9b::93.184.216.10"]),
        ] {
            assert_eq!(admitted(&all(found), &[], &own), all(plain), "{found:?}");
            assert_eq!(admitted(&all(found), &range, &own), all(ranged), "{found:?}");
        }
        let many: Vec<String> = (0..5000u32).map(|i| Ipv4Addr::from(0x0a00_0000 + i).to_string()).collect();
        let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(admitted(&all(&many), &[], &own).is_empty());
        many.insert(2500, "93.184.216.10");
        assert_eq!(admitted(&all(&many), &[], &own), all(&["93.184.216.10"]));
    }

    /// Makes an address at which a connection is neither taken nor refused: a listener whose queue is full.
    fn silent() -> (SocketAddr, Vec<std::net::TcpStream>, std::os::fd::OwnedFd) {
        use nix::sys::socket as sock;
        let flags = sock::SockFlag::SOCK_CLOEXEC;
        let fd = sock::socket(sock::AddressFamily::Inet, sock::SockType::Stream, flags, None).unwrap();
        sock::bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &sock::SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        sock::listen(&fd, sock::Backlog::new(0).unwrap()).unwrap();
        let at = std::net::TcpListener::from(fd.try_clone().unwrap()).local_addr().unwrap();
        let mut taken = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&at, Duration::from_millis(200)) {
            taken.push(stream);
            assert!(taken.len() < 64, "the queue never fills");
        }
        (at, taken, fd)
    }

    #[tokio::test]
    async fn an_address_that_is_dead_or_silent_costs_one_that_works_little() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let works = listener.local_addr().unwrap();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = gone.local_addr().unwrap();
        drop(gone);
        let (silent, _taken, _fd) = silent();
        // An IPv6 address on a machine without a route there.
        let broken: SocketAddr = "[2001:db8::1]:443".parse().unwrap();
        for list in
            [vec![silent, works], vec![dead, works], vec![broken, works], vec![silent, silent, dead, silent, works]]
        {
            // Long before the kernel would give any of them up.
            let stream = tokio::time::timeout(Duration::from_secs(20), connect(&list)).await.unwrap().unwrap();
            assert_eq!(stream.peer_addr().unwrap(), works, "{list:?}");
        }
        let error = connect(&[dead; 5]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect(&[]).await.is_err());
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
        assert_eq!(
            dial(&host, 443, &upstreams, &[], &Lookups::default()).await.unwrap_err().kind,
            Denial::UpstreamUnreachable
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_has_so_long_to_accept() {
        let (silent, _taken, _fd) = silent();
        let host = Host::parse("a.example").unwrap();
        let upstream = Upstream { address: silent.to_string(), ca_pem: None };
        let upstreams = Upstreams::new(&[("a.example".to_owned(), upstream)].into()).unwrap();
        let began = tokio::time::Instant::now();
        let error = dial(&host, 443, &upstreams, &[], &Lookups::default()).await.unwrap_err();
        // Time passes by itself where nothing else can happen.
        assert_eq!((error.kind, began.elapsed().as_secs()), (Denial::UpstreamUnreachable, DIAL.as_secs()));
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

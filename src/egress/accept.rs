//! Connections as they come in: whose they are is known by the listener, what they speak is decided by the first byte.
//!
//! A TLS record, or the first letter of an HTTP method; everything else is closed and told. No byte is passed on
//! before it is certain what it belongs to.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::server::Acceptor as Hello;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::address;
use super::ca::Acceptor;
use super::deny::{Denial, Deny};
use super::hello::Kept;
use super::link::{Link, literal};
use super::name::{Host, NameError};
use super::pace::Pace;
use super::passthrough;
use super::proxy;
use super::record::{Denied, Tally};
use super::request::Plane;
use super::rewound::Rewound;
use super::route::{Asked, Known};
use super::serve;
use crate::api;
use crate::ledger::Ledger;

/// Connections of one bottle at once.
pub(super) const CONNECTIONS: usize = 256;
/// TLS handshakes of one bottle at once.
pub const HANDSHAKES: usize = 64;
/// Time for the first byte: clients open connections ahead.
pub(super) const FIRST_BYTE: Duration = Duration::from_secs(60);
/// Time to wait for a place among the handshakes, and for a handshake.
pub(super) const HANDSHAKE_PLACE: Duration = Duration::from_secs(5);
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);

/// What of an answer may wait, encrypted, for a client that does not read. Unit: bytes.
const UNSENT: usize = 16 << 10;

/// Connections to strangers that are told why at once, and how often one more is.
pub(super) const STRANGERS: u32 = 512;
/// In tests never: how fast this machine shakes hands must not matter there.
const STRANGER: Duration = if cfg!(test) { Duration::from_secs(3600) } else { Duration::from_millis(50) };

/// Certificates that are made at once for names below the wildcards of an allow-list, and how often one more is. Nobody who works meets
/// them: each such name costs a connection outside as well.
pub(super) const BELOW: u32 = 2048;
/// In tests never, and fewer at once.
const ONE_MORE_BELOW: Duration = if cfg!(test) { Duration::from_secs(3600) } else { Duration::from_millis(10) };
pub(super) const BELOW_AT_ONCE: u32 = if cfg!(test) { 64 } else { BELOW };

/// How often certificates are made for names that no route has by itself, since of those an agent can think up as many as it likes.
/// Names that routes have are never slowed: there are as many as routes.
pub struct Paces {
    /// TLS that is ended for a name that no route is for, only to say so.
    strangers: Mutex<Pace>,
    /// Names below a wildcard, when they first come up.
    below: Mutex<Pace>,
}

impl Default for Paces {
    fn default() -> Paces {
        Paces {
            strangers: Mutex::new(Pace::new(STRANGERS, STRANGER)),
            below: Mutex::new(Pace::new(BELOW_AT_ONCE, ONE_MORE_BELOW)),
        }
    }
}

impl Paces {
    /// Takes one of those that are left for a name so known. `made`: its certificate is there.
    fn take(&self, known: Known, made: impl FnOnce() -> bool) -> Result<(), Deny> {
        let (pace, what) = match known {
            Known::ByName => return Ok(()),
            Known::BySuffix if made() => return Ok(()),
            Known::BySuffix => (&self.below, "new names below a wildcard of the allow-list"),
            Known::Not => (&self.strangers, "names that are not on the allow-list"),
        };
        if pace.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(());
        }
        Err(Deny::new(Denial::LimitHandshakes, format!("bb: too many {what} were tried at once.")))
    }
}

/// What the listeners of one bottle share.
pub struct Door<L: Ledger> {
    /// The requests' side.
    pub plane: Arc<Plane<L>>,
    /// TLS of the bottle's side.
    pub acceptor: Acceptor,
    /// Places for handshakes.
    pub handshakes: Semaphore,
    /// How often certificates are made for names that come up.
    pub paces: Paces,
    /// Open connections.
    pub connections: Arc<Tally>,
    /// Where the bottle's proxy is, if it has one.
    pub proxy: Option<SocketAddr>,
}

/// What a connection is to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// The address and port.
    pub address: SocketAddr,
    /// What the bottle's proxy was asked for, where it came through that.
    pub target: Option<Host>,
}

impl Meant {
    fn text(&self) -> String {
        self.target.as_ref().map_or_else(|| self.address.ip().to_string(), Host::to_string)
    }
}

/// Accepts on one listener for ever. `spawn` runs a connection.
pub async fn listen<L: Ledger>(
    listener: TcpListener,
    door: Arc<Door<L>>,
    spawn: impl Fn(futures_util::future::BoxFuture<'static, ()>),
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly; the next one may find some.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(address) = stream.local_addr().map(canonical) else { continue };
        let meant = Meant { address, target: None };
        if door.connections.open() >= CONNECTIONS {
            let deny = Deny::new(Denial::LimitConnections, format!("bb: {CONNECTIONS} connections are open already."));
            tell(&door, "tcp", &meant, &deny);
            continue;
        }
        let ticket = door.connections.enter();
        let door = Arc::clone(&door);
        spawn(Box::pin(async move {
            let _ticket = ticket;
            // An error here is a client that went away.
            let _ = connection(&door, stream, meant).await;
        }));
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn tell<L: Ledger>(door: &Door<L>, proto: &str, meant: &Meant, deny: &Deny) {
    door.plane.recorder.deny_limited(Denied::new(proto, meant.text(), meant.address.port(), deny));
}

/// What a first byte begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Tls,
    Http,
    Unknown,
}

fn speaks(first: u8) -> Speaks {
    match first {
        0x16 => Speaks::Tls,
        // HTTP methods are upper case by every registration there is.
        b'A'..=b'Z' => Speaks::Http,
        _ => Speaks::Unknown,
    }
}

async fn connection<L: Ledger>(door: &Arc<Door<L>>, stream: TcpStream, meant: Meant) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let stream = Rewound::new(stream);
    let Some(speaks) = begins(door, &stream, &meant).await? else { return Ok(()) };
    match speaks {
        Speaks::Http if door.proxy == Some(meant.address) => proxy::connection(door, stream, meant.address).await,
        Speaks::Tls if door.proxy == Some(meant.address) => {
            let why = "bb: the bottle's proxy is spoken to without TLS: its address begins with http://.";
            tell(door, "tcp", &meant, &Deny::new(Denial::ProtocolUnknown, why));
            stream.reset()
        }
        speaks => carry(door, speaks, stream, meant).await,
    }
}

/// Serves what follows a CONNECT to the bottle's proxy: what a connection to `meant` would be.
pub(super) async fn tunnelled<L: Ledger>(door: &Arc<Door<L>>, stream: Rewound, meant: Meant) -> io::Result<()> {
    match begins(door, &stream, &meant).await? {
        Some(speaks) => carry(door, speaks, stream, meant).await,
        None => Ok(()),
    }
}

/// Waits for the first byte. `None`: there is none.
async fn begins<L: Ledger>(door: &Door<L>, stream: &Rewound, meant: &Meant) -> io::Result<Option<Speaks>> {
    let Ok(first) = timeout(FIRST_BYTE, stream.first()).await else {
        tell(door, "tcp", meant, &Deny::new(Denial::LimitIdle, "bb: the connection said nothing for a minute."));
        return Ok(None);
    };
    let Some(first) = first? else {
        if let Some(deny) = tried(door, meant) {
            tell(door, "tcp", meant, &deny);
        }
        return Ok(None);
    };
    Ok(Some(speaks(first)))
}

/// Gets what there is to tell of a connection that said nothing. Clients open some ahead and drop them; to what could never have
/// been allowed, it was a try.
fn tried<L: Ledger>(door: &Door<L>, meant: &Meant) -> Option<Deny> {
    match &meant.target {
        None if address::is_computed(meant.address.ip()) || door.proxy == Some(meant.address) => None,
        None | Some(Host::Ip(_)) => Some(literal(&meant.text())),
        // The proxy was asked for a name.
        Some(host) => {
            let (port, headers) = (meant.address.port(), http::HeaderMap::new());
            let (method, path) = ("GET", "/");
            let asked = Asked { host, port, tls: true, method, path, headers: &headers, websocket: false };
            let denied = door.plane.policy.get().check(asked).err();
            denied.filter(|deny| matches!(deny.kind, Denial::RouteMissing | Denial::Port))
        }
    }
}

async fn carry<L: Ledger>(door: &Arc<Door<L>>, speaks: Speaks, stream: Rewound, meant: Meant) -> io::Result<()> {
    match speaks {
        Speaks::Tls => tls(door, stream, meant).await,
        Speaks::Http => {
            let link = Link::new(meant.address, false, None).through(meant.target);
            serve::connection(Arc::clone(&door.plane), link, stream, false).await;
            Ok(())
        }
        Speaks::Unknown => {
            tell(door, "tcp", &meant, &Deny::new(Denial::ProtocolUnknown, "bb: neither TLS nor HTTP."));
            stream.reset()
        }
    }
}

/// What a TLS connection is, once its greeting was read.
enum Begun {
    /// Ended here.
    Ended(Option<Result<Host, NameError>>, Box<TlsStream<Kept<Rewound>>>),
    /// For one name too many of those that no route has by itself.
    TooMany(Host, Deny),
    /// Passed through, with what was read of it.
    Unseen(Host, Arc<api::Route>, (Rewound, Vec<u8>)),
}

async fn tls<L: Ledger>(door: &Arc<Door<L>>, stream: Rewound, meant: Meant) -> io::Result<()> {
    let Ok(Ok(place)) = timeout(HANDSHAKE_PLACE, door.handshakes.acquire()).await else {
        let deny =
            Deny::new(Denial::LimitHandshakes, format!("bb: {HANDSHAKES} TLS handshakes are under way already."));
        tell(door, "tls", &meant, &deny);
        return Ok(());
    };
    let handshake = async {
        let hello = LazyConfigAcceptor::new(Hello::default(), Kept::new(stream)).await?;
        let sni = hello.client_hello().server_name().map(Host::parse);
        if let Some(Ok(host)) = &sni
            && let Some(route) = door.plane.policy.get().passes_through(host, meant.address.port())
        {
            return Ok(Begun::Unseen(host.clone(), route, hello.io.into_parts()));
        }
        // Without a name, the address gets a certificate.
        let named = match &sni {
            Some(Ok(host)) => Some((host.clone(), door.plane.policy.get().router.knows(host))),
            Some(Err(_)) => None,
            None => Some((Host::Ip(meant.address.ip()), Known::Not)),
        };
        if let Some((host, known)) = named
            && let Err(deny) = door.paces.take(known, || door.acceptor.has(&host))
        {
            return Ok(Begun::TooMany(host, deny));
        }
        let hello = StartHandshake::from_parts(hello.accepted, hello.io.forget());
        let config = match &sni {
            Some(_) => door.acceptor.named(),
            None => door.acceptor.literal(meant.address.ip()).ok_or(io::ErrorKind::InvalidData)?,
        };
        Ok::<_, io::Error>(Begun::Ended(sni, Box::new(hello.into_stream(config).await?)))
    };
    let result = timeout(HANDSHAKE, handshake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    drop(place);
    let (sni, mut stream) = match result {
        Ok(Begun::Ended(sni, stream)) => (sni, stream),
        Ok(Begun::TooMany(host, deny)) => {
            let denied = Denied::new("tls", host.to_string(), meant.address.port(), &deny);
            door.plane.recorder.deny_limited(denied);
            return Ok(());
        }
        Ok(Begun::Unseen(host, route, begun)) => {
            if let Err(deny) = passthrough::pass(&door.plane, begun, &host, &meant, route).await {
                let denied = Denied::new("tls", host.to_string(), meant.address.port(), &deny);
                door.plane.recorder.deny_limited(denied);
            }
            return Ok(());
        }
        Err(error) => {
            // A client that closes its connection during the handshake says nothing; one that objects does.
            if error.kind() == io::ErrorKind::TimedOut {
                let reason = format!("bb: a TLS handshake took longer than {} seconds.", HANDSHAKE.as_secs());
                tell(door, "tls", &meant, &Deny::new(Denial::LimitIdle, reason));
            } else if error.kind() == io::ErrorKind::InvalidData {
                let reason =
                    format!("bb: the TLS handshake failed: {error} (does the client trust the bottle's authority?)");
                tell(door, "tls", &meant, &Deny::new(Denial::ProtocolUnknown, reason));
            }
            return Err(error);
        }
    };
    stream.get_mut().1.set_buffer_limit(Some(UNSENT));
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let link = Link::new(meant.address, true, sni).through(meant.target);
    serve::connection(Arc::clone(&door.plane), link, stream, h2).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_decides_and_what_is_unknown_is_not_guessed() {
        assert_eq!(speaks(0x16), Speaks::Tls);
        assert_eq!(speaks(b'G'), Speaks::Http);
        for byte in [0x00, 0x15, 0x17, b'g', b' ', b'\r', 0x80, 0xff, b'1'] {
            assert_eq!(speaks(byte), Speaks::Unknown, "{byte:#x}");
        }
    }

    #[test]
    fn an_ipv4_address_on_a_dual_listener_is_read_as_one() {
        let mapped = "[::ffff:198.18.1.2]:443".parse().unwrap();
        assert_eq!(canonical(mapped), "198.18.1.2:443".parse().unwrap());
    }
}

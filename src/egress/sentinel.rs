//! Sees what nobody listens for: TCP SYNs and UDP datagrams to ports without a listener.
//!
//! The gate's kernel refuses them by itself in 0.2 ms; this only turns them into `denied` events, so that a raw
//! connection attempt is shown like any other refusal. It reads a packet socket bound to the gate's veth and must
//! never send on it. Whoever made the socket set the filter; nothing here relies on it.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};

use nix::sys::socket::{SockType, getsockopt, sockopt};

use super::address::NameBook;
use super::deny::{Denial, Deny};
use super::record::{Denied, Recorder};

/// Bytes of a packet that are looked at: the longest IPv4 header and a TCP header's flags.
const SNAP: usize = 128;

/// The ports that somebody listens on. Ports may come while the sentinel watches.
#[derive(Debug, Default)]
pub struct Served {
    /// TCP ports.
    pub tcp: RwLock<HashSet<u16>>,
    /// UDP ports.
    pub udp: RwLock<HashSet<u16>>,
}

impl Served {
    /// Tells whether somebody listens on what is opened.
    fn has(&self, opening: Opening) -> bool {
        let ports = if opening.tcp { &self.tcp } else { &self.udp };
        ports.read().unwrap_or_else(PoisonError::into_inner).contains(&opening.port)
    }

    /// Enters a TCP port.
    pub fn listens(&self, port: u16) {
        self.tcp.write().unwrap_or_else(PoisonError::into_inner).insert(port);
    }

    /// Takes one out again.
    pub fn no_longer_listens(&self, port: u16) {
        self.tcp.write().unwrap_or_else(PoisonError::into_inner).remove(&port);
    }
}

/// A packet that opens something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Opening {
    tcp: bool,
    destination: IpAddr,
    port: u16,
}

/// Reads the socket until it is dropped.
pub async fn watch(
    socket: OwnedFd,
    served: Arc<Served>,
    book: Arc<NameBook>,
    recorder: Arc<Recorder>,
) -> io::Result<()> {
    let raw = getsockopt(&socket, sockopt::SockType)? == SockType::Raw;
    // Any datagram socket can be registered under this type, and only `recv` is called on it.
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let mut buffer = [0u8; SNAP];
    loop {
        let length = match socket.recv(&mut buffer).await {
            Ok(length) => length,
            // Comes once when the bottle's side goes away; the owner drops us then.
            Err(error) if error.kind() == io::ErrorKind::NetworkDown => continue,
            Err(error) => return Err(error),
        };
        let frame = buffer.get(..length.min(SNAP)).unwrap_or_default();
        let packet = if raw { frame.get(14..).unwrap_or_default() } else { frame };
        if let Some(opening) = opening(packet).filter(|o| !served.has(*o)) {
            recorder.deny_limited(denied(opening, &book));
        }
    }
}

fn denied(opening: Opening, book: &NameBook) -> Denied {
    let proto = if opening.tcp { "tcp" } else { "udp" };
    let host = match book.name_of(opening.destination) {
        Some(host) => host.to_string(),
        None => opening.destination.to_canonical().to_string(),
    };
    let deny = Deny::new(
        Denial::Port,
        format!("bb: nothing but HTTPS, HTTP and DNS leaves a bottle; {proto} to port {} was refused.", opening.port),
    );
    Denied::new(proto, host, opening.port, &deny)
}

/// Gets what an IP packet opens: a TCP SYN (not its answer), or any UDP datagram. First fragments only.
fn opening(packet: &[u8]) -> Option<Opening> {
    let (protocol, destination, transport) = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let fragment = u16::from_be_bytes(*packet.get(6..8)?.first_chunk()?) & 0x1fff;
            if header < 20 || fragment != 0 {
                return None;
            }
            let destination = Ipv4Addr::from(*packet.get(16..20)?.first_chunk::<4>()?);
            (*packet.get(9)?, IpAddr::V4(destination), packet.get(header..)?)
        }
        6 => {
            let destination = Ipv6Addr::from(*packet.get(24..40)?.first_chunk::<16>()?);
            (*packet.get(6)?, IpAddr::V6(destination), packet.get(40..)?)
        }
        _ => return None,
    };
    let port = u16::from_be_bytes(*transport.get(2..4)?.first_chunk()?);
    match protocol {
        // SYN set, ACK not.
        6 if transport.get(13)? & 0x12 == 0x02 => Some(Opening { tcp: true, destination, port }),
        17 => Some(Opening { tcp: false, destination, port }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::name::Host;
    use super::super::record::tests::recorder;
    use super::*;

    fn v4(protocol: u8, to: [u8; 4], port: u16, flags: u8) -> Vec<u8> {
        let mut packet = vec![0u8; 40];
        packet[0] = 0x45;
        packet[9] = protocol;
        packet[16..20].copy_from_slice(&to);
        packet[22..24].copy_from_slice(&port.to_be_bytes());
        packet[33] = flags;
        packet
    }

    fn v6(protocol: u8, to: &str, port: u16, flags: u8) -> Vec<u8> {
        let mut packet = vec![0u8; 60];
        packet[0] = 0x60;
        packet[6] = protocol;
        packet[24..40].copy_from_slice(&to.parse::<Ipv6Addr>().unwrap().octets());
        packet[42..44].copy_from_slice(&port.to_be_bytes());
        packet[53] = flags;
        packet
    }

    #[test]
    fn syns_and_datagrams_are_seen_and_nothing_else() {
        let syn = opening(&v4(6, [140, 82, 112, 3], 22, 0x02)).unwrap();
        assert_eq!(syn, Opening { tcp: true, destination: "140.82.112.3".parse().unwrap(), port: 22 });
        assert_eq!(opening(&v4(6, [1, 1, 1, 1], 22, 0x12)), None, "SYN+ACK");
        assert_eq!(opening(&v4(6, [1, 1, 1, 1], 22, 0x10)), None, "ACK");
        assert!(!opening(&v4(17, [8, 8, 8, 8], 123, 0)).unwrap().tcp);
        assert_eq!(opening(&v4(1, [8, 8, 8, 8], 0, 0)), None, "ICMP");
        assert_eq!(opening(&v6(6, "2606::1", 25, 0x02)).unwrap().port, 25);
        let mut fragment = v4(17, [8, 8, 8, 8], 123, 0);
        fragment[7] = 1;
        assert_eq!(opening(&fragment), None, "later fragment");
    }

    #[test]
    fn no_prefix_of_a_packet_and_no_garbage_panics() {
        for packet in [v4(6, [1, 1, 1, 1], 22, 2), v6(17, "::1", 9, 0), vec![0x4f; 21], vec![0xff; 128], Vec::new()] {
            for length in 0..=packet.len() {
                let _ = opening(&packet[..length]);
            }
        }
    }

    #[tokio::test]
    async fn a_refused_port_becomes_an_event_with_the_name_that_was_asked_for() {
        // A datagram socket pair has the same face as a packet socket without link header.
        let (gate, agent) = nix::sys::socket::socketpair(
            nix::sys::socket::AddressFamily::Unix,
            SockType::Datagram,
            None,
            nix::sys::socket::SockFlag::empty(),
        )
        .unwrap();
        let (recorder, mut events) = recorder();
        let book = Arc::new(NameBook::new());
        let address = book.enter("github.com", &Host::parse("github.com").unwrap());
        let served = Arc::new(Served { tcp: RwLock::new([443].into()), udp: RwLock::new([53].into()) });
        let task = tokio::spawn(watch(gate, served, book, Arc::new(recorder)));
        for packet in [
            v4(6, address.octets(), 443, 2),
            v4(17, [8, 8, 8, 8], 53, 0),
            v4(6, address.octets(), 22, 2),
            v4(17, [8, 8, 8, 8], 123, 0),
        ] {
            nix::unistd::write(&agent, &packet).unwrap();
        }
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let event = tokio::time::timeout(Duration::from_secs(30), events.recv()).await.unwrap().unwrap();
            assert_eq!(event.kind, "denied");
            seen.push((event.data["proto"].clone(), event.data["host"].clone(), event.data["port"].clone()));
        }
        assert_eq!(seen[0], ("tcp".into(), "github.com".into(), 22.into()));
        assert_eq!(seen[1], ("udp".into(), "8.8.8.8".into(), 123.into()));
        task.abort();
    }
}

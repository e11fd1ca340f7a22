//! Canaries: servers on every address of the world, on the ports that somebody might try. They record each connection and
//! each byte, so that a test can say that nothing arrived.
//!
//! The one on port 53 is also the world's name server: it answers for the world's sites and nothing else.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt;

use super::warden::{Warden, any};

/// TCP ports with a canary.
const TCP: [u16; 14] = [22, 25, 53, 80, 443, 853, 1080, 3128, 5432, 6379, 8080, 8443, 9000, 9418];
/// UDP ports with a canary.
const UDP: [u16; 4] = [53, 123, 443, 5353];

/// Bytes kept of one connection.
const KEPT: usize = 64 * 1024;

/// Something that arrived at a canary.
#[derive(Clone, Debug)]
pub struct Hit {
    /// `tcp` or `udp`.
    pub proto: &'static str,
    /// Where it was going. UDP: only the port is known.
    pub to: SocketAddr,
    /// The first bytes of it.
    pub bytes: Vec<u8>,
}

/// What the canaries of a world have seen.
#[derive(Default)]
pub struct Log {
    /// Connections and datagrams, DNS over UDP aside.
    pub hits: Mutex<Vec<Hit>>,
    /// Names that somebody asked for, in lower case.
    pub asked: Mutex<Vec<String>>,
    /// Names that there are.
    pub zone: Mutex<HashMap<String, Vec<IpAddr>>>,
}

/// Puts the canaries up.
pub fn start(warden: &Warden, runtime: &tokio::runtime::Runtime, log: &Arc<Log>) -> Result<(), String> {
    let _inside = runtime.enter();
    let families: &[bool] = if std::path::Path::new("/proc/sys/net/ipv6").exists() { &[false, true] } else { &[false] };
    for &v6 in families {
        for port in TCP {
            let listener = std::net::TcpListener::from(warden.bind(false, SocketAddr::new(any(v6), port))?);
            let listener = tokio::net::TcpListener::from_std(listener).map_err(|e| e.to_string())?;
            runtime.spawn(tcp(listener, Arc::clone(log)));
        }
        for port in UDP {
            let socket = udp_socket(warden.bind(true, SocketAddr::new(any(v6), port))?)?;
            runtime.spawn(udp(socket, port, Arc::clone(log)));
        }
    }
    Ok(())
}

fn udp_socket(fd: OwnedFd) -> Result<tokio::net::UdpSocket, String> {
    tokio::net::UdpSocket::from_std(std::net::UdpSocket::from(fd)).map_err(|e| e.to_string())
}

async fn tcp(listener: tokio::net::TcpListener, log: Arc<Log>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let Ok(to) = stream.local_addr() else { continue };
        let index = {
            let mut hits = log.hits.lock().unwrap();
            hits.push(Hit { proto: "tcp", to, bytes: Vec::new() });
            hits.len() - 1
        };
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                let mut hits = log.hits.lock().unwrap();
                if let Some(hit) = hits.get_mut(index)
                    && hit.bytes.len() < KEPT
                {
                    hit.bytes.extend_from_slice(&buffer[..n]);
                }
            }
        });
    }
}

async fn udp(socket: tokio::net::UdpSocket, port: u16, log: Arc<Log>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((n, from)) = socket.recv_from(&mut buffer).await else { continue };
        let packet = &buffer[..n];
        match (port, question(packet)) {
            (53, Some((name, kind, end))) => {
                log.asked.lock().unwrap().push(name.clone());
                let addresses = log.zone.lock().unwrap().get(&name).cloned();
                let _ = socket.send_to(&answer(packet, end, kind, addresses.as_deref()), from).await;
            }
            _ => {
                let to = SocketAddr::new(any(from.is_ipv6()), port);
                log.hits.lock().unwrap().push(Hit { proto: "udp", to, bytes: packet.to_vec() });
            }
        }
    }
}

/// Reads the question of a DNS query (RFC 1035, 4.1): the name in lower case, the type, and where the question ends.
pub(super) fn question(packet: &[u8]) -> Option<(String, u16, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(*packet.get(at..)?.first_chunk()?);
    Some((labels.join("."), kind, at + 4))
}

/// Makes the answer: the addresses of the type asked for, or that there is no such name.
fn answer(query: &[u8], end: usize, kind: u16, addresses: Option<&[IpAddr]>) -> Vec<u8> {
    let data: Vec<Vec<u8>> = addresses
        .unwrap_or_default()
        .iter()
        .filter_map(|ip| match (kind, ip) {
            (1, IpAddr::V4(v4)) => Some(v4.octets().to_vec()),
            (28, IpAddr::V6(v6)) => Some(v6.octets().to_vec()),
            _ => None,
        })
        .collect();
    let code = if addresses.is_some() { 0u8 } else { 3 };
    let mut out = query[..2].to_vec();
    out.extend([0x81, 0x80 | code, 0, 1, 0, data.len() as u8, 0, 0, 0, 0]);
    out.extend_from_slice(query.get(12..end).unwrap_or_default());
    for data in data {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        out.extend(data);
    }
    out
}

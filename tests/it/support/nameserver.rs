//! A name server that a test writes the script of: what it says may differ from time to time, lead elsewhere, or never come.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::world::World;

/// What is said about a name.
#[derive(Clone, Debug)]
pub enum Say {
    /// Nothing, ever.
    Nothing,
    /// That there is no such name.
    Missing,
    /// These addresses, those of the type that was asked for; behind these other names, one leading to the next.
    Found(Vec<&'static str>, Vec<IpAddr>),
}

impl Say {
    /// Says these addresses.
    pub fn addresses(list: &[&str]) -> Say {
        Say::Found(Vec::new(), list.iter().map(|ip| ip.parse().unwrap()).collect())
    }
}

/// A running name server.
pub struct NameServer {
    asked: Arc<Mutex<HashMap<String, usize>>>,
    end: Arc<AtomicBool>,
}

impl World {
    /// Puts up a name server where the world's `/etc/resolv.conf` says that it is. `script` gets a name in lower case, and how
    /// often its IPv4 addresses were asked for before.
    pub fn name_server(&self, script: impl Fn(&str, usize) -> Say + Send + 'static) -> NameServer {
        let socket = UdpSocket::from(self.warden.bind(true, "9.9.9.9:53".parse().unwrap()).unwrap());
        socket.set_nonblocking(false).unwrap();
        // So that it sees its end.
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let server = NameServer { asked: Arc::default(), end: Arc::default() };
        let (asked, end) = (Arc::clone(&server.asked), Arc::clone(&server.end));
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !end.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                answer(&socket, &buffer[..length], from, &asked, &script);
            }
        });
        server
    }
}

fn answer(
    socket: &UdpSocket,
    query: &[u8],
    from: SocketAddr,
    asked: &Mutex<HashMap<String, usize>>,
    script: &impl Fn(&str, usize) -> Say,
) {
    let Some((name, kind, end)) = super::canary::question(query) else { return };
    let before = {
        let mut asked = asked.lock().unwrap();
        let times = asked.entry(name.clone()).or_default();
        let before = *times;
        *times += usize::from(kind == 1);
        // The other type is asked for at the same time: it is the same time for both.
        if kind == 1 { before } else { before.saturating_sub(1) }
    };
    let (aliases, addresses) = match script(&name, before) {
        Say::Nothing => return,
        Say::Missing => (Vec::new(), None),
        Say::Found(aliases, addresses) => (aliases, Some(addresses)),
    };
    let owner = |name: &str| -> Vec<u8> {
        let labels = name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
        labels.chain([0]).collect()
    };
    let mut records: Vec<Vec<u8>> = Vec::new();
    let mut record = |of: &str, kind: u16, data: &[u8]| {
        let [high, low] = (data.len() as u16).to_be_bytes();
        records.push([&owner(of)[..], &kind.to_be_bytes(), &[0, 1, 0, 0, 0, 0, high, low], data].concat());
    };
    let mut at = name.as_str();
    for alias in &aliases {
        record(at, 5, &owner(alias));
        at = alias;
    }
    for address in addresses.iter().flatten() {
        match address {
            IpAddr::V4(v4) if kind == 1 => record(at, 1, &v4.octets()),
            IpAddr::V6(v6) if kind == 28 => record(at, 28, &v6.octets()),
            _ => {}
        }
    }
    let code = if addresses.is_some() { 0 } else { 3 };
    let head = [0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
    let reply = [&query[..2], &head, &query[12..end], &records.concat()].concat();
    let _ = socket.send_to(&reply, from);
}

impl NameServer {
    /// Gets the names that somebody asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().keys().cloned().collect()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

//! Servers of a world that write HTTP/1.1 by hand: answers that no decent server would give, and bodies of any size that
//! nobody keeps.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::world::World;

/// Both directions of a connection.
pub trait Wire: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Wire for T {}

/// A request as far as it was read.
pub struct Asked {
    /// Request line and headers.
    pub head: String,
    /// What came of the body together with them.
    pub begun: Vec<u8>,
    /// The connection.
    pub wire: Pin<Box<dyn Wire>>,
}

impl Asked {
    /// Reads a head.
    async fn read(mut wire: Pin<Box<dyn Wire>>) -> Option<Asked> {
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
        loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let begun = bytes.split_off(at + 4);
                return Some(Asked { head: String::from_utf8_lossy(&bytes).into_owned(), begun, wire });
            }
            match wire.read(&mut buffer).await {
                Ok(n @ 1..) if bytes.len() < 256 * 1024 => bytes.extend_from_slice(&buffer[..n]),
                _ => return None,
            }
        }
    }

    /// Gets a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let of =
            |line: &'_ str| line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(n, _)| n.len());
        self.head.lines().find_map(|line| of(line).map(|at| line[at + 1..].trim()))
    }

    /// Reads the body to its end and gets how long it was, its first bytes too.
    pub async fn body(&mut self) -> (u64, Vec<u8>) {
        let length = self.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0u64);
        let (mut first, mut buffer) = (std::mem::take(&mut self.begun), vec![0; 64 * 1024]);
        let mut read = first.len() as u64;
        while read < length {
            match self.wire.read(&mut buffer).await {
                Ok(n @ 1..) => {
                    read += n as u64;
                    if first.len() < 64 * 1024 {
                        first.extend_from_slice(&buffer[..n]);
                    }
                }
                _ => break,
            }
        }
        (read, first)
    }
}

/// Answers one request of a connection; the connection ends with it.
pub type Script = Arc<dyn Fn(Asked) -> BoxFuture<'static, ()> + Send + Sync>;

impl World {
    /// Puts up such a server for `name`: on port 443, and without TLS on port 80, of a public address of its own.
    pub fn raw(&self, name: &str, script: Script) {
        let number = self.sites.fetch_add(1, Ordering::Relaxed) as u8;
        let address = Ipv4Addr::new(93, 184, 216, 10 + number).into();
        let mut config = rustls::ServerConfig::clone(self.authority.server(name).config());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(config));
        let runtime = self.runtime.as_ref().unwrap();
        let _inside = runtime.enter();
        for (port, tls) in [(443, Some(tls)), (80, None)] {
            let listener =
                std::net::TcpListener::from(self.warden.bind(false, SocketAddr::new(address, port)).unwrap());
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            runtime.spawn(serve(listener, tls, Arc::clone(&script)));
        }
        self.name(name, &[address]);
    }
}

async fn serve(listener: tokio::net::TcpListener, tls: Option<TlsAcceptor>, script: Script) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, script) = (tls.clone(), Arc::clone(&script));
        tokio::spawn(async move {
            let wire: Pin<Box<dyn Wire>> = match tls {
                None => Box::pin(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Box::pin(stream),
                    Err(_) => return,
                },
            };
            if let Some(asked) = Asked::read(wire).await {
                script(asked).await;
            }
        });
    }
}

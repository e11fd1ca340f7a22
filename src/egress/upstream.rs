//! The client towards the real servers: one pool per bottle, verified TLS, HTTP/2 or HTTP/1.1 as the server likes.
//!
//! Nothing is shared between bottles, so no connection (and no credential on it) crosses from one to another. Requests
//! come in here only after every check.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::body::Upload;
use super::deny::Denial;
use super::dial::{self, DialError, Upstreams, UpstreamsError};
use super::lookup::Lookups;
use super::name::Host;
use super::policy::Towards;
use super::route::Router;
use super::upstream_proxy::UpstreamProxy;

/// How long a connection is kept for the next request.
const POOL_IDLE: Duration = Duration::from_secs(30);
/// Idle connections kept for one host.
const POOL_SIZE: usize = 32;
/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Largest head of an answer. Unit: bytes.
const MAX_HEAD: usize = 64 * 1024;
/// What of a request may wait, encrypted, for a server that does not read. Unit: bytes.
const UNSENT: usize = 16 << 10;
/// What a server may send over one HTTP/2 connection before its answers are read on, and what of a request may wait for one that
/// does not read. Unit: bytes.
pub(super) const CONNECTION_WINDOW: u32 = 2 << 20;
const SEND_BUFFER: usize = 64 << 10;

/// Why the client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// `upstreams` is not in order.
    #[error(transparent)]
    Upstreams(#[from] UpstreamsError),
    /// The TLS library refused the set-up.
    #[error("TLS towards upstream: {0}")]
    Tls(#[from] rustls::Error),
    /// The host's proxy is none.
    #[error("upstream_proxy: {0}")]
    Proxy(#[from] super::name::NameError),
    /// An upstream's `ca` holds no certificate.
    #[error("upstream {0:?}: no usable certificate in its `ca`")]
    Ca(String),
}

/// The client of one bottle.
pub type Upstreaming = Client<Connector, Upload>;

/// Gets the certificates that this machine trusts. None at all is an error of the machine: every request fails then.
pub fn host_roots() -> Arc<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a trusted certificate of this machine could not be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    Arc::new(roots)
}

/// Makes the client of one bottle, which reaches what `connector` reaches.
pub fn client(connector: Connector) -> Upstreaming {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_SIZE)
        .http1_max_buf_size(MAX_HEAD)
        .http2_max_header_list_size(64 * 1024)
        .http2_initial_stream_window_size(1 << 20)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_send_buf_size(SEND_BUFFER)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(20))
        .build(connector)
}

struct Inner {
    router: Arc<Router>,
    lookups: Lookups,
    proxy: Option<Arc<UpstreamProxy>>,
    upstreams: Upstreams,
    public: Arc<ClientConfig>,
    own: BTreeMap<(Host, u16), Arc<ClientConfig>>,
}

impl Inner {
    fn new(towards: &Towards, router: Arc<Router>) -> Result<Inner, UpstreamError> {
        let mut own = BTreeMap::new();
        for (key, upstream) in &towards.upstreams {
            let Some(pem) = &upstream.ca_pem else { continue };
            let mut store = RootCertStore::empty();
            for cert in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let added = cert.map_err(|_| ()).and_then(|cert| store.add(cert).map_err(|_| ()));
                added.map_err(|()| UpstreamError::Ca(key.clone()))?;
            }
            if store.is_empty() {
                return Err(UpstreamError::Ca(key.clone()));
            }
            own.insert(dial::parse_key(key)?, config(Arc::new(store))?);
        }
        let (lookups, proxy) = (towards.lookups.clone(), towards.proxy.clone());
        let public = config(Arc::clone(&towards.roots))?;
        Ok(Inner { router, lookups, proxy, upstreams: Upstreams::new(&towards.upstreams)?, public, own })
    }

    async fn reach(&self, host: &Host, port: u16) -> Result<TcpStream, DialError> {
        let private = self.router.private(host, port);
        match &self.proxy {
            // What the operator has dialled elsewhere is reached there and not by asking somebody.
            Some(proxy) if self.upstreams.get(host, port).is_none() => {
                proxy.reach(host, port, &private, &self.lookups).await
            }
            _ => dial::dial(host, port, &self.upstreams, &private, &self.lookups).await,
        }
    }

    async fn connect(&self, uri: &Uri) -> Result<Conn, DialError> {
        self.connect_as(uri, false).await
    }

    /// Connects; `alone`: HTTP/1.1 is the only protocol offered.
    async fn connect_as(&self, uri: &Uri, alone: bool) -> Result<Conn, DialError> {
        let tls = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        let unusable = || DialError::new(Denial::UpstreamUnreachable, "bb: the address of the request is unusable");
        let authority = uri.authority().ok_or_else(unusable)?;
        let (host, port) = Host::parse_authority(authority.as_str()).map_err(|_| unusable())?;
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        let stream = self.reach(&host, port).await?;
        if !tls {
            return Ok(Conn::Plain(TokioIo::new(stream)));
        }
        let config = self.own.get(&(host.clone(), port)).unwrap_or(&self.public);
        let refused = |why: String| DialError::new(Denial::UpstreamTls, format!("bb: TLS with {host}: {why}"));
        let name = ServerName::try_from(host.to_string()).map_err(|error| refused(error.to_string()))?;
        let config = if alone {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(config)
        } else {
            Arc::clone(config)
        };
        let handshake = TlsConnector::from(config).connect(name, stream);
        let mut stream = tokio::time::timeout(HANDSHAKE, handshake)
            .await
            .map_err(|_| refused("no handshake in time".into()))?
            .map_err(|error| refused(error.to_string()))?;
        stream.get_mut().1.set_buffer_limit(Some(UNSENT));
        Ok(Conn::Tls(TokioIo::new(Box::new(stream))))
    }
}

fn config(roots: Arc<RootCertStore>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(16);
    Ok(Arc::new(config))
}

/// Makes connections: TLS for the pool, plain ones for what is passed through.
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

impl Connector {
    /// Makes it; it reaches private addresses only where `router` says so, and by way of the host's proxy where there is one.
    pub fn new(towards: &Towards, router: Arc<Router>) -> Result<Connector, UpstreamError> {
        Ok(Connector(Arc::new(Inner::new(towards, router)?)))
    }

    /// Connects for one request that shall become something else: HTTP/1.1, over TLS where the address says so, never pooled.
    pub async fn tunnel(&self, uri: &Uri) -> Result<Conn, DialError> {
        self.0.connect_as(uri, true).await
    }

    /// Connects to `host` and `port`, and says nothing there.
    pub async fn reach(&self, host: &Host, port: u16) -> Result<TcpStream, DialError> {
        self.0.reach(host, port).await
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Conn;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Conn, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.connect(&uri).await })
    }
}

/// A connection to upstream.
pub enum Conn {
    /// Plain HTTP.
    Plain(TokioIo<TcpStream>),
    /// TLS.
    Tls(TokioIo<Box<TlsStream<TcpStream>>>),
}

impl Connection for Conn {
    fn connected(&self) -> Connected {
        match self {
            Conn::Plain(_) => Connected::new(),
            Conn::Tls(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            Conn::Tls(_) => Connected::new(),
        }
    }
}

impl Read for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Conn::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl Write for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Conn::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Conn::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Conn::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Conn::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Conn::Plain(stream) => stream.is_write_vectored(),
            Conn::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Conn::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Conn::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
}

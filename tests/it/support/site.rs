//! Sites: the servers that a world really has. Each has a public address, a name that the world's name server knows, and
//! a certificate of the world's own authority; it records what it is asked.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::within;

/// One request as a site saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method.
    pub method: String,
    /// `https` or `http`.
    pub scheme: &'static str,
    /// `Host` or `:authority`.
    pub host: String,
    /// Path with query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Bytes,
}

impl Seen {
    /// Gets a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// What a site answers.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// Answers 200 with a text.
    pub fn text(text: impl Into<String>) -> Reply {
        Reply { status: 200, headers: vec![("content-type", "text/plain".into())], body: Bytes::from(text.into()) }
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

struct Shared {
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
    handler: Box<Handler>,
}

/// A running site.
#[derive(Clone)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    shared: Arc<Shared>,
}

impl Site {
    pub(super) fn new(name: &str, address: IpAddr, handler: Box<Handler>) -> Site {
        let shared = Shared { seen: Mutex::default(), changed: Condvar::new(), handler };
        Site { name: name.into(), address, shared: Arc::new(shared) }
    }

    /// Gets the requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Waits until `n` requests were seen.
    pub fn wait_for(&self, n: usize, limit: Duration) -> bool {
        let deadline = Instant::now() + within(limit);
        let mut seen = self.shared.seen.lock().unwrap();
        while seen.len() < n {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            seen = self.shared.changed.wait_timeout(seen, left).unwrap().0;
        }
        true
    }

    /// Serves on a listener made in the world; with `tls`, HTTPS.
    pub(super) fn serve(&self, runtime: &tokio::runtime::Runtime, listener: OwnedFd, tls: Option<TlsAcceptor>) {
        let _inside = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(std::net::TcpListener::from(listener)).unwrap();
        let site = self.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (site, tls) = (site.clone(), tls.clone());
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                site.connection(TokioIo::new(stream), "https").await;
                            }
                        }
                        None => site.connection(TokioIo::new(stream), "http").await,
                    }
                });
            }
        });
    }

    async fn connection<S>(&self, stream: TokioIo<S>, scheme: &'static str)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let site = self.clone();
        let service = hyper::service::service_fn(move |request| {
            let site = site.clone();
            async move { site.answer(request, scheme).await }
        });
        let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await;
    }

    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        scheme: &'static str,
    ) -> Result<hyper::Response<Full<Bytes>>, hyper::Error> {
        let (head, body) = request.into_parts();
        let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
        let host = head.uri.authority().map(|a| a.to_string()).or_else(|| head.headers.get("host").map(text));
        let seen = Seen {
            method: head.method.to_string(),
            scheme,
            host: host.unwrap_or_default(),
            path: head.uri.path_and_query().map(|p| p.to_string()).unwrap_or_default(),
            headers: head.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect(),
            body: body.collect().await?.to_bytes(),
        };
        let reply = (self.shared.handler)(&seen);
        self.shared.seen.lock().unwrap().push(seen);
        self.shared.changed.notify_all();
        let mut answer = hyper::Response::builder().status(reply.status);
        for (name, value) in reply.headers {
            answer = answer.header(name, value);
        }
        Ok(answer.body(Full::new(reply.body)).unwrap())
    }
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "site {} at {}", self.name, SocketAddr::new(self.address, 443))
    }
}

/// The authority of a world.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

impl Authority {
    /// Makes one.
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "the test world");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Makes the TLS side of a server for `name`.
    pub fn server(&self, name: &str) -> TlsAcceptor {
        let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
        leaf.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![leaf.der().clone()], key)
                .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

//! The plane as a whole, on loopback: a real client over real TLS, a real upstream, a real ledger.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;
use crate::api::{Auth, AuthScheme, Limit, Match, PathKind, PathRule};
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::{EventQuery, GLOBAL};
use crate::types::{Api, ApiFamily};

mod at_once;
mod behind;
mod changing;
mod coded;
mod consumers;
mod crossing;
mod cuts;
mod ends;
mod forms;
mod fuzz;
mod gates;
mod hygiene;
mod ids;
mod last_words;
mod limits;
mod metered;
mod names;
mod oauth;
mod passing;
mod paused;
mod protocols;
mod proxy;
mod refusals;
mod rows;
mod sockets;
mod spoken;
mod steering;
mod strained;
mod times;
mod unseen;
mod websocket;

const MODEL: &str = "api.anthropic.com";
const PLAIN: &str = "files.example.com";
const SECRET: &str = "sk-real-secret-0123456789";

/// What the upstream saw of one request.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    uri: String,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

type Reply = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

fn full(text: impl Into<Bytes>) -> Reply {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// A body that is fed by the test.
fn fed() -> (mpsc::UnboundedSender<Result<Bytes, std::io::Error>>, Reply) {
    let (tx, rx) = mpsc::unbounded_channel();
    let stream = futures_util::stream::unfold(rx, |mut rx| async move {
        let item: Result<Bytes, std::io::Error> = rx.recv().await?;
        Some((item.map(Frame::data), rx))
    });
    (tx, BodyExt::boxed(StreamBody::new(stream)))
}

type Script = Arc<dyn Fn(&Seen) -> Response<Reply> + Send + Sync>;

struct Upstreamed {
    address: SocketAddr,
    ca: Ca,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Starts a server that answers by `script`, over TLS and without.
async fn upstream(h2: bool, script: Script) -> Upstreamed {
    let ca = Ca::generate("upstream").unwrap();
    let acceptor = ca.acceptor().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut config = rustls::ServerConfig::clone(&acceptor.named());
    config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let (tls, seen, script) = (tls.clone(), Arc::clone(&seen), Arc::clone(&script));
                tokio::spawn(async move {
                    let mut first = [0];
                    let plain = stream.peek(&mut first).await.is_ok() && first[0] != 0x16;
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                        async move {
                            let mut request = request;
                            let upgrade =
                                request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
                            let (parts, body) = request.into_parts();
                            let body = body.collect().await.ok();
                            let trailers = body.as_ref().and_then(|body| body.trailers().cloned());
                            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
                            let (method, uri) = (parts.method, parts.uri.to_string());
                            let one = Seen { method, uri, headers: parts.headers, body, trailers };
                            seen.lock().unwrap().push(one.clone());
                            let answer = script(&one);
                            if let Some(upgrade) = upgrade.filter(|_| answer.status() == 101) {
                                match answer.extensions().get::<sockets::Taken>() {
                                    Some(taken) => drop(taken.0.send(upgrade)),
                                    None => drop(tokio::spawn(websocket::echo(upgrade))),
                                }
                            }
                            Ok::<_, Infallible>(answer)
                        }
                    });
                    let mut http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    http.http2().max_concurrent_streams(1000);
                    let _ = if plain {
                        http.serve_connection_with_upgrades(TokioIo::new(stream), service).await
                    } else {
                        let Ok(stream) = tls.accept(stream).await else { return };
                        http.serve_connection_with_upgrades(TokioIo::new(stream), service).await
                    };
                });
            }
        }
    });
    Upstreamed { address, ca, seen }
}

#[derive(Default)]
struct Told(Mutex<Vec<Standing>>);

impl Enforcer for Told {
    fn exhausted(&self, _bottle: &str, standing: Standing) {
        self.0.lock().unwrap().push(standing);
    }
}

struct Bench {
    handle: Handle,
    address: SocketAddr,
    /// Its explicit proxy.
    proxy: SocketAddr,
    ca: Ca,
    ledger: SqliteLedger,
    told: Arc<Told>,
    upstream: Upstreamed,
    routes: Vec<Route>,
    _home: Home,
}

/// A directory of its own, gone with the test.
struct Home(std::path::PathBuf);

impl Home {
    fn new() -> Home {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("bb-egress-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Home(path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn bench(limit: Option<u64>, script: Script) -> Bench {
    bench_over(false, limit, script).await
}

async fn bench_over(h2: bool, limit: Option<u64>, script: Script) -> Bench {
    bench_to(upstream(h2, script).await, limit).await
}

async fn bench_to(upstream: Upstreamed, limit: Option<u64>) -> Bench {
    bench_counted(upstream, limit, Api::Anthropic).await
}

/// As [`bench_to`], of a provider whose requests are counted by `api`.
async fn bench_counted(upstream: Upstreamed, limit: Option<u64>, api: Api) -> Bench {
    let home = Home::new();
    let ledger = SqliteLedger::open(&home.0.join("ledger.db"), Default::default()).unwrap();
    if let Some(tokens) = limit {
        let limit = Limit::of("claude", Some(tokens));
        ledger.set_limits("bottle:id-1", vec![limit]).await.unwrap();
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let proxied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = proxied.local_addr().unwrap();
    let port = address.port();
    let redirected = |host: &str| {
        let to = Upstream { address: upstream.address.to_string(), ca_pem: Some(upstream.ca.cert_pem().into()) };
        (format!("{host}:{port}"), to)
    };
    let at_its_own_port = |host: &str| (host.to_owned(), redirected(host).1);
    let ca = Ca::generate("test-1").unwrap();
    let told = Arc::new(Told::default());
    let spec = Spec {
        slug: "test-1".into(),
        id: "id-1".into(),
        provider: "claude".into(),
        counted_by: Some(api),
        agent: "tester".into(),
        run: Some("r1".into()),
        path: vec!["bottle:id-1".into(), GLOBAL.into()],
        rules: Rules {
            also: None,
            routes: vec![
                Route {
                    host: MODEL.into(),
                    ports: vec![port],
                    api: Some(ApiFamily::Anthropic),
                    auth: Some(Auth {
                        scheme: AuthScheme::Header,
                        header: Some("x-api-key".into()),
                        credential: "claude".into(),
                    }),
                    quiet: vec!["/api/event_logging".into()],
                    ..Route::default()
                },
                Route {
                    host: PLAIN.into(),
                    ports: vec![port],
                    matches: vec![Match {
                        methods: vec!["GET".into(), "PUT".into()],
                        paths: vec![PathRule { kind: PathKind::Prefix, value: "/open".into() }],
                        ..Match::default()
                    }],
                    ..Route::default()
                },
                Route {
                    host: "nokey.example.com".into(),
                    ports: vec![port],
                    auth: Some(Auth { scheme: AuthScheme::Bearer, header: None, credential: "absent".into() }),
                    ..Route::default()
                },
                Route { host: "nowhere.example.com".into(), ports: vec![port], ..Route::default() },
            ],
            credentials: [("claude".to_owned(), SecretString::from(SECRET))].into(),
            logins: BTreeMap::new(),
        },
        upstreams: [
            redirected(MODEL),
            redirected(PLAIN),
            redirected("nokey.example.com"),
            redirected("chatgpt.com"),
            at_its_own_port("platform.claude.com"),
            at_its_own_port("auth.openai.com"),
            // Nobody listens on port 1 of loopback.
            (format!("nowhere.example.com:{port}"), Upstream { address: "127.0.0.1:1".into(), ca_pem: None }),
        ]
        .into(),
        upstream_proxy: None,
        proxy: Some(proxy),
        ca: ca.clone(),
        cut: None,
        parks: false,
    };
    let routes = spec.rules.routes.clone();
    let sockets = Sockets { tcp: vec![listener, proxied], ..Sockets::default() };
    let roots = Arc::new(RootCertStore::empty());
    let handle = start_with(spec, sockets, ledger.clone(), Arc::clone(&told) as _, roots, Gate::Any).unwrap();
    Bench { handle, address, proxy, ca, ledger, told, upstream, routes, _home: home }
}

impl Handle {
    /// Says what would become of `method` on `url`.
    fn why(&self, url: &str, method: &str) -> crate::api::Verdict {
        self.verdict(&crate::api::Unsent { url: url.to_owned(), method: method.to_owned(), headers: vec![] })
    }
}

/// The agent's side of one TLS connection.
enum Client {
    H1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    H2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        match self {
            Client::H1(client) => {
                client.ready().await?;
                client.send_request(request).await
            }
            Client::H2(client) => client.send_request(request).await,
        }
    }
}

impl Bench {
    async fn tls(&self, sni: &str, h2: bool) -> tokio_rustls::client::TlsStream<TcpStream> {
        self.try_tls(sni, h2).await.unwrap()
    }

    async fn try_tls(&self, sni: &str, h2: bool) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        self.tls_over(TcpStream::connect(self.address).await.unwrap(), sni, h2).await
    }

    async fn tls_over(
        &self,
        stream: TcpStream,
        sni: &str,
        h2: bool,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.cert_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    async fn client(&self, sni: &str, h2: bool) -> Client {
        Self::speak(self.tls(sni, h2).await, h2).await
    }

    async fn speak(tls: tokio_rustls::client::TlsStream<TcpStream>, h2: bool) -> Client {
        let io = TokioIo::new(tls);
        if h2 {
            let (client, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(conn);
            Client::H2(client)
        } else {
            let (client, conn) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(conn);
            Client::H1(client)
        }
    }

    fn request(&self, host: &str, method: &str, path: &str, body: impl Into<Bytes>, h2: bool) -> Request<Full<Bytes>> {
        let authority = format!("{host}:{}", self.address.port());
        let uri = if h2 { format!("https://{authority}{path}") } else { path.to_owned() };
        let mut request = Request::builder().method(method).uri(uri);
        if !h2 {
            request = request.header("host", authority);
        }
        request.body(Full::new(body.into())).unwrap()
    }

    /// Asks the model, and gets the answer's body as it comes.
    async fn streamed(&self, client: &mut Client, prompt: impl Into<Bytes>) -> Incoming {
        client.send(self.request(MODEL, "POST", "/v1/messages", prompt, false)).await.unwrap().into_body()
    }

    /// One request on a connection of its own.
    async fn ask(
        &self,
        host: &str,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (StatusCode, HeaderMap, Bytes) {
        let mut client = self.client(host, false).await;
        let answer = client.send(self.request(host, method, path, body, false)).await.unwrap();
        let (parts, body) = answer.into_parts();
        (parts.status, parts.headers, body.collect().await.unwrap().to_bytes())
    }

    async fn message(&self) -> (StatusCode, HeaderMap, Bytes) {
        self.ask(MODEL, "POST", "/v1/messages?beta=true", prompt(100)).await
    }

    async fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.ledger.events(EventQuery::default()).await.unwrap();
        events.into_iter().filter(|e| e.kind == kind).map(|e| e.data).collect()
    }

    /// Waits until as many refusals are written; gets their words.
    async fn denied(&self, count: usize) -> Vec<String> {
        for _ in 0..3000 {
            let denied = self.events("denied").await;
            if denied.len() >= count {
                return denied.iter().map(|denied| denied["kind"].as_str().unwrap_or_default().to_owned()).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not told: {:?}", self.events("denied").await);
    }

    fn seen(&self) -> Vec<Seen> {
        self.upstream.seen.lock().unwrap().clone()
    }

    /// Waits until no hold is open any more.
    async fn settled(&self) {
        for _ in 0..500 {
            if self.ledger.open_holds(None).await.unwrap() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("a hold stayed open");
    }

    async fn counted(&self) -> u64 {
        self.ledger.usage(Default::default()).await.unwrap().total.counted
    }
}

fn prompt(max: u64) -> String {
    json!({"model": "claude-x", "max_tokens": max, "stream": true, "messages": [{"role": "user", "content": "hi"}]})
        .to_string()
}

fn message_json(input: u64, output: u64) -> String {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
        "content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": input, "output_tokens": output},
    })
    .to_string()
}

fn event(value: Value) -> Bytes {
    let kind = value["type"].as_str().unwrap().to_owned();
    format!("event: {kind}\ndata: {value}\n\n").into()
}

fn begin(input: u64) -> Bytes {
    event(json!({"type": "message_start", "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [],
        "usage": {"input_tokens": input, "output_tokens": 1},
    }}))
}

fn delta(text: &str) -> Bytes {
    event(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}))
}

fn done(output: u64) -> [Bytes; 2] {
    [
        event(
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output}}),
        ),
        event(json!({"type": "message_stop"})),
    ]
}

fn answers(body: String) -> Script {
    Arc::new(move |_| Response::builder().header("content-type", "application/json").body(full(body.clone())).unwrap())
}

fn sse(body: Reply) -> Response<Reply> {
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

/// A script that streams what the test feeds, for the first request.
fn streams() -> (mpsc::UnboundedSender<Result<Bytes, std::io::Error>>, Script) {
    let (tx, body) = fed();
    let body = Mutex::new(Some(body));
    (tx, Arc::new(move |_| sse(body.lock().unwrap().take().unwrap_or_else(|| full("")))))
}

async fn next(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    let frame = tokio::time::timeout(Duration::from_secs(30), body.frame()).await.expect("a frame in time")?;
    Some(frame.map(|f| f.into_data().unwrap_or_default()))
}

//! What the benchmarks of the egress plane share: a client and a server that block, so that they cost little themselves, and
//! the way into a bottle.
#![allow(dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bb::api::{Auth, AuthScheme, ExecFrame, Launch, Limit, Mount, Route, Upstream};
use bb::client::Client;
use bb::home::Home;
use bb::types::ApiFamily;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

/// The server's name.
pub const HOST: &str = "api.anthropic.com";

/// Another name of the server's, which no API has.
pub const FILES: &str = "files.example";

/// Events of a streamed answer between its first and its last ones.
pub const CHUNKS: usize = 300;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A connection of the client's.
pub type Stream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// Makes a client's configuration that trusts one authority.
pub fn trusting(ca: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// Connects to the server, or to what catches connections to it.
pub fn connect(address: &str, config: &Arc<ClientConfig>) -> Stream {
    connect_as(HOST, address, config)
}

/// The same by one of its names.
pub fn connect_as(name: &str, address: &str, config: &Arc<ClientConfig>) -> Stream {
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_nodelay(true).unwrap();
    secure(tcp, name, config)
}

/// Connects to the server through a proxy that is asked to.
pub fn connect_through(proxy: &str, address: &str, config: &Arc<ClientConfig>) -> Stream {
    let mut tcp = TcpStream::connect(proxy).unwrap();
    tcp.set_nodelay(true).unwrap();
    let (_, port) = address.split_once(':').unwrap();
    write!(tcp, "CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n").unwrap();
    // Byte by byte: what follows the head is not for us.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tcp.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    assert!(head.contains(" 200 "), "{head}");
    secure(tcp, "localhost", config)
}

fn secure(tcp: TcpStream, name: &str, config: &Arc<ClientConfig>) -> Stream {
    let tls = ClientConnection::new(Arc::clone(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    BufReader::new(StreamOwned::new(tls, tcp))
}

/// Sends a request of the usual kind; for an answer in chunks with how many milliseconds there are to be between two.
pub fn send(stream: &mut Stream, host: &str, pace: Option<u64>) {
    let (streaming, pace) = (pace.is_some(), pace.unwrap_or(0));
    let body = format!(
        r#"{{"model":"m","max_tokens":16,"stream":{streaming},"messages":[{{"role":"user","content":"pace {pace} {}"}}]}}"#,
        "x".repeat(400)
    );
    let request = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(request.as_bytes()).unwrap();
}

/// Reads a head and gives its length of body, or `None` where it is chunked.
pub fn head(stream: &mut Stream) -> Option<usize> {
    let mut length = None;
    let mut status = String::new();
    stream.read_line(&mut status).unwrap();
    assert!(status.contains(" 200 "), "{status}");
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if line == "\r\n" {
            return length;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
    }
}

/// Sends a request and reads its answer.
pub fn exchange(stream: &mut Stream, host: &str) {
    send(stream, host, None);
    let length = head(stream).unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
}

/// Starts the server; gets its address and the authority that its certificate needs.
pub fn server() -> (String, String) {
    let issued = rcgen::generate_simple_self_signed([HOST, FILES, "localhost"].map(str::to_owned)).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || serve(tcp, &config));
        }
    });
    (address, issued.cert.pem())
}

/// A connection of the server's.
type Served = BufReader<StreamOwned<ServerConnection, TcpStream>>;

fn serve(tcp: TcpStream, config: &Arc<ServerConfig>) {
    tcp.set_nodelay(true).unwrap();
    let tls = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut stream = BufReader::new(StreamOwned::new(tls, tcp));
    loop {
        let (mut length, mut first) = (0, String::new());
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line) {
                Ok(n) if n > 0 => {}
                _ => return,
            }
            if first.is_empty() {
                first.clone_from(&line);
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        if first.contains(" /bulk") {
            if bulk(&mut stream, &first, length).is_err() {
                return;
            }
            continue;
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let body = String::from_utf8_lossy(&body);
        let pace = body.split("pace ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        if answer(stream.get_mut(), pace.filter(|_| body.contains("\"stream\":true"))).is_err() {
            return;
        }
    }
}

/// Takes an upload, or answers `GET /bulk/BYTES` with so many.
fn bulk(stream: &mut Served, first: &str, length: usize) -> std::io::Result<()> {
    std::io::copy(&mut stream.by_ref().take(length as u64), &mut std::io::sink())?;
    let wanted = first.split_whitespace().nth(1).and_then(|path| path.strip_prefix("/bulk/"));
    let mut left: usize = wanted.and_then(|n| n.parse().ok()).unwrap_or(0);
    let out = stream.get_mut();
    write!(out, "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {left}\r\n\r\n")?;
    let block = vec![b'x'; 256 << 10];
    while left > 0 {
        let n = left.min(block.len());
        out.write_all(&block[..n])?;
        left -= n;
    }
    out.flush()
}

fn answer(out: &mut impl Write, pace: Option<u64>) -> std::io::Result<()> {
    const USAGE: &str = r#""usage":{"input_tokens":10,"output_tokens":2}"#;
    let Some(pace) = pace else {
        let body = format!(
            r#"{{"id":"msg_{}","type":"message","role":"assistant","model":"m","content":[{{"type":"text","text":"{}"}}],"stop_reason":"end_turn",{USAGE}}}"#,
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos(),
            "y".repeat(900)
        );
        return out.write_all(
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
    };
    out.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")?;
    let mut event = |name: &str, data: &str| -> std::io::Result<()> {
        let text = format!("event: {name}\ndata: {data}\n\n");
        out.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
    };
    let id = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    event(
        "message_start",
        &format!(r#"{{"type":"message_start","message":{{"id":"msg_{id}","model":"m",{USAGE}}}}}"#),
    )?;
    for _ in 0..CHUNKS {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        event(
            "content_block_delta",
            &format!(
                r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"@@{now}@@"}}}}"#
            ),
        )?;
        std::thread::sleep(Duration::from_millis(pace));
    }
    event("message_delta", &format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},{USAGE}}}"#))?;
    event("message_stop", r#"{"type":"message_stop"}"#)?;
    out.write_all(b"0\r\n\r\n")
}

/// Starts a controller with a home of its own; gets the home and its directory, to be removed in the end.
pub fn controller(name: &str) -> (Home, PathBuf) {
    controller_at(std::env::temp_dir().join(format!("bb-bench-{name}-{}", std::process::id())), None)
}

/// Starts a controller whose home is to be `dir`; with `helper`, the static build of bb that containers are shown.
pub fn controller_at(dir: PathBuf, helper: Option<PathBuf>) -> (Home, PathBuf) {
    let home = Home::open(&dir, None).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bb"));
    let command = command.envs(helper.map(|place| ("BB_HELPER", place)));
    let started = command.arg("__controller").env("BB_HOME", &dir).env_remove("XDG_RUNTIME_DIR").status().unwrap();
    assert!(started.success());
    (home, dir)
}

/// Runs this executable in a bottle, with `args`, the server's name and port and a file with the authority to trust; gets what
/// it prints.
pub fn in_bottle(address: &str, ca: &str, args: &[&str]) -> String {
    let (home, dir) = controller("plane");
    let text = run_in_bottle(&home, &launch_of(address, ca, args), |_| ()).0;
    let _ = std::fs::remove_dir_all(dir);
    text
}

/// What runs this executable in a bottle, with `args` and what [`in_bottle`] adds to them.
pub fn launch_of(address: &str, ca: &str, args: &[&str]) -> Launch {
    let exe = std::env::current_exe().unwrap().display().to_string();
    let inside = "/bench";
    let there = format!("{HOST}:443");
    let argv = [inside].iter().chain(args).chain(&[there.as_str(), "/etc/bb/ca.pem"]).map(|&a| a.to_owned()).collect();
    let route = Route {
        host: HOST.into(),
        auth: Some(Auth { scheme: AuthScheme::Header, header: Some("x-api-key".into()), credential: "key".into() }),
        api: Some(ApiFamily::Anthropic),
        ..Route::default()
    };
    let files = Route { host: FILES.into(), ..Route::default() };
    let upstream = Upstream { address: address.into(), ca_pem: Some(ca.into()) };
    Launch {
        id: format!("bench-{}", std::process::id()),
        label: "bench".into(),
        provider: "bench".into(),
        argv,
        mounts: vec![Mount { source: exe, target: Some(inside.into()), rw: false }],
        routes: vec![route, files],
        credentials: [("key".to_owned(), "k".to_owned())].into(),
        budget: vec![Limit::hard("*", Some(1 << 50))],
        upstreams: [HOST, FILES].map(|host| (host.to_owned(), upstream.clone())).into(),
        ..Launch::default()
    }
}

/// Runs a launch to its end and the controller with it; gets what was printed, and what `look` saw of the controller's process
/// right before the launch and after its end.
pub fn run_in_bottle<T>(home: &Home, launch: &Launch, look: impl Fn(u32) -> T) -> (String, T, T) {
    let (mut texts, before, after) = run_in_bottles(home, std::slice::from_ref(launch), look);
    (texts.remove(0), before, after)
}

/// The same for several launches at once.
pub fn run_in_bottles<T>(home: &Home, launches: &[Launch], look: impl Fn(u32) -> T) -> (Vec<String>, T, T) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(home).await.unwrap().expect("a controller");
        let pid = client.version().await.unwrap().pid;
        let before = look(pid);
        let mut slugs = Vec::new();
        for launch in launches {
            slugs.push(client.launch(launch).await.unwrap().slug);
        }
        let mut codes = Vec::new();
        for slug in &slugs {
            codes.push(client.wait(slug, None).await.unwrap().unwrap().exit_code);
        }
        let after = look(pid);
        let mut texts = Vec::new();
        for slug in &slugs {
            let mut logs = client.logs(slug, 0, false).await.unwrap();
            let mut text = String::new();
            while let Some(frame) = logs.next().await {
                if let Ok(ExecFrame::Output { text: more, .. }) = frame {
                    text.push_str(&more);
                }
            }
            texts.push(text);
        }
        client.stop().await.unwrap();
        assert!(codes.iter().all(|code| *code == Some(0)), "{}", texts.join("\n"));
        (texts, before, after)
    })
}

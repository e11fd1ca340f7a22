//! Limits of time, met by a clock that jumps: what is just inside one goes on, what is beyond it ends closed, and is told.

use tokio::io::{AsyncRead, AsyncWrite};

use super::paused::pass;
use super::websocket::head;
use super::*;

type Bottle = tokio_rustls::client::TlsStream<TcpStream>;
type Server = tokio_rustls::server::TlsStream<TcpStream>;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Starts a TLS server whose connections the test gets, to say in its place what it says.
pub(super) async fn handed() -> (Upstreamed, mpsc::UnboundedReceiver<Server>) {
    let ca = Ca::generate("upstream").unwrap();
    let mut config = rustls::ServerConfig::clone(&ca.acceptor().unwrap().named());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (given, taken) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = tls.accept(stream).await {
                let _ = given.send(stream);
            }
        }
    });
    (Upstreamed { address, ca, seen: Arc::default() }, taken)
}

/// Sends the first line of a request and its `Host`, and what comes then.
async fn begins(bench: &Bench, host: &str, line: &str, then: &str) -> Bottle {
    let mut stream = bench.tls(host, false).await;
    let text = format!("{line} HTTP/1.1\r\nhost: {host}:{}\r\n{then}", bench.address.port());
    says(&mut stream, text).await;
    stream
}

pub(super) async fn says(stream: &mut (impl AsyncWrite + Unpin), text: impl AsRef<[u8]>) {
    stream.write_all(text.as_ref()).await.unwrap();
    stream.flush().await.unwrap();
}

async fn hears(stream: &mut (impl AsyncRead + Unpin), text: &str) {
    let mut heard = vec![0; text.len()];
    tokio::time::timeout(s(60), stream.read_exact(&mut heard)).await.expect(text).unwrap();
    assert_eq!(heard, text.as_bytes());
}

/// Gets what is said until the connection is closed.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut rest = Vec::new();
    // What is refused may be reset.
    let _ = tokio::time::timeout(s(60), stream.read_to_end(&mut rest)).await.expect("closed");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let bench = bench(None, answers("{}".into())).await;
    let early = TcpStream::connect(bench.address).await.unwrap();
    let mut late = TcpStream::connect(bench.address).await.unwrap();
    let (status, mut tunnel) = bench.connect(&format!("{PLAIN}:{}", bench.address.port()), b"").await;
    assert_eq!(status, "200");
    pass(accept::FIRST_BYTE - s(10)).await;
    let mut early = Bench::speak(bench.tls_over(early, PLAIN, false).await.unwrap(), false).await;
    let mut ask = async || early.send(bench.request(PLAIN, "GET", "/open", "", false)).await.unwrap().status();
    assert_eq!(ask().await, 200);
    assert!(bench.events("denied").await.is_empty());
    pass(s(20)).await;
    assert_eq!((closed(&mut late).await, closed(&mut tunnel).await), (String::new(), String::new()));
    assert_eq!(bench.denied(2).await, ["limit_idle"; 2]);
    assert_eq!(ask().await, 200, "who has spoken is none of them");
}

/// A client's first words, whole.
fn greeting(host: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut greeting = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut greeting).unwrap();
    greeting
}

#[tokio::test]
async fn a_handshake_has_its_time_and_so_has_the_wait_for_a_place_among_them() {
    let bench = bench(None, answers("{}".into())).await;
    let greeting = greeting(PLAIN);
    let connect = async |bytes: &[u8]| {
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        says(&mut stream, bytes).await;
        stream
    };
    let mut slow = connect(&greeting[..9]).await;
    pass(s(5)).await;
    says(&mut slow, &greeting[9..]).await;
    // A record of the handshake.
    hears(&mut slow, "\x16").await;
    drop(slow);

    let mut begun = Vec::new();
    for _ in 0..accept::HANDSHAKES {
        begun.push(connect(&greeting[..9]).await);
    }
    pass(Duration::ZERO).await;
    let mut waits = connect(&greeting).await;
    pass(s(1)).await;
    drop(begun.pop());
    hears(&mut waits, "\x16").await;
    // It has the last place.
    let mut late = connect(&greeting).await;
    pass(accept::HANDSHAKE_PLACE + Duration::from_millis(500)).await;
    assert_eq!(closed(&mut late).await, "");
    assert_eq!(bench.denied(1).await, ["limit_handshakes"]);
    pass(accept::HANDSHAKE).await;
    assert_eq!(closed(&mut begun.remove(0)).await, "");
    assert_eq!(bench.denied(2).await[1], "limit_idle");
}

#[tokio::test]
async fn a_head_has_its_time_and_so_has_a_connection_between_two() {
    let bench = bench(None, answers("{}".into())).await;
    let mut early = begins(&bench, PLAIN, "GET /open", "").await;
    let mut late = begins(&bench, PLAIN, "GET /open", "").await;
    let mut resting = begins(&bench, PLAIN, "GET /open", "\r\n").await;
    assert!(head(&mut resting).await.starts_with("HTTP/1.1 200"));
    let mut proxied = TcpStream::connect(bench.proxy).await.unwrap();
    says(&mut proxied, "CONNECT ").await;
    pass(serve::HEAD_TIME - s(15)).await;
    says(&mut early, "connection: close\r\n\r\n").await;
    assert!(closed(&mut early).await.starts_with("HTTP/1.1 200"));
    assert!(bench.events("denied").await.is_empty());
    pass(s(30)).await;
    for mut stream in [&mut late as &mut (dyn AsyncRead + Unpin), &mut proxied] {
        let said = closed(&mut stream).await;
        assert!(!said.contains("200"), "{said}");
    }
    closed(&mut resting).await;
    assert_eq!(bench.denied(2).await, ["limit_idle"; 2], "who rested has asked for nothing");
}

#[tokio::test]
async fn a_body_that_is_held_may_not_stand_still() {
    let bench = bench(None, answers(message_json(1, 1))).await;
    let body = prompt(100);
    let (one, two) = body.split_at(40);
    let length = format!("content-length: {}\r\n\r\n{one}", body.len());
    let mut slow = begins(&bench, MODEL, "POST /v1/messages", &length).await;
    let mut still = begins(&bench, MODEL, "POST /v1/messages", &length).await;
    pass(model::BODY_IDLE - s(10)).await;
    says(&mut slow, &two[..1]).await;
    assert!(bench.events("denied").await.is_empty());
    pass(s(20)).await;
    let answer = head(&mut still).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("x-bb-deny: limit_idle"), "{answer}");
    assert_eq!(bench.denied(1).await, ["limit_idle"]);
    // The other one has been slow for longer than that, and has moved.
    pass(model::BODY_IDLE - s(30)).await;
    says(&mut slow, &two[1..]).await;
    let answer = head(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(bench.seen().len(), 1);
}

#[tokio::test]
async fn what_has_been_allowed_ends_when_nothing_moves() {
    let (upstream, mut taken) = handed().await;
    let bench = bench_to(upstream, None).await;
    let mut routes = bench.routes.clone();
    let (hidden, ports) = (routes[2].host.clone(), routes[2].ports.clone());
    routes[1].websocket = true;
    routes[2] = Route { host: hidden.clone(), ports, tls: crate::api::Tls::Passthrough, ..Route::default() };
    bench.handle.set_routes(&Rules { routes, ..Rules::default() }).unwrap();
    let mut served = async || {
        let mut server = taken.recv().await.unwrap();
        head(&mut server).await;
        server
    };
    let mut silent = begins(&bench, PLAIN, "GET /open/silent", "\r\n").await;
    let _silent_server = served().await;
    let mut slow = begins(&bench, PLAIN, "GET /open/slow", "\r\n").await;
    let mut slow_server = served().await;
    let mut stream = begins(&bench, PLAIN, "GET /open/stream", "\r\n").await;
    let mut stream_server = served().await;
    says(&mut stream_server, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun").await;
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200"));
    hears(&mut stream, "begun").await;
    let mut upload = begins(&bench, PLAIN, "PUT /open/upload", "content-length: 100\r\n\r\nbegun").await;
    let mut upload_server = served().await;
    hears(&mut upload_server, "begun").await;
    let mut socket = websocket::begun(&bench, PLAIN, "/open/socket").await;
    let mut socket_server = served().await;
    let switched = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    says(&mut socket_server, switched).await;
    assert!(head(&mut socket).await.starts_with("HTTP/1.1 101"));
    let mut through = changing::past_the_plane(&bench, &hidden).await;
    let mut through_server = taken.recv().await.unwrap();
    says(&mut through, "begun").await;
    hears(&mut through_server, "begun").await;

    pass(tee::SILENCE - s(60)).await;
    says(&mut slow_server, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert!(head(&mut slow).await.starts_with("HTTP/1.1 200"));
    says(&mut stream_server, "more").await;
    hears(&mut stream, "more").await;
    says(&mut upload, "more").await;
    hears(&mut upload_server, "more").await;
    says(&mut socket, "more").await;
    hears(&mut socket_server, "more").await;
    says(&mut through_server, "more").await;
    hears(&mut through, "more").await;
    assert!(bench.events("denied").await.is_empty());

    pass(tee::SILENCE + s(60)).await;
    for stream in [&mut silent, &mut upload] {
        let answer = head(stream).await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("x-bb-deny: limit_idle"), "{answer}");
    }
    assert!(closed(&mut stream).await.len() < 100 - "begunmore".len(), "it breaks off");
    closed(&mut socket).await;
    closed(&mut through).await;
    assert_eq!(bench.denied(5).await, ["limit_idle"; 5]);
}

#[tokio::test]
async fn a_handshake_of_a_websocket_is_answered_in_time_or_refused() {
    let (upstream, mut taken) = handed().await;
    let bench = bench_to(upstream, None).await;
    let mut routes = bench.routes.clone();
    routes[1].websocket = true;
    bench.handle.set_routes(&Rules { routes, ..Rules::default() }).unwrap();
    let mut slow = websocket::begun(&bench, PLAIN, "/open/slow").await;
    let mut slow_server = taken.recv().await.unwrap();
    let mut silent = websocket::begun(&bench, PLAIN, "/open/silent").await;
    let _silent_server = taken.recv().await.unwrap();
    pass(crate::egress::websocket::ANSWER - s(10)).await;
    says(&mut slow_server, "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
    assert!(head(&mut slow).await.starts_with("HTTP/1.1 401"), "the server's own");
    assert!(bench.events("denied").await.is_empty());
    pass(s(20)).await;
    let answer = head(&mut silent).await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("x-bb-deny: limit_idle"), "{answer}");
    assert_eq!(bench.denied(1).await, ["limit_idle"]);
}

#[tokio::test]
async fn a_request_waits_so_long_for_tokens_that_others_hold() {
    let (feeds, bodies): (Vec<_>, Vec<_>) = [fed(), fed()].into_iter().unzip();
    let bodies = Mutex::new(bodies);
    let bench = Arc::new(bench(Some(300), Arc::new(move |_| sse(bodies.lock().unwrap().remove(0)))).await);
    let ask = || {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move {
            let mut client = bench.client(MODEL, false).await;
            client.send(bench.request(MODEL, "POST", "/v1/messages", prompt(1000), false)).await.unwrap()
        })
    };
    let _first = ask().await.unwrap();
    let waits = ask();
    pass(hold::PATIENCE - s(20)).await;
    assert!(!waits.is_finished() && bench.seen().len() == 1);
    for piece in [begin(7)].into_iter().chain(done(5)) {
        feeds[0].send(Ok(piece)).unwrap();
    }
    let second = waits.await.unwrap();
    assert_eq!(second.status(), 200, "there are some again");
    let late = ask();
    pass(hold::PATIENCE + s(20)).await;
    let late = late.await.unwrap();
    assert_eq!((late.status().as_u16(), late.headers()[deny::HEADER].to_str().unwrap()), (429, "budget_exhausted"));
    assert_eq!(bench.denied(1).await, ["budget_exhausted"]);
    assert_eq!(bench.seen().len(), 2);
}

/// A query for an address, as it goes over TCP.
fn query(name: &str) -> Vec<u8> {
    let mut query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend(b"\0\0\x01\0\x01");
    query
}

/// Asks over TCP. `false`: the connection is closed.
async fn asks(stream: &mut TcpStream, query: &[u8]) -> bool {
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    if stream.write_all(&[&length[..], query].concat()).await.is_err() {
        return false;
    }
    let answered = async {
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match tokio::time::timeout(s(60), answered).await.expect("an answer or an end") {
        Ok(answer) => answer.starts_with(b"\x12\x34"),
        Err(_) => false,
    }
}

#[tokio::test]
async fn dns_connections_are_so_many_for_so_long_with_queries_of_such_a_size() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (recorder, _events) = record::tests::recorder();
    tokio::spawn(dns::serve_tcp(listener, Arc::new(address::NameBook::new()), Arc::new(recorder)));
    let connect = async || TcpStream::connect(address).await.unwrap();
    let query = query("a.example");
    let mut open = Vec::new();
    for _ in 0..dns::TCP_AT_ONCE {
        let mut stream = connect().await;
        assert!(asks(&mut stream, &query).await);
        open.push(stream);
    }
    assert!(!asks(&mut connect().await, &query).await, "one too many");
    drop(open.pop());
    let mut again = connect().await;
    while !asks(&mut again, &query).await {
        again = connect().await;
    }

    pass(s(5)).await;
    assert!(asks(&mut again, &query).await && asks(&mut open[0], &query).await);
    pass(s(6)).await;
    assert!(!asks(&mut open[1], &query).await, "it has asked nothing for too long");
    assert!(asks(&mut open[0], &query).await, "and this one has");
    let padded = |size: usize| [&query[..], &vec![0; size - query.len()]].concat();
    assert!(asks(&mut open[0], &padded(dns::MAX_QUERY)).await);
    assert!(!asks(&mut open[0], &padded(dns::MAX_QUERY + 1)).await);
    pass(dns::TCP_IDLE + s(5)).await;
    assert!(!asks(&mut again, &query).await);
}

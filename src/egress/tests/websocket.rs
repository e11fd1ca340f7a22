//! WebSockets: whole handshakes only, 101 only after the server's, bytes untouched, and an end with the cut.

use super::*;

/// Sends back what comes, as a server's WebSocket would its frames.
pub(super) async fn echo(upgrade: hyper::upgrade::OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

fn accepts(extension: Option<&'static str>) -> Script {
    Arc::new(move |seen: &Seen| {
        if seen.uri.contains("refuse") {
            return Response::builder().status(401).body(full("no")).unwrap();
        }
        let mut answer = Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            .header("set-cookie", "account=1");
        if let Some(extension) = extension {
            answer = answer.header("sec-websocket-extensions", extension);
        }
        answer.body(full("")).unwrap()
    })
}

/// Begins a handshake.
pub(super) async fn begun(bench: &Bench, host: &str, path: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut stream = bench.tls(host, false).await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}:{}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-extensions: permessage-deflate\r\nauthorization: Bearer mine\r\n\r\n",
        bench.address.port()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads a head, and not a byte more.
pub(super) async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(Duration::from_secs(30), stream.read_u8()).await.expect("an answer").unwrap();
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}

/// Begins a handshake and reads the head of its answer.
pub(super) async fn handshake(
    bench: &Bench,
    host: &str,
    path: &str,
) -> (tokio_rustls::client::TlsStream<TcpStream>, String) {
    let mut stream = begun(bench, host, path).await;
    let head = head(&mut stream).await;
    (stream, head)
}

/// Lets the plain host have WebSockets, with and without a credential.
pub(super) async fn open(extension: Option<&'static str>) -> Bench {
    let bench = bench(None, accepts(extension)).await;
    let mut routes = bench.routes.clone();
    routes[1].matches.clear();
    bench.handle.set_routes(&Rules { routes, ..Rules::default() }).unwrap();
    bench
}

#[tokio::test]
async fn bytes_pass_both_ways_untouched_after_the_servers_own_101() {
    let bench = open(None).await;
    let (mut stream, head) = handshake(&bench, PLAIN, "/ws").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    let seen = bench.seen().remove(0);
    assert!(!seen.headers.contains_key("sec-websocket-extensions") && !seen.headers.contains_key("authorization"));
    assert_eq!(seen.headers["sec-websocket-key"], "dGhlIHNhbXBsZSBub25jZQ==");
    let frames: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let (mut from, mut to) = tokio::io::split(stream);
    let sent = frames.clone();
    let sending = tokio::spawn(async move {
        to.write_all(&sent).await.unwrap();
        to
    });
    let mut back = vec![0; frames.len()];
    tokio::time::timeout(Duration::from_secs(30), from.read_exact(&mut back)).await.expect("all of it").unwrap();
    assert!(back == frames);
    stream = from.unsplit(sending.await.unwrap());

    // A cut closes it; a new one is refused.
    bench.handle.cut(CutScope::All, "test", false);
    let end = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut [0; 16])).await.expect("an end");
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    let (_, head) = handshake(&bench, PLAIN, "/ws").await;
    assert!(head.contains("x-bb-deny: cut"), "{head}");
}

#[tokio::test]
async fn what_the_server_refuses_is_heard_as_it_is() {
    let bench = open(None).await;
    let (_, head) = handshake(&bench, PLAIN, "/refuse").await;
    assert!(head.starts_with("HTTP/1.1 401"), "{head}");
}

#[tokio::test]
async fn an_extension_that_was_not_offered_ends_it() {
    let bench = open(Some("permessage-deflate")).await;
    let (_, head) = handshake(&bench, PLAIN, "/ws").await;
    assert!(head.contains("x-bb-deny: protocol_unknown"), "{head}");
}

#[tokio::test]
async fn neither_a_route_that_names_methods_nor_a_model_api_has_one() {
    let bench = bench(None, accepts(None)).await;
    let (_, head) = handshake(&bench, PLAIN, "/open/ws").await;
    assert!(head.contains("426") && head.contains("x-bb-deny: upgrade"), "{head}");
    let (_, head) = handshake(&bench, MODEL, "/v1/messages").await;
    assert!(head.contains("426") && head.contains("x-bb-deny: upgrade"), "{head}");
    assert!(bench.seen().is_empty(), "the server heard nothing of it");

    let mut routes = bench.routes.clone();
    routes[1].websocket = true;
    bench.handle.set_routes(&Rules { routes, ..Rules::default() }).unwrap();
    let (_, head) = handshake(&bench, PLAIN, "/open/ws").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
}

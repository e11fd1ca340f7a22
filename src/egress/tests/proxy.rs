//! The explicit proxy: what goes through it is judged like what comes directly, and the verdict can be read.

use super::*;

impl Bench {
    /// Asks the proxy for `target`; gets the status of its answer, and the connection.
    pub(super) async fn connect(&self, target: &str, more: &[u8]) -> (String, TcpStream) {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await.unwrap();
        stream.write_all(more).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { break };
            head.push(byte);
        }
        let head = String::from_utf8(head).unwrap();
        (head.split(' ').nth(1).unwrap_or_default().to_owned(), stream)
    }

    pub(super) async fn tunnel(&self, host: &str, sni: &str, h2: bool) -> Client {
        let (status, stream) = self.connect(&format!("{host}:{}", self.address.port()), b"").await;
        assert_eq!(status, "200");
        Self::speak(self.tls_over(stream, sni, h2).await.unwrap(), h2).await
    }

    /// Sends bytes to the proxy and gets all that it answers.
    async fn raw(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(self.proxy).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // What is refused may be reset.
        let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.expect("closed");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn denied_kinds(&self, wanted: usize) -> Vec<String> {
        for _ in 0..500 {
            if self.events("denied").await.len() >= wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let denied = self.events("denied").await;
        denied.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
    }
}

fn kind(answer: &Response<Incoming>) -> (u16, &str) {
    (answer.status().as_u16(), answer.headers().get(deny::HEADER).map_or("", |kind| kind.to_str().unwrap()))
}

#[tokio::test]
async fn a_tunnel_leads_where_a_direct_connection_leads() {
    let bench = bench(None, answers(message_json(7, 5))).await;
    for h2 in [false, true] {
        let mut client = bench.tunnel(MODEL, MODEL, h2).await;
        for _ in 0..2 {
            let request = bench.request(MODEL, "POST", "/v1/messages", prompt(100), h2);
            let answer = client.send(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), message_json(7, 5));
        }
        let mut client = bench.tunnel(PLAIN, PLAIN, h2).await;
        assert_eq!(client.send(bench.request(PLAIN, "GET", "/open/x", "", h2)).await.unwrap().status(), 200);
    }
    bench.settled().await;
    assert_eq!(bench.counted().await, 48, "metered as ever");
    assert_eq!(bench.seen()[0].headers["x-api-key"], SECRET);
    assert!(bench.seen().iter().all(|seen| !seen.headers.keys().any(|name| name.as_str().starts_with("proxy"))));
}

#[tokio::test]
async fn a_refusal_is_told_inside_tls() {
    let bench = bench(None, answers("{}".into())).await;
    for h2 in [false, true] {
        let mut client = bench.tunnel("off.example", "off.example", h2).await;
        let answer = client.send(bench.request("off.example", "GET", "/", "", h2)).await.unwrap();
        assert_eq!(kind(&answer), (403, "route_missing"));
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("off.example"));
    }
    // A port that is not the route's.
    let (status, stream) = bench.connect(&format!("{PLAIN}:9"), b"").await;
    let mut client = Bench::speak(bench.tls_over(stream, PLAIN, false).await.unwrap(), false).await;
    let mut request = bench.request(PLAIN, "GET", "/open/x", "", false);
    request.headers_mut().insert("host", format!("{PLAIN}:9").parse().unwrap());
    assert_eq!((status.as_str(), kind(&client.send(request).await.unwrap())), ("200", (403, "port")));
    assert!(bench.seen().is_empty());
}

#[tokio::test]
async fn target_server_name_and_host_are_one_name() {
    let bench = bench(None, answers("{}".into())).await;
    for (target, sni, host) in
        [(PLAIN, MODEL, MODEL), (PLAIN, PLAIN, MODEL), (PLAIN, MODEL, PLAIN), ("off.example", PLAIN, PLAIN)]
    {
        let mut client = bench.tunnel(target, sni, false).await;
        let answer = client.send(bench.request(host, "GET", "/open/x", "", false)).await.unwrap();
        assert_eq!(kind(&answer), (421, "name_mismatch"), "{target} {sni} {host}");
    }
    let mut client = bench.tunnel("127.0.0.1", PLAIN, false).await;
    let answer = client.send(bench.request(PLAIN, "GET", "/open/x", "", false)).await.unwrap();
    assert_eq!(kind(&answer), (403, "ip_literal"), "an address is asked for");
    let mut client = bench.tunnel("127.0.0.1", "127.0.0.1", false).await;
    let answer = client.send(bench.request("127.0.0.1", "GET", "/", "", false)).await.unwrap();
    assert_eq!(kind(&answer), (403, "ip_literal"), "and named");
    let port = bench.address.port();
    let answer =
        bench.raw(&format!("GET http://{PLAIN}:{port}/ HTTP/1.1\r\nHost: {MODEL}\r\nConnection: close\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    let answer = bench.raw(&format!("CONNECT {PLAIN}:{port} HTTP/1.1\r\nHost: {MODEL}:{port}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    assert!(bench.seen().is_empty());
}

#[tokio::test]
async fn what_is_in_a_tunnel_is_tls_or_http_and_no_second_tunnel() {
    let bench = bench(None, answers("{}".into())).await;
    let target = format!("{PLAIN}:{}", bench.address.port());
    // What comes together with the CONNECT belongs to what follows it.
    for bytes in [&b"\x00\x01binary"[..], b"SSH-2.0-x\r\n\r\n"] {
        let (status, mut stream) = bench.connect(&target, bytes).await;
        assert_eq!(status, "200");
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await.expect("closed");
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(bench.denied_kinds(2).await, ["protocol_unknown"; 2]);
    let nested = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    let (_, mut stream) = bench.connect(&target, nested.as_bytes()).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("x-bb-deny: method"), "{answer}");
    let (_, stream) = bench.connect(&target, b"").await;
    let mut tls = bench.tls_over(stream, PLAIN, false).await.unwrap();
    tls.write_all(nested.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tls.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 403"), "{:?}", String::from_utf8_lossy(&answer));
    assert!(bench.seen().is_empty());
    // The allowed twin.
    let mut client = bench.tunnel(PLAIN, PLAIN, false).await;
    assert_eq!(client.send(bench.request(PLAIN, "GET", "/open/x", "", false)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_tunnel_that_nothing_came_through_is_told_where_it_could_not_have_led_anywhere() {
    let bench = bench(None, answers("{}".into())).await;
    // The proxy itself, by its address in the gate; an address behind it; a name and a port of no route.
    for (target, kind) in [
        (bench.proxy.to_string(), "ip_literal"),
        ("198.18.0.3:3128".to_owned(), "ip_literal"),
        ("[fd00::1]:443".to_owned(), "ip_literal"),
        ("off.example:443".to_owned(), "route_missing"),
        (format!("{PLAIN}:9"), "port"),
    ] {
        let before = bench.events("denied").await.len();
        // What is allowed is no refusal: clients open connections ahead.
        let (status, stream) = bench.connect(&format!("{PLAIN}:{}", bench.address.port()), b"").await;
        assert_eq!(status, "200");
        drop(stream);
        let (status, stream) = bench.connect(&target, b"").await;
        assert_eq!(status, "200", "{target}");
        drop(stream);
        let kinds = bench.denied_kinds(before + 1).await;
        assert_eq!(kinds[before..], [kind], "{target}");
        let event = bench.events("denied").await.pop().unwrap();
        assert_eq!((&event["proto"], event["method"].is_null()), (&"tcp".into(), true), "{event}");
    }
    assert!(bench.seen().is_empty());
}

#[tokio::test]
async fn the_proxy_is_no_server_and_speaks_no_tls() {
    let bench = bench(None, answers("{}".into())).await;
    let port = bench.address.port();
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nHost: {PLAIN}\r\n\r\n"), "400"),
        (format!("CONNECT {PLAIN} HTTP/1.1\r\n\r\n"), "4"),
        (format!("CONNECT {PLAIN}:{port} HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"), "400"),
        (format!("GET https://{PLAIN}/ HTTP/1.1\r\nHost: {PLAIN}\r\nConnection: close\r\n\r\n"), "421"),
        ("GET http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.1\r\nConnection: close\r\n\r\n".to_owned(), "403"),
        ("GET http://off.example/ HTTP/1.1\r\nHost: off.example\r\nConnection: close\r\n\r\n".to_owned(), "403"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = bench.raw(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
    }
    let stream = TcpStream::connect(bench.proxy).await.unwrap();
    assert!(bench.tls_over(stream, PLAIN, false).await.is_err());
    assert!(bench.seen().is_empty());
}

#[tokio::test]
async fn a_cut_closes_a_plain_answer_that_its_client_does_not_read() {
    let script: Script = Arc::new(move |_| Response::new(full(vec![b'x'; 64 << 20])));
    let bench = bench(None, script).await;
    let url = format!("http://{PLAIN}:{}/open", bench.address.port());
    let mut stream = TcpStream::connect(bench.proxy).await.unwrap();
    stream
        .write_all(format!("GET {url} HTTP/1.1\r\nHost: {PLAIN}:{}\r\n\r\n", bench.address.port()).as_bytes())
        .await
        .unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!((&first, bench.handle.connections()), (b"HTTP/1.1 200", 1));
    bench.handle.cut(CutScope::All, "operator said stop", false);
    let mut left = 0;
    while bench.events("request.ended").await.is_empty() || bench.handle.connections() > 0 {
        left += 1;
        assert!(left < 1000, "its request stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bench.events("request.ended").await[0]["end"], "cut");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < 64 << 20, "it was not read to its end");
}

#[tokio::test]
async fn who_sends_a_body_with_what_the_proxy_refuses_reads_why() {
    let bench = bench(None, answers("{}".into())).await;
    // Of the plane's own refusals, and of the proxy's.
    for (target, host, kind) in [
        ("http://off.example/".to_owned(), "off.example", "route_missing"),
        ("http://off..example/".to_owned(), "off..example", "name_mismatch"),
        ("/".to_owned(), PLAIN, "protocol_unknown"),
    ] {
        let body = vec![b'x'; 900 << 10];
        let mut stream = TcpStream::connect(bench.proxy).await.unwrap();
        let head = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        // It is sent to its end before anything is read.
        stream.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while !String::from_utf8_lossy(&answer).contains("\r\n\r\n") {
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "{target}: {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..read]);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains(&format!("x-bb-deny: {kind}\r\n")), "{target}: {answer}");
    }
    assert!(bench.seen().is_empty());
}

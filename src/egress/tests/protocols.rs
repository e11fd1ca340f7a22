//! The forms of HTTP that must pass, each as it came, and those that must not, each with nothing sent upstream.

use super::*;

/// A server that answers every request head with these bytes.
async fn raw_upstream(answer: &'static [u8]) -> Upstreamed {
    let ca = Ca::generate("upstream").unwrap();
    let mut config = rustls::ServerConfig::clone(&ca.acceptor().unwrap().named());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = tls.accept(stream).await else { return };
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let _ = stream.write_all(answer).await;
                    }
                }
            });
        }
    });
    Upstreamed { address, ca, seen: Arc::default() }
}

impl Bench {
    /// Sends bytes on a TLS connection of HTTP/1.1 and gets all that is answered.
    async fn say(&self, text: &str) -> String {
        let mut stream = self.tls(PLAIN, false).await;
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.expect("closed");
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn head(&self, line: &str, headers: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: {PLAIN}:{}\r\nConnection: close\r\n{headers}\r\n", self.address.port())
    }
}

#[tokio::test]
async fn interim_answers_are_dropped_and_the_final_one_passes_whole() {
    let answer = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nSet-Cookie: a=1\r\n\r\n\
        HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Final: yes\r\n\r\nfinal";
    let bench = bench_to(raw_upstream(answer).await, None).await;
    let text = bench.say(&bench.head("GET /open/x", "")).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\nfinal"), "{text}");
    assert!(text.contains("x-final: yes") && !text.to_lowercase().contains("preload"), "{text}");
    let mut client = bench.client(PLAIN, true).await;
    let answer = client.send(bench.request(PLAIN, "GET", "/open/x", "", true)).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-final"]), (200, &"yes".parse().unwrap()));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "final");
}

#[tokio::test]
async fn whoever_waits_to_be_told_to_go_on_is_told_if_and_only_if_the_request_may() {
    let bench = bench(None, Arc::new(|seen: &Seen| Response::new(full(seen.body.clone())))).await;
    let mut stream = bench.tls(PLAIN, false).await;
    let head = bench.head("PUT /open/up", "Content-Length: 4\r\nExpect: 100-continue\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut told = [0; 25];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("body"), "{answer}");
    assert!(!bench.seen()[0].headers.contains_key("expect"), "it was for the plane");

    let head = bench.head("PUT /closed", "Content-Length: 4\r\nExpect: 100-continue\r\n");
    let answer = bench.say(&head).await;
    assert!(answer.starts_with("HTTP/1.1 403") && !answer.contains("100 Continue"), "{answer}");
    assert_eq!(bench.seen().len(), 1);
}

#[tokio::test]
async fn heads_ranges_and_answers_without_a_body_keep_their_form() {
    let script: Script = Arc::new(|seen| {
        let answer = Response::builder();
        // The server of HTTP/2 does not leave the body of an answer to HEAD away by itself.
        let whole = if seen.method == Method::HEAD { "" } else { "0123456789" };
        match (seen.uri.rsplit('/').next(), seen.headers.get("range")) {
            (Some("none"), _) => answer.status(204).body(full("")).unwrap(),
            (Some("same"), _) => answer.status(304).header("etag", "\"a\"").body(full("")).unwrap(),
            (_, Some(range)) => {
                assert_eq!(range, "bytes=2-4");
                answer.status(206).header("content-range", "bytes 2-4/10").body(full("234")).unwrap()
            }
            _ => answer.header("content-length", "10").header("accept-ranges", "bytes").body(full(whole)).unwrap(),
        }
    });
    for upstream_h2 in [false, true] {
        let bench = bench_over(upstream_h2, None, Arc::clone(&script)).await;
        let mut routes = bench.routes.clone();
        routes[1].matches.clear();
        let credentials = [("claude".to_owned(), SecretString::from(SECRET))].into();
        bench.handle.set_routes(&Rules { routes, credentials, ..Rules::default() }).unwrap();
        for h2 in [false, true] {
            let mut client = bench.client(PLAIN, h2).await;
            let mut ranged = bench.request(PLAIN, "GET", "/open/x", "", h2);
            ranged.headers_mut().insert("range", "bytes=2-4".parse().unwrap());
            for (request, status, header, body) in [
                (bench.request(PLAIN, "HEAD", "/open/x", "", h2), 200, ("content-length", "10"), ""),
                (ranged, 206, ("content-range", "bytes 2-4/10"), "234"),
                (bench.request(PLAIN, "GET", "/open/same", "", h2), 304, ("etag", "\"a\""), ""),
                (bench.request(PLAIN, "GET", "/open/none", "", h2), 204, ("date", ""), ""),
                (bench.request(PLAIN, "GET", "/open/x", "", h2), 200, ("accept-ranges", "bytes"), "0123456789"),
            ] {
                let what = format!("{} {} {h2} {upstream_h2}", request.method(), request.uri());
                let answer = client.send(request).await.unwrap();
                let value = answer.headers().get(header.0).map_or("", |value| value.to_str().unwrap()).to_owned();
                assert_eq!(answer.status(), status, "{what}");
                assert!(header.1.is_empty() || value == header.1, "{what}: {:?}", answer.headers());
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), body, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn an_upload_in_chunks_passes_and_an_answer_may_be_long_in_coming() {
    let (feed, body) = fed();
    let body = Mutex::new(Some(body));
    let script: Script = Arc::new(move |seen| match seen.method {
        Method::PUT => Response::new(full(seen.body.clone())),
        _ => Response::new(body.lock().unwrap().take().unwrap()),
    });
    let bench = bench(None, script).await;
    let mut text = bench.head("PUT /open/up", "Transfer-Encoding: chunked\r\n");
    text.push_str("3\r\nabc\r\n00004\r\ndefg\r\n0\r\n\r\n");
    let answer = bench.say(&text).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("abcdefg"), "{answer}");
    // A long poll: its head is there, and each piece when it comes.
    let mut client = bench.client(PLAIN, true).await;
    let answer = client.send(bench.request(PLAIN, "GET", "/open/poll", "", true)).await.unwrap();
    let mut body = answer.into_body();
    for word in ["one", "two"] {
        feed.send(Ok(word.into())).unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), word);
    }
    drop(feed);
    assert!(body.collect().await.unwrap().to_bytes().is_empty(), "and then its end");
}

#[tokio::test]
async fn grpc_passes_with_its_trailers_whatever_speaks_on_either_side() {
    let script: Script = Arc::new(|seen| {
        assert_eq!(seen.headers["te"], "trailers");
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "7".parse().unwrap());
        trailers.insert("grpc-message", "no".parse().unwrap());
        let frames = [Ok::<_, std::io::Error>(Frame::data(seen.body.clone())), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let answer = Response::builder().header("content-type", "application/grpc").header("trailer", "grpc-status");
        answer.body(BodyExt::boxed(body)).unwrap()
    });
    for upstream_h2 in [true, false] {
        let bench = bench_over(upstream_h2, None, Arc::clone(&script)).await;
        for h2 in [true, false] {
            let mut client = bench.client(PLAIN, h2).await;
            let message = Bytes::from_static(b"\0\0\0\0\x02hi");
            let mut request = bench.request(PLAIN, "PUT", "/open/svc/Method", message.clone(), h2);
            request.headers_mut().insert("te", "trailers".parse().unwrap());
            request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
            let answer = client.send(request).await.unwrap();
            assert_eq!(answer.headers()["content-type"], "application/grpc");
            let body = answer.into_body().collect().await.unwrap();
            let status = body.trailers().map(|trailers| trailers["grpc-status"].clone());
            assert_eq!(status, Some("7".parse().unwrap()), "{h2} {upstream_h2}");
            assert_eq!(body.to_bytes(), message);
        }
        assert_eq!(bench.seen()[0].headers["content-type"], "application/grpc+proto");
    }
}

#[tokio::test]
async fn http2_without_alpn_is_refused_and_an_offer_of_it_is_not_taken() {
    let bench = bench(None, answers("{}".into())).await;
    // Prior knowledge, in the clear and inside TLS that agreed on HTTP/1.1.
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut plain = TcpStream::connect(bench.address).await.unwrap();
    plain.write_all(preface.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(60), plain.read_to_end(&mut answer)).await.expect("closed");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&answer));
    let answer = bench.say(preface).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(bench.seen().is_empty());
    let offer = "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    let head = bench.head("GET /open/x", offer).replace("Connection: close", "Connection: Upgrade, HTTP2-Settings");
    let answer = bench.say(&head).await;
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("101"), "{answer}");
    let seen = bench.seen().remove(0);
    assert!(!seen.headers.contains_key("upgrade") && !seen.headers.contains_key("http2-settings"), "{seen:?}");
}

#[tokio::test]
async fn methods_and_upgrades_that_are_about_the_way_itself_are_refused() {
    let bench = bench(None, answers("{}".into())).await;
    for (line, headers, status, kind) in [
        ("TRACE /open/x", "", "403", "method"),
        ("CONNECT files.example.com:443", "", "403", "method"),
        ("GET /open/x", "Upgrade: tls/1.0\r\n", "426", "upgrade"),
        ("GET /open/x", "Upgrade: connect-udp\r\n", "426", "upgrade"),
    ] {
        let head = bench.head(line, headers).replace("Connection: close", "Connection: close, Upgrade");
        let answer = bench.say(&head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line}: {answer}");
        assert!(answer.contains(&format!("x-bb-deny: {kind}")), "{line}: {answer}");
    }
    let mut client = bench.client(PLAIN, true).await;
    for (method, uri) in
        [("TRACE", format!("https://{PLAIN}:{}/open/x", bench.address.port())), ("CONNECT", format!("{PLAIN}:443"))]
    {
        let request = Request::builder().method(method).uri(uri).body(Full::default()).unwrap();
        let answer = client.send(request).await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()[deny::HEADER]), (403, &"method".parse().unwrap()));
    }
    assert!(bench.seen().is_empty());
}

/// One frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn an_extended_connect_is_neither_offered_nor_taken() {
    let bench = bench(None, answers("{}".into())).await;
    let mut stream = bench.tls(PLAIN, true).await;
    let authority = format!("{PLAIN}:{}", bench.address.port());
    // Literals without indexing (RFC 7541, 6.2.2).
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/open/ws"),
        (":authority", &authority),
        ("sec-websocket-version", "13"),
    ] {
        let length = |text: &str| u8::try_from(text.len()).unwrap();
        block.extend([&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat());
    }
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    stream.write_all(&frame(1, 4, 1, &block)).await.unwrap();
    stream.flush().await.unwrap();
    let ended = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return None;
            }
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            match head[3] {
                // SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441, 3).
                4 => assert!(payload.chunks(6).all(|one| one[..2] != [0, 8]), "it is not offered"),
                // An answer, or the stream's or the connection's end.
                1 => return Some(payload),
                3 | 7 => return None,
                _ => {}
            }
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("answered");
    // `:status: 200` is one indexed byte (RFC 7541, appendix A: 8).
    assert!(answer.is_none_or(|block| !block.contains(&0x88)));
    assert!(bench.seen().is_empty());
}

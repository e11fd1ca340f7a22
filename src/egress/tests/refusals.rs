//! What the plane refuses: kind, status, event, and that nobody outside saw a byte.

use super::*;

#[tokio::test]
async fn each_refusal_has_its_kind_is_written_and_reaches_nobody() {
    let bench = bench(None, answers("{}".into())).await;
    let cases: [(&str, &str, &str, &str, u16, &str); 9] = [
        ("evil.example.com", "GET", "/", "", 403, "route_missing"),
        (PLAIN, "GET", "/closed", "", 403, "path"),
        (PLAIN, "GET", "/open/../closed", "", 403, "path"),
        (PLAIN, "DELETE", "/open/x", "", 403, "method"),
        (MODEL, "POST", "/v1/messages/batches", "{}", 404, "metered_path_unknown"),
        (MODEL, "POST", "/v1/messages", "not json", 400, "protocol_unknown"),
        ("nokey.example.com", "GET", "/", "", 502, "credential_missing"),
        ("nowhere.example.com", "GET", "/", "", 502, "upstream_unreachable"),
        (MODEL, "POST", "/api/event_logging/v2/batch", "{}", 404, "path"),
    ];
    for (host, method, path, body, status, kind) in cases {
        let (got, headers, text) = bench.ask(host, method, path, body).await;
        assert_eq!((got.as_u16(), headers[deny::HEADER].to_str().unwrap()), (status, kind), "{host}{path}");
        let json: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["error"]["kind"], kind);
        let denied = bench.events("denied").await;
        let last = denied.last().unwrap();
        assert_eq!((last["kind"].as_str(), last["host"].as_str()), (Some(kind), Some(host)));
        assert_eq!(last["quiet"], path.starts_with("/api/event_logging"));
    }
    assert!(bench.seen().is_empty(), "{:?}", bench.seen());
    // The allowed twins.
    assert_eq!(bench.ask(PLAIN, "GET", "/open/x", "").await.0, 200);
    assert_eq!(bench.seen().len(), 1);
    assert_eq!(bench.ledger.open_holds(None).await.unwrap(), 0);
}

#[tokio::test]
async fn host_and_server_name_must_agree_on_every_request_of_a_connection() {
    let bench = bench(None, answers("{}".into())).await;
    for h2 in [false, true] {
        let mut client = bench.client(PLAIN, h2).await;
        let good = client.send(bench.request(PLAIN, "GET", "/open", "", h2)).await.unwrap();
        assert_eq!(good.status(), 200);
        good.into_body().collect().await.unwrap();
        let bad = client.send(bench.request(MODEL, "POST", "/v1/messages", prompt(9), h2)).await.unwrap();
        assert_eq!(bad.status(), 421);
        assert_eq!(bad.headers()[deny::HEADER], "name_mismatch");
    }
    assert!(bench.seen().iter().all(|s| s.method == Method::GET));
}

#[tokio::test]
async fn an_address_without_a_name_is_refused_over_tls_that_can_be_read() {
    let bench = bench(None, answers("{}".into())).await;
    let mut client = bench.client("127.0.0.1", false).await;
    let answer = client.send(bench.request(PLAIN, "GET", "/open", "", false)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()[deny::HEADER].to_str().unwrap()), (403, "ip_literal"));
    assert!(bench.seen().is_empty());
}

#[tokio::test]
async fn plain_http_reaches_open_routes_and_never_carries_a_credential() {
    let bench = bench(None, answers("{}".into())).await;
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let port = bench.address.port();
    let text =
        format!("POST /v1/messages HTTP/1.1\r\nHost: {MODEL}:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("403") && answer.contains("x-bb-deny: port"), "{answer}");
    assert!(bench.seen().is_empty());
}

#[tokio::test]
async fn what_is_neither_tls_nor_http_is_closed_and_told() {
    let bench = bench(None, answers("{}".into())).await;
    for bytes in [&b"\x00\x01binary"[..], b"SSH-2.0-x\r\n\r\n", b"\x16\x03\x01\x00\x05hello"] {
        let mut stream = TcpStream::connect(bench.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        // Closed or reset, but soon, and nothing but a TLS alert or an HTTP error before.
        let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await.expect("closed");
    }
    for _ in 0..500 {
        if bench.events("denied").await.len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let denied = bench.events("denied").await;
    assert_eq!(denied.len(), 3, "{denied:?}");
    assert!(denied.iter().all(|d| d["kind"] == "protocol_unknown"), "{denied:?}");
    assert!(bench.seen().is_empty());
}

#[tokio::test]
async fn an_upgrade_on_a_model_route_is_answered_426_at_once() {
    let bench = bench(None, answers("{}".into())).await;
    let mut client = bench.client(MODEL, false).await;
    let mut request = bench.request(MODEL, "GET", "/v1/responses", "", false);
    request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
    request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    let answer = client.send(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()[deny::HEADER].to_str().unwrap()), (426, "upgrade"));
}

#[tokio::test]
async fn features_by_which_the_provider_reaches_out_are_refused_before_anything_leaves() {
    let bench = bench(None, answers(message_json(1, 1))).await;
    let image = json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "url", "url": "https://canary.example/x"}},
    ]}]});
    let (status, headers, _) = bench.ask(MODEL, "POST", "/v1/messages", image.to_string()).await;
    assert_eq!((status.as_u16(), headers[deny::HEADER].to_str().unwrap()), (403, "server_tool"));
    let (status, _, _) = bench.ask(MODEL, "POST", "/v1/messages/count_tokens", image.to_string()).await;
    assert_eq!(status, 403, "free paths, too");
    assert!(bench.seen().is_empty());
    assert_eq!(bench.ask(MODEL, "POST", "/v1/messages/count_tokens", prompt(5)).await.0, 200);
    assert_eq!(bench.counted().await, 0);
}

#[tokio::test]
async fn a_body_beyond_what_is_held_is_refused_and_headers_beyond_the_limit_are_told() {
    let bench = bench(None, answers("{}".into())).await;
    let mut client = bench.client(MODEL, true).await;
    let request = bench.request(MODEL, "POST", "/v1/messages", vec![b' '; (32 << 20) + 1], true);
    let answer = client.send(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()[deny::HEADER].to_str().unwrap()), (413, "body_too_large"));

    for size in [70_000, 1_000_000] {
        let mut stream = bench.tls(PLAIN, false).await;
        let port = bench.address.port();
        let head = format!(
            "GET /open HTTP/1.1\r\nHost: {PLAIN}:{port}\r\nConnection: close\r\nX: {}\r\n\r\n",
            "x".repeat(size)
        );
        let _ = stream.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        // Beyond what hyper reads, it may close before the answer could be read; the event is there in any case.
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{:?}", String::from_utf8_lossy(&answer));
    }
    for _ in 0..500 {
        if bench.events("denied").await.iter().filter(|d| d["kind"] == "limit_headers").count() == 2 {
            assert!(bench.seen().is_empty());
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not told");
}

#[tokio::test]
async fn names_off_the_list_are_told_why_until_there_are_too_many_of_them() {
    let bench = bench(None, answers(message_json(1, 1))).await;
    let mut told = 0;
    while told < 2000 && bench.try_tls(&format!("n{told}.evil.example"), false).await.is_ok() {
        told += 1;
    }
    assert!((500..2000).contains(&told), "{told}");
    // Whoever is on the list is none of them.
    assert_eq!(bench.message().await.0, 200);
    bench.handle.close();
    bench.handle.drained().await;
    assert!(bench.events("denied").await.iter().any(|d| d["kind"] == "limit_handshakes"));
}

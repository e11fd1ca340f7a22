//! One name a request: server name, `Host`, `:authority` and an absolute address agree on every request of a connection, or it is
//! 421, and nobody outside hears of it.

use super::*;

/// Sends a head over TLS as it stands; gets status and kind of the refusal.
async fn sent(bench: &Bench, sni: &str, head: &str) -> (u16, String) {
    let mut stream = bench.tls(sni, false).await;
    let head = head.replace("PORT", &bench.address.port().to_string());
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    let kind = answer.lines().find_map(|line| line.strip_prefix("x-bb-deny: ")).unwrap_or_default().to_owned();
    (status, kind)
}

#[tokio::test]
async fn in_http_1_every_place_of_a_name_says_the_same() {
    let bench = bench(None, answers("{}".into())).await;
    let good = [
        "GET /open/1 HTTP/1.1\r\nHost: files.example.com:PORT\r\n",
        "GET /open/2 HTTP/1.1\r\nHost: FILES.Example.COM.:PORT\r\n",
        "GET https://files.example.com:PORT/open/3 HTTP/1.1\r\nHost: files.example.com:PORT\r\n",
        "GET https://Files.example.com.:PORT/open/4 HTTP/1.1\r\nHost: fileS.example.com:PORT\r\n",
        "GET HTTPS://files.example.com:PORT/open/5 HTTP/1.1\r\nhost:files.example.com:PORT  \r\n",
    ];
    for head in good {
        assert_eq!(sent(&bench, PLAIN, head).await, (200, String::new()), "{head}");
    }
    // The server name has spellings as well.
    assert_eq!(sent(&bench, "FILES.example.com", good[0]).await.0, 200);
    let seen = bench.seen();
    assert_eq!(seen.len(), good.len() + 1);
    let host = |seen: &Seen| seen.headers["host"].to_str().unwrap().to_owned();
    assert!(seen.iter().all(|s| host(s) == format!("{PLAIN}:{}", bench.address.port())), "one form: {seen:?}");

    for head in [
        "GET /open HTTP/1.1\r\nHost: api.anthropic.com:PORT\r\n",
        "GET /open HTTP/1.1\r\nHost: evil.example:PORT\r\n",
        "GET /open HTTP/1.1\r\nHost: sub.files.example.com:PORT\r\n",
        "GET /open HTTP/1.1\r\nHost: files.example.com\r\n",
        "GET /open HTTP/1.1\r\nHost: files.example.com:443\r\n",
        "GET /open HTTP/1.1\r\nHost: files.example.com:0PORT\r\n",
        "GET /open HTTP/1.1\r\nHost: files.example.com.:\r\n",
        "GET /open HTTP/1.1\r\nHost: files.example.com..:PORT\r\n",
        "GET /open HTTP/1.1\r\nHost: files%2eexample.com:PORT\r\n",
        "GET /open HTTP/1.1\r\nHost: files.example.com%00:PORT\r\n",
        "GET /open HTTP/1.1\r\nHost: user@files.example.com:PORT\r\n",
        "GET /open HTTP/1.1\r\nHost: files.example.com, evil.example\r\n",
        "GET /open HTTP/1.1\r\nHost: *.example.com:PORT\r\n",
        "GET /open HTTP/1.1\r\nHost: 127.1:PORT\r\n",
        "GET /open HTTP/1.1\r\nHost: [::ffff:127.0.0.1]:PORT\r\n",
        "GET /open HTTP/1.1\r\nHost:\r\n",
        "GET /open HTTP/1.1\r\n",
        "GET /open HTTP/1.1\r\nHost: files.example.com:PORT\r\nHost: files.example.com:PORT\r\n",
        "GET /open HTTP/1.1\r\nHost: files.example.com:PORT\r\nHost: evil.example:PORT\r\n",
        "GET https://evil.example:PORT/open HTTP/1.1\r\nHost: files.example.com:PORT\r\n",
        "GET https://files.example.com:PORT/open HTTP/1.1\r\nHost: evil.example:PORT\r\n",
        "GET https://files.example.com/open HTTP/1.1\r\nHost: files.example.com:PORT\r\n",
        "GET https://user@files.example.com:PORT/open HTTP/1.1\r\nHost: files.example.com:PORT\r\n",
        "GET http://files.example.com:PORT/open HTTP/1.1\r\nHost: files.example.com:PORT\r\n",
        "GET ftp://files.example.com:PORT/open HTTP/1.1\r\nHost: files.example.com:PORT\r\n",
    ] {
        assert_eq!(sent(&bench, PLAIN, head).await, (421, "name_mismatch".to_owned()), "{head}");
    }
    assert_eq!(bench.seen().len(), good.len() + 1);
    assert_eq!(bench.events("denied").await.iter().filter(|d| d["kind"] == "name_mismatch").count(), 25);
}

#[tokio::test]
async fn in_http_2_every_place_of_a_name_says_the_same() {
    let bench = bench(None, answers("{}".into())).await;
    let port = bench.address.port();
    // One connection for all: each request is looked at anew.
    let mut client = bench.client(PLAIN, true).await;
    let ask = |uri: &str, hosts: &[&str]| {
        let mut request = Request::builder().uri(uri.replace("PORT", &port.to_string()));
        for host in hosts {
            request = request.header("host", host.replace("PORT", &port.to_string()));
        }
        request.body(Full::new(Bytes::new())).unwrap()
    };
    let good = [
        ("https://files.example.com:PORT/open/1", &[][..]),
        ("https://FILES.example.com.:PORT/open/2", &[]),
        ("https://files.example.com:PORT/open/3", &["files.example.com:PORT"]),
        ("https://files.example.com:PORT/open/4", &["Files.Example.com.:PORT"]),
    ];
    let bad = [
        ("https://evil.example:PORT/open", &[][..]),
        ("https://api.anthropic.com:PORT/open", &[]),
        ("https://files.example.com/open", &[]),
        ("https://files.example.com..:PORT/open", &[]),
        ("https://127.1:PORT/open", &[]),
        ("https://files.example.com:PORT/open", &["evil.example:PORT"]),
        ("https://evil.example:PORT/open", &["files.example.com:PORT"]),
        ("https://files.example.com:PORT/open", &["files.example.com:PORT", "evil.example:PORT"]),
        ("https://files.example.com:PORT/open", &["files.example.com"]),
        ("http://files.example.com:PORT/open", &[]),
    ];
    for ((uri, hosts), status) in bad.iter().map(|b| (b, 421)).chain(good.iter().map(|g| (g, 200))) {
        let answer = client.send(ask(uri, hosts)).await.unwrap();
        let kind = answer.headers().get(deny::HEADER).map(|kind| kind.to_str().unwrap().to_owned());
        assert_eq!(
            (answer.status().as_u16(), kind.as_deref()),
            (status, (status == 421).then_some("name_mismatch")),
            "{uri} {hosts:?}"
        );
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(bench.seen().len(), good.len());
}

#[tokio::test]
async fn addresses_without_a_name_have_as_many_certificates_as_strangers_have() {
    let bench = bench(None, answers(message_json(1, 1))).await;
    let mut told = 0;
    // Each a handshake without a server name: rustls sends none for an address.
    while told < 2000 && bench.try_tls("127.0.0.1", false).await.is_ok() {
        told += 1;
    }
    assert!((500..2000).contains(&told), "{told}");
    assert_eq!(bench.message().await.0, 200);
}

#[tokio::test]
async fn names_below_a_wildcard_are_new_only_so_often_and_others_are_never_slowed() {
    let bench = bench(None, answers(message_json(1, 1))).await;
    let wide = Route { host: "*.example.com".into(), ports: vec![bench.address.port()], ..Route::default() };
    let routes = [bench.routes.as_slice(), &[wide]].concat();
    let credentials = [("claude".to_owned(), SecretString::from(SECRET))].into();
    bench.handle.set_routes(&Rules { routes, credentials, ..Rules::default() }).unwrap();
    let below = |n: u32| format!("n{n}.example.com");
    for n in 0..accept::BELOW_AT_ONCE {
        assert!(bench.try_tls(&below(n), n % 2 == 0).await.is_ok(), "{n}");
    }
    for n in 0..3 {
        assert!(bench.try_tls(&below(accept::BELOW_AT_ONCE + n), false).await.is_err());
    }
    assert_eq!(bench.denied(3).await, ["limit_handshakes"; 3]);
    let event = bench.events("denied").await.pop().unwrap();
    assert!(event["host"].as_str().unwrap().ends_with(".example.com"), "{event}");
    // Those whose certificate is there, those that routes have by themselves, and strangers with a pace of their own.
    for n in 0..accept::BELOW_AT_ONCE {
        assert!(bench.try_tls(&below(n), false).await.is_ok(), "{n}");
    }
    assert_eq!(bench.message().await.0, 200);
    for host in [PLAIN, "nokey.example.com", "nowhere.example.com", "stranger.example.net"] {
        assert!(bench.try_tls(host, false).await.is_ok(), "{host}");
    }
    assert_eq!(bench.events("denied").await.len(), 3);
}

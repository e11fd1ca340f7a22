//! Holds and settlements: each way an answer can end.

use super::*;

#[tokio::test]
async fn a_model_call_gets_the_credential_and_its_tokens_are_in_the_ledger() {
    let bench = bench(None, answers(message_json(7, 5))).await;
    let mut client = bench.client(MODEL, false).await;
    let mut request = bench.request(MODEL, "POST", "/v1/messages?beta=true&key=mine", prompt(100), false);
    for (name, value) in [
        ("x-api-key", "placeholder"),
        ("authorization", "Bearer mine"),
        ("anthropic-version", "2023-06-01"),
        ("x-odd", "1"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, message_json(7, 5));
    // Settled before the last byte: no wait here.
    assert_eq!(bench.ledger.open_holds(None).await.unwrap(), 0);
    let usage = bench.events("usage").await;
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0]["tokens"]["input"], 7);
    assert_eq!(usage[0]["tokens"]["output"], 5);
    assert_eq!(bench.counted().await, 12);

    let seen = &bench.seen()[0];
    assert_eq!(seen.uri.split('/').next_back(), Some("messages?beta=true"));
    assert_eq!(seen.headers["x-api-key"], SECRET);
    assert_eq!(seen.headers["accept-encoding"], "identity");
    assert_eq!(seen.headers["anthropic-version"], "2023-06-01");
    assert!(!seen.headers.contains_key("authorization") && !seen.headers.contains_key("x-odd"));
    assert_eq!(seen.body, prompt(100));
}

#[tokio::test]
async fn a_stream_passes_as_it_comes_and_its_usage_is_settled_before_the_last_bytes() {
    let (feed, script) = streams();
    let bench = bench(None, script).await;
    let mut client = bench.client(MODEL, false).await;
    let mut body = bench.streamed(&mut client, prompt(100)).await;
    for bytes in [begin(11), delta("a"), delta("b")] {
        feed.send(Ok(bytes.clone())).unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap(), bytes, "each frame as it came, at once");
        assert_eq!(bench.ledger.open_holds(None).await.unwrap(), 1);
    }
    let [last, stop] = done(23);
    feed.send(Ok(last.clone())).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), last);
    feed.send(Ok(stop.clone())).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), stop);
    assert_eq!(bench.ledger.open_holds(None).await.unwrap(), 0, "settled before its release");
    assert_eq!(bench.counted().await, 34);
    drop(feed);
    assert!(next(&mut body).await.is_none());
    assert_eq!(bench.events("usage").await.len(), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_is_charged_what_was_seen() {
    let (feed, script) = streams();
    let bench = bench(None, script).await;
    let mut client = bench.client(MODEL, false).await;
    let mut body = bench.streamed(&mut client, prompt(100)).await;
    feed.send(Ok(begin(500))).unwrap();
    next(&mut body).await.unwrap().unwrap();
    drop((body, client));
    bench.settled().await;
    let usage = bench.events("usage").await;
    assert_eq!(usage[0]["source"], "partial", "{usage:?}");
    assert!(bench.counted().await >= 500);
}

#[tokio::test]
async fn a_stream_that_breaks_upstream_breaks_here_and_is_charged_as_partial() {
    let (feed, script) = streams();
    let bench = bench(None, script).await;
    let mut client = bench.client(MODEL, false).await;
    let mut body = bench.streamed(&mut client, prompt(100)).await;
    feed.send(Ok(begin(500))).unwrap();
    next(&mut body).await.unwrap().unwrap();
    feed.send(Err(std::io::Error::other("broken"))).unwrap();
    assert!(next(&mut body).await.unwrap().is_err(), "never a complete answer");
    bench.settled().await;
    assert_eq!(bench.events("usage").await[0]["source"], "partial");
}

#[tokio::test]
async fn a_success_without_usage_is_charged_at_the_estimate_and_an_error_not_at_all() {
    let bench = bench(None, answers(json!({"type": "message"}).to_string())).await;
    assert_eq!(bench.message().await.0, 200);
    let usage = bench.events("usage").await;
    assert_eq!(usage[0]["source"], "estimated");
    assert!(bench.counted().await > 100, "input estimate and the 100 it allowed itself");

    let failing: Script = Arc::new(|_| {
        let body = json!({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}).to_string();
        Response::builder().status(529).header("content-type", "application/json").body(full(body)).unwrap()
    });
    let bench = self::bench(None, failing).await;
    assert_eq!(bench.message().await.0.as_u16(), 529);
    bench.settled().await;
    assert_eq!(bench.counted().await, 0);
}

#[tokio::test]
async fn a_stream_that_outgrows_its_hold_raises_it_before_the_bytes_go_out() {
    let (feed, script) = streams();
    let bench = bench(None, script).await;
    let mut client = bench.client(MODEL, false).await;
    let mut body = bench.streamed(&mut client, prompt(10)).await;
    let held = || async {
        let accounts = bench.ledger.accounts(Some("bottle:id-1")).await.unwrap();
        accounts.iter().map(|a| a.held).max().unwrap_or(0)
    };
    let before = held().await;
    feed.send(Ok(begin(5))).unwrap();
    next(&mut body).await.unwrap().unwrap();
    feed.send(Ok(delta(&"x".repeat(3000)))).unwrap();
    next(&mut body).await.unwrap().unwrap();
    assert!(held().await >= before + 900, "{} {before}", held().await);
    drop((body, client));
    bench.settled().await;
    assert!(bench.counted().await >= 1000);
}

#[tokio::test]
async fn nothing_written_upstream_costs_nothing() {
    let bench = bench(None, answers("{}".into())).await;
    // The route's upstream refuses TLS: its certificate is not from the authority that the route names.
    let port = bench.address.port();
    let stranger = upstream(false, answers(message_json(1, 1))).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let to = Upstream { address: stranger.address.to_string(), ca_pem: Some(bench.upstream.ca.cert_pem().into()) };
    let spec = Spec {
        slug: "test-2".into(),
        id: "id-2".into(),
        provider: "claude".into(),
        counted_by: Some(Api::Anthropic),
        agent: "tester".into(),
        run: None,
        path: vec!["bottle:id-2".into(), GLOBAL.into()],
        rules: Rules {
            routes: vec![Route {
                host: MODEL.into(),
                ports: vec![address.port()],
                api: Some(ApiFamily::Anthropic),
                ..Route::default()
            }],
            ..Rules::default()
        },
        upstreams: [(format!("{MODEL}:{}", address.port()), to)].into(),
        ca: bench.ca.clone(),
        upstream_proxy: None,
        proxy: None,
        cut: None,
        parks: false,
    };
    let sockets = Sockets { tcp: vec![listener], ..Sockets::default() };
    let roots = Arc::new(RootCertStore::empty());
    let told = Arc::clone(&bench.told) as Arc<dyn Enforcer>;
    let handle = start_with(spec, sockets, bench.ledger.clone(), told, roots, Gate::Any).unwrap();
    let other = Bench { handle, address, ..bench };
    let (status, headers, _) = other.message().await;
    assert_eq!((status.as_u16(), headers[deny::HEADER].to_str().unwrap()), (502, "upstream_tls"));
    other.settled().await;
    assert_eq!(other.counted().await, 0);
    assert!(stranger.seen.lock().unwrap().is_empty());
    assert_ne!(port, other.address.port());
}

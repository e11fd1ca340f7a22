//! Budgets, cuts and the end of a bottle.

use super::*;
use crate::api::Tls;

#[tokio::test]
async fn the_request_that_crosses_finishes_and_the_next_gets_the_answer_its_cli_understands() {
    let bench = bench(Some(1000), answers(message_json(900, 200))).await;
    let (status, _, body) = bench.message().await;
    assert_eq!(status, 200);
    assert_eq!(body, message_json(900, 200));
    let told = bench.told.0.lock().unwrap().clone();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].used, told[0].limit), (1100, 1000));

    let (status, headers, body) = bench.message().await;
    assert_eq!(status, 429);
    assert_eq!(headers["x-should-retry"], "false");
    let json: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(json["error"]["type"], "rate_limit_error");
    assert!(json["error"]["message"].as_str().unwrap().contains("1100 of 1000"));
    assert_eq!(bench.seen().len(), 1, "nothing was sent after the crossing");
    assert_eq!(bench.events("denied").await.last().unwrap()["kind"], "budget_exhausted");
    assert_eq!(bench.told.0.lock().unwrap().len(), 2);
    // Other routes go on until somebody cuts them.
    assert_eq!(bench.ask(PLAIN, "GET", "/open", "").await.0, 200);
}

#[tokio::test]
async fn requests_at_once_keep_the_bound_and_wait_for_each_other() {
    let bench = Arc::new(bench(Some(1000), answers(message_json(90, 100))).await);
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.message().await.0.as_u16() })
        })
        .collect();
    let mut statuses = Vec::new();
    for task in asked {
        statuses.push(task.await.unwrap());
    }
    let passed = statuses.iter().filter(|s| **s == 200).count();
    assert_eq!(passed, bench.seen().len());
    assert_eq!(bench.counted().await, 190 * passed as u64);
    // Each hold is at most some 65 below what it is charged; few can be open at the crossing.
    assert!((5..=9).contains(&passed), "{passed}");
    assert_eq!(bench.ledger.open_holds(None).await.unwrap(), 0);
}

#[tokio::test]
async fn a_cut_by_a_budget_lets_holds_finish_and_closes_the_rest() {
    let (feed, script) = streams();
    let bench = bench(None, script).await;
    let mut client = bench.client(MODEL, false).await;
    let mut body = bench.streamed(&mut client, prompt(100)).await;
    feed.send(Ok(begin(11))).unwrap();
    next(&mut body).await.unwrap().unwrap();

    bench.handle.cut(CutScope::All, "the budget is spent", true);
    let (status, headers, text) = bench.message().await;
    assert_eq!((status.as_u16(), headers[deny::HEADER].to_str().unwrap()), (429, "cut"));
    assert!(String::from_utf8_lossy(&text).contains("the budget is spent"));
    assert_eq!(bench.ask(PLAIN, "GET", "/open", "").await.1[deny::HEADER], "cut");

    for bytes in done(5) {
        feed.send(Ok(bytes)).unwrap();
        next(&mut body).await.unwrap().expect("the stream that was open finishes");
    }
    assert_eq!(bench.counted().await, 16);

    bench.handle.set_cut(None);
    assert_eq!(bench.ask(PLAIN, "GET", "/open", "").await.0, 200);
}

#[tokio::test]
async fn an_operators_cut_closes_open_streams_and_settles_them() {
    for h2 in [false, true] {
        let (feed, script) = streams();
        let bench = bench(None, script).await;
        let mut client = bench.client(MODEL, h2).await;
        let answer = client.send(bench.request(MODEL, "POST", "/v1/messages", prompt(100), h2)).await.unwrap();
        let mut body = answer.into_body();
        feed.send(Ok(begin(11))).unwrap();
        next(&mut body).await.unwrap().unwrap();
        bench.handle.cut(CutScope::Metered, "stop", false);
        assert!(next(&mut body).await.unwrap().is_err());
        bench.settled().await;
        assert_eq!(bench.events("usage").await[0]["source"], "partial");
        assert_eq!(bench.ask(PLAIN, "GET", "/open", "").await.0, 200, "not a model route");
    }
}

#[tokio::test]
async fn closing_drops_everything_and_drains() {
    let (feed, script) = streams();
    let bench = bench(None, script).await;
    let mut client = bench.client(MODEL, true).await;
    let answer = client.send(bench.request(MODEL, "POST", "/v1/messages", prompt(100), true)).await.unwrap();
    let mut body = answer.into_body();
    feed.send(Ok(begin(11))).unwrap();
    next(&mut body).await.unwrap().unwrap();
    bench.handle.close();
    tokio::time::timeout(Duration::from_secs(30), bench.handle.drained()).await.expect("drained");
    assert_eq!(bench.ledger.open_holds(None).await.unwrap(), 0);
    assert!(next(&mut body).await.is_none_or(|frame| frame.is_err()));
    assert!(TcpStream::connect(bench.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_ledger_that_is_gone_closes_model_routes_and_nothing_else() {
    let bench = bench(None, answers(message_json(1, 1))).await;
    bench.ledger.close().await.unwrap();
    let (status, headers, _) = bench.message().await;
    assert_eq!((status.as_u16(), headers[deny::HEADER].to_str().unwrap()), (503, "ledger_unavailable"));
    assert!(bench.seen().is_empty());
    assert_eq!(bench.ask(PLAIN, "GET", "/open", "").await.0, 200);
}

#[tokio::test]
async fn a_cut_closes_an_answer_that_its_client_does_not_read() {
    for h2 in [false, true] {
        let script: Script = Arc::new(move |_| Response::new(full(vec![b'x'; 64 << 20])));
        let bench = bench(None, script).await;
        let mut client = bench.client(PLAIN, h2).await;
        let answer = client.send(bench.request(PLAIN, "GET", "/open", "", h2)).await.unwrap();
        // What nobody reads stays where it is as long as nobody says otherwise.
        assert_eq!((answer.status().as_u16(), bench.handle.connections()), (200, 1));
        bench.handle.cut(CutScope::All, "operator said stop", false);
        let mut left = 0;
        while bench.events("request.ended").await.is_empty() {
            left += 1;
            assert!(left < 1000, "its request stays, h2: {h2}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(bench.events("request.ended").await[0]["end"], "cut");
        // It was not read to its end.
        assert!(answer.into_body().collect().await.is_err());
    }
}

/// The ways by which an answer comes to a bottle: its name, and whether it is metered.
const WAYS: [(&str, bool); 7] = [
    ("a stream of a model", true),
    ("the same over HTTP/2", true),
    ("the same through a tunnel", true),
    ("a plain stream", false),
    ("the same over HTTP/2", false),
    ("the same through a tunnel", false),
    ("what is passed through unseen", false),
];

#[tokio::test]
async fn a_cut_closes_every_way_of_its_scope_and_leaves_the_others() {
    for (at, (way, metered)) in WAYS.into_iter().enumerate() {
        for scope in [CutScope::Metered, CutScope::All] {
            let (feed, script) = streams();
            let bench = bench(None, script).await;
            let (host, h2) = (if metered { MODEL } else { PLAIN }, at == 1 || at == 4);
            let mut client = match at {
                2 | 5 => bench.tunnel(host, host, false).await,
                6 => {
                    bench.change(|routes| {
                        let ports = routes[1].ports.clone();
                        routes[1] = Route { host: PLAIN.into(), ports, tls: Tls::Passthrough, ..Route::default() };
                    });
                    Bench::speak(changing::past_the_plane(&bench, PLAIN).await, false).await
                }
                _ => bench.client(host, h2).await,
            };
            let request = match metered {
                true => bench.request(MODEL, "POST", "/v1/messages", prompt(100), h2),
                false => bench.request(PLAIN, "GET", "/open", "", h2),
            };
            let mut body = client.send(request).await.unwrap().into_body();
            feed.send(Ok(begin(11))).unwrap();
            next(&mut body).await.unwrap().unwrap();
            bench.handle.cut(scope, "stop", false);
            if metered || scope == CutScope::All {
                assert!(next(&mut body).await.is_none_or(|frame| frame.is_err()), "{way}, {scope:?}");
            } else {
                feed.send(Ok("more".into())).unwrap();
                assert_eq!(next(&mut body).await.unwrap().unwrap(), "more", "{way}, {scope:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_cut_closes_the_websockets_of_its_scope_and_leaves_the_others() {
    for scope in [CutScope::Metered, CutScope::All] {
        let (bench, mut bottle, mut server) = sockets::talk(None).await;
        bottle.says(sockets::create(None)).await;
        server.hears().await;
        server.says(sockets::begun("resp_1")).await;
        bottle.hears().await;
        bench.handle.cut(scope, "stop", false);
        bottle.is_refused(429, "usage_limit_reached", 1008).await;
        server.hears_nothing().await;

        let bench = websocket::open(None).await;
        let (mut stream, head) = websocket::handshake(&bench, PLAIN, "/open/ws").await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        let word = crate::meter::websocket::frame(crate::meter::websocket::Opcode::Text, b"word", Some(sockets::KEY));
        let mut buffer = [0; 64];
        for round in 0..2 {
            stream.write_all(&word).await.unwrap();
            let read = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut buffer)).await.expect("in time");
            let goes_on = round == 0 || scope == CutScope::Metered;
            assert_eq!(matches!(read, Ok(1..)), goes_on, "{scope:?}, {round}: {read:?}");
            bench.handle.cut(scope, "stop", false);
        }
    }
}

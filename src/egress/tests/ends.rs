//! The end of every allowed request is told: with its bytes both ways, its time, how it ended, and after what it cost.

use super::*;

/// Waits until as many ends are written; gets them with the order of all events.
async fn ends(bench: &Bench, count: usize) -> Vec<Value> {
    for _ in 0..3000 {
        let ends = bench.events("request.ended").await;
        if ends.len() >= count {
            return ends;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no end was told: {:?}", bench.ledger.events(EventQuery::default()).await);
}

async fn kinds(bench: &Bench) -> Vec<String> {
    bench.ledger.events(EventQuery::default()).await.unwrap().into_iter().map(|event| event.kind).collect()
}

#[tokio::test]
async fn bytes_are_counted_both_ways_and_what_no_body_has_ends_as_well() {
    for upstream_h2 in [false, true] {
        // To HEAD the server sends no body, and says how long it would be.
        let script: Script = Arc::new(|seen| {
            let body = if seen.method == "HEAD" { "" } else { "hello" };
            Response::builder().header("content-length", 5).body(full(body)).unwrap()
        });
        let bench = bench_over(upstream_h2, None, script).await;
        let mut routes = bench.routes.clone();
        routes[1].matches[0].methods.push("HEAD".into());
        bench.handle.set_routes(&Rules { routes, ..Rules::default() }).unwrap();
        for h2 in [false, true] {
            let mut client = bench.client(PLAIN, h2).await;
            for (method, body) in [("PUT", "x".repeat(100_000)), ("GET", String::new()), ("HEAD", String::new())] {
                let request = bench.request(PLAIN, method, "/open/%61?secret=1", body, h2);
                let answer = client.send(request).await.unwrap();
                assert_eq!(answer.status(), 200, "{method} {h2} {upstream_h2}");
                let whole = answer.into_body().collect().await;
                assert!(whole.is_ok(), "{method}, HTTP/2 {h2}, upstream {upstream_h2}: {whole:?}");
            }
        }
        let ends = ends(&bench, 6).await;
        let told: Vec<_> = ends
            .iter()
            .map(|end| (end["method"].as_str().unwrap(), end["up"].as_u64().unwrap(), end["down"].as_u64().unwrap()))
            .collect();
        assert_eq!(told[..3], [("PUT", 100_000, 5), ("GET", 0, 5), ("HEAD", 0, 0)]);
        assert_eq!(told[3..], told[..3]);
        for end in &ends {
            assert_eq!(
                (&end["end"], &end["path"], &end["host"]),
                (&"whole".into(), &"/open/a".into(), &PLAIN.into()),
                "{end}"
            );
            assert!(end["rule"].as_str().unwrap().starts_with("files.example.com, GET PUT HEAD /open"), "{end}");
            assert!(end["ms"].is_u64() && end["port"] == bench.address.port() && end["scheme"] == "https", "{end}");
        }
        // Beginning and end belong together.
        let begun: Vec<Value> = bench.events("request").await.iter().map(|begun| begun["exchange"].clone()).collect();
        assert_eq!(begun, ends.iter().map(|end| end["exchange"].clone()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn what_it_cost_is_told_before_its_end_however_it_ends() {
    let (feed, script) = streams();
    let bench = bench(None, script).await;
    let mut client = bench.client(MODEL, false).await;
    let mut body = bench.streamed(&mut client, prompt(100)).await;
    feed.send(Ok(begin(500))).unwrap();
    let came = next(&mut body).await.unwrap().unwrap().len();
    drop((body, client));
    let end = ends(&bench, 1).await.remove(0);
    assert_eq!(kinds(&bench).await, ["usage", "request.ended"]);
    let usage = bench.events("usage").await.remove(0);
    assert_eq!(usage["exchange"], end["exchange"]);
    assert_eq!((&end["end"], &end["api"], &end["status"]), (&"gone".into(), &"anthropic".into(), &200.into()), "{end}");
    assert_eq!((end["up"].as_u64().unwrap(), end["down"].as_u64().unwrap()), (prompt(100).len() as u64, came as u64));
}

#[tokio::test]
async fn a_whole_answer_of_a_model_has_one_line() {
    let bench = bench(None, answers(message_json(7, 5))).await;
    assert_eq!(bench.message().await.0, 200);
    let end = ends(&bench, 1).await.remove(0);
    assert_eq!(kinds(&bench).await, ["usage", "request.ended"]);
    assert_eq!((&end["end"], &end["down"]), (&"whole".into(), &message_json(7, 5).len().into()));
}

#[tokio::test]
async fn a_cut_and_a_break_are_ends_of_their_own() {
    let (feed, body) = fed();
    let body = Mutex::new(Some(body));
    let script: Script = Arc::new(move |_| Response::new(body.lock().unwrap().take().unwrap_or_else(|| full("again"))));
    let bench = bench(None, script).await;
    let mut client = bench.client(PLAIN, false).await;
    let request = bench.request(PLAIN, "GET", "/open/a", "", false);
    let mut body = client.send(request).await.unwrap().into_body();
    feed.send(Ok("0123456789".into())).unwrap();
    next(&mut body).await.unwrap().unwrap();
    assert!(bench.events("request.ended").await.is_empty(), "it is under way");
    bench.handle.cut(CutScope::All, "test", false);
    assert!(next(&mut body).await.unwrap().is_err());
    let end = ends(&bench, 1).await.remove(0);
    assert_eq!((&end["end"], &end["down"]), (&"cut".into(), &10.into()));

    // What is refused has no end: its refusal says all of it.
    assert_eq!(bench.ask(PLAIN, "PUT", "/open/a", "body").await.0, 403);
    assert_eq!(bench.events("request.ended").await.len(), 1);
    let denied = bench.events("denied").await.remove(0);
    assert_eq!((&denied["kind"], &denied["addable"]), (&"cut".into(), &false.into()), "{denied}");
    assert!(denied["ms"].is_u64());
}

#[tokio::test]
async fn a_websocket_is_one_exchange_from_its_handshake_to_its_end() {
    let bench = websocket::open(None).await;
    let (mut stream, head) = websocket::handshake(&bench, PLAIN, "/ws").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    stream.write_all(&[7; 5000]).await.unwrap();
    stream.read_exact(&mut [0; 5000]).await.unwrap();
    assert!(bench.events("request.ended").await.is_empty());
    drop(stream);
    let end = ends(&bench, 1).await.remove(0);
    assert_eq!((&end["status"], &end["up"], &end["down"]), (&101.into(), &5000.into(), &5000.into()), "{end}");
}

//! HTTP/2 streams and requests at once: who keeps to what the plane has said waits, who does not is refused, and both is bounded.

use tokio::sync::oneshot;

use super::*;

type Feed = mpsc::UnboundedSender<Result<Bytes, std::io::Error>>;

/// A bench whose server begins an answer to all but `/open/now`, and ends it with its feed.
async fn endless() -> (Bench, Arc<Mutex<Vec<Feed>>>) {
    let feeds = Arc::new(Mutex::new(Vec::new()));
    let script: Script = Arc::new({
        let feeds = Arc::clone(&feeds);
        move |seen| {
            if seen.uri.ends_with("/now") {
                return Response::new(full("now"));
            }
            let (feed, body) = fed();
            feeds.lock().unwrap().push(feed);
            Response::new(body)
        }
    });
    (bench_over(true, None, script).await, feeds)
}

/// Makes an HTTP/2 client that believes that it may open `most` streams until it hears otherwise, which it does when it is told to.
async fn deaf(
    bench: &Bench,
    most: usize,
) -> (hyper::client::conn::http2::SendRequest<Full<Bytes>>, oneshot::Sender<()>) {
    let (mut heard, write) = tokio::io::split(bench.tls(PLAIN, true).await);
    let (mut feed, read) = tokio::io::duplex(1 << 16);
    let (hear, may_hear) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let _ = may_hear.await;
        let _ = tokio::io::copy(&mut heard, &mut feed).await;
    });
    let io = TokioIo::new(tokio::io::join(read, write));
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (client, connection) = builder.initial_max_send_streams(most).handshake(io).await.unwrap();
    tokio::spawn(connection);
    (client, hear)
}

#[tokio::test]
async fn a_client_that_keeps_to_the_number_of_streams_waits_for_its_turn() {
    let (bench, feeds) = endless().await;
    let Client::H2(mut client) = bench.client(PLAIN, true).await else { panic!() };
    let mut open = Vec::new();
    // It has heard how many there may be when the first is answered.
    for _ in 0..serve::MAX_STREAMS {
        open.push(client.send_request(bench.request(PLAIN, "GET", "/open", "", true)).await.unwrap());
    }
    let mut waits = tokio::spawn(client.send_request(bench.request(PLAIN, "GET", "/open/now", "", true)));
    // One of the others' would be answered in that time.
    assert_eq!(bench.ask(PLAIN, "GET", "/open/now", "").await.0, 200);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut waits).await.is_err());
    feeds.lock().unwrap().pop();
    drop(open.pop());
    let answer = tokio::time::timeout(Duration::from_secs(60), waits).await.expect("its turn").unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert!(bench.events("denied").await.is_empty());
}

#[tokio::test]
async fn a_stream_beyond_the_number_is_refused_so_that_it_can_be_tried_again_and_told() {
    let (bench, feeds) = endless().await;
    let (mut client, hear) = deaf(&bench, 1000).await;
    let asked: Vec<_> = (0..serve::MAX_STREAMS + 2)
        .map(|_| tokio::spawn(client.send_request(bench.request(PLAIN, "GET", "/open", "", true))))
        .collect();
    assert_eq!(bench.denied(2).await, ["limit_streams"; 2]);
    let denied = bench.events("denied").await.remove(0);
    assert_eq!(
        (&denied["host"], &denied["port"], &denied["proto"]),
        (&json!(PLAIN), &json!(bench.address.port()), &json!("https"))
    );
    assert!(denied["reason"].as_str().unwrap().contains("128 HTTP/2 streams"), "{denied}");
    hear.send(()).unwrap();
    let mut open = Vec::new();
    let mut refused = 0;
    for one in asked {
        match tokio::time::timeout(Duration::from_secs(60), one).await.expect("an answer").unwrap() {
            Ok(answer) => open.push(answer),
            Err(error) => {
                let why = std::error::Error::source(&error).unwrap().to_string();
                assert!(why.contains("refused stream"), "{why}");
                refused += 1;
            }
        }
    }
    assert_eq!(
        (open.len(), refused, bench.seen().len()),
        (serve::MAX_STREAMS as usize, 2, serve::MAX_STREAMS as usize)
    );
    // The connection stands, and has room again.
    feeds.lock().unwrap().clear();
    for answer in open {
        answer.into_body().collect().await.unwrap();
    }
    let again = client.send_request(bench.request(PLAIN, "GET", "/open/now", "", true)).await.unwrap();
    assert_eq!(again.status(), 200);
    assert_eq!(bench.events("denied").await.len(), 2);
}

#[tokio::test]
async fn requests_of_all_connections_are_bounded_and_the_next_is_told() {
    let (bench, feeds) = endless().await;
    let mut open = Vec::new();
    for _ in 0..streams::AT_ONCE / serve::MAX_STREAMS as usize {
        let Client::H2(mut client) = bench.client(PLAIN, true).await else { panic!() };
        for _ in 0..serve::MAX_STREAMS {
            let request = bench.request(PLAIN, "GET", "/open", "", true);
            open.push(tokio::spawn(client.send_request(request)));
        }
    }
    let mut told = None;
    for _ in 0..3000 {
        let (status, headers, _) = bench.ask(PLAIN, "GET", "/open/now", "").await;
        if status != 200 {
            told = Some((status.as_u16(), headers[deny::HEADER].to_str().unwrap().to_owned()));
            break;
        }
    }
    assert_eq!(told, Some((429, "limit_streams".to_owned())));
    assert_eq!(bench.denied(1).await, ["limit_streams"]);
    feeds.lock().unwrap().clear();
    open.clear();
    for _ in 0..3000 {
        if bench.ask(PLAIN, "GET", "/open/now", "").await.0 == 200 {
            return;
        }
    }
    panic!("no place came back");
}

#[tokio::test]
async fn what_may_be_sent_ahead_is_said_to_each_connection_and_less_where_there_are_many() {
    let (bench, _feeds) = endless().await;
    let mut open = Vec::new();
    for number in 0..=serve::WIDE_AT_ONCE {
        let mut stream = bench.tls(PLAIN, true).await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // SETTINGS (RFC 9113, 6.5).
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[3], 4);
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).await.unwrap();
        let said = |id: u8| {
            let found = payload.chunks(6).find(|one| one[..2] == [0, id]);
            found.map(|one| u32::from_be_bytes([one[2], one[3], one[4], one[5]]))
        };
        assert_eq!((said(3), said(6)), (Some(serve::MAX_STREAMS), Some(serve::H2_HEAD)));
        // What is not said is what the protocol has.
        let window = said(4).unwrap_or(65_535);
        assert_eq!(window > serve::NARROW_WINDOW, number < serve::WIDE_AT_ONCE, "{number}: {window}");
        assert!(window <= serve::CONNECTION_WINDOW);
        open.push(stream);
    }
}

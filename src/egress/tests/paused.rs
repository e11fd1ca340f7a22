//! What a paused bottle has under way waits: its side of a connection says nothing meanwhile, not even that it lives. What has
//! nothing under way gives its place back.

use std::sync::atomic::AtomicBool;
use std::task::Poll;

use futures_util::task::AtomicWaker;

use super::*;

#[tokio::test]
async fn a_stream_of_http2_outlives_a_pause() {
    let (feed, body) = fed();
    let body = Mutex::new(Some(body));
    let script: Script = Arc::new(move |_| Response::new(body.lock().unwrap().take().unwrap_or_else(|| full("again"))));
    let bench = bench(None, script).await;
    let (stands, waker) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicWaker::new()));
    let io = TokioIo::new(bench.tls(PLAIN, true).await);
    let (client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn({
        let (stands, waker, mut connection) = (Arc::clone(&stands), Arc::clone(&waker), Box::pin(connection));
        std::future::poll_fn(move |cx| {
            waker.register(cx.waker());
            if stands.load(Ordering::Acquire) { Poll::Pending } else { connection.as_mut().poll(cx).map(drop) }
        })
    });
    let mut client = Client::H2(client);
    let mut body = client.send(bench.request(PLAIN, "GET", "/open", "", true)).await.unwrap().into_body();
    feed.send(Ok("before".into())).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "before");

    stands.store(true, Ordering::Release);
    pass(Duration::from_secs(240)).await;
    stands.store(false, Ordering::Release);
    waker.wake();
    feed.send(Ok("after".into())).unwrap();
    assert_eq!(next(&mut body).await.expect("the stream stands").unwrap(), "after");
    let again = client.send(bench.request(PLAIN, "GET", "/open", "", true)).await.unwrap();
    assert_eq!(again.status(), 200, "and so does its connection");
}

/// What passes at once.
const STEP: Duration = Duration::from_secs(20);

/// Lets time pass, once all is done that is under way.
pub(super) async fn pass(mut time: Duration) {
    settle().await;
    while !time.is_zero() {
        let now = time.min(STEP);
        time -= now;
        tokio::time::pause();
        tokio::time::advance(now).await;
        tokio::time::resume();
        settle().await;
    }
}

/// Lets what is due be done in the machine's own time.
async fn settle() {
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_connection_of_http2_that_rests_is_closed() {
    let bench = bench(None, Arc::new(|_| Response::new(full("yes")))).await;
    let io = TokioIo::new(bench.tls(PLAIN, true).await);
    let (client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = Client::H2(client);
    let mut ask = async || {
        let answer = client.send(bench.request(PLAIN, "GET", "/open", "", true)).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
    };
    ask().await;
    pass(Duration::from_secs(80)).await;
    ask().await;
    pass(Duration::from_secs(80)).await;
    assert!(!connection.is_finished(), "it was used between");
    pass(Duration::from_secs(120)).await;
    tokio::time::timeout(Duration::from_secs(60), connection).await.expect("it is told to go").unwrap().unwrap();
}

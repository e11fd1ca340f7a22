//! What a server gives away of the credential that was put in, in whatever pieces it comes, does not reach the bottle.

use super::*;

/// Answers with these pieces of a body, one frame each, and these trailers.
fn pieces(pieces: &'static [&'static str], trailers: HeaderMap) -> Script {
    Arc::new(move |_| {
        let frames = pieces.iter().map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())));
        let frames: Vec<_> = frames.chain([Frame::trailers(trailers.clone())]).map(Ok::<_, std::io::Error>).collect();
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Response::builder().header("trailer", "x-note, set-cookie").body(BodyExt::boxed(body)).unwrap()
    })
}

#[tokio::test]
async fn an_echo_in_pieces_and_one_in_trailers_are_redacted() {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-note", format!("you are {SECRET}").parse().unwrap());
    trailers.insert("x-sum", "7".parse().unwrap());
    trailers.insert("set-cookie", "account=1".parse().unwrap());
    let script = pieces(&["{\"a\":\"sk-re", "al-", "secret-0123456789\",\"b\":\"sk-real-s", "ome\"}"], trailers);
    let bench = bench_over(true, None, script).await;
    let mut client = bench.client(MODEL, true).await;
    let answer = client.send(bench.request(MODEL, "GET", "/v1/models", "", true)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    assert_eq!(trailers["x-sum"], "7", "{trailers:?}");
    assert_eq!(trailers["x-note"], "[redacted by bb]");
    assert!(!trailers.contains_key("set-cookie"), "trailers are held to what heads are");
    let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    assert_eq!(text, format!("{{\"a\":\"{}\",\"b\":\"sk-real-some\"}}", "*".repeat(SECRET.len())));
}

#[tokio::test]
async fn what_speaks_of_the_account_stays_out_unless_the_route_keeps_it() {
    let script: Script = Arc::new(|_| {
        Response::builder()
            .header("set-cookie", "account=1")
            .header("www-authenticate", "Bearer")
            .header("alt-svc", "h3=\":443\"")
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("proxy-authenticate", "Basic")
            .body(full("{}"))
            .unwrap()
    });
    let bench = bench(None, script).await;
    let heads = async |host: &str, path: &str| {
        let (status, headers, _) = bench.ask(host, "GET", path, "").await;
        assert_eq!(status, 200);
        assert!(!headers.contains_key("alt-svc") && !headers.contains_key("x-hop"), "{headers:?}");
        assert!(!headers.contains_key("proxy-authenticate"), "{headers:?}");
        (headers.contains_key("set-cookie"), headers.contains_key("www-authenticate"))
    };
    assert_eq!(heads(MODEL, "/v1/models").await, (false, false));
    assert_eq!(heads(PLAIN, "/open").await, (true, true), "no credential was put in");
    bench.change(|routes| routes[0].keep_headers = vec!["set-cookie".into()]);
    assert_eq!(heads(MODEL, "/v1/models").await, (true, false));
}

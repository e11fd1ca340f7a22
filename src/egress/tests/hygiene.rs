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

/// Answers as a server would that echoes what it was sent, coded by `code` whatever it was asked for.
fn echoes(coding: &'static str, code: fn(&str) -> Vec<u8>) -> Script {
    Arc::new(move |seen| {
        let key = seen.headers.get("x-api-key").map(|value| value.to_str().unwrap().to_owned());
        let told = if seen.uri.contains("echo") { key.unwrap_or_default() } else { "nobody".to_owned() };
        let body =
            code(&format!("{{\"headers\": {{\"x-api-key\": \"{told}\"}}, \"more\": \"{}\"}}", "text ".repeat(99)));
        Response::builder()
            .header("content-type", "application/json")
            .header("content-encoding", coding)
            .body(full(body))
            .unwrap()
    })
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_coded_answer_passes_as_it_came_and_one_that_repeats_the_credential_breaks_off() {
    let bench = bench(None, echoes("gzip", gzip)).await;
    bench.change(|routes| {
        routes[1].auth = routes[0].auth.clone();
        routes[1].matches.clear();
    });
    for (host, clean, echo) in [(PLAIN, "/open", "/echo"), (MODEL, "/v1/models", "/v1/models?after_id=echo")] {
        let (status, headers, body) = bench.ask(host, "GET", clean, "").await;
        assert_eq!((status.as_u16(), headers["content-encoding"].to_str().unwrap()), (200, "gzip"), "{host}");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&body[..]), &mut text).unwrap();
        assert!(text.contains("nobody") && text.ends_with("text \"}"), "byte by byte: {text}");

        let mut client = bench.client(host, false).await;
        let answer = client.send(bench.request(host, "GET", echo, "", false)).await;
        // Its head may have gone out already.
        let mut read = Vec::new();
        if let Ok(answer) = answer {
            let mut body = answer.into_body();
            let mut broken = false;
            while let Some(frame) = next(&mut body).await.filter(|_| !broken) {
                match frame {
                    Ok(bytes) => read.extend_from_slice(&bytes),
                    Err(_) => broken = true,
                }
            }
            assert!(broken, "{host}");
        }
        let mut text = Vec::new();
        let _ = std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&read[..]), &mut text);
        assert!(!String::from_utf8_lossy(&text).contains("sk-"), "{host}");
    }
    assert_eq!(bench.denied(2).await, ["response_coded", "response_coded"]);
    let ends: Vec<_> = bench.events("request.ended").await.iter().map(|end| end["end"].clone()).collect();
    assert_eq!(ends, ["whole", "coded", "whole", "coded"]);
}

#[tokio::test]
async fn a_coding_in_which_no_echo_is_found_is_refused_where_a_credential_was_put_in() {
    let bench = bench(None, echoes("br", |text| text.as_bytes().to_vec())).await;
    let (status, headers, _) = bench.ask(MODEL, "GET", "/v1/models", "").await;
    assert_eq!((status.as_u16(), headers[deny::HEADER].to_str().unwrap()), (502, "response_coded"));
    assert_eq!(bench.message().await.0, 502);
    bench.settled().await;
    assert!(bench.counted().await > 0, "the server may have worked for it");
    // The twin: nobody's credential is in it.
    let (status, headers, _) = bench.ask(PLAIN, "GET", "/open", "").await;
    assert_eq!((status.as_u16(), headers["content-encoding"].to_str().unwrap()), (200, "br"));
    assert_eq!(bench.denied(2).await, ["response_coded", "response_coded"]);
}

#[tokio::test]
async fn an_answer_with_a_credential_is_not_asked_for_in_parts() {
    let bench = bench(None, answers("{}".into())).await;
    bench.change(|routes| {
        routes.push(Route { host: "keyed.example.com".into(), auth: routes[0].auth.clone(), ..routes[1].clone() });
    });
    for (host, path, passes) in [(PLAIN, "/open", true), (MODEL, "/v1/models", false)] {
        let mut client = bench.client(host, false).await;
        let mut request = bench.request(host, "GET", path, "", false);
        request.headers_mut().insert("range", "bytes=3-9".parse().unwrap());
        assert_eq!(client.send(request).await.unwrap().status(), 200);
        assert_eq!(bench.seen().pop().unwrap().headers.contains_key("range"), passes, "{host}");
    }
}

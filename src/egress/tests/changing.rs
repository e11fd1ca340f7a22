//! What changes while a bottle runs: its allow-list, and what passes unseen.

use super::*;
use crate::api::Tls;

impl Bench {
    fn credentials(&self) -> BTreeMap<String, SecretString> {
        [("claude".to_owned(), SecretString::from(SECRET))].into()
    }

    /// Changes the routes by `change`.
    pub(super) fn change(&self, change: impl FnOnce(&mut Vec<Route>)) {
        let mut routes = self.routes.clone();
        change(&mut routes);
        self.set(routes).unwrap();
    }

    fn set(&self, routes: Vec<Route>) -> Result<(), EgressError> {
        self.handle.set_routes(&Rules { routes, credentials: self.credentials(), ..Rules::default() })
    }
}

#[tokio::test]
async fn a_route_that_is_taken_back_closes_what_it_allowed_and_nothing_else() {
    let (feeds, bodies): (Vec<_>, Vec<_>) = (0..2).map(|_| fed()).unzip();
    let bodies = Mutex::new(bodies.into_iter());
    let script: Script =
        Arc::new(move |_| Response::new(bodies.lock().unwrap().next().unwrap_or_else(|| full("later"))));
    let bench = bench(None, script).await;
    let (mut goes, mut stays) = (bench.client(PLAIN, false).await, bench.client(PLAIN, false).await);
    let ask = |path: &str| bench.request(PLAIN, "GET", path, "", false);
    let mut going = goes.send(ask("/open/going")).await.unwrap().into_body();
    let mut staying = stays.send(ask("/open/staying")).await.unwrap().into_body();
    for (feed, body) in feeds.iter().zip([&mut going, &mut staying]) {
        feed.send(Ok("one".into())).unwrap();
        assert_eq!(next(body).await.unwrap().unwrap(), "one");
    }

    bench.change(|routes| routes[1].matches[0].paths[0].value = "/open/staying".into());
    assert!(next(&mut going).await.unwrap().is_err(), "what is not allowed any more breaks off");
    feeds[1].send(Ok("two".into())).unwrap();
    assert_eq!(next(&mut staying).await.unwrap().unwrap(), "two", "what is allowed still goes on");
    let (status, headers, _) = bench.ask(PLAIN, "GET", "/open/going", "").await;
    assert_eq!((status.as_u16(), headers["x-bb-deny"].to_str().unwrap()), (403, "path"));

    // Another credential for the same request is another permission.
    let auth = Auth { scheme: AuthScheme::Bearer, header: None, credential: "claude".into() };
    bench.change(|routes| routes[1].auth = Some(auth));
    assert!(next(&mut staying).await.unwrap().is_err());

    assert_eq!(bench.ask("nokey.example.com", "GET", "/", "").await.0, 502, "its credential is not there");
    bench.change(|routes| routes[2].auth = None);
    assert_eq!(bench.ask("nokey.example.com", "GET", "/", "").await.0, 200);

    // While a list is not written yet, both have to allow.
    let mut narrow = bench.routes.clone();
    narrow[1].matches[0].paths[0].value = "/open/only".into();
    let credentials = bench.credentials();
    let both = Rules { routes: bench.routes.clone(), also: Some(narrow), credentials, ..Rules::default() };
    bench.handle.set_routes(&both).unwrap();
    assert_eq!(bench.ask(PLAIN, "GET", "/open/only", "").await.0, 200);
    assert_eq!(bench.ask(PLAIN, "GET", "/open/other", "").await.0, 403);
}

#[tokio::test]
async fn a_list_that_cannot_be_meant_leaves_the_one_in_force() {
    let bench = bench(None, answers("{}".into())).await;
    let mut routes = bench.routes.clone();
    routes.push(Route { host: "10.0.0.1".into(), ..Route::default() });
    assert!(bench.set(routes).is_err());
    assert_eq!(bench.ask(PLAIN, "GET", "/open/x", "").await.0, 200);
}

/// Shakes hands with the server itself, past the plane.
pub(super) async fn past_the_plane(bench: &Bench, host: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(bench.upstream.ca.cert_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(bench.address).await.unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("the server's own")
}

#[tokio::test]
async fn what_is_passed_through_is_the_servers_own_tls_and_ends_with_its_route() {
    let (feed, script) = streams();
    let bench = bench(None, script).await;
    let through = |routes: &mut Vec<Route>| {
        routes[1] =
            Route { host: PLAIN.into(), ports: routes[1].ports.clone(), tls: Tls::Passthrough, ..Route::default() };
    };
    // Ended by the plane: its own authority's certificate.
    assert_eq!(
        bench
            .client(PLAIN, false)
            .await
            .send(bench.request(PLAIN, "GET", "/closed", "", false))
            .await
            .unwrap()
            .status(),
        403
    );

    bench.change(through);
    let tls = past_the_plane(&bench, PLAIN).await;
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let answer = client.send_request(bench.request(PLAIN, "GET", "/closed", "", false)).await.unwrap();
    let mut body = answer.into_body();
    feed.send(Ok("unseen".into())).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "unseen");
    assert_eq!(bench.seen().last().unwrap().uri, "/closed", "no rule looked at it");

    bench.set(bench.routes.clone()).unwrap();
    assert!(next(&mut body).await.is_none_or(|frame| frame.is_err()), "it ends with its route");
}

#[tokio::test]
async fn bodies_beyond_what_the_route_allows_stop_there() {
    let bench = bench(None, Arc::new(|seen: &Seen| Response::new(full(seen.body.clone())))).await;
    bench.change(|routes| {
        routes[1].max_request = Some(1000);
        routes[1].max_response = Some(500);
    });
    let ask = |size: usize| bench.ask(PLAIN, "PUT", "/open/x", vec![b'x'; size]);
    assert_eq!(ask(500).await.0, 200);
    let (status, headers, _) = ask(501).await;
    assert_eq!((status.as_u16(), headers["x-bb-deny"].to_str().unwrap()), (502, "response_too_large"));
    let before = bench.seen().len();
    let (status, headers, _) = ask(1001).await;
    assert_eq!((status.as_u16(), headers["x-bb-deny"].to_str().unwrap()), (413, "body_too_large"));
    assert_eq!(bench.seen().len(), before, "and nothing of it was sent");
}

#[tokio::test]
async fn bodies_of_no_said_length_stop_there_too_and_it_is_told() {
    // Sends back in pieces what it was sent, without a length.
    let script: Script = Arc::new(|seen: &Seen| {
        let pieces: Vec<_> = seen.body.chunks(100).map(Bytes::copy_from_slice).collect();
        let frames = pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Frame::data(piece)));
        Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames.collect::<Vec<_>>()))))
    });
    let bench = bench(None, script).await;
    bench.change(|routes| {
        routes[1].max_request = Some(1000);
        routes[1].max_response = Some(500);
    });
    let host = format!("{PLAIN}:{}", bench.address.port());
    let chunked = async |size: usize| {
        let mut stream = bench.tls(PLAIN, false).await;
        let head =
            format!("PUT /open/x HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..size / 100 {
            // It may be refused in the middle.
            let _ = stream.write_all(format!("64\r\n{}\r\n", "x".repeat(100)).as_bytes()).await;
        }
        let _ = stream.write_all(b"0\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.expect("an end");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let fits = chunked(500).await;
    assert!(fits.starts_with("HTTP/1.1 200") && fits.ends_with("0\r\n\r\n"), "{fits}");
    let much = chunked(600).await;
    assert!(!much.ends_with("0\r\n\r\n"), "it must not look whole: {much}");
    assert!(much.matches('x').count() <= 510, "{much}");
    assert_eq!(bench.denied(1).await, ["response_too_large"]);
    let refused = chunked(1100).await;
    assert!(refused.starts_with("HTTP/1.1 413") && refused.contains("x-bb-deny: body_too_large"), "{refused}");
    assert_eq!(bench.denied(2).await, ["response_too_large", "body_too_large"]);
    assert!(bench.seen().iter().all(|seen| seen.body.len() <= 1000), "more than the route lets pass left");
}

#[tokio::test]
async fn trailers_are_cleaned_like_heads() {
    let bench = bench(None, answers("{}".into())).await;
    let mut stream = bench.tls(PLAIN, false).await;
    let host = format!("{PLAIN}:{}", bench.address.port());
    let request = format!(
        "PUT /open/x HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\ntrailer: x-sum, authorization\r\n\r\n\
         2\r\nhi\r\n0\r\nx-sum: 7\r\nauthorization: Bearer mine\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let seen = bench.seen();
    let trailers = seen[0].trailers.clone().expect("trailers pass");
    assert_eq!(trailers["x-sum"], "7");
    assert!(!trailers.contains_key("authorization"));
}

//! The limits of one bottle's way out, as they are published: each number of docs/limits.md is the code's.

use super::*;
use crate::meter;

const PAGE: &str = include_str!("../../../docs/limits.md");

/// Header lines of an HTTP/1.1 request: hyper's own bound, and [`header_lines_beyond_the_limit_are_refused`] holds it.
const HEADER_LINES: usize = 100;

/// Gets the second cell of a row by its first.
fn published(limit: &str) -> &'static str {
    let begins = format!("| {limit} | ");
    let row = PAGE.lines().find_map(|line| line.strip_prefix(&begins));
    row.unwrap_or_else(|| panic!("docs/limits.md has no row {limit:?}")).split(" | ").next().unwrap()
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

fn bytes(count: usize) -> String {
    if count >= 1 << 20 { format!("{} MiB", count >> 20) } else { format!("{} KiB", count >> 10) }
}

#[test]
fn the_page_about_limits_has_every_limit_with_its_number() {
    let strangers = format!("{}, then one each 50 ms", accept::STRANGERS);
    let below = format!("{}, then one each 10 ms", accept::BELOW);
    let idle = "time for which nothing moves in a request, an answer, a WebSocket or what is passed through";
    let window = |window: u32| bytes(window.next_multiple_of(1 << 10).try_into().unwrap());
    let ahead = format!(
        "{}; {} beyond {} such connections",
        window(serve::CONNECTION_WINDOW),
        window(serve::NARROW_WINDOW),
        serve::WIDE_AT_ONCE
    );
    let limits = [
        ("open connections", accept::CONNECTIONS.to_string()),
        ("TLS handshakes at once", accept::HANDSHAKES.to_string()),
        ("time for a TLS handshake", seconds(accept::HANDSHAKE)),
        ("a TLS greeting", bytes(hello::MOST)),
        ("names off the list whose TLS is ended to say so", strangers),
        ("names below a wildcard for which a certificate is made", below),
        ("certificates kept", ca::LEAVES.to_string()),
        ("time for the first byte of a connection", seconds(accept::FIRST_BYTE)),
        ("time for the head of a request, and of a connection between two", seconds(serve::HEAD_TIME)),
        ("head of a request", bytes(request::MAX_HEAD)),
        ("header lines of an HTTP/1.1 request", HEADER_LINES.to_string()),
        ("requests at once, WebSockets and what is passed through among them", streams::AT_ONCE.to_string()),
        ("HTTP/2 streams at once on one connection", serve::MAX_STREAMS.to_string()),
        ("bytes that one HTTP/2 connection may send ahead of their being read", ahead),
        (
            "bytes of all answers that wait for clients that do not read, beyond which only one piece of each does",
            bytes(unread::UNREAD),
        ),
        (
            "bytes that an HTTP/2 server may send ahead of their being read, over one connection",
            bytes(upstream::CONNECTION_WINDOW.try_into().unwrap()),
        ),
        ("bytes of an answer that wait for an HTTP/2 client that does not read", bytes(serve::SEND_BUFFER)),
        ("body of a request to a model API, which is held whole", bytes(model::MAX_BODY)),
        ("held at once, all together", bytes(room::ROOM)),
        (
            "what meters collect beside that (those of all bottles, with what they have of that: 256 MiB)",
            bytes(room::METERS),
        ),
        ("time for which a request waits for its place in what is held", seconds(room::PATIENCE)),
        ("time for which a held body may stand still", seconds(model::BODY_IDLE)),
        (idle, seconds(tee::SILENCE)),
        ("time for the server's answer to a WebSocket's handshake", seconds(super::super::websocket::ANSWER)),
        ("look-ups at once (of all bottles: 256)", lookup::OF_ONE.to_string()),
        ("time in which a name has to resolve", seconds(dial::LOOKUP)),
        ("time in which a server has to accept", seconds(dial::DIAL)),
        (
            "body of a request at a login's token endpoint, and of the real one's answer",
            bytes(super::super::oauth::MOST),
        ),
        ("time for a real token endpoint's answer", seconds(login::refresh::ANSWER)),
        (
            "time between two refreshes of a login; doubled while the API refuses what comes",
            format!("{}, up to {}", seconds(login::pace::YOUNG), seconds(login::pace::LONGEST)),
        ),
        ("time for which a request waits for tokens that others hold", seconds(hold::PATIENCE)),
        ("one line or event of a metered stream", bytes(meter::bound::MAX_EVENT)),
        ("what a coded, metered answer may become", bytes(meter::coding::MAX_DECODED.try_into().unwrap())),
        ("what a coded answer may become where a credential was put in", bytes(echo::MAX_DECODED.try_into().unwrap())),
        ("a DNS query", bytes(dns::MAX_QUERY)),
        ("DNS connections at once", dns::TCP_AT_ONCE.to_string()),
        ("time between two DNS queries of a connection", seconds(dns::TCP_IDLE)),
        ("refusals that wait until they are written, before they are answered", refused::AT_ONCE.to_string()),
        ("refusals a second that are written one by one, of those without an answer", record::LIMIT.to_string()),
    ];
    for (limit, number) in &limits {
        assert_eq!(published(limit), number, "{limit}");
    }
    let table = PAGE.split("## Limits of the way out").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ")).count() - 2;
    assert_eq!(rows, limits.len(), "a row that nothing compares");
    let wait = format!("`limit_handshakes`, after {}", seconds(accept::HANDSHAKE_PLACE));
    assert!(table.contains(&wait), "{wait}");
    assert_eq!(lookup::OF_ALL, 256, "as the page says");
    assert!(serve::H2_HEAD as usize > request::MAX_HEAD, "so that what is larger can be refused with a word");
    let beyond = format!("beyond {}, HTTP/2 itself", bytes(serve::H2_HEAD as usize));
    assert!(table.contains(&beyond), "{beyond}");
    let after = format!("refused with `limit_bodies` after {}", seconds(room::PATIENCE));
    assert!(PAGE.contains(&after), "{after}");
    assert!(PAGE.contains(&format!("pass it, up to {} in all", bytes(room::PASSING))));
    // Every word of a limit is one of the refusals.
    for word in table.split('`').filter(|word| word.starts_with("limit_")) {
        assert!(Denial::ALL.iter().any(|denial| denial.as_str() == word), "{word}");
    }
}

#[tokio::test]
async fn header_lines_beyond_the_limit_are_refused() {
    let bench = bench(None, answers("{}".into())).await;
    for (lines, status) in [(HEADER_LINES, "200"), (HEADER_LINES + 1, "431")] {
        let mut stream = bench.tls(PLAIN, false).await;
        // Two are said anyway.
        let more: String = (2..lines).map(|n| format!("x-{n}: y\r\n")).collect();
        let host = format!("{PLAIN}:{}", bench.address.port());
        let head = format!("GET /open HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{lines}: {answer}");
    }
    assert_eq!((bench.denied(1).await, bench.seen().len()), (vec!["limit_headers".to_owned()], 1));
}

#[tokio::test]
async fn heads_of_http2_beyond_the_limit_are_refused_with_the_word_whatever_they_are_large_by() {
    let bench = bench(None, answers("{}".into())).await;
    let mut client = bench.client(PLAIN, true).await;
    let mut ask = async |lines: usize, length: usize| {
        let mut request = bench.request(PLAIN, "GET", "/open", "", true);
        for n in 0..lines {
            let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
            request.headers_mut().insert(name, "y".repeat(length).parse().unwrap());
        }
        let answer = client.send(request).await.unwrap();
        let kind = answer.headers().get(deny::HEADER).map(|kind| kind.to_str().unwrap().to_owned());
        (answer.status().as_u16(), kind)
    };
    let refused = (431, Some("limit_headers".to_owned()));
    assert_eq!(ask(1, request::MAX_HEAD - 1000).await, (200, None));
    assert_eq!(ask(1, request::MAX_HEAD).await, refused);
    assert_eq!(ask(1500, 1).await, (431, None), "it passes; this server takes no more lines than others");
    assert_eq!(ask(1800, 1).await, refused);
    assert_eq!(bench.denied(2).await, ["limit_headers"; 2]);
    // What no more is read of is refused all the same, and its connection stands.
    assert_eq!(ask(1, 100_000).await.0, 431);
    assert_eq!(ask(0, 0).await, (200, None));
    assert_eq!(bench.seen().len(), 2);
}

#[tokio::test]
async fn the_head_of_a_connect_is_bounded_too() {
    let bench = bench(None, answers("{}".into())).await;
    let target = format!("{PLAIN}:{}", bench.address.port());
    let mut stream = TcpStream::connect(bench.proxy).await.unwrap();
    let large = "x".repeat(request::MAX_HEAD);
    let head = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\nx: {large}\r\n\r\n");
    // It may be closed before all of it was taken, and its answer lost.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(bench.denied(1).await, ["limit_headers"]);
    assert_eq!(bench.connect(&target, b"").await.0, "200");
}

#[tokio::test]
async fn bodies_that_are_held_have_one_bound_for_all_of_a_bottle() {
    let bench = bench(None, answers(message_json(1, 1))).await;
    let host = format!("{MODEL}:{}", bench.address.port());
    let mut waiting = Vec::new();
    // Declared, and never sent: room is taken when a body is announced.
    // Two of half the room.
    for _ in 0..2 {
        let mut stream = bench.tls(MODEL, false).await;
        let head = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            room::ROOM / 2
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut told = [0; 12];
        stream.read_exact(&mut told).await.unwrap();
        assert_eq!(&told, b"HTTP/1.1 100", "its body is waited for");
        waiting.push(stream);
    }
    let (status, headers, _) = bench.ask(MODEL, "POST", "/v1/messages", long_prompt()).await;
    assert_eq!((status.as_u16(), headers[deny::HEADER].to_str().unwrap()), (429, "limit_bodies"));
    assert!(bench.seen().is_empty());
    // One that is small needs no place among them.
    assert_eq!(bench.message().await.0, 200);
    // The twin: what goes away gives its room back.
    drop(waiting.pop());
    for _ in 0..500 {
        if bench.ask(MODEL, "POST", "/v1/messages", long_prompt()).await.0 == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no room came back");
}

/// A prompt that has to have a place among what is held.
fn long_prompt() -> String {
    prompt(100).replace("\"hi\"", &format!("\"{}\"", "h".repeat(100_000)))
}

#[tokio::test]
async fn a_request_that_waits_for_its_place_goes_on_when_there_is_one() {
    let (release, script) = streams();
    let bench = Arc::new(bench(None, script).await);
    // It is held until the server has it; the server reads nothing before it may.
    let host = format!("{MODEL}:{}", bench.address.port());
    let mut first = bench.tls(MODEL, false).await;
    let head = format!("POST /v1/messages HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n", room::ROOM);
    first.write_all(head.as_bytes()).await.unwrap();
    first.write_all(&vec![b' '; 100_000]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let waiting = tokio::spawn({
        let bench = Arc::clone(&bench);
        async move { bench.ask(MODEL, "POST", "/v1/messages", long_prompt()).await.0 }
    });
    drop((first, release));
    assert_eq!(waiting.await.unwrap(), 200);
}

#[tokio::test]
async fn an_answer_that_has_no_place_passes_untouched_and_is_counted_by_its_bytes() {
    let line = format!("data: {{\"type\":\"ping\",\"x\":\"{}\"}}\n\n", "x".repeat(3 << 20));
    let text = [begin(7), line.clone().into(), done(5)[0].clone(), done(5)[1].clone()].concat();
    let script: Script = Arc::new(move |_| sse(full(text.clone())));
    let bench = bench(None, script).await;
    let (status, _, body) = bench.message().await;
    assert_eq!((status.as_u16(), bench.counted().await), (200, 12), "there is room");
    let mut waiting = bench.tls(MODEL, false).await;
    let host = format!("{MODEL}:{}", bench.address.port());
    let length = room::ROOM - (1 << 20);
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
    );
    waiting.write_all(head.as_bytes()).await.unwrap();
    waiting.read_exact(&mut [0; 12]).await.unwrap();
    let (status, _, again) = bench.message().await;
    assert!(status == 200 && again == body, "as it came");
    bench.settled().await;
    let usage = bench.events("usage").await;
    assert_eq!(usage.last().unwrap()["source"], "estimated", "{usage:?}");
    assert!(bench.counted().await >= 12 + (3 << 20) / 4);
}

#[tokio::test]
async fn large_heads_have_a_place_too() {
    let bench = bench(None, answers("{}".into())).await;
    let host = format!("{PLAIN}:{}", bench.address.port());
    let large = "x".repeat(60 << 10);
    let mut open = Vec::new();
    for _ in 0..room::ROOM / (3 * large.len()) - 1 {
        let mut stream = bench.tls(PLAIN, false).await;
        // A body that does not come: its request is under way.
        let head = format!("PUT /open HTTP/1.1\r\nhost: {host}\r\nx-large: {large}\r\ncontent-length: 9\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        open.push(stream);
    }
    let mut client = bench.client(PLAIN, false).await;
    for _ in 0..500 {
        let mut request = bench.request(PLAIN, "GET", "/open", "", false);
        request.headers_mut().insert("x-large", large.parse().unwrap());
        let answer = client.send(request).await.unwrap();
        if answer.status() == 429 {
            assert_eq!(answer.headers()[deny::HEADER], "limit_bodies");
            let small = bench.ask(PLAIN, "GET", "/open", "").await.0;
            assert_eq!(small, 200, "a small one needs none");
            return;
        }
        answer.into_body().collect().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no place was ever missing");
}

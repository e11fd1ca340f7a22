//! WebSockets of a model API: reserved before it goes on, settled before the last event goes on, and nothing that is not understood.

use bytes::BytesMut;
use hyper::upgrade::{OnUpgrade, Upgraded};
use tokio::io::{AsyncRead, AsyncWrite};

use super::*;
use crate::meter::websocket::{Item, Messages, Opcode, Sender, close, frame};

/// Where the server's side of a WebSocket goes.
#[derive(Clone)]
pub(super) struct Taken(pub(super) mpsc::UnboundedSender<OnUpgrade>);

pub(super) const KEY: [u8; 4] = [9, 8, 7, 6];

/// One end of a socket.
pub(super) struct Side<S> {
    pub(super) stream: S,
    messages: Messages,
    buffer: BytesMut,
    key: Option<[u8; 4]>,
}

pub(super) type Bottle = Side<tokio_rustls::client::TlsStream<TcpStream>>;
pub(super) type Server = Side<TokioIo<Upgraded>>;

impl<S: AsyncRead + AsyncWrite + Unpin> Side<S> {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    pub(super) async fn says(&mut self, value: Value) {
        self.send(&frame(Opcode::Text, value.to_string().as_bytes(), self.key)).await;
    }

    /// Gets the next item; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Item> {
        tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                if let Some(item) = self.messages.take(&mut self.buffer).unwrap() {
                    return Some(item);
                }
                if !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
                    return None;
                }
            }
        })
        .await
        .expect("something")
    }

    pub(super) async fn hears(&mut self) -> Value {
        match self.next().await {
            Some(Item::Message(message)) => serde_json::from_slice(message.content()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Asserts that an event says why, and that the socket ends.
    pub(super) async fn is_refused(&mut self, status: u16, code: &str, close: u16) {
        let event = self.hears().await;
        assert_eq!(
            (&event["type"], &event["status"], &event["error"]["code"]),
            (&json!("error"), &json!(status), &json!(code)),
            "{event}"
        );
        let Some(Item::Control { opcode: Opcode::Close, wire, .. }) = self.next().await else { panic!() };
        assert_eq!(wire[2..4], close.to_be_bytes());
        assert!(self.next().await.is_none());
    }
}

impl Server {
    /// Hears nothing more than the end.
    pub(super) async fn hears_nothing(&mut self) {
        assert!(self.next().await.is_none());
    }
}

/// A bench whose model API has WebSockets, and one that is open.
pub(super) async fn talk(limit: Option<u64>) -> (Bench, Bottle, Server) {
    talk_with(limit, &[]).await
}

/// As [`talk`], with features of the API that the route allows.
pub(super) async fn talk_with(limit: Option<u64>, tools: &[&str]) -> (Bench, Bottle, Server) {
    let (sent, mut taken) = mpsc::unbounded_channel();
    let taking = Taken(sent);
    let script: Script = Arc::new(move |_| {
        Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            .extension(taking.clone())
            .body(full(""))
            .unwrap()
    });
    let bench = bench(limit, script).await;
    let mut routes = bench.routes.clone();
    routes[0].api = Some(ApiFamily::OpenaiResponses);
    routes[0].server_tools = tools.iter().map(|&tool| tool.to_owned()).collect();
    let credentials = [("claude".to_owned(), SecretString::from(SECRET))].into();
    bench.handle.set_routes(&Rules { routes, credentials, ..Rules::default() }).unwrap();
    let (stream, head) = websocket::handshake(&bench, MODEL, "/v1/responses").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let side = |sender, most| (Messages::new(sender, most), BytesMut::new());
    let (messages, buffer) = side(Sender::Server, 1 << 20);
    let bottle = Side { stream, messages, buffer, key: Some(KEY) };
    let upgraded = taken.recv().await.unwrap().await.unwrap();
    let (messages, buffer) = side(Sender::Client, 1 << 20);
    let server = Side { stream: TokioIo::new(upgraded), messages, buffer, key: None };
    (bench, bottle, server)
}

pub(super) fn create(lane: Option<&str>) -> Value {
    let mut create = json!({"type": "response.create", "model": "gpt-x", "input": "hello", "max_output_tokens": 50});
    if let Some(lane) = lane {
        create["stream_id"] = json!(lane);
    }
    create
}

pub(super) fn begun(id: &str) -> Value {
    json!({"type": "response.created", "response": {"id": id, "model": "gpt-x", "usage": null}})
}

pub(super) fn ended(id: &str, input: u64, output: u64) -> Value {
    let usage = json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output});
    json!({"type": "response.completed", "response": {"id": id, "model": "gpt-x", "usage": usage}})
}

pub(super) fn laned(lane: &str, mut event: Value) -> Value {
    event["stream_id"] = json!(lane);
    event
}

pub(super) async fn holds(bench: &Bench) -> u64 {
    bench.ledger.open_holds(None).await.unwrap()
}

#[tokio::test]
async fn a_response_is_reserved_before_it_is_asked_for_and_settled_before_its_last_event() {
    let (bench, mut bottle, mut server) = talk(None).await;
    let seen = &bench.seen()[0];
    assert_eq!(seen.headers["x-api-key"], SECRET);
    for name in ["authorization", "sec-websocket-extensions", "sec-websocket-protocol"] {
        assert!(!seen.headers.contains_key(name), "{name}");
    }
    for (number, id) in [(1, "resp_1"), (2, "resp_2")] {
        let mut asked = create(None);
        if number == 2 {
            // Of this socket, so what is in it came from here.
            asked["previous_response_id"] = json!("resp_1");
        }
        bottle.says(asked.clone()).await;
        assert_eq!(server.hears().await, asked, "as it came");
        assert_eq!(holds(&bench).await, 1, "reserved before it went on");
        let delta = json!({"type": "response.output_text.delta", "delta": "hi"});
        for event in [begun(id), delta, json!({"type": "codex.rate_limits"})] {
            server.says(event.clone()).await;
            assert_eq!(bottle.hears().await, event);
            assert_eq!(holds(&bench).await, 1);
        }
        server.says(ended(id, 7, 5)).await;
        bottle.hears().await;
        assert_eq!(holds(&bench).await, 0, "settled before it went on");
        assert_eq!(bench.counted().await, 12 * number);
    }
    let usage = bench.events("usage").await;
    assert_eq!(usage.len(), 2);
    assert_eq!((&usage[1]["tokens"]["input"], &usage[1]["tokens"]["output"]), (&json!(7), &json!(5)));
    drop(bottle);
    server.hears_nothing().await;
}

#[tokio::test]
async fn what_a_message_must_not_ask_for_never_leaves() {
    let with = |key: &str, value: Value| {
        let mut asked = create(None);
        asked[key] = value;
        asked
    };
    for (asked, code) in [
        (with("tools", json!([{"type": "web_search"}])), "server_tool"),
        (with("previous_response_id", json!("resp_of_another")), "server_tool"),
        (json!({"type": "response.steer", "previous_response_id": "resp_of_another", "input": "x"}), "server_tool"),
        (json!({"type": "session.update"}), "protocol_unknown"),
        (json!({"type": "response.create"}), "protocol_unknown"),
    ] {
        let (bench, mut bottle, mut server) = talk(None).await;
        bottle.says(asked).await;
        bottle.is_refused(400, code, 1008).await;
        server.hears_nothing().await;
        assert_eq!(bench.events("denied").await.last().unwrap()["kind"], code);
        assert_eq!((holds(&bench).await, bench.counted().await), (0, 0));
    }
}

#[tokio::test]
async fn frames_that_are_not_understood_end_the_socket_either_way() {
    let mut compressed = frame(Opcode::Text, create(None).to_string().as_bytes(), Some(KEY));
    compressed[0] |= 0x40;
    for (bytes, close) in [
        (compressed, 1002),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 1002),
        (frame(Opcode::Text, b"{}", None), 1002),
        (frame(Opcode::Binary, b"{}", Some(KEY)), 1003),
    ] {
        let (_bench, mut bottle, mut server) = talk(None).await;
        bottle.send(&bytes).await;
        bottle.is_refused(400, "protocol_unknown", close).await;
        server.hears_nothing().await;
    }
    let mut huge = vec![0x81, 0xff];
    huge.extend((64u64 << 20).to_be_bytes());
    huge.extend(KEY);
    let (_bench, mut bottle, mut server) = talk(None).await;
    bottle.send(&huge).await;
    bottle.is_refused(400, "body_too_large", 1009).await;
    server.hears_nothing().await;
    for bytes in [
        vec![0xc1, 2, b'{', b'}'],
        frame(Opcode::Text, b"no event", None),
        frame(Opcode::Text, begun("resp_unasked").to_string().as_bytes(), None),
    ] {
        let (_bench, mut bottle, mut server) = talk(None).await;
        server.send(&bytes).await;
        let event = bottle.hears().await;
        assert_eq!(event["error"]["code"], "protocol_unknown", "{event}");
    }
}

#[tokio::test]
async fn control_frames_and_closing_codes_pass() {
    let (_bench, mut bottle, mut server) = talk(None).await;
    for (opcode, payload) in [(Opcode::Ping, &b"are you there"[..]), (Opcode::Pong, b"")] {
        bottle.send(&frame(opcode, payload, Some(KEY))).await;
        let Some(Item::Control { opcode: heard, wire, .. }) = server.next().await else { panic!() };
        assert_eq!((heard, wire.len()), (opcode, 6 + payload.len()));
        server.send(&frame(opcode, payload, None)).await;
        let Some(Item::Control { wire, .. }) = bottle.next().await else { panic!() };
        assert_eq!(wire, frame(opcode, payload, None));
    }
    let code = 4001u16.to_be_bytes();
    bottle.send(&frame(Opcode::Close, &code, Some(KEY))).await;
    let Some(Item::Control { wire, .. }) = server.next().await else { panic!() };
    assert_eq!(wire, frame(Opcode::Close, &code, Some(KEY)));
    server.send(&close(4001, "bye")).await;
    let Some(Item::Control { wire, .. }) = bottle.next().await else { panic!() };
    assert_eq!(wire, close(4001, "bye"));
    drop(server);
    assert!(bottle.next().await.is_none());
}

#[tokio::test]
async fn responses_of_two_lanes_are_each_charged_their_own() {
    let (bench, mut bottle, mut server) = talk(None).await;
    for lane in ["a", "b"] {
        bottle.says(create(Some(lane))).await;
        server.hears().await;
    }
    assert_eq!(holds(&bench).await, 2);
    for (lane, event) in [("b", begun("resp_b")), ("a", begun("resp_a")), ("b", ended("resp_b", 100, 1))] {
        server.says(laned(lane, event)).await;
        bottle.hears().await;
    }
    assert_eq!((holds(&bench).await, bench.counted().await), (1, 101));
    server.says(laned("a", json!({"type": "error", "status": 500, "error": {}}))).await;
    bottle.hears().await;
    assert_eq!(holds(&bench).await, 0);
    assert_eq!(bench.events("usage").await.last().unwrap()["source"], "partial");
    // What the server refuses before it begins costs nothing.
    let before = bench.counted().await;
    bottle.says(create(Some("b"))).await;
    server.hears().await;
    server.says(laned("b", json!({"type": "error", "status": 429, "error": {}}))).await;
    bottle.hears().await;
    assert_eq!((holds(&bench).await, bench.counted().await), (0, before));
}

#[tokio::test]
async fn a_cut_in_the_middle_is_told_and_settled_by_what_was_seen() {
    let (bench, mut bottle, mut server) = talk(None).await;
    bottle.says(create(None)).await;
    server.hears().await;
    server.says(begun("resp_1")).await;
    bottle.hears().await;
    // A cut by a budget lets it finish; one by the operator does not.
    bench.handle.cut(CutScope::Metered, "spent", true);
    let delta = json!({"type": "response.output_text.delta", "delta": "x".repeat(300)});
    server.says(delta).await;
    bottle.hears().await;
    bench.handle.cut(CutScope::All, "operator said stop", false);
    bottle.is_refused(429, "usage_limit_reached", 1008).await;
    server.hears_nothing().await;
    bench.settled().await;
    let usage = bench.events("usage").await;
    assert_eq!(usage[0]["source"], "partial", "{usage:?}");
    assert!(bench.counted().await >= 100);
}

#[tokio::test]
async fn a_spent_budget_lets_what_is_under_way_finish_and_then_says_so() {
    let (bench, mut bottle, mut server) = talk(Some(100)).await;
    bottle.says(create(None)).await;
    server.hears().await;
    server.says(begun("resp_1")).await;
    bottle.hears().await;
    bench.handle.cut(CutScope::Metered, "the budget is spent", true);
    server.says(ended("resp_1", 90, 20)).await;
    assert_eq!(bottle.hears().await["type"], "response.completed");
    bottle.is_refused(429, "usage_limit_reached", 1008).await;
    assert_eq!(bench.counted().await, 110);
    assert_eq!(bench.told.0.lock().unwrap().len(), 1);

    // One that does not fit is refused before it leaves, in the words of its budget.
    let (bench, mut bottle, mut server) = talk(Some(3)).await;
    bottle.says(create(None)).await;
    let event = bottle.hears().await;
    let sentence = event["headers"]["x-codex-promo-message"].as_str().unwrap();
    assert!(sentence.contains("too small for the next request"), "{event}");
    server.hears_nothing().await;
    assert_eq!(bench.events("denied").await.last().unwrap()["kind"], "budget_exhausted");
}

#[tokio::test]
async fn an_echoed_credential_is_taken_out_and_a_withdrawn_route_ends_the_socket() {
    let (bench, mut bottle, mut server) = talk(None).await;
    let text = json!({"type": "codex.note", "text": format!("key {SECRET}")}).to_string();
    let (one, two) = text.as_bytes().split_at(40);
    let mut first = frame(Opcode::Text, one, None);
    first[0] &= 0x7f;
    server.send(&[first, frame(Opcode::Continuation, two, None)].concat()).await;
    let heard = bottle.hears().await.to_string();
    assert!(heard.contains("codex.note") && !heard.contains(SECRET), "{heard}");
    bench.handle.set_routes(&Rules::default()).unwrap();
    bottle.is_refused(400, "route_missing", 1008).await;
    server.hears_nothing().await;
}

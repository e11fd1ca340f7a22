//! A socket as a client has it: many responses, lanes, input that is only made ready, steering, errors, and what is no WebSocket.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::super::tests::{LIMIT, start, tls};
use super::super::{Rehearsal, Stats};
use super::*;
use crate::meter::events::{Does, Event};

const KEY: [u8; 4] = [4, 3, 2, 1];

struct Talk {
    stream: tokio::io::BufReader<TlsStream<TcpStream>>,
    messages: Messages,
    buffer: BytesMut,
}

impl Talk {
    async fn begin(to: &Rehearsal) -> Talk {
        let mut stream = tokio::io::BufReader::new(tls(to, "api.openai.com", false).await);
        let head = "GET /v1/responses HTTP/1.1\r\nhost: api.openai.com\r\nauthorization: Bearer sk-test\r\nconnection: Upgrade\r\n\
            upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut answer).await.unwrap() > 0, "{answer}");
        }
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        // As the RFC has it for this key.
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        Talk { stream, messages: Messages::new(Sender::Server, 1 << 20), buffer: BytesMut::new() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn says(&mut self, value: &Value) {
        self.send(&frame(Opcode::Text, value.to_string().as_bytes(), Some(KEY))).await;
    }

    async fn next(&mut self) -> Option<Item> {
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

    async fn hears(&mut self) -> Value {
        match self.next().await {
            Some(Item::Message(message)) => serde_json::from_slice(message.content()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// Hears a whole response; gets its last event, all of whose events were of `lane`.
    async fn hears_all(&mut self, lane: Option<&str>) -> Value {
        let first = self.hears().await;
        assert_eq!(first["type"], "response.created", "{first}");
        loop {
            let event = self.hears().await;
            assert_eq!(event["stream_id"].as_str(), lane, "{event}");
            if event["type"] == "response.completed" {
                assert_eq!(event["response"]["id"], first["response"]["id"]);
                return event;
            }
            assert!(event["type"].as_str().unwrap().starts_with("response."), "{event}");
        }
    }
}

fn run<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn create(input: &str) -> Value {
    json!({"type": "response.create", "model": "m", "input": input})
}

fn following(id: &Value, input: &str) -> Value {
    let mut create = create(input);
    create["previous_response_id"] = id.clone();
    create
}

fn turns() -> Value {
    let usage = |input: u64| json!({"input": input, "output": 5});
    json!([{"text": "one", "usage": usage(10)}, {"text": "two", "usage": usage(20)}])
}

#[test]
fn many_responses_pass_and_each_goes_on_from_an_earlier_one() {
    let rehearsal = start(json!({"turns": turns()}));
    run(async {
        let mut talk = Talk::begin(&rehearsal).await;
        talk.says(&create("do it")).await;
        let first = talk.hears_all(None).await;
        assert_eq!(first["response"]["usage"]["input_tokens"], 10);
        // It is in the conversation of whoever goes on from it: the model's next turn comes.
        for _ in 0..2 {
            talk.says(&following(&first["response"]["id"], "go on")).await;
            assert_eq!(talk.hears_all(None).await["response"]["usage"]["input_tokens"], 20);
        }
        talk.says(&following(&json!("resp_of_nobody"), "go on")).await;
        let error = talk.hears().await;
        assert_eq!((&error["type"], &error["status"]), (&json!("error"), &json!(400)), "{error}");
        // Null says that it goes on from nothing.
        talk.says(&following(&Value::Null, "do it")).await;
        assert_eq!(talk.hears_all(None).await["response"]["usage"]["input_tokens"], 10);
    });
    // The last word is counted once it is said.
    assert!(rehearsal.wait_for(LIMIT, |stats| stats.completed.output == 20), "{:?}", rehearsal.stats());
    let Stats { completed, requests, .. } = rehearsal.stats();
    assert_eq!((completed.input, completed.output), (10 + 20 + 20 + 10, 20));
    let statuses: Vec<_> = requests.iter().map(|request| request.status).collect();
    assert_eq!(statuses, [101, 200, 200, 200, 400, 200]);
}

#[test]
fn each_lane_gets_its_events_and_input_that_is_made_ready_costs_nothing() {
    let rehearsal = start(json!({"turns": turns()}));
    run(async {
        let mut talk = Talk::begin(&rehearsal).await;
        let mut ready = create("do it");
        ready["generate"] = json!(false);
        talk.says(&ready).await;
        let ready = talk.hears_all(None).await;
        assert_eq!(
            (&ready["response"]["usage"]["output_tokens"], &ready["response"]["output"]),
            (&json!(0), &json!([]))
        );
        // Asked for together, before any of them is answered.
        for lane in ["a", "b"] {
            let mut create = following(&ready["response"]["id"], "go on");
            create["stream_id"] = json!(lane);
            talk.says(&create).await;
        }
        for lane in ["a", "b"] {
            let last = talk.hears_all(Some(lane)).await;
            assert_eq!(last["response"]["usage"]["output_tokens"], 5);
        }
    });
    assert!(rehearsal.wait_for(LIMIT, |stats| stats.completed.output == 10), "{:?}", rehearsal.stats());
}

#[test]
fn what_it_cannot_do_it_says_and_the_socket_goes_on() {
    let rehearsal =
        start(json!({"turns": [{"text": "one", "error": 429}, {"error": "broken", "text": "two, and more of it"}]}));
    run(async {
        let mut talk = Talk::begin(&rehearsal).await;
        let steer = json!({"type": "response.steer", "previous_response_id": "resp_1", "input": "no"});
        talk.says(&steer).await;
        let event = talk.hears().await;
        let read = Event::read(event.to_string().as_bytes()).unwrap();
        assert_eq!(
            (read.does, read.id.as_deref()),
            (Does::SteersNot, Some("resp_1")),
            "as the meter reads it: {event}"
        );
        talk.send(&frame(Opcode::Text, b"no json", Some(KEY))).await;
        assert_eq!(talk.hears().await["type"], "error");
        talk.says(&json!({"type": "session.update", "stream_id": "a"})).await;
        let error = talk.hears().await;
        assert_eq!((&error["status"], &error["stream_id"]), (&json!(400), &json!("a")));
        talk.send(&frame(Opcode::Ping, b"there?", Some(KEY))).await;
        let Some(Item::Control { opcode: Opcode::Pong, payload, .. }) = talk.next().await else { panic!() };
        assert_eq!(payload, &b"there?"[..], "what was asked (RFC 6455, 5.5.3)");
        // A fault of the scenario comes once; the client asks again on the same socket.
        talk.says(&create("do it")).await;
        assert_eq!(talk.hears().await["status"], 429);
        talk.says(&create("do it")).await;
        let first = talk.hears_all(None).await;
        // One that breaks off takes the socket with it.
        talk.says(&following(&first["response"]["id"], "go on")).await;
        assert_eq!(talk.hears().await["type"], "response.created");
        while talk.next().await.is_some() {}
    });
    let stats = rehearsal.stats();
    assert!(!stats.requests.last().unwrap().terminal && stats.completed.output > 0);
}

#[test]
fn a_close_is_answered_and_what_is_no_frame_ends_it() {
    let rehearsal = start(json!({}));
    run(async {
        let mut talk = Talk::begin(&rehearsal).await;
        talk.send(&frame(Opcode::Close, &1000u16.to_be_bytes(), Some(KEY))).await;
        assert!(matches!(talk.next().await, Some(Item::Control { opcode: Opcode::Close, .. })));
        assert!(talk.next().await.is_none());
        let mut talk = Talk::begin(&rehearsal).await;
        talk.send(&frame(Opcode::Text, b"{}", None)).await;
        assert!(talk.next().await.is_none(), "a client masks");
    });
}

#[test]
fn who_sends_on_while_it_is_answered_is_answered_in_order() {
    let rehearsal = start(json!({"turns": [{"text": "some words to say", "chunk_ms": 20}]}));
    run(async {
        let mut talk = Talk::begin(&rehearsal).await;
        talk.says(&create("do it")).await;
        assert_eq!(talk.hears().await["type"], "response.created");
        for n in 0..100u8 {
            talk.send(&frame(Opcode::Ping, &[n], Some(KEY))).await;
        }
        talk.says(&create("do it")).await;
        while talk.hears().await["type"] != "response.completed" {}
        for n in 0..100u8 {
            let Some(Item::Control { opcode: Opcode::Pong, payload, .. }) = talk.next().await else { panic!("{n}") };
            assert_eq!(payload, &[n][..]);
        }
        talk.hears_all(None).await;
    });
}

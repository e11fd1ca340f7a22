//! The client against a small server on a Unix socket that the test itself runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::api::ExecFrame;

/// A home in a directory that goes away with it.
struct Scratch(Home);

impl Scratch {
    fn new(name: &str) -> Self {
        let root = PathBuf::from(format!("/tmp/bb-client-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        Scratch(Home::open(&root, None).unwrap())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0.root);
    }
}

fn version(api: u32) -> String {
    format!(r#"{{"api":{api},"version":"0.0.0","pid":7,"home":"/x","started":0,"running":0}}"#)
}

/// Serves the home's socket: `answer(path, body)` gives status and body.
fn serve(home: &Home, answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) {
    let _ = std::fs::remove_file(home.socket());
    let listener = UnixListener::bind(home.socket()).unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(
                TokioIo::new(stream),
                service_fn(move |request: http::Request<Incoming>| {
                    let answer = answer.clone();
                    async move {
                        let path = request.uri().to_string();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let (status, text) = answer(&path, std::str::from_utf8(&body).unwrap());
                        let response = Response::builder().status(status).body(Full::new(Bytes::from(text)));
                        Ok::<_, std::convert::Infallible>(response.unwrap())
                    }
                }),
            ));
        }
    });
}

/// Serves raw text, one connection after the other, closing each after what it was given.
fn serve_raw(home: &Home, answers: Vec<&'static str>) -> tokio::task::JoinHandle<Vec<String>> {
    let _ = std::fs::remove_file(home.socket());
    let listener = UnixListener::bind(home.socket()).unwrap();
    tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                let n = stream.read(&mut buffer).await.unwrap();
                request.extend_from_slice(&buffer[..n]);
            }
            let text = String::from_utf8(request).unwrap();
            asked.push(text.lines().next().unwrap().to_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    })
}

const VERSION_1: &str = "HTTP/1.1 200 OK\r\ncontent-length: 71\r\n\r\n\
    {\"api\":1,\"version\":\"0.0.0\",\"pid\":7,\"home\":\"/x\",\"started\":0,\"running\":0}";

#[tokio::test]
async fn without_a_controller_connect_says_none() {
    let scratch = Scratch::new("none");
    assert!(Client::connect(&scratch.0).await.unwrap().is_none());
}

#[tokio::test]
async fn another_major_version_is_refused_with_the_remedy() {
    let scratch = Scratch::new("major");
    serve(&scratch.0, |_, _| (200, version(2)));
    let error = Client::connect(&scratch.0).await.unwrap_err();
    assert_eq!(error.kind, Kind::ControllerVersion);
    assert!(error.message.contains("pid 7"), "{error}");
    assert!(error.hint.unwrap().contains("bb controller restart"));
}

#[tokio::test]
async fn an_older_controller_is_sent_what_it_knows_or_is_to_be_restarted() {
    let launch = Launch { id: "x".into(), origins: vec![api::Origin::default()], ..Launch::default() };
    let now = format!(r#""revision":{},"#, api::API_REVISION);
    for (revision, sends) in [("", false), (now.as_str(), true)] {
        let scratch = Scratch::new(if sends { "revision" } else { "older" });
        let said = version(1).replacen("{", &format!("{{{revision}"), 1);
        serve(&scratch.0, move |path, body| match path {
            "/v1/version" => (200, said.clone()),
            _ => {
                assert_eq!(body.contains("origins"), sends, "{body}");
                (400, r#"{"error":{"kind":"unknown_key","message":"unknown key `proxy`"}}"#.into())
            }
        });
        let client = Client::connect(&scratch.0).await.unwrap().unwrap();
        let error = client.launch(&launch).await.unwrap_err();
        assert_eq!(error.kind, if sends { Kind::UnknownKey } else { Kind::ControllerVersion });
        assert!(sends || error.message.contains("`proxy`") && error.hint.unwrap().contains("bb controller restart"));
    }
}

#[tokio::test]
async fn headers_are_asked_only_of_a_controller_that_looks_at_them() {
    let asked = |lines: &[&str]| api::Unsent {
        url: "a.example".into(),
        method: "GET".into(),
        headers: lines.iter().map(|line| (*line).to_owned()).collect(),
    };
    for (revision, knows) in [(1, false), (api::HEADERS_ASKED, true)] {
        let scratch = Scratch::new(if knows { "headers" } else { "no-headers" });
        let said = version(1).replacen("{", &format!(r#"{{"revision":{revision},"#), 1);
        serve(&scratch.0, move |path, _| match path {
            "/v1/version" => (200, said.clone()),
            path => {
                let want = "/v1/bottles/s/why?url=a.example&method=GET";
                let with = format!("{want}&header=A:%201&header=B:%202");
                assert!(path == want || knows && path == with, "{path}");
                (200, serde_json::to_string(&api::Verdict { allowed: true, ..Default::default() }).unwrap())
            }
        });
        let client = Client::connect(&scratch.0).await.unwrap().unwrap();
        assert!(client.why("s", &asked(&[])).await.unwrap().allowed);
        match client.why("s", &asked(&["A: 1", "B: 2"])).await {
            Ok(verdict) => assert!(knows && verdict.allowed),
            Err(error) => assert!(!knows && error.kind == Kind::ControllerVersion, "{error}"),
        }
    }
}

#[tokio::test]
async fn a_held_lock_without_an_answer_names_the_pid() {
    let scratch = Scratch::new("silent");
    std::fs::write(scratch.0.lock(), "4242\n").unwrap();
    let lock = std::fs::File::open(scratch.0.lock()).unwrap();
    lock.lock().unwrap();
    let error = Client::connect(&scratch.0).await.unwrap_err();
    assert_eq!(error.kind, Kind::ControllerSilent);
    assert!(error.message.contains("pid 4242"), "{error}");
    assert!(error.hint.unwrap().contains("bb controller stop --force"));
}

#[tokio::test]
async fn calls_carry_their_bodies_and_errors_come_back_whole() {
    let scratch = Scratch::new("calls");
    serve(&scratch.0, |path, body| {
        match path {
        "/v1/version" => (200, version(1)),
        "/v1/usage/query" if body.contains(r#""book":"rehearsal""#) => {
            (200, r#"{"rows":[],"total":{"requests":3,"input":1,"cache_read":0,"cache_write":0,"output":2,"reasoning":0,"counted":3,"estimated":0}}"#.into())
        }
        "/v1/bottles/no%2Fsuch" => {
            (404, r#"{"error":{"kind":"no_such_bottle","message":"no bottle is called no/such","hint":"see `bb ps`"}}"#.into())
        }
        other => panic!("unexpected call {other} {body}"),
    }
    });
    let client = Client::connect(&scratch.0).await.unwrap().unwrap();
    let query = UsageQuery { book: Book::Rehearsal, ..Default::default() };
    assert_eq!(client.usage(&query).await.unwrap().total.requests, 3);
    let error = client.bottle("no/such").await.unwrap_err();
    assert_eq!((error.kind, error.hint.as_deref()), (Kind::NoSuchBottle, Some("see `bb ps`")));
}

#[tokio::test]
async fn an_event_stream_that_breaks_goes_on_after_the_last_event_and_tells_none_twice() {
    let scratch = Scratch::new("events");
    let asked = serve_raw(
        &scratch.0,
        vec![
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2f\r\n{\"v\":1,\"seq\":5,\"ts\":0,\"type\":\"usage\",\"data\":1}\n\r\n",
            VERSION_1,
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
             {\"v\":1,\"seq\":5,\"ts\":0,\"type\":\"usage\"}\n{\"v\":1,\"seq\":6,\"ts\":0,\"type\":\"crossed\"}\n",
        ],
    );
    let client = Client { home: scratch.0.clone(), may_start: true, revision: 0 };
    let filter = EventFilter { run: Some("r".into()), follow: true, ..Default::default() };
    let mut events = client.events(filter).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().seq, 5);
    let second = events.next().await.unwrap().unwrap();
    assert_eq!((second.seq, second.kind.as_str()), (6, "crossed"));
    let asked = asked.await.unwrap();
    assert_eq!(asked[0], "GET /v1/events?book=real&run=r&follow=1 HTTP/1.1");
    assert_eq!(asked[2], "GET /v1/events?book=real&since=5&run=r&follow=1 HTTP/1.1");
}

#[tokio::test]
async fn an_exec_that_is_interrupted_is_asked_again_and_its_output_told_once() {
    let scratch = Scratch::new("exec");
    let frame = r#"{"type":"output","n":1,"ts":0,"exec":1,"stream":"stdout","text":"a"}"#;
    let whole = format!(
        "{frame}\n{}\n{}\n",
        r#"{"type":"output","n":2,"ts":0,"exec":1,"stream":"stdout","text":"b"}"#,
        r#"{"type":"exit","exec":1,"code":3}"#
    );
    let rounds = Arc::new(AtomicU32::new(0));
    let count = rounds.clone();
    let first = format!("{frame}\n");
    serve(&scratch.0, move |path, body| match path {
        "/v1/version" => (200, version(1)),
        "/v1/bottles/s/exec" => {
            assert!(body.contains(r#""id":"one""#));
            let round = count.fetch_add(1, Ordering::SeqCst);
            (200, if round == 0 { first.clone() } else { whole.clone() })
        }
        other => panic!("unexpected call {other}"),
    });
    let client = Client { home: scratch.0.clone(), may_start: true, revision: 0 };
    let exec = api::Exec { id: "one".into(), argv: vec!["true".into()], ..Default::default() };
    let mut frames = client.exec("s", &exec).await.unwrap();
    let mut text = String::new();
    let mut code = None;
    while let Some(frame) = frames.next().await {
        match frame.unwrap() {
            ExecFrame::Output { text: t, .. } => text.push_str(&t),
            ExecFrame::Exit { code: c, .. } => code = Some(c),
        }
    }
    assert_eq!((text.as_str(), code, rounds.load(Ordering::SeqCst)), ("ab", Some(3), 2));
}

#[tokio::test]
async fn a_lease_is_taken_up_again_when_its_connection_ends() {
    let scratch = Scratch::new("lease");
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    serve(&scratch.0, move |path, _| {
        let _ = tell.send(path.to_owned());
        (200, if path == "/v1/version" { version(1) } else { "{}\n".into() })
    });
    let client = Client { home: scratch.0.clone(), may_start: true, revision: 0 };
    let lease = client.hold_lease("L1").await.unwrap();
    for _ in 0..3 {
        assert_eq!(told.recv().await.unwrap(), "/v1/leases/L1");
    }
    drop(lease);
}

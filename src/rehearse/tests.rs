//! The stand-ins as a client sees them, over TLS on loopback; and their own count.

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::*;
use crate::meter::{Meter, Reading};
use crate::types::{Api, Tokens};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// An answer: status, body, and whether the body came to its end.
struct Answer {
    status: u16,
    headers: hyper::HeaderMap,
    body: Vec<u8>,
    whole: bool,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn reading(&self, api: Api) -> Reading {
        let header = |name: &str| self.headers.get(name).and_then(|v| v.to_str().ok());
        let mut meter = Meter::new(api, header("content-type"), header("content-encoding"));
        meter.feed(&self.body);
        meter.finish();
        meter.reading()
    }
}

pub(super) fn start(table: Value) -> Rehearsal {
    Rehearsal::start(Scenario::from_value(table).unwrap()).unwrap()
}

/// Connects.
pub(super) async fn tls(
    to: &Rehearsal,
    host: &str,
    h2: bool,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(to.ca_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    let tcp = tokio::net::TcpStream::connect(to.address()).await.unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

/// Sends one request on a connection of its own and returns the answer's head.
async fn send(to: &Rehearsal, host: &str, h2: bool, method: &str, path: &str, body: &str) -> hyper::Response<Incoming> {
    let tls = tls(to, host, h2).await;
    let uri = if h2 { format!("https://{host}{path}") } else { path.to_owned() };
    let mut request = hyper::Request::builder().method(method).uri(uri).header("authorization", "Bearer sk-test");
    if !h2 {
        request = request.header("host", host);
    }
    let request = request.body(Full::new(bytes::Bytes::from(body.to_owned()))).unwrap();
    let io = TokioIo::new(tls);
    if h2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    }
}

fn ask_as(to: &Rehearsal, host: &str, h2: bool, method: &str, path: &str, body: &Value) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let response = send(to, host, h2, method, path, &body.to_string()).await;
        let (head, mut incoming) = response.into_parts();
        let mut answer = Answer { status: head.status.as_u16(), headers: head.headers, body: Vec::new(), whole: true };
        while let Some(frame) = incoming.frame().await {
            match frame {
                Ok(frame) => answer.body.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Err(_) => answer.whole = false,
            }
            if !answer.whole {
                break;
            }
        }
        answer
    })
}

const GEMINI: &str = "generativelanguage.googleapis.com";
const BEDROCK: &str = "bedrock-runtime.us-east-1.amazonaws.com";

fn ask(to: &Rehearsal, api: Api, body: &Value) -> Answer {
    match api {
        Api::Anthropic => ask_as(to, "api.anthropic.com", false, "POST", "/v1/messages", body),
        Api::OpenaiResponses => ask_as(to, "api.openai.com", true, "POST", "/v1/responses", body),
        Api::OpenaiChat => ask_as(to, "api.openai.com", true, "POST", "/v1/chat/completions", body),
        Api::BedrockConverse => {
            let verb = if body["stream"] == true { "converse-stream" } else { "converse" };
            ask_as(to, BEDROCK, false, "POST", &format!("/model/m/{verb}"), body)
        }
        Api::BedrockInvoke => {
            let verb = if body["stream"] == true { "invoke-with-response-stream" } else { "invoke" };
            ask_as(to, BEDROCK, false, "POST", &format!("/model/m/{verb}"), body)
        }
        Api::Gemini => {
            let verb = if body["stream"] == true { "streamGenerateContent?alt=sse" } else { "generateContent" };
            ask_as(to, GEMINI, true, "POST", &format!("/v1beta/models/m:{verb}"), body)
        }
    }
}

/// A request of an agent whose conversation has `done` turns of the model.
fn request(api: Api, done: usize, stream: bool) -> Value {
    let user = json!({"role": "user", "content": "do it"});
    let model = json!({"role": "assistant", "content": "x"});
    let mut messages = vec![user.clone()];
    (0..done).for_each(|_| messages.extend([model.clone(), user.clone()]));
    match api {
        Api::Anthropic | Api::BedrockInvoke => json!({"model": "m", "stream": stream, "max_tokens": 9,
            "messages": messages, "tools": [{"name": "write_file", "input_schema": {"type": "object"}}]}),
        Api::OpenaiChat => json!({"model": "m", "stream": stream, "stream_options": {"include_usage": true},
            "messages": messages, "tools": [{"type": "function", "function": {"name": "write_file"}}]}),
        Api::BedrockConverse => json!({"stream": stream, "messages": messages,
            "toolConfig": {"tools": [{"toolSpec": {"name": "write_file", "inputSchema": {"json": {}}}}]}}),
        Api::OpenaiResponses => json!({"model": "m", "stream": stream, "input": messages,
            "tools": [{"type": "function", "name": "exec_command", "parameters": {}}, {"type": "custom", "name": "apply_patch"}]}),
        Api::Gemini => {
            let said = |role: &str| json!({"role": role, "parts": [{"text": "x"}]});
            let turns = (0..done).flat_map(|_| [said("model"), said("user")]);
            json!({"stream": stream, "contents": std::iter::once(said("user")).chain(turns).collect::<Vec<_>>(),
                "tools": [{"functionDeclarations": [{"name": "write_file"}, {"name": "run_shell_command"}]}]})
        }
    }
}

const SCRIPTED: Tokens =
    Tokens { input: 1200, cache_read: 300, cache_write: 90, cache_write_long: 10, output: 80, reasoning: 20 };

/// What an API can say of it: Gemini has no word for what is written to a cache, others none for how long that lives.
fn said(api: Api) -> Tokens {
    match api {
        Api::Gemini => Tokens { input: 1300, cache_write: 0, cache_write_long: 0, ..SCRIPTED },
        Api::OpenaiChat => Tokens { cache_write: 100, cache_write_long: 0, ..SCRIPTED },
        Api::BedrockConverse => Tokens { cache_write: 100, cache_write_long: 0, reasoning: 0, ..SCRIPTED },
        Api::Anthropic | Api::BedrockInvoke | Api::OpenaiResponses => SCRIPTED,
    }
}

fn scripted() -> Value {
    let usage = serde_json::to_value(SCRIPTED).unwrap();
    json!([{"text": "I write \u{e9} and {\"usage\":{}}.", "edit": {"path": "a.txt", "content": "hi\n"}, "usage": usage}, {"text": "Done now."}])
}

#[test]
fn the_meter_reads_what_was_scripted_whatever_the_form_of_the_answer() {
    for gzip in [false, true] {
        let rehearsal = start(json!({"turns": scripted(), "gzip": gzip}));
        for api in Api::ALL {
            for stream in [true, false] {
                let answer = ask(&rehearsal, api, &request(api, 0, stream));
                let reading = answer.reading(api);
                assert_eq!(
                    (answer.status, reading.tokens),
                    (200, Some(said(api))),
                    "{api:?} stream={stream} gzip={gzip}"
                );
                assert!(reading.terminal && !reading.broken);
                // Converse does not say who answered.
                assert_eq!(reading.model.as_deref(), (api != Api::BedrockConverse).then_some("m"));
                assert_eq!(reading.streamed > 0, stream);
                assert!(reading.streamed <= SCRIPTED.output);
            }
        }
        let stats = rehearsal.stats();
        assert_eq!((stats.total, stats.completed.input, stats.begun.output), (12, 14_400, 960));
        assert!(stats.requests.iter().all(|r| r.terminal && !r.open && !r.client_gone && r.turn == Some(0)));
    }
}

#[test]
fn a_conversation_gets_its_next_turn_however_often_it_asks() {
    let rehearsal = start(json!({"turns": scripted()}));
    for api in Api::ALL {
        for done in [1, 0, 1, 2] {
            let text = String::from_utf8(ask(&rehearsal, api, &request(api, done, false)).body).unwrap();
            let calls = text.contains("write_file") || text.contains("exec_command");
            assert_eq!((calls, text.contains("Done now.")), (done == 0, done == 1), "{api:?} after {done}: {text}");
        }
    }
    // Without scripted usage the same request always says the same.
    let of =
        || ask(&rehearsal, Api::Anthropic, &request(Api::Anthropic, 1, true)).reading(Api::Anthropic).tokens.unwrap();
    assert_eq!(of(), of());
    assert!(of().cache_read > 0);
}

#[test]
fn ids_are_fresh_in_every_run_unless_a_seed_is_given() {
    let id = |table: Value| {
        let rehearsal = start(table);
        let first = ask(&rehearsal, Api::Anthropic, &request(Api::Anthropic, 0, false)).json()["id"].clone();
        let second = ask(&rehearsal, Api::Anthropic, &request(Api::Anthropic, 0, false)).json()["id"].clone();
        assert_ne!(first, second);
        first
    };
    assert_ne!(id(json!({})), id(json!({})));
    assert_eq!(id(json!({"seed": 7})), id(json!({"seed": 7})));
}

/// More than two pieces of any API.
const LONG: &str = "It is said in many pieces, so that the stream can break in their midst.";

#[test]
fn a_fault_comes_as_often_as_scripted_and_then_the_answer() {
    let rehearsal =
        start(json!({"turns": [{"text": "x", "error": 529, "times": 2}, {"text": LONG, "error": "broken"}]}));
    for api in Api::ALL {
        let statuses: Vec<u16> = (0..3).map(|_| ask(&rehearsal, api, &request(api, 0, true)).status).collect();
        assert_eq!(statuses, [529, 529, 200]);
        let broken = ask(&rehearsal, api, &request(api, 1, true));
        assert!(!broken.whole && !broken.reading(api).terminal && !broken.body.is_empty());
        assert!(ask(&rehearsal, api, &request(api, 1, true)).reading(api).terminal);
    }
    let stats = rehearsal.stats();
    let broken = stats.requests.iter().find(|r| r.turn == Some(1)).unwrap();
    assert!(!broken.terminal && !broken.client_gone && broken.scripted.output > 0);
    assert!(stats.begun.output > stats.completed.output);
}

#[test]
fn a_client_that_goes_away_is_noticed_and_its_answer_does_not_count_as_completed() {
    let rehearsal = start(json!({"turns": [{"text": "a long text, in many pieces, slowly", "chunk_ms": 60_000}]}));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let body = request(Api::Anthropic, 0, true).to_string();
        let mut response = send(&rehearsal, "api.anthropic.com", false, "POST", "/v1/messages", &body).await;
        assert!(response.body_mut().frame().await.unwrap().is_ok());
    });
    drop(runtime);
    assert!(rehearsal.wait_for(LIMIT, |stats| stats.requests[0].client_gone), "{:?}", rehearsal.stats());
    let stats = rehearsal.stats();
    assert!(!stats.requests[0].terminal && stats.completed.is_zero() && !stats.begun.is_zero());
}

#[test]
fn only_the_right_credential_is_let_in_and_it_is_kept_out_of_what_is_printed() {
    let rehearsal = start(json!({"key": "sk-right"}));
    let refused = ask(&rehearsal, Api::Anthropic, &request(Api::Anthropic, 0, true));
    assert_eq!((refused.status, refused.json()["error"]["type"].as_str()), (401, Some("authentication_error")));
    let stats = rehearsal.stats();
    assert_eq!(stats.requests[0].auth["authorization"].expose_secret(), "Bearer sk-test");
    assert!(!serde_json::to_string(&stats).unwrap().contains("sk-test") && !format!("{stats:?}").contains("sk-test"));
    let accepted = start(json!({"key": "sk-test"}));
    assert_eq!(ask(&accepted, Api::OpenaiResponses, &request(Api::OpenaiResponses, 0, true)).status, 200);
}

#[test]
fn gemini_streams_events_or_an_array_and_answers_small_questions_in_their_schema() {
    let rehearsal = start(json!({"turns": scripted()}));
    let path = "/v1beta/models/m:streamGenerateContent";
    let array = ask_as(&rehearsal, GEMINI, false, "POST", path, &request(Api::Gemini, 0, true));
    assert_eq!(array.reading(Api::Gemini).tokens, Some(said(Api::Gemini)));
    assert!(array.json().as_array().unwrap().len() > 2 && array.reading(Api::Gemini).terminal);
    let schema = json!({"type": "object", "properties": {"score": {"type": "integer"}}});
    let question = json!({"contents": [{"role": "user", "parts": [{"text": "x"}]}],
        "generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": schema}});
    let answer = ask(&start(json!({})), Api::Gemini, &question).json();
    assert_eq!(answer["candidates"][0]["content"]["parts"][0]["text"], "{\"score\":1}");
    let counted = ask_as(&rehearsal, GEMINI, false, "POST", "/v1beta/models/m:countTokens", &question);
    assert!(counted.json()["totalTokens"].as_u64() > Some(10));
    let models = ask_as(&rehearsal, GEMINI, false, "GET", "/v1beta/models", &Value::Null);
    assert_eq!(models.json()["models"][0]["name"], "models/gemini-rehearsal");
    assert_eq!(ask_as(&rehearsal, GEMINI, false, "GET", "/v1beta/files", &Value::Null).status, 404);
}

#[test]
fn side_endpoints_answer_and_unknown_ones_do_not() {
    let rehearsal = start(json!({"pages": {"docs.test": "a page"}}));
    let get = |host: &str, path: &str| ask_as(&rehearsal, host, true, "GET", path, &Value::Null);
    let post =
        |host: &str, path: &str| ask_as(&rehearsal, host, false, "POST", path, &request(Api::OpenaiResponses, 0, true));
    assert_eq!(get("api.anthropic.com", "/v1/models").json()["data"][0]["type"], "model");
    assert_eq!(get("api.openai.com", "/v1/models").json()["object"], "list");
    assert_eq!(get("docs.test", "/any").body, b"a page");
    assert_eq!(get("api.openai.com", "/v1/files").status, 404);
    assert_eq!(post("api.anthropic.com", "/v1/messages").status, 400, "no messages in it");
    assert!(post("api.anthropic.com", "/v1/messages/count_tokens").json()["input_tokens"].as_u64() > Some(10));
    assert!(post("api.openai.com", "/v1/responses/input_tokens").json()["input_tokens"].as_u64() > Some(10));
    let compacted = post("api.openai.com", "/v1/responses/compact");
    assert_eq!(compacted.json()["object"], "response.compaction");
    assert!(compacted.reading(Api::OpenaiResponses).terminal);
    let untyped = post("chatgpt.com", "/backend-api/codex/responses");
    assert!(untyped.headers.get("content-type").is_none() && untyped.reading(Api::OpenaiResponses).terminal);
}

#[test]
fn a_recorded_answer_is_played_byte_by_byte_to_whoever_asks() {
    let events = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\ndata: [DONE]\n\n";
    let replay =
        json!({"text": events, "content_type": "text/event-stream", "content_encoding": "identity", "piece": 11});
    let rehearsal = start(
        json!({"turns": [{"replay": replay}, {"replay": {"base64": "AAECAw=="}}], "gzip": true, "hosts": ["llm.test"]}),
    );
    let path = "/v1/chat/completions";
    let answer = ask_as(&rehearsal, "llm.test", true, "POST", path, &request(Api::OpenaiChat, 0, true));
    assert_eq!(
        (answer.body.as_slice(), &answer.headers["content-encoding"]),
        (events.as_bytes(), &"identity".parse().unwrap())
    );
    assert!(answer.reading(Api::OpenaiChat).terminal);
    let stats = rehearsal.stats();
    assert_eq!((stats.completed.input, stats.completed.output), (7, 5));
    let bytes = ask_as(&rehearsal, "llm.test", false, "POST", path, &request(Api::OpenaiChat, 1, true));
    assert_eq!((bytes.body.as_slice(), bytes.headers.get("content-type")), (&[0, 1, 2, 3][..], None));
}

//! The demo agent's side of the Anthropic Messages API: one streamed request, tried again where that makes sense.
//!
//! It keeps its own sums of what the API says was used, apart from bb's meter: an independent figure.

use std::env;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::meter::sse::Sse;
use crate::meter::usage::Unreadable;

/// Until the answer's head is there.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Between two pieces of an answer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Largest answer. Unit: bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Times that a request is sent, at most.
const MAX_TRIES: u32 = 4;

/// Longest wait between two tries.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Why the agent cannot go on. Shown as it is.
#[derive(Debug)]
pub(super) enum Failure {
    /// The API's answer, in its own words.
    Refused(String),
    /// Anything else.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(words) | Failure::Other(words) => f.write_str(words),
        }
    }
}

/// A tool call.
#[derive(Debug)]
pub(super) struct Call {
    /// Its id.
    pub(super) id: String,
    /// The tool.
    pub(super) name: String,
    /// The arguments.
    pub(super) input: Value,
}

/// What the model said in one turn.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Its text.
    pub(super) text: String,
    /// The tools that it calls.
    pub(super) calls: Vec<Call>,
    /// Its content blocks, for the next request.
    pub(super) content: Vec<Value>,
    /// What the API says was used.
    pub(super) usage: Usage,
}

/// Sums of usage, in the API's own classes. Unit: tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    input: u64,
    cache_read: u64,
    cache_write: u64,
    cache_write_1h: u64,
    output: u64,
    thinking: u64,
}

impl Usage {
    /// Takes over the fields that `usage` has.
    fn take(&mut self, usage: &Value) {
        let mut set = |field: fn(&mut Usage) -> &mut u64, value: &Value| {
            if let Some(value) = value.as_u64() {
                *field(self) = value;
            }
        };
        set(|u| &mut u.input, &usage["input_tokens"]);
        set(|u| &mut u.cache_read, &usage["cache_read_input_tokens"]);
        set(|u| &mut u.cache_write, &usage["cache_creation_input_tokens"]);
        set(|u| &mut u.cache_write_1h, &usage["cache_creation"]["ephemeral_1h_input_tokens"]);
        set(|u| &mut u.output, &usage["output_tokens"]);
        set(|u| &mut u.thinking, &usage["output_tokens_details"]["thinking_tokens"]);
    }

    /// Adds `other`.
    pub(super) fn add(&mut self, other: &Usage) {
        self.input += other.input;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
        self.cache_write_1h += other.cache_write_1h;
        self.output += other.output;
        self.thinking += other.thinking;
    }

    /// Gets the sums as the API writes them.
    pub(super) fn to_json(self) -> Value {
        json!({
            "input_tokens": self.input,
            "cache_read_input_tokens": self.cache_read,
            "cache_creation_input_tokens": self.cache_write,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.cache_write.saturating_sub(self.cache_write_1h),
                "ephemeral_1h_input_tokens": self.cache_write_1h,
            },
            "output_tokens": self.output,
            "output_tokens_details": {"thinking_tokens": self.thinking},
        })
    }
}

/// The agent's connection to the outside: the API, and whatever its tools fetch.
pub(super) struct Client {
    http: hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    key: SecretString,
}

impl Client {
    /// Makes a client from `ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL` and the roots that `SSL_CERT_FILE` names.
    pub(super) fn from_env() -> Result<Client, Failure> {
        let key = env::var("ANTHROPIC_API_KEY").map_err(|_| Failure::Other("ANTHROPIC_API_KEY is not set".into()))?;
        let base = env::var("ANTHROPIC_BASE_URL").unwrap_or_else(|_| "https://api.anthropic.com".into());
        Client::new(base.trim_end_matches('/'), key, None)
    }

    /// Makes a client that calls `base` with `key` and trusts `ca_pem`, or the machine's roots.
    pub(super) fn new(base: &str, key: String, ca_pem: Option<&[u8]>) -> Result<Client, Failure> {
        let other = |error: &dyn fmt::Display| Failure::Other(format!("no TLS: {error}"));
        let mut roots = RootCertStore::empty();
        match ca_pem {
            Some(pem) => roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten()),
            None => roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
        };
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| other(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_all_versions()
            .build();
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Client { http, base: base.to_owned(), key: key.into() })
    }

    /// Gets `url`. The caller limits time and size.
    pub(super) async fn get(&self, url: &str) -> Result<Response<Incoming>, String> {
        let request = Request::get(url).header("user-agent", "bb-demo-agent").body(Full::default());
        let request = request.map_err(|error| error.to_string())?;
        self.http.request(request).await.map_err(|error| causes(&error))
    }

    /// Asks the model, again where the API says so or the connection breaks.
    pub(super) async fn ask(&self, body: &Value) -> Result<Said, Failure> {
        let body = Bytes::from(body.to_string());
        let mut tries = 1;
        loop {
            let (failure, wait) = match self.ask_once(body.clone()).await {
                Ok(said) => return Ok(said),
                Err((failure, wait)) => (failure, wait),
            };
            let Some(wait) = wait.filter(|_| tries < MAX_TRIES) else { return Err(failure) };
            tokio::time::sleep(wait.unwrap_or(Duration::from_millis(250 << tries))).await;
            tries += 1;
        }
    }

    /// Asks once. A failure comes with whether it is worth another try, and when if that was said.
    async fn ask_once(&self, body: Bytes) -> Result<Said, (Failure, Option<Option<Duration>>)> {
        let lost = |what: String| (Failure::Other(what), Some(None));
        let request = Request::post(format!("{}/v1/messages", self.base))
            .header("content-type", "application/json")
            .header("anthropic-version", "2023-06-01")
            .header("user-agent", "bb-demo-agent")
            .header("x-api-key", self.key.expose_secret())
            .body(Full::new(body))
            .map_err(|error| (Failure::Other(error.to_string()), None))?;
        let answer = tokio::time::timeout(HEAD_TIMEOUT, self.http.request(request)).await;
        let answer = answer.map_err(|_| lost("the API does not answer".into()))?;
        let answer = answer.map_err(|error| lost(format!("the API cannot be reached: {}", causes(&error))))?;
        let (head, incoming) = answer.into_parts();
        if !head.status.is_success() {
            let text = read(incoming, 64 << 10).await.unwrap_or_default();
            let words = serde_json::from_slice::<Value>(&text).ok();
            let words = words.and_then(|json| json["error"]["message"].as_str().map(str::to_owned));
            let words = words.unwrap_or_else(|| format!("the API answered {}", head.status));
            return Err((Failure::Refused(words), retry(head.status.as_u16(), &head.headers)));
        }
        stream(incoming).await.map_err(|failure| (failure, Some(None)))
    }
}

/// Tells whether an error answer is worth another try, and after what time if that is said.
fn retry(status: u16, headers: &HeaderMap) -> Option<Option<Duration>> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let again = match header("x-should-retry") {
        Some("true") => true,
        Some("false") => false,
        _ => matches!(status, 408 | 409 | 429 | 500..),
    };
    let wait = header("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    (again && wait.is_none_or(|wait| wait <= MAX_WAIT)).then_some(wait)
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read(body: Incoming, limit: usize) -> Result<Vec<u8>, String> {
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(error) => Err(error.to_string()),
    }
}

/// Gets an error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Follows a stream to its end.
async fn stream(mut incoming: Incoming) -> Result<Said, Failure> {
    let mut sse = Sse::default();
    let mut turn = Turn::default();
    let mut size = 0;
    while !turn.stopped {
        let frame = tokio::time::timeout(IDLE_TIMEOUT, incoming.frame()).await;
        let frame = frame.map_err(|_| Failure::Other("the answer stopped coming".into()))?;
        let Some(frame) = frame else { break };
        let data = frame.map_err(|error| Failure::Other(format!("the answer was broken off: {error}")))?;
        let Ok(data) = data.into_data() else { continue };
        size += data.len();
        if size > MAX_ANSWER {
            return Err(Failure::Other("the answer is too large".into()));
        }
        let fed = sse.feed(&data, &mut |event| turn.event(event));
        if let Some(words) = turn.error.take() {
            return Err(Failure::Refused(words));
        }
        fed.map_err(|_| Failure::Other("the answer cannot be read".into()))?;
    }
    if turn.stopped { Ok(turn.said()) } else { Err(Failure::Other("the answer ended early".into())) }
}

/// A turn of the model as it comes in.
#[derive(Default)]
struct Turn {
    blocks: Vec<Block>,
    usage: Usage,
    stopped: bool,
    error: Option<String>,
}

enum Block {
    Text(String),
    Tool { id: String, name: String, input: String },
}

impl Turn {
    fn event(&mut self, data: &[u8]) -> Result<(), Unreadable> {
        let event: Value = serde_json::from_slice(data).map_err(|_| Unreadable::Form)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => self.usage.take(&event["message"]["usage"]),
            "message_delta" => self.usage.take(&event["usage"]),
            "message_stop" => self.stopped = true,
            "error" => self.error = Some(text(&event["error"]["message"])),
            "content_block_start" => {
                let block = &event["content_block"];
                self.blocks.push(match block["type"].as_str() {
                    Some("tool_use") => {
                        Block::Tool { id: text(&block["id"]), name: text(&block["name"]), input: String::new() }
                    }
                    _ => Block::Text(text(&block["text"])),
                });
            }
            "content_block_delta" => match self.blocks.last_mut() {
                Some(Block::Text(so_far)) => so_far.push_str(event["delta"]["text"].as_str().unwrap_or_default()),
                Some(Block::Tool { input, .. }) => {
                    input.push_str(event["delta"]["partial_json"].as_str().unwrap_or_default());
                }
                None => {}
            },
            _ => {}
        }
        Ok(())
    }

    fn said(self) -> Said {
        let mut said = Said { usage: self.usage, ..Said::default() };
        for block in self.blocks {
            match block {
                Block::Text(text) if text.is_empty() => {}
                Block::Text(text) => {
                    said.content.push(json!({"type": "text", "text": text}));
                    said.text += &text;
                }
                Block::Tool { id, name, input } => {
                    let input: Value = serde_json::from_str(&input).unwrap_or_else(|_| json!({}));
                    said.content.push(json!({"type": "tool_use", "id": id, "name": name, "input": input}));
                    said.calls.push(Call { id, name, input });
                }
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_says_so_is_not_tried_again() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            pairs.iter().for_each(|(name, value)| drop(map.insert(*name, value.parse().unwrap())));
            map
        };
        assert_eq!(retry(429, &headers(&[("x-should-retry", "false")])), None);
        assert_eq!(retry(429, &headers(&[("retry-after", "3600")])), None, "nobody waits an hour");
        assert_eq!(retry(429, &headers(&[("retry-after", "1")])), Some(Some(Duration::from_secs(1))));
        assert_eq!(retry(529, &headers(&[])), Some(None));
        assert_eq!(retry(400, &headers(&[])), None);
    }
}

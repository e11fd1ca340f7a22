//! The HTTP side: connections in, one answer per request, by path and scenario.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::anthropic::Answer;
use super::body::{Paced, Piece, gzip};
use super::chat::Completion;
use super::conversation::Conversation;
use super::gemini::Generated;
use super::openai::Responses;
use super::scenario::{Fault, NamedFault, Scenario, Turn};
use super::stats::{Entry, Log, Request as Logged};
use super::tools;
use super::usage::{call_len, made_up, quarter};
use super::{anthropic, bedrock, gemini, openai, replay, socket};
use crate::egress::name::Host;
use crate::types::{Api, Tokens};

/// Largest request body. Unit: bytes.
pub(super) const MAX_BODY: usize = 64 << 20;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Conversations whose faults are counted.
const MAX_FAULTS: usize = 100_000;

/// Usage of a side call: fixed, since the text of such calls changes from run to run.
const SIDE: Tokens = Tokens { input: 24, cache_read: 0, cache_write: 0, cache_write_long: 0, output: 6, reasoning: 0 };

/// What is played, and what is known while it plays.
pub(super) struct Stage {
    scenario: Scenario,
    log: Arc<Log>,
    /// Mixed into ids.
    salt: u64,
    /// Faults already given, by conversation.
    faults: Mutex<HashMap<u64, u32>>,
}

impl Stage {
    /// Sets the stage.
    pub(super) fn new(scenario: Scenario, log: Arc<Log>) -> Stage {
        let salt = scenario.seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        Stage { scenario, log, salt, faults: Mutex::default() }
    }

    /// Gets how many tokens a request of `length` bytes has.
    pub(super) fn input(&self, json: &Value, length: usize) -> u64 {
        self.scenario.counter.as_ref().map_or_else(|| quarter(length), |counter| counter(json))
    }

    /// Enters a request into the count.
    pub(super) fn enter(&self, request: Logged) -> Entry {
        self.log.enter(request)
    }

    /// Gets 24 hex digits for the `number`th request.
    pub(super) fn id(&self, number: u64) -> String {
        let half = |n: u64| hash(&(self.salt, number, n));
        format!("{:016x}{:08x}", half(0), half(1) as u32)
    }

    /// Tells whether the fault of `turn` is still due in the conversation `key`, and counts it.
    fn fault_due(&self, turn: &Turn, key: u64) -> Option<Fault> {
        let fault = turn.error?;
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() >= MAX_FAULTS {
            faults.clear();
        }
        let given = faults.entry(key).or_default();
        if *given >= turn.times.unwrap_or(1) {
            return None;
        }
        *given += 1;
        Some(fault)
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Serves connections for ever.
pub(super) async fn run(listener: TcpListener, tls: Arc<ServerConfig>, stage: Arc<Stage>) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, acceptor.clone(), Arc::clone(&stage)));
            }
            // Out of descriptors, most likely: others must end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, stage: Arc<Stage>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
    let service = service_fn(move |request| {
        let stage = Arc::clone(&stage);
        async move { Ok::<_, Infallible>(answer(&stage, request).await) }
    });
    // A connection's end, however it comes, is in the log as far as it matters.
    let served = auto::Builder::new(TokioExecutor::new());
    let _ = served.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

/// A request's head, as far as it matters.
#[derive(Clone)]
pub(super) struct Head {
    pub(super) host: String,
    method: String,
    pub(super) path: String,
    query: String,
    headers: HeaderMap,
}

/// Whose account the ChatGPT backend is asked for.
const ACCOUNT: &str = "chatgpt-account-id";

/// Headers by which requests authenticate themselves.
const AUTH: [&str; 3] = ["authorization", "x-api-key", "x-goog-api-key"];

impl Head {
    fn read(request: &Request<Incoming>) -> Head {
        let host = || request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
        let authority = request.uri().authority().map(|a| a.as_str()).or_else(host).unwrap_or_default();
        Head {
            host: Host::parse_authority(authority).map(|(host, _)| host.to_string()).unwrap_or_default(),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            headers: request.headers().clone(),
        }
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// Gets the API that is spoken, by path; hosts only decide between twins.
    fn api(&self) -> Option<Api> {
        match self.path.as_str() {
            "/v1/messages" | "/v1/messages/count_tokens" => Some(Api::Anthropic),
            path if self.host == "generativelanguage.googleapis.com" => {
                let models = ["/v1beta/models", "/v1/models", "/v1alpha/models"];
                models.iter().any(|m| path.starts_with(m)).then_some(Api::Gemini)
            }
            path if path.starts_with("/v1internal:") => Some(Api::Gemini),
            path if path.contains("/publishers/google/models/") => Some(Api::Gemini),
            path if path.contains("/publishers/anthropic/models/") => Some(Api::Anthropic),
            path if path.starts_with("/model/") => match path.rsplit('/').next() {
                Some("converse" | "converse-stream" | "count-tokens") => Some(Api::BedrockConverse),
                Some("invoke" | "invoke-with-response-stream") => Some(Api::BedrockInvoke),
                _ => None,
            },
            "/v1/chat/completions" | "/chat/completions" | "/api/v1/chat/completions" => Some(Api::OpenaiChat),
            "/v1/models" if self.host != "api.openai.com" => Some(Api::Anthropic),
            "/v1/models" | "/backend-api/codex/models" => Some(Api::OpenaiResponses),
            path if path.strip_prefix("/backend-api/codex").or(path.strip_prefix("/v1")).is_some_and(|rest| {
                matches!(rest, "/responses" | "/responses/compact" | "/responses/input_tokens")
            }) =>
            {
                Some(Api::OpenaiResponses)
            }
            _ => None,
        }
    }

    /// Gets the headers by which it authenticates itself, and says for whom.
    pub(super) fn auth(&self) -> BTreeMap<String, SecretString> {
        let auth = AUTH.into_iter().chain([ACCOUNT]).filter(|name| !self.header(name).is_empty());
        auth.map(|name| (name.to_owned(), SecretString::from(self.header(name).to_owned()))).collect()
    }

    /// Gets the credentials that it carries, the scheme taken off.
    fn credentials(&self) -> impl Iterator<Item = &str> {
        let bare = |name| {
            let value = self.header(name);
            if name == "authorization" { value.split_once(' ').map_or(value, |(_, value)| value) } else { value }
        };
        AUTH.into_iter().map(bare).filter(|value| !value.is_empty())
    }

    /// Tells whether a real CLI asks something beside its conversation (a title, a topic): no tools are offered.
    fn is_side_call(&self, conversation: &Conversation) -> bool {
        let agent = self.header("user-agent");
        conversation.offers.is_empty() && ["claude-cli/", "GeminiCLI"].iter().any(|cli| agent.starts_with(cli))
    }
}

type Answered = Response<Paced>;

async fn answer(stage: &Arc<Stage>, mut request: Request<Incoming>) -> Answered {
    let head = Head::read(&request);
    let api = head.api();
    let (host, method, path) = (head.host.clone(), head.method.clone(), head.path.clone());
    let mut entry = stage.log.enter(Logged { api, host, method, path, auth: head.auth(), ..Logged::default() });
    let upgrade = request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    if head.method == "HEAD" {
        // Its body is never asked for, which must not look like a client that went away.
        entry.ended();
    }
    let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return refusal(api, entry, 413, "the request body is too large or ended early"),
    };
    entry.note(|request| request.body_bytes = body.len() as u64);
    if let Some(page) = stage.scenario.pages.get(&head.host).filter(|_| head.method == "GET") {
        return whole(200, "text/plain; charset=utf-8", Piece { bytes: page.clone().into(), terminal: true }, entry);
    }
    let Some(api) = api else { return refusal(None, entry, 404, "the rehearsal has no such path") };
    let accepted = |key: &str| stage.scenario.key.as_deref().is_none_or(|wanted| wanted == key);
    if !head.credentials().any(accepted) {
        return refusal(Some(api), entry, 401, "the rehearsal does not know this credential");
    }
    if let Some(upgrade) = upgrade {
        let speaks = api == Api::OpenaiResponses && head.path.ends_with("/responses");
        let Some(headers) = socket::switch(&head).filter(|_| speaks) else {
            return refusal(Some(api), entry, 426, "the rehearsal has no such WebSocket here");
        };
        tokio::spawn(socket::serve(Arc::clone(stage), head, upgrade));
        entry.ended();
        return respond(101, headers, Paced::new(Vec::new(), Duration::ZERO, entry));
    }
    let models = match api {
        Api::Anthropic => anthropic::models(),
        Api::OpenaiResponses | Api::OpenaiChat => openai::models(),
        Api::Gemini => gemini::models(),
        Api::BedrockConverse | Api::BedrockInvoke => Value::Null,
    };
    let last = head.path.rsplit('/').next().map(|last| last.rsplit(':').next().unwrap_or(last));
    match (head.method.as_str(), last) {
        ("GET", Some("models")) if head.path.starts_with("/backend-api") => json_answer(&json!({"models": []}), entry),
        ("GET", Some("models")) => json_answer(&models, entry),
        ("POST", Some("count_tokens")) => json_answer(&json!({"input_tokens": quarter(body.len())}), entry),
        ("POST", Some("countTokens")) => json_answer(&json!({"totalTokens": quarter(body.len())}), entry),
        ("POST", Some("input_tokens")) => {
            json_answer(&json!({"object": "response.input_tokens", "input_tokens": quarter(body.len())}), entry)
        }
        ("POST", Some("count-tokens")) => json_answer(&json!({"inputTokens": quarter(body.len())}), entry),
        ("POST", Some("rawPredict")) if head.path.contains("/models/count-tokens:") => {
            json_answer(&json!({"input_tokens": quarter(body.len())}), entry)
        }
        (
            "POST",
            Some(
                "messages"
                | "responses"
                | "compact"
                | "completions"
                | "generateContent"
                | "streamGenerateContent"
                | "rawPredict"
                | "streamRawPredict"
                | "converse"
                | "converse-stream"
                | "invoke"
                | "invoke-with-response-stream",
            ),
        ) => {
            let Ok(json) = serde_json::from_slice::<Value>(&body) else {
                return refusal(Some(api), entry, 400, "the request body is not JSON");
            };
            match asked(api, head, &json, stage.input(&json, body.len())) {
                Ok(asked) => {
                    entry.note(|request| request.model = Some(asked.conversation.model.clone()));
                    play(stage, asked, &mut entry).await.into_response(stage, entry)
                }
                Err(missing) => refusal(Some(api), entry, 400, &missing),
            }
        }
        _ => refusal(Some(api), entry, 405, "the rehearsal knows this path, but not with this method"),
    }
}

/// Reads what `json` asks of a model.
pub(super) fn asked(api: Api, head: Head, json: &Value, input: u64) -> Result<Asked, String> {
    let conversation = Conversation::read(api, &head.path, json)?;
    let messages = match api {
        Api::Anthropic | Api::OpenaiChat | Api::BedrockConverse | Api::BedrockInvoke => &json["messages"],
        Api::OpenaiResponses => &json["input"],
        Api::Gemini if head.path.starts_with("/v1internal:") => &json["request"]["contents"],
        Api::Gemini => &json["contents"],
    };
    let key = hash(&(api, messages.to_string()));
    let fitting = (api == Api::Gemini).then(|| gemini::schema(json)).flatten().map(gemini::fitting);
    Ok(Asked { api, key, input, head, conversation, fitting })
}

/// A request to a model.
pub(super) struct Asked {
    api: Api,
    /// The same for the same messages sent again. (Whole bodies differ: real CLIs count their attempts in them.)
    key: u64,
    /// How many tokens it has. Unit: tokens.
    input: u64,
    head: Head,
    conversation: Conversation,
    /// What fits the schema that the answer has to be in.
    fitting: Option<Value>,
}

/// What comes of a request to a model.
pub(super) enum Play {
    Refused(Api, u16),
    Said { pieces: Vec<Piece>, gap: Duration, kind: Option<String>, coding: Option<String>, broken: bool },
}

impl Play {
    fn into_response(self, stage: &Stage, entry: Entry) -> Answered {
        let (pieces, gap, kind, coding, broken) = match self {
            Play::Refused(api, status) => return refusal(Some(api), entry, status, "as the scenario says"),
            Play::Said { pieces, gap, kind, coding, broken } => (pieces, gap, kind, coding, broken),
        };
        let mut headers = HeaderMap::new();
        let recorded = coding.is_some();
        for (name, value) in [(header::CONTENT_TYPE, kind), (header::CONTENT_ENCODING, coding)] {
            if let Some(value) =
                value.filter(|value| !value.is_empty()).and_then(|value| HeaderValue::from_str(&value).ok())
            {
                headers.insert(name, value);
            }
        }
        let pieces = if stage.scenario.gzip && !recorded {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            // Writing to memory cannot fail; an empty answer is what a client would see if it did.
            gzip(pieces).unwrap_or_default()
        } else {
            pieces
        };
        let mut body = Paced::new(pieces, gap, entry);
        if broken {
            body = body.broken();
        }
        respond(200, headers, body)
    }
}

/// Plays the turn that `asked` is due.
pub(super) async fn play(stage: &Stage, asked: Asked, entry: &mut Entry) -> Play {
    let Asked { api, key, input, head, conversation, fitting } = asked;
    let fitting = fitting.map(|value| value.to_string());
    let side = head.is_side_call(&conversation);
    let compact = head.path.ends_with("/compact");
    let none = Turn::default();
    let due = || stage.scenario.turn(&conversation.user_text, &conversation.system_text, conversation.done);
    let scripted = if side || compact { None } else { due() };
    let turn = scripted.unwrap_or(&none);
    entry.note(|request| {
        request.side = side;
        request.turn = scripted.map(|_| conversation.done);
    });
    tokio::time::sleep(Duration::from_millis(turn.delay_ms)).await;
    let fault = stage.fault_due(turn, key);
    if let Some(Fault::Status(status)) = fault {
        return Play::Refused(api, status);
    }
    if let Some(recorded) = &turn.replay {
        return replay::play(api, recorded, turn, fault, entry);
    }
    let call = turn.action().and_then(|action| tools::call(action, &conversation.offers));
    let text = match (&turn.text, turn.action(), &call) {
        (Some(text), _, _) => text.as_str(),
        (None, Some(_), None) => "No tool is offered that could do this.",
        (None, Some(_), Some(_)) => "",
        (None, None, _) if fitting.is_some() => fitting.as_deref().unwrap_or_default(),
        (None, None, _) if side => "Rehearsal",
        (None, None, _) => "Done.",
    };
    let tokens = match turn.usage {
        Some(usage) => usage.into(),
        None if side => SIDE,
        None => made_up(input, conversation.done, text.len() + call.as_ref().map_or(0, call_len)),
    };
    entry.begin(tokens);
    let id = stage.id(entry.number());
    entry.note(|request| request.answer_id = Some(id.clone()));
    let answer = Answer { id: &id, model: &conversation.model, text, call: call.as_ref(), tokens };
    let created = now();
    let stream = conversation.stream && !compact;
    let events = api != Api::Gemini || head.query.split('&').any(|part| part == "alt=sse");
    let wrapped = head.path.starts_with("/v1internal:");
    let pieces = match (api, stream) {
        (Api::Anthropic, true) => answer.stream(),
        (Api::Anthropic, false) => vec![answer.whole()],
        (Api::OpenaiResponses, stream) => {
            let responses = Responses { answer, created };
            if stream {
                responses.stream()
            } else {
                vec![if compact { responses.compacted() } else { responses.whole() }]
            }
        }
        (Api::Gemini, stream) => {
            let generated = Generated { answer, events, wrapped };
            if stream { generated.stream() } else { vec![generated.whole()] }
        }
        (Api::OpenaiChat, stream) => {
            let completion = Completion { answer, created, include_usage: conversation.include_usage };
            if stream { completion.stream() } else { vec![completion.whole()] }
        }
        (Api::BedrockConverse, true) => bedrock::Converse(answer).stream(),
        (Api::BedrockConverse, false) => vec![bedrock::Converse(answer).whole()],
        (Api::BedrockInvoke, true) => bedrock::Invoke(answer).stream(),
        (Api::BedrockInvoke, false) => vec![answer.whole()],
    };
    Play::Said {
        pieces,
        gap: Duration::from_millis(turn.chunk_ms),
        kind: match api {
            // The ChatGPT backend sends streams without a type.
            _ if stream && head.path.starts_with("/backend-api/") => None,
            _ if !(stream && events) => Some("application/json".to_owned()),
            Api::BedrockConverse | Api::BedrockInvoke => Some("application/vnd.amazon.eventstream".to_owned()),
            _ => Some("text/event-stream; charset=utf-8".to_owned()),
        },
        coding: None,
        broken: fault == Some(Fault::Named(NamedFault::Broken)),
    }
}

/// Gets the time. Unit: seconds since the epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn refusal(api: Option<Api>, entry: Entry, status: u16, message: &str) -> Answered {
    let body = match api {
        Some(Api::OpenaiResponses | Api::OpenaiChat) => openai::error(status, message),
        Some(Api::Gemini) => gemini::error(status, message),
        Some(Api::BedrockConverse | Api::BedrockInvoke) => bedrock::error(message),
        Some(Api::Anthropic) | None => anthropic::error(status, message),
    };
    let piece = Piece { bytes: Bytes::from(body.to_string()), terminal: false };
    let mut response = whole(status, "application/json", piece, entry);
    if matches!(api, Some(Api::BedrockConverse | Api::BedrockInvoke)) {
        response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(bedrock::kind(status)));
    }
    if status == 429 || status >= 500 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn json_answer(body: &Value, entry: Entry) -> Answered {
    whole(200, "application/json", Piece { bytes: Bytes::from(body.to_string()), terminal: false }, entry)
}

fn whole(status: u16, kind: &'static str, piece: Piece, entry: Entry) -> Answered {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(piece.bytes.len()));
    respond(status, headers, Paced::new(vec![piece], Duration::ZERO, entry))
}

fn respond(status: u16, headers: HeaderMap, body: Paced) -> Answered {
    body.note_status(status);
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

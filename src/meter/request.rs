//! Requests to a model API: what a path means for the meter, and what a body asks for.
//!
//! Pure; the egress plane decides what is let through. A body is looked at for its model, its output limit, and every
//! feature by which the *provider* would reach out for the agent: fetch a URL, run code, talk to an MCP server, use
//! objects stored earlier. Such a feature is a way out of the bottle that no allow-list of hosts sees.

mod anthropic;
mod bedrock;
mod chat;
pub mod count;
mod gemini;
mod lower;
mod responses;
pub mod socket;
mod tell;
mod vertex;

pub use lower::lowering;
pub use tell::telling;

use super::shape::{KEPT, NoShape, Shape};
use crate::types::{Api, ApiFamily};

/// What a path of a metered host means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathClass {
    /// Spends tokens and says how many, in the form of this API.
    Metered(Api),
    /// Spends none; a body has the form of this API.
    Free(Api),
    /// Asks for an answer that was made, and spent, by an earlier request; says what that used, in the form of this API.
    Stored(Api),
    /// Not known; may spend tokens (`metered_path_unknown`).
    Unknown,
}

/// Tells what `method` on `path` (without its query, in normal form) means on a host that speaks `family`.
pub fn classify(family: ApiFamily, method: &str, path: &str) -> PathClass {
    match family {
        ApiFamily::Anthropic => anthropic::classify(method, path),
        ApiFamily::Openai => match responses::classify(method, path) {
            PathClass::Unknown => chat::classify(method, path),
            known => known,
        },
        ApiFamily::OpenaiResponses => responses::classify(method, path),
        ApiFamily::OpenaiChat => chat::classify(method, path),
        ApiFamily::Gemini => gemini::classify(method, path),
        ApiFamily::CodeAssist => gemini::classify_code_assist(method, path),
        ApiFamily::Vertex => vertex::classify(method, path),
        ApiFamily::Bedrock => bedrock::classify(method, path),
    }
}

/// Gets the API in whose form an answer of the plane's own is given to `method` on `path` of a host that speaks `family`.
pub fn form(family: ApiFamily, method: &str, path: &str) -> Api {
    match classify(family, method, path) {
        PathClass::Metered(api) | PathClass::Free(api) | PathClass::Stored(api) => api,
        PathClass::Unknown => family.usual(),
    }
}

/// A change to a body: text that takes the place of some of its bytes. All others stay as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Splice {
    /// The first byte that is replaced.
    pub start: usize,
    /// The first one behind it that is not.
    pub end: usize,
    /// What stands there then.
    pub text: String,
}

impl Splice {
    /// Gets a body with the change made.
    #[cfg(test)]
    pub fn apply(&self, body: &[u8]) -> Vec<u8> {
        [&body[..self.start], self.text.as_bytes(), &body[self.end..]].concat()
    }
}

/// Gets the change by which a request, whose stream would not say what it used, asks for that; `None` where nothing is to be changed.
/// The answer then has a chunk that the client has not asked for.
pub fn asking_for_usage(api: Api, body: &[u8]) -> Option<Splice> {
    if api == Api::OpenaiChat { chat::asking_for_usage(body) } else { None }
}

/// Gets the id of the answer that `path`, which is [`PathClass::Stored`], asks for.
pub fn stored_id(path: &str) -> &str {
    responses::stored(path).map_or("", |(id, _)| id)
}

/// Tells whether a WebSocket on `path` (without its query, in normal form) speaks what the meter can read.
pub fn speaks_socket(family: ApiFamily, path: &str) -> bool {
    matches!(family, ApiFamily::Openai | ApiFamily::OpenaiResponses)
        && matches!(path, "/v1/responses" | "/backend-api/codex/responses")
}

/// Estimates the input tokens of a request body of `body_len` bytes: a quarter, rounded up.
pub fn estimate_input(body_len: usize) -> u64 {
    (body_len as u64).div_ceil(4)
}

/// What a request body asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The model, its first 256 bytes.
    pub model: String,
    /// Whether the answer shall be streamed.
    pub stream: bool,
    /// The most output tokens that the request allows itself.
    pub max_output: Option<u64>,
    /// The features by which the provider would reach out, each once, in order of appearance. The words of
    /// `server_tools:` of a route. Server tools are named by their type without its date (`web_search`); the others are
    /// `url_image`, `url_document`, `url_source`, `file_id`, `mcp_servers`, `container`, `previous_response`,
    /// `conversation`, `background`, `prompt`, `item_reference`, and `unknown_tool` for a tool that cannot be read. Gemini's
    /// tools are named by their key (`google_search`, `url_context`, `code_execution`); its others are `file_uri`,
    /// `cached_content`, and the name of any key that is not known.
    pub reaching: Vec<String>,
}

/// Why a request body cannot be let through unread.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is compressed, and a compressed body cannot be looked at.
    #[error("the body is compressed")]
    Coded,
    /// It is not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// It is JSON, but no object.
    #[error("the body is not a JSON object")]
    NotObject,
    /// It names no model.
    #[error("the body names no model")]
    NoModel,
    /// A key stands twice in one object, so that nobody can say which value counts.
    #[error("the key {0:?} stands twice in one object of the body")]
    DuplicateKey(String),
    /// A key with a value that some hosts take for another than this API does.
    #[error("the key {0:?} has a value that is not this API's")]
    Value(&'static str),
    /// A key that differs from a known one in the case of its letters alone: some hosts take it for that one.
    #[error("the key {0:?} is written in another case than this API's")]
    Case(String),
    /// A message of a WebSocket of a type that is not known.
    #[error("a message of the type {0:?} is not known")]
    Message(String),
    /// A message of a WebSocket with a key that it must not have, lacks, or has with a value that cannot be.
    #[error("the key {0:?} is missing, not known or has no usable value in a message of this type")]
    Key(&'static str),
}

/// First bytes of gzip and of Zstandard (RFC 1952, RFC 8878).
const CODED: [&[u8]; 2] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]];

/// Looks at the body of a request to `path` (without its query, in normal form).
///
/// # Errors
/// [`RequestError`]; such a request must not leave.
pub fn inspect(api: Api, path: &str, body: &[u8]) -> Result<RequestFacts, RequestError> {
    if CODED.iter().any(|magic| body.starts_with(magic)) {
        return Err(RequestError::Coded);
    }
    let root = Shape::read(body).map_err(|error| match error {
        NoShape::NotJson => RequestError::NotJson,
        NoShape::Repeated(key) => RequestError::DuplicateKey(key),
    })?;
    if !matches!(root, Shape::Object(_)) {
        return Err(RequestError::NotObject);
    }
    if gemini::is_account(path) {
        // It names no model, and asks for nothing of one.
        return Ok(RequestFacts { model: String::new(), stream: false, max_output: None, reaching: Vec::new() });
    }
    let mut found = Found::default();
    let number = |key: &str| match root.get(key) {
        Some(Shape::Count(n)) => Some(*n),
        _ => None,
    };
    let max_output = match api {
        Api::Anthropic => {
            anthropic::inspect(&root, &mut found);
            number("max_tokens")
        }
        Api::OpenaiResponses => {
            responses::inspect(&root, &mut found);
            number("max_output_tokens")
        }
        Api::OpenaiChat => {
            chat::sound(&root)?;
            chat::inspect(&root, &mut found)
        }
        Api::Gemini => gemini::inspect(&root, &mut found),
        Api::BedrockConverse => bedrock::converse(&root, &mut found),
        Api::BedrockInvoke => bedrock::invoke(&root, &mut found),
    };
    // Where the path names the model, the body need not.
    let called = vertex::call(path)
        .map(|call| (call.model, call.streams()))
        .or_else(|| gemini::call(path).map(|call| (call.model, call.streams())))
        .or_else(|| bedrock::call(path).map(|call| (call.model, call.streams())));
    let (model, stream) = match called {
        // Bedrock's names have a colon, which some clients write in code.
        Some((model, stream)) => (model.replace("%3A", ":").replace("%3a", ":").chars().take(KEPT).collect(), stream),
        None => {
            // Code Assist's counting names it in the request that it wraps.
            let wrapped = || root.get("request").and_then(|request| request.text("model"));
            let named = root.text("model").or_else(|| if gemini::is_wrapped(path) { wrapped() } else { None });
            let model = named.filter(|m| !m.is_empty()).ok_or(RequestError::NoModel)?;
            (model.to_owned(), gemini::streams(path) || root.get("stream") == Some(&Shape::Bool(true)))
        }
    };
    Ok(RequestFacts { model, stream, max_output, reaching: found.0 })
}

/// Most features that are told apart; whoever asks for more asks for what nobody allows.
const MOST_FEATURES: usize = 64;

/// The features found.
#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn add(&mut self, name: &str) {
        if self.0.len() <= MOST_FEATURES && !self.0.iter().any(|known| known == name) {
            self.0.push(if self.0.len() < MOST_FEATURES { name } else { "too_many_features" }.to_owned());
        }
    }

    fn add_if(&mut self, there: bool, name: &str) {
        if there {
            self.add(name);
        }
    }
}

/// Gets the elements of what should be a list; anything else is noted as unreadable.
fn list<'a>(tools: &'a Shape, found: &mut Found) -> &'a [Shape] {
    found.add_if(!matches!(tools, Shape::List(_)), "unknown_tool");
    tools.elements()
}

/// Takes the date off a tool type: `web_search_20250305`, `web_search_2025_08_26`.
fn undated(kind: &str) -> &str {
    let bytes = kind.as_bytes();
    let is_date = |tail: &[u8], shape: &[u8]| {
        tail.len() == shape.len()
            && tail.iter().zip(shape).all(|(b, s)| if *s == b'0' { b.is_ascii_digit() } else { b == s })
    };
    for shape in [&b"_00000000"[..], b"_0000_00_00"] {
        if let Some(start) = bytes.len().checked_sub(shape.len()).filter(|start| *start > 0)
            && is_date(&bytes[start..], shape)
        {
            return &kind[..start];
        }
    }
    kind
}

#[cfg(test)]
mod paths;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn reaching(api: Api, mut body: Value) -> Vec<String> {
        body["model"] = json!("m");
        inspect(api, "", body.to_string().as_bytes()).unwrap().reaching
    }

    #[test]
    fn very_many_features_are_not_told_apart_and_not_allowed() {
        let tools: Vec<Value> = (0..50_000).map(|n| json!({"type": format!("tool_{n}_x")})).collect();
        let found = reaching(Api::OpenaiResponses, json!({"tools": tools, "input": []}));
        assert_eq!((found.len(), found.last().map(String::as_str)), (MOST_FEATURES + 1, Some("too_many_features")));
    }

    #[test]
    fn a_plain_agent_request_reaches_nowhere() {
        let body = json!({"model": "claude-x", "stream": true, "max_tokens": 64000,
            "system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
            "tools": [{"name": "Write", "input_schema": {"type": "object", "properties": {"url": {"type": "string"}}}},
                      {"type": "bash_20250124", "name": "bash"}, {"type": "text_editor_20250728", "name": "e"}],
            "messages": [
                {"role": "user", "content": "see https://example.com/a.png"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f",
                    "input": {"type": "image", "source": {"type": "url", "url": "https://x"}, "file_id": "f"}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]}]}]});
        let facts = inspect(Api::Anthropic, "", body.to_string().as_bytes()).unwrap();
        let expected =
            RequestFacts { model: "claude-x".into(), stream: true, max_output: Some(64000), reaching: Vec::new() };
        assert_eq!(facts, expected);
    }

    #[test]
    fn what_the_anthropic_api_would_fetch_or_run_is_named() {
        let image = json!({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}});
        let content = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
        for (body, name) in [
            (content(image.clone()), "url_image"),
            (content(json!({"type": "tool_result", "tool_use_id": "t", "content": [image]})), "url_image"),
            (content(json!({"type": "document", "source": {"type": "url", "url": "http://x"}})), "url_document"),
            (
                content(json!({"type": "document", "source": {"type": "content", "content": [
                {"type": "image", "source": {"type": "url", "url": "http://x"}}]}})),
                "url_image",
            ),
            (content(json!({"type": "new_block", "source": {"type": "url", "url": "http://x"}})), "url_source"),
            (content(json!({"type": "document", "source": {"type": "file", "file_id": "file_1"}})), "file_id"),
            (content(json!({"type": "container_upload", "file_id": "file_1"})), "file_id"),
            (json!({"mcp_servers": [{"type": "url", "url": "https://evil"}]}), "mcp_servers"),
            (json!({"container": "container_1"}), "container"),
            (json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), "web_search"),
            (json!({"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}), "web_fetch"),
            (json!({"tools": [{"type": "code_execution_20250825", "name": "c"}]}), "code_execution"),
            (json!({"tools": [{"type": "bash_code_execution_20250825", "name": "c"}]}), "bash_code_execution"),
            (json!({"tools": [{"type": "mcp_toolset", "mcp_server_name": "c"}]}), "mcp_toolset"),
            (json!({"tools": [{"type": 7}]}), "unknown_tool"),
            (json!({"tools": {"type": "web_search"}}), "unknown_tool"),
        ] {
            assert_eq!(reaching(Api::Anthropic, body.clone()), [name], "{body}");
        }
        assert_eq!(reaching(Api::Anthropic, json!({"mcp_servers": [], "container": null})), Vec::<String>::new());
    }

    #[test]
    fn what_the_openai_api_would_fetch_run_or_remember_is_named() {
        let part = |part: Value| json!({"input": [{"role": "user", "content": [part]}]});
        for (body, name) in [
            (part(json!({"type": "input_image", "image_url": "https://x/y.png"})), "url_image"),
            (part(json!({"type": "input_image", "image_url": " data:no"})), "url_image"),
            (part(json!({"type": "input_image", "image_url": {"url": "http://x"}})), "url_image"),
            (part(json!({"type": "input_image", "file_id": "file-1"})), "file_id"),
            (part(json!({"type": "input_file", "file_url": "https://x"})), "url_document"),
            (part(json!({"type": "input_file", "file_id": "file-1"})), "file_id"),
            (
                json!({"input": [{"type": "function_call_output", "call_id": "c", "output": [
                {"type": "input_image", "image_url": "https://x"}]}]}),
                "url_image",
            ),
            (json!({"input": [{"type": "item_reference", "id": "msg_1"}]}), "item_reference"),
            (json!({"previous_response_id": "resp_1"}), "previous_response"),
            (json!({"conversation": {"id": "conv_1"}}), "conversation"),
            (json!({"background": true}), "background"),
            (json!({"prompt": {"id": "pmpt_1"}}), "prompt"),
            (json!({"tools": [{"type": "web_search"}]}), "web_search"),
            (json!({"tools": [{"type": "web_search_2025_08_26"}]}), "web_search"),
            (json!({"tools": [{"type": "mcp", "server_url": "https://evil"}]}), "mcp"),
            (json!({"tools": [{"type": "namespace", "tools": [{"type": "code_interpreter"}]}]}), "code_interpreter"),
            (json!({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}), "shell"),
            (json!({"input": [{"type": "tool_search_output", "tools": [{"type": "mcp"}]}]}), "mcp"),
            (json!({"tools": [{"name": "no type"}]}), "unknown_tool"),
        ] {
            assert_eq!(reaching(Api::OpenaiResponses, body.clone()), [name], "{body}");
        }
        let harmless = json!({"background": false, "previous_response_id": null, "store": false,
            "tools": [{"type": "function", "name": "f", "parameters": {}}, {"type": "local_shell"},
                      {"type": "custom", "name": "apply_patch"}, {"type": "shell"}],
            "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA"}]},
                      {"type": "function_call", "name": "f", "arguments": "{\"image_url\":\"https://x\"}"},
                      {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x",
                        "annotations": [{"type": "file_citation", "file_id": "file-1"}]}]}]});
        assert_eq!(reaching(Api::OpenaiResponses, harmless), Vec::<String>::new());
    }

    #[test]
    fn a_body_that_cannot_be_read_for_sure_is_an_error() {
        let error = |body: &[u8]| inspect(Api::Anthropic, "", body).unwrap_err();
        assert_eq!(error(b"\x1f\x8b\x08\x00"), RequestError::Coded);
        assert_eq!(error(b"\x28\xb5\x2f\xfd\x00"), RequestError::Coded);
        assert_eq!(error(b"model=x"), RequestError::NotJson);
        assert_eq!(error(b"[]"), RequestError::NotObject);
        assert_eq!(error(b"{}"), RequestError::NoModel);
        assert_eq!(error(br#"{"model":7}"#), RequestError::NoModel);
        let twice = br#"{"model":"m","mcp_servers":[{}],"mcp_servers":[]}"#;
        assert_eq!(error(twice), RequestError::DuplicateKey("mcp_servers".into()));
        let tool = br#"{"model":"m","tools":[{"type":"web_search_20250305","name":"x","type":"custom"}]}"#;
        assert_eq!(error(tool), RequestError::DuplicateKey("type".into()));
    }

    #[test]
    fn input_is_estimated_from_length_and_rounded_up() {
        assert_eq!((estimate_input(0), estimate_input(1), estimate_input(4), estimate_input(5)), (0, 1, 1, 2));
    }
}

//! Requests to the Chat Completions API: the features by which the provider would reach out.
//!
//! Keys by the API's reference, and by those of hosts that speak the same form and search the web for a model on their own.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::responses::is_data;
use super::{Found, PathClass, RequestError, Splice, list, undated};
use crate::meter::shape::Shape;
use crate::types::Api;

/// Ways in which hosts write the same path; the first is OpenAI's.
const COMPLETIONS: [&str; 3] = ["/v1/chat/completions", "/chat/completions", "/api/v1/chat/completions"];
const MODELS: [&str; 3] = ["/v1/models", "/models", "/api/v1/models"];

/// Tells what `method` on `path` means.
pub(super) fn classify(method: &str, path: &str) -> PathClass {
    match method {
        "POST" if COMPLETIONS.contains(&path) => PathClass::Metered(Api::OpenaiChat),
        "GET" if MODELS.contains(&path) => PathClass::Free(Api::OpenaiChat),
        _ => PathClass::Unknown,
    }
}

/// Keys by which hosts search or fetch for a model, and the word for each.
const SEARCHES: [(&str, &str); 9] = [
    ("web_search_options", "web_search"),
    // xAI, OpenRouter, Qwen, Groq, Perplexity.
    ("search_parameters", "web_search"),
    ("plugins", "plugins"),
    ("enable_search", "web_search"),
    ("search_settings", "web_search"),
    ("compound_custom", "compound_custom"),
    ("search_mode", "web_search"),
    ("documents", "documents"),
    // xAI: the answer is computed later, and fetched by its id.
    ("deferred", "background"),
];

/// What the names of models have that search the web by themselves: OpenAI, OpenRouter, Groq, Perplexity.
const SEARCHING: [&str; 6] = ["search-preview", "search-api", ":online", "compound", "sonar", "deep-research"];

/// Keys by which this API decides what the plane has to know, and those above: hosts that do not mind the case of letters would
/// find them where nobody looked.
const DECIDING: [&str; 12] = [
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "models",
    "n",
    "stream",
    "stream_options",
    "tools",
    "functions",
    "store",
    "web_search_options",
];

/// Checks that nobody can read the request in another way than it is read here.
///
/// # Errors
/// [`RequestError::Value`], [`RequestError::Case`].
pub(super) fn sound(root: &Shape) -> Result<(), RequestError> {
    let known = || DECIDING.iter().copied().chain(SEARCHES.iter().map(|(key, _)| *key));
    for (key, _) in root.fields() {
        if known().any(|known| known != key && known.eq_ignore_ascii_case(key)) {
            return Err(RequestError::Case(key.chars().take(40).collect()));
        }
    }
    // Hosts that take `"true"` or 1 for true would stream, and say nothing of what that used.
    match root.get("stream") {
        None | Some(Shape::Bool(_)) => {}
        Some(_) => return Err(RequestError::Value("stream")),
    }
    match root.get("stream_options") {
        None | Some(Shape::Object(_)) => Ok(()),
        Some(_) => Err(RequestError::Value("stream_options")),
    }
}

/// Tells whether a model searches the web by itself.
fn searches(model: &Shape) -> bool {
    let Shape::Text(name) = model else { return false };
    let name = name.to_ascii_lowercase();
    SEARCHING.iter().any(|part| name.contains(part))
}

/// Looks for features; returns the most output tokens that the request allows itself.
pub(super) fn inspect(root: &Shape, found: &mut Found) -> Option<u64> {
    for (key, word) in SEARCHES {
        found.add_if(root.get(key).is_some_and(|value| !value.is_void()), word);
    }
    if let Some(tools) = root.get("tools") {
        for tool in list(tools, found) {
            match tool.get("type") {
                Some(Shape::Text(kind)) => match undated(kind) {
                    "function" | "custom" => {}
                    other => found.add(other),
                },
                _ => found.add("unknown_tool"),
            }
        }
    }
    let others = root.get("models").map_or(&[][..], Shape::elements);
    found.add_if(root.get("model").into_iter().chain(others).any(searches), "web_search");
    if let Some(messages) = root.get("messages") {
        content(messages, found);
    }
    let number = |key: &str| match root.get(key) {
        Some(Shape::Count(n)) => Some(*n),
        _ => None,
    };
    // Each of so many choices may be as long.
    let most = number("max_completion_tokens").max(number("max_tokens"));
    most.map(|most| most.saturating_mul(number("n").unwrap_or(1).max(1)))
}

/// What decides whether a stream says what it used.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(default)]
    stream: Option<bool>,
    #[serde(borrow, default, deserialize_with = "as_written")]
    stream_options: Option<&'a RawValue>,
}

/// Keeps a `null` apart from what is not there.
fn as_written<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Gets the change by which the stream is asked to say what it used; `None` where it is asked already, where nothing is streamed, and
/// where the options are no table.
pub(super) fn asking_for_usage(body: &[u8]) -> Option<Splice> {
    const ASKED: &str = "{\"include_usage\":true}";
    let head: Head<'_> = serde_json::from_slice(body).ok().filter(|head: &Head<'_>| head.stream == Some(true))?;
    let (start, end, text) = match head.stream_options.map(RawValue::get) {
        None => {
            let open = memchr::memchr(b'{', body)? + 1;
            (open, open, format!("\"stream_options\":{ASKED},"))
        }
        Some(written) => {
            let options = match serde_json::from_str(written).ok()? {
                Value::Null => ASKED.to_owned(),
                Value::Object(mut options) => {
                    if options.insert("include_usage".to_owned(), Value::Bool(true)) == Some(Value::Bool(true)) {
                        return None;
                    }
                    Value::Object(options).to_string()
                }
                _ => return None,
            };
            // What was read lies in the body.
            let start = (written.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
            (start, start + written.len(), options)
        }
    };
    Some(Splice { start, end, text })
}

/// Parts of a message that are text: what stands in them is read by the model and by nobody else.
const TEXTS: [&str; 7] = ["text", "input_text", "output_text", "refusal", "thinking", "reasoning", "tool_result"];

/// Walks messages and their parts, wherever they are nested.
fn content(at: &Shape, found: &mut Found) {
    for element in at.elements() {
        content(element, found);
    }
    let is_media = at.text("type").is_some_and(|kind| !TEXTS.contains(&kind));
    for (key, value) in at.fields() {
        match (key.as_str(), value) {
            (_, Shape::Null) => {}
            // Of an annotation of an earlier answer: nothing that is fetched again. A call's function has the agent's own words.
            ("annotations" | "function", _) => {}
            ("file_id", _) => found.add("file_id"),
            // `image_url`, `video_url`, `audio_url`, `document_url`, `file_url` and whatever a host may have beside them.
            (key, Shape::Text(url)) if names_url(key) => found.add_if(!is_data(url), word(key)),
            (key, Shape::Object(_)) if names_url(key) => {
                found.add_if(!value.text("url").is_some_and(is_data), word(key));
            }
            (key, Shape::Text(text)) if is_media || key == "file_data" => {
                found.add_if(is_web(text), if key == "file_data" { "url_document" } else { "url_source" });
            }
            (_, Shape::List(list))
                if is_media && list.iter().any(|item| matches!(item, Shape::Text(text) if is_web(text))) =>
            {
                found.add("url_source");
            }
            (_, Shape::Object(_)) if is_media => media(value, found),
            _ => content(value, found),
        }
    }
}

/// Walks what a part has that is no text: an address anywhere in it is one that the host fetches.
fn media(at: &Shape, found: &mut Found) {
    for (key, value) in at.fields() {
        if let Shape::Text(text) = value
            && !names_url(key)
            && key != "file_data"
        {
            found.add_if(is_web(text), "url_source");
        }
    }
    content(at, found);
}

/// Tells whether a key names an address.
fn names_url(key: &str) -> bool {
    let at = key.len().saturating_sub(3);
    key.get(at..).is_some_and(|end| end.eq_ignore_ascii_case("url") || end.eq_ignore_ascii_case("uri"))
}

/// Gets the word for what a key's address is of.
fn word(key: &str) -> &'static str {
    match key {
        "image_url" | "video_url" => "url_image",
        "file_url" | "document_url" => "url_document",
        _ => "url_source",
    }
}

/// Tells whether a text begins as an address does.
fn is_web(text: &str) -> bool {
    text.trim_start().get(..4).is_some_and(|start| start.eq_ignore_ascii_case("http"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::meter::request::inspect;
    use crate::types::Api;

    #[test]
    fn a_stream_is_asked_for_its_usage_and_nothing_else_is_changed() {
        let asked = |body: &str| {
            let splice = asking_for_usage(body.as_bytes())?;
            Some(String::from_utf8(splice.apply(body.as_bytes())).unwrap())
        };
        for (body, want) in [
            (
                r#" {"stream":true, "model":"m"}"#,
                r#" {"stream_options":{"include_usage":true},"stream":true, "model":"m"}"#,
            ),
            (
                r#"{"stream":true,"stream_options": null ,"x":1}"#,
                r#"{"stream":true,"stream_options": {"include_usage":true} ,"x":1}"#,
            ),
            (
                r#"{"stream_options":{"include_usage":false,"include_obfuscation":false},"stream":true}"#,
                r#"{"stream_options":{"include_usage":true,"include_obfuscation":false},"stream":true}"#,
            ),
            (r#"{"stream_options":{},"stream":true}"#, r#"{"stream_options":{"include_usage":true},"stream":true}"#),
            (
                r#"{"messages":[{"stream_options":{"include_usage":true}}],"stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"messages":[{"stream_options":{"include_usage":true}}],"stream":true}"#,
            ),
        ] {
            assert_eq!(asked(body).as_deref(), Some(want), "{body}");
            assert_eq!(asked(want), None, "it is asked already: {want}");
        }
        for body in [r#"{"model":"m"}"#, r#"{"stream":false}"#, r#"{"stream":true,"stream_options":7}"#, "[]", "{"] {
            assert_eq!(asked(body), None, "{body}");
        }
    }

    #[test]
    fn a_model_that_searches_is_one_that_reaches_out() {
        for (model, want) in [
            ("openai/gpt-x:online", 1),
            ("gpt-x-search-preview-2025", 1),
            ("groq/compound-mini", 1),
            ("perplexity/Sonar-pro", 1),
            ("gpt-x", 0),
        ] {
            let body = json!({"model": model, "messages": []}).to_string();
            let facts = inspect(Api::OpenaiChat, "/v1/chat/completions", body.as_bytes()).unwrap();
            assert_eq!(facts.reaching.len(), want, "{model}");
        }
    }

    #[test]
    fn what_hosts_may_read_in_another_way_is_refused() {
        let read =
            |body: &str| inspect(Api::OpenaiChat, "/v1/chat/completions", body.as_bytes()).map(|facts| facts.stream);
        for value in [r#""true""#, "1", "[]", "{}"] {
            let odd = read(&format!(r#"{{"model":"m","stream":{value}}}"#));
            assert_eq!(odd, Err(RequestError::Value("stream")), "{value}");
        }
        assert_eq!(
            read(r#"{"model":"m","stream":true,"stream_options":7}"#),
            Err(RequestError::Value("stream_options"))
        );
        assert_eq!(read(r#"{"model":"m","Stream":true}"#), Err(RequestError::Case("Stream".into())));
        assert_eq!(
            read(r#"{"model":"m","Web_Search_Options":{}}"#),
            Err(RequestError::Case("Web_Search_Options".into()))
        );
        assert_eq!(read(r#"{"model":"m","stream":null,"stream_options":null}"#), Ok(false));
        assert_eq!(read(r#"{"model":"m","stream":true,"stream_options":{},"Temperature":1}"#), Ok(true));
    }

    #[test]
    fn what_lets_the_provider_reach_out_is_found() {
        let facts = |mut body: Value| {
            body["model"] = json!("m");
            inspect(Api::OpenaiChat, "/v1/chat/completions", body.to_string().as_bytes()).unwrap()
        };
        let part = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
        for (body, name) in [
            (json!({"web_search_options": {"user_location": {}}}), "web_search"),
            (json!({"plugins": [{"id": "web"}]}), "plugins"),
            (json!({"enable_search": true}), "web_search"),
            (json!({"tools": [{"type": "web_search_2025_08_26"}]}), "web_search"),
            (json!({"tools": [{"function": {}}]}), "unknown_tool"),
            (part(json!({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}})), "url_image"),
            (part(json!({"type": "image_url", "image_url": "https://x.example/a.png"})), "url_image"),
            (part(json!({"type": "file", "file": {"file_id": "f"}})), "file_id"),
            (part(json!({"type": "file", "file": {"file_data": "https://x.example/a.pdf"}})), "url_document"),
            (part(json!({"type": "document_url", "document_url": "https://x.example/a.pdf"})), "url_document"),
            (part(json!({"type": "audio_url", "audio_url": {"url": "https://x.example/a.wav"}})), "url_source"),
            (
                part(
                    json!({"type": "input_audio", "input_audio": {"data": " HTTPS://x.example/a.wav", "format": "wav"}}),
                ),
                "url_source",
            ),
            (part(json!({"type": "video", "video": ["https://x.example/1.png"]})), "url_source"),
            (part(json!({"type": "image", "image": "http://x.example/1.png"})), "url_source"),
            (json!({"models": ["a", "openai/gpt-x:online"]}), "web_search"),
            (json!({"deferred": true}), "background"),
        ] {
            assert_eq!(facts(body.clone()).reaching, [name], "{body}");
        }
        let plain = json!({"stream": true, "max_completion_tokens": 100, "n": 3, "enable_search": false, "plugins": [],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"image_url": {"type": "string"}}}}}],
            "messages": [{"role": "system", "content": "see https://x.example"},
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]},
                {"role": "assistant", "content": null, "annotations": [{"type": "url_citation", "file_id": "f"}],
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"file_id\":1}"}}]},
                {"role": "tool", "tool_call_id": "c", "content": "x"}]});
        let facts = facts(plain);
        assert_eq!((facts.reaching.len(), facts.max_output, facts.stream), (0, Some(300), true));
    }
}

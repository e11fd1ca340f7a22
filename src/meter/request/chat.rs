//! Requests to the Chat Completions API: the features by which the provider would reach out.
//!
//! Keys by the API's reference, and by those of hosts that speak the same form and search the web for a model on their own.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::responses::is_data;
use super::{Found, PathClass, list, undated};
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
const SEARCHES: [(&str, &str); 8] = [
    ("web_search_options", "web_search"),
    // xAI, OpenRouter, Qwen, Groq, Perplexity.
    ("search_parameters", "web_search"),
    ("plugins", "plugins"),
    ("enable_search", "web_search"),
    ("search_settings", "web_search"),
    ("compound_custom", "compound_custom"),
    ("search_mode", "web_search"),
    ("documents", "documents"),
];

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
    if let Some(messages) = root.get("messages") {
        content(messages, found);
    }
    let number = |key: &str| match root.get(key) {
        Some(Shape::Count(n)) => Some(*n),
        _ => None,
    };
    // Each of so many choices may be as long.
    let most = number("max_completion_tokens").or_else(|| number("max_tokens"));
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

/// Gets the body with its stream asked to say what it used; `None` where it is asked already, where nothing is streamed, and where
/// the options are no table, which the provider refuses. All other bytes stay as they are.
pub(super) fn asking_for_usage(body: &[u8]) -> Option<Vec<u8>> {
    const ASKED: &str = "{\"include_usage\":true}";
    let head: Head<'_> = serde_json::from_slice(body).ok().filter(|head: &Head<'_>| head.stream == Some(true))?;
    let (start, end, options) = match head.stream_options.map(RawValue::get) {
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
    Some([body.get(..start)?, options.as_bytes(), body.get(end..)?].concat())
}

/// Walks messages and their parts, wherever they are nested.
fn content(at: &Shape, found: &mut Found) {
    for element in at.elements() {
        content(element, found);
    }
    for (key, value) in at.fields() {
        match (key.as_str(), value) {
            (_, Shape::Null) => {}
            // Of an annotation of an earlier answer: nothing that is fetched again.
            ("annotations", _) => {}
            ("image_url" | "video_url", Shape::Text(url)) => found.add_if(!is_data(url), "url_image"),
            ("image_url" | "video_url", other) => {
                found.add_if(!other.text("url").is_some_and(is_data), "url_image");
            }
            ("file_id", _) => found.add("file_id"),
            ("file_url", _) => found.add("url_document"),
            ("file_data", Shape::Text(data)) => {
                found.add_if(data.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("http")), "url_document");
            }
            _ => content(value, found),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::meter::request::inspect;
    use crate::types::Api;

    #[test]
    fn a_stream_is_asked_for_its_usage_and_nothing_else_is_changed() {
        let asked = |body: &str| asking_for_usage(body.as_bytes()).map(|body| String::from_utf8(body).unwrap());
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

//! Requests to the Gemini API: paths, and the features by which the provider would reach out.
//!
//! The model and whether the answer is streamed stand in the path. The API reads every key in two spellings, `fileData` and
//! `file_data`, so keys are compared in one.

use std::borrow::Cow;

use super::{Found, PathClass, list};
use crate::meter::shape::Shape;
use crate::types::Api;

/// What of a path names a model, and what is to be done with it.
pub(super) struct Call<'a> {
    pub(super) model: &'a str,
    verb: &'a str,
}

impl Call<'_> {
    pub(super) fn streams(&self) -> bool {
        self.verb == "streamGenerateContent"
    }
}

/// The versions of the API: their paths are the same.
const VERSIONS: [&str; 3] = ["/v1beta/", "/v1/", "/v1alpha/"];

/// Keys of a request that stay between the agent and the model.
const KNOWN: [&str; 9] = [
    "contents",
    "generation_config",
    "labels",
    "model",
    "safety_settings",
    "service_tier",
    "system_instruction",
    "tool_config",
    "tools",
];

/// Gets what `path` calls.
pub(super) fn call(path: &str) -> Option<Call<'_>> {
    let rest = VERSIONS.iter().find_map(|version| path.strip_prefix(version))?;
    let (model, verb) = rest.strip_prefix("models/")?.split_once(':')?;
    (!model.is_empty() && !model.contains('/') && !verb.contains([':', '/'])).then_some(Call { model, verb })
}

/// Tells what `method` on `path` means.
pub(super) fn classify(method: &str, path: &str) -> PathClass {
    match (method, call(path)) {
        ("POST", Some(Call { verb: "generateContent" | "streamGenerateContent", .. })) => {
            PathClass::Metered(Api::Gemini)
        }
        ("POST", Some(Call { verb: "countTokens", .. })) => PathClass::Free(Api::Gemini),
        ("GET", None) => {
            let models = VERSIONS.iter().find_map(|version| path.strip_prefix(version)?.strip_prefix("models"));
            match models {
                Some("") => PathClass::Free(Api::Gemini),
                Some(one) if one.len() > 1 && one.starts_with('/') && !one[1..].contains(['/', ':']) => {
                    PathClass::Free(Api::Gemini)
                }
                _ => PathClass::Unknown,
            }
        }
        _ => PathClass::Unknown,
    }
}

/// What Code Assist does beside answering, for free: who the user is, and what is left. Nothing of it is asked of a model.
const CODE_ASSIST: [&str; 8] = [
    "fetchAdminControls",
    "getCodeAssistGlobalUserSetting",
    "listExperiments",
    "loadCodeAssist",
    "onboardUser",
    "recordCodeAssistMetrics",
    "retrieveUserQuota",
    "setCodeAssistGlobalUserSetting",
];

/// Tells whether a path is one of these.
pub(super) fn is_account(path: &str) -> bool {
    path.strip_prefix("/v1internal:").is_some_and(|verb| CODE_ASSIST.contains(&verb))
}

/// Tells whether a request to `path` may be wrapped in another.
pub(super) fn is_wrapped(path: &str) -> bool {
    path.starts_with("/v1internal:")
}

/// Tells what `method` on `path` means at Code Assist, which names the model in the body.
pub(super) fn classify_code_assist(method: &str, path: &str) -> PathClass {
    let verb = path.strip_prefix("/v1internal:").unwrap_or_default();
    match (method, verb) {
        ("POST", "generateContent" | "streamGenerateContent") => PathClass::Metered(Api::Gemini),
        ("POST", "countTokens") => PathClass::Free(Api::Gemini),
        ("POST" | "GET", free) if CODE_ASSIST.contains(&free) => PathClass::Free(Api::Gemini),
        ("GET", "") if path.starts_with("/v1internal/operations/") => PathClass::Free(Api::Gemini),
        _ => PathClass::Unknown,
    }
}

/// Tells whether the path of a request that names its model in the body has the answer streamed.
pub(super) fn streams(path: &str) -> bool {
    path == "/v1internal:streamGenerateContent"
}

/// Looks for features; returns the most output tokens that the request allows itself.
pub(super) fn inspect(root: &Shape, found: &mut Found) -> Option<u64> {
    within(root, false, found)
}

/// The same of a request that Code Assist may have wrapped.
fn within(root: &Shape, wrapped: bool, found: &mut Found) -> Option<u64> {
    let mut most = None;
    for (key, value) in said(root) {
        match key.as_ref() {
            "contents" | "system_instruction" => content(value, found),
            "tools" => tools(value, found),
            "generation_config" => most = output(value),
            // What is to be counted may stand in a request of its own.
            "generate_content_request" => most = inspect(value, found),
            // As Code Assist has it: the request, and beside it who asks.
            "request" if !wrapped => most = within(value, true, found),
            "project" | "user_prompt_id" | "session_id" | "enabled_credit_types" if root.get("request").is_some() => {}
            "session_id" if wrapped => {}
            known if KNOWN.contains(&known) => {}
            other => found.add(other),
        }
    }
    most
}

/// Gets the fields that say something, their keys in one spelling.
fn said(at: &Shape) -> impl Iterator<Item = (Cow<'_, str>, &Shape)> {
    at.fields().iter().filter(|(_, value)| *value != Shape::Null).map(|(key, value)| (snake(key), value))
}

/// Writes `camelCase` as `camel_case`.
fn snake(key: &str) -> Cow<'_, str> {
    if !key.contains(|c: char| c.is_ascii_uppercase()) {
        return Cow::Borrowed(key);
    }
    let mut out = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    Cow::Owned(out)
}

/// A tool is named by its key, and an empty object switches it on.
fn tools(tools: &Shape, found: &mut Found) {
    for tool in list(tools, found) {
        found.add_if(!matches!(tool, Shape::Object(_)), "unknown_tool");
        for (key, _) in said(tool) {
            found.add_if(key != "function_declarations", &key);
        }
    }
}

/// Walks contents and their parts wherever they are nested (answers of functions hold parts).
fn content(at: &Shape, found: &mut Found) {
    for element in at.elements() {
        content(element, found);
    }
    for (key, value) in said(at) {
        match key.as_ref() {
            "file_data" => found.add("file_uri"),
            // The agent's own data, opaque to the API.
            "args" | "response" => {}
            _ => content(value, found),
        }
    }
}

/// Gets the most output: of each candidate, times their number.
fn output(config: &Shape) -> Option<u64> {
    let number = |wanted: &str| {
        let found = said(config).find(|(key, _)| key == wanted).map(|(_, value)| value);
        match found {
            Some(Shape::Count(n)) => Some(*n),
            _ => None,
        }
    };
    Some(number("max_output_tokens")?.saturating_mul(number("candidate_count").unwrap_or(1).max(1)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{RequestError, inspect};
    use super::*;
    use crate::types::Api;

    const PATH: &str = "/v1beta/models/gemini-x:streamGenerateContent";

    fn reaching(body: Value) -> Vec<String> {
        inspect(Api::Gemini, PATH, body.to_string().as_bytes()).unwrap().reaching
    }

    #[test]
    fn paths_are_known_exactly_or_not_at_all() {
        use PathClass::Unknown;
        let (free, metered) = (PathClass::Free(Api::Gemini), PathClass::Metered(Api::Gemini));
        for (method, path, class) in [
            ("POST", PATH, metered),
            ("POST", "/v1/models/gemini-x:generateContent", metered),
            ("POST", "/v1alpha/models/gemini-x:generateContent", metered),
            ("POST", "/v1beta/models/gemini-x:countTokens", free),
            ("GET", "/v1beta/models", free),
            ("GET", "/v1beta/models/gemini-x", free),
            ("GET", PATH, Unknown),
            ("POST", "/v1beta/models/gemini-x", Unknown),
            ("POST", "/v1beta/models/gemini-x:batchGenerateContent", Unknown),
            ("POST", "/v1beta/models/gemini-x:generateContent/", Unknown),
            ("POST", "/v1beta/models/a:b:generateContent", Unknown),
            ("POST", "/v1beta/models/a/b:generateContent", Unknown),
            ("POST", "/v1beta/models/:generateContent", Unknown),
            ("POST", "/v1beta/tunedModels/x:generateContent", Unknown),
            ("POST", "/v1beta/models/gemini-x%3AgenerateContent", Unknown),
            ("POST", "/v2/models/gemini-x:generateContent", Unknown),
            ("POST", "/v1beta/cachedContents", Unknown),
            ("GET", "/v1beta/models/", Unknown),
            ("GET", "/v1beta/modelsx", Unknown),
            ("GET", "/v1beta/files", Unknown),
        ] {
            assert_eq!(classify(method, path), class, "{method} {path}");
        }
    }

    #[test]
    fn model_and_streaming_stand_in_the_path() {
        let body = json!({"contents": [], "generationConfig": {"maxOutputTokens": 100, "candidateCount": 3}});
        let facts = inspect(Api::Gemini, PATH, body.to_string().as_bytes()).unwrap();
        assert_eq!((facts.model.as_str(), facts.stream, facts.max_output), ("gemini-x", true, Some(300)));
        let whole = inspect(Api::Gemini, "/v1/models/m:generateContent", b"{}").unwrap();
        assert_eq!((whole.model.as_str(), whole.stream, whole.max_output), ("m", false, None));
        assert_eq!(inspect(Api::Gemini, "/v1/models", b"{}"), Err(RequestError::NoModel));
        assert_eq!(
            inspect(Api::Gemini, PATH, br#"{"tools":[],"tools":[]}"#),
            Err(RequestError::DuplicateKey("tools".into()))
        );
    }

    #[test]
    fn what_the_api_would_fetch_run_or_remember_is_named_in_either_spelling() {
        let part = |part: Value| json!({"contents": [{"role": "user", "parts": [part]}]});
        let link = json!({"fileUri": "https://x/y", "mimeType": "image/png"});
        for (body, name) in [
            (json!({"tools": [{"googleSearch": {}}]}), "google_search"),
            (json!({"tools": [{"google_search": {}}]}), "google_search"),
            (json!({"tools": [{"googleSearchRetrieval": {}}]}), "google_search_retrieval"),
            (json!({"tools": [{"functionDeclarations": [], "urlContext": {}}]}), "url_context"),
            (json!({"tools": [{"codeExecution": {}}]}), "code_execution"),
            (json!({"tools": [{"mcpServers": [{"url": "https://evil"}]}]}), "mcp_servers"),
            (json!({"tools": [{"fileSearch": {"fileSearchStoreNames": ["x"]}}]}), "file_search"),
            (json!({"tools": ["googleSearch"]}), "unknown_tool"),
            (json!({"tools": {"googleSearch": {}}}), "unknown_tool"),
            (part(json!({"fileData": link})), "file_uri"),
            (part(json!({"file_data": {"file_uri": "gs://b/o"}})), "file_uri"),
            (part(json!({"functionResponse": {"name": "f", "parts": [{"fileData": link}]}})), "file_uri"),
            (json!({"systemInstruction": {"parts": [{"fileData": link}]}}), "file_uri"),
            (json!({"cachedContent": "cachedContents/other"}), "cached_content"),
            (json!({"cached_content": "cachedContents/other", "cachedContent": null}), "cached_content"),
            (json!({"generateContentRequest": {"tools": [{"urlContext": {}}]}}), "url_context"),
            (json!({"somethingNew": true}), "something_new"),
        ] {
            assert_eq!(reaching(body.clone()), [name], "{body}");
        }
    }

    #[test]
    fn code_assist_wraps_the_request_and_asks_who_the_user_is() {
        let asked =
            |verb: &str, body: Value| inspect(Api::Gemini, &format!("/v1internal:{verb}"), body.to_string().as_bytes());
        let wrapped = json!({"model": "gemini-x", "project": "p", "user_prompt_id": "u", "enabled_credit_types": ["A"],
            "request": {"contents": [], "session_id": "s", "generationConfig": {"maxOutputTokens": 7}}});
        let facts = asked("streamGenerateContent", wrapped).unwrap();
        assert_eq!(
            (facts.model.as_str(), facts.stream, facts.max_output, facts.reaching.len()),
            ("gemini-x", true, Some(7), 0)
        );
        let counted = asked("countTokens", json!({"request": {"model": "models/gemini-x", "contents": []}})).unwrap();
        assert_eq!((counted.model.as_str(), counted.reaching.len()), ("models/gemini-x", 0));
        let account = json!({"cloudaicompanionProject": "p", "metadata": {"ideType": "IDE_UNSPECIFIED"}});
        assert_eq!(asked("loadCodeAssist", account.clone()).unwrap().reaching, Vec::<String>::new());
        assert_eq!(asked("generateContent", account), Err(RequestError::NoModel));
        let twice = json!({"model": "m", "request": {"request": {"contents": []}}});
        assert_eq!(asked("generateContent", twice).unwrap().reaching, ["request"]);
        let tool = json!({"model": "m", "request": {"tools": [{"urlContext": {}}]}});
        assert_eq!(asked("generateContent", tool).unwrap().reaching, ["url_context"]);
    }

    #[test]
    fn a_plain_agent_request_reaches_nowhere() {
        let body = json!({
            "contents": [
                {"role": "user", "parts": [{"text": "see https://x"}, {"inlineData": {"mimeType": "image/png", "data": "AA"}}]},
                {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"fileData": {"fileUri": "https://x"}}},
                    "thoughtSignature": "AA"}, {"executableCode": {"language": "PYTHON", "code": "1"}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"fileData": "https://x"}}}]}],
            "systemInstruction": {"role": "user", "parts": [{"text": "x"}]},
            "tools": [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": {"type": "object",
                "properties": {"fileData": {"type": "string"}}}}], "googleSearch": null}],
            "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}}, "safetySettings": [],
            "generationConfig": {"temperature": 1, "thinkingConfig": {"includeThoughts": true}}});
        assert_eq!(reaching(body), Vec::<String>::new());
    }
}

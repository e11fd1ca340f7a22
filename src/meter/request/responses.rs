//! Requests to the OpenAI Responses API: the features by which the provider would reach out.

use super::{Found, PathClass, list, undated};
use crate::meter::shape::Shape;
use crate::types::Api;

/// Tells what `method` on `path` means.
pub(super) fn classify(method: &str, path: &str) -> PathClass {
    match (method, path) {
        (
            "POST",
            "/v1/responses"
            | "/v1/responses/compact"
            | "/backend-api/codex/responses"
            | "/backend-api/codex/responses/compact",
        ) => PathClass::Metered(Api::OpenaiResponses),
        ("POST", "/v1/responses/input_tokens") | ("GET", "/v1/models" | "/backend-api/codex/models") => {
            PathClass::Free(Api::OpenaiResponses)
        }
        _ => match (method, stored(path)) {
            ("GET", Some((_, ""))) => PathClass::Stored(Api::OpenaiResponses),
            ("POST", Some((_, "cancel"))) => PathClass::Free(Api::OpenaiResponses),
            _ => PathClass::Unknown,
        },
    }
}

/// Gets the id of a response that `path` names, and what is to be done with it.
pub(super) fn stored(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/v1/responses/")?;
    let (id, verb) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = id.starts_with("resp_") && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    plain.then_some((id, verb))
}

/// Looks for features.
pub(super) fn inspect(root: &Shape, found: &mut Found) {
    found.add_if(root.get("previous_response_id").is_some(), "previous_response");
    found.add_if(root.get("conversation").is_some(), "conversation");
    found.add_if(root.get("background").is_some_and(|v| !v.is_void()), "background");
    found.add_if(root.get("prompt").is_some(), "prompt");
    if let Some(tools) = root.get("tools") {
        tools_of(tools, true, found);
    }
    if let Some(given) = root.get("input") {
        input(given, found);
    }
}

/// Looks at a list of tools. Echoes of an MCP server's tools have no type: `typed` says whether one is needed.
fn tools_of(tools: &Shape, typed: bool, found: &mut Found) {
    for tool in list(tools, found) {
        match tool.get("type") {
            Some(Shape::Text(kind)) => match undated(kind) {
                "function" | "custom" | "local_shell" | "apply_patch" => {}
                // Runs where its environment says; on the client where nothing is said.
                "shell" => {
                    let hosted = tool.get("environment").is_some_and(|e| e.text("type") != Some("local"));
                    found.add_if(hosted, "shell");
                }
                // A named group of tools.
                "namespace" => {
                    if let Some(inner) = tool.get("tools") {
                        tools_of(inner, typed, found);
                    }
                }
                // Looking for tools among those given; run by the client where that is said.
                "tool_search" if tool.text("execution") == Some("client") => {}
                other => found.add(other),
            },
            None if !typed && matches!(tool, Shape::Object(_)) => {}
            _ => found.add("unknown_tool"),
        }
    }
}

/// Walks input items wherever they are nested.
pub(super) fn input(at: &Shape, found: &mut Found) {
    for element in at.elements() {
        input(element, found);
    }
    if at.fields().is_empty() {
        return;
    }
    let kind = at.text("type").unwrap_or_default();
    found.add_if(kind == "item_reference", "item_reference");
    // Annotations of earlier output; nothing that is fetched again.
    let echo = kind.ends_with("_citation") || kind == "file_path";
    for (key, value) in at.fields() {
        match (key.as_str(), value) {
            (_, Shape::Null) => {}
            ("image_url", Shape::Text(url)) => found.add_if(!is_data(url), "url_image"),
            ("image_url", other) => found.add_if(!other.text("url").is_some_and(is_data), "url_image"),
            ("file_url", _) => found.add("url_document"),
            ("file_id", _) => found.add_if(!echo, "file_id"),
            ("tools", tools) => tools_of(tools, false, found),
            _ => input(value, found),
        }
    }
}

/// Tells whether `url` carries its data itself (RFC 2397).
pub(super) fn is_data(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

//! Requests to the Anthropic Messages API: the features by which the provider would reach out.

use super::{Found, PathClass, list, undated};
use crate::meter::shape::Shape;
use crate::types::Api;

/// Tells what `method` on `path` means.
pub(super) fn classify(method: &str, path: &str) -> PathClass {
    use PathClass::{Free, Metered, Unknown};
    match (method, path) {
        ("POST", "/v1/messages") => Metered(Api::Anthropic),
        ("POST", "/v1/messages/count_tokens") | ("GET", "/v1/models") => Free(Api::Anthropic),
        ("GET", path) => match path.strip_prefix("/v1/models/") {
            Some(model) if !model.is_empty() && !model.contains('/') => Free(Api::Anthropic),
            _ => Unknown,
        },
        _ => Unknown,
    }
}

/// Looks for features.
pub(super) fn inspect(root: &Shape, found: &mut Found) {
    for key in ["mcp_servers", "container"] {
        found.add_if(root.get(key).is_some_and(|v| !v.is_void()), key);
    }
    if let Some(tools) = root.get("tools") {
        // Run by the client, though their schema is the provider's.
        let is_client = |base: &str| matches!(base, "custom" | "bash" | "text_editor" | "computer" | "memory");
        for tool in list(tools, found) {
            match tool.get("type") {
                None if matches!(tool, Shape::Object(_)) => {}
                Some(Shape::Text(kind)) if is_client(undated(kind)) => {}
                Some(Shape::Text(kind)) => found.add(undated(kind)),
                _ => found.add("unknown_tool"),
            }
        }
    }
    for key in ["system", "messages"] {
        if let Some(value) = root.get(key) {
            content(value, found);
        }
    }
}

/// Walks content blocks wherever they are nested (tool results hold blocks that hold blocks).
fn content(at: &Shape, found: &mut Found) {
    for element in at.elements() {
        content(element, found);
    }
    if at.fields().is_empty() {
        return;
    }
    let own = at.text("type").unwrap_or_default();
    // What a tool wrote into its result and where a citation points is an echo, nothing that is fetched again.
    let echo = own.ends_with("_output") || own.ends_with("_location");
    found.add_if(!echo && at.get("file_id").is_some(), "file_id");
    for (key, value) in at.fields() {
        match key.as_str() {
            // Arguments of a tool call are the agent's own data, and opaque to the API.
            "input" if own.ends_with("tool_use") => {}
            "source" if matches!(value, Shape::Object(_)) => {
                if value.text("type") == Some("url") || value.get("url").is_some() {
                    found.add(match own {
                        "image" => "url_image",
                        "document" => "url_document",
                        _ => "url_source",
                    });
                }
                content(value, found);
            }
            _ => content(value, found),
        }
    }
}

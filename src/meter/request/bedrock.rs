//! Requests to Amazon Bedrock: paths, and the features by which the provider would reach out.
//!
//! The model and what is done with it stand in the path; a model may be an ARN, which has slashes of its own.

use super::{Found, PathClass, anthropic, chat, list};
use crate::meter::shape::Shape;
use crate::types::Api;

/// What of a path names a model, and what is to be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call<'a> {
    pub(super) model: &'a str,
    verb: &'a str,
}

impl Call<'_> {
    pub(super) fn streams(&self) -> bool {
        matches!(self.verb, "converse-stream" | "invoke-with-response-stream")
    }
}

/// Gets what `path` calls.
pub(super) fn call(path: &str) -> Option<Call<'_>> {
    let (model, verb) = path.strip_prefix("/model/")?.rsplit_once('/')?;
    (!model.is_empty()).then_some(Call { model, verb })
}

/// Tells what `method` on `path` means.
pub(super) fn classify(method: &str, path: &str) -> PathClass {
    match (method, call(path).map(|call| call.verb)) {
        ("POST", Some("converse" | "converse-stream")) => PathClass::Metered(Api::BedrockConverse),
        ("POST", Some("invoke" | "invoke-with-response-stream")) => PathClass::Metered(Api::BedrockInvoke),
        ("POST", Some("count-tokens")) => PathClass::Free(Api::BedrockConverse),
        _ => PathClass::Unknown,
    }
}

/// Looks for features of Converse; returns the most output tokens that the request allows itself.
pub(super) fn converse(root: &Shape, found: &mut Found) -> Option<u64> {
    // What is to be counted stands in a request of its own.
    if let Some(counted) = root.get("input") {
        for (kind, request) in counted.fields() {
            match kind.as_str() {
                "converse" => drop(converse(request, found)),
                // Bytes in base64: nothing is done with them but counting.
                "invokeModel" => {}
                other => found.add(other),
            }
        }
    }
    found.add_if(root.get("promptVariables").is_some_and(|value| !value.is_void()), "prompt");
    tools(root, found);
    for key in ["messages", "system"] {
        if let Some(value) = root.get(key) {
            content(value, found);
        }
    }
    // Goes to the model as it is: what Claude's own API knows of tools and servers is said there.
    if let Some(own) = root.get("additionalModelRequestFields") {
        anthropic::inspect(own, found);
    }
    let most = root.get("inferenceConfig").and_then(|config| config.get("maxTokens"));
    if let Some(Shape::Count(most)) = most { Some(*most) } else { None }
}

/// Looks at the tools of Converse, and of models whose own form is like it.
fn tools(root: &Shape, found: &mut Found) {
    if let Some(tools) = root.get("toolConfig").and_then(|config| config.get("tools")) {
        for tool in list(tools, found) {
            for (kind, _) in tool.fields() {
                match kind.as_str() {
                    "toolSpec" | "cachePoint" => {}
                    other => found.add(other),
                }
            }
        }
    }
}

/// Walks content blocks wherever they are nested.
fn content(at: &Shape, found: &mut Found) {
    for element in at.elements() {
        content(element, found);
    }
    for (key, value) in at.fields() {
        match key.as_str() {
            // Arguments of a tool call are the agent's own data, and opaque to the API.
            "input" | "json" => {}
            "s3Location" => found.add_if(*value != Shape::Null, "s3_location"),
            _ => content(value, found),
        }
    }
}

/// Looks for features of Invoke, whose body is that of the model's own API; returns the most output tokens that it allows itself.
pub(super) fn invoke(root: &Shape, found: &mut Found) -> Option<u64> {
    // Claude's requests say the version of its API; what does not is Nova's, like Converse, or in the form of Chat Completions.
    let chat = match root.get("anthropic_version") {
        Some(_) => {
            anthropic::inspect(root, found);
            None
        }
        None => chat::inspect(root, found),
    };
    tools(root, found);
    content(root, found);
    let number = |at: Option<&Shape>| match at {
        Some(Shape::Count(n)) => Some(*n),
        _ => None,
    };
    let below = |table: &str, key: &str| number(root.get(table).and_then(|table| table.get(key)));
    // Claude, Mistral and Cohere; Llama; Nova under two names; Titan.
    chat.or_else(|| number(root.get("max_tokens")))
        .or_else(|| number(root.get("max_gen_len")))
        .or_else(|| below("inferenceConfig", "maxTokens"))
        .or_else(|| below("inferenceConfig", "max_new_tokens"))
        .or_else(|| below("textGenerationConfig", "maxTokenCount"))
}

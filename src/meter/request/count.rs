//! The endpoints by which a provider counts the tokens of a request: where they are, what they are asked, what they say.
//!
//! Pure; who asks is the egress plane. An API that has none is not asked.

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

use crate::types::Api;

/// What Anthropic's endpoint takes of a request; more is refused.
const ANTHROPIC: [&str; 9] = [
    "messages",
    "model",
    "system",
    "thinking",
    "tool_choice",
    "tools",
    "mcp_servers",
    "context_management",
    "output_config",
];
/// What OpenAI's takes.
const RESPONSES: [&str; 10] = [
    "conversation",
    "input",
    "instructions",
    "model",
    "parallel_tool_calls",
    "previous_response_id",
    "reasoning",
    "text",
    "tool_choice",
    "tools",
];

/// Gets the path of the endpoint that counts requests to `path`; `None` where there is none.
pub fn path(api: Api, path: &str) -> Option<String> {
    match api {
        Api::Anthropic => (path == "/v1/messages").then(|| format!("{path}/count_tokens")),
        Api::OpenaiResponses => (path == "/v1/responses").then(|| format!("{path}/input_tokens")),
        Api::Gemini => {
            let (model, verb) = path.rsplit_once(':')?;
            let known = model.starts_with("/v1") && model.contains("/models/");
            (known && matches!(verb, "generateContent" | "streamGenerateContent"))
                .then(|| format!("{model}:countTokens"))
        }
        Api::OpenaiChat | Api::BedrockConverse | Api::BedrockInvoke => None,
    }
}

/// Gets what the endpoint is asked about a request of `model`; `None` where the request cannot be read.
pub fn question(api: Api, body: &[u8], model: &str) -> Option<Vec<u8>> {
    let all: BTreeMap<String, &RawValue> = serde_json::from_slice(body).ok()?;
    if api == Api::Gemini {
        let mut asked = all;
        let name = serde_json::value::to_raw_value(&format!("models/{model}")).ok()?;
        asked.insert("model".to_owned(), &name);
        return serde_json::to_vec(&BTreeMap::from([("generateContentRequest", asked)])).ok();
    }
    let takes = |key: &str| match api {
        Api::Anthropic => ANTHROPIC.contains(&key),
        _ => RESPONSES.contains(&key),
    };
    let asked: BTreeMap<_, _> = all.into_iter().filter(|(key, _)| takes(key)).collect();
    serde_json::to_vec(&asked).ok()
}

/// Reads what the endpoint says. Unit: tokens.
pub fn answer(api: Api, body: &[u8]) -> Option<u64> {
    let said: Map<String, Value> = serde_json::from_slice(body).ok()?;
    said.get(if api == Api::Gemini { "totalTokens" } else { "input_tokens" })?.as_u64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_endpoint_is_asked_in_its_own_words() {
        let body =
            json!({"model": "m", "max_tokens": 5, "stream": true, "messages": [1], "tools": [2], "metadata": {}});
        let asked = |api| -> Value {
            serde_json::from_slice(&question(api, body.to_string().as_bytes(), "m").unwrap()).unwrap()
        };
        assert_eq!(asked(Api::Anthropic), json!({"messages": [1], "model": "m", "tools": [2]}));
        let body = json!({"contents": [1]}).to_string();
        let gemini: Value = serde_json::from_slice(&question(Api::Gemini, body.as_bytes(), "g").unwrap()).unwrap();
        assert_eq!(gemini, json!({"generateContentRequest": {"contents": [1], "model": "models/g"}}));
        for (api, of, at) in [
            (Api::Anthropic, "/v1/messages", Some("/v1/messages/count_tokens")),
            (Api::OpenaiResponses, "/v1/responses", Some("/v1/responses/input_tokens")),
            (Api::OpenaiResponses, "/backend-api/codex/responses", None),
            (Api::Gemini, "/v1beta/models/g:streamGenerateContent", Some("/v1beta/models/g:countTokens")),
            (Api::Gemini, "/v1internal:generateContent", None),
            (Api::OpenaiChat, "/v1/chat/completions", None),
        ] {
            assert_eq!(path(api, of).as_deref(), at, "{of}");
        }
        assert_eq!(answer(Api::Anthropic, br#"{"input_tokens": 12}"#), Some(12));
        assert_eq!(answer(Api::Gemini, br#"{"totalTokens": 9}"#), Some(9));
        assert_eq!(answer(Api::OpenaiResponses, br#"{"object":"response.input_tokens","input_tokens":7}"#), Some(7));
        assert_eq!(answer(Api::Anthropic, br#"{"error": {}}"#), None);
    }
}

//! Lowering what a request allows itself to say.
//!
//! Only a figure that is there is lowered: a service that takes none refuses it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Splice;
use crate::types::Api;

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    max_completion_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    max_output_tokens: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "generationConfig", alias = "generation_config")]
    generation: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "inferenceConfig")]
    inference: Option<&'a RawValue>,
    #[serde(default)]
    thinking: Option<Thinking>,
    #[serde(default)]
    n: Option<u64>,
}

#[derive(Deserialize)]
struct Thinking {
    #[serde(default)]
    budget_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Config<'a> {
    #[serde(borrow, default, rename = "maxOutputTokens", alias = "max_output_tokens", alias = "maxTokens")]
    most: Option<&'a RawValue>,
}

/// Gets the change by which a request allows itself no more than `most` output tokens; `None` where it allows itself no more already,
/// does not say, or could not be answered then.
pub fn lowering(api: Api, body: &[u8], most: u64) -> Option<Splice> {
    let head: Head<'_> = serde_json::from_slice(body).ok()?;
    let inner = |config: Option<&'_ RawValue>| -> Option<(usize, usize, u64)> {
        let config: Config<'_> = serde_json::from_str(config?.get()).ok()?;
        place(body, config.most?)
    };
    let (start, end, said) = match api {
        Api::Anthropic | Api::BedrockInvoke => place(body, head.max_tokens?)?,
        Api::OpenaiChat => place(body, head.max_completion_tokens.or(head.max_tokens)?)?,
        Api::OpenaiResponses => place(body, head.max_output_tokens?)?,
        Api::Gemini => inner(head.generation)?,
        Api::BedrockConverse => inner(head.inference)?,
    };
    // Each of so many choices may be as long.
    let most = most / head.n.unwrap_or(1).max(1);
    let least = match api {
        // It has to be more than what is thought with.
        Api::Anthropic => {
            head.thinking.and_then(|thinking| thinking.budget_tokens).map_or(1, |budget| budget.saturating_add(1))
        }
        Api::OpenaiResponses => 16,
        _ => 1,
    };
    (most < said && most >= least).then(|| Splice { start, end, text: most.to_string() })
}

/// Gets where in the body a number lies that was read from it, and its value.
fn place(body: &[u8], number: &RawValue) -> Option<(usize, usize, u64)> {
    let start = (number.get().as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    let end = start + number.get().len();
    (end <= body.len()).then_some(())?;
    Some((start, end, number.get().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_figure_is_changed_and_only_downwards() {
        for (api, body, want) in [
            (Api::Anthropic, r#"{"max_tokens": 64000 ,"m":"max_tokens"}"#, r#"{"max_tokens": 500 ,"m":"max_tokens"}"#),
            (
                Api::OpenaiChat,
                r#"{"max_tokens":9,"max_completion_tokens":900}"#,
                r#"{"max_tokens":9,"max_completion_tokens":500}"#,
            ),
            (Api::OpenaiChat, r#"{"n":5,"max_tokens":900}"#, r#"{"n":5,"max_tokens":100}"#),
            (Api::OpenaiResponses, r#"{"max_output_tokens":501}"#, r#"{"max_output_tokens":500}"#),
            (
                Api::Gemini,
                r#"{"generationConfig":{"a":1,"maxOutputTokens":8192}}"#,
                r#"{"generationConfig":{"a":1,"maxOutputTokens":500}}"#,
            ),
            (
                Api::BedrockConverse,
                r#"{"inferenceConfig":{"maxTokens":600}}"#,
                r#"{"inferenceConfig":{"maxTokens":500}}"#,
            ),
        ] {
            let splice = lowering(api, body.as_bytes(), 500).unwrap();
            assert_eq!(String::from_utf8(splice.apply(body.as_bytes())).unwrap(), want);
            assert_eq!(lowering(api, want.as_bytes(), 500), None, "{want}");
        }
        for body in [
            r#"{"model":"m"}"#,
            r#"{"max_tokens":"many"}"#,
            r#"{"messages":[{"max_tokens":900}]}"#,
            r#"{"max_tokens":900,"thinking":{"type":"enabled","budget_tokens":800}}"#,
            "[]",
        ] {
            assert_eq!(lowering(Api::Anthropic, body.as_bytes(), 500), None, "{body}");
        }
    }
}

//! Answers as the vendors' servers gave them, which lie beside the tree and not in it: `../shared/fixtures`, with what has to be read
//! of each. Without them the tests that use them say so and are skipped; the long check (`BB_TEST_FULL=1`) needs them.

use std::io::Read;
use std::path::Path;

use super::*;

/// Gets them all for `test`: name, API, body, and what is expected. None where they are not here.
pub(super) fn recorded(test: &str) -> Vec<(String, Api, Vec<u8>, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures");
    let Ok(expected) = std::fs::read(dir.join("EXPECTED.json")) else {
        assert!(!full(), "the recorded answers are not at {}", dir.display());
        eprintln!("SKIPPED {test}: lacks {}", dir.display());
        return vec![];
    };
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let mut all = vec![];
    for (name, want) in expected.as_object().unwrap() {
        let api = match name.as_str() {
            n if n.starts_with("anthropic") => Api::Anthropic,
            n if n.starts_with("openai_responses") || n.starts_with("codex") => Api::OpenaiResponses,
            n if n.starts_with("openai_chat") => Api::OpenaiChat,
            n if n.starts_with("gemini") && n.ends_with(".sse") => Api::Gemini,
            n if n.starts_with("bedrock_converse") => Api::BedrockConverse,
            n if n.starts_with("bedrock_invoke") => Api::BedrockInvoke,
            _ => continue,
        };
        let mut body = std::fs::read(dir.join(name)).unwrap();
        if name.ends_with(".chunks.txt") {
            let lines = String::from_utf8(body).unwrap();
            body = lines.lines().map(|l| format!("data: {l}\n\n")).collect::<String>().into_bytes();
        } else if name.ends_with(".gz") {
            let coded = std::mem::take(&mut body);
            flate2::read::MultiGzDecoder::new(&coded[..]).read_to_end(&mut body).unwrap();
        }
        all.push((name.clone(), api, body, want.clone()));
    }
    all
}

/// Tells whether the long versions of the tests are wanted.
pub(super) fn full() -> bool {
    std::env::var_os("BB_TEST_FULL").is_some_and(|value| value == "1")
}

#[test]
fn the_recorded_answers_are_read_as_expected() {
    let answers = recorded("the_recorded_answers_are_read_as_expected");
    let mut checked = 0;
    for (name, api, body, want) in &answers {
        let (name, api) = (name.as_str(), *api);
        let reading = parse(api, body);
        // A stream of chunks says nothing of its usage where nobody asked for it.
        let silent = api == Api::OpenaiChat && want["usage"].is_null();
        assert_eq!((reading.terminal, reading.broken), (!silent, false), "{name}: {reading:?}");
        let got = reading.tokens.map(|t| (t.input, t.cache_read, t.cache_write + t.cache_write_long, t.output));
        let n = |v: &Value| v.as_u64().unwrap();
        let want = match (api, name.contains("spliced")) {
            // Both generations: 17 in each; 65 out, and the 36 bytes that the first delivered.
            (_, true) => Some((34, 0, 0, 77)),
            (Api::Anthropic, _) => {
                let w = want.get("all_iterations").or(want.get("top_level")).unwrap_or(want);
                Some((n(&w["input"]), n(&w["cache_read"]), n(&w["cache_write"]), n(&w["output"])))
            }
            (Api::OpenaiResponses, _) => Some(&want["usage"]).filter(|u| !u.is_null()).map(|u| {
                assert_eq!(reading.tokens.unwrap().reasoning, n(&u["reasoning"]), "{name}");
                (n(&u["input_total"]) - n(&u["cached"]), n(&u["cached"]), 0, n(&u["output_total"]))
            }),
            (Api::OpenaiChat, _) => Some(&want["usage"]).filter(|u| !u.is_null()).map(|u| {
                let reasoning = &u["completion_tokens_details"]["reasoning_tokens"];
                assert_eq!(reading.tokens.unwrap().reasoning, n(reasoning), "{name}");
                let cached = n(&u["prompt_tokens_details"]["cached_tokens"]);
                (n(&u["prompt_tokens"]) - cached, cached, 0, n(&u["completion_tokens"]))
            }),
            (Api::BedrockConverse, _) => Some(&want["last"]["usage"]).map(|u| {
                let cache = |key: &str| u[key].as_u64().unwrap_or(0);
                let (read, written) = (cache("cacheReadInputTokens"), cache("cacheWriteInputTokens"));
                (n(&u["inputTokens"]), read, written, n(&u["outputTokens"]))
            }),
            (Api::BedrockInvoke, _) => Some(&want["last"]["amazon-bedrock-invocationMetrics"]).map(|u| {
                let (read, written) = (n(&u["cacheReadInputTokenCount"]), n(&u["cacheWriteInputTokenCount"]));
                (n(&u["inputTokenCount"]), read, written, n(&u["outputTokenCount"]))
            }),
            (Api::Gemini, _) => Some(&want["last"]).map(|u| {
                assert_eq!(reading.tokens.unwrap().reasoning, n(&u["thoughtsTokenCount"]), "{name}");
                (n(&u["promptTokenCount"]), 0, 0, n(&u["candidatesTokenCount"]) + n(&u["thoughtsTokenCount"]))
            }),
        };
        assert_eq!(got, want, "{name}");
        checked += 1;
    }
    assert!(answers.is_empty() || checked >= 18, "only {checked} recorded answers found");
}

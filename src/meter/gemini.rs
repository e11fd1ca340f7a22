//! Usage of the Gemini API, from the chunks of a stream (also of the list that a stream without `alt=sse` is) and JSON bodies; of
//! Vertex AI, which says the same; and of Code Assist, which wraps each chunk in `response`.
//!
//! The rules, from the API's documentation and from recorded streams:
//! * every chunk may carry `usageMetadata`, cumulative: of each figure the last one that was said wins, none is added;
//! * `promptTokenCount` includes what came from a cache; input of the provider's own tools comes on top;
//! * `candidatesTokenCount` excludes thinking, which is output all the same;
//! * where `totalTokenCount` is more than its parts, the rest is output that no field names;
//! * there is no closing event: a response is over with the reason for which it finished or was blocked, and figures may
//!   still come after it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::glance::{Len, few, small};
use super::usage::{Facts, Normaliser, Unreadable, count};
use crate::types::Tokens;

/// Where one answer stands.
#[derive(Default)]
pub(super) struct Gemini {
    facts: Facts,
    figures: Figures,
    /// It has said why it finished.
    finished: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chunk<'a> {
    #[serde(borrow, default, deserialize_with = "few")]
    candidates: Option<Vec<Candidate<'a>>>,
    #[serde(default)]
    prompt_feedback: Option<Feedback>,
    #[serde(default, deserialize_with = "small")]
    usage_metadata: Value,
    #[serde(borrow, default)]
    model_version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    response_id: Option<Cow<'a, str>>,
    /// The chunk itself, where Code Assist has wrapped it.
    #[serde(borrow, default)]
    response: Option<Box<Chunk<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(borrow, default)]
    content: Option<Content<'a>>,
    #[serde(default)]
    finish_reason: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, default, deserialize_with = "few")]
    parts: Option<Vec<Part<'a>>>,
}

/// What a part delivers: text (thinking too), or the arguments of a call.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part<'a> {
    #[serde(default)]
    text: Len,
    #[serde(borrow, default)]
    function_call: Option<FunctionCall<'a>>,
}

#[derive(Deserialize)]
struct FunctionCall<'a> {
    #[serde(default)]
    name: Len,
    #[serde(borrow, default)]
    args: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    #[serde(default)]
    block_reason: Option<serde::de::IgnoredAny>,
}

impl Candidate<'_> {
    /// Gets the length of what it delivers. Unit: bytes.
    fn delivered(&self) -> u64 {
        let parts = self.content.iter().flat_map(|content| content.parts.iter().flatten());
        let length = |part: &Part<'_>| {
            let call = part.function_call.as_ref().map_or(0, |call| {
                let args = call.args.map_or(0, |args| args.get().len() as u64);
                call.name.0.saturating_add(args)
            });
            part.text.0.saturating_add(call)
        };
        parts.map(length).fold(0, u64::saturating_add)
    }
}

/// The fields of a usage object; `None` = never said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Figures {
    prompt: Option<u64>,
    total: Option<u64>,
    candidates: Option<u64>,
    thoughts: Option<u64>,
    cached: Option<u64>,
    tools: Option<u64>,
}

impl Figures {
    /// Reads a usage object.
    fn read(usage: &Value) -> Result<Figures, Unreadable> {
        let figure = |key: &str| count(usage, &[key]);
        Ok(Figures {
            prompt: figure("promptTokenCount")?,
            total: figure("totalTokenCount")?,
            candidates: figure("candidatesTokenCount")?,
            thoughts: figure("thoughtsTokenCount")?,
            cached: figure("cachedContentTokenCount")?,
            tools: figure("toolUsePromptTokenCount")?,
        })
    }

    /// Takes over what `newer` says. A field that is left out says nothing: the closing chunk may have the prompt alone.
    fn update(&mut self, newer: Figures) {
        self.prompt = newer.prompt.or(self.prompt);
        self.total = newer.total.or(self.total);
        self.candidates = newer.candidates.or(self.candidates);
        self.thoughts = newer.thoughts.or(self.thoughts);
        self.cached = newer.cached.or(self.cached);
        self.tools = newer.tools.or(self.tools);
    }

    /// Gets the classes; `None` where there is no figure.
    fn tokens(&self) -> Option<Tokens> {
        if *self == Figures::default() {
            return None;
        }
        let n = |figure: Option<u64>| figure.unwrap_or(0);
        let input = n(self.prompt).saturating_add(n(self.tools));
        let named = n(self.candidates).saturating_add(n(self.thoughts));
        let output = named.max(n(self.total).saturating_sub(input));
        let cache_read = n(self.cached).min(n(self.prompt));
        Some(Tokens { input: input - cache_read, cache_read, output, reasoning: n(self.thoughts), ..Tokens::default() })
    }
}

impl Gemini {
    fn chunk(&mut self, mut chunk: Chunk<'_>) -> Result<(), Unreadable> {
        if let Some(wrapped) = chunk.response.take() {
            chunk = *wrapped;
        }
        self.facts.name(chunk.model_version, chunk.response_id.as_deref());
        let candidates = chunk.candidates.unwrap_or_default();
        let delivered: u64 = candidates.iter().map(Candidate::delivered).fold(0, u64::saturating_add);
        self.facts.delivered = self.facts.delivered.saturating_add(delivered);
        let blocked = chunk.prompt_feedback.is_some_and(|feedback| feedback.block_reason.is_some());
        if blocked || candidates.iter().any(|candidate| candidate.finish_reason.is_some()) {
            self.finished = true;
        } else if delivered > 0 {
            // It goes on: another of several candidates, or another generation.
            self.finished = false;
        }
        if !chunk.usage_metadata.is_null() {
            let figures = self.facts.refuse_on(Figures::read(&chunk.usage_metadata))?;
            if figures != Figures::default() {
                self.figures.update(figures);
                self.facts.tokens = self.figures.tokens();
                self.facts.keep_raw(&chunk.usage_metadata);
            }
        }
        self.facts.terminal = self.finished && self.facts.tokens.is_some();
        Ok(())
    }
}

impl Normaliser for Gemini {
    fn event(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        self.chunk(serde_json::from_slice(json).map_err(|_| Unreadable::Form)?)
    }

    fn body(&mut self, json: &[u8]) -> Result<(), Unreadable> {
        self.event(json)?;
        // Nothing was streamed: it came at once.
        self.facts.delivered = 0;
        Ok(())
    }

    fn facts(&self) -> &Facts {
        &self.facts
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokens(usage: Value) -> Option<Tokens> {
        Figures::read(&usage).unwrap().tokens()
    }

    #[test]
    fn each_class_is_read_once() {
        let all = json!({"promptTokenCount": 500, "cachedContentTokenCount": 300, "toolUsePromptTokenCount": 40,
            "candidatesTokenCount": 80, "thoughtsTokenCount": 35, "totalTokenCount": 655, "trafficType": "ON_DEMAND",
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 500}]});
        let want = Tokens { input: 240, cache_read: 300, output: 115, reasoning: 35, ..Tokens::default() };
        assert_eq!(tokens(all), Some(want));
    }

    #[test]
    fn a_closing_chunk_that_leaves_figures_out_takes_none_away() {
        let mut gemini = Gemini::default();
        for chunk in [
            json!({"candidates": [{"content": {"parts": [{"text": "x"}]}}], "usageMetadata": {"promptTokenCount": 18,
                "candidatesTokenCount": 80, "thoughtsTokenCount": 35, "totalTokenCount": 133}}),
            json!({"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 18, "totalTokenCount": 18}}),
        ] {
            gemini.event(chunk.to_string().as_bytes()).unwrap();
        }
        let want = Tokens { input: 18, output: 115, reasoning: 35, ..Tokens::default() };
        assert_eq!((gemini.facts.terminal, gemini.facts.tokens), (true, Some(want)));
    }

    #[test]
    fn the_arguments_of_a_call_are_output_as_they_are_written() {
        let mut gemini = Gemini::default();
        gemini
            .event(br#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{"a":[0,0]}}}]}}]}"#)
            .unwrap();
        assert_eq!(gemini.facts.delivered, 1 + r#"{"a":[0,0]}"#.len() as u64);
    }

    #[test]
    fn what_the_total_has_and_no_part_names_is_output() {
        let want = Tokens { input: 10, output: 90, ..Tokens::default() };
        assert_eq!(tokens(json!({"promptTokenCount": 10, "totalTokenCount": 100})), Some(want));
        let want = Tokens { input: 10, output: 5, ..Tokens::default() };
        let low = json!({"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 12});
        assert_eq!(tokens(low), Some(want), "a total that is too low takes nothing away");
    }

    #[test]
    fn an_object_without_figures_says_nothing_and_odd_figures_are_refused() {
        assert_eq!(tokens(json!({"trafficType": "ON_DEMAND"})), None);
        assert_eq!(tokens(json!({"promptTokenCount": null})), None);
        for odd in
            [json!({"promptTokenCount": -1}), json!({"totalTokenCount": "7"}), json!({"thoughtsTokenCount": 1.5})]
        {
            assert_eq!(Figures::read(&odd), Err(Unreadable::Figures), "{odd}");
        }
    }
}

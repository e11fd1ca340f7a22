//! Answers of the Gemini API: streams of chunks as events or as one array, or one JSON response.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::anthropic::{Answer, chunks};
use super::body::Piece;
use super::tools::Call;

/// How deep an answer to a schema goes.
const DEEPEST: usize = 8;

/// Makes answers.
pub(super) struct Generated<'a> {
    /// What is said.
    pub(super) answer: Answer<'a>,
    /// Events; one array in pieces otherwise.
    pub(super) events: bool,
    /// As Code Assist says it: wrapped in `response`.
    pub(super) wrapped: bool,
}

impl Generated<'_> {
    /// Makes the usage of an answer of which `part` of `parts` are out.
    fn usage(&self, part: u64, parts: u64) -> Value {
        let t = &self.answer.tokens;
        let prompt = t.input + t.cache_read + t.cache_write + t.cache_write_long;
        let thoughts = t.reasoning.min(t.output);
        let candidates = (t.output - thoughts) * part / parts;
        let mut usage = json!({"promptTokenCount": prompt, "totalTokenCount": prompt + candidates + thoughts,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}]});
        // As the API does: what is zero is left out.
        let named = [
            ("cachedContentTokenCount", t.cache_read),
            ("candidatesTokenCount", candidates),
            ("thoughtsTokenCount", thoughts),
        ];
        for (key, count) in named.into_iter().filter(|(_, count)| *count > 0) {
            usage[key] = json!(count);
        }
        usage
    }

    fn parts(&self) -> Vec<Value> {
        let texts = chunks(self.answer.text).map(|text| json!({"text": text}));
        let call = self.answer.call.map(|call| {
            let (name, args) = match call {
                Call::Function(name, args) => (name.clone(), args.clone()),
                Call::Custom(name, input) => (name.clone(), json!({"input": input})),
                Call::LocalShell(argv) => ("run_shell_command".to_owned(), json!({"command": argv.join(" ")})),
            };
            json!({"functionCall": {"name": name, "args": args}})
        });
        texts.chain(call).collect()
    }

    fn response(&self, parts: &[Value], finish: bool, usage: Value) -> Value {
        let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
        if finish {
            candidate["finishReason"] = json!("STOP");
        }
        let said = json!({"candidates": [candidate], "usageMetadata": usage, "modelVersion": self.answer.model,
            "responseId": self.answer.id});
        if self.wrapped { json!({"response": said, "traceId": self.answer.id}) } else { said }
    }

    /// Gets the chunks of a stream.
    pub(super) fn stream(&self) -> Vec<Piece> {
        let parts = self.parts();
        let last = parts.len().saturating_sub(1);
        let said = parts.iter().enumerate().map(|(at, part)| {
            let usage = self.usage(at as u64 + 1, parts.len() as u64);
            self.response(std::slice::from_ref(part), at == last, usage)
        });
        let empty = parts.is_empty().then(|| self.response(&[], true, self.usage(1, 1)));
        let said: Vec<Value> = said.chain(empty).collect();
        let last = said.len() - 1;
        let piece = |(at, chunk): (usize, &Value)| {
            let text = match (self.events, at) {
                (true, _) => format!("data: {chunk}\r\n\r\n"),
                (false, at) => {
                    let open = if at == 0 { "[" } else { ",\r\n" };
                    format!("{open}{chunk}{}", if at == last { "\n]" } else { "" })
                }
            };
            Piece { bytes: Bytes::from(text), terminal: at == last }
        };
        said.iter().enumerate().map(piece).collect()
    }

    /// Gets the answer as one response.
    pub(super) fn whole(&self) -> Piece {
        let mut parts = self.parts();
        if !self.answer.text.is_empty() {
            parts.retain(|part| part.get("text").is_none());
            parts.insert(0, json!({"text": self.answer.text}));
        }
        let response = self.response(&parts, true, self.usage(1, 1));
        Piece { bytes: Bytes::from(response.to_string()), terminal: true }
    }
}

/// Gets the schema that the answer to `body` has to be in.
pub(super) fn schema(body: &Value) -> Option<&Value> {
    let config = &body["generationConfig"];
    ["responseJsonSchema", "responseSchema"].iter().map(|key| &config[*key]).find(|schema| schema.is_object())
}

/// Makes the least that fits `schema`. Real CLIs ask small questions of that kind beside their conversation, such as which
/// model is to answer it.
pub(super) fn fitting(schema: &Value) -> Value {
    fit(schema, DEEPEST)
}

fn fit(schema: &Value, depth: usize) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.first().and_then(Value::as_str),
        kind => kind.as_str(),
    };
    match kind.unwrap_or_default().to_ascii_lowercase().as_str() {
        "object" if depth > 0 => {
            let fields = schema["properties"].as_object();
            let fields = fields.into_iter().flatten().map(|(name, field)| (name.clone(), fit(field, depth - 1)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        "object" => json!({}),
        "array" => json!([]),
        "integer" | "number" => schema.get("minimum").filter(|least| least.is_number()).cloned().unwrap_or(json!(1)),
        "boolean" => json!(false),
        _ => json!("rehearsed"),
    }
}

/// Gets the body of an error.
pub(super) fn error(status: u16, message: &str) -> Value {
    let word = match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 | 529 => "UNAVAILABLE",
        402 | 405..=428 | 430..=499 => "FAILED_PRECONDITION",
        _ => "INTERNAL",
    };
    json!({"error": {"code": status, "message": message, "status": word}})
}

/// Gets the list of models.
pub(super) fn models() -> Value {
    json!({"models": [{"name": "models/gemini-rehearsal", "displayName": "Rehearsal", "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65536, "supportedGenerationMethods": ["generateContent", "countTokens"]}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_with_a_schema_gets_the_least_that_fits() {
        let schema = json!({"type": "OBJECT", "required": ["why", "score"], "properties": {
            "why": {"type": "STRING"}, "score": {"type": "integer", "minimum": 3}, "which": {"enum": ["flash", "pro"]},
            "sure": {"type": ["boolean", "null"]}, "more": {"type": "array", "items": {"type": "string"}}}});
        let body = json!({"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": schema}});
        let want = json!({"why": "rehearsed", "score": 3, "which": "flash", "sure": false, "more": []});
        assert_eq!(fitting(super::schema(&body).unwrap()), want);
        let mut deep = json!({"type": "string"});
        for _ in 0..100 {
            deep = json!({"type": "object", "properties": {"a": deep}});
        }
        assert!(fitting(&deep).to_string().len() < 100);
    }
}

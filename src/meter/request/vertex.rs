//! Paths of Vertex AI, at which models of several vendors speak the APIs of their own.

use super::PathClass;
use crate::types::Api;

/// What of a path names a model, and what is to be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call<'a> {
    publisher: &'a str,
    pub(super) model: &'a str,
    verb: &'a str,
}

impl Call<'_> {
    pub(super) fn streams(&self) -> bool {
        matches!(self.verb, "streamGenerateContent" | "streamRawPredict")
    }
}

/// Gets what `path` calls: `/VERSION/projects/P/locations/L/publishers/PUBLISHER/models/MODEL:VERB`, or with a key, which says the
/// project, `/VERSION/publishers/PUBLISHER/models/MODEL:VERB`.
pub(super) fn call(path: &str) -> Option<Call<'_>> {
    let rest = ["/v1/", "/v1beta1/"].iter().find_map(|version| path.strip_prefix(version))?;
    let parts: Vec<&str> = rest.split('/').collect();
    let (place, publisher, last) = match parts[..] {
        ["projects", project, "locations", location, "publishers", publisher, "models", last] => {
            ([project, location], publisher, last)
        }
        ["publishers", publisher, "models", last] => (["-"; 2], publisher, last),
        _ => return None,
    };
    let (model, verb) = last.rsplit_once(':')?;
    let named = !place.iter().chain(&[publisher, model, verb]).any(|part| part.is_empty());
    named.then_some(Call { publisher, model, verb })
}

/// Tells what `method` on `path` means.
pub(super) fn classify(method: &str, path: &str) -> PathClass {
    let Some(call) = call(path).filter(|_| method == "POST") else { return PathClass::Unknown };
    match (call.publisher, call.model, call.verb) {
        ("google", _, "generateContent" | "streamGenerateContent") => PathClass::Metered(Api::Gemini),
        ("google", _, "countTokens") => PathClass::Free(Api::Gemini),
        ("anthropic", "count-tokens", "rawPredict") => PathClass::Free(Api::Anthropic),
        ("anthropic", _, "rawPredict" | "streamRawPredict") => PathClass::Metered(Api::Anthropic),
        _ => PathClass::Unknown,
    }
}

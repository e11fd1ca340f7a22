//! What the normalisers share: their face, what they know, and how a token count is read.

use std::borrow::Cow;

use serde_json::Value;

use crate::types::Tokens;

/// Largest count accepted; what is charged of one class is bounded by the same.
const MAX_COUNT: u64 = crate::types::MOST_OF_A_CLASS;

/// Longest model name or id kept. Unit: bytes.
const MAX_NAME: usize = 256;

/// Longest usage object kept as text. Unit: bytes.
const MAX_RAW: usize = 64 << 10;

/// Output bytes that are taken for one token. Low, so that an estimate is rather too high than too low.
const BYTES_PER_TOKEN: u64 = 3;

/// Why an answer cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Not JSON, or not an expected shape. Usage seen before stays.
    Form,
    /// More than may be kept. Usage seen before stays.
    Bound,
    /// Figures that are no token counts. No usage of this answer is believed.
    Figures,
}

/// What is known about an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Usage so far.
    pub(super) tokens: Option<Tokens>,
    /// Final word seen.
    pub(super) terminal: bool,
    /// Model.
    pub(super) model: Option<String>,
    /// Id.
    pub(super) response_id: Option<String>,
    /// Bytes delivered in deltas.
    pub(super) delivered: u64,
    /// Last usage object.
    pub(super) raw_usage: Option<String>,
}

impl Facts {
    /// Gets the output estimated from what was delivered. Unit: tokens.
    pub(super) fn streamed(&self) -> u64 {
        estimate(self.delivered)
    }

    /// Takes model and id where they are said.
    pub(super) fn name(&mut self, model: Option<Cow<'_, str>>, id: Option<&str>) {
        if let Some(model) = model {
            self.model = Some(clip(&model));
        }
        if let Some(id) = id {
            self.response_id = Some(clip(id));
        }
    }

    /// Keeps `usage` as text.
    pub(super) fn keep_raw(&mut self, usage: &Value) {
        self.raw_usage = Some(usage.to_string()).filter(|raw| raw.len() <= MAX_RAW);
    }

    /// Passes `done` on; figures that were refused take all usage with them.
    pub(super) fn refuse_on<T>(&mut self, done: Result<T, Unreadable>) -> Result<T, Unreadable> {
        if matches!(done, Err(Unreadable::Figures)) {
            self.tokens = None;
            self.terminal = false;
        }
        done
    }
}

/// Reads one API's events and bodies.
pub(super) trait Normaliser: Send {
    /// Takes the data of one SSE event.
    fn event(&mut self, json: &[u8]) -> Result<(), Unreadable>;
    /// Takes a whole JSON body.
    fn body(&mut self, json: &[u8]) -> Result<(), Unreadable>;
    /// Gets what is known.
    fn facts(&self) -> &Facts;
}

/// Estimates the tokens in `bytes` bytes of output.
pub(super) fn estimate(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// Reads the count at `path` below `usage`: `None` where any step is absent or null.
///
/// # Errors
/// [`Unreadable::Figures`] where it is negative, no integer, above 2^40, or a step is no object.
pub(super) fn count(usage: &Value, path: &[&str]) -> Result<Option<u64>, Unreadable> {
    let mut at = usage;
    for step in path {
        at = match at {
            Value::Object(map) => map.get(*step).unwrap_or(&Value::Null),
            Value::Null => return Ok(None),
            _ => return Err(Unreadable::Figures),
        };
    }
    match at {
        Value::Null => Ok(None),
        Value::Number(n) => n.as_u64().filter(|n| *n <= MAX_COUNT).map(Some).ok_or(Unreadable::Figures),
        _ => Err(Unreadable::Figures),
    }
}

/// Cuts `text` to what is kept of a name.
fn clip(text: &str) -> String {
    let end = (0..=MAX_NAME.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_whole_numbers_in_range_are_counts() {
        let usage =
            json!({"a": 5, "n": null, "o": {"b": 0}, "neg": -1, "f": 1.5, "s": "5", "big": 9007199254740993u64});
        assert_eq!(count(&usage, &["a"]), Ok(Some(5)));
        assert_eq!(count(&usage, &["o", "b"]), Ok(Some(0)));
        assert_eq!(count(&usage, &["n"]), Ok(None));
        assert_eq!(count(&usage, &["n", "x"]), Ok(None));
        assert_eq!(count(&usage, &["nothing", "x"]), Ok(None));
        for bad in [&["neg"][..], &["f"], &["s"], &["big"], &["o"], &["a", "x"]] {
            assert_eq!(count(&usage, bad), Err(Unreadable::Figures), "{bad:?}");
        }
    }
}

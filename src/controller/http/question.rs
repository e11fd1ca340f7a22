//! What a call on the controller's socket says: its body and its query, read within bounds.
//!
//! Knows no call: what is read is checked by the types of the API.

use std::collections::HashMap;

use http_body_util::{BodyExt, Limited};
use hyper::Request;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::error::{Error, Kind, Result};
use crate::types::Book;

/// Largest body. A launch carries prompts and placeholder files, nothing bigger.
const BODY_MAX: usize = 8 << 20;

/// Reads a JSON body. Unknown keys are refused by the types; the nearest known one is named.
pub(super) async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T> {
    let bytes = Limited::new(body, BODY_MAX)
        .collect()
        .await
        .map_err(|e| Error::new(Kind::Usage, format!("the body cannot be read: {e}")))?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|e| {
        let text = e.to_string();
        let Some((_, rest)) = text.split_once("unknown field `") else {
            return Error::new(Kind::Usage, format!("the body is not what this call takes: {text}"));
        };
        let mut quoted = rest.split('`').step_by(2);
        let given = quoted.next().unwrap_or_default();
        let error = Error::new(Kind::UnknownKey, format!("unknown key `{given}`"));
        match crate::error::nearest(given, quoted) {
            Some(known) => error.hint(format!("did you mean `{known}`?")),
            None => error,
        }
    })
}

/// Gets the query of a URI, percent-decoded. Of a name that comes more than once the last counts.
pub(super) fn query(request: &Request<Incoming>) -> HashMap<String, String> {
    pairs(request.uri().query()).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Gets all values of a name that may come more than once.
pub(super) fn each(request: &Request<Incoming>, name: &str) -> Vec<String> {
    pairs(request.uri().query()).filter(|(other, _)| *other == name).map(|(_, value)| value).collect()
}

fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, String)> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name, percent_decoded(value)))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let decoded = match (first, tail) {
            (b'%', [high, low, ..]) => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|h| u8::from_str_radix(h, 16).ok())
            }
            _ => None,
        };
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Gets the book that a query names.
pub(super) fn book(query: &HashMap<String, String>) -> Book {
    if query.get("book").is_some_and(|b| b == "rehearsal") { Book::Rehearsal } else { Book::Real }
}

/// Tells whether a query sets a flag.
pub(super) fn flag(query: &HashMap<String, String>, name: &str) -> bool {
    query.get(name).is_some_and(|v| v == "1" || v == "true")
}

/// Gets a number of a query, if it has it.
pub(super) fn number(query: &HashMap<String, String>, name: &str) -> Result<Option<u64>> {
    query
        .get(name)
        .map(|v| v.parse().map_err(|_| Error::new(Kind::Usage, format!("`{name}` is not a whole number"))))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_may_be_percent_encoded_and_need_not_be() {
        assert_eq!(percent_decoded("run%3Aabc"), "run:abc");
        assert_eq!(percent_decoded("run:abc"), "run:abc");
        assert_eq!(percent_decoded("100%"), "100%");
    }

    #[test]
    fn a_name_may_come_more_than_once() {
        let all: Vec<_> = pairs(Some("header=A%3A%201&x=2&header=B%3A%203&y")).collect();
        assert_eq!(all, [("header", "A: 1".to_owned()), ("x", "2".to_owned()), ("header", "B: 3".to_owned())]);
        assert_eq!(pairs(None).count(), 0);
    }
}

//! What a client says on a WebSocket of the Responses API: each message is looked at as the body of a POST is.
//!
//! Two are known (OpenAI's API reference, client events): `response.create`, which has the fields of the POST at its top level,
//! and `response.steer`, which makes the server begin a successor by itself. Whatever else comes is unknown.

use super::{CODED, Found, KEPT, NoShape, RequestError, RequestFacts, Shape, responses};

/// Keys that a steering message may have.
const STEER: [&str; 3] = ["type", "previous_response_id", "input"];

/// One message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks for a response.
    Create {
        /// What it asks for; `previous_response` stands in it as in a POST.
        facts: RequestFacts,
        /// The lane that it is answered in (`stream_id`).
        lane: Option<String>,
        /// The response that it goes on from (`previous_response_id`).
        follows: Option<String>,
    },
    /// Puts input into a response that is under way, which is ended, and gone on with in a response of its own.
    Steer {
        /// The features of its input by which the provider would reach out.
        reaching: Vec<String>,
        /// The response that it is for.
        target: String,
    },
}

/// Looks at one message.
///
/// # Errors
/// [`RequestError`]; such a message must not leave.
pub fn message(text: &[u8]) -> Result<Message, RequestError> {
    if CODED.iter().any(|magic| text.starts_with(magic)) {
        return Err(RequestError::Coded);
    }
    let root = Shape::read(text).map_err(|error| match error {
        NoShape::NotJson => RequestError::NotJson,
        NoShape::Repeated(key) => RequestError::DuplicateKey(key),
    })?;
    if !matches!(root, Shape::Object(_)) {
        return Err(RequestError::NotObject);
    }
    match root.text("type") {
        Some("response.create") => create(&root),
        Some("response.steer") => steer(&root),
        other => Err(RequestError::Message(other.unwrap_or_default().chars().take(60).collect())),
    }
}

fn create(root: &Shape) -> Result<Message, RequestError> {
    // The fields stand at the top; an object of that name could hold others, which nobody has looked at.
    if root.get("response").is_some() {
        return Err(RequestError::Key("response"));
    }
    let mut found = Found::default();
    responses::inspect(root, &mut found);
    let model = root.text("model").filter(|m| !m.is_empty()).ok_or(RequestError::NoModel)?.to_owned();
    let max_output = match (root.get("generate"), root.get("max_output_tokens")) {
        // It only has the input made ready.
        (Some(Shape::Bool(false)), _) => Some(0),
        (_, Some(Shape::Count(most))) => Some(*most),
        _ => None,
    };
    let facts = RequestFacts { model, stream: true, max_output, reaching: found.0 };
    Ok(Message::Create { facts, lane: id(root, "stream_id")?, follows: id(root, "previous_response_id")? })
}

fn steer(root: &Shape) -> Result<Message, RequestError> {
    if root.fields().iter().any(|(key, _)| !STEER.contains(&key.as_str())) {
        return Err(RequestError::Key("(one beside type, previous_response_id and input)"));
    }
    let target = id(root, "previous_response_id")?.ok_or(RequestError::Key("previous_response_id"))?;
    let mut found = Found::default();
    if let Some(input) = root.get("input") {
        responses::input(input, &mut found);
    }
    Ok(Message::Steer { reaching: found.0, target })
}

/// Gets an id, which is compared: one that is no text, or longer than what is kept of a text, cannot be.
fn id(root: &Shape, key: &'static str) -> Result<Option<String>, RequestError> {
    match root.get(key) {
        None => Ok(None),
        Some(Shape::Text(text)) if text.len() < KEPT - 4 => Ok(Some(text.clone())),
        Some(_) => Err(RequestError::Key(key)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Result<Message, RequestError> {
        message(value.to_string().as_bytes())
    }

    #[test]
    fn a_create_is_looked_at_as_a_post_is() {
        let value = json!({"type": "response.create", "model": "m", "stream_id": "a", "previous_response_id": "resp_1",
            "max_output_tokens": 7, "tools": [{"type": "web_search"}, {"type": "function", "name": "f"}],
            "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://x.example/a.png"}]}]});
        let Ok(Message::Create { facts, lane, follows }) = read(&value) else { panic!() };
        assert_eq!((lane.as_deref(), follows.as_deref()), (Some("a"), Some("resp_1")));
        assert_eq!(facts.reaching, ["previous_response", "web_search", "url_image"]);
        assert_eq!((facts.model.as_str(), facts.max_output, facts.stream), ("m", Some(7), true));
        let value = json!({"type": "response.create", "model": "m", "input": [], "generate": false});
        let Ok(Message::Create { facts, .. }) = read(&value) else { panic!() };
        assert_eq!((facts.max_output, facts.reaching.len()), (Some(0), 0));
    }

    #[test]
    fn what_is_null_is_not_there() {
        let value = json!({"type": "response.create", "model": "m", "input": "x", "previous_response_id": null, "stream_id": null});
        let Ok(Message::Create { facts, lane, follows }) = read(&value) else { panic!() };
        assert_eq!((lane, follows, facts.reaching.len()), (None, None, 0));
    }

    #[test]
    fn steering_is_looked_at_too() {
        let input = json!([{"type": "message", "role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]);
        let value = json!({"type": "response.steer", "previous_response_id": "resp_1", "input": input});
        let wanted = Message::Steer { reaching: vec!["file_id".into()], target: "resp_1".into() };
        assert_eq!(read(&value), Ok(wanted));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (value, error) in [
            (json!({"type": "response.cancel"}), RequestError::Message("response.cancel".into())),
            (json!({"model": "m"}), RequestError::Message(String::new())),
            (json!([]), RequestError::NotObject),
            (json!({"type": "response.create"}), RequestError::NoModel),
            (json!({"type": "response.create", "response": {"tools": []}}), RequestError::Key("response")),
            (json!({"type": "response.create", "model": "m", "stream_id": 1}), RequestError::Key("stream_id")),
            (
                json!({"type": "response.create", "model": "m", "previous_response_id": "x".repeat(300)}),
                RequestError::Key("previous_response_id"),
            ),
            (json!({"type": "response.steer", "input": "x"}), RequestError::Key("previous_response_id")),
        ] {
            assert_eq!(read(&value), Err(error), "{value}");
        }
        let more = json!({"type": "response.steer", "previous_response_id": "r", "input": "x", "tools": []});
        assert!(matches!(read(&more), Err(RequestError::Key(_))));
        let twice = br#"{"type":"response.create","model":"m","tools":[],"tools":[{"type":"web_search"}]}"#;
        assert_eq!(message(twice), Err(RequestError::DuplicateKey("tools".into())));
        assert_eq!(message(b"hello"), Err(RequestError::NotJson));
    }
}

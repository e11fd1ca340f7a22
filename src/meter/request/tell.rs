//! One sentence more in a request: where a budget is to be told of to its agent.
//!
//! It stands at the end of what its user says, so that nothing before it is another; where the last word is not the user's, there is no
//! place for it.

use serde_json::json;

use super::Splice;
use crate::meter::walk::{Step, Walk};
use crate::types::Api;

/// Where something can be said.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// At the end of a text: where its last quote stands.
    Text(usize),
    /// At the end of a list with something in it: where its bracket stands.
    List(usize),
}

/// How a conversation ends.
#[derive(Debug, Default)]
struct End {
    /// Of the conversation itself.
    talk: Option<Place>,
    /// Who says the last of it, and where that ends.
    role: Vec<u8>,
    last: Option<Place>,
}

/// Gets the change by which a request says `sentence`, too; `None` where there is no place for it.
pub fn telling(api: Api, body: &[u8], sentence: &str) -> Option<Splice> {
    let end = ends(body);
    let put = |at: usize, text: String| Some(Splice { start: at, end: at, text });
    let append = |place: Option<Place>, part: serde_json::Value| match place? {
        Place::Text(at) => {
            let quoted = json!(format!("\n\n{sentence}")).to_string();
            put(at, quoted[1..quoted.len() - 1].to_owned())
        }
        Place::List(at) => put(at, format!(",{part}")),
    };
    match (api, end.role.as_slice()) {
        (Api::Anthropic | Api::BedrockInvoke | Api::OpenaiChat, b"user") => {
            append(end.last, json!({"type": "text", "text": sentence}))
        }
        (Api::OpenaiChat, b"tool") => append(end.talk, json!({"role": "user", "content": sentence})),
        (Api::OpenaiResponses, _) => {
            let content = json!([{"type": "input_text", "text": sentence}]);
            append(end.talk, json!({"type": "message", "role": "user", "content": content}))
        }
        (Api::Gemini | Api::BedrockConverse, b"user") => append(end.last, json!({"text": sentence})),
        _ => None,
    }
}

/// Finds how the conversation of a body ends.
fn ends(body: &[u8]) -> End {
    let mut end = End::default();
    // How many brackets stand around the request's own keys: one more where all is wrapped (Code Assist).
    let (mut base, mut depth, mut talks) = (1, 0, false);
    let mut key: &[u8] = b"";
    let mut empty = true;
    for step in Walk::new(body) {
        match step {
            Step::Open { list, .. } => {
                if depth == 1 && base == 1 && !list && key == b"request" {
                    base = 2;
                }
                if depth == base + 1 && talks {
                    (end.role, end.last) = (Vec::new(), None);
                }
                empty = list;
                depth += 1;
            }
            Step::Close(behind) => {
                depth -= 1;
                let place = (!empty && body.get(behind - 1) == Some(&b']')).then_some(Place::List(behind - 1));
                if depth == base && talks {
                    end.talk = place;
                }
                if depth == base + 2 && talks && is_said(key) && end.last.is_none() {
                    end.last = place;
                }
                empty = false;
                if depth < base {
                    base = 1;
                }
            }
            Step::Key(range) => {
                empty = false;
                if depth == base {
                    talks = matches!(&body[range.clone()], b"messages" | b"contents" | b"input");
                }
                if depth <= base + 2 {
                    key = &body[range];
                }
            }
            Step::Text(range) => {
                empty = false;
                let place = Some(Place::Text(range.end)).filter(|_| range.end < body.len());
                if depth == base && talks {
                    end.talk = place;
                }
                if depth == base + 2 && talks {
                    match key {
                        b"role" => end.role = body[range].to_vec(),
                        key if is_said(key) => end.last = place,
                        _ => {}
                    }
                }
            }
            Step::Other(_) => empty = false,
        }
    }
    end
}

/// Tells whether what somebody says stands under `key`.
fn is_said(key: &[u8]) -> bool {
    matches!(key, b"content" | b"parts")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_sentence_stands_at_the_end_of_what_the_user_says() {
        let text = |role: &str, content: Value| json!({"role": role, "content": content});
        let (block, said) = (json!({"type": "text", "text": "hi"}), json!({"type": "text", "text": "Say \"it\"."}));
        let message =
            json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say \"it\"."}]});
        let in_text = json!("hi\n\nSay \"it\".");
        let result = json!({"type": "tool_result", "content": [block]});
        let cases = [
            (Api::Anthropic, "messages", json!([text("user", json!("hi"))]), json!([text("user", in_text.clone())])),
            (
                Api::Anthropic,
                "messages",
                json!([text("user", json!([block]))]),
                json!([text("user", json!([block, said]))]),
            ),
            (
                Api::Anthropic,
                "messages",
                json!([text("user", json!("a")), text("assistant", json!([block])), text("user", json!([result]))]),
                json!([
                    text("user", json!("a")),
                    text("assistant", json!([block])),
                    text("user", json!([result, said]))
                ]),
            ),
            (
                Api::OpenaiChat,
                "messages",
                json!([text("user", json!("a")), {"role": "tool", "tool_call_id": "t", "content": "x"}]),
                json!([text("user", json!("a")), {"role": "tool", "tool_call_id": "t", "content": "x"}, text("user", json!("Say \"it\"."))]),
            ),
            (Api::OpenaiResponses, "input", json!("hi"), in_text.clone()),
            (Api::OpenaiResponses, "input", json!([{"type": "x", "y": []}]), json!([{"type": "x", "y": []}, message])),
            (
                Api::Gemini,
                "contents",
                json!([{"parts": [{"functionResponse": {"response": {"parts": []}}}], "role": "user"}]),
                json!([{"parts": [{"functionResponse": {"response": {"parts": []}}}, {"text": "Say \"it\"."}], "role": "user"}]),
            ),
            (
                Api::BedrockConverse,
                "messages",
                json!([text("user", json!([{"text": "hi"}]))]),
                json!([text("user", json!([{"text": "hi"}, {"text": "Say \"it\"."}]))]),
            ),
        ];
        for (api, part, before, after) in cases {
            // Whatever else it says stays as it was; Code Assist has it one level down.
            for wrapped in [false, true] {
                let body = |talk: &Value| {
                    let body =
                        json!({"model": "m", part: talk, "tools": [{"messages": [{"role": "user", "content": "no"}]}]});
                    if wrapped { json!({"project": "p", "request": body, "z": 1}) } else { body }
                };
                let text = body(&before).to_string();
                let splice = telling(api, text.as_bytes(), "Say \"it\".").unwrap_or_else(|| panic!("{text}"));
                let told: Value = serde_json::from_slice(&splice.apply(text.as_bytes())).unwrap();
                assert_eq!(told, body(&after));
            }
        }
    }

    #[test]
    fn where_the_last_word_is_not_the_users_there_is_no_place_for_it() {
        let none = |api, body: Value| telling(api, body.to_string().as_bytes(), "x").is_none();
        let prefilled = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
        assert!(none(Api::Anthropic, prefilled.clone()) && none(Api::OpenaiChat, prefilled));
        assert!(none(Api::Anthropic, json!({"messages": []})) && none(Api::OpenaiResponses, json!({"input": []})));
        assert!(none(Api::Gemini, json!({"contents": [{"role": "model", "parts": [{"text": "a"}]}]})));
        assert!(none(Api::BedrockInvoke, json!({"prompt": "x"})));
        let hidden = json!({"messages": [{"role": "assistant", "content": [{"role": "user", "content": "x"}]}]});
        assert!(none(Api::Anthropic, hidden));
        for cut in 0..60 {
            let text = json!({"messages": [{"role": "user", "content": [{"text": "a"}]}], "model": "m"}).to_string();
            let _ = telling(Api::Anthropic, &text.as_bytes()[..cut], "x");
        }
    }
}

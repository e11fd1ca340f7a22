//! What a request says about its conversation: how far it is, what its user wrote, which tools are there.

use serde_json::Value;

use super::tools::Offer;
use crate::types::Api;

/// A request, understood as far as a stand-in needs it.
pub(super) struct Conversation {
    /// The model asked for.
    pub(super) model: String,
    /// Whether the answer is to be streamed.
    pub(super) stream: bool,
    /// Whether a stream of chunks is to end with its usage.
    pub(super) include_usage: bool,
    /// The model's turns that it already holds.
    pub(super) done: usize,
    /// What its user wrote, tool results left out.
    pub(super) user_text: String,
    /// What its agent tells the model beside that.
    pub(super) system_text: String,
    /// The tools that the agent offers.
    pub(super) offers: Vec<Offer>,
}

impl Conversation {
    /// Reads the body of a request to `path`.
    ///
    /// # Errors
    /// One sentence that names what is missing.
    pub(super) fn read(api: Api, path: &str, body: &Value) -> Result<Conversation, String> {
        let (model, stream) = match called(path) {
            Some(called) => called,
            None => {
                let model = body["model"].as_str().ok_or("model: a string is required")?;
                (model.to_owned(), body["stream"].as_bool().unwrap_or_else(|| path.ends_with(":streamGenerateContent")))
            }
        };
        // Code Assist has it one level down.
        let body = if path.starts_with("/v1internal:") { &body["request"] } else { body };
        let include_usage = body["stream_options"]["include_usage"].as_bool().unwrap_or(false);
        let mut offers = Vec::new();
        match api {
            Api::Gemini => {
                let groups = body["tools"].as_array().into_iter().flatten();
                groups.for_each(|group| collect_offers(&group["functionDeclarations"], &mut offers));
            }
            Api::BedrockConverse => {
                let tools = body["toolConfig"]["tools"].as_array().into_iter().flatten();
                let specs: Vec<Value> = tools.map(|tool| tool["toolSpec"].clone()).filter(|s| !s.is_null()).collect();
                collect_offers(&Value::Array(specs), &mut offers);
            }
            Api::OpenaiChat => {
                let tools = body["tools"].as_array().into_iter().flatten();
                let functions: Vec<Value> =
                    tools.map(|tool| tool["function"].clone()).filter(|f| !f.is_null()).collect();
                collect_offers(&Value::Array(functions), &mut offers);
            }
            Api::Anthropic | Api::BedrockInvoke | Api::OpenaiResponses => collect_offers(&body["tools"], &mut offers),
        }
        let (done, user_text) = match api {
            Api::Anthropic | Api::BedrockInvoke | Api::BedrockConverse | Api::OpenaiChat => {
                let messages = body["messages"].as_array().ok_or("messages: a list is required")?;
                let by = |role: &'static str| messages.iter().filter(move |m| m["role"] == role);
                (by("assistant").count(), by("user").map(|m| plain(&m["content"])).collect())
            }
            Api::OpenaiResponses => match &body["input"] {
                Value::String(text) => (0, text.clone()),
                Value::Array(items) => {
                    let user = items.iter().filter(|i| i["role"] == "user").map(|i| plain(&i["content"])).collect();
                    // Codex brings most of its tools as an item of the conversation.
                    items
                        .iter()
                        .filter(|i| i["type"] == "additional_tools")
                        .for_each(|i| collect_offers(&i["tools"], &mut offers));
                    (responses(items), user)
                }
                _ => return Err("input: a string or a list is required".to_owned()),
            },
            Api::Gemini => {
                let contents = body["contents"].as_array().ok_or("contents: a list is required")?;
                let by = |role: &'static str| contents.iter().filter(move |c| c["role"] == role);
                (by("model").count(), by("user").map(|c| plain(&c["parts"])).collect())
            }
        };
        let system_text = match api {
            Api::Anthropic | Api::BedrockInvoke | Api::BedrockConverse | Api::OpenaiChat => {
                // Claude Code says part of it, such as which skills there are, in the midst of the conversation.
                let messages = body["messages"].as_array().into_iter().flatten();
                let by = messages.filter(|m| m["role"] == "system" || m["role"] == "developer");
                let said: String = by.map(|m| plain(&m["content"])).collect();
                plain(&body["system"]) + &said
            }
            Api::OpenaiResponses => {
                let items = body["input"].as_array().into_iter().flatten();
                let by = items.filter(|item| item["role"] == "developer" || item["role"] == "system");
                let said: String = by.map(|item| plain(&item["content"])).collect();
                plain(&body["instructions"]) + &said
            }
            Api::Gemini => plain(&body["systemInstruction"]["parts"]),
        };
        Ok(Conversation { model, stream, include_usage, done, user_text, system_text, offers })
    }
}

/// Gets the model that `path` names, and whether it has the answer streamed: `.../MODEL:VERB`, and Bedrock's `/model/MODEL/VERB`.
fn called(path: &str) -> Option<(String, bool)> {
    if let Some((model, verb)) = path.strip_prefix("/model/").and_then(|rest| rest.rsplit_once('/')) {
        return Some((model.to_owned(), verb.ends_with("-stream")));
    }
    let (model, verb) = path.rsplit('/').next()?.rsplit_once(':').filter(|_| !path.starts_with("/v1internal:"))?;
    Some((model.to_owned(), verb.starts_with("stream")))
}

/// Counts the responses of a model among `items`: runs of items that only a model makes.
fn responses(items: &[Value]) -> usize {
    let by_model = |item: &Value| match item["type"].as_str() {
        None | Some("message") => item["role"] == "assistant",
        Some(kind) => kind.ends_with("_call") || kind == "reasoning",
    };
    let mut last = false;
    items
        .iter()
        .map(by_model)
        .filter(|now| {
            let begins = *now && !last;
            last = *now;
            begins
        })
        .count()
}

/// Gets the text of a message's content.
fn plain(content: &Value) -> String {
    let mut text = content.as_str().unwrap_or_default().to_owned();
    for part in content.as_array().into_iter().flatten() {
        text += part["text"].as_str().unwrap_or_default();
        text.push('\n');
    }
    text
}

fn collect_offers(tools: &Value, offers: &mut Vec<Offer>) {
    for tool in tools.as_array().into_iter().flatten() {
        let kind = tool["type"].as_str().unwrap_or("function").to_owned();
        if kind == "namespace" {
            // Only the ordinary one: a call into another would have to name it.
            if tool["name"] == "functions" {
                collect_offers(&tool["tools"], offers);
            }
            continue;
        }
        let scripts = kind == "custom" && tool["description"].as_str().is_some_and(|d| d.contains("`exec_command`"));
        let schemas = ["input_schema", "parameters", "parametersJsonSchema"].iter().map(|key| &tool[*key]);
        let arguments = schemas.chain([&tool["inputSchema"]["json"]]).map(|schema| &schema["properties"]);
        let file_path = arguments.filter_map(Value::as_object).next().and_then(|named| {
            let names = |key: &str| named.contains_key(key);
            (names("file_path") || names("path")).then(|| names("file_path"))
        });
        offers.push(Offer { name: tool["name"].as_str().unwrap_or(&kind).to_owned(), kind, scripts, file_path });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tools_are_found_in_the_conversation_too() {
        let tools = json!([{"type": "namespace", "name": "functions", "tools": [
                {"type": "custom", "name": "exec", "description": "JavaScript.\n### `exec_command`\n"},
                {"type": "function", "name": "wait"}]},
            {"type": "namespace", "name": "collaboration", "tools": [{"type": "function", "name": "bash"}]}]);
        let body = json!({"model": "m", "tools": [{"type": "web_search"}],
            "input": [{"type": "additional_tools", "role": "developer", "tools": tools}, {"role": "user", "content": "x"}]});
        let read = Conversation::read(Api::OpenaiResponses, "", &body).unwrap();
        let offers: Vec<_> = read.offers.iter().map(|o| (o.name.as_str(), o.kind.as_str(), o.scripts)).collect();
        assert_eq!(
            offers,
            [("web_search", "web_search", false), ("exec", "custom", true), ("wait", "function", false)]
        );
        assert_eq!(read.done, 0);
    }

    #[test]
    fn a_conversation_tells_how_many_turns_the_model_had() {
        let body = json!({"model": "m", "messages": [
            {"role": "user", "content": "one"}, {"role": "assistant", "content": "x"},
            {"role": "user", "content": [{"type": "tool_result", "content": "no"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "y"}, {"role": "user", "content": "three"}]});
        let read = Conversation::read(Api::Anthropic, "", &body).unwrap();
        assert_eq!(read.done, 2);
        assert!(read.user_text.contains("one") && read.user_text.contains("two") && !read.user_text.contains("no"));
    }

    #[test]
    fn a_conversation_with_gemini_names_its_model_in_the_path() {
        let body = json!({"contents": [{"role": "user", "parts": [{"text": "one"}]},
            {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"output": "no"}}}, {"text": "two"}]}],
            "tools": [{"functionDeclarations": [{"name": "run_shell_command"}]}]});
        let path = "/v1beta/models/gemini-x:streamGenerateContent";
        let read = Conversation::read(Api::Gemini, path, &body).unwrap();
        assert_eq!((read.model.as_str(), read.stream, read.done), ("gemini-x", true, 1));
        assert_eq!(read.offers[0].name, "run_shell_command");
        assert!(read.user_text.contains("one") && read.user_text.contains("two") && !read.user_text.contains("no"));
    }

    #[test]
    fn what_the_agent_tells_the_model_is_kept_apart() {
        let told = |api, body: Value| Conversation::read(api, "/m:x", &body).unwrap().system_text;
        let body = json!({"model": "m", "messages": [], "system": [{"type": "text", "text": "brief"}]});
        assert!(told(Api::Anthropic, body).contains("brief"));
        let messages = json!([{"role": "user", "content": "x"}, {"role": "system", "content": [{"type": "text", "text": "kind"}]}]);
        let said = told(Api::Anthropic, json!({"model": "m", "messages": messages, "system": "brief"}));
        assert!(said.contains("brief") && said.contains("kind") && !said.contains('x'));
        let items = json!([{"role": "developer", "content": [{"text": "kind"}]}, {"role": "user", "content": "x"}]);
        let said = told(Api::OpenaiResponses, json!({"model": "m", "instructions": "brief", "input": items}));
        assert!(said.contains("brief") && said.contains("kind") && !said.contains('x'));
        let body = json!({"contents": [], "systemInstruction": {"parts": [{"text": "brief"}]}});
        assert!(told(Api::Gemini, body).contains("brief"));
    }

    #[test]
    fn the_items_of_one_response_are_one_turn() {
        let message =
            |role: &str| json!({"type": "message", "role": role, "content": [{"type": "input_text", "text": "t"}]});
        let body = json!({"model": "m", "input": [message("developer"), message("user"),
            {"type": "reasoning"}, message("assistant"), {"type": "function_call"}, {"type": "custom_tool_call"},
            {"type": "function_call_output"}, {"type": "custom_tool_call_output"},
            {"type": "function_call"}, {"type": "function_call_output"}, message("assistant"), message("user")]});
        assert_eq!(Conversation::read(Api::OpenaiResponses, "", &body).unwrap().done, 3);
        assert!(Conversation::read(Api::OpenaiResponses, "", &json!({"model": "m"})).is_err());
    }
}

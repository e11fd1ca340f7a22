//! Answers of models that come coded, though none was asked for: exact where they can be read for an echo, refused where they cannot.

use std::io::Write;

use super::rows::row;
use super::*;

/// What codes a body.
type Coder = fn(&[u8]) -> Vec<u8>;

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn brotli(body: &[u8]) -> Vec<u8> {
    let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
    encoder.write_all(body).unwrap();
    encoder.into_inner()
}

fn zstd(body: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(body, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Codings that are read for an echo of the credential, and others: the header that names each, and what codes.
const READ: [(&str, Coder); 3] = [("gzip", gzip), ("deflate", zlib), ("deflate", deflate)];
const UNREAD: [(&str, Coder); 2] = [("br", brotli), ("zstd", zstd)];

/// One form: what is asked, what comes, and the usage in it, of 7 tokens in and 5 out.
struct Form {
    family: ApiFamily,
    path: &'static str,
    body: Value,
    kind: &'static str,
    answer: Vec<u8>,
    usage: Value,
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

fn forms() -> Vec<Form> {
    let form =
        |family, path, body: Value, kind, answer: Vec<u8>, usage| Form { family, path, body, kind, answer, usage };
    let messages = json!([{"role": "user", "content": "hi"}]);
    let contents = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
    let chat = json!({"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12});
    let asked =
        json!({"model": "gpt-x", "stream": true, "stream_options": {"include_usage": true}, "messages": messages});
    let chunk = json!({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": "stop"}]});
    let last = json!({"object": "chat.completion.chunk", "choices": [], "usage": chat});
    let gemini = json!({"promptTokenCount": 7, "candidatesTokenCount": 5, "totalTokenCount": 12});
    let said = json!({"candidates": [{"content": {"parts": [{"text": "hello"}]}, "finishReason": "STOP"}], "usageMetadata": gemini});
    let streamed = [vec![begin(7), delta("hello")], done(5).to_vec()].concat().concat();
    let whole = json!({"model": "claude-x", "max_tokens": 100, "messages": messages});
    let usage = json!({"input_tokens": 7, "output_tokens": 5});
    let asks_json = json!({"model": "gpt-x", "messages": messages});
    let answers_json = json!({"object": "chat.completion", "choices": [], "usage": chat}).to_string();
    vec![
        form(ApiFamily::Anthropic, "/v1/messages", whole, JSON, message_json(7, 5).into(), usage),
        form(
            ApiFamily::Anthropic,
            "/v1/messages",
            serde_json::from_str(&prompt(100)).unwrap(),
            EVENTS,
            streamed,
            json!({"output_tokens": 5}),
        ),
        form(ApiFamily::OpenaiChat, "/v1/chat/completions", asks_json, JSON, answers_json.into(), chat.clone()),
        form(
            ApiFamily::OpenaiChat,
            "/v1/chat/completions",
            asked,
            EVENTS,
            format!("data: {chunk}\n\ndata: {last}\n\ndata: [DONE]\n\n").into(),
            chat,
        ),
        form(
            ApiFamily::Gemini,
            "/v1beta/models/gemini-x:generateContent",
            contents.clone(),
            JSON,
            said.to_string().into(),
            gemini.clone(),
        ),
        form(
            ApiFamily::Gemini,
            "/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
            contents,
            EVENTS,
            format!("data: {said}\n\n").into(),
            gemini,
        ),
    ]
}

/// Has the model's host speak a form, with a credential or without, and answer in a coding that it names or does not.
async fn coded(form: &Form, keyed: bool, said: Option<&'static str>, coder: Coder) -> (Bench, Bytes) {
    let (kind, body) = (form.kind, Bytes::from(coder(&form.answer)));
    let coded = body.clone();
    let script: Script = Arc::new(move |_| {
        let (feed, body) = fed();
        // In pieces that end nowhere in particular.
        coded.chunks(29).for_each(|piece| feed.send(Ok(Bytes::copy_from_slice(piece))).unwrap());
        let mut answer = Response::builder().header("content-type", kind);
        if let Some(said) = said {
            answer = answer.header("content-encoding", said);
        }
        answer.body(body).unwrap()
    });
    let bench = bench(None, script).await;
    let mut routes = bench.routes.clone();
    routes[0].api = Some(form.family);
    if !keyed {
        routes[0].auth = None;
    }
    let credentials = [("claude".to_owned(), SecretString::from(SECRET))].into();
    bench.handle.set_routes(&Rules { routes, credentials, ..Rules::default() }).unwrap();
    (bench, body)
}

#[tokio::test]
async fn a_coded_answer_passes_as_it_came_and_ends_as_the_exact_row_that_a_plain_one_ends_as() {
    for form in forms() {
        for (keyed, (coding, coder)) in READ
            .map(|one| (true, one))
            .into_iter()
            .chain([READ.as_slice(), &UNREAD].concat().into_iter().map(|one| (false, one)))
        {
            for said in [Some(coding), None] {
                let about = format!("{}, {}, credential {keyed}, {coding}, said {said:?}", form.path, form.kind);
                let (bench, sent) = coded(&form, keyed, said, coder).await;
                let (status, headers, came) = bench.ask(MODEL, "POST", form.path, form.body.to_string()).await;
                assert_eq!((status.as_u16(), &came), (200, &sent), "{about}");
                let named = headers.get("content-encoding").map(|value| value.to_str().unwrap());
                assert_eq!(named, said, "{about}");
                let row = row(&bench).await;
                assert_eq!((row.how.as_str(), row.why.as_deref()), ("exact", None), "{about}: {row:?}");
                assert_eq!((row.input, row.output, row.counted), (7, 5, 12), "{about}: {row:?}");
                assert_eq!(row.raw, form.usage, "{about}");
                assert_eq!(bench.seen()[0].headers.contains_key("x-api-key"), keyed, "{about}");
            }
        }
    }
}

#[tokio::test]
async fn a_coding_in_which_no_echo_is_found_is_refused_where_a_credential_was_put_in_and_charged_its_estimate() {
    for form in forms() {
        for (coding, coder) in UNREAD {
            let about = format!("{}, {}, {coding}", form.path, form.kind);
            let (bench, _) = coded(&form, true, Some(coding), coder).await;
            let (status, headers, _) = bench.ask(MODEL, "POST", form.path, form.body.to_string()).await;
            assert_eq!((status.as_u16(), &headers[deny::HEADER]), (502, &"response_coded".parse().unwrap()), "{about}");
            assert_eq!(bench.denied(1).await, ["response_coded"], "{about}");
            assert_eq!(bench.events("denied").await[0]["path"], form.path.split('?').next().unwrap(), "{about}");
            // Of a stream nothing came, and nothing more is made of it once it is closed.
            let (how, source) = if form.kind == EVENTS { ("partial", "partial") } else { ("at_estimate", "estimated") };
            let row = row(&bench).await;
            assert_eq!(
                (row.how.as_str(), row.source.as_str(), row.why.as_deref()),
                (how, source, None),
                "{about}: {row:?}"
            );
            let charged = if form.kind == EVENTS { row.input } else { row.estimate };
            assert_eq!((row.counted, &row.raw), (charged, &Value::Null), "{about}: {row:?}");
            assert!(row.input > 0, "{about}: the server may have worked for it");
        }
    }
}

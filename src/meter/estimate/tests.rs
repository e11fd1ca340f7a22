//! What bodies are taken for: their parts, their pieces, their conversations.

use serde_json::{Value, json};

use super::media::{AT_MOST, SOME_IMAGE};
use super::*;

/// Bytes without any order, as base64.
fn base64(length: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut seed = 7u64;
    (0..length)
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(LETTERS[(seed >> 58) as usize])
        })
        .collect()
}

#[test]
fn plain_text_is_plain_and_what_is_dense_is_dense() {
    let text =
        "It was a bright cold day in April, and the clocks were striking 13. fn main() { a[0] = 1; }\n".repeat(80);
    let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]}).to_string();
    assert_eq!(Content::of(body.as_bytes()).bulk, Bulk { text: body.len() as u64, ..Bulk::default() });
    let lines: Vec<String> =
        base64(7600).as_bytes().chunks(76).map(|l| String::from_utf8(l.to_vec()).unwrap()).collect();
    let body = json!({"messages": [{"content": format!("{text}{}{text}", lines.join("\n"))}]}).to_string();
    let bulk = Content::of(body.as_bytes()).bulk;
    assert!((7300..8000).contains(&bulk.dense), "{bulk:?}");
    assert_eq!((bulk.media, bulk.text + bulk.dense), (0, body.len() as u64));
    assert_eq!(Content::of(b"").bulk, Bulk::default());
}

#[test]
fn media_count_by_their_kind_and_not_by_their_bytes() {
    let data = base64(400_000);
    // The first bytes of a PNG of 1500 by 1000 points.
    let png = format!("iVBORw0KGgoAAAANSUhEUgAABdwAAAPo{data}");
    let image =
        |data: &str| json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}});
    let cases = [
        (image(&png), 2000),
        (image(&data), SOME_IMAGE),
        (json!({"type": "input_image", "image_url": format!("data:image/jpeg;base64,{data}")}), SOME_IMAGE),
        (json!({"inlineData": {"mimeType": "image/webp", "data": data}}), SOME_IMAGE),
        (json!({"type": "document", "source": {"media_type": "application/pdf", "data": data}}), 28572),
        (json!({"input_audio": {"data": data, "format": "wav"}}), 1563),
    ];
    for (part, tokens) in cases {
        let body = json!({"messages": [{"role": "user", "content": [part]}]}).to_string();
        let bulk = Content::of(body.as_bytes()).bulk;
        assert_eq!((bulk.media, bulk.dense), (tokens, 0), "{}", &body[..120]);
        assert!(bulk.text < 200);
    }
    // A text is none, whatever it begins with and whatever stands beside it.
    for text in [png.clone(), format!("an image \"data\":\"{png}"), format!("data:image/png;base64,{png}")] {
        let body =
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": text}, {"type": "image"}]}]});
        let bulk = Content::of(body.to_string().as_bytes()).bulk;
        assert!(bulk.media == 0 && bulk.dense > 390_000, "{bulk:?}");
    }
    // Nor is one small because it says so.
    let small = format!("iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB{data}");
    let body = json!({"messages": [{"content": [image(&small)]}]}).to_string();
    assert_eq!(Content::of(body.as_bytes()).bulk.media, (small.len() as u64).div_ceil(AT_MOST));
    // Reasoning that only its provider reads, and signatures: text.
    for name in ["encrypted_content", "thoughtSignature", "signature"] {
        let body = json!({"input": [{"type": "reasoning", name: data}]}).to_string();
        assert_eq!(Content::of(body.as_bytes()).bulk.text, body.len() as u64, "{name}");
    }
}

#[test]
fn a_conversation_is_known_by_how_it_begins() {
    let turn = |first: &str, more: usize| {
        let mut messages = vec![json!({"role": "user", "content": first})];
        messages.extend((0..more).map(|n| json!({"role": "assistant", "content": n})));
        let text = json!({"model": "m", "max_tokens": 100 + more, "messages": messages}).to_string();
        conversation(text.as_bytes())
    };
    assert_eq!(turn("do it", 0), turn("do it", 5));
    assert_ne!(turn("do it", 0), turn("do that", 0), "a sub-agent");
    let marked = |marked: bool| {
        let mut part = json!({"type": "text", "text": "hi \"you\""});
        if marked {
            part["cache_control"] = json!({"type": "ephemeral", "ttl": "1h"});
        }
        let mut messages = vec![json!({"role": "user", "content": [part]})];
        messages.extend((!marked).then(|| json!({"role": "assistant", "content": "more"})));
        conversation(json!({ "messages": messages }).to_string().as_bytes())
    };
    assert_eq!(marked(true), marked(false), "what is to be cached moves");
    let said = |text: &str| conversation(json!({"input": text, "model": "m"}).to_string().as_bytes());
    assert_ne!(said("a"), said("b"));
    let session =
        |name: &str| conversation(json!({"input": [{"a": 1}], "prompt_cache_key": name}).to_string().as_bytes());
    assert_eq!(session("a"), session("a"));
    assert_ne!(session("a"), session("b"));
    assert_eq!(conversation(b""), conversation(b"{"));
}

fn conversation(json: &[u8]) -> u64 {
    Content::of(json).conversation
}

fn body(value: &Value) -> Content {
    Content::of(value.to_string().as_bytes())
}

/// A conversation of `turns`, with tools and a system text, as Claude's API has it.
fn talk(turns: usize) -> Value {
    let messages: Vec<Value> = (0..turns)
        .map(|n| json!({"role": if n % 2 == 0 { "user" } else { "assistant" }, "content": format!("turn {n}: {}", "word ".repeat(200))}))
        .collect();
    json!({"model": "m", "messages": messages, "system": [{"type": "text", "text": "be kind ".repeat(100)}],
        "tools": [{"name": "a", "description": "x".repeat(300)}, {"name": "b"}], "max_tokens": 5})
}

#[test]
fn what_is_new_in_a_body_is_what_has_come_since() {
    let (earlier, now) = (talk(3), talk(5));
    let change = body(&now).since(&body(&earlier));
    let grown = (now.to_string().len() - earlier.to_string().len()) as u64;
    assert!(change.fresh.text.abs_diff(grown) < 10 && change.gone == Bulk::default(), "{change:?} {grown}");
    assert_eq!((change.stands, change.lost), (1000, 0));
    let same = body(&now).since(&body(&now));
    assert_eq!(same, Change { stands: 1000, ..Change::default() });
    // A message that was marked as to be cached is the same without.
    let mut marked = talk(3);
    let text = marked["messages"][2]["content"].take();
    marked["messages"][2]["content"] =
        json!([{"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]);
    assert_eq!(body(&talk(3)).since(&body(&marked)), Change { stands: 1000, ..Change::default() });
}

#[test]
fn other_words_of_the_same_length_are_new() {
    let mut other = talk(4);
    other["messages"][1]["content"] = json!(format!("turn 1: {}", "gone ".repeat(200)));
    let change = body(&other).since(&body(&talk(4)));
    assert!(change.fresh.text > 1000 && change.fresh.text == change.gone.text, "{change:?}");
    assert!((300..700).contains(&change.stands), "what stood before it is there: {change:?}");
    // Another system text, or another tool, stands before all that was said.
    for (part, value) in [("system", json!("be wild")), ("tools", json!([{"name": "c"}]))] {
        let mut other = talk(4);
        other[part] = value;
        let change = body(&other).since(&body(&talk(4)));
        assert!(change.stands < 350 && change.fresh.text > 0, "{part}: {change:?}");
    }
    // One more tool, too.
    let mut more = talk(4);
    more["tools"].as_array_mut().unwrap().push(json!({"name": "c"}));
    assert!(body(&more).since(&body(&talk(4))).stands < 350);
}

#[test]
fn what_stands_there_twice_counts_twice() {
    let mut twice = talk(4);
    let all = twice["messages"].as_array().unwrap().clone();
    twice["messages"].as_array_mut().unwrap().extend(all);
    let change = body(&twice).since(&body(&talk(4)));
    assert!(change.fresh.text > 4000 && change.stands == 1000, "{change:?}");
    // Nor does it hide in keys that no API has, in a wrapper that is none, or in numbers.
    for hidden in [json!({"request": 1}), json!({"request": {"a": "b"}}), json!({"x": {"y": ["z"]}})] {
        let with = |text: &str| {
            let mut body = talk(2);
            hidden.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
            body["more"] = json!([[text], 1]);
            body
        };
        let change = body(&with(&"a b".repeat(500))).since(&body(&with("")));
        assert!(change.fresh.text >= 1500, "{hidden}: {change:?}");
    }
    let numbers =
        |from: u32| json!({"messages": [{"role": "user", "content": [{"x": (from..from + 500).collect::<Vec<_>>()}]}]});
    assert!(body(&numbers(1200)).since(&body(&numbers(1100))).fresh.text > 2000);
}

#[test]
fn a_conversation_in_a_wrapper_and_one_that_is_a_text_have_pieces_too() {
    let wrapped = |turns: usize| {
        let contents: Vec<Value> = (0..turns)
            .map(|n| json!({"role": "user", "parts": [{"text": format!("{n} {}", "x y ".repeat(99))}]}))
            .collect();
        json!({"model": "m", "request": {"contents": contents, "tools": [{"functionDeclarations": []}]}, "user_prompt_id": "u"})
    };
    let change = body(&wrapped(4)).since(&body(&wrapped(3)));
    assert!((400..480).contains(&change.fresh.text) && change.gone.text == 0 && change.stands == 1000, "{change:?}");
    let text = |more: &str| json!({"model": "m", "input": format!("{}{more}", "x y ".repeat(400))});
    let change = body(&text("z".repeat(300).as_str())).since(&body(&text("")));
    assert!(change.fresh.text > 1800 && change.lost > 900, "{change:?}");
}

#[test]
fn what_a_model_reads_as_text_is_no_medium_whatever_it_looks_like() {
    let data = base64(100_000);
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}});
    let hides = [
        json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": image}]}]}),
        json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"content": [image]}}]}]}),
        json!({"contents": [{"parts": [{"functionCall": {"name": "f", "args": {"inlineData": {"mimeType": "image/png", "data": data}}}}]}]}),
        json!({"contents": [{"parts": [{"functionResponse": {"response": {"parts": [{"inlineData": {"mimeType": "image/png", "data": data}}]}}}]}]}),
        json!({"messages": [{"content": [{"toolUse": {"input": {"image": {"source": {"bytes": data}}}}}]}]}),
        json!({"tools": [{"input_schema": {"default": image}}], "messages": []}),
        json!({"system": [image], "messages": []}),
        json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"signature": data}}]}]}),
        json!({"messages": [{"content": [{"type": "tool_result", "content": [{"type": "text", "data": data}]}]}]}),
        json!({"data": data, "type": "image", "messages": []}),
    ];
    for hidden in hides {
        let bulk = body(&hidden).bulk;
        assert!(bulk.media == 0 && bulk.dense >= 99_000, "{bulk:?} {}", &hidden.to_string()[..100]);
    }
    // A document does not become an image by a word beside it.
    let pdf = json!({"type": "document", "title": "image", "source": {"type": "base64", "media_type": "application/pdf", "data": data}});
    let message = json!({"messages": [{"content": [{"type": "text", "text": "an image/png"}, pdf]}]});
    assert_eq!(body(&message).bulk.media, 7143);
    // What each API has, is.
    let has = [
        (json!({"messages": [{"content": [{"type": "tool_result", "content": [image]}]}]}), SOME_IMAGE),
        (json!({"messages": [{"content": [{"image": {"format": "png", "source": {"bytes": data}}}]}]}), SOME_IMAGE),
        (json!({"messages": [{"content": [{"document": {"format": "pdf", "source": {"bytes": data}}}]}]}), 7143),
        (
            json!({"input": [{"type": "function_call_output", "output": [{"type": "input_image", "image_url": format!("data:image/png;base64,{data}")}]}]}),
            SOME_IMAGE,
        ),
        (
            json!({"request": {"contents": [{"parts": [{"inlineData": {"data": data, "mimeType": "image/png"}}]}]}}),
            SOME_IMAGE,
        ),
        (
            json!({"messages": [{"content": [{"type": "file", "file": {"file_data": format!("data:application/pdf;base64,{data}")}}]}]}),
            7143,
        ),
    ];
    for (there, tokens) in has {
        let bulk = body(&there).bulk;
        assert_eq!((bulk.media, bulk.dense), (tokens, 0), "{}", &there.to_string()[..100]);
    }
}

#[test]
fn more_messages_than_are_told_apart_are_counted_all_the_same() {
    let many = |n: usize| json!({"messages": (0..n).map(|n| json!({"role": "user", "content": format!("{n:9}")})).collect::<Vec<_>>()});
    let change = body(&many(6000)).since(&body(&many(5000)));
    assert!(change.fresh.text > 1000 * 30, "{change:?}");
}

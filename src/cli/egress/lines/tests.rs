//! Lines out of events, as a ledger has them and as it does not.

use serde_json::json;

use super::*;

fn event(seq: u64, kind: &str, data: Value) -> Event {
    Event {
        v: 1,
        seq,
        ts: 1_764_300_000_000 + i64::try_from(seq).unwrap(),
        kind: kind.into(),
        bottle: Some("b".into()),
        run: None,
        data,
    }
}

fn ended(seq: u64, id: &str, more: Value) -> Event {
    let mut data = json!({
        "exchange": id, "method": "GET", "scheme": "https", "host": "docs.rs", "port": 443, "path": "/a",
        "rule": "docs.rs, GET", "status": 200, "up": 0, "down": 2048, "ms": 12, "end": "whole",
    });
    data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event(seq, "request.ended", data)
}

fn begun(seq: u64, id: &str) -> Event {
    let data = json!({"exchange": id, "method": "GET", "scheme": "https", "host": "docs.rs", "port": 443, "path": "/a", "status": 200, "ms": 5});
    event(seq, "request", data)
}

fn texts(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| shown(line, &TimeZone::UTC)).collect()
}

#[test]
fn one_line_a_request_with_what_its_events_say_together() {
    let mut lines = Lines::default();
    let tokens = json!({"input": 1000, "cache_read": 100, "cache_write": 0, "cache_write_long": 0, "output": 700, "reasoning": 0});
    let usage =
        json!({"exchange": "m", "request": "h", "host": "api.anthropic.com", "tokens": tokens, "counted": 1710});
    assert!(lines.add(&begun(1, "a")).is_empty(), "told when it has ended");
    assert!(lines.add(&event(2, "usage", usage.clone())).is_empty());
    let metered = json!({"host": "api.anthropic.com", "method": "POST", "path": "/v1/messages", "rule": "api.anthropic.com", "up": 99});
    assert_eq!(
        texts(&lines.add(&ended(3, "m", metered))),
        [
            "2025-11-28 03:20:00  b  allowed  POST https://api.anthropic.com/v1/messages  200  by `api.anthropic.com`  up 99 B  \
          down 2.0 KiB  12 ms  tokens 1,100 in 700 out"
        ]
    );
    assert!(
        lines
            .add(&event(4, "usage", json!({"exchange": "m", "late": true, "tokens": tokens, "counted": 2000})))
            .is_empty()
    );
    let line = lines.add(&ended(
        5,
        "a",
        json!({"left_out": {"requests": 3, "up": 1, "down": 2}, "end": "gone", "port": 8443}),
    ));
    assert_eq!(
        texts(&line),
        [
            "2025-11-28 03:20:00  b  allowed  GET https://docs.rs:8443/a  200  by `docs.rs, GET`  up 0 B  down 2.0 KiB  12 ms  \
          (the agent went away)  [3 requests left out before: up 1 B, down 2 B]"
        ]
    );
    assert!(lines.finish().is_empty());

    // A WebSocket is charged for each of its answers.
    for seq in [6, 7] {
        assert!(lines.add(&event(seq, "usage", usage.clone())).is_empty());
    }
    let Line::Request(line) = lines.add(&ended(8, "m", json!({}))).remove(0) else { panic!("no request") };
    assert_eq!((line.counted, line.tokens.unwrap().output), (Some(3420), 1400));
}

#[test]
fn what_has_no_end_is_told_and_what_an_older_bb_wrote_is_read() {
    let mut lines = Lines::default();
    lines.add(&begun(1, "a"));
    assert_eq!(
        texts(&lines.add(&event(2, "bottle.adopted", json!({}))))[0].split("  ").last(),
        Some("(its end was not recorded)")
    );
    lines.add(&begun(3, "b"));
    assert!(texts(&lines.finish())[0].ends_with("(no end so far)"));
    let old = json!({"method": "GET", "scheme": "https", "host": "docs.rs", "port": 443, "path": "/a", "status": 200, "ms": 5});
    assert!(texts(&lines.add(&event(4, "request", old)))[0].ends_with("GET https://docs.rs/a  200  5 ms"));
    let gap = lines.add(&event(0, "gap", json!({"from": 5, "to": 9})));
    assert_eq!(serde_json::to_value(&gap[0]).unwrap(), json!({"type": "gap", "v": 1, "from": 5, "to": 9}));
    // However much begins and never ends, it is told in the end, and not kept.
    let told: usize = (0..MOST_OPEN as u64 + 10).map(|n| lines.add(&begun(n, &n.to_string())).len()).sum();
    assert_eq!((told, lines.open.len()), (10, MOST_OPEN));
    // Its end is not another request.
    assert!(lines.add(&ended(0, "3", json!({}))).is_empty() && lines.add(&begun(0, "3")).is_empty());
    assert_eq!(lines.add(&ended(0, "11", json!({}))).len(), 1, "the others' are theirs");
}

#[test]
fn a_long_request_has_one_line_however_many_come_and_go_beside_it() {
    let mut lines = Lines::default();
    assert!(lines.add(&begun(1, "long")).is_empty());
    for n in 0..MOST_OPEN as u64 + 10 {
        assert!(lines.add(&begun(n, &n.to_string())).is_empty(), "{n}");
        assert_eq!(lines.add(&ended(n, &n.to_string(), json!({}))).len(), 1);
    }
    let end = lines.add(&ended(2, "long", json!({})));
    assert_eq!((end.len(), lines.finish().len(), lines.order.len()), (1, 0, 0));
    assert!(!texts(&end)[0].contains("no end"), "{end:?}");
}

#[test]
fn what_a_killed_controller_left_is_lost_once() {
    let lost = "(its end was not recorded)";
    for how in ["bottle.adopted", "bottle.ended"] {
        let mut lines = Lines::default();
        lines.add(&begun(1, "a"));
        let mut other = begun(2, "b");
        other.bottle = Some("other".into());
        lines.add(&other);
        let told = texts(&lines.add(&event(3, how, json!({}))));
        assert!(told.len() == 1 && told[0].ends_with(lost), "{how}: {told:?}");
        let usage = json!({"exchange": "a", "request": "h", "host": "docs.rs", "tokens": {}, "counted": 1});
        for more in [event(4, "usage", usage), ended(5, "a", json!({})), event(6, "bottle.ended", json!({}))] {
            assert!(lines.add(&more).is_empty(), "{how}: {more:?}");
        }
        assert_eq!(lines.finish().len(), 1, "the other bottle's has no end so far");
    }
    // What the next one charges for a hold that nobody settled.
    let swept = json!({"request": "h", "host": "api.anthropic.com", "how": "swept", "counted": 9});
    let told = texts(&Lines::default().add(&event(1, "usage", swept)));
    assert!(told.len() == 1 && told[0].ends_with(lost), "{told:?}");
}

#[test]
fn a_refusal_is_a_line_and_what_an_agent_chose_stays_on_it() {
    let mut lines = Lines::default();
    let data = json!({
        "kind": "route_missing", "proto": "https", "host": "crates.io", "port": 443, "reason": "bb: no.", "quiet": false,
        "addable": true, "method": "GET", "path": "/a\n2025 b allowed\x1b[2J", "ms": 1,
    });
    let line = lines.add(&event(1, "denied", data));
    assert_eq!(
        texts(&line),
        ["2025-11-28 03:20:00  b  denied   GET https://crates.io/a 2025 b allowed\\x1b[2J  403  route_missing  1 ms"]
    );
    let value = serde_json::to_value(&line[0]).unwrap();
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 15, "{keys:?}");
    assert_eq!(
        (&value["verdict"], &value["kind"], &value["reason"]),
        (&json!("denied"), &json!("route_missing"), &json!("no."))
    );
    let raw = json!({"kind": "port", "proto": "tcp", "host": "10.0.0.1", "port": 25, "reason": "bb: x", "quiet": false, "dropped": 7});
    assert!(
        texts(&lines.add(&event(2, "denied", raw)))[0]
            .ends_with("tcp://10.0.0.1:25  port  [7 like it left out before]")
    );
}

#[test]
fn figures_are_read_in_one_look() {
    assert_eq!(
        [bytes(0), bytes(1023), bytes(1024), bytes(1536), bytes(5 << 30)],
        ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB"]
    );
    assert_eq!([time_of(9999), time_of(10_000)], ["9999 ms", "10 s"]);
}

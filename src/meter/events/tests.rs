//! Where events belong, and where nobody can say.

use serde_json::{Value, json};

use super::*;

fn event(value: &Value) -> Event {
    Event::read(value.to_string().as_bytes()).unwrap()
}

fn begins(lane: Option<&str>, id: &str) -> Event {
    event(&json!({"type": "response.created", "stream_id": lane, "response": {"id": id, "usage": null}}))
}

fn ends(lane: Option<&str>, id: &str) -> Event {
    event(&json!({"type": "response.completed", "stream_id": lane, "response": {"id": id}}))
}

fn brings(lane: Option<&str>) -> Event {
    event(&json!({"type": "response.output_text.delta", "stream_id": lane, "delta": "x"}))
}

fn name<T: Copy>(lanes: &mut Lanes<T>, event: &Event) -> Option<T> {
    match lanes.place(event) {
        Ok(Place::At(at)) => lanes.at(at).copied(),
        _ => None,
    }
}

#[test]
fn an_event_says_what_it_does() {
    let does = |value: Value| event(&value).does;
    assert_eq!(does(json!({"type": "error", "status": 429, "error": {}})), Does::Fails(429));
    assert_eq!(does(json!({"type": "error"})), Does::Fails(400));
    assert_eq!(does(json!({"type": "codex.rate_limits"})), Does::Tells);
    assert_eq!(does(json!({"type": "response.steer.accepted", "steer": {}})), Does::Tells);
    assert_eq!(brings(None).does, Does::Brings);
    let failed = event(&json!({"type": "response.steer.failed", "steer": {"previous_response_id": "r"}}));
    assert_eq!((failed.does, failed.id.as_deref()), (Does::SteersNot, Some("r")));
    for none in [&b"{}"[..], b"[]", b"x", b"{\"type\":1}"] {
        assert_eq!(Event::read(none), None);
    }
}

#[test]
fn a_lane_is_answered_in_order_and_lanes_do_not_meet() {
    let mut lanes = Lanes::default();
    lanes.ask(None, 1);
    lanes.ask(Some("b".into()), 2);
    lanes.ask(None, 3);
    assert_eq!(name(&mut lanes, &begins(Some("b"), "rb")), Some(2));
    assert_eq!(name(&mut lanes, &begins(None, "r1")), Some(1));
    assert_eq!(name(&mut lanes, &brings(Some("b"))), Some(2));
    assert_eq!(name(&mut lanes, &brings(None)), Some(1));
    assert_eq!(name(&mut lanes, &ends(None, "r1")), Some(1));
    lanes.end(0);
    lanes.remember("r1", 10);
    assert_eq!(lanes.place(&ends(None, "r1")), Ok(Place::None), "said once more");
    assert_eq!(name(&mut lanes, &begins(None, "r3")), Some(3));
    assert_eq!(lanes.place(&begins(Some("c"), "rc")), Err(Misplaced::Unasked));
    assert_eq!((lanes.open(), lanes.context("r1"), lanes.context("r3")), (2, Some(10), None));
}

#[test]
fn a_server_that_names_no_lane_is_understood_where_there_is_one_response() {
    let mut lanes = Lanes::default();
    lanes.ask(Some("a".into()), 1);
    assert_eq!(name(&mut lanes, &begins(None, "r")), Some(1));
    assert_eq!(name(&mut lanes, &brings(None)), Some(1));
    lanes.ask(Some("b".into()), 2);
    assert_eq!(lanes.place(&brings(None)), Err(Misplaced::Unasked), "whose it is cannot be told");
}

#[test]
fn what_nobody_asked_for_is_told_from_what_spends_nothing() {
    let mut lanes = Lanes::<u8>::default();
    assert_eq!(lanes.place(&begins(None, "r")), Err(Misplaced::Unasked));
    assert_eq!(lanes.place(&brings(None)), Err(Misplaced::Unasked));
    assert_eq!(lanes.place(&event(&json!({"type": "codex.rate_limits"}))), Ok(Place::None));
    assert_eq!(lanes.place(&event(&json!({"type": "error"}))), Ok(Place::None));
}

#[test]
fn a_successor_begins_when_its_target_has_ended_and_takes_all_steering_in() {
    let mut lanes = Lanes::default();
    lanes.ask(None, 1);
    assert_eq!(name(&mut lanes, &begins(None, "r1")), Some(1));
    lanes.ask(None, 2);
    lanes.steer("r1", 3);
    lanes.steer("r1", 4);
    assert_eq!(name(&mut lanes, &ends(None, "r1")), Some(1));
    lanes.end(0);
    lanes.remember("r1", 5);
    let Ok(Place::At(at)) = lanes.place(&begins(None, "r2")) else { panic!() };
    assert_eq!((lanes.at(at).copied(), lanes.gone_by(at)), (Some(3), (at, vec![4])));
    assert_eq!(lanes.open(), 2);
    lanes.steer("r2", 6);
    let failed = event(&json!({"type": "response.steer.failed", "steer": {"previous_response_id": "r2"}}));
    assert_eq!(name(&mut lanes, &failed), Some(6));
}

#[test]
fn what_broke_off_stays_until_its_lane_goes_on() {
    let mut lanes = Lanes::default();
    lanes.ask(None, 1);
    assert_eq!(name(&mut lanes, &begins(None, "r1")), Some(1));
    let error = event(&json!({"type": "error", "status": 500}));
    let Ok(Place::At(at)) = lanes.place(&error) else { panic!() };
    lanes.breaks(at);
    assert_eq!(lanes.open(), 0);
    let failed = event(&json!({"type": "response.failed", "response": {"id": "r1"}}));
    assert_eq!(name(&mut lanes, &failed), Some(1));
    lanes.ask(None, 2);
    let Ok(Place::At(at)) = lanes.place(&begins(None, "r2")) else { panic!() };
    assert_eq!((at, lanes.gone_by(at)), (1, (0, vec![1])));
    assert_eq!(lanes.open(), 1);
}

#[test]
fn an_error_that_may_be_about_several_responses_is_about_none_of_them() {
    let error = |lane: Option<&str>| event(&json!({"type": "error", "status": 500, "stream_id": lane}));
    let mut lanes = Lanes::default();
    lanes.ask(None, 1);
    assert_eq!(name(&mut lanes, &begins(None, "r1")), Some(1));
    assert_eq!(name(&mut lanes, &error(None)), Some(1), "there is one");
    lanes.ask(None, 2);
    assert_eq!(lanes.place(&error(None)), Err(Misplaced::Ambiguous), "one begun, one waiting");
    let named = event(&json!({"type": "error", "status": 500, "response_id": "r1"}));
    assert_eq!(name(&mut lanes, &named), Some(1), "it says which");
    lanes.breaks(0);
    assert_eq!(lanes.place(&error(None)), Err(Misplaced::Ambiguous), "said once more, or of the next");

    let mut lanes = Lanes::default();
    lanes.ask(Some("a".into()), 1);
    lanes.ask(Some("b".into()), 2);
    assert_eq!(lanes.place(&error(None)), Err(Misplaced::Ambiguous), "no lane is named");
    assert_eq!(name(&mut lanes, &error(Some("b"))), Some(2));
    assert_eq!(lanes.place(&error(Some("c"))), Ok(Place::None));
    lanes.end(1);
    lanes.remember("r0", 1);
    let ended = event(&json!({"type": "error", "status": 500, "response_id": "r0"}));
    assert_eq!(lanes.place(&ended), Ok(Place::None), "it has ended");
}

#[test]
fn what_waits_does_not_end_before_what_has_begun() {
    let mut lanes = Lanes::default();
    lanes.ask(None, 1);
    lanes.ask(None, 2);
    assert_eq!(name(&mut lanes, &begins(None, "r1")), Some(1));
    assert_eq!(lanes.place(&ends(None, "r2")), Err(Misplaced::Unasked));
    let nameless = event(&json!({"type": "response.completed", "response": {}}));
    assert_eq!(name(&mut lanes, &nameless), Some(1));
}

#[test]
fn a_successor_is_in_its_targets_lane_although_that_has_ended() {
    let mut lanes = Lanes::default();
    lanes.ask(Some("a".into()), 1);
    assert_eq!(name(&mut lanes, &begins(Some("a"), "r1")), Some(1));
    lanes.remember("r1", 5);
    lanes.end(0);
    lanes.steer("r1", 2);
    assert_eq!(name(&mut lanes, &begins(Some("a"), "r2")), Some(2));
}

#[test]
fn names_that_are_too_long_to_be_kept_and_a_status_that_is_none_are_not_read() {
    let long = "x".repeat(MAX_NAME + 1);
    for value in [
        json!({"type": "response.created", "response": {"id": long}}),
        json!({"type": "response.created", "stream_id": long, "response": {"id": "r"}}),
    ] {
        assert_eq!(Event::read(value.to_string().as_bytes()), None);
    }
    for status in [json!([[], {}, "x"]), json!(-1), json!(4.5), json!("429"), json!(1 << 20)] {
        assert_eq!(event(&json!({"type": "error", "status": status})).does, Does::Fails(400));
    }
}

#[test]
fn only_so_many_ids_are_kept() {
    let mut lanes = Lanes::<u8>::default();
    for n in 0..=KNOWN {
        lanes.remember(&format!("r{n}"), 1);
    }
    assert_eq!((lanes.context("r0"), lanes.context("r1")), (None, Some(1)));
}

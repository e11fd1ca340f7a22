//! WebSockets of a model API on which several responses are under way: steering, and errors that do not say what they are about.

use super::sockets::*;
use super::*;

fn steer(target: &str) -> Value {
    json!({"type": "response.steer", "previous_response_id": target, "input": "y".repeat(400)})
}

fn error(status: u16) -> Value {
    json!({"type": "error", "status": status, "error": {"message": "no"}})
}

/// Tokens that a message is taken for.
fn estimate(message: &Value) -> u64 {
    (message.to_string().len() as u64).div_ceil(4)
}

async fn passes(from: &mut Server, to: &mut Bottle, events: impl IntoIterator<Item = Value>) {
    for event in events {
        from.says(event.clone()).await;
        assert_eq!(to.hears().await, event);
    }
}

async fn asks(from: &mut Bottle, to: &mut Server, message: Value) {
    from.says(message.clone()).await;
    assert_eq!(to.hears().await, message);
}

#[tokio::test]
async fn an_error_that_may_be_about_either_ends_the_socket_and_is_not_free() {
    // One begun and one waiting in the lane; or two lanes, and none named.
    for lanes in [[None, None], [Some("a"), Some("b")]] {
        let (bench, mut bottle, mut server) = talk(None).await;
        for lane in lanes {
            asks(&mut bottle, &mut server, create(lane)).await;
        }
        let mut first = begun("resp_1");
        if let Some(lane) = lanes[0] {
            first = laned(lane, first);
        }
        passes(&mut server, &mut bottle, [first]).await;
        server.says(error(500)).await;
        bottle.is_refused(400, "protocol_unknown", 1008).await;
        server.hears_nothing().await;
        bench.settled().await;
        let usage = bench.events("usage").await;
        assert!(usage.len() == 2 && usage.iter().all(|usage| usage["source"] == "partial"), "{usage:?}");
        assert!(bench.counted().await >= 2 * estimate(&create(None)));
    }
    // The twin: there is one that it can be about.
    let (bench, mut bottle, mut server) = talk(None).await;
    asks(&mut bottle, &mut server, create(Some("a"))).await;
    passes(&mut server, &mut bottle, [error(429)]).await;
    assert_eq!((holds(&bench).await, bench.counted().await), (0, 0));
}

#[tokio::test]
async fn steering_that_was_merged_costs_all_of_it_where_its_successor_breaks_off() {
    for exact in [false, true] {
        let (bench, mut bottle, mut server) = talk(None).await;
        asks(&mut bottle, &mut server, create(None)).await;
        passes(&mut server, &mut bottle, [begun("resp_1")]).await;
        for _ in 0..3 {
            asks(&mut bottle, &mut server, steer("resp_1")).await;
        }
        passes(&mut server, &mut bottle, [ended("resp_1", 7, 5), begun("resp_2")]).await;
        assert_eq!((bench.counted().await, holds(&bench).await), (12, 3), "nothing is given back before it is known");
        if exact {
            passes(&mut server, &mut bottle, [ended("resp_2", 70, 8)]).await;
            assert_eq!((bench.counted().await, holds(&bench).await), (12 + 78, 0), "it says what all of it has cost");
        } else {
            passes(&mut server, &mut bottle, [error(500)]).await;
            assert_eq!(holds(&bench).await, 0);
            let counted = bench.counted().await;
            assert!(counted >= 12 + 3 * estimate(&steer("resp_1")), "{counted}");
        }
    }
}

#[tokio::test]
async fn steering_that_waits_is_part_of_what_goes_on_from_there() {
    let (bench, mut bottle, mut server) = talk(None).await;
    asks(&mut bottle, &mut server, create(None)).await;
    passes(&mut server, &mut bottle, [begun("resp_1")]).await;
    for _ in 0..2 {
        asks(&mut bottle, &mut server, steer("resp_1")).await;
    }
    let pending = json!({"type": "response.steer.pending", "steer": {"previous_response_id": "resp_1"}});
    passes(&mut server, &mut bottle, [pending.clone(), pending, ended("resp_1", 7, 5)]).await;
    assert_eq!((holds(&bench).await, bench.counted().await), (0, 12));
    let mut next = create(None);
    next["previous_response_id"] = json!("resp_1");
    asks(&mut bottle, &mut server, next).await;
    drop((bottle, server));
    bench.settled().await;
    let counted = bench.counted().await;
    assert!(counted >= 12 + estimate(&create(None)), "{counted}");
}

#[tokio::test]
async fn steering_of_what_has_ended_is_reserved_for_the_sockets_model() {
    let (bench, mut bottle, mut server) = talk(None).await;
    asks(&mut bottle, &mut server, create(Some("a"))).await;
    let all = [begun("resp_1"), ended("resp_1", 7, 5)].map(|event| laned("a", event));
    passes(&mut server, &mut bottle, all).await;
    asks(&mut bottle, &mut server, steer("resp_1")).await;
    // It is answered in its target's lane.
    passes(&mut server, &mut bottle, [laned("a", begun("resp_2"))]).await;
    drop((bottle, server));
    bench.settled().await;
    let usage = bench.events("usage").await;
    assert_eq!((usage.len(), &usage[1]["model"]), (2, &json!("gpt-x")), "{usage:?}");

    // Where nothing was asked yet there is no model.
    let (_bench, mut bottle, mut server) = talk_with(None, &["previous_response"]).await;
    bottle.says(steer("resp_of_another")).await;
    bottle.is_refused(400, "protocol_unknown", 1008).await;
    server.hears_nothing().await;
}

#[tokio::test]
async fn what_broke_off_counts_among_what_is_under_way() {
    let (bench, mut bottle, mut server) = talk(None).await;
    for n in 0..32 {
        let lane = format!("lane_{n}");
        asks(&mut bottle, &mut server, create(Some(&lane))).await;
        let all = [begun(&format!("resp_{n}")), error(500)].map(|event| laned(&lane, event));
        passes(&mut server, &mut bottle, all).await;
    }
    assert_eq!(holds(&bench).await, 0);
    bottle.says(create(Some("lane_33"))).await;
    bottle.is_refused(429, "limit_streams", 1008).await;
    server.hears_nothing().await;
    // In a lane that goes on, what broke off before is gone.
    let (_bench, mut bottle, mut server) = talk(None).await;
    for n in 0..40 {
        asks(&mut bottle, &mut server, create(None)).await;
        passes(&mut server, &mut bottle, [begun(&format!("resp_{n}")), error(500)]).await;
    }
}

#[tokio::test]
async fn to_go_on_from_nothing_is_to_begin_anew() {
    let (_bench, mut bottle, mut server) = talk(None).await;
    let mut asked = create(None);
    asked["previous_response_id"] = Value::Null;
    asked["stream_id"] = Value::Null;
    asks(&mut bottle, &mut server, asked).await;
}

//! The conformance suite: what every backend of [`Ledger`] must do, whatever it stores in.
//!
//! Generic over the trait; a backend's tests call [`run`]. No SQL and no files here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tokio::task::JoinSet;

use super::{
    BottleRow, EventQuery, GLOBAL, HoldOutcome, HoldRequest, Learned, Ledger, LedgerError, Lesson, NewEvent, Raise,
    Settle, Settlement,
};
use crate::api::{Account, Gate, Limit, Terms, UsageQuery};
use crate::types::{Api, Source, Tokens};

mod limits;

/// Runs the whole suite. `open` opens the store of that name; the same name again opens the same store, as a controller
/// does that was started anew. Stores that were not opened before are empty; weights are the default ones.
pub async fn run<L: Ledger>(open: impl Fn(&str) -> L) {
    a_hold_is_reserved_and_charged_once_on_every_node(open("charge")).await;
    holds_are_granted_kept_waiting_and_refused(open("decide")).await;
    every_end_of_a_hold_is_charged_as_the_machine_says(open("ends")).await;
    the_same_call_again_changes_nothing(open("again")).await;
    late_usage_only_raises(open("late")).await;
    limits::limits_are_replaced_and_usage_is_kept(open("limits")).await;
    limits::launches_learn_what_is_spent(open("spent")).await;
    limits::one_reading_says_what_is_spent_on_many_paths(open("many-paths")).await;
    limits::thresholds_are_told_once_for_each_limit(open("thresholds")).await;
    reports_keep_the_classes_apart(open("usage")).await;
    events_have_no_holes_and_are_heard_in_order(open("events")).await;
    bottles_are_kept(open("bottles")).await;
    limits::gates_and_what_is_kept_back_are_the_limits_terms(open("gates")).await;
    what_was_learned_is_kept(&open).await;
    many_at_once_keep_a_hard_budget(open("many")).await;
    what_was_written_is_whole_and_told_by_run(open("whole")).await;
    a_sweep_charges_what_an_earlier_writer_left(&open).await;
    a_closed_ledger_has_everything_and_takes_nothing(&open).await;
}

/// A request on `bottle:b`, `run:r`, `global` with these estimates.
pub fn request(id: &str, input: u64, output: u64) -> HoldRequest {
    HoldRequest {
        id: id.to_owned(),
        path: vec!["bottle:b".to_owned(), "run:r".to_owned(), GLOBAL.to_owned()],
        provider: "claude".to_owned(),
        bottle: "b".to_owned(),
        agent: "coder".to_owned(),
        run: Some("r".to_owned()),
        api: Api::Anthropic,
        host: "api.anthropic.com".to_owned(),
        model: "claude-asked".to_owned(),
        input,
        least: None,
        output,
        counted: false,
        told: Vec::new(),
    }
}

/// An end of a hold, with the facts of a plain request.
pub fn settle(id: &str, how: Settlement) -> Settle {
    Settle {
        id: id.to_owned(),
        how,
        model: Some("claude-served".to_owned()),
        response_id: None,
        raw_usage: Some("{}".to_owned()),
        facts: Arc::new(json!({"method": "POST", "path": "/v1/messages", "status": 200})),
    }
}

/// Exact usage.
pub fn exact(input: u64, output: u64) -> Settlement {
    Settlement::Exact(Tokens { input, output, ..Tokens::default() })
}

fn limit(tokens: u64) -> Vec<Limit> {
    vec![Limit::of("claude", Some(tokens))]
}

/// Holds, and expects it to be granted; returns what was reserved.
pub async fn granted(ledger: &impl Ledger, request: HoldRequest) -> u64 {
    match ledger.hold(request).await {
        Ok(HoldOutcome::Granted { held, .. }) => held,
        other => panic!("not granted: {other:?}"),
    }
}

/// Gets one account's (used, held).
async fn figures(ledger: &impl Ledger, node: &str, provider: &str) -> (u64, u64) {
    let accounts = ledger.accounts(Some(node)).await.unwrap();
    accounts.iter().find(|a| a.provider == provider).map_or((0, 0), |a| (a.used, a.held))
}

async fn a_hold_is_reserved_and_charged_once_on_every_node(ledger: impl Ledger) {
    assert_eq!(granted(&ledger, request("h1", 100, 50)).await, 150);
    assert_eq!(ledger.open_holds(None).await.unwrap(), 1);
    assert_eq!(ledger.open_holds(Some("b")).await.unwrap(), 1);
    assert_eq!(ledger.open_holds(Some("other")).await.unwrap(), 0);
    for node in ["bottle:b", "run:r", GLOBAL] {
        assert_eq!(figures(&ledger, node, "claude").await, (0, 150), "{node}");
    }
    let settled = ledger.settle(settle("h1", exact(90, 30))).await.unwrap();
    assert_eq!((settled.counted, settled.source), (120, Source::Exact));
    assert!(settled.governs.is_none() && settled.crossed.is_empty(), "no limit, nothing to cross");
    for node in ["bottle:b", "run:r", GLOBAL] {
        assert_eq!(figures(&ledger, node, "claude").await, (120, 0), "{node}");
    }
    assert_eq!(ledger.open_holds(None).await.unwrap(), 0);
}

async fn holds_are_granted_kept_waiting_and_refused(ledger: impl Ledger) {
    ledger.set_limits("bottle:b", limit(1000)).await.unwrap();
    assert_eq!(granted(&ledger, request("h1", 100, 400)).await, 500);
    assert_eq!(granted(&ledger, request("h2", 100, 4000)).await, 500, "output is clamped to what is left");
    let mut changes = ledger.changes();
    let Ok(HoldOutcome::Wait(standing)) = ledger.hold(request("h3", 100, 10)).await else { panic!("no wait") };
    assert_eq!((standing.node.as_str(), standing.used, standing.held, standing.limit), ("bottle:b", 0, 1000, 1000));
    assert!(!changes.has_changed().unwrap());
    ledger.settle(settle("h1", Settlement::Released)).await.unwrap();
    changes.changed().await.unwrap();
    assert_eq!(granted(&ledger, request("h3", 100, 10)).await, 110);
    let Ok(HoldOutcome::Refused(_)) = ledger.hold(request("h4", 1001, 10)).await else { panic!("not refused") };
    let settled = ledger.settle(settle("h2", exact(500, 700))).await.unwrap();
    assert_eq!(settled.governs.as_ref().map(|s| (s.used, s.held, s.limit)), Some((1200, 110, 1000)));
    assert_eq!(settled.crossed.len(), 1);
    let Ok(HoldOutcome::Refused(standing)) = ledger.hold(request("h5", 1, 1)).await else { panic!("not refused") };
    assert_eq!((standing.used, standing.limit), (1200, 1000));
    ledger.settle(settle("h3", Settlement::Released)).await.unwrap();
    ledger.set_limits("bottle:b", limit(0)).await.unwrap();
    assert!(matches!(ledger.hold(request("h6", 1, 1)).await, Ok(HoldOutcome::Refused(_))), "0 allows nothing");
    assert_eq!(ledger.open_holds(None).await.unwrap(), 0, "who was refused holds nothing");
}

async fn every_end_of_a_hold_is_charged_as_the_machine_says(ledger: impl Ledger) {
    let cached = Tokens { input: 5, cache_read: 1001, cache_write: 7, output: 20, reasoning: 9, ..Tokens::default() };
    let seen = Tokens { input: 300, output: 2, ..Tokens::default() };
    let table = [
        (Settlement::Released, 0, Source::Exact),
        (Settlement::Exact(cached), 133, Source::Exact),
        (Settlement::Partial { seen: None, streamed: 0 }, 100, Source::Partial),
        (Settlement::Partial { seen: Some(seen), streamed: 0 }, 302, Source::Partial),
        (Settlement::Partial { seen: None, streamed: 400 }, 500, Source::Partial),
        (Settlement::AtEstimate { streamed: 0 }, 150, Source::Estimated),
        (Settlement::AtEstimate { streamed: 900 }, 1000, Source::Estimated),
    ];
    let mut sum = 0;
    for (i, (how, counted, source)) in table.into_iter().enumerate() {
        let id = format!("h{i}");
        granted(&ledger, request(&id, 100, 50)).await;
        let settled = ledger.settle(settle(&id, how.clone())).await.unwrap();
        assert_eq!((settled.counted, settled.source), (counted, source), "{how:?}");
        assert_eq!(settled.seq == 0, how == Settlement::Released, "an event for everything but a release");
        sum += counted;
        assert_eq!(figures(&ledger, GLOBAL, "claude").await, (sum, 0));
    }
}

async fn the_same_call_again_changes_nothing(ledger: impl Ledger) {
    ledger.set_limits(GLOBAL, limit(160)).await.unwrap();
    assert_eq!(granted(&ledger, request("h1", 100, 50)).await, 150);
    assert_eq!(granted(&ledger, request("h1", 100, 50)).await, 150, "a repeated hold is the same hold");
    assert_eq!(figures(&ledger, GLOBAL, "claude").await, (0, 150));
    assert_eq!(ledger.raise("h1", Raise::to(200)).await.unwrap().crossed.len(), 1, "beyond the limit");
    assert_eq!(ledger.raise("h1", Raise::to(180)).await.unwrap().held, 200);
    assert_eq!(figures(&ledger, GLOBAL, "claude").await, (0, 200), "raised, never lowered");
    let first = ledger.settle(settle("h1", exact(100, 20))).await.unwrap();
    let again = ledger.settle(settle("h1", exact(100, 20))).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(figures(&ledger, GLOBAL, "claude").await, (120, 0));
    assert!(matches!(ledger.hold(request("h1", 1, 1)).await, Err(LedgerError::Misuse(_))), "an id is used once");
    assert!(matches!(ledger.raise("h1", Raise::to(500)).await, Err(LedgerError::Misuse(_))));
    assert!(matches!(ledger.settle(settle("nobody", exact(1, 1))).await, Err(LedgerError::Misuse(_))));
    assert_eq!(figures(&ledger, GLOBAL, "claude").await, (120, 0));
}

async fn what_was_learned_is_kept<L: Ledger>(open: &impl Fn(&str) -> L) {
    let ledger = open("learned");
    let mut learned = Learned::default();
    learned.learn_whole(4000, 10_000);
    learned.learn_answer(300);
    let lesson = |provider: &str, model: &str, learned: &Learned| Lesson {
        provider: provider.to_owned(),
        model: model.to_owned(),
        agent: "coder".to_owned(),
        learned: learned.clone(),
    };
    ledger.keep_lesson(lesson("claude", "m", &learned)).await.unwrap();
    ledger.keep_lesson(lesson("codex", "m", &Learned::default())).await.unwrap();
    learned.learn_answer(500);
    ledger.keep_lesson(lesson("claude", "m", &learned)).await.unwrap();
    ledger.close().await.unwrap();
    let again = open("learned");
    assert_eq!(
        again.lessons("claude").await,
        Ok(vec![lesson("claude", "m", &learned)]),
        "the last of it, and no other's"
    );
    assert_eq!(again.lessons("pi").await, Ok(vec![]));
}

async fn late_usage_only_raises(ledger: impl Ledger) {
    ledger.set_limits(GLOBAL, limit(1000)).await.unwrap();
    granted(&ledger, request("h1", 100, 50)).await;
    let first = ledger.settle(settle("h1", Settlement::Partial { seen: None, streamed: 0 })).await.unwrap();
    let less = ledger.settle(settle("h1", exact(40, 10))).await.unwrap();
    assert_eq!((less.counted, less.seq), (100, first.seq), "less changes nothing");
    let more = ledger.settle(settle("h1", exact(400, 700))).await.unwrap();
    assert_eq!((more.counted, more.source), (1100, Source::Exact));
    assert!(more.seq > first.seq);
    assert_eq!(more.crossed.len(), 1, "late usage can cross a limit");
    assert_eq!(figures(&ledger, GLOBAL, "claude").await, (1100, 0));
    let report = ledger.usage(UsageQuery::default()).await.unwrap();
    assert_eq!((report.total.requests, report.total.counted, report.total.estimated), (1, 1100, 0));
    let events = ledger.events(EventQuery { since: first.seq, ..EventQuery::default() }).await.unwrap();
    assert_eq!((events[0].data["late"].as_bool(), events[0].data["before"].as_u64()), (Some(true), Some(100)));

    granted(&ledger, HoldRequest { path: vec!["bottle:c".to_owned()], ..request("h2", 100, 50) }).await;
    ledger.settle(settle("h2", Settlement::Released)).await.unwrap();
    assert_eq!(ledger.settle(settle("h2", exact(3, 4))).await.unwrap().counted, 7, "even of what was given back");
    assert_eq!(figures(&ledger, "bottle:c", "claude").await, (7, 0));
}

async fn reports_keep_the_classes_apart(ledger: impl Ledger) {
    let tokens =
        Tokens { input: 1, cache_read: 20, cache_write: 300, cache_write_long: 4000, output: 50, reasoning: 7 };
    granted(&ledger, request("h1", 1, 1)).await;
    let one = Settle { response_id: Some("msg_1".to_owned()), ..settle("h1", Settlement::Exact(tokens)) };
    let seq = ledger.settle(one).await.unwrap().seq;
    granted(&ledger, request("h2", 1, 1)).await;
    let two = Settle { response_id: Some("msg_1".to_owned()), ..settle("h2", Settlement::Exact(tokens)) };
    let twin = ledger.settle(two).await.unwrap().seq;
    granted(&ledger, HoldRequest { bottle: "c".to_owned(), run: None, ..request("h3", 1, 1) }).await;
    ledger.settle(Settle { model: None, ..settle("h3", Settlement::AtEstimate { streamed: 0 }) }).await.unwrap();
    granted(&ledger, request("h4", 1, 1)).await;
    ledger.settle(settle("h4", Settlement::Released)).await.unwrap();

    let report = ledger.usage(UsageQuery::default()).await.unwrap();
    assert_eq!(report.rows.len(), 2, "one row for each bottle, agent, provider and model");
    let row = &report.rows[0];
    assert_eq!((row.bottle.as_str(), row.agent.as_str(), row.provider.as_str()), ("b", "coder", "claude"));
    assert_eq!(row.model, "claude-served", "the model that answered");
    assert_eq!(report.rows[1].model, "claude-asked", "or the one asked for, where it did not say");
    let t = row.total;
    assert_eq!((t.requests, t.input, t.cache_read, t.cache_write), (2, 2, 40, 8600));
    assert_eq!((t.output, t.reasoning, t.counted, t.estimated), (100, 14, 2 * (1 + 2 + 300 + 4000 + 50), 0));
    assert_eq!((report.total.requests, report.total.estimated), (3, 1), "a release is no request");
    for (query, requests) in [
        (UsageQuery { bottle: Some("c".to_owned()), ..UsageQuery::default() }, 1),
        (UsageQuery { run: Some("r".to_owned()), ..UsageQuery::default() }, 2),
        (UsageQuery { provider: Some("codex".to_owned()), ..UsageQuery::default() }, 0),
        (UsageQuery { since: Some(i64::MAX), ..UsageQuery::default() }, 0),
        (UsageQuery { until: Some(0), ..UsageQuery::default() }, 0),
        (UsageQuery { since: Some(1), until: Some(i64::MAX), ..UsageQuery::default() }, 3),
    ] {
        assert_eq!(ledger.usage(query.clone()).await.unwrap().total.requests, requests, "{query:?}");
    }

    let event = &ledger.events(EventQuery { since: seq - 1, max: 1, ..EventQuery::default() }).await.unwrap()[0];
    assert_eq!((event.kind.as_str(), event.bottle.as_deref(), event.run.as_deref()), ("usage", Some("b"), Some("r")));
    let data = &event.data;
    assert_eq!(
        (&data["request"], &data["api"], &data["host"]),
        (&json!("h1"), &json!("anthropic"), &json!("api.anthropic.com"))
    );
    assert_eq!(
        (&data["method"], &data["path"], &data["status"]),
        (&json!("POST"), &json!("/v1/messages"), &json!(200))
    );
    assert_eq!(
        (&data["model"], &data["source"], &data["counted"]),
        (&json!("claude-served"), &json!("exact"), &json!(4353))
    );
    assert_eq!(data["tokens"], json!(tokens));
    assert!(data.get("duplicate").is_none());
    let twin = &ledger.events(EventQuery { since: twin - 1, max: 1, ..EventQuery::default() }).await.unwrap()[0];
    assert_eq!(twin.data["duplicate"], json!(true), "a response id that was seen before is flagged, and charged");
}

async fn events_have_no_holes_and_are_heard_in_order(ledger: impl Ledger) {
    let mut heard = ledger.subscribe();
    let mut tasks = JoinSet::new();
    for i in 0..200u64 {
        let ledger = ledger.clone();
        tasks.spawn(async move {
            // Every third one fails, and must not use up a number.
            if i % 3 == 0 {
                assert!(matches!(ledger.settle(settle("nobody", exact(1, 1))).await, Err(LedgerError::Misuse(_))));
                assert!(matches!(ledger.append(NewEvent::default()).await, Err(LedgerError::Misuse(_))));
                return;
            }
            let event = NewEvent {
                kind: if i % 10 == 1 { "enforced" } else { "request" }.to_owned(),
                bottle: Some(format!("b{}", i % 2)),
                run: Some(format!("r{}", i % 4)),
                data: json!({ "action": "cut", "i": i }),
                audit: i % 10 == 1,
            };
            let written = ledger.append(event).await.unwrap();
            assert_eq!(written.data["i"], json!(i));
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let events = ledger.events(EventQuery::default()).await.unwrap();
    let numbers: Vec<u64> = events.iter().map(|e| e.seq).collect();
    assert_eq!(numbers, (1..=133).collect::<Vec<u64>>(), "1, 2, 3 ... without a hole");
    for event in &events {
        assert_eq!(&heard.recv().await.unwrap(), event, "heard as stored, in order");
    }
    assert!(heard.try_recv().is_err());
    let some = ledger.events(EventQuery { since: 100, max: 5, ..EventQuery::default() }).await.unwrap();
    assert_eq!(some.iter().map(|e| e.seq).collect::<Vec<_>>(), [101, 102, 103, 104, 105]);
    let of = |bottle: Option<&str>, run: Option<&str>| {
        let query =
            EventQuery { bottle: bottle.map(str::to_owned), run: run.map(str::to_owned), ..EventQuery::default() };
        ledger.events(query)
    };
    assert!(of(Some("b1"), None).await.unwrap().iter().all(|e| e.bottle.as_deref() == Some("b1")));
    let both: BTreeSet<u64> = of(Some("b1"), Some("r3")).await.unwrap().iter().map(|e| e.seq).collect();
    assert!(!both.is_empty() && both.len() < of(Some("b1"), None).await.unwrap().len());
    assert!(of(Some("nobody"), None).await.unwrap().is_empty());
    let huge =
        NewEvent { kind: "request".to_owned(), data: json!({ "x": "y".repeat(1 << 20) }), ..NewEvent::default() };
    assert!(ledger.append(huge).await.unwrap().data.to_string().len() < 100, "what a bottle says is bounded");

    let one = |kind| (kind, r#"{"a":1}"#.to_owned());
    ledger.append_all("b", Some("r"), vec![one("first"), one("second")]).await.unwrap();
    let half = ledger.append_all("b", None, vec![one("third"), one("")]).await;
    assert!(matches!(half, Err(LedgerError::Misuse(_))), "{half:?}");
    let last = ledger.events(EventQuery { since: 134, ..EventQuery::default() }).await.unwrap();
    assert_eq!(last.iter().map(|e| (e.seq, e.kind.as_str())).collect::<Vec<_>>(), [(135, "first"), (136, "second")]);
    assert_eq!(
        (last[1].bottle.as_deref(), last[1].run.as_deref(), &last[1].data["a"]),
        (Some("b"), Some("r"), &json!(1))
    );
    assert_eq!(heard.recv().await.unwrap().seq, 134);
    for event in &last {
        assert_eq!(&heard.recv().await.unwrap(), event);
    }
}

async fn bottles_are_kept(ledger: impl Ledger) {
    let row = |id: &str, slug: &str, ended: bool| BottleRow {
        id: id.to_owned(),
        slug: slug.to_owned(),
        body: format!("{{\"slug\":\"{slug}\"}}"),
        ended,
        cut: None,
    };
    ledger.put_bottle(row("1", "one", false)).await.unwrap();
    ledger.put_bottle(row("2", "two", false)).await.unwrap();
    assert!(matches!(ledger.put_bottle(row("3", "one", false)).await, Err(LedgerError::Misuse(_))), "slugs are unique");
    let cut = BottleRow { cut: Some("all".to_owned()), ended: true, ..row("1", "one", true) };
    ledger.put_bottle(cut.clone()).await.unwrap();
    assert_eq!(ledger.bottles(false).await.unwrap(), [row("2", "two", false)]);
    assert_eq!(ledger.bottles(true).await.unwrap(), [cut, row("2", "two", false)]);
    assert_eq!(ledger.bottle("2").await.unwrap(), Some(row("2", "two", false)));
    assert_eq!(ledger.bottle("none").await.unwrap(), None);
    ledger.put_bottle(row("3", "one", false)).await.unwrap();
    assert_eq!(ledger.bottles(true).await.unwrap().len(), 3, "a slug is free again when its bottle has ended");
    // What enforcement has done is one thing: its event and the row, or neither.
    let event = NewEvent { kind: "enforced".into(), bottle: Some("two".into()), ..NewEvent::default() };
    let cut = BottleRow { cut: Some("all".into()), ..row("2", "two", false) };
    let written = ledger.enforced(event.clone(), cut.clone()).await.unwrap();
    assert_eq!(ledger.bottle("2").await.unwrap(), Some(cut));
    assert_eq!(ledger.events(EventQuery::default()).await.unwrap(), [written]);
    assert!(ledger.enforced(event, row("", "none", false)).await.is_err());
    assert_eq!(ledger.events(EventQuery::default()).await.unwrap().len(), 1);
}

async fn what_was_written_is_whole_and_told_by_run(ledger: impl Ledger) {
    ledger.put_run("r", "nightly").await.unwrap();
    granted(&ledger, request("h1", 100, 50)).await;
    ledger.settle(settle("h1", exact(90, 30))).await.unwrap();
    let by = Some(vec![crate::api::By::Recipe]);
    let report = ledger.usage(UsageQuery { by, ..UsageQuery::default() }).await.unwrap();
    assert_eq!(report.rows.iter().map(|row| row.recipe.as_deref()).collect::<Vec<_>>(), [Some("nightly")]);
    let verified = ledger.verify(None).await.unwrap();
    assert_eq!((verified.fault, verified.events, verified.usage), (None, 1, 1));
}

async fn many_at_once_keep_a_hard_budget(ledger: impl Ledger) {
    const LIMIT: u64 = 20_000;
    let hard = vec![Limit::hard("claude", Some(LIMIT))];
    ledger.set_limits(GLOBAL, hard).await.unwrap();
    let (overdrawn, spent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for task in 0..64u64 {
        let (ledger, overdrawn, spent) = (ledger.clone(), Arc::clone(&overdrawn), Arc::clone(&spent));
        tasks.spawn(async move {
            let mut changes = ledger.changes();
            for n in 0u64.. {
                let mut asked = request(&format!("{task}-{n}"), 10, 100);
                asked.path[0] = format!("bottle:{task}");
                let held = match ledger.hold(asked.clone()).await.unwrap() {
                    HoldOutcome::Granted { held, .. } => held,
                    HoldOutcome::Wait(_) => {
                        changes.changed().await.unwrap();
                        continue;
                    }
                    HoldOutcome::Refused(standing) => {
                        assert!(standing.used + 10 > LIMIT, "refused though it fits: {standing:?}");
                        return;
                    }
                    other => panic!("no limit says so: {other:?}"),
                };
                tokio::task::yield_now().await;
                let output = [0, 40, 90, 300][usize::try_from((task + n) % 4).unwrap()];
                let settled = ledger.settle(settle(&asked.id, exact(10, output))).await.unwrap();
                // Figured against the least that any of them had reserved, so the bound below is not flattered.
                overdrawn.fetch_max(settled.counted.saturating_sub(held), Ordering::Relaxed);
                spent.fetch_add(settled.counted, Ordering::Relaxed);
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let spent = spent.load(Ordering::Relaxed);
    assert_eq!(figures(&ledger, GLOBAL, "claude").await, (spent, 0), "every charge arrived, every hold is given back");
    assert_eq!(ledger.open_holds(None).await.unwrap(), 0);
    let bound = LIMIT + 64 * overdrawn.load(Ordering::Relaxed);
    assert!(spent >= LIMIT - 10 && spent <= bound, "{spent} of {LIMIT}, bound {bound}");
    let report = ledger.usage(UsageQuery::default()).await.unwrap();
    assert_eq!(report.total.counted, spent);
}

async fn a_sweep_charges_what_an_earlier_writer_left<L: Ledger>(open: &impl Fn(&str) -> L) {
    let first = open("sweep");
    first.set_limits(GLOBAL, limit(700)).await.unwrap();
    granted(&first, request("h1", 100, 500)).await;
    assert_eq!(granted(&first, request("h2", 50, 500)).await, 100, "clamped");
    let seen = Some(Tokens { input: 60, output: 900, ..Tokens::default() });
    first.raise("h2", Raise { seen, ..Raise::to(800) }).await.unwrap();
    granted(&first, HoldRequest { path: vec!["bottle:x".to_owned()], ..request("h3", 10, 10) }).await;
    first.settle(settle("h3", exact(1, 1))).await.unwrap();
    assert_eq!(first.sweep().await.unwrap(), 0, "its own holds are nobody else's");
    drop(first);

    let second = open("sweep");
    assert_eq!(second.open_holds(None).await.unwrap(), 2, "committed holds are there after the writer is gone");
    assert_eq!(figures(&second, GLOBAL, "claude").await, (0, 1400));
    granted(&second, HoldRequest { path: vec!["bottle:x".to_owned()], ..request("h4", 10, 10) }).await;
    assert_eq!(second.sweep().await.unwrap(), 2);
    assert_eq!(second.open_holds(None).await.unwrap(), 1, "the new one is left alone");
    // The whole unclamped estimate of the first, the usage seen of the second.
    assert_eq!(figures(&second, GLOBAL, "claude").await, (600 + 960, 0));
    let events = second.events(EventQuery::default()).await.unwrap();
    let swept = events.iter().filter(|e| e.kind == "usage" && e.data["how"] == "swept").count();
    assert_eq!(swept, 2, "whoever reads them can tell: {events:?}");
    assert_eq!(second.sweep().await.unwrap(), 0);
    let report = second.usage(UsageQuery::default()).await.unwrap();
    assert_eq!((report.total.requests, report.total.estimated), (3, 2));
    let late = second.settle(settle("h1", exact(100, 600))).await.unwrap();
    assert_eq!(late.counted, 700, "who knows better may still raise");
}

async fn a_closed_ledger_has_everything_and_takes_nothing<L: Ledger>(open: &impl Fn(&str) -> L) {
    let ledger = open("close");
    let mut tasks = JoinSet::new();
    for i in 0..50 {
        let ledger = ledger.clone();
        tasks.spawn(async move { ledger.hold(request(&format!("h{i}"), 1, 1)).await.is_ok() });
    }
    let mut held = 0;
    while let Some(ok) = tasks.join_next().await {
        held += u64::from(ok.unwrap());
    }
    ledger.close().await.unwrap();
    ledger.close().await.unwrap();
    assert!(matches!(ledger.hold(request("late", 1, 1)).await, Err(LedgerError::Unavailable(_))));
    assert_eq!(open("close").open_holds(None).await.unwrap(), held);
}

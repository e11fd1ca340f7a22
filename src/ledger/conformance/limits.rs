//! What a ledger does with limits: their terms, their change, what is spent, what is told on the way there.

use super::*;

pub(super) async fn gates_and_what_is_kept_back_are_the_limits_terms(ledger: impl Ledger) {
    let terms = Terms { gate: Some(Gate::Exact), wrap_up: Some(300), ..Terms::default() };
    ledger.set_limits("bottle:b", vec![Limit { terms, ..Limit::of("claude", Some(1000)) }]).await.unwrap();
    assert_eq!(ledger.hold(request("h1", 100, 10)).await, Ok(HoldOutcome::Count));
    let counted = |id: &str, input| HoldRequest { counted: true, ..request(id, input, 900) };
    assert_eq!(granted(&ledger, counted("h1", 100)).await, 700, "clamped before what is kept back");
    ledger.settle(settle("h1", exact(100, 500))).await.unwrap();
    let Ok(HoldOutcome::WrapUp(told)) = ledger.hold(counted("h2", 150)).await else { panic!("no word") };
    assert_eq!((told.used, told.limit), (600, 1000));
    assert_eq!(granted(&ledger, HoldRequest { told: vec![told], ..counted("h2", 150) }).await, 400);
    // What outgrows its hold: to the limit, and over it.
    let raised = ledger.raise("h2", Raise { ahead: 50, ..Raise::to(399) }).await.unwrap();
    assert_eq!((raised.held, raised.crossed.len()), (400, 0), "there is room for no more");
    let raised = ledger.raise("h2", Raise { ahead: 50, ..Raise::to(401) }).await.unwrap();
    assert_eq!((raised.held, raised.cuts, raised.crossed[0].held), (451, false, 401));
    ledger.set_limits("bottle:b", vec![Limit::hard("claude", Some(1000))]).await.unwrap();
    assert!(ledger.raise("h2", Raise::to(460)).await.unwrap().cuts, "by the terms of the moment");
}

pub(super) async fn limits_are_replaced_and_usage_is_kept(ledger: impl Ledger) {
    let account = |accounts: &[Account], provider: &str| accounts.iter().find(|a| a.provider == provider).cloned();
    for (id, provider) in [("h1", "claude"), ("h2", "codex")] {
        granted(&ledger, HoldRequest { provider: provider.to_owned(), ..request(id, 10, 0) }).await;
        ledger.settle(settle(id, exact(10, 30))).await.unwrap();
    }
    granted(&ledger, request("h3", 5, 0)).await;
    let all = Limit::hard("*", Some(100));
    let codex = Limit::of("codex", None);
    ledger.set_limits(GLOBAL, vec![all.clone(), codex]).await.unwrap();
    let accounts = ledger.accounts(Some(GLOBAL)).await.unwrap();
    let common = account(&accounts, "*").unwrap();
    assert_eq!((common.limit, common.hard, common.used, common.held), (Some(100), true, 80, 5), "the sum of all");
    let codex = account(&accounts, "codex").unwrap();
    assert_eq!((codex.set, codex.limit, codex.used), (true, None, 40));
    let claude = account(&accounts, "claude").unwrap();
    assert_eq!((claude.set, claude.used), (false, 40));
    assert!(matches!(ledger.hold(request("h4", 21, 0)).await, Ok(HoldOutcome::Refused(s)) if s.provider == "*"));
    ledger.settle(settle("h3", exact(5, 15))).await.unwrap();
    assert_eq!(figures(&ledger, GLOBAL, "*").await, (100, 0), "every provider is charged to the common account");

    let changes = ledger.changes();
    ledger.set_limits(GLOBAL, limit(500)).await.unwrap();
    assert!(changes.has_changed().unwrap());
    let accounts = ledger.accounts(Some(GLOBAL)).await.unwrap();
    assert!(account(&accounts, "*").is_none(), "earlier limits are gone");
    let claude = account(&accounts, "claude").unwrap();
    assert_eq!((claude.limit, claude.used), (Some(500), 60));
    assert!(!account(&accounts, "codex").unwrap().set);
    assert!(ledger.accounts(None).await.unwrap().iter().any(|a| a.node == "bottle:b"));

    assert!(matches!(ledger.set_limits(GLOBAL, vec![all.clone(), all]).await, Err(LedgerError::Misuse(_))));
    assert!(matches!(ledger.set_limits(GLOBAL, limit(u64::MAX)).await, Err(LedgerError::Misuse(_))));
    assert_eq!(account(&ledger.accounts(Some(GLOBAL)).await.unwrap(), "claude").unwrap().limit, Some(500));
}

pub(super) async fn launches_learn_what_is_spent(ledger: impl Ledger) {
    let path = request("", 0, 0).path;
    assert_eq!(ledger.spent(path.clone(), "claude").await.unwrap(), None);
    ledger.set_limits("run:r", limit(50)).await.unwrap();
    assert_eq!(ledger.spent(path.clone(), "claude").await.unwrap(), None);
    granted(&ledger, request("h1", 10, 0)).await;
    ledger.settle(settle("h1", exact(40, 20))).await.unwrap();
    let spent = ledger.spent(path.clone(), "claude").await.unwrap().unwrap();
    assert_eq!((spent.node.as_str(), spent.used, spent.limit), ("run:r", 60, 50));
    assert_eq!(ledger.spent(path.clone(), "codex").await.unwrap(), None, "another provider's budget");
    ledger.set_limits("bottle:b", limit(1000)).await.unwrap();
    assert_eq!(ledger.spent(path, "claude").await.unwrap(), None, "a nearer limit governs");
}

pub(super) async fn one_reading_says_what_is_spent_on_many_paths(ledger: impl Ledger) {
    let path = |bottle: &str| vec![format!("bottle:{bottle}"), "run:r".to_owned(), GLOBAL.to_owned()];
    ledger.set_limits("run:r", limit(50)).await.unwrap();
    ledger.set_limits(GLOBAL, vec![Limit::hard("*", Some(60))]).await.unwrap();
    ledger.set_limits("bottle:own", limit(1000)).await.unwrap();
    granted(&ledger, request("h1", 10, 0)).await;
    ledger.settle(settle("h1", exact(40, 20))).await.unwrap();
    let paths = [("b", "claude"), ("own", "claude"), ("b", "codex"), ("elsewhere", "codex")]
        .map(|(bottle, provider)| (path(bottle), provider.to_owned()));
    let spent = ledger.spent_on(paths.to_vec()).await.unwrap();
    let names: Vec<Vec<String>> =
        spent.iter().map(|all| all.iter().map(|s| format!("{}/{}", s.node, s.provider)).collect()).collect();
    assert_eq!(names, [vec!["run:r/claude", "global/*"], vec!["global/*"], vec!["global/*"], vec!["global/*"]]);
    assert!(ledger.spent_on(Vec::new()).await.unwrap().is_empty());
}

pub(super) async fn thresholds_are_told_once_for_each_limit(ledger: impl Ledger) {
    let told = async |since: u64| {
        let events = ledger.events(EventQuery { since, ..EventQuery::default() }).await.unwrap();
        let told = events.iter().filter(|event| event.kind == "threshold");
        told.map(|event| {
            assert_eq!((event.bottle.as_deref(), event.run.as_deref()), (Some("b"), Some("r")));
            (event.data["node"].as_str().unwrap().to_owned(), event.data["percent"].as_u64().unwrap())
        })
        .collect::<Vec<_>>()
    };
    let spend = async |id: &str, tokens: u64| {
        granted(&ledger, request(id, 1, 0)).await;
        ledger.settle(settle(id, exact(tokens, 0))).await.unwrap().seq
    };
    let of = |percents: &[u64]| percents.iter().map(|p| ("run:r".to_owned(), *p)).collect::<Vec<_>>();
    ledger.set_limits("run:r", limit(1000)).await.unwrap();
    // One that does not decide here says nothing.
    ledger.set_limits(GLOBAL, limit(10)).await.unwrap();
    let first = spend("h1", 499).await;
    assert!(told(0).await.is_empty());
    let second = spend("h2", 331).await;
    assert_eq!(told(first).await, of(&[50, 80]), "each that was passed");
    let third = spend("h3", 1).await;
    assert!(told(second + 2).await.is_empty(), "once");
    let event = &ledger.events(EventQuery { since: second + 1, ..EventQuery::default() }).await.unwrap()[0];
    let figures = ["used", "limit", "left"].map(|key| event.data[key].as_u64().unwrap());
    assert_eq!((figures, &event.data["provider"]), ([830, 1000, 170], &"claude".into()));
    // The same limit again, as by every controller that starts, tells nothing anew; nor does a lower one what it told.
    ledger.set_limits("run:r", limit(1000)).await.unwrap();
    let fourth = spend("h4", 1).await;
    assert!(told(third).await.is_empty());
    // Under a higher one 50 still holds, and 80 is told when it is passed again.
    ledger.set_limits("run:r", limit(1600)).await.unwrap();
    let warned = ledger.accounts(Some("run:r")).await.unwrap()[0].warned;
    assert_eq!(warned, 50);
    let fifth = spend("h5", 400).await;
    assert!(told(fourth).await.is_empty());
    spend("h6", 100).await;
    assert_eq!(told(fifth).await, of(&[80]));
    // Of all providers together, and by thresholds of its own; late usage passes them too.
    let terms = Terms { warn: Some(vec![90]), ..Terms::default() };
    ledger.set_limits("run:r", vec![Limit { terms, ..Limit::of("*", Some(2000)) }]).await.unwrap();
    granted(&ledger, request("h7", 1, 0)).await;
    let seventh = ledger.settle(settle("h7", Settlement::Partial { seen: None, streamed: 0 })).await.unwrap().seq;
    ledger.settle(settle("h7", exact(500, 0))).await.unwrap();
    assert_eq!(told(seventh).await, of(&[90]));
    ledger.set_limits("run:r", vec![Limit { terms: Terms::default(), ..Limit::of("*", Some(2000)) }]).await.unwrap();
    let common = ledger.accounts(Some("run:r")).await.unwrap().into_iter().find(|a| a.provider == "*").unwrap();
    assert_eq!(common.warned, 80, "what was told of it outlives the change");
}

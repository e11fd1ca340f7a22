//! Windows, and who has the last word, in a ledger on disk. That the clock has gone on is said by the row: its window ended long
//! ago, or ends far ahead.

use rusqlite::Connection;

use crate::api::{Account, BudgetAct, BudgetChange, Limit, Period, Terms};
use crate::ledger::conformance::{exact, granted, request, settle};
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::sqlite::tests::{Dir, open};
use crate::ledger::{EventQuery, GLOBAL, HoldOutcome, HoldRequest, Ledger, LedgerError};
use crate::types::Book;

fn per(provider: &str, tokens: u64, per: Period) -> Limit {
    Limit { per: Some(per), ..Limit::hard(provider, Some(tokens)) }
}

fn change(id: &str, node: &str, provider: &str, change: BudgetAct) -> BudgetChange {
    let (node, provider) = (node.to_owned(), provider.to_owned());
    BudgetChange { id: id.to_owned(), book: Book::Real, node, provider, change, reason: Some("why".to_owned()) }
}

fn raise(id: &str, tokens: u64) -> BudgetChange {
    change(id, GLOBAL, "claude", BudgetAct::Raise { tokens })
}

fn set(id: &str, tokens: Option<u64>) -> BudgetChange {
    change(id, GLOBAL, "claude", BudgetAct::Set { tokens, per: None, hard: None })
}

async fn account(ledger: &SqliteLedger, node: &str, provider: &str) -> Account {
    let all = ledger.accounts(Some(node)).await.unwrap();
    all.into_iter().find(|account| account.provider == provider).unwrap_or_else(|| panic!("{node} {provider}"))
}

/// Has a request done that counts so much.
async fn use_up(ledger: &SqliteLedger, id: &str, tokens: u64) {
    granted(ledger, request(id, 1, 0)).await;
    ledger.settle(settle(id, exact(tokens, 0))).await.unwrap();
}

/// A book in which 30 tokens were used forty days ago, and 20 today.
async fn used_long_ago_and_today(dir: &Dir) -> (SqliteLedger, Connection) {
    let ledger = open(&dir.file("a.db"));
    use_up(&ledger, "long ago", 30).await;
    let conn = Connection::open(dir.file("a.db")).unwrap();
    conn.execute("UPDATE usage SET ts = ts - 40 * 86400000", []).unwrap();
    use_up(&ledger, "today", 20).await;
    (ledger, conn)
}

/// Says of every window when it ends, in the row.
fn windows_end(dir: &Dir, at: i64) {
    let conn = Connection::open(dir.file("a.db")).unwrap();
    conn.execute("UPDATE accounts SET resets = ?1 WHERE resets IS NOT NULL", [at]).unwrap();
}

#[tokio::test]
async fn a_day_that_is_over_begins_anew_and_a_hold_from_before_midnight_settles_in_the_new_one() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    ledger.set_limits(GLOBAL, vec![per("claude", 100, Period::Day)]).await.unwrap();
    use_up(&ledger, "h0", 30).await;
    assert_eq!(granted(&ledger, request("h1", 10, 50)).await, 60);
    assert!(matches!(ledger.hold(request("h2", 80, 0)).await, Ok(HoldOutcome::Refused(_))), "30 of 100 are used");
    windows_end(&dir, 1);
    // Whoever only reads sees that it is over as well.
    let seen = account(&ledger, GLOBAL, "claude").await;
    assert_eq!((seen.used, seen.held), (0, 60));
    assert!(seen.resets.unwrap() > crate::bottle::output::now_ms());
    assert_eq!(ledger.spent(request("", 0, 0).path, "claude").await, Ok(None));
    let settled = ledger.settle(settle("h1", exact(40, 0))).await.unwrap();
    let governs = settled.governs.unwrap();
    assert_eq!((governs.used, governs.held, governs.resets), (40, 0, seen.resets));
    assert_eq!(granted(&ledger, request("h3", 60, 0)).await, 60);
    // What has no window went on counting.
    assert_eq!(account(&ledger, "bottle:b", "claude").await.used, 70);
}

#[tokio::test]
async fn what_is_kept_back_for_the_end_is_kept_back_anew_in_the_next_window() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    let terms = Terms { wrap_up: Some(30), ..Terms::default() };
    ledger.set_limits(GLOBAL, vec![Limit { terms, ..per("claude", 100, Period::Day) }]).await.unwrap();
    // Another window than the one of now, which comes after it here.
    windows_end(&dir, crate::bottle::output::now_ms() + 10 * 86_400_000);
    use_up(&ledger, "h0", 75).await;
    let Ok(HoldOutcome::WrapUp(standing)) = ledger.hold(request("h1", 5, 0)).await else {
        panic!("30 of 100 are kept back, 75 are used");
    };
    // Its agent was told: now it may use what was kept back.
    let told = |id: &str| HoldRequest { told: vec![standing.clone()], ..request(id, 5, 0) };
    assert_eq!(granted(&ledger, told("h2")).await, 5);
    ledger.settle(settle("h2", exact(5, 0))).await.unwrap();
    windows_end(&dir, 1);
    // In the next window there is room, and then the same is kept back again, although it was told in the last.
    assert_eq!(granted(&ledger, told("h3")).await, 5);
    ledger.settle(settle("h3", exact(75, 0))).await.unwrap();
    let Ok(HoldOutcome::WrapUp(again)) = ledger.hold(told("h4")).await else {
        panic!("what was told was of another window");
    };
    assert_eq!(again.used, standing.used, "no less than when it was told");
    assert_ne!(again.resets, standing.resets);
    assert_eq!(granted(&ledger, HoldRequest { told: vec![again], ..told("h5") }).await, 5);
}

#[tokio::test]
async fn a_clock_that_was_set_back_gives_nothing_back() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    ledger.set_limits(GLOBAL, vec![per("*", 100, Period::Day)]).await.unwrap();
    use_up(&ledger, "h0", 100).await;
    let ahead = crate::bottle::output::now_ms() + 10 * 365 * 86_400_000;
    windows_end(&dir, ahead);
    assert!(matches!(ledger.hold(request("h1", 1, 0)).await, Ok(HoldOutcome::Refused(s)) if s.resets == Some(ahead)));
    // Not by the same settings at the next way in either; a reset ends the window that a wrong clock began.
    ledger.set_limits(GLOBAL, vec![per("*", 100, Period::Day)]).await.unwrap();
    assert!(matches!(ledger.hold(request("h1", 1, 0)).await, Ok(HoldOutcome::Refused(_))));
    let reset = ledger.budget_change(change("c", GLOBAL, "*", BudgetAct::Reset), "operator").await.unwrap();
    assert!(reset.used == 0 && reset.resets.unwrap() < ahead);
    assert_eq!(granted(&ledger, request("h1", 1, 0)).await, 1);
}

#[tokio::test]
async fn a_limit_that_gets_a_time_later_finds_what_was_used_in_it() {
    let dir = Dir::new();
    let (ledger, _) = used_long_ago_and_today(&dir).await;
    let used = async |limits: Vec<Limit>, provider: &str| {
        ledger.set_limits(GLOBAL, limits).await.unwrap();
        account(&ledger, GLOBAL, provider).await.used
    };
    assert_eq!(used(vec![per("claude", 100, Period::Day)], "claude").await, 20);
    assert_eq!(used(vec![per("claude", 100, Period::Month)], "claude").await, 20);
    assert_eq!(used(vec![Limit::of("claude", Some(100))], "claude").await, 50, "for ever");
    assert_eq!(used(vec![per("claude", 100, Period::Lifetime)], "claude").await, 50);
    // All together, beside a provider with a window of its own.
    let both = vec![per("claude", 100, Period::Day), Limit::of("*", Some(100))];
    assert_eq!(used(both.clone(), "*").await, 50);
    assert_eq!(used(both, "claude").await, 20);
    assert_eq!(used(vec![per("*", 100, Period::Week)], "*").await, 20);
    assert_eq!(used(vec![], "claude").await, 50, "and without a limit everything is known still");
    // One for all together that begins with a window knows what was used before it, too.
    assert_eq!(used(vec![per("*", 100, Period::Week)], "*").await, 20);
    assert_eq!(used(vec![Limit::of("*", Some(100))], "*").await, 50);
}

#[tokio::test]
async fn what_a_window_finds_is_in_the_sums_and_read_from_no_row() {
    let dir = Dir::new();
    let (ledger, conn) = used_long_ago_and_today(&dir).await;
    use_up(&ledger, "late", 1).await;
    crate::ledger::sqlite::sums::fold(&conn).unwrap();
    ledger.settle(settle("late", exact(5, 0))).await.unwrap();
    use_up(&ledger, "now", 3).await;
    // Of the rows that are in the sums nothing is left.
    assert_eq!(conn.execute("DELETE FROM usage WHERE hold <> 'now'", []).unwrap(), 3);
    for (limit, used) in [
        (per("claude", 100, Period::Day), 28),
        (per("*", 100, Period::Month), 28),
        (Limit::of("claude", Some(100)), 58),
        (per("claude", 100, Period::Month), 28),
    ] {
        let provider = limit.provider.clone();
        ledger.set_limits(GLOBAL, vec![limit]).await.unwrap();
        assert_eq!(account(&ledger, GLOBAL, &provider).await.used, used);
    }
}

#[tokio::test]
async fn a_window_needs_a_node_with_a_name() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    let day = || vec![per("claude", 100, Period::Day)];
    for node in ["bottle:b", "run:r", "agent:a@1"] {
        assert!(matches!(ledger.set_limits(node, day()).await, Err(LedgerError::Misuse(_))), "{node}");
        let set = BudgetAct::Set { tokens: Some(1), per: Some(Period::Week), hard: None };
        let refused = ledger.budget_change(change(node, node, "claude", set), "operator").await;
        assert!(matches!(refused, Err(LedgerError::Misuse(_))), "{node}");
    }
    for node in ["agent:a", "manifest:m", GLOBAL] {
        ledger.set_limits(node, day()).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_operator_raised_stands_until_the_file_says_something_else() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    let file = vec![Limit::of("claude", Some(100))];
    ledger.set_limits(GLOBAL, file.clone()).await.unwrap();
    let limit = async || account(&ledger, GLOBAL, "claude").await.limit;
    let raised = ledger.budget_change(raise("r1", 50), "operator").await.unwrap();
    assert_eq!((raised.limit, raised.raised), (Some(150), 50));
    // The same again is made once: its answer may have been lost.
    assert_eq!(ledger.budget_change(raise("r1", 50), "operator").await.unwrap().limit, Some(150));
    assert_eq!(ledger.budget_change(raise("r2", 10), "operator").await.unwrap().limit, Some(160));
    ledger.set_limits(GLOBAL, file.clone()).await.unwrap();
    assert_eq!(limit().await, Some(160), "the next way in undoes nothing");
    ledger.set_limits(GLOBAL, vec![Limit::of("claude", Some(120))]).await.unwrap();
    assert_eq!(limit().await, Some(120), "an edited file has the last word");
    let is_set = ledger.budget_change(set("s1", Some(7)), "operator").await.unwrap();
    assert!(is_set.by_operator && is_set.limit == Some(7));
    ledger.set_limits(GLOBAL, vec![Limit::of("claude", Some(120))]).await.unwrap();
    assert_eq!(limit().await, Some(7));
    ledger.set_limits(GLOBAL, vec![]).await.unwrap();
    assert_eq!(limit().await, None);
    // A limit that no file says stands where none still does.
    ledger.budget_change(set("s2", Some(9)), "operator").await.unwrap();
    ledger.set_limits(GLOBAL, vec![Limit::of("codex", Some(1))]).await.unwrap();
    assert_eq!(limit().await, Some(9));
}

#[tokio::test]
async fn what_was_raised_for_a_day_ends_with_it_and_what_was_set_does_not() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    ledger.set_limits(GLOBAL, vec![per("claude", 100, Period::Day)]).await.unwrap();
    ledger.budget_change(raise("r1", 50), "operator").await.unwrap();
    ledger.set_limits(GLOBAL, vec![per("claude", 100, Period::Day)]).await.unwrap();
    assert_eq!(granted(&ledger, request("h1", 140, 0)).await, 140);
    windows_end(&dir, 1);
    let after = account(&ledger, GLOBAL, "claude").await;
    assert_eq!((after.limit, after.raised, after.held), (Some(100), 0, 140));
    ledger.settle(settle("h1", exact(10, 0))).await.unwrap();
    assert_eq!(account(&ledger, GLOBAL, "claude").await.limit, Some(100));
    ledger.budget_change(set("s1", Some(500)), "operator").await.unwrap();
    windows_end(&dir, 1);
    granted(&ledger, request("h2", 450, 0)).await;
    assert_eq!(account(&ledger, GLOBAL, "claude").await.limit, Some(500));
}

#[tokio::test]
async fn each_change_is_one_audited_event_and_what_cannot_be_meant_is_refused() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    ledger.set_limits(GLOBAL, vec![Limit::of("claude", Some(100))]).await.unwrap();
    use_up(&ledger, "h", 40).await;
    ledger.budget_change(raise("r1", 50), "operator").await.unwrap();
    ledger.budget_change(raise("r1", 50), "operator").await.unwrap();
    let reset = change("r2", GLOBAL, "claude", BudgetAct::Reset);
    assert_eq!(ledger.budget_change(reset, "operator").await.unwrap().used, 0);
    let events = ledger.events(EventQuery::default()).await.unwrap();
    let told: Vec<_> = events.iter().filter(|event| event.kind == "budget").map(|event| &event.data).collect();
    assert_eq!(told.len(), 2);
    assert_eq!(
        (&told[0]["change"], &told[0]["by"], &told[0]["reason"]),
        (&"raise".into(), &"operator".into(), &"why".into())
    );
    assert_eq!((&told[0]["before"]["limit"], &told[0]["after"]["limit"]), (&100.into(), &150.into()));
    assert_eq!((&told[1]["before"]["used"], &told[1]["after"]["used"]), (&40.into(), &0.into()));
    let conn = Connection::open(dir.file("a.db")).unwrap();
    let audited: i64 =
        conn.query_row("SELECT count(*) FROM enforcement WHERE kind = 'budget'", [], |row| row.get(0)).unwrap();
    assert_eq!(audited, 2);
    for wrong in [
        change("w1", GLOBAL, "codex", BudgetAct::Raise { tokens: 1 }),
        raise("w2", u64::MAX),
        set("w3", Some(u64::MAX)),
        change("w4", "", "claude", BudgetAct::Reset),
    ] {
        let refused = ledger.budget_change(wrong.clone(), "operator").await;
        assert!(matches!(refused, Err(LedgerError::Misuse(_))), "{wrong:?}");
    }
    assert_eq!(account(&ledger, GLOBAL, "claude").await.limit, Some(150));
}

#[tokio::test]
async fn a_limit_by_name_counts_over_launches_and_one_of_a_launch_does_not() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    ledger.set_limits("agent:a", vec![per("*", 100, Period::Lifetime)]).await.unwrap();
    for (launch, id) in [("1", "h1"), ("2", "h2")] {
        let node = format!("agent:a@{launch}");
        ledger.set_limits(&node, vec![Limit::of("claude", Some(60))]).await.unwrap();
        let path = vec![format!("bottle:{launch}"), node.clone(), "agent:a".to_owned(), GLOBAL.to_owned()];
        let asks = |id: &str, input| HoldRequest { path: path.clone(), ..request(id, input, 0) };
        granted(&ledger, asks(id, 1)).await;
        ledger.settle(settle(id, exact(50, 0))).await.unwrap();
        assert_eq!(account(&ledger, &node, "claude").await.used, 50, "each launch has its own 60");
        let next = ledger.hold(asks("next", 20)).await.unwrap();
        assert!(
            matches!(next, HoldOutcome::Refused(s) if s.node == if launch == "1" { node } else { "agent:a@2".into() })
        );
    }
    // The third has all of its own left and nothing of the name's.
    let path = vec!["bottle:3".to_owned(), "agent:a@3".to_owned(), "agent:a".to_owned(), GLOBAL.to_owned()];
    let spent = ledger.spent(path, "claude").await.unwrap().unwrap();
    assert_eq!((spent.node.as_str(), spent.used, spent.resets), ("agent:a", 100, None));
}

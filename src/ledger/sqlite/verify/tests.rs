//! A book that is whole, and every way in which it is not; sums, reports, pruning, backup and export of it.

use serde_json::json;

use super::super::tests::{Dir, open};
use super::super::{SqliteLedger, writer};
use super::*;
use crate::api::{By, Limit, Period, Slice, UsageQuery, UsageReport};
use crate::ledger::conformance::{exact, granted, request, settle};
use crate::ledger::{GLOBAL, Ledger, NewEvent, Settle, Settlement};

/// Uses that are settled, with an event of another kind between them.
async fn used(ledger: &SqliteLedger, from: u64, to: u64) {
    for i in from..to {
        granted(ledger, request(&format!("h{i}"), 10, 10)).await;
        let how = if i % 7 == 3 { Settlement::Partial { seen: None, streamed: i } } else { exact(i, 1) };
        ledger.settle(Settle { response_id: Some(format!("msg_{i}")), ..settle(&format!("h{i}"), how) }).await.unwrap();
        ledger.append(NewEvent { kind: "request".to_owned(), ..NewEvent::default() }).await.unwrap();
    }
}

async fn fault(ledger: &SqliteLedger) -> Option<(String, String)> {
    ledger.verify(None).await.unwrap().fault.map(|fault| (fault.table, fault.row))
}

/// Asks for all reports that the settled rows are in, and checks them against the rows themselves.
async fn reports_are_those_of_the_rows(ledger: &SqliteLedger, path: &std::path::Path) -> UsageReport {
    let report = ledger.usage(UsageQuery::default()).await.unwrap();
    let conn = Connection::open(path).unwrap();
    let rows: (i64, i64, i64) = conn
        .query_row("SELECT count(*), sum(counted), sum(source <> 'exact') FROM usage WHERE id > 0", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    let total = report.total;
    assert_eq!((amount(rows.0), amount(rows.1), amount(rows.2)), (total.requests, total.counted, total.estimated));
    report
}

#[tokio::test]
async fn a_whole_book_is_whole_and_its_head_proves_it_later() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    ledger.set_limits(GLOBAL, vec![Limit::of("*", Some(1 << 40))]).await.unwrap();
    used(&ledger, 0, 20).await;
    // One that was given back, and one whose usage came late.
    granted(&ledger, request("back", 10, 10)).await;
    ledger.settle(settle("back", Settlement::Released)).await.unwrap();
    granted(&ledger, request("late", 10, 10)).await;
    ledger.settle(settle("late", exact(1, 1))).await.unwrap();
    ledger.settle(settle("late", exact(500, 1))).await.unwrap();
    let verified = ledger.verify(None).await.unwrap();
    assert_eq!(verified.fault, None);
    assert_eq!((verified.events, verified.chained, verified.usage, verified.anchor), (42, 42, 22, 0));
    assert_eq!(verified.accounts, 4, "bottle, run, and two of the host");
    used(&ledger, 20, 25).await;
    let (seq, hash) = verified.head.split_once(':').unwrap();
    let head = (seq.parse().unwrap(), hash.to_owned());
    assert_eq!(ledger.verify(Some(head.clone())).await.unwrap().fault, None);
    let other = (head.0 - 1, head.1);
    assert!(ledger.verify(Some(other)).await.unwrap().fault.is_some());
    let cut_off = (1000, hash.to_owned());
    assert!(ledger.verify(Some(cut_off)).await.unwrap().fault.is_some());
    // Another writer goes on from the same hash.
    let second = open(&dir.file("a.db"));
    used(&second, 30, 31).await;
    used(&ledger, 31, 32).await;
    assert_eq!(fault(&ledger).await, None);
}

#[tokio::test]
async fn the_first_row_that_was_changed_is_named() {
    let changes = [
        ("UPDATE events SET data = '{}' WHERE seq = 7", "events", "7"),
        ("UPDATE events SET ts = ts + 1 WHERE seq = 8", "events", "8"),
        ("UPDATE events SET bottle = 'other' WHERE seq = 5", "events", "5"),
        ("UPDATE events SET hash = NULL WHERE seq = 6", "events", "6"),
        ("UPDATE events SET digest = NULL WHERE seq = 9", "events", "9"),
        ("DELETE FROM events WHERE seq = 10", "events", "11"),
        ("UPDATE usage SET counted = 1 WHERE id = 9", "usage", "9"),
        ("UPDATE usage SET raw_usage = NULL WHERE id = 9", "usage", "9"),
        ("UPDATE usage SET model = 'cheap' WHERE id = 9", "usage", "9"),
        ("UPDATE usage SET seq = 3 WHERE id = 9", "usage", "9"),
        ("DELETE FROM usage WHERE id = 9", "usage", "9"),
        ("UPDATE enforcement SET data = '{}'", "enforcement", "25"),
        ("UPDATE enforcement SET action = 'thaw'", "enforcement", "25"),
        ("UPDATE enforcement SET bottle = NULL", "enforcement", "25"),
        ("UPDATE enforcement SET seq = 3", "enforcement", "3"),
        ("DELETE FROM enforcement", "enforcement", "25"),
        ("UPDATE accounts SET used = used - 1 WHERE node = 'global'", "accounts", "global claude"),
        ("DELETE FROM accounts WHERE node = 'global'", "accounts", "-"),
    ];
    for (sql, table, row) in changes {
        let dir = Dir::new();
        let ledger = open(&dir.file("a.db"));
        used(&ledger, 0, 12).await;
        let data = json!({"action": "kill", "by": "operator"});
        let (kind, bottle) = ("enforced".to_owned(), Some("b".to_owned()));
        ledger.append(NewEvent { kind, bottle, data, audit: true, ..NewEvent::default() }).await.unwrap();
        assert_eq!(fault(&ledger).await, None);
        assert_eq!(Connection::open(dir.file("a.db")).unwrap().execute(sql, []).unwrap(), 1, "{sql}");
        assert_eq!(fault(&ledger).await, Some((table.to_owned(), row.to_owned())), "{sql}");
    }
}

#[tokio::test]
async fn sums_are_brought_in_behind_and_say_what_the_rows_say() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let ledger = open(&path);
    used(&ledger, 0, 1100).await;
    let conn = Connection::open(&path).unwrap();
    let mark = || conn.query_row(&format!("SELECT {MARK}"), [], |row| row.get::<_, i64>(0)).unwrap();
    // The thread has its turn when nobody else has one.
    while mark() == 0 {
        tokio::task::yield_now().await;
    }
    let before = reports_are_those_of_the_rows(&ledger, &path).await;
    assert_eq!(before.total.requests, 1100);
    assert_eq!(fault(&ledger).await, None);
    // Late usage of a row that is in a sum, and of one that is in none yet.
    for (hold, model) in [("h5", "claude-served"), ("h6", "another"), ("h1099", "another")] {
        let more = Settle { model: Some(model.to_owned()), ..settle(hold, exact(5000, 1)) };
        ledger.settle(more).await.unwrap();
    }
    let after = reports_are_those_of_the_rows(&ledger, &path).await;
    assert!(after.total.counted > before.total.counted + 10_000);
    assert_eq!(after.rows.iter().map(|row| row.model.as_str()).collect::<Vec<_>>(), ["claude-served", "another"]);
    assert_eq!(fault(&ledger).await, None);
    conn.execute("UPDATE sums SET counted = counted - 1 WHERE exact = 1", []).unwrap();
    assert_eq!(fault(&ledger).await.unwrap().0, "sums");
}

#[tokio::test]
async fn totals_and_what_was_charged_by_name_are_checked_as_well() {
    for (sql, table) in [
        ("UPDATE totals SET input = input + 1 WHERE exact = 0", "totals"),
        ("UPDATE totals SET model = 'cheap' WHERE model = 'another'", "totals"),
        ("UPDATE totals SET recipe = 'mine'", "totals"),
        ("DELETE FROM totals", "totals"),
        ("UPDATE sums SET agent = 'another' WHERE exact = 0", "totals"),
        ("UPDATE lifetimes SET output = output - 1 WHERE exact = 0", "lifetimes"),
        ("DELETE FROM lifetimes", "lifetimes"),
        ("UPDATE charged SET counted = counted - 1", "charged"),
        ("UPDATE charged SET node = 'agent:b'", "charged"),
        ("DELETE FROM charged", "charged"),
    ] {
        let dir = Dir::new();
        let ledger = open(&dir.file("a.db"));
        used(&ledger, 0, 20).await;
        let conn = Connection::open(dir.file("a.db")).unwrap();
        super::super::sums::fold(&conn).unwrap();
        // Late usage of a row that is in the sums, and uses that are not.
        ledger.settle(Settle { model: Some("another".to_owned()), ..settle("h5", exact(5000, 1)) }).await.unwrap();
        used(&ledger, 20, 25).await;
        assert_eq!(fault(&ledger).await, None);
        assert!(conn.execute(sql, []).unwrap() > 0, "{sql}");
        assert_eq!(fault(&ledger).await.map(|(table, _)| table), Some(table.to_owned()), "{sql}");
    }
}

#[tokio::test]
async fn of_what_was_given_back_the_old_goes_and_the_young_stays() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    for id in ["b0", "b1", "b2", "b3"] {
        granted(&ledger, request(id, 10, 10)).await;
        ledger.settle(settle(id, Settlement::Released)).await.unwrap();
    }
    let conn = Connection::open(dir.file("a.db")).unwrap();
    // Where the clock was set back nothing younger goes with the old.
    conn.execute("UPDATE usage SET ts = 1000 WHERE hold <> 'b2'", []).unwrap();
    let pruned = ledger.prune_to(2000).await.unwrap();
    assert_eq!((pruned.usage, pruned.events), (2, 0));
    let left: Vec<String> = conn
        .prepare("SELECT hold FROM usage ORDER BY hold")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(left, ["b2", "b3"]);
    assert_eq!(fault(&ledger).await, None);
}

#[tokio::test]
async fn a_report_is_cut_to_the_millisecond_though_sums_are_of_quarter_hours() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let ledger = open(&path);
    used(&ledger, 0, 400).await;
    let conn = Connection::open(&path).unwrap();
    // Ten seconds between two uses; it began in the midst of a quarter hour.
    let begin = 1_772_323_200_000_i64 + 123_456;
    conn.execute("UPDATE usage SET ts = ?1 + 5000 * id", [begin]).unwrap();
    let plain = |since: Option<i64>, until: Option<i64>| -> u64 {
        let sql = "SELECT count(*) FROM usage WHERE ts >= ?1 AND ts < ?2";
        let values = (since.unwrap_or(i64::MIN), until.unwrap_or(i64::MAX));
        conn.query_row(sql, values, |row| row.get::<_, i64>(0)).map(amount).unwrap()
    };
    for folded in [false, true] {
        if folded {
            super::super::sums::fold(&conn).unwrap();
        }
        for (since, until) in
            [(0, 4_000_000), (100_000, 110_000), (776_544, 1_676_544), (5001, 5002), (-900_000, 777_000)]
        {
            for (since, until) in [(Some(since), Some(until)), (None, Some(until)), (Some(since), None)] {
                let (since, until) = (since.map(|ms| begin + ms), until.map(|ms| begin + ms));
                let report = ledger.usage(UsageQuery { since, until, ..UsageQuery::default() }).await.unwrap();
                assert_eq!(report.total.requests, plain(since, until), "{folded} {since:?} {until:?}");
            }
        }
    }
    let by = |period, by: &[By]| UsageQuery {
        period: Some(period),
        by: Some(by.to_vec()),
        zone: Some("UTC".into()),
        ..UsageQuery::default()
    };
    let days = ledger.usage(by(Slice::Day, &[])).await.unwrap();
    assert_eq!(days.rows.len(), 1);
    let blocks = ledger.usage(by(Slice::Block, &[By::Recipe])).await.unwrap();
    assert_eq!(blocks.rows.iter().map(|row| row.recipe.as_deref()).collect::<Vec<_>>(), [Some("")]);
    ledger.put_run("r", "nightly").await.unwrap();
    let sessions = ledger.usage(by(Slice::Session, &[By::Recipe])).await.unwrap();
    let row = &sessions.rows[0];
    assert_eq!((row.bottle.as_str(), row.recipe.as_deref(), row.model.as_str()), ("b", Some("nightly"), ""));
    assert_eq!(row.span.unwrap().last - row.span.unwrap().first, 5000 * 2 * 399);
}

#[tokio::test]
async fn what_is_pruned_leaves_sums_accounts_and_the_chain() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let ledger = open(&path);
    used(&ledger, 0, 1500).await;
    ledger.append(NewEvent { kind: "enforced".to_owned(), audit: true, ..NewEvent::default() }).await.unwrap();
    let before = ledger.usage(UsageQuery::default()).await.unwrap();
    let by_model = || UsageQuery { by: Some(vec![By::Model]), ..UsageQuery::default() };
    let models = ledger.usage(by_model()).await.unwrap();
    let head = ledger.verify(None).await.unwrap().head;
    // What is young stays: its response ids may come again.
    let none = ledger.prune(i64::MAX).await.unwrap();
    assert_eq!((none.events, none.usage, none.anchor), (0, 0, 0));
    let all = ledger.prune_to(writer::now_ms() + 1000).await.unwrap();
    assert_eq!((all.events, all.usage, all.anchor), (3004, 1500, 3004));
    let verified = ledger.verify(None).await.unwrap();
    assert_eq!((verified.fault, verified.events, verified.anchor), (None, 1, 3004), "the last event of the pruning");
    assert_eq!(ledger.usage(UsageQuery::default()).await.unwrap(), before);
    assert_eq!(ledger.usage(by_model()).await.unwrap(), models);
    // What a month has used is known without its rows.
    ledger
        .set_limits(GLOBAL, vec![Limit { per: Some(Period::Month), ..Limit::of("claude", Some(1 << 40)) }])
        .await
        .unwrap();
    let month = ledger.accounts(Some(GLOBAL)).await.unwrap();
    assert_eq!(month.iter().map(|account| account.used).collect::<Vec<_>>(), [before.total.counted]);
    // An earlier head is the anchor now, or before it.
    let (seq, hash) = head.split_once(':').unwrap();
    let head = (seq.parse().unwrap(), hash.to_owned());
    assert_eq!(head.0, 3001);
    assert!(ledger.verify(Some(head)).await.unwrap().fault.is_some());
    used(&ledger, 2000, 2010).await;
    assert_eq!(fault(&ledger).await, None);
    assert_eq!(ledger.usage(UsageQuery::default()).await.unwrap().total.requests, 1510);
    ledger.close().await.unwrap();
    let again = open(&path);
    assert_eq!(again.append(NewEvent { kind: "x".into(), ..NewEvent::default() }).await.unwrap().seq, 3026);
    assert_eq!(fault(&again).await, None);
    let other = Connection::open(&path).unwrap();
    other.execute("DELETE FROM enforcement WHERE seq = 3005", []).unwrap();
    assert_eq!(other.execute("DELETE FROM events WHERE seq = 3005", []).unwrap(), 1);
    assert_eq!(fault(&again).await, Some(("events".to_owned(), "3006".to_owned())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_made_while_it_is_written_and_is_whole() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    used(&ledger, 0, 200).await;
    let writes = tokio::spawn({
        let ledger = ledger.clone();
        async move { used(&ledger, 200, 500).await }
    });
    let copy = dir.file("copy.db");
    let bytes = ledger.backup(&copy).await.unwrap();
    writes.await.unwrap();
    assert_eq!(std::fs::metadata(&copy).unwrap().len(), bytes);
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&copy).unwrap().permissions()) & 0o777,
        0o600
    );
    assert!(ledger.backup(&copy).await.is_err(), "it replaces nothing");
    assert_eq!(std::fs::metadata(&copy).unwrap().len(), bytes);
    let theirs = open(&copy).verify(None).await.unwrap();
    assert_eq!(theirs.fault, None);
    assert!((400..=1000).contains(&theirs.events), "{theirs:?}");
    assert_eq!(ledger.verify(None).await.unwrap().events, 1000);
    assert!(ledger.backup(std::path::Path::new("/does/not/exist.db")).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_every_row_and_what_its_hash_covers() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    used(&ledger, 0, 30).await;
    let (to, mut from) = tokio::sync::mpsc::channel(4);
    let export = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.export(to).await }
    });
    let mut tail = Tail::default();
    let mut counted = 0;
    while let Some(line) = from.recv().await {
        let row: serde_json::Value = serde_json::from_str(&line).unwrap();
        match row["table"].as_str().unwrap() {
            "events" => {
                let digest = row["digest"].as_str().map(|hex| {
                    (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect::<Vec<u8>>()
                });
                let link = Link {
                    seq: row["seq"].as_i64().unwrap(),
                    ts: row["ts"].as_i64().unwrap(),
                    kind: row["kind"].as_str().unwrap(),
                    bottle: row["bottle"].as_str(),
                    run: row["run"].as_str(),
                    data: row["data"].as_str().unwrap(),
                    digest: digest.as_deref(),
                };
                tail = Tail { seq: link.seq, hash: link.hash(&tail.hash) };
                assert_eq!(row["hash"], chain::hex(&tail.hash));
            }
            "usage" => counted += row["counted"].as_u64().unwrap(),
            _ => {}
        }
    }
    export.await.unwrap().unwrap();
    assert_eq!(tail.seq, 60);
    assert_eq!(counted, ledger.usage(UsageQuery::default()).await.unwrap().total.counted);
}

#[tokio::test]
async fn an_older_book_begins_its_chain_where_it_is() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let ledger = open(&path);
    used(&ledger, 0, 5).await;
    ledger.close().await.unwrap();
    let conn = Connection::open(&path).unwrap();
    // As it was before there were hashes.
    conn.execute_batch("UPDATE events SET hash = NULL, digest = NULL; UPDATE anchors SET seq = 10").unwrap();
    let ledger = open(&path);
    used(&ledger, 5, 8).await;
    ledger.settle(settle("h1", exact(9000, 0))).await.unwrap();
    let verified = ledger.verify(None).await.unwrap();
    assert_eq!((verified.fault, verified.events, verified.chained, verified.anchor), (None, 17, 7, 10));
    conn.execute("UPDATE usage SET counted = 1 WHERE hold = 'h1'", []).unwrap();
    assert_eq!(fault(&ledger).await.unwrap().0, "usage", "late usage bound it");
}

//! What is special about this backend: files, migrations, crashes, full disks, locks.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use super::files::beside;
use super::*;
use crate::ledger::Settlement;
use crate::ledger::conformance::{self, exact, granted, request, settle};

/// A directory that is removed with everything in it.
pub(super) struct Dir(PathBuf);

impl Dir {
    pub(super) fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bb-ledger-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn open(path: &Path) -> SqliteLedger {
    SqliteLedger::open(path, Options::default()).unwrap()
}

fn audit(kind: &str) -> NewEvent {
    let data = serde_json::json!({ "action": "cut" });
    NewEvent { kind: kind.to_owned(), bottle: Some("b".to_owned()), data, audit: true, ..NewEvent::default() }
}

/// Columns of a table as `name type notnull pk`.
fn columns(conn: &Connection, table: &str) -> Vec<String> {
    conn.prepare(&format!(
        "SELECT name || ' ' || type || ' ' || \"notnull\" || ' ' || pk FROM pragma_table_info('{table}')"
    ))
    .unwrap()
    .query_map([], |row| row.get(0))
    .unwrap()
    .map(Result::unwrap)
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms() {
    let dir = Dir::new();
    conformance::run(|name| open(&dir.file(&format!("{name}.db")))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms_with_every_commit_on_the_disk() {
    let dir = Dir::new();
    let options = Options { durability: Durability::Power, ..Options::default() };
    conformance::run(|name| SqliteLedger::open(&dir.file(&format!("{name}.db")), options.clone()).unwrap()).await;
}

#[tokio::test]
async fn what_was_acknowledged_is_in_the_files_at_that_moment() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    granted(&ledger, request("h1", 100, 50)).await;
    granted(&ledger, request("h2", 1, 1)).await;
    ledger.settle(settle("h2", exact(5, 5))).await.unwrap();
    // As kill -9 leaves them: the files as they are, without any farewell of the writer.
    for suffix in ["", "-wal"] {
        std::fs::copy(beside(&dir.file("a.db"), suffix), beside(&dir.file("b.db"), suffix)).unwrap();
    }
    let after = open(&dir.file("b.db"));
    assert_eq!(after.open_holds(None).await.unwrap(), 1);
    assert_eq!(after.sweep().await.unwrap(), 1);
    assert_eq!(after.accounts(Some("global")).await.unwrap()[0].used, 160);
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let ledger = open(&path);
    granted(&ledger, request("h1", 1, 1)).await;
    for suffix in ["", "-wal", "-shm"] {
        let mode = std::fs::metadata(beside(&path, suffix)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{suffix}");
    }
}

#[tokio::test]
async fn a_database_of_bot_bottle_is_taken_over_without_loss() {
    let dir = Dir::new();
    let table = "CREATE TABLE supervise_audit_entries (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp TEXT NOT NULL,
        bottle_slug TEXT NOT NULL, component TEXT NOT NULL, operator_action TEXT NOT NULL, operator_notes TEXT NOT NULL,
        justification TEXT NOT NULL, diff TEXT NOT NULL);
        INSERT INTO supervise_audit_entries VALUES (7, '2026-01-01', 'b', 'egress', 'approve', 'n', 'j', 'd');";
    let versions = ["", "CREATE TABLE schema_version (version INTEGER); INSERT INTO schema_version VALUES (41);"];
    for (i, version) in versions.into_iter().enumerate() {
        let path = dir.file(&format!("{i}.db"));
        let old = Connection::open(&path).unwrap();
        old.execute_batch(table).unwrap();
        old.execute_batch(version).unwrap();
        let before = columns(&old, "supervise_audit_entries");
        drop(old);
        for round in 0..2 {
            let ledger = open(&path);
            granted(&ledger, request(&format!("h{round}"), 1, 1)).await;
            ledger.close().await.unwrap();
        }
        let now = Connection::open(&path).unwrap();
        assert_eq!(columns(&now, "supervise_audit_entries"), before);
        let row: (i64, String) = now
            .query_row("SELECT id, diff FROM supervise_audit_entries", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!(row, (7, "d".to_owned()));
        if i == 1 {
            let theirs: i64 = now.query_row("SELECT version FROM schema_version", [], |row| row.get(0)).unwrap();
            assert_eq!(theirs, 41, "their version table is left alone");
        }
    }
}

#[test]
fn a_new_database_has_the_audit_table_as_bot_bottle_has_it() {
    let dir = Dir::new();
    let _ledger = open(&dir.file("a.db"));
    let conn = Connection::open(dir.file("a.db")).unwrap();
    let text = |name: &str| format!("{name} TEXT 1 0");
    let mut want = vec!["id INTEGER 0 1".to_owned()];
    want.extend(
        ["timestamp", "bottle_slug", "component", "operator_action", "operator_notes", "justification", "diff"]
            .map(text),
    );
    assert_eq!(columns(&conn, "supervise_audit_entries"), want);
    let sql: String = conn
        .query_row("SELECT sql FROM sqlite_schema WHERE name = 'supervise_audit_entries'", [], |row| row.get(0))
        .unwrap();
    assert!(sql.contains("AUTOINCREMENT"));
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_not_touched() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    open(&path).close().await.unwrap();
    let conn = Connection::open(&path).unwrap();
    conn.execute("UPDATE schema_version SET version = 99", []).unwrap();
    conn.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    drop(conn);
    let before = std::fs::read(&path).unwrap();
    let refused = SqliteLedger::open(&path, Options::default()).map(|_| ());
    assert_eq!(refused, Err(LedgerError::Newer { found: 99, known: schema::known() }));
    assert!(std::fs::read(&path).unwrap() == before, "the file has changed");
}

#[test]
fn what_is_no_database_is_refused_as_corrupt_and_not_touched() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let text = "these are my notes, not a database\n".repeat(200);
    std::fs::write(&path, &text).unwrap();
    let refused = SqliteLedger::open(&path, Options::default()).map(|_| ());
    assert!(matches!(refused, Err(LedgerError::Corrupt(_))), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    let missing = SqliteLedger::open(&dir.file("no/such/dir.db"), Options::default()).map(|_| ());
    assert!(matches!(missing, Err(LedgerError::Unavailable(_))), "{missing:?}");
}

#[test]
fn many_may_open_a_new_database_at_once() {
    let dir = Dir::new();
    for round in 0..5 {
        let path = dir.file(&format!("{round}.db"));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| open(&path));
            }
        });
        let conn = Connection::open(&path).unwrap();
        let version: i64 = conn.query_row("SELECT version FROM schema_version", [], |row| row.get(0)).unwrap();
        let epoch: i64 = conn.query_row("SELECT value FROM meta WHERE key = 'epoch'", [], |row| row.get(0)).unwrap();
        assert_eq!(
            (version, epoch),
            (i64::from(schema::known()), 8),
            "migrated once, every writer with an epoch of its own"
        );
    }
}

/// Where a child of [`processes_may_open_a_new_database_at_once`] finds its work: the database, and the file that says go.
const CHILD: &str = "BB_TEST_OPENS_LEDGER";

#[test]
fn a_child_that_opens_a_database() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    std::fs::write(path.with_extension(std::process::id().to_string()), "").unwrap();
    while !path.with_extension("go").exists() {
        assert!(path.parent().unwrap().exists(), "nobody waits for it any more");
        std::thread::sleep(Duration::from_micros(200));
    }
    open(&path);
}

#[test]
fn processes_may_open_a_new_database_at_once() {
    const AT_ONCE: usize = 4;
    let dir = Dir::new();
    let path = dir.file("a.db");
    let child = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "ledger::sqlite::tests::a_child_that_opens_a_database"]).env(CHILD, &path);
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut children: Vec<_> = (0..AT_ONCE).map(|_| child()).collect();
    let waits = |id: u32| path.with_extension(id.to_string()).exists();
    while !children.iter().all(|child| waits(child.id())) {
        assert!(children.iter_mut().all(|child| child.try_wait().unwrap().is_none()), "one has ended before");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::fs::write(path.with_extension("go"), "").unwrap();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let conn = Connection::open(&path).unwrap();
    let version: i64 = conn.query_row("SELECT version FROM schema_version", [], |row| row.get(0)).unwrap();
    let epoch: i64 = conn.query_row("SELECT value FROM meta WHERE key = 'epoch'", [], |row| row.get(0)).unwrap();
    assert_eq!(
        (version, epoch),
        (i64::from(schema::known()), AT_ONCE as i64),
        "migrated once, every writer with an epoch of its own"
    );
}

#[tokio::test]
async fn without_a_commit_in_time_it_is_unavailable_and_nothing_stays_held() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let options = Options { patience: Duration::from_millis(150), ..Options::default() };
    let ledger = SqliteLedger::open(&path, options).unwrap();
    let locked = Connection::open(&path).unwrap();
    locked.execute_batch("BEGIN IMMEDIATE").unwrap();
    let answer = ledger.hold(request("h1", 10, 10)).await;
    assert!(matches!(answer, Err(LedgerError::Unavailable(_))), "{answer:?}");
    locked.execute_batch("COMMIT").unwrap();
    let patient = SqliteLedger { patience: Duration::from_secs(10), ..ledger.clone() };
    assert_eq!(granted(&patient, request("h2", 1, 1)).await, 2);
    // The first one was given up; whether it was skipped or given back, nothing of it is left.
    patient.settle(settle("h2", exact(1, 1))).await.unwrap();
    assert_eq!(patient.open_holds(None).await.unwrap(), 0);
}

/// The thread that does a command.
async fn thread_of(ledger: &SqliteLedger, pace: Pace) -> String {
    let name = |_: &mut Tx<'_>| Ok(std::thread::current().name().unwrap_or_default().to_owned());
    ledger.write_at(pace, Care::Done, name).await.unwrap()
}

#[tokio::test]
async fn a_command_that_has_to_wait_for_nobody_is_done_where_it_is_called_and_others_in_the_writers_thread() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let ledger = open(&path);
    let here = std::thread::current().name().unwrap_or_default().to_owned();
    assert_eq!(thread_of(&ledger, Pace::Quick).await, here);
    // What waits for the disk holds up no other task of the caller's thread.
    assert_eq!(thread_of(&ledger, Pace::Fsync).await, "ledger-writer");
    // The thread gives its answer just before it is free again.
    while thread_of(&ledger, Pace::Quick).await != here {}
    // Nor does what waits for another process, and who comes meanwhile.
    let locked = Connection::open(&path).unwrap();
    locked.execute_batch("BEGIN IMMEDIATE").unwrap();
    let unlock = async {
        tokio::task::yield_now().await;
        locked.execute_batch("COMMIT").unwrap();
    };
    let (a, b, ()) = tokio::join!(thread_of(&ledger, Pace::Quick), thread_of(&ledger, Pace::Quick), unlock);
    assert_eq!([a, b], ["ledger-writer", "ledger-writer"]);
    while thread_of(&ledger, Pace::Quick).await != here {}

    let power = Options { durability: Durability::Power, ..Options::default() };
    let ledger = SqliteLedger::open(&dir.file("b.db"), power).unwrap();
    assert_eq!(thread_of(&ledger, Pace::Quick).await, "ledger-writer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_leaves_no_hold_behind() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    let mut answered = 0;
    for i in 0..300u64 {
        let theirs = ledger.clone();
        let task = tokio::spawn(async move { theirs.hold(request(&format!("h{i}"), 10, 10)).await });
        // Gives up at every possible moment: before it is queued, while it is written, just before it is answered.
        for _ in 0..(i % 30) {
            tokio::task::yield_now().await;
        }
        task.abort();
        if matches!(task.await, Ok(Ok(HoldOutcome::Granted { .. }))) {
            ledger.settle(settle(&format!("h{i}"), Settlement::Released)).await.unwrap();
            answered += 1;
        }
    }
    // The list of what was given up is looked at with every batch.
    ledger.append(audit("enforced")).await.unwrap();
    ledger.append(audit("enforced")).await.unwrap();
    assert_eq!(ledger.open_holds(None).await.unwrap(), 0, "{answered} of 300 were answered");
    assert_eq!(ledger.accounts(Some("global")).await.unwrap().first().map_or(0, |a| a.held), 0);
}

#[tokio::test]
async fn what_enforcement_does_stands_in_a_table_of_its_own() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    let seq = ledger.append(audit("enforced")).await.unwrap().seq;
    let conn = Connection::open(dir.file("a.db")).unwrap();
    let row: (i64, String, String) = conn
        .query_row("SELECT seq, bottle, action FROM enforcement", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    assert_eq!(row, (i64::try_from(seq).unwrap(), "b".to_owned(), "cut".to_owned()));
}

#[tokio::test]
async fn the_log_is_moved_into_the_database_and_does_not_grow_for_ever() {
    let dir = Dir::new();
    let path = dir.file("a.db");
    let ledger = open(&path);
    for i in 0..4000 {
        granted(&ledger, request(&format!("h{i:06}"), 10, 10)).await;
        ledger.settle(settle(&format!("h{i:06}"), exact(10, 10))).await.unwrap();
    }
    let log = std::fs::metadata(beside(&path, "-wal")).unwrap().len();
    assert!(log < 80 * 1024 * 1024, "{log} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_fails_after_it_wrote_leaves_nothing_and_disturbs_nobody() {
    let dir = Dir::new();
    let ledger = open(&dir.file("a.db"));
    let locked = Connection::open(dir.file("a.db")).unwrap();
    locked.execute_batch("BEGIN IMMEDIATE").unwrap();
    // While the database is locked they queue up, so that they meet in one transaction.
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..60 {
        let ledger = ledger.clone();
        tasks.spawn(async move {
            if i % 5 > 0 {
                return ledger.append(audit("enforced")).await.is_ok();
            }
            let fails = ledger.write(Care::Done, |tx| {
                record::append(tx, &audit("half"))?;
                Err::<(), _>(LedgerError::Misuse("changed my mind".to_owned()))
            });
            fails.await == Err(LedgerError::Misuse("changed my mind".to_owned()))
        });
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    locked.execute_batch("COMMIT").unwrap();
    while let Some(done) = tasks.join_next().await {
        assert!(done.unwrap());
    }
    let events = ledger.events(EventQuery::default()).await.unwrap();
    assert!(events.iter().all(|e| e.kind == "enforced"));
    assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), (1..=48).collect::<Vec<_>>());
}

/// Has this test run again in a mount namespace with a tiny file system at `$BB_TEST_TINY`.
fn again_on_a_tiny_disk(test: &str) {
    let dir = Dir::new();
    let exe = std::env::current_exe().unwrap();
    let script = "mount -t tmpfs -o size=1m none \"$BB_TEST_TINY\" && exec \"$0\" --exact \"$1\" --nocapture";
    let run = Command::new("unshare")
        .args(["-rm", "sh", "-c", script])
        .arg(exe)
        .arg(test)
        .env("BB_TEST_TINY", &dir.0)
        .output();
    let made = Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|s| s.success());
    if !made {
        assert!(std::env::var("BB_TEST_REQUIRE").as_deref() != Ok("all"), "no mount namespaces here");
        eprintln!("skipped: {test}: no mount namespaces here");
        return;
    }
    let run = run.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    let Some(tiny) = std::env::var_os("BB_TEST_TINY") else {
        return again_on_a_tiny_disk("ledger::sqlite::tests::a_full_disk_is_said_and_loses_nothing");
    };
    let tiny = PathBuf::from(tiny);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ledger = open(&tiny.join("a.db"));
        granted(&ledger, request("h1", 100, 50)).await;
        let filler = tiny.join("filler");
        let mut fill = std::fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut fill, &[0; 512]).is_ok() {}
        let mut full = 0;
        for i in 0..400 {
            match ledger.hold(request(&format!("x{i}"), 1, 1)).await {
                Ok(_) => ledger.settle(settle(&format!("x{i}"), Settlement::Released)).await.map(|_| ()).unwrap_or(()),
                Err(LedgerError::Full(_)) => full += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(full > 0, "never full");
        let answer = ledger.settle(settle("h1", exact(70, 7))).await;
        assert!(matches!(answer, Err(LedgerError::Full(_))), "{answer:?}");
        assert!(ledger.open_holds(None).await.unwrap() >= 1, "reading works all the same");

        drop(fill);
        std::fs::remove_file(filler).unwrap();
        let mut changes = ledger.changes();
        while ledger.open_holds(None).await.unwrap() > 0 {
            tokio::time::timeout(Duration::from_secs(30), changes.changed()).await.unwrap().unwrap();
        }
        let used = ledger.accounts(Some("global")).await.unwrap()[0].used;
        assert_eq!(used, 77, "the settle that found no space was entered by itself");
        granted(&ledger, request("h2", 1, 1)).await;
    });
}

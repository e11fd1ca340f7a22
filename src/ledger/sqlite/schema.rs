//! Tables and migrations.
//!
//! A database may have been made by bot-bottle and hold only `supervise_audit_entries`; that table keeps exactly its
//! columns, ours stand beside it. Which schema ours have is said in `schema_version`, one row a component; where a table
//! of that name exists in another shape it is left alone and `bb_schema_version` is used.
//!
//! Amounts are integers (tokens), times milliseconds since the epoch. Migrations run in one immediate transaction, so
//! that two processes at once do each of them once.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use crate::ledger::LedgerError;

/// Our row in the version table.
const COMPONENT: &str = "ledger";

/// One entry a version; never edited once released, only added to.
const MIGRATIONS: &[&str] = &[V1, V2, V_WINDOWS, V_ESTIMATES, V_INTEGRITY];

/// The table that bot-bottle's users already have, as they have it. What is not ours is only made where it is missing.
const AUDIT: &str = "CREATE TABLE IF NOT EXISTS supervise_audit_entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    timestamp TEXT NOT NULL,
    bottle_slug TEXT NOT NULL,
    component TEXT NOT NULL,
    operator_action TEXT NOT NULL,
    operator_notes TEXT NOT NULL,
    justification TEXT NOT NULL,
    diff TEXT NOT NULL
);";

const V1: &str = "
-- Small facts: the epoch of the last writer.
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One account for each node and provider; one for all providers ('*') only where a limit was set for them. An amount of
-- NULL is unlimited where `said`, else nothing was said.
CREATE TABLE accounts (
    node TEXT NOT NULL,
    provider TEXT NOT NULL,
    said INTEGER NOT NULL DEFAULT 0 CHECK (said IN (0, 1)),
    amount INTEGER CHECK (amount >= 0),
    hard INTEGER NOT NULL DEFAULT 0 CHECK (hard IN (0, 1)),
    used INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0),
    held INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),
    PRIMARY KEY (node, provider)
) STRICT, WITHOUT ROWID;

-- Open holds only; a hold that has ended is a row of `usage`.
CREATE TABLE holds (
    id TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    opened INTEGER NOT NULL,
    path TEXT NOT NULL,
    provider TEXT NOT NULL,
    bottle TEXT NOT NULL,
    agent TEXT NOT NULL,
    run TEXT,
    api TEXT NOT NULL,
    host TEXT NOT NULL,
    model TEXT NOT NULL,
    input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    held INTEGER NOT NULL CHECK (held >= 0),
    seen TEXT
) STRICT, WITHOUT ROWID;

-- One row for every hold that has ended, however it did: released | exact | partial | at_estimate | swept. `id` is the
-- `seq` of its first event, by which the indexes of `events` serve it too; below zero where it has none (released).
-- `seq` is that of its last event, or 0.
CREATE TABLE usage (
    id INTEGER PRIMARY KEY,
    hold TEXT NOT NULL UNIQUE,
    seq INTEGER NOT NULL,
    opened INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    path TEXT NOT NULL,
    provider TEXT NOT NULL,
    bottle TEXT NOT NULL,
    agent TEXT NOT NULL,
    run TEXT,
    api TEXT NOT NULL,
    host TEXT NOT NULL,
    model_asked TEXT NOT NULL,
    model TEXT,
    response_id TEXT,
    duplicate INTEGER NOT NULL CHECK (duplicate IN (0, 1)),
    input_estimate INTEGER NOT NULL,
    output_estimate INTEGER NOT NULL,
    held INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    cache_write_long INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    weights TEXT NOT NULL,
    counted INTEGER NOT NULL CHECK (counted >= 0),
    how TEXT NOT NULL,
    source TEXT NOT NULL,
    raw_usage TEXT
) STRICT;
CREATE INDEX usage_response ON usage (response_id) WHERE response_id IS NOT NULL;

-- The sequence has no holes: rows are never deleted, and a number is given in the transaction that uses it.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    ts INTEGER NOT NULL,
    kind TEXT NOT NULL,
    bottle TEXT,
    run TEXT,
    data TEXT NOT NULL
) STRICT;
CREATE INDEX events_bottle ON events (bottle) WHERE bottle IS NOT NULL;
CREATE INDEX events_run ON events (run) WHERE run IS NOT NULL;

-- What enforcement did; the event tells the rest.
CREATE TABLE enforcement (
    seq INTEGER PRIMARY KEY REFERENCES events (seq),
    ts INTEGER NOT NULL,
    kind TEXT NOT NULL,
    bottle TEXT,
    run TEXT,
    action TEXT,
    data TEXT NOT NULL
) STRICT;

CREATE TABLE bottles (
    id TEXT PRIMARY KEY,
    slug TEXT NOT NULL,
    body TEXT NOT NULL,
    ended INTEGER NOT NULL CHECK (ended IN (0, 1)),
    cut TEXT
) STRICT;
CREATE UNIQUE INDEX bottles_slug ON bottles (slug) WHERE ended = 0;
";

/// Terms of a limit, as JSON where any was said; the highest threshold of it that was told.
const V2: &str = "
ALTER TABLE accounts ADD COLUMN terms TEXT;
ALTER TABLE accounts ADD COLUMN warned INTEGER NOT NULL DEFAULT 0;
";

/// Limits that count by name and begin anew: for how long (`Period`), and when the window ends. `earlier` is what was used in
/// windows before it. `file` is what a file or a recipe has said of the account last, as JSON; `by_operator` and `raised` what
/// the operator has said over it.
const V_WINDOWS: &str = "
ALTER TABLE accounts ADD COLUMN per TEXT;
ALTER TABLE accounts ADD COLUMN resets INTEGER;
ALTER TABLE accounts ADD COLUMN earlier INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN raised INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN by_operator INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN file TEXT;
ALTER TABLE accounts ADD COLUMN was_reset INTEGER NOT NULL DEFAULT 0;
";

/// What was learned of models, by which requests are estimated: JSON ([`crate::budget::Learned`]).
const V_ESTIMATES: &str = "
-- What a hold was granted when it was opened, before any raise; and why a row is not exact, where that is no end of a stream:
-- bounded | unreadable | unseen.
ALTER TABLE holds ADD COLUMN granted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN granted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN why TEXT;
CREATE TABLE learned (
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    agent TEXT NOT NULL,
    ts INTEGER NOT NULL,
    figures TEXT NOT NULL,
    PRIMARY KEY (provider, model, agent)
) STRICT, WITHOUT ROWID;
";

/// The chain of the events, each bound to the usage row that it tells of (`digest`); sums of the usage by quarter hours (UTC),
/// which the writer keeps up in the background (`folded_to` in `meta`: the last `usage.id` that is in them all); what was pruned;
/// the names of runs; what providers said of their own limits.
const V_INTEGRITY: &str = "
ALTER TABLE events ADD COLUMN hash BLOB;
ALTER TABLE events ADD COLUMN digest BLOB;

-- Where the chain begins: `hash` stands for that of the event `seq`. `why`: begun (older events have no hash) | pruned
-- (older events are gone).
CREATE TABLE anchors (
    seq INTEGER PRIMARY KEY,
    ts INTEGER NOT NULL,
    hash BLOB NOT NULL,
    why TEXT NOT NULL
) STRICT;
INSERT INTO anchors (seq, ts, hash, why)
    SELECT coalesce(max(seq), 0), unixepoch() * 1000, zeroblob(32), 'begun' FROM events;

CREATE TABLE sums (
    quarter INTEGER NOT NULL,
    bottle TEXT NOT NULL,
    agent TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    run TEXT NOT NULL,
    exact INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    first_ts INTEGER NOT NULL,
    last_ts INTEGER NOT NULL,
    PRIMARY KEY (quarter, bottle, agent, provider, model, run, exact)
) STRICT, WITHOUT ROWID;
CREATE INDEX sums_bottle ON sums (bottle, quarter);
CREATE INDEX sums_run ON sums (run, quarter);

-- The same over all bottles and runs, in the order in which reports are mostly made of it.
CREATE TABLE totals (
    quarter INTEGER NOT NULL,
    model TEXT NOT NULL,
    provider TEXT NOT NULL,
    agent TEXT NOT NULL,
    recipe TEXT NOT NULL,
    exact INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    first_ts INTEGER NOT NULL,
    last_ts INTEGER NOT NULL,
    PRIMARY KEY (quarter, model, provider, agent, recipe, exact)
) STRICT, WITHOUT ROWID;

-- The same by bottle and run, over all time.
CREATE TABLE lifetimes (
    bottle TEXT NOT NULL,
    agent TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    run TEXT NOT NULL,
    exact INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    input INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    output INTEGER NOT NULL,
    reasoning INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    first_ts INTEGER NOT NULL,
    last_ts INTEGER NOT NULL,
    PRIMARY KEY (bottle, agent, provider, model, run, exact)
) STRICT, WITHOUT ROWID;
CREATE INDEX lifetimes_run ON lifetimes (run);

-- What was charged to nodes that count by name.
CREATE TABLE charged (
    node TEXT NOT NULL,
    quarter INTEGER NOT NULL,
    provider TEXT NOT NULL,
    counted INTEGER NOT NULL,
    PRIMARY KEY (node, quarter, provider)
) STRICT, WITHOUT ROWID;

-- What the rows that were pruned had charged to each account.
CREATE TABLE pruned (
    node TEXT NOT NULL,
    provider TEXT NOT NULL,
    counted INTEGER NOT NULL,
    PRIMARY KEY (node, provider)
) STRICT, WITHOUT ROWID;

CREATE TABLE headroom (
    provider TEXT NOT NULL,
    host TEXT NOT NULL,
    seen INTEGER NOT NULL,
    windows TEXT NOT NULL,
    PRIMARY KEY (provider, host)
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    recipe TEXT NOT NULL,
    ts INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Newest schema that this bb knows.
pub(super) fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// What can go wrong with a schema.
pub(super) enum Trouble {
    /// An answer for the caller.
    Ledger(LedgerError),
    /// An error of SQLite.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(e: rusqlite::Error) -> Self {
        Trouble::Sqlite(e)
    }
}

/// Reads the version of our tables without changing anything; 0 where there are none.
pub(super) fn check(conn: &Connection) -> Result<u32, Trouble> {
    let found = version(conn, version_table(conn)?)?;
    if found > known() {
        return Err(Trouble::Ledger(LedgerError::Newer { found, known: known() }));
    }
    Ok(found)
}

/// Brings the tables up to date and begins a new epoch; returns its number.
pub(super) fn migrate(conn: &mut Connection) -> Result<i64, Trouble> {
    let tx = Transaction::new(conn, TransactionBehavior::Immediate)?;
    let found = check(&tx)?;
    let table = version_table(&tx)?;
    if found < known() {
        tx.execute_batch(AUDIT)?;
        tx.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {table} (component TEXT PRIMARY KEY, version INTEGER NOT NULL);"
        ))?;
        for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
            tx.execute_batch(migration)?;
        }
        tx.execute(
            &format!(
                "INSERT INTO {table} (component, version) VALUES (?1, ?2)
                ON CONFLICT (component) DO UPDATE SET version = excluded.version"
            ),
            (COMPONENT, known()),
        )?;
    }
    let epoch = tx.query_row(
        "INSERT INTO meta (key, value) VALUES ('epoch', 1)
            ON CONFLICT (key) DO UPDATE SET value = value + 1 RETURNING value",
        [],
        |row| row.get(0),
    )?;
    tx.commit()?;
    Ok(epoch)
}

/// Gets the name of the table that our version stands in.
fn version_table(conn: &Connection) -> rusqlite::Result<&'static str> {
    let columns: Vec<String> = conn
        .prepare("SELECT name FROM pragma_table_info('schema_version')")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let ours = columns.is_empty() || ["component", "version"].iter().all(|c| columns.iter().any(|have| have == c));
    Ok(if ours { "schema_version" } else { "bb_schema_version" })
}

/// Gets our version from the table named.
fn version(conn: &Connection, table: &str) -> rusqlite::Result<u32> {
    let exists: Option<i64> = conn
        .query_row("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1", [table], |row| row.get(0))
        .optional()?;
    if exists.is_none() {
        return Ok(0);
    }
    let version: Option<u32> = conn
        .query_row(&format!("SELECT version FROM {table} WHERE component = ?1"), [COMPONENT], |row| row.get(0))
        .optional()?;
    Ok(version.unwrap_or(0))
}

//! What the writer knows of its tables without asking SQLite: the accounts that were charged lately, and every open hold.
//!
//! It is never ahead of the tables for anybody else: whatever a transaction changes here is in its rows before it commits, an
//! account once however many of the transaction's commands charged it. Where a transaction comes to nothing, or somebody else
//! has written (SQLite tells), everything is forgotten and read again.

use std::collections::HashMap;

use jiff::tz::TimeZone;
use rusqlite::Connection;

use super::accounts::{ALL, PathAccounts, load_node, stored};
use super::chain::Tail;
use super::hold::{Open, from_row};
use super::thresholds;
use crate::api::Account;
use crate::budget::{MAX_TOKENS, turn};

/// Most nodes that are kept; more are read again. Unit: nodes.
const NODES: usize = 4096;

/// An account, and how its row is.
#[derive(Debug)]
struct Entry {
    account: Account,
    /// It has a row.
    stored: bool,
    /// Its row says something else.
    dirty: bool,
    /// When its window ends; never, for most. The one thing that a charge looks at.
    ends: i64,
    /// What was used in a window that has ended, where its row does not say so yet.
    over: Option<u64>,
}

impl Entry {
    fn of(account: Account, stored: bool) -> Entry {
        Entry { ends: account.resets.unwrap_or(i64::MAX), account, stored, dirty: false, over: None }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Book {
    /// The host's zone, by which windows end.
    zone: TimeZone,
    /// The moment of the transaction, milliseconds since the epoch.
    now: i64,
    /// What SQLite said when this was read; another number where somebody else has written since. `None`: nothing is known.
    version: Option<i64>,
    nodes: HashMap<String, Vec<Entry>>,
    /// Nodes with accounts that are dirty.
    dirty: Vec<String>,
    holds: HashMap<String, Open>,
    /// Changes so far, in rows or not.
    changes: u64,
    /// The end of the chain of events.
    pub(super) tail: Tail,
    /// Usage rows that were written since the last were brought into the sums, about.
    pub(super) unfolded: u32,
}

impl Book {
    /// One that knows nothing yet.
    pub(super) fn new(zone: TimeZone) -> Book {
        Book {
            zone,
            now: 0,
            version: None,
            nodes: HashMap::new(),
            dirty: Vec::new(),
            holds: HashMap::new(),
            changes: 0,
            tail: Tail::default(),
            unfolded: 0,
        }
    }

    /// Gets the host's zone.
    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Begins a transaction, which is open already. `moment`: milliseconds since the epoch. Tells whether everything was read anew,
    /// since somebody else may have written.
    pub(super) fn begin(&mut self, conn: &Connection, moment: i64) -> rusqlite::Result<bool> {
        self.now = moment;
        let now = conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        let anew = self.version != Some(now);
        if anew {
            self.forget();
            let mut all = conn.prepare_cached(
                "SELECT id, opened, path, provider, bottle, agent, run, api, host, model, input, output, held, seen, granted FROM holds",
            )?;
            for hold in all.query_map([], from_row)? {
                let hold = hold?;
                self.holds.insert(hold.id.clone(), hold);
            }
            self.tail = Tail::read(conn)?;
            self.version = Some(now);
        }
        if self.nodes.len() > NODES {
            self.nodes.clear();
        }
        Ok(anew)
    }

    /// Forgets everything: the transaction came to nothing.
    pub(super) fn forget(&mut self) {
        self.version = None;
        self.nodes.clear();
        self.dirty.clear();
        self.holds.clear();
    }

    /// Gets how many changes there were: who made none need not be undone.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Gets an open hold.
    pub(super) fn hold(&self, id: &str) -> Option<&Open> {
        self.holds.get(id)
    }

    /// Enters a hold, or what has become of it. Its row is the caller's business.
    pub(super) fn put_hold(&mut self, hold: Open) {
        self.changes += 1;
        self.holds.insert(hold.id.clone(), hold);
    }

    /// Takes an open hold out. Its row is the caller's business.
    pub(super) fn take_hold(&mut self, id: &str) -> Option<Open> {
        let hold = self.holds.remove(id)?;
        self.changes += 1;
        Some(hold)
    }

    /// Gets the accounts of a provider, and of all together, on a path. Where the window of one is over, the next one has begun.
    pub(super) fn path(
        &mut self,
        conn: &Connection,
        path: &[String],
        provider: &str,
    ) -> rusqlite::Result<PathAccounts> {
        let mut accounts = Vec::with_capacity(path.len() + 1);
        for node in path {
            if !self.nodes.contains_key(node) {
                let entries = load_node(conn, node)?.into_iter().map(|account| Entry::of(account, true)).collect();
                self.nodes.insert(node.clone(), entries);
            }
            let Some(entries) = self.nodes.get_mut(node) else { continue };
            let mut has_its_own = false;
            for entry in entries.iter_mut() {
                let of_provider = entry.account.provider == provider;
                has_its_own |= of_provider;
                if !of_provider && entry.account.provider != ALL {
                    continue;
                }
                if self.now >= entry.ends
                    && let Some(over) = turn(&mut entry.account, self.now, &self.zone)
                {
                    entry.ends = entry.account.resets.unwrap_or(i64::MAX);
                    entry.over = Some(entry.over.unwrap_or(0).saturating_add(over));
                    self.changes += 1;
                    if !std::mem::replace(&mut entry.dirty, true) {
                        self.dirty.push(node.clone());
                    }
                }
                accounts.push(entry.account.clone());
            }
            if !has_its_own {
                let account = PathAccounts::none(node, provider);
                accounts.push(account.clone());
                entries.push(Entry::of(account, false));
            }
        }
        Ok(PathAccounts { accounts })
    }

    /// Charges the accounts of a path that [`Book::path`] gave: adds to what is used, puts `held` for `was_held` of what is
    /// reserved. Their rows follow by [`Book::flush`].
    pub(super) fn charge(&mut self, path: &mut PathAccounts, used: u64, was_held: u64, held: u64) {
        self.changes += 1;
        for account in &mut path.accounts {
            account.used = account.used.saturating_add(used).min(MAX_TOKENS);
            account.held = account.held.saturating_sub(was_held).saturating_add(held);
            let entries = self.nodes.get_mut(&account.node).into_iter().flatten();
            for entry in entries.filter(|entry| entry.account.provider == account.provider) {
                (entry.account.used, entry.account.held) = (account.used, account.held);
                if !std::mem::replace(&mut entry.dirty, true) {
                    self.dirty.push(account.node.clone());
                }
            }
        }
    }

    /// Enters the highest threshold of an account that was told of, in its row too: an account with a limit has one.
    pub(super) fn warn(&mut self, conn: &Connection, account: &Account, percent: u8) -> rusqlite::Result<()> {
        self.changes += 1;
        let entries = self.nodes.get_mut(&account.node).into_iter().flatten();
        for entry in entries.filter(|entry| entry.account.provider == account.provider) {
            entry.account.warned = percent;
        }
        thresholds::write(conn, account, percent)
    }

    /// Writes the rows of accounts that were charged.
    pub(super) fn flush(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        for node in self.dirty.drain(..) {
            let entries = self.nodes.get_mut(&node).into_iter().flatten();
            for entry in entries.filter(|entry| entry.dirty) {
                let sql = match entry.stored {
                    true => "UPDATE accounts SET used = ?3, held = ?4 WHERE node = ?1 AND provider = ?2",
                    false => "INSERT INTO accounts (node, provider, used, held) VALUES (?1, ?2, ?3, ?4)",
                };
                let account = &entry.account;
                if let Some(over) = entry.over.take() {
                    conn.prepare_cached(
                        "UPDATE accounts SET resets = ?3, earlier = earlier + ?4, raised = 0, warned = ?5
                         WHERE node = ?1 AND provider = ?2",
                    )?
                    .execute((
                        &account.node,
                        &account.provider,
                        account.resets,
                        stored(over),
                        account.warned,
                    ))?;
                }
                let figures = (&account.node, &account.provider, stored(account.used), stored(account.held));
                conn.prepare_cached(sql)?.execute(figures)?;
                (entry.stored, entry.dirty) = (true, false);
            }
        }
        Ok(())
    }

    /// Forgets the accounts of a node, whose rows are about to be changed by other ways than this; they are written first.
    pub(super) fn give_up(&mut self, conn: &Connection, node: &str) -> rusqlite::Result<()> {
        self.flush(conn)?;
        self.nodes.remove(node);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::tests::{Dir, open};
    use super::super::writer::{Care, Tx};
    use crate::api::Limit;
    use crate::ledger::conformance::{exact, granted, request, settle};
    use crate::ledger::{GLOBAL, HoldOutcome, Ledger, LedgerError, NewEvent};

    fn hard(tokens: u64) -> Vec<Limit> {
        vec![Limit::hard("*", Some(tokens))]
    }

    #[tokio::test]
    async fn two_writers_of_one_file_know_what_the_other_wrote() {
        let dir = Dir::new();
        let (a, b) = (open(&dir.file("a.db")), open(&dir.file("a.db")));
        a.set_limits(GLOBAL, hard(100)).await.unwrap();
        granted(&a, request("h1", 10, 0)).await;
        granted(&b, request("h2", 20, 0)).await;
        a.settle(settle("h2", exact(30, 0))).await.unwrap();
        b.settle(settle("h1", exact(40, 0))).await.unwrap();
        assert_eq!(granted(&a, request("h3", 1, 90)).await, 30, "30 + 40 of 100 are used");
        assert!(matches!(b.hold(request("h4", 1, 0)).await, Ok(HoldOutcome::Wait(_))));
        // And what somebody wrote who is no ledger.
        let other = Connection::open(dir.file("a.db")).unwrap();
        other.execute("UPDATE accounts SET amount = 200 WHERE node = 'global'", []).unwrap();
        assert_eq!(granted(&b, request("h5", 1, 200)).await, 100);
        let all = a.accounts(Some(GLOBAL)).await.unwrap();
        assert_eq!(all.iter().map(|all| (all.used, all.held)).collect::<Vec<_>>(), [(70, 130); 2]);
    }

    /// Charges 1000 tokens to the whole host; then comes `end`.
    async fn charged<T: Send + 'static>(
        ledger: &super::super::SqliteLedger,
        end: impl Fn(&mut Tx<'_>) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let work = move |tx: &mut Tx<'_>| {
            let path = [GLOBAL.to_owned(), "bottle:new".to_owned()];
            let mut path = tx.book.path(tx.conn, &path, "claude").map_err(|e| tx.error(&e))?;
            tx.book.charge(&mut path, 1000, 0, 0);
            end(tx)
        };
        ledger.write(Care::Done, work).await
    }

    #[tokio::test]
    async fn what_a_command_charged_that_failed_is_forgotten() {
        let dir = Dir::new();
        let ledger = open(&dir.file("a.db"));
        ledger.set_limits(GLOBAL, hard(100)).await.unwrap();
        granted(&ledger, request("h1", 10, 0)).await;
        let changed_its_mind = || LedgerError::Misuse("changed my mind".to_owned());
        assert_eq!(charged(&ledger, move |_| Err::<(), _>(changed_its_mind())).await, Err(changed_its_mind()));
        // One of several in a transaction: a lock that another process has brings them together.
        let locked = Connection::open(dir.file("a.db")).unwrap();
        locked.execute_batch("BEGIN IMMEDIATE").unwrap();
        let unlock = async {
            tokio::task::yield_now().await;
            locked.execute_batch("COMMIT").unwrap();
        };
        let event = NewEvent { kind: "test".to_owned(), ..NewEvent::default() };
        let (first, failed, held, ()) = tokio::join!(
            ledger.append(event),
            charged(&ledger, move |_| Err::<(), _>(changed_its_mind())),
            ledger.hold(request("h2", 10, 100)),
            unlock,
        );
        assert_eq!((first.map(|event| event.seq), failed), (Ok(1), Err(changed_its_mind())));
        assert_eq!(held, Ok(HoldOutcome::Granted { held: 90, near: Vec::new() }));
        ledger.settle(settle("h1", exact(5, 0))).await.unwrap();
        let all = ledger.accounts(None).await.unwrap();
        assert!(all.iter().all(|account| (account.used, account.held) == (5, 90)), "{all:?}");
        assert!(!all.iter().any(|account| account.node == "bottle:new"));
        charged(&ledger, |_| Ok(())).await.unwrap();
        assert_eq!(ledger.accounts(Some("bottle:new")).await.unwrap()[0].used, 1000);
    }
}

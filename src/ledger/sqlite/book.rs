//! What the writer knows of its tables without asking SQLite: the accounts that were charged lately, and every open hold.
//!
//! It is never ahead of the tables for anybody else: whatever a transaction changes here is in its rows before it commits, an
//! account once however many of the transaction's commands charged it. Where a transaction comes to nothing, or somebody else
//! has written (SQLite tells), everything is forgotten and read again.

use std::collections::HashMap;

use rusqlite::Connection;

use super::accounts::{ALL, PathAccounts, load_node, stored};
use super::hold::{Open, from_row};
use crate::api::Account;
use crate::budget::MAX_TOKENS;

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
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// What SQLite said when this was read; another number where somebody else has written since. `None`: nothing is known.
    version: Option<i64>,
    nodes: HashMap<String, Vec<Entry>>,
    /// Nodes with accounts that are dirty.
    dirty: Vec<String>,
    holds: HashMap<String, Open>,
    /// Changes so far, in rows or not.
    changes: u64,
}

impl Book {
    /// Begins a transaction, which is open already.
    pub(super) fn begin(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        let now = conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if self.version != Some(now) {
            self.forget();
            let mut all = conn.prepare_cached(
                "SELECT id, opened, path, provider, bottle, agent, run, api, host, model, input, output, held, seen FROM holds",
            )?;
            for hold in all.query_map([], from_row)? {
                let hold = hold?;
                self.holds.insert(hold.id.clone(), hold);
            }
            self.version = Some(now);
        }
        if self.nodes.len() > NODES {
            self.nodes.clear();
        }
        Ok(())
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

    /// Gets the accounts of a provider, and of all together, on a path.
    pub(super) fn path(
        &mut self,
        conn: &Connection,
        path: &[String],
        provider: &str,
    ) -> rusqlite::Result<PathAccounts> {
        let mut accounts = Vec::with_capacity(path.len() + 1);
        for node in path {
            if !self.nodes.contains_key(node) {
                let entry = |account| Entry { account, stored: true, dirty: false };
                let entries = load_node(conn, node)?.into_iter().map(entry).collect();
                self.nodes.insert(node.clone(), entries);
            }
            let Some(entries) = self.nodes.get_mut(node) else { continue };
            let ours = |entry: &&Entry| entry.account.provider == provider || entry.account.provider == ALL;
            accounts.extend(entries.iter().filter(ours).map(|entry| entry.account.clone()));
            if !entries.iter().any(|entry| entry.account.provider == provider) {
                let account = PathAccounts::none(node, provider);
                accounts.push(account.clone());
                entries.push(Entry { account, stored: false, dirty: false });
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
        assert_eq!(held, Ok(HoldOutcome::Granted { held: 90 }));
        ledger.settle(settle("h1", exact(5, 0))).await.unwrap();
        let all = ledger.accounts(None).await.unwrap();
        assert!(all.iter().all(|account| (account.used, account.held) == (5, 90)), "{all:?}");
        assert!(!all.iter().any(|account| account.node == "bottle:new"));
        charged(&ledger, |_| Ok(())).await.unwrap();
        assert_eq!(ledger.accounts(Some("bottle:new")).await.unwrap()[0].used, 1000);
    }
}

//! Accounts of a path: reading them, moving what is held and used, setting limits. Every access is by primary key, so
//! its cost does not grow with the ledger.

use rusqlite::Connection;

use super::writer::Tx;
use crate::api::{Account, Limit};
use crate::budget::MAX_TOKENS;
use crate::ledger::{Answer, LedgerError};

/// The account of all providers together.
pub(super) const ALL: &str = "*";

/// Most nodes of a path, most bytes of a name.
const MAX_PATH: usize = 64;
const MAX_NAME: usize = 256;

/// Makes a stored amount one of ours.
pub(super) fn amount(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// Makes an amount one that can be stored.
pub(super) fn stored(amount: u64) -> i64 {
    i64::try_from(amount.min(MAX_TOKENS)).unwrap_or(i64::MAX)
}

/// Checks the names of a path and of a provider.
///
/// # Errors
/// [`LedgerError::Misuse`].
pub(super) fn check_names(path: &[String], provider: &str) -> Answer<()> {
    let bad = |name: &str| name.is_empty() || name.len() > MAX_NAME;
    if path.is_empty() || path.len() > MAX_PATH || path.iter().any(|node| bad(node)) {
        return Err(LedgerError::Misuse("a path has 1 to 64 nodes with names of 1 to 256 bytes".to_owned()));
    }
    if path.iter().enumerate().any(|(i, node)| path[..i].contains(node)) {
        return Err(LedgerError::Misuse("a node stands twice on the path".to_owned()));
    }
    if bad(provider) || provider == ALL {
        return Err(LedgerError::Misuse(format!("`{provider}` is not a provider")));
    }
    Ok(())
}

/// The accounts of one provider (and of all together) on a path, nearest node first, in the form that [`crate::budget`]
/// decides on. [`super::book::Book`] has those that a transaction works on.
pub(super) struct PathAccounts {
    pub accounts: Vec<Account>,
}

impl PathAccounts {
    /// Reads them: the provider's account on every node, and the one of all providers where there is one.
    pub(super) fn load(conn: &Connection, path: &[String], provider: &str) -> rusqlite::Result<PathAccounts> {
        let mut accounts = Vec::with_capacity(path.len() + 1);
        for node in path {
            let before = accounts.len();
            let ours = |account: &Account| account.provider == provider || account.provider == ALL;
            accounts.extend(load_node(conn, node)?.into_iter().filter(ours));
            if !accounts.iter().skip(before).any(|account: &Account| account.provider == provider) {
                accounts.push(PathAccounts::none(node, provider));
            }
        }
        Ok(PathAccounts { accounts })
    }

    /// An account that has no row yet.
    pub(super) fn none(node: &str, provider: &str) -> Account {
        let (node, provider) = (node.to_owned(), provider.to_owned());
        Account { node, provider, ..Account::default() }
    }
}

/// Reads all accounts of a node: as many as it has providers, a few.
pub(super) fn load_node(conn: &Connection, node: &str) -> rusqlite::Result<Vec<Account>> {
    conn.prepare_cached(&format!("SELECT {COLUMNS} FROM accounts WHERE node = ?1"))?
        .query_map([node], from_row)?
        .collect()
}

/// The columns that [`from_row`] reads.
pub(super) const COLUMNS: &str = "node, provider, said, amount, hard, used, held, terms, warned";

/// Makes an account of a row of [`COLUMNS`].
pub(super) fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account {
        node: row.get(0)?,
        provider: row.get(1)?,
        set: row.get(2)?,
        limit: row.get::<_, Option<i64>>(3)?.map(amount),
        hard: row.get(4)?,
        used: amount(row.get(5)?),
        held: amount(row.get(6)?),
        terms: row.get::<_, Option<String>>(7)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        warned: row.get(8)?,
    })
}

/// Replaces the limits of a node; what was used stays.
pub(super) fn set_limits(tx: &mut Tx<'_>, node: &str, limits: &[Limit]) -> Answer<()> {
    for (i, limit) in limits.iter().enumerate() {
        if limit.provider.is_empty() || limit.provider.len() > MAX_NAME {
            return Err(LedgerError::Misuse("a provider's name has 1 to 256 bytes".to_owned()));
        }
        if limits[..i].iter().any(|other| other.provider == limit.provider) {
            return Err(LedgerError::Misuse(format!("two limits for `{}`", limit.provider)));
        }
        if limit.tokens.is_some_and(|tokens| tokens > MAX_TOKENS) {
            return Err(LedgerError::Misuse(format!("the limit for `{}` is above 2^53", limit.provider)));
        }
    }
    if node.is_empty() || node.len() > MAX_NAME {
        return Err(LedgerError::Misuse("a node's name has 1 to 256 bytes".to_owned()));
    }
    tx.freed = true;
    tx.book.give_up(tx.conn, node).map_err(|e| tx.error(&e))?;
    let set = || -> rusqlite::Result<()> {
        tx.conn
            .execute("UPDATE accounts SET said = 0, amount = NULL, hard = 0, terms = NULL WHERE node = ?1", [node])?;
        // The account of all providers is kept only while it has a limit: else it is the sum of the others.
        tx.conn.execute("DELETE FROM accounts WHERE node = ?1 AND provider = '*'", [node])?;
        for limit in limits {
            let tokens = limit.tokens.map(stored);
            let terms = (!limit.terms.is_default()).then(|| serde_json::to_string(&limit.terms).unwrap_or_default());
            if limit.provider == ALL {
                tx.conn.execute(
                    "INSERT INTO accounts (node, provider, said, amount, hard, terms, used, held)
                     SELECT ?1, '*', 1, ?2, ?3, ?4, coalesce(sum(used), 0), coalesce(sum(held), 0) FROM accounts
                     WHERE node = ?1",
                    (node, tokens, limit.hard, terms),
                )?;
            } else {
                tx.conn.execute(
                    "INSERT INTO accounts (node, provider, said, amount, hard, terms) VALUES (?1, ?2, 1, ?3, ?4, ?5)
                     ON CONFLICT (node, provider) DO UPDATE
                     SET said = 1, amount = excluded.amount, hard = excluded.hard, terms = excluded.terms",
                    (node, &limit.provider, tokens, limit.hard, terms),
                )?;
            }
        }
        Ok(())
    };
    set().map_err(|e| tx.error(&e))
}

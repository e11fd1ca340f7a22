//! Accounts of a path: reading them. Every access is by primary key, so its cost does not grow with the ledger. What limits
//! they have is `limits`'s business.

use jiff::tz::TimeZone;
use rusqlite::Connection;

use crate::api::{Account, Period};
use crate::budget::{MAX_TOKENS, turn};
use crate::ledger::{Answer, LedgerError};

/// The account of all providers together.
pub(super) const ALL: &str = "*";

/// Most nodes of a path: two for each manifest of a launch. Most bytes of a name.
const MAX_PATH: usize = 160;
pub(super) const MAX_NAME: usize = 256;

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
        return Err(LedgerError::Misuse("a path has 1 to 160 nodes with names of 1 to 256 bytes".to_owned()));
    }
    if path.iter().enumerate().any(|(i, node)| path[..i].contains(node)) {
        return Err(LedgerError::Misuse("a node stands twice on the path".to_owned()));
    }
    if bad(provider) || provider == ALL {
        return Err(LedgerError::Misuse(format!("`{provider}` is not a provider")));
    }
    Ok(())
}

/// When and where accounts are looked at: a window that is over has ended although nobody has written that yet.
pub(super) struct Moment {
    /// Milliseconds since the epoch.
    pub now: i64,
    /// The host's.
    pub zone: TimeZone,
}

impl Moment {
    /// This one.
    pub(super) fn now(zone: &TimeZone) -> Moment {
        Moment { now: super::writer::now_ms(), zone: zone.clone() }
    }

    /// Gets an account as it stands then.
    pub(super) fn see(&self, mut account: Account) -> Account {
        turn(&mut account, self.now, &self.zone);
        account
    }
}

/// The accounts of one provider (and of all together) on a path, nearest node first, in the form that [`crate::budget`]
/// decides on. [`super::book::Book`] has those that a transaction works on.
pub(super) struct PathAccounts {
    pub accounts: Vec<Account>,
}

impl PathAccounts {
    /// Reads them: the provider's account on every node, and the one of all providers where there is one.
    pub(super) fn load(
        conn: &Connection,
        path: &[String],
        provider: &str,
        as_of: &Moment,
    ) -> rusqlite::Result<PathAccounts> {
        let mut accounts = Vec::with_capacity(path.len() + 1);
        for node in path {
            let before = accounts.len();
            let ours = |account: &Account| account.provider == provider || account.provider == ALL;
            accounts.extend(load_node(conn, node)?.into_iter().filter(ours).map(|account| as_of.see(account)));
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
pub(super) const COLUMNS: &str =
    "node, provider, said, amount, hard, used, held, terms, warned, per, resets, raised, by_operator";

/// Makes an account of a row of [`COLUMNS`].
pub(super) fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Account> {
    let raised = amount(row.get(11)?);
    Ok(Account {
        node: row.get(0)?,
        provider: row.get(1)?,
        set: row.get(2)?,
        limit: row.get::<_, Option<i64>>(3)?.map(|base| amount(base).saturating_add(raised)),
        hard: row.get(4)?,
        used: amount(row.get(5)?),
        held: amount(row.get(6)?),
        terms: row.get::<_, Option<String>>(7)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        warned: row.get(8)?,
        per: row.get::<_, Option<String>>(9)?.as_deref().and_then(Period::of),
        resets: row.get(10)?,
        raised,
        by_operator: row.get(12)?,
    })
}

//! Thresholds of limits: their events, once each, in the transaction of the charge that passes them.
//!
//! Which are passed is [`crate::budget`]'s to say; here they are written down. Where none is, nothing is written.

use rusqlite::Connection;
use serde_json::json;

use super::accounts::PathAccounts;
use super::record::{self, Kind};
use super::writer::Tx;
use crate::api::Account;
use crate::budget::{Standing, warned};
use crate::ledger::Answer;

/// Tells of the thresholds that the accounts of a path have passed by a charge of `bottle`, and forgets those that are passed
/// no more.
pub(super) fn tell(tx: &mut Tx<'_>, path: &PathAccounts, bottle: &str, run: Option<&str>) -> Answer<()> {
    for changed in warned(&path.accounts) {
        let account = &path.accounts[changed.at];
        tx.book.warn(tx.conn, account, changed.now).map_err(|e| tx.error(&e))?;
        let Some(standing) = Standing::of(account) else { continue };
        for percent in changed.passed {
            let Standing { node, provider, used, limit, .. } = &standing;
            let left = limit.saturating_sub(*used);
            let data = json!({
                "node": node, "provider": provider, "percent": percent, "used": used, "limit": limit, "left": left,
            });
            let about = Kind { kind: "threshold", bottle: Some(bottle), run };
            record::append_text(tx, about, data.to_string(), None)?;
        }
    }
    Ok(())
}

/// Writes the highest threshold of an account that was told of.
pub(super) fn write(conn: &Connection, account: &Account, percent: u8) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE accounts SET warned = ?3 WHERE node = ?1 AND provider = ?2")?
        .execute((&account.node, &account.provider, percent))
        .map(|_| ())
}

//! What was learned of models: small, and written seldom.

use rusqlite::Connection;

use super::hold::clip;
use super::writer::Tx;
use crate::ledger::{Answer, LedgerError, Lesson};

/// Most models of a provider that are told of: those that were used last.
const MOST: u32 = 256;

/// Keeps a lesson.
pub(super) fn keep(tx: &mut Tx<'_>, lesson: &Lesson) -> Answer<()> {
    let figures = serde_json::to_string(&lesson.learned).map_err(|e| LedgerError::Misuse(format!("a lesson: {e}")))?;
    tx.conn
        .prepare_cached(
            "INSERT INTO learned (provider, model, agent, ts, figures) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (provider, model, agent) DO UPDATE SET ts = excluded.ts, figures = excluded.figures",
        )
        .and_then(|mut insert| {
            insert.execute((&lesson.provider, clip(&lesson.model), clip(&lesson.agent), tx.now, figures))
        })
        .map_err(|e| tx.error(&e))?;
    Ok(())
}

/// Reads a provider's lessons, the latest first. What another bb has written in another form is left out.
pub(super) fn lessons(conn: &Connection, provider: &str) -> rusqlite::Result<Vec<Lesson>> {
    let mut select =
        conn.prepare_cached("SELECT model, agent, figures FROM learned WHERE provider = ?1 ORDER BY ts DESC LIMIT ?2")?;
    let rows = select.query_map((provider, MOST), |row| {
        let figures: String = row.get(2)?;
        let learned = serde_json::from_str(&figures).ok();
        let (model, agent) = (row.get(0)?, row.get(1)?);
        Ok(learned.map(|learned| Lesson { provider: provider.to_owned(), model, agent, learned }))
    })?;
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

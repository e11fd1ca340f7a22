//! What was learned of models: small, and written seldom.

use rusqlite::Connection;

use super::hold::clip;
use super::writer::Tx;
use crate::ledger::{Answer, LedgerError, Lesson};

/// Most lessons of a provider that are kept, of all its models and agents: those that were learned last.
const MOST: u32 = 256;

/// Keeps a lesson; the oldest goes where there are too many.
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
    // Of those that were written in the same moment, this one stays.
    tx.conn
        .prepare_cached(
            "DELETE FROM learned WHERE provider = ?1 AND (model, agent) IN (
                SELECT model, agent FROM learned WHERE provider = ?1
                ORDER BY ts DESC, (model, agent) = (?2, ?3) DESC LIMIT -1 OFFSET ?4)",
        )
        .and_then(|mut drop| drop.execute((&lesson.provider, clip(&lesson.model), clip(&lesson.agent), MOST)))
        .map_err(|e| tx.error(&e))?;
    Ok(())
}

/// Reads a provider's lessons, the latest first. What another bb has written in another form is left out.
pub(super) fn lessons(conn: &Connection, provider: &str) -> rusqlite::Result<Vec<Lesson>> {
    let mut select =
        conn.prepare_cached("SELECT model, agent, figures FROM learned WHERE provider = ?1 ORDER BY ts DESC")?;
    let rows = select.query_map([provider], |row| {
        let figures: String = row.get(2)?;
        let learned = serde_json::from_str(&figures).ok();
        let (model, agent) = (row.get(0)?, row.get(1)?);
        Ok(learned.map(|learned| Lesson { provider: provider.to_owned(), model, agent, learned }))
    })?;
    Ok(rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::super::tests::{Dir, open};
    use super::*;
    use crate::budget::Learned;
    use crate::ledger::Ledger;

    #[tokio::test]
    async fn of_each_provider_as_many_lessons_are_kept_and_the_oldest_go() {
        let dir = Dir::new();
        let ledger = open(&dir.file("a.db"));
        let lesson = |provider: &str, n: u32| Lesson {
            provider: provider.to_owned(),
            model: format!("m{}", n / 2),
            agent: format!("a{}", n % 2),
            learned: Learned::default(),
        };
        let other = Connection::open(dir.file("a.db")).unwrap();
        ledger.keep_lesson(lesson("codex", 0)).await.unwrap();
        for n in 0..MOST + 3 {
            ledger.keep_lesson(lesson("claude", n)).await.unwrap();
            // Each is from another moment, the first from the youngest but those that are still to come.
            let ts = if n == 0 { 2000 } else { i64::from(n) };
            let values = rusqlite::params![format!("m{}", n / 2), format!("a{}", n % 2), ts];
            other.execute("UPDATE learned SET ts = ?3 WHERE model = ?1 AND agent = ?2", values).unwrap();
        }
        let kept = ledger.lessons("claude").await.unwrap();
        assert_eq!(kept.len(), MOST as usize);
        assert_eq!((kept[0].model.as_str(), kept[0].agent.as_str()), ("m0", "a0"));
        let has = |n: u32| kept.iter().any(|kept| *kept == lesson("claude", n));
        assert!(has(0) && has(MOST + 2) && has(4), "the youngest");
        assert!(!has(1) && !has(2) && !has(3), "the oldest went");
        // One that is learned anew takes nobody's place, and another provider's is untouched.
        ledger.keep_lesson(lesson("claude", 4)).await.unwrap();
        assert_eq!(ledger.lessons("claude").await.unwrap().len(), MOST as usize);
        assert_eq!(ledger.lessons("codex").await.unwrap().len(), 1);
    }
}

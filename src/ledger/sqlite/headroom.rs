//! What providers said of their own limits: the last word of each host, in memory, and in a table that follows it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

use super::writer::Tx;
use crate::api::Headroom;
use crate::ledger::Answer;

/// How long the table may be behind. Unit: milliseconds.
const BEHIND: i64 = 30_000;

/// Most providers and hosts that are remembered: the names come from manifests, and there are few.
const MOST: usize = 256;

/// The last words, by provider and host, and when each was written.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Words>>);

type Words = HashMap<(String, String), (Headroom, i64)>;

impl Seen {
    /// Remembers a word; tells whether it is to be written.
    pub(super) fn note(&self, headroom: &Headroom) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (headroom.provider.clone(), headroom.host.clone());
        if all.len() >= MOST && !all.contains_key(&key) {
            return false;
        }
        let (last, written) = all.entry(key).or_insert_with(|| (headroom.clone(), i64::MIN));
        last.clone_from(headroom);
        let due = headroom.seen.saturating_sub(*written) >= BEHIND;
        if due {
            *written = headroom.seen;
        }
        due
    }

    /// Puts what is remembered over what was written.
    pub(super) fn over(&self, mut written: Vec<Headroom>) -> Vec<Headroom> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|row| !all.contains_key(&(row.provider.clone(), row.host.clone())));
        written.extend(all.values().map(|(last, _)| last.clone()));
        written.sort_by(|a, b| (&a.provider, &a.host).cmp(&(&b.provider, &b.host)));
        written
    }
}

/// Writes a word.
pub(super) fn put(tx: &mut Tx<'_>, headroom: &Headroom) -> Answer<()> {
    let windows = serde_json::to_string(&headroom.windows).unwrap_or_default();
    tx.conn
        .prepare_cached(
            "INSERT INTO headroom (provider, host, seen, windows) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (provider, host) DO UPDATE SET seen = excluded.seen, windows = excluded.windows",
        )
        .and_then(|mut put| put.execute((&headroom.provider, &headroom.host, headroom.seen, windows)))
        .map_err(|e| tx.error(&e))?;
    Ok(())
}

/// Reads what was written.
pub(super) fn list(conn: &Connection) -> rusqlite::Result<Vec<Headroom>> {
    conn.prepare_cached("SELECT provider, host, seen, windows FROM headroom")?
        .query_map([], |row| {
            let windows = serde_json::from_str(&row.get::<_, String>(3)?).unwrap_or_default();
            Ok(Headroom { provider: row.get(0)?, host: row.get(1)?, seen: row.get(2)?, windows })
        })?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Dir, open};
    use crate::api::{Headroom, Window};
    use crate::ledger::Ledger;

    #[tokio::test]
    async fn the_last_word_is_told_and_outlives_the_controller() {
        let dir = Dir::new();
        let ledger = open(&dir.file("a.db"));
        let word = |host: &str, seen, used| Headroom {
            provider: "claude".to_owned(),
            host: host.to_owned(),
            seen,
            windows: vec![Window { name: "5h".to_owned(), used, resets: Some(9) }],
        };
        for headroom in [word("b", 1, 7), word("a", 1, 1), word("a", 2, 2), word("a", 40_000, 3), word("a", 40_001, 4)]
        {
            ledger.saw_headroom(headroom).await.unwrap();
        }
        assert_eq!(ledger.headroom().await.unwrap(), [word("a", 40_001, 4), word("b", 1, 7)]);
        ledger.close().await.unwrap();
        let next = open(&dir.file("a.db"));
        assert_eq!(
            next.headroom().await.unwrap(),
            [word("a", 40_000, 3), word("b", 1, 7)],
            "half a minute behind at most"
        );
    }
}

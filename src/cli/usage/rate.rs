//! How fast tokens are used now, and how long what is left will last at that rate.

use serde::Serialize;

use crate::api::{By, Span, UsageQuery};
use crate::client::Client;
use crate::error::Result;
use crate::types::Book;

/// What the present rate is taken from. Unit: milliseconds.
const LATELY: i64 = 60 * 60 * 1000;

/// How a limit stands. Unit: counted tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Budget {
    pub node: String,
    pub provider: String,
    pub limit: u64,
    pub used: u64,
    pub held: u64,
    pub left: u64,
    /// Used in the last hour, by the node's provider.
    pub per_hour: u64,
    /// How long what is left lasts at that rate. Unit: milliseconds; absent while nothing is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lasts: Option<u64>,
}

/// The block of five hours that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Block {
    /// Unit of both: milliseconds since the epoch.
    pub start: i64,
    pub end: i64,
    /// Counted so far.
    pub counted: u64,
    /// Counted a minute, between the first and the last use.
    pub per_minute: u64,
    /// What the block comes to, if it goes on so.
    pub projected: u64,
}

impl Block {
    /// Gets it from the rows of a report; `None` where no block runs at `now`.
    pub(crate) fn of(rows: impl Iterator<Item = (Span, u64)>, now: i64) -> Option<Block> {
        let mut running: Option<(Span, u64)> = None;
        for (span, counted) in rows.filter(|(span, _)| (span.start..span.end).contains(&now)) {
            let (all, sum) = running.get_or_insert((span, 0));
            (all.first, all.last) = (all.first.min(span.first), all.last.max(span.last));
            *sum += counted;
        }
        let (span, counted) = running?;
        let minute = 60_000;
        // Of one use alone there is no rate.
        let lasted = u64::try_from(span.last - span.first).unwrap_or(0);
        let rate =
            |time: u64| u64::try_from(u128::from(counted) * u128::from(time) / u128::from(lasted)).unwrap_or(u64::MAX);
        let per_minute = if lasted < minute { 0 } else { rate(minute) };
        let left = u64::try_from(span.end - now).unwrap_or(0);
        let more = if lasted < minute { 0 } else { rate(left) };
        Some(Block { start: span.start, end: span.end, counted, per_minute, projected: counted.saturating_add(more) })
    }
}

/// Reads how the limits of a node stand.
///
/// # Errors
/// Those of the client.
pub(crate) async fn budgets(client: &Client, book: Book, node: &str, now: i64) -> Result<Vec<Budget>> {
    let mut accounts = client.budgets(book, Some(node)).await?;
    accounts.retain(|account| account.limit.is_some());
    if accounts.is_empty() {
        return Ok(Vec::new());
    }
    let since = Some(now.saturating_sub(LATELY));
    let query = UsageQuery { book, since, by: Some(vec![By::Provider]), ..UsageQuery::default() };
    let lately = client.usage(&query).await?;
    let rate = |provider: &str| match provider {
        "*" => lately.total.counted,
        _ => lately.rows.iter().filter(|row| row.provider == provider).map(|row| row.total.counted).sum(),
    };
    Ok(accounts
        .into_iter()
        .map(|account| {
            let limit = account.limit.unwrap_or_default();
            let per_hour = rate(&account.provider);
            let left = limit.saturating_sub(account.used);
            let lasts = (per_hour > 0).then(|| {
                u64::try_from(u128::from(left) * u128::from(LATELY.unsigned_abs()) / u128::from(per_hour))
                    .unwrap_or(u64::MAX)
            });
            let (node, provider, used, held) = (account.node, account.provider, account.used, account.held);
            Budget { node, provider, limit, used, held, left, per_hour, lasts }
        })
        .collect())
}

/// Writes a time in two words at most: `3h 20m`.
pub(crate) fn lasting(ms: u64) -> String {
    let minutes = ms / 60_000;
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, _, _) if days > 999 => "years".to_owned(),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn span(first: i64, last: i64) -> Span {
        Span { start: 0, end: 300 * MINUTE, first: first * MINUTE, last: last * MINUTE }
    }

    #[test]
    fn a_block_that_runs_has_a_rate_and_a_projection() {
        let rows = [(span(10, 40), 2000), (span(20, 110), 8000)];
        let block = Block::of(rows.into_iter(), 120 * MINUTE).unwrap();
        assert_eq!((block.counted, block.per_minute, block.projected), (10_000, 100, 10_000 + 180 * 100));
        assert_eq!(Block::of(rows.into_iter(), 300 * MINUTE), None, "it is over");
        let once = Block::of([(span(10, 10), 500)].into_iter(), 20 * MINUTE).unwrap();
        assert_eq!((once.per_minute, once.projected), (0, 500), "one use is no rate");
    }

    #[test]
    fn times_are_written_in_two_words() {
        let words = [5, 200, 3000, 2_000_000].map(|minutes| lasting(minutes * 60_000));
        assert_eq!(words, ["5m", "3h 20m", "2d 2h", "years"]);
    }
}

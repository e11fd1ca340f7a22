//! `bb statusline`: one line of what is used, for the status line of a terminal, an editor or an agent. Starts nothing.

use jiff::Zoned;

use crate::api::{Headroom, Slice, UsageQuery, UsageReport};
use crate::client::Client;
use crate::error::Result;
use crate::home::Home;
use crate::ledger::GLOBAL;
use crate::ledger::period::BLOCK;
use crate::types::Book;

use super::out;
use super::usage::rate::{self, Block, Budget, lasting};

/// Write one line: the tokens of today, of the block of five hours that runs, and what is left of the budgets.
///
/// Without a controller that runs it says so and starts none.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of rehearsals
    #[arg(long)]
    pub rehearsal: bool,
}

/// Runs the command; returns its exit code.
pub fn run(args: &Args) -> u8 {
    let book = if args.rehearsal { Book::Rehearsal } else { Book::Real };
    out::block_on(work(book))
}

async fn work(book: Book) -> Result<u8> {
    let home = Home::from_env()?;
    let Some(client) = Client::connect(&home).await? else {
        out::print("bb: no controller runs")?;
        return Ok(0);
    };
    if book == Book::Rehearsal && !home.rehearsal_ledger().exists() {
        out::print("bb: no rehearsals")?;
        return Ok(0);
    }
    let now = Zoned::now();
    let at = now.timestamp().as_millisecond();
    let midnight = now.start_of_day().map_or(at, |start| start.timestamp().as_millisecond());
    let query =
        |since, period| UsageQuery { book, since: Some(since), by: Some(vec![]), period, ..UsageQuery::default() };
    let (today, blocks) = (query(midnight, None), query(at - 4 * BLOCK, Some(Slice::Block)));
    let (today, blocks, budgets, said) = tokio::join!(
        client.usage(&today),
        client.usage(&blocks),
        rate::budgets(&client, book, GLOBAL, at),
        client.headroom(book),
    );
    let blocks = blocks?;
    let block = Block::of(blocks.rows.iter().filter_map(|row| Some((row.span?, row.total.counted))), at);
    out::print(&crate::printable::printable(&line(&today?, block, &budgets?, &said?, at), false))?;
    Ok(0)
}

/// Writes the line.
fn line(today: &UsageReport, block: Option<Block>, budgets: &[Budget], said: &[Headroom], now: i64) -> String {
    let mut parts = vec![format!("today {}", short(today.total.counted))];
    if today.total.estimated > 0 {
        parts[0].push_str(&format!(" ({}/{} estimated)", today.total.estimated, today.total.requests));
    }
    if let Some(block) = block {
        let left = lasting(u64::try_from(block.end - now).unwrap_or(0));
        let mut part = format!("block {}, {left} left", short(block.counted));
        if block.per_minute > 0 {
            part.push_str(&format!(", {}/min, {} projected", short(block.per_minute), short(block.projected)));
        }
        parts.push(part);
    }
    for budget in budgets {
        let provider = if budget.provider == "*" { "all" } else { &budget.provider };
        let lasts = budget.lasts.map(|ms| format!(" (~{})", lasting(ms))).unwrap_or_default();
        parts.push(format!("{provider} {} left{lasts}", short(budget.left)));
    }
    for said in said {
        // What has begun anew since is not known.
        let windows = said.windows.iter().filter(|window| window.resets.is_none_or(|at| at > now));
        let windows: Vec<String> =
            windows.map(|window| format!("{} {}%", window.name, window.used.div_ceil(10))).collect();
        if !windows.is_empty() {
            parts.push(format!("{}: {}", said.host, windows.join(" ")));
        }
    }
    parts.join(" | ")
}

/// Writes an amount in a few characters, rounded down.
fn short(tokens: u64) -> String {
    match tokens {
        0..1_000 => tokens.to_string(),
        1_000..1_000_000 => format!("{}.{}k", tokens / 1_000, tokens / 100 % 10),
        1_000_000..1_000_000_000 => format!("{}.{}M", tokens / 1_000_000, tokens / 100_000 % 10),
        _ => format!("{}G", tokens / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{UsageTotal, Window};

    #[test]
    fn the_line_says_today_the_block_and_what_is_left() {
        let total = UsageTotal { requests: 8, counted: 1_234_567, estimated: 1, ..UsageTotal::default() };
        let today = UsageReport { rows: vec![], total };
        let block = Block { start: 0, end: BLOCK, counted: 54_321, per_minute: 999, projected: 200_000 };
        let (node, provider) = ("global".to_owned(), "claude".to_owned());
        let budget =
            Budget { node, provider, limit: 9, used: 0, held: 0, left: 5_000_000, per_hour: 1, lasts: Some(7_200_000) };
        let window = |name: &str, used, resets| Window { name: name.to_owned(), used, resets: Some(resets) };
        let windows = vec![window("5h", 291, BLOCK), window("old", 999, 0)];
        let said = Headroom { provider: "claude".into(), host: "api.anthropic.com".into(), seen: 0, windows };
        assert_eq!(
            line(&today, Some(block), &[budget], &[said], BLOCK - 60_000 * 130),
            "today 1.2M (1/8 estimated) | block 54.3k, 2h 10m left, 999/min, 200.0k projected | claude 5.0M left (~2h 0m) \
             | api.anthropic.com: 5h 30%"
        );
        assert_eq!(line(&UsageReport::default(), None, &[], &[], 0), "today 0");
    }
}

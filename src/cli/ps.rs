//! `bb ps`: the bottles.

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::api::{Account, Bottle, Egress, Ended, State};
use crate::client::Client;
use crate::error::Result;
use crate::home::Home;
use crate::types::Book;

use super::faults::settings_or_warn;
use super::out::{self, Table, grouped};

/// List the bottles that run.
///
/// With --json one bottle a line: the `Bottle` of docs/controller-api.md, with `counted` (tokens that its budget was
/// charged) and `limit` (its own budget, absent where it has none).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also the ones that have ended
    #[arg(short, long)]
    pub all: bool,
    /// Write NDJSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// In a window of fewer columns a state is one word.
const NARROW: usize = 40;

/// A bottle and what it has used.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    bottle: Bottle,
    /// Counted tokens.
    counted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    let home = Home::from_env()?;
    // Who looks for what runs finds it, whatever the settings say; and that they are wrong is said before it matters.
    settings_or_warn(&home);
    let client = Client::connect_or_start(&home).await?;
    let faults = client.version().await?.faults;
    for fault in &faults {
        out::note(&format!("warning: metered requests are refused: {fault}"));
    }
    let bottles = client.bottles(args.all).await?;
    let accounts = match accounts(&client, &bottles).await {
        Ok(accounts) => accounts,
        // What was used is not known then; which bottles there are is.
        Err(_) if !faults.is_empty() => HashMap::new(),
        Err(error) => return Err(error),
    };
    let rows: Vec<Row> = bottles.into_iter().map(|bottle| with_account(bottle, &accounts)).collect();
    if args.json {
        for row in &rows {
            out::json(row)?;
        }
        return Ok(0);
    }
    if rows.is_empty() {
        out::note(if args.all { "no bottles" } else { "no bottles run; `bb ps --all` shows the ones that have ended" });
        return Ok(0);
    }
    let columns = out::columns();
    let short = columns.is_some_and(|columns| columns < NARROW);
    let table = table(&rows, Timestamp::now(), &TimeZone::system(), short);
    // The name and the state stay, however narrow the window is.
    let table = match columns {
        Some(columns) => table.fit(columns, 2),
        None => table,
    };
    out::print(table.render(out::colour()).trim_end())?;
    Ok(0)
}

/// Gets the accounts of the bottles' own nodes, by node and provider.
async fn accounts(client: &Client, bottles: &[Bottle]) -> Result<HashMap<(String, String), Account>> {
    /// More bottles than this are cheaper to find among all the accounts.
    const FEW: usize = 16;
    let mut found = HashMap::new();
    let mut add = |accounts: Vec<Account>| {
        found.extend(accounts.into_iter().map(|a| ((a.node.clone(), a.provider.clone()), a)));
    };
    for book in [Book::Real, Book::Rehearsal] {
        let nodes: Vec<String> =
            bottles.iter().filter(|b| b.book == book).map(|b| format!("bottle:{}", b.id)).collect();
        if nodes.len() > FEW {
            add(client.budgets(book, None).await?);
        } else {
            for node in &nodes {
                add(client.budgets(book, Some(node)).await?);
            }
        }
    }
    Ok(found)
}

fn with_account(bottle: Bottle, accounts: &HashMap<(String, String), Account>) -> Row {
    let account = |provider: &str| accounts.get(&(format!("bottle:{}", bottle.id), provider.to_owned()));
    let own = account(&bottle.provider);
    // A limit for all providers together binds where the bottle's own has none.
    let limit = own.and_then(|a| a.limit).or_else(|| account("*").and_then(|a| a.limit));
    Row { counted: own.map_or(0, |a| a.used), limit, bottle }
}

fn table(rows: &[Row], now: Timestamp, zone: &TimeZone, short: bool) -> Table {
    let mut table = Table::new(&["SLUG", "STATE", "EGRESS", "AGENT", ">TOKENS", "STARTED", "REASON"]);
    for Row { bottle, counted, limit } in rows {
        let mark = if bottle.book == Book::Rehearsal { " (rehearsal)" } else { "" };
        let agent = match bottle.agent == bottle.provider {
            true => bottle.provider.clone(),
            false => format!("{} ({})", bottle.agent, bottle.provider),
        };
        let tokens = match limit {
            Some(limit) => format!("{} / {}", grouped(*counted), grouped(*limit)),
            None => grouped(*counted),
        };
        table.row(vec![
            bottle.slug.clone(),
            if short { state(bottle).trim_start_matches("ended: ").to_owned() } else { state(bottle) },
            egress(bottle.egress).to_owned(),
            format!("{agent}{mark}"),
            tokens,
            started(bottle.started, now, zone),
            bottle.reason.clone().unwrap_or_default(),
        ]);
        if let Some(color) = &bottle.color {
            table.tint(color);
        }
    }
    table
}

/// Gets the state in a few words; of one that has ended, how.
fn state(bottle: &Bottle) -> String {
    let word = match bottle.state {
        State::Planned => "planned",
        State::Starting => "starting",
        State::Running => "running",
        State::Paused => "paused",
        State::Stopping => "stopping",
        State::Ended => {
            let code = bottle.exit_code.map(|code| format!("exit {code}"));
            let how = bottle.ended.map_or("ended", |ended| match ended {
                Ended::Exited => "exited",
                Ended::Killed => "killed",
                Ended::Budget => "budget",
                Ended::Policy => "policy",
                Ended::Timeout => "timeout",
                Ended::LeaseLost => "lease lost",
                Ended::StartFailed => "start failed",
                Ended::Oom => "out of memory",
                Ended::Lost => "lost",
                Ended::HostRestart => "host restart",
                Ended::Frozen => "frozen",
            });
            let kept = if bottle.kept { ", kept" } else { "" };
            return match code {
                Some(code) if bottle.ended == Some(Ended::Exited) => format!("ended: {code}{kept}"),
                _ => format!("ended: {how}{kept}"),
            };
        }
    };
    word.to_owned()
}

fn egress(egress: Egress) -> &'static str {
    match egress {
        Egress::Closed => "closed",
        Egress::Open => "open",
        Egress::Cut => "cut",
    }
}

/// Gets a start for people: the time if it was today, else the date with it.
fn started(ms: i64, now: Timestamp, zone: &TimeZone) -> String {
    let Ok(at) = Timestamp::from_millisecond(ms) else { return String::new() };
    let (at, now) = (at.to_zoned(zone.clone()), now.to_zoned(zone.clone()));
    let form = if at.date() == now.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    at.strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bottle(slug: &str) -> Bottle {
        Bottle {
            slug: slug.into(),
            id: format!("id-{slug}"),
            provider: "claude".into(),
            agent: "claude".into(),
            run: None,
            book: Book::Real,
            state: State::Running,
            ended: None,
            egress: Egress::Open,
            exit_code: None,
            reason: None,
            workspace: "/w".into(),
            started: 1_735_787_045_000,
            stopped: None,
            attached: false,
            color: None,
            terminal: false,
            workspace_mode: None,
            kept: false,
            resumable: false,
            cut: None,
            warnings: vec![],
            account: None,
        }
    }

    fn account(provider: &str, used: u64, limit: Option<u64>) -> ((String, String), Account) {
        let node = "bottle:id-fix".to_owned();
        let provider = provider.to_owned();
        let account =
            Account { node: node.clone(), provider: provider.clone(), limit, set: true, used, ..Account::default() };
        ((node, provider), account)
    }

    #[test]
    fn the_table_shows_state_use_and_reason() {
        let now: Timestamp = "2025-01-02T12:00:00Z".parse().unwrap();
        let mut cut = bottle("fix");
        cut.egress = Egress::Cut;
        cut.reason = Some("budget\nspent".into());
        let mut over = bottle("old");
        over.state = State::Ended;
        over.ended = Some(Ended::Exited);
        over.exit_code = Some(7);
        over.egress = Egress::Closed;
        over.book = Book::Rehearsal;
        over.started -= 86_400_000;
        let accounts = HashMap::from([account("claude", 212_400, None), account("*", 212_400, Some(200_000))]);
        let rows = [cut, over].map(|b| with_account(b, &accounts));
        assert_eq!(
            table(&rows, now, &TimeZone::UTC, false).render(false),
            format!(
                "SLUG  STATE          EGRESS  AGENT{}TOKENS  STARTED           REASON\n\
                 fix   running        cut     claude              212,400 / 200,000  03:04:05          budget spent\n\
                 old   ended: exit 7  closed  claude (rehearsal)                  0  2025-01-01 03:04\n",
                " ".repeat(26)
            )
        );
    }

    #[test]
    fn twenty_columns_have_the_name_and_the_state() {
        let mut over = bottle("old");
        (over.state, over.ended, over.exit_code, over.kept) = (State::Ended, Some(Ended::Exited), Some(7), true);
        let rows = [bottle("fix-parse"), over].map(|b| with_account(b, &HashMap::new()));
        let table = table(&rows, Timestamp::UNIX_EPOCH, &TimeZone::UTC, true).fit(20, 2);
        assert_eq!(table.render(false), "SLUG       STATE\nfix-parse  running\nold        exit 7, …\n");
    }

    #[test]
    fn json_is_the_bottle_with_its_figures() {
        let value =
            serde_json::to_value(with_account(bottle("fix"), &HashMap::from([account("claude", 5, Some(9))]))).unwrap();
        assert_eq!((&value["slug"], &value["counted"], &value["limit"]), (&"fix".into(), &5.into(), &9.into()));
        assert_eq!(value["state"], "running");
    }
}

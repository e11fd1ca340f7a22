//! `bb egress log`: every request that was allowed or refused.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::lines::{Line, Lines, shown};
use super::{Named, events};
use crate::cli::{out, usage};
use crate::client::{Client, Events};
use crate::error::Result;
use crate::home::Home;
use crate::types::Book;

/// Show what a bottle asked for, one line a request: when, by which route it was allowed or how it was refused, its status, bytes up
/// and down, how long it took, and its tokens.
///
/// A request that was allowed is shown when it has ended. Without SLUG those of all bottles. With --json NDJSON
/// (docs/egress-log.md).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Slug of a bottle, also of one that has ended, or a unique beginning of one
    #[arg(value_name = "SLUG", add = crate::cli::completions::slugs())]
    slug: Option<String>,
    /// Stay for what is to come: until the bottle has ended
    #[arg(short, long)]
    follow: bool,
    /// Only what was refused
    #[arg(long)]
    denied: bool,
    /// Not before: a date or time (2025-01-31, 2025-01-31T09:30, with Z or an offset), or how long ago (24h)
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Without SLUG: bottles of rehearsals
    #[arg(long)]
    rehearsal: bool,
    /// Write NDJSON on stdout
    #[arg(long)]
    json: bool,
}

pub(super) async fn work(args: Args) -> Result<u8> {
    let (now, zone) = (Timestamp::now(), TimeZone::system());
    let after = args.since.as_deref().map(|text| usage::moment(text, "--since", false, now, &zone)).transpose()?;
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let named = match &args.slug {
        Some(name) => Named::find(&client, &home, name).await?,
        None => {
            let books = match args.rehearsal {
                // Asking for it would make the file.
                true if !home.rehearsal_ledger().exists() && !args.follow => vec![],
                true => vec![Book::Rehearsal],
                false => vec![Book::Real],
            };
            Named { slug: String::new(), books, started: None, lives: true, unknown: None }
        }
    };
    let bottle = args.slug.is_some().then_some(named.slug.as_str());
    let follow = args.follow && named.lives;
    let mut writer = Writer { args: &args, zone, any: false };
    for book in &named.books {
        let events = events(&client, *book, bottle, after, follow).await?;
        read(events, named.started.filter(|_| follow), &mut writer).await?;
    }
    match named.unknown {
        // Nothing so late: was there ever something?
        Some(error) if !writer.any && (after.is_none() || !knows(&client, &named.books, bottle).await?) => Err(error),
        _ => Ok(0),
    }
}

/// Tells whether a ledger has something of a bottle.
async fn knows(client: &Client, books: &[Book], bottle: Option<&str>) -> Result<bool> {
    for book in books {
        if events(client, *book, bottle, None, false).await?.next().await.transpose()?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads to the end of the events, or to the end of the bottle that has started then.
async fn read(mut events: Events, started: Option<i64>, writer: &mut Writer<'_>) -> Result<()> {
    let mut lines = Lines::default();
    while let Some(event) = events.next().await {
        let event = event?;
        writer.any = true;
        writer.write(lines.add(&event))?;
        // An earlier bottle of the same name has ended as well.
        if event.kind == "bottle.ended" && started.is_some_and(|started| event.ts >= started) {
            break;
        }
    }
    writer.write(lines.finish())
}

struct Writer<'a> {
    args: &'a Args,
    zone: TimeZone,
    /// Something was read.
    any: bool,
}

impl Writer<'_> {
    fn write(&self, lines: Vec<Line>) -> Result<()> {
        let wanted = |line: &Line| match line {
            Line::Request(request) => !self.args.denied || request.verdict == "denied",
            Line::Gap { .. } => true,
        };
        for line in lines.iter().filter(|line| wanted(line)) {
            if self.args.json {
                out::json(line)?;
            } else {
                out::print(&shown(line, &self.zone))?;
            }
        }
        Ok(())
    }
}

//! `bb usage`: what was used, from the ledgers.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, civil};

use crate::api::{By, Slice, UsageQuery, UsageReport};
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::lua::values::parse_duration;
use crate::types::Book;

use self::prices::Prices;
use self::view::{Shaped, View};
use super::faults::settings_or_warn;
use super::out;

mod follow;
mod prices;
pub(super) mod rate;
mod table;
mod view;

/// Show the tokens that were used, by bottle, agent, provider and model, or by time (docs/usage.md).
///
/// With --json one object: {"rows": [{bottle, agent, provider, model, requests, input, cache_read, cache_write, output,
/// reasoning, counted, estimated}], "total": {...}}. `reasoning` is a part of `output`; `counted` is what the budgets
/// were charged; `estimated` counts the requests whose figures are not the API's own final ones. Without --rehearsal the
/// object is that of the real book, and has that of rehearsals apart, as "rehearsal": {"rows": [...], "total": {...}}.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One row for each day, week, month, session (a bottle) or block (5 hours)
    #[arg(value_name = "PERIOD")]
    pub period: Option<Words>,
    /// What the rows are of, separated by commas
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub by: Vec<ByWord>,
    /// Write JSON on stdout
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Write CSV on stdout, with a head
    #[arg(long)]
    pub csv: bool,
    /// Stay, and tell of each use as it comes; with --json the events themselves
    #[arg(short, long, conflicts_with_all = ["csv", "period", "by", "since", "until", "prices"])]
    pub follow: bool,
    /// Only rehearsals
    #[arg(long)]
    pub rehearsal: bool,
    /// Only this bottle (its slug, or a unique beginning)
    #[arg(long, value_name = "SLUG", add = super::completions::slugs())]
    pub bottle: Option<String>,
    /// Only this run
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// Only this provider
    #[arg(long, value_name = "NAME")]
    pub provider: Option<String>,
    /// Not before: a date or time (2025-01-31, 2025-01-31T09:30, with Z or an offset), or how long ago (24h)
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Before: as --since; a date includes its day
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// A file with prices, for a column of money (docs/usage.md)
    #[arg(long, value_name = "FILE")]
    pub prices: Option<std::path::PathBuf>,
}

/// The words for stretches of time.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Words {
    /// Days of this host's time zone
    Day,
    /// Weeks, from Monday
    Week,
    /// Months
    Month,
    /// Bottles
    Session,
    /// Blocks of five hours
    Block,
}

impl From<Words> for Slice {
    fn from(word: Words) -> Slice {
        match word {
            Words::Day => Slice::Day,
            Words::Week => Slice::Week,
            Words::Month => Slice::Month,
            Words::Session => Slice::Session,
            Words::Block => Slice::Block,
        }
    }
}

/// The words for what rows are of.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum ByWord {
    /// A bottle
    Bottle,
    /// An agent
    Agent,
    /// A provider
    Provider,
    /// The model that answered
    Model,
    /// A recipe
    Recipe,
    /// A run
    Run,
}

impl From<ByWord> for By {
    fn from(word: ByWord) -> By {
        match word {
            ByWord::Bottle => By::Bottle,
            ByWord::Agent => By::Agent,
            ByWord::Provider => By::Provider,
            ByWord::Model => By::Model,
            ByWord::Recipe => By::Recipe,
            ByWord::Run => By::Run,
        }
    }
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    let (now, zone) = (Timestamp::now(), TimeZone::system());
    let moment =
        |text: &Option<String>, name, end| text.as_deref().map(|t| moment(t, name, end, now, &zone)).transpose();
    let (since, until) = (moment(&args.since, "--since", false)?, moment(&args.until, "--until", true)?);
    let prices = args.prices.as_deref().map(Prices::load).transpose()?;
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let mut node = args.run.as_ref().map(|run| format!("run:{run}"));
    let (bottle, unknown) = match &args.bottle {
        None => (None, None),
        Some(name) => match client.bottle(name).await {
            Ok(bottle) => {
                node = Some(format!("bottle:{}", bottle.account.unwrap_or(bottle.id)));
                (Some(bottle.slug), None)
            }
            // The ledger may know more names than the controller does.
            Err(error) if error.kind == Kind::NoSuchBottle => (Some(name.clone()), Some(error)),
            Err(error) => return Err(error),
        },
    };
    let of_book = if args.rehearsal { Book::Rehearsal } else { Book::Real };
    if args.follow {
        return follow::follow(&client, of_book, bottle, args.run, args.json, &zone).await;
    }
    let asked = View::new(args.period.map(Slice::from), args.by.iter().copied().map(By::from), prices);
    let query = UsageQuery {
        bottle,
        run: args.run.clone(),
        provider: args.provider.clone(),
        since,
        until,
        by: asked.query_by(),
        period: asked.period,
        zone: zone.iana_name().map(str::to_owned),
        ..UsageQuery::default()
    };
    let books: &[Book] = if args.rehearsal { &[Book::Rehearsal] } else { &[Book::Real, Book::Rehearsal] };
    let mut reports = Vec::new();
    for &book in books {
        // Asking for it would make the file.
        let report = if book == Book::Rehearsal && !home.rehearsal_ledger().exists() {
            UsageReport::default()
        } else {
            client.usage(&UsageQuery { book, ..query.clone() }).await?
        };
        reports.push((book, asked.shaped(report, &zone)));
    }
    if let Some(error) = unknown
        && reports.iter().all(|(_, shaped)| shaped.rows.is_empty())
    {
        return Err(error);
    }
    let now = now.as_millisecond();
    if let Some((_, first)) = reports.first_mut() {
        let node = node.unwrap_or_else(|| crate::ledger::GLOBAL.to_owned());
        first.budgets = rate::budgets(&client, of_book, &node, now).await?;
        if node == crate::ledger::GLOBAL {
            first.headroom = client.headroom(of_book).await?;
        }
        first.block = asked.block(&first.rows, now);
    }
    let weights = settings_or_warn(&home).weights.describe();
    if args.json {
        out::json(&Json::of(reports.into_iter().map(|(_, shaped)| shaped)))?;
        return Ok(0);
    }
    if args.csv {
        for line in table::csv(&asked, &reports) {
            out::print(&crate::printable::printable(&line, false))?;
        }
        return Ok(0);
    }
    let parts: Vec<String> =
        reports.iter().map(|(book, shaped)| table::section(*book, shaped, &asked, &weights, out::colour())).collect();
    out::print(parts.join("\n").trim_end())?;
    Ok(0)
}

/// The contract of --json: the book that was asked for, and the other one apart where both were.
#[derive(serde::Serialize)]
struct Json {
    #[serde(flatten)]
    report: Shaped,
    #[serde(skip_serializing_if = "Option::is_none")]
    rehearsal: Option<Shaped>,
}

impl Json {
    fn of(mut reports: impl Iterator<Item = Shaped>) -> Json {
        Json { report: reports.next().unwrap_or_default(), rehearsal: reports.next() }
    }
}

/// Reads a moment; `end` makes a date mean the end of its day. Returns milliseconds since the epoch.
pub(super) fn moment(text: &str, option: &str, end: bool, now: Timestamp, zone: &TimeZone) -> Result<i64> {
    let wrong = || {
        Error::new(Kind::Usage, format!("`{text}` is neither a date, a time nor a duration"))
            .at(option)
            .hint("write it as 2025-01-31, 2025-01-31T09:30, 2025-01-31T09:30:00Z, or how long ago: 24h, 7d")
    };
    let local = |time: civil::DateTime| time.to_zoned(zone.clone()).map(|z| z.timestamp()).map_err(|_| wrong());
    let at = if let Ok(exact) = text.parse::<Timestamp>() {
        exact
    } else if text.contains([':', 'T'])
        && let Ok(time) = text.parse::<civil::DateTime>()
    {
        local(time)?
    } else if let Ok(date) = text.parse::<civil::Date>() {
        let day = if end { date.checked_add(1.day()).map_err(|_| wrong())? } else { date };
        local(day.at(0, 0, 0, 0))?
    } else {
        let ago = parse_duration(text).map_err(|_| wrong())?;
        let ago = jiff::SignedDuration::try_from(ago).map_err(|_| wrong())?;
        now.checked_sub(ago).map_err(|_| wrong())?
    };
    Ok(at.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_exactly_the_documented_keys() {
        let report = || View::default().shaped(table::tests::report(), &TimeZone::UTC);
        let one = Json::of([report()].into_iter());
        let both = serde_json::to_value(Json::of([Shaped::default(), report()].into_iter())).unwrap();
        let value = serde_json::to_value(one).unwrap();
        assert_eq!((&both["rehearsal"], &both["rows"]), (&value, &serde_json::json!([])));
        let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(keys(&value), "rows total");
        let figures = "requests input cache_read cache_write output reasoning counted estimated";
        assert_eq!(keys(&value["rows"][0]), format!("bottle agent provider model {figures}"));
        assert_eq!(keys(&value["total"]), figures);
    }

    #[test]
    fn moments_are_dates_times_or_durations() {
        let now: Timestamp = "2025-03-10T12:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let at =
            |text: &str, end| Timestamp::from_millisecond(moment(text, "--since", end, now, &zone).unwrap()).unwrap();
        let is = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(at("2025-01-31", false), is("2025-01-30T22:00:00Z"));
        assert_eq!(at("2025-01-31", true), is("2025-01-31T22:00:00Z"), "a date in --until includes its day");
        assert_eq!(at("2025-01-31T09:30", false), is("2025-01-31T07:30:00Z"));
        assert_eq!(at("2025-01-31T09:30:00Z", true), is("2025-01-31T09:30:00Z"));
        assert_eq!(at("24h", false), is("2025-03-09T12:00:00Z"));
        for wrong in ["", "yesterday", "2025-13-01", "24", "2025-01-31T99:00"] {
            let error = moment(wrong, "--since", false, now, &zone).unwrap_err();
            assert_eq!((error.kind, error.place.as_deref()), (Kind::Usage, Some("--since")), "{wrong}");
        }
    }
}

//! `bb usage`: what was used, from the ledgers.

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, civil};

use crate::api::{UsageQuery, UsageReport, UsageTotal};
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::lua::values::parse_duration;
use crate::types::Book;

use super::faults::settings_or_warn;
use super::out::{self, Table, grouped};

/// Show the tokens that were used, by bottle, agent, provider and model.
///
/// With --json one object: {"rows": [{bottle, agent, provider, model, requests, input, cache_read, cache_write, output,
/// reasoning, counted, estimated}], "total": {...}}. `reasoning` is a part of `output`; `counted` is what the budgets
/// were charged; `estimated` counts the requests whose figures are not the API's own final ones. Without --rehearsal the
/// object is that of the real book, and has that of rehearsals apart, as "rehearsal": {"rows": [...], "total": {...}}.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// Only rehearsals
    #[arg(long)]
    pub rehearsal: bool,
    /// Only this bottle (its slug, or a unique beginning)
    #[arg(long, value_name = "SLUG", add = super::completions::slugs())]
    pub bottle: Option<String>,
    /// Only this run
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// Not before: a date or time (2025-01-31, 2025-01-31T09:30, with Z or an offset), or how long ago (24h)
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Before: as --since; a date includes its day
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
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
    let home = Home::from_env()?;
    let client = Client::connect_or_start(&home).await?;
    let (bottle, unknown) = match &args.bottle {
        None => (None, None),
        Some(name) => match client.bottle(name).await {
            Ok(bottle) => (Some(bottle.slug), None),
            // The ledger may know more names than the controller does.
            Err(error) if error.kind == Kind::NoSuchBottle => (Some(name.clone()), Some(error)),
            Err(error) => return Err(error),
        },
    };
    let query = UsageQuery { book: Book::Real, bottle, run: args.run, provider: None, since, until };
    let books: &[Book] = if args.rehearsal { &[Book::Rehearsal] } else { &[Book::Real, Book::Rehearsal] };
    let mut reports = Vec::new();
    for &book in books {
        // Asking for it would make the file.
        let report = if book == Book::Rehearsal && !home.rehearsal_ledger().exists() {
            UsageReport::default()
        } else {
            client.usage(&UsageQuery { book, ..query.clone() }).await?
        };
        reports.push((book, report));
    }
    if let Some(error) = unknown
        && reports.iter().all(|(_, r)| r.rows.is_empty())
    {
        return Err(error);
    }
    let weights = settings_or_warn(&home).weights.describe();
    if args.json {
        out::json(&Json::of(reports.into_iter().map(|(_, report)| report)))?;
        return Ok(0);
    }
    let parts: Vec<String> =
        reports.iter().map(|(book, report)| section(*book, report, &weights, out::colour())).collect();
    out::print(parts.join("\n").trim_end())?;
    Ok(0)
}

/// The contract of --json: the book that was asked for, and the other one apart where both were.
#[derive(serde::Serialize)]
struct Json {
    #[serde(flatten)]
    report: UsageReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    rehearsal: Option<UsageReport>,
}

impl Json {
    fn of(mut reports: impl Iterator<Item = UsageReport>) -> Json {
        Json { report: reports.next().unwrap_or_default(), rehearsal: reports.next() }
    }
}

/// Writes one book for people.
fn section(book: Book, report: &UsageReport, weights: &str, bold: bool) -> String {
    let name = match book {
        Book::Real => "Real usage",
        Book::Rehearsal => "Rehearsals (no cost)",
    };
    if report.rows.is_empty() {
        return format!("{name}: none\n");
    }
    let figures = |t: &UsageTotal| {
        [t.requests, t.input, t.cache_read, t.cache_write, t.output, t.reasoning, t.counted, t.estimated].map(grouped)
    };
    let mut table = Table::new(&[
        "BOTTLE",
        "AGENT",
        "PROVIDER",
        "MODEL",
        ">REQUESTS",
        ">INPUT",
        ">CACHE-READ",
        ">CACHE-WRITE",
        ">OUTPUT",
        ">REASONING",
        ">COUNTED",
        ">ESTIMATED",
    ]);
    for row in &report.rows {
        let names = [&row.bottle, &row.agent, &row.provider, &row.model].map(String::clone);
        table.row(names.into_iter().chain(figures(&row.total)).collect());
    }
    let empty = || String::new();
    table.row(["total".to_owned(), empty(), empty(), empty()].into_iter().chain(figures(&report.total)).collect());
    format!("{name} (tokens; weights today: {weights})\n{}", table.render(bold))
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
    use crate::api::UsageRow;

    fn report() -> UsageReport {
        let total = UsageTotal {
            requests: 3,
            input: 1200,
            cache_read: 30_000,
            cache_write: 500,
            output: 900,
            reasoning: 100,
            counted: 5600,
            estimated: 1,
        };
        let row = UsageRow {
            bottle: "fix-42".into(),
            agent: "claude".into(),
            provider: "claude".into(),
            model: "m\x1b[2J".into(),
            total,
        };
        UsageReport { rows: vec![row], total }
    }

    #[test]
    fn json_has_exactly_the_documented_keys() {
        let one = Json::of([report()].into_iter());
        let both = serde_json::to_value(Json::of([UsageReport::default(), report()].into_iter())).unwrap();
        let value = serde_json::to_value(one).unwrap();
        assert_eq!((&both["rehearsal"], &both["rows"]), (&value, &serde_json::json!([])));
        let keys = |v: &serde_json::Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(keys(&value), "rows total");
        let figures = "requests input cache_read cache_write output reasoning counted estimated";
        assert_eq!(keys(&value["rows"][0]), format!("bottle agent provider model {figures}"));
        assert_eq!(keys(&value["total"]), figures);
    }

    #[test]
    fn each_book_has_a_heading_its_weights_and_a_total() {
        let text = section(Book::Real, &report(), "cache_read 0.1", false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Real usage (tokens; weights today: cache_read 0.1)");
        assert!(lines[2].starts_with("fix-42  claude  claude    m\\x1b[2J "), "{text}");
        assert!(lines[2].ends_with("5,600          1"), "{text}");
        assert!(lines[3].starts_with("total ") && lines[3].contains("30,000"), "{text}");
        assert_eq!(section(Book::Rehearsal, &UsageReport::default(), "raw", false), "Rehearsals (no cost): none\n");
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

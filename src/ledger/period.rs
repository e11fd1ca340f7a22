//! Stretches of time that reports are cut into: days, weeks and months of a zone, blocks of five hours. No clock.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned, civil};

use crate::api::Slice;

/// Length of a block. Unit: milliseconds.
pub const BLOCK: i64 = 5 * HOUR;

const HOUR: i64 = 60 * 60 * 1000;

/// Says for each moment when something was used in which stretch it lies. Unit of all: milliseconds since the epoch.
pub struct Stretches {
    /// From a moment to the beginning and the end of its stretch.
    of: BTreeMap<i64, (i64, i64)>,
}

impl Stretches {
    /// Cuts `moments`; blocks follow from all of them together.
    pub fn cut(period: Slice, moments: impl IntoIterator<Item = i64>, zone: &TimeZone) -> Stretches {
        let mut of: BTreeMap<i64, (i64, i64)> = moments.into_iter().map(|at| (at, (at, at))).collect();
        let mut last: Option<(i64, i64)> = None;
        for (at, stretch) in &mut of {
            // Moments come in order: most lie in the stretch of the one before.
            let found = match last.filter(|(start, end)| (*start..*end).contains(at)) {
                Some(same) => same,
                None if period == Slice::Block => {
                    let start = at.div_euclid(HOUR) * HOUR;
                    (start, start + BLOCK)
                }
                None => of_calendar(period, *at, zone).unwrap_or((*at, *at + 1)),
            };
            *stretch = found;
            last = Some(found);
        }
        Stretches { of }
    }

    /// Gets the beginning and the end of the stretch that a moment lies in.
    pub fn of(&self, moment: i64) -> (i64, i64) {
        self.of.get(&moment).copied().unwrap_or((moment, moment))
    }
}

/// Gets the stretch of a calendar; `None` at its very ends.
fn of_calendar(period: Slice, at: i64, zone: &TimeZone) -> Option<(i64, i64)> {
    let day = Timestamp::from_millisecond(at).ok()?.to_zoned(zone.clone()).date();
    let (first, next) = match period {
        Slice::Week => {
            let first = day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days()).ok()?;
            (first, first.checked_add(1.week()).ok()?)
        }
        Slice::Month => (day.first_of_month(), day.first_of_month().checked_add(1.month()).ok()?),
        _ => (day, day.tomorrow().ok()?),
    };
    let begins = |day: civil::Date| Some(day.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond());
    Some((begins(first)?, begins(next)?))
}

/// Writes the beginning of a stretch: `2026-03-01` (of a week its Monday), `2026-03`, or with the time.
pub fn label(period: Slice, start: i64, zone: &TimeZone) -> String {
    let Ok(at) = Timestamp::from_millisecond(start) else { return start.to_string() };
    let at: Zoned = at.to_zoned(zone.clone());
    let form = match period {
        Slice::Day | Slice::Week => "%Y-%m-%d",
        Slice::Month => "%Y-%m",
        Slice::Session | Slice::Block => "%Y-%m-%d %H:%M",
    };
    at.strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn one(period: Slice, moment: &str, name: &str) -> (i64, i64) {
        let moment = at(moment);
        Stretches::cut(period, [moment], &zone(name)).of(moment)
    }

    #[test]
    fn days_weeks_and_months_are_those_of_the_zone() {
        let berlin = one(Slice::Day, "2026-03-29T22:15:00Z", "Europe/Berlin");
        assert_eq!(berlin, (at("2026-03-29T22:00:00Z"), at("2026-03-30T22:00:00Z")));
        // The day on which summer time begins has 23 hours, the one on which it ends 25.
        let short = one(Slice::Day, "2026-03-29T12:00:00Z", "Europe/Berlin");
        assert_eq!(short.1 - short.0, 23 * HOUR);
        let long = one(Slice::Day, "2026-10-25T12:00:00Z", "Europe/Berlin");
        assert_eq!(long.1 - long.0, 25 * HOUR);
        // A zone that is 5:45 ahead, and one whose clocks change by half an hour.
        let nepal = one(Slice::Day, "2026-05-05T18:20:00Z", "Asia/Kathmandu");
        assert_eq!(nepal.0, at("2026-05-05T18:15:00Z"));
        let lord_howe = one(Slice::Day, "2026-04-05T00:00:00Z", "Australia/Lord_Howe");
        assert_eq!(lord_howe.1 - lord_howe.0, 24 * HOUR + HOUR / 2);
        let week = one(Slice::Week, "2026-03-01T12:00:00Z", "UTC");
        assert_eq!(week, (at("2026-02-23T00:00:00Z"), at("2026-03-02T00:00:00Z")));
        let month = one(Slice::Month, "2024-02-29T23:59:00Z", "UTC");
        assert_eq!(month, (at("2024-02-01T00:00:00Z"), at("2024-03-01T00:00:00Z")));
    }

    #[test]
    fn a_block_begins_at_the_full_hour_of_its_first_use_and_lasts_five() {
        let moments = ["09:45", "14:45", "15:00", "23:15"].map(|time| at(&format!("2026-03-01T{time}:00Z")));
        let blocks = Stretches::cut(Slice::Block, moments, &TimeZone::UTC);
        let starts = moments.map(|moment| label(Slice::Block, blocks.of(moment).0, &TimeZone::UTC));
        assert_eq!(starts, ["2026-03-01 09:00", "2026-03-01 14:00", "2026-03-01 14:00", "2026-03-01 23:00"]);
        assert!(moments.iter().all(|moment| blocks.of(*moment).1 - blocks.of(*moment).0 == BLOCK));
    }

    #[test]
    fn labels_say_no_more_than_they_have_to() {
        let start = at("2026-03-01T00:00:00Z");
        let labels = [Slice::Day, Slice::Month, Slice::Block].map(|period| label(period, start, &TimeZone::UTC));
        assert_eq!(labels, ["2026-03-01", "2026-03", "2026-03-01 00:00"]);
    }
}

//! Windows: from when to when a limit counts that begins anew by itself (`per: day | week | month`).
//!
//! Pure: the time and the zone are handed in. Windows lie on the host's calendar: a day has 23 or 25 hours where the clock is
//! changed, a week begins on Monday. They lie side by side without a hole, so that every moment has exactly one.
//!
//! An account knows only when its window ends. So a clock that is set back gives nothing back: the window that has begun lasts
//! until its end has come by the clock. One that was set far ahead by mistake has begun a window there; a reset ends it.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::api::{Account, Period};

/// A window, in milliseconds since the epoch: `start <= t < end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its first moment.
    pub start: i64,
    /// The first moment of the next one.
    pub end: i64,
}

/// Gets the window of `now`; none for a limit that never begins anew.
pub fn window(now: i64, zone: &TimeZone, period: Period) -> Option<Window> {
    let today = Timestamp::from_millisecond(now).ok()?.to_zoned(zone.clone()).date();
    let window = around(today, zone, period)?;
    // Where the clock goes back over midnight, the day before is called so once more; the next one has begun all the same.
    let window = if now < window.end { window } else { around(today.tomorrow().ok()?, zone, period)? };
    (window.start <= now && now < window.end).then_some(window)
}

/// Gets the window that has a day.
fn around(day: Date, zone: &TimeZone, period: Period) -> Option<Window> {
    let begins = |date: Date| Some(date.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond());
    let (first, next) = match period {
        Period::Day => (day, day.tomorrow().ok()?),
        Period::Week => {
            let back = i64::from(day.weekday().to_monday_zero_offset());
            let monday = day.checked_sub(back.days()).ok()?;
            (monday, monday.checked_add(1.week()).ok()?)
        }
        Period::Month => (day.first_of_month(), day.first_of_month().checked_add(1.month()).ok()?),
        Period::Lifetime => return None,
    };
    Some(Window { start: begins(first)?, end: begins(next)? })
}

/// Has an account begin anew where its window is over: nothing is used, what is held is carried over, what was told and what
/// the operator has added end. Gets what was used in the window that is over, or none where it goes on.
pub fn turn(account: &mut Account, now: i64, zone: &TimeZone) -> Option<u64> {
    let end = account.resets?;
    if now < end {
        return None;
    }
    let next = window(now, zone, account.per?)?;
    account.resets = Some(next.end);
    account.limit = account.limit.map(|limit| limit.saturating_sub(account.raised));
    (account.raised, account.warned) = (0, 0);
    Some(std::mem::take(&mut account.used))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    /// Looks at windows: a moment, the host's zone, and the ends of the moment's window, as they are written in UTC.
    fn lie(period: Period, cases: &[[&str; 4]]) {
        for [now, name, start, end] in cases {
            let window = window(ms(now), &zone(name), period).unwrap();
            let ends = [window.start, window.end].map(|at| Timestamp::from_millisecond(at).unwrap().to_string());
            assert_eq!(ends, [*start, *end], "{now} {name}");
        }
    }

    #[test]
    fn a_day_goes_from_midnight_to_midnight_where_the_host_is() {
        lie(
            Period::Day,
            &[
                ["2025-06-10T12:00:00Z", "UTC", "2025-06-10T00:00:00Z", "2025-06-11T00:00:00Z"],
                // Zones at half and three quarters of an hour.
                ["2025-06-10T18:29:59Z", "Asia/Kolkata", "2025-06-09T18:30:00Z", "2025-06-10T18:30:00Z"],
                ["2025-06-10T18:15:00Z", "Asia/Kathmandu", "2025-06-10T18:15:00Z", "2025-06-11T18:15:00Z"],
                ["2025-12-10T00:00:00Z", "Pacific/Chatham", "2025-12-09T10:15:00Z", "2025-12-10T10:15:00Z"],
            ],
        );
    }

    #[test]
    fn the_last_moment_is_of_the_old_window_and_midnight_of_the_new_one() {
        let (utc, midnight) = (TimeZone::UTC, ms("2025-06-11T00:00:00Z"));
        let before = window(midnight - 1, &utc, Period::Day).unwrap();
        let after = window(midnight, &utc, Period::Day).unwrap();
        assert_eq!((before.end, after.start), (midnight, midnight));
    }

    #[test]
    fn a_day_on_which_the_clock_is_changed_has_23_or_25_hours() {
        let hours = |now, name| {
            let window = window(ms(now), &zone(name), Period::Day).unwrap();
            (window.end - window.start) / 3_600_000
        };
        assert_eq!(hours("2025-03-30T12:00:00Z", "Europe/Berlin"), 23);
        assert_eq!(hours("2025-10-26T12:00:00Z", "Europe/Berlin"), 25);
        assert_eq!(hours("2025-11-02T12:00:00Z", "America/Havana"), 25, "midnight comes twice");
        lie(
            Period::Day,
            &[
                // Midnight itself does not exist.
                ["2025-03-30T12:00:00Z", "Asia/Beirut", "2025-03-29T22:00:00Z", "2025-03-30T21:00:00Z"],
                // A day that never was: Samoa went from the 29th to the 31st.
                ["2011-12-30T09:59:59Z", "Pacific/Apia", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"],
            ],
        );
    }

    #[test]
    fn a_week_begins_on_monday_and_a_month_on_its_first_also_in_february() {
        // 2025-06-15 is a Sunday.
        lie(
            Period::Week,
            &[
                ["2025-06-15T23:59:59Z", "UTC", "2025-06-09T00:00:00Z", "2025-06-16T00:00:00Z"],
                ["2025-06-16T00:00:00Z", "UTC", "2025-06-16T00:00:00Z", "2025-06-23T00:00:00Z"],
            ],
        );
        lie(
            Period::Month,
            &[
                ["2024-02-29T23:00:00Z", "UTC", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"],
                ["2025-12-31T23:30:00Z", "Europe/Berlin", "2025-12-31T23:00:00Z", "2026-01-31T23:00:00Z"],
            ],
        );
        assert_eq!(window(0, &TimeZone::UTC, Period::Lifetime), None);
    }

    fn spent_today() -> Account {
        Account {
            per: Some(Period::Day),
            resets: Some(ms("2025-06-11T00:00:00Z")),
            limit: Some(150),
            raised: 50,
            set: true,
            used: 120,
            held: 30,
            warned: 80,
            ..Account::default()
        }
    }

    #[test]
    fn at_the_end_of_a_window_nothing_is_used_and_what_is_held_is_carried_over() {
        let mut account = spent_today();
        assert_eq!(turn(&mut account, ms("2025-06-10T23:59:59.999Z"), &TimeZone::UTC), None);
        assert_eq!(account, spent_today());
        assert_eq!(turn(&mut account, ms("2025-06-11T00:00:00Z"), &TimeZone::UTC), Some(120));
        assert_eq!((account.used, account.held, account.warned), (0, 30, 0));
        assert_eq!((account.limit, account.raised), (Some(100), 0), "what was added was for that day");
        assert_eq!(account.resets, Some(ms("2025-06-12T00:00:00Z")));
        // After a suspend of days it is the window of now that begins.
        let mut account = spent_today();
        turn(&mut account, ms("2025-06-20T08:00:00Z"), &TimeZone::UTC);
        assert_eq!(account.resets, Some(ms("2025-06-21T00:00:00Z")));
    }

    #[test]
    fn a_clock_that_is_set_back_gives_nothing_back() {
        let mut account = spent_today();
        turn(&mut account, ms("2025-06-11T00:00:00Z"), &TimeZone::UTC);
        account.used = 99;
        for earlier in ["2025-06-10T23:00:00Z", "2025-06-01T00:00:00Z", "1970-01-01T00:00:00Z"] {
            assert_eq!(turn(&mut account, ms(earlier), &TimeZone::UTC), None, "{earlier}");
        }
        assert_eq!((account.used, account.resets), (99, Some(ms("2025-06-12T00:00:00Z"))));
        // And a window that nothing can be said of does not begin.
        assert_eq!(turn(&mut account, i64::MAX, &TimeZone::UTC), None);
    }

    proptest! {
        #[test]
        fn windows_lie_side_by_side_in_every_zone(
            now in 0i64..4_102_444_800_000,
            at in 0usize..13,
            period in prop::sample::select(vec![Period::Day, Period::Week, Period::Month]),
        ) {
            let names = [
                "UTC", "Europe/Berlin", "America/New_York", "America/Havana", "America/Santiago", "Asia/Beirut",
                "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham",
                "Africa/Casablanca", "America/St_Johns",
            ];
            let zone = zone(names[at]);
            let this = window(now, &zone, period).unwrap();
            prop_assert!(this.start <= now && now < this.end);
            let next = window(this.end, &zone, period).unwrap();
            let before = window(this.start - 1, &zone, period).unwrap();
            prop_assert_eq!((before.end, next.start), (this.start, this.end), "no hole and no overlap");
        }
    }
}

//! What a provider says in an answer's head of how much of its own limits is used: of a subscription's windows, or of a key's rates.
//!
//! Pure: reads headers, believes no figure that makes no sense, decides nothing. bb's budgets know nothing of it.

use http::HeaderMap;
use jiff::Timestamp;

use crate::api::Window;

/// Most windows of one answer.
const MOST: usize = 8;

/// Reads what there is. `now`: milliseconds since the epoch, for times that are told from now on.
pub(super) fn read(headers: &HeaderMap, now: i64) -> Vec<Window> {
    let mut windows = Vec::new();
    for name in ["5h", "7d", "7d_opus", "7d_sonnet", "overage"] {
        let key = |end: &str| format!("anthropic-ratelimit-unified-{name}-{end}");
        let used = number(headers, &key("utilization")).and_then(|share| thousandths(share * 1000.0));
        windows.extend(used.map(|used| Window { name: name.to_owned(), used, resets: epoch(headers, &key("reset")) }));
    }
    for window in ["primary", "secondary"] {
        let key = |end: &str| format!("x-codex-{window}-{end}");
        let used = number(headers, &key("used-percent")).and_then(|percent| thousandths(percent * 10.0));
        let after = || number(headers, &key("reset-after-seconds")).and_then(|seconds| later(now, seconds * 1000.0));
        let resets = epoch(headers, &key("reset-at")).or_else(after);
        let name = number(headers, &key("window-minutes")).and_then(length).unwrap_or_else(|| window.to_owned());
        windows.extend(used.map(|used| Window { name, used, resets }));
    }
    for kind in ["requests", "tokens", "input-tokens", "output-tokens"] {
        let key = |end: &str| format!("anthropic-ratelimit-{kind}-{end}");
        let resets = text(headers, &key("reset")).and_then(|time| time.parse::<Timestamp>().ok());
        let used = used_of(headers, &key("limit"), &key("remaining"));
        let resets = resets.map(Timestamp::as_millisecond);
        windows.extend(used.map(|used| Window { name: kind.to_owned(), used, resets }));
    }
    for kind in ["requests", "tokens"] {
        let used = used_of(headers, &format!("x-ratelimit-limit-{kind}"), &format!("x-ratelimit-remaining-{kind}"));
        let after = text(headers, &format!("x-ratelimit-reset-{kind}")).and_then(duration);
        let resets = after.and_then(|ms| later(now, ms));
        windows.extend(used.map(|used| Window { name: kind.to_owned(), used, resets }));
    }
    windows.truncate(MOST);
    windows
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<f64> {
    text(headers, name)?.trim().parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

/// Makes a share one in whole thousandths, rounded up; what is beyond a limit may be so by ten times at most.
fn thousandths(share: f64) -> Option<u32> {
    // A tenth of a thousandth is noise of binary fractions.
    (0.0..=10_000.0).contains(&share).then(|| (share - 0.1).ceil().max(0.0) as u32)
}

/// Gets the used share from a limit and what remains of it.
fn used_of(headers: &HeaderMap, limit: &str, remaining: &str) -> Option<u32> {
    let (limit, remaining) = (number(headers, limit)?, number(headers, remaining)?);
    if limit > 0.0 && remaining <= limit { thousandths((limit - remaining) / limit * 1000.0) } else { None }
}

/// Reads seconds since the epoch, as milliseconds.
fn epoch(headers: &HeaderMap, name: &str) -> Option<i64> {
    let seconds = number(headers, name)?;
    (seconds > 1e9 && seconds < 1e11).then_some((seconds * 1000.0) as i64)
}

/// Gets the moment so many milliseconds after `now`, a year at most.
fn later(now: i64, ms: f64) -> Option<i64> {
    (0.0..=366.0 * 86_400_000.0).contains(&ms).then(|| now.saturating_add(ms as i64))
}

/// Names a window by its length in minutes.
fn length(minutes: f64) -> Option<String> {
    let minutes = minutes as u64;
    match minutes {
        0 => None,
        _ if minutes.is_multiple_of(1440) => Some(format!("{}d", minutes / 1440)),
        _ if minutes.is_multiple_of(60) => Some(format!("{}h", minutes / 60)),
        _ => Some(format!("{minutes}m")),
    }
}

/// Reads a time like `6m0s`, `1.5s` or `20ms`. Unit: milliseconds.
fn duration(text: &str) -> Option<f64> {
    let mut rest = text.trim();
    let mut sum = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        sum += amount
            * match rest.get(..letters)? {
                "ms" => 1.0,
                "s" => 1000.0,
                "m" => 60_000.0,
                "h" => 3_600_000.0,
                "d" => 86_400_000.0,
                _ => return None,
            };
        rest = rest.get(letters..)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_772_323_200_000;

    fn told(lines: &[(&'static str, &'static str)]) -> Vec<(String, u32, Option<i64>)> {
        let headers = lines
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        let windows = read(&headers.collect(), NOW);
        windows.into_iter().map(|window| (window.name, window.used, window.resets)).collect()
    }

    #[test]
    fn each_providers_headers_are_read() {
        let anthropic = told(&[
            ("anthropic-ratelimit-unified-5h-utilization", "0.29"),
            ("anthropic-ratelimit-unified-5h-reset", "1772330400"),
            ("anthropic-ratelimit-unified-7d-utilization", "1.02"),
            ("anthropic-ratelimit-unified-status", "allowed"),
        ]);
        assert_eq!(anthropic, [("5h".into(), 290, Some(1_772_330_400_000)), ("7d".into(), 1020, None)]);
        let codex = told(&[
            ("x-codex-primary-used-percent", "12.5"),
            ("x-codex-primary-window-minutes", "300"),
            ("x-codex-primary-reset-after-seconds", "60"),
            ("x-codex-secondary-used-percent", "3"),
            ("x-codex-secondary-window-minutes", "10080"),
            ("x-codex-secondary-reset-at", "1772330400"),
        ]);
        assert_eq!(codex, [("5h".into(), 125, Some(NOW + 60_000)), ("7d".into(), 30, Some(1_772_330_400_000))]);
        let openai = told(&[
            ("x-ratelimit-limit-tokens", "40000"),
            ("x-ratelimit-remaining-tokens", "30000"),
            ("x-ratelimit-reset-tokens", "1m1.5s"),
            ("x-ratelimit-limit-requests", "10"),
        ]);
        assert_eq!(openai, [("tokens".into(), 250, Some(NOW + 61_500))]);
        let key = told(&[
            ("anthropic-ratelimit-input-tokens-limit", "1000"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-03-01T00:00:30Z"),
        ]);
        assert_eq!(key, [("input-tokens".into(), 1000, Some(NOW + 30_000))]);
    }

    #[test]
    fn what_makes_no_sense_is_not_believed() {
        for value in ["-1", "NaN", "inf", "much", "", "1e300"] {
            assert_eq!(told(&[("anthropic-ratelimit-unified-5h-utilization", value)]), [], "{value}");
            assert_eq!(told(&[("x-codex-primary-used-percent", value)]), [], "{value}");
        }
        assert_eq!(told(&[("x-ratelimit-limit-tokens", "0"), ("x-ratelimit-remaining-tokens", "0")]), []);
        assert_eq!(told(&[("x-ratelimit-limit-tokens", "5"), ("x-ratelimit-remaining-tokens", "6")]), []);
        assert_eq!(told(&[("x-codex-primary-used-percent", "5"), ("x-codex-primary-reset-at", "5")])[0].2, None);
        assert_eq!(["", "5", "s", "5 s", "5y", "1h2"].map(duration), [None; 6]);
    }
}

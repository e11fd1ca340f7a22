//! `bb usage -f`: what is used, as it comes.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::api::Event;
use crate::cli::out::{self, grouped};
use crate::client::{Client, EventFilter};
use crate::error::Result;
use crate::printable::printable;
use crate::types::Book;

/// Tells of each use, and of what budgets do, until it is interrupted.
pub(super) async fn follow(
    client: &Client,
    book: Book,
    bottle: Option<String>,
    run: Option<String>,
    json: bool,
    zone: &TimeZone,
) -> Result<u8> {
    let mut events = client.events(EventFilter { book, bottle, run, follow: true, ..EventFilter::default() }).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        let Some(told) = told(&event, zone) else { continue };
        if json {
            out::json(&event)?;
        } else {
            out::print(&printable(&told.replace('\n', " "), false))?;
        }
    }
    Ok(0)
}

/// Writes an event that is of interest as a line.
fn told(event: &Event, zone: &TimeZone) -> Option<String> {
    let text = |key: &str| event.data[key].as_str().unwrap_or("-");
    let number = |value: &Value| grouped(value.as_u64().unwrap_or(0));
    let what = match event.kind.as_str() {
        "usage" => {
            let tokens = &event.data["tokens"];
            let figures = [("in", "input"), ("cache", "cache_read"), ("written", "cache_write"), ("out", "output")];
            let figures = figures.map(|(word, key)| format!("{word} {}", number(&tokens[key]))).join("  ");
            let source = if text("source") == "exact" { String::new() } else { format!(" ({})", text("source")) };
            let budget = &event.data["budget"];
            let left = budget["limit"].as_u64().map(|limit| {
                let left = limit.saturating_sub(budget["used"].as_u64().unwrap_or(0));
                format!("  left {}", grouped(left))
            });
            let counted = number(&event.data["counted"]);
            format!("{}  {figures}  counted {counted}{source}{}", text("model"), left.unwrap_or_default())
        }
        "crossed" => {
            let (used, limit) = (number(&event.data["used"]), number(&event.data["limit"]));
            format!("BUDGET of {} for {} is spent: {used} of {limit}", text("node"), text("provider"))
        }
        "threshold" => {
            let (used, limit) = (number(&event.data["used"]), number(&event.data["limit"]));
            let percent = event.data["percent"].as_u64().unwrap_or(0);
            format!("{percent}% of the budget of {} for {}: {used} of {limit}", text("node"), text("provider"))
        }
        "enforced" => format!("{}: {}", text("action"), text("reason")),
        "gap" => "some were missed: this reader was too slow".to_owned(),
        _ => return None,
    };
    let at = Timestamp::from_millisecond(event.ts).ok()?.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string();
    Some(format!("{at}  {}  {what}", event.bottle.as_deref().unwrap_or("-")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_use_is_a_line_and_what_is_none_is_not() {
        let data = json!({"model": "m", "tokens": {"input": 1200, "cache_read": 3, "cache_write": 0, "output": 40},
            "counted": 1240, "source": "partial", "budget": {"used": 1300, "limit": 5000}});
        let event = |kind: &str, data| Event {
            v: 1,
            seq: 1,
            ts: 0,
            kind: kind.into(),
            bottle: Some("b".into()),
            run: None,
            data,
        };
        let line = told(&event("usage", data), &TimeZone::UTC).unwrap();
        assert_eq!(line, "00:00:00  b  m  in 1,200  cache 3  written 0  out 40  counted 1,240 (partial)  left 3,700");
        let crossed = json!({"node": "global", "provider": "*", "used": 10, "limit": 9});
        let line = told(&event("crossed", crossed), &TimeZone::UTC).unwrap();
        assert_eq!(line, "00:00:00  b  BUDGET of global for * is spent: 10 of 9");
        let passed = json!({"node": "global", "provider": "*", "percent": 80, "used": 8, "limit": 10, "left": 2});
        let line = told(&event("threshold", passed), &TimeZone::UTC).unwrap();
        assert_eq!(line, "00:00:00  b  80% of the budget of global for *: 8 of 10");
        assert_eq!(told(&event("request", json!({})), &TimeZone::UTC), None);
    }
}

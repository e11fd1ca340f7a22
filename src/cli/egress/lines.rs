//! From events to the lines of `bb egress log`: one for each request that was allowed or refused. Pure; the form of its JSON is
//! a contract (docs/egress-log.md).

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::Value;

use crate::api::Event;
use crate::cli::out::grouped;
use crate::egress::Denial;
use crate::printable::printable;
use crate::types::Tokens;

/// Requests of which the beginning or the usage was seen and not the end, at most: what is older is told without its end.
const MOST_OPEN: usize = 8192;
/// Of those that were told without their end, how many are known, so that what comes of them later is not told as another.
const MOST_TOLD: usize = 65_536;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// A request.
    Request(Box<Request>),
    /// Events that this reader missed.
    Gap {
        /// 1.
        v: u8,
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
}

/// A request that was allowed or refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Request {
    /// 1.
    pub v: u8,
    /// Position of the event that it was made of, in its book.
    pub seq: u64,
    /// When that was written: at the end of what was allowed. Milliseconds since the epoch.
    pub ts: i64,
    /// The bottle.
    pub bottle: String,
    /// `allowed` or `denied`.
    pub verdict: &'static str,
    /// `https`, `http`, `tls` (passed through unseen), `tcp`, `udp` or `dns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Method; none where no request was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Name; an address where there was none.
    pub host: String,
    /// Port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u64>,
    /// Path without query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The entry of the allow-list that allowed it, as `bb why` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// It came through the bottle's own proxy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub proxied: bool,
    /// The denial (docs/denials.md).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The denial in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Refused as expected: nobody needs to look.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub quiet: bool,
    /// Status that the agent saw; none where there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u64>,
    /// Bytes of bodies out of the bottle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<u64>,
    /// Bytes of bodies into it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down: Option<u64>,
    /// From the verdict to the end. Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// How it ended; `open` and `lost` where no end was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// What the model API reported, where it is metered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// What of it budgets were charged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted: Option<u64>,
    /// Allowed requests before this one that were not written one by one, with their bytes; of refusals, how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<Value>,
}

/// What is known of a request whose end has not been seen.
struct Open {
    line: Request,
    /// Its `request` or `usage` event was seen; what `usage` says is in the line.
    bottle: Option<String>,
    /// Its place among those that are open.
    at: u64,
}

/// Makes lines of events, in their order.
#[derive(Default)]
pub struct Lines {
    open: HashMap<String, Open>,
    /// The ids of those that are open, in the order in which they came up.
    order: BTreeMap<u64, String>,
    next: u64,
    /// Ids of what was told without its end, the oldest first.
    told: (HashSet<String>, VecDeque<String>),
}

impl Lines {
    /// Takes an event. Gets the lines that it completes.
    pub fn add(&mut self, event: &Event) -> Vec<Line> {
        let data = &event.data;
        let exchange = data["exchange"].as_str().map(str::to_owned);
        match (event.kind.as_str(), exchange) {
            // What a later controller charged for a request of one that was killed: nobody is left to tell more.
            ("usage", None) if data["how"] == "swept" => vec![told(ended(of(event, None), "lost"))],
            ("request" | "usage", None) => vec![told(of(event, None))],
            // It was told, and has one line only.
            ("request" | "usage" | "request.ended", Some(id)) if self.told.0.contains(&id) => vec![],
            // Of a request whose end was told already.
            ("usage", Some(id)) if data["late"] == true && !self.open.contains_key(&id) => vec![],
            ("request" | "usage", Some(id)) => {
                let known = self.take(&id).map(|open| open.line);
                let line = of(event, known);
                self.remember(id, line, event.bottle.clone())
            }
            ("request.ended", id) => {
                let known = id.and_then(|id| self.take(&id)).map(|open| open.line);
                vec![told(of(event, known))]
            }
            ("denied", _) => vec![told(of(event, None))],
            ("gap", _) => {
                let at = |key: &str| data[key].as_u64().unwrap_or_default();
                vec![Line::Gap { v: 1, from: at("from"), to: at("to") }]
            }
            // Its controller died, and with it what would have told the ends; or the bottle has ended, which is told after all of them.
            ("bottle.adopted" | "bottle.ended", _) => self.rest("lost", |open| open.bottle == event.bottle),
            _ => vec![],
        }
    }

    /// Gets what has begun and has no end so far.
    pub fn finish(&mut self) -> Vec<Line> {
        self.rest("open", |_| true)
    }

    fn remember(&mut self, id: String, line: Request, bottle: Option<String>) -> Vec<Line> {
        let at = self.next;
        self.next += 1;
        self.order.insert(at, id.clone());
        self.open.insert(id, Open { line, bottle, at });
        let mut lines = vec![];
        while self.open.len() > MOST_OPEN
            && let Some((_, oldest)) = self.order.pop_first()
        {
            let open = self.open.remove(&oldest);
            self.has_told(oldest);
            lines.extend(open.map(|open| told(ended(open.line, "open"))));
        }
        lines
    }

    fn take(&mut self, id: &str) -> Option<Open> {
        let open = self.open.remove(id)?;
        self.order.remove(&open.at);
        Some(open)
    }

    /// Notes that a request was told without its end.
    fn has_told(&mut self, id: String) {
        let (known, order) = &mut self.told;
        if known.insert(id.clone()) {
            order.push_back(id);
        }
        while order.len() > MOST_TOLD
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }

    fn rest(&mut self, how: &str, which: impl Fn(&Open) -> bool) -> Vec<Line> {
        let ids: Vec<String> = self.open.iter().filter(|(_, open)| which(open)).map(|(id, _)| id.clone()).collect();
        let mut lines: Vec<Request> = vec![];
        for id in ids {
            lines.extend(self.take(&id).map(|open| ended(open.line, how)));
            self.has_told(id);
        }
        lines.sort_by_key(|line| line.seq);
        lines.into_iter().map(told).collect()
    }
}

fn told(line: Request) -> Line {
    Line::Request(Box::new(line))
}

fn ended(mut line: Request, how: &str) -> Request {
    line.end = Some(how.to_owned());
    line
}

/// Reads what an event says into what earlier ones of the same request said.
fn of(event: &Event, known: Option<Request>) -> Request {
    let data = &event.data;
    let mut line = known.unwrap_or_default();
    let text = |key: &str| data[key].as_str().map(str::to_owned);
    let figure = |key: &str| data[key].as_u64();
    line.v = 1;
    line.seq = event.seq;
    line.ts = event.ts;
    line.bottle = event.bottle.clone().unwrap_or_default();
    line.verdict = if event.kind == "denied" { "denied" } else { "allowed" };
    line.scheme = text("scheme").or_else(|| text("proto")).or(line.scheme);
    line.method = text("method").or(line.method);
    line.host = text("host").unwrap_or(line.host);
    line.port = figure("port").or(line.port);
    line.path = text("path").or(line.path);
    line.rule = text("rule").or(line.rule);
    line.proxied = data["proxied"].as_bool().unwrap_or(line.proxied);
    line.kind = (event.kind == "denied").then(|| text("kind")).flatten();
    line.reason = text("reason").map(|reason| reason.trim_start_matches("bb: ").to_owned());
    line.quiet = data["quiet"].as_bool().unwrap_or(false);
    line.status = figure("status").filter(|status| *status != 0).or(line.status);
    line.up = figure("up").or(line.up);
    line.down = figure("down").or(line.down);
    line.end = text("end");
    if event.kind == "denied" {
        line.left_out = figure("dropped").map(Value::from);
        line.status = line.method.as_ref().and_then(|_| answered(line.kind.as_deref(), line.quiet));
    } else if event.kind == "request.ended" {
        line.left_out = data.get("left_out").filter(|left| !left.is_null()).cloned();
    }
    if event.kind == "usage" {
        let of_event = serde_json::from_value::<Tokens>(data["tokens"].clone()).ok();
        // One request can be charged more than once: a WebSocket for each answer. What came late takes the place of what was said
        // before.
        let earlier = if data["late"] == true { figure("before") } else { Some(0) };
        line.counted =
            figure("counted").map(|now| (line.counted.unwrap_or(0) + now).saturating_sub(earlier.unwrap_or(0)));
        line.tokens = match (line.tokens, of_event) {
            (Some(sum), Some(more)) if data["late"] != true => Some(added(sum, more)),
            (sum, more) => more.or(sum),
        };
    } else {
        line.ms = figure("ms").or(line.ms);
    }
    line
}

fn added(one: Tokens, other: Tokens) -> Tokens {
    Tokens {
        input: one.input.saturating_add(other.input),
        cache_read: one.cache_read.saturating_add(other.cache_read),
        cache_write: one.cache_write.saturating_add(other.cache_write),
        cache_write_long: one.cache_write_long.saturating_add(other.cache_write_long),
        output: one.output.saturating_add(other.output),
        reasoning: one.reasoning.saturating_add(other.reasoning),
    }
}

/// Gets the status of a denial's answer.
fn answered(kind: Option<&str>, quiet: bool) -> Option<u64> {
    let kind = Denial::ALL.iter().find(|known| Some(known.as_str()) == kind)?;
    Some(if quiet { 404 } else { u64::from(kind.status().as_u16()) })
}

/// Writes a line for people. What an agent chose stays on the line.
pub fn shown(line: &Line, zone: &TimeZone) -> String {
    let line = match line {
        Line::Gap { from, to, .. } => {
            return format!("(events {from} to {to} were missed: more was written than this could read)");
        }
        Line::Request(line) => line,
    };
    let time = Timestamp::from_millisecond(line.ts).unwrap_or_default().to_zoned(zone.clone());
    let mut words =
        vec![time.strftime("%F %T").to_string(), line.bottle.clone(), format!("{:7}", line.verdict), asked(line)];
    words.extend(line.status.map(|status| status.to_string()));
    words.extend(line.kind.as_ref().map(|kind| if line.quiet { format!("{kind} (quiet)") } else { kind.clone() }));
    words.extend(line.rule.as_ref().map(|rule| format!("by `{rule}`")));
    if line.verdict == "allowed" {
        words.extend(line.up.map(|up| format!("up {}", bytes(up))));
        words.extend(line.down.map(|down| format!("down {}", bytes(down))));
    }
    words.extend(line.ms.map(time_of));
    if let Some(tokens) = &line.tokens {
        let input = [tokens.input, tokens.cache_read, tokens.cache_write, tokens.cache_write_long];
        let input = input.into_iter().fold(0, u64::saturating_add);
        words.push(format!("tokens {} in {} out", grouped(input), grouped(tokens.output)));
    }
    words.extend(line.end.as_ref().filter(|end| *end != "whole").map(|end| format!("({})", said(end))));
    words.extend(line.left_out.as_ref().map(|left| match left.as_u64() {
        Some(refusals) => format!("[{} like it left out before]", grouped(refusals)),
        None => {
            let figure = |key: &str| left[key].as_u64().unwrap_or_default();
            let (requests, up, down) = (grouped(figure("requests")), bytes(figure("up")), bytes(figure("down")));
            format!("[{requests} requests left out before: up {up}, down {down}]")
        }
    }));
    printable(&words.join("  ").replace(['\n', '\t'], " "), false)
}

/// Says what was asked for, as an address.
fn asked(line: &Request) -> String {
    let scheme = line.scheme.as_deref().unwrap_or("https");
    let usual = matches!((scheme, line.port), (_, None) | ("https", Some(443)) | ("http", Some(80)));
    let port = line.port.filter(|_| !usual).map(|port| format!(":{port}")).unwrap_or_default();
    let host = if line.host.contains(':') { format!("[{}]", line.host) } else { line.host.clone() };
    let address = format!("{scheme}://{host}{port}{}", line.path.as_deref().unwrap_or_default());
    match line.method.as_deref() {
        Some(method) if scheme != "tls" => format!("{method} {address}"),
        _ => address,
    }
}

fn said(end: &str) -> &str {
    match end {
        "open" => "no end so far",
        "lost" => "its end was not recorded",
        "gone" => "the agent went away",
        "too_large" => "too large",
        other => other,
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut whole, mut unit) = (count, 0);
    while whole >= 1024 * 1024 && unit + 1 < UNITS.len() {
        whole /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", whole / 1024, whole % 1024 * 10 / 1024, UNITS[unit])
}

fn time_of(ms: u64) -> String {
    if ms < 10_000 { format!("{ms} ms") } else { format!("{} s", grouped(ms / 1000)) }
}

#[cfg(test)]
mod tests;

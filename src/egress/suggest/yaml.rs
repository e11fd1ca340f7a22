//! Suggested routes as a person reads them and a manifest takes them: YAML, with a comment beside each entry.
//!
//! Names and paths were chosen by an agent. A text of its stands in double quotes with everything escaped that YAML could read, or
//! in a comment of printable characters on one line: none of it can begin a line, a key or a document.

use jiff::Timestamp;

use super::{Seen, Suggested, Suggestion};
use crate::api::{Match, PathKind};

/// Longest text of an agent in a comment. Unit: characters.
const MOST: usize = 120;

/// Writes the whole answer. It is a document by itself, and can be copied into the front matter of a manifest.
pub fn yaml(suggested: &Suggested) -> String {
    let mut lines = vec![
        "# What was refused, as routes. Nothing has been changed: read each entry, and add to a bottle's manifest what the".to_owned(),
        "# agent should have. An allowed host with methods that write is a way out for whatever the agent can read.".to_owned(),
    ];
    if suggested.routes.is_empty() {
        lines.push("# Nothing was refused that a route would let pass.".to_owned());
    } else {
        lines.push("egress:".to_owned());
        lines.push("  routes:".to_owned());
    }
    for suggestion in &suggested.routes {
        entry(suggestion, &mut lines);
    }
    if !suggested.left_out.is_empty() {
        lines.push("# Left out:".to_owned());
        for left in &suggested.left_out {
            lines.push(format!("#   {} ({}): {}", plain(&left.what), times(&left.seen), plain(&left.why)));
        }
        if suggested.more > 0 {
            lines.push(format!("#   and {} more refusals; `bb egress log --denied` has them", suggested.more));
        }
    }
    lines.join("\n")
}

fn entry(suggestion: &Suggestion, lines: &mut Vec<String>) {
    let route = &suggestion.route;
    if suggestion.seen.times > 0 {
        lines.push(format!("    # {}", times(&suggestion.seen)));
    }
    if let Some(note) = &suggestion.note {
        lines.push(format!("    # {}", plain_whole(note)));
    }
    lines.push(format!("    - host: {}", quoted(&route.host)));
    if !route.ports.is_empty() {
        let ports: Vec<String> = route.ports.iter().map(u16::to_string).collect();
        lines.push(format!("      ports: [{}]", ports.join(", ")));
    }
    if !route.matches.is_empty() {
        lines.push("      matches:".to_owned());
        route.matches.iter().for_each(|rule| matching(rule, lines));
    }
    if !route.quiet.is_empty() {
        let quiet: Vec<String> = route.quiet.iter().map(|path| quoted(path)).collect();
        lines.push(format!("      quiet: [{}]", quiet.join(", ")));
    }
    if !route.allow_private.is_empty() {
        let ranges: Vec<String> = route.allow_private.iter().map(|range| quoted(&range.to_string())).collect();
        lines.push(format!("      allow_private: [{}]", ranges.join(", ")));
    }
    for (key, most) in [("max_request", route.max_request), ("max_response", route.max_response)] {
        lines.extend(most.map(|most| format!("      {key}: {most}")));
    }
    if route.websocket {
        lines.push("      websocket: true".to_owned());
    }
}

fn matching(rule: &Match, lines: &mut Vec<String>) {
    let mut keys = vec![];
    if !rule.methods.is_empty() {
        let methods: Vec<String> = rule.methods.iter().map(|method| quoted(method)).collect();
        keys.push(format!("methods: [{}]", methods.join(", ")));
    }
    if !rule.paths.is_empty() {
        let path = |kind: PathKind, value: &str| {
            let kind = match kind {
                PathKind::Exact => "exact",
                PathKind::Prefix => "prefix",
                PathKind::Regex => "regex",
            };
            format!("            - {{type: {kind}, value: {}}}", quoted(value))
        };
        let paths: Vec<String> = rule.paths.iter().map(|rule| path(rule.kind, &rule.value)).collect();
        keys.push(format!("paths:\n{}", paths.join("\n")));
    }
    if keys.is_empty() {
        lines.push("        - {}".to_owned());
    }
    for (at, key) in keys.iter().enumerate() {
        lines.push(format!("        {} {key}", if at == 0 { "-" } else { " " }));
    }
}

fn times(seen: &Seen) -> String {
    let time =
        |ms: i64| Timestamp::from_millisecond(ms).map_or_else(|_| "?".to_owned(), |t| t.strftime("%FT%TZ").to_string());
    let kinds: Vec<String> = seen.kinds.iter().map(|(kind, times)| format!("{} {times}x", plain(kind))).collect();
    let bottles: Vec<String> = seen.bottles.iter().map(|bottle| plain(bottle)).collect();
    let (first, last) = (time(seen.first), time(seen.last));
    let when = if first == last { first } else { format!("{first} to {last}") };
    format!("{}; {when}; in {}", kinds.join(", "), plain(&bottles.join(" ")))
}

/// Writes a text as a double-quoted scalar (YAML 1.2, 7.3.1).
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match (c, u32::from(c)) {
            ('"' | '\\', _) => out.extend(['\\', c]),
            (' '..='~', _) => out.push(c),
            (_, code @ 0..=0xffff) => out.push_str(&format!("\\u{code:04x}")),
            (_, code) => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    out.push('"');
    out
}

/// Makes a text of an agent one that stands in a comment.
fn plain(text: &str) -> String {
    let cut = if text.chars().count() > MOST { "..." } else { "" };
    plain_whole(&text.chars().take(MOST).collect::<String>()) + cut
}

fn plain_whole(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

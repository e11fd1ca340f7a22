//! Budgets and amounts of tokens, which settings and manifests share.

use super::read::{boolean, list, table, word};
use super::{Entry, Node, Problems};
use crate::api::{Gate, Limit, OnCross, Period, Terms};
use crate::budget::{check_thresholds, parse_amount};
use crate::name::Name;

const KEYS: [&str; 9] = ["tokens", "hard", "per", "lifetime", "gate", "on_cross", "wrap_up", "warn", "tell"];

/// Reads a budget: a provider's name, then an amount or a table.
pub fn budget(node: &Node, problems: &mut Problems) -> Vec<Limit> {
    let mut limits = Vec::new();
    for entry in table(node, "`budget`", problems) {
        if entry.key != "*" && Name::parse(&entry.key).is_err() {
            let shown: String = entry.key.chars().take(60).collect();
            problems.add(entry.line, format!("`{shown}` is not a provider's name")).hint =
                Some("write a name such as claude, or \"*\" (in quotes) for all together".to_owned());
            continue;
        }
        limits.push(limit(&entry.key, &entry.value, entry.line, problems));
    }
    limits
}

/// Reads what stands for a provider: an amount, or a table.
pub fn limit(provider: &str, node: &Node, line: usize, problems: &mut Problems) -> Limit {
    let mut limit = Limit::of(provider, None);
    let Some(entries) = node.entries() else {
        limit.tokens = tokens(node, problems);
        return limit;
    };
    let mut said = false;
    for entry in entries {
        match entry.key.as_str() {
            "tokens" => {
                said = true;
                limit.tokens = tokens(&entry.value, problems);
            }
            "hard" => limit.hard = boolean(entry, problems).unwrap_or_default(),
            "per" | "lifetime" => time(entry, &mut limit, problems),
            _ => term(entry, &mut limit.terms, problems),
        }
    }
    if !said {
        problems.add(line, format!("the budget of `{provider}` does not say `tokens`")).hint =
            Some("add it, such as `tokens: 5000000`".to_owned());
    }
    limit
}

/// Reads an amount.
pub fn tokens(node: &Node, problems: &mut Problems) -> Option<u64> {
    match node.text().map(parse_amount) {
        Some(Ok(amount)) => amount,
        wrong => {
            let message = wrong.and_then(Result::err).map_or("an amount is missing".to_owned(), |e| e.to_string());
            problems.add(node.line, message).hint =
                Some("write a number such as 5000000, 200k or 1.5M, or unlimited".to_owned());
            None
        }
    }
}

/// Reads how long a limit counts: `per: day`, or `lifetime: true`.
fn time(entry: &Entry, limit: &mut Limit, problems: &mut Problems) {
    let said = match entry.key.as_str() {
        "per" => word(entry, &Period::WORDS, &[], problems),
        _ => boolean(entry, problems).unwrap_or_default().then_some(Period::Lifetime),
    };
    if said.is_some() && limit.per.is_some() {
        problems.add(entry.line, "`per` and `lifetime` contradict each other").hint =
            Some("take one of them out: with `lifetime` the limit never begins anew".to_owned());
    }
    limit.per = said.or(limit.per);
}

/// Reads what a limit says beside its amount.
fn term(entry: &Entry, terms: &mut Terms, problems: &mut Problems) {
    match entry.key.as_str() {
        "gate" => terms.gate = word(entry, &Gate::WORDS, &[], problems),
        "on_cross" => terms.on_cross = word(entry, &OnCross::WORDS, &[], problems),
        "wrap_up" => terms.wrap_up = tokens(&entry.value, problems),
        "warn" => {
            let items = list(&entry.value, "`warn`", problems);
            let percent = |item: &Node| item.text().and_then(|text| text.parse().ok()).unwrap_or(0);
            let percents: Vec<u8> = items.iter().map(percent).collect();
            if let Err(wrong) = check_thresholds(&percents) {
                problems.add(entry.value.line, wrong).hint = Some("write shares such as [50, 80, 95]".to_owned());
            }
            terms.warn = Some(percents);
        }
        "tell" => terms.tell = boolean(entry, problems).unwrap_or_default(),
        _ => problems.unknown_key(entry, &KEYS),
    }
}

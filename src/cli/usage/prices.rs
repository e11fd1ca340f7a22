//! A file of prices that the user names: money is a column beside the tokens, never a unit of bb's own. Pure but for reading the file.

use std::path::Path;

use crate::api::UsageTotal;
use crate::error::{Error, Kind, Result};
use crate::yaml::read::{bounded, joined, table, text};
use crate::yaml::{MAX_BYTES, Node, Problems, parse};

/// Prices of models.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Prices {
    /// The word behind the amounts.
    pub currency: String,
    /// By name; one that ends in `*` is for all that begin so.
    models: Vec<(String, Price)>,
}

/// What a million tokens cost. Unit: millionths of the currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Price {
    input: u64,
    cache_read: u64,
    cache_write: u64,
    output: u64,
}

/// The keys of a price.
const KEYS: [&str; 4] = ["input", "output", "cache_read", "cache_write"];

impl Prices {
    /// Reads a file, YAML or JSON.
    ///
    /// # Errors
    /// `usage`, with everything that is wrong with it.
    pub(super) fn load(path: &Path) -> Result<Prices> {
        let name = path.display().to_string();
        let text = bounded(path, MAX_BYTES as u64).map_err(|e| {
            Error::new(Kind::Usage, format!("the prices cannot be read: {e}"))
                .at(name.clone())
                .hint("docs/usage.md shows such a file")
        })?;
        Prices::read(&text, &name).map_err(joined)
    }

    fn read(source: &str, name: &str) -> std::result::Result<Prices, Vec<Error>> {
        let mut problems = Problems::new(name);
        let mut prices = Prices { currency: "USD".to_owned(), ..Prices::default() };
        if let Some(node) = parse(source, &mut problems) {
            for entry in table(&node, "a file of prices", &mut problems) {
                match entry.key.as_str() {
                    "currency" => prices.currency = text(entry, &mut problems).unwrap_or_default(),
                    "models" => prices.models = models(&entry.value, &mut problems),
                    _ => problems.unknown_key(entry, &["currency", "models"]),
                }
            }
        }
        problems.into_result(prices)
    }

    /// Gets what usage of a model cost, millionths; `None` where its price is not known. Exact names go first, then the longest
    /// beginning.
    pub(super) fn cost(&self, model: &str, total: &UsageTotal) -> Option<u64> {
        let begins = |name: &str| name.strip_suffix('*').is_some_and(|begin| model.starts_with(begin));
        let exact = self.models.iter().find(|(name, _)| name == model);
        let fits = || self.models.iter().filter(|(name, _)| begins(name)).max_by_key(|(name, _)| name.len());
        let (_, price) = exact.or_else(fits)?;
        let parts = [
            (total.input, price.input),
            (total.cache_read, price.cache_read),
            (total.cache_write, price.cache_write),
            (total.output, price.output),
        ];
        let sum: u128 = parts.iter().map(|(tokens, price)| u128::from(*tokens) * u128::from(*price)).sum();
        Some(u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}

fn models(node: &Node, problems: &mut Problems) -> Vec<(String, Price)> {
    let mut models = Vec::new();
    for entry in table(node, "`models`", problems) {
        let mut price = Price::default();
        for part in table(&entry.value, "a price", problems) {
            let to = match part.key.as_str() {
                "input" => &mut price.input,
                "output" => &mut price.output,
                "cache_read" => &mut price.cache_read,
                "cache_write" => &mut price.cache_write,
                _ => {
                    problems.unknown_key(part, &KEYS);
                    continue;
                }
            };
            match part.value.text().and_then(|text| text.replace('_', "").parse().ok()) {
                Some(amount) => *to = amount,
                None => {
                    problems.add(part.value.line, format!("`{}` must be a whole number", part.key)).hint =
                        Some("write millionths for a million tokens: 3 a million is 3000000".to_owned());
                }
            }
        }
        models.push((entry.key.clone(), price));
    }
    models
}

/// Writes an amount of millionths with four places, rounded up.
pub(super) fn money(amount: u64) -> String {
    let places = amount.div_ceil(100);
    format!("{}.{:04}", super::out::grouped(places / 10_000), places % 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "currency: EUR\nmodels:\n  claude-*: {input: 3_000_000, output: 15000000, cache_read: 300000}\n  \
        claude-haiku: {input: 1000000}\n";

    #[test]
    fn what_was_used_costs_what_the_file_says_in_whole_millionths() {
        let prices = Prices::read(FILE, "prices.yml").unwrap();
        let total = UsageTotal { input: 1000, cache_read: 1, output: 100, ..UsageTotal::default() };
        assert_eq!(prices.cost("claude-opus", &total), Some(3000 + 1500 + 1), "a part of a millionth is one");
        assert_eq!(prices.cost("claude-haiku", &total), Some(1000), "its own name goes first");
        assert_eq!(prices.cost("gpt", &total), None);
        assert_eq!(prices.currency, "EUR");
        let json = Prices::read(r#"{"models": {"gpt": {"input": 5}}}"#, "prices.json").unwrap();
        assert_eq!((json.cost("gpt", &total), json.currency.as_str()), (Some(1), "USD"));
        assert_eq!([money(4501), money(1_234_567_890_000)], ["0.0046", "1,234,567.8900"]);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_line() {
        let faults =
            Prices::read("currencies: EUR\nmodels:\n  m: {input: 1.5, outputs: 3}\n", "prices.yml").unwrap_err();
        let places: Vec<_> = faults.iter().map(|e| e.place.as_deref().unwrap_or_default()).collect();
        assert_eq!(places, ["prices.yml:1", "prices.yml:3", "prices.yml:3"]);
    }
}

//! Amounts and budgets as recipes say them: `"200k"`, `{claude = "200k"}`, `{tokens = "1M", hard = true}`.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::api::{Gate, Limit, OnCross};
use crate::budget::{self, MAX_TOKENS};
use crate::error::{Error, Kind, Result, nearest};

/// An amount of tokens, written `200000`, `"200k"`, `"1.5M"`, or `"unlimited"` (`None`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(pub Option<u64>);

const AMOUNT: &str = "an amount of tokens such as 200000, \"200k\", \"1.5M\" or \"unlimited\"";

/// What a limit's table may say.
const KEYS: &[&str] = &["tokens", "hard", "gate", "on_cross", "wrap_up", "warn", "tell"];

fn amount_of_text<E: de::Error>(text: &str) -> std::result::Result<Amount, E> {
    budget::parse_amount(text).map(Amount).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &AMOUNT))
}

fn amount_of_number<E: de::Error>(n: f64) -> std::result::Result<Amount, E> {
    if n < 0.0 || n.fract() != 0.0 || n > MAX_TOKENS as f64 {
        return Err(E::invalid_value(de::Unexpected::Float(n), &AMOUNT));
    }
    Ok(Amount(Some(n as u64)))
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(AMOUNT)
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> std::result::Result<Amount, E> {
                amount_of_number(n as f64)
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> std::result::Result<Amount, E> {
                amount_of_number(n as f64)
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> std::result::Result<Amount, E> {
                amount_of_number(n)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Amount, E> {
                amount_of_text(text)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// What the keys of a limit's table have said so far.
#[derive(Default)]
struct Said {
    tokens: Option<Amount>,
    limit: Limit,
}

impl Said {
    /// Takes the value of `key`. Returns whether it is a limit's key.
    fn take<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> std::result::Result<bool, A::Error> {
        let terms = &mut self.limit.terms;
        match key {
            "tokens" => self.tokens = Some(map.next_value()?),
            "hard" => self.limit.hard = map.next_value()?,
            "gate" => terms.gate = Some(map.next_value::<Gate>()?),
            "on_cross" => terms.on_cross = Some(map.next_value::<OnCross>()?),
            "wrap_up" => terms.wrap_up = map.next_value::<Amount>()?.0,
            "warn" => {
                let warn: Vec<u8> = map.next_value()?;
                budget::check_thresholds(&warn).map_err(de::Error::custom)?;
                terms.warn = Some(warn);
            }
            "tell" => terms.tell = map.next_value()?,
            "per" | "lifetime" => {
                return Err(de::Error::custom(
                    "`per` and `lifetime` count by name over launches: say them in a manifest or in settings.yml",
                ));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What stands for a provider: an amount, or a table.
struct Entry(Limit);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Entry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(AMOUNT)
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> std::result::Result<Entry, E> {
                amount_of_number(n as f64).map(plain)
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> std::result::Result<Entry, E> {
                amount_of_number(n as f64).map(plain)
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> std::result::Result<Entry, E> {
                amount_of_number(n).map(plain)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Entry, E> {
                amount_of_text(text).map(plain)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entry, A::Error> {
                let mut said = Said::default();
                while let Some(key) = map.next_key::<String>()? {
                    if !said.take(&key, &mut map)? {
                        return Err(de::Error::unknown_field(&key, KEYS));
                    }
                }
                let Amount(tokens) = said.tokens.ok_or_else(|| de::Error::missing_field("tokens"))?;
                Ok(Entry(Limit { tokens, ..said.limit }))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

fn plain(Amount(tokens): Amount) -> Entry {
    Entry(Limit::of("", tokens))
}

/// A budget: `"200k"`, `{claude = "200k", codex = {tokens = "1M", hard = true}}` or `{tokens = "1M", hard = true}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budget(pub Vec<Limit>);

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Budget;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{AMOUNT}, or a table of them by provider")
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> std::result::Result<Budget, E> {
                amount_of_number(n as f64).map(everything)
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> std::result::Result<Budget, E> {
                amount_of_number(n).map(everything)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Budget, E> {
                amount_of_text(text).map(everything)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Budget, A::Error> {
                let mut limits = Vec::new();
                let mut all = Said::default();
                while let Some(key) = map.next_key::<String>()? {
                    if !all.take(&key, &mut map)? {
                        let Entry(limit) = map.next_value()?;
                        limits.push(Limit { provider: key, ..limit });
                    }
                }
                // What is said without an amount is said of every one that is named.
                let Said { tokens, limit: said } = all;
                for limit in &mut limits {
                    limit.hard |= said.hard;
                    if limit.terms.is_default() {
                        limit.terms = said.terms.clone();
                    }
                }
                if let Some(Amount(tokens)) = tokens {
                    limits.push(Limit { provider: "*".to_owned(), tokens, ..said });
                }
                if limits.is_empty() {
                    return Err(de::Error::custom("the budget table names no amount"));
                }
                // `tokens` and `*` are the same.
                if limits.iter().filter(|limit: &&Limit| limit.provider == "*").count() > 1 {
                    return Err(de::Error::custom("the budget table says twice what all providers together may use"));
                }
                limits.sort_by(|a, b| a.provider.cmp(&b.provider));
                Ok(Budget(limits))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

fn everything(Amount(tokens): Amount) -> Budget {
    Budget(vec![Limit::of("*", tokens)])
}

impl Budget {
    /// Checks that every name in it is one of a provider; a slip would be a budget for nobody.
    ///
    /// # Errors
    /// `unknown_key`, with the nearest known one.
    pub fn check_providers(&self, call: &str, known: &[String]) -> Result<()> {
        for limit in &self.0 {
            if limit.provider != "*" && !known.contains(&limit.provider) {
                let names = known.iter().map(String::as_str).chain(KEYS.iter().copied());
                let hint = match nearest(&limit.provider, names) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("known providers are: {}", known.join(", ")),
                };
                let message = format!("{call}: the budget is for '{}', which is no provider", limit.provider);
                return Err(Error::new(Kind::UnknownKey, message).hint(hint));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(json: serde_json::Value) -> std::result::Result<Vec<(String, Option<u64>, bool)>, String> {
        serde_json::from_value::<Budget>(json)
            .map(|b| b.0.into_iter().map(|l| (l.provider, l.tokens, l.hard)).collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn budgets_are_a_number_or_a_table_by_provider() {
        use serde_json::json;
        let all = |tokens, hard| Ok(vec![("*".to_owned(), tokens, hard)]);
        assert_eq!(budget(json!("200k")), all(Some(200_000), false));
        assert_eq!(budget(json!("unlimited")), all(None, false));
        assert_eq!(budget(json!({"tokens": "1M", "hard": true})), all(Some(1_000_000), true));
        assert_eq!(
            budget(json!({"claude": 5, "codex": {"tokens": "1k", "hard": true}})),
            Ok(vec![("claude".into(), Some(5), false), ("codex".into(), Some(1000), true)])
        );
        for wrong in [
            json!("10 k"),
            json!("1e6"),
            json!(0.5),
            json!({}),
            json!({"hard": true}),
            json!({"claude": true}),
            json!(-1),
            json!({"claude": {"tokns": 1}}),
            json!("1,000"),
            json!({"tokens": 1, "*": 2}),
        ] {
            assert!(budget(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_budget_for_nobody_is_refused_with_the_nearest_name() {
        let budget = Budget(vec![Limit::of("cluade", Some(1))]);
        let error = budget.check_providers("bb.launch", &["claude".into(), "codex".into()]).unwrap_err();
        assert_eq!((error.kind, error.hint.as_deref()), (Kind::UnknownKey, Some("did you mean 'claude'?")));
    }

    #[test]
    fn terms_stand_in_a_limits_table_or_beside_all_of_them() {
        use serde_json::json;
        let read = |json| serde_json::from_value::<Budget>(json).map(|b| b.0).map_err(|e| e.to_string());
        let all = read(json!({"tokens": "1M", "on_cross": "cut", "gate": "exact", "wrap_up": "5k"})).unwrap();
        assert_eq!((all[0].terms.on_cross, all[0].terms.gate), (Some(OnCross::Cut), Some(Gate::Exact)));
        assert_eq!(all[0].terms.wrap_up, Some(5000));
        let each = read(json!({"claude": 5, "codex": {"tokens": 6, "warn": [10, 90]}, "warn": [70]})).unwrap();
        assert_eq!(each[0].terms.warn(), [70]);
        assert_eq!(each[1].terms.warn(), [10, 90]);
        for wrong in [
            json!({"tokens": 1, "gate": "no"}),
            json!({"tokens": 1, "warn": [0]}),
            json!({"tokens": 1, "warn": [80, 50]}),
            json!({"tokens": 1, "per": "day"}),
            json!({"claude": {"tokens": 1, "lifetime": true}}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}

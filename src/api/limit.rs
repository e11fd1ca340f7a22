//! What a budget says: limits by provider, the time that they are for, and the terms that hold near them.

use serde::{Deserialize, Serialize};

/// One limit of a budget. Unit: counted tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// The provider it is for; `*` = all together.
    pub provider: String,
    /// The amount; `None` = `unlimited`, said aloud.
    pub tokens: Option<u64>,
    /// Binds even where a nearer node has a limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hard: bool,
    /// It counts by name over launches, for this long; absent: per launch, and of the whole host for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Period>,
    /// What is said beside the amount.
    #[serde(default, skip_serializing_if = "Terms::is_default")]
    pub terms: Terms,
}

impl Limit {
    /// A plain limit.
    pub fn of(provider: &str, tokens: Option<u64>) -> Limit {
        Limit { provider: provider.to_owned(), tokens, ..Limit::default() }
    }

    /// A hard one.
    pub fn hard(provider: &str, tokens: Option<u64>) -> Limit {
        Limit { hard: true, ..Limit::of(provider, tokens) }
    }
}

/// How long a limit that counts by name counts before it begins anew, by the host's time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first of a month to the first of the next.
    Month,
    /// It never does.
    Lifetime,
}

impl Period {
    /// Those that `per` takes, by their words. `lifetime: true` says the fourth in files.
    pub const WORDS: [(&'static str, Period); 3] =
        [("day", Period::Day), ("week", Period::Week), ("month", Period::Month)];

    /// Gets the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Period::Day => "day",
            Period::Week => "week",
            Period::Month => "month",
            Period::Lifetime => "lifetime",
        }
    }

    /// Reads a word.
    pub fn of(word: &str) -> Option<Period> {
        [Period::Day, Period::Week, Period::Month, Period::Lifetime].into_iter().find(|period| period.as_str() == word)
    }

    /// Says how it counts, behind an amount.
    pub fn words(self) -> &'static str {
        match self {
            Period::Day => "a day",
            Period::Week => "a week",
            Period::Month => "a month",
            Period::Lifetime => "in all launches",
        }
    }
}

/// What holds near a limit. What is not said has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// What may refuse a request before it leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// What becomes of a stream by which the limit is crossed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_cross: Option<OnCross>,
    /// Kept back from the limit until it is spent, for the agent to hand over what it has. Unit: counted tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrap_up: Option<u64>,
    /// Shares of the limit at which an event tells of it, growing. Unit: percent, 1 to 99. Default: [`Terms::WARN`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn: Option<Vec<u8>>,
    /// Each threshold that was passed is also told to the agent, by a sentence in its next request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tell: bool,
}

impl Terms {
    /// The thresholds of a limit that says none. Unit: percent.
    pub const WARN: [u8; 3] = [50, 80, 95];

    /// Tells whether nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Terms::default()
    }

    /// Gets the thresholds.
    pub fn warn(&self) -> &[u8] {
        self.warn.as_deref().unwrap_or(&Terms::WARN)
    }
}

/// What may refuse a request before it leaves. A hold is always written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Nothing but a limit that is spent.
    Off,
    /// An estimate of the request's tokens.
    #[default]
    Estimate,
    /// What the provider's counting endpoint says of them.
    Exact,
}

impl Gate {
    /// All of them, by their words.
    pub const WORDS: [(&'static str, Gate); 3] =
        [("off", Gate::Off), ("estimate", Gate::Estimate), ("exact", Gate::Exact)];
}

/// What becomes of a stream by which a limit is crossed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCross {
    /// It comes to its end.
    #[default]
    Finish,
    /// It ends there, in words that the API's clients understand.
    Cut,
}

impl OnCross {
    /// All of them, by their words.
    pub const WORDS: [(&'static str, OnCross); 2] = [("finish", OnCross::Finish), ("cut", OnCross::Cut)];
}

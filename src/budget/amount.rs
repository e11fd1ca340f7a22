//! Amounts of tokens as people write them: `5000000`, `200k`, `1.5M`, `unlimited`.
//!
//! Exact: digits are read as digits, never through a binary fraction.

/// The largest amount that is accepted, 2^53: every number up to it survives JSON and Lua unchanged.
pub const MAX_TOKENS: u64 = 1 << 53;

/// An amount of tokens: `None` is `unlimited`, said aloud; `Some(0)` allows nothing.
pub type Amount = Option<u64>;

/// Why a text is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a number, with or without `k`, `M` or `G`.
    #[error("`{0}` is not an amount of tokens")]
    NotAnAmount(String),
    /// Below zero.
    #[error("`{0}` is negative; 0 allows nothing, `unlimited` sets no limit")]
    Negative(String),
    /// A part of a token.
    #[error("`{0}` is not a whole number of tokens")]
    Fraction(String),
    /// More than [`MAX_TOKENS`].
    #[error("`{0}` is more than 2^53 tokens; `unlimited` sets no limit")]
    TooLarge(String),
}

/// Checks the thresholds of a limit: up to eight whole percents of 1 to 99, growing.
///
/// # Errors
/// A sentence that says so.
pub fn check_thresholds(percents: &[u8]) -> Result<(), &'static str> {
    let grow = percents.windows(2).all(|pair| pair[0] < pair[1]);
    if percents.len() > 8 || !grow || percents.iter().any(|percent| !(1..=99).contains(percent)) {
        return Err("thresholds are at most eight whole percents from 1 to 99, growing");
    }
    Ok(())
}

/// Reads an amount: an integer (`_` between digits is allowed), a decimal number with `k`, `M` or `G` that comes to
/// whole tokens, or the word `unlimited`.
///
/// # Errors
/// [`AmountError`], with the text as it was given (at most 40 characters of it).
pub fn parse_amount(text: &str) -> Result<Amount, AmountError> {
    let given = || text.chars().take(40).collect::<String>();
    let text_ = text.trim();
    if text_ == "unlimited" {
        return Ok(None);
    }
    if let Some(rest) = text_.strip_prefix('-') {
        let number = rest.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        return Err(if number { AmountError::Negative(given()) } else { AmountError::NotAnAmount(given()) });
    }
    let (number, zeros) = match text_.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text_[..at], 3),
        Some((at, 'm' | 'M')) => (&text_[..at], 6),
        Some((at, 'g' | 'G')) => (&text_[..at], 9),
        _ => (text_, 0),
    };
    let (whole, fraction) = number.split_once('.').map_or((number, None), |(w, f)| (w, Some(f)));
    let digits = |part: &str| {
        !part.is_empty()
            && part.starts_with(|c: char| c.is_ascii_digit())
            && part.ends_with(|c: char| c.is_ascii_digit())
            && part.chars().all(|c| c.is_ascii_digit() || c == '_')
    };
    if !digits(whole) || fraction.is_some_and(|f| !digits(f)) {
        return Err(AmountError::NotAnAmount(given()));
    }
    let fraction: String = fraction.unwrap_or("").chars().filter(|c| *c != '_').collect();
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > zeros {
        return Err(AmountError::Fraction(given()));
    }
    let mut total: u64 = 0;
    let padding = std::iter::repeat_n('0', zeros - fraction.len());
    for digit in whole.chars().filter(|c| *c != '_').chain(fraction.chars()).chain(padding) {
        let digit = u64::from(digit.to_digit(10).unwrap_or(0));
        total = total * 10 + digit;
        if total > MAX_TOKENS {
            return Err(AmountError::TooLarge(given()));
        }
    }
    Ok(Some(total))
}

/// Writes a figure with commas between its thousands.
pub fn grouped(figure: u64) -> String {
    let digits = figure.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        for (text, amount) in [
            ("0", Some(0)),
            ("5000000", Some(5_000_000)),
            ("5_000_000", Some(5_000_000)),
            ("200k", Some(200_000)),
            ("1.5M", Some(1_500_000)),
            ("1.5m", Some(1_500_000)),
            ("0.5k", Some(500)),
            ("1.250k", Some(1250)),
            ("2G", Some(2_000_000_000)),
            ("10.0", Some(10)),
            (" 7 ", Some(7)),
            ("9007199254740992", Some(MAX_TOKENS)),
            ("unlimited", None),
        ] {
            assert_eq!(parse_amount(text), Ok(amount), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused_for_its_own_reason() {
        for text in ["", "k", ".5k", "5.", "1e6", "0x10", "NaN", "inf", "five", "1 000", "_1", "1_", "+5", "1,5M", "٣"]
        {
            assert!(matches!(parse_amount(text), Err(AmountError::NotAnAmount(_))), "{text}");
        }
        for text in ["-1", "-0", "-1.5M"] {
            assert!(matches!(parse_amount(text), Err(AmountError::Negative(_))), "{text}");
        }
        for text in ["0.5", "1.0005k", "0.0000001M"] {
            assert!(matches!(parse_amount(text), Err(AmountError::Fraction(_))), "{text}");
        }
        for text in ["9007199254740993", "9007200G", "99999999999999999999999999999999999"] {
            assert!(matches!(parse_amount(text), Err(AmountError::TooLarge(_))), "{text}");
        }
    }
}

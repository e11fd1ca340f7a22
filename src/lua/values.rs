//! How options are read: tables with known keys, durations, amounts of tokens, budgets.
//!
//! Everything is checked before it has an effect, and every refusal names the nearest thing that would have been right.

use std::fmt;
use std::time::Duration;

use mlua::serde::Deserializer as LuaDeserializer;
use mlua::{Lua, Value};
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde_path_to_error::Segment;

use crate::error::{Error, Kind, Result, nearest};

mod budget;

pub use budget::{Amount, Budget};

/// Reads the options table of `call`; nil is an empty one.
///
/// # Errors
/// `unknown_key` for an option that nobody knows, `usage` for anything else that is wrong with it.
pub(super) fn options<T: DeserializeOwned>(lua: &Lua, call: &str, value: Value) -> Result<T> {
    let value = match value {
        Value::Nil => Value::Table(lua.create_table().map_err(|e| from_lua(call, &e))?),
        Value::Table(_) => value,
        other => {
            return Err(Error::new(
                Kind::Usage,
                format!("{call} takes a table of options, got a {}", other.type_name()),
            )
            .hint(format!("write {call}{{ ... }}")));
        }
    };
    read(call, value)
}

/// Reads a value of any shape that `call` was given.
///
/// # Errors
/// As [`options`]; what is wrong is named by its key.
pub fn read<T: DeserializeOwned>(call: &str, value: Value) -> Result<T> {
    serde_path_to_error::deserialize(LuaDeserializer::new(value))
        .map_err(|e| explain(call, &in_lua(e.path()), &text_of(e.inner())))
}

/// Writes the way to a value as Lua has it: lists begin with 1.
fn in_lua(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{}]", index + 1)),
            other if text.is_empty() => text = other.to_string(),
            other => text.push_str(&format!(".{other}")),
        }
    }
    text
}

/// Turns an error of the VM about a value into ours.
pub(super) fn from_lua(call: &str, error: &mlua::Error) -> Error {
    explain(call, "", &text_of(error))
}

fn text_of(error: &mlua::Error) -> String {
    match error {
        mlua::Error::DeserializeError(message) => message.clone(),
        mlua::Error::BadArgument { pos, cause, .. } => format!("argument {pos}: {cause}"),
        mlua::Error::FromLuaConversionError { from, to, message } => {
            let more = message.as_ref().map_or_else(String::new, |m| format!(" ({m})"));
            format!("expected {to}, got {from}{more}")
        }
        other => other.to_string(),
    }
}

/// Turns serde's message into an error of ours: an unknown key gets the nearest known one, a wrong value what would have
/// been right. `path` is where in the value it stands (`routes[1].host`), empty for the value itself.
fn explain(call: &str, path: &str, message: &str) -> Error {
    let message = message.strip_prefix("deserialize error: ").unwrap_or(message);
    let path = if path == "." { "" } else { path };
    let mut quoted = message.split('`').skip(1).step_by(2);
    if let (true, Some(given)) = (message.starts_with("unknown field `"), quoted.next()) {
        let known: Vec<&str> = quoted.collect();
        let hint = match nearest(given, known.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("known are: {}", known.join(", ")),
        };
        // The path ends with the key itself.
        let outer = path.strip_suffix(given).unwrap_or(path).trim_end_matches('.');
        let within = if outer.is_empty() { String::new() } else { format!(" in '{outer}'") };
        return Error::new(Kind::UnknownKey, format!("{call} knows no '{given}'{within}")).hint(hint);
    }
    let within = if path.is_empty() { String::new() } else { format!(" '{path}'") };
    if let (true, Some(missing)) = (message.starts_with("missing field `"), message.split('`').nth(1)) {
        let within = if path.is_empty() { String::new() } else { format!(" in '{path}'") };
        return Error::new(Kind::Usage, format!("{call} needs '{missing}'{within}"))
            .hint(format!("write {missing} = ..."));
    }
    let wrong = message.strip_prefix("invalid value: ").or_else(|| message.strip_prefix("invalid type: "));
    if let Some((got, wanted)) = wrong.and_then(|rest| rest.split_once(", expected ")) {
        // Serde's words for what Lua has.
        let mut got = got.replace('`', "");
        for (word, ours) in
            [("floating point", "number"), ("integer", "number"), ("map", "table"), ("sequence", "list")]
        {
            if let Some(rest) = got.strip_prefix(word) {
                got = format!("{ours}{rest}");
            }
        }
        return Error::new(Kind::Usage, format!("{call}{within} cannot be the {got}")).hint(format!("write {wanted}"));
    }
    Error::new(Kind::Usage, format!("{call}{within}: {message}"))
}

/// A duration, written `"90s"`, `"30m"`, `"1h30m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

/// Reads a duration such as `"90s"`, `"30m"`, `"1h30m"`, `"250ms"`.
///
/// # Errors
/// `usage`, with an example.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let wrong = || {
        Error::new(Kind::Usage, format!("'{text}' is not a duration")).hint("write it as \"90s\", \"30m\" or \"1h30m\"")
    };
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let amount: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let after = &rest[digits..];
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let seconds = match &after[..unit_end] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(wrong()),
        };
        let part = Duration::try_from_secs_f64(amount * seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &after[unit_end..];
    }
    Ok(total)
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as \"90s\", \"30m\" or \"1h30m\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Span, E> {
                parse_duration(text).map(Span).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_by_unit() {
        for (text, seconds) in [("90s", 90.0), ("30m", 1800.0), ("1h30m", 5400.0), ("250ms", 0.25), ("2d", 172800.0)] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_secs_f64(seconds), "{text}");
        }
        for text in ["", "90", "s", "1 hour", "-1s", "1h 30m", "1e9s", "99999999999999999999d"] {
            assert_eq!(parse_duration(text).unwrap_err().kind, Kind::Usage, "{text}");
        }
    }

    #[test]
    fn unknown_options_name_the_nearest_known_one() {
        let error = explain(
            "bb.launch",
            "prmopt",
            "deserialize error: unknown field `prmopt`, expected one of `prompt`, `budget`",
        );
        assert_eq!(error.message, "bb.launch knows no 'prmopt'");
        assert_eq!(error.hint.as_deref(), Some("did you mean 'prompt'?"));
        let error = explain("bb.launch", "", "unknown field `zzzzzzz`, expected `prompt` or `budget`");
        assert_eq!(error.hint.as_deref(), Some("known are: prompt, budget"));
    }

    #[test]
    fn a_wrong_value_is_named_by_its_key_and_told_what_would_be_right() {
        let error = explain("bb.launch", "timeout", "invalid type: integer `30`, expected a duration such as \"90s\"");
        assert_eq!(error.message, "bb.launch 'timeout' cannot be the number 30");
        assert_eq!(error.hint.as_deref(), Some("write a duration such as \"90s\""));
        let error = explain("bb.launch", "routes[1].hots", "unknown field `hots`, expected `host` or `ports`");
        assert_eq!(error.message, "bb.launch knows no 'hots' in 'routes[1]'");
    }
}

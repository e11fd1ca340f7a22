//! Text that somebody else wrote, made fit for a person's terminal. The one place that says what a terminal may be told by text
//! that is not the bytes of an attached one (those pass [`crate::terminal`]), how JSON is written for one and for files, and how a
//! word is written in a command. Pure.

use std::borrow::Cow;

/// Makes text fit for a terminal: keeps newlines, tabs and (with `colour`) colour sequences, escapes every other control
/// character and the ones that turn the direction of writing.
pub fn printable(text: &str, colour: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '\x1b'
            && let Some(length) = colour_sequence(rest)
        {
            if colour {
                out.push_str(&rest[..length]);
            }
            rest = &rest[length..];
            continue;
        }
        match c {
            '\n' | '\t' => out.push(c),
            '\r' if rest[1..].starts_with('\n') => {}
            c if turns(c) => out.extend(c.escape_unicode()),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Tells whether a character turns the direction in which the text around it is shown.
fn turns(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Makes JSON fit for a terminal: what JSON lets stand in its strings and a terminal would obey is written as `\u....`, so that any
/// reader of JSON gets the same value. Beyond ASCII nothing but strings has such characters.
pub fn json(text: &str) -> Cow<'_, str> {
    let misleads =
        |c: char| c.is_control() && !c.is_ascii() || c == '\x7f' || turns(c) || matches!(c, '\u{2028}' | '\u{2029}');
    if !text.contains(misleads) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if misleads(c) { out.push_str(&format!("\\u{:04x}", u32::from(c))) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Gets the length of the colour sequence that `text` begins with: `ESC [ digits ; digits m`.
fn colour_sequence(text: &str) -> Option<usize> {
    let body = text.strip_prefix("\x1b[")?;
    let end = body.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    // Long ones are nobody's colours; 8 would make text invisible.
    let hides = body[..end].split(';').any(|code| code == "8");
    (end <= 16 && !hides && body[end..].starts_with('m')).then_some(2 + end + 1)
}

/// Quotes one word for a POSIX shell.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable("a\x1b]52;c;aGk=\x07b", true), "a\\x1b]52;c;aGk=\\x07b");
        assert_eq!(printable("a\x1b[2Jb\rc\r\nd\te", true), "a\\x1b[2Jb\\x0dc\nd\te");
        assert_eq!(printable("\u{9b}31m \u{202e}x", true), "\\x9b31m \\u{202e}x");
        assert_eq!(printable("\x1b[8mhidden", true), "\\x1b[8mhidden");
    }

    #[test]
    fn json_is_the_same_value_and_tells_a_terminal_nothing() {
        let value =
            serde_json::json!({"a\u{9b}": "\u{85}x\u{7f}\u{202e}y\u{2066}\u{200f}\u{61c}\u{2028} \u{e9}\x1b[2J\n"});
        let text = value.to_string();
        let shown = json(&text);
        assert!(!shown.chars().any(|c| c.is_control() || turns(c) || c == '\u{2028}'), "{shown:?}");
        assert!(shown.contains("\\u009b") && shown.contains("\\u202e") && shown.contains('\u{e9}'), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        assert!(matches!(json("{\"a\": \"plain \u{e9}\"}"), Cow::Borrowed(_)));
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printable(&json(&pretty), false)).unwrap(), value);
    }

    #[test]
    fn colours_stay_on_a_terminal_and_go_elsewhere() {
        assert_eq!(printable("\x1b[1;31mred\x1b[0m é", true), "\x1b[1;31mred\x1b[0m é");
        assert_eq!(printable("\x1b[1;31mred\x1b[0m é", false), "red é");
    }
}

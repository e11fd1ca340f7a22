//! `bb.args`: what stands after `--` on the command line of `bb run`.

use mlua::{Lua, Table};

/// Words read as options and positions.
///
/// `--key value` and `--key=value` are options, `--key` before another `--option` or at the end is a flag, the rest are
/// positions; after a second `--` everything is a position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// Options in the order given; the last of a name counts.
    pub options: Vec<(String, Option<String>)>,
    /// The positions.
    pub positions: Vec<String>,
    /// What a flow was given in place of words; it is the table then.
    pub given: Option<serde_json::Value>,
}

impl Args {
    /// Reads the words.
    pub fn parse(words: &[String]) -> Args {
        let mut args = Args::default();
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some("") => args.positions.extend(words.by_ref().cloned()),
                Some(option) => match option.split_once('=') {
                    Some((name, value)) => args.options.push((name.to_owned(), Some(value.to_owned()))),
                    None => {
                        let value = words.next_if(|next| !next.starts_with("--")).cloned();
                        args.options.push((option.to_owned(), value));
                    }
                },
                None => args.positions.push(word.clone()),
            }
        }
        args
    }

    /// Tells whether the user wrote `text` as a value or a position.
    pub fn has_value(&self, text: &str) -> bool {
        self.positions.iter().any(|p| p == text) || self.options.iter().any(|(_, v)| v.as_deref() == Some(text))
    }

    /// Makes the table that recipes see: positions as a list, options by name with `-` as `_`.
    pub(super) fn table(&self, lua: &Lua) -> mlua::Result<Table> {
        if let Some(given) = &self.given {
            return super::vm::to_lua(lua, given).and_then(|value| mlua::FromLua::from_lua(value, lua));
        }
        let table = lua.create_sequence_from(self.positions.iter().map(String::as_str))?;
        for (name, value) in &self.options {
            let name = name.replace('-', "_");
            match value {
                Some(value) => table.raw_set(name, value.as_str())?,
                None => table.raw_set(name, true)?,
            }
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_flags_and_positions_are_told_apart() {
        let words = ["one", "--agent", "claude", "--fast", "--max=3", "two", "--last", "--", "--three"];
        let args = Args::parse(&words.map(String::from));
        assert_eq!(args.positions, ["one", "two", "--three"]);
        let options: Vec<_> = args.options.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
        assert_eq!(options, [("agent", Some("claude")), ("fast", None), ("max", Some("3")), ("last", None)]);
        assert!(args.has_value("claude") && args.has_value("two") && !args.has_value("agent"));
    }
}

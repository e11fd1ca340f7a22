//! Values of `env`: a literal, `${HOST_VAR}`, or `?prompt text`. Resolved by the front end that launches, not here.

use std::collections::BTreeMap;

use super::{Reader, Said};
use crate::yaml::read::{is_variable, table};
use crate::yaml::{Node, Problems};

/// Where the value of a variable comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// It stands in the file.
    Literal(String),
    /// A variable of the environment of whoever launches.
    Host(String),
    /// Asked at the terminal, with this text.
    Ask(String),
}

/// Reads the table.
pub(super) fn read(node: &Node, reader: Reader<'_>, problems: &mut Problems) -> BTreeMap<String, Said<EnvValue>> {
    let mut env = BTreeMap::new();
    for entry in table(node, "`env`", problems) {
        if !is_variable(&entry.key) {
            let shown: String = entry.key.chars().take(60).collect();
            problems.add(entry.line, format!("`{shown}` cannot be the name of a variable")).hint =
                Some("a variable's name has letters, digits and _, and does not begin with a digit".to_owned());
            continue;
        }
        match entry.value.text().and_then(value) {
            Some(value) => {
                env.insert(entry.key.clone(), reader.said(entry.line, value));
            }
            None => {
                problems.add(entry.value.line, format!("the value of `{}` cannot be used", entry.key)).hint = Some(
                    "write a text in quotes, \"${HOST_VAR}\" for a variable of yours, or \"?question\" to be asked"
                        .to_owned(),
                );
            }
        }
    }
    env
}

/// Reads one value; `None` where it is half of a reference.
fn value(text: &str) -> Option<EnvValue> {
    if let Some(question) = text.strip_prefix('?') {
        let question = question.trim();
        return (!question.is_empty()).then(|| EnvValue::Ask(question.to_owned()));
    }
    if let Some(name) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
        return is_variable(name).then(|| EnvValue::Host(name.to_owned()));
    }
    (!text.contains("${") && !text.contains('\0')).then(|| EnvValue::Literal(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_a_literal_a_reference_or_a_question() {
        for (text, want) in [
            ("UTC", Some(EnvValue::Literal("UTC".into()))),
            ("$HOME costs 5$", Some(EnvValue::Literal("$HOME costs 5$".into()))),
            ("${GH_USER}", Some(EnvValue::Host("GH_USER".into()))),
            ("?Which branch", Some(EnvValue::Ask("Which branch".into()))),
            ("? Which branch ", Some(EnvValue::Ask("Which branch".into()))),
            ("?", None),
            ("${}", None),
            ("${1A}", None),
            ("${A B}", None),
            ("a ${B}", None),
            ("${A}${B}", None),
            ("a\0b", None),
        ] {
            assert_eq!(value(text), want, "{text:?}");
        }
    }
}

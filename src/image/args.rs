//! Build arguments: what the `ARG` lines of a Dockerfile may be given, checked before an engine gets it.
//!
//! They are no secrets: a builder writes them into an image's history. Reads nothing by itself.

use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};

/// Most arguments, and longest value.
const MOST: usize = 100;
const LONGEST: usize = 4096;

/// Build arguments by name.
pub type Args = BTreeMap<String, String>;

/// Tells whether a text can be the name of one.
pub fn is_name(name: &str) -> bool {
    name.len() <= 256
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Tells whether a text can be the value of one.
pub fn is_value(value: &str) -> bool {
    value.len() <= LONGEST && !value.contains('\0')
}

/// Checks those of a table.
///
/// # Errors
/// `usage`.
pub fn check(args: &Args) -> Result<()> {
    let wrong = |what: String| {
        Err(Error::new(Kind::Usage, what).hint("write them as NAME=VALUE, the name as in the Dockerfile's ARG line"))
    };
    if args.len() > MOST {
        return wrong(format!("there are more than {MOST} build arguments"));
    }
    match args.iter().find(|(name, value)| !is_name(name) || !is_value(value)) {
        Some((name, _)) => {
            let shown: String = name.chars().take(60).collect();
            wrong(format!("the build argument `{}` has a name or a value that cannot be used", shown.escape_debug()))
        }
        None => Ok(()),
    }
}

/// Reads what a command line says: `NAME=VALUE`, or `NAME` for what the environment has by that name, if it has it.
///
/// # Errors
/// `usage`.
pub fn said(words: &[String], lookup: &dyn Fn(&str) -> Option<String>) -> Result<Args> {
    let mut args = Args::new();
    for word in words {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), lookup(word)),
        };
        if let Some(value) = value {
            args.insert(name.to_owned(), value);
        } else if !is_name(name) {
            args.insert(name.to_owned(), String::new());
        }
    }
    check(&args)?;
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_lines_arguments_are_read_as_other_builders_read_them() {
        let lookup = |name: &str| (name == "HOSTS").then(|| "of the environment".to_owned());
        let read = |words: &[&str]| said(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), &lookup);
        let args = read(&["A=1", "B=x=y", "HOSTS", "NONE", "A=2", "EMPTY="]).unwrap();
        let expected = [("A", "2"), ("B", "x=y"), ("EMPTY", ""), ("HOSTS", "of the environment")];
        assert_eq!(args, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        for bad in ["=x", "1A=x", "a b=x", "a-b", "A=\0"] {
            assert_eq!(read(&[bad]).unwrap_err().kind, Kind::Usage, "{bad}");
        }
        let many: Vec<String> = (0..=MOST).map(|n| format!("A{n}=x")).collect();
        assert!(said(&many, &lookup).is_err() && said(&[format!("A={}", "x".repeat(LONGEST + 1))], &lookup).is_err());
    }
}

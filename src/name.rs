//! Names of bottles, agents, providers and skills: `[a-z][a-z0-9-]*`, at most 64 characters.
//!
//! The one parser of such names. A name becomes a file's name, a word of a command line and a key of the ledger; what
//! this accepts is harmless as each of them.

use std::borrow::Borrow;
use std::fmt;
use std::path::Path;

/// Most characters of a name.
pub const LONGEST: usize = 64;

/// A name that was checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a name", shown(.0))]
pub struct NotAName(pub String);

/// Says how to do better.
pub const HINT: &str = "a name begins with a letter and has only a-z, 0-9 and -, at most 64 of them";

impl Name {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`NotAName`] with the text.
    pub fn parse(text: &str) -> Result<Name, NotAName> {
        let letters = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let first = text.starts_with(|c: char| c.is_ascii_lowercase());
        if first && letters && text.len() <= LONGEST {
            Ok(Name(text.to_owned()))
        } else {
            Err(NotAName(text.to_owned()))
        }
    }

    /// Gets the name of the file without its extension.
    ///
    /// # Errors
    /// [`NotAName`] with what stands there.
    pub fn of_file(path: &Path) -> Result<Name, NotAName> {
        Name::parse(&path.file_stem().unwrap_or_default().to_string_lossy())
    }

    /// Gets the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Tells whether `word` stands for `slug` as a beginning of it. The whole name before a number (`task` of `task-2`) does
/// not: it is the name of another bottle, which may be gone.
pub fn begins(slug: &str, word: &str) -> bool {
    !word.is_empty() && slug.starts_with(word) && !is_numbered(slug, word)
}

/// Tells whether `slug` is `stem` with the number that makes it unique.
pub fn is_numbered(slug: &str, stem: &str) -> bool {
    let number = slug.strip_prefix(stem).and_then(|rest| rest.strip_prefix('-'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// At most 60 characters of what was given, with nothing that a terminal would act on.
fn shown(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_stands_for_a_slug_and_a_whole_stem_does_not() {
        for (slug, word) in
            [("task-2", "tas"), ("task-2", "task-"), ("task-2", "task-2"), ("task-2b", "task"), ("task2", "task")]
        {
            assert!(begins(slug, word), "{slug} {word}");
        }
        for (slug, word) in
            [("task-2", "task"), ("task-17", "task"), ("task-2-3", "task-2"), ("task", ""), ("task", "b")]
        {
            assert!(!begins(slug, word), "{slug} {word}");
        }
    }

    #[test]
    fn names_that_compat_names_are_accepted_and_refused() {
        for good in ["init-entry", "quality-eval", "skill0", "a", &"x".repeat(LONGEST)] {
            assert_eq!(Name::parse(good).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "foo; rm -rf /",
            "../escape",
            "foo bar",
            "Foo",
            "-leading",
            "",
            "0a",
            "a_b",
            "a.b",
            "ä",
            "a\0",
            &"x".repeat(65),
        ] {
            assert_eq!(Name::parse(bad), Err(NotAName(bad.to_owned())), "{bad:?}");
        }
        assert_eq!(NotAName("a\u{1b}[2Jb".into()).to_string(), "`a\\u{1b}[2Jb` is not a name");
        assert_eq!(Name::of_file(Path::new("/x/dev.md")).unwrap().as_str(), "dev");
        assert!(Name::of_file(Path::new("/x/..")).is_err());
    }
}

//! What a context leaves out: the patterns of a `.dockerignore`, as Docker documents them.
//!
//! The last pattern that fits a path, or a directory that it lies in, decides. Reads no files. A pattern that cannot be
//! read is an error, never passed over: what it was to keep out would be in an image.

use std::iter::Peekable;
use std::str::Chars;

use crate::error::{Error, Kind, Result};

/// Most patterns, and longest of one, characters.
const MOST: usize = 1000;
const LONGEST: usize = 1000;

/// The patterns of one file.
#[derive(Debug, Default)]
pub(super) struct Ignore(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    /// It takes back what those before it leave out.
    exception: bool,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    One(char),
    /// `?`
    Any,
    /// `[a-z]`, `[^a-z]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// `*`: within a directory.
    Star,
    /// `**` before something: any number of directories, none too.
    Directories,
    /// `**` at the end.
    Rest,
}

impl Ignore {
    /// Reads the text of a `.dockerignore`.
    ///
    /// # Errors
    /// `usage` with the line of a pattern that is none.
    pub fn parse(text: &str) -> Result<Ignore> {
        let mut patterns = Vec::new();
        for (n, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let wrong = |what: &str| {
                let shown: String = line.trim().chars().take(100).collect();
                Error::new(Kind::Usage, format!("line {}: {what}: `{}`", n + 1, shown.escape_debug()))
                    .hint("correct the pattern; a backslash before a character takes it as it is")
            };
            if patterns.len() == MOST || line.len() > LONGEST {
                return Err(wrong("there are too many patterns, or this one is too long"));
            }
            let line = line.trim();
            let (exception, rest) = line.strip_prefix('!').map_or((false, line), |rest| (true, rest.trim()));
            if rest.is_empty() {
                return Err(wrong("an exception of nothing"));
            }
            let path = clean(rest);
            let tokens = tokens(&path).ok_or_else(|| wrong("this is no pattern"))?;
            patterns.push(Pattern { exception, tokens });
        }
        Ok(Ignore(patterns))
    }

    /// Tells whether a path of the context is left out.
    pub fn has(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        let ends = path.iter().enumerate().filter(|(_, c)| **c == '/').map(|(n, _)| n);
        let places: Vec<&[char]> = ends.map(|n| &path[..n]).chain([&path[..]]).collect();
        let last = self.0.iter().rfind(|pattern| places.iter().any(|place| fits(&pattern.tokens, place)));
        last.is_some_and(|pattern| !pattern.exception)
    }

    /// Tells whether something below a directory that is left out may be taken back.
    pub fn may_take_back_below(&self, directory: &str) -> bool {
        let directory: Vec<char> = directory.chars().chain(['/']).collect();
        self.0.iter().any(|pattern| pattern.exception && may_begin(&pattern.tokens, &directory))
    }
}

/// Makes a path as short as it is without a look at the disk: no `.`, no `..` behind a name, no slash at either end.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if path.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Reads a pattern; `None` where it is none.
fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                if rest.peek().is_none() { Token::Rest } else { Token::Directories }
            }
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::One(rest.next()?),
            '[' => class(&mut rest)?,
            c => Token::One(c),
        });
    }
    Some(tokens)
}

/// Reads a class behind its bracket.
fn class(rest: &mut Peekable<Chars<'_>>) -> Option<Token> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
        let low = member(rest)?;
        let high = if rest.next_if_eq(&'-').is_some() { member(rest)? } else { low };
        ranges.push((low, high));
    }
    Some(Token::Class { negated, ranges })
}

/// Reads a character of a class.
fn member(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        c => Some(c),
    }
}

/// Where in `text` one may be behind a token, by where one was before it; the work is bounded by the two lengths.
fn step(token: &Token, text: &[char], before: &[bool]) -> Vec<bool> {
    let mut after = vec![false; text.len() + 1];
    // Somewhere at or before this place one was.
    let mut begun = false;
    for (n, &was) in before.iter().enumerate() {
        begun |= was;
        let next = text.get(n).copied();
        let one = match token {
            Token::One(c) => next == Some(*c),
            Token::Any => next.is_some_and(|c| c != '/'),
            Token::Class { negated, ranges } => next
                .is_some_and(|c| c != '/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated),
            Token::Star => {
                after[n] |= was;
                // What it has taken may go on.
                after[n] && next.is_some_and(|c| c != '/')
            }
            Token::Rest => {
                after[n] |= begun;
                false
            }
            Token::Directories => {
                after[n] |= was;
                begun && next == Some('/')
            }
        };
        let moves = match token {
            Token::One(_) | Token::Any | Token::Class { .. } => was && one,
            _ => one,
        };
        if moves {
            after[n + 1] = true;
        }
    }
    after
}

/// Tells whether a pattern fits the whole of a text.
fn fits(tokens: &[Token], text: &[char]) -> bool {
    let mut places = vec![false; text.len() + 1];
    places[0] = true;
    for token in tokens {
        places = step(token, text, &places);
    }
    places[text.len()]
}

/// Tells whether a pattern may fit something that begins with this.
fn may_begin(tokens: &[Token], begin: &[char]) -> bool {
    let mut places = vec![false; begin.len() + 1];
    places[0] = true;
    tokens.iter().any(|token| {
        places = step(token, begin, &places);
        places[begin.len()]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of the paths that are left out.
    fn left_out<'a>(text: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let ignore = Ignore::parse(text).unwrap();
        paths.iter().copied().filter(|path| ignore.has(path)).collect()
    }

    #[test]
    fn patterns_mean_what_docker_says_they_do() {
        let paths =
            ["a", "ab", "abc.md", "x.md", "sub/a", "sub/x.md", "sub/deep/x.md", "sub/deep", "secret/key", ".env"];
        for (text, expected) in [
            ("", &[][..]),
            ("# a\n\n  \n", &[]),
            ("a\n", &["a"]),
            ("/a", &["a"]),
            ("./a/", &["a"]),
            ("sub/../a", &["a"]),
            ("../a", &[]),
            ("*/a", &["sub/a"]),
            ("**/a", &["a", "sub/a"]),
            ("a?", &["ab"]),
            ("a*", &["a", "ab", "abc.md"]),
            ("*.md", &["abc.md", "x.md"]),
            ("**/*.md", &["abc.md", "x.md", "sub/x.md", "sub/deep/x.md"]),
            ("**a", &["a", "sub/a"]),
            ("**.md", &[]),
            ("sub", &["sub/a", "sub/x.md", "sub/deep/x.md", "sub/deep"]),
            ("sub/**", &["sub/a", "sub/x.md", "sub/deep/x.md", "sub/deep"]),
            ("sub/**/x.md", &["sub/x.md", "sub/deep/x.md"]),
            ("s*/deep", &["sub/deep/x.md", "sub/deep"]),
            ("[a-c][b]", &["ab"]),
            ("[^a]*", &["x.md", "sub/a", "sub/x.md", "sub/deep/x.md", "sub/deep", "secret/key", ".env"]),
            (".*", &[".env"]),
            ("\\a", &["a"]),
            ("a\\*", &[]),
            ("*\n!sub\n!*.md\n", &["a", "ab", "secret/key", ".env"]),
            (
                "*\n!sub/a\n",
                &["a", "ab", "abc.md", "x.md", "sub/x.md", "sub/deep/x.md", "sub/deep", "secret/key", ".env"],
            ),
            ("*.md\n!x.md\n*.md\n", &["abc.md", "x.md"]),
            ("  secret  \r\n! secret/other\n", &["secret/key"]),
            ("\u{feff}secret", &["secret/key"]),
        ] {
            assert_eq!(left_out(text, &paths), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_an_error_with_its_line() {
        for bad in ["[", "[]", "[a", "[a-", "[-a]", "x\\", "!", "! "] {
            let error = Ignore::parse(&format!("# one\n{bad}\n")).unwrap_err();
            assert_eq!(error.kind, Kind::Usage, "{bad}");
            assert!(error.message.contains("line 2") && error.hint.is_some(), "{bad}: {error}");
        }
        assert!(Ignore::parse(&"x\n".repeat(MOST + 1)).is_err());
        assert!(Ignore::parse(&"x".repeat(LONGEST + 1)).is_err());
    }

    #[test]
    fn a_directory_is_looked_into_only_where_something_in_it_may_be_taken_back() {
        let ignore = Ignore::parse("*\n!sub/keep/x\n!o*/y\n").unwrap();
        for (directory, expected) in [
            ("sub", true),
            ("sub/keep", true),
            ("sub/keep/x", false),
            ("sub/other", false),
            ("out", true),
            ("away", false),
        ] {
            assert_eq!(ignore.may_take_back_below(directory), expected, "{directory}");
        }
        assert!(Ignore::parse("*\n!**/x").unwrap().may_take_back_below("any/where"));
        assert!(!Ignore::parse("*").unwrap().may_take_back_below("any"));
    }

    #[test]
    fn a_pattern_that_is_meant_to_take_long_does_not() {
        let ignore = Ignore::parse(&format!("{}b", "**/*a".repeat(100))).unwrap();
        assert!(!ignore.has(&"a/".repeat(500)));
    }
}

//! A manifest's file: front matter between two lines of `---`, and below it the body.
//!
//! Reads a file once, bounded, and never through a link that a repository might have planted.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::yaml::read::unreadable;
use crate::yaml::{self, Entry, Problems, Value};

/// Longest file, bytes: front matter and body.
pub const LONGEST: u64 = 64 * 1024;

/// A file's two parts.
#[derive(Debug)]
pub struct Front {
    /// The keys of the front matter, with their lines in the file.
    pub entries: Vec<Entry>,
    /// What stands below it, without blank lines around it.
    pub body: String,
}

/// Reads a file; `None` where it cannot be read, which is said in `problems`.
pub fn read(path: &Path, follow_links: bool, problems: &mut Problems) -> Option<Front> {
    match text_of(path, follow_links) {
        Ok(text) => split(&text, problems),
        Err(e) => {
            unreadable(problems, &e);
            None
        }
    }
}

/// Reads at most a little more than [`LONGEST`] bytes.
fn text_of(path: &Path, follow_links: bool) -> io::Result<String> {
    // A pipe with nobody at its other end would hold up whoever opens it.
    let flags = libc::O_NONBLOCK | if follow_links { 0 } else { libc::O_NOFOLLOW };
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a link, and a repository's links are not followed"),
        _ => e,
    })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    file.take(LONGEST + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Parts a text.
pub fn split(text: &str, problems: &mut Problems) -> Option<Front> {
    if text.len() as u64 > LONGEST {
        problems.add(0, format!("the file has more than {LONGEST} bytes")).hint = Some("make it shorter".to_owned());
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.split_inclusive('\n');
    let is_rule = |line: &str| line.trim_end() == "---";
    if !lines.next().is_some_and(is_rule) {
        problems.add(1, "the file does not begin with `---`").hint =
            Some("write the keys between two lines of `---`, and what the file is for below them".to_owned());
        return None;
    }
    // An empty line in place of the first rule keeps the numbers of the others.
    let mut front = String::from("\n");
    let mut closed = false;
    for line in lines.by_ref() {
        if is_rule(line) {
            closed = true;
            break;
        }
        front.push_str(line);
    }
    if !closed {
        problems.add(1, "the front matter has no end").hint = Some("write a line of `---` below its keys".to_owned());
        return None;
    }
    let body: String = lines.collect();
    let entries = match yaml::parse(&front, problems) {
        None => Vec::new(),
        Some(tree) if tree.is_nothing() => Vec::new(),
        Some(tree) => match tree.value {
            Value::Map(entries) => entries,
            _ => {
                problems.add(tree.line, "the front matter must be a table of keys and values").hint =
                    Some("write `key: value`, each on a line of its own".to_owned());
                return None;
            }
        },
    };
    Some(Front { entries, body: body.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys with their lines, and the body.
    type Parts = (Vec<(String, usize)>, String);

    fn parts(text: &str) -> Result<Parts, Vec<String>> {
        let mut problems = Problems::new("a.md");
        let front = split(text, &mut problems);
        problems
            .into_result(front)
            .map(|front| front.unwrap())
            .map(|front| (front.entries.iter().map(|e| (e.key.clone(), e.line)).collect(), front.body))
            .map_err(|list| list.iter().map(|e| format!("{} {}", e.place.as_deref().unwrap(), e.message)).collect())
    }

    #[test]
    fn lines_are_those_of_the_file_and_the_body_is_what_is_left() {
        let text = "---\n# note\nbottle: dev\n\nskills: [a]\n---\n\nYou write tests.\n\n---\nMore.\n";
        let want = vec![("bottle".to_owned(), 3), ("skills".to_owned(), 5)];
        assert_eq!(parts(text), Ok((want, "You write tests.\n\n---\nMore.".to_owned())));
        assert_eq!(parts("---\r\na: 1\r\n---\r\nbody\r\n"), Ok((vec![("a".to_owned(), 2)], "body".to_owned())));
        assert_eq!(parts("\u{feff}---\n---\n"), Ok((vec![], String::new())));
        assert_eq!(parts("---\na: &x 1\n---\n").unwrap_err(), ["a.md:2 an anchor (`&name`)"]);
    }

    #[test]
    fn what_is_no_manifest_is_said() {
        for (text, want) in [
            ("", "a.md:1 the file does not begin with `---`"),
            ("bottle: dev\n", "a.md:1 the file does not begin with `---`"),
            ("---\nbottle: dev\n", "a.md:1 the front matter has no end"),
            ("---\n- a\n---\n", "a.md:2 the front matter must be a table of keys and values"),
            ("---\njust text\n---\n", "a.md:2 the front matter must be a table of keys and values"),
            (&format!("---\n---\n{}", "x".repeat(LONGEST as usize)), "a.md the file has more than 65536 bytes"),
        ] {
            assert_eq!(parts(text).unwrap_err(), [want], "{text:.40}");
        }
    }

    #[test]
    fn neither_a_link_nor_a_pipe_is_read_from_a_repository() {
        let dir = std::env::temp_dir().join(format!("bb-front-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("real.md"), "---\n---\nbody\n").unwrap();
        std::os::unix::fs::symlink(dir.join("real.md"), dir.join("link.md")).unwrap();
        nix::unistd::mkfifo(&dir.join("pipe.md"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let read = |name: &str, follow: bool| {
            let mut problems = Problems::new(name);
            let front = read(&dir.join(name), follow, &mut problems);
            problems.into_result(front).map(|front| front.unwrap().body).map_err(|e| e[0].message.clone())
        };
        assert_eq!(read("real.md", false), Ok("body".into()));
        assert_eq!(read("link.md", true), Ok("body".into()));
        assert!(read("link.md", false).unwrap_err().contains("a repository's links are not followed"));
        assert!(read("pipe.md", true).unwrap_err().contains("it is not a file"));
        assert!(read("none.md", true).unwrap_err().contains("cannot be read"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

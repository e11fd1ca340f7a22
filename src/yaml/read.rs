//! What several files need to read a tree: tables, words, texts, lists. Each says what is wrong in its line.
//!
//! Nothing here knows a key by name.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Entry, Node, Problems, Value};
use crate::egress::name::Host;
use crate::error::Error;
use crate::name::{self, Name};

/// Makes one error of everything that is wrong with files: a line for each fault, with its place and its hint.
pub fn joined(mut problems: Vec<Error>) -> Error {
    if problems.len() == 1 {
        return problems.remove(0);
    }
    let Some(kind) = problems.first().map(|first| first.kind) else {
        return Error::internal("a file cannot be read");
    };
    let line = |e: &Error| {
        let place = e.place.as_deref().map(|place| format!("{place}: ")).unwrap_or_default();
        let hint = e.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("\n  {place}{}{hint}", e.message)
    };
    let lines: String = problems.iter().map(line).collect();
    let mut files: Vec<&str> = problems.iter().filter_map(|e| e.place.as_deref()).map(file_of).collect();
    files.sort_unstable();
    files.dedup();
    let whose = if files.len() == 1 { format!(" in {}", files[0]) } else { String::new() };
    Error::new(kind, format!("{} faults{whose}:{lines}", problems.len())).hint("correct each of these lines")
}

/// Gets the file of a place such as `settings.yml:3`.
fn file_of(place: &str) -> &str {
    match place.rsplit_once(':') {
        Some((file, line)) if line.bytes().all(|b| b.is_ascii_digit()) => file,
        _ => place,
    }
}

/// Gets the entries of what must be a table.
pub fn table<'a>(node: &'a Node, what: &str, problems: &mut Problems) -> &'a [Entry] {
    node.entries().unwrap_or_else(|| {
        problems.add(node.line, format!("{what} must be a table of keys and values")).hint =
            Some("write `key: value` below it, each on a line of its own, indented with spaces".to_owned());
        &[]
    })
}

/// Gets the items of a list; one text alone is a list of one.
pub fn list<'a>(node: &'a Node, what: &str, problems: &mut Problems) -> &'a [Node] {
    match &node.value {
        Value::List(items) => items,
        Value::Scalar { .. } if node.text().is_some() => std::slice::from_ref(node),
        _ => {
            problems.add(node.line, format!("{what} must be a list")).hint =
                Some("write `- item` below it, each on a line of its own".to_owned());
            &[]
        }
    }
}

/// Gets the items of what must be a list of tables.
pub fn tables<'a>(node: &'a Node, what: &str, problems: &mut Problems) -> &'a [Node] {
    if let Value::List(items) = &node.value {
        return items;
    }
    problems.add(node.line, format!("{what} must be a list of tables")).hint =
        Some("begin each entry with `- `, on a line of its own".to_owned());
    &[]
}

/// Gets a text that is not empty.
pub fn text(entry: &Entry, problems: &mut Problems) -> Option<String> {
    let text = entry.value.text().filter(|text| !text.trim().is_empty());
    if text.is_none() {
        problems.add(entry.value.line, format!("`{}` must be a text", entry.key)).hint =
            Some("write a value behind the colon, or remove the key".to_owned());
    }
    text.map(str::to_owned)
}

/// Gets true or false.
pub fn boolean(entry: &Entry, problems: &mut Problems) -> Option<bool> {
    let value = entry.value.boolean();
    if value.is_none() {
        problems.add(entry.value.line, format!("`{}` must be true or false", entry.key)).hint =
            Some("write true or false, without quotes".to_owned());
    }
    value
}

/// Gets a name ([`Name`]).
pub fn named(node: &Node, problems: &mut Problems) -> Option<Name> {
    match Name::parse(node.text().unwrap_or("")) {
        Ok(name) => Some(name),
        Err(e) => {
            problems.add(node.line, e.to_string()).hint = Some(name::HINT.to_owned());
            None
        }
    }
}

/// Reads one of a few words; `later` are known but not supported yet.
pub fn word<T: Copy>(entry: &Entry, words: &[(&str, T)], later: &[&str], problems: &mut Problems) -> Option<T> {
    let text = entry.value.text().unwrap_or("");
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Some(*value);
    }
    let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
    let shown: String = text.chars().take(60).collect();
    let message = match later.contains(&text) {
        true => format!("`{}: {text}` is not supported yet", entry.key),
        false if shown.is_empty() => format!("`{}` must be a word", entry.key),
        false => format!("`{shown}` is not a value of `{}`", entry.key),
    };
    problems.add(entry.value.line, message).hint = Some(format!("write {known}"));
    None
}

/// Checks that a text is a host name in its canonical form; what is wrong is said.
pub fn host(entry: &Entry, text: &str, problems: &mut Problems) -> bool {
    let good = is_host(text);
    if !good {
        let shown: String = text.chars().take(60).collect();
        problems.add(entry.line, format!("`{shown}` is not a host name")).hint =
            Some("write the name alone, in lower case, without a port".to_owned());
    }
    good
}

/// Tells whether a text is a host name in its canonical form.
pub fn is_host(name: &str) -> bool {
    Host::parse(name).is_ok_and(|host| !host.is_ip() && host.to_string() == name)
}

/// Tells whether a text can be a variable's name (POSIX, 8.1).
pub fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 256
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Reads at most `max` bytes of a file as text. Nothing but a file is waited for.
///
/// # Errors
/// Those of the system, `NotFound` only where nothing is there; `InvalidData` where it is no text or no file.
pub fn bounded(path: &Path, max: u64) -> io::Result<String> {
    // A pipe with nobody at its other end would hold up whoever opens it.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = opened.map_err(|e| match e.kind() {
        // Whoever put it there meant something by it, and what holds where nothing is there may be less strict.
        io::ErrorKind::NotFound if path.symlink_metadata().is_ok() => {
            io::Error::new(io::ErrorKind::InvalidData, "it is a link that leads nowhere")
        }
        _ => e,
    })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file"));
    }
    let mut text = String::new();
    file.take(max).read_to_string(&mut text)?;
    Ok(text)
}

/// Tells whether an entry says of what image a bottle is made.
pub fn is_image(entry: &Entry) -> bool {
    entry.key == "image" || entry.key == "dockerfile"
}

/// Says that it was said twice.
pub fn twice(entry: &Entry, problems: &mut Problems) {
    problems.add(entry.line, "`image` and `dockerfile` both say of what a bottle is made").hint =
        Some("leave one of them out".to_owned());
}

/// Says that a file cannot be read.
pub fn unreadable(problems: &mut Problems, error: &io::Error) {
    problems.add(0, format!("the file cannot be read: {error}")).hint =
        Some("make it a file of UTF-8 text that you may read, or remove it".to_owned());
}

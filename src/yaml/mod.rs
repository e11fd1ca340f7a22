//! The safe subset of YAML that bb's files are written in, as a tree whose nodes know their lines.
//!
//! Refused: anchors, aliases, tags, merge keys, duplicate keys, tab characters, more than one document, more than 64 KiB,
//! more than 16 levels. Scalars stay text: what a text means is decided by who reads the key, so that `no` or `1e3`
//! never turns into something else. Every problem is collected, not only the first. Nothing here knows what a key means.

pub mod budget;
pub mod read;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use crate::error::{Error, Kind, nearest};

/// Longest text that is read, bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 16;

/// A node, with the line that it begins in (from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Line in the file.
    pub line: usize,
    /// What stands there.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Scalar {
        /// The text, unescaped.
        text: String,
        /// Whether it stood there without quotes; only then can it be a number, a boolean or nothing.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// A table; keys in the order of the file, each once.
    Map(Vec<Entry>),
}

/// One key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Line of the key.
    pub line: usize,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// Gets the text of a scalar, quoted or not.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } if !self.is_nothing() => Some(text),
            _ => None,
        }
    }

    /// Gets a boolean: `true` or `false` without quotes, no other word.
    pub fn boolean(&self) -> Option<bool> {
        match &self.value {
            Value::Scalar { text, plain: true } => match text.as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// Tells whether nothing was said: an empty value, `~` or `null`.
    pub fn is_nothing(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// Gets the keys of a table.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }
}

/// Collects what is wrong with one file.
#[derive(Debug)]
pub struct Problems {
    file: String,
    list: Vec<Error>,
}

impl Problems {
    /// Begins a list for the file that is called `file` in messages.
    pub fn new(file: &str) -> Problems {
        Problems { file: file.to_owned(), list: Vec::new() }
    }

    /// Adds a problem of kind `usage` in a line; 0 = of the whole file.
    pub fn add(&mut self, line: usize, message: impl Into<String>) -> &mut Error {
        self.push(Kind::Usage, line, message.into())
    }

    /// Adds that a key is not one of `known`, and names the nearest one.
    pub fn unknown_key(&mut self, entry: &Entry, known: &[&str]) {
        let near = nearest(&entry.key, known.iter().copied());
        let all = known.join(", ");
        let key: String = entry.key.chars().take(60).collect();
        let hint =
            near.map_or(format!("known here: {all}"), |near| format!("did you mean `{near}`? known here: {all}"));
        self.push(Kind::UnknownKey, entry.line, format!("unknown key `{key}`")).hint = Some(hint);
    }

    /// Tells how many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Tells whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Gets everything that was found, in order of lines; `Err` if there is anything.
    ///
    /// # Errors
    /// The list.
    pub fn into_result<T>(mut self, value: T) -> Result<T, Vec<Error>> {
        if self.list.is_empty() {
            return Ok(value);
        }
        let line = |e: &Error| e.place.as_ref().and_then(|p| p.rsplit(':').next()?.parse::<usize>().ok()).unwrap_or(0);
        self.list.sort_by_key(line);
        Err(self.list)
    }

    fn push(&mut self, kind: Kind, line: usize, message: String) -> &mut Error {
        let place = if line == 0 { self.file.clone() } else { format!("{}:{line}", self.file) };
        self.list.push(Error::new(kind, message).at(place));
        let last = self.list.len() - 1;
        &mut self.list[last]
    }
}

/// Reads a text. `None` where it is empty or cannot be read to its end; what is wrong is added to `problems`.
pub fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    if text.len() > MAX_BYTES {
        problems.add(0, format!("the file has {} bytes, more than {MAX_BYTES}", text.len())).hint =
            Some("make it shorter".to_owned());
        return None;
    }
    for (at, _) in text.split('\n').enumerate().filter(|(_, line)| line.contains('\t')) {
        problems.add(at + 1, "a tab character").hint = Some("indent with spaces".to_owned());
    }
    let mut builder = Builder { problems, stack: Vec::new(), root: None, documents: 0 };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => {
                if !builder.event(event, span) {
                    return None;
                }
            }
            Err(e) => {
                let at = e.marker().line();
                let line = |n: usize| text.lines().nth(n.saturating_sub(1)).unwrap_or("");
                // The reader notices an unquoted `*` as a key only in the line below.
                let star = [at, at.saturating_sub(1)].into_iter().find(|n| line(*n).trim_start().starts_with('*'));
                // A tab is said already, in words that help.
                if !line(at).contains('\t') {
                    let error = problems.add(star.unwrap_or(at), format!("not valid YAML: {}", e.info()));
                    error.hint = Some(if star.is_some() || e.info().contains("alias") || e.info().contains("anchor") {
                        "put a text that begins with * or & in quotes".to_owned()
                    } else {
                        "look at quotes, brackets and indentation in this line and the one above".to_owned()
                    });
                }
                return None;
            }
        }
    }
    builder.root
}

/// A list or table that is not finished.
enum Frame {
    List(usize, Vec<Node>),
    Map(usize, Vec<Entry>, Option<(String, usize)>),
}

struct Builder<'a> {
    problems: &'a mut Problems,
    stack: Vec<Frame>,
    root: Option<Node>,
    documents: usize,
}

impl Builder<'_> {
    /// Takes one event; false ends the reading.
    fn event(&mut self, event: Event<'_>, span: Span) -> bool {
        let line = span.start.line();
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.problems.add(line, "a second document begins here").hint =
                        Some("one file holds one document; remove the `---`".to_owned());
                    return false;
                }
            }
            Event::Alias(_) => {
                self.problems.add(line, "an alias (`*name`)").hint =
                    Some("write the value out, or put a text that begins with * in quotes".to_owned());
                self.put(Node { line, value: Value::Scalar { text: String::new(), plain: false } });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(line, anchor, tag.as_deref());
                let plain = style == ScalarStyle::Plain;
                self.put(Node { line, value: Value::Scalar { text: text.into_owned(), plain } });
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse(line, anchor, tag.as_deref());
                return self.open(line, Frame::List(line, Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse(line, anchor, tag.as_deref());
                return self.open(line, Frame::Map(line, Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List(line, items)) => self.put(Node { line, value: Value::List(items) }),
                Some(Frame::Map(line, entries, _)) => self.put(Node { line, value: Value::Map(entries) }),
                None => {}
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        true
    }

    fn refuse(&mut self, line: usize, anchor: usize, tag: Option<&Tag>) {
        if anchor != 0 {
            self.problems.add(line, "an anchor (`&name`)").hint =
                Some("write values out where they are needed".to_owned());
        }
        if let Some(tag) = tag {
            let tag: String = tag.to_string().chars().take(40).collect();
            self.problems.add(line, format!("a tag (`{tag}`)")).hint = Some("remove it".to_owned());
        }
    }

    fn open(&mut self, line: usize, frame: Frame) -> bool {
        if self.stack.len() >= MAX_DEPTH {
            self.problems.add(line, format!("nested more than {MAX_DEPTH} levels deep")).hint =
                Some("write it with fewer levels".to_owned());
            return false;
        }
        self.stack.push(frame);
        true
    }

    /// Puts a finished node where it belongs.
    fn put(&mut self, node: Node) {
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List(_, items)) => items.push(node),
            Some(Frame::Map(_, entries, key)) => match key.take() {
                None => match node.value {
                    Value::Scalar { text, plain } => {
                        if plain && text == "<<" {
                            self.problems.add(node.line, "a merge key (`<<`)").hint =
                                Some("write the keys out".to_owned());
                        }
                        if let Some(first) = entries.iter().find(|e| e.key == text) {
                            let shown: String = text.chars().take(60).collect();
                            let message = format!("the key `{shown}` stands here again, first in line {}", first.line);
                            self.problems.add(node.line, message).hint =
                                Some("remove one of the two; each key stands once in its table".to_owned());
                        }
                        *key = Some((text, node.line));
                    }
                    _ => {
                        self.problems.add(node.line, "a key must be a plain text").hint =
                            Some("write a word, then a colon and its value".to_owned());
                        *key = Some((String::new(), node.line));
                    }
                },
                Some((key, line)) => {
                    // Of two equal keys (said above) the first stays.
                    if !entries.iter().any(|e| e.key == key) {
                        entries.push(Entry { key, line, value: node });
                    }
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Node>, Vec<String>> {
        let mut problems = Problems::new("f.yml");
        let node = parse(text, &mut problems);
        problems.into_result(node).map_err(|list| {
            assert!(list.iter().all(|e| e.hint.as_ref().is_some_and(|hint| !hint.is_empty())), "{text:?}: {list:?}");
            list.into_iter().map(|e| format!("{} {}", e.place.unwrap_or_default(), e.message)).collect()
        })
    }

    #[test]
    fn a_tree_knows_its_lines_and_scalars_stay_text() {
        let node = read("# note\na: 1e3\nb:\n  - no\n  - \"true\"\nc: {d: true, e: ~}\n").unwrap().unwrap();
        let entries = node.entries().unwrap();
        assert_eq!(
            entries.iter().map(|e| (e.key.as_str(), e.line)).collect::<Vec<_>>(),
            [("a", 2), ("b", 3), ("c", 6)]
        );
        assert_eq!(entries[0].value.text(), Some("1e3"));
        let Value::List(items) = &entries[1].value.value else { panic!() };
        assert_eq!((items[0].text(), items[0].line, items[0].boolean()), (Some("no"), 4, None));
        assert_eq!(items[1].boolean(), None, "quoted is text");
        let flow = entries[2].value.entries().unwrap();
        assert_eq!(flow[0].value.boolean(), Some(true));
        assert!(flow[1].value.is_nothing() && flow[1].value.text().is_none());
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read("# only a note\n").unwrap(), None);
        assert!(read("---\na: 1\n").unwrap().is_some());
    }

    #[test]
    fn what_is_outside_the_subset_is_refused_in_its_line() {
        for (text, line, word) in [
            ("a: &x 1\n", 1, "anchor"),
            ("a: 1\nb: &x [1]\n", 2, "anchor"),
            ("a: &x 1\nb: *x\n", 2, "alias"),
            ("a: 1\nb: !!int 3\n", 2, "tag"),
            ("a: 1\nb: !local {}\n", 2, "tag"),
            ("a: 1\n<<: {b: 1}\n", 2, "merge"),
            ("a: 1\nb: 2\na: 3\n", 3, "again, first in line 1"),
            ("a:\n\tb: 1\n", 2, "tab"),
            ("a: \"x\ty\"\n", 1, "tab"),
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("a: 1\n? [b]\n: 2\n", 2, "plain text"),
            ("a: 1\nb: [1, 2\n", 3, "not valid"),
            ("a: 1\n*: 2\n", 2, "not valid"),
            ("a: 1\nb: *nobody\n", 2, "not valid"),
        ] {
            let problems = read(text).unwrap_err();
            let hit = problems.iter().any(|p| p.starts_with(&format!("f.yml:{line} ")) && p.contains(word));
            assert!(hit, "{text:?}: {problems:?}");
        }
    }

    #[test]
    fn every_problem_is_listed_at_once_in_order() {
        let problems = read("a: &x 1\nb: !t 2\na: 3\nc: *x\n").unwrap_err();
        let lines: Vec<&str> = problems.iter().filter_map(|p| p.split(' ').next()).collect();
        assert_eq!(lines, ["f.yml:1", "f.yml:2", "f.yml:3", "f.yml:4"]);
    }

    #[test]
    fn size_and_depth_are_bounded() {
        assert!(read(&format!("a: {}", "x".repeat(MAX_BYTES))).unwrap_err()[0].contains("bytes"));
        assert!(read(&"[".repeat(5000)).is_err());
        let flow = format!("{}{}", "[".repeat(40), "]".repeat(40));
        assert!(read(&flow).unwrap_err().iter().any(|p| p.contains("levels")));
        let deep: String = (0..40).map(|i| format!("{}k:\n", "  ".repeat(i))).collect();
        assert!(read(&deep).unwrap_err().iter().any(|p| p.contains("levels")));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            cases: proptest::prelude::ProptestConfig::default().cases.max(400), failure_persistence: None, ..Default::default()
        })]
        #[test]
        fn no_text_makes_it_panic(text in "[ \\[\\]{}:,&*!|>'\"%@`?#\\-\n\ta-c0-9~<]{0,80}") {
            let _ = read(&text);
        }
    }
}

//! What an engine says while it builds or pulls, as events. Three dialects: BuildKit's trace, the lines of the classic
//! builder and of Podman, and those of a pull.
//!
//! Pure. What steps print is an image's own text: kept in small amounts, for the error of a step that fails.

use std::collections::{BTreeMap, VecDeque};

use base64::Engine as _;
use serde_json::Value;

use super::clean;
use crate::bottle::docker::protobuf::Fields;

/// Most of a step's lines that are kept, and the longest of them.
const MOST_LINES: usize = 15;
const LONGEST: usize = 300;

/// Most steps that are told apart.
const MOST_STEPS: usize = 2000;

/// Something that happened on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A step has begun, `number` of `total`; both are 0 where it is not one of the Dockerfile's.
    Step {
        /// Its number, from 1.
        number: u32,
        /// How many there are.
        total: u32,
        /// What it does.
        text: String,
    },
    /// So many bytes of the layers that are known so far have come.
    Bytes {
        /// Have come.
        done: u64,
        /// Are known of.
        total: u64,
    },
}

/// A step that a build knows.
#[derive(Default)]
struct Step {
    name: String,
    told: bool,
    lines: VecDeque<String>,
}

/// Reads the lines of one build or pull.
#[derive(Default)]
pub struct Reader {
    steps: BTreeMap<String, Step>,
    /// The one that failed, or the last one.
    last: String,
    layers: BTreeMap<String, (u64, u64)>,
    bytes: (u64, u64),
    /// The text of a line that has not come to its end.
    partial: String,
    /// What went wrong, in the engine's words.
    pub error: Option<String>,
}

impl Reader {
    /// Reads a line.
    pub fn read(&mut self, line: &str, tell: &mut dyn FnMut(Event)) {
        let Ok(said) = serde_json::from_str::<Value>(line) else { return };
        let error = said["errorDetail"]["message"].as_str().or(said["error"].as_str());
        if let Some(error) = error {
            self.error = Some(clean(error, 500));
        } else if said["id"] == "moby.buildkit.trace" {
            let trace = said["aux"].as_str().unwrap_or_default();
            if let Ok(trace) = base64::engine::general_purpose::STANDARD.decode(trace) {
                self.trace(&trace, tell);
            }
        } else if let Some(text) = said["stream"].as_str() {
            self.classic(text, tell);
        } else if let Some(status) = said["status"].as_str() {
            self.pulled(&said, status, tell);
        }
    }

    /// The name and the last lines of the step that failed.
    pub fn failed(&self) -> Option<(&str, Vec<&str>)> {
        let step = self.steps.get(&self.last)?;
        Some((&step.name, step.lines.iter().map(String::as_str).collect()))
    }

    fn step(&mut self, id: &str) -> Option<&mut Step> {
        if self.steps.len() >= MOST_STEPS && !self.steps.contains_key(id) {
            return None;
        }
        Some(self.steps.entry(id.to_owned()).or_default())
    }

    /// A `StatusResponse` (moby/buildkit, `api/services/control/control.proto`).
    fn trace(&mut self, message: &[u8], tell: &mut dyn FnMut(Event)) {
        for (field, value) in Fields::of(message) {
            match field {
                1 => self.vertex(value.bytes(), tell),
                2 => self.status(value.bytes(), tell),
                3 => self.log(value.bytes()),
                _ => {}
            }
        }
    }

    fn vertex(&mut self, message: &[u8], tell: &mut dyn FnMut(Event)) {
        let (mut id, mut name, mut begun, mut error) = (String::new(), String::new(), false, String::new());
        for (field, value) in Fields::of(message) {
            match field {
                1 => id = value.text(),
                3 => name = value.text(),
                4 => begun |= value.number() != 0,
                5 => begun = true,
                7 => error = value.text(),
                _ => {}
            }
        }
        let Some(step) = self.step(&id) else { return };
        step.name = clean(&name, LONGEST);
        let tells = begun && !step.told;
        step.told |= begun;
        if tells && let Some(event) = numbered(&step.name) {
            tell(event);
        }
        if !error.is_empty() && self.error.is_none() {
            self.last = id;
        }
    }

    fn status(&mut self, message: &[u8], tell: &mut dyn FnMut(Event)) {
        let (mut id, mut done, mut total) = (String::new(), 0, 0);
        for (field, value) in Fields::of(message) {
            match field {
                1 => id = value.text(),
                4 => done = value.number(),
                5 => total = value.number(),
                _ => {}
            }
        }
        self.layer(id, done, total, tell);
    }

    fn log(&mut self, message: &[u8]) {
        let (mut id, mut text) = (String::new(), String::new());
        for (field, value) in Fields::of(message) {
            match field {
                1 => id = value.text(),
                4 => text = value.text(),
                _ => {}
            }
        }
        if let Some(step) = self.step(&id) {
            // A step's lines may come in pieces; for an error's sake that does not matter.
            text.lines().for_each(|line| keep(&mut step.lines, line));
        }
    }

    /// Text of the classic builder, which Podman speaks too: lines, in pieces of any length.
    fn classic(&mut self, text: &str, tell: &mut dyn FnMut(Event)) {
        self.partial.push_str(text);
        if self.partial.len() > 64 << 10 {
            self.partial.clear();
        }
        while let Some((line, rest)) = self.partial.split_once('\n') {
            let (line, rest) = (line.to_owned(), rest.to_owned());
            self.partial = rest;
            let begins = line.get(..5).filter(|word| word.eq_ignore_ascii_case("step "));
            let step = begins.and_then(|_| line[5..].split_once(':'));
            match step.and_then(|(number, text)| Some((fraction(number.trim())?, text))) {
                Some(((number, total), text)) => {
                    self.last = number.to_string();
                    let text = clean(text, LONGEST);
                    let last = self.last.clone();
                    if let Some(step) = self.step(&last) {
                        step.name = format!("[{number}/{total}] {text}");
                    }
                    tell(Event::Step { number, total, text });
                }
                None => {
                    let last = self.last.clone();
                    if let Some(step) = self.step(&last) {
                        keep(&mut step.lines, &line);
                    }
                }
            }
        }
    }

    fn pulled(&mut self, said: &Value, status: &str, tell: &mut dyn FnMut(Event)) {
        let number = |key: &str| said["progressDetail"][key].as_u64().unwrap_or_default();
        if let ("Downloading", Some(id)) = (status, said["id"].as_str()) {
            self.layer(id.to_owned(), number("current"), number("total"), tell);
        }
    }

    fn layer(&mut self, id: String, done: u64, total: u64, tell: &mut dyn FnMut(Event)) {
        if total == 0 || self.layers.len() >= MOST_STEPS {
            return;
        }
        self.layers.insert(id, (done.min(total), total));
        let sum = self
            .layers
            .values()
            .fold((0u64, 0u64), |sum, layer| (sum.0.saturating_add(layer.0), sum.1.saturating_add(layer.1)));
        if std::mem::replace(&mut self.bytes, sum) != sum {
            tell(Event::Bytes { done: sum.0, total: sum.1 });
        }
    }
}

fn keep(lines: &mut VecDeque<String>, line: &str) {
    let line = clean(line, LONGEST);
    if line.is_empty() {
        return;
    }
    if lines.len() == MOST_LINES {
        lines.pop_front();
    }
    lines.push_back(line);
}

/// Reads `2/7`.
fn fraction(text: &str) -> Option<(u32, u32)> {
    let (number, total) = text.split_once('/')?;
    Some((number.parse().ok()?, total.parse().ok()?))
}

/// Gets the event of a step by its name: `[2/7] RUN ...`, `[build 2/7] ...`; of BuildKit's own steps those that may take
/// long.
fn numbered(name: &str) -> Option<Event> {
    let other = |text: String| Some(Event::Step { number: 0, total: 0, text });
    if let Some(image) = name.strip_prefix("[internal] load metadata for ") {
        return other(format!("look up {image}"));
    }
    if name == "exporting to image" {
        return other("write the image".to_owned());
    }
    let (place, text) = name.strip_prefix('[')?.split_once(']')?;
    let (number, total) = fraction(place.split_whitespace().next_back()?)?;
    Some(Event::Step { number, total, text: text.trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bottle::docker::protobuf::bytes;

    fn events(lines: &[String]) -> (Reader, Vec<Event>) {
        let mut reader = Reader::default();
        let mut events = Vec::new();
        for line in lines {
            reader.read(line, &mut |event| events.push(event));
        }
        (reader, events)
    }

    fn step(number: u32, total: u32, text: &str) -> Event {
        Event::Step { number, total, text: text.to_owned() }
    }

    fn trace(parts: &[Vec<u8>]) -> String {
        let aux = base64::engine::general_purpose::STANDARD.encode(parts.concat());
        serde_json::json!({"id": "moby.buildkit.trace", "aux": aux}).to_string()
    }

    #[test]
    fn the_steps_of_buildkit_are_told_once_when_they_begin() {
        let vertex = |id: &str, name: &str, rest: &[u8]| {
            bytes(1, &[bytes(1, id.as_bytes()), bytes(3, name.as_bytes()), rest.to_vec()].concat())
        };
        let begun = bytes(5, b"");
        let log = |id: &str, text: &str| bytes(3, &[bytes(1, id.as_bytes()), bytes(4, text.as_bytes())].concat());
        let layer = [bytes(1, b"layer"), vec![4 << 3, 5], vec![5 << 3, 9]].concat();
        let lines = [
            trace(&[vertex("a", "[internal] load build definition", &begun), vertex("b", "[1/2] FROM x", b"")]),
            trace(&[vertex("b", "[1/2] FROM x", &begun), bytes(2, &layer)]),
            trace(&[vertex("b", "[1/2] FROM x", &begun), bytes(2, &layer)]),
            trace(&[vertex("c", "[stage-1 2/2] RUN npm", &begun), log("c", "one\ntwo\x1b[2J\n"), log("b", "x")]),
            trace(&[vertex("c", "[stage-1 2/2] RUN npm", &[begun.clone(), bytes(7, b"exit 1")].concat())]),
            r#"{"errorDetail":{"message":"exit code: 1"},"error":"exit code: 1"}"#.to_owned(),
        ];
        let (reader, events) = events(&lines);
        assert_eq!(events, [step(1, 2, "FROM x"), Event::Bytes { done: 5, total: 9 }, step(2, 2, "RUN npm")]);
        assert_eq!(reader.error.as_deref(), Some("exit code: 1"));
        assert_eq!(reader.failed().unwrap(), ("[stage-1 2/2] RUN npm", vec!["one", "two\\u{1b}[2J"]));
    }

    #[test]
    fn the_steps_of_the_classic_builder_and_of_podman_are_told() {
        let stream = |text: &str| serde_json::json!({"stream": text}).to_string();
        let lines = [
            stream("STEP 1/2: FROM base\n"),
            stream("--> 1234\nStep 2/2 : RUN "),
            stream("false\n"),
            stream("out"),
            stream("put\n"),
            serde_json::json!({"error": "exit status 1"}).to_string(),
        ];
        let (reader, events) = events(&lines);
        assert_eq!(events, [step(1, 2, "FROM base"), step(2, 2, "RUN false")]);
        assert_eq!(reader.failed().unwrap(), ("[2/2] RUN false", vec!["output"]));
        assert_eq!(reader.error.as_deref(), Some("exit status 1"));
    }

    #[test]
    fn the_bytes_of_a_pull_add_up_and_nonsense_is_nothing() {
        let down = |id: &str, current: u64| {
            serde_json::json!({"status": "Downloading", "id": id, "progressDetail": {"current": current, "total": 10}})
                .to_string()
        };
        let lines = [
            down("a", 3),
            down("b", 10),
            down("b", 10),
            "not json".to_owned(),
            "[]".to_owned(),
            trace(&[vec![255; 9]]),
        ];
        let (reader, events) = events(&lines);
        assert_eq!(events, [Event::Bytes { done: 3, total: 10 }, Event::Bytes { done: 13, total: 20 }]);
        assert!(reader.error.is_none() && reader.failed().is_none());
    }

    #[test]
    fn what_a_step_prints_is_kept_in_small_amounts() {
        let stream = |text: String| serde_json::json!({"stream": text}).to_string();
        let mut lines = vec![stream("STEP 1/1: RUN yes\n".to_owned())];
        lines.extend((0..10_000).map(|n| stream(format!("{n} {}\n", "y".repeat(5000)))));
        let (reader, _) = events(&lines);
        let (_, kept) = reader.failed().unwrap();
        assert_eq!(kept.len(), MOST_LINES);
        assert!(kept.iter().all(|line| line.chars().count() <= LONGEST + 1) && kept[0].starts_with("9985 "));
    }
}

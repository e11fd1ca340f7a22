//! How the making of an image is shown: at a terminal one line that is drawn anew, elsewhere a line for each step, with
//! `--json` an object for each.
//!
//! On standard error, beside standard output's results. Decides nothing.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use super::log::Output;
use crate::image::{Event, Need};
use crate::printable::printable;
use crate::terminal;

/// How often the line is drawn anew at most.
const PACE: Duration = Duration::from_millis(80);

/// What is shown of one image.
pub struct Progress {
    out: Output,
    name: String,
    need: Need,
    redraws: bool,
    begun: Instant,
    drawn: Option<Instant>,
    step: String,
    bytes: (u64, u64),
}

impl Progress {
    /// Begins to show the making of an image.
    pub fn new(out: Output, name: &str, need: Need) -> Progress {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let redraws = !out.json && out.kept.is_none() && !dumb && std::io::stderr().is_terminal();
        let mut progress = Progress {
            out,
            name: name.to_owned(),
            need,
            redraws,
            begun: Instant::now(),
            drawn: None,
            step: String::new(),
            bytes: (0, 0),
        };
        progress.line(&format!("{} {name}", progress.verb()));
        progress
    }

    fn verb(&self) -> &'static str {
        if self.need == Need::Pull { "pulling" } else { "building" }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Step { number, total, text } => {
                self.step = if *total == 0 { text.clone() } else { format!("{number}/{total} {text}") };
                self.out.record(json!({
                    "v": 1, "type": "image", "image": self.name, "state": self.verb(), "step": number, "steps": total, "text": text,
                }));
                self.line(&format!("{}: {}", self.name, self.step));
            }
            Event::Bytes { done, total } => {
                self.bytes = (*done, *total);
                if self.redraws && self.drawn.is_none_or(|drawn| drawn.elapsed() >= PACE) {
                    self.draw();
                }
            }
        }
    }

    /// Says that the image is there.
    pub fn done(mut self) {
        let state = if self.need == Need::Pull { "pulled" } else { "built" };
        self.clear();
        self.out.record(json!({"v": 1, "type": "image", "image": self.name, "state": state}));
        if !self.out.json {
            self.out.note(&format!("{state} {} in {} s", printable(&self.name, false), self.begun.elapsed().as_secs()));
        }
    }

    /// Says a line: anew in the same place, or for good.
    fn line(&mut self, text: &str) {
        if self.redraws {
            self.draw();
        } else if !self.out.json {
            self.out.note(&printable(text, false));
        }
    }

    fn draw(&mut self) {
        let bytes = match self.bytes {
            (_, 0) => String::new(),
            (done, total) => format!("  {:.1} of {:.1} MB", done as f64 / 1e6, total as f64 / 1e6),
        };
        let text = format!("{} {}{bytes}  {}", self.verb(), self.name, self.step);
        let width = usize::from(terminal::size().map_or(80, |size| size.cols)).saturating_sub(1);
        let text: String = printable(&text, false).replace(['\n', '\t'], " ").chars().take(width).collect();
        let mut err = std::io::stderr().lock();
        let _ = write!(err, "\r\x1b[K{text}").and_then(|()| err.flush());
        self.drawn = Some(Instant::now());
    }

    fn clear(&mut self) {
        if self.drawn.take().is_some() {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[K").and_then(|()| err.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn shown(json: bool) -> String {
        let kept = Arc::new(Mutex::new(String::new()));
        let out = Output { json, kept: Some(Arc::clone(&kept)), ..Output::default() };
        let mut progress = Progress::new(out, "bb/x:1", Need::Build);
        progress.event(&Event::Step { number: 0, total: 0, text: "look up base".to_owned() });
        progress.event(&Event::Bytes { done: 1, total: 2 });
        progress.event(&Event::Step { number: 1, total: 2, text: "RUN a\x1b[2J".to_owned() });
        progress.done();
        kept.lock().unwrap().clone()
    }

    #[test]
    fn without_a_terminal_each_step_has_a_line() {
        let said = shown(false);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[..3], ["building bb/x:1", "bb/x:1: look up base", "bb/x:1: 1/2 RUN a\\x1b[2J"]);
        assert!(lines[3].starts_with("built bb/x:1 in ") && lines.len() == 4, "{said}");
    }

    #[test]
    fn with_json_each_step_is_an_object() {
        let said = shown(true);
        let lines: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().all(|line| line["type"] == "image" && line["v"] == 1), "{said}");
        assert_eq!(
            (&lines[1]["step"], &lines[1]["steps"], &lines[1]["state"]),
            (&json!(1), &json!(2), &json!("building"))
        );
        assert_eq!((&lines[2]["state"], lines.len()), (&json!("built"), 3));
    }
}

//! What readers follow: events of a ledger, and what a bottle's processes write.
//!
//! Each stream is an endless sequence of lines, bounded by what the reader takes: nothing is buffered for one who is slow.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::Controller;
use super::live::Live;
use crate::api::{Bottle, Event, ExecFrame};
use crate::bottle::output;
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::{EventQuery, Ledger};

/// Events read from the ledger at a time.
const PAGE: u32 = 512;

/// Text of output read at a time.
const OUTPUT_PAGE: usize = 256 * 1024;

/// One line of a stream.
pub type Line = String;

fn line(value: &impl serde::Serialize) -> Option<Line> {
    let mut text = serde_json::to_string(value).ok()?;
    text.push('\n');
    Some(text)
}

/// Sends the events that `query` names, and with `follow` those to come. `since` = `None` means from now.
pub async fn events(
    ledger: SqliteLedger,
    mut query: EventQuery,
    since: Option<u64>,
    follow: bool,
    to: mpsc::Sender<Line>,
) {
    let mut live = ledger.subscribe();
    let mut last = since;
    if let Some(since) = since {
        query.since = since;
        loop {
            query.max = PAGE;
            let Ok(page) = ledger.events(query.clone()).await else { return };
            let Some(newest) = page.last().map(|e| e.seq) else { break };
            for event in &page {
                if !send(&to, event).await {
                    return;
                }
            }
            query.since = newest;
            last = Some(newest);
        }
    }
    if !follow {
        return;
    }
    let wanted = |e: &Event| {
        query.bottle.as_ref().is_none_or(|b| e.bottle.as_ref() == Some(b))
            && query.run.as_ref().is_none_or(|r| e.run.as_ref() == Some(r))
            && e.ts >= query.after
    };
    loop {
        let event = tokio::select! {
            event = live.recv() => event,
            () = to.closed() => return,
        };
        match event {
            Ok(event) if last.is_some_and(|l| event.seq <= l) => {}
            Ok(event) => {
                last = Some(event.seq);
                if wanted(&event) && !send(&to, &event).await {
                    return;
                }
            }
            Err(RecvError::Lagged(missed)) => {
                let from = last.map_or(0, |l| l + 1);
                let gap = json!({
                    "v": 1, "seq": 0, "ts": output::now_ms(), "type": "gap",
                    "data": {"from": from, "to": from + missed.saturating_sub(1)},
                });
                let Some(line) = line(&gap) else { return };
                if to.send(line).await.is_err() {
                    return;
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn send(to: &mpsc::Sender<Line>, value: &impl serde::Serialize) -> bool {
    match line(value) {
        Some(line) => to.send(line).await.is_ok(),
        None => false,
    }
}

/// What of a bottle's output a reader wants.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Only frames after this one.
    pub since: u64,
    /// Only one exec's; its end is the stream's end.
    pub exec: Option<u32>,
    /// Goes on until the end of the bottle or exec.
    pub follow: bool,
    /// With the bytes themselves beside the text.
    pub raw: bool,
    /// Only so much of the end of what there is, about. Unit: bytes.
    pub last: Option<usize>,
}

/// A reader of a log: where it is, and characters of which only the beginning has been read.
#[derive(Debug)]
pub struct Reader {
    log: PathBuf,
    since: u64,
    exec: Option<u32>,
    raw: bool,
    last: Option<usize>,
    /// Where in the files the reading goes on.
    place: output::Place,
    /// Frames younger than this are not read. Unit: milliseconds since the epoch.
    until: i64,
    /// By exec and stream.
    cut: HashMap<(u32, &'static str), Vec<u8>>,
}

impl Reader {
    /// Reads `log` for `wanted`; without `follow` nothing that is written after this.
    pub fn new(log: PathBuf, wanted: Wanted) -> Reader {
        let until = if wanted.follow { i64::MAX } else { output::now_ms() };
        Reader {
            log,
            since: wanted.since,
            exec: wanted.exec,
            raw: wanted.raw,
            last: wanted.last,
            place: output::Place::default(),
            until,
            cut: HashMap::new(),
        }
    }

    /// Sends what the log holds by now. Returns whether somebody still reads.
    pub async fn send(&mut self, to: &mpsc::Sender<Line>) -> bool {
        if let Some(last) = self.last.take() {
            let (path, exec) = (self.log.clone(), self.exec);
            let start = tokio::task::spawn_blocking(move || output::before_last(&path, exec, last)).await;
            self.since = self.since.max(start.unwrap_or(0));
        }
        loop {
            let (path, since, mut place) = (self.log.clone(), self.since, std::mem::take(&mut self.place));
            let page = tokio::task::spawn_blocking(move || {
                output::read_on(&path, &mut place, since, OUTPUT_PAGE).map(|frames| (frames, place))
            });
            let Ok(Ok((frames, place))) = page.await else { return true };
            self.place = place;
            let Some(newest) = frames.last().map(|f| f.n) else { return true };
            if let Some(lost) = frames.first().filter(|f| self.since > 0 && f.n > self.since + 1) {
                // More was written than a log holds while nobody read.
                let text = "bb: output was lost here: more was written than is kept\n".to_owned();
                let (n, ts, exec) = (lost.n - 1, lost.ts, self.exec.unwrap_or(lost.exec));
                let note = ExecFrame::Output { n, ts, exec, stream: "stderr".to_owned(), text, raw: None };
                if !send(to, &note).await {
                    return false;
                }
            }
            self.since = newest;
            for frame in frames.into_iter().filter(|f| self.exec.is_none_or(|n| n == f.exec)) {
                if frame.ts > self.until {
                    return true;
                }
                let stream = frame.stream.as_str();
                let text = whole_characters(self.cut.entry((frame.exec, stream)).or_default(), &frame.bytes);
                let (n, ts, exec, stream) = (frame.n, frame.ts, frame.exec, stream.to_owned());
                let raw = self.raw.then(|| BASE64.encode(&frame.bytes));
                if !send(to, &ExecFrame::Output { n, ts, exec, stream, text, raw }).await {
                    return false;
                }
            }
        }
    }
}

/// Gets the text of what was left over and `bytes`; the beginning of a character at the end is left over in turn. What is
/// no UTF-8 becomes U+FFFD.
fn whole_characters(left: &mut Vec<u8>, bytes: &[u8]) -> String {
    left.extend_from_slice(bytes);
    let tail = left.utf8_chunks().last().map_or(0, |chunk| {
        let invalid = chunk.invalid();
        let begins = matches!(invalid, [0xc2..=0xdf] | [0xe0..=0xef, ..] | [0xf0..=0xf4, ..]);
        if begins && left.ends_with(invalid) && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none()) {
            invalid.len()
        } else {
            0
        }
    });
    let rest = left.split_off(left.len() - tail);
    String::from_utf8_lossy(&std::mem::replace(left, rest)).into_owned()
}

/// Sends what a bottle's processes wrote.
pub async fn output(live: Arc<Live>, wanted: Wanted, to: mpsc::Sender<Line>) {
    let mut grown = live.output.subscribe();
    let mut exits = live.exits.subscribe();
    let mut reader = Reader::new(live.log.clone(), wanted);
    loop {
        // Whether this is the last look is decided before looking: what is written between the two is not lost.
        let code = wanted.exec.and_then(|n| exits.borrow_and_update().get(&n).copied());
        let over = code.is_some() || live.has_ended() || !wanted.follow;
        grown.borrow_and_update();
        if !reader.send(&to).await {
            return;
        }
        if over {
            if let Some(exec) = wanted.exec
                && (code.is_some() || live.has_ended())
            {
                // A bottle that ended took its execs with it.
                let _ = send(&to, &ExecFrame::Exit { exec, code: code.unwrap_or(137) }).await;
            }
            return;
        }
        tokio::select! {
            _ = grown.changed() => {}
            _ = exits.changed(), if wanted.exec.is_some() => {}
            () = live.ended() => {}
            () = to.closed() => return,
        }
    }
}

/// Sends what the books still have of an ended bottle's output: the end of it.
pub async fn tail(controller: &Controller, bottle: &Bottle, to: &mpsc::Sender<Line>) {
    let Ok(ledger) = controller.ledger(bottle.book).await else { return };
    let mut query =
        EventQuery { bottle: Some(bottle.slug.clone()), run: bottle.run.clone(), max: PAGE, ..EventQuery::default() };
    let mut text = String::new();
    loop {
        let events = ledger.events(query.clone()).await.unwrap_or_default();
        let Some(newest) = events.last().map(|e| e.seq) else { break };
        query.since = newest;
        let ended = events.iter().rfind(|e| e.kind == "bottle.ended" && e.ts >= bottle.started);
        if let Some(tail) = ended.and_then(|e| e.data["tail"].as_str()) {
            text = tail.to_owned();
        }
    }
    let ts = bottle.stopped.unwrap_or(bottle.started);
    let note = format!("bb: `{}` has ended, and of its output only the end is kept:\n", bottle.slug);
    for (n, stream, text) in [(1, "stderr", note), (2, "stdout", format!("{text}\n"))] {
        let frame = ExecFrame::Output { n, ts, exec: 0, stream: stream.to_owned(), text, raw: None };
        if !send(to, &frame).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_is_cut_by_a_frame_comes_whole_and_what_is_none_does_not_wait() {
        let text = "grün €🦀\u{ff}".as_bytes();
        for at in 0..=text.len() {
            let mut left = vec![];
            let got = whole_characters(&mut left, &text[..at]) + &whole_characters(&mut left, &text[at..]);
            assert_eq!((got.as_bytes(), left.is_empty()), (text, true), "cut at {at}");
        }
        let mut left = vec![];
        assert_eq!(whole_characters(&mut left, b"a\xffb\xc0"), "a\u{fffd}b\u{fffd}");
        assert!(left.is_empty());
    }
}

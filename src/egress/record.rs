//! Writes what the plane did into the ledger's events: refusals, allowed requests that are not metered, and the ends of all
//! that were allowed ([`super::exchange`]).
//!
//! One task per bottle appends, so that the order of a bottle's events is the order in which they happened; those that nobody
//! waits for in one transaction with others that come within milliseconds. A refusal is written before its answer is sent, but a
//! ledger that fails never turns a refusal into anything else. Paths go in without their query: that may carry secrets.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};

use super::deny::Deny;
use super::pace::Pace;
pub use super::tally::{Tally, Ticket};
use crate::ledger::Ledger;

mod ended;

pub use ended::{Ended, LeftOut};

/// Events waiting to be written, per bottle.
const QUEUE: usize = 1024;
/// Events of one transaction.
const BATCH: usize = 256;
/// How long events that nobody waits for wait for others: one transaction for each would cost more than the requests do.
const LINGER: Duration = Duration::from_millis(5);
/// How long a refusal waits for its event.
const PATIENCE: Duration = Duration::from_secs(2);
/// Unanswered refusals (raw connections, DNS) written in one second; the others are counted.
pub(super) const LIMIT: u32 = 20;
/// Refusals of a bottle that are answered at once; after these each waits [`PACE`] for its turn, so that an agent that
/// asks in a loop fills neither the ledger nor its disk.
const BURST: u32 = 1000;
const PACE: Duration = Duration::from_millis(100);
/// The same for allowed requests, which never wait: after a burst one in a second is entered, and the others are counted.
const PASSED_PACE: Duration = Duration::from_secs(1);
/// Longest path entered. Unit: bytes.
pub(super) const MAX_PATH: usize = 512;

/// A refusal as it is entered.
#[derive(Clone, Debug)]
pub struct Denied(Value);

impl Denied {
    /// Makes the data of a `denied` event. `proto` is `https`, `http`, `tls`, `tcp`, `udp` or `dns`.
    pub fn new(proto: &str, host: impl Into<String>, port: u16, deny: &Deny) -> Denied {
        Denied(json!({
            "kind": deny.kind.as_str(), "proto": proto, "host": host.into(), "port": port,
            "reason": deny.reason(), "quiet": deny.quiet, "addable": deny.rule_missing.is_some(),
        }))
    }

    /// Adds how long the request took until it was refused, and what of its body had gone upstream by then.
    pub fn took(mut self, took: Duration, up: u64) -> Denied {
        self.0["ms"] = json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        if up > 0 {
            self.0["up"] = json!(up);
        }
        self
    }

    /// Adds the id of the exchange that had been allowed, and was broken off.
    pub fn of(mut self, exchange: &str) -> Denied {
        self.0["exchange"] = json!(exchange);
        self
    }

    /// Adds that the request asked to become a WebSocket.
    pub fn websocket(mut self) -> Denied {
        self.0["websocket"] = json!(true);
        self
    }

    /// Adds method and path of the request.
    pub fn request(mut self, method: &str, path: &str) -> Denied {
        self.0["method"] = json!(short(method, 32));
        self.0["path"] = json!(short(path, MAX_PATH));
        self
    }
}

/// An allowed request to a host that is not metered, once its answer's head is there.
#[derive(Clone, Copy, Debug)]
pub struct Passed<'a> {
    /// The id of its exchange.
    pub exchange: &'a str,
    /// Method.
    pub method: &'a str,
    /// `https` or `http`.
    pub scheme: &'a str,
    /// Host.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Path without query.
    pub path: &'a str,
    /// Status of the answer.
    pub status: u16,
    /// Time to the answer's head.
    pub took: Duration,
}

struct Entry {
    kind: &'static str,
    /// JSON.
    data: String,
    written: Option<oneshot::Sender<()>>,
    ticket: Ticket,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    written: u32,
    dropped: u64,
}

/// Where a bottle's events go.
pub struct Recorder {
    queue: mpsc::Sender<Entry>,
    /// Somebody waits for an event, or many wait.
    urgent: Arc<Notify>,
    tally: Arc<Tally>,
    window: Mutex<Window>,
    /// Those who wait stand in line for it, and leave the line when their client goes away.
    pace: tokio::sync::Mutex<Pace>,
    /// Allowed requests, and how many were not entered since the last that was.
    passing: Mutex<(Pace, u64)>,
    /// What the ends that were not entered since the last that was had to tell.
    ends: Mutex<LeftOut>,
}

impl Recorder {
    /// Starts the bottle's writing task. It ends when the recorder is dropped and its queue is written.
    pub fn start<L: Ledger>(slug: &str, run: Option<&str>, tally: Arc<Tally>, ledger: L) -> Recorder {
        let (queue, entries) = mpsc::channel::<Entry>(QUEUE);
        let urgent = Arc::new(Notify::new());
        let (slug, run) = (slug.to_owned(), run.map(str::to_owned));
        let (urged, counted) = (Arc::clone(&urgent), Arc::clone(&tally));
        tokio::spawn(async move { write(entries, &urged, &counted, &ledger, (&slug, run.as_deref())).await });
        Recorder {
            queue,
            urgent,
            tally,
            window: Mutex::new(Window { began: Instant::now(), written: 0, dropped: 0 }),
            pace: tokio::sync::Mutex::new(Pace::new(BURST, PACE)),
            passing: Mutex::new((Pace::new(BURST, PASSED_PACE), 0)),
            ends: Mutex::default(),
        }
    }

    fn entry(&self, kind: &'static str, data: &impl Serialize, written: Option<oneshot::Sender<()>>) -> Entry {
        // What is entered has texts for keys, so it is JSON.
        let data = serde_json::to_string(data).unwrap_or_else(|_| "{}".to_owned());
        Entry { kind, data, written, ticket: self.tally.enter() }
    }

    /// Writes a refusal; returns when it is written, or when the ledger took too long.
    pub async fn deny(&self, denied: Denied) {
        {
            let mut pace = self.pace.lock().await;
            while !pace.take() {
                tokio::time::sleep(PACE).await;
            }
        }
        let (written, done) = oneshot::channel();
        let entry = self.entry("denied", &denied.0, Some(written));
        let _ = tokio::time::timeout(PATIENCE, async {
            if self.queue.send(entry).await.is_ok() {
                self.urgent.notify_one();
                let _ = done.await;
            }
        })
        .await;
    }

    /// Queues an event that nobody waits for; gives it back where too many wait already.
    fn try_queue(&self, entry: Entry) -> Option<Entry> {
        let queued = self.queue.try_send(entry);
        if self.queue.capacity() <= QUEUE - BATCH {
            self.urgent.notify_one();
        }
        queued.err().map(mpsc::error::TrySendError::into_inner)
    }

    /// Writes a refusal that has no answer to hold back, at most 20 in a second; those left out are counted in the
    /// next one (`dropped`).
    pub fn deny_limited(&self, denied: Denied) {
        let mut data = denied.0;
        {
            let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
            if window.began.elapsed() >= Duration::from_secs(1) {
                window.began = Instant::now();
                window.written = 0;
            }
            if window.written >= LIMIT {
                window.dropped += 1;
                return;
            }
            window.written += 1;
            if window.dropped > 0 {
                data["dropped"] = json!(std::mem::take(&mut window.dropped));
            }
        }
        if self.try_queue(self.entry("denied", &data, None)).is_some() {
            self.window.lock().unwrap_or_else(PoisonError::into_inner).dropped += 1;
        }
    }

    /// Writes that a request passed. Waits only where a thousand events already wait. After many of them most are only
    /// counted, in the next one (`left_out`). Returns whether it was entered.
    pub async fn passed(&self, passed: Passed<'_>) -> bool {
        let left_out = {
            let mut passing = self.passing.lock().unwrap_or_else(PoisonError::into_inner);
            if !passing.0.take() {
                passing.1 += 1;
                return false;
            }
            std::mem::take(&mut passing.1)
        };
        let mut data = json!({
            "method": short(passed.method, 32), "scheme": passed.scheme, "host": passed.host, "port": passed.port,
            "path": short(passed.path, MAX_PATH), "status": passed.status,
            "ms": u64::try_from(passed.took.as_millis()).unwrap_or(u64::MAX), "exchange": passed.exchange,
        });
        if left_out > 0 {
            data["left_out"] = json!(left_out);
        }
        if let Some(entry) = self.try_queue(self.entry("request", &data, None)) {
            let _ = tokio::time::timeout(PATIENCE, self.queue.send(entry)).await;
        }
        true
    }

    /// Writes what became of a login of the host that the bottle works with. Never waits.
    pub fn login(&self, data: Value) {
        let _ = self.try_queue(self.entry("login", &data, None));
    }

    /// Takes a turn for the end of a request of which nothing was entered before. Returns whether there was one.
    pub fn may_pass(&self) -> bool {
        self.passing.lock().unwrap_or_else(PoisonError::into_inner).0.take()
    }

    /// Writes the end of an allowed request. Never waits: where a thousand events wait already it is counted, as
    /// [`Recorder::end_left_out`] does.
    pub fn ended(&self, mut end: Ended<'_>) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        end.left_out = Some(*ends).filter(|ends| ends.requests > 0);
        match self.try_queue(self.entry("request.ended", &end, None)) {
            None => *ends = LeftOut::default(),
            Some(_) => ends.add(end.up, end.down),
        }
    }

    /// Counts an end that is not entered.
    pub fn end_left_out(&self, up: u64, down: u64) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).add(up, down);
    }
}

/// Writes what is queued, in that order, as few transactions.
async fn write<L: Ledger>(
    mut entries: mpsc::Receiver<Entry>,
    urgent: &Notify,
    tally: &Tally,
    ledger: &L,
    (bottle, run): (&str, Option<&str>),
) {
    let mut batch = Vec::new();
    while entries.recv_many(&mut batch, BATCH).await > 0 {
        if batch.iter().all(|entry| entry.written.is_none()) && !entries.is_closed() {
            tokio::select! {
                () = tokio::time::sleep(LINGER) => {}
                () = urgent.notified() => {}
                () = tally.hurry() => {}
            }
            while batch.len() < BATCH
                && let Ok(entry) = entries.try_recv()
            {
                batch.push(entry);
            }
        }
        let (events, waiting): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|Entry { kind, data, written, ticket }| ((kind, data), (written, ticket))).unzip();
        let number = events.len();
        if let Err(error) = ledger.append_all(bottle, run, events).await {
            tracing::warn!(%error, "{number} events of the egress plane were not written");
        }
        for (written, _ticket) in waiting {
            if let Some(written) = written {
                let _ = written.send(());
            }
        }
    }
}

/// Gets at most `max` bytes of `text`, cut at a character.
pub(super) fn short(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::deny::Denial;
    use super::*;
    use crate::ledger::NewEvent;

    /// Makes a recorder whose events come out of a channel.
    pub fn recorder() -> (Recorder, mpsc::UnboundedReceiver<NewEvent>) {
        let (queue, mut entries) = mpsc::channel::<Entry>(QUEUE);
        let (out, events) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(entry) = entries.recv().await {
                let data = serde_json::from_str(&entry.data).unwrap();
                let (kind, bottle) = (entry.kind.to_owned(), Some("test-1".to_owned()));
                let _ = out.send(NewEvent { kind, bottle, data, ..NewEvent::default() });
                if let Some(written) = entry.written {
                    let _ = written.send(());
                }
            }
        });
        let window = Mutex::new(Window { began: Instant::now(), written: 0, dropped: 0 });
        (
            Recorder {
                queue,
                urgent: Arc::default(),
                tally: Arc::default(),
                window,
                pace: tokio::sync::Mutex::new(Pace::new(BURST, PACE)),
                passing: Mutex::new((Pace::new(BURST, PASSED_PACE), 0)),
                ends: Mutex::default(),
            },
            events,
        )
    }

    #[tokio::test]
    async fn a_flood_is_cut_to_twenty_a_second_and_the_rest_is_counted() {
        let (recorder, mut events) = recorder();
        let deny = Deny::new(Denial::Port, "no");
        for _ in 0..100 {
            recorder.deny_limited(Denied::new("tcp", "1.1.1.1", 22, &deny));
        }
        recorder.window.lock().unwrap().began -= Duration::from_secs(2);
        recorder.deny_limited(Denied::new("tcp", "1.1.1.1", 23, &deny));
        drop(recorder);
        let mut all = Vec::new();
        while let Some(event) = events.recv().await {
            all.push(event);
        }
        assert_eq!(all.len(), 21);
        assert_eq!(all[20].data["dropped"], 80);
    }

    #[tokio::test]
    async fn allowed_requests_in_a_loop_are_counted_and_do_not_fill_the_ledger() {
        let (recorder, mut events) = recorder();
        let took = Duration::ZERO;
        let (method, scheme, host, exchange) = ("GET", "https", "docs.test", "e1");
        let passed = Passed { exchange, method, scheme, host, port: 443, path: "/", status: 200, took };
        recorder.passing.lock().unwrap().0.left = 2;
        for _ in 0..7 {
            recorder.passed(passed).await;
        }
        recorder.passing.lock().unwrap().0.since -= PASSED_PACE;
        recorder.passed(passed).await;
        drop(recorder);
        let mut left_out = vec![];
        while let Some(event) = events.recv().await {
            left_out.push(event.data["left_out"].as_u64());
        }
        assert_eq!(left_out, [None, None, Some(5)]);
    }

    #[tokio::test]
    async fn refusals_in_a_loop_wait_for_their_turn_after_a_burst() {
        let (recorder, mut events) = recorder();
        let deny = Deny::new(Denial::RouteMissing, "no");
        recorder.pace.lock().await.left = 1;
        let began = Instant::now();
        for _ in 0..4 {
            recorder.deny(Denied::new("https", "example.com", 443, &deny)).await;
        }
        assert!(began.elapsed() >= 2 * PACE, "{:?}", began.elapsed());
        drop(recorder);
        let mut written = 0;
        while events.recv().await.is_some() {
            written += 1;
        }
        assert_eq!(written, 4, "none is left out");
    }

    #[tokio::test]
    async fn a_refusal_is_written_before_it_returns() {
        let (recorder, mut events) = recorder();
        let deny = Deny::new(Denial::RouteMissing, "no");
        recorder.deny(Denied::new("https", "example.com", 443, &deny).request("GET", &"/ü".repeat(400))).await;
        let event = events.try_recv().expect("written");
        assert_eq!((event.kind.as_str(), event.bottle.as_deref()), ("denied", Some("test-1")));
        assert_eq!(event.data["kind"], "route_missing");
        assert!(event.data["path"].as_str().unwrap().len() <= MAX_PATH);
    }
}

//! The stand-in's own count: what was asked, what was answered, how far each answer got.
//!
//! Kept apart from bb's meter on purpose: it counts what was *scripted*, and never reads its own answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde::Serialize;

use crate::types::{Api, Tokens};

/// Requests kept one by one; the sums go on beyond.
const MAX_KEPT: usize = 100_000;

/// One request and what became of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Request {
    /// Which API was spoken; `None` for pages and unknown paths.
    pub api: Option<Api>,
    /// `Host` or `:authority`, without port.
    pub host: String,
    /// Method.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// Headers by which it authenticated itself (`authorization`, `x-api-key`, `x-goog-api-key`, `chatgpt-account-id`). Not
    /// serialised.
    #[serde(skip)]
    pub auth: BTreeMap<String, SecretString>,
    /// Model asked for.
    pub model: Option<String>,
    /// Length of its body. Unit: bytes.
    pub body_bytes: u64,
    /// Status answered; 0 while there is none.
    pub status: u16,
    /// The scenario's turn it got, from 0; `None` where it consumed none (errors, side calls, count endpoints).
    pub turn: Option<usize>,
    /// A call that a real CLI makes beside its conversation.
    pub side: bool,
    /// Hex digits that its answer's id ends with; `None` where it got none, or a recorded one. Not serialised.
    #[serde(skip)]
    pub answer_id: Option<String>,
    /// When it arrived, and when the last of its answer was handed over or given up. Not serialised.
    #[serde(skip)]
    pub times: [Option<Instant>; 2],
    /// What the answer says was used; zero for errors and free endpoints.
    pub scripted: Tokens,
    /// Bytes of the answer's body handed to the connection. Unit: bytes.
    pub sent: u64,
    /// Whether the event or body with the final usage was wholly handed to the connection.
    pub terminal: bool,
    /// Whether the client went away before the answer was whole.
    pub client_gone: bool,
    /// Whether it is still being answered.
    pub open: bool,
}

/// All requests so far, in order of arrival.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// The first 100,000 of them.
    pub requests: Vec<Request>,
    /// How many there were.
    pub total: u64,
    /// Sum of `scripted` over answers whose final usage was sent.
    pub completed: Tokens,
    /// Sum of `scripted` over all answers that were begun.
    pub begun: Tokens,
}

/// Where the requests are entered.
#[derive(Default)]
pub(super) struct Log {
    stats: Mutex<Stats>,
    changed: Condvar,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Stats> {
        // A panic while counting cannot leave half a count behind: every change is one assignment.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies the count.
    pub(super) fn stats(&self) -> Stats {
        self.lock().clone()
    }

    /// Waits until the count is as wanted; tells whether it became so in time.
    pub(super) fn wait_for(&self, limit: Duration, wanted: impl Fn(&Stats) -> bool) -> bool {
        let end = Instant::now() + limit;
        let mut stats = self.lock();
        while !wanted(&stats) {
            let Some(left) = end.checked_duration_since(Instant::now()) else { return false };
            stats = self.changed.wait_timeout(stats, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Enters a request.
    pub(super) fn enter(self: &Arc<Log>, request: Request) -> Entry {
        let mut stats = self.lock();
        stats.total += 1;
        let at = (stats.requests.len() < MAX_KEPT).then_some(stats.requests.len());
        if at.is_some() {
            stats.requests.push(Request { open: true, times: [Some(Instant::now()), None], ..request });
        }
        let entry = Entry { log: Arc::clone(self), at, number: stats.total, whole: false, scripted: None };
        drop(stats);
        self.changed.notify_all();
        entry
    }
}

/// One request in the log, for as long as it is being answered.
pub(super) struct Entry {
    log: Arc<Log>,
    at: Option<usize>,
    number: u64,
    whole: bool,
    scripted: Option<Tokens>,
}

impl Entry {
    /// Gets the request's number, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Changes what is known of the request.
    pub(super) fn note(&self, change: impl FnOnce(&mut Request)) {
        let mut stats = self.log.lock();
        if let Some(request) = self.at.and_then(|at| stats.requests.get_mut(at)) {
            change(request);
        }
        drop(stats);
        self.log.changed.notify_all();
    }

    /// Says what the answer, which now begins, will say was used.
    pub(super) fn begin(&mut self, scripted: Tokens) {
        self.scripted = Some(scripted);
        self.log.lock().begun.add(&scripted);
        self.note(|request| request.scripted = scripted);
    }

    /// Notes that `bytes` were handed to the connection.
    pub(super) fn sent(&self, bytes: usize) {
        self.note(|request| request.sent += bytes as u64);
    }

    /// Notes that the final usage was handed to the connection.
    pub(super) fn terminal(&mut self) {
        if let Some(scripted) = self.scripted.take() {
            self.log.lock().completed.add(&scripted);
            self.note(|request| request.terminal = true);
        }
    }

    /// Notes that the answer was whole, or was broken off by the scenario: the client did not go away.
    pub(super) fn ended(&mut self) {
        self.whole = true;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let whole = self.whole;
        self.note(|request| {
            request.open = false;
            request.times[1] = Some(Instant::now());
            request.client_gone = !whole;
        });
    }
}

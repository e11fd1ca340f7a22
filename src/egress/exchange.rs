//! One allowed request from its verdict to the last byte of its bodies: how much went each way, how long it took, how it
//! ended, and the `request.ended` event that says so.
//!
//! Whoever still has to do with the request holds an [`Exchange`]; the event is queued when the last of them lets go, and that
//! is after its hold was settled. It decides nothing and holds nothing up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;

use super::body::{BodyError, Moved, Way};
use super::deny::{Denial, Deny};
use super::link::Named;
use super::record::{Denied, Ended, Recorder, short};
use crate::api::Route;
use crate::types::ApiFamily;

/// Longest path entered. Unit: bytes.
const MAX_PATH: usize = 512;
/// Longest words of a route entered. Unit: bytes.
const MAX_RULE: usize = 256;

/// How an exchange ended. The words are a contract (docs/controller-api.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// By itself: the answer came to its end, or both sides closed.
    Whole,
    /// The bottle was cut, its route was taken back, or the bottle ended.
    Cut,
    /// Nothing moved for too long.
    Idle,
    /// A side broke off in the middle.
    Broken,
    /// It was larger than its route allows; `Up` is what the bottle sent.
    TooLarge(Way),
    /// It was coded, and repeated the route's credential or could not be read.
    Coded,
    /// The ledger did not answer.
    Ledger,
    /// The agent's side went away before the end.
    Gone,
}

impl Over {
    /// Gets the word that stands for it in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Over::Whole => "whole",
            Over::Cut => "cut",
            Over::Idle => "idle",
            Over::Broken => "broken",
            Over::TooLarge(_) => "too_large",
            Over::Coded => "coded",
            Over::Ledger => "ledger",
            Over::Gone => "gone",
        }
    }

    /// Gets the refusal that it is to go on, where a limit ended it.
    fn denies(self) -> Option<Deny> {
        let (kind, reason) = match self {
            Over::TooLarge(Way::Up) => {
                (Denial::BodyTooLarge, "bb: more was sent than the route allows, so it was broken off.")
            }
            Over::TooLarge(Way::Down) => {
                (Denial::ResponseTooLarge, "bb: more came than the route allows, so it was broken off.")
            }
            Over::Idle => (Denial::LimitIdle, "bb: nothing moved for ten minutes, so it was broken off."),
            Over::Coded => (
                Denial::ResponseCoded,
                "bb: a coded answer repeated the route's credential, or could not be read to look for it, so it was broken off.",
            ),
            Over::Whole | Over::Cut | Over::Broken | Over::Ledger | Over::Gone => return None,
        };
        Some(Deny::new(kind, reason))
    }
}

impl From<&BodyError> for Over {
    fn from(error: &BodyError) -> Over {
        match error {
            BodyError::Broken(_) => Over::Broken,
            BodyError::Cut => Over::Cut,
            BodyError::Idle => Over::Idle,
            BodyError::Ledger => Over::Ledger,
            BodyError::TooLarge => Over::TooLarge(Way::Down),
            BodyError::Coded => Over::Coded,
        }
    }
}

/// What is asked for.
#[derive(Debug)]
pub struct Subject {
    /// Method; `TLS` where it passes unseen.
    pub method: String,
    /// `https`, `http` or `tls`.
    pub scheme: &'static str,
    /// Its name.
    pub named: Arc<Named>,
    /// Port.
    pub port: u16,
    /// Path without query, as it is sent on.
    pub path: String,
    /// The entry of the allow-list that allows it.
    pub route: Arc<Route>,
    /// Whether it came through the bottle's own proxy.
    pub proxied: bool,
}

#[derive(Debug, Default)]
struct State {
    status: u16,
    /// Whether its `request` event was entered; `None` where none was to be.
    noted: Option<bool>,
    /// A `usage` event says what it cost.
    charged: bool,
    refused: bool,
    over: Option<(Duration, Over)>,
}

/// See the module.
pub struct Exchange {
    recorder: Arc<Recorder>,
    id: String,
    began: Instant,
    subject: Subject,
    moved: Arc<Moved>,
    state: Mutex<State>,
}

impl Exchange {
    /// Begins one that was allowed.
    pub fn begin(recorder: &Arc<Recorder>, subject: Subject) -> Arc<Exchange> {
        Arc::new(Exchange {
            recorder: Arc::clone(recorder),
            id: uuid::Uuid::now_v7().to_string(),
            began: Instant::now(),
            subject,
            moved: Moved::new(),
            state: Mutex::default(),
        })
    }

    /// Gets the id by which its events belong together.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Gets the time since it was allowed.
    pub fn took(&self) -> Duration {
        self.began.elapsed()
    }

    /// Gets what counts its bytes, and when they last moved.
    pub fn moved(&self) -> &Arc<Moved> {
        &self.moved
    }

    /// Says that it was refused after all: a `denied` event tells of it.
    pub fn refused(&self) {
        self.state().refused = true;
    }

    /// Says what the head of its answer was, and whether a `request` event was entered.
    pub fn noted(&self, status: u16, entered: bool) {
        let mut state = self.state();
        state.status = status;
        state.noted = Some(entered);
    }

    /// Enters a `request` event of one that the plane itself has answered.
    pub async fn passed(&self, status: u16) {
        let Subject { method, scheme, named, port, path, .. } = &self.subject;
        let (exchange, took) = (self.id.as_str(), self.took());
        let passed =
            super::record::Passed { exchange, method, scheme, host: &named.text, port: *port, path, status, took };
        self.noted(status, self.recorder.passed(passed).await);
    }

    /// Says that it was answered with `status` and is charged: its end is always entered, as its usage is.
    pub fn charged(&self, status: StatusCode) {
        let mut state = self.state();
        state.status = status.as_u16();
        state.charged = true;
    }

    /// Says how it ended. The first word counts. Of a limit that ended it before its own end a `denied` event tells as well: its
    /// answer had begun, and so cannot.
    pub fn over(&self, how: Over) {
        let took = self.began.elapsed();
        {
            let mut state = self.state();
            if state.over.is_some() {
                return;
            }
            state.over = Some((took, how));
        }
        if let Some(deny) = how.denies() {
            let subject = &self.subject;
            let denied = Denied::new(subject.scheme, subject.named.text.as_str(), subject.port, &deny);
            let denied = denied.request(&subject.method, &subject.path).took(took, self.moved.up());
            self.recorder.deny_limited(denied.of(&self.id));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if state.refused {
            return;
        }
        // Who let go without a word went away: the client, before its answer was there.
        let (took, how) = state.over.unwrap_or((took, Over::Gone));
        let enter = state.charged || state.noted.unwrap_or_else(|| self.recorder.may_pass());
        if !enter {
            return self.recorder.end_left_out(self.moved.up(), self.moved.down());
        }
        let subject = &self.subject;
        let rule = subject.route.in_words();
        self.recorder.ended(Ended {
            exchange: &self.id,
            method: short(&subject.method, 32),
            scheme: subject.scheme,
            host: &subject.named.text,
            port: subject.port,
            path: short(&subject.path, MAX_PATH),
            rule: short(&rule, MAX_RULE),
            status: state.status,
            up: self.moved.up(),
            down: self.moved.down(),
            ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            end: how.as_str(),
            api: subject.route.api.map(ApiFamily::as_str),
            proxied: subject.proxied,
            left_out: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::body::Way;
    use super::super::name::Host;
    use super::super::record::tests::recorder;
    use super::*;

    fn begin(recorder: &Arc<Recorder>, path: &str) -> Arc<Exchange> {
        let host = Host::parse("docs.test").unwrap();
        let named = Named { text: host.to_string(), host, authority: http::uri::Authority::from_static("docs.test") };
        let route = Arc::new(Route { host: "*.test".into(), websocket: true, ..Route::default() });
        let (named, path) = (Arc::new(named), path.to_owned());
        let subject = Subject { method: "GET".into(), scheme: "https", named, port: 443, path, route, proxied: false };
        Exchange::begin(recorder, subject)
    }

    #[tokio::test]
    async fn the_end_is_told_once_by_the_last_who_holds_it() {
        let (recorder, mut events) = recorder();
        let recorder = Arc::new(recorder);
        let one = begin(&recorder, "/a");
        let other = Arc::clone(&one);
        one.noted(200, true);
        one.moved().count(Way::Up, 3);
        one.over(Over::Whole);
        drop(one);
        other.moved().count(Way::Down, 7);
        other.over(Over::Gone);
        drop(other);
        let refused = begin(&recorder, "/b");
        refused.refused();
        drop(refused);
        drop(begin(&recorder, "/c"));
        drop(recorder);
        let mut all = vec![];
        while let Some(event) = events.recv().await {
            all.push(event);
        }
        assert_eq!(all.len(), 2, "{all:?}");
        let (whole, gone) = (&all[0].data, &all[1].data);
        assert_eq!((all[0].kind.as_str(), whole["end"].as_str()), ("request.ended", Some("whole")));
        assert_eq!((&whole["up"], &whole["down"], &whole["status"]), (&3.into(), &7.into(), &200.into()));
        assert_eq!(whole["rule"], "*.test, WebSockets");
        assert_eq!((&gone["path"], &gone["end"], &gone["status"]), (&"/c".into(), &"gone".into(), &0.into()));
        assert_ne!(whole["exchange"], gone["exchange"]);
    }

    #[tokio::test]
    async fn what_is_left_out_is_counted_in_the_next_that_is_entered() {
        let (recorder, mut events) = recorder();
        let recorder = Arc::new(recorder);
        for entered in [false, false, true, true] {
            let one = begin(&recorder, "/");
            one.noted(200, entered);
            one.moved().count(Way::Up, 1);
            one.moved().count(Way::Down, 10);
        }
        drop(recorder);
        let mut left_out = vec![];
        while let Some(event) = events.recv().await {
            left_out.push(event.data["left_out"].clone());
        }
        assert_eq!(left_out, [json!({"requests": 2, "up": 2, "down": 20}), json!(null)]);
    }
}

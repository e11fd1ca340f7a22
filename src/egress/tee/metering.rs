//! The metered part of an answer: the meter, the hold, and what is asked of the ledger for it. It passes no byte on itself.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::StatusCode;

use super::edge::Edge;
use super::usage_chunk::UsageChunk;
use crate::budget::counted;
use crate::egress::hold::OpenHold;
use crate::ledger::{Ledger, LedgerError, Raise, Settlement, Standing, Weights};
use crate::meter::{Meter, Reading};
use crate::types::{Api, Tokens};

/// Tokens by which a hold that is outgrown is raised beyond what is known, where there is room for them.
const STEP: u64 = 2048;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself: the API's final word, or the end of the body.
    Whole,
    /// A stream earlier: broken, cut, idle, or the client went away.
    Early,
}

/// Gets how the hold of an answer is settled, from what the meter read (design: the hold machine).
pub fn settlement(status: StatusCode, reading: &Reading, end: End) -> Settlement {
    let streamed = reading.streamed;
    match (reading.tokens, reading.terminal) {
        (Some(tokens), true) => Settlement::Exact(tokens),
        (None, _) if !status.is_success() => Settlement::Released,
        // Nobody knows how much more there was: its ceiling, however it ended.
        (_, false) if reading.bounded => Settlement::AtEstimate { streamed },
        (seen, false) if end == End::Early => Settlement::Partial { seen, streamed },
        (Some(tokens), false) if !reading.broken => Settlement::Partial { seen: Some(tokens), streamed },
        _ => Settlement::AtEstimate { streamed },
    }
}

/// Tells whether the figures of an API's streams come last, or as they go; those of the others begin with what went in.
fn says_usage_last(api: Api) -> bool {
    !matches!(api, Api::Anthropic | Api::BedrockInvoke)
}

/// What an answer comes to while it streams: the figures that were said last, and what has streamed since. An API that says its
/// figures as it goes is followed exactly, one that says its input first exactly in that.
#[derive(Clone, Debug)]
pub(super) struct Running {
    weights: Weights,
    /// Estimate of the input, counted tokens.
    input: u64,
    said: Option<Tokens>,
    /// What was said, counted, and what had streamed by then.
    base: u64,
    at: u64,
    /// What had streamed when it was asked last.
    last: u64,
    /// Its figures are of all that has come; else of what there was when its generation began.
    live: bool,
}

impl Running {
    pub(super) fn new(input: u64, weights: Weights, live: bool) -> Running {
        Running { weights, input, said: None, base: input, at: 0, last: 0, live }
    }

    /// Gets what it comes to, now that the meter has read `said`, and `streamed` tokens of output. Unit: counted tokens.
    pub(super) fn comes_to(&mut self, said: Option<Tokens>, streamed: u64) -> u64 {
        if self.said != said {
            self.said = said;
            (self.base, self.at) = match said {
                Some(tokens) => (counted(&tokens, &self.weights), if self.live { streamed } else { self.last }),
                None => (self.input, 0),
            };
        }
        self.last = streamed;
        let since = Tokens { output: streamed.saturating_sub(self.at), ..Tokens::default() };
        self.base.saturating_add(counted(&since, &self.weights))
    }

    /// Gets the output so far: what streamed, or where an API says its figures as it goes, what it said last and what streamed since.
    fn output(&self, streamed: u64) -> u64 {
        let Some(said) = self.said else { return streamed };
        let output = said.output.saturating_add(streamed.saturating_sub(self.at));
        if self.live { output } else { output.max(streamed) }
    }

    /// Takes note of `tokens` more that go in.
    pub(super) fn takes_in(&mut self, tokens: u64) {
        let more = counted(&Tokens { input: tokens, ..Tokens::default() }, &self.weights);
        self.input = self.input.saturating_add(more);
        self.base = self.base.saturating_add(more);
    }
}

/// Something asked of the ledger for a hold, which comes back with the answer: the limit by which the stream is cut.
type Work<L> = BoxFuture<'static, (OpenHold<L>, Result<Option<Standing>, LedgerError>)>;

/// The metered part of a body.
pub struct Metering<L: Ledger> {
    pub(super) meter: Meter,
    pub(super) hold: Option<OpenHold<L>>,
    pub(super) status: StatusCode,
    pub(super) api: Api,
    /// What was settled last, once something was, and what had streamed by then.
    pub(super) settled: Option<Settlement>,
    settled_at: u64,
    /// It has come to its end, and was settled by that.
    ended: bool,
    /// What an end before the final word is.
    early: End,
    /// Hold back one frame always: the body is one JSON text, and its end is only known when it has come.
    look_ahead: bool,
    pub(super) running: Running,
    /// Input, as it was estimated, with what was taken in since; not weighed. Unit: tokens.
    pub(super) input: u64,
    work: Option<Work<L>>,
    /// What takes the usage out again that the client has not asked for.
    usage_chunk: Option<UsageChunk>,
    /// Where the stream can be ended by a word of the plane's.
    edge: Edge,
    /// The limit that cuts it.
    crossed: Option<Standing>,
    cut: bool,
}

impl<L: Ledger> Metering<L> {
    /// Makes it for an answer of `api` with `status`. `input` is the estimate that was reserved, not weighed.
    pub fn new(
        (api, meter): (Api, Meter),
        hold: OpenHold<L>,
        status: StatusCode,
        look_ahead: bool,
        input: u64,
    ) -> Self {
        Metering {
            meter,
            early: if hold.streams() { End::Early } else { End::Whole },
            // What was more than was left is no crossing before the API has said so.
            running: Running::new(hold.input().min(hold.held()), hold.weights(), says_usage_last(api)),
            hold: Some(hold),
            status,
            api,
            settled: None,
            settled_at: 0,
            ended: false,
            look_ahead,
            input,
            work: None,
            usage_chunk: None,
            edge: Edge::Unknown,
            crossed: None,
            cut: false,
        }
    }

    /// Has the chunk taken out that says the usage: the plane has asked for it, the client has not.
    pub fn without_usage_chunk(mut self) -> Self {
        self.usage_chunk = Some(UsageChunk::default());
        self
    }

    /// Has the stream, whose events end as `edge` knows, end where its budget says so.
    pub(in crate::egress) fn may_be_cut(mut self, edge: Edge) -> Self {
        self.edge = edge;
        self
    }

    pub(super) fn usage_chunk(&mut self) -> Option<&mut UsageChunk> {
        self.usage_chunk.as_mut()
    }

    pub(super) fn edge(&self) -> Edge {
        self.edge.clone()
    }

    pub(super) fn api(&self) -> Api {
        self.api
    }

    /// Gets what the answer is called, if its API has said that.
    pub(super) fn response_id(&self) -> Option<String> {
        self.meter.reading().response_id
    }

    pub(super) fn looks_ahead(&self) -> bool {
        self.look_ahead
    }

    /// Gets the limit by which the stream is cut.
    pub(super) fn crossed(&self) -> Option<&Standing> {
        self.crossed.as_ref()
    }

    /// Tells whether the answer may still say what it used, shortly: its API says so last, in an event of its own.
    pub(super) fn waits_for_usage(&self) -> bool {
        let streams = self.hold.as_ref().is_some_and(OpenHold::streams);
        says_usage_last(self.api)
            && streams
            && self.status.is_success()
            && self.work.is_none()
            && !self.meter.terminal()
    }

    /// Takes the last bytes of the body. Gets what of them may pass, once it is settled.
    pub(super) fn finish(&mut self, rest: Bytes) -> Bytes {
        self.meter.feed(&rest);
        let rest = match &mut self.usage_chunk {
            Some(chunk) => chunk.finish(&rest),
            None => rest,
        };
        self.meter.finish();
        self.begin_settling(End::Whole);
        self.ended = true;
        rest
    }

    /// Gets what was read, with the output as far as it is known.
    fn reading(&mut self) -> Reading {
        let mut reading = self.meter.reading();
        self.running.comes_to(reading.tokens, reading.streamed);
        reading.streamed = self.running.output(reading.streamed);
        reading
    }

    /// Starts a settlement by what was read, unless the same was settled already.
    pub(super) fn begin_settling(&mut self, end: End) {
        let reading = self.reading();
        let how = settlement(self.status, &reading, end);
        // The final word counts; the body's end after it adds nothing unless the figures changed.
        if self.settled.as_ref() == Some(&how) {
            return;
        }
        let Some(mut hold) = self.hold.take() else { return };
        self.settled_at = self.meter.streamed();
        hold.plan(how.clone(), reading);
        self.settled = Some(how);
        self.work = Some(Box::pin(async move {
            let result = hold.settle().await.map(|()| None);
            (hold, result)
        }));
    }

    /// Starts the settlement of a stream that its budget has cut, once; the enforcer hears of the limit even where others, who have
    /// reserved what is beyond it, may yet give it back.
    pub(super) fn begin_cutting(&mut self) {
        if std::mem::replace(&mut self.cut, true) {
            return;
        }
        self.ended = true;
        let reading = self.reading();
        let how = settlement(self.status, &reading, End::Early);
        let Some(mut hold) = self.hold.take() else { return };
        hold.plan(how.clone(), reading);
        self.settled = Some(how);
        self.work = Some(Box::pin(async move {
            let result = hold.settle().await.map(|()| None);
            (hold, result)
        }));
    }

    /// Looks at a frame's bytes. Returns whether they must wait for the ledger.
    pub(super) fn look(&mut self, bytes: &[u8]) -> bool {
        self.meter.feed(bytes);
        if self.crossed.is_some() {
            return false;
        }
        let (terminal, streamed, seen) = (self.meter.terminal(), self.meter.streamed(), self.meter.tokens());
        let known = self.running.comes_to(seen, streamed);
        if self.settled.is_some() {
            // It goes on behind its final word: what comes is charged as it comes.
            if !terminal && streamed.saturating_sub(self.settled_at) >= STEP {
                self.begin_settling(self.early);
            }
            return self.work.is_some();
        }
        if terminal {
            self.begin_settling(End::Whole);
            return true;
        }
        let Some(mut hold) = self.hold.take_if(|hold| known > hold.held()) else { return false };
        // Should the stream be dropped meanwhile, what was seen so far counts.
        let reading = self.reading();
        hold.plan(settlement(self.status, &reading, self.early), reading);
        // An answer that comes as a whole has been computed, and one that cannot be told why is not cut.
        let may_be_cut = self.early == End::Early && self.edge != Edge::Unknown;
        self.work = Some(Box::pin(async move {
            let raised = hold.raise(Raise { ahead: STEP, seen, ..Raise::to(known) }).await;
            let cut = raised.map(|raised| raised.crossed.into_iter().next().filter(|_| raised.cuts && may_be_cut));
            (hold, cut)
        }));
        true
    }

    /// Waits for the ledger, if something is asked of it.
    pub(super) fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LedgerError>> {
        let Some(work) = &mut self.work else { return Poll::Ready(Ok(())) };
        let (hold, result) = ready!(work.as_mut().poll(cx));
        self.work = None;
        self.hold = Some(hold);
        Poll::Ready(result.map(|crossed| {
            if crossed.is_some() {
                self.crossed = crossed;
            }
        }))
    }
}

impl<L: Ledger> Drop for Metering<L> {
    fn drop(&mut self) {
        // A settlement under way has its plan in the hold that it owns; an end was settled by that.
        if self.ended {
            return;
        }
        let reading = self.reading();
        let Some(hold) = &mut self.hold else { return };
        let how = settlement(self.status, &reading, self.early);
        match &self.settled {
            None => hold.plan(how, reading),
            // It went on behind its final word.
            Some(settled) if *settled != how => {
                hold.plan(how, reading);
                hold.opens_again();
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_streams_is_added_to_what_was_said_last() {
        let tokens = |input, cache_read, output| Some(Tokens { input, cache_read, output, ..Tokens::default() });
        let mut running = Running::new(100, Weights::default(), true);
        assert_eq!(running.comes_to(None, 7), 107);
        assert_eq!(running.comes_to(tokens(40, 1000, 1), 7), 141, "the input as it is said");
        assert_eq!(running.comes_to(tokens(40, 1000, 1), 30), 164);
        assert_eq!(running.comes_to(tokens(40, 1000, 12), 36), 152, "and the output, where it is");
        assert_eq!(running.comes_to(None, 36), 136, "figures that are refused later count for nothing");
        let mut raw = Running::new(100, Weights::RAW, true);
        assert_eq!(raw.comes_to(tokens(40, 1000, 1), 7), 1041, "by the weights in force");
        // One that says what goes in first: what came with that is not in it.
        let mut first = Running::new(100, Weights::default(), false);
        assert_eq!((first.comes_to(tokens(40, 0, 1), 30), first.output(30)), (71, 31));
    }
}

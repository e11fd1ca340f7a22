//! The body of an answer as it passes: frames go on as they came, a meter reads along, the hold is kept honest.
//!
//! Three promises: the terminal usage is settled before the last bytes are released; a stream that outgrows its hold
//! raises it before the bytes beyond are released; and however the stream ends (its end, its break, a client that went
//! away, a cut, a time-out) the hold is settled by what was seen. No channel, no task of its own, no copy.

mod events;
mod ready;
mod usage_chunk;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::body::{BodyError, Idle, Way};
use super::echo::Echo;
use super::exchange::{Exchange, Over};
use super::headers;
use super::hold::OpenHold;
use super::streams::Entered;
use super::unread;
use crate::ledger::{Ledger, LedgerError, Settlement};
use crate::meter::{Meter, Reading};
use crate::types::Tokens;
use usage_chunk::UsageChunk;

/// How long an answer may be silent: models think long.
pub const SILENCE: Duration = Duration::from_secs(600);
/// Tokens by which a hold that is outgrown is raised beyond what is known.
const STEP: u64 = 2048;
/// Frames after which the input figure at a stream's start is no longer looked for.
const EARLY_FRAMES: u32 = 8;

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
        (seen, false) if end == End::Early => Settlement::Partial { seen, streamed },
        (Some(tokens), false) if !reading.broken => Settlement::Partial { seen: Some(tokens), streamed },
        _ => Settlement::AtEstimate { streamed },
    }
}

/// Something asked of the ledger for a hold, which comes back with the answer.
type Work<L> = BoxFuture<'static, (OpenHold<L>, Result<(), LedgerError>)>;

/// The metered part of a body.
pub struct Metering<L: Ledger> {
    meter: Meter,
    hold: Option<OpenHold<L>>,
    status: StatusCode,
    /// What was settled, once it was.
    settled: Option<Settlement>,
    /// What an end before the final word is.
    early: End,
    /// Hold back one frame always: the body is one JSON text, and its end is only known when it has come.
    look_ahead: bool,
    /// Input as reserved, or as the stream said where that is more. Unit: tokens.
    input: u64,
    input_said: bool,
    frames: u32,
    work: Option<Work<L>>,
    /// What takes the usage out again that the client has not asked for.
    usage_chunk: Option<UsageChunk>,
}

impl<L: Ledger> Metering<L> {
    /// Makes it for an answer with `status`. `input` is the estimate that was reserved.
    pub fn new(meter: Meter, hold: OpenHold<L>, status: StatusCode, look_ahead: bool, input: u64) -> Self {
        Metering {
            meter,
            early: if hold.streams() { End::Early } else { End::Whole },
            hold: Some(hold),
            status,
            settled: None,
            look_ahead,
            input,
            input_said: false,
            frames: 0,
            work: None,
            usage_chunk: None,
        }
    }

    /// Has the chunk taken out that says the usage: the plane has asked for it, the client has not.
    pub fn without_usage_chunk(mut self) -> Self {
        self.usage_chunk = Some(UsageChunk::default());
        self
    }

    /// Starts a settlement by what was read, unless the same was settled already.
    fn begin_settling(&mut self, end: End) {
        let reading = self.meter.reading();
        let how = settlement(self.status, &reading, end);
        // The final word counts; the body's end after it adds nothing unless the figures changed.
        if self.settled.as_ref() == Some(&how) {
            return;
        }
        let Some(mut hold) = self.hold.take() else { return };
        hold.plan(how.clone(), reading);
        self.settled = Some(how);
        self.work = Some(Box::pin(async move {
            let result = hold.settle().await;
            (hold, result)
        }));
    }

    /// Looks at a frame's bytes. Returns whether they must wait for the ledger.
    fn look(&mut self, bytes: &[u8]) -> bool {
        self.meter.feed(bytes);
        if self.meter.terminal() && self.settled.is_none() {
            self.begin_settling(End::Whole);
            return true;
        }
        self.frames = self.frames.saturating_add(1);
        if !self.input_said
            && self.frames <= EARLY_FRAMES
            && let Some(tokens) = self.meter.reading().tokens
        {
            self.input_said = true;
            self.input = self.input.max(input_counted(&tokens));
        }
        let known = self.input.saturating_add(self.meter.streamed());
        match self.hold.take_if(|hold| self.settled.is_none() && known > hold.held()) {
            Some(mut hold) => {
                // Should the stream be dropped meanwhile, what was seen so far counts.
                let reading = self.meter.reading();
                let seen = reading.tokens;
                hold.plan(settlement(self.status, &reading, self.early), reading);
                self.work = Some(Box::pin(async move {
                    let result = hold.raise(known.saturating_add(STEP), seen).await;
                    (hold, result)
                }));
                true
            }
            None => false,
        }
    }
}

/// Gets the input that counts, by the default weights; a hold may be raised too far, never too little by much.
fn input_counted(tokens: &Tokens) -> u64 {
    let full = tokens.input.saturating_add(tokens.cache_write).saturating_add(tokens.cache_write_long);
    full.saturating_add(tokens.cache_read.div_ceil(10))
}

impl<L: Ledger> Drop for Metering<L> {
    fn drop(&mut self) {
        // A settlement under way has its plan in the hold that it owns.
        if self.settled.is_none()
            && let Some(hold) = &mut self.hold
        {
            let reading = self.meter.reading();
            hold.plan(settlement(self.status, &reading, self.early), reading);
        }
    }
}

/// An answer's body on its way to the bottle.
pub struct Tee<L: Ledger> {
    inner: Incoming,
    metering: Option<Metering<L>>,
    /// Of a route with a credential.
    echo: Option<Echo>,
    /// What the route says of its answers' headers, for trailers.
    keep: Keep,
    /// Bytes that may still come; no limit where absent.
    left: Option<u64>,
    entered: Entered,
    /// What of it waits to be read.
    unread: unread::Answer,
    exchange: Arc<Exchange>,
    /// What upstream said it would send.
    length: Option<u64>,
    idle: Idle,
    /// Read, and not released yet.
    back: Option<Bytes>,
    /// What redaction kept to the end.
    rest: Option<Bytes>,
    trailers: Option<HeaderMap>,
    /// What came before it was asked for ([`Tee::what_is_there`]), and its end.
    ready: Option<Option<Result<Frame<Bytes>, BodyError>>>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Flowing,
    /// The inner body is at its end; what is held back goes out when the ledger has answered.
    Ending,
    Over,
}

/// What of an answer's headers, and of its trailers, the bottle may see.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// The route puts a credential in.
    pub credential: bool,
    /// Names that the route keeps all the same.
    pub names: Vec<String>,
}

impl<L: Ledger> Tee<L> {
    /// Makes the body around what upstream sends, of which `most` bytes may come.
    pub(super) fn new(
        inner: Incoming,
        metering: Option<Metering<L>>,
        (echo, keep): (Option<Echo>, Keep),
        most: Option<u64>,
        entered: Entered,
        exchange: Arc<Exchange>,
    ) -> Self {
        let length = inner.size_hint().exact();
        let idle = Idle::new(Arc::clone(exchange.moved()), SILENCE);
        idle.mark();
        let (back, rest, trailers, stage) = (None, None, None, Stage::Flowing);
        Tee {
            inner,
            metering,
            echo,
            keep,
            left: most,
            unread: entered.answer(),
            entered,
            exchange,
            length,
            idle,
            back,
            rest,
            trailers,
            ready: None,
            stage,
        }
    }

    /// Counts what comes against what the route allows.
    fn count(&mut self, bytes: &Bytes) -> Result<(), BodyError> {
        let Some(left) = &mut self.left else { return Ok(()) };
        *left = left.checked_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX)).ok_or(BodyError::TooLarge)?;
        Ok(())
    }

    /// Ends early: the hold is settled by its drop.
    fn fail(&mut self, error: BodyError) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.stage = Stage::Over;
        self.metering = None;
        self.back = None;
        Poll::Ready(Some(Err(error)))
    }

    /// Lets the meter look at `bytes`, from which the credential is taken already: what it keeps goes into the ledger. Gets the
    /// frame to release now, if one may be.
    fn take(&mut self, bytes: Bytes, look_ahead: bool) -> Option<Frame<Bytes>> {
        if bytes.is_empty() {
            return None;
        }
        let waits = self.metering.as_mut().is_some_and(|m| m.look(&bytes));
        let chunk = self.metering.as_mut().and_then(|metering| metering.usage_chunk.as_mut());
        let bytes = match chunk {
            Some(chunk) => chunk.pass(&bytes),
            None => bytes,
        };
        if bytes.is_empty() {
            return None;
        }
        let earlier = if look_ahead || waits { self.back.replace(bytes) } else { Some(bytes) };
        earlier.map(Frame::data)
    }

    /// Cleans trailers as the head was cleaned.
    fn clean(&self, mut trailers: HeaderMap) -> HeaderMap {
        headers::answer(&mut trailers, self.keep.credential, &self.keep.names);
        if let Some(echo) = &self.echo {
            echo.trailers(&mut trailers);
        }
        trailers
    }

    /// Waits for the ledger, if something is asked of it.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LedgerError>> {
        let Some(metering) = &mut self.metering else { return Poll::Ready(Ok(())) };
        let Some(work) = &mut metering.work else { return Poll::Ready(Ok(())) };
        let (hold, result) = ready!(work.as_mut().poll(cx));
        metering.work = None;
        metering.hold = Some(hold);
        Poll::Ready(result)
    }
}

// Nothing in it is pinned by its place: hyper's body is Unpin, futures are boxed, the rest is plain data.
impl<L: Ledger> Unpin for Tee<L> {}

impl<L: Ledger> Drop for Tee<L> {
    fn drop(&mut self) {
        // Who has all that was announced need not ask whether there is more.
        let all =
            self.inner.is_end_stream() || self.length.is_some_and(|length| self.exchange.moved().down() >= length);
        let kept = self.back.is_some() || self.rest.as_ref().is_some_and(|rest| !rest.is_empty());
        let whole = !matches!(self.ready, Some(Some(_))) && (self.stage == Stage::Over || all && !kept);
        self.exchange.over(match whole {
            true => Over::Whole,
            false if self.entered.cancelled() => Over::Cut,
            false => Over::Gone,
        });
    }
}

impl<L: Ledger> Body for Tee<L> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match this.ready.take() {
            Some(frame) => Poll::Ready(frame),
            None => this.poll_next(cx),
        };
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                this.exchange.moved().count(Way::Down, frame.data_ref().map_or(0, Bytes::len));
            }
            Poll::Ready(Some(Err(error))) => this.exchange.over(error.into()),
            Poll::Ready(None) => this.exchange.over(Over::Whole),
            Poll::Pending => {}
        }
        frame.map_ok(|frame| frame.map_data(|bytes| this.unread.count(bytes)))
    }

    fn size_hint(&self) -> SizeHint {
        if self.stage == Stage::Flowing && self.back.is_none() && self.ready.is_none() && self.metering.is_none() {
            self.inner.size_hint()
        } else {
            SizeHint::default()
        }
    }
}

impl<L: Ledger> Tee<L> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self;
        loop {
            if this.stage == Stage::Over {
                return Poll::Ready(None);
            }
            if this.entered.poll_cancelled(cx) {
                return this.fail(BodyError::Cut);
            }
            match this.poll_work(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "a metered answer was stopped: the ledger did not answer");
                    return this.fail(BodyError::Ledger);
                }
                Poll::Ready(Ok(())) => {}
            }
            if this.stage == Stage::Ending {
                if let Some(bytes) = this.back.take() {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                if let Some(rest) = this.rest.take().filter(|rest| !rest.is_empty()) {
                    return Poll::Ready(Some(Ok(Frame::data(rest))));
                }
                this.stage = Stage::Over;
                return Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            let look_ahead = this.metering.as_ref().is_some_and(|m| m.look_ahead);
            if !look_ahead && let Some(bytes) = this.back.take() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if !this.unread.poll_next(cx) {
                return Poll::Pending;
            }
            // What is held back until the end need not wait for the end to be said as well.
            let next = if look_ahead && this.back.is_some() && this.inner.is_end_stream() {
                Poll::Ready(None)
            } else {
                Pin::new(&mut this.inner).poll_frame(cx)
            };
            match next {
                Poll::Pending if this.idle.poll_idle(cx) => return this.fail(BodyError::Idle),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => return this.fail(BodyError::Broken(error)),
                Poll::Ready(Some(Ok(frame))) => {
                    this.idle.mark();
                    match frame.into_data() {
                        Ok(bytes) => {
                            if let Err(error) = this.count(&bytes) {
                                return this.fail(error);
                            }
                            let clean = match &mut this.echo {
                                Some(echo) => echo.pass(bytes),
                                None => Ok(bytes),
                            };
                            let bytes = match clean {
                                Ok(bytes) => bytes,
                                Err(error) => return this.fail(error),
                            };
                            if let Some(frame) = this.take(bytes, look_ahead) {
                                return Poll::Ready(Some(Ok(frame)));
                            }
                        }
                        Err(frame) => this.trailers = frame.into_trailers().ok().map(|trailers| this.clean(trailers)),
                    }
                }
                Poll::Ready(None) => {
                    this.stage = Stage::Ending;
                    // What was kept for redaction comes after all that was read, and is read by the meter as well.
                    match this.echo.as_mut().map(Echo::finish).transpose() {
                        Ok(rest) => this.rest = rest,
                        Err(error) => return this.fail(error),
                    }
                    if let Some(metering) = &mut this.metering {
                        metering.meter.feed(this.rest.as_deref().unwrap_or_default());
                        if let Some(chunk) = &mut metering.usage_chunk {
                            this.rest = Some(chunk.finish(&this.rest.take().unwrap_or_default()));
                        }
                        metering.meter.finish();
                        metering.begin_settling(End::Whole);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

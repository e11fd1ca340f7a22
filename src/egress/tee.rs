//! The body of an answer as it passes: frames go on as they came, a meter reads along, the hold is kept honest.
//!
//! Three promises: the terminal usage is settled before the last bytes are released; a stream that outgrows its hold
//! raises it before the bytes beyond are released, and ends there where its budget says so; and however the stream ends (its end,
//! its break, a client that went away, a cut, a time-out) the hold is settled by what was seen. No channel and no copy.

mod drain;
mod edge;
mod events;
mod metering;
mod ready;
mod usage_chunk;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::body::{BodyError, Idle, Way};
use super::echo::Echo;
use super::exchange::{Exchange, Over};
use super::headers;
use super::spent;
use super::streams::Entered;
use super::unread;
use crate::ledger::{Ledger, LedgerError};
use drain::Source;
pub(super) use edge::{Edge, Last};
pub use metering::{End, Metering, settlement};

/// How long an answer may be silent: models think long.
pub const SILENCE: Duration = Duration::from_secs(600);
/// Most that is passed on of an event that has gone out in part when its stream is cut. Unit: bytes.
const LAST_EVENT: usize = 64 << 10;

/// An answer's body on its way to the bottle.
pub struct Tee<L: Ledger> {
    inner: Source,
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
    /// Where in the stream what was released ends.
    edge: Edge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Flowing,
    /// Its budget has cut it: what is left of the event that has gone out in part, at most so many bytes, and then the last word.
    Cutting(usize),
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
        let inner = Source::new(inner);
        let edge = metering.as_ref().map_or(Edge::Unknown, Metering::edge);
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
            edge,
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
        let chunk = self.metering.as_mut().and_then(Metering::usage_chunk);
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
        ready!(metering.poll_work(cx))?;
        if self.stage == Stage::Flowing && metering.crossed().is_some() {
            self.stage = Stage::Cutting(LAST_EVENT);
        }
        Poll::Ready(Ok(()))
    }

    /// Comes to the end of an answer that its budget has cut: gets what is released next, or what is wanted for it.
    fn poll_cut(&mut self, left: usize, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        if !self.edge.is_between() {
            let Some(bytes) = self.back.take() else { return Poll::Ready(Ok(None)) };
            let end = self.edge.first_end(&bytes);
            let rest = left.checked_sub(end.unwrap_or(bytes.len())).filter(|_| self.edge != Edge::Unknown);
            self.stage = Stage::Cutting(rest.ok_or(BodyError::Cut)?);
            return Poll::Ready(Ok(Some(end.map_or(bytes.clone(), |end| bytes.slice(..end)))));
        }
        // Nothing of the next event has gone out, and nothing does.
        self.back = None;
        self.inner.close();
        let Some(metering) = &mut self.metering else { return Poll::Ready(Err(BodyError::Cut)) };
        metering.begin_cutting();
        ready!(metering.poll_work(cx)).map_err(|_| BodyError::Ledger)?;
        let last = metering.crossed().map(|standing| {
            let now = jiff::Timestamp::now().as_second();
            let id = metering.response_id();
            self.edge.last(spent::last(metering.api(), id.as_deref(), &spent::crossed(standing), now))
        });
        self.stage = Stage::Over;
        self.exchange.over(Over::Cut);
        Poll::Ready(Ok(last))
    }
}

// Nothing in it is pinned by its place: hyper's body is Unpin, futures are boxed, the rest is plain data.
impl<L: Ledger> Unpin for Tee<L> {}

impl<L: Ledger> Drop for Tee<L> {
    fn drop(&mut self) {
        // Who has all that was announced need not ask whether there is more.
        let all =
            self.inner.is_end_stream() || self.length.is_some_and(|length| self.exchange.moved().down() >= length);
        let goes_on = self.stage == Stage::Flowing && !all && !self.entered.cancelled();
        let kept = self.back.is_some() || self.rest.as_ref().is_some_and(|rest| !rest.is_empty());
        let whole = !matches!(self.ready, Some(Some(_))) && (self.stage == Stage::Over || all && !kept);
        self.exchange.over(match whole {
            true => Over::Whole,
            false if self.entered.cancelled() => Over::Cut,
            false => Over::Gone,
        });
        if goes_on && let Some(metering) = self.metering.take_if(|metering| metering.waits_for_usage()) {
            drain::drain(self.inner.take(), self.echo.take(), metering, self.entered.leave_behind());
        }
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
                let data = frame.data_ref().map_or(&[][..], |bytes| bytes);
                this.edge.follow(data);
                this.exchange.moved().count(Way::Down, data.len());
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
            if let Stage::Cutting(left) = this.stage {
                match ready!(this.poll_cut(left, cx)) {
                    Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Ok(None) if this.stage == Stage::Over => continue,
                    Ok(None) => {}
                    Err(error) => return this.fail(error),
                }
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
            let cutting = this.stage != Stage::Flowing;
            let look_ahead = cutting || this.metering.as_ref().is_some_and(Metering::looks_ahead);
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
                            if cutting {
                                this.back = this.take(bytes, false).and_then(|frame| frame.into_data().ok());
                            } else if let Some(frame) = this.take(bytes, look_ahead) {
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
                        let rest = this.rest.take().unwrap_or_default();
                        this.rest = Some(metering.finish(rest));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;

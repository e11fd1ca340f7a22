//! The server's side: each event is brought home to its response and metered before it goes on.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::intake::Intake;
use super::{Answer, Ended, Refusal, Socket, UnderWay, code};
use crate::egress::body::Way;
use crate::egress::deny::{Denial, Deny};
use crate::egress::hold::unavailable;
use crate::egress::request::not_cut;
use crate::egress::spent;
use crate::egress::tee::End;
use crate::ledger::Ledger;
use crate::meter::events::{Does, Event, Place};
use crate::meter::websocket::{Item, Message, Opcode, Sender};

/// Longest event, as on a stream. Unit: bytes.
const MAX_EVENT: usize = 16 << 20;
/// What a response is refused as that was taken into another: it is no fault, and costs nothing of its own.
const TAKEN_IN: u16 = 409;

impl<L: Ledger> Socket<L> {
    /// Passes the server's events on.
    pub(super) async fn server(&self, mut from: impl AsyncRead + Unpin, to: &mut (impl AsyncWrite + Unpin)) -> Ended {
        let mut intake = Intake::new(Sender::Server, MAX_EVENT, None);
        loop {
            let mut share = self.plane.room.share();
            let item = intake.next(&mut from, &self.moved, &mut share).await;
            let (sent, last) = match item {
                Err(refusal) => return refusal.into(),
                Ok(None) => return Ended::Over,
                Ok(Some(Item::Control { opcode, wire, payload })) => {
                    // A reason for closing may repeat what was put in; there is nothing else worth passing in it.
                    if self.redactor.as_ref().is_some_and(|redactor| redactor.whole(&payload).is_some()) {
                        return Ended::Over;
                    }
                    self.closed.fetch_or(opcode == Opcode::Close, Ordering::AcqRel);
                    self.writing.store(true, Ordering::Release);
                    let sent = to.write_all(&wire).await.is_ok() && to.flush().await.is_ok();
                    self.moved.count(Way::Down, wire.len());
                    self.moved.mark();
                    (sent, None)
                }
                Ok(Some(Item::Message(mut message))) => match self.event(&mut message).await {
                    Ok(last) => {
                        self.writing.store(true, Ordering::Release);
                        (self.write(message, to, Way::Down).await.is_ok(), last)
                    }
                    Err(refusal) => return refusal.into(),
                },
            };
            if !sent {
                return Ended::Over;
            }
            self.writing.store(false, Ordering::Release);
            if let Some(refusal) = last {
                return refusal.into();
            }
        }
    }

    /// Meters one event. Returns when it may go on, and what ends the socket after it.
    async fn event(&self, message: &mut Message) -> Result<Option<Refusal>, Refusal> {
        if !message.is_text() {
            return Err(Refusal::unreadable(code::UNACCEPTABLE, "the server sent a binary message"));
        }
        let clean = self.redactor.as_ref().and_then(|redactor| redactor.whole(message.content()));
        if let Some(clean) = clean {
            message.replace(&clean);
        }
        let content = message.content();
        let event = Event::read(content)
            .ok_or_else(|| Refusal::unreadable(code::POLICY, "the server sent what is no event of this API"))?;
        let mut under_way = self.under_way.lock().await;
        let place = under_way.lanes.place(&event).map_err(|error| Refusal::unreadable(code::POLICY, error))?;
        if let Place::At(at) = place {
            self.take(&mut under_way, at, &event, content).await?;
        }
        if under_way.lanes.open() > 0 {
            return Ok(None);
        }
        self.entered.holds_nothing();
        // A cut that let open holds finish has waited for this.
        let cut = || not_cut(&self.plane.streams, true).err().map(Refusal::from);
        Ok(under_way.refused.take().or_else(cut))
    }

    /// Lets a response take its event, and settles it with its last one.
    async fn take(
        &self,
        under_way: &mut UnderWay<L>,
        mut at: usize,
        event: &Event,
        content: &[u8],
    ) -> Result<(), Refusal> {
        let lanes = &mut under_way.lanes;
        if event.does == Does::Begins {
            let (now, gone) = lanes.gone_by(at);
            at = now;
            for gone in gone {
                // What broke off before it is settled already.
                if let Some(answer) = lanes.at(at).filter(|_| !gone.metering.is_settled()) {
                    answer.metering.takes_in(gone.own);
                    answer.taken_in.push(gone.metering);
                }
            }
        }
        let begun = lanes.has_begun(at);
        let Some(answer) = lanes.at(at) else { return Ok(()) };
        if let Some(left) = &mut answer.left {
            let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
            *left = left.checked_sub(length).ok_or_else(|| {
                let message = format!("bb: the route to {} allows no longer answers.", self.of.host);
                Refusal::from(Deny::new(Denial::ResponseTooLarge, message))
            })?;
        }
        let refuse = |error| Refusal::from(unavailable(&error));
        if let Some(standing) = answer.metering.pass(content).await.map_err(refuse)? {
            return Err(Refusal { lane: event.lane.clone(), ..Refusal::from(spent::crossed(&standing)) });
        }
        match event.does {
            Does::Begins => {
                let input = answer.metering.input();
                if let Some(id) = &event.id {
                    lanes.remember(id, input);
                }
            }
            Does::Ends => {
                answer.metering.end(End::Whole).await.map_err(refuse)?;
                self.settle_taken_in(answer).await?;
                let context = answer.metering.context();
                if let Some(id) = &event.id {
                    lanes.remember(id, context);
                }
                lanes.end(at);
            }
            // What it goes on with, if it does, is no more than a last word.
            Does::Fails(_) if begun => {
                answer.metering.end(End::Early).await.map_err(refuse)?;
                self.settle_taken_in(answer).await?;
                lanes.breaks(at);
            }
            Does::Fails(status) => {
                answer.metering.refused(status);
                answer.metering.end(End::Whole).await.map_err(refuse)?;
                lanes.end(at);
            }
            Does::SteersNot => {
                let own = answer.own;
                answer.metering.refused(TAKEN_IN);
                answer.metering.end(End::Whole).await.map_err(refuse)?;
                // Where it waits, it is part of what goes on from there.
                if let Some(id) = &event.id {
                    let context = lanes.context(id).unwrap_or(0).saturating_add(own);
                    lanes.remember(id, context);
                }
                lanes.end(at);
            }
            Does::Brings | Does::Tells => {}
        }
        Ok(())
    }

    /// Settles the steering that was taken into a response that has ended: free where its usage says what all of it has cost.
    async fn settle_taken_in(&self, answer: &mut Answer<L>) -> Result<(), Refusal> {
        let exact = answer.metering.is_exact();
        for mut metering in answer.taken_in.drain(..) {
            if exact {
                metering.refused(TAKEN_IN);
            }
            let end = if exact { End::Whole } else { End::Early };
            metering.end(end).await.map_err(|error| Refusal::from(unavailable(&error)))?;
        }
        Ok(())
    }
}

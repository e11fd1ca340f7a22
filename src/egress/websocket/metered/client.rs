//! The client's side: each message is held until it is understood, allowed and reserved for.

use std::sync::atomic::Ordering;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::intake::Intake;
use super::{Answer, Ended, Refusal, Socket, code};
use crate::egress::body::Way;
use crate::egress::deny::{Denial, Deny};
use crate::egress::hold::OpenHold;
use crate::egress::model::{BODY_IDLE, Wanted, most_held, not_counted, reaches_nowhere, usual_output};
use crate::egress::request::not_cut;
use crate::egress::tee::Metering;
use crate::ledger::Ledger;
use crate::meter::estimate::Content;
use crate::meter::request::RequestFacts;
use crate::meter::request::socket::{self, Message};
use crate::meter::websocket::{self, Item, Opcode, Sender};

/// Responses at once on one socket; the API answers 16.
const AT_ONCE: usize = 32;

/// The feature by which a response goes on from an earlier one.
const PREVIOUS: &str = "previous_response";

/// What a message asks for, as far as it is reserved for.
struct Asked {
    wanted: Wanted,
    lane: Option<String>,
    /// The response that it steers.
    target: Option<String>,
    /// Estimate of the message itself. Unit: tokens.
    own: u64,
}

impl<L: Ledger> Socket<L> {
    /// Passes the client's messages on.
    pub(super) async fn client(&self, from: &mut (impl AsyncRead + Unpin), mut to: impl AsyncWrite + Unpin) -> Ended {
        let mut intake = Intake::new(Sender::Client, most_held(self.of.route.max_request), Some(BODY_IDLE));
        loop {
            let mut share = self.plane.room.share();
            let message = match intake.next(from, &self.moved, &mut share).await {
                Ok(None) => return Ended::Over,
                Err(refusal) => return self.when_over(refusal, &mut intake, from).await,
                Ok(Some(Item::Control { opcode, wire, .. })) => {
                    // An end that the client asks for is the server's to answer.
                    let passed = to.write_all(&wire).await.is_ok() && to.flush().await.is_ok();
                    match passed {
                        true if opcode != Opcode::Close => continue,
                        true => return self.until_closed(intake, from).await,
                        false => return Ended::Over,
                    }
                }
                Ok(Some(Item::Message(message))) => message,
            };
            let reserved = tokio::select! {
                reserved = self.reserved(&message) => reserved,
                () = intake.left(from) => return Ended::Over,
            };
            let (asked, hold) = match reserved {
                Ok(reserved) => reserved,
                Err(refusal) => return self.when_over(refusal, &mut intake, from).await,
            };
            if let Err(refusal) = self.asks(asked, hold).await {
                return self.when_over(refusal, &mut intake, from).await;
            }
            if self.write(message, &mut to, Way::Up).await.is_err() {
                return Ended::Over;
            }
        }
    }

    /// Understands a message, and reserves what it asks for.
    async fn reserved(&self, message: &websocket::Message) -> Result<(Asked, OpenHold<L>), Refusal> {
        if !message.is_text() {
            let what = "binary messages are not passed to model APIs";
            return Err(Refusal::unreadable(code::UNACCEPTABLE, what));
        }
        let content = message.content();
        let message = {
            let _one = self.plane.reading.lock().await;
            socket::message(content).map_err(|error| {
                Refusal::unreadable(code::POLICY, format!("the message is not one of this API: {error}"))
            })?
        };
        self.plane.estimates.load(&self.plane.ledger).await;
        let asked = self.allowed(message, content).await?;
        let lane = asked.lane.clone();
        let facts = json!({"method": "GET", "path": self.of.path, "websocket": true, "exchange": self.exchange.id()});
        let reserve = self.plane.reserve(self.of.api, &self.of.host, &asked.wanted, facts).await;
        let hold = reserve.and_then(|hold| hold.ok_or_else(not_counted));
        let mut hold = hold.map_err(|deny| Refusal { lane, ..Refusal::from(deny) })?;
        // What is written to the socket is answered, or is not; there is no other word on it.
        hold.answered(200);
        Ok((asked, hold))
    }

    /// Checks a message as the body of a request is checked. Going on from a response of this socket is no way out of the bottle:
    /// what is in it came from here.
    async fn allowed(&self, message: Message, content: &[u8]) -> Result<Asked, Refusal> {
        let under_way = self.under_way.lock().await;
        let (mut facts, lane, follows, target) = match message {
            Message::Create { facts, lane, follows } => (facts, lane, follows, None),
            Message::Steer { mut reaching, target } => {
                reaching.push(PREVIOUS.to_owned());
                // One that has ended is gone on from with the socket's last model.
                let model = under_way.lanes.called(&target).map(|answer| &answer.model).or(under_way.model.as_ref());
                let model = model.cloned().unwrap_or_default();
                (
                    RequestFacts { model, stream: true, max_output: None, reaching },
                    None,
                    Some(target.clone()),
                    Some(target),
                )
            }
        };
        let refuse = |deny| Refusal { lane: lane.clone(), ..Refusal::from(deny) };
        let context = follows.as_deref().and_then(|id| under_way.lanes.context(id));
        if context.is_some() {
            facts.reaching.retain(|feature| feature != PREVIOUS);
        }
        reaches_nowhere(&facts.reaching, &self.of.route.server_tools).map_err(refuse)?;
        if facts.model.is_empty() {
            let message = "bb: there is no response on this WebSocket that could be steered.";
            return Err(refuse(Deny::new(Denial::ProtocolUnknown, message)));
        }
        not_cut(&self.plane.streams, true).map_err(refuse)?;
        if under_way.lanes.kept() >= AT_ONCE {
            let message = format!("bb: {AT_ONCE} responses are under way on this WebSocket already.");
            return Err(refuse(Deny::new(Denial::LimitStreams, message).step("wait for some of them to end")));
        }
        let (context, output) = (context.unwrap_or(0), (facts.max_output, usual_output(&facts)));
        let estimate = self.plane.estimates.estimate_more(&Content::of(content), context, &facts.model, output);
        let own = estimate.input.all_input().saturating_sub(context);
        // There is no endpoint that counts what goes on from what its provider has.
        Ok(Asked { wanted: Wanted { facts, estimate, counted: true }, lane, target, own })
    }

    /// Enters a response that is about to be asked for, unless the bottle was cut while it waited for its tokens.
    async fn asks(&self, asked: Asked, hold: OpenHold<L>) -> Result<(), Refusal> {
        let mut under_way = self.under_way.lock().await;
        if let Err(deny) = not_cut(&self.plane.streams, true) {
            return Err(Refusal { lane: asked.lane, ..Refusal::from(deny) });
        }
        hold.written().store(true, Ordering::Release);
        let Wanted { facts, estimate, .. } = asked.wanted;
        under_way.model = Some(facts.model.clone());
        let answer = Answer {
            metering: Metering::of_messages(self.of.api, hold, estimate.input.all_input()),
            model: facts.model,
            own: asked.own,
            taken_in: Vec::new(),
            left: self.of.route.max_response,
        };
        match asked.target {
            Some(target) => under_way.lanes.steer(&target, answer),
            None => under_way.lanes.ask(asked.lane, answer),
        }
        self.entered.is_holding();
        Ok(())
    }

    /// Ends with `refusal` when nothing is under way any more, or when the client has left; until then nothing else that it says is
    /// looked at.
    async fn when_over(&self, refusal: Refusal, intake: &mut Intake, from: &mut (impl AsyncRead + Unpin)) -> Ended {
        let mut under_way = self.under_way.lock().await;
        if under_way.lanes.open() == 0 {
            return refusal.into();
        }
        under_way.refused = Some(refusal);
        drop(under_way);
        intake.left(from).await;
        Ended::Over
    }

    /// Lets the server answer a Close. Nothing may follow it.
    async fn until_closed(&self, mut intake: Intake, from: &mut (impl AsyncRead + Unpin)) -> Ended {
        match intake.next(from, &self.moved, &mut self.plane.room.share()).await {
            Err(refusal) => refusal.into(),
            Ok(_) => Ended::Over,
        }
    }
}

//! One hold at the ledger, from its grant to its settlement. It cannot be forgotten: dropping it settles it.
//!
//! Retry safety: as long as nothing was written upstream a hold that is dropped is released at 0; afterwards it is
//! charged as `partial`. Crossings that a settlement reports go to the enforcer at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Enforcer;
use super::deny::{Denial, Deny};
use super::estimate::Pupil;
use super::exchange::Exchange;
use super::record::{Tally, Ticket};
use super::spent;
use crate::ledger::{
    HoldOutcome, HoldRequest, Ledger, LedgerError, Raise, Raised, Settle, Settled, Settlement, Standing, Weights,
};
use crate::meter::Reading;
use serde_json::{Value, json};

/// How long a request waits for others to give back what they hold.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Longest time between two askings.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Tries to settle in the background before it is left to the ledger's sweep.
const TRIES: u32 = 20;

/// Answers of one bottle that are read on at once although their client is gone.
pub(super) const DRAINS: usize = 32;

/// What a hold needs beside the ledger.
#[derive(Clone)]
pub struct Keeping {
    /// The bottle's id, for the enforcer.
    pub bottle: Arc<str>,
    /// A request waits where its budget is spent: the bottle is being paused.
    pub parks: Arc<AtomicBool>,
    /// How accounts stood when its agent was told to hand over what it has.
    pub told: Arc<Mutex<Vec<Standing>>>,
    /// Thresholds that its agent was told of: the highest of each account. Unit: percent.
    pub near: Arc<Mutex<Vec<(Standing, u8)>>>,
    /// Told of crossings.
    pub enforcer: Arc<dyn Enforcer>,
    /// What is under way in this bottle.
    pub tally: Arc<Tally>,
    /// Answers that are read on although their client is gone.
    pub drains: Arc<Semaphore>,
    /// Where a settlement runs whose request is gone.
    pub runtime: tokio::runtime::Handle,
}

/// An open hold.
pub struct OpenHold<L: Ledger> {
    ledger: L,
    keeping: Keeping,
    ticket: Option<Ticket>,
    /// Told to end when this is settled.
    exchange: Option<Arc<Exchange>>,
    /// Set while the ledger may have the hold open.
    armed: bool,
    /// What a drop settles it as.
    fallback: Settle,
    /// Set once the request's body went upstream.
    written: Arc<AtomicBool>,
    /// Estimate of the input. Unit: counted tokens.
    input: u64,
    /// Reserved. Unit: counted tokens.
    held: u64,
    /// Who learns of it what it came to.
    pupil: Option<Pupil>,
    /// Thresholds that its agent is to be told of, if it was not. Unit: percent.
    near: Vec<(Standing, u8)>,
    /// Whether the answer comes piece by piece. One that comes as a whole has been computed, and is billed, to its end
    /// although nobody reads it.
    streams: bool,
}

/// Reserves what `request` asks for, waiting for others where that can help. `None`: it is to be counted first.
pub async fn reserve<L: Ledger>(
    ledger: &L,
    keeping: &Keeping,
    mut request: HoldRequest,
    streams: bool,
    facts: Value,
) -> Result<Option<OpenHold<L>>, Deny> {
    let mut hold = OpenHold::new(ledger.clone(), keeping.clone(), &request, streams, facts);
    let deadline = Instant::now() + PATIENCE;
    let mut changes = ledger.changes();
    loop {
        changes.mark_unchanged();
        hold.armed = true;
        request.told.clone_from(&keeping.told.lock().unwrap_or_else(PoisonError::into_inner));
        match hold.ledger.hold(request.clone()).await {
            Ok(HoldOutcome::Granted { held, near }) => {
                hold.held = held;
                hold.near = near;
                return Ok(Some(hold));
            }
            Ok(HoldOutcome::Wait(standing)) if Instant::now() >= deadline => {
                hold.armed = false;
                return Err(spent::budget(&standing));
            }
            Ok(HoldOutcome::Count) => {
                hold.armed = false;
                return Ok(None);
            }
            Ok(HoldOutcome::WrapUp(standing)) => {
                hold.armed = false;
                let deny = spent::wrap_up(&standing);
                let mut told = keeping.told.lock().unwrap_or_else(PoisonError::into_inner);
                told.retain(|told| !told.is_of(&standing));
                told.push(standing);
                return Err(deny);
            }
            Ok(HoldOutcome::Wait(_)) => {
                let _ = tokio::time::timeout(ASK_AGAIN, changes.changed()).await;
            }
            Ok(HoldOutcome::Refused(standing)) => {
                hold.armed = false;
                let deny = spent::budget(&standing);
                keeping.enforcer.exhausted(&keeping.bottle, standing);
                if !keeping.parks.load(Ordering::Relaxed) {
                    return Err(deny);
                }
                // Its agent hears nothing before it has been stopped; what it asked for goes on when there is budget again.
                let _ = tokio::time::timeout(ASK_AGAIN, changes.changed()).await;
            }
            // The hold may have been committed all the same: the drop releases it.
            Err(error) => return Err(unavailable(&error)),
        }
    }
}

/// Gets the refusal for a ledger that does not answer.
pub fn unavailable(error: &LedgerError) -> Deny {
    tracing::warn!(%error, "the ledger refused a metered request");
    // Where the files lie, and what exactly the host's own log says, is nobody's business in a bottle.
    let why = match error {
        LedgerError::Full(_) => "the disk of the ledger is full",
        LedgerError::Corrupt(_) => "the ledger is damaged",
        LedgerError::Newer { .. } => "the ledger was changed by a newer bb",
        LedgerError::Unavailable(_) | LedgerError::NetworkFs(_) | LedgerError::Misuse(_) => {
            "the ledger does not answer"
        }
    };
    Deny::new(Denial::LedgerUnavailable, format!("bb: {why}, so no model call may pass. This is a fault of the host."))
        .step("try again in a minute; the operator can look at `bb controller logs`")
}

impl<L: Ledger> OpenHold<L> {
    fn new(ledger: L, keeping: Keeping, request: &HoldRequest, streams: bool, facts: Value) -> Self {
        let fallback = Settle {
            id: request.id.clone(),
            how: Settlement::Released,
            model: None,
            response_id: None,
            raw_usage: None,
            facts: Arc::new(facts),
        };
        let ticket = Some(keeping.tally.enter());
        let (exchange, written, input) = (None, Arc::default(), request.input);
        let (armed, held, pupil) = (true, 0, None);
        OpenHold {
            ledger,
            keeping,
            ticket,
            exchange,
            armed,
            fallback,
            written,
            input,
            held,
            pupil,
            near: Vec::new(),
            streams,
        }
    }

    /// Makes that of one that has ended: more usage of it may be told, and nothing is under way.
    pub fn ended(ledger: L, keeping: Keeping, id: String, facts: Value) -> Self {
        let (how, facts) = (Settlement::Released, Arc::new(facts));
        let fallback = Settle { id, how, model: None, response_id: None, raw_usage: None, facts };
        let (ticket, exchange, written) = (None, None, Arc::default());
        // There is nothing to be raised, and nothing to be settled by a drop.
        let (armed, input, held, pupil, streams) = (false, 0, u64::MAX, None, true);
        OpenHold {
            ledger,
            keeping,
            ticket,
            exchange,
            armed,
            fallback,
            written,
            input,
            held,
            pupil,
            near: Vec::new(),
            streams,
        }
    }

    /// Says who learns of it what it came to.
    pub fn teaches(mut self, pupil: Pupil) -> Self {
        self.pupil = Some(pupil);
        self
    }

    /// Gets the sentence that the request is to say to its agent, of thresholds that were passed and that it was not told of.
    pub fn news(&mut self) -> Option<String> {
        let told = self.keeping.near.lock().unwrap_or_else(PoisonError::into_inner);
        let has_heard = |(now, percent): &(Standing, u8)| {
            let before = told.iter().find(|(before, _)| before.is_of(now));
            before.is_some_and(|(before, heard)| {
                heard >= percent && (before.limit, before.resets) == (now.limit, now.resets) && before.used <= now.used
            })
        };
        self.near.retain(|one| !has_heard(one));
        (!self.near.is_empty()).then(|| spent::near(&self.near))
    }

    /// Says that the agent has not heard that it is to hand over what it has: it will be told again.
    pub fn unheard(&self, account: &Standing) {
        self.keeping.told.lock().unwrap_or_else(PoisonError::into_inner).retain(|told| !told.is_of(account));
    }

    /// Notes that the agent has heard the news.
    pub fn heard(&mut self) {
        let mut told = self.keeping.near.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|(before, _)| !self.near.iter().any(|(now, _)| before.is_of(now)));
        told.append(&mut self.near);
    }

    /// Says which exchange it is of: its end is told after the hold was settled.
    pub fn belongs_to(&mut self, exchange: &Arc<Exchange>) {
        self.exchange = Some(Arc::clone(exchange));
    }

    /// Gets the flag that says that the request's body went upstream.
    pub fn written(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.written)
    }

    /// Says that nobody waits for its answer any more: it is told as over before this is settled.
    pub fn left_alone(&mut self) {
        self.exchange = None;
    }

    /// Gets what it needs beside the ledger.
    pub fn keeping(&self) -> Keeping {
        self.keeping.clone()
    }

    /// Gets how tokens are counted.
    pub fn weights(&self) -> Weights {
        self.ledger.weights()
    }

    /// Gets the estimate of the input. Unit: counted tokens.
    pub fn input(&self) -> u64 {
        self.input
    }

    /// Gets what is reserved. Unit: counted tokens.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Tells whether the answer comes piece by piece.
    pub fn streams(&self) -> bool {
        self.streams
    }

    /// Notes the status of the answer.
    pub fn answered(&mut self, status: u16) {
        Arc::make_mut(&mut self.fallback.facts)["status"] = json!(status);
    }

    /// Notes how it shall be settled if it is dropped.
    pub fn plan(&mut self, how: Settlement, reading: Reading) {
        self.fallback.how = how;
        self.fallback.model = reading.model;
        self.fallback.response_id = reading.response_id;
        self.fallback.raw_usage = reading.raw_usage;
        if reading.broken {
            let why = if reading.bounded { "bounded" } else { "unreadable" };
            Arc::make_mut(&mut self.fallback.facts)["why"] = json!(why);
        }
        // The plan was made from what upstream said, so upstream has seen the request.
        self.written.store(true, Ordering::Release);
    }

    /// Raises what is reserved.
    pub async fn raise(&mut self, raise: Raise) -> Result<Raised, LedgerError> {
        let raise = Raise { pauses: self.keeping.parks.load(Ordering::Relaxed), ..raise };
        let raised = self.ledger.raise(&self.fallback.id, raise).await?;
        self.held = raised.held;
        Ok(raised)
    }

    /// Settles as planned. May be called again with a later plan: late usage only raises.
    pub async fn settle(&mut self) -> Result<(), LedgerError> {
        self.armed = true;
        let settled = self.ledger.settle(self.fallback.clone()).await?;
        self.armed = false;
        self.ticket = None;
        learn(&self.ledger, &self.keeping, self.pupil.take(), &self.fallback.how);
        announce(&self.keeping, settled);
        Ok(())
    }

    /// Has its drop settle it once more, as planned since it was settled: what came later may only raise it.
    pub fn opens_again(&mut self) {
        self.armed = true;
        self.ticket.get_or_insert_with(|| self.keeping.tally.enter());
    }
}

/// Tells the enforcer what was crossed.
fn announce(keeping: &Keeping, settled: Settled) {
    for standing in settled.crossed {
        keeping.enforcer.exhausted(&keeping.bottle, standing);
    }
}

impl<L: Ledger> Drop for OpenHold<L> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let mut settle = self.fallback.clone();
        if settle.how == Settlement::Released && self.written.load(Ordering::Acquire) && !answered_badly(&settle.facts)
        {
            settle.how = if self.streams {
                Settlement::Partial { seen: None, streamed: 0 }
            } else {
                Settlement::AtEstimate { streamed: 0 }
            };
        }
        let (ledger, keeping, ticket) = (self.ledger.clone(), self.keeping.clone(), self.ticket.take());
        let (runtime, exchange, pupil) = (keeping.runtime.clone(), self.exchange.take(), self.pupil.take());
        runtime.spawn(async move {
            // Dropped in the order from the last: the exchange's event is queued before nothing is under way any more.
            let _ticket = ticket;
            let _exchange = exchange;
            for attempt in 0..TRIES {
                match ledger.settle(settle.clone()).await {
                    Ok(settled) => {
                        learn(&ledger, &keeping, pupil, &settle.how);
                        return announce(&keeping, settled);
                    }
                    // The ledger never had it.
                    Err(LedgerError::Misuse(_)) => return,
                    Err(error) if attempt + 1 == TRIES => {
                        tracing::error!(%error, hold = settle.id, "a hold was not settled; the next start sweeps it");
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
                }
            }
        });
    }
}

/// Has it learned what a request came to, where its API has said so; now and then it is written, and nobody waits for that.
fn learn<L: Ledger>(ledger: &L, keeping: &Keeping, pupil: Option<Pupil>, how: &Settlement) {
    let Settlement::Exact(tokens) = how else { return };
    let Some(lesson) = pupil.and_then(|pupil| pupil.learn(tokens)) else { return };
    let (ledger, ticket) = (ledger.clone(), keeping.tally.enter());
    keeping.runtime.spawn(async move {
        let _ticket = ticket;
        if let Err(error) = ledger.keep_lesson(lesson).await {
            tracing::debug!(%error, "what was learned of a model was not kept");
        }
    });
}

/// Tells whether upstream answered with an error: then a release was meant as one.
fn answered_badly(facts: &Value) -> bool {
    facts["status"].as_u64().is_some_and(|status| !(200..300).contains(&status))
}

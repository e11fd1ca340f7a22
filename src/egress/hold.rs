//! One hold at the ledger, from its grant to its settlement. It cannot be forgotten: dropping it settles it.
//!
//! Retry safety: as long as nothing was written upstream a hold that is dropped is released at 0; afterwards it is
//! charged as `partial`. Crossings that a settlement reports go to the enforcer at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Enforcer;
use super::deny::{Denial, Deny};
use super::exchange::Exchange;
use super::record::{Tally, Ticket};
use super::spent;
use crate::ledger::{HoldOutcome, HoldRequest, Ledger, LedgerError, Settle, Settled, Settlement};
use crate::meter::Reading;
use crate::types::Tokens;
use serde_json::{Value, json};

/// How long a request waits for others to give back what they hold.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Longest time between two askings.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Tries to settle in the background before it is left to the ledger's sweep.
const TRIES: u32 = 20;

/// What a hold needs beside the ledger.
#[derive(Clone)]
pub struct Keeping {
    /// The bottle's id, for the enforcer.
    pub bottle: Arc<str>,
    /// A request waits where its budget is spent: the bottle is being paused.
    pub parks: Arc<AtomicBool>,
    /// Told of crossings.
    pub enforcer: Arc<dyn Enforcer>,
    /// What is under way in this bottle.
    pub tally: Arc<Tally>,
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
    /// Tokens reserved.
    held: u64,
    /// Whether the answer comes piece by piece. One that comes as a whole has been computed, and is billed, to its end
    /// although nobody reads it.
    streams: bool,
}

/// Reserves what `request` asks for, waiting for others where that can help.
pub async fn reserve<L: Ledger>(
    ledger: &L,
    keeping: &Keeping,
    request: HoldRequest,
    streams: bool,
    facts: Value,
) -> Result<OpenHold<L>, Deny> {
    let mut hold = OpenHold::new(ledger.clone(), keeping.clone(), &request, streams, facts);
    let deadline = Instant::now() + PATIENCE;
    let mut changes = ledger.changes();
    loop {
        changes.mark_unchanged();
        hold.armed = true;
        match hold.ledger.hold(request.clone()).await {
            Ok(HoldOutcome::Granted { held }) => {
                hold.held = held;
                return Ok(hold);
            }
            Ok(HoldOutcome::Wait(standing)) if Instant::now() >= deadline => {
                hold.armed = false;
                return Err(spent::budget(&standing));
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
    Deny::new(
        Denial::LedgerUnavailable,
        "bb: the ledger does not answer, so no model call may pass. This is a fault of the host.",
    )
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
        let (exchange, written) = (None, Arc::default());
        OpenHold { ledger, keeping, ticket, exchange, armed: true, fallback, written, held: 0, streams }
    }

    /// Makes that of one that has ended: more usage of it may be told, and nothing is under way.
    pub fn ended(ledger: L, keeping: Keeping, id: String, facts: Value) -> Self {
        let (how, facts) = (Settlement::Released, Arc::new(facts));
        let fallback = Settle { id, how, model: None, response_id: None, raw_usage: None, facts };
        let (ticket, exchange, written) = (None, None, Arc::default());
        // There is nothing to be raised, and nothing to be settled by a drop.
        OpenHold { ledger, keeping, ticket, exchange, armed: false, fallback, written, held: u64::MAX, streams: true }
    }

    /// Says which exchange it is of: its end is told after the hold was settled.
    pub fn belongs_to(&mut self, exchange: &Arc<Exchange>) {
        self.exchange = Some(Arc::clone(exchange));
    }

    /// Gets the flag that says that the request's body went upstream.
    pub fn written(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.written)
    }

    /// Gets the tokens reserved.
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
        // The plan was made from what upstream said, so upstream has seen the request.
        self.written.store(true, Ordering::Release);
    }

    /// Raises what is reserved to `to`; `seen` is the usage known so far.
    pub async fn raise(&mut self, to: u64, seen: Option<Tokens>) -> Result<(), LedgerError> {
        self.ledger.raise_seen(&self.fallback.id, to, seen).await?;
        self.held = self.held.max(to);
        Ok(())
    }

    /// Settles as planned. May be called again with a later plan: late usage only raises.
    pub async fn settle(&mut self) -> Result<(), LedgerError> {
        self.armed = true;
        let settled = self.ledger.settle(self.fallback.clone()).await?;
        self.armed = false;
        self.ticket = None;
        announce(&self.keeping, settled);
        Ok(())
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
        let (runtime, exchange) = (keeping.runtime.clone(), self.exchange.take());
        runtime.spawn(async move {
            // Dropped in the order from the last: the exchange's event is queued before nothing is under way any more.
            let _ticket = ticket;
            let _exchange = exchange;
            for attempt in 0..TRIES {
                match ledger.settle(settle.clone()).await {
                    Ok(settled) => return announce(&keeping, settled),
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

/// Tells whether upstream answered with an error: then a release was meant as one.
fn answered_badly(facts: &Value) -> bool {
    facts["status"].as_u64().is_some_and(|status| !(200..300).contains(&status))
}

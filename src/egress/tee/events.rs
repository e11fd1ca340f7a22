//! The metered part of a response whose events come as messages of a WebSocket: the same promises, kept event by event.

use std::future::poll_fn;

use http::StatusCode;

use super::{Edge, End, Metering};
use crate::egress::hold::OpenHold;
use crate::ledger::{Ledger, LedgerError, Settlement, Standing};
use crate::meter::Meter;
use crate::types::Api;

impl<L: Ledger> Metering<L> {
    /// Makes it for a response that is about to be asked for.
    pub fn of_messages(api: Api, hold: OpenHold<L>, input: u64) -> Self {
        Metering::new((api, Meter::of_messages(api)), hold, StatusCode::OK, false, input)
            .may_be_cut(Edge::of(api, None))
    }

    /// Reads one event. Returns when the ledger has what it has to have before the event goes on; the limit that ends the response
    /// there, if one does: it is settled then, and the event does not go on.
    pub async fn pass(&mut self, event: &[u8]) -> Result<Option<Standing>, LedgerError> {
        if self.look(event) {
            self.worked().await?;
        }
        let crossed = self.crossed().cloned();
        if crossed.is_some() {
            self.begin_cutting();
            self.worked().await?;
        }
        Ok(crossed)
    }

    /// Settles by what was read, where that is not done yet. What comes later may only raise it.
    pub async fn end(&mut self, end: End) -> Result<(), LedgerError> {
        self.begin_settling(end);
        self.worked().await
    }

    /// Tells whether it was settled.
    pub fn is_settled(&self) -> bool {
        self.settled.is_some()
    }

    /// Tells whether it was settled by usage that is final.
    pub fn is_exact(&self) -> bool {
        matches!(self.settled, Some(Settlement::Exact(_)))
    }

    /// Notes that `tokens` more go in than it was reserved for: reserved with its next event, where they do not fit.
    pub fn takes_in(&mut self, tokens: u64) {
        self.input = self.input.saturating_add(tokens);
        self.running.takes_in(tokens);
    }

    /// Gets the input as it was estimated or is said, with what was taken in. Unit: tokens.
    pub fn input(&self) -> u64 {
        self.meter.tokens().map_or(self.input, |said| self.input.max(said.all_input()))
    }

    /// Notes that it was refused with `status`: without usage it costs nothing.
    pub fn refused(&mut self, status: u16) {
        self.status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        if let Some(hold) = &mut self.hold {
            hold.answered(self.status.as_u16());
        }
    }

    /// Gets what whoever goes on from this response takes along: all that went in and came out,
    /// estimated as the body of a request that says it all again is. Unit: tokens.
    pub fn context(&self) -> u64 {
        match self.meter.tokens().filter(|_| self.meter.terminal()) {
            Some(said) => said.all_input().saturating_add(said.output),
            None => self.input().saturating_add(self.meter.streamed()),
        }
    }

    /// Waits for the ledger. Dropped meanwhile, what is asked of it goes on by itself.
    async fn worked(&mut self) -> Result<(), LedgerError> {
        poll_fn(|cx| self.poll_work(cx)).await
    }
}

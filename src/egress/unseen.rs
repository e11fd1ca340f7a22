//! Requests to a model API whose own answer does not say what they spend: those to paths that the meter does not know, where the
//! route says what one is charged; and those for an answer that an earlier request has paid.
//!
//! Neither decides whether such a request may pass: [`super::model::class`] does.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use serde_json::json;

use super::body::{Outgoing, Upload};
use super::deny::Deny;
use super::forward;
use super::hold::{self, OpenHold, unavailable};
use super::model::not_counted;
use super::request::{Leaving, Plane};
use super::tee::Metering;
use crate::ledger::{HoldRequest, Ledger, Settlement};
use crate::meter::request::stored_id;
use crate::meter::{Meter, Reading};
use crate::types::Api;

impl<L: Ledger> Plane<L> {
    /// Forwards a request that is charged `tokens` where it succeeds, whatever its answer says.
    pub(super) async fn unseen(
        &self,
        leaving: Leaving<'_>,
        api: Api,
        tokens: u64,
        mut request: Request<Upload>,
        body: Bytes,
    ) -> Result<Response<Outgoing>, Deny> {
        let method = request.method().clone();
        let facts = json!({"method": method.as_str(), "path": leaving.path, "exchange": leaving.exchange.id(), "why": "unseen"});
        let asked = HoldRequest {
            id: uuid::Uuid::now_v7().to_string(),
            path: self.path.clone(),
            provider: self.provider.clone(),
            bottle: self.slug.clone(),
            agent: self.agent.clone(),
            run: self.run.clone(),
            api,
            host: leaving.named.text.clone(),
            model: String::new(),
            input: tokens,
            least: None,
            output: 0,
            counted: true,
            told: Vec::new(),
        };
        // Whatever comes of it, it was asked for: an answer that breaks off is charged as well.
        let mut hold = tokio::select! {
            biased;
            () = leaving.entered.wait_cancelled() => return Err(self.streams.reason(&leaving.entered)),
            hold = hold::reserve(&self.ledger, &self.keeping, asked, false, facts) => hold?.ok_or_else(not_counted)?,
        };
        leaving.entered.is_holding();
        hold.belongs_to(&leaving.exchange);
        let moved = Arc::clone(leaving.exchange.moved());
        *request.body_mut() = Upload::held([body], hold.written(), &moved);
        let answer = forward::send(leaving.client, request, &leaving.entered, &self.streams, &moved).await?;
        let status = answer.status();
        hold.answered(status.as_u16());
        leaving.can_read(&answer)?;
        if is_error(status) {
            self.note(&leaving, &method, status.as_u16()).await;
        } else {
            hold.plan(Settlement::AtEstimate { streamed: 0 }, Reading::default());
            hold.settle().await.map_err(|error| unavailable(&error))?;
            leaving.exchange.charged(status);
        }
        Ok(leaving.wrap::<L>(answer, None).await)
    }

    /// Forwards a request for an answer that was paid when it was asked for. What it says was used may raise what was charged then;
    /// an answer that this book knows nothing of passes, and costs nothing.
    pub(super) async fn stored(
        &self,
        leaving: Leaving<'_>,
        api: Api,
        request: Request<Upload>,
    ) -> Result<Response<Outgoing>, Deny> {
        let known = self.ledger.hold_of(api, &leaving.named.text, stored_id(leaving.path)).await;
        let Some(id) = known.map_err(|error| unavailable(&error))? else {
            return self.plain(leaving, request).await;
        };
        let method = request.method().clone();
        let facts = json!({"method": method.as_str(), "path": leaving.path, "exchange": leaving.exchange.id()});
        let moved = Arc::clone(leaving.exchange.moved());
        let answer = forward::send(leaving.client, request, &leaving.entered, &self.streams, &moved).await?;
        leaving.can_read(&answer)?;
        let status = answer.status();
        self.note(&leaving, &method, status.as_u16()).await;
        if is_error(status) {
            return Ok(leaving.wrap::<L>(answer, None).await);
        }
        let hold = OpenHold::ended(self.ledger.clone(), self.keeping.clone(), id, facts);
        let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let meter = Meter::new(api, text(header::CONTENT_TYPE), text(header::CONTENT_ENCODING));
        let meter = meter.within(Box::new(self.room.meter()));
        let look_ahead = text(header::CONTENT_LENGTH).is_some();
        Ok(leaving.wrap(answer, Some(Metering::new((api, meter), hold, status, look_ahead, 0))).await)
    }
}

/// Tells whether an answer says that nothing was done.
fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

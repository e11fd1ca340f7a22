//! What the client of a refused request gets to read, and how it comes to read it.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::body::Outgoing;
use super::deny::{Denial, Deny};
use super::spent;
use crate::types::Api;

/// Refusals of one bottle that wait until they are written; further ones are answered at once, and counted.
pub const AT_ONCE: usize = 256;
/// What is read of a refused request's body, so that its client hears the answer before a reset.
const DRAIN_BYTES: usize = 1 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Gets the answer of a refusal, in the words of `api` where it has some for it.
pub fn answer(api: Option<Api>, deny: &Deny) -> Response<Outgoing> {
    match (api, deny.kind) {
        (Some(api), Denial::BudgetExhausted | Denial::Cut) => {
            spent::answer(api, deny, jiff::Timestamp::now().as_second())
        }
        _ => deny.answer(),
    }
}

/// Reads on for a moment: a client that is still sending would otherwise meet a reset before it reads the answer.
pub async fn drain(body: Option<Incoming>) {
    let Some(mut body) = body.filter(|b| !b.is_end_stream()) else { return };
    let _ = tokio::time::timeout(DRAIN_TIME, async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DRAIN_BYTES {
                break;
            }
        }
    })
    .await;
}

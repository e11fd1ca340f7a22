//! What the client of a refused request gets to read, and how it comes to read it.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::body::Outgoing;
use super::deny::{Denial, Deny};
use super::oauth;
use super::spent;
use crate::api::LoginForm;
use crate::types::Api;

/// Refusals of one bottle that wait until they are written; further ones are answered at once, and counted.
pub const AT_ONCE: usize = 256;
/// What is read of a refused request's body, so that its client hears the answer before a reset.
const DRAIN_BYTES: usize = 1 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Gets the answer of a refusal, in the words of a login's `form` or of `api` where they have some for it.
pub fn answer(api: Option<Api>, form: Option<LoginForm>, deny: &Deny) -> Response<Outgoing> {
    if let Some(form) = form {
        return oauth::refused(form, deny);
    }
    match (api, deny.kind) {
        (Some(api), Denial::BudgetExhausted | Denial::Cut) => {
            spent::answer(api, deny, jiff::Timestamp::now().as_second())
        }
        (Some(api), Denial::LoginExpired) => oauth::expired(api, deny),
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

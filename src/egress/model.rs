//! Requests to a model API: known paths only, bodies held whole and read, tokens reserved before anything leaves.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::body::{Outgoing, Upload};
use super::coding::{self, Coding};
use super::deny::{Denial, Deny};
use super::forward;
use super::hold;
use super::request::{Leaving, Plane};
use super::tee::Metering;
use crate::api::Route;
use crate::ledger::{HoldRequest, Ledger};
use crate::meter::Meter;
use crate::meter::request::{PathClass, RequestFacts, Splice, asking_for_usage, classify, estimate_input, inspect};
use crate::types::{Api, ApiFamily};

/// Largest request body on a model route. Unit: bytes.
pub(super) const MAX_BODY: usize = 32 << 20;
/// Output reserved where a request does not say how much it allows itself. Unit: tokens.
const DEFAULT_OUTPUT: u64 = 4096;
/// Output reserved for an answer that is made in the background, where the request does not say how much it allows itself: as much as
/// models give, since nobody may ever fetch it. Unit: tokens.
const UNWATCHED_OUTPUT: u64 = 128_000;
/// More than any model gives: a request that says more is believed so far.
const MOST_OUTPUT: u64 = 1 << 30;
/// Largest body that is read without asking another thread. Unit: bytes.
const AT_ONCE: usize = 64 << 10;
/// How long a held body may stand still.
pub(super) const BODY_IDLE: Duration = Duration::from_secs(60);

/// What a path of a model API is to the meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spoken {
    /// The form of request and answer.
    pub(super) api: Api,
    /// What it spends.
    pub(super) spends: Spends,
}

/// What a request to a model API spends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spends {
    /// What its answer says.
    Metered,
    /// Nothing.
    Nothing,
    /// What an earlier request did, whose answer it asks for.
    Earlier,
    /// What nobody can see: it is charged so many counted tokens, as its route says.
    Unseen(u64),
}

/// Gets what a path of a host that speaks `family` is to the meter, or refuses it.
pub(super) fn class(family: ApiFamily, method: &str, host: &str, path: &str, route: &Route) -> Result<Spoken, Deny> {
    match classify(family, method, path) {
        PathClass::Metered(api) => Ok(Spoken { api, spends: Spends::Metered }),
        PathClass::Free(api) => Ok(Spoken { api, spends: Spends::Nothing }),
        // What was made in the background is the one answer that a client has to fetch.
        PathClass::Stored(api) => {
            reaches_nowhere(&["background".to_owned()], &route.server_tools)?;
            Ok(Spoken { api, spends: Spends::Earlier })
        }
        PathClass::Unknown if route.estimate.is_some() => {
            let unseen = route.estimate.filter(|_| !matches!(method, "GET" | "HEAD"));
            Ok(Spoken { api: family.usual(), spends: unseen.map_or(Spends::Nothing, Spends::Unseen) })
        }
        PathClass::Unknown => Err(Deny::new(
            Denial::MeteredPathUnknown,
            format!("bb: {method} of this path at {} is not known to the meter, so it is not passed.", host),
        )
        .step("the API's main paths work; for others the operator can say what one request is charged, by `estimate` of the route")),
    }
}

/// Reads what a body asks for, and refuses features by which the provider would reach out (decision 9).
fn features(api: Api, path: &str, body: &[u8], allowed: &[String]) -> Result<RequestFacts, Deny> {
    let facts = inspect(api, path, body).map_err(|error| {
        Deny::new(Denial::ProtocolUnknown, format!("bb: the request is not one of this API: {error}."))
    })?;
    reaches_nowhere(&facts.reaching, allowed)?;
    Ok(facts)
}

/// Does the same, and gets what is to be changed, where nobody else's requests wait for it: reading many megabytes keeps a processor busy, and the runtime's own
/// threads carry every bottle. `one` is the bottle's turn, which is its until all is read, whoever still waits for that.
async fn read(
    api: Api,
    path: &str,
    body: &Bytes,
    allowed: &[String],
    one: OwnedMutexGuard<()>,
) -> Result<(RequestFacts, Option<Splice>), Deny> {
    if body.len() <= AT_ONCE {
        return Ok((features(api, path, body, allowed)?, asking_for_usage(api, body)));
    }
    let (path, body, allowed) = (path.to_owned(), body.clone(), allowed.to_vec());
    let work = tokio::task::spawn_blocking(move || {
        let _one = one;
        Ok((features(api, &path, &body, &allowed)?, asking_for_usage(api, &body)))
    });
    let failed = |_| Err(Deny::new(Denial::ProtocolUnknown, "bb: the request could not be read."));
    work.await.unwrap_or_else(failed)
}

/// Refuses features by which the provider would reach out, but for those that the route allows by name.
pub(super) fn reaches_nowhere(reaching: &[String], allowed: &[String]) -> Result<(), Deny> {
    match reaching.iter().find(|tool| !allowed.contains(tool)) {
        Some(tool) => Err(Deny::new(
            Denial::ServerTool,
            format!("bb: {tool} makes the provider reach out for the agent, past the allow-list, so it is not passed."),
        )
        .rule(json!({"server_tools": [tool]}))
        .step("do it inside the bottle, or ask the operator to allow the feature by name")),
        None => Ok(()),
    }
}

/// Gets the most that one request may have, where the route says `most`. Unit: bytes.
pub(super) fn most_held(most: Option<u64>) -> usize {
    most.and_then(|most| usize::try_from(most).ok()).map_or(MAX_BODY, |most| most.min(MAX_BODY))
}

/// Refuses a body that is said to have more bytes than may be held.
pub(super) fn may_be_held(declared: u64, most: Option<u64>) -> Result<(), Deny> {
    let most = most_held(most);
    if usize::try_from(declared).is_ok_and(|declared| declared <= most) { Ok(()) } else { Err(too_large(most)) }
}

/// Gets the refusal of a request with more than `most` bytes.
pub(super) fn too_large(most: usize) -> Deny {
    Deny::new(Denial::BodyTooLarge, format!("bb: a request to this model API may have {most} bytes."))
}

impl<L: Ledger> Plane<L> {
    /// Forwards a request to a model API: its body is held whole and read, and its tokens are reserved.
    pub(super) async fn model(
        &self,
        leaving: Leaving<'_>,
        Spoken { api, spends }: Spoken,
        route: &Route,
        mut request: Request<Upload>,
        (body, coding): (&mut Option<Incoming>, Coding),
    ) -> Result<Response<Outgoing>, Deny> {
        let mut bytes = match body.take() {
            Some(incoming) => tokio::select! {
                biased;
                () = leaving.entered.wait_cancelled() => return Err(self.streams.reason(&leaving.entered)),
                held = self.hold_body(incoming, route.max_request) => held?,
            },
            None => Bytes::new(),
        };
        if coding == Coding::Zstd {
            bytes = tokio::select! {
                biased;
                () = leaving.entered.wait_cancelled() => return Err(self.streams.reason(&leaving.entered)),
                decoded = async {
                    let mut share = self.room.share();
                    coding::make_room(&bytes, route.max_request, &mut share).await?;
                    let _one = self.reading.lock().await;
                    coding::decode(&bytes, route.max_request, share).await
                } => decoded?,
            };
            // It goes on as it was read.
            request.headers_mut().remove(header::CONTENT_LENGTH);
        }
        if spends == Spends::Earlier {
            return self.stored(leaving, api, request).await;
        }
        if let Spends::Unseen(tokens) = spends {
            return self.unseen(leaving, api, tokens, request, bytes).await;
        }
        if spends == Spends::Nothing {
            if !bytes.is_empty() && route.estimate.is_none() {
                let one = Arc::clone(&self.reading).lock_owned().await;
                read(api, leaving.path, &bytes, &route.server_tools, one).await?;
            }
            *request.body_mut() = Upload::held([bytes], Arc::default(), leaving.exchange.moved());
            return self.plain(leaving, request).await;
        }
        let one = Arc::clone(&self.reading).lock_owned().await;
        let (asked, asking) = read(api, leaving.path, &bytes, &route.server_tools, one).await?;
        let input = estimate_input(bytes.len());
        let unasked = asking.is_some();
        let pieces = match asking {
            Some(splice) => {
                request.headers_mut().remove(header::CONTENT_LENGTH);
                // What came stays where it is, and has its room.
                vec![bytes.slice(..splice.start), Bytes::from(splice.text), bytes.slice(splice.end..)]
            }
            None => vec![bytes],
        };
        let method = request.method().clone();
        let facts = json!({"method": method.as_str(), "path": leaving.path, "exchange": leaving.exchange.id()});
        let reserve = self.reserve(api, &leaving.named.text, asked, input, facts);
        let mut hold = tokio::select! {
            biased;
            () = leaving.entered.wait_cancelled() => return Err(self.streams.reason(&leaving.entered)),
            hold = reserve => hold?,
        };
        leaving.entered.is_holding();
        hold.belongs_to(&leaving.exchange);
        let moved = Arc::clone(leaving.exchange.moved());
        *request.body_mut() = Upload::held(pieces, hold.written(), &moved);
        let answer = forward::send(leaving.client, request, &leaving.entered, &self.streams, &moved).await?;
        let status = answer.status();
        hold.answered(status.as_u16());
        leaving.can_read(&answer)?;
        if status.is_success() {
            leaving.exchange.charged(status);
        } else {
            self.note(&leaving, &method, status.as_u16()).await;
        }
        let text = |name| answer.headers().get(name).and_then(|v| v.to_str().ok());
        let content_type = text(header::CONTENT_TYPE);
        let meter = Meter::new(api, content_type, text(header::CONTENT_ENCODING)).within(Box::new(self.room.meter()));
        let look_ahead = text(header::CONTENT_LENGTH).is_some() || content_type.is_some_and(|t| t.contains("json"));
        let coded =
            text(header::CONTENT_ENCODING).is_some_and(|coding| !coding.trim().eq_ignore_ascii_case("identity"));
        let metering = Metering::new(meter, hold, status, look_ahead, input);
        // Of what a server has coded, though it was asked not to, nothing can be taken out.
        let metering = if unasked && !look_ahead && !coded { metering.without_usage_chunk() } else { metering };
        Ok(leaving.wrap(answer, Some(metering)).await)
    }

    /// Reserves the tokens of a request to `host`.
    pub(super) async fn reserve(
        &self,
        api: Api,
        host: &str,
        asked: RequestFacts,
        input: u64,
        facts: Value,
    ) -> Result<hold::OpenHold<L>, Deny> {
        let unwatched = asked.reaching.iter().any(|feature| feature == "background");
        let usual = if unwatched { UNWATCHED_OUTPUT } else { DEFAULT_OUTPUT };
        let request = HoldRequest {
            id: uuid::Uuid::now_v7().to_string(),
            path: self.path.clone(),
            provider: self.provider.clone(),
            bottle: self.slug.clone(),
            agent: self.agent.clone(),
            run: self.run.clone(),
            api,
            host: host.to_owned(),
            model: asked.model,
            input,
            output: asked.max_output.unwrap_or(usual).min(MOST_OUTPUT),
        };
        // Made in the background, it goes on when nobody reads it any more.
        hold::reserve(&self.ledger, &self.keeping, request, asked.stream && !unwatched, facts).await
    }

    /// Gets the whole body of a request, within its bounds of size, time and the bottle's room.
    pub(super) async fn hold_body(&self, mut body: Incoming, most: Option<u64>) -> Result<Bytes, Deny> {
        may_be_held(body.size_hint().lower(), most)?;
        let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let most = most_held(most);
        let mut share = self.room.share();
        share.grow(declared).await?;
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        loop {
            let frame = tokio::time::timeout(BODY_IDLE, body.frame())
                .await
                .map_err(|_| Deny::new(Denial::LimitIdle, "bb: the request's body stood still for a minute."))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| Deny::new(Denial::ProtocolUnknown, "bb: the request's body broke off."))?;
            let Ok(data) = frame.into_data() else { continue };
            let length = first.len() + rest.len() + data.len();
            if length > most {
                return Err(too_large(most));
            }
            share.grow(length).await?;
            if first.is_empty() && rest.is_empty() {
                first = data;
            } else {
                if rest.is_empty() {
                    rest.reserve(declared.max(length));
                    rest.extend_from_slice(&std::mem::take(&mut first));
                }
                rest.extend_from_slice(&data);
            }
        }
        Ok(share.of(if rest.is_empty() { first } else { rest.freeze() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lets_the_provider_reach_out_is_refused_unless_named() {
        let body =
            br#"{"model":"m","max_tokens":5,"mcp_servers":[{"type":"url","url":"https://x.example"}],"messages":[]}"#;
        assert_eq!(features(Api::Anthropic, "", body, &[]).unwrap_err().kind, Denial::ServerTool);
        let named = features(Api::Anthropic, "", body, &["mcp_servers".into()]).unwrap();
        assert_eq!(named.max_output, Some(5));
        // Another one's name opens nothing, and one of two does not.
        assert!(features(Api::Anthropic, "", body, &["web_search".into(), "mcp".into()]).is_err());
        let two =
            br#"{"model":"m","tools":[{"type":"web_search_20250305"}],"mcp_servers":[{"name":"x"}],"messages":[]}"#;
        let deny = features(Api::Anthropic, "", two, &["web_search".into()]).unwrap_err();
        assert_eq!(deny.rule_missing.as_deref(), Some(&json!({"server_tools": ["mcp_servers"]})));
        assert_eq!(features(Api::Anthropic, "", b"not json", &[]).unwrap_err().kind, Denial::ProtocolUnknown);
    }
}

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
use super::count;
use super::deny::{Denial, Deny};
use super::estimate::Estimate;
use super::forward;
use super::headroom;
use super::hold::{self, OpenHold, unavailable};
use super::reading;
use super::request::{Leaving, Plane};
use super::tee::{Edge, Metering};
use crate::api::{Headroom, Route};
use crate::budget;
use crate::ledger::{HoldRequest, Ledger, LedgerError, Weights};
use crate::meter::Meter;
use crate::meter::estimate::Content;
use crate::meter::request::{PathClass, RequestFacts, Splice, asking_for_usage, classify, inspect, lowering, telling};
use crate::types::{Api, ApiFamily, Tokens};

/// Largest request body on a model route. Unit: bytes.
pub(super) const MAX_BODY: usize = 32 << 20;
/// Output reserved where a request does not say how much it allows itself. Unit: tokens.
const DEFAULT_OUTPUT: u64 = 4096;
/// Output reserved for an answer that is made in the background, where the request does not say how much it allows itself: as much as
/// models give, since nobody may ever fetch it. Unit: tokens.
const UNWATCHED_OUTPUT: u64 = 128_000;
/// More than models give: a request that says more is believed so far. Else one that is refused upstream would hold all that others may use.
const MOST_OUTPUT: u64 = UNWATCHED_OUTPUT;
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

/// What was read of a body.
struct Read {
    facts: RequestFacts,
    /// What has it ask for its usage.
    asking: Option<Splice>,
    looked: Content,
}

/// A request whose tokens are to be reserved.
pub(super) struct Wanted {
    pub(super) facts: RequestFacts,
    pub(super) estimate: Estimate,
    /// Its provider was asked how many tokens its input has, or cannot be.
    pub(super) counted: bool,
}

/// Tells whether an answer is made in the background.
fn is_unwatched(asked: &RequestFacts) -> bool {
    asked.reaching.iter().any(|feature| feature == "background")
}

/// Gets the output of a request that does not say how much it allows itself, where nothing was learned. Unit: tokens.
pub(super) fn usual_output(asked: &RequestFacts) -> u64 {
    if is_unwatched(asked) { UNWATCHED_OUTPUT } else { DEFAULT_OUTPUT }
}

/// What cannot be: a request that was counted is to be counted.
pub(super) fn not_counted() -> Deny {
    unavailable(&LedgerError::Misuse("a request is to be counted twice".to_owned()))
}

/// Gets the output that `counted` tokens are.
fn unweighed(counted: u64, weights: &Weights) -> u64 {
    counted.saturating_mul(1000) / u64::from(weights.output.max(1))
}

/// Gets the pieces of a body with changes made. What came stays where it is, and has its room.
fn spliced(bytes: &Bytes, mut splices: Vec<Splice>) -> Vec<Bytes> {
    splices.sort_by_key(|splice| splice.start);
    let (mut pieces, mut at) = (Vec::with_capacity(2 * splices.len() + 1), 0);
    for splice in splices {
        pieces.push(bytes.slice(at..splice.start));
        pieces.push(Bytes::from(splice.text));
        at = splice.end;
    }
    pieces.push(bytes.slice(at..));
    pieces
}

/// Does the same, and gets what is to be changed, where nobody else's requests wait for it.
async fn read(api: Api, path: &str, body: &Bytes, allowed: &[String], one: OwnedMutexGuard<()>) -> Result<Read, Deny> {
    let (path, bytes, allowed) = (path.to_owned(), body.clone(), allowed.to_vec());
    let read = move || {
        let facts = features(api, &path, &bytes, &allowed)?;
        Ok(Read { facts, asking: asking_for_usage(api, &bytes), looked: Content::of(&bytes) })
    };
    reading::aside(body.len(), one, read).await.unwrap_or_else(|| Err(unread()))
}

/// Gets the refusal of a request that nobody could read.
pub(super) fn unread() -> Deny {
    Deny::new(Denial::ProtocolUnknown, "bb: the request could not be read.")
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
        let Read { facts: asked, asking, looked } = read(api, leaving.path, &bytes, &route.server_tools, one).await?;
        let unasked = asking.is_some();
        self.estimates.load(&self.ledger).await;
        let usual = usual_output(&asked);
        let estimate = self.estimates.estimate(looked, &asked.model, asked.max_output, usual);
        let mut wanted = Wanted { facts: asked, estimate, counted: false };
        let method = request.method().clone();
        let facts = json!({"method": method.as_str(), "path": leaving.path, "exchange": leaving.exchange.id()});
        // What is made of a conversation for later turns is to keep nothing of it.
        let may_tell = !leaving.path.ends_with("/compact");
        let tell = |sentence: &str| telling(api, &bytes, sentence).filter(|_| may_tell);
        let reserved = async {
            let first = self.reserved(&leaving, api, &mut wanted, (&request, &bytes), facts.clone()).await;
            match first {
                Ok((hold, lower)) => Ok((hold, lower, None, None)),
                // It is told in its own conversation where there is a place for that, and goes on; else by the refusal.
                Err(deny) => match (&deny.wraps_up, tell(&super::spent::aside(&deny.message))) {
                    (Some(account), Some(said)) => {
                        let again = self.reserved(&leaving, api, &mut wanted, (&request, &bytes), facts).await;
                        again.map(|(hold, lower)| (hold, lower, Some(said), Some(account.clone())))
                    }
                    _ => Err(deny),
                },
            }
        };
        let (mut hold, lower, wraps_up, account) = tokio::select! {
            biased;
            () = leaving.entered.wait_cancelled() => return Err(self.streams.reason(&leaving.entered)),
            reserved = reserved => reserved?,
        };
        let news = if wraps_up.is_none() { hold.news().and_then(|sentence| tell(&sentence)) } else { None };
        let tells = news.is_some();
        let tell = wraps_up.or(news);
        let splices: Vec<Splice> = asking.into_iter().chain(lower).chain(tell).collect();
        if !splices.is_empty() {
            request.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let input = wanted.estimate.input.all_input();
        leaving.entered.is_holding();
        hold.belongs_to(&leaving.exchange);
        let moved = Arc::clone(leaving.exchange.moved());
        *request.body_mut() = Upload::held(spliced(&bytes, splices), hold.written(), &moved);
        let answer = forward::send(leaving.client, request, &leaving.entered, &self.streams, &moved).await?;
        let status = answer.status();
        self.saw_headroom(&leaving.named.text, answer.headers()).await;
        hold.answered(status.as_u16());
        leaving.can_read(&answer)?;
        if let Some(account) = account.filter(|_| !status.is_success()) {
            hold.unheard(&account);
        }
        if status.is_success() {
            if tells {
                hold.heard();
            }
            leaving.exchange.charged(status);
        } else {
            self.note(&leaving, &method, status.as_u16()).await;
        }
        let text = |name| answer.headers().get(name).and_then(|v| v.to_str().ok());
        let content_type = text(header::CONTENT_TYPE);
        let meter = Meter::new(api, content_type, text(header::CONTENT_ENCODING)).within(Box::new(self.room.meter()));
        // A stream may be typed as JSON, too; it is passed on as it comes.
        let streams = hold.streams() && status.is_success();
        let json = content_type.is_some_and(|kind| kind.contains("json"));
        let look_ahead = text(header::CONTENT_LENGTH).is_some() || (json && !streams);
        let coded =
            text(header::CONTENT_ENCODING).is_some_and(|coding| !coding.trim().eq_ignore_ascii_case("identity"));
        // To what a server has coded, though it was asked not to, nothing can be added, and nothing be taken out of it.
        let edge = if streams && !coded { Edge::of(api, content_type) } else { Edge::Unknown };
        let metering = Metering::new((api, meter), hold, status, look_ahead, input).may_be_cut(edge);
        let metering = if unasked && !look_ahead && !coded { metering.without_usage_chunk() } else { metering };
        Ok(leaving.wrap(answer, Some(metering)).await)
    }

    /// Keeps what a provider said of its own limits, if it did. No answer fails for it.
    async fn saw_headroom(&self, host: &str, headers: &http::HeaderMap) {
        let now = jiff::Timestamp::now().as_millisecond();
        let windows = headroom::read(headers, now);
        if windows.is_empty() {
            return;
        }
        let seen = Headroom { provider: self.provider.clone(), host: host.to_owned(), seen: now, windows };
        if let Err(e) = self.ledger.saw_headroom(seen).await {
            tracing::debug!("headroom: {e}");
        }
    }

    /// Reserves the tokens of a request, once it is counted where a budget wants that. Gets the change that has it say no more than is
    /// held for it, where one is wanted.
    async fn reserved(
        &self,
        leaving: &Leaving<'_>,
        api: Api,
        wanted: &mut Wanted,
        (request, body): (&Request<Upload>, &Bytes),
        mut facts: Value,
    ) -> Result<(OpenHold<L>, Option<Splice>), Deny> {
        let host = &leaving.named.text;
        if let Some(hold) = self.reserve(api, host, wanted, facts.clone()).await? {
            return Ok((hold, None));
        }
        let (uri, headers, model) = (request.uri(), request.headers(), &wanted.facts.model);
        match self.count(leaving, count::Request { api, uri, headers, body, model }).await {
            Ok(tokens) => {
                wanted.estimate.is_counted(tokens);
                facts["input_counted"] = json!(tokens);
            }
            Err(why) => facts["not_counted"] = json!(why),
        }
        wanted.counted = true;
        // What it allows itself is what is held, as far as there is room; and then it allows itself no more.
        wanted.estimate.output = wanted.facts.max_output.unwrap_or(wanted.estimate.output);
        let mut hold = self.reserve(api, host, wanted, facts).await?.ok_or_else(not_counted)?;
        let said = hold.news().map_or(0, |sentence| sentence.len() as u64 / 2);
        let room = hold.held().saturating_sub(hold.input()).saturating_sub(said);
        let (bytes, output) = (body.clone(), unweighed(room, &self.ledger.weights()));
        let one = Arc::clone(&self.reading).lock_owned().await;
        let lower = reading::aside(body.len(), one, move || lowering(api, &bytes, output)).await;
        Ok((hold, lower.ok_or_else(unread)?))
    }

    /// Gets what one request of this bottle to `host` asks the ledger for, but for its tokens.
    pub(super) fn asks(&self, api: Api, host: &str) -> HoldRequest {
        HoldRequest {
            id: uuid::Uuid::now_v7().to_string(),
            path: self.path.clone(),
            provider: self.provider.clone(),
            bottle: self.slug.clone(),
            agent: self.agent.clone(),
            run: self.run.clone(),
            api,
            host: host.to_owned(),
            model: String::new(),
            input: 0,
            least: None,
            output: 0,
            counted: false,
            told: Vec::new(),
        }
    }

    /// Reserves the tokens of a request to `host`; `None` where it is to be counted first.
    pub(super) async fn reserve(
        &self,
        api: Api,
        host: &str,
        wanted: &Wanted,
        facts: Value,
    ) -> Result<Option<OpenHold<L>>, Deny> {
        let Wanted { facts: asked, estimate, counted } = wanted;
        // Holds are counted.
        let weights = self.ledger.weights();
        let weighed = |tokens: &Tokens| budget::counted(tokens, &weights);
        let request = HoldRequest {
            model: asked.model.clone(),
            input: weighed(&estimate.input),
            least: estimate.least.as_ref().map(weighed),
            output: weighed(&Tokens { output: estimate.output.min(MOST_OUTPUT), ..Tokens::default() }),
            counted: *counted,
            ..self.asks(api, host)
        };
        // Made in the background, it goes on when nobody reads it any more.
        let streams = asked.stream && !is_unwatched(asked);
        let hold = hold::reserve(&self.ledger, &self.keeping, request, streams, facts).await?;
        Ok(hold.map(|hold| hold.teaches(estimate.pupil.clone())))
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

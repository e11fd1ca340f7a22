//! The life of one request, in order; each step a function of its own.
//!
//! name once -> route -> upgrade, cut -> credential and headers -> (model routes: path class, body, features, hold) ->
//! forward -> tee. Any step may end it with a [`Deny`], which is written before its answer is sent. Nothing is looked
//! up, dialled or sent before all steps have passed.

use std::sync::Arc;
use std::time::Instant;

use http::{Method, Request, Response, Version, header};
use hyper::body::{Body, Incoming};
use tokio::sync::Semaphore;

use super::address::Gate;
use super::body::{Outgoing, Upload};
use super::coding;
use super::credential::Injection;
use super::deny::{Denial, Deny};
use super::echo::{self, Echo};
use super::estimate::Estimates;
use super::exchange::{self, Exchange};
use super::forward;
use super::headers::{self, Cleaning};
use super::hold::Keeping;
use super::link::{Link, Named, destination, name_once};
use super::model::class;
use super::policy::{Current, Policy, Towards};
use super::record::{Denied, MAX_PATH, Passed, Recorder, Tally, short};
use super::refused;
use super::room::{Room, Share};
use super::route::Asked;
use super::streams::{Entered, Streams, Subject};
use super::tee::{Keep, Metering, Tee};
use super::upstream::Upstreaming;
use super::websocket;
use crate::api::{LoginForm, Route};
use crate::ledger::{Ledger, Node};
use crate::meter::request::{form, speaks_socket};
use crate::types::{Api, ApiFamily};

/// Largest head of a request: address and headers. Unit: bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// What a head may have without room of its own: mostly they have far less. Unit: bytes.
const SMALL_HEAD: usize = 8 * 1024;

/// All that the requests of one bottle share.
pub struct Plane<L: Ledger> {
    /// Slug, for events and usage rows.
    pub slug: String,
    /// Budget key.
    pub provider: String,
    /// The API whose endpoint may count the tokens of its requests.
    pub counted_by: Option<Api>,
    /// Agent, for usage rows.
    pub agent: String,
    /// Run, for usage rows.
    pub run: Option<String>,
    /// Nodes that are charged, nearest first.
    pub path: Vec<Node>,
    /// What is allowed, and with what.
    pub policy: Current,
    /// What of it does not change.
    pub towards: Towards,
    /// The ledger.
    pub ledger: L,
    /// What its requests are estimated by.
    pub estimates: Arc<Estimates>,
    /// What holds need.
    pub keeping: Keeping,
    /// Where events go.
    pub recorder: Arc<Recorder>,
    /// Connections of the bottle: a WebSocket stays one when its connection is none of the listener's any more.
    pub connections: Arc<Tally>,
    /// What is under way, and the cut.
    pub streams: Arc<Streams>,
    /// Room for what has to be held.
    pub room: Room,
    /// Held while a body is looked at: what is known of it takes memory, too, so it is one at a time.
    pub reading: Arc<tokio::sync::Mutex<()>>,
    /// Places for refusals that wait until they are written.
    pub refusing: Semaphore,
    /// HTTP/2 connections that may send much ahead.
    pub wide: Arc<Semaphore>,
    /// Which destinations are admitted.
    pub gate: Gate,
}

/// Refuses methods that are not about a resource of the host.
pub(super) fn method(method: &Method) -> Result<(), Deny> {
    // NONE stands in routes that allow nothing.
    if *method == Method::CONNECT || *method == Method::TRACE || method.as_str() == "NONE" {
        return Err(Deny::new(Denial::Method, format!("bb: {method} is not passed."))
            .step("connect directly: no proxy is needed in a bottle"));
    }
    Ok(())
}

/// Gets the size of a head; refuses what hyper let through because it came in large pieces, or by HTTP/2.
pub(super) fn head_size<B>(head: &Request<B>) -> Result<usize, Deny> {
    let path = head.uri().path_and_query().map_or(0, |p| p.as_str().len());
    // HTTP/2 has a count of its own (RFC 9113, 6.5.2).
    let line = if head.version() == Version::HTTP_2 { 32 } else { 0 };
    let size = head.headers().iter().fold(path, |sum, (name, value)| sum + name.as_str().len() + value.len() + line);
    if size > MAX_HEAD {
        return Err(Deny::new(
            Denial::LimitHeaders,
            format!("bb: the request's head is larger than {MAX_HEAD} bytes."),
        ));
    }
    Ok(size)
}

/// Finds room for a large head: as it came, and as it is sent on.
fn small_head(head: &Request<()>, room: &Room) -> Result<Share, Deny> {
    let size = head_size(head)?;
    let mut share = room.share();
    if size > SMALL_HEAD && !share.try_grow(3 * size) {
        return Err(Deny::new(Denial::LimitBodies, "bb: too many requests with large heads are under way at once.")
            .step("wait for some of them to end"));
    }
    Ok(share)
}

/// Tells whether the bottle is cut for this route.
pub(super) fn not_cut(streams: &Streams, metered: bool) -> Result<(), Deny> {
    match streams.refuses(metered) {
        Some(cut) => Err(cut.deny.clone()),
        None => Ok(()),
    }
}

/// Refuses a WebSocket of a model API where the meter reads none.
pub(super) fn no_socket(family: ApiFamily, path: &str) -> Result<(), Deny> {
    if speaks_socket(family, path) {
        return Ok(());
    }
    Err(Deny::new(Denial::Upgrade, "bb: this API has no WebSocket here that the meter reads.")
        .step("fall back to HTTP streaming"))
}

/// Refuses a body of `length` bytes where a route allows less.
pub(super) fn fits(route: &Route, host: &str, length: u64) -> Result<(), Deny> {
    match route.max_request.filter(|most| length > *most) {
        Some(most) => Err(Deny::new(
            Denial::BodyTooLarge,
            format!("bb: the route to {host} allows request bodies of {most} bytes."),
        )),
        None => Ok(()),
    }
}

/// What a refusal's event and answer need to know.
struct Facts {
    method: Method,
    path: String,
    host: String,
    /// The API, once the route is known.
    api: Option<Api>,
    /// Whose token endpoint it is, once that is known.
    oauth: Option<LoginForm>,
    /// It asked to become a WebSocket.
    websocket: bool,
    /// When it came.
    began: Instant,
    /// What it is, once it was allowed.
    exchange: Option<Arc<Exchange>>,
}

impl<L: Ledger> Plane<L> {
    /// Answers one request. Never fails: a refusal is an answer, too.
    pub async fn answer(self: &Arc<Self>, link: &Link, request: Request<Incoming>) -> Response<Outgoing> {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let policy = self.policy.get();
        let waits = head.headers().contains_key(header::EXPECT);
        let mut facts = Facts {
            method: head.method().clone(),
            path: short(head.uri().path(), MAX_PATH).to_owned(),
            host: String::new(),
            api: None,
            oauth: None,
            websocket: false,
            began: Instant::now(),
            exchange: None,
        };
        let mut body = Some(body);
        match self.pass(&policy, link, head, &mut body, &mut facts).await {
            Ok(answer) => answer,
            Err(deny) => {
                // Who waits for `100 Continue` has not begun to send, and shall not be told to.
                let body = if waits { None } else { body };
                match self.refusing.try_acquire() {
                    Ok(_place) => self.refuse(link, &facts, body, &deny).await,
                    Err(_) => self.refuse_at_once(link, &facts, &deny),
                }
            }
        }
    }

    async fn pass(
        self: &Arc<Self>,
        policy: &Policy,
        link: &Link,
        mut head: Request<()>,
        body: &mut Option<Incoming>,
        facts: &mut Facts,
    ) -> Result<Response<Outgoing>, Deny> {
        method(head.method())?;
        let _head = small_head(&head, &self.room)?;
        let named = name_once(link, &head)?;
        facts.host.clone_from(&named.text);
        destination(self.gate, link, &named)?;
        let entered = self.streams.enter()?;
        link.carries(&entered.stream());
        let websocket = websocket::asked(&head)?;
        facts.websocket = websocket;
        let upgrade = websocket.then(|| hyper::upgrade::on(&mut head));
        // As they would be sent on: a header that its sender has dropped on the way (`Connection: NAME`) is none.
        let sent = policy.asks_for_headers().then(|| headers::request(head.headers(), Cleaning::Plain));
        let allowed = policy.check(Asked {
            host: &named.host,
            port: link.destination.port(),
            tls: link.tls,
            method: head.method().as_str(),
            path: head.uri().path(),
            headers: sent.as_ref().unwrap_or(head.headers()),
            websocket,
        })?;
        let route = &allowed.route;
        entered.is_about(Subject {
            named: Arc::clone(&named),
            port: link.destination.port(),
            tls: link.tls,
            method: Some(head.method().clone()),
            uri: head.uri().clone(),
            headers: sent.clone(),
            websocket,
            route: Arc::clone(route),
        });
        // The allow-list may have changed since; then whoever changed it did not find this request yet.
        if !self.policy.is(policy) {
            self.streams.withdraw(&self.policy.get());
        }
        let exchange = Exchange::begin(
            &self.recorder,
            exchange::Subject {
                method: head.method().to_string(),
                scheme: link.scheme(),
                named: Arc::clone(&named),
                port: link.destination.port(),
                path: short(&allowed.path, MAX_PATH).to_owned(),
                route: Arc::clone(route),
                proxied: link.is_proxied(),
            },
        );
        facts.exchange = Some(Arc::clone(&exchange));
        facts.api = route.api.map(|family| form(family, head.method().as_str(), &allowed.path));
        if route.api.is_some() {
            entered.is_metered();
        }
        not_cut(&self.streams, route.api.is_some())?;
        if let Some(name) = &route.oauth {
            let holder = policy.credentials.login(name)?;
            facts.oauth = Some(holder.form());
            return self.token(policy, holder, &head, body, &exchange).await;
        }
        let put_in = self.put_in(policy, route).await?;
        let injection = put_in.as_deref();
        let cleaning = match (&route.api, injection) {
            (Some(_), _) => Cleaning::Model,
            (None, Some(_)) => Cleaning::Credential,
            (None, None) => Cleaning::Plain,
        };
        let query = head.uri().query().map(|q| headers::query(q, cleaning));
        let uri = forward::address(link.tls, named.authority.clone(), &allowed.path, query.as_deref())?;
        let mut clean = headers::request(head.headers(), cleaning);
        if let Some(injection) = injection {
            injection.put(&mut clean);
        }
        let leaving = Leaving {
            link,
            named: &named,
            path: &allowed.path,
            route,
            client: &policy.client,
            injection,
            entered,
            exchange,
        };
        match route.api {
            _ if websocket => {
                route.api.map_or(Ok(()), |api| no_socket(api, &allowed.path))?;
                websocket::offer(&mut clean, head.headers(), cleaning);
                let mut request = Request::new(());
                *request.method_mut() = head.method().clone();
                *request.uri_mut() = uri;
                *request.headers_mut() = clean;
                self.websocket(leaving, &policy.connector, request, upgrade).await
            }
            Some(family) => {
                let coding = coding::of(head.headers())?;
                let spoken = class(family, head.method().as_str(), &named.text, &allowed.path, route)?;
                self.model(
                    leaving,
                    spoken,
                    route,
                    forward::outbound(head.method().clone(), uri, clean, Upload::Empty),
                    (body, coding),
                )
                .await
            }
            None => {
                fits(route, &named.text, body.as_ref().map_or(0, |body| body.size_hint().lower()))?;
                let upload = match body.take() {
                    Some(inner) if !inner.is_end_stream() => Upload::Streaming {
                        inner,
                        moved: Arc::clone(leaving.exchange.moved()),
                        stream: leaving.entered.stream(),
                        cleaning,
                        left: route.max_request,
                    },
                    _ => Upload::Empty,
                };
                let request = forward::outbound(head.method().clone(), uri, clean, upload);
                self.plain(leaving, request).await
            }
        }
    }

    /// Forwards a request that costs no tokens.
    pub(super) async fn plain(
        &self,
        leaving: Leaving<'_>,
        request: Request<Upload>,
    ) -> Result<Response<Outgoing>, Deny> {
        let method = request.method().clone();
        let moved = leaving.exchange.moved();
        let answer = forward::send(leaving.client, request, &leaving.entered, &self.streams, moved).await?;
        leaving.can_read(&answer)?;
        if let Some(most) = leaving.route.max_response
            && answer.body().size_hint().lower() > most
        {
            return Err(Deny::new(
                Denial::ResponseTooLarge,
                format!("bb: the route to {} allows answers of {most} bytes.", leaving.named.text),
            ));
        }
        self.note(&leaving, &method, answer.status().as_u16()).await;
        Ok(leaving.wrap::<L>(answer, None).await)
    }

    /// Writes that a request passed.
    pub(super) async fn note(&self, leaving: &Leaving<'_>, method: &Method, status: u16) {
        let passed = Passed {
            exchange: leaving.exchange.id(),
            method: method.as_str(),
            scheme: leaving.link.scheme(),
            host: &leaving.named.text,
            port: leaving.link.destination.port(),
            path: leaving.path,
            status,
            took: leaving.exchange.took(),
        };
        leaving.exchange.noted(status, self.recorder.passed(passed).await);
    }

    /// Writes a refusal, then gives its answer.
    async fn refuse(&self, link: &Link, facts: &Facts, body: Option<Incoming>, deny: &Deny) -> Response<Outgoing> {
        tokio::join!(self.recorder.deny(self.denied(link, facts, deny)), refused::drain(body));
        refused::answer(facts.api, facts.oauth, deny)
    }

    /// Refuses where nothing more can be waited with: neither for the event to be written nor for a client that still sends.
    fn refuse_at_once(&self, link: &Link, facts: &Facts, deny: &Deny) -> Response<Outgoing> {
        self.recorder.deny_limited(self.denied(link, facts, deny));
        refused::answer(facts.api, facts.oauth, deny)
    }

    /// Gets the event of a refusal.
    fn denied(&self, link: &Link, facts: &Facts, deny: &Deny) -> Denied {
        let host = match (&link.sni, facts.host.is_empty()) {
            (_, false) => facts.host.clone(),
            (Some(Ok(sni)), true) => sni.to_string(),
            _ => link.meant(),
        };
        let up = facts.exchange.as_ref().map_or(0, |exchange| {
            exchange.refused();
            exchange.moved().up()
        });
        let denied = Denied::new(link.scheme(), host, link.destination.port(), deny)
            .request(facts.method.as_str(), &facts.path)
            .took(facts.began.elapsed(), up);
        if facts.websocket { denied.websocket() } else { denied }
    }
}

/// A request that has passed its checks.
pub(super) struct Leaving<'a> {
    /// The connection it came on.
    pub link: &'a Link,
    /// Its name.
    pub named: &'a Named,
    /// Its path, as it is sent on.
    pub path: &'a str,
    /// The route that allows it.
    pub route: &'a crate::api::Route,
    /// What sends it.
    pub client: &'a Upstreaming,
    /// The credential put in.
    pub injection: Option<&'a Injection>,
    /// Its place among the requests under way.
    pub entered: Entered,
    /// What becomes of it.
    pub exchange: Arc<Exchange>,
}

impl Leaving<'_> {
    /// Refuses an answer in which an echo of the credential could not be found.
    pub fn can_read(&self, answer: &Response<Incoming>) -> Result<(), Deny> {
        if self.injection.is_none_or(|injection| injection.redactor().is_none()) || answer.body().is_end_stream() {
            return Ok(());
        }
        echo::readable(answer.headers())
    }

    /// Makes the answer to the bottle from upstream's.
    pub async fn wrap<L: Ledger>(
        self,
        answer: Response<Incoming>,
        metering: Option<Metering<L>>,
    ) -> Response<Outgoing> {
        let (mut parts, incoming) = answer.into_parts();
        if let Some(injection) = self.injection {
            injection.answered(parts.status, metering.is_some());
        }
        let keep = Keep { credential: self.injection.is_some(), names: self.route.keep_headers.clone() };
        forward::clean_head(&mut parts.headers, self.injection, &keep.names);
        let echo = self.injection.and_then(|injection| Echo::new(&parts.headers, || injection.redactor()));
        let most = self.route.max_response;
        let tee = Tee::<L>::new(incoming, metering, (echo, keep), most, self.entered, self.exchange);
        let mut out = Response::new(Outgoing::Passing(Box::pin(tee.what_is_there().await)));
        *out.status_mut() = parts.status;
        *out.headers_mut() = parts.headers;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_and_trace_are_refused() {
        assert_eq!(method(&Method::CONNECT).unwrap_err().kind, Denial::Method);
        assert_eq!(method(&Method::TRACE).unwrap_err().kind, Denial::Method);
        assert!(method(&Method::PATCH).is_ok());
    }
}

//! Requests that have to do with a login: they get its token as it is now, or are asked of its token endpoint, which is answered here.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, header};
use hyper::body::{Body, Incoming};

use super::{Holder, Way};
use crate::api::Route;
use crate::egress::body::{self, Outgoing};
use crate::egress::credential::{Injection, Source};
use crate::egress::deny::{Denial, Deny};
use crate::egress::exchange::{Exchange, Over};
use crate::egress::oauth;
use crate::egress::policy::Policy;
use crate::egress::request::Plane;
use crate::ledger::Ledger;

/// A credential for one request.
pub enum PutIn<'a> {
    /// One that was given at the launch.
    Fixed(&'a Injection),
    /// A login's.
    Login(Arc<Injection>),
}

impl Deref for PutIn<'_> {
    type Target = Injection;

    fn deref(&self) -> &Injection {
        match self {
            PutIn::Fixed(injection) => injection,
            PutIn::Login(injection) => injection,
        }
    }
}

impl<L: Ledger> Plane<L> {
    /// Gets what `route` puts in, if anything.
    pub(in crate::egress) async fn put_in<'a>(
        &self,
        policy: &'a Policy,
        route: &Route,
    ) -> Result<Option<PutIn<'a>>, Deny> {
        Ok(match policy.credentials.of(route)? {
            None => None,
            Some(Source::Fixed(injection)) => Some(PutIn::Fixed(injection)),
            Some(Source::Login(holder)) => Some(PutIn::Login(holder.current(&self.way(policy)).await?.injection())),
        })
    }

    fn way(&self, policy: &Policy) -> Way {
        Way { connector: policy.connector.clone(), recorder: Arc::clone(&self.recorder) }
    }

    /// Answers a request at the token endpoint of a login. Nothing of it is sent on.
    pub(in crate::egress) async fn token(
        &self,
        policy: &Policy,
        holder: &Arc<Holder>,
        head: &Request<()>,
        body: &mut Option<Incoming>,
        exchange: &Exchange,
    ) -> Result<Response<Outgoing>, Deny> {
        if head.headers().contains_key(header::CONTENT_ENCODING) {
            return Err(Deny::new(Denial::ProtocolUnknown, "bb: a coded request for a token is not read."));
        }
        let most = u64::try_from(oauth::MOST).ok();
        let bytes = match body.take() {
            Some(incoming) => self.hold_body(incoming, most).await.map_err(|deny| match deny.kind {
                Denial::BodyTooLarge => oauth::too_large(),
                _ => deny,
            })?,
            None => Bytes::new(),
        };
        let kind = head.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        oauth::asked(holder.form(), kind, &bytes)?;
        let held = holder.current(&self.way(policy)).await?;
        let answer = oauth::granted(holder.form(), held.left());
        let length = usize::try_from(answer.body().size_hint().lower()).unwrap_or_default();
        exchange.moved().count(body::Way::Up, bytes.len());
        exchange.moved().count(body::Way::Down, length);
        exchange.passed(answer.status().as_u16()).await;
        exchange.over(Over::Whole);
        Ok(answer)
    }
}

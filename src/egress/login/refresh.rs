//! Asking the real token endpoint, once: by the way out of the bottle whose request needs it, bounded and timed.
//!
//! It says nothing of what was sent or came, and tries nothing again.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use secrecy::SecretString;
use tokio::sync::watch;

use super::file::Tokens;
use crate::api::LoginForm;
use crate::egress::deny::{Denial, Deny};
use crate::egress::oauth::MOST;
use crate::egress::oauth::endpoint::{self, Fresh, NoTokens};
use crate::egress::upstream::Connector;

/// Time for the request and its whole answer, once there is a connection.
pub const ANSWER: Duration = Duration::from_secs(10);

/// Why there are no fresh tokens.
#[derive(Debug)]
pub enum Refused {
    /// The refresh token is good for nothing any more.
    Gone,
    /// Not now.
    Failed(Deny),
}

/// Asks for fresh tokens. Once it is told to `stop` nothing is sent any more: nobody would be there to keep what comes.
pub async fn ask(
    form: LoginForm,
    tokens: &Tokens,
    refresh: &SecretString,
    way: &Connector,
    mut stop: watch::Receiver<bool>,
) -> Result<Fresh, Refused> {
    let to = endpoint::of(form);
    let failed = |kind: Denial, why: &str| {
        let message = format!("bb: the host's login could not be refreshed at {}: {why}.", to.host);
        Refused::Failed(Deny::new(kind, message).step("try again in a moment"))
    };
    let broken = || failed(Denial::UpstreamUnreachable, "the connection broke off");
    let uri = Uri::builder().scheme("https").authority(to.host).path_and_query(to.path).build();
    let uri = uri.map_err(|_| broken())?;
    let stopping = || failed(Denial::UpstreamUnreachable, "bb is being stopped");
    let stopped = stop.clone();
    let stream = tokio::select! {
        biased;
        () = async { let _ = stop.wait_for(|stop| *stop).await; } => return Err(stopping()),
        // Why it cannot be reached is told by whoever dials, with the host's name in it.
        stream = way.tunnel(&uri) => stream.map_err(|error| Refused::Failed(Deny::from(error)))?,
    };
    let body = endpoint::request(form, refresh, tokens.client.as_deref(), tokens.scope.as_deref());
    let answered = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|_| broken())?;
        tokio::spawn(connection);
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(to.path);
        for (name, value) in [
            (header::HOST, to.host),
            (header::CONTENT_TYPE, "application/json"),
            (header::ACCEPT, "application/json"),
            (header::ACCEPT_ENCODING, "identity"),
            (header::USER_AGENT, concat!("bb/", env!("CARGO_PKG_VERSION"))),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        if *stopped.borrow() {
            return Err(stopping());
        }
        let answer = sender.send_request(request).await.map_err(|_| broken())?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MOST).collect().await;
        let body = body.map_err(|_| failed(Denial::UpstreamUnreachable, "its answer broke off, or is too large"))?;
        Ok((status, body.to_bytes()))
    };
    let late = |_| failed(Denial::UpstreamUnreachable, "no answer within 10 s");
    let (status, body) = tokio::time::timeout(ANSWER, answered).await.map_err(late)??;
    endpoint::answer(form, status, &body).map_err(|why| match why {
        NoTokens::Gone => Refused::Gone,
        NoTokens::Status(status) => failed(Denial::UpstreamUnreachable, &format!("it answered {status}")),
        NoTokens::Shape(what) => failed(Denial::UpstreamUnreachable, &format!("its answer is none: {what}")),
    })
}

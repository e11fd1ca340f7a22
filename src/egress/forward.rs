//! Sending an allowed request upstream and handing its answer back.
//!
//! Everything was decided before; this file only builds the request that leaves, waits for the answer's head, and
//! wraps its body. Errors are told apart by whether they are about resolving, reaching or trusting the server.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, Uri};
use hyper::body::Incoming;

use super::body::{BodyError, Idle, Moved, Upload};
use super::credential::Injection;
use super::deny::{Denial, Deny};
use super::dial::DialError;
use super::headers;
use super::streams::{Entered, Streams};
use super::tee::SILENCE;
use super::upstream::Upstreaming;

/// Builds the address of the request that leaves.
pub fn address(tls: bool, authority: Authority, path: &str, query: Option<&str>) -> Result<Uri, Deny> {
    let unusable = || Deny::new(Denial::Path, "bb: the request's path cannot be sent on.");
    if !path.starts_with('/') {
        return Err(unusable());
    }
    let text = match query {
        Some(query) if !query.is_empty() => [path, "?", query].concat(),
        _ => path.to_owned(),
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority);
    parts.path_and_query = Some(PathAndQuery::try_from(text).map_err(|_| unusable())?);
    Uri::from_parts(parts).map_err(|_| unusable())
}

/// Builds the request that leaves.
pub fn outbound(method: Method, uri: Uri, headers: HeaderMap, body: Upload) -> Request<Upload> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

/// Sends `request` and waits for the head of its answer.
pub async fn send(
    client: &Upstreaming,
    request: Request<Upload>,
    entered: &Entered,
    streams: &Streams,
    moved: &Arc<Moved>,
) -> Result<Response<Incoming>, Deny> {
    let mut sent = client.request(request);
    moved.mark();
    let mut idle = Idle::new(Arc::clone(moved), SILENCE);
    poll_fn(|cx| {
        if entered.poll_cancelled(cx) {
            return Poll::Ready(Err(streams.reason(entered)));
        }
        if let Poll::Ready(answer) = Pin::new(&mut sent).poll(cx) {
            return Poll::Ready(answer.map_err(|error| refusal(&error)));
        }
        if idle.poll_idle(cx) {
            return Poll::Ready(Err(Deny::new(
                Denial::LimitIdle,
                "bb: the upstream server said nothing for ten minutes.",
            )));
        }
        Poll::Pending
    })
    .await
}

/// Gets the refusal that an error of the client is.
fn refusal(error: &(dyn Error + 'static)) -> Deny {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(dial) = error.downcast_ref::<DialError>() {
            return dial.clone().into();
        }
        if let Some(BodyError::TooLarge) = error.downcast_ref::<BodyError>() {
            return Deny::new(Denial::BodyTooLarge, "bb: the request's body is larger than the route allows.");
        }
        cause = error.source();
    }
    Deny::new(Denial::UpstreamUnreachable, "bb: the connection to the upstream server broke before it answered.")
        .step("try again")
}

/// Cleans the head of an answer: hop-by-hop headers, ways past the plane, echoes of the credential.
pub fn clean_head(headers: &mut HeaderMap, injection: Option<&Injection>, keep: &[String]) {
    headers::answer(headers, injection.is_some(), keep);
    if let Some(injection) = injection {
        injection.redact_headers(headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_made_of_checked_parts_only() {
        let authority = Authority::from_static("a.example:8443");
        let uri = address(true, authority.clone(), "/x", Some("a=1")).unwrap();
        assert_eq!(uri.to_string(), "https://a.example:8443/x?a=1");
        assert_eq!(address(false, authority.clone(), "/x", Some("")).unwrap().to_string(), "http://a.example:8443/x");
        assert_eq!(address(true, authority, "*", None).unwrap_err().kind, Denial::Path);
    }

    #[test]
    fn the_reason_of_a_failed_dial_is_found_inside_the_clients_error() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] DialError);
        let outer = Outer(DialError::new(Denial::PrivateAddress, "private"));
        assert_eq!(refusal(&outer).kind, Denial::PrivateAddress);
        assert_eq!(refusal(&std::io::Error::other("x")).kind, Denial::UpstreamUnreachable);
    }
}

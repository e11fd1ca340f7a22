//! Asking the provider how many tokens a request has, where a budget wants to know exactly: by the same host, route and credential, after
//! the same checks. It costs nothing, and what it cannot tell within two seconds is estimated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};

use super::body::{Moved, Upload};
use super::request::{Leaving, Plane};
use super::route::Asked;
use super::{forward, reading};
use crate::ledger::Ledger;
use crate::meter::request::count;
use crate::types::Api;

/// How long the answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer. Unit: bytes.
const MOST: usize = 64 << 10;

/// Why the provider has not told: the word of a `usage` event for it.
pub(super) type Silent = String;

/// The request that is to be counted, as it would be sent.
pub(super) struct Request<'a> {
    pub(super) api: Api,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
    pub(super) model: &'a str,
}

impl<L: Ledger> Plane<L> {
    /// Asks how many tokens the input of a request has.
    ///
    /// # Errors
    /// [`Silent`]: the estimate counts then.
    pub(super) async fn count(&self, leaving: &Leaving<'_>, request: Request<'_>) -> Result<u64, Silent> {
        let api = request.api;
        if self.counted_by != Some(api) {
            return Err("not to be asked".to_owned());
        }
        let path = count::path(api, leaving.path).ok_or("no endpoint")?;
        let policy = self.policy.get();
        let allowed = policy.check(Asked {
            host: &leaving.named.host,
            port: leaving.link.destination.port(),
            tls: leaving.link.tls,
            method: Method::POST.as_str(),
            path: &path,
            headers: request.headers,
            websocket: false,
        });
        // Another route may have another credential, or none.
        if !allowed.is_ok_and(|allowed| allowed.route.auth == leaving.route.auth) {
            return Err("no route".to_owned());
        }
        let (body, model) = (request.body.clone(), request.model.to_owned());
        let one = Arc::clone(&self.reading).lock_owned().await;
        let question = move || count::question(api, &body, &model);
        let body = reading::aside(request.body.len(), one, question).await.flatten().ok_or("unreadable")?;
        let authority = request.uri.authority().cloned().ok_or("no address")?;
        let uri = forward::address(leaving.link.tls, authority, &path, None).map_err(|_| "no address")?;
        let mut headers = request.headers.clone();
        headers.remove(header::CONTENT_LENGTH);
        let moved = Moved::new();
        let asked = async {
            // Others may fill the room for longer than is waited for an answer.
            let mut share = self.room.share();
            share.grow(body.len()).await.map_err(|_| "no room")?;
            let upload = Upload::held([share.of(Bytes::from(body))], Arc::default(), &moved);
            let request = forward::outbound(Method::POST, uri, headers, upload);
            let answer = forward::send(leaving.client, request, &leaving.entered, &self.streams, &moved).await;
            let answer = answer.map_err(|deny| deny.kind.as_str().to_owned())?;
            match answer.status() {
                StatusCode::OK => {
                    let body = Limited::new(answer.into_body(), MOST).collect().await.map_err(|_| "broken")?;
                    count::answer(api, &body.to_bytes()).ok_or_else(|| "unreadable".to_owned())
                }
                status => Err(status.as_u16().to_string()),
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    }
}

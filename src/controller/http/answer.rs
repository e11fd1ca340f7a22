//! What the controller's socket answers with: JSON, a refusal, or lines as they come.
//!
//! Knows no call and decides nothing; which status an error has is a table by its kind.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

use crate::controller::stream::Line;
use crate::error::{Error, Kind, Result};

/// A body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

fn answer(status: StatusCode, body: String, form: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(form));
    response
}

/// A value as JSON.
pub(super) fn ok(value: &impl Serialize) -> Result<Response<Body>> {
    let body = serde_json::to_string(value).map_err(|e| Error::internal(e.to_string()))?;
    Ok(answer(StatusCode::OK, body, "application/json"))
}

/// An error as JSON, under the status of its kind.
pub(super) fn refusal(error: &Error) -> Response<Body> {
    let status = match error.kind {
        Kind::Usage | Kind::UnknownKey | Kind::AmbiguousSlug | Kind::WorkspaceUnsafe => StatusCode::BAD_REQUEST,
        Kind::NoSuchBottle => StatusCode::NOT_FOUND,
        Kind::Budget | Kind::Policy | Kind::Approval | Kind::NotGranted => StatusCode::FORBIDDEN,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::CONFLICT,
    };
    answer(status, json!({ "error": error }).to_string(), "application/json")
}

/// Makes a response out of lines that are sent as they come.
pub(super) fn lines(from: mpsc::Receiver<Line>) -> Response<Body> {
    let frames = stream::unfold(from, |mut from| async move {
        let line = from.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), from))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/x-ndjson"));
    response
}

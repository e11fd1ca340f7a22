//! The session of a BuildKit build: the engine calls back over a connection that was opened to it, and is handed the build's
//! secrets, by name, and nothing else.
//!
//! gRPC over HTTP/2 with the roles turned around (moby/buildkit, `session`). The secrets stay in this process's memory; the
//! engine shows each to the one step that asks for it, in memory too. Knows nothing of images.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, BufReader, Cursor};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::http::{HeaderMap, HeaderValue, Response};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt;
use zeroize::Zeroizing;

use super::http::{self, Request};
use super::protobuf::{self, Fields};

/// Secrets by the name by which a Dockerfile asks for them.
pub type Secrets = BTreeMap<&'static str, Zeroizing<String>>;

/// Longest message of the engine's.
const LONGEST: usize = 64 << 10;

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";

/// Status codes of gRPC.
const OK: u8 = 0;
const NOT_FOUND: u8 = 5;
const UNIMPLEMENTED: u8 = 12;

/// A session; it ends when it is dropped.
pub struct Session {
    connection: UnixStream,
    server: Option<std::thread::JoinHandle<()>>,
}

impl Session {
    /// Opens the session `id` with the engine behind `socket`; `path` is that of its API.
    ///
    /// # Errors
    /// Those of the socket; `Other` with the engine's words where it knows no sessions.
    pub fn open(socket: &Path, path: &str, id: &str, secrets: Secrets, patience: Duration) -> io::Result<Session> {
        let request = Request { method: "POST", path, content_type: "application/json", body: b"" };
        let methods = [HEALTH, SECRET].map(|method| format!("X-Docker-Expose-Session-Grpc-Method: {method}"));
        let to = format!(
            "Upgrade\r\nUpgrade: h2c\r\nX-Docker-Expose-Session-Uuid: {id}\r\nX-Docker-Expose-Session-Name: bb\r\n\
             X-Docker-Expose-Session-Sharedkey: {id}\r\n{}",
            methods.join("\r\n")
        );
        let reader = http::upgrade(socket, request, patience, &to)?;
        reader.get_ref().set_write_timeout(None)?;
        let connection = reader.get_ref().try_clone()?;
        let server = std::thread::Builder::new().name("build-session".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            if let Err(e) = runtime.block_on(serve(reader, Arc::new(secrets))) {
                tracing::debug!(error = %e, "a build's session ended");
            }
        })?;
        Ok(Session { connection, server: Some(server) })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.connection.shutdown(Shutdown::Both);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

async fn serve(reader: BufReader<UnixStream>, secrets: Arc<Secrets>) -> io::Result<()> {
    // What the engine has said already comes first.
    let ahead = reader.buffer().to_vec();
    let stream = reader.into_inner();
    stream.set_nonblocking(true)?;
    let (from, to) = tokio::net::UnixStream::from_std(stream)?.into_split();
    let io = tokio::io::join(Cursor::new(ahead).chain(from), to);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let secrets = Arc::clone(&secrets);
        async move {
            let method = request.uri().path().to_owned();
            let body = Limited::new(request.into_body(), LONGEST).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            Ok::<_, Infallible>(respond(answer(&method, &body, &secrets)))
        }
    });
    let served =
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service);
    served.await.map_err(io::Error::other)
}

/// Decides what a call is answered with: a message, or a status that is no success.
fn answer(method: &str, body: &[u8], secrets: &Secrets) -> Result<Zeroizing<Vec<u8>>, u8> {
    match method {
        // SERVING
        HEALTH => Ok(Zeroizing::new(vec![0x08, 1])),
        SECRET => {
            // A message comes behind a flag and its length.
            let message = body.get(5..).unwrap_or_default();
            let wanted = Fields::of(message).find(|(field, _)| *field == 1).map(|(_, id)| id.text());
            let found = wanted.and_then(|wanted| secrets.get(wanted.as_str()));
            found.map(|secret| Zeroizing::new(protobuf::bytes(1, secret.as_bytes()))).ok_or(NOT_FOUND)
        }
        _ => Err(UNIMPLEMENTED),
    }
}

fn respond(
    answer: Result<Zeroizing<Vec<u8>>, u8>,
) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + Send> {
    let (status, message) = match answer {
        Ok(message) => {
            let length = u32::try_from(message.len()).unwrap_or_default();
            (OK, [&[0u8][..], &length.to_be_bytes(), &message].concat())
        }
        Err(status) => (status, Vec::new()),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    let body = Full::new(Bytes::from(message)).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_had_by_its_name_and_nothing_else_is() {
        let secrets = Secrets::from([("npmrc", Zeroizing::new("token".to_owned()))]);
        let ask = |id: &str| {
            let message = protobuf::bytes(1, id.as_bytes());
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            answer(SECRET, &[&[0u8][..], &length, &message].concat(), &secrets)
        };
        assert_eq!(ask("npmrc").unwrap()[..], protobuf::bytes(1, b"token"));
        for other in ["", "npm", "../npmrc"] {
            assert_eq!(ask(other).unwrap_err(), NOT_FOUND, "{other}");
        }
        assert_eq!(answer(SECRET, b"", &secrets).unwrap_err(), NOT_FOUND);
        assert_eq!(answer("/moby.filesync.v1.FileSync/DiffCopy", b"", &secrets).unwrap_err(), UNIMPLEMENTED);
        assert_eq!(answer(HEALTH, b"", &secrets).unwrap()[..], [8, 1]);
    }
}

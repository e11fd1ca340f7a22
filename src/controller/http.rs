//! The controller's socket: HTTP and JSON on top, calls of the controller below (docs/controller-api.md).
//!
//! No decisions: a path and a body become one call, its answer becomes a response.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::live::Live;
use super::stream::{self as follow, Line, Wanted};
use super::{Controller, input, ledger_error, peer};
use crate::api::{
    Act, Apply, Bottle, Commit, Copy, DiffQuery, Ended, Exec, Input, Launch, Prune, Resize, Run, Signal, SignalName,
    Stop, UsageQuery,
};
use crate::bottle::wire::{Command, Reply, Request as Ask};
use crate::enforce::By;
use crate::error::{Error, Kind, Result};
use crate::ledger::{EventQuery, Ledger};
use crate::types::Book;

/// Largest body. A launch carries prompts and placeholder files, nothing bigger.
const BODY_MAX: usize = 8 << 20;

/// How often a lease's connection says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(2);

type Body = BoxBody<Bytes, Infallible>;

/// Accepts connections until aborted.
pub async fn serve(controller: Arc<Controller>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if peer::may_talk(&stream) => {
                tokio::spawn(connection(Arc::clone(&controller), stream));
            }
            Ok(_) => tracing::warn!("a connection from another user or namespace was refused"),
            Err(e) => {
                tracing::error!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(controller: Arc<Controller>, stream: UnixStream) {
    controller.connections.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted(Arc::clone(&controller.connections));
    let service = hyper::service::service_fn(move |request| {
        let controller = Arc::clone(&controller);
        async move {
            Ok::<_, Infallible>(match route(&controller, request).await {
                Ok(response) => response,
                Err(error) => refusal(&error),
            })
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(e) = served {
        tracing::debug!("connection: {e}");
    }
}

fn answer(status: StatusCode, body: String, form: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(form));
    response
}

fn ok(value: &impl Serialize) -> Result<Response<Body>> {
    let body = serde_json::to_string(value).map_err(|e| Error::internal(e.to_string()))?;
    Ok(answer(StatusCode::OK, body, "application/json"))
}

fn refusal(error: &Error) -> Response<Body> {
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
fn lines(from: mpsc::Receiver<Line>) -> Response<Body> {
    let frames = stream::unfold(from, |mut from| async move {
        let line = from.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(line))), from))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(SyncStream(Box::pin(frames)))));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/x-ndjson"));
    response
}

/// A stream that is only ever polled by its one owner, which is all that `Sync` asks for here.
struct SyncStream<S>(std::pin::Pin<Box<S>>);

// SAFETY: a shared reference to this type gives no access to the stream: every method takes `&mut`.
unsafe impl<S> Sync for SyncStream<S> {}

impl<S: stream::Stream> stream::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

/// Reads a JSON body. Unknown keys are refused by the types; the nearest known one is named.
async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T> {
    let bytes = Limited::new(body, BODY_MAX)
        .collect()
        .await
        .map_err(|e| Error::new(Kind::Usage, format!("the body cannot be read: {e}")))?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|e| {
        let text = e.to_string();
        let Some((_, rest)) = text.split_once("unknown field `") else {
            return Error::new(Kind::Usage, format!("the body is not what this call takes: {text}"));
        };
        let mut quoted = rest.split('`').step_by(2);
        let given = quoted.next().unwrap_or_default();
        let error = Error::new(Kind::UnknownKey, format!("unknown key `{given}`"));
        match crate::error::nearest(given, quoted) {
            Some(known) => error.hint(format!("did you mean `{known}`?")),
            None => error,
        }
    })
}

/// Gets the query of a URI, percent-decoded.
fn query(request: &Request<Incoming>) -> HashMap<String, String> {
    let text = request.uri().query().unwrap_or_default();
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), percent_decoded(v))).collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let decoded = match (first, tail) {
            (b'%', [high, low, ..]) => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|h| u8::from_str_radix(h, 16).ok())
            }
            _ => None,
        };
        bytes.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn book(query: &HashMap<String, String>) -> Book {
    if query.get("book").is_some_and(|b| b == "rehearsal") { Book::Rehearsal } else { Book::Real }
}

fn flag(query: &HashMap<String, String>, name: &str) -> bool {
    query.get(name).is_some_and(|v| v == "1" || v == "true")
}

fn number(query: &HashMap<String, String>, name: &str) -> Result<Option<u64>> {
    query
        .get(name)
        .map(|v| v.parse().map_err(|_| Error::new(Kind::Usage, format!("`{name}` is not a whole number"))))
        .transpose()
}

async fn route(controller: &Arc<Controller>, request: Request<Incoming>) -> Result<Response<Body>> {
    let query = query(&request);
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let post = request.method() == Method::POST;
    if !post && request.method() != Method::GET {
        return Err(Error::new(Kind::Usage, "only GET and POST are spoken here"));
    }
    match (post, parts.as_slice()) {
        (false, ["v1", "version"]) => ok(&controller.version()),
        (true, ["v1", "stop"]) => {
            controller.ask_to_stop();
            ok(&json!({}))
        }
        (false, ["v1", "leases", id]) => {
            controller.ready().await;
            Ok(hold_lease(controller, id))
        }
        (true, ["v1", "runs"]) => {
            let run: Run = read(request.into_body()).await?;
            ok(&json!({ "accounts": controller.run(run).await? }))
        }
        (true, ["v1", "prune"]) => {
            controller.ready().await;
            let prune: Prune = read(request.into_body()).await?;
            ok(&json!({ "removed": controller.prune(prune.dry_run).await? }))
        }
        (true, ["v1", "usage", "query"]) => {
            ok(&controller.usage(read::<UsageQuery>(request.into_body()).await?).await?)
        }
        (false, ["v1", "budgets"]) => {
            let ledger = controller.ledger(book(&query)).await?;
            let accounts = ledger.accounts(query.get("node").map(String::as_str)).await;
            ok(&json!({ "accounts": accounts.map_err(|e| ledger_error(&e, &controller.host.home.ledger()))? }))
        }
        (false, ["v1", "events"]) => {
            let ledger = controller.ledger(book(&query)).await?;
            let wanted =
                EventQuery { since: 0, bottle: query.get("bottle").cloned(), run: query.get("run").cloned(), max: 0 };
            let since = number(&query, "since")?;
            let (to, from) = mpsc::channel(64);
            tokio::spawn(follow::events(ledger, wanted, since, flag(&query, "follow"), to));
            Ok(lines(from))
        }
        (post, ["v1", "bottles", rest @ ..]) => {
            controller.ready().await;
            bottles(controller, request, &query, post, rest).await
        }
        _ => Err(Error::new(Kind::Usage, format!("there is no call {} {path}", request.method()))),
    }
}

async fn bottles(
    controller: &Arc<Controller>,
    request: Request<Incoming>,
    query: &HashMap<String, String>,
    post: bool,
    rest: &[&str],
) -> Result<Response<Body>> {
    // What an agent changed and what is left of a bottle can be asked for whether it runs or has ended.
    match (post, rest) {
        (true, [name, "diff"]) => {
            let query: DiffQuery = read(request.into_body()).await?;
            return ok(&controller.diff(name, query).await?);
        }
        (true, [name, "apply"]) => {
            let apply: Apply = read(request.into_body()).await?;
            return ok(&controller.apply(name, apply).await?);
        }
        (true, [name, "rm"]) => {
            let _act: Act = read(request.into_body()).await?;
            return ok(&controller.remove(name).await?);
        }
        (false, [name, "session"]) => {
            return ok(&controller.session(name)?);
        }
        (false, [name, "inspect"]) => return ok(&controller.inspect(name).await?),
        _ => {}
    }
    if let [name, call @ ..] = rest
        && controller.find(name).map_or(true, |live| live.slug != *name)
    {
        // Whoever asks about a bottle may have seen it end under an earlier controller. A whole name goes before a beginning.
        match (controller.find_ended(name).await, controller.find(name)) {
            (Ok(bottle), _) => match call {
                [] | ["wait" | "cut" | "kill" | "stop"] => return ok(&bottle),
                ["logs"] => return Ok(logs_of_ended(controller, &bottle, query)),
                _ => return Err(controller.over(&bottle.slug)),
            },
            (Err(_), Ok(_)) => {}
            (Err(error), Err(_)) => return Err(error),
        }
    }
    match (post, rest) {
        (false, []) => ok(&json!({ "bottles": controller.list(flag(query, "all")).await? })),
        (true, []) => {
            let launch: Launch = read(request.into_body()).await?;
            ok(&controller.launch(launch).await?)
        }
        (false, [name]) => ok(&controller.find(name)?.view()),
        (false, [name, "wait"]) => {
            let live = controller.find(name)?;
            let limit = Duration::from_millis(number(query, "ms")?.unwrap_or(60_000).min(600_000));
            let _ = tokio::time::timeout(limit, live.ended()).await;
            ok(&live.view())
        }
        (true, [name, "cut"]) => {
            let act: Act = read(request.into_body()).await?;
            let live = controller.find(name)?;
            let reason = act.reason.unwrap_or_else(|| "cut by the operator".to_owned());
            live.cut_off(act.scope.unwrap_or(live.cut_scope), &reason, By::Operator).await?;
            ok(&live.view())
        }
        (true, [name, "kill"]) => {
            let act: Act = read(request.into_body()).await?;
            let live = controller.find(name)?;
            let reason = act.reason.unwrap_or_else(|| "killed by the operator".to_owned());
            live.end(Ended::Killed, &reason, By::Operator, None);
            let _ = tokio::time::timeout(Duration::from_secs(10), live.ended()).await;
            ok(&live.view())
        }
        (true, [name, "freeze"]) => {
            let act: Act = read(request.into_body()).await?;
            let live = controller.find(name)?;
            live.freeze(&act.reason.unwrap_or_else(|| "frozen by the operator".to_owned()), By::Operator, None).await?;
            ok(&live.view())
        }
        (true, [name, "commit"]) => {
            let commit: Commit = read(request.into_body()).await?;
            let live = controller.find(name)?;
            live.commit(commit.image).await?;
            ok(&live.view())
        }
        (true, [name, "copy"]) => {
            let copy: Copy = read(request.into_body()).await?;
            ok(&controller.copy(name, copy).await?)
        }
        (true, [name, "pause"]) => {
            let act: Act = read(request.into_body()).await?;
            let live = controller.find(name)?;
            let reason = act.reason.unwrap_or_else(|| "paused by the operator".to_owned());
            live.pause(&reason, By::Operator, None).await?;
            ok(&live.view())
        }
        (true, [name, "thaw"]) => {
            let _act: Act = read(request.into_body()).await?;
            let live = controller.find(name)?;
            live.thaw(By::Operator).await?;
            ok(&live.view())
        }
        (true, [name, "stop"]) => {
            let stop: Stop = read(request.into_body()).await?;
            let live = controller.find(name)?;
            live.stop(Duration::from_millis(stop.timeout_ms.min(600_000)), stop.reason.as_deref()).await?;
            ok(&live.view())
        }
        (true, [name, "exec"]) => {
            let exec: Exec = read(request.into_body()).await?;
            start_exec(controller, name, exec, query).await
        }
        (true, [name, "signal"]) => {
            let signal: Signal = read(request.into_body()).await?;
            send_signal(controller, name, &signal).await
        }
        (true, [name, "input"]) => {
            let piece: Input = read(request.into_body()).await?;
            ok(&input::feed(&*living(controller, name)?, piece).await?)
        }
        (true, [name, "resize"]) => {
            let resize: Resize = read(request.into_body()).await?;
            ok(&input::resize(&*living(controller, name)?, &resize).await?)
        }
        (false, [name, "logs"]) => {
            let exec = number(query, "exec")?.map(|n| n as u32);
            let wanted = Wanted { exec, follow: flag(query, "follow"), ..wanted(query)? };
            let (to, from) = mpsc::channel(64);
            tokio::spawn(follow::output(controller.find(name)?, wanted, to));
            Ok(lines(from))
        }
        _ => Err(Error::new(Kind::Usage, "there is no such call on a bottle")),
    }
}

/// What is left of the output of a bottle that ended under an earlier controller, or whose front end is gone.
fn logs_of_ended(controller: &Arc<Controller>, bottle: &Bottle, query: &HashMap<String, String>) -> Response<Body> {
    let (to, from) = mpsc::channel(64);
    let log = controller.host.home.state(&bottle.slug).join("output.log");
    let (controller, bottle) = (Arc::clone(controller), bottle.clone());
    let wanted = wanted(query).unwrap_or_default();
    tokio::spawn(async move {
        if log.exists() {
            follow::Reader::new(log, wanted).send(&to).await;
        } else if wanted.since == 0 {
            follow::tail(&controller, &bottle, &to).await;
        }
    });
    lines(from)
}

/// Finds a bottle that can be done something with.
fn living(controller: &Controller, name: &str) -> Result<Arc<Live>> {
    let live = controller.find(name)?;
    if live.has_ended() { Err(controller.over(&live.slug)) } else { Ok(live) }
}

/// Reads what of an output is wanted, less the exec.
fn wanted(query: &HashMap<String, String>) -> Result<Wanted> {
    let since = number(query, "since")?.unwrap_or(0);
    let last = number(query, "last")?.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    Ok(Wanted { since, last, raw: flag(query, "raw"), ..Wanted::default() })
}

async fn start_exec(
    controller: &Arc<Controller>,
    name: &str,
    exec: Exec,
    query: &HashMap<String, String>,
) -> Result<Response<Body>> {
    let asked = wanted(query)?;
    let live = living(controller, name)?;
    let mut env = live.env.clone();
    env.extend(exec.env);
    if exec.terminal.is_some() {
        input::name_terminal(&mut env);
    }
    let now = *live.output.borrow();
    let id = exec.id;
    let command = Command {
        id: id.clone(),
        argv: exec.argv,
        env: env.into_iter().map(|(k, v)| format!("{k}={v}")).collect(),
        cwd: exec.cwd.unwrap_or_else(|| live.view().workspace),
        stdin: exec.stdin,
        input: exec.input,
        terminal: exec.terminal,
    };
    input::check(&live, &command)?;
    if serde_json::to_vec(&command).map_or(usize::MAX, |b| b.len()) > crate::bottle::wire::MAX_PACKET - 1024 {
        return Err(Error::new(Kind::Usage, "the command, its environment and input are larger than 63 KiB")
            .hint("put the input into a file of the workspace"));
    }
    match live.link.ask(Ask::Exec(command)).await? {
        (Reply::Started { exec, .. }, _) => {
            // One that was asked for before is told from its beginning, or from where its reader stopped.
            let since = if live.note_exec(&id, exec) { now } else { asked.since };
            let (to, from) = mpsc::channel(64);
            tokio::spawn(follow::output(live, Wanted { since, exec: Some(exec), follow: true, ..asked }, to));
            Ok(lines(from))
        }
        (Reply::Failed { error }, _) => Err(error),
        (other, _) => Err(Error::internal(format!("unexpected answer {other:?}"))),
    }
}

async fn send_signal(controller: &Arc<Controller>, name: &str, signal: &Signal) -> Result<Response<Body>> {
    let live = controller.find(name)?;
    let exec = live.exec(&signal.exec).ok_or_else(|| {
        Error::new(Kind::Usage, format!("the bottle has no exec `{}`", signal.exec)).hint("name the id of an exec")
    })?;
    let number = match signal.signal {
        SignalName::Hup => libc::SIGHUP,
        SignalName::Int => libc::SIGINT,
        SignalName::Term => libc::SIGTERM,
        SignalName::Kill => libc::SIGKILL,
    };
    // A refusal says that it has ended meanwhile, which is as good.
    live.link.ask(Ask::Signal { exec, signal: number }).await?;
    ok(&json!({}))
}

/// Holds a lease for as long as the connection is open.
fn hold_lease(controller: &Arc<Controller>, id: &str) -> Response<Body> {
    let holding = controller.leases.hold(id);
    let (to, from) = mpsc::channel(1);
    tokio::spawn(async move {
        let _holding = holding;
        loop {
            // A closed connection is noticed when the server drops the body, or at the next word at the latest.
            if to.send("{}\n".to_owned()).await.is_err() {
                return;
            }
            tokio::select! {
                () = to.closed() => return,
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
        }
    });
    lines(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page and this file name the same calls, method and path.
    #[test]
    fn the_page_about_the_api_names_the_calls_that_are_served() {
        let page = include_str!("../../docs/controller-api.md");
        let rows = page.lines().filter_map(|l| l.strip_prefix("| `")?.split(['`', '?']).next());
        let literal = |s: &str| s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let named: std::collections::BTreeSet<String> = rows
            .filter(|call| call.starts_with("GET /v1") || call.starts_with("POST /v1"))
            .map(|call| {
                call.split('/').map(|s| if literal(s) || s.ends_with(' ') { s } else { "*" }).collect::<Vec<_>>()
            })
            .map(|segments| segments.join("/"))
            .collect();
        let (calls, of_bottles) = include_str!("http.rs").split_once("async fn bottles(").unwrap();
        let arms = |code: &str, under: &str| {
            let arms = code.lines().map(str::trim_start).filter_map(|l| l.strip_prefix('(')?.split_once(") => "));
            let arms = arms
                .filter_map(|(arm, _)| arm.split_once(", [").map(|(post, path)| (post.to_owned(), path.to_owned())));
            let mut served = vec![];
            for (post, path) in
                arms.filter(|(post, path)| matches!(post.as_str(), "true" | "false") && path.ends_with(']'))
            {
                let method = if post == "true" { "POST " } else { "GET " };
                let path = path.trim_end_matches(']').split(", ").filter(|s| !s.is_empty());
                let path = path.map(|s| if s.starts_with('"') { s.trim_matches('"') } else { "*" });
                served.push(
                    std::iter::once(method)
                        .chain(under.split_terminator('/'))
                        .chain(path)
                        .collect::<Vec<_>>()
                        .join("/"),
                );
            }
            served
        };
        let mut served: std::collections::BTreeSet<String> = arms(calls, "").into_iter().collect();
        served.extend(arms(of_bottles.split_once("\n}\n").unwrap().0, "v1/bottles"));
        assert_eq!(named, served);
    }

    #[test]
    fn a_query_may_be_percent_encoded_and_need_not_be() {
        assert_eq!(percent_decoded("run%3Aabc"), "run:abc");
        assert_eq!(percent_decoded("run:abc"), "run:abc");
        assert_eq!(percent_decoded("100%"), "100%");
    }
}

//! The controller's socket: HTTP and JSON on top, calls of the controller below (docs/controller-api.md).
//!
//! No decisions: a path and a body become one call, its answer becomes a response.

mod answer;
mod bottles;
mod budgets;
mod ledger;
mod question;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use answer::{Body, lines, ok, refusal};
use question::{book, flag, number, query, read};

use super::stream as follow;
use super::{Controller, peer};
use crate::api::{Prune, Run, UsageQuery};
use crate::error::{Error, Kind, Result};
use crate::ledger::EventQuery;

/// How often a lease's connection says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(2);

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

async fn route(controller: &Arc<Controller>, request: Request<Incoming>) -> Result<Response<Body>> {
    let query = query(&request);
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let post = request.method() == Method::POST;
    if !post && request.method() != Method::GET {
        return Err(Error::new(Kind::Usage, "only GET and POST are spoken here"));
    }
    match (post, parts.as_slice()) {
        (false, ["v1", "version"]) => ok(&controller.version().await),
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
        (false, ["v1", "budgets"]) => budgets::list(controller, &query).await,
        (true, ["v1", "budgets"]) => budgets::change(controller, request).await,
        (false, ["v1", "ledger", "verify"]) => {
            ok(&ledger::verify(controller, book(&query), query.get("expect").map(String::as_str)).await?)
        }
        (false, ["v1", "ledger", "export"]) => ledger::export(controller, book(&query)).await,
        (true, ["v1", "ledger", "backup"]) => ok(&ledger::backup(controller, &read(request.into_body()).await?).await?),
        (true, ["v1", "ledger", "prune"]) => ok(&ledger::prune(controller, &read(request.into_body()).await?).await?),
        (false, ["v1", "headroom"]) => ok(&json!({ "headroom": ledger::headroom(controller, book(&query)).await? })),
        (false, ["v1", "events"]) => {
            let ledger = controller.ledger(book(&query)).await?;
            let (bottle, run) = (query.get("bottle").cloned(), query.get("run").cloned());
            let after = number(&query, "after")?.map_or(0, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
            let wanted = EventQuery { bottle, run, after, ..EventQuery::default() };
            let since = number(&query, "since")?;
            let (to, from) = mpsc::channel(64);
            tokio::spawn(follow::events(ledger, wanted, since, flag(&query, "follow"), to));
            Ok(lines(from))
        }
        (post, ["v1", "bottles", rest @ ..]) => {
            controller.ready().await;
            bottles::bottles(controller, request, &query, post, rest).await
        }
        _ => Err(Error::new(Kind::Usage, format!("there is no call {} {path}", request.method()))),
    }
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
        let (calls, of_bottles) = (include_str!("http.rs"), include_str!("http/bottles.rs"));
        let of_bottles = of_bottles.split_once("async fn bottles(").unwrap().1;
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
}

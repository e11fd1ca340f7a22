//! The typed client of the controller's socket: one method for each call of docs/controller-api.md.
//!
//! Every front end goes through it; there is no other way to a controller. It starts one where none runs, and takes up
//! again what a dying controller interrupted: every call is safe to send twice (POSTs carry an id of the client's), and
//! streams go on where they stopped. It must not decide anything about bottles or budgets, and must not print.

mod budgets;
mod inside;
mod ledger;
mod start;
mod stream;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use crate::api::{self, Account, Act, Bottle, Commit, Launch, Run, UsageQuery, UsageReport, Version};
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::types::Book;

pub use stream::{Events, ExecFrames, Lease, LogFilter};
use wire::{Failure, Request};

/// How long an interrupted call is taken up again before its error is shown.
const PATIENCE: Duration = Duration::from_secs(15);

/// An attempt that lasted as long as this had a controller; what breaks it is a new fault.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// How long an ordinary call may take to be answered.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a container's home may take to be saved, and its bottle to end.
const SAVING: Duration = Duration::from_secs(600);

/// How long a launch may take: the keeper, the namespaces and the agent's process.
const LAUNCH: Duration = Duration::from_secs(60);

/// How long the files of a workspace may be looked at.
const FILES: Duration = Duration::from_secs(600);
/// The same where a container engine makes the bottle.
const ENGINE_LAUNCH: Duration = Duration::from_secs(200);

/// One leg of a wait; longer waits are made of several.
const WAIT_LEG: Duration = Duration::from_secs(20);

/// A client of one home's controller. Cheap to clone; every call has a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    home: Home,
    /// Whether a controller may be started when there is none.
    may_start: bool,
    /// Of the API that the controller speaks.
    revision: u32,
}

/// Which events to read; see [`Client::events`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// The book.
    pub book: Book,
    /// Only `seq > since`; from now on when absent.
    pub since: Option<u64>,
    /// One bottle's slug.
    pub bottle: Option<String>,
    /// One run.
    pub run: Option<String>,
    /// Only what was written then or later. Unit: milliseconds since the epoch.
    pub after: Option<i64>,
    /// Stay and wait for more.
    pub follow: bool,
}

impl Client {
    /// Connects to the controller of `home`; returns `None` where none runs. Never starts one.
    ///
    /// # Errors
    /// `controller_silent` where one holds the lock but does not answer, `controller_version` where it speaks another
    /// API.
    pub async fn connect(home: &Home) -> Result<Option<Client>> {
        match start::probe(home).await {
            Ok(version) => {
                start::check_major(&version)?;
                Ok(Some(Client { home: home.clone(), may_start: false, revision: version.revision }))
            }
            Err(Failure::Unreachable(_)) if start::lock_is_held(home) => Err(start::silent(home)),
            Err(Failure::Unreachable(_)) => Ok(None),
            Err(Failure::TimedOut) => Err(start::silent(home)),
            Err(failure) => Err(failure.into_error(home)),
        }
    }

    /// Connects to the controller of `home`, starting one if none answers.
    ///
    /// # Errors
    /// As [`Client::connect`], and what kept a new controller from starting.
    pub async fn connect_or_start(home: &Home) -> Result<Client> {
        let revision = start::ensure(home).await?.revision;
        Ok(Client { home: home.clone(), may_start: true, revision })
    }

    /// Gets the home whose controller this is.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// `GET /v1/version`.
    ///
    /// # Errors
    /// What the controller answers, or that it does not.
    pub async fn version(&self) -> Result<Version> {
        self.call(Request::get("/v1/version")).await
    }

    /// `GET /v1/bottles`: the running ones, or all that are known.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn bottles(&self, all: bool) -> Result<Vec<Bottle>> {
        let path = if all { "/v1/bottles?all=1" } else { "/v1/bottles" };
        self.call_field(Request::get(path), "bottles").await
    }

    /// `GET /v1/bottles/S`, with S a slug or a unique prefix of one.
    ///
    /// # Errors
    /// `no_such_bottle`, `ambiguous_slug`, or as [`Client::version`].
    pub async fn bottle(&self, slug: &str) -> Result<Bottle> {
        self.call(Request::get(format!("/v1/bottles/{}", wire::encode(slug)))).await
    }

    /// `POST /v1/bottles`: launches; returns when the agent's process runs.
    ///
    /// # Errors
    /// What kept it from starting; `controller_version` where an older controller does not know all of it.
    pub async fn launch(&self, launch: &Launch) -> Result<Bottle> {
        let copies = launch.workspace_mode == Some(api::WorkspaceMode::Copy);
        let patience = match launch.backend.as_deref() {
            _ if copies => FILES,
            Some("docker") => ENGINE_LAUNCH,
            _ => LAUNCH,
        };
        let launch = launch.for_revision(self.revision);
        self.call(Request::post("/v1/bottles", launch.as_ref())?.within(patience)).await.map_err(|error: Error| {
            let older = error.kind == Kind::UnknownKey && self.revision < api::API_REVISION;
            if older { start::older(&error) } else { error }
        })
    }

    /// Waits until a bottle has ended, or `deadline` has passed: then returns `None`.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn wait(&self, slug: &str, deadline: Option<Instant>) -> Result<Option<Bottle>> {
        let slug = wire::encode(slug);
        loop {
            let left = deadline.map_or(WAIT_LEG, |d| d.saturating_duration_since(Instant::now()).min(WAIT_LEG));
            let path = format!("/v1/bottles/{slug}/wait?ms={}", left.as_millis());
            let bottle: Bottle = self.call(Request::get(path).within(left + ANSWER)).await?;
            if bottle.state == api::State::Ended {
                return Ok(Some(bottle));
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                return Ok(None);
            }
        }
    }

    /// `POST /v1/bottles/S/cut`.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn cut(&self, slug: &str, act: &Act) -> Result<Bottle> {
        self.call(Request::post(format!("/v1/bottles/{}/cut", wire::encode(slug)), act)?).await
    }

    /// `GET /v1/bottles/S/routes`: the allow-list in force.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn routes(&self, slug: &str) -> Result<api::Routes> {
        self.call(Request::get(format!("/v1/bottles/{}/routes", wire::encode(slug)))).await
    }

    /// `POST /v1/bottles/S/routes`: puts another allow-list in force.
    ///
    /// # Errors
    /// As [`Client::bottle`]; `usage` and `credential_missing` for a list that cannot be meant or served.
    pub async fn change_routes(&self, slug: &str, change: &api::RoutesChange) -> Result<api::Routes> {
        self.call(Request::post(format!("/v1/bottles/{}/routes", wire::encode(slug)), change)?).await
    }

    /// `GET /v1/bottles/S/why`: what would become of a request.
    ///
    /// # Errors
    /// As [`Client::bottle`]; `usage` where it has no way out at this moment; `controller_version` where an older controller would
    /// not look at the headers.
    pub async fn why(&self, slug: &str, unsent: &api::Unsent) -> Result<api::Verdict> {
        if !unsent.headers.is_empty() && self.revision < api::HEADERS_ASKED {
            return Err(start::older(&Error::new(Kind::UnknownKey, "headers of the request")));
        }
        let (slug, url, method) = (wire::encode(slug), wire::encode(&unsent.url), wire::encode(&unsent.method));
        let headers: String = unsent.headers.iter().map(|line| format!("&header={}", wire::encode(line))).collect();
        self.call(Request::get(format!("/v1/bottles/{slug}/why?url={url}&method={method}{headers}"))).await
    }

    /// `GET /v1/bottles/S/session`: what is kept of a bottle that can be taken up again, with its whole name.
    ///
    /// # Errors
    /// As [`Client::bottle`]; `usage` where nothing is kept.
    pub async fn session(&self, slug: &str) -> Result<api::Kept> {
        self.call(Request::get(format!("/v1/bottles/{}/session", wire::encode(slug)))).await
    }

    /// `POST /v1/bottles/S/freeze`.
    ///
    /// # Errors
    /// As [`Client::bottle`]; `usage` where it has no session to keep.
    pub async fn freeze(&self, slug: &str, act: &Act) -> Result<Bottle> {
        self.call(Request::post(format!("/v1/bottles/{}/freeze", wire::encode(slug)), act)?.within(SAVING)).await
    }

    /// `POST /v1/bottles/S/commit`.
    ///
    /// # Errors
    /// As [`Client::freeze`]; `backend_unavailable` where a container's home cannot be saved.
    pub async fn commit(&self, slug: &str, commit: &Commit) -> Result<Bottle> {
        self.call(Request::post(format!("/v1/bottles/{}/commit", wire::encode(slug)), commit)?.within(SAVING)).await
    }

    /// `POST /v1/bottles/S/kill`.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn kill(&self, slug: &str, act: &Act) -> Result<Bottle> {
        self.call(Request::post(format!("/v1/bottles/{}/kill", wire::encode(slug)), act)?).await
    }

    /// `POST /v1/bottles/S/copy`: copies files into it or out of it.
    ///
    /// # Errors
    /// As [`Client::bottle`]; `usage` for a path that is not there.
    pub async fn copy(&self, slug: &str, copy: &api::Copy) -> Result<api::Copied> {
        self.call(Request::post(format!("/v1/bottles/{}/copy", wire::encode(slug)), copy)?.within(FILES)).await
    }

    /// `POST /v1/bottles/S/pause`: stops all its processes.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn pause(&self, slug: &str, act: &Act) -> Result<Bottle> {
        self.call(Request::post(format!("/v1/bottles/{}/pause", wire::encode(slug)), act)?).await
    }

    /// `POST /v1/bottles/S/thaw`: lets them go on.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn thaw(&self, slug: &str, act: &Act) -> Result<Bottle> {
        self.call(Request::post(format!("/v1/bottles/{}/thaw", wire::encode(slug)), act)?).await
    }

    /// `POST /v1/bottles/S/stop`: returns when it has ended.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn stop_bottle(&self, slug: &str, stop: &api::Stop) -> Result<Bottle> {
        let within = Duration::from_millis(stop.timeout_ms) + ANSWER;
        self.call(Request::post(format!("/v1/bottles/{}/stop", wire::encode(slug)), stop)?.within(within)).await
    }

    /// `POST /v1/bottles/S/diff`: what the agent has changed.
    ///
    /// # Errors
    /// As [`Client::bottle`]; `usage` where its workspace is mounted, `workspace_unsafe` where it is gone.
    pub async fn diff(&self, slug: &str, query: &api::DiffQuery) -> Result<api::Diff> {
        self.call(Request::post(format!("/v1/bottles/{}/diff", wire::encode(slug)), query)?.within(FILES)).await
    }

    /// `POST /v1/bottles/S/apply`: brings over what was shown.
    ///
    /// # Errors
    /// As [`Client::diff`].
    pub async fn apply(&self, slug: &str, apply: &api::Apply) -> Result<api::Applied> {
        self.call(Request::post(format!("/v1/bottles/{}/apply", wire::encode(slug)), apply)?.within(FILES)).await
    }

    /// `POST /v1/bottles/S/rm`: removes what is left of a bottle that has ended.
    ///
    /// # Errors
    /// As [`Client::bottle`]; `usage` where it runs.
    pub async fn remove(&self, slug: &str, act: &Act) -> Result<api::Removed> {
        self.call(Request::post(format!("/v1/bottles/{}/rm", wire::encode(slug)), act)?.within(FILES)).await
    }

    /// `POST /v1/prune`: removes, or lists, everything that is left of bottles which do not run.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn prune(&self, prune: &api::Prune) -> Result<Vec<api::Leftover>> {
        self.call_field(Request::post("/v1/prune", prune)?.within(FILES), "removed").await
    }

    /// `GET /v1/bottles/S/inspect`: everything that is known of it, less its secrets.
    ///
    /// # Errors
    /// As [`Client::bottle`].
    pub async fn inspect(&self, slug: &str) -> Result<Value> {
        self.call(Request::get(format!("/v1/bottles/{}/inspect", wire::encode(slug)))).await
    }

    /// `POST /v1/runs`: names a run and sets its budget, replacing an earlier one.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn run(&self, run: &Run) -> Result<Vec<Account>> {
        self.call_field(Request::post("/v1/runs", run)?, "accounts").await
    }

    /// `POST /v1/usage/query`.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn usage(&self, query: &UsageQuery) -> Result<UsageReport> {
        self.call(Request::post("/v1/usage/query", query)?).await
    }

    /// `GET /v1/events`. Returns when the controller has subscribed the reader, so nothing that happens afterwards is
    /// missed; goes on at the last `seq` when the controller is replaced.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn events(&self, filter: EventFilter) -> Result<Events> {
        Events::open(self, filter).await
    }

    /// `GET /v1/leases/ID`: holds a lease until the returned value is dropped. A background task of the current
    /// runtime takes it up again when the controller is replaced.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn hold_lease(&self, id: &str) -> Result<Lease> {
        Lease::take(self, id).await
    }

    /// `POST /v1/stop`: a clean shutdown. Bottles live on without a way out. Not repeated.
    ///
    /// # Errors
    /// As [`Client::version`].
    pub async fn stop(&self) -> Result<()> {
        let request = Request::post("/v1/stop", &Value::Object(serde_json::Map::new()))?;
        let answered = wire::answer(self.home.socket(), &request).await;
        answered.map(|_| ()).map_err(|failure| failure.into_error(&self.home))
    }

    /// Makes a call and reads one field of its answer.
    async fn call_field<T: DeserializeOwned>(&self, request: Request, field: &str) -> Result<T> {
        let mut value: Value = self.call(request).await?;
        let taken = value.get_mut(field).map(Value::take).unwrap_or_default();
        serde_json::from_value(taken)
            .map_err(|e| Error::internal(format!("the controller's answer has no {field}: {e}")))
    }

    /// Makes a call; takes it up again when the controller is replaced in its midst.
    async fn call<T: DeserializeOwned>(&self, request: Request) -> Result<T> {
        let body = self.persist(|socket| wire::answer(socket, &request)).await?;
        serde_json::from_slice(&body).map_err(|e| {
            Error::internal(format!("the controller's answer cannot be read: {e}")).at(request.path.clone())
        })
    }

    /// Runs `attempt` until it is answered, or is refused, or has failed for [`PATIENCE`]. The time counts from when it
    /// began to fail: a call that has waited for long may be interrupted like any other.
    async fn persist<T, F>(&self, attempt: impl Fn(PathBuf) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, Failure>>,
    {
        let mut failing: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let result = attempt(self.home.socket()).await;
            if began.elapsed() >= UNDER_WAY {
                failing = None;
            }
            match result {
                Ok(answer) => return Ok(answer),
                Err(failure @ (Failure::Unreachable(_) | Failure::Broken(_)))
                    if self.may_start && failing.get_or_insert_with(Instant::now).elapsed() < PATIENCE =>
                {
                    tracing::debug!(%failure, "the controller went away; taking the call up again");
                    start::ensure(&self.home).await?;
                }
                Err(failure) => return Err(failure.into_error(&self.home)),
            }
        }
    }
}

/// Turns a body into JSON.
fn to_json(body: &impl Serialize) -> Result<bytes::Bytes> {
    serde_json::to_vec(body)
        .map(bytes::Bytes::from)
        .map_err(|e| Error::internal(format!("a request cannot be written as JSON: {e}")))
}

/// Gets `GET`; here so that the other files of this module need not name the crate.
const GET: Method = Method::GET;
const POST: Method = Method::POST;

#[cfg(test)]
mod tests;

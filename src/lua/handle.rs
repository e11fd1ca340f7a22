//! The methods of a bottle: `wait`, `exec`, `events`, `logs`, `cut`, `pause`, `thaw`, `freeze`, `kill`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use mlua::{IntoLuaMulti, Lua, MultiValue, Value};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::host::Host;
use super::values::{Span, options};
use super::vm::Plain;
use crate::api::{self, Act, Bottle, Commit, Ended, ExecFrame};
use crate::client::{EventFilter, Events, ExecFrames};
use crate::error::{Error, Kind, Result};
use crate::types::CutScope;

/// Most output of an exec that is kept, for each of its two streams.
const KEPT: usize = 8 << 20;

/// The options of `bottle:wait`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WaitOptions {
    /// Return `nil, "timeout"` after this long.
    timeout: Option<Span>,
    /// Raise where a budget or policy ended the work.
    check: bool,
    /// Kinds that are not raised.
    allow: Vec<Kind>,
}

impl Default for WaitOptions {
    fn default() -> Self {
        WaitOptions { timeout: None, check: true, allow: Vec::new() }
    }
}

/// How a bottle ended.
#[derive(Serialize)]
struct Outcome {
    slug: String,
    /// The agent came to its own end with code 0, and nothing was cut.
    ok: bool,
    ended: Option<Ended>,
    exit_code: Option<i32>,
    /// Why a budget cut it.
    cut: Option<String>,
    reason: Option<String>,
    /// What its agent changed, or its session, is kept.
    kept: bool,
    /// Its session can be taken up again.
    resumable: bool,
    /// Milliseconds from start to end.
    ms: Option<i64>,
}

/// `bottle:wait{...}`. `handling` = called from a handler of `bb.on`.
pub(super) async fn wait(
    lua: Lua,
    host: Rc<Host>,
    (slug, value, handling): (String, Value, bool),
) -> Result<MultiValue> {
    let options: WaitOptions = options(&lua, "bottle:wait", value)?;
    let deadline = options.timeout.map(|Span(span)| Instant::now() + span);
    let link = host.link().await?;
    let Some(bottle) = link.client.wait(&slug, deadline).await? else {
        return multi(&lua, (Value::Nil, "timeout"));
    };
    host.pump.caught_up(&slug, !handling).await;
    let cut = note_told(&host, &bottle);
    let kind = match (&cut, bottle.ended) {
        (_, Some(Ended::Policy)) => Some(Kind::Policy),
        (Some(_), _) => Some(Kind::Budget),
        _ => None,
    };
    if let Some(kind) = kind
        && options.check
        && !options.allow.contains(&kind)
        && !host.pump.handles_cuts()
    {
        let why = cut.or(bottle.reason).unwrap_or_else(|| "no reason was given".into());
        return Err(Error::new(kind, format!("bottle {slug} was cut: {why}")).hint(
            "raise its budget, or handle the cut: bottle:wait{check = false}, bb.try or bb.on(\"crossed\", ...)",
        ));
    }
    let outcome = Outcome {
        slug,
        ok: cut.is_none() && bottle.ended == Some(Ended::Exited) && bottle.exit_code == Some(0),
        ended: bottle.ended,
        exit_code: bottle.exit_code,
        cut,
        reason: bottle.reason,
        kept: bottle.kept,
        resumable: bottle.resumable,
        ms: bottle.stopped.map(|stopped| stopped - bottle.started),
    };
    multi(&lua, Plain(outcome))
}

/// Notes that the recipe learns of the bottle's end now; returns why a budget cut it, if one did.
fn note_told(host: &Host, bottle: &Bottle) -> Option<String> {
    let mut bottles = host.bottles.borrow_mut();
    let kept = bottles.entry(bottle.slug.clone()).or_default();
    if bottle.ended == Some(Ended::Budget) && kept.cut.is_none() {
        kept.cut = Some(bottle.reason.clone().unwrap_or_else(|| "its budget is spent".into()));
    }
    kept.told = true;
    kept.cut.clone()
}

fn multi(lua: &Lua, values: impl IntoLuaMulti) -> Result<MultiValue> {
    values.into_lua_multi(lua).map_err(|e| Error::internal(e.to_string()))
}

/// The options of `bottle:exec`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExecOptions {
    argv: Vec<String>,
    env: std::collections::BTreeMap<String, String>,
    cwd: Option<String>,
    stdin: Option<String>,
    timeout: Option<Span>,
}

/// What a command did.
#[derive(Default, Serialize)]
pub(super) struct ExecResult {
    ok: bool,
    code: Option<i32>,
    stdout: String,
    stderr: String,
    /// More was written than is kept.
    truncated: bool,
}

/// `bottle:exec("make test")`, `bottle:exec{"make", "test", timeout = "5m"}`.
pub(super) async fn exec(lua: Lua, host: Rc<Host>, (slug, value): (String, Value)) -> Result<Plain<ExecResult>> {
    const CALL: &str = "bottle:exec";
    let options = exec_options(&lua, CALL, value)?;
    let client = &host.link().await?.client;
    let exec = api::Exec {
        id: uuid::Uuid::now_v7().to_string(),
        argv: options.argv,
        env: options.env,
        cwd: options.cwd,
        stdin: options.stdin,
        ..api::Exec::default()
    };
    let work = async {
        let mut frames = client.exec(&slug, &exec).await?;
        let mut result = ExecResult::default();
        while let Some(frame) = frames.next().await {
            match frame? {
                ExecFrame::Output { stream, text, .. } => {
                    let kept = if stream == "stderr" { &mut result.stderr } else { &mut result.stdout };
                    if kept.len() + text.len() > KEPT {
                        result.truncated = true;
                    } else {
                        kept.push_str(&text);
                    }
                }
                ExecFrame::Exit { code, .. } => {
                    result.code = Some(code);
                    result.ok = code == 0;
                }
            }
        }
        Ok(Plain(result))
    };
    match options.timeout {
        None => work.await,
        Some(Span(span)) => tokio::time::timeout(span, work)
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Timeout, format!("the command in {slug} did not end in time")))),
    }
}

/// Reads a command line: a string for the shell, or a list with options beside it.
fn exec_options(lua: &Lua, call: &str, value: Value) -> Result<ExecOptions> {
    let fault = |e: mlua::Error| super::values::from_lua(call, &e);
    let read = match value {
        Value::String(text) => {
            let argv = vec!["sh".into(), "-c".into(), text.to_string_lossy()];
            return Ok(ExecOptions { argv, ..ExecOptions::default() });
        }
        Value::Table(given) => {
            let list: Vec<String> = given.sequence_values::<String>().collect::<mlua::Result<_>>().map_err(fault)?;
            let named = lua.create_table().map_err(fault)?;
            for pair in given.pairs::<Value, Value>() {
                let (key, value) = pair.map_err(fault)?;
                if !matches!(key, Value::Integer(_)) {
                    named.set(key, value).map_err(fault)?;
                }
            }
            let mut read: ExecOptions = options(lua, call, Value::Table(named))?;
            if !list.is_empty() {
                read.argv = list;
            }
            read
        }
        other => {
            let message = format!("{call} takes a command, got a {}", other.type_name());
            return Err(Error::new(Kind::Usage, message).hint("write bottle:exec(\"make test\")"));
        }
    };
    if read.argv.is_empty() {
        return Err(Error::new(Kind::Usage, format!("{call} got no command")));
    }
    Ok(read)
}

/// The streams that a recipe reads, by number.
#[derive(Default)]
pub(super) struct Streams {
    open: RefCell<HashMap<u64, Rc<Mutex<Stream>>>>,
    next: Cell<u64>,
}

enum Stream {
    Events(Box<Events>),
    Frames(Box<ExecFrames>),
}

impl Streams {
    fn add(&self, stream: Stream) -> u64 {
        let id = self.next.get() + 1;
        self.next.set(id);
        self.open.borrow_mut().insert(id, Rc::new(Mutex::new(stream)));
        id
    }
}

/// `bottle:events()`: from its launch to its end.
pub(super) async fn events(_: Lua, host: Rc<Host>, slug: String) -> Result<u64> {
    let since = host.bottles.borrow().get(&slug).map_or(0, |kept| kept.since);
    let filter = EventFilter {
        book: host.book.get(),
        since: Some(since),
        bottle: Some(slug),
        run: Some(host.run_id.clone()),
        after: None,
        follow: true,
    };
    let events = host.link().await?.client.events(filter).await?;
    Ok(host.streams.add(Stream::Events(Box::new(events))))
}

/// The options of `bottle:logs`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogOptions {
    since: u64,
    follow: bool,
}

/// `bottle:logs{...}`: what its agent and execs wrote.
pub(super) async fn logs(lua: Lua, host: Rc<Host>, (slug, value): (String, Value)) -> Result<u64> {
    let options: LogOptions = options(&lua, "bottle:logs", value)?;
    let frames = host.link().await?.client.logs(&slug, options.since, options.follow).await?;
    Ok(host.streams.add(Stream::Frames(Box::new(frames))))
}

/// Gets the next item of a stream; nil at its end.
pub(super) async fn next(lua: Lua, host: Rc<Host>, id: u64) -> Result<MultiValue> {
    let stream = host.streams.open.borrow().get(&id).cloned();
    let Some(stream) = stream else { return Ok(MultiValue::new()) };
    let mut stream = stream.lock().await;
    let (item, over) = match &mut *stream {
        Stream::Events(events) => match events.next().await.transpose()? {
            Some(event) => {
                let over = event.kind == "bottle.ended";
                (Some(multi(&lua, Plain(event))?), over)
            }
            None => (None, true),
        },
        Stream::Frames(frames) => match frames.next().await.transpose()? {
            Some(frame) => (Some(multi(&lua, Plain(frame))?), false),
            None => (None, true),
        },
    };
    if over {
        host.streams.open.borrow_mut().remove(&id);
    }
    Ok(item.unwrap_or_default())
}

/// The options of `bottle:cut`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CutOptions {
    reason: Option<String>,
    scope: Option<CutScope>,
}

/// The options of `bottle:kill`, and of `pause`, `thaw` and `freeze`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KillOptions {
    reason: Option<String>,
}

fn act(reason: Option<String>, scope: Option<CutScope>) -> Act {
    let reason = reason.or_else(|| Some("its recipe asked for it".into()));
    Act { id: uuid::Uuid::now_v7().to_string(), reason, scope }
}

/// `bottle:cut{...}`.
pub(super) async fn cut(lua: Lua, host: Rc<Host>, (slug, value): (String, Value)) -> Result<()> {
    let CutOptions { reason, scope } = options(&lua, "bottle:cut", value)?;
    host.link().await?.client.cut(&slug, &act(reason, scope)).await.map(|_| ())
}

/// `bottle:pause{...}`.
pub(super) async fn pause(lua: Lua, host: Rc<Host>, (slug, value): (String, Value)) -> Result<()> {
    let KillOptions { reason } = options(&lua, "bottle:pause", value)?;
    host.link().await?.client.pause(&slug, &act(reason, None)).await.map(|_| ())
}

/// `bottle:thaw{...}`.
pub(super) async fn thaw(lua: Lua, host: Rc<Host>, (slug, value): (String, Value)) -> Result<()> {
    let KillOptions { reason } = options(&lua, "bottle:thaw", value)?;
    host.link().await?.client.thaw(&slug, &act(reason, None)).await.map(|_| ())
}

/// `bottle:freeze{...}`.
pub(super) async fn freeze(lua: Lua, host: Rc<Host>, (slug, value): (String, Value)) -> Result<()> {
    let KillOptions { reason } = options(&lua, "bottle:freeze", value)?;
    host.link().await?.client.freeze(&slug, &act(reason, None)).await.map(|_| ())
}

/// `bottle:commit()`.
pub(super) async fn commit(_lua: Lua, host: Rc<Host>, slug: String) -> Result<()> {
    host.link()
        .await?
        .client
        .commit(&slug, &Commit { id: uuid::Uuid::now_v7().to_string(), image: None })
        .await
        .map(|_| ())
}

/// `bottle:kill{...}`.
pub(super) async fn kill(lua: Lua, host: Rc<Host>, (slug, value): (String, Value)) -> Result<()> {
    let KillOptions { reason } = options(&lua, "bottle:kill", value)?;
    host.link().await?.client.kill(&slug, &act(reason, None)).await.map(|_| ())
}

//! The calls on bottles: which function of the controller or of a bottle each is, and what it answers.
//!
//! No decisions: a path and a body become one call, its answer becomes a response.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response};
use serde_json::json;
use tokio::sync::mpsc;

use super::answer::{Body, lines, ok};
use super::question::{each, flag, number, read};
use crate::api::{
    Act, Apply, Bottle, Commit, Copy, DiffQuery, Ended, Exec, Input, Launch, Resize, RoutesChange, Signal, SignalName,
    Stop, Unsent,
};
use crate::bottle::wire::{Command, Reply, Request as Ask};
use crate::controller::live::Live;
use crate::controller::stream::{self as follow, Wanted};
use crate::controller::{Controller, input};
use crate::enforce::By;
use crate::error::{Error, Kind, Result};

/// Serves what stands behind `/v1/bottles`.
pub(super) async fn bottles(
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
        (false, [name, "routes"]) => ok(&controller.routes(name)?),
        (true, [name, "routes"]) => {
            let change: RoutesChange = read(request.into_body()).await?;
            ok(&controller.change_routes(name, change).await?)
        }
        (false, [name, "why"]) => {
            let url = query.get("url").cloned().unwrap_or_default();
            let method = query.get("method").map_or("GET", String::as_str).to_owned();
            ok(&controller.why(name, &Unsent { url, method, headers: each(&request, "header") })?)
        }
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
            live.cut_off(act.scope.unwrap_or(live.binds().cut_scope), &reason, By::Operator).await?;
            ok(&live.view())
        }
        (true, [name, "open"]) => {
            let act: Act = read(request.into_body()).await?;
            let live = controller.find(name)?;
            controller.way_in(&live).await?;
            live.uncut(act.reason.as_deref()).await?;
            ok(&live.view())
        }
        (false, [name, "budget"]) => ok(&controller.budget_path(&*controller.find(name)?).await?),
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
            let act: Act = read(request.into_body()).await?;
            let live = controller.find(name)?;
            controller.way_in(&live).await?;
            live.thaw(act.reason.as_deref(), By::Operator).await?;
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
            let live = controller.find(name)?;
            // One that has ended lets nobody in.
            if flag(query, "attach") && !live.has_ended() {
                controller.way_in(&live).await?;
            }
            let (to, from) = mpsc::channel(64);
            tokio::spawn(follow::output(live, wanted, to));
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
    controller.way_in(&live).await?;
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

//! `bottle:attach()`: this process's standard streams become the agent's, until it ends or the person goes away.

use std::rc::Rc;

use std::io::IsTerminal;

use mlua::{Lua, Value};
use serde::{Deserialize, Serialize};

use super::agent_output::AgentOutput;
use super::host::Host;
use super::values::options;
use super::vm::Plain;
use crate::api::ExecFrame;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::terminal::feed::Feeder;
use crate::terminal::streams::Source;
use crate::terminal::{self, Attached, Manner};

/// How it was left.
#[derive(Serialize)]
pub(super) struct Left {
    /// The person went away, and the agent goes on.
    detached: bool,
    /// The agent's exit code.
    exit_code: Option<i32>,
}

/// Id of the agent's own exec.
const AGENT: &str = "agent";

/// Tells whether this process's terminal can be an agent's: results are not read by a program.
pub(super) fn has_terminal(host: &Host) -> bool {
    !host.out.json && terminal::is_terminal()
}

/// The options of `bottle:attach`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Keys leave it running.
    detach: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { detach: true }
    }
}

/// `bottle:attach{...}`.
pub(super) async fn attach(lua: Lua, host: Rc<Host>, (slug, value): (String, Value)) -> Result<Plain<Left>> {
    let Options { detach } = options(&lua, "bottle:attach", value)?;
    let client = &host.link().await?.client;
    if has_terminal(&host) && client.bottle(&slug).await?.terminal {
        let left = match terminal::attach(client, &slug, Manner { detach, late: true }).await? {
            Attached::Detached => Left { detached: true, exit_code: None },
            Attached::Ended(code) => Left { detached: false, exit_code: Some(code) },
            Attached::Lost => Left { detached: false, exit_code: None },
        };
        return Ok(Plain(left));
    }
    follow(&host, &slug).await.map(Plain)
}

/// Tells whether this process's standard input has something to pass on: it is no terminal, and not `/dev/null`.
pub(super) fn has_input() -> bool {
    let stdin = std::io::stdin();
    let null = nix::sys::stat::stat("/dev/null").map_or(0, |meta| meta.st_rdev);
    // One that was closed cannot be looked at.
    let something = nix::sys::stat::fstat(&stdin).is_ok_and(|meta| meta.st_rdev == 0 || meta.st_rdev != null);
    something && !stdin.is_terminal()
}

/// Passes on what the agent writes, and to it what comes in, until it ends.
async fn follow(host: &Rc<Host>, slug: &str) -> Result<Left> {
    let client = &host.link().await?.client;
    let mut frames = client.logs(slug, 0, true).await?;
    let mut output = AgentOutput::of_process();
    let mut code = None;
    let feeds = host.bottles.borrow().get(slug).is_some_and(|kept| kept.input);
    let mut feeding = std::pin::pin!(feed(client, slug, feeds));
    loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            error = &mut feeding => return Err(error),
        };
        let Some(frame) = frame else { break };
        match frame? {
            ExecFrame::Output { exec: 0, stream, text, .. } => {
                if host.out.json {
                    host.out.record(
                        serde_json::json!({"v": 1, "type": "output", "bottle": slug, "stream": stream, "text": text}),
                    );
                } else if !output.write(&stream, &text)? {
                    break;
                }
            }
            ExecFrame::Exit { exec: 0, code: ended } => {
                code = Some(ended);
                break;
            }
            _ => {}
        }
    }
    output.finish()?;
    // The last frame of a bottle that ends may be its output: then its own view says how the agent ended.
    if code.is_none() {
        code = client.bottle(slug).await?.exit_code;
    }
    Ok(Left { detached: false, exit_code: code })
}

/// Passes standard input on to the agent, to its end. Returns only where that is not possible.
async fn feed(client: &Client, slug: &str, feeds: bool) -> Error {
    if !feeds {
        return std::future::pending().await;
    }
    let mut source = match Source::stdin() {
        Ok(source) => Some(source),
        Err(e) => return Error::internal(format!("standard input: {e}")),
    };
    let mut feeder = Feeder::start(client, slug, AGENT);
    loop {
        tokio::select! {
            chunk = Source::next_of(&mut source), if feeder.has_room() => match chunk {
                Some(chunk) => drop(feeder.bytes(chunk)),
                None => {
                    source = None;
                    feeder.end();
                }
            },
            // More may be read when some of it has been sent.
            () = tokio::time::sleep(std::time::Duration::from_millis(10)), if !feeder.has_room() => {}
            error = feeder.failed() => return error,
        }
    }
}

//! `bottle:attach()`: this process's standard streams become the agent's, until it ends or the person goes away.

use std::rc::Rc;

use mlua::Lua;
use serde::Serialize;

use super::agent_output::AgentOutput;
use super::host::Host;
use super::vm::Plain;
use crate::api::ExecFrame;
use crate::error::Result;
use crate::terminal::{self, Attached};

/// How it was left.
#[derive(Serialize)]
pub(super) struct Left {
    /// The person went away, and the agent goes on.
    detached: bool,
    /// The agent's exit code.
    exit_code: Option<i32>,
}

/// Tells whether this process's terminal can be an agent's: results are not read by a program.
pub(super) fn has_terminal(host: &Host) -> bool {
    !host.out.json && terminal::is_terminal()
}

/// `bottle:attach()`.
pub(super) async fn attach(_: Lua, host: Rc<Host>, slug: String) -> Result<Plain<Left>> {
    let client = &host.link().await?.client;
    if has_terminal(&host) && client.bottle(&slug).await?.terminal {
        let left = match terminal::attach(client, &slug).await? {
            Attached::Detached => Left { detached: true, exit_code: None },
            Attached::Ended(code) => Left { detached: false, exit_code: Some(code) },
            Attached::Lost => Left { detached: false, exit_code: None },
        };
        return Ok(Plain(left));
    }
    follow(&host, &slug).await.map(Plain)
}

/// Passes on what the agent writes until it ends.
async fn follow(host: &Rc<Host>, slug: &str) -> Result<Left> {
    let client = &host.link().await?.client;
    let mut frames = client.logs(slug, 0, true).await?;
    let mut output = AgentOutput::of_process();
    let mut code = None;
    while let Some(frame) = frames.next().await {
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

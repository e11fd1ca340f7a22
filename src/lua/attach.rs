//! `bottle:attach()`: this process's standard streams become the agent's, until it ends or the person goes away.

use std::rc::Rc;

use mlua::Lua;
use serde::Serialize;

use super::agent_output::AgentOutput;
use super::host::Host;
use super::vm::Plain;
use crate::api::ExecFrame;
use crate::error::Result;

/// How it was left.
#[derive(Serialize)]
pub(super) struct Left {
    /// The person went away, and the agent goes on.
    detached: bool,
    /// The agent's exit code.
    exit_code: Option<i32>,
}

/// `bottle:attach()`.
pub(super) async fn attach(_: Lua, host: Rc<Host>, slug: String) -> Result<Plain<Left>> {
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

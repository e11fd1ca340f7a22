//! What front ends send to a running command: input and its terminal's size (docs/controller-api.md).
//!
//! Carries pieces to the keeper, which takes what fits; decides nothing about them.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::live::Live;
use crate::api::{Input, Resize};
use crate::bottle::wire::{Command, Reply, Request};
use crate::error::{Error, Kind, Result};

/// Most input of one call.
const MOST: usize = 1 << 20;

/// Most of it in one packet to the keeper; base64 and the JSON around it make it longer.
const PIECE: usize = 32 * 1024;

/// How long a call waits for a command to read before it says how far it came.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a terminal is called in a bottle where nobody said.
const USUAL_TERMINAL: &str = "xterm-256color";

/// Longest name of a feeder.
const NAME_MAX: usize = 128;

/// Feeds an exec; the answer says where in the feeder's stream it goes on, and whether it does.
///
/// # Errors
/// `usage` where there is no such exec or it takes no input, `no_such_bottle` where the keeper is gone.
pub async fn feed(live: &Live, input: Input) -> Result<Value> {
    let wrong = |what: &str| Error::new(Kind::Usage, what.to_owned()).at("input");
    let exec = number(live, &input.exec)?;
    can(live)?;
    let bytes = BASE64.decode(&input.data).map_err(|_| wrong("`data` is no base64"))?;
    if bytes.len() > MOST || input.from.len() > NAME_MAX {
        return Err(wrong("a call takes 1 MiB of input, of a feeder with a name of at most 128 bytes"));
    }
    let began = Instant::now();
    let (mut at, mut pause) = (0, Duration::from_millis(1));
    loop {
        let piece = &bytes[at..bytes.len().min(at + PIECE)];
        let last = at + piece.len() == bytes.len();
        let request = Request::Input {
            exec,
            from: input.from.clone(),
            seq: input.seq + at as u64,
            data: BASE64.encode(piece),
            end: input.end && last,
            once: input.once,
        };
        let (place, open) = match live.link.ask(request).await?.0 {
            Reply::Taken { bytes, open } => (bytes, open),
            Reply::Failed { error } => return Err(error),
            other => return Err(Error::internal(format!("unexpected answer {other:?}"))),
        };
        let taken = place.saturating_sub(input.seq).min(bytes.len() as u64) as usize;
        let done = taken == bytes.len() && last || input.once;
        if done || !open || began.elapsed() >= PATIENCE {
            return Ok(json!({ "taken": place, "open": open }));
        }
        if taken > at {
            at = taken;
            pause = Duration::from_millis(1);
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Sets the size of an exec's terminal.
///
/// # Errors
/// As [`feed`]; `usage` where it has no terminal.
pub async fn resize(live: &Live, resize: &Resize) -> Result<Value> {
    let exec = number(live, &resize.exec)?;
    let no_terminal = |what: String| {
        let hint = format!("`bb logs {} --follow` shows what it writes", live.slug);
        Error::new(Kind::Usage, what).at(live.slug.clone()).hint(hint)
    };
    if !live.link.knows("input") {
        return Err(no_terminal(format!("`{}` has no terminal: an older bb started it", resize.exec)));
    }
    match live.link.ask(Request::Resize { exec, rows: resize.rows, cols: resize.cols }).await?.0 {
        Reply::Failed { error } if error.kind == Kind::Usage => {
            Err(no_terminal(format!("`{}` has no terminal", resize.exec)))
        }
        Reply::Failed { error } => Err(error),
        _ => Ok(json!({})),
    }
}

/// Refuses a command that needs what the bottle's keeper does not know yet.
///
/// # Errors
/// `backend_unavailable`.
pub fn check(live: &Live, command: &Command) -> Result<()> {
    if command.input || command.terminal.is_some() { can(live) } else { Ok(()) }
}

/// Names the terminal of a command that has one, where nobody has.
pub fn name_terminal(env: &mut BTreeMap<String, String>) {
    if env.get("TERM").is_none_or(|term| term == "dumb") {
        env.insert("TERM".to_owned(), USUAL_TERMINAL.to_owned());
    }
}

fn can(live: &Live) -> Result<()> {
    if live.link.knows("input") {
        return Ok(());
    }
    Err(Error::new(
        Kind::BackendUnavailable,
        "the bottle was started by an older bb: it has no terminals and no open input",
    )
    .at(live.slug.clone())
    .hint("start the agent again"))
}

fn number(live: &Live, id: &str) -> Result<u32> {
    live.exec(id).ok_or_else(|| {
        Error::new(Kind::Usage, format!("the bottle has no exec `{id}`")).hint("name the id of an exec, or `agent`")
    })
}

//! Stops every process of a container but its pid 1, and lets them go on, where its engine cannot freeze it: one without root, on
//! version 1 of control groups.
//!
//! By one signal from inside, as the embedded backend does it ([`stop`]). The agent may kill or stop the process that is
//! about to stop it, so it is attempted more than once, and waited for not for ever: the keeper has one thread.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::engine::Engine;
use super::http::frame;
use super::inside::{Word, say, until_heard};
use super::spec;
use crate::bottle::linux::{stop, sys};
use crate::error::{Error, Kind, Result};

/// How often it is attempted.
const TRIES: u32 = 3;

/// Longest that one attempt may take from the engine's answer to the word that it is done.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest word that is read. Unit: bytes.
const MOST: usize = 4096;

fn failed(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::BackendUnavailable, format!("signalling the processes of the container: {what}"))
}

/// Stops them (`on`), or lets them go on.
///
/// # Errors
/// `backend_unavailable` where the engine refuses, or the process that does it comes to nothing each time.
pub fn set(engine: &Engine, container: &str, on: bool) -> Result<()> {
    let mut last = failed("it was not tried");
    for _ in 0..TRIES {
        match attempt(engine, container, on) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn attempt(engine: &Engine, container: &str, on: bool) -> Result<()> {
    let verb = if on { "stand-still" } else { "go-on" };
    let spec = json!({
        "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": false,
        "Cmd": [spec::OWN, "__inside", verb], "WorkingDir": "/",
    });
    let exec = engine.exec(container, &spec)?;
    let mut stream = engine.exec_streams(&exec).map_err(failed)?;
    stream.get_ref().set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut said = Vec::new();
    while said.len() < MOST {
        match frame(&mut stream).map_err(failed)? {
            Some((1, bytes)) => said.extend(bytes),
            Some(_) => continue,
            None => break,
        }
        if said.ends_with(b"\n") && matches!(serde_json::from_slice(&said), Ok(Word::Ready(_))) {
            return Ok(());
        }
    }
    Err(failed("the process that does it is killed or stopped each time"))
}

/// `bb __inside stand-still` and `go-on`, in the container: does it, says so, and waits until that is heard.
pub fn inside(signal: Signal) -> u8 {
    let _ = sys::set_dumpable(false);
    stop::send(signal);
    let done = say(&Word::Ready(0)).is_ok();
    until_heard();
    u8::from(!done)
}

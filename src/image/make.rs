//! Builds or pulls an image that an engine does not have.
//!
//! Blocking, for a thread that may wait; [`Stop`] ends it from another one. Events go to whoever draws them.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use super::host::Host;
use super::progress::{Event, Reader};
use super::{LABEL, Recipe, Wanted, clean};
use crate::bottle::docker::engine::Engine;
use crate::bottle::docker::image::{Build, Work};
use crate::bottle::docker::is_image_name;
use crate::error::{Error, Kind, Result};

/// What has to happen before an image is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is there.
    Nothing,
    /// It is to be built.
    Build,
    /// It is to be pulled.
    Pull,
}

impl Need {
    /// Says it, behind an image's name.
    pub fn words(self) -> &'static str {
        match self {
            Need::Nothing => "",
            Need::Build => " (to be built)",
            Need::Pull => " (to be pulled)",
        }
    }
}

/// How an image is built.
#[derive(Default)]
pub struct Options {
    /// Nothing of an earlier build is used.
    pub no_cache: bool,
    /// What the build learns of this machine.
    pub host: Host,
}

/// Ends a build or a pull from outside.
#[derive(Clone, Default)]
pub struct Stop(Arc<Mutex<(bool, Vec<UnixStream>)>>);

impl Stop {
    /// Ends what runs, and what would begin.
    pub fn stop(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = true;
        for connection in state.1.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn keep(&self, connection: UnixStream) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 {
            let _ = connection.shutdown(Shutdown::Both);
        }
        state.1.push(connection);
    }

    fn is_stopped(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Finds out what has to happen before an image is there.
///
/// # Errors
/// `backend_unavailable` where the engine does not answer.
pub fn need(engine: &Engine, wanted: &Wanted) -> Result<Need> {
    // What is no name is said where the bottle is made.
    if !is_image_name(wanted.name()) || engine.image(wanted.name())?.is_some() {
        return Ok(Need::Nothing);
    }
    Ok(match wanted {
        Wanted::Named(_) => Need::Pull,
        Wanted::Made(_) => Need::Build,
    })
}

/// Builds or pulls an image; returns when the engine has it.
///
/// # Errors
/// `backend_unavailable` with what the engine said, `interrupted` where it was stopped.
pub fn make(
    engine: &Engine,
    wanted: &Wanted,
    options: Options,
    stop: &Stop,
    tell: &mut dyn FnMut(Event),
) -> Result<()> {
    let made = match wanted {
        Wanted::Named(name) => pull(engine, name, stop, tell),
        Wanted::Made(recipe) => build(engine, recipe, options, stop, tell),
    };
    if stop.is_stopped() {
        return Err(Error::new(Kind::Interrupted, format!("the image {} was not finished", wanted.name())));
    }
    made
}

fn build(engine: &Engine, recipe: &Recipe, options: Options, stop: &Stop, tell: &mut dyn FnMut(Event)) -> Result<()> {
    // What somebody has said goes before what this machine has.
    let mut args = options.host.args;
    args.extend(recipe.args.clone());
    let build = Build {
        tag: &recipe.tag,
        dockerfile: &recipe.dockerfile,
        context: recipe.context.clone(),
        args: &args,
        labels: &[(LABEL.to_owned(), recipe.provider.clone())].into(),
        secrets: options.host.secrets,
        no_cache: options.no_cache,
        network: options.host.network.as_deref(),
    };
    let mut work = engine.build(build, &mut |connection| stop.keep(connection))?;
    let (reader, error) = follow(&mut work, tell);
    let error = match error {
        Some(error) => error,
        None if engine.image(&recipe.tag)?.is_some() => return Ok(()),
        None => "the engine ended without an error and without an image".to_owned(),
    };
    let (step, lines) = reader.failed().unwrap_or_default();
    let at = if step.is_empty() { String::new() } else { format!(" in `{}`", clean(step, 120)) };
    let remedy = if recipe.place.starts_with('/') {
        "correct the Dockerfile, or name an image that is there with `image:`".to_owned()
    } else {
        let copy = format!("$BB_HOME/images/{}.Dockerfile", recipe.provider);
        format!("put one that works here at {copy}, or name an image that is there with `image:`")
    };
    let lines: String = lines.iter().map(|line| format!("\n  | {line}")).collect();
    Err(Error::new(
        Kind::BackendUnavailable,
        format!("the image {} could not be built{at}: {error}{lines}", recipe.tag),
    )
    .at(recipe.place.clone())
    .hint(remedy))
}

fn pull(engine: &Engine, name: &str, stop: &Stop, tell: &mut dyn FnMut(Event)) -> Result<()> {
    let mut work = engine.pull(name, &mut |connection| stop.keep(connection))?;
    let (_, error) = follow(&mut work, tell);
    match error {
        None if engine.image(name)?.is_some() => Ok(()),
        error => {
            let why = error.map(|error| format!(": {error}")).unwrap_or_default();
            let mut missing = engine.lacks(name);
            missing.message.push_str(&format!(", and it could not be pulled{why}"));
            Err(missing)
        }
    }
}

/// Reads a build or a pull to its end; gets what went wrong.
fn follow(work: &mut Work, tell: &mut dyn FnMut(Event)) -> (Reader, Option<String>) {
    let mut reader = Reader::default();
    let mut last = String::new();
    loop {
        match work.line() {
            Ok(Some(line)) => {
                reader.read(&line, tell);
                last = line;
            }
            Ok(None) => break,
            Err(e) => {
                reader.error.get_or_insert(format!("the connection to the engine broke: {e}"));
                break;
            }
        }
    }
    let mut error = reader.error.take();
    if error.is_none() && !(200..300).contains(&work.status()) {
        // A refusal: one object in place of the lines.
        let said: serde_json::Value = serde_json::from_str(&last).unwrap_or_default();
        let said = said["message"].as_str().or(said["cause"].as_str()).unwrap_or("no reason given");
        error = Some(clean(said, 500));
    }
    (reader, error)
}

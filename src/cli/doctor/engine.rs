//! The doctor's look at container engines: which answer, and whether a bottle can be made by them, by making one.
//!
//! None is needed: what fails here is a warning.

use std::path::{Path, PathBuf};

use crate::api::Launch;
use crate::bottle::docker::engine::{Engine, socket_of, sockets};
use crate::bottle::docker::{self, EMPTY_IMAGE, OWN};
use crate::error::{Error, Kind, Result};

use super::Check;
use super::bottle::Trial;

const NAME: &str = "engine";

/// Makes a check for each engine, or one that says that there is none.
///
/// # Errors
/// Those of `tell` only: what fails is a check.
pub(super) async fn checks(mut tell: impl AsyncFnMut(Check) -> Result<()>) -> Result<bool> {
    let found: Vec<PathBuf> = match std::env::var("DOCKER_HOST").ok().filter(|address| !address.is_empty()) {
        Some(address) => match socket_of(&address) {
            Ok(socket) => vec![socket],
            Err(error) => {
                tell(warning(error)).await?;
                return Ok(false);
            }
        },
        None => sockets().into_iter().filter(|socket| socket.exists()).collect(),
    };
    if found.is_empty() {
        tell(Check::ok(NAME, "no container engine runs; only backend `docker` needs one")).await?;
        return Ok(false);
    }
    let mut works = false;
    for socket in found {
        let check = match tried(&socket).await {
            Ok(message) => {
                works = true;
                Check::ok(NAME, message)
            }
            Err(error) => warning(error),
        };
        tell(check).await?;
    }
    Ok(works)
}

fn warning(error: Error) -> Check {
    let hint = error.hint.clone().unwrap_or_else(|| "start it, or use backend `linux`".to_owned());
    Check::failed(NAME, &error.hint(hint)).into_warning()
}

/// Makes a bottle by an engine, of the image that holds nothing; what runs in it is bb itself.
async fn tried(socket: &Path) -> Result<String> {
    let place = socket.to_owned();
    let engine = tokio::task::spawn_blocking(move || {
        let engine = Engine::at(&place)?;
        docker::own_helper(&crate::os::own_executable())?;
        docker::make_empty_image(&engine)?;
        Ok::<Engine, Error>(engine)
    });
    let engine = engine.await.map_err(|e| Error::internal(e.to_string()))??;
    let trial = Trial::new()?;
    let launch = Launch {
        argv: vec![OWN.to_owned()],
        backend: Some("docker".to_owned()),
        image: Some(EMPTY_IMAGE.to_owned()),
        engine: Some(format!("unix://{}", socket.display())),
        ..Launch::default()
    };
    let (seen, code) = trial.run("doctor-engine", &launch, &[OWN, "--version"]).await?;
    let said = seen.text.trim();
    if code != 0 || !said.starts_with("bb ") || !seen.complete {
        let message = format!("a bottle made by {} does not work (exit {code}): {said}", engine.version);
        return Err(Error::new(Kind::BackendUnavailable, message).at(socket.display().to_string()));
    }
    let root = if engine.rootless { ", rootless" } else { "" };
    let built = seen.built.as_secs_f64();
    Ok(format!(
        "{}{root}, {}; a bottle was up in {built:.1} s, ran a command, is gone",
        engine.version,
        socket.display()
    ))
}

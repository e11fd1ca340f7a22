//! The image of a launch, made where the engine has none: by the front end, before the controller hears of the bottle.
//!
//! Holds up nobody but the recipe's own call; a recipe that is stopped stops it. What is drawn meanwhile is [`super::progress`].

use std::rc::Rc;

use super::grants::Grant;
use super::host::Host;
use super::progress::Progress;
use crate::bottle::docker::engine::Engine;
use crate::error::{Error, Result};
use crate::image::host::Host as Machine;
use crate::image::{self, Need, Options, Stop, Wanted};

/// Ends the work when whoever waits for it goes away.
struct Guard(Stop);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.stop();
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("the image's thread failed: {e}")))
}

/// Finds out what would have to happen first. Where no engine answers nothing is known: the launch says what is wrong.
pub(super) async fn need(wanted: Wanted, engine: Option<String>) -> Need {
    let found = blocking(move || {
        let engine = Engine::find(engine.as_deref()).ok()?;
        image::need(&engine, &wanted).ok()
    });
    found.await.ok().flatten().unwrap_or(Need::Nothing)
}

/// Sees to it that the image is there. One that the recipe itself has `named` is pulled only where that was granted; else the
/// launch says that it is missing, and what gets it.
pub(super) async fn ready(host: &Rc<Host>, wanted: Wanted, engine: Option<String>, named: bool) -> Result<()> {
    let _one = host.images.lock().await;
    let need = need(wanted.clone(), engine.clone()).await;
    let may_pull = !named || host.grants.need(&Grant::Image, "bb.launch").is_ok();
    if need == Need::Nothing || need == Need::Pull && !may_pull {
        return Ok(());
    }
    let stop = Stop::default();
    let _guard = Guard(stop.clone());
    let out = host.out.clone();
    blocking(move || {
        let engine = Engine::find(engine.as_deref())?;
        let options = Options { host: Machine::of_process()?, no_cache: false };
        let mut progress = Progress::new(out, wanted.name(), need);
        image::make(&engine, &wanted, options, &stop, &mut |event| progress.event(&event))?;
        progress.done();
        Ok(())
    })
    .await?
}

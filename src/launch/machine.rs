//! What the machine gives: which backend and image make the bottle, how the directory comes in, what it may use, and which
//! programs have to be there.
//!
//! Decides and looks, and makes nothing: an image is named here and built elsewhere.

use crate::api::{self, WorkspaceMode};
use crate::bottle::backend::{Choice as Backend, found as found_backend};
use crate::bottle::docker::layer;
use crate::error::{Error, Kind, Result};
use crate::image::{self, Wanted};
use crate::manifest::{Effective, Said};
use crate::settings::Settings;

use super::{Choice, Desk};

/// Decides how the directory comes in: as chosen, as a manifest says, and else such that nobody who is not there is
/// surprised: headless agents write into a layer, or a copy where there can be none, which is said.
pub(super) fn mode_of(
    choice: &Choice,
    merged: &Effective,
    backend: Backend,
    desk: &Desk<'_>,
    warnings: &mut Vec<String>,
) -> WorkspaceMode {
    let said = || merged.workspace.as_ref().map(|said| said.value);
    let copy = choice.copy.then_some(WorkspaceMode::Copy);
    if let Some(mode) = choice.workspace_mode.or(copy).or_else(said) {
        return mode;
    }
    if choice.interactive {
        return WorkspaceMode::Mount;
    }
    let obstacle = (backend == Backend::Docker).then(|| layer::obstacle(desk.cwd, &desk.home.root)).flatten();
    match obstacle {
        Some(why) => {
            warnings.push(format!("the agent works on a copy of the directory: {why}"));
            WorkspaceMode::Copy
        }
        None => WorkspaceMode::Overlay,
    }
}

/// Decides what makes the sandbox: as chosen (flag, then environment, which whoever asks has put together), as a manifest
/// says, as the host's settings say, and else the best that `bb doctor` found.
pub(super) fn backend_of(choice: &Choice, merged: &Effective, settings: &Settings, desk: &Desk<'_>) -> Result<Backend> {
    let said = || merged.backend.as_ref().map(|said| said.value.as_str().to_owned());
    let name = choice.backend.clone().or_else(said).or_else(|| settings.backend.clone());
    name.map_or_else(|| Ok(found_backend(desk.home)), |name| Backend::parse(&name))
}

/// Decides what a container engine makes the bottle of: what a manifest says, what the host's settings say, else what the
/// provider's own Dockerfile gives. Reads files; builds nothing.
pub(super) fn image_of(
    backend: Backend,
    merged: &Effective,
    settings: &Settings,
    provider: &str,
    desk: &Desk<'_>,
) -> Result<Option<Wanted>> {
    if backend != Backend::Docker {
        return Ok(None);
    }
    let place = merged.image.as_ref().or(merged.dockerfile.as_ref()).map(|said| said.place.to_string());
    let text = |said: &Option<Said<String>>| said.as_ref().map(|said| said.value.clone());
    let said = image::Said::of(text(&merged.image).as_deref(), text(&merged.dockerfile).as_deref())?;
    let said = match said {
        Some(said) => Some(said),
        None => image::Said::by_settings(settings)?,
    };
    let desk = image::Desk { home: desk.home, user_home: desk.user_home, workspace: Some(desk.cwd) };
    let args: image::Args = merged.build_args.iter().map(|(name, said)| (name.clone(), said.value.clone())).collect();
    let wanted = image::wanted(said, provider, &desk);
    wanted.and_then(|wanted| wanted.map(|wanted| wanted.with_args(args)).transpose()).map_err(|error| {
        match (&error.place, place) {
            (None, Some(place)) => error.at(place),
            _ => error,
        }
    })
}

/// Gets what the bottle may use of the machine.
pub(super) fn limits_of(merged: &Effective) -> Option<api::Limits> {
    let limits = &merged.limits;
    let limits = api::Limits {
        memory: limits.memory.as_ref().map(|said| said.value),
        cpus: limits.cpus.as_ref().map(|said| said.value),
        pids: limits.pids.as_ref().map(|said| said.value),
        disk: limits.disk.as_ref().map(|said| said.value),
        best_effort: limits.best_effort.as_ref().is_some_and(|said| said.value),
    };
    (limits != api::Limits::default()).then_some(limits)
}

/// Checks that the programs that a manifest needs are on this machine.
pub(super) fn missing_tools(merged: &Effective, desk: &Desk<'_>) -> Result<()> {
    let path = (desk.lookup)("PATH").unwrap_or_default();
    for tool in &merged.tools {
        if crate::bottle::toolchain::find(&tool.value, &path).is_none() {
            return Err(Error::new(Kind::AgentMissing, format!("`{}` is not on this machine", tool.value))
                .at(tool.place.to_string())
                .hint(format!("install `{}`, or take it out of `tools`", tool.value)));
        }
    }
    Ok(())
}

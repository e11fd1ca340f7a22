//! Keeping a bottle that runs: its session whatever end it comes to, and of a container what its agent has put into its home.
//!
//! The bottle goes on. Decides nothing about its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Live;
use crate::api::State;
use crate::bottle::docker::commit;
use crate::controller::compose::AGENT_HOME;
use crate::error::{Error, Kind, Result};
use crate::workspace::session;

impl Live {
    /// Keeps it: see `bb commit`. With `image`, an image of that name is made of it as well.
    ///
    /// # Errors
    /// `usage` where it has no session, does not run or is paused, `backend_unavailable` where its home cannot be saved.
    pub async fn commit(self: &Arc<Self>, image: Option<String>) -> Result<()> {
        self.has_session()?;
        let of = |what: &str, hint: String| Err(Error::new(Kind::Usage, format!("`{}` {what}", self.slug)).hint(hint));
        let container = commit::is_container(&self.state_dir);
        match self.view().state {
            State::Running => {}
            State::Paused if !container => {}
            State::Paused => {
                return of("is paused: what it has cannot be looked at", format!("`bb thaw {}`", self.slug));
            }
            _ => return of("does not run", "`bb ps` lists what runs".to_owned()),
        }
        if let Some(image) = &image {
            commit::check_name(image)?;
            if !container {
                let hint = "leave --image out: it is kept all the same".to_owned();
                return of("is no container: no image comes of it", hint);
            }
        }
        let live = Arc::clone(self);
        // In a task of its own: a front end that goes away must not leave it half done.
        let done = tokio::spawn(async move {
            session::commit(&live.state_dir, &live.launch.id)?;
            live.save_home().await?;
            let Some(image) = image else { return Ok(()) };
            let state = live.state_dir.clone();
            let made = move || commit::make_image(&state, &session::home_archive(&state), &image);
            tokio::task::spawn_blocking(made).await.map_err(|e| Error::internal(e.to_string()))?
        });
        done.await.map_err(|e| Error::internal(e.to_string()))?
    }

    /// Tells whether there is a session that could be kept.
    pub(super) fn has_session(&self) -> Result<()> {
        if self.launch.session.is_some() {
            return Ok(());
        }
        Err(Error::new(Kind::Usage, format!("`{}` has no session that could be kept", self.slug)).hint(
            "bottles of `bb start` have one, where the provider's file says what to keep; `bb stop` ends this one",
        ))
    }

    /// Saves what a container's agent has in its home, beside what lies on the host anyway.
    pub(super) async fn save_home(&self) -> Result<()> {
        let state = self.state_dir.clone();
        if !commit::is_container(&state) {
            return Ok(());
        }
        // One at a time, and not while its processes are stopped by somebody else.
        let _turn = self.pausing.lock().await;
        let home = Path::new(AGENT_HOME);
        let kept = self.launch.session.iter().flat_map(|session| &session.keep);
        let mut skip: Vec<PathBuf> =
            kept.filter_map(|place| place.strip_prefix("~/")).map(|place| home.join(place)).collect();
        skip.push(self.view().workspace.into());
        skip.extend(self.launch.mounts.iter().map(|m| PathBuf::from(m.target.as_ref().unwrap_or(&m.source))));
        let saved = tokio::task::spawn_blocking(move || {
            commit::save(&state, Path::new(AGENT_HOME), &skip, &session::home_archive(&state))
        });
        saved.await.map_err(|e| Error::internal(e.to_string()))?.map(drop)
    }
}

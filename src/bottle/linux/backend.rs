//! The embedded backend as a keeper sees it: hands each call on to the function that does it, and decides nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::launch::{self, Up};
use super::watch::Watch;
use super::{enter, listeners, stop, view};
use crate::bottle::backend::{Backend, Fate, Running};
use crate::bottle::cgroup;
use crate::bottle::freezer::Freezer;
use crate::bottle::plan::Plan;
use crate::bottle::wire::{Command, Listener};
use crate::error::{Error, Kind, Result};

/// A bottle out of namespaces.
#[derive(Debug)]
pub struct Embedded {
    up: Up,
    as_root: bool,
    /// Its mounts; `None` once one of them is gone.
    watch: Option<Watch>,
    /// Its control group, where it has one that can be frozen.
    freezer: Option<Freezer>,
    /// It is frozen by that, not stopped by signals.
    frozen: bool,
    groups: Vec<PathBuf>,
}

impl Embedded {
    /// Builds the bottle of `plan`.
    ///
    /// # Errors
    /// See [`launch::up`].
    pub fn up(plan: &Plan) -> Result<Embedded> {
        let failed = |e: std::io::Error| Error::new(Kind::BackendUnavailable, format!("keeper: control group: {e}"));
        let doors = cgroup::doors(&plan.cgroups).map_err(failed)?;
        let up = Up { doors, ..launch::up(plan)? };
        let guards = plan.guards.iter().map(|guard| plan.workspace.join(&guard.path));
        let watch = Watch::new(up.pid, guards)
            .map_err(|e| Error::new(Kind::BackendUnavailable, format!("keeper: mounts: {e}")))?;
        Ok(Embedded {
            up,
            as_root: plan.as_root,
            watch: Some(watch),
            freezer: Freezer::of(&plan.cgroups),
            frozen: false,
            groups: plan.cgroups.clone(),
        })
    }
}

impl Backend for Embedded {
    fn pid(&self) -> i32 {
        self.up.pid
    }

    fn listeners(&mut self) -> Vec<(Listener, OwnedFd)> {
        std::mem::take(&mut self.up.listeners)
    }

    fn mounts(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        let renames = self.watch.as_ref().and_then(Watch::renames);
        [self.up.pidfd.as_fd()].into_iter().chain(renames).collect()
    }

    fn fate(&mut self) -> Fate {
        let mut fds = [nix::poll::PollFd::new(self.up.pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
        if nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).is_ok_and(|n| n > 0) {
            return Fate::Ended;
        }
        // Nothing in the bottle can change its mounts: the host has replaced a guarded file.
        let lost = match self.watch.as_mut().map(Watch::fallen) {
            Some(Ok(Some(path))) => Some(path.display().to_string()),
            Some(Err(e)) => Some(format!("the table of mounts ({e})")),
            Some(Ok(None)) | None => None,
        };
        match lost {
            Some(lost) => {
                self.watch = None;
                Fate::GuardLost(lost)
            }
            None => Fate::Lives,
        }
    }

    fn exec(&mut self, command: &Command) -> Result<Running> {
        enter::run(&self.up, self.as_root, command)
    }

    fn signal(&mut self, pid: i32, signal: Signal) {
        let _ = kill(Pid::from_raw(-pid), signal);
    }

    fn listen(&mut self, port: u16) -> Result<OwnedFd> {
        listeners::one_more(&self.up, self.as_root, port)
    }

    fn pause(&mut self, on: bool) -> Result<()> {
        if let Some(freezer) = &mut self.freezer
            && (on || self.frozen)
        {
            match freezer.set(on) {
                Ok(()) => {
                    self.frozen = on;
                    return Ok(());
                }
                Err(e) if !on => {
                    return Err(Error::new(Kind::BackendUnavailable, format!("thawing the control group: {e}")));
                }
                // By signals, then; half frozen, it could not be told from what those do.
                Err(_) => {
                    let _ = freezer.set(false);
                }
            }
        }
        stop::all(&self.up, if on { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    fn ran_out_of_memory(&self) -> bool {
        cgroup::ran_out_of_memory(&self.groups)
    }

    fn root(&mut self) -> Result<OwnedFd> {
        view::root(&self.up)
    }

    fn kill(&mut self) {
        let _ = kill(Pid::from_raw(self.up.pid), Signal::SIGKILL);
    }

    fn clear(&mut self) {
        self.watch = None;
        while waitpid(Pid::from_raw(self.up.pid), None) == Err(nix::errno::Errno::EINTR) {}
    }
}

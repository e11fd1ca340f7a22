//! A container's file system as a descriptor: whoever has it looks up paths with the container's root as the root.
//!
//! It is opened through the process table, by the number that the engine gives for the container's pid 1. A number proves
//! nothing (the engine may number by another table than ours, or the process be gone), so what is found there has to be
//! this very container: it shows a file that the host has made for this bottle alone.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open as open_path};
use nix::sys::stat::Mode;

use super::Shown;
use super::engine::Engine;
use crate::error::{Error, Kind, Result};
use crate::os::beneath::{self, Dir, Resolve};
use crate::os::process::Process;

/// A file of the host that only this container shows, and where.
#[derive(Clone, Debug)]
pub struct Mark(Option<(PathBuf, PathBuf)>);

impl Mark {
    /// Takes one of the files that are shown.
    pub fn of(shown: &[Shown]) -> Mark {
        Mark(shown.first().map(|Shown { source, target }| (source.clone(), target.clone())))
    }

    fn is_in(&self, root: &Dir) -> io::Result<bool> {
        let Some((source, target)) = &self.0 else { return Ok(false) };
        let shown = root.look(target)?.map(|found| found.id);
        Ok(shown == Some(beneath::identity(source)?))
    }
}

/// Opens the root of a container.
///
/// # Errors
/// `backend_unavailable` where that cannot be done, as where the engine numbers its processes by another table.
pub fn open(engine: &Engine, container: &str, pid: i32, mark: &Mark) -> Result<OwnedFd> {
    let failed = |e: &dyn std::fmt::Display| {
        Error::new(Kind::BackendUnavailable, format!("the file system of the container: {e}"))
            .at(engine.version.clone())
            .hint("use the workspace, or `bb exec -i` with tar and a pipe")
    };
    if pid < 1 {
        return Err(failed(&"the engine does not say which process it is"));
    }
    // Held first: the number cannot come to mean another one between the engine's answer and the look at it.
    let process = Process::open(pid).map_err(|e| failed(&e))?;
    let state = engine.json("GET", &format!("/containers/{container}/json"), None)?;
    if state["State"]["Pid"].as_i64() != Some(i64::from(pid)) {
        return Err(failed(&"it has ended"));
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let path = Path::new("/proc").join(pid.to_string()).join("root");
    let fd = open_path(&path, flags, Mode::empty()).map_err(|e| failed(&e))?;
    if process.ends_within(0).map_err(|e| failed(&e))? {
        return Err(failed(&"it has ended"));
    }
    let root = Dir::of(fd.try_clone().map_err(|e| failed(&e))?, Resolve::InRoot);
    match mark.is_in(&root) {
        Ok(true) => Ok(fd),
        Ok(false) => Err(failed(&"the engine's processes are not those of this system's table")),
        Err(e) => Err(failed(&e)),
    }
}

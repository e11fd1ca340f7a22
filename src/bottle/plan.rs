//! The plan of a bottle: everything that its keeper needs to build it, and nothing secret.
//!
//! Plain data, made by the controller from a launch ([`crate::bottle::guard`] has looked at each path by then), carried
//! out by [`crate::bottle::linux`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a keeper builds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The bottle's name; also its host name inside.
    pub slug: String,
    /// Where the keeper listens for controllers that come back.
    pub socket: PathBuf,
    /// Where it writes what the agent writes.
    pub log: PathBuf,
    /// User and group id of the agent on the host. Never 0.
    pub host_uid: u32,
    /// See `host_uid`.
    pub host_gid: u32,
    /// Whether the keeper runs as root and must become `host_uid` before anything of the bottle exists.
    pub as_root: bool,
    /// What of the host is shown, in this order.
    pub binds: Vec<Bind>,
    /// Symbolic links made in the root: (target, path).
    pub links: Vec<(String, PathBuf)>,
    /// Paths in the bottle that are hidden: credential files below something that is shown.
    pub masks: Vec<PathBuf>,
    /// Paths below the workspace that cannot be changed.
    pub guards: Vec<Guard>,
    /// Files made in the bottle.
    pub files: Vec<PlannedFile>,
    /// The agent's home, a file system of its own.
    pub home: PathBuf,
    /// Its bound in bytes; the same for `/tmp`.
    pub scratch_bytes: u64,
    /// All that the bottle writes beside its workspace has one bound together, `scratch_bytes`.
    #[serde(default)]
    pub one_scratch: bool,
    /// Control groups that its processes join.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// The workspace, and the first working directory.
    pub workspace: PathBuf,
    /// The workspace is a layer over a directory of the host, in place of a bind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<Overlay>,
    /// TCP ports that listeners are made for, beside DNS.
    pub ports: Vec<u16>,
    /// How to start a controller again: executable and `BB_HOME`.
    pub controller: Starter,
    /// What a container engine needs beside; the embedded backend builds the bottle where it is absent.
    #[serde(default)]
    pub image: Option<Image>,
}

impl Plan {
    /// Gets the user and group of its agent on the host.
    pub fn agent(&self) -> (u32, u32) {
        (self.host_uid, self.host_gid)
    }
}

/// A bottle that a container engine makes of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name, as the engine knows it.
    pub name: String,
    /// The engine's address as the user gives it (`DOCKER_HOST`); looked for where absent.
    pub engine: Option<String>,
    /// A static build of bb, shown in the containers.
    pub helper: PathBuf,
    /// Directory for what is made on the host for the bottle's life.
    pub state: PathBuf,
    /// The `BB_HOME` that the bottle belongs to; containers are labelled with it.
    pub home: PathBuf,
    /// Memory, bytes.
    #[serde(default)]
    pub memory: Option<u64>,
    /// Processors, thousandths of one.
    #[serde(default)]
    pub cpus: Option<u32>,
    /// Processes and threads.
    #[serde(default)]
    pub pids: Option<u32>,
}

/// How a keeper starts a controller when its own has died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starter {
    /// The executable.
    pub exe: PathBuf,
    /// Environment of the controller, `NAME=VALUE`.
    pub env: Vec<String>,
    /// While this file exists the operator wants no controller.
    pub stopped: PathBuf,
}

/// A file or directory of the host shown in the bottle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// In the bottle.
    pub target: PathBuf,
    /// Writable.
    pub rw: bool,
    /// Owned by root on the host, shown as the agent's (an idmapped mount).
    pub idmap: bool,
    /// Device nodes work (`/dev/null` and its like only).
    pub device: bool,
    /// Not an error when it is missing.
    pub optional: bool,
}

impl Bind {
    /// Shows `path` at the same place, read-only.
    pub fn read_only(path: impl Into<PathBuf>) -> Bind {
        let path = path.into();
        Bind { source: path.clone(), target: path, rw: false, idmap: false, device: false, optional: false }
    }

    /// Makes a missing source no error.
    pub fn optional(mut self) -> Bind {
        self.optional = true;
        self
    }

    /// Shows it elsewhere.
    pub fn at(mut self, target: impl Into<PathBuf>) -> Bind {
        self.target = target.into();
        self
    }
}

/// The two directories of the host that a layered workspace is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// What lies below; only read.
    pub lower: Bind,
    /// A directory with `upper` and `work` in it.
    pub layer: Bind,
}

/// A path in the workspace that the agent cannot change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Relative to the workspace, without links.
    pub path: PathBuf,
    /// `false`: can be written but neither renamed nor removed (it holds something that is guarded).
    pub read_only: bool,
}

/// A file made in the bottle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Absolute path in the bottle.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// Permission bits.
    pub mode: u32,
}

//! How a workspace comes into a bottle, what a bottle may use of the machine, and what an agent has changed.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How the working directory comes into the bottle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceMode {
    /// The directory itself, writable.
    #[default]
    Mount,
    /// The directory below, what the agent writes in a layer of its own.
    Overlay,
    /// A copy of the directory.
    Copy,
}

impl WorkspaceMode {
    /// Gets the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkspaceMode::Mount => "mount",
            WorkspaceMode::Overlay => "overlay",
            WorkspaceMode::Copy => "copy",
        }
    }
}

/// What a bottle may use of the machine; nothing said = no limit of bb's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processors, thousandths of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// What it writes, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Start also where a limit cannot be enforced; it is said.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub best_effort: bool,
}

/// What has become of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It is new.
    Added,
    /// Its content, or what it is, has changed.
    Changed,
    /// Only its permission bits have changed.
    Mode,
    /// It is gone, with everything below it.
    Deleted,
}

impl What {
    /// Gets the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            What::Added => "added",
            What::Changed => "changed",
            What::Mode => "mode",
            What::Deleted => "deleted",
        }
    }
}

/// What something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A FIFO, a socket, a device.
    Special,
}

/// One change of an agent's. Everything in it is untrusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Path below the workspace. Bytes that are no UTF-8 are replaced; such a path is refused.
    pub path: String,
    /// What became of it.
    pub what: What,
    /// What it is now; of one that is gone, what it was.
    pub kind: FileKind,
    /// Permission bits before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_mode: Option<u32>,
    /// Permission bits now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Bytes now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Where a link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Lines that are new, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_lines: Option<u32>,
    /// Lines that are gone, where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_lines: Option<u32>,
    /// A unified diff, where it is text, was asked for and is not too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// Why it is never applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What the host has changed there meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
    /// Stands for exactly this change: an apply names it, so that nothing is applied that was not shown.
    pub fingerprint: String,
}

/// Body of `POST /v1/bottles/S/diff`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffQuery {
    /// Only these paths below the workspace, and what lies below them; everything when empty.
    #[serde(default)]
    pub paths: Vec<String>,
    /// With unified diffs.
    #[serde(default)]
    pub text: bool,
}

impl DiffQuery {
    /// Gets the paths below `workspace` that are asked for; empty where that is everything. A path may be absolute, or
    /// written with `.` in it.
    pub fn below(&self, workspace: &Path) -> Vec<PathBuf> {
        let plain = |path: &String| -> PathBuf {
            let path = Path::new(path);
            let parts = path.strip_prefix(workspace).unwrap_or(path).components();
            parts.filter(|part| *part != Component::CurDir).collect()
        };
        let paths: Vec<PathBuf> = self.paths.iter().map(plain).collect();
        // The workspace itself is everything, whatever is named beside it.
        if paths.iter().any(|path| path.as_os_str().is_empty()) { Vec::new() } else { paths }
    }
}

/// Answer of `POST /v1/bottles/S/diff`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The bottle.
    pub slug: String,
    /// The workspace on the host.
    pub workspace: String,
    /// How it came into the bottle.
    pub mode: WorkspaceMode,
    /// What the agent has changed, by path.
    pub changes: Vec<Change>,
    /// There is more than is listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// One change that is to be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// [`Change::path`].
    pub path: String,
    /// [`Change::fingerprint`].
    pub fingerprint: String,
}

/// Body of `POST /v1/bottles/S/apply`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// Chosen by the client.
    pub id: String,
    /// What was shown and is wanted.
    pub changes: Vec<Wanted>,
}

/// What became of one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is in the workspace.
    Applied,
    /// It is never applied.
    Refused,
    /// The host has changed the same.
    Conflict,
    /// The agent has changed it since it was shown, or it is no change any more.
    Stale,
    /// The system said no.
    Failed,
}

impl Outcome {
    /// Gets the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::Refused => "refused",
            Outcome::Conflict => "conflict",
            Outcome::Stale => "stale",
            Outcome::Failed => "failed",
        }
    }
}

/// What became of one change, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// [`Change::path`].
    pub path: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why, where it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer of `POST /v1/bottles/S/apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The bottle.
    pub slug: String,
    /// Each change that was wanted.
    pub done: Vec<Done>,
}

/// Body of `POST /v1/bottles/S/copy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// Chosen by the client.
    pub id: String,
    /// Out of the bottle; else into it.
    pub out: bool,
    /// Path in the bottle; below the workspace where it is not absolute.
    pub bottle: String,
    /// Absolute path on the host.
    pub host: String,
}

/// Answer of `POST /v1/bottles/S/copy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was left out, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

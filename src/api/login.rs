//! A subscription login of the host that a bottle works with: whose form it has, and in which file of the host it lies.
//!
//! It names the file and never a token: tokens stay in that file and in the controller's memory.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::os::own_file::Bounds;

/// A login by which requests are answered for, in place of a credential whose value is known at launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// How the file is read, and who gives fresh tokens for it.
    pub form: LoginForm,
    /// The file that the host's own CLI keeps it in; absolute, links resolved.
    pub file: PathBuf,
}

impl Login {
    /// What its file has to be. Claude Code keeps the tokens of MCP servers in it as well.
    pub const BOUNDS: Bounds = Bounds { links: false, of_root: true, closed: 0o022, most: 256 << 10 };
}

/// Whose login it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginForm {
    /// Claude Code's: `~/.claude/.credentials.json`.
    Claude,
    /// Codex's: `~/.codex/auth.json`.
    Codex,
}

impl LoginForm {
    /// Gets the word that stands for it everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            LoginForm::Claude => "claude",
            LoginForm::Codex => "codex",
        }
    }
}

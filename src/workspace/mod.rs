//! Workspaces that an agent does not write into directly: a layer over the directory, or a copy of it.
//!
//! * [`prepare`]: makes the layer or the copy before a bottle starts. [`kept`]: what is remembered of it, and for how long.
//! * [`changes`]: what the agent has changed; `content`: of the files themselves. [`text`]: as a unified diff. [`refuse`]: what is never brought over.
//! * [`apply`]: brings changes over. [`transfer`]: copies files into a bottle and out of it.
//! * [`session`]: the agent's own session, which may outlive its bottle.
//!
//! Everything that an agent wrote is untrusted: no link of its is followed ([`crate::os::beneath`]), what is read is bounded,
//! nothing is executed. Works while the bottle runs and after it has ended. Knows nothing of routes, budgets or keepers.

pub mod apply;
pub mod changes;
mod content;
pub mod kept;
pub mod prepare;
pub mod put;
pub mod refuse;
pub mod session;
pub mod text;
pub mod transfer;

/// Largest file that is looked at and brought over, bytes.
pub const MOST_FILE: u64 = 1 << 30;

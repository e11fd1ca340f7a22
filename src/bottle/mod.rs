//! Bottles: what may be shown ([`places`], [`toolchain`]) and what is guarded ([`guard`], [`repository`]), the plan ([`plan`]), the
//! process that holds one ([`keeper`]; made by [`fork_server`]) with its commands ([`exec`], [`input`]) and what makes it ([`backend`]:
//! [`linux`] or [`docker`]), what is said between keeper and controller ([`wire`], [`caller`]), and what an agent wrote ([`output`]).
//!
//! Only [`linux`] and the keeper know that they run on Linux (and [`crate::os`]). Nothing here decides about egress or budgets.

pub mod backend;
pub mod caller;
pub mod cgroup;
pub mod docker;
pub mod exec;
pub mod fork_server;
pub mod freezer;
pub mod guard;
pub mod input;
pub mod keeper;
pub mod linux;
pub mod output;
pub mod places;
pub mod plan;
pub mod repository;
pub mod toolchain;
pub mod wire;

/// The agent's home in a bottle.
pub const AGENT_HOME: &str = "/home/agent";

/// The address of a bottle's gate, on every backend.
pub use linux::gate::GATE_V4;
/// What the rest of bb asks of the embedded backend.
pub use linux::landlock::version as landlock_version;
pub use linux::{AGENT_ID, RESERVED_ID, forbidden};

//! The embedded backend: a bottle out of Linux namespaces, with no daemon, no root and no image.
//!
//! * [`backend`]: what a keeper sees of all this.
//! * [`launch`]: the choreography of the processes that set a bottle up.
//! * [`gate`]: the two network namespaces. [`listeners`]: the sockets in the gate.
//! * [`root`]: the bottle's file system.
//! * [`confine`]: no capabilities, no new privileges, seccomp.
//! * [`enter`]: the one way in, for the agent and for every later exec. [`terminal`]: terminals of its own.
//! * [`init`]: pid 1. [`stop`]: all the others, stopped and let go on.
//! * [`watch`]: whether its mounts stay. [`view`]: its root as a descriptor.
//! * [`forbidden`]: why this machine forbids user namespaces, and the remedy.
//! * [`sys`]: the system calls that no library wraps.
//!
//! Everything here runs in the keeper or in its children, single-threaded, between fork and exec. None of it knows of
//! routes, budgets or credentials.

pub mod backend;
pub mod confine;
pub mod enter;
pub mod filter;
pub mod forbidden;
pub mod gate;
pub mod init;
pub mod landlock;
pub mod launch;
pub mod listeners;
pub mod root;
pub mod stop;
pub mod sys;
pub mod terminal;
pub mod view;
pub mod watch;

/// The agent's user and group id inside the bottle.
pub const AGENT_ID: u32 = 1000;

/// Host user id of agents whose workspace belongs to root: no account has it, so it owns nothing on the host.
pub const RESERVED_ID: u32 = 1_650_589_696;

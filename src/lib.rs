//! `bb` runs coding agents in bottles: sandboxes whose only way out is metered and can be cut.
//!
//! Where things live, from the front to the back; arrows between them point downwards only
//! (docs/architecture.md):
//!
//! * [`cli`]: one file per command; arguments and printing, no logic.
//! * [`lua`]: the scripting host; recipes and the `bb.*` API.
//! * [`client`], [`api`]: the typed client of the controller's socket, and what is said on it.
//! * [`terminal`]: a person's terminal and an agent's, joined.
//! * [`controller`]: the daemon that owns everything below.
//! * [`enforce`]: from a crossed budget to an action.
//! * [`egress`]: the only way out: names, routes, TLS, credentials, forwarding, refusals.
//! * [`bottle`]: spec, keeper, and the two backends. [`workspace`]: what is kept of one, and what comes back of it.
//! * [`ledger`]: usage, holds, budgets and audit on disk.
//! * [`budget`], [`meter`]: arithmetic and wire formats; pure.
//! * [`ask`]: questions at a terminal.
//! * [`image`]: images of backend `docker`: which one, and how it comes to be there.
//! * [`provider`]: how one agent CLI is run. [`rehearse`]: stand-in model APIs.
//! * [`launch`]: from a chosen agent to a launch. [`manifest`]: the files that say what an agent is and what its bottle allows.
//! * [`secret`]: credentials out of files and commands.
//! * [`settings`], [`home`], [`name`], [`yaml`], [`types`], [`error`], [`printable`]: shared by all. [`os`]: what the operating system is asked for.

pub mod api;
pub mod ask;
pub mod bottle;
pub mod budget;
pub mod cli;
pub mod client;
pub mod controller;
pub mod egress;
pub mod enforce;
pub mod error;
pub mod home;
pub mod image;
pub mod launch;
pub mod ledger;
pub mod lua;
pub mod manifest;
pub mod meter;
pub mod name;
pub mod os;
pub mod printable;
pub mod provider;
pub mod rehearse;
pub mod secret;
pub mod settings;
pub mod terminal;
pub mod types;
pub mod workspace;
pub mod yaml;

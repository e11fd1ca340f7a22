//! The scripting host: recipes in a Luau VM, and the `bb.*` API that they call.
//!
//! A recipe looks blocking and yields underneath. Its VM lives on a thread of its own and reaches everything through the
//! controller's client; nothing here touches a bottle, a ledger or a budget directly. One file for each namespace:
//! [`launch`], [`handle`], [`meter`], [`ledger`], [`budget`], [`tasks`], [`on`], [`log`], [`args`], [`exit`],
//! [`rehearse`], [`manifest`], [`plan`], [`ui`]; [`images`], [`progress`] and [`credentials`]: what a launch is made of; around them [`recipe`] (its life), [`vm`] (what it sees), [`host`] (what it has), [`grants`] (what it
//! may), [`errors`] (how its faults are shown) and [`values`] (how its options are read).

pub mod agent_output;
pub mod args;
mod attach;
mod budget;
mod credentials;
pub mod errors;
mod exit;
pub mod grants;
mod handle;
mod host;
mod images;
mod launch;
mod ledger;
mod limits;
pub mod log;
mod manifest;
mod meter;
mod modules;
mod on;
mod plan;
pub mod progress;
pub mod recipe;
mod rehearse;
mod tasks;
mod ui;
pub mod values;
mod vm;

#[cfg(test)]
mod tests;

pub use recipe::{Recipe, Settings, Stop, run};
pub use vm::GLOBALS;

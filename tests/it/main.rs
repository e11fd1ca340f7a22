//! The integration tests, one module per capability. Real components only: real bottles, real sockets, real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::type_complexity, clippy::needless_lifetimes, missing_docs)]

mod agents;
mod bad_input;
mod battery;
mod bound;
mod commands;
mod cp;
mod crash;
mod decisions;
mod dev_server;
mod docker;
mod docker_state;
mod doctor;
mod guards;
mod headless;
mod input;
mod keeper;
mod leaks;
mod limits;
mod looper;
mod loosening;
mod lua_api;
mod manifest;
mod names;
mod nightly;
mod quickstart;
mod rehearsal;
mod session;
mod start;
mod support;
mod terminal;
mod toolchain;
mod workspace;
mod world;

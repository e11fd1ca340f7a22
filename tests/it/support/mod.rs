//! What the integration tests stand on: a closed world with canaries in it, and the real tools that may be on a machine.
//!
//! Nothing that a test starts can reach beyond the machine: see [`World`].
#![allow(dead_code, unused_imports)]

mod canary;
mod command;
pub mod debian;
pub mod desk;
pub mod dockerd;
pub mod engine;
mod left;
mod leftovers;
pub mod nameserver;
pub mod packages;
pub mod person;
pub mod rehearsed;
mod site;
pub mod tmux;
pub mod toolchains;
mod warden;
mod world;

use std::path::PathBuf;
use std::time::Duration;

pub use canary::Hit;
pub use command::{Command, Output, Running, signal};
pub use site::{Reply, Seen, Site};
pub use warden::{Process, status};
pub use world::{Who, World};

/// Says that a test cannot run here for want of `what`; with `BB_TEST_REQUIRE=all` that is a failure.
pub fn need(what: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    assert!(std::env::var_os("BB_TEST_REQUIRE").is_none_or(|v| v != "all"), "{name} needs {what}");
    eprintln!("SKIPPED {name}: lacks {what}");
}

/// Says that a test is one for root. It is left out elsewhere, whatever is required: whoever requires all runs it as both.
pub fn need_root() {
    eprintln!("SKIPPED {}: it is one for root", std::thread::current().name().unwrap_or("a test"));
}

/// Tells whether the long versions of the tests are wanted.
pub fn full() -> bool {
    std::env::var_os("BB_TEST_FULL").is_some_and(|v| v == "1")
}

/// Gets `long` in the long check, `short` in the everyday one.
pub fn reduced(long: usize, short: usize) -> usize {
    if full() { long } else { short }
}

/// Gets the time that something may take for which `promised` is what users are told: just that in the long check, which has
/// its machine to itself. The everyday one runs beside whatever else the machine does, and finds what hangs.
pub fn within(promised: Duration) -> Duration {
    if full() { promised } else { promised * 4 }
}

/// The directory in which `npm ci` puts the real agent CLIs.
pub fn node_modules() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/agents/node_modules")
}

/// Tells whether the real CLI `name` was installed by `npm ci` (and its own install step) in `tests/agents`.
pub fn has_agent(name: &str) -> bool {
    let link = node_modules().join(".bin").join(name);
    // The package's own placeholder is a few hundred bytes of text.
    std::fs::metadata(link).is_ok_and(|m| m.is_file() && (name != "claude" || m.len() > 1 << 20))
}

/// Finds a program in the system's directories.
pub fn tool(name: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|d| PathBuf::from(d).join(name))
        .find(|p| p.exists())
}

/// Tells whether all of `names` are installed; says which is not.
pub fn have_tools(names: &[&str]) -> bool {
    match names.iter().find(|n| tool(n).is_none()) {
        Some(missing) => {
            need(missing);
            false
        }
        None => true,
    }
}

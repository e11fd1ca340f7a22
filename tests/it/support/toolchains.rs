//! Toolchains that Debian has not, or has too old, as `.ci/run` installs them: shown in a world as a user's own are, by its
//! PATH. Must not download anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{World, tool};

/// A directory with programs in it.
pub struct Toolchain {
    /// The directory.
    pub from: PathBuf,
    /// Where its programs are in it.
    pub bin: &'static str,
}

impl Toolchain {
    /// Tells whether it has a program.
    pub fn has(&self, program: &str) -> bool {
        self.from.join(self.bin).join(program).exists()
    }
}

/// Gets the vendors' SDKs for Node, if they are here: packages in a directory of their own, with programs beside them.
pub fn sdks() -> Option<Toolchain> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdks/node_modules");
    Some(Toolchain { from, bin: ".bin" })
        .filter(|sdks| ["openai", "@google/genai", ".bin"].iter().all(|one| sdks.from.join(one).is_dir()))
}

/// Tells whether AWS's SDK for Bedrock is here: one of the real agents brings it, and each world shows those.
pub fn has_bedrock() -> bool {
    super::node_modules().join("@aws-sdk/client-bedrock-runtime").is_dir()
}

/// Gets those that are here: Bun and Deno from npm, a Python with packages from PyPI, and the Rust that builds this.
pub fn all() -> Vec<Toolchain> {
    let built =
        Path::new(env!("CARGO_BIN_EXE_bb")).ancestors().nth(2).map_or_else(PathBuf::new, |d| d.join("toolchains"));
    let npm = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/toolchains/node_modules");
    [(npm, ".bin"), (built.join("python"), "bin"), (built.join("rust"), "bin")]
        .into_iter()
        .map(|(from, bin)| Toolchain { from, bin })
        .filter(|toolchain| toolchain.from.join(toolchain.bin).is_dir())
        .collect()
}

/// Builds a Go program on the host, with nothing from a network, where there is a Go. Both paths are beside each other in `$HOME`.
pub fn build_go(world: &World, source: &str, text: &str, out: &str) {
    let Some(go) = tool("go") else { return };
    let source = world.write(source, text);
    // The cache outlives the world: building the standard library takes most of a minute.
    let cache = std::env::temp_dir().join(format!("bb-go-cache-{}", nix::unistd::geteuid()));
    let dir = source.parent().unwrap();
    let built = Command::new(&go)
        .args(["build", "-o", out])
        .arg(&source)
        .current_dir(dir)
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", cache)
        .env("GO111MODULE", "off")
        .status();
    assert!(built.is_ok_and(|s| s.success()) && fs::exists(dir.join(out)).unwrap(), "go build");
}

//! Where a build gets its packages in a world: an npm registry with one package in it, an apt repository behind a proxy, and this
//! machine's settings that lead there. Must not download anything: the npm package is what `npm ci` has put into `tests/agents`,
//! Debian's are made here and empty.

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Reply, Site, World, node_modules};

/// What opens the registry, and what opens the proxy: secrets of this machine.
pub const NPM_TOKEN: &str = "npm-token-canary-2718";
pub const APT_PASSWORD: &str = "apt-password-canary-1618";

/// The line of `sources.list` that leads to the repository.
pub const SOURCES: &str = "deb [trusted=yes] http://deb.example/ ./\n";

/// The repository's packages.
const DEBIAN: [&str; 3] = ["ca-certificates", "git", "ripgrep"];

/// Puts other settings of apt in the place of this machine's, in a world of root.
pub fn apt_settings(world: &World, text: &str) {
    world.small(Path::new("/etc/apt"), 64);
    let dir = world.inside(Path::new("/etc/apt")).join("apt.conf.d");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("50proxy"), text).unwrap();
}

/// The servers.
pub struct Packages {
    npm: Site,
    apt: Site,
}

impl Packages {
    /// Puts them up, with `package` in the registry and this machine's settings naming them.
    pub fn serve(world: &World, package: &'static str) -> Packages {
        apt_settings(world, &format!("Acquire::http::Proxy \"http://bottle:{APT_PASSWORD}@apt.example:80\";\n"));
        world.write(".npmrc", format!("registry=http://npm.example/\n//npm.example/:_authToken={NPM_TOKEN}\n"));
        let (about, archive) = npm_package(&world.make_dir("packages"), package);
        let npm = world.site("npm.example", move |seen| {
            let authentic = seen.header("authorization") == Some(&format!("Bearer {NPM_TOKEN}"));
            let path = seen.path.replace("%2f", "/").replace("%2F", "/");
            match path.trim_start_matches('/') {
                _ if !authentic => reply(401, "application/json", "{}"),
                path if path == package => reply(200, "application/json", about.to_string()),
                "package.tgz" => reply(200, "application/octet-stream", archive.clone()),
                _ => reply(404, "application/json", "{}"),
            }
        });
        let files = debian_packages(&world.make_dir("packages"));
        let apt = world.site("apt.example", move |seen| {
            let authentic = format!("Basic {}", BASE64.encode(format!("bottle:{APT_PASSWORD}")));
            if seen.header("proxy-authorization") != Some(&authentic) {
                return reply(407, "text/plain", "");
            }
            let found = files.iter().find(|(name, _)| seen.path.rsplit('/').next() == Some(name));
            found.map_or(reply(404, "text/plain", ""), |(_, bytes)| {
                reply(200, "application/octet-stream", bytes.clone())
            })
        });
        Packages { npm, apt }
    }

    /// Gets how often each was asked.
    pub fn asked(&self) -> (usize, usize) {
        (self.npm.seen().len(), self.apt.seen().len())
    }
}

fn reply(status: u16, kind: &str, body: impl Into<Bytes>) -> Reply {
    let body = body.into();
    let length = ("content-length", body.len().to_string());
    Reply { status, headers: vec![("content-type", kind.to_owned()), length], body }
}

/// Runs a program of the system; panics with what it says where it fails.
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Packs an installed package as its registry has it: what the registry says of it, and the archive. What is of no use where
/// it is installed on its own (its documentation, packages that are for other systems) is not served.
fn npm_package(dir: &Path, package: &str) -> (Value, Bytes) {
    let from = fs::canonicalize(node_modules().join(package)).unwrap();
    let archive = dir.join("package.tgz").display().to_string();
    let from_text = from.display().to_string();
    let args = ["-C", &from_text, "--exclude=./bundle/docs", "--exclude=*.map", "--transform=s,^\\.,package,"];
    run("tar", &[&args[..], &["--use-compress-program=gzip -1", "-cf", &archive, "."]].concat());
    let mut manifest: Value = serde_json::from_slice(&fs::read(from.join("package.json")).unwrap()).unwrap();
    manifest["dist"] = json!({"tarball": "http://npm.example/package.tgz"});
    let version = manifest["version"].as_str().unwrap().to_owned();
    let about = json!({"name": package, "dist-tags": {"latest": &version}, "versions": {&version: manifest}});
    (about, fs::read(archive).unwrap().into())
}

/// Makes the packages of a repository without directories: each file by its name, its index among them.
fn debian_packages(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut index = String::new();
    let mut files = vec![];
    for name in DEBIAN {
        let root = dir.join(name);
        fs::create_dir_all(root.join("DEBIAN")).unwrap();
        let control = format!(
            "Package: {name}\nVersion: 99\nArchitecture: all\nMaintainer: Nobody <nobody@deb.example>\nDescription: stands in\n"
        );
        fs::write(root.join("DEBIAN/control"), &control).unwrap();
        let file = dir.join(format!("{name}.deb"));
        run("dpkg-deb", &["--root-owner-group", "--build", &root.display().to_string(), &file.display().to_string()]);
        let bytes = fs::read(file).unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, &bytes);
        let digest: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        index.push_str(&format!("{control}Filename: ./{name}.deb\nSize: {}\nSHA256: {digest}\n\n", bytes.len()));
        files.push((format!("{name}.deb"), bytes));
    }
    files.push(("Packages".to_owned(), index.into_bytes()));
    files
}

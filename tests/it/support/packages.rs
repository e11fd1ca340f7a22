//! Where a build gets its packages in a world: an npm registry with a few packages in it, an apt repository behind a proxy, and
//! this machine's settings that lead there. Must not download anything: npm's packages are what `npm ci` has put into
//! `tests/agents`, Debian's are made here and empty.

use std::collections::BTreeMap;
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
    /// Puts them up, with what lies in `installed` (directories of `node_modules`) in the registry and this machine's settings
    /// naming them.
    pub fn serve(world: &World, installed: &[&str]) -> Packages {
        apt_settings(world, &format!("Acquire::http::Proxy \"http://bottle:{APT_PASSWORD}@apt.example:80\";\n"));
        world.write(".npmrc", format!("registry=http://npm.example/\n//npm.example/:_authToken={NPM_TOKEN}\n"));
        let packages = npm_packages(&world.make_dir("packages"), installed);
        let npm = world.site("npm.example", move |seen| {
            if seen.header("authorization") != Some(&format!("Bearer {NPM_TOKEN}")) {
                return reply(401, "application/json", "{}");
            }
            let path = seen.path.replace("%2f", "/").replace("%2F", "/");
            let found = packages.get(path.trim_start_matches('/'));
            found.map_or(reply(404, "application/json", "{}"), |bytes| {
                reply(200, "application/octet-stream", bytes.clone())
            })
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

/// Packs installed packages as their registry has them: by path, what it says of each name, and the archives.
fn npm_packages(dir: &Path, installed: &[&str]) -> BTreeMap<String, Bytes> {
    let mut served = BTreeMap::new();
    let mut about = BTreeMap::<String, Value>::new();
    for (at, path) in installed.iter().enumerate() {
        let from = fs::canonicalize(node_modules().join(path)).unwrap();
        let mut manifest: Value = serde_json::from_slice(&fs::read(from.join("package.json")).unwrap()).unwrap();
        let archive = format!("package-{at}.tgz");
        manifest["dist"] = json!({"tarball": format!("http://npm.example/{archive}")});
        let text = |key: &str| manifest[key].as_str().unwrap().to_owned();
        let (name, version) = (text("name"), text("version"));
        served.insert(archive, pack(dir, &from));
        // Some have their executables for each system as versions of their own; the first is the one that is asked for.
        let one = about.entry(name.clone()).or_insert_with(|| json!({"name": name, "dist-tags": {"latest": version}}));
        one["versions"][&version] = manifest;
    }
    served.extend(about.into_iter().map(|(name, about)| (name, about.to_string().into())));
    served
}

/// Makes the archive of a package, less what is of no use to anybody who runs it. Where its own script has put an executable in
/// place of what came with it, there is again something to be replaced.
fn pack(dir: &Path, from: &Path) -> Bytes {
    const REPLACED: &str = "bin/claude.exe";
    let archive = dir.join("package.tgz").display().to_string();
    let before = dir.join("before");
    fs::create_dir_all(before.join("bin")).unwrap();
    fs::write(before.join(REPLACED), "not yet\n").unwrap();
    let (from_text, before) = (from.display().to_string(), before.display().to_string());
    let excluded = ["--exclude=./bundle/docs", "--exclude=*.map", "--exclude=./bin/claude.exe"];
    let mut args = vec!["--transform=s,^\\.,package,", "--transform=s,^bin,package/bin,"];
    args.extend(["--use-compress-program=gzip -1", "-cf", &archive, "-C", &from_text]);
    args.extend(excluded);
    args.push(".");
    if from.join(REPLACED).exists() {
        args.extend(["-C", &before, REPLACED]);
    }
    run("tar", &args);
    fs::read(archive).unwrap().into()
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

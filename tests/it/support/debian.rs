//! A small Debian with the real agents in it, as an engine's image: the root that `debootstrap` made (.ci/run has it do so),
//! this machine's Node, and what `npm ci` has put into `tests/agents`. Must not download anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::engine::Engine;
use super::packages::SOURCES;
use super::{need, node_modules, tool};

/// Its name.
const IMAGE: &str = "bottle-agents";

/// Where the agents' programs are in it.
pub const PROGRAMS: &str = "/opt/agents/node_modules/.bin";

/// Gets the archive of a Debian root; says so where there is none.
pub fn root() -> Option<PathBuf> {
    let built = || {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/debian");
        let mut files = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        files.find(|path| path.extension().is_some_and(|extension| extension == "tar"))
    };
    let place = std::env::var_os("BB_TEST_DEBIAN").map(PathBuf::from).or_else(built).filter(|path| path.exists());
    if place.is_none() {
        need("a Debian root (.ci/run makes it by debootstrap; BB_TEST_DEBIAN)");
    }
    place
}

/// Runs a program of the system; panics with what it says where it fails.
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes the image on an engine out of a Debian root, and gets its name.
pub fn import(engine: &Engine<'_>, debian: &Path) -> &'static str {
    let root = engine.dir().join("debian");
    fs::create_dir_all(&root).unwrap();
    let at = root.display().to_string();
    run("tar", &["-C", &at, "-xf", &debian.display().to_string()]);
    copy_node(&root);
    fs::write(root.join("etc/apt/sources.list"), SOURCES).unwrap();
    // The programs lie beside each other, so one archive is made of both places; what links say stays as it is.
    let modules = fs::canonicalize(node_modules()).unwrap();
    let socket = engine.address().replace("unix://", "");
    let url = format!("http://engine/v1.40/images/create?fromSrc=-&repo={IMAGE}&tag=latest");
    let mut tar = Command::new("tar")
        // What only developers read stays out.
        .args(["--exclude=*.map", "--exclude=*.d.ts", "-C", &at])
        .args(["--transform=flags=rSh;s,^node_modules,./opt/agents/node_modules,", "-c", "."])
        .arg("-C")
        .arg(modules.parent().unwrap())
        .arg("node_modules")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let archive = tar.stdout.take().unwrap();
    let sent = Command::new("curl")
        .args(["-sS", "-X", "POST", "-H", "Content-Type: application/x-tar", "--unix-socket", &socket, "-T", "-", &url])
        .stdin(archive)
        .output()
        .unwrap();
    assert!(tar.wait().unwrap().success());
    let made = engine.client().image(IMAGE).unwrap().is_some();
    let said = [sent.stdout, sent.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(made && sent.status.success(), "{:?} took no image: {said}", engine.which);
    fs::remove_dir_all(root).unwrap();
    IMAGE
}

/// Copies this machine's Node and npm into a root, with the libraries that are not there.
fn copy_node(root: &Path) {
    let node = fs::canonicalize(tool("node").unwrap()).unwrap();
    fs::copy(&node, root.join("usr/bin/node")).unwrap();
    let listed = Command::new("ldd").arg(&node).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    for library in text.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':')) {
        let place = root.join(library.trim_start_matches('/'));
        if !place.exists() {
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(library, place).unwrap();
        }
    }
    // Debian's own Node has parts of itself there.
    if Path::new("/usr/share/nodejs").is_dir() {
        run("cp", &["-r", "/usr/share/nodejs", &root.join("usr/share").display().to_string()]);
    }
    // npm lies there too, or has all that it needs in a directory of its own.
    let Some(npm) = tool("npm").and_then(|npm| fs::canonicalize(npm).ok()) else { return };
    let (package, place) = (npm.ancestors().nth(2).unwrap(), npm.strip_prefix("/").unwrap());
    if !package.starts_with("/usr/share/nodejs") {
        let parent = root.join(place.ancestors().nth(3).unwrap());
        fs::create_dir_all(&parent).unwrap();
        run("cp", &["-r", &package.display().to_string(), &parent.display().to_string()]);
    }
    std::os::unix::fs::symlink(&npm, root.join("usr/bin/npm")).unwrap();
}

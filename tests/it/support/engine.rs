//! A real container engine in a world: Docker's daemon or Podman's service, with directories of its own and no network.
//!
//! It runs in a mount namespace of its own below the world's, so that what it keeps in `/run` is nobody else's, and goes
//! with the world. Where an engine cannot be had on a machine at all that is said and the test left out; what fails once
//! it is up is a failure.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bb::bottle::docker::engine::Engine as Client;

use super::command::Running;
use super::world::ORDINARY;
use super::{Who, World, dockerd, have_tools, need, need_root, tool};

/// The image of the tests: busybox, and nothing else.
pub const IMAGE: &str = "bottle-test";

/// The image that has what the battery runs.
const IMAGE_WITH_TOOLS: &str = "bottle-tools";

/// Programs of that image, beside Python.
const PROGRAMS: [&str; 46] = [
    "bash",
    "cat",
    "chmod",
    "cp",
    "curl",
    "cut",
    "dd",
    "df",
    "env",
    "fallocate",
    "find",
    "getent",
    "grep",
    "head",
    "id",
    "install",
    "ip",
    "kill",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mknod",
    "mount",
    "nproc",
    "nsenter",
    "pgrep",
    "ps",
    "readlink",
    "rm",
    "sleep",
    "sort",
    "sed",
    "seq",
    "setsid",
    "tail",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "umount",
    "uname",
    "unshare",
    "wc",
    "yes",
];

/// How long an engine may take to come up or go down.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Docker Engine.
    Docker,
    /// Podman.
    Podman,
    /// Podman without root, run by the ordinary user of the tests.
    Rootless,
    /// The same, with its images served by `fuse-overlayfs`.
    Fuse,
}

impl Which {
    /// Those of root.
    pub const ALL: [Which; 2] = [Which::Docker, Which::Podman];

    /// Tells whether the ordinary user runs it.
    pub fn is_rootless(self) -> bool {
        matches!(self, Which::Rootless | Which::Fuse)
    }
}

/// An engine that answers.
pub struct Engine<'w> {
    /// Which one it is.
    pub which: Which,
    world: &'w World,
    running: Option<Running<'w>>,
    socket: PathBuf,
}

impl<'w> Engine<'w> {
    /// Starts one in a world of root; `None`, and said, where this machine has none.
    pub fn start(world: &'w World, which: Which) -> Option<Engine<'w>> {
        if world.who != Who::Root {
            need_root();
            return None;
        }
        let tools: &[&str] = match which {
            Which::Docker => &["dockerd", "unshare", "busybox", "tar"],
            Which::Podman => &["podman", "unshare", "busybox", "tar"],
            Which::Rootless => &["podman", "unshare", "busybox", "tar", "newuidmap", "runuser"],
            Which::Fuse => &["podman", "unshare", "busybox", "tar", "newuidmap", "runuser", "fuse-overlayfs"],
        };
        if !have_tools(tools) {
            return None;
        }
        helper()?;
        let dir = world.dir().join("engine");
        fs::create_dir_all(&dir).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let socket = dir.join("s");
        let driver = match which {
            Which::Fuse => "--storage-driver overlay --storage-opt overlay.mount_program=/usr/bin/fuse-overlayfs",
            _ => "",
        };
        let podman = format!(
            "podman --root {} --runroot {} --tmpdir {} {driver} --cgroup-manager cgroupfs system service -t 0 unix://{}",
            at("data"),
            at("exec"),
            at("tmp"),
            socket.display()
        );
        let command = match which {
            Which::Docker => dockerd::daemon(&dir),
            Which::Podman => format!("exec {podman}"),
            Which::Rootless | Which::Fuse => {
                let Ok(Some(user)) = nix::unistd::User::from_name(ORDINARY) else {
                    need(&format!("a user named {ORDINARY}"));
                    return None;
                };
                for sub in ["", "home", "run", "data", "exec", "tmp"] {
                    fs::create_dir_all(dir.join(sub)).unwrap();
                    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
                    std::os::unix::fs::chown(dir.join(sub), Some(uid), Some(gid)).unwrap();
                }
                let (home, run) = (at("home"), at("run"));
                // The machine's own device may be for root alone; in the engine's own mount namespace there is one for everybody.
                let fuse = format!("mknod -m 666 {0} c 10 229 && mount --bind {0} /dev/fuse && ", at("fuse"));
                let fuse = if which == Which::Fuse { fuse } else { String::new() };
                format!(
                    "{fuse}cd {home} && exec runuser -u {ORDINARY} -- env HOME={home} XDG_RUNTIME_DIR={run} {podman}"
                )
            }
        };
        let script = dockerd::apart(&command);
        let unshare = tool("unshare").unwrap().display().to_string();
        let running = world.program(&unshare, &["--mount", "sh", "-c", &script]).patience(PATIENCE).spawn();
        let engine = Engine { which, world, running: Some(running), socket };
        let up = world.until(PATIENCE, || {
            engine.running.as_ref().is_none_or(Running::has_ended) || Client::at(&engine.socket).is_ok()
        });
        match Client::at(&engine.socket) {
            Ok(client) if up => {
                let archive = dockerd::archive(&dir, &tool("busybox").unwrap());
                client.import(IMAGE, "latest", &archive).unwrap();
                Some(engine)
            }
            _ => {
                not_here(which, &engine.said());
                None
            }
        }
    }

    /// Gets its address, for `DOCKER_HOST`.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Gets its directory.
    pub fn dir(&self) -> PathBuf {
        self.world.dir().join("engine")
    }

    /// Makes an image that has a shell, Python and curl: this machine's own programs with the libraries that they need.
    /// With `agents`, the agents' own executables too.
    pub fn image_with_tools(&self, agents: &[PathBuf]) -> &'static str {
        let root = self.dir().join("tools");
        let python = fs::canonicalize(tool("python3").unwrap()).unwrap();
        let library = format!("/usr/lib/{}", python.file_name().unwrap().to_string_lossy());
        let mut wanted: Vec<PathBuf> = PROGRAMS.iter().filter_map(|name| tool(name)).collect();
        wanted.push(python);
        for extension in fs::read_dir(Path::new(&library).join("lib-dynload")).into_iter().flatten().flatten() {
            wanted.push(extension.path());
        }
        wanted.extend(agents.iter().cloned());
        let output = std::process::Command::new("ldd").args(&wanted).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let libraries = text.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
        wanted.extend(libraries.map(PathBuf::from));
        // What programs that are shown later may want of the C library beside what these do.
        let libc = wanted.iter().find(|path| path.ends_with("libc.so.6")).cloned();
        let names = ["librt.so.1", "libpthread.so.0", "libdl.so.2", "libm.so.6", "libutil.so.1", "libresolv.so.2"];
        let beside = libc.iter().flat_map(|libc| names.map(|name| libc.with_file_name(name)));
        wanted.extend(beside.filter(|path| path.exists()));
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            std::os::unix::fs::symlink(to, root.join(link)).unwrap();
        }
        wanted.sort();
        wanted.dedup();
        for path in wanted {
            // Programs lie in one directory, libraries where the loader looks.
            let name = path.file_name().unwrap();
            let at = match path.parent().unwrap() {
                _ if agents.contains(&path) => root.join("usr/bin").join(name),
                dir if dir.ends_with("bin") || dir.ends_with("sbin") => root.join("usr/bin").join(name),
                dir if dir.starts_with("/usr") => root.join(path.strip_prefix("/").unwrap()),
                _ => root.join("usr").join(path.strip_prefix("/").unwrap()),
            };
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::copy(&path, &at).unwrap();
        }
        std::os::unix::fs::symlink("bash", root.join("usr/bin/sh")).unwrap();
        let name = root.join("usr/bin/python3");
        if !name.exists() {
            let real = fs::canonicalize(tool("python3").unwrap()).unwrap();
            std::os::unix::fs::symlink(real.file_name().unwrap(), name).unwrap();
        }
        let copied =
            std::process::Command::new("cp").args(["-r", &library]).arg(root.join("usr/lib")).status().unwrap();
        assert!(copied.success());
        let tar = std::process::Command::new("tar").arg("-C").arg(&root).args(["-c", "."]).output().unwrap();
        self.client().import(IMAGE_WITH_TOOLS, "latest", &tar.stdout).unwrap();
        fs::remove_dir_all(root).unwrap();
        IMAGE_WITH_TOOLS
    }

    /// Gets a client of it.
    pub fn client(&self) -> Client {
        Client::at(&self.socket).unwrap()
    }

    /// Lists the ids of containers of bottles, of this role (`agent`, `helper`) or of any.
    pub fn containers(&self, role: Option<&str>) -> Vec<String> {
        let label = role.map_or_else(|| "bb.role".to_owned(), |role| format!("bb.role={role}"));
        self.client().labelled(&[label]).unwrap()
    }

    /// Waits until no container of a bottle is left.
    #[track_caller]
    pub fn assert_empty(&self) {
        let gone = self.world.until(PATIENCE, || self.containers(None).is_empty());
        assert!(gone, "{:?} still has {:?}", self.which, self.containers(None));
    }

    /// Gets the last that it said.
    fn said(&self) -> String {
        let said = self.running.as_ref().map(Running::stderr).unwrap_or_default();
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" | ")
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {:?} said last: {}", self.which, self.said());
        }
        if let Some(running) = self.running.take() {
            running.signal(nix::sys::signal::SIGTERM);
            running.ends_within(PATIENCE);
        }
        dockerd::remove_groups();
    }
}

/// Gets the static build of bb (.ci/run makes it); says so where there is none.
pub fn helper() -> Option<PathBuf> {
    let place = dockerd::helper();
    if place.exists() {
        return Some(place);
    }
    need("a static build of bb (BB_HELPER)");
    None
}

/// Says that an engine does not run on this machine, in a place that outlives the test's captured output. That is no
/// failure, whatever is required: it depends on the kernel.
fn not_here(which: Which, why: &str) {
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {which:?} does not start here: {why}", thread.name().unwrap_or("a test"));
    eprintln!("{line}");
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/engine-skipped");
    let file = fs::OpenOptions::new().create(true).append(true).open(place);
    if let Ok(mut file) = file {
        let _ = std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes());
    }
}

//! Docker's daemon, by hand, for as long as a benchmark runs: with directories of its own and no network.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bb::bottle::docker::engine::Engine as Api;

#[path = "../../tests/it/support/dockerd.rs"]
mod dockerd;

pub use dockerd::helper;

/// The image that containers are made of: busybox, and nothing else.
pub const IMAGE: &str = "bottle-bench";

/// How long the daemon may take to come up or to go.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon that answers.
pub struct Engine {
    child: Child,
    dir: PathBuf,
}

impl Engine {
    /// Starts it; else says why this machine has none.
    pub fn start() -> Result<Engine, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("it is not run by root".into());
        }
        if !helper().exists() {
            return Err("there is no static build of bb (docs/backends.md), or BB_HELPER does not name it".into());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let find = |name: &str| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|place| place.exists());
        for name in ["dockerd", "unshare", "tar"] {
            find(name).ok_or_else(|| format!("`{name}` is not on PATH"))?;
        }
        let busybox = find("busybox").ok_or("`busybox` is not on PATH")?;
        let dir = std::env::temp_dir().join(format!("bb-bench-engine-{}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        let script = dockerd::apart(&dockerd::daemon(&dir));
        let mut command = Command::new("unshare");
        let command = command.args(["--mount", "sh", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|e| e.to_string())?;
        let mut engine = Engine { child, dir };
        let start = Instant::now();
        loop {
            if let Ok(api) = Api::at(&engine.socket()) {
                let archive = dockerd::archive(&engine.dir, &busybox);
                api.import(IMAGE, "latest", &archive).map_err(|e| e.to_string())?;
                return Ok(engine);
            }
            if start.elapsed() > PATIENCE || engine.child.try_wait().is_ok_and(|status| status.is_some()) {
                return Err("Docker's daemon does not start here".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// Gets its address, as `DOCKER_HOST` has it.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Shows every file of its images.
    pub fn files(&self, see: &mut dyn FnMut(&Path)) {
        fn walk(dir: &Path, see: &mut dyn FnMut(&Path)) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => walk(&entry.path(), see),
                    Ok(kind) if kind.is_file() => see(&entry.path()),
                    _ => {}
                }
            }
        }
        walk(&self.dir.join("data"), see);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or_default());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let start = Instant::now();
        while start.elapsed() < PATIENCE && self.child.try_wait().is_ok_and(|status| status.is_none()) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        dockerd::remove_groups();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

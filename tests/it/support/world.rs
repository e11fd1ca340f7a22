//! A world: a closed machine within the machine, in which one test's controller, front ends and bottles live.
//!
//! Its network has no uplink; every address that there is, 8.8.8.8 and 169.254.169.254 included, is one of its own and
//! has canaries on it ([`super::canary`]). Its name server knows only its own sites. It has a home and a `BB_HOME`, its
//! environment is clean, and everything that runs in it is one process tree that goes away with it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bb::rehearse::{Rehearsal, Scenario};

use super::canary::{self, Hit, Log};
use super::command::{Command, Output, Running, signal};
use super::left::Before;
use super::site::{Authority, Reply, Seen, Site};
use super::toolchains::Toolchain;
use super::warden::{Plan, Process, Warden, descendants};
use super::{need, within};

/// The user that tests of root become to be an ordinary one (.ci/run makes it).
pub(super) const ORDINARY: &str = "bbtest";

/// As whom bb runs in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Root; only where the tests run as root.
    Root,
    /// An ordinary user: whoever runs the tests, or `bbtest` where that is root.
    User,
}

impl Who {
    /// Gets everyone that bb can be run by on this machine.
    pub fn all() -> Vec<Who> {
        if nix::unistd::geteuid().is_root() { vec![Who::Root, Who::User] } else { vec![Who::User] }
    }
}

/// See the module.
pub struct World {
    /// As whom bb runs in it.
    pub who: Who,
    dir: PathBuf,
    pub(super) warden: Warden,
    runtime: Option<tokio::runtime::Runtime>,
    log: Arc<Log>,
    authority: Authority,
    sites: AtomicU32,
    env: BTreeMap<String, String>,
    /// What there was before the first command, for [`World::leftovers`].
    pub(super) mounts: usize,
    pub(super) before: Before,
    pub(super) living: Option<BTreeMap<String, u32>>,
}

impl World {
    /// Makes a world of whoever runs the tests; `None`, and said, where this machine cannot.
    pub fn new() -> Option<World> {
        World::of(if nix::unistd::geteuid().is_root() { Who::Root } else { Who::User })
    }

    /// Makes a world of an ordinary user.
    pub fn as_user() -> Option<World> {
        World::of(Who::User)
    }

    /// Makes one world for each of [`Who::all`].
    pub fn each() -> impl Iterator<Item = World> {
        Who::all().into_iter().filter_map(World::of)
    }

    /// Makes a world of `who`.
    pub fn of(who: Who) -> Option<World> {
        World::showing(who, &[])
    }

    /// As [`World::of`], with more toolchains on its PATH, in `tools` of its directory.
    pub fn showing(who: Who, more: &[Toolchain]) -> Option<World> {
        let root = nix::unistd::geteuid().is_root();
        let user = match (who, root) {
            (Who::Root, false) => {
                super::need_root();
                return None;
            }
            (Who::User, true) => match nix::unistd::User::from_name(ORDINARY) {
                Ok(Some(user)) => Some((user.uid.as_raw(), user.gid.as_raw())),
                _ => {
                    need(&format!("a user named {ORDINARY}"));
                    return None;
                }
            },
            _ => None,
        };
        match World::make(who, user, more) {
            Ok(world) => Some(world),
            Err(what) => {
                need(&what);
                None
            }
        }
    }

    fn make(who: Who, user: Option<(u32, u32)>, more: &[Toolchain]) -> Result<World, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Short: a socket's address has 108 bytes.
        let name = format!("bbw-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new("/tmp").join(name);
        let _ = fs::remove_dir_all(&dir);
        let authority = Authority::new();
        let own = |path: &Path| {
            if let Some((uid, gid)) = user {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
            }
        };
        for sub in ["", "home", "bb", "bin", "node_modules"] {
            fs::create_dir(dir.join(sub)).map_err(|e| format!("{}: {e}", dir.display()))?;
            fs::set_permissions(dir.join(sub), fs::Permissions::from_mode(0o755)).unwrap();
            own(&dir.join(sub));
        }
        fs::set_permissions(dir.join("bb"), fs::Permissions::from_mode(0o700)).unwrap();
        for (file, text) in [
            ("bin/bb", ""),
            ("resolv.conf", "nameserver 9.9.9.9\noptions timeout:2 attempts:1\n"),
            ("hosts", "127.0.0.1 localhost\n::1 localhost\n"),
            ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
            ("ca.pem", authority.pem.as_str()),
        ] {
            fs::write(dir.join(file), text).unwrap();
        }

        // A user may not reach root's build tree, so what it needs is shown in the world's own directory.
        let mut env_path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".to_owned();
        let agents = super::node_modules();
        let mut shown = vec![];
        let mut etc: Vec<(PathBuf, PathBuf)> =
            ["resolv.conf", "hosts", "nsswitch.conf"].map(|f| (dir.join(f), Path::new("/etc").join(f))).into();
        let list = if nix::unistd::geteuid().is_root() { &mut shown } else { &mut etc };
        list.push((PathBuf::from(env!("CARGO_BIN_EXE_bb")), dir.join("bin/bb")));
        if agents.is_dir() {
            list.push((agents, dir.join("node_modules")));
            env_path = format!("{}:{env_path}", dir.join("node_modules/.bin").display());
        }
        for toolchain in more {
            let to = dir.join("tools").join(toolchain.from.file_name().unwrap());
            fs::create_dir_all(&to).map_err(|e| format!("{}: {e}", to.display()))?;
            env_path = format!("{}:{env_path}", to.join(toolchain.bin).display());
            list.push((toolchain.from.clone(), to));
        }
        let warden = Warden::start(&Plan { user, shown, etc })?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("canary").enable_all().build();
        let runtime = runtime.map_err(|e| e.to_string())?;
        let log = Arc::new(Log::default());
        canary::start(&warden, &runtime, &log)?;
        let at = |sub: &str| dir.join(sub).display().to_string();
        let env = [
            ("HOME", at("home")),
            ("BB_HOME", at("bb")),
            ("PATH", env_path),
            ("LANG", "C.UTF-8".into()),
            ("SSL_CERT_FILE", at("ca.pem")),
        ];
        let env = env.map(|(k, v)| (k.to_owned(), v)).into();
        let mut world = World {
            who,
            dir,
            warden,
            runtime: Some(runtime),
            log,
            authority,
            sites: AtomicU32::new(0),
            env,
            mounts: 0,
            before: Before::look(),
            living: None,
        };
        world.living = world.warden.living();
        world.mounts = world.mount_points().len();
        Ok(world)
    }

    /// Gets its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gets `$HOME`.
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// Gets `$BB_HOME`.
    pub fn bb_home(&self) -> PathBuf {
        self.dir.join("bb")
    }

    /// Puts `$BB_HOME` on a file system of `kilobytes`. Seen from outside the world, it is empty.
    pub fn small_bb_home(&self, kilobytes: u32) {
        self.small(&self.bb_home(), kilobytes);
    }

    /// Puts a directory on a file system of `kilobytes`. [`World::inside`] is the way to it from outside the world.
    pub fn small(&self, dir: &Path, kilobytes: u32) {
        let uid = self.uid();
        let options = format!("size={kilobytes}k,mode=700,uid={uid},gid={uid}");
        self.warden.mount_small(dir, &options).unwrap();
    }

    /// Gets the path by which a test sees what the world has mounted at one. Root's only.
    pub fn inside(&self, path: &Path) -> PathBuf {
        Path::new("/proc").join(self.warden.pid.to_string()).join("root").join(path.strip_prefix("/").unwrap())
    }

    /// Gets the path of `bb` in the world.
    pub fn exe(&self) -> PathBuf {
        self.dir.join("bin/bb")
    }

    /// Gets the user that bb runs as.
    pub fn uid(&self) -> u32 {
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(self.home()).unwrap())
    }

    /// Writes a file that belongs to the world's user, and gets its path. Relative paths are in `$HOME`.
    pub fn write(&self, path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home().join(path);
        if let Some(parent) = path.parent() {
            self.make_dir(parent);
        }
        fs::write(&path, text).unwrap();
        self.give(&path);
        path
    }

    /// Makes a directory that belongs to the world's user. Relative paths are in `$HOME`.
    pub fn make_dir(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = self.home().join(path);
        let missing: Vec<_> = path.ancestors().take_while(|p| !p.exists()).map(Path::to_owned).collect();
        for dir in missing.iter().rev() {
            fs::create_dir(dir).unwrap();
            self.give(dir);
        }
        path
    }

    fn give(&self, path: &Path) {
        if nix::unistd::geteuid().is_root() {
            let uid = self.uid();
            let gid = std::os::unix::fs::MetadataExt::gid(&fs::metadata(self.home()).unwrap());
            std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Writes `settings.yml`.
    pub fn settings(&self, text: &str) {
        self.write(self.bb_home().join("settings.yml"), text);
    }

    /// Writes a recipe and gets its path.
    pub fn recipe(&self, name: &str, text: &str) -> String {
        self.write(name, text).display().to_string()
    }

    /// Puts up a server for `name`, HTTPS on 443 and HTTP on 80 of a public address of its own.
    pub fn site(&self, name: &str, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Site {
        let number = self.sites.fetch_add(1, Ordering::Relaxed) as u8;
        self.site_at(name, Ipv4Addr::new(93, 184, 216, 10 + number).into(), &[443, 80], handler)
    }

    /// As [`World::site`], on an address and ports of choice; every port but 80 speaks TLS.
    pub fn site_at(
        &self,
        name: &str,
        address: IpAddr,
        ports: &[u16],
        handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Site {
        let site = Site::new(name, address, Box::new(handler));
        for &port in ports {
            let listener = self.warden.bind(false, SocketAddr::new(address, port)).unwrap();
            let tls = (port != 80).then(|| self.authority.server(name));
            site.serve(self.runtime.as_ref().unwrap(), listener, tls);
        }
        self.name(name, &[address]);
        site
    }

    /// Tells the world's name server about a name.
    pub fn name(&self, name: &str, addresses: &[IpAddr]) {
        self.log.zone.lock().unwrap().insert(name.into(), addresses.to_vec());
    }

    /// Starts stand-ins of the model APIs on the world's loopback.
    pub fn rehearsal(&self, scenario: Scenario) -> Rehearsal {
        let listener = self.warden.bind(false, "127.0.0.1:0".parse().unwrap()).unwrap();
        Rehearsal::start_on(scenario, std::net::TcpListener::from(listener)).unwrap()
    }

    /// Gets what arrived at the canaries.
    pub fn hits(&self) -> Vec<Hit> {
        self.log.hits.lock().unwrap().clone()
    }

    /// Gets the names that the world's name server was asked for, each once.
    pub fn asked(&self) -> Vec<String> {
        let mut names = self.log.asked.lock().unwrap().clone();
        names.sort();
        names.dedup();
        names
    }

    /// Asserts that no canary saw anything, and that no names but `known` were asked for.
    #[track_caller]
    pub fn assert_silent(&self, known: &[&str]) {
        let hits = self.hits();
        assert!(hits.is_empty(), "canaries were reached: {hits:?}");
        let asked = self.asked();
        let other: Vec<_> = asked.iter().filter(|n| !known.contains(&n.as_str())).collect();
        assert!(other.is_empty(), "names were asked for outside: {other:?}");
    }

    /// Runs `bb` with these arguments to its end.
    #[track_caller]
    pub fn bb(&self, args: &[&str]) -> Output {
        self.command(args).run()
    }

    /// Starts `bb` with these arguments.
    #[track_caller]
    pub fn spawn(&self, args: &[&str]) -> Running<'_> {
        self.command(args).spawn()
    }

    /// Prepares `bb` with these arguments.
    pub fn command(&self, args: &[&str]) -> Command<'_> {
        self.program(&self.exe().display().to_string(), args)
    }

    /// Prepares any program (absolute path) of the host, run in the world but outside of bottles.
    pub fn program(&self, program: &str, args: &[&str]) -> Command<'_> {
        let argv = std::iter::once(program).chain(args.iter().copied()).map(str::to_owned).collect();
        Command::new(self, argv, self.env.clone())
    }

    /// Gets the controller's process, if one holds the lock.
    pub fn controller_pid(&self) -> Option<i32> {
        let pid = fs::read_to_string(self.bb_home().join("run/controller.lock")).ok()?.trim().parse().ok()?;
        self.processes().iter().any(|p| p.pid == pid).then_some(pid)
    }

    /// Kills the controller as a crash would, and gets its process id.
    pub fn kill_controller(&self) -> Option<i32> {
        let pid = self.controller_pid()?;
        signal(pid, nix::sys::signal::SIGKILL);
        self.until(Duration::from_secs(5), || !self.processes().iter().any(|p| p.pid == pid));
        Some(pid)
    }

    /// Gets every process of the world.
    pub fn processes(&self) -> Vec<Process> {
        descendants(self.warden.pid)
    }

    /// Gets the keepers' process ids.
    pub fn keepers(&self) -> Vec<i32> {
        // A bottle's pid 1 is a copy of its keeper, and below it.
        let all = self.processes().into_iter().filter(|p| p.name == "bb-keeper");
        let all: Vec<_> = all.collect();
        all.iter().filter(|p| !all.iter().any(|q| q.pid == p.parent)).map(|p| p.pid).collect()
    }

    /// Waits until `true_at_last`, at most for `limit`; tells whether it became so.
    pub fn until(&self, limit: Duration, mut true_at_last: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + within(limit);
        loop {
            if true_at_last() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            // Processes, files and ports of a world tell nobody that they change: they are looked at.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Gets the controller's log.
    pub fn controller_log(&self) -> String {
        fs::read_to_string(self.bb_home().join("run/controller.log")).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.controller_log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- world of {:?} in {}", self.who, self.dir.display());
            eprintln!("--- processes: {:?}", self.processes());
            eprintln!("--- controller's log, its end:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            if let Some(seconds) = std::env::var("BB_TEST_HOLD").ok().and_then(|s| s.parse().ok()) {
                // For a person who looks into it.
                std::thread::sleep(Duration::from_secs(seconds));
            }
        }
        self.warden.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if std::env::var_os("BB_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

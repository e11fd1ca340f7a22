//! What a bottle may use of the machine, by control groups: one writer for both versions of them.
//!
//! The groups are made by the controller before anything of the bottle exists, its processes join them one by one as they are
//! made (pid 1, which only reaps, stays outside), and they are removed after its end. Where the kernel or whoever runs bb may
//! not set a limit, that is said and nothing is made. Knows no bottle beyond its name.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::freezer;
use crate::api::Limits;
use crate::error::{Error, Kind, Result};

/// How the name of every group of ours begins.
const PREFIX: &str = "bb-";

/// Length of a period of processor time, microseconds.
const PERIOD: u64 = 100_000;

/// Limits as controllers know them: the word in `limits`, and the controller.
const CONTROLLERS: [(&str, &str); 3] = [("memory", "memory"), ("cpus", "cpu"), ("pids", "pids")];

/// Groups of one bottle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// Their directories.
    pub dirs: Vec<PathBuf>,
    /// Limits that are asked for and not enforced, each with the reason; only where `best_effort` was said.
    pub lacking: Vec<String>,
}

/// Where a hierarchy is mounted, and which controllers it has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    root: PathBuf,
    /// Which part of the hierarchy is mounted there.
    top: PathBuf,
    /// Names of version 1; none for version 2.
    controllers: Vec<String>,
    unified: bool,
}

/// Reads the hierarchies out of `/proc/self/mountinfo` (proc(5)).
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let row = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let (mut mount, mut kind) = (mount.split(' ').skip(3), kind.split(' '));
        let (top, root, unified) = (mount.next()?, mount.next()?, kind.next()?);
        let unified = match unified {
            "cgroup2" => true,
            "cgroup" => false,
            _ => return None,
        };
        let options = kind.nth(1).unwrap_or_default();
        let controllers = if unified { Vec::new() } else { options.split(',').map(str::to_owned).collect() };
        Some(Hierarchy { root: root.into(), top: top.into(), controllers, unified })
    };
    mountinfo.lines().filter_map(row).collect()
}

/// Gets the path of this process in each hierarchy out of `/proc/self/cgroup`: by controller, `""` for version 2.
fn own_paths(text: &str) -> BTreeMap<String, PathBuf> {
    let mut paths = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        for controller in controllers.split(',') {
            paths.insert(controller.to_owned(), PathBuf::from(path));
        }
    }
    paths
}

impl Hierarchy {
    /// Gets the directory of a group, by its path in the hierarchy.
    fn at(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix(&self.top).or_else(|_| path.strip_prefix("/")).unwrap_or(path);
        if below.as_os_str().is_empty() { self.root.clone() } else { self.root.join(below) }
    }
}

/// A group to be made for some limits.
#[derive(Clone, Debug)]
struct Parent {
    dir: PathBuf,
    unified: bool,
}

/// Finds where a group with `controller` can be made; else says why not.
fn parent(controller: &str) -> std::result::Result<Parent, String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = own_paths(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
    let all = hierarchies(&mounts);
    let mut why = format!("this kernel has no `{controller}` controller mounted");
    if let Some(hierarchy) = all.iter().find(|h| h.controllers.iter().any(|c| c == controller)) {
        let dir = hierarchy.at(own.get(controller).map_or(Path::new("/"), PathBuf::as_path));
        match may_write(&dir) {
            Ok(()) => return Ok(Parent { dir, unified: false }),
            Err(e) => why = format!("{} cannot be written: {e}", dir.display()),
        }
    }
    for hierarchy in all.iter().filter(|h| h.unified) {
        let own = hierarchy.at(own.get("").map_or(Path::new("/"), PathBuf::as_path));
        // The group that this process is in may have no groups with controllers below it, so its parents are looked at.
        for dir in own.ancestors().take_while(|dir| dir.starts_with(&hierarchy.root)) {
            let has = |file: &str| {
                let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
                text.split_whitespace().any(|c| c == controller)
            };
            if !has("cgroup.controllers") && !has("cgroup.subtree_control") {
                continue;
            }
            if let Err(e) = may_write(dir).and_then(|()| may_write(&dir.join("cgroup.procs"))) {
                why = format!("{} cannot be written: {e}", dir.display());
                continue;
            }
            if has("cgroup.subtree_control")
                || fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).is_ok()
            {
                return Ok(Parent { dir: dir.to_owned(), unified: true });
            }
            why = format!("{} hands the `{controller}` controller to no group below it", dir.display());
        }
    }
    Err(why)
}

/// Gets the group of version 2 that this process is in, where it may make others below it.
fn own_unified() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = own_paths(&fs::read_to_string("/proc/self/cgroup").ok()?);
    let own = own.get("")?;
    let places = hierarchies(&mounts).into_iter().filter(|h| h.unified).map(|h| h.at(own));
    places.into_iter().find(|dir| may_write(dir).and_then(|()| may_write(&dir.join("cgroup.procs"))).is_ok())
}

fn may_write(path: &Path) -> io::Result<()> {
    Ok(nix::unistd::faccessat(
        nix::fcntl::AT_FDCWD,
        path,
        nix::unistd::AccessFlags::W_OK,
        nix::fcntl::AtFlags::AT_EACCESS,
    )?)
}

/// Makes the groups of a bottle named `name` and sets its limits. `note` remembers them for whoever has to remove them.
///
/// # Errors
/// `backend_unavailable` with the limits that cannot be enforced, unless `best_effort` was said; then nothing is left.
pub fn make(name: &str, limits: &Limits, note: impl FnOnce(&[PathBuf]) -> io::Result<()>) -> Result<Groups> {
    let mut groups = Groups::default();
    let mut found = Vec::new();
    for (word, controller) in CONTROLLERS {
        let wanted = match word {
            "memory" => limits.memory.is_some(),
            "cpus" => limits.cpus.is_some(),
            _ => limits.pids.is_some(),
        };
        if !wanted {
            continue;
        }
        match parent(controller) {
            Ok(parent) => found.push((word, controller, parent.dir.join(name), parent.unified)),
            Err(why) => groups.lacking.push(format!("{word}: {why}")),
        }
    }
    // Groups of version 2 can be frozen, each of them; where all are of version 1, one more is made for that.
    let freezing = if found.iter().any(|(.., unified)| *unified) { None } else { own_unified() };
    let limited = found.iter().map(|(_, _, dir, _)| dir.clone());
    let dirs: Vec<PathBuf> = limited.chain(freezing.iter().map(|parent| parent.join(name))).collect();
    note(&dirs).map_err(|e| Error::internal(format!("control groups: {e}")))?;
    for (word, controller, dir, unified) in found {
        match enforce(&dir, controller, unified, limits) {
            Ok(()) if !groups.dirs.contains(&dir) => groups.dirs.push(dir),
            Ok(()) => {}
            Err(e) => {
                remove(std::slice::from_ref(&dir));
                groups.lacking.push(format!("{word}: {}: {e}", dir.display()));
            }
        }
    }
    if groups.lacking.is_empty() || limits.best_effort {
        groups.dirs.extend(freezing.and_then(|parent| freezer::make(&parent, name)));
        return Ok(groups);
    }
    remove(&groups.dirs);
    Err(Error::new(Kind::BackendUnavailable, format!("a limit cannot be enforced here: {}", groups.lacking.join("; ")))
        .at("limits")
        .hint("run bb as root, or below a group that is delegated to you (`systemd-run --user --scope -p Delegate=yes`), or say `best_effort`"))
}

/// Makes one group, if it is not there, and sets the limit of one controller.
fn enforce(dir: &Path, controller: &str, unified: bool, limits: &Limits) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let set = |file: &str, value: String| {
        fs::write(dir.join(file), value).map_err(|e| io::Error::new(e.kind(), format!("{file}: {e}")))
    };
    match (controller, unified) {
        ("memory", true) => {
            set("memory.max", limits.memory.unwrap_or(u64::MAX).to_string())?;
            // Swap would be more memory by another name. A kernel without swap has no such file.
            let swap = dir.join("memory.swap.max");
            if swap.exists() { set("memory.swap.max", "0".to_owned()) } else { Ok(()) }
        }
        ("memory", false) => {
            let bytes = limits.memory.unwrap_or(u64::MAX).to_string();
            set("memory.limit_in_bytes", bytes.clone())?;
            let both = dir.join("memory.memsw.limit_in_bytes");
            if both.exists() { set("memory.memsw.limit_in_bytes", bytes) } else { set("memory.swappiness", "0".into()) }
        }
        ("cpu", unified) => {
            let quota = (u64::from(limits.cpus.unwrap_or(u32::MAX)) * PERIOD / 1000).max(1000);
            if unified {
                return set("cpu.max", format!("{quota} {PERIOD}"));
            }
            set("cpu.cfs_period_us", PERIOD.to_string())?;
            set("cpu.cfs_quota_us", quota.to_string())
        }
        _ => set("pids.max", limits.pids.unwrap_or(u32::MAX).to_string()),
    }
}

/// Opens the doors by which processes join groups.
///
/// # Errors
/// Those of open(2), with the path.
pub fn doors(dirs: &[PathBuf]) -> io::Result<Vec<fs::File>> {
    let open = |dir: &PathBuf| {
        let path = dir.join("cgroup.procs");
        let file = fs::OpenOptions::new().write(true).open(&path);
        file.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    };
    dirs.iter().map(open).collect()
}

/// Has the calling process join.
///
/// # Errors
/// Those of write(2).
pub fn join(doors: &[fs::File]) -> io::Result<()> {
    for mut door in doors {
        io::Write::write_all(&mut door, b"0")?;
    }
    Ok(())
}

/// Finds the group by which an engine bounds the memory of `pid` to `bytes`, and those below it on the way to the process.
/// None where no group above it has just that bound: then it is another process, of another pid namespace say.
pub fn bounding(pid: i32, bytes: u64) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let paths = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    bounding_of(&mounts, &paths, bytes)
}

fn bounding_of(mounts: &str, paths: &str, bytes: u64) -> Vec<PathBuf> {
    // The kernel counts pages.
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|n| u64::try_from(n).ok()).unwrap_or(4096).max(1);
    let paths = own_paths(paths);
    for hierarchy in hierarchies(mounts) {
        let (controller, file) = match hierarchy.unified {
            true => ("", "memory.max"),
            false if hierarchy.controllers.iter().any(|c| c == "memory") => ("memory", "memory.limit_in_bytes"),
            false => continue,
        };
        let Some(path) = paths.get(controller) else { continue };
        let mut dirs = Vec::new();
        for dir in hierarchy.at(path).ancestors().take_while(|dir| dir.starts_with(&hierarchy.root)) {
            dirs.push(dir.to_owned());
            let bound = fs::read_to_string(dir.join(file)).ok().and_then(|text| text.trim().parse::<u64>().ok());
            if bound.is_some_and(|bound| bound / page == bytes / page) {
                return dirs;
            }
        }
    }
    Vec::new()
}

/// Tells whether the kernel has killed something in one of the groups for want of memory.
pub fn ran_out_of_memory(dirs: &[PathBuf]) -> bool {
    let killed = |dir: &PathBuf| {
        ["memory.events", "memory.oom_control"].iter().any(|file| {
            let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
            let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
            count.is_some_and(|n| n > 0)
        })
    };
    dirs.iter().any(killed)
}

/// Removes groups whose processes are gone; a moment may pass until the kernel has noticed.
pub fn remove(dirs: &[PathBuf]) {
    for dir in dirs.iter().filter(|dir| is_ours(dir)) {
        for _ in 0..200 {
            match fs::remove_dir(dir) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                _ => break,
            }
        }
    }
}

/// Tells whether a path can be the directory of a group of ours: a list that was read from a file is not believed.
fn is_ours(dir: &Path) -> bool {
    let name = dir.file_name().unwrap_or_default();
    dir.is_absolute() && name.as_bytes().starts_with(PREFIX.as_bytes()) && dir.join("cgroup.procs").exists()
}

/// Gets the name of a bottle's groups: that of the bottle, and what tells this home from others.
pub fn name(home: &Path, slug: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, home.as_os_str().as_bytes());
    let home: String = digest.as_ref()[..4].iter().map(|b| format!("{b:02x}")).collect();
    format!("{PREFIX}{home}-{slug}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "30 29 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        31 29 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:4 - cgroup cgroup rw,cpu,cpuacct\n\
        32 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        33 29 0:29 / / rw - ext4 /dev/vda rw\n";

    #[test]
    fn hierarchies_of_both_versions_are_found() {
        let found = hierarchies(MOUNTS);
        assert_eq!(found.len(), 3);
        assert!(found[1].controllers.iter().any(|c| c == "cpu") && !found[1].unified);
        assert_eq!(found[0].at(Path::new("/a/b")), Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(found[2].at(Path::new("/")), Path::new("/sys/fs/cgroup/unified"));
        assert!(found[2].unified);
        let own = own_paths("4:memory:/x\n3:cpu,cpuacct:/y\n0::/user.slice\n");
        assert_eq!(own["memory"], Path::new("/x"));
        assert_eq!((own["cpu"].as_path(), own[""].as_path()), (Path::new("/y"), Path::new("/user.slice")));
        let inside = Hierarchy { top: "/docker/x".into(), ..found[0].clone() };
        assert_eq!(inside.at(Path::new("/docker/x/y")), Path::new("/sys/fs/cgroup/memory/y"));
    }

    #[test]
    fn limits_are_written_as_version_2_wants_them() {
        let dir = std::env::temp_dir().join(format!("bb-cgroup2-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("memory.swap.max"), "max").unwrap();
        let limits = Limits { memory: Some(64 << 20), cpus: Some(1500), pids: Some(32), ..Limits::default() };
        for (_, controller) in CONTROLLERS {
            enforce(&dir, controller, true, &limits).unwrap();
        }
        let says = |file: &str| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(says("memory.max"), "67108864");
        assert_eq!(says("memory.swap.max"), "0");
        assert_eq!(says("cpu.max"), "150000 100000");
        assert_eq!(says("pids.max"), "32");
        fs::write(dir.join("memory.events"), "low 0\noom 3\noom_kill 1\n").unwrap();
        assert!(ran_out_of_memory(std::slice::from_ref(&dir)));
        fs::write(dir.join("memory.events"), "low 0\noom 3\noom_kill 0\n").unwrap();
        assert!(!ran_out_of_memory(std::slice::from_ref(&dir)));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_group_that_bounds_a_process_is_found_by_its_bound_in_both_versions() {
        let dir = std::env::temp_dir().join(format!("bb-cgroup3-{}", std::process::id()));
        let (group, below) = (dir.join("libpod/x"), dir.join("libpod/x/container"));
        fs::create_dir_all(&below).unwrap();
        for (kind, paths, file) in [
            ("cgroup2 cgroup2 rw", "0::/libpod/x/container\n", "memory.max"),
            ("cgroup cgroup rw,memory", "4:memory:/libpod/x/container\n0::/\n", "memory.limit_in_bytes"),
        ] {
            let mounts = format!("30 29 0:26 / {} rw - {kind}\n", dir.display());
            fs::write(group.join(file), "67108864\n").unwrap();
            fs::write(below.join(file), "max\n").unwrap();
            let found = bounding_of(&mounts, paths, (64 << 20) + 1);
            assert_eq!(found, [below.clone(), group.clone()], "{kind}: the kernel counts pages");
            assert!(bounding_of(&mounts, paths, 65 << 20).is_empty(), "{kind}: another bound is another process's");
            assert!(bounding_of(&mounts, "", 64 << 20).is_empty() && bounding_of("", paths, 64 << 20).is_empty());
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn nothing_but_a_group_of_ours_is_removed() {
        let dir = std::env::temp_dir().join(format!("bb-cgroup-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        remove(std::slice::from_ref(&dir));
        assert!(dir.exists(), "it is no group");
        fs::remove_dir(dir).unwrap();
        assert_ne!(name(Path::new("/a"), "x"), name(Path::new("/b"), "x"));
    }
}

//! What bottles may leave on a machine besides processes: namespaces, cgroups and files, found where they hide.
//!
//! A namespace lives for as long as a process, a mount, a descriptor or a socket keeps it. The first three can be read in
//! `/proc`; a socket has to be asked; and where the world has a user namespace of its own the kernel's own count of what
//! lives below it says whether anything was missed ([`super::warden::Warden::living`]). Nothing here changes anything.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Kinds of namespaces, as `/proc/*/ns` names them.
const KINDS: [&str; 7] = ["user", "mnt", "net", "pid", "ipc", "uts", "cgroup"];

/// Where programs put temporary files.
const TEMPORARY: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run"];

/// The tests' own caches, and what benchmarks make.
const NOT_OURS: [&str; 2] = ["bb-go-cache", "bb-bench"];

/// Asks a socket for its network namespace (`linux/sockios.h`).
const SIOCGSKNS: libc::c_ulong = 0x894c;

/// What there was before the world had a bottle.
pub struct Before {
    cgroups: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
    held: BTreeSet<String>,
    /// Seconds since the epoch.
    when: i64,
}

impl Before {
    /// Looks around.
    pub fn look() -> Before {
        // The kernel's time of files is a little behind the clock.
        let when = jiff::Timestamp::now().as_second() - 2;
        Before { cgroups: cgroups(), files: files(), held: mounted(), when }
    }

    /// Lists what has come since: cgroups of the bottles of `home` (other worlds have some at the same time), mounted
    /// namespaces, and files of `uid` in the directories for temporary ones.
    pub fn since(&self, uid: u32, home: &Path) -> Vec<String> {
        let prefix = bb::bottle::cgroup::name(home, "");
        let own = |path: &&PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix));
        let mut left: Vec<String> =
            cgroups().difference(&self.cgroups).filter(own).map(|p| format!("cgroup {}", p.display())).collect();
        left.extend(mounted().difference(&self.held).map(|m| format!("namespace {m} mounted on the host")));
        // A directory that others write to may be listed without one that has long been there.
        let mine = |path: &&PathBuf| fs::symlink_metadata(path).is_ok_and(|m| m.uid() == uid && m.ctime() >= self.when);
        left.extend(files().difference(&self.files).filter(mine).map(|p| format!("file {}", p.display())));
        left
    }
}

/// Gets the namespaces that a process is in, as the kernel writes them: `net:[4026531840]`.
pub fn namespaces(pid: i32) -> BTreeSet<String> {
    let link = |kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    KINDS.iter().filter_map(|kind| link(kind)).map(|l| l.display().to_string()).collect()
}

/// Lists the namespaces other than `own` that a process is in, has open, or keeps by a socket.
pub fn foreign(pid: i32, own: &BTreeSet<String>) -> Vec<String> {
    let mut found: Vec<String> =
        namespaces(pid).difference(own).map(|ns| format!("namespace {ns} of process {pid}")).collect();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let link = link.display().to_string();
        let fd = entry.file_name().to_string_lossy().into_owned();
        if link.starts_with("socket:") {
            let of = fd.parse().ok().and_then(|fd| of_socket(pid, fd));
            if let Some(ns) = of.filter(|ns| !own.contains(ns)) {
                found.push(format!("namespace {ns} kept by socket {fd} of process {pid}"));
            }
        } else if KINDS.iter().any(|kind| link.starts_with(&format!("{kind}:["))) && !own.contains(&link) {
            found.push(format!("namespace {link} kept by descriptor {fd} of process {pid}"));
        }
    }
    found
}

/// Asks another process's socket for its namespace; `None` where this user may not.
fn of_socket(pid: i32, fd: i32) -> Option<String> {
    let owned = |fd: libc::c_long| {
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: each is a descriptor that a call below has just made for us.
        Some(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    // SAFETY: a plain system call; what it returns is checked, and owned at once.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: as above.
    let socket = owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })?;
    // SAFETY: as above.
    let namespace = owned(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) }.into())?;
    fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd())).ok().map(|l| l.display().to_string())
}

/// Lists processes anywhere on the machine, those of `known` aside, that were started with `dir` in their command line or
/// environment.
pub fn strays(dir: &Path, known: &BTreeSet<i32>) -> Vec<String> {
    let mut found = Vec::new();
    let needle = format!("{}/", dir.display());
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if known.contains(&pid) {
            continue;
        }
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let has = |bytes: &[u8]| bytes.windows(needle.len()).any(|w| w == needle.as_bytes());
        let command = read("cmdline");
        if has(&command) || has(&read("environ")) {
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            found.push(format!("process {pid} outside of the world: {command}"));
        }
    }
    found
}

fn cgroups() -> BTreeSet<PathBuf> {
    fn below(dir: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                if is_ours(&entry.file_name().to_string_lossy()) {
                    found.insert(entry.path());
                }
                below(&entry.path(), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    below(Path::new("/sys/fs/cgroup"), &mut found);
    found
}

/// Files that nobody uses any more: who made one and is at work has its process id in the name.
fn files() -> BTreeSet<PathBuf> {
    let alive = |name: &str| {
        let pid = name.rsplit('-').next().filter(|n| n.bytes().all(|b| b.is_ascii_digit()) && !n.is_empty());
        pid.is_some_and(|pid| Path::new("/proc").join(pid).exists())
    };
    let entries = TEMPORARY.iter().flat_map(|dir| fs::read_dir(dir).into_iter().flatten().flatten());
    let named = entries.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        is_ours(&name) && !alive(&name)
    });
    named.map(|entry| entry.path()).collect()
}

fn is_ours(name: &str) -> bool {
    (name == "bb" || name.starts_with("bb-") || name.starts_with("bb."))
        && !NOT_OURS.iter().any(|n| name.starts_with(n))
}

/// Namespaces that a mount of the host keeps.
fn mounted() -> BTreeSet<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let nsfs = text.lines().filter(|l| l.contains(" - nsfs "));
    nsfs.filter_map(|l| l.split_whitespace().nth(3)).map(str::to_owned).collect()
}

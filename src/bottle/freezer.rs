//! Stops every process of a control group at once, and lets them go on: version 2 of control groups only.
//!
//! What version 1 has frozen cannot be killed until somebody thaws it, so that a bottle would outlive its keeper; there, and where a
//! bottle has no group, `linux/stop.rs` stops it by signals. Knows no bottle beyond its groups.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Longest wait for the last process to stand still. One that sleeps in the kernel may take longer; it stops before it sees
/// its program again.
const PATIENCE: Duration = Duration::from_secs(2);

/// A group that can be frozen.
#[derive(Debug)]
pub struct Freezer {
    freeze: File,
    events: File,
}

/// Tells whether a directory is a group that can be frozen.
pub fn is_one(dir: &Path) -> bool {
    dir.join("cgroup.freeze").exists()
}

impl Freezer {
    /// Finds the group among those of a bottle.
    pub fn of(dirs: &[PathBuf]) -> Option<Freezer> {
        let open = |dir: &PathBuf| -> io::Result<Freezer> {
            let freeze = OpenOptions::new().write(true).open(dir.join("cgroup.freeze"))?;
            Ok(Freezer { freeze, events: File::open(dir.join("cgroup.events"))? })
        };
        dirs.iter().find_map(|dir| open(dir).ok())
    }

    /// Stops everything in it, or lets it go on; waits until all stand still.
    ///
    /// # Errors
    /// Those of writing to the group.
    pub fn set(&mut self, on: bool) -> io::Result<()> {
        self.freeze.write_all(if on { b"1" } else { b"0" })?;
        let deadline = Instant::now() + PATIENCE;
        while on && !self.is_still()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // The kernel wakes whoever polls the events when one of them has changed; a change between the look and the poll
            // shows at once.
            let mut fds = [PollFd::new(self.events.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn is_still(&mut self) -> io::Result<bool> {
        let mut text = String::new();
        self.events.rewind()?;
        self.events.read_to_string(&mut text)?;
        Ok(text.lines().any(|line| line == "frozen 1"))
    }
}

/// Makes a group that only freezes, below the one that the calling process is in; `None` where that cannot be had, which takes no
/// limit away.
pub fn make(parent: &Path, name: &str) -> Option<PathBuf> {
    let dir = parent.join(name);
    fs::create_dir(&dir).ok()?;
    // Below a group of threads, processes cannot join.
    let joinable = fs::read_to_string(dir.join("cgroup.type")).is_ok_and(|kind| kind.trim() == "domain");
    if joinable && is_one(&dir) {
        return Some(dir);
    }
    let _ = fs::remove_dir(&dir);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the test finds the real file system of control groups, in the process that has mounted it.
    const PLACE: &str = "BB_TEST_CGROUP2";

    #[test]
    fn a_group_of_the_kernels_own_is_frozen_thawed_and_killed_while_frozen() {
        let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else {
            // It is mounted where nobody else sees it. The test is this one again, in a process of its own.
            let place = std::env::temp_dir().join(format!("bb-freezer-{}", std::process::id()));
            fs::create_dir_all(&place).unwrap();
            let script =
                "mount -t cgroup2 none \"$BB_TEST_CGROUP2\" 2>/dev/null || exit 77; exec \"$0\" --exact \"$1\"";
            let status = std::process::Command::new("unshare")
                .args(["--mount", "sh", "-c", script])
                .arg(std::env::current_exe().unwrap())
                .arg("bottle::freezer::tests::a_group_of_the_kernels_own_is_frozen_thawed_and_killed_while_frozen")
                .env(PLACE, &place)
                .stdout(std::process::Stdio::null())
                .status();
            let _ = fs::remove_dir(&place);
            // An ordinary user may not mount, and some kernels have none.
            let code = status.ok().and_then(|status| status.code());
            assert!(matches!(code, Some(0 | 1 | 77 | 127) | None) && (code == Some(0) || !may_mount()), "{code:?}");
            return;
        };
        let dir = make(&place, &format!("bb-test-{}", std::process::id())).unwrap();
        let script = "echo $$ >\"$0/cgroup.procs\" && while :; do echo; done";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .arg(&dir)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0]).unwrap();
        let mut freezer = Freezer::of(&[PathBuf::from("/proc"), dir.clone()]).unwrap();
        let used = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        freezer.set(true).unwrap();
        assert!(freezer.is_still().unwrap());
        let before = used(child.id());
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(used(child.id()), before, "it stands still");
        freezer.set(false).unwrap();
        // More than what the pipe held: it goes on.
        out.read_exact(&mut vec![0; 1 << 17]).unwrap();
        freezer.set(true).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        while fs::remove_dir(&dir).is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY)) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Tells whether the kernel and whoever runs this allow what the test needs.
    fn may_mount() -> bool {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default().contains("cgroup2");
        let all = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bits = all.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
        known && bits.is_some_and(|bits| bits >> 21 & 1 == 1)
    }
}

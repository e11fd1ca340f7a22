//! What it takes to run Docker's daemon by hand: its command line, a small image, the static build of bb, and what it leaves in the
//! control groups. Shared with the benchmark of launches, so it knows no world and skips nothing by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the control groups of its containers.
const GROUP: &str = "bottletest";

/// Gets the command that runs the daemon with directories of its own below `dir`, its socket at `dir/s`, and no network.
pub fn daemon(dir: &Path) -> String {
    let at = |name: &str| dir.join(name).display().to_string();
    format!(
        "exec dockerd --iptables=false --ip6tables=false --bridge=none --cgroup-parent=/{GROUP} --data-root={} \
         --exec-root={} --pidfile={} --host=unix://{}",
        at("data"),
        at("exec"),
        at("pid"),
        at("s")
    )
}

/// Gets the script that runs an engine's command in a mount namespace that was just made: what it keeps in `/run` is nobody else's.
pub fn apart(command: &str) -> String {
    format!("mount --make-rprivate / && mount -t tmpfs -o mode=755 tmpfs /run && {command}")
}

/// Makes the archive of an image that has busybox and nothing else, by way of `dir`.
pub fn archive(dir: &Path, busybox: &Path) -> Vec<u8> {
    let root = dir.join("image");
    for sub in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    // As every image has it: some runtimes give what is mounted there the mode of what is below it.
    fs::set_permissions(root.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let own = root.join("bin/busybox");
    fs::copy(busybox, &own).unwrap();
    let list = Command::new(&own).arg("--list").output().unwrap();
    for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(name));
    }
    let tar = Command::new("tar").arg("-C").arg(&root).args(["-c", "."]).output().unwrap();
    assert!(tar.status.success());
    tar.stdout
}

/// Gets where the static build of bb is to lie (.ci/run makes it).
pub fn helper() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/x86_64-unknown-linux-gnu/debug/bb");
    std::env::var_os("BB_HELPER").map_or(built, PathBuf::from)
}

/// Removes the control groups that engines leave; empty ones only: another engine may use its own at this moment.
pub fn remove_groups() {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        for group in [GROUP, "libpod_parent"] {
            let dir = hierarchy.path().join(group);
            for sub in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let _ = fs::remove_dir(sub.path());
            }
            let _ = fs::remove_dir(dir);
        }
    }
}

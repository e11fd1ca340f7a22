//! How many namespaces live in a warden's world: the kernel's own figure, found by trying what its limits allow.

use std::collections::BTreeMap;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Uid};

/// Kinds of namespaces that the kernel counts, as its limits name them (namespaces(7)).
pub(super) const COUNTED: [(&str, CloneFlags); 7] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("mnt", CloneFlags::CLONE_NEWNS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
];

/// As [`Warden::living`].
pub(super) fn living() -> Result<BTreeMap<String, u32>, String> {
    if Uid::effective().is_root() {
        return Err("the limits are the host's".into());
    }
    COUNTED.iter().map(|(name, flag)| Ok(((*name).to_owned(), count(name, *flag, 0..=63)?))).collect()
}

/// Counts the namespaces of a kind that live, one of `numbers`.
pub(super) fn count(name: &str, flag: CloneFlags, numbers: std::ops::RangeInclusive<u32>) -> Result<u32, String> {
    let path = format!("/proc/sys/user/max_{name}_namespaces");
    let wrong = |e: io::Error| format!("{path}: {e}");
    let usual = std::fs::read_to_string(&path).map_err(wrong)?;
    // One more than there are may be made: the first limit under which that works tells how many there are.
    let mut found = None;
    for number in numbers {
        std::fs::write(&path, (number + 1).to_string()).map_err(wrong)?;
        if can_make(flag) {
            found = Some(number);
            break;
        }
    }
    std::fs::write(&path, usual.trim()).map_err(wrong)?;
    found.ok_or_else(|| format!("more namespaces of kind {name} live"))
}

/// Tells whether a namespace can be made, by a process that ends with it.
fn can_make(flag: CloneFlags) -> bool {
    // SAFETY: the warden has a single thread.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Child) => {
            let made = unshare(flag).is_ok();
            // SAFETY: as in `start`.
            unsafe { libc::_exit(i32::from(!made)) }
        }
        Ok(ForkResult::Parent { child }) => matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))),
        Err(_) => false,
    }
}

//! The second layer of a bottle's file system: Landlock, which refuses every write outside the places that are meant to be
//! written, whatever the mounts say.
//!
//! The mounts already are read-only where they should be; this holds where one of them is not, by a fault of ours or of
//! the kernel's. Only an addition: where the kernel has no Landlock that can be used (ABI 2, Linux 5.19), the mounts stand
//! alone, and `bb doctor` says so.

use std::io;
use std::path::PathBuf;

use landlock::{ABI, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, path_beneath_rules};

use crate::bottle::plan::Plan;

/// The newest form that is asked for; an older kernel gets what it knows of it. Not newer: from the fifth on, ioctl(2) on
/// devices would have to be allowed one by one.
const NEWEST: ABI = ABI::V3;

/// The oldest form that is of use: the first refuses every rename from one directory to another.
const OLDEST: libc::c_long = 2;

/// Places of every bottle that can be written, beside its home and its workspace. What of them must not be is read-only
/// by its mount.
const WRITABLE: [&str; 5] = ["/tmp", "/var/tmp", "/run", "/dev", "/proc"];

/// Gets the places that a bottle's processes may write below.
pub fn writable(plan: &Plan) -> Vec<PathBuf> {
    let binds = plan.binds.iter().filter(|bind| bind.rw || bind.device).map(|bind| bind.target.clone());
    let mut places: Vec<PathBuf> = WRITABLE.iter().map(PathBuf::from).chain(binds).collect();
    places.extend([plan.home.clone(), plan.workspace.clone()]);
    places.sort();
    places.dedup();
    places
}

/// Gets the version of the kernel's interface; `None` where it has none.
pub fn version() -> Option<i64> {
    const CREATE_RULESET_VERSION: libc::c_ulong = 1;
    // SAFETY: asks for a number; no memory is passed (landlock_create_ruleset(2)).
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, CREATE_RULESET_VERSION)
    };
    (version > 0).then_some(version)
}

/// Takes the calling process's writes outside `places` away, for good. It must not be able to gain privileges any more.
///
/// # Errors
/// Those of the system calls. A kernel without Landlock is none.
pub fn restrict(places: &[PathBuf]) -> io::Result<()> {
    if version().is_none_or(|version| version < OLDEST) {
        return Ok(());
    }
    let writes = AccessFs::from_write(NEWEST);
    let applied = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(writes)
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(places, writes)))
        .and_then(landlock::RulesetCreated::restrict_self);
    applied.map(|_| ()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::process::{Fork, fork_with};

    #[test]
    fn what_may_be_written_can_be_and_nothing_else() {
        if version().is_none_or(|version| version < OLDEST) {
            return;
        }
        let dir = std::env::temp_dir().join(format!("bb-landlock-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("mine/sub")).unwrap();
        std::fs::create_dir_all(dir.join("other")).unwrap();
        std::fs::write(dir.join("other/kept"), "kept").unwrap();
        let may = vec![dir.join("mine"), dir.join("missing")];
        // SAFETY: the child only makes system calls on paths made before, and ends.
        let pid = match unsafe { fork_with(0) }.unwrap() {
            Fork::Child => {
                let fails = |result: io::Result<()>| result.is_err_and(|e| e.raw_os_error() == Some(libc::EACCES));
                let mut wrong = 0;
                if nix::sys::prctl::set_no_new_privs().is_err() || restrict(&may).is_err() {
                    wrong |= 1;
                }
                if std::fs::write(dir.join("mine/new"), "x").is_err()
                    || std::fs::rename(dir.join("mine/new"), dir.join("mine/sub/new")).is_err()
                {
                    wrong |= 2;
                }
                if !fails(std::fs::write(dir.join("other/new"), "x"))
                    || !fails(std::fs::write(dir.join("other/kept"), "x"))
                    || !fails(std::fs::remove_file(dir.join("other/kept")))
                {
                    wrong |= 4;
                }
                if std::fs::read_to_string(dir.join("other/kept")).is_err() {
                    wrong |= 8;
                }
                super::super::sys::exit_now(wrong);
            }
            Fork::Parent(pid) => pid,
        };
        let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(nix::unistd::Pid::from_raw(pid), 0));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

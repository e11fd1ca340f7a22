//! What every process of a bottle loses before it runs: capabilities, the way to new privileges, and the system calls
//! that lead out of a sandbox or to the kernel's riskier corners.
//!
//! One function, [`apply`], for pid 1, the agent and every exec; nothing else installs a filter.

use std::collections::BTreeMap;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

/// Namespace flags of clone(2) and unshare(2).
const NEW_NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;

/// Most processes and threads of one bottle. The kernel counts them by user namespace (since 5.14; before, by the user), so
/// that a fork bomb fills its own bottle and not the table of the host's user.
const PROCESSES: u64 = 4096;

/// Setuid and setgid bits of a mode.
const SET_ID: u64 = (libc::S_ISUID | libc::S_ISGID) as u64;

/// Refused outright with EPERM.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_quotactl,
    libc::SYS_open_by_handle_at,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
];

/// Answered with ENOSYS, so that callers fall back to what can be judged by its arguments: clone3(2) and openat2(2)
/// take theirs in memory, where a filter cannot look, and so does what io_uring submits.
const UNKNOWN: &[libc::c_long] = &[
    libc::SYS_clone3,
    libc::SYS_openat2,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// fchmodat2(2), newer than the table of the library.
mod extra {
    /// See `asm-generic/unistd.h`; the same number on every architecture.
    pub const FCHMODAT2: libc::c_long = 452;
}

fn masked(argument: u8, mask: u64, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(argument, Len::Dword, Op::MaskedEq(mask), value).map_err(invalid)
}

fn equal(argument: u8, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(argument, Len::Dword, Op::Eq, value).map_err(invalid)
}

fn differs(argument: u8, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(argument, Len::Dword, Op::Ne, value).map_err(invalid)
}

fn invalid(e: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, e.to_string())
}

fn rule(conditions: Vec<SeccompCondition>) -> io::Result<SeccompRule> {
    SeccompRule::new(conditions).map_err(invalid)
}

/// One rule for each bit of `bits` in `argument`: a masked comparison only knows "all of them".
fn any_bit(argument: u8, bits: u64) -> io::Result<Vec<SeccompRule>> {
    (0..32).map(|b| 1u64 << b).filter(|b| bits & b != 0).map(|b| rule(vec![masked(argument, b, b)?])).collect()
}

/// The filter as the kernel wants it: several programs, each with an errno of its own; the strictest answer counts.
///
/// # Errors
/// `InvalidInput` where a rule cannot be expressed (a fault of this file).
pub fn programs() -> io::Result<Vec<BpfProgram>> {
    let mut eperm: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &call in REFUSED {
        eperm.insert(call, vec![]);
    }
    // New namespaces give capabilities over them, and with those comes most of the kernel's attack surface.
    eperm.insert(libc::SYS_clone, any_bit(0, NEW_NAMESPACES)?);
    eperm.insert(libc::SYS_unshare, any_bit(0, NEW_NAMESPACES)?);
    // A setuid bit in a mounted workspace would give another user of the host the agent's program to run.
    for (call, mode) in [(libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2), (libc::SYS_mkdirat, 2), (libc::SYS_openat, 3)]
    {
        eperm.insert(call, any_bit(mode, SET_ID)?);
    }
    #[cfg(target_arch = "x86_64")]
    for (call, mode) in [(libc::SYS_chmod, 1), (libc::SYS_mkdir, 1), (libc::SYS_creat, 1), (libc::SYS_open, 2)] {
        eperm.insert(call, any_bit(mode, SET_ID)?);
    }
    // Devices; a FIFO or a socket is nobody's but the agent's.
    let mut nodes = vec![(libc::SYS_mknodat, 2)];
    #[cfg(target_arch = "x86_64")]
    nodes.push((libc::SYS_mknod, 1));
    for (call, mode) in nodes {
        let mut rules = any_bit(mode, SET_ID)?;
        for device in [libc::S_IFCHR, libc::S_IFBLK] {
            rules.push(rule(vec![masked(mode, libc::S_IFMT.into(), device.into())?])?);
        }
        eperm.insert(call, rules);
    }
    // Typing into a terminal that somebody else reads.
    eperm.insert(libc::SYS_ioctl, vec![rule(vec![equal(1, libc::TIOCSTI)?])?, rule(vec![equal(1, 0x541c)?])?]);

    // Families other than local, IPv4, IPv6 and routing netlink (getifaddrs needs that one).
    let mut family: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let [unix, inet, inet6, netlink] =
        [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(|f| f as u64);
    let odd = || -> io::Result<Vec<SeccompRule>> {
        Ok(vec![
            rule(vec![differs(0, unix)?, differs(0, inet)?, differs(0, inet6)?, differs(0, netlink)?])?,
            rule(vec![equal(0, netlink)?, differs(2, libc::NETLINK_ROUTE as u64)?])?,
        ])
    };
    family.insert(libc::SYS_socket, odd()?);
    family.insert(libc::SYS_socketpair, odd()?);

    let mut enosys: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &call in UNKNOWN {
        enosys.insert(call, vec![]);
    }
    enosys.insert(extra::FCHMODAT2, vec![]);

    let mut all = Vec::new();
    for (rules, errno) in [(eperm, libc::EPERM), (family, libc::EAFNOSUPPORT), (enosys, libc::ENOSYS)] {
        let filter =
            SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), architecture()?)
                .map_err(invalid)?;
        all.push(BpfProgram::try_from(filter).map_err(invalid)?);
    }
    #[cfg(target_arch = "x86_64")]
    all.push(no_x32());
    Ok(all)
}

fn architecture() -> io::Result<TargetArch> {
    std::env::consts::ARCH.try_into().map_err(invalid)
}

/// Refuses the x32 calls of x86-64 (number with bit 30): the other programs compare plain numbers and would miss them.
#[cfg(target_arch = "x86_64")]
fn no_x32() -> BpfProgram {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_GE: u16 = 0x35;
    const RETURN: u16 = 0x06;
    let op = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        op(LOAD_NUMBER, 0, 0, 0),
        op(JUMP_GE, 0, 1, 0x4000_0000),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Takes everything away from the calling process, for good.
///
/// # Errors
/// Those of the system calls. The caller must not go on after one.
pub fn apply(programs: &[BpfProgram]) -> io::Result<()> {
    use caps::CapSet;
    for capability in caps::all() {
        // The bounding set of capabilities that the kernel does not know cannot be dropped, and need not be.
        let _ = caps::drop(None, CapSet::Bounding, capability);
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(invalid)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let processes = getrlimit(Resource::RLIMIT_NPROC)?.1.min(PROCESSES);
    setrlimit(Resource::RLIMIT_NPROC, processes, processes)?;
    for program in programs {
        seccompiler::apply_filter(program).map_err(invalid)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_can_be_expressed() {
        let programs = programs().unwrap();
        assert!(programs.len() >= 3);
        assert!(programs.iter().all(|p| !p.is_empty() && p.len() < 4096));
    }
}

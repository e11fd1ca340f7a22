//! What every process of a bottle loses before it runs: capabilities, the way to new privileges, and the system calls
//! that lead out of a sandbox or to the kernel's riskier corners.
//!
//! One function, [`apply`], for pid 1, the agent and every exec; nothing else installs a filter.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::filter::{self, Filter, Refusal, Test};

/// Namespace flags of clone(2) and unshare(2).
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP)
    .cast_unsigned();

/// Most processes and threads of one bottle. The kernel counts them by user namespace (since 5.14; before, by the user), so
/// that a fork bomb fills its own bottle and not the table of the host's user.
const PROCESSES: u64 = 4096;

/// Setuid and setgid bits of a mode.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// Flags with which open(2) makes a file: O_CREAT, and that of O_TMPFILE which is not also O_DIRECTORY.
const MAKES_FILES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)).cast_unsigned();

/// Requests of ioctl(2) that put words into a terminal's input (`asm-generic/ioctls.h`, `linux/tiocl.h`).
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

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
    FCHMODAT2,
];

/// fchmodat2(2), newer than the table of the library; the same number on every architecture (`asm-generic/unistd.h`).
const FCHMODAT2: libc::c_long = 452;

fn refused(errno: i32, when: Vec<Vec<Test>>) -> Refusal {
    Refusal { errno, when }
}

/// The filter of every process of a bottle.
///
/// # Errors
/// `InvalidInput` where a rule cannot be expressed (a fault of this file).
pub fn program() -> io::Result<Filter> {
    let mut calls: Vec<(libc::c_long, Refusal)> = Vec::new();
    calls.extend(REFUSED.iter().map(|&call| (call, refused(libc::EPERM, vec![]))));
    calls.extend(UNKNOWN.iter().map(|&call| (call, refused(libc::ENOSYS, vec![]))));
    // New namespaces give capabilities over them, and with those comes most of the kernel's attack surface.
    for call in [libc::SYS_clone, libc::SYS_unshare] {
        calls.push((call, refused(libc::EPERM, vec![vec![Test::AnyBit(0, NEW_NAMESPACES)]])));
    }
    // A setuid bit in a mounted workspace would give another user of the host the agent's program to run.
    let mut modes = vec![(libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2), (libc::SYS_mkdirat, 2)];
    #[cfg(target_arch = "x86_64")]
    modes.extend([(libc::SYS_chmod, 1), (libc::SYS_mkdir, 1), (libc::SYS_creat, 1)]);
    for (call, mode) in modes {
        calls.push((call, refused(libc::EPERM, vec![vec![Test::AnyBit(mode, SET_ID)]])));
    }
    // Of a call that makes no file the kernel ignores the mode, and callers leave anything there (jemalloc does, when it asks how the
    // kernel gives out memory: refused, it works page by page).
    let mut opens = vec![(libc::SYS_openat, 2, 3)];
    #[cfg(target_arch = "x86_64")]
    opens.push((libc::SYS_open, 1, 2));
    for (call, flags, mode) in opens {
        let makes = vec![Test::AnyBit(flags, MAKES_FILES), Test::AnyBit(mode, SET_ID)];
        calls.push((call, refused(libc::EPERM, vec![makes])));
    }
    // Devices; a FIFO or a socket is nobody's but the agent's.
    let mut nodes = vec![(libc::SYS_mknodat, 2)];
    #[cfg(target_arch = "x86_64")]
    nodes.push((libc::SYS_mknod, 1));
    for (call, mode) in nodes {
        let devices = [libc::S_IFCHR, libc::S_IFBLK].map(|device| vec![Test::Bits(mode, libc::S_IFMT, device)]);
        let when = [vec![Test::AnyBit(mode, SET_ID)]].into_iter().chain(devices).collect();
        calls.push((call, refused(libc::EPERM, when)));
    }
    // A whiteout is a device, number 0:0; as where a file system knows none.
    let whiteout = vec![vec![Test::AnyBit(4, libc::RENAME_WHITEOUT)]];
    calls.push((libc::SYS_renameat2, refused(libc::EINVAL, whiteout)));
    // Typing into a terminal that somebody else reads.
    let typing = [TIOCSTI, TIOCLINUX].map(|request| vec![Test::Equal(1, request)]);
    calls.push((libc::SYS_ioctl, refused(libc::EPERM, typing.into())));
    // Families other than local, IPv4, IPv6 and routing netlink (getifaddrs needs that one).
    let [unix, inet, inet6, netlink, route] =
        [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::NETLINK_ROUTE].map(i32::cast_unsigned);
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        let when = vec![
            [unix, inet, inet6, netlink].map(|family| Test::Differs(0, family)).into(),
            vec![Test::Equal(0, netlink), Test::Differs(2, route)],
        ];
        calls.push((call, refused(libc::EAFNOSUPPORT, when)));
    }
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, "a system call without a number");
    let calls = calls.into_iter().map(|(call, refusal)| Ok((u32::try_from(call).map_err(invalid)?, refusal)));
    filter::compile(&calls.collect::<io::Result<_>>()?)
}

/// Takes everything away from the calling process, for good.
///
/// # Errors
/// Those of the system calls. The caller must not go on after one.
pub fn apply(filter: &Filter) -> io::Result<()> {
    use caps::CapSet;
    drop_bounding();
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let processes = getrlimit(Resource::RLIMIT_NPROC)?.1.min(PROCESSES);
    setrlimit(Resource::RLIMIT_NPROC, processes, processes)?;
    filter.set()
}

/// Takes away what a program could ever get again. Whoever becomes an ordinary user by other means than [`apply`] calls it before:
/// afterwards it has no right to.
pub fn drop_bounding() {
    for capability in caps::all() {
        // The bounding set of capabilities that the kernel does not know cannot be dropped, and need not be.
        let _ = caps::drop(None, caps::CapSet::Bounding, capability);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn errno(number: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | number.cast_unsigned()
    }

    #[test]
    fn what_leads_out_is_refused_and_its_twin_is_not() {
        let filter = program().unwrap();
        let ask = |call, arguments| filter::judged(&filter, call, arguments).0;
        for &call in REFUSED {
            assert_eq!(ask(call, [0; 6]), errno(libc::EPERM), "{call}");
        }
        for &call in UNKNOWN {
            assert_eq!(ask(call, [0; 6]), errno(libc::ENOSYS), "{call}");
        }
        for (call, refused, allowed) in [
            (
                libc::SYS_clone,
                [libc::CLONE_NEWUSER.cast_unsigned(), 0, 0, 0, 0, 0],
                [libc::SIGCHLD as u32, 0, 0, 0, 0, 0],
            ),
            (libc::SYS_unshare, [libc::CLONE_NEWNS as u32, 0, 0, 0, 0, 0], [libc::CLONE_FILES as u32, 0, 0, 0, 0, 0]),
            (libc::SYS_openat, [0, 0, 0o101, 0o4755, 0, 0], [0, 0, 0o101, 0o1777, 0, 0]),
            (
                libc::SYS_openat,
                [0, 0, libc::O_TMPFILE as u32 | 1, 0o2755, 0, 0],
                [0, 0, libc::O_DIRECTORY as u32, 0o2755, 0, 0],
            ),
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_open, [0, 0o101, 0o4755, 0, 0, 0], [0, libc::O_CLOEXEC as u32, u32::MAX, 0, 0, 0]),
            (libc::SYS_fchmodat, [0, 0, 0o2755, 0, 0, 0], [0, 0, 0o755, 0, 0, 0]),
            (libc::SYS_fchmod, [0, 0o2755, 0, 0, 0, 0], [0, 0o755, 0, 0, 0, 0]),
            (libc::SYS_mkdirat, [0, 0, 0o2755, 0, 0, 0], [0, 0, 0o755, 0, 0, 0]),
            (libc::SYS_mknodat, [0, 0, libc::S_IFCHR | 0o666, 0, 0, 0], [0, 0, libc::S_IFIFO | 0o666, 0, 0, 0]),
            (libc::SYS_mknodat, [0, 0, libc::S_IFBLK, 0, 0, 0], [0, 0, libc::S_IFSOCK, 0, 0, 0]),
            (libc::SYS_mknodat, [0, 0, libc::S_IFREG | 0o4000, 0, 0, 0], [0, 0, libc::S_IFREG, 0, 0, 0]),
            (libc::SYS_ioctl, [0, libc::TIOCSTI as u32, 0, 0, 0, 0], [0, libc::TIOCGWINSZ as u32, 0, 0, 0, 0]),
            (libc::SYS_ioctl, [0, TIOCLINUX, 0, 0, 0, 0], [0, libc::TCGETS as u32, 0, 0, 0, 0]),
        ] {
            assert_eq!(ask(call, refused), errno(libc::EPERM), "{call} {refused:?}");
            assert_eq!(ask(call, allowed), ALLOW, "{call} {allowed:?}");
        }
        assert_eq!(ask(libc::SYS_renameat2, [0, 0, 0, 0, libc::RENAME_WHITEOUT, 0]), errno(libc::EINVAL));
        assert_eq!(ask(libc::SYS_renameat2, [0, 0, 0, 0, libc::RENAME_EXCHANGE, 0]), ALLOW);
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            let family =
                |family: i32, protocol: i32| ask(call, [family.cast_unsigned(), 1, protocol.cast_unsigned(), 0, 0, 0]);
            for allowed in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
                assert_eq!(family(allowed, 17), ALLOW);
            }
            assert_eq!(family(libc::AF_NETLINK, libc::NETLINK_ROUTE), ALLOW);
            assert_eq!(family(libc::AF_NETLINK, libc::NETLINK_NETFILTER), errno(libc::EAFNOSUPPORT));
            for refused in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, libc::AF_BLUETOOTH, 0, -1] {
                assert_eq!(family(refused, 0), errno(libc::EAFNOSUPPORT), "{refused}");
            }
        }
    }

    #[test]
    fn what_programs_do_all_the_time_is_decided_by_its_number() {
        let filter = program().unwrap();
        for call in [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_close,
            libc::SYS_fstat,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_lseek,
            libc::SYS_mmap,
            libc::SYS_munmap,
            libc::SYS_brk,
            libc::SYS_futex,
            libc::SYS_getdents64,
            libc::SYS_renameat,
            libc::SYS_unlinkat,
            libc::SYS_readlinkat,
            libc::SYS_execve,
            libc::SYS_wait4,
            libc::SYS_epoll_pwait,
            libc::SYS_sendto,
            libc::SYS_recvfrom,
            libc::SYS_connect,
        ] {
            assert_eq!(filter::judged(&filter, call, [u32::MAX; 6]), (ALLOW, false), "{call}");
        }
    }
}

//! System calls that no library wraps, each in one small function.
//!
//! This file may be `unsafe`; it must not decide anything.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// Mount attributes (`linux/mount.h`).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Setuid bits count for nothing.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes count for nothing.
    pub const NODEV: u64 = 0x4;
    /// User and group ids are translated.
    pub const IDMAP: u64 = 0x0010_0000;
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn path_c(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Makes a detached copy of the mount tree at `path`, submounts included (open_tree(2)).
///
/// # Errors
/// Those of the system call.
pub fn clone_tree(dir: Option<RawFd>, path: &Path) -> io::Result<OwnedFd> {
    let path = path_c(path)?;
    let flags = OPEN_TREE_CLONE
        | AT_RECURSIVE
        | libc::O_CLOEXEC as libc::c_uint
        | if path.is_empty() { libc::AT_EMPTY_PATH as libc::c_uint } else { 0 };
    // SAFETY: the path is a valid C string for the call's time; the descriptor returned is new and ours.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_open_tree, dir.unwrap_or(libc::AT_FDCWD), path.as_ptr(), flags))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Attaches the detached mount `tree` on `target` (move_mount(2)).
///
/// # Errors
/// Those of the system call.
pub fn attach(tree: &OwnedFd, target: BorrowedFd<'_>) -> io::Result<()> {
    let empty = c"";
    // SAFETY: both descriptors live through the call and the paths are valid C strings.
    unsafe {
        check(libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            empty.as_ptr(),
            target.as_raw_fd(),
            empty.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        ))?;
    }
    Ok(())
}

/// Sets attributes on a mount and all mounts below it (mount_setattr(2)). With `idmap`, translates ids by that user
/// namespace; only for detached mounts, and only on the mount itself.
///
/// # Errors
/// Those of the system call; `EINVAL` where the file system knows no translated mounts.
pub fn set_attributes(tree: RawFd, set: u64, idmap: Option<&OwnedFd>, recursive: bool) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attributes = MountAttr {
        attr_set: set | if idmap.is_some() { attr::IDMAP } else { 0 },
        attr_clr: 0,
        propagation: 0,
        userns_fd: idmap.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH as libc::c_uint | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the structure is the kernel's first version of `mount_attr`, its size is passed with it.
    unsafe {
        check(libc::syscall(
            libc::SYS_mount_setattr,
            tree,
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttr>(),
        ))?;
    }
    Ok(())
}

/// How [`open_below`] treats symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Followed, but never out of the directory.
    Inside,
    /// An error (`ELOOP`).
    Refused,
}

/// Opens `path` as seen with `dir` as the root (openat2(2)), as a mere place (`O_PATH`).
///
/// # Errors
/// Those of the system call.
pub fn open_below(dir: BorrowedFd<'_>, path: &Path, links: Links) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
    const RESOLVE_NO_SYMLINKS: u64 = 0x04;
    const RESOLVE_IN_ROOT: u64 = 0x10;
    let path = path_c(path)?;
    let how = OpenHow {
        flags: (libc::O_PATH | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve: RESOLVE_IN_ROOT
            | RESOLVE_NO_MAGICLINKS
            | if links == Links::Refused { RESOLVE_NO_SYMLINKS } else { 0 },
    };
    // SAFETY: the structure is the kernel's first version of `open_how`, its size is passed with it.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<OpenHow>(),
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Closes every descriptor from 3 on that is not in `keep`.
pub fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|&fd| fd > 2).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut from = 3;
    for fd in keep.into_iter().chain([RawFd::MAX]) {
        if fd > from {
            // SAFETY: the range holds no descriptor that anyone uses: the caller is a child that keeps only `keep`.
            unsafe {
                libc::syscall(libc::SYS_close_range, from as libc::c_uint, (fd - 1) as libc::c_uint, 0);
            }
        }
        from = fd.saturating_add(1);
    }
}

/// Sets whether other processes of the same user may look into this one (`PR_SET_DUMPABLE`).
///
/// # Errors
/// Those of the system call.
pub fn set_dumpable(on: bool) -> io::Result<()> {
    // SAFETY: a prctl with integer arguments only.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(on), 0, 0, 0) }))?;
    Ok(())
}

/// Gives the calling process the signal dispositions and the mask of a fresh one: what is ignored would stay ignored in
/// the program it becomes, and Rust ignores SIGPIPE.
pub fn default_signals() {
    use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
    for number in Signal::iterator() {
        // SAFETY: the default disposition runs no code of ours.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Has the kernel kill this process when its parent dies.
///
/// # Errors
/// Those of the system call.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: a prctl with integer arguments only.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }))?;
    Ok(())
}

/// Ends the process at once, without running anything else.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

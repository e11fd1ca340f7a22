//! Extended attributes of open files. Decides nothing.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Gets an extended attribute of an open file, its first 64 bytes; `None` where it has none of that name.
pub fn get(fd: impl AsFd, name: &str) -> Option<Vec<u8>> {
    let name = CString::new(name).ok()?;
    let mut value = vec![0u8; 64];
    // SAFETY: the name is a C string and the buffer as long as is said; both live through the call.
    let n = unsafe { libc::fgetxattr(fd.as_fd().as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let n = usize::try_from(n).ok()?;
    value.truncate(n);
    Some(value)
}

/// Sets an extended attribute of an open file.
///
/// # Errors
/// Those of fsetxattr(2): `ENOTSUP` where its file system has none.
pub fn set(fd: impl AsFd, name: &str, value: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: as above.
    match unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

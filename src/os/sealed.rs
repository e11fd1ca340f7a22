//! Memory that is handed over as a descriptor and that nobody can change any more.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Most that is read of one, bytes.
const MAX: u64 = 64 << 20;

/// Makes a memory file with `bytes`, sealed (memfd_create(2)).
///
/// # Errors
/// Those of the system calls.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let name = std::ffi::CString::new(name)?;
    let mut file = File::from(memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Reads a memory file from its beginning, whatever its offset.
///
/// # Errors
/// Those of the system calls; `InvalidData` beyond 64 MiB.
pub fn read_sealed(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(fd.try_clone()?);
    let length = file.metadata()?.len();
    if length > MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "memory file too large"));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_can_be_read_and_not_written() {
        let memory = sealed("test", b"spec").unwrap();
        assert_eq!(read_sealed(&memory).unwrap(), b"spec");
        assert!(File::from(memory).write_at(b"x", 0).is_err());
    }
}

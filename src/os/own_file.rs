//! Files that hold a secret of whoever runs bb, read where nobody else could have put something in their place.
//!
//! What is open is looked at, not what has the name by now; who asks says what is good enough. It quotes nothing of what it
//! reads, knows not what that is, and keeps nothing of it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

/// What is good enough.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A link is followed; it is an error otherwise.
    pub links: bool,
    /// It may be root's, too.
    pub of_root: bool,
    /// What nobody but its owner may have of its mode: 0o022 is writing, 0o077 all.
    pub closed: u32,
    /// Most that it may have. Unit: bytes.
    pub most: usize,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unread(#[from] io::Error),
    /// It is none.
    #[error("it is not a file")]
    NoFile,
    /// It is somebody else's.
    #[error("it belongs to another user ({0})")]
    Owner(u32),
    /// Others may do with it what its owner alone may.
    #[error("it is open to others than its owner (mode {0:o})")]
    Open(u32),
    /// It is too large.
    #[error("it is too large")]
    Large,
}

/// Opens a file that is within `bounds` but for its size.
///
/// # Errors
/// [`Unfit`].
pub fn open(path: &Path, bounds: Bounds) -> Result<(File, Metadata), Unfit> {
    // A pipe with nobody at its other end would hold up whoever opens it.
    let links = if bounds.links { 0 } else { libc::O_NOFOLLOW };
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC | links;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(Unfit::NoFile);
    }
    let own = meta.uid() == nix::unistd::geteuid().as_raw();
    if !(own || (bounds.of_root && meta.uid() == 0)) {
        return Err(Unfit::Owner(meta.uid()));
    }
    if meta.mode() & bounds.closed != 0 {
        return Err(Unfit::Open(meta.mode() & 0o7777));
    }
    Ok((file, meta))
}

/// Reads a file that is within `bounds`; what came is overwritten when it is dropped.
///
/// # Errors
/// [`Unfit`].
pub fn read(path: &Path, bounds: Bounds) -> Result<(Metadata, Zeroizing<Vec<u8>>), Unfit> {
    let (file, meta) = open(path, bounds)?;
    // Room for all of it: a text that grows would leave parts of itself behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bounds.most + 1));
    file.take(bounds.most as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bounds.most {
        return Err(Unfit::Large);
    }
    Ok((meta, bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A directory with one such file, both gone with the value.
    pub struct Scratch(pub PathBuf);

    impl Scratch {
        /// Makes one that nobody else has.
        pub fn new() -> Scratch {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let name = format!("bb-own-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let dir = std::env::temp_dir().canonicalize().unwrap().join(name);
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            Scratch(dir)
        }

        /// Writes the file anew.
        pub fn file(&self, text: impl AsRef<[u8]>, mode: u32) -> PathBuf {
            let path = self.0.join("file");
            let _ = fs::remove_file(&path);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_taken_within_its_bounds_only() {
        let scratch = Scratch::new();
        let bounds = Bounds { links: false, of_root: false, closed: 0o022, most: 6 };
        let path = scratch.file("secret", 0o644);
        assert_eq!(*read(&path, bounds).unwrap().1, b"secret");
        assert!(matches!(read(&path, Bounds { closed: 0o077, ..bounds }), Err(Unfit::Open(0o644))));
        assert!(matches!(read(&path, Bounds { most: 5, ..bounds }), Err(Unfit::Large)));
        assert!(open(&path, Bounds { most: 5, ..bounds }).is_ok());
        assert!(matches!(read(&scratch.0, bounds), Err(Unfit::NoFile)));
        let link = scratch.0.join("link");
        symlink("file", &link).unwrap();
        assert!(matches!(read(&link, bounds), Err(Unfit::Unread(_))));
        assert!(read(&link, Bounds { links: true, ..bounds }).is_ok());
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(matches!(read(&path, Bounds { of_root: true, ..bounds }), Err(Unfit::Owner(12345))));
        } else {
            let passwd = Path::new("/etc/passwd");
            assert!(matches!(open(passwd, bounds), Err(Unfit::Owner(0))));
            assert!(open(passwd, Bounds { of_root: true, ..bounds }).is_ok());
        }
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(read(&path, bounds), Err(Unfit::NoFile)), "and nobody is waited for");
    }
}

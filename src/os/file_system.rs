//! Which file systems lie on another machine, by the kernel's magic number; and which have no space left.
//!
//! FUSE has one number for all: what stands behind it is read from `/proc/self/mountinfo`, and only types that are known to be
//! local count as local.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Network and cluster file systems by the magic number of statfs(2) (linux/magic.h and the file systems' sources).
const NETWORK: [(u32, &str); 12] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x7375_7245, "Coda"),
    (0x0bd0_0bd0, "Lustre"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
];

/// The magic number of every FUSE file system.
const FUSE: u32 = 0x6573_5546;

/// FUSE file systems that keep their files on this machine.
const LOCAL_FUSE: [&str; 3] = ["fuseblk", "fuse.fuse-overlayfs", "fuse.gocryptfs"];

/// Gets the name of the file system of `dir` if it is not known to be on this machine.
///
/// # Errors
/// Where the directory cannot be looked at.
pub fn remote(dir: &Path) -> io::Result<Option<String>> {
    // The kernel's numbers have 32 bits; the field is wider, and signed on some machines.
    let magic = nix::sys::statfs::statfs(dir)?.filesystem_type().0 as u32;
    let fuse_type = if magic == FUSE {
        let device = fs::metadata(dir)?.dev();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        type_of_device(&mounts, nix::sys::stat::major(device), nix::sys::stat::minor(device))
    } else {
        None
    };
    Ok(refused(magic, fuse_type.as_deref()))
}

/// Less than this is no space: a page of a database, a frame of output.
const NO_SPACE: u64 = 64 << 10;

/// Tells whether the file system of `dir` has no space left for an ordinary user.
pub fn is_full(dir: &Path) -> bool {
    nix::sys::statvfs::statvfs(dir).is_ok_and(|s| s.blocks_available().saturating_mul(s.fragment_size()) < NO_SPACE)
}

/// Gets the name of the file system if it is one that is refused.
fn refused(magic: u32, fuse_type: Option<&str>) -> Option<String> {
    if magic == FUSE {
        return match fuse_type {
            Some(known) if LOCAL_FUSE.contains(&known) => None,
            other => Some(other.unwrap_or("FUSE").to_owned()),
        };
    }
    NETWORK.iter().find(|(number, _)| *number == magic).map(|(_, name)| (*name).to_owned())
}

/// Gets the type of the file system on a device from the text of `mountinfo` (proc(5)).
fn type_of_device(mountinfo: &str, major: u64, minor: u64) -> Option<String> {
    let wanted = format!("{major}:{minor}");
    mountinfo.lines().find_map(|line| {
        let (mount, fs) = line.split_once(" - ")?;
        (mount.split(' ').nth(2)? == wanted).then(|| fs.split(' ').next().map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
        50 36 0:52 / /home/me/far rw,nosuid shared:3 - fuse.sshfs host:/ rw,user_id=1000\n\
        51 36 0:53 / /data rw - fuseblk /dev/sdb1 rw\n";

    #[test]
    fn network_file_systems_are_refused_by_name_and_local_ones_pass() {
        assert_eq!(refused(0x6969, None).as_deref(), Some("NFS"));
        assert_eq!(refused(0xff53_4d42, None).as_deref(), Some("CIFS"));
        for local in [0xef53, 0x0102_1994, 0x9123_683e, 0x5846_5342, 0x794c_7630, 0x2fc1_2fc1] {
            assert_eq!(refused(local, None), None, "{local:x}");
        }
    }

    #[test]
    fn behind_fuse_only_known_local_types_pass() {
        let of = |minor| type_of_device(MOUNTS, 0, minor);
        assert_eq!(refused(FUSE, of(52).as_deref()).as_deref(), Some("fuse.sshfs"));
        assert_eq!(refused(FUSE, of(53).as_deref()), None);
        assert_eq!(refused(FUSE, of(99).as_deref()).as_deref(), Some("FUSE"), "unknown is refused");
    }
}

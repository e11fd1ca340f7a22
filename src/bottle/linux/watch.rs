//! Watches that the mounts of a bottle stay where they are.
//!
//! A guard lies on a file, not on a name. When the host replaces a guarded file (`git config`, an editor that saves by
//! renaming), the kernel takes the mount away, and the agent could write the new file. That cannot be prevented; it is
//! noticed at once, since the kernel wakes whoever polls the table of mounts. The bottle itself can change no mount.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

/// The table of mounts of a bottle, as it was when its root was built.
#[derive(Debug)]
pub struct Watch {
    table: File,
    /// Number and place of each mount.
    built: BTreeMap<u64, PathBuf>,
}

impl Watch {
    /// Starts watching the bottle whose pid 1 is `pid`, and which has mounts at `guards`.
    ///
    /// # Errors
    /// Those of reading the table; `NotFound` with the place where a guard is gone already.
    pub fn new(pid: i32, guards: impl IntoIterator<Item = PathBuf>) -> io::Result<Watch> {
        let mut watch = Watch { table: File::open(format!("/proc/{pid}/mountinfo"))?, built: BTreeMap::new() };
        watch.built = watch.mounts()?;
        let stands = |path: &PathBuf| watch.built.values().any(|place| place == path);
        match guards.into_iter().find(|path| !stands(path)) {
            Some(path) => Err(io::Error::new(io::ErrorKind::NotFound, format!("no guard at {}", path.display()))),
            None => Ok(watch),
        }
    }

    /// Gets the place of a mount that is gone.
    ///
    /// # Errors
    /// Those of reading the table.
    pub fn fallen(&mut self) -> io::Result<Option<PathBuf>> {
        let now = self.mounts()?;
        Ok(self.built.iter().find(|(number, _)| !now.contains_key(number)).map(|(_, place)| place.clone()))
    }

    /// Reads the table: number and place of each mount (proc(5), `/proc/PID/mountinfo`, fields 1 and 5).
    fn mounts(&mut self) -> io::Result<BTreeMap<u64, PathBuf>> {
        let mut bytes = Vec::new();
        self.table.rewind()?;
        self.table.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let row = |line: &str| {
            let mut fields = line.split(' ');
            Some((fields.next()?.parse().ok()?, PathBuf::from(unescaped(fields.nth(3)?))))
        };
        Ok(text.lines().filter_map(row).collect())
    }
}

impl AsFd for Watch {
    /// To be polled for `POLLPRI`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.table.as_fd()
    }
}

/// Undoes the kernel's escapes of space, tab, newline and backslash: `\` and three octal digits.
fn unescaped(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                out.push_str(&part[3..]);
            }
            None => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_named() {
        assert_eq!(unescaped(r"/w/my\040project\134x"), r"/w/my project\x");
        assert_eq!(unescaped("/w/pröject"), "/w/pröject");
    }

    #[test]
    fn a_table_that_stays_has_lost_nothing() {
        let pid = nix::unistd::getpid().as_raw();
        assert!(Watch::new(pid, ["/nothing/is/mounted/here".into()]).is_err());
        let mut watch = Watch::new(pid, ["/proc".into()]).unwrap();
        assert_eq!(watch.fallen().unwrap(), None);
        watch.built.insert(u64::MAX, "/gone".into());
        assert_eq!(watch.fallen().unwrap(), Some("/gone".into()));
    }
}

//! Watches that the mounts of a bottle stay where they are.
//!
//! A guard lies on a file, not on a name. When the host replaces a guarded file (`git config`, an editor that saves by
//! renaming), the kernel takes the mount away, and the agent could write the new file; when the host, or another bottle that has
//! the directory above, renames what is guarded, the mount goes with it, and the agent could write what is put in its place. Neither can
//! be prevented; both are noticed at once: the kernel wakes whoever polls the table of mounts, and inotify(7) tells of a rename. The
//! bottle itself can change no mount, and rename nothing that one lies on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// What the kernel tells of, and by which number.
type Renames = (Inotify, Vec<(WatchDescriptor, PathBuf)>);

/// The table of mounts of a bottle, as it was when its root was built.
#[derive(Debug)]
pub struct Watch {
    table: File,
    /// Number and place of each mount.
    built: BTreeMap<u64, PathBuf>,
    /// What tells that a guarded file was renamed; `None` where nothing is guarded.
    renames: Option<Renames>,
}

impl Watch {
    /// Starts watching the bottle whose pid 1 is `pid`, and which has mounts at `guards`.
    ///
    /// # Errors
    /// Those of reading the table; `NotFound` with the place where a guard is gone already.
    pub fn new(pid: i32, guards: impl IntoIterator<Item = PathBuf>) -> io::Result<Watch> {
        let guards: Vec<PathBuf> = guards.into_iter().collect();
        let renames = renames(&guards)?;
        let table = File::open(format!("/proc/{pid}/mountinfo"))?;
        let mut watch = Watch { table, built: BTreeMap::new(), renames };
        watch.built = watch.mounts()?;
        // What was renamed before it was watched is not at its place in the table.
        let stands = |path: &PathBuf| watch.built.values().any(|place| place == path);
        match guards.into_iter().find(|path| !stands(path)) {
            Some(path) => Err(io::Error::new(io::ErrorKind::NotFound, format!("no guard at {}", path.display()))),
            None => Ok(watch),
        }
    }

    /// Gets what becomes readable when a guarded file was renamed.
    pub fn renames(&self) -> Option<BorrowedFd<'_>> {
        self.renames.as_ref().map(|(inotify, _)| inotify.as_fd())
    }

    /// Gets the place of a mount that is gone, or of a guarded file that was renamed.
    ///
    /// # Errors
    /// Those of reading the table.
    pub fn fallen(&mut self) -> io::Result<Option<PathBuf>> {
        if let Some((inotify, watched)) = &self.renames {
            // Non-blocking: an error says that there is nothing.
            for event in inotify.read_events().unwrap_or_default() {
                if event.mask.contains(AddWatchFlags::IN_MOVE_SELF) {
                    let renamed = watched.iter().find(|(number, _)| *number == event.wd);
                    return Ok(Some(renamed.map_or_else(PathBuf::new, |(_, place)| place.clone())));
                }
            }
        }
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

/// Has the kernel tell of renames of what is guarded. Bottle and host name the files of a mounted workspace alike.
fn renames(guards: &[PathBuf]) -> io::Result<Option<Renames>> {
    if guards.is_empty() {
        return Ok(None);
    }
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(|e| {
        let raise = "raise it with `sysctl fs.inotify.max_user_instances=1024`";
        io::Error::other(format!("this user can watch no more files ({e}): {raise}"))
    })?;
    let watch = |place: &PathBuf| {
        let at = |e: nix::errno::Errno| io::Error::new(io::Error::from(e).kind(), format!("{}: {e}", place.display()));
        let flags = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DONT_FOLLOW;
        inotify.add_watch(place, flags).map(|number| (number, place.clone())).map_err(at)
    };
    let watched = guards.iter().map(watch).collect::<io::Result<_>>()?;
    Ok(Some((inotify, watched)))
}

impl Drop for Watch {
    /// Closing an inotify instance waits until no processor reads its marks any more: some 14 ms, which whoever awaits the end of a
    /// bottle would wait, too. The end of the keeper, which nobody awaits, closes it.
    fn drop(&mut self) {
        if let Some((inotify, _)) = self.renames.take() {
            std::mem::forget(inotify);
        }
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

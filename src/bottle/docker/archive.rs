//! An agent's home as an archive (POSIX ustar with GNU's long names): written in one container, laid out in another.
//!
//! Both ends are in a container, as its agent. What is read is as untrusted as the home itself: each name only leads down, no
//! link is followed, and there is nothing but files, directories and links. Setuid bits, owners and special files stay behind.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, fchmod, futimens};
use nix::sys::time::TimeSpec;

use crate::os::beneath::{Dir, Kind, Stat, is_plain};

/// Most that one archive holds, bytes and entries.
pub const MOST_BYTES: u64 = 4 << 30;
const MOST_ENTRIES: u64 = 1_000_000;

/// Deepest directory that is looked into.
const DEEPEST: usize = 200;

/// Longest name and target of a link, bytes.
const MOST_NAME: u64 = 4096;

/// Size of a block.
const BLOCK: usize = 512;

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "the home is too large to be saved")
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// An archive that is being written.
struct Writer<'a, W> {
    out: W,
    /// What is left out, as absolute paths.
    skip: &'a [PathBuf],
    bytes: u64,
    entries: u64,
}

/// Writes what lies in `home`, less `skip`.
///
/// # Errors
/// `FileTooLarge` beyond the bounds, and those of the system calls. A single file that cannot be read is left out.
pub fn write(home: &Path, skip: &[PathBuf], out: impl Write) -> io::Result<()> {
    let mut writer = Writer { out, skip, bytes: 0, entries: 0 };
    writer.directory(&Dir::open(home)?, home, Path::new(""), 0)?;
    writer.out.write_all(&[0; 2 * BLOCK])?;
    writer.out.flush()
}

impl<W: Write> Writer<'_, W> {
    fn directory(&mut self, dir: &Dir, home: &Path, path: &Path, depth: usize) -> io::Result<()> {
        for name in dir.names()? {
            let path = path.join(&name);
            let too_long = path.as_os_str().len() as u64 > MOST_NAME;
            if too_long || self.skip.iter().any(|skip| *skip == home.join(&path)) {
                continue;
            }
            let Some(stat) = dir.stat(&name)? else { continue };
            self.entries += 1;
            if self.entries > MOST_ENTRIES || depth > DEEPEST {
                return Err(too_large());
            }
            match stat.kind {
                Kind::Directory => {
                    let Ok(sub) = dir.sub(Path::new(&name)) else { continue };
                    self.header(&path, b'5', &stat, 0, OsStr::new(""))?;
                    self.directory(&sub, home, &path, depth + 1)?;
                }
                Kind::File => {
                    let Ok((file, stat)) = dir.read(Path::new(&name)) else { continue };
                    self.header(&path, b'0', &stat, stat.size, OsStr::new(""))?;
                    self.content(file, stat.size)?;
                }
                Kind::Link => self.header(&path, b'2', &stat, 0, &dir.target(&name)?)?,
                Kind::Whiteout | Kind::Special => {}
            }
        }
        Ok(())
    }

    /// Writes exactly `size` bytes, whatever the file has become.
    fn content(&mut self, file: File, size: u64) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > MOST_BYTES {
            return Err(too_large());
        }
        let copied = io::copy(&mut file.take(size), &mut self.out)?;
        io::copy(&mut io::repeat(0).take(size - copied + padding(size)), &mut self.out).map(drop)
    }

    fn header(&mut self, path: &Path, kind: u8, stat: &Stat, size: u64, target: &OsStr) -> io::Result<()> {
        let (name, target) = (path.as_os_str().as_bytes(), target.as_bytes());
        for (text, kind) in [(name, b'L'), (target, b'K')] {
            if text.len() >= 100 {
                self.out.write_all(&block(b"long", kind, 0, text.len() as u64, 0, b""))?;
                self.out.write_all(text)?;
                self.out.write_all(&vec![0; padding(text.len() as u64) as usize])?;
            }
        }
        let seconds = stat.mtime.0.max(0).cast_unsigned();
        self.out.write_all(&block(name, kind, stat.mode & 0o777, size, seconds, target))
    }
}

/// Makes an archive of one file that is an archive itself: its content, of `size` bytes, is said by `content`. With its size.
pub fn wrapped(name: &str, content: impl Read, size: u64) -> (impl Read, u64) {
    let head = io::Cursor::new(block(name.as_bytes(), b'0', 0o444, size, 0, b""));
    let rest = padding(size) + 2 * BLOCK as u64;
    (head.chain(content.take(size)).chain(io::repeat(0).take(rest)), BLOCK as u64 + size + rest)
}

/// How many bytes lie between the end of a content and the next block.
fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// Makes a header; what does not fit into it has been said before.
fn block(name: &[u8], kind: u8, mode: u32, size: u64, mtime: u64, target: &[u8]) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    let mut put = |at: usize, most: usize, bytes: &[u8]| {
        let n = bytes.len().min(most);
        block[at..at + n].copy_from_slice(&bytes[..n]);
    };
    put(0, 99, name);
    put(100, 8, format!("{mode:07o}").as_bytes());
    put(108, 8, b"0000000");
    put(116, 8, b"0000000");
    put(124, 12, format!("{size:011o}").as_bytes());
    put(136, 12, format!("{:011o}", mtime.min(0o77_777_777_777)).as_bytes());
    put(148, 8, b"        ");
    put(156, 1, &[kind]);
    put(157, 99, target);
    put(257, 8, b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

/// Reads a number of a header.
fn number(field: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(field).map_err(|_| invalid("a number that is none"))?;
    let text = text.trim_matches(['\0', ' ']);
    if text.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(text, 8).map_err(|_| invalid("a number that is none"))
}

/// Lays out an archive in `home`, over what is there.
///
/// # Errors
/// `InvalidData` for what is no such archive, `StorageFull` where it does not fit. A single entry that has no place is left
/// out.
pub fn lay_out(mut archive: impl Read, home: &Path) -> io::Result<()> {
    let root = Dir::open(home)?;
    let (mut name, mut target): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
    let mut modes = Vec::new();
    let mut entries = 0;
    loop {
        let mut block = [0u8; BLOCK];
        archive.read_exact(&mut block)?;
        if block.iter().all(|b| *b == 0) {
            break;
        }
        let size = number(&block[124..136])?;
        let kind = block[156];
        entries += 1;
        if size > MOST_BYTES || entries > 3 * MOST_ENTRIES {
            return Err(too_large());
        }
        if matches!(kind, b'L' | b'K') {
            if size > MOST_NAME {
                return Err(invalid("a name is too long"));
            }
            let mut text = vec![0; (size + padding(size)) as usize];
            archive.read_exact(&mut text)?;
            text.truncate(size as usize);
            *(if kind == b'L' { &mut name } else { &mut target }) = Some(text);
            continue;
        }
        let short = |field: &[u8]| field.split(|b| *b == 0).next().unwrap_or_default().to_vec();
        let path = PathBuf::from(OsStr::from_bytes(&name.take().unwrap_or_else(|| short(&block[..100]))));
        let to = target.take().unwrap_or_else(|| short(&block[157..257]));
        if !is_plain(&path) || path.file_name().is_none() {
            return Err(invalid("a name leads elsewhere"));
        }
        let mode = Mode::from_bits_truncate(number(&block[100..108])? as u32 & 0o777);
        let mut content = archive.by_ref().take(size);
        let laid = match kind {
            b'5' => directory(&root, &path).map(|dir| modes.push((dir, mode))),
            b'2' => link(&root, &path, OsStr::from_bytes(&to)),
            b'0' => file(&root, &path, &mut content, mode, number(&block[136..148])?),
            _ => Ok(()),
        };
        if let Err(e) = laid
            && matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            return Err(e);
        }
        // What was not read of it, and the rest of its last block.
        let left = content.limit();
        io::copy(&mut archive.by_ref().take(left + padding(size)), &mut io::sink())?;
        if modes.len() > 256 {
            settle(&mut modes);
        }
    }
    settle(&mut modes);
    Ok(())
}

/// Gives directories their bits: at the end, since one that must not be written could not be filled.
fn settle(modes: &mut Vec<(Dir, Mode)>) {
    // A directory that an agent could not enter again would be of no use to it either.
    for (dir, mode) in modes.drain(..) {
        let _ = fchmod(&dir, mode | Mode::S_IRWXU);
    }
}

fn directory(root: &Dir, path: &Path) -> io::Result<Dir> {
    let mut dir = root.again()?;
    for part in path.iter() {
        dir = dir.make_dir(part, 0o755)?;
    }
    Ok(dir)
}

/// Gets the directory that a path lies in, with nothing in the path's place.
fn place<'p>(root: &Dir, path: &'p Path) -> io::Result<(Dir, &'p OsStr)> {
    let dir = directory(root, path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    if dir.stat(name)?.is_some_and(|there| there.kind != Kind::Directory) {
        dir.remove(name)?;
    }
    Ok((dir, name))
}

fn link(root: &Dir, path: &Path, target: &OsStr) -> io::Result<()> {
    let (dir, name) = place(root, path)?;
    dir.make_link(target, name)
}

fn file(root: &Dir, path: &Path, content: &mut impl Read, mode: Mode, mtime: u64) -> io::Result<()> {
    let (dir, name) = place(root, path)?;
    let mut file = dir.create(name, 0o600)?;
    io::copy(content, &mut file)?;
    fchmod(&file, mode)?;
    let time = TimeSpec::new(i64::try_from(mtime).unwrap_or_default(), 0);
    Ok(futimens(&file, &time, &time)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("bb-archive-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn a_home_comes_out_as_it_went_in_less_what_is_left_out() {
        let (from, to) = (scratch("from"), scratch("to"));
        let long = "n".repeat(150);
        fs::create_dir_all(from.join(".local/bin")).unwrap();
        fs::create_dir_all(from.join(".cli/sessions")).unwrap();
        fs::write(from.join(".cli/sessions/1"), "a session").unwrap();
        fs::write(from.join(".local/bin/tool"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(from.join(".local/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::write(from.join(&long), vec![b'x'; 1000]).unwrap();
        fs::write(from.join("block"), vec![b'y'; 512]).unwrap();
        std::os::unix::fs::symlink(format!("/{long}"), from.join("link")).unwrap();
        nix::unistd::mkfifo(&from.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        let mut bytes = Vec::new();
        write(&from, &[from.join(".cli/sessions")], &mut bytes).unwrap();
        // It is an archive as others know it.
        let tar = to.join("x.tar");
        fs::write(&tar, &bytes).unwrap();
        if let Ok(listed) = std::process::Command::new("tar").arg("-tf").arg(&tar).output() {
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            assert!(listed.contains(".local/bin/tool") && listed.contains(&long), "{listed}");
        }
        // What lies there already gives way.
        fs::write(to.join("block"), "old").unwrap();
        lay_out(&bytes[..], &to).unwrap();
        assert_eq!(fs::metadata(to.join(".local/bin/tool")).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs::read(to.join(&long)).unwrap().len(), 1000);
        assert_eq!(fs::read(to.join("block")).unwrap(), vec![b'y'; 512]);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), PathBuf::from(format!("/{long}")));
        assert!(!to.join("fifo").exists() && !to.join(".cli/sessions").exists() && to.join(".cli").exists());
        for dir in [from, to] {
            fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn an_archive_that_leads_out_or_ends_early_is_refused_and_links_are_not_followed() {
        let (top, outside) = (scratch("odd"), scratch("outside"));
        for name in [&b"../x"[..], b"/etc/x", b"a/../../x", b""] {
            let bytes = [&block(name, b'0', 0o644, 0, 0, b"")[..], &[0; 1024]].concat();
            assert!(lay_out(&bytes[..], &top).is_err(), "{name:?}");
        }
        let link = block(b"way", b'2', 0o777, 0, 0, outside.as_os_str().as_bytes());
        let through = block(b"way/x", b'0', 0o644, 0, 0, b"");
        let device = block(b"null", b'3', 0o666, 0, 0, b"");
        let bytes = [&link[..], &through, &device, &[0; 1024]].concat();
        lay_out(&bytes[..], &top).unwrap();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!top.join("null").exists());
        assert!(lay_out(&bytes[..700], &top).is_err(), "it ends early");
        for dir in [top, outside] {
            fs::remove_dir_all(dir).unwrap();
        }
    }
}

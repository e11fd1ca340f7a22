//! A tar archive being written (POSIX ustar, with GNU's long names): the context of a build.
//!
//! The same entries give the same bytes: no owner, no time. Reads no files.

const BLOCK: usize = 512;

/// Longest name that a header holds.
const SHORT: usize = 100;

/// See the module.
#[derive(Clone, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// Adds a file.
    pub fn file(&mut self, name: &[u8], mode: u32, content: &[u8]) {
        self.long(b'L', name);
        self.header(name, mode, b'0', content.len(), b"");
        self.content(content);
    }

    /// Adds a directory.
    pub fn directory(&mut self, name: &[u8], mode: u32) {
        let name = [name, b"/"].concat();
        self.long(b'L', &name);
        self.header(&name, mode, b'5', 0, b"");
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &[u8], target: &[u8]) {
        self.long(b'K', target);
        self.long(b'L', name);
        self.header(name, 0o777, b'2', 0, target);
    }

    /// Gets what was added so far.
    pub fn so_far(&self) -> &[u8] {
        &self.0
    }

    /// Gets the whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 2 * BLOCK]);
        self.0
    }

    /// Says a name that is too long for the next entry's header.
    fn long(&mut self, kind: u8, name: &[u8]) {
        if name.len() > SHORT {
            self.header(b"././@LongLink", 0o644, kind, name.len() + 1, b"");
            self.content(&[name, b"\0"].concat());
        }
    }

    fn content(&mut self, content: &[u8]) {
        self.0.extend_from_slice(content);
        let over = content.len() % BLOCK;
        if over > 0 {
            self.0.resize(self.0.len() + BLOCK - over, 0);
        }
    }

    fn header(&mut self, name: &[u8], mode: u32, kind: u8, size: usize, target: &[u8]) {
        let mut block = [0u8; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| {
            for (slot, byte) in block[at..].iter_mut().zip(bytes) {
                *slot = *byte;
            }
        };
        put(0, &name[..name.len().min(SHORT)]);
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{size:011o}").as_bytes());
        put(136, b"00000000000");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, &target[..target.len().min(SHORT)]);
        put(257, b"ustar\x0000");
        let sum: u32 = block.iter().copied().map(u32::from).sum();
        for (slot, byte) in block[148..].iter_mut().zip(format!("{sum:06o}\0 ").bytes()) {
            *slot = byte;
        }
        self.0.extend_from_slice(&block);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_systems_own_tar_reads_it() {
        let long = format!("a/{}", "long-name-".repeat(20));
        let mut tar = Tar::default();
        tar.directory(b"a", 0o755);
        tar.file(b"a/run.sh", 0o755, b"#!/bin/sh\n");
        tar.file(long.as_bytes(), 0o644, &[b'x'; 700]);
        tar.link(b"link", "../".repeat(50).as_bytes());
        let mut list =
            Command::new("tar").args(["-tvf", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        list.stdin.take().unwrap().write_all(&tar.finish()).unwrap();
        let output = list.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        for (mode, rest) in [
            ("drwxr-xr-x", " a/".to_owned()),
            ("-rwxr-xr-x", " a/run.sh".to_owned()),
            ("-rw-r--r--", format!(" {long}")),
            ("lrwxrwxrwx", format!(" link -> {}", "../".repeat(50))),
        ] {
            assert!(text.lines().any(|l| l.starts_with(mode) && l.ends_with(&rest)), "{rest}: {text}");
        }
        assert!(text.contains(" 700 "), "{text}");
    }
}

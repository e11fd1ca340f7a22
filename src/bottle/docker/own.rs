//! What a launch names and what it needs beside the engine: the image's name, and the static build of bb that is shown in
//! the containers. Looks at files of the host; starts nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

/// Tells whether this may be an image's name, as engines write them; nothing else of it is looked at.
pub fn is_image_name(name: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    name.len() <= 512
        && name.bytes().all(known)
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && !name.contains("..")
        && !name.contains("//")
}

/// Finds the static build of bb that is shown in containers: `BB_HELPER`, `bb-helper` beside the executable, or the
/// executable itself.
///
/// # Errors
/// `backend_unavailable` where there is none.
pub fn own_helper(exe: &Path) -> Result<PathBuf> {
    let named = std::env::var_os("BB_HELPER").filter(|v| !v.is_empty()).map(PathBuf::from);
    let chosen = named.is_some();
    let beside = exe.with_file_name("bb-helper");
    let place = named.or_else(|| beside.exists().then_some(beside)).unwrap_or_else(|| exe.to_owned());
    match is_static(&place) {
        Ok(true) => Ok(place),
        found => {
            let message = match found {
                Err(e) => format!("the static build of bb cannot be read: {e}"),
                Ok(_) if chosen => "this is no static build of bb".to_owned(),
                Ok(_) => "backend docker needs a static build of bb, and there is none".to_owned(),
            };
            Err(Error::new(Kind::BackendUnavailable, message).at(place.display().to_string()).hint(
                "build one (docs/backends.md says how) and put it beside bb as `bb-helper`, or name it in BB_HELPER",
            ))
        }
    }
}

/// Tells whether an executable runs without anything beside it: an ELF file that names no interpreter.
fn is_static(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    const INTERPRETER: u32 = 3;
    let file = fs::File::open(path)?;
    let mut header = [0u8; 64];
    file.read_exact_at(&mut header, 0)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Ok(false);
    }
    let word = |at: usize| header.get(at..at + 2).map_or(0, |b| u64::from(u16::from_le_bytes([b[0], b[1]])));
    let table = header.get(32..40).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    for n in 0..word(56) {
        let mut kind = [0u8; 4];
        file.read_exact_at(&mut kind, table.saturating_add(n * word(54)))?;
        if u32::from_le_bytes(kind) == INTERPRETER {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_are_told_from_what_could_mean_another_path() {
        for name in ["debian:12", "ghcr.io/o/app@sha256:abc", "localhost:5000/x", "a"] {
            assert!(is_image_name(name), "{name}");
        }
        for name in ["", "-v", "../x", "a b", "a?b=c", "a//b", "a\0", "ä"] {
            assert!(!is_image_name(name), "{name}");
        }
    }

    #[test]
    fn a_dynamic_executable_is_no_helper() {
        assert!(!is_static(Path::new("/proc/self/exe")).unwrap());
        assert!(!is_static(Path::new("/etc/services")).unwrap_or(false));
        let error = own_helper(Path::new("/proc/self/exe"));
        assert!(std::env::var_os("BB_HELPER").is_some() || error.unwrap_err().kind == Kind::BackendUnavailable);
    }
}

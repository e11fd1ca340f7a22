//! Why this machine does not give us a user namespace, and the exact remedy.
//!
//! Reads a few files below `/proc` and `/sys`; changes nothing.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::printable::shell_word;

/// Where the profile is put.
const PROFILE: &str = "/etc/apparmor.d/bb";

fn number(path: &Path) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The AppArmor profile (apparmor.d(5)) that lets the executable at `exe` make user namespaces.
fn apparmor_profile(exe: &Path) -> String {
    let exe = apparmor_path(exe);
    format!("abi <abi/4.0>,\ninclude <tunables/global>\nprofile bb {exe} flags=(unconfined) {{\n  userns,\n}}\n")
}

/// Writes a path such that a profile means this one file by it: no pattern, no variable, no end of its line.
fn apparmor_path(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    if bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"/-_.+".contains(b)) {
        return path.display().to_string();
    }
    let mut quoted = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                c if c.is_ascii_control() => quoted.push_str(&format!("\\{:03o}", u32::from(c))),
                '\\' | '"' | '*' | '?' | '[' | ']' | '{' | '}' | '^' => quoted.extend(['\\', c]),
                c => quoted.push(c),
            }
        }
        quoted.extend(chunk.invalid().iter().map(|b| format!("\\{b:03o}")));
    }
    quoted.push('"');
    quoted
}

/// The command that installs the profile, on one line.
fn apparmor_command(exe: &Path) -> String {
    let lines: Vec<String> = apparmor_profile(exe).lines().map(shell_word).collect();
    let lines = lines.join(" ");
    format!("printf '%s\\n' {lines} | sudo tee {PROFILE} >/dev/null && sudo apparmor_parser -r {PROFILE}")
}

/// Explains a refusal: `step` is what was tried, `cause` what the system said.
pub fn explain(step: &str, cause: &str) -> Error {
    let exe = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/bb".into());
    explained(Path::new("/"), &exe, step, cause)
}

/// As [`explain`], by what stands in the files below `root`.
fn explained(root: &Path, exe: &Path, step: &str, cause: &str) -> Error {
    let number = |file: &str| number(&root.join("proc/sys").join(file));
    let error = |why: &str| Error::new(Kind::UsernsForbidden, format!("{step}: {cause}: {why}"));
    if number("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return error("AppArmor forbids unprivileged user namespaces (the default of Ubuntu 24.04)")
            .at("kernel.apparmor_restrict_unprivileged_userns = 1")
            .hint(format!("run: {}", apparmor_command(exe)));
    }
    if number("kernel/unprivileged_userns_clone") == Some(0) {
        return error("the kernel is set to forbid unprivileged user namespaces")
            .at("kernel.unprivileged_userns_clone = 0")
            .hint("run: sudo sysctl -w kernel.unprivileged_userns_clone=1");
    }
    if number("user/max_user_namespaces") == Some(0) {
        return error("the limit on user namespaces is 0")
            .at("user.max_user_namespaces = 0")
            .hint("run: sudo sysctl -w user.max_user_namespaces=15000");
    }
    error("this system, or the container bb runs in, forbids it")
        .hint("in a container, allow user namespaces in its seccomp profile; else run bb on the host. `bb doctor` tries each step")
}

/// Checks, for a keeper that runs as root, that the host user id of an agent exists here.
///
/// # Errors
/// `userns_forbidden` where root is only the root of a user namespace that lacks the id, as in a rootless container.
pub fn check_mapped(uid: u32) -> Result<()> {
    if maps(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default(), uid) {
        return Ok(());
    }
    Err(Error::new(Kind::UsernsForbidden, "bb runs as root of a user namespace, such as a rootless container's")
        .at(format!("/proc/self/uid_map lacks the id {uid} that the agent gets"))
        .hint("run bb as an ordinary user there, or outside of the container"))
}

/// Tells whether a `uid_map` (user_namespaces(7)) has an id.
fn maps(uid_map: &str, id: u32) -> bool {
    uid_map.lines().any(|line| {
        let mut fields = line.split_whitespace().map(|f| f.parse::<u64>().unwrap_or(0));
        let (first, _, length) = (fields.next().unwrap_or(0), fields.next(), fields.next().unwrap_or(0));
        (first..first.saturating_add(length)).contains(&u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root of a file system in which these files of `/proc/sys` have these contents.
    fn explained_by(files: &[(&str, &str)]) -> Error {
        let root = std::env::temp_dir().join(format!("bb-forbidden-{}", std::process::id()));
        for (file, text) in files {
            let file = root.join("proc/sys").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let error = explained(&root, Path::new("/opt/bb"), "unshare", "EPERM");
        let _ = fs::remove_dir_all(&root);
        error
    }

    #[test]
    fn what_forbids_user_namespaces_is_named_with_its_remedy() {
        let (apparmor, debian, limit) = (
            "kernel/apparmor_restrict_unprivileged_userns",
            "kernel/unprivileged_userns_clone",
            "user/max_user_namespaces",
        );
        let allowed = [(apparmor, "0\n"), (debian, "1\n"), (limit, "15000\n")];
        for (file, text, place, hint) in [
            (apparmor, "1\n", "kernel.apparmor_restrict_unprivileged_userns = 1", "run: printf '%s\\n' "),
            (
                debian,
                "0\n",
                "kernel.unprivileged_userns_clone = 0",
                "run: sudo sysctl -w kernel.unprivileged_userns_clone=1",
            ),
            (limit, "0\n", "user.max_user_namespaces = 0", "run: sudo sysctl -w user.max_user_namespaces=15000"),
        ] {
            let files = allowed.map(|(name, value)| (name, if name == file { text } else { value }));
            let error = explained_by(&files);
            assert_eq!((error.kind, error.place.as_deref()), (Kind::UsernsForbidden, Some(place)));
            assert!(error.message.starts_with("unshare: EPERM: "), "{error}");
            assert!(error.hint.as_deref().unwrap().starts_with(hint), "{error}");
        }
        // Of a machine that says nothing, or that all is allowed, the one thing left is said.
        for files in [&[][..], &allowed[..]] {
            let error = explained_by(files);
            assert!(error.place.is_none() && error.hint.unwrap().contains("seccomp profile"));
        }
    }

    /// What the command hands to `tee`.
    fn installed(exe: &Path) -> String {
        let command = apparmor_command(exe);
        assert_eq!(command.lines().count(), 1, "{command}");
        let (printf, rest) = command.rsplit_once(" | ").unwrap();
        assert_eq!(rest, "sudo tee /etc/apparmor.d/bb >/dev/null && sudo apparmor_parser -r /etc/apparmor.d/bb");
        let output = std::process::Command::new("/bin/sh").args(["-c", printf]).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_profile_arrives_as_it_is_meant_whatever_the_executable_is_called() {
        use std::ffi::OsStr;
        let profile = |exe: &str| {
            format!(
                "abi <abi/4.0>,\ninclude <tunables/global>\nprofile bb {exe} flags=(unconfined) {{\n  userns,\n}}\n"
            )
        };
        assert_eq!(installed(Path::new("/usr/bin/bb")), profile("/usr/bin/bb"));
        assert_eq!(installed(Path::new("/home/a b/100%s/it's/bb")), profile("\"/home/a b/100%s/it's/bb\""));
        assert_eq!(installed(Path::new("/a\\n*{x}\"@{HOME}/bb")), profile(r#""/a\\n\*\{x\}\"@\{HOME\}/bb""#));
        assert_eq!(installed(Path::new("/a,\nb/ü/bb")), profile(r#""/a,\012b/ü/bb""#));
        assert_eq!(installed(Path::new(OsStr::from_bytes(b"/\xff$(id)`id`/bb"))), profile(r#""/\377$(id)`id`/bb""#));
    }

    #[test]
    fn a_root_without_the_agents_id_is_known() {
        let id = super::super::RESERVED_ID;
        assert!(maps("         0          0 4294967295\n", id), "the host's root");
        assert!(!maps("0 1000 1\n1 100000 65536\n", id), "a rootless container's");
        assert!(!maps("", id));
    }
}

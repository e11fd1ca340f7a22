//! Why this machine does not give us a user namespace, and the exact remedy.
//!
//! Reads a few files below `/proc` and `/sys`; changes nothing.

use std::fs;

use crate::error::{Error, Kind, Result};

fn number(path: &str) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The AppArmor profile that lets the executable at `exe` make user namespaces.
pub fn apparmor_profile(exe: &str) -> String {
    format!("abi <abi/4.0>,\ninclude <tunables/global>\nprofile bb {exe} flags=(unconfined) {{\n  userns,\n}}\n")
}

/// Explains a refusal: `step` is what was tried, `cause` what the system said.
pub fn explain(step: &str, cause: &str) -> Error {
    let exe = std::env::current_exe().map_or_else(|_| "/usr/bin/bb".to_owned(), |p| p.display().to_string());
    let error = |why: &str| Error::new(Kind::UsernsForbidden, format!("{step}: {cause}: {why}"));
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        let profile = apparmor_profile(&exe).replace('\n', "\\n");
        return error("AppArmor forbids unprivileged user namespaces (the default of Ubuntu 24.04)")
            .at("kernel.apparmor_restrict_unprivileged_userns = 1")
            .hint(format!(
                "run: printf '{profile}' | sudo tee /etc/apparmor.d/bb >/dev/null && sudo apparmor_parser -r /etc/apparmor.d/bb"
            ));
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return error("the kernel is set to forbid unprivileged user namespaces")
            .at("kernel.unprivileged_userns_clone = 0")
            .hint("run: sudo sysctl -w kernel.unprivileged_userns_clone=1");
    }
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
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

    #[test]
    fn a_root_without_the_agents_id_is_known() {
        let id = super::super::RESERVED_ID;
        assert!(maps("         0          0 4294967295\n", id), "the host's root");
        assert!(!maps("0 1000 1\n1 100000 65536\n", id), "a rootless container's");
        assert!(!maps("", id));
    }
}

//! Workspaces that an agent does not write into directly: a layer over the directory, or a copy of it.
//!
//! * [`prepare`]: makes the layer or the copy before a bottle starts. [`kept`]: what is remembered of it, and for how long.
//! * [`changes`]: what the agent has changed; `copied`: what a copy was made of; `content`: of the files themselves. [`text`]: as a unified diff. [`refuse`]: what is never brought over.
//! * [`apply`]: brings changes over; `applied`: what was so far. [`transfer`]: copies files into a bottle and out of it.
//! * [`session`]: the agent's own session, which may outlive its bottle.
//!
//! Everything that an agent wrote is untrusted: no link of its is followed ([`crate::os::beneath`]), what is read is bounded,
//! nothing is executed. Works while the bottle runs and after it has ended. Knows nothing of routes, budgets or keepers.

mod applied;
pub mod apply;
pub mod changes;
mod content;
mod copied;
pub mod kept;
pub mod prepare;
pub mod put;
pub mod refuse;
pub mod session;
pub mod text;
pub mod transfer;

/// Largest file that is looked at and brought over, bytes.
pub const MOST_FILE: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::kept::{LAYER, Metadata, UPPER};
    use crate::api::{DiffQuery, WorkspaceMode};
    use crate::os::{attribute, beneath};

    #[test]
    fn marks_of_a_layer_are_understood_whoever_mounted_it() {
        let root = std::env::temp_dir().join(format!("bb-marks-{}", std::process::id()));
        // Only root can set those of a mount with privilege.
        let whose = if nix::unistd::geteuid().is_root() { &["user", "trusted"][..] } else { &["user"] };
        for space in whose {
            let _ = fs::remove_dir_all(&root);
            let (workspace, state) = (root.join("w"), root.join("s"));
            let upper = state.join(LAYER).join(UPPER);
            for dir in [workspace.join("hidden"), workspace.join("plain"), upper.join("hidden"), upper.join("moved")] {
                fs::create_dir_all(dir).unwrap();
            }
            fs::create_dir_all(upper.join("plain")).unwrap();
            for file in [workspace.join("hidden/a"), workspace.join("plain/b"), upper.join("moved/c")] {
                fs::write(file, "x").unwrap();
            }
            let mark = |dir: &str, name: &str, value: &[u8]| {
                attribute::set(File::open(upper.join(dir)).unwrap(), &format!("{space}.overlay.{name}"), value)
            };
            if mark("hidden", "opaque", b"y").is_err() {
                // The file system has no attributes.
                continue;
            }
            mark("moved", "redirect", b"/plain").unwrap();
            let metadata = Metadata {
                v: 1,
                slug: "x".to_owned(),
                id: "x".to_owned(),
                mode: WorkspaceMode::Overlay,
                identity: beneath::identity(&workspace).unwrap(),
                workspace,
                base: i64::MAX,
                kept: false,
            };
            let found = super::changes::list(&metadata, &state, &DiffQuery::default()).unwrap().found;
            let of = |path: &str| found.iter().rfind(|f| f.change.path == path);
            assert_eq!(of("hidden/a").unwrap().change.what.as_str(), "deleted", "{space}");
            assert!(of("plain/b").is_none(), "{space}: nothing hides it");
            let moved = of("moved").unwrap().change.refused.clone().unwrap_or_default();
            assert!(moved.contains("another directory") && of("moved/c").is_none(), "{space}: {moved}");
        }
        fs::remove_dir_all(&root).unwrap();
    }
}

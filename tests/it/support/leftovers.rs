//! What bottles have left behind in a world, asked when all is quiet: [`World::leftovers`].

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use super::left;
use super::warden::Process;
use super::world::World;

impl World {
    pub(super) fn mount_points(&self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.warden.pid)).unwrap_or_default();
        text.lines().filter_map(|l| l.split_whitespace().nth(4)).map(str::to_owned).collect()
    }

    /// Lists everything that bottles have left behind: processes besides the controller (in the world or escaped from it),
    /// mounts, namespaces however they are kept, cgroups, keepers' sockets, temporary files.
    pub fn leftovers(&self) -> Vec<String> {
        self.leftovers_within(Duration::from_secs(15))
    }

    /// As [`World::leftovers`], with how long the kernel may take to take down what has ended. What is kept is found however
    /// short that is; what has ended and is not down yet is taken for kept.
    pub fn leftovers_within(&self, patience: Duration) -> Vec<String> {
        let controller = self.controller_pid();
        let all = self.processes();
        // What keepers are forked from is the controller's, and ends with it.
        let of_controller = |p: &&Process| {
            Some(p.pid) == controller || controller.is_some() && Some(p.parent) == controller && p.name == "bb-keepers"
        };
        let processes = all.iter().filter(|p| !of_controller(p));
        let mut left: Vec<String> = processes.map(|p| format!("process {} {}", p.pid, p.command)).collect();
        let known: BTreeSet<i32> = all.iter().map(|p| p.pid).chain([self.warden.pid]).collect();
        left.extend(left::strays(self.dir(), &known));
        let own = left::namespaces(self.warden.pid);
        left.extend(all.iter().flat_map(|p| left::foreign(p.pid, &own)));
        let mounts = self.mount_points();
        if mounts.len() > self.mounts {
            left.push(format!("mounts {:?}", &mounts[self.mounts..]));
        }
        for dir in ["run/k", "state"] {
            walk(&self.bb_home().join(dir), &mut |path| {
                let kind = fs::symlink_metadata(path).map(|m| m.file_type());
                if kind.is_ok_and(|k| k.is_socket() || k.is_fifo()) {
                    left.push(format!("socket {}", path.display()));
                }
            });
        }
        // The doctor's database is removed by the doctor; the rest is the controller's, the keepers'
        // directory, and things to remember: that it was stopped, what somebody at a terminal allowed, and which
        // backend works.
        for entry in fs::read_dir(self.bb_home().join("run")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !["k", "stopped", "allowed-recipes", "backend"].contains(&name.as_str())
                && !name.starts_with("controller.")
            {
                left.push(format!("file {}", entry.path().display()));
            }
        }
        let mine = self.dir().display().to_string();
        if let Ok(text) = fs::read_to_string("/proc/self/mountinfo") {
            left.extend(text.lines().filter(|l| l.contains(&mine)).map(|l| format!("mount on the host: {l}")));
        }
        left.extend(self.before.since(self.uid(), &self.bb_home()));
        if left.is_empty() {
            left.extend(self.uncounted_for(patience));
        }
        left
    }

    /// Lists kinds of namespaces of which the kernel counts more in the world than there were at first. It takes ended ones
    /// down in its own time.
    fn uncounted_for(&self, patience: Duration) -> Vec<String> {
        let Some(before) = &self.living else { return Vec::new() };
        let mut more: Vec<_> = before.iter().collect();
        let none = self.until(patience, || {
            more.retain(|(kind, living)| !self.warden.has_room(kind, **living));
            more.is_empty()
        });
        if none {
            return Vec::new();
        }
        more.into_iter()
            .map(|(kind, n)| format!("namespaces of kind {kind} that nobody shows: more than {n} live"))
            .collect()
    }
}

fn walk(dir: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        see(&entry.path());
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), see);
        }
    }
}

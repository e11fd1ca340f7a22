//! What an agent moves about in a workspace that is a layer or a copy: shown and brought over as a shell on the host would have left it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::World;
use crate::workspace::{LONG, MODES, diff, done, ended, launch, read, try_launch, work, worlds};

/// Files before; those that change places have the same size.
const BEFORE: [(&str, &str); 30] = [
    ("dir/a/x", "x\n"),
    ("dir/a/deep/y", "y\n"),
    ("swap/lib/a", "only lib\n"),
    ("swap/lib/same", "of lib....\n"),
    ("swap/tests/b", "only tests\n"),
    ("swap/tests/same", "of tests..\n"),
    ("in/d/f", "d/f\n"),
    ("in/e/f", "e/f\n"),
    ("in/e/g", "e/g\n"),
    ("back/r/f", "r\n"),
    ("files/p", "p\n"),
    ("files/q", "q\n"),
    ("over/u", "u\n"),
    ("over/v", "v\n"),
    ("hard/h", "h\n"),
    ("hard/i", "i\n"),
    ("between/m/f", "m/f\n"),
    ("between/m/g", "m/g\n"),
    ("between/n/f", "n/f\n"),
    ("more/k/c", "c\n"),
    ("more/k/d", "d\n"),
    ("more/k/e", "e\n"),
    ("kinds/dir/f", "f\n"),
    ("kinds/file", "file\n"),
    ("up/o/p/q/f", "q\n"),
    ("twin/z/f", "z\n"),
    ("twin/z/sub/g", "g\n"),
    ("cycle/1/f", "1\n"),
    ("cycle/2/f", "2\n"),
    ("cycle/3/f", "3\n"),
];

/// What is done to them.
const SCRIPT: &str = "set -e
    (cd dir; mv a b)
    (cd swap; mv lib x; mv tests lib; mv x tests)
    (cd in; mv d old; mv e d)
    (cd back; mv r t; mv t r)
    (cd files; mv p t; mv q p; mv t q)
    (cd over; mv u v)
    (cd hard; ln h new; ln i j; rm i)
    (cd between; mv m/f n/f; mv m/g n/g)
    (cd more; mv k l; echo more >> l/c; rm l/d; chmod 700 l/e)
    (cd kinds; mv dir t; mv file dir; mv t file)
    (cd up; mv o/p/q o/q; rmdir o/p)
    (cd twin; cp -a z copy; mv z zz; mv copy z)
    (cd cycle; mv 1 t; mv 3 1; mv 2 3; mv t 2)
";

/// Back again, and further.
const AFTER: &str = "set -e
    (cd dir; mv b a)
    (cd swap; mv lib x; mv tests lib; mv x tests)
    (cd in; mv d/g old/f; rm -r d; mv old d)
    (cd more; mv l k)
    (cd kinds; mv file t; mv dir file; mv t dir)
    (cd cycle; mv 1 t; mv 2 1; mv 3 2; mv t 3)
";

/// Gets everything below a directory: permission bits, and content.
fn tree(top: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let mut all = BTreeMap::new();
    let mut open = vec![top.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
            let text = if path.is_dir() { String::new() } else { read(path.clone()) };
            all.insert(path.strip_prefix(top).unwrap().to_owned(), (mode, text));
            if path.is_dir() {
                open.push(path);
            }
        }
    }
    all
}

fn shell(dir: &Path, script: &str) {
    assert!(Command::new("sh").args(["-c", script]).current_dir(dir).status().unwrap().success());
}

#[test]
fn what_is_moved_is_shown_and_arrives_where_it_was_moved_to() {
    for world in worlds() {
        for mode in MODES {
            let dir = work(&world, &BEFORE);
            let twin = world.make_dir("twin");
            BEFORE.iter().for_each(|(path, text)| drop(world.write(Path::new("twin").join(path), text)));
            let script =
                format!("({SCRIPT}) && touch /tmp/moved && while [ ! -e /tmp/go ]; do sleep 0.05; done && ({AFTER})");
            let slug = launch(&world, &format!("moved-{mode}"), mode, &script);
            let moved = || world.bb(&["exec", &slug, "test", "-e", "/tmp/moved"]).code == 0;
            assert!(world.until(LONG, moved), "{}", world.bb(&["logs", &slug]));

            let changes = diff(&world, &slug);
            let what = |path: &str| changes.get(path).map(|c| c["what"].as_str().unwrap());
            for (path, want) in [
                ("dir/b", "added"),
                ("dir/b/deep/y", "added"),
                ("dir/a", "deleted"),
                ("swap/lib/a", "deleted"),
                ("swap/lib/b", "added"),
                ("swap/lib/same", "changed"),
                ("swap/tests/a", "added"),
                ("swap/tests/b", "deleted"),
                ("swap/tests/same", "changed"),
                ("in/d/f", "changed"),
                ("in/d/g", "added"),
                ("in/old/f", "added"),
                ("hard/new", "added"),
                ("more/l/e", "added"),
                ("cycle/1/f", "changed"),
                ("cycle/2/f", "changed"),
                ("cycle/3/f", "changed"),
            ] {
                assert_eq!(what(path), Some(want), "{mode} {path}: {changes:#?}");
            }
            assert!(changes["swap/lib/same"]["diff"].as_str().unwrap().ends_with("-of lib....\n+of tests..\n"));
            let is_back = |path: &&String| path.starts_with("back") || path.starts_with("twin/z/") || *path == "hard/h";
            assert_eq!(changes.keys().find(is_back), None, "{mode}: what is as it was is no change");

            let output = world.bb(&["apply", &slug, "--yes"]).expect(0);
            shell(&twin, SCRIPT);
            assert_eq!(tree(&dir), tree(&twin), "{mode}: {output}");
            assert!(diff(&world, &slug).is_empty());

            // What was brought over by us, removals too, is nothing that the host has done.
            world.bb(&["exec", &slug, "touch", "/tmp/go"]);
            assert_eq!(ended(&world, &slug)["exit_code"], 0, "{}", world.bb(&["logs", &slug]));
            // A part of what we removed, then the rest of it.
            world.bb(&["apply", &slug, "--yes", "dir/a/x"]).expect(0);
            assert!(dir.join("dir/a/x").exists() && !dir.join("dir/a/deep").exists());
            let output = world.bb(&["apply", &slug, "--yes"]).expect(0);
            shell(&twin, AFTER);
            assert_eq!(tree(&dir), tree(&twin), "{mode}: {output}");
            assert_eq!(ended(&world, &slug)["kept"], serde_json::Value::Null);
            fs::remove_dir_all(&dir).unwrap();
            fs::remove_dir_all(&twin).unwrap();
        }
    }
}

#[test]
fn a_workspace_of_another_group_is_worked_in_or_refused_before_the_launch() {
    if !nix::unistd::geteuid().is_root() {
        // Only root can give a directory such a group.
        return;
    }
    for world in worlds() {
        // What root makes and gives away with `chown USER` has root's group still.
        let owners = if world.uid() == 0 { vec![(4711, 0), (0, 4711)] } else { vec![(world.uid(), 0)] };
        for (number, (uid, gid)) in owners.into_iter().enumerate() {
            let dir = work(&world, &[("sub/f", "1\n")]);
            for path in ["", "sub", "sub/f"] {
                std::os::unix::fs::chown(dir.join(path), Some(uid), Some(gid)).unwrap();
            }
            let content = || (read(dir.join("sub/f")), read(dir.join("sub/new")));
            let slug = done(&world, &format!("copied-{number}"), "copy", "echo 2 > sub/f && echo 3 > sub/new");
            world.bb(&["apply", &slug, "--yes"]).expect(0);
            assert_eq!(content(), ("2\n".into(), "3\n".into()));
            refused(&world, "overlay");
            // A directory of root's is shown as the agent's, and its group with it only where that is root's too.
            if uid == 0 {
                refused(&world, "mount");
            } else {
                done(&world, &format!("mounted-{number}"), "mount", "echo 4 > sub/f && rm sub/new && echo 5 > sub/new");
                assert_eq!(content(), ("4\n".into(), "5\n".into()));
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

fn refused(world: &World, mode: &str) {
    try_launch(world, &format!("no-{mode}"), mode, "true").fails(5, "fs_unsupported", "its group", "chgrp -R");
    assert_eq!(world.bb(&["ps", "--all"]).expect(0).stdout.matches(&format!("no-{mode}")).count(), 0);
}

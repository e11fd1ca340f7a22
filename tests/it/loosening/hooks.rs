//! Hooks for the host: what its own git would run is no agent's to write, also not by way of an ancestor. The twin: the same hook,
//! put there by the host, runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::start::{set_up, start};
use crate::support::{Output, World, have_tools};

/// The hook that an agent would like the host to run.
const HOOK: &str = "#!/bin/sh\\ntouch $HOME/ran\\n";

/// A repository whose hooks lie in `hooks`, with one of the host's own.
fn repository(world: &World, hooks: &str) -> PathBuf {
    set_up(world, "workspace: mount\n");
    let project = world.home().join("project");
    let _ = fs::remove_dir_all(&project);
    world.make_dir("project");
    git(world, &["init", "-q"]).expect(0);
    if hooks != ".git/hooks" {
        git(world, &["config", "core.hooksPath", hooks]).expect(0);
    }
    own(&world.write(project.join(hooks).join("post-commit"), "#!/bin/sh\necho own >> $HOME/own\n"));
    project
}

fn own(hook: &Path) {
    fs::set_permissions(hook, fs::Permissions::from_mode(0o755)).unwrap();
}

fn git(world: &World, args: &[&str]) -> Output {
    let who = ["-c", "user.name=host", "-c", "user.email=host@example.org"];
    world.program("/usr/bin/git", &[&who, args].concat()).cwd(world.home().join("project")).run()
}

/// Has an agent run `script`, commits on the host, and asserts that only the host's hook ran.
#[track_caller]
fn commits(world: &World, hooks: &str, script: &str) {
    let plant = format!(
        "plant() {{ mkdir -p \"$1\"; for h in pre-commit post-commit; do printf '{HOOK}' > \"$1/$h\"; chmod 755 \"$1/$h\"; done; }}\n\
         {script}\necho tried; touch worked; mkdir -p other/hooks; plant other/hooks; mv other another"
    );
    let output = start(world, &["tester", "--headless", "--prompt", &plant]).expect(0);
    assert_eq!(output.stdout, "tried\n", "{output}");
    let project = world.home().join("project");
    // What is none of the host's tools' it may write and rename.
    assert!(project.join("worked").exists() && project.join("another/hooks/pre-commit").exists(), "{output}");
    let (ran, own_ran) = (world.home().join("ran"), world.home().join("own"));
    git(world, &["commit", "--allow-empty", "-q", "-m", "mine"]).expect(0);
    assert!(own_ran.exists() && !ran.exists(), "{output}");
    // The same hook would have run.
    fs::copy(project.join("another/hooks/pre-commit"), project.join(hooks).join("pre-commit")).unwrap();
    git(world, &["commit", "--allow-empty", "-q", "-m", "mine"]).expect(0);
    assert!(ran.exists());
    fs::remove_file(ran).unwrap();
    fs::remove_file(own_ran).unwrap();
}

fn worlds() -> impl Iterator<Item = World> {
    have_tools(&["git"]).then(World::each).into_iter().flatten()
}

#[test]
fn hooks_planted_for_the_host_are_not_run_by_it() {
    for world in worlds() {
        repository(&world, ".git/hooks");
        let script = "plant .git/hooks; plant mine; git config core.hooksPath mine; echo '[core]hooksPath=mine' >> .git/config; \
            rm -rf .git/hooks; ln -s ../mine .git/hooks; git config --worktree core.hooksPath mine; \
            printf '[core]\\nhooksPath=mine\\n' > .git/config.worktree; echo \"$PWD/mine\" > .git/commondir";
        commits(&world, ".git/hooks", script);
        repository(&world, "tools/git/hooks");
        commits(
            &world,
            "tools/git/hooks",
            "plant tools/git/hooks; rm -rf tools/git/hooks; plant .git/hooks; ln -s ../../mine tools/git/hooks",
        );
    }
}

#[test]
fn hooks_planted_by_renaming_an_ancestor_are_not_run_by_the_host() {
    for world in worlds() {
        repository(&world, ".git/hooks");
        commits(
            &world,
            ".git/hooks",
            "mv .git away; mkdir .git; cp -r away/. .git; plant .git/hooks; mv .git/hooks .git/h; plant .git/hooks",
        );
        repository(&world, "tools/git/hooks");
        let script = "mv tools/git/hooks tools/git/h; plant tools/git/hooks; mv tools/git tools/g; plant tools/git/hooks; \
            mv tools t; plant tools/git/hooks; mkdir -p new/git; plant new/git/hooks; mv -T new tools; mv --exchange new tools";
        commits(&world, "tools/git/hooks", script);
    }
}

//! Workspaces as a layer or a copy: what the agent changes stays its own until somebody brings it over, and then only what may be.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Output, World, need};

pub(crate) const LONG: Duration = Duration::from_secs(40);

/// Both ways in which an agent's changes stay its own.
pub(crate) const MODES: [&str; 2] = ["overlay", "copy"];

/// Gets the worlds whose files lie where a layer can lie.
pub(crate) fn worlds() -> impl Iterator<Item = World> {
    World::each().filter(|world| {
        let can =
            nix::sys::statfs::statfs(world.dir()).unwrap().filesystem_type() != nix::sys::statfs::OVERLAYFS_SUPER_MAGIC;
        if !can {
            need("a file system other than an overlay below /tmp");
        }
        can
    })
}

/// Launches `script` on the workspace `work`, detached, and gets its slug.
pub(crate) fn launch(world: &World, label: &str, mode: &str, script: &str) -> String {
    let output = try_launch(world, label, mode, script).expect(0);
    output.stdout.trim().to_owned()
}

pub(crate) fn try_launch(world: &World, label: &str, mode: &str, script: &str) -> Output {
    let work = world.home().join("work").display().to_string();
    let recipe = world.recipe(
        &format!("{label}.lua"),
        &format!(
            "--- @bb needs launch, write:{work}\n\
             local b = bb.launch{{ command = {{'sh', '-c', [==[{script}]==]}}, label = '{label}',\n\
               workspace = '{work}', workspace_mode = '{mode}', detach = true }}\n\
             print(b.slug)\n"
        ),
    );
    world.bb(&["run", "--grant", "all", &recipe])
}

/// Waits until a bottle has ended, and gets it.
pub(crate) fn ended(world: &World, slug: &str) -> Value {
    let mut last = Value::Null;
    let is_over = world.until(LONG, || {
        let bottles = world.bb(&["ps", "--all", "--json"]).expect(0).json();
        last = bottles.into_iter().rev().find(|b| b["slug"] == slug).unwrap_or_default();
        last["state"] == "ended"
    });
    assert!(is_over, "{last}");
    last
}

/// Launches a script, waits for its end, and gets the slug.
pub(crate) fn done(world: &World, label: &str, mode: &str, script: &str) -> String {
    let slug = launch(world, label, mode, script);
    let bottle = ended(world, &slug);
    let said = world.bb(&["logs", &slug]);
    assert_eq!((bottle["ended"].as_str(), bottle["exit_code"].as_i64()), (Some("exited"), Some(0)), "{bottle} {said}");
    slug
}

pub(crate) fn work(world: &World, files: &[(&str, &str)]) -> PathBuf {
    let dir = world.make_dir("work");
    for (path, text) in files {
        world.write(Path::new("work").join(path), text);
    }
    dir
}

pub(crate) fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Gets what `bb diff --json` says, by path.
pub(crate) fn diff(world: &World, slug: &str) -> std::collections::BTreeMap<String, Value> {
    let output = world.bb(&["diff", "--json", slug]).expect(0);
    output.json().into_iter().map(|c| (c["path"].as_str().unwrap().to_owned(), c)).collect()
}

#[test]
fn what_an_agent_changed_is_shown_and_brought_over_when_somebody_says_so() {
    for world in worlds() {
        for mode in MODES {
            let dir = work(
                &world,
                &[
                    ("keep.txt", "same\n"),
                    ("edit.txt", "one\ntwo\n"),
                    ("gone.txt", "x\n"),
                    ("sub/deep.txt", "d\n"),
                    ("old/a", "a\n"),
                    ("run.sh", "#!/bin/sh\n"),
                ],
            );
            let script = "cat keep.txt > /dev/null && printf 'one\\n2\\n' > edit.txt && rm gone.txt && rm -r old && \
                mkdir -p new/dir && echo fresh > new/dir/file && echo more >> sub/deep.txt && chmod 755 run.sh && \
                cp keep.txt t && mv t keep.txt && pwd";
            let slug = done(&world, &format!("work-{mode}"), mode, script);
            assert_eq!(world.bb(&["logs", &slug]).stdout.trim(), dir.display().to_string(), "it lies where it lay");
            assert_eq!(read(dir.join("edit.txt")), "one\ntwo\n", "nothing of it is in the workspace yet");
            assert!(dir.join("gone.txt").exists() && !dir.join("new").exists());
            let changes = diff(&world, &slug);
            let what: Vec<_> = changes.iter().map(|(path, c)| (path.as_str(), c["what"].as_str().unwrap())).collect();
            let want = [
                ("edit.txt", "changed"),
                ("gone.txt", "deleted"),
                ("new", "added"),
                ("new/dir", "added"),
                ("new/dir/file", "added"),
                ("old", "deleted"),
                ("run.sh", "mode"),
                ("sub/deep.txt", "changed"),
            ];
            assert_eq!(what, want, "{mode}: a file with the same content is no change");
            let shown = world.bb(&["diff", &slug]).expect(0).stdout;
            assert!(shown.contains("-two\n+2\n") && shown.contains("M edit.txt  (+1 -1)"), "{shown}");
            assert!(!world.bb(&["diff", "--stat", &slug, "edit.txt"]).expect(0).stdout.contains("@@"));
            // Nobody is there to be asked.
            world.bb(&["apply", &slug]).fails(4, "approval", "nobody is there", "--yes");
            assert!(dir.join("gone.txt").exists());
            // A path that names no change is a slip, and nothing else is done.
            world.bb(&["apply", &slug, "--yes", "gone.txt", "keep.txt"]).fails(
                2,
                "usage",
                "keep.txt",
                "bb diff --stat",
            );
            world.bb(&["apply", &slug, "--yes", "old/a"]).fails(2, "usage", "old/a", "name `old`");
            assert!(dir.join("gone.txt").exists() && dir.join("old/a").exists());
            // Some of it, then the rest.
            world.bb(&["apply", &slug, "--yes", "./sub/", "gone.txt"]).expect(0);
            assert_eq!(read(dir.join("sub/deep.txt")), "d\nmore\n");
            assert!(!dir.join("gone.txt").exists() && !dir.join("new").exists());
            let output = world.bb(&["apply", &slug, "--yes"]).expect(0);
            assert_eq!(output.stdout.lines().filter(|l| l.starts_with("applied")).count(), 6, "{output}");
            assert_eq!(read(dir.join("edit.txt")), "one\n2\n");
            assert_eq!(read(dir.join("new/dir/file")), "fresh\n");
            assert!(!dir.join("old").exists());
            let run = fs::metadata(dir.join("run.sh")).unwrap();
            assert_eq!(run.permissions().mode() & 0o777, 0o755);
            assert_eq!(
                fs::metadata(dir.join("new/dir/file")).unwrap().uid(),
                run.uid(),
                "it belongs to whom the rest does"
            );
            // Nothing is left to apply, so nothing is kept.
            assert_eq!(ended(&world, &slug)["kept"], Value::Null);
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

#[test]
fn an_agent_that_runs_can_be_looked_at_and_its_work_be_taken_over() {
    for world in worlds() {
        for mode in MODES {
            let dir = work(&world, &[("a", "1\n")]);
            let slug = launch(
                &world,
                &format!("runs-{mode}"),
                mode,
                "echo 2 > a; echo x > b; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo 3 > a",
            );
            assert!(world.until(LONG, || diff(&world, &slug).contains_key("b")));
            world.bb(&["apply", &slug, "--yes"]).expect(0);
            assert_eq!((read(dir.join("a")), read(dir.join("b"))), ("2\n".into(), "x\n".into()));
            assert!(diff(&world, &slug).is_empty());
            world.bb(&["rm", &slug]).fails(2, "usage", "runs", "bb stop");
            // The agent may see it, and end the bottle, before this has told its own end.
            world.bb(&["exec", &slug, "touch", "/tmp/go"]);
            // What was brought over by us is no conflict.
            assert_eq!(ended(&world, &slug)["kept"], true);
            world.bb(&["apply", &slug, "--yes"]).expect(0);
            assert_eq!(read(dir.join("a")), "3\n");
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

#[test]
fn what_the_host_would_execute_is_refused_by_name_and_the_rest_is_applied() {
    // Each with a twin that is harmless and comes over.
    let script = "set -e
        mkdir -p h/x/hooks && echo evil > h/x/hooks/post-commit && mv h/x/hooks h/x/h2 && mv h/x h/.git && mv h/.git/h2 h/.git/hooks
        mkdir -p twin/x/hooks && echo good > twin/x/hooks/post-commit
        echo evil >> .git/config && mkdir -p .git/hooks && echo evil > .git/hooks/pre-commit
        mkdir -p .git/objects/ab && echo good > .git/objects/ab/cd
        ln -s /etc/passwd link && echo good > nolink
        mkfifo fifo && echo good > nofifo
        mkdir bare bare/objects bare/refs && echo 'ref: x' > bare/HEAD && echo evil > bare/config
        mkdir notbare notbare/objects && echo good > notbare/config
        mkdir -p .GIT/hooks && echo evil > .GIT/hooks/x
        echo evil > .envrc && mkdir sub && echo evil > sub/.mcp.json && echo good > sub/mcp.json
        mkdir -p .vscode .devcontainer .cargo && echo evil > .vscode/tasks.json && echo evil > .devcontainer/devcontainer.json
        echo evil > .cargo/config.toml && echo good > .cargo/notes && echo evil > .gitmodules
        mkdir -p .claude && echo evil > .claude/settings.json && echo good > .claude/notes.md";
    for world in worlds() {
        for mode in MODES {
            let files = [
                (".git/HEAD", "ref: refs/heads/main\n"),
                (".git/config", "[core]\n\tbare = false\n"),
                (".git/objects/x", ""),
                (".git/refs/x", ""),
            ];
            let dir = work(&world, &files);
            let slug = done(&world, &format!("evil-{mode}"), mode, script);
            let output = world.bb(&["apply", &slug, "--yes", "--json"]).expect(1);
            let outcomes: std::collections::BTreeMap<_, _> = output
                .json()
                .into_iter()
                .map(|d| (d["path"].as_str().unwrap().to_owned(), d["outcome"].as_str().unwrap().to_owned()))
                .collect();
            for refused in [
                "h/.git",
                "h/.git/hooks/post-commit",
                ".git/config",
                ".git/hooks/pre-commit",
                "link",
                "fifo",
                "bare",
                "bare/HEAD",
                "bare/config",
                ".GIT",
                ".GIT/hooks/x",
                ".envrc",
                "sub/.mcp.json",
                ".vscode/tasks.json",
                ".devcontainer/devcontainer.json",
                ".cargo/config.toml",
                ".gitmodules",
                ".claude/settings.json",
            ] {
                assert_eq!(outcomes.get(refused).map(String::as_str), Some("refused"), "{mode} {refused}: {output}");
                let there = fs::symlink_metadata(dir.join(refused)).is_ok();
                assert_eq!(there, refused == ".git/config", "{mode} {refused}");
            }
            assert_eq!(read(dir.join(".git/config")), "[core]\n\tbare = false\n");
            for good in [
                "twin/x/hooks/post-commit",
                ".git/objects/ab/cd",
                "nolink",
                "nofifo",
                "notbare/config",
                "sub/mcp.json",
                ".cargo/notes",
                ".claude/notes.md",
            ] {
                assert_eq!(outcomes.get(good).map(String::as_str), Some("applied"), "{mode} {good}: {output}");
                assert_eq!(read(dir.join(good)), "good\n", "{mode} {good}");
            }
            // What was refused is kept, and named again.
            assert_eq!(ended(&world, &slug)["kept"], true);
            let again = world.bb(&["diff", "--stat", &slug]).expect(0).stdout;
            assert!(again.contains("A link -> /etc/passwd  (refused: links are not brought over)"), "{again}");
            world.bb(&["rm", &slug]).expect(0);
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

#[test]
fn a_repository_cannot_be_put_together_out_of_parts_that_are_brought_over_one_by_one() {
    for world in worlds() {
        let dir = work(&world, &[("a", "")]);
        // The first part alone is harmless.
        let first = done(&world, "part-one", "overlay", "mkdir -p r/hooks && echo evil > r/config && echo x > r/HEAD");
        world.bb(&["apply", &first, "--yes"]).expect(0);
        let second =
            done(&world, "part-two", "overlay", "mkdir -p r/objects r/refs && echo y > r/objects/o && echo z > z");
        let output = world.bb(&["apply", &second, "--yes"]).expect(1);
        assert!(
            output.stdout.contains("refused  r/objects: r would be a git repository of the agent's own"),
            "{output}"
        );
        assert!(!dir.join("r/objects").exists() && dir.join("z").exists(), "{output}");
    }
}

#[test]
fn setuid_bits_and_links_of_the_host_lead_nowhere() {
    for world in worlds() {
        let dir = work(&world, &[("a", "a\n"), ("into/b", "b\n")]);
        let outside = world.write("outside/secret", "secret\n");
        let slug = done(&world, "links", "overlay", "echo evil > into/b && echo evil > into/new && echo ok > a");
        // While nobody looked, the directory was replaced by a link that leads out of the workspace.
        fs::remove_dir_all(dir.join("into")).unwrap();
        std::os::unix::fs::symlink(outside.parent().unwrap(), dir.join("into")).unwrap();
        let output = world.bb(&["apply", &slug, "--yes"]).expect(1);
        assert!(output.stdout.contains("applied  a"), "{output}");
        assert_eq!(fs::read_dir(outside.parent().unwrap()).unwrap().count(), 1, "{output}");
        assert_eq!(read(outside), "secret\n");
        // An agent cannot set the bit; where it is there all the same it is refused.
        let state = world.bb_home().join("state").join(&slug).join("layer/upper/a");
        fs::write(&state, "other\n").unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o4755)).unwrap();
        let output = world.bb(&["apply", &slug, "--yes", "a"]).expect(1);
        assert!(output.stdout.contains("refused  a: it has a setuid or setgid bit"), "{output}");
        assert_eq!(read(dir.join("a")), "ok\n");
    }
}

#[test]
fn what_both_have_changed_is_a_conflict_and_stays_as_the_host_has_it() {
    for world in worlds() {
        for mode in MODES {
            let files = [
                ("both", "0\n"),
                ("mine", "0\n"),
                ("theirs", "0\n"),
                ("dropped", "0\n"),
                ("tree/x", "0\n"),
                ("cut", "0\n"),
            ];
            let dir = work(&world, &files);
            let script = "echo 1 > both; echo 1 > mine; rm dropped; echo 1 > made; rm -r tree; echo 1 > cut; touch /tmp/ready; \
                while [ ! -e /tmp/go ]; do sleep 0.05; done";
            let slug = launch(&world, &format!("both-{mode}"), mode, script);
            assert!(world.until(LONG, || world.bb(&["exec", &slug, "test", "-e", "/tmp/ready"]).code == 0));
            for (path, text) in [
                ("both", "host\n"),
                ("theirs", "host\n"),
                ("dropped", "host\n"),
                ("made", "host\n"),
                ("tree/x", "host\n"),
            ] {
                world.write(Path::new("work").join(path), text);
            }
            fs::remove_file(dir.join("cut")).unwrap();
            // The agent may see it, and end the bottle, before this has told its own end.
            world.bb(&["exec", &slug, "touch", "/tmp/go"]);
            ended(&world, &slug);
            let output = world.bb(&["apply", &slug, "--yes"]).expect(1);
            for path in ["both", "dropped", "made", "tree", "cut"] {
                assert!(output.stdout.contains(&format!("conflict  {path}: the host has ")), "{mode} {path}: {output}");
            }
            assert!(output.stdout.contains("applied  mine") && !output.stdout.contains("theirs"), "{output}");
            for path in ["both", "theirs", "dropped", "made", "tree/x"] {
                assert_eq!(read(dir.join(path)), "host\n", "{mode} {path}");
            }
            assert_eq!(read(dir.join("mine")), "1\n");
            assert!(!dir.join("cut").exists());
            world.bb(&["rm", &slug]).expect(0);
            fs::remove_dir_all(&dir).unwrap();
        }
    }
}

#[test]
fn what_is_kept_is_listed_holds_its_name_and_goes_when_told() {
    for world in worlds() {
        work(&world, &[("a", "1\n")]);
        let slug = done(&world, "keep", "overlay", "echo 2 > a");
        assert_eq!(ended(&world, &slug)["kept"], true);
        assert!(world.bb(&["ps", "--all"]).expect(0).stdout.contains("ended: exit 0, kept"));
        // Also for a controller that comes later, and by the beginning of its name.
        world.bb(&["controller", "stop"]).expect(0);
        assert_eq!(diff(&world, "kee").len(), 1);
        let other = done(&world, "keep", "overlay", "true");
        assert_eq!(other, "keep-2", "the name stays taken");
        assert_eq!(ended(&world, &other)["kept"], Value::Null);
        let inspected = &world.bb(&["inspect", &slug, "--json"]).expect(0).json()[0];
        assert_eq!(
            (&inspected["bottle"]["kept"], inspected["workspace"]["mode"].as_str()),
            (&Value::Bool(true), Some("overlay"))
        );
        world.bb(&["diff", &other]).fails(2, "no_such_bottle", "nothing is kept", "bb ps --all");
        world.bb(&["rm", &slug]).expect(0);
        assert!(!world.bb_home().join("state").join(&slug).exists());
        world.bb(&["diff", &slug]).fails(2, "no_such_bottle", "keep", "bb ps --all");
        assert_eq!(done(&world, "keep", "copy", "echo 3 > a"), "keep", "the name is free again");
        world.bb(&["prune"]).fails(4, "approval", "nobody is there", "--yes");
        let pruned = world.bb(&["prune", "--yes"]).expect(0).stdout;
        assert!(pruned.contains("keep  removed"), "{pruned}");
        assert_eq!(fs::read_dir(world.bb_home().join("state")).unwrap().count(), 0);
        assert_eq!(world.leftovers(), Vec::<String>::new());
    }
}

#[test]
fn a_copy_is_given_up_when_whoever_asked_for_it_is_gone() {
    for world in worlds() {
        let dir = work(&world, &[("a", "1\n")]);
        // One file without content, by many names: it takes no room here, and a while to be copied, also where copies share blocks.
        fs::create_dir(dir.join("many")).unwrap();
        fs::File::create(dir.join("many/0")).unwrap().set_len(400 << 10).unwrap();
        (1..30_000).for_each(|n| fs::hard_link(dir.join("many/0"), dir.join(format!("many/{n}"))).unwrap());
        let path = dir.display();
        let options = format!("command = {{'true'}}, label = 'copied', workspace = '{path}', workspace_mode = 'copy'");
        let text = format!("--- @bb needs launch, write:{path}\nbb.launch{{ {options}, detach = true }}\n");
        let recipe = world.recipe("copied.lua", &text);
        let front = world.command(&["run", "--grant", "all", &recipe]).patience(LONG).spawn();
        let state = world.bb_home().join("state/copied");
        assert!(world.until(LONG, || state.join("copy/many").exists()), "{}", front.stderr());
        front.signal(nix::sys::signal::SIGKILL);
        assert!(world.until(LONG, || !state.exists()), "{}", world.controller_log());
        assert_eq!(world.bb(&["ps", "--all", "--json"]).expect(0).json(), Vec::<Value>::new(), "it never ran");
        assert!(world.keepers().is_empty());
    }
}

#[test]
fn a_workspace_that_is_gone_or_another_one_is_said() {
    for world in worlds() {
        let dir = work(&world, &[("a", "1\n")]);
        let slug = done(&world, "lost", "overlay", "echo 2 > a");
        let aside = world.home().join("aside");
        fs::rename(&dir, &aside).unwrap();
        world.bb(&["diff", &slug]).fails(5, "workspace_unsafe", "work", "put the directory back");
        work(&world, &[("a", "another\n")]);
        world.bb(&["apply", &slug, "--yes"]).fails(5, "workspace_unsafe", "work", "put the directory back");
        assert_eq!(read(dir.join("a")), "another\n");
        fs::remove_dir_all(&dir).unwrap();
        fs::rename(&aside, &dir).unwrap();
        world.bb(&["apply", &slug, "--yes"]).expect(0);
        assert_eq!(read(dir.join("a")), "2\n");
        let output = try_launch(&world, "gone", "nothing", "true").expect(2);
        assert!(output.stderr.contains("expected one of `mount`, `overlay`, `copy`"), "{output}");
    }
}

#[test]
fn a_full_disk_below_the_layer_is_the_agents_error_and_what_fitted_is_kept() {
    for world in worlds() {
        world.small_bb_home(12 * 1024);
        work(&world, &[("a", "1\n")]);
        let script = "echo 2 > a; head -c 64M /dev/zero > big && exit 0; rm big; exit 7";
        let slug = launch(&world, "full", "overlay", script);
        let bottle = ended(&world, &slug);
        assert_eq!((bottle["ended"].as_str(), bottle["exit_code"].as_i64()), (Some("exited"), Some(7)), "{bottle}");
        assert_eq!(bottle["kept"], true, "{bottle}");
        assert_eq!(diff(&world, &slug).keys().collect::<Vec<_>>(), ["a"]);
    }
}

#[test]
fn a_controller_killed_while_it_launches_leaves_nothing_that_prune_does_not_remove() {
    for world in worlds() {
        work(&world, &[("a", "1\n")]);
        for round in 0..crate::support::reduced(40, 6) {
            let home = world.home().join("work").display().to_string();
            let recipe = world.recipe(
                "killed.lua",
                &format!(
                    "--- @bb needs launch, write:{home}\n\
                     bb.launch{{ command = {{'sh', '-c', 'echo 2 > a'}}, label = 'killed', workspace = '{home}', workspace_mode = 'overlay' }}:wait{{check = false}}\n"
                ),
            );
            let front = world.command(&["run", "--grant", "all", &recipe]).patience(LONG).spawn();
            assert!(world.until(LONG, || world.controller_pid().is_some()));
            // Each round at another step of the launch: the moment is what is being tried.
            std::thread::sleep(Duration::from_millis(round as u64 * 13 % 60));
            world.kill_controller();
            front.wait();
            assert!(world.until(LONG, || world.keepers().is_empty()));
            // What a front end may still want to read stays a while.
            let gone = world.until(LONG, || {
                world.bb(&["prune", "--yes"]).expect(0);
                fs::read_dir(world.bb_home().join("state")).unwrap().count() == 0
            });
            assert!(gone, "round {round}");
            assert_eq!(read(world.home().join("work/a")), "1\n");
            world.bb(&["controller", "stop"]).expect(0);
        }
        assert_eq!(world.leftovers(), Vec::<String>::new());
    }
}

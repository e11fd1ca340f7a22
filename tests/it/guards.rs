//! The guards of a workspace: what happens when the host itself takes one away, and that a launch that fails leaves none.

use std::fs;
use std::time::Duration;

use crate::support::World;

const LONG: Duration = Duration::from_secs(40);

/// A repository, as the host's git sees it.
fn repository(world: &World) -> std::path::PathBuf {
    for dir in ["repo/.git/objects", "repo/.git/refs", "repo/.git/hooks"] {
        world.make_dir(dir);
    }
    world.write("repo/.git/HEAD", "ref: refs/heads/main\n");
    world.write("repo/.git/config", "[core]\n\tbare = false\n")
}

/// Has an agent write to the repository's configuration all the time, does `act` on the host, and sees that the bottle ends by it.
fn ended_by(world: &World, config: &std::path::Path, act: impl Fn(), lost: &str) {
    let repo = config.ancestors().nth(2).unwrap().display().to_string();
    let recipe = world.recipe(
        "guard.lua",
        &format!(
            "--- @bb needs launch, write:{repo}\n\
             local b = bb.launch{{ command = {{'sh', '-c', 'while sleep 0.05; do echo evil >> .git/config; done'}},\n\
               label = 'guard', workspace = '{repo}' }}\n\
             print('launched')\n\
             local o = b:wait{{check = false}}\n\
             print(o.ended, o.reason)\n"
        ),
    );
    let front = world.command(&["run", "--grant", "all", &recipe]).patience(LONG).spawn();
    front.says("launched");
    // Written in place, it stays guarded: the bottle goes on. That nothing happens takes a stretch of time to see.
    fs::write(config, "[core]\n\tbare = false\n\tsame = file\n").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!front.has_ended(), "{}", front.stdout());
    assert!(!fs::read_to_string(config).unwrap().contains("evil"));
    act();
    let output = front.wait();
    assert!(output.stdout.contains("policy") && output.stdout.contains(&format!("{lost} was replaced")), "{output}");
    assert!(world.until(LONG, || world.keepers().is_empty()));
    let ended = world.bb(&["ps", "--all", "--json"]).expect(0).json();
    assert!(ended.iter().all(|bottle| bottle["ended"] == "policy"), "{ended:?}");
}

#[test]
fn a_guarded_file_that_the_host_replaces_ends_the_bottle_before_the_agent_can_use_it() {
    for world in World::each() {
        let config = repository(&world);
        // As `git config` does it.
        let replace = || {
            let new = world.write("repo/.git/config.lock", "[core]\n\tbare = false\n\tnew = file\n");
            fs::rename(new, &config).unwrap();
        };
        ended_by(&world, &config, replace, ".git/config");
        // The whole of it, whose mounts go with it: what comes in its place would be the agent's to write.
        let git = config.parent().unwrap();
        ended_by(&world, &config, || fs::rename(git, git.with_file_name("moved")).unwrap(), ".git");
    }
}

#[test]
fn what_stands_in_for_absent_files_is_nothing_to_the_bottles_git() {
    for world in World::each() {
        world.make_dir("checkout");
        let checkout = world.home().join("checkout").display().to_string();
        world.program("/usr/bin/git", &["init", "-q", &checkout]).run().expect(0);
        let script = "touch mine; ls -A | grep -c -x -e .mcp.json -e .envrc; git status --short --untracked-files=all";
        let recipe = format!(
            "--- @bb needs launch, write:{checkout}\n\
             local b = bb.launch{{ command = {{'sh', '-c', [[{script}]]}}, workspace = '{checkout}' }}\n\
             b:wait()\nfor frame in b:logs() do print((frame.text:gsub('\\n$', ''))) end\n"
        );
        let output = world.bb(&["run", "--grant", "all", &world.recipe("git.lua", &recipe)]).expect(0);
        let said: Vec<_> = output.stdout.lines().collect();
        assert_eq!(said, ["2", "?? mine"], "they are there, and ignored: {output}");
        let exclude = fs::read_to_string(world.home().join("checkout/.git/info/exclude")).unwrap();
        assert!(!exclude.contains(".mcp.json"), "the host's own list is as it was");
    }
}

#[test]
fn a_launch_that_fails_leaves_the_workspace_as_it_was() {
    for world in World::each() {
        world.make_dir("empty");
        let workspace = world.home().join("empty").display().to_string();
        let launch = |what: &str| {
            let text = format!(
                "--- @bb needs launch, write:{workspace}\n\
                 bb.launch{{ command = {{'true'}}, workspace = '{workspace}', {what} }}:wait()\n"
            );
            world.bb(&["run", "--grant", "all", &world.recipe("fails.lua", &text)])
        };
        let listed = || fs::read_dir(&workspace).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        for (what, code) in [
            ("files = {{path = 'relative', text = ''}}", 2),
            ("files = {{path = '/usr/x/y', text = ''}}", 5),
            ("command = {'no-such-program'}", 5),
        ] {
            let output = launch(what);
            assert_eq!((output.code, listed()), (code, vec![]), "{what}: {output}");
        }
        launch("").expect(0);
        assert_eq!(listed(), Vec::<std::ffi::OsString>::new(), "neither does one that ends");
    }
}

#[test]
fn nothing_is_mounted_where_the_bottles_own_files_would_be_written_into_it() {
    for world in World::each() {
        let shown = world.make_dir("shown").display().to_string();
        let work = world.make_dir("work");
        let provider = |files: &str| {
            let text = format!(
                "return {{ name = 'mine', {files} argv = function() return {{'sh', '-c', 'echo mine > /data/mine'}} end }}"
            );
            world.write(world.bb_home().join("providers/mine.lua"), text);
        };
        let start = |target: &str| {
            let bottle = format!(
                "---\nagent_provider: {{template: mine}}\nmounts: [{{source: {shown}, target: {target}, rw: true}}]\n---\n"
            );
            world.write(world.bb_home().join("bottles/dev.md"), bottle);
            world.write(world.bb_home().join("agents/writer.md"), "---\nbottle: dev\n---\n");
            let args = ["start", "writer", "--headless", "--prompt", "x", "--budget", "unlimited"];
            world.command(&args).cwd(&work).patience(LONG).run()
        };
        let listed = || fs::read_dir(&shown).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        let refused = |target: &str| {
            start(target).fails(5, "workspace_unsafe", "dev.md:3", "show it at a place of its own");
            assert_eq!(listed(), Vec::<std::ffi::OsString>::new(), "{target}: nothing was written on the host");
        };
        provider("");
        ["/etc", "/home", "/home/agent", "/usr", "/run/bb"].iter().for_each(|target| refused(target));
        provider("files = {{path = '/data/deep/file', text = 'x'}},");
        let output = start("/data");
        assert!(output.code != 0 && output.stderr.contains("/data/deep/file in /data"), "{output}");
        assert_eq!(listed(), Vec::<std::ffi::OsString>::new(), "nor what a provider brings: {output}");
        provider("");
        start("/data").expect(0);
        assert_eq!(listed(), ["mine"], "the allowed twin");
    }
}

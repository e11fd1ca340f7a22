//! Bottles that a container engine makes: the same books, the same refusals, the same ends as the embedded ones.
//!
//! Each test runs on Docker and on Podman, as root; an ordinary user has no daemon of its own here.

use std::time::Duration;

use crate::support::engine::{Engine, IMAGE, Which, helper};
use crate::support::{Output, Reply, Who, World, have_tools};
use crate::{looper, only_docker};

/// How long something may take that an engine does in a second or two.
const LONG: Duration = Duration::from_secs(120);

/// Runs a test on each engine.
fn each(test: impl Fn(&World, &Engine<'_>)) {
    for which in Which::ALL {
        let Some(world) = World::of(Who::Root) else { return };
        let Some(engine) = Engine::start(&world, which) else { continue };
        test(&world, &engine);
        engine.assert_empty();
    }
}

/// Runs a recipe with an engine at hand.
fn run(world: &World, engine: &Engine<'_>, args: &[&str]) -> Output {
    command(world, engine, args).run()
}

fn command<'w>(world: &'w World, engine: &Engine<'_>, args: &[&str]) -> crate::support::Command<'w> {
    let helper = helper().unwrap().display().to_string();
    world.command(args).env("DOCKER_HOST", engine.address()).env("BB_HELPER", helper).patience(LONG)
}

/// A shell script as the agent of a bottle, which is left to itself.
fn detached(world: &World, engine: &Engine<'_>, script: &str) -> String {
    let recipe = world.recipe(
        "detached.lua",
        &format!(
            "--- @bb needs launch\nlocal b = bb.launch{{command = {{'sh', '-c', [[{script}]]}}, label = 'kept', backend = 'docker', \
             image = '{IMAGE}', detach = true}}\nprint(b.slug)\n"
        ),
    );
    run(world, engine, &["run", "--grant", "all", &recipe]).expect(0).stdout.trim().to_owned()
}

/// What `bb ps` says of a bottle.
fn row(world: &World, slug: &str) -> serde_json::Value {
    let all = world.bb(&["ps", "-a", "--json"]).expect(0).json();
    all.into_iter().find(|b| b["slug"] == slug).unwrap_or_default()
}

#[test]
fn a_recipe_unchanged_but_for_the_backend_gives_the_same_books() {
    each(|world, engine| {
        let recipe = world.recipe(
            "both.lua",
            "--- @bb needs launch\n\
             bb.rehearse{seed = 1, turns = {{edit = {path = 'a.txt', content = 'hello'}, usage = {input = 500, \
             output = 40, cache_read = 100}}, {text = 'All done.', usage = {input = 620, output = 9, cache_write = 30}}}}\n\
             local b = bb.launch{provider = 'demo', prompt = 'write a file', label = bb.args[1], budget = '200k', \
             image = 'bottle-test'}\n\
             local o = b:wait()\nprint(o.ended, o.exit_code)\nlocal said = {}\n\
             -- In how many pieces it came is the moment's doing.\n\
             for f in b:logs() do said[f.stream] = (said[f.stream] or '') .. f.text end\n\
             print(said.stdout, said.stderr)\n",
        );
        let said: Vec<String> = ["linux", "docker"]
            .map(|backend| {
                let command = command(world, engine, &["run", "--rehearse", "--grant", "all", &recipe, "--", backend]);
                command.env("BOT_BOTTLE_BACKEND", backend).run().expect(0).stdout
            })
            .into();
        assert_eq!(said[0], said[1]);
        assert!(said[0].starts_with("exited\t0"), "{}", said[0]);
        let events = world.bb(&["usage", "--json", "--rehearsal"]).expect(0);
        let rows: Vec<_> = events.json()[0]["rows"].as_array().cloned().unwrap_or_default();
        let classes = ["requests", "input", "cache_read", "cache_write", "output", "counted"];
        let figures: Vec<Vec<String>> =
            rows.iter().map(|row| classes.map(|class| row[class].to_string()).into()).collect();
        assert_eq!(figures.len(), 2, "{events}");
        assert_eq!(figures[0], figures[1], "{events}");
        assert_ne!(figures[0][0], "0", "{events}");
        world.assert_silent(&[]);
    });
}

#[test]
fn what_is_not_allowed_is_refused_at_once_and_its_allowed_twin_works() {
    each(|world, engine| {
        let site = world.site("allowed.example", |_| Reply::text("a page"));
        let other = world.site("other.example", |_| Reply::text("never"));
        let recipe = world.recipe(
            "refused.lua",
            &format!(
                "--- @bb needs launch, egress:allowed.example\n\
                 local b = bb.launch{{command = {{'sleep', '600'}}, backend = 'docker', image = '{IMAGE}', \
                 routes = {{'allowed.example'}}}}\n\
                 local function try(name, script)\n\
                   local r = b:exec{{'sh', '-c', script, timeout = '20s'}}\n\
                   print(name .. ' ' .. r.code .. ' ' .. (r.stdout .. r.stderr):gsub('%s+', ' '))\n\
                 end\n\
                 try('allowed', 'wget -q -O- http://allowed.example/')\n\
                 try('tls', 'wget -q -O- https://allowed.example/ --no-check-certificate')\n\
                 try('other', 'wget -O- http://other.example/')\n\
                 try('literal', 'wget -O- http://8.8.8.8/')\n\
                 try('metadata', 'wget -O- http://169.254.169.254/latest')\n\
                 try('port', 'nc -w 5 10.0.0.1 25 </dev/null')\n\
                 try('v6', 'wget -O- http://[2001:4860:4860::8888]/')\n\
                 try('own', 'mkdir -p w && echo mine >w/f && httpd -p 127.0.0.1:8080 -h w; sleep 0.2; wget -q -O- http://127.0.0.1:8080/f')\n\
                 bb.sleep('300ms')\nb:kill()\nb:wait{{check = false}}\n\
                 for e in b:events() do if e.type == 'denied' then print('denied', e.data.kind, e.data.host, e.data.port) end end\n"
            ),
        );
        let output = run(world, engine, &["run", "--grant", "all", &recipe]).expect(0);
        let line = |name: &str| {
            let line = output.stdout.lines().find(|l| l.starts_with(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("{name}: {output}")).to_owned()
        };
        assert!(line("allowed").starts_with("allowed 0 a page"), "{output}");
        assert!(line("own").starts_with("own 0 mine"), "its own servers are its own: {output}");
        for refused in ["other", "literal", "metadata"] {
            assert!(line(refused).contains("403 Forbidden"), "{refused}: {output}");
        }
        for refused in ["port", "v6"] {
            assert!(!line(refused).starts_with(&format!("{refused} 0")), "{output}");
        }
        for told in
            ["denied\troute_missing\tother.example", "denied\tip_literal\t8.8.8.8", "denied\tport\t10.0.0.1\t25"]
        {
            assert!(output.stdout.contains(told), "{told:?}: {output}");
        }
        assert!(!output.stdout.contains("127.0.0.1"), "what it says to itself is nobody's business: {output}");
        assert!(!site.seen().is_empty() && other.seen().is_empty());
        world.assert_silent(&["allowed.example"]);
    });
}

#[test]
fn a_controller_killed_is_survived() {
    if !have_tools(&["curl", "bash"]) {
        return;
    }
    each(|world, engine| {
        // The same agent that the embedded backend is tried with, in an image that has what it needs.
        let image = format!("image: {}\n", engine.image_with_tools(&[]));
        let (rehearsal, recipe) = looper::set_up(world, looper::slow(60), &["looper"], &image);
        std::os::unix::fs::chown(looper::work(world), Some(4711), Some(4711)).unwrap();
        let launch = command(world, engine, &["run", &recipe, "--", "1", "60", "--detach"]);
        let launch = launch.env("BOT_BOTTLE_BACKEND", "docker").env("ANTHROPIC_API_KEY", looper::KEY);
        let slug = looper::launched(&launch.run().expect(0).stdout).remove(0);
        looper::says_more(world, &slug, "served", 1, LONG);
        let before = engine.containers(None);
        assert_eq!(before.len(), 2);
        for _ in 0..3 {
            let killed = world.kill_controller();
            assert!(killed.is_some());
            assert!(world.until(LONG, || world.controller_pid().is_some_and(|pid| Some(pid) != killed)));
        }
        assert!(world.until(LONG, || row(world, &slug)["egress"] == "open"));
        // What is allowed goes on, and is metered; what is not is refused.
        looper::says_more(world, &slug, "served", 2, LONG);
        let ask = ["exec", &slug, "--", "curl", "-sS", "-m", "20", "-w", "\\n", "-i", "http://other.example/"];
        let refused = world.bb(&ask);
        assert!(refused.stdout.contains("403 Forbidden") && refused.stdout.contains("route_missing"), "{refused}");
        assert_eq!(engine.containers(None), before, "the same containers");
        looper::stop(world, std::slice::from_ref(&slug));
        assert!(world.until(LONG, || row(world, &slug)["state"] == "ended"), "{}", row(world, &slug));
        assert_eq!(row(world, &slug)["exit_code"], looper::CODE);
        let logs = world.bb(&["logs", &slug]).expect(0).stdout;
        assert!(looper::whole(&logs.lines().map(str::to_owned).collect::<Vec<_>>()) >= 3, "{logs}");
        looper::assert_books(world, &rehearsal, true);
        world.assert_silent(&[]);
    });
}

#[test]
fn what_an_engine_could_not_remove_is_swept_by_its_labels() {
    each(|world, engine| {
        let slug = detached(world, engine, "exec sleep 600");
        // A container like those of a bottle, which no keeper holds.
        let client = engine.client();
        let home = world.bb_home().display().to_string();
        let spec = serde_json::json!({
            "Image": IMAGE, "Entrypoint": ["/bin/sleep", "600"], "HostConfig": {"NetworkMode": "none"},
            "Labels": {"bb.home": home, "bb.slug": "stray", "bb.role": "agent"},
        });
        let stray = client.create("stray", &spec).unwrap();
        let state = world.make_dir(world.bb_home().join("state/stray"));
        world.write(state.join("placeholders.json"), "[]");
        let socket = engine.address().replace("unix://", "");
        let record = serde_json::json!({"engine": socket, "labels": [format!("bb.home={home}"), "bb.slug=stray"]});
        world.write(state.join("engine.json"), record.to_string());
        world.kill_controller();
        world.bb(&["ps"]).expect(0);
        assert!(world.until(LONG, || !engine.containers(None).contains(&stray)));
        assert_eq!(engine.containers(None).len(), 2, "the living one is left alone");
        world.bb(&["kill", &slug]).expect(0);
    });
}

#[test]
fn a_workspace_is_the_hosts_with_its_guards() {
    each(|world, engine| {
        let work = world.make_dir("project");
        world.make_dir(work.join(".git/hooks"));
        world.write(work.join("file.txt"), "from the host\n");
        std::process::Command::new("chown").args(["-R", "4711:4711"]).arg(&work).status().unwrap();
        let recipe = world.recipe(
            "work.lua",
            &format!(
                "--- @bb needs launch, write:{0}\n\
                 local b = bb.launch{{command = {{'sh', '-c', [[cat file.txt; echo mine >new.txt; id -u; echo evil >.git/hooks/pre-commit; \
                 mv .git moved; touch .envrc; echo done]]}}, workspace = '{0}', backend = 'docker', image = '{IMAGE}'}}\n\
                 b:wait()\nfor f in b:logs() do print(f.text) end\n",
                work.display()
            ),
        );
        let output = run(world, engine, &["run", "--grant", "all", &recipe]).expect(0);
        assert!(output.stdout.contains("from the host") && output.stdout.contains("4711"), "{output}");
        assert_eq!(std::fs::read_to_string(work.join("new.txt")).unwrap(), "mine\n");
        assert!(!work.join(".git/hooks/pre-commit").exists() && work.join(".git").exists(), "{output}");
        assert!(!work.join("moved").exists() && !work.join(".envrc").exists(), "{output}");
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(work.join("new.txt")).unwrap());
        assert_eq!(owner, 4711);
        // Root's own is refused: in a container nobody could be shown as its owner but root.
        let own = world.make_dir("own");
        let text =
            std::fs::read_to_string(&recipe).unwrap().replace(&work.display().to_string(), &own.display().to_string());
        let recipe = world.recipe("own.lua", &text);
        run(world, engine, &["run", "--grant", "all", &recipe]).fails(5, "workspace_unsafe", "own", "chown");
        // As a copy it is the agent's.
        world.write(own.join("file.txt"), "from root\n");
        let recipe = world
            .recipe("copy.lua", &text.replace("backend =", "label = 'rooted', workspace_mode = 'copy', backend ="));
        let output = run(world, engine, &["run", "--grant", "all", &recipe]).expect(0);
        assert!(output.stdout.contains("from root") && output.stdout.contains("done"), "{output}");
        assert!(output.stdout.lines().all(|line| line != "0") && !own.join("new.txt").exists(), "{output}");
        assert!(world.bb(&["diff", "rooted", "--stat"]).stdout.contains("new.txt"));
    });
}

#[test]
fn limits_hold_in_a_container_and_whatever_an_image_says_of_itself_does_not_count() {
    each(|world, engine| {
        let says = |limits: &str, script: &str| {
            let recipe = world.recipe(
                "limits.lua",
                &format!(
                    "--- @bb needs launch\nlocal b = bb.launch{{command = {{'sh', '-c', [[{script}]]}}, backend = 'docker', \
                     image = '{IMAGE}', limits = {{{limits}}}}}\nlocal o = b:wait()\n\
                     for f in b:logs() do print(f.text) end\nprint('exit ' .. o.exit_code)\nbb.exit(0)\n"
                ),
            );
            run(world, engine, &["run", "--grant", "all", &recipe]).expect(0).stdout
        };
        let copy = |megabytes: u32, to: &str| format!("dd if=/dev/zero of={to} bs={megabytes}M count=1 && echo fits");
        let forks = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 9 & done; echo all of them; kill $(jobs -p)";
        assert!(says("pids = 64", forks).contains("all of them"));
        assert!(!says("pids = 16", forks).contains("all of them"), "it had more processes than it may have");
        assert!(says("disk = '64M'", &copy(8, "/tmp/x")).contains("fits"));
        assert!(!says("disk = '64M'", &copy(32, "/tmp/x")).contains("fits"), "it wrote more than it may");
        images_that_say_much(world, engine);
    });
}

/// Images that say how they want to be run, and one that has nothing of what is usual; in each the processor time is bound.
fn images_that_say_much(world: &World, engine: &Engine<'_>) {
    let context = world.make_dir("bossy");
    let dockerfile = format!(
        "FROM {IMAGE}\nRUN mkdir -p /data /elsewhere && echo kept >/data/file && chmod 777 /data /data/file\n\
         ENTRYPOINT [\"/bin/false\"]\nCMD [\"--bossy\"]\nUSER 0:0\nWORKDIR /elsewhere\nVOLUME /data\n\
         HEALTHCHECK --interval=1s CMD touch /tmp/health\n"
    );
    let dockerfile = world.write(context.join("Dockerfile"), dockerfile).display().to_string();
    let built = run(world, engine, &["image", "build", "--dockerfile", &dockerfile, "--network", "none"]).expect(0);
    // Programs, and no /tmp, no /etc, no users.
    let bare = context.join("bare");
    std::fs::create_dir_all(bare.join("bin")).unwrap();
    let busybox = crate::support::tool("busybox").unwrap();
    for name in ["sh", "id", "pwd", "cat", "touch", "sleep"] {
        std::fs::copy(&busybox, bare.join("bin").join(name)).unwrap();
    }
    let tar = std::process::Command::new("tar").arg("-C").arg(&bare).args(["-c", "."]).output().unwrap();
    engine.client().import("bare-test", "latest", &tar.stdout).unwrap();
    let script = "test $(id -u) -gt 999 && echo agent; pwd; touch /tmp/mine && echo tmp; touch ~/mine && echo home; cat /data/file; \
        echo more >>/data/file && echo changed; echo new >/data/new && echo added; \
        while read -r _ place _ how _; do case $place in /data) echo ${how%%,*};; esac; done </proc/mounts";
    let volumes = || engine.client().json("GET", "/volumes", None).unwrap()["Volumes"].as_array().map_or(0, Vec::len);
    for (image, label, content) in [(built.stdout.trim(), "bossy", "kept\nro\n"), ("bare-test", "bare", "")] {
        let recipe = world.recipe(
            "image.lua",
            &format!(
                "--- @bb needs launch\nbb.launch{{command = {{'sleep', '600'}}, backend = 'docker', image = '{image}', \
                 label = '{label}', detach = true, limits = {{cpus = 0.5}}}}\n"
            ),
        );
        run(world, engine, &["run", "--grant", "all", &recipe]).expect(0);
        let output = world.bb(&["exec", label, "--", "sh", "-c", script]);
        assert_eq!(output.stdout, format!("agent\n/home/agent/work\ntmp\nhome\n{content}"), "{image}: {output}");
        let [agent] = &engine.containers(Some("agent"))[..] else { panic!("one container of an agent") };
        let told = engine.client().json("GET", &format!("/containers/{agent}/json"), None).unwrap();
        let health = told["State"]["Health"]["Status"].as_str().unwrap_or_default();
        assert!(["", "none"].contains(&health), "{told}");
        // Processor time is the engine's to bound: what it was told it says.
        let told = &told["HostConfig"];
        let (quota, period) = (told["CpuQuota"].as_f64().unwrap_or_default(), told["CpuPeriod"].as_f64());
        let by_quota = quota > 0.0 && period == Some(quota * 2.0);
        assert!(told["NanoCpus"] == 500_000_000 || by_quota, "{told}");
        world.bb(&["kill", label]).expect(0);
        engine.assert_empty();
        assert!(world.until(LONG, || volumes() == 0), "{image} has left a volume");
    }
}

#[test]
fn the_doctor_tries_an_engine_by_making_a_bottle() {
    each(|world, engine| {
        let output = command(world, engine, &["doctor", "--json"]).run().expect(0);
        let check = output.json().into_iter().find(|check| check["name"] == "engine").unwrap();
        assert_eq!(check["level"], "ok", "{check}");
        assert!(check["message"].as_str().unwrap().starts_with(&format!("{:?} ", engine.which)), "{check}");
        let dead =
            command(world, engine, &["doctor", "--json"]).env("DOCKER_HOST", "unix:///none.sock").run().expect(0);
        let check = dead.json().into_iter().find(|check| check["name"] == "engine").unwrap();
        assert_eq!(check["level"], "warn", "{check}");
        only_docker::bottles_need_the_engine(world, engine);
    });
}

#[test]
fn an_ordinary_users_own_podman_makes_bottles_without_root() {
    let Some(world) = World::of(Who::Root) else { return };
    let Some(engine) = Engine::start(&world, Which::Rootless) else { return };
    let dir = engine.dir();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir.join("home")).unwrap());
    let own = |path: &std::path::Path| std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
    for sub in ["bb", "project"] {
        std::fs::create_dir(dir.join(sub)).unwrap();
        own(&dir.join(sub));
    }
    std::fs::copy(helper().unwrap(), dir.join("bb-helper")).unwrap();
    let site = world.site("allowed.example", |_| Reply::text("a page"));
    let recipe = dir.join("rootless.lua");
    let work = dir.join("project").display().to_string();
    std::fs::write(
        &recipe,
        format!(
            "--- @bb needs launch, egress:allowed.example, write:{work}\n\
             local b = bb.launch{{command = {{'sleep', '600'}}, backend = 'docker', image = '{IMAGE}', workspace = '{work}', \
             routes = {{'allowed.example'}}}}\n\
             for i, script in ipairs{{'wget -q -O- http://allowed.example/', 'wget -O- http://8.8.8.8/', 'id -u; echo mine >new.txt', \
             'cat /proc/self/status'}} do\n\
               local r = b:exec{{'sh', '-c', script, timeout = '20s'}}\n\
               print(i .. ' ' .. r.code .. ' ' .. (r.stdout .. r.stderr):gsub('%s+', ' '))\n\
             end\n\
             b:kill()\nprint(b:wait{{check = false}}.ended)\n"
        ),
    )
    .unwrap();
    let set = |name: &str, value: std::path::PathBuf| format!("{name}={}", value.display());
    let bb = |args: &[&str]| {
        let env = [
            set("HOME", dir.join("home")),
            set("BB_HOME", dir.join("bb")),
            set("BB_HELPER", dir.join("bb-helper")),
            format!("DOCKER_HOST={}", engine.address()),
        ];
        let mut all = vec!["-u", "bbtest", "--", "env"];
        all.extend(env.iter().map(String::as_str));
        let exe = world.exe().display().to_string();
        all.push(&exe);
        all.extend(args);
        let runuser = crate::support::tool("runuser").unwrap().display().to_string();
        world.program(&runuser, &all).cwd(dir.join("home")).patience(LONG).run()
    };
    let output = bb(&["run", "--grant", "all", &recipe.display().to_string()]).expect(0);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines[0].starts_with("1 0 a page"), "{output}");
    assert!(lines[1].contains("403 Forbidden"), "{output}");
    assert!(lines[2].starts_with(&format!("3 0 {uid}")), "{output}");
    assert!(lines[3].contains("CapBnd: 0000000000000000") && lines[3].contains("Seccomp: 2"), "{output}");
    assert_eq!(lines[4], "killed", "{output}");
    let made = std::fs::metadata(dir.join("project/new.txt")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), uid, "it is the user's own file");
    assert_eq!(site.seen().len(), 1);
    world.assert_silent(&["allowed.example"]);
    // Images too; a secret reaches the step that asks for it.
    std::fs::write(dir.join("home/.npmrc"), "registry=https://npm.corp/\n").unwrap();
    let context = dir.join("context");
    std::fs::create_dir(&context).unwrap();
    let step = "RUN --mount=type=secret,id=npmrc,target=/npmrc grep -q npm.corp /npmrc";
    let volume = "RUN mkdir /data && echo kept >/data/file && chmod 777 /data\nVOLUME /data";
    std::fs::write(context.join("Dockerfile"), format!("FROM {IMAGE}\n{step}\n{volume}\n")).unwrap();
    let dockerfile = context.join("Dockerfile").display().to_string();
    let built = bb(&["image", "build", "--dockerfile", &dockerfile, "--network", "none"]).expect(0);
    assert!(built.stdout.starts_with("bb/command:"), "{built}");
    // What an image calls a volume is not the agent's, and leaves nothing.
    let script = "cat /data/file; echo more >/data/new && echo written; grep -c \" /data .* ro,\" /proc/mounts";
    let text = format!(
        "--- @bb needs launch\nlocal b = bb.launch{{command = {{'sh', '-c', '{script}'}}, backend = 'docker', image = '{}'}}\n\
         b:wait{{check = false}}\nfor f in b:logs() do if f.stream == 'stdout' then print(f.text) end end\n",
        built.stdout.trim()
    );
    std::fs::write(&recipe, text).unwrap();
    let output = bb(&["run", "--grant", "all", &recipe.display().to_string()]).expect(0);
    assert_eq!(output.stdout.split_whitespace().collect::<Vec<_>>(), ["kept", "1"], "{output}");
    let volumes = || engine.client().json("GET", "/volumes", None).unwrap()["Volumes"].as_array().map_or(0, Vec::len);
    assert!(world.until(LONG, || volumes() == 0), "a volume is left");
    bb(&["controller", "stop"]).expect(0);
    engine.assert_empty();
}

/// A launch on backend docker, with these options.
fn launch(options: &str) -> String {
    format!("--- @bb needs launch\nbb.launch{{command = {{'true'}}, backend = 'docker', {options}}}:wait()\n")
}

#[test]
fn an_image_that_is_missing_is_named_with_what_gets_it() {
    each(|world, engine| {
        let recipe = world.recipe("missing.lua", &launch("image = 'no-such-image:9'"));
        let output = run(world, engine, &["run", "--grant", "all", &recipe]);
        output.fails(5, "backend_unavailable", "unix://", "pull no-such-image:9");
        let recipe = world.recipe("none.lua", &launch(""));
        run(world, engine, &["run", "--grant", "all", &recipe]).fails(2, "usage", "none.lua", "image = ");
        let recipe = world.recipe("odd.lua", &launch("image = '../../x?y'"));
        run(world, engine, &["run", "--grant", "all", &recipe]).fails(2, "usage", "image ../../x?y", "docker pull");
    });
}

#[test]
fn an_engine_that_cannot_be_had_is_named() {
    for world in World::each() {
        let Some(helper) = helper() else { return };
        let bb = |recipe: &str, variable: &str, value: &str| {
            let command =
                world.command(&["run", "--grant", "all", recipe]).env("BB_HELPER", helper.display().to_string());
            command.env(variable, value).run()
        };
        let recipe = world.recipe("engine.lua", &launch("image = 'x'"));
        let none = bb(&recipe, "DOCKER_HOST", "unix:///nonexistent/docker.sock");
        none.fails(5, "backend_unavailable", "/nonexistent/docker.sock", "start it");
        for far in ["tcp://10.0.0.1:2375", "ssh://user@10.0.0.1"] {
            bb(&recipe, "DOCKER_HOST", far).fails(5, "backend_unavailable", far, "unix://");
        }
        // It is the controller that knows where it lies.
        world.bb(&["controller", "stop"]).expect(0);
        bb(&recipe, "BB_HELPER", "/bin/sh").fails(5, "backend_unavailable", "/bin/sh", "BB_HELPER");
        let plain = world.recipe("plain.lua", "--- @bb needs launch\nbb.launch{command = {'true'}}:wait()\n");
        for name in ["smolmachines", "macos-container"] {
            bb(&plain, "BOT_BOTTLE_BACKEND", name).fails(5, "backend_unavailable", name, "linux");
        }
        bb(&plain, "BOT_BOTTLE_BACKEND", "dokcer").fails(2, "usage", "dokcer", "did you mean `docker`");
        bb(&plain, "BOT_BOTTLE_BACKEND", "linux").expect(0);
        world.assert_silent(&[]);
    }
}

//! What users of bot-bottle rely on, where no other module's test shows all of a line (docs/bot-bottle.md): that looking has no
//! side effect, how names are made, and what each of `cutoff`, `freeze` and `kill` does to the agent.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::agents::stand_in;
use crate::start::{manifest, set_up, start};
use crate::support::person::{person_in, written};
use crate::support::{Output, Reply, Running, Seen, Site, World, have_tools};

/// Everything below a directory: kind and mode, size, and when it was last changed.
fn tree(root: &Path) -> BTreeMap<String, (u32, u64, i64, i64)> {
    let mut all = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let Ok(meta) = path.symlink_metadata() else { continue };
        all.insert(path.display().to_string(), (meta.mode(), meta.size(), meta.ctime(), meta.ctime_nsec()));
        if meta.is_dir() {
            // (What a layer's file system keeps for itself nobody else may read.)
            pending.extend(fs::read_dir(&path).into_iter().flatten().map(|entry| entry.unwrap().path()));
        }
    }
    all
}

#[test]
fn a_dry_run_a_no_and_a_ctrl_c_at_the_preflight_change_no_file() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        set_up(&world, "budget: 40k\n");
        let project = world.home().join("project");
        world.write(project.join("notes"), "mine\n");
        let look = || (tree(&world.bb_home()), tree(&project));
        // The directories of a home are made once, whatever is asked first.
        start(&world, &["tester", "--dry-run"]).expect(0);
        let before = look();
        let headless = ["start", "tester", "--headless", "--prompt", "touch done"];
        for dry in [world.command(&["start", "tester"]), world.command(&headless)] {
            let output = dry.env("BOT_BOTTLE_DRY_RUN", "1").cwd(&project).run().expect(0);
            assert!(output.stderr.contains("backend"), "{output}");
        }
        start(&world, &["tester", "--dry-run", "--cwd", "--label", "x"]).expect(0);
        let args = ["start", "tester", "--bottle", "dev", "--label", "x", "--color", "red"];
        for (key, code) in [("n\r", 4), ("\r", 4), ("\u{3}", 130), ("\u{1b}", 130)] {
            let steps = [
                json!(["expect", "[1] dev"]),
                json!(["type", "\r"]),
                json!(["expect", "Start it? [y/N]"]),
                json!(["type", key]),
                json!(["end", code]),
            ];
            written(&person_in(&world, "looks", "24x80", "project", &args, &steps).wait().expect(0));
        }
        assert_eq!(look(), before);
        assert!(world.controller_pid().is_none(), "nothing was started");
        // Any other value of the variable is none; and then it is started, which leaves its marks.
        world.command(&headless).env("BOT_BOTTLE_DRY_RUN", "0").cwd(&project).run().expect(0);
        assert_ne!(look().0, before.0);
    }
}

#[test]
fn names_are_made_unique_against_running_and_kept_bottles_and_the_one_taken_is_said() {
    for world in World::each() {
        set_up(&world, "");
        let project = world.home().join("project");
        let begin = |label: Option<&str>| {
            let mut args = vec!["start", "tester", "--headless", "--prompt", "echo up; sleep 600"];
            args.extend(label.into_iter().flat_map(|label| ["--label", label]));
            let running = world.command(&args).cwd(&project).spawn();
            running.says("up");
            running
        };
        // The label is the agent's name where none is given.
        let [first, second] = [begin(None), begin(Some("Tester"))];
        // It is said before the agent says anything, on another stream.
        let said = |running: &Running<'_>, slug: &str| {
            let line = format!("bottle {slug}\n");
            let said = world.until(Duration::from_secs(10), || running.stderr().contains(&line));
            assert!(said, "{slug}: {}", running.stderr());
        };
        said(&first, "tester");
        said(&second, "tester-2");
        // What is kept holds its name as well.
        let kept = start(&world, &["tester", "--headless", "--prompt", "echo its > notes; exit 1"]).expect(1);
        assert!(kept.stderr.contains("bottle tester-3\n"), "{kept}");
        let next = start(&world, &["tester", "--headless", "--prompt", "true"]).expect(0);
        assert!(next.stderr.contains("bottle tester-4\n"), "{next}");
        let listed = world.bb(&["ps", "--json"]).expect(0).json();
        assert!(listed.iter().all(|bottle| bottle["color"].is_null()), "no colour unless it is said: {listed:?}");
        world.bb(&["kill", "tester", "tester-2"]).expect(0);
        drop((first.wait(), second.wait()));
        world.bb(&["rm", "tester-3"]).expect(0);
        let names = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
        for color in names.iter().flat_map(|name| [(*name).to_owned(), format!("bright-{name}")]) {
            start(&world, &["tester", "--dry-run", "--color", &color]).expect(0);
        }
    }
}

#[test]
fn manifests_lie_in_the_dot_bot_bottle_of_a_home_where_nothing_else_is_said() {
    for world in World::each() {
        set_up(&world, "");
        let old = world.home().join(".bot-bottle");
        for shelf in ["bottles", "agents", "providers"] {
            for entry in fs::read_dir(world.bb_home().join(shelf)).unwrap().flatten() {
                world.write(old.join(shelf).join(entry.file_name()), fs::read(entry.path()).unwrap());
            }
        }
        let bb = |args: &[&str]| world.command(args).without("BB_HOME").cwd(world.home().join("project")).run();
        let prompt = ["start", "tester", "--headless", "--prompt", "read line; echo \"heard $line\""];
        // Headless, its standard streams are the caller's; here nobody says anything.
        assert_eq!(bb(&prompt).expect(0).stdout, "heard \n");
        bb(&["controller", "stop"]).expect(0);
    }
}

#[test]
fn what_a_manifest_says_of_variables_and_mounts_reaches_the_agent_and_a_mount_is_read_only_unless_said() {
    for world in World::each() {
        let (data, out) = (world.make_dir("data"), world.make_dir("out"));
        world.write(data.join("a"), "data\n");
        let front = format!(
            "env: {{A: plain, B: \"${{FROM_HOST}}\", C: \"$FROM_HOST\"}}\n\
             mounts: [\"{}\", {{source: \"{}\", target: /srv/out, rw: true}}]\n",
            data.display(),
            out.display()
        );
        set_up(&world, &front);
        let script = format!(
            "echo \"$A $B $C\"; cat {data}/a; touch {data}/b 2>/dev/null || echo read-only; cp {data}/a /srv/out/a && echo written",
            data = data.display()
        );
        let args = ["start", "tester", "--headless", "--prompt", &script];
        let command = world.command(&args).cwd(world.home().join("project"));
        let output = command.env("FROM_HOST", "of the host").run().expect(0);
        assert_eq!(output.stdout, "plain of the host $FROM_HOST\ndata\nread-only\nwritten\n", "{output}");
        assert!(!data.join("b").exists() && out.join("a").exists(), "{output}");
        start(&world, &args[1..]).fails(5, "credential_missing", "dev.md:3", "set FROM_HOST");
    }
}

#[test]
fn a_question_of_a_manifest_is_asked_and_the_agent_has_the_answer() {
    if !have_tools(&["python3"]) {
        return;
    }
    for world in World::each() {
        set_up(&world, "env: {BRANCH: \"?Which branch\"}\n");
        let script = "echo on $BRANCH; exit 6";
        let args = ["start", "tester", "--bottle", "dev", "--label", "x", "--color", "red", "--prompt", script];
        let steps = [
            json!(["expect", "[1] dev"]),
            json!(["type", "\r"]),
            json!(["expect", "Which branch: "]),
            json!(["type", "main line\r"]),
            json!(["expect", "Start it? [y/N]"]),
            json!(["type", "y\r"]),
            json!(["expect", "on main line"]),
            json!(["expect", "session ended (exit 6)"]),
            json!(["end", 1]),
        ];
        written(&person_in(&world, "asked", "24x80", "project", &args, &steps).wait().expect(0));
    }
}

#[test]
fn auth_and_matches_of_a_manifest_hold_and_the_agent_never_has_the_token() {
    if !have_tools(&["curl"]) {
        return;
    }
    const TOKEN: &str = "forge-token-canary-3141";
    for world in World::each() {
        let [forge, docs] = ["forge.example", "docs.example"].map(|host| world.site(host, |_| Reply::text("ok")));
        let front = "egress:\n  routes:\n    - host: forge.example\n      auth: {scheme: token, token_ref: FORGE}\n      matches:\n        \
            - {paths: [{type: prefix, value: /api/v1/}], methods: [GET, POST]}\n        \
            - {paths: [{type: exact, value: /version}], methods: [GET]}\n    \
            - {host: docs.example, auth: {scheme: Bearer, token_ref: FORGE}}\n";
        set_up(&world, front);
        let script = "ask() { curl -s -m 20 -o /dev/null -w '%{http_code}\\n' \"$@\"; }; F=https://forge.example; \
            ask $F/api/v1/repos; ask -d x $F/api/v1/repos; ask -H 'Authorization: token mine' $F/version; \
            ask $F/versions; ask -d x $F/version; ask -X DELETE $F/api/v1/repos; ask $F/api/v10; ask https://docs.example/; \
            env; cat /proc/self/environ";
        let args = ["start", "tester", "--headless", "--prompt", script];
        let output = world.command(&args).cwd(world.home().join("project")).env("FORGE", TOKEN).run().expect(0);
        let said: Vec<&str> = output.stdout.lines().take(8).collect();
        assert_eq!(said, ["200", "200", "200", "403", "403", "403", "403", "200"], "{output}");
        assert!(output.stdout.contains("HOME=") && !output.stdout.contains(TOKEN), "{output}");
        let seen = |site: &Site| {
            let line = |s: &Seen| format!("{} {} {}", s.method, s.path, s.header("authorization").unwrap_or_default());
            site.seen().iter().map(line).collect::<Vec<_>>()
        };
        let token = |what: &str| format!("{what} token {TOKEN}");
        assert_eq!(seen(&forge), ["GET /api/v1/repos", "POST /api/v1/repos", "GET /version"].map(token));
        assert_eq!(seen(&docs), [format!("GET / Bearer {TOKEN}")]);
    }
}

/// An agent that asks a model until it is refused, and then tries every route that it had.
const SPENDS: &str = "ask() { curl -s -m 20 -o /dev/null -w '%{http_code}\\n' \"$@\"; }; \
    model() { ask https://api.anthropic.com/v1/messages -H 'content-type: application/json' \
        -d '{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}'; }; \
    echo docs $(ask https://docs.example/); echo model $(model); \
    n=0; until [ \"$(ask https://docs.example/)\" != 200 ] || [ $n = 300 ]; do n=$((n + 1)); sleep 0.1; done; \
    echo model $(model); echo docs $(ask https://docs.example/); echo still here";

/// Queues of proposals of bottles of these names, that nobody can read, write or open: their owner holds them.
struct Queues(Vec<(PathBuf, rusqlite::Connection, BTreeMap<String, (u32, u64, i64, i64)>)>);

impl Queues {
    fn held(world: &World, slugs: &[&str]) -> Queues {
        let held = slugs.iter().map(|slug| {
            let queue = world.write(world.bb_home().join(format!("queue/{slug}/supervise.db")), "");
            let held = rusqlite::Connection::open(&queue).unwrap();
            held.execute_batch(
                "PRAGMA locking_mode = EXCLUSIVE; CREATE TABLE supervise_proposals (id TEXT); BEGIN EXCLUSIVE;",
            )
            .unwrap();
            let before = tree(&queue);
            fs::set_permissions(queue.parent().unwrap(), fs::Permissions::from_mode(0o000)).unwrap();
            (queue, held, before)
        });
        Queues(held.collect())
    }

    /// Asserts that nobody has touched them.
    #[track_caller]
    fn assert_as_before(self) {
        for (queue, held, before) in self.0 {
            let dir = queue.parent().unwrap();
            assert_eq!(fs::metadata(dir).unwrap().mode() & 0o7777, 0);
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
            assert_eq!(tree(&queue), before);
            drop(held);
        }
    }
}

/// A world in which that agent has a budget that its first answer spends, and no queue of proposals that could be used.
fn spender(shutdown: &str) -> impl Iterator<Item = (World, Queues)> {
    have_tools(&["curl"]).then(World::each).into_iter().flatten().map(move |world| {
        let policy = format!(
            "egress: {{routes: [docs.example, {{host: api.anthropic.com, api: anthropic, auth: {{scheme: Bearer, token_ref: MODEL}}}}]}}\nbudget: 200\n{shutdown}"
        );
        set_up(&world, &policy);
        let queues = Queues::held(&world, &["tester", "iced"]);
        (world, queues)
    })
}

fn spends(world: &World, args: &[&str]) -> Output {
    let command = world.command(&[&["start"], args].concat()).cwd(world.home().join("project"));
    command.env("MODEL", "sk-x").run()
}

#[test]
fn cutoff_drops_every_route_leaves_the_agent_running_and_heeds_no_queue_of_proposals() {
    for (world, queues) in spender("") {
        let server = stand_in(
            &world,
            &json!({"turns": [{"text": "Yes.", "usage": {"input": 20, "output": 400}}], "loop": true}),
        );
        let docs = world.site("docs.example", |_| Reply::text("docs"));
        let output = spends(&world, &["tester", "--headless", "--prompt", SPENDS]).expect(3);
        let said: Vec<&str> = output.stdout.lines().collect();
        let codes: Vec<&str> = said.iter().map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!((codes[0], codes[1], said[4]), ("200", "200", "still here"), "{output}");
        assert!(codes[2] != "200" && codes[3] != "200", "{output}");
        assert!(output.stderr.contains("session ended (exit 0)"), "it came to its own end: {output}");
        assert_eq!(server.stats().total, 1, "{output}");
        assert!(!docs.seen().is_empty());
        queues.assert_as_before();
    }
}

#[test]
fn kill_stops_the_agent_and_saves_nothing_and_its_twin_freeze_can_be_taken_up() {
    for (world, queues) in spender("shutdown: kill\n") {
        let server = stand_in(
            &world,
            &json!({"turns": [{"text": "Yes.", "usage": {"input": 20, "output": 400}}], "loop": true}),
        );
        let _docs = world.site("docs.example", |_| Reply::text("docs"));
        let keeper = "return { name = \"shell\", resumes = true, transcript = { \"~/.keeper\" },\n  \
            argv = function(ctx) return { \"sh\", \"-c\", ctx.prompt } end }";
        world.write(world.bb_home().join("providers/shell.lua"), keeper);
        let prompt = format!("echo begun > ~/.keeper/s; echo draft > notes; {SPENDS}");
        let output = spends(&world, &["tester", "--headless", "--prompt", &prompt]).expect(3);
        assert!(!output.stdout.contains("still here") && output.stderr.contains("session ended"), "{output}");
        assert!(!output.stderr.contains("bb resume"), "{output}");
        assert_eq!(server.stats().total, 1);
        assert!(!world.bb_home().join("state/tester/keep").exists());
        // Of its session nothing is saved; what it wrote into its layer is not lost, until somebody says so.
        assert!(output.stderr.contains("bb diff tester"), "{output}");
        world.bb(&["diff", "tester"]).expect(0).stdout.find("+draft").expect("what it wrote is shown");
        assert!(!world.home().join("project/notes").exists());
        let resumed = world.command(&["resume", "tester", "--headless"]).env("MODEL", "sk-x").run();
        resumed.fails(2, "usage", "no session of `tester`", "bb freeze");
        world.bb(&["rm", "tester"]).expect(0);
        assert!(!world.bb_home().join("state/tester").exists());
        spends(&world, &["tester", "--headless", "--prompt", "cat ~/.keeper/s"]).expect(1);
        // Frozen, it is there.
        let front = "agent_provider: {template: shell}\nbudget: 200\nshutdown: freeze\n\
            egress: {routes: [docs.example, {host: api.anthropic.com, api: anthropic, auth: {scheme: Bearer, token_ref: MODEL}}]}\n";
        manifest(&world, &world.bb_home().join("bottles/dev.md").display().to_string(), front, "");
        let args = ["tester", "--headless", "--label", "iced", "--prompt", &prompt];
        let output = spends(&world, &args).expect(3);
        assert!(!output.stdout.contains("still here") && output.stderr.contains("bb resume iced"), "{output}");
        let resume = ["resume", "iced", "--headless", "--budget", "unlimited", "--prompt", "cat ~/.keeper/s"];
        assert_eq!(world.command(&resume).env("MODEL", "sk-x").run().expect(0).stdout, "begun\n");
        assert!(world.until(Duration::from_secs(10), || world.keepers().is_empty()));
        queues.assert_as_before();
    }
}

/// Has a budget cut a bottle of a manifest that says `supervise`, in a home that was made ready, and asserts that nothing else
/// passes. Gets what was made ready.
fn cuts_all_the_same<T>(supervise: bool, ready: impl Fn(&World) -> T) -> Vec<(World, T)> {
    let spenders = have_tools(&["curl"]).then(World::each).into_iter().flatten();
    spenders
        .map(|world| {
            let policy = format!(
                "egress: {{routes: [docs.example, {{host: api.anthropic.com, api: anthropic, auth: {{scheme: Bearer, \
                 token_ref: MODEL}}}}]}}\nbudget: 200\nsupervise: {supervise}\n"
            );
            set_up(&world, &policy);
            let made = ready(&world);
            let turns = json!({"turns": [{"text": "Yes.", "usage": {"input": 20, "output": 400}}], "loop": true});
            let server = stand_in(&world, &turns);
            let _docs = world.site("docs.example", |_| Reply::text("docs"));
            let output = spends(&world, &["tester", "--headless", "--prompt", SPENDS]).expect(3);
            let codes: Vec<&str> = output.stdout.lines().filter_map(|line| line.rsplit(' ').next()).collect();
            assert_eq!((codes[0], codes[1], codes[4]), ("200", "200", "here"), "{output}");
            assert!(codes[2] != "200" && codes[3] != "200", "{output}");
            assert_eq!(server.stats().total, 1, "{output}");
            (world, made)
        })
        .collect()
}

#[test]
fn a_budget_cuts_a_bottle_that_nobody_supervises() {
    for (world, ()) in cuts_all_the_same(false, |_| ()) {
        assert!(!world.bb_home().join("queue/tester").exists());
    }
}

#[test]
fn a_budget_cuts_where_there_is_no_queue_of_proposals() {
    cuts_all_the_same(true, |world| {
        let _ = fs::remove_dir_all(world.bb_home().join("queue"));
    });
}

#[test]
fn a_budget_cuts_where_the_queue_of_proposals_is_locked() {
    let held = cuts_all_the_same(true, |world| {
        let queue = world.write(world.bb_home().join("queue/tester/supervise.db"), "");
        let held = rusqlite::Connection::open(&queue).unwrap();
        held.execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; CREATE TABLE supervise_proposals (id TEXT); BEGIN EXCLUSIVE;",
        )
        .unwrap();
        held
    });
    for (_, held) in held {
        held.execute_batch("COMMIT").expect("it is held to the end");
    }
}

#[test]
fn a_budget_cuts_where_the_queue_of_proposals_cannot_be_written() {
    let file = |world: &World| {
        let queue = world.bb_home().join("queue");
        let _ = fs::remove_dir_all(&queue);
        // No directory at all: root, too, cannot write into it.
        world.write(queue, "in its place")
    };
    for (_, queue) in cuts_all_the_same(true, file) {
        assert_eq!(fs::read_to_string(queue).unwrap(), "in its place");
    }
}

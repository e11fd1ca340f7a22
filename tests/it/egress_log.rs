//! What left and what was refused: every request has its line, whatever became of the controller and of the bottle; and what was
//! refused can be turned into routes, by which the same run passes.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::start::{manifest, set_up, start};
use crate::support::{Reply, World, have_tools, need, tool};

const LONG: Duration = Duration::from_secs(60);

fn fetch(world: &World, more: &str) {
    let script = format!("curl -sS -m 30 -o /dev/null {more} 2>&1; :");
    world.command(&["exec", "open", "--", "sh", "-c", &script]).patience(LONG).run().expect(0);
}

fn log(world: &World, args: &[&str]) -> Vec<Value> {
    world.bb(&[&["egress", "log", "open", "--json"], args].concat()).expect(0).json()
}

fn of<'a>(lines: &'a [Value], path: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["path"] == path).collect()
}

#[test]
fn every_request_has_its_line_over_a_restart_and_after_the_end() {
    if tool("curl").is_none() {
        return need("curl");
    }
    for world in World::each() {
        let _pinned = world.site("pinned.example", |_| Reply::text("seen by nobody"));
        let site = world.site("first.example", |seen| Reply::text("x".repeat(5000 + seen.body.len())));
        let recipe = world.recipe(
            "launch.lua",
            "--- @bb needs launch, egress:*\n\
             bb.launch { command = { 'sleep', '600' }, label = 'open', detach = true, routes = { { host = 'first.example', \
             matches = { { methods = { 'GET', 'PUT' } } } }, { host = 'pinned.example', tls = 'passthrough' } } }\n",
        );
        world.bb(&["run", "--grant", "all", &recipe]).expect(0);
        let follower = world.command(&["egress", "log", "open", "-f", "--json"]).patience(4 * LONG).spawn();
        fetch(&world, "'https://first.example/one?secret=1'");
        fetch(&world, "-X PUT -d 0123456789 https://first.example/two");
        fetch(&world, "-d body https://first.example/three");
        fetch(&world, "-k https://pinned.example/unseen");
        fetch(&world, "https://other.example/four");
        // What is under way when the controller is killed has no end.
        for told in ["/one", "/two", "pinned.example", "/four"] {
            follower.says(told);
        }
        world.kill_controller();
        fetch(&world, "https://first.example/five");
        follower.says("/five");
        world.bb(&["kill", "open"]).expect(0);
        let followed = follower.wait().expect(0).json();

        let lines = log(&world, &[]);
        assert_eq!(lines, followed, "who followed has read the same");
        for (path, method, up, down) in [("/one", "GET", 0, 5000), ("/two", "PUT", 10, 5010), ("/five", "GET", 0, 5000)]
        {
            let [line] = of(&lines, path)[..] else { panic!("{path}: {lines:?}") };
            assert_eq!(
                (&line["verdict"], &line["end"], &line["status"]),
                (&"allowed".into(), &"whole".into(), &200.into())
            );
            assert_eq!(
                (&line["method"], &line["up"], &line["down"]),
                (&method.into(), &up.into(), &down.into()),
                "{line}"
            );
            assert_eq!((&line["rule"], &line["port"]), (&"first.example, GET PUT".into(), &443.into()), "{line}");
            assert!(line["ms"].is_u64() && line["bottle"] == "open" && line.get("kind").is_none(), "{line}");
        }
        for (path, kind) in [("/three", "method"), ("/four", "route_missing")] {
            let [line] = of(&lines, path)[..] else { panic!("{path}: {lines:?}") };
            assert_eq!(
                (&line["verdict"], &line["kind"], &line["status"]),
                (&"denied".into(), &kind.into(), &403.into()),
                "{line}"
            );
        }
        let [unseen] = lines.iter().filter(|line| line["host"] == "pinned.example").collect::<Vec<_>>()[..] else {
            panic!("{lines:?}")
        };
        assert_eq!((&unseen["scheme"], &unseen["path"], &unseen["method"]), (&"tls".into(), &"".into(), &"TLS".into()));
        assert_eq!(unseen["rule"], "pinned.example, passed through unseen", "{unseen}");
        assert!(unseen["up"].as_u64() > Some(100) && unseen["down"].as_u64() > Some(100), "{unseen}");
        assert!(!lines.iter().any(|line| line.to_string().contains("secret")), "{lines:?}");
        assert_eq!(site.seen().len(), 3);

        let denied = log(&world, &["--denied"]);
        assert_eq!(denied.len(), 2, "{denied:?}");
        assert_eq!(log(&world, &["--since", "2020-01-01"]), lines);
        assert_eq!(log(&world, &["--since", "2100-01-01"]).len(), 0);
        let text = world.bb(&["egress", "log", "open", "-f"]).expect(0).stdout;
        assert_eq!(text.lines().count(), lines.len(), "nothing is to come of one that has ended: {text}");
        assert!(text.contains("PUT https://first.example/two  200  by `first.example, GET PUT`  up "), "{text}");
        assert!(text.contains("denied   GET https://other.example/four  403  route_missing"), "{text}");
        let all = world.bb(&["egress", "log", "--json"]).expect(0).json();
        assert_eq!(all, lines, "of all bottles: there is one");
        world.bb(&["egress", "log", "absent"]).fails(2, "no_such_bottle", "absent", "bb ps");
        // A bottle that only the ledger knows any more.
        world.bb(&["controller", "restart"]).expect(0);
        let late = ["egress", "log", "open", "--since", "2100-01-01"];
        assert_eq!(world.bb(&late).expect(0).stdout, "", "it is known, and nothing is so late");
        let absent = ["egress", "log", "absent", "--since", "2100-01-01"];
        world.bb(&absent).fails(2, "no_such_bottle", "absent", "bb ps");
        world.assert_silent(&["first.example", "pinned.example"]);
    }
}

const RUN: &str = r#"
get() { curl -g -sS -m 30 -o /dev/null -w '%{http_code} %header{x-bb-deny}\n' "$@" 2>&1; }
get https://a.example/docs/index
get -I https://a.example/docs/index
get "https://a.example/it's-%23-{x}:y"
get -d body https://b.example/hook
get http://b.example/plain
for n in 1 2 3 4 5 6; do get https://c.example/se/rd/crate$n; done
get https://169.254.169.254/latest
get https://metadata.google.internal/v1
get -d '{}' https://api.openai.com/v1/responses
:
"#;

#[test]
fn what_was_refused_becomes_routes_by_which_the_same_run_passes() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let sites = ["a.example", "b.example", "c.example"].map(|name| {
            // Over HTTP/2 a server of its own sends no body to HEAD only if it has none.
            world.site(name, |seen| Reply::text(if seen.method == "HEAD" { "" } else { "here" }))
        });
        set_up(&world, "");
        let first = start(&world, &["tester", "--headless", "--label", "first", "--prompt", RUN]).expect(0);
        let refused = first.stdout.lines().filter(|line| line.starts_with("403 route_missing")).count();
        assert!(refused >= 11, "{first}");
        assert!(sites.iter().all(|site| site.seen().is_empty()));
        let manifest_file = world.bb_home().join("bottles/dev.md");
        let before = fs::read_to_string(&manifest_file).unwrap();

        let suggested = world.bb(&["egress", "suggest", "first"]).expect(0).stdout;
        assert_eq!(fs::read_to_string(&manifest_file).unwrap(), before, "nothing is changed");
        let hosts: Vec<&str> = suggested.lines().filter(|line| line.contains("- host:")).collect();
        assert_eq!(hosts.len(), 4, "a, c, and b on two ports: {suggested}");
        assert!(suggested.contains("{type: prefix, value: \"/se/rd\"}"), "{suggested}");
        for (part, why) in [
            ("169.254.169.254", "an address"),
            ("metadata.google.internal", "private networks"),
            ("api.openai.com", "not be metered"),
        ] {
            let left = suggested.lines().find(|line| line.starts_with("#   ") && line.contains(part));
            assert!(left.is_some_and(|left| left.contains(why)), "{part}: {suggested}");
        }
        let json = world.bb(&["egress", "suggest", "first", "--json"]).expect(0).json();
        let routes: Vec<&Value> = json.iter().filter(|line| line["type"] == "route").collect();
        assert_eq!(routes.len(), 4, "{json:?}");
        assert!(routes.iter().all(|line| line["route"].get("auth").is_none()), "{json:?}");

        let home = world.bb_home().display().to_string();
        let front = format!("agent_provider: {{template: shell}}\n{suggested}");
        manifest(&world, &format!("{home}/bottles/dev.md"), &front, "For people.");
        world.bb(&["manifest", "check"]).expect(0);
        let second = start(&world, &["tester", "--headless", "--label", "second", "--prompt", RUN]).expect(0);
        let lines: Vec<&str> = second.stdout.lines().collect();
        assert!(lines[..11].iter().all(|line| line.trim() == "200"), "{second}\n{suggested}");
        assert!(
            lines[11..].iter().all(|line| !line.starts_with("200")),
            "what was left out is refused still: {second}"
        );
        assert_eq!(sites.each_ref().map(|site| site.seen().len()), [3, 2, 6], "{second}");
        let again = world.bb(&["egress", "suggest", "second"]).expect(0).stdout;
        assert!(!again.contains("- host:"), "{again}");
        world.bb(&["egress", "suggest", "absent"]).fails(2, "no_such_bottle", "absent", "bb ps");

        // The manifest's line is where the routes in force come from.
        let running = world
            .command(&["start", "tester", "--headless", "--label", "third", "--prompt", "echo up; sleep 600"])
            .cwd(world.home().join("project"))
            .spawn();
        running.says("up");
        world.bb(&["routes", "third", "--allow", "*.d.example"]).expect(0);
        let shown = world.bb(&["routes", "third", "--effective"]).expect(0).stdout;
        assert_eq!(shown.matches("  from ").count(), 5, "{shown}");
        assert!(shown.contains("bottles/dev.md:") && shown.contains("from a change while it runs"), "{shown}");
        world.bb(&["kill", "third"]).expect(0);
        running.wait();
        world.assert_silent(&["a.example", "b.example", "c.example"]);
    }
}

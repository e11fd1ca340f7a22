//! The allow-list of a bottle that runs: asked, changed, and kept over the controller's death.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Reply, World, need, tool};

fn launch(world: &World, routes: &str) {
    let recipe = world.recipe(
        "launch.lua",
        &format!(
            "--- @bb needs launch, egress:*\n\
             bb.launch {{ command = {{ 'sleep', '600' }}, label = 'open', routes = {routes}, detach = true }}\n"
        ),
    );
    world.bb(&["run", "--grant", "all", &recipe]).expect(0);
}

/// Fetches an address inside the bottle; gets status, kind of the refusal and body, or curl's own error.
fn fetch(world: &World, url: &str) -> String {
    let script = format!("curl -sS -m 20 -w '\\n%{{http_code}} %header{{x-bb-deny}}' {url} 2>&1");
    world.command(&["exec", "open", "--", "sh", "-c", &script]).patience(Duration::from_secs(60)).run().stdout
}

fn why(world: &World, method: &str, url: &str) -> Value {
    world.bb(&["why", "open", url, "--method", method, "--json"]).expect(0).json().remove(0)
}

fn changes(world: &World) -> Vec<Value> {
    let socket = world.bb_home().join("run/controller.sock").display().to_string();
    let output = world
        .program("/usr/bin/curl", &["-sS", "--unix-socket", &socket, "http://bb/v1/events?since=0&bottle=open"])
        .run();
    let events = output.expect(0).json();
    events.into_iter().filter(|event| event["type"] == "routes").map(|event| event["data"].clone()).collect()
}

#[test]
fn routes_of_a_bottle_that_runs_come_and_go_and_outlive_the_controller() {
    if tool("curl").is_none() {
        return need("curl");
    }
    for world in World::each() {
        let first = world.site("first.example", |_| Reply::text("the first"));
        let second = world.site("deep.second.example", |_| Reply::text("the second"));
        launch(&world, "{ 'first.example' }");
        assert!(fetch(&world, "https://first.example/a").contains("the first\n200"), "{:?}", world.who);

        // What is refused says which entry is missing, and `bb why` says the same without sending anything.
        assert!(fetch(&world, "https://deep.second.example/b").ends_with("403 route_missing"));
        let verdict = why(&world, "GET", "https://deep.second.example/b");
        assert_eq!((&verdict["allowed"], &verdict["kind"]), (&false.into(), &"route_missing".into()), "{verdict}");
        assert_eq!(verdict["rule_missing"]["host"], "deep.second.example");
        assert_eq!(second.seen().len(), 0);
        assert!(world.asked().iter().all(|name| !name.contains("second")), "nobody was asked for its address");

        // A wildcard, and a port that the gate had no listener for.
        assert!(fetch(&world, "https://first.example:8443/").contains("curl: (7)"), "nobody listens");
        let added =
            ["routes", "open", "--allow", "*.second.example", "--allow", "first.example:8443", "--reason", "a test"];
        let shown = world.bb(&added).expect(0).stdout;
        assert!(
            shown.contains("*.second.example  everything") && shown.contains("first.example  ports 8443"),
            "{shown}"
        );
        assert!(fetch(&world, "https://deep.second.example/b").contains("the second\n200"));
        // Nothing serves that port out there; that it is the plane that says so shows that the gate listens.
        let there = fetch(&world, "https://first.example:8443/");
        assert!(there.contains("\n502 upstream_"), "{there}");
        assert_eq!(why(&world, "PUT", "https://x.second.example/")["route"]["host"], "*.second.example");

        // It is kept by the keeper, not by the controller that was told.
        world.kill_controller();
        assert!(fetch(&world, "https://deep.second.example/c").contains("the second\n200"));
        let there = fetch(&world, "https://first.example:8443/");
        assert!(there.contains("\n502 upstream_"), "{there}");
        let now = world.bb(&["routes", "open", "--json"]).expect(0).json().remove(0);
        assert_eq!((now["routes"].as_array().unwrap().len(), &now["changed"]), (3, &true.into()), "{now}");

        world.bb(&["routes", "open", "--remove", "*.second.example"]).expect(0);
        assert!(fetch(&world, "https://deep.second.example/d").ends_with("403 route_missing"));
        assert!(fetch(&world, "https://first.example/e").contains("the first\n200"));

        // A list that cannot be meant changes nothing.
        let wrong = world.bb(&["routes", "open", "--allow", r#"{"host": "first.example", "tls": "passthrough"}"#]);
        assert_eq!(wrong.code, 2, "{wrong}");
        assert!(wrong.stderr.contains("contradicts"), "{wrong}");
        assert!(fetch(&world, "https://first.example/f").contains("the first\n200"));
        world.bb(&["routes", "open", "--remove", "absent.example"]).fails(2, "usage", "no route is for", "bb routes");

        let rows = changes(&world);
        assert_eq!(rows.len(), 2, "{rows:?}");
        assert_eq!((&rows[0]["reason"], rows[0]["added"].as_array().unwrap().len()), (&"a test".into(), 2));
        assert_eq!(rows[1]["removed"][0], "*.second.example");
        assert!(first.seen().iter().all(|seen| ["/a", "/e", "/f"].contains(&seen.path.as_str())), "{:?}", first.seen());
        assert_eq!(second.seen().len(), 2);
        world.bb(&["kill", "open"]).expect(0);
        // The one port beyond those that the sites serve was allowed, and reached; nothing else was.
        let hits = world.hits();
        assert!(!hits.is_empty() && hits.iter().all(|hit| hit.to.port() == 8443), "{hits:?}");
        let asked = world.asked();
        assert!(
            asked.iter().all(|name| ["first.example", "deep.second.example"].contains(&name.as_str())),
            "{asked:?}"
        );
    }
}

#[test]
fn what_is_passed_through_keeps_the_servers_own_certificate() {
    if tool("curl").is_none() {
        return need("curl");
    }
    for world in World::each() {
        let site = world.site("pinned.example", |seen| Reply::text(format!("direct {}", seen.path)));
        launch(&world, "{ { host = 'pinned.example', tls = 'passthrough' } }");
        // Which authority has signed says who ended the TLS; a bottle trusts its own and the machine's, not that of the site.
        let issuer = "curl -sSvk -m 20 https://pinned.example/x 2>&1 | grep -E 'issuer|direct'";
        let said = world.bb(&["exec", "open", "--", "sh", "-c", issuer]).stdout;
        assert!(said.contains("direct /x"), "{said}");
        assert!(said.contains("issuer") && !said.to_lowercase().contains("bb bottle"), "{said}");
        assert_eq!(site.seen().len(), 1);
        // Another name on the same address, and the name without TLS, are not.
        let other = "curl -sS -m 20 -k --connect-to other.example:443:pinned.example:443 https://other.example/y 2>&1; \
                     curl -sS -m 20 -o /dev/null -w '%{http_code}' http://pinned.example/z 2>&1";
        let said = world.bb(&["exec", "open", "--", "sh", "-c", other]).stdout;
        assert!(said.contains("route_missing") || said.contains("ip_literal"), "{said}");
        assert!(said.ends_with("403"), "{said}");
        assert_eq!(site.seen().len(), 1);
        world.bb(&["kill", "open"]).expect(0);
        world.assert_silent(&["pinned.example"]);
    }
}

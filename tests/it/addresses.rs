//! What a name's answers may lead to: every address is looked at, each time anew, and what is dialled is what was looked at.

use std::time::Duration;

use crate::support::nameserver::Say;
use crate::support::{Reply, World, need, tool};

const SITE: &str = "93.184.216.10";

fn launch(world: &World, label: &str, routes: &[&str]) {
    let routes: Vec<_> = routes.iter().map(|route| format!("'{route}'")).collect();
    let recipe = world.recipe(
        "launch.lua",
        &format!(
            "--- @bb needs launch, egress:*\n\
             bb.launch {{ command = {{ 'sleep', '600' }}, label = '{label}', routes = {{ {} }}, detach = true }}\n",
            routes.join(", ")
        ),
    );
    world.bb(&["run", "--grant", "all", &recipe]).expect(0);
}

/// Fetches a name over plain HTTP in a bottle; gets the body, the status and the kind of the refusal.
fn fetch(world: &World, label: &str, name: &str) -> String {
    let script = format!("curl -sS -m 60 -w ' %{{http_code}} %header{{x-bb-deny}}' http://{name}/ 2>&1 | tail -1");
    world.command(&["exec", label, "--", "sh", "-c", &script]).patience(Duration::from_secs(90)).run().stdout
}

#[test]
fn every_answer_is_looked_at_each_time_and_nothing_private_is_reached() {
    if tool("curl").is_none() {
        return need("curl");
    }
    for world in World::each() {
        // Each connection serves one request, so each request is looked up.
        let site = world.site("good.example", |_| Reply {
            headers: vec![("connection", "close".to_owned())],
            ..Reply::text("welcome")
        });
        assert_eq!(site.address.to_string(), SITE);
        let crowd = || (1..=40).map(|i| format!("10.0.0.{i}")).collect::<Vec<_>>();
        let names = world.name_server(move |name, before| {
            let private: Vec<String> = crowd();
            let mut private: Vec<&str> = private.iter().map(String::as_str).collect();
            match (name, before) {
                ("good.example", _) => Say::addresses(&[SITE]),
                // Public, private, public again.
                ("rebinding.example", 1) => Say::addresses(&["10.0.0.1"]),
                ("rebinding.example", _) => Say::addresses(&[SITE]),
                ("chain.example", _) => {
                    Say::Found(vec!["a.chain.example", "b.elsewhere.example"], vec![SITE.parse().unwrap()])
                }
                ("bad-chain.example", _) => {
                    Say::Found(vec!["good.example", "inside.example"], vec!["169.254.169.254".parse().unwrap()])
                }
                ("mixed.example", _) => Say::addresses(&["10.0.0.1", SITE, "127.0.0.1", "fd00::1"]),
                ("crowd.example", _) => Say::addresses(&private),
                ("one-of-many.example", _) => {
                    private.insert(20, SITE);
                    Say::addresses(&private)
                }
                ("six.example", _) => Say::addresses(&["fd00:ec2::254", SITE]),
                ("private-six.example", _) => Say::addresses(&["fd00:ec2::254", "::1", "fe80::1", "::ffff:10.0.0.1"]),
                ("nat64.example", _) => Say::addresses(&["64:ff9b::a00:1", "64:ff9b::7f00:1"]),
                ("special.example", _) => {
                    Say::addresses(&["100.100.100.200", "168.63.129.16", "198.18.0.1", "0.0.0.0"])
                }
                ("empty.example", _) => Say::addresses(&[]),
                _ => Say::Missing,
            }
        });
        let good = ["good.example", "chain.example", "mixed.example", "one-of-many.example", "six.example"];
        let private = ["bad-chain.example", "crowd.example", "private-six.example", "nat64.example", "special.example"];
        let failing = ["empty.example", "missing.example"];
        let all = [&good[..], &private, &failing, &["rebinding.example"]].concat();
        launch(&world, "open", &all);
        for name in good {
            assert_eq!(fetch(&world, "open", name), "welcome 200 ", "{name} as {:?}", world.who);
        }
        for name in private {
            let said = fetch(&world, "open", name);
            assert!(said.ends_with(" 403 private_address"), "{name}: {said}");
            // What it resolves to is the host's to know.
            assert!(!said.contains("10.0.0") && !said.contains("169.254"), "{said}");
        }
        for name in failing {
            let said = fetch(&world, "open", name);
            assert!(said.ends_with(" 502 resolve_failed"), "{name}: {said}");
        }
        assert_eq!(fetch(&world, "open", "rebinding.example"), "welcome 200 ");
        let said = fetch(&world, "open", "rebinding.example");
        assert!(said.ends_with(" 403 private_address"), "looked at once only: {said}");
        assert_eq!(fetch(&world, "open", "rebinding.example"), "welcome 200 ");

        assert_eq!(site.seen().len(), good.len() + 2);
        // A name off the list is not asked for at all.
        assert!(fetch(&world, "open", "inside.example").ends_with(" 403 route_missing"));
        let asked = names.asked();
        assert!(asked.iter().all(|name| all.contains(&name.as_str())), "{asked:?}");
        world.bb(&["kill", "open"]).expect(0);
        world.assert_silent(&[]);
    }
}

#[test]
fn names_that_nobody_ever_answers_hold_up_their_own_bottle_only() {
    if tool("curl").is_none() {
        return need("curl");
    }
    for world in World::each() {
        // As patient as a resolver can be, so that no look-up ends by itself while this is tested.
        let patient = "nameserver 9.9.9.9\noptions timeout:30 attempts:5\n";
        std::fs::write(world.dir().join("resolv.conf"), patient).unwrap();
        world.site("good.example", |_| Reply {
            headers: vec![("connection", "close".to_owned())],
            ..Reply::text("welcome")
        });
        let names = world.name_server(|name, _| match name {
            "good.example" => Say::addresses(&[SITE]),
            _ => Say::Nothing,
        });
        launch(&world, "slow", &["*.slow.example"]);
        launch(&world, "quick", &["good.example"]);
        let many = "for i in $(seq 40); do \
                      curl -sS -o /dev/null -m 100 -w '%{http_code} %header{x-bb-deny}\\n' http://n$i.slow.example/ & \
                    done; wait";
        let slow = world.command(&["exec", "slow", "--", "sh", "-c", many]).patience(Duration::from_secs(150)).spawn();
        let begun = world.until(Duration::from_secs(60), || names.asked().len() >= 16);
        assert!(begun, "{:?}", names.asked());
        for _ in 0..5 {
            assert_eq!(fetch(&world, "quick", "good.example"), "welcome 200 ", "as {:?}", world.who);
        }
        let said = slow.wait().expect(0).stdout;
        let count = |word: &str| said.lines().filter(|line| *line == word).count();
        let (late, full) = (count("502 resolve_failed"), count("503 limit_verdict"));
        assert_eq!(late + full, 40, "{said}");
        assert!(full >= 1, "{said}");
        let asked = names.asked().into_iter().filter(|name| name.ends_with(".slow.example")).count();
        assert!(asked <= 16, "{asked} look-ups of one bottle at once");
        world.assert_silent(&[]);
    }
}

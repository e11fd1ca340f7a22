//! What a name's answers may lead to: every address is looked at, each time anew, and what is dialled is what was looked at.

use std::time::Duration;

use crate::start::{set_up, start};
use crate::support::nameserver::Say;
use crate::support::{Reply, Seen, World, need, tool};

const SITE: &str = "93.184.216.10";

/// Welcomes, one request a connection, so that each request is looked up.
fn welcome(_: &Seen) -> Reply {
    Reply { headers: vec![("connection", "close".to_owned())], ..Reply::text("welcome") }
}

/// Tells whether this machine has IPv6; says so where it does not.
fn has_ipv6() -> bool {
    let has = std::path::Path::new("/proc/sys/net/ipv6").exists();
    if !has {
        need("IPv6");
    }
    has
}

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
        let site = world.site("good.example", welcome);
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
        world.site("good.example", welcome);
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

#[test]
fn an_address_that_becomes_one_of_the_machines_own_is_refused_from_then_on() {
    if tool("curl").is_none() {
        return need("curl");
    }
    if !has_ipv6() {
        return;
    }
    for world in World::each() {
        let four = world.site_at("own.example", "93.184.216.200".parse().unwrap(), &[80], welcome);
        let six = world.site_at("own-six.example", "2606:4700::200".parse().unwrap(), &[80], welcome);
        let other = world.site("other.example", welcome);
        world.name("own-mapped.example", &["::ffff:93.184.216.200".parse().unwrap()]);
        world.name("own-and-other.example", &[four.address, six.address, other.address]);
        let recipe = "--- @bb needs launch, egress:*, egress:93.184.216.200/32\n\
             bb.launch { command = { 'sleep', '600' }, label = 'own', detach = true, routes = { 'own.example', \
             'own-six.example', 'own-mapped.example', 'own-and-other.example', \
             { host = 'meant.example', allow_private = { '93.184.216.200/32' } } } }\n";
        world.name("meant.example", &[four.address]);
        world.bb(&["run", "--grant", "all", &world.recipe("own.lua", recipe)]).expect(0);
        for name in ["own.example", "own-six.example"] {
            assert_eq!(fetch(&world, "own", name), "welcome 200 ", "{name} as {:?}", world.who);
        }
        world.own("93.184.216.200");
        world.own("2606:4700::200");
        for name in ["own.example", "own-six.example", "own-mapped.example"] {
            let said = fetch(&world, "own", name);
            assert!(said.ends_with(" 403 private_address"), "{name}: {said}");
        }
        assert_eq!((four.seen().len(), six.seen().len()), (1, 1));
        // What stands beside it is reached as before, and the operator may mean it.
        assert_eq!(fetch(&world, "own", "own-and-other.example"), "welcome 200 ");
        assert_eq!((four.seen().len(), six.seen().len(), other.seen().len()), (1, 1, 1));
        assert_eq!(fetch(&world, "own", "meant.example"), "welcome 200 ");
        assert_eq!(four.seen().len(), 2);
        world.bb(&["kill", "own"]).expect(0);
        assert!(world.hits().is_empty(), "{:?}", world.hits());
    }
}

#[test]
fn a_name_is_reached_by_the_family_that_works() {
    if tool("curl").is_none() {
        return need("curl");
    }
    if !has_ipv6() {
        return;
    }
    for world in World::each() {
        // A machine with an IPv6 address of its own: its resolver has IPv6 tried first.
        world.own("2606:4700:ffff::1");
        let at = |name: &str, address: &str| world.site_at(name, address.parse().unwrap(), &[443, 80], welcome);
        let six = at("six-only.example", "2606:4700::10");
        let of_four = at("dead-six.example", "93.184.216.20");
        let of_six = at("dead-four.example", "2606:4700::21");
        let (dead_six, dead_four) = ("2606:4700::20".parse().unwrap(), "93.184.216.21".parse().unwrap());
        let _silent = [dead_six, dead_four].map(|ip| world.silent(std::net::SocketAddr::new(ip, 80)));
        world.name("dead-six.example", &[dead_six, of_four.address]);
        world.name("dead-four.example", &[of_six.address, dead_four]);
        launch(&world, "both", &["six-only.example", "dead-six.example", "dead-four.example"]);
        for name in ["six-only.example", "dead-six.example", "dead-four.example"] {
            assert_eq!(fetch(&world, "both", name), "welcome 200 ", "{name} as {:?}", world.who);
        }
        let over_tls = "curl -sS -m 60 https://six-only.example/ 2>&1";
        assert_eq!(world.bb(&["exec", "both", "--", "sh", "-c", over_tls]).stdout, "welcome");
        assert_eq!([&six, &of_four, &of_six].map(|site| site.seen().len()), [2, 1, 1]);
        world.bb(&["kill", "both"]).expect(0);
        world.assert_silent(&["six-only.example", "dead-six.example", "dead-four.example"]);
    }
}

#[test]
fn a_private_address_is_reached_by_the_route_that_says_so_and_its_neighbours_are_not() {
    if tool("curl").is_none() {
        return need("curl");
    }
    for world in World::each() {
        // Of a manifest, since that is where people write it.
        set_up(
            &world,
            "egress:\n  routes:\n    - {host: db.corp.example, allow_private: [10.1.0.0/16, \"fd00:1::/64\"]}\n    \
             - {host: beside.corp.example, allow_private: [10.1.0.0/16]}\n    \
             - {host: here.corp.example, allow_private: [10.1.0.0/16]}\n    - neighbour.corp.example\nbudget: unlimited\n",
        );
        let site = world.site_at("db.corp.example", "10.1.2.3".parse().unwrap(), &[443, 80], welcome);
        for (name, address) in [
            ("neighbour.corp.example", "10.1.2.3"),
            ("beside.corp.example", "10.2.0.1"),
            ("here.corp.example", "127.0.0.1"),
        ] {
            world.name(name, &[address.parse().unwrap()]);
        }
        let script = "for at in http://db https://db http://neighbour http://beside http://here; do \
             curl -sS -o /dev/null -m 60 -w '%{http_code} %header{x-bb-deny}\\n' $at.corp.example/ 2>&1; done";
        let said = start(&world, &["tester", "--headless", "--prompt", script]).expect(0).stdout;
        let refused = "403 private_address\n".repeat(3);
        assert_eq!(said, format!("200 \n200 \n{refused}"), "{:?}", world.who);
        assert_eq!(site.seen().len(), 2);
        assert!(world.hits().is_empty(), "{:?}", world.hits());
    }
}

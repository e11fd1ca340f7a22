//! The host's own way out through a proxy: every path that leaves the plane goes through it, and nothing goes around it.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Reply, World, have_tools};

/// A proxy of the test's own: CONNECT only, for whoever has its password; says what it was asked for.
const PROXY: &str = r#"
import base64, socket, sys, threading
want = "Basic " + base64.b64encode(b"user:pa:ss").decode()
inner = sys.argv[1]
def pipe(a, b):
    try:
        while True:
            piece = a.recv(65536)
            if not piece: break
            b.sendall(piece)
    except OSError: pass
    try: b.shutdown(socket.SHUT_WR)
    except OSError: pass
def serve(c):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = c.recv(1)
        if not piece: return
        head += piece
    lines = head.decode().split("\r\n")
    method, target, _ = lines[0].split(" ")
    known = any(l.lower().startswith("proxy-authorization: ") and l.split(": ", 1)[1] == want for l in lines)
    print(method, target, "known" if known else "stranger", flush=True)
    host, port = target.rsplit(":", 1)
    status = b"407 Proxy Authentication Required" if not known else b"403 Forbidden" if host == "refused.example" else None
    if status:
        c.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"); c.close(); return
    s = socket.create_connection((inner if host == "inner.example" else host, int(port)))
    c.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
    threading.Thread(target=pipe, args=(c, s), daemon=True).start()
    pipe(s, c)
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])), backlog=64)
print("ready", flush=True)
while True:
    c, _ = listener.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"#;

const ROUTES: &str = "'good.example', { host = 'pinned.example', tls = 'passthrough' }, 'direct.example', 'ranged.example', \
    'private.example', 'inner.example', 'refused.example'";

const SOCKET: &str = "--http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
    -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='";

fn fetch(world: &World, what: &str) -> String {
    let script = format!("curl -sS -m 60 -w '\\n%{{http_code}} %header{{x-bb-deny}}' {what} 2>&1");
    world.command(&["exec", "out", "--", "sh", "-c", &script]).patience(Duration::from_secs(120)).run().stdout
}

fn set_up(world: &World, credential: &str) -> crate::support::Output {
    world.settings(&format!(
        "upstream_proxy: {{address: \"http://proxy.corp.example:18080\", credential: {credential}}}\n\
         no_proxy: [.direct.example, 93.184.216.99/32]\ncredentials: {{CORP: {{file: corp}}}}\n"
    ));
    let secret = world.write(world.bb_home().join("corp"), "user:pa:ss\n");
    std::fs::set_permissions(secret, PermissionsExt::from_mode(0o600)).unwrap();
    let recipe = format!(
        "--- @bb needs launch, egress:*\n\
         bb.launch {{ command = {{ 'sleep', '600' }}, label = 'out', routes = {{ {ROUTES} }}, detach = true }}\n"
    );
    world.bb(&["run", "--grant", "all", &world.recipe("out.lua", &recipe)])
}

#[test]
fn every_path_goes_through_it_and_nothing_around_it() {
    if !have_tools(&["curl", "python3"]) {
        return;
    }
    for world in World::each() {
        let tell = |name: &str| {
            let name = name.to_owned();
            move |seen: &crate::support::Seen| Reply::text(format!("{name} {}", seen.path))
        };
        let good = world.site("good.example", tell("good"));
        let pinned = world.site("pinned.example", tell("pinned"));
        let direct = world.site("direct.example", tell("direct"));
        let ranged = world.site_at("ranged.example", "93.184.216.99".parse().unwrap(), &[443], tell("ranged"));
        let inner = world.site("inner.example", tell("inner"));
        // Only the proxy knows where that is.
        world.name("inner.example", &[]);
        world.name("proxy.corp.example", &["127.0.0.1".parse().unwrap()]);
        world.name("private.example", &["10.1.2.3".parse().unwrap()]);
        world.name("refused.example", &[good.address]);
        let script = world.write("proxy.py", PROXY).display().to_string();
        let proxy = world.program("/usr/bin/python3", &[&script, &inner.address.to_string(), "18080"]).spawn();
        proxy.says("ready");

        let missing = set_up(&world, "ABSENT");
        assert!(missing.stderr.contains("the upstream proxy needs the credential ABSENT"), "{missing}");
        set_up(&world, "CORP").expect(0);
        for (what, answer, target) in [
            ("https://good.example/tls", "good /tls\n200", "good.example:443"),
            ("http://good.example/plain", "good /plain\n200", "good.example:80"),
            ("-k https://pinned.example/unseen", "pinned /unseen\n200", "pinned.example:443"),
            ("https://inner.example/by-name", "inner /by-name\n200", "inner.example:443"),
        ] {
            let said = fetch(&world, what);
            assert!(said.contains(answer), "{what}: {said}");
            proxy.says(&format!("CONNECT {target} known"));
        }
        // A handshake has a connection of its own.
        let tunnels = || proxy.stdout().matches("CONNECT good.example:443 known").count();
        let before = tunnels();
        let said = fetch(&world, &format!("{SOCKET} https://good.example/ws"));
        assert!(said.contains("good /ws\n200"), "{said}");
        assert_eq!(tunnels(), before + 1);

        for name in ["direct", "ranged"] {
            let said = fetch(&world, &format!("https://{name}.example/x"));
            assert!(said.contains(&format!("{name} /x\n200")), "{said}");
        }
        let said = fetch(&world, "https://private.example/x");
        assert!(said.contains("\n403 private_address"), "{said}");
        let said = fetch(&world, "https://refused.example/x");
        assert!(said.contains("\n502 upstream_unreachable") && said.contains("it answered 403"), "{said}");
        // Where the proxy is, the agent is not told; the operator is.
        let hidden = |said: &str| !said.contains("proxy.corp") && !said.contains("18080");
        assert!(hidden(&said) && said.contains("the host's upstream proxy"), "{said}");
        let log = world.bb(&["egress", "log", "out", "--denied", "--json"]).expect(0).stdout;
        assert!(log.contains("the host's upstream proxy proxy.corp.example:18080: it answered 403"), "{log}");
        let said = fetch(&world, "https://off.example/x");
        assert!(said.contains("\n403 route_missing"), "{said}");
        let asked = proxy.stdout();
        for name in ["direct", "ranged", "private", "off.example", "stranger"] {
            assert!(!asked.contains(name), "{name}: {asked}");
        }
        let seen = [&good, &pinned, &direct, &ranged, &inner].map(|site| site.seen());
        assert!(seen.iter().flatten().all(|seen| seen.header("proxy-authorization").is_none()));
        assert!(!world.controller_log().contains("pa:ss") && !world.controller_log().contains("dXNlcjpwYTpzcw"));

        // Without it there is no other way.
        proxy.signal(Signal::SIGKILL);
        assert!(proxy.ends_within(Duration::from_secs(60)));
        for what in ["https://good.example/late", "http://good.example/late", "https://inner.example/late"] {
            let mut said = String::new();
            // A connection that was kept may be noticed to be dead a moment later only.
            let named = world.until(Duration::from_secs(60), || {
                said = fetch(&world, what);
                said.contains("it cannot be reached") && said.contains("\n502 upstream_unreachable")
            });
            assert!(named && hidden(&said), "{what}: {said}");
        }
        let said = fetch(&world, &format!("{SOCKET} https://good.example/late"));
        assert!(said.contains("it cannot be reached") && hidden(&said), "{said}");
        assert!(!fetch(&world, "-k https://pinned.example/late").contains("\n200"));
        assert!(fetch(&world, "https://direct.example/late").contains("direct /late\n200"));
        for site in [&good, &pinned, &inner] {
            assert!(site.seen().iter().all(|seen| !seen.path.contains("late")), "{:?}", site.seen());
        }
        world.bb(&["kill", "out"]).expect(0);
        assert!(world.hits().is_empty(), "{:?}", world.hits());
    }
}

#[test]
fn its_credential_is_for_the_proxy_that_it_was_given_for_and_for_no_other() {
    if !have_tools(&["curl", "python3"]) {
        return;
    }
    for world in World::each() {
        let good = world.site("good.example", |seen| Reply::text(format!("good {}", seen.path)));
        world.name("proxy.corp.example", &["127.0.0.1".parse().unwrap()]);
        world.name("other.corp.example", &["127.0.0.1".parse().unwrap()]);
        let script = world.write("proxy.py", PROXY).display().to_string();
        let start = |port: &str| {
            let proxy = world.program("/usr/bin/python3", &[&script, "127.0.0.1", port]).spawn();
            proxy.says("ready");
            proxy
        };
        let (proxy, other) = (start("18080"), start("18081"));
        set_up(&world, "CORP").expect(0);
        assert!(fetch(&world, "https://good.example/before").contains("good /before\n200"));
        proxy.says("CONNECT good.example:443 known");
        // The same credential's name, and another proxy, which a controller that takes the bottle up reads.
        let named = |host: &str, port: u16| {
            world.settings(&format!(
                "upstream_proxy: {{address: \"http://{host}.corp.example:{port}\", credential: CORP}}\n\
                 credentials: {{CORP: {{file: corp}}}}\n"
            ));
            world.bb(&["controller", "restart"]).expect(0);
        };
        named("other", 18081);
        let said = fetch(&world, "https://good.example/other");
        assert!(said.contains("it wants a credential (407)") && !said.contains("other.corp"), "{said}");
        other.says("CONNECT good.example:443 stranger");
        let log = world.bb(&["egress", "log", "out", "--denied", "--json"]).expect(0).stdout;
        assert!(log.contains("this bottle has no credential for it") && log.contains("resume it"), "{log}");
        // A bottle of now has it, and this one has its own again where the settings are as they were.
        let recipe = world.home().join("out.lua").display().to_string();
        let fresh = world.bb(&["run", "--grant", "all", &recipe]).expect(0);
        let fetch_of = |slug: &str| {
            let script = "curl -sS -m 60 https://good.example/fresh 2>&1";
            world.command(&["exec", slug, "--", "sh", "-c", script]).patience(Duration::from_secs(120)).run().stdout
        };
        assert_eq!(fetch_of("out-2"), "good /fresh", "{fresh}");
        other.says("CONNECT good.example:443 known");
        named("proxy", 18080);
        assert!(fetch(&world, "https://good.example/after").contains("good /after\n200"));
        assert!(!proxy.stdout().contains("stranger"), "{}", proxy.stdout());
        assert_eq!(good.seen().len(), 3);
        for slug in ["out", "out-2"] {
            world.bb(&["kill", slug]).expect(0);
        }
        assert!(world.hits().is_empty(), "{:?}", world.hits());
    }
}

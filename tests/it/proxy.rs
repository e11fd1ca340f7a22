//! The explicit proxy of a bottle: real clients that insist on one get through it what they may, and read why they may not.

use std::time::Duration;

use bb::rehearse::Scenario;

use crate::support::desk::{Desk, on};
use crate::support::engine::Which;
use crate::support::toolchains::{self, build_go};
use crate::support::{Output, Reply, Who, World, have_tools, need, tool};

/// What no library does: names that disagree, a tunnel in a tunnel, bytes that are no protocol.
const RAW: &str = r#"
import socket, ssl, sys
lenient = ssl.create_default_context(); lenient.check_hostname = False; lenient.verify_mode = ssl.CERT_NONE
def connect(target, more=b""):
    s = socket.create_connection(("198.18.0.3", 3128), timeout=60)
    s.sendall(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, target) + more)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += s.recv(1)
    return s, head.split(b" ")[1].decode()
def rest(s):
    got = b""
    try:
        while True:
            piece = s.recv(4096)
            if not piece: break
            got += piece
    except OSError: pass
    return got.decode("latin-1")
def said(name, status, text):
    words = [w for w in ("name_mismatch", "ip_literal", "method", "protocol_unknown", "port") if "x-bb-deny: " + w in text]
    print(name, status, text[9:12], *words)
def asked(name, target, sni, host):
    s, status = connect(target)
    t = lenient.wrap_socket(s, server_hostname=sni)
    t.sendall(b"GET /raw HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host)
    said(name, status, rest(t))
asked("same", b"good.example:443", "good.example", b"good.example")
asked("sni", b"good.example:443", "other.example", b"other.example")
asked("host", b"good.example:443", "good.example", b"other.example")
asked("target", b"other.example:443", "good.example", b"good.example")
asked("literal", b"93.184.216.10:443", "good.example", b"good.example")
asked("odd", b"good.example:8443", "good.example", b"good.example:8443")
s, status = connect(b"good.example:443", b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example:443\r\nConnection: close\r\n\r\n")
said("nested", status, rest(s))
s, status = connect(b"good.example:443", b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
said("ssh", status, rest(s))
s, status = connect(b"good.example:443", b"\x00\x01\x02\x03")
print("bytes", status, len(rest(s)))
"#;

const SCRIPT: &str = r#"
cd /tmp; env | grep -i _proxy= | sort
curl -sSv https://good.example/curl 2> verbose; echo; grep -c 'CONNECT good.example:443' verbose
curl -sS http://good.example/plain; echo
curl -sS https://evil.example/curl; echo
curl -sS http://evil.example/curl; echo
git ls-remote https://good.example/git 2>&1; git ls-remote https://evil.example/git 2>&1
cat > fetch.py <<'P'
import sys, urllib.request, urllib.error
try: print("urllib", urllib.request.urlopen(sys.argv[1]).read().decode())
except urllib.error.HTTPError as e: print("urllib", e.code, e.read().decode())
P
/usr/bin/python3 fetch.py https://good.example/urllib
/usr/bin/python3 fetch.py https://evil.example/urllib
/usr/bin/python3 fetch.py http://good.example/plainly
cat > dev.py <<'P'
import http.server, threading, urllib.request
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b"dev server " + self.path.encode())
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), H); threading.Thread(target=s.serve_forever, daemon=True).start()
import subprocess
for host in ("localhost", "127.0.0.1"):
    url = "http://%s:%d/" % (host, s.server_port)
    print(urllib.request.urlopen(url + "urllib").read().decode(), subprocess.run(["curl", "-sS", url + host], capture_output=True, text=True).stdout)
P
/usr/bin/python3 dev.py
"#;

fn exec(world: &World, slug: &str, argv: &[&str], input: &str) -> Output {
    let args = [&["exec", "-i", slug, "--"], argv].concat();
    world.command(&args).stdin(input).patience(Duration::from_secs(180)).run()
}

fn launch(world: &World, label: &str, options: &str) {
    let recipe = format!(
        "--- @bb needs launch, egress:*, credential:KEY\n\
         bb.launch {{ command = {{ 'sleep', '600' }}, label = '{label}', detach = true, {options} }}\n"
    );
    let recipe = world.recipe("launch.lua", &recipe);
    world.command(&["run", "--grant", "all", &recipe]).env("KEY", "sk-x").run().expect(0);
}

#[test]
fn clients_that_insist_on_a_proxy_get_what_they_may_and_read_why_they_may_not() {
    if !have_tools(&["curl", "git", "python3"]) {
        return;
    }
    for world in World::each() {
        let site = world.site("good.example", |seen| Reply::text(format!("welcome {}", seen.path)));
        launch(&world, "with", "routes = { 'good.example' }, proxy = true");
        let output = exec(&world, "with", &["bash", "-s"], SCRIPT);
        let said = &output.stdout;
        for name in ["HTTP", "HTTPS", "ALL", "http", "https", "all"] {
            let variable = if name == name.to_uppercase() { "PROXY" } else { "proxy" };
            assert!(said.contains(&format!("{name}_{variable}=http://198.18.0.3:3128\n")), "{name}: {output}");
        }
        assert!(said.contains("NO_PROXY=localhost,") && said.contains("no_proxy=localhost,"), "{output}");
        for path in ["curl\n1\n", "plain\n"] {
            assert!(said.contains(&format!("welcome /{path}")), "{path}: {output}");
        }
        for path in ["urllib", "plainly"] {
            assert!(said.contains(&format!("urllib welcome /{path}")), "{path}: {output}");
        }
        // The reason itself, where the client prints what it is answered; the status, not "proxy", where it does not.
        let reason = "\"kind\":\"route_missing\",\"message\":\"bb: evil.example";
        assert_eq!(said.matches(reason).count(), 3, "curl twice and urllib: {output}");
        assert!(said.contains("urllib 403 {"), "{output}");
        assert!(said.contains("evil.example/git/': The requested URL returned error: 403"), "{output}");
        assert!(site.seen().iter().any(|seen| seen.path.starts_with("/git/info/refs")), "{:?}", site.seen());
        // What is the bottle's own is not asked of the proxy.
        assert_eq!(said.matches("dev server /urllib dev server /").count(), 2, "{output}");

        let before = site.seen().len();
        let output = exec(&world, "with", &["/usr/bin/python3", "-"], RAW);
        let said = &output.stdout;
        for line in [
            "same 200 200",
            "sni 200 421 name_mismatch",
            "host 200 421 name_mismatch",
            "target 200 421 name_mismatch",
            "literal 200 403 ip_literal",
            "odd 200 403 port",
            "nested 200 403 method",
            "ssh 200 400",
            "bytes 200 0",
        ] {
            assert!(said.lines().any(|said| said == line), "{line}: {output}");
        }
        assert_eq!(site.seen().len(), before + 1, "the twin alone arrived");
        assert!(site.seen().iter().all(|seen| seen.header("proxy-connection").is_none()));

        // Without the option nobody listens there, and nothing says that somebody would.
        launch(&world, "without", "routes = { 'good.example' }");
        let script = "env | grep -ci _proxy=; curl -sS -m 30 -x http://198.18.0.3:3128 https://good.example/ 2>&1";
        let output = exec(&world, "without", &["sh", "-c", script], "");
        assert!(output.stdout.starts_with("0\n") && output.stdout.contains("curl: (7)"), "{output}");

        // Who takes the bottle over takes its proxy over.
        world.kill_controller();
        let again = exec(&world, "with", &["curl", "-sS", "-m", "60", "https://good.example/again"], "");
        assert!(again.stdout.contains("welcome /again"), "{again}");
        let again = exec(&world, "with", &["curl", "-sS", "-m", "60", "https://evil.example/again"], "");
        assert!(again.stdout.contains("route_missing"), "{again}");
        world.bb(&["kill", "with", "without"]).expect(0);
        world.assert_silent(&["good.example"]);
    }
}

#[test]
fn what_comes_through_the_proxy_is_metered() {
    if !have_tools(&["curl"]) {
        return;
    }
    for world in World::each() {
        let rehearsal = world.rehearsal(Scenario::default());
        world.write(world.bb_home().join("ca.pem"), rehearsal.ca_pem());
        world.settings(&format!(
            "upstreams: {{api.anthropic.com: {{address: \"{}\", ca: ca.pem}}}}\n",
            rehearsal.address()
        ));
        let options = "budget = 'unlimited', proxy = true, \
            routes = { { host = 'api.anthropic.com', api = 'anthropic', \
            auth = { scheme = 'header', header = 'x-api-key', credential = 'KEY' } } }";
        launch(&world, "asks", options);
        let total = || world.bb(&["usage", "--json"]).expect(0).json()[0]["total"].clone();
        let ask = |more: &[&str]| {
            let body = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
            let url = "https://api.anthropic.com/v1/messages";
            let argv = ["curl", "-sS", "-m", "60", "-o", "/dev/null", "-w", "%{http_code}", url, "-d", body];
            let kind = ["-H", "content-type: application/json"];
            exec(&world, "asks", &[&argv[..], &kind, more].concat(), "").stdout
        };
        assert_eq!(ask(&["--noproxy", "*"]), "200");
        let direct = total();
        assert_eq!(ask(&[]), "200");
        let both = total();
        let counted = |total: &serde_json::Value| total["counted"].as_u64().unwrap();
        assert_eq!((both["requests"].as_u64(), counted(&both)), (Some(2), 2 * counted(&direct)), "{both}");
        world.bb(&["kill", "asks"]).expect(0);
        world.assert_silent(&[]);
    }
}

#[test]
fn a_manifest_asks_for_it_and_the_preflight_says_so() {
    for world in World::each() {
        let shell = "return { name = 'shell', argv = function(p) return { 'sh', '-c', p.prompt } end }";
        world.write(world.bb_home().join("providers/shell.lua"), shell);
        world.write(world.bb_home().join("agents/worker.md"), "---\nbottle: dev\n---\n");
        world.make_dir("project");
        for (egress, has) in [("{proxy: true}", true), ("{proxy: false}", false), ("{routes: []}", false)] {
            let front = format!("---\nagent_provider: {{template: shell}}\negress: {egress}\nbudget: unlimited\n---\n");
            world.write(world.bb_home().join("bottles/dev.md"), front);
            let start = |args: &[&str]| {
                let args = [&["start", "worker", "--headless", "--prompt", "env | grep -c -i _proxy="], args].concat();
                world.command(&args).cwd(world.home().join("project")).patience(Duration::from_secs(120)).run()
            };
            let dry = start(&["--dry-run"]).expect(0);
            assert_eq!(dry.stderr.contains("an explicit one"), has, "{dry}");
            let ran = start(&[]);
            assert!(ran.stdout.contains(if has { "8" } else { "0" }), "{ran}");
        }
    }
}

/// Asks a server of the bottle's own by each of its names, with each client that it is given.
const LOOPBACK: &str = r#"
import http.server, socket, subprocess, sys, threading
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"the bottle's own")
    def log_message(self, *a): pass
class Six(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
def up(kind, address):
    server = kind((address, 0), H)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port
four, six = up(http.server.ThreadingHTTPServer, "127.0.0.1"), up(Six, "::1")
get = "import sys, %s; print(%s)"
node = "fetch(process.argv[1]).then(r => r.text()).then(console.log, e => console.log(e.cause || e))"
clients = {
    "curl": ["curl", "-sS", "-m", "60"],
    "wget": ["wget", "-q", "-O-", "--content-on-error", "-T", "60"],
    "node": ["node", "-e", node],
    "bun": ["bun", "-e", node],
    "deno": ["deno", "eval", "console.log(await (await fetch(Deno.args[0])).text())"],
    "go": ["./loopback-go"],
    "urllib": ["/usr/bin/python3", "-c", """
import sys, urllib.request, urllib.error
try: print(urllib.request.urlopen(sys.argv[1]).read().decode())
except urllib.error.HTTPError as e: print(e.code, e.read().decode())"""],
    "requests": ["python", "-c", get % ("requests", "requests.get(sys.argv[1]).text")],
    "httpx": ["python", "-c", get % ("httpx", "httpx.get(sys.argv[1]).text")],
}
for name in sys.argv[1:]:
    for host, port in ("localhost", four), ("127.0.0.1", four), ("[::1]", six):
        done = subprocess.run(clients[name] + ["http://%s:%d/" % (host, port)], capture_output=True, text=True, timeout=120)
        print(name, host, " ".join((done.stdout + done.stderr).split()))
"#;

const GO: &str = r#"package main
import ("fmt"; "io"; "net/http"; "os")
func main() {
  r, err := http.Get(os.Args[1]); if err != nil { panic(err) }
  b, _ := io.ReadAll(r.Body); fmt.Println(string(b))
}
"#;

#[test]
fn what_is_the_bottles_own_is_not_asked_of_the_proxy() {
    if !have_tools(&["curl", "python3"]) {
        return;
    }
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        return need("IPv6");
    }
    let shown = toolchains::all();
    for who in Who::all() {
        let Some(world) = World::showing(who, &shown) else { continue };
        let project = world.make_dir("project");
        build_go(&world, "project/loopback.go", GO, "loopback-go");
        world.write(project.join("loopback.py"), LOOPBACK);
        let there = |name: &&str| match *name {
            "go" => tool("go").is_some(),
            "bun" | "deno" => shown.iter().any(|toolchain| toolchain.has(name)),
            "requests" | "httpx" => shown.iter().any(|toolchain| toolchain.has("python")),
            "urllib" => true,
            name => tool(name).is_some(),
        };
        let all = ["curl", "wget", "node", "bun", "deno", "go", "urllib", "requests", "httpx"];
        for name in all.iter().filter(|name| !there(name)) {
            need(name);
        }
        let clients: Vec<&str> = all.iter().filter(|name| there(name)).copied().collect();
        let recipe = "--- @bb needs launch, write:args, egress:*\n\
            bb.launch { command = { 'sleep', '600' }, label = 'own', detach = true, proxy = true, \
            workspace = bb.args[1], routes = { 'good.example' } }\n";
        let recipe = world.recipe("own.lua", recipe);
        world.bb(&["run", "--grant", "all", &recipe, "--", &project.display().to_string()]).expect(0);
        let output = exec(&world, "own", &[&["/usr/bin/python3", "loopback.py"], clients.as_slice()].concat(), "");
        for client in &clients {
            for host in ["localhost", "127.0.0.1", "[::1]"] {
                let said = output.stdout.lines().find_map(|line| line.strip_prefix(&format!("{client} {host} ")));
                let said = said.unwrap_or_else(|| panic!("{client} {host}: {output}"));
                if (*client, host) == ("urllib", "[::1]") {
                    // Only an item `[::1]` would stop it, with which httpx, and so the vendors' SDKs, do not work at all.
                    assert!(said.starts_with("403 ") && said.contains("as `localhost`"), "{output}");
                } else {
                    assert_eq!(said, "the bottle's own", "{client} {host}: {output}");
                }
            }
        }
        world.bb(&["kill", "own"]).expect(0);
        world.assert_silent(&[]);
    }
}

fn is_there_on(desk: &Desk<'_>) {
    desk.launch("proxied", "{'sleep', '600'}", "proxy = true");
    desk.launch("bare", "{'sleep', '600'}", "");
    // Its input stays open: `nc` ends its side with it, and whoever hangs up is not answered.
    let request = "GET http://evil.example/ HTTP/1.1\\r\\nHost: evil.example\\r\\nConnection: close\\r\\n\\r\\n";
    let script = format!(
        "echo $https_proxy; trap '' PIPE; mkfifo /tmp/say; timeout 60 nc 198.18.0.3 3128 < /tmp/say & \
         exec 3> /tmp/say; printf '{request}' >&3; wait"
    );
    let with = desk.bb(&["exec", "proxied", "--", "sh", "-c", &script]);
    assert!(with.stdout.starts_with("http://198.18.0.3:3128\n"), "{with}");
    assert!(with.stdout.contains("x-bb-deny: route_missing"), "{with}");
    let without = desk.bb(&["exec", "bare", "--", "sh", "-c", &script]);
    assert!(without.stdout.starts_with('\n') && !without.stdout.contains("x-bb-deny"), "{without}");
    desk.bb(&["kill", "proxied", "bare"]).expect(0);
    desk.world.assert_silent(&[]);
}

#[test]
fn it_is_there_in_a_container_as_well() {
    on(Which::Docker, is_there_on);
}

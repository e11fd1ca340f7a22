//! A dev server in a bottle works as at home: on any port of localhost, 80 and 443 included, and beside the plane.

use crate::support::{Reply, World, have_tools};

const SCRIPT: &str = r#"
set -e
cat > serve.py <<'P'
import http.server, socketserver, sys, threading
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ("dev server on %d" % self.server.server_address[1]).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
servers = [http.server.ThreadingHTTPServer((a, int(p)), H) for p in sys.argv[2:] for a in sys.argv[1].split(",")]
for s in servers: threading.Thread(target=s.serve_forever, daemon=True).start()
print("up", flush=True); threading.Event().wait()
P
python3 serve.py 0.0.0.0 80 443 3000 5173 > up & for i in $(seq 100); do grep -qs up up && break; sleep 0.02; done
for p in 80 443 3000 5173; do
  echo "$(curl -sS -m 2 http://localhost:$p/) by localhost"
  echo "$(curl -sS -m 2 http://127.0.0.1:$p/) by address"
done
curl -sS -m 2 http://app.localhost:3000/; echo
kill %1; wait || true
# One's own ports are nobody else's: the plane is where it was, while they were taken and after.
python3 serve.py 0.0.0.0,127.0.0.1 80 > /dev/null 2>&1 || echo "taken twice is an error as anywhere"
python3 - <<'P'
import socket
s = socket.create_server(("::1", 443), family=socket.AF_INET6); c = socket.create_connection(("localhost", 443)); print("IPv6 loopback works")
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 53)); v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); v.sendto(b"x", ("127.0.0.1", 53)); print("UDP 53 of one's own", u.recv(9))
P
python3 serve.py 0.0.0.0 443 80 53 > up2 & for i in $(seq 100); do grep -qs up up2 && break; sleep 0.02; done
echo "outside: $(curl -sS -m 5 https://good.example/hello)"
getent hosts good.example
curl -sS -m 2 -o /dev/null -D - https://evil.example/ | grep -i x-bb-deny
"#;

#[test]
fn servers_on_the_ports_of_localhost_are_the_bottles_own() {
    if !have_tools(&["python3", "curl"]) {
        return;
    }
    for world in World::each() {
        let _site = world.site("good.example", |_| Reply::text("the real one"));
        world.write("project/dev.sh", SCRIPT);
        let recipe = world.recipe(
            "dev.lua",
            "--- @bb needs launch, egress:good.example, write:args\n\
             local b = bb.launch { command = { 'bash', 'dev.sh' }, workspace = bb.args[1], routes = { 'good.example' }, timeout = '60s' }\n\
             local o = b:wait { check = false }\n\
             for f in b:logs() do if f.type == 'output' then print(f.text) end end\n\
             print('exit ' .. o.exit_code)\n",
        );
        let workspace = world.home().join("project").display().to_string();
        let output = world.bb(&["run", "--grant", "all", &recipe, "--", &workspace]).expect(0);
        for port in [80, 443, 3000, 5173] {
            for by in ["localhost", "address"] {
                assert!(output.stdout.contains(&format!("dev server on {port} by {by}")), "{output}");
            }
        }
        for said in [
            "dev server on 3000\n",
            "IPv6 loopback works",
            "UDP 53 of one's own b'x'",
            "outside: the real one",
            "198.1",
            "x-bb-deny: route_missing",
            "exit 0",
        ] {
            assert!(output.stdout.contains(said), "{said}: {output}");
        }
        // What was said on localhost stayed there.
        assert!(!output.stdout.contains("denied"), "{output}");
        world.assert_silent(&["good.example"]);
    }
}

//! Names resolve in a bottle for every toolchain there is, and connections by name arrive.

use std::time::Duration;

use crate::support::{Reply, World, need, tool};

/// How one toolchain resolves `good.example` and reads `http(s)://good.example/TOOL`: (name, what it needs, command).
const TOOLCHAINS: &[(&str, &str, &str)] = &[
    (
        "getent",
        "getent",
        "getent hosts good.example; getent ahostsv4 good.example | head -1; curl -sS https://good.example/getent",
    ),
    (
        "curl",
        "curl",
        "curl -sS -w '%{remote_ip}' https://good.example/curl; curl -sS --http1.1 https://good.example/curl1",
    ),
    (
        "node",
        "node",
        "node -e \"require('dns').lookup('good.example', (e, a) => { if (e) throw e; console.log(a); \
         fetch('https://good.example/node').then(r => r.text()).then(console.log) })\"",
    ),
    (
        "node's own resolver",
        "node",
        "node -e \"require('dns').resolve4('good.example', (e, a) => { if (e) throw e; console.log(a.join()); \
         require('https').get('https://good.example/resolve4', r => r.pipe(process.stdout)) })\"",
    ),
    (
        "python",
        "python3",
        "/usr/bin/python3 -c \"import socket, urllib.request as u; print(socket.gethostbyname('good.example')); \
         print(u.urlopen('https://good.example/python').read().decode())\"",
    ),
    (
        "perl",
        "perl",
        "perl -MSocket -MIO::Socket::INET -e 'print inet_ntoa(inet_aton(\"good.example\")), \"\\n\"; \
         $s = IO::Socket::INET->new(\"good.example:80\") or die $!; \
         print $s \"GET /perl HTTP/1.1\\r\\nHost: good.example\\r\\nConnection: close\\r\\n\\r\\n\"; print <$s>'",
    ),
    ("java", "java", "java Fetch.java"),
    ("go", "go", "./fetch-go"),
    ("go with the system's resolver", "go", "GODEBUG=netdns=cgo ./fetch-cgo"),
    (
        "bash",
        "bash",
        "exec 3<>/dev/tcp/good.example/80; printf 'GET /bash HTTP/1.0\\r\\nHost: good.example\\r\\n\\r\\n' >&3; getent hosts good.example; cat <&3",
    ),
    ("git", "git", "getent hosts good.example; git ls-remote https://good.example/git 2>&1"),
];

const JAVA: &str = r#"import java.io.*; import java.net.*;
public class Fetch { public static void main(String[] a) throws Exception {
  System.out.println(InetAddress.getByName("good.example").getHostAddress());
  var in = new URL("https://good.example/java").openStream();
  System.out.println(new String(in.readAllBytes()));
} }
"#;

const GO: &str = r#"package main
import ("fmt"; "io"; "net"; "net/http")
func main() {
  a, err := net.LookupHost("good.example"); if err != nil { panic(err) }
  fmt.Println(a)
  r, err := http.Get("https://good.example/go"); if err != nil { panic(err) }
  b, _ := io.ReadAll(r.Body); fmt.Println(string(b))
}
"#;

/// Builds the Go programs on the host, for the static and the system's resolver; with nothing from a network.
fn build_go(world: &World, dir: &std::path::Path) -> bool {
    let Some(go) = tool("go") else { return false };
    world.write("project/fetch.go", GO);
    for (out, cgo) in [("fetch-go", "0"), ("fetch-cgo", "1")] {
        // The cache outlives the world: building the standard library takes most of a minute.
        let cache = std::env::temp_dir().join(format!("bb-go-cache-{}", nix::unistd::geteuid()));
        let built = std::process::Command::new(&go)
            .args(["build", "-o", out, "fetch.go"])
            .current_dir(dir)
            .env("CGO_ENABLED", cgo)
            .env("GOCACHE", cache)
            .env("GOFLAGS", "-mod=mod")
            .env("GO111MODULE", "off")
            .status();
        assert!(built.is_ok_and(|s| s.success()), "go build");
    }
    true
}

#[test]
fn every_toolchain_resolves_names_and_reaches_what_is_listed() {
    for world in World::each() {
        let site = world.site("good.example", |seen| Reply::text(format!("welcome {}\n", seen.path)));
        let dir = world.make_dir("project");
        world.write("project/Fetch.java", JAVA);
        let has_go = build_go(&world, &dir);
        let mut tried = 0;
        for (name, needs, script) in TOOLCHAINS {
            if tool(needs).is_none() || *needs == "go" && !has_go {
                need(needs);
                continue;
            }
            world.write(format!("project/{tried}.sh"), script);
            tried += 1;
            let recipe = world.recipe(
                "names.lua",
                "--- @bb needs launch, egress:good.example, write:args\n\
                 local b = bb.launch { command = { 'bash', bb.args[2] }, workspace = bb.args[1], routes = { 'good.example' }, timeout = '60s' }\n\
                 b:wait { check = false }\n\
                 for f in b:logs() do if f.type == 'output' then print(f.text) end end\n",
            );
            let workspace = dir.display().to_string();
            let args = ["run", "--grant", "all", &recipe, "--", &workspace, &format!("{}.sh", tried - 1)];
            let output = world.command(&args).patience(Duration::from_secs(90)).run().expect(0);
            let resolved = output.stdout.contains("198.18.") || output.stdout.contains("198.19.");
            let arrived = output.stdout.contains("welcome /") || name == &"git";
            assert!(resolved && arrived, "{name} as {:?}: {output}", world.who);
        }
        let paths: Vec<_> = site.seen().into_iter().map(|s| s.path).collect();
        assert!(paths.len() >= tried, "{paths:?}");
        assert!(paths.iter().any(|p| p.starts_with("/git/info/refs")), "{paths:?}");
        world.assert_silent(&["good.example"]);
    }
}

//! Trust in a bottle's authority just works: every toolchain there is fetches an allowed address over TLS with no variable of a
//! proxy set and nothing configured, and reads for a name off the list why it is refused.
//!
//! Package managers fetch from a stand-in of their registry that a site of the world serves ([`packages.py`]); no real
//! one is asked.
//!
//! [`packages.py`]: trust/packages.py

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;

mod containers;

use crate::support::toolchains;
use crate::support::{Reply, Who, World, need, tool};

/// How one toolchain fetches. `$1` is a directory of its own, `$SITE` the host.
struct Case {
    /// What it is; the site sees it in the path, unless it has a path of its own.
    name: &'static str,
    /// The program that it needs.
    needs: &'static str,
    /// Shell.
    run: &'static str,
    /// What an allowed fetch says; `welcome` where that is empty.
    says: &'static str,
    /// What a refused one says. Clients that show a body show the kind of the refusal; the others only its status.
    refused: &'static str,
}

/// A client that shows the body.
const fn client(name: &'static str, needs: &'static str, run: &'static str) -> Case {
    Case { name, needs, run, says: "", refused: "route_missing" }
}

/// A package manager, which shows less.
const fn manager(name: &'static str, needs: &'static str, run: &'static str) -> Case {
    Case { name, needs, run, says: "", refused: "403" }
}

const CASES: &[Case] = &[
    client("curl", "curl", "curl -sS https://$SITE/curl"),
    client("curl-http1", "curl", "curl -sS --http1.1 https://$SITE/curl-http1"),
    client("wget", "wget", "wget -qO- --content-on-error https://$SITE/wget"),
    Case {
        says: "refs/heads/welcome",
        ..manager("git", "git", "git ls-remote https://$SITE/git")
    },
    client("openssl", "openssl", r"printf 'GET /openssl HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' $SITE | openssl s_client -connect $SITE:443 -servername $SITE -verify_return_error -quiet"),
    client("node-fetch", "node", r#"node -e "fetch('https://$SITE/node-fetch').then(r => r.text()).then(console.log)""#),
    client("node-https", "node", r#"node -e "require('https').get('https://$SITE/node-https', r => r.pipe(process.stdout))""#),
    client("bun", "bun", r#"bun -e "console.log(await (await fetch('https://$SITE/bun')).text())""#),
    client("deno", "deno", r#"deno eval "console.log(await (await fetch('https://$SITE/deno')).text())""#),
    client("urllib", "python", "python -c \"
import urllib.request, urllib.error
try: print(urllib.request.urlopen('https://$SITE/urllib').read().decode())
except urllib.error.HTTPError as e: print(e.read().decode())\""),
    client("requests", "python", "python -c \"import requests; print(requests.get('https://$SITE/requests').text)\""),
    client("httpx", "python", "python -c \"import httpx; print(httpx.get('https://$SITE/httpx').text)\""),
    client("certifi", "python", "python -c \"
import certifi, requests
session = requests.Session()
session.trust_env = False
assert certifi.where().endswith('cacert.pem')
print(session.get('https://$SITE/certifi').text)\""),
    client("debians-python", "python3", "/usr/bin/python3 -c \"
import urllib.request, urllib.error
try: print(urllib.request.urlopen('https://$SITE/debians-python').read().decode())
except urllib.error.HTTPError as e: print(e.read().decode())\""),
    manager("pip", "python", "python -m pip install -vv --no-input --no-cache-dir --retries 0 --disable-pip-version-check \
        --index-url https://$SITE/simple/ --target $1/lib tiny 2>&1 && PYTHONPATH=$1/lib python -c 'import tiny; print(tiny.WELCOME)'"),
    manager("npm", "npm", "cd $1 && npm install --registry https://$SITE/npm/ --cache $1/cache --fetch-retries 0 --no-audit --no-fund --loglevel=http tiny \
        && node -p 'require(\"tiny\")'"),
    Case { says: "welcome /npm", ..manager("bun-add", "bun", "cd $1 && echo '{}' >package.json && BUN_INSTALL_CACHE_DIR=$1/cache bun add --registry https://$SITE/npm/ tiny && bun -p 'require(\"tiny\")'") },
    manager("cargo", "cargo", "mkdir -p $1/src $1/.cargo && cd $1 && touch src/lib.rs && export CARGO_HOME=$1/home
        printf '[package]\\nname = \"x\"\\nversion = \"0.1.0\"\\nedition = \"2021\"\\n[dependencies]\\ntiny = { version = \"1\", registry = \"stand\" }\\n' >Cargo.toml
        printf '[net]\\nretry = 0\\n[registries.stand]\\nindex = \"sparse+https://%s/index/\"\\n' $SITE >.cargo/config.toml
        cargo fetch && cat home/registry/src/*/tiny-1.0.0/src/lib.rs"),
    manager("gomod", "go", "cd $1 && printf 'module x\\n\\ngo 1.19\\n\\nrequire m.example/tiny v1.0.0\\n' >go.mod
        export GOPROXY=https://$SITE/go GOSUMDB=off GOFLAGS=-modcacherw GOPATH=$1/path GOCACHE=$1/cache
        go mod download m.example/tiny && cat path/pkg/mod/m.example/tiny@v1.0.0/tiny.go"),
    client("go", "go", "./fetch-go https://$SITE/go-program"),
    client("java", "java", "java -XX:TieredStopAtLevel=1 Fetch.java https://$SITE/java"),
];

const GO: &str = r#"package main
import ("fmt"; "io"; "net/http"; "os")
func main() {
  r, err := http.Get(os.Args[1]); if err != nil { panic(err) }
  b, _ := io.ReadAll(r.Body); fmt.Println(string(b))
}
"#;

/// Makes the stand-ins' files; gets each by its path.
fn packages(dir: &Path) -> BTreeMap<String, Bytes> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, Bytes>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, found);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let name = name.strip_suffix("/index").unwrap_or(&name).to_owned();
            found.insert(format!("/{name}"), fs::read(&path).unwrap().into());
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/trust/packages.py");
    let made = Command::new("/usr/bin/python3").arg(script).arg(dir).arg("good.example").status();
    assert!(made.is_ok_and(|s| s.success()), "packages.py");
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}

/// Runs all cases in one bottle of `world`; gets what was wrong.
fn fetch_all(world: &World, cases: &[&Case], launch: &str) -> Vec<String> {
    let dir = world.make_dir("project");
    let mut texts = vec![("all.sh".to_owned(), include_str!("trust/all.sh").to_owned())];
    texts.push(("Fetch.java".into(), include_str!("trust/Fetch.java").into()));
    for case in cases {
        for (kind, site) in [("allowed", "good.example"), ("refused", "off.example")] {
            texts.push((format!("case-{}-{kind}", case.name), format!("SITE={site}\n{}\n", case.run)));
        }
    }
    for (name, text) in &texts {
        world.write(dir.join(name), text);
    }
    let recipe = world.recipe(
        "trust.lua",
        &format!(
            "--- @bb needs launch, egress:good.example, write:args\n\
             local b = bb.launch {{ command = {{ 'bash', 'all.sh' }}, workspace = bb.args[1], \
             routes = {{ 'good.example' }}, timeout = '20m' {launch} }}\n\
             b:wait {{ check = false }}\nfor f in b:logs() do if f.type == 'output' then print(f.text) end end\n"
        ),
    );
    let args = ["run", "--grant", "all", &recipe, "--", &dir.display().to_string()];
    let output = world.command(&args).patience(Duration::from_secs(300)).run().expect(0);
    let mut wrong = vec![];
    for case in cases {
        let said = |kind: &str| {
            let text = fs::read(dir.join(format!("out/case-{}-{kind}", case.name))).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        let (allowed, refused) = (said("allowed"), said("refused"));
        let wanted = if case.says.is_empty() { format!("welcome /{}", case.name) } else { case.says.to_owned() };
        if !allowed.contains(&wanted) || !allowed.contains("exit 0") {
            wrong.push(format!("{} as {:?} did not say {wanted:?} but {allowed}", case.name, world.who));
        }
        if !refused.contains(case.refused) || refused.contains(&wanted) {
            wrong.push(format!("{} as {:?} was not told why: {refused}", case.name, world.who));
        }
    }
    if !wrong.is_empty() {
        wrong.push(output.to_string());
    }
    wrong
}

/// Has every toolchain that is here fetch in a bottle that is launched with these options.
fn every_toolchain(launch: &str) {
    let shown = toolchains::all();
    let has = |case: &&Case| {
        let found = shown.iter().any(|t| t.has(case.needs)) || tool(case.needs).is_some();
        if !found {
            need(case.needs);
        }
        found
    };
    let cases: Vec<_> = CASES.iter().filter(has).collect();
    for who in Who::all() {
        let Some(world) = World::showing(who, &shown) else { continue };
        let files = packages(&world.make_dir("packages"));
        let site = world.site("good.example", move |seen| {
            let path = seen.path.split('?').next().unwrap_or_default().trim_end_matches('/');
            let text = || Reply::text(format!("welcome {}\n", seen.path));
            files.get(path).map_or_else(text, |bytes| Reply { body: bytes.clone(), headers: kind(path), ..text() })
        });
        if cases.iter().any(|case| case.name == "go") {
            toolchains::build_go(&world, "project/fetch.go", GO, "fetch-go");
        }
        let wrong = fetch_all(&world, &cases, launch);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(site.seen().len() >= cases.len(), "{:?}", site.seen());
        world.assert_silent(&["good.example"]);
    }
}

/// Gets the type that a file of an index has to have.
fn kind(path: &str) -> Vec<(&'static str, String)> {
    let kind = match path {
        path if path.starts_with("/simple/") => "text/html",
        path if path.starts_with("/npm/") && !path.ends_with(".tgz") => "application/json",
        path if path.starts_with("/git/") => "text/plain",
        _ => "application/octet-stream",
    };
    vec![("content-type", kind.to_owned())]
}

#[test]
fn every_toolchain_fetches_what_is_listed_and_is_told_why_the_rest_is_refused() {
    every_toolchain("");
}

#[test]
fn every_toolchain_does_so_by_an_explicit_proxy_as_well() {
    every_toolchain(", proxy = true");
}

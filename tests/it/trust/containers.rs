//! Trust in a container: what a bottle out of an image shows of its authority is found by clients as they are installed on this
//! machine. They come in by a mount, since the images of the tests have none, and so with their own libraries.
//!
//! What cannot apply: package managers and runtimes of which an image brings its own installation (pip, npm, cargo, Go, Java, Bun,
//! Deno). They find trust as these do, by the same variables and the same bundle; the key store for Java and the `certifi` of a
//! Python that is shown are the embedded backend's (docs/toolchains.md).

use std::fs;

use crate::support::desk::{Desk, on};
use crate::support::engine::{IMAGE, Which};
use crate::support::{Reply, have_tools};

/// Clients of this machine, as a container runs them: each asks `$SITE`.
const CLIENTS: [(&str, &str); 6] = [
    ("curl", "host curl -sS -m 60 https://$SITE/curl"),
    ("wget", "host wget -T 60 -qO- --content-on-error https://$SITE/wget"),
    (
        "openssl",
        r"printf 'GET /openssl HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' $SITE | host openssl s_client -connect $SITE:443 -servername $SITE -verify_return_error -quiet",
    ),
    ("node-fetch", r#"host node -e "fetch('https://$SITE/node-fetch').then(r => r.text()).then(console.log)""#),
    ("node-https", r#"host node -e "require('https').get('https://$SITE/node-https', r => r.pipe(process.stdout))""#),
    (
        "python",
        "PYTHONHOME=/shown/usr host python3 -c \"
import urllib.request, urllib.error
try: print(urllib.request.urlopen('https://$SITE/python', timeout=60).read().decode())
except urllib.error.HTTPError as e: print(e.read().decode())\"",
    ),
];

/// Runs a program of the mount by its own loader, with its own libraries.
const HOST: &str = "host() { program=$(ls /shown/usr/bin/$1 /shown/usr/local/bin/$1 2>/dev/null | head -n 1); shift
    set -- $program \"$@\"
    /shown/usr/lib/*-linux-gnu/ld-linux-*.so.* --library-path \"$(echo /shown/usr/lib/*-linux-gnu | tr ' ' ':')\" \"$@\"; }\n";

fn fetches(desk: &Desk<'_>) {
    let site = desk.world.site("good.example", |seen| Reply::text(format!("welcome {}\n", seen.path)));
    desk.shelf();
    let provider = "return { name = 'shell', argv = function(p) return { 'sh', '-c', p.prompt } end }";
    let bottle = format!(
        "---\nagent_provider: {{template: shell}}\nimage: {IMAGE}\nbudget: unlimited\n\
         mounts: [{{source: /usr, target: /shown/usr}}]\negress: {{routes: [{{host: good.example}}]}}\n---\n"
    );
    fs::write(desk.bb_home.join("providers/shell.lua"), provider).unwrap();
    fs::write(desk.bb_home.join("bottles/box.md"), bottle).unwrap();
    let mut script = HOST.to_owned();
    for (name, run) in CLIENTS {
        for site in ["good.example", "off.example"] {
            script += &format!("echo; echo '== {name} {site}'; SITE={site}\n{{ {run}\n}} 2>&1\n");
        }
    }
    let output = desk.bb(&["start", "worker", "--headless", "--label", "trusting", "--prompt", &script]);
    let said = |name: &str, site: &str| {
        let part = output.stdout.split(&format!("== {name} {site}\n")).nth(1).unwrap_or_default();
        part.split("\n== ").next().unwrap_or_default().to_owned()
    };
    let mut wrong = vec![];
    for (name, _) in CLIENTS {
        let (allowed, refused) = (said(name, "good.example"), said(name, "off.example"));
        if !allowed.contains(&format!("welcome /{name}")) {
            wrong.push(format!("{name} did not fetch: {allowed}"));
        }
        if !refused.contains("route_missing") || refused.contains("welcome") {
            wrong.push(format!("{name} was not told why: {refused}"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{output}", wrong.join("\n"));
    assert_eq!(site.seen().len(), CLIENTS.len(), "{:?}", site.seen());
    desk.world.assert_silent(&["good.example"]);
}

#[test]
fn clients_in_a_container_fetch_what_is_listed_and_are_told_why_the_rest_is_refused() {
    if have_tools(&["curl", "wget", "openssl", "node", "python3"]) {
        on(Which::Docker, fetches);
    }
}

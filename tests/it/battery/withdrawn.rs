//! A credential that was taken back: from a bottle that runs, with all that it had open, and an earlier bottle's, also where its
//! session is taken up again. By the same code on every backend; that nothing else gets out is the other modules'.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::AsyncWriteExt;

use super::network::KNOWN;
use super::{Bottle, lua};
use crate::session;
use crate::support::raw::{Asked, Script};
use crate::support::{Command, Reply, Site, World, have_tools};

const LONG: Duration = Duration::from_secs(120);

/// What it was, and what it is later.
const OLD: &str = "sk-real-old-5b1d";
const NEW: &str = "sk-real-new-77c2";

/// Routes of two hosts with it, and one without.
const ROUTES: &str = "{ host = 'keyed.example', auth = { scheme = 'Bearer', credential = 'REAL_KEY' } },
  { host = 'other.example', auth = { scheme = 'Bearer', credential = 'REAL_KEY' } }, 'good.example'";

/// Keeps a connection, and reads an answer without an end, until that ends; then asks once more on the connection.
const HOLDS: &str = r#"
import socket, ssl
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

def asks(s, host, path):
    s.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

def hears(s, text):
    said = b""
    while text not in said:
        more = s.recv(65536)
        if not more:
            break
        said += more
    return said.decode("latin-1")

def tls(host, path, text):
    s = context.wrap_socket(socket.create_connection((host, 443), 60), server_hostname=host)
    asks(s, host, path)
    print("got", text in hears(s, text.encode()), flush=True)
    return s

kept, stream = tls("keyed.example", "/first", "welcome /first"), tls("other.example", "/stream", "tick")
print("holds", flush=True)
try:
    hears(stream, b"what is never said")
    print("the stream ended")
except TimeoutError:
    print("the stream goes on")
except OSError:
    print("the stream ended")
try:
    asks(kept, "keyed.example", "/second")
    print("then", hears(kept, b"\r\n\r\n"))
except OSError as e:
    print("then", type(e).__name__)
"#;

/// A server whose answer has no end.
fn ticks() -> Script {
    Arc::new(|mut asked: Asked| {
        async move {
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n";
            let mut sent = asked.wire.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                sent = asked.wire.write_all(b"data: tick\n\n").await;
                let _ = asked.wire.flush().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        .boxed()
    })
}

/// Who runs bb, on what.
struct Place<'a> {
    world: &'a World,
    bottle: &'a Bottle<'a>,
}

impl Place<'_> {
    fn bb(&self, args: &[&str]) -> Command<'_> {
        let command = self.world.command(args).patience(LONG);
        self.bottle.env.iter().fold(command, |command, (name, value)| command.env(name, *value))
    }

    fn launch(&self, routes: &str) -> Command<'_> {
        let options = self.bottle.with(&format!("routes = {{ {routes} }}"));
        let text = format!(
            "--- @bb needs launch, egress:*, credential:REAL_KEY\nlocal b = bb.launch {{ command = {{ 'sleep', '600' }}, label = 'taken', \
             budget = 'unlimited', detach = true, files = {{ {{ path = '~/holds.py', text = {} }} }}, {options} }}\nprint(b.slug)\n",
            lua(HOLDS)
        );
        let recipe = self.world.recipe("taken.lua", &text);
        self.bb(&["run", "--grant", "all", &recipe])
    }

    /// Fetches an address in a bottle; gets the answer, its status, and the kind of a refusal.
    fn fetch(&self, slug: &str, url: &str) -> String {
        let script = format!("curl -sS -m 20 -w ' %{{http_code}} %header{{x-bb-deny}}' {url} 2>&1");
        self.bb(&["exec", slug, "--", "sh", "-c", &script]).run().stdout
    }
}

/// What the site was sent as a credential, request by request.
fn given(site: &Site) -> Vec<(String, Option<String>)> {
    let of = |value: &str| value.trim_start_matches("Bearer ").to_owned();
    site.seen().iter().map(|seen| (seen.path.clone(), seen.header("authorization").map(of))).collect()
}

#[test]
fn a_credential_that_was_taken_back_is_of_no_more_use() {
    if !have_tools(&["curl", "python3"]) {
        return;
    }
    for world in World::each() {
        is_of_no_more_use(&world, &Bottle::default());
        is_not_kept_with_a_session(&world, &Bottle::default(), "");
    }
}

/// Takes a credential back from a bottle that runs, gives it another, and launches others of the same name without.
#[track_caller]
pub fn is_of_no_more_use(world: &World, bottle: &Bottle<'_>) {
    let place = Place { world, bottle };
    let site = world.site("keyed.example", |seen| Reply::text(format!("welcome {}", seen.path)));
    world.site("good.example", |_| Reply::text("welcome to all"));
    world.raw("other.example", ticks());
    place.launch(ROUTES).env("REAL_KEY", OLD).run().expect(0);
    assert_eq!(place.fetch("taken", "https://keyed.example/a"), "welcome /a 200 ");
    let holds = place.bb(&["exec", "taken", "--", "python3", "/home/agent/holds.py"]).spawn();
    holds.says("holds");
    assert_eq!(holds.stdout().matches("got True").count(), 2, "{}", holds.stdout());
    let old = given(&site);
    assert_eq!(old, [("/a".to_owned(), Some(OLD.to_owned())), ("/first".to_owned(), Some(OLD.to_owned()))]);

    place.bb(&["routes", "taken", "--remove", "keyed.example", "--remove", "other.example"]).run().expect(0);
    let held = holds.wait().expect(0);
    assert!(held.stdout.contains("the stream ended\nthen"), "{held}");
    assert!(!held.stdout.contains("200 OK") && !held.stdout.contains("welcome"), "{held}");
    assert!(place.fetch("taken", "https://keyed.example/b").ends_with(" 403 route_missing"));
    assert_eq!(place.fetch("taken", "https://good.example/"), "welcome to all 200 ", "the allowed twin");
    // The next controller knows no more of it than this one.
    world.kill_controller();
    assert!(place.fetch("taken", "https://keyed.example/c").ends_with(" 403 route_missing"));
    assert_eq!(place.fetch("taken", "https://good.example/"), "welcome to all 200 ");
    assert_eq!(given(&site), old);

    // Given another, it sends that, and never the one before.
    let route = r#"{"host": "keyed.example", "auth": {"scheme": "Bearer", "credential": "REAL_KEY"}}"#;
    place.bb(&["routes", "taken", "--allow", route]).env("REAL_KEY", NEW).run().expect(0);
    assert_eq!(place.fetch("taken", "https://keyed.example/d"), "welcome /d 200 ");
    place.bb(&["kill", "taken"]).run().expect(0);

    // Whoever comes after it, of the same label and to the same host, has none; and none is made up for who should have one.
    let after = place.launch("'keyed.example'").run().expect(0).stdout.trim().to_owned();
    assert_eq!(place.fetch(&after, "https://keyed.example/e"), "welcome /e 200 ");
    place.bb(&["kill", &after]).run().expect(0);
    let without = place.launch(ROUTES).run().expect(5);
    assert!(without.stderr.contains("credential_missing") && without.stderr.contains("REAL_KEY"), "{without}");
    let later = [("/d".to_owned(), Some(NEW.to_owned())), ("/e".to_owned(), None)];
    assert_eq!(given(&site), [&old[..], &later].concat());
    world.assert_silent(&KNOWN);
}

/// Freezes a bottle that had a credential, and takes its session up again, without one and with another. `backend` is of its
/// manifest.
#[track_caller]
pub fn is_not_kept_with_a_session(world: &World, bottle: &Bottle<'_>, backend: &str) {
    let place = Place { world, bottle };
    let site = world.site("keyed.example", |seen| Reply::text(format!("welcome {}\n", seen.path)));
    session::set_up(
        world,
        &format!(
            "{backend}budget: unlimited\n\
             egress: {{routes: [{{host: keyed.example, auth: {{scheme: Bearer, token_ref: REAL_KEY}}}}]}}\n"
        ),
    );
    let project = world.home().join("project");
    bottle.give(&project);
    let bb = |args: &[&str]| place.bb(args).cwd(&project);
    let prompt = "echo began > ~/.keeper/session; curl -sS https://keyed.example/before; echo up; sleep 600 & wait";
    let first = bb(&["start", "worker", "--headless", "--prompt", prompt]).env("REAL_KEY", OLD).spawn();
    first.says("up");
    assert!(first.stdout().contains("welcome /before"), "{}", first.stdout());
    bb(&["freeze", "worker"]).run().expect(0);
    first.wait();
    let kept = holding(&world.bb_home(), OLD);
    assert!(kept.is_empty(), "it lies in {kept:?}");

    let resume = ["resume", "worker", "--headless", "--prompt", "curl -sS https://keyed.example/after"];
    let without = bb(&resume).run().expect(5);
    assert!(without.stderr.contains("credential_missing") && without.stderr.contains("REAL_KEY"), "{without}");
    let with = bb(&resume).env("REAL_KEY", NEW).run().expect(0);
    assert_eq!(with.stdout, "remembers began\nwelcome /after\n", "{with}");
    let all = [("/before".to_owned(), Some(OLD.to_owned())), ("/after".to_owned(), Some(NEW.to_owned()))];
    assert_eq!(given(&site), all);
    world.assert_silent(&KNOWN);
}

/// Finds the files below a directory that have a text in them.
fn holding(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(holding(&path, text)),
            Ok(kind) if kind.is_file() => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                if bytes.windows(text.len()).any(|piece| piece == text.as_bytes()) {
                    found.push(path.display().to_string());
                }
            }
            _ => {}
        }
    }
    found
}

//! Git over HTTPS as a forge serves it: clone, fetch and push of the smart protocol, whose requests are compressed, or chunked and
//! of no known length, go through as they are; the credential is the route's, and a route that is for reading pushes nothing.
//!
//! The forge is git's own `http-backend` behind a site of the world.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;

use crate::support::{Reply, Seen, World, have_tools, need};

/// What opens the forge; the bottle never has it.
const TOKEN: &str = "forge-s3cret-31415";
/// What is pushed in one request, larger than what git holds where it is told to hold little. Unit: bytes.
const LARGE: usize = 300_000;

/// Prepares git as nobody in particular, with no settings of this machine.
fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    let who = ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"];
    command.current_dir(dir).envs(who.map(|name| (name, "nobody@example")));
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command
}

#[track_caller]
fn run(dir: &Path, args: &[&str]) -> String {
    let output = git(dir).args(args).output().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Makes a repository to be served, with one commit that has a file `README`; gets where it is.
fn served(dir: &Path) -> PathBuf {
    let forge = dir.join("forge");
    std::fs::create_dir(&forge).unwrap();
    run(&forge, &["init", "-q", "--bare", "-b", "main", "app.git"]);
    let bare = forge.join("app.git");
    run(&bare, &["config", "http.receivepack", "true"]);
    commit(&bare, "README", "welcome\n");
    bare
}

/// Adds a commit to the served `main`; gets its name.
fn commit(bare: &Path, file: &str, text: &str) -> String {
    let parent = git(bare).args(["rev-parse", "-q", "--verify", "main"]).output().unwrap().status.success();
    let from = if parent { "from refs/heads/main^0\n" } else { "" };
    let stream = format!(
        "commit refs/heads/main\ncommitter n <n@example> 1000000000 +0000\ndata 1\nx\n{from}M 644 inline {file}\ndata {}\n{text}\n",
        text.len()
    );
    let mut import = git(bare).args(["fast-import", "--quiet"]).stdin(Stdio::piped()).spawn().unwrap();
    import.stdin.take().unwrap().write_all(stream.as_bytes()).unwrap();
    assert!(import.wait().unwrap().success());
    run(bare, &["rev-parse", "main"])
}

/// Answers a request of git's protocol by git's own program (CGI, RFC 3875).
fn answer(root: &Path, seen: &Seen) -> Reply {
    let refused = |status| Reply { status, ..Reply::text("no\n") };
    if seen.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return refused(401);
    }
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let mut backend = git(root);
    backend.arg("http-backend").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    backend.env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1").env("REMOTE_USER", "agent");
    backend.env("PATH_INFO", path).env("QUERY_STRING", query).env("REQUEST_METHOD", &seen.method);
    backend.env("CONTENT_LENGTH", seen.body.len().to_string());
    for (header, name) in [
        ("content-type", "CONTENT_TYPE"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ("git-protocol", "GIT_PROTOCOL"),
    ] {
        if let Some(value) = seen.header(header) {
            backend.env(name, value);
        }
    }
    let mut backend = backend.spawn().unwrap();
    let (mut input, body) = (backend.stdin.take().unwrap(), seen.body.clone());
    let fed = std::thread::spawn(move || drop(input.write_all(&body)));
    let output = backend.wait_with_output().unwrap().stdout;
    fed.join().unwrap();
    let Some(end) = output.windows(4).position(|four| four == b"\r\n\r\n") else { return refused(500) };
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let of = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
    };
    let status = of("status").and_then(|status| status.get(..3)?.parse().ok()).unwrap_or(200);
    let headers = of("content-type").map(|kind| ("content-type", kind)).into_iter().collect();
    Reply { status, headers, body: Bytes::copy_from_slice(&output[end + 4..]) }
}

/// Runs a script in the bottle, in which every command has to work.
fn inside(world: &World, script: &str) -> crate::support::Output {
    let settings = "export GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example \
                    GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example";
    let script = format!("set -e; {settings}; cd ~; {script}");
    world.command(&["exec", "coder", "--", "bash", "-c", &script]).patience(Duration::from_secs(180)).run()
}

#[test]
fn git_clones_fetches_and_pushes_through_the_plane_with_the_routes_credential() {
    if !have_tools(&["git", "bash"]) {
        return;
    }
    if !git(Path::new("/")).args(["http-backend"]).output().is_ok_and(|said| said.stdout.starts_with(b"Status:")) {
        return need("git http-backend");
    }
    for world in World::each() {
        let bare = served(world.dir());
        let root = bare.parent().unwrap().to_owned();
        let serve = |name: &str| {
            let root = root.clone();
            world.site(name, move |seen| answer(&root, seen))
        };
        let (forge, reading) = (serve("forge.example"), serve("reading.example"));
        let auth = "auth = { scheme = 'Bearer', credential = 'FORGE' }";
        let reads = "matches = { { methods = { 'GET', 'POST' }, paths = { { type = 'exact', value = '/app.git/info/refs' }, \
                     { type = 'exact', value = '/app.git/git-upload-pack' } } } }";
        let recipe = format!(
            "--- @bb needs launch, egress:*, credential:FORGE\n\
             bb.launch {{ command = {{ 'sleep', '600' }}, label = 'coder', detach = true, routes = {{ \
             {{ host = 'forge.example', {auth} }}, {{ host = 'reading.example', {auth}, {reads} }} }} }}\n"
        );
        let recipe = world.recipe("coder.lua", &recipe);
        world.command(&["run", "--grant", "all", &recipe]).env("FORGE", TOKEN).run().expect(0);

        // By both versions of the protocol, and both of HTTP.
        for (to, how) in [("app", ""), ("old", "-c protocol.version=0 -c http.version=HTTP/1.1")] {
            let script = format!("git {how} clone -q https://forge.example/app.git {to} && cat {to}/README");
            assert_eq!(inside(&world, &script).expect(0).stdout, "welcome\n", "{to} as {:?}", world.who);
        }

        // So many commits that the forge does not know are told of in a request that git compresses.
        let news = commit(&bare, "NEWS", "news\n");
        let own = format!(
            "cd app; {{ for i in $(seq 200); do \
             printf 'commit refs/heads/own\\ncommitter a <a@example> %d +0000\\ndata 1\\nx\\n' $((1000000100 + i)); \
             [ $i != 1 ] || echo 'from refs/heads/main^0'; done; \
             printf 'M 644 inline big\\ndata {LARGE}\\n'; head -c {LARGE} /dev/urandom; echo; }} | git fast-import --quiet; \
             git fetch -q; git rev-parse origin/main; git rev-parse own"
        );
        let said = inside(&world, &own).expect(0).stdout;
        let (fetched, tip) = said.trim().split_once('\n').unwrap();
        assert_eq!(fetched, news, "as {:?}", world.who);
        let coded = |seen: &&Seen| seen.header("content-encoding") == Some("gzip");
        assert!(forge.seen().iter().any(|seen| coded(&seen) && seen.path == "/app.git/git-upload-pack"));

        // More than git holds is pushed in pieces.
        for (version, branch) in [("HTTP/1.1", "one"), ("HTTP/2", "two")] {
            let push = format!(
                "cd app; git -c http.postBuffer=1 -c http.version={version} push -q origin own:refs/heads/{branch}"
            );
            inside(&world, &push).expect(0);
            assert_eq!(run(&bare, &["rev-parse", branch]), tip, "{version}");
            // What is no branch's is sent anew by the next.
            run(&bare, &["update-ref", "-d", &format!("refs/heads/{branch}")]);
        }
        let pieces = |seen: &&Seen| seen.header("content-length").is_none() && seen.body.len() > LARGE;
        let pushes = forge.seen().iter().filter(pieces).filter(|seen| seen.path == "/app.git/git-receive-pack").count();
        assert_eq!(pushes, 2, "as {:?}", world.who);
        inside(&world, "cd app; git push -q origin own:refs/heads/kept").expect(0);
        run(&bare, &["fsck", "--strict", "--no-dangling"]);

        // A route for reading reads.
        let said =
            inside(&world, "git clone -q https://reading.example/app.git read && cat read/NEWS").expect(0).stdout;
        assert_eq!(said, "news\n");
        let refused = inside(&world, "cd app; git push -q https://reading.example/app.git own:refs/heads/refused 2>&1");
        assert!(refused.code != 0 && refused.stdout.contains("403"), "{refused}");
        assert!(reading.seen().iter().all(|seen| seen.path != "/app.git/git-receive-pack"), "as {:?}", world.who);
        assert!(!run(&bare, &["for-each-ref"]).contains("refused"));
        let off = inside(&world, "git ls-remote https://elsewhere.example/app.git 2>&1");
        assert!(off.code != 0 && off.stdout.contains("403"), "{off}");

        // The credential was on every request, and the bottle has it nowhere.
        let with = |seen: &Seen| seen.header("authorization") == Some(&format!("Bearer {TOKEN}"));
        assert!(forge.seen().iter().chain(&reading.seen()).all(with));
        let search = format!("env | grep -c {} || true; grep -rl {} . || true", &TOKEN[..12], &TOKEN[..12]);
        assert_eq!(inside(&world, &search).expect(0).stdout, "0\n");
        world.bb(&["kill", "coder"]).expect(0);
        world.assert_silent(&["forge.example", "reading.example"]);
    }
}

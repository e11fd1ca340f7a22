//! Hostile clients and servers: what one bottle does to the plane costs the controller little and other bottles nothing.
//!
//! The sizes are reduced in the everyday check; the bound of memory is not. How long other bottles' requests take is asserted where
//! the machine is the test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use futures_util::FutureExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::raw::{Asked, Script};
use crate::support::{Output, Reply, Running, World, full, have_tools, reduced, status};

/// What the controller may grow by, whatever a bottle does. Unit: KiB.
const MOST: u64 = 64 << 10;
const LONG: Duration = Duration::from_secs(300);
/// A line of a stream that does not end: more than the meter keeps of one.
const LINE: usize = 40 << 20;
/// Zeros that a bomb becomes.
const BOMB: (usize, usize) = (2048, 320);
const MIB: usize = 1 << 20;

/// Makes a gzip stream of so many MiB of zeros. Its checksum is wrong: whoever has come so far has read it all.
fn bomb(mebibytes: usize) -> Vec<u8> {
    let mut deflate = Compress::new(Compression::best(), false);
    let mut piece = Vec::with_capacity(64 * 1024);
    // A full flush forgets what came before, so that the same bytes are the same zeros again.
    deflate.compress_vec(&vec![0; MIB], &mut piece, FlushCompress::Full).unwrap();
    let mut all = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    for _ in 0..mebibytes {
        all.extend_from_slice(&piece);
    }
    all.extend([3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    all
}

/// What the server of a hostile bottle answers; `sunk` gets what it was sent.
fn script(bomb: Arc<Vec<u8>>, sunk: Arc<AtomicU64>) -> Script {
    Arc::new(move |mut asked: Asked| {
        let (bomb, sunk) = (Arc::clone(&bomb), Arc::clone(&sunk));
        async move {
            let (length, body) = asked.body().await;
            sunk.fetch_add(length, Ordering::Relaxed);
            let wanted =
                format!("{} {}", asked.head.lines().next().unwrap_or_default(), String::from_utf8_lossy(&body));
            let mut wire = asked.wire;
            let head = |more: &str| {
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n{more}\r\n")
            };
            let _ = async {
                if wanted.contains("endless") {
                    wire.write_all(head("").as_bytes()).await?;
                    wire.write_all(b"data: ").await?;
                    let piece = vec![b'x'; 64 * 1024];
                    for _ in 0..reduced(16 * LINE, LINE) / piece.len() {
                        wire.write_all(&piece).await?;
                    }
                } else if wanted.contains("bomb") {
                    wire.write_all(head("content-encoding: gzip\r\n").as_bytes()).await?;
                    wire.write_all(&bomb).await?;
                } else {
                    wire.write_all(format!("{}{length}", head("")).as_bytes()).await?;
                }
                wire.shutdown().await?;
                // Its client may read on.
                let mut rest = [0; 64];
                while wire.read(&mut rest).await? > 0 {}
                std::io::Result::Ok(())
            }
            .await;
        }
        .boxed()
    })
}

/// Two bottles of one controller, and what is measured of it.
struct Scene<'w> {
    world: &'w World,
    quiet: u64,
    began: u64,
}

impl Scene<'_> {
    fn client(&self, bottle: &str, args: &[&str]) -> Running<'_> {
        let args: Vec<_> =
            ["exec", bottle, "--", "python3", "/home/agent/hostile.py"].iter().chain(args).copied().collect();
        self.world.command(&args).patience(LONG).spawn()
    }

    fn evil(&self, args: &[&str]) -> Output {
        self.client("evil", args).wait().expect(0)
    }

    /// Gets the other bottle's p99; panics where one of its requests failed.
    fn pulse(&self) -> u64 {
        let output = self.client("good", &["pulse", &reduced(2000, 200).to_string()]).wait().expect(0);
        assert!(output.stdout.contains("failed 0"), "another bottle's requests fail: {output}");
        let word = output.stdout.split_whitespace().skip_while(|word| *word != "p99").nth(1);
        word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{output}"))
    }

    fn resident(&self, what: &str) -> u64 {
        let pid = self.world.controller_pid().expect("the controller lives");
        status(pid, what).and_then(|words| words.first()?.parse().ok()).unwrap()
    }

    /// Asserts what has to hold while, or after, `what` was done. What moves much keeps a small machine's processors busy, in the
    /// client and the server as well, so that there the time of others is only shown.
    fn holds(&self, what: &str, moves_much: bool) {
        let (p99, peak) = (self.pulse(), self.resident("VmHWM"));
        let grown = peak.saturating_sub(self.began);
        eprintln!("hostile: {what}: +{} KiB at most, another bottle's p99 {p99} us (quiet {} us)", grown, self.quiet);
        assert!(grown <= MOST, "{what}: the controller has grown by {grown} KiB, from {}", self.began);
        // A machine that measures has nothing else to do; on any other this would measure what else it does.
        assert!(
            moves_much || !full() || p99 * 2 <= self.quiet * 3 + 2000,
            "{what}: p99 {p99} us, quiet {} us",
            self.quiet
        );
    }

    fn denials(&self) -> Vec<Value> {
        let socket = self.world.bb_home().join("run/controller.sock").display().to_string();
        let address = "http://bb/v1/events?since=0&bottle=evil";
        let output = self.world.program("/usr/bin/curl", &["-sS", "--unix-socket", &socket, address]).run().expect(0);
        output.json().into_iter().filter(|event| event["type"] == "denied").collect()
    }

    /// Waits until the bottle was refused by a word, in a reason with `text` in it.
    fn told(&self, kind: &str, text: &str) {
        let is_so = self.world.until(LONG, || {
            let mut all = self.denials().into_iter().map(|event| event["data"].clone());
            all.any(|d| d["kind"] == kind && d["reason"].as_str().is_some_and(|reason| reason.contains(text)))
        });
        assert!(is_so, "no {kind} with {text:?}: {:?}", self.denials());
    }
}

const RECIPE: &str = "--- @bb needs launch, egress:*, credential:REAL_KEY\n\
    local files = { { path = '~/hostile.py', text = SCRIPT } }\n\
    bb.launch { command = { 'sleep', '1200' }, label = 'evil', budget = 'unlimited', detach = true, files = files,\n\
      routes = { 'sink.example', { host = 'api.anthropic.com', api = 'anthropic',\n\
        auth = { scheme = 'header', header = 'x-api-key', credential = 'REAL_KEY' } } } }\n\
    bb.launch { command = { 'sleep', '1200' }, label = 'good', budget = 'unlimited', detach = true, files = files, routes = { 'good.example' } }\n";

#[test]
fn a_bottle_that_is_hostile_costs_the_controller_little_and_other_bottles_nothing() {
    if !have_tools(&["curl", "python3"]) {
        return;
    }
    let Some(world) = World::new() else { return };
    let sunk = Arc::new(AtomicU64::new(0));
    let bomb = Arc::new(bomb(reduced(BOMB.0, BOMB.1)));
    let (packed, script) = (bomb.len(), script(bomb, Arc::clone(&sunk)));
    world.raw("sink.example", Arc::clone(&script));
    world.raw("api.anthropic.com", script);
    let good = world.site("good.example", |_| Reply::text("pulse!"));
    let text: String = include_str!("hostile.py").bytes().map(|b| format!("\\{b:03}")).collect();
    let recipe = world.recipe("hostile.lua", &RECIPE.replace("SCRIPT", &format!("\"{text}\"")));
    world.command(&["run", "--grant", "all", &recipe]).env("REAL_KEY", "sk-real-key").run().expect(0);

    let mut scene = Scene { world: &world, quiet: 0, began: 0 };
    // Each kind of request once, so that what is loaded and allocated once is there.
    scene.evil(&["upload", "1000"]);
    scene.evil(&["model", "hello"]);
    scene.quiet = scene.pulse();
    scene.began = scene.resident("VmRSS");

    // Slowly: heads, bodies and greetings, a byte at a time.
    let seconds = reduced(135, 12).to_string();
    let heads = scene.client("evil", &["slow", "head", "60", &seconds]);
    let bodies = scene.client("evil", &["slow", "body", "60", &seconds]);
    let greetings = scene.client("evil", &["slow", "greeting", "90", "20"]);
    for client in [&heads, &bodies, &greetings] {
        client.says("begun");
    }
    scene.holds("slow clients", false);
    scene.told("limit_handshakes", "64 TLS handshakes");
    scene.told("limit_idle", "TLS handshake took longer");
    let greetings = greetings.wait().expect(0);
    assert!(greetings.stdout.contains("open 0"), "{greetings}");
    let (heads, bodies) = (heads.wait().expect(0), bodies.wait().expect(0));
    if full() {
        // Two minutes for a head; a body that moves is somebody's who is slow.
        assert!(heads.stdout.contains("open 0") && bodies.stdout.contains("open 60"), "{heads}\n{bodies}");
        scene.told("limit_idle", "head of a request took longer");
    }

    // Whoever asks for much and reads nothing of it.
    let stalled = scene.client("evil", &["stall", "100", "4"]);
    stalled.says("begun");
    scene.holds("answers that nobody reads", true);
    let stalled = stalled.wait().expect(0);
    assert!(stalled.stdout.contains("open 100"), "{stalled}");

    // Heads that are too large, and of too many lines.
    let heads = scene.evil(&["heads"]);
    assert!(!heads.stdout.contains("200") && heads.stdout.matches("status").count() == 2, "{heads}");
    scene.told("limit_headers", "");

    // HTTP/2's own floods: resets are requests that went away, a head without an end ends its connection.
    for flood in ["resets", "head"] {
        let output = scene.evil(&["h2", flood, "20000"]);
        assert!(
            output.stdout.contains("sent") && (flood == "resets" || output.stdout.contains("ended")),
            "{flood}: {output}"
        );
        scene.holds(flood, true);
    }

    // Answers without an end, and answers that become far more than they are: they pass as they come.
    let line = reduced(16 * LINE, LINE);
    for (what, args, least) in [
        ("an endless line", &["fetch", "/endless"][..], line),
        ("an endless line of a model", &["model", "endless"], line),
        ("a bomb", &["fetch", "/bomb"], packed),
        ("a bomb of a model", &["model", "bomb"], packed),
    ] {
        let output = scene.evil(args);
        let read: usize = output.stdout.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(0);
        assert!(output.stdout.contains("status 200") && read >= least, "{what}: {read} of {least}: {output}");
        scene.holds(what, true);
    }
    // None of them was for nothing: what says no usage is counted at its estimate.
    let usage = world.bb(&["usage", "--json"]).expect(0);
    assert!(usage.stdout.contains("claude") || usage.stdout.contains("counted"), "{usage}");

    // Up: never held.
    let size = reduced(5 << 30, 200 << 20);
    let before = sunk.load(Ordering::Relaxed);
    let upload = scene.client("evil", &["upload", &size.to_string()]);
    scene.holds("a large upload", true);
    let output = upload.wait().expect(0);
    assert!(output.stdout.contains(&format!("sunk {size}")), "{output}");
    assert!(sunk.load(Ordering::Relaxed) - before >= size as u64);
    scene.holds("after it all", false);

    // Many connections, last: what comes right after them may still be too much.
    let crowd = scene.client("evil", &["many", "10000"]);
    scene.holds("ten thousand connections", false);
    let crowd = crowd.wait().expect(0);
    let most = crowd.stdout.split_whitespace().last().and_then(|word| word.parse::<u32>().ok());
    assert!(crowd.stdout.contains("tried 10000") && most.is_some_and(|most| most <= 256), "{crowd}");
    scene.told("limit_connections", "256 connections");

    assert!(good.seen().len() >= 11 * reduced(2000, 200), "{}", good.seen().len());
    for bottle in ["evil", "good"] {
        world.bb(&["kill", bottle]).expect(0);
    }
    world.assert_silent(&["sink.example", "api.anthropic.com", "good.example"]);
}

/// Has a bottle strain the plane in some ways, one after the other, and asserts what has to hold during each. A way is what is done,
/// what the client is told to do, and what it says in the end.
fn strains(ways: &[(&str, &[&str], &str)]) {
    if !have_tools(&["curl", "python3"]) {
        return;
    }
    let Some(world) = World::new() else { return };
    let script = script(Arc::new(bomb(1)), Arc::default());
    world.raw("sink.example", Arc::clone(&script));
    world.raw("api.anthropic.com", script);
    world.site("good.example", |_| Reply::text("pulse!"));
    let text: String = include_str!("hostile.py").bytes().map(|b| format!("\\{b:03}")).collect();
    let recipe = world.recipe("hostile.lua", &RECIPE.replace("SCRIPT", &format!("\"{text}\"")));
    world.command(&["run", "--grant", "all", &recipe]).env("REAL_KEY", "sk-real-key").run().expect(0);
    let mut scene = Scene { world: &world, quiet: 0, began: 0 };
    scene.evil(&["upload", "1000"]);
    scene.evil(&["model", "hello"]);
    scene.quiet = scene.pulse();
    scene.began = scene.resident("VmRSS");
    for (what, args, end) in ways {
        let client = scene.client("evil", args);
        client.says("begun");
        scene.holds(what, true);
        let output = client.wait().expect(0);
        assert!(output.stdout.contains(end), "{what}: {output}");
    }
    for bottle in ["evil", "good"] {
        world.bb(&["kill", bottle]).expect(0);
    }
    world.assert_silent(&["sink.example", "api.anthropic.com", "good.example"]);
}

#[test]
fn what_has_to_be_held_costs_the_controller_little_and_what_a_busy_agent_asks_is_answered() {
    strains(&[
        ("large bodies", &["bodies", "announced", "40", "16000000", "1"], "sent "),
        ("large bodies of no announced length", &["bodies", "chunked", "40", "16000000", "1"], "sent "),
        // Those that come before they are asked for.
        ("bodies that wait over HTTP/2", &["ahead", "200", "1"], "sent "),
        // The twin: more than the room at once, and each is answered.
        ("a busy agent", &["asks", "8", "6000000"], "answered 8 of 8"),
    ]);
}

#[test]
fn what_nobody_reads_costs_the_controller_little() {
    strains(&[
        ("answers over TLS that nobody reads", &["stall", "200", "1", "443"], "open 200"),
        ("streams of HTTP/2 that nobody reads", &["unread", "4", "128", "1"], "open 4"),
        ("streams of many connections that nobody reads", &["unread", "64", "4", "1"], "open 64"),
    ]);
}

//! Hostile clients and servers: what one bottle does to the plane costs the controller little and other bottles nothing.
//!
//! The sizes are reduced in the everyday check; the bound of memory is not. How long other bottles' requests take is asserted where
//! the machine is the test's own ([`scene`] says against what).

mod scene;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::{Compress, Compression, FlushCompress};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::engine::{Engine, Which, helper};
use crate::support::raw::{Asked, Script};
use crate::support::{Reply, Who, World, full, have_tools, reduced};
use scene::{On, PULSES, Scene};

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
    let scene = Scene::set(&world);

    // Slowly: heads, bodies and greetings, a byte at a time.
    let seconds = reduced(135, 12).to_string();
    let heads = scene.evil(&["slow", "head", "60", &seconds]);
    let bodies = scene.evil(&["slow", "body", "60", &seconds]);
    let greetings = scene.evil(&["slow", "greeting", "90", "20"]);
    for client in [&heads, &bodies, &greetings] {
        client.says("begun");
    }
    scene.goes_on("slow clients");
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
    let stalled = scene.strain("answers that nobody reads", &["stall", "100", "4"]);
    assert!(stalled.stdout.contains("open 100"), "{stalled}");

    // Heads that are too large, and of too many lines.
    let heads = scene.strain("heads that are too large", &["heads"]);
    assert!(!heads.stdout.contains("200") && heads.stdout.matches("status").count() == 2, "{heads}");
    scene.told("limit_headers", "");

    // HTTP/2's own floods: resets are requests that went away, a head without an end ends its connection.
    for flood in ["resets", "head"] {
        let output = scene.strain(flood, &["h2", flood, "20000"]);
        assert!(
            output.stdout.contains("sent") && (flood == "resets" || output.stdout.contains("ended")),
            "{flood}: {output}"
        );
    }

    // Answers without an end, and answers that become far more than they are: they pass as they come.
    let line = reduced(16 * LINE, LINE);
    for (what, args, least) in [
        ("an endless line", &["fetch", "/endless"][..], line),
        ("an endless line of a model", &["model", "endless"], line),
        ("a bomb", &["fetch", "/bomb"], packed),
        ("a bomb of a model", &["model", "bomb"], packed),
    ] {
        let output = scene.strain(what, args);
        let read: usize = output.stdout.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or(0);
        assert!(output.stdout.contains("status 200") && read >= least, "{what}: {read} of {least}: {output}");
    }
    // None of them was for nothing: what says no usage is counted at its estimate.
    let usage = world.bb(&["usage", "--json"]).expect(0);
    assert!(usage.stdout.contains("claude") || usage.stdout.contains("counted"), "{usage}");

    // Up: never held.
    let size = reduced(5 << 30, 200 << 20);
    let before = sunk.load(Ordering::Relaxed);
    let output = scene.strain_and_again("a large upload", &["upload", &size.to_string()], &["upload", "200000000"]);
    assert!(output.stdout.contains(&format!("sunk {size}")), "{output}");
    assert!(sunk.load(Ordering::Relaxed) - before >= size as u64);
    scene.goes_on("after it all");

    // Many connections, last: what comes right after them may still be too much.
    let crowd = scene.strain("ten thousand connections", &["many", "10000"]);
    let after = |word: &str| {
        let words = crowd.stdout.split_whitespace().skip_while(|said| *said != word);
        words.skip(1).find_map(|number| number.parse::<u32>().ok()).unwrap_or_else(|| panic!("{word}: {crowd}"))
    };
    assert!(after("tried") >= 10_000 && (1..=256).contains(&after("most")), "{crowd}");
    scene.told("limit_connections", "256 connections");

    assert!(good.seen().len() >= 11 * reduced(PULSES.0, PULSES.1), "{}", good.seen().len());
    scene.over();
}

/// A way to strain the plane: what is done, what the client is told to do, and what it says in the end.
type Way = (&'static str, &'static [&'static str], &'static str);

/// Puts up what a hostile bottle asks, and the innocent one.
fn sites(world: &World) {
    let script = script(Arc::new(bomb(64)), Arc::default());
    world.raw("sink.example", Arc::clone(&script));
    world.raw("api.anthropic.com", script);
    world.site("good.example", |_| Reply::text("pulse!"));
}

/// Has a bottle strain the plane in some ways, one after the other, and asserts what has to hold during each.
fn strain(scene: Scene<'_>, ways: &[Way]) {
    for (what, args, end) in ways {
        let output = scene.strain(what, args);
        assert!(output.stdout.contains(end), "{what}: {output}");
    }
    scene.over();
}

fn strains(ways: &[Way]) {
    if !have_tools(&["curl", "python3"]) {
        return;
    }
    let Some(world) = World::new() else { return };
    sites(&world);
    strain(Scene::set(&world), ways);
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

/// The kinds of strain once more, each as small as it can be one.
const SHORTLY: &[Way] = &[
    ("connections", &["many", "1000"], "tried "),
    ("answers that nobody reads", &["stall", "100", "1"], "open 100"),
    ("heads that are too large", &["heads"], "status 431"),
    ("resets", &["h2", "resets", "5000"], "sent "),
    ("an endless line of a model", &["model", "endless"], "status 200"),
    ("a bomb of a model", &["model", "bomb"], "status 200"),
    ("an upload", &["upload", "100000000"], "sunk 100000000"),
    ("large bodies", &["bodies", "announced", "40", "16000000", "1"], "sent "),
];

#[test]
fn an_ordinary_users_hostile_bottle_costs_its_controller_as_little() {
    if !have_tools(&["curl", "python3"]) {
        return;
    }
    let Some(world) = World::as_user() else { return };
    sites(&world);
    strain(Scene::for_its_memory(&world, On::default()), SHORTLY);
}

#[test]
fn a_hostile_container_costs_the_controller_as_little() {
    if !have_tools(&["curl", "python3", "ldd"]) {
        return;
    }
    let Some(world) = World::of(Who::Root) else { return };
    let Some(engine) = Engine::start(&world, Which::Docker) else { return };
    sites(&world);
    let options = format!("image = '{}'", engine.image_with_tools(&[]));
    let (address, helper) = (engine.address(), helper().unwrap().display().to_string());
    let env = [("BOT_BOTTLE_BACKEND", "docker"), ("DOCKER_HOST", &address), ("BB_HELPER", &helper)];
    strain(Scene::for_its_memory(&world, On { options: &options, env: &env }), SHORTLY);
    engine.assert_empty();
}

//! What much of it costs: a thousand idle bottles on one controller, 500 streams at once, a GiB each way, and a whole turn of a real
//! agent, each beside the same without bb, in one run.
//!
//!     cargo bench --bench scale             (`-- idle`, `-- streams`, `-- bulk`, `-- turn` for one of them)
//!
//! The turn needs Claude Code (`npm ci` in tests/agents, or on PATH); where there is none it is left out, by name.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bb::api::{Act, Exec, ExecFrame, Launch};
use bb::client::Client;
use bb::rehearse::{Rehearsal, Scenario};
use futures_util::StreamExt;
use memory::Memory;
use serde_json::json;
use support::{
    CHUNKS, FILES, connect, connect_as, head, launch_of, run_in_bottle, run_in_bottles, send, server, trusting,
};

#[path = "support/memory.rs"]
mod memory;
mod support;

/// Bottles that are up at once, and launches under way meanwhile.
const BOTTLES: usize = 1000;
const TOGETHER: usize = 16;

/// Streams at once, and the milliseconds between two chunks of each.
const STREAMS: usize = 500;
const PACE: u64 = 100;
/// Bottles that they come out of: one may have no more than 256 connections.
const SHARES: usize = 4;
/// How finely a client tells how long its chunks took.
const QUANTILES: usize = 1000;

/// Bytes each way.
const BULK: usize = 1 << 30;

/// Turns of the agent, each way, in turn.
const TURNS: usize = 12;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("client-streams") => return println!("{}", streams(&args[2], &read(&args[3]))),
        Some("client-bulk") => return println!("{}", bulk(&args[2], &read(&args[3]))),
        _ => {}
    }
    let wanted = |name: &str| {
        let named: Vec<_> = args.iter().skip(1).filter(|a| !a.starts_with('-')).collect();
        named.is_empty() || named.iter().any(|n| n.as_str() == name)
    };
    if wanted("streams") {
        streamed();
    }
    if wanted("bulk") {
        beside("client-bulk", bulk);
    }
    if wanted("turn") {
        turn();
    }
    if wanted("idle") {
        idle();
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(((values.len().max(1) - 1) as f64 * p) as usize).copied().unwrap_or(f64::NAN)
}

/// Processor time of a process so far. Unit: milliseconds.
fn processor_time(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // proc(5): utime and stime are the 14th and 15th field, in clock ticks of a hundredth of a second.
    [11, 12].iter().filter_map(|&n| fields.get(n)?.parse::<f64>().ok()).sum::<f64>() * 10.0
}

/// The same client directly and out of a bottle, and what the controller took for it.
fn beside(name: &str, client: fn(&str, &str) -> String) {
    let numbers =
        |text: &str| -> BTreeMap<String, f64> { serde_json::from_str(text.lines().last().unwrap_or("{}")).unwrap() };
    let (address, ca) = server();
    let direct = numbers(&client(&address, &ca));
    let (home, dir) = support::controller("scale");
    let (text, before, after) = run_in_bottle(&home, &launch_of(&address, &ca, &[name]), look);
    let caught = numbers(&text);
    let _ = std::fs::remove_dir_all(dir);
    table(direct.iter().map(|(what, &d)| (what.clone(), d, caught.get(what).copied().unwrap_or(f64::NAN))));
    println!("| processor time of the controller for both, ms | | {:.0} | |", after.0 - before.0);
    println!("| the controller grew by, KiB of private memory | | {} | |\n", after.1.saturating_sub(before.1));
}

/// Processor time and private memory of a process.
fn look(pid: u32) -> (f64, u64) {
    (processor_time(pid), Memory::of(pid).private)
}

fn table(rows: impl Iterator<Item = (String, f64, f64)>) {
    println!("| | direct | out of a bottle | times |\n| --- | --- | --- | --- |");
    for (what, direct, bottle) in rows {
        println!("| {what} | {direct:.1} | {bottle:.1} | {:.2} |", bottle / direct);
    }
}

/// Many streamed answers at once, out of several bottles, and as many clients without any.
fn streamed() {
    let (address, ca) = server();
    let quantiles = |texts: Vec<String>| -> Vec<f64> {
        texts
            .iter()
            .flat_map(|text| serde_json::from_str::<Vec<f64>>(text.lines().last().unwrap_or("")).unwrap())
            .collect()
    };
    let mut direct = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..SHARES).map(|_| scope.spawn(|| streams(&address, &ca))).collect();
        quantiles(clients.into_iter().map(|client| client.join().unwrap()).collect())
    });
    let (home, dir) = support::controller("scale");
    let launches: Vec<Launch> = (0..SHARES)
        .map(|n| Launch { id: format!("streams-{n}"), ..launch_of(&address, &ca, &["client-streams"]) })
        .collect();
    let (texts, before, after) = run_in_bottles(&home, &launches, look);
    let mut caught = quantiles(texts);
    let _ = std::fs::remove_dir_all(dir);
    table([0.5, 0.99].into_iter().map(|p| {
        let what = format!("a chunk of {STREAMS} streams out of {SHARES} bottles, us: p{}", p * 100.0);
        (what, percentile(&mut direct, p), percentile(&mut caught, p))
    }));
    let chunks = (STREAMS * CHUNKS) as f64;
    println!(
        "| processor time of the controller for 1,000 chunks, ms | | {:.2} | |",
        (after.0 - before.0) / chunks * 1e3
    );
    println!("| the controller grew by, KiB of private memory | | {} | |\n", after.1.saturating_sub(before.1));
}

/// One bottle's share of the streams: how long chunks were on their way, as quantiles. Microseconds.
fn streams(address: &str, ca: &str) -> String {
    let config = trusting(ca);
    let all: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let one = |number: usize| {
            // Not all at once: it is the streams that are measured.
            std::thread::sleep(Duration::from_millis((number * SHARES) as u64 * 4));
            let mut stream = connect(address, &config);
            send(&mut stream, support::HOST, Some(PACE));
            assert_eq!(head(&mut stream), None);
            let mut chunks = Vec::new();
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if let Some((_, rest)) = line.split_once("@@") {
                    let sent: u128 = rest.split_once("@@").unwrap().0.parse().unwrap();
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
                    chunks.push(now.saturating_sub(sent) as f64 / 1e3);
                }
                if line == "0\r\n" {
                    return chunks;
                }
            }
        };
        let threads = (0..STREAMS / SHARES).map(|number| {
            std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, move || one(number)).unwrap()
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut chunks = all.concat();
    assert_eq!(chunks.len(), STREAMS / SHARES * CHUNKS, "no chunk is lost");
    let quantiles: Vec<f64> = (0..=QUANTILES).map(|n| percentile(&mut chunks, n as f64 / QUANTILES as f64)).collect();
    serde_json::to_string(&quantiles).unwrap()
}

/// A lot of bytes each way. MiB a second.
fn bulk(address: &str, ca: &str) -> String {
    let config = trusting(ca);
    // In a bottle each name has an address of its own.
    let address = address.replace(support::HOST, FILES);
    let mut stream = connect_as(FILES, &address, &config);
    let mut block = vec![b'x'; 256 << 10];
    let rate = |start: Instant| (BULK >> 20) as f64 / start.elapsed().as_secs_f64();

    let start = Instant::now();
    write!(stream.get_mut(), "GET /bulk/{BULK} HTTP/1.1\r\nhost: {FILES}\r\n\r\n").unwrap();
    let mut left = head(&mut stream).unwrap();
    while left > 0 {
        let most = left.min(block.len());
        left -= stream.read(&mut block[..most]).unwrap();
    }
    let down = rate(start);

    let start = Instant::now();
    let out = stream.get_mut();
    write!(out, "POST /bulk HTTP/1.1\r\nhost: {FILES}\r\ncontent-length: {BULK}\r\n\r\n").unwrap();
    for _ in 0..BULK / block.len() {
        out.write_all(&block).unwrap();
    }
    out.flush().unwrap();
    assert_eq!(head(&mut stream), Some(0));
    let up = rate(start);
    let figures = [("1 GiB down, MiB/s".to_owned(), down), ("1 GiB up, MiB/s".to_owned(), up)];
    serde_json::to_string(&BTreeMap::from(figures)).unwrap()
}

/// A thousand bottles that do nothing, on one controller.
fn idle() {
    let (home, dir) = support::controller("scale-idle");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&home).await.unwrap().expect("a controller");
        let pid = client.version().await.unwrap().pid;
        let (before, known) = (Memory::of(pid), memory::processes());
        let start = Instant::now();
        let launch = |n: usize| {
            let client = client.clone();
            async move {
                let launch = Launch {
                    id: format!("idle-{n}"),
                    label: "idle".into(),
                    provider: "bench".into(),
                    argv: ["sleep", "3600"].map(str::to_owned).into(),
                    ..Launch::default()
                };
                client.launch(&launch).await.unwrap().slug
            }
        };
        let slugs: Vec<String> =
            futures_util::stream::iter((0..BOTTLES).map(launch)).buffer_unordered(TOGETHER).collect().await;
        let up = start.elapsed();
        let grown = Memory::of(pid).private.saturating_sub(before.private);
        let keeper = memory::of_all("__keeper", &known).unwrap();
        let quiet = processor_time(pid);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let quiet = processor_time(pid) - quiet;
        let start = Instant::now();
        let exec = Exec { id: "one".into(), argv: vec!["true".into()], ..Exec::default() };
        let mut frames = client.exec(&slugs[BOTTLES / 2], &exec).await.unwrap();
        let mut code = None;
        while let Some(frame) = frames.next().await {
            if let ExecFrame::Exit { code: exit_code, .. } = frame.unwrap() {
                code = Some(exit_code);
            }
        }
        let exec = start.elapsed();
        assert_eq!(code, Some(0));
        let start = Instant::now();
        futures_util::stream::iter(&slugs)
            .map(|slug| {
                let client = &client;
                async move { client.kill(slug, &Act::default()).await.unwrap() }
            })
            .buffer_unordered(TOGETHER)
            .collect::<Vec<_>>()
            .await;
        println!("| {BOTTLES} idle bottles on one controller | |\n| --- | --- |");
        println!("| until all were up, {TOGETHER} launches at a time | {:.1} s |", up.as_secs_f64());
        println!("| of the controller, private memory of each | {} KiB |", grown / BOTTLES as u64);
        println!(
            "| of keeper and what it forks ({} processes), private memory of each | {} KiB |",
            keeper.0, keeper.1.private
        );
        println!("| processor time of the controller in 10 s of idleness | {quiet:.0} ms |");
        println!("| `exec true` in one of them | {:.1} ms |", exec.as_secs_f64() * 1e3);
        println!("| until all were killed | {:.1} s |\n", start.elapsed().as_secs_f64());
        client.stop().await.unwrap();
    });
    let _ = std::fs::remove_dir_all(dir);
}

/// Where Claude Code is.
fn claude() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agents/node_modules/.bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(own).chain(std::env::split_paths(&path)).find(|dir| dir.join("claude").exists())
}

const RECIPE: &str = r#"--- @bb needs launch, write:WORKSPACE
local b = bb.launch{ provider = "claude", prompt = "Write hello.txt, then say that it is done.", workspace = "WORKSPACE",
  workspace_mode = "mount", output = "json", budget = "unlimited" }
bb.exit(b:wait().exit_code)
"#;

/// A whole turn of Claude Code against the same stand-in of its API, by itself and by `bb run`: answered at once, so that all
/// that is added shows; and answered at the pace of a model, as people see it.
fn turn() {
    let Some(bin) = claude() else { return println!("claude is not on this machine: no turn\n") };
    println!("| a whole turn of Claude Code, two requests, medians of {TURNS} | by itself | by `bb run` | more |");
    println!("| --- | --- | --- | --- |");
    let (text, quick) = ("word ".repeat(60), json!({}));
    let paced = json!({"delay_ms": 600, "chunk_ms": 20});
    for (what, pace) in [("answered at once", quick), ("answered as models answer, some 2 s each", paced)] {
        let mut turns =
            [json!({"text": text, "edit": {"path": "hello.txt", "content": "hello\n"}}), json!({"text": text})];
        for turn in &mut turns {
            turn.as_object_mut().unwrap().extend(pace.as_object().unwrap().clone());
        }
        turn_of(&bin, what, json!({"loop": true, "seed": 1, "turns": turns}));
    }
    println!();
}

fn turn_of(bin: &Path, what: &str, scenario: serde_json::Value) {
    let stand_in = Rehearsal::start(Scenario::from_value(scenario).unwrap()).unwrap();
    let (home, dir) = support::controller("turn");
    let ca = dir.join("stand-in.pem");
    std::fs::write(&ca, stand_in.ca_pem()).unwrap();
    let port = stand_in.address().port();
    let settings =
        format!("upstreams:\n  api.anthropic.com:\n    address: \"127.0.0.1:{port}\"\n    ca: {}\n", ca.display());
    std::fs::write(home.settings(), settings).unwrap();
    let work = std::env::temp_dir().join(format!("bb-bench-turn-{}-work", std::process::id()));
    let own = work.join("home");
    std::fs::create_dir_all(&own).unwrap();
    std::fs::create_dir_all(work.join("project")).unwrap();
    // As people's projects are; and where there is no repository, the guard of `.git` has the agent ask git a dozen times for one.
    let made = Command::new("git").args(["init", "-q"]).current_dir(work.join("project")).status();
    assert!(made.unwrap().success());
    std::fs::create_dir_all(dir.join("recipes")).unwrap();
    let recipe = dir.join("recipes/turn.lua");
    std::fs::write(&recipe, RECIPE.replace("WORKSPACE", &work.join("project").display().to_string())).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());

    let timed = |command: &mut Command| {
        let command = command.env("PATH", &path).env("ANTHROPIC_API_KEY", "sk-ant-bench").stdin(Stdio::null());
        let command = command.current_dir(work.join("project")).stdout(Stdio::null()).stderr(Stdio::piped());
        let start = Instant::now();
        let output = command.output().unwrap();
        let took = start.elapsed().as_secs_f64() * 1e3;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        took
    };
    let bare = || {
        // A bottle's home is new each time, too.
        let _ = std::fs::remove_dir_all(&own);
        std::fs::create_dir_all(own.join(".claude")).unwrap();
        std::fs::write(own.join(".claude.json"), r#"{"hasCompletedOnboarding":true}"#).unwrap();
        let mut command = Command::new("claude");
        command.args(["--dangerously-skip-permissions", "-p", "--output-format", "json", "--"]);
        command.arg("Write hello.txt, then say that it is done.").env("HOME", &own).env("IS_SANDBOX", "1");
        command.env("ANTHROPIC_BASE_URL", format!("https://localhost:{port}")).env("NODE_EXTRA_CA_CERTS", &ca);
        for quiet in ["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_TELEMETRY", "DISABLE_AUTOUPDATER"] {
            command.env(quiet, "1");
        }
        timed(&mut command)
    };
    let bottled = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bb"));
        timed(command.arg("run").arg(&recipe).env("BB_HOME", &dir).env_remove("XDG_RUNTIME_DIR"))
    };
    // Once each, so that what is made once is made.
    bare();
    bottled();
    let (mut without, mut with): (Vec<_>, Vec<_>) = (0..TURNS).map(|_| (bare(), bottled())).unzip();
    let asked = stand_in.stats().total;
    assert!(asked >= 4 * (TURNS as u64 + 1), "each turn asks twice: {asked}");
    let (a, b) = (percentile(&mut without, 0.5), percentile(&mut with, 0.5));
    println!("| {what} | {a:.0} ms | {b:.0} ms | {:+.1}% |", (b / a - 1.0) * 100.0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if let Ok(Some(client)) = Client::connect(&home).await {
            let _ = client.stop().await;
        }
    });
    let _ = (std::fs::remove_dir_all(dir), std::fs::remove_dir_all(work));
}

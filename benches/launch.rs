//! How long a bottle takes to start, on both backends, warm and cold, beside bare `bwrap` and `docker run`, in one run; what an idle one
//! takes of memory; and a hundred started together.
//!
//!     cargo bench --bench launch            (`-- 20` for another number of rounds)
//!
//! Everything runs `true` and is over when that has ended. *Cold*: no controller runs, and the executables (with Docker: the image's files
//! too) are not in the page cache as far as the kernel drops them on request. What the machine lacks is left out, by name; Docker's
//! daemon is started by hand, which needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bb::api::{Act, Launch};
use bb::client::Client;
use bb::home::Home;

#[path = "support/engine.rs"]
mod engine;
#[path = "support/memory.rs"]
mod memory;
mod support;

use engine::Engine;
use memory::Memory;

/// Rounds of what takes milliseconds; of what takes about a second; of cold ones.
const ROUNDS: usize = 60;
const LONG_ROUNDS: usize = 10;
const COLD_ROUNDS: usize = 5;

/// Idle bottles that are up at once when memory is measured, of each backend.
const IDLE: usize = 40;
const IDLE_CONTAINERS: usize = 5;

/// Bottles that are started together.
const TOGETHER: usize = 100;

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// What is launched: `argv`, by the embedded backend or in a container.
fn launch(id: String, argv: &[&str], engine: Option<&Engine>) -> Launch {
    Launch {
        id,
        label: "launch".into(),
        provider: "bench".into(),
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        backend: Some(if engine.is_some() { "docker" } else { "linux" }.to_owned()),
        image: engine.map(|_| engine::IMAGE.to_owned()),
        engine: engine.map(Engine::address),
        ..Launch::default()
    }
}

/// Launches `true`, and gets how long it took until it ran and until it had ended.
async fn one(client: &Client, id: String, engine: Option<&Engine>) -> (f64, f64) {
    let start = Instant::now();
    let bottle = client.launch(&launch(id, &["true"], engine)).await.unwrap();
    let running = since(start);
    let ended = client.wait(&bottle.slug, None).await.unwrap().unwrap();
    let whole = since(start);
    assert_eq!(ended.exit_code, Some(0), "{ended:?}");
    (running, whole)
}

/// The same with a controller that has to be started first.
fn cold(dir: &Path, home: &Home, runtime: &tokio::runtime::Runtime, id: String, engine: Option<&Engine>) -> (f64, f64) {
    runtime.block_on(async {
        if let Ok(Some(client)) = Client::connect(home).await {
            let process = client.version().await.map(|version| format!("/proc/{}", version.pid)).unwrap();
            client.stop().await.unwrap();
            while Path::new(&process).exists() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
    });
    forget(engine);
    let start = Instant::now();
    support::controller_at(dir.to_owned(), Some(engine::helper()));
    let started = since(start);
    let (running, whole) = runtime.block_on(async {
        let client = Client::connect(home).await.unwrap().expect("a controller");
        one(&client, id, engine).await
    });
    (started + running, started + whole)
}

/// Has the kernel drop what it can of the files that a launch reads.
fn forget(engine: Option<&Engine>) {
    drop_cached(Path::new(env!("CARGO_BIN_EXE_bb")));
    drop_cached(Path::new("/bin/true"));
    if let Some(engine) = engine {
        drop_cached(&engine::helper());
        engine.files(&mut |file| drop_cached(file));
    }
}

fn drop_cached(file: &Path) {
    if let Ok(file) = std::fs::File::open(file) {
        let _ = nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

/// Runs a command to its end and gets how long it took; `None` where it cannot be had or fails.
fn timed(command: &mut Command) -> Option<f64> {
    let start = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|s| s.success()).then(|| since(start))
}

fn bwrap() -> Option<f64> {
    let options = ["--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"];
    timed(Command::new("bwrap").args(options))
}

fn docker_run(engine: &Engine) -> Option<f64> {
    let options = ["run", "--rm", "--network", "none", engine::IMAGE, "true"];
    timed(Command::new("docker").env("DOCKER_HOST", engine.address()).args(options))
}

/// Prints a row: until the agent runs, until `true` has ended, and how many times the yardstick that is.
fn row(name: &str, all: Vec<(f64, f64)>, yardstick: Option<f64>) {
    let (running, whole): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let (Some(running), Some(whole)) = (median(running), median(whole)) else { return };
    let times = yardstick.map(|y| format!("{:.1}", whole / y)).unwrap_or_default();
    println!("| {name} | {running:.1} ms | {whole:.1} ms | {times} |");
}

/// Starts `n` bottles that sleep, and gets their names.
async fn idle(client: &Client, name: &str, n: usize, engine: Option<&Engine>) -> Vec<String> {
    let mut slugs = Vec::new();
    for n in 0..n {
        let launch = launch(format!("{name}-{n}"), &["sleep", "600"], engine);
        slugs.push(client.launch(&launch).await.unwrap().slug);
    }
    slugs
}

async fn end(client: &Client, slugs: Vec<String>) {
    for slug in slugs {
        client.kill(&slug, &Act::default()).await.unwrap();
    }
}

/// What idle bottles take, as rows of a table: of the controller, and of each kind of process of theirs.
async fn memory(client: &Client, name: &str, n: usize, engine: Option<&Engine>) -> Vec<String> {
    let pid = client.version().await.unwrap().pid;
    let (before, known) = (Memory::of(pid), memory::processes());
    let slugs = idle(client, name, n, engine).await;
    let grown = Memory::of(pid).private.saturating_sub(before.private) / n as u64;
    let mut rows = vec![format!("| {name}: controller | {grown} | | |")];
    for (kind, word) in memory::KINDS {
        if let Some((processes, each)) = memory::of_all(word, &known) {
            let kind = if processes == n { kind.to_owned() } else { format!("{kind}, {} of a bottle", processes / n) };
            rows.push(format!("| {name}: {kind} | {} | {} | {} |", each.private, each.shared, each.proportional));
        }
    }
    end(client, slugs).await;
    rows
}

fn main() {
    let rounds = std::env::args().find_map(|a| a.parse().ok()).unwrap_or(ROUNDS);
    let engine = Engine::start().map_err(|why| println!("backend `docker` is left out: {why}\n")).ok();
    let dir = std::env::temp_dir().join(format!("bb-bench-launch-{}", std::process::id()));
    let (home, dir) = support::controller_at(dir, Some(engine::helper()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = runtime.block_on(async { Client::connect(&home).await.unwrap().expect("a controller") });

    // In turn, so that whatever the machine does beside falls on all of them.
    let (mut warm, mut bare) = (Vec::new(), Vec::new());
    for n in 0..rounds {
        warm.push(runtime.block_on(one(&client, format!("warm-{n}"), None)));
        bare.extend(bwrap());
    }
    let (mut contained, mut docker, mut docker_cold) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(engine) = &engine {
        for n in 0..LONG_ROUNDS {
            contained.push(runtime.block_on(one(&client, format!("contained-{n}"), Some(engine))));
            docker.extend(docker_run(engine));
        }
    }
    println!("| | until it runs | until it has ended | times bare |");
    println!("| --- | --- | --- | --- |");
    let bare = median(bare);
    match bare {
        Some(bare) => println!("| bare `bwrap` | | {bare:.1} ms | 1 |"),
        None => println!("| `bwrap` is not on this machine | | | |"),
    }
    row("bottle", warm, bare);
    if engine.is_some() {
        let run = median(docker);
        match run {
            Some(run) => println!("| `docker run` | | {run:.1} ms | 1 |"),
            None => println!("| the `docker` command is not on this machine | | | |"),
        }
        row("bottle of backend `docker`", contained, run);
    }
    let all = (0..COLD_ROUNDS).map(|n| cold(&dir, &home, &runtime, format!("cold-{n}"), None)).collect();
    row("bottle, cold", all, bare);
    if let Some(engine) = &engine {
        let mut all = Vec::new();
        for n in 0..COLD_ROUNDS {
            all.push(cold(&dir, &home, &runtime, format!("contained-cold-{n}"), Some(engine)));
            forget(Some(engine));
            docker_cold.extend(docker_run(engine));
        }
        let run = median(docker_cold);
        if let Some(run) = run {
            println!("| `docker run`, cold | | {run:.1} ms | 1 |");
        }
        row("bottle of backend `docker`, cold", all, run);
    }

    runtime.block_on(async {
        let client = Client::connect(&home).await.unwrap().expect("a controller");
        let mut rows = memory(&client, "bottle", IDLE, None).await;
        if let Some(engine) = &engine {
            rows.extend(memory(&client, "bottle of backend `docker`", IDLE_CONTAINERS, Some(engine)).await);
        }
        let start = Instant::now();
        let launches = (0..TOGETHER).map(|n| {
            let client = client.clone();
            async move { client.launch(&launch(format!("together-{n}"), &["sleep", "600"], None)).await.unwrap().slug }
        });
        let up = futures_util::future::join_all(launches).await;
        println!("| {TOGETHER} bottles together, the last of them | {:.0} ms | | |\n", since(start));
        end(&client, up).await;

        println!("| idle, KiB a process | private | shared | its part (PSS) |");
        println!("| --- | --- | --- | --- |");
        rows.iter().for_each(|row| println!("{row}"));
        client.stop().await.unwrap();
    });
    let _ = std::fs::remove_dir_all(dir);
}

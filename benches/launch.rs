//! How long a bottle takes to start, against bare `bwrap`, in one run; and what an idle one takes of memory.
//!
//!     cargo bench --bench launch
//!
//! Both run `true` and are over when it has ended. The controller is warm. Without `bwrap` only the bottle is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::process::{Command, Stdio};
use std::time::Instant;

use bb::api::{Act, Launch};
use bb::client::Client;

mod support;

const ROUNDS: usize = 60;

/// Idle bottles that are up at once when memory is measured.
const IDLE: usize = 40;

/// Bottles that are started together.
const TOGETHER: usize = 100;

/// Memory of a process that it shares with nobody. Unit: KiB.
fn private(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    rollup.lines().filter(|l| l.starts_with("Private_")).map(field).sum()
}

/// The keepers of this user.
fn keepers() -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
    let is_keeper =
        |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0__keeper\0"));
    pids.filter(is_keeper).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (home, dir) = support::controller("launch");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (running, whole, in_controller, in_keeper, together) = runtime.block_on(async {
        let client = Client::connect(&home).await.unwrap().expect("a controller");
        let (mut running, mut whole) = (Vec::new(), Vec::new());
        for n in 0..ROUNDS {
            let launch = Launch {
                id: format!("launch-{n}"),
                label: "launch".into(),
                provider: "bench".into(),
                argv: vec!["true".into()],
                ..Launch::default()
            };
            let start = Instant::now();
            let bottle = client.launch(&launch).await.unwrap();
            running.push(start.elapsed().as_secs_f64() * 1e3);
            client.wait(&bottle.slug, None).await.unwrap();
            whole.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let pid = client.version().await.unwrap().pid;
        let before = private(pid);
        let mut idle = Vec::new();
        for n in 0..IDLE {
            let launch = Launch {
                id: format!("idle-{n}"),
                label: "idle".into(),
                provider: "bench".into(),
                argv: vec!["sleep".into(), "600".into()],
                ..Launch::default()
            };
            idle.push(client.launch(&launch).await.unwrap().slug);
        }
        let in_controller = private(pid).saturating_sub(before) / IDLE as u64;
        let held = keepers();
        let in_keeper = held.iter().map(|pid| private(*pid)).sum::<u64>() / held.len().max(1) as u64;
        for slug in idle {
            client.kill(&slug, &Act::default()).await.unwrap();
        }
        let start = Instant::now();
        let launches = (0..TOGETHER).map(|n| {
            let client = client.clone();
            async move {
                let launch = Launch {
                    id: format!("together-{n}"),
                    label: "together".into(),
                    provider: "bench".into(),
                    argv: vec!["sleep".into(), "600".into()],
                    ..Launch::default()
                };
                client.launch(&launch).await.unwrap().slug
            }
        });
        let up = futures_util::future::join_all(launches).await;
        let together = start.elapsed().as_secs_f64() * 1e3;
        for slug in up {
            client.kill(&slug, &Act::default()).await.unwrap();
        }
        client.stop().await.unwrap();
        (median(running), median(whole), in_controller, in_keeper, together)
    });
    println!("{TOGETHER} bottles at once, until the last agent runs  {together:>8.1} ms");
    println!("bottle, until the agent runs     {running:>8.2} ms");
    println!("bottle, until `true` has ended   {whole:>8.2} ms");
    let bwrap: Option<Vec<f64>> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            let done = Command::new("bwrap")
                .args(["--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            done.is_ok_and(|s| s.success()).then(|| start.elapsed().as_secs_f64() * 1e3)
        })
        .collect();
    match bwrap.map(median) {
        Some(bwrap) => println!("bare bwrap                       {bwrap:>8.2} ms   (bottle = {:.1}x)", whole / bwrap),
        None => println!("bare bwrap is not on this machine"),
    }
    println!(
        "an idle bottle, of {IDLE}: {in_controller} KiB in the controller, {in_keeper} KiB in its keeper (private)"
    );
    let _ = std::fs::remove_dir_all(dir);
}

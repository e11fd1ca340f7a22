//! What the egress plane costs: the same client against the same server, directly and out of a bottle, in one run.
//!
//!     cargo bench --bench plane             (`-- requests` for kept-alive requests alone, with the controller's processor time)
//!
//! Prints medians and 99th percentiles; docs/benchmarks.md says how to read them. The client is this executable itself,
//! run inside the bottle with `client` as its first argument.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use support::{HOST, Stream, connect, exchange, head, in_bottle, send, server, trusting};

mod support;

const WARM_UP: usize = 200;
const REQUESTS: usize = 3000;
const ALONE: usize = 10_000;
const CONNECTIONS: usize = 300;
const STREAMS: usize = 100;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == "client") {
        println!("{}", client(&args[2], &std::fs::read_to_string(&args[3]).unwrap()));
        return;
    }
    if args.get(1).is_some_and(|a| a == "client-requests") {
        return requests(&args[2], &std::fs::read_to_string(&args[3]).unwrap());
    }
    let (address, ca) = server();
    if args.get(1).is_some_and(|a| a == "requests") {
        return alone(&address, &ca);
    }
    let ca_file = std::env::temp_dir().join(format!("bb-bench-{}.pem", std::process::id()));
    std::fs::write(&ca_file, &ca).unwrap();
    let direct = numbers(&client(&address, &ca));
    let caught = numbers(&in_bottle(&address, &ca, &["client"]));
    println!("{:<34} {:>12} {:>12} {:>12}", "microseconds", "direct", "bottle", "added");
    for (what, d) in &direct {
        let b = caught.get(what).copied().unwrap_or(f64::NAN);
        println!("{what:<34} {d:>12.1} {b:>12.1} {:>12.1}", b - d);
    }
    let _ = std::fs::remove_file(ca_file);
}

/// Requests over one connection.
fn requests(address: &str, ca: &str) {
    let mut stream = connect(address, &trusting(ca));
    (0..ALONE).for_each(|_| exchange(&mut stream, HOST));
}

/// Prints what the controller's processor time for a request is: that depends little on what else the machine does.
fn alone(address: &str, ca: &str) {
    let (home, dir) = support::controller("plane");
    let launch = support::launch_of(address, ca, &["client-requests"]);
    let (_, before, after) = support::run_in_bottle(&home, &launch, processor_time);
    let _ = std::fs::remove_dir_all(dir);
    let each = |n: usize| (after[n] - before[n]) * 1e3 / ALONE as f64;
    println!(
        "a kept-alive request, {ALONE} of them: {:.0} us user, {:.0} us system in the controller",
        each(0),
        each(1)
    );
}

/// Processor time of a process so far, of its own and the kernel's for it. Unit: milliseconds.
fn processor_time(pid: u32) -> [f64; 2] {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // proc(5): utime and stime are the 14th and 15th field, in clock ticks of a hundredth of a second.
    [11, 12].map(|n| fields.get(n).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN) * 10.0)
}

fn numbers(text: &str) -> BTreeMap<String, f64> {
    serde_json::from_str(text.lines().last().unwrap_or("{}")).unwrap_or_default()
}

fn percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * p) as usize]
}

fn client(address: &str, ca: &str) -> String {
    let config = trusting(ca);
    let micros = |since: Instant| since.elapsed().as_secs_f64() * 1e6;
    let mut out = BTreeMap::new();

    let mut stream = connect(address, &config);
    for _ in 0..WARM_UP {
        exchange(&mut stream, HOST);
    }
    let mut keep_alive: Vec<f64> = (0..REQUESTS)
        .map(|_| {
            let start = Instant::now();
            exchange(&mut stream, HOST);
            micros(start)
        })
        .collect();
    out.insert("1 request, keep-alive: p50", percentile(&mut keep_alive, 0.5));
    out.insert("1 request, keep-alive: p99", percentile(&mut keep_alive, 0.99));

    let mut fresh: Vec<f64> = (0..CONNECTIONS)
        .map(|_| {
            let start = Instant::now();
            exchange(&mut connect(address, &config), HOST);
            micros(start)
        })
        .collect();
    out.insert("2 new connection + request: p50", percentile(&mut fresh, 0.5));
    out.insert("2 new connection + request: p99", percentile(&mut fresh, 0.99));

    let (mut first, mut chunks) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        streamed(&mut stream, 2, &mut first, &mut chunks);
    }
    out.insert("3 first SSE event: p50", percentile(&mut first, 0.5));
    out.insert("4 SSE chunk on its way: p50", percentile(&mut chunks, 0.5));
    out.insert("4 SSE chunk on its way: p99", percentile(&mut chunks, 0.99));

    let many = std::thread::scope(|scope| {
        let one = || {
            let (mut first, mut chunks) = (Vec::new(), Vec::new());
            streamed(&mut connect(address, &config), 20, &mut first, &mut chunks);
            chunks
        };
        let all: Vec<_> = (0..STREAMS).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let mut chunks = many.concat();
    out.insert("5 the same, 100 streams: p50", percentile(&mut chunks, 0.5));
    out.insert("5 the same, 100 streams: p99", percentile(&mut chunks, 0.99));
    serde_json::to_string(&out).unwrap()
}

/// Reads a streamed answer: how long its first event took, and each chunk on its way. Microseconds.
fn streamed(stream: &mut Stream, pace: u64, first: &mut Vec<f64>, chunks: &mut Vec<f64>) {
    let start = Instant::now();
    send(stream, HOST, Some(pace));
    assert_eq!(head(stream), None);
    let mut seen = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if line.starts_with("data:") && seen == 0 {
            first.push(start.elapsed().as_secs_f64() * 1e6);
            seen = 1;
        }
        if let Some((_, rest)) = line.split_once("@@") {
            let sent: u128 = rest.split_once("@@").unwrap().0.parse().unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
            chunks.push(now.saturating_sub(sent) as f64 / 1e3);
        }
        if line == "0\r\n" {
            stream.read_line(&mut line).unwrap();
            return;
        }
    }
}

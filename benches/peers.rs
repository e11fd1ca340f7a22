//! The egress plane beside other proxies that read TLS, with the same client and the same server: how long a request takes over one
//! kept connection, and requests a second and the slowest hundredth of them over 32.
//!
//!     cargo bench --bench peers
//!
//! bb meters each request and writes it to the ledger twice; the others pass it on. A peer takes part where it is there: `squid`
//! (with TLS) and `mitmdump` on PATH, and as `hudsucker` what `benches/hudsucker` builds. `.ci/full` brings all three.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use support::{HOST, connect, connect_through, exchange, in_bottle, server, trusting};

mod support;

const CONNECTIONS: usize = 32;
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(4);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == "load") {
        let got = measure(None, &args[2], &std::fs::read_to_string(&args[3]).unwrap());
        println!("{} {} {} {}", got.alone, got.alone_rate, got.rate, got.p99);
        return;
    }
    let (address, ca) = server();
    let dir = std::env::temp_dir().join(format!("bb-bench-peers-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let authority = Authority::new(&dir, &ca);
    let direct = measure(None, &address, &ca);
    let text = in_bottle(&address, &ca, &["load"]);
    let figures: Vec<f64> = text.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    let [alone, alone_rate, rate, p99] = figures[..] else { panic!("{text}") };
    let ours = Got { alone, alone_rate, rate, p99 };
    println!(
        "| | 1 connection: median, added | requests a second | 32 connections: requests a second | p99 | bb does so many times as many |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    let row = |name: &str, got: &Got| {
        let (added, times) = (got.alone - direct.alone, ours.rate / got.rate);
        let p99 = got.p99 / 1e3;
        println!(
            "| {name} | {:.0} us, {added:.0} us | {:.0} | {:.0} | {p99:.1} ms | {times:.2} |",
            got.alone, got.alone_rate, got.rate
        );
    };
    row("direct", &direct);
    row("bb", &ours);
    for (name, start) in [("hudsucker", hudsucker as Start), ("squid", squid), ("mitmproxy", mitmproxy)] {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let Some(child) = start(&authority, port) else {
            println!("| {name} | not here | | | | |");
            continue;
        };
        let mut child = Stopped(child);
        let proxy = format!("127.0.0.1:{port}");
        let begun = Instant::now();
        while TcpStream::connect(&proxy).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{name} does not listen");
            assert_eq!(child.0.try_wait().unwrap(), None, "{name} ended");
            std::thread::sleep(Duration::from_millis(50));
        }
        row(name, &measure(Some(&proxy), &address, &authority.pem));
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Starts a peer on a port, where it is there.
type Start = fn(&Authority, u16) -> Option<Child>;

/// What a way to the server is like.
struct Got {
    /// Microseconds from a request to its answer over one connection with nothing beside it, at the median.
    alone: f64,
    /// Answers a second there.
    alone_rate: f64,
    /// Answers a second over many connections at once.
    rate: f64,
    /// Microseconds from a request to its answer there, of which one in a hundred takes more.
    p99: f64,
}

fn measure(proxy: Option<&str>, address: &str, ca: &str) -> Got {
    let config = trusting(ca);
    // Sends requests for as long as that is to last; gets how long each one took.
    let one = |begun: Instant| -> Vec<f64> {
        let (mut stream, host) = match proxy {
            // The peers go where the request says.
            Some(proxy) => (connect_through(proxy, address, &config), address.replace("127.0.0.1", "localhost")),
            None => (connect(address, &config), HOST.to_owned()),
        };
        while begun.elapsed() < WARM_UP {
            exchange(&mut stream, &host);
        }
        let mut took = Vec::new();
        while begun.elapsed() < WARM_UP + MEASURED {
            let start = Instant::now();
            exchange(&mut stream, &host);
            took.push(start.elapsed().as_secs_f64() * 1e6);
        }
        took
    };
    let mut alone = one(Instant::now());
    alone.sort_by(f64::total_cmp);
    let begun = Instant::now();
    let mut together: Vec<f64> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(|| one(begun))).collect();
        all.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    together.sort_by(f64::total_cmp);
    let each_second = |all: &[f64]| all.len() as f64 / MEASURED.as_secs_f64();
    Got {
        alone: alone[alone.len() / 2],
        alone_rate: each_second(&alone),
        rate: each_second(&together),
        p99: together[together.len() * 99 / 100],
    }
}

/// What the peers sign their certificates with, in files, and what they are to trust.
struct Authority {
    dir: PathBuf,
    pem: String,
    cert: PathBuf,
    key: PathBuf,
    upstream: PathBuf,
}

impl Authority {
    fn new(dir: &Path, upstream: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "peers");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let (pem, key) = (issuer.pem(), issuer.key().serialize_pem());
        let file = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        // Where mitmproxy looks, both in one.
        file("mitmproxy-ca.pem", &format!("{key}{pem}"));
        Authority {
            dir: dir.to_owned(),
            cert: file("ca.crt", &pem),
            key: file("ca.key", &key),
            upstream: file("upstream.pem", upstream),
            pem,
        }
    }
}

/// Ends a peer with the benchmark.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program that may not be there.
fn started(command: &mut Command) -> Option<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

fn hudsucker(a: &Authority, port: u16) -> Option<Child> {
    started(Command::new("hudsucker").arg(port.to_string()).args([&a.cert, &a.key, &a.upstream]))
}

fn mitmproxy(a: &Authority, port: u16) -> Option<Child> {
    let set = |name: &str, value: &Path| format!("{name}={}", value.display());
    started(Command::new("mitmdump").args([
        "--quiet",
        "--listen-host",
        "127.0.0.1",
        "--listen-port",
        &port.to_string(),
        "--set",
        &set("confdir", &a.dir),
        "--set",
        &set("ssl_verify_upstream_trusted_ca", &a.upstream),
        // Otherwise it keeps every flow.
        "--set",
        "flow_detail=0",
    ]))
}

fn squid(a: &Authority, port: u16) -> Option<Child> {
    let dir = a.dir.display();
    let config = format!(
        "http_port 127.0.0.1:{port} ssl-bump tls-cert={} tls-key={} generate-host-certificates=on dynamic_cert_mem_cache_size=4MB\n\
         sslcrtd_program /usr/lib/squid/security_file_certgen -s {dir}/certs -M 4MB\nsslcrtd_children 4 startup=4 idle=4 queue-size=64\n\
         acl first at_step SslBump1\nssl_bump peek first\nssl_bump bump all\n\
         tls_outgoing_options cafile={}\n\
         http_access allow all\ncache deny all\naccess_log none\ncache_log {dir}/squid.log\npid_filename {dir}/squid.pid\n\
         coredump_dir {dir}\nnetdb_filename none\nhosts_file {dir}/hosts\n",
        a.cert.display(),
        a.key.display(),
        a.upstream.display(),
    );
    let file = a.dir.join("squid.conf");
    std::fs::write(&file, config).unwrap();
    // The server is there and nowhere else, whatever this machine calls `localhost`.
    std::fs::write(a.dir.join("hosts"), "127.0.0.1 localhost\n").unwrap();
    let mut certs = Command::new("/usr/lib/squid/security_file_certgen");
    certs.arg("-c").arg("-s").arg(a.dir.join("certs")).args(["-M", "4MB"]);
    certs.stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    // Started by root it becomes `proxy`, who has to be able to write here.
    Command::new("chown").arg("-R").arg("proxy").arg(&a.dir).stderr(Stdio::null()).status().ok()?;
    started(Command::new("squid").arg("-N").arg("-f").arg(file))
}

//! Whether work on files is as fast in a bottle as outside: a cargo build, and what an `npm ci` from its cache does to a disk.
//!
//!     cargo bench --bench workspace
//!
//! The same script outside, and in a bottle in each workspace mode, in turn, on a fresh directory each time; it measures
//! itself. Without `cargo` on PATH only the files are measured.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;

use bb::api::{Act, Launch, WorkspaceMode};
use bb::client::Client;

mod support;

/// Rounds where none are said (`-- 3`).
const ROUNDS: usize = 7;

/// Files of the package cache, of the sizes that such files have.
const FILES: usize = 4_000;

/// Modules of the crate.
const MODULES: usize = 150;

/// Unpacks the cache, looks at every file, reads every file: that is what `npm ci` and the first start do.
const UNPACK: &str = "mkdir node_modules && tar xf cache.tar -C node_modules && find node_modules -type f -newer cache.tar >/dev/null; \
    find node_modules -type f -print0 | xargs -0 cat | wc -c >/dev/null; rm -r node_modules/p1*";

const BUILD: &str = "cargo build --quiet --offline && touch src/main.rs && cargo build --quiet --offline";

/// Makes a directory with everything that the scripts need.
fn prepare(dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir.join("src")).unwrap();
    let mut main = String::new();
    for n in 0..MODULES {
        main.push_str(&format!("mod m{n};\n"));
        let functions: String = (0..20)
            .map(|f| format!("pub fn f{f}(x: u64) -> String {{ format!(\"{{x}} {{:?}}\", (x, {f})) }}\n"))
            .collect();
        std::fs::write(dir.join(format!("src/m{n}.rs")), functions).unwrap();
    }
    main.push_str("fn main() {\n");
    main.extend((0..MODULES).map(|n| format!("    println!(\"{{}}\", m{n}::f{}({n}));\n", n % 20)));
    main.push_str("}\n");
    std::fs::write(dir.join("src/main.rs"), main).unwrap();
    let manifest = "[package]\nname = \"load\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    std::fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    let packed = dir.join("packed");
    for n in 0..FILES {
        let package = packed.join(format!("p{}", n / 30)).join("lib");
        std::fs::create_dir_all(&package).unwrap();
        std::fs::write(package.join(format!("f{n}.js")), "x".repeat(200 + n * 37 % 6000)).unwrap();
    }
    let tar = Command::new("tar").args(["cf", "../cache.tar", "."]).current_dir(&packed).status().unwrap();
    assert!(tar.success());
    std::fs::remove_dir_all(packed).unwrap();
}

/// Has a script measure itself; the last word that it prints is its time in nanoseconds.
fn timed(script: &str) -> String {
    format!("a=$(date +%s%N); ({script}) || exit 9; b=$(date +%s%N); echo took $((b - a))")
}

fn took(text: &str) -> f64 {
    let nanos = text.split_once("took ").and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<f64>().ok());
    nanos.unwrap_or_else(|| panic!("it failed: {text}")) / 1e6
}

/// Gets a PATH on which cargo itself comes first, not what chooses among several.
fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let which = Command::new("rustup").args(["which", "cargo"]).output().ok().filter(|o| o.status.success());
    let dir =
        which.and_then(|o| Some(Path::new(String::from_utf8(o.stdout).ok()?.trim()).parent()?.display().to_string()));
    dir.map_or(path.clone(), |dir| format!("{dir}:{path}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn in_bottle(client: &Client, dir: &Path, mode: WorkspaceMode, script: &str, id: String) -> f64 {
    let launch = Launch {
        id,
        label: "files".into(),
        provider: "bench".into(),
        argv: vec!["sh".into(), "-c".into(), timed(script)],
        workspace: Some(dir.display().to_string()),
        workspace_mode: Some(mode),
        host_path: Some(path()),
        ..Launch::default()
    };
    let bottle = client.launch(&launch).await.unwrap();
    client.wait(&bottle.slug, None).await.unwrap();
    let mut said = String::new();
    let mut frames = client.logs(&bottle.slug, 0, false).await.unwrap();
    while let Some(frame) = frames.next().await {
        if let bb::api::ExecFrame::Output { text, .. } = frame.unwrap() {
            said.push_str(&text);
        }
    }
    client.remove(&bottle.slug, &Act::default()).await.unwrap();
    took(&said)
}

fn main() {
    let (home, dir) = support::controller("workspace");
    let work: PathBuf = std::env::temp_dir().join(format!("bb-bench-files-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rounds = std::env::args().find_map(|a| a.parse().ok()).unwrap_or(ROUNDS);
    // While somebody holds a lease the controller stays, however long the rounds outside take.
    let lease = runtime.block_on(async {
        let client = Client::connect(&home).await.unwrap().expect("a controller");
        client.hold_lease("bench").await.unwrap()
    });
    let modes = [WorkspaceMode::Mount, WorkspaceMode::Overlay, WorkspaceMode::Copy];
    for (name, script) in [("files as by `npm ci`", UNPACK), ("cargo build, twice", BUILD)] {
        if script == BUILD && !Command::new("cargo").arg("--version").output().is_ok_and(|o| o.status.success()) {
            println!("cargo is not on PATH");
            continue;
        }
        let (mut outside, mut inside) = (Vec::new(), vec![Vec::new(); modes.len()]);
        for round in 0..rounds {
            prepare(&work);
            let mut command = Command::new("sh");
            let command = command.args(["-c", &timed(script)]).current_dir(&work).env("PATH", path());
            let output = command.env_remove("RUSTC_WRAPPER").output().unwrap();
            outside.push(took(&String::from_utf8_lossy(&output.stdout)));
            for (mode, times) in modes.iter().zip(&mut inside) {
                prepare(&work);
                times.push(runtime.block_on(async {
                    let client = Client::connect(&home).await.unwrap().expect("a controller");
                    let id = format!("{}-{round}-{}", mode.as_str(), script.len());
                    in_bottle(&client, &work, *mode, script, id).await
                }));
            }
        }
        let outside = median(outside);
        println!("{name:<22} outside  {outside:>8.0} ms");
        for (mode, times) in modes.iter().zip(inside) {
            let inside = median(times);
            println!("{name:<22} {:<8} {inside:>8.0} ms   ({:+.1}%)", mode.as_str(), (inside / outside - 1.0) * 100.0);
        }
    }
    drop(lease);
    runtime.block_on(async { Client::connect(&home).await.unwrap().expect("a controller").stop().await.unwrap() });
    let _ = std::fs::remove_dir_all(dir);
    let _ = std::fs::remove_dir_all(work);
}

//! Whether work on files is as fast in a bottle as outside: a cargo build, an `npm ci` from files, bare work on small files,
//! and single system calls.
//!
//!     cargo bench --bench workspace            (`-- 9` for another number of rounds, `-- npm` for a part)
//!
//! The same work outside and in a bottle in each workspace mode, alternating, each time on a fresh directory; it measures itself: how
//! long it took, and how much processor time. The latter says what a bottle costs also where others use the machine. What counts is
//! the median of the ratios within a round. What is not on PATH (`cargo`, `npm`) is left out.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use bb::api::{Act, Launch, Mount, WorkspaceMode};
use bb::client::Client;
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

mod support;

/// Rounds where none are said.
const ROUNDS: usize = 8;

/// How long a run waits before it begins.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(300);

/// Packages, and files of each, of the sizes that such files have.
const PACKAGES: usize = 133;
const FILES: usize = 30;

/// Modules of the crate.
const MODULES: usize = 150;

/// Unpacks, looks at every file, reads every file, removes a third: nothing but system calls.
const UNPACK: &str = "mkdir unpacked && for p in packed/*.tgz; do tar xf $p -C unpacked --one-top-level=${p##*/}; done && \
    find unpacked -type f -newer package.json >/dev/null; find unpacked -type f -print0 | xargs -0 cat | wc -c >/dev/null; \
    rm -r unpacked/p1*";

const NPM: &str = "npm ci --offline --no-audit --no-fund --ignore-scripts --cache $PWD/.npm >/dev/null";

const BUILD: &str = "cargo build --quiet --offline && touch src/main.rs && cargo build --quiet --offline";

const WORK: [(&str, &str, &str); 3] =
    [("bare files", "tar", UNPACK), ("npm ci", "npm", NPM), ("cargo build, twice", "cargo", BUILD)];

const MODES: [WorkspaceMode; 3] = [WorkspaceMode::Mount, WorkspaceMode::Overlay, WorkspaceMode::Copy];

/// The order of the four places (0 is outside) in each round: within four rounds each comes once in each position, and once after each
/// other, so that what one leaves behind for the next is the same for all.
const ORDERS: [[usize; 4]; 4] = [[0, 1, 3, 2], [1, 2, 0, 3], [2, 3, 1, 0], [3, 0, 2, 1]];

/// What one run took, in milliseconds.
#[derive(Clone, Copy)]
struct Took {
    time: f64,
    processor: f64,
}

/// Makes a directory with everything that the work needs.
fn prepare(dir: &Path) {
    std::fs::create_dir_all(dir.join("src")).unwrap();
    let mut main = "#![allow(dead_code)]\n".to_owned();
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
    std::fs::create_dir_all(dir.join("packed")).unwrap();
    let (mut dependencies, mut locked) = (serde_json::Map::new(), serde_json::Map::new());
    for n in 0..PACKAGES {
        let (name, file) = (format!("p{n}"), format!("file:packed/p{n}.tgz"));
        let package = dir.join("package");
        std::fs::create_dir_all(package.join("lib")).unwrap();
        std::fs::write(package.join("package.json"), format!("{{\"name\":\"{name}\",\"version\":\"1.0.0\"}}")).unwrap();
        for f in 0..FILES {
            let length = 200 + (n * FILES + f) * 37 % 6000;
            std::fs::write(package.join(format!("lib/f{f}.js")), "x".repeat(length)).unwrap();
        }
        let place = format!("packed/{name}.tgz");
        let tar = Command::new("tar").args(["czf", &place, "package"]).current_dir(dir).status().unwrap();
        assert!(tar.success());
        std::fs::remove_dir_all(package).unwrap();
        locked.insert(format!("node_modules/{name}"), serde_json::json!({"version": "1.0.0", "resolved": file}));
        dependencies.insert(name, file.into());
    }
    let root = serde_json::json!({"name": "load", "version": "1.0.0", "dependencies": dependencies});
    std::fs::write(dir.join("package.json"), root.to_string()).unwrap();
    locked.insert(String::new(), root);
    let lock = serde_json::json!({"name": "load", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": locked});
    std::fs::write(dir.join("package-lock.json"), lock.to_string()).unwrap();
}

/// Makes a fresh copy of what was prepared, and waits until it is on the disk.
fn fresh(template: &Path, dir: &Path) {
    let _ = std::fs::remove_dir_all(dir);
    let copied = Command::new("cp").args(["-r", "--"]).args([template, dir]).status().unwrap();
    assert!(copied.success());
    let synced = Command::new("sync").arg("-f").arg(dir).status().unwrap();
    assert!(synced.success());
}

/// Gets the processor time that has been used. Unit: microseconds.
fn used(by: UsageWho) -> f64 {
    let used = getrusage(by).unwrap();
    (used.user_time() + used.system_time()).num_microseconds() as f64
}

/// This executable as what runs the work: says how long it took and how much processor time, and ends as it did.
fn measure(script: &str) -> ! {
    // What a launch still does when the bottle runs is the launch's, which another benchmark measures.
    std::thread::sleep(SETTLE);
    let start = Instant::now();
    let status = Command::new("sh").args(["-c", script]).env_remove("RUSTC_WRAPPER").status().unwrap();
    let time = start.elapsed().as_secs_f64() * 1e3;
    println!("took {time} {}", used(UsageWho::RUSAGE_CHILDREN) / 1e3);
    std::process::exit(status.code().unwrap_or(1));
}

/// The calls that [`calls`] counts, each over this many files.
const CALLS: [&str; 6] =
    ["create, write, close", "look at (stat)", "open, close", "open, read, close", "rename", "remove"];
const COUNTED: usize = 2_000;

/// This executable as what makes single calls: prints the microseconds of processor time of each.
fn calls(dir: &Path) -> ! {
    let name = |n: usize| dir.join(format!("made/d{}/f{n}", n / 50));
    let other = |n: usize| dir.join(format!("made/d{}/g{n}", n / 50));
    (0..=COUNTED / 50).for_each(|d| std::fs::create_dir_all(dir.join(format!("made/d{d}"))).unwrap());
    let text = vec![b'x'; 2000];
    let each: [&dyn Fn(usize); 6] = [
        &|n| std::fs::write(name(n), &text).unwrap(),
        &|n| assert!(std::fs::metadata(name(n)).unwrap().is_file()),
        &|n| drop(std::fs::File::open(name(n)).unwrap()),
        &|n| drop(std::fs::read(name(n)).unwrap()),
        &|n| std::fs::rename(name(n), other(n)).unwrap(),
        &|n| std::fs::remove_file(other(n)).unwrap(),
    ];
    let mut said = "took".to_owned();
    for call in each {
        let start = used(UsageWho::RUSAGE_SELF);
        (0..COUNTED).for_each(call);
        said.push_str(&format!(" {}", (used(UsageWho::RUSAGE_SELF) - start) / COUNTED as f64));
    }
    println!("{said}");
    std::process::exit(0);
}

fn took(text: &str) -> Vec<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("took "));
    let figures = line.map(|rest| rest.split_whitespace().map(|word| word.parse().unwrap()).collect());
    figures.unwrap_or_else(|| panic!("it failed: {text}"))
}

/// Gets a PATH on which cargo itself comes first, not what chooses among several.
fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let which = Command::new("rustup").args(["which", "cargo"]).output().ok().filter(|o| o.status.success());
    let dir =
        which.and_then(|o| Some(Path::new(String::from_utf8(o.stdout).ok()?.trim()).parent()?.display().to_string()));
    dir.map_or(path.clone(), |dir| format!("{dir}:{path}"))
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn in_bottle(client: &Client, dir: &Path, mode: WorkspaceMode, words: &[&str], id: String) -> Vec<f64> {
    let inside = "/bench";
    let exe = std::env::current_exe().unwrap().display().to_string();
    let launch = Launch {
        id,
        label: "files".into(),
        provider: "bench".into(),
        argv: [inside].iter().chain(words).map(|&word| word.to_owned()).collect(),
        mounts: vec![Mount { source: exe, target: Some(inside.into()), rw: false }],
        workspace: Some(dir.display().to_string()),
        workspace_mode: Some(mode),
        host_path: Some(path()),
        ..Launch::default()
    };
    let bottle = client.launch(&launch).await.unwrap();
    let ended = client.wait(&bottle.slug, None).await.unwrap().unwrap();
    let mut said = String::new();
    let mut frames = client.logs(&bottle.slug, 0, false).await.unwrap();
    while let Some(frame) = frames.next().await {
        if let bb::api::ExecFrame::Output { text, .. } = frame.unwrap() {
            said.push_str(&text);
        }
    }
    client.remove(&bottle.slug, &Act::default()).await.unwrap();
    assert_eq!(ended.exit_code, Some(0), "{said}");
    took(&said)
}

fn outside(dir: &Path, words: &[&str]) -> Vec<f64> {
    let exe = std::env::current_exe().unwrap();
    let output = Command::new(exe).args(words).current_dir(dir).env("PATH", path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    took(&format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// Puts a file system of its own below the benchmark, where that can be had: as root, ext4 with a journal, in a file. On one without a
/// journal the kernel takes no inode again that was freed within minutes, and looks at each before it makes a file: there, a run would be
/// slower the more files the runs before it have removed.
fn own_file_system(at: &Path) -> Option<PathBuf> {
    if !nix::unistd::geteuid().is_root() || nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_err() {
        return None;
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).ok()?;
    let image = at.with_extension("ext4");
    std::fs::File::create(&image).ok()?.set_len(6 << 30).ok()?;
    let done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    let mounted = done(Command::new("mkfs.ext4").args(options).arg(&image))
        && done(Command::new("mount").args(["-o", "loop"]).args([&image, at]));
    if !mounted {
        let _ = std::fs::remove_file(&image);
        return None;
    }
    std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755)).ok()?;
    Some(image)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["__measure", script] => measure(script),
        ["__calls"] => calls(Path::new(".")),
        _ => {}
    }
    let rounds: usize = args.iter().find_map(|a| a.parse().ok()).unwrap_or(ROUNDS);
    let base: PathBuf = std::env::temp_dir().join(format!("bb-bench-files-{}", std::process::id()));
    std::fs::create_dir_all(&base).unwrap();
    // Before there is a second thread, and before the controller, which is to see it.
    let image = own_file_system(&base);
    let (home, dir) = support::controller_at(base.join("home"), None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // While somebody holds a lease the controller stays, however long the rounds outside take.
    let lease = runtime.block_on(async {
        let client = Client::connect(&home).await.unwrap().expect("a controller");
        client.hold_lease("bench").await.unwrap()
    });
    let (template, work) = (base.join("template"), base.join("work"));
    prepare(&template);
    let round = |round: usize, words: &[&str]| -> Vec<Vec<f64>> {
        let mut figures = vec![Vec::new(); MODES.len() + 1];
        for place in ORDERS[round % ORDERS.len()] {
            if let Ok(only) = std::env::var("ONLY")
                && only != place.to_string()
            {
                figures[place] = vec![1.0, 1.0];
                continue;
            }
            fresh(&template, &work);
            figures[place] = match place.checked_sub(1).map(|n| MODES[n]) {
                None => outside(&work, words),
                Some(mode) => runtime.block_on(async {
                    let client = Client::connect(&home).await.unwrap().expect("a controller");
                    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
                    in_bottle(&client, &work, mode, words, format!("files-{}", since.as_nanos())).await
                }),
            };
        }
        figures
    };
    let place = if image.is_some() { "ext4 with a journal, of its own" } else { "that of the temporary directory" };
    println!("file system: {place}; {rounds} rounds; medians of the ratios within a round\n");
    println!("| | outside | {} |", MODES.map(|m| format!("`{}`", m.as_str())).join(" | "));
    println!("| --- | --- | --- | --- | --- |");
    let wanted = |name: &str| {
        let words: Vec<_> = args.iter().filter(|a| !a.starts_with('-') && a.parse::<usize>().is_err()).collect();
        words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
    };
    for (name, program, script) in WORK.into_iter().filter(|(name, ..)| wanted(name)) {
        if !Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success()) {
            println!("| {name}: `{program}` is not on PATH | | | | |");
            continue;
        }
        let all: Vec<Vec<Took>> = (0..rounds)
            .map(|n| round(n, &["__measure", script]))
            .map(|row| row.iter().map(|f| Took { time: f[0], processor: f[1] }).collect())
            .collect();
        for (what, of) in [("time", (|t: &Took| t.time) as fn(&Took) -> f64), ("processor time", |t| t.processor)] {
            print!("| {name}, {what} | {:.0} ms |", median(all.iter().map(|row| of(&row[0]))));
            for place in 1..=MODES.len() {
                let ratio = median(all.iter().map(|row| of(&row[place]) / of(&row[0])));
                print!(" {:+.1}% |", (ratio - 1.0) * 100.0);
            }
            println!();
        }
    }
    let counted = if wanted("calls") { rounds } else { 0 };
    let all: Vec<Vec<Vec<f64>>> = (0..counted).map(|n| round(n, &["__calls"])).collect();
    for (n, name) in CALLS.iter().enumerate().take(if counted > 0 { CALLS.len() } else { 0 }) {
        let of = |place: usize| median(all.iter().map(|row| row[place][n]));
        print!("| {name} | {:.1} us |", of(0));
        (1..=MODES.len()).for_each(|place| print!(" {:+.1} us |", of(place) - of(0)));
        println!();
    }
    drop(lease);
    runtime.block_on(async { Client::connect(&home).await.unwrap().expect("a controller").stop().await.unwrap() });
    if let Some(image) = image {
        let _ = nix::mount::umount2(&base, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_file(image);
    }
    let _ = std::fs::remove_dir_all(dir);
    let _ = std::fs::remove_dir_all(base);
}

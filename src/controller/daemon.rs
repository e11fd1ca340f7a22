//! The controller as a process: lock, daemon, log, socket, signals, and when it leaves.
//!
//! Everything that it serves lies in the modules beside this one; this file decides only about its own life.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use super::compose::Host;
use super::{Controller, http};
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::os::own_executable;
use crate::os::process::{Fork, fork_with};

/// How long a controller without bottles and without callers stays.
const IDLE: Duration = Duration::from_secs(60);

/// Variables that a controller keeps for the ones that keepers start after it.
const KEPT: [&str; 11] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TZ",
    "LANG",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "BB_HOME",
    "BB_HELPER",
    "XDG_RUNTIME_DIR",
];

/// How long the kernel may take to end a controller that was killed.
const DYING: Duration = Duration::from_secs(2);

/// The daemon's word for: another one serves. Exit codes are smaller.
const ANOTHER: u8 = 255;

/// Runs `bb __controller`: makes itself a daemon and returns in the first process once the daemon answers or has failed.
pub fn main() -> u8 {
    let home = match Home::from_env() {
        Ok(home) => home,
        Err(_) => return 2,
    };
    let Ok((mut told, tell)) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map(|(r, w)| (File::from(r), File::from(w)))
    else {
        return 1;
    };
    // SAFETY: no thread has been started yet.
    match unsafe { fork_with(0) } {
        Ok(Fork::Parent(_)) => {
            drop(tell);
            let mut word = [0u8; 1];
            // No word means that the daemon died before it could say one.
            match told.read_exact(&mut word).is_ok().then_some(word[0]) {
                Some(ANOTHER) => {
                    let pid = fs::read_to_string(home.lock()).unwrap_or_default();
                    let pid = pid.trim();
                    eprintln!("bb: a controller is up already (pid {pid}); `bb controller status` asks it");
                    0
                }
                Some(code) => code,
                None => 1,
            }
        }
        Ok(Fork::Child) => {
            drop(told);
            daemon(&home, tell)
        }
        Err(_) => 1,
    }
}

fn daemon(home: &Home, tell: File) -> u8 {
    let _ = nix::unistd::setsid();
    let _ = std::env::set_current_dir("/");
    let failure = home.root.join("run").join("controller.error");
    let fail = |error: &Error| {
        if let Ok(text) = serde_json::to_vec(error) {
            let _ = fs::write(&failure, text);
        }
        error.kind.exit_code()
    };
    let at = |place: PathBuf, e: std::io::Error| {
        Error::new(Kind::FsUnsupported, format!("cannot be opened: {e}"))
            .at(place.display().to_string())
            .hint("make it writable for you, or set BB_HOME to a directory that is")
    };
    let log = match own_streams(home) {
        Ok(log) => log,
        Err(e) => return fail(&at(home.log(), e)),
    };
    let lock = match take_lock(home) {
        Ok(Some(lock)) => lock,
        // Somebody else was faster, and serves.
        Ok(None) => {
            let _ = (&tell).write_all(&[ANOTHER]);
            return 0;
        }
        Err(e) => return fail(&at(home.lock(), e)),
    };
    let home_lock = match take_home(home) {
        Ok(Some(lock)) => lock,
        Ok(None) => return fail(&elsewhere(home)),
        Err(e) => return fail(&at(home.home_lock(), e)),
    };
    set_bounds();
    crate::os::memory::give_back_large_blocks();
    let _ = fs::remove_file(home.stopped());
    let filter = std::env::var("BB_LOG").unwrap_or_else(|_| "info".to_owned());
    tracing_subscriber::fmt().with_ansi(false).with_env_filter(filter).with_writer(log).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(workers()).build() {
        Ok(runtime) => runtime,
        Err(_) => return 1,
    };
    let result = runtime.block_on(serve(home, tell));
    runtime.shutdown_timeout(Duration::from_secs(2));
    drop((home_lock, lock));
    match result {
        Ok(()) => {
            let _ = fs::remove_file(&failure);
            0
        }
        Err(error) => {
            tracing::error!("{error}");
            fail(&error)
        }
    }
}

/// Takes as many descriptors as there may be: bottles need a dozen each, and one for every connection. Leaves no core, in which
/// credentials would lie; the keepers inherit that.
fn set_bounds() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8))
}

/// Standard input from nowhere, output and errors into the log: a daemon that kept its caller's would hold every
/// `$(bb ps)` open.
fn own_streams(home: &Home) -> std::io::Result<File> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(home.log())?;
    if log.metadata()?.len() > 16 << 20 {
        log.set_len(0)?;
    }
    let null = File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&log)?;
    nix::unistd::dup2_stderr(&log)?;
    Ok(log)
}

/// Takes the lock for this process's life, or `None` when a controller holds it.
fn take_lock(home: &Home) -> std::io::Result<Option<File>> {
    take(&home.lock(), b"")
}

/// Takes the home itself: two controllers whose sockets are in different places would not see each other, and would end each other's
/// bottles.
fn take_home(home: &Home) -> std::io::Result<Option<File>> {
    let place = home.runtime.as_os_str().as_encoded_bytes();
    let more = [b"\n", place].concat();
    // One that was killed lets go of its locks one after the other.
    let until = Instant::now() + DYING;
    loop {
        match take(&home.home_lock(), &more)? {
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            taken => return Ok(taken),
        }
    }
}

/// The error where a controller has the home that this one cannot reach.
fn elsewhere(home: &Home) -> Error {
    let held = fs::read_to_string(home.home_lock()).unwrap_or_default();
    let (pid, place) = held.split_once('\n').unwrap_or((&held, ""));
    Error::new(
        Kind::ControllerSilent,
        format!("another controller (pid {pid}) has this home, with its sockets in {place}"),
    )
    .at(home.home_lock().display().to_string())
    .hint("set XDG_RUNTIME_DIR as that one has it, or end it; bottles go on running")
}

fn take(path: &Path, more: &[u8]) -> std::io::Result<Option<File>> {
    let mut lock = OpenOptions::new().create(true).truncate(false).write(true).read(true).mode(0o600).open(path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    lock.set_len(0)?;
    lock.write_all(&[std::process::id().to_string().as_bytes(), more].concat())?;
    Ok(Some(lock))
}

/// Opens the ledgers, takes up the bottles that live, and serves until it is time to go.
async fn serve(home: &Home, tell: File) -> Result<()> {
    let host = Host {
        home: home.clone(),
        user_home: std::env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from),
        exe: own_executable(),
        path: std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned()),
        controller_env: KEPT.iter().filter_map(|k| std::env::var(k).ok().map(|v| format!("{k}={v}"))).collect(),
    };
    let controller = Controller::open(host).await?;
    let listener = bind(home)?;
    tracing::info!(pid = std::process::id(), home = %home.root.display(), "controller up");
    let adopting = tokio::spawn(Arc::clone(&controller).adopt_all());
    let served = tokio::spawn(http::serve(Arc::clone(&controller), listener));
    // Callers are answered from here on; adoption holds back the calls that must see it done.
    let _ = (&tell).write_all(&[0]);
    drop(tell);
    let _ = adopting.await;

    let on = |kind| signal(kind).map_err(|e| Error::internal(format!("signals: {e}")));
    let (mut term, mut int, mut hup) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
    tokio::select! {
        _ = term.recv() => tracing::info!("asked to stop by a signal"),
        _ = int.recv() => tracing::info!("interrupted"),
        _ = hup.recv() => tracing::info!("hung up"),
        () = controller.stopped() => tracing::info!("asked to stop"),
        () = idle(&controller) => tracing::info!("idle, leaving"),
    }
    let _ = fs::remove_file(home.socket());
    served.abort();
    controller.close().await;
    tracing::info!("controller down");
    Ok(())
}

/// Binds the socket; a stale one is removed, since the lock is ours.
fn bind(home: &Home) -> Result<UnixListener> {
    let path = home.socket();
    let _ = fs::remove_file(&path);
    let fail = |e: std::io::Error| {
        Error::new(Kind::ControllerSilent, format!("cannot listen: {e}")).at(path.display().to_string())
    };
    let listener = UnixListener::bind(&path).map_err(fail)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// Returns when nothing has needed the controller for a while.
async fn idle(controller: &Controller) {
    let patience =
        std::env::var("BB_CONTROLLER_IDLE_MS").ok().and_then(|ms| ms.parse().ok()).map_or(IDLE, Duration::from_millis);
    let mut since = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(patience / 4).await;
        if controller.is_needed() {
            since = tokio::time::Instant::now();
        } else if since.elapsed() >= patience {
            return;
        }
    }
}

//! Finding a controller, starting one, and saying what is wrong with one that does not answer.
//!
//! The new process shares nothing with the front end that happened to start it: own session, no inherited descriptor
//! (else every `$(bb ps)` would hang on it), a small environment without the caller's secrets.

use std::fs::{self, File, TryLockError};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::wire::{self, Failure, Request};
use crate::api::{API_MAJOR, Version};
use crate::error::{Error, Kind, Result};
use crate::home::Home;

/// How long a controller may take to come up. A machine whose disk is busy takes seconds to make a ledger.
const UP_WITHIN: Duration = Duration::from_secs(20);

/// How long a running one may take to say its version.
const ANSWERS_WITHIN: Duration = Duration::from_secs(8);

/// How often one is started that dies without a word.
const MOST_STARTS: u32 = 5;

/// Variables of the front end that a controller may see; everything else could be a secret that it would keep in its
/// environment for days.
const PASSED_ON: [&str; 10] =
    ["PATH", "HOME", "USER", "LOGNAME", "TZ", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "BB_LOG", "BB_HELPER"];

/// What makes another version of a controller out of one that runs.
const RESTART: &str = "run `bb controller restart`; bottles go on running";

/// Asks the controller for its version.
pub(super) async fn probe(home: &Home) -> std::result::Result<Version, Failure> {
    let body = wire::answer(home.socket(), &Request::get("/v1/version").within(ANSWERS_WITHIN)).await?;
    serde_json::from_slice(&body)
        .map_err(|e| Failure::Answer(Error::internal(format!("not a controller's version: {e}"))))
}

/// Checks that front end and controller speak the same API.
pub(super) fn check_major(version: &Version) -> Result<()> {
    if version.api == API_MAJOR {
        return Ok(());
    }
    Err(Error::new(
        Kind::ControllerVersion,
        format!(
            "this bb {} speaks API {API_MAJOR}, the running controller (bb {}, pid {}) speaks API {}",
            env!("CARGO_PKG_VERSION"),
            version.version,
            version.pid,
            version.api
        ),
    )
    .hint(RESTART))
}

/// What is wrong with a controller that refuses a key because it is older than this front end.
pub(super) fn older(refusal: &Error) -> Error {
    let message = format!(
        "the running controller is older than this bb {} and does not know all that was asked for: {}",
        env!("CARGO_PKG_VERSION"),
        refusal.message
    );
    Error::new(Kind::ControllerVersion, message).hint(RESTART)
}

/// Makes sure that a controller answers, starting one if need be.
pub(super) async fn ensure(home: &Home) -> Result<Version> {
    let deadline = Instant::now() + UP_WITHIN;
    let mut started: Option<Started> = None;
    let mut spawned = 0;
    let mut pause = Duration::from_millis(2);
    loop {
        match probe(home).await {
            Ok(version) => {
                check_major(&version)?;
                if let Some(started) = started {
                    started.leave();
                }
                return Ok(version);
            }
            Err(Failure::TimedOut) => return Err(silent(home)),
            Err(Failure::Answer(error)) => return Err(error),
            Err(Failure::Unreachable(_) | Failure::Broken(_)) => {}
        }
        // One that ended lost the race for the lock against another one, or could not start at all.
        let gone = started.as_mut().is_none_or(Started::has_ended);
        if gone && !lock_is_held(home) {
            // One that died without a word was killed, or crashed: that may be better the next time.
            match started.as_ref().and_then(|s| s.reason(home)) {
                Some(Reason::Said(error)) => return Err(error),
                Some(Reason::Silent) if spawned >= MOST_STARTS => return Err(did_not_start(home)),
                _ => {}
            }
            spawned += 1;
            started = Some(Started::spawn(home)?);
        }
        if Instant::now() >= deadline {
            let error = if lock_is_held(home) { silent(home) } else { did_not_start(home) };
            if let Some(started) = started {
                started.leave();
            }
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Why a controller did not come up.
enum Reason {
    /// It said why.
    Said(Error),
    /// It died before it could.
    Silent,
}

/// A controller process that was just started.
struct Started {
    child: Child,
    at: SystemTime,
    status: Option<std::process::ExitStatus>,
}

impl Started {
    fn spawn(home: &Home) -> Result<Self> {
        let failed = |e: std::io::Error| {
            Error::internal(format!("the controller's process cannot be started: {e}")).hint("run `bb doctor`")
        };
        let mut command = Command::new(crate::os::own_executable());
        command.arg("__controller").current_dir("/").env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("BB_HOME", &home.root);
        if !home.runtime.starts_with(&home.root)
            && let Some(xdg) = home.runtime.parent().and_then(|bb| bb.parent())
        {
            command.env("XDG_RUNTIME_DIR", xdg);
        }
        // SAFETY: between fork and exec only async-signal-safe system calls are made; nothing allocates or locks.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid().map_err(std::io::Error::from)?;
                // Descriptors that the caller's own parent left open must not live on in a daemon. They close at exec,
                // so the pipe by which a failing exec is reported still works.
                crate::os::process::close_at_exec();
                Ok(())
            });
        }
        let at = SystemTime::now();
        Ok(Started { child: command.spawn().map_err(failed)?, at, status: None })
    }

    fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status.is_some()
    }

    /// Gets why it ended, if it failed: from the file that a controller leaves when it cannot start.
    fn reason(&self, home: &Home) -> Option<Reason> {
        if self.status.is_none_or(|s| s.success()) {
            return None;
        }
        let left = home.root.join("run").join("controller.error");
        let fresh = fs::metadata(&left).and_then(|m| m.modified()).is_ok_and(|m| m + Duration::from_secs(1) >= self.at);
        let told = fresh.then(|| fs::read(&left).ok()).flatten().and_then(|text| serde_json::from_slice(&text).ok());
        Some(told.map_or(Reason::Silent, Reason::Said))
    }

    /// Lets it live on; a thread collects its exit status, so that a front end which stays leaves no zombie.
    fn leave(mut self) {
        if self.status.is_none() {
            std::thread::spawn(move || self.child.wait());
        }
    }
}

/// Tells whether a process holds the controller's lock.
pub(super) fn lock_is_held(home: &Home) -> bool {
    let Ok(file) = File::open(home.lock()) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// The error about a controller that lives but does not answer.
pub(super) fn silent(home: &Home) -> Error {
    let pid = fs::read_to_string(home.lock()).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let who = pid.map_or_else(|| "the controller".to_owned(), |pid| format!("the controller (pid {pid})"));
    Error::new(Kind::ControllerSilent, format!("{who} holds the lock but does not answer"))
        .at(home.socket().display().to_string())
        .hint("run `bb controller stop --force`, then try again; bottles go on running")
}

fn did_not_start(home: &Home) -> Error {
    let log = fs::read_to_string(home.log()).unwrap_or_default();
    let last = log.lines().next_back().map_or_else(String::new, |l| format!(": {}", l.trim()));
    Error::new(Kind::ControllerSilent, format!("the controller did not start{last}"))
        .at(home.log().display().to_string())
        .hint("run `bb doctor`")
}

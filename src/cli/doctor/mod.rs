//! `bb doctor`: can this machine run a bottle, and if not, why and what to do.
//!
//! Each check really tries what a launch would need. Nothing is changed but that a controller runs afterwards, that a
//! container engine has got an empty image, and that the best backend is remembered.

use std::path::Path;

use serde_json::json;

use crate::bottle::backend::Choice;
use crate::client::Client;
use crate::controller::ledger_error;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::ledger::Ledger;
use crate::ledger::sqlite::{Options, SqliteLedger};
use crate::settings::Settings;
use crate::yaml::read::joined;

use super::out;

mod bottle;
mod engine;
mod logins;

/// Less free space than this is worth a warning: ledgers, logs and scratch workspaces share it. Unit: bytes.
const LITTLE_SPACE: u64 = 512 << 20;

/// Find out whether this machine can run bottles, by trying; exit code 0 or 5.
///
/// With --json one object a line, {"v": 1, "type": "check", "name", "level": "ok"|"warn"|"error", "message", "hint"?},
/// and at the end {"v": 1, "type": "result", "ok", "errors", "warnings"}.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write NDJSON on stdout
    #[arg(long)]
    pub json: bool,
    /// Print the commands that would help, and nothing else, on stdout; none of them is run
    #[arg(long, conflicts_with = "json")]
    pub fix: bool,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    /// Bottles run, but something that may be wanted does not work.
    Warn,
    /// Bottles cannot run.
    Error,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    level: Level,
    message: String,
    hint: Option<String>,
}

impl Check {
    fn ok(name: &'static str, message: impl Into<String>) -> Check {
        Check { name, level: Level::Ok, message: message.into(), hint: None }
    }

    fn failed(name: &'static str, error: &Error) -> Check {
        let place = error.place.as_ref().map(|p| format!(" ({p})")).unwrap_or_default();
        Check { name, level: Level::Error, message: format!("{}{place}", error.message), hint: error.hint.clone() }
    }

    fn warn(name: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Check {
        Check { name, level: Level::Warn, message: message.into(), hint: Some(hint.into()) }
    }

    /// Makes a warning of an error.
    fn into_warning(mut self) -> Check {
        if self.level == Level::Error {
            self.level = Level::Warn;
        }
        self
    }

    /// Gets the command of the hint, where it has one.
    fn command(&self) -> Option<&str> {
        let hint = self.hint.as_deref().filter(|_| self.level != Level::Ok)?;
        hint.strip_prefix("run: ").or_else(|| hint.find("npm install -g").map(|at| &hint[at..]))
    }

    fn rendered(&self, colour: bool) -> String {
        let code = match self.level {
            Level::Ok => "32",
            Level::Warn => "33",
            Level::Error => "31",
        };
        let word = format!("{:<5}", self.level.as_str());
        let word = if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word };
        let safe = |text: &str| crate::printable::printable(text, false).replace('\n', "\n         ");
        let mut text = format!("{word}  {:<20}  {}", self.name, safe(&self.message));
        if let Some(hint) = &self.hint {
            text.push_str(&format!("\n         hint: {}", safe(hint)));
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let mut line = json!({
            "v": 1, "type": "check", "name": self.name, "level": self.level.as_str(), "message": self.message,
        });
        if let Some(hint) = &self.hint {
            line["hint"] = hint.as_str().into();
        }
        line
    }
}

/// Prints checks as they are made and counts them.
struct Sheet {
    json: bool,
    /// Only commands are wanted.
    fix: bool,
    colour: bool,
    errors: usize,
    warnings: usize,
}

impl Sheet {
    fn add(&mut self, check: &Check) -> Result<()> {
        match check.level {
            Level::Ok => {}
            Level::Warn => self.warnings += 1,
            Level::Error => self.errors += 1,
        }
        match (self.json, self.fix) {
            (true, _) => out::json(&check.json()),
            (_, true) => check.command().map_or(Ok(()), out::print),
            _ => out::print(&check.rendered(self.colour)),
        }
    }

    fn close(&self) -> Result<u8> {
        let ok = self.errors == 0;
        if self.json {
            let (errors, warnings) = (self.errors, self.warnings);
            out::json(&json!({"v": 1, "type": "result", "ok": ok, "errors": errors, "warnings": warnings}))?;
        } else if ok {
            out::note("this machine can run bottles");
        } else {
            out::note("this machine cannot run bottles yet; do what the hints say and run `bb doctor` again");
        }
        Ok(self.code())
    }

    fn code(&self) -> u8 {
        if self.errors == 0 { 0 } else { Kind::BackendUnavailable.exit_code() }
    }
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(work(args))
}

async fn work(args: Args) -> Result<u8> {
    let mut sheet = Sheet { json: args.json, fix: args.fix, colour: out::colour(), errors: 0, warnings: 0 };
    sheet.add(&system())?;
    sheet.add(&clock())?;
    sheet.add(&trust())?;
    sheet.add(&landlock())?;
    match Home::from_env() {
        Ok(home) => {
            sheet.add(&space(&home))?;
            sheet.add(&settings(&home))?;
            for check in logins::checks(&home, &|name| std::env::var(name).ok()) {
                sheet.add(&check)?;
            }
            sheet.add(&ledger(&home).await)?;
            sheet.add(&controller(&home).await)?;
        }
        Err(error) => sheet.add(&Check::failed("home", &error))?,
    }
    // Without the embedded backend bottles can run all the same: whether what it lacks is an error is known when the
    // engines have been tried.
    let mut held: Vec<Check> = Vec::new();
    let embedded = bottle::checks(async |check: Check| {
        if held.is_empty() && check.level != Level::Error {
            return sheet.add(&check);
        }
        held.push(check);
        Ok(())
    })
    .await?;
    let mut tried: Vec<Check> = Vec::new();
    let engine = engine::checks(async |check: Check| {
        tried.push(check);
        Ok(())
    })
    .await?;
    for check in held {
        sheet.add(&if engine { check.into_warning() } else { check })?;
    }
    for check in &tried {
        sheet.add(check)?;
    }
    if let Ok(home) = Home::from_env() {
        let named = Settings::load(&home).ok().and_then(|settings| settings.backend);
        sheet.add(&backend(&home, named.as_deref(), embedded, engine))?;
    }
    sheet.close()
}

/// Says which backend bottles get where nothing else says so, and remembers it. `named` is what the settings say.
fn backend(home: &Home, named: Option<&str>, embedded: bool, engine: bool) -> Check {
    let best = match (embedded, engine) {
        (true, _) => Choice::Linux,
        (false, true) => Choice::Docker,
        (false, false) => {
            let _ = std::fs::remove_file(home.best_backend());
            return Check::warn("backend", "none works here", "do what the hints above say");
        }
    };
    match std::fs::write(home.best_backend(), format!("{}\n", best.as_str())) {
        Ok(()) if named.is_some_and(|named| Choice::parse(named).is_ok_and(|named| named != best)) => {
            let (named, best) = (named.unwrap_or_default(), best.as_str());
            let works = if named == Choice::Linux.as_str() { embedded } else { engine };
            let message = format!("{named}, as the settings say");
            if works {
                return Check::ok("backend", message);
            }
            let error = Error::new(Kind::BackendUnavailable, format!("{message}; it does not work here, {best} does"));
            Check::failed(
                "backend",
                &error.hint(format!("write `backend: {best}` in settings.yml, or take the line out")),
            )
        }
        Ok(()) => Check::ok("backend", format!("{}: for bottles of which nothing says another", best.as_str())),
        Err(e) => {
            Check::failed("backend", &Error::internal(e.to_string()).at(home.best_backend().display().to_string()))
        }
    }
}

/// Says what machine this is.
fn system() -> Check {
    let name = nix::sys::utsname::uname();
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (kernel, release, machine) = match &name {
        Ok(name) => (text(Some(name.sysname())), text(Some(name.release())), text(Some(name.machine()))),
        Err(_) => Default::default(),
    };
    let user = if nix::unistd::geteuid().is_root() { "root" } else { "an ordinary user" };
    Check::ok("system", format!("{kernel} {release}, {machine}, as {user}"))
}

/// Checks that the clock is not far off: certificates and budgets by the day go by it.
fn clock() -> Check {
    let now = jiff::Timestamp::now();
    let message = now.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    // Nobody runs this before it was written.
    if now.as_second() < 1_790_000_000 {
        return Check::warn("clock", format!("{message} is in the past"), "run: sudo timedatectl set-ntp true");
    }
    Check::ok("clock", message)
}

/// Checks that this host has authorities to check upstream certificates by.
fn trust() -> Check {
    match crate::egress::upstream::host_roots().len() {
        0 => Check::warn(
            "authorities",
            "this host has no certificate authorities: no API can be reached",
            "run: sudo apt-get install ca-certificates",
        ),
        n => Check::ok("authorities", format!("{n} that upstream certificates are checked by")),
    }
}

/// Says whether the second layer of a bottle's file system is there.
fn landlock() -> Check {
    match crate::bottle::landlock_version() {
        Some(version) if version >= 2 => Check::ok("landlock", format!("ABI {version}: a second layer for writes")),
        _ => Check::warn(
            "landlock",
            "this kernel has none that can be used: read-only places are so by their mounts alone",
            "use Linux 5.19 or newer with `landlock` in its `lsm=` list; bottles run without",
        ),
    }
}

/// Checks the file system of the home for space.
fn space(home: &Home) -> Check {
    let place = home.root.display();
    match nix::sys::statvfs::statvfs(&home.root) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size();
            let message = format!("{place}, {} free", size(free));
            if free < LITTLE_SPACE {
                Check::warn(
                    "home",
                    message,
                    "free some space: when the ledger cannot be written, metered requests are refused",
                )
            } else {
                Check::ok("home", message)
            }
        }
        Err(e) => Check::failed("home", &Error::new(Kind::FsUnsupported, e.to_string()).at(place.to_string())),
    }
}

/// Writes a number of bytes for people.
fn size(bytes: u64) -> String {
    if bytes >= 1 << 30 {
        format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
    } else {
        format!("{} MiB", bytes >> 20)
    }
}

/// Reads the host's settings: with a wrong file no bottle is launched.
fn settings(home: &Home) -> Check {
    match super::faults::settings(home) {
        Ok(_) if home.settings().exists() => Check::ok("settings", home.settings().display().to_string()),
        Ok(_) => Check::ok("settings", "no settings.yml; the defaults hold"),
        Err(problems) => {
            let mut error = joined(problems);
            let hint = error.hint.take().map(|hint| format!("; {hint}")).unwrap_or_default();
            Check::failed("settings", &error.hint(format!("edit {}{hint}", home.settings().display())))
        }
    }
}

/// Makes a ledger beside the real one, which only a controller opens, and removes it again.
async fn ledger(home: &Home) -> Check {
    let path = home.root.join("run").join(format!("doctor-{}.db", std::process::id()));
    let result = try_ledger(&path).await;
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
    match result {
        Ok(()) => Check::ok("ledger", format!("SQLite {} writes and syncs in this home", rusqlite::version())),
        Err(error) => Check::failed("ledger", &error),
    }
}

async fn try_ledger(path: &Path) -> Result<()> {
    let opened = tokio::task::spawn_blocking({
        let path = path.to_owned();
        move || SqliteLedger::open(&path, Options::default())
    });
    let opened = opened.await.map_err(|e| Error::internal(e.to_string()))?;
    let ledger = opened.map_err(|e| ledger_error(&e, path))?;
    ledger.close().await.map_err(|e| ledger_error(&e, path))
}

/// Reaches the controller, starting one if need be: it opens the real ledger.
async fn controller(home: &Home) -> Check {
    let reached = async {
        let started = Client::connect(home).await?.is_none();
        let version = Client::connect_or_start(home).await?.version().await?;
        Ok::<_, Error>((started, version))
    };
    match reached.await {
        Ok((started, version)) => {
            let how = if started { "started" } else { "runs" };
            Check::ok("controller", format!("{how}, pid {}; it has opened {}", version.pid, home.ledger().display()))
        }
        Err(error) => Check::failed("controller", &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_and_one_thing_to_do() {
        let error = Error::new(Kind::UsernsForbidden, "unshare: EPERM").at("kernel.x = 0").hint("run: sudo y");
        let check = Check::failed("user namespaces", &error);
        assert_eq!(
            check.rendered(false),
            "error  user namespaces       unshare: EPERM (kernel.x = 0)\n         hint: run: sudo y"
        );
        assert_eq!(
            check.json().to_string(),
            "{\"v\":1,\"type\":\"check\",\"name\":\"user namespaces\",\"level\":\"error\",\
             \"message\":\"unshare: EPERM (kernel.x = 0)\",\"hint\":\"run: sudo y\"}"
        );
    }

    #[test]
    fn warnings_do_not_fail_and_errors_do() {
        let sheet = |errors| Sheet { json: false, fix: false, colour: false, errors, warnings: 3 };
        assert_eq!(sheet(0).code(), 0);
        assert_eq!(sheet(1).code(), 5);
    }

    #[test]
    fn settings_that_name_a_backend_which_does_not_work_are_an_error() {
        let dir = std::env::temp_dir().join(format!("bb-doctor-backend-{}", std::process::id()));
        let home = Home::open(&dir, None).unwrap();
        let said = |named, embedded, engine| {
            let check = backend(&home, named, embedded, engine);
            (check.level, check.message)
        };
        assert_eq!(said(Some("linux"), true, true).0, Level::Ok);
        assert_eq!(said(None, false, true).1, "docker: for bottles of which nothing says another");
        assert_eq!(said(Some("docker"), true, true), (Level::Ok, "docker, as the settings say".to_owned()));
        let wrong = (Level::Error, "linux, as the settings say; it does not work here, docker does".to_owned());
        assert_eq!(said(Some("linux"), false, true), wrong);
        assert_eq!(said(Some("docker"), true, false).0, Level::Error);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn the_ledger_is_tried_and_leaves_nothing() {
        let dir = std::env::temp_dir().join(format!("bb-doctor-ledger-{}", std::process::id()));
        let home = Home::open(&dir, None).unwrap();
        let check = ledger(&home).await;
        assert_eq!(check.level, Level::Ok, "{check:?}");
        assert_eq!(
            std::fs::read_dir(home.root.join("run")).unwrap().filter(|e| e.as_ref().unwrap().path().is_file()).count(),
            0
        );
        assert!(!home.ledger().exists());
        std::fs::write(home.settings(), "bugdet: {claude: 5}\n").unwrap();
        let check = settings(&home);
        assert!(check.level == Level::Error && check.message.contains("bugdet"), "{check:?}");
        std::fs::write(home.settings(), "budget: {cluade: 5M}\n").unwrap();
        let check = settings(&home);
        let hint = check.hint.clone().unwrap_or_default();
        assert!(check.level == Level::Error && hint.ends_with("settings.yml; did you mean `claude`?"), "{check:?}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}

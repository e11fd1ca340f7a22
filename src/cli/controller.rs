//! `bb controller`: looks after the controller itself.

use std::fs::{self, File, TryLockError};
use std::io::{self, IsTerminal, Read, Seek};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::api::Version;
use crate::client::Client;
use crate::error::{Error, Kind, Result};
use crate::home::Home;
use crate::os::process::Process;
use crate::printable::printable;

use super::out;

/// How long a controller may take to close every way out and its ledgers. Unit: milliseconds.
const STOP_WITHIN: u16 = 20_000;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Look after the controller: the process that owns ledgers, bottles and their way out.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say whether a controller runs, and which
    Status,
    /// Stop it; bottles go on running without a way out until there is a controller again
    Stop {
        /// Kill it, also when it does not answer
        #[arg(long)]
        force: bool,
    },
    /// Stop it and start another, of this bb; bottles go on running
    Restart,
    /// Show its log
    Logs {
        /// Stay and show what comes
        #[arg(short, long)]
        follow: bool,
    },
}

/// Runs the command; returns its exit code.
pub fn run(args: Args) -> u8 {
    out::block_on(async move {
        let home = Home::from_env()?;
        match args.command {
            Command::Status => status(&home).await?,
            Command::Stop { force } => {
                let stopped = if force { kill(&home)?.map(|pid| (pid, 0)) } else { stop(&home).await? };
                out::note(&match stopped {
                    Some((pid, 0)) => format!("the controller (pid {pid}) has stopped; `bb ps` starts another"),
                    Some((pid, running)) => {
                        let bottles =
                            if running == 1 { "1 bottle goes on" } else { &format!("{running} bottles go on") };
                        format!(
                            "the controller (pid {pid}) has stopped; {bottles} without a way out until `bb ps` starts another"
                        )
                    }
                    None => "no controller runs".to_owned(),
                });
            }
            Command::Restart => {
                stop(&home).await?;
                let version = Client::connect_or_start(&home).await?.version().await?;
                out::note(&format!("controller up, pid {}", version.pid));
            }
            Command::Logs { follow } => logs(&home, follow)?,
        }
        Ok(0)
    })
}

async fn status(home: &Home) -> Result<()> {
    let Some(client) = Client::connect(home).await? else {
        return out::print("no controller runs");
    };
    let version = client.version().await?;
    for fault in &version.faults {
        out::note(&format!("warning: metered requests are refused: {fault}"));
    }
    out::print(&described(&version, home, jiff::Timestamp::now().as_millisecond()))
}

/// Writes what a controller says of itself.
fn described(version: &Version, home: &Home, now: i64) -> String {
    let seconds = (now - version.started).max(0) / 1000;
    let up = match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, _) => format!("{m} min"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    };
    format!(
        "running  pid {}, up {up}, {} {}\nversion  bb {}, API {}\nhome     {}\nsocket   {}\nlog      {}",
        version.pid,
        version.running,
        if version.running == 1 { "bottle" } else { "bottles" },
        version.version,
        version.api,
        version.home,
        home.socket().display(),
        home.log().display(),
    )
}

/// Stops the controller cleanly and waits for its end. Returns its pid and how many bottles it had (0 where it speaks another
/// version), or `None` where none ran.
async fn stop(home: &Home) -> Result<Option<(u32, u32)>> {
    let (pid, running, process) = match Client::connect(home).await {
        Ok(None) => return Ok(None),
        Ok(Some(client)) => {
            let version = client.version().await?;
            let process = open(version.pid)?;
            client.stop().await?;
            (version.pid, version.running, process)
        }
        // One of another version may know another way to be asked; the signal means the same to all.
        Err(error) if error.kind == Kind::ControllerVersion => {
            let Some((pid, process)) = holder(home)? else { return Ok(None) };
            want_none(home)?;
            signal(&process, Signal::SIGTERM)?;
            (pid, 0, process)
        }
        Err(error) => return Err(error),
    };
    if wait(&process, STOP_WITHIN)? {
        return Ok(Some((pid, running)));
    }
    Err(Error::new(Kind::ControllerSilent, format!("the controller (pid {pid}) was asked to stop and still runs"))
        .at(home.log().display().to_string())
        .hint("run `bb controller stop --force`; bottles go on running"))
}

/// Kills the controller of this home, whatever state it is in. Returns its pid, or `None` where none ran.
fn kill(home: &Home) -> Result<Option<u32>> {
    let Some((pid, process)) = holder(home)? else { return Ok(None) };
    want_none(home)?;
    signal(&process, Signal::SIGKILL)?;
    if wait(&process, STOP_WITHIN)? {
        return Ok(Some(pid));
    }
    Err(Error::new(Kind::ControllerSilent, format!("the controller (pid {pid}) was killed and has not ended"))
        .hint("it hangs in the kernel, most likely on its disk: look at `dmesg`"))
}

/// Tells keepers not to start a controller in the place of the one that goes; a new controller removes the mark.
fn want_none(home: &Home) -> Result<()> {
    let path = home.stopped();
    fs::write(&path, "stopped by the operator\n").map_err(|e| {
        Error::internal(format!("the mark for keepers cannot be written: {e}")).at(path.display().to_string())
    })
}

/// Gets the process that holds the lock of `home`, once it is certain that it is a controller of this home.
fn holder(home: &Home) -> Result<Option<(u32, Process)>> {
    let path = home.lock();
    let odd = |what: String| {
        Error::new(Kind::ControllerSilent, what)
            .at(path.display().to_string())
            .hint("find the process that holds this file open (`fuser`, `lsof`) and end it yourself")
    };
    let mut lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(odd(format!("the lock cannot be opened: {e}"))),
    };
    match lock.try_lock_shared() {
        Ok(()) => return Ok(None),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(e)) => return Err(odd(format!("the lock cannot be tried: {e}"))),
    }
    let mut text = String::new();
    lock.read_to_string(&mut text).map_err(|e| odd(format!("the lock cannot be read: {e}")))?;
    let pid: u32 = text.trim().parse().map_err(|_| odd("the lock is held, and does not say by whom".to_owned()))?;
    // Opened before it is looked at: from here on the number cannot come to mean another process.
    let process = match Process::open(pid.cast_signed()) {
        Ok(process) => process,
        Err(e) => return Err(odd(format!("the lock is held, but not by the pid {pid} that it names: {e}"))),
    };
    if !is_controller(&process, &lock) {
        return Err(odd(format!("pid {pid}, which the lock names, is no controller of this home")));
    }
    Ok(Some((pid, process)))
}

/// Tells whether a process is `bb __controller` and has this very lock open.
fn is_controller(process: &Process, lock: &File) -> bool {
    if process.words().get(1).is_none_or(|word| word != b"__controller") {
        return false;
    }
    let Ok(wanted) = lock.metadata() else { return false };
    match process.has_open(&wanted) {
        Ok(open) => open,
        // A process that may not be looked into: the lock is held, names it, and it is a controller.
        Err(e) => e.kind() == io::ErrorKind::PermissionDenied,
    }
}

fn open(pid: u32) -> Result<Process> {
    Process::open(pid.cast_signed())
        .map_err(|e| Error::new(Kind::ControllerSilent, format!("the controller (pid {pid}) cannot be watched: {e}")))
}

fn signal(process: &Process, signal: Signal) -> Result<()> {
    match process.signal(signal) {
        Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
            Err(Error::internal(format!("the controller cannot be signalled: {e}")))
        }
        _ => Ok(()),
    }
}

/// Waits for the end of a process; tells whether it came in time.
fn wait(process: &Process, within: u16) -> Result<bool> {
    let failed = |e| Error::internal(format!("the controller's end cannot be waited for: {e}"));
    process.ends_within(within).map_err(failed)
}

/// Prints the log, and with `follow` what is added to it, for ever.
fn logs(home: &Home, follow: bool) -> Result<()> {
    let path = home.log();
    let failed = |e: io::Error| Error::internal(format!("the log cannot be read: {e}")).at(path.display().to_string());
    let terminal = io::stdout().is_terminal();
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            out::note("there is no log yet: no controller has run in this home");
            return Ok(());
        }
        Err(e) => return Err(failed(e)),
    };
    let (mut rest, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        let read = file.read(&mut piece).map_err(failed)?;
        rest.extend_from_slice(&piece[..read]);
        // Whole lines, so that no character is cut in two; at the end whatever there is.
        let whole = rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let ready = if read == 0 && !follow { rest.len() } else { whole };
        let text = String::from_utf8_lossy(&rest[..ready]);
        if let Some(lines) = (!text.is_empty()).then(|| text.strip_suffix('\n').unwrap_or(&text)) {
            out::print(&if terminal { printable(lines, true) } else { lines.to_owned() })?;
        }
        rest.drain(..ready);
        if read > 0 {
            continue;
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(LOOK);
        // A controller that starts empties a log that has grown too long.
        let shrunk = file.metadata().map_err(failed)?.len() < file.stream_position().map_err(failed)?;
        if shrunk {
            file.rewind().map_err(failed)?;
            rest.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("bb-cli-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn only_a_controller_with_this_lock_open_is_taken_for_the_one() {
        let dir = scratch("holder");
        let lock_path = dir.join("lock");
        fs::write(&lock_path, "7").unwrap();
        let lock = File::open(&lock_path).unwrap();
        // A shell that runs a script of that name has the same command line, less the program.
        let running = |word: &str, input: &std::path::Path| {
            fs::write(dir.join(word), "echo up; exec 4<>pipe; read -r _ <&4\n").unwrap();
            let mut command = std::process::Command::new("sh");
            command.arg(word).current_dir(&dir).stdin(File::open(input).unwrap());
            let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
            // Until it runs, it may have no command line.
            let mut said = [0; 3];
            child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
            let process = Process::open(child.id().cast_signed()).unwrap();
            (child, process)
        };
        nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let other = dir.join("other");
        fs::write(&other, "").unwrap();
        for (word, input, is, who) in [
            ("__controller", &lock_path, true, "the one"),
            ("ps", &lock_path, false, "another command of bb"),
            ("__controller", &other, false, "the controller of another home"),
        ] {
            let (mut child, process) = running(word, input);
            let found = is_controller(&process, &lock);
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(found, is, "{who}");
            assert!(!is_controller(&process, &lock), "nobody");
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_lock_that_names_a_stranger_kills_nobody() {
        let dir = scratch("stranger");
        let home = Home::open(&dir, None).unwrap();
        assert!(holder(&home).unwrap().is_none(), "no lock, no controller");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(home.lock(), child.id().to_string()).unwrap();
        assert!(holder(&home).unwrap().is_none(), "nobody holds it");
        let held = File::open(home.lock()).unwrap();
        held.lock().unwrap();
        let error = kill(&home).unwrap_err();
        assert_eq!(error.kind, Kind::ControllerSilent);
        assert!(child.try_wait().unwrap().is_none(), "the stranger lives");
        assert!(!home.stopped().exists());
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_status_says_pid_age_and_places() {
        let home = Home { root: "/h".into(), runtime: "/r".into() };
        let version = Version {
            api: 1,
            revision: 1,
            version: "0.1.0".into(),
            pid: 7,
            home: "/h".into(),
            started: 0,
            running: 1,
            faults: vec![],
        };
        assert_eq!(
            described(&version, &home, 3_723_000),
            "running  pid 7, up 1 h 2 min, 1 bottle\nversion  bb 0.1.0, API 1\nhome     /h\n\
             socket   /r/controller.sock\nlog      /h/run/controller.log"
        );
    }
}

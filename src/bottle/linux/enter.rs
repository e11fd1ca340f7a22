//! The one way into a bottle: the agent's first process and every later exec go through [`run`].
//!
//! The policy of a process is therefore derived in one place: namespaces joined, host uid given up, capabilities,
//! privileges and system calls taken away, then the program.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid};

use super::filter::Filter;
use super::launch::Up;
use super::sys;
use super::{AGENT_ID, confine, landlock, terminal};
use crate::bottle::backend::Terminal;
use crate::bottle::cgroup;
use crate::bottle::wire::{self, Command};
use crate::error::{Error, Kind, Result};
use crate::os::process::{Fork, Process, fork_with};

/// Longest that a process may take from its making to its program. Until then it can be stopped by the agent, whose user
/// it has already, and a keeper that waited for ever could not even kill the bottle any more. Unit: seconds.
const PATIENCE: i64 = 5;

/// A command that runs in the bottle.
#[derive(Debug)]
pub struct Running {
    /// Process id on the host; leader of a session and process group of its own.
    pub pid: i32,
    /// Descriptor of the process.
    pub pidfd: OwnedFd,
    /// Read end of its standard output.
    pub stdout: OwnedFd,
    /// Read end of its standard error; one in a terminal has none of its own.
    pub stderr: Option<OwnedFd>,
    /// Where it is fed, if it is.
    pub stdin: Option<OwnedFd>,
    /// What sets the size of its terminal, if it has one; `stdout` and `stdin` are of that terminal.
    pub terminal: Option<Terminal>,
}

#[derive(serde::Serialize, serde::Deserialize)]
enum Report {
    Pid { pid: i32 },
    Failed { error: Error },
}

fn failed(step: &str, e: impl std::fmt::Display) -> Error {
    Error::new(Kind::BackendUnavailable, format!("entering the bottle: {step}: {e}"))
}

/// Starts `command` in the bottle. The calling process must be single-threaded.
///
/// # Errors
/// `agent_missing` where the program is not in the bottle, `backend_unavailable` for everything else.
pub fn run(up: &Up, as_root: bool, command: &Command) -> Result<Running> {
    let filter = confine::program().map_err(|e| failed("seccomp", e))?;
    let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| failed("pipe", e));
    let (stdin, feed) = match &command.stdin {
        _ if command.input && command.terminal.is_none() => pipe().map(|(theirs, ours)| (theirs, Some(ours)))?,
        Some(text) => (wire::sealed("stdin", text.as_bytes()).map_err(|e| failed("standard input", e))?, None),
        None => (std::fs::File::open("/dev/null").map_err(|e| failed("standard input", e))?.into(), None),
    };
    let stdin = if feed.is_some() { stdin } else { reopened(&stdin).map_err(|e| failed("standard input", e))? };
    let (stdout, out) = pipe()?;
    let (stderr, err) = pipe()?;
    let (ours, theirs) = wire::pair().map_err(|e| failed("socket pair", e))?;
    setsockopt(&ours, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(PATIENCE, 0))
        .map_err(|e| failed("socket option", e))?;
    // SAFETY: the keeper is single-threaded.
    let helper = match unsafe { fork_with(0) }.map_err(|e| failed("fork", e))? {
        Fork::Child => {
            drop((ours, stdout, stderr, feed));
            let error = enter(up, as_root, command, &filter, [&stdin, &out, &err], &theirs);
            let code = match error {
                Ok(()) => 0,
                Err(error) => {
                    let _ = wire::send(&theirs, &Report::Failed { error }, &[]);
                    1
                }
            };
            sys::exit_now(code);
        }
        Fork::Parent(pid) => pid,
    };
    drop((theirs, out, err, stdin));
    // The helper says the pid; then the program is either executed, which closes the socket, or says why not.
    let mut result = Err(failed("set-up", "the helper died without a word"));
    let mut master = None;
    loop {
        let error = match wire::receive::<Report>(&ours) {
            Ok(None) => break,
            Ok(Some((Report::Pid { pid }, mut fds))) => {
                result = Ok(pid);
                master = fds.pop();
                continue;
            }
            Ok(Some((Report::Failed { error }, _))) => error,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                failed("set-up", format!("the program did not start within {PATIENCE} s; it may have been stopped"))
            }
            Err(e) => failed("set-up", e),
        };
        // It has failed already or is to go; a stopped process dies by this, too.
        for pid in result.iter().copied().chain([helper]) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if let Ok(pid) = result {
            let _ = waitpid(Pid::from_raw(pid), None);
        }
        result = Err(error);
        break;
    }
    let _ = waitpid(Pid::from_raw(helper), None);
    let pid = result?;
    let pidfd = Process::open(pid).map_err(|e| failed("process descriptor", e))?.into();
    let nonblocking = |fd: OwnedFd| {
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .map_err(|e| failed("pipe", e))
            .map(|_| fd)
    };
    if let Some(master) = master {
        let another = || master.try_clone().map_err(|e| failed("terminal", e));
        let (stdout, stdin) = (nonblocking(another()?)?, Some(another()?));
        return Ok(Running { pid, pidfd, stdout, stderr: None, stdin, terminal: Some(Terminal::Master(master)) });
    }
    let (stdout, stderr) = (nonblocking(stdout)?, Some(nonblocking(stderr)?));
    Ok(Running { pid, pidfd, stdout, stderr, stdin: feed, terminal: None })
}

/// Opens a descriptor's file anew, read-only and from its start: the agent gets no writable descriptor of the host.
fn reopened(fd: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(std::fs::File::open(format!("/proc/self/fd/{}", fd.as_raw_fd()))?.into())
}

/// The helper: joins the namespaces and makes the process that becomes the command, as a child of the keeper.
fn enter(
    up: &Up,
    as_root: bool,
    command: &Command,
    filter: &Filter,
    stdio: [&OwnedFd; 3],
    report: &OwnedFd,
) -> Result<()> {
    // First of all, with the rights of the host: everything from here on counts.
    cgroup::join(&up.doors).map_err(|e| failed("control group", e))?;
    if as_root {
        nix::unistd::setgroups(&[]).map_err(|e| failed("groups", e))?;
    }
    for namespace in &up.namespaces {
        setns(namespace, CloneFlags::empty()).map_err(|e| failed("namespace", e))?;
    }
    let (uid, gid) = (Uid::from_raw(AGENT_ID), Gid::from_raw(AGENT_ID));
    nix::unistd::setresgid(gid, gid, gid).map_err(|e| failed("group", e))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(|e| failed("user", e))?;
    // Whatever the change of users did: nobody in the bottle may look into the copies of the keeper.
    sys::set_dumpable(false).map_err(|e| failed("dumpable", e))?;
    // Made here, where the bottle's own devpts is seen.
    let made = command.terminal.map(terminal::make).transpose().map_err(|e| failed("terminal", e))?;
    let (master, slave) = made.unzip();
    let stdio = slave.as_ref().map_or(stdio, |slave| [slave; 3]);
    // SAFETY: single-threaded, as the keeper is.
    match unsafe { fork_with(libc::CLONE_PARENT) }.map_err(|e| failed("fork", e))? {
        Fork::Parent(pid) => {
            let master: Vec<_> = master.iter().map(AsRawFd::as_raw_fd).collect();
            let sent = wire::send(report, &Report::Pid { pid }, &master);
            sent.map_err(|e| failed("report", e))
        }
        Fork::Child => {
            let error = execute(command, filter, &up.writable, stdio, report);
            let _ = wire::send(report, &Report::Failed { error }, &[]);
            sys::exit_now(127);
        }
    }
}

/// Gives a command the usual bound of open files, which the controller has raised for itself; it may raise it again.
fn usual_descriptors() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most.min(1024), most)?)
}

/// The process that becomes the command, on every backend. Returns only with an error, which `report` is for.
pub(crate) fn execute(
    command: &Command,
    filter: &Filter,
    writable: &[std::path::PathBuf],
    stdio: [&OwnedFd; 3],
    report: &OwnedFd,
) -> Error {
    let prepared = (|| -> io::Result<()> {
        nix::unistd::setsid()?;
        let [stdin, stdout, stderr] = stdio;
        nix::unistd::dup2_stdin(stdin)?;
        nix::unistd::dup2_stdout(stdout)?;
        nix::unistd::dup2_stderr(stderr)?;
        if command.terminal.is_some() {
            terminal::control()?;
        }
        sys::close_all_but(&[report.as_raw_fd()]);
        settle(command, filter)
    })();
    if let Err(e) = prepared {
        return failed("preparation", e);
    }
    if let Err(e) = landlock::restrict(writable) {
        return failed("second layer", e);
    }
    become_program(command)
}

/// The last that a process does before it becomes a command of a bottle.
///
/// # Errors
/// Those of the system calls. The caller must not go on after one.
fn settle(command: &Command, filter: &Filter) -> io::Result<()> {
    sys::default_signals();
    usual_descriptors()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    nix::unistd::chdir(command.cwd.as_str())
        .map_err(|e| io::Error::other(format!("working directory {}: {e}", command.cwd)))?;
    confine::apply(filter)
}

/// Becomes the program of a command. Returns only with an error.
fn become_program(command: &Command) -> Error {
    let strings =
        |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<std::result::Result<Vec<_>, _>>();
    let (Ok(argv), Ok(env)) = (strings(&command.argv), strings(&command.env)) else {
        return Error::new(Kind::Usage, "the command line or environment has a NUL byte");
    };
    let Some(name) = command.argv.first() else {
        return Error::new(Kind::Usage, "the command line is empty");
    };
    let path = path_of(command);
    let mut last = nix::errno::Errno::ENOENT;
    for place in candidates(name, path) {
        let Ok(place) = CString::new(place) else { continue };
        match nix::unistd::execve(&place, &argv, &env) {
            Ok(never) => match never {},
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => {}
            Err(e) => last = e,
        }
    }
    missing(name, path, last)
}

fn path_of(command: &Command) -> &str {
    command.env.iter().find_map(|v| v.strip_prefix("PATH=")).unwrap_or("/usr/bin:/bin")
}

fn missing(name: &str, path: &str, why: nix::errno::Errno) -> Error {
    Error::new(Kind::AgentMissing, format!("`{name}` cannot be run in the bottle: {}", why.desc()))
        .at(format!("PATH={path}"))
        .hint("install it on the host, in a directory of PATH; bottles show the host's programs read-only")
}

/// Where a program of that name may lie.
fn candidates(name: &str, path: &str) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    path.split(':').filter(|d| d.starts_with('/')).map(|d| format!("{d}/{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_only_looked_for_in_absolute_directories() {
        assert_eq!(candidates("sh", "/usr/bin:.:bin:/bin"), ["/usr/bin/sh", "/bin/sh"]);
        assert_eq!(candidates("./x", "/usr/bin"), ["./x"]);
    }
}

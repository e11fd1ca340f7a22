//! A command in the agent's container, as a child of the keeper: what it prints comes out of the child's pipes, and its end
//! is the child's end, with its exit code. So the keeper treats it like a command of the embedded backend.
//!
//! Here the child is made and the engine asked to start the way in ([`super::supervise`]); what the child does from then on
//! is in [`super::relay`].

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::json;

use super::engine::Engine;
use super::http::frame;
use super::inside::Word;
use super::relay::{Control, Relay};
use super::spec::OWN;
use super::supervise::Entry;
use crate::bottle::backend::{Running, Terminal};
use crate::bottle::linux::sys;
use crate::bottle::wire;
use crate::error::{Error, Kind, Result};
use crate::os::process::{Fork, Process, fork_with};

/// Longest from asking the engine to the command's program.
const PATIENCE: Duration = Duration::from_secs(20);

fn failed(step: &str, e: impl std::fmt::Display) -> Error {
    Error::new(Kind::BackendUnavailable, format!("entering the bottle: {step}: {e}"))
}

/// Starts a command in a container; with what the keeper speaks to it by. The calling process must be single-threaded.
///
/// # Errors
/// `agent_missing` where the program is not in the image, `backend_unavailable` for everything else.
pub fn run(engine: &Engine, container: &str, entry: &Entry) -> Result<(Running, Control)> {
    let command = &entry.command;
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("pipe", e));
    let in_terminal = command.terminal.is_some();
    let (stdout, out) = pipe()?;
    let (stderr, err) = if in_terminal { (None, None) } else { pipe().map(|(r, w)| (Some(r), Some(w)))? };
    let (input, stdin) =
        if in_terminal || command.input { pipe().map(|(r, w)| (Some(r), Some(w)))? } else { (None, None) };
    let (ours, theirs) = wire::pair().map_err(|e| failed("socket pair", e))?;
    setsockopt(&ours, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(PATIENCE.as_secs().cast_signed(), 0))
        .map_err(|e| failed("socket option", e))?;
    // SAFETY: the keeper is single-threaded.
    let child = match unsafe { fork_with(0) }.map_err(|e| failed("fork", e))? {
        Fork::Child => {
            drop((ours, stdout, stderr, stdin));
            let kept = [Some(&out), err.as_ref(), input.as_ref(), Some(&theirs)];
            sys::close_all_but(&kept.into_iter().flatten().map(AsRawFd::as_raw_fd).collect::<Vec<_>>());
            sys::default_signals();
            let _ = sys::die_with_parent();
            let code = match start(engine, container, entry) {
                Ok(Started { stream, engine, command }) => {
                    let _ = wire::send(&theirs, &Word::Ready(0), &[]);
                    Relay::new(stream, [&engine, &command], [Some(out), err], input, theirs).run()
                }
                Err(error) => {
                    let _ = wire::send(&theirs, &Word::Failed(error), &[]);
                    1
                }
            };
            sys::exit_now(code)
        }
        Fork::Parent(pid) => pid,
    };
    drop((theirs, out, err, input));
    let error = match wire::receive::<Word>(&ours) {
        Ok(Some((Word::Ready(_), _))) => match taken(child, ours, [Some(stdout), stderr], stdin, in_terminal) {
            Ok(made) => return Ok(made),
            Err(error) => error,
        },
        Ok(Some((Word::Failed(error), _))) => error,
        Ok(_) => failed("start", "the keeper's child died without a word"),
        Err(_) => failed("start", format!("the engine did not start it within {} s", PATIENCE.as_secs())),
    };
    let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    let _ = waitpid(Pid::from_raw(child), None);
    Err(error)
}

/// Takes over a child whose command runs.
fn taken(
    pid: i32,
    control: OwnedFd,
    outputs: [Option<OwnedFd>; 2],
    stdin: Option<OwnedFd>,
    in_terminal: bool,
) -> Result<(Running, Control)> {
    let pidfd = Process::open(pid).map_err(|e| failed("process descriptor", e))?.into();
    let control = Control::new(control).map_err(|e| failed("socket", e))?;
    for fd in outputs.iter().flatten() {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| failed("pipe", e))?;
    }
    let [Some(stdout), stderr] = outputs else { return Err(failed("pipe", "none")) };
    let terminal = in_terminal.then(|| control.again().map(Terminal::Relayed)).transpose();
    let terminal = terminal.map_err(|e| failed("socket", e))?;
    Ok((Running { pid, pidfd, stdout, stderr, stdin, terminal }, control))
}

/// A command that runs: its stream, and what was read of it beyond the first word, by its layers.
struct Started {
    stream: UnixStream,
    engine: Vec<u8>,
    command: Vec<u8>,
}

/// Has the engine start the way in, hands it the command, and waits for its word.
fn start(engine: &Engine, container: &str, entry: &Entry) -> Result<Started> {
    let spec = json!({
        "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": false,
        "Cmd": [OWN, "__inside", "enter"], "WorkingDir": "/",
    });
    let exec = engine.exec(container, &spec)?;
    let mut stream = engine.exec_streams(&exec).map_err(|e| failed("start", e))?;
    let mut line = serde_json::to_vec(entry).map_err(|e| failed("command", e))?;
    line.push(b'\n');
    stream.get_mut().write_all(&line).map_err(|e| failed("command", e))?;
    let (mut said, mut noise) = (Vec::new(), Vec::new());
    loop {
        let Some((kind, bytes)) = frame(&mut stream).map_err(|e| failed("answer", e))? else {
            let noise = String::from_utf8_lossy(&noise).into_owned();
            return Err(failed("start", if noise.is_empty() { "it ended without a word" } else { noise.trim() }));
        };
        if kind != 1 {
            noise.extend(bytes.into_iter().take(4096));
            noise.truncate(4096);
            continue;
        }
        said.extend(bytes);
        if let Some(end) = said.iter().position(|b| *b == b'\n') {
            let command = said.split_off(end + 1);
            return match serde_json::from_slice(&said) {
                Ok(Word::Ready(_)) => {
                    let engine = stream.buffer().to_vec();
                    let stream = stream.into_inner();
                    stream.set_write_timeout(None).map_err(|e| failed("start", e))?;
                    Ok(Started { stream, engine, command })
                }
                Ok(Word::Failed(error)) if error.kind == Kind::AgentMissing => {
                    Err(error.hint("put it into the image, or choose another image that has it"))
                }
                Ok(Word::Failed(error)) => Err(error),
                _ => Err(failed("start", String::from_utf8_lossy(&said).chars().take(200).collect::<String>())),
            };
        }
        if said.len() > wire::MAX_PACKET {
            return Err(failed("start", "no answer of its form"));
        }
    }
}

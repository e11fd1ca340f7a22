//! A command in the agent's container, as a child of the keeper: what it prints comes out of the child's pipes, and its end
//! is the child's end, with its exit code. So the keeper treats it like a command of the embedded backend.
//!
//! The child speaks with the engine and copies; it decides nothing.

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::json;

use super::engine::Engine;
use super::http::frame;
use super::inside::Word;
use super::spec::OWN;
use crate::bottle::backend::Running;
use crate::bottle::linux::sys;
use crate::bottle::wire::{self, Command};
use crate::error::{Error, Kind, Result};
use crate::os::process::{Fork, Process, fork_with};

/// Longest from asking the engine to the command's program.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest that an engine may take to know the exit code of a command whose output has ended.
const CODE_PATIENCE: Duration = Duration::from_secs(20);

/// Exit code where nobody knows: the container went with it.
const KILLED: i32 = 128 + libc::SIGKILL;

fn failed(step: &str, e: impl std::fmt::Display) -> Error {
    Error::new(Kind::BackendUnavailable, format!("entering the bottle: {step}: {e}"))
}

/// Starts `command` in a container; with its process id there. The calling process must be single-threaded.
///
/// # Errors
/// `agent_missing` where the program is not in the image, `backend_unavailable` for everything else.
pub fn run(engine: &Engine, container: &str, command: &Command) -> Result<(Running, i32)> {
    if command.terminal.is_some() || command.input {
        return Err(Error::new(Kind::BackendUnavailable, "backend docker has no terminals and no open input yet")
            .hint("leave -i and -t out, or use backend linux"));
    }
    let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| failed("pipe", e));
    let (stdout, out) = pipe()?;
    let (stderr, err) = pipe()?;
    let (ours, theirs) = wire::pair().map_err(|e| failed("socket pair", e))?;
    setsockopt(&ours, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(PATIENCE.as_secs().cast_signed(), 0))
        .map_err(|e| failed("socket option", e))?;
    // SAFETY: the keeper is single-threaded.
    let child = match unsafe { fork_with(0) }.map_err(|e| failed("fork", e))? {
        Fork::Child => {
            drop((ours, stdout, stderr));
            sys::close_all_but(&[&out, &err, &theirs].map(AsRawFd::as_raw_fd));
            sys::default_signals();
            let _ = sys::die_with_parent();
            let code = match start(engine, container, command) {
                Ok((exec, stream, pid, ahead)) => {
                    let _ = wire::send(&theirs, &Word::Ready(pid), &[]);
                    drop(theirs);
                    copy(stream, &ahead, [out, err]);
                    code(engine, &exec)
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
    drop((theirs, out, err));
    let error = match wire::receive::<Word>(&ours) {
        Ok(Some((Word::Ready(pid), _))) => {
            let pidfd = Process::open(child).map_err(|e| failed("process descriptor", e))?.into();
            for fd in [&stdout, &stderr] {
                nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
                    .map_err(|e| failed("pipe", e))?;
            }
            let running = Running { pid: child, pidfd, stdout, stderr: Some(stderr), stdin: None, terminal: None };
            return Ok((running, pid));
        }
        Ok(Some((Word::Failed(error), _))) => error,
        Ok(_) => failed("start", "the keeper's child died without a word"),
        Err(_) => failed("start", format!("the engine did not start it within {} s", PATIENCE.as_secs())),
    };
    let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
    let _ = waitpid(Pid::from_raw(child), None);
    Err(error)
}

type Stream = std::io::BufReader<UnixStream>;

/// Has the engine start the way in, hands it the command, and waits for its word: exec, stream, process id, and what was
/// read beyond the word.
fn start(engine: &Engine, container: &str, command: &Command) -> Result<(String, Stream, i32, Vec<u8>)> {
    let spec = json!({
        "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": false,
        "Cmd": [OWN, "__inside", "enter"], "WorkingDir": "/",
    });
    let exec = engine.exec(container, &spec)?;
    let mut stream = engine.exec_streams(&exec).map_err(|e| failed("start", e))?;
    let mut line = serde_json::to_vec(command).map_err(|e| failed("command", e))?;
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
            continue;
        }
        said.extend(bytes);
        if let Some(end) = said.iter().position(|b| *b == b'\n') {
            let ahead = said.split_off(end + 1);
            return match serde_json::from_slice(&said) {
                Ok(Word::Ready(pid)) => Ok((exec, stream, pid, ahead)),
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

/// Copies until the engine says that there is no more, or nobody reads.
fn copy(mut stream: Stream, ahead: &[u8], pipes: [OwnedFd; 2]) {
    let [mut out, mut err] = pipes.map(std::fs::File::from);
    let mut broken = out.write_all(ahead).is_err();
    while let (false, Ok(Some((kind, bytes)))) = (broken, frame(&mut stream)) {
        broken = match kind {
            1 => out.write_all(&bytes).is_err(),
            2 => err.write_all(&bytes).is_err(),
            _ => false,
        };
    }
}

/// Waits for the exit code.
fn code(engine: &Engine, exec: &str) -> i32 {
    let until = Instant::now() + CODE_PATIENCE;
    while Instant::now() < until {
        if let Some(code) = engine.exec_code(exec) {
            return code & 0xff;
        }
        // Gone with its container?
        if !engine.knows_exec(exec) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    KILLED
}

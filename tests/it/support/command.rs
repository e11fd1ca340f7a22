//! A command of a world: how it is started, what it says while it runs, and how it ended.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::within;
use super::world::World;

/// How long a command may take where a test does not say.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a signal to a process of a world.
pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
}

/// A command that is to run in a world.
pub struct Command<'w> {
    world: &'w World,
    argv: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: PathBuf,
    stdin: Vec<u8>,
    patience: Duration,
}

impl<'w> Command<'w> {
    pub(super) fn new(world: &'w World, argv: Vec<String>, env: BTreeMap<String, String>) -> Command<'w> {
        Command { world, argv, env, cwd: world.home(), stdin: Vec::new(), patience: PATIENCE }
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Takes a variable away.
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Sets the working directory; `$HOME` else.
    pub fn cwd(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = dir.into();
        self
    }

    /// Sets what it reads; nothing else.
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = text.into();
        self
    }

    /// Sets how long it may take ([`within`]).
    pub fn patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn spawn(self) -> Running<'w> {
        let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let ((in_r, in_w), (out_r, out_w), (err_r, err_w)) = (pipe(), pipe(), pipe());
        let streams = [in_r.as_raw_fd(), out_w.as_raw_fd(), err_w.as_raw_fd()];
        let started = Instant::now();
        let (pid, pidfd) = self.world.warden.spawn(&self.argv, &self.env, &self.cwd, streams).unwrap();
        drop((in_r, out_w, err_w));
        let stdin = self.stdin;
        std::thread::spawn(move || {
            let _ = fs::File::from(in_w).write_all(&stdin);
        });
        Running {
            world: self.world,
            pid,
            pidfd,
            started,
            patience: within(self.patience),
            argv: self.argv,
            stdout: Stream::read(out_r),
            stderr: Stream::read(err_r),
        }
    }

    /// Runs it to its end; panics where it takes too long.
    #[track_caller]
    pub fn run(self) -> Output {
        self.spawn().wait()
    }
}

/// What a stream said so far, and whether it was closed by everyone.
#[derive(Clone)]
struct Stream(Arc<(Mutex<(Vec<u8>, bool)>, Condvar)>);

impl Stream {
    fn read(fd: OwnedFd) -> Stream {
        let shared = Arc::new((Mutex::new((Vec::new(), false)), Condvar::new()));
        let stream = Stream(Arc::clone(&shared));
        std::thread::spawn(move || {
            let mut file = fs::File::from(fd);
            let mut buffer = [0; 8192];
            loop {
                let n = file.read(&mut buffer).unwrap_or(0);
                let mut state = shared.0.lock().unwrap();
                state.0.extend_from_slice(&buffer[..n]);
                state.1 |= n == 0;
                shared.1.notify_all();
                if n == 0 {
                    return;
                }
            }
        });
        stream
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.0.lock().unwrap().0).into_owned()
    }

    /// Waits until the text (and whether it is closed) satisfies `enough`.
    fn wait(&self, deadline: Instant, enough: impl Fn(&str, bool) -> bool) -> bool {
        let mut state = self.0.0.lock().unwrap();
        loop {
            if enough(&String::from_utf8_lossy(&state.0), state.1) {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.0.1.wait_timeout(state, left).unwrap().0;
        }
    }
}

/// A command that runs. Dropped, it is killed.
pub struct Running<'w> {
    world: &'w World,
    /// Its process.
    pub pid: i32,
    pidfd: OwnedFd,
    started: Instant,
    patience: Duration,
    argv: Vec<String>,
    stdout: Stream,
    stderr: Stream,
}

impl Running<'_> {
    /// Gets what it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Gets what it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until its standard output contains `text`; panics where it does not in time.
    #[track_caller]
    pub fn says(&self, text: &str) {
        let deadline = self.started + self.patience;
        if !self.stdout.wait(deadline, |said, closed| said.contains(text) || closed)
            || !self.stdout.text().contains(text)
        {
            panic!("{:?} never said {text:?}\nstdout:\n{}\nstderr:\n{}", self.argv, self.stdout(), self.stderr());
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, sent: nix::sys::signal::Signal) {
        signal(self.pid, sent);
    }

    /// Tells whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// Waits for its process, at most for `limit` ([`within`]); tells whether it has ended.
    pub fn ends_within(&self, limit: Duration) -> bool {
        self.ends_before(Instant::now() + within(limit))
    }

    fn ends_before(&self, deadline: Instant) -> bool {
        let mut polled = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // One wait of the system call is a minute at most; the deadline may be further away.
            let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
            match poll(&mut polled, PollTimeout::from(millis)) {
                Err(nix::Error::EINTR) => {}
                Ok(0) if left > Duration::from_millis(millis.into()) => {}
                result => return result.is_ok_and(|n| n > 0),
            }
        }
    }

    /// Waits for its end, and for the end of its output, as `$(...)` does; panics where it takes too long.
    #[track_caller]
    pub fn wait(self) -> Output {
        let deadline = self.started + self.patience;
        let ended = self.ends_before(deadline);
        if !ended {
            signal(self.pid, nix::sys::signal::SIGQUIT);
            self.ends_within(Duration::from_secs(1));
        }
        let closed = |_: &str, closed: bool| closed;
        let whole = ended && self.stdout.wait(deadline, closed) && self.stderr.wait(deadline, closed);
        let elapsed = self.started.elapsed();
        let mut code = None;
        self.world.until(Duration::from_secs(5), || {
            code = self.world.warden.status(self.pid);
            code.is_some() || !ended
        });
        let output = Output { code: code.unwrap_or(-1), stdout: self.stdout(), stderr: self.stderr(), elapsed };
        assert!(ended, "{:?} did not end within {:?}\n{output}", self.argv, self.patience);
        assert!(whole, "{:?} ended, but somebody keeps its output open\n{output}", self.argv);
        output
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.has_ended() {
            signal(self.pid, nix::sys::signal::SIGKILL);
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From its start until its output was closed.
    pub elapsed: Duration,
}

impl Output {
    /// Asserts that it failed as promised: exit code, kind, the place (or what it is about), and one thing to do.
    #[track_caller]
    pub fn fails(&self, code: i32, kind: &str, place: &str, hint: &str) {
        assert!(!place.is_empty() && !hint.is_empty(), "nothing would be asserted");
        assert_eq!(self.code, code, "{self}");
        let said = &self.stderr;
        assert_eq!(said.matches("error[").count(), 1, "one error: {self}");
        let message = said.split_once(&format!("error[{kind}]: "));
        let message = message.unwrap_or_else(|| panic!("kind {kind}: {self}")).1;
        assert!(!message.starts_with(&format!("{kind}: ")), "the kind is said twice: {self}");
        let placed = said.lines().any(|l| !l.contains("= hint: ") && l.contains(place));
        assert!(placed, "place {place:?}: {self}");
        let hinted = said.lines().any(|l| l.contains("= hint: ") && l.contains(hint));
        assert!(hinted, "hint {hint:?}: {self}");
        assert!(!said.contains("panicked"), "{self}");
    }

    /// Asserts how it ended; shows what it said where that is not so.
    #[track_caller]
    pub fn expect(self, code: i32) -> Output {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Gets the lines of standard output as JSON; lines that are none are left out.
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit {} after {:?}\nstdout:\n{}\nstderr:\n{}", self.code, self.elapsed, self.stdout, self.stderr)
    }
}

//! The keeper: a small host process that holds one bottle for its whole life.
//!
//! It is the parent of the bottle's pid 1 and holds what must outlive a controller: the listeners, the sealed part of
//! the spec, the output streams, the exit record. It never reads the sealed part, never accepts a connection and decides
//! nothing. While no controller is connected, connections wait in the listeners: the bottle's way out is paused, not open.
//!
//! Single-threaded, so that it may fork; one poll loop; no runtime.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use nix::sys::socket as sock;

use super::backend::{Backend, Fate};
use super::caller::Caller;
use super::exec::{Exec, reap};
use super::output::{MAX_FRAME, Stream, Writer};
use super::plan::Plan;
use super::wire::{self, End, ExecRecord, Listener, Reply, Request, TerminalSize};
use crate::error::{Error, Kind};
use crate::os::ready::Waiting;

mod start;

pub use start::{keep, own_socket};

/// How long a keeper waits for a controller to come back by itself before it starts one.
const GRACE: Duration = Duration::from_millis(300);

/// Longest pause between two attempts to start one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Most execs that one bottle may have had; a bound on the record.
const MOST_EXECS: usize = 4096;

/// Most frames that are still read from a pipe after its exec's end: somebody may hold it open and write for ever. It
/// holds more than a pipe does.
const MOST_LEFT_OVER: usize = 64;

struct Keeper {
    plan: Plan,
    sealed: OwnedFd,
    log: Writer,
    /// Where controllers that come back connect.
    door: OwnedFd,
    /// The controller, if one is connected.
    controller: Option<Caller>,
    /// The bottle; `None` once it has ended.
    up: Option<Box<dyn Backend>>,
    /// The guard that is gone.
    guard_lost: Option<String>,
    /// What controllers want each other to know.
    note: Option<String>,
    /// Its processes are stopped.
    paused: bool,
    /// Listeners are kept even after the end: a hello must not differ.
    listeners: Vec<(Listener, OwnedFd)>,
    execs: BTreeMap<u32, Exec>,
    /// When to try to start a controller next, and the pause after that.
    start_at: Option<(Instant, Duration)>,
    /// Asked to go.
    leaving: bool,
    /// What is known of the bottle's end beside its agent's code.
    end: End,
}

fn failed(step: &str, e: impl std::fmt::Display) -> Error {
    Error::new(Kind::BackendUnavailable, format!("keeper: {step}: {e}"))
}

/// What this keeper understands beyond the frozen verbs.
fn verbs() -> Vec<String> {
    wire::VERBS.map(str::to_owned).into()
}

/// What became readable.
enum Ready {
    Door,
    Controller,
    Bottle,
    Ended(u32),
    Output(u32, Stream),
    Room(u32),
}

impl Keeper {
    fn run(&mut self) {
        while !(self.leaving && self.up.is_none()) {
            for ready in self.wait() {
                match ready {
                    Ready::Door => self.accept(),
                    Ready::Controller => self.serve(),
                    Ready::Bottle => self.look(),
                    Ready::Ended(exec) => self.exec_ended(exec),
                    Ready::Output(exec, stream) => {
                        self.copy_output(exec, stream);
                    }
                    Ready::Room(exec) => {
                        if let Some(exec) = self.execs.get_mut(&exec) {
                            exec.flush();
                        }
                    }
                }
            }
            self.start_controller_if_due();
        }
        let _ = std::fs::remove_file(&self.plan.socket);
        self.say_ended();
    }

    fn say_ended(&mut self) {
        self.say(Reply::Ended(self.end.clone()));
    }

    /// Waits for whatever comes first.
    fn wait(&self) -> Vec<Ready> {
        let mut waiting = Waiting::default();
        // A lost guard first: nothing else matters more.
        if let Some(mounts) = self.up.as_ref().and_then(|up| up.mounts()) {
            waiting.add(Ready::Bottle, mounts, PollFlags::POLLPRI);
        }
        waiting.add(Ready::Door, self.door.as_fd(), PollFlags::POLLIN);
        if let Some(controller) = &self.controller {
            let room = if controller.is_behind() { PollFlags::POLLOUT } else { PollFlags::empty() };
            waiting.add(Ready::Controller, controller.as_fd(), PollFlags::POLLIN | room);
        }
        for event in self.up.iter().flat_map(|up| up.events()) {
            waiting.add(Ready::Bottle, event, PollFlags::POLLIN);
        }
        for (&n, exec) in &self.execs {
            // Output first: what was written before the end is logged before the end is told.
            for (fd, stream) in [(&exec.stdout, Stream::Out), (&exec.stderr, Stream::Err)] {
                if let Some(fd) = fd {
                    waiting.add(Ready::Output(n, stream), fd.as_fd(), PollFlags::POLLIN);
                }
            }
            if let Some(fd) = exec.wants_room() {
                waiting.add(Ready::Room(n), fd, PollFlags::POLLOUT);
            }
            if let Some(fd) = &exec.pidfd {
                waiting.add(Ready::Ended(n), fd.as_fd(), PollFlags::POLLIN);
            }
        }
        let timeout = self.start_at.map_or(PollTimeout::NONE, |(at, _)| {
            let left = at.saturating_duration_since(Instant::now()).as_millis().min(60_000) as u16;
            PollTimeout::from(left.saturating_add(1))
        });
        waiting.wait(timeout)
    }

    /// A controller that comes back takes the place of the one before.
    fn accept(&mut self) {
        let Ok(fd) = sock::accept4(self.door.as_raw_fd(), sock::SockFlag::SOCK_CLOEXEC) else { return };
        // SAFETY: accept4 has just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let same_user = sock::getsockopt(&fd, sock::sockopt::PeerCredentials)
            .is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw());
        if same_user && let Ok(caller) = Caller::new(fd) {
            self.controller = Some(caller);
            self.start_at = None;
        }
    }

    /// Tells the controller, if there is one.
    fn say(&mut self, reply: Reply) {
        self.say_with(reply, &[]);
    }

    fn say_with(&mut self, reply: Reply, fds: &[RawFd]) {
        if let Some(controller) = &mut self.controller
            && controller.say(reply, fds).is_err()
        {
            self.lost_controller();
        }
    }

    fn lost_controller(&mut self) {
        self.controller = None;
        self.start_at = Some((Instant::now() + GRACE, GRACE));
    }

    /// Answers one request.
    fn serve(&mut self) {
        let Some(controller) = &mut self.controller else { return };
        let request = match controller.flush().and_then(|()| controller.request()) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            // A packet of a controller that knows more verbs.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return self.say(Reply::Failed { error: Error::new(Kind::Usage, "the keeper knows no such verb") });
            }
            Err(_) => return self.lost_controller(),
        };
        match request {
            Request::Start => self.say(Reply::Failed { error: Error::new(Kind::Usage, "the bottle is up") }),
            Request::Hello => self.hello(),
            Request::Listeners => {
                let (kinds, fds) = self.listener_list();
                self.say_with(Reply::Listeners { listeners: kinds }, &fds);
            }
            Request::Listen { port } => self.listen(port),
            Request::Unlisten { ports } => {
                self.listeners.retain(|(kind, _)| !matches!(kind, Listener::Tcp { port } if ports.contains(port)));
                self.say(Reply::Done);
            }
            Request::Exec(command) => self.exec(&command),
            Request::Signal { exec, signal } => {
                let reply = match (self.execs.get(&exec), Signal::try_from(signal)) {
                    (Some(e), Ok(signal)) if e.pidfd.is_some() => {
                        if let Some(up) = &mut self.up {
                            up.signal(e.pid, signal);
                        }
                        Reply::Done
                    }
                    _ => Reply::Failed { error: Error::new(Kind::Usage, "no such exec, or no such signal") },
                };
                self.say(reply);
            }
            Request::Input { exec, from, seq, data, end, once } => {
                self.say_of(exec, |e| e.feed(&from, seq, &data, end, once));
            }
            Request::Resize { exec, rows, cols } => self.say_of(exec, |e| e.resize(TerminalSize { rows, cols })),
            Request::Note { note } => self.note = Some(note),
            Request::Root => match self.up.as_mut().map(|up| up.root()) {
                Some(Ok(fd)) => self.say_with(Reply::Root { agent: Some(self.plan.agent()) }, &[fd.as_raw_fd()]),
                Some(Err(error)) => self.say(Reply::Failed { error }),
                None => self.say(Reply::Failed { error: Error::new(Kind::NoSuchBottle, "the bottle has ended") }),
            },
            Request::Pause => self.pause(true),
            Request::Thaw => self.pause(false),
            Request::Kill => self.kill_all(),
            Request::Exit => {
                self.leaving = true;
                self.kill_all();
            }
        }
    }

    /// Says what an exec answers.
    fn say_of(&mut self, exec: u32, answer: impl FnOnce(&mut Exec) -> Reply) {
        let reply = match self.execs.get_mut(&exec) {
            Some(exec) => answer(exec),
            None => Reply::Failed { error: Error::new(Kind::Usage, "no such exec") },
        };
        self.say(reply);
    }

    fn listener_list(&self) -> (Vec<Listener>, Vec<RawFd>) {
        self.listeners.iter().map(|(kind, fd)| (*kind, fd.as_raw_fd())).unzip()
    }

    fn hello(&mut self) {
        let execs: Vec<ExecRecord> =
            self.execs.iter().map(|(&exec, e)| ExecRecord { exec, id: e.id.clone(), code: e.code }).collect();
        let record = serde_json::to_vec(&execs).map_err(io::Error::from).and_then(|text| wire::sealed("execs", &text));
        let record = match record {
            Ok(record) => record,
            Err(e) => return self.say(Reply::Failed { error: failed("record", e) }),
        };
        let (listeners, mut fds) = self.listener_list();
        fds.splice(0..0, [self.sealed.as_raw_fd(), record.as_raw_fd()]);
        let reply = Reply::Hello {
            slug: self.plan.slug.clone(),
            keeper: nix::unistd::getpid().as_raw(),
            pid: self.up.as_ref().map(|up| up.pid()),
            listeners,
            note: self.note.clone(),
            guard_lost: self.guard_lost.clone(),
            verbs: verbs(),
            paused: Some(self.paused),
            end: self.end.clone(),
        };
        self.say_with(reply, &fds);
    }

    /// Opens a listener in the gate.
    fn listen(&mut self, port: u16) {
        let made = match &mut self.up {
            Some(up) => up.listen(port),
            None => Err(failed("listen", "the bottle has ended")),
        };
        match made {
            Ok(fd) => {
                self.say_with(Reply::Listeners { listeners: vec![Listener::Tcp { port }] }, &[fd.as_raw_fd()]);
                self.listeners.push((Listener::Tcp { port }, fd));
            }
            Err(error) => self.say(Reply::Failed { error }),
        }
    }

    fn exec(&mut self, command: &wire::Command) {
        if let Some((&exec, e)) = self.execs.iter().find(|(_, e)| e.id == command.id) {
            let (id, code) = (e.id.clone(), e.code);
            self.say(Reply::Started { exec, id });
            if let Some(code) = code {
                self.say(Reply::Exited { exec, code });
            }
            return;
        }
        let result = match &mut self.up {
            _ if self.paused => Err(Error::new(Kind::Usage, "the bottle is paused").hint("`bb thaw` lets it go on")),
            _ if self.execs.len() >= MOST_EXECS => {
                Err(Error::new(Kind::Usage, format!("a bottle may run {MOST_EXECS} commands")))
            }
            Some(up) => up.exec(command),
            None => Err(Error::new(Kind::NoSuchBottle, "the bottle has ended")),
        };
        match result {
            Ok(running) => {
                let exec = self.execs.len() as u32;
                self.execs.insert(exec, Exec::new(command.id.clone(), running));
                self.say(Reply::Started { exec, id: command.id.clone() });
            }
            Err(error) => self.say(Reply::Failed { error }),
        }
    }

    /// Copies one piece of output into the log. Returns whether there may be more.
    fn copy_output(&mut self, exec: u32, stream: Stream) -> bool {
        let Some(e) = self.execs.get_mut(&exec) else { return false };
        let slot = if stream == Stream::Out { &mut e.stdout } else { &mut e.stderr };
        let Some(fd) = slot.take() else { return false };
        let mut file = std::fs::File::from(fd);
        let mut buffer = [0u8; MAX_FRAME];
        let read = file.read(&mut buffer);
        let keep = !matches!(&read, Ok(0)) && !matches!(&read, Err(e) if e.kind() != io::ErrorKind::WouldBlock);
        if keep {
            *slot = Some(file.into());
        }
        match read {
            Ok(n) if n > 0 => {
                // A full disk loses output, never the bottle.
                if let Ok(n) = self.log.append(exec, stream, &buffer[..n]) {
                    self.say(Reply::Output { n });
                }
                true
            }
            _ => false,
        }
    }

    fn exec_ended(&mut self, exec: u32) {
        if exec == 0 {
            // The agent's end is the bottle's end: nothing that it left behind goes on.
            self.ask_memory();
            self.kill_all();
        }
        let Some(e) = self.execs.get_mut(&exec) else { return };
        e.pidfd = None;
        let code = reap(e.pid);
        for stream in [Stream::Out, Stream::Err] {
            for _ in 0..MOST_LEFT_OVER {
                if !self.copy_output(exec, stream) {
                    break;
                }
            }
        }
        if let Some(e) = self.execs.get_mut(&exec) {
            e.ended(code);
        }
        self.say(Reply::Exited { exec, code });
    }

    /// Something has become of the bottle.
    fn look(&mut self) {
        match self.up.as_mut().map_or(Fate::Lives, |up| up.fate()) {
            Fate::Lives => {}
            // What an agent may have written there since, nobody can tell, so the bottle goes.
            Fate::GuardLost(path) => {
                self.kill_all();
                self.guard_lost = Some(path.clone());
                self.say(Reply::GuardLost { path });
            }
            Fate::GateLost(why) => {
                self.end.lost.get_or_insert(why);
                self.kill_all();
            }
            Fate::Ended => self.bottle_ended(),
        }
    }

    /// Stops the bottle's processes, or lets them go on.
    fn pause(&mut self, on: bool) {
        let done = match &mut self.up {
            Some(up) => up.pause(on),
            None => Err(Error::new(Kind::NoSuchBottle, "the bottle has ended")),
        };
        match done {
            Ok(()) => {
                self.paused = on;
                self.say(Reply::Done);
            }
            Err(error) => self.say(Reply::Failed { error }),
        }
    }

    /// Asks why the agent may have died, while somebody knows.
    fn ask_memory(&mut self) {
        self.end.out_of_memory |= self.up.as_ref().is_some_and(|up| up.ran_out_of_memory());
    }

    fn kill_all(&mut self) {
        if let Some(up) = &mut self.up {
            up.kill();
        }
    }

    /// Pid 1 is dead, and with it every process of the bottle.
    fn bottle_ended(&mut self) {
        if self.execs.get(&0).is_some_and(|agent| agent.code.is_none()) {
            self.ask_memory();
        }
        let Some(mut up) = self.up.take() else { return };
        up.clear();
        drop(up);
        let running: Vec<u32> = self.execs.iter().filter(|(_, e)| e.pidfd.is_some()).map(|(&n, _)| n).collect();
        for exec in running {
            self.exec_ended(exec);
        }
        if !self.leaving {
            self.say_ended();
        }
    }

    /// Starts a controller when none has come back: the bottle shall not stay without a way out for want of a reader.
    fn start_controller_if_due(&mut self) {
        let Some((at, pause)) = self.start_at else { return };
        if Instant::now() < at {
            return;
        }
        let next = (pause * 2).min(LONGEST_PAUSE);
        self.start_at = Some((Instant::now() + next, next));
        let starter = &self.plan.controller;
        if starter.stopped.exists() {
            return;
        }
        let mut process = Process::new(&starter.exe);
        process.arg("__controller").env_clear();
        process.envs(starter.env.iter().filter_map(|v| v.split_once('=')));
        process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Ok(mut child) = process.spawn() {
            // It makes itself a daemon and the first process ends at once.
            let _ = child.wait();
        }
    }
}

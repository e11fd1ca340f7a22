//! The container backend: a bottle out of two containers of a Docker or Podman engine on this machine.
//!
//! * [`engine`]: the engine's socket and verbs; [`http`]: what is spoken there. [`spec`]: what it is asked for.
//! * [`inside`]: pid 1 and the way in, in the agent's container. [`helper`]: the gate's container.
//! * [`record`]: where a bottle's containers are, for whoever clears up.
//! * [`commit`]: saves the agent's home; [`archive`]: the form of that.
//! * [`own`]: the static build of bb that is shown in both.
//! * [`image`]: images are built, pulled, listed and removed; [`session`], [`protobuf`], [`tar`] and [`lines`]: what that takes.
//! * [`layer`]: a layer over the workspace. [`volumes`]: what an image calls so, shown read-only.
//! * [`still`]: pauses where the engine cannot.
//! * [`life`]: the streams by which container and keeper notice each other's end.
//! * [`exec`]: commands; [`relay`] and [`supervise`] are the two ends of each, and [`frames`] is what they speak.
//!
//! The agent's container has no network of the engine. The helper's shares its network namespace, makes every address local
//! and the listeners in it, and hands them to the keeper, as the embedded backend's gate does. Both containers end with the
//! keeper, and the engine removes them; what a crash of the engine leaves is found by its labels ([`sweep`]).

mod archive;
pub mod commit;
pub mod engine;
mod exec;
mod frames;
pub mod helper;
mod http;
pub mod image;
pub mod inside;
pub mod layer;
mod life;
mod lines;
mod own;
pub mod protobuf;
mod record;
mod relay;
mod root;
mod session;
mod spec;
mod still;
mod supervise;
mod tar;
mod volumes;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket as sock;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use self::engine::Engine;
use self::inside::{Orders, Word};
use self::life::{Found, Life};
pub use self::own::{is_image_name, own_helper};
pub use self::record::sweep;
use self::record::{RECORD, Record, clear_rest, remove_all};
pub use self::relay::Control;
pub use self::spec::OWN;
use self::supervise::Entry;
use super::backend::{Backend, Fate, Running};
use super::cgroup;
use super::linux::{landlock, sys};
use super::plan::{Image, Plan};
use super::wire::{self, Command, Listener, Reply, Request};
use crate::error::{Error, Kind, Result};
use crate::os::process::{Fork, fork_with};

/// The image of the helper's container: it holds nothing.
pub const EMPTY_IMAGE: &str = "bb-empty:latest";

/// Longest that a container may take from its start to its first word.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file of the bottle that the host shows.
#[derive(Clone, Debug)]
struct Shown {
    source: PathBuf,
    target: PathBuf,
}

/// A bottle out of containers.
#[derive(Debug)]
pub struct Container {
    engine: Engine,
    agent: String,
    helper: String,
    life: Life,
    /// The connection to the helper; it ends with it.
    gate: OwnedFd,
    /// It has ended before the agent's container.
    gate_lost: bool,
    /// Limits that the engine does not enforce, with its words.
    lacking: Vec<String>,
    pid: i32,
    /// The control groups that bound its memory, where they can be seen from here.
    groups: Vec<PathBuf>,
    listeners: Vec<(Listener, OwnedFd)>,
    /// What speaks to the commands, by the process ids of the keeper's children.
    commands: BTreeMap<i32, Control>,
    /// Where they may write.
    writable: Vec<PathBuf>,
    /// By which the container is known.
    mark: root::Mark,
    record: PathBuf,
    /// The process that asks the engine to kill it.
    killer: Option<i32>,
}

fn failed(step: &str, e: impl std::fmt::Display) -> Error {
    Error::new(Kind::BackendUnavailable, format!("{step}: {e}"))
        .hint("run `bb doctor`: it tries what an engine has to do")
}

/// Containers under way: removed, unless they become a bottle.
struct Under<'a> {
    engine: &'a Engine,
    made: Vec<String>,
    dir: PathBuf,
    record: PathBuf,
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        for id in self.made.iter().rev() {
            self.engine.remove(id);
        }
        let _ = fs::remove_dir_all(&self.dir);
        clear_rest(self.engine, &self.record);
    }
}

impl Container {
    /// Builds the bottle of `plan`.
    ///
    /// # Errors
    /// `backend_unavailable` with what the engine lacks or refuses.
    pub fn up(plan: &Plan, image: &Image) -> Result<Container> {
        let engine = Engine::find(image.engine.as_deref())?;
        let Some(said) = engine.image(&image.name)? else { return Err(engine.lacks(&image.name)) };
        if !plan.masks.is_empty() || plan.binds.iter().any(|b| b.idmap || b.device) {
            return Err(failed("plan", "it shows what only the embedded backend can show"));
        }
        make_empty_image(&engine)?;
        let labels = spec::labels(&plan.slug, image);
        remove_all(&engine, &labels)?;
        let record = image.state.join(RECORD);
        let known = Record { engine: engine.socket().to_owned(), labels, layer: layer::Kept::of(plan, image) };
        let text = serde_json::to_vec(&known).unwrap_or_default();
        fs::write(&record, text).map_err(|e| failed("record", e))?;
        let dir = plan.socket.with_extension("d");
        let mut under = Under { engine: &engine, made: vec![], dir: dir.clone(), record: record.clone() };

        let (shown, placed) = files(plan, image)?;
        let mark = root::Mark::of(&shown);
        let name = |role: &str| format!("bb-{}-{role}-{}", plan.slug, nix::unistd::getpid());
        let volume = name("layer");
        layer::make(&engine, plan, image, &volume)?;
        let mut spec_of_agent = spec::agent(&engine, plan, image, &shown, &volume);
        volumes::hold(&engine, plan, image, &said, &name("volume"), &mut spec_of_agent)?;
        let (agent, warnings) = engine.create_warned(&name("agent"), &spec_of_agent)?;
        under.made.push(agent.clone());
        let lacking = spec::lacking(&engine, image, &warnings);
        if let (false, Some(why)) = (image.best_effort, lacking.first()) {
            return Err(Error::new(Kind::BackendUnavailable, format!("a limit cannot be enforced here: {why}"))
                .at("limits")
                .hint("use an engine that is run by root, or say `best_effort`"));
        }
        let mut life = Life::new(engine.attach(&agent)?);
        engine.start(&agent)?;
        life.order(&placed).map_err(|e| failed("orders", e))?;
        match life.word(PATIENCE) {
            Ok(Some(Word::Ready(_))) => {}
            Ok(Some(Word::Failed(error))) => return Err(error),
            other => {
                let noise: String = String::from_utf8_lossy(&life.noise).chars().take(400).collect();
                return Err(failed("pid 1 of the container", format!("{other:?} {}", noise.trim())));
            }
        }
        life.never_wait().map_err(|e| failed("streams", e))?;

        let door = open_door(&dir).map_err(|e| failed("socket for the helper", e))?;
        let helper = engine.create(&name("gate"), &spec::helper(&engine, plan, image, &agent, &dir))?;
        under.made.push(helper.clone());
        engine.start(&helper)?;
        let (gate, listeners) = meet(&door)?;
        let state = engine.json("GET", &format!("/containers/{agent}/json"), None)?;
        let pid = state["State"]["Pid"].as_i64().and_then(|p| i32::try_from(p).ok()).unwrap_or_default();
        let _ = fs::remove_dir_all(&dir);
        under.made.clear();
        under.record = PathBuf::from("/nonexistent");
        drop(under);
        Ok(Container {
            engine,
            agent,
            helper,
            life,
            gate,
            gate_lost: false,
            lacking,
            pid,
            groups: image.memory.map(|bytes| cgroup::bounding(pid, bytes)).unwrap_or_default(),
            listeners,
            commands: BTreeMap::new(),
            writable: landlock::writable(plan),
            mark,
            record,
            killer: None,
        })
    }
}

/// Parts the files of a plan: those of places that only the bottle has are made by its pid 1, the others are shown.
fn files(plan: &Plan, image: &Image) -> Result<(Vec<Shown>, Orders)> {
    let own = [plan.home.as_path(), Path::new("/tmp"), Path::new("/var/tmp")];
    let (placed, others): (Vec<_>, Vec<_>) = plan
        .files
        .iter()
        .cloned()
        .partition(|f| own.iter().any(|dir| f.path.starts_with(dir)) || f.path.starts_with(&plan.workspace));
    let dir = image.state.join("shown");
    let mut shown = Vec::new();
    for (n, file) in others.into_iter().enumerate() {
        let source = dir.join(n.to_string());
        (|| -> io::Result<()> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            fs::write(&source, file.bytes()?)?;
            fs::set_permissions(&source, fs::Permissions::from_mode(file.mode & 0o777))?;
            if plan.as_root {
                std::os::unix::fs::chown(&source, Some(plan.host_uid), Some(plan.host_gid))?;
            }
            Ok(())
        })()
        .map_err(|e| failed(&source.display().to_string(), e))?;
        shown.push(Shown { source, target: file.path });
    }
    // A scratch workspace is a directory of the home; one of the host's is there already.
    let directories = vec![plan.workspace.clone()];
    let guards = plan.guards.iter().map(|guard| plan.workspace.join(&guard.path)).collect();
    Ok((shown, Orders { directories, files: placed, home: Some(plan.home.clone()), guards }))
}

/// Opens the socket that the helper connects to, in a directory that holds nothing else. The directories above are the
/// user's own; in the container it is opened by somebody else.
fn open_door(dir: &Path) -> io::Result<OwnedFd> {
    let _ = fs::remove_dir_all(dir);
    fs::create_dir(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let path = dir.join("s");
    let flags = sock::SockFlag::SOCK_CLOEXEC | sock::SockFlag::SOCK_NONBLOCK;
    let door = sock::socket(sock::AddressFamily::Unix, sock::SockType::SeqPacket, flags, None)?;
    sock::bind(door.as_raw_fd(), &sock::UnixAddr::new(&path)?)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    sock::listen(&door, sock::Backlog::new(1)?)?;
    Ok(door)
}

/// Waits for the helper and takes its listeners.
fn meet(door: &OwnedFd) -> Result<(OwnedFd, Vec<(Listener, OwnedFd)>)> {
    let millis = u16::try_from(PATIENCE.as_millis()).unwrap_or(u16::MAX);
    let mut fds = [PollFd::new(door.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(millis)).map_err(|e| failed("helper", e))? == 0 {
        return Err(failed("helper", "its container has started and does not connect"));
    }
    let gate = sock::accept4(door.as_raw_fd(), sock::SockFlag::SOCK_CLOEXEC).map_err(|e| failed("helper", e))?;
    // SAFETY: accept4 has just made this descriptor for us.
    let gate = unsafe { OwnedFd::from_raw_fd(gate) };
    let patience = nix::sys::time::TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    sock::setsockopt(&gate, sock::sockopt::ReceiveTimeout, &patience).map_err(|e| failed("helper", e))?;
    match wire::receive::<Reply>(&gate) {
        Ok(Some((Reply::Listeners { listeners }, fds))) if listeners.len() == fds.len() && !fds.is_empty() => {
            Ok((gate, listeners.into_iter().zip(fds).collect()))
        }
        Ok(Some((Reply::Failed { error }, _))) => Err(error),
        other => Err(failed("helper", format!("{other:?}"))),
    }
}

impl Backend for Container {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn listeners(&mut self) -> Vec<(Listener, OwnedFd)> {
        std::mem::take(&mut self.listeners)
    }

    fn lacking(&self) -> Vec<String> {
        self.lacking.clone()
    }

    fn events(&self) -> Vec<BorrowedFd<'_>> {
        let gate = (!self.gate_lost).then(|| self.gate.as_fd());
        gate.into_iter().chain([self.life.as_fd()]).collect()
    }

    fn fate(&mut self) -> Fate {
        match self.life.look() {
            Found::End => return Fate::Ended,
            Found::Word(Word::GuardLost(path)) => return Fate::GuardLost(path),
            Found::Word(_) | Found::Nothing => {}
        }
        // The helper says nothing unasked: what can be read here is its end.
        let mut fds = [PollFd::new(self.gate.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::ZERO) {
            // Told once; what follows is the end of the agent's container.
            Ok(n) if n > 0 && !std::mem::replace(&mut self.gate_lost, true) => {
                Fate::GateLost("the container that holds its way out has ended".to_owned())
            }
            _ => Fate::Lives,
        }
    }

    fn exec(&mut self, command: &Command) -> Result<Running> {
        // Those of commands that have ended are let go.
        self.commands.retain(|_, control| control.is_heard());
        let entry = Entry { command: command.clone(), writable: self.writable.clone() };
        let (running, control) = exec::run(&self.engine, &self.agent, &entry)?;
        self.commands.insert(running.pid, control);
        Ok(running)
    }

    fn signal(&mut self, pid: i32, signal: Signal) {
        if let Some(control) = self.commands.get(&pid) {
            // One that does not hear it any more has ended.
            let _ = control.signal(signal);
        }
    }

    fn listen(&mut self, port: u16) -> Result<OwnedFd> {
        wire::send(&self.gate, &Request::Listen { port }, &[]).map_err(|e| failed("helper", e))?;
        match wire::receive::<Reply>(&self.gate) {
            Ok(Some((Reply::Listeners { .. }, mut fds))) if fds.len() == 1 => Ok(fds.remove(0)),
            Ok(Some((Reply::Failed { error }, _))) => Err(error),
            other => Err(failed("helper", format!("{other:?}"))),
        }
    }

    fn pause(&mut self, on: bool) -> Result<()> {
        if self.engine.boundless {
            still::set(&self.engine, &self.agent, on)
        } else {
            self.engine.pause(&self.agent, on)
        }
    }

    fn ran_out_of_memory(&self) -> bool {
        cgroup::ran_out_of_memory(&self.groups)
    }

    fn root(&mut self) -> Result<OwnedFd> {
        root::open(&self.engine, &self.agent, self.pid, &self.mark)
    }

    fn kill(&mut self) {
        // Pid 1 ends when it hears nothing any more; the engine ends one that is held up. Podman answers only when the
        // container is gone, which it cannot be while the helper is there, so nobody waits for that.
        self.life.hang_up();
        if self.killer.is_some() {
            return;
        }
        // SAFETY: the keeper is single-threaded.
        match unsafe { fork_with(0) } {
            Ok(Fork::Child) => {
                sys::close_all_but(&[]);
                let _ = sys::die_with_parent();
                self.engine.kill(&self.agent);
                sys::exit_now(0);
            }
            Ok(Fork::Parent(pid)) => self.killer = Some(pid),
            Err(_) => self.engine.kill(&self.agent),
        }
    }

    fn clear(&mut self) {
        // In this order: Podman removes none whose network another one uses.
        self.engine.remove(&self.helper);
        self.engine.remove(&self.agent);
        clear_rest(&self.engine, &self.record);
        if let Some(pid) = self.killer.take() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(pid), None);
        }
    }
}

/// Makes the image of the helper's container, where the engine has none.
///
/// # Errors
/// The engine's.
pub fn make_empty_image(engine: &Engine) -> Result<()> {
    if engine.image(EMPTY_IMAGE)?.is_some() {
        return Ok(());
    }
    let (repository, tag) = EMPTY_IMAGE.split_once(':').unwrap_or((EMPTY_IMAGE, "latest"));
    // An archive without an entry: blocks of zeros.
    engine.import(repository, tag, &[0u8; 10 * 1024])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bottle::plan::{Bind, Guard, PlannedFile, Starter};

    pub(super) fn plan() -> Plan {
        Plan {
            slug: "demo".to_owned(),
            socket: "/run/k/demo.sock".into(),
            log: "/state/output.log".into(),
            host_uid: 1001,
            host_gid: 1001,
            as_root: false,
            binds: vec![Bind { rw: true, ..Bind::read_only("/w") }],
            links: vec![],
            masks: vec![],
            guards: vec![
                Guard { path: ".git".into(), read_only: false },
                Guard { path: ".git/hooks".into(), read_only: true },
            ],
            files: vec![
                PlannedFile { path: "/etc/passwd".into(), text: "x".to_owned(), base64: false, mode: 0o644 },
                PlannedFile { path: "/home/agent/.x".into(), text: "y".to_owned(), base64: false, mode: 0o600 },
            ],
            home: "/home/agent".into(),
            scratch_bytes: 1 << 20,
            workspace: "/w".into(),
            ports: vec![80, 443],
            controller: Starter { exe: "/bb".into(), env: vec![], stopped: "/stopped".into() },
            one_scratch: false,
            cgroups: vec![],
            overlay: None,
            image: Some(Image {
                best_effort: false,
                memory: None,
                cpus: None,
                pids: None,
                name: "debian:12".to_owned(),
                engine: None,
                helper: "/usr/libexec/bb".into(),
                state: std::env::temp_dir().join(format!("bb-docker-{}", std::process::id())),
                home: "/home/alice/.bot-bottle".into(),
            }),
        }
    }

    #[test]
    fn files_of_the_bottles_own_places_are_made_there_and_others_are_shown() {
        let plan = plan();
        let image = plan.image.clone().unwrap();
        fs::create_dir_all(&image.state).unwrap();
        let (shown, orders) = files(&plan, &image).unwrap();
        assert_eq!(shown.len(), 1);
        assert_eq!(shown[0].target, Path::new("/etc/passwd"));
        assert_eq!(fs::read_to_string(&shown[0].source).unwrap(), "x");
        assert_eq!(orders.files[0].path, Path::new("/home/agent/.x"));
        assert_eq!(orders.guards, [PathBuf::from("/w/.git"), PathBuf::from("/w/.git/hooks")]);
        fs::remove_dir_all(&image.state).unwrap();
    }
}

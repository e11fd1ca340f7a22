//! The choreography that sets a bottle up.
//!
//! ```text
//! keeper ── fork ──> set-up process: becomes the agent's user, makes the user namespace and the gate,
//!    │                    │          makes the listeners, then pid 1, then the veth; ends
//!    │                    └─ clone ──> pid 1: agent's side of the network, root file system; confined; reaps
//!    └ parent of pid 1 (CLONE_PARENT), holds the listeners and one descriptor for each namespace
//! ```
//!
//! Each process reports to the keeper over one packet socket. Nothing of the bottle runs before both have said so.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::sys;
use super::{AGENT_ID, confine, forbidden, gate, init, landlock, listeners, root};
use crate::bottle::plan::Plan;
use crate::bottle::wire::{self, Listener};
use crate::error::{Error, Kind, Result};
use crate::os::process::{Fork, Process, fork_with};

/// Longest that a set-up step may take before the keeper gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Namespaces of the agent, in the order in which [`super::enter`] joins them: the user namespace first, for the
/// capabilities over the others; the pid namespace last, it counts for children only.
pub const NAMESPACES: [&str; 7] = ["user", "ipc", "uts", "net", "cgroup", "mnt", "pid"];

/// A bottle that is up and in which nothing runs yet.
#[derive(Debug)]
pub struct Up {
    /// Process id of its pid 1, on the host.
    pub pid: i32,
    /// Descriptor of that process.
    pub pidfd: OwnedFd,
    /// Its namespaces, by [`NAMESPACES`].
    pub namespaces: Vec<OwnedFd>,
    /// What listens in the gate.
    pub listeners: Vec<(Listener, OwnedFd)>,
    /// A descriptor of the gate's network namespace.
    pub gate: OwnedFd,
    /// Where its processes may write; the second layer holds them to it.
    pub writable: Vec<std::path::PathBuf>,
    /// By what its processes join their control groups.
    pub doors: Vec<std::fs::File>,
}

/// What the two processes report.
#[derive(serde::Serialize, serde::Deserialize)]
enum Report {
    Gate { pid: i32, listeners: Vec<Listener> },
    Inside,
    Failed { error: Error },
}

fn failed(step: &str, e: impl std::fmt::Display) -> Error {
    Error::new(Kind::BackendUnavailable, format!("{step}: {e}"))
        .hint("run `bb doctor`: it tries each step and says which fails")
}

/// Sets up the bottle of `plan`. The calling process must be single-threaded.
///
/// # Errors
/// `userns_forbidden`, `fs_unsupported`, or `backend_unavailable` with the step that failed.
pub fn up(plan: &Plan) -> Result<Up> {
    let (ours, theirs) = wire::pair().map_err(|e| failed("socket pair", e))?;
    let patience = nix::sys::time::TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&ours, sockopt::ReceiveTimeout, &patience).map_err(|e| failed("socket option", e))?;
    // The translation of ids needs rights over the host's file systems, so it is made before they are given up.
    let idmap = if plan.binds.iter().chain(plan.overlay.iter().map(|o| &o.lower)).any(|b| b.idmap) {
        Some(idmap_namespace(plan).map_err(|e| failed("id translation", e))?)
    } else {
        None
    };
    // SAFETY: the keeper is single-threaded.
    let setup = match unsafe { fork_with(0) }.map_err(|e| failed("fork", e))? {
        Fork::Child => {
            drop(ours);
            let code = match set_up(plan, &theirs, idmap.as_ref()) {
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
    drop(theirs);
    let result = collect(&ours).map(|up| Up { writable: landlock::writable(plan), ..up });
    let _ = waitpid(Pid::from_raw(setup), None);
    result
}

/// Waits for both reports: the gate's with pid 1 and the listeners, and the inside's with the namespaces.
fn collect(ours: &OwnedFd) -> Result<Up> {
    let mut gate: Option<(i32, Vec<Listener>, Vec<OwnedFd>)> = None;
    let mut namespaces: Option<Vec<OwnedFd>> = None;
    let error = loop {
        if namespaces.is_some()
            && let Some((pid, kinds, mut fds)) = gate.take()
        {
            let pidfd = Process::open(pid).map_err(|e| failed("pid 1", e))?.into();
            let gate = fds.remove(0);
            let listeners = kinds.into_iter().zip(fds).collect();
            let namespaces = namespaces.unwrap_or_default();
            return Ok(Up { pid, pidfd, namespaces, listeners, gate, writable: Vec::new(), doors: Vec::new() });
        }
        match wire::receive::<Report>(ours) {
            Ok(Some((Report::Gate { pid, listeners }, fds))) if fds.len() == listeners.len() + 1 => {
                gate = Some((pid, listeners, fds));
            }
            Ok(Some((Report::Inside, fds))) if fds.len() == NAMESPACES.len() => namespaces = Some(fds),
            Ok(Some((Report::Failed { error }, _))) => break error,
            Ok(Some(_)) => break failed("set-up", "a report without its descriptors"),
            Ok(None) => break failed("set-up", "a process of the set-up died without a word"),
            Err(e) => break failed("set-up", e),
        }
    };
    if let Some((pid, ..)) = gate {
        let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    Err(error)
}

/// The set-up process: everything up to the veth.
fn set_up(plan: &Plan, report: &OwnedFd, idmap: Option<&OwnedFd>) -> Result<()> {
    sys::close_all_but(
        &[Some(report.as_raw_fd()), idmap.map(AsRawFd::as_raw_fd)].into_iter().flatten().collect::<Vec<_>>(),
    );
    let sources = if plan.as_root {
        let sources = open_sources(plan, idmap)?;
        become_agent(plan).map_err(|e| failed("giving up root", e))?;
        Some(sources)
    } else {
        None
    };
    user_namespace(plan)?;
    gate::loopback_up().map_err(|e| netlink(&e, "loopback of the gate"))?;
    let mut listeners = listeners::all(&plan.ports).map_err(|e| failed("listeners", e))?;
    let gate = std::fs::File::open("/proc/self/ns/net").map_err(|e| failed("gate namespace", e))?;

    let (go_in, go) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| failed("pipe", e))?;
    let flags = CloneFlags::CLONE_PARENT
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    // SAFETY: this process is single-threaded, as its parent was.
    let pid =
        match unsafe { fork_with(flags.bits()) }.map_err(|e| forbidden::explain("new namespaces", &e.to_string()))? {
            Fork::Child => {
                drop((go, listeners, gate));
                let error = match inside(plan, report, sources, &go_in) {
                    Ok(never) => match never {},
                    Err(error) => error,
                };
                let _ = wire::send(report, &Report::Failed { error }, &[]);
                sys::exit_now(1);
            }
            Fork::Parent(pid) => pid,
        };
    let wired = gate::build_gate(pid).map_err(|e| netlink(&e, "veth")).and_then(|()| {
        let served: Vec<u16> = plan.ports.clone();
        listeners::sentinel(&served).map_err(|e| failed("packet socket", e))
    });
    match wired {
        Ok(fd) => listeners.push((Listener::Sentinel, fd)),
        Err(error) => {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            return Err(error);
        }
    }
    nix::unistd::write(&go, b"g").map_err(|e| failed("pipe", e))?;
    let (kinds, fds): (Vec<_>, Vec<_>) = listeners.into_iter().unzip();
    let mut raw = vec![gate.as_raw_fd()];
    raw.extend(fds.iter().map(AsRawFd::as_raw_fd));
    wire::send(report, &Report::Gate { pid, listeners: kinds }, &raw).map_err(|e| failed("report", e))
}

fn netlink(e: &io::Error, what: &str) -> Error {
    if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES)) {
        return forbidden::explain(what, &e.to_string());
    }
    failed(what, e)
}

fn open_sources(plan: &Plan, idmap: Option<&OwnedFd>) -> Result<Vec<Option<OwnedFd>>> {
    let layers = plan.overlay.iter().flat_map(|overlay| [&overlay.lower, &overlay.layer]);
    let binds: Vec<_> = plan.binds.iter().chain(layers).cloned().collect();
    root::open_sources(&binds, idmap).map_err(|e| {
        if e.kind() == io::ErrorKind::Unsupported {
            Error::new(Kind::FsUnsupported, e.to_string())
                .hint("give the workspace to an ordinary user (chown), or put it on ext4, xfs or btrfs")
        } else {
            failed("mount", e)
        }
    })
}

/// Root becomes the user that owns the workspace, or the reserved one: no process of a bottle has host uid 0.
fn become_agent(plan: &Plan) -> io::Result<()> {
    let (uid, gid) = (nix::unistd::Uid::from_raw(plan.host_uid), nix::unistd::Gid::from_raw(plan.host_gid));
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    // Changing users made this process unreadable, and with it its own id maps unwritable.
    sys::set_dumpable(true)
}

/// A user namespace in which the agent's host user is uid 1000 and nobody else exists; with it the gate.
fn user_namespace(plan: &Plan) -> Result<()> {
    sys::set_dumpable(true).map_err(|e| failed("dumpable", e))?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|e| forbidden::explain("unshare", &e.to_string()))?;
    let write = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(|e| forbidden::explain(file, &e.to_string()))
    };
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("{AGENT_ID} {} 1", plan.host_uid))?;
    write("gid_map", format!("{AGENT_ID} {} 1", plan.host_gid))
}

/// A user namespace that exists only to say that root's files are shown as the agent's.
fn idmap_namespace(plan: &Plan) -> io::Result<OwnedFd> {
    let (ready_in, ready) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: the keeper is single-threaded.
    match unsafe { fork_with(libc::CLONE_NEWUSER) }? {
        Fork::Child => {
            drop(ready);
            // Lives until the parent closes its end.
            let _ = nix::unistd::read(&ready_in, &mut [0u8; 1]);
            sys::exit_now(0);
        }
        Fork::Parent(pid) => {
            let made = (|| {
                std::fs::write(format!("/proc/{pid}/uid_map"), format!("0 {} 1", plan.host_uid))?;
                std::fs::write(format!("/proc/{pid}/gid_map"), format!("0 {} 1", plan.host_gid))?;
                std::fs::File::open(format!("/proc/{pid}/ns/user"))
            })();
            drop(ready);
            let _ = waitpid(Pid::from_raw(pid), None);
            Ok(made?.into())
        }
    }
}

/// Pid 1: builds the inside, reports, is confined and reaps.
fn inside(
    plan: &Plan,
    report: &OwnedFd,
    sources: Option<Vec<Option<OwnedFd>>>,
    go: &OwnedFd,
) -> Result<std::convert::Infallible> {
    sys::die_with_parent().map_err(|e| failed("parent's death", e))?;
    nix::unistd::setsid().map_err(|e| failed("session", e))?;
    nix::unistd::sethostname(&plan.slug).map_err(|e| failed("host name", e))?;
    let sources = match sources {
        Some(sources) => sources,
        None => open_sources(plan, None)?,
    };
    // Opened while the host's /proc is still here; the keeper enters by them.
    let namespaces: Vec<OwnedFd> = NAMESPACES
        .iter()
        .map(|name| std::fs::File::open(format!("/proc/self/ns/{name}")).map(OwnedFd::from))
        .collect::<io::Result<_>>()
        .map_err(|e| failed("namespaces", e))?;
    if nix::unistd::read(go, &mut [0u8; 1]) != Ok(1) {
        return Err(failed("gate", "the set-up process died"));
    }
    gate::build_agent_side().map_err(|e| netlink(&e, "network"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    root::build(plan, &sources).map_err(|e| match e.kind() {
        io::ErrorKind::Unsupported => {
            Error::new(Kind::FsUnsupported, e.to_string()).at(plan.workspace.display().to_string()).hint(
                "use workspace mode `copy` or `mount`; an overlay needs Linux 5.11 and no mounts inside the workspace",
            )
        }
        _ => failed("root file system", e),
    })?;
    drop(sources);
    let filter = confine::program().map_err(|e| failed("seccomp", e))?;
    sys::set_dumpable(false).map_err(|e| failed("dumpable", e))?;
    // Set again: changing what may be dumped has cleared it on some kernels.
    sys::die_with_parent().map_err(|e| failed("parent's death", e))?;
    let raw: Vec<_> = namespaces.iter().map(AsRawFd::as_raw_fd).collect();
    confine::apply(&filter).map_err(|e| failed("confinement", e))?;
    wire::send(report, &Report::Inside, &raw).map_err(|e| failed("report", e))?;
    sys::close_all_but(&[]);
    for fd in 0..3 {
        let _ = nix::unistd::close(fd);
    }
    init::run()
}

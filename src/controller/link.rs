//! The controller's end of a keeper's socket: asks, and hears what the keeper says unasked.
//!
//! Knows the words of [`crate::bottle::wire`] and nothing of what they mean for a bottle.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket as sock;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::keepers::Keepers;
use crate::bottle::plan::Plan;
use crate::bottle::wire::{self, End, ExecRecord, Listener, Reply, Request};
use crate::error::{Error, Kind, Result};
use crate::os::process::Process;

/// Longest that a keeper may take to answer; building a bottle is the longest of its tasks.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same where a container engine builds it.
const ENGINE_PATIENCE: Duration = Duration::from_secs(180);

/// Longest that a keeper may take to say hello: it is waited for before anybody is served.
const HELLO_PATIENCE: Duration = Duration::from_secs(3);

/// What a keeper says unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// An exec ended.
    Exited {
        /// Which.
        exec: u32,
        /// Exit code, `128 + signal`.
        code: i32,
    },
    /// The log has grown up to this frame.
    Output(u64),
    /// The host has replaced this guarded file, and the keeper has taken the bottle down.
    GuardLost(String),
    /// The bottle has ended: every process of it is gone.
    Ended(End),
    /// The keeper itself is gone.
    Gone,
}

struct Ask {
    request: Request,
    fds: Vec<OwnedFd>,
    answer: oneshot::Sender<(Reply, Vec<OwnedFd>)>,
}

/// A connection to one keeper.
#[derive(Clone, Debug)]
pub struct Link {
    to: mpsc::Sender<Ask>,
    /// Overtakes what waits for an answer.
    urgent: mpsc::Sender<Request>,
    /// The keeper's process; `None` where it was gone before it could be had.
    process: Option<Arc<Process>>,
    /// What the keeper understands beyond the frozen verbs.
    verbs: Arc<[String]>,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the request: a note may have credentials in it.
        f.debug_struct("Ask").finish_non_exhaustive()
    }
}

/// What a keeper holds, as told at launch or adoption.
#[derive(Debug)]
pub struct Held {
    /// The connection.
    pub link: Link,
    /// What it will say unasked.
    pub said: mpsc::UnboundedReceiver<Said>,
    /// The sockets of the gate.
    pub listeners: Vec<(Listener, OwnedFd)>,
    /// The sealed part, at adoption.
    pub sealed: Option<OwnedFd>,
    /// Execs so far, at adoption.
    pub execs: Vec<ExecRecord>,
    /// Process id of pid 1; `None` when the bottle has ended before the adoption.
    pub pid: Option<i32>,
    /// What an earlier controller has left for the ones to come.
    pub note: Option<String>,
    /// See [`Said::GuardLost`].
    pub guard_lost: Option<String>,
    /// Whether its processes are stopped; `None` for a keeper of an older bb, which cannot stop them.
    pub paused: Option<bool>,
    /// Limits that are not enforced, each with the reason.
    pub lacking: Vec<String>,
    /// What is known of its end, where it has ended before the adoption.
    pub end: End,
}

fn gone() -> Error {
    Error::new(Kind::NoSuchBottle, "the bottle's keeper is gone")
}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::new(Kind::BackendUnavailable, format!("keeper: {e}"))
}

impl Link {
    /// Starts a keeper and has it build the bottle of `plan`. It lives on when this process dies.
    ///
    /// # Errors
    /// The keeper's own, or `backend_unavailable` where it cannot be started.
    pub async fn launch(keepers: &Keepers, plan: &Plan, sealed: &OwnedFd) -> Result<Held> {
        let bytes = serde_json::to_vec(plan).map_err(failed)?;
        let engine = plan.image.is_some();
        let plan = wire::sealed("bb-plan", &bytes).map_err(failed)?;
        let (ours, process) = keepers.make().await.map_err(failed)?;
        let (mut link, said) = Link::connect(ours).map_err(failed)?;
        link.process = Some(Arc::new(process));
        let fds = vec![plan, sealed.try_clone().map_err(failed)?];
        let patience = if engine { ENGINE_PATIENCE } else { PATIENCE };
        let answer = link.ask_within(Request::Start, fds, patience).await.inspect_err(|_| link.kill_keeper())?;
        match answer {
            (Reply::Up { pid, listeners, verbs, lacking }, fds) if fds.len() == listeners.len() => Ok(Held {
                link: Link { verbs: verbs.into(), ..link },
                said,
                listeners: listeners.into_iter().zip(fds).collect(),
                sealed: None,
                execs: vec![],
                pid: Some(pid),
                note: None,
                guard_lost: None,
                paused: Some(false),
                lacking,
                end: End::default(),
            }),
            (Reply::Failed { error }, _) => Err(error),
            (other, _) => Err(failed(format!("unexpected answer {other:?}"))),
        }
    }

    /// Connects to the keeper that listens at `path`.
    ///
    /// # Errors
    /// `no_such_bottle` where nobody listens there; every other kind is of a keeper that lives.
    pub async fn adopt(path: &Path) -> Result<(String, Held)> {
        let fd = sock::socket(sock::AddressFamily::Unix, sock::SockType::SeqPacket, sock::SockFlag::SOCK_CLOEXEC, None)
            .map_err(failed)?;
        let address = sock::UnixAddr::new(path).map_err(failed)?;
        // A full backlog is no refusal, and must not make anybody wait.
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).map_err(failed)?;
        sock::connect(fd.as_raw_fd(), &address).map_err(|e| match e {
            nix::errno::Errno::ECONNREFUSED | nix::errno::Errno::ENOENT => gone(),
            other => failed(other),
        })?;
        let (mut link, said) = Link::connect(fd).map_err(failed)?;
        let hello = tokio::time::timeout(HELLO_PATIENCE, link.ask(Request::Hello)).await;
        let hello = hello.map_err(|_| Error::new(Kind::Timeout, "the keeper does not answer"))?;
        // A keeper that dies now is found gone at the next attempt.
        match hello.map_err(|e| failed(e.message))? {
            (Reply::Hello { slug, keeper, pid, listeners, note, guard_lost, verbs, paused, end }, mut fds)
                if fds.len() == listeners.len() + 2 =>
            {
                let sealed = Some(fds.remove(0));
                let record = wire::read_sealed(&fds.remove(0)).map_err(failed)?;
                let execs = serde_json::from_slice(&record).map_err(failed)?;
                let listeners = listeners.into_iter().zip(fds).collect();
                link.process = Process::open(keeper).ok().map(Arc::new);
                link.verbs = verbs.into();
                Ok((
                    slug,
                    Held { link, said, listeners, sealed, execs, pid, note, guard_lost, paused, lacking: vec![], end },
                ))
            }
            (Reply::Failed { error }, _) => Err(failed(error.message)),
            (other, _) => Err(failed(format!("unexpected answer {other:?}"))),
        }
    }

    fn connect(fd: OwnedFd) -> io::Result<(Link, mpsc::UnboundedReceiver<Said>)> {
        nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        // SAFETY: the descriptor is owned by the `AsyncFd` from here on and closed with it, never before.
        let socket = unsafe { AsyncFd::register(fd) }?;
        let (ask, asked) = mpsc::channel(64);
        let (urgent, told) = mpsc::channel(8);
        let (tell, said) = mpsc::unbounded_channel();
        tokio::spawn(serve(socket, asked, told, tell));
        Ok((Link { to: ask, urgent, process: None, verbs: Arc::default() }, said))
    }

    /// Tells whether the keeper understands a verb that is not among the frozen ones.
    pub fn knows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// `no_such_bottle` where the keeper is gone, `timeout` where it does not answer.
    pub async fn ask(&self, request: Request) -> Result<(Reply, Vec<OwnedFd>)> {
        self.ask_within(request, vec![], PATIENCE).await
    }

    async fn ask_within(
        &self,
        request: Request,
        fds: Vec<OwnedFd>,
        patience: Duration,
    ) -> Result<(Reply, Vec<OwnedFd>)> {
        let (answer, wait) = oneshot::channel();
        self.to.send(Ask { request, fds, answer }).await.map_err(|_| gone())?;
        match tokio::time::timeout(patience, wait).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(Error::new(Kind::Timeout, "the bottle's keeper does not answer")),
        }
    }

    /// Leaves a note for controllers to come.
    pub async fn note(&self, note: String) {
        let _ = self.urgent.send(Request::Note { note }).await;
    }

    /// Asks the keeper to take the bottle down. The answer is [`Said::Ended`].
    pub async fn kill(&self) {
        let _ = self.urgent.send(Request::Kill).await;
    }

    /// Asks the keeper to take everything down. The answer is [`Said::Ended`], then [`Said::Gone`].
    pub async fn exit(&self) {
        let _ = self.urgent.send(Request::Exit).await;
    }

    /// Waits until the keeper has closed the connection, which is the last that it does.
    pub async fn gone(&self) {
        self.urgent.closed().await;
    }

    /// Kills the keeper, and with it the bottle: for one that does not do what it was asked.
    pub fn kill_keeper(&self) {
        if let Some(process) = &self.process {
            let _ = process.signal(nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// Carries requests one at a time: the next is sent when the one before has been answered. What is urgent has no answer
/// of its own and waits for none.
async fn serve(
    socket: AsyncFd<OwnedFd>,
    mut asked: mpsc::Receiver<Ask>,
    mut told: mpsc::Receiver<Request>,
    tell: mpsc::UnboundedSender<Said>,
) {
    let mut pending: Option<oneshot::Sender<(Reply, Vec<OwnedFd>)>> = None;
    loop {
        tokio::select! {
            Some(request) = told.recv() => send(&socket, &request, &[]).await,
            ask = asked.recv(), if pending.is_none() => {
                let Some(Ask { request, fds, answer }) = ask else { return };
                send(&socket, &request, &fds).await;
                pending = Some(answer);
            }
            ready = socket.readable() => {
                let Ok(mut ready) = ready else { break };
                let said = match wire::receive::<Reply>(socket.get_ref()) {
                    Ok(Some((Reply::Exited { exec, code }, _))) => Said::Exited { exec, code },
                    Ok(Some((Reply::Output { n }, _))) => Said::Output(n),
                    Ok(Some((Reply::GuardLost { path }, _))) => Said::GuardLost(path),
                    Ok(Some((Reply::Ended(end), _))) => Said::Ended(end),
                    Ok(Some(reply)) => {
                        if let Some(answer) = pending.take() {
                            let _ = answer.send(reply);
                        }
                        continue;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready();
                        continue;
                    }
                    Ok(None) | Err(_) => break,
                };
                let _ = tell.send(said);
            }
        }
    }
    let _ = tell.send(Said::Gone);
}

/// Sends one request; a socket that is broken shows at the next receive.
async fn send(socket: &AsyncFd<OwnedFd>, request: &Request, fds: &[OwnedFd]) {
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    while let Err(e) = wire::send(socket.get_ref(), request, &raw) {
        if e.kind() != io::ErrorKind::WouldBlock || socket.writable().await.map(|mut g| g.clear_ready()).is_err() {
            return;
        }
    }
}

//! The controller's end of the fork server: gets a process for each new keeper.
//!
//! Knows nothing of what a keeper is told; see [`super::link`] for that.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use crate::bottle::fork_server::{ARGUMENT, Answer};
use crate::bottle::wire;
use crate::os::process::Process;

/// Longest that a fork may take; it takes a fraction of a millisecond.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the processes that become keepers, by a fork server that is started when it is first needed, and again where it is gone.
#[derive(Debug)]
pub struct Keepers {
    /// This executable.
    exe: PathBuf,
    /// The socket to the server; one fork at a time.
    server: Mutex<Option<AsyncFd<OwnedFd>>>,
}

impl Keepers {
    /// Gets one whose keepers run the executable `exe`. Starts nothing yet.
    pub fn new(exe: PathBuf) -> Keepers {
        Keepers { exe, server: Mutex::new(None) }
    }

    /// Has a keeper made, and gets our end of its socket. It lives on when this process dies.
    ///
    /// # Errors
    /// Those of starting the server, and what it says of the fork.
    pub async fn make(&self) -> io::Result<(OwnedFd, Process)> {
        let mut held = self.server.lock().await;
        // One that was killed is replaced, once: a second failure is not for want of a server.
        if let Some(server) = held.take()
            && let Ok(made) = ask(&server).await
        {
            *held = Some(server);
            return Ok(made);
        }
        let server = start(&self.exe)?;
        let made = ask(&server).await?;
        *held = Some(server);
        Ok(made)
    }
}

/// Starts a server. It ends when the socket to it is closed.
fn start(exe: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let (ours, theirs) = wire::pair()?;
    let mut child = tokio::process::Command::new(exe)
        .arg(ARGUMENT)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    tokio::spawn(async move { child.wait().await });
    nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    // SAFETY: the descriptor is owned by the `AsyncFd` from here on and closed with it, never before.
    let socket = unsafe { AsyncFd::register(ours) }?;
    Ok(socket)
}

/// Asks once, with a socket of its own each time: a server that dies over it may have made a keeper, which must not hear what is said to
/// the next, and ends when our end of its socket is closed.
async fn ask(server: &AsyncFd<OwnedFd>) -> io::Result<(OwnedFd, Process)> {
    let (ours, theirs) = wire::pair()?;
    // Nothing is on its way: each question has had its answer, or the server is given up.
    wire::send(server.get_ref(), &(), &[theirs.as_raw_fd()])?;
    // While it is open here as well, the keeper's end would not show.
    drop(theirs);
    let answer = async {
        loop {
            let mut ready = server.readable().await?;
            match wire::receive::<Answer>(server.get_ref()) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                other => return other,
            }
        }
    };
    match tokio::time::timeout(PATIENCE, answer).await.map_err(|_| io::ErrorKind::TimedOut)?? {
        Some((Answer::Made { pid }, fds)) => match <[OwnedFd; 1]>::try_from(fds) {
            Ok([fd]) => Ok((ours, Process::held(pid, fd))),
            Err(_) => Err(io::Error::other("a keeper without its descriptor")),
        },
        Some((Answer::Failed { why }, _)) => Err(io::Error::other(why)),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

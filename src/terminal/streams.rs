//! Standard input and output for a session that must never wait for them: a thread for each.
//!
//! Reading stops at once when the session ends, so that what is typed afterwards is the shell's. Neither is switched to
//! non-blocking: other processes have them open, too.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::{mpsc, oneshot};

/// Most that is read at a time.
const CHUNK: usize = 16 * 1024;

/// How long what was written last may take to reach the terminal.
const LAST: Duration = Duration::from_secs(3);

/// Standard input, by chunks.
#[derive(Debug)]
pub struct Source {
    chunks: mpsc::Receiver<Vec<u8>>,
    /// Closed, it ends the thread.
    stop: OwnedFd,
    /// Told by the thread's end.
    stopped: oneshot::Receiver<()>,
}

impl Source {
    /// Starts to read.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn stdin() -> io::Result<Source> {
        let (closed, stop) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (to, chunks) = mpsc::channel(4);
        let (tell, stopped) = oneshot::channel();
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            read(&closed, &to);
            let _ = tell.send(());
        })?;
        Ok(Source { chunks, stop, stopped })
    }

    /// Gets the next chunk; `None` at the end. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.chunks.recv().await
    }

    /// Gets what comes next of one that may be there; never where it is not.
    pub async fn next_of(source: &mut Option<Source>) -> Option<Vec<u8>> {
        match source {
            Some(source) => source.next().await,
            None => std::future::pending().await,
        }
    }

    /// Stops, and waits until nobody reads any more.
    pub async fn stop(self) {
        let Source { chunks, stop, stopped } = self;
        drop((chunks, stop));
        let _ = tokio::time::timeout(LAST, stopped).await;
    }
}

fn read(closed: &OwnedFd, to: &mpsc::Sender<Vec<u8>>) {
    let stdin = io::stdin();
    loop {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(closed.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
        }
        if fds[1].revents().is_some_and(|r| !r.is_empty()) {
            return;
        }
        let mut buffer = vec![0; CHUNK];
        match nix::unistd::read(&stdin, &mut buffer) {
            Ok(0) => return,
            Ok(n) => {
                buffer.truncate(n);
                if to.blocking_send(buffer).is_err() {
                    return;
                }
            }
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => {}
            Err(_) => return,
        }
    }
}

/// Standard output.
#[derive(Debug)]
pub struct Sink {
    to: mpsc::Sender<Vec<u8>>,
    done: oneshot::Receiver<()>,
}

impl Sink {
    /// Starts to write.
    ///
    /// # Errors
    /// That of starting a thread.
    pub fn stdout() -> io::Result<Sink> {
        let (to, mut from) = mpsc::channel::<Vec<u8>>(8);
        let (tell, done) = oneshot::channel();
        std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            while let Some(bytes) = from.blocking_recv() {
                let mut out = io::stdout().lock();
                if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
                    break;
                }
            }
            let _ = tell.send(());
        })?;
        Ok(Sink { to, done })
    }

    /// Waits for room; `None` where nobody reads any more. May be dropped while it waits.
    pub async fn room(&self) -> Option<mpsc::Permit<'_, Vec<u8>>> {
        self.to.reserve().await.ok()
    }

    /// Writes the rest and waits until it is written, for a while.
    pub async fn finish(self, rest: Vec<u8>) {
        let Sink { to, done } = self;
        let _ = tokio::time::timeout(LAST, async {
            let _ = to.send(rest).await;
            drop(to);
            let _ = done.await;
        })
        .await;
    }
}

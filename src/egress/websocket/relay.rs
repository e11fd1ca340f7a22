//! Bytes both ways until one side ends, nothing moves, or the request is cancelled: WebSockets of hosts that are no model API,
//! and what is passed through unseen.
//!
//! Frames are followed beside the bytes, which go on as they came. Where the route puts a credential in, a server that echoes it is
//! not heard; there frames have to be what the protocol allows, since only with them it is known when nothing may be kept back.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::egress::body::{Moved, Way};
use crate::egress::credential::Redactor;
use crate::egress::exchange::Over;
use crate::egress::streams::Stream;
use crate::egress::tee::SILENCE;
use crate::meter::websocket::{Frames, Sender};

/// Read at once.
const CHUNK: usize = 32 * 1024;
/// How often it is looked whether something moved.
const LOOK: Duration = Duration::from_secs(15);

/// Passes frames both ways until one side ends, nothing moves or the request is cancelled; both sides are closed then. `most`
/// bytes may come from the bottle, and from the server.
pub(super) async fn relay(
    bottle: Upgraded,
    server: Upgraded,
    most: (Option<u64>, Option<u64>),
    redactor: Option<Redactor>,
    stream: &Stream,
    moved: &Moved,
) -> Over {
    moved.mark();
    let (from_bottle, to_bottle) = tokio::io::split(TokioIo::new(bottle));
    let (from_server, to_server) = tokio::io::split(TokioIo::new(server));
    let beside = redactor.map(Beside::new);
    let both = async {
        tokio::try_join!(
            copy(from_bottle, to_server, (moved, Way::Up), most.0, None),
            copy(from_server, to_bottle, (moved, Way::Down), most.1, beside)
        )
    };
    tokio::select! {
        // Who broke off is seen by the other side as an end.
        ended = both => how(&ended.map(|_| ())),
        () = stream.wait_cancelled() => Over::Cut,
        () = idle(moved) => Over::Idle,
    }
}

/// Gets how two copies ended.
pub(in crate::egress) fn how(ended: &io::Result<()>) -> Over {
    match ended {
        Ok(()) => Over::Whole,
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Over::TooLarge,
        Err(_) => Over::Broken,
    }
}

/// Reads along the frames of a server that was sent a credential, and takes it out of them.
pub(in crate::egress) struct Beside {
    frames: Frames,
    redactor: Redactor,
}

impl Beside {
    fn new(redactor: Redactor) -> Beside {
        Beside { frames: Frames::new(Sender::Server), redactor }
    }

    /// Gets what may go on now: all of it where a message ends, else without what may be the value's beginning.
    fn pass(&mut self, bytes: &[u8]) -> io::Result<Bytes> {
        self.frames.follow(bytes).map_err(io::Error::other)?;
        let clean = self.redactor.pass(Bytes::copy_from_slice(bytes));
        if !self.frames.at_rest() {
            return Ok(clean);
        }
        let rest = self.redactor.finish();
        Ok(if rest.is_empty() { clean } else { [clean, rest].concat().into() })
    }
}

/// Copies one direction to its end.
pub(in crate::egress) async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (moved, way): (&Moved, Way),
    mut left: Option<u64>,
    mut beside: Option<Beside>,
) -> io::Result<()> {
    let mut buffer = vec![0u8; CHUNK];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        if let Some(left) = &mut left {
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            *left = left.checked_sub(length).ok_or(io::ErrorKind::FileTooLarge)?;
        }
        moved.mark();
        let bytes = buffer.get(..length).unwrap_or_default();
        match &mut beside {
            Some(beside) => to.write_all(&beside.pass(bytes)?).await?,
            None => to.write_all(bytes).await?,
        }
        moved.count(way, length);
        to.flush().await?;
        moved.mark();
    }
}

/// Returns when nothing has moved for too long.
pub(in crate::egress) async fn idle(moved: &Moved) {
    while moved.since() < SILENCE {
        tokio::time::sleep(LOOK).await;
    }
}

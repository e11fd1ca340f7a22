//! Reads messages off one side of a socket, bounded in size and time.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{Refusal, code};
use crate::egress::body::Moved;
use crate::egress::deny::{Denial, Deny};
use crate::egress::room::Share;
use crate::meter::websocket::{Fault, Item, Messages, Sender};

/// Read at once.
const CHUNK: usize = 16 * 1024;
/// Read ahead, at most, of a client that waits for its turn.
const AHEAD: usize = 64 * 1024;

/// One side's messages.
pub(super) struct Intake {
    messages: Messages,
    buffer: BytesMut,
    /// How long a message may stand still; for ever where absent.
    patience: Option<Duration>,
}

impl Intake {
    pub(super) fn new(sender: Sender, most: usize, patience: Option<Duration>) -> Intake {
        Intake { messages: Messages::new(sender, most), buffer: BytesMut::new(), patience }
    }

    /// Gets the next message or control frame; `None` where the side has left. `share` has room for what is held of a message; where
    /// there is none, nothing is read until there is. May be dropped and called again.
    pub(super) async fn next(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        moved: &Moved,
        share: &mut Share,
    ) -> Result<Option<Item>, Refusal> {
        loop {
            if let Some(item) = self.messages.take(&mut self.buffer).map_err(fault)? {
                return Ok(Some(item));
            }
            share.grow(self.messages.held()).await?;
            self.buffer.reserve(CHUNK);
            let read = from.read_buf(&mut self.buffer);
            let read = match self.patience.filter(|_| self.messages.is_within()) {
                Some(patience) => tokio::time::timeout(patience, read)
                    .await
                    .map_err(|_| Deny::new(Denial::LimitIdle, "bb: a message stood still for a minute."))?,
                None => read.await,
            };
            if !matches!(read, Ok(1..)) {
                return Ok(None);
            }
            moved.mark();
        }
    }

    /// Returns when the side has left. Reads a little ahead for it.
    pub(super) async fn left(&mut self, from: &mut (impl AsyncRead + Unpin)) {
        while self.buffer.len() < AHEAD {
            self.buffer.reserve(CHUNK);
            if !matches!(from.read_buf(&mut self.buffer).await, Ok(1..)) {
                return;
            }
        }
        std::future::pending().await
    }
}

fn fault(fault: Fault) -> Refusal {
    match fault {
        Fault::TooLong(most) => {
            let deny =
                Deny::new(Denial::BodyTooLarge, format!("bb: a message on this WebSocket may have {most} bytes."));
            Refusal { deny, code: code::TOO_BIG, lane: None }
        }
        other => Refusal::unreadable(code::PROTOCOL, other),
    }
}

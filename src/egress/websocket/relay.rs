//! Bytes both ways until one side ends, nothing moves, or the request is cancelled: WebSockets of hosts that are no model API,
//! and what is passed through unseen.
//!
//! Frames are followed beside the bytes, which go on as they came. Where the route puts a credential in, a server that echoes it is
//! not heard; there frames have to be what the protocol allows, since only with them it is known when nothing may be kept back.

use std::io;
use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::egress::body::{Moved, Way};
use crate::egress::credential::Redactor;
use crate::egress::exchange::Over;
use crate::egress::streams::Stream;
use crate::egress::tee::SILENCE;
use crate::meter::websocket::{Frames, Sender, Step};

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
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Over::TooLarge(Way::Down),
        Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => Over::TooLarge(Way::Up),
        Err(_) => Over::Broken,
    }
}

/// Reads along the frames of a server that was sent a credential, and takes it out of what they say: of messages as a whole, in
/// however many frames they come, and of control frames. Lengths stay the same, so that heads pass as they came.
pub(in crate::egress) struct Beside {
    frames: Frames,
    redactor: Redactor,
    /// Read, and not passed on yet.
    wire: BytesMut,
    /// Where in it there is text of the message under way.
    text: Vec<Range<usize>>,
    /// Where in it a control frame begins that has not come whole, and where its payload is.
    aside: Option<(usize, Vec<Range<usize>>)>,
}

/// What may be kept back of frames while a message may go on as the value does. Unit: bytes.
const MAX_HELD: usize = 256 * 1024;

impl Beside {
    fn new(redactor: Redactor) -> Beside {
        let (wire, text, aside) = (BytesMut::new(), Vec::new(), None);
        Beside { frames: Frames::new(Sender::Server), redactor, wire, text, aside }
    }

    /// Gets what may go on now: all of it where a message ends, else without what may be the value's beginning.
    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<Bytes> {
        while !bytes.is_empty() {
            let (taken, step) = self.frames.step(bytes).map_err(io::Error::other)?;
            let (piece, rest) = bytes.split_at(taken);
            let from = self.wire.len();
            self.wire.extend_from_slice(piece);
            bytes = rest;
            match step {
                Step::Head(head) if head.opcode.is_control() => self.aside = Some((from, Vec::new())),
                Step::Head(_) | Step::More => {}
                Step::Payload => {
                    let spans = self.aside.as_mut().map_or(&mut self.text, |(_, spans)| spans);
                    spans.push(from..self.wire.len());
                }
            }
            if self.frames.in_frame() {
                continue;
            }
            if let Some((_, spans)) = self.aside.take() {
                self.mask(&spans);
            } else if self.frames.at_rest() {
                let spans = std::mem::take(&mut self.text);
                self.mask(&spans);
            }
        }
        let spans = std::mem::take(&mut self.text);
        let kept = self.mask(&spans);
        self.text = spans;
        let may = self.place_of_last(kept).min(self.aside.as_ref().map_or(usize::MAX, |(from, _)| *from));
        let out = self.wire.split_to(may.min(self.wire.len())).freeze();
        self.move_up(out.len());
        if self.wire.len() > MAX_HELD {
            return Err(io::Error::other("too much would have to be kept back"));
        }
        Ok(out)
    }

    /// Takes the value out of the text that is in `spans`. Gets how many bytes of its end may be the value's beginning.
    fn mask(&mut self, spans: &[Range<usize>]) -> usize {
        let mut text = Vec::with_capacity(spans.iter().map(Range::len).sum());
        for span in spans {
            text.extend_from_slice(self.wire.get(span.clone()).unwrap_or_default());
        }
        if let Some(clean) = self.redactor.whole(&text) {
            let mut rest = clean.as_ref();
            for span in spans {
                let (piece, more) = rest.split_at(span.len());
                if let Some(place) = self.wire.get_mut(span.clone()) {
                    place.copy_from_slice(piece);
                }
                rest = more;
            }
            return self.redactor.overlap(&clean);
        }
        self.redactor.overlap(&text)
    }

    /// Gets where the last `kept` bytes of the text begin; the end of all where that is none.
    fn place_of_last(&self, mut kept: usize) -> usize {
        for span in self.text.iter().rev() {
            if kept > 0 && kept <= span.len() {
                return span.end - kept;
            }
            kept = kept.saturating_sub(span.len());
        }
        self.wire.len()
    }

    /// Takes note that the first `gone` bytes were passed on.
    fn move_up(&mut self, gone: usize) {
        self.text.retain_mut(|span| {
            *span = span.start.saturating_sub(gone)..span.end.saturating_sub(gone);
            span.start < span.end
        });
        if let Some((from, spans)) = &mut self.aside {
            *from -= gone;
            spans.iter_mut().for_each(|span| *span = span.start - gone..span.end - gone);
        }
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
            *left = left.checked_sub(length).ok_or(match way {
                Way::Up => io::ErrorKind::QuotaExceeded,
                Way::Down => io::ErrorKind::FileTooLarge,
            })?;
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::meter::websocket::{Opcode, frame};

    const SECRET: &str = "s3cret-s3cret-value";

    /// Makes one message of frames that end at each of `cuts`, with a ping that says `ping` behind the first.
    fn message(text: &str, cuts: &[usize], ping: &str) -> Vec<u8> {
        let (mut wire, mut rest) = (Vec::new(), text.as_bytes());
        for (n, cut) in cuts.iter().enumerate() {
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            let last = n + 1 == cuts.len();
            let mut one =
                frame(if n == 0 { Opcode::Text } else { Opcode::Continuation }, if last { rest } else { piece }, None);
            if !last {
                one[0] &= 0x7f;
            }
            wire.extend(one);
            if n == 0 && !last {
                wire.extend(frame(Opcode::Ping, ping.as_bytes(), None));
            }
            rest = more;
        }
        wire
    }

    fn passed(wire: &[u8], pieces: &[usize]) -> Vec<u8> {
        let mut beside = Beside::new(Redactor::of(SECRET));
        let (mut rest, mut out) = (wire, Vec::new());
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, more) = rest.split_at((*piece).min(rest.len()));
            out.extend_from_slice(&beside.pass(now).unwrap());
            rest = more;
        }
        out
    }

    proptest! {
        #[test]
        fn a_value_in_several_frames_is_taken_out_of_them_and_nothing_else_changes(
            before in "[a-s3cret-]{0,60}", after in "[a-z]{0,60}",
            cuts in proptest::collection::vec(0usize..12, 1..12), pieces in proptest::collection::vec(1usize..9, 1..20)
        ) {
            let text = format!("{before}{SECRET}{after}");
            let hidden = text.replace(SECRET, &"*".repeat(SECRET.len()));
            let wire = [message(&text, &cuts, SECRET), message("again", &[2, 9], "ping")].concat();
            let out = passed(&wire, &pieces);
            let expected = [message(&hidden, &cuts, &"*".repeat(SECRET.len())), message("again", &[2, 9], "ping")].concat();
            prop_assert_eq!(out, expected);
        }
    }

    #[test]
    fn what_may_be_its_beginning_waits_and_all_else_goes_on_at_once() {
        let mut beside = Beside::new(Redactor::of(SECRET));
        let whole = frame(Opcode::Text, b"ends with s3cret-s", None);
        assert_eq!(beside.pass(&whole).unwrap(), whole, "its message is over");
        let mut begun = frame(Opcode::Text, b"text s3cret", None);
        begun[0] &= 0x7f;
        assert_eq!(beside.pass(&begun).unwrap(), begun[..begun.len() - 6]);
        // Frames of nothing are not kept for ever.
        let nothing = [0u8, 0].repeat(60_000);
        assert!(beside.pass(&nothing).is_ok() && beside.pass(&nothing).is_ok() && beside.pass(&nothing).is_err());
    }

    #[test]
    fn what_is_no_frame_ends_it() {
        for wrong in [&b"\x83\x00"[..], b"\xc1\x00", b"\x81\x80abcd", b"\x00\x00"] {
            assert!(Beside::new(Redactor::of(SECRET)).pass(wrong).is_err(), "{wrong:?}");
        }
    }
}

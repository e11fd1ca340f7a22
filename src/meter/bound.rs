//! What the meter keeps of an event or a body that has not come whole, and how much that may be.

use super::usage::Unreadable;

/// Most bytes of one event. Final events of the Responses API repeat the whole output and can be megabytes.
pub(crate) const MAX_EVENT: usize = 16 << 20;

/// What is kept without asking for room, and what stays allocated between events. Unit: bytes.
pub(super) const KEPT: usize = 64 << 10;

/// Room for what meters keep, which several of them share.
pub trait Room: Send {
    /// Says how many bytes are kept now. Gets whether there is room for them; where there is none, nothing is kept from then on.
    fn keeps(&mut self, bytes: usize) -> bool;
}

/// The bound of one answer.
#[derive(Default)]
pub(super) struct Bound {
    room: Option<Box<dyn Room>>,
    /// What was last said to the room.
    said: usize,
    /// The length of the event that could not be read.
    lost: usize,
}

impl Bound {
    /// Makes it one that shares `room`.
    pub(super) fn within(&mut self, room: Box<dyn Room>) {
        self.room = Some(room);
    }

    /// Gets how much came and was not read: what is kept, where it is more than is kept without asking, and the event that could not be
    /// read. Unit: bytes.
    pub(super) fn unread(&self) -> u64 {
        u64::try_from((self.said / 2).max(self.lost)).unwrap_or(u64::MAX)
    }

    /// Says that an event of so many bytes was taken, and what came of that; nothing of it is kept.
    ///
    /// # Errors
    /// That of `done`.
    pub(super) fn taken(&mut self, bytes: usize, done: Result<(), Unreadable>) -> Result<(), Unreadable> {
        if done.is_err() {
            self.lost = bytes;
        }
        self.keeps(0)?;
        done
    }

    /// Says that `bytes` are kept.
    ///
    /// # Errors
    /// [`Unreadable::Bound`] where they are more than may be.
    pub(super) fn keeps(&mut self, bytes: usize) -> Result<(), Unreadable> {
        if bytes > MAX_EVENT {
            return Err(Unreadable::Bound);
        }
        // Whoever reads it may take it in memory once more.
        let need = if bytes > KEPT { 2 * bytes } else { 0 };
        if need == self.said {
            return Ok(());
        }
        self.said = need;
        let fits = self.room.as_mut().is_none_or(|room| room.keeps(need));
        if fits { Ok(()) } else { Err(Unreadable::Bound) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;
    use crate::meter::Meter;
    use crate::types::Api;

    /// Room for so many bytes, and the most that was ever said to be kept.
    #[derive(Clone)]
    struct Small(usize, Arc<Mutex<(usize, usize)>>);

    impl Room for Small {
        fn keeps(&mut self, bytes: usize) -> bool {
            let mut said = self.1.lock().unwrap();
            let fits = bytes <= self.0;
            *said = if fits { (bytes, said.1.max(bytes)) } else { (0, said.1) };
            fits
        }
    }

    #[test]
    fn what_is_kept_has_room_or_the_answer_is_not_followed() {
        let large = |length: usize| {
            let end = json!({"type": "response.completed", "response": {"id": "r", "model": "m", "output": "x".repeat(length),
                "usage": {"input_tokens": 7, "output_tokens": 5}}});
            (format!("data: {end}\n\n").into_bytes(), end["response"].to_string().into_bytes())
        };
        for (length, room, read) in [(1 << 20, 4 << 20, true), (1 << 20, 1 << 20, false), (1 << 10, 0, true)] {
            let (stream, mut body) = large(length);
            body.splice(1..1, *br#""object":"response","status":"completed","#);
            for (bytes, cut) in [(&stream, 1000), (&stream, 70_000), (&body, 1000)] {
                let small = Small(room, Default::default());
                let mut meter = Meter::new(Api::OpenaiResponses, None, None).within(Box::new(small.clone()));
                bytes.chunks(cut).for_each(|piece| meter.feed(piece));
                let reading = meter.reading();
                assert_eq!((reading.terminal, reading.broken), (read, !read), "{length} {room} {cut}");
                meter.finish();
                let (now, most) = *small.1.lock().unwrap();
                assert!(now == 0 && most <= room && (length <= 64 << 10 || !read || most >= length), "{now} {most}");
            }
        }
    }
}

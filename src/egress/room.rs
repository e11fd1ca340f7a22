//! The room for what of one bottle's traffic the plane has to hold: bodies and messages that are read whole, large heads, and
//! what the meter collects of an answer.
//!
//! One bound for all of it, so that no mixture of requests makes the plane hold more. What is asked for before anything was sent
//! waits for its room ([`pool`] says in which order); an answer's meter does not wait, and goes without. A little is the meters' own, so that
//! no request takes their sight. It decides nothing else.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;

use super::deny::{Denial, Deny};
use crate::meter;

mod pool;

use pool::{Held, Pool};

/// What is held at once. Unit: bytes.
pub const ROOM: usize = 32 << 20;
/// What meters may keep beside that. Unit: bytes.
pub const METERS: usize = 4 << 20;
/// What the meters of all bottles of this process may keep together. Unit: bytes.
pub const ALL_METERS: usize = 256 << 20;
/// What may pass one that waits for more than is free, before it has its turn. Unit: bytes.
pub const PASSING: usize = 8 << 20;
/// How long a request waits for others to go on.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// What is counted at once, and what is small enough not to be counted. Unit: bytes.
const UNIT: usize = 16 << 10;

/// The room of one bottle.
#[derive(Clone, Debug)]
pub struct Room {
    all: Arc<Pool>,
    meters: Arc<Pool>,
    /// That of the meters of all bottles.
    whole: Arc<Pool>,
}

/// One for the whole process: what it bounds is the memory of this one controller.
static WHOLE: LazyLock<Arc<Pool>> = LazyLock::new(|| Pool::new(ALL_METERS / UNIT, 0));

impl Default for Room {
    fn default() -> Room {
        Room::within(Arc::clone(&WHOLE))
    }
}

impl Room {
    fn within(whole: Arc<Pool>) -> Room {
        Room { all: Pool::new(ROOM / UNIT, PASSING / UNIT), meters: Pool::new(METERS / UNIT, 0), whole }
    }
}

impl Room {
    /// Gets a share of it, with nothing in it yet.
    pub fn share(&self) -> Share {
        Share { room: Arc::clone(&self.all), had: None }
    }

    /// Gets a meter's share of it.
    pub fn meter(&self) -> Sight {
        let of = |room: &Arc<Pool>| Share { room: Arc::clone(room), had: None };
        Sight { own: of(&self.meters), common: self.share(), whole: of(&self.whole) }
    }
}

/// What one request has of the room; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    room: Arc<Pool>,
    had: Option<Held>,
}

fn units(bytes: usize) -> usize {
    if bytes > UNIT { bytes.div_ceil(UNIT) } else { 0 }
}

/// Tells whether there is room for both at once.
pub(super) fn hold_both(one: usize, other: usize) -> bool {
    units(one).saturating_add(units(other)) <= ROOM / UNIT
}

pub(super) fn full() -> Deny {
    Deny::new(Denial::LimitBodies, "bb: too many request bodies are under way at once.")
        .step("wait for some of them to end")
}

fn patience() -> Duration {
    if cfg!(test) { Duration::from_secs(3) } else { PATIENCE }
}

impl Share {
    /// Gets the units that are missing for `bytes`.
    fn missing(&self, bytes: usize) -> usize {
        units(bytes).saturating_sub(self.had.as_ref().map_or(0, Held::units))
    }

    fn put(&mut self, got: Held) {
        match &mut self.had {
            Some(had) => had.merge(got),
            None => self.had = Some(got),
        }
    }

    /// Takes room for `bytes` in all, where it is free. Gets whether it was.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let missing = self.missing(bytes);
        if missing == 0 {
            return true;
        }
        self.room.try_take(missing).map(|got| self.put(got)).is_some()
    }

    /// Takes room for `bytes` in all; waits for it a while. May be dropped and called again.
    ///
    /// # Errors
    /// [`Denial::LimitBodies`].
    pub async fn grow(&mut self, bytes: usize) -> Result<(), Deny> {
        if self.try_grow(bytes) {
            return Ok(());
        }
        if units(bytes) > ROOM / UNIT {
            return Err(full());
        }
        let waited = tokio::time::timeout(patience(), self.room.take(self.missing(bytes))).await;
        self.put(waited.ok().flatten().ok_or_else(full)?);
        Ok(())
    }

    /// Gives back what is not needed for `bytes`.
    fn shrink(&mut self, bytes: usize) {
        let needed = units(bytes);
        if needed == 0 {
            self.had = None;
        } else if let Some(had) = &mut self.had {
            had.keep(needed);
        }
    }

    /// Has `bytes`, for which it is, keep it until the last copy of them is gone.
    pub fn of(self, bytes: Bytes) -> Bytes {
        match self.had {
            Some(had) => Bytes::from_owner(Owned { bytes, _had: had }),
            None => bytes,
        }
    }
}

/// What one answer's meter keeps: of the meters' own room, else of everybody's; and of that of all bottles' meters.
#[derive(Debug)]
pub struct Sight {
    own: Share,
    common: Share,
    whole: Share,
}

impl Share {
    /// Has room for so many bytes and no more, where there is room for them; else for none.
    fn fits(&mut self, bytes: usize) -> bool {
        self.shrink(bytes);
        let fits = self.try_grow(bytes);
        if !fits {
            self.had = None;
        }
        fits
    }
}

impl meter::Room for Sight {
    fn keeps(&mut self, bytes: usize) -> bool {
        let whole = self.whole.fits(bytes);
        if whole && self.own.fits(bytes) {
            self.common.had = None;
            return true;
        }
        self.own.had = None;
        let fits = whole && self.common.fits(bytes);
        if !fits {
            (self.common.had, self.whole.had) = (None, None);
        }
        fits
    }
}

struct Owned {
    bytes: Bytes,
    _had: Held,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Room as _;

    fn left(room: &Room) -> usize {
        room.all.free()
    }

    #[test]
    fn what_is_taken_comes_back_with_the_last_copy_of_what_it_is_for() {
        let room = Room::default();
        let all = left(&room);
        let mut share = room.share();
        assert!(share.try_grow(UNIT) && left(&room) == all, "what is small is not counted");
        assert!(share.try_grow(3 * UNIT + 1) && left(&room) == all - 4);
        assert!(share.try_grow(5 * UNIT) && left(&room) == all - 5, "in all");
        assert!(share.try_grow(2 * UNIT) && left(&room) == all - 5);
        let bytes = share.of(Bytes::from(vec![7; 5 * UNIT]));
        let copy = bytes.slice(1..2);
        drop(bytes);
        assert_eq!((left(&room), copy[0]), (all - 5, 7));
        drop(copy);
        assert_eq!(left(&room), all);
    }

    #[test]
    fn the_meters_of_all_bottles_have_one_room_together() {
        let whole = Pool::new(4, 0);
        let (one, other) = (Room::within(Arc::clone(&whole)), Room::within(Arc::clone(&whole)));
        let (mut first, mut second) = (one.meter(), other.meter());
        assert!(first.keeps(3 * UNIT) && !second.keeps(2 * UNIT), "though each bottle's own has room");
        assert!(first.keeps(2 * UNIT) && second.keeps(2 * UNIT), "what is given back is for all");
        drop((first, second));
        assert_eq!((whole.free(), one.meters.free(), left(&other)), (4, METERS / UNIT, ROOM / UNIT));
    }

    #[test]
    fn a_meter_says_what_it_keeps_now_and_goes_without_where_there_is_no_room() {
        let room = Room::default();
        let all = left(&room);
        let (mut one, mut two) = (room.meter(), room.meter());
        assert!(one.keeps(ROOM / 2) && two.keeps(ROOM / 2) && left(&room) == 0);
        assert!(!two.keeps(ROOM / 2 + 1) && left(&room) == all / 2, "what it has kept is gone");
        assert!(one.keeps(UNIT + 1) && left(&room) == all, "a little is the meters' own");
        assert!(two.keeps(METERS - 2 * UNIT) && left(&room) == all && one.keeps(3 * UNIT) && left(&room) == all - 3);
        assert!(one.keeps(0) && left(&room) == all);
        assert!(!one.keeps(ROOM + 1) && left(&room) == all);
        let mut body = room.share();
        assert!(body.try_grow(ROOM) && two.keeps(METERS) && !one.keeps(UNIT + 1), "no request takes it");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_before_anything_was_sent_waits_its_turn() {
        let room = Room::default();
        let (mut one, mut two) = (room.share(), room.share());
        one.grow(ROOM).await.unwrap();
        assert_eq!(two.grow(2 * UNIT).await.unwrap_err().kind, Denial::LimitBodies, "it was in vain");
        let waiting = tokio::spawn(async move { two.grow(2 * UNIT).await.map(|()| two) });
        tokio::task::yield_now().await;
        drop(one);
        waiting.await.unwrap().unwrap();
        assert_eq!(room.share().grow(ROOM + 1).await.unwrap_err().kind, Denial::LimitBodies, "more than there is");
    }

    #[tokio::test(start_paused = true)]
    async fn small_ones_pass_one_that_waits_for_much_and_it_has_its_turn_all_the_same() {
        let room = Room::default();
        let mut others = room.share();
        others.grow(ROOM - PASSING).await.unwrap();
        let mut large = room.share();
        let turn = tokio::spawn(async move { large.grow(ROOM).await.map(|()| large) });
        tokio::task::yield_now().await;
        let mut passed = 0;
        // Each is over before the next one comes: without a bound this would go on for ever.
        while room.share().try_grow(4 * UNIT) {
            passed += 4 * UNIT;
            assert!(passed <= PASSING);
        }
        assert!(passed == PASSING && !turn.is_finished() && left(&room) == PASSING / UNIT);
        drop(others);
        let large = turn.await.unwrap().unwrap();
        assert_eq!(left(&room), 0);
        drop(large);
        assert!(room.share().try_grow(ROOM));
    }
}

//! Places that are taken for a while and given back, in an order that is fair to large and small: who waits is first in the order of
//! asking, but what is free and too little for the first of them may pass it, up to a bound; then nobody does before it has its turn.
//!
//! Knows nothing of what the places are for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The places, less what is held of them.
#[derive(Debug)]
pub struct Pool {
    state: Mutex<State>,
    /// How much may pass the first of those that wait.
    passing: usize,
}

#[derive(Debug)]
struct State {
    free: usize,
    waiting: VecDeque<Waiting>,
    /// What has passed the first of them.
    passed: usize,
}

#[derive(Debug)]
struct Waiting {
    units: usize,
    turn: oneshot::Sender<Held>,
}

/// Places that somebody has; given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    pool: Arc<Pool>,
    units: usize,
}

impl Pool {
    /// Makes one of so many places.
    pub fn new(units: usize, passing: usize) -> Arc<Pool> {
        let state = State { free: units, waiting: VecDeque::new(), passed: 0 };
        Arc::new(Pool { state: Mutex::new(state), passing })
    }

    /// Takes so many, if they are free and nobody has to be waited for.
    pub fn try_take(self: &Arc<Self>, units: usize) -> Option<Held> {
        self.lock().take(units, self.passing).then(|| self.held(units))
    }

    /// Takes so many, when it is their turn. `None` never comes while somebody has the pool.
    pub async fn take(self: &Arc<Self>, units: usize) -> Option<Held> {
        let mut turn = {
            let mut state = self.lock();
            if state.take(units, self.passing) {
                return Some(self.held(units));
            }
            let (turn, granted) = oneshot::channel();
            state.waiting.push_back(Waiting { units, turn });
            Turn { pool: Arc::clone(self), granted }
        };
        (&mut turn.granted).await.ok()
    }

    /// Gets how many are free.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.lock().free
    }

    fn held(self: &Arc<Self>, units: usize) -> Held {
        Held { pool: Arc::clone(self), units }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(self: &Arc<Self>, units: usize) {
        let mut state = self.lock();
        state.free += units;
        self.serve(&mut state);
    }

    /// Gives those their turn whose turn it is.
    fn serve(self: &Arc<Self>, state: &mut State) {
        let mut at = 0;
        while let Some(one) = state.waiting.get(at) {
            let (units, gone) = (one.units, one.turn.is_closed());
            if !gone && !state.fits(at, units, self.passing) {
                at += 1;
                continue;
            }
            let Some(one) = state.waiting.remove(at) else { return };
            if at == 0 {
                state.passed = 0;
            }
            if gone {
                continue;
            }
            state.free -= units;
            if at > 0 {
                state.passed += units;
            }
            if let Err(mut held) = one.turn.send(self.held(units)) {
                // It went away just now; the lock is ours, so it cannot give them back itself.
                held.units = 0;
                state.free += units;
            }
        }
    }
}

impl State {
    /// Tells whether so many may be had by one that stands at a place of the queue.
    fn fits(&self, at: usize, units: usize, passing: usize) -> bool {
        self.free >= units && (at == 0 || self.passed + units <= passing)
    }

    /// Takes so many for one that has not waited.
    fn take(&mut self, units: usize, passing: usize) -> bool {
        let fits = self.fits(self.waiting.len(), units, passing);
        if fits {
            self.free -= units;
            if !self.waiting.is_empty() {
                self.passed += units;
            }
        }
        fits
    }
}

impl Held {
    /// Gets how many they are.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Adds others of the same pool.
    pub fn merge(&mut self, mut other: Held) {
        self.units += std::mem::take(&mut other.units);
    }

    /// Gives back what is more than `units`.
    pub fn keep(&mut self, units: usize) {
        let more = self.units.saturating_sub(units);
        self.units -= more;
        if more > 0 {
            self.pool.give(more);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.units > 0 {
            self.pool.give(self.units);
        }
    }
}

/// Somebody who waits, and may go away.
struct Turn {
    pool: Arc<Pool>,
    granted: oneshot::Receiver<Held>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.granted.close();
        // What it had held up goes on; what came too late is given back with the channel.
        let mut state = self.pool.lock();
        self.pool.serve(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Take<'a> = Pin<&'a mut dyn Future<Output = Option<Held>>>;

    fn poll(take: &mut Take<'_>) -> Option<Held> {
        match take.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(held) => Some(held.expect("the pool is there")),
            Poll::Pending => None,
        }
    }

    #[test]
    fn small_ones_pass_the_first_up_to_a_bound_and_then_it_has_its_turn() {
        let pool = Pool::new(100, 30);
        let first = pool.try_take(60).unwrap();
        let mut large: Take = pin!(pool.take(90));
        assert!(poll(&mut large).is_none());
        // Those that come, and those that wait behind it.
        let small = pool.try_take(20).unwrap();
        let mut waits: Take = pin!(pool.take(30));
        assert!(poll(&mut waits).is_none(), "it does not fit");
        let mut fits: Take = pin!(pool.take(10));
        let passed = poll(&mut fits).expect("it passes");
        drop((small, passed));
        assert_eq!(pool.free(), 40);
        assert!(pool.try_take(1).is_none() && poll(&mut waits).is_none(), "thirty have passed");
        drop(first);
        let had = poll(&mut large).expect("it has its turn");
        assert!(pool.free() == 10 && poll(&mut waits).is_none());
        let again = pool.try_take(10).expect("the next that waits is passed anew");
        drop(had);
        assert_eq!(poll(&mut waits).unwrap().units(), 30);
        drop(again);
        assert_eq!(pool.free(), 100);
    }

    #[test]
    fn who_goes_away_holds_nobody_up_and_takes_nothing_along() {
        let pool = Pool::new(10, 0);
        let all = pool.try_take(10).unwrap();
        let mut behind: Take = pin!(pool.take(4));
        {
            let mut first: Take = pin!(pool.take(9));
            assert!(poll(&mut first).is_none() && poll(&mut behind).is_none());
        }
        let mut all = all;
        all.keep(5);
        assert_eq!(poll(&mut behind).unwrap().units(), 4);
        {
            // It is given its turn, and goes away before it hears of it.
            let mut late: Take = pin!(pool.take(5));
            assert!(poll(&mut late).is_some());
            let mut late: Take = pin!(pool.take(10));
            assert!(poll(&mut late).is_none());
            drop(all);
        }
        assert_eq!(pool.free(), 10);
        let (mut one, two) = (pool.try_take(3).unwrap(), pool.try_take(4).unwrap());
        one.merge(two);
        assert_eq!((one.units(), pool.free()), (7, 3));
        drop(one);
        assert_eq!(pool.free(), 10);
    }
}

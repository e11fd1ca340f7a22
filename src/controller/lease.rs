//! Leases: a bottle that is attached to a front end ends a while after that front end is gone.
//!
//! Counts connections by lease id and tells when the last one of a lease has been closed for [`GRACE`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

/// How long a front end may be away. Counted only while a controller is up.
pub const GRACE: Duration = Duration::from_secs(10);

/// All leases of a controller.
#[derive(Debug)]
pub struct Leases {
    /// Connections, and a number that grows with each change: a timer acts only if nothing has changed since.
    held: Mutex<HashMap<String, (usize, u64)>>,
    lost: mpsc::UnboundedSender<String>,
}

impl Leases {
    /// Makes an empty set; lost leases arrive at the receiver.
    pub fn new() -> (Arc<Leases>, mpsc::UnboundedReceiver<String>) {
        let (lost, receiver) = mpsc::unbounded_channel();
        (Arc::new(Leases { held: Mutex::default(), lost }), receiver)
    }

    /// Holds a lease for as long as the value lives.
    pub fn hold(self: &Arc<Self>, id: &str) -> Holding {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = held.entry(id.to_owned()).or_default();
        entry.0 += 1;
        entry.1 += 1;
        Holding { leases: Arc::clone(self), id: id.to_owned() }
    }

    /// Tells of a lease that nobody holds yet: its time starts now.
    pub fn expect(self: &Arc<Self>, id: &str) {
        drop(self.hold(id));
    }

    /// Tells whether somebody holds a lease, or has held it a moment ago.
    pub fn is_held(&self, id: &str) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Number of leases that are held.
    pub fn count(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|(n, _)| *n > 0).count()
    }

    fn release(self: &Arc<Self>, id: &str) {
        let change = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(entry) = held.get_mut(id) else { return };
            entry.0 -= 1;
            entry.1 += 1;
            if entry.0 > 0 {
                return;
            }
            entry.1
        };
        let (leases, id) = (Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(GRACE).await;
            let mut held = leases.held.lock().unwrap_or_else(PoisonError::into_inner);
            if held.get(&id).is_some_and(|&(n, c)| n == 0 && c == change) {
                held.remove(&id);
                let _ = leases.lost.send(id);
            }
        });
    }
}

/// A lease that is held.
#[derive(Debug)]
pub struct Holding {
    leases: Arc<Leases>,
    id: String,
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.leases.release(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_lost_ten_seconds_after_its_last_holder_and_not_if_taken_up_again() {
        let (leases, mut lost) = Leases::new();
        let first = leases.hold("a");
        let second = leases.hold("a");
        drop(first);
        tokio::time::sleep(GRACE * 2).await;
        assert!(lost.try_recv().is_err(), "still held");
        drop(second);
        tokio::time::sleep(GRACE / 2).await;
        let again = leases.hold("a");
        tokio::time::sleep(GRACE * 2).await;
        assert!(lost.try_recv().is_err(), "taken up again in time");
        drop(again);
        tokio::time::sleep(GRACE + Duration::from_millis(10)).await;
        assert_eq!(lost.try_recv().unwrap(), "a");
    }
}

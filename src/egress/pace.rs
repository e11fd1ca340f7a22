//! How often something may happen: so many times at once, and then one more in each period.

use std::time::{Duration, Instant};

/// What may still happen at once.
#[derive(Debug)]
pub struct Pace {
    pub(super) left: u32,
    burst: u32,
    pub(super) since: Instant,
    /// Time in which one more is earned.
    period: Duration,
}

impl Pace {
    /// Allows `burst` at once, and one more in each `period`.
    pub fn new(burst: u32, period: Duration) -> Pace {
        Pace { left: burst, burst, since: Instant::now(), period }
    }

    /// Takes one. Returns whether there was one.
    pub fn take(&mut self) -> bool {
        let earned = self.since.elapsed().as_millis() / self.period.as_millis().max(1);
        let earned = u32::try_from(earned).unwrap_or(self.burst);
        if earned > 0 {
            self.since = Instant::now();
            self.left = self.left.saturating_add(earned).min(self.burst);
        }
        let had = self.left > 0;
        self.left = self.left.saturating_sub(1);
        had
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_burst_one_is_earned_at_a_time() {
        let mut pace = Pace::new(3, Duration::from_secs(3600));
        assert_eq!([pace.take(), pace.take(), pace.take(), pace.take()], [true, true, true, false]);
        pace.since = Instant::now() - Duration::from_secs(3700);
        assert_eq!([pace.take(), pace.take()], [true, false]);
        pace.since = Instant::now() - Duration::from_secs(36_000);
        assert_eq!(
            [pace.take(), pace.take(), pace.take(), pace.take()],
            [true, true, true, false],
            "never more than the burst"
        );
    }
}

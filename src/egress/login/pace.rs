//! How often the token endpoint of a login is asked.
//!
//! A refresh token is good for one time, and bottles could have the host use up as many as they like. Pure: the time is given.

use std::time::{Duration, Instant};

use crate::egress::deny::Deny;

/// Tokens as young as this are not exchanged, whatever seems wrong with them.
pub const YOUNG: Duration = Duration::from_secs(60);
/// With each that the API refuses again the time doubles, up to this.
pub const LONGEST: Duration = Duration::from_secs(3600);
/// How long nobody asks again after it has failed.
const PAUSE: Duration = Duration::from_secs(10);

/// Why nobody asks now.
#[derive(Debug)]
pub enum Wait {
    /// It has failed a moment ago.
    Failed(Deny),
    /// What is there has only just come.
    Young,
}

/// See the module.
#[derive(Default)]
pub struct Pace {
    /// When tokens last came.
    came: Option<Instant>,
    /// How often in a row they were asked for because the API had refused what came before.
    again: u32,
    /// When and why none came.
    failed: Option<(Instant, Deny)>,
}

impl Pace {
    /// Notes that tokens came, in place of some that had ended, or else that the API had `refused`.
    pub fn came(&mut self, now: Instant, refused: bool) {
        self.again = if refused && self.came.is_some() { self.again.saturating_add(1) } else { 0 };
        (self.came, self.failed) = (Some(now), None);
    }

    /// Notes that none came.
    pub fn failed(&mut self, now: Instant, why: Deny) {
        self.failed = Some((now, why));
    }

    /// Notes that the host has another login now, of which no failure is known.
    pub fn other(&mut self) {
        self.failed = None;
    }

    /// Gets why the endpoint is not to be asked now, for others in place of tokens that have ended or else were `refused`.
    pub fn wait(&self, now: Instant, refused: bool) -> Option<Wait> {
        let within = |at: Instant, time| now.saturating_duration_since(at) < time;
        if let Some((_, why)) = self.failed.as_ref().filter(|(at, _)| within(*at, PAUSE)) {
            return Some(Wait::Failed(why.clone()));
        }
        let doubled = || YOUNG.saturating_mul(1 << self.again.min(16)).min(LONGEST);
        let young = if refused { doubled() } else { YOUNG };
        self.came.is_some_and(|at| within(at, young)).then_some(Wait::Young)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::deny::Denial;

    #[test]
    fn what_the_api_refuses_again_and_again_is_exchanged_ever_more_rarely() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let asked_after = |pace: &Pace, now: Instant, refused| {
            (0..).find(|s| pace.wait(now + Duration::from_secs(*s), refused).is_none()).unwrap()
        };
        assert_eq!(asked_after(&pace, now, true), 0);
        for young in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            pace.came(now, true);
            assert_eq!(asked_after(&pace, now, true), young);
            assert_eq!(asked_after(&pace, now, false), 60, "tokens that have ended are exchanged all the same");
            now += Duration::from_secs(young);
        }
        // One that has ended begins anew.
        pace.came(now, false);
        assert_eq!(asked_after(&pace, now, true), 60);
    }

    #[test]
    fn an_endpoint_that_has_failed_is_left_alone_for_a_moment() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.failed(now, Deny::new(Denial::UpstreamUnreachable, "why"));
        let wait = |pace: &Pace, second| pace.wait(now + Duration::from_secs(second), false);
        assert!(matches!(wait(&pace, 9), Some(Wait::Failed(deny)) if deny.message == "why"));
        assert!(wait(&pace, 10).is_none());
        pace.other();
        assert!(wait(&pace, 0).is_none());
    }
}

//! What the API has said to a token, as it is heard from the answers to all bottles that work with it.
//!
//! An agent says which path and which headers a request has, so it can have a 401 said to a token that is good: one counts only
//! where the token has not just been taken. What follows from it is not decided here.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;

/// How long a token that the API has taken is beyond doubt.
const PROVEN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Said {
    refused: bool,
    taken: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Said>);

impl Heard {
    /// Hears an answer. Only one to a `metered` request can say that a token is taken: of other paths some ask for none.
    pub fn hear(&self, status: StatusCode, metered: bool, at: Instant) {
        let mut said = self.said();
        if status == StatusCode::UNAUTHORIZED {
            let proven = said.taken.is_some_and(|taken| at.saturating_duration_since(taken) < PROVEN);
            said.refused |= !proven;
        } else if metered && (status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS) {
            *said = Said { refused: false, taken: Some(at) };
        }
    }

    /// Tells whether it was refused, and not taken since.
    pub fn is_refused(&self) -> bool {
        self.said().refused
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_401_counts_where_the_token_was_not_taken_in_the_last_minute() {
        let (heard, start) = (Heard::default(), Instant::now());
        let says = |status: u16, metered, second| {
            heard.hear(StatusCode::from_u16(status).unwrap(), metered, start + Duration::from_secs(second));
            heard.is_refused()
        };
        assert!(says(401, true, 0), "it was never taken");
        assert!(says(200, false, 1), "a path that asks for no token says nothing");
        assert!(says(403, true, 1) && says(500, true, 1));
        assert!(!says(200, true, 2));
        assert!(!says(401, true, 61) && !says(401, false, 61));
        assert!(says(401, false, 62));
        assert!(!says(101, true, 63), "a WebSocket was opened with it");
        assert!(!says(401, true, 64));
    }
}

//! What becomes of a hold that its stream outgrows: how far it is raised, which limits it passes, and whether the stream ends there.
//!
//! Pure arithmetic on plain values, as all of [`crate::budget`]. A hold is raised before the bytes beyond it are released, so what is
//! said here is said in time.

use super::account::{Standing, deciding};
use crate::api::{Account, OnCross};

/// A hold that was raised. Unit: counted tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raised {
    /// Reserved now.
    pub held: u64,
    /// Accounts that govern or bind whose limit is passed by what is used and reserved, nearest first, as they stand with it.
    pub crossed: Vec<Standing>,
    /// One of them says that the stream ends there.
    pub cuts: bool,
}

/// Tells what becomes of a stream by which an account's limit is crossed: what was said, else `cut` where it is hard. Of a bottle that
/// is paused when a budget is spent nothing is cut unless that was said: it goes on later, and need try nothing again.
pub fn on_cross(account: &Account, pauses: bool) -> OnCross {
    let usual = if account.hard && !pauses { OnCross::Cut } else { OnCross::Finish };
    account.terms.on_cross.unwrap_or(usual)
}

/// Raises a hold of `had` tokens to at least `to`, and by `ahead` more where there is room for that: so a stream asks seldom, and
/// crosses no limit before it has come there. `pauses`: its bottle is paused when a budget is spent.
pub fn raise(path: &[Account], had: u64, to: u64, ahead: u64, pauses: bool) -> Raised {
    let least = had.max(to);
    let (mut room, mut crossed, mut cuts) = (ahead, Vec::new(), false);
    for account in deciding(path) {
        let Some(mut standing) = Standing::of(account) else { continue };
        standing.held = standing.held.saturating_sub(had).saturating_add(least);
        let left = standing.left();
        if standing.used.saturating_add(standing.held) > standing.limit {
            cuts |= on_cross(account, pauses) == OnCross::Cut;
            crossed.push(standing);
        }
        room = room.min(left);
    }
    let more = match (crossed.is_empty(), cuts) {
        (true, _) => room,
        // It goes on to its end, whatever that is.
        (false, false) => ahead,
        (false, true) => 0,
    };
    Raised { held: least.saturating_add(more), crossed, cuts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Terms;

    fn account(limit: u64, hard: bool, said: Option<OnCross>, used: u64, held: u64) -> Account {
        Account {
            node: "n".into(),
            provider: "p".into(),
            limit: Some(limit),
            set: true,
            hard,
            used,
            held,
            terms: Terms { on_cross: said, ..Terms::default() },
            ..Account::default()
        }
    }

    #[test]
    fn a_hold_takes_what_is_left_and_crosses_only_with_what_has_come() {
        let path = [account(1000, true, None, 400, 300)];
        assert_eq!(raise(&path, 100, 150, 50, false), Raised { held: 200, ..Raised::default() });
        assert_eq!(
            raise(&path, 100, 350, 2048, false),
            Raised { held: 400, ..Raised::default() },
            "all that is left, and no more"
        );
        assert_eq!(raise(&path, 100, 400, 2048, false).crossed, [], "to the last token");
        let over = raise(&path, 100, 401, 2048, false);
        assert_eq!((over.held, over.cuts), (401, true));
        assert_eq!((over.crossed[0].used, over.crossed[0].held), (400, 601));
        assert_eq!(raise(&path, 100, 20, 0, false).held, 100, "never lowered");
    }

    #[test]
    fn a_hard_limit_cuts_and_a_plain_one_lets_finish_unless_they_say_otherwise() {
        for (hard, said, cuts) in [
            (true, None, true),
            (false, None, false),
            (true, Some(OnCross::Finish), false),
            (false, Some(OnCross::Cut), true),
        ] {
            let raised = raise(&[account(100, hard, said, 90, 10)], 10, 30, 64, false);
            assert_eq!((raised.crossed.len(), raised.cuts), (1, cuts), "{hard} {said:?}");
            assert_eq!(raised.held, if cuts { 30 } else { 94 });
            // A bottle that is paused then loses nothing, unless that was said.
            let paused = raise(&[account(100, hard, said, 90, 10)], 10, 30, 64, true);
            assert_eq!(paused.cuts, said == Some(OnCross::Cut), "{hard} {said:?}");
        }
    }

    #[test]
    fn only_accounts_that_decide_are_crossed() {
        let near = account(1000, false, None, 0, 10);
        let far = Account { node: "global".into(), ..account(5, false, Some(OnCross::Cut), 0, 10) };
        assert_eq!(raise(&[near.clone(), far.clone()], 10, 50, 0, false).crossed, []);
        let hard = Account { hard: true, ..far };
        assert!(raise(&[near, hard], 10, 50, 0, false).cuts);
        assert_eq!(raise(&[], 10, 50, 7, false), Raised { held: 57, ..Raised::default() });
    }
}

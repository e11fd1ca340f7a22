//! Thresholds of limits: which of them a charge has passed, and which were told already.
//!
//! Pure comparisons of integers; who is told is [`crate::ledger`]'s business.

use super::account::{Standing, deciding};
use crate::api::Account;

/// An account whose threshold was passed, or no longer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warned {
    /// Which of the path's accounts.
    pub at: usize,
    /// The thresholds that were passed since the last one that was told, growing. Unit: percent.
    pub passed: Vec<u8>,
    /// The highest one that is passed now, 0 = none.
    pub now: u8,
}

/// Gets the accounts that govern or bind and whose thresholds have to be told of, or are no longer passed: what was used
/// fell since, or the limit rose. Where nothing of the kind has happened this compares integers and no more.
pub fn warned(path: &[Account]) -> Vec<Warned> {
    let mut found = Vec::new();
    for account in deciding(path) {
        let has_passed = |percent: u8| passes(account, percent);
        let next = account.terms.warn().iter().find(|percent| **percent > account.warned);
        let rises = next.is_some_and(|percent| has_passed(*percent));
        if !rises && (account.warned == 0 || has_passed(account.warned)) {
            continue;
        }
        let passed = account.terms.warn().iter().copied().filter(|p| *p > account.warned && has_passed(*p)).collect();
        // `deciding` gives what lies in the path.
        let Some(at) = path.iter().position(|one| std::ptr::eq(one, account)) else { continue };
        found.push(Warned { at, passed, now: highest(account) });
    }
    found
}

/// Gets the accounts whose agents want to be told how far they are, and the highest threshold of each that was passed.
pub fn near(path: &[Account]) -> Vec<(Standing, u8)> {
    let wanted = deciding(path).filter(|account| account.terms.tell && account.warned > 0);
    wanted.filter_map(|account| Some((Standing::of(account)?, account.warned))).collect()
}

/// Gets the highest threshold of an account that was told of and still holds: what remains told under another limit.
pub fn still_warned(account: &Account) -> u8 {
    highest(account).min(account.warned)
}

/// Gets the highest threshold that an account has passed, 0 = none.
fn highest(account: &Account) -> u8 {
    account.terms.warn().iter().copied().filter(|percent| passes(account, *percent)).max().unwrap_or(0)
}

/// Tells whether so much of an account's limit is used. Of a limit of 0 nothing is.
fn passes(account: &Account, percent: u8) -> bool {
    let limit = account.limit.filter(|limit| account.set && *limit > 0);
    limit.is_some_and(|limit| u128::from(account.used) * 100 >= u128::from(limit) * u128::from(percent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Terms;

    fn limit(node: &str, limit: u64, used: u64) -> Account {
        let (node, provider) = (node.to_owned(), "claude".to_owned());
        Account { node, provider, limit: Some(limit), set: true, used, ..Account::default() }
    }

    fn hard(node: &str, amount: u64, used: u64) -> Account {
        Account { hard: true, ..limit(node, amount, used) }
    }

    /// What is told of a limit of 1000 with so much used and told.
    fn told(used: u64, warned: u8) -> Vec<(Vec<u8>, u8)> {
        let path = [Account { warned, ..limit("b", 1000, used) }, hard("far", 100_000, 1)];
        super::warned(&path).into_iter().map(|w| (w.passed, w.now)).collect()
    }

    #[test]
    fn a_threshold_is_told_once_and_again_when_what_is_used_has_fallen_below_it() {
        assert!(told(499, 0).is_empty());
        assert_eq!(told(500, 0), [(vec![50], 50)]);
        assert!(told(799, 50).is_empty(), "told already");
        assert_eq!(told(970, 0), [(vec![50, 80, 95], 95)], "one charge may pass several");
        assert_eq!(told(5000, 80), [(vec![95], 95)], "overdrawn");
        assert!(told(5000, 95).is_empty());
        assert_eq!(told(600, 95), [(vec![], 50)], "the limit rose, or a window began");
        assert_eq!(told(0, 95), [(vec![], 0)]);
    }

    #[test]
    fn only_what_decides_has_thresholds_and_a_limit_says_its_own() {
        let own = Terms { warn: Some(vec![10, 90]), ..Terms::default() };
        let path = [
            Account { terms: own, ..limit("b", 1000, 100) },
            limit("r", 1000, 999),
            hard("global", 1000, 800),
            Account { limit: None, ..limit("x", 0, 0) },
            hard("zero", 0, 7),
        ];
        let told: Vec<_> = super::warned(&path).into_iter().map(|w| (w.at, w.passed)).collect();
        assert_eq!(told, [(0, vec![10]), (2, vec![50, 80])]);
        let raised = Account { warned: 80, ..limit("b", 2000, 1000) };
        assert_eq!(still_warned(&raised), 50, "what still holds stays told");
        assert_eq!(still_warned(&Account { warned: 0, ..raised }), 0, "what was not told is told by the next charge");
    }
}

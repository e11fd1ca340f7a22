//! Which accounts of a bottle's path decide, and whether a request fits into them (design decisions 1 and 4).
//!
//! A path is a list of accounts, nearest node first; accounts of one node stand beside each other, at most one for the
//! provider and one for `*`. Only accounts for which something was said (`set`) take part.

use serde::{Deserialize, Serialize};

#[cfg(test)]
use super::admit::{Ask, admit};
use crate::api::Account;

/// How an account stands; said to the agent, in events and in denials. Unit: counted tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The node.
    pub node: String,
    /// Provider, or `*`.
    pub provider: String,
    /// Settled.
    pub used: u64,
    /// Reserved.
    pub held: u64,
    /// The limit.
    pub limit: u64,
    /// When it begins anew by itself, if it does. Unit: milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets: Option<i64>,
    /// Where a request was refused for want of room: the estimate of its input. Else 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wanted: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Standing {
    /// Tells whether it is of the account that `other` is of.
    pub fn is_of(&self, other: &Standing) -> bool {
        (&self.node, &self.provider) == (&other.node, &other.provider)
    }

    /// Tells how `account` stands, if it has a limit.
    pub fn of(account: &Account) -> Option<Standing> {
        account.limit.filter(|_| account.set).map(|limit| Standing {
            node: account.node.clone(),
            provider: account.provider.clone(),
            used: account.used,
            held: account.held,
            limit,
            resets: account.resets,
            wanted: 0,
        })
    }

    /// Tells whether nothing may be spent any more. A limit of 0 is spent from the start.
    pub fn is_spent(&self) -> bool {
        self.used >= self.limit
    }

    /// Gets what is neither used nor reserved.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used.saturating_add(self.held))
    }
}

/// What becomes of a request that is about to leave the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may go; `held` counted tokens are to be reserved on every node of the path.
    Granted {
        /// Input estimate, and the output estimate clamped to what is left.
        held: u64,
    },
    /// It would fit but for what other requests have reserved.
    Wait(Standing),
    /// It does not fit.
    Refused(Standing),
    /// It fits only into what is kept back: its agent is to hand over what it has, and may use that for it.
    WrapUp(Standing),
    /// Its provider is to be asked how many tokens its input has.
    Count,
}

/// Gets the scope that a node belongs to: a manifest's node of one launch (`agent:NAME@ID`) and the one that counts by name
/// (`agent:NAME`) are two nodes of one scope. Names of manifests have no `@`; an id of somebody else's may.
pub fn scope_of(node: &str) -> &str {
    match node.starts_with("agent:") || node.starts_with("manifest:") {
        true => node.split('@').next().unwrap_or(node),
        false => node,
    }
}

/// Tells whether a node counts by name over launches, so that its limit may have a time.
pub fn has_name(node: &str) -> bool {
    let manifest = node.starts_with("agent:") || node.starts_with("manifest:");
    node == "global" || manifest && scope_of(node) == node
}

/// Gets the scope that governs a path: that of the nearest node for which anything was said, `unlimited` included.
fn governing_scope(path: &[Account]) -> Option<&str> {
    path.iter().find(|account| account.set).map(|account| scope_of(&account.node))
}

/// Tells of each account of a path whether it is of the scope that governs, and whether its limit holds.
pub fn roles(path: &[Account]) -> Vec<(bool, bool)> {
    let governing = governing_scope(path);
    let role = |account: &Account| {
        let governs = account.set && Some(scope_of(&account.node)) == governing;
        (governs, account.set && account.limit.is_some() && (account.hard || governs))
    };
    path.iter().map(role).collect()
}

/// Gets the accounts with a limit that decide on this path, nearest first: those of the governing scope, and the `hard`
/// ones of every other.
///
/// `unlimited` in the governing scope takes away the plain limits of farther nodes, never a hard one; beside a limit for
/// `*` in the same scope, or one that counts by name, it takes away nothing, since both were said.
pub fn binding(path: &[Account]) -> Vec<Standing> {
    deciding(path).filter_map(Standing::of).collect()
}

/// Gets the accounts that [`binding`] tells of, and those of the governing scope that are `unlimited`.
pub(super) fn deciding(path: &[Account]) -> impl Iterator<Item = &Account> {
    let governing = governing_scope(path);
    path.iter().filter(move |account| account.set && (account.hard || Some(scope_of(&account.node)) == governing))
}

/// Gets the account that governs, as reports show it: in the governing scope the one with the least left; where that
/// has no limit, the hard one with the least left.
pub fn governs(path: &[Account]) -> Option<Standing> {
    let governing = governing_scope(path)?.to_owned();
    let all = binding(path);
    let tightest = |list: Vec<&Standing>| list.into_iter().min_by_key(|s| s.left()).cloned();
    tightest(all.iter().filter(|s| scope_of(&s.node) == governing).collect()).or_else(|| tightest(all.iter().collect()))
}

/// Gets the accounts that govern or bind and are spent, nearest first.
pub fn crossed(path: &[Account]) -> Vec<Standing> {
    binding(path).into_iter().filter(Standing::is_spent).collect()
}

/// Decides whether a request fits that nobody has counted and whose agent was told nothing ([`admit`]). `input` and `output` are its
/// estimates in counted tokens, unclamped.
#[cfg(test)]
pub fn decide(path: &[Account], input: u64, output: u64) -> Decision {
    admit(path, &Ask { input, output, ..Ask::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An account: node, provider, `Some(limit)`, hard, used, held.
    fn account(node: &str, provider: &str, said: Option<Option<u64>>, hard: bool, used: u64, held: u64) -> Account {
        let limit = said.flatten();
        Account {
            node: node.into(),
            provider: provider.into(),
            limit,
            set: said.is_some(),
            hard,
            used,
            held,
            ..Account::default()
        }
    }

    fn limit(node: &str, limit: u64, used: u64, held: u64) -> Account {
        account(node, "claude", Some(Some(limit)), false, used, held)
    }

    fn hard(node: &str, limit: u64, used: u64) -> Account {
        account(node, "claude", Some(Some(limit)), true, used, 0)
    }

    fn silent(node: &str) -> Account {
        account(node, "claude", None, false, 900, 0)
    }

    fn unlimited(node: &str) -> Account {
        account(node, "claude", Some(None), false, 0, 0)
    }

    fn names(path: &[Account]) -> Vec<String> {
        binding(path).into_iter().map(|s| format!("{}/{}", s.node, s.provider)).collect()
    }

    #[test]
    fn the_nearest_limit_governs_and_farther_plain_ones_do_not_count() {
        let path = [limit("b", 100, 0, 0), limit("r", 50, 50, 0), limit("global", 10, 10, 0)];
        assert_eq!(names(&path), ["b/claude"]);
        assert_eq!(decide(&path, 10, 10), Decision::Granted { held: 20 });
        assert_eq!(governs(&path).unwrap().node, "b");
    }

    #[test]
    fn a_node_where_nothing_was_said_is_passed_over() {
        let path = [silent("b"), silent("r"), limit("global", 100, 95, 0)];
        assert_eq!(names(&path), ["global/claude"]);
        assert!(matches!(decide(&path, 10, 0), Decision::Refused(s) if s.node == "global" && s.limit == 100));
    }

    #[test]
    fn unlimited_at_a_nearer_node_lifts_plain_limits_but_no_hard_one() {
        assert_eq!(names(&[unlimited("b"), limit("r", 1, 1, 0)]), Vec::<String>::new());
        let path = [unlimited("b"), limit("r", 1, 1, 0), hard("global", 100, 0)];
        assert_eq!(names(&path), ["global/claude"]);
        assert_eq!(governs(&path).unwrap().node, "global", "what will be hit is shown");
    }

    #[test]
    fn a_hard_limit_binds_however_near_another_one_is() {
        let path = [limit("b", 1000, 0, 0), limit("r", 1, 1, 0), hard("global", 100, 70)];
        assert_eq!(decide(&path, 10, 500), Decision::Granted { held: 30 }, "clamped to the tightest");
        assert!(matches!(decide(&path, 31, 0), Decision::Refused(s) if s.node == "global"));
    }

    #[test]
    fn a_limit_for_all_providers_governs_too_and_stands_beside_one_for_the_provider() {
        let all = account("b", "*", Some(Some(40)), false, 0, 0);
        assert_eq!(names(&[all.clone(), limit("global", 5, 5, 0)]), ["b/*"]);
        assert_eq!(names(&[limit("b", 100, 0, 0), all.clone()]), ["b/claude", "b/*"]);
        assert_eq!(names(&[unlimited("b"), all]), ["b/*"], "unlimited for one provider does not lift the common limit");
    }

    #[test]
    fn a_manifests_node_of_a_launch_and_the_one_by_name_are_one_scope() {
        let all = |node: &str, tokens| account(node, "*", Some(Some(tokens)), false, 0, 0);
        // Per launch for the provider, by name for all: both were said by the nearest manifest, so both hold.
        let path = [limit("agent:a@1", 100, 0, 0), all("agent:a", 30), limit("manifest:m@1", 1, 1, 0)];
        assert_eq!(names(&path), ["agent:a@1/claude", "agent:a/*"]);
        assert_eq!(decide(&path, 10, 500), Decision::Granted { held: 30 });
        assert_eq!(governs(&path).unwrap().node, "agent:a", "the one with the least left");
        // By name alone, with the launch's node silent.
        let path = [silent("agent:a@1"), limit("agent:a", 5, 5, 0), limit("manifest:m", 100, 0, 0)];
        assert_eq!(names(&path), ["agent:a/claude"]);
        assert_eq!(roles(&path), [(false, false), (true, true), (false, false)]);
        // An agent and a bottle manifest of one name are two scopes, and so are runs whose ids begin alike.
        assert_eq!(names(&[limit("agent:x", 5, 0, 0), limit("manifest:x", 1, 1, 0)]), ["agent:x/claude"]);
        assert_eq!(names(&[limit("run:a@b", 5, 0, 0), limit("run:a@c", 1, 1, 0)]), ["run:a@b/claude"]);
        assert!(has_name("agent:x") && has_name("manifest:x") && has_name("global"));
        assert!(!has_name("agent:x@1") && !has_name("bottle:1") && !has_name("run:1"));
    }

    #[test]
    fn without_any_limit_everything_is_granted_whole() {
        assert_eq!(decide(&[silent("b"), silent("global")], 5, 7), Decision::Granted { held: 12 });
        assert_eq!(decide(&[], u64::MAX, 7), Decision::Granted { held: u64::MAX });
        assert_eq!(governs(&[silent("b")]), None);
    }

    #[test]
    fn zero_allows_nothing() {
        let path = [limit("b", 0, 0, 0)];
        assert!(matches!(decide(&path, 0, 0), Decision::Refused(_)));
        assert_eq!(crossed(&path).len(), 1);
    }

    #[test]
    fn a_spent_account_refuses_and_one_that_others_have_reserved_makes_wait() {
        assert!(matches!(decide(&[limit("b", 100, 100, 0)], 1, 0), Decision::Refused(_)));
        assert!(matches!(decide(&[limit("b", 100, 130, 0)], 1, 0), Decision::Refused(_)), "overdrawn");
        assert!(matches!(decide(&[limit("b", 100, 50, 45)], 10, 0), Decision::Wait(_)));
        assert!(matches!(decide(&[limit("b", 100, 50, 45)], 51, 0), Decision::Refused(_)), "waiting would not help");
        assert!(matches!(decide(&[limit("b", 100, 0, 100)], 0, 0), Decision::Wait(_)), "an empty estimate waits too");
        let path = [limit("b", 100, 50, 45), hard("global", 10, 10)];
        assert!(matches!(decide(&path, 10, 0), Decision::Refused(s) if s.node == "global"), "a refusal beats waiting");
    }

    #[test]
    fn input_is_never_clamped_and_output_is() {
        assert_eq!(decide(&[limit("b", 100, 50, 0)], 50, 4000), Decision::Granted { held: 50 });
        assert_eq!(decide(&[limit("b", 100, 50, 0)], 20, 4000), Decision::Granted { held: 50 });
        assert_eq!(decide(&[limit("b", 100, 50, 10)], 20, 5), Decision::Granted { held: 25 });
    }

    #[test]
    fn crossed_names_every_spent_account_that_decides_and_no_other() {
        let path = [limit("b", 100, 100, 0), limit("r", 1, 900, 0), hard("global", 100, 100)];
        let spent: Vec<String> = crossed(&path).into_iter().map(|s| s.node).collect();
        assert_eq!(spent, ["b", "global"]);
    }
}

//! A bottle that is taken up again goes on where it was: its budgets count on, and a cut stands until it is lifted.
//!
//! Must not lift anything by itself: what somebody cut, only somebody opens (`uncut`), and what a budget cut, only more of that
//! budget.

use super::Controller;
use crate::api::{Bottle, Cut, Launch};
use crate::budget;
use crate::controller::ledger_error;
use crate::enforce::By;
use crate::error::{Error, Kind, Result};
use crate::ledger::sqlite::SqliteLedger;
use crate::ledger::{Answer, Ledger, Node};
use crate::types::CutScope;

/// What to do where a budget does not let it go on.
pub(super) const GIVE_MORE: &str =
    "what it has spent counts on: give it more with --budget, or raise the limit in its manifest";

impl Controller {
    /// Has its budgets count on, and gets the cut that stood at its end.
    pub(super) async fn go_on(&self, launch: &mut Launch, ledger: &SqliteLedger) -> Result<Option<Cut>> {
        launch.counted = None;
        let Some(name) = &launch.resume else { return Ok(None) };
        let slug = self.resumable(name)?;
        let Some((before, mut counted)) = crate::workspace::session::counted(&self.host.home.state(&slug)) else {
            return Ok(None);
        };
        if launch.budget_anew {
            counted.bottle.clone_from(&launch.id);
        }
        launch.counted = Some(counted);
        let row = ledger.bottle(&before).await.map_err(|e| ledger_error(&e, &self.host.home.ledger()))?;
        let Some((row, word)) = row.and_then(|row| row.cut.clone().map(|word| (row, word))) else { return Ok(None) };
        let scope = if word == "metered" { CutScope::Metered } else { CutScope::All };
        let said = serde_json::from_str::<Bottle>(&row.body).ok().and_then(|bottle| bottle.cut);
        // Where nothing says who it was, it stands.
        let unsaid = || {
            let (reason, by) = ("it was cut".to_owned(), By::Operator.as_str().to_owned());
            Cut { scope, reason, by, node: None, provider: None, left: None }
        };
        let cut = said.map_or_else(unsaid, |cut| Cut { scope, ..cut });
        // A budget's is no word of somebody's that could be taken back: there has to be more.
        Ok(Some(cut).filter(|cut| !launch.uncut || cut.by == By::Budget.as_str()))
    }
}

/// Gets what of a cut stands when nothing on `path` is spent: a budget's is lifted where that budget has more now than it had when
/// it cut (it was raised, begun anew, or binds no more).
///
/// # Errors
/// `budget` where it has no more: a request that did not fit then would not fit now.
pub(super) async fn lifted(
    cut: Option<Cut>,
    ledger: &SqliteLedger,
    path: &[Node],
    provider: &str,
) -> Answer<Result<Option<Cut>>> {
    let Some(cut) = cut else { return Ok(Ok(None)) };
    if cut.by != By::Budget.as_str() {
        return Ok(Ok(Some(cut)));
    }
    let mut accounts = Vec::new();
    for node in path {
        let all = ledger.accounts(Some(node)).await?;
        accounts.extend(all.into_iter().filter(|account| account.provider == provider || account.provider == "*"));
    }
    Ok(match budget::binding(&accounts).iter().any(|standing| still_cuts(&cut, standing)) {
        true => Err(Error::new(Kind::Budget, cut.reason).at(cut.node.unwrap_or_default()).hint(GIVE_MORE)),
        false => Ok(None),
    })
}

/// Tells whether this is the budget that cut, with no more than it had then. A cut by an older bb says the node only.
fn still_cuts(cut: &Cut, standing: &budget::Standing) -> bool {
    cut.node.as_ref() == Some(&standing.node)
        && cut.provider.as_ref().is_none_or(|provider| *provider == standing.provider)
        && standing.limit.saturating_sub(standing.used) <= cut.left.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_budgets_of_one_node_the_one_that_cut_decides() {
        let standing = |provider: &str, limit: u64| budget::Standing {
            node: "global".into(),
            provider: provider.into(),
            used: 90,
            limit,
            ..budget::Standing::default()
        };
        let cut = |provider: Option<&str>| Cut {
            scope: CutScope::All,
            reason: "spent".into(),
            by: "budget".into(),
            node: Some("global".into()),
            provider: provider.map(Into::into),
            left: Some(10),
        };
        assert!(still_cuts(&cut(Some("*")), &standing("*", 100)));
        assert!(!still_cuts(&cut(Some("*")), &standing("*", 101)), "it has more");
        assert!(!still_cuts(&cut(Some("*")), &standing("claude", 100)), "another one of the node's");
        assert!(still_cuts(&cut(None), &standing("claude", 100)), "nobody said which");
    }
}

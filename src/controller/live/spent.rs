//! What a spent budget does to a bottle, by the policy that binds it.
//!
//! What closes its way out takes effect at once; stopping its processes and ending it follow in tasks of their own, which nobody
//! who spends waits for. The operator who has lowered a limit does ([`Live::has_followed`]).

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Live, lock};
use crate::api::{Bottle, Cut, Ended, State};
use crate::egress;
use crate::enforce::{By, Subject};
use crate::error::{Error, Kind, Result};
use crate::ledger::{Node, Standing};
use crate::types::{CutScope, CutoffPolicy};

/// Longest that the operator waits for a bottle that is to stop, to end or to go on. One that is frozen has its session saved before.
const ENDS: Duration = Duration::from_secs(20);

impl Live {
    /// Waits until what `standing` has decided about it has taken effect: it is cut, it is stopped, or it has ended.
    ///
    /// # Errors
    /// What kept it from being stopped, or that it takes too long to end.
    pub async fn has_followed(self: &Arc<Self>, standing: &Standing) -> Result<()> {
        match self.policy() {
            CutoffPolicy::Cutoff => Ok(()),
            // The same decision again: whichever comes first stops it, and this waits for that.
            CutoffPolicy::Pause if matches!(self.view().state, State::Running | State::Paused) => {
                let sentence = egress::spent::sentence(standing);
                within(Live::pause(self, &sentence, By::Budget, Some(standing))).await
            }
            CutoffPolicy::Pause => Ok(()),
            CutoffPolicy::Freeze | CutoffPolicy::Kill => {
                let ends = async {
                    self.ended().await;
                    Ok(())
                };
                within(ends).await
            }
        }
    }
}

/// Waits for what is done to a bottle, for as long as an operator waits.
pub async fn within(does: impl Future<Output = Result<()>>) -> Result<()> {
    let late = |_| Error::new(Kind::Timeout, "it is not done yet").hint("`bb ps` shows when it is");
    tokio::time::timeout(ENDS, does).await.map_err(late)?
}

/// Tells whether something was decided about a bottle, by a policy, between two looks at it.
pub fn differs(policy: CutoffPolicy, before: &Bottle, after: &Bottle) -> bool {
    before.cut != after.cut || (policy != CutoffPolicy::Cutoff && before.state != after.state)
}

impl Subject for Live {
    fn id(&self) -> &str {
        &self.launch.id
    }

    fn path(&self) -> &[Node] {
        &self.path
    }

    fn policy(&self) -> CutoffPolicy {
        self.binds().policy
    }

    fn cut_scope(&self) -> CutScope {
        self.binds().cut_scope
    }

    fn cut(self: &Arc<Self>, scope: CutScope, standing: &Standing) -> bool {
        let reason = egress::spent::sentence(standing);
        let (by, node) = (By::Budget.as_str().to_owned(), Some(standing.node.clone()));
        let left = Some(standing.limit.saturating_sub(standing.used));
        let cut = Cut { scope, reason, by, node, provider: Some(standing.provider.clone()), left };
        if !self.enter_cut(&cut) {
            return false;
        }
        if let Some(handle) = &*lock(&self.egress) {
            handle.cut_by_budget(scope, standing);
        }
        let live = Arc::clone(self);
        tokio::spawn(async move { live.record_cut(&cut).await });
        true
    }

    fn pause(self: &Arc<Self>, standing: &Standing) {
        if self.view().state != State::Running {
            return;
        }
        let (live, reason, standing) = (Arc::clone(self), egress::spent::sentence(standing), standing.clone());
        tokio::spawn(async move {
            if let Err(error) = Live::pause(&live, &reason, By::Budget, Some(&standing)).await {
                tracing::error!(bottle = %live.slug, "pausing it: {error}");
            }
        });
    }

    fn freeze(self: &Arc<Self>, standing: &Standing) -> bool {
        // First what a cut does: the agent's own last word still finds its way, and nothing else leaves.
        let acted = Subject::cut(self, CutScope::All, standing);
        // One without a session is stopped all the same: what its policy says is that it does not go on.
        let (live, reason, node) = (Arc::clone(self), egress::spent::sentence(standing), standing.node.clone());
        tokio::spawn(async move { live.freeze_now(&reason, By::Budget, Some(node)).await });
        acted
    }

    fn kill(self: &Arc<Self>, standing: &Standing) -> bool {
        self.end(Ended::Budget, &egress::spent::sentence(standing), By::Budget, Some(standing.node.clone()))
    }

    async fn crossed(self: &Arc<Self>, standing: &Standing, acted: bool) {
        // Less used than at the last time: another window has begun, or what was used was reset.
        let is_news = {
            let account = (standing.node.clone(), standing.provider.clone());
            let last = lock(&self.crossed).insert(account, (standing.limit, standing.used));
            last.is_none_or(|(limit, used)| limit != standing.limit || standing.used < used)
        };
        if acted || is_news {
            let data = json!({
                "node": standing.node, "provider": standing.provider, "used": standing.used, "limit": standing.limit,
            });
            self.tell("crossed", data, true).await;
        }
    }
}
